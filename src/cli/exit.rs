//! How a command ends: the table of exit codes, and the failures that map to it.

use std::io;
use std::path::{Path, PathBuf};

use super::text::shown;
use crate::api::{ApiError, ClientError, ErrorCode};
use crate::daemon::{DaemonError, in_full};
use crate::store::LockError;
use crate::telemetry::LOG;

/// The exit codes. Scripts rely on them; the table is only ever added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// `diff` found differences, or `status --check` something unsettled.
    Differs = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A manifest is invalid.
    ManifestInvalid = 3,
    /// No daemon answers; for `status`: and there is no state.
    NoDaemon = 4,
    /// Timed out waiting.
    TimedOut = 5,
    /// No such pipeline or component.
    NotFound = 6,
    /// Refused: a conflict, a lock that is held, something not permitted.
    Refused = 7,
    /// A component failed while `run` or `--wait` waited for it.
    ComponentFailed = 8,
    /// A bug of ours.
    Bug = 70,
    /// State cannot be made durable.
    NotDurable = 75,
    /// Interrupted.
    Interrupted = 130,
}

impl Exit {
    /// What a check plugin ends with when somebody should look.
    pub const WARNING: Self = Self::Differs;
    /// What a check plugin ends with when something is badly wrong.
    pub const CRITICAL: Self = Self::Usage;
    /// What a check plugin ends with when nothing could be found out.
    pub const UNKNOWN: Self = Self::ManifestInvalid;
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The daemon did not answer, or answered that it failed.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// The same, found without a daemon.
    #[error(transparent)]
    Told(#[from] ApiError),
    /// There is no pipeline or component of that name.
    #[error("{0}")]
    NotFound(String),
    /// No daemon answers and there is no state either.
    #[error("there is no daemon and no state in {}", state_dir.display())]
    NoState {
        /// The state directory that was looked at.
        state_dir: PathBuf,
    },
    /// No control plane answers at the address that was asked.
    #[error("{0}")]
    NoControlPlane(String),
    /// A daemon was started and did not come up.
    #[error("the daemon did not start: {why}")]
    DaemonDied {
        /// What it left in its log.
        why: String,
        /// With which code it ended; `None` = by a signal, or not yet.
        code: Option<i32>,
    },
    /// What was waited for did not come.
    #[error("timed out after {after}; still waiting:\n{}", indented(waiting))]
    TimedOut {
        /// How long was waited.
        after: crate::model::HumanDuration,
        /// What for, a line each.
        waiting: Vec<String>,
    },
    /// A file that was named could not be read in time.
    #[error("timed out after {after}; still waiting for:\n{}", indented(waiting))]
    Unread {
        /// How long was waited.
        after: crate::model::HumanDuration,
        /// What for, a line each.
        waiting: Vec<String>,
    },
    /// A component failed for good.
    #[error("failed for good:\n{}", indented(failed))]
    ComponentFailed {
        /// Which and why, a line each.
        failed: Vec<String>,
    },
    /// A file of a relative name is meant, and the working directory was removed.
    #[error(
        "{} is meant from the working directory, and that was removed",
        path.display()
    )]
    Homeless {
        /// What was named.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("could not {operation} {}: {source}", path.display())]
    File {
        /// `read`, `write`.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A file is there already and would be overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The reader of our output has gone: nothing is wrong.
    #[error("the reader of the output has gone")]
    ClosedPipe,
    /// Our output could not be written.
    #[error("could not write the output: {0}")]
    Output(io::Error),
    /// Ctrl+C.
    #[error("interrupted")]
    Interrupted,
    /// Ctrl+C before everything was down, where no daemon goes on with it.
    #[error("interrupted before everything was down; nobody goes on with what was begun")]
    CutShort,
    /// Ctrl+C before everything was ended.
    #[error("interrupted; this is left behind:\n{}", indented(left))]
    LeftBehind {
        /// What may run on, a line each.
        left: Vec<String>,
    },
}

impl From<io::Error> for Failure {
    /// An error of writing results, the only one that is passed on without a name.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::Output(error)
        }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        let code = match &error {
            DaemonError::Lock(LockError::Io { source, .. }) if takes_nothing(source) => {
                ErrorCode::NotDurable
            }
            DaemonError::Lock(_) | DaemonError::ControlPlane(_) => ErrorCode::Refused,
            // Waiting for another to let go of the directory does not help.
            DaemonError::Engine(_) => ErrorCode::Unreachable,
            DaemonError::Store { .. } | DaemonError::Io { .. } => ErrorCode::NotDurable,
            DaemonError::Down(_) => ErrorCode::NotDurable,
            DaemonError::Ended | DaemonError::Defect => ErrorCode::Internal,
            DaemonError::Volumes(_) => ErrorCode::Refused,
        };
        let advice = match &error {
            DaemonError::Lock(LockError::Stranger { stranger, .. }) => Some(stranger.advice()),
            DaemonError::Lock(_)
            | DaemonError::Store { .. }
            | DaemonError::ControlPlane(_)
            | DaemonError::Engine(_)
            | DaemonError::Volumes(_)
            | DaemonError::Down(_)
            | DaemonError::Ended
            | DaemonError::Defect
            | DaemonError::Io { .. } => None,
        };
        let mut told = ApiError::new(code, in_full(error));
        told.hint = advice;
        Self::Told(told)
    }
}

impl Failure {
    /// The exit code that it ends the command with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Homeless { .. } => Exit::Usage,
            Self::Daemon(ClientError::NotOurs { .. }) => Exit::Refused,
            Self::Daemon(ClientError::Unwritten { .. }) => Exit::Bug,
            Self::Daemon(
                ClientError::NoDaemon { .. }
                | ClientError::Silent { .. }
                | ClientError::Broken { .. },
            )
            | Self::NoState { .. }
            | Self::NoControlPlane(_) => Exit::NoDaemon,
            Self::Daemon(ClientError::Answer(error)) | Self::Told(error) => of_code(error.code),
            Self::NotFound(_) => Exit::NotFound,
            Self::DaemonDied { code, .. } => match code {
                Some(7) => Exit::Refused,
                Some(75) => Exit::NotDurable,
                Some(_) | None => Exit::NoDaemon,
            },
            Self::TimedOut { .. } | Self::Unread { .. } => Exit::TimedOut,
            Self::ComponentFailed { .. } => Exit::ComponentFailed,
            Self::File { .. } | Self::Exists { .. } | Self::Output(_) => Exit::Refused,
            Self::ClosedPipe => Exit::Done,
            Self::Interrupted | Self::CutShort | Self::LeftBehind { .. } => Exit::Interrupted,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        // Only a log that is there is worth a look.
        let log = |state_dir: &Path| {
            let log = state_dir.join(LOG);
            log.exists().then(|| shown(&log))
        };
        match self {
            Self::Daemon(ClientError::NoDaemon { .. }) => Some(
                "`flowctl apply -f FILE` starts one; --state-dir names another state directory"
                    .to_owned(),
            ),
            Self::Daemon(ClientError::Silent { state_dir, .. }) => {
                let see = log(state_dir).map_or_else(String::new, |log| format!("; see {log}"));
                Some(format!("it may be stopped or its disk stuck{see}"))
            }
            Self::Daemon(ClientError::Broken { state_dir, .. }) => {
                let see = log(state_dir).map_or_else(String::new, |log| format!(", or see {log}"));
                Some(format!("it may have ended meanwhile; repeat{see}"))
            }
            Self::Daemon(ClientError::NotOurs { advice, .. }) => Some(advice.clone()),
            Self::Homeless { .. } => {
                Some("go to a folder that exists, or name it by its full path".to_owned())
            }
            Self::Daemon(ClientError::Unwritten { .. }) => None,
            Self::Daemon(ClientError::Answer(error)) | Self::Told(error) => error.hint.clone(),
            Self::NotFound(_) => Some("`flowctl status` lists what there is".to_owned()),
            Self::NoState { .. } => Some(
                "`flowctl apply -f FILE` begins; --state-dir names another state directory"
                    .to_owned(),
            ),
            Self::TimedOut { .. } => {
                Some("the daemon goes on trying; `flowctl status --watch` shows it".to_owned())
            }
            Self::Unread { .. } => Some(
                "nothing was asked or changed; a pipe needs a writer, and --timeout says how long \
                 it is waited for"
                    .to_owned(),
            ),
            Self::ComponentFailed { .. } => Some(
                "`flowctl why COMPONENT` tells more; an edit or `flowctl start` revives it"
                    .to_owned(),
            ),
            Self::CutShort => Some("`flowctl down` does, when it is repeated".to_owned()),
            Self::LeftBehind { .. } => Some(
                "`flowctl down` ends it; so does the next `flowctl run`, before it begins"
                    .to_owned(),
            ),
            Self::Exists { .. } => {
                Some("choose another name, or overwrite with --force".to_owned())
            }
            Self::Usage(_)
            | Self::DaemonDied { .. }
            | Self::File { .. }
            | Self::ClosedPipe
            | Self::Output(_)
            | Self::NoControlPlane(_)
            | Self::Interrupted => None,
        }
    }
}

/// Whether this is how a disk that is full, read-only or failing answers.
pub(super) fn takes_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn of_code(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::BadRequest => Exit::Usage,
        ErrorCode::ManifestInvalid => Exit::ManifestInvalid,
        ErrorCode::NotFound => Exit::NotFound,
        ErrorCode::Refused | ErrorCode::NotPermitted | ErrorCode::Busy | ErrorCode::Unreachable => {
            Exit::Refused
        }
        ErrorCode::NotDurable => Exit::NotDurable,
        ErrorCode::ShuttingDown => Exit::NoDaemon,
        ErrorCode::Internal => Exit::Bug,
    }
}

fn indented(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HumanDuration;
    use std::time::Duration;

    fn told(code: ErrorCode) -> Failure {
        Failure::Daemon(ClientError::Answer(ApiError::new(code, "")))
    }

    /// The table that scripts rely on.
    #[test]
    fn every_failure_has_its_documented_exit_code() {
        let state_dir = PathBuf::from("/s");
        let table = [
            (Failure::Usage(String::new()), 2),
            (told(ErrorCode::BadRequest), 2),
            (told(ErrorCode::ManifestInvalid), 3),
            (
                Failure::Daemon(ClientError::NoDaemon {
                    state_dir: state_dir.clone(),
                    why: String::new(),
                }),
                4,
            ),
            (
                Failure::Daemon(ClientError::Silent {
                    state_dir: state_dir.clone(),
                    after: Duration::ZERO,
                }),
                4,
            ),
            (told(ErrorCode::ShuttingDown), 4),
            (Failure::NoState { state_dir }, 4),
            (
                Failure::TimedOut {
                    after: HumanDuration::from_secs(1),
                    waiting: Vec::new(),
                },
                5,
            ),
            (Failure::NotFound(String::new()), 6),
            (told(ErrorCode::NotFound), 6),
            (told(ErrorCode::Refused), 7),
            (told(ErrorCode::NotPermitted), 7),
            (
                Failure::DaemonDied {
                    why: String::new(),
                    code: Some(7),
                },
                7,
            ),
            (Failure::ComponentFailed { failed: Vec::new() }, 8),
            (told(ErrorCode::Internal), 70),
            (told(ErrorCode::NotDurable), 75),
            (Failure::Interrupted, 130),
            (Failure::CutShort, 130),
            (Failure::LeftBehind { left: Vec::new() }, 130),
            (Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)), 0),
        ];
        for (failure, code) in table {
            assert_eq!(failure.exit() as u8, code, "{failure:?}");
        }
    }
}
