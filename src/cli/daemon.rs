//! `flowctl daemon`.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::args::Daemon;
use super::exit::{Exit, Failure};
use super::host::DaemonOptions;
use super::spawn;
use super::{Context, Global, Stateless};
use crate::api::{ApiError, ErrorCode};
use crate::driver::process;
use crate::model::HumanDuration;
use crate::notify::{FILE, Source};

pub(super) fn run(cx: &mut Context<'_>, args: Daemon) -> Result<Exit, Failure> {
    begin(&args)?;
    cx.host
        .serve(&options(&cx.global, cx.state_dir.clone(), args))
}

/// Between two looks whether the daemon has begun again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Has the daemon that runs go on as the program that is installed now.
pub(super) async fn restart(cx: &mut Context<'_>, timeout: HumanDuration) -> Result<Exit, Failure> {
    let before = cx.client.status().await?;
    let before = before.daemon.ok_or_else(|| Failure::NoState {
        state_dir: cx.state_dir.clone(),
    })?;
    let pid = i32::try_from(before.pid).ok().and_then(Pid::from_raw);
    let asked = pid.map(|pid| kill_process(pid, Signal::USR2));
    if let Some(Err(error)) = asked {
        let why = format!("the daemon (pid {}) cannot be told: {error}", before.pid);
        let hint = "it takes the user that it runs as, or root";
        return Err(Failure::Told(
            ApiError::new(ErrorCode::NotPermitted, why).with_hint(hint),
        ));
    }
    let deadline = Instant::now() + timeout.get();
    while Instant::now() < deadline {
        sleep(LOOK_AGAIN).await;
        // It is away for a moment.
        let Ok(snapshot) = cx.client.status().await else {
            continue;
        };
        if let Some(daemon) = snapshot.daemon
            && (daemon.started_at, daemon.pid) != (before.started_at, before.pid)
        {
            cx.out.put(&format!(
                "the daemon is flowctl {} (pid {}); components ran on\n",
                daemon.version, daemon.pid
            ))?;
            return Ok(Exit::Done);
        }
    }
    Err(Failure::TimedOut {
        after: timeout,
        waiting: vec![format!(
            "the daemon (pid {}, flowctl {}) to begin again; one that is too old for it is \
             ended by SIGTERM",
            before.pid, before.version
        )],
    })
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
