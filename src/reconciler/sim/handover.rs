//! What an edit gives from one instance to another changes hands in order.

use crate::model::{PipelineSpec, Port, Protocol};

use super::*;

fn with_port(id: &str, revision: u64, number: u16) -> crate::model::ComponentSpec {
    let mut spec = component(id, revision, &[]);
    spec.ports = vec![Port {
        name: None,
        container_port: number,
        host_port: None,
        host_ip: None,
        protocol: Protocol::Tcp,
    }];
    spec
}

fn named(name: &str, components: Vec<crate::model::ComponentSpec>) -> PipelineSpec {
    let mut spec = pipeline(components);
    spec.key.name = name.parse().unwrap();
    spec
}

/// What each live instance has of the host's ports, each at most once.
fn ports(world: &World, specs: &[&PipelineSpec]) {
    let mut taken = BTreeSet::new();
    for id in world.alive() {
        let hash = &world.things[&id].spec;
        let of_it = specs.iter().filter(|one| one.key == id.pipeline);
        let ports = of_it
            .filter_map(|one| one.components.get(&id.replica.component))
            .filter(|spec| spec.hash == *hash)
            .flat_map(|spec| &spec.ports);
        // What two definitions of one instance agree upon is listed twice.
        let ports: BTreeSet<u16> = ports.map(|port| port.container_port).collect();
        for port in ports {
            assert!(taken.insert(port), "port {port} is wanted by two at once");
        }
    }
}

/// Applies one file after another and checks at every step that nobody gets what another has.
fn edits(seed: u64, files: &[Vec<PipelineSpec>]) -> World {
    let mut world = World::new(seed);
    world.calm = true;
    let all: Vec<&PipelineSpec> = files.iter().flatten().collect();
    for file in files {
        world.apply_all(Origin::Watch, file.clone());
        let mut is_settled = false;
        for _ in 0..2_000 {
            world.step();
            ports(&world, &all);
            let wanted = file.iter().flat_map(|one| one.components.values());
            let things = world.things.values();
            let alive: Vec<&Thing> = things.filter(|it| it.life.is_alive()).collect();
            is_settled = wanted
                .clone()
                .all(|spec| alive.iter().any(|it| it.spec == spec.hash))
                && alive.len() == wanted.count();
            if is_settled {
                break;
            }
        }
        assert!(is_settled, "{:?}", world.core.snapshot());
    }
    for pipeline in &world.core.snapshot().pipelines {
        for replica in pipeline.components.iter().flat_map(|one| &one.replicas) {
            assert_eq!(replica.restarts, 0);
        }
    }
    world
}

#[test]
fn a_port_changes_hands_in_order_whatever_is_renamed_or_moved() {
    let one = |components| vec![named("one", components)];
    for (what, files) in [
        (
            "a component gets another name",
            vec![
                one(vec![with_port("old", 1, 80)]),
                one(vec![with_port("new", 2, 80)]),
            ],
        ),
        (
            "a pipeline gets a name that sorts before",
            vec![
                one(vec![with_port("a", 1, 80)]),
                vec![named("another", vec![with_port("a", 2, 80)])],
            ],
        ),
        (
            "a pipeline gets a name that sorts behind",
            vec![
                one(vec![with_port("a", 1, 80)]),
                vec![named("two", vec![with_port("a", 2, 80)])],
            ],
        ),
        (
            "two components swap their ports",
            vec![
                one(vec![with_port("a", 1, 80), with_port("b", 2, 81)]),
                one(vec![with_port("a", 3, 81), with_port("b", 4, 80)]),
            ],
        ),
        (
            "two components of two pipelines swap their ports",
            vec![
                vec![
                    named("one", vec![with_port("a", 1, 80)]),
                    named("two", vec![with_port("b", 2, 81)]),
                ],
                vec![
                    named("one", vec![with_port("a", 3, 81)]),
                    named("two", vec![with_port("b", 4, 80)]),
                ],
            ],
        ),
        (
            "a new one gets the port that another moves off",
            vec![
                one(vec![with_port("b", 1, 80)]),
                one(vec![with_port("a", 2, 80), with_port("b", 3, 81)]),
            ],
        ),
        ("all move by one along their edges", {
            let chain = |from: u64, port: u16| {
                let mut sink = with_port("sink", from + 1, port + 1);
                sink.dependencies = component("x", 1, &["source"]).dependencies;
                one(vec![with_port("source", from, port), sink])
            };
            vec![chain(1, 80), chain(3, 81), chain(5, 80)]
        }),
    ] {
        for seed in 0..20 {
            eprintln!("{what}, seed {seed}");
            edits(seed, &files);
        }
    }
}

#[test]
fn who_is_waited_for_is_told_and_the_wait_outlives_the_daemon() {
    let mut world = World::new(3);
    world.calm = true;
    let old = pipeline(vec![with_port("old", 1, 80)]);
    world.apply(old.clone());
    world.converge(&old, &BTreeSet::new());
    // It does not end for a while.
    let new = pipeline(vec![with_port("new", 2, 80)]);
    world.apply(new.clone());
    let is_stopping = |call: &Call| matches!(call, Call::Stop(..));
    while !world.calls.iter().any(|(_, call)| is_stopping(call)) {
        world.step();
        world.turn();
    }
    for (at, call) in &mut world.calls {
        if is_stopping(call) {
            *at = at.shifted(5_000);
        }
    }
    world.turn();
    let why = |world: &World| {
        let snapshot = world.core.snapshot();
        let components = &snapshot.pipelines[0].components;
        let new = components
            .iter()
            .find(|one| one.id.as_str() == "new")
            .unwrap();
        new.replicas[0].why.clone()
    };
    let expected = "waiting until these are gone: old (has port 80/tcp)";
    assert_eq!(why(&world), expected);
    world.calls.retain(|(_, call)| !is_stopping(call));
    world.die();
    world.apply(new.clone());
    let is_blind = |world: &World| {
        world.core.drivers[&DriverKind::Process]
            .blindness()
            .is_some()
    };
    while is_blind(&world) {
        world.step();
    }
    world.turn();
    assert_eq!(why(&world), expected);
    world.converge(&new, &BTreeSet::new());
}
