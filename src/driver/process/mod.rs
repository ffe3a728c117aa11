//! Local processes, each under a guardian of its own.
//!
//! **Expected flow.** `start` makes an instance directory, has the [`ForkServer`] fork a shim, and
//! gives it the word once it has claimed the directory; the shim starts the program and guards it
//! to its end. `observe` reads the directories. `stop` queues one order to the shim, which carries
//! it out even if the daemon dies meanwhile.
//!
//! **Guarantees.** An identity is boot id, pid and start time, and signals travel through process
//! descriptors: no other process is ever signalled. Killing the daemon costs no instance anything.
//! When it is unsure whether anything of an instance is left, it says that it runs.
//!
//! **Assumptions.** One driver that starts and stops per state directory; the daemon's lock sees to
//! that. Any number may look.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Resource, Rlimit, Signal, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::driver::{
    Description as LaunchDescription, Driver, DriverError, Hints, Launch, LogQuery, LogStream,
    Scope, Started,
};
use crate::model::{
    ComponentSpec, DriverKind, Handle, InstanceId, Life, ProcessIdentity, Sighting, StartFailure,
    StopPolicy, Timestamp,
};

mod cgroup;
mod descendants;
mod failure;
mod fork_server;
mod identity;
mod launch;
mod leftovers;
pub mod logs;
#[cfg(test)]
mod measure;
mod record;
mod secrets;
mod sentry;
mod shim;
mod sight;
mod sink;
mod sys;
#[cfg(test)]
mod tests;
mod text;
mod wire;

use failure::Refusal;
use identity::Boot;
use sentry::Sentry;
use sight::{Album, Finding};
use wire::{GO, Reply, StopOrder};

pub use cgroup::Enforced;
pub use fork_server::{FORK_SERVER_VERB, ForkServer, run_fork_server};

/// Shims being made at once. More would not be faster, and each holds descriptors.
const LAUNCHES: usize = 32;
/// A shim that has not claimed its directory by then is not waited for; it starts nothing.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// A program that has not been executed by then (its file lies on a hung mount) is left to
/// `observe`.
const EXEC_PATIENCE: Duration = Duration::from_secs(30);
/// After the grace period, how long the killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Where a process driver keeps things.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// One directory per instance. Absolute; made if missing, for this user only.
    pub instances_dir: PathBuf,
    /// Log files, as `NAMESPACE/PIPELINE/COMPONENT/REPLICA/`. Absolute.
    pub logs_dir: PathBuf,
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
    /// Open files, soft and hard, that a program gets unless it asks for others: what this process
    /// was started with.
    nofile: (u64, u64),
    album: Mutex<Album>,
    /// What is between the making of its directory and the answer of its shim.
    starting: Mutex<HashMap<InstanceId, Arc<ComponentSpec>>>,
}

impl Site {
    fn dir_of(&self, instance: &InstanceId) -> PathBuf {
        self.config.instances_dir.join(instance.to_string())
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

    /// Removes the directory of an instance that never started. One that a shim of a dead driver
    /// is claiming at this moment stays until that shim has found out and left.
    fn clear_debris(&self, instance: &InstanceId, dir: &Path) -> io::Result<()> {
        match self.stance {
            Stance::Onlooker => Ok(()),
            Stance::Owner => match self.remove(instance, dir) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                answer => answer,
            },
        }
    }

    fn remove(&self, instance: &InstanceId, dir: &Path) -> io::Result<()> {
        self.secrets.forget(instance)?;
        self.groups.forget(instance)?;
        match std::fs::remove_dir_all(dir) {
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
        let site = Site {
            secrets: secrets::Place::find(&config.instances_dir),
            groups: cgroup::Groups::find(&config.instances_dir),
            boot: Boot::read()?,
            nofile: raise_open_files(),
            stance,
            server,
            config,
            clock,
            album: Mutex::default(),
            starting: Mutex::default(),
        };
        Ok(Self {
            site: Arc::new(site),
            sentry,
            hints,
            launches: Semaphore::new(LAUNCHES),
            collector,
        })
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
            let dir = site.dir_of(&instance);
            let spec = record::Description::read(&dir)?.map(|description| description.spec);
            sight::examine(site, &dir, spec.as_deref())
        })
        .await
    }

    /// What an earlier call, of this driver or of one before it, made of this instance; `None` when
    /// it may be started.
    async fn earlier(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<Result<Started, StartFailure>>, DriverError> {
        let answer = |handle: Option<Handle>, since: Timestamp| match handle {
            Some(handle) => Ok(Started { handle, since }),
            None => Err(StartFailure {
                reason: "Lost".to_owned(),
                message: format!("the guardian of {instance} died before its program ran"),
            }),
        };
        for _ in 0..200 {
            match self.examine(instance).await? {
                Finding::Absent => return Ok(None),
                Finding::Debris => {
                    let instance = instance.clone();
                    self.blocking("clear a directory", move |site, _| {
                        site.clear_debris(&instance, &site.dir_of(&instance))
                    })
                    .await?;
                }
                Finding::Guarded {
                    handle: Some(handle),
                    life: Life::Running { since },
                    ..
                } => return Ok(Some(Ok(Started { handle, since }))),
                // A shim whose driver is gone ends at once; one that is about to start is done soon.
                Finding::Guarded { .. } => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Finding::Over { handle, life } => {
                    return Ok(Some(match life {
                        Life::NotStarted { failure, .. } => Err(failure),
                        Life::Exited(exit) => answer(handle, exit.started_at.unwrap_or(exit.at)),
                        Life::Lost { at } | Life::HostReboot { at } => answer(handle, at),
                        Life::Created | Life::Running { .. } | Life::RuntimeRestarted(_) => {
                            answer(handle, self.site.clock.now())
                        }
                    }));
                }
                Finding::Abandoned { handle, .. } => {
                    return Ok(Some(answer(handle, self.site.clock.now())));
                }
            }
        }
        Err(unreachable(
            "start an instance",
            format!("an earlier guardian of {instance} neither starts it nor ends"),
        ))
    }

    async fn launch(&self, launch: &Launch) -> Result<Started, DriverError> {
        let operation = "start an instance";
        let permit = self
            .launches
            .acquire()
            .await
            .map_err(|error| unreachable(operation, error))?;
        let wanted = launch.clone();
        let prepared = self
            .blocking(operation, move |site, _| Ok(begin(site, &wanted)))
            .await?;
        let (control, request) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return Err(self.refuse(launch, refusal.into()).await),
        };
        let mut control =
            UnixStream::from_std(control).map_err(|error| unreachable(operation, error))?;
        let claimed = timeout(CLAIM_PATIENCE, async {
            control.write_all(&request).await?;
            receive(&mut control).await
        })
        .await;
        drop(request);
        let shim = match claimed {
            Ok(Ok(Reply::Ready { pid, ticks })) => self.identity(pid, ticks),
            Ok(Ok(Reply::Failed { stage, errno, .. })) => {
                let failure = Refusal::of_stage(Some(stage), errno, &launch.spec).into();
                return Err(self.refuse(launch, failure).await);
            }
            Ok(Ok(Reply::Started { .. })) => {
                return Err(unreachable(operation, "its shim did not wait"));
            }
            Ok(Err(error)) => {
                return Err(unreachable(operation, format!("its shim ended: {error}")));
            }
            Err(_) => return Err(unreachable(operation, "its shim does not answer")),
        };
        drop(permit);
        let started = timeout(EXEC_PATIENCE, async {
            control.write_all(&[GO]).await?;
            receive(&mut control).await
        })
        .await;
        match started {
            Ok(Ok(Reply::Started { pid, ticks, at })) => {
                let handle = Handle::Process {
                    shim: shim.clone(),
                    child: self.identity(pid, ticks),
                };
                let since = Timestamp::from_millis(at);
                self.keep(launch, &shim, &handle, since)
                    .map_err(|error| unreachable(operation, error))?;
                Ok(Started { handle, since })
            }
            Ok(Ok(Reply::Failed { stage, errno, .. })) => {
                let refusal = Refusal::of_stage(Some(stage), errno, &launch.spec);
                Err(DriverError::Refused(refusal.into()))
            }
            Ok(Ok(Reply::Ready { .. })) => Err(unreachable(operation, "its shim stutters")),
            Ok(Err(error)) => Err(unreachable(operation, format!("its shim ended: {error}"))),
            Err(_) => Err(unreachable(operation, "its program is not executed yet")),
        }
    }

    fn identity(&self, pid: u32, start_ticks: u64) -> ProcessIdentity {
        ProcessIdentity {
            boot_id: self.site.boot.id.clone(),
            pid,
            start_ticks,
        }
    }

    /// Removes what a start that certainly started nothing has left.
    async fn refuse(&self, launch: &Launch, failure: StartFailure) -> DriverError {
        let instance = launch.instance.clone();
        let cleared = self
            .blocking("clear a directory", move |site, _| {
                site.clear_debris(&instance, &site.dir_of(&instance))
            })
            .await;
        // What could not be removed is seen and removed at the next look.
        if let Err(error) = cleared {
            tracing::debug!(instance = %launch.instance, %error, "debris stays for now");
        }
        DriverError::Refused(failure)
    }

    /// Watches a shim that has just answered. One that has ended already is looked at later.
    fn keep(
        &self,
        launch: &Launch,
        shim: &ProcessIdentity,
        handle: &Handle,
        since: Timestamp,
    ) -> io::Result<()> {
        let Some(process) = identity::open(shim, &self.site.boot)? else {
            self.hints.raise(launch.instance.clone());
            return Ok(());
        };
        let sighting = sight::sighting_of(
            &launch.instance,
            Some(&launch.spec),
            Some(handle.clone()),
            Life::Running { since },
        );
        let spec = Some(launch.spec.clone());
        self.site
            .album()
            .keep(spec, sighting, Some(process), &self.sentry)
    }

    async fn stop_guarded(
        &self,
        instance: &InstanceId,
        shim: OwnedFd,
        handle: Option<&Handle>,
        how: &StopPolicy,
    ) -> Result<(), DriverError> {
        let failed = |error: io::Error| unreachable("stop an instance", error);
        let grace = how.grace_period.get();
        let order = StopOrder {
            signal: u8::try_from(how.signal.number()).unwrap_or(15),
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        };
        // Someone may have stopped the shim; one that has just ended needs no order.
        for sent in [
            pidfd_send_signal(&shim, Signal::CONT).map_err(io::Error::from),
            sys::send_order(shim.as_fd(), order.encode()),
        ] {
            match sent {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                answer => answer.map_err(failed)?,
            }
        }
        let ended = sys::waitable(shim).map_err(failed)?;
        if let Ok(ready) = timeout(grace + KILL_PATIENCE / 2, ended.readable()).await {
            return ready.map(|mut ended| ended.retain_ready()).map_err(failed);
        }
        // It is stuck on a hung disk, or on a program that the kernel does not let go of.
        match handle {
            Some(Handle::Process { child, .. }) => {
                // The program's number is held by its shim, so its group is nobody else's.
                if identity::open(child, &self.site.boot)
                    .map_err(failed)?
                    .is_some()
                {
                    let group = i32::try_from(child.pid).unwrap_or_default();
                    sys::signal_group(group, libc::SIGKILL);
                }
            }
            // Its program is not executed yet and may never be: the shim takes it along.
            Some(Handle::Docker { .. } | Handle::Nomad { .. } | Handle::Kubernetes { .. })
            | None => {
                pidfd_send_signal(ended.get_ref(), Signal::KILL)
                    .map_err(|error| failed(error.into()))?;
            }
        }
        match timeout(KILL_PATIENCE / 2, ended.readable()).await {
            Ok(ready) => ready.map(|mut ended| ended.retain_ready()).map_err(failed),
            Err(_) => Err(DriverError::StillAlive {
                instance: instance.clone(),
                why: "processes of it survived SIGKILL: they are blocked in the kernel, or the \
                      log disk does not answer"
                    .to_owned(),
            }),
        }
    }
}

impl Drop for ProcessDriver {
    fn drop(&mut self) {
        self.collector.abort();
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Process
    }

    async fn observe(&self, scope: &Scope) -> Result<Vec<Sighting>, DriverError> {
        let scope = scope.clone();
        self.blocking("look at its instances", move |site, sentry| {
            sight::look(site, sentry, &scope)
        })
        .await
    }

    async fn start(&self, launch: &Launch) -> Result<Started, DriverError> {
        let instance = &launch.instance;
        // A second call waits for the first, and then answers the same.
        let _mark = loop {
            match Starting::new(&self.site, launch) {
                Some(mark) => break mark,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        if self.site.dir_of(instance).exists()
            && let Some(earlier) = self.earlier(instance).await?
        {
            return earlier.map_err(DriverError::Refused);
        }
        self.launch(launch).await
    }

    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<(), DriverError> {
        if let Finding::Guarded {
            process, handle, ..
        } = self.examine(instance).await?
        {
            self.stop_guarded(instance, process, handle.as_ref(), how)
                .await?;
        }
        // A look settles what a dead shim left, and tells whether anything survived. A fresh one:
        // a shim that has written its last word is remembered as alive until it is quite gone.
        let stopped = instance.clone();
        let seen = self
            .blocking("look at an instance", move |site, sentry| {
                site.album().forget(stopped.to_string().as_ref(), sentry);
                sight::look(site, sentry, &Scope::Instances([stopped].into()))
            })
            .await?;
        let alive = seen.iter().any(|sighting| sighting.life.is_alive());
        if alive {
            return Err(DriverError::StillAlive {
                instance: instance.clone(),
                why: "processes of it survived SIGKILL".to_owned(),
            });
        }
        Ok(())
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
            site.remove(&instance, &site.dir_of(&instance))
        })
        .await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, DriverError> {
        Ok(logs::stream(
            logs::Place {
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
                if let Some(read) = record::Description::read(&entry?.path())? {
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

    fn hints(&self) -> Hints {
        self.hints.clone()
    }
}

/// Marks an instance as being started for as long as it lives.
struct Starting<'a> {
    site: &'a Site,
    instance: InstanceId,
}

impl<'a> Starting<'a> {
    /// `None` when another call is at it.
    fn new(site: &'a Site, launch: &Launch) -> Option<Self> {
        let mut starting = site.lock_starting();
        if starting.contains_key(&launch.instance) {
            return None;
        }
        starting.insert(launch.instance.clone(), launch.spec.clone());
        Some(Self {
            site,
            instance: launch.instance.clone(),
        })
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.site.lock_starting().remove(&self.instance);
    }
}

/// Makes the directory and asks for a shim; answers where to speak with it, and what to say.
fn begin(site: &Site, launch: &Launch) -> Result<(StdUnixStream, Vec<u8>), Refusal> {
    let server = site.server.as_ref().ok_or(Refusal::OnlyLooks)?;
    let request = launch::prepare(site, launch)?;
    let open = || -> io::Result<StdUnixStream> {
        let (ours, theirs) = StdUnixStream::pair()?;
        server.launch(theirs.as_fd())?;
        ours.set_nonblocking(true)?;
        Ok(ours)
    };
    Ok((open().map_err(Refusal::Process)?, request))
}

async fn receive(control: &mut UnixStream) -> io::Result<Reply> {
    let mut bytes = [0; Reply::SIZE];
    control.read_exact(&mut bytes).await?;
    Reply::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn unreachable(operation: &str, why: impl std::fmt::Display) -> DriverError {
    DriverError::Unreachable {
        driver: DriverKind::Process,
        operation: operation.to_owned(),
        why: why.to_string(),
    }
}

/// Raises the soft limit on open files to the hard one; answers what both were.
fn raise_open_files() -> (u64, u64) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let known = (
        limit.current.unwrap_or(u64::MAX),
        limit.maximum.unwrap_or(u64::MAX),
    );
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    known
}
