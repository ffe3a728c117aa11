//! What is found in statuses that are made by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Memory, blind};
use crate::model::{
    Charge, ComponentStatus, Condition, ConditionKind, DriverKind, EndCause, Ended, Exit,
    ExitStatus, ExitSummary, Failure, Generation, Hold, PhaseName, PipelineStatus, Problem,
    ProgressStatus, Record, ReplicaKey, ReplicaStatus, Role, SpecHash, StatusCondition, Timestamp,
    fixtures,
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).after(Duration::from_secs(seconds))
}

fn replica(phase: PhaseName, since: Timestamp) -> ReplicaStatus {
    ReplicaStatus {
        replica: 0,
        instance: None,
        started_at: None,
        progress: None,
        usage: None,
        phase,
        ready: phase == PhaseName::Running,
        since,
        why: format!("because {phase}"),
        next: None,
        restarts: 0,
        pid: None,
        container: None,
        name: None,
        node: None,
        image: None,
        exit: None,
        spec: None,
        addresses: BTreeMap::new(),
        registration: None,
        hold: None,
    }
}

fn waiting_for(other: &str) -> ReplicaStatus {
    ReplicaStatus {
        hold: Some(Hold::WaitingFor {
            component: other.parse().unwrap(),
            condition: Condition::Ready,
            because: "unready".to_owned(),
        }),
        ..replica(PhaseName::Pending, at(0))
    }
}

/// A pipeline whose components depend each on the one before it, and what is known of them.
struct World {
    status: PipelineStatus,
    records: BTreeMap<ReplicaKey, Record>,
    memory: Memory,
}

impl World {
    fn new(components: Vec<(&str, ReplicaStatus)>) -> Self {
        let of = |(id, replica): (&str, ReplicaStatus)| ComponentStatus {
            id: id.parse().unwrap(),
            role: Role::Processor,
            driver: DriverKind::Process,
            desired: 1,
            unenforced: Vec::new(),
            notes: Vec::new(),
            replicas: vec![replica],
        };
        Self {
            status: PipelineStatus {
                namespace: "default".parse().unwrap(),
                name: "p".parse().unwrap(),
                file: None,
                watched: true,
                generation: Generation(1),
                observed_generation: Generation(1),
                settled: false,
                deleting: false,
                problem: None,
                labels: BTreeMap::new(),
                conditions: Vec::new(),
                components: components.into_iter().map(of).collect(),
            },
            records: BTreeMap::new(),
            memory: Memory::default(),
        }
    }

    fn replica(&mut self, index: usize) -> &mut ReplicaStatus {
        &mut self.status.components[index].replicas[0]
    }

    fn record(&mut self, id: &str) -> &mut Record {
        let key = ReplicaKey {
            component: id.parse().unwrap(),
            replica: 0,
        };
        self.records.entry(key).or_default()
    }

    fn look(&mut self, now: Timestamp) -> Vec<StatusCondition> {
        let ids: Vec<String> = self
            .status
            .components
            .iter()
            .map(|c| c.id.to_string())
            .collect();
        let before = |index: usize| index.checked_sub(1).map(|index| ids[index].as_str());
        let components = ids.iter().enumerate().map(|(index, id)| {
            let after: Vec<&str> = before(index).into_iter().collect();
            fixtures::component(id, 1, &after)
        });
        let spec = fixtures::pipeline(components.collect());
        self.memory.look(&self.status, &spec, &self.records, now)
    }

    fn kinds(&mut self, now: Timestamp) -> Vec<(ConditionKind, String)> {
        let found = self.look(now).into_iter();
        found.map(|one| (one.kind, one.subject())).collect()
    }
}

#[test]
fn a_start_that_takes_its_time_is_no_condition_and_one_that_takes_too_long_is() {
    let mut world = World::new(vec![("a", replica(PhaseName::Starting, at(0)))]);
    assert!(world.look(at(0)).is_empty());
    assert_eq!(world.memory.wake_at(), Some(at(60)));
    assert!(world.look(at(59)).is_empty());
    let found = world.look(at(60));
    assert_eq!(found[0].kind, ConditionKind::Unready);
    assert_eq!(found[0].since, at(0));
    *world.replica(0) = replica(PhaseName::Running, at(61));
    assert!(world.look(at(61)).is_empty());
}

#[test]
fn what_was_ready_and_fails_its_probe_is_unready_at_once() {
    let mut world = World::new(vec![("a", replica(PhaseName::Unhealthy, at(5)))]);
    let found = world.look(at(6));
    assert_eq!(
        (found[0].kind, found[0].since),
        (ConditionKind::Unready, at(5))
    );
}

#[test]
fn a_crash_loop_is_one_condition_whatever_phase_it_is_in() {
    let mut world = World::new(vec![("a", replica(PhaseName::Crashloop, at(9)))]);
    let history = &mut world.record("a").history;
    history.crashloop_since = Some(at(3));
    history.failures = 5;
    history.last = Some(Ended {
        instance: "default.p.a.0.5".parse().unwrap(),
        spec: SpecHash::new("v1:00000000000000aa"),
        exit: Exit {
            status: ExitStatus::Code(1),
            oom: false,
            started_at: None,
            at: at(8),
            killed: 0,
        },
        cause: EndCause::Itself(Charge::Own),
    });
    for phase in [
        PhaseName::Crashloop,
        PhaseName::Starting,
        PhaseName::Running,
    ] {
        *world.replica(0) = replica(phase, at(9));
        let found = world.look(at(10));
        assert_eq!(
            (found[0].kind, found[0].since),
            (ConditionKind::Crashloop, at(3))
        );
        assert_eq!(found[0].why, "exit 1 (failure 5)", "in every phase");
    }
    world.record("a").history.crashloop_since = None;
    assert!(world.look(at(200)).is_empty());
}

#[test]
fn only_the_root_cause_raises_one_and_it_names_whom_it_holds_up() {
    let mut world = World::new(vec![
        ("database", replica(PhaseName::Failed, at(0))),
        ("reader", waiting_for("database")),
        ("sink", waiting_for("reader")),
    ]);
    let found = world.look(at(500));
    assert_eq!(found.len(), 1);
    let blocks: Vec<String> = found[0].blocks.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["default/p/reader", "default/p/sink"]);
}

#[test]
fn fifty_that_fail_with_their_database_are_named_by_it() {
    let ids: Vec<String> = (0..50).map(|number| format!("c{number}")).collect();
    let mut all = vec![("database", replica(PhaseName::Failed, at(2)))];
    all.extend(
        ids.iter()
            .map(|id| (id.as_str(), replica(PhaseName::Failed, at(0)))),
    );
    let mut world = World::new(all);
    for id in &ids {
        world.record(id).history.recent.push(Failure {
            at: at(0),
            since: None,
            charge: Charge::Upstream("database".parse().unwrap()),
        });
    }
    let found = world.look(at(3));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].subject(), "p/database");
    assert_eq!(found[0].blocks.len(), 50);
}

#[test]
fn what_failed_long_before_its_upstream_keeps_its_own_condition() {
    let mut world = World::new(vec![
        ("database", replica(PhaseName::Unhealthy, at(1_000))),
        ("reader", replica(PhaseName::Failed, at(0))),
    ]);
    let failed = (ConditionKind::Failed, "p/reader".to_owned());
    assert!(world.kinds(at(1_001)).contains(&failed));
}

#[test]
fn of_several_that_stand_still_the_first_one_is_told_and_names_the_others() {
    let standing_still = |held_by: Option<&str>| ReplicaStatus {
        progress: Some(ProgressStatus {
            watches: "ledger".to_owned(),
            value: Some("7".to_owned()),
            advanced_at: Some(at(5)),
            stalled_since: Some(at(65)),
            why: "ledger stands at 7".to_owned(),
            held_by: held_by.map(|id| id.parse().unwrap()),
        }),
        ..replica(PhaseName::Running, at(0))
    };
    let mut world = World::new(vec![
        ("source", standing_still(Some("hangs"))),
        ("hangs", standing_still(None)),
        ("sink", standing_still(Some("hangs"))),
    ]);
    let found = world.look(at(70));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].kind, found[0].subject(), found[0].since),
        (ConditionKind::Stalled, "p/hangs".to_owned(), at(65))
    );
    assert_eq!(found[0].why, "ledger stands at 7");
    let blocks: Vec<String> = found[0].blocks.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["default/p/sink", "default/p/source"]);
}

#[test]
fn who_was_stopped_or_is_done_is_as_wanted() {
    let mut world = World::new(vec![
        ("a", replica(PhaseName::Stopped, at(0))),
        ("b", replica(PhaseName::Completed, at(0))),
    ]);
    assert!(world.look(at(10_000)).is_empty());
}

#[test]
fn a_kill_for_want_of_memory_counts_for_an_hour() {
    let mut world = World::new(vec![("a", replica(PhaseName::Running, at(10)))]);
    world.replica(0).exit = Some(ExitSummary {
        code: None,
        signal: Some(9),
        oom: true,
        at: at(5),
    });
    assert_eq!(world.look(at(20))[0].kind, ConditionKind::Oom);
    assert_eq!(world.memory.wake_at(), Some(at(3605)));
    assert!(world.look(at(3605)).is_empty());
}

#[test]
fn ten_restarts_in_an_hour_are_too_many_however_slow() {
    let mut world = World::new(vec![("a", replica(PhaseName::Running, at(0)))]);
    assert!(world.look(at(0)).is_empty());
    for count in 1..=10 {
        assert!(world.look(at(count * 300 - 1)).is_empty());
        world.replica(0).restarts = count;
        world.look(at(count * 300));
    }
    let found = world.look(at(3_001));
    assert_eq!(
        (found[0].kind, found[0].since),
        (ConditionKind::OverRestarting, at(3_000))
    );
    assert!(world.look(at(300 + 3_600)).is_empty());
}

#[test]
fn the_restarts_of_a_crash_loop_are_told_by_it_alone() {
    let mut world = World::new(vec![("a", replica(PhaseName::Crashloop, at(0)))]);
    world.record("a").history.crashloop_since = Some(at(1));
    for restarts in 0..30 {
        world.replica(0).restarts = restarts;
        world.look(at(restarts));
    }
    for (now, crashloop_since) in [(40, Some(at(1))), (200, None)] {
        *world.replica(0) = replica(PhaseName::Running, at(30));
        world.replica(0).restarts = 30;
        world.record("a").history.crashloop_since = crashloop_since;
        let kinds: Vec<_> = world.look(at(now)).iter().map(|one| one.kind).collect();
        let told = crashloop_since.map(|_| ConditionKind::Crashloop);
        assert_eq!(kinds, Vec::from_iter(told));
    }
}

#[test]
fn a_refused_file_is_a_condition_of_its_pipeline_until_it_is_good() {
    let mut world = World::new(vec![("a", replica(PhaseName::Running, at(0)))]);
    world.status.problem = Some(Problem {
        file: Some("/srv/p.yaml".into()),
        line: Some(7),
        column: Some(3),
        message: "unknown field `imputs`\ndid you mean `inputs`?".to_owned(),
    });
    world.look(at(4));
    let found = world.look(at(9));
    assert_eq!(
        (found[0].kind, found[0].since),
        (ConditionKind::Rejected, at(4))
    );
    assert_eq!(found[0].why, "/srv/p.yaml:7:3: unknown field `imputs`");
    world.status.problem = None;
    assert!(world.look(at(10)).is_empty());
}

#[test]
fn a_blind_driver_is_one_condition_that_names_all_that_it_runs() {
    let world = World::new(vec![
        ("a", replica(PhaseName::Unknown, at(0))),
        ("b", replica(PhaseName::Unknown, at(0))),
    ]);
    let found = blind(DriverKind::Process, at(1), "no answer", [&world.status]);
    assert_eq!(found.subject(), "process");
    assert_eq!(found.blocks.len(), 2);
    let mut world = world;
    assert!(world.look(at(500)).is_empty(), "its components raise none");
}
