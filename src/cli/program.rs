//! The rest of the program behind the command line: the daemon in this process, or a look without
//! one.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use super::exit::{Exit, Failure};
use super::foreground;
use super::host::{Approved, DaemonOptions, Host, Question, RunOptions};
use super::out::Out;
use super::spawn;
use super::text::Style;
use crate::api::{ApiError, Backend, ErrorCode, Watching};
use crate::clock::Clock;
use crate::daemon::defect::{self, Beginnings};
use crate::daemon::{self, CleanedUp, Daemon, DaemonError, Ended, Reading, Volumes};
use crate::driver::logs::kept::Retention;
use crate::manifest::{self, Colour};
use crate::model::HumanDuration;
use crate::telemetry::{self, LogFile};

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
            metrics: options.metrics_address,
            otlp: options.otlp_endpoint.clone(),
            notify: Some(options.notify.clone()),
        };
        let log = LogFile::of_stderr(&options.state_dir);
        let defects = defect::watch();
        let served = block_on(async move {
            let mut defects = defects;
            // Before anything is looked at: a signal that comes meanwhile is not the kernel's.
            let mut signals = daemon::listen(&options.state_dir)?;
            let opened = tokio::select! {
                opened = Daemon::open(options) => opened?,
                // Cancel-safe: what was begun is as after a kill, from which the next one recovers.
                signal = signals.end() => {
                    tracing::info!(%signal, "ending before it began");
                    return Ok(After::End);
                }
            };
            tokio::spawn(log.clone().keep());
            let known = opened.owner().snapshots().borrow().daemon.clone();
            let control_plane = known.and_then(|daemon| daemon.control_plane);
            let ready = || tracing::info!(control_plane, "ready");
            match opened.serve(&mut signals, &log, &mut defects, ready).await {
                Ok(Ended::ForGood) => Ok(After::End),
                Ok(Ended::ToBeginAgain) => Ok(After::Renew),
                Err(DaemonError::Defect) => Ok(After::BeginAgain),
                Err(error @ DaemonError::Ended) => {
                    let pause = Beginnings::of_this_process().pause(Clock::new().now().as_millis());
                    tracing::error!(%error, ?pause, "the daemon begins again after a pause");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => Ok(After::BeginAgain),
                        // Cancel-safe: it only waits.
                        _ = signals.end() => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        });
        match served? {
            After::End => Ok(Exit::Done),
            After::Renew => {
                let error = spawn::renewed();
                Err(Failure::DaemonDied {
                    why: format!("the program that is installed cannot be executed: {error}"),
                    code: Some(i32::from(Exit::Bug as u8)),
                })
            }
            After::BeginAgain => {
                // What is broken in this program is whole in the next, which adopts what runs.
                let left = Beginnings::of_this_process().next(Clock::new().now().as_millis());
                let error = spawn::again(&[(defect::VARIABLE, left.as_os_str())]);
                Err(Failure::DaemonDied {
                    why: format!("this program cannot be executed again: {error}"),
                    code: Some(i32::from(Exit::Bug as u8)),
                })
            }
        }
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
                    Ok(ended) => ended.map_err(Into::into),
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

/// What comes after a daemon.
enum After {
    /// Nothing: somebody wanted it to end.
    End,
    /// The daemon of the program that is installed now.
    Renew,
    /// The same daemon again, since something in this one is broken.
    BeginAgain,
}

/// Waits for `work` on a runtime of its own, in a thread of its own: the caller may be on one.
pub(super) fn block_on<T: Send, E: Send>(
    work: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, Failure>
where
    Failure: From<E>,
{
    Ok(block_on_runtime(work)??)
}

fn block_on_runtime<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, Failure> {
    let wait = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .map_err(Failure::Output)?;
        let done = runtime.block_on(work);
        // A file system or a pipe that hangs holds up a thread, and must not hold up the end.
        runtime.shutdown_background();
        Ok(done)
    };
    match std::thread::scope(|scope| scope.spawn(wait).join()) {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
