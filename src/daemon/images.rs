//! The image policy of this daemon: read, followed, what is wrong with what runs by it, and which
//! edits it bars.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Options;
use crate::clock::Clock;
use crate::conditions::whole;
use crate::images::{Gate, InForce, Question, Ruling, Runs, Standing, State, rule};
use crate::model::image::ImageName;
use crate::model::{
    ComponentId, ConditionKind, PipelineKey, PipelineSpec, Snapshot, StatusCondition, Timestamp,
    Workload,
};
use crate::reconciler::{Asker, ReconcilerHandle};
use crate::store::{self, Batch, Store, StoreError};
use crate::watch::Touches;

/// How soon what could not be looked at is looked at again.
pub(super) const AGAIN: Duration = Duration::from_secs(20);

/// The gate of a daemon. With a policy that cannot be read it lets nothing through.
pub(super) fn gate(
    options: &Options,
    clock: &Clock,
    settings: &BTreeMap<String, String>,
    store: &Store,
) -> Arc<Gate> {
    let store = store.clone();
    let keep = move |name: String, text: Option<String>| {
        let mut batch = Batch::new();
        match text {
            Some(text) => batch.put_setting(name, text),
            None => batch.forget_setting(name),
        }
        let done = |result: Result<(), StoreError>| {
            if let Err(error) = result {
                tracing::warn!(%error, "what an image was found to be is not recorded yet");
            }
        };
        store.commit(batch, store::Durability::CrashSafe, done);
    };
    let gate = Gate::new(clock.clone(), settings, Box::new(keep));
    if let Some(file) = &options.engine.image_policy
        && let Err(problems) = gate.begin(file)
    {
        tracing::error!(%problems, "no container is started until the image policy is mended");
    }
    Arc::new(gate)
}

/// Follows the policy's file, and says what is wrong with it and with what runs, for ever. Cancel-safe:
/// what it finds is found again.
pub(super) async fn follow(
    gate: Arc<Gate>,
    file: PathBuf,
    mut touches: Touches,
    owner: ReconcilerHandle,
) {
    let following = async {
        loop {
            touches.next().await;
            gate.look_again(&file).await;
        }
    };
    tokio::select! {
        () = following => {}
        // Cancel-safe: what it finds is found again.
        () = tell(&gate, &file, &owner) => {}
    }
}

/// Says what is wrong, whenever the policy changes.
async fn tell(gate: &Gate, file: &Path, owner: &ReconcilerHandle) {
    let mut states = gate.states();
    let mut since = BTreeMap::new();
    let mut revision = states.borrow().revision;
    loop {
        let state = states.borrow_and_update().clone();
        if std::mem::replace(&mut revision, state.revision) != state.revision {
            owner.image_policy_changed().await;
        }
        let mut found: Vec<StatusCondition> = broken(&state, file).into_iter().collect();
        owner
            .report_conditions(Asker::ImagePolicy, found.clone())
            .await;
        let snapshot = owner.snapshots().borrow().clone();
        let mut all_known = true;
        for (what, refused) in running(gate, &snapshot).await {
            match refused {
                Running::Refused(why) => {
                    let now = Clock::new().now();
                    let since = *since.entry(what.clone()).or_insert(now);
                    found.push(what.condition(since, why));
                }
                Running::Unknown => all_known = false,
            }
        }
        since.retain(|what: &What, _| found.iter().any(|one| what.is_of(one)));
        owner.report_conditions(Asker::ImagePolicy, found).await;
        let wait = async {
            match all_known {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            // Cancel-safe: a change that was not taken is seen again.
            changed = states.changed() => if changed.is_err() { return },
            // Cancel-safe: it only waits.
            () = wait => {}
            // Cancel-safe: it only waits.
            () = replaced(owner, &snapshot) => {}
        }
    }
}

/// Waits until other images run than in `snapshot`.
async fn replaced(owner: &ReconcilerHandle, snapshot: &Snapshot) {
    let before = images(snapshot);
    let mut snapshots = owner.snapshots();
    let is_over = snapshots
        .wait_for(|now| images(now) != before)
        .await
        .is_err();
    if is_over {
        std::future::pending::<()>().await;
    }
}

/// What is wrong with the policy itself.
fn broken(state: &State, file: &Path) -> Option<StatusCondition> {
    let (problem, since) = state.problem.as_ref()?;
    let instead = match state.in_force {
        InForce::Policy(_) => "the last good version is in force",
        InForce::Broken | InForce::Nothing => "no container is started until it is mended",
    };
    let why = format!("{}; {instead}", problem.in_place());
    let name = file.file_name().unwrap_or(file.as_os_str());
    Some(StatusCondition {
        about: Some(name.to_string_lossy().into_owned()),
        ..whole(ConditionKind::Rejected, *since, why)
    })
}

/// An image that a component runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct What {
    pipeline: PipelineKey,
    component: ComponentId,
    image: String,
    digest: String,
    /// Whether that is the engine's id.
    local: bool,
}

impl What {
    fn is_of(&self, condition: &StatusCondition) -> bool {
        condition.pipeline_key().as_ref() == Some(&self.pipeline)
            && condition.component.as_ref() == Some(&self.component)
    }

    fn condition(&self, since: Timestamp, why: String) -> StatusCondition {
        StatusCondition {
            namespace: Some(self.pipeline.namespace.clone()),
            pipeline: Some(self.pipeline.name.clone()),
            component: Some(self.component.clone()),
            ..whole(ConditionKind::ImageRefused, since, why)
        }
    }
}

/// What became of the question whether something may run that runs.
enum Running {
    /// It would not be started today.
    Refused(String),
    /// It could not be found out.
    Unknown,
}

fn images(snapshot: &Snapshot) -> Vec<What> {
    let mut all: Vec<What> = Vec::new();
    for pipeline in &snapshot.pipelines {
        for (component, replica) in pipeline.replicas() {
            let Some(image) = &replica.image else {
                continue;
            };
            all.push(What {
                pipeline: pipeline.key(),
                component: component.id.clone(),
                image: image.name.clone(),
                digest: image.digest.clone(),
                local: image.local,
            });
        }
    }
    all.sort();
    all.dedup();
    all
}

/// Why the images that an edit brings may not run, if they may not. What it leaves as it is is not
/// asked about.
pub(super) async fn barred(
    gate: &Gate,
    owner: &ReconcilerHandle,
    pipelines: &[PipelineSpec],
) -> Option<String> {
    let snapshot = owner.snapshots().borrow().clone();
    for pipeline in pipelines {
        let before = owner.desired(pipeline.key.clone()).await.ok().flatten();
        for (id, component) in &pipeline.components {
            let Workload::Docker(container) = &component.workload else {
                continue;
            };
            let before = before
                .as_ref()
                .and_then(|(_, spec)| spec.components.get(id));
            let is_known = before.is_some_and(|before| match &before.workload {
                Workload::Docker(known) => {
                    (&known.image, &known.verify) == (&container.image, &container.verify)
                }
                Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => false,
            });
            // What runs nothing loses nothing by a start that is refused.
            if is_known || !is_running(&snapshot, &pipeline.key, id) {
                continue;
            }
            let question = Question {
                image: &container.image,
                besides: container.verify.as_ref(),
                standing: Standing::Fresh,
            };
            if let Err(refused) = gate.admit(question, &|_| {}).await {
                return Some(format!(
                    "{id}: {refused}; until that is mended what ran before runs on"
                ));
            }
        }
    }
    None
}

fn is_running(snapshot: &Snapshot, key: &PipelineKey, id: &ComponentId) -> bool {
    let pipeline = snapshot.pipelines.iter().find(|it| it.key() == *key);
    pipeline.is_some_and(|pipeline| {
        let mut replicas = pipeline.replicas();
        replicas.any(|(component, replica)| component.id == *id && replica.image.is_some())
    })
}

/// Why an image that was built on this host would not be started today; nobody is asked.
fn built_here(gate: &Gate, what: &What) -> Option<String> {
    let state = gate.states().borrow().clone();
    let InForce::Policy(loaded) = &state.in_force else {
        return None;
    };
    let why = match what.image.parse::<ImageName>() {
        // Its name is not known any more; what it is called by the engine is no registry's.
        Err(_) => "its name is not known any more".to_owned(),
        Ok(name) => match rule(&what.image, &name, Some(loaded), None) {
            Ok(Ruling::Local { .. } | Ruling::Unruled { .. }) => return None,
            Ok(Ruling::Demands(demands)) => {
                let places: Vec<&str> = demands.iter().map(|it| it.place.as_str()).collect();
                format!(
                    "image {} was built on this host and is of no registry, as {} wants it: push it, or \
                     write `allow: {{local: true}}` for it",
                    what.image,
                    places.join(", ")
                )
            }
            Err(refused) => refused.to_string(),
        },
    };
    Some(format!(
        "it runs, and would not be started by today's image policy: {why}"
    ))
}

/// Asks the gate about all that runs. Nothing is stopped.
async fn running(gate: &Gate, snapshot: &Snapshot) -> Vec<(What, Running)> {
    let mut found = Vec::new();
    if let InForce::Nothing | InForce::Broken = gate.states().borrow().in_force {
        return found;
    }
    for what in images(snapshot) {
        let name = what.image.parse::<ImageName>();
        let reference = name.map(|name| format!("{}@{}", name.repository, what.digest));
        let reference = reference.unwrap_or_else(|_| what.digest.clone());
        if what.local {
            let refused = built_here(gate, &what).map(Running::Refused);
            found.extend(refused.map(|refused| (what, refused)));
            continue;
        }
        let warned = Mutex::new(None);
        let question = Question {
            image: &what.image,
            besides: None,
            standing: Standing::Recorded(&reference),
        };
        let hear = |said: String| {
            warned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .replace(said);
        };
        let admitted = gate.admit(question, &hear).await;
        let warned = warned.into_inner().unwrap_or_else(PoisonError::into_inner);
        let refused = match admitted {
            Err(refused) if refused.reason.is_silence() => Some(Running::Unknown),
            Err(refused) => Some(Running::Refused(format!(
                "it runs, and would not be started by today's image policy: {refused}"
            ))),
            Ok(image) => match (image.runs(), warned) {
                (Runs::AsWritten(_), Some(why)) => Some(Running::Refused(why)),
                (Runs::AsWritten(_) | Runs::Exactly(..) | Runs::Local(_), _) => None,
            },
        };
        found.extend(refused.map(|refused| (what, refused)));
    }
    found
}
