//! What holds in every state of the simulated host, whatever has happened to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Action, Condition, DriverKind, EventKind, InstanceId, Life, Partition, Phase, PhaseName,
    PipelineKey, PipelineSpec, ReplicaKey, SpecHash, StopCause,
};

use super::super::core::Kept;
use super::super::pipeline::Pipeline;
use super::world::{Call, DRIVERS, World};

/// What has been seen so far of a world, as far as later states are judged by it.
pub(super) struct Seen {
    /// What every replica's restarts have come to.
    restarts: BTreeMap<(PipelineKey, ReplicaKey), u64>,
    /// The drivers of which the daemon knows nothing at present.
    unsighted: BTreeSet<DriverKind>,
    /// The namespaces of which it knows nothing at present, although their cluster answers.
    pub hidden: BTreeSet<Partition>,
    /// The namespaces that it has looked at.
    pub attended: BTreeSet<Partition>,
    /// What the file says.
    wanted: Vec<PipelineSpec>,
    /// The starts that were judged already, and of which definition: a number that was never recorded
    /// is given again, to another one perhaps.
    judged: BTreeSet<(InstanceId, Option<SpecHash>)>,
    /// The definitions of which a start was decided.
    begun: BTreeSet<(PipelineKey, ReplicaKey, SpecHash)>,
    /// How often the cluster has started an instance again by itself.
    pub inside: BTreeMap<InstanceId, usize>,
}

impl Seen {
    pub fn new() -> Self {
        Self {
            restarts: BTreeMap::new(),
            unsighted: DRIVERS.into(),
            hidden: BTreeSet::new(),
            attended: BTreeSet::new(),
            wanted: Vec::new(),
            judged: BTreeSet::new(),
            begun: BTreeSet::new(),
            inside: BTreeMap::new(),
        }
    }

    pub fn applied(&mut self, specs: &[PipelineSpec]) {
        self.wanted = specs.to_vec();
    }

    /// A look at `driver` was answered, or could not be.
    pub fn looked(&mut self, driver: DriverKind, is_blind: bool) {
        if is_blind {
            self.unsighted.insert(driver);
        } else {
            self.unsighted.remove(&driver);
        }
    }

    /// The daemon died: the next one knows what is on the disk and has looked at nothing.
    pub fn died(&mut self, disk: &Kept) {
        self.unsighted = DRIVERS.into();
        self.hidden.clear();
        self.attended.clear();
        let recorded = |key: &(PipelineKey, ReplicaKey)| {
            let records = disk.records.get(&key.0)?;
            Some(records.get(&key.1)?.history.restarts)
        };
        // What was never recorded was never promised.
        self.restarts = std::mem::take(&mut self.restarts)
            .into_keys()
            .filter_map(|key| recorded(&key).map(|restarts| (key, restarts)))
            .collect();
    }
}

impl World {
    /// Asserts all that holds in every state.
    pub fn check(&mut self) {
        self.no_replica_runs_twice();
        self.restarts_never_fall();
        self.nothing_stopped_is_ready();
    }

    /// Asserts all that holds of every decision, right after it was made.
    pub fn check_plans(&mut self) {
        self.one_call_per_replica();
        self.forget_the_forgotten();
        for pipeline in self.core.pipelines.values() {
            let mut stepped = BTreeSet::new();
            for step in &pipeline.plan.steps {
                let replica = &step.replica;
                assert!(stepped.insert(replica), "two steps for {replica}");
                match &step.action {
                    Action::Start { instance } => {
                        let spec = pipeline.desired.wants(&instance.replica);
                        let of = spec.map(|spec| spec.hash.clone());
                        if self.seen.judged.insert((instance.clone(), of)) {
                            self.seen.judge_start(pipeline, instance);
                        }
                    }
                    Action::Stop { instance, cause } => {
                        let thing = self.things.get(instance);
                        let waits = thing.is_some_and(|it| matches!(it.life, Life::Pending(_)));
                        assert!(
                            !waits || *cause != StopCause::Stray,
                            "{instance} waits for room, and is taken for abandoned"
                        );
                        let driver = driver_of(pipeline, instance);
                        let is_known = driver.is_none_or(|it| !self.seen.unsighted.contains(&it));
                        assert!(is_known, "{instance} is stopped, and nobody sees it");
                        let partition = thing.and_then(|thing| thing.partition.as_ref());
                        let is_hidden = partition.is_some_and(|it| self.seen.hidden.contains(it));
                        assert!(
                            !is_hidden,
                            "{instance} is stopped, and its namespace is not seen"
                        );
                    }
                    Action::Forget => {}
                }
            }
        }
    }

    /// Asserts that no end inside an instance is told of twice, over all daemons. What is left of an
    /// instance that ended may be found again, once its replica was forgotten.
    pub fn check_ends(&self) {
        let mut told: BTreeMap<&InstanceId, usize> = BTreeMap::new();
        let mut over = BTreeSet::new();
        for event in self.events.values() {
            let Some(instance) = &event.instance else {
                continue;
            };
            let is_end = matches!(event.kind, EventKind::Exited | EventKind::Stopped);
            if is_end && event.message.ends_with("its engine started it again") {
                let count = told.entry(instance).or_default();
                *count += usize::from(!over.contains(instance));
            } else if is_end {
                over.insert(instance);
            }
        }
        for (instance, told) in told {
            let inside = self.seen.inside.get(instance).copied().unwrap_or_default();
            assert!(
                told <= inside,
                "{told} ends inside {instance}, which ended {inside} times there"
            );
        }
    }

    fn no_replica_runs_twice(&self) {
        let mut replicas = BTreeSet::new();
        for id in self.alive() {
            let replica = (id.pipeline.clone(), id.replica.clone());
            assert!(
                replicas.insert(replica),
                "two live instances of {}",
                id.replica
            );
        }
    }

    fn one_call_per_replica(&self) {
        let mut busy = BTreeSet::new();
        for (_, call) in &self.calls {
            let instance = match call {
                Call::Start(launch) => &launch.instance,
                Call::Stop(instance, _) => instance,
                Call::Forget(_) | Call::Look(..) | Call::Commit(_) | Call::Synced(_) => continue,
            };
            let replica = (instance.pipeline.clone(), instance.replica.clone());
            assert!(busy.insert(replica), "two calls at once for {instance}");
        }
    }

    fn restarts_never_fall(&mut self) {
        for (pipeline, one) in &self.core.pipelines {
            for (replica, record) in &one.records {
                let key = (pipeline.clone(), replica.clone());
                let restarts = record.history.restarts;
                let seen = self.seen.restarts.entry(key).or_default();
                assert!(
                    restarts >= *seen,
                    "{replica}: {seen} restarts became {restarts}"
                );
                *seen = restarts;
            }
        }
        self.forget_the_forgotten();
    }

    /// A replica of which nothing was left, and nothing wanted, begins anew.
    fn forget_the_forgotten(&mut self) {
        let pipelines = &self.core.pipelines;
        self.seen.restarts.retain(|(pipeline, replica), _| {
            let known = pipelines.get(pipeline);
            known.is_some_and(|known| known.records.contains_key(replica))
        });
    }

    fn nothing_stopped_is_ready(&self) {
        let snapshot = self.core.snapshot();
        let pipelines = snapshot.pipelines.iter();
        for replica in pipelines
            .flat_map(|pipeline| &pipeline.components)
            .flat_map(|component| &component.replicas)
        {
            let is_both = replica.ready && replica.phase == PhaseName::Stopped;
            assert!(!is_both, "a stopped replica is shown as ready");
        }
    }
}

impl Seen {
    /// Whether the start of `instance` may be decided now.
    fn judge_start(&mut self, pipeline: &Pipeline, instance: &InstanceId) {
        let key = &instance.replica;
        let of_file = self.wanted.iter().find(|one| one.key == instance.pipeline);
        let spec = of_file
            .and_then(|one| one.components.get(&key.component))
            .filter(|spec| key.replica < spec.replicas);
        let Some(spec) = spec else {
            panic!("{instance} is started, and its file does not name it any more");
        };
        let driver = spec.driver();
        assert!(
            !self.unsighted.contains(&driver),
            "{instance} is started blindly"
        );
        let partition = spec.workload.partition();
        assert!(
            partition.is_none_or(|it| !self.hidden.contains(&it) && self.attended.contains(&it)),
            "{instance} is started where nobody sees it"
        );
        let begun = (instance.pipeline.clone(), key.clone(), spec.hash.clone());
        if !self.begun.insert(begun) {
            return;
        }
        for dependency in &spec.dependencies {
            assert_eq!(
                dependency.condition,
                Condition::Ready,
                "the simulation knows no other"
            );
            let Some(upstream) = pipeline.desired.spec.components.get(&dependency.id) else {
                continue;
            };
            for replica in 0..upstream.replicas {
                let component = upstream.id.clone();
                let record = pipeline.records.get(&ReplicaKey { component, replica });
                let there = record.and_then(|record| record.instance.as_ref());
                let is_ready = there.is_some_and(|there| {
                    there.spec == upstream.hash
                        && match &there.phase {
                            Phase::Running { health, .. } => health.ready,
                            // It was ready when the start was decided, in the same turn.
                            Phase::Stopping { .. } => true,
                            Phase::Starting { .. } => false,
                        }
                });
                assert!(
                    is_ready,
                    "{instance} is started before {} is ready",
                    dependency.id
                );
            }
        }
    }
}

fn driver_of(pipeline: &Pipeline, instance: &InstanceId) -> Option<DriverKind> {
    let record = pipeline.records.get(&instance.replica);
    let known = record.and_then(|record| record.instance.as_ref());
    let known = known.filter(|known| known.id == *instance);
    known
        .or_else(|| pipeline.strays.get(instance))
        .map(|instance| instance.driver)
}
