//! Real processes under real shims.

use super::*;
use crate::driver::conformance::{self, Behaviour, Stage, spec};

/// This test binary as a fork server: a run of this one test in a process of its own.
#[test]
#[ignore = "is the fork server of the other tests"]
fn fork_server() {
    run_fork_server();
}

fn server() -> ForkServer {
    let name = "driver::process::tests::fork_server";
    let arguments = [
        "--exact",
        name,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let program = std::env::current_exe().unwrap();
    ForkServer::start_with(program, arguments.map(str::to_owned).to_vec()).unwrap()
}

struct ProcessStage {
    root: tempfile::TempDir,
    driver: ProcessDriver,
}

impl ProcessStage {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let driver = Self::driver_in(root.path());
        Self { root, driver }
    }

    fn driver_in(root: &Path) -> ProcessDriver {
        let config = ProcessConfig {
            instances_dir: root.join("instances"),
            logs_dir: root.join("logs"),
        };
        ProcessDriver::new(server(), config, Clock::new()).unwrap()
    }
}

/// Waits until `holds`.
async fn wait_for(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2_000 {
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
        self.driver = Self::driver_in(self.root.path());
    }

    async fn prepared(&self, component: &ComponentSpec) {
        let flag = self.root.path().join(component.id.as_str());
        wait_for("the program is prepared", || flag.exists()).await;
    }

    fn component(&mut self, id: &str, behaviour: Behaviour) -> ComponentSpec {
        let (exit, stubborn);
        let script = match behaviour {
            Behaviour::RunsForever => "exec sleep 1000",
            Behaviour::Exits(code) => {
                exit = format!("exit {code}");
                &exit
            }
            Behaviour::IgnoresSignals => {
                let flag = self.root.path().join(id);
                let flag = flag.display();
                stubborn = format!("trap '' TERM; : > {flag}; while :; do sleep 1000; done");
                &stubborn
            }
            Behaviour::CannotStart => return spec(id, "no-such-program-anywhere", &[]),
        };
        spec(id, "sh", &["-c", script])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_driver_keeps_the_contract() {
    conformance::check(&mut ProcessStage::new()).await;
}
