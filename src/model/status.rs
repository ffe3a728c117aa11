//! What readers see: the one `Snapshot` that the table, JSON, API and pages are drawn from.
//!
//! The serialised form is the contract `flowctl.status/v1`: fields are only ever added. Times are
//! RFC 3339 UTC, lengths are milliseconds with the suffix `_ms`, absent is `null`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::condition::StatusCondition;
use super::figures::{ExitReason, ProgressStatus, Usage};
use super::ids::{
    ComponentId, Generation, InstanceId, Namespace, PipelineKey, PipelineName, SpecHash,
};
use super::plan::Hold;
use super::spec::{DriverKind, Resources, Role};
use super::time::Timestamp;

/// The name and version of the status format.
pub const STATUS_SCHEMA: &str = "flowctl.status/v1";

/// Everything that can be said at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`STATUS_SCHEMA`].
    pub schema: String,
    /// The daemon that says so; `None` when `status` looked for itself.
    pub daemon: Option<DaemonStatus>,
    /// What is wrong with the daemon as a whole, the gravest first.
    #[serde(default)]
    pub conditions: Vec<StatusCondition>,
    /// Every pipeline, by namespace and name.
    pub pipelines: Vec<std::sync::Arc<PipelineStatus>>,
}

impl Snapshot {
    /// All that is wrong, the gravest and oldest first.
    pub fn all_conditions(&self) -> Vec<&StatusCondition> {
        let of_pipelines = self.pipelines.iter().flat_map(|one| &one.conditions);
        let mut all: Vec<_> = self.conditions.iter().chain(of_pipelines).collect();
        all.sort_by_key(|one| (one.kind, one.since));
        all
    }

    /// The replica that `instance` is or was a run of.
    pub fn replica_of(&self, instance: &InstanceId) -> Option<&ReplicaStatus> {
        let key = &instance.pipeline;
        let pipeline = self
            .pipelines
            .iter()
            .find(|pipeline| pipeline.namespace == key.namespace && pipeline.name == key.name)?;
        let component = pipeline
            .components
            .iter()
            .find(|component| component.id == instance.replica.component)?;
        let mut replicas = component.replicas.iter();
        replicas.find(|replica| replica.replica == instance.replica.replica)
    }

    /// Every replica, with its component and its pipeline.
    pub fn replicas(
        &self,
    ) -> impl Iterator<Item = (&PipelineStatus, &ComponentStatus, &ReplicaStatus)> {
        self.pipelines.iter().flat_map(|pipeline| {
            let replicas = pipeline.replicas();
            replicas.map(move |(component, replica)| (&**pipeline, component, replica))
        })
    }

    /// The instances that run, or may, as far as their drivers can tell.
    pub fn live(&self) -> impl Iterator<Item = &InstanceId> {
        self.replicas()
            .filter(|(_, _, replica)| replica.phase.lives())
            .filter_map(|(_, _, replica)| replica.instance.as_ref())
    }

    /// Whether a replica of a component runs an image whose name means another one by now.
    pub fn has_newer_image(&self, pipeline: &PipelineKey, component: &ComponentId) -> bool {
        let pipelines = self
            .pipelines
            .iter()
            .filter(|one| one.namespace == pipeline.namespace && one.name == pipeline.name);
        let mut components = pipelines.flat_map(|one| &one.components);
        let found = components.find(|one| one.id == *component);
        let mut replicas = found.iter().flat_map(|one| &one.replicas);
        replicas.any(|one| one.image.as_ref().is_some_and(|image| image.outdated))
    }

    /// Whether `instance` runs, or may, as far as its driver can tell.
    pub fn is_live(&self, instance: &InstanceId) -> bool {
        self.replica_of(instance).is_some_and(|replica| {
            replica.instance.as_ref() == Some(instance) && replica.phase.lives()
        })
    }
}

/// The daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Where it keeps its state.
    #[serde(with = "super::path::one")]
    pub state_dir: PathBuf,
    /// Whether what it decides can be recorded.
    pub durable: bool,
    /// Why not.
    pub durable_why: Option<String>,
    /// `host:port` of the control plane.
    pub control_plane: Option<String>,
}

/// One pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: PipelineName,
    /// The file that it comes from; `None` = standard input.
    #[serde(default, with = "super::path::optional")]
    pub file: Option<PathBuf>,
    /// Whether saving the file applies it.
    pub watched: bool,
    /// The version that is wanted.
    pub generation: Generation,
    /// The version that the components below are judged by.
    pub observed_generation: Generation,
    /// Nothing is being done and nothing is waited for.
    pub settled: bool,
    /// Whether it was deleted and is being taken down.
    pub deleting: bool,
    /// Why the file could not be taken over; the last good generation runs on.
    pub problem: Option<Problem>,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is wrong with it, the gravest first; only root causes.
    #[serde(default)]
    pub conditions: Vec<StatusCondition>,
    /// Its components, each after those it depends on; then those that are being removed.
    pub components: Vec<ComponentStatus>,
}

impl PipelineStatus {
    /// Which pipeline it is.
    pub fn key(&self) -> PipelineKey {
        PipelineKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Every replica, with its component.
    pub fn replicas(&self) -> impl Iterator<Item = (&ComponentStatus, &ReplicaStatus)> {
        self.components.iter().flat_map(|component| {
            let replicas = component.replicas.iter();
            replicas.map(move |replica| (component, replica))
        })
    }
}

/// Why a file could not be taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file.
    #[serde(default, with = "super::path::optional")]
    pub file: Option<PathBuf>,
    /// Line, from 1; `None` when the whole file is meant.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// What is wrong and what to write instead; the first of them when there are several.
    pub message: String,
}

impl Problem {
    /// Its first line behind its place: `FILE:LINE:COLUMN: what`.
    pub fn in_place(&self) -> String {
        let file = self.file.as_deref().map(super::path::to_text);
        let numbers = [self.line, self.column].into_iter().flatten();
        let file = file.unwrap_or_default().into_owned();
        let place = numbers.fold(file, |place, number| format!("{place}:{number}"));
        let first = self.message.lines().next().unwrap_or_default();
        if place.is_empty() {
            first.to_owned()
        } else {
            format!("{place}: {first}")
        }
    }
}

/// One component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Its id.
    pub id: ComponentId,
    /// Source, processor or sink.
    pub role: Role,
    /// Who runs it.
    pub driver: DriverKind,
    /// How many replicas are wanted; 0 when it is being removed.
    pub desired: u32,
    /// Limits that it asks for and that cannot be enforced where it runs.
    #[serde(default)]
    pub unenforced: Vec<Limit>,
    /// What is wrong with it and was gone over by `--force`, while that is so.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Its replicas, those being removed included.
    pub replicas: Vec<ReplicaStatus>,
}

/// A limit of `resources.limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Memory.
    Memory,
    /// Processor time.
    Cpu,
    /// Processes and threads.
    Pids,
}

impl Limit {
    /// The limits that `resources` set.
    pub fn of(resources: &Resources) -> impl Iterator<Item = Self> {
        let all = [
            (Self::Memory, resources.memory_limit_bytes),
            (Self::Cpu, resources.cpu_limit_millis),
            (Self::Pids, resources.pids_limit),
        ];
        all.into_iter()
            .filter_map(|(limit, value)| value.map(|_| limit))
    }
}

impl Limit {
    /// `its memory and cpu limits are not enforced here`; `None` when there is nothing to say.
    pub fn in_vain(limits: &[Self]) -> Option<String> {
        let names: Vec<String> = limits.iter().map(Self::to_string).collect();
        match names.as_slice() {
            [] => None,
            [one] => Some(format!("its {one} limit is not enforced here")),
            [first @ .., last] => {
                let first = first.join(", ");
                Some(format!(
                    "its {first} and {last} limits are not enforced here"
                ))
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        })
    }
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its number, from 0.
    pub replica: u32,
    /// The instance that lives, or the latest.
    pub instance: Option<InstanceId>,
    /// The state in one word.
    pub phase: PhaseName,
    /// Dependents may count on it.
    pub ready: bool,
    /// Since when the phase holds.
    pub since: Timestamp,
    /// Why it is so, in words.
    pub why: String,
    /// What happens next, where that is known.
    pub next: Option<Next>,
    /// Restarts that were counted, ever. Never falls.
    pub restarts: u64,
    /// Process id of the program.
    pub pid: Option<u32>,
    /// Id of the container.
    pub container: Option<String>,
    /// What its cluster calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The machine of its cluster that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The image that the container runs.
    #[serde(default)]
    pub image: Option<ImageStatus>,
    /// How the latest ended instance ended.
    pub exit: Option<ExitSummary>,
    /// Changes exactly when the running thing must change.
    pub spec: Option<SpecHash>,
    /// `host:port` of its ports by name.
    pub addresses: BTreeMap<String, String>,
    /// What it told the control plane.
    pub registration: Option<RegistrationStatus>,
    /// The machine-readable reason for what has not happened.
    pub hold: Option<Hold>,
    /// When the program of the instance started that lives.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// How far its work gets, where its file says how that is seen.
    #[serde(default)]
    pub progress: Option<ProgressStatus>,
    /// What it uses of its host; `None` = nobody asked for it lately.
    #[serde(default)]
    pub usage: Option<Usage>,
}

impl ReplicaStatus {
    /// Whether it is as it should be. What a person stopped is as that person wants it.
    pub fn is_fine(&self) -> bool {
        match self.phase {
            PhaseName::Running => self.ready,
            PhaseName::Completed | PhaseName::Stopped => true,
            PhaseName::Pending
            | PhaseName::Starting
            | PhaseName::Unhealthy
            | PhaseName::Backoff
            | PhaseName::Crashloop
            | PhaseName::Stopping
            | PhaseName::Failed
            | PhaseName::Unknown => false,
        }
    }

    /// Whether it is meant to be ready: what is done or was stopped is not.
    pub fn is_meant_to_run(&self) -> bool {
        !matches!(self.phase, PhaseName::Completed | PhaseName::Stopped)
    }
}

/// The image that a container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// As the file names it.
    pub name: String,
    /// What that was resolved to: `sha256:..`, a registry's digest or the engine's id.
    pub digest: String,
    /// Whether the engine has another image of that name by now. It is left alone until
    /// `flowctl restart --pull`.
    pub outdated: bool,
    /// Whether the digest is the engine's id: no registry is known to have the image.
    #[serde(skip)]
    pub local: bool,
}

impl fmt::Display for ImageStatus {
    /// Name and short digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest.strip_prefix("sha256:").unwrap_or(&self.digest);
        let short: String = digest.chars().take(12).collect();
        // A name that is a digest says it already.
        if self.name.contains(&short) {
            f.write_str(&self.name)
        } else {
            write!(f, "{}@{short}", self.name)
        }
    }
}

/// The states that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseName {
    /// Waits; `why` says for what.
    Pending,
    /// Started, not ready yet.
    Starting,
    /// Runs and is ready.
    Running,
    /// Alive, was ready, now failing its probe.
    Unhealthy,
    /// Waits for its next try.
    Backoff,
    /// As backoff, after 5 failures in 5 minutes.
    Crashloop,
    /// Being stopped.
    Stopping,
    /// Stopped by a person.
    Stopped,
    /// Ended with success, for good.
    Completed,
    /// Ended without, for good.
    Failed,
    /// Its driver does not answer.
    Unknown,
}

impl PhaseName {
    /// Whether something of it runs, or may, as far as its driver can tell.
    pub fn lives(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Unhealthy | Self::Stopping | Self::Unknown => {
                true
            }
            Self::Pending
            | Self::Backoff
            | Self::Crashloop
            | Self::Stopped
            | Self::Completed
            | Self::Failed => false,
        }
    }
}

impl PhaseName {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Unhealthy,
        Self::Backoff,
        Self::Crashloop,
        Self::Stopping,
        Self::Stopped,
        Self::Completed,
        Self::Failed,
        Self::Unknown,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Backoff => "backoff",
            Self::Crashloop => "crashloop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// In a few words.
    pub what: String,
    /// When, where that is known.
    pub at: Option<Timestamp>,
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSummary {
    /// Exit code; for a container as the engine gives it.
    pub code: Option<i32>,
    /// Number of the signal that ended it.
    pub signal: Option<i32>,
    /// The out-of-memory killer did it.
    pub oom: bool,
    /// When.
    pub at: Timestamp,
}

/// What a component told the control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistrationStatus {
    /// The id it was given.
    pub service_id: String,
    /// When it last sent a heartbeat.
    pub last_heartbeat: Option<Timestamp>,
    /// The figures it sent along.
    pub metrics: BTreeMap<String, serde_json::Value>,
}

/// Something that happened, kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one, never re-used.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Where; `None` for what concerns the daemon itself.
    pub namespace: Option<Namespace>,
    /// Which pipeline.
    pub pipeline: Option<PipelineName>,
    /// Which component.
    pub component: Option<ComponentId>,
    /// Which replica of it.
    pub replica: Option<u32>,
    /// Which run of that.
    pub instance: Option<InstanceId>,
    /// What kind of thing.
    pub kind: EventKind,
    /// Why, in words.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// What ended the instance, where the event is its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<ExitReason>,
}

/// What kind of thing happened. Each is among [`EventKind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A pipeline, or a changed one, was accepted.
    Applied,
    /// A pipeline is to be taken down.
    Deleted,
    /// A pipeline's file could not be taken over.
    Rejected,
    /// A file that was broken is good again.
    Recovered,
    /// An instance is being started.
    Starting,
    /// Its start waits for something that takes a while, as an image that is pulled.
    Preparing,
    /// An instance runs.
    Started,
    /// An instance could not be started.
    StartFailed,
    /// An instance became ready.
    Ready,
    /// An instance is no longer ready.
    Unready,
    /// An instance is being stopped.
    Stopping,
    /// An instance ended because we stopped it.
    Stopped,
    /// A stop left something alive.
    StopFailed,
    /// An instance ended by itself.
    Exited,
    /// Its restart is put off.
    Backoff,
    /// It ended often enough that people should look.
    Crashloop,
    /// It ended with success, for good.
    Completed,
    /// It ended without, for good.
    Failed,
    /// It waits for an upstream.
    Waiting,
    /// A running instance of an earlier daemon was found and kept.
    Adopted,
    /// A driver stopped answering.
    Blind,
    /// A driver answers again.
    Sighted,
    /// The state cannot be recorded.
    NotDurable,
    /// The state can be recorded again.
    Durable,
    /// The state was damaged and rebuilt from what runs.
    Rebuilt,
    /// The daemon started.
    DaemonStarted,
    /// The daemon ends.
    DaemonStopping,
    /// A person asked for something.
    Requested,
    /// A component registered with the control plane.
    Registered,
    /// A registered component has not sent a heartbeat for too long.
    Silent,
    /// A silent component sends heartbeats again.
    Heard,
    /// Its work stands still for too long.
    Stalled,
    /// Work that stood still gets on again.
    Advanced,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::Applied,
        Self::Deleted,
        Self::Rejected,
        Self::Recovered,
        Self::Starting,
        Self::Preparing,
        Self::Started,
        Self::StartFailed,
        Self::Ready,
        Self::Unready,
        Self::Stopping,
        Self::Stopped,
        Self::StopFailed,
        Self::Exited,
        Self::Backoff,
        Self::Crashloop,
        Self::Completed,
        Self::Failed,
        Self::Waiting,
        Self::Adopted,
        Self::Blind,
        Self::Sighted,
        Self::NotDurable,
        Self::Durable,
        Self::Rebuilt,
        Self::DaemonStarted,
        Self::DaemonStopping,
        Self::Requested,
        Self::Registered,
        Self::Silent,
        Self::Heard,
        Self::Stalled,
        Self::Advanced,
    ];
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Applied => "applied",
            Self::Deleted => "deleted",
            Self::Rejected => "rejected",
            Self::Recovered => "recovered",
            Self::Starting => "starting",
            Self::Preparing => "preparing",
            Self::Started => "started",
            Self::StartFailed => "start-failed",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::StopFailed => "stop-failed",
            Self::Exited => "exited",
            Self::Backoff => "backoff",
            Self::Crashloop => "crashloop",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::Adopted => "adopted",
            Self::Blind => "blind",
            Self::Sighted => "sighted",
            Self::NotDurable => "not-durable",
            Self::Durable => "durable",
            Self::Rebuilt => "rebuilt",
            Self::DaemonStarted => "daemon-started",
            Self::DaemonStopping => "daemon-stopping",
            Self::Requested => "requested",
            Self::Registered => "registered",
            Self::Silent => "silent",
            Self::Heard => "heard",
            Self::Stalled => "stalled",
            Self::Advanced => "advanced",
        })
    }
}
