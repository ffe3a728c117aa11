//! Fifty components under random faults, and what has to hold whatever happens.
//!
//! `FLOWCTL_SOAK=10m` says how long (20 s by default) and `FLOWCTL_SOAK_SEED=N` replays a run: the
//! seed is printed, and decides about every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flowctl::model::HumanDuration;

use crate::support::{Status, World, eventually, is_alive, kill, pipeline, text};

/// Components; one more has replicas.
const COUNT: usize = 49;
const CANARY: &str = "canary-of-the-soak-81d2";

#[test]
fn whatever_fails_in_a_soak_of_fifty_components_heals_and_touches_nobody_else() {
    let length = std::env::var("FLOWCTL_SOAK").map_or(Duration::from_secs(20), |length| {
        length.parse::<HumanDuration>().unwrap().get()
    });
    let seed = std::env::var("FLOWCTL_SOAK_SEED").map_or_else(
        |_| u64::from(std::process::id()) ^ 0x9e37_79b9_7f4a_7c15,
        |seed| seed.parse().unwrap(),
    );
    println!("soak: FLOWCTL_SOAK_SEED={seed} replays this");
    let mut soak = Soak::new(seed);
    let doubles = Doubles::watch(&soak.world);
    let baseline = Footprint::of(soak.world.status().daemon_pid());
    let until = Instant::now() + length;
    let mut faults = 0;
    while Instant::now() < until {
        soak.fault();
        assert_eq!(doubles.seen(), [] as [String; 0], "two live copies");
        faults += 1;
    }
    println!("soak: {faults} faults");
    soak.logs_have_no_gap();
    soak.secret_is_nowhere();
    Footprint::of(soak.world.status().daemon_pid()).is_within(&baseline);
    soak.world.ok(&["down"]);
    eventually("nothing is left", || soak.world.marked().is_empty());
}

/// What can happen in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillComponents,
    KillShim,
    KillDaemon,
    KillShimAndDaemon,
    FreezeComponent,
    FreezeShim,
    FreezeDaemon,
    Edit,
    BreakTheFile,
    Scale,
    StopAndStart,
    Restart,
}

const FAULTS: [Fault; 12] = [
    Fault::KillComponents,
    Fault::KillShim,
    Fault::KillDaemon,
    Fault::KillShimAndDaemon,
    Fault::FreezeComponent,
    Fault::FreezeShim,
    Fault::FreezeDaemon,
    Fault::Edit,
    Fault::BreakTheFile,
    Fault::Scale,
    Fault::StopAndStart,
    Fault::Restart,
];

/// Whether the component reads from the one before it.
fn has_upstream(id: &str) -> bool {
    let number: usize = id[1..].parse().unwrap();
    number % 7 == 3
}

struct Soak {
    world: World,
    random: Random,
    /// What each component's definition differs by.
    tags: Vec<u32>,
    replicas: u32,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let soak = Self {
            world: World::new(),
            random: Random(seed | 1),
            tags: vec![0; COUNT],
            replicas: 2,
        };
        soak.world.write("secret", CANARY);
        soak.world.save("p.yaml", &soak.manifest());
        soak.world.ok(&["apply", "-f", "p.yaml", "--wait"]);
        soak
    }

    fn manifest(&self) -> String {
        // Numbered lines: what is lost or told twice shows.
        let program =
            "$| = 1; my $n = 0; while (1) { print $n++, \"\\n\"; select undef, undef, undef, 0.2 }";
        let program = serde_json::to_string(program).unwrap();
        let one = |id: &str, more: &str| {
            format!(
                "    - {{ id: {id}, command: [perl, -e, {program}], ready_after: 50ms{more} }}\n"
            )
        };
        let mut components: String = (0..COUNT)
            .map(|n| {
                let mut more = format!(", env: {{ TAG: '{}' }}", self.tags[n]);
                if n % 10 == 1 {
                    more += ", probes: { readiness: { exec: ['true'], period: 1s } }";
                }
                // An upstream must not take its dependents along.
                if has_upstream(&format!("c{n}")) {
                    more += &format!(", inputs: [c{}]", n - 1);
                }
                if n == 0 {
                    more += ", secrets: [{ name: s, file: secret }]";
                }
                one(&format!("c{n}"), &more)
            })
            .collect();
        components += &one("many", &format!(", replicas: {}", self.replicas));
        pipeline(&components).replace(
            "initial_delay: 100ms",
            "initial_delay: 50ms, backoff: fixed",
        )
    }

    /// One fault, the wait until it is healed, and what has to hold then.
    fn fault(&mut self) {
        let fault = FAULTS[self.random.below(FAULTS.len())];
        let victim = self.random.below(COUNT);
        let id = format!("c{victim}");
        println!("soak: {fault:?} {id}");
        let before = self.world.status();
        let pid = before.pid(&id).unwrap();
        let mut touched = BTreeSet::new();
        match fault {
            Fault::KillComponents => {
                for n in [victim, (victim + 5) % COUNT, (victim + 11) % COUNT] {
                    let id = format!("c{n}");
                    kill(before.pid(&id).unwrap(), "KILL");
                    touched.insert(id);
                }
            }
            Fault::KillShim => {
                kill(parent_of(pid), "KILL");
                touched.insert(id.clone());
            }
            Fault::KillDaemon => self.replace_daemon(before.daemon_pid()),
            Fault::KillShimAndDaemon => {
                kill(parent_of(pid), "KILL");
                touched.insert(id.clone());
                self.replace_daemon(before.daemon_pid());
            }
            Fault::FreezeComponent => freeze(pid),
            Fault::FreezeShim => freeze(parent_of(pid)),
            Fault::FreezeDaemon => freeze(before.daemon_pid()),
            Fault::Edit => {
                self.tags[victim] += 1;
                self.world.save("p.yaml", &self.manifest());
                touched.insert(id.clone());
            }
            Fault::BreakTheFile => {
                self.world.write("p.yaml", "kind: [");
                self.world.until("the problem shows", |status| {
                    !status.pipeline()["problem"].is_null()
                });
                self.world.save("p.yaml", &self.manifest());
                self.world.until("it is good again", |status| {
                    status.pipeline()["problem"].is_null()
                });
            }
            Fault::Scale => {
                self.replicas = 1 + (self.replicas + 1) % 4;
                self.world.save("p.yaml", &self.manifest());
            }
            Fault::StopAndStart => {
                self.world.ok(&["stop", &id]);
                assert!(!is_alive(pid), "{id} was stopped");
                self.world.ok(&["start", &id]);
                touched.insert(id.clone());
            }
            Fault::Restart => {
                self.world.ok(&["restart", &id]);
                touched.insert(id.clone());
            }
        }
        let tags = self.tags.clone();
        let replicas = usize::try_from(self.replicas).unwrap();
        let after = self.world.until("it heals", |status| {
            let is_new = |id: &String| status.pid(id) != before.pid(id);
            status.has_daemon()
                && status.settled()
                && status.replicas("many").len() == replicas
                && all_run(status)
                && touched.iter().all(is_new)
        });
        for n in (0..COUNT).filter(|n| !touched.contains(&format!("c{n}"))) {
            let id = format!("c{n}");
            assert_eq!(after.pid(&id), before.pid(&id), "{fault:?} touched {id}");
            assert_eq!(after.restarts(&id), before.restarts(&id));
        }
        let is_counted = matches!(fault, Fault::KillComponents | Fault::KillShim);
        for id in touched.iter().filter(|_| is_counted) {
            let counted = after.restarts(id) - before.restarts(id);
            // An end soon after an upstream was away is the upstream's, and no crash of its own.
            assert!(counted == 1 || (counted == 0 && has_upstream(id)), "{id}");
        }
        if fault == Fault::KillComponents {
            assert_eq!(after.replica(&id)["exit"]["signal"], 9);
        }
        let tag = environment(after.pid(&id).unwrap(), "TAG");
        assert_eq!(tag, Some(tags[victim].to_string()), "the last edit runs");
    }

    fn replace_daemon(&self, pid: u32) {
        kill(pid, "KILL");
        eventually("the daemon is gone", || !is_alive(pid));
        self.world.start_daemon();
    }

    /// Every run of every replica has told every number from 0 on, once and in order.
    fn logs_have_no_gap(&self) {
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for line in self.world.ok(&["logs", "-o", "json"]).lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let run = entry["instance"].as_str().unwrap().to_owned();
            let next = next.entry(run).or_default();
            assert_eq!(entry["text"], next.to_string(), "{entry}");
            *next += 1;
        }
        assert!(next.len() > COUNT);
    }

    fn secret_is_nowhere(&self) {
        let mut places = self.world.ok(&["status", "-o", "json"]);
        places += &self.world.ok(&["events", "-o", "json"]);
        places += &self.world.ok(&["describe", "c0"]);
        let files = std::process::Command::new("grep")
            .args(["-rla", CANARY])
            .arg(self.world.state())
            .output()
            .unwrap();
        let files = text(&files.stdout);
        assert!(!places.contains(CANARY));
        assert!(
            files.lines().all(|file| file.ends_with("/secrets/s")),
            "{files}"
        );
    }
}

/// Whether everything is ready, and what is said to be ready is alive.
fn all_run(status: &Status) -> bool {
    let components = status.pipeline()["components"].as_array().unwrap();
    components
        .iter()
        .flat_map(|component| component["replicas"].as_array().unwrap())
        .all(|replica| {
            let pid = replica["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok());
            replica["ready"] == true && pid.is_some_and(is_alive)
        })
}

/// Stops a process for a moment.
fn freeze(pid: u32) {
    kill(pid, "STOP");
    std::thread::sleep(Duration::from_millis(400));
    kill(pid, "CONT");
}

fn parent_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A variable that a process was started with.
fn environment(pid: u32, name: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let environ = text(&environ);
    let mut variables = environ.split('\0').filter_map(|pair| pair.split_once('='));
    variables
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value.to_owned())
}

/// Looks ten times a second whether a replica lives twice.
struct Doubles {
    seen: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Doubles {
    fn watch(world: &World) -> Self {
        let watch = Self {
            seen: Arc::default(),
            ended: Arc::default(),
        };
        let (seen, ended) = (Arc::clone(&watch.seen), Arc::clone(&watch.ended));
        let state = world.state();
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let found = doubles(&state.to_string_lossy());
                seen.lock().unwrap().extend(found);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        watch
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Doubles {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Replicas of a state directory of which two programs live at this moment.
fn doubles(state: &str) -> Vec<String> {
    let mut first: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let mut found = Vec::new();
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // Programs of probes bear the mark of their component, too.
        if comm != "perl\n" || !is_alive(pid) {
            continue;
        }
        let file = environment(pid, "FLOWCTL_INSTANCE_FILE").unwrap_or_default();
        let Some(instance) =
            environment(pid, "FLOWCTL_INSTANCE").filter(|_| file.starts_with(state))
        else {
            continue;
        };
        let replica = instance.rsplit_once('.').unwrap().0.to_owned();
        if let Some((other, was)) = first.get(&replica)
            // Both at once, and not one after the other.
            && is_alive(*other)
            && environment(*other, "FLOWCTL_INSTANCE").as_ref() == Some(was)
            && is_alive(pid)
        {
            found.push(format!("{instance} ({pid}) beside {was} ({other})"));
        }
        first.insert(replica, (pid, instance));
    }
    found
}

/// What a daemon holds of the host.
#[derive(Debug)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
    zombies: usize,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: resident
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap(),
            zombies: children
                .unwrap_or_default()
                .split_whitespace()
                .filter(|child| child.parse().is_ok_and(|child| !is_alive(child)))
                .count(),
        }
    }

    /// Some slack: threads that block come and go, and an allocator keeps what it was given.
    fn is_within(&self, baseline: &Self) {
        let told = format!("{self:?} after {baseline:?}");
        assert!(self.descriptors <= baseline.descriptors + 50, "{told}");
        assert!(self.threads <= baseline.threads + 40, "{told}");
        assert!(
            self.resident_kib <= baseline.resident_kib * 2 + 20_000,
            "{told}"
        );
        assert!(self.zombies <= 1, "{told}");
    }
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap() % limit
    }
}
