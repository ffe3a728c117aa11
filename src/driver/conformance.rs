//! What every driver must do, as one suite. It looks at the state of the world, not at calls.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Began, Driver, DriverError, Launch, Look, Scope};
use crate::model::{
    ComponentId, ComponentSpec, ExitStatus, Generation, HumanDuration, ImageChoice, InstanceId,
    Life, Namespace, PipelineKey, ProcessSpec, ReplicaKey, Role, Sighting, Signal, SpecHash,
    StopPolicy, Workload, fixtures,
};

/// How a component behaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    /// Until it is stopped.
    RunsForever,
    /// At once, with this code.
    Exits(i32),
    /// Only a kill ends it.
    IgnoresSignals,
    /// Its program does not exist.
    CannotStart,
}

/// Where the suite runs.
#[async_trait]
pub(super) trait Stage: Send + Sync {
    /// The driver as it is now.
    fn driver(&self) -> &dyn Driver;
    /// Puts a new driver, as of a restarted daemon, in the place of the present one.
    async fn restart(&mut self);
    /// Waits until the component behaves so: a program needs a moment to ignore signals, and the init
    /// of a container one to pass them on. For what lives until it is stopped.
    async fn prepared(&self, _component: &ComponentSpec) {}
    /// A component that behaves so.
    fn component(&mut self, id: &str, behaviour: Behaviour) -> ComponentSpec;
    /// A component for which the engine has no room now; `None` where no engine has anything wait.
    fn waiting(&mut self, _id: &str) -> Option<ComponentSpec> {
        None
    }
    /// Has the program of an instance end with code 3 and its engine start it again inside the same
    /// instance; false where no engine does.
    async fn end_inside(&self, _instance: &InstanceId) -> bool {
        false
    }
    /// Has the engine find room for such a component.
    async fn make_room(&self, _component: &ComponentSpec) {}
}

/// A component that runs `program`.
pub(crate) fn spec(id: &str, program: &str, args: &[&str]) -> ComponentSpec {
    ComponentSpec {
        role: Role::Source,
        hash: SpecHash::new(format!("v1:{id}")),
        workload: Workload::Process(ProcessSpec {
            program: program.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            working_dir: "/".into(),
        }),
        stop: StopPolicy {
            grace_period: HumanDuration::from_millis(300),
            ..StopPolicy::default()
        },
        ..fixtures::component(id, 1, &["upstream"])
    }
}

/// The pipeline that the suite's components are in.
pub(crate) fn pipeline() -> PipelineKey {
    PipelineKey {
        namespace: Namespace::default(),
        name: "suite".parse().unwrap(),
    }
}

/// A launch of the first replica of `spec`.
pub(crate) fn launch(spec: ComponentSpec, incarnation: u64) -> Launch {
    Launch {
        instance: InstanceId {
            pipeline: pipeline(),
            replica: ReplicaKey {
                component: spec.id.clone(),
                replica: 0,
            },
            incarnation,
        },
        spec: Arc::new(spec),
        generation: Generation(7),
        file: Some("/etc/pipeline.yaml".into()),
        injected: [("FLOWCTL_TEST".to_owned(), "injected".to_owned())].into(),
        image: ImageChoice::ByPolicy,
        given_up: CancellationToken::new(),
    }
}

/// What the driver sees of one instance.
pub(crate) async fn sight(driver: &dyn Driver, instance: &InstanceId) -> Option<Sighting> {
    let scope = Scope::Instances([instance.clone()].into());
    let Look {
        sightings: mut seen,
        hidden,
    } = driver.observe(&scope).await.unwrap();
    assert!(
        hidden.is_empty(),
        "all of the suite is in sight: {hidden:?}"
    );
    assert!(seen.len() <= 1, "one instance, one sighting: {seen:?}");
    seen.pop()
}

/// Waits until `holds` of what is seen of the instance.
pub(crate) async fn eventually(
    driver: &dyn Driver,
    instance: &InstanceId,
    holds: impl Fn(&Life) -> bool,
) -> Sighting {
    let mut seen = None;
    for _ in 0..2_000 {
        seen = sight(driver, instance).await;
        match &seen {
            Some(sighting) if holds(&sighting.life) => return sighting.clone(),
            Some(_) | None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("{instance} never got there; last seen: {seen:?}");
}

/// Waits until the instance runs.
pub(crate) async fn eventually_runs(driver: &dyn Driver, instance: &InstanceId) -> Sighting {
    eventually(driver, instance, |life| {
        matches!(life, Life::Running { .. })
    })
    .await
}

/// Waits until the instance has exited, and answers how.
pub(crate) async fn eventually_exits(driver: &dyn Driver, instance: &InstanceId) -> ExitStatus {
    let seen = eventually(driver, instance, |life| matches!(life, Life::Exited(_))).await;
    let Life::Exited(exit) = seen.life else {
        panic!("{seen:?}");
    };
    exit.status
}

/// The whole suite.
pub(super) async fn check(stage: &mut impl Stage) {
    a_started_instance_is_seen_with_all_that_it_carries(stage).await;
    a_second_start_answers_what_the_first_did(stage).await;
    an_exit_code_is_exact_and_kept_until_forgotten(stage).await;
    a_program_that_cannot_start_is_refused_and_leaves_nothing_alive(stage).await;
    a_stop_ends_it_and_may_be_repeated(stage).await;
    grace_is_given_and_then_it_is_killed(stage).await;
    a_live_instance_is_not_forgotten(stage).await;
    an_end_raises_a_hint(stage).await;
    only_the_scope_is_looked_at(stage).await;
    a_new_driver_finds_what_runs_and_what_ended(stage).await;
    what_waits_for_room_is_answered_at_once_and_runs_once_there_is_some(stage).await;
    what_waits_for_room_is_given_up_by_a_stop(stage).await;
    ends_inside_an_instance_are_told_with_their_times_by_every_look(stage).await;
    // An engine may take a moment to remove what it was told to, and a new driver sees it do so.
    for _ in 0..2_000 {
        let left = stage.driver().observe(&Scope::All).await.unwrap();
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = stage.driver().observe(&Scope::All).await.unwrap();
    assert!(left.is_empty(), "the suite cleans up: {left:?}");
}

/// Whether a signal ended it: an engine tells of that as 128 and the signal's number.
fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status == ExitStatus::Signal(signal) || status == ExitStatus::Code(128 + signal.number())
}

async fn end(stage: &impl Stage, launch: &Launch) {
    let driver = stage.driver();
    driver
        .stop(&launch.instance, &launch.spec.stop)
        .await
        .unwrap();
    driver.forget(&launch.instance).await.unwrap();
}

async fn a_started_instance_is_seen_with_all_that_it_carries(stage: &mut impl Stage) {
    let launch = launch(stage.component("carries", Behaviour::RunsForever), 1);
    let started = stage.driver().start(&launch).await.unwrap();
    let seen = eventually_runs(stage.driver(), &launch.instance).await;
    assert_eq!(seen.handle, Some(started.handle));
    assert_eq!(seen.facts, started.facts);
    assert!(!seen.facts.is_empty(), "nobody could tell where it runs");
    assert_eq!(seen.spec, launch.spec.hash);
    assert_eq!(seen.stop, launch.spec.stop);
    let upstream: ComponentId = "upstream".parse().unwrap();
    assert_eq!(seen.after, [upstream]);
    let described = stage.driver().describe().await.unwrap();
    assert_eq!(described.len(), 1);
    assert_eq!(described[0].spec, launch.spec);
    assert_eq!(described[0].generation, launch.generation);
    assert_eq!(described[0].file, launch.file);
    end(stage, &launch).await;
}

async fn a_second_start_answers_what_the_first_did(stage: &mut impl Stage) {
    let forever = launch(stage.component("twice", Behaviour::RunsForever), 1);
    let first = stage.driver().start(&forever).await.unwrap();
    let second = stage.driver().start(&forever).await.unwrap();
    assert_eq!(first, second);
    end(stage, &forever).await;

    let brief = launch(stage.component("twice-brief", Behaviour::Exits(0)), 1);
    let first = stage.driver().start(&brief).await.unwrap();
    eventually_exits(stage.driver(), &brief.instance).await;
    let second = stage.driver().start(&brief).await.unwrap();
    assert_eq!(first.handle, second.handle);
    assert_eq!(
        eventually_exits(stage.driver(), &brief.instance).await,
        ExitStatus::Code(0),
        "a second start of an ended instance starts nothing"
    );
    end(stage, &brief).await;
}

async fn an_exit_code_is_exact_and_kept_until_forgotten(stage: &mut impl Stage) {
    // No instance has the number of an earlier one.
    for (run, code) in [(1, 0), (2, 1), (3, 42)] {
        let launch = launch(stage.component("exits", Behaviour::Exits(code)), run);
        stage.driver().start(&launch).await.unwrap();
        for _ in 0..2 {
            let status = eventually_exits(stage.driver(), &launch.instance).await;
            assert_eq!(status, ExitStatus::Code(code));
        }
        stage.driver().forget(&launch.instance).await.unwrap();
        assert_eq!(sight(stage.driver(), &launch.instance).await, None);
        stage.driver().forget(&launch.instance).await.unwrap();
    }
}

async fn a_program_that_cannot_start_is_refused_and_leaves_nothing_alive(stage: &mut impl Stage) {
    let launch = launch(stage.component("missing", Behaviour::CannotStart), 1);
    for _ in 0..2 {
        match stage.driver().start(&launch).await {
            Err(DriverError::Refused(failure)) => assert_eq!(failure.reason, "ExecNotFound"),
            answer => panic!("{answer:?}"),
        }
    }
    let seen = sight(stage.driver(), &launch.instance).await;
    assert!(seen.is_none_or(|seen| !seen.life.is_alive()));
    end(stage, &launch).await;
}

async fn a_stop_ends_it_and_may_be_repeated(stage: &mut impl Stage) {
    let launch = launch(stage.component("stops", Behaviour::RunsForever), 1);
    stage.driver().start(&launch).await.unwrap();
    stage.prepared(&launch.spec).await;
    let mut ends = Vec::new();
    for _ in 0..2 {
        let stopped = stage.driver().stop(&launch.instance, &launch.spec.stop);
        let seen = stopped.await.unwrap().into_sighting();
        let seen = seen.expect("what was stopped is there until it is forgotten");
        assert_eq!(seen.instance, launch.instance);
        let Life::Exited(exit) = seen.life else {
            panic!("{:?}", seen.life);
        };
        ends.push(exit);
    }
    let [first, second] = &ends[..] else {
        panic!("two stops");
    };
    assert_eq!(first.status, second.status);
    assert!(
        ended_by(first.status, launch.spec.stop.signal_or_term()),
        "{ends:?}"
    );
    let status = eventually_exits(stage.driver(), &launch.instance).await;
    assert_eq!(
        status, first.status,
        "a look sees what the stop has answered"
    );
    end(stage, &launch).await;
    let unknown = self::launch(stage.component("never-started", Behaviour::RunsForever), 9);
    end(stage, &unknown).await;
}

async fn grace_is_given_and_then_it_is_killed(stage: &mut impl Stage) {
    let launch = launch(stage.component("stubborn", Behaviour::IgnoresSignals), 1);
    stage.driver().start(&launch).await.unwrap();
    stage.prepared(&launch.spec).await;
    let begun = tokio::time::Instant::now();
    stage
        .driver()
        .stop(&launch.instance, &launch.spec.stop)
        .await
        .unwrap();
    assert!(begun.elapsed() >= launch.spec.stop.grace_period.get());
    let status = eventually_exits(stage.driver(), &launch.instance).await;
    assert!(ended_by(status, Signal::KILL), "{status:?}");
    end(stage, &launch).await;
}

async fn a_live_instance_is_not_forgotten(stage: &mut impl Stage) {
    let launch = launch(stage.component("kept", Behaviour::RunsForever), 1);
    stage.driver().start(&launch).await.unwrap();
    stage.driver().forget(&launch.instance).await.unwrap();
    eventually_runs(stage.driver(), &launch.instance).await;
    end(stage, &launch).await;
}

async fn an_end_raises_a_hint(stage: &mut impl Stage) {
    let launch = launch(stage.component("hints", Behaviour::Exits(3)), 1);
    let hints = stage.driver().hints();
    stage.driver().start(&launch).await.unwrap();
    let hinted = async { while !hints.taken().await.contains(&launch.instance) {} };
    let hinted = tokio::time::timeout(Duration::from_secs(10), hinted).await;
    assert!(hinted.is_ok(), "no hint came");
    let status = eventually_exits(stage.driver(), &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(3));
    end(stage, &launch).await;
}

async fn only_the_scope_is_looked_at(stage: &mut impl Stage) {
    let one = launch(stage.component("one", Behaviour::RunsForever), 1);
    let two = launch(stage.component("two", Behaviour::RunsForever), 1);
    for launch in [&one, &two] {
        stage.driver().start(launch).await.unwrap();
    }
    let seen = sight(stage.driver(), &one.instance).await.unwrap();
    assert_eq!(seen.instance, one.instance);
    let all = stage.driver().observe(&Scope::All).await.unwrap().sightings;
    assert_eq!(all.len(), 2);
    for launch in [&one, &two] {
        end(stage, launch).await;
    }
}

async fn a_new_driver_finds_what_runs_and_what_ended(stage: &mut impl Stage) {
    let forever = launch(stage.component("adopted", Behaviour::RunsForever), 1);
    let brief = launch(stage.component("ended", Behaviour::Exits(42)), 1);
    let started = stage.driver().start(&forever).await.unwrap();
    stage.driver().start(&brief).await.unwrap();
    stage.restart().await;
    let seen = eventually_runs(stage.driver(), &forever.instance).await;
    assert_eq!(seen.handle, Some(started.handle.clone()));
    assert_eq!(seen.spec, forever.spec.hash);
    let status = eventually_exits(stage.driver(), &brief.instance).await;
    assert_eq!(status, ExitStatus::Code(42));
    // A start that is repeated over the restart starts no second one.
    let again = stage.driver().start(&forever).await.unwrap();
    assert_eq!(again.handle, started.handle);
    for launch in [&forever, &brief] {
        end(stage, launch).await;
    }
}

/// Starts a component for which there is no room; `None` where that is never so.
async fn start_without_room(stage: &mut impl Stage, id: &str) -> Option<Launch> {
    let waiting = launch(stage.waiting(id)?, 1);
    let started = stage.driver().start(&waiting).await.unwrap();
    let Began::Pending(pending) = &started.state else {
        panic!("there is no room, and it runs: {started:?}");
    };
    assert!(pending.why.is_some(), "nobody says what it waits for");
    // One that is repeated asks for no second one.
    let again = stage.driver().start(&waiting).await.unwrap();
    assert_eq!(again.handle, started.handle);
    assert!(matches!(again.state, Began::Pending(_)), "{again:?}");
    Some(waiting)
}

async fn what_waits_for_room_is_answered_at_once_and_runs_once_there_is_some(
    stage: &mut impl Stage,
) {
    let Some(waiting) = start_without_room(stage, "waits").await else {
        return;
    };
    let waits = |life: &Life| matches!(life, Life::Pending(pending) if pending.why.is_some());
    eventually(stage.driver(), &waiting.instance, waits).await;
    stage.restart().await;
    let before = eventually(stage.driver(), &waiting.instance, waits).await;
    let hints = stage.driver().hints();
    stage.make_room(&waiting.spec).await;
    let hinted = async { while !hints.taken().await.contains(&waiting.instance) {} };
    let hinted = tokio::time::timeout(Duration::from_secs(10), hinted).await;
    assert!(hinted.is_ok(), "no hint came that it runs");
    let after = eventually_runs(stage.driver(), &waiting.instance).await;
    assert_eq!(after.handle, before.handle, "it is the same one");
    let started = stage.driver().start(&waiting).await.unwrap();
    assert!(
        matches!(started.state, Began::Running { .. }),
        "{started:?}"
    );
    end(stage, &waiting).await;
}

async fn what_waits_for_room_is_given_up_by_a_stop(stage: &mut impl Stage) {
    let Some(waiting) = start_without_room(stage, "given-up").await else {
        return;
    };
    let stopped = stage.driver().stop(&waiting.instance, &waiting.spec.stop);
    stopped.await.unwrap();
    stage.make_room(&waiting.spec).await;
    let seen = sight(stage.driver(), &waiting.instance).await;
    assert!(
        seen.is_none_or(|seen| !seen.life.is_alive()),
        "it was given up"
    );
    end(stage, &waiting).await;
}

async fn ends_inside_an_instance_are_told_with_their_times_by_every_look(stage: &mut impl Stage) {
    let launch = launch(stage.component("again", Behaviour::RunsForever), 1);
    stage.driver().start(&launch).await.unwrap();
    stage.prepared(&launch.spec).await;
    if stage.end_inside(&launch.instance).await && stage.end_inside(&launch.instance).await {
        let first = eventually_runs(stage.driver(), &launch.instance).await;
        stage.restart().await;
        let seen = eventually_runs(stage.driver(), &launch.instance).await;
        assert_eq!(first.earlier, seen.earlier, "they are told alike");
        let codes = seen.earlier.iter().map(|end| end.exit.status);
        assert_eq!(codes.collect::<Vec<_>>(), [ExitStatus::Code(3); 2]);
        assert_ne!(seen.earlier[0].id, seen.earlier[1].id);
        assert!(seen.earlier.iter().all(|end| end.exit.started_at.is_some()));
    }
    end(stage, &launch).await;
}
