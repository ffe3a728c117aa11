//! Programs that die, and what they depend on going away: every event still arrives exactly once.

use crate::stage::{ALL, Program, Stage};

/// Starts the pipeline on a lake that will have 2,000 ledgers.
fn in_the_middle() -> Stage {
    let mut stage = Stage::with_hungry_lake(2000);
    stage.feed(300);
    stage.start_all();
    stage.until_written(300);
    stage
}

#[test]
fn a_source_killed_in_the_middle_costs_no_event() {
    let mut stage = in_the_middle();
    for _ in 0..3 {
        stage.feed(400);
        stage.kill(Program::Source);
        stage.until_health(Program::Processor, "unhealthy");
        stage.start(Program::Source);
        stage.until_health(Program::Processor, "healthy");
        stage.until_flowing();
    }
    stage.feed_rest();
    stage.verify();
}

#[test]
fn a_source_killed_when_there_is_nothing_to_do_is_missed_and_found_again() {
    let mut stage = Stage::with_lake(50);
    stage.last = 0; // for ever
    stage.start_all();
    stage.until_written(stage.expected().len());
    stage.kill(Program::Source);
    stage.until_health(Program::Processor, "unhealthy");
    stage.start(Program::Source);
    let why = stage.until_health(Program::Processor, "healthy");
    assert!(why.contains("waiting for ledger 52"), "{why}");
    stage.verify_output();
}

#[test]
fn a_processor_killed_in_the_middle_costs_no_event() {
    let mut stage = in_the_middle();
    for _ in 0..3 {
        stage.feed(400);
        stage.kill(Program::Processor);
        stage.until_health(Program::Consumer, "unhealthy");
        stage.start(Program::Processor);
        stage.until_flowing();
    }
    stage.feed_rest();
    stage.verify();
}

#[test]
fn a_consumer_killed_in_the_middle_writes_no_event_twice() {
    let mut stage = in_the_middle();
    for _ in 0..10 {
        stage.feed(100);
        stage.kill(Program::Consumer);
        stage.start(Program::Consumer);
        stage.until_flowing();
    }
    stage.feed_rest();
    stage.verify();
}

#[test]
fn all_three_killed_at_once_go_on_where_they_were() {
    let mut stage = in_the_middle();
    stage.feed(400);
    for program in ALL {
        stage.kill(program);
    }
    for program in ALL.into_iter().rev() {
        stage.start(program);
    }
    stage.feed_rest();
    stage.verify();
}

#[test]
fn a_processor_that_hangs_is_noticed_as_lost() {
    let mut stage = in_the_middle();
    stage.feed(400);
    stage.pause(Program::Processor);
    stage.until_health(Program::Consumer, "unhealthy");
    stage.resume(Program::Processor);
    stage.feed_rest();
    stage.verify();
}

#[test]
fn programs_that_are_asked_to_stop_and_started_again_cost_no_event() {
    let mut stage = in_the_middle();
    for program in ALL {
        stage.feed(400);
        stage.terminate(program);
        stage.start(program);
        stage.until_flowing();
    }
    stage.feed_rest();
    stage.verify();
}
