//! What the drivers see, taken into the records.
//!
//! Looks and answers race. A look that began before an answer arrived may describe the moment
//! before it, so it is not believed about the instances that were touched meanwhile; a hint or the
//! next relist looks again. Absence is believed only from a look that succeeded, and only of
//! instances that were not busy when it began.

use std::collections::{BTreeMap, BTreeSet};

use crate::conditions;
use crate::driver::{DriverError, Look, Scope};
use crate::model::{
    Boot, DriverKind, EventKind, Hidden, Instance, InstanceId, Partition, PipelineKey,
    PipelineStatus, StatusCondition, Timestamp,
};
use crate::planner::Blind;

use super::core::Core;
use super::ledger::Effect;
use super::pipeline::Pipeline;
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
        // Until the first full list, nothing less will do; nor does it after a silence, in which
        // anything may have happened.
        let scope = match (self.listed, &self.blind) {
            (false, _) => Scope::All,
            (true, None) => self.next.take()?,
            (true, Some(_)) => self.next.take().map(|_| Scope::All)?,
        };
        self.next = None;
        let attended: BTreeSet<Partition> = pipelines
            .values()
            .flat_map(|pipeline| partitions(kind, pipeline))
            .collect();
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

    /// Why nothing is known of all that it runs, if so.
    pub(super) fn blindness(&self) -> Option<String> {
        match (&self.blind, self.listed) {
            (Some(blind), _) => Some(blind.why.clone()),
            (None, false) => Some("it has not been looked at yet".to_owned()),
            (None, true) => None,
        }
    }
}

/// The partitions of `kind` that the components of `pipeline` name, or that hold instances of it.
fn partitions(kind: DriverKind, pipeline: &Pipeline) -> BTreeSet<Partition> {
    let wanted = pipeline.desired.spec.components.values();
    let wanted = wanted.filter(|spec| spec.driver() == kind);
    let wanted = wanted.filter_map(|spec| spec.workload.partition());
    let there = pipeline.records.values();
    let there = there.filter_map(|record| record.instance.as_ref());
    let there = there.chain(pipeline.strays.values());
    let there = there.filter(|instance| instance.driver == kind);
    let there = there.filter_map(|instance| instance.partition.clone());
    wanted.chain(there).collect()
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

    /// Looks at the drivers that `pipeline` needs, and at the partitions, from now on.
    pub(super) fn need_drivers(&mut self, pipeline: &Pipeline) {
        for (kind, looking) in &mut self.drivers {
            looking.spare = looking.spare && !pipeline.uses(*kind);
            if !partitions(*kind, pipeline).is_subset(&looking.attended) {
                looking.want(Scope::All);
            }
        }
    }

    /// What nothing is known of now that concerns `pipeline`, and why.
    pub(super) fn blind(&self, pipeline: &Pipeline) -> Blind {
        let mut blind = Blind::default();
        for (kind, looking) in &self.drivers {
            if let Some(why) = looking.blindness() {
                blind.drivers.insert(*kind, why);
                continue;
            }
            let hidden = looking.hidden.iter();
            let hidden = hidden.map(|(what, why)| ((*kind, what.clone()), why.why.clone()));
            blind.hidden.extend(hidden);
            for partition in partitions(*kind, pipeline) {
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
                all.push(match what {
                    Hidden::Partition(partition) => {
                        conditions::hidden((*kind, partition), *since, why, self.statuses())
                    }
                    Hidden::Instance(instance) => {
                        conditions::unseen((*kind, instance), *since, why)
                    }
                });
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
}
