//! The `flowctl` program: the fork server before any thread starts, else the command line.

use std::process::ExitCode;

use flowctl::cli;
use flowctl::driver::process;

fn main() -> ExitCode {
    // Before anything else: the fork server forks, and must have a single thread when it does.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == process::FORK_SERVER_VERB)
    {
        process::run_fork_server();
        return ExitCode::SUCCESS;
    }
    cli::main(&cli::Program, std::env::args_os()).into()
}
