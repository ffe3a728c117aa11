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

    /// What a program inside writes.
    fn inside(&self, program: &[&str]) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.outer.id());
        let inner = std::fs::read_to_string(children).unwrap();
        let mut command = Command::new("nsenter");
        command.args(["--target", inner.trim(), "--pid", "--mount"]);
        text(&command.args(program).output().unwrap().stdout)
    }

    /// What `ps` says inside.
    fn processes(&self) -> String {
        self.inside(&["ps", "-eo", "stat,pid,ppid,comm", "--no-headers"])
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
    world.apply(&sleeper("a", ""));
    // Nobody's child from its first moment on: neither a component's nor a probe's.
    let orphans = world.path("orphans").display().to_string();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do \
                  setsid sh -c 'sleep 0.1; echo >> \"$1\"' sh \"$1\" > /dev/null 2>&1 & done";
    first.inside(&["sh", "-c", script, "sh", &orphans]);
    let ended = || {
        let lines = std::fs::read_to_string(&orphans).unwrap_or_default();
        lines.lines().count()
    };
    eventually("all orphans have ended", || ended() == 10);
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
