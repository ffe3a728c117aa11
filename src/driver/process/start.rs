//! Starting an instance: file, shim, claim, word, program.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::driver::inputs::Inputs;
use crate::driver::{DriverError, Launch, Started};
use crate::model::{InstanceId, Life, ProcessIdentity, StartFailure, Timestamp};

use super::address::Address;
use super::context::{self, Context};
use super::failure::Refusal;
use super::fork_server::Duty;
use super::launch::Prepared;
use super::sight::{self, Finding};
use super::wire::{GO, Reply, Stage};
use super::{ProcessDriver, Site, exec, identity, launch, unreachable};

/// Shims being made at once. More would not be faster, and each holds descriptors.
pub(super) const LAUNCHES: usize = 32;
/// A shim that has not claimed its file by then is not waited for; it starts nothing.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// A program that has not been executed by then (its file lies on a hung mount) is left to
/// `observe`.
const EXEC_PATIENCE: Duration = Duration::from_secs(30);

impl ProcessDriver {
    /// Starts an instance, or answers what an earlier call made of it.
    pub(super) async fn start_once(&self, launch: &Launch) -> Result<Started, DriverError> {
        let instance = &launch.instance;
        // A second call waits for the first, and then answers the same.
        let _mark = loop {
            match Starting::new(&self.site, launch) {
                Some(mark) => break mark,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        if self.site.file_of(instance).exists()
            && let Some(earlier) = self.earlier(instance).await?
        {
            return earlier.map_err(DriverError::Refused);
        }
        self.launch(launch).await
    }

    /// What an earlier call, of this driver or of one before it, made of this instance; `None` when
    /// it may be started.
    async fn earlier(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<Result<Started, StartFailure>>, DriverError> {
        let answer = |address: Option<Address>, since: Timestamp| match address {
            Some(address) => Ok(Started::running(address.told(), since, None)),
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
                    self.blocking("clear a half-made start", move |site, _| {
                        site.clear_debris(&instance)
                    })
                    .await?;
                }
                Finding::Guarded {
                    handle: Some(handle),
                    life: Life::Running { since },
                    ..
                } => {
                    return Ok(Some(Ok(Started::running(handle.told(), since, None))));
                }
                // A shim whose driver is gone ends at once; one that is about to start is done soon.
                Finding::Guarded { .. } => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Finding::Over { handle, life } => {
                    return Ok(Some(match life {
                        Life::NotStarted { failure, .. } => Err(failure),
                        Life::Exited(exit) => answer(handle, exit.started_at.unwrap_or(exit.at)),
                        Life::Lost { at } | Life::HostReboot { at } => answer(handle, at),
                        Life::Created
                        | Life::Pending(_)
                        | Life::Running { .. }
                        | Life::RuntimeRestarted(_)
                        | Life::Disrupted { .. } => answer(handle, self.site.clock.now()),
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
        // Before anything is made, and without a permit: it may take as long as the user likes.
        let inputs = match Inputs::read(launch, &self.hints).await {
            Ok(inputs) => inputs,
            Err(error) => return Err(self.refuse(launch, error.into()).await),
        };
        let permit = self
            .launches
            .acquire()
            .await
            .map_err(|error| unreachable(operation, error))?;
        let wanted = launch.clone();
        let prepared = self
            .blocking(operation, move |site, _| Ok(begin(site, &wanted, &inputs)))
            .await?;
        let (control, prepared) = match prepared {
            Ok(begun) => begun,
            Err(refusal) => return Err(self.refuse(launch, refusal.into()).await),
        };
        let mut control =
            UnixStream::from_std(control).map_err(|error| unreachable(operation, error))?;
        let claimed = timeout(CLAIM_PATIENCE, async {
            control.write_all(&prepared.request).await?;
            receive(&mut control).await
        })
        .await;
        let context = prepared.context;
        drop(prepared.request);
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
                let address = Address {
                    shim: shim.clone(),
                    child: self.identity(pid, ticks),
                };
                let since = Timestamp::from_millis(at);
                self.keep(launch, &address, since)
                    .map_err(|error| unreachable(operation, error))?;
                Ok(Started::running(address.told(), since, None))
            }
            Ok(Ok(Reply::Failed { stage, errno, .. })) => {
                let failed = (Some(stage), errno);
                Err(DriverError::Refused(
                    self.explained(launch, failed, context).await,
                ))
            }
            Ok(Ok(Reply::Ready { .. })) => Err(unreachable(operation, "its shim stutters")),
            Ok(Err(error)) => Err(unreachable(operation, format!("its shim ended: {error}"))),
            Err(_) => Err(unreachable(operation, "its program is not executed yet")),
        }
    }

    /// Why the program of `launch` could not be executed, remembered for those who look.
    async fn explained(
        &self,
        launch: &Launch,
        failed: (Option<Stage>, i32),
        context: Arc<Context>,
    ) -> StartFailure {
        let replica = launch.instance.replica.replica;
        let refusal = match context::process_of(&launch.spec) {
            Ok(process) => {
                let argv = context::argv(process, replica);
                exec::explain(failed, &launch.spec, argv, context).await
            }
            Err(refusal) => refusal,
        };
        let failure = StartFailure::from(refusal);
        self.site.keep_failure(&launch.instance, failure.clone());
        failure
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
            .blocking("clear a half-made start", move |site, _| {
                site.clear_debris(&instance)
            })
            .await;
        // What could not be removed is seen and removed at the next look.
        if let Err(error) = cleared {
            tracing::debug!(instance = %launch.instance, %error, "debris stays for now");
        }
        DriverError::Refused(failure)
    }

    /// Watches a shim that has just answered. One that has ended already is looked at later.
    fn keep(&self, launch: &Launch, address: &Address, since: Timestamp) -> io::Result<()> {
        let Some(process) = identity::open(&address.shim, &self.site.boot)? else {
            self.hints.raise(launch.instance.clone());
            return Ok(());
        };
        let sighting = sight::sighting_of(
            &launch.instance,
            Some(&launch.spec),
            Some(address.clone()),
            Life::Running { since },
        );
        let spec = Some(launch.spec.clone());
        self.site
            .album()
            .keep(spec, sighting, Some(process), &self.sentry)
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

/// Makes the file and asks for a shim; answers where to speak with it, and what to say.
pub(super) fn begin(
    site: &Site,
    launch: &Launch,
    inputs: &Inputs,
) -> Result<(StdUnixStream, Prepared), Refusal> {
    let server = site.server.as_ref().ok_or(Refusal::OnlyLooks)?;
    let prepared = launch::prepare(site, launch, inputs)?;
    let open = || -> io::Result<StdUnixStream> {
        let (ours, theirs) = StdUnixStream::pair()?;
        server.launch(Duty::Instance, theirs.as_fd())?;
        ours.set_nonblocking(true)?;
        Ok(ours)
    };
    Ok((open().map_err(Refusal::Process)?, prepared))
}

/// The next reply of a shim.
pub(super) async fn receive(control: &mut UnixStream) -> io::Result<Reply> {
    let mut bytes = [0; Reply::SIZE];
    control.read_exact(&mut bytes).await?;
    Reply::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
