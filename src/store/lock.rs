//! One daemon per state directory, which is nobody else's.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::ownership::{End, Stranger, Trusted};

/// The lock's file in the state directory.
const FILE: &str = "lock";

/// How long a lock that is held is tried again, and how often: the kernel needs some milliseconds to
/// clear a killed holder away, and a child being forked shares every lock until it execs.
const PATIENCE: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);

/// Holds a state directory until it is dropped, or until the kernel ends the process, however that
/// comes. The file stays; it is the kernel's lock on it that counts.
///
/// A forked child that does not exec shares the lock: take it after such children were forked.
#[derive(Debug)]
pub struct StateLock {
    path: PathBuf,
    file: File,
}

/// Why a state directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "the state directory `{}` is in use by {}{}; stop it, or use another --state-dir",
        state_dir.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")),
        if about.is_empty() { String::new() } else { format!(" ({about})") }
    )]
    Held {
        /// The state directory.
        state_dir: PathBuf,
        /// Who holds it; `None` when that can't be read, or is left of one that has ended and whose
        /// number another process has by now.
        pid: Option<u32>,
        /// What the holder says about itself.
        about: String,
    },
    /// Another user could change what it holds, and so what we run.
    #[error("the state directory `{}` is not ours alone: {stranger}", state_dir.display())]
    Stranger {
        /// The state directory.
        state_dir: PathBuf,
        /// Who, and by what.
        stranger: Stranger,
    },
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Makes `state_dir` if need be, for its owner only, and takes it. `about` is one line that a
/// second daemon's error shows beside this one's pid, such as when it started.
///
/// # Errors
/// When another process holds it, or the directory cannot be made or written.
pub fn lock(state_dir: &Path, about: &str) -> Result<StateLock, LockError> {
    make_private(state_dir)?;
    let path = state_dir.join(FILE);
    let failed = |doing, source| LockError::Io {
        doing,
        path: path.clone(),
        source,
    };
    // Not truncated: until the lock is ours, the text is another's. Closed on exec by std.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| failed("open", source))?;
    let mut patience = PATIENCE;
    let mut locked = file.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && !patience.is_zero() {
        thread::sleep(STEP);
        patience = patience.saturating_sub(STEP);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text)
                .map_err(|source| failed("read", source))?;
            return Err(held_by(state_dir, &text));
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock", source)),
    }
    let lock = StateLock { path, file };
    lock.say(about);
    Ok(lock)
}

impl StateLock {
    /// What a second daemon's error shows beside this one's pid from now on.
    pub fn say(&self, about: &str) {
        let pid = std::process::id();
        let text = format!(
            "{pid}\n{}\n{}\n",
            about.trim(),
            beginning(pid).unwrap_or_default()
        );
        // A full disk must not keep a daemon from starting: the text is a courtesy, so its old
        // length is cut only after the new text is in.
        let mut file = &self.file;
        let written = file
            .rewind()
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.set_len(text.len() as u64));
        if let Err(error) = written {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot write the holder into the lock");
        }
    }
}

/// Who holds `state_dir`, by the text of its lock.
fn held_by(state_dir: &Path, text: &str) -> LockError {
    // What follows the third line is left of a longer text that is being replaced.
    let mut lines = text.lines().map(str::trim);
    let mut line = || lines.next().unwrap_or_default();
    let (pid, about, began) = (line(), line(), line());
    let pid: Option<u32> = pid.parse().ok();
    // An earlier version wrote no beginning.
    let wrote = pid.filter(|pid| began.is_empty() || beginning(*pid).as_deref() == Some(began));
    LockError::Held {
        state_dir: state_dir.to_owned(),
        pid: wrote,
        about: wrote.map_or_else(String::new, |_| about.to_owned()),
    }
}

/// When a process began: the boot, and the ticks since then. With its number, that names it for ever.
fn beginning(pid: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything; the third field of all comes first.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = fields.split(' ').nth(22 - 3)?;
    Some(format!("{} {ticks}", boot.trim()))
}

/// Makes `dir` with mode 0700. One that is there already and ours loses what others may do with it.
///
/// # Errors
/// When it cannot be made, or another user could change what it holds.
pub fn make_private(dir: &Path) -> Result<(), LockError> {
    let trusted = Trusted::ours();
    let strange = |stranger| LockError::Stranger {
        state_dir: dir.to_owned(),
        stranger,
    };
    // Before it is made: nothing is made in a place that another chose.
    if let Some(parent) = dir.parent()
        && let Some(stranger) = trusted.stranger(parent, End::Itself)
    {
        return Err(strange(stranger));
    }
    let failed = |doing, source| LockError::Io {
        doing,
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| failed("make the state directory", source))?;
    let found = fs::metadata(dir).map_err(|source| failed("look at", source))?;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if is_ours && found.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(|source| failed("make private", source))?;
    }
    let found = trusted
        .stranger_in(dir)
        .map_err(|source| failed("list", source))?;
    found.map_or(Ok(()), |stranger| Err(strange(stranger)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_second_daemon_is_told_who_holds_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("a").join("state");
        let held = lock(&state_dir, "started 2026-11-21T03:00:00Z").unwrap();

        let error = lock(&state_dir, "the second").unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            error.to_string(),
            format!(
                "the state directory `{}` is in use by process {pid} (started \
                 2026-11-21T03:00:00Z); stop it, or use another --state-dir",
                state_dir.display()
            )
        );

        drop(held);
        lock(&state_dir, "a much longer text than before").unwrap();
        lock(&state_dir, "short").unwrap();
        let text = fs::read_to_string(state_dir.join(FILE)).unwrap();
        let began = beginning(pid).unwrap();
        assert_eq!(text, format!("{pid}\nshort\n{began}\n"));
    }

    #[test]
    fn a_process_that_has_the_number_of_a_holder_that_ended_is_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), "now").unwrap();
        let pid = std::process::id();
        let named = || {
            let Err(LockError::Held { pid, .. }) = lock(dir.path(), "") else {
                panic!("it is held");
            };
            pid
        };
        assert_eq!(named(), Some(pid));
        // What another one had written that began at another time, with what is our number now.
        let earlier = beginning(pid).unwrap() + "0";
        fs::write(dir.path().join(FILE), format!("{pid}\nthen\n{earlier}\n")).unwrap();
        assert_eq!(named(), None);
        // One of an earlier version.
        fs::write(dir.path().join(FILE), format!("{pid}\nthen\n")).unwrap();
        assert_eq!(named(), Some(pid));
        drop(held);
    }

    #[test]
    fn the_state_directory_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

        let made = dir.path().join("made");
        let _held = lock(&made, "").unwrap();
        assert_eq!(mode(&made), 0o700);

        let found = dir.path().join("found");
        fs::create_dir(&found).unwrap();
        fs::set_permissions(&found, fs::Permissions::from_mode(0o755)).unwrap();
        let _held = lock(&found, "").unwrap();
        assert_eq!(mode(&found), 0o700);
    }

    #[test]
    fn a_state_directory_that_another_user_could_change_is_not_used_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let is_strange = |state_dir: &Path| {
            let answer = lock(state_dir, "").map(drop);
            matches!(answer, Err(LockError::Stranger { .. }))
        };
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let in_it = open.join("state");
        assert!(is_strange(&in_it));
        assert!(!in_it.exists());
        fs::create_dir(&in_it).unwrap();
        assert!(is_strange(&in_it), "its folder could be exchanged");
        // One that is ours, with something in it that is not.
        let planted = dir.path().join("planted");
        fs::create_dir(&planted).unwrap();
        fs::write(planted.join("p.yaml"), "").unwrap();
        assert!(!is_strange(&planted));
        if std::os::unix::fs::chown(planted.join("p.yaml"), Some(54_321), None).is_ok() {
            assert!(is_strange(&planted));
        }
    }

    #[test]
    fn a_path_that_is_no_directory_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = lock(&file, "").unwrap_err();
        assert!(error.to_string().contains("file`"), "{error}");
    }

    /// Runs in a child process of the next test: holds the lock until it is killed.
    #[test]
    #[ignore = "a child process of another test"]
    fn child_that_holds_the_lock() {
        let state_dir = std::env::var("FLOWCTL_TEST_STATE_DIR").unwrap();
        let _held = lock(Path::new(&state_dir), "").unwrap();
        println!("\nheld");
        std::thread::park();
    }

    #[test]
    fn kill_9_of_the_holder_frees_the_state_directory_though_its_children_live() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::lock::tests::child_that_holds_the_lock"])
            .args(["--ignored", "--nocapture"])
            .env("FLOWCTL_TEST_STATE_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "held"));

        let error = lock(dir.path(), "").unwrap_err();
        assert!(matches!(error, LockError::Held { pid: Some(pid), .. } if pid == child.id()));

        child.kill().unwrap();
        child.wait().unwrap();
        lock(dir.path(), "").unwrap();
    }
}
