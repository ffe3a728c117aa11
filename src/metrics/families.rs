//! What a snapshot says of pipelines, components and replicas, family by family.
//!
//! The names and labels are an interface: boards and alert rules select them. They only grow. No
//! label holds what grows without end: no instance, no path, no message. `instance` and `job` are
//! left to Prometheus, which would rename ours.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::driver::logs::Outputs;
use crate::model::{
    ComponentStatus, DriverKind, EventKind, ExitReason, Hold, Metric, PhaseName, PipelineKey,
    PipelineStatus, ProbeKind, ReplicaKey, ReplicaStatus, Snapshot, Usage,
};
use crate::reconciler::VitalFigures;
use crate::usage::Usages;

use super::tally::{Tally, Whose};
use super::text::{Kind, Labels, Text, Value};

/// So many figures of one component's heartbeats become series; the rest is left out, in order of
/// their names.
const MOST_FIGURES: usize = 64;
/// A figure's name is cut to so many characters.
const LONGEST_NAME: usize = 100;

/// A pipeline and its labels.
struct PipelineRow<'a> {
    status: &'a PipelineStatus,
    labels: Labels,
}

/// A component and its labels.
struct ComponentRow<'a> {
    status: &'a ComponentStatus,
    labels: Labels,
}

/// A replica and its labels.
struct ReplicaRow<'a> {
    status: &'a ReplicaStatus,
    /// What it uses, where that is known.
    usage: Option<Usage>,
    whose: (PipelineKey, ReplicaKey),
    labels: Labels,
}

/// Everything that there is to tell of, with labels made once for all families.
pub(super) struct Rows<'a> {
    pipelines: Vec<PipelineRow<'a>>,
    components: Vec<ComponentRow<'a>>,
    replicas: Vec<ReplicaRow<'a>>,
}

impl<'a> Rows<'a> {
    /// What instances use is what `sampled` says, or else what the snapshot itself holds.
    pub(super) fn of(snapshot: &'a Snapshot, sampled: Option<&Usages>) -> Self {
        let mut rows = Self {
            pipelines: Vec::new(),
            components: Vec::new(),
            replicas: Vec::new(),
        };
        for status in &snapshot.pipelines {
            let labels = Labels::new(&[
                ("namespace", status.namespace.as_str()),
                ("pipeline", status.name.as_str()),
            ]);
            let key = status.key();
            for component in &status.components {
                let labels = labels.with("component", component.id.as_str());
                for replica in &component.replicas {
                    rows.replicas.push(ReplicaRow {
                        status: replica,
                        usage: usage(replica, sampled),
                        whose: (
                            key.clone(),
                            ReplicaKey {
                                component: component.id.clone(),
                                replica: replica.replica,
                            },
                        ),
                        labels: labels.with("replica", &replica.replica.to_string()),
                    });
                }
                rows.components.push(ComponentRow {
                    status: component,
                    labels,
                });
            }
            rows.pipelines.push(PipelineRow { status, labels });
        }
        rows
    }

    /// How much text they are likely to become.
    pub(super) fn expected(&self) -> usize {
        16_384 + 256 * self.pipelines.len() + 4_096 * self.replicas.len()
    }

    /// All families of what the snapshot says.
    pub(super) fn write(&self, tally: Option<&Tally>, text: &mut Text) {
        self.write_drivers(text);
        self.write_pipelines(text);
        self.write_components(text);
        self.write_states(text);
        self.write_times(text);
        self.write_ends(tally, text);
        self.write_usage(text);
        self.write_registrations(text);
    }

    /// A driver is up unless it keeps something of a component from being known.
    fn write_drivers(&self, text: &mut Text) {
        let mut up: BTreeMap<DriverKind, bool> = BTreeMap::new();
        for component in &self.components {
            let blind = component.status.replicas.iter().any(is_blind);
            *up.entry(component.status.driver).or_insert(true) &= !blind;
        }
        text.family(
            "flowctl_driver_up",
            Kind::Gauge,
            "Whether the driver of components answers; 0 means that nothing is known of them.",
        );
        for (driver, up) in up {
            let labels = Labels::new(&[("driver", &driver.to_string())]);
            text.sample(&labels, up);
        }
    }

    fn pipelines(
        &self,
        text: &mut Text,
        (name, help): (&'static str, &str),
        value: impl Fn(&PipelineStatus) -> u64,
    ) {
        text.family(name, Kind::Gauge, help);
        for row in &self.pipelines {
            text.sample(&row.labels, value(row.status));
        }
    }

    /// A family with one sample of each replica that has a value.
    fn replicas<T: Into<Value>>(
        &self,
        text: &mut Text,
        (name, kind, help): (&'static str, Kind, &str),
        value: impl Fn(&ReplicaStatus) -> Option<T>,
    ) {
        text.family(name, kind, help);
        for row in &self.replicas {
            if let Some(value) = value(row.status) {
                text.sample(&row.labels, value);
            }
        }
    }

    fn write_pipelines(&self, text: &mut Text) {
        self.pipelines(
            text,
            (
                "flowctl_pipeline_generation",
                "Version of the pipeline that is wanted.",
            ),
            |one| one.generation.0,
        );
        self.pipelines(
            text,
            (
                "flowctl_pipeline_observed_generation",
                "Version that the state of its components is judged by.",
            ),
            |one| one.observed_generation.0,
        );
        self.pipelines(
            text,
            (
                "flowctl_pipeline_settled",
                "Whether nothing is being done to it and nothing is waited for.",
            ),
            |one| one.settled.into(),
        );
        self.pipelines(
            text,
            (
                "flowctl_pipeline_file_valid",
                "Whether its file could be taken over; 0 means that the last good version runs on.",
            ),
            |one| one.problem.is_none().into(),
        );
        self.pipelines(
            text,
            (
                "flowctl_pipeline_watched",
                "Whether saving its file applies it.",
            ),
            |one| one.watched.into(),
        );
    }

    fn write_components(&self, text: &mut Text) {
        text.family(
            "flowctl_component_info",
            Kind::Gauge,
            "What a component is; always 1.",
        );
        for row in &self.components {
            let outdated = row.status.replicas.iter().any(|replica| {
                let image = replica.image.as_ref();
                image.is_some_and(|image| image.outdated)
            });
            let labels = row
                .labels
                .with("role", &row.status.role.to_string())
                .with("driver", &row.status.driver.to_string())
                .with("image_outdated", if outdated { "true" } else { "false" });
            text.sample(&labels, true);
        }
        text.family(
            "flowctl_component_replicas_desired",
            Kind::Gauge,
            "Replicas that are wanted.",
        );
        for row in &self.components {
            text.sample(&row.labels, row.status.desired);
        }
        text.family(
            "flowctl_component_replicas_ready",
            Kind::Gauge,
            "Replicas that dependents may count on.",
        );
        for row in &self.components {
            let ready = row.status.replicas.iter().filter(|one| one.ready).count();
            text.sample(&row.labels, ready as u64);
        }
    }

    fn write_states(&self, text: &mut Text) {
        text.family(
            "flowctl_replica_phase",
            Kind::Gauge,
            "1 for the state that a replica is in, 0 for each other one.",
        );
        for row in &self.replicas {
            for phase in PhaseName::ALL {
                let is_it = row.status.phase == phase;
                text.sample_with(&row.labels, ("phase", phase.as_str()), is_it);
            }
        }
        text.family(
            "flowctl_replica_hold",
            Kind::Gauge,
            "1 for the reason for what has not happened yet, while there is one.",
        );
        for row in &self.replicas {
            if let Some(hold) = &row.status.hold {
                text.sample_with(&row.labels, ("reason", reason(hold)), true);
            }
        }
        self.replicas(
            text,
            (
                "flowctl_replica_ready",
                Kind::Gauge,
                "Whether dependents may count on it.",
            ),
            |one| Some(one.ready),
        );
        self.replicas(
            text,
            (
                "flowctl_replica_stalled",
                Kind::Gauge,
                "Whether its work stands still, where its file says how that is seen.",
            ),
            |one| {
                let progress = one.progress.as_ref()?;
                Some(progress.stalled_since.is_some())
            },
        );
    }

    fn write_times(&self, text: &mut Text) {
        self.replicas(
            text,
            (
                "flowctl_replica_phase_since_timestamp_seconds",
                Kind::Gauge,
                "Since when its state holds.",
            ),
            |one| Some(one.since),
        );
        self.replicas(
            text,
            (
                "flowctl_replica_start_time_seconds",
                Kind::Gauge,
                "When its program started, while it runs.",
            ),
            |one| one.started_at,
        );
        self.replicas(
            text,
            (
                "flowctl_replica_next_try_timestamp_seconds",
                Kind::Gauge,
                "When the next thing happens to it, where that is known.",
            ),
            |one| one.next.as_ref()?.at,
        );
        self.replicas(
            text,
            (
                "flowctl_replica_progress_timestamp_seconds",
                Kind::Gauge,
                "When its work last got on, where its file says how that is seen.",
            ),
            |one| one.progress.as_ref()?.advanced_at,
        );
    }

    fn write_ends(&self, tally: Option<&Tally>, text: &mut Text) {
        self.replicas(
            text,
            (
                "flowctl_replica_restarts_total",
                Kind::Counter,
                "Restarts that were counted, over restarts of the daemon too.",
            ),
            |one| Some(one.restarts),
        );
        self.replicas(
            text,
            (
                "flowctl_replica_last_exit_code",
                Kind::Gauge,
                "Exit code of the run that ended last; one that a signal ended has none.",
            ),
            |one| one.exit.as_ref()?.code.map(f64::from),
        );
        let Some(tally) = tally else {
            return;
        };
        text.family(
            "flowctl_replica_exits_total",
            Kind::Counter,
            "Runs that ended since the daemon started, by what ended them.",
        );
        let none = BTreeMap::new();
        for row in &self.replicas {
            for (reason, count) in tally.exits.get(&row.whose).unwrap_or(&none) {
                text.sample_with(&row.labels, ("reason", reason.as_str()), *count);
            }
        }
        text.family(
            "flowctl_replica_oom_kills_total",
            Kind::Counter,
            "Runs that the kernel ended for want of memory since the daemon started.",
        );
        for row in &self.replicas {
            let exits = tally.exits.get(&row.whose).unwrap_or(&none);
            let count = exits.get(&ExitReason::Oom).copied().unwrap_or(0);
            text.sample(&row.labels, count);
        }
    }

    fn write_usage(&self, text: &mut Text) {
        self.usages(
            text,
            (
                "flowctl_replica_cpu_seconds_total",
                Kind::Counter,
                "Processor time of its process tree since it started.",
            ),
            |usage| usage.cpu_seconds,
        );
        self.usages(
            text,
            (
                "flowctl_replica_memory_bytes",
                Kind::Gauge,
                "Memory of its process tree that cannot be taken from it without swapping.",
            ),
            |usage| usage.memory_bytes,
        );
        self.usages(
            text,
            (
                "flowctl_replica_memory_limit_bytes",
                Kind::Gauge,
                "The most memory that it may have, where a limit is enforced.",
            ),
            |usage| usage.memory_limit_bytes,
        );
        self.usages(
            text,
            (
                "flowctl_replica_processes",
                Kind::Gauge,
                "Processes of its tree.",
            ),
            |usage| usage.processes,
        );
        self.usages(
            text,
            (
                "flowctl_replica_open_fds",
                Kind::Gauge,
                "Open files of its process tree.",
            ),
            |usage| usage.open_files,
        );
    }

    /// A family with one sample of each replica of which it is known what it uses.
    fn usages<T: Into<Value>>(
        &self,
        text: &mut Text,
        (name, kind, help): (&'static str, Kind, &str),
        value: impl Fn(&Usage) -> Option<T>,
    ) {
        text.family(name, kind, help);
        for row in &self.replicas {
            if let Some(value) = row.usage.as_ref().and_then(&value) {
                text.sample(&row.labels, value);
            }
        }
    }

    /// What replicas write.
    pub(super) fn write_output(&self, outputs: &Outputs, text: &mut Text) {
        text.family(
            "flowctl_replica_output_bytes_total",
            Kind::Counter,
            "Bytes of its log since somebody first scraped.",
        );
        for row in &self.replicas {
            if let Some(output) = outputs.of(&row.whose) {
                text.sample(&row.labels, output.bytes);
            }
        }
        text.family(
            "flowctl_replica_output_dropped_lines_total",
            Kind::Counter,
            "Lines that were lost since its log was begun, since the disk did not take them.",
        );
        for row in &self.replicas {
            if let Some(output) = outputs.of(&row.whose) {
                text.sample(&row.labels, output.lost);
            }
        }
        text.family(
            "flowctl_replica_last_output_timestamp_seconds",
            Kind::Gauge,
            "When it last wrote a line.",
        );
        for row in &self.replicas {
            if let Some(output) = outputs.of(&row.whose) {
                text.sample(&row.labels, output.last_at);
            }
        }
    }

    /// Health checks, as they were answered.
    pub(super) fn write_probes(&self, vitals: &VitalFigures, text: &mut Text) {
        text.family(
            "flowctl_probe_failures_total",
            Kind::Counter,
            "Health checks that failed since the daemon started.",
        );
        for row in &self.replicas {
            let failures = vitals.probe_failures.get(&row.whose);
            for (kind, count) in failures.into_iter().flatten() {
                text.sample_with(&row.labels, ("probe", word(*kind)), *count);
            }
        }
        text.family(
            "flowctl_probe_duration_seconds",
            Kind::Histogram,
            "How long health checks took, of all replicas.",
        );
        for (kind, durations) in &vitals.probes {
            text.durations(&Labels::new(&[("probe", word(*kind))]), durations);
        }
    }

    fn write_registrations(&self, text: &mut Text) {
        self.replicas(
            text,
            (
                "flowctl_registration_last_heartbeat_timestamp_seconds",
                Kind::Gauge,
                "When it last sent the control plane a heartbeat.",
            ),
            |one| one.registration.as_ref()?.last_heartbeat,
        );
        text.family(
            "flowctl_component_metric",
            Kind::Gauge,
            "A figure that the component itself sent with its heartbeats.",
        );
        for row in &self.replicas {
            let registration = row.status.registration.as_ref();
            let figures = registration.iter().flat_map(|one| &one.metrics);
            let numbers = figures.filter_map(|(name, value)| Some((name, number(value)?)));
            let mut written = std::collections::BTreeSet::new();
            for (name, value) in numbers.take(MOST_FIGURES) {
                let name = sanitised(name);
                // Two names may have become one, and a series may stand here only once.
                if written.insert(name.clone()) {
                    text.sample_with(&row.labels, ("name", &name), value);
                }
            }
        }
    }
}

fn usage(replica: &ReplicaStatus, sampled: Option<&Usages>) -> Option<Usage> {
    let Some(sampled) = sampled else {
        return replica.usage;
    };
    let living = replica.instance.as_ref().filter(|_| replica.phase.lives());
    living.and_then(|instance| sampled.get(instance)).copied()
}

/// Every replica that there is, as it is counted.
pub(super) fn whose(snapshot: &Snapshot) -> impl Iterator<Item = Whose> {
    snapshot.replicas().map(|(pipeline, component, one)| {
        let key = ReplicaKey {
            component: component.id.clone(),
            replica: one.replica,
        };
        (pipeline.key(), key)
    })
}

/// Kinds of events and how many there were.
pub(super) fn write_events(tally: &Tally, text: &mut Text) {
    text.family(
        "flowctl_events_total",
        Kind::Counter,
        "Events since the daemon started, by kind.",
    );
    for kind in EventKind::ALL {
        let count = tally.events.get(&kind).copied().unwrap_or(0);
        text.sample_with(&Labels::default(), ("kind", &kind.to_string()), count);
    }
    text.family(
        "flowctl_events_uncounted_total",
        Kind::Counter,
        "Events that came faster than they could be counted.",
    );
    text.sample(&Labels::default(), tally.missed);
}

fn is_blind(replica: &ReplicaStatus) -> bool {
    matches!(replica.hold, Some(Hold::Blind { .. })) || replica.phase == PhaseName::Unknown
}

/// A figure as a number; what is none is no series.
fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => Metric::text(text.clone()).as_number(),
        Json::Bool(yes) => Some(u8::from(*yes).into()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// A name that a component chose, as a label can hold it.
fn sanitised(name: &str) -> String {
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | ':' | '/' | '-' => c,
        _ => '_',
    };
    name.chars().take(LONGEST_NAME).map(plain).collect()
}

fn word(probe: ProbeKind) -> &'static str {
    match probe {
        ProbeKind::Startup => "startup",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Liveness => "liveness",
    }
}

/// The word for what holds a replica up.
fn reason(hold: &Hold) -> &'static str {
    match hold {
        Hold::Backoff {
            crashloop: false, ..
        } => "backoff",
        Hold::Backoff {
            crashloop: true, ..
        } => "crashloop",
        Hold::Handover { .. } => "handover",
        Hold::WaitingFor { .. } => "waiting-for",
        Hold::StopsAfter { .. } => "stops-after",
        Hold::InFlight { .. } => "in-flight",
        Hold::Pending(_) => "pending",
        Hold::BecomingReady { .. } => "becoming-ready",
        Hold::Unhealthy { .. } => "unhealthy",
        Hold::StartFailed { .. } => "start-failed",
        Hold::Leftover { .. } => "leftover",
        Hold::StopFailed { .. } => "stop-failed",
        Hold::Blind { .. } => "blind",
        Hold::NoDriver { .. } => "no-driver",
        Hold::Frozen { .. } => "frozen",
        Hold::StoppedByRequest => "stopped-by-request",
        Hold::Completed => "completed",
        Hold::Failed { .. } => "failed",
        Hold::GaveUp { .. } => "gave-up",
    }
}
