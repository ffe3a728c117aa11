//! Where the ports of instances answer, and whose answers these are: what probes ask the drivers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::driver::docker::{DockerDriver, Reached};
use crate::driver::nomad::NomadDriver;
use crate::driver::process::ProcessDriver;
use crate::model::{DriverKind, InstanceId};
use crate::preflight::{self, Answerer, Proof};
use crate::probe::{Host, Located, PortSite, Ports, Whose};

/// The ports of `instance`.
pub(super) fn ports(
    process: &Arc<ProcessDriver>,
    docker: &Arc<DockerDriver>,
    nomad: &Arc<NomadDriver>,
    instance: &InstanceId,
    driver: DriverKind,
) -> PortSite {
    let ports: Arc<dyn Ports> = match driver {
        DriverKind::Docker => Arc::new(OfContainer(Arc::clone(docker))),
        DriverKind::Nomad => Arc::new(OfJob(Arc::clone(nomad))),
        DriverKind::Process | DriverKind::Kubernetes => {
            Arc::new(OfProcess::new(Arc::clone(process)))
        }
    };
    PortSite::new(instance.clone(), ports)
}

/// The ports of a process.
struct OfProcess {
    process: Arc<ProcessDriver>,
    /// By what it was last found that an address is the instance's own.
    proofs: Arc<Mutex<HashMap<SocketAddr, Proof>>>,
}

impl OfProcess {
    fn new(process: Arc<ProcessDriver>) -> Self {
        let proofs = Arc::default();
        Self { process, proofs }
    }
}

#[async_trait]
impl Ports for OfProcess {
    fn locate(&self, _: &InstanceId, port: u16) -> Located {
        Located::At(Host::Loopback, port)
    }

    async fn whose(&self, instance: &InstanceId, address: SocketAddr) -> Whose {
        let proof = lock(&self.proofs).get(&address).cloned();
        if proof.is_some_and(|proof| proof.holds()) {
            return Whose::Own;
        }
        let (process, proofs) = (Arc::clone(&self.process), Arc::clone(&self.proofs));
        let instance = instance.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let Some(program) = process.program(&instance) else {
                return Whose::Unknown;
            };
            let found =
                preflight::answerer(address, program, |holder| holder.is_of(&instance, program));
            if let Answerer::Own(Some(proof)) = &found {
                lock(&proofs).insert(address, proof.clone());
            }
            whose(found)
        });
        looked.await.unwrap_or(Whose::Unknown)
    }

    async fn taker(
        &self,
        instance: &InstanceId,
        ours: SocketAddr,
        theirs: SocketAddr,
    ) -> Option<Whose> {
        let (process, instance) = (Arc::clone(&self.process), instance.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let program = process.program(&instance)?;
            preflight::taker(ours, theirs, program).map(whose)
        });
        looked.await.ok().flatten()
    }
}

fn whose(found: Answerer) -> Whose {
    match found {
        Answerer::Own(_) => Whose::Own,
        Answerer::Other(who) => Whose::Other(who),
        Answerer::Shared => Whose::Shared,
        Answerer::Unknown => Whose::Unknown,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ports of a container.
struct OfContainer(Arc<DockerDriver>);

#[async_trait]
impl Ports for OfContainer {
    fn locate(&self, instance: &InstanceId, port: u16) -> Located {
        match self.0.reach(instance, port) {
            Some(Reached::At(address)) => Located::At(Host::Ip(address.ip()), address.port()),
            Some(Reached::Nowhere) => Located::OutOfReach,
            None => Located::NotSeen,
        }
    }

    /// A published port is its engine's, which gave it to this container alone. On the host's own
    /// network it is as with processes.
    async fn whose(&self, instance: &InstanceId, address: SocketAddr) -> Whose {
        let Some(program) = self.0.program_on_host(instance) else {
            return Whose::Own;
        };
        let (docker, instance) = (Arc::clone(&self.0), instance.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let is_own = |holder: &preflight::Holder| docker.is_inside(holder.pid, &instance);
            whose(preflight::answerer(address, program, is_own))
        });
        looked.await.unwrap_or(Whose::Unknown)
    }

    async fn taker(
        &self,
        instance: &InstanceId,
        ours: SocketAddr,
        theirs: SocketAddr,
    ) -> Option<Whose> {
        let program = self.0.program_on_host(instance)?;
        let looked = tokio::task::spawn_blocking(move || preflight::taker(ours, theirs, program));
        looked.await.ok().flatten().map(whose)
    }
}

/// The ports of a job of Nomad's, on the node that it was placed on.
struct OfJob(Arc<NomadDriver>);

#[async_trait]
impl Ports for OfJob {
    fn locate(&self, instance: &InstanceId, port: u16) -> Located {
        match self.0.reach(instance, port) {
            Some(address) => Located::At(Host::Ip(address.ip()), address.port()),
            None => Located::NotSeen,
        }
    }

    /// Nomad has given it to this job alone.
    async fn whose(&self, _: &InstanceId, _: SocketAddr) -> Whose {
        Whose::Own
    }

    async fn taker(&self, _: &InstanceId, _: SocketAddr, _: SocketAddr) -> Option<Whose> {
        None
    }
}
