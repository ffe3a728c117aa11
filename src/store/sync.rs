//! Making durable what the writer has handed to the kernel: one fsync for all that waits, in a
//! thread of its own, so that a slow disk delays no crash-safe commit.
//!
//! sled's `flush` does not survive a power cut on Linux: it waits until the kernel has written the
//! data, but never fsyncs. So this does, through a file handle of our own.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::open::{self, GROUP_BYTES};

/// What is told how a commit went.
pub(super) type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// How long a change waits for others before an fsync that nobody waits for. With the fsync itself
/// it stays below 200 ms.
const GATHER: Duration = Duration::from_millis(100);

/// The state of one database file: which changes it has, and which of them are on the disk.
pub(super) struct Syncer {
    progress: Mutex<Progress>,
    wake: Condvar,
    /// Held by whoever tells how commits went, and taken before `progress` is let go, so that they
    /// are told in order.
    telling: Mutex<()>,
}

#[derive(Default)]
struct Progress {
    /// The database file; `None` while there is none that can be trusted.
    file: Option<Arc<File>>,
    folder: PathBuf,
    /// Number of the newest group of changes that the kernel has.
    applied: u64,
    /// Number of the newest that the disk has.
    synced: u64,
    /// How many bytes the kernel got since the last fsync began.
    unsynced_bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    /// Who waits for which group.
    waiting: Vec<(u64, Done)>,
    /// Why the file can't be used.
    trouble: Option<StoreError>,
    closing: bool,
}

impl Syncer {
    pub(super) fn new() -> Self {
        Self {
            progress: Mutex::default(),
            wake: Condvar::new(),
            telling: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with a file that has everything, on the disk.
    pub(super) fn restart(&self, file: File, folder: PathBuf) {
        let mut progress = self.progress();
        progress.file = Some(Arc::new(file));
        progress.folder = folder;
        progress.synced = progress.applied;
        progress.unsynced_bytes = 0;
        progress.since = None;
        progress.trouble = None;
    }

    /// Why the state is not recorded at present.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.progress().trouble.clone()
    }

    /// The number of the newest group that the kernel has.
    pub(super) fn newest(&self) -> u64 {
        self.progress().applied
    }

    /// The kernel has another group, of `bytes`. Answers its number.
    pub(super) fn applied(&self, bytes: usize) -> u64 {
        let mut progress = self.progress();
        progress.applied += 1;
        progress.unsynced_bytes += bytes;
        if progress.since.is_none() || progress.unsynced_bytes >= GROUP_BYTES {
            progress.since.get_or_insert_with(Instant::now);
            self.wake.notify_one();
        }
        progress.applied
    }

    /// Calls `done` once group `number` is on the disk, or can't be brought there.
    pub(super) fn wait_for(&self, number: u64, done: Done) {
        let mut progress = self.progress();
        let answer = if let Some(trouble) = &progress.trouble {
            Err(trouble.clone())
        } else if progress.synced >= number {
            Ok(())
        } else {
            progress.waiting.push((number, done));
            self.wake.notify_one();
            return;
        };
        self.tell_in_order(
            progress,
            Answers {
                result: answer,
                waiting: vec![(number, done)],
            },
        );
    }

    /// The file is not to be used any more.
    pub(super) fn failed(&self, error: StoreError) {
        let mut progress = self.progress();
        let answers = progress.distrust(error);
        self.tell_in_order(progress, answers);
    }

    /// Lets `progress` go and tells.
    fn tell_in_order(&self, progress: MutexGuard<'_, Progress>, answers: Answers) {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        drop(progress);
        answer(answers);
        drop(telling);
    }

    /// Whether the disk has everything.
    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        !self.progress().is_dirty()
    }

    /// Makes the thread fsync what is left, and end.
    pub(super) fn close(&self) {
        self.progress().closing = true;
        self.wake.notify_one();
    }

    /// The thread. It sleeps without a timer while nothing waits for the disk.
    pub(super) fn run(&self) {
        let mut progress = self.progress();
        loop {
            let Some(file) = progress.file.clone().filter(|_| progress.is_dirty()) else {
                if progress.closing {
                    return;
                }
                progress = self.sleep(progress, None);
                continue;
            };
            if let Some(rest) = progress.rest() {
                progress = self.sleep(progress, Some(rest));
                continue;
            }
            let number = progress.applied;
            progress.since = None;
            progress.unsynced_bytes = 0;
            drop(progress);
            let result = sync(&file);
            progress = self.progress();
            // The writer may have given the file up meanwhile; then nothing is known.
            if !progress
                .file
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, &file))
            {
                continue;
            }
            let answers = match result {
                Ok(()) => progress.synced(number),
                Err(source) => {
                    let error = StoreError::NotRecorded {
                        path: progress.folder.clone(),
                        why: "it could not be brought to the disk",
                        source: Arc::new(source),
                    };
                    progress.distrust(error)
                }
            };
            self.tell_in_order(progress, answers);
            progress = self.progress();
        }
    }

    fn sleep<'a>(
        &self,
        progress: MutexGuard<'a, Progress>,
        rest: Option<Duration>,
    ) -> MutexGuard<'a, Progress> {
        match rest {
            None => self
                .wake
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner),
            Some(rest) => {
                self.wake
                    .wait_timeout(progress, rest)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }
}

impl Progress {
    fn is_dirty(&self) -> bool {
        self.synced < self.applied
    }

    /// How long the fsync can still wait for more to come; `None` = no longer.
    fn rest(&self) -> Option<Duration> {
        if !self.waiting.is_empty() || self.closing || self.unsynced_bytes >= GROUP_BYTES {
            return None;
        }
        let gathered = self.since.map_or(GATHER, |since| since.elapsed());
        GATHER.checked_sub(gathered).filter(|rest| !rest.is_zero())
    }

    /// The disk has all groups up to `number`.
    fn synced(&mut self, number: u64) -> Answers {
        self.synced = number;
        let waiting = std::mem::take(&mut self.waiting);
        let (ready, later) = waiting
            .into_iter()
            .partition(|(wanted, _)| *wanted <= number);
        self.waiting = later;
        Answers {
            result: Ok(()),
            waiting: ready,
        }
    }

    fn distrust(&mut self, error: StoreError) -> Answers {
        self.file = None;
        self.since = None;
        self.trouble = Some(error.clone());
        Answers {
            result: Err(error),
            waiting: std::mem::take(&mut self.waiting),
        }
    }
}

/// What is to be told once the lock is free.
struct Answers {
    result: Result<(), StoreError>,
    waiting: Vec<(u64, Done)>,
}

fn answer(answers: Answers) {
    for (_, done) in answers.waiting {
        tell(done, answers.result.clone());
    }
}

/// Tells how a commit went. A listener that panics must not take the store's thread along, and with
/// it the answers of all others.
pub(super) fn tell(done: Done, result: Result<(), StoreError>) {
    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| done(result))) {
        let why = open::text_of(&*panic);
        tracing::error!(why, "a listener to a commit panicked");
    }
}

fn sync(file: &File) -> std::io::Result<()> {
    file.sync_data()?;
    // Writing to a deleted file succeeds for ever, and is gone with the process.
    if file.metadata()?.nlink() == 0 {
        return Err(std::io::Error::other("the database was deleted"));
    }
    Ok(())
}
