//! The owner under simulated time and a scripted world: random edits, exits, slow, blind and
//! failing drivers, lost hints, a store that fails, a clock that is set, and deaths of the daemon
//! between any two effects. Each seed replays exactly: `FLOWCTL_SIM_SEED=17 cargo test simulated`.
//!
//! A scenario of its own is a few lines: make a [`World`], apply a pipeline, let it
//! [`converge`](World::converge) or [`step`](World::step), and assert. What must hold in every state
//! is asserted at each step, by [`properties`].

use std::collections::BTreeSet;

use crate::driver::{DriverError, Scope};
use crate::model::fixtures::{component, container, daemon, pipeline};
use crate::model::{DriverKind, ExitStatus, InstanceId, Life, PhaseName, StartFailure, Timestamp};

use super::core::{Core, Input, Kept};
use super::handle::{Command, Origin, Request};

use faults::{Fault, File};
use world::{Call, DRIVERS, Thing, World};

mod ending;
mod faults;
mod handover;
mod properties;
mod retries;
mod times;
mod upstream;
mod waiting;
mod words;
mod world;

const DAY: i64 = 24 * 3600 * 1000;

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    let mut file = File::new(&mut world.random);
    let mut stopped = BTreeSet::new();
    world.apply(file.wanted.clone());
    for _ in 0..world.random.below(400) {
        world.step();
        if let Some(fault) = Fault::draw(&mut world.random) {
            world.suffer(fault, &mut file);
        }
    }
    world.calm_down();
    let wanted = file.wanted;
    // A person has the last word on every component, so what is wanted is known.
    for id in wanted.components.keys().cloned().collect::<Vec<_>>() {
        let stop = world.random.one_in(6);
        let mut asked = false;
        while !asked {
            world.step();
            let durable = world.core.snapshot().daemon.is_some_and(|d| d.durable);
            asked = durable;
        }
        world.ask(
            id.as_str(),
            if stop { Request::Stop } else { Request::Start },
        );
        if stop {
            stopped.insert(id);
        }
    }
    // What depends on a stopped component and never started waits for it, rightly.
    let mut waits = true;
    while waits {
        waits = false;
        for spec in wanted.components.values() {
            let blocked = spec.dependencies.iter().any(|d| stopped.contains(&d.id));
            if blocked && !stopped.contains(&spec.id) {
                let id = spec.id.clone();
                world.ask(id.as_str(), Request::Stop);
                stopped.insert(id);
                waits = true;
            }
        }
    }
    world.converge(&wanted, &stopped);
    let before = (world.alive(), world.started.len());
    let until = world.now.shifted(300_000);
    while world.now < until {
        world.step();
    }
    assert_eq!(
        (world.alive(), world.started.len()),
        before,
        "it acts although nothing changed"
    );
    world.check_ends();
}

#[test]
fn simulated_faults_end_in_the_wanted_state_with_one_instance_each() {
    if let Ok(seed) = std::env::var("FLOWCTL_SIM_SEED") {
        return simulate(seed.parse().unwrap());
    }
    let seeds: u64 = std::env::var("FLOWCTL_SIM_SEEDS").map_or(1_000, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| simulate(seed));
        assert!(result.is_ok(), "replay with FLOWCTL_SIM_SEED={seed}");
    }
}

#[test]
fn edit_restarts_only_the_changed_component_in_dependency_order() {
    let mut world = World::new(7);
    world.calm = true;
    let spec = |b: u64, c: u64| {
        pipeline(vec![
            component("a", 1, &[]),
            component("b", b, &["a"]),
            component("c", c, &["b"]),
        ])
    };
    let none = BTreeSet::new();
    world.apply(spec(1, 1));
    world.converge(&spec(1, 1), &none);
    let order: Vec<String> = world
        .started
        .iter()
        .map(|id| id.replica.to_string())
        .collect();
    assert_eq!(order, ["a", "b", "c"]);
    world.started.clear();
    world.apply(spec(2, 2));
    world.converge(&spec(2, 2), &none);
    let order: Vec<String> = world
        .started
        .iter()
        .map(|id| id.replica.to_string())
        .collect();
    assert_eq!(order, ["b", "c"]);
}

#[test]
fn a_lost_store_is_rebuilt_from_what_runs_without_a_restart() {
    let mut world = World::new(9);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &["a"])]);
    let none = BTreeSet::new();
    world.apply(spec.clone());
    world.converge(&spec, &none);
    let before = world.alive();
    let pipelines = world.disk.pipelines.clone();
    world.disk = Kept {
        pipelines,
        ..Kept::default()
    };
    world.events.clear();
    world.calls.clear();
    world.commits.clear();
    world.core = Core::new(world.disk.clone(), DRIVERS, daemon(), world.now);
    world.converge(&spec, &none);
    assert_eq!(world.alive(), before);
}

#[test]
fn a_stop_says_how_its_instance_ended_without_another_look() {
    let mut world = World::new(21);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[])]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    world.ask("a", Request::Stop);
    let replica = |world: &World| {
        let snapshot = world.core.snapshot();
        snapshot.pipelines[0].components[0].replicas[0].clone()
    };
    while replica(&world).phase != PhaseName::Stopped {
        world.step();
        world.turn();
        let mut calls = world.calls.iter();
        let is_closer = calls.any(|(_, call)| matches!(call, Call::Look(_, Scope::Instances(_))));
        assert!(!is_closer, "its end is looked for once more");
    }
    let exit = replica(&world).exit.and_then(|exit| exit.code);
    assert_eq!(exit, Some(143));
}
