//! Limits on memory, processor time and processes: enforced, or said not to be.

use std::process::Command;

use crate::support::{World, may_mount, sleeper, text};

/// Whether this host lets the binary enforce memory and processes; says so where it does not.
fn enforces(world: &World, test: &str) -> bool {
    let limits = ", resources: { limits: { memory: 32Mi, pids: 50 } }";
    world.save("v.yaml", &crate::support::pipeline(&sleeper("a", limits)));
    let told = text(&world.run(&["validate", "v.yaml"]).stderr);
    let enforces = !told.contains("not enforced here");
    if !enforces {
        eprintln!("NOT RUN: {test} needs a writable control group: {told}");
    }
    enforces
}

#[test]
fn a_component_over_its_memory_limit_is_called_out_of_memory_and_others_run_on() {
    let world = World::new();
    if !enforces(&world, "out of memory") {
        return;
    }
    let hungry = "    - { id: hungry, command: [tail, /dev/zero], \
                  resources: { limits: { memory: 32Mi } } }\n";
    world.save(
        "p.yaml",
        &crate::support::pipeline(&(sleeper("a", "") + hungry)),
    );
    world.ok(&["apply", "-f", "p.yaml"]);
    let status = world.until("it was ended", |status| status.restarts("hungry") >= 1);
    assert_eq!(status.replica("hungry")["exit"]["oom"], true);
    assert!(world.ok(&["why", "hungry"]).contains("out of memory"));
    assert!(world.ok(&["events", "hungry"]).contains("out of memory"));
    assert_eq!(world.status().restarts("a"), 0);
}

#[test]
fn a_fork_bomb_within_its_limit_disturbs_nobody_and_is_stopped() {
    let world = World::new();
    if !enforces(&world, "a fork bomb") {
        return;
    }
    // Each process forks for ever, and outlives a fork that is refused.
    let bomb = "    - { id: bomb, ready_after: 50ms, command: [perl, -e, '$SIG{TERM} = q(IGNORE); \
                while (1) { fork; select undef, undef, undef, 0.01 }']";
    let limit = ", resources: { limits: { pids: 50 } }, stop: { grace_period: 200ms } }\n";
    let other = ", probes: { readiness: { exec: ['true'], period: 100ms, failures: 1 } }";
    world.apply(&(sleeper("a", other) + bomb + limit));
    let before = world.status();
    crate::support::eventually("it forked what it may", || world.marked().len() >= 30);
    world.ok(&["stop", "bomb", "--timeout", "20s"]);
    let after = world.status();
    assert_eq!(after.phase("bomb"), "stopped");
    assert_eq!(
        (after.pid("a"), after.phase("a")),
        (before.pid("a"), "running")
    );
    crate::support::eventually("nothing of it is left", || {
        world
            .marked()
            .iter()
            .all(|pid| Some(*pid) == after.pid("a"))
    });
}

#[test]
fn where_no_control_group_may_be_written_that_is_said_and_never_pretended() {
    if !may_mount("limits without control groups") {
        return;
    }
    let world = World::new();
    let limits = ", resources: { limits: { memory: 32Mi, cpu: 500m } }";
    world.save("p.yaml", &crate::support::pipeline(&sleeper("a", limits)));
    // In a mount namespace of its own the daemon sees no hierarchy at all.
    let hidden = |arguments: &[&str]| {
        let script = "umount -R -l /sys/fs/cgroup && exec \"$0\" \"$@\"";
        let flowctl = world.command(arguments);
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script])
            .arg(flowctl.get_program())
            .args(arguments)
            .env("FLOWCTL_STATE_DIR", world.state())
            .env("NO_COLOR", "1")
            .current_dir(world.path("."));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    };
    let words = "its memory and cpu limits are not enforced here";
    assert!(hidden(&["validate", "p.yaml"]).contains(words));
    assert!(hidden(&["apply", "-f", "p.yaml", "--wait"]).contains(words));
    let status = world.status();
    let unenforced = &status.pipeline()["components"][0]["unenforced"];
    assert_eq!(*unenforced, serde_json::json!(["memory", "cpu"]));
    assert!(world.ok(&["status"]).contains(words));
    assert!(world.ok(&["describe", "a"]).contains(words));
}
