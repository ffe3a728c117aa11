//! The one thread that owns the database: takes what is waiting, writes it as one, acknowledges,
//! and brings the database back after a failure.

use std::fs::File;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use sled::{Db, Tree};

use super::batch::{Batch, Durability};
use super::error::StoreError;
use super::ledger::Ledger;
use super::open::{self, Found, GROUP_BYTES, Opened};
use super::rows::Change;
use super::sync::{self, Done, Syncer};
use crate::model::Timestamp;

/// What the thread is asked.
pub(super) enum Message {
    Commit(Commit),
    /// Make everything durable and end.
    Close(Sender<Result<(), StoreError>>),
}

/// One batch on its way.
pub(super) struct Commit {
    pub(super) batch: Batch,
    pub(super) durability: Durability,
    pub(super) done: Done,
}

/// The database for readers; `None` while it can't be used.
pub(super) type Shelf = Arc<Mutex<Option<Tree>>>;

/// The thread's own.
pub(super) struct Writer {
    dir: PathBuf,
    /// What time it was at which instant.
    opened_at: (Timestamp, Instant),
    inbox: Receiver<Message>,
    sync: Arc<Syncer>,
    sync_thread: JoinHandle<()>,
    shelf: Shelf,
    /// `None` after a failure.
    engine: Option<Engine>,
}

struct Engine {
    db: Db,
    folder: PathBuf,
    ledger: Ledger,
}

impl Writer {
    /// Takes over an opened database; `first` is written before anything else.
    pub(super) fn new(
        dir: &Path,
        now: Timestamp,
        opened: (Db, PathBuf, Ledger),
        inbox: Receiver<Message>,
        sync: Arc<Syncer>,
        sync_thread: JoinHandle<()>,
        shelf: Shelf,
    ) -> Self {
        let (db, folder, ledger) = opened;
        Self {
            dir: dir.to_owned(),
            opened_at: (now, Instant::now()),
            inbox,
            sync,
            sync_thread,
            shelf,
            engine: Some(Engine { db, folder, ledger }),
        }
    }

    /// Runs until the store is closed, or its last handle is gone.
    pub(super) fn run(mut self, first: Vec<Change>) {
        if let Some(mut engine) = self.engine.take() {
            match engine.apply(&self.sync, first) {
                Some(_) => self.engine = Some(engine),
                None => self.retire(engine),
            }
        }
        let mut closing = None;
        while closing.is_none()
            && let Ok(message) = self.inbox.recv()
        {
            match message {
                Message::Commit(commit) => closing = self.commit(commit),
                Message::Close(reply) => closing = Some(reply),
            }
        }
        self.close(closing);
    }

    /// Records `first` and what else is waiting. Answers the request to close that it met.
    fn commit(&mut self, first: Commit) -> Option<Sender<Result<(), StoreError>>> {
        let mut engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => {
                (first.done)(Err(error));
                return None;
            }
        };
        let mut changes = Vec::new();
        let mut accepted = Vec::new();
        let mut closing = None;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(commit) = next.take() {
            match engine.ledger.enter(commit.batch) {
                Ok(more) => {
                    bytes += sync::size(&more);
                    changes.extend(more);
                    accepted.push((commit.durability, commit.done));
                }
                Err(error) => (commit.done)(Err(error)),
            }
            if bytes >= GROUP_BYTES {
                break;
            }
            match self.inbox.try_recv() {
                Ok(Message::Commit(commit)) => next = Some(commit),
                Ok(Message::Close(reply)) => closing = Some(reply),
                // Empty, or nobody is left to send: the caller finds out which.
                Err(_) => {}
            }
        }
        let Some(number) = engine.apply(&self.sync, changes) else {
            self.retire(engine);
            let error = self.sync.trouble().unwrap_or(StoreError::Closed);
            for (_, done) in accepted {
                done(Err(error.clone()));
            }
            return closing;
        };
        self.engine = Some(engine);
        for (durability, done) in accepted {
            match durability {
                Durability::CrashSafe => done(Ok(())),
                Durability::PowerSafe => self.sync.wait_for(number, done),
            }
        }
        closing
    }

    /// The database, brought back if it had failed.
    fn engine(&mut self) -> Result<Engine, StoreError> {
        match (self.engine.take(), self.sync.trouble()) {
            (Some(engine), None) => return Ok(engine),
            (Some(engine), Some(_)) => self.retire(engine),
            (None, _) => {}
        }
        let (engine, lost) = self.bring_back().inspect_err(|error| {
            self.sync.failed(Vec::new(), error.clone());
        })?;
        match lost {
            None => Ok(engine),
            Some(why) => {
                self.engine = Some(engine);
                let path = self.dir.clone();
                Err(StoreError::Lost { path, why })
            }
        }
    }

    /// Opens the database again and writes all of it to a new one, with what was acknowledged: what
    /// the page cache shows of the old one may not be on the disk. If there was nothing to bring
    /// back, it also answers why.
    fn bring_back(&self) -> Result<(Engine, Option<String>), StoreError> {
        let now = self.opened_at.0.after(self.opened_at.1.elapsed());
        let opened = open::open(&self.dir, now)?;
        let (opened, lost) = match &opened.found {
            Found::Sound => {
                let opened = open::rewrite(&self.dir, opened, self.sync.unsynced())?;
                (opened, None)
            }
            Found::Nothing => (opened, Some("it was deleted".to_owned())),
            Found::Damaged(damage) => {
                let kept = damage.set_aside.display();
                let why = format!("{}; it is kept as `{kept}`", damage.why);
                (opened, Some(why))
            }
        };
        let Opened {
            db, folder, state, ..
        } = opened;
        self.sync.restart(database_file(&folder)?, folder.clone());
        self.lend(Some(Tree::clone(&db)));
        let engine = Engine {
            db,
            folder,
            ledger: state.ledger,
        };
        Ok((engine, lost))
    }

    fn retire(&self, engine: Engine) {
        self.lend(None);
        open::close(engine.db);
    }

    fn lend(&self, tree: Option<Tree>) {
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = tree;
    }

    fn close(self, reply: Option<Sender<Result<(), StoreError>>>) {
        let Self {
            dir,
            inbox,
            sync,
            sync_thread,
            shelf,
            engine,
            ..
        } = self;
        while let Ok(message) = inbox.try_recv() {
            match message {
                Message::Commit(commit) => (commit.done)(Err(StoreError::Closed)),
                // The first one is answered; this one's sender sees that nobody is there.
                Message::Close(_) => {}
            }
        }
        sync.close();
        let ended = sync_thread.join();
        *shelf.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(engine) = engine {
            open::close(engine.db);
        }
        let result = match (sync.trouble(), ended) {
            (Some(trouble), _) => Err(trouble),
            (None, Ok(())) => Ok(()),
            (None, Err(panic)) => Err(StoreError::io(
                "fsync",
                &dir,
                io::Error::other(open::text_of(&*panic)),
            )),
        };
        if let Some(reply) = reply
            && reply.send(result).is_err()
        {
            tracing::debug!("nobody waited for the store to close");
        }
    }
}

impl Engine {
    /// Writes `changes` and hands them over to be synced; `None` when that failed. The database is
    /// not to be used any more then.
    fn apply(&mut self, sync: &Syncer, changes: Vec<Change>) -> Option<u64> {
        let mut number = sync.applied(Vec::new());
        let mut chunks = chunks(changes).into_iter();
        while let Some(chunk) = chunks.next() {
            if let Err(error) = write(&self.db, &self.folder, &chunk) {
                let rest = chunk.into_iter().chain(chunks.flatten()).collect();
                sync.failed(rest, error);
                return None;
            }
            number = sync.applied(chunk);
        }
        Some(number)
    }
}

/// `changes` in pieces that sled can take while nothing is fsynced.
fn chunks(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let more = sync::size(std::slice::from_ref(&change));
        if bytes + more > GROUP_BYTES {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += more;
        chunk.push(change);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// Hands one piece to the kernel, all of it or nothing.
fn write(db: &Db, folder: &Path, changes: &[Change]) -> Result<(), StoreError> {
    let mut batch = sled::Batch::default();
    for (key, row) in changes {
        match row {
            Some(row) => batch.insert(key.as_slice(), row.clone()),
            None => batch.remove(key.as_slice()),
        }
    }
    let written = panic::catch_unwind(AssertUnwindSafe(|| {
        db.apply_batch(batch)?;
        db.flush()
    }));
    let source: Arc<dyn std::error::Error + Send + Sync> = match written {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => Arc::new(error),
        Err(panic) => Arc::new(io::Error::other(open::text_of(&*panic))),
    };
    Err(StoreError::NotRecorded {
        path: folder.to_owned(),
        why: "it could not be written",
        source,
    })
}

/// The database's own file, to fsync it.
pub(super) fn database_file(folder: &Path) -> Result<File, StoreError> {
    File::open(folder.join("db")).map_err(|error| StoreError::io("open", folder, error))
}
