//! What is remembered: pipelines, records, settings and events, in an embedded database (sled).
//!
//! **Guarantees.** What was acknowledged [`Durability::CrashSafe`] survives kill -9, what was
//! acknowledged [`Durability::PowerSafe`] a power cut. Batches are recorded in the order of their
//! commits. A database that is damaged is set aside and never used; one of a newer flowctl, on a
//! full or read-only disk, or without permission is left as it is and refused in words. Nothing
//! runs, and nothing wakes up, while nothing is committed, but for sled's own thread pool (seven
//! threads that look up once a second).
//!
//! **After an error** of a commit, what is stored of that batch is unknown, and the owner is the
//! truth: it commits what it has again. Every commit, an empty one too, asks first whether the disk
//! takes anything, and tries to bring a database back that failed, by writing all of it anew. What was acknowledged is still there then, unless the
//! answer is [`StoreError::Lost`]: the store works, but is empty.
//!
//! **Assumes** that the caller holds the [`StateLock`] of the state directory, and that one owner
//! commits.
//!
//! **Does not** decide anything, know any clock (the time is an input) or use an async runtime:
//! callbacks are called on the store's threads, and must be short.

mod batch;
mod error;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod history;
mod ledger;
mod load;
mod lock;
mod migrate;
mod numbers;
mod open;
mod private;
mod rows;
mod sync;
mod tally;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;

use load::Unreadable;
use numbers::Numbers;
use open::Opened;
use writer::{Commit, Engine, Link, Message};

pub use batch::{Batch, Durability, EventQuery};
pub use error::StoreError;
pub use lock::{LockError, StateLock, lock, make_private};
pub use private::write_private;

use crate::model::{Event, PipelineKey, PipelineRecord, Record, ReplicaKey, Timestamp};

/// The way to the database. Cheap to clone; one thread behind it owns the database.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    link: Link,
}

/// Everything that was remembered, for the owner to start from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Pipelines and their last good definitions.
    pub pipelines: BTreeMap<PipelineKey, PipelineRecord>,
    /// What is remembered of replicas.
    pub records: BTreeMap<PipelineKey, BTreeMap<ReplicaKey, Record>>,
    /// The daemon's settings.
    pub settings: BTreeMap<String, String>,
    /// The number of the next event. Above every number ever used; a history that was lost leaves
    /// a gap.
    pub next_seq: u64,
    /// Whether this is all that was committed.
    pub recovery: Recovery,
}

/// What became of the state since it was last open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// All is there that was acknowledged.
    Intact,
    /// Pipelines may have been forgotten: the first start, or the store was deleted, or it lost its
    /// end. What runs may be known from its marks. The answer stays this one, over restarts, until
    /// a batch says [`Batch::end_rebuilding`] or brings a new pipeline.
    New,
    /// The database was damaged and set aside. What could be read for sure was taken over: all but
    /// the history, or nothing. The answer stays this one, over restarts, until a batch says
    /// [`Batch::end_rebuilding`].
    Rebuilt {
        /// Where the damaged one is.
        set_aside: PathBuf,
        /// What was found.
        why: String,
    },
}

impl Store {
    /// Opens the store in `dir`, usually `<state dir>/store`, and reads everything once. `now` is
    /// used in names and numbers that have to be new. Blocks for the time of a few fsyncs; a
    /// damaged database that hangs is given up after 10 s and 1 s for each 500 KB.
    ///
    /// # Errors
    /// When the disk is full, read-only or refuses, the folder is not ours to write, the database
    /// is in use, or a newer flowctl wrote it. Never because of damage, unless a fresh database
    /// can't be read back either.
    pub fn open(dir: &Path, now: Timestamp) -> Result<(Self, Loaded), StoreError> {
        let Opened {
            db, folder, state, ..
        } = open::open(dir, now)?;
        // A store in which everything was taken down keeps its history, and is not new.
        let is_empty = state.pipelines.is_empty()
            && state.records.is_empty()
            && state.settings.is_empty()
            && state.ledger.history.next_seq().is_none();
        let recovery = match state.rebuilding {
            Some(rebuilding) => Recovery::Rebuilt {
                set_aside: rebuilding.set_aside,
                why: rebuilding.why,
            },
            None if is_empty || state.lost_its_end => Recovery::New,
            None => Recovery::Intact,
        };
        let numbers = Numbers::begin(state.ledger.history.next_seq(), state.boot, now);
        let next_seq = numbers.first;
        let loaded = Loaded {
            pipelines: state.pipelines,
            records: state.records,
            settings: state.settings,
            next_seq,
            recovery,
        };
        let engine = Engine {
            db,
            folder,
            tallied: state.ledger.created,
            ledger: state.ledger,
        };
        let link = writer::start(dir, now, engine, numbers, state.garbage)?;
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            link,
        });
        Ok((Self { inner }, loaded))
    }

    /// Records `batch` after all that was committed before, and calls `done` on a thread of the
    /// store once it is as safe as asked. Never blocks.
    ///
    /// `done` is told an error when the batch was not recorded or may not have been, see
    /// [the room's contract](self). It must be short and must not call [`Store::close`].
    pub fn commit(
        &self,
        batch: Batch,
        durability: Durability,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let message = Message::Commit(Commit {
            batch,
            durability,
            done: Box::new(done),
        });
        if let Err(unsent) = self.inner.link.outbox.send(message)
            && let Message::Commit(commit) = unsent.0
        {
            (commit.done)(Err(StoreError::Closed));
        }
    }

    /// Why the database is out of use at present; `None` = it is in use. A failed fsync of changes that
    /// were acknowledged crash-safe shows only here and with the next commit.
    pub fn trouble(&self) -> Option<StoreError> {
        self.inner.link.sync.trouble()
    }

    /// The events that `query` asks for, oldest first. Blocks for the reading: about a millisecond
    /// per thousand events looked at.
    ///
    /// # Errors
    /// When the database is out of use after a failure, or damaged.
    pub fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let shelf = &self.inner.link.shelf;
        let tree = shelf.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(tree) = tree else {
            return Err(self.trouble().unwrap_or(StoreError::Closed));
        };
        let why = match panic::catch_unwind(AssertUnwindSafe(|| history::read(&tree, query))) {
            Ok(Ok(events)) => return Ok(events),
            Ok(Err(Unreadable::Engine(error))) => error.to_string(),
            Ok(Err(Unreadable::Malformed(why))) => why,
            Err(panic) => open::text_of(&*panic),
        };
        Err(StoreError::Damaged {
            path: self.inner.dir.clone(),
            why,
        })
    }

    /// Brings everything that was committed to the disk and closes the database. Other handles get
    /// [`StoreError::Closed`] from then on. Blocks; not for an async task.
    ///
    /// # Errors
    /// When something that was committed could not be brought to the disk.
    pub fn close(self) -> Result<(), StoreError> {
        let (reply, answer) = mpsc::channel();
        if self.inner.link.outbox.send(Message::Close(reply)).is_err() {
            return Err(StoreError::Closed);
        }
        let result = answer.recv().unwrap_or(Err(StoreError::Closed));
        let thread = &self.inner.link.thread;
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(panic)) = thread.map(JoinHandle::join) {
            let why = open::text_of(&*panic);
            tracing::warn!(why, "the store's thread ended in a panic");
        }
        result
    }

    /// A store in a folder of its own, for tests; it goes with the folder.
    #[cfg(test)]
    pub fn temporary() -> (Self, Loaded, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let now = Timestamp::from_millis(1_795_228_980_123);
        let (store, loaded) =
            Self::open(&folder.path().join("store"), now).expect("a new store opens");
        (store, loaded, folder)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}
