//! From the reconciler's changes to the store's batches, and the end of a rebuilding.

use std::sync::Arc;

use tokio::sync::watch;

use super::{in_full, registrations};
use crate::model::{Hold, Snapshot};
use crate::reconciler::{Changes, Durability, Recorder};
use crate::store::{self, Batch, Store};

/// Hands what the reconciler changed to `store`, with the durability that it asks for.
pub(super) fn recorder(store: &Store) -> Recorder {
    let store = store.clone();
    Box::new(move |changes, durability, done| {
        let durability = match durability {
            Durability::CrashSafe => store::Durability::CrashSafe,
            Durability::PowerSafe => store::Durability::PowerSafe,
        };
        store.commit(batch(changes), durability, |result| {
            done(result.map_err(in_full))
        });
    })
}

fn batch(changes: Changes) -> Batch {
    let mut batch = Batch::new();
    for (key, record) in changes.pipelines {
        match record {
            Some(record) => batch.put_pipeline(key, record),
            None => batch.forget_pipeline(key),
        }
    }
    for ((key, replica), record) in changes.records {
        match record {
            Some(record) => batch.put_record(key, replica, record),
            None => batch.forget_record(key, replica),
        }
    }
    registrations::put(&mut batch, changes.registrations);
    registrations::put_notes(&mut batch, changes.notes);
    for event in changes.events {
        batch.push_event(event);
    }
    batch
}

/// Tells the store that everything is recorded again, once every driver has been looked at.
pub(super) async fn end_rebuilding(store: Store, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let sighted = |snapshot: &Arc<Snapshot>| {
        let mut replicas = snapshot
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.components)
            .flat_map(|component| &component.replicas);
        !replicas.any(|replica| matches!(replica.hold, Some(Hold::Blind { .. })))
    };
    if snapshots.wait_for(sighted).await.is_ok() {
        let mut batch = Batch::new();
        batch.end_rebuilding();
        store.commit(batch, store::Durability::PowerSafe, |result| {
            if let Err(error) = result {
                tracing::warn!(
                    error = in_full(error),
                    "the rebuilt state is not recorded yet"
                );
            }
        });
    }
}
