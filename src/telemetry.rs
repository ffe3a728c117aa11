//! What the daemon says about itself, for operators.
//!
//! **Guarantees.** One line for each thing done and each change of state, on standard error, as
//! text or JSON. Values of variables, secrets and output of components are never among the fields:
//! no room hands them to `tracing`. A line that cannot be written is lost and hurts nobody.
//!
//! **What it does not do.** Events that users see are [`crate::model::Event`]; they are kept in the
//! store and are not this log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// What is logged when nobody says: our own steps, and only the troubles of the database.
const DEFAULT_FILTER: &str = "info,sled=warn";

/// The log of a daemon that was started in the background, in its state directory.
pub const LOG: &str = "daemon.log";
/// The log before the one that is being written.
const OLD_LOG: &str = "daemon.log.1";
/// Of this size, in bytes, a log is begun anew: the kubelet's default for those of containers.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;
/// How often its size is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each.
    Human,
    /// A JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error(
        "`{filter}` is not a log filter: write a level like `info`, or `flowctl=debug,sled=warn`"
    )]
    Filter {
        /// What was written.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log of this process is set up already.
    #[error("the log is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets the log of this process up: what `filter` lets through (`None` = `info`), in
/// `format`. Lines of crates that use `log`, as the database does, are among them.
///
/// # Errors
/// When the filter is malformed, or the log was set up before.
pub fn init(filter: Option<&str>, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = parse(filter.unwrap_or(DEFAULT_FILTER))?;
    let outcome = match format {
        LogFormat::Human => builder(filter).try_init(),
        LogFormat::Json => builder(filter).json().flatten_event(true).try_init(),
    };
    outcome.map_err(TelemetryError::Twice)
}

/// Begins the [`LOG`] in `state_dir` anew whenever it has grown large, and keeps the one before.
/// Does nothing while this process writes elsewhere: to a terminal, a pipe or a journal. Never ends.
pub async fn keep_small(state_dir: PathBuf) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let turned = match fresh(&state_dir, io::stderr(), LOG_LIMIT) {
            Ok(None) => continue,
            Ok(Some(log)) => write_to(&log),
            Err(error) => Err(error),
        };
        if let Err(error) = turned {
            tracing::warn!(%error, "the daemon's log cannot be begun anew");
        }
    }
}

/// The log to write to from now on; `None` when `current` is not the one in `state_dir`, or no
/// larger than `limit`.
fn fresh(state_dir: &Path, current: impl AsFd, limit: u64) -> io::Result<Option<File>> {
    let path = state_dir.join(LOG);
    let named = match rustix::fs::stat(&path) {
        Ok(named) => named,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let written = rustix::fs::fstat(current)?;
    let is_ours = (written.st_dev, written.st_ino) == (named.st_dev, named.st_ino);
    if !is_ours || u64::try_from(written.st_size).unwrap_or(0) <= limit {
        return Ok(None);
    }
    // Made before the old one is moved: where there is no room for it, all stays as it is.
    let next = state_dir.join(format!("{LOG}.next"));
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&next)?;
    fs::rename(&path, state_dir.join(OLD_LOG))?;
    fs::rename(&next, &path)?;
    Ok(Some(log))
}

fn write_to(log: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(log)?;
    Ok(rustix::stdio::dup2_stderr(log)?)
}

type Builder = SubscriberBuilder<
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    EnvFilter,
    fn() -> std::io::Stderr,
>;

fn builder(filter: EnvFilter) -> Builder {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        .with_env_filter(filter)
        // A line that cannot be written would be complained of with `eprintln!`, which panics when
        // standard error is a file on a full disk, in whatever thread logs: a line is lost instead.
        .log_internal_errors(false)
        .with_writer(std::io::stderr as fn() -> std::io::Stderr)
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grew_large_is_begun_anew_and_the_one_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let path = dir.path().join(LOG);
        fs::write(&path, "first").unwrap();
        let first = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(fresh(dir.path(), &first, 5).unwrap().is_none());
        let second = fresh(dir.path(), &first, 4).unwrap().unwrap();
        fs::write(&path, "second").unwrap();
        assert_eq!(
            (read(LOG), read(OLD_LOG)),
            ("second".into(), "first".into())
        );
        // What is written elsewhere is nobody's to move, however large.
        assert!(fresh(dir.path(), &first, 0).unwrap().is_none());
        assert!(fresh(dir.path(), &second, 0).unwrap().is_some());
        assert_eq!((read(LOG), read(OLD_LOG)), (String::new(), "second".into()));
        fs::remove_file(&path).unwrap();
        assert!(fresh(dir.path(), &second, 0).unwrap().is_none());
    }

    #[test]
    fn a_malformed_filter_is_refused_with_an_example() {
        for good in ["info", "flowctl=debug,sled=warn", "off", DEFAULT_FILTER] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let error = parse("flowctl=loud").unwrap_err();
        assert!(error.to_string().contains("flowctl=debug"), "{error}");
    }
}
