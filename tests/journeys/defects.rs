//! Panics, which are defects of flowctl, made on purpose in each of its parts in turn.

use std::fs::{self, File};
use std::process::Stdio;

use flowctl::clock::Clock;

use crate::support::{World, end_of, eventually, kill, pipeline, sleeper};

/// A world whose programs fail where the folder `points` has a file of the point's name.
fn failing_world() -> World {
    let mut world = World::new();
    fs::create_dir(world.path("points")).unwrap();
    let points = world.path("points");
    world.set("FLOWCTL_FAILPOINTS", points.to_str().unwrap());
    world
}

/// Makes whoever comes to `point` next panic, and waits until it has. The watch of files comes there
/// when one of them is touched.
fn break_at(world: &World, point: &str) {
    let armed = world.path("points").join(point);
    File::create(&armed).unwrap();
    let same = world.read("p.yaml");
    world.write("p.yaml", &same);
    eventually(&format!("{point} fails"), || !armed.exists());
}

#[test]
fn whatever_part_of_a_daemon_panics_it_begins_again_and_no_component_notices() {
    let world = failing_world();
    let two = sleeper(
        "a",
        ", probes: { readiness: { exec: [\"true\"], period: 1s } }",
    ) + &sleeper("b", ", depends_on: [a]");
    world.apply(&two);
    let before = world.until("it is up", |status| status.settled());
    for (count, point) in ["prober", "reconciler", "watch"].into_iter().enumerate() {
        break_at(&world, point);
        let log = || world.read("state/daemon.log");
        eventually("it has begun again", || {
            log().matches("a part of flowctl panicked").count() == count + 1
                && log().matches("ready").count() >= count + 2
        });
        let after = world.until("it answers", |status| {
            status.has_daemon() && status.settled()
        });
        assert_eq!(after.daemon_pid(), before.daemon_pid(), "{}", log());
        for component in ["a", "b"] {
            assert_eq!(after.pid(component), before.pid(component), "{point}");
            assert_eq!(after.restarts(component), 0, "{point}");
        }
    }
    world.ok(&["down"]);
}

#[test]
fn a_run_of_which_a_part_panics_begins_again() {
    let world = failing_world();
    world.write("p.yaml", &pipeline(&sleeper("a", "")));
    let out = File::create(world.path("out")).unwrap();
    let errors = out.try_clone().unwrap();
    let mut run = world
        .command(&["run", "p.yaml"])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .unwrap();
    let starts = || {
        world
            .read("out")
            .matches("Pipeline started successfully")
            .count()
    };
    eventually("it is up", || starts() == 1);
    break_at(&world, "reconciler");
    eventually("it is up again", || starts() == 2);
    assert_eq!(world.marked().len(), 1, "one instance runs");
    kill(run.id(), "TERM");
    assert_eq!(end_of(&mut run), Some(0), "{}", world.read("out"));
    assert!(world.read("out").contains("a part of flowctl panicked"));
    assert!(world.marked().is_empty());
}

#[test]
fn a_run_that_is_told_to_end_after_a_part_of_it_panicked_begins_no_more() {
    let world = failing_world();
    world.write("p.yaml", &pipeline(&sleeper("a", "")));
    let out = File::create(world.path("out")).unwrap();
    let errors = out.try_clone().unwrap();
    let now = Clock::new().now().as_millis();
    let mut run = world
        .command(&["run", "p.yaml"])
        // The pause before it begins again is long, as after many times.
        .env("FLOWCTL_BEGAN_AGAIN", format!("8@{now}"))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .unwrap();
    eventually("it is up", || {
        world.read("out").contains("Pipeline started successfully")
    });
    break_at(&world, "reconciler");
    kill(run.id(), "TERM");
    assert_eq!(end_of(&mut run), Some(130), "{}", world.read("out"));
    // The next one ends what it left.
    let mut next = world
        .command(&["run", "p.yaml"])
        .stdin(Stdio::null())
        .stdout(File::create(world.path("next")).unwrap())
        .spawn()
        .unwrap();
    eventually("it is up", || {
        world.read("next").contains("Pipeline started successfully")
    });
    assert_eq!(world.marked().len(), 1);
    kill(next.id(), "TERM");
    assert_eq!(end_of(&mut next), Some(0));
    assert!(
        world
            .read("next")
            .contains("Ending what an earlier run left behind")
    );
}
