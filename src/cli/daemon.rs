//! `flowctl daemon`.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::Context;
use super::args::Daemon;
use super::exit::{Exit, Failure};
use super::host::DaemonOptions;
use super::spawn;

pub(super) fn run(cx: &mut Context<'_>, args: Daemon) -> Result<Exit, Failure> {
    // Before anything is made: the program begins once more.
    spawn::share_one_arena();
    if args.detached {
        spawn::detach()?;
    }
    let passing = args.no_persistence.then(Passing::new).transpose()?;
    let state_dir = passing
        .as_ref()
        .map_or(&cx.state_dir, |passing| &passing.folder);
    cx.host.serve(&DaemonOptions {
        state_dir: state_dir.clone(),
        log: cx.global.log.clone(),
        log_format: args.log_format.into(),
        control_plane: args.control_plane,
        engine: args.engine,
        keep_logs: args.keep_logs,
    })
}

/// A state directory that goes with its daemon.
struct Passing {
    folder: PathBuf,
}

impl Passing {
    fn new() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("flowctl-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| Failure::File {
            operation: "make",
            path: folder.clone(),
            source,
        })?;
        Ok(Self { folder })
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "its state was not removed");
        }
    }
}
