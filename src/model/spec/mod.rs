//! What a pipeline should be: the typed form of a manifest, after names were resolved.
//!
//! All of it is (de)serialisable, because a running instance carries its own spec with it: a lost
//! store is rebuilt from what runs.

mod component;
mod dependency;
mod files;
mod kubernetes;
mod port;
mod probe;
mod progress;
mod replica;
mod resources;
mod restart;
mod signal;
mod stop;
mod target;
mod umask;
mod workload;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{ComponentId, PipelineKey};

pub use component::{ComponentSpec, Registration, Role};
pub use dependency::{Condition, Dependency};
pub use files::{ClusterSecret, SecretSource, SecretSpec, Volume, VolumeSource};
pub use kubernetes::{
    KubernetesOptions, SecurityProfile, Storage, StorageAccess, TaintEffect, Toleration,
};
pub use port::{Port, Protocol};
pub use probe::{HttpTarget, Probe, ProbeCheck, Probes};
pub use progress::{Expected, OnStall, Progress, Watches};
pub use replica::{NotAPort, ReplicaPort};
pub use resources::{LogLimits, Resources, Rlimits};
pub use restart::{Backoff, RestartMode, RestartPolicy, RetryLimit};
pub use signal::{NoSuchSignal, Signal};
pub use stop::{StopPolicy, StopTarget};
pub use target::{
    Address, Destination, HeartbeatSpec, NotifyMatch, NotifySpec, NotifyTarget, TellEnd,
    WebhookFormat,
};
pub use umask::{NotAUmask, Umask};
pub use workload::{
    ContainerSpec, DriverKind, ImagePullPolicy, KubernetesSpec, NomadSpec, ProcessSpec, Workload,
};

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
    /// Who else than the host's own file says is told of what is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NotifyTarget>,
    /// Every component by id. The graph over their dependencies has no cycle and no unknown name.
    pub components: BTreeMap<ComponentId, ComponentSpec>,
}
