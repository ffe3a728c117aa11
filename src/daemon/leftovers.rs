//! What containers leave behind once no pipeline wants them: their networks, and the memory that
//! there was something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::engine::{Containing, networks_of};
use super::in_full;
use crate::driver::docker::{CleanedUp, DockerDriver, Sweep, Volumes};
use crate::driver::{Driver as _, Scope};
use crate::model::{
    ComponentSpec, DriverKind, Generation, PipelineKey, PipelineSpec, PipelineStatus, Snapshot,
};
use crate::reconciler::{ReconcilerHandle, Refusal};
use crate::store::{self, Batch, Store};

/// The setting of a directory that may have containers, also when no pipeline speaks of them.
pub(super) const CONTAINERS: &str = "containers";
/// How soon an engine is asked again that kept a network.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The longest pause before a network is looked at again that others still use.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Removes the networks that no pipeline wants any more, as long as the daemon lives: after each
/// edit and deletion, and at the start, `there` permitting, for a daemon that died before it could.
/// Keeps in the store whether the engine may have anything of this directory.
pub(super) async fn follow(
    docker: Weak<DockerDriver>,
    owner: ReconcilerHandle,
    store: Store,
    there: Containing,
) {
    let mut snapshots = owner.snapshots();
    let mut before = with_containers(&snapshots.borrow_and_update());
    let mut left = there == Containing::Containers;
    let mut noted = None;
    let (mut pause, mut again_at) = (ASK_AGAIN, Instant::now());
    loop {
        tokio::select! {
            // Cancel-safe: a change that was not seen stays unseen.
            changed = snapshots.changed() => if changed.is_err() { return },
            // Cancel-safe: it only waits, until a moment that stands.
            () = tokio::time::sleep_until(again_at), if left => {}
        }
        let now = with_containers(&snapshots.borrow_and_update());
        if before
            .iter()
            .any(|(key, revision)| now.get(key) != Some(revision))
        {
            (left, pause, again_at) = (true, ASK_AGAIN, Instant::now());
        }
        before = now;
        if !before.is_empty() && noted != Some(Containing::Containers) {
            note(&store, Containing::Containers);
            noted = Some(Containing::Containers);
        }
        if !left || Instant::now() < again_at {
            continue;
        }
        let Some(docker) = docker.upgrade() else {
            return;
        };
        let Ok(wanted) = wanted_networks(&owner, before.keys()).await else {
            return;
        };
        left = match docker.drop_networks(&wanted).await {
            Ok(Sweep::Done) if before.is_empty() => {
                noted = Some(note_what_is_left(&docker, &store).await);
                noted == Some(Containing::Containers)
            }
            Ok(Sweep::Done) => false,
            Ok(Sweep::Postponed) => true,
            Err(error) => {
                tracing::debug!(%error, "networks that nobody wants are left");
                true
            }
        };
        again_at = Instant::now() + pause;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The pipelines that have containers, with what they were defined as.
fn with_containers(snapshot: &Snapshot) -> BTreeMap<PipelineKey, Generation> {
    let pipelines = snapshot.pipelines.iter().filter(|pipeline| {
        let mut components = pipeline.components.iter();
        components.any(|component| component.driver == DriverKind::Docker)
    });
    let entry = |pipeline: &Arc<PipelineStatus>| {
        let key = pipeline.key();
        (key, pipeline.generation)
    };
    pipelines.map(entry).collect()
}

/// Asks the engine whether it has anything of this directory, and keeps the answer in the store.
/// One that does not answer may have.
async fn note_what_is_left(docker: &DockerDriver, store: &Store) -> Containing {
    match docker.observe(&Scope::All).await {
        Ok(look) if look.is_empty() => {
            note(store, Containing::Nothing);
            Containing::Nothing
        }
        Ok(_) | Err(_) => Containing::Containers,
    }
}

/// Keeps in the store whether the engine may have anything, for the next daemon: what a deletion
/// leaves is removed after the pipeline is gone.
fn note(store: &Store, containing: Containing) {
    let mut batch = Batch::new();
    match containing {
        Containing::Nothing => batch.forget_setting(CONTAINERS),
        Containing::Containers => batch.put_setting(CONTAINERS, "left"),
    }
    store.commit(batch, store::Durability::CrashSafe, |result| {
        if let Err(error) = result {
            let error = in_full(error);
            tracing::warn!(error, "whether there are containers is not recorded yet");
        }
    });
}

/// Removes the networks that were made for containers which are gone. Named volumes hold data, so
/// they stay until somebody says otherwise.
pub(super) async fn tidy(docker: &DockerDriver, store: &Store) {
    match docker.clean_up(Volumes::Keep).await {
        Ok(CleanedUp {
            networks_in_use,
            volumes_kept,
            ..
        }) => {
            for network in networks_in_use {
                tracing::info!(network, "others use the network; it stays");
            }
            for volume in volumes_kept {
                tracing::info!(
                    volume,
                    "the volume is kept; `flowctl down --volumes` removes it"
                );
            }
        }
        // Most hosts have no engine, and then there is nothing to remove.
        Err(error) => {
            tracing::debug!(%error, "nothing is removed from the engine");
            return;
        }
    }
    note_what_is_left(docker, store).await;
}

/// The networks of those of these pipelines that are not being deleted.
///
/// # Errors
/// When the daemon is going.
async fn wanted_networks(
    owner: &ReconcilerHandle,
    pipelines: impl Iterator<Item = &PipelineKey>,
) -> Result<BTreeSet<String>, Refusal> {
    let specs = desired(owner, pipelines).await?;
    Ok(networks_of(specs.iter().map(Arc::as_ref)))
}

/// The named volumes of all pipelines that are not being deleted, whether or not they run.
///
/// # Errors
/// When the daemon is going.
pub(super) async fn wanted_volumes(owner: &ReconcilerHandle) -> Result<BTreeSet<String>, Refusal> {
    let pipelines = with_containers(&owner.snapshots().borrow());
    let specs = desired(owner, pipelines.keys()).await?;
    let components = specs.iter().flat_map(|spec| spec.components.values());
    let volumes = components.flat_map(ComponentSpec::named_volumes);
    Ok(volumes.map(str::to_owned).collect())
}

/// The definitions of those of these pipelines that are not being deleted.
async fn desired(
    owner: &ReconcilerHandle,
    pipelines: impl Iterator<Item = &PipelineKey>,
) -> Result<Vec<Arc<PipelineSpec>>, Refusal> {
    let mut specs = Vec::new();
    for key in pipelines {
        let found = owner.desired(key.clone()).await?;
        specs.extend(found.map(|(_, spec)| spec));
    }
    Ok(specs)
}
