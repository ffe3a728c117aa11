//! An event in words. Pure.

use super::Tone;
use crate::model::{Event, EventKind, Namespace, ReplicaKey};

/// `pipeline/replica`, as far as it is known.
pub fn event_place(event: &Event) -> String {
    let mut words = Vec::new();
    if let Some(namespace) = &event.namespace
        && *namespace != Namespace::default()
    {
        words.push(namespace.to_string());
    }
    words.extend(event.pipeline.as_ref().map(ToString::to_string));
    words.extend(event.component.as_ref().map(|component| {
        let component = component.clone();
        let replica = event.replica.unwrap_or(0);
        ReplicaKey { component, replica }.to_string()
    }));
    if words.is_empty() {
        "daemon".to_owned()
    } else {
        words.join("/")
    }
}

/// The colour of what happened.
pub fn event_tone(kind: EventKind) -> Tone {
    match kind {
        EventKind::Started
        | EventKind::Ready
        | EventKind::Completed
        | EventKind::Adopted
        | EventKind::Recovered
        | EventKind::Sighted
        | EventKind::Registered
        | EventKind::Heard
        | EventKind::Advanced
        | EventKind::Durable => Tone::Good,
        EventKind::Applied
        | EventKind::Deleted
        | EventKind::Starting
        | EventKind::Preparing
        | EventKind::Stopping
        | EventKind::Stopped
        | EventKind::Waiting
        | EventKind::DaemonStarted
        | EventKind::DaemonStopping
        | EventKind::Requested => Tone::Moving,
        EventKind::Rejected
        | EventKind::StartFailed
        | EventKind::Unready
        | EventKind::StopFailed
        | EventKind::Exited
        | EventKind::Backoff
        | EventKind::Crashloop
        | EventKind::Failed
        | EventKind::NotDurable
        | EventKind::Rebuilt
        | EventKind::Silent
        | EventKind::Stalled => Tone::Bad,
        EventKind::Blind => Tone::Unknown,
    }
}
