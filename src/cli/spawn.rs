//! Starts a daemon in the background.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::exit::{Failure, takes_nothing};
use super::out::tell;
use super::text::shown;
use crate::api::{ApiError, Client, ClientError, ErrorCode};
use crate::daemon::DaemonError;
use crate::driver::process;
use crate::store;
use crate::telemetry::LOG;

/// A daemon that has a damaged store to rebuild takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of its last words is shown.
const LAST_WORDS: u64 = 4096;
/// Distance of the first looks for its socket; it doubles up to [`LONGEST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// Leaves the session of whoever started this process, so that closing a terminal or pressing
/// Ctrl+C there does not reach it.
///
/// # Errors
/// When this process leads a group of that session.
pub fn detach() -> Result<(), Failure> {
    let Err(error) = rustix::process::setsid() else {
        return Ok(());
    };
    // A daemon that begins again in its process has left already.
    let own = Some(rustix::process::getpid());
    if rustix::process::getsid(None).ok() == own {
        return Ok(());
    }
    Err(Failure::Output(error.into()))
}

/// Starts a daemon for the state directory of `client` and waits until it answers. `options` are
/// those of `flowctl daemon` beside it; variables are inherited.
///
/// # Errors
/// [`Failure::DaemonDied`] with its last words.
pub async fn daemon(client: &Client, options: &[String]) -> Result<(), Failure> {
    let state_dir = client.state_dir();
    store::make_private(state_dir).map_err(DaemonError::from)?;
    let path = state_dir.join(LOG);
    let named = |source| unusable("write", &path, source);
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&path)
        .map_err(named)?;
    let before = log.seek(SeekFrom::End(0)).map_err(named)?;
    let mut child = launch(state_dir, &log, options).map_err(|source| Failure::DaemonDied {
        why: format!("could not run this program again: {source}"),
        code: None,
    })?;
    answers(client, &mut child, &mut log, &path, before).await?;
    tell(&format!(
        "started a daemon (pid {}, state in {})",
        child.id(),
        shown(state_dir)
    ));
    Ok(())
}

/// What it means that `operation` failed in the state directory.
fn unusable(operation: &'static str, path: &Path, source: io::Error) -> Failure {
    if takes_nothing(&source) {
        let why = format!("could not {operation} {}: {source}", path.display());
        return Failure::Told(ApiError::new(ErrorCode::NotDurable, why));
    }
    Failure::File {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

/// How glibc's allocator is to work in a daemon, which lives for months. Components do not inherit it.
///
/// * Starting hundreds of components at once spreads over the allocator's arenas, which then keep it:
///   500 leave 44 MB with as many as glibc likes and 34 MB with one.
/// * A buffer of 128 KiB or more, as a status or a manifest of hundreds, has pages of its own, which go
///   back once it is dropped. Left to itself glibc raises that limit with the first one that is
///   dropped, and what comes later leaves holes: 500 components then hold 17.6 MB, else 13.9.
const ALLOCATOR: [(&str, &str); 2] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
];

/// Becomes the same daemon with an allocator that gives back, but for what its environment says of that:
/// the allocator reads it once, before anything of ours runs. The pid stays. Where this program cannot
/// be executed again, it goes on with more memory.
pub(super) fn save_memory() {
    let missing: Vec<(&str, &OsStr)> = ALLOCATOR
        .iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .map(|(name, value)| (*name, OsStr::new(*value)))
        .collect();
    if !missing.is_empty() {
        let error = again(&missing);
        tracing::debug!(%error, "cannot be executed again");
    }
}

/// Becomes the program that lies where this one lay, also when another version has taken its place.
/// The pid stays. Answers why it did not.
pub(super) fn renewed() -> io::Error {
    let own = std::env::current_exe().unwrap_or_default();
    // What the kernel says of a file that was removed or replaced.
    let place = own.as_os_str().as_bytes();
    let place = place.strip_suffix(b" (deleted)").unwrap_or(place);
    let place = Path::new(OsStr::from_bytes(place));
    if place.exists() {
        become_program(place, &[])
    } else {
        again(&[])
    }
}

/// Becomes the same program anew, with these variables beside those that it has. The pid stays.
/// Answers why it did not.
pub(super) fn again(variables: &[(&str, &OsStr)]) -> io::Error {
    // The file that runs, also where another version has taken its place.
    let program = std::env::current_exe()
        .ok()
        .filter(|program| program.exists())
        .unwrap_or_else(|| "/proc/self/exe".into());
    become_program(&program, variables)
}

fn become_program(program: &Path, variables: &[(&str, &OsStr)]) -> io::Error {
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(own) = arguments.next() {
        again.arg0(own);
    }
    again.args(arguments).envs(variables.iter().copied()).exec()
}

fn launch(state_dir: &Path, log: &File, options: &[String]) -> io::Result<Child> {
    // A lock that our caller holds open must not be held by a daemon that outlives it.
    process::keep_descriptors_from_children();
    Command::new(std::env::current_exe()?)
        .arg("daemon")
        .arg("--detached")
        .arg("--state-dir")
        .arg(state_dir)
        .args(options)
        // What a service manager expects of us, the daemon does not owe it.
        .env_remove("NOTIFY_SOCKET")
        // No folder is kept from being unmounted by a daemon that nobody remembers.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
}

/// Waits until somebody answers: the child, or another daemon that was faster.
async fn answers(
    client: &Client,
    child: &mut Child,
    log: &mut File,
    path: &Path,
    before: u64,
) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_LOOK;
    loop {
        let ended = child.try_wait().map_err(Failure::Output)?;
        match client.version().await {
            Ok(_) => return Ok(()),
            Err(ClientError::NoDaemon { .. }) => {}
            Err(
                error @ (ClientError::Silent { .. }
                | ClientError::NotOurs { .. }
                | ClientError::Unwritten { .. }
                | ClientError::Answer(_)
                | ClientError::Broken { .. }),
            ) => return Err(error.into()),
        }
        if let Some(status) = ended {
            return Err(Failure::DaemonDied {
                why: last_words(log, path, before),
                code: status.code(),
            });
        }
        if Instant::now() > deadline {
            return Err(Failure::DaemonDied {
                why: format!("it runs as pid {} and does not answer", child.id()),
                code: None,
            });
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

/// The end of what was written to `log`, which lies at `path`, since it was `before` bytes long.
fn last_words(log: &mut File, path: &Path, before: u64) -> String {
    let mut read = || -> io::Result<String> {
        let end = log.seek(SeekFrom::End(0))?;
        log.seek(SeekFrom::Start(before.max(end.saturating_sub(LAST_WORDS))))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    match read() {
        Ok(words) if words.is_empty() => format!("it left no word in {}", shown(path)),
        // It prints its errors as this program does; the prefix would stand there twice.
        Ok(words) => words
            .strip_prefix("error: ")
            .map_or_else(|| words.clone(), ToOwned::to_owned),
        Err(error) => format!("its log could not be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_dies_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG);
        std::fs::write(&path, "old lines\n").unwrap();
        let mut log = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "echo 'error: the lock is held by pid 7'; exit 7"])
            .stdout(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let client = Client::new(dir.path());
        let outcome = answers(&client, &mut child, &mut log, &path, 10).await;
        let Err(failure @ Failure::DaemonDied { .. }) = outcome else {
            panic!("it cannot answer");
        };
        assert_eq!(failure.exit(), super::super::exit::Exit::Refused);
        assert_eq!(
            failure.to_string(),
            "the daemon did not start: the lock is held by pid 7"
        );
    }
}
