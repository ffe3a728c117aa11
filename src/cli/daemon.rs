//! `flowctl daemon`.

use super::Context;
use super::args::Daemon;
use super::exit::{Exit, Failure};
use super::host::DaemonOptions;
use super::spawn;

pub(super) fn run(cx: &mut Context<'_>, args: Daemon) -> Result<Exit, Failure> {
    if args.detached {
        spawn::detach()?;
    }
    cx.host.serve(&DaemonOptions {
        state_dir: cx.state_dir.clone(),
        log: cx.global.log.clone(),
        log_format: args.log_format.into(),
        control_plane: args.control_plane,
    })
}
