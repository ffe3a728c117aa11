//! The fake keeps the contract, and does what its scripts say.

use super::*;
use crate::driver::conformance::{self, Behaviour, Stage, spec};

struct FakeStage {
    world: FakeWorld,
    driver: FakeDriver,
}

impl FakeStage {
    fn new() -> Self {
        let world = FakeWorld::new(Clock::new());
        let driver = FakeDriver::new(&world);
        Self { world, driver }
    }
}

#[async_trait]
impl Stage for FakeStage {
    fn driver(&self) -> &dyn Driver {
        &self.driver
    }

    async fn restart(&mut self) {
        self.driver = FakeDriver::new(&self.world);
    }

    fn component(&mut self, id: &str, behaviour: Behaviour) -> crate::model::ComponentSpec {
        let spec = spec(id, "fake", &[]);
        let script = match behaviour {
            Behaviour::RunsForever => Script::default(),
            Behaviour::Exits(code) => Script {
                run: RunScript::Exits(Duration::ZERO, ExitStatus::Code(code)),
                ..Script::default()
            },
            Behaviour::IgnoresSignals => Script {
                stop: StopScript::Takes(Duration::MAX),
                ..Script::default()
            },
            Behaviour::CannotStart => Script {
                start: StartScript::Fails(StartFailure {
                    reason: "ExecNotFound".to_owned(),
                    message: "program was not found".to_owned(),
                }),
                ..Script::default()
            },
        };
        self.world.script(&spec.id, script);
        spec
    }

    fn waiting(&mut self, id: &str) -> Option<crate::model::ComponentSpec> {
        let spec = spec(id, "fake", &[]);
        let waits = StartScript::Waits("0/3 nodes are available".to_owned());
        let script = Script {
            start: waits,
            ..Script::default()
        };
        self.world.script(&spec.id, script);
        Some(spec)
    }

    async fn end_inside(&self, instance: &InstanceId) -> bool {
        self.world.end_inside(instance, ExitStatus::Code(3));
        true
    }

    async fn make_room(&self, component: &crate::model::ComponentSpec) {
        self.world.release(&component.id);
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract() {
    conformance::check(&mut FakeStage::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_start_goes_on_when_released_even_if_nobody_waits() {
    let stage = FakeStage::new();
    let launch = conformance::launch(spec("a", "fake", &[]), 1);
    let hangs = Script {
        start: StartScript::Hangs,
        ..Script::default()
    };
    stage.world.script(&launch.spec.id, hangs);
    let start = stage.driver.start(&launch);
    let waited = tokio::time::timeout(Duration::from_secs(60), start).await;
    assert!(waited.is_err());
    stage.world.release(&launch.spec.id);
    conformance::eventually_runs(&stage.driver, &launch.instance).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_a_partition_out_of_sight_is_hidden_and_the_rest_is_seen() {
    let stage = FakeStage::new();
    let mut launches = Vec::new();
    for (id, namespace) in [("a", "one"), ("b", "two")] {
        let crate::model::Workload::Kubernetes(mut pod) = crate::model::fixtures::pod() else {
            panic!("a pod is one");
        };
        pod.namespace = Some(namespace.to_owned());
        let mut spec = spec(id, "fake", &[]);
        spec.workload = crate::model::Workload::Kubernetes(pod);
        let launch = conformance::launch(spec, 1);
        stage.driver.start(&launch).await.unwrap();
        launches.push(launch);
    }
    let one = Partition::new("one");
    stage.world.hide(one.clone(), "forbidden");
    let look = stage.driver.observe(&Scope::All).await.unwrap();
    let seen = look.sightings.iter().map(|seen| &seen.instance);
    assert_eq!(seen.collect::<Vec<_>>(), [&launches[1].instance]);
    let hidden = [(Hidden::Partition(one), "forbidden".to_owned())];
    assert_eq!(look.hidden, hidden.into());
    assert!(!look.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_blind_driver_says_nothing_and_what_runs_runs_on() {
    let stage = FakeStage::new();
    let launch = conformance::launch(spec("a", "fake", &[]), 1);
    stage.driver.start(&launch).await.unwrap();
    stage.world.set_sight(Sight::Blind);
    assert!(stage.driver.observe(&Scope::All).await.is_err());
    assert_eq!(stage.world.alive(), [launch.instance]);
}
