//! Local processes, each under a guardian of its own.
//!
//! **Expected flow.** `start` makes the instance's file, has the [`ForkServer`] fork a shim, and
//! gives it the word once it has claimed the file; the shim starts the program and guards it
//! to its end. `observe` reads the files. `stop` queues one order to the shim, which carries
//! it out even if the daemon dies meanwhile.
//!
//! **Guarantees.** An identity is boot id, pid and start time, and signals travel through process
//! descriptors: no other process is ever signalled. Killing the daemon costs no instance anything.
//! When it is unsure whether anything of an instance is left, it says that it runs.
//!
//! **Assumptions.** One driver that starts and stops per state directory; the daemon's lock sees to
//! that. Any number may look.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rustix::process::{Resource, Rlimit};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::driver::logs;
use crate::driver::{
    Description as LaunchDescription, Driver, DriverError, Hints, Launch, LogQuery, LogStream,
    Look, Scope, Started, Stopped,
};
use crate::model::{Boot, ComponentSpec, DriverKind, InstanceId, Limit, StartFailure, StopPolicy};

mod account;
mod address;
mod around;
mod attendant;
mod binary;
mod cgroup;
mod context;
mod descendants;
mod environment;
mod exec;
mod failure;
mod foresee;
mod fork_server;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guard;
mod handed;
mod identity;
mod init;
mod launch;
mod leftovers;
#[cfg(test)]
mod measure;
mod output;
mod program;
mod record;
mod secrets;
mod sentry;
mod shim;
mod sight;
mod sink;
mod start;
mod stop;
mod sys;
#[cfg(test)]
mod tests;
mod text;
mod usage;
mod weigh;
mod wire;

use context::{Context, OpenFiles};
use sentry::Sentry;
use sight::{Album, Finding};

pub use around::{Around, Unknown, around};
pub use cgroup::{unenforced, why_unenforced};
pub use environment::Inheritance;
pub use exec::{NotBegun, Ran};
pub use foresee::{foresee, refused_files, remarks, wanted_variables};
pub use fork_server::{FORK_SERVER_VERB, ForkServer, run_fork_server};
pub use handed::{Handed, Reader};
pub use init::{Split, split};
pub(super) use secrets::{
    discard as discard_secrets_dir, leave as leave_secrets_place, make as make_secrets_dir,
};
pub use sys::{hide_from_peers, keep_descriptors_from_children, start_afresh};

/// Where secrets of what has `dir` may lie: in memory, where this host has a place for that.
pub(super) fn secrets_place(dir: &Path) -> PathBuf {
    secrets::Place::find(dir).dir().to_owned()
}

/// Where a process driver keeps things.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// One file per instance. Absolute; made if missing, for this user only.
    pub instances_dir: PathBuf,
    /// Log files, as `NAMESPACE/PIPELINE/COMPONENT/REPLICA/`. Absolute.
    pub logs_dir: PathBuf,
    /// Files that the daemon keeps for instances; they go with them.
    pub handed: Option<Handed>,
}

/// Runs components as local processes.
pub struct ProcessDriver {
    site: Arc<Site>,
    sentry: Arc<Sentry>,
    hints: Hints,
    launches: Semaphore,
    collector: JoinHandle<()>,
}

/// Whether a driver may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stance {
    /// It starts, stops and cleans up.
    Owner,
    /// It only looks.
    Onlooker,
}

/// What all calls share.
struct Site {
    config: ProcessConfig,
    clock: Clock,
    boot: Boot,
    stance: Stance,
    server: Option<ForkServer>,
    secrets: secrets::Place,
    groups: cgroup::Groups,
    /// What of ours components get.
    inheritance: Inheritance,
    open_files: OpenFiles,
    album: Mutex<Album>,
    /// What is known of instances and stands in no file.
    memory: Mutex<HashMap<InstanceId, Memory>>,
    /// What is between the making of its file and the answer of its shim.
    starting: Mutex<HashMap<InstanceId, Arc<ComponentSpec>>>,
}

/// What is known of one instance and stands in no file.
#[derive(Default)]
struct Memory {
    /// What its program found around it, for those that are run beside it.
    context: Option<Arc<Context>>,
    /// Why it did not start, as it was told: what the kernel said stands in its file.
    failure: Option<StartFailure>,
}

impl Site {
    fn memory(&self) -> MutexGuard<'_, HashMap<InstanceId, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self, instance: &InstanceId) -> Option<Arc<Context>> {
        self.memory().get(instance)?.context.clone()
    }

    fn keep_context(&self, instance: &InstanceId, context: Arc<Context>) {
        let mut memory = self.memory();
        memory.entry(instance.clone()).or_default().context = Some(context);
    }

    fn failure(&self, instance: &InstanceId) -> Option<StartFailure> {
        self.memory().get(instance)?.failure.clone()
    }

    fn keep_failure(&self, instance: &InstanceId, failure: StartFailure) {
        let mut memory = self.memory();
        memory.entry(instance.clone()).or_default().failure = Some(failure);
    }

    fn file_of(&self, instance: &InstanceId) -> PathBuf {
        self.config.instances_dir.join(instance.to_string())
    }

    /// The process of an instance's program, by its own file. Blocks for that file.
    fn program(&self, instance: &InstanceId) -> Option<u32> {
        let state = record::State::read(&self.file_of(instance)).ok()??;
        match state.start? {
            record::Start::Running { child, .. } => Some(child.pid),
            record::Start::Failed { .. } => None,
        }
    }

    fn logs_of(&self, instance: &InstanceId) -> PathBuf {
        logs::replica_dir(&self.config.logs_dir, &instance.pipeline, &instance.replica)
    }

    fn album(&self) -> MutexGuard<'_, Album> {
        self.album.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_starting(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<ComponentSpec>>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn starting(&self, instance: &InstanceId) -> Option<Arc<ComponentSpec>> {
        self.lock_starting().get(instance).cloned()
    }

    /// Removes what is left of an instance that never started. A shim of a dead driver that claims
    /// its file at this moment claims what nobody sees, and leaves: no word will come.
    fn clear_debris(&self, instance: &InstanceId) -> io::Result<()> {
        match self.stance {
            Stance::Onlooker => Ok(()),
            Stance::Owner => self.remove(instance),
        }
    }

    fn remove(&self, instance: &InstanceId) -> io::Result<()> {
        self.memory().remove(instance);
        self.secrets.forget(instance)?;
        self.groups.forget(instance)?;
        match std::fs::remove_file(self.file_of(instance)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => answer,
        }
    }
}

impl ProcessDriver {
    /// A driver that owns the instances in `config`. Call it inside a tokio runtime. Raises this
    /// process's limit on open files as far as it may: each running instance costs one.
    ///
    /// # Errors
    /// When the instances directory cannot be made, or `/proc` is not there.
    pub fn new(server: ForkServer, config: ProcessConfig, clock: Clock) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.instances_dir)?;
        Self::open(Stance::Owner, Some(server), config, clock)
    }

    /// A driver that only looks and reads logs, beside a daemon or without one. It starts nothing
    /// and cleans nothing up. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn onlooker(config: ProcessConfig, clock: Clock) -> io::Result<Self> {
        Self::open(Stance::Onlooker, None, config, clock)
    }

    fn open(
        stance: Stance,
        server: Option<ForkServer>,
        config: ProcessConfig,
        clock: Clock,
    ) -> io::Result<Self> {
        let hints = Hints::default();
        let sentry = Arc::new(Sentry::new(hints.clone())?);
        let collector = tokio::spawn(sentry.clone().keep_collecting());
        let groups = match (stance, &server) {
            (Stance::Owner, Some(server)) => claim_groups(server, &config.instances_dir),
            (Stance::Owner | Stance::Onlooker, _) => cgroup::Groups::find(&config.instances_dir),
        };
        let site = Site {
            secrets: secrets::Place::find(&config.instances_dir),
            groups,
            boot: identity::present_boot()?,
            inheritance: Inheritance::of_this_process(),
            open_files: raise_open_files(),
            stance,
            server,
            config,
            clock,
            album: Mutex::default(),
            memory: Mutex::default(),
            starting: Mutex::default(),
        };
        let site = Arc::new(site);
        if stance == Stance::Owner {
            let site = Arc::clone(&site);
            tokio::task::spawn_blocking(move || site.server.as_ref().map(ForkServer::place));
        }
        Ok(Self {
            site,
            sentry,
            hints,
            launches: Semaphore::new(start::LAUNCHES),
            collector,
        })
    }

    /// Where files lie that the daemon keeps for instances of other users; `None` on a host without a
    /// place for them.
    pub fn handed(&self) -> Option<Handed> {
        self.site.config.handed.clone()
    }

    /// The process of an instance's program, by its own file; `None` when it is not known to have
    /// started. Blocks for that file.
    pub fn program(&self, instance: &InstanceId) -> Option<u32> {
        self.site.program(instance)
    }

    /// Runs `work`, which touches files, where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &str,
        work: impl FnOnce(&Site, &Sentry) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (site, sentry) = (self.site.clone(), self.sentry.clone());
        let done = tokio::task::spawn_blocking(move || work(&site, &sentry)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(unreachable(operation, error)),
            Err(error) => Err(unreachable(operation, error)),
        }
    }

    async fn examine(&self, instance: &InstanceId) -> Result<Finding, DriverError> {
        let instance = instance.clone();
        self.blocking("look at an instance", move |site, _| {
            let file = site.file_of(&instance);
            let spec = record::Description::read(&file)?.map(|description| description.spec);
            sight::examine(site, &file, spec.as_deref())
        })
        .await
    }
}

impl Drop for ProcessDriver {
    fn drop(&mut self) {
        self.collector.abort();
        if let Some(server) = &self.site.server {
            // Where nothing runs any more its group goes as well.
            server.end();
            self.site.groups.leave();
            // The next one finds a place of its own.
            self.site.secrets.leave();
            if let Some(handed) = &self.site.config.handed {
                handed.leave();
            }
        }
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Process
    }

    async fn observe(&self, scope: &Scope) -> Result<Look, DriverError> {
        let scope = scope.clone();
        self.blocking("look at its instances", move |site, sentry| {
            sight::look(site, sentry, &scope)
        })
        .await
        .map(Look::from)
    }

    async fn start(&self, launch: &Launch) -> Result<Started, DriverError> {
        self.start_once(launch).await
    }

    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<Stopped, DriverError> {
        self.stop_whole_tree(instance, how).await
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), DriverError> {
        match self.examine(instance).await? {
            // Not over, as far as can be seen.
            Finding::Guarded { .. } | Finding::Abandoned { .. } => return Ok(()),
            Finding::Absent | Finding::Debris | Finding::Over { .. } => {}
        }
        let instance = instance.clone();
        self.blocking("forget an instance", move |site, sentry| {
            site.album().forget(instance.to_string().as_ref(), sentry);
            // Not with the debris of a start: they are written before the next one.
            if let Some(handed) = &site.config.handed {
                handed.remove(&instance)?;
            }
            site.remove(&instance)
        })
        .await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, DriverError> {
        Ok(logs::stream(
            logs::Place {
                driver: DriverKind::Process,
                logs_dir: self.site.config.logs_dir.clone(),
                instances_dir: self.site.config.instances_dir.clone(),
            },
            query.clone(),
        ))
    }

    async fn describe(&self) -> Result<Vec<LaunchDescription>, DriverError> {
        self.blocking("read its instances", |site, _| {
            let mut descriptions = Vec::new();
            let entries = match std::fs::read_dir(&site.config.instances_dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(descriptions),
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                if launch::instance_of(&entry.file_name()).is_none() {
                    continue;
                }
                let path = entry.path();
                let read = record::Description::read(&path);
                if let Some(read) = read.map_err(|error| sight::about(&path, &error))? {
                    descriptions.push(LaunchDescription {
                        instance: read.instance,
                        spec: read.spec,
                        generation: read.generation,
                        file: read.file,
                    });
                }
            }
            Ok(descriptions)
        })
        .await
    }

    fn boot(&self) -> Option<Boot> {
        Some(self.site.boot.clone())
    }

    fn unenforced(&self) -> BTreeSet<Limit> {
        self.site.groups.missing()
    }

    fn hints(&self) -> Hints {
        self.hints.clone()
    }
}

fn unreachable(operation: &str, why: impl std::fmt::Display) -> DriverError {
    DriverError::Unreachable {
        driver: DriverKind::Process,
        operation: operation.to_owned(),
        why: why.to_string(),
    }
}

/// The control groups of the driver that owns `instances_dir`, with all that will run in them.
fn claim_groups(server: &ForkServer, instances_dir: &Path) -> cgroup::Groups {
    let groups = cgroup::Groups::claim(instances_dir, server.pid(), |instance| {
        let file = instances_dir.join(instance.to_string());
        // What cannot be read keeps what it has.
        let description = record::Description::read(&file).ok().flatten()?;
        Some(description.spec.resources)
    });
    if let Some(trees) = groups.trees() {
        server.fork_in(trees);
    }
    groups
}

/// Raises this process's soft limit on open files to the hard one; answers what it may give.
fn raise_open_files() -> OpenFiles {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    OpenFiles::of_this_process()
}
