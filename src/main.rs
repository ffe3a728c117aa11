//! The `flowctl` program: fork server and process 1 before any thread starts, else the command line.

use std::process::ExitCode;

use flowctl::cli;
use flowctl::driver::process::{self, Split};

fn main() -> ExitCode {
    // Before anything else: the fork server forks, and must have a single thread when it does.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == process::FORK_SERVER_VERB)
    {
        process::run_fork_server();
        return ExitCode::SUCCESS;
    }
    // Also before any thread: as process 1 of a container it has duties beyond its own children.
    match process::split() {
        Ok(Split::Program) => {}
        Ok(Split::Ended(code)) => return code.into(),
        Err(error) => {
            eprintln!(
                "error: as process 1 of its namespace flowctl cannot look after orphans: {error}"
            );
            return ExitCode::FAILURE;
        }
    }
    cli::main(&cli::Program, std::env::args_os()).into()
}
