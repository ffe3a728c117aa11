//! The vocabulary: every concept of flowctl as one type, from YAML to `status`.
//!
//! **Guarantees.** Data and total functions only. Nothing here reads a clock, a file or a
//! socket, starts a task or writes a log line, so every other room can import it and every
//! function can be tested with values alone.
//!
//! **What it does not do.** Parsing YAML is [`crate::manifest`], deciding is
//! [`crate::planner`], keeping is [`crate::store`].
//!
//! # Glossary
//!
//! | word | type | what it is |
//! |---|---|---|
//! | pipeline | [`PipelineSpec`] | what one document of a manifest wants: components, and in which order data passes them |
//! | component | [`ComponentSpec`] | a source, processor or sink: one program or image, its probes and policies |
//! | replica | [`ReplicaKey`] | one of the equal copies of a component; what is planned, restarted and counted |
//! | instance | [`InstanceId`] | one life of a replica, from its start to its end; never two at once |
//! | revision | [`SpecHash`] | digest of all that a running instance was given; another one means a restart |
//! | generation | [`Generation`] | number of an accepted version of a pipeline |
//! | driver | [`DriverKind`] | who runs instances: processes, Docker, Kubernetes, Nomad |
//! | handle | [`Handle`] | what a driver needs to find an instance again; nobody else reads it |
//! | sighting | [`Sighting`] | what a driver saw of one instance |
//! | record | [`Record`] | all that is remembered of one replica, in the store |
//! | phase | [`Phase`] | where an instance is in its life, with the data that belongs there |
//! | plan, step | [`Plan`], [`Step`] | what is done now, each with its [`Reason`] |
//! | hold | [`Hold`] | why nothing is done for a replica that is not as desired |
//! | charge | [`Charge`] | whose fault an end was: only a component's own ends count against it |
//! | condition | [`StatusCondition`] | what is wrong, since when: what people and monitors are told |

mod claim;
pub mod codec;
mod condition;
mod entry;
mod figures;
#[cfg(test)]
pub(crate) mod fixtures;
mod handle;
mod ids;
pub mod image;
pub mod kubernetes;
mod notified;
mod partition;
pub mod path;
mod plan;
mod registry;
pub mod revision;
mod runs;
mod spec;
mod state;
mod status;
mod time;

pub use claim::Claim;
pub use condition::{
    ComponentPath, ConditionKey, ConditionKind, NoSuchCondition, Severity, StatusCondition,
};
pub use entry::{COMPONENTS_SCHEMA, ComponentEntry, ComponentList};
pub use figures::{Durations, ExitReason, ProgressStatus, Usage};
pub use handle::{Facts, Handle};
pub use ids::{
    ComponentId, Generation, IdError, InstanceId, Namespace, PipelineKey, PipelineName, ReplicaKey,
    SpecHash, TargetName,
};
pub use notified::{MessageStatus, Notifications, PendingMessage, TargetStatus};
pub use partition::{Hidden, Partition};
pub use plan::{Action, Effort, Ending, Hold, Holder, InFlight, Plan, Reason, Step};
pub use registry::{
    About, BadServiceId, Evidence, Hearing, Metric, Metrics, Owner, Patience, Provenance,
    RegistrationRecord, ServiceHealth, ServiceId, ServiceKind,
};
pub use runs::{ChunkRecord, FlowFigures, RunChange, RunFigures, RunRecord, RunState, Teller};
pub use spec::{
    Address, Destination, HeartbeatSpec, NotifyMatch, NotifySpec, NotifyTarget, TellEnd,
    WebhookFormat,
};
pub use spec::{
    Backoff, ClusterSecret, ComponentSpec, Condition, ContainerSpec, Dependency, DriverKind,
    Expected, HttpTarget, ImagePullPolicy, KubernetesOptions, KubernetesSpec, LogLimits,
    NoSuchSignal, NomadSpec, NotAPort, NotAUmask, OnStall, PipelineSpec, Port, Probe, ProbeCheck,
    Probes, ProcessSpec, Progress, Protocol, Registration, ReplicaPort, Resources, RestartMode,
    RestartPolicy, RetryLimit, Rlimits, Role, SecretSource, SecretSpec, SecurityProfile, Signal,
    StopPolicy, StopTarget, Storage, StorageAccess, TaintEffect, Toleration, Umask, Volume,
    VolumeSource, Watches, Workload,
};
pub use state::{
    Boot, Charge, Counts, Disruption, DisruptionKind, EarlierEnd, EndCause, Ended, EngineHealth,
    Exit, ExitStatus, Failure, Health, History, ImageChoice, Instance, Life, Pending, Phase,
    PipelineRecord, ProbeKind, ProbeOutcome, ProbeTally, Prober, ProcessIdentity, Pull, Record,
    RecordedImage, RunIntent, Sighting, Stalled, StartFailure, StartTrouble, StopCause,
    StopFailure, UnansweredStarts,
};
pub use status::{
    ComponentStatus, DaemonStatus, Event, EventKind, ExitSummary, ImageStatus, Limit, Next,
    PhaseName, PipelineStatus, Problem, RegistrationStatus, ReplicaStatus, STATUS_SCHEMA, Snapshot,
};
pub use time::{DurationError, HumanDuration, Timestamp, TimestampError};
