//! What can go wrong with the store, in words for people.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the store could not be opened, read or written.
///
/// It is `Clone`, because one failed write fails every batch that went with it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk has too little room to open the store safely: half-written files are what damages
    /// it. Nothing was touched.
    #[error(
        "not enough room for the state in `{}`: {free} {what} free, {needed} needed; free some and \
         try again",
        path.display()
    )]
    NoRoom {
        /// The store's folder.
        path: PathBuf,
        /// Bytes or files.
        what: &'static str,
        /// How many are free.
        free: u64,
        /// How many it takes.
        needed: u64,
    },
    /// The folder can't be written: permissions, or a read-only disk. Nothing was touched.
    #[error(
        "cannot write to the state folder `{}`; check its owner, its permissions and whether the \
         disk is mounted read-only",
        path.display()
    )]
    NotWritable {
        /// The store's folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The system refused something else.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Another process, or an older handle of this one, has the database open.
    #[error("the database in `{}` is in use by another process; stop it first", path.display())]
    InUse {
        /// The database's folder.
        path: PathBuf,
    },
    /// A newer flowctl wrote this state. It is left as it is.
    #[error(
        "the state in `{}` has schema version {found}, this flowctl knows up to {known}; install \
         the newer flowctl again, or use another state directory",
        path.display()
    )]
    NewerSchema {
        /// The store's folder.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version this build reads.
        known: u32,
    },
    /// A batch, or some that went with it, could not be recorded. The owner holds the truth: it
    /// commits what it has again, and the store tries to reopen by itself.
    #[error(
        "cannot record the state in `{}`: {why}; it is tried again with the next change",
        path.display()
    )]
    NotRecorded {
        /// The database's folder.
        path: PathBuf,
        /// What was tried.
        why: &'static str,
        /// What the database or the kernel said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// What is on the disk can't be read back.
    #[error("the state in `{}` is damaged: {why}", path.display())]
    Damaged {
        /// The database's folder.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The store was deleted or found damaged while running, and an empty one was begun. The owner
    /// commits everything it holds.
    #[error(
        "the state in `{}` was lost while running: {why}; a new one was begun",
        path.display()
    )]
    Lost {
        /// The store's folder.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A value has no stored form.
    #[error("cannot record {what}: it has no stored form")]
    Encode {
        /// Which value.
        what: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}
