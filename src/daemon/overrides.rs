//! What `--force` went over is told to more than the one who went over it: for as long as it is so,
//! `status` has a note.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::driver::process::Inheritance;
use crate::model::{ComponentId, PipelineKey, PipelineSpec};
use crate::preflight::{self, Running};
use crate::reconciler::ReconcilerHandle;
use crate::store::{Batch, Durability, Store};

/// What the names of the settings begin with that outlive the daemon.
const FORCED: &str = "forced/";
/// After this long a look at what the files name is said to hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether the reason still holds.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The pipelines that were applied although something was in the way. Cheap to clone.
#[derive(Clone)]
pub(super) struct Overrides {
    owner: ReconcilerHandle,
    store: Store,
    forced: Arc<Mutex<BTreeSet<PipelineKey>>>,
    changed: Arc<Notify>,
}

impl Overrides {
    /// Those that an earlier daemon was told of, by its `settings`.
    pub fn new(owner: ReconcilerHandle, store: Store, settings: &BTreeMap<String, String>) -> Self {
        let names = settings.keys().filter_map(|name| {
            let (namespace, name) = name.strip_prefix(FORCED)?.split_once('/')?;
            Some(PipelineKey {
                namespace: namespace.parse().ok()?,
                name: name.parse().ok()?,
            })
        });
        Self {
            owner,
            store,
            forced: Arc::new(Mutex::new(names.collect())),
            changed: Arc::default(),
        }
    }

    /// These were applied by force just now.
    pub fn add(&self, keys: Vec<PipelineKey>) {
        let mut batch = Batch::new();
        for key in &keys {
            batch.put_setting(setting(key), "");
        }
        self.record(batch);
        self.forced().extend(keys);
        self.changed.notify_one();
    }

    /// Looks again and again what still is in the way. Cancel-safe: it holds nothing over a wait.
    pub async fn follow(self) {
        loop {
            let keys: BTreeSet<PipelineKey> = self.forced().clone();
            if keys.is_empty() {
                self.changed.notified().await;
                continue;
            }
            self.look(keys).await;
            let changed = self.changed.notified();
            // Either way it is time.
            tokio::time::timeout(LOOK_AGAIN, changed).await.ok();
        }
    }

    async fn look(&self, keys: BTreeSet<PipelineKey>) {
        let mut specs = Vec::new();
        for key in keys {
            match self.owner.desired(key.clone()).await {
                Ok(Some((_, spec))) => specs.push(spec),
                Ok(None) => self.forget(&key),
                // The daemon is going.
                Err(_) => return,
            }
        }
        let mut notes: BTreeMap<PipelineKey, BTreeMap<ComponentId, Vec<String>>> = specs
            .iter()
            .map(|spec| (spec.key.clone(), BTreeMap::new()))
            .collect();
        let running = Running::all(&self.owner.snapshots().borrow());
        let mut looking = tokio::task::spawn_blocking(move || {
            let specs: Vec<&PipelineSpec> = specs.iter().map(|spec| &**spec).collect();
            preflight::in_the_way(&specs, &running, &Inheritance::of_this_process())
        });
        let looked = match tokio::time::timeout(PATIENCE, &mut looking).await {
            Ok(looked) => looked,
            Err(_) => {
                tracing::warn!(
                    "what was gone over by force cannot be looked at: a file system or device hangs; \
                     the notes stay as they are until it answers"
                );
                // One look at a time: each that hangs holds a thread.
                looking.await
            }
        };
        let found = match looked {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "what was gone over by force is not looked at again");
                return;
            }
        };
        for problem in found {
            let of_it = notes.entry(problem.pipeline).or_default();
            of_it
                .entry(problem.component)
                .or_default()
                .push(problem.what);
        }
        for (key, notes) in notes {
            self.owner.note(key, notes).await;
        }
    }

    fn forget(&self, key: &PipelineKey) {
        self.forced().remove(key);
        let mut batch = Batch::new();
        batch.forget_setting(setting(key));
        self.record(batch);
    }

    fn record(&self, batch: Batch) {
        self.store.commit(batch, Durability::CrashSafe, |result| {
            if let Err(error) = result {
                tracing::warn!(%error, "what was applied by force is not recorded yet");
            }
        });
    }

    fn forced(&self) -> MutexGuard<'_, BTreeSet<PipelineKey>> {
        self.forced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn setting(key: &PipelineKey) -> String {
    format!("{FORCED}{}/{}", key.namespace, key.name)
}
