//! Stopping an instance, and removing what is left of one.

use std::time::Duration;

use bollard::query_parameters::{
    KillContainerOptions, RemoveContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use tokio::time::Instant;

use super::engine::{CHANGE, Failure, unreachable};
use super::sight::Seen;
use super::{DockerDriver, secrets};
use crate::driver::{DriverError, Stopped};
use crate::model::{InstanceId, Life, Signal, StopPolicy};

/// What this is called in errors.
const STOP: &str = "stop a container";
const FORGET: &str = "remove a container";
/// A state that the engine can be asked to wait for: it does not run any more.
const ENDED: &str = "not-running";
/// And this one: its name is free again.
const REMOVED: &str = "removed";
/// How soon an engine that broke off a wait is asked to go on with it.
const WAIT_AGAIN: Duration = Duration::from_millis(250);
/// How long a removal that is under way may take.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);
/// How long an engine may take to write down how a container ended, and between two looks at that.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
const RECORD_AGAIN: Duration = Duration::from_millis(20);
/// How long a kill may take: the kernel's and the engine's part.
const KILL_PATIENCE: Duration = Duration::from_secs(15);

impl DockerDriver {
    /// Signal, grace, kill; one that never ran is removed.
    pub(super) async fn stop_once(
        &self,
        instance: &InstanceId,
        how: &StopPolicy,
    ) -> Result<Stopped, DriverError> {
        let lost = |failure: Failure| failure.unreachable(STOP);
        let _turn = match self.free_turn(instance) {
            Some(turn) => turn,
            None => {
                // Whoever has the turn may be giving the container a grace, which is over now.
                if how.grace_period.get().is_zero() {
                    self.kill_running(instance).await.map_err(lost)?;
                }
                self.turn(instance).await
            }
        };
        let Some(seen) = self.find(instance).await.map_err(lost)? else {
            return Ok(Stopped::default());
        };
        match seen.life {
            Life::Created | Life::Pending(_) => {
                self.remove(&seen.id, instance).await?;
                return Ok(Stopped::default());
            }
            Life::Running { .. } => {}
            Life::Exited(_)
            | Life::NotStarted { .. }
            | Life::Lost { .. }
            | Life::HostReboot { .. }
            | Life::RuntimeRestarted(_)
            | Life::Disrupted { .. } => return self.stopped(Some(&seen)),
        }
        let ended = self
            .signal(&seen.id, seen.asked_to_end_by(how))
            .await
            .map_err(lost)?
            || self
                .comes_within(&seen.id, ENDED, how.grace_period.get())
                .await;
        if ended {
            return self.ended(instance).await;
        }
        let killed = self.signal(&seen.id, Signal::KILL).await.map_err(lost)?
            || self.comes_within(&seen.id, ENDED, KILL_PATIENCE).await;
        if killed {
            return self.ended(instance).await;
        }
        match self.find(instance).await.map_err(lost)? {
            Some(seen) if seen.life.is_alive() => Err(DriverError::StillAlive {
                instance: instance.clone(),
                why: format!("container {} survived SIGKILL", seen.id),
            }),
            seen => self.stopped(seen.as_ref()),
        }
    }

    /// How a container ended that does not run any more. The engine may say that it ended before it
    /// has written down how.
    async fn ended(&self, instance: &InstanceId) -> Result<Stopped, DriverError> {
        let until = Instant::now() + RECORD_PATIENCE;
        loop {
            let seen = self.find(instance).await;
            let seen = seen.map_err(|failure| failure.unreachable(STOP))?;
            let is_alive = seen.as_ref().is_some_and(|seen| seen.life.is_alive());
            if !is_alive || Instant::now() > until {
                return self.stopped(seen.as_ref());
            }
            tokio::time::sleep(RECORD_AGAIN).await;
        }
    }

    fn stopped(&self, seen: Option<&Seen>) -> Result<Stopped, DriverError> {
        Stopped::seen(seen.map(|seen| seen.sighting(&self.inner.images())))
    }

    /// Kills a container that runs. Every instance has its own, which never runs twice, so that
    /// this hurts nobody who works on it.
    async fn kill_running(&self, instance: &InstanceId) -> Result<(), Failure> {
        match self.find(instance).await? {
            Some(seen) if seen.life.is_alive() => {
                self.signal(&seen.id, Signal::KILL).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Sends a signal; true when the container does not run any more.
    async fn signal(&self, id: &str, signal: Signal) -> Result<bool, Failure> {
        let options = KillContainerOptions {
            signal: signal.number().to_string(),
        };
        let answer = self
            .inner
            .engine
            .call(CHANGE, |client| async move {
                client.kill_container(id, Some(options)).await
            })
            .await;
        match answer {
            Ok(()) => Ok(false),
            // Gone, or not running.
            Err(Failure::Answered {
                status: 404 | 409, ..
            }) => Ok(true),
            // As Podman's older ones say it.
            Err(Failure::Answered {
                status: 500,
                message,
            }) if message.contains("can only kill running containers") => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the engine says within `patience` that the container's state is `condition`, or that
    /// there is none. An answer that is cut off shortens nobody's grace: it is asked again.
    async fn comes_within(&self, id: &str, condition: &str, patience: Duration) -> bool {
        let asked = async {
            while !self.comes(id, condition).await {
                tokio::time::sleep(WAIT_AGAIN).await;
            }
        };
        tokio::time::timeout(patience, asked).await.is_ok()
    }

    /// Waits for the engine to say that; false when it says anything else, or nothing.
    async fn comes(&self, id: &str, condition: &str) -> bool {
        let Ok(client) = self.inner.engine.client() else {
            return false;
        };
        let options = WaitContainerOptions {
            condition: condition.to_owned(),
        };
        let mut ends = Box::pin(client.wait_container(id, Some(options)));
        match ends.next().await {
            // A code other than 0 is an error to bollard, and an end all the same.
            Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => true,
            Some(Err(error)) => self.inner.engine.failure(error).is_not_found(),
            None => false,
        }
    }

    /// Removes a dead instance's container and secrets, after its output was copied.
    pub(super) async fn forget_once(&self, instance: &InstanceId) -> Result<(), DriverError> {
        let _turn = self.turn(instance).await;
        let found = self.find(instance).await;
        let Some(seen) = found.map_err(|failure| failure.unreachable(FORGET))? else {
            return self.forget_secrets(instance).await;
        };
        match seen.life {
            Life::Running { .. } => return Ok(()),
            Life::Created
            | Life::Pending(_)
            | Life::Exited(_)
            | Life::NotStarted { .. }
            | Life::Lost { .. }
            | Life::HostReboot { .. }
            | Life::RuntimeRestarted(_)
            | Life::Disrupted { .. } => {}
        }
        // The engine believes that a lost one still writes, so its output never ends.
        let lost = matches!(seen.life, Life::Lost { .. });
        if !lost && !self.inner.copied(&seen.id).await {
            return Err(unreachable(FORGET, "its last lines are not copied yet"));
        }
        self.remove(&seen.id, instance).await
    }

    /// Removes a container that does not run, with its anonymous volumes and its secrets.
    pub(super) async fn remove(&self, id: &str, instance: &InstanceId) -> Result<(), DriverError> {
        // First: once the container is gone, nobody knows of them any more.
        self.forget_secrets(instance).await?;
        let options = RemoveContainerOptions {
            v: true,
            // What the engine wrongly takes for running is removed too.
            force: true,
            link: false,
        };
        let answer = self
            .inner
            .engine
            .call(CHANGE, |client| async move {
                client.remove_container(id, Some(options)).await
            })
            .await;
        match answer {
            Ok(()) | Err(Failure::Answered { status: 404, .. }) => {}
            // Its removal is under way, and it keeps its name until that is over.
            Err(Failure::Answered { status: 409, .. }) => {
                if !self.comes_within(id, REMOVED, REMOVAL_PATIENCE).await {
                    return Err(unreachable(FORGET, "its removal does not end"));
                }
            }
            Err(failure) => return Err(failure.unreachable(FORGET)),
        }
        self.inner.forgotten(id, instance);
        Ok(())
    }

    async fn forget_secrets(&self, instance: &InstanceId) -> Result<(), DriverError> {
        let (parent, instance) = (self.inner.secrets.clone(), instance.clone());
        let removed = tokio::task::spawn_blocking(move || secrets::forget(&parent, &instance));
        match removed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unreachable(FORGET, error)),
            Err(error) => Err(unreachable(FORGET, error)),
        }
    }
}
