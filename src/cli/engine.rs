//! What was typed about the engines that run components, as the daemon takes it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::daemon::{ClusterChoice, EngineChoice, Privileged};

/// Options of the container engine, and of the cluster.
#[derive(Clone, Debug, Args)]
pub struct Engine {
    /// Where the container engine listens [default: $DOCKER_HOST, the Docker context in use, or the
    /// first socket found of Docker and Podman]
    #[arg(
        long,
        env = "FLOWCTL_DOCKER_HOST",
        hide_env_values = true,
        value_name = "unix://PATH|tcp://HOST:PORT"
    )]
    pub docker_host: Option<String>,
    /// Let files ask for containers that can take over this host: its network, the engine's own
    /// socket, any mount
    #[arg(long, env = "FLOWCTL_ALLOW_PRIVILEGED")]
    pub allow_privileged: bool,
    /// Let containers write below these folders of this host, beside that of their manifest
    #[arg(
        long,
        env = "FLOWCTL_ALLOW_MOUNTS",
        value_name = "FOLDER",
        value_delimiter = ',',
        value_parser = folder
    )]
    pub allow_mounts: Vec<PathBuf>,
    /// The file that says which images may run [default: all may]. Nothing starts while it cannot be
    /// read
    #[arg(
        long,
        env = "FLOWCTL_IMAGE_POLICY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub image_policy: Option<PathBuf>,
    /// The kubeconfig of the cluster that components with `driver: kubernetes` run on [default: a
    /// pod's own cluster, $KUBECONFIG, or ~/.kube/config]
    #[arg(
        long,
        env = "FLOWCTL_KUBECONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it [default: its current one, as it is when the daemon first needs it]
    #[arg(
        long,
        env = "FLOWCTL_KUBE_CONTEXT",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub kube_context: Option<String>,
    /// The cluster's namespace of components that name none [default: the context's]
    #[arg(
        long,
        env = "FLOWCTL_KUBE_NAMESPACE",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub kube_namespace: Option<String>,
}

impl Engine {
    /// The engine that is named, or is to be found.
    pub(super) fn chosen(&self) -> EngineChoice {
        EngineChoice {
            host: self.docker_host.clone(),
            allowed_mounts: self.allow_mounts.clone(),
            // The daemon may work elsewhere than here.
            image_policy: self.image_policy.as_deref().map(absolute),
            cluster: ClusterChoice {
                kubeconfig: self.kubeconfig.as_deref().map(absolute),
                context: self.kube_context.clone(),
                namespace: self.kube_namespace.clone(),
            },
            privileged: if self.allow_privileged {
                Privileged::Allowed
            } else {
                Privileged::Refused
            },
        }
    }
}

/// A file as the daemon finds it from wherever it runs.
fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// A folder as the daemon can find it from wherever it runs.
fn folder(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("write the whole path, from `/` on".to_owned())
    }
}
