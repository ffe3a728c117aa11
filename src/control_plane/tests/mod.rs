//! The control plane over real connections, with a real owner behind it.

mod calls;
mod hostile;
mod secured;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::wire::legacy::control_plane_client::ControlPlaneClient;
use super::wire::v1::control_plane_service_client::ControlPlaneServiceClient;
use super::wire::{legacy, v1};
use super::*;
use crate::model::fixtures::daemon;
use crate::model::{RegistrationRecord, ServiceId, Timestamp};
use crate::probe::{Addresses, Host, Prober, Target};
use crate::reconciler::{Core, Drivers, Kept, Probes, Reconciler};

/// A control plane with an owner whose disk is a map.
struct Plane {
    address: SocketAddr,
    doors: Doors,
    keys: Arc<Keyring>,
    clock: Clock,
    disk: Disk,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// What an owner recorded, and whether it can.
#[derive(Clone)]
struct Disk {
    registrations: Arc<Mutex<BTreeMap<ServiceId, RegistrationRecord>>>,
    commits: watch::Sender<usize>,
    hangs: watch::Sender<bool>,
}

impl Disk {
    fn new() -> Self {
        let registrations = Arc::default();
        Self {
            registrations,
            commits: watch::Sender::new(0),
            hangs: watch::Sender::new(false),
        }
    }

    fn registrations(&self) -> BTreeMap<ServiceId, RegistrationRecord> {
        self.registrations.lock().unwrap().clone()
    }
}

impl Plane {
    async fn start() -> Self {
        Self::with(ControlPlaneOptions::default(), Disk::new()).await
    }

    /// A plane on a free port that starts from what `disk` holds.
    async fn with(options: ControlPlaneOptions, disk: Disk) -> Self {
        Self::beside(None, options, disk).await
    }

    /// A plane that knows of an engine's containers.
    async fn beside(
        containers: Option<Arc<dyn Containers>>,
        options: ControlPlaneOptions,
        disk: Disk,
    ) -> Self {
        let options = match options.port {
            PortChoice::Default => ControlPlaneOptions {
                port: PortChoice::Free,
                ..options
            },
            PortChoice::Free | PortChoice::Exactly(_) | PortChoice::Kept(_) => options,
        };
        let clock = Clock::new();
        let kept = Kept {
            registrations: disk.registrations(),
            ..Kept::default()
        };
        let core = Core::new(kept, [], daemon(), clock.now());
        let (reports, answers) = mpsc::channel(16);
        let (_prober, prober) = Prober::new(reports);
        let probes = Probes {
            prober,
            reports: answers,
            target: Box::new(|_, _| Target {
                addresses: Addresses::Host(Host::Loopback),
                exec: None,
            }),
        };
        let written = disk.clone();
        let recorder = Box::new(
            move |changes: crate::reconciler::Changes,
                  _,
                  done: Box<dyn FnOnce(Result<(), String>) + Send>| {
                let disk = written.clone();
                let mut hangs = disk.hangs.subscribe();
                tokio::spawn(async move {
                    hangs.wait_for(|hangs| !hangs).await.unwrap();
                    let mut registrations = disk.registrations.lock().unwrap();
                    for (id, record) in changes.registrations {
                        match record {
                            Some(record) => registrations.insert(id, record),
                            None => registrations.remove(&id),
                        };
                    }
                    drop(registrations);
                    disk.commits.send_modify(|commits| *commits += 1);
                    done(Ok(()));
                });
            },
        );
        let (reconciler, owner) =
            Reconciler::new(core, clock.clone(), Drivers::new(), recorder, probes);
        let stop = CancellationToken::new();
        let keys = Arc::new(Keyring::transient().unwrap());
        let plane = ControlPlane::bind(options).unwrap();
        let (address, doors) = (plane.address(), plane.doors());
        let behind = Behind {
            owner,
            clock: clock.clone(),
            keys: Some(Arc::clone(&keys)),
            containers,
        };
        let serving = plane.serve(behind, stop.clone());
        let tasks = vec![
            tokio::spawn(reconciler.run(stop.clone())),
            tokio::spawn(serving),
        ];
        Self {
            address,
            doors,
            keys,
            clock,
            disk,
            stop,
            tasks,
        }
    }

    /// Ends it, as a crash would: what it recorded is all that is left.
    async fn end(self) -> (SocketAddr, Disk) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.address, self.disk)
    }

    async fn channel(&self) -> Channel {
        channel(self.address).await
    }

    async fn legacy(&self) -> ControlPlaneClient<Channel> {
        ControlPlaneClient::new(self.channel().await)
    }

    async fn sdk(&self) -> ControlPlaneServiceClient<Channel> {
        ControlPlaneServiceClient::new(self.channel().await)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
    endpoint
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap()
}

fn component(id: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        component: Some(v1::ComponentInfo {
            id: id.to_owned(),
            r#type: v1::ComponentType::Processor.into(),
            input_event_types: vec!["ledger".to_owned()],
            output_event_types: vec!["transfer".to_owned()],
            endpoint: ":50051".to_owned(),
            metadata: [("network".to_owned(), "testnet".to_owned())].into(),
            ..v1::ComponentInfo::default()
        }),
        component_id: String::new(),
    }
}

fn by_name(id: &str) -> legacy::ServiceInfo {
    legacy::ServiceInfo {
        service_id: id.to_owned(),
        ..legacy::ServiceInfo::default()
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Code {
    answer.unwrap_err().code()
}
