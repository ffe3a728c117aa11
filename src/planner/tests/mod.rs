//! The decision table; what has grown tables of its own is in the files beside.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::fixtures::{component, pipeline};
use crate::model::{
    Action, Backoff, Charge, ComponentId, DriverKind, EndCause, Ended, Exit, ExitStatus, Health,
    History, Hold, HumanDuration, ImageChoice, InFlight, Instance, InstanceId, Phase, PipelineSpec,
    Pull, Reason, Record, RecordedImage, ReplicaKey, RestartMode, RestartPolicy, RetryLimit,
    RunIntent, SpecHash, StartFailure, StopCause, StopPolicy, Timestamp, UnansweredStarts,
};

use super::restart::{self, Verdict};
use super::{Desired, Observed, plan, unwanted_starts};

mod blame;
mod handover;
mod progress;
mod properties;

const NOW: i64 = 1_000_000_000;

fn now() -> Timestamp {
    Timestamp::from_millis(NOW)
}

fn key(component: &str) -> ReplicaKey {
    ReplicaKey {
        component: component.parse().unwrap(),
        replica: 0,
    }
}

fn id(component: &str, incarnation: u64) -> InstanceId {
    let pipeline = pipeline(vec![]).key;
    InstanceId {
        pipeline,
        replica: key(component),
        incarnation,
    }
}

fn hash(n: u64) -> SpecHash {
    SpecHash::new(format!("v1:{n:016x}"))
}

fn running(component: &str, revision: u64, ready: bool) -> Record {
    let health = Health {
        started: true,
        ready,
        ready_changed: ready.then(now),
        ..Health::default()
    };
    Record {
        incarnation: 1,
        instance: Some(Instance {
            id: id(component, 1),
            spec: hash(revision),
            driver: DriverKind::Process,
            stop: StopPolicy::default(),
            after: vec![],
            holds: vec![],
            stalled: None,
            counted: Default::default(),
            prober: Default::default(),
            partition: None,
            facts: Default::default(),
            handle: None,
            phase: Phase::Running {
                since: now(),
                health,
            },
        }),
        released: Some(hash(revision)),
        ..Record::default()
    }
}

fn ended(component: &str, cause: EndCause, status: ExitStatus, ago: u64) -> Record {
    let at = now().shifted(-i64::try_from(ago).unwrap());
    let exit = Exit {
        status,
        oom: false,
        started_at: Some(at),
        at,
        killed: 0,
    };
    let ended = Ended {
        instance: id(component, 1),
        spec: hash(1),
        exit,
        cause,
    };
    let history = restart::ended(&History::default(), ended, &RestartPolicy::default());
    Record {
        incarnation: 1,
        released: Some(hash(1)),
        history,
        ..Record::default()
    }
}

fn crashed(component: &str, ago: u64) -> Record {
    ended(
        component,
        EndCause::Itself(Charge::Own),
        ExitStatus::Code(1),
        ago,
    )
}

fn observed(records: &BTreeMap<ReplicaKey, Record>) -> Observed<'_> {
    Observed {
        records: Cow::Borrowed(records),
        drivers: [DriverKind::Process].into(),
        next_incarnation: 2,
        ..Observed::default()
    }
}

/// The plan for `spec` as lines: `start a: reason`, `stop a: reason`, `hold a: words`.
fn planned(spec: PipelineSpec, records: &[(&str, Record)]) -> Vec<String> {
    let records: BTreeMap<_, _> = records.iter().map(|(c, r)| (key(c), r.clone())).collect();
    let plan = plan(&Desired::new(Arc::new(spec)), &observed(&records), now());
    let steps = plan.steps.iter().map(|step| {
        let verb = match step.action {
            Action::Start { .. } => "start",
            Action::Stop { .. } => "stop",
            Action::Forget => "forget",
        };
        format!("{verb} {}: {}", step.replica, step.reason)
    });
    let holds = plan
        .holds
        .iter()
        .map(|(key, hold)| format!("hold {key}: {hold}"));
    steps.chain(holds).collect()
}

#[test]
fn equal_states_give_an_empty_plan() {
    let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &["a"])]);
    let records = [("a", running("a", 1, true)), ("b", running("b", 1, true))];
    assert_eq!(planned(spec, &records), [] as [&str; 0]);
}

#[test]
fn dependents_wait_for_what_they_depend_on_in_any_list_order() {
    let spec = pipeline(vec![component("a", 1, &["b"]), component("b", 1, &[])]);
    assert_eq!(
        planned(spec.clone(), &[]),
        [
            "start b: not running yet",
            "hold a: waiting for b (not started yet)"
        ]
    );
    assert_eq!(
        planned(spec, &[("b", running("b", 1, false))]),
        [
            "hold a: waiting for b (not ready yet: no probe has passed yet)",
            "hold b: not ready yet: it has to live for 1s"
        ]
    );
}

#[test]
fn an_edit_replaces_the_changed_component_and_dependents_that_changed_follow_it() {
    let spec = pipeline(vec![
        component("a", 2, &[]),
        component("b", 2, &["a"]),
        component("c", 1, &["b"]),
    ]);
    let records = [
        ("a", running("a", 1, true)),
        ("b", running("b", 1, true)),
        ("c", running("c", 1, true)),
    ];
    assert_eq!(
        planned(spec, &records),
        [
            "stop a: its definition changed",
            "hold b: waiting for a (its new definition has not started yet)"
        ]
    );
}

#[test]
fn an_unready_upstream_never_stops_what_depends_on_it() {
    let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &["a"])]);
    let mut away = running("a", 1, false);
    if let Some(Instance {
        phase: Phase::Running { health, .. },
        ..
    }) = &mut away.instance
    {
        health.ready_changed = Some(now());
        health.why = Some("connection refused".to_owned());
    }
    assert_eq!(
        planned(spec, &[("a", away), ("b", running("b", 1, true))]),
        ["hold a: readiness probe fails: connection refused"]
    );
}

#[test]
fn stops_go_against_the_graph() {
    let mut b = running("b", 1, true);
    b.instance.as_mut().unwrap().after = vec!["a".parse().unwrap()];
    let records = [("a", running("a", 1, true)), ("b", b)];
    assert_eq!(
        planned(pipeline(vec![]), &records),
        [
            "stop b: removed from the pipeline",
            "hold a: waiting for b to stop first"
        ]
    );
}

#[test]
fn edges_of_two_revisions_that_form_a_cycle_do_not_block_a_stop() {
    let (mut a, mut b) = (running("a", 1, true), running("b", 1, true));
    a.instance.as_mut().unwrap().after = vec!["b".parse().unwrap()];
    b.instance.as_mut().unwrap().after = vec!["a".parse().unwrap()];
    let lines = planned(pipeline(vec![]), &[("a", a), ("b", b)]);
    assert_eq!(
        lines,
        [
            "stop b: removed from the pipeline",
            "stop a: removed from the pipeline"
        ]
    );
}

#[test]
fn an_end_charged_to_an_upstream_waits_for_it_and_then_starts_at_once() {
    let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &["a"])]);
    let charge = EndCause::Itself(Charge::Upstream("a".parse().unwrap()));
    let b = ended("b", charge, ExitStatus::Code(1), 10);
    assert_eq!(b.history.failures, 0);
    assert_eq!(
        planned(spec.clone(), &[("a", crashed("a", 100)), ("b", b.clone())]),
        [
            "hold a: backoff (failure 1, exit 1)",
            "hold b: waiting for a (exit 1)"
        ]
    );
    assert_eq!(
        planned(spec, &[("a", running("a", 1, true)), ("b", b)]),
        ["start b: a is ready again"]
    );
}

#[test]
fn a_stopped_component_stays_down_until_a_person_says_start() {
    let spec = pipeline(vec![component("a", 1, &[])]);
    let mut record = crashed("a", 10);
    record.intent = RunIntent::Stop { at: now() };
    assert_eq!(
        planned(spec.clone(), &[("a", record.clone())]),
        ["hold a: stopped by request; `flowctl start` revives it"]
    );
    record.intent = RunIntent::Start { at: now(), upto: 1 };
    assert_eq!(planned(spec, &[("a", record)]), ["start a: requested"]);
}

#[test]
fn a_spec_change_clears_the_backoff() {
    let spec = pipeline(vec![component("a", 2, &[])]);
    assert_eq!(
        planned(spec, &[("a", crashed("a", 10))]),
        ["start a: its definition changed"]
    );
}

#[test]
fn never_and_on_failure_end_as_completed_or_failed() {
    let verdict = |mode, code| {
        let policy = RestartPolicy {
            mode,
            ..RestartPolicy::default()
        };
        let record = ended(
            "a",
            EndCause::Itself(Charge::Own),
            ExitStatus::Code(code),
            10_000,
        );
        restart::verdict(&policy, &record, &hash(1), now())
    };
    assert_eq!(verdict(RestartMode::Never, 0), Verdict::Completed);
    assert_eq!(
        verdict(RestartMode::Never, 3),
        Verdict::Failed {
            last: "exit 3".to_owned()
        }
    );
    assert_eq!(verdict(RestartMode::OnFailure, 0), Verdict::Completed);
    assert!(matches!(
        verdict(RestartMode::OnFailure, 3),
        Verdict::Start(Reason::Restart { .. })
    ));
    assert!(matches!(
        verdict(RestartMode::Always, 0),
        Verdict::Start(Reason::Restart { .. })
    ));
}

#[test]
fn max_retries_gives_up_and_a_window_forgives_old_failures() {
    let mut policy = RestartPolicy {
        initial_delay: HumanDuration::from_secs(0),
        limit: Some(RetryLimit {
            max_retries: 2,
            window: None,
        }),
        ..RestartPolicy::default()
    };
    let mut history = History::default();
    for minute in 0..3_u64 {
        let at = now().after(Duration::from_secs(60 * minute));
        let status = ExitStatus::Code(1);
        let exit = Exit {
            status,
            oom: false,
            started_at: None,
            at,
            killed: 0,
        };
        let cause = EndCause::Itself(Charge::Own);
        let ended = Ended {
            instance: id("a", minute),
            spec: hash(1),
            exit,
            cause,
        };
        history = restart::ended(&history, ended, &policy);
    }
    let record = Record {
        history,
        ..Record::default()
    };
    let later = now().after(Duration::from_secs(3600));
    assert!(matches!(
        restart::verdict(&policy, &record, &hash(1), later),
        Verdict::GaveUp { retries: 2, .. }
    ));
    policy.limit = Some(RetryLimit {
        max_retries: 2,
        window: Some(HumanDuration::from_secs(90)),
    });
    assert!(matches!(
        restart::verdict(&policy, &record, &hash(1), later),
        Verdict::Start(_)
    ));
}

#[test]
fn five_failures_in_five_minutes_are_a_crash_loop_and_taking_one_back_ends_it() {
    let policy = RestartPolicy::default();
    let mut history = History::default();
    for n in 0..5_u64 {
        assert_eq!(history.crashloop_since, None);
        let at = now().after(Duration::from_secs(n));
        let exit = Exit {
            status: ExitStatus::Code(1),
            oom: false,
            started_at: None,
            at,
            killed: 0,
        };
        let cause = EndCause::Itself(Charge::Own);
        let ended = Ended {
            instance: id("a", n),
            spec: hash(1),
            exit,
            cause,
        };
        history = restart::ended(&history, ended, &policy);
    }
    assert!(history.crashloop_since.is_some());
    let upstream: ComponentId = "b".parse().unwrap();
    let is_last = |_, at| at == now().after(Duration::from_secs(4));
    let back = restart::taken_back(&history, &upstream, is_last).unwrap();
    assert_eq!((back.failures, back.crashloop_since), (4, None));
}

/// A history of so many starts in a row that failed for want of the image.
fn without_image(times: u64) -> History {
    let policy = RestartPolicy::default();
    (1..=times).fold(History::default(), |history, run| {
        let failure = StartFailure {
            reason: "ImagePullFailed".to_owned(),
            message: "cannot pull image a:1: connection refused".to_owned(),
        };
        let ended = Ended {
            instance: id("a", run),
            spec: hash(1),
            exit: Exit {
                status: ExitStatus::Unknown,
                oom: false,
                started_at: None,
                at: now(),
                killed: 0,
            },
            cause: EndCause::NotStarted(failure),
        };
        restart::ended(&history, ended, &policy)
    })
}

#[test]
fn a_registry_that_is_down_is_asked_at_its_own_pace_and_is_no_crash_loop() {
    let policy = RestartPolicy {
        limit: Some(RetryLimit {
            max_retries: 0,
            window: None,
        }),
        ..RestartPolicy::default()
    };
    for (times, seconds) in [(1, 10), (2, 20), (3, 40), (6, 300), (200, 300)] {
        let history = without_image(times);
        assert_eq!((history.failures, history.crashloop_since), (0, None));
        let record = Record {
            history,
            ..Record::default()
        };
        let verdict = restart::verdict(&policy, &record, &hash(1), now());
        let restart::Verdict::Backoff {
            until,
            failures,
            last,
            crashloop: false,
            ending: _,
        } = verdict
        else {
            panic!("{verdict:?}");
        };
        assert_eq!(u64::from(failures), times);
        assert!(last.contains("connection refused"));
        let pause = until.since(now()).as_secs_f64();
        let least = f64::from(seconds);
        assert!((least..=least * 1.5).contains(&pause), "{times}: {pause}");
        let again = restart::verdict(&policy, &record, &hash(1), until);
        assert!(matches!(
            again,
            restart::Verdict::Start(Reason::Retry { .. })
        ));
    }
}

#[test]
fn the_pace_of_pulls_starts_over_once_the_image_was_there() {
    let mut history = without_image(5);
    let last = history.last.clone().unwrap();
    let crashed = Ended {
        cause: EndCause::Itself(Charge::Own),
        ..last
    };
    history = restart::ended(&history, crashed, &RestartPolicy::default());
    assert_eq!((history.failed_pulls, history.failures), (0, 1));
}

#[test]
fn an_image_that_was_refused_is_judged_anew_by_another_policy_and_not_again_by_the_same() {
    let record = Record {
        history: without_image(3),
        ..Record::default()
    };
    let spec = pipeline(vec![component("a", 1, &[])]);
    let records = [(key("a"), record)].into();
    let desired = Desired::new(Arc::new(spec));
    let starts = |since: Option<Timestamp>| {
        let mut seen = observed(&records);
        seen.image_policy_since = since;
        plan(&desired, &seen, now()).steps.len()
    };
    assert_eq!(starts(None), 0);
    assert_eq!(starts(Some(now())), 0);
    assert_eq!(starts(Some(now().shifted(-1))), 0);
    assert_eq!(starts(Some(now().shifted(1))), 1);
}

#[test]
fn only_a_start_whose_result_nobody_wants_is_given_up() {
    let a_of = |revision| pipeline(vec![component("a", revision, &[])]);
    let at = now();
    let restart = |upto| RunIntent::Restart {
        at,
        upto,
        pull: Pull::No,
    };
    for (spec, intent, unwanted) in [
        (a_of(1), RunIntent::Run, 0),
        (a_of(2), RunIntent::Run, 1),
        (pipeline(vec![]), RunIntent::Run, 1),
        (a_of(1), RunIntent::Stop { at }, 1),
        (a_of(1), RunIntent::Start { at, upto: 1 }, 0),
        (a_of(1), restart(1), 1),
        (a_of(1), restart(0), 0),
    ] {
        let mut record = running("a", 1, false);
        record.intent = intent;
        if let Some(instance) = &mut record.instance {
            instance.phase = Phase::Starting {
                since: now(),
                pending: None,
            };
        }
        let records = [(key("a"), record)].into();
        let desired = Desired::new(Arc::new(spec));
        let mut seen = observed(&records);
        assert_eq!(unwanted_starts(&desired, &seen).count(), 0);
        seen.busy = Cow::Owned([(key("a"), InFlight::Start)].into());
        assert_eq!(
            unwanted_starts(&desired, &seen).count(),
            unwanted,
            "{records:?}"
        );
    }
}

#[test]
fn a_start_without_an_answer_holds_back_the_next_of_its_revision_unless_a_person_asks() {
    let start = |before: Option<&UnansweredStarts>, run| {
        let why = "connection reset".to_owned();
        restart::unanswered(before, &id("a", run), &hash(1), why, now())
    };
    let mut starts = start(None, 1);
    for (times, seconds) in [(1, 1), (2, 2), (3, 4), (6, 30), (7, 30)] {
        while starts.times < times {
            starts = start(Some(&starts), u64::from(times));
        }
        let pause = starts.retry_at.since(now()).as_secs_f64();
        let least = f64::from(seconds);
        assert!((least..=least * 1.5).contains(&pause), "{times}: {pause}");
    }
    let retry_at = starts.retry_at;
    let mut record = Record {
        incarnation: starts.incarnation,
        unanswered: Some(starts),
        ..Record::default()
    };
    assert!(restart::holding(&record, &hash(1), now()).is_some());
    assert_eq!(restart::holding(&record, &hash(1), retry_at), None);
    assert_eq!(restart::holding(&record, &hash(2), now()), None);
    let (at, upto) = (now(), record.incarnation);
    record.intent = RunIntent::Start { at, upto };
    assert_eq!(restart::holding(&record, &hash(1), now()), None);
}

#[test]
fn a_restart_runs_the_image_that_ran_unless_it_is_another_revision_or_to_be_pulled() {
    let ran = |incarnation| RecordedImage {
        spec: hash(1),
        incarnation,
        reference: "a@sha256:1".to_owned(),
    };
    let mut record = Record::default();
    assert_eq!(restart::image(&record, &hash(1)), ImageChoice::ByPolicy);
    record.image = Some(ran(3));
    let recorded = ImageChoice::Recorded("a@sha256:1".to_owned());
    assert_eq!(restart::image(&record, &hash(1)), recorded);
    assert_eq!(restart::image(&record, &hash(2)), ImageChoice::ByPolicy);
    let restart = |pull| RunIntent::Restart {
        at: now(),
        upto: 3,
        pull,
    };
    record.intent = restart(Pull::No);
    assert_eq!(restart::image(&record, &hash(1)), recorded);
    record.intent = restart(Pull::Yes);
    assert_eq!(restart::image(&record, &hash(1)), ImageChoice::Pulled);
    record.image = Some(ran(4));
    assert_eq!(
        restart::image(&record, &hash(1)),
        recorded,
        "it was pulled for run 4"
    );
}

#[test]
fn the_total_of_restarts_survives_a_reset() {
    let history = History {
        restarts: 9,
        failures: 3,
        ..History::default()
    };
    let cleared = restart::cleared(&history);
    assert_eq!((cleared.restarts, cleared.failures), (9, 0));
}

#[test]
fn failures_are_forgotten_after_the_reset_time_of_readiness_and_not_a_moment_before() {
    let policy = RestartPolicy::default();
    let history = History {
        failures: 3,
        ..History::default()
    };
    let running = |ready, since: Timestamp, ready_changed| Phase::Running {
        since,
        health: Health {
            started: true,
            ready,
            ready_changed,
            ..Health::default()
        },
    };
    let reset = |phase: &Phase| restart::reset_at(&history, phase, &policy);
    let two_minutes = Duration::from_secs(120);
    // A daemon that was killed in between changes nothing: only moments count, and they are kept.
    assert_eq!(
        reset(&running(true, now(), None)),
        Some(now().after(two_minutes))
    );
    let later = now().after(Duration::from_secs(50));
    assert_eq!(
        reset(&running(true, now(), Some(later))),
        Some(later.after(two_minutes))
    );
    assert_eq!(reset(&running(false, now(), Some(later))), None);
    assert_eq!(
        restart::reset_at(&History::default(), &running(true, now(), None), &policy),
        None
    );
}
