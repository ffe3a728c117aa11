//! The logs of what no pipeline defines any more: kept within limits as long as a daemon lives.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::driver::logs::kept::{self, Owner, Retention};
use crate::model::{ReplicaKey, Snapshot};
use crate::reconciler::ReconcilerHandle;

/// How soon after a change it is noted that something is not defined any more, at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// How often is looked where nothing has changed.
const REGULAR: Duration = Duration::from_secs(60 * 60);

/// Removes logs whose time is over, as long as the daemon lives.
pub(super) async fn follow(
    logs: PathBuf,
    owner: ReconcilerHandle,
    clock: Clock,
    retention: Retention,
) {
    let snapshots = owner.snapshots();
    let pause = (retention.age / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let regular = (retention.age / 4).clamp(SHORTEST_PAUSE, REGULAR);
    let mut last: Option<(BTreeSet<Owner>, Instant)> = None;
    loop {
        tokio::time::sleep(pause).await;
        let defined = defined(&snapshots.borrow());
        let is_due = last
            .as_ref()
            .is_none_or(|(before, at)| *before != defined || at.elapsed() >= regular);
        if !is_due {
            continue;
        }
        let (logs, now) = (logs.clone(), clock.now());
        let wanted = defined.clone();
        let swept =
            tokio::task::spawn_blocking(move || kept::sweep(&logs, &wanted, retention, now)).await;
        match swept {
            Ok(Ok(removed)) => {
                for log in removed {
                    let (pipeline, replica) = (log.pipeline, log.replica);
                    tracing::info!(%pipeline, %replica, bytes = log.bytes, "its kept log was removed");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "kept logs are looked after later"),
            Err(error) => tracing::error!(%error, "looking after kept logs broke"),
        }
        last = Some((defined, Instant::now()));
    }
}

/// All replicas that a pipeline defines, or that still run.
pub(super) fn defined(snapshot: &Snapshot) -> BTreeSet<Owner> {
    let mut defined = BTreeSet::new();
    for pipeline in &snapshot.pipelines {
        let key = pipeline.key();
        for component in &pipeline.components {
            defined.extend(component.replicas.iter().map(|replica| {
                let replica = ReplicaKey {
                    component: component.id.clone(),
                    replica: replica.replica,
                };
                (key.clone(), replica)
            }));
        }
    }
    defined
}
