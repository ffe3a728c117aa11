//! The store's folder on its disk: what is in it, whether there is room, and where a damaged one
//! goes.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::StatVfsMountFlags;

use super::error::StoreError;
use crate::model::Timestamp;

/// Room that must be free before sled may open: a snapshot that it could only half write is what
/// ruins a database.
const ROOM_BYTES: u64 = 16 << 20;
const ROOM_FILES: u64 = 16;

/// Room that must be free before something is written: a segment of sled's.
const WRITE_BYTES: u64 = 512 << 10;

/// How many damaged stores are kept to be looked at.
const SET_ASIDE_KEPT: usize = 3;

/// What is at the store's path.
pub(super) enum Place {
    /// Nothing: first start, or deleted.
    Free,
    Folder,
    Other,
}

pub(super) fn look(dir: &Path) -> Result<Place, StoreError> {
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
pub(super) fn check_room(dir: &Path, more: u64) -> Result<(), StoreError> {
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

/// Refuses when the disk of `dir` takes nothing more: asked before each write, since a write that
/// stops half-way costs the database until it is rebuilt.
pub(super) fn check_takes_more(dir: &Path) -> Result<(), StoreError> {
    let disk = match rustix::fs::statvfs(dir) {
        Ok(disk) => disk,
        // Deleted, or out of reach: the write finds out what that means.
        Err(_) => return Ok(()),
    };
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(StoreError::NotWritable {
            path: dir.to_owned(),
            source: Arc::new(io::Error::from(ErrorKind::ReadOnlyFilesystem)),
        });
    }
    // The part that is reserved for root is root's.
    let blocks = if rustix::process::geteuid().is_root() {
        disk.f_bfree
    } else {
        disk.f_bavail
    };
    let free = blocks.saturating_mul(disk.f_frsize);
    // File systems that do not count say 0 of 0.
    if disk.f_blocks > 0 && free < WRITE_BYTES {
        return Err(StoreError::NoRoom {
            path: dir.to_owned(),
            what: "bytes",
            free,
            needed: WRITE_BYTES,
        });
    }
    Ok(())
}

/// Tries what sled is about to do, so that a disk that refuses is found before sled has half done it.
pub(super) fn check_writable(dir: &Path) -> Result<(), StoreError> {
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
pub(super) fn sweep(dir: &Path) -> Result<(), StoreError> {
    for path in entries(dir, "new-")? {
        remove(&path)?;
    }
    Ok(())
}

/// The highest number of a database in `dir`.
pub(super) fn newest(dir: &Path) -> Result<Option<u64>, StoreError> {
    let numbers = entries(dir, "db-")?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("db-")?.parse::<u64>().ok()
    });
    Ok(numbers.max())
}

pub(super) fn database(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("db-{number}"))
}

/// The entries of `dir` whose name begins with `prefix`, sorted.
pub(super) fn entries(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, StoreError> {
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

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(|error| StoreError::io("remove", path, error))
}

pub(super) fn make_folder(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| StoreError::NotWritable {
            path: dir.to_owned(),
            source: Arc::new(error),
        })
}

pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("fsync", path, error))
}

/// Renames what is at `dir` to `<dir>.corrupt-<time>` and removes the oldest of those.
pub(super) fn set_aside(dir: &Path, now: Timestamp) -> Result<PathBuf, StoreError> {
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
