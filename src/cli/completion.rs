//! `flowctl completion`.

use clap::CommandFactory;

use super::Stateless;
use super::args::{Cli, Completion};
use super::exit::{Exit, Failure};

pub(super) fn run(cx: &mut Stateless<'_>, args: Completion) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "flowctl", &mut script);
    cx.out.put(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
