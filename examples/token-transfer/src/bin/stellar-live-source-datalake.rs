//! Streams the ledgers of a lake.

use std::process::ExitCode;

use clap::Parser;
use token_transfer::component::{Env, run};
use token_transfer::source::{self, SourceSettings};

/// Streams the ledgers of a lake over gRPC.
#[derive(Parser)]
#[command(version, after_help = source::HELP)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    run::configured(|env: &Env| SourceSettings::from_env(env), source::main)
}
