//! The daemon is killed again and again while its containers change.
//!
//! `FLOWCTL_CONTAINER_KILL_ROUNDS` says how often, 6 without it. Every moment follows from the
//! number of the round, so that a run can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::engine::{Engine, resting, unique, world_with_engine};
use crate::support::{World, pipeline};

/// Distance of the rounds after which all is waited for and looked at.
const LOOK: u32 = 20;

/// The components of the churn.
struct Churn {
    /// Never edited.
    rests: String,
    /// One of them is edited in each round.
    edited: [String; 3],
    /// Comes and goes.
    comes: String,
    /// Has one to three replicas.
    scales: String,
}

impl Churn {
    fn new() -> Self {
        Self {
            rests: unique("rests"),
            edited: ["a", "b", "c"].map(unique),
            comes: unique("comes"),
            scales: unique("scales"),
        }
    }

    fn file(&self, round: u32) -> String {
        let mut components = resting(&self.rests, "");
        for (id, number) in self.edited.iter().zip(0..) {
            let edition = edition(number, round);
            components += &resting(id, &format!(", env: {{ ROUND: \"{edition}\" }}"));
        }
        if comes(round) {
            components += &resting(&self.comes, "");
        }
        components += &resting(&self.scales, &format!(", replicas: {}", replicas(round)));
        pipeline(&components)
    }

    /// Every replica that a round asks for, with the edition that it is of.
    fn wanted(&self, round: u32) -> BTreeMap<(String, String), Option<u32>> {
        let one = |id: &String, replica: u32, edition| ((id.clone(), replica.to_string()), edition);
        let edited = self.edited.iter().zip(0..);
        let edited = edited.map(|(id, number)| one(id, 0, Some(edition(number, round))));
        let scaled = (0..replicas(round)).map(|replica| one(&self.scales, replica, None));
        let comes = comes(round).then(|| one(&self.comes, 0, None));
        let rests = [one(&self.rests, 0, None)];
        edited.chain(scaled).chain(comes).chain(rests).collect()
    }
}

/// The latest round up to `round` that edited the component with this number.
fn edition(number: u32, round: u32) -> u32 {
    round.saturating_sub((round + 3 - number) % 3)
}

fn comes(round: u32) -> bool {
    round % 4 < 2
}

fn replicas(round: u32) -> u32 {
    1 + round % 3
}

/// Component and replica of every container of `world`, and whether it runs.
fn replicas_of(engine: &Engine, world: &World) -> Vec<((String, String), bool, String)> {
    let read = |container: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let label = |name: &str| text(&container["Labels"][format!("dev.flowctl.{name}")]);
        let replica = (label("component"), label("replica"));
        (
            replica,
            container["State"] == "running",
            text(&container["Id"]),
        )
    };
    engine.list(world).iter().map(read).collect()
}

/// Whether exactly what the round asks for runs, as it asks.
fn is_as_wanted(engine: &Engine, world: &World, churn: &Churn, round: u32) -> bool {
    let wanted = churn.wanted(round);
    let found = replicas_of(engine, world);
    let as_wanted = |(replica, runs, id): &((String, String), bool, String)| {
        let (Some(edition), Some(inspected)) = (wanted.get(replica), engine.inspect(id)) else {
            return false;
        };
        let variables = inspected["Config"]["Env"].as_array().unwrap();
        let is_said = |edition: u32| variables.contains(&format!("ROUND={edition}").into());
        *runs && edition.is_none_or(is_said)
    };
    found.len() == wanted.len() && found.iter().all(as_wanted)
}

/// Starts a daemon and kills it again after a while, in the midst of taking over.
fn kill_while_it_begins(world: &World, after: Duration) {
    let mut command = world.command(&["daemon"]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Says that something is over, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks for two live containers of one replica until it is told to end; answers what it found.
fn look_for_twins(engine: &Engine, world: &World, end: &AtomicBool) -> BTreeSet<(String, String)> {
    let mut twins = BTreeSet::new();
    while !end.load(Ordering::Relaxed) {
        let mut seen = BTreeSet::new();
        for (replica, runs, _) in replicas_of(engine, world) {
            if runs && !seen.insert(replica.clone()) {
                twins.insert(replica);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    twins
}

#[test]
fn no_round_of_kills_doubles_orphans_or_touches_a_container() {
    let (world, engine) = world_with_engine!("no_round_of_kills_…");
    let rounds: u32 =
        std::env::var("FLOWCTL_CONTAINER_KILL_ROUNDS").map_or(6, |text| text.parse().unwrap());
    let churn = Churn::new();
    world.save("p.yaml", &churn.file(0));
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let rests = world.status().replica(&churn.rests)["container"].clone();
    let begun = Instant::now();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| look_for_twins(&engine, &world, &end));
        let ends = Ends(&end);
        for round in 1..=rounds {
            world.save("p.yaml", &churn.file(round));
            std::thread::sleep(Duration::from_millis(u64::from(round * 37 % 400)));
            world.kill_daemon();
            for again in 0..round % 3 {
                let after = u64::from((round + again) * 53 % 200);
                kill_while_it_begins(&world, Duration::from_millis(after));
            }
            world.start_daemon();
            if round % LOOK != 0 && round != rounds {
                continue;
            }
            let settled = world.until("all is as the file says", |status| {
                status.settled() && is_as_wanted(&engine, &world, &churn, round)
            });
            assert_eq!(settled.replica(&churn.rests)["container"], rests);
            for ((component, _), _) in churn.wanted(round) {
                for replica in settled.replicas(&component) {
                    assert_eq!(replica["restarts"], 0, "{component}: no crash");
                }
            }
            eprintln!("round {round} of {rounds}, after {:.1?}", begun.elapsed());
        }
        drop(ends);
        let twins = looks.join().unwrap();
        assert!(twins.is_empty(), "ran twice: {twins:?}");
    });
    assert_eq!(world.marked(), Vec::<u32>::new());
}
