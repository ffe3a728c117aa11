//! What users of the pipeline rely on, with the three programs as real processes.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bucket;
mod built;
mod control_plane;
mod engine;
mod faults;
mod flowctl;
mod lakes;
mod stage;
mod world;

use std::time::Duration;

use stage::{ALL, Program, Stage, until};

#[test]
fn every_event_of_the_lake_arrives_exactly_once() {
    let mut stage = Stage::with_lake(500);
    stage.start_all();
    stage.verify();

    let health = stage.health(Program::Consumer).unwrap();
    assert_eq!(
        health["metrics"]["total_events_received"],
        stage.expected().len()
    );
    assert_eq!(health["metrics"]["last_processed_ledger"], 501);
    let (_, metrics) = stage.ask(Program::Consumer, "/metrics").unwrap();
    assert!(
        metrics.contains("total_events_received{component=\"consumer-app\"}"),
        "{metrics}"
    );
}

#[test]
fn a_lake_that_grows_is_followed_to_its_end() {
    let mut stage = Stage::with_hungry_lake(150);
    stage.feed(50);
    stage.start_all();
    stage.until_written(stage.expected().len() / 4);
    stage.feed(50);
    stage.until_written(stage.expected().len() / 2);
    stage.feed_rest();
    stage.verify();
}

#[test]
fn a_consumer_started_before_anything_else_waits_for_the_rest() {
    let mut stage = Stage::with_lake(50);
    stage.start(Program::Consumer);
    stage.until_health(Program::Consumer, "unhealthy");
    stage.start(Program::Processor);
    let why = stage.until_health(Program::Processor, "unhealthy");
    assert!(why.starts_with("source localhost:"), "{why}");
    stage.start(Program::Source);
    stage.verify();
}

#[test]
fn a_finished_consumer_started_again_has_nothing_to_do() {
    let mut stage = Stage::with_lake(50);
    stage.start_all();
    stage.verify();
    stage.terminate(Program::Consumer);
    stage.start(Program::Consumer);
    stage.verify();
}

#[test]
fn each_program_stops_soon_after_it_is_asked() {
    let mut stage = Stage::with_lake(2000);
    stage.start_all();
    stage.until_written(100);
    for program in [Program::Consumer, Program::Processor, Program::Source] {
        let (status, took) = stage.terminate(program);
        assert!(
            status.success(),
            "{program:?}: {status}\n{}",
            stage.log(program)
        );
        // Generous: its patience with its work is a second and a half.
        assert!(took < Duration::from_secs(10), "{program:?} took {took:?}");
    }
}

#[test]
fn every_line_of_the_log_is_a_json_object() {
    let mut stage = Stage::with_lake(20);
    stage.start_all();
    stage.verify();
    for program in ALL {
        let log = stage.log(program);
        assert!(!log.is_empty());
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect(line);
            assert!(line["message"].is_string(), "{line}");
        }
    }
}

#[test]
fn a_missing_setting_is_named_and_ends_the_program() {
    let mut stage = Stage::empty(2);
    stage.set("STALL_TIMEOUT", "soon");
    stage.start(Program::Processor);
    assert_eq!(stage.ended(Program::Processor).code(), Some(2));
    assert!(stage.log(Program::Processor).contains("STALL_TIMEOUT=soon"));
}

#[test]
fn a_control_plane_that_is_absent_stops_nothing() {
    let mut stage = Stage::with_lake(20);
    stage.set("ENABLE_FLOWCTL", "true");
    stage.set("FLOWCTL_ENDPOINT", "127.0.0.1:1");
    stage.start_all();
    stage.verify();
    until("a word about the control plane", || {
        stage
            .log(Program::Source)
            .contains("control plane: can't be reached")
            .then_some(())
    });
}
