//! Why something does not get on, in the cluster's own words.

use super::cache::{Main, PodSeen};
use super::wire::Event;
use crate::model::Timestamp;

/// Events that say why a Job has no pod, or why a pod does not run.
const TELLING: [&str; 9] = [
    "FailedCreate",
    "FailedScheduling",
    "FailedMount",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "NetworkNotReady",
    "FailedBinding",
    "ProvisioningFailed",
    "Failed",
];

/// Why a pod does not run, as far as the pod itself says so.
pub(super) fn of_pod(pod: &PodSeen) -> Option<String> {
    if let Some((reason, message)) = &pod.unscheduled {
        return Some(match reason.as_str() {
            "SchedulingGated" => format!("its scheduling is gated: {message}"),
            _ => format!("no node takes it: {message}"),
        });
    }
    let main = match &pod.main {
        Main::Waiting { reason, message } => of_waiting(reason, message),
        Main::Unknown | Main::Running { .. } | Main::Terminated(_) => None,
    };
    main.or_else(|| {
        let (reason, message) = pod.init.as_ref()?;
        of_waiting(reason, message)
    })
}

fn of_waiting(reason: &str, message: &str) -> Option<String> {
    let what = match reason {
        // These say nothing yet.
        "" | "ContainerCreating" | "PodInitializing" => return None,
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => "its image cannot be pulled",
        "ErrImageNeverPull" => "its image is not on the node, and `pull` is `never`",
        "InvalidImageName" => "its image has no valid name",
        "ImageInspectError" => "its image cannot be read on the node",
        "CreateContainerConfigError" => "its container lacks something",
        _ => "its container cannot be made",
    };
    Some(match message.is_empty() {
        true => format!("{what} ({reason})"),
        false => format!("{what}: {message}"),
    })
}

/// The latest of `events` that tells why.
pub(super) fn of_events(events: &[Event]) -> Option<String> {
    let telling = events
        .iter()
        .filter(|event| TELLING.contains(&event.reason.as_str()) && !event.message.is_empty());
    let latest = telling.max_by_key(|event| event.at())?;
    Some(match latest.reason.as_str() {
        "FailedCreate" => {
            let message = of_refused_pod(&latest.message);
            format!("the cluster refuses its pod: {message}")
        }
        "FailedScheduling" => format!("no node takes it: {}", latest.message),
        "FailedMount" | "FailedAttachVolume" | "FailedBinding" | "ProvisioningFailed" => {
            format!("its volume is not ready: {}", latest.message)
        }
        _ => latest.message.clone(),
    })
}

fn of_refused_pod(message: &str) -> String {
    // `Error creating: pods "name-" is forbidden: why`.
    let message = message.strip_prefix("Error creating: ").unwrap_or(message);
    let text = match message.split_once(" is forbidden: ") {
        Some((pods, why)) if pods.starts_with("pods ") => why,
        Some(_) | None => message,
    };
    match text.contains("violates PodSecurity") {
        true => format!("{text}; `security: restricted` in spec.kubernetes makes it fit"),
        false => text.to_owned(),
    }
}

/// The words of the latest probe that failed.
pub(super) fn of_probe(events: &[Event]) -> Option<String> {
    let failed = events.iter().filter(|event| event.reason == "Unhealthy");
    let latest = failed.max_by_key(|event| event.at())?;
    // `Readiness probe failed: why`.
    let text = latest.message.split_once("probe failed: ");
    let text = text.map_or(latest.message.as_str(), |(_, why)| why);
    Some(text.trim().chars().take(300).collect())
}

/// What to say while nobody says why a Job has no pod.
pub(super) fn of_silence() -> String {
    "the cluster has accepted its Job, and the controller of Jobs has made no pod yet".to_owned()
}

/// What to say of a node that does not report.
pub(super) fn of_node(node: &str, last: Option<Timestamp>) -> String {
    match last {
        Some(last) => format!("node {node} has not reported since {last}"),
        None => format!("node {node} does not report"),
    }
}
