//! The owner's state machine, without IO: inputs in, one [`Turn`] of effects out.
//!
//! [`Core::handle`] takes one input; [`Core::turn`] then plans every pipeline that it touched and
//! says what to record, and what to do once that is recorded. Between any two effects the process
//! may die: a new core made from what was recorded, fed with what the drivers see, goes on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::conditions;
use crate::driver::{DriverError, Look, Scope, Started, Stopped};
use crate::model::{
    Boot, DaemonStatus, DriverKind, EventKind, InstanceId, Limit, Partition, PipelineKey,
    PipelineRecord, PipelineStatus, Record, RegistrationRecord, ReplicaKey, STATUS_SCHEMA,
    ServiceId, Snapshot, StatusCondition, Timestamp,
};

use crate::planner::progress::Shown;
use crate::probe::Report;

pub use super::commit::Commit;
use super::commit::{LastRecord, NotDurable, Pending};
use super::handle::{Asker, Command};
use super::handover::Handovers;
use super::ledger::{Effect, Ending, Ledger};
use super::look::Looking;
use super::pipeline::Pipeline;
use super::probing::ProbingChange;
use super::progress::WatchingChange;
use super::registry::{Beat, Directory, Note, Registry};
use super::snapshot::Unenforced;

/// How often every driver is listed in full, which heals whatever an event lost.
const RELIST: Duration = Duration::from_secs(10);
/// The owner never plans for time alone more often than this.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    /// A look at a driver ended.
    Looked {
        /// At which.
        driver: DriverKind,
        /// What was seen.
        result: Result<Look, DriverError>,
    },
    /// A driver says which limits its components ask for in vain.
    CannotEnforce {
        /// Which driver.
        driver: DriverKind,
        /// Which limits.
        limits: BTreeSet<Limit>,
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
        /// What is left of it.
        result: Result<Stopped, DriverError>,
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
    /// An instance shows something of its work.
    Shown(InstanceId, Shown),
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
    /// The partitions that a look at all of a driver is a look at too.
    pub attend: BTreeMap<DriverKind, BTreeSet<Partition>>,
    /// Instances whose probing changed.
    pub probing: Vec<ProbingChange>,
    /// Instances whose work is looked at where they run, or is not any more.
    pub watching: Vec<WatchingChange>,
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

/// The owner's state.
pub struct Core {
    pub(super) pipelines: BTreeMap<PipelineKey, Pipeline>,
    pub(super) drivers: BTreeMap<DriverKind, Looking>,
    pub(super) ledger: Ledger,
    pub(super) registry: Registry,
    pub(super) handovers: Handovers,
    pub(super) daemon: DaemonStatus,
    /// What each driver cannot enforce.
    unenforced: Unenforced,
    frozen: Option<String>,
    pub(super) ending: Ending,
    /// The try to record that nothing is left, before a `down` ends the owner of a store that failed.
    pub(super) last_record: Option<LastRecord>,
    pub(super) not_durable: Option<NotDurable>,
    pub(super) pending: VecDeque<Pending>,
    /// The number of the newest commit.
    pub(super) commits: u64,
    pub(super) ready: Vec<Effect>,
    probing: Vec<ProbingChange>,
    watching: Vec<WatchingChange>,
    relist_at: Timestamp,
    /// Whether to ask for a commit of nothing, if there is nothing else: it tells whether something
    /// could be recorded, before anything needs to be.
    pub(super) ask_disk: bool,
    pub(super) changed: bool,
    /// What other parts of the daemon found wrong.
    pub(super) reported: BTreeMap<Asker, Vec<StatusCondition>>,
    /// When another image policy came into force.
    pub(super) image_policy_since: Option<Timestamp>,
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
            handovers: Handovers::default(),
            daemon,
            unenforced: Unenforced::new(),
            frozen: None,
            ending: Ending::No,
            last_record: None,
            not_durable: None,
            pending: VecDeque::new(),
            commits: 0,
            ready: Vec::new(),
            probing: Vec::new(),
            watching: Vec::new(),
            relist_at: now,
            ask_disk: false,
            changed: true,
            reported: BTreeMap::new(),
            image_policy_since: None,
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
        if self.unenforced.get(&driver) != Some(&limits) {
            self.unenforced.insert(driver, limits);
            self.restate_all();
        }
    }

    /// Says which boot of the host this is, to a driver whose instances outlive none.
    pub fn booted(&mut self, driver: DriverKind, boot: Boot) {
        if let Some(looking) = self.drivers.get_mut(&driver) {
            looking.boot = Some(boot);
        }
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
            Input::CannotEnforce { driver, limits } => self.cannot_enforce(driver, limits),
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
            Input::Shown(instance, shown) => self.shown(&instance, shown),
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
        self.find_leaving();
        let mut keys: Vec<PipelineKey> = self.pipelines.keys().cloned().collect();
        while !keys.is_empty() {
            for key in &keys {
                self.advance(key);
            }
            // One that was planned before somebody began to wait for what it has.
            let awaited = self.pipelines.iter().filter(|(_, one)| one.dirty);
            keys = awaited.map(|(key, _)| key.clone()).collect();
        }
        let mut turn = Turn {
            effects: std::mem::take(&mut self.ready),
            ..Turn::default()
        };
        turn.commit = self.open_commit(&mut turn.effects);
        self.decide_end();
        turn.ending = self.ending;
        for (kind, looking) in &mut self.drivers {
            if let Some((scope, attend)) = looking.begin(*kind, &self.pipelines) {
                turn.looks.push((*kind, scope));
                turn.attend.insert(*kind, attend);
            }
        }
        turn.snapshot = std::mem::take(&mut self.changed).then(|| Arc::new(self.snapshot()));
        turn.directory = self.registry.published();
        turn.probing = std::mem::take(&mut self.probing);
        turn.watching = std::mem::take(&mut self.watching);
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
            self.last_record = None;
        } else if self.pipelines.is_empty()
            // Whoever asked is answered first.
            && !owed.any(|effect| matches!(effect, Effect::Answer(_)))
            && self.finish_recording()
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
        let now = self.ledger.now;
        let is_unsettled = pipeline.dirty || due;
        let is_retold =
            pipeline.restate || pipeline.memory.is_due(now) || pipeline.working.is_due(now);
        if is_unsettled {
            pipeline.dirty = false;
            self.settle(&mut pipeline);
        }
        if is_unsettled || is_retold {
            self.judge_work(&mut pipeline);
            self.watching.extend(pipeline.working.changes());
        }
        if is_unsettled || pipeline.dirty {
            self.decide(&mut pipeline);
            self.changed = true;
            self.probing.extend(pipeline.probing_changes());
            self.note_awaited(key, &pipeline.plan);
            if pipeline.is_gone() {
                self.ledger.touch_pipeline(key);
                return;
            }
            pipeline.state(now, &self.unenforced);
        } else if is_retold {
            pipeline.state(now, &self.unenforced);
            self.changed = true;
        }
        self.pipelines.insert(key.clone(), pipeline);
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
        if let Some(NotDurable {
            since, again_at, ..
        }) = &mut self.not_durable
        {
            *since = since.shifted(millis);
            *again_at = again_at.shifted(millis);
        }
        self.shift_blindness(millis);
        self.image_policy_since = self.image_policy_since.map(|at| at.shifted(millis));
    }

    pub(super) fn control_plane_moved(&mut self, address: String) {
        self.daemon.control_plane = Some(address);
        self.changed = true;
    }

    /// Says that the daemon looks after all of this from now on, and to what end.
    pub fn opened(&mut self, why: &str) {
        let DaemonStatus { version, pid, .. } = &self.daemon;
        let message = format!("flowctl {version} has started, process {pid}");
        self.tell_of_daemon(EventKind::DaemonStarted, why.to_owned(), message);
    }

    pub(super) fn emit_daemon(&mut self, kind: EventKind, message: &str) {
        self.tell_of_daemon(kind, message.to_owned(), message.to_owned());
    }

    pub(super) fn tell_of_daemon(&mut self, kind: EventKind, reason: String, message: String) {
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
            reason,
            message,
            ended_by: None,
        });
    }

    fn wake_at(&self) -> Timestamp {
        let plans = self.pipelines.values().flat_map(|pipeline| {
            let wakes = [
                pipeline.plan.wake_at,
                pipeline.memory.wake_at(),
                pipeline.working.wake_at(),
            ];
            wakes.into_iter().flatten()
        });
        let record_again = self.not_durable.as_ref().map(|trouble| trouble.again_at);
        // A commit under way answers by itself.
        let record_again = record_again.filter(|_| self.pending.is_empty());
        let last_record = self.last_record.as_ref().map(|last| last.until);
        let due = plans
            .chain(record_again)
            .chain(last_record)
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
        let not_durable = self.not_durable.as_ref();
        let not_durable = not_durable.map(|one| conditions::not_durable(one.since, &one.why));
        let mut conditions: Vec<StatusCondition> = not_durable.into_iter().collect();
        conditions.extend(self.blind_conditions());
        conditions.extend(self.reported.values().flatten().cloned());
        Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: Some(self.daemon.clone()),
            conditions,
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
