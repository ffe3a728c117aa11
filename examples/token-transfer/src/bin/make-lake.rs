//! Makes a lake of synthetic ledgers, with the list of the events it holds.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use token_transfer::generator::LakePlan;
use token_transfer::lake::Layout;

/// Makes a lake of synthetic ledgers. The same number always makes the same lake; its
/// manifest.json lists the events that a correct pipeline finds in it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Directory of the lake.
    directory: PathBuf,
    /// How many ledgers; the first is ledger 2.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    ledgers: u32,
    /// Ledgers in one file.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    ledgers_per_file: u32,
    /// Files in one folder; 1 makes no folders.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files_per_partition: u32,
    /// Time between two files, such as 5s, for a lake that grows like a live one.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pace: Duration,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let layout = Layout::new(arguments.ledgers_per_file, arguments.files_per_partition)
        .expect("the arguments are at least 1");
    let plan = LakePlan {
        layout,
        pace: arguments.pace,
        ..LakePlan::of(arguments.ledgers)
    };
    match plan.make(&arguments.directory) {
        Ok(made) => {
            let directory = arguments.directory.display();
            println!(
                "{directory}: {} ledgers, {} events",
                made.ledgers, made.events
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("make-lake: {error}");
            ExitCode::FAILURE
        }
    }
}
