//! Whether what a component depends on is there.

use std::collections::BTreeMap;

use crate::model::{
    ComponentSpec, Condition, Health, Phase, Record, ReplicaKey, RestartMode, RunIntent, Timestamp,
};

use super::restart::{self, Verdict};

/// Why `upstream` does not satisfy `condition`, in words; `None` when it does.
///
/// Only replicas of the wanted revision count, so dependents of an edited component follow it.
pub fn unmet(
    upstream: &ComponentSpec,
    records: &BTreeMap<ReplicaKey, Record>,
    condition: Condition,
) -> Option<String> {
    // All of none would be true.
    if upstream.replicas == 0 {
        return Some("no replica of it is wanted: `replicas: 0`".to_owned());
    }
    match (condition, upstream.restart.mode) {
        (Condition::Completed, RestartMode::Always) => {
            return Some(
                "it never completes: its restart policy is `always`; give it `on-failure`"
                    .to_owned(),
            );
        }
        (Condition::Completed, RestartMode::OnFailure | RestartMode::Never)
        | (Condition::Started | Condition::Ready, _) => {}
    }
    (0..upstream.replicas).find_map(|replica| {
        let key = ReplicaKey {
            component: upstream.id.clone(),
            replica,
        };
        match records.get(&key) {
            None => Some("not started yet".to_owned()),
            Some(record) => unmet_by(upstream, record, condition),
        }
    })
}

fn unmet_by(upstream: &ComponentSpec, record: &Record, condition: Condition) -> Option<String> {
    let Some(instance) = &record.instance else {
        return without_instance(upstream, record);
    };
    if instance.spec != upstream.hash {
        return Some("its new definition has not started yet".to_owned());
    }
    match (&instance.phase, condition) {
        (Phase::Starting { pending: None, .. }, _) => Some("starting".to_owned()),
        (
            Phase::Starting {
                pending: Some(pending),
                ..
            },
            _,
        ) => Some(pending.to_string()),
        (Phase::Stopping { .. }, _) => Some("stopping".to_owned()),
        (Phase::Running { .. }, Condition::Started) => None,
        (Phase::Running { .. }, Condition::Completed) => Some("still running".to_owned()),
        (Phase::Running { health, .. }, Condition::Ready) => unready(health),
    }
}

/// Why a running instance is not ready, in words; `None` when it is.
fn unready(health: &Health) -> Option<String> {
    if health.ready {
        return None;
    }
    let because = health.why.as_deref().unwrap_or("no probe has passed yet");
    Some(match health.ready_changed {
        Some(since) => format!("unready since {}: {because}", time_of_day(since)),
        None => format!("not ready yet: {because}"),
    })
}

/// Whether a person stopped it.
pub fn is_stopped(record: &Record) -> bool {
    match record.intent {
        RunIntent::Stop { .. } => true,
        RunIntent::Run | RunIntent::Start { .. } | RunIntent::Restart { .. } => false,
    }
}

/// Whether a replica without an instance has done its work.
pub fn is_completed(upstream: &ComponentSpec, record: &Record) -> bool {
    without_instance(upstream, record).is_none()
}

/// A replica without an instance satisfies every condition once it has completed.
fn without_instance(upstream: &ComponentSpec, record: &Record) -> Option<String> {
    if is_stopped(record) {
        return Some("stopped by request".to_owned());
    }
    let now = Timestamp::from_millis(0);
    match restart::verdict(&upstream.restart, record, &upstream.hash, now) {
        Verdict::Completed => None,
        Verdict::Start(_) => Some("not started yet".to_owned()),
        Verdict::Backoff { last, .. } => Some(last),
        Verdict::AwaitUpstream(other) => Some(format!("itself waiting for {other}")),
        Verdict::Failed { last } => Some(format!("failed: {last}")),
        Verdict::GaveUp { retries, last } => {
            Some(format!("failed: gave up after {retries} restarts ({last})"))
        }
    }
}

/// `HH:MM:SS` in UTC: enough to find it in the events.
fn time_of_day(at: Timestamp) -> String {
    at.to_string().get(11..19).unwrap_or_default().to_owned()
}
