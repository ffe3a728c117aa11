//! Backoffs and readiness in true time, also when somebody sets the host's clock. The clock of a
//! real host cannot be set for one process alone, so it is set here.

use std::collections::BTreeMap;

use crate::driver::Scope;
use crate::model::{Boot, ConditionKind, ProcessIdentity};

use super::*;

/// Lets the only component crash again and again, with `between` in the middle of each backoff, and
/// answers how many true seconds passed between the starts.
fn gaps_between_starts(world: &mut World, count: usize, between: fn(&mut World)) -> Vec<u64> {
    world.calm = true;
    let mut crashy = component("a", 1, &[]);
    crashy.restart.jitter = 0.0;
    world.apply(pipeline(vec![crashy]));
    let mut gaps = Vec::new();
    let mut last: Option<Timestamp> = None;
    while gaps.len() < count {
        world.step();
        let Some(id) = world.alive().first().cloned() else {
            continue;
        };
        if let Some(last) = last {
            gaps.push(world.true_now().since(last).as_secs());
        }
        last = Some(world.true_now());
        world.exit(&id, ExitStatus::Code(1));
        let driver = DriverKind::Process;
        let instances = [id].into();
        world
            .core
            .handle(Input::Hinted { driver, instances }, world.now);
        let waits = |world: &World| {
            let snapshot = world.core.snapshot();
            let replica = &snapshot.pipelines[0].components[0].replicas[0];
            matches!(replica.phase, PhaseName::Backoff | PhaseName::Crashloop)
                && world.commits.is_empty()
        };
        while !waits(world) {
            world.step();
        }
        between(world);
    }
    gaps
}

#[test]
fn a_crashing_component_waits_longer_each_time_and_never_gives_up() {
    let mut world = World::new(11);
    let gaps = gaps_between_starts(&mut world, 8, |_| {});
    assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 60, 60]);
    let snapshot = world.core.snapshot();
    let replica = &snapshot.pipelines[0].components[0].replicas[0];
    assert_eq!(replica.restarts, 8);
}

#[test]
fn a_clock_that_is_set_by_a_day_shortens_and_lengthens_no_backoff() {
    let to_and_fro = |world: &mut World| {
        let millis = if world.set_by > 0 { -DAY } else { DAY };
        world.step_clock(millis);
    };
    let forth = |world: &mut World| world.step_clock(DAY);
    let back = |world: &mut World| world.step_clock(-DAY);
    for between in [forth, back, to_and_fro] {
        let mut world = World::new(12);
        let gaps = gaps_between_starts(&mut world, 8, between);
        assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 60, 60]);
        let replica = &world.core.snapshot().pipelines[0].components[0].replicas[0];
        assert_eq!(replica.phase, PhaseName::Crashloop);
    }
}

#[test]
fn a_daemon_that_dies_after_the_clock_was_set_keeps_its_backoffs_too() {
    let gaps = gaps_between_starts(&mut World::new(13), 6, |world| {
        world.step_clock(if world.set_by > 0 { -DAY } else { DAY });
        world.turn();
        while !world.commits.is_empty() {
            world.step();
        }
        world.die();
    });
    for (gap, expected) in gaps.into_iter().zip([1, 2, 4, 8, 16, 32]) {
        assert!(
            (expected..=expected + 1).contains(&gap),
            "{gap} s instead of {expected} s"
        );
    }
}

#[test]
fn a_clock_set_back_while_no_daemon_runs_parks_nothing_for_a_day() {
    let gaps = gaps_between_starts(&mut World::new(14), 6, |world| {
        world.set_clock(-DAY);
        world.die();
    });
    for (gap, expected) in gaps.into_iter().zip([1, 2, 4, 8, 16, 32]) {
        // The wait begins anew: what was over of it cannot be known.
        assert!(
            (expected..=2 * expected + 1).contains(&gap),
            "{gap} s instead of {expected} s"
        );
    }
}

#[test]
fn a_clock_that_is_set_before_a_component_is_ready_delays_no_readiness() {
    for millis in [DAY, -DAY] {
        for noticed in [true, false] {
            let mut world = World::new(15);
            world.calm = true;
            let spec = pipeline(vec![component("a", 1, &[])]);
            world.apply(spec.clone());
            while world.alive().is_empty() {
                world.step();
            }
            let started = world.true_now();
            if noticed {
                world.step_clock(millis);
            } else {
                world.set_clock(millis);
                world.die();
            }
            world.converge(&spec, &BTreeSet::new());
            assert!(world.true_now().since(started).as_secs() < 60);
            assert_eq!(world.started.len(), 1);
        }
    }
}

#[test]
fn processes_of_which_a_power_cut_left_no_trace_ended_with_their_boot() {
    let boot = |id: &str, began_at| Boot {
        id: id.to_owned(),
        began_at,
    };
    let process_of = |boot: &str, pid| ProcessIdentity {
        boot_id: boot.to_owned(),
        pid,
        start_ticks: 1,
    };
    for (ran_in, restarts) in [("before", 0), ("now", 1)] {
        let mut world = World::new(17);
        world.calm = true;
        let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &["a"])]);
        world.apply(spec.clone());
        world.converge(&spec, &BTreeSet::new());
        for record in world
            .disk
            .records
            .values_mut()
            .flat_map(BTreeMap::values_mut)
        {
            let instance = record.instance.as_mut().unwrap();
            instance.facts.processes = vec![process_of(ran_in, 10), process_of(ran_in, 11)];
        }
        world.things.clear();
        world.die();
        let began = world.now;
        world.core.booted(DriverKind::Process, boot("now", began));
        world.converge(&spec, &BTreeSet::new());
        for component in &world.core.snapshot().pipelines[0].components {
            assert_eq!(component.replicas[0].restarts, restarts, "{ran_in}");
        }
        let told = world.events.values();
        let told = told
            .filter(|event| event.message.contains("the host rebooted"))
            .count();
        assert_eq!(told > 0, restarts == 0, "{:?}", world.events);
    }
}

#[test]
fn after_a_silence_a_driver_is_looked_at_whole_before_it_counts_as_answering() {
    let mut world = World::new(19);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &[])]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    let driver = DriverKind::Process;
    world.blind.insert(driver);
    let is_blind = |world: &World| {
        let told = world.core.snapshot().conditions.clone();
        told.iter().any(|one| one.kind == ConditionKind::Blind)
    };
    while !is_blind(&world) {
        world.step();
    }
    for id in world.alive() {
        world.exit(&id, ExitStatus::Code(1));
    }
    world.blind.clear();
    let instances = [world.started[0].clone()].into();
    world
        .core
        .handle(Input::Hinted { driver, instances }, world.now);
    world.turn();
    let looks: Vec<_> = world
        .calls
        .iter()
        .filter_map(|(_, call)| match call {
            Call::Look(kind, scope) if *kind == driver => Some(scope.clone()),
            Call::Look(..)
            | Call::Start(_)
            | Call::Stop(..)
            | Call::Forget(_)
            | Call::Commit(_)
            | Call::Synced(_) => None,
        })
        .collect();
    assert_eq!(looks, [Scope::All]);
}
