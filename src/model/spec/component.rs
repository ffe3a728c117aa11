//! One component as its file wants it, defaults filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::dependency::Dependency;
use super::files::{SecretSpec, Volume, VolumeSource};
use super::port::Port;
use super::probe::Probes;
use super::progress::Progress;
use super::replica;
use super::resources::{LogLimits, Resources, Rlimits};
use super::restart::RestartPolicy;
use super::stop::StopPolicy;
use super::umask::Umask;
use super::workload::{DriverKind, Workload};
use crate::model::ids::{ComponentId, SpecHash};
use crate::model::time::HumanDuration;

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
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        with = "crate::model::path::many"
    )]
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
    /// How it is seen that its work gets on; `None` = nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
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
    /// Permission bits that its files are created without; processes only.
    #[serde(default, skip_serializing_if = "Umask::is_default")]
    pub umask: Umask,
    /// Whether set-uid bits and file capabilities work in it. Unless it was asked for, the kernel's
    /// no_new_privs is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_new_privileges: bool,
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
    pub const REPLICA_REFERENCE: &'static str = replica::REFERENCE;

    /// `text` as replica `replica` gets it.
    pub fn for_replica(text: &str, replica: u32) -> String {
        replica::filled(text, replica)
    }

    /// The literal that stands for what is known of the component `id` once its cluster has placed it,
    /// until an instance that asks for it starts.
    pub fn placed_reference(id: &str, field: &[&str]) -> String {
        format!("${{{{ components.{id}.{} }}}}", field.join("."))
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
    fn the_replica_reference_is_filled_in_per_replica() {
        assert_eq!(
            ComponentSpec::for_replica("w-${{ component.replica }}", 3),
            "w-3"
        );
    }
}
