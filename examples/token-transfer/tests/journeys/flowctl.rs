//! The shipped pipeline file under the real flowctl: the same journeys as programs and as containers.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use token_transfer::generator::LakePlan;

use crate::engine::{OTHER_TAG, TAG};
use crate::stage::{ALL, Program, Stage, rename, until};
use crate::world::{Runs, World, programs};

/// Makes two tests of each journey.
macro_rules! journeys {
    ($($journey:ident),+ $(,)?) => {
        mod as_processes {
            $(
                #[test]
                fn $journey() {
                    super::$journey(crate::world::Runs::Processes);
                }
            )+
        }

        mod as_containers {
            $(
                #[test]
                fn $journey() {
                    if let Some(engine) = crate::engine::Engine::shared(stringify!($journey)) {
                        super::$journey(crate::world::Runs::Containers(engine));
                    }
                }
            )+
        }
    };
}

journeys!(
    the_shipped_file_runs_in_the_foreground_and_leaves_nothing,
    each_program_killed_in_turn_is_restarted_and_no_event_is_lost,
    a_killed_daemon_costs_no_restart_and_no_event,
    all_four_killed_at_once_go_on_where_they_were,
    an_edit_of_the_processor_replaces_it_alone,
    another_build_of_the_processor_replaces_it_alone,
    a_lake_that_is_away_for_twenty_seconds_is_seen_and_costs_no_event,
    without_a_lake_the_others_wait_and_say_for_whom,
    down_at_any_moment_leaves_nothing_and_apply_goes_on,
);

fn the_shipped_file_runs_in_the_foreground_and_leaves_nothing(runs: Runs) {
    let world = World::new(Stage::with_lake(300), runs);
    let run = [
        "run",
        "pipeline.yaml",
        "--orchestrator",
        world.orchestrator(),
    ];
    let mut command = world.command(&run);
    let output = fs::File::create(world.stage.home().join("run.log")).unwrap();
    let run = command.stdout(output).stderr(Stdio::null()).spawn();
    let mut run = run.unwrap();
    until("the daemon of the run", || {
        world.stage.output().exists().then_some(())
    });
    world.verify();
    for program in ALL {
        assert_eq!(world.replica(program).unwrap()["restarts"], 0);
    }
    let running = world.all_running();
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    until("the end of the run", || run.try_wait().unwrap());
    for one in running {
        assert!(world.is_gone(&one), "{one} is still there");
    }
    let said = fs::read_to_string(world.stage.home().join("run.log")).unwrap();
    for program in ALL {
        let passed = format!("Component {} health check passed", world.id(program));
        assert!(said.contains(&passed), "{said}");
    }
}

fn each_program_killed_in_turn_is_restarted_and_no_event_is_lost(runs: Runs) {
    let world = World::in_the_middle(runs);
    for program in [Program::Consumer, Program::Processor, Program::Source] {
        let before = world.all_running();
        world.stage.feed(400);
        world.kill(&world.running(program).unwrap());
        world.until_restarts(program, 1);
        world.until_phase(program, "running");
        for (other, before) in ALL.into_iter().zip(before) {
            let same = world.running(other).unwrap() == before;
            assert_eq!(same, other != program, "{other:?}");
        }
        world.stage.until_flowing();
    }
    world.stage.feed_rest();
    world.verify();
}

fn a_killed_daemon_costs_no_restart_and_no_event(runs: Runs) {
    let world = World::in_the_middle(runs);
    let before = world.all_running();
    world.stage.feed(400);
    world.kill_daemon();
    // The stream goes on without a daemon, and the status says so.
    for program in ALL {
        assert_eq!(world.replica(program).unwrap()["phase"], "running");
    }
    world.stage.feed(400);
    world.stage.until_flowing();
    world.stage.feed(400);
    world.apply("--wait");
    assert_eq!(world.all_running(), before);
    world.stage.feed_rest();
    world.verify();
    assert_eq!(world.all_running(), before);
}

fn all_four_killed_at_once_go_on_where_they_were(runs: Runs) {
    let world = World::in_the_middle(runs);
    let running = world.all_running();
    world.stage.feed(400);
    world.kill_daemon();
    for one in running {
        world.kill(&one);
    }
    for program in ALL {
        until(&format!("a status that misses {program:?}"), || {
            world.running(program).is_none().then_some(())
        });
    }
    world.apply("--wait");
    world.stage.feed_rest();
    world.verify();
}

fn an_edit_of_the_processor_replaces_it_alone(runs: Runs) {
    let world = World::in_the_middle(runs);
    replaces_the_processor_alone(&world, || {
        world.replace("LOG_LEVEL: info", "LOG_LEVEL: debug");
    });
}

fn another_build_of_the_processor_replaces_it_alone(runs: Runs) {
    let world = World::in_the_middle(runs);
    let (old, new) = match &world.runs {
        Runs::Processes => {
            let old = programs().join("ttp-processor");
            let new = world.stage.home().join("ttp-processor-2");
            fs::copy(&old, &new).unwrap();
            let line = |path: &Path| format!("binary: {}\n", path.display());
            (line(&old), line(&new))
        }
        Runs::Containers(engine) => {
            let image = "token-transfer/ttp-processor";
            let tag = format!("/images/{image}:{TAG}/tag?repo={image}&tag={OTHER_TAG}");
            engine.act("POST", &tag);
            (format!("{image}:{TAG}\n"), format!("{image}:{OTHER_TAG}\n"))
        }
    };
    replaces_the_processor_alone(&world, || world.replace(&old, &new));
}

fn replaces_the_processor_alone(world: &World, edit: impl FnOnce()) {
    let before = world.all_running();
    world.stage.feed(400);
    edit();
    until("another processor", || {
        let now = world.running(Program::Processor)?;
        (now != before[1]).then_some(())
    });
    world.stage.feed_rest();
    world.verify();
    let after = world.all_running();
    assert_eq!([&after[0], &after[2]], [&before[0], &before[2]]);
    for program in ALL {
        assert_eq!(world.replica(program).unwrap()["restarts"], 0);
    }
}

fn a_lake_that_is_away_for_twenty_seconds_is_seen_and_costs_no_event(runs: Runs) {
    let world = World::new(Stage::with_lake(2000), runs);
    // Told at once and not after the thirty seconds of the usual probe.
    world.replace(
        "  defaults:\n",
        "  defaults:\n    probes: { readiness: { period: 200ms } }\n",
    );
    let before = {
        world.apply("--no-wait");
        world.stage.until_written(300);
        rename(
            &world.stage.lake(),
            &world.stage.lake().with_extension("away"),
        );
        world.all_running()
    };
    world.until_phase(Program::Source, "unhealthy");
    // The length of the outage is the point here, not something that is waited for.
    std::thread::sleep(Duration::from_secs(20));
    let seen = world.replica(Program::Source).unwrap();
    assert_eq!(seen["phase"], "unhealthy", "{seen:#}");
    rename(
        &world.stage.lake().with_extension("away"),
        &world.stage.lake(),
    );
    world.verify();
    assert_eq!(world.all_running(), before, "nothing had to be restarted");
}

fn without_a_lake_the_others_wait_and_say_for_whom(runs: Runs) {
    let world = World::new(Stage::empty(2001), runs);
    world.apply("--no-wait");
    world.until_phase(Program::Source, "starting");
    for (waits, whom) in [
        (Program::Processor, Program::Source),
        (Program::Consumer, Program::Processor),
    ] {
        let waiting = world.until_phase(waits, "pending");
        let why = waiting["why"].as_str().unwrap();
        assert!(why.contains(&world.id(whom)), "{waiting:#}");
    }
    LakePlan::of(2000).make(&world.stage.lake()).unwrap();
    world.verify();
    assert_eq!(world.replica(Program::Consumer).unwrap()["restarts"], 0);
}

fn down_at_any_moment_leaves_nothing_and_apply_goes_on(runs: Runs) {
    let world = World::new(Stage::with_hungry_lake(2000), runs);
    for moment in [0, 30, 100, 300, 700, 1500] {
        world.stage.feed(300);
        world.apply("--no-wait");
        std::thread::sleep(Duration::from_millis(moment));
        let running: Vec<String> = ALL
            .into_iter()
            .filter_map(|program| world.running(program))
            .collect();
        world.ok(&["down"]);
        for one in running {
            assert!(world.is_gone(&one), "{one} is still there");
        }
        for program in ALL {
            let status = world.replica(program);
            assert!(
                status.as_ref().is_none_or(
                    |replica| replica["pid"].is_null() && replica["container"].is_null()
                ),
                "{status:#?}"
            );
        }
    }
    world.apply("--wait");
    world.stage.feed_rest();
    world.verify();
}
