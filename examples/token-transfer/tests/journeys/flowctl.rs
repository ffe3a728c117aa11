//! The shipped pipeline file under the real flowctl, as local programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::stage::{self, Stage, free_port, until};

const SOURCE: &str = "stellar-live-source-datalake";
const PROCESSOR: &str = "ttp-processor";
const CONSUMER: &str = "consumer-app";

/// The flowctl of this checkout, built as these tests were.
fn flowctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_ttp-processor"))
            .parent()
            .unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--bin", "flowctl"])
            .current_dir(root);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "flowctl does not build");
        folder.join("flowctl")
    })
}

/// A stage on which flowctl runs the programs.
struct World {
    stage: Stage,
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever a failed test left running ends here.
        drop(self.flowctl(&["down"]));
    }
}

impl World {
    fn new(stage: Stage) -> Self {
        let world = Self { stage };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipeline.yaml");
        let folder = Path::new(env!("CARGO_BIN_EXE_ttp-processor"))
            .parent()
            .unwrap();
        let mut text = fs::read_to_string(shipped).unwrap();
        let replaced = [
            (
                "../../target/release".to_owned(),
                folder.display().to_string(),
            ),
            (
                "BUCKET_NAME: data/lake".to_owned(),
                "BUCKET_NAME: lake".to_owned(),
            ),
            (
                "data/out/events.ndjson".to_owned(),
                "events.ndjson".to_owned(),
            ),
            (
                "args: [\"2\", \"0\"]".to_owned(),
                format!("args: [\"2\", \"{}\"]", world.stage.last),
            ),
            (
                "initial_delay: 500ms".to_owned(),
                "initial_delay: 50ms".to_owned(),
            ),
        ];
        let ports = ["50051", "50052", "18088", "18089", "18093"];
        let ports = ports.map(|port| (port.to_owned(), free_port().to_string()));
        for (shipped, here) in replaced.into_iter().chain(ports) {
            assert!(
                text.contains(&shipped),
                "the shipped file no longer says {shipped}"
            );
            text = text.replace(&shipped, &here);
        }
        fs::write(world.file(), text).unwrap();
        world
    }

    fn home(&self) -> &Path {
        self.stage.home()
    }

    fn file(&self) -> PathBuf {
        self.home().join("pipeline.yaml")
    }

    fn flowctl(&self, arguments: &[&str]) -> Output {
        Command::new(flowctl())
            .args(arguments)
            .env("FLOWCTL_STATE_DIR", self.home().join("state"))
            .env("NO_COLOR", "1")
            .current_dir(self.home())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.flowctl(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stderr);
        assert!(
            output.status.success(),
            "flowctl {arguments:?}: {}\n{said}",
            output.status
        );
        text(&output.stdout)
    }

    fn apply(&self) {
        self.ok(&["apply", "-f", "pipeline.yaml", "--wait"]);
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "-o", "json"])).unwrap()
    }

    /// What the status says of a component's only replica.
    fn replica(&self, component: &str) -> Option<Value> {
        let status = self.status();
        let components = status["pipelines"][0]["components"].as_array()?;
        let found = components.iter().find(|found| found["id"] == component)?;
        found["replicas"].get(0).cloned()
    }

    fn pid(&self, component: &str) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.replica(component)?["pid"].as_i64()?).ok()?)
    }

    fn kill(&self, component: &str) {
        let pid = until("a process to kill", || self.pid(component));
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// kill -9 of the daemon; nobody is asked whether it ended.
    fn kill_daemon(&self) {
        let pid = self.status()["daemon"]["pid"]
            .as_i64()
            .expect("a daemon runs");
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        until("the daemon's end", || {
            test_kill_process(pid).is_err().then_some(())
        });
    }

    fn until_phase(&self, component: &str, phase: &str) -> Value {
        until(&format!("{component} {phase}"), || {
            self.replica(component)
                .filter(|replica| replica["phase"] == phase)
        })
    }

    /// Waits until everything is written, and checks that it is what has to be.
    fn verify(&self) {
        let expected = self.stage.expected().len();
        self.stage.until_written(expected);
        // An event too many would come now or never.
        std::thread::sleep(Duration::from_millis(200));
        self.stage.verify_output();
        for component in [SOURCE, PROCESSOR, CONSUMER] {
            let replica = self.until_phase(component, "running");
            assert_eq!(replica["ready"], true, "{replica:#}");
        }
    }

    /// Applies the pipeline to a lake of 2,000 ledgers that appear while they are read.
    fn in_the_middle() -> Self {
        let world = Self::new(Stage::with_lake(2000, Duration::from_millis(8)));
        world.apply();
        world.stage.until_written(200);
        world
    }
}

#[test]
fn the_shipped_pipeline_delivers_every_event_exactly_once() {
    let world = World::new(Stage::with_lake(300, Duration::ZERO));
    world.apply();
    world.verify();
    for component in [SOURCE, PROCESSOR, CONSUMER] {
        assert_eq!(world.replica(component).unwrap()["restarts"], 0);
    }
}

#[test]
fn each_program_killed_in_turn_is_restarted_and_no_event_is_lost() {
    let world = World::in_the_middle();
    for component in [CONSUMER, PROCESSOR, SOURCE] {
        world.kill(component);
        until("a counted restart", || {
            (world.replica(component)?["restarts"] == 1).then_some(())
        });
        world.until_phase(component, "running");
    }
    world.verify();
}

#[test]
fn a_killed_daemon_costs_no_restart_and_no_event() {
    let world = World::in_the_middle();
    let before = [SOURCE, PROCESSOR, CONSUMER].map(|component| world.pid(component));
    world.kill_daemon();
    // The stream goes on without a daemon, unless all of it had gone by before.
    let more = world.stage.written() + 200;
    until("more output, or all of it", || {
        let written = world.stage.written();
        let all = || world.stage.expected().len() == written;
        (written >= more || world.stage.lake_is_made() && all()).then_some(())
    });
    world.apply();
    let after = [SOURCE, PROCESSOR, CONSUMER].map(|component| world.pid(component));
    assert_eq!(before, after);
    world.verify();
}

#[test]
fn all_four_killed_at_once_go_on_where_they_were() {
    let world = World::in_the_middle();
    let pids = [SOURCE, PROCESSOR, CONSUMER].map(|component| world.pid(component).unwrap());
    world.kill_daemon();
    for pid in pids {
        kill_process(pid, Signal::KILL).unwrap();
    }
    world.apply();
    world.verify();
}

#[test]
fn an_edit_of_the_processor_replaces_it_alone() {
    let world = World::in_the_middle();
    let before = [SOURCE, PROCESSOR, CONSUMER].map(|component| world.pid(component));
    let text = fs::read_to_string(world.file()).unwrap();
    let edited = text.replace(
        "        NETWORK_PASSPHRASE",
        "        LOG_LEVEL: debug\n        NETWORK_PASSPHRASE",
    );
    let aside = world.file().with_extension("new");
    fs::write(&aside, edited).unwrap();
    stage::rename(&aside, &world.file());
    until("another processor", || {
        (world.pid(PROCESSOR).is_some() && world.pid(PROCESSOR) != before[1]).then_some(())
    });
    world.verify();
    assert_eq!(
        [world.pid(SOURCE), world.pid(CONSUMER)],
        [before[0], before[2]]
    );
}

#[test]
fn without_a_lake_the_others_wait_and_say_for_whom() {
    let world = World::new(Stage::empty(41));
    world.ok(&["apply", "-f", "pipeline.yaml", "--no-wait"]);
    world.until_phase(SOURCE, "starting");
    let waiting = world.until_phase(PROCESSOR, "pending");
    assert!(
        waiting["why"].as_str().unwrap().contains(SOURCE),
        "{waiting:#}"
    );
    let waiting = world.until_phase(CONSUMER, "pending");
    assert!(
        waiting["why"].as_str().unwrap().contains(PROCESSOR),
        "{waiting:#}"
    );
    token_transfer::generator::LakePlan::of(40)
        .make(&world.stage.lake())
        .unwrap();
    world.verify();
    assert_eq!(world.replica(CONSUMER).unwrap()["restarts"], 0);
}

#[test]
fn down_in_the_middle_leaves_nothing_and_apply_goes_on() {
    let world = World::in_the_middle();
    let pids = [SOURCE, PROCESSOR, CONSUMER].map(|component| world.pid(component).unwrap());
    world.ok(&["down"]);
    for pid in pids {
        assert!(test_kill_process(pid).is_err(), "{pid:?} is still there");
    }
    world.apply();
    world.verify();
}
