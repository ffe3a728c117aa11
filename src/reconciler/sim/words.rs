//! Every kind of event that the help topic lists comes out, and no other.

use std::collections::BTreeMap;

use crate::model::{
    EventKind, Evidence, Expected, HumanDuration, Instance, Metric, OnStall, Phase, Probe,
    ProbeCheck, ProbeOutcome, Problem, Progress, RestartMode, Watches,
};
use crate::probe::Report;
use crate::reconciler::registry::{Beat, Identity, Introduction, RegistryCommand};

use super::*;

/// The kinds in the table of the help topic on events.
fn in_topic() -> BTreeSet<String> {
    let table = include_str!("../../cli/topics/events.md");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let kinds = rows.flat_map(|row| {
        let kinds = row.split(" | ").next().unwrap_or_default();
        kinds
            .split(", ")
            .map(|kind| kind.trim_matches('`').to_owned())
    });
    kinds.collect()
}

fn seen(world: &World) -> BTreeSet<String> {
    let events = world.events.values();
    events.map(|event| event.kind.to_string()).collect()
}

/// Steps until an event of this kind is recorded.
fn until(world: &mut World, kind: EventKind) {
    for _ in 0..20_000 {
        if world.events.values().any(|event| event.kind == kind) {
            return;
        }
        world.step();
    }
    panic!("no event of the kind {kind}");
}

fn probed(world: &mut World, outcome: &ProbeOutcome) {
    let pipeline = world.core.pipelines.values().next().unwrap();
    let running = pipeline
        .records
        .values()
        .filter_map(|record| match &record.instance {
            Some(Instance {
                id,
                phase: Phase::Running { .. },
                ..
            }) => Some(id.clone()),
            Some(_) | None => None,
        });
    let probed: Vec<InstanceId> = running
        .filter(|id| id.replica.component.as_str() == "probed")
        .collect();
    for instance in probed {
        let report = Report {
            instance,
            kind: crate::model::ProbeKind::Readiness,
            outcome: outcome.clone(),
            counts: crate::model::Counts::Counted,
            took: std::time::Duration::ZERO,
        };
        world.core.handle(Input::Probed(report), world.now);
    }
}

fn command(world: &mut World, command: Command) {
    world.core.handle(Input::Command(command), world.now);
}

#[test]
fn every_kind_of_event_that_is_promised_is_seen_to_come_out() {
    let all: BTreeSet<String> = EventKind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(in_topic(), all);

    let mut world = World::new(41);
    world.calm = true;
    world.core.opened("to be watched");
    let job = |id: &str, mode| {
        let mut job = component(id, 1, &[]);
        job.restart.mode = mode;
        job
    };
    let mut probed_one = component("probed", 1, &[]);
    probed_one.probes.readiness = Some(Probe {
        check: ProbeCheck::Tcp { port: 1.into() },
        period: HumanDuration::from_secs(10),
        timeout: HumanDuration::from_secs(2),
        failures: 1,
        successes: 1,
    });
    probed_one.progress = Some(Progress {
        watches: Watches::Metric("ledger".to_owned()),
        max_age: HumanDuration::from_secs(60),
        startup: HumanDuration::from_secs(60),
        expected: Expected::Always,
        on_stall: OnStall::Tell,
    });
    world.apply(pipeline(vec![
        component("a", 1, &[]),
        component("b", 1, &["a"]),
        job("done", RestartMode::OnFailure),
        job("broken", RestartMode::Never),
        probed_one,
    ]));
    until(&mut world, EventKind::Waiting);
    until(&mut world, EventKind::Started);
    let starting = |world: &World| {
        let mut calls = world.calls.iter();
        calls.find_map(|(_, call)| match call {
            Call::Start(launch) => Some(launch.instance.clone()),
            Call::Stop(..)
            | Call::Forget(_)
            | Call::Look(..)
            | Call::Commit(_)
            | Call::Synced(_) => None,
        })
    };
    let starts = loop {
        world.step();
        world.turn();
        if let Some(starts) = starting(&world) {
            break starts;
        }
    };
    let said = BTreeMap::from([(starts, "pulling".to_owned())]);
    world.core.handle(Input::Said(said), world.now);
    until(&mut world, EventKind::Ready);
    probed(&mut world, &ProbeOutcome::Pass);
    probed(&mut world, &ProbeOutcome::Fail("HTTP 503".to_owned()));
    until(&mut world, EventKind::Unready);

    let end = |world: &mut World, component: &str, code| {
        let alive = world.alive();
        let id = alive
            .iter()
            .find(|id| id.replica.component.as_str() == component);
        let Some(id) = id.cloned() else {
            return;
        };
        world.exit(&id, ExitStatus::Code(code));
        let (driver, instances) = (DriverKind::Process, [id].into());
        world
            .core
            .handle(Input::Hinted { driver, instances }, world.now);
    };
    let lives = |world: &World, component: &str| {
        let alive = world.alive();
        alive
            .iter()
            .any(|id| id.replica.component.as_str() == component)
    };
    while !(lives(&world, "b") && lives(&world, "done") && lives(&world, "broken")) {
        world.step();
    }
    end(&mut world, "done", 0);
    end(&mut world, "broken", 1);
    until(&mut world, EventKind::Completed);
    until(&mut world, EventKind::Failed);
    for _ in 0..200_000 {
        if seen(&world).contains("crashloop") {
            break;
        }
        end(&mut world, "a", 1);
        world.step();
    }
    until(&mut world, EventKind::Crashloop);

    world.ask("b", Request::Stop);
    until(&mut world, EventKind::Requested);
    until(&mut world, EventKind::Stopped);
    world.calm = false;
    for _ in 0..500 {
        if seen(&world).contains("stop-failed") && seen(&world).contains("start-failed") {
            break;
        }
        world.ask("probed", Request::Restart(crate::model::Pull::No));
        for _ in 0..50 {
            world.step();
        }
    }
    world.calm_down();

    let file = std::path::PathBuf::from("/p.yaml");
    let problem = Problem {
        file: Some(file.clone()),
        line: None,
        column: None,
        message: "it is empty".to_owned(),
    };
    for problem in [Some(problem), None] {
        let file = file.clone();
        command(&mut world, Command::Problem { file, problem });
    }
    until(&mut world, EventKind::Recovered);

    // It may still be in the middle of a restart.
    let is_steady = |world: &World| {
        let pipeline = world.core.pipelines.values().next().unwrap();
        let runs = pipeline.records.iter().any(|(key, record)| {
            let phase = record.instance.as_ref().map(|instance| &instance.phase);
            key.component.as_str() == "probed" && matches!(phase, Some(Phase::Running { .. }))
        });
        let is_left_alone = pipeline.busy.is_empty() && pipeline.plan.steps.is_empty();
        runs && is_left_alone && lives(world, "probed")
    };
    world.step();
    while !is_steady(&world) {
        world.step();
    }
    let (reply, _answer) = tokio::sync::oneshot::channel();
    let alive = world.alive().into_iter();
    let mut probed = alive.filter(|id| id.replica.component.as_str() == "probed");
    let who = Identity::Instance {
        id: probed.next().unwrap(),
        by: Evidence::Container,
    };
    let intro = Box::new(Introduction {
        wanted: Some("probed".parse().unwrap()),
        names: vec!["probed".to_owned()],
        who: who.clone(),
        ..Introduction::default()
    });
    let register = RegistryCommand::Register { intro, reply };
    command(&mut world, Command::Registry(register));
    until(&mut world, EventKind::Registered);
    until(&mut world, EventKind::Silent);
    let beat = |world: &mut World, ledger: f64| {
        let beat = Beat {
            at: world.now,
            said: None,
            metrics: [("ledger".to_owned(), Metric::number(ledger))].into(),
            ip: None,
            who: who.clone(),
        };
        let beats = [("probed".parse().unwrap(), beat)].into();
        world.core.handle(Input::Beats(beats), world.now);
    };
    beat(&mut world, 7.0);
    until(&mut world, EventKind::Heard);
    let stands_still = |world: &World| {
        let snapshot = world.core.snapshot();
        snapshot.replicas().any(|(_, _, replica)| {
            let progress = replica.progress.as_ref();
            progress.is_some_and(|it| it.stalled_since.is_some())
        })
    };
    while !stands_still(&world) {
        world.step();
    }
    until(&mut world, EventKind::Stalled);
    beat(&mut world, 8.0);
    until(&mut world, EventKind::Advanced);

    world.blind.insert(DriverKind::Process);
    until(&mut world, EventKind::Blind);
    world.blind.clear();
    until(&mut world, EventKind::Sighted);
    world.disk_full = true;
    while world.core.snapshot().daemon.is_some_and(|it| it.durable) {
        world.step();
    }
    world.disk_full = false;
    until(&mut world, EventKind::Durable);

    let (reply, _answer) = tokio::sync::oneshot::channel();
    let why = "SIGTERM".to_owned();
    command(&mut world, Command::Leave { why, reply });
    until(&mut world, EventKind::DaemonStopping);
    world.die();
    let damage = std::path::Path::new("/state/store.damaged");
    world.core.rebuilt(damage, "a page does not match its sum");
    until(&mut world, EventKind::Rebuilt);
    until(&mut world, EventKind::Adopted);
    let (reply, _answer) = tokio::sync::oneshot::channel();
    let key = pipeline(vec![]).key;
    command(
        &mut world,
        Command::Delete {
            pipeline: key,
            reply,
        },
    );
    until(&mut world, EventKind::Deleted);
    assert_eq!(seen(&world), all);
}
