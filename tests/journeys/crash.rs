//! Crashes, and what cannot be started.

use crate::support::{World, eventually, is_alive, kill, parent, pipeline, shell, sleeper};

#[test]
fn a_crash_is_followed_by_a_restart_that_counts() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    kill(before.pid("a").unwrap(), "KILL");
    let after = world.until("it runs again", |status| {
        status.phase("a") == "running" && status.pid("a") != before.pid("a")
    });
    assert_eq!(after.restarts("a"), 1);
    assert_eq!(after.replica("a")["exit"]["signal"], 9);
}

#[test]
fn a_crash_loop_is_named_and_shows_its_next_try() {
    let world = World::new();
    let fast = ", restart: { initial_delay: 10ms, factor: 4, max_delay: 60s, jitter: 0 }";
    world.save("p.yaml", &pipeline(&shell("a", "exit 7", fast)));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    let status = world.until("it is a crash loop", |status| {
        status.phase("a") == "crashloop"
    });
    assert!(status.why("a").contains("exit 7"), "{}", status.why("a"));
    assert!(status.replica("a")["next"]["at"].is_string());
    world.save("p.yaml", &pipeline(&sleeper("a", "")));
    world.until("an edit revives it at once", |status| {
        status.phase("a") == "running"
    });
}

#[test]
fn what_cannot_be_started_says_why_and_is_tried_again() {
    let world = World::new();
    world.write("not-executable", "#!/bin/sh\n");
    let components = "    - { id: missing, command: [/no/such/program] }\n    \
         - { id: plain, command: [./not-executable] }\n    \
         - { id: lost, command: [sleep, '1000'], working_dir: /no/such/folder }\n    \
         - { id: nobody, command: [sleep, '1000'], user: no-such-user-here }\n";
    world.save("p.yaml", &pipeline(components));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait", "--force"]);
    for (id, word) in [
        ("missing", "/no/such/program"),
        ("plain", "not-executable"),
        ("lost", "/no/such/folder"),
        ("nobody", "no-such-user-here"),
    ] {
        world.until(&format!("{id} says why"), |status| {
            ["backoff", "crashloop"].contains(&status.phase(id)) && status.why(id).contains(word)
        });
    }
}

#[test]
fn max_retries_gives_up_and_start_revives() {
    let world = World::new();
    let twice = ", restart: { initial_delay: 10ms, max_retries: 2, jitter: 0 }";
    // Ready only long after it would have ended.
    let a = shell("a", "[ -e good ] && exec sleep 1000; exit 1", twice).replace("50ms", "2s");
    world.save("p.yaml", &pipeline(&a));
    world.fails(8, &["apply", "-f", "p.yaml", "--wait"]);
    let status = world.until("it gave up", |status| status.phase("a") == "failed");
    assert_eq!(status.restarts("a"), 2);
    world.write("good", "");
    world.ok(&["start", "a"]);
    assert_eq!(world.status().phase("a"), "running");
}

#[test]
fn failures_are_forgotten_only_after_the_reset_time_whoever_dies_in_between() {
    let world = World::new();
    let slow = ", restart: { initial_delay: 1s, factor: 1, jitter: 0, reset_after: 4s }";
    world.apply(&sleeper("a", slow));
    // What was told of each wait for a restart: the wait itself is soon over.
    let waits = || -> Vec<String> {
        let events = world.ok(&["events", "-o", "json"]);
        let events = events
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let waits = events.filter(|event| event["kind"] == "backoff");
        waits.map(|event| event["reason"].to_string()).collect()
    };
    let crash = |failures: &str| {
        let pid = world
            .until("it runs", |s| s.phase("a") == "running")
            .pid("a");
        let before = waits().len();
        kill(pid.unwrap(), "KILL");
        eventually(failures, || waits().len() > before);
        let told = waits();
        assert_eq!(told.len(), before + 1, "{told:?}");
        assert!(told[before].contains(failures), "{told:?}");
    };
    crash("failure 1");
    crash("failure 2");
    world.kill_daemon();
    world.start_daemon();
    crash("failure 3");
    let runs = world.until("it runs", |status| status.phase("a") == "running");
    world.kill_daemon();
    world.start_daemon();
    let since = std::time::Instant::now();
    eventually("the reset time is over", || {
        since.elapsed().as_millis() > 4_500
    });
    assert_eq!(world.status().pid("a"), runs.pid("a"));
    crash("failure 1");
}

#[test]
fn stop_takes_what_ignores_it_and_what_it_forked_away() {
    let world = World::new();
    let stubborn = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; echo $$ > away; exec sleep 1000' &) ; \
                    while :; do sleep 1; done";
    world.apply(&shell("a", stubborn, ", stop: { grace_period: 200ms }"));
    eventually("it forked", || !world.read("away").trim().is_empty());
    let away: u32 = world.read("away").trim().parse().unwrap();
    let main = world.status().pid("a").unwrap();
    assert!(is_alive(away));
    world.ok(&["stop", "a"]);
    assert!(!is_alive(main) && !is_alive(away));
}

#[test]
fn kill_9_of_a_shim_ends_its_program_and_starts_it_once() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let child = before.pid("a").unwrap();
    let shim = parent(child);
    kill(shim, "KILL");
    eventually("the program went with it", || !is_alive(child));
    let after = world.until("it runs again", |status| {
        status.phase("a") == "running" && status.pid("a") != before.pid("a")
    });
    assert_eq!(after.restarts("a"), 1);
    assert_eq!(world.marked().len(), 1);
}
