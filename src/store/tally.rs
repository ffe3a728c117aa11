//! How many pipelines were ever recorded, kept beside the database.
//!
//! sled opens a database whose end was cut off as what it was earlier, and calls it sound. The
//! database keeps this number too: when the file says more, pipelines were recorded that the
//! database has lost, and what runs of them must not be taken for what was removed. The file is
//! written first, so a crash between the two only makes the next open look at what runs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::StoreError;
use super::folder;
use super::private::write_private;

fn path(dir: &Path) -> PathBuf {
    dir.join("pipelines-created")
}

/// The number beside the database in `dir`. 0 when there is none, as of an older flowctl, or when it
/// is no number: then it proves nothing.
pub(super) fn read(dir: &Path) -> Result<u64, StoreError> {
    match fs::read_to_string(path(dir)) {
        Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(0),
        Err(error) => Err(StoreError::io("read", &path(dir), error)),
    }
}

/// Writes the number; it is on the disk when this returns. Takes two fsyncs.
pub(super) fn write(dir: &Path, created: u64) -> Result<(), StoreError> {
    write_private(&path(dir), format!("{created}\n").as_bytes()).map_err(|source| {
        StoreError::NotRecorded {
            path: path(dir),
            why: "it could not be written",
            source: Arc::new(source),
        }
    })?;
    folder::sync(dir)
}
