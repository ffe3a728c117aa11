//! What an instance left running when its guardian died.
//!
//! A dead shim takes its program along, but not what that had forked. Those carry the instance's
//! mark in their environment, by which they are found among all processes of the host. A process
//! is only ever signalled through a descriptor that was opened before its mark was read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::environment::MARK_FILE;

/// How long the killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process that carries the mark of an instance.
pub(super) struct Leftover {
    /// The file of the instance.
    pub(super) file: PathBuf,
    /// For messages only.
    pub(super) pid: i32,
    process: OwnedFd,
}

/// All processes that carry the mark of one of `files`.
///
/// # Errors
/// When the host's processes cannot be listed.
pub(super) fn find(files: &[PathBuf]) -> io::Result<Vec<Leftover>> {
    let wanted: HashMap<&[u8], &Path> = files
        .iter()
        .map(|file| (file.as_os_str().as_bytes(), file.as_path()))
        .collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = pid_of(&entry.file_name()) else {
            continue;
        };
        if mark_of(pid, &wanted).is_none() {
            continue;
        }
        // The number could have changed hands since: the second look is at what is held.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                if let Some(file) = mark_of(pid, &wanted) {
                    found.push(Leftover {
                        file: file.to_owned(),
                        pid: pid.as_raw_nonzero().get(),
                        process,
                    });
                }
            }
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn pid_of(name: &OsStr) -> Option<Pid> {
    Pid::from_raw(name.to_str()?.parse().ok()?)
}

/// Which of the wanted marks a process carries. A zombie carries none.
fn mark_of<'a>(pid: Pid, wanted: &HashMap<&[u8], &'a Path>) -> Option<&'a Path> {
    // Another user's environment cannot be read, and nothing of ours runs as another user unless
    // we are root.
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(MARK_FILE.as_bytes())?;
        wanted.get(value.strip_prefix(b"=")?).copied()
    })
}

/// Kills all that carry the mark of one of `files`, until none is left or patience ends; answers
/// who survived.
///
/// # Errors
/// When the host's processes cannot be listed.
pub(super) fn end(files: &[PathBuf]) -> io::Result<Vec<Leftover>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = find(files)?;
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(left);
        }
        for process in &left {
            // One that has ended meanwhile is what is wanted; one that may not be killed is
            // answered as a survivor.
            if let Err(error) = pidfd_send_signal(&process.process, Signal::KILL) {
                tracing::debug!(pid = process.pid, %error, "a leftover could not be killed");
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
