//! What the cluster's objects mean for an instance. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use super::cache::{DEBOUNCE, Entry, JobSeen, Main, PodSeen};
use super::end::{self, Asked, Recorded};
use super::{objects, why};
use crate::model::{
    ComponentSpec, DriverKind, EngineHealth, Facts, Handle, InstanceId, Life, Partition, Pending,
    Prober, Sighting, Timestamp, Workload,
};

/// The moment of a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) instant: Instant,
}

/// What is to be said of an instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// There is nothing of it.
    Absent,
    /// Nobody knows, for this reason.
    Unknown(String),
    /// This.
    Is(Box<Sighting>),
}

/// How a Job is addressed, as it is kept.
#[derive(serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Kept<'a> {
    Kubernetes { namespace: &'a str, job: &'a str },
}

/// What is said of `instance`, of which `entry` is known. `silent` tells of the nodes that do not report
/// why; `home` is the namespace of those that name none.
pub(super) fn judge(
    (instance, entry): (&InstanceId, &Entry),
    silent: &BTreeMap<String, String>,
    home: &str,
    moment: Moment,
) -> Verdict {
    let live = entry.live();
    let on_silent = live
        .iter()
        .filter(|pod| !pod.ready)
        .find_map(|pod| silent.get(pod.node.as_deref()?));
    if let Some(why) = on_silent {
        return Verdict::Unknown(why.clone());
    }
    let Some(life) = life(entry, moment.now) else {
        return Verdict::Absent;
    };
    let job = entry.job.as_ref();
    let description = job.and_then(|job| job.description.as_deref());
    let spec = description.map(|it| &*it.spec);
    let image = spec.map_or("", image_of);
    let current = shown(entry).map(|pod| pod.uid.as_str());
    let ended = entry.ended().into_iter();
    let earlier = ended.filter(|pod| Some(pod.uid.as_str()) != current);
    let earlier = earlier.map(|pod| end::earlier(pod, image, moment.now));
    let prober = match spec.is_some_and(objects::asks) {
        true => Prober::Engine,
        false => Prober::Flowctl,
    };
    let is_running = matches!(life, Life::Running { .. });
    let asked = shown(entry).filter(|_| is_running && prober == Prober::Engine);
    let health = asked.map(|pod| health(pod, entry.why.as_deref(), moment.instant));
    Verdict::Is(Box::new(Sighting {
        handle: job.map(|job| handle(&entry.namespace, job)),
        facts: facts(instance, entry, spec),
        partition: (entry.namespace != home).then(|| Partition::new(entry.namespace.clone())),
        earlier: earlier.collect(),
        prober,
        health,
        ..Sighting::of(instance.clone(), DriverKind::Kubernetes, spec, life)
    }))
}

fn handle(namespace: &str, job: &JobSeen) -> Handle {
    Handle::new(&Kept::Kubernetes {
        namespace,
        job: &job.name,
    })
}

/// The pod that its state is that of: one that lives, else the newest.
fn shown(entry: &Entry) -> Option<&PodSeen> {
    let live = entry.live().into_iter().next_back();
    live.or_else(|| entry.ended().into_iter().next_back())
}

/// The image that a component names.
pub(super) fn image_of(spec: &ComponentSpec) -> &str {
    match &spec.workload {
        Workload::Kubernetes(pod) => &pod.container.image,
        Workload::Process(_) | Workload::Docker(_) | Workload::Nomad(_) => "",
    }
}

/// Whether it lives, and how it ended; `None` = there is nothing of it.
fn life(entry: &Entry, now: Timestamp) -> Option<Life> {
    if let Some(pod) = entry.live().into_iter().next_back() {
        return Some(match &pod.main {
            Main::Running { since } => Life::Running {
                since: since.or(pod.created).unwrap_or(now).min(now),
            },
            Main::Unknown | Main::Waiting { .. } | Main::Terminated(_) => Life::Pending(Pending {
                since: pod.created.unwrap_or(now).min(now),
                why: why::of_pod(pod).or_else(|| entry.why.clone()),
            }),
        });
    }
    if let Some(recorded) = entry.job.as_ref().and_then(|job| job.record.as_ref()) {
        return Some(recorded.life());
    }
    if let Some(recorded) = ended(entry, now) {
        return Some(recorded.life());
    }
    let job = entry.job.as_ref()?;
    if job.going {
        return None;
    }
    if job.held || job.is_over {
        // Its pods are gone, and nobody has seen how it ended.
        return Some(Life::Lost { at: now });
    }
    let why = match job.suspended {
        true => Some("somebody has suspended its Job, as a queue of the cluster does".to_owned()),
        false => entry.why.clone(),
    };
    Some(Life::Pending(Pending {
        since: job.created.unwrap_or(now).min(now),
        why,
    }))
}

/// How the last run ended, by what is left of its pod.
pub(super) fn ended(entry: &Entry, now: Timestamp) -> Option<Recorded> {
    if !entry.live().is_empty() {
        return None;
    }
    let pod = entry.ended().into_iter().next_back()?;
    let job = entry.job.as_ref();
    let asked = match job.is_some_and(|job| job.held && job.record.is_none()) {
        true => Asked::ByUs,
        false => Asked::Otherwise,
    };
    let description = job.and_then(|job| job.description.as_deref());
    let image = description.map_or("", |it| image_of(&it.spec));
    Some(end::of(pod, asked, image, now))
}

/// What its engine says of a pod that runs; `why` was found out about one that is not ready.
fn health(pod: &PodSeen, why: Option<&str>, now: Instant) -> EngineHealth {
    let doubted = pod
        .unready_since
        .is_some_and(|since| now.saturating_duration_since(since) < DEBOUNCE);
    if pod.ready || (pod.was_ready && doubted) {
        return EngineHealth::Healthy;
    }
    match pod.was_ready {
        true => EngineHealth::Unhealthy(why.unwrap_or_default().to_owned()),
        false => EngineHealth::Starting,
    }
}

fn facts(instance: &InstanceId, entry: &Entry, spec: Option<&ComponentSpec>) -> Facts {
    let pod = shown(entry);
    let job = entry.job.as_ref().map(|job| job.name.clone());
    let container = pod.map(|pod| pod.container.as_str()).unwrap_or_default();
    let container = container.rsplit("://").next().unwrap_or_default();
    let image = pod.map(|pod| pod.image.as_str()).unwrap_or_default();
    Facts {
        container: Some(container.to_owned()).filter(|id| !id.is_empty()),
        image: spec.and_then(|spec| pinned(image, image_of(spec))),
        name: pod.map(|pod| pod.name.clone()).or(job),
        addresses: spec.map_or_else(BTreeMap::new, |spec| {
            objects::addresses(&entry.namespace, &instance.pipeline, spec)
        }),
        node: pod.and_then(|pod| pod.node.clone()),
        ..Facts::default()
    }
}

/// The image by its digest, where a registry has given it one; one that was only ever loaded on a node
/// has a name alone.
pub(super) fn pinned(image_id: &str, named: &str) -> Option<String> {
    let image = image_id.rsplit("://").next().unwrap_or_default();
    let (repository, _) = image.split_once("@sha256:")?;
    let named = named.split('@').next().unwrap_or_default();
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let tag = named[last..].find(':').map_or(named.len(), |at| last + at);
    let is_same =
        repository == &named[..tag] || repository.ends_with(&format!("/{}", &named[..tag]));
    is_same.then(|| image.to_owned())
}

/// Whether no program of it has ever begun.
pub(super) fn never_ran(entry: &Entry) -> bool {
    let began = |pod: &PodSeen| match &pod.main {
        Main::Unknown | Main::Waiting { .. } => false,
        Main::Running { .. } | Main::Terminated(_) => true,
    };
    !entry.pods.values().any(began)
}
