//! Jobs of a Kubernetes cluster: one for each run of a replica, with one pod that is never restarted.
//!
//! **Expected flow.** `start` writes what the Job needs and creates it under a name that follows from the
//! instance: the name is the lock against a second one. Lists and watches feed a cache; `observe`
//! answers from it. An end is answered by suspending the Job and recording on it how it ended, before
//! anybody else may start it again. The output of each pod is copied, as it comes, into the log files
//! that processes have too.
//!
//! **Guarantees.** Only what carries this daemon's mark is touched. Every call has a deadline, and a
//! cluster that is silent, refuses to be looked at, or is another one than before is
//! [`DriverError::Unreachable`], never an absence. What the cluster takes from where it runs is no failure of the
//! component. A replica whose node does not report is unknown: no second copy of it is started.
//!
//! **Assumptions.** One driver that starts and stops per state directory; the daemon's lock sees to
//! that.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use k8s_openapi as _;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::driver::logs;
use crate::driver::{
    Conduct, Description, Driver, DriverError, Hints, Launch, LogQuery, LogStream, Look, Scope,
    Started, Stopped,
};
use crate::images::Gate;
use crate::model::{DriverKind, Hidden, InstanceId, Limit, Partition, StopPolicy};

mod cache;
mod client;
mod config;
mod copy;
mod end;
mod failure;
mod limiter;
mod look_ahead;
mod memory;
mod nodes;
pub mod objects;
mod places;
mod render;
mod rights;
mod sight;
mod start;
mod stop;
mod tend;
#[cfg(test)]
mod tests;
mod tidy;
mod why;
mod wire;

use cache::Cache;
use client::{Api, Failure, unreachable};
use copy::Copiers;
use memory::Memory;
use nodes::Nodes;
use places::{Place, Places};
use sight::{Moment, Verdict};

pub use config::ClusterChoice;
pub use look_ahead::Obstacle;
pub use memory::remembered;
pub use render::{Rendering, rendered};
pub use rights::{RIGHTS, Right};
pub use tidy::{Component, Tidied};

/// What a look is called in errors.
const LOOK: &str = "look at its Jobs";

/// Which cluster a driver uses, and as whose.
#[derive(Clone)]
pub struct KubernetesConfig {
    /// Which cluster.
    pub cluster: ClusterChoice,
    /// The daemon's state directory: logs lie below it, and what is remembered of the cluster.
    pub state_dir: PathBuf,
    /// The identity of the state directory. What carries it is ours, and nothing else.
    pub owner: String,
    /// What may be done to what is seen.
    pub conduct: Conduct,
    /// Decides which images may run.
    pub gate: Arc<Gate>,
}

/// Runs components as Jobs.
pub struct KubernetesDriver {
    inner: Arc<Inner>,
    /// One call at a time per instance.
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
    tender: JoinHandle<()>,
}

/// What calls and background tasks share.
struct Inner {
    config: KubernetesConfig,
    /// The owner as a label has it.
    owner: String,
    clock: Clock,
    hints: Hints,
    /// The way to the cluster, once it was found and is the one of before.
    api: tokio::sync::OnceCell<Arc<Api>>,
    memory: Mutex<Memory>,
    cache: Mutex<Cache>,
    places: Mutex<Places>,
    /// The namespaces that components name, or that hold instances.
    attended: Mutex<BTreeSet<String>>,
    nodes: Mutex<Nodes>,
    copiers: Mutex<Copiers>,
    /// Counts the changes of the cache, for those who wait for one.
    changes: watch::Sender<u64>,
    /// Instances that something has changed of, for the one who tends them.
    tended: mpsc::UnboundedSender<InstanceId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A digest in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref()[..10]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The owner of a state directory as a label has it.
fn owner_label(owner: &str) -> String {
    format!("f{}", digest(owner.as_bytes()))
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.cache)
    }

    /// The way to the cluster. It is found out once; until it could be asked, each call tries again.
    async fn api(&self) -> Result<&Arc<Api>, Failure> {
        self.api.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Arc<Api>, Failure> {
        let variable = |name: &str| std::env::var_os(name);
        let access = config::Access::find(&self.config.cluster, &variable).await?;
        let api = Arc::new(Api::new(access)?);
        self.pin(&api).await?;
        let access = api.access();
        tracing::info!(
            url = access.url(),
            by = access.by(),
            namespace = access.namespace(),
            "components run on this cluster"
        );
        Ok(api)
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            instant: Instant::now(),
        }
    }

    /// Says that something has changed of these.
    fn changed(&self, instances: impl IntoIterator<Item = InstanceId>) {
        let mut any = false;
        for instance in instances {
            any = true;
            // The one who tends them lives as long as the driver does.
            self.tended.send(instance.clone()).ok();
            self.hints.raise(instance);
        }
        if any {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// What is to be said of an instance.
    fn judge(&self, instance: &InstanceId, home: &str) -> Verdict {
        let silent = lock(&self.nodes).silent();
        let moment = self.moment();
        let cache = self.cache();
        cache.get(instance).map_or(Verdict::Absent, |entry| {
            sight::judge((instance, entry), &silent, home, moment)
        })
    }

    /// The namespaces that a look at all is a look at.
    fn namespaces(&self, home: &str) -> BTreeSet<String> {
        let mut all = lock(&self.attended).clone();
        all.extend(lock(&self.memory).namespaces());
        all.insert(home.to_owned());
        all
    }

    async fn look(self: &Arc<Self>, scope: &Scope) -> Result<Look, DriverError> {
        let api = self.api().await;
        let api = api.map_err(|failure| failure.unreachable(LOOK))?;
        let home = api.access().namespace();
        let namespaces = self.namespaces(home);
        self.watch_over(api, &namespaces);
        self.listed(&namespaces).await;
        let now = Instant::now();
        let blind = |name: &String| self.place(name)?.blind(now);
        if let Some(why) = blind(&home.to_owned()) {
            return Err(unreachable(LOOK, why));
        }
        let hidden = namespaces
            .iter()
            .filter_map(|name| Some((name, blind(name)?)));
        let mut look = Look::default();
        for (name, why) in hidden {
            let partition = Hidden::Partition(Partition::new(name.clone()));
            look.hidden.insert(partition, why);
        }
        let silent = lock(&self.nodes).silent();
        let moment = self.moment();
        let cache = self.cache();
        let seen = cache.entries().filter(|(instance, entry)| {
            let is_wanted = match scope {
                Scope::All => true,
                Scope::Instances(wanted) => wanted.contains(instance),
            };
            let partition = Hidden::Partition(Partition::new(entry.namespace.clone()));
            is_wanted && !look.hidden.contains_key(&partition)
        });
        let judged = seen.map(|(instance, entry)| {
            let verdict = sight::judge((instance, entry), &silent, home, moment);
            (instance.clone(), verdict)
        });
        let judged: Vec<_> = judged.collect();
        for (instance, verdict) in judged {
            match verdict {
                Verdict::Absent => {}
                Verdict::Unknown(why) => {
                    look.hidden.insert(Hidden::Instance(instance), why);
                }
                Verdict::Is(sighting) => look.sightings.push(*sighting),
            }
        }
        Ok(look)
    }

    fn place(&self, namespace: &str) -> Option<Arc<Place>> {
        lock(&self.places).get(namespace)
    }

    /// Log files, of all drivers alike.
    fn logs_dir(&self) -> PathBuf {
        self.config.state_dir.join("logs")
    }
}

impl KubernetesDriver {
    /// A driver for the cluster in `config`. Call it inside a tokio runtime. It connects when it is
    /// first needed, so it can be made where there is no cluster.
    pub fn new(config: KubernetesConfig, clock: Clock) -> Arc<Self> {
        let (tended, to_tend) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            owner: owner_label(&config.owner),
            memory: Mutex::new(Memory::of(&config.state_dir)),
            config,
            clock,
            hints: Hints::default(),
            api: tokio::sync::OnceCell::new(),
            cache: Mutex::default(),
            places: Mutex::default(),
            attended: Mutex::default(),
            nodes: Mutex::default(),
            copiers: Mutex::default(),
            changes: watch::Sender::new(0),
            tended,
        });
        let tender = tokio::spawn(tend::tend(Arc::downgrade(&inner), to_tend));
        Arc::new(Self {
            inner,
            turns: Mutex::default(),
            tender,
        })
    }

    /// Hands another token to an instance that was given one and lives.
    ///
    /// # Errors
    /// When the cluster does not let it, or does not answer.
    pub async fn renew_token(&self, instance: &InstanceId, token: &str) -> Result<(), DriverError> {
        let _turn = self.turn(instance).await;
        self.inner.renew_token(instance, token).await
    }

    /// Waits until no other call works on this instance.
    async fn turn(&self, instance: &InstanceId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            // Those that nobody waits for or holds are not needed any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(instance.clone()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

impl Drop for KubernetesDriver {
    fn drop(&mut self) {
        self.tender.abort();
        lock(&self.inner.places).clear();
        lock(&self.inner.copiers).clear();
    }
}

#[async_trait]
impl Driver for KubernetesDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Kubernetes
    }

    async fn observe(&self, scope: &Scope) -> Result<Look, DriverError> {
        self.inner.look(scope).await
    }

    fn attend(&self, partitions: &BTreeSet<Partition>) {
        let names = partitions.iter().map(|it| it.as_str().to_owned());
        *lock(&self.inner.attended) = names.collect();
    }

    async fn start(&self, launch: &Launch) -> Result<Started, DriverError> {
        let _turn = self.turn(&launch.instance).await;
        self.inner.start(launch).await
    }

    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<Stopped, DriverError> {
        let _turn = self.turn(instance).await;
        self.inner.stop(instance, how).await
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), DriverError> {
        let _turn = self.turn(instance).await;
        self.inner.forget(instance).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, DriverError> {
        let place = logs::Place {
            driver: DriverKind::Kubernetes,
            logs_dir: self.inner.logs_dir(),
            instances_dir: self.inner.config.state_dir.join("instances"),
        };
        Ok(logs::stream(place, query.clone()))
    }

    async fn describe(&self) -> Result<Vec<Description>, DriverError> {
        let look = self.inner.look(&Scope::All).await?;
        if let Some(why) = look.hidden.into_values().next() {
            return Err(unreachable(LOOK, why));
        }
        let cache = self.inner.cache();
        let jobs = cache.entries().filter_map(|(_, entry)| entry.job.as_ref());
        let described = jobs.filter_map(|job| job.description.as_deref().cloned());
        Ok(described.collect())
    }

    fn unenforced(&self) -> BTreeSet<Limit> {
        [Limit::Pids].into()
    }

    fn hints(&self) -> Hints {
        self.inner.hints.clone()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_owner_is_always_a_label() {
        let label = owner_label("0123:/var/lib/flow ctl");
        assert_eq!(label.len(), 21);
        assert!(label.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(label, owner_label("0123:/var/lib/flow ctl"));
    }
}
