//! What replicas use of their host, measured while somebody asks.
//!
//! **Expected flow.** Whoever shows usage to a person hands in the latest snapshot and gets it back
//! with what its replicas use ([`Meters::added_to`]). A scraper gets what was measured last
//! ([`Meters::sampled`]), and from then on it is measured every [`PERIOD`] until nobody has scraped
//! for a while. Nobody asks: nothing is measured, and nothing wakes.
//!
//! **Guarantees.** However many ask, one measurement is under way at a time and answers all of them
//! while it is fresh. A scraper waits for its first measurement only: neither many replicas nor a
//! driver that hangs delays the next ones. A driver that does not answer in time leaves its replicas
//! without figures. What is remembered is bounded by what runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::driver::usage::{Meter, Metered, Reading};
use crate::model::{DriverKind, InstanceId, Snapshot, Timestamp, Usage};

/// A measurement answers for so long.
const FRESH: Duration = Duration::from_secs(1);
/// How much later a second one tells how busy something is, where there was none before: processor
/// time is counted in hundredths of a second.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// An earlier one that is older tells how busy something was, not how busy it is.
const RECENT: Duration = Duration::from_secs(60);
/// A driver is waited for so long.
const PATIENCE: Duration = Duration::from_secs(4);

/// How often it is measured while somebody scrapes.
pub const PERIOD: Duration = Duration::from_secs(10);
/// For how long after the last scrape.
const SCRAPED: Duration = Duration::from_secs(60);
/// A sample that is older answers no scraper: measuring has been held up.
const STALE: Duration = Duration::from_secs(30);

/// What instances use.
pub type Usages = HashMap<InstanceId, Usage>;

/// Measures what replicas use.
pub struct Meters {
    meters: BTreeMap<DriverKind, Arc<dyn Meter>>,
    clock: Clock,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    measured: Mutex<Measured>,
    scraped: std::sync::Mutex<Scraped>,
}

/// What there is for scrapers.
#[derive(Default)]
struct Scraped {
    /// When the last of them asked; `None` = nothing is measured for them.
    asked: Option<Instant>,
    /// The latest sample, and when it was taken.
    latest: Option<(Instant, Arc<Usages>)>,
}

/// What was measured last.
#[derive(Default)]
struct Measured {
    /// When.
    at: Option<Instant>,
    /// By instance.
    all: HashMap<InstanceId, Known>,
}

/// What is known of one instance.
#[derive(Clone, Copy, Debug)]
struct Known {
    reading: Reading,
    at: Instant,
    sampled_at: Timestamp,
    cores: Option<f64>,
}

impl Known {
    /// What is known after `reading` at `at`, where `before` was known.
    fn after(before: Option<&Self>, reading: Reading, at: Instant, sampled_at: Timestamp) -> Self {
        let cores = before.and_then(|before| {
            let between = at.saturating_duration_since(before.at);
            let (earlier, later) = (before.reading.cpu_seconds?, reading.cpu_seconds?);
            let is_telling = (SECOND_LOOK / 2..=RECENT).contains(&between);
            is_telling.then(|| (later - earlier).max(0.0) / between.as_secs_f64())
        });
        Self {
            reading,
            at,
            sampled_at,
            cores,
        }
    }

    fn usage(&self) -> Usage {
        let Reading {
            cpu_seconds,
            memory_bytes,
            memory_limit_bytes,
            processes,
            open_files,
        } = self.reading;
        Usage {
            cpu_seconds,
            cpu_cores: self.cores,
            memory_bytes,
            memory_limit_bytes,
            processes,
            open_files,
            sampled_at: self.sampled_at,
        }
    }
}

impl Meters {
    /// Measures by these. Samples for scrapers are of the replicas in the latest of `snapshots`.
    pub fn new(
        meters: BTreeMap<DriverKind, Arc<dyn Meter>>,
        clock: Clock,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        Self {
            meters,
            clock,
            snapshots,
            measured: Mutex::default(),
            scraped: std::sync::Mutex::default(),
        }
    }

    /// `snapshot` with what its replicas use. Where no earlier measurement tells how busy they are,
    /// that takes a second look.
    pub async fn added_to(&self, snapshot: &Snapshot) -> Arc<Snapshot> {
        let mut measured = self.measured.lock().await;
        let last = measured.at.map(|at| at.elapsed());
        if last.is_none_or(|age| age >= FRESH) {
            self.measure(snapshot, &mut measured).await;
            if last.is_none_or(|age| age > RECENT) {
                tokio::time::sleep(SECOND_LOOK).await;
                self.measure(snapshot, &mut measured).await;
            }
        }
        Arc::new(with(snapshot, &measured.all))
    }

    /// What instances used at the last sample. The first call takes it; later ones find what has been
    /// sampled meanwhile, every [`PERIOD`].
    pub async fn sampled(self: &Arc<Self>) -> Arc<Usages> {
        let known = {
            let mut scraped = self.scraped();
            if scraped.asked.replace(Instant::now()).is_none() {
                tokio::spawn(keep_sampling(Arc::downgrade(self)));
            }
            scraped.latest.clone()
        };
        match known.filter(|(at, _)| at.elapsed() < STALE) {
            Some((_, usages)) => usages,
            None => self.sample().await,
        }
    }

    fn scraped(&self) -> MutexGuard<'_, Scraped> {
        self.scraped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a sample, unless somebody just did.
    async fn sample(&self) -> Arc<Usages> {
        let mut measured = self.measured.lock().await;
        if measured.at.is_none_or(|at| at.elapsed() >= FRESH) {
            let snapshot = self.snapshots.borrow().clone();
            self.measure(&snapshot, &mut measured).await;
        }
        let usages = measured.all.iter();
        let usages = usages.map(|(instance, known)| (instance.clone(), known.usage()));
        let usages: Arc<Usages> = Arc::new(usages.collect());
        self.scraped().latest = Some((Instant::now(), Arc::clone(&usages)));
        usages
    }

    async fn measure(&self, snapshot: &Snapshot, measured: &mut Measured) {
        let mut wanted: BTreeMap<DriverKind, Vec<Metered>> = BTreeMap::new();
        let components = snapshot.pipelines.iter().flat_map(|one| &one.components);
        for component in components {
            let living = component.replicas.iter().filter(|one| one.phase.lives());
            let metered = living.filter_map(|one| {
                Some(Metered {
                    instance: one.instance.clone()?,
                    container: one.container.clone(),
                })
            });
            wanted.entry(component.driver).or_default().extend(metered);
        }
        let asking = wanted.into_iter().filter_map(|(driver, instances)| {
            let meter = Arc::clone(self.meters.get(&driver)?);
            let patient = !instances.is_empty();
            patient.then_some(async move {
                let asked = tokio::time::timeout(PATIENCE, meter.measure(instances)).await;
                let readings = asked.unwrap_or_default();
                (readings, Instant::now())
            })
        });
        let answers = futures_util::future::join_all(asking).await;
        let sampled_at = self.clock.now();
        let before = std::mem::take(&mut measured.all);
        for (readings, at) in answers {
            for (instance, reading) in readings {
                let known = Known::after(before.get(&instance), reading, at, sampled_at);
                measured.all.insert(instance, known);
            }
        }
        measured.at = Some(Instant::now());
    }
}

/// Samples until nobody has scraped for a while, or there is nothing left to measure by.
async fn keep_sampling(meters: Weak<Meters>) {
    loop {
        {
            let Some(meters) = meters.upgrade() else {
                return;
            };
            meters.sample().await;
            let mut scraped = meters.scraped();
            if scraped.asked.is_none_or(|at| at.elapsed() > SCRAPED) {
                *scraped = Scraped::default();
                return;
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn with(snapshot: &Snapshot, known: &HashMap<InstanceId, Known>) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for pipeline in &mut snapshot.pipelines {
        let replicas = Arc::make_mut(pipeline).components.iter_mut();
        for replica in replicas.flat_map(|component| &mut component.replicas) {
            let living = replica.instance.as_ref().filter(|_| replica.phase.lives());
            replica.usage = living
                .and_then(|instance| known.get(instance))
                .map(Known::usage);
        }
    }
    snapshot
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Says that everything is half a core busy, and counts how often it is asked.
    struct HalfBusy {
        began: Instant,
        asked: AtomicU32,
    }

    #[async_trait]
    impl Meter for HalfBusy {
        async fn measure(&self, instances: Vec<Metered>) -> BTreeMap<InstanceId, Reading> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let reading = Reading {
                cpu_seconds: Some(self.began.elapsed().as_secs_f64() / 2.0),
                ..Reading::default()
            };
            instances
                .into_iter()
                .map(|one| (one.instance, reading))
                .collect()
        }
    }

    fn snapshot() -> Snapshot {
        serde_json::from_value(serde_json::json!({
            "schema": "flowctl.status/v1", "daemon": null,
            "pipelines": [{
                "namespace": "default", "name": "ttp", "watched": true, "generation": 1,
                "observed_generation": 1, "settled": true, "deleting": false, "problem": null,
                "components": [{ "id": "a", "role": "sink", "driver": "process", "desired": 1,
                    "replicas": [{
                        "replica": 0, "instance": "default.ttp.a.0.1", "phase": "running",
                        "ready": true, "since": "2026-11-21T02:00:00Z", "why": "", "next": null,
                        "restarts": 0, "pid": 7, "container": null, "exit": null, "spec": null,
                        "addresses": {}, "registration": null, "hold": null
                    }] }],
            }],
        }))
        .unwrap()
    }

    fn cores(snapshot: &Snapshot) -> Option<f64> {
        let replica = &snapshot.pipelines[0].components[0].replicas[0];
        replica.usage.expect("it was measured").cpu_cores
    }

    fn meters(meter: &Arc<HalfBusy>) -> Arc<Meters> {
        let meters = BTreeMap::from([(DriverKind::Process, meter.clone() as Arc<dyn Meter>)]);
        let (_, snapshots) = watch::channel(Arc::new(snapshot()));
        Arc::new(Meters::new(meters, Clock::new(), snapshots))
    }

    #[tokio::test(start_paused = true)]
    async fn scrapers_are_answered_from_a_sample_that_is_taken_while_they_scrape() {
        let meter = Arc::new(HalfBusy {
            began: Instant::now(),
            asked: AtomicU32::new(0),
        });
        let meters = meters(&meter);
        let asked = || meter.asked.load(Ordering::Relaxed);
        for scrape in 0..8 {
            let usages = meters.sampled().await;
            assert_eq!(usages.len(), 1, "scrape {scrape}");
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        // Two minutes of scrapes each quarter of a minute.
        assert!((12..=13).contains(&asked()), "{}", asked());
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!(asked() <= 19, "measured for nobody: {}", asked());
        let before = asked();
        assert_eq!(meters.sampled().await.len(), 1);
        assert_eq!(asked(), before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_to_know_how_busy_it_is_waits_for_a_second_look_once() {
        let meter = Arc::new(HalfBusy {
            began: Instant::now(),
            asked: AtomicU32::new(0),
        });
        let meters = meters(&meter);
        let asked = || meter.asked.load(Ordering::Relaxed);

        let scraped = meters.sampled().await;
        let scraped: Vec<_> = scraped.values().map(|usage| usage.cpu_cores).collect();
        assert_eq!((scraped.as_slice(), asked()), ([None].as_slice(), 1));
        // One that is fresh answers everybody.
        meters.added_to(&snapshot()).await;
        assert_eq!(asked(), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let seen = meters.added_to(&snapshot()).await;
        assert!((cores(&seen).unwrap() - 0.5).abs() < 0.01);
        assert_eq!(asked(), 2);
        // A day later the last one tells nothing any more.
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        let before = asked();
        let seen = meters.added_to(&snapshot()).await;
        assert!((cores(&seen).unwrap() - 0.5).abs() < 0.01);
        assert_eq!(asked(), before + 2);
    }
}
