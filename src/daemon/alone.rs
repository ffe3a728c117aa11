//! Looking at a state directory, and ending what it owns, while no daemon runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::driver::Scope;
use crate::driver::process::ProcessDriver;
use crate::model::{DaemonStatus, DriverKind, Snapshot};
use crate::reconciler::{Core, Drivers, Input, Kept};
use crate::store::{self, Store};

use super::{
    ControlPlaneChoice, Daemon, DaemonError, LOOKING, Options, engine, process_config, rebuilt,
};

/// What is in `state_dir` and runs, seen without a daemon and without changing anything. `None`
/// when nothing was ever kept there.
///
/// # Errors
/// When a daemon has the directory, or it cannot be read.
pub async fn look(state_dir: &Path) -> Result<Option<Snapshot>, DaemonError> {
    let store_dir = state_dir.join("store");
    if !store_dir.exists() && !state_dir.join("instances").exists() {
        return Ok(None);
    }
    let clock = Clock::new();
    let _lock = store::lock(state_dir, LOOKING)?;
    let (store, loaded) =
        Store::open(&store_dir, clock.now()).map_err(|source| DaemonError::Store {
            dir: state_dir.to_owned(),
            source,
        })?;
    let process =
        ProcessDriver::onlooker(process_config(state_dir), clock.clone()).map_err(|source| {
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
    if engine::is_used(state_dir, &kept) {
        let docker = engine::onlooker(state_dir, &engine::as_before(state_dir), &clock)?;
        drivers.insert(DriverKind::Docker, docker);
    }
    let kept = rebuilt(kept, &drivers, &loaded.recovery).await;
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
    core.freeze("no daemon runs; `flowctl daemon` or `flowctl apply` starts one");
    core.turn(clock.now());
    for (kind, driver) in &drivers {
        let result = driver.observe(&Scope::All).await;
        let driver = *kind;
        core.handle(Input::Looked { driver, result }, clock.now());
    }
    core.turn(clock.now());
    // Only what was there before is kept: the next daemon takes the ends in by itself.
    store.close().map_err(|source| DaemonError::Store {
        dir: state_dir.to_owned(),
        source,
    })?;
    Ok(Some(Snapshot {
        daemon: None,
        ..core.snapshot()
    }))
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
    let daemon = Daemon::open(Options {
        state_dir: state_dir.to_owned(),
        control_plane: ControlPlaneChoice::Absent,
        engine: engine::as_before(state_dir),
    })
    .await?;
    let asked = daemon.owner().down().await;
    let mut snapshots = daemon.owner().snapshots();
    let emptied = snapshots
        .wait_for(|snapshot| snapshot.pipelines.is_empty())
        .await
        .is_ok();
    if emptied {
        daemon.swept().await;
    }
    daemon.close().await;
    asked.map_err(DaemonError::Down)?;
    if emptied {
        Ok(())
    } else {
        Err(DaemonError::Ended)
    }
}
