//! What holds in every state of the simulated host, whatever has happened to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Action, Condition, DriverKind, InstanceId, Phase, PhaseName, PipelineKey, PipelineSpec,
    ReplicaKey, SpecHash,
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
    /// What the file says.
    wanted: Vec<PipelineSpec>,
    /// The starts that were judged already.
    judged: BTreeSet<InstanceId>,
    /// The definitions of which a start was decided.
    begun: BTreeSet<(PipelineKey, ReplicaKey, SpecHash)>,
}

impl Seen {
    pub fn new() -> Self {
        Self {
            restarts: BTreeMap::new(),
            unsighted: DRIVERS.into(),
            wanted: Vec::new(),
            judged: BTreeSet::new(),
            begun: BTreeSet::new(),
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
                        if self.seen.judged.insert(instance.clone()) {
                            self.seen.judge_start(pipeline, instance);
                        }
                    }
                    Action::Stop { instance, .. } => {
                        let driver = driver_of(pipeline, instance);
                        let is_known = driver.is_none_or(|it| !self.seen.unsighted.contains(&it));
                        assert!(is_known, "{instance} is stopped, and nobody sees it");
                    }
                    Action::Forget => {}
                }
            }
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
