//! The owner's state in the form that readers see. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::driver::readers;
use crate::model::{
    ComponentId, ComponentSpec, ComponentStatus, DriverKind, EndCause, Ended, ExitStatus,
    ExitSummary, Facts, Hold, ImageStatus, InFlight, Instance, Limit, Next, Phase, PhaseName,
    PipelineStatus, Record, RegistrationRecord, RegistrationStatus, ReplicaKey, ReplicaStatus,
    Role, RunIntent, Signal, Timestamp,
};
use crate::planner::restart;

use super::pipeline::Pipeline;
use super::registry::silence;

/// The limits that each driver cannot enforce.
pub(super) type Unenforced = BTreeMap<DriverKind, BTreeSet<Limit>>;

/// What readers see of `pipeline`.
pub(super) fn status(
    pipeline: &Pipeline,
    now: Timestamp,
    unenforced: &Unenforced,
) -> PipelineStatus {
    let key = pipeline.key();
    PipelineStatus {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        file: pipeline.kept.file.clone(),
        watched: pipeline.kept.watched,
        generation: pipeline.kept.generation,
        observed_generation: pipeline.kept.generation,
        settled: pipeline.plan.is_settled()
            && pipeline.busy.is_empty()
            && pipeline.strays.is_empty(),
        deleting: pipeline.kept.deleting,
        problem: pipeline.problem.clone(),
        labels: pipeline.kept.spec.labels.clone(),
        conditions: Vec::new(),
        components: components(pipeline, now, unenforced),
    }
}

fn components(
    pipeline: &Pipeline,
    now: Timestamp,
    unenforced: &Unenforced,
) -> Vec<ComponentStatus> {
    // What the file says, in the order of the data, then what is left of what it said.
    let wanted = pipeline.desired.in_order().map(|spec| spec.id.clone());
    let mut ids: Vec<ComponentId> = wanted.collect();
    let left: BTreeSet<&ComponentId> = pipeline.records.keys().map(|key| &key.component).collect();
    let is_left = |id: &&ComponentId| !pipeline.desired.spec.components.contains_key(*id);
    ids.extend(left.into_iter().filter(is_left).cloned());
    ids.into_iter()
        .map(|id| {
            let kept = pipeline.kept.spec.components.get(&id);
            let live = pipeline.desired.spec.components.get(&id);
            let desired = live.map_or(0, |spec| spec.replicas);
            ComponentStatus {
                role: kept.map_or(Role::Processor, |spec| spec.role),
                driver: driver(kept, pipeline, &id),
                desired,
                unenforced: live.map_or_else(Vec::new, |spec| in_vain(spec, unenforced)),
                notes: pipeline.notes.get(&id).cloned().unwrap_or_default(),
                replicas: replicas(pipeline, &id, desired)
                    .iter()
                    .map(|key| replica(pipeline, key, now))
                    .collect(),
                id,
            }
        })
        .collect()
}

/// The replicas of a component that are wanted, and those that are there.
fn replicas(pipeline: &Pipeline, id: &ComponentId, desired: u32) -> BTreeSet<ReplicaKey> {
    let key = |replica| ReplicaKey {
        component: id.clone(),
        replica,
    };
    let there = pipeline.records.range(key(0)..=key(u32::MAX));
    let there = there.map(|(key, _)| key.clone());
    (0..desired).map(key).chain(there).collect()
}

/// The limits that `spec` sets and its driver cannot enforce.
fn in_vain(spec: &ComponentSpec, unenforced: &Unenforced) -> Vec<Limit> {
    let Some(missing) = unenforced.get(&spec.driver()) else {
        return Vec::new();
    };
    Limit::of(&spec.resources)
        .filter(|limit| missing.contains(limit))
        .collect()
}

fn driver(spec: Option<&ComponentSpec>, pipeline: &Pipeline, id: &ComponentId) -> DriverKind {
    let of_record = || {
        pipeline
            .records
            .iter()
            .filter(|(key, _)| key.component == *id)
            .find_map(|(_, record)| record.instance.as_ref().map(|instance| instance.driver))
    };
    spec.map(ComponentSpec::driver)
        .or_else(of_record)
        .unwrap_or_default()
}

/// State, moment and words of one replica.
struct Told {
    phase: PhaseName,
    since: Timestamp,
    why: String,
    next: Option<Next>,
}

fn replica(pipeline: &Pipeline, key: &ReplicaKey, now: Timestamp) -> ReplicaStatus {
    let fresh = Record::default();
    let record = pipeline.records.get(key).unwrap_or(&fresh);
    let hold = pipeline.plan.holds.get(key);
    let spec = pipeline.desired.wants(key);
    let told = match &record.instance {
        Some(instance) => alive(instance, hold, pipeline.preparing.get(key)),
        None => idle(pipeline, key, record, hold, now),
    };
    let instance = record.instance.as_ref();
    let ready = told.phase != PhaseName::Unknown
        && matches!(instance.map(|i| &i.phase), Some(Phase::Running { health, .. }) if health.ready);
    let facts = instance.map(|instance| &instance.facts);
    let image = instance.and_then(|instance| image(pipeline, instance, spec));
    let newer = image.as_ref().filter(|image| image.outdated);
    let newer = newer.map(|image| newer_image(&image.name, key));
    let last = record.history.last.as_ref();
    let quiet = instance
        .and_then(|instance| pipeline.registrations.get(&instance.id))
        .filter(|record| record.silent_since.is_some())
        .map(|record| silence(record))
        .unwrap_or_default();
    let started = instance.and_then(started_at);
    let progress = started.and_then(|started| pipeline.working.status(key, started));
    let stalled = progress.as_ref().filter(|it| it.stalled_since.is_some());
    let still = stalled.map(|it| it.why.clone()).unwrap_or_default();
    ReplicaStatus {
        replica: key.replica,
        instance: instance
            .map(|i| i.id.clone())
            .or_else(|| last.map(|last| last.instance.clone())),
        phase: told.phase,
        ready,
        since: told.since,
        why: [told.why, still, quiet, newer.unwrap_or_default()]
            .into_iter()
            .find(|why| !why.is_empty())
            .unwrap_or_default(),
        next: told.next,
        restarts: record.history.restarts,
        pid: facts.and_then(Facts::pid),
        container: facts.and_then(|facts| facts.container.clone()),
        name: facts.and_then(|facts| facts.name.clone()),
        node: facts.and_then(|facts| facts.node.clone()),
        image,
        exit: last.and_then(|last| exit(last, driver(spec, pipeline, &key.component))),
        spec: instance
            .map(|i| i.spec.clone())
            .or_else(|| spec.map(|spec| spec.hash.clone())),
        addresses: facts
            .map(|facts| facts.addresses.clone())
            .filter(|addresses| !addresses.is_empty())
            .or_else(|| spec.map(addresses))
            .unwrap_or_default(),
        registration: instance
            .and_then(|instance| pipeline.registrations.get(&instance.id))
            .map(|record| registration(record)),
        hold: hold.cloned(),
        started_at: started,
        progress,
        usage: None,
    }
}

/// When the program of `instance` started.
fn started_at(instance: &Instance) -> Option<Timestamp> {
    match &instance.phase {
        Phase::Starting { .. } => None,
        Phase::Running { since, .. } => Some(*since),
        Phase::Stopping { started_at, .. } => Some(*started_at),
    }
}

/// What the container of `instance` runs. Its name is the file's, where the file still means this
/// revision.
fn image(
    pipeline: &Pipeline,
    instance: &Instance,
    wanted: Option<&ComponentSpec>,
) -> Option<ImageStatus> {
    let reference = instance.facts.image.as_ref()?;
    let (repository, digest) = reference.rsplit_once('@').unwrap_or((reference, reference));
    let named = wanted
        .filter(|spec| spec.hash == instance.spec)
        .and_then(|spec| spec.workload.image());
    Some(ImageStatus {
        name: named.unwrap_or(repository).to_owned(),
        digest: digest.to_owned(),
        outdated: pipeline.outdated.contains(&instance.id),
        local: !reference.contains('@'),
    })
}

fn newer_image(name: &str, key: &ReplicaKey) -> String {
    let component = &key.component;
    format!("another {name} is here by now; `flowctl restart --pull {component}` runs it")
}

fn registration(record: &RegistrationRecord) -> RegistrationStatus {
    RegistrationStatus {
        service_id: record.service_id.to_string(),
        last_heartbeat: record.last_heartbeat,
        metrics: record
            .metrics
            .iter()
            .map(|(name, value)| (name.clone(), value.to_json()))
            .collect(),
    }
}

fn alive(instance: &Instance, hold: Option<&Hold>, preparing: Option<&String>) -> Told {
    let next = |what: &str, at| {
        Some(Next {
            what: what.to_owned(),
            at,
        })
    };
    if let Some(hold @ Hold::Blind { .. }) = hold {
        let (Phase::Starting { since, .. }
        | Phase::Running { since, .. }
        | Phase::Stopping { since, .. }) = &instance.phase;
        return Told {
            phase: PhaseName::Unknown,
            since: *since,
            why: hold.to_string(),
            next: next("look again", None),
        };
    }
    match &instance.phase {
        Phase::Starting {
            pending: Some(pending),
            ..
        } => Told {
            phase: PhaseName::Pending,
            since: pending.since,
            why: pending.to_string(),
            next: next("start", None),
        },
        Phase::Starting {
            since,
            pending: None,
        } => Told {
            phase: PhaseName::Starting,
            since: *since,
            why: preparing.map_or_else(|| "being started".to_owned(), String::clone),
            next: None,
        },
        Phase::Stopping {
            since,
            cause,
            failed,
            ..
        } => Told {
            phase: PhaseName::Stopping,
            since: *since,
            why: match failed {
                Some(failed) => format!("{cause}; the stop failed: {}", failed.why),
                None => cause.to_string(),
            },
            next: failed
                .as_ref()
                .and_then(|failed| next("stop again", Some(failed.retry_at))),
        },
        Phase::Running { since, health } => {
            let phase = match (health.ready, health.ready_changed) {
                (true, _) => PhaseName::Running,
                (false, Some(_)) => PhaseName::Unhealthy,
                (false, None) => PhaseName::Starting,
            };
            let waiting = hold.filter(|hold| !matches!(hold, Hold::InFlight { .. }));
            Told {
                phase,
                since: health.ready_changed.unwrap_or(*since),
                why: waiting.map(Hold::to_string).unwrap_or_default(),
                next: waiting
                    .and_then(|hold| hold.until())
                    .and_then(|at| next("ready", Some(at))),
            }
        }
    }
}

fn idle(
    pipeline: &Pipeline,
    key: &ReplicaKey,
    record: &Record,
    hold: Option<&Hold>,
    now: Timestamp,
) -> Told {
    let ended_at = record.history.last.as_ref().map(|last| last.exit.at);
    let since = ended_at.unwrap_or(now);
    let told = |phase, why: String| Told {
        phase,
        since,
        why,
        next: None,
    };
    let put_off = |phase, why, until| Told {
        next: Some(Next {
            what: "start".to_owned(),
            at: Some(until),
        }),
        ..told(phase, why)
    };
    let last = || {
        record
            .history
            .last
            .as_ref()
            .map(restart::in_words)
            .unwrap_or_default()
    };
    match hold {
        Some(Hold::Backoff {
            until,
            failures,
            last,
            crashloop,
            ending,
        }) => {
            let phase = if *crashloop {
                PhaseName::Crashloop
            } else {
                PhaseName::Backoff
            };
            put_off(
                phase,
                format!("{last} ({})", ending.counted(*failures)),
                *until,
            )
        }
        Some(hold @ Hold::StartFailed { until, .. }) => {
            put_off(PhaseName::Backoff, hold.to_string(), *until)
        }
        Some(hold @ Hold::Leftover { until, .. }) => {
            put_off(PhaseName::Pending, hold.to_string(), *until)
        }
        Some(Hold::StoppedByRequest) => Told {
            phase: PhaseName::Stopped,
            since: match record.intent {
                RunIntent::Stop { at } => at,
                RunIntent::Run | RunIntent::Start { .. } | RunIntent::Restart { .. } => since,
            },
            why: "stopped by request".to_owned(),
            next: None,
        },
        Some(Hold::Completed) => told(PhaseName::Completed, last()),
        Some(hold @ (Hold::Failed { .. } | Hold::GaveUp { .. })) => {
            told(PhaseName::Failed, hold.to_string())
        }
        Some(hold @ Hold::Blind { .. }) => told(PhaseName::Unknown, hold.to_string()),
        Some(Hold::InFlight {
            call: InFlight::Stop,
        }) => told(PhaseName::Stopping, last()),
        Some(
            hold @ (Hold::WaitingFor { .. }
            | Hold::Handover { .. }
            | Hold::NoDriver { .. }
            | Hold::Frozen { .. }
            | Hold::InFlight {
                call: InFlight::Start,
            }
            | Hold::StopsAfter { .. }
            | Hold::Pending(_)
            | Hold::BecomingReady { .. }
            | Hold::Unhealthy { .. }
            | Hold::StopFailed { .. }),
        ) => told(PhaseName::Pending, hold.to_string()),
        None if pipeline.busy.contains_key(key) => told(PhaseName::Starting, String::new()),
        None => told(PhaseName::Pending, "to be started".to_owned()),
    }
}

/// How the latest ended instance ended; one that never started has no exit.
fn exit(last: &Ended, driver: DriverKind) -> Option<ExitSummary> {
    if let EndCause::NotStarted(_) = last.cause {
        return None;
    }
    let (code, signal) = match last.exit.status {
        ExitStatus::Code(code) => {
            let signal = readers::signal_of(driver, code);
            (Some(code), signal.map(Signal::number))
        }
        ExitStatus::Signal(signal) => (None, Some(Signal::number(signal))),
        ExitStatus::Unknown => (None, None),
    };
    Some(ExitSummary {
        code,
        signal,
        oom: last.exit.oom,
        at: last.exit.at,
    })
}

/// Where the component's ports are reached from the host.
fn addresses(spec: &ComponentSpec) -> BTreeMap<String, String> {
    spec.ports
        .iter()
        .filter_map(|port| {
            let number = readers::port_on_host(spec.driver(), port)?;
            let name = port.name.clone().unwrap_or_else(|| number.to_string());
            Some((name, format!("localhost:{number}")))
        })
        .collect()
}
