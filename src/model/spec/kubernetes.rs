//! What a manifest says of a pod besides its container: `spec.kubernetes`, and `kubernetes` of a component.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the pods of a component are placed and kept. Each field is left out where nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KubernetesOptions {
    /// The ServiceAccount that its pods run as; `None` = that of their namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Secrets of the cluster that its image is pulled with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// What its programs may do.
    #[serde(default, skip_serializing_if = "SecurityProfile::is_default")]
    pub security: SecurityProfile,
    /// How the volumes are made that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it puts up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Its PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
    /// Its RuntimeClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class: Option<String>,
    /// Further labels of its pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further annotations of its pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whether its `hostPort`s are opened on the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_host_ports: bool,
    /// Whether its `host_path`s are those of the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_host_path: bool,
}

impl KubernetesOptions {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the programs of a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecurityProfile {
    /// What they may in a container of the Docker driver: the same image starts on both.
    #[default]
    SameAsDocker,
    /// What a namespace that enforces the Pod Security Standard `restricted` lets in.
    Restricted,
    /// Whatever the image and the cluster say.
    Image,
}

impl SecurityProfile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a named volume is made: a PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// How much is asked for.
    pub size_bytes: u64,
    /// The StorageClass; `None` = the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How many nodes may have it at one time.
    #[serde(default, skip_serializing_if = "StorageAccess::is_default")]
    pub access: StorageAccess,
}

/// How many nodes may have a volume at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageAccess {
    /// One.
    #[default]
    OneNode,
    /// Any number, where the StorageClass has such volumes.
    ManyNodes,
}

impl StorageAccess {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A taint of nodes that a pod puts up with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toleration {
    /// The taint's key; `None` = every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The taint's value; `None` = whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What the taint does to others; `None` = whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// For how long a running pod puts up with it; `None` = for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// What a taint does to pods that do not put up with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaintEffect {
    /// None is put there.
    NoSchedule,
    /// None is put there while there is room elsewhere.
    PreferNoSchedule,
    /// None is put there, and those that run there go.
    NoExecute,
}
