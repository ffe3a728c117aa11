//! `cargo ready`: the one command that has to pass before a commit, here and in CI.
//!
//! It is a test that is ignored, so that `cargo test` (which it runs itself) does not run it. The
//! nested cargo does not wait for the outer one, which gives its lock back before tests start.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// One thing that has to hold.
struct Check {
    name: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// What to do when it does not hold.
    hint: &'static str,
}

const CHECKS: [Check; 4] = [
    Check {
        name: "format",
        args: &["fmt", "--all", "--check"],
        env: &[],
        hint: "run `cargo fmt --all`; `rustup component add rustfmt` if it is not there",
    },
    Check {
        name: "lints",
        args: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "--deny=warnings",
        ],
        env: &[],
        hint: "mend what it names; `rustup component add clippy` if it is not there",
    },
    Check {
        name: "tests",
        args: &["test", "--workspace", "--locked", "--no-fail-fast"],
        // A snapshot that differs is a failure, never a new file to accept later.
        env: &[("INSTA_UPDATE", "no")],
        hint: "run the test that is named alone, with `cargo test NAME`",
    },
    Check {
        name: "documentation",
        args: &["doc", "--workspace", "--no-deps", "--locked"],
        env: &[("RUSTDOCFLAGS", "--deny=warnings")],
        hint: "mend the links and tags that it names",
    },
];

/// What `.deny.toml` asks of the dependencies, which needs `cargo deny`.
const POLICY: Check = Check {
    name: "dependencies",
    args: &["deny", "--locked", "check", "licenses", "bans", "sources"],
    env: &[],
    hint: "take the crate out, or say in .deny.toml why it may stay",
};

/// The same of what is known against them.
const ADVISORIES: Check = Check {
    name: "advisories",
    args: &["deny", "--locked", "check", "advisories"],
    env: &[],
    hint: "update the crate, or say in .deny.toml what shields us from it",
};

/// What `cargo deny` says when it is not there to say anything of the dependencies.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// Set where a missing `cargo deny` is a failure, as in CI.
const NEED_DENY: &str = "FLOWCTL_TESTS_NEED_DENY";

#[test]
#[ignore = "runs everything else: call it as `cargo ready`"]
fn ready() {
    let mut failed: Vec<_> = CHECKS.iter().filter(|check| !holds(check)).collect();
    let mut passed = CHECKS.len() - failed.len();
    let mut notes = Vec::new();
    for (check, outcome) in dependencies() {
        match outcome {
            Outcome::Holds => passed += 1,
            Outcome::Failed => failed.push(check),
            Outcome::NotTold(why) => notes.push(format!("  {}: NOT CHECKED, {why}", check.name)),
        }
    }
    println!("\nready: {passed} passed, {} failed", failed.len());
    for check in &failed {
        println!("  {}: {}", check.name, check.hint);
    }
    for note in &notes {
        println!("{note}");
    }
    assert!(failed.is_empty(), "not ready");
}

/// What came of a check that may not be possible.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Holds,
    Failed,
    /// Nothing is known, and why.
    NotTold(&'static str),
}

fn dependencies() -> [(&'static Check, Outcome); 2] {
    let version = cargo(&["deny", "--version"]).output();
    if version.is_ok_and(|version| version.status.success()) {
        let policy = if holds(&POLICY) {
            Outcome::Holds
        } else {
            Outcome::Failed
        };
        return [(&POLICY, policy), (&ADVISORIES, advisories())];
    }
    let outcome = || match std::env::var_os(NEED_DENY) {
        Some(_) => Outcome::Failed,
        None => Outcome::NotTold("since there is no `cargo deny`: tests/run installs it"),
    };
    [(&POLICY, outcome()), (&ADVISORIES, outcome())]
}

fn advisories() -> Outcome {
    println!(
        "\n=== {}: cargo {}",
        ADVISORIES.name,
        ADVISORIES.args.join(" ")
    );
    let output = cargo(ADVISORIES.args).output();
    let output = output.expect("cargo ran this test, so it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    judged(output.status.success(), &said)
}

/// What `cargo deny` means by this end and these words.
fn judged(succeeded: bool, said: &str) -> Outcome {
    match succeeded {
        true => Outcome::Holds,
        false if said.contains(UNREACHABLE) => {
            Outcome::NotTold("since the list of advisories cannot be had from here")
        }
        false => Outcome::Failed,
    }
}

#[test]
fn a_list_of_advisories_that_cannot_be_had_is_said_and_is_no_failure() {
    let unreachable = "2026-12-01 03:37:09 [ERROR] failed to fetch advisory database \
                       https://github.com/RustSec/advisory-db with cli: failed to clone";
    assert!(matches!(judged(false, unreachable), Outcome::NotTold(_)));
    assert_eq!(judged(true, "advisories ok"), Outcome::Holds);
    let found = "error[vulnerability]: Type confusion\nadvisories FAILED";
    assert_eq!(judged(false, found), Outcome::Failed);
}

#[test]
fn every_ageing_crate_has_a_line_that_says_what_shields_from_it() {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deny.toml");
    let policy = std::fs::read_to_string(policy).expect("the checkout can be read");
    let ageing = policy.split("# Ageing").nth(1).unwrap_or_default();
    for name in ["sled", "serde_yaml", "backoff"] {
        let line = ageing
            .lines()
            .find(|line| line.starts_with(&format!("# {name}:")));
        assert!(line.is_some_and(|line| line.len() > 60), "{name}");
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    cargo
}

fn holds(check: &Check) -> bool {
    println!("\n=== {}: cargo {}", check.name, check.args.join(" "));
    let started = Instant::now();
    let status = cargo(check.args)
        .envs(check.env.iter().copied())
        .status()
        .expect("cargo ran this test, so it can be started");
    let word = if status.success() { "holds" } else { "FAILED" };
    println!("=== {} {word} ({:.0?})", check.name, started.elapsed());
    status.success()
}
