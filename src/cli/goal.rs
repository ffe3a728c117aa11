//! What a command waits for, and whether a snapshot shows it. Pure.

use std::collections::BTreeMap;

use crate::api::{AppliedPipeline, ChangeWord};
use crate::model::{
    ComponentStatus, Hold, InstanceId, PhaseName, PipelineKey, PipelineStatus, ReplicaStatus,
    Snapshot, Timestamp,
};

use super::render::{NONE_WANTED, pipeline_name, replica_name, standing};
use super::target::{Target, find};

/// What is waited for.
#[derive(Clone, Debug)]
pub enum Goal {
    /// These pipelines run as applied.
    Applied(Vec<AppliedPipeline>),
    /// These components run, and what was seen of them before is past.
    Running(Vec<Before>),
    /// These components run in new instances.
    Replaced(Vec<Before>),
    /// These components are down.
    Stopped(Vec<Target>),
    /// These components have ended with success.
    Completed(Vec<Target>),
    /// These pipelines are gone.
    Gone(Vec<PipelineKey>),
    /// Nothing is left.
    Empty,
}

/// A component as it was when it was asked to do something.
#[derive(Clone, Debug)]
pub struct Before {
    /// Which one.
    pub target: Target,
    /// Each replica's instance, and its state with the moment that began.
    replicas: BTreeMap<u32, (Option<InstanceId>, PhaseName, Timestamp)>,
}

impl Before {
    /// How `target` is now.
    pub fn of(snapshot: &Snapshot, target: Target) -> Self {
        let replicas = find(snapshot, &target)
            .map(|(_, component)| component.replicas.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|r| (r.replica, (r.instance.clone(), r.phase, r.since)))
            .collect();
        Self { target, replicas }
    }

    /// One of which nothing is known: whatever it is now counts.
    pub fn unseen(target: Target) -> Self {
        let replicas = BTreeMap::new();
        Self { target, replicas }
    }

    /// Whether nothing has happened to the replica since.
    fn is_as_before(&self, now: &ReplicaStatus) -> bool {
        self.replicas
            .get(&now.replica)
            .is_some_and(|(instance, phase, since)| {
                (instance, *phase, *since) == (&now.instance, now.phase, now.since)
            })
    }

    /// Whether the replica's instance is the one of before.
    fn is_same_instance(&self, now: &ReplicaStatus) -> bool {
        self.replicas
            .get(&now.replica)
            .is_some_and(|(instance, _, _)| instance.is_some() && *instance == now.instance)
    }
}

/// How far something is on the way to a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There.
    Done,
    /// On its way.
    Waiting,
    /// Nothing of what was asked for has happened to it yet.
    Untouched,
    /// It will not get there by itself.
    Failed,
}

/// How one thing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `pipeline/replica`, or a pipeline.
    pub name: String,
    /// Its state and why, name included.
    pub line: String,
    /// What of that is news when it changes: not the time left.
    pub state: String,
    /// How far it is.
    pub stage: Stage,
    /// Which component it is of, where it crashes or is ill: its last lines say why.
    pub ailing: Option<Target>,
}

impl Goal {
    /// How everything that the goal is about stands. It is reached when all of it is
    /// [`Stage::Done`].
    pub fn standings(&self, snapshot: &Snapshot, now: Timestamp) -> Vec<Standing> {
        match self {
            Self::Applied(pipelines) => pipelines
                .iter()
                .flat_map(|wanted| applied(snapshot, wanted, now))
                .collect(),
            Self::Running(components) => components
                .iter()
                .flat_map(|before| {
                    of_some(snapshot, &before.target, now, |replica| {
                        if before.is_as_before(replica) && is_at_rest(replica.phase) {
                            Stage::Untouched
                        } else {
                            running(replica)
                        }
                    })
                })
                .collect(),
            Self::Replaced(components) => components
                .iter()
                .flat_map(|before| {
                    of_some(snapshot, &before.target, now, |replica| {
                        if before.is_as_before(replica) {
                            Stage::Untouched
                        } else if before.is_same_instance(replica) {
                            Stage::Waiting
                        } else {
                            running(replica)
                        }
                    })
                })
                .collect(),
            Self::Stopped(targets) => targets
                .iter()
                .flat_map(|target| of_component(snapshot, target, now, stopped))
                .collect(),
            Self::Completed(targets) => targets
                .iter()
                .flat_map(|target| of_some(snapshot, target, now, completed))
                .collect(),
            Self::Gone(keys) => snapshot
                .pipelines
                .iter()
                .filter(|status| keys.contains(&status.key()))
                .flat_map(|status| leaving(status, now))
                .collect(),
            Self::Empty => snapshot
                .pipelines
                .iter()
                .flat_map(|status| leaving(status, now))
                .collect(),
        }
    }
}

fn applied(snapshot: &Snapshot, wanted: &AppliedPipeline, now: Timestamp) -> Vec<Standing> {
    let found = snapshot
        .pipelines
        .iter()
        .find(|status| status.key() == wanted.key());
    let name = wanted.key().to_string();
    match (wanted.change, found) {
        (ChangeWord::Deleted, None) => Vec::new(),
        (ChangeWord::Deleted, Some(status)) => leaving(status, now),
        (ChangeWord::Created | ChangeWord::Changed | ChangeWord::Unchanged, None) => {
            vec![said(name, "it was deleted meanwhile", Stage::Failed)]
        }
        (ChangeWord::Created | ChangeWord::Changed | ChangeWord::Unchanged, Some(status)) => {
            let is_seen = status.observed_generation >= wanted.generation;
            let mut all = replicas(status, now, |replica| {
                if is_seen {
                    settled(replica)
                } else {
                    Stage::Waiting
                }
            });
            let all_done = all.iter().all(|one| one.stage == Stage::Done);
            if all_done && !(is_seen && status.settled) {
                all.push(said(name, "not settled yet", Stage::Waiting));
            }
            all
        }
    }
}

fn said(name: String, words: &str, stage: Stage) -> Standing {
    Standing {
        line: format!("{name}: {words}"),
        state: words.to_owned(),
        name,
        stage,
        ailing: None,
    }
}

/// A pipeline that is being taken down, and what is left of it.
fn leaving(status: &PipelineStatus, now: Timestamp) -> Vec<Standing> {
    let name = pipeline_name(status);
    let mut all = vec![said(name, "being taken down", Stage::Waiting)];
    all.extend(replicas(status, now, |_| Stage::Waiting));
    all
}

fn replicas(
    status: &PipelineStatus,
    now: Timestamp,
    stage: impl Fn(&ReplicaStatus) -> Stage,
) -> Vec<Standing> {
    let pipeline = status.key();
    let mut all = Vec::new();
    for component in &status.components {
        for replica in &component.replicas {
            all.push(one(&pipeline, component, replica, stage(replica), now));
        }
    }
    all
}

fn of_component(
    snapshot: &Snapshot,
    target: &Target,
    now: Timestamp,
    stage: impl Fn(&ReplicaStatus) -> Stage,
) -> Vec<Standing> {
    let Some((pipeline, component)) = find(snapshot, target) else {
        let name = target.to_string();
        return vec![said(name, "it was removed meanwhile", Stage::Failed)];
    };
    let pipeline = pipeline.key();
    let replicas = component.replicas.iter();
    replicas
        .map(|replica| one(&pipeline, component, replica, stage(replica), now))
        .collect()
}

/// The same of a component of which something is to run: none is not all.
fn of_some(
    snapshot: &Snapshot,
    target: &Target,
    now: Timestamp,
    stage: impl Fn(&ReplicaStatus) -> Stage,
) -> Vec<Standing> {
    let all = of_component(snapshot, target, now, stage);
    if all.is_empty() {
        return vec![said(target.to_string(), NONE_WANTED, Stage::Failed)];
    }
    all
}

fn one(
    pipeline: &PipelineKey,
    component: &ComponentStatus,
    replica: &ReplicaStatus,
    stage: Stage,
    now: Timestamp,
) -> Standing {
    let name = format!("{pipeline}/{}", replica_name(component, replica));
    let mut line = standing(&name, replica, now);
    if stage == Stage::Untouched {
        line.push_str("; nothing has happened to it yet");
    }
    Standing {
        line,
        state: format!("{} {}", replica.phase, replica.why),
        name,
        stage,
        ailing: is_ailing(replica.phase).then(|| Target {
            pipeline: pipeline.clone(),
            component: component.id.clone(),
        }),
    }
}

/// Whether what a component wrote last may say why it is as it is.
fn is_ailing(phase: PhaseName) -> bool {
    match phase {
        PhaseName::Failed | PhaseName::Backoff | PhaseName::Crashloop | PhaseName::Unhealthy => {
            true
        }
        PhaseName::Pending
        | PhaseName::Starting
        | PhaseName::Running
        | PhaseName::Stopping
        | PhaseName::Stopped
        | PhaseName::Completed
        | PhaseName::Unknown => false,
    }
}

/// For an apply: what a person stopped stays stopped, and that is as it should be.
fn settled(replica: &ReplicaStatus) -> Stage {
    match replica.phase {
        PhaseName::Stopped => Stage::Done,
        PhaseName::Pending
        | PhaseName::Starting
        | PhaseName::Running
        | PhaseName::Unhealthy
        | PhaseName::Backoff
        | PhaseName::Crashloop
        | PhaseName::Stopping
        | PhaseName::Completed
        | PhaseName::Failed
        | PhaseName::Unknown => running(replica),
    }
}

/// Whether only a person or an edit ends this state: seen after a request, it may be from before.
fn is_at_rest(phase: PhaseName) -> bool {
    match phase {
        PhaseName::Stopped | PhaseName::Completed | PhaseName::Failed => true,
        PhaseName::Pending
        | PhaseName::Starting
        | PhaseName::Running
        | PhaseName::Unhealthy
        | PhaseName::Backoff
        | PhaseName::Crashloop
        | PhaseName::Stopping
        | PhaseName::Unknown => false,
    }
}

fn running(replica: &ReplicaStatus) -> Stage {
    match (replica.phase, &replica.hold) {
        (_, Some(Hold::NoDriver { .. })) => Stage::Failed,
        (PhaseName::Running, _) if replica.ready => Stage::Done,
        (PhaseName::Completed, _) => Stage::Done,
        (PhaseName::Failed, _) => Stage::Failed,
        (
            PhaseName::Pending
            | PhaseName::Starting
            | PhaseName::Running
            | PhaseName::Unhealthy
            | PhaseName::Backoff
            | PhaseName::Crashloop
            | PhaseName::Stopping
            | PhaseName::Stopped
            | PhaseName::Unknown,
            _,
        ) => Stage::Waiting,
    }
}

fn completed(replica: &ReplicaStatus) -> Stage {
    match replica.phase {
        PhaseName::Completed => Stage::Done,
        PhaseName::Failed => Stage::Failed,
        PhaseName::Pending
        | PhaseName::Starting
        | PhaseName::Running
        | PhaseName::Unhealthy
        | PhaseName::Backoff
        | PhaseName::Crashloop
        | PhaseName::Stopping
        | PhaseName::Stopped
        | PhaseName::Unknown => Stage::Waiting,
    }
}

fn stopped(replica: &ReplicaStatus) -> Stage {
    match (replica.phase, &replica.hold) {
        (PhaseName::Stopped, _) | (_, Some(Hold::StoppedByRequest)) => Stage::Done,
        (
            PhaseName::Pending
            | PhaseName::Starting
            | PhaseName::Running
            | PhaseName::Unhealthy
            | PhaseName::Backoff
            | PhaseName::Crashloop
            | PhaseName::Stopping
            | PhaseName::Completed
            | PhaseName::Failed
            | PhaseName::Unknown,
            _,
        ) => Stage::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{component, now, pipeline, replica};
    use super::*;
    use crate::model::{Generation, Role, STATUS_SCHEMA};
    use std::sync::Arc;

    fn snapshot(replicas: Vec<ReplicaStatus>, settled: bool) -> Snapshot {
        let mut status = pipeline(vec![component("a", Role::Source, replicas)]);
        status.settled = settled;
        Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: None,
            conditions: Vec::new(),
            pipelines: vec![Arc::new(status)],
        }
    }

    fn a(phase: PhaseName) -> ReplicaStatus {
        replica("a", 0, phase, 10, "")
    }

    fn next_instance(mut replica: ReplicaStatus) -> ReplicaStatus {
        replica.instance = "default.ttp.a.0.2".parse().ok();
        replica
    }

    fn stages(goal: &Goal, snapshot: &Snapshot) -> Vec<Stage> {
        let standings = goal.standings(snapshot, now());
        standings.iter().map(|standing| standing.stage).collect()
    }

    fn apply(generation: u64, change: ChangeWord) -> Goal {
        Goal::Applied(vec![AppliedPipeline {
            namespace: Default::default(),
            name: "ttp".parse().unwrap(),
            generation: Generation(generation),
            change,
            moved_from: None,
            host_mounts: Vec::new(),
        }])
    }

    fn target() -> Target {
        Target {
            pipeline: PipelineKey {
                namespace: Default::default(),
                name: "ttp".parse().unwrap(),
            },
            component: "a".parse().unwrap(),
        }
    }

    #[test]
    fn an_apply_is_done_when_its_own_generation_is_settled() {
        use PhaseName as P;
        let goal = apply(3, ChangeWord::Changed);
        assert_eq!(
            stages(&goal, &snapshot(vec![a(P::Running)], true)),
            [Stage::Done]
        );
        assert_eq!(
            stages(&goal, &snapshot(vec![a(P::Stopped)], true)),
            [Stage::Done]
        );
        assert_eq!(
            stages(&goal, &snapshot(vec![a(P::Crashloop)], false)),
            [Stage::Waiting]
        );
        assert_eq!(
            stages(&goal, &snapshot(vec![a(P::Failed)], true)),
            [Stage::Failed]
        );
        // All looks well and something is still going on.
        assert_eq!(
            stages(&goal, &snapshot(vec![a(P::Running)], false)),
            [Stage::Done, Stage::Waiting]
        );
        // What is seen is older than what was applied, so a failure in it is not ours.
        assert_eq!(
            stages(
                &apply(4, ChangeWord::Changed),
                &snapshot(vec![a(P::Failed)], true)
            ),
            [Stage::Waiting]
        );
    }

    #[test]
    fn a_pipeline_that_left_its_file_is_waited_for_until_it_is_gone() {
        let goal = apply(3, ChangeWord::Deleted);
        let mut present = snapshot(vec![a(PhaseName::Stopping)], false);
        assert_eq!(stages(&goal, &present), [Stage::Waiting, Stage::Waiting]);
        present.pipelines.clear();
        assert_eq!(stages(&goal, &present), []);
        assert_eq!(
            stages(&apply(3, ChangeWord::Created), &present),
            [Stage::Failed]
        );
    }

    #[test]
    fn a_start_does_not_take_the_failure_that_it_is_to_cure_for_its_own() {
        let failed = snapshot(vec![a(PhaseName::Failed)], true);
        let goal = Goal::Running(vec![Before::of(&failed, target())]);
        assert_eq!(stages(&goal, &failed), [Stage::Untouched]);
        let again = snapshot(vec![next_instance(a(PhaseName::Failed))], true);
        assert_eq!(stages(&goal, &again), [Stage::Failed]);
        let well = snapshot(vec![next_instance(a(PhaseName::Running))], true);
        assert_eq!(stages(&goal, &well), [Stage::Done]);
    }

    #[test]
    fn a_restart_is_done_when_another_instance_is_ready() {
        let old = snapshot(vec![a(PhaseName::Running)], true);
        let goal = Goal::Replaced(vec![Before::of(&old, target())]);
        assert_eq!(stages(&goal, &old), [Stage::Untouched]);
        let starting = snapshot(vec![next_instance(a(PhaseName::Starting))], false);
        assert_eq!(stages(&goal, &starting), [Stage::Waiting]);
        let ready = snapshot(vec![next_instance(a(PhaseName::Running))], true);
        assert_eq!(stages(&goal, &ready), [Stage::Done]);
    }

    #[test]
    fn a_start_of_a_component_without_replicas_does_not_succeed() {
        let none = snapshot(vec![], true);
        for goal in [
            Goal::Running(vec![Before::of(&none, target())]),
            Goal::Replaced(vec![Before::of(&none, target())]),
        ] {
            assert_eq!(stages(&goal, &none), [Stage::Failed]);
        }
        assert_eq!(stages(&Goal::Stopped(vec![target()]), &none), []);
        assert_eq!(stages(&apply(3, ChangeWord::Changed), &none), []);
    }

    #[test]
    fn a_stop_is_done_when_every_replica_is_down() {
        let goal = Goal::Stopped(vec![target()]);
        let stopping = snapshot(vec![a(PhaseName::Stopping)], false);
        assert_eq!(stages(&goal, &stopping), [Stage::Waiting]);
        let mut completed = a(PhaseName::Completed);
        completed.hold = Some(Hold::StoppedByRequest);
        assert_eq!(
            stages(&goal, &snapshot(vec![completed], true)),
            [Stage::Done]
        );
    }
}
