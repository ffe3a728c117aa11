//! Files that a component needs and that do not come.

use std::process::Command;

use crate::support::{World, pipeline, shell, sleeper};

const SHOWS: &str = "echo \"X=[$X]\"; exec sleep 1000";

/// A pipeline with a component whose `env_file` is a named pipe, and one that has nothing to do
/// with it. Applied.
fn waiting() -> World {
    let world = World::new();
    let made = Command::new("mkfifo").arg(world.path("app.env")).status();
    assert!(made.unwrap().success());
    let waits = shell("a", SHOWS, ", env_file: [app.env]");
    world.save("p.yaml", &pipeline(&(waits + &sleeper("other", ""))));
    world.ok(&["apply", "-f", "p.yaml"]);
    world.until("it says what it waits for", |status| {
        status.why("a").contains("app.env") && status.phase("other") == "running"
    });
    world
}

#[test]
fn a_start_that_waits_for_a_named_pipe_can_be_stopped_and_takes_what_is_written() {
    let world = waiting();
    world.ok(&["stop", "a", "--timeout", "30s"]);
    assert_eq!(world.status().phase("a"), "stopped");
    world.ok(&["start", "a", "--no-wait"]);
    std::fs::write(world.path("app.env"), "X=\"one two\"\n").unwrap();
    world.until("it runs", |status| status.phase("a") == "running");
    world.until("it was given the value", |_| {
        world.ok(&["logs", "a"]).contains("X=[one two]")
    });
}

#[test]
fn a_named_pipe_without_a_writer_keeps_nothing_from_ending() {
    let world = waiting();
    world.ok(&["down", "--timeout", "30s"]);
    assert_eq!(world.marked(), Vec::<u32>::new());
}
