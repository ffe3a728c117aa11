//! The shipped pipeline file on a stage, under the real flowctl, as programs or as containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::built;
use crate::engine::{self, Engine};
use crate::stage::{self, Program, Stage, free_port, until};

/// What flowctl runs the pipeline as.
pub enum Runs {
    Processes,
    Containers(Engine),
}

/// The flowctl of this checkout, built as these tests were.
fn flowctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built::flowctl(programs()))
}

/// Where the programs of this build lie.
pub fn programs() -> &'static Path {
    let program = Path::new(env!("CARGO_BIN_EXE_ttp-processor"));
    program.parent().expect("a program lies in a folder")
}

/// A stage on which flowctl runs the programs.
pub struct World {
    pub stage: Stage,
    pub runs: Runs,
    /// What is put behind each component's id: containers are named by it, and the engine is shared.
    suffix: String,
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever a failed test left running ends here.
        drop(self.flowctl(&["down"]));
    }
}

impl World {
    /// A world with the shipped file, changed in nothing but where things are.
    pub fn new(stage: Stage, runs: Runs) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let world = Self {
            stage,
            runs,
            suffix: format!("-{}-{number}", std::process::id()),
        };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipeline.yaml");
        fs::write(world.file(), fs::read_to_string(shipped).unwrap()).unwrap();
        let here = programs().display().to_string();
        world.replace("../../target/release", &here);
        world.replace(":local", &format!(":{}", engine::TAG));
        let to_the_end = format!("args: [\"2\", \"{}\"]", world.stage.last);
        world.replace("args: [\"2\", \"0\"]", &to_the_end);
        world.replace("initial_delay: 500ms", "initial_delay: 50ms");
        world.replace(
            "BUCKET_NAME: data/lake",
            "BUCKET_NAME: data/lake\n        LAKE_POLL_INTERVAL: 50ms",
        );
        for port in ["50051", "50052", "18088", "18089", "18093"] {
            world.replace(port, &free_port().to_string());
        }
        for program in stage::ALL {
            let (id, unique) = (program.id(), world.id(program));
            world.replace(&format!("id: {id}"), &format!("id: {unique}"));
            if program != Program::Consumer {
                world.replace(&format!("[{id}]"), &format!("[{unique}]"));
                let reference = |id: &str| format!("components.{id}.");
                world.replace(&reference(id), &reference(&unique));
            }
        }
        world
    }

    /// A pipeline in the middle of a lake that will have 2,000 ledgers.
    pub fn in_the_middle(runs: Runs) -> Self {
        let world = Self::new(Stage::with_hungry_lake(2000), runs);
        world.stage.feed(300);
        world.apply("--wait");
        world.stage.until_written(300);
        world
    }

    /// The id of a program's component.
    pub fn id(&self, program: Program) -> String {
        format!("{}{}", program.id(), self.suffix)
    }

    pub fn file(&self) -> PathBuf {
        self.stage.home().join("pipeline.yaml")
    }

    /// Edits the file, as an editor that saves aside and renames.
    pub fn replace(&self, old: &str, new: &str) {
        let text = fs::read_to_string(self.file()).unwrap();
        assert!(text.contains(old), "the file says nowhere {old}");
        let aside = self.file().with_extension("new");
        fs::write(&aside, text.replace(old, new)).unwrap();
        fs::rename(aside, self.file()).unwrap();
    }

    /// A command of flowctl in this world.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(flowctl());
        command
            .args(arguments)
            .env("FLOWCTL_STATE_DIR", self.stage.home().join("state"))
            .env("NO_COLOR", "1")
            .current_dir(self.stage.home())
            .stdin(Stdio::null());
        match &self.runs {
            Runs::Processes => {}
            Runs::Containers(engine) => {
                command.env("FLOWCTL_DOCKER_HOST", engine.host());
            }
        }
        command
    }

    fn flowctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs flowctl, which has to succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
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

    /// `flowctl apply`, whose last word is `--wait` or `--no-wait`.
    pub fn apply(&self, wait: &str) {
        let orchestrator = self.orchestrator();
        self.ok(&[
            "apply",
            "-f",
            "pipeline.yaml",
            "--orchestrator",
            orchestrator,
            wait,
        ]);
    }

    /// What `--orchestrator` is for it.
    pub fn orchestrator(&self) -> &'static str {
        match self.runs {
            Runs::Processes => "process",
            Runs::Containers(_) => "container",
        }
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "-o", "json"])).unwrap()
    }

    /// What the status says of a program's only replica.
    pub fn replica(&self, program: Program) -> Option<Value> {
        let status = self.status();
        let components = status["pipelines"][0]["components"].as_array()?;
        let id = self.id(program);
        let found = components.iter().find(|found| found["id"] == id.as_str())?;
        found["replicas"].get(0).cloned()
    }

    /// What runs of a program: a pid or a container's id.
    pub fn running(&self, program: Program) -> Option<String> {
        let replica = self.replica(program)?;
        match self.runs {
            Runs::Processes => replica["pid"].as_i64().map(|pid| pid.to_string()),
            Runs::Containers(_) => replica["container"].as_str().map(str::to_owned),
        }
    }

    pub fn all_running(&self) -> [String; 3] {
        stage::ALL.map(|program| until("something that runs", || self.running(program)))
    }

    /// kill -9 of what runs.
    pub fn kill(&self, running: &str) {
        match &self.runs {
            Runs::Processes => kill_process(pid(running), Signal::KILL).unwrap(),
            Runs::Containers(engine) => {
                engine.act("POST", &format!("/containers/{running}/kill"));
            }
        }
    }

    /// Whether nothing is left of what ran.
    pub fn is_gone(&self, running: &str) -> bool {
        match &self.runs {
            Runs::Processes => test_kill_process(pid(running)).is_err(),
            Runs::Containers(engine) => !engine.has(running),
        }
    }

    /// kill -9 of the daemon; nobody is asked whether it ended.
    pub fn kill_daemon(&self) {
        let daemon = self.status()["daemon"]["pid"].to_string();
        kill_process(pid(&daemon), Signal::KILL).unwrap();
        until("the daemon's end", || {
            test_kill_process(pid(&daemon)).is_err().then_some(())
        });
    }

    pub fn until_phase(&self, program: Program, phase: &str) -> Value {
        until(&format!("{program:?} {phase}"), || {
            self.replica(program)
                .filter(|replica| replica["phase"] == phase)
        })
    }

    pub fn until_restarts(&self, program: Program, restarts: u64) {
        until(&format!("restart {restarts} of {program:?}"), || {
            (self.replica(program)?["restarts"] == restarts).then_some(())
        });
    }

    /// Waits until everything is written, and checks that it is what has to be, and that the status
    /// says that all is well.
    pub fn verify(&self) {
        let expected = self.stage.expected().len();
        self.stage.until_written(expected);
        // An event too many would come now or never.
        std::thread::sleep(Duration::from_millis(200));
        self.stage.verify_output();
        for program in stage::ALL {
            until(&format!("{program:?} running and ready"), || {
                let replica = self.replica(program)?;
                (replica["phase"] == "running" && replica["ready"] == true).then_some(())
            });
        }
    }
}

fn pid(number: &str) -> Pid {
    Pid::from_raw(number.parse().unwrap()).unwrap()
}
