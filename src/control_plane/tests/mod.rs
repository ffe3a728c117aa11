//! The control plane over real connections, with a real owner behind it.

mod calls;
mod hostile;
mod identity;
mod secured;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::peer::{Ends, LocalUser, OtherEnd};
use super::wire::legacy::control_plane_client::ControlPlaneClient;
use super::wire::v1::control_plane_service_client::ControlPlaneServiceClient;
use super::wire::{legacy, v1};
use super::*;
use crate::model::fixtures::{daemon, pipeline};
use crate::model::{
    ComponentSpec, DriverKind, Facts, Generation, Handle, Health, Instance, InstanceId, Phase,
    PipelineRecord, ProcessIdentity, Record, RegistrationRecord, ReplicaKey, ServiceId, Timestamp,
};
use crate::probe::{Host, Located, PortSite, Ports, Prober, Target, Whose};
use crate::reconciler::{Core, Drivers, Kept, PeerProcess, Probes, Reconciler};

/// Whoever calls is who the test says: a process of the daemon's own user, if it says nothing.
#[derive(Clone)]
struct Callers(Arc<Mutex<OtherEnd>>);

impl Callers {
    fn new() -> Self {
        let ours = OtherEnd {
            user: LocalUser::Operator,
            ..OtherEnd::default()
        };
        Self(Arc::new(Mutex::new(ours)))
    }
}

#[tonic::async_trait]
impl Ends for Callers {
    async fn other_end(&self, _: SocketAddr, _: SocketAddr) -> OtherEnd {
        self.0.lock().unwrap().clone()
    }
}

/// What a plane starts with.
#[derive(Default)]
struct Setting {
    options: ControlPlaneOptions,
    disk: Option<Disk>,
    containers: Option<Arc<dyn Containers>>,
    /// Pipelines by name, and their components, all of which run.
    pipelines: &'static [(&'static str, &'static [&'static str])],
}

/// A control plane with an owner whose disk is a map.
struct Plane {
    callers: Callers,
    owner: ReconcilerHandle,
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
        let disk = Some(disk);
        Self::of(Setting {
            options,
            disk,
            ..Setting::default()
        })
        .await
    }

    async fn of(setting: Setting) -> Self {
        let Setting {
            options,
            disk,
            containers,
            pipelines,
        } = setting;
        let disk = disk.unwrap_or_else(Disk::new);
        let options = match options.port {
            PortChoice::Default => ControlPlaneOptions {
                port: PortChoice::Free,
                ..options
            },
            PortChoice::Free | PortChoice::Exactly(_) | PortChoice::Kept(_) => options,
        };
        let clock = Clock::new();
        let mut kept = Kept {
            registrations: disk.registrations(),
            ..Kept::default()
        };
        let mut number = 100;
        for (name, components) in pipelines {
            let mut spec = pipeline(components.iter().map(|id| model_of(id)).collect());
            spec.key.name = name.parse().unwrap();
            let records = components.iter().map(|id| {
                number += 10;
                running(&format!("default.{name}.{id}.0.1"), number, clock.now())
            });
            kept.records.insert(spec.key.clone(), records.collect());
            let record = PipelineRecord {
                generation: Generation(3),
                file: None,
                watched: false,
                deleting: false,
                spec: Arc::new(spec),
            };
            kept.pipelines.insert(record.spec.key.clone(), record);
        }
        let core = Core::new(kept, [], daemon(), clock.now());
        let (reports, answers) = mpsc::channel(16);
        let (_prober, prober) = Prober::new(reports);
        let probes = Probes {
            prober,
            reports: answers,
            target: Box::new(|instance, _| Target {
                ports: PortSite::new(instance.clone(), Arc::new(Loopback)),
                exec: None,
            }),
            last_line: Arc::new(|_| None),
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
                    // With each full look it is asked whether anything can be recorded at all.
                    let is_question = changes == crate::reconciler::Changes::default();
                    let mut registrations = disk.registrations.lock().unwrap();
                    for (id, record) in changes.registrations {
                        match record {
                            Some(record) => registrations.insert(id, record),
                            None => registrations.remove(&id),
                        };
                    }
                    drop(registrations);
                    if !is_question {
                        disk.commits.send_modify(|commits| *commits += 1);
                    }
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
            owner: owner.clone(),
            clock: clock.clone(),
            keys: Some(Arc::clone(&keys)),
            containers,
        };
        let callers = Callers::new();
        let serving = plane.serve_to(behind, Box::new(callers.clone()), stop.clone());
        let tasks = vec![
            tokio::spawn(reconciler.run(stop.clone())),
            tokio::spawn(serving),
        ];
        Self {
            callers,
            owner,
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

    /// Who calls over connections from now on.
    fn callers_are(&self, user: LocalUser, process: PeerProcess) {
        *self.callers.0.lock().unwrap() = OtherEnd { user, process };
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

fn model_of(id: &str) -> ComponentSpec {
    crate::model::fixtures::component(id, 1, &[])
}

/// A replica that runs as `instance`: its guardian is process `number`, its program the next one.
fn running(instance: &str, number: u32, now: Timestamp) -> (ReplicaKey, Record) {
    let id: InstanceId = instance.parse().unwrap();
    let spec = model_of("a");
    let identity = |pid| ProcessIdentity {
        boot_id: "b".to_owned(),
        pid,
        start_ticks: 7,
    };
    let instance = Instance {
        id: id.clone(),
        spec: spec.hash.clone(),
        driver: DriverKind::Process,
        stop: spec.stop,
        after: Vec::new(),
        holds: Vec::new(),
        stalled: None,
        counted: Default::default(),
        prober: Default::default(),
        partition: None,
        handle: Some(Handle::new(&[identity(number), identity(number + 1)])),
        facts: Facts {
            processes: vec![identity(number), identity(number + 1)],
            ..Facts::default()
        },
        phase: Phase::Running {
            since: now,
            health: Health::default(),
        },
    };
    let record = Record {
        incarnation: id.incarnation,
        instance: Some(instance),
        ..Record::default()
    };
    (id.replica, record)
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

/// Components whose ports are this host's.
struct Loopback;

#[async_trait::async_trait]
impl Ports for Loopback {
    fn locate(&self, _: &crate::model::InstanceId, port: u16) -> Located {
        Located::At(Host::Loopback, port)
    }

    async fn whose(&self, _: &crate::model::InstanceId, _: SocketAddr) -> Whose {
        Whose::Own
    }

    async fn taker(
        &self,
        _: &crate::model::InstanceId,
        _: SocketAddr,
        _: SocketAddr,
    ) -> Option<Whose> {
        Some(Whose::Own)
    }
}
