//! The decision: what to do about a pipeline, why, and why not yet.
//!
//! [`plan`] is total, deterministic and pure: no clock, no IO, no order of arrival. Everything that
//! makes a component start, stop, wait or stay is in this room; execution has no choice left.
//!
//! **Guarantees.**
//! - At most one step per replica, and never a start while an instance of it may live.
//! - Equal desired and observed state give an empty plan; a replica that nobody touched gets none.
//! - Every unsettled replica has a step with a [`Reason`] or a [`Hold`].
//! - Starts follow the graph, stops go against it.
//! - What a blind driver runs is left alone.
//! - What an edit brings starts once what it takes over, or takes away, is gone.
//!
//! **Assumptions.** Ends are recorded (through [`restart::ended`]) before planning, and `busy` names
//! every replica with an unanswered driver call.

pub mod blame;
pub mod diff;
mod gate;
mod handover;
pub mod health;
mod order;
pub mod progress;
pub mod restart;
#[cfg(test)]
mod tests;
mod wording;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::model::{
    Action, ComponentId, ComponentSpec, DriverKind, Health, Hidden, Hold, InFlight, Instance,
    InstanceId, Partition, Pending, Phase, PipelineKey, PipelineSpec, Plan, Reason, Record,
    ReplicaKey, RunIntent, StartTrouble, Step, StopCause, Timestamp,
};

use handover::Handovers;
pub use handover::{Bond, Leaving, leaving};
use order::StopGraph;
use restart::Verdict;

/// What a pipeline should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Its name.
    pub key: PipelineKey,
    /// Its definition; one without components means: nothing.
    pub spec: Arc<PipelineSpec>,
    /// The folder of its file, where its programs work that name no other; `None` = not known.
    pub folder: Option<Arc<Path>>,
    /// Components after what they depend on.
    order: Arc<[ComponentId]>,
}

impl Desired {
    /// A pipeline that should be as `spec` says.
    pub fn new(spec: Arc<PipelineSpec>) -> Self {
        Self {
            key: spec.key.clone(),
            order: order::start_order(&spec).into(),
            folder: None,
            spec,
        }
    }

    /// The same of a file in `folder`.
    #[must_use]
    pub fn of_folder(mut self, folder: Option<&Path>) -> Self {
        self.folder = folder.map(Arc::from);
        self
    }

    /// Its components, each after those it depends on.
    pub fn in_order(&self) -> impl Iterator<Item = &ComponentSpec> {
        self.order
            .iter()
            .filter_map(|id| self.spec.components.get(id))
    }

    /// A pipeline of which nothing should be left.
    pub fn nothing(key: PipelineKey) -> Self {
        let spec = PipelineSpec {
            key: key.clone(),
            description: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            network: None,
            notify: Vec::new(),
            components: BTreeMap::new(),
        };
        Self {
            key,
            spec: Arc::new(spec),
            folder: None,
            order: Arc::default(),
        }
    }

    /// The component that replica `key` should be a copy of; `None` when it should not exist.
    pub fn wants(&self, key: &ReplicaKey) -> Option<&ComponentSpec> {
        self.spec
            .components
            .get(&key.component)
            .filter(|spec| key.replica < spec.replicas)
    }

    /// Every replica that should exist, each after those it depends on.
    pub fn replicas(&self) -> impl Iterator<Item = (ReplicaKey, &ComponentSpec)> {
        self.in_order().flat_map(|spec| {
            (0..spec.replicas).map(move |replica| {
                (
                    ReplicaKey {
                        component: spec.id.clone(),
                        replica,
                    },
                    spec,
                )
            })
        })
    }
}

/// What a pipeline is.
#[derive(Clone, Debug, Default)]
pub struct Observed<'a> {
    /// What is remembered of each replica.
    pub records: Records<'a>,
    /// Live instances that no record owns.
    pub strays: Strays<'a>,
    /// What nothing is known of, and what went wrong.
    pub blind: Blind,
    /// Drivers that exist in this daemon.
    pub drivers: BTreeSet<DriverKind>,
    /// Replicas with an unanswered driver call.
    pub busy: Busy<'a>,
    /// Instances of other pipelines that have to go.
    pub leaving_elsewhere: LeavingElsewhere<'a>,
    /// Instances that something of another pipeline waits for, to take over what they have.
    pub awaited_elsewhere: BTreeSet<&'a InstanceId>,
    /// When another image policy came into force, if it changed: what an earlier one refused is judged
    /// anew at once.
    pub image_policy_since: Option<Timestamp>,
    /// Why nothing new may begin, if so.
    pub frozen: Option<&'a str>,
    /// Above every incarnation of this host's past, those of forgotten replicas included: what they
    /// left behind is never taken for what is started now.
    pub next_incarnation: u64,
}

/// Records by replica.
pub type Records<'a> = std::borrow::Cow<'a, BTreeMap<ReplicaKey, Record>>;
/// Strays by instance.
pub type Strays<'a> = std::borrow::Cow<'a, BTreeMap<InstanceId, Instance>>;
/// What nothing is known of, and what went wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blind {
    /// Drivers that do not answer.
    pub drivers: BTreeMap<DriverKind, String>,
    /// What drivers that answer know nothing of.
    pub hidden: BTreeMap<(DriverKind, Hidden), String>,
}

impl Blind {
    /// The hold on a component that `driver` runs in `partition`; `None` when all is in sight.
    fn part(&self, driver: DriverKind, partition: Option<&Partition>) -> Option<Hold> {
        if let Some(because) = self.drivers.get(&driver) {
            return Some(Hold::Blind {
                driver,
                hidden: None,
                because: because.clone(),
            });
        }
        let hidden = Hidden::Partition(partition?.clone());
        self.hidden(driver, hidden)
    }

    /// The same of an instance that is there.
    fn instance(&self, instance: &Instance) -> Option<Hold> {
        let driver = instance.driver;
        self.part(driver, instance.partition.as_ref())
            .or_else(|| self.hidden(driver, Hidden::Instance(instance.id.clone())))
    }

    fn hidden(&self, driver: DriverKind, hidden: Hidden) -> Option<Hold> {
        // Most drivers have no parts, and every plan asks for every replica.
        if self.hidden.is_empty() {
            return None;
        }
        let key = (driver, hidden);
        let because = self.hidden.get(&key)?.clone();
        let (driver, hidden) = (key.0, Some(key.1));
        Some(Hold::Blind {
            driver,
            hidden,
            because,
        })
    }
}
/// Instances of other pipelines that have to go.
pub type LeavingElsewhere<'a> = std::borrow::Cow<'a, [Leaving]>;
/// Unanswered calls.
pub type Busy<'a> = std::borrow::Cow<'a, BTreeMap<ReplicaKey, InFlight>>;

/// What to do about one replica.
enum Decision {
    Do(Action, Reason),
    Wait(Hold),
    Settled,
}

/// Decides what to do about `desired`, given `observed`, at `now`.
pub fn plan(desired: &Desired, observed: &Observed<'_>, now: Timestamp) -> Plan {
    let view = View::new(desired, observed, now);
    let mut plan = Plan::default();
    let (mut starts, mut stops, mut forgets) = (Vec::new(), Vec::new(), Vec::new());
    for key in view.replicas() {
        match view.decide(&key) {
            Decision::Do(action, reason) => {
                let lane = match &action {
                    Action::Start { .. } => &mut starts,
                    Action::Stop { .. } => &mut stops,
                    Action::Forget => &mut forgets,
                };
                lane.push(Step {
                    replica: key,
                    action,
                    reason,
                });
            }
            Decision::Wait(hold) => {
                wake(&mut plan.wake_at, hold.until());
                plan.holds.insert(key, hold);
            }
            Decision::Settled => {}
        }
    }
    for (key, spec) in desired.replicas() {
        if let Some(Record {
            history,
            instance: Some(instance),
            ..
        }) = observed.records.get(&key)
        {
            wake(
                &mut plan.wake_at,
                restart::reset_at(history, &instance.phase, &spec.restart),
            );
        }
    }
    stops.reverse();
    plan.steps = stops;
    plan.steps.append(&mut starts);
    plan.steps.append(&mut forgets);
    plan
}

/// Starts under way of what nobody wants any more: it left the file, was edited, or a person asked.
/// Their replicas get no step before their answer, and need not wait for what would be thrown away.
pub fn unwanted_starts<'a>(
    desired: &'a Desired,
    observed: &'a Observed<'_>,
) -> impl Iterator<Item = &'a InstanceId> {
    let starts = observed
        .busy
        .iter()
        .filter(|(_, call)| **call == InFlight::Start);
    starts.filter_map(|(key, _)| {
        let record = observed.records.get(key)?;
        let instance = record.instance.as_ref()?;
        let is_wanted = leaves_for_good(desired, key, record).is_none()
            && desired.wants(key).is_some_and(|spec| {
                replacement(record, instance, &Health::default(), spec).is_none()
            });
        (!is_wanted).then_some(&instance.id)
    })
}

fn wake(at: &mut Option<Timestamp>, other: Option<Timestamp>) {
    *at = match (*at, other) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    };
}

/// The inputs, with what is derived from them once.
struct View<'a> {
    desired: &'a Desired,
    observed: &'a Observed<'a>,
    now: Timestamp,
    /// Components of which an instance has to go for good, as opposed to being replaced.
    doomed: BTreeSet<&'a ComponentId>,
    graph: StopGraph<'a>,
    strays: BTreeMap<&'a ReplicaKey, &'a Instance>,
    handovers: Handovers<'a>,
}

impl<'a> View<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed<'a>, now: Timestamp) -> Self {
        let mut graph = StopGraph::default();
        let mut doomed = BTreeSet::new();
        for (key, record) in observed.records.iter() {
            let Some(instance) = &record.instance else {
                continue;
            };
            graph.add(&key.component, &instance.after);
            if leaves_for_good(desired, key, record).is_some() {
                doomed.insert(&key.component);
            }
        }
        let strays = observed
            .strays
            .iter()
            .map(|(id, stray)| (&id.replica, stray))
            .collect();
        Self {
            desired,
            observed,
            now,
            doomed,
            graph,
            strays,
            handovers: Handovers::new(desired, observed),
        }
    }

    /// Wanted replicas in start order, then the others.
    fn replicas(&self) -> Vec<ReplicaKey> {
        let mut keys: Vec<ReplicaKey> = self.desired.replicas().map(|(key, _)| key).collect();
        let others = self
            .observed
            .records
            .keys()
            .chain(self.strays.keys().copied());
        let unwanted: BTreeSet<&ReplicaKey> = others
            .filter(|key| self.desired.wants(key).is_none())
            .collect();
        keys.extend(unwanted.into_iter().cloned());
        keys
    }

    fn decide(&self, key: &ReplicaKey) -> Decision {
        if let Some(call) = self.observed.busy.get(key) {
            return Decision::Wait(Hold::InFlight { call: *call });
        }
        if let Some(stray) = self.strays.get(key) {
            return self.blind(stray).unwrap_or_else(|| match &stray.phase {
                Phase::Stopping { .. } => self.stop_again(stray),
                Phase::Starting { .. } | Phase::Running { .. } => {
                    let cause = StopCause::Stray;
                    Decision::Do(stop(stray, &cause), Reason::Stop(cause))
                }
            });
        }
        let fresh = Record::default();
        let record = self.observed.records.get(key).unwrap_or(&fresh);
        match (&record.instance, self.desired.wants(key)) {
            (Some(instance), spec) => self
                .blind(instance)
                .unwrap_or_else(|| self.with_instance(key, record, instance, spec)),
            (None, Some(spec)) => self.without_instance(key, record, spec),
            (None, None) => Decision::Do(Action::Forget, Reason::Gone),
        }
    }

    fn blind(&self, instance: &Instance) -> Option<Decision> {
        self.observed.blind.instance(instance).map(Decision::Wait)
    }

    fn with_instance(
        &self,
        key: &ReplicaKey,
        record: &Record,
        instance: &Instance,
        spec: Option<&ComponentSpec>,
    ) -> Decision {
        match &instance.phase {
            // Not busy, so the answer to the start was lost: the next look tells what came of it.
            Phase::Starting { pending: None, .. } => Decision::Wait(Hold::InFlight {
                call: InFlight::Start,
            }),
            Phase::Starting {
                pending: Some(pending),
                ..
            } => self.pending(key, record, instance, (spec, pending)),
            Phase::Stopping { .. } => self.stop_again(instance),
            Phase::Running { health, .. } => {
                if let Some(cause) = leaves_for_good(self.desired, key, record) {
                    return self.leave(key, instance, cause);
                }
                let Some(spec) = spec else {
                    return Decision::Settled;
                };
                match replacement(record, instance, health, spec) {
                    Some((cause, reason)) => self.replace(record, instance, spec, (cause, reason)),
                    None => self.live(spec, instance, health),
                }
            }
        }
    }

    /// An instance that its engine starts by itself once it can. It serves nobody yet, so one that is
    /// not wanted as it is goes at once.
    fn pending(
        &self,
        key: &ReplicaKey,
        record: &Record,
        instance: &Instance,
        (spec, pending): (Option<&ComponentSpec>, &Pending),
    ) -> Decision {
        if let Some(cause) = leaves_for_good(self.desired, key, record) {
            return self.leave(key, instance, cause);
        }
        let unwanted =
            spec.and_then(|spec| replacement(record, instance, &Health::default(), spec));
        match unwanted {
            Some((cause, reason)) => Decision::Do(stop(instance, &cause), reason),
            None => Decision::Wait(Hold::Pending(pending.clone())),
        }
    }

    /// A decided stop whose call was answered with a failure, or never.
    fn stop_again(&self, instance: &Instance) -> Decision {
        let Phase::Stopping { cause, failed, .. } = &instance.phase else {
            return Decision::Settled;
        };
        match failed {
            None => Decision::Do(stop(instance, cause), Reason::Stop(cause.clone())),
            Some(failed) if self.now < failed.retry_at => {
                let (why, until) = (failed.why.clone(), failed.retry_at);
                Decision::Wait(Hold::StopFailed { why, until })
            }
            Some(failed) => {
                let why = failed.why.clone();
                Decision::Do(stop(instance, cause), Reason::StopAgain { why })
            }
        }
    }

    /// Stops an instance for good, once those that depend on it and have to go too are gone.
    fn leave(&self, key: &ReplicaKey, instance: &Instance, cause: StopCause) -> Decision {
        let blocker = self.graph.dependents(&key.component).find(|other| {
            **other != key.component
                && self.doomed.contains(other)
                // Edges of two revisions can form a cycle; nobody waits in one.
                && !self.graph.depends_on(&key.component, other)
        });
        match blocker {
            Some(component) => Decision::Wait(Hold::StopsAfter {
                component: component.clone(),
            }),
            None => Decision::Do(stop(instance, &cause), Reason::Stop(cause)),
        }
    }

    /// Stops an instance that another is to follow, once that one could start: until then the old
    /// one goes on serving, unless somebody else waits for what it has.
    fn replace(
        &self,
        record: &Record,
        instance: &Instance,
        spec: &ComponentSpec,
        (cause, reason): (StopCause, Reason),
    ) -> Decision {
        let stops = Decision::Do(stop(instance, &cause), reason);
        match self.may_start(record, spec) {
            Err(Hold::WaitingFor { .. }) if self.handovers.is_awaited(&instance.id) => stops,
            Err(hold) => Decision::Wait(hold),
            Ok(()) => match self.handovers.before_replacing(instance, spec) {
                Some(hold) => Decision::Wait(hold),
                None => stops,
            },
        }
    }

    fn live(&self, spec: &ComponentSpec, instance: &Instance, health: &Health) -> Decision {
        if health.ready {
            return Decision::Settled;
        }
        let because = health
            .why
            .clone()
            .unwrap_or_else(|| "no probe has answered yet".to_owned());
        Decision::Wait(match (&spec.probes.readiness, health.ready_changed) {
            (_, Some(_)) => Hold::Unhealthy { because },
            (Some(_), None) => Hold::BecomingReady { because, at: None },
            (None, None) if !health.started => Hold::BecomingReady { because, at: None },
            (None, None) if health.unregistered => Hold::BecomingReady {
                because: health::UNREGISTERED.to_owned(),
                at: None,
            },
            (None, None) if health.engine.is_some() => Hold::BecomingReady { because, at: None },
            (None, None) => {
                let (Phase::Running { since, .. }
                | Phase::Starting { since, .. }
                | Phase::Stopping { since, .. }) = instance.phase;
                let at = since.after(spec.ready_after.get());
                let because = format!("it has to live for {}", spec.ready_after);
                Hold::BecomingReady {
                    because,
                    at: Some(at),
                }
            }
        })
    }

    fn without_instance(
        &self,
        key: &ReplicaKey,
        record: &Record,
        spec: &ComponentSpec,
    ) -> Decision {
        if let RunIntent::Stop { .. } = record.intent {
            return Decision::Wait(Hold::StoppedByRequest);
        }
        let reason = match restart::verdict(&spec.restart, record, &spec.hash, self.now) {
            Verdict::Start(reason) => reason,
            Verdict::Backoff {
                until,
                failures,
                last,
                crashloop,
                ending,
            } => match restart::judged_anew(record, self.observed.image_policy_since) {
                Some(reason) => reason,
                None => {
                    return Decision::Wait(Hold::Backoff {
                        until,
                        failures,
                        last,
                        crashloop,
                        ending,
                    });
                }
            },
            Verdict::AwaitUpstream(upstream) => match self.missing(&upstream) {
                Some(hold) => return Decision::Wait(hold),
                None => Reason::UpstreamRecovered { upstream },
            },
            Verdict::Completed => return Decision::Wait(Hold::Completed),
            Verdict::Failed { last } => return Decision::Wait(Hold::Failed { last }),
            Verdict::GaveUp { retries, last } => {
                return Decision::Wait(Hold::GaveUp { retries, last });
            }
        };
        if let Some(starts) = restart::holding(record, &spec.hash, self.now) {
            let (why, until) = (starts.why.clone(), starts.retry_at);
            return Decision::Wait(match starts.trouble {
                StartTrouble::Unanswered => Hold::StartFailed { why, until },
                StartTrouble::Leftover => Hold::Leftover { why, until },
            });
        }
        match self.may_start(record, spec) {
            Err(hold) => Decision::Wait(hold),
            Ok(()) => match self.handovers.before_starting(key, spec) {
                Some(hold) => Decision::Wait(hold),
                None => {
                    let instance = InstanceId {
                        pipeline: self.desired.key.clone(),
                        replica: key.clone(),
                        incarnation: record
                            .incarnation
                            .saturating_add(1)
                            .max(self.observed.next_incarnation),
                    };
                    Decision::Do(Action::Start { instance }, reason)
                }
            },
        }
    }

    /// Whether an instance of `spec` could be started now; the hold says what is missing.
    fn may_start(&self, record: &Record, spec: &ComponentSpec) -> Result<(), Hold> {
        let driver = spec.driver();
        if !self.observed.drivers.contains(&driver) {
            return Err(Hold::NoDriver { driver });
        }
        if let Some(hold) = self
            .observed
            .blind
            .part(driver, spec.workload.partition().as_ref())
        {
            return Err(hold);
        }
        if record.released.as_ref() != Some(&spec.hash) {
            let records = self.observed.records.as_ref();
            for dependency in &spec.dependencies {
                let Some(upstream) = self.desired.spec.components.get(&dependency.id) else {
                    continue;
                };
                if let Some(because) = gate::unmet(upstream, records, dependency.condition) {
                    return Err(Hold::WaitingFor {
                        component: dependency.id.clone(),
                        condition: dependency.condition,
                        because,
                    });
                }
            }
        }
        match self.observed.frozen {
            Some(because) => Err(Hold::Frozen {
                because: because.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// The wait for an upstream that an end was charged to; `None` when it is ready, or gone from
    /// the file.
    fn missing(&self, upstream: &ComponentId) -> Option<Hold> {
        let condition = crate::model::Condition::Ready;
        let spec = self.desired.spec.components.get(upstream)?;
        let because = gate::unmet(spec, self.observed.records.as_ref(), condition)?;
        Some(Hold::WaitingFor {
            component: upstream.clone(),
            condition,
            because,
        })
    }
}

fn stop(instance: &Instance, cause: &StopCause) -> Action {
    Action::Stop {
        instance: instance.id.clone(),
        cause: cause.clone(),
    }
}

/// Why the instance of `key` has to go with none to follow, if so.
fn leaves_for_good(desired: &Desired, key: &ReplicaKey, record: &Record) -> Option<StopCause> {
    match desired.spec.components.get(&key.component) {
        None => Some(StopCause::Removed),
        Some(spec) if key.replica >= spec.replicas => Some(StopCause::ScaledDown),
        Some(_) => match record.intent {
            RunIntent::Stop { .. } => Some(StopCause::StopRequested),
            RunIntent::Run | RunIntent::Start { .. } | RunIntent::Restart { .. } => None,
        },
    }
}

/// Why a running instance has to be followed by another, if so.
fn replacement(
    record: &Record,
    instance: &Instance,
    health: &Health,
    spec: &ComponentSpec,
) -> Option<(StopCause, Reason)> {
    if instance.spec != spec.hash {
        let (from, to) = (instance.spec.clone(), spec.hash.clone());
        return Some((StopCause::SpecChanged, Reason::SpecChanged { from, to }));
    }
    if let Some(cause) = &health.condemned {
        return Some((cause.clone(), Reason::Stop(cause.clone())));
    }
    match record.intent {
        RunIntent::Restart { upto, .. } if instance.id.incarnation <= upto => {
            Some((StopCause::RestartRequested, Reason::Requested))
        }
        RunIntent::Run
        | RunIntent::Start { .. }
        | RunIntent::Restart { .. }
        | RunIntent::Stop { .. } => None,
    }
}
