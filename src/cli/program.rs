//! The rest of the program behind the command line: the daemon in this process, or a look without
//! one.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use super::exit::{Exit, Failure, takes_nothing};
use super::foreground;
use super::host::{Approved, DaemonOptions, Host, Question, RunOptions};
use super::out::Out;
use super::text::Style;
use crate::api::{ApiError, Backend, ErrorCode, Watching};
use crate::daemon::{self, CleanedUp, Daemon, DaemonError, Reading, Volumes};
use crate::driver::logs::kept::Retention;
use crate::manifest::{self, Colour};
use crate::model::HumanDuration;
use crate::store::LockError;
use crate::telemetry;

/// Threads of the daemon's runtime: one may be held up by a slow file system while the other
/// answers.
const WORKERS: usize = 2;

/// flowctl itself.
pub struct Program;

impl Host for Program {
    fn serve(&self, options: &DaemonOptions) -> Result<Exit, Failure> {
        telemetry::init(options.log.as_deref(), options.log_format)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let options = daemon::Options {
            state_dir: options.state_dir.clone(),
            control_plane: options.control_plane.chosen(),
            engine: options.engine.chosen(),
            retention: Retention {
                age: options.keep_logs.get(),
                ..Retention::default()
            },
        };
        block_on(async move {
            let log = telemetry::keep_small(options.state_dir.clone());
            let daemon = Daemon::open(options).await?;
            tokio::spawn(log);
            let known = daemon.owner().snapshots().borrow().daemon.clone();
            let control_plane = known.and_then(|daemon| daemon.control_plane);
            daemon
                .serve(|| tracing::info!(control_plane, "ready"))
                .await
        })?;
        Ok(Exit::Done)
    }

    fn run(&self, options: &RunOptions, out: &mut Out) -> Result<Exit, Failure> {
        foreground::run(options, out)
    }

    fn look(&self, state_dir: &Path) -> Result<Option<Arc<dyn Backend>>, Failure> {
        let found = block_on(daemon::look(state_dir))?;
        Ok(found.map(|onlooker| Arc::new(onlooker) as Arc<dyn Backend>))
    }

    fn end_all(&self, state_dir: &Path, within: HumanDuration) -> Result<(), Failure> {
        block_on(async {
            let ended = tokio::time::timeout(within.get(), daemon::down(state_dir));
            tokio::select! {
                // Cancel-safe: what was begun is recorded, and the next daemon goes on with it.
                ended = ended => match ended {
                    Ok(ended) => ended.map_err(failure),
                    Err(_) => Err(Failure::TimedOut {
                        after: within,
                        waiting: Vec::new(),
                    }),
                },
                // Cancel-safe: it only waits. Without it Ctrl+C would do nothing here: whoever
                // asked for a daemon before has taken it from the host, for good.
                pressed = tokio::signal::ctrl_c() => {
                    Err(pressed.err().map_or(Failure::CutShort, Failure::Output))
                }
            }
        })
    }

    fn volumes(&self, state_dir: &Path, fate: Volumes) -> Result<CleanedUp, Failure> {
        block_on(daemon::volumes(state_dir, fate))
    }

    fn check(&self, question: &Question<'_>) -> Result<Approved, Failure> {
        let reading = Reading {
            namespace: question.namespace.cloned(),
            orchestrator: question.orchestrator,
            colour: match question.style {
                Style::Plain => Colour::Off,
                Style::Coloured => Colour::On,
            },
        };
        let checked = daemon::check(question.sources, Watching::No, &reading)?;
        let numbered = checked.loaded.into_iter().enumerate();
        let pipelines = numbered
            .flat_map(|(index, loaded)| loaded.pipelines.into_iter().map(move |spec| (index, spec)))
            .collect();
        Ok(Approved {
            pipelines,
            remarks: checked.remarks,
        })
    }

    fn yaml(&self, value: &serde_json::Value) -> Result<String, Failure> {
        manifest::yaml::to_string(value)
            .map_err(|error| Failure::Told(ApiError::new(ErrorCode::Internal, error.to_string())))
    }
}

/// Waits for `work` on a runtime of its own, in a thread of its own: the caller may be on one.
pub(super) fn block_on<T: Send, E: Into<Failure> + Send>(
    work: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, Failure> {
    let wait = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .map_err(Failure::Output)?
            .block_on(work)
            .map_err(Into::into)
    };
    match std::thread::scope(|scope| scope.spawn(wait).join()) {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        failure(error)
    }
}

pub(super) fn failure(error: DaemonError) -> Failure {
    let code = match &error {
        DaemonError::Lock(LockError::Io { source, .. }) if takes_nothing(source) => {
            ErrorCode::NotDurable
        }
        DaemonError::Lock(_) | DaemonError::ControlPlane(_) => ErrorCode::Refused,
        // Waiting for another to let go of the directory does not help.
        DaemonError::Engine(_) => ErrorCode::Unreachable,
        DaemonError::Store { .. } | DaemonError::Io { .. } => ErrorCode::NotDurable,
        DaemonError::Down(_) => ErrorCode::NotDurable,
        DaemonError::Ended => ErrorCode::Internal,
        DaemonError::Volumes(_) => ErrorCode::Refused,
    };
    Failure::Told(ApiError::new(code, daemon::in_full(error)))
}
