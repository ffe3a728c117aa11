//! What `flowctl run` shows.

use tokio::sync::mpsc;

use super::exit::{Exit, Failure};
use super::host::RunOptions;
use super::out::Out;
use super::program::{block_on, failure};
use super::text::{Style, Tone, clean, paint};
use crate::api::{ApiError, ErrorCode, WhenUnready};
use crate::daemon::{self, AfterRun, Reading, RunEnd, RunError, Said};
use crate::manifest::Colour;
use crate::model::HumanDuration;
use crate::telemetry::{self, LogFormat};

/// Lines that may wait for a slow terminal before components' logs wait in their files.
const WAITING: usize = 1024;

pub(super) fn run(options: &RunOptions, out: &mut Out) -> Result<Exit, Failure> {
    let filter = options.log.as_deref().unwrap_or("warn");
    telemetry::init(Some(filter), LogFormat::Human)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let wanted = daemon::RunOptions {
        state_dir: options.state_dir.clone(),
        file: options.file.clone(),
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
    let (said, mut lines) = mpsc::channel(WAITING);
    let ended = std::thread::scope(|scope| {
        let work =
            scope.spawn(|| block_on(async { Ok::<_, Failure>(daemon::run(wanted, said).await) }));
        while let Some(said) = lines.blocking_recv() {
            let line = match said {
                Said::Progress(line) => line,
                Said::Log(line) => {
                    let text = String::from_utf8_lossy(&line.text).into_owned();
                    let name = paint(&line.replica.to_string(), Tone::Strong, style);
                    format!("{name} | {}", clean(&text))
                }
            };
            // Whoever read our output has gone: the run goes on until it is told to end.
            if out
                .line(line.as_bytes())
                .and_then(|()| out.flush())
                .is_err()
            {
                break;
            }
        }
        drop(lines);
        work.join()
    });
    let ended = match ended {
        Ok(ended) => ended?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    match ended {
        Ok(RunEnd::Stopped) => Ok(Exit::Done),
        Ok(RunEnd::Killed) => Ok(Exit::Interrupted),
        Ok(RunEnd::LeftBehind(left)) => Err(Failure::LeftBehind { left }),
        Ok(RunEnd::Failed(failed)) => Err(Failure::ComponentFailed { failed }),
        Ok(RunEnd::TimedOut(waiting)) => {
            let after: HumanDuration = options.args.timeout;
            Err(Failure::TimedOut { after, waiting })
        }
        Err(RunError::Manifest(error)) => Err(error.into()),
        Err(RunError::Daemon(error)) => Err(failure(error)),
        Err(RunError::Refused(error)) => Err(ApiError::from(error).into()),
        Err(error @ RunError::NotOurs { .. }) => {
            let error = ApiError::new(ErrorCode::Refused, error.to_string());
            let hint = "`flowctl down` ends them; --state-dir names another state directory";
            Err(error.with_hint(hint).into())
        }
    }
}
