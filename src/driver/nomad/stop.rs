//! Stopping an instance, and removing what is left of one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::client::Ask;
use super::failure::Failure;
use super::ledger::{Entry, Holds, Ordered};
use super::observe::Found;
use super::sight::Seen;
use super::{Inner, Place, lock, names};
use crate::driver::{DriverError, Stopped};
use crate::model::{DriverKind, InstanceId, Life, Signal, StopPolicy};

const STOP: &str = "stop a job";
const FORGET: &str = "remove a job";
/// Nodes give no longer grace than this unless they are told to.
const LONGEST_GRACE: Duration = Duration::from_secs(30);
/// How long a node may take for a kill, and to tell of it.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Inner {
    /// Signal, grace, kill; one that never ran is removed.
    pub(super) async fn stop_once(
        self: &Arc<Self>,
        instance: &InstanceId,
        how: &StopPolicy,
    ) -> Result<Stopped, DriverError> {
        let lost = |failure: Failure| failure.unreachable(STOP);
        let Some(place) = self.place_of(instance) else {
            return Ok(Stopped::default());
        };
        let seen = match self.look_at_job(&place, instance).await.map_err(lost)? {
            Found::There(seen) => *seen,
            Found::Gone | Found::Foreign(_) => return Ok(Stopped::default()),
        };
        if !seen.life.is_alive() {
            return self.stopped(&place, seen);
        }
        // Before anything ends: whatever a look sees from now on is our doing.
        let ordered = |entry: &mut Entry| entry.stop = Ordered::Stop;
        let kept = self.ledger.change(instance, ordered).await;
        kept.map_err(|error| not_kept(STOP, &error))?;
        let seen = match self.end(&place, seen, how).await.map_err(lost)? {
            Some(seen) => seen,
            None => return Ok(Stopped::default()),
        };
        if seen.placements.is_empty() {
            // Nothing of it has run, and nothing is to be told.
            place.remove_job(&seen.job.id).await.map_err(lost)?;
            return Ok(Stopped::default());
        }
        if seen.life.is_alive() || seen.hidden.is_some() {
            let node = seen.latest().map_or("", |it| &it.node_name);
            let why = match &seen.hidden {
                Some(hidden) => format!("{hidden}: it ends there once that is back"),
                None => format!("node {node} has not ended it yet"),
            };
            return Err(DriverError::StillAlive {
                instance: instance.clone(),
                why,
            });
        }
        self.stopped(&place, seen)
    }

    fn stopped(self: &Arc<Self>, place: &Arc<Place>, seen: Seen) -> Result<Stopped, DriverError> {
        let (sighting, _) = self.tell(place, seen);
        Stopped::seen(Some(sighting))
    }

    /// Ends a job; what is seen of it afterwards, or `None` when it is gone.
    async fn end(
        self: &Arc<Self>,
        place: &Arc<Place>,
        seen: Seen,
        how: &StopPolicy,
    ) -> Result<Option<Seen>, Failure> {
        let grace = how.grace_period.get();
        let is_as_registered = seen.stop() == *how && grace <= LONGEST_GRACE;
        let runs = matches!(seen.life, Life::Running { .. });
        if let (true, false, Some(placement)) = (runs, is_as_registered, seen.latest()) {
            // The job says how it was to be stopped when it began, and its node keeps to that.
            let id = placement.id.clone();
            let mut ended = None;
            if !grace.is_zero() {
                place.signal(&id, how.signal_or_term()).await?;
                ended = self.ends_within(place, &seen.instance, grace).await?;
            }
            if ended.as_ref().is_none_or(|seen| seen.life.is_alive()) {
                place.signal(&id, Signal::KILL).await?;
                self.ends_within(place, &seen.instance, PATIENCE).await?;
            }
            place.stop_job(&seen.job.id).await?;
            return self.ends_within(place, &seen.instance, PATIENCE).await;
        }
        place.stop_job(&seen.job.id).await?;
        self.ends_within(place, &seen.instance, grace.min(LONGEST_GRACE) + PATIENCE)
            .await
    }

    /// Looks until the instance has ended, or the time is over.
    async fn ends_within(
        self: &Arc<Self>,
        place: &Arc<Place>,
        instance: &InstanceId,
        patience: Duration,
    ) -> Result<Option<Seen>, Failure> {
        let until = Instant::now() + patience;
        loop {
            let seen = match self.look_at_job(place, instance).await? {
                Found::There(seen) => *seen,
                Found::Gone | Found::Foreign(_) => return Ok(None),
            };
            let is_over =
                !seen.life.is_alive() || seen.placements.is_empty() || seen.hidden.is_some();
            if is_over || Instant::now() > until {
                return Ok(Some(seen));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Removes a dead instance's job and variable, after its output was copied.
    pub(super) async fn forget_once(
        self: &Arc<Self>,
        instance: &InstanceId,
    ) -> Result<(), DriverError> {
        let lost = |failure: Failure| failure.unreachable(FORGET);
        let Some(place) = self.place_of(instance) else {
            return Ok(());
        };
        match self.look_at_job(&place, instance).await.map_err(lost)? {
            Found::There(seen) if seen.life.is_alive() || seen.hidden.is_some() => return Ok(()),
            Found::There(seen) => {
                let id = seen.job.id.clone();
                self.tell(&place, *seen);
                if !self.copied(instance).await {
                    return Err(DriverError::Unreachable {
                        driver: DriverKind::Nomad,
                        operation: FORGET.to_owned(),
                        why: "its last lines are not copied yet".to_owned(),
                    });
                }
                place.remove_job(&id).await.map_err(lost)?;
            }
            Found::Gone | Found::Foreign(_) => {}
        }
        self.forgotten(&place, instance).await
    }

    /// Removes what is kept of an instance beside its job, which is gone.
    pub(super) async fn forgotten(
        &self,
        place: &Place,
        instance: &InstanceId,
    ) -> Result<(), DriverError> {
        let job = names::job(&self.config.owner, instance);
        let entry = self.ledger.get(instance);
        if entry.is_some_and(|entry| entry.variable == Holds::Variable) {
            let removed = place.remove_variable(&job).await;
            removed.map_err(|failure| failure.unreachable(FORGET))?;
        }
        lock(&self.copiers).remove(instance);
        super::position::remove(&self.kept_dir(), instance);
        let removed = self.ledger.remove(instance).await;
        removed.map_err(|error| not_kept(FORGET, &error))?;
        lock(&self.album).remove(instance);
        Ok(())
    }
}

fn not_kept(operation: &str, error: &std::io::Error) -> DriverError {
    DriverError::Unreachable {
        driver: DriverKind::Nomad,
        operation: operation.to_owned(),
        why: format!("what is known of its job cannot be kept: {error}"),
    }
}

impl Place {
    /// Sends a signal to a program that runs. One that has ended meanwhile hears nothing.
    async fn signal(&self, placement: &str, signal: Signal) -> Result<(), Failure> {
        let body = json!({"Signal": signal.to_string(), "Task": names::MAIN});
        let ask = Ask::write(&["client", "allocation", placement, "signal"], &body)
            .with("namespace", self.namespace.as_str());
        match self.client.done(ask).await {
            Err(
                Failure::Broken { message, .. }
                | Failure::Refused { message, .. }
                | Failure::NodeAway(message),
            ) => {
                tracing::debug!(placement, message, "it takes no signal");
                Ok(())
            }
            answer => answer,
        }
    }

    /// Wants the end of a job, whose definition stays.
    async fn stop_job(&self, job: &str) -> Result<(), Failure> {
        self.gone(Ask::delete(&["job", job]).with("purge", "false"))
            .await
    }

    /// Removes a job that has ended.
    async fn remove_job(&self, job: &str) -> Result<(), Failure> {
        self.gone(Ask::delete(&["job", job]).with("purge", "true"))
            .await
    }

    async fn remove_variable(&self, job: &str) -> Result<(), Failure> {
        let path = names::variable(job);
        let mut parts = vec!["var"];
        parts.extend(path.split('/'));
        self.gone(Ask::delete(&parts)).await
    }

    async fn gone(&self, ask: Ask<'_>) -> Result<(), Failure> {
        match self
            .client
            .done(ask.with("namespace", self.namespace.as_str()))
            .await
        {
            Err(Failure::Absent(_)) => Ok(()),
            answer => answer,
        }
    }
}
