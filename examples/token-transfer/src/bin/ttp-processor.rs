//! Streams the token transfer events of the ledgers that a source streams.

use std::process::ExitCode;

use clap::Parser;
use token_transfer::component::{Env, run};
use token_transfer::processor::{self, ProcessorSettings};

/// Streams the token transfer events of a ledger source over gRPC.
#[derive(Parser)]
#[command(version, after_help = processor::HELP)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    run::configured(
        |env: &Env| ProcessorSettings::from_env(env),
        processor::main,
    )
}
