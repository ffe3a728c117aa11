//! What the drivers see, taken into the records.
//!
//! Looks and answers race. A look that began before an answer arrived may describe the moment
//! before it, so it is not believed about the instances that were touched meanwhile; a hint or the
//! next relist looks again. Absence is believed only from a look that succeeded, and only of
//! instances that were not busy when it began.

use std::collections::{BTreeMap, BTreeSet};

use crate::conditions;
use crate::driver::{DriverError, Look, Scope, Stopped};
use crate::model::{
    Boot, Charge, DriverKind, EarlierEnd, EndCause, Ended, EngineHealth, EventKind, Exit, Handle,
    Hidden, InFlight, Instance, InstanceId, Life, Partition, Pending, Phase, PipelineKey,
    PipelineStatus, ReplicaKey, Sighting, StatusCondition, Timestamp,
};
use crate::planner::{Blind, blame, restart};

use super::core::Core;
use super::ledger::{Effect, Ledger};
use super::pipeline::{Pipeline, unknown_exit};
use super::stepped::not_after;

/// What is known about one driver's answers.
#[derive(Debug, Default)]
pub(super) struct Looking {
    /// The look that has not been answered.
    flight: Option<Flight>,
    /// What to look at next.
    next: Option<Scope>,
    /// Whether nothing of ours needs it yet: then it is not looked at, and need not be there.
    spare: bool,
    /// Whether it was ever listed in full: nothing is decided before.
    listed: bool,
    /// Why it does not answer, and since when.
    blind: Option<Blindness>,
    /// What it knows nothing of although it answers.
    hidden: BTreeMap<Hidden, Blindness>,
    /// The partitions that the latest full look was a look at.
    attended: BTreeSet<Partition>,
    /// Whether what it has of pipelines that are not known is left alone.
    strangers_stay: bool,
    /// The present boot of the host, where its instances outlive none.
    pub(super) boot: Option<Boot>,
}

/// A driver that does not answer.
#[derive(Debug)]
struct Blindness {
    why: String,
    since: Timestamp,
}

#[derive(Debug)]
struct Flight {
    scope: Scope,
    /// The partitions that it is a look at.
    attended: BTreeSet<Partition>,
    /// Instances whose absence is to be believed.
    believed: BTreeSet<InstanceId>,
    /// Instances that were answered about since it began.
    touched: BTreeSet<InstanceId>,
}

impl Looking {
    /// Asks for a look, together with those asked for already.
    pub fn want(&mut self, scope: Scope) {
        self.next = Some(match (self.next.take(), scope) {
            (Some(Scope::All), _) | (_, Scope::All) => Scope::All,
            (Some(Scope::Instances(mut some)), Scope::Instances(more)) => {
                some.extend(more);
                Scope::Instances(some)
            }
            (None, scope) => scope,
        });
    }

    /// Says that an answer about `instance` arrived.
    pub fn touched(&mut self, instance: &InstanceId) {
        if let Some(flight) = &mut self.flight {
            flight.touched.insert(instance.clone());
        }
    }

    /// The look to begin now, if one is wanted and none is under way.
    pub fn begin(
        &mut self,
        kind: DriverKind,
        pipelines: &BTreeMap<PipelineKey, Pipeline>,
    ) -> Option<(Scope, BTreeSet<Partition>)> {
        if self.flight.is_some() || self.spare {
            return None;
        }
        let attended = partitions(kind, pipelines);
        if !attended.is_subset(&self.attended) {
            self.want(Scope::All);
        }
        // Until the first full list, nothing less will do; nor does it after a silence, in which
        // anything may have happened.
        let scope = match (self.listed, &self.blind) {
            (false, _) => Scope::All,
            (true, None) => self.next.take()?,
            (true, Some(_)) => self.next.take().map(|_| Scope::All)?,
        };
        self.next = None;
        let believed = pipelines
            .values()
            .flat_map(|pipeline| {
                pipeline.records.iter().filter_map(|(key, record)| {
                    let instance = record.instance.as_ref()?;
                    let asked = match &scope {
                        Scope::All => true,
                        Scope::Instances(some) => some.contains(&instance.id),
                    };
                    let settled = !pipeline.busy.contains_key(key);
                    (asked && settled && instance.driver == kind).then(|| instance.id.clone())
                })
            })
            .collect();
        let flight = Flight {
            scope: scope.clone(),
            attended: attended.clone(),
            believed,
            touched: BTreeSet::new(),
        };
        self.flight = Some(flight);
        Some((scope, attended))
    }

    fn blindness(&self) -> Option<String> {
        match (&self.blind, self.listed) {
            (Some(blind), _) => Some(blind.why.clone()),
            (None, false) => Some("it has not been looked at yet".to_owned()),
            (None, true) => None,
        }
    }
}

/// The partitions of `kind` that components name, or that hold instances.
fn partitions(
    kind: DriverKind,
    pipelines: &BTreeMap<PipelineKey, Pipeline>,
) -> BTreeSet<Partition> {
    let mut all = BTreeSet::new();
    for pipeline in pipelines.values() {
        let wanted = pipeline.desired.spec.components.values();
        let wanted = wanted.filter(|spec| spec.driver() == kind);
        all.extend(wanted.filter_map(|spec| spec.workload.partition()));
        let there = pipeline.records.values();
        let there = there.filter_map(|record| record.instance.as_ref());
        let there = there.chain(pipeline.strays.values());
        let there = there.filter(|instance| instance.driver == kind);
        all.extend(there.filter_map(|instance| instance.partition.clone()));
    }
    all
}

impl Core {
    /// Leaves `kind` alone until a component needs it: most hosts have no container engine, and
    /// nobody wants to hear of it.
    pub fn spare(&mut self, kind: DriverKind) {
        let used = self.pipelines.values().any(|pipeline| pipeline.uses(kind));
        if let Some(looking) = self.drivers.get_mut(&kind) {
            looking.spare = !used;
        }
    }

    /// Leaves alone whatever `kind` has of pipelines that are not known: a store was lost, and the
    /// driver could not say what they were. Otherwise it would be taken for what a deletion left.
    pub fn leave_strangers(&mut self, kind: DriverKind) {
        if let Some(looking) = self.drivers.get_mut(&kind) {
            looking.strangers_stay = true;
        }
    }

    /// Looks at the drivers that `pipeline` needs, from now on.
    pub(super) fn need_drivers(&mut self, pipeline: &Pipeline) {
        for (kind, looking) in &mut self.drivers {
            looking.spare = looking.spare && !pipeline.uses(*kind);
        }
    }

    /// What nothing is known of now, and why.
    pub(super) fn blind(&self) -> Blind {
        let mut blind = Blind::default();
        for (kind, looking) in &self.drivers {
            if let Some(why) = looking.blindness() {
                blind.drivers.insert(*kind, why);
                continue;
            }
            let hidden = looking.hidden.iter();
            let hidden = hidden.map(|(what, why)| ((*kind, what.clone()), why.why.clone()));
            blind.hidden.extend(hidden);
            for partition in partitions(*kind, &self.pipelines) {
                if !looking.attended.contains(&partition) {
                    let why = "it has not been looked at yet".to_owned();
                    let hidden = Hidden::Partition(partition);
                    blind.hidden.entry((*kind, hidden)).or_insert(why);
                }
            }
        }
        blind
    }

    /// The conditions of drivers that components need and that do not answer.
    pub(super) fn blind_conditions(&self) -> Vec<StatusCondition> {
        let blind = self.drivers.iter().filter_map(|(kind, looking)| {
            let Blindness { why, since } = looking.blind.as_ref()?;
            let is_used = self.pipelines.values().any(|pipeline| pipeline.uses(*kind));
            is_used.then(|| conditions::blind(*kind, *since, why, self.statuses()))
        });
        let mut all: Vec<StatusCondition> = blind.collect();
        for (kind, looking) in &self.drivers {
            for (what, Blindness { why, since }) in &looking.hidden {
                let Hidden::Partition(partition) = what else {
                    // Its own replica says so.
                    continue;
                };
                let of_it = (*kind, partition);
                all.push(conditions::hidden(of_it, *since, why, self.statuses()));
            }
        }
        all
    }

    fn statuses(&self) -> impl Iterator<Item = &PipelineStatus> {
        let pipelines = self.pipelines.values();
        pipelines.filter_map(|pipeline| pipeline.status.as_deref())
    }

    /// Moves along what is remembered of drivers that do not answer.
    pub(super) fn shift_blindness(&mut self, millis: i64) {
        for looking in self.drivers.values_mut() {
            for blind in looking.blind.iter_mut().chain(looking.hidden.values_mut()) {
                blind.since = blind.since.shifted(millis);
            }
        }
    }

    pub(super) fn looked(&mut self, kind: DriverKind, result: Result<Look, DriverError>) {
        let Some(looking) = self.drivers.get_mut(&kind) else {
            return;
        };
        let Some(flight) = looking.flight.take() else {
            return;
        };
        match result {
            Err(error) => {
                let since = looking.blind.as_ref().map(|blind| blind.since);
                looking.blind = Some(Blindness {
                    why: error.to_string(),
                    since: since.unwrap_or(self.ledger.now),
                });
                let was_blind = since.is_some();
                // The relist tries again; until then nothing is believed.
                self.mark_all_dirty();
                if !was_blind {
                    self.emit_daemon(EventKind::Blind, &error.to_string());
                }
            }
            Ok(look) => {
                let was_blind = looking.blind.take().is_some();
                let first = !looking.listed;
                looking.listed |= flight.scope == Scope::All;
                if was_blind {
                    self.emit_daemon(
                        EventKind::Sighted,
                        &format!("the {kind} driver answers again"),
                    );
                }
                if was_blind || first {
                    self.mark_all_dirty();
                }
                if flight.scope == Scope::All
                    && let Some(looking) = self.drivers.get_mut(&kind)
                    && looking.attended != flight.attended
                {
                    looking.attended = flight.attended.clone();
                    self.mark_all_dirty();
                }
                self.note_hidden(kind, &flight, &look.hidden);
                self.absorb(kind, &flight, look);
            }
        }
    }

    /// Takes over what a driver that answers knows nothing of. A look at some instances tells only of
    /// what concerns them, so it takes nothing back.
    fn note_hidden(&mut self, kind: DriverKind, flight: &Flight, seen: &BTreeMap<Hidden, String>) {
        let now = self.ledger.now;
        let Some(looking) = self.drivers.get_mut(&kind) else {
            return;
        };
        let mut told = Vec::new();
        for (what, why) in seen {
            let since = looking.hidden.get(what).map(|before| before.since);
            if since.is_none() {
                told.push((what.clone(), Some(why.clone())));
            }
            let why = why.clone();
            let since = since.unwrap_or(now);
            looking
                .hidden
                .insert(what.clone(), Blindness { why, since });
        }
        if flight.scope == Scope::All {
            let gone = |what: &&Hidden| !seen.contains_key(*what);
            let back: Vec<Hidden> = looking.hidden.keys().filter(gone).cloned().collect();
            for what in back {
                looking.hidden.remove(&what);
                told.push((what, None));
            }
        }
        if !told.is_empty() {
            self.mark_all_dirty();
        }
        for (what, why) in told {
            let what = match what {
                Hidden::Partition(partition) => partition.to_string(),
                Hidden::Instance(instance) => instance.to_string(),
            };
            let (event, message) = match why {
                Some(why) => {
                    let message = format!("the {kind} driver cannot look at {what}: {why}");
                    (EventKind::Blind, message)
                }
                None => {
                    let message = format!("the {kind} driver can look at {what} again");
                    (EventKind::Sighted, message)
                }
            };
            self.emit_daemon(event, &message);
        }
    }

    fn mark_all_dirty(&mut self) {
        for pipeline in self.pipelines.values_mut() {
            pipeline.dirty = true;
        }
    }

    fn absorb(&mut self, kind: DriverKind, flight: &Flight, look: Look) {
        let Look { sightings, hidden } = look;
        let mut seen = BTreeSet::new();
        for sighting in sightings {
            seen.insert(sighting.instance.clone());
            let sighting = not_after(sighting, self.ledger.now);
            if flight.touched.contains(&sighting.instance) {
                if let Some(looking) = self.drivers.get_mut(&kind) {
                    looking.want(Scope::Instances([sighting.instance].into()));
                }
                continue;
            }
            let key = sighting.instance.pipeline.clone();
            let is_strange = !self.pipelines.contains_key(&key);
            let looking = self.drivers.get(&kind);
            if is_strange && looking.is_some_and(|looking| looking.strangers_stay) {
                continue;
            }
            if is_strange && !sighting.life.is_alive() {
                let instance = sighting.instance;
                self.ledger.effects.push(Effect::Forget {
                    instance,
                    driver: kind,
                });
                continue;
            }
            let pipeline = self
                .pipelines
                .entry(key)
                .or_insert_with_key(Pipeline::ghost);
            pipeline.sighted(sighting, &mut self.ledger);
        }
        let absent = flight
            .believed
            .difference(&seen)
            .filter(|id| !flight.touched.contains(id));
        let boot = self.drivers.get(&kind).and_then(|it| it.boot.as_ref());
        for id in absent {
            if let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) {
                // What nobody could look at is not gone.
                if pipeline.is_hidden(id, &flight.attended, &hidden) {
                    continue;
                }
                pipeline.vanished(id, boot, &mut self.ledger);
            }
        }
        if flight.scope == Scope::All {
            for pipeline in self.pipelines.values_mut() {
                let before = pipeline.strays.len();
                pipeline.strays.retain(|id, stray| {
                    stray.driver != kind
                        || seen.contains(id)
                        || is_hidden(stray, &flight.attended, &hidden)
                });
                pipeline.dirty |= pipeline.strays.len() != before;
            }
        }
    }
}

/// Whether a look that answered says nothing of `instance`.
fn is_hidden(
    instance: &Instance,
    attended: &BTreeSet<Partition>,
    hidden: &BTreeMap<Hidden, String>,
) -> bool {
    let is_part_hidden = instance.partition.as_ref().is_some_and(|partition| {
        let what = Hidden::Partition(partition.clone());
        !attended.contains(partition) || hidden.contains_key(&what)
    });
    is_part_hidden || hidden.contains_key(&Hidden::Instance(instance.id.clone()))
}

impl Pipeline {
    fn is_hidden(
        &self,
        id: &InstanceId,
        attended: &BTreeSet<Partition>,
        hidden: &BTreeMap<Hidden, String>,
    ) -> bool {
        let record = self.records.get(&id.replica);
        let instance = record.and_then(|record| record.instance.as_ref());
        instance.is_some_and(|instance| is_hidden(instance, attended, hidden))
    }

    /// Takes in what was seen of one instance.
    fn sighted(&mut self, sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        let record = self.records.get(&key);
        let known = record.and_then(|record| record.instance.as_ref());
        let is_ours = known.is_some_and(|instance| instance.id == sighting.instance);
        let is_past = record
            .is_some_and(|record| sighting.instance.incarnation <= record.incarnation && !is_ours);
        if is_ours {
            self.sighted_ours(sighting, ledger);
        } else if !sighting.life.is_alive() && (is_past || known.is_some()) {
            self.strays.remove(&sighting.instance);
            let (instance, driver) = (sighting.instance, sighting.driver);
            ledger.effects.push(Effect::Forget { instance, driver });
        } else if known.is_some() || (is_past && sighting.life.is_alive()) {
            self.sighted_stray(sighting, ledger);
        } else {
            self.adopt(sighting, ledger);
        }
    }

    /// Takes in how the instance ended that was stopped.
    pub(super) fn stopped(
        &mut self,
        id: &InstanceId,
        stopped: Stopped,
        boot: Option<&Boot>,
        ledger: &mut Ledger,
    ) {
        match stopped.into_sighting() {
            Some(left) => self.sighted_ours(not_after(left, ledger.now), ledger),
            None => self.vanished(id, boot, ledger),
        }
    }

    /// A second live instance of a replica, or one whose end was recorded: it has to go.
    fn sighted_stray(&mut self, sighting: Sighting, ledger: &Ledger) {
        if self.strays.contains_key(&sighting.instance) {
            return;
        }
        let stray = instance_of(&sighting, ledger.now);
        self.strays.insert(sighting.instance, stray);
        self.dirty = true;
    }

    /// An instance that no record knows: the store was lost, and what it carries rebuilds it.
    fn adopt(&mut self, sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        let id = sighting.instance.clone();
        let instance = instance_of(&sighting, ledger.now);
        let released = sighting.spec.clone();
        self.change(&key, ledger, |record| {
            record.incarnation = record.incarnation.max(id.incarnation);
            record.instance = Some(instance);
            record.released = Some(released);
        });
        if sighting.life.is_alive() {
            let found = found_as(&sighting.life).unwrap_or("running");
            let message = format!("{key} was found {found} and kept");
            let why = "it carries our mark".to_owned();
            self.emit(ledger, &key, Some(&id), EventKind::Adopted, why, message);
        }
        self.sighted_ours(sighting, ledger);
    }

    fn sighted_ours(&mut self, mut sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        self.count_earlier(&key, std::mem::take(&mut sighting.earlier), ledger);
        let Some(instance) = self
            .records
            .get(&key)
            .and_then(|record| record.instance.clone())
        else {
            return;
        };
        if let Some(found) = found_as(&sighting.life)
            && self.found.remove(&instance.id)
        {
            let message = format!("{key} was found {found} and kept");
            let why = "a new daemon looks after it".to_owned();
            let kind = EventKind::Adopted;
            self.emit(ledger, &key, Some(&instance.id), kind, why, message);
        }
        let changed = if sighting.outdated {
            self.outdated.insert(instance.id.clone())
        } else {
            self.outdated.remove(&instance.id)
        };
        self.restate |= changed;
        // A start whose answer was lost: what it runs is to be known when it ends.
        if instance.handle.is_none() && sighting.handle.is_some() {
            let handle = sighting.handle.clone();
            self.change(&key, ledger, |record| {
                if let Some(instance) = &mut record.instance {
                    instance.handle = handle;
                }
            });
        }
        match sighting.life {
            Life::Created => self.sighted_created(instance, ledger),
            Life::Pending(pending) => self.sighted_pending(&instance, pending, ledger),
            Life::Running { since } => {
                let said = sighting.health;
                self.sighted_running(&instance, since, sighting.handle, said.clone(), ledger);
                self.engine_said(&instance.id, said, ledger);
            }
            Life::Exited(mut exit) => {
                exit.started_at = exit
                    .started_at
                    .or(super::pipeline::started_at(&instance.phase));
                let cause = match &instance.phase {
                    Phase::Stopping { cause, .. } => EndCause::Stopped(cause.clone()),
                    Phase::Starting { .. } | Phase::Running { .. } => {
                        EndCause::Itself(self.charge(&key, &exit))
                    }
                };
                self.ended(&instance, exit, cause, ledger);
            }
            // The driver may be trying again: what comes of the start is its own answer.
            Life::NotStarted { .. } if self.busy.get(&key) == Some(&InFlight::Start) => {}
            Life::NotStarted { failure, at } => {
                let never_ran = Phase::Starting {
                    since: at,
                    pending: None,
                };
                let exit = unknown_exit(&never_ran, at);
                self.ended(&instance, exit, EndCause::NotStarted(failure), ledger);
            }
            Life::Lost { at } => {
                let cause = stopped_or(&instance.phase, EndCause::Lost);
                self.ended(&instance, unknown_exit(&instance.phase, at), cause, ledger);
            }
            Life::HostReboot { at } => {
                let exit = unknown_exit(&instance.phase, at);
                self.ended(&instance, exit, EndCause::HostReboot, ledger);
            }
            Life::RuntimeRestarted(exit) => {
                let cause = stopped_or(&instance.phase, EndCause::RuntimeRestarted);
                self.ended(&instance, exit, cause, ledger);
            }
            Life::Disrupted { exit, disruption } => {
                let cause = stopped_or(&instance.phase, EndCause::Disrupted(disruption));
                self.ended(&instance, exit, cause, ledger);
            }
        }
    }

    /// Counts the ends inside the instance of `key` that were not counted yet, the oldest first. They
    /// may be told by every look, and by looks of several daemons.
    fn count_earlier(&mut self, key: &ReplicaKey, mut ends: Vec<EarlierEnd>, ledger: &mut Ledger) {
        let Some(instance) = self.records.get(key).and_then(|it| it.instance.as_ref()) else {
            return;
        };
        ends.retain(|end| !instance.counted.contains(&end.id));
        let (id, spec) = (instance.id.clone(), instance.spec.clone());
        ends.sort_by_key(|end| end.exit.at);
        for end in ends {
            let cause = match end.disruption {
                Some(disruption) => EndCause::Disrupted(disruption),
                None => EndCause::Itself(self.charge(key, &end.exit)),
            };
            let ended = Ended {
                instance: id.clone(),
                spec: spec.clone(),
                exit: end.exit,
                cause,
            };
            self.ended_inside(key, (end.id, ended), ledger);
        }
    }

    /// A container or a guardian without its program. Unless it is being started now, the daemon
    /// that began to start it died, and nothing will come of it: it goes, and another is started.
    fn sighted_created(&mut self, instance: Instance, ledger: &mut Ledger) {
        let key = instance.id.replica.clone();
        let abandoned =
            matches!(instance.phase, Phase::Starting { .. }) && !self.busy.contains_key(&key);
        if abandoned {
            self.change(&key, ledger, |record| record.instance = None);
            self.strays.insert(instance.id.clone(), instance);
            self.dirty = true;
        }
    }

    /// One that its engine starts by itself. The engine may have found another reason by now why it
    /// does not, or have taken it from where it ran.
    fn sighted_pending(&mut self, instance: &Instance, seen: Pending, ledger: &mut Ledger) {
        let since = match &instance.phase {
            Phase::Starting { pending, .. } if pending.as_ref() == Some(&seen) => return,
            Phase::Starting { since, .. } => *since,
            Phase::Running { .. } => seen.since,
            Phase::Stopping { .. } => return,
        };
        self.change(&instance.id.replica, ledger, |record| {
            if let Some(instance) = &mut record.instance {
                let pending = Some(seen);
                instance.phase = Phase::Starting { since, pending };
            }
        });
    }

    fn sighted_running(
        &mut self,
        instance: &Instance,
        since: Timestamp,
        handle: Option<Handle>,
        said: Option<EngineHealth>,
        ledger: &mut Ledger,
    ) {
        let key = &instance.id.replica;
        let starting = matches!(instance.phase, Phase::Starting { .. });
        if !starting && (instance.handle == handle || handle.is_none()) {
            return;
        }
        // A start whose answer was lost, or is on its way: what runs is what counts.
        let health = self.initial_health(key, said, ledger.now);
        self.change(key, ledger, |record| {
            record.unanswered = None;
            if let Some(instance) = &mut record.instance {
                instance.handle = handle.or(instance.handle.take());
                if starting {
                    instance.phase = Phase::Running { since, health };
                }
            }
        });
        if starting && !self.busy.contains_key(key) {
            let message = format!("{key} runs");
            let why = "found running".to_owned();
            self.emit(
                ledger,
                key,
                Some(&instance.id),
                EventKind::Started,
                why,
                message,
            );
        }
    }

    fn ended(&mut self, instance: &Instance, exit: Exit, cause: EndCause, ledger: &mut Ledger) {
        let (id, driver) = (instance.id.clone(), instance.driver);
        let ended = Ended {
            instance: id.clone(),
            spec: instance.spec.clone(),
            exit,
            cause,
        };
        self.end(&id.replica, ended, ledger);
        ledger.effects.push(Effect::Forget {
            instance: id,
            driver,
        });
    }

    /// An instance that its driver, asked and answering, does not have. What tells of one is not
    /// synced to the disk: a power cut takes that too.
    fn vanished(&mut self, id: &InstanceId, boot: Option<&Boot>, ledger: &mut Ledger) {
        let Some(instance) = self
            .records
            .get(&id.replica)
            .and_then(|record| record.instance.clone())
            .filter(|instance| instance.id == *id)
        else {
            return;
        };
        match &instance.phase {
            Phase::Starting { .. } if self.busy.contains_key(&id.replica) => {}
            // The intent was recorded and nothing came of it: it is as if it had not been. What was
            // laid ready for it, like secrets, goes. Somebody who removes what waits, again and again,
            // is not answered at once each time.
            Phase::Starting { pending, .. } => {
                let now = ledger.now;
                let removed = pending.is_some();
                self.change(&id.replica, ledger, |record| {
                    let Some(Instance { spec, .. }) = record.instance.take() else {
                        return;
                    };
                    if removed {
                        let why = "it was removed from its engine before it ran".to_owned();
                        let before = record.unanswered.as_ref();
                        let starts = restart::unanswered(before, id, &spec, why, now);
                        record.unanswered = Some(starts);
                    }
                });
                self.fresh.remove(id);
                ledger.effects.push(Effect::Forget {
                    instance: instance.id,
                    driver: instance.driver,
                });
            }
            Phase::Running { .. } | Phase::Stopping { .. } => {
                let ended_by = boot.filter(|boot| is_of_another(boot, instance.handle.as_ref()));
                let (at, cause) = match ended_by {
                    Some(boot) => (boot.began_at.min(ledger.now), EndCause::HostReboot),
                    None => {
                        let cause = stopped_or(&instance.phase, EndCause::Vanished);
                        (ledger.now, cause)
                    }
                };
                let exit = unknown_exit(&instance.phase, at);
                self.ended(&instance, exit, cause, ledger);
            }
        }
    }

    fn charge(&self, key: &ReplicaKey, exit: &Exit) -> Charge {
        let Some(spec) = self.desired.wants(key) else {
            return Charge::Own;
        };
        let (since, at) = (exit.started_at, exit.at);
        blame::charge(&self.desired.spec, &self.records, spec, since, at)
    }
}

/// Whether a process ran in another boot than `boot`.
fn is_of_another(boot: &Boot, handle: Option<&Handle>) -> bool {
    match handle {
        Some(Handle::Process { shim, .. }) => shim.boot_id != boot.id,
        Some(Handle::Docker { .. } | Handle::Nomad { .. } | Handle::Kubernetes { .. }) | None => {
            false
        }
    }
}

/// The end of an instance in `phase`: one that was being stopped ended by that.
fn stopped_or(phase: &Phase, otherwise: EndCause) -> EndCause {
    match phase {
        Phase::Stopping { cause, .. } => EndCause::Stopped(cause.clone()),
        Phase::Starting { .. } | Phase::Running { .. } => otherwise,
    }
}

/// How an instance was found that a new daemon keeps; `None` when it is to be seen.
fn found_as(life: &Life) -> Option<&'static str> {
    match life {
        Life::Running { .. } => Some("running"),
        Life::Pending(_) => Some("waiting"),
        Life::Created
        | Life::Exited(_)
        | Life::NotStarted { .. }
        | Life::Lost { .. }
        | Life::HostReboot { .. }
        | Life::RuntimeRestarted(_)
        | Life::Disrupted { .. } => None,
    }
}

/// The instance that a sighting describes.
fn instance_of(sighting: &Sighting, now: Timestamp) -> Instance {
    let phase = match &sighting.life {
        Life::Running { since } => Phase::Running {
            since: *since,
            health: crate::model::Health {
                started: true,
                ..crate::model::Health::default()
            },
        },
        Life::Pending(pending) => Phase::Starting {
            since: pending.since,
            pending: Some(pending.clone()),
        },
        Life::Created
        | Life::Exited(_)
        | Life::NotStarted { .. }
        | Life::Lost { .. }
        | Life::HostReboot { .. }
        | Life::RuntimeRestarted(_)
        | Life::Disrupted { .. } => Phase::Starting {
            since: now,
            pending: None,
        },
    };
    Instance {
        id: sighting.instance.clone(),
        spec: sighting.spec.clone(),
        driver: sighting.driver,
        partition: sighting.partition.clone(),
        stop: sighting.stop,
        after: sighting.after.clone(),
        holds: Vec::new(),
        stalled: None,
        counted: BTreeSet::new(),
        handle: sighting.handle.clone(),
        phase,
    }
}
