//! What has happened, counted: the events of this daemon's life.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use crate::model::{Event, EventKind, ExitReason, PipelineKey, ReplicaKey, Snapshot};

/// A replica, as metrics name it.
pub(super) type Whose = (PipelineKey, ReplicaKey);

/// Events by kind, and ends by replica and reason. What it holds is bounded by the replicas that are
/// there, not by what happens to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// How many of each kind.
    pub(super) events: BTreeMap<EventKind, u64>,
    /// How many ended of each replica that is there, and what ended them.
    pub(super) exits: BTreeMap<Whose, BTreeMap<ExitReason, u64>>,
    /// Events that came faster than they could be counted.
    pub(super) missed: u64,
}

impl Tally {
    fn count(&mut self, event: &Event) {
        *self.events.entry(event.kind).or_default() += 1;
        if let (Some(instance), Some(reason)) = (&event.instance, event.ended_by) {
            let whose = (instance.pipeline.clone(), instance.replica.clone());
            *self
                .exits
                .entry(whose)
                .or_default()
                .entry(reason)
                .or_default() += 1;
        }
    }

    /// Forgets replicas that are not there any more.
    fn keep_those_of(&mut self, snapshot: &Snapshot) {
        let there: HashSet<_> = snapshot
            .replicas()
            .map(|(pipeline, component, one)| {
                (
                    &pipeline.namespace,
                    &pipeline.name,
                    &component.id,
                    one.replica,
                )
            })
            .collect();
        self.exits.retain(|(pipeline, key), _| {
            there.contains(&(
                &pipeline.namespace,
                &pipeline.name,
                &key.component,
                key.replica,
            ))
        });
    }
}

/// From so many replicas on that ended, those that are gone are looked for before anybody scrapes.
const MANY: usize = 4096;

/// A tally that is kept while the daemon runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallying(Arc<Mutex<Tally>>);

impl Tallying {
    /// Counts until the owner of the state is gone.
    pub(super) async fn follow(
        self,
        mut events: broadcast::Receiver<Arc<Event>>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) {
        let mut many = MANY;
        loop {
            match events.recv().await {
                Ok(event) => {
                    let mut tally = self.lock();
                    tally.count(&event);
                    if tally.exits.len() > many {
                        tally.keep_those_of(&snapshots.borrow().clone());
                        many = MANY.max(2 * tally.exits.len());
                    }
                }
                Err(RecvError::Lagged(missed)) => self.lock().missed += missed,
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// The tally as it is, of the replicas of `snapshot`.
    pub(super) fn seen(&self, snapshot: &Snapshot) -> Tally {
        let mut tally = self.lock();
        tally.keep_those_of(snapshot);
        tally.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PipelineStatus, STATUS_SCHEMA, Timestamp};

    fn ended(component: &str, reason: ExitReason) -> Event {
        let instance = format!("default.ttp.{component}.0.9").parse().ok();
        Event {
            seq: 1,
            at: Timestamp::default(),
            namespace: Some(Default::default()),
            pipeline: "ttp".parse().ok(),
            component: component.parse().ok(),
            replica: Some(0),
            instance,
            kind: EventKind::Exited,
            reason: String::new(),
            message: String::new(),
            ended_by: Some(reason),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_by_what_is_there() {
        let replica = serde_json::json!({
            "replica": 0, "instance": null, "phase": "running", "ready": true,
            "since": "2026-11-21T02:00:00Z", "why": "", "next": null, "restarts": 0, "pid": null,
            "container": null, "exit": null, "spec": null, "addresses": {}, "registration": null,
            "hold": null
        });
        let pipeline: PipelineStatus = serde_json::from_value(serde_json::json!({
            "namespace": "default", "name": "ttp", "watched": true, "generation": 1,
            "observed_generation": 1, "settled": true, "deleting": false, "problem": null,
            "components": [{ "id": "stays", "role": "sink", "driver": "process", "desired": 1,
                "replicas": [replica] }],
        }))
        .unwrap();
        let snapshot = Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: None,
            conditions: Vec::new(),
            pipelines: vec![Arc::new(pipeline)],
        };
        let (sender, events) = broadcast::channel(16_384);
        let (_keep, snapshots) = watch::channel(Arc::new(snapshot.clone()));
        for _ in 0..10_000 {
            sender
                .send(Arc::new(ended("stays", ExitReason::Oom)))
                .unwrap();
        }
        sender
            .send(Arc::new(ended("gone", ExitReason::Code)))
            .unwrap();
        drop(sender);
        let tallying = Tallying::default();
        tallying.clone().follow(events, snapshots).await;
        let seen = tallying.seen(&snapshot);
        assert_eq!(seen.events[&EventKind::Exited], 10_001);
        let exits: Vec<_> = seen.exits.values().collect();
        assert_eq!(exits, [&BTreeMap::from([(ExitReason::Oom, 10_000)])]);
    }
}
