//! The daemon as the API sees it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::api::{
    self, ApiError, ApplyRequest, CallerHas, CallerVariables, Checked, ErrorCode, EventQuery,
    Exposition, Fate, Loaded, VolumesAnswer, VolumesRequest,
};
use crate::control_plane::Connections;
use crate::driver::docker::{self, DockerDriver, Reachable, Renewal, Volumes};
use crate::driver::kubernetes::{KubernetesDriver, Obstacle};
use crate::driver::logs::kept::{self, KeptLog};
use crate::driver::nomad::{self, NomadDriver};
use crate::driver::process::{self, Inheritance};
use crate::driver::{Driver as _, DriverError, LogQuery, LogStream};
use crate::manifest::Taken;
use crate::metrics::{Format, Metrics};
use crate::model::{
    ComponentId, ComponentSpec, Event, Hold, Limit, Notifications, PipelineKey, PipelineSpec,
    PipelineStatus, Problem, Snapshot, TargetName, TargetStatus, Workload, revision,
};
use crate::notify::{NotifyError, NotifyHandle};
use crate::planner::Desired;
use crate::preflight::{self, PreflightProblem, Running};
use crate::reconciler::{Drivers, ReconcilerHandle};
use crate::store::{self, Store};
use crate::usage::Meters;

use super::control::{Kept, Seat};
use super::leftovers;
use super::metering;
use super::overrides::Overrides;
use super::retention;
use super::sources::{self, Sources};

/// For how long, and how soon after each other, it is tried to remove the volumes of containers
/// that are going.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a scrape waits for what is known of notifications.
const TOLD_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long what was begun a moment ago takes to be known as running.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// What a preflight has not seen by then is not waited for.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Handles of everything that requests are answered from.
pub(super) struct Backend {
    pub owner: ReconcilerHandle,
    pub store: Store,
    pub drivers: Drivers,
    pub docker: Arc<DockerDriver>,
    pub cluster: Arc<KubernetesDriver>,
    pub nomad: Arc<NomadDriver>,
    pub sources: Sources,
    /// Where logs lie.
    pub logs: PathBuf,
    /// The control plane's port; `None` = the control plane is not ours.
    pub seat: Option<Seat>,
    pub overrides: Overrides,
    pub metrics: Arc<Metrics>,
    pub meters: Arc<Meters>,
    /// Of the control plane, where it is this daemon's.
    pub connections: Option<Connections>,
    /// Who is told of what is wrong; `None` = nobody is.
    pub notifier: Option<NotifyHandle>,
}

impl Backend {
    /// What would not run, as things stand now.
    async fn preflight_once(&self, loaded: &[Loaded]) -> Vec<Problem> {
        let mut specs: Vec<PipelineSpec> = loaded
            .iter()
            .flat_map(|loaded| loaded.pipelines.iter().cloned())
            .collect();
        for spec in &mut specs {
            // What runs bears the digests of the definition that it was started from.
            if let Ok(Some(standing)) = api::Backend::definition(self, spec.key.clone()).await {
                revision::carry(&standing, spec);
            }
        }
        let mut obstacles: Vec<Problem> = specs
            .iter()
            .flat_map(|spec| spec.components.values())
            .filter(|component| !self.drivers.contains_key(&component.driver()))
            .map(without_driver)
            .collect();
        let snapshot = self.owner.snapshots().borrow().clone();
        let running = Running::all(&snapshot);
        let kept = self.before_port(&specs, &running).await;
        obstacles.extend(kept.iter().flat_map(Kept::problems).map(whole));
        obstacles.extend(self.before_containers(loaded, &running).await);
        obstacles.extend(self.before_jobs(loaded, &running).await);
        obstacles.extend(self.before_nomad(loaded, &running).await);
        let leaving = leaving(&snapshot, loaded);
        let looked = tokio::task::spawn_blocking(move || {
            let specs: Vec<&PipelineSpec> = specs.iter().chain(&leaving).collect();
            preflight::preflight(&specs, &running, &Inheritance::of_this_process())
        });
        match timeout(LOOK_PATIENCE, looked).await {
            Ok(Ok(found)) => {
                // The daemon is a stranger on that port to the preflight, too.
                let is_told = |problem: &PreflightProblem| {
                    kept.as_ref().is_some_and(|kept| kept.tells(problem))
                };
                let found = found.into_iter().filter(|problem| !is_told(problem));
                obstacles.extend(found.map(obstacle));
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the preflight broke; the apply goes on without it");
            }
            // A file system or a directory service that hangs is a start's to wait for.
            Err(_) => tracing::warn!(
                "what the files name does not answer within {LOOK_PATIENCE:?}; the apply goes on \
                 without a look at it"
            ),
        }
        obstacles
    }
}

impl Backend {
    /// How those do who are told of what is wrong, as far as that is known soon.
    async fn told(&self) -> Vec<TargetStatus> {
        let Some(notifier) = &self.notifier else {
            return Vec::new();
        };
        match tokio::time::timeout(TOLD_PATIENCE, notifier.list()).await {
            Ok(Ok(known)) => known.targets,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

fn not_told(error: NotifyError) -> ApiError {
    let code = match &error {
        NotifyError::NoSuchTarget(_) => ErrorCode::NotFound,
        NotifyError::Refused { .. } => ErrorCode::Refused,
        NotifyError::Ending => ErrorCode::ShuttingDown,
    };
    ApiError::new(code, error.to_string()).with_hint("see `flowctl notify list`")
}

#[async_trait]
impl api::Backend for Backend {
    async fn notifications(&self) -> Result<Notifications, ApiError> {
        let Some(notifier) = &self.notifier else {
            return Err(api::nobody_is_told());
        };
        notifier.list().await.map_err(not_told)
    }

    async fn notify_test(&self, target: TargetName) -> Result<(), ApiError> {
        let Some(notifier) = &self.notifier else {
            return Err(api::nobody_is_told());
        };
        notifier.test(target).await.map_err(not_told)
    }

    fn owner(&self) -> &ReconcilerHandle {
        &self.owner
    }

    async fn metrics(&self, accept: &str) -> Exposition {
        let format = Format::accepted(accept);
        let told = self.told().await;
        let connections = self.connections.as_ref().map(Connections::count);
        let usages = self.meters.sampled();
        let scrape = self.metrics.scrape(format, told, connections, usages);
        metering::exposed(scrape.await)
    }

    async fn with_usage(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.meters.added_to(&snapshot).await
    }

    fn answered(&self, route: &'static str, status: u16) {
        self.metrics.answered(route, status);
    }

    async fn load(&self, request: &ApplyRequest) -> Result<Checked, ApiError> {
        sources::load(request).await
    }

    async fn preflight(&self, loaded: &[Loaded]) -> Vec<Problem> {
        let obstacles = self.preflight_once(loaded).await;
        if obstacles.is_empty() {
            return obstacles;
        }
        // A save of the same file may have been taken over just now: what it starts has its ports
        // before it is known to run. A refusal is worth a second look.
        tokio::time::sleep(SECOND_LOOK).await;
        self.preflight_once(loaded).await
    }

    async fn remarks(&self, loaded: &[Loaded], caller: Option<&CallerVariables>) -> Vec<Problem> {
        let mut remarks = remarks(loaded, caller).await;
        remarks.extend(self.beyond_engine(loaded).await);
        remarks
    }

    async fn applied(&self, request: &ApplyRequest, taken: Vec<Taken>) {
        self.sources.follow(request, taken).await;
    }

    async fn forced(&self, pipelines: Vec<PipelineKey>) {
        self.overrides.add(pipelines);
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ApiError> {
        let wanted = store::EventQuery {
            after: query.after,
            before: None,
            pipeline: None,
            component: query.component.clone(),
            last: None,
        };
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.events(&wanted)).await;
        let kept = match read {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => return Err(failed(super::in_full(error))),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok(query.chosen(kept))
    }

    async fn logs(&self, query: LogQuery) -> Result<LogStream, ApiError> {
        // The files of all drivers lie in one folder, so each of them reads all.
        let mut drivers = self.drivers.values();
        let reader = drivers.next().expect("there is a driver of processes");
        let stream = reader.logs(&query).await;
        stream.map_err(|error| failed(error.to_string()))
    }

    async fn kept_logs(&self, of: Option<PipelineKey>) -> Result<Vec<KeptLog>, ApiError> {
        kept_logs(self.logs.clone(), of).await
    }

    async fn remove_logs(&self, pipeline: PipelineKey) -> Result<u64, ApiError> {
        let defined = retention::defined(&self.owner.snapshots().borrow());
        if defined.iter().any(|(owner, _)| *owner == pipeline) {
            let message = format!("pipeline `{pipeline}` is there, and writes its logs");
            return Err(ApiError::new(ErrorCode::Refused, message)
                .with_hint("`flowctl delete --logs` removes both"));
        }
        let dir = self.logs.clone();
        let found = kept_logs(dir.clone(), Some(pipeline)).await?;
        let removed = tokio::task::spawn_blocking(move || {
            let bytes = found.iter().map(|log| log.bytes).sum();
            let removed = found.iter().try_for_each(|log| kept::remove(&dir, log));
            removed.map(|()| bytes)
        });
        match removed.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(failed(format!("its logs could not be removed: {error}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn renew_image(
        &self,
        pipeline: &PipelineKey,
        component: &ComponentId,
    ) -> Result<Vec<String>, ApiError> {
        let spec = self.definition(pipeline.clone()).await?;
        let spec = spec.and_then(|spec| spec.components.get(component).cloned());
        let Some(Workload::Docker(container)) = spec.map(|spec| spec.workload.clone()) else {
            // Nothing to pull, or nothing at all, which the owner tells.
            return Ok(Vec::new());
        };
        let error = match self.docker.renew_image(&container).await {
            Ok(Renewal::Pulled) => return Ok(Vec::new()),
            Ok(Renewal::NeverPulled) => {
                return Ok(vec![format!(
                    "{component} has `pull: never`, so nothing is pulled; the image of its name \
                     which is here runs"
                )]);
            }
            Err(error) => error,
        };
        let snapshot = self.owner.snapshots().borrow().clone();
        let code = match &error {
            // By a policy the image that is here is not let run for its name alone.
            DriverError::Refused(_)
                if !self.docker.judges_images()
                    && snapshot.has_newer_image(pipeline, component) =>
            {
                return Ok(vec![format!(
                    "{error}; the image of that name which is here runs instead"
                )]);
            }
            DriverError::Refused(_) => ErrorCode::Refused,
            DriverError::Unreachable { .. }
            | DriverError::StillAlive { .. }
            | DriverError::InTheWay { .. } => ErrorCode::Unreachable,
        };
        let message = format!("{error}; {component} was not touched");
        Err(ApiError::new(code, message))
    }

    async fn volumes(&self, asked: VolumesRequest) -> Result<VolumesAnswer, ApiError> {
        if asked.names.is_empty() {
            return Ok(VolumesAnswer::default());
        }
        let fate = match asked.fate {
            Fate::Keep => Volumes::Keep,
            Fate::Remove => Volumes::Remove,
        };
        let unreachable =
            |error: DriverError| ApiError::new(ErrorCode::Unreachable, error.to_string());
        let mut answer = VolumesAnswer::default();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Another pipeline may name a volume that no container of it uses now.
            let wanted = leftovers::wanted_volumes(&self.owner).await?;
            let disposed = match self.docker.dispose(&asked.names, fate, &wanted).await {
                Ok(disposed) => disposed,
                Err(error) if answer.removed.is_empty() => return Err(unreachable(error)),
                Err(error) => {
                    tracing::warn!(%error, "volumes could not be removed");
                    return Ok(answer);
                }
            };
            answer.removed.extend(disposed.volumes_removed);
            answer.kept = disposed.volumes_kept;
            // A container that has ended has its volumes until it is removed.
            let settled = fate == Volumes::Keep || answer.kept.iter().all(|it| wanted.contains(it));
            if settled || Instant::now() >= deadline {
                return Ok(answer);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Backend {
    /// Has the control plane leave its port to a component that wants it; otherwise who cannot have it.
    async fn before_port(&self, specs: &[PipelineSpec], running: &[Running]) -> Option<Kept> {
        let seat = self.seat.as_ref()?;
        seat.make_way(&preflight::to_start(specs, running), &self.owner)
            .await
    }

    /// What would keep containers from starting.
    async fn before_containers(&self, loaded: &[Loaded], running: &[Running]) -> Vec<Problem> {
        let mut obstacles = Vec::new();
        let mut to_start: Vec<(&ComponentSpec, Option<&Path>)> = Vec::new();
        for loaded in loaded {
            let file = loaded.source.file.as_deref();
            for component in preflight::to_start(&loaded.pipelines, running) {
                to_start.push((component, file));
            }
        }
        for (component, file) in to_start {
            let Workload::Docker(container) = &component.workload else {
                continue;
            };
            let looked = self.docker.look_ahead(component, container, file).await;
            let Err(found) = looked else {
                continue;
            };
            obstacles.push(whole(format!("{}: {found}", component.id)));
            // An engine that does not answer one does not answer the others, and each would wait.
            if let docker::Obstacle::NoAnswer { .. } = found {
                break;
            }
        }
        obstacles
    }

    /// What would keep components from starting on the cluster.
    async fn before_jobs(&self, loaded: &[Loaded], running: &[Running]) -> Vec<Problem> {
        let pipelines = loaded.iter().map(|loaded| &loaded.pipelines);
        let to_start = pipelines.flat_map(|specs| preflight::to_start(specs, running));
        let mut told = BTreeSet::new();
        for component in to_start.filter(|it| it.driver() == self.cluster.kind()) {
            if let Err(found) = self.cluster.look_ahead(component).await {
                // All components of one namespace have the same.
                told.insert(found.to_string());
                if let Obstacle::NoAnswer(_) = found {
                    break;
                }
            }
        }
        told.into_iter().map(whole).collect()
    }

    /// What would keep components from starting on Nomad.
    async fn before_nomad(&self, loaded: &[Loaded], running: &[Running]) -> Vec<Problem> {
        let pipelines = loaded.iter().map(|loaded| &loaded.pipelines);
        let to_start = pipelines.flat_map(|specs| preflight::to_start(specs, running));
        let mut told = BTreeSet::new();
        for component in to_start.filter(|it| it.driver() == self.nomad.kind()) {
            match self.nomad.look_ahead(component).await {
                Ok(()) => {}
                Err(nomad::Obstacle::Component(why)) => {
                    told.insert(format!("{}: {why}", component.id));
                }
                // All components of one cluster have the same, and each would wait.
                Err(nomad::Obstacle::Cluster(why)) => {
                    told.insert(format!("{}: {why}", component.id));
                    break;
                }
            }
        }
        told.into_iter().map(whole).collect()
    }

    /// What the engine of the containers says it cannot do for them.
    async fn beyond_engine(&self, loaded: &[Loaded]) -> Vec<Problem> {
        let specs = loaded.iter().flat_map(|one| &one.pipelines);
        let components = specs.flat_map(|spec| spec.components.values());
        let containers: Vec<_> = components
            .filter(|one| matches!(one.workload, Workload::Docker(_)))
            .collect();
        if containers.is_empty() {
            return Vec::new();
        }
        let (missing, host) = self.docker.asked_of_itself().await;
        let told = containers.into_iter().filter_map(|component| {
            let limits = Limit::of(&component.resources);
            let limits: Vec<_> = limits.filter(|limit| missing.contains(limit)).collect();
            let words = Limit::in_vain(&limits)?;
            let why = "its engine says that it has no control group for that";
            Some(whole(format!("{}: {words}: {why}", component.id)))
        });
        let mut told: Vec<_> = told.collect();
        if host == Reachable::No {
            let message = "containers of a rootless engine reach nothing of this host: they do not                            find the control plane";
            told.push(whole(message.to_owned()));
        }
        told
    }
}

/// The logs of a pipeline, or of all, that lie in `dir`.
pub(super) async fn kept_logs(
    dir: PathBuf,
    of: Option<PipelineKey>,
) -> Result<Vec<KeptLog>, ApiError> {
    let looked = tokio::task::spawn_blocking(move || match of {
        Some(pipeline) => kept::kept_of(&dir, &pipeline),
        None => kept::kept(&dir),
    });
    match looked.await {
        Ok(Ok(kept)) => Ok(kept),
        Ok(Err(error)) => Err(failed(format!("the kept logs cannot be read: {error}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// What will work otherwise than the author of these files, or who applies them, may expect.
pub(super) async fn remarks(loaded: &[Loaded], caller: Option<&CallerVariables>) -> Vec<Problem> {
    let components: Vec<ComponentSpec> = loaded
        .iter()
        .flat_map(|loaded| &loaded.pipelines)
        .flat_map(|spec| spec.components.values().cloned())
        .collect();
    let caller = caller.cloned();
    let looked = tokio::task::spawn_blocking(move || {
        let inheritance = Inheritance::of_this_process();
        let mut remarks = Vec::new();
        for spec in &components {
            let mut told = process::remarks(spec, &inheritance);
            let names = process::wanted_variables(spec).into_iter();
            told.extend(names.filter_map(|name| {
                let ours = inheritance.get(name);
                let theirs = caller.as_ref()?.compare(name, ours);
                (theirs == CallerHas::Other && ours.is_some()).then(|| {
                    format!(
                        "its variable {name} is the daemon's, which has another value than yours: \
                         start the daemon anew with it, or write it into a file that `env_file` names"
                    )
                })
            }));
            remarks.extend(
                told.into_iter()
                    .map(|text| whole(format!("{}: {text}", spec.id))),
            );
        }
        remarks
    });
    match timeout(LOOK_PATIENCE, looked).await {
        Ok(Ok(remarks)) => remarks,
        Ok(Err(error)) => {
            tracing::error!(%error, "a look at what is applied broke; nothing is remarked");
            Vec::new()
        }
        // The start waits for it, and says so.
        Err(_) => Vec::new(),
    }
}

/// The pipelines that are going, or go with this apply since their file names them no more: what they
/// have will be free. Nothing is wanted of them.
fn leaving(snapshot: &Snapshot, loaded: &[Loaded]) -> Vec<PipelineSpec> {
    let is_of = |file: &Path| {
        loaded
            .iter()
            .any(|one| one.source.file.as_deref() == Some(file))
    };
    let names = |key: &PipelineKey| {
        let mut specs = loaded.iter().flat_map(|one| &one.pipelines);
        specs.any(|spec| spec.key == *key)
    };
    let goes = |status: &PipelineStatus| {
        let key = status.key();
        let is_left_out = status.file.as_deref().is_some_and(is_of) && !names(&key);
        (status.deleting || is_left_out).then(|| Desired::nothing(key).spec.as_ref().clone())
    };
    snapshot
        .pipelines
        .iter()
        .filter_map(|it| goes(it))
        .collect()
}

/// A problem of no particular place in a file.
fn whole(message: String) -> Problem {
    Problem {
        file: None,
        line: None,
        column: None,
        message,
    }
}

/// A preflight finding in the form that the API tells.
fn obstacle(found: PreflightProblem) -> Problem {
    whole(found.to_string())
}

/// A component that nothing here can run.
fn without_driver(component: &ComponentSpec) -> Problem {
    let hold = Hold::NoDriver {
        driver: component.driver(),
    };
    whole(format!("{}: {hold}", component.id))
}

fn failed(message: String) -> ApiError {
    ApiError::new(ErrorCode::Internal, message)
}
