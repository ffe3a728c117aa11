//! What was typed about the container engine, as the daemon takes it.

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
    /// Let files ask for containers that can take over this host: privileged ones, its namespaces,
    /// the engine's own socket
    #[arg(long, env = "FLOWCTL_ALLOW_PRIVILEGED")]
    pub allow_privileged: bool,
}

impl Engine {
    /// The engine that is named, or is to be found.
    pub(super) fn chosen(&self) -> EngineChoice {
        EngineChoice {
            host: self.docker_host.clone(),
            privileged: if self.allow_privileged {
                Privileged::Allowed
            } else {
                Privileged::Refused
            },
        }
    }
}
