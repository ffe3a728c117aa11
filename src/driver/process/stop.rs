//! Stopping an instance and all it forked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::time::timeout;

use crate::driver::{DriverError, Scope};
use crate::model::{Handle, InstanceId, StopPolicy};

use super::sight::{self, Finding};
use super::wire::StopOrder;
use super::{ProcessDriver, identity, leftovers, sys, unreachable};

/// After the grace period, how long the killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

impl ProcessDriver {
    /// Has the shim stop the tree, and looks that nothing is left.
    pub(super) async fn stop_whole_tree(
        &self,
        instance: &InstanceId,
        how: &StopPolicy,
    ) -> Result<(), DriverError> {
        match self.examine(instance).await? {
            Finding::Guarded {
                process, handle, ..
            } => {
                self.stop_guarded(instance, process, handle.as_ref(), how)
                    .await?;
            }
            // Its file may be damaged: then nothing tells of its shim, which leaves with its program.
            Finding::Debris => {
                let file = self.site.file_of(instance);
                self.blocking("stop an instance", move |_, _| leftovers::end(&[file]))
                    .await?;
            }
            Finding::Absent | Finding::Over { .. } | Finding::Abandoned { .. } => {}
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
            signal: u8::try_from(how.signal_or_term().number()).unwrap_or(15),
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
