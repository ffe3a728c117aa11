//! When probes are asked, on paused time: the real prober, with scripted answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::model::{
    Counts, HumanDuration, InstanceId, Probe, ProbeCheck, ProbeKind, ProbeOutcome, Probes,
};
use crate::probe::schedule::Ask;
use crate::probe::{AskError, Found, MAX_ASKS, Prober, ProberHandle, Report, Stage, Watched};

const STARTUP: u16 = 1;
const READINESS: u16 = 2;
const LIVENESS: u16 = 3;

fn probe(port: u16, period: u64) -> Probe {
    Probe {
        check: ProbeCheck::Tcp { port: port.into() },
        period: HumanDuration::from_secs(period),
        timeout: HumanDuration::from_secs(2),
        failures: 3,
        successes: 1,
    }
}

fn readiness() -> Probes {
    Probes {
        readiness: Some(probe(READINESS, 10)),
        ..Probes::default()
    }
}

fn all_three() -> Probes {
    Probes {
        startup: Some(probe(STARTUP, 1)),
        readiness: Some(probe(READINESS, 10)),
        liveness: Some(probe(LIVENESS, 10)),
    }
}

fn watched(probes: Probes, stage: Stage, found: Found) -> Watched {
    Watched {
        probes,
        target: Arc::new(super::on_loopback()),
        stage,
        found,
    }
}

fn id(number: usize) -> InstanceId {
    format!("default.p.c{number}.0.1").parse().unwrap()
}

fn port_of(check: &ProbeCheck) -> u16 {
    let ProbeCheck::Tcp { port } = check else {
        panic!("{check:?}");
    };
    port.number()
}

/// A prober whose answers are made up.
struct World {
    began: Instant,
    handle: ProberHandle,
    reports: mpsc::Receiver<Report>,
    /// When which port was asked, in milliseconds.
    asked: Arc<Mutex<Vec<(u64, u16)>>>,
    /// Asks under way: now, and at most.
    under_way: Arc<(AtomicUsize, AtomicUsize)>,
}

impl World {
    /// Each ask takes and answers what `script` says, by its moment in milliseconds and its port.
    fn new(
        script: impl Fn(u64, u16) -> (u64, Result<ProbeOutcome, AskError>) + Send + Sync + 'static,
    ) -> Self {
        let began = Instant::now();
        let (sender, reports) = mpsc::channel(8);
        let (prober, handle) = Prober::new(sender);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let under_way = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let (log, load, script) = (Arc::clone(&asked), Arc::clone(&under_way), Arc::new(script));
        tokio::spawn(prober.run_with(move |ask: Ask| {
            let (log, load, script) = (Arc::clone(&log), Arc::clone(&load), Arc::clone(&script));
            async move {
                let at = u64::try_from(began.elapsed().as_millis()).unwrap();
                let port = port_of(&ask.check);
                log.lock().unwrap().push((at, port));
                let now = load.0.fetch_add(1, Ordering::Relaxed) + 1;
                load.1.fetch_max(now, Ordering::Relaxed);
                let (takes, answer) = script(at, port);
                sleep(Duration::from_millis(takes)).await;
                load.0.fetch_sub(1, Ordering::Relaxed);
                answer
            }
        }));
        Self {
            began,
            handle,
            reports,
            asked,
            under_way,
        }
    }

    fn failing() -> Self {
        Self::new(|_, _| (0, Ok(ProbeOutcome::Fail("no".to_owned()))))
    }

    /// A world whose every port answers well from `from` milliseconds on.
    fn passing_from(from: u64) -> Self {
        Self::new(move |at, _| match at >= from {
            true => (0, Ok(ProbeOutcome::Pass)),
            false => (0, Ok(ProbeOutcome::Fail("no".to_owned()))),
        })
    }

    /// Lets time pass until `until` milliseconds and answers what was reported meanwhile.
    async fn until(&mut self, until: u64) -> Vec<(u64, Report)> {
        let deadline = self.began + Duration::from_millis(until);
        let mut reports = Vec::new();
        while let Ok(Some(report)) = tokio::time::timeout_at(deadline, self.reports.recv()).await {
            let at = u64::try_from(self.began.elapsed().as_millis()).unwrap();
            reports.push((at, report));
        }
        reports
    }

    fn times(&self, port: u16) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        let of_port = asked.iter().filter(|(_, of)| *of == port);
        of_port.map(|(at, _)| *at).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_starting_component_is_asked_soon_then_less_often_then_once_a_period() {
    let mut world = World::passing_from(2000);
    world
        .handle
        .watch(id(0), watched(readiness(), Stage::Started, Found::Fresh));
    let reports = world.until(30_000).await;
    let times = [10, 30, 70, 150, 310, 630, 1270, 2270, 12_270, 22_270];
    assert_eq!(world.times(READINESS), times);
    let counted: Vec<_> = reports.iter().map(|(_, report)| report.counts).collect();
    assert_eq!(counted[..8], [Counts::Early; 8]);
    assert_eq!(counted[8..], [Counts::Counted; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_component_that_answers_after_50_ms_is_known_by_70() {
    let mut world = World::passing_from(50);
    world
        .handle
        .watch(id(0), watched(readiness(), Stage::Started, Found::Fresh));
    let reports = world.until(1000).await;
    let passed = reports
        .iter()
        .find(|(_, r)| r.outcome == ProbeOutcome::Pass);
    assert_eq!(passed.unwrap().0, 70);
}

#[tokio::test(start_paused = true)]
async fn thirty_startup_failures_count_from_its_regular_period_on() {
    let mut world = World::failing();
    world
        .handle
        .watch(id(0), watched(all_three(), Stage::Starting, Found::Fresh));
    let reports = world.until(40_000).await;
    let counted = reports.iter().filter(|(_, r)| r.counts == Counts::Counted);
    let counted: Vec<_> = counted.map(|(at, _)| *at).collect();
    assert_eq!(counted[0], 1270);
    assert_eq!(counted[29], 30_270);
    assert_eq!(world.times(READINESS), [0; 0]);
    assert_eq!(world.times(LIVENESS), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_long_startup_period_is_asked_early_and_counted_by_its_period() {
    let mut world = World::failing();
    let probes = Probes {
        startup: Some(probe(STARTUP, 10)),
        ..Probes::default()
    };
    world
        .handle
        .watch(id(0), watched(probes, Stage::Starting, Found::Fresh));
    let reports = world.until(60_000).await;
    let counted = reports.iter().filter(|(_, r)| r.counts == Counts::Counted);
    assert_eq!(counted.count(), 5);
    assert!(world.times(STARTUP).len() > 60);
}

#[tokio::test(start_paused = true)]
async fn the_startup_probe_gates_the_other_two() {
    let mut world = World::passing_from(0);
    let mut now = watched(all_three(), Stage::Starting, Found::Fresh);
    world.handle.watch(id(0), now.clone());
    let reports = world.until(100).await;
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].1.kind, ProbeKind::Startup);
    now.stage = Stage::Started;
    world.handle.watch(id(0), now.clone());
    let reports = world.until(200).await;
    assert_eq!(reports[0].1.kind, ProbeKind::Readiness);
    assert_eq!(world.times(READINESS), [110]);
    now.stage = Stage::Proven;
    world.handle.watch(id(0), now);
    world.until(25_000).await;
    assert_eq!(world.times(STARTUP), [10]);
    // It came along with liveness, a little sooner than due, and stays with it.
    assert_eq!(world.times(READINESS), [110, 10_100, 20_100]);
    assert_eq!(world.times(LIVENESS), [10_100, 20_100]);
}

#[tokio::test(start_paused = true)]
async fn after_a_daemon_restart_the_first_asks_are_spread_over_the_period() {
    let mut firsts = Vec::new();
    for _ in 0..2 {
        let mut world = World::passing_from(0);
        let now = watched(readiness(), Stage::Proven, Found::Adopted);
        let all: BTreeMap<_, _> = (0..500).map(|n| (id(n), now.clone())).collect();
        world.handle.set(all);
        let reports = world.until(9_999).await;
        let asked: BTreeSet<_> = reports.iter().map(|(_, r)| r.instance.clone()).collect();
        assert_eq!(asked.len(), 500);
        assert!(reports.iter().all(|(_, r)| r.counts == Counts::Counted));
        let times = world.times(READINESS);
        for tenth in 0..10 {
            let within = times.iter().filter(|at| **at / 1000 == tenth).count();
            assert!((20..=80).contains(&within), "{within} in second {tenth}");
        }
        // Five hundred asks in some forty wake-ups: that is what keeps them cheap.
        let moments: BTreeSet<_> = times.iter().collect();
        assert!(moments.len() <= 50, "{}", moments.len());
        firsts.push(times);
    }
    assert_eq!(firsts[0], firsts[1]);
}

#[tokio::test(start_paused = true)]
async fn at_most_sixteen_are_asked_at_once_and_the_healthy_have_their_turn() {
    // Ports above 100 hang until their timeout.
    let mut world = World::new(|_, port| match port > 100 {
        true => (
            2000,
            Ok(ProbeOutcome::Fail("no answer within 2s".to_owned())),
        ),
        false => (1, Ok(ProbeOutcome::Pass)),
    });
    for number in 0..100 {
        let port = u16::try_from(number).unwrap() * 2 + 1;
        let probes = Probes {
            readiness: Some(probe(port, 10)),
            ..Probes::default()
        };
        let now = watched(probes, Stage::Proven, Found::Adopted);
        world.handle.watch(id(number), now);
    }
    let reports = world.until(60_000).await;
    assert_eq!(world.under_way.1.load(Ordering::Relaxed), MAX_ASKS);
    for number in 0..100 {
        let of_it = reports
            .iter()
            .filter(|(_, r)| r.instance == id(number))
            .count();
        assert!(of_it >= 5, "{number} was asked {of_it} times");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_an_instance_that_is_no_longer_wanted_is_dropped() {
    let mut world = World::new(|_, _| (500, Ok(ProbeOutcome::Pass)));
    let now = watched(readiness(), Stage::Started, Found::Fresh);
    world
        .handle
        .set(BTreeMap::from([(id(0), now.clone()), (id(1), now.clone())]));
    world.until(100).await;
    world.handle.set(BTreeMap::from([(id(1), now)]));
    let reports = world.until(1000).await;
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].1.instance, id(1));
    world.handle.forget(id(1));
    assert_eq!(world.until(60_000).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_edited_check_is_asked_soon_and_the_old_answer_is_not_heard() {
    let mut world = World::new(|_, port| match port {
        READINESS => (500, Ok(ProbeOutcome::Pass)),
        _ => (0, Ok(ProbeOutcome::Fail("HTTP 404".to_owned()))),
    });
    let mut now = watched(readiness(), Stage::Proven, Found::Fresh);
    world.handle.watch(id(0), now.clone());
    world.until(100).await;
    now.probes.readiness = Some(probe(7, 10));
    world.handle.watch(id(0), now);
    let reports = world.until(25_000).await;
    assert_eq!(world.times(7), [110, 10_110, 20_110]);
    assert_eq!(reports.len(), 3);
    for (_, report) in reports {
        assert_eq!(report.outcome, ProbeOutcome::Fail("HTTP 404".to_owned()));
        assert_eq!(report.counts, Counts::Counted);
    }
}

#[tokio::test(start_paused = true)]
async fn an_edited_period_holds_from_now_on() {
    let mut world = World::passing_from(0);
    let mut now = watched(readiness(), Stage::Proven, Found::Fresh);
    world.handle.watch(id(0), now.clone());
    world.until(1000).await;
    now.probes.readiness = Some(probe(READINESS, 2));
    world.handle.watch(id(0), now.clone());
    world.until(5500).await;
    now.probes.readiness = Some(probe(READINESS, 20));
    world.handle.watch(id(0), now);
    world.until(30_000).await;
    assert_eq!(world.times(READINESS), [10, 3000, 5000, 7000, 27_000]);
}

#[tokio::test(start_paused = true)]
async fn handing_in_the_same_again_changes_nothing() {
    let mut world = World::passing_from(0);
    let now = watched(readiness(), Stage::Proven, Found::Fresh);
    for step in 1..30 {
        world.handle.watch(id(0), now.clone());
        world.handle.set(BTreeMap::from([(id(0), now.clone())]));
        world.until(step * 900).await;
    }
    assert_eq!(world.times(READINESS), [10, 10_010, 20_010]);
}

#[tokio::test(start_paused = true)]
async fn trouble_of_our_own_is_not_reported_and_the_probe_is_asked_again() {
    let mut world = World::new(|at, _| match at {
        0..5000 => (
            0,
            Err(AskError::Exhausted {
                why: "EMFILE".to_owned(),
            }),
        ),
        5000..15_000 => panic!("a bug"),
        15_000.. => (0, Ok(ProbeOutcome::Pass)),
    });
    world
        .handle
        .watch(id(0), watched(readiness(), Stage::Proven, Found::Fresh));
    let reports = world.until(25_000).await;
    assert_eq!(world.times(READINESS), [10, 10_010, 20_010]);
    assert_eq!(reports.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn reports_that_nobody_reads_hold_asks_up_and_nothing_else() {
    let mut world = World::passing_from(0);
    let now = watched(readiness(), Stage::Proven, Found::Fresh);
    let all: BTreeMap<_, _> = (0..200).map(|n| (id(n), now.clone())).collect();
    world.handle.set(all);
    sleep(Duration::from_secs(60)).await;
    assert!(world.times(READINESS).len() < 100);
    // Read at last, every one is asked.
    let reports = world.until(61_000).await;
    let heard: BTreeSet<_> = reports.into_iter().map(|(_, r)| r.instance).collect();
    assert_eq!(heard.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_prober_ends_with_its_last_handle() {
    let (sender, _reports) = mpsc::channel(8);
    let (prober, handle) = Prober::new(sender);
    let task = tokio::spawn(prober.run());
    drop(handle);
    task.await.unwrap();
}
