//! What of the host a component is given: mounts and secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    Bind(#[serde(with = "crate::model::path::one")] PathBuf),
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
    File(#[serde(with = "crate::model::path::one")] PathBuf),
    /// A variable of the daemon.
    Env(String),
    /// A Secret of the cluster: the daemon never sees it.
    Cluster(ClusterSecret),
}

/// A value in a Secret of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSecret {
    /// The Secret, in the namespace of the component's pods.
    pub secret: String,
    /// The key of the value in it.
    pub key: String,
}
