//! Whose work stands still, whose may, and who is restarted for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{key, now, running};
use crate::model::fixtures::{component, pipeline};
use crate::model::{
    ComponentSpec, Expected, HumanDuration, OnStall, PipelineSpec, Progress, Record, ReplicaKey,
    Stalled, Timestamp, Watches,
};
use crate::planner::progress::{Judgement, Shown, Work, Works, judge};
use crate::planner::{Desired, restart};

/// So many seconds after everything has started.
fn at(seconds: u64) -> Timestamp {
    now().after(Duration::from_secs(seconds))
}

fn progress(max_age: u64) -> Progress {
    Progress {
        watches: Watches::Metric("ledger".to_owned()),
        max_age: HumanDuration::from_secs(max_age),
        startup: HumanDuration::from_secs(max_age),
        expected: Expected::Always,
        on_stall: OnStall::Tell,
    }
}

/// A component that reads from `inputs`, watched with [`progress`] of `max_age` seconds.
fn watched(id: &str, inputs: &[&str], max_age: u64) -> ComponentSpec {
    ComponentSpec {
        inputs: inputs.iter().map(|id| id.parse().unwrap()).collect(),
        progress: Some(progress(max_age)),
        ..component(id, 1, inputs)
    }
}

/// A component that reads from `inputs`.
fn reads(id: &str, inputs: &[&str]) -> ComponentSpec {
    ComponentSpec {
        inputs: inputs.iter().map(|id| id.parse().unwrap()).collect(),
        ..component(id, 1, inputs)
    }
}

/// A pipeline all of whose components run, and what is known of their work.
struct World {
    spec: PipelineSpec,
    records: BTreeMap<ReplicaKey, Record>,
    works: Works,
}

impl World {
    fn new(components: Vec<ComponentSpec>) -> Self {
        let spec = pipeline(components);
        let ids = || spec.components.keys().map(|id| id.as_str());
        let records: BTreeMap<_, _> = ids().map(|id| (key(id), running(id, 1, true))).collect();
        let watched = spec.components.values().filter(|it| it.progress.is_some());
        let works = watched.map(|it| {
            let id = it.id.as_str();
            (key(id), Work::new(super::id(id, 1), None, at(0)))
        });
        Self {
            works: works.collect(),
            records,
            spec,
        }
    }

    fn spec(&mut self, id: &str) -> &mut ComponentSpec {
        self.spec.components.get_mut(id).unwrap()
    }

    fn shows(&mut self, id: &str, value: u64, second: u64) {
        let work = self.works.get_mut(&key(id)).unwrap();
        work.shows(Shown::Value(value.to_string()), at(second));
        self.judge(second);
    }

    fn judge(&mut self, second: u64) -> Judgement {
        let desired = Desired::new(Arc::new(self.spec.clone()));
        judge(&mut self.works, &desired, &self.records, at(second))
    }

    /// Who stands still, after a look in each of these seconds.
    fn still(&mut self, seconds: std::ops::Range<u64>) -> Vec<String> {
        seconds.for_each(|second| drop(self.judge(second)));
        let works = self.works.iter();
        let still = works.filter(|(_, work)| work.stalled().is_some());
        still.map(|(key, _)| key.component.to_string()).collect()
    }

    fn why(&self, id: &str) -> String {
        let spec = &self.spec.components[id];
        let progress = spec.progress.as_ref().unwrap();
        self.works[&key(id)].status(progress, at(0)).why
    }

    fn ready(&mut self, id: &str, ready: bool) {
        self.records.insert(key(id), running(id, 1, ready));
    }
}

#[test]
fn a_figure_that_stands_still_is_a_stall_until_it_moves() {
    let mut world = World::new(vec![watched("a", &[], 60)]);
    world.shows("a", 5, 0);
    world.shows("a", 6, 10);
    assert_eq!(world.judge(11).wake_at, Some(at(70)));
    assert!(world.still(11..70).is_empty());
    world.shows("a", 6, 60);
    assert_eq!(world.still(70..71), ["a"]);
    let since = at(10);
    assert_eq!(world.why("a"), format!("ledger stands at 6 since {since}"));
    let stalled = world.works[&key("a")].stalled().unwrap();
    assert_eq!(stalled.since, at(70));
    world.shows("a", 7, 500);
    assert!(world.still(500..501).is_empty());
    assert_eq!(world.why("a"), "");
}

#[test]
fn a_counter_that_was_set_back_has_not_moved_on_and_text_that_changed_has() {
    for (before, after, is_further) in [
        ("9", "10", true),
        ("10", "9", false),
        ("1.5", "1.25", false),
        ("1e3", "2e3", true),
        ("18446744073709551614", "18446744073709551615", true),
        ("a7", "a8", true),
        ("a8", "a7", true),
        ("a7", "a7", false),
        ("9", "done", true),
    ] {
        let mut work = Work::new(super::id("a", 1), None, at(0));
        work.shows(Shown::Value(before.to_owned()), at(1));
        work.shows(Shown::Value(after.to_owned()), at(2));
        let status = work.status(&progress(60), at(0));
        assert_eq!(
            status.advanced_at,
            is_further.then(|| at(2)),
            "{before} {after}"
        );
    }
}

#[test]
fn before_it_has_moved_once_it_has_the_time_that_a_start_takes() {
    let mut world = World::new(vec![watched("a", &[], 60)]);
    world.spec("a").progress.as_mut().unwrap().startup = HumanDuration::from_secs(600);
    world.shows("a", 5, 0);
    assert!(world.still(0..600).is_empty());
    assert_eq!(world.still(600..601), ["a"]);
    let started = at(0);
    let why = format!("ledger stands at 5 since it started at {started}");
    assert_eq!(world.why("a"), why);
}

#[test]
fn what_never_showed_is_named_with_why_it_cannot_be_seen() {
    let mut world = World::new(vec![watched("a", &[], 60)]);
    let work = world.works.get_mut(&key("a")).unwrap();
    work.shows(Shown::Nothing("connection refused".to_owned()), at(5));
    assert_eq!(world.still(60..61), ["a"]);
    let started = at(0);
    let why =
        format!("ledger has not been seen since it started at {started} (connection refused)");
    assert_eq!(world.why("a"), why);
    world.shows("a", 1, 61);
    assert!(world.still(61..62).is_empty(), "what was missed has come");
}

#[test]
fn while_a_neighbour_is_not_ready_nothing_is_held_against_it_and_time_counts_anew() {
    for neighbour in ["source", "sink"] {
        let mut world = World::new(vec![
            component("source", 1, &[]),
            reads("between", &["source"]),
            watched("a", &["between"], 60),
            reads("after", &["a"]),
            reads("sink", &["after"]),
        ]);
        world.shows("a", 5, 0);
        world.shows("a", 6, 1);
        assert!(world.still(1..30).is_empty());
        world.ready(neighbour, false);
        assert!(world.still(30..1_000).is_empty(), "{neighbour}");
        let why = format!("nothing is expected of it: {neighbour} is not ready");
        assert_eq!(world.why("a"), why);
        world.ready(neighbour, true);
        assert!(world.still(1_000..1_060).is_empty(), "{neighbour}");
        assert_eq!(world.still(1_060..1_061), ["a"], "{neighbour}");
        // An excuse that comes later ends nothing.
        world.ready(neighbour, false);
        assert_eq!(world.still(1_061..1_100), ["a"], "{neighbour}");
    }
}

#[test]
fn one_that_only_waits_for_it_excuses_nobody_and_one_that_it_waits_for_does() {
    let mut world = World::new(vec![
        component("database", 1, &[]),
        component("clock", 1, &[]),
        ComponentSpec {
            progress: Some(progress(60)),
            ..component("sink", 1, &["database", "clock"])
        },
        component("monitor", 1, &["sink"]),
    ]);
    world.spec("sink").dependencies[1].condition = crate::model::Condition::Started;
    world.shows("sink", 5, 0);
    world.shows("sink", 6, 1);
    world.ready("database", false);
    assert!(world.still(1..600).is_empty());
    let why = "nothing is expected of it: database is not ready";
    assert_eq!(world.why("sink"), why);
    world.ready("database", true);
    assert!(world.still(600..601).is_empty());
    // Neither takes what it hands on, nor is waited for any more.
    world.ready("monitor", false);
    world.ready("clock", false);
    assert_eq!(world.still(601..662), ["sink"]);
}

#[test]
fn one_that_only_waits_for_it_holds_nobody_up() {
    let monitor = ComponentSpec {
        progress: Some(progress(60)),
        ..component("monitor", 1, &["sink"])
    };
    let mut world = World::new(vec![watched("sink", &[], 60), monitor]);
    world.shows("monitor", 5, 0);
    world.shows("monitor", 6, 1);
    world.shows("sink", 5, 0);
    for second in 1..600 {
        world.shows("sink", second, second);
        world.judge(second);
    }
    assert_eq!(world.still(600..700), ["monitor", "sink"]);
    let spec = &world.spec.components["sink"];
    let sink = world.works[&key("sink")].status(spec.progress.as_ref().unwrap(), at(0));
    assert_eq!(sink.held_by, None);
}

#[test]
fn what_was_waited_for_to_be_completed_gives_nothing_any_more() {
    let mut world = World::new(vec![
        component("migrate", 1, &[]),
        watched("a", &["migrate"], 60),
    ]);
    world.spec("a").dependencies[0].condition = crate::model::Condition::Completed;
    world.ready("migrate", false);
    world.shows("a", 5, 0);
    world.shows("a", 6, 1);
    assert_eq!(world.still(1..62), ["a"]);
}

#[test]
fn one_that_has_nothing_to_do_is_idle_and_not_stalled() {
    let mut world = World::new(vec![watched("a", &[], 100_000), watched("b", &["a"], 60)]);
    world.spec("b").progress.as_mut().unwrap().expected = Expected::UpstreamProgressing;
    for second in 0..100 {
        world.shows("a", second, second);
        // It is told of each ledger a while later, and of the last one last.
        world.shows("b", second.saturating_sub(9), second);
    }
    world.shows("b", 99, 109);
    assert!(world.still(109..2_000).is_empty());
    assert_eq!(
        world.why("b"),
        "nothing is expected of it: its inputs get no further either"
    );
    for second in 2_000..2_059 {
        world.shows("a", second, second);
    }
    assert!(world.still(2_058..2_059).is_empty());
    for second in 2_059..2_070 {
        world.shows("a", second, second);
    }
    assert_eq!(world.still(2_070..2_071), ["b"], "its input went on alone");
}

#[test]
fn what_the_daemon_was_not_there_to_see_counts_against_nobody() {
    let mut world = World::new(vec![watched("a", &[], 60)]);
    // Its program has run for days, this daemon for none.
    world
        .works
        .insert(key("a"), Work::new(super::id("a", 1), None, at(90_000)));
    world.shows("a", 5, 90_001);
    assert!(world.still(90_001..90_060).is_empty());
    // It was away again.
    let work = world.works.get_mut(&key("a")).unwrap();
    work.seen_from(at(90_100));
    assert!(world.still(90_060..90_160).is_empty());
    assert_eq!(world.still(90_160..90_161), ["a"]);
}

#[test]
fn a_stall_is_the_same_to_the_next_daemon_until_something_moves() {
    let kept = Stalled {
        since: at(70),
        value: Some("6".to_owned()),
        advanced_at: Some(at(10)),
    };
    let mut world = World::new(vec![watched("a", &[], 60)]);
    let work = Work::new(super::id("a", 1), Some(kept.clone()), at(80));
    world.works.insert(key("a"), work);
    world.shows("a", 6, 81);
    assert_eq!(world.works[&key("a")].stalled(), Some(&kept));
    world.shows("a", 7, 82);
    assert_eq!(world.works[&key("a")].stalled(), None);
}

#[test]
fn a_log_that_grows_is_progress_from_its_first_line_on() {
    let mut world = World::new(vec![watched("a", &[], 60)]);
    let progress = world.spec("a").progress.as_mut().unwrap();
    progress.watches = Watches::Output;
    progress.startup = HumanDuration::from_secs(1_000);
    let written = |world: &mut World, second| {
        let work = world.works.get_mut(&key("a")).unwrap();
        work.shows(Shown::Written(at(second)), at(second + 1));
    };
    written(&mut world, 5);
    assert!(world.still(6..65).is_empty());
    assert_eq!(world.still(65..66), ["a"]);
    let since = at(5);
    assert_eq!(
        world.why("a"),
        format!("it has written nothing {}", format_args!("since {since}"))
    );
    written(&mut world, 70);
    assert!(world.still(71..72).is_empty());
}

#[test]
fn it_is_restarted_where_that_is_asked_for_once_an_hour_at_most() {
    let mut world = World::new(vec![watched("a", &[], 60)]);
    world.shows("a", 5, 0);
    world.shows("a", 6, 1);
    assert!(world.judge(61).restarts.is_empty());
    world.spec("a").progress.as_mut().unwrap().on_stall = OnStall::Restart;
    assert_eq!(world.judge(62).restarts.len(), 1);
    let record = world.records.get_mut(&key("a")).unwrap();
    record.history.stall_ended_at = Some(at(62));
    let judged = world.judge(63);
    assert!(judged.restarts.is_empty());
    assert_eq!(judged.wake_at, Some(at(3_662)));
    // Nothing makes the hour shorter.
    let record = world.records.get_mut(&key("a")).unwrap();
    record.history = restart::cleared(&record.history);
    assert!(world.judge(3_661).restarts.is_empty());
    assert_eq!(world.judge(3_662).restarts.len(), 1);
}

#[test]
fn one_that_cannot_hand_on_what_it_has_is_not_restarted() {
    let mut world = World::new(vec![watched("a", &[], 60), reads("sink", &["a"])]);
    world.spec("a").progress.as_mut().unwrap().on_stall = OnStall::Restart;
    world.shows("a", 5, 0);
    world.shows("a", 6, 1);
    world.ready("sink", false);
    assert!(world.judge(500).restarts.is_empty());
    world.ready("sink", true);
    world.judge(501);
    // It stands still by the time at which the sink falls again.
    assert_eq!(world.still(501..562), ["a"]);
    world.ready("sink", false);
    assert!(world.judge(562).restarts.is_empty());
    world.ready("sink", true);
    assert_eq!(world.judge(563).restarts.len(), 1);
}

#[test]
fn of_those_that_stand_still_the_first_one_holds_up_the_others() {
    // Below the one that hangs nothing comes; above it the buffers are full a while later.
    let mut world = World::new(vec![
        watched("source", &[], 60),
        watched("hangs", &["source"], 60),
        watched("sink", &["hangs"], 60),
    ]);
    for id in ["source", "hangs", "sink"] {
        world.spec(id).progress.as_mut().unwrap().on_stall = OnStall::Restart;
        world.shows(id, 1, 0);
    }
    world.shows("hangs", 2, 100);
    world.shows("sink", 2, 101);
    world.shows("source", 2, 200);
    assert_eq!(world.still(201..300), ["hangs", "sink", "source"]);
    let held_by = |id: &str| {
        let status = world.works[&key(id)].status(&progress(60), at(0));
        status.held_by.map(|id| id.to_string())
    };
    assert_eq!(held_by("source"), Some("hangs".to_owned()));
    assert_eq!(held_by("sink"), Some("hangs".to_owned()));
    assert_eq!(held_by("hangs"), None);
    let restarts = world.judge(300).restarts;
    assert_eq!(restarts.len(), 1);
    assert_eq!(restarts[0].0, key("hangs"));
}
