//! What it costs, printed. Run alone, with optimisation:
//! `cargo test --release --lib driver::process::measure -- --ignored --nocapture --test-threads=1`

use std::time::{Duration, Instant};

use rustix::process::Signal;

use futures_util::future::join_all;

use super::tests::ProcessStage;
use super::*;
use crate::driver::conformance::{Stage as _, launch, pipeline, spec};
use crate::driver::{Follow, Runs};
use crate::model::{Life, LogLimits};

const MANY: usize = 500;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn spread(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (low, middle, high) = (at(0.0), at(0.5), at(0.99));
    println!("{what}: min {low:?}, p50 {middle:?}, p99 {high:?}");
}

fn sleeper(number: usize) -> Launch {
    launch(spec(&format!("c{number}"), "/bin/sleep", &["1000"]), 1)
}

async fn start_all(driver: &ProcessDriver, count: usize) -> Vec<Launch> {
    let launches: Vec<Launch> = (0..count).map(sleeper).collect();
    let begun = Instant::now();
    for started in join_all(launches.iter().map(|launch| driver.start(launch))).await {
        started.unwrap();
    }
    println!("{count} starts at once: {:?}", begun.elapsed());
    launches
}

async fn stop_all(driver: &ProcessDriver, launches: &[Launch]) {
    let begun = Instant::now();
    let stops = launches
        .iter()
        .map(|launch| driver.stop(&launch.instance, &launch.spec.stop));
    for stopped in join_all(stops).await {
        stopped.unwrap();
    }
    println!("{} stops at once: {:?}", launches.len(), begun.elapsed());
    for forgotten in join_all(launches.iter().map(|it| driver.forget(&it.instance))).await {
        forgotten.unwrap();
    }
}

fn shim_memory(driver: &ProcessDriver) {
    let mut sums = [0u64; 3];
    let mut count = 0;
    for entry in std::fs::read_dir(&driver.site.config.instances_dir).unwrap() {
        let state = record::State::read(&entry.unwrap().path())
            .unwrap()
            .unwrap();
        let pid = state.shim.unwrap().pid;
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let value = |name: &str| -> u64 {
            text.lines()
                .filter_map(|line| line.strip_prefix(name))
                .filter_map(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
                .sum()
        };
        sums[0] += value("Private_Dirty:") + value("Private_Clean:");
        sums[1] += value("Pss:");
        sums[2] += value("Rss:");
        count += 1;
    }
    let [private, pss, rss] = sums.map(|sum| sum / count);
    println!("memory of each of {count} shims: private {private} kB, PSS {pss} kB, RSS {rss} kB");
}

#[test]
#[ignore = "measures"]
fn starts_memory_and_adoption() {
    runtime().block_on(async {
        let mut stage = ProcessStage::new();
        let mut times = Vec::new();
        for number in 0..200 {
            let launch = sleeper(number);
            let begun = Instant::now();
            stage.driver.start(&launch).await.unwrap();
            times.push(begun.elapsed());
            stage
                .driver
                .stop(&launch.instance, &launch.spec.stop)
                .await
                .unwrap();
            stage.driver.forget(&launch.instance).await.unwrap();
        }
        spread("one start", times);

        for _ in 0..3 {
            let launches = start_all(&stage.driver, 100).await;
            stop_all(&stage.driver, &launches).await;
            let launches = start_all(&stage.driver, MANY).await;
            stop_all(&stage.driver, &launches).await;
        }
        let launches = start_all(&stage.driver, MANY).await;
        shim_memory(&stage.driver);
        let mut times = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let seen = stage.driver.observe(&Scope::All).await.unwrap().sightings;
            times.push(begun.elapsed());
            assert_eq!(seen.len(), MANY);
        }
        spread("a look at 500 idle", times);
        for _ in 0..3 {
            stage.restart().await;
            let begun = Instant::now();
            let seen = stage.driver.observe(&Scope::All).await.unwrap().sightings;
            println!("500 adopted: {:?}", begun.elapsed());
            assert_eq!(seen.len(), MANY);
        }
        shim_memory(&stage.driver);
        stop_all(&stage.driver, &launches).await;
    });
}

#[test]
#[ignore = "measures"]
fn crash_to_restart() {
    runtime().block_on(async {
        let stage = ProcessStage::new();
        let hints = stage.driver.hints();
        let mut times = Vec::new();
        let mut launch = launch(spec("crashes", "/bin/sleep", &["1000"]), 1);
        let mut started = stage.driver.start(&launch).await.unwrap();
        for incarnation in 2..300 {
            let child = started.facts.pid().expect("a process");
            tokio::time::sleep(Duration::from_millis(2)).await;
            let pid = rustix::process::Pid::from_raw(child as i32).unwrap();
            let begun = Instant::now();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
            while !hints.taken().await.contains(&launch.instance) {}
            let scope = Scope::Instances([launch.instance.clone()].into());
            let seen = stage.driver.observe(&scope).await.unwrap().sightings;
            assert!(matches!(seen[0].life, Life::Exited(_)), "{seen:?}");
            let old = launch.instance.clone();
            launch.instance.incarnation = incarnation;
            started = stage.driver.start(&launch).await.unwrap();
            times.push(begun.elapsed());
            stage.driver.forget(&old).await.unwrap();
        }
        stage
            .driver
            .stop(&launch.instance, &launch.spec.stop)
            .await
            .unwrap();
        spread("killed to running again", times);
    });
}

#[test]
#[ignore = "measures"]
fn log_throughput() {
    runtime().block_on(async {
        let stage = ProcessStage::new();
        for length in [20, 100, 1_000] {
            let data = stage.root.path().join("data");
            let line = format!("{}\n", "x".repeat(length - 1));
            std::fs::write(&data, line.repeat((256 << 20) / length)).unwrap();
            let size = std::fs::metadata(&data).unwrap().len() * 4;
            let path = data.to_str().unwrap();
            let mut spec = spec(&format!("writer{length}"), "/bin/cat", &[path; 4]);
            spec.logs = LogLimits {
                max_size_bytes: 64 << 20,
                max_files: 5,
            };
            let launch = launch(spec, 1);
            let hints = stage.driver.hints();
            let begun = Instant::now();
            stage.driver.start(&launch).await.unwrap();
            while !hints.taken().await.contains(&launch.instance) {}
            let took = begun.elapsed();
            let rate = size as f64 / took.as_secs_f64() / 1e6;
            println!("lines of {length} bytes: {rate:.0} MB/s");
            stage.driver.forget(&launch.instance).await.unwrap();
        }
    });
}

#[test]
#[ignore = "measures"]
fn tail_of_a_gigabyte() {
    runtime().block_on(async {
        let stage = ProcessStage::new();
        let data = stage.root.path().join("data");
        let line = format!("{}\n", "x".repeat(99));
        std::fs::write(&data, line.repeat((256 << 20) / 100)).unwrap();
        let path = data.to_str().unwrap();
        let mut spec = spec("writer", "/bin/cat", &[path; 3]);
        spec.logs = LogLimits {
            max_size_bytes: 2 << 30,
            max_files: 5,
        };
        let launch = launch(spec, 1);
        let hints = stage.driver.hints();
        stage.driver.start(&launch).await.unwrap();
        while !hints.taken().await.contains(&launch.instance) {}
        let mut times = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let mut lines = stage
                .driver
                .logs(&LogQuery {
                    pipeline: pipeline(),
                    components: [].into(),
                    without: BTreeSet::new(),
                    since: None,
                    until: None,
                    tail: Some(100),
                    filter: None,
                    runs: Runs::All,
                    follow: Follow::No,
                })
                .await
                .unwrap();
            let mut count = 0;
            while lines.recv().await.transpose().unwrap().is_some() {
                count += 1;
            }
            times.push(begun.elapsed());
            assert_eq!(count, 100);
        }
        spread("the last 100 lines of over 1 GB", times);
    });
}
