//! Opening the database so that no leftover, damage or full disk can hurt: what is checked before
//! sled may touch anything, what is read before anyone may rely on it, and what happens to a
//! database that can't be trusted.
//!
//! The database lies in a numbered folder of the store's, `db-1`. One that replaces another gets the
//! next number, so that a thread which still hangs in the old one has no path into the new one. It
//! is built as `new-2` and renamed when it is complete: a folder `db-N` always has a schema version.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use sled::{Db, IVec, Mode, Tree};

use super::error::StoreError;
use super::folder::{self, Place};
use super::load::{self, Rebuilding, State, Unreadable};
use super::migrate;
use super::rows::{self, Fact, Kind};
use super::tally;
use crate::model::Timestamp;

/// How long a locked database is tried again, and how often. A fork takes less than 10 ms.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_STEP: Duration = Duration::from_millis(5);

/// The most bytes written between two fsyncs while a database is built: half a segment of sled's.
pub(super) const GROUP_BYTES: usize = 256 << 10;

/// A database that was read from end to end.
pub(super) struct Opened {
    pub(super) db: Db,
    /// Its folder.
    pub(super) folder: PathBuf,
    pub(super) state: State,
    pub(super) found: Found,
}

/// What there was to open.
pub(super) enum Found {
    /// A sound database.
    Sound,
    /// None.
    Nothing,
    /// One that had to be set aside just now.
    Damaged(Rebuilding),
}

/// Why a database is not opened.
enum Fault {
    /// It can't be trusted. The rows of its state, if those at least were sound.
    Damaged {
        why: String,
        saved: Vec<(IVec, IVec)>,
    },
    /// The system is in the way; nothing is wrong with the database.
    Refused(StoreError),
}

/// Opens the newest database under `dir`; begins an empty one where there is none, or only one that
/// has to be set aside. Says whether it has lost its end.
pub(super) fn open(dir: &Path, now: Timestamp) -> Result<Opened, StoreError> {
    let mut opened = open_newest(dir, now)?;
    let created = tally::read(dir)?;
    let ledger = &mut opened.state.ledger;
    opened.state.lost_its_end = created > ledger.created;
    ledger.created = ledger.created.max(created);
    Ok(opened)
}

fn open_newest(dir: &Path, now: Timestamp) -> Result<Opened, StoreError> {
    let newest = match folder::look(dir)? {
        Place::Free => None,
        Place::Folder => {
            folder::check_room(dir, 0)?;
            folder::check_writable(dir)?;
            folder::sweep(dir)?;
            folder::newest(dir)?
        }
        Place::Other => {
            let why = "its folder was replaced by something else".to_owned();
            return replace(dir, now, 1, why, Vec::new());
        }
    };
    let Some(number) = newest else {
        begin(dir, 1, Vec::new())?;
        return reopen_new(dir, 1, Found::Nothing);
    };
    let folder = folder::database(dir, number);
    match guarded(&folder) {
        Ok((db, state)) => {
            // A crash may have come before the one that this one replaced was removed.
            for old in folder::entries(dir, "db-")?
                .iter()
                .filter(|path| **path != folder)
            {
                folder::remove(old)?;
            }
            Ok(Opened {
                db,
                folder,
                state,
                found: Found::Sound,
            })
        }
        Err(Fault::Refused(error)) => Err(error),
        Err(Fault::Damaged { why, saved }) => replace(dir, now, number + 1, why, saved),
    }
}

/// Sets aside what is at `dir` and begins database `number` with the rows that were saved.
fn replace(
    dir: &Path,
    now: Timestamp,
    number: u64,
    why: String,
    saved: Vec<(IVec, IVec)>,
) -> Result<Opened, StoreError> {
    let rebuilding = Rebuilding {
        set_aside: folder::set_aside(dir, now)?,
        why,
    };
    let key = Fact::Rebuilding.key();
    let value = serde_json::to_vec(&rebuilding).map_err(|source| StoreError::Encode {
        what: "why the store was set aside".to_owned(),
        source: Arc::new(source),
    })?;
    let mut rows = saved;
    let row = rows::seal(&key, &value);
    rows.push((IVec::from(key), row));
    begin(dir, number, rows)?;
    reopen_new(dir, number, Found::Damaged(rebuilding))
}

/// Builds database `number` under `dir` from `rows`, complete on the disk before it bears its name.
fn begin(dir: &Path, number: u64, rows: Vec<(IVec, IVec)>) -> Result<(), StoreError> {
    folder::make_folder(dir)?;
    let bytes: usize = rows.iter().map(|(key, row)| key.len() + row.len()).sum();
    // sled takes up to twice the room of what it holds.
    folder::check_room(dir, 2 * bytes as u64)?;
    folder::check_writable(dir)?;
    let new = dir.join(format!("new-{number}"));
    let failed = |source| StoreError::NotRecorded {
        path: new.clone(),
        why: "a new database could not be written",
        source: Arc::new(source),
    };
    let db = open_patiently(&new).map_err(failed)?;
    let file = File::open(new.join("db")).map_err(|error| StoreError::io("open", &new, error))?;
    let (key, row) = migrate::stamp(migrate::CURRENT);
    let rows = rows.into_iter().chain([(IVec::from(key), row)]);
    let mut batch = sled::Batch::default();
    let mut bytes = 0;
    let write = |batch: sled::Batch| -> Result<(), StoreError> {
        db.apply_batch(batch).map_err(failed)?;
        db.flush().map_err(failed)?;
        file.sync_data()
            .map_err(|error| StoreError::io("fsync", &new, error))
    };
    for (key, row) in rows {
        bytes += key.len() + row.len();
        batch.insert(key, row);
        if bytes >= GROUP_BYTES {
            write(std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
    write(batch)?;
    close(db);
    for path in folder::entries(&new, "")? {
        folder::sync(&path)?;
    }
    folder::sync(&new)?;
    let folder = folder::database(dir, number);
    fs::rename(&new, &folder).map_err(|error| StoreError::io("rename", &new, error))?;
    folder::sync(dir)?;
    folder::sync(dir.parent().unwrap_or(Path::new(".")))
}

fn reopen_new(dir: &Path, number: u64, found: Found) -> Result<Opened, StoreError> {
    let folder = folder::database(dir, number);
    match guarded(&folder) {
        Ok((db, state)) => Ok(Opened {
            db,
            folder,
            state,
            found,
        }),
        Err(Fault::Refused(error)) => Err(error),
        Err(Fault::Damaged { why, .. }) => Err(StoreError::Damaged { path: folder, why }),
    }
}

/// Writes all that `opened` holds to a new database on the disk, and removes the old one.
pub(super) fn rewrite(dir: &Path, opened: Opened) -> Result<Opened, StoreError> {
    let Opened { db, folder, .. } = opened;
    // Stops at the first error.
    let rows: Vec<_> =
        db.iter()
            .collect::<sled::Result<_>>()
            .map_err(|error| StoreError::Damaged {
                path: folder.clone(),
                why: error.to_string(),
            })?;
    close(db);
    let number = folder::newest(dir)?.map_or(1, |number| number + 1);
    begin(dir, number, rows)?;
    let opened = reopen_new(dir, number, Found::Sound)?;
    folder::remove(&folder)?;
    Ok(opened)
}

fn config(folder: &Path) -> sled::Config {
    sled::Config::new()
        .path(folder)
        .mode(Mode::LowSpace)
        .cache_capacity(16 << 20)
        .flush_every_ms(None)
}

/// Drops a database whatever state it is in: sled fsyncs then, and panics when that fails.
pub(super) fn close(db: Db) {
    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| drop(db))) {
        let why = text_of(&*panic);
        tracing::warn!(
            why,
            "closing the database failed; it is checked at its next open"
        );
    }
}

/// Opens and reads the database in a thread of its own, which may panic or hang over a damaged one.
fn guarded(folder: &Path) -> Result<(Db, State), Fault> {
    let refused = |doing, error| Fault::Refused(StoreError::io(doing, folder, error));
    let (send, receive) = mpsc::sync_channel(1);
    let thread = {
        let folder = folder.to_owned();
        thread::Builder::new()
            .name("store-open".to_owned())
            .spawn(move || {
                let result = panic::catch_unwind(|| open_and_read(&folder))
                    .unwrap_or_else(|panic| Err(damaged(text_of(&*panic))));
                // Nobody waits any more after the deadline; the database is closed then.
                if let Err(late) = send.send(result)
                    && let Ok((db, _)) = late.0
                {
                    close(db);
                }
            })
            .map_err(|error| refused("start a thread to open", error))?
    };
    match receive.recv_timeout(deadline(folder)) {
        Ok(result) => {
            drop(thread);
            result
        }
        Err(RecvTimeoutError::Timeout) => Err(damaged("opening it never ended".to_owned())),
        Err(RecvTimeoutError::Disconnected) => Err(damaged("opening it failed".to_owned())),
    }
}

/// How long an open may take: a hang has to end, a slow disk must not look like one. Sound
/// databases take 5 to 50 ms from a disk that is not busy; 0.5 MB/s is far below any in use.
fn deadline(folder: &Path) -> Duration {
    let bytes = fs::metadata(folder.join("db")).map_or(0, |found| found.len());
    Duration::from_secs(10) + Duration::from_secs(bytes / 500_000)
}

fn damaged(why: String) -> Fault {
    Fault::Damaged {
        why,
        saved: Vec::new(),
    }
}

fn open_and_read(folder: &Path) -> Result<(Db, State), Fault> {
    let io = |doing, error| Fault::Refused(StoreError::io(doing, folder, error));
    if fs::metadata(folder).is_ok_and(|found| !found.is_dir()) {
        return Err(damaged(
            "its folder was replaced by something else".to_owned(),
        ));
    }
    // The file that sled was writing when it was killed. It would be taken for a whole one.
    for path in folder::entries(folder, "snap.").map_err(Fault::Refused)? {
        if path.extension().is_some_and(|end| end == "generating") {
            fs::remove_file(&path).map_err(|error| io("remove a leftover in", error))?;
        }
    }
    if !folder.join("db").exists() {
        return Err(damaged("its main file is gone".to_owned()));
    }
    let db = open_patiently(folder).map_err(|error| fault(folder, Unreadable::Engine(error)))?;
    match read(folder, &db) {
        Ok(state) => Ok((db, state)),
        Err(fault) => {
            close(db);
            Err(fault)
        }
    }
}

/// Opens it, and waits a little while it is locked: a child that another thread just forked holds
/// every lock of ours until it execs, and sled's threads may be the last to let go of a file.
fn open_patiently(folder: &Path) -> sled::Result<Db> {
    let mut patience = LOCK_PATIENCE;
    loop {
        match config(folder).open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && !patience.is_zero() => {
                thread::sleep(LOCK_STEP);
                patience = patience.saturating_sub(LOCK_STEP);
            }
            result => return result,
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn read(folder: &Path, tree: &Tree) -> Result<State, Fault> {
    let failed = |problem| fault(folder, problem);
    match load::schema(tree).map_err(failed)? {
        None => return Err(damaged("it has no schema version".to_owned())),
        Some(found) if found > migrate::CURRENT => {
            return Err(Fault::Refused(StoreError::NewerSchema {
                path: folder.to_owned(),
                found,
                known: migrate::CURRENT,
            }));
        }
        Some(found) => migrate::run(tree, found).map_err(failed)?,
    }
    let mut state = load::state(tree).map_err(failed)?;
    match load::history(tree, &mut state.ledger).map_err(failed) {
        Ok(()) => Ok(state),
        Err(Fault::Damaged { why, .. }) => Err(Fault::Damaged {
            why: format!("its history: {why}"),
            saved: tree
                .range(..Kind::HISTORY)
                .collect::<sled::Result<_>>()
                .map_err(|error| failed(Unreadable::Engine(error)))?,
        }),
        Err(refused) => Err(refused),
    }
}

/// Whether a failed open means damage, or a system that is in the way.
fn fault(folder: &Path, problem: Unreadable) -> Fault {
    let error = match problem {
        Unreadable::Malformed(why) => return damaged(why),
        Unreadable::Engine(sled::Error::Io(error)) => error,
        Unreadable::Engine(
            error @ (sled::Error::Corruption { .. }
            | sled::Error::CollectionNotFound(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Unsupported(_)),
        ) => return damaged(error.to_string()),
    };
    if is_locked(&error) {
        return Fault::Refused(StoreError::InUse {
            path: folder.to_owned(),
        });
    }
    // What a file that is cut, replaced or scrambled leads to.
    let is_damage = matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Other
    );
    if is_damage {
        damaged(error.to_string())
    } else {
        // Permissions, space, descriptors, memory, a disk that fails: a new database would not do
        // better.
        Fault::Refused(StoreError::io("open the database in", folder, error))
    }
}

/// What a panic said.
pub(super) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or_else(
        || "it panicked".to_owned(),
        |text| format!("it panicked: {text}"),
    )
}
