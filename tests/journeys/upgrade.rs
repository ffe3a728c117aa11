//! An upgrade from an older flowctl: its state directory is opened for ever.

use std::process::Command;

use super::support::World;

/// The folder of the file from which the pipeline was applied.
const FOLDER: &str = "/tmp/flowctl-state-v1";

/// `tests/data/state-v1` was left by the flowctl of 2026-11 when it was killed: a pipeline of five
/// components, edited once. The file that it was applied from is gone.
fn left_by_an_older_flowctl() -> World {
    let world = World::new();
    // Where its components begin.
    std::fs::create_dir_all(FOLDER).unwrap();
    let kept = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/state-v1/state.tar.gz"
    );
    std::fs::create_dir(world.state()).unwrap();
    let mut tar = Command::new("tar");
    let tar = tar.args([
        "--extract",
        "--same-permissions",
        "--no-same-owner",
        "--file",
        kept,
    ]);
    let tar = tar.arg("--directory").arg(world.state());
    assert!(tar.status().unwrap().success());
    world
}

#[test]
fn what_an_older_flowctl_remembered_is_known_to_this_one_and_goes_on() {
    let world = left_by_an_older_flowctl();
    let remembered = world.status();
    assert!(!remembered.has_daemon());
    assert_eq!(remembered.pipeline()["generation"], 2);
    assert_eq!(remembered.phase("archive"), "stopped");
    assert_eq!(remembered.restarts("feed"), 1);

    world.start_daemon();
    let status = world.until("what should run runs", |status| {
        status.phase("feed") == "running" && status.phase("enrich") == "running"
    });
    assert_eq!(status.phase("archive"), "stopped", "as a person asked");
    assert_eq!(status.phase("migrate"), "completed");
    assert_eq!(status.phase("mail"), "failed");
    assert_eq!(status.restarts("mail"), 1);
    // What ran then is gone: with the boot in which it ran, or as if it had crashed.
    assert!(status.restarts("feed") >= 1, "a count never falls");

    let told = world.ok(&["events", "orders/feed"]);
    assert!(told.contains("its definition changed"), "{told}");
    let said = world.ok(&["logs", "migrate"]);
    assert_eq!(said.trim(), "migrated");
    world.ok(&["down"]);
    std::fs::remove_dir(FOLDER).unwrap();
}
