//! Every signal that somebody may send to a daemon has a decided answer, and components never feel it.

use std::fs;

use crate::support::{World, eventually, is_alive, kill, parent, sleeper};

/// What a daemon lives through: all but those that end it, that stop any process, and faults.
const IGNORED: [&str; 21] = [
    "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "XFSZ", "TSTP", "TTIN", "TTOU",
    "PIPE", "CHLD", "CONT", "URG", "WINCH", "32", "33", "34", "47", "64",
];

#[test]
fn a_daemon_lives_through_what_is_not_meant_to_end_it() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let daemon = world.status().daemon_pid();
    let component = world.status().replica("a")["pid"].clone();
    for signal in IGNORED {
        kill(daemon, signal);
    }
    kill(daemon, "HUP");
    eventually("it noted what it was asked", || {
        let log = world.read("state/daemon.log");
        ["SIGALRM", "SIGTSTP", "looking again at every file"]
            .iter()
            .all(|word| log.contains(word))
    });
    let status = world.status();
    assert_eq!(status.daemon_pid(), daemon);
    assert_eq!(status.replica("a")["pid"], component);
    world.ok(&["status", "--check"]);
    // It answers commands as before, and the guardian ignores all that is not an order to it.
    let guardian = parent(u32::try_from(component.as_u64().unwrap()).unwrap());
    for signal in IGNORED
        .iter()
        .chain(&["HUP", "TERM", "INT", "QUIT", "USR1"])
    {
        kill(guardian, signal);
    }
    world.ok(&["restart", "a"]);
    world.ok(&["down"]);
}

#[test]
fn a_daemon_that_is_told_to_end_names_the_signal_and_leaves_components_running() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let component = world.status().replica("a")["pid"].clone();
    for signal in ["TERM", "INT", "QUIT"] {
        let daemon = world.status().daemon_pid();
        kill(daemon, signal);
        eventually("it has ended", || !is_alive(daemon));
        let log = world.read("state/daemon.log");
        assert!(log.contains(&format!("SIG{signal}")), "{signal}: {log}");
        world.ok(&["apply", "-f", "p.yaml", "--wait"]);
        assert_eq!(world.status().replica("a")["pid"], component, "{signal}");
    }
}

#[test]
fn a_log_that_was_rotated_away_is_begun_anew_on_usr1() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let log = world.state().join("daemon.log");
    fs::rename(&log, world.path("rotated")).unwrap();
    kill(world.status().daemon_pid(), "USR1");
    eventually("it writes where it is read", || {
        world.read("state/daemon.log").contains("begins anew")
    });
    let rotated = world.read("rotated");
    world.ok(&["stop", "a"]);
    assert_eq!(world.read("rotated"), rotated, "what was moved is theirs");
    assert!(world.read("state/daemon.log").contains("stop"));
}
