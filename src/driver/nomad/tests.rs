//! Against a real agent. `FLOWCTL_TEST_NOMAD=PROGRAM`, with an engine of `tests/engine start FOLDER`, has
//! these tests start one by `tests/nomad`; without it they say that they were skipped.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::driver::conformance::{self, Behaviour, Stage, launch, spec};
use crate::model::{
    ComponentSpec, ContainerSpec, ExitStatus, HumanDuration, Life, NomadSpec, Volume, VolumeSource,
    Workload,
};

/// The program of the agent that is tried, or the address of one that runs.
const AGENT: &str = "FLOWCTL_TEST_NOMAD";
/// Made by `tests/engine`: a static busybox.
const IMAGE: &str = "flowctl-test/busybox:1";

static STAGES: AtomicU32 = AtomicU32::new(0);

/// An agent that the tests of one run share.
struct Agent {
    /// `None` = somebody else has started it.
    folder: Option<tempfile::TempDir>,
    address: String,
}

static SHARED: Mutex<std::sync::Weak<Agent>> = Mutex::new(std::sync::Weak::new());

impl Agent {
    /// `None` = the test is skipped.
    fn find() -> Option<Arc<Self>> {
        let Ok(program) = std::env::var(AGENT) else {
            eprintln!("SKIPPED: {AGENT} is not set, so no job of Nomad's was started");
            return None;
        };
        let mut shared = lock(&SHARED);
        if let Some(agent) = shared.upgrade() {
            return Some(agent);
        }
        let agent = Arc::new(match program.starts_with("http://") {
            true => Self {
                folder: None,
                address: program,
            },
            false => Self::start(&program),
        });
        *shared = Arc::downgrade(&agent);
        Some(agent)
    }

    fn start(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("agent");
        let started = script(&["start", place.to_str().unwrap(), "--agent", program]);
        let line = started
            .lines()
            .find_map(|line| line.strip_prefix("NOMAD_ADDR="));
        let address = line.expect("it says where it is").to_owned();
        let folder = Some(folder);
        Self { folder, address }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            script(&["stop", folder.path().join("agent").to_str().unwrap()]);
        }
    }
}

fn script(args: &[&str]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/nomad");
    let ran = Command::new(path)
        .args(args)
        .stderr(std::process::Stdio::inherit())
        .output();
    let ran = ran.unwrap();
    assert!(ran.status.success(), "tests/nomad {args:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// A state directory of its own, and an agent.
struct NomadStage {
    root: tempfile::TempDir,
    agent: Arc<Agent>,
    /// Tells the jobs of one test from those of the others.
    owner: String,
    driver: Arc<NomadDriver>,
}

impl NomadStage {
    fn new() -> Option<Self> {
        let agent = Agent::find()?;
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let owner = format!("t{}-{number}", std::process::id());
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("stage")).unwrap();
        let driver = open(&root, &owner, &agent.address);
        Some(Self {
            root,
            agent,
            owner,
            driver,
        })
    }

    /// What containers see as `/stage`.
    fn folder(&self) -> PathBuf {
        self.root.path().join("stage")
    }

    /// A component that runs `command` in the tests' image.
    fn container(&self, id: &str, command: &[&str]) -> ComponentSpec {
        let mut spec = spec(id, "unused", &[]);
        spec.workload = Workload::Nomad(NomadSpec {
            container: ContainerSpec {
                image: IMAGE.to_owned(),
                command: Some(command.iter().map(|&word| word.to_owned()).collect()),
                args: Vec::new(),
                working_dir: None,
                pull: None,
                network: None,
                verify: None,
            },
            address: None,
            datacenter: None,
            namespace: None,
        });
        // Many run side by side on one small node.
        spec.resources.cpu_mhz = Some(20);
        spec.resources.memory_limit_bytes = Some(32 << 20);
        spec.volumes.push(Volume {
            source: VolumeSource::Bind(self.folder()),
            target: "/stage".to_owned(),
            read_only: false,
        });
        spec
    }

    fn shell(&self, id: &str, script: &str) -> ComponentSpec {
        self.container(id, &["sh", "-c", script])
    }
}

fn open(root: &tempfile::TempDir, owner: &str, address: &str) -> Arc<NomadDriver> {
    let address = address.to_owned();
    let config = NomadConfig {
        settings: Settings::of(&|name| (name == "NOMAD_ADDR").then(|| address.clone())),
        state_dir: root.path().join("state"),
        owner: owner.to_owned(),
        conduct: Conduct::Tends,
        gate: Arc::new(Gate::open()),
    };
    NomadDriver::new(config, Clock::new())
}

#[async_trait]
impl Stage for NomadStage {
    fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    async fn restart(&mut self) {
        self.driver = open(&self.root, &self.owner, &self.agent.address);
    }

    async fn prepared(&self, component: &ComponentSpec) {
        let mark = self.folder().join(component.id.as_str());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !mark.exists() {
            assert!(
                Instant::now() < deadline,
                "never prepared: {}",
                component.id
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn component(&mut self, id: &str, behaviour: Behaviour) -> ComponentSpec {
        let flag = format!("/stage/{id}");
        match behaviour {
            Behaviour::RunsForever => self.shell(id, &format!("touch {flag}; exec sleep 100000")),
            Behaviour::Exits(code) => self.shell(id, &format!("exit {code}")),
            Behaviour::IgnoresSignals => {
                let script = format!("trap '' TERM; touch {flag}; while :; do sleep 1; done");
                self.shell(id, &script)
            }
            Behaviour::CannotStart => self.container(id, &["no-such-program"]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_keep_the_contract() {
    let Some(mut stage) = NomadStage::new() else {
        return;
    };
    conformance::check(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_waits_with_the_reason_and_is_given_up_without_a_trace() {
    let Some(stage) = NomadStage::new() else {
        return;
    };
    let mut spec = stage.shell("big", "exec sleep 100000");
    spec.resources.memory_limit_bytes = Some(1 << 50);
    let waiting = launch(spec, 1);
    let started = stage.driver.start(&waiting).await.unwrap();
    let crate::driver::Began::Pending(pending) = started.state else {
        panic!("{started:?}");
    };
    let why = pending.why.unwrap();
    assert!(why.contains("too little memory"), "{why}");
    let seen = conformance::sight(&*stage.driver, &waiting.instance)
        .await
        .unwrap();
    assert!(matches!(seen.life, Life::Pending(_)), "{seen:?}");
    stage
        .driver
        .stop(&waiting.instance, &waiting.spec.stop)
        .await
        .unwrap();
    stage.driver.forget(&waiting.instance).await.unwrap();
    let left = stage.driver.observe(&Scope::All).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_reaches_the_program_byte_for_byte() {
    let Some(stage) = NomadStage::new() else {
        return;
    };
    let texts = [
        "${x}",
        "%{if true}",
        "$${x}",
        "$$",
        "$%{x",
        "\"'\\",
        "a\nb",
        "${node.unique.name}",
        "{{ x }}",
        "é ${NOMAD_JOB_ID}",
    ];
    let mut spec = stage.shell(
        "texts",
        "printf '%s\\0' \"$@\" \"$TEXT\" > /stage/texts.new; mv /stage/texts.new /stage/texts",
    );
    if let Workload::Nomad(nomad) = &mut spec.workload {
        nomad.container.args = ["x"].into_iter().chain(texts).map(str::to_owned).collect();
    }
    spec.env.insert("TEXT".to_owned(), texts.join(" "));
    let launch = launch(spec, 1);
    stage.driver.start(&launch).await.unwrap();
    let status = conformance::eventually_exits(&*stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(0));
    let wrote = std::fs::read_to_string(stage.folder().join("texts")).unwrap();
    let wrote: Vec<&str> = wrote.trim_end_matches('\0').split('\0').collect();
    let joined = texts.join(" ");
    let expected: Vec<&str> = texts.into_iter().chain([joined.as_str()]).collect();
    assert_eq!(wrote, expected);
    stage.driver.forget(&launch.instance).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_grace_than_at_its_start_is_given() {
    let Some(stage) = NomadStage::new() else {
        return;
    };
    let script = "trap 'sleep 2; exit 7' TERM; touch /stage/slow; while :; do sleep 0.1; done";
    let launch = launch(stage.shell("slow", script), 1);
    stage.driver.start(&launch).await.unwrap();
    stage.prepared(&launch.spec).await;
    let how = StopPolicy {
        grace_period: HumanDuration::from_secs(20),
        ..launch.spec.stop
    };
    let stopped = stage.driver.stop(&launch.instance, &how).await.unwrap();
    let Some(Life::Exited(exit)) = stopped.into_sighting().map(|seen| seen.life) else {
        panic!("it has exited");
    };
    assert_eq!(
        exit.status,
        ExitStatus::Code(7),
        "its own end was waited for"
    );
    stage.driver.forget(&launch.instance).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_ends_is_told_as_that() {
    let Some(stage) = NomadStage::new() else {
        return;
    };
    let launch = launch(stage.component_forever("by-hand"), 1);
    stage.driver.start(&launch).await.unwrap();
    let place = stage.driver.inner.place_of(&launch.instance).unwrap();
    let job = names::job(&stage.driver.inner.config.owner, &launch.instance);
    let purge = client::Ask::delete(&["job", &job]).with("purge", "true");
    place.client.done(purge).await.unwrap();
    let seen =
        conformance::eventually(&*stage.driver, &launch.instance, |life| !life.is_alive()).await;
    let Life::Disrupted { disruption, .. } = &seen.life else {
        panic!("{seen:?}");
    };
    assert_eq!(disruption.kind, crate::model::DisruptionKind::DeletedByHand);
    stage.driver.forget(&launch.instance).await.unwrap();
    let left = stage.driver.observe(&Scope::All).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

impl NomadStage {
    fn component_forever(&self, id: &str) -> ComponentSpec {
        self.shell(id, &format!("touch /stage/{id}; exec sleep 100000"))
    }
}
