//! What `flowctl run` shows.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::exit::{Exit, Failure};
use super::host::RunOptions;
use super::logs::BREAK;
use super::out::Out;
use super::program::block_on;
use super::spawn;
use super::text::{Style, Tone, clean, paint};
use crate::api::{ApiError, ErrorCode, SourceInput, WhenUnready};
use crate::clock::Clock;
use crate::daemon::defect::{self, Beginnings};
use crate::daemon::{self, AfterRun, DaemonError, Reading, RunEnd, RunError, Said, Signals, Voice};
use crate::manifest::Colour;
use crate::model::HumanDuration;
use crate::telemetry::{self, LogFormat};

/// Lines that may wait for a slow terminal before components' logs wait in their files.
const WAITING: usize = 1024;
/// How long a reader may take for the last of them once the run was told to end: less than the
/// shortest patience of those who then kill it (10 s of Docker, 90 s of systemd).
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) fn run(options: &RunOptions, out: &mut Out) -> Result<Exit, Failure> {
    let filter = options.log.as_deref().unwrap_or("warn");
    telemetry::init(Some(filter), LogFormat::Human)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let wanted = daemon::RunOptions {
        state_dir: options.state_dir.clone(),
        sources: options.sources.clone(),
        reading: Reading {
            namespace: options.namespace.clone(),
            orchestrator: options.args.orchestrator.map(Into::into),
            colour: match options.style {
                Style::Plain => Colour::Off,
                Style::Coloured => Colour::On,
            },
        },
        timeout: options.args.timeout,
        when_unready: if options.args.force {
            WhenUnready::Force
        } else {
            WhenUnready::Refuse
        },
        control_plane: options.args.control_plane.chosen(),
        engine: options.args.engine.chosen(),
        logs: if options.args.keep_logs {
            AfterRun::Keep
        } else {
            AfterRun::Remove
        },
    };
    let style = options.style;
    let defects = defect::watch();
    let (voice, lines) = Voice::new(WAITING);
    let printed = print(lines, out.another()?, style);
    let ended = block_on(async {
        let mut defects = defects;
        let ended = daemon::run(wanted, voice, &mut defects).await;
        until_printed(printed, &ended).await?;
        Ok::<_, Failure>(ended)
    })?;
    match ended {
        Ok(RunEnd::Stopped | RunEnd::Completed) => Ok(Exit::Done),
        Ok(RunEnd::Killed) => Ok(Exit::Interrupted),
        Ok(RunEnd::LeftBehind(left)) => Err(Failure::LeftBehind { left }),
        Ok(RunEnd::Failed(failed)) => Err(Failure::ComponentFailed { failed }),
        Ok(RunEnd::TimedOut(waiting)) => {
            let after: HumanDuration = options.args.timeout;
            Err(Failure::TimedOut { after, waiting })
        }
        Err(RunError::Daemon(DaemonError::Defect)) => Err(begin_again(options)),
        Err(RunError::Manifest(error)) => Err(error.into()),
        Err(RunError::Daemon(error)) => Err(error.into()),
        Err(RunError::Refused(error)) => Err(ApiError::from(error).into()),
        Err(error @ RunError::NotOurs { .. }) => {
            let error = ApiError::new(ErrorCode::Refused, error.to_string());
            let hint = "`flowctl down` ends them; --state-dir names another state directory";
            Err(error.with_hint(hint).into())
        }
    }
}

/// Becomes the same run anew, which ends what this one began and begins it again. Answers why not.
fn begin_again(options: &RunOptions) -> Failure {
    let is_file = |source: &SourceInput| matches!(source, SourceInput::File(_));
    let why = if options.sources.iter().all(is_file) {
        let left = Beginnings::of_this_process().next(Clock::new().now().as_millis());
        let error = spawn::again(&[(defect::VARIABLE, left.as_os_str())]);
        format!("this program cannot be executed again: {error}")
    } else {
        "what it ran was read from a pipe, which cannot be read again; the next run in this \
         directory ends what is left"
            .to_owned()
    };
    Failure::DaemonDied {
        why,
        code: Some(i32::from(Exit::Bug as u8)),
    }
}

/// Shows what the run tells until it tells no more; says when. In a thread of its own that nobody
/// joins: a reader that has paused may block it for ever.
fn print(
    mut lines: mpsc::UnboundedReceiver<Said>,
    mut out: File,
    style: Style,
) -> oneshot::Receiver<()> {
    let (done, printed) = oneshot::channel();
    std::thread::spawn(move || {
        while let Some(said) = lines.blocking_recv() {
            let line = match said {
                Said::Progress(line) => format!("{line}\n"),
                Said::Log(line, _room) => {
                    let text = String::from_utf8_lossy(&line.text).into_owned();
                    let name = paint(&line.replica.to_string(), Tone::Strong, style);
                    // A line in parts is shown in as many lines: others stand between them.
                    let goes_on = if line.ends { "" } else { BREAK };
                    format!("{name} | {}{goes_on}\n", clean(&text))
                }
            };
            // Whoever read our output has gone: the run goes on until it is told to end.
            if out.write_all(line.as_bytes()).is_err() {
                break;
            }
        }
        // Nobody may wait for it any more.
        done.send(()).ok();
    });
    printed
}

/// Waits until all that was told is shown. A reader that has paused is waited for, but not by a run
/// that somebody wants to end.
async fn until_printed(
    printed: oneshot::Receiver<()>,
    ended: &Result<RunEnd, RunError>,
) -> Result<(), Failure> {
    let mut signals = Signals::of_run().map_err(Failure::Output)?;
    let patience = async {
        match ended {
            Ok(RunEnd::Stopped | RunEnd::Killed | RunEnd::LeftBehind(_)) => {
                tokio::time::sleep(LAST_WORDS).await;
            }
            Ok(RunEnd::Completed | RunEnd::Failed(_) | RunEnd::TimedOut(_)) | Err(_) => {
                signals.again().await;
            }
        }
    };
    tokio::select! {
        // Cancel-safe, both: they only wait. A thread that panicked has said so, and shows no more.
        _ = printed => {}
        () = patience => tracing::debug!("the reader has paused; what it did not read is lost"),
    }
    Ok(())
}
