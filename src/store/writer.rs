//! The one thread that owns the database: takes what is waiting, writes it as one, acknowledges,
//! and brings the database back after a failure.

use std::fs::File;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use sled::{Db, Tree};

use super::batch::{Batch, Durability};
use super::error::StoreError;
use super::folder;
use super::ledger::Ledger;
use super::numbers::Numbers;
use super::open::{self, Found, GROUP_BYTES, Opened};
use super::rows::{self, Change};
use super::sync::{self, Done, Syncer};
use super::tally;
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
type Shelf = Arc<Mutex<Option<Tree>>>;

/// What handles share with the thread.
pub(super) struct Link {
    pub(super) outbox: Sender<Message>,
    pub(super) sync: Arc<Syncer>,
    pub(super) shelf: Shelf,
    /// Taken by the one who closes.
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// The thread's own.
struct Writer {
    dir: PathBuf,
    /// What time it was at which instant.
    opened_at: (Timestamp, Instant),
    inbox: Receiver<Message>,
    sync: Arc<Syncer>,
    sync_thread: JoinHandle<()>,
    shelf: Shelf,
    /// `None` after a failure.
    engine: Option<Engine>,
    numbers: Numbers,
}

/// A database in use.
pub(super) struct Engine {
    pub(super) db: Db,
    pub(super) folder: PathBuf,
    pub(super) ledger: Ledger,
    /// How many pipelines the file beside the database knows to have been recorded.
    pub(super) tallied: u64,
}

/// Starts the thread, and the one that fsyncs for it. `first` is written before anything else.
pub(super) fn start(
    dir: &Path,
    now: Timestamp,
    engine: Engine,
    numbers: Numbers,
    first: Vec<Change>,
) -> Result<Link, StoreError> {
    let started = |error| StoreError::io("start a thread for", dir, error);
    let sync = Arc::new(Syncer::new());
    sync.restart(database_file(&engine.folder)?, engine.folder.clone());
    let shelf: Shelf = Arc::new(Mutex::new(Some(Tree::clone(&engine.db))));
    let (outbox, inbox) = mpsc::channel();
    let sync_thread = {
        let sync = Arc::clone(&sync);
        thread::Builder::new()
            .name("store-sync".to_owned())
            .spawn(move || sync.run())
            .map_err(started)?
    };
    let writer = Writer {
        dir: dir.to_owned(),
        opened_at: (now, Instant::now()),
        inbox,
        sync: Arc::clone(&sync),
        sync_thread,
        shelf: Arc::clone(&shelf),
        engine: Some(engine),
        numbers,
    };
    let thread = thread::Builder::new()
        .name("store-write".to_owned())
        .spawn(move || writer.run(first))
        .map_err(started)?;
    Ok(Link {
        outbox,
        sync,
        shelf,
        thread: Mutex::new(Some(thread)),
    })
}

impl Writer {
    /// Runs until the store is closed, or its last handle is gone.
    fn run(mut self, first: Vec<Change>) {
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
        // Before the database is touched, so that a full disk leaves it readable and whole.
        let ready = folder::check_takes_more(&self.dir).and_then(|()| self.engine());
        let mut engine = match ready {
            Ok(engine) => engine,
            Err(error) => {
                sync::tell(first.done, Err(error));
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
                    bytes += rows::size(&more);
                    changes.extend(more);
                    accepted.push((commit.durability, commit.done));
                }
                Err(error) => sync::tell(commit.done, Err(error)),
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
        changes.extend(self.numbers.reserve(engine.ledger.history.next_seq()));
        let applied = engine
            .tally(&self.dir, &self.sync)
            .and_then(|()| engine.apply(&self.sync, changes));
        let Some(number) = applied else {
            self.retire(engine);
            let error = self.sync.trouble().unwrap_or(StoreError::Closed);
            for (_, done) in accepted {
                sync::tell(done, Err(error.clone()));
            }
            return closing;
        };
        self.engine = Some(engine);
        for (durability, done) in accepted {
            match durability {
                Durability::CrashSafe => sync::tell(done, Ok(())),
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
        let brought_back = panic::catch_unwind(AssertUnwindSafe(|| self.bring_back()))
            .unwrap_or_else(|panic| {
                Err(StoreError::Damaged {
                    path: self.dir.clone(),
                    why: open::text_of(&*panic),
                })
            });
        let (engine, lost) = brought_back.inspect_err(|error| {
            self.sync.failed(error.clone());
        })?;
        self.numbers.forget();
        match lost {
            None => Ok(engine),
            Some(why) => {
                self.engine = Some(engine);
                let path = self.dir.clone();
                Err(StoreError::Lost { path, why })
            }
        }
    }

    /// Opens the database again and writes all of it to a new one: what the page cache shows of the
    /// old one may not be on the disk, and the kernel reports that only once. If there was nothing
    /// to bring back, it also answers why.
    fn bring_back(&self) -> Result<(Engine, Option<String>), StoreError> {
        let now = self.opened_at.0.after(self.opened_at.1.elapsed());
        let opened = open::open(&self.dir, now)?;
        let (opened, lost) = match &opened.found {
            Found::Sound if opened.state.lost_its_end => {
                let lost = "it opened as what it was earlier".to_owned();
                (opened, Some(lost))
            }
            Found::Sound => {
                let opened = open::rewrite(&self.dir, opened)?;
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
            tallied: state.ledger.created,
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
            mut engine,
            numbers,
            ..
        } = self;
        while let Ok(message) = inbox.try_recv() {
            match message {
                Message::Commit(commit) => sync::tell(commit.done, Err(StoreError::Closed)),
                // The first one is answered; this one's sender sees that nobody is there.
                Message::Close(_) => {}
            }
        }
        // Where that cannot be written, a gap is left.
        if let Some(engine) = &mut engine
            && let Some(rest) = numbers.give_back(engine.ledger.history.next_seq())
            && sync.trouble().is_none()
            && folder::check_takes_more(&dir).is_ok()
        {
            engine.apply(&sync, vec![rest]);
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
    /// Has the file beside the database know of the pipelines that are about to be recorded; `None`
    /// when that failed. The database is not to be used any more then.
    fn tally(&mut self, dir: &Path, sync: &Syncer) -> Option<()> {
        if self.ledger.created > self.tallied {
            if let Err(error) = tally::write(dir, self.ledger.created) {
                sync.failed(error);
                return None;
            }
            self.tallied = self.ledger.created;
        }
        Some(())
    }

    /// Writes `changes` and hands them over to be synced; `None` when that failed. The database is
    /// not to be used any more then.
    fn apply(&mut self, sync: &Syncer, changes: Vec<Change>) -> Option<u64> {
        let mut number = sync.newest();
        for chunk in chunks(changes) {
            if let Err(error) = write(&self.db, &self.folder, &chunk) {
                sync.failed(error);
                return None;
            }
            number = sync.applied(rows::size(&chunk));
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
        let more = rows::size(std::slice::from_ref(&change));
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
fn database_file(folder: &Path) -> Result<File, StoreError> {
    File::open(folder.join("db")).map_err(|error| StoreError::io("open", folder, error))
}
