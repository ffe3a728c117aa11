//! Jobs of a Nomad cluster, spoken to through its HTTP API.
//!
//! **Expected flow.** `start` registers one batch job for one instance, which has never been there, and
//! tags its version, so that it is kept when it has ended. `observe` lists the jobs that carry our mark
//! and their placements. `stop` ends the job, `forget` removes it. What a program writes is copied, as
//! it comes, into the log files that processes have too.
//!
//! **Guarantees.** flowctl alone restarts. A job is absent when servers that have a leader say so of that
//! very job, to somebody who may look; everything else is blindness. What the cluster does to an
//! instance (a drain, a lost node, a person's hand) is told as that, and is no failure of it.
//!
//! **Assumptions.** One driver per state directory; the daemon's lock sees to that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::driver::logs;
use crate::driver::{
    Conduct, Description, Driver, DriverError, Hints, Launch, LogQuery, LogStream, Look, Scope,
    Started, Stopped,
};
use crate::images::Gate;
use crate::model::{DriverKind, InstanceId, Limit, NomadSpec, Partition, StopPolicy};

mod ahead;
mod client;
mod copy;
mod failure;
mod job;
mod ledger;
mod names;
mod observe;
mod peers;
mod placement;
mod position;
mod render;
mod settings;
mod sight;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod text;
mod watch;
mod wire;

use client::Client;
use copy::Copiers;
use ledger::Ledger;
use settings::Address;
use sight::Seen;

pub use ahead::Obstacle;
pub use render::rendered;
pub use settings::{Settings, SettingsError};

/// Where in a state directory it is kept what was registered.
const KEPT: &str = "nomad";

/// Which clusters a driver asks, and as whom.
pub struct NomadConfig {
    /// What the daemon's variables say, or why they cannot be used: whoever needs them is told then.
    pub settings: Result<Settings, SettingsError>,
    /// The daemon's state directory: logs and what is registered are kept below it.
    pub state_dir: PathBuf,
    /// The identity of the state directory. Jobs that carry it are ours, and no others.
    pub owner: String,
    /// What may be done to jobs that are seen.
    pub conduct: Conduct,
    /// Decides which images may run.
    pub gate: Arc<Gate>,
}

/// Runs components as jobs.
pub struct NomadDriver {
    inner: Arc<Inner>,
}

/// What calls and background tasks share.
struct Inner {
    config: NomadConfig,
    clock: Clock,
    hints: Hints,
    ledger: Arc<Ledger>,
    places: Mutex<Places>,
    /// The namespaces that components name, of the daemon's own cluster.
    attended: Mutex<BTreeSet<Partition>>,
    /// What was last seen of each instance, and where.
    album: Mutex<BTreeMap<InstanceId, (Arc<Place>, Seen)>>,
    copiers: Mutex<Copiers>,
}

/// One namespace of one cluster.
struct Place {
    client: Arc<Client>,
    namespace: String,
    /// What components call it, where they say so.
    named: Named,
}

/// What the file of a component says of where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    address: Option<String>,
    namespace: Option<String>,
}

impl From<&NomadSpec> for Named {
    fn from(spec: &NomadSpec) -> Self {
        Self {
            address: spec.address.clone(),
            namespace: spec.namespace.clone(),
        }
    }
}

#[derive(Default)]
struct Places {
    clients: BTreeMap<Address, Arc<Client>>,
    places: BTreeMap<Named, Arc<Place>>,
    /// Each listens to the events of one place.
    watchers: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn logs_dir(&self) -> PathBuf {
        self.config.state_dir.join("logs")
    }

    /// Whether somebody has told the daemon where Nomad is.
    fn is_told(&self) -> bool {
        let settings = self.config.settings.as_ref();
        settings.is_ok_and(|settings| settings.is_told)
    }

    fn kept_dir(&self) -> PathBuf {
        kept_dir(&self.config)
    }

    /// Where components are that say `named`.
    fn place(self: &Arc<Self>, named: &Named) -> Result<Arc<Place>, SettingsError> {
        let mut places = lock(&self.places);
        if let Some(place) = places.places.get(named) {
            return Ok(Arc::clone(place));
        }
        let settings = self.config.settings.as_ref().map_err(Clone::clone)?;
        let address = match &named.address {
            Some(text) => Address::read("nomad.address", text)?,
            None => settings.address.clone(),
        };
        let client = places.clients.entry(address.clone());
        let client = client.or_insert_with(|| Arc::new(Client::new(address, settings.clone())));
        let place = Arc::new(Place {
            client: Arc::clone(client),
            namespace: named
                .namespace
                .clone()
                .unwrap_or_else(|| settings.namespace.clone()),
            named: named.clone(),
        });
        places.places.insert(named.clone(), Arc::clone(&place));
        let watcher = tokio::spawn(watch::keep_listening(
            Arc::downgrade(self),
            Arc::clone(&place),
        ));
        places.watchers.push(watcher);
        Ok(place)
    }

    /// Where an instance is, as far as that is known.
    fn place_of(self: &Arc<Self>, instance: &InstanceId) -> Option<Arc<Place>> {
        if let Some(entry) = self.ledger.get(instance) {
            let named = Named {
                address: entry.address,
                namespace: entry.namespace,
            };
            return self.place(&named).ok();
        }
        lock(&self.album)
            .get(instance)
            .map(|(place, _)| Arc::clone(place))
    }
}

fn kept_dir(config: &NomadConfig) -> PathBuf {
    config.state_dir.join(KEPT)
}

impl NomadDriver {
    /// A driver for the clusters that components name. Call it inside a tokio runtime. It connects when
    /// it is first needed. Blocks on the disk for what is kept.
    pub fn new(config: NomadConfig, clock: Clock) -> Arc<Self> {
        let ledger = Ledger::open(kept_dir(&config));
        let inner = Arc::new(Inner {
            clock,
            hints: Hints::default(),
            ledger,
            places: Mutex::default(),
            attended: Mutex::default(),
            album: Mutex::default(),
            copiers: Mutex::default(),
            config,
        });
        Arc::new(Self { inner })
    }

    /// Whether the daemon of this directory has registered something that is not forgotten yet.
    pub fn has_kept_something(state_dir: &Path) -> bool {
        !Ledger::open(state_dir.join(KEPT)).all().is_empty()
    }

    /// Whether it has registered something that is not forgotten yet, or somebody has told the daemon
    /// where Nomad is.
    pub fn may_have_some(&self) -> bool {
        self.inner.is_told() || !self.inner.ledger.all().is_empty()
    }

    /// Where `port` of a running instance is reached; `None` before that was seen, or where it has no
    /// such port.
    pub fn reach(&self, instance: &InstanceId, port: u16) -> Option<SocketAddr> {
        let album = lock(&self.inner.album);
        let (_, seen) = album.get(instance)?;
        let ports = &seen.spec()?.ports;
        let port = ports.iter().find(|it| it.container_port == port)?;
        seen.reach(port)?.parse().ok()
    }
}

impl Drop for NomadDriver {
    fn drop(&mut self) {
        for watcher in &lock(&self.inner.places).watchers {
            watcher.abort();
        }
        lock(&self.inner.copiers).clear();
    }
}

#[async_trait]
impl Driver for NomadDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Nomad
    }

    fn attend(&self, partitions: &BTreeSet<Partition>) {
        lock(&self.inner.attended).extend(partitions.iter().cloned());
    }

    async fn observe(&self, scope: &Scope) -> Result<Look, DriverError> {
        match scope {
            Scope::All => self.inner.look_at_all().await,
            Scope::Instances(wanted) => self.inner.look_at_some(wanted).await,
        }
    }

    async fn start(&self, launch: &Launch) -> Result<Started, DriverError> {
        self.inner.start_once(launch).await
    }

    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<Stopped, DriverError> {
        self.inner.stop_once(instance, how).await
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), DriverError> {
        self.inner.forget_once(instance).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, DriverError> {
        let place = logs::Place {
            driver: DriverKind::Nomad,
            logs_dir: self.inner.logs_dir(),
            instances_dir: self.inner.config.state_dir.join("instances"),
        };
        Ok(logs::stream(place, query.clone()))
    }

    async fn describe(&self) -> Result<Vec<Description>, DriverError> {
        self.inner.describe_all().await
    }

    fn unenforced(&self) -> BTreeSet<Limit> {
        // What Nomad has of CPU is a share.
        [Limit::Cpu].into()
    }

    fn hints(&self) -> Hints {
        self.inner.hints.clone()
    }
}
