//! Opening the database so that no leftover, damage or full disk can hurt: what is checked before
//! sled may touch anything, what is read before anyone may rely on it, and what happens to a
//! database that can't be trusted.
//!
//! The database lies in a numbered folder of the store's, `db-1`. One that replaces another gets the
//! next number, so that a thread which still hangs in the old one has no path into the new one. It
//! is built as `new-2` and renamed when it is complete: a folder `db-N` always has a schema version.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use sled::{Db, IVec, Mode, Tree};

use super::error::StoreError;
use super::load::{self, Rebuilding, State, Unreadable};
use super::migrate;
use super::rows::{self, Change, Fact, Kind};
use crate::model::Timestamp;

/// Room that must be free before sled may open: a snapshot that it could only half write is what
/// ruins a database.
const ROOM_BYTES: u64 = 16 << 20;
const ROOM_FILES: u64 = 16;

/// How long a locked database is tried again, and how often. A fork takes less than 10 ms.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_STEP: Duration = Duration::from_millis(5);

/// How many damaged stores are kept to be looked at.
const SET_ASIDE_KEPT: usize = 3;

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
/// has to be set aside.
pub(super) fn open(dir: &Path, now: Timestamp) -> Result<Opened, StoreError> {
    let newest = match look(dir)? {
        Place::Free => None,
        Place::Folder => {
            check_room(dir, 0)?;
            check_writable(dir)?;
            sweep(dir)?;
            newest(dir)?
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
    let folder = database(dir, number);
    match guarded(&folder) {
        Ok((db, state)) => {
            // A crash may have come before the one that this one replaced was removed.
            for old in entries(dir, "db-")?.iter().filter(|path| **path != folder) {
                remove(old)?;
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
        set_aside: set_aside(dir, now)?,
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

/// What is at the store's path.
enum Place {
    /// Nothing: first start, or deleted.
    Free,
    Folder,
    Other,
}

fn look(dir: &Path) -> Result<Place, StoreError> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => Ok(Place::Folder),
        Ok(_) => Ok(Place::Other),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A link that leads nowhere is not free.
            if fs::symlink_metadata(dir).is_ok() {
                return Ok(Place::Other);
            }
            Ok(Place::Free)
        }
        Err(error) => Err(StoreError::io("look at", dir, error)),
    }
}

/// Refuses when the disk of `dir` has too little room to open a database and write `more` to it.
fn check_room(dir: &Path, more: u64) -> Result<(), StoreError> {
    let disk = rustix::fs::statvfs(dir).map_err(|error| {
        StoreError::io("ask for the free space of", dir, io::Error::from(error))
    })?;
    let room = |what, free, needed| StoreError::NoRoom {
        path: dir.to_owned(),
        what,
        free,
        needed,
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = ROOM_BYTES + more;
    if free < needed {
        return Err(room("bytes", free, needed));
    }
    // File systems without a fixed number of files say 0.
    if disk.f_files > 0 && disk.f_favail < ROOM_FILES {
        return Err(room("files", disk.f_favail, ROOM_FILES));
    }
    Ok(())
}

/// Tries what sled is about to do, so that a disk that refuses is found before sled has half done it.
fn check_writable(dir: &Path) -> Result<(), StoreError> {
    let probe = dir.join("new-probe");
    let tried = File::create(&probe)
        .and_then(|mut file| file.write_all(&[0; 4096]))
        .and_then(|()| fs::remove_file(&probe));
    tried.map_err(|error| StoreError::NotWritable {
        path: dir.to_owned(),
        source: Arc::new(error),
    })
}

/// Removes what an earlier open left half made.
fn sweep(dir: &Path) -> Result<(), StoreError> {
    for path in entries(dir, "new-")? {
        remove(&path)?;
    }
    Ok(())
}

/// The highest number of a database in `dir`.
fn newest(dir: &Path) -> Result<Option<u64>, StoreError> {
    let numbers = entries(dir, "db-")?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("db-")?.parse::<u64>().ok()
    });
    Ok(numbers.max())
}

fn database(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("db-{number}"))
}

/// The entries of `dir` whose name begins with `prefix`, sorted.
fn entries(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |error| StoreError::io("list", dir, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(|error| StoreError::io("remove", path, error))
}

fn make_folder(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| StoreError::NotWritable {
            path: dir.to_owned(),
            source: Arc::new(error),
        })
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("fsync", path, error))
}

/// Renames what is at `dir` to `<dir>.corrupt-<time>` and removes the oldest of those.
fn set_aside(dir: &Path, now: Timestamp) -> Result<PathBuf, StoreError> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.corrupt-");
    let time = now.to_string().replace(':', "-");
    let mut target = parent.join(format!("{prefix}{time}"));
    let mut again = 1;
    while fs::symlink_metadata(&target).is_ok() {
        again += 1;
        target = parent.join(format!("{prefix}{time}-{again}"));
    }
    fs::rename(dir, &target).map_err(|error| StoreError::io("set aside", dir, error))?;
    sync(parent)?;
    let kept = entries(parent, &prefix)?;
    for old in kept.iter().rev().skip(SET_ASIDE_KEPT) {
        if let Err(error) = remove(old) {
            // It only takes up room; the new store is what counts now.
            tracing::warn!(path = %old.display(), %error, "cannot remove an old damaged store");
        }
    }
    Ok(target)
}

/// Builds database `number` under `dir` from `rows`, complete on the disk before it bears its name.
fn begin(dir: &Path, number: u64, rows: Vec<(IVec, IVec)>) -> Result<(), StoreError> {
    make_folder(dir)?;
    let bytes: usize = rows.iter().map(|(key, row)| key.len() + row.len()).sum();
    // sled takes up to twice the room of what it holds.
    check_room(dir, 2 * bytes as u64)?;
    check_writable(dir)?;
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
    for path in entries(&new, "")? {
        sync(&path)?;
    }
    sync(&new)?;
    let folder = database(dir, number);
    fs::rename(&new, &folder).map_err(|error| StoreError::io("rename", &new, error))?;
    sync(dir)?;
    sync(dir.parent().unwrap_or(Path::new(".")))
}

fn reopen_new(dir: &Path, number: u64, found: Found) -> Result<Opened, StoreError> {
    let folder = database(dir, number);
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

/// Writes all that `opened` holds, with `changes` over it, to a new database on the disk, and
/// removes the old one.
pub(super) fn rewrite(
    dir: &Path,
    opened: Opened,
    changes: Vec<Change>,
) -> Result<Opened, StoreError> {
    let Opened { db, folder, .. } = opened;
    let mut rows = BTreeMap::new();
    for item in db.iter() {
        let (key, row) = item.map_err(|error| StoreError::Damaged {
            path: folder.clone(),
            why: error.to_string(),
        })?;
        rows.insert(key, row);
    }
    for (key, row) in changes {
        match row {
            Some(row) => rows.insert(IVec::from(key), row),
            None => rows.remove(&IVec::from(key)),
        };
    }
    close(db);
    let number = newest(dir)?.map_or(1, |number| number + 1);
    begin(dir, number, rows.into_iter().collect())?;
    let opened = reopen_new(dir, number, Found::Sound)?;
    remove(&folder)?;
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
    for path in entries(folder, "snap.").map_err(Fault::Refused)? {
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
        || "the database panicked".to_owned(),
        |text| format!("the database panicked: {text}"),
    )
}
