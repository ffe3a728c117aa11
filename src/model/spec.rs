//! What a pipeline should be: the typed form of a manifest, after names were resolved.
//!
//! All of it is (de)serialisable, because a running instance carries its own spec with it: a lost
//! store is rebuilt from what runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{ComponentId, PipelineKey, SpecHash};
use super::time::HumanDuration;

/// A whole pipeline as its file wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineSpec {
    /// Namespace and name.
    pub key: PipelineKey,
    /// Free text of `spec.description`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `metadata.labels`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The container network; `None` = `flowctl-bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Every component by id. The graph over their dependencies has no cycle and no unknown name.
    pub components: BTreeMap<ComponentId, ComponentSpec>,
}

/// Which of the three lists a component stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Produces data.
    Source,
    /// Turns data into data.
    Processor,
    /// Consumes data (`sinks`, or `consumers`).
    Sink,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Source => "source",
            Self::Processor => "processor",
            Self::Sink => "sink",
        })
    }
}

/// One component. Durations and limits carry their defaults already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentSpec {
    /// Unique in its pipeline.
    pub id: ComponentId,
    /// Source, processor or sink.
    pub role: Role,
    /// Digest of what the user wrote that affects the running thing; never of defaults, so that a
    /// new default in a later release restarts nothing.
    pub hash: SpecHash,
    /// The program and where it runs: the driver is the variant.
    pub workload: Workload,
    /// `type` as written; decides nothing here, components of the field rely on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `spec.env`, then the component's own `env` over it. Values may still hold
    /// `${{ component.replica }}`, see [`ComponentSpec::for_replica`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Files of `NAME=value` lines, read when an instance starts; later files win, `env` over all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_file: Vec<PathBuf>,
    /// Names, or `PREFIX_*` patterns, of the daemon's own variables to pass on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherit_env: Vec<String>,
    /// What it reads from, as written in `inputs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<ComponentId>,
    /// What its first start waits for: `inputs` and `depends_on` together, one entry per id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// Ports it serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Health checks.
    #[serde(default)]
    pub probes: Probes,
    /// When and how soon it is started again.
    pub restart: RestartPolicy,
    /// How it is stopped.
    pub stop: StopPolicy,
    /// Without a readiness probe: how long it must live to count as ready.
    pub ready_after: HumanDuration,
    /// How many copies run.
    pub replicas: u32,
    /// Memory, CPU and pid limits.
    #[serde(default)]
    pub resources: Resources,
    /// Open-file limit and the like; processes only.
    #[serde(default)]
    pub rlimits: Rlimits,
    /// Mounts; containers only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Files that only this component may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretSpec>,
    /// `user`, `user:group` or numeric ids to run as; `None` = the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Size and number of its log files.
    #[serde(default)]
    pub logs: LogLimits,
    /// Event types that it says it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input_event_types: Vec<String>,
    /// Event types that it says it writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output_event_types: Vec<String>,
    /// Whether readiness waits for its registration with the control plane.
    #[serde(default)]
    pub registration: Registration,
    /// `config` as written, for components that read it through the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

impl ComponentSpec {
    /// The literal that stands for the replica's number until an instance starts.
    pub const REPLICA_REFERENCE: &'static str = "${{ component.replica }}";

    /// `text` as replica `replica` gets it.
    pub fn for_replica(text: &str, replica: u32) -> String {
        text.replace(Self::REPLICA_REFERENCE, &replica.to_string())
    }

    /// The driver that runs it.
    pub fn driver(&self) -> DriverKind {
        self.workload.driver()
    }

    /// The engine's volumes that it names. Only a container has some.
    pub fn named_volumes(&self) -> impl Iterator<Item = &str> {
        let volumes = match &self.workload {
            Workload::Docker(_) => &self.volumes[..],
            Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => &[],
        };
        volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::Named(name) => Some(name.as_str()),
            VolumeSource::Bind(_) | VolumeSource::Tmpfs => None,
        })
    }
}

/// What runs, and where. The driver is the variant, so there is no "docker without image".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// A local process under a shim.
    Process(ProcessSpec),
    /// A container of a Docker engine.
    Docker(ContainerSpec),
    /// A job on a Nomad cluster.
    Nomad(NomadSpec),
    /// A workload on a Kubernetes cluster.
    Kubernetes(KubernetesSpec),
}

impl Workload {
    /// The driver that runs this workload.
    pub fn driver(&self) -> DriverKind {
        match self {
            Self::Process(_) => DriverKind::Process,
            Self::Docker(_) => DriverKind::Docker,
            Self::Nomad(_) => DriverKind::Nomad,
            Self::Kubernetes(_) => DriverKind::Kubernetes,
        }
    }
}

/// The four places where components can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// Local processes.
    Process,
    /// A Docker engine.
    Docker,
    /// Nomad.
    Nomad,
    /// Kubernetes.
    Kubernetes,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Nomad => "nomad",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// A local program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// A path, or a name looked up in the component's PATH. A relative path (with a `/`) is meant
    /// from `working_dir`.
    pub program: String,
    /// Its arguments, without argv\[0\].
    #[serde(default)]
    pub args: Vec<String>,
    /// Absolute: a relative `working_dir` was resolved against the manifest's folder, which is
    /// also the default.
    pub working_dir: PathBuf,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Image reference as written.
    pub image: String,
    /// Replaces the image's CMD; `None` keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Follow the command.
    #[serde(default)]
    pub args: Vec<String>,
    /// Directory inside the container; `None` = the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// When the image is pulled; `None` = `always` for the tag `latest`, else `if-not-present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<ImagePullPolicy>,
    /// The network it is on, from `spec.network`; `None` = `flowctl-bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// When an image is pulled before a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePullPolicy {
    /// Before every start; a failing pull with a local image goes on and says so.
    Always,
    /// Only when no local image bears the tag.
    IfNotPresent,
    /// Never.
    Never,
}

/// A Nomad job. Cluster settings come from `spec.nomad`, then from `NOMAD_*` variables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NomadSpec {
    /// The container that the job runs.
    pub container: ContainerSpec,
    /// API address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Datacenter to place it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Nomad's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A Kubernetes workload. The cluster comes from the daemon's kubeconfig.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KubernetesSpec {
    /// The container that the pod runs.
    pub container: ContainerSpec,
    /// Kubernetes' own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// One edge of the graph: what has to be true of `id` before the first start of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The component waited for.
    pub id: ComponentId,
    /// What has to be true of it.
    pub condition: Condition,
}

/// What a dependent waits for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Every replica runs.
    Started,
    /// Every replica is ready.
    #[default]
    Ready,
    /// Every replica ended with success.
    Completed,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Completed => "completed",
        })
    }
}

/// A port that a component serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `name`, or `None`: the only or first port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that the program listens on (a process listens on it on the host itself).
    pub container_port: u16,
    /// The port published on the host; containers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The host address it is published on; `None` = 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<std::net::IpAddr>,
    /// TCP unless written otherwise.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The three health checks of a component.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Probes {
    /// Until it passes, the other two are not asked; failing it `failures` times ends the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Whether dependents may start, and what `ready` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Failing it `failures` times restarts the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
}

impl Probes {
    /// The ports that are asked.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let all = [&self.startup, &self.readiness, &self.liveness];
        all.into_iter()
            .flatten()
            .filter_map(|probe| match &probe.check {
                ProbeCheck::Http(HttpTarget { port, .. })
                | ProbeCheck::Grpc { port, .. }
                | ProbeCheck::Tcp { port } => Some(*port),
                ProbeCheck::Exec { .. } | ProbeCheck::Heartbeat { .. } => None,
            })
    }

    /// The probes as they are asked of replica `replica`.
    #[must_use]
    pub fn for_replica(&self, replica: u32) -> Self {
        let filled = |text: &String| ComponentSpec::for_replica(text, replica);
        let mut probes = self.clone();
        let all = [
            &mut probes.startup,
            &mut probes.readiness,
            &mut probes.liveness,
        ];
        for probe in all.into_iter().flatten() {
            match &mut probe.check {
                ProbeCheck::Http(at) => at.path = filled(&at.path),
                ProbeCheck::Exec { command } => *command = command.iter().map(filled).collect(),
                ProbeCheck::Grpc { .. } | ProbeCheck::Tcp { .. } | ProbeCheck::Heartbeat { .. } => {
                }
            }
        }
        probes
    }
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    pub check: ProbeCheck,
    /// Distance between two asks. Default 10 s (startup: 1 s), kubelet's figure.
    pub period: HumanDuration,
    /// An ask without an answer by then has failed. Default 2 s.
    pub timeout: HumanDuration,
    /// Failures in a row that make it failed. Default 3 (startup: 30).
    pub failures: u32,
    /// Passes in a row that make it passed. Default 1.
    pub successes: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeCheck {
    /// GET: a 2xx or 3xx whose JSON body, if any, does not say `"status": "unhealthy"`.
    Http(HttpTarget),
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// Port asked.
        port: u16,
        /// Service named in the request; empty = the whole server.
        service: String,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// Port asked.
        port: u16,
    },
    /// A program exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The component's last heartbeat is younger than this.
    Heartbeat {
        /// Oldest accepted.
        ttl: HumanDuration,
    },
}

/// Where an HTTP probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpTarget {
    /// Host; `None` = where the component runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port asked.
    pub port: u16,
    /// Path and query, with the leading `/`.
    pub path: String,
}

/// When an ended instance is followed by another, and how soon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Which ends are followed by a start.
    pub mode: RestartMode,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Delay before the first restart. Default 1 s (KEP-4603).
    pub initial_delay: HumanDuration,
    /// The delay never exceeds this, jitter apart. Default 60 s (dockerd, KEP-4603).
    pub max_delay: HumanDuration,
    /// Growth per failure of [`Backoff::Exponential`]. Default 2.
    pub factor: f64,
    /// Largest fraction of the delay that is added to it, 0 to 1. Default 0.25 (Nomad).
    pub jitter: f64,
    /// After how many restarts it gives up; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RetryLimit>,
    /// Running and ready for this long forgets earlier failures. Default 2 min.
    pub reset_after: HumanDuration,
    /// Exit codes that count as success. Default `[0]`.
    pub success_codes: Vec<i32>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::Always,
            backoff: Backoff::Exponential,
            initial_delay: HumanDuration::from_secs(1),
            max_delay: HumanDuration::from_secs(60),
            factor: 2.0,
            jitter: 0.25,
            limit: None,
            reset_after: HumanDuration::from_secs(120),
            success_codes: vec![0],
        }
    }
}

/// Which ends are followed by a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Every end (`unless-stopped` is the same: a manual stop is remembered anyway).
    Always,
    /// Ends that are not a success.
    OnFailure,
    /// None (`no`).
    Never,
}

/// How the restart delay grows with failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// `initial * factor^(n-1)`.
    Exponential,
    /// `initial * n`.
    Linear,
    /// `initial`.
    Fixed,
}

/// How many restarts are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryLimit {
    /// Restarts allowed.
    pub max_retries: u32,
    /// Only failures within the last such span count; `None` = all failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
}

/// How an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// Sent to the whole process group first. Default SIGTERM.
    pub signal: Signal,
    /// After this the whole tree is killed. Default 10 s (dockerd, supervisord, systemd's habit).
    pub grace_period: HumanDuration,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            signal: Signal::TERM,
            grace_period: HumanDuration::from_secs(10),
        }
    }
}

/// A signal of Linux by number (x86-64 and arm64 numbering). Written `SIGTERM`, `TERM` or `15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

/// A text that names no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal: write a name like SIGTERM or SIGINT")]
pub struct NoSuchSignal(String);

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    const NAMES: [(&'static str, i32); 31] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];

    /// The signal of this number, 1 to 64 (from 32 on: real-time signals).
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = NoSuchSignal;

    fn from_str(text: &str) -> Result<Self, NoSuchSignal> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let named = Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, n)| *n);
        named
            .or_else(|| name.parse().ok())
            .and_then(Self::from_number)
            .ok_or_else(|| NoSuchSignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i32(self.0)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let number = i32::deserialize(d)?;
        Self::from_number(number)
            .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a signal number")))
    }
}

/// What an instance may use, and what is set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CPU limit in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u64>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    /// CPU share asked for, in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millis: Option<u64>,
    /// Memory asked for, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_request_bytes: Option<u64>,
}

/// setrlimit(2) values of a process; soft and hard alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rlimits {
    /// RLIMIT_NOFILE: open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// RLIMIT_CORE in bytes; `None` = inherited, 0 where the component has secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u64>,
}

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Where the data lies.
    pub source: VolumeSource,
    /// Absolute path in the container.
    pub target: String,
    /// Whether the container may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// Where a mount's data lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeSource {
    /// A file or folder of the host, absolute.
    Bind(PathBuf),
    /// A volume of the engine; kept when the pipeline goes.
    Named(String),
    /// Memory, gone with the instance.
    Tmpfs,
}

/// A secret file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    /// File name under `$FLOWCTL_SECRETS_DIR`.
    pub name: String,
    /// Where the daemon reads the value.
    pub source: SecretSource,
    /// A further path where a container finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_path: Option<String>,
    /// Permission bits. Default 0400.
    pub mode: u32,
}

/// Where the daemon reads a secret's value when an instance starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// A file of the host.
    File(PathBuf),
    /// A variable of the daemon.
    Env(String),
}

/// How much log of a component is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A file is rotated when it reaches this. Default 10 MiB (kubelet).
    pub max_size_bytes: u64,
    /// Files kept, the one being written included. Default 5 (kubelet).
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_size_bytes: 10 << 20,
            max_files: 5,
        }
    }
}

/// Whether readiness waits for registration with the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// It may register or not.
    #[default]
    Optional,
    /// It is not ready before it has registered.
    Required,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number_and_shown_by_name() {
        for text in ["SIGTERM", "term", "15"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        for text in ["", "SIGNOPE", "0", "65", "-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_replica_reference_is_filled_in_per_replica() {
        assert_eq!(
            ComponentSpec::for_replica("w-${{ component.replica }}", 3),
            "w-3"
        );
    }
}
