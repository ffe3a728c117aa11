//! A lake's files: one read, and the newest found, in a directory or a bucket.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::batch;
use super::layout::{self, EXTENSIONS, Layout, Span};
use super::{LakeError, RawLedger};

/// The file in which a lake may say how it is laid out.
const CONFIG: &str = ".config.json";

/// How lakes are laid out that don't say so: what their first writers used.
const DEFAULT_LEDGERS_PER_FILE: u32 = 64;
const DEFAULT_FILES_PER_PARTITION: u32 = 10;

/// A lake that was opened.
#[derive(Debug)]
pub struct Lake {
    location: String,
    place: Place,
    given: Option<Layout>,
    found: OnceCell<Layout>,
    /// Which of `EXTENSIONS` the last file had, to try that first.
    extension: AtomicUsize,
}

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Bucket {
        store: Arc<dyn ObjectStore>,
        root: Key,
    },
}

/// The part of a lake's own description that matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    ledgers_per_batch: u32,
    batches_per_partition: u32,
}

impl Lake {
    /// The lake in a directory.
    pub(super) fn directory(directory: PathBuf, layout: Option<Layout>) -> Self {
        let location = directory.display().to_string();
        Self::at(location, Place::Directory(directory), layout)
    }

    /// The lake under `root` of an object store.
    pub(super) fn bucket(
        location: String,
        store: Arc<dyn ObjectStore>,
        root: Key,
        layout: Option<Layout>,
    ) -> Self {
        Self::at(location, Place::Bucket { store, root }, layout)
    }

    fn at(location: String, place: Place, given: Option<Layout>) -> Self {
        Self {
            location,
            place,
            given,
            found: OnceCell::new(),
            extension: AtomicUsize::new(0),
        }
    }

    /// Where the lake is, as it was given.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// How the lake is laid out: as was given, else as the lake says, else as lakes used to be.
    ///
    /// # Errors
    /// The lake can't be read, or describes itself in a way that can't be understood.
    pub async fn layout(&self) -> Result<Layout, LakeError> {
        if let Some(given) = self.given {
            return Ok(given);
        }
        self.found
            .get_or_try_init(|| self.find_layout())
            .await
            .copied()
    }

    async fn find_layout(&self) -> Result<Layout, LakeError> {
        let usual = Layout::new(DEFAULT_LEDGERS_PER_FILE, DEFAULT_FILES_PER_PARTITION);
        let found = match self.read(CONFIG).await? {
            Some(text) => {
                let damaged = |reason| LakeError::Damaged {
                    key: CONFIG.to_owned(),
                    reason,
                };
                let config: Config =
                    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
                let files = config.batches_per_partition.max(1);
                Layout::new(config.ledgers_per_batch, files)
                    .ok_or_else(|| damaged("ledgersPerBatch is 0".to_owned()))?
            }
            None => usual.expect("the usual sizes are not zero"),
        };
        Ok(found)
    }

    /// The ledgers of the file of `span`; `None` when the lake has no such file.
    ///
    /// # Errors
    /// The lake can't be read, or the file is damaged.
    pub async fn file(
        &self,
        layout: Layout,
        span: Span,
    ) -> Result<Option<Vec<RawLedger>>, LakeError> {
        let usual = self.extension.load(Ordering::Relaxed);
        for choice in [usual, 1 - usual] {
            let key = format!("{}{}", layout.key(span), EXTENSIONS[choice]);
            if let Some(decoded) = self.decoded(key, span).await? {
                self.extension.store(choice, Ordering::Relaxed);
                return Ok(Some(decoded));
            }
        }
        self.present().await?;
        Ok(None)
    }

    /// Reads and decodes one file. Both may take long, so they happen where waiting is no harm.
    async fn decoded(&self, key: String, span: Span) -> Result<Option<Vec<RawLedger>>, LakeError> {
        let fetched = match &self.place {
            Place::Directory(_) => None,
            Place::Bucket { .. } => match self.read(&key).await? {
                Some(bytes) => Some(bytes),
                None => return Ok(None),
            },
        };
        let (place, location) = (self.place.clone(), self.location.clone());
        let work = move || {
            let bytes = match (fetched, place) {
                (Some(bytes), _) => bytes,
                (None, Place::Directory(root)) => match read_file(&root.join(&key)) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        let reason = format!("{key}: {error}");
                        return Err(LakeError::Unreachable {
                            lake: location,
                            reason,
                        });
                    }
                },
                (None, Place::Bucket { .. }) => return Ok(None),
            };
            match batch::decode(&bytes, span) {
                Ok(ledgers) => Ok(Some(ledgers)),
                Err(reason) => Err(LakeError::Damaged { key, reason }),
            }
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| self.unreachable(&error))?
    }

    /// The bytes of the file `key`; `None` when there is none.
    async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, LakeError> {
        match &self.place {
            Place::Directory(root) => {
                let read = read_file(&root.join(key)).map_err(|error| self.unreachable(&error))?;
                if read.is_none() {
                    self.present().await?;
                }
                Ok(read)
            }
            Place::Bucket { store, root } => {
                // A part of a key must not hold a slash of its own.
                let key = key
                    .split('/')
                    .fold(root.clone(), |path, part| path.join(part));
                let fetched = match store.get(&key).await {
                    Ok(found) => found.bytes().await,
                    Err(error) => Err(error),
                };
                match fetched {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(self.unreachable(&error)),
                }
            }
        }
    }

    /// Fails when the lake as a whole is gone, which is not the same as a file that isn't there.
    async fn present(&self) -> Result<(), LakeError> {
        match &self.place {
            Place::Directory(root) => match tokio::fs::metadata(root).await {
                Ok(found) if found.is_dir() => Ok(()),
                Ok(_) => Err(self.unreachable(&"it is not a directory")),
                Err(error) => Err(self.unreachable(&error)),
            },
            Place::Bucket { .. } => Ok(()),
        }
    }

    /// The last ledger that the lake holds; `None` while it is empty.
    ///
    /// # Errors
    /// The lake can't be read.
    pub async fn tip(&self) -> Result<Option<u32>, LakeError> {
        match &self.place {
            Place::Directory(root) => {
                let root = root.clone();
                let search = tokio::task::spawn_blocking(move || newest_in(&root)).await;
                let found = search.map_err(|error| self.unreachable(&error))?;
                found.map_err(|error| self.unreachable(&error))
            }
            Place::Bucket { store, root } => {
                let found = newest_under(store.as_ref(), root).await;
                found.map_err(|error| self.unreachable(&error))
            }
        }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> LakeError {
        LakeError::Unreachable {
            lake: self.location.clone(),
            reason: error.to_string(),
        }
    }
}

/// The bytes of a file; `None` when there is none.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last ledger of a directory, which holds files, or folders of files.
fn newest_in(directory: &Path) -> io::Result<Option<u32>> {
    let mut files = None;
    let mut folders = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(span) = entry.file_name().to_str().and_then(layout::parse) else {
            continue;
        };
        if entry.file_type()?.is_dir() {
            folders.push((span.first, entry.path()));
        } else {
            files = files.max(Some(span.last));
        }
    }
    folders.sort_unstable_by_key(|(first, _)| std::cmp::Reverse(*first));
    for (_, folder) in folders {
        // A new folder is empty for a moment; the one before it then has the last ledger.
        if let Some(last) = newest_in(&folder)? {
            return Ok(files.max(Some(last)));
        }
    }
    Ok(files)
}

/// The last ledger under `root` of an object store. Names sort newest first, so the first of a
/// listing is enough.
async fn newest_under(
    store: &dyn ObjectStore,
    root: &Key,
) -> Result<Option<u32>, object_store::Error> {
    let listing = store.list_with_delimiter(Some(root)).await?;
    let named = |key: &Key| key.filename().and_then(layout::parse);
    let files = listing
        .objects
        .iter()
        .filter_map(|found| named(&found.location));
    let files = files.map(|span| span.last).max();
    let mut folders: Vec<_> = listing
        .common_prefixes
        .into_iter()
        .filter_map(|key| Some((named(&key)?.first, key)))
        .collect();
    folders.sort_unstable_by_key(|(first, _)| std::cmp::Reverse(*first));
    for (_, folder) in folders {
        let mut found = store.list(Some(&folder));
        while let Some(object) = found.try_next().await? {
            if let Some(span) = named(&object.location) {
                return Ok(files.max(Some(span.last)));
            }
        }
    }
    Ok(files)
}
