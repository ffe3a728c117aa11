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
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
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

/// The file that this process writes its log to, if it is one.
#[derive(Clone, Debug)]
pub enum LogFile {
    /// The [`LOG`] of this state directory, which is ours to begin anew.
    Own(PathBuf),
    /// A file that whoever started us chose.
    Given(PathBuf),
    /// A terminal, a pipe or a journal.
    Elsewhere,
}

impl LogFile {
    /// Where standard error goes now, for a daemon of `state_dir`.
    pub fn of_stderr(state_dir: &Path) -> Self {
        Self::of(state_dir, io::stderr())
    }

    fn of(state_dir: &Path, current: impl AsFd) -> Self {
        let Ok(written) = rustix::fs::fstat(&current) else {
            return Self::Elsewhere;
        };
        let is_written = |path: &Path| {
            rustix::fs::stat(path)
                .is_ok_and(|named| (written.st_dev, written.st_ino) == (named.st_dev, named.st_ino))
        };
        if is_written(&state_dir.join(LOG)) {
            return Self::Own(state_dir.to_owned());
        }
        let link = format!("/proc/self/fd/{}", current.as_fd().as_raw_fd());
        let named = fs::read_link(link).unwrap_or_default();
        let is_file = FileType::from_raw_mode(written.st_mode) == FileType::RegularFile;
        if is_file && is_written(&named) {
            Self::Given(named)
        } else {
            Self::Elsewhere
        }
    }

    /// Begins it anew: what somebody moved away is left to them, and our own that is where it was is
    /// kept as the one before.
    pub fn begin_anew(&self) {
        let turned = match self {
            Self::Own(state_dir) => fresh(state_dir, io::stderr(), 0),
            Self::Given(path) => reopened(path, io::stderr(), open_given),
            Self::Elsewhere => Ok(None),
        };
        match turned.and_then(|log| log.as_ref().map(write_to).transpose()) {
            Ok(Some(())) => tracing::info!("the log begins anew"),
            Ok(None) => tracing::info!("the log goes on: there is nothing to begin anew"),
            Err(error) => tracing::warn!(%error, "the log cannot be begun anew"),
        }
    }

    /// Begins it anew whenever it has grown large, or was moved or removed. A file that we were given
    /// is as large as its owner lets it be. Never ends.
    pub async fn keep(self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let turned = match &self {
                Self::Own(state_dir) => fresh(state_dir, io::stderr(), LOG_LIMIT),
                Self::Given(path) => reopened(path, io::stderr(), open_given),
                Self::Elsewhere => return,
            };
            let turned = turned.and_then(|log| log.as_ref().map(write_to).transpose());
            if let Err(error) = turned {
                tracing::warn!(%error, "the daemon's log cannot be begun anew");
            }
        }
    }
}

/// The log to write to from now on, where `path` is not what `current` writes to any more.
fn reopened(
    path: &Path,
    current: impl AsFd,
    open: fn(&Path) -> io::Result<File>,
) -> io::Result<Option<File>> {
    let written = rustix::fs::fstat(current)?;
    match rustix::fs::stat(path) {
        Ok(named) if (written.st_dev, written.st_ino) == (named.st_dev, named.st_ino) => {
            return Ok(None);
        }
        Ok(_) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    open(path).map(Some)
}

/// A log in a folder that is ours alone.
fn open_own(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// A log in a folder that may be another user's: they shall not choose what we write to. The path has
/// no links, since the kernel told it of an open file.
fn open_given(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mode = Mode::RUSR | Mode::WUSR;
    let opened = match rustix::fs::openat2(CWD, path, flags, mode, ResolveFlags::NO_SYMLINKS) {
        // A kernel before 5.6.
        Err(Errno::NOSYS) => rustix::fs::open(path, flags, mode),
        opened => opened,
    }?;
    let found = rustix::fs::fstat(&opened)?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    if !is_file || found.st_nlink > 1 {
        let why = "what lies there is no file, or has another name elsewhere";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(opened.into())
}

/// The log in `state_dir` to write to from now on; `None` while `current` is it and no larger than
/// `limit`.
fn fresh(state_dir: &Path, current: impl AsFd, limit: u64) -> io::Result<Option<File>> {
    let path = state_dir.join(LOG);
    if let Some(moved) = reopened(&path, &current, open_own)? {
        return Ok(Some(moved));
    }
    let written = rustix::fs::fstat(current)?;
    if u64::try_from(written.st_size).unwrap_or(0) <= limit {
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

/// Has standard error go to `log`, and standard output where that went to the same file.
fn write_to(log: &File) -> io::Result<()> {
    let (out, err) = (
        rustix::fs::fstat(io::stdout())?,
        rustix::fs::fstat(io::stderr())?,
    );
    if (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino) {
        rustix::stdio::dup2_stdout(log)?;
    }
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
        let third = fresh(dir.path(), &second, 0).unwrap().unwrap();
        assert_eq!((read(LOG), read(OLD_LOG)), (String::new(), "second".into()));
        assert!(
            fresh(dir.path(), &third, 0).unwrap().is_none(),
            "it is empty"
        );
    }

    #[test]
    fn a_log_that_somebody_moved_or_removed_is_begun_anew_and_nothing_is_taken_from_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG);
        let open = || {
            let options = &mut OpenOptions::new();
            options.create(true).append(true).open(&path).unwrap()
        };
        let first = open();
        let own = LogFile::of(dir.path(), &first);
        assert!(matches!(own, LogFile::Own(_)));
        let other = tempfile::tempdir().unwrap();
        let given = LogFile::of(other.path(), &first);
        assert!(matches!(given, LogFile::Given(given) if given == path.canonicalize().unwrap()));
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let elsewhere = LogFile::of(dir.path(), &socket);
        assert!(matches!(elsewhere, LogFile::Elsewhere));

        let reopened = |current: &File| super::reopened(&path, current, open_given).unwrap();
        assert!(reopened(&first).is_none());
        fs::rename(&path, dir.path().join("theirs")).unwrap();
        let second = fresh(dir.path(), &first, LOG_LIMIT).unwrap().unwrap();
        assert!(reopened(&second).is_none());
        fs::remove_file(&path).unwrap();
        assert!(reopened(&second).is_some());
        assert!(path.exists() && dir.path().join("theirs").exists());
        assert!(!dir.path().join(OLD_LOG).exists());
    }

    #[test]
    fn whoever_may_change_the_folder_of_a_log_does_not_choose_what_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (victim, theirs) = (base.join("victim"), base.join("theirs"));
        fs::write(&victim, "mine").unwrap();
        fs::create_dir(&theirs).unwrap();
        let path = theirs.join("flowctl.log");
        let first = open_given(&path).unwrap();
        let again = || reopened(&path, &first, open_given);
        assert!(again().unwrap().is_none());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(again().is_err());
        fs::remove_file(&path).unwrap();
        fs::hard_link(&victim, &path).unwrap();
        assert!(again().is_err());
        fs::remove_dir_all(&theirs).unwrap();
        let other = base.join("other");
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &theirs).unwrap();
        assert!(again().is_err());
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
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
