//! How trees of processes end, and who reaps them.

use std::process::{Child, Command, Stdio};

use crate::support::{World, eventually, may_mount, shell, sleeper, text};

/// A daemon that is process 1 of a namespace of its own.
struct First {
    outer: Child,
}

impl First {
    fn begin(world: &World) -> Self {
        let daemon = world.command(&["daemon"]);
        let mut command = Command::new("unshare");
        command
            .args(["--fork", "--pid", "--mount-proc", "--kill-child"])
            .arg(daemon.get_program())
            .arg("daemon")
            .envs(
                daemon
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(world.path("."))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let outer = command.spawn().unwrap();
        eventually("it answers", || {
            text(&world.run(&["status", "-o", "json"]).stdout).contains("\"daemon\":{")
        });
        Self { outer }
    }

    /// What `ps` says inside.
    fn processes(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.outer.id());
        let inner = std::fs::read_to_string(children).unwrap();
        let mut look = Command::new("nsenter");
        look.args(["--target", inner.trim(), "--pid", "--mount"])
            .args(["ps", "-eo", "stat,pid,ppid,comm", "--no-headers"]);
        text(&look.output().unwrap().stdout)
    }
}

impl Drop for First {
    fn drop(&mut self) {
        // With it ends all that is in the namespace.
        self.outer.kill().ok();
        self.outer.wait().ok();
    }
}

#[test]
fn as_process_1_every_orphan_is_reaped_and_a_signal_ends_the_daemon() {
    if !may_mount("process 1 of a namespace") {
        return;
    }
    let world = World::new();
    let mut first = First::begin(&world);
    let probe = "setsid sh -c 'sleep 0.1; echo >> orphans' & exit 0";
    let probes =
        format!(", probes: {{ readiness: {{ exec: [sh, -c, {probe:?}], period: 100ms }} }}");
    world.apply(&sleeper("a", &probes));
    let count = |name: &str| {
        let lines = std::fs::read_to_string(world.path(name)).unwrap_or_default();
        lines.lines().count()
    };
    eventually("many orphans have ended", || count("orphans") >= 10);
    eventually("none of them is left", || {
        let processes = first.processes();
        processes
            .lines()
            .filter(|line| line.starts_with('Z'))
            .count()
            <= 1
    });
    let processes = first.processes();
    let init = processes.lines().find(|line| line.contains("flowctl-init"));
    assert!(init.is_some_and(|line| line.contains(" 1 ")), "{processes}");
    world.ok(&["down"]);
    eventually("process 1 ends with its daemon", || {
        first.outer.try_wait().unwrap().is_some()
    });
    let status = first.outer.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_stop_tells_how_many_had_to_be_killed() {
    let world = World::new();
    let script = "trap '' TERM; setsid sleep 100000 & exec sleep 100000";
    world.apply(&shell("deaf", script, ", stop: { grace_period: 200ms }"));
    world.ok(&["stop", "deaf"]);
    let told = "2 processes did not end in their grace period and were killed";
    eventually("it is told", || world.ok(&["events"]).contains(told));
}
