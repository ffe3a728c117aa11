//! The container engine of this daemon: which one it is, and whose containers are this directory's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::clusters::{self, ClusterChoice};
use crate::clock::Clock;
use crate::control_plane::{Containers, Doors};
use crate::driver::Conduct;
use crate::driver::docker::{DockerConfig, DockerDriver, DockerError, Endpoint};
use crate::images::Gate;
use crate::model::{DriverKind, ExitStatus, InstanceId, PipelineSpec, Workload};
use crate::probe::{Ended, Ending, Inside, NotBegun};
use crate::reconciler::Kept;
use crate::store::{self, Recovery};

pub use crate::driver::docker::{CleanedUp, Privileged, Volumes};

/// The file that says where the engine is that a daemon was told of, for those who look without one.
const HOST: &str = "docker-host";
/// The file that says whose containers are this state directory's.
const OWNER: &str = "owner";
/// How soon an engine is asked again that did not say where it is reached.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The host has its address on a network by then: a start there has a deadline of as much.
const FIRST_START: Duration = Duration::from_secs(30);
/// How often that is looked at.
const KNOCK_AGAIN: Duration = Duration::from_millis(200);
/// Which host this is, as systemd and D-Bus agree on it.
const MACHINE_ID: &str = "/etc/machine-id";

/// Which engines components run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// Where it listens; `None` = it is looked for.
    pub host: Option<String>,
    /// Whether files may ask for containers that can take over the host.
    pub privileged: Privileged,
    /// Folders of this host, beside that of its manifest, below which a component may write.
    pub allowed_mounts: Vec<PathBuf>,
    /// Which file says which images may run; `None` = all may.
    pub image_policy: Option<PathBuf>,
    /// Which cluster the components run on that are for one.
    pub cluster: ClusterChoice,
}

impl Default for EngineChoice {
    /// The one that is found, with nothing dangerous allowed.
    fn default() -> Self {
        Self {
            host: None,
            privileged: Privileged::Refused,
            allowed_mounts: Vec::new(),
            image_policy: None,
            cluster: ClusterChoice::default(),
        }
    }
}

/// Why this daemon has no way to an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Where it is cannot be understood.
    #[error(transparent)]
    Endpoint(#[from] DockerError),
    /// What is kept about it cannot be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// The way to the engine of a daemon. That none answers is found out when a component needs it.
pub(super) fn open(
    state_dir: &Path,
    choice: &EngineChoice,
    clock: &Clock,
    gate: Arc<Gate>,
) -> Result<Arc<DockerDriver>, EngineError> {
    keep(state_dir, choice)?;
    driver(state_dir, choice, clock, Conduct::Tends, gate)
}

/// The way to the engine for somebody who changes nothing.
pub(super) fn onlooker(
    state_dir: &Path,
    choice: &EngineChoice,
    clock: &Clock,
) -> Result<Arc<DockerDriver>, EngineError> {
    let gate = Arc::new(Gate::open());
    driver(state_dir, choice, clock, Conduct::OnlyLooks, gate)
}

fn driver(
    state_dir: &Path,
    choice: &EngineChoice,
    clock: &Clock,
    conduct: Conduct,
    gate: Arc<Gate>,
) -> Result<Arc<DockerDriver>, EngineError> {
    let endpoint = Endpoint::discover(choice.host.as_deref(), &|name| std::env::var(name).ok())?;
    let config = DockerConfig {
        endpoint,
        state_dir: state_dir.to_owned(),
        owner: owner(state_dir)?,
        privileged: choice.privileged,
        allowed_mounts: choice.allowed_mounts.clone(),
        conduct,
        gate,
    };
    Ok(DockerDriver::new(config, clock.clone()))
}

/// The way to the engine of a state directory, for somebody who only looks into its containers.
///
/// # Errors
/// When it cannot be understood where that is.
pub fn of(state_dir: &Path, clock: &Clock) -> Result<Arc<DockerDriver>, super::DaemonError> {
    Ok(onlooker(state_dir, &as_before(state_dir), clock)?)
}

/// The engine that the last daemon of this directory was told of.
pub(super) fn as_before(state_dir: &Path) -> EngineChoice {
    EngineChoice {
        host: fs::read_to_string(state_dir.join(HOST)).ok(),
        cluster: clusters::as_before(state_dir),
        ..EngineChoice::default()
    }
}

/// Keeps what [`as_before`] answers.
fn keep(state_dir: &Path, choice: &EngineChoice) -> Result<(), EngineError> {
    let path = state_dir.join(HOST);
    let kept = match &choice.host {
        Some(host) => store::write_private(&path, host.as_bytes()),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    };
    kept.map_err(|source| EngineError::File {
        doing: "write",
        path,
        source,
    })
}

/// Whether a directory has containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Containing {
    /// None that is known.
    Nothing,
    /// Some, or some that are wanted.
    Containers,
}

/// Whether what is kept speaks of containers that are wanted.
pub(super) fn containing(kept: &Kept) -> Containing {
    let pipelines = kept.pipelines.values();
    let mut components = pipelines.flat_map(|record| record.spec.components.values());
    if components.any(|component| component.driver() == DriverKind::Docker) {
        Containing::Containers
    } else {
        Containing::Nothing
    }
}

/// Whether the engine is asked what it runs: when something kept speaks of containers, and when a
/// store was lost that may have. Most hosts have no engine.
pub(super) fn is_asked(kept: &Kept, recovery: &Recovery, choice: &EngineChoice) -> bool {
    containing(kept) == Containing::Containers
        || (*recovery != Recovery::Intact && may_be_there(choice))
}

fn may_be_there(choice: &EngineChoice) -> bool {
    let endpoint = Endpoint::discover(choice.host.as_deref(), &|name| std::env::var(name).ok());
    match endpoint {
        Ok(Endpoint::Unix(path)) => path.exists(),
        Ok(Endpoint::Tcp(_) | Endpoint::Tls { .. }) => true,
        Err(_) => false,
    }
}

/// The way to the engine that may hold something of a directory whose components are down; `None`
/// when it never had a container or the engine is not there.
pub(super) fn left_behind(
    state_dir: &Path,
    clock: &Clock,
) -> Result<Option<Arc<DockerDriver>>, EngineError> {
    let choice = as_before(state_dir);
    if !state_dir.join(OWNER).exists() || !may_be_there(&choice) {
        return Ok(None);
    }
    onlooker(state_dir, &choice, clock).map(Some)
}

/// The containers of an engine, for those who only know them as somebody's.
pub(super) struct Contained(pub Arc<DockerDriver>);

#[async_trait]
impl Inside for Contained {
    async fn begin(&self, instance: &InstanceId, command: &[String]) -> Result<Ending, NotBegun> {
        let begun = self.0.exec(instance, command).await;
        let ending = begun.map_err(|error| NotBegun::NoPlace(error.to_string()))?;
        Ok(Box::pin(async {
            let ran = ending.await.map_err(|error| error.to_string())?;
            let code = i32::try_from(ran.code).map_err(|error| error.to_string())?;
            Ok(Ended {
                status: ExitStatus::Code(code),
                output: ran.output,
            })
        }))
    }
}

#[async_trait]
impl Containers for Contained {
    async fn at(&self, address: IpAddr) -> Option<InstanceId> {
        self.0.instance_at(address).await
    }
}

/// Opens the control plane to containers: on each of their networks before one starts there, and
/// now on `networks`, where some may run already.
pub(super) fn open_doors(docker: &Arc<DockerDriver>, doors: Doors, networks: BTreeSet<String>) {
    let open = move |gateway| {
        if doors.open_bridge(gateway).is_err() {
            tokio::spawn(open_later(doors.clone(), gateway));
        }
    };
    docker.on_gateway(open.clone());
    let docker = Arc::downgrade(docker);
    tokio::spawn(async move {
        let mut unknown = networks;
        // Until the engine has told of each, or the daemon ends.
        while !unknown.is_empty()
            && let Some(docker) = docker.upgrade()
        {
            let mut silent = BTreeSet::new();
            for network in unknown {
                match docker.gateway(&network).await {
                    Ok(gateway) => drop(gateway.map(&open)),
                    Err(error) => {
                        tracing::debug!(%error, network, "it is asked again");
                        silent.insert(network);
                    }
                }
            }
            unknown = silent;
            drop(docker);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    });
}

/// Opens a door that could not be opened at once: Podman gives the host its address on a network
/// only when the first container starts there.
async fn open_later(doors: Doors, gateway: IpAddr) {
    let given_up = Instant::now() + FIRST_START;
    while let Err(error) = doors.open_bridge(gateway) {
        if Instant::now() > given_up {
            let error = super::in_full(error);
            tracing::warn!(%gateway, error, "containers cannot reach the control plane");
            return;
        }
        tokio::time::sleep(KNOCK_AGAIN).await;
    }
}

/// The networks of these pipelines' containers.
pub(super) fn networks_of<'p>(
    pipelines: impl IntoIterator<Item = &'p PipelineSpec>,
) -> BTreeSet<String> {
    let components = pipelines
        .into_iter()
        .flat_map(|spec| spec.components.values());
    let networks = components.filter_map(|component| match &component.workload {
        Workload::Docker(container) => Some(DockerDriver::network_of(container).to_owned()),
        Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => None,
    });
    networks.collect()
}

/// The mark of what this directory has in engines. It is made from the host and the directory's path, so
/// that a directory that was lost finds its containers again, and then kept, so that one that is
/// moved does too.
pub(super) fn owner(state_dir: &Path) -> Result<String, EngineError> {
    let path = state_dir.join(OWNER);
    let failed = |doing, source| EngineError::File {
        doing,
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", error)),
    }
    let place = fs::canonicalize(state_dir).map_err(|error| failed("find the folder of", error))?;
    // A host without an id is told from others by its directory alone.
    let host = fs::read_to_string(MACHINE_ID).unwrap_or_default();
    let owner = format!("{}:{}", host.trim(), place.display());
    store::write_private(&path, owner.as_bytes()).map_err(|error| failed("write", error))?;
    Ok(owner)
}
