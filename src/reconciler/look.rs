//! What the drivers see, taken into the records.
//!
//! Looks and answers race. A look that began before an answer arrived may describe the moment
//! before it, so it is not believed about the instances that were touched meanwhile; a hint or the
//! next relist looks again. Absence is believed only from a look that succeeded, and only of
//! instances that were not busy when it began.

use std::collections::{BTreeMap, BTreeSet};

use crate::conditions;
use crate::driver::{DriverError, Scope};
use crate::model::{
    Boot, Charge, DriverKind, EndCause, Ended, EngineHealth, EventKind, Exit, Handle, InFlight,
    Instance, InstanceId, Life, Phase, PipelineKey, ReplicaKey, Sighting, StatusCondition,
    Timestamp,
};
use crate::planner::blame;

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
    /// Whether what it has of pipelines that are not known is left alone.
    strangers_stay: bool,
    /// The present boot of the host, where its instances outlive none.
    pub(super) boot: Option<Boot>,
    /// Stopped instances whose leftovers tell how they ended.
    confirmed: BTreeSet<InstanceId>,
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

    /// Says that `instance` is surely gone, and asks how it ended.
    pub fn confirm(&mut self, instance: &InstanceId) {
        self.confirmed.insert(instance.clone());
        self.want(Scope::Instances([instance.clone()].into()));
    }

    /// The look to begin now, if one is wanted and none is under way.
    pub fn begin(
        &mut self,
        kind: DriverKind,
        pipelines: &BTreeMap<PipelineKey, Pipeline>,
    ) -> Option<Scope> {
        if self.flight.is_some() || self.spare {
            return None;
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
                    let settled =
                        !pipeline.busy.contains_key(key) || self.confirmed.contains(&instance.id);
                    (asked && settled && instance.driver == kind).then(|| instance.id.clone())
                })
            })
            .collect();
        let flight = Flight {
            scope: scope.clone(),
            believed,
            touched: BTreeSet::new(),
        };
        self.flight = Some(flight);
        Some(scope)
    }

    fn blindness(&self) -> Option<String> {
        match (&self.blind, self.listed) {
            (Some(blind), _) => Some(blind.why.clone()),
            (None, false) => Some("it has not been looked at yet".to_owned()),
            (None, true) => None,
        }
    }
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

    /// Drivers about which nothing is known now, and why.
    pub(super) fn blind(&self) -> BTreeMap<DriverKind, String> {
        self.drivers
            .iter()
            .filter_map(|(kind, looking)| Some((*kind, looking.blindness()?)))
            .collect()
    }

    /// The conditions of drivers that components need and that do not answer.
    pub(super) fn blind_conditions(&self) -> Vec<StatusCondition> {
        let blind = self.drivers.iter().filter_map(|(kind, looking)| {
            let Blindness { why, since } = looking.blind.as_ref()?;
            let is_used = self.pipelines.values().any(|pipeline| pipeline.uses(*kind));
            let statuses = self.pipelines.values();
            let statuses = statuses.filter_map(|pipeline| pipeline.status.as_deref());
            is_used.then(|| conditions::blind(*kind, *since, why, statuses))
        });
        blind.collect()
    }

    /// Moves along what is remembered of drivers that do not answer.
    pub(super) fn shift_blindness(&mut self, millis: i64) {
        for looking in self.drivers.values_mut() {
            if let Some(blind) = &mut looking.blind {
                blind.since = blind.since.shifted(millis);
            }
        }
    }

    pub(super) fn looked(&mut self, kind: DriverKind, result: Result<Vec<Sighting>, DriverError>) {
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
            Ok(sightings) => {
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
                self.absorb(kind, &flight, sightings);
            }
        }
    }

    fn mark_all_dirty(&mut self) {
        for pipeline in self.pipelines.values_mut() {
            pipeline.dirty = true;
        }
    }

    fn absorb(&mut self, kind: DriverKind, flight: &Flight, sightings: Vec<Sighting>) {
        let mut seen = BTreeSet::new();
        for mut sighting in sightings {
            seen.insert(sighting.instance.clone());
            sighting.life = not_after(sighting.life, self.ledger.now);
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
            let confirmed = self
                .drivers
                .get(&kind)
                .is_some_and(|looking| looking.confirmed.contains(&sighting.instance));
            if confirmed && sighting.life.is_alive() {
                // Stopped for sure, and its record is not written out yet: look again.
                if let Some(looking) = self.drivers.get_mut(&kind) {
                    looking.want(Scope::Instances([sighting.instance].into()));
                }
                continue;
            }
            pipeline.sighted(sighting, &mut self.ledger);
        }
        let absent = flight
            .believed
            .difference(&seen)
            .filter(|id| !flight.touched.contains(id));
        let boot = self.drivers.get(&kind).and_then(|it| it.boot.as_ref());
        for id in absent {
            if let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) {
                pipeline.vanished(id, boot, &mut self.ledger);
            }
        }
        if flight.scope == Scope::All {
            for pipeline in self.pipelines.values_mut() {
                let before = pipeline.strays.len();
                pipeline
                    .strays
                    .retain(|id, stray| stray.driver != kind || seen.contains(id));
                pipeline.dirty |= pipeline.strays.len() != before;
            }
        }
        if let Some(looking) = self.drivers.get_mut(&kind) {
            let pipelines = &mut self.pipelines;
            looking
                .confirmed
                .retain(|id| match pipelines.get_mut(&id.pipeline) {
                    None => false,
                    Some(pipeline) => {
                        let lives = pipeline
                            .records
                            .get(&id.replica)
                            .and_then(|record| record.instance.as_ref())
                            .is_some_and(|instance| instance.id == *id);
                        if !lives {
                            pipeline.busy.remove(&id.replica);
                            pipeline.dirty = true;
                        }
                        lives
                    }
                });
        }
    }
}

impl Pipeline {
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
            let message = format!("{key} was found running and kept");
            let why = "it carries our mark".to_owned();
            self.emit(ledger, &key, Some(&id), EventKind::Adopted, why, message);
        }
        self.sighted_ours(sighting, ledger);
    }

    fn sighted_ours(&mut self, sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        let Some(instance) = self
            .records
            .get(&key)
            .and_then(|record| record.instance.clone())
        else {
            return;
        };
        if let Life::Running { .. } = sighting.life
            && self.found.remove(&instance.id)
        {
            let message = format!("{key} was found running and kept");
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
                let exit = unknown_exit(&Phase::Starting { since: at }, at);
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
            // laid ready for it, like secrets, goes.
            Phase::Starting { .. } => {
                self.change(&id.replica, ledger, |record| record.instance = None);
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
        Life::Created
        | Life::Exited(_)
        | Life::NotStarted { .. }
        | Life::Lost { .. }
        | Life::HostReboot { .. }
        | Life::RuntimeRestarted(_) => Phase::Starting { since: now },
    };
    Instance {
        id: sighting.instance.clone(),
        spec: sighting.spec.clone(),
        driver: sighting.driver,
        stop: sighting.stop,
        after: sighting.after.clone(),
        holds: Vec::new(),
        stalled: None,
        handle: sighting.handle.clone(),
        phase,
    }
}
