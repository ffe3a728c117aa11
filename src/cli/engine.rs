//! What was typed about the container engine, as the daemon takes it.

use std::path::PathBuf;

use clap::Args;

use crate::daemon::{EngineChoice, Privileged};

/// Options of the container engine.
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
}

impl Engine {
    /// The engine that is named, or is to be found.
    pub(super) fn chosen(&self) -> EngineChoice {
        EngineChoice {
            host: self.docker_host.clone(),
            allowed_mounts: self.allow_mounts.clone(),
            // The daemon may work elsewhere than here.
            image_policy: self
                .image_policy
                .as_ref()
                .map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())),
            privileged: if self.allow_privileged {
                Privileged::Allowed
            } else {
                Privileged::Refused
            },
        }
    }
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
