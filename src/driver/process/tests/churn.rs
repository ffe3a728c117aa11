//! The process that hosts the driver is killed at any moment, again and again.

use super::*;

const ROOT: &str = "FLOWCTL_TEST_ROOT";
const ROUNDS: u64 = 100;

/// A process that starts instances until it is killed: a run of this one test.
#[test]
#[ignore = "is the victim of the other test"]
fn host() {
    let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let driver = driver_in(&root);
        let round: u64 = std::fs::read_to_string(root.join("round"))
            .unwrap()
            .parse()
            .unwrap();
        let mut number = 0;
        loop {
            let starts = (0..4).map(|_| {
                number += 1;
                let id = format!("c{number}");
                (id, round * 10_000 + number)
            });
            let launches: Vec<Launch> = starts
                .map(|(id, incarnation)| launch(spec(&id, "sleep", &["1000"]), incarnation))
                .collect();
            let starts = launches.iter().map(|launch| driver.start(launch));
            futures_util::future::join_all(starts).await;
            // Some end again, so that stops and removals are interrupted as well.
            let victim = &launches[0];
            driver.stop(&victim.instance, &victim.spec.stop).await.ok();
            driver.forget(&victim.instance).await.ok();
        }
    });
}

/// Pids of all processes with the mark of an instance under `root`, by the file of its instance.
fn marked_under(root: &Path) -> std::collections::BTreeMap<String, usize> {
    let prefix = format!(
        "{}={}/",
        environment::MARK_FILE,
        root.join("instances").display()
    );
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        for variable in environment.split(|byte| *byte == 0) {
            if let Some(name) = variable.strip_prefix(prefix.as_bytes()) {
                let name = String::from_utf8(name.to_vec()).unwrap();
                *found.entry(name).or_default() += 1;
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_host_a_hundred_times_leaves_no_orphan_and_no_double() {
    let stage = ProcessStage::new();
    let root = stage.root.path();
    for round in 0..ROUNDS {
        std::fs::write(root.join("round"), round.to_string()).unwrap();
        let mut host = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "driver::process::tests::churn::host"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(ROOT, root)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // From the first instance on, at a moment that differs in each round.
        let instances = root.join("instances");
        wait_for("the host starts something", || {
            std::fs::read_dir(&instances).unwrap().next().is_some()
        })
        .await;
        tokio::time::sleep(Duration::from_micros(round * 7_919 % 30_000)).await;
        host.kill().unwrap();
        host.wait().unwrap();

        // A shim that waits for the word of the dead ends; then all that is seen is all there is.
        let mut settled = None;
        for _ in 0..2_000 {
            let seen = stage.driver.observe(&Scope::All).await.unwrap().sightings;
            let running: Vec<String> = seen
                .iter()
                .filter(|seen| matches!(seen.life, Life::Running { .. }))
                .map(|seen| seen.instance.to_string())
                .collect();
            let marked = marked_under(root);
            let created = seen.iter().any(|seen| seen.life == Life::Created);
            assert!(
                marked.values().all(|count| *count == 1),
                "{round}: {marked:?}"
            );
            let owned = marked.keys().all(|name| running.contains(name));
            if !created && owned && marked.len() == running.len() {
                settled = Some(seen);
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen = settled.unwrap_or_else(|| panic!("round {round} never settles"));
        for sighting in seen {
            let lost = matches!(sighting.life, Life::Lost { .. });
            assert!(!lost, "{round}: no shim died: {sighting:?}");
            let how = StopPolicy {
                grace_period: crate::model::HumanDuration::from_secs(5),
                ..sighting.stop
            };
            stage.driver.stop(&sighting.instance, &how).await.unwrap();
            stage.driver.forget(&sighting.instance).await.unwrap();
        }
        assert!(marked_under(root).is_empty(), "round {round}");
    }
}
