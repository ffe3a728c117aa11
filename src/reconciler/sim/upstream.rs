//! What ends because an upstream is away is no failure of its own, whoever tells it when.

use super::*;

/// When the ends of a sink are told.
#[derive(Clone, Copy, Debug)]
enum Telling {
    /// Before that of the upstream which caused them.
    First,
    /// After it.
    Second,
    /// Seconds later, when all is well again.
    Late,
}

/// Has the daemon look at it, where it does not know of its end already.
fn hint(world: &mut World, id: &InstanceId) {
    let Some(driver) = world.things.get(id).map(|thing| thing.driver) else {
        return;
    };
    let instances = [id.clone()].into();
    world
        .core
        .handle(Input::Hinted { driver, instances }, world.now);
}

fn one_of(world: &World, component: &str) -> InstanceId {
    let mut alive = world.alive().into_iter();
    alive
        .find(|id| id.replica.component.as_str() == component)
        .unwrap()
}

fn run_for(world: &mut World, millis: i64) {
    let until = world.now.shifted(millis);
    while world.now < until {
        world.step();
    }
}

#[test]
fn five_routine_restarts_of_a_source_are_no_crash_loop_of_its_sink() {
    for telling in [Telling::First, Telling::Second, Telling::Late] {
        for cause in ["kill", "restart", "edit"] {
            let mut world = World::new(31);
            world.calm = true;
            let spec = |revision| {
                let mut sink = component("sink", 1, &["processor"]);
                // Its engine tells ends when it is asked.
                sink.workload = container();
                pipeline(vec![
                    component("source", revision, &[]),
                    component("processor", 1, &["source"]),
                    sink,
                ])
            };
            world.apply(spec(1));
            world.converge(&spec(1), &BTreeSet::new());
            let mut revision = 1;
            for _ in 0..5 {
                let (source, sink) = (one_of(&world, "source"), one_of(&world, "sink"));
                match cause {
                    "kill" => world.exit(&source, ExitStatus::Code(137)),
                    "restart" => world.ask("source", Request::Restart(crate::model::Pull::No)),
                    "edit" => {
                        revision += 1;
                        world.apply(spec(revision));
                    }
                    other => panic!("{other}"),
                }
                while world
                    .things
                    .get(&source)
                    .is_some_and(|it| it.life.is_alive())
                {
                    world.step();
                }
                world.exit(&sink, ExitStatus::Code(1));
                match telling {
                    Telling::First => {
                        hint(&mut world, &sink);
                        run_for(&mut world, 50);
                    }
                    Telling::Second => {
                        hint(&mut world, &source);
                        run_for(&mut world, 50);
                        hint(&mut world, &sink);
                    }
                    Telling::Late => {
                        hint(&mut world, &source);
                        run_for(&mut world, 4_000);
                        hint(&mut world, &sink);
                    }
                }
                hint(&mut world, &source);
                // Shorter than any backoff of a second failure could be.
                run_for(&mut world, 12_000);
                world.converge(&spec(revision), &BTreeSet::new());
            }
            let sink = "sink".parse().unwrap();
            let pipeline = world.core.pipelines.values().next().unwrap();
            let record = &pipeline.records[&crate::model::ReplicaKey {
                component: sink,
                replica: 0,
            }];
            let what = format!("{cause}, {telling:?}: {:?}", record.history);
            assert_eq!(record.history.failures, 0, "{what}");
            assert_eq!(record.history.crashloop_since, None, "{what}");
        }
    }
}

#[test]
fn who_waits_for_an_upstream_starts_the_moment_that_is_ready() {
    let mut world = World::new(32);
    world.calm = true;
    let spec = pipeline(vec![
        component("source", 1, &[]),
        component("processor", 1, &["source"]),
        component("sink", 1, &["processor"]),
    ]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    world.ask("source", Request::Stop);
    let (source, sink) = (one_of(&world, "source"), one_of(&world, "sink"));
    while world.things.contains_key(&source) {
        world.step();
    }
    world.exit(&sink, ExitStatus::Code(1));
    hint(&mut world, &sink);
    run_for(&mut world, 60_000);
    let snapshot = world.core.snapshot();
    let shown = &snapshot.pipelines[0].components[2];
    assert_eq!(shown.id.as_str(), "sink", "in the order of the data");
    assert_eq!(
        shown.replicas[0].why,
        "waiting for source (stopped by request)"
    );
    world.ask("source", Request::Start);
    let is_ready =
        |world: &World| world.core.snapshot().pipelines[0].components[0].replicas[0].ready;
    while !is_ready(&world) {
        world.step();
    }
    let ready = world.now;
    world.converge(&spec, &BTreeSet::new());
    let sink = one_of(&world, "sink");
    let Life::Running { since } = world.things[&sink].life else {
        panic!("it lives");
    };
    assert!(since.since(ready).as_millis() < 50, "{since} {ready}");
}
