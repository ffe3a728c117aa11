//! Files to pipelines: read once, or watched for ever.
//!
//! **Guarantees.** A change is never lost for longer than [`RESCAN`], whatever the kernel drops:
//! events only say "look again", and content is compared. A file that is closed or renamed into
//! place is read at once; other writes once they pause. A broken, empty, half-written or missing
//! file is reported as a problem once it has stayed so for [`QUIET`], and is never an empty list of
//! pipelines: the last good one stands. An unchanged text gives no update.
//!
//! **How.** One thread of its own does all reading, so that a file system that hangs stops nothing
//! else. It sleeps until the kernel reports a change in a directory on the way to a file, or the
//! rescan is due. Directories are watched, not files: editors and Kubernetes replace files.
//!
//! **What it does not do.** It decides nothing about pipelines and keeps none of them.

mod debounce;
mod read;
mod route;
mod sources;
mod worker;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::manifest::{Given, Parsed, Problems};

pub use read::{read, read_stream};

/// How long a file has to be left alone before it counts as written.
pub const QUIET: Duration = Duration::from_millis(100);

/// A file that is written without a pause is read this often all the same.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often everything is looked at without being told to.
pub const RESCAN: Duration = Duration::from_secs(10);

/// The same where the kernel reports no changes: too many watches, or a file system that has none.
pub const POLL: Duration = Duration::from_secs(1);

/// What a file says now.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The file; one of a watched directory is named by itself.
    pub file: PathBuf,
    /// Its pipelines, or what is wrong with it.
    pub outcome: Result<Parsed, Problems>,
}

/// A file, or a directory of files, to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Absolute. A directory stands for its `*.yaml` and `*.yml` files, one that comes later
    /// included.
    pub path: PathBuf,
    /// What was asked for when it was handed in.
    pub given: Given,
}

/// What becomes of a source that cannot be used as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnProblem {
    /// It is not watched: a person asked for it and is told.
    Refuse,
    /// It is watched until it is good: its pipelines are running already.
    Wait,
}

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The kernel tells.
    Events,
    /// By looking each [`POLL`].
    Polling,
}

/// The watch. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    worker: Sender<worker::Message>,
}

/// The watch's thread has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread that watches files has died; restart the daemon")]
pub struct WatchDied;

impl Watch {
    /// A watch without sources, and where its updates arrive.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(method: Method) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Update>)> {
        Self::with_rescan(method, RESCAN)
    }

    /// As [`Watch::new`]. Tests of events must not be saved by a rescan.
    fn with_rescan(
        method: Method,
        rescan: Duration,
    ) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Update>)> {
        let (updates, receiver) = mpsc::unbounded_channel();
        let worker = worker::spawn(method, rescan, updates)?;
        Ok((Self { worker }, receiver))
    }

    /// Reads a source and watches it from then on. The answer holds one update for each file;
    /// later ones arrive at the receiver. A source that is watched already is read anew.
    ///
    /// # Errors
    /// When the thread has died. What is wrong with the files is in the answer.
    pub async fn add(
        &self,
        source: Source,
        on_problem: OnProblem,
    ) -> Result<Vec<Update>, WatchDied> {
        let (reply, answer) = oneshot::channel();
        let message = worker::Message::Add {
            source,
            on_problem,
            reply,
        };
        self.worker.send(message).map_err(|_| WatchDied)?;
        answer.await.map_err(|_| WatchDied)
    }

    /// Stops watching the source of this path. Updates that are under way may still arrive.
    ///
    /// # Errors
    /// When the thread has died.
    pub fn remove(&self, path: PathBuf) -> Result<(), WatchDied> {
        self.worker
            .send(worker::Message::Remove { path })
            .map_err(|_| WatchDied)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A thread that is gone needs no telling.
        if self.worker.send(worker::Message::Stop).is_err() {
            tracing::debug!("the watch had ended before it was stopped");
        }
    }
}

/// All pipelines of a reading, or everything that is wrong with it.
///
/// # Errors
/// The problems of each file that has any.
pub fn all_good(updates: Vec<Update>) -> Result<Vec<(PathBuf, Parsed)>, Vec<Problems>> {
    let mut good = Vec::with_capacity(updates.len());
    let mut bad = Vec::new();
    for update in updates {
        match update.outcome {
            Ok(parsed) => good.push((update.file, parsed)),
            Err(problems) => bad.push(problems),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}
