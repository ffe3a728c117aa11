//! Writes the events of a processor to a file, each exactly once.

use std::process::ExitCode;

use clap::Parser;
use token_transfer::component::{Env, run};
use token_transfer::consumer::{self, AtEnd, ConsumerSettings};

/// Writes the events of a processor to a file, each exactly once.
#[derive(Parser)]
#[command(version, after_help = consumer::HELP)]
struct Arguments {
    /// First ledger.
    start: Option<u32>,
    /// Last ledger; 0 goes on for ever.
    end: Option<u32>,
    /// End once every event of the range is written, instead of staying for its health's readers.
    #[arg(long)]
    exit_at_end: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let at_end = if arguments.exit_at_end {
        AtEnd::Exit
    } else {
        AtEnd::Stay
    };
    let read = |env: &Env| ConsumerSettings::from_env(env, arguments.start, arguments.end, at_end);
    run::configured(read, consumer::main)
}
