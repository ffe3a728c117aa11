//! What only a whole host shows: control groups of version 2, systemd, the oom killer, reboots, and
//! the power going away. The host is emulated; its own disk is kept in the target folder.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

mod host;

use host::{Stage, Turn};

#[test]
fn limits_hold_for_root_and_for_users_where_groups_are_of_version_2() {
    let Some(_turn) = Turn::take("limits") else {
        return;
    };
    let stage = Stage::new(&[
        ("limits", include_str!("limits.sh")),
        ("limits.yaml", include_str!("limits.yaml")),
    ]);
    stage.boot("limits", &[]).finish();
}

/// The unit of the help topic, with this test's binary and folder.
fn unit() -> String {
    let topic = include_str!("../../src/cli/topics/systemd.md");
    let (_, unit) = topic.split_once("```ini\n").unwrap();
    let (unit, _) = unit.split_once("```").unwrap();
    assert!(unit.contains("ExecStart="), "{unit}");
    unit.replace("/usr/local/bin/flowctl", "/stage/flowctl")
        .replace("/var/lib/flowctl", "/stage/state")
        .replace(
            "[Service]",
            "[Service]\nEnvironment=FLOWCTL_CONTROL_PLANE_PORT=0",
        )
}

#[test]
fn a_service_that_restarts_or_a_host_that_does_costs_no_more_than_it_must() {
    let Some(_turn) = Turn::take("a service") else {
        return;
    };
    let stage = Stage::new(&[
        ("service", include_str!("service.sh")),
        ("service.yaml", include_str!("service.yaml")),
        ("reboot", include_str!("reboot.sh")),
        ("flowctl.service", &unit()),
    ]);
    stage.boot("service", &[]).finish();
    let years_ago = ["-rtc", "base=2020-01-01T00:00:00"].map(str::to_owned);
    stage.boot("reboot", &years_ago).finish();
}

/// So often does the power go.
const CUTS: usize = 20;
/// A count that was shown is on the disk after this.
const FLUSHED: Duration = Duration::from_secs(3);

/// What a host had acknowledged when its power went.
#[derive(Debug, Default)]
struct Acknowledged {
    generation: u64,
    restarts: u64,
    /// Whether a component was started or stopped; `None` = that was being changed.
    stopped: BTreeMap<String, Option<bool>>,
}

impl Acknowledged {
    fn of(seen: &[(Instant, String)]) -> Self {
        let mut all = Self::default();
        let shown_until = Instant::now() - FLUSHED;
        for (at, line) in seen {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["TRY", _, id] => {
                    all.stopped.insert(id.to_owned(), None);
                }
                ["ACK", verb, id] => {
                    all.stopped.insert(id.to_owned(), Some(verb == "stop"));
                }
                // A line may have been cut with the power.
                ["GENERATION", number] => all.generation = number.parse().unwrap_or(all.generation),
                ["RESTARTS", number] if *at < shown_until => {
                    all.restarts = number.parse().unwrap_or(all.restarts);
                }
                _ => {}
            }
        }
        all
    }

    /// What of it does not stand any more.
    fn broken(&self, status: &serde_json::Value) -> Vec<String> {
        let mut broken = Vec::new();
        let pipeline = &status["pipelines"][0];
        let generation = pipeline["generation"].as_u64().unwrap_or_default();
        if generation < self.generation {
            broken.push(format!("generation {generation}"));
        }
        for component in pipeline["components"].as_array().into_iter().flatten() {
            let id = component["id"].as_str().unwrap_or_default();
            let replica = &component["replicas"][0];
            let is_stopped = replica["phase"] == "stopped";
            if let Some(Some(stopped)) = self.stopped.get(id)
                && is_stopped != *stopped
            {
                broken.push(format!("{id} is {}", replica["phase"]));
            }
            let restarts = replica["restarts"].as_u64().unwrap_or_default();
            if id == "failing" && restarts < self.restarts {
                broken.push(format!("{restarts} restarts"));
            }
        }
        broken
    }
}

#[test]
fn what_was_acknowledged_stands_whenever_the_power_goes() {
    let Some(_turn) = Turn::take("power cuts") else {
        return;
    };
    let stage = Stage::new(&[
        ("churn", include_str!("churn.sh")),
        ("churn.yaml", include_str!("churn.yaml")),
        ("images", include_str!("images.sh")),
    ]);
    stage.make_empty_disk("state.img");
    let mut host = stage.boot("churn", &stage.drive("state.img"));
    host.until("UP");
    let mut acknowledged = Vec::new();
    let mut drives = Vec::new();
    for number in 0..CUTS {
        let name = format!("cut-{number}.img");
        // Something was commanded since the last one, however slow the host is.
        host.until("ACK");
        host.read_for(Duration::from_millis(moment() % 1_000));
        let (from, to) = (stage.path("state.img"), stage.path(&name));
        if number + 1 < CUTS {
            // A disk as it would be now; the host does not notice.
            host.copy(&from, &to);
        } else {
            host.cut();
            std::fs::rename(from, to).unwrap();
        }
        acknowledged.push(Acknowledged::of(&host.seen));
        drives.extend(stage.drive(&name));
    }
    let last = acknowledged.last().unwrap();
    assert!(
        last.generation >= 5,
        "there was churn: {last:?}\n{}",
        host.console()
    );
    let mut looking = stage.boot("images", &drives);
    looking.until("END");
    let console = looking.console();
    let images: Vec<&str> = console
        .lines()
        .filter_map(|line| line.strip_prefix("IMAGE "))
        .collect();
    assert_eq!(images.len(), CUTS, "{console}");
    for (number, (image, expected)) in images.iter().zip(&acknowledged).enumerate() {
        let status: serde_json::Value = serde_json::from_str(image).unwrap();
        let broken = expected.broken(&status);
        assert!(
            broken.is_empty(),
            "cut {number}: {broken:?}; {expected:?}\n{image}"
        );
    }
    looking.finish_checked();
}

/// A number that nobody can foresee.
fn moment() -> u64 {
    use std::hash::BuildHasher as _;
    std::hash::RandomState::new().hash_one(())
}
