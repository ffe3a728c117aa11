//! Against a real engine. `tests/engine start FOLDER` begins one and prints the variable that these
//! tests find it by; without it they say that they were skipped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::driver::conformance::{self, Behaviour, Stage, spec};
use crate::model::{ComponentSpec, ContainerSpec, Volume, VolumeSource, Workload};

/// Where the tests' engine listens.
const ENGINE: &str = "FLOWCTL_TEST_DOCKER_HOST";
/// When set, a missing engine is a failure.
const NEEDED: &str = "FLOWCTL_TESTS_NEED_DOCKER";
/// Made by `tests/engine`: a static busybox.
const IMAGE: &str = "flowctl-test/busybox:1";

mod engines;
mod faults;
mod lives;
mod networks;
mod pulls;

static STAGES: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listens on, given out once. The kernel gives none of this range to those who
/// want any port, and the journeys take theirs above it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 6_000;
    // Test runs side by side begin at different places.
    let begin = std::process::id() % u32::from(COUNT);
    let begin = u16::try_from(begin).expect("less than the count");
    let mut ports = std::iter::repeat_with(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        FIRST + (begin + next) % COUNT
    });
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("there is no end of them")
}

/// The engine of the tests; `None` = the test is skipped.
fn engine() -> Option<Endpoint> {
    match std::env::var(ENGINE) {
        Ok(text) => Some(Endpoint::discover(Some(&text), &|_| None).unwrap()),
        Err(_) => {
            let needed = std::env::var_os(NEEDED).is_some();
            assert!(
                !needed,
                "{ENGINE} is not set: run `tests/engine start FOLDER`"
            );
            eprintln!("SKIPPED: {ENGINE} is not set, so no container was started");
            None
        }
    }
}

/// A state directory, an owner and a network of its own, on the engine that all tests share.
struct DockerStage {
    root: tempfile::TempDir,
    /// Begins every name, since those are the engine's to tell apart.
    mark: String,
    endpoint: Endpoint,
    driver: Arc<DockerDriver>,
}

impl DockerStage {
    /// `None` without an engine.
    fn new() -> Option<Self> {
        Some(Self::on(engine()?))
    }

    fn on(endpoint: Endpoint) -> Self {
        let root = tempfile::tempdir().unwrap();
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let mark = format!("t{}-{number}", std::process::id());
        let driver = open(&root, &mark, &endpoint);
        std::fs::create_dir(root.path().join("stage")).unwrap();
        Self {
            root,
            mark,
            endpoint,
            driver,
        }
    }

    /// What containers see as `/stage`: beside the state directory, which they may not see.
    fn folder(&self) -> PathBuf {
        self.root.path().join("stage")
    }

    /// A component that runs `command` in the tests' image.
    fn container(&self, id: &str, command: &[&str]) -> ComponentSpec {
        let mut spec = spec(&format!("{}-{id}", self.mark), "unused", &[]);
        spec.workload = Workload::Docker(ContainerSpec {
            image: IMAGE.to_owned(),
            command: Some(command.iter().map(|&word| word.to_owned()).collect()),
            args: Vec::new(),
            working_dir: None,
            pull: None,
            network: Some(self.mark.clone()),
            verify: None,
        });
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

    /// Removes all that the test has made.
    async fn end(&self) {
        for seen in self.driver.inner.look_at_all().await.unwrap() {
            self.driver.remove(&seen.id, &seen.instance).await.unwrap();
        }
        let cleaned = self.driver.clean_up(Volumes::Remove).await.unwrap();
        assert_eq!(cleaned.networks_in_use, [""; 0]);
    }
}

async fn eventually_forgotten(driver: &DockerDriver, instance: &InstanceId) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = driver.forget(instance).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(conformance::sight(driver, instance).await, None);
}

fn is_unreachable<T: std::fmt::Debug>(answer: &Result<T, DriverError>) -> bool {
    matches!(answer, Err(DriverError::Unreachable { .. }))
}

fn open(root: &tempfile::TempDir, mark: &str, endpoint: &Endpoint) -> Arc<DockerDriver> {
    let config = DockerConfig {
        endpoint: endpoint.clone(),
        state_dir: root.path().join("state"),
        owner: mark.to_owned(),
        privileged: Privileged::Refused,
        allowed_mounts: vec![root.path().join("stage")],
        conduct: Conduct::Tends,
        gate: Arc::new(crate::images::Gate::open()),
    };
    DockerDriver::new(config, Clock::new())
}

#[async_trait]
impl Stage for DockerStage {
    fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    async fn restart(&mut self) {
        self.driver = open(&self.root, &self.mark, &self.endpoint);
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
        let flag = format!("/stage/{}-{id}", self.mark);
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

#[tokio::test]
async fn containers_keep_the_contract() {
    let Some(mut stage) = DockerStage::new() else {
        return;
    };
    conformance::check(&mut stage).await;
    stage.end().await;
}

/// `cargo test --lib docker -- --ignored --nocapture looks`: what a look at many containers costs.
#[tokio::test]
#[ignore = "measures"]
async fn looks_at_many_containers() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    for number in 0..100 {
        let spec = stage.container(&format!("many-{number}"), &["sleep", "1000"]);
        let launch = conformance::launch(spec, 1);
        let Workload::Docker(container) = &launch.spec.workload else {
            panic!("{launch:?}");
        };
        stage.driver.create(&launch, container).await.unwrap();
    }
    for round in 0..5 {
        let begun = Instant::now();
        let seen = stage.driver.observe(&Scope::All).await.unwrap().sightings;
        println!(
            "look {round}: {} containers in {:?}",
            seen.len(),
            begun.elapsed()
        );
    }
    stage.end().await;
}
