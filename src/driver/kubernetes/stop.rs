//! Stopping an instance, and removing what is left of one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::client::{Api, Call, unreachable};
use super::objects::identity;
use super::places::{core_path, jobs_path};
use super::{Inner, Verdict, lock, sight};
use crate::driver::{DriverError, Scope, Stopped};
use crate::model::{InstanceId, StopPolicy};

const STOP: &str = "stop a Job";
const FORGET: &str = "remove a Job";
/// How much longer than its grace the end of a pod may take: the cluster has to hear of it.
const SPARE: Duration = Duration::from_secs(20);
/// How long a Job without a pod may take to be suspended.
const SUSPENSION: Duration = Duration::from_secs(5);

impl Inner {
    /// Stops an instance; one that is gone or has ended is stopped.
    pub(super) async fn stop(
        self: &Arc<Self>,
        instance: &InstanceId,
        how: &StopPolicy,
    ) -> Result<Stopped, DriverError> {
        let (api, home) = self.seen(instance, STOP).await?;
        let Some(entry) = self.cache().get(instance).cloned() else {
            return Ok(Stopped::default());
        };
        let is_over = entry.live().is_empty();
        let is_recorded = entry.job.as_ref().is_none_or(|job| job.record.is_some());
        if is_over && is_recorded {
            return self.stopped(instance, &home);
        }
        let namespace = &entry.namespace;
        if let Some(job) = entry.job.as_ref().filter(|job| !job.held) {
            let held = match is_over {
                // It has ended by itself, and that is to be recorded as such.
                true => None,
                false => Some(json!({ identity::HELD: "true" })),
            };
            if let Some(held) = held {
                let patched = self.patch_job(namespace, &job.name, &job.uid, held).await;
                match patched {
                    Ok(()) => {}
                    Err(failure) if failure.is_not_found() => {}
                    Err(failure) => return Err(failure.unreachable(STOP)),
                }
            }
        }
        // Whole seconds, and never none at all, which is no stop but a loss of sight.
        let grace = how.grace_period.get();
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        self.end_pods(&api, instance, seconds.max(1)).await?;
        self.record_stop(&api, instance).await?;
        self.stopped(instance, &home)
    }

    /// The way to the cluster and the namespace of those that name none, once all is in sight in which
    /// an instance may be.
    async fn seen(
        self: &Arc<Self>,
        instance: &InstanceId,
        operation: &str,
    ) -> Result<(Arc<Api>, String), DriverError> {
        let api = self.api().await;
        let api = Arc::clone(api.map_err(|failure| failure.unreachable(operation))?);
        let home = api.access().namespace().to_owned();
        if self.cache().get(instance).is_none() {
            let look = self
                .look(&Scope::Instances([instance.clone()].into()))
                .await?;
            if let Some(why) = look.hidden.into_values().next() {
                return Err(unreachable(operation, why));
            }
        }
        Ok((api, home))
    }

    fn stopped(&self, instance: &InstanceId, home: &str) -> Result<Stopped, DriverError> {
        match self.judge(instance, home) {
            Verdict::Absent => Ok(Stopped::default()),
            Verdict::Is(sighting) => Stopped::seen(Some(*sighting)),
            Verdict::Unknown(why) => Err(unreachable(STOP, why)),
        }
    }

    /// Deletes the pods of an instance until none of them lives.
    async fn end_pods(
        &self,
        api: &Api,
        instance: &InstanceId,
        seconds: u64,
    ) -> Result<(), DriverError> {
        let mut changes = self.changes.subscribe();
        let mut asked = std::collections::BTreeSet::new();
        let deadline = Instant::now() + Duration::from_secs(seconds) + SPARE;
        // A Job that was only just suspended may have a pod that nobody has heard of yet.
        let suspended_by = Instant::now() + SUSPENSION;
        loop {
            let Some(entry) = self.cache().get(instance).cloned() else {
                return Ok(());
            };
            for pod in entry.live() {
                if !asked.insert(pod.uid.clone()) {
                    continue;
                }
                let options = json!({
                    "gracePeriodSeconds": seconds,
                    "preconditions": {"uid": pod.uid},
                });
                let path = format!("{}/{}", core_path(&entry.namespace, "pods"), pod.name);
                match api.tell(Call::delete(path, &options).of_a_stop()).await {
                    Ok(()) => {}
                    // Gone, or another one of its name.
                    Err(failure) if matches!(failure.code(), Some(404 | 409)) => {}
                    Err(failure) => return Err(failure.unreachable(STOP)),
                }
            }
            let rests = entry.job.as_ref().is_none_or(|job| job.rests);
            let now = Instant::now();
            if entry.live().is_empty() && (rests || now > suspended_by) {
                return Ok(());
            }
            if now > deadline {
                return Err(self.survived(instance).await);
            }
            timeout(Duration::from_secs(1), changes.changed())
                .await
                .ok();
        }
    }

    /// Why pods of an instance live beyond their grace.
    async fn survived(&self, instance: &InstanceId) -> DriverError {
        let pods = self.cache().get(instance).map(|entry| {
            let live = entry.live().into_iter();
            let live = live.map(|pod| (pod.name.clone(), pod.node.clone()));
            live.collect::<Vec<_>>()
        });
        let pods = pods.unwrap_or_default();
        for (_, node) in &pods {
            let Some(node) = node else { continue };
            self.look_at_node(node).await;
            let silent = lock(&self.nodes).silent();
            if let Some(why) = silent.get(node) {
                return unreachable(STOP, why);
            }
        }
        let names: Vec<&str> = pods.iter().map(|(name, _)| name.as_str()).collect();
        DriverError::StillAlive {
            instance: instance.clone(),
            why: format!("its grace is over, and {} is not", names.join(", ")),
        }
    }

    /// Records how a stopped instance ended; one that never ran leaves nothing.
    async fn record_stop(&self, api: &Api, instance: &InstanceId) -> Result<(), DriverError> {
        let Some(entry) = self.cache().get(instance).cloned() else {
            return Ok(());
        };
        let Some(job) = entry.job.as_ref().filter(|job| job.record.is_none()) else {
            return Ok(());
        };
        let written = match sight::ended(&entry, self.clock.now()) {
            Some(recorded) if !sight::never_ran(&entry) => {
                self.write_end(&entry.namespace, &job.name, &job.uid, &recorded)
                    .await
            }
            Some(_) | None => {
                let removed = self
                    .remove(api, &entry.namespace, &job.name, &job.uid)
                    .await;
                removed?;
                self.cache().forget(instance, Instant::now());
                return Ok(());
            }
        };
        match written {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_not_found() => Ok(()),
            Err(failure) => Err(failure.unreachable(STOP)),
        }
    }

    /// Removes what is left of an instance that has ended; a live one is left alone.
    pub(super) async fn forget(self: &Arc<Self>, instance: &InstanceId) -> Result<(), DriverError> {
        let (api, _) = self.seen(instance, FORGET).await?;
        let Some(entry) = self.cache().get(instance).cloned() else {
            return Ok(());
        };
        if !entry.live().is_empty() {
            return Ok(());
        }
        let is_over = entry.job.as_ref().is_none_or(|job| {
            job.record.is_some()
                || job.held
                || job.is_over
                || sight::ended(&entry, self.clock.now()).is_some()
        });
        if !is_over {
            return Ok(());
        }
        self.copied(instance).await;
        match &entry.job {
            Some(job) => {
                self.remove(&api, &entry.namespace, &job.name, &job.uid)
                    .await?;
            }
            // Their Job was deleted, and left them.
            None => {
                for pod in entry.pods.values().filter(|pod| pod.gone.is_none()) {
                    let options = json!({"preconditions": {"uid": pod.uid}});
                    let path = format!("{}/{}", core_path(&entry.namespace, "pods"), pod.name);
                    match api.tell(Call::delete(path, &options)).await {
                        Ok(()) => {}
                        Err(failure) if matches!(failure.code(), Some(404 | 409)) => {}
                        Err(failure) => return Err(failure.unreachable(FORGET)),
                    }
                }
            }
        }
        self.cache().forget(instance, Instant::now());
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Deletes a Job and its pods.
    async fn remove(
        &self,
        api: &Api,
        namespace: &str,
        job: &str,
        uid: &str,
    ) -> Result<(), DriverError> {
        // Said outright: by default a cluster leaves the pods of a Job behind.
        let options = json!({
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        });
        let path = format!("{}/{job}", jobs_path(namespace));
        match api.tell(Call::delete(path, &options).of_a_stop()).await {
            Ok(()) => Ok(()),
            Err(failure) if matches!(failure.code(), Some(404 | 409)) => Ok(()),
            Err(failure) => Err(failure.unreachable(FORGET)),
        }
    }
}
