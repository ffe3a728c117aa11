//! What has to be remembered between two looks at a pipeline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::cause::Causes;
use super::whole;
use crate::model::{
    ComponentId, ComponentStatus, ConditionKind, EndCause, Hold, PhaseName, PipelineSpec,
    PipelineStatus, Record, ReplicaKey, ReplicaStatus, StatusCondition, Timestamp,
};

/// How long a component may take to become ready, or ready again after a crash, before that is a
/// condition. One that was ready and fails its probe is unready at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long being killed for want of memory is a condition.
const OOM_COUNTS: Duration = Duration::from_secs(3600);
/// So many restarts within [`RESTARTS_WITHIN`] are too many.
const TOO_MANY_RESTARTS: usize = 10;
/// See [`TOO_MANY_RESTARTS`].
const RESTARTS_WITHIN: Duration = Duration::from_secs(3600);

/// What is remembered of one pipeline between two looks at it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    rejected: Option<Timestamp>,
    unready: BTreeMap<ReplicaKey, Timestamp>,
    restarts: BTreeMap<ReplicaKey, Restarts>,
    /// When something begins or ends by time alone.
    wake_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
struct Restarts {
    /// As many were counted by the last look.
    seen: u64,
    /// When the newest of them were seen, oldest first, at most [`TOO_MANY_RESTARTS`].
    at: VecDeque<Timestamp>,
}

/// What is wrong with a replica.
pub(super) struct Finding {
    pub kind: ConditionKind,
    pub since: Timestamp,
}

impl Memory {
    /// What is wrong with a pipeline: the gravest first.
    pub fn look(
        &mut self,
        status: &PipelineStatus,
        spec: &PipelineSpec,
        records: &BTreeMap<ReplicaKey, Record>,
        now: Timestamp,
    ) -> Vec<StatusCondition> {
        self.wake_at = None;
        let mut conditions: Vec<StatusCondition> = self.rejected(status, now).into_iter().collect();
        if status.deleting {
            self.unready.clear();
            self.restarts.clear();
            return conditions;
        }
        let mut causes = Causes::default();
        let mut found: BTreeMap<(ComponentId, ConditionKind), StatusCondition> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for component in &status.components {
            for replica in &component.replicas {
                let key = ReplicaKey {
                    component: component.id.clone(),
                    replica: replica.replica,
                };
                causes.note(component, replica, records.get(&key));
                for finding in self.findings(&key, component, replica, records.get(&key), now) {
                    let of = (component.id.clone(), finding.kind);
                    let condition = found.entry(of).or_insert_with(|| {
                        let record = records.get(&key);
                        condition(status, component, replica, record, &finding)
                    });
                    condition.since = condition.since.min(finding.since);
                    condition.replicas.push(replica.replica);
                }
                seen.insert(key);
            }
        }
        self.unready.retain(|key, _| seen.contains(key));
        self.restarts.retain(|key, _| seen.contains(key));
        conditions.extend(causes.roots(&status.key(), spec, found));
        conditions
            .sort_by(|a, b| (a.kind, a.since, &a.component).cmp(&(b.kind, b.since, &b.component)));
        conditions
    }

    /// Whether something begins or ends by time alone, by now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.wake_at.is_some_and(|at| at <= now)
    }

    /// When something begins or ends by time alone.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wake_at
    }

    /// Every time that is remembered, to be moved along with the clock.
    pub fn each_time(&mut self, change: &dyn Fn(&mut Timestamp)) {
        self.rejected.iter_mut().for_each(change);
        self.unready.values_mut().for_each(change);
        let restarts = self.restarts.values_mut();
        restarts.flat_map(|one| one.at.iter_mut()).for_each(change);
        self.wake_at.iter_mut().for_each(change);
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    fn rejected(&mut self, status: &PipelineStatus, now: Timestamp) -> Option<StatusCondition> {
        let Some(problem) = &status.problem else {
            self.rejected = None;
            return None;
        };
        let since = *self.rejected.get_or_insert(now);
        Some(StatusCondition {
            namespace: Some(status.namespace.clone()),
            pipeline: Some(status.name.clone()),
            ..whole(ConditionKind::Rejected, since, problem.in_place())
        })
    }

    fn findings(
        &mut self,
        key: &ReplicaKey,
        component: &ComponentStatus,
        replica: &ReplicaStatus,
        record: Option<&Record>,
        now: Timestamp,
    ) -> Vec<Finding> {
        let is_wanted = replica.replica < component.desired;
        let mut findings = Vec::new();
        match main_trouble(replica, record).filter(|_| is_wanted) {
            Some(Trouble::Is(finding)) => {
                self.unready.remove(key);
                if finding.kind == ConditionKind::Crashloop {
                    // Its restarts are told by that.
                    self.restarts.remove(key);
                }
                findings.push(finding);
            }
            Some(Trouble::Unready { since }) => {
                let since = *self
                    .unready
                    .entry(key.clone())
                    .or_insert(since.unwrap_or(now));
                let was_ready = replica.phase == PhaseName::Unhealthy;
                let due = since.after(PATIENCE);
                if was_ready || due <= now {
                    let kind = ConditionKind::Unready;
                    findings.push(Finding { kind, since });
                } else {
                    self.wake(due);
                }
            }
            None => {
                self.unready.remove(key);
            }
        }
        if is_wanted {
            let progress = replica.progress.as_ref();
            findings.extend(
                progress
                    .and_then(|one| one.stalled_since)
                    .map(|since| Finding {
                        kind: ConditionKind::Stalled,
                        since,
                    }),
            );
            findings.extend(self.killed_for_memory(replica, now));
            let often = self.restarts_often(key, replica, now);
            findings.extend(often.filter(|_| replica.ready));
        }
        findings
    }

    fn killed_for_memory(&mut self, replica: &ReplicaStatus, now: Timestamp) -> Option<Finding> {
        let exit = replica.exit.as_ref().filter(|exit| exit.oom)?;
        let over = exit.at.after(OOM_COUNTS);
        if over <= now {
            return None;
        }
        self.wake(over);
        Some(Finding {
            kind: ConditionKind::Oom,
            since: exit.at,
        })
    }

    fn restarts_often(
        &mut self,
        key: &ReplicaKey,
        replica: &ReplicaStatus,
        now: Timestamp,
    ) -> Option<Finding> {
        let restarts = self.restarts.entry(key.clone()).or_insert(Restarts {
            seen: replica.restarts,
            at: VecDeque::new(),
        });
        let new = replica.restarts.saturating_sub(restarts.seen);
        restarts.seen = replica.restarts;
        for _ in 0..new.min(TOO_MANY_RESTARTS as u64) {
            restarts.at.push_back(now);
        }
        while restarts.at.len() > TOO_MANY_RESTARTS
            || restarts
                .at
                .front()
                .is_some_and(|at| at.after(RESTARTS_WITHIN) <= now)
        {
            restarts.at.pop_front();
        }
        if restarts.at.len() < TOO_MANY_RESTARTS {
            return None;
        }
        let since = *restarts.at.back()?;
        let over = restarts.at.front()?.after(RESTARTS_WITHIN);
        self.wake(over);
        Some(Finding {
            kind: ConditionKind::OverRestarting,
            since,
        })
    }
}

/// What keeps a replica from being as it should.
enum Trouble {
    Is(Finding),
    /// It is not ready; since a known moment, or since it was first seen so.
    Unready {
        since: Option<Timestamp>,
    },
}

fn main_trouble(replica: &ReplicaStatus, record: Option<&Record>) -> Option<Trouble> {
    let is = |kind, since| Some(Trouble::Is(Finding { kind, since }));
    match replica.phase {
        PhaseName::Failed => return is(ConditionKind::Failed, replica.since),
        PhaseName::Stopped | PhaseName::Completed | PhaseName::Unknown | PhaseName::Stopping => {
            return None;
        }
        PhaseName::Pending
        | PhaseName::Starting
        | PhaseName::Running
        | PhaseName::Unhealthy
        | PhaseName::Backoff
        | PhaseName::Crashloop => {}
    }
    match &replica.hold {
        // Another's trouble, and found there.
        Some(Hold::WaitingFor { .. } | Hold::Frozen { .. } | Hold::Blind { .. }) => return None,
        Some(Hold::NoDriver { .. }) => return is(ConditionKind::Failed, replica.since),
        Some(
            Hold::Backoff { .. }
            | Hold::Handover { .. }
            | Hold::StopsAfter { .. }
            | Hold::InFlight { .. }
            | Hold::Pending(_)
            | Hold::BecomingReady { .. }
            | Hold::Unhealthy { .. }
            | Hold::StartFailed { .. }
            | Hold::Leftover { .. }
            | Hold::StopFailed { .. }
            | Hold::StoppedByRequest
            | Hold::Completed
            | Hold::Failed { .. }
            | Hold::GaveUp { .. },
        )
        | None => {}
    }
    // It alternates between phases; the record knows that it is one loop.
    if let Some(since) = record.and_then(|record| record.history.crashloop_since) {
        return is(ConditionKind::Crashloop, since);
    }
    if replica.ready {
        return None;
    }
    let since = (replica.phase == PhaseName::Unhealthy).then_some(replica.since);
    Some(Trouble::Unready { since })
}

fn condition(
    status: &PipelineStatus,
    component: &ComponentStatus,
    replica: &ReplicaStatus,
    record: Option<&Record>,
    finding: &Finding,
) -> StatusCondition {
    let of_now = || {
        if replica.why.is_empty() {
            replica.phase.to_string()
        } else {
            replica.why.clone()
        }
    };
    let why = match finding.kind {
        ConditionKind::Oom => "the kernel killed it for want of memory".to_owned(),
        ConditionKind::OverRestarting => format!(
            "it was restarted {TOO_MANY_RESTARTS} times within an hour ({} in all)",
            replica.restarts
        ),
        ConditionKind::Stalled => replica
            .progress
            .as_ref()
            .map_or_else(String::new, |progress| progress.why.clone()),
        // What it is at just now says nothing of the loop.
        ConditionKind::Crashloop => record.and_then(last_failure).unwrap_or_else(of_now),
        ConditionKind::NotDurable
        | ConditionKind::Blind
        | ConditionKind::Failed
        | ConditionKind::Unready
        | ConditionKind::Rejected
        | ConditionKind::LogDropped
        | ConditionKind::Undelivered
        | ConditionKind::ImageRefused => of_now(),
    };
    StatusCondition {
        namespace: Some(status.namespace.clone()),
        pipeline: Some(status.name.clone()),
        component: Some(component.id.clone()),
        next: replica.next.clone(),
        exit: replica.exit.clone(),
        ..whole(finding.kind, finding.since, why)
    }
}

/// How the latest instance ended: `exit 1 (failure 5)`.
fn last_failure(record: &Record) -> Option<String> {
    let history = &record.history;
    let last = history.last.as_ref()?;
    let how = match &last.cause {
        EndCause::NotStarted(failure) => failure.message.clone(),
        EndCause::Stopped(cause) => cause.to_string(),
        EndCause::Disrupted(disruption) => disruption.to_string(),
        EndCause::Itself(_)
        | EndCause::Lost
        | EndCause::Vanished
        | EndCause::HostReboot
        | EndCause::RuntimeRestarted => last.exit.to_string(),
    };
    Some(format!("{how} (failure {})", history.failures))
}
