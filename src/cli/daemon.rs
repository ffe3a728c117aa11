//! `flowctl daemon`.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::args::Daemon;
use super::exit::{Exit, Failure};
use super::host::DaemonOptions;
use super::spawn;
use super::{Context, Global, Stateless};
use crate::driver::process;
use crate::notify::{FILE, Source};

pub(super) fn run(cx: &mut Context<'_>, args: Daemon) -> Result<Exit, Failure> {
    begin(&args)?;
    cx.host
        .serve(&options(&cx.global, cx.state_dir.clone(), args))
}

/// The same with a state directory that is made for it.
pub(super) fn run_in_passing(cx: &mut Stateless<'_>, args: Daemon) -> Result<Exit, Failure> {
    begin(&args)?;
    let passing = Passing::new()?;
    cx.host
        .serve(&options(&cx.global, passing.folder.clone(), args))
}

/// Before anything is made: nothing of whoever started this process is kept that was not meant for
/// it, and the program begins once more.
fn begin(args: &Daemon) -> Result<(), Failure> {
    process::start_afresh();
    spawn::save_memory();
    if args.detached {
        spawn::detach()?;
    }
    Ok(())
}

fn options(global: &Global, state_dir: PathBuf, args: Daemon) -> DaemonOptions {
    let notify = match args.notify {
        // The daemon may work elsewhere than here.
        Some(file) => Source::Named(std::path::absolute(&file).unwrap_or(file)),
        None => Source::Usual(state_dir.join(FILE)),
    };
    DaemonOptions {
        notify,
        state_dir,
        log: global.log.clone(),
        log_format: args.log_format.into(),
        control_plane: args.control_plane,
        engine: args.engine,
        keep_logs: args.keep_logs,
        metrics_address: args.metrics_address,
        otlp_endpoint: args.otlp_endpoint,
    }
}

/// A state directory that goes with its daemon.
struct Passing {
    folder: PathBuf,
}

impl Passing {
    fn new() -> Result<Self, Failure> {
        // Others may write there: what nobody can tell before it is made, nobody takes first.
        let name = RandomState::new().hash_one(std::process::id());
        let folder = std::env::temp_dir().join(format!("flowctl-{name:016x}"));
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
