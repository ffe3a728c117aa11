//! Real processes under real shims.

use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::leftovers::Whose;
use super::*;
use crate::driver::conformance::{self, Behaviour, Stage, eventually_runs, launch, sight, spec};
use crate::model::{ExitStatus, Life, ProcessIdentity, StartFailure, Workload};

mod beside;
mod churn;
mod faults;
mod lives;
mod output;
mod setup;
mod trees;

/// This test binary as a fork server: a run of this one test in a process of its own.
#[test]
#[ignore = "is the fork server of the other tests"]
fn fork_server() {
    fork_server::serve(&sys::OneThread::beside_its_harness());
}

fn server() -> ForkServer {
    let program = std::env::current_exe().unwrap();
    ForkServer::start_with(program, server_arguments()).unwrap()
}

/// With which this test binary is a fork server.
fn server_arguments() -> Vec<String> {
    let name = "driver::process::tests::fork_server";
    let arguments = [
        "--exact",
        name,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    arguments.map(str::to_owned).to_vec()
}

/// A state directory of its own and the driver of it. All that was started in it ends with it.
pub(super) struct ProcessStage {
    pub(super) root: tempfile::TempDir,
    pub(super) driver: ProcessDriver,
}

impl ProcessStage {
    pub(super) fn new() -> Self {
        Self::with(server())
    }

    /// One whose programs come from this fork server.
    fn with(server: ForkServer) -> Self {
        let root = tempfile::tempdir().unwrap();
        let driver = ProcessDriver::new(server, config_in(root.path()), Clock::new()).unwrap();
        Self { root, driver }
    }

    /// A file in the stage's directory.
    fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    fn file_of(&self, launch: &Launch) -> PathBuf {
        self.driver.site.file_of(&launch.instance)
    }

    /// Starts `sh -c script` as a component.
    async fn start_shell(&self, id: &str, script: &str) -> (Launch, ProcessIdentity) {
        let launch = launch(spec(id, "sh", &["-c", script]), 1);
        let child = self.start(&launch).await;
        (launch, child)
    }

    /// Starts an instance; answers its program.
    async fn start(&self, launch: &Launch) -> ProcessIdentity {
        let started = self.driver.start(launch).await.unwrap();
        let programs = started.facts.processes;
        programs.into_iter().next_back().expect("a process")
    }

    async fn stop(&self, launch: &Launch) -> Result<(), DriverError> {
        let how = &launch.spec.stop;
        self.driver.stop(&launch.instance, how).await.map(drop)
    }

    fn shim_of(&self, launch: &Launch) -> u32 {
        let state = record::State::read(&self.file_of(launch)).unwrap().unwrap();
        state.shim.unwrap().pid
    }

    /// How many processes carry the mark of an instance.
    fn marked(&self, launch: &Launch) -> usize {
        let files = [self.file_of(launch)];
        let left = leftovers::find(&self.driver.site, &files, Whose::Theirs);
        left.unwrap().len()
    }
}

impl Drop for ProcessStage {
    fn drop(&mut self) {
        // A test that failed midway leaves nothing behind on the host.
        let instances = self.root.path().join("instances");
        let Ok(entries) = std::fs::read_dir(instances) else {
            return;
        };
        let dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        for dir in &dirs {
            if let Ok(Some(state)) = record::State::read(dir)
                && let Some(shim) = state.shim
                && let Ok(Some(process)) = identity::open(&shim, &self.driver.site.boot)
            {
                pidfd_send_signal(process, Signal::KILL).ok();
            }
        }
        leftovers::end(&self.driver.site, &dirs, Whose::Orphans).ok();
    }
}

fn driver_in(root: &Path) -> ProcessDriver {
    ProcessDriver::new(server(), config_in(root), Clock::new()).unwrap()
}

fn config_in(root: &Path) -> ProcessConfig {
    ProcessConfig {
        instances_dir: root.join("instances"),
        logs_dir: root.join("logs"),
        handed: None,
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Whether a process runs: a zombie does not.
fn runs(pid: u32) -> bool {
    identity::stat(pid).is_some_and(|stat| !stat.is_dead)
}

/// Waits until `holds`.
async fn wait_for(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..4_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[async_trait]
impl Stage for ProcessStage {
    fn driver(&self) -> &dyn Driver {
        &self.driver
    }

    async fn restart(&mut self) {
        self.driver = driver_in(self.root.path());
    }

    async fn prepared(&self, component: &ComponentSpec) {
        let flag = self.root.path().join(component.id.as_str());
        wait_for("the program is prepared", || flag.exists()).await;
    }

    fn component(&mut self, id: &str, behaviour: Behaviour) -> ComponentSpec {
        let flag = self.path(id);
        let script = match behaviour {
            Behaviour::RunsForever => format!(": > {flag}; exec sleep 1000"),
            Behaviour::Exits(code) => format!("exit {code}"),
            Behaviour::IgnoresSignals => {
                format!("trap '' TERM; : > {flag}; while :; do sleep 1000; done")
            }
            Behaviour::CannotStart => return spec(id, "no-such-program-anywhere", &[]),
        };
        spec(id, "sh", &["-c", &script])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_driver_keeps_the_contract() {
    conformance::check(&mut ProcessStage::new()).await;
}
