//! The owner's state machine, without IO: inputs in, one [`Turn`] of effects out.
//!
//! [`Core::handle`] takes one input; [`Core::turn`] then plans every pipeline that it touched and
//! says what to record, and what to do once that is recorded. Between any two effects the process
//! may die: a new core made from what was recorded, fed with what the drivers see, goes on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::{DriverError, Scope, Started};
use crate::model::{
    DaemonStatus, DriverKind, EventKind, InstanceId, Limit, Phase, PipelineKey, PipelineRecord,
    PipelineStatus, Record, RegistrationRecord, ReplicaKey, STATUS_SCHEMA, ServiceId, Sighting,
    Snapshot, StopCause, Timestamp,
};

use crate::probe::Report;

use super::handle::Command;
use super::ledger::{Answer, Changes, Durability, Effect, Ending, Ledger};
use super::look::Looking;
use super::pipeline::Pipeline;
use super::probing::ProbingChange;
use super::registry::{Beat, Directory, Note, Registry};
use super::snapshot::Unenforced;

/// How often every driver is listed in full, which heals whatever an event lost.
const RELIST: Duration = Duration::from_secs(10);
/// The owner never plans for time alone more often than this.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// How soon recording is tried again after it failed.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    /// A look at a driver ended.
    Looked {
        /// At which.
        driver: DriverKind,
        /// What was seen.
        result: Result<Vec<Sighting>, DriverError>,
    },
    /// A driver says that these instances are worth a look.
    Hinted {
        /// Which driver.
        driver: DriverKind,
        /// Which instances.
        instances: BTreeSet<InstanceId>,
    },
    /// What the starts of these instances are at.
    Said(BTreeMap<InstanceId, String>),
    /// A start was answered.
    StartAnswered {
        /// Of which instance.
        instance: InstanceId,
        /// What came of it.
        result: Result<Started, DriverError>,
    },
    /// A stop was answered.
    StopAnswered {
        /// Of which instance.
        instance: InstanceId,
        /// What came of it.
        result: Result<(), DriverError>,
    },
    /// A commit was answered. Those of one durability are answered in order; a crash-safe one may
    /// overtake a power-safe one, which waits for the disk.
    Recorded {
        /// Which commit.
        number: u64,
        /// What came of it.
        result: Result<(), String>,
    },
    /// A command arrived.
    Command(Command),
    /// The host's clock was stepped and the daemon's follows: deadlines move along.
    ClockStepped {
        /// By how many milliseconds.
        millis: i64,
    },
    /// A probe was asked.
    Probed(Report),
    /// Components sent heartbeats.
    Beats(BTreeMap<ServiceId, Beat>),
    /// Time has passed.
    Tick,
}

/// What is to be done after a batch of inputs.
#[derive(Debug, Default)]
pub struct Turn {
    /// Record this; answer with [`Input::Recorded`].
    pub commit: Option<Commit>,
    /// Do these now: what announces them is recorded.
    pub effects: Vec<Effect>,
    /// Look at these drivers; answer each with [`Input::Looked`].
    pub looks: Vec<(DriverKind, Scope)>,
    /// Instances whose probing changed.
    pub probing: Vec<ProbingChange>,
    /// What readers see now, when that changed.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Who is registered now, when that changed.
    pub directory: Option<Arc<Directory>>,
    /// Whether it is decided that the owner ends.
    pub ending: Ending,
    /// When to hand in a [`Input::Tick`] at the latest.
    pub wake_at: Option<Timestamp>,
}

/// What the owner starts from.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Pipelines as recorded.
    pub pipelines: BTreeMap<PipelineKey, PipelineRecord>,
    /// Records as recorded.
    pub records: BTreeMap<PipelineKey, BTreeMap<ReplicaKey, Record>>,
    /// Registrations as recorded.
    pub registrations: BTreeMap<ServiceId, RegistrationRecord>,
    /// What runners told, as recorded.
    pub notes: Vec<Note>,
    /// The number of the next event.
    pub next_seq: u64,
}

/// What is to be recorded as one.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Grows by one with each.
    pub number: u64,
    /// What changed.
    pub changes: Changes,
    /// How well it has to be kept before it is answered.
    pub durability: Durability,
}

/// Why nothing can be recorded.
struct NotDurable {
    why: String,
    /// When it is tried again.
    again_at: Timestamp,
    /// The newest commit when that was found out: what older ones answer proves nothing.
    newest: u64,
}

/// A commit that has not been answered.
struct Pending {
    number: u64,
    changes: Changes,
    effects: Vec<Effect>,
}

impl Pending {
    /// Whether it was only asked whether anything could be recorded.
    fn is_empty(&self) -> bool {
        self.changes == Changes::default() && self.effects.is_empty()
    }
}

/// The owner's state.
pub struct Core {
    pub(super) pipelines: BTreeMap<PipelineKey, Pipeline>,
    pub(super) drivers: BTreeMap<DriverKind, Looking>,
    pub(super) ledger: Ledger,
    pub(super) registry: Registry,
    daemon: DaemonStatus,
    /// What each driver cannot enforce.
    unenforced: Unenforced,
    frozen: Option<String>,
    pub(super) ending: Ending,
    not_durable: Option<NotDurable>,
    pending: VecDeque<Pending>,
    /// The number of the newest commit.
    commits: u64,
    ready: Vec<Effect>,
    probing: Vec<ProbingChange>,
    relist_at: Timestamp,
    /// Whether to ask for a commit of nothing, if there is nothing else: it tells whether something
    /// could be recorded, before anything needs to be.
    ask_disk: bool,
    changed: bool,
}

impl Core {
    /// The state as it was recorded, before any driver was looked at.
    pub fn new(
        kept: Kept,
        drivers: impl IntoIterator<Item = DriverKind>,
        daemon: DaemonStatus,
        now: Timestamp,
    ) -> Self {
        let mut records = kept.records;
        let mut pipelines: BTreeMap<_, _> = kept
            .pipelines
            .into_iter()
            .map(|(key, record)| {
                let records = records.remove(&key).unwrap_or_default();
                (key, Pipeline::new(record, records))
            })
            .collect();
        // Records without their pipeline: whatever still runs of them has to go.
        for (key, orphans) in records {
            let mut ghost = Pipeline::ghost(&key);
            ghost.records = orphans;
            pipelines.insert(key, ghost);
        }
        let mut core = Self {
            pipelines,
            drivers: drivers
                .into_iter()
                .map(|kind| (kind, Looking::default()))
                .collect(),
            ledger: Ledger::new(kept.next_seq),
            registry: Registry::new(kept.registrations, kept.notes, now),
            daemon,
            unenforced: Unenforced::new(),
            frozen: None,
            ending: Ending::No,
            not_durable: None,
            pending: VecDeque::new(),
            commits: 0,
            ready: Vec::new(),
            probing: Vec::new(),
            relist_at: now,
            ask_disk: false,
            changed: true,
        };
        core.ledger.now = now;
        core.clamp_to(now);
        core.show_registrations();
        // Before anything was looked at, readers see that it is there and that nothing is known.
        core.restate_all();
        core
    }

    /// Says which limits the components of a driver ask for in vain.
    pub fn cannot_enforce(&mut self, driver: DriverKind, limits: BTreeSet<Limit>) {
        self.unenforced.insert(driver, limits);
        self.restate_all();
    }

    fn restate_all(&mut self) {
        for pipeline in self.pipelines.values_mut() {
            pipeline.state(self.ledger.now, &self.unenforced);
        }
    }

    /// Says that the store was damaged and set aside; all that is known is recorded anew.
    pub fn rebuilt(&mut self, set_aside: &Path, why: &str) {
        let kept = set_aside.display();
        self.emit_daemon(
            EventKind::Rebuilt,
            &format!(
                "the state was damaged ({why}) and is rebuilt from what runs; the old one is {kept}"
            ),
        );
        self.record_anew();
    }

    /// Records all that is known with the next turn.
    pub fn record_anew(&mut self) {
        self.touch_all();
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        self.ledger.now = now;
        match input {
            Input::Looked { driver, result } => self.looked(driver, result),
            Input::Hinted { driver, instances } => {
                if let Some(looking) = self.drivers.get_mut(&driver) {
                    looking.want(Scope::Instances(instances));
                }
            }
            Input::Said(said) => self.said(said),
            Input::StartAnswered { instance, result } => self.start_answered(&instance, result),
            Input::StopAnswered { instance, result } => self.stop_answered(&instance, result),
            Input::Recorded { number, result } => self.recorded(number, result),
            Input::Command(command) => self.command(command),
            Input::ClockStepped { millis } => self.clock_stepped(millis),
            Input::Probed(report) => self.probed(&report),
            Input::Beats(beats) => self.beats(beats),
            Input::Tick => {}
        }
    }

    /// Plans what was touched and says what to do.
    pub fn turn(&mut self, now: Timestamp) -> Turn {
        self.ledger.now = now;
        if now >= self.relist_at {
            self.relist_at = now.after(RELIST);
            self.ask_disk = true;
            for looking in self.drivers.values_mut() {
                looking.want(Scope::All);
            }
        }
        self.sweep();
        let keys: Vec<PipelineKey> = self.pipelines.keys().cloned().collect();
        for key in &keys {
            self.advance(key);
        }
        let mut turn = Turn {
            effects: std::mem::take(&mut self.ready),
            ..Turn::default()
        };
        turn.commit = self.open_commit(&mut turn.effects);
        self.decide_end();
        turn.ending = self.ending;
        for (kind, looking) in &mut self.drivers {
            if let Some(scope) = looking.begin(*kind, &self.pipelines) {
                turn.looks.push((*kind, scope));
            }
        }
        turn.snapshot = std::mem::take(&mut self.changed).then(|| Arc::new(self.snapshot()));
        turn.directory = self.registry.published();
        turn.probing = std::mem::take(&mut self.probing);
        turn.wake_at = Some(self.wake_at());
        turn
    }

    /// Whether a `down` that was to end the owner has done its work. Looked at after all inputs were
    /// taken in, so that nothing can come between the emptiness and the decision.
    fn decide_end(&mut self) {
        match self.ending {
            Ending::No | Ending::Decided => return,
            Ending::WhenEmpty => {}
        }
        let is_wanted = |pipeline: &Pipeline| !pipeline.kept.deleting;
        let mut owed = self.pending.iter().flat_map(|pending| &pending.effects);
        if self.pipelines.values().any(is_wanted) {
            self.ending = Ending::No;
        } else if self.pipelines.is_empty()
            // Whoever asked is answered first.
            && !owed.any(|effect| matches!(effect, Effect::Answer(_)))
        {
            self.ending = Ending::Decided;
        }
    }

    /// Plans one pipeline, if something about it changed or its time has come, and takes the steps.
    fn advance(&mut self, key: &PipelineKey) {
        let Some(mut pipeline) = self.pipelines.remove(key) else {
            return;
        };
        let due = pipeline
            .plan
            .wake_at
            .is_some_and(|at| at <= self.ledger.now);
        if pipeline.dirty || due {
            pipeline.dirty = false;
            self.settle(&mut pipeline);
            self.decide(&mut pipeline);
            self.changed = true;
            self.probing.extend(pipeline.probing_changes());
            if pipeline.is_gone() {
                self.ledger.touch_pipeline(key);
                return;
            }
            pipeline.state(self.ledger.now, &self.unenforced);
        } else if pipeline.restate {
            pipeline.state(self.ledger.now, &self.unenforced);
            self.changed = true;
        }
        self.pipelines.insert(key.clone(), pipeline);
    }

    /// Turns what was touched into a commit. While nothing can be recorded, touches pile up and one
    /// commit a second tries to get rid of them.
    fn open_commit(&mut self, now_ready: &mut Vec<Effect>) -> Option<Commit> {
        if let Some(NotDurable { again_at, .. }) = &mut self.not_durable {
            if self.ledger.now < *again_at || !self.pending.is_empty() {
                let effects = std::mem::take(&mut self.ledger.effects);
                now_ready.extend(
                    effects
                        .into_iter()
                        .filter_map(|effect| self.without_record(effect)),
                );
                return None;
            }
            *again_at = self.ledger.now.after(RECORD_AGAIN);
        } else if self.ledger.is_empty() && !std::mem::take(&mut self.ask_disk) {
            return None;
        }
        self.ask_disk = false;
        let changes = Changes {
            records: std::mem::take(&mut self.ledger.records)
                .into_iter()
                .map(|(key, replica)| {
                    let record = self
                        .pipelines
                        .get(&key)
                        .and_then(|p| p.records.get(&replica));
                    ((key, replica), record.cloned())
                })
                .collect(),
            pipelines: std::mem::take(&mut self.ledger.pipelines)
                .into_iter()
                .map(|key| {
                    let kept = self
                        .pipelines
                        .get(&key)
                        .map(|pipeline| pipeline.kept.clone());
                    (key, kept)
                })
                .collect(),
            registrations: std::mem::take(&mut self.ledger.registrations)
                .into_iter()
                .map(|id| {
                    let kept = self.registry.take_record(&id);
                    (id, kept)
                })
                .collect(),
            notes: std::mem::take(&mut self.ledger.notes)
                .into_iter()
                .map(|key| {
                    let kept = self.registry.notes.get(&key);
                    (key, kept)
                })
                .collect(),
            events: std::mem::take(&mut self.ledger.events),
        };
        let durability = std::mem::replace(&mut self.ledger.durability, Durability::CrashSafe);
        let effects = std::mem::take(&mut self.ledger.effects);
        self.commits += 1;
        let number = self.commits;
        self.pending.push_back(Pending {
            number,
            changes: changes.clone(),
            effects,
        });
        Some(Commit {
            number,
            changes,
            durability,
        })
    }

    fn recorded(&mut self, number: u64, result: Result<(), String>) {
        let found = self.pending.iter().position(|one| one.number == number);
        let Some(pending) = found.and_then(|found| self.pending.remove(found)) else {
            return;
        };
        match result {
            Ok(()) => {
                self.changed |= !pending.is_empty();
                let healed = self.not_durable.take_if(|trouble| number > trouble.newest);
                if healed.is_some() {
                    self.changed = true;
                    self.daemon.durable = true;
                    self.daemon.durable_why = None;
                    self.touch_all();
                    self.emit_daemon(EventKind::Durable, "the state can be recorded again");
                }
                self.ready.extend(pending.effects);
            }
            Err(why) => {
                self.changed = true;
                if self.not_durable.is_none() {
                    self.emit_daemon(
                        EventKind::NotDurable,
                        &format!("the state cannot be recorded: {why}"),
                    );
                    self.touch_all();
                }
                self.not_durable = Some(NotDurable {
                    why: why.clone(),
                    again_at: self.ledger.now.after(RECORD_AGAIN),
                    newest: self.commits,
                });
                self.daemon.durable = false;
                self.daemon.durable_why = Some(why);
                // What the failed commit held is owed still.
                self.ledger
                    .records
                    .extend(pending.changes.records.into_keys());
                self.ledger
                    .pipelines
                    .extend(pending.changes.pipelines.into_keys());
                self.ledger
                    .registrations
                    .extend(pending.changes.registrations.into_keys());
                self.ledger.notes.extend(pending.changes.notes.into_keys());
                let mut events = pending.changes.events;
                events.append(&mut self.ledger.events);
                self.ledger.events = events;
                for effect in pending.effects {
                    let allowed = self.without_record(effect);
                    self.ready.extend(allowed);
                }
            }
        }
    }

    /// Everything is recorded anew: after a failed flush nothing on the disk is to be trusted, and
    /// after a step of the clock its times are another clock's.
    pub(super) fn touch_all(&mut self) {
        for (key, pipeline) in &mut self.pipelines {
            pipeline.dirty = true;
            self.ledger.pipelines.insert(key.clone());
            let replicas = pipeline
                .records
                .keys()
                .map(|replica| (key.clone(), replica.clone()));
            self.ledger.records.extend(replicas);
        }
        self.ledger
            .registrations
            .extend(self.registry.ids().cloned());
        self.ledger.notes.extend(self.registry.note_keys());
    }

    /// What becomes of an effect that could not be announced: new side effects are taken back, ends
    /// that a person asked for go ahead.
    fn without_record(&mut self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Start(launch) => {
                let instance = launch.instance;
                if let Some(pipeline) = self.pipelines.get_mut(&instance.pipeline) {
                    pipeline.busy.remove(&instance.replica);
                    pipeline.dirty = true;
                    if let Some(record) = pipeline.records.get_mut(&instance.replica)
                        && record.instance.as_ref().is_some_and(|i| i.id == instance)
                    {
                        record.instance = None;
                    }
                }
                None
            }
            Effect::Stop {
                instance,
                driver,
                how,
                before,
            } => {
                let pipeline = self.pipelines.get_mut(&instance.pipeline)?;
                let current = pipeline
                    .records
                    .get_mut(&instance.replica)
                    .and_then(|record| record.instance.as_mut())
                    .filter(|current| current.id == instance);
                if let Some(current) = current
                    && let Phase::Stopping { cause, .. } = &current.phase
                    && is_followed_by_a_start(cause)
                {
                    current.phase = before;
                    pipeline.busy.remove(&instance.replica);
                    pipeline.dirty = true;
                    return None;
                }
                Some(Effect::Stop {
                    instance,
                    driver,
                    how,
                    before,
                })
            }
            Effect::GiveUp { instance } => Some(Effect::GiveUp { instance }),
            Effect::Forget { .. } => None,
            Effect::Answer(answer) => {
                self.refuse(answer);
                None
            }
        }
    }

    fn refuse(&mut self, answer: Answer) {
        let why = self
            .not_durable
            .as_ref()
            .map_or_else(String::new, |trouble| trouble.why.clone());
        super::commands::refuse(self, answer, why);
    }

    /// Why nothing new may begin, if so.
    pub(super) fn frozen(&self) -> Option<&str> {
        self.frozen.as_deref().or_else(|| self.not_durable())
    }

    /// Lets nothing new begin from now on: for looking without a daemon.
    pub fn freeze(&mut self, why: &str) {
        self.frozen = Some(why.to_owned());
    }

    pub(super) fn not_durable(&self) -> Option<&str> {
        self.not_durable
            .as_ref()
            .map(|trouble| trouble.why.as_str())
    }

    /// Moves the owner's own times along with the clock.
    pub(super) fn shift_own(&mut self, millis: i64) {
        self.daemon.started_at = self.daemon.started_at.shifted(millis);
        self.relist_at = self.relist_at.shifted(millis);
        if let Some(NotDurable { again_at, .. }) = &mut self.not_durable {
            *again_at = again_at.shifted(millis);
        }
    }

    pub(super) fn control_plane_moved(&mut self, address: String) {
        self.daemon.control_plane = Some(address);
        self.changed = true;
    }

    pub(super) fn emit_daemon(&mut self, kind: EventKind, message: &str) {
        let at = self.ledger.now;
        self.ledger.emit(crate::model::Event {
            seq: 0,
            at,
            namespace: None,
            pipeline: None,
            component: None,
            replica: None,
            instance: None,
            kind,
            reason: message.to_owned(),
            message: message.to_owned(),
        });
    }

    fn wake_at(&self) -> Timestamp {
        let plans = self
            .pipelines
            .values()
            .filter_map(|pipeline| pipeline.plan.wake_at);
        let record_again = self.not_durable.as_ref().map(|trouble| trouble.again_at);
        // A commit under way answers by itself.
        let record_again = record_again.filter(|_| self.pending.is_empty());
        let due = plans
            .chain(record_again)
            .chain(self.registry.sweep_at())
            .fold(self.relist_at, Timestamp::min);
        // A deadline that a plan could not act on must not turn into a busy loop.
        due.max(self.ledger.now.after(MIN_PAUSE))
    }

    /// What readers see now.
    pub fn snapshot(&self) -> Snapshot {
        let pipelines: Vec<Arc<PipelineStatus>> = self
            .pipelines
            .values()
            .filter_map(|pipeline| pipeline.status.clone())
            .collect();
        Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: Some(self.daemon.clone()),
            pipelines,
        }
    }

    /// When the next tick is due, for the simulation.
    #[cfg(test)]
    pub(super) fn turn_wake(&self) -> Timestamp {
        self.wake_at()
    }

    /// How many driver calls are under way.
    pub(super) fn unanswered(&self) -> usize {
        self.pipelines.values().map(|one| one.busy.len()).sum()
    }

    /// Whether no pipeline is left.
    pub fn is_empty(&self) -> bool {
        self.pipelines.is_empty()
    }
}

/// Whether the stop is the first half of a replacement, which must not begin unless the second
/// half can be recorded.
fn is_followed_by_a_start(cause: &StopCause) -> bool {
    match cause {
        StopCause::SpecChanged
        | StopCause::RestartRequested
        | StopCause::LivenessFailed(_)
        | StopCause::StartupFailed(_) => true,
        StopCause::Removed
        | StopCause::ScaledDown
        | StopCause::StopRequested
        | StopCause::Stray => false,
    }
}
