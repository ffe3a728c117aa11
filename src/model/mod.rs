//! The vocabulary: every concept of flowctl as one type, from YAML to `status`.
//!
//! **Guarantees.** Data and total functions only. Nothing here reads a clock, a file or a
//! socket, starts a task or writes a log line, so every other room can import it and every
//! function can be tested with values alone.
//!
//! **What it does not do.** Parsing YAML is [`crate::manifest`], deciding is
//! [`crate::planner`], keeping is [`crate::store`].

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
    Backoff, ComponentSpec, Condition, ContainerSpec, Dependency, DriverKind, Expected, HttpTarget,
    ImagePullPolicy, KubernetesSpec, LogLimits, NoSuchSignal, NomadSpec, NotAPort, NotAUmask,
    OnStall, PipelineSpec, Port, Probe, ProbeCheck, Probes, ProcessSpec, Progress, Protocol,
    Registration, ReplicaPort, Resources, RestartMode, RestartPolicy, RetryLimit, Rlimits, Role,
    SecretSource, SecretSpec, Signal, StopPolicy, StopTarget, Umask, Volume, VolumeSource, Watches,
    Workload,
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
