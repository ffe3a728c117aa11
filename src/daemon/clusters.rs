//! The cluster of this daemon: which one it is, and what is left there of pipelines that are gone.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::engine::{self, EngineError};
use crate::clock::Clock;
use crate::control_plane::{Bearer, Keyring};
use crate::driver::kubernetes::{
    Component, KubernetesConfig, KubernetesDriver, Tidied, remembered,
};
use crate::driver::{Conduct, Driver as _};
use crate::images::Gate;
use crate::model::{DriverKind, InstanceId, Snapshot};
use crate::reconciler::{Kept, ReconcilerHandle};
use crate::store::Recovery;

pub use crate::driver::kubernetes::ClusterChoice;

/// How soon the cluster is asked again where something was left.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often tokens are looked through.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The way to the cluster of a daemon. That none answers is found out when a component needs it.
pub(super) fn open(
    state_dir: &Path,
    choice: &ClusterChoice,
    clock: &Clock,
    gate: Arc<Gate>,
) -> Result<Arc<KubernetesDriver>, EngineError> {
    driver(state_dir, choice, clock, Conduct::Tends, gate)
}

/// The way to the cluster for somebody who changes nothing; `None` when this directory has nothing in
/// one.
pub(super) fn onlooker(
    state_dir: &Path,
    clock: &Clock,
) -> Result<Option<Arc<KubernetesDriver>>, EngineError> {
    let Some(choice) = remembered(state_dir) else {
        return Ok(None);
    };
    let gate = Arc::new(Gate::open());
    driver(state_dir, &choice, clock, Conduct::OnlyLooks, gate).map(Some)
}

/// The cluster that the last daemon of this directory was told of.
pub(super) fn as_before(state_dir: &Path) -> ClusterChoice {
    remembered(state_dir).unwrap_or_default()
}

fn driver(
    state_dir: &Path,
    choice: &ClusterChoice,
    clock: &Clock,
    conduct: Conduct,
    gate: Arc<Gate>,
) -> Result<Arc<KubernetesDriver>, EngineError> {
    let config = KubernetesConfig {
        cluster: choice.clone(),
        state_dir: state_dir.to_owned(),
        owner: engine::owner(state_dir)?,
        conduct,
        gate,
    };
    Ok(KubernetesDriver::new(config, clock.clone()))
}

/// Whether the cluster is asked what it runs: when something kept speaks of it, and when a store was
/// lost that may have.
pub(super) fn is_asked(cluster: &KubernetesDriver, kept: &Kept, recovery: &Recovery) -> bool {
    is_spoken_of(cluster.kind(), kept)
        || (*recovery != Recovery::Intact && cluster.may_have_something())
}

/// Whether a pipeline that is kept names this driver.
fn is_spoken_of(kind: DriverKind, kept: &Kept) -> bool {
    let pipelines = kept.pipelines.values();
    let mut components = pipelines.flat_map(|record| record.spec.components.values());
    components.any(|component| component.driver() == kind)
}

/// Removes what no pipeline wants any more, as long as the daemon lives: after each edit and deletion,
/// and at the start, for a daemon that died before it could.
pub(super) async fn follow(cluster: Weak<KubernetesDriver>, owner: ReconcilerHandle) {
    let mut snapshots = owner.snapshots();
    let Some(kind) = cluster.upgrade().map(|it| it.kind()) else {
        return;
    };
    let mut before = components(&snapshots.borrow_and_update(), kind);
    let mut left = true;
    let (mut pause, mut again_at) = (ASK_AGAIN, Instant::now() + ASK_AGAIN);
    loop {
        tokio::select! {
            // Cancel-safe: a change that was not seen stays unseen.
            changed = snapshots.changed() => if changed.is_err() { return },
            // Cancel-safe: it only waits, until a moment that stands.
            () = tokio::time::sleep_until(again_at), if left => {}
        }
        let now = components(&snapshots.borrow_and_update(), kind);
        if now != before {
            (left, pause, again_at) = (true, ASK_AGAIN, Instant::now());
        }
        before = now;
        if !left || Instant::now() < again_at {
            continue;
        }
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        left = match cluster.tidy(&before).await {
            Ok(Tidied::Done) => false,
            Ok(Tidied::Postponed) => true,
            Err(error) => {
                tracing::debug!(%error, "something that nobody wants is left in the cluster");
                true
            }
        };
        again_at = Instant::now() + pause;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Writes the tokens of instances anew at half of their life, and once by each daemon, which does not know
/// how old they are.
pub(super) async fn renew(
    cluster: Weak<KubernetesDriver>,
    keys: Arc<Keyring>,
    owner: ReconcilerHandle,
    clock: Clock,
) {
    let mut known: HashMap<InstanceId, String> = HashMap::new();
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let snapshot = owner.snapshots().borrow().clone();
        let running = running(&snapshot, cluster.kind());
        known.retain(|instance, _| running.contains(instance));
        for instance in running {
            let now = clock.now();
            let is_good = |token: &String| {
                let bearer = Bearer::Instance(instance.clone());
                keys.verify(token, now).is_ok_and(|by| by == bearer) && !keys.is_stale(token, now)
            };
            if known.get(&instance).is_some_and(is_good) {
                continue;
            }
            let token = keys.issue(&instance, now);
            match cluster.renew_token(&instance, &token).await {
                Ok(()) => drop(known.insert(instance, token)),
                Err(error) => tracing::warn!(%instance, %error, "its token could not be renewed"),
            }
        }
    }
}

/// The instances that run, or are to, by this driver.
fn running(snapshot: &Snapshot, kind: DriverKind) -> BTreeSet<InstanceId> {
    let pipelines = snapshot.pipelines.iter();
    let components = pipelines.flat_map(|pipeline| &pipeline.components);
    let own = components.filter(|component| component.driver == kind);
    let replicas = own.flat_map(|component| &component.replicas);
    let instances = replicas.filter_map(|replica| replica.instance.clone());
    instances.filter(|one| snapshot.is_live(one)).collect()
}

/// Removes what is left of all pipelines, which are down.
pub(super) async fn clear(cluster: &KubernetesDriver) {
    if !cluster.may_have_something() {
        return;
    }
    if let Err(error) = cluster.tidy(&BTreeSet::new()).await {
        tracing::debug!(%error, "something is left in the cluster");
    }
}

/// The components that this driver runs.
fn components(snapshot: &Snapshot, kind: DriverKind) -> BTreeSet<Component> {
    let pipelines = snapshot.pipelines.iter();
    let all = pipelines.flat_map(|pipeline| {
        let own = pipeline.components.iter();
        let own = own.filter(|component| component.driver == kind);
        own.map(|component| (pipeline.key(), component.id.clone()))
            .collect::<Vec<_>>()
    });
    all.collect()
}
