//! Looking at a state directory, and ending what it owns, while no daemon runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc, watch};

use crate::api::{
    self, ApiError, ApplyRequest, CallerVariables, Checked, ErrorCode, EventQuery, Exposition,
    Loaded, VolumesAnswer, VolumesRequest,
};
use crate::clock::Clock;
use crate::driver::logs::kept::{KeptLog, Retention};
use crate::driver::process::ProcessDriver;
use crate::driver::{Driver as _, LogQuery, LogStream, Scope, logs};
use crate::manifest::Taken;
use crate::metrics;
use crate::model::{
    ComponentId, DaemonStatus, DriverKind, Event, PipelineKey, PipelineSpec, Problem, Snapshot,
};
use crate::reconciler::{Core, Drivers, Input, Kept, ReconcilerHandle};
use crate::store::{self, Store};

use super::engine::{CleanedUp, Volumes};
use super::sources;
use super::{
    ControlPlaneChoice, Daemon, DaemonError, LOOKING, Options, Purpose, clusters, engine,
    judge_recovery, metering, nomad, process_config, rebuilt,
};

/// What was found in a state directory without a daemon: answers whatever only reads. It holds
/// nothing of the directory, so that a daemon can start meanwhile.
pub struct Onlooker {
    owner: ReconcilerHandle,
    definitions: BTreeMap<PipelineKey, Arc<PipelineSpec>>,
    events: Vec<Event>,
    logs: logs::Place,
}

/// What is in `state_dir` and runs, seen without a daemon and without changing anything. `None`
/// when nothing was ever kept there.
///
/// # Errors
/// When a daemon has the directory, or it cannot be read.
pub async fn look(state_dir: &Path) -> Result<Option<Onlooker>, DaemonError> {
    let store_dir = state_dir.join("store");
    if !store_dir.exists() && !state_dir.join("instances").exists() {
        return Ok(None);
    }
    let clock = Clock::new();
    let _lock = store::lock(state_dir, LOOKING)?;
    let in_store = |source| DaemonError::Store {
        dir: state_dir.to_owned(),
        source,
    };
    let (store, loaded) = Store::open(&store_dir, clock.now()).map_err(in_store)?;
    let config = process_config(state_dir);
    let logs = logs::Place {
        driver: DriverKind::Process,
        logs_dir: config.logs_dir.clone(),
        instances_dir: config.instances_dir.clone(),
    };
    let process = ProcessDriver::onlooker(config, clock.clone()).map_err(|source| {
        let dir = state_dir.to_owned();
        DaemonError::Io {
            doing: "look at instances",
            dir,
            source,
        }
    })?;
    let kept = Kept {
        pipelines: loaded.pipelines,
        records: loaded.records,
        registrations: super::registrations::kept(&loaded.settings),
        notes: Vec::new(),
        next_seq: loaded.next_seq,
    };
    let mut drivers: Drivers = BTreeMap::new();
    drivers.insert(DriverKind::Process, Arc::new(process));
    let engine = engine::as_before(state_dir);
    let recovery = judge_recovery(loaded.recovery, &loaded.settings);
    if engine::is_asked(&kept, &recovery, &engine) {
        let docker = engine::onlooker(state_dir, &engine, &clock)?;
        drivers.insert(DriverKind::Docker, docker);
    }
    if let Some(cluster) = clusters::onlooker(state_dir, &clock)? {
        drivers.insert(cluster.kind(), cluster);
    }
    if let Some(nomad) = nomad::onlooker(state_dir, &clock)? {
        drivers.insert(nomad.kind(), nomad);
    }
    let (kept, _) = rebuilt(kept, &drivers, &recovery).await;
    let definitions = kept.pipelines.iter();
    let definitions = definitions
        .map(|(key, record)| (key.clone(), Arc::clone(&record.spec)))
        .collect();
    let daemon = DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: clock.now(),
        state_dir: state_dir.to_owned(),
        durable: true,
        durable_why: None,
        control_plane: None,
    };
    let mut core = Core::new(kept, drivers.keys().copied(), daemon, clock.now());
    for driver in drivers.values() {
        if let Some(boot) = driver.boot() {
            core.booted(driver.kind(), boot);
        }
    }
    core.freeze("no daemon runs; `flowctl daemon` or `flowctl apply` starts one");
    let turn = core.turn(clock.now());
    for (kind, driver) in &drivers {
        if let Some(partitions) = turn.attend.get(kind) {
            driver.attend(partitions);
        }
        let result = driver.observe(&Scope::All).await;
        core.cannot_enforce(*kind, driver.unenforced());
        let driver = *kind;
        core.handle(Input::Looked { driver, result }, clock.now());
    }
    core.turn(clock.now());
    let events = store.events(&store::EventQuery::default());
    // Only what was there before is kept: the next daemon takes the ends in by itself.
    store.close().map_err(in_store)?;
    let snapshot = Snapshot {
        daemon: None,
        ..core.snapshot()
    };
    Ok(Some(Onlooker {
        owner: nobody(snapshot),
        definitions,
        events: events.map_err(in_store)?,
        logs,
    }))
}

/// What only a daemon can do, and what that means.
fn no_daemon(consequence: &str) -> ApiError {
    let message = format!("no daemon runs, so {consequence}");
    ApiError::new(ErrorCode::ShuttingDown, message)
}

/// The way to an owner that takes no commands; `snapshot` is all that it will ever tell.
fn nobody(snapshot: Snapshot) -> ReconcilerHandle {
    let (commands, _) = mpsc::channel(1);
    let (events, _) = broadcast::channel(1);
    ReconcilerHandle::new(commands, watch::channel(Arc::new(snapshot)).1, events)
}

#[async_trait]
impl api::Backend for Onlooker {
    fn owner(&self) -> &ReconcilerHandle {
        &self.owner
    }

    async fn metrics(&self, accept: &str) -> Exposition {
        let snapshot = self.owner.snapshots().borrow().clone();
        let scrape = metrics::of_snapshot(&snapshot, metrics::Format::accepted(accept));
        metering::exposed(scrape)
    }

    async fn definition(&self, key: PipelineKey) -> Result<Option<Arc<PipelineSpec>>, ApiError> {
        Ok(self.definitions.get(&key).cloned())
    }

    async fn load(&self, request: &ApplyRequest) -> Result<Checked, ApiError> {
        sources::load(request).await
    }

    async fn preflight(&self, _: &[Loaded]) -> Vec<Problem> {
        Vec::new()
    }

    async fn remarks(&self, _: &[Loaded], _: Option<&CallerVariables>) -> Vec<Problem> {
        Vec::new()
    }

    async fn applied(&self, _: &ApplyRequest, _: Vec<Taken>) {}

    async fn forced(&self, _: Vec<PipelineKey>) {}

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ApiError> {
        if query.follow {
            return Err(no_daemon("nothing new will happen"));
        }
        Ok(query.chosen(self.events.clone()))
    }

    async fn logs(&self, query: LogQuery) -> Result<LogStream, ApiError> {
        Ok(logs::stream(self.logs.clone(), query))
    }

    async fn renew_image(&self, _: &PipelineKey, _: &ComponentId) -> Result<Vec<String>, ApiError> {
        Err(no_daemon("nothing can be restarted"))
    }

    async fn kept_logs(&self, of: Option<PipelineKey>) -> Result<Vec<KeptLog>, ApiError> {
        super::backend::kept_logs(self.logs.logs_dir.clone(), of).await
    }

    async fn remove_logs(&self, _: PipelineKey) -> Result<u64, ApiError> {
        Err(no_daemon("its logs stay"))
    }

    async fn volumes(&self, _: VolumesRequest) -> Result<VolumesAnswer, ApiError> {
        Err(no_daemon("its volumes stay"))
    }
}

/// Ends everything that `state_dir` owns, as `down` does, by being its daemon for as long as that
/// takes. Nothing was ever kept there: nothing is done.
///
/// # Errors
/// When a daemon has the directory, it cannot be used, or the end cannot be recorded.
pub async fn down(state_dir: &Path) -> Result<(), DaemonError> {
    if !state_dir.join("store").exists() && !state_dir.join("instances").exists() {
        return Ok(());
    }
    let options = Options {
        state_dir: state_dir.to_owned(),
        control_plane: ControlPlaneChoice::Absent,
        engine: engine::as_before(state_dir),
        retention: Retention::default(),
        metrics: None,
        otlp: None,
        notify: None,
    };
    let daemon = Daemon::open_to(Purpose::TakeDown, options).await?;
    let asked = daemon.owner().down().await;
    let mut snapshots = daemon.owner().snapshots();
    let emptied = snapshots
        .wait_for(|snapshot| snapshot.pipelines.is_empty())
        .await
        .is_ok();
    if emptied {
        daemon.swept().await;
    }
    daemon.close(super::DOWN).await;
    asked.map_err(DaemonError::Down)?;
    if emptied {
        Ok(())
    } else {
        Err(DaemonError::Ended)
    }
}

/// Removes or keeps the named volumes that were made for the components of `state_dir`, which are
/// down, and tells which.
///
/// # Errors
/// When a daemon has the directory, or volumes are to be removed and the engine does not answer.
pub async fn volumes(state_dir: &Path, fate: Volumes) -> Result<CleanedUp, DaemonError> {
    let Some(docker) = engine::left_behind(state_dir, &Clock::new())? else {
        return Ok(CleanedUp::default());
    };
    let _lock = match (store::lock(state_dir, LOOKING), fate) {
        (Ok(lock), Volumes::Keep | Volumes::Remove) => lock,
        (Err(error), Volumes::Remove) => return Err(error.into()),
        // Something was applied meanwhile; only the telling is lost.
        (Err(error), Volumes::Keep) => {
            tracing::debug!(%error, "which volumes are kept is not known");
            return Ok(CleanedUp::default());
        }
    };
    match (docker.clean_up(fate).await, fate) {
        (Ok(cleaned), Volumes::Keep | Volumes::Remove) => Ok(cleaned),
        (Err(error), Volumes::Remove) => Err(DaemonError::Volumes(error)),
        (Err(error), Volumes::Keep) => {
            tracing::debug!(%error, "which volumes are kept is not known");
            Ok(CleanedUp::default())
        }
    }
}
