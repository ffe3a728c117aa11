//! Whom an end is charged to.

use crate::model::{ComponentSpec, Condition};
use crate::planner::blame;

use super::*;

/// So many seconds after [`now`].
fn at(seconds: f64) -> Timestamp {
    now().shifted((seconds * 1000.0) as i64)
}

/// One that runs since long ago.
fn steady(component: &str) -> Record {
    since(component, at(-86_400.0))
}

/// One that runs and is ready since then.
fn since(component: &str, moment: Timestamp) -> Record {
    let mut record = running(component, 1, true);
    if let Some(Instance {
        phase: Phase::Running { since, health },
        ..
    }) = &mut record.instance
    {
        *since = moment;
        health.ready_changed = Some(moment);
    }
    record
}

/// One that was away between two moments.
fn away(component: &str, from: f64, until: f64) -> Record {
    let mut record = since(component, at(until));
    record.history = gone(component, from).history;
    record
}

/// One that is away since then, and comes back by itself.
fn gone(component: &str, from: f64) -> Record {
    let mut record = ended(component, EndCause::Lost, ExitStatus::Unknown, 0);
    if let Some(last) = &mut record.history.last {
        last.exit.at = at(from);
    }
    record
}

/// One that a person stopped then.
fn stopped(component: &str, from: f64) -> Record {
    let mut record = gone(component, from);
    record.intent = RunIntent::Stop { at: at(from) };
    record
}

fn unready(component: &str, from: f64) -> Record {
    let mut record = steady(component);
    if let Some(Instance {
        phase: Phase::Running { health, .. },
        ..
    }) = &mut record.instance
    {
        health.ready = false;
        health.ready_changed = Some(at(from));
    }
    record
}

fn chain() -> PipelineSpec {
    pipeline(vec![
        component("source", 1, &[]),
        component("processor", 1, &["source"]),
        component("sink", 1, &["processor"]),
    ])
}

fn sink_of(spec: &PipelineSpec) -> &ComponentSpec {
    let id: ComponentId = "sink".parse().unwrap();
    &spec.components[&id]
}

/// Whom the end of the sink is charged to that lived from `began` to the moment 0.
fn charged(source: Record, processor: Record, began: f64) -> String {
    let records = [(key("source"), source), (key("processor"), processor)].into();
    let spec = chain();
    let sink = sink_of(&spec);
    match blame::charge(&spec, &records, sink, Some(at(began)), at(0.0)) {
        Charge::Own => "own".to_owned(),
        Charge::Upstream(id) => id.to_string(),
    }
}

#[test]
fn an_end_is_charged_to_whoever_was_away_then_however_far_and_however_briefly() {
    let table = [
        (
            "all was well",
            steady("source"),
            steady("processor"),
            -60.0,
            "own",
        ),
        (
            "the processor is away",
            steady("source"),
            gone("processor", -0.1),
            -60.0,
            "processor",
        ),
        (
            "it is away and the source too",
            gone("source", -0.1),
            gone("processor", -0.1),
            -60.0,
            "processor",
        ),
        (
            "the source is away, the processor lives",
            gone("source", -0.1),
            steady("processor"),
            -60.0,
            "source",
        ),
        (
            "a person stopped the source",
            stopped("source", -0.1),
            steady("processor"),
            -60.0,
            "source",
        ),
        (
            "the source is unready",
            unready("source", -20.0),
            steady("processor"),
            -60.0,
            "source",
        ),
        (
            "the processor was replaced in 40 ms, the end took 55",
            steady("source"),
            away("processor", -0.055, -0.015),
            -60.0,
            "processor",
        ),
        (
            "it was told when all was well again",
            away("source", -0.1, 1.2),
            steady("processor"),
            -60.0,
            "source",
        ),
        (
            "one is back, the other is not",
            gone("source", -0.1),
            away("processor", -0.2, -0.1),
            -60.0,
            "source",
        ),
        (
            "the end came seconds after it was back",
            away("source", -5.0, -4.0),
            steady("processor"),
            -60.0,
            "source",
        ),
        (
            "it came long after",
            away("source", -12.0, -10.0),
            steady("processor"),
            -60.0,
            "own",
        ),
        (
            "the program began after it was back",
            away("source", -5.0, -4.0),
            steady("processor"),
            -3.0,
            "own",
        ),
        (
            "the outage is seen soon after",
            unready("source", 15.0),
            steady("processor"),
            -60.0,
            "source",
        ),
        (
            "it began much later",
            unready("source", 60.0),
            steady("processor"),
            -60.0,
            "own",
        ),
        (
            "a far one stays away, and it began without it",
            stopped("source", -900.0),
            steady("processor"),
            -60.0,
            "own",
        ),
        (
            "a near one stays away",
            steady("source"),
            stopped("processor", -900.0),
            -60.0,
            "processor",
        ),
    ];
    for (what, source, processor, began, whose) in table {
        assert_eq!(charged(source, processor, began), whose, "{what}");
    }
}

#[test]
fn what_has_to_be_completed_is_nobody_to_blame() {
    let mut spec = chain();
    for component in spec.components.values_mut() {
        for dependency in &mut component.dependencies {
            dependency.condition = Condition::Completed;
        }
    }
    let records = [(key("processor"), gone("processor", -0.1))].into();
    let sink = sink_of(&spec);
    let charge = blame::charge(&spec, &records, sink, Some(at(-60.0)), at(0.0));
    assert_eq!(charge, Charge::Own);
}

#[test]
fn every_end_of_an_outage_is_taken_back_and_no_other_failure() {
    let policy = RestartPolicy::default();
    let mut history = History::default();
    let exits = [-3_600.0, -4.0, -2.0];
    for (run, moment) in exits.into_iter().enumerate() {
        let ended = Ended {
            instance: id("sink", u64::try_from(run).unwrap()),
            spec: hash(1),
            exit: Exit {
                status: ExitStatus::Code(1),
                oom: false,
                killed: 0,
                started_at: Some(at(moment - 0.5)),
                at: at(moment),
            },
            cause: EndCause::Itself(Charge::Own),
        };
        history = restart::ended(&history, ended, &policy);
    }
    assert_eq!(history.failures, 3);
    let spec = chain();
    let sink = sink_of(&spec);
    let records = [
        (key("source"), gone("source", -5.0)),
        (key("processor"), steady("processor")),
    ]
    .into();
    let source: ComponentId = "source".parse().unwrap();
    let is_its_fault = |since, at| blame::is_fault_of(&source, &spec, &records, sink, since, at);
    let back = restart::taken_back(&history, &source, is_its_fault).unwrap();
    assert_eq!(back.failures, 1);
    let charges: Vec<&Charge> = back.recent.iter().map(|one| &one.charge).collect();
    let its = Charge::Upstream(source.clone());
    assert_eq!(charges, [&Charge::Own, &its, &its]);
    assert_eq!(
        back.last.as_ref().unwrap().cause,
        EndCause::Itself(its.clone())
    );
    assert_eq!(restart::taken_back(&back, &source, is_its_fault), None);
}

#[test]
fn an_end_with_success_is_no_failure_where_it_is_restarted() {
    let policy = RestartPolicy::default();
    let mut record = Record::default();
    for run in 1..=7_u64 {
        let ended = Ended {
            instance: id("a", run),
            spec: hash(1),
            exit: Exit {
                status: ExitStatus::Code(0),
                oom: false,
                killed: 0,
                started_at: Some(now()),
                at: now(),
            },
            cause: EndCause::Itself(Charge::Own),
        };
        record.history = restart::ended(&record.history, ended, &policy);
    }
    assert_eq!(
        (record.history.failures, record.history.crashloop_since),
        (0, None)
    );
    let Verdict::Backoff {
        until,
        ending,
        failures,
        ..
    } = restart::verdict(&policy, &record, &hash(1), now())
    else {
        panic!("it is started again later");
    };
    assert_eq!(ending.counted(failures), "success 7");
    // The pace is that of failures.
    assert!(until.since(now()) >= Duration::from_secs(60));
}

#[test]
fn none_is_not_all_and_a_job_that_always_restarts_never_completes() {
    let mut db = component("db", 1, &[]);
    db.replicas = 0;
    assert_eq!(
        planned(pipeline(vec![db, component("app", 1, &["db"])]), &[]),
        ["hold app: waiting for db (no replica of it is wanted: `replicas: 0`)"]
    );
    let mut app = component("app", 1, &["job"]);
    app.dependencies[0].condition = Condition::Completed;
    let job = ended("job", EndCause::Itself(Charge::Own), ExitStatus::Code(0), 0);
    let planned = planned(
        pipeline(vec![component("job", 1, &[]), app]),
        &[("job", job)],
    );
    assert_eq!(
        planned,
        [
            "hold app: waiting for job to be completed (it never completes: its restart policy is \
             `always`; give it `on-failure`)",
            "hold job: backoff (success 1, exit 0)"
        ]
    );
}
