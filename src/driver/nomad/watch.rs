//! Listening to the events of a place: each is a reason to look at one instance, and no more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::client::Ask;
use super::wire::Batch;
use super::{Inner, Place, lock};
use crate::model::InstanceId;

/// Between two connections, and the longest pause after some that failed.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How soon it is looked whether there is anything to listen for.
const IDLE: Duration = Duration::from_secs(1);

/// Listens as long as the driver lives. The stream repeats and loses events, so that after each
/// reconnect all instances of the place are worth a look.
pub(super) async fn keep_listening(of: Weak<Inner>, place: Arc<Place>) {
    let mut pause = PAUSE;
    loop {
        let Some(inner) = of.upgrade() else {
            return;
        };
        let mine = inner.instances_of(&place);
        if mine.is_empty() {
            drop(inner);
            tokio::time::sleep(IDLE).await;
            continue;
        }
        for instance in mine {
            inner.hints.raise(instance);
        }
        drop(inner);
        let ask = Ask::read(&["event", "stream"])
            .with("namespace", place.namespace.as_str())
            .with("topic", "Job")
            .with("topic", "Allocation")
            .with("topic", "Evaluation");
        let listened = place.client.listen(ask, |line| {
            if let Some(inner) = of.upgrade() {
                inner.heard(line);
            }
        });
        let begun = tokio::time::Instant::now();
        if let Err(failure) = listened.await {
            tracing::debug!(%failure, "events of Nomad are listened to later");
        }
        pause = match begun.elapsed() > LONGEST_PAUSE {
            true => PAUSE,
            false => (pause * 2).min(LONGEST_PAUSE),
        };
        tokio::time::sleep(pause).await;
    }
}

impl Inner {
    /// The instances that are in `place`.
    fn instances_of(&self, place: &Place) -> Vec<InstanceId> {
        let all = self.ledger.all().into_iter();
        let mut mine: Vec<InstanceId> = all
            .filter(|(_, entry)| {
                entry.address == place.named.address && entry.namespace == place.named.namespace
            })
            .map(|(instance, _)| instance)
            .collect();
        let album = lock(&self.album);
        let seen = album.iter().filter(|(_, (of, _))| of.named == place.named);
        mine.extend(seen.map(|(instance, _)| instance.clone()));
        mine.sort();
        mine.dedup();
        mine
    }

    fn heard(&self, line: &[u8]) {
        // A sign of life, or what a later Nomad says.
        let Ok(batch) = serde_json::from_slice::<Batch>(line) else {
            return;
        };
        for event in &batch.events {
            for key in event.filter_keys.iter().chain([&event.key]) {
                if let Some(instance) = self.ledger.of_job(key) {
                    self.hints.raise(instance);
                }
            }
        }
    }
}
