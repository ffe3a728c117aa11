//! Where the probes of an instance ask, and where its work is looked at.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::answers;
use super::engine::Contained;
use crate::driver::Launch;
use crate::driver::docker::DockerDriver;
use crate::driver::logs::last_written;
use crate::driver::nomad::NomadDriver;
use crate::driver::process::{self, ProcessDriver};
use crate::model::{DriverKind, InstanceId};
use crate::probe::{Ended, Ending, ExecSite, Inside, NotBegun, ProberHandle, Report, Target};
use crate::reconciler::{Environment, Probes};

/// What is injected into instances, once the daemon knows.
pub(super) type Injection = Arc<OnceLock<Environment>>;

/// How probes are asked of what these drivers run, and what they wrote below `logs` is looked at.
pub(super) fn probes(
    prober: ProberHandle,
    reports: mpsc::Receiver<Report>,
    (process, docker, nomad): (&Arc<ProcessDriver>, &Arc<DockerDriver>, &Arc<NomadDriver>),
    injection: &Injection,
    logs: PathBuf,
) -> Probes {
    let (process, injection) = (Arc::clone(process), Arc::clone(injection));
    let (docker, nomad) = (Arc::clone(docker), Arc::clone(nomad));
    Probes {
        prober,
        reports,
        target: Box::new(move |instance, spec| Target {
            ports: answers::ports(&process, &docker, &nomad, instance, spec.driver()),
            exec: match spec.driver() {
                DriverKind::Process => {
                    let beside = Beside {
                        process: Arc::clone(&process),
                        injection: Arc::clone(&injection),
                    };
                    Some(ExecSite::new(instance.clone(), Arc::new(beside)))
                }
                DriverKind::Docker => {
                    let inside = Arc::new(Contained(Arc::clone(&docker)));
                    Some(ExecSite::new(instance.clone(), inside))
                }
                DriverKind::Nomad | DriverKind::Kubernetes => None,
            },
        }),
        last_line: Arc::new(move |instance| last_written(&logs, instance)),
    }
}

/// The process driver, for exec probes: they run as the program of their instance does.
struct Beside {
    process: Arc<ProcessDriver>,
    injection: Injection,
}

#[async_trait]
impl Inside for Beside {
    async fn begin(&self, instance: &InstanceId, command: &[String]) -> Result<Ending, NotBegun> {
        let injection = Arc::clone(&self.injection);
        let injected =
            move |launch: &Launch| injection.get().map(|of| of(launch)).unwrap_or_default();
        let begun = self.process.exec(instance, command, injected).await;
        let ending = begun.map_err(|error| match error {
            process::NotBegun::Component(why) => NotBegun::Component(why),
            process::NotBegun::NoPlace(why) => NotBegun::NoPlace(why),
        })?;
        Ok(Box::pin(async {
            let process::Ran { status, output } = ending.await?;
            Ok(Ended { status, output })
        }))
    }
}
