//! Lines of logs that were lost, as something that is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Clock;
use crate::conditions;
use crate::driver::logs::lost;
use crate::model::{ConditionKind, DriverKind, ReplicaKey, Snapshot, StatusCondition, Timestamp};
use crate::reconciler::{Asker, ReconcilerHandle};

/// How often it is looked: what costs a look is a file for each replica that is mostly not there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// For how long a loss is a condition.
const COUNTS: Duration = Duration::from_secs(3600);

/// Has `status` say whose lines were lost, until the owner of the state is gone.
pub(super) async fn follow(logs: PathBuf, owner: ReconcilerHandle, clock: Clock) {
    let mut told = Vec::new();
    loop {
        let snapshot = owner.snapshots().borrow().clone();
        let (logs, now) = (logs.clone(), clock.now());
        // A panic has been told; the next look may see more.
        let looked = tokio::task::spawn_blocking(move || found(&logs, &snapshot, now)).await;
        if let Ok(found) = looked
            && found != told
        {
            owner.report_conditions(Asker::Logs, found.clone()).await;
            told = found;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn found(logs: &Path, snapshot: &Snapshot, now: Timestamp) -> Vec<StatusCondition> {
    let mut found: BTreeMap<String, Losses> = BTreeMap::new();
    for (pipeline, component, replica) in snapshot.replicas() {
        let key = ReplicaKey {
            component: component.id.clone(),
            replica: replica.replica,
        };
        let Some(lost) = lost(logs, &pipeline.key(), &key) else {
            continue;
        };
        let at = lost.at.min(now);
        if at.after(COUNTS) <= now {
            continue;
        }
        let of = format!("{}/{}", pipeline.key(), component.id);
        let losses = found.entry(of).or_insert_with(|| {
            let whole = conditions::whole(ConditionKind::LogDropped, at, String::new());
            Losses {
                lines: 0,
                driver: component.driver,
                condition: StatusCondition {
                    namespace: Some(pipeline.namespace.clone()),
                    pipeline: Some(pipeline.name.clone()),
                    component: Some(component.id.clone()),
                    ..whole
                },
            }
        });
        losses.lines += lost.lines;
        losses.condition.since = losses.condition.since.min(at);
        losses.condition.replicas.push(replica.replica);
    }
    found.into_values().map(Losses::told).collect()
}

/// What a component lost.
struct Losses {
    lines: u64,
    driver: DriverKind,
    condition: StatusCondition,
}

impl Losses {
    fn told(self) -> StatusCondition {
        let lines = self.lines;
        let why = match self.driver {
            DriverKind::Docker => format!(
                "{lines} lines of its log or more were lost: the disk did not take them before \
                 their container was removed"
            ),
            DriverKind::Process | DriverKind::Nomad | DriverKind::Kubernetes => {
                format!("{lines} lines of its log were lost: the disk did not take them")
            }
        };
        StatusCondition {
            why,
            ..self.condition
        }
    }
}
