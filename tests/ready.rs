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

#[test]
#[ignore = "runs everything else: call it as `cargo ready`"]
fn ready() {
    let failed: Vec<_> = CHECKS.iter().filter(|check| !holds(check)).collect();
    let passed = CHECKS.len() - failed.len();
    println!("\nready: {passed} passed, {} failed", failed.len());
    for check in &failed {
        println!("  {}: {}", check.name, check.hint);
    }
    assert!(failed.is_empty(), "not ready");
}

fn holds(check: &Check) -> bool {
    println!("\n=== {}: cargo {}", check.name, check.args.join(" "));
    let started = Instant::now();
    let status = Command::new(env!("CARGO"))
        .args(check.args)
        .envs(check.env.iter().copied())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .status()
        .expect("cargo ran this test, so it can be started");
    let word = if status.success() { "holds" } else { "FAILED" };
    println!("=== {} {word} ({:.0?})", check.name, started.elapsed());
    status.success()
}
