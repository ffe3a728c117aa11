//! What goes wrong on hosts that nobody watches.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::support::{
    Status, World, eventually, is_alive, kill, parent, pipeline, shell, sleeper, text,
};

#[test]
fn a_second_daemon_is_refused_and_names_the_first() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let holder = world.status().daemon_pid();
    let said = world.fails(7, &["daemon"]);
    assert!(said.contains(&holder.to_string()), "{said}");
    world.kill_daemon();
    world.start_daemon();
    assert_eq!(
        world
            .until("adopted", |status| status.settled())
            .restarts("a"),
        0
    );
}

#[test]
fn garbage_slow_clients_and_ten_thousand_connects_keep_nobody_from_an_answer() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let socket = world.state().join("flowctl.sock");
    let (mut silent, mut slow) = (Vec::new(), Vec::new());
    for n in 0..10_000_u32 {
        // A refused or cut connection is as good as an accepted one here.
        let Ok(mut peer) = UnixStream::connect(&socket) else {
            continue;
        };
        match n % 4 {
            0 => {
                peer.write_all(&[0xff, 0, b'\n', 0x16, 3, 1].repeat(50))
                    .ok();
            }
            1 if silent.len() < 100 => silent.push(peer),
            2 if slow.len() < 50 => slow.push(peer),
            _ => {}
        }
    }
    for byte in b"GET /v1/status HTTP/1.1\r\nx: " {
        for peer in &mut slow {
            peer.write_all(&[*byte]).ok();
        }
        world.status();
    }
    let after = world.status();
    assert_eq!(
        (after.daemon_pid(), after.pid("a")),
        (before.daemon_pid(), before.pid("a"))
    );
    let fds = std::fs::read_dir(format!("/proc/{}/fd", after.daemon_pid())).unwrap();
    assert!(fds.count() < 500, "who left is forgotten");
}

#[test]
fn kill_9_of_a_shim_and_the_daemon_together_starts_the_program_once_more() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let child = before.pid("a").unwrap();
    let shim = parent(child);
    kill(before.daemon_pid(), "KILL");
    kill(shim, "KILL");
    eventually("both are gone", || {
        !is_alive(child) && !is_alive(before.daemon_pid())
    });
    world.start_daemon();
    let after = world.until("it runs again", |status| status.phase("a") == "running");
    assert_eq!(after.restarts("a"), 1);
    assert_eq!(world.marked().len(), 1);
}

#[test]
fn a_frozen_program_is_stopped_all_the_same() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let child = world.status().pid("a").unwrap();
    kill(child, "STOP");
    world.ok(&["stop", "a"]);
    assert!(!is_alive(child));
}

#[test]
fn a_daemon_that_was_frozen_goes_on_and_restarts_nothing() {
    let world = World::new();
    world.apply(&sleeper(
        "a",
        ", probes: { readiness: { exec: ['true'], period: 1s } }",
    ));
    let before = world.status();
    kill(before.daemon_pid(), "STOP");
    std::thread::sleep(std::time::Duration::from_secs(3));
    kill(before.daemon_pid(), "CONT");
    let after = world.status();
    assert_eq!((after.pid("a"), after.restarts("a")), (before.pid("a"), 0));
    assert_eq!(after.replica("a")["ready"], true);
}

#[test]
fn a_swapped_symlink_is_a_change_as_kubernetes_makes_them() {
    let world = World::new();
    for (folder, level) in [("one", "info"), ("two", "debug")] {
        std::fs::create_dir(world.path(folder)).unwrap();
        let text = pipeline(&sleeper("a", &format!(", env: {{ LEVEL: {level} }}")));
        world.write(&format!("{folder}/p.yaml"), &text);
    }
    let link = |target: &str, name: &str| {
        let beside = world.path("..new");
        std::os::unix::fs::symlink(target, &beside).unwrap();
        std::fs::rename(beside, world.path(name)).unwrap();
    };
    link("one", "..data");
    link("..data/p.yaml", "p.yaml");
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let before = world.status();
    link("two", "..data");
    world.until("the other definition runs", |status| {
        status.settled() && status.replica("a")["spec"] != before.replica("a")["spec"]
    });
}

#[test]
fn of_many_saves_in_a_row_the_last_one_counts() {
    let world = World::new();
    world.apply(&sleeper("a", ", env: { N: '0' }"));
    for n in 1..=200 {
        world.save(
            "p.yaml",
            &pipeline(&sleeper("a", &format!(", env: {{ N: '{n}' }}"))),
        );
    }
    let status = world.until("the last definition runs", |status| {
        let pid = status.pid("a").filter(|_| status.settled());
        pid.is_some_and(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ
                .split(|byte| *byte == 0)
                .any(|variable| variable == b"N=200")
        })
    });
    assert_eq!(status.restarts("a"), 0);
}

#[test]
fn every_kind_of_bad_file_is_told_and_leaves_what_runs_alone() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let good = pipeline(&sleeper("a", ""));
    let cycle = pipeline(&(sleeper("a", ", inputs: [b]") + &sleeper("b", ", inputs: [a]")));
    let half = good[..good.len() - 20].to_owned();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (text, words) in [
        (cycle, "each other"),
        (good.replace("id: a,", "id: a, id: a,"), "twice"),
        (
            good.replace("id: a,", "id: a, shape: round,"),
            "unknown field",
        ),
        (half, ""),
        (String::new(), "empty"),
        (good.replace("sleep 100000", "sleep \u{0}"), "NUL"),
        (deep, "deep"),
        ("a: &a [*a, *a]\n".repeat(50), ""),
    ] {
        world.save("p.yaml", &text);
        let status = world.until(&format!("`{words}` is told"), |status| {
            let message = status.pipeline()["problem"]["message"].as_str();
            message.is_some_and(|message| message.contains(words))
        });
        assert_eq!(status.pid("a"), before.pid("a"));
        world.save("p.yaml", &good);
        world.until("it is good again", |status| {
            status.pipeline()["problem"].is_null()
        });
    }
    let after = world.status();
    assert_eq!((after.pid("a"), after.restarts("a")), (before.pid("a"), 0));
}

#[test]
fn what_ends_because_its_upstream_is_away_waits_for_it_and_spends_no_restart() {
    let world = World::new();
    world.write("up", "");
    let probe = ", probes: { readiness: { exec: [test, -e, up], period: 1s, failures: 1 } }";
    let consumer = "while [ -e up ]; do sleep 0.05; done; exit 1";
    // Its own restart would come only long after the probe.
    let late = ", inputs: [source], restart: { initial_delay: 5s, jitter: 0 }";
    let components = sleeper("source", probe) + &shell("consumer", consumer, late);
    world.apply(&components);
    let before = world.status();
    std::fs::remove_file(world.path("up")).unwrap();
    let waiting = world.until("the consumer waits", |status| {
        status.phase("consumer") == "pending" && status.why("consumer").contains("source")
    });
    assert_eq!(waiting.restarts("consumer"), 0);
    assert_eq!(waiting.pid("source"), before.pid("source"));
    world.write("up", "");
    let after = world.until("both run again", |status| status.settled());
    assert_eq!(
        (after.phase("consumer"), after.restarts("consumer")),
        ("running", 0)
    );
    assert_eq!(after.pid("source"), before.pid("source"));
}

#[test]
fn an_upstream_that_flaps_restarts_nothing_and_no_readiness_flips_over_a_daemon_restart() {
    let world = World::new();
    world.write("up", "");
    let probe = ", probes: { readiness: { exec: [test, -e, up], period: 50ms, failures: 1, \
                 timeout: 10s } }";
    world.apply(&(sleeper("source", probe) + &sleeper("sink", ", inputs: [source]")));
    let before = world.status();
    for _ in 0..5 {
        std::fs::remove_file(world.path("up")).unwrap();
        world.until("it is unready", |status| {
            status.phase("source") == "unhealthy"
        });
        world.write("up", "");
        world.until("it is ready", |status| status.phase("source") == "running");
    }
    world.kill_daemon();
    world.start_daemon();
    let after = world.until("adopted", Status::settled);
    let events = world.ok(&["events"]);
    let flips = events.matches("source is not ready any more").count();
    assert_eq!(flips, 5, "{events}");
    for component in ["source", "sink"] {
        assert_eq!(after.pid(component), before.pid(component));
        assert_eq!(after.restarts(component), 0);
        assert_eq!(after.replica(component)["ready"], true);
    }
}

#[test]
fn a_failing_liveness_probe_restarts_and_counts() {
    let world = World::new();
    world.write("alive", "");
    let probe = ", probes: { liveness: { exec: [test, -e, alive], period: 100ms, failures: 2 } }";
    world.apply(&sleeper("a", probe));
    let before = world.status();
    std::fs::remove_file(world.path("alive")).unwrap();
    world.until("it was restarted", |status| status.restarts("a") >= 1);
    world.write("alive", "");
    let after = world.until("it lives", |status| status.phase("a") == "running");
    assert_ne!(after.pid("a"), before.pid("a"));
    let events = world.ok(&["events"]);
    assert!(events.contains("liveness probe failed"), "{events}");
}

#[test]
fn a_secret_stands_in_its_file_and_nowhere_else() {
    const CANARY: &str = "canary-3f9a71c2";
    let world = World::new();
    world.write("password", CANARY);
    let script = "cat \"$FLOWCTL_SECRETS_DIR/db\" > /dev/null && exec sleep 1000";
    world.apply(&shell(
        "a",
        script,
        ", secrets: [{ name: db, file: password }]",
    ));
    let pid = world.status().pid("a").unwrap();
    let mut places = world.ok(&["status", "-o", "json"]);
    places += &world.ok(&["events", "-o", "json"]);
    places += &world.ok(&["logs"]);
    places += &world.ok(&["describe", "a"]);
    places += &text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap());
    places += &text(&std::fs::read(format!("/proc/{pid}/environ")).unwrap());
    assert!(!places.contains(CANARY));
    let found = std::process::Command::new("grep")
        .args(["-rl", CANARY])
        .arg(world.state())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let files = text(&found.stdout);
    let elsewhere: Vec<&str> = files
        .lines()
        .filter(|file| !file.ends_with("/db"))
        .collect();
    assert_eq!(elsewhere, [] as [&str; 0]);
}

#[test]
fn down_finds_a_daemon_that_is_just_coming_up() {
    for _ in 0..10 {
        let world = World::new();
        world.apply(&sleeper("a", ""));
        let pid = world.status().pid("a").unwrap();
        world.kill_daemon();
        let mut command = world.command(&["daemon"]);
        let mut daemon = command.stderr(Stdio::null()).spawn().unwrap();
        world.ok(&["down"]);
        assert!(!is_alive(pid));
        // One that came up only after that found nothing, and is still there.
        eventually("the daemon ends", || {
            world.ok(&["down"]);
            daemon.try_wait().unwrap().is_some()
        });
    }
}

/// Starts a stranger, `sleep`, whose pid is `pid`; `None` when this test may not choose pids.
fn stranger(pid: u32) -> Option<std::process::Child> {
    let chooser = "/proc/sys/kernel/ns_last_pid";
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        std::fs::write(chooser, (pid - 1).to_string()).ok()?;
        let mut child = std::process::Command::new("sleep")
            .arg("100000")
            .spawn()
            .unwrap();
        if child.id() == pid {
            return Some(child);
        }
        // Somebody else forked in between, and passed that pid by or is about to be gone again.
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            std::time::Instant::now() < deadline,
            "pid {pid} is never free"
        );
    }
}

/// Runs this very test once more, where no neighbour gets the pids that it chooses: in a pid
/// namespace of its own. `false` when it runs there, or may not.
fn ran_among_own_pids(test: &str) -> bool {
    const INSIDE: &str = "FLOWCTL_TEST_HAS_OWN_PIDS";
    let unshare = |words: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-pf", "--mount-proc", "--kill-child"]);
        command.args(words).env(INSIDE, "yes").stdin(Stdio::null());
        command.output().unwrap()
    };
    if std::env::var_os(INSIDE).is_some() || !unshare(&["true"]).status.success() {
        return false;
    }
    let program = std::env::current_exe().unwrap();
    // The shell is the init there: it reaps what nobody else does.
    let ran = unshare(&[
        "sh",
        "-c",
        "\"$0\" --exact \"$1\" --nocapture; exit $?",
        program.to_str().unwrap(),
        test,
    ]);
    let said = text(&ran.stdout) + &text(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    eprint!("{said}");
    true
}

#[test]
fn a_stranger_with_the_pid_of_a_program_or_its_shim_is_never_signalled() {
    if ran_among_own_pids(
        "faults::a_stranger_with_the_pid_of_a_program_or_its_shim_is_never_signalled",
    ) {
        return;
    }
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let before = world.status();
    world.kill_daemon();
    let mut strangers = Vec::new();
    for component in ["a", "b"] {
        let program = before.pid(component).unwrap();
        let shim = parent(program);
        kill(shim, "KILL");
        eventually("both are gone", || {
            [program, shim]
                .iter()
                .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        });
        strangers.extend([stranger(program), stranger(shim)]);
    }
    if strangers.iter().any(Option::is_none) {
        eprintln!("NOT RUN: only root can choose pids");
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
        return;
    }
    world.start_daemon();
    let after = world.until("both run again", |status| {
        status.settled() && status.restarts("a") == 1 && status.restarts("b") == 1
    });
    for component in ["a", "b"] {
        assert_ne!(after.pid(component), before.pid(component));
        assert_ne!(
            after.replica(component)["instance"],
            before.replica(component)["instance"]
        );
        let exit = &after.replica(component)["exit"];
        assert!(exit["at"].is_string(), "the end is reported: {exit}");
    }
    world.ok(&["down"]);
    for mut stranger in strangers.into_iter().flatten() {
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger lives");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
