//! Files to pipelines: read once, or watched for ever. Of other files it only tells when they change.
//!
//! **Guarantees.** A change is never lost for longer than [`RESCAN`], whatever the kernel drops:
//! events only say "look again", and content is compared. A file that is closed or renamed into
//! place is read at once; other writes once they pause. A broken, empty, half-written or missing
//! file is reported as a problem once it has stayed so for [`QUIET`], and is never an empty list of
//! pipelines: the last good one stands. An unchanged text gives no update.
//!
//! **How.** One thread for each file system does all reading there, so that one that hangs stops
//! nothing else: whoever adds a source of it waits, or does not, and the answer comes late. It
//! sleeps until the kernel reports a change in a directory on the way to a file, or the rescan is
//! due. Directories are watched, not files: editors and Kubernetes replace files.
//!
//! **What it does not do.** It decides nothing about pipelines and keeps none of them.

mod debounce;
mod mounts;
mod read;
mod route;
mod sources;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::manifest::{Given, Parsed, Problems, Taken};

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

/// The watch. Its threads end when this is dropped.
#[derive(Debug)]
pub struct Watch {
    method: Method,
    rescan: Duration,
    updates: mpsc::UnboundedSender<Update>,
    workers: Mutex<Workers>,
}

/// Who reads what.
#[derive(Debug, Default)]
struct Workers {
    /// The thread of each file system that has, or had, sources, by where that is mounted.
    threads: BTreeMap<PathBuf, Sender<worker::Message>>,
    /// The file system that each source was on when it was added.
    of: BTreeMap<PathBuf, PathBuf>,
}

/// A thread of the watch has died.
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
        let watch = Self {
            method,
            rescan,
            updates,
            workers: Mutex::default(),
        };
        // The one of the root stands in for those that cannot be started later.
        let root = watch.start()?;
        watch.workers().threads.insert(PathBuf::from("/"), root);
        Ok((watch, receiver))
    }

    fn start(&self) -> std::io::Result<Sender<worker::Message>> {
        worker::spawn(self.method, self.rescan, self.updates.clone())
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the file system is mounted that `path` is on now; it has a thread.
    fn mount_of(&self, workers: &mut Workers, path: &Path) -> PathBuf {
        let mount = mounts::mount_of(path);
        if workers.threads.contains_key(&mount) {
            return mount;
        }
        match self.start() {
            Ok(thread) => {
                workers.threads.insert(mount.clone(), thread);
                mount
            }
            Err(error) => {
                tracing::warn!(%error, "a file system shares the thread of another");
                PathBuf::from("/")
            }
        }
    }

    /// The thread of the file system that `path` is on now.
    fn worker_of<'a>(&self, workers: &'a mut Workers, path: &Path) -> &'a Sender<worker::Message> {
        let mount = self.mount_of(workers, path);
        let before = workers.of.insert(path.to_owned(), mount.clone());
        if let Some(before) = before.filter(|before| *before != mount) {
            // Something was mounted there since, or is no more.
            let left = worker::Message::Remove {
                path: path.to_owned(),
            };
            if workers.threads[&before].send(left).is_err() {
                tracing::debug!("the thread of another file system has died");
            }
        }
        &workers.threads[&mount]
    }

    /// Reads a source and watches it from then on. The answer holds one update for each file that says
    /// something else than `taken` knows; later ones arrive at the receiver. A source that is watched
    /// already is read anew. It is added whether or not the answer is waited for; while its file system
    /// hangs, there is none.
    ///
    /// # Errors
    /// When its thread has died. What is wrong with the files is in the answer.
    pub fn add(
        &self,
        source: Source,
        taken: Vec<Taken>,
        on_problem: OnProblem,
    ) -> impl Future<Output = Result<Vec<Update>, WatchDied>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let mut workers = self.workers();
        let worker = self.worker_of(&mut workers, &source.path);
        let message = worker::Message::Add {
            source,
            taken,
            on_problem,
            reply,
        };
        let sent = worker.send(message);
        async move {
            sent.map_err(|_| WatchDied)?;
            answer.await.map_err(|_| WatchDied)
        }
    }

    /// Tells from now on when what a file says may have changed; who asks reads it. The file is absolute
    /// and need not be there.
    ///
    /// # Errors
    /// When its thread has died.
    pub fn touches(&self, path: PathBuf) -> Result<Touches, WatchDied> {
        let (touched, touches) = watch::channel(());
        let mut workers = self.workers();
        let mount = self.mount_of(&mut workers, &path);
        workers.threads[&mount]
            .send(worker::Message::Touch { path, touched })
            .map_err(|_| WatchDied)?;
        Ok(Touches(touches))
    }

    /// Reads everything again, whatever the kernel told of it. What changed arrives as an update.
    pub fn look_again(&self) {
        for thread in self.workers().threads.values() {
            // One that has died has said so.
            if thread.send(worker::Message::LookAgain).is_err() {
                tracing::error!("{WatchDied}");
            }
        }
    }

    /// Stops watching the source of this path. Updates that are under way may still arrive.
    ///
    /// # Errors
    /// When its thread has died.
    pub fn remove(&self, path: PathBuf) -> Result<(), WatchDied> {
        let mut workers = self.workers();
        let Some(mount) = workers.of.remove(&path) else {
            return Ok(());
        };
        workers.threads[&mount]
            .send(worker::Message::Remove { path })
            .map_err(|_| WatchDied)
    }
}

/// When what a file says may have changed: once what was written to it has been left alone for
/// [`QUIET`], and each [`RESCAN`], for what the kernel did not tell.
#[derive(Debug)]
pub struct Touches(watch::Receiver<()>);

impl Touches {
    /// Waits until the file may have changed since this was last called. Cancel-safe.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The watch has ended, or its thread has died, which has been told.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for thread in self.workers().threads.values() {
            // A thread that is gone needs no telling.
            if thread.send(worker::Message::Stop).is_err() {
                tracing::debug!("a thread of the watch had ended before it was stopped");
            }
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
