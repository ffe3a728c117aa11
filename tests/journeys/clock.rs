//! The host's clock is set while a daemon runs. The daemon alone is shown another time, by
//! libfaketime: its steady clock goes on, as that of a host whose clock is set.

use std::fs;
use std::path::PathBuf;

use crate::support::{World, eventually, pipeline, shell, sleeper};

/// The library that shows another time; `None`, said loudly, when this host has none.
fn library(test: &str) -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let found = folders
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists());
    if found.is_none() {
        eprintln!("NOT RUN: {test} needs libfaketime; see tests/run");
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
    }
    found
}

#[test]
fn a_clock_that_is_set_by_a_day_either_way_moves_no_deadline_and_ends_nothing() {
    let Some(library) = library("a_clock_that_is_set_by_a_day_…") else {
        return;
    };
    let mut world = World::new();
    let offset = world.path("offset");
    let set = |days: &str| fs::write(&offset, days).unwrap();
    set("+0");
    world.set("LD_PRELOAD", library.to_str().unwrap());
    world.set("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap());
    world.set("FAKETIME_NO_CACHE", "1");
    world.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    world.start_daemon();
    let noticed = |times: usize| {
        let log = fs::read_to_string(world.path("daemon.err")).unwrap();
        log.matches("the host's clock was set").count() >= times
    };

    let after = |delay: &str| format!(", restart: {{ initial_delay: {delay}, jitter: 0 }}");
    let soon = shell("soon", "exit 3", &after("5s"));
    let late = shell("late", "exit 3", &after("1h"));
    world.save(
        "p.yaml",
        &pipeline(&(sleeper("steady", "") + &soon + &late)),
    );
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    let before = world.until("both have crashed", |status| {
        ["soon", "late"].map(|one| status.phase(one)) == ["backoff"; 2]
            && status.phase("steady") == "running"
    });
    set("-1d");
    eventually("a clock set back is noticed", || noticed(1));
    world.until("a short wait is not a day longer", |status| {
        status.restarts("soon") > 0
    });
    set("+0");
    eventually("a clock set forward is noticed", || noticed(2));
    let last = world.status();
    assert_eq!(last.restarts("late"), 0, "a long wait is not over early");
    assert_eq!(last.phase("late"), "backoff");
    assert_eq!(last.pid("steady"), before.pid("steady"));
    assert_eq!(last.restarts("steady"), 0);
}
