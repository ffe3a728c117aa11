//! Starting an instance: what its Job needs, the Job, and what comes of it at first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::{Api, Call, Failure, unreachable};
use super::failure::{self, START, refused};
use super::objects::{self, Kind, Object, Order, Values, Write, identity};
use super::places::{core_path, jobs_path};
use super::wire::{Any, Job, Meta};
use super::{Inner, Verdict, config, look_ahead};
use crate::driver::inputs::Inputs;
use crate::driver::{Began, Description, DriverError, Launch, Started};
use crate::model::{
    Handle, ImageChoice, InstanceId, Life, Pending, Sighting, StartFailure, Workload,
};

/// What a renewal is called in errors.
const RENEW: &str = "renew a token";
/// How long a start waits for an earlier run of its replica to be over for good.
const GATE: Duration = Duration::from_secs(10);
/// How long a start waits for what comes of its Job.
const FIRST_NEWS: Duration = Duration::from_secs(10);

impl Inner {
    /// Starts an instance, or answers what an earlier call made of it.
    pub(super) async fn start(self: &Arc<Self>, launch: &Launch) -> Result<Started, DriverError> {
        let Workload::Kubernetes(pod) = &launch.spec.workload else {
            let message = format!(
                "component {} is for another driver: this one cannot run it",
                launch.spec.id
            );
            return Err(refused("WrongDriver", message));
        };
        if self.config.gate.is_watched() {
            return Err(refused(look_ahead::UNJUDGED, look_ahead::unjudged()));
        }
        let api = self
            .api()
            .await
            .map_err(|failure| failure.unreachable(START))?;
        let home = api.access().namespace();
        let namespace = pod.namespace.as_deref().unwrap_or(home);
        if !config::is_namespace(namespace) {
            let message = config::ConfigError::Namespace(namespace.to_owned()).to_string();
            return Err(refused("InvalidNamespace", message));
        }
        self.remember(namespace);
        self.in_sight(api, namespace).await?;
        let is_known = self.cache().get(&launch.instance).is_some();
        if !is_known {
            self.gate(launch).await?;
            self.make(api, launch, namespace).await?;
        }
        self.first_news(launch, home).await
    }

    /// Waits until a namespace can be looked at: whoever cannot see an earlier run starts none.
    pub(super) async fn in_sight(
        self: &Arc<Self>,
        api: &Arc<Api>,
        namespace: &str,
    ) -> Result<(), DriverError> {
        let mut namespaces = self.namespaces(api.access().namespace());
        namespaces.insert(namespace.to_owned());
        self.watch_over(api, &namespaces);
        self.listed(&BTreeSet::from([namespace.to_owned()])).await;
        let place = self.place(namespace);
        match place.and_then(|place| place.blind(Instant::now())) {
            None => Ok(()),
            Some(why) => Err(unreachable(START, why)),
        }
    }

    /// Waits until no earlier run of the replica lives, or may come to life.
    async fn gate(&self, launch: &Launch) -> Result<(), DriverError> {
        let mut changes = self.changes.subscribe();
        let in_the_way = || -> Option<InstanceId> {
            let cache = self.cache();
            let mut siblings = cache.siblings(&launch.instance);
            let found = siblings.find(|(_, entry)| entry.is_in_the_way());
            found.map(|(instance, _)| instance.clone())
        };
        let waiting = async {
            while in_the_way().is_some() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let waited = launch
            .given_up
            .run_until_cancelled(timeout(GATE, waiting))
            .await;
        match in_the_way() {
            None if waited.is_some() => Ok(()),
            None => Err(given_up(&launch.instance)),
            Some(earlier) => Err(DriverError::InTheWay {
                what: format!(
                    "{earlier}, an earlier run of it, is not over yet: its Job is not suspended, \
                     or its pod still runs"
                ),
            }),
        }
    }

    /// Writes what the Job needs, and the Job.
    async fn make(&self, api: &Api, launch: &Launch, namespace: &str) -> Result<(), DriverError> {
        let inputs = Inputs::read(launch, &self.hints).await;
        let inputs = inputs.map_err(|error| DriverError::Refused(error.into()))?;
        let pipeline = &launch.instance.pipeline;
        let file = launch.file.as_deref();
        let parent = objects::parent(&self.owner, namespace, pipeline, file);
        let parent = self.write(api, &parent, namespace).await?;
        if parent.is_going() {
            return Err(DriverError::InTheWay {
                what: format!(
                    "ConfigMap {} of an earlier pipeline is being deleted",
                    parent.name
                ),
            });
        }
        let order = Order {
            owner: &self.owner,
            namespace,
            launch,
            values: Values::Read(&inputs),
            parent: Some(&parent.uid),
        };
        let objects = objects::of(&order).map_err(DriverError::Refused)?;
        for object in &objects.before {
            self.write(api, object, namespace).await?;
        }
        if launch.given_up.is_cancelled() {
            return Err(given_up(&launch.instance));
        }
        self.create(api, launch, &objects.job, namespace).await
    }

    /// Creates the Job. Its name is taken by another call for the same instance at most.
    async fn create(
        &self,
        api: &Api,
        launch: &Launch,
        job: &Object,
        namespace: &str,
    ) -> Result<(), DriverError> {
        let path = jobs_path(namespace);
        let made: Result<Job, Failure> = api.call(Call::create(path.clone(), &job.body)).await;
        let found = match made {
            Ok(made) => made,
            Err(failure) if failure.code() == Some(409) => {
                let path = format!("{path}/{}", job.name);
                let found: Result<Job, Failure> = api.call(Call::get(path)).await;
                let found = found.map_err(|failure| failure.unreachable(START))?;
                let labels = &found.metadata.labels;
                if !identity::is_same_thing(labels, &job.body) {
                    return Err(conflict(job, namespace, &found.metadata));
                }
                if found.metadata.is_going() {
                    return Err(DriverError::InTheWay {
                        what: format!("Job {} is there already and being deleted", job.name),
                    });
                }
                found
            }
            Err(failure) => {
                let what = format!("Job {}", job.name);
                return Err(failure::of_write(failure, &what, namespace));
            }
        };
        let noted = self.cache().note_job(found, namespace, Instant::now());
        if noted.is_none() && self.cache().get(&launch.instance).is_none() {
            let what = format!("Job {} is not what was asked for", job.name);
            return Err(unreachable(START, what));
        }
        self.changed(noted);
        Ok(())
    }

    /// Writes an object that instances share, unless it is there as it should be; answers what is there.
    async fn write(
        &self,
        api: &Api,
        object: &Object,
        namespace: &str,
    ) -> Result<Meta, DriverError> {
        let what = format!("{} {}", object.kind.word(), object.name);
        let failed = |failure: Failure| failure::of_write(failure, &what, namespace);
        let all = path_of(object.kind, namespace);
        let path = format!("{all}/{}", object.name);
        let found: Option<Any> = match api.call(Call::get(path.clone())).await {
            Ok(found) => Some(found),
            Err(failure) if failure.is_not_found() => None,
            Err(failure) => return Err(failed(failure)),
        };
        if let Some(Any { metadata }) = found {
            if !identity::is_same_thing(&metadata.labels, &object.body) {
                return Err(conflict(object, namespace, &metadata));
            }
            let applied = metadata.annotations.get(identity::APPLIED_HASH);
            let is_as_sent = match object.write {
                Write::Apply => applied == Some(&object.hash),
                Write::CreateOnly | Write::Lock => true,
            };
            if is_as_sent || metadata.is_going() {
                return Ok(metadata);
            }
        }
        let call = match object.write {
            Write::Apply => Call::apply(&path, &object.body),
            Write::CreateOnly | Write::Lock => Call::create(all, &object.body),
        };
        match api.call::<Any>(call).await {
            Ok(written) => Ok(written.metadata),
            // Another start of the same pipeline has made it meanwhile.
            Err(failure) if failure.code() == Some(409) && object.write != Write::Apply => {
                let found: Any = api.call(Call::get(path)).await.map_err(failed)?;
                match identity::is_same_thing(&found.metadata.labels, &object.body) {
                    true => Ok(found.metadata),
                    false => Err(conflict(object, namespace, &found.metadata)),
                }
            }
            Err(failure) => Err(failed(failure)),
        }
    }

    /// Writes another token for an instance that was given one, where its pod finds it.
    pub(super) async fn renew_token(
        self: &Arc<Self>,
        instance: &InstanceId,
        token: &str,
    ) -> Result<(), DriverError> {
        let api = self.api().await;
        let api = api.map_err(|failure| failure.unreachable(RENEW))?;
        let known = self.cache().get(instance).cloned();
        let Some(entry) = known.filter(|entry| !entry.live().is_empty()) else {
            return Ok(());
        };
        let job = entry.job.as_ref();
        let Some(description) = job.and_then(|job| job.description.as_deref()) else {
            return Ok(());
        };
        let namespace = &entry.namespace;
        let Description {
            instance,
            spec,
            generation,
            file,
        } = description.clone();
        let parent = objects::names::parent(&instance.pipeline);
        let parent = format!("{}/{parent}", path_of(Kind::ConfigMap, namespace));
        let parent: Result<Any, Failure> = api.call(Call::get(parent)).await;
        let parent = parent.map_err(|failure| failure.unreachable(RENEW))?;
        let launch = Launch {
            instance,
            spec,
            generation,
            file,
            injected: BTreeMap::new(),
            image: ImageChoice::ByPolicy,
            given_up: CancellationToken::new(),
        };
        let order = Order {
            owner: &self.owner,
            namespace,
            launch: &launch,
            values: Values::Withheld(&[]),
            parent: Some(&parent.metadata.uid),
        };
        let secret = objects::token(&order, token);
        let path = format!("{}/{}", path_of(secret.kind, namespace), secret.name);
        match api.tell(Call::get(path)).await {
            Ok(()) => self.write(api, &secret, namespace).await.map(drop),
            // It was given none.
            Err(failure) if failure.is_not_found() => Ok(()),
            Err(failure) => Err(failure.unreachable(RENEW)),
        }
    }

    /// Waits for what comes of a Job: that its program runs, that it cannot, or what it waits for.
    async fn first_news(&self, launch: &Launch, home: &str) -> Result<Started, DriverError> {
        let instance = &launch.instance;
        let mut changes = self.changes.subscribe();
        let news = || -> Option<Result<Started, DriverError>> {
            match self.judge(instance, home) {
                Verdict::Is(sighting) => answer(*sighting),
                Verdict::Unknown(why) => Some(Err(unreachable(START, why))),
                Verdict::Absent => {
                    let why = "its Job is gone again: somebody has deleted it";
                    Some(Err(unreachable(START, why)))
                }
            }
        };
        let waiting = async {
            loop {
                if let Some(news) = news() {
                    return Some(news);
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        let waited = launch
            .given_up
            .run_until_cancelled(timeout(FIRST_NEWS, waiting))
            .await;
        if let Some(Ok(Some(news))) = waited {
            return news;
        }
        // It is there, and the cluster will begin it by itself.
        match self.judge(instance, home) {
            Verdict::Is(sighting) => match &sighting.life {
                Life::Pending(pending) => {
                    let pending = pending.clone();
                    Ok(started(*sighting, Began::Pending(pending)))
                }
                Life::Created
                | Life::Running { .. }
                | Life::Exited(_)
                | Life::NotStarted { .. }
                | Life::Lost { .. }
                | Life::HostReboot { .. }
                | Life::RuntimeRestarted(_)
                | Life::Disrupted { .. } => answer(*sighting)
                    .unwrap_or_else(|| Err(unreachable(START, "it does not start"))),
            },
            Verdict::Unknown(why) => Err(unreachable(START, why)),
            Verdict::Absent => Err(unreachable(START, "its Job is gone again")),
        }
    }
}

/// Where the objects of a kind are.
pub(super) fn path_of(kind: Kind, namespace: &str) -> String {
    match kind {
        Kind::Job => jobs_path(namespace),
        Kind::Service | Kind::Secret | Kind::ConfigMap | Kind::Claim => {
            core_path(namespace, kind.plural())
        }
    }
}

/// What is answered of an instance that is there; `None` while nobody says anything of it yet.
fn answer(sighting: Sighting) -> Option<Result<Started, DriverError>> {
    let since = match &sighting.life {
        Life::NotStarted { failure, .. } => {
            return Some(Err(DriverError::Refused(failure.clone())));
        }
        Life::Pending(Pending { why: None, .. }) | Life::Created => return None,
        Life::Pending(pending) => {
            let state = Began::Pending(pending.clone());
            return Some(Ok(started(sighting, state)));
        }
        Life::Running { since } => *since,
        Life::Exited(exit) | Life::RuntimeRestarted(exit) | Life::Disrupted { exit, .. } => {
            exit.started_at.unwrap_or(exit.at)
        }
        Life::Lost { at } | Life::HostReboot { at } => *at,
    };
    let health = sighting.health.clone();
    Some(Ok(started(sighting, Began::Running { since, health })))
}

fn started(sighting: Sighting, state: Began) -> Started {
    Started {
        handle: sighting.handle.unwrap_or_else(|| Handle::new(&Value::Null)),
        facts: sighting.facts,
        prober: sighting.prober,
        state,
    }
}

fn given_up(instance: &InstanceId) -> DriverError {
    refused(
        StartFailure::GIVEN_UP,
        format!("{instance} is not wanted any more"),
    )
}

fn conflict(object: &Object, namespace: &str, found: &Meta) -> DriverError {
    let whose = match found.labels.get(identity::OWNER) {
        Some(owner) => {
            let label = |key| found.labels.get(key).map(String::as_str);
            let pipeline = label(identity::PIPELINE).unwrap_or("?");
            let whose = match label(identity::COMPONENT) {
                Some(component) => format!("component {component} of pipeline {pipeline}"),
                None => format!("pipeline {pipeline}"),
            };
            let wanted = &object.body["metadata"]["labels"][identity::OWNER];
            match wanted.as_str() == Some(owner) {
                true => format!("belongs to {whose}"),
                false => format!(
                    "belongs to {whose} of another flowctl daemon ({}={owner})",
                    identity::OWNER
                ),
            }
        }
        None => match found.labels.get("app.kubernetes.io/managed-by") {
            Some(manager) => format!("belongs to {manager}"),
            None => "is not flowctl's".to_owned(),
        },
    };
    let (word, name) = (object.kind.word(), &object.name);
    refused(
        "NameConflict",
        format!(
            "{word} {name} in namespace {namespace} {whose}: rename the component or the pipeline, \
             or use another namespace"
        ),
    )
}
