//! How far the output of an instance was copied: the number of a file on its node and an offset in it,
//! for each stream.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::InstanceId;

/// Where in the files of one stream all before was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// Which file.
    pub(super) file: u64,
    /// All bytes before this.
    pub(super) offset: u64,
}

/// Of one placement.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Positions {
    pub(super) placement: String,
    pub(super) stdout: Position,
    pub(super) stderr: Position,
    /// The time under which the latest was kept: the next one is later.
    #[serde(default)]
    pub(super) at_nanos: i64,
}

fn path(dir: &Path, instance: &InstanceId) -> PathBuf {
    dir.join(format!("{instance}.copied"))
}

/// What was kept; the beginning when nothing was.
pub(super) fn read(dir: &Path, instance: &InstanceId) -> Positions {
    let text = fs::read(path(dir, instance)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps it.
pub(super) fn write(dir: &Path, instance: &InstanceId, positions: &Positions) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = path(dir, instance);
    let draft = path.with_extension("copied-new");
    fs::write(
        &draft,
        serde_json::to_vec(positions).map_err(io::Error::other)?,
    )?;
    fs::rename(draft, path)
}

/// It is not needed any more. What cannot be removed is in nobody's way.
pub(super) fn remove(dir: &Path, instance: &InstanceId) {
    fs::remove_file(path(dir, instance)).ok();
}
