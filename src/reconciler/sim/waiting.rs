//! What a cluster does by itself: it has no room, starts again, and takes from nodes.

use crate::model::fixtures::pod;
use crate::model::{
    ComponentSpec, Disruption, DisruptionKind, EarlierEnd, EngineHealth, EventKind, Exit, Hold,
    HumanDuration, Partition, Probe, ProbeCheck, ReplicaStatus,
};

use super::world::NO_ROOM;
use super::*;

fn in_cluster(id: &str, hash: u64) -> ComponentSpec {
    ComponentSpec {
        workload: pod(),
        ..component(id, hash, &[])
    }
}

fn replica(world: &World) -> ReplicaStatus {
    let snapshot = world.core.snapshot();
    snapshot.pipelines[0].components[0].replicas[0].clone()
}

fn count(world: &World, kind: EventKind) -> usize {
    let kinds = world.events.values().map(|event| event.kind);
    kinds.filter(|one| *one == kind).count()
}

/// A world in which the only component waits for room.
fn without_room(seed: u64) -> World {
    let mut world = World::new(seed);
    (world.calm, world.crowded) = (true, true);
    world.apply(pipeline(vec![in_cluster("a", 1)]));
    while world.alive().is_empty() || replica(&world).phase != PhaseName::Pending {
        world.step();
    }
    world
}

fn pass(world: &mut World, millis: i64) {
    let until = world.now.shifted(millis);
    while world.now < until {
        world.step();
    }
}

#[test]
fn what_waits_for_room_for_hours_is_no_failure_also_for_the_next_daemon() {
    let mut world = without_room(31);
    for _ in 0..2 {
        pass(&mut world, 3_600_000);
        let shown = replica(&world);
        assert_eq!(shown.phase, PhaseName::Pending);
        assert!(shown.why.contains(NO_ROOM), "{}", shown.why);
        assert!(matches!(shown.hold, Some(Hold::Pending(_))), "{shown:?}");
        assert_eq!((shown.restarts, shown.exit), (0, None));
        assert!(
            world.calls.len() <= DRIVERS.len(),
            "a call lasts as long as it waits"
        );
        world.die();
    }
    world.make_room();
    let spec = pipeline(vec![in_cluster("a", 1)]);
    world.converge(&spec, &BTreeSet::new());
    assert_eq!(world.started.len(), 1, "it was started once");
    assert_eq!(replica(&world).restarts, 0);
    assert_eq!(count(&world, EventKind::StartFailed), 0);
    assert_eq!(count(&world, EventKind::Adopted), 2);
    let waits = world.events.values();
    let mut waits = waits.filter(|event| event.kind == EventKind::Waiting);
    assert!(waits.all(|event| event.reason.contains(NO_ROOM)));
}

#[test]
fn an_engine_that_finds_another_reason_is_told_of_once() {
    let mut world = without_room(32);
    pass(&mut world, 60_000);
    assert_eq!(count(&world, EventKind::Waiting), 1);
    for thing in world.things.values_mut() {
        if let Life::Pending(pending) = &mut thing.life {
            pending.why = Some("exceeded quota team-a".to_owned());
        }
    }
    pass(&mut world, 60_000);
    assert!(replica(&world).why.contains("exceeded quota team-a"));
    assert_eq!(count(&world, EventKind::Waiting), 2);
}

#[test]
fn what_waits_for_room_is_given_up_for_an_edit_and_when_a_person_says_stop() {
    let mut world = without_room(33);
    let first = world.alive();
    world.apply(pipeline(vec![in_cluster("a", 2)]));
    while world.alive() == first || world.alive().is_empty() {
        world.step();
    }
    pass(&mut world, 60_000);
    assert_eq!(world.alive().len(), 1);
    assert_eq!(replica(&world).phase, PhaseName::Pending);
    world.ask("a", Request::Stop);
    pass(&mut world, 60_000);
    assert_eq!(world.alive(), []);
    assert_eq!(replica(&world).phase, PhaseName::Stopped);
    world.ask("a", Request::Start);
    world.make_room();
    let spec = pipeline(vec![in_cluster("a", 2)]);
    world.converge(&spec, &BTreeSet::new());
    assert_eq!(replica(&world).restarts, 0);
}

#[test]
fn who_removes_what_waits_by_hand_is_answered_ever_less_often() {
    let mut world = without_room(34);
    let until = world.now.shifted(600_000);
    while world.now < until {
        world.things.clear();
        world.step();
    }
    let tried = world.started.len();
    assert!((2..=60).contains(&tried), "{tried} starts in ten minutes");
    world.make_room();
    let spec = pipeline(vec![in_cluster("a", 1)]);
    world.converge(&spec, &BTreeSet::new());
    assert_eq!(replica(&world).restarts, 0, "nothing of it ever failed");
}

/// A world in which the only component runs in the cluster.
fn in_room(seed: u64) -> World {
    let mut world = World::new(seed);
    world.calm = true;
    let spec = pipeline(vec![in_cluster("a", 1)]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    world
}

fn restarted_inside(world: &mut World, id: &str, disruption: Option<Disruption>) {
    let now = world.now;
    let (instance, thing) = world.things.iter_mut().next().unwrap();
    let Life::Running { since } = thing.life else {
        panic!("{:?}", thing.life);
    };
    let exit = Exit {
        status: ExitStatus::Code(1),
        oom: false,
        started_at: Some(since),
        at: now,
        killed: 0,
    };
    thing.earlier.push(EarlierEnd {
        id: id.to_owned(),
        exit,
        disruption,
    });
    thing.life = Life::Running { since: now };
    *world.seen.inside.entry(instance.clone()).or_default() += 1;
}

#[test]
fn ends_inside_one_instance_are_counted_once_with_their_times_however_often_they_are_told() {
    let mut world = in_room(41);
    let spec = pipeline(vec![in_cluster("a", 1)]);
    let instance = world.alive();
    // Nobody is there to see it.
    let mut times = Vec::new();
    for end in ["one", "two"] {
        world.now = world.now.shifted(60_000);
        times.push(world.now);
        restarted_inside(&mut world, end, None);
    }
    for _ in 0..3 {
        world.die();
        world.converge(&spec, &BTreeSet::new());
        pass(&mut world, 30_000);
    }
    let shown = replica(&world);
    assert_eq!((shown.restarts, shown.ready), (2, true));
    assert_eq!(world.alive(), instance, "it runs on as it was");
    let record = world.core.pipelines.values().next().unwrap();
    let record = record.records.values().next().unwrap();
    assert_eq!(record.history.failures, 2);
    let recent = record.history.recent.iter().map(|failure| failure.at);
    assert_eq!(recent.collect::<Vec<_>>(), times);
    world.check_ends();
    assert_eq!(count(&world, EventKind::Exited), 2);
    let told = world.events.values();
    let mut told = told.filter(|event| event.kind == EventKind::Exited);
    assert!(told.all(|event| event.message.contains("its engine started it again")));
}

#[test]
fn what_the_cluster_takes_from_its_node_is_never_counted_and_the_reason_is_told() {
    let evicted = Disruption {
        kind: DisruptionKind::Evicted,
        message: Some("The node was low on resource: memory".to_owned()),
    };
    let told = "it was evicted from its node: The node was low on resource: memory";
    // Inside the instance, and for good.
    for inside in [true, false] {
        let mut world = in_room(42);
        let before = world.alive();
        pass(&mut world, 5_000);
        if inside {
            restarted_inside(&mut world, "one", Some(evicted.clone()));
        } else {
            let thing = world.things.values_mut().next().unwrap();
            let exit = Exit {
                status: ExitStatus::Unknown,
                oom: false,
                started_at: None,
                at: world.now,
                killed: 0,
            };
            let disruption = evicted.clone();
            thing.life = Life::Disrupted { exit, disruption };
        }
        pass(&mut world, 30_000);
        let spec = pipeline(vec![in_cluster("a", 1)]);
        world.converge(&spec, &BTreeSet::new());
        assert_eq!(world.alive() == before, inside);
        assert_eq!(replica(&world).restarts, 0);
        let record = world.core.pipelines.values().next().unwrap();
        let record = record.records.values().next().unwrap();
        assert_eq!(record.history.failures, 0);
        let mut events = world.events.values();
        assert!(
            events.any(|event| event.kind == EventKind::Exited && event.reason == told),
            "{:?}",
            world.events
        );
    }
}

#[test]
fn a_refusal_in_one_namespace_makes_no_other_unknown_and_nothing_vanish() {
    let mut world = World::new(51);
    world.calm = true;
    let spec = || {
        let of = |id, namespace| ComponentSpec {
            workload: faults::pod_in(namespace),
            ..component(id, 1, &[])
        };
        pipeline(vec![of("a", "one"), of("b", "two")])
    };
    world.apply(spec());
    world.converge(&spec(), &BTreeSet::new());
    let alive = world.alive();
    let phases = |world: &World| {
        let snapshot = world.core.snapshot();
        let components = snapshot.pipelines[0].components.iter();
        let replicas = components.map(|one| one.replicas[0].clone());
        replicas.collect::<Vec<_>>()
    };
    world.hidden = [Partition::new("one")].into();
    for _ in 0..2 {
        pass(&mut world, 60_000);
        let [a, b] = &phases(&world)[..] else {
            panic!("two replicas");
        };
        assert_eq!(a.phase, PhaseName::Unknown);
        let why = "the kubernetes driver cannot look at one: pods is forbidden";
        assert_eq!(a.why, why);
        assert_eq!((b.phase, b.ready), (PhaseName::Running, true));
        let told = world.core.snapshot().conditions.clone();
        let told: Vec<_> = told.iter().map(|one| one.about.clone()).collect();
        assert_eq!(told, [Some("kubernetes one".to_owned())]);
        assert_eq!(world.alive(), alive);
        world.die();
    }
    world.hidden.clear();
    world.converge(&spec(), &BTreeSet::new());
    assert_eq!(world.alive(), alive, "nothing was restarted");
    assert!(phases(&world).iter().all(|replica| replica.restarts == 0));
}

#[test]
fn a_cluster_that_asks_the_probes_itself_decides_who_is_ready() {
    let mut world = World::new(61);
    world.calm = true;
    let mut spec = in_cluster("a", 1);
    spec.probes.readiness = Some(Probe {
        check: ProbeCheck::Tcp { port: 1.into() },
        period: HumanDuration::from_secs(10),
        timeout: HumanDuration::from_secs(2),
        failures: 1,
        successes: 1,
    });
    world.apply(pipeline(vec![spec]));
    while world.alive().is_empty() {
        world.step();
    }
    let says = |world: &mut World, health: EngineHealth| {
        for thing in world.things.values_mut() {
            thing.health = Some(health.clone());
        }
        pass(world, 30_000);
        let shown = replica(world);
        (shown.phase, shown.why)
    };
    let (phase, why) = says(&mut world, EngineHealth::Starting);
    assert_eq!(phase, PhaseName::Starting);
    assert!(
        why.contains("its readiness probe has not passed yet"),
        "{why}"
    );
    let (phase, _) = says(&mut world, EngineHealth::Healthy);
    assert_eq!(phase, PhaseName::Running);
    let refused = "dial tcp 10.0.0.7:1: connection refused".to_owned();
    let (phase, why) = says(&mut world, EngineHealth::Unhealthy(refused.clone()));
    assert_eq!(phase, PhaseName::Unhealthy);
    assert!(why.contains(&refused), "{why}");
    world.die();
    pass(&mut world, 30_000);
    assert_eq!(replica(&world).phase, PhaseName::Unhealthy);
    let (phase, _) = says(&mut world, EngineHealth::Healthy);
    assert_eq!(phase, PhaseName::Running);
    assert_eq!(world.started.len(), 1, "nothing was restarted");
    assert_eq!(
        world.probed,
        BTreeSet::new(),
        "the daemon asks nothing itself"
    );
}

#[test]
fn what_is_on_a_machine_that_does_not_report_is_unknown_and_no_second_one_is_started() {
    let mut world = in_room(71);
    let alive = world.alive();
    world.unseen = alive.iter().cloned().collect();
    for _ in 0..2 {
        pass(&mut world, 600_000);
        let shown = replica(&world);
        assert_eq!(shown.phase, PhaseName::Unknown);
        let why = "the kubernetes driver knows nothing of it: node n3 has not reported for 62 s";
        assert_eq!(shown.why, why);
        let told = world.core.snapshot().conditions.clone();
        let told: Vec<_> = told.iter().map(|one| one.why.as_str()).collect();
        assert_eq!(told, [why]);
        assert_eq!(world.alive(), alive);
        world.die();
    }
    world.unseen.clear();
    let spec = pipeline(vec![in_cluster("a", 1)]);
    world.converge(&spec, &BTreeSet::new());
    assert_eq!((world.alive(), world.started.len()), (alive, 1));
    assert_eq!(replica(&world).restarts, 0);
}
