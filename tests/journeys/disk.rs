//! Disks that are full.

use crate::support::{World, eventually, shell};

#[test]
fn a_full_log_disk_never_blocks_a_program_and_the_gap_is_counted() {
    let name = "a full log disk";
    let Some(world) = World::with_small_disk(name, "state/logs", "256k") else {
        return;
    };
    let counter = "n=0; while :; do n=$((n+1)); echo $n; echo $n > progress; sleep 0.001; done";
    world.apply(&shell("a", counter, ""));
    let before = world.status();
    let progress = || -> u64 { world.read("progress").trim().parse().unwrap_or(0) };
    world.fill_disk();
    let full_at = progress();
    eventually("the program goes on", || progress() > full_at + 1000);
    world.free_disk();
    let logs = || world.ok(&["logs", "a"]);
    eventually("the gap is marked", || logs().contains("dropped"));
    let marked = progress();
    eventually("it is written again", || {
        logs()
            .lines()
            .any(|line| line.parse().is_ok_and(|n: u64| n > marked))
    });
    let (mut expected, mut gaps) = (1, 0);
    for line in logs().lines() {
        if let Some(rest) = line.split("flowctl: dropped ").nth(1) {
            let dropped: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            assert!(dropped > 0);
            gaps += 1;
            expected += dropped;
        } else {
            assert_eq!(line.parse::<u64>().unwrap(), expected, "the count is exact");
            expected += 1;
        }
    }
    assert!(gaps > 0);
    assert_eq!(world.status().pid("a"), before.pid("a"));
}
