//! Without a daemon: what can be known is told all the same, and nothing is changed.

use std::fs::File;

use crate::support::{World, end_of, eventually, kill, shell, sleeper};

#[test]
fn logs_why_describe_events_and_diff_answer_without_a_daemon() {
    let world = World::new();
    let script = "echo hello; echo trouble >&2; exec sleep 1000";
    world.apply(&(shell("a", script, "") + &sleeper("b", ", depends_on: [a]")));
    let running = world.status();
    eventually("it has written both", || {
        world.ok(&["logs"]).lines().count() == 2
    });
    world.kill_daemon();
    for (arguments, wanted) in [
        (&["logs"][..], "a | hello\na | trouble"),
        (&["logs", "a", "--tail", "1"], "trouble"),
        (&["why", "b"], "b: running for"),
        (&["describe", "a"], "last lines"),
        (&["describe", "b"], "waits for  a to be ready"),
        (&["describe", "p"], "2 of 2 ready"),
        (&["events", "a"], "a is ready"),
        (&["events", "--tail", "1"], "ready"),
        (&["diff", "-f", "p.yaml"], "nothing to do"),
    ] {
        let output = world.run(arguments);
        let (said, told) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{arguments:?} said {told}");
        assert!(said.contains(wanted), "{arguments:?} said {said}");
        // `diff` has nothing to warn of: it compares files.
        assert!(told.contains("no daemon runs") || arguments[0] == "diff");
    }
    // What goes on needs somebody who carries on.
    world.fails(4, &["events", "-f"]);
    assert_eq!(world.status().pid("a"), running.pid("a"));
    world.start_daemon();
    let after = world.until("it is adopted", |status| status.settled());
    for id in ["a", "b"] {
        assert_eq!(after.pid(id), running.pid(id));
        assert_eq!(after.restarts(id), 0);
    }
}

#[test]
fn without_a_state_there_is_nothing_to_tell() {
    let world = World::new();
    for arguments in [
        &["logs"][..],
        &["why", "a"],
        &["describe", "a"],
        &["events"],
    ] {
        assert!(world.fails(4, arguments).contains("no state"));
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let mut world = World::new();
    let home = world.path("home");
    world.set("XDG_STATE_HOME", home.to_str().unwrap());
    world.set("FLOWCTL_STATE_DIR", "");
    world.set("FLOWCTL_CONTROL_PLANE_PORT", "");
    let said = world.fails(4, &["status"]);
    assert!(said.contains("home/flowctl"), "{said}");
}

#[test]
fn down_without_a_daemon_starts_nothing_on_its_way() {
    let world = World::new();
    let script = "echo x >> starts; exit 1";
    let soon = ", restart: { initial_delay: 300ms, factor: 1, jitter: 0 }";
    world.save(
        "p.yaml",
        &crate::support::pipeline(&shell("a", script, soon)),
    );
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    world.until("it is tried again and again", |status| {
        status.restarts("a") >= 2
    });
    world.kill_daemon();
    // Its next start is overdue by then, and the last one is over.
    std::thread::sleep(std::time::Duration::from_millis(400));
    eventually("it has ended", || world.marked().is_empty());
    let starts = world.read("starts");
    world.ok(&["down"]);
    assert_eq!(world.read("starts"), starts);
}

#[test]
fn ctrl_c_ends_a_down_that_no_daemon_carries_out() {
    let world = World::new();
    let slow = "trap ': > asked' TERM; while [ ! -e go ]; do sleep 0.1; done";
    world.apply(&shell("a", slow, ", stop: { grace_period: 10m }"));
    world.kill_daemon();
    let said = File::create(world.path("said")).unwrap();
    let mut down = world.command(&["down"]).stderr(said).spawn().unwrap();
    eventually("it is stopping", || world.path("asked").exists());
    kill(down.id(), "INT");
    assert_eq!(end_of(&mut down), Some(130), "{}", world.read("said"));
    let said = world.read("said");
    assert!(
        said.contains("interrupted before everything was down"),
        "{said}"
    );
    assert_eq!(world.status().phase("a"), "stopping");
    world.write("go", "");
    world.ok(&["down"]);
    assert_eq!(world.marked(), [] as [u32; 0]);
}
