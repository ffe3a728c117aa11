//! Lakes that go away, and files of theirs that are missing or damaged: the truth is told, and no
//! ledger is ever skipped.

use std::fs;
use std::path::PathBuf;

use crate::stage::{Program, Stage, rename, until};

/// The file of ledger 27 of a stage's lake.
fn file_27(stage: &Stage) -> PathBuf {
    stage.lake().join("FFFFFFEB--20-29/FFFFFFE4--27.xdr.zstd")
}

/// Runs a lake with a bad file 27, checks what is said of it, repairs it, and checks the rest.
fn tells_of(damage: impl Fn(&Stage) -> Vec<u8>, why: &str) {
    let mut stage = Stage::with_lake(60);
    let good = damage(&stage);
    stage.start_all();
    for program in [Program::Source, Program::Processor] {
        let said = until(&format!("{program:?} telling of it"), || {
            let health = stage.health(program)?;
            let said = health["message"].as_str()?.to_owned();
            (health["status"] == "unhealthy" && said.contains(why)).then_some(said)
        });
        assert!(said.contains("FFFFFFE4--27"), "{said}");
    }
    let before: Vec<_> = stage
        .expected()
        .into_iter()
        .filter(|it| it["ledger"].as_u64() < Some(27))
        .collect();
    stage.until_written(before.len());
    assert_eq!(
        stage.written(),
        before.len(),
        "events from beyond the bad file"
    );

    fs::write(file_27(&stage), good).unwrap();
    stage.verify();
    stage.until_health(Program::Source, "healthy");
}

#[test]
fn a_missing_file_is_a_gap_and_not_the_end_of_the_lake() {
    let damage = |stage: &Stage| {
        let good = fs::read(file_27(stage)).unwrap();
        fs::remove_file(file_27(stage)).unwrap();
        good
    };
    tells_of(damage, "ledger 27 is missing");
}

#[test]
fn a_truncated_file_is_damaged() {
    let damage = |stage: &Stage| {
        let good = fs::read(file_27(stage)).unwrap();
        fs::write(file_27(stage), &good[..good.len() / 2]).unwrap();
        good
    };
    tells_of(damage, "is damaged: zstd");
}

#[test]
fn a_flipped_bit_is_damage() {
    let damage = |stage: &Stage| {
        let good = fs::read(file_27(stage)).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x10;
        fs::write(file_27(stage), bad).unwrap();
        good
    };
    tells_of(damage, "is damaged");
}

#[test]
fn another_ledgers_file_under_the_name_is_damage() {
    let damage = |stage: &Stage| {
        let good = fs::read(file_27(stage)).unwrap();
        let other = stage.lake().join("FFFFFFEB--20-29/FFFFFFE3--28.xdr.zstd");
        fs::copy(other, file_27(stage)).unwrap();
        good
    };
    tells_of(damage, "it should hold ledgers 27 to 27 and says 28 to 28");
}

#[test]
fn a_lake_that_is_away_for_a_while_costs_no_event() {
    let mut stage = Stage::with_lake(2000);
    let away = stage.lake().with_extension("away");
    stage.set("LOG_LEVEL", "debug");
    stage.start(Program::Source);
    stage.start(Program::Processor);
    stage.until_health(Program::Processor, "healthy");
    rename(&stage.lake(), &away);
    stage.start(Program::Consumer);
    let why = stage.until_health(Program::Source, "unhealthy");
    assert!(why.contains("can't be read"), "{why}");
    stage.until_health(Program::Processor, "unhealthy");
    rename(&away, &stage.lake());
    stage.verify();
    stage.until_health(Program::Source, "healthy");
}

#[test]
fn a_lake_that_does_not_exist_yet_is_waited_for() {
    let mut stage = Stage::empty(41);
    stage.start_all();
    stage.until_health(Program::Source, "unhealthy");
    token_transfer::generator::LakePlan::of(40)
        .make(&stage.lake())
        .unwrap();
    stage.verify();
}
