//! What runs, and where: the driver is the variant.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kubernetes::KubernetesOptions;
use crate::model::image::ImageRequirement;
use crate::model::partition::Partition;

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

    /// The image that it runs, as its file names it; `None` = it runs none.
    pub fn image(&self) -> Option<&str> {
        let container = match self {
            Self::Process(_) => return None,
            Self::Docker(container) => container,
            Self::Nomad(job) => &job.container,
            Self::Kubernetes(pod) => &pod.container,
        };
        Some(&container.image)
    }

    /// The part of what its driver runs that it is in; `None` = the driver's own, or it has no parts.
    pub fn partition(&self) -> Option<Partition> {
        let namespace = match self {
            Self::Process(_) | Self::Docker(_) => None,
            Self::Nomad(job) => job.namespace.as_ref(),
            Self::Kubernetes(pod) => pod.namespace.as_ref(),
        };
        namespace.map(Partition::new)
    }
}

/// The four places where components can run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// Local processes.
    #[default]
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
    #[serde(with = "crate::model::path::one")]
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
    /// What must hold of the image besides the daemon's policy, from `spec.images`. It only ever
    /// tightens, and changes nothing that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<ImageRequirement>,
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
    /// How its pods are placed and kept.
    #[serde(default, skip_serializing_if = "KubernetesOptions::is_empty")]
    pub options: KubernetesOptions,
}
