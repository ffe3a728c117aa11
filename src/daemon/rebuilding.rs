//! Pipelines of a store that was lost, from what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::in_full;
use crate::model::{DriverKind, PipelineRecord, PipelineSpec};
use crate::reconciler::{Drivers, Kept};
use crate::store::{self, Batch, Recovery, Store};

/// The setting that names those who could not say what they run when the store was lost.
const UNDESCRIBED: &str = "undescribed";

/// Whether the store remembers all that runs. An engine that was silent when a store was rebuilt is
/// asked again.
pub(super) fn judge_recovery(recovery: Recovery, settings: &BTreeMap<String, String>) -> Recovery {
    if recovery == Recovery::Intact && settings.contains_key(UNDESCRIBED) {
        return Recovery::New;
    }
    recovery
}

/// Pipelines of a lost store, put together from what their instances carry, and the drivers that
/// could not say what they run.
pub(super) async fn rebuilt(
    mut kept: Kept,
    drivers: &Drivers,
    recovery: &Recovery,
) -> (Kept, BTreeSet<DriverKind>) {
    let mut silent = BTreeSet::new();
    if *recovery == Recovery::Intact {
        return (kept, silent);
    }
    let mut described = Vec::new();
    for driver in drivers.values() {
        match driver.describe().await {
            Ok(more) => described.extend(more),
            Err(error) => {
                silent.insert(driver.kind());
                tracing::error!(
                    %error,
                    "what runs cannot be read; it is left alone until a daemon starts that can"
                );
            }
        }
    }
    for launch in described {
        let key = launch.instance.pipeline.clone();
        let record = kept
            .pipelines
            .entry(key.clone())
            .or_insert_with(|| PipelineRecord {
                spec: Arc::new(PipelineSpec {
                    key,
                    description: None,
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                    network: None,
                    notify: Vec::new(),
                    components: BTreeMap::new(),
                }),
                generation: launch.generation,
                watched: launch.file.is_some(),
                file: launch.file.clone(),
                deleting: false,
            });
        record.generation = record.generation.max(launch.generation);
        Arc::make_mut(&mut record.spec)
            .components
            .entry(launch.spec.id.clone())
            .or_insert_with(|| launch.spec.as_ref().clone());
    }
    (kept, silent)
}

/// Has the next daemon ask those who could not say what they run, until they could.
pub(super) fn note_silence(
    store: &Store,
    silent: &BTreeSet<DriverKind>,
    settings: &BTreeMap<String, String>,
) {
    let mut batch = Batch::new();
    if !silent.is_empty() {
        let names: Vec<String> = silent.iter().map(ToString::to_string).collect();
        batch.put_setting(UNDESCRIBED, names.join(" "));
    } else if settings.contains_key(UNDESCRIBED) {
        batch.forget_setting(UNDESCRIBED);
    } else {
        return;
    }
    store.commit(batch, store::Durability::PowerSafe, |result| {
        if let Err(error) = result {
            let error = in_full(error);
            tracing::warn!(error, "who has to be asked again is not recorded yet");
        }
    });
}
