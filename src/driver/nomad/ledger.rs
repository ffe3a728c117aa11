//! What this daemon has registered, kept beside the cluster: which jobs have to be there, and which of
//! them it has asked to end. A list that leaves one out is asked about that one by name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::sight::Asked;
use crate::model::InstanceId;

/// How a file of one entry ends.
const ENDING: &str = ".json";

/// One job that was registered, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Of its component, as its file has it.
    pub(super) address: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) job: String,
    /// What the job says of itself.
    pub(super) meta: BTreeMap<String, String>,
    /// Whether it holds its secrets in a variable.
    pub(super) variable: Holds,
    /// Whether Nomad keeps it when it has ended.
    pub(super) kept: Keeps,
    /// Whether we have asked for its end.
    pub(super) stop: Ordered,
}

/// Whether there is a variable of a job's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Holds {
    Variable,
    Nothing,
}

/// Whether Nomad may collect a job that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Keeps {
    /// Its version has a tag.
    Tagged,
    /// After a few hours.
    Untagged,
}

/// Whether a stop was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ordered {
    Stop,
    Nothing,
}

impl From<Ordered> for Asked {
    fn from(ordered: Ordered) -> Self {
        match ordered {
            Ordered::Stop => Self::Yes,
            Ordered::Nothing => Self::No,
        }
    }
}

/// All entries, in memory and on disk.
pub(super) struct Ledger {
    dir: PathBuf,
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
}

impl Ledger {
    /// Reads what is kept in `dir`. One that cannot be read is said and left: its job is found in the
    /// list.
    pub(super) fn open(dir: PathBuf) -> Arc<Self> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let instance = name.to_str().and_then(|name| name.strip_suffix(ENDING));
            let Some(instance) = instance.and_then(|text| text.parse::<InstanceId>().ok()) else {
                continue;
            };
            match read(&entry.path()) {
                Ok(kept) => drop(entries.insert(instance, kept)),
                Err(error) => {
                    tracing::warn!(%instance, %error, "what is kept of its job cannot be read");
                }
            }
        }
        Arc::new(Self {
            dir,
            entries: Mutex::new(entries),
        })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, instance: &InstanceId) -> Option<Entry> {
        self.entries().get(instance).cloned()
    }

    pub(super) fn all(&self) -> Vec<(InstanceId, Entry)> {
        let entries = self.entries();
        entries
            .iter()
            .map(|(of, entry)| (of.clone(), entry.clone()))
            .collect()
    }

    /// The instance whose job has this id.
    pub(super) fn of_job(&self, job: &str) -> Option<InstanceId> {
        let entries = self.entries();
        let found = entries.iter().find(|(_, entry)| entry.job == job);
        found.map(|(instance, _)| instance.clone())
    }

    pub(super) fn asked(&self, instance: &InstanceId) -> Asked {
        let entries = self.entries();
        entries
            .get(instance)
            .map_or(Asked::No, |entry| entry.stop.into())
    }

    /// Keeps an entry; once it answers, the disk has it.
    pub(super) async fn put(
        self: &Arc<Self>,
        instance: &InstanceId,
        entry: Entry,
    ) -> io::Result<()> {
        let (ledger, instance) = (Arc::clone(self), instance.clone());
        let put = tokio::task::spawn_blocking(move || {
            let mut entries = ledger.entries();
            write(&ledger.dir, &instance, &entry)?;
            entries.insert(instance, entry);
            Ok(())
        });
        put.await.map_err(io::Error::other)?
    }

    /// Changes an entry that is there.
    pub(super) async fn change(
        self: &Arc<Self>,
        instance: &InstanceId,
        change: impl FnOnce(&mut Entry),
    ) -> io::Result<()> {
        let Some(mut entry) = self.get(instance) else {
            return Ok(());
        };
        let before = entry.clone();
        change(&mut entry);
        match entry == before {
            true => Ok(()),
            false => self.put(instance, entry).await,
        }
    }

    /// Its job is gone, and all that is kept of it.
    pub(super) async fn remove(self: &Arc<Self>, instance: &InstanceId) -> io::Result<()> {
        let (ledger, instance) = (Arc::clone(self), instance.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let mut entries = ledger.entries();
            match fs::remove_file(path(&ledger.dir, &instance)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            entries.remove(&instance);
            Ok(())
        });
        removed.await.map_err(io::Error::other)?
    }
}

fn path(dir: &Path, instance: &InstanceId) -> PathBuf {
    dir.join(format!("{instance}{ENDING}"))
}

fn read(path: &Path) -> io::Result<Entry> {
    let text = fs::read(path)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

fn write(dir: &Path, instance: &InstanceId, entry: &Entry) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = path(dir, instance);
    let draft = path.with_extension("new");
    let text = serde_json::to_vec(entry).map_err(io::Error::other)?;
    let mut file = fs::File::create(&draft)?;
    file.write_all(&text)?;
    file.sync_data()?;
    fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_registered_is_known_to_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path().join("nomad"));
        let instance: InstanceId = "default.p.a.0.1".parse().unwrap();
        let entry = Entry {
            address: None,
            namespace: Some("data".to_owned()),
            job: "p-a-0-r1-x".to_owned(),
            meta: BTreeMap::new(),
            variable: Holds::Nothing,
            kept: Keeps::Untagged,
            stop: Ordered::Nothing,
        };
        ledger.put(&instance, entry.clone()).await.unwrap();
        let stop = |entry: &mut Entry| entry.stop = Ordered::Stop;
        ledger.change(&instance, stop).await.unwrap();
        let next = Ledger::open(dir.path().join("nomad"));
        assert_eq!(next.asked(&instance), Asked::Yes);
        assert_eq!(next.of_job("p-a-0-r1-x"), Some(instance.clone()));
        next.remove(&instance).await.unwrap();
        assert_eq!(Ledger::open(dir.path().join("nomad")).get(&instance), None);
    }
}
