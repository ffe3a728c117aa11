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

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::driver::logs;
use crate::driver::process::{leave_secrets_place, secrets_place};
use crate::driver::{
    Conduct, Description, Driver, DriverError, Hints, Launch, LogQuery, LogStream, Look, Scope,
    Started, Stopped,
};
use crate::images::Gate;
use crate::model::{DriverKind, InstanceId, Limit, StopPolicy};

mod about;
mod ahead;
mod attach;
mod binds;
mod callers;
mod copies;
mod copy;
mod dialect;
mod endpoint;
mod engine;
mod evidence;
mod exec;
mod failure;
mod identity;
mod images;
mod mapping;
mod network;
mod observe;
mod outage;
mod power;
mod secrets;
mod sight;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod usage;
mod volumes;
mod watch;

use about::About;
pub use about::Reachable;
use callers::Callers;
use copies::Copies;
use copy::Copiers;
use engine::{Engine, Failure};
use observe::Album;
use outage::Outages;
use sight::Seen;

pub use ahead::Obstacle;
pub use attach::{Session, Size, Wish};
pub use endpoint::{DockerError, Endpoint};
pub use exec::Ran;
pub use images::Renewal;
pub use mapping::TOKEN_FILE;

/// The name of the file that holds a container's token.
pub const TOKEN_NAME: &str = "token";

/// Where the folders of containers' tokens lie in a state directory.
pub fn token_dirs(state_dir: &Path) -> PathBuf {
    state_dir.join("tokens").join("containers")
}

/// The folder of the token of one container. It is mounted as it is, since a renewal replaces the
/// file.
pub fn token_dir(state_dir: &Path, instance: &InstanceId) -> PathBuf {
    token_dirs(state_dir).join(instance.to_string())
}

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
    /// Folders of the host, beside that of its manifest, below which a component may write.
    pub allowed_mounts: Vec<PathBuf>,
    /// What may be done to containers that are seen.
    pub conduct: Conduct,
    /// Decides which images may run.
    pub gate: Arc<Gate>,
}

/// Whether components may have what gives them power over the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileged {
    /// The engine's socket cannot be mounted, nor anything else that rules the host.
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

/// Whether networks without a component were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sweep {
    /// They were.
    Done,
    /// Something still uses one, or starts and needs its own: ask again.
    Postponed,
}

/// Where a port of a container is reached from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// There.
    At(SocketAddr),
    /// Nowhere: the container has no network, and publishes no port.
    Nowhere,
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
    inner: Arc<Inner>,
    /// One call at a time per instance.
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
    watchers: [JoinHandle<()>; 2],
}

/// Is told the host's own address on a network of containers.
type GatewayListener = Box<dyn Fn(IpAddr) + Send + Sync>;

/// What calls and background tasks share.
struct Inner {
    config: DockerConfig,
    clock: Clock,
    engine: Engine,
    hints: Hints,
    album: Mutex<Album>,
    /// Where the secrets of all instances lie.
    secrets: PathBuf,
    /// Held while a network is made: some engines make two of one name.
    networks: tokio::sync::Mutex<()>,
    /// Shared by whatever makes containers, which need their networks until they run; whoever
    /// removes networks has it alone.
    making: Arc<tokio::sync::RwLock<()>>,
    /// Who is told of a network's gateway before a container starts on it.
    gateways: OnceLock<GatewayListener>,
    /// Image and program of containers whose program is known to exist.
    programs: Mutex<HashSet<(String, String)>>,
    /// What the engine says of itself, once it did.
    about: tokio::sync::OnceCell<About>,
    /// Where what containers bind is mounted for the engine; `None` where we are not root.
    binds: Option<PathBuf>,
    /// The ids of the images that the names in files mean, as of the latest full look.
    images: Mutex<HashMap<String, String>>,
    copiers: Mutex<Copiers>,
    outages: Outages,
    callers: Callers,
    copies: Copies,
}

impl Inner {
    fn album(&self) -> MutexGuard<'_, Album> {
        self.album.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn programs(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copiers(&self) -> MutexGuard<'_, Copiers> {
        self.copiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Log files, of all drivers alike.
    fn logs_dir(&self) -> PathBuf {
        self.config.state_dir.join("logs")
    }

    /// Takes in what was seen of a container outside of a look.
    fn notice(self: &Arc<Self>, seen: &Seen) {
        self.album().keep(seen);
        self.copy_output(seen);
    }

    /// An instance's container is gone.
    fn forgotten(&self, container: &str, instance: &InstanceId) {
        self.album().drop_instance(instance);
        let mut copiers = self.copiers();
        // One that is behind says what is lost, and ends by itself.
        if copiers.get(container).is_some_and(logs::Copier::is_done) {
            copiers.remove(container);
        }
    }
}

impl DockerDriver {
    /// A driver for the engine in `config`. Call it inside a tokio runtime. It connects when it is
    /// first needed, so it can be made while the engine is down.
    pub fn new(config: DockerConfig, clock: Clock) -> Arc<Self> {
        let inner = Arc::new(Inner {
            engine: Engine::new(config.endpoint.clone()),
            secrets: secrets_place(&config.state_dir.join("containers")),
            outages: Outages::watched_from(clock.now()),
            clock,
            hints: Hints::default(),
            album: Mutex::default(),
            networks: tokio::sync::Mutex::new(()),
            making: Arc::default(),
            gateways: OnceLock::new(),
            programs: Mutex::default(),
            about: tokio::sync::OnceCell::new(),
            binds: binds::folder_of(&config.owner),
            images: Mutex::default(),
            copiers: Mutex::default(),
            callers: Callers::default(),
            copies: Copies::default(),
            config,
        });
        if let (Conduct::Tends, Some(folder)) = (inner.config.conduct, &inner.binds) {
            binds::sweep(folder);
        }
        let watchers = [
            tokio::spawn(inner.clone().keep_watching()),
            tokio::spawn(inner.clone().keep_counting()),
        ];
        Arc::new(Self {
            inner,
            turns: Mutex::default(),
            watchers,
        })
    }

    /// Tells `listener` the host's own address on each network before a container starts there, so
    /// that whatever the container asks of the host answers from its first moment. The first
    /// listener is the only one.
    pub fn on_gateway(&self, listener: impl Fn(IpAddr) + Send + Sync + 'static) {
        if self.inner.gateways.set(Box::new(listener)).is_err() {
            tracing::debug!("somebody is told of gateways already");
        }
    }

    /// The host's own address on this network; `None` when it does not exist, or has none.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn gateway(&self, network: &str) -> Result<Option<IpAddr>, DriverError> {
        let looked = network::look(&self.inner.engine, network).await;
        let found = looked.map_err(|failure| failure.unreachable("look at a network"))?;
        Ok(found.and_then(|network| network.gateway))
    }

    /// The limits that the engine does not enforce, and whether its containers get to this host. As
    /// of the usual one where it does not answer.
    pub async fn asked_of_itself(&self) -> (BTreeSet<Limit>, Reachable) {
        self.inner.learn_about().await;
        let host = self.inner.about.get().map(|about| about.host);
        (self.unenforced(), host.unwrap_or_default())
    }

    /// Where `port` of a running instance can be reached from this host: as it is published, else
    /// at the container's own address. From the latest look; `None` before that.
    pub fn reach(&self, instance: &InstanceId, port: u16) -> Option<Reached> {
        let album = self.inner.album();
        let found = album.whereabouts(instance)?.reach.port(port);
        Some(found.map_or(Reached::Nowhere, Reached::At))
    }

    /// The first process of an instance that is on the host's own network, where its ports are the
    /// host's; `None` for one that is not, or whose engine counts processes otherwise.
    pub fn program_on_host(&self, instance: &InstanceId) -> Option<u32> {
        let album = self.inner.album();
        let found = album.whereabouts(instance)?;
        let pid = found.pid.filter(|_| found.reach.is_on_host())?;
        evidence::is_of(pid, &found.container).then_some(pid)
    }

    /// Whether the process `pid` of this host runs in the container of `instance`.
    pub fn is_inside(&self, pid: u32, instance: &InstanceId) -> bool {
        let album = self.inner.album();
        let found = album.whereabouts(instance);
        found.is_some_and(|found| evidence::is_of(pid, &found.container))
    }

    /// Waits until no other call works on this instance.
    async fn turn(&self, instance: &InstanceId) -> OwnedMutexGuard<()> {
        self.queue(instance).lock_owned().await
    }

    /// The same without waiting; `None` while another call works on it.
    fn free_turn(&self, instance: &InstanceId) -> Option<OwnedMutexGuard<()>> {
        self.queue(instance).try_lock_owned().ok()
    }

    fn queue(&self, instance: &InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for or holds are not needed any more.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(instance.clone()).or_default().clone()
    }

    async fn find(&self, instance: &InstanceId) -> Result<Option<Seen>, Failure> {
        self.inner.look_at(instance).await
    }
}

impl Drop for DockerDriver {
    fn drop(&mut self) {
        for watcher in &self.watchers {
            watcher.abort();
        }
        self.inner.copiers().clear();
        if let (Conduct::Tends, Some(folder)) = (self.inner.config.conduct, &self.inner.binds) {
            binds::leave(folder);
        }
        if let Conduct::Tends = self.inner.config.conduct {
            leave_secrets_place(&self.inner.secrets);
        }
    }
}

#[async_trait]
impl Driver for DockerDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Docker
    }

    async fn observe(&self, scope: &Scope) -> Result<Look, DriverError> {
        let lost = |failure: Failure| failure.unreachable("look at its containers");
        let seen = match scope {
            Scope::All => self.inner.look_at_all().await.map_err(lost)?,
            Scope::Instances(wanted) => {
                let looks = wanted.iter().map(|instance| self.inner.look_at(instance));
                let seen = futures_util::future::try_join_all(looks).await;
                seen.map_err(lost)?.into_iter().flatten().collect()
            }
        };
        let images = self.inner.images().clone();
        let sightings = seen.iter().map(|seen| seen.sighting(&images));
        Ok(sightings.collect::<Vec<_>>().into())
    }

    fn unenforced(&self) -> BTreeSet<Limit> {
        let about = self.inner.about.get();
        about.map_or_else(BTreeSet::new, |about| about.unenforced.clone())
    }

    async fn start(&self, launch: &Launch) -> Result<Started, DriverError> {
        self.start_once(launch).await
    }

    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<Stopped, DriverError> {
        self.stop_once(instance, how).await
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), DriverError> {
        self.forget_once(instance).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, DriverError> {
        let place = logs::Place {
            driver: DriverKind::Docker,
            logs_dir: self.inner.logs_dir(),
            instances_dir: self.inner.config.state_dir.join("instances"),
        };
        Ok(logs::stream(place, query.clone()))
    }

    async fn describe(&self) -> Result<Vec<Description>, DriverError> {
        let seen = self.inner.look_at_all().await;
        let seen = seen.map_err(|failure| failure.unreachable("read its containers"))?;
        Ok(seen.into_iter().filter_map(|it| it.description).collect())
    }

    fn hints(&self) -> Hints {
        self.inner.hints.clone()
    }
}
