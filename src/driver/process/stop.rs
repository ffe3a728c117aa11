//! Stopping an instance and all it forked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, pidfd_send_signal};
use tokio::time::timeout;

use crate::driver::{DriverError, Scope, Stopped};
use crate::model::{InstanceId, ProcessIdentity, StopPolicy, StopTarget};

use super::address::Address;
use super::leftovers::Whose;
use super::sight::{self, Finding};
use super::wire::{Orders, StopOrder};
use super::{ProcessDriver, descendants, identity, leftovers, sys, unreachable};

/// After the grace period, how long the killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

impl ProcessDriver {
    /// Has the shim stop the tree, and looks that nothing is left.
    pub(super) async fn stop_whole_tree(
        &self,
        instance: &InstanceId,
        how: &StopPolicy,
    ) -> Result<Stopped, DriverError> {
        match self.examine(instance).await? {
            Finding::Guarded {
                process,
                handle,
                orders,
                ..
            } => {
                self.stop_guarded(instance, process, handle.as_ref(), orders, how)
                    .await?;
            }
            // Its file may be damaged: then nothing tells of its shim, which leaves with its program.
            Finding::Debris => {
                let file = self.site.file_of(instance);
                self.blocking("stop an instance", move |site, _| {
                    leftovers::end(site, &[file], Whose::Theirs)
                })
                .await?;
            }
            Finding::Absent | Finding::Over { .. } | Finding::Abandoned { .. } => {}
        }
        // A look settles what a dead shim left, and tells whether anything survived. A fresh one:
        // a shim that has written its last word is remembered as alive until it is quite gone.
        let stopped = instance.clone();
        let mut seen = self
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
        Stopped::seen(seen.pop())
    }

    /// Has a shim that understands `orders` stop the tree, and kills that where the shim does not.
    pub(super) async fn stop_guarded(
        &self,
        instance: &InstanceId,
        shim: OwnedFd,
        address: Option<&Address>,
        orders: Orders,
        how: &StopPolicy,
    ) -> Result<(), DriverError> {
        let failed = |error: io::Error| unreachable("stop an instance", error);
        let grace = how.grace_period.get();
        let wanted = StopOrder {
            signal: u8::try_from(how.signal_or_term().number()).unwrap_or(15),
            to: how.to,
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        };
        let order = match orders {
            Orders::Whom => wanted,
            Orders::Group => on_behalf(wanted, address),
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
        match address {
            Some(Address { shim, child }) => {
                self.site.groups.kill(instance);
                // The program's number is held by its shim, so its group is nobody else's.
                let is_its = identity::stat(child.pid)
                    .is_some_and(|stat| u32::try_from(stat.parent) == Ok(shim.pid));
                let boot = &self.site.boot;
                if is_its && identity::open(child, boot).map_err(failed)?.is_some() {
                    let group = i32::try_from(child.pid).unwrap_or_default();
                    sys::signal_group(group, libc::SIGKILL);
                }
                signal_below(shim, libc::SIGKILL, |_| true);
            }
            // Its program is not executed yet and may never be: the shim takes it along.
            None => {
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

/// Does what a shim of the first release cannot, and answers what to order of it: it knows of nobody
/// but its program's group.
fn on_behalf(wanted: StopOrder, address: Option<&Address>) -> StopOrder {
    let signal = i32::from(wanted.signal);
    let order = StopOrder {
        to: StopTarget::Group,
        ..wanted
    };
    let Some(Address { shim, child }) = address else {
        return order;
    };
    let group = i32::try_from(child.pid).ok().and_then(Pid::from_raw);
    match wanted.to {
        StopTarget::Group => order,
        StopTarget::All => {
            signal_below(shim, signal, |pid| getpgid(Some(pid)).ok() != group);
            order
        }
        StopTarget::Main => {
            signal_below(shim, signal, |pid| Some(pid) == group);
            // Wakes them, and begins the grace period.
            StopOrder {
                signal: u8::try_from(libc::SIGCONT).unwrap_or(18),
                ..order
            }
        }
    }
}

/// Signals those below a shim that are `wanted`.
fn signal_below(shim: &ProcessIdentity, signal: i32, wanted: impl Fn(Pid) -> bool) {
    let Some(shim) = i32::try_from(shim.pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    descendants::for_each_descendant(shim, |pid, parent| {
        if wanted(pid) {
            descendants::signal_child(pid, parent, shim, signal);
        }
    });
}
