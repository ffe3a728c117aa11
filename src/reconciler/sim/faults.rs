//! What befalls the simulated host and its components.

use std::collections::BTreeMap;

use crate::model::fixtures::{component, container, pipeline, pod};
use crate::model::{
    ComponentId, ComponentSpec, DriverKind, ExitStatus, InstanceId, PipelineSpec, Pull,
};
use crate::model::{Partition, Workload};

use super::super::core::Input;
use super::super::handle::Request;
use super::DAY;
use super::world::{DRIVERS, Random, World};

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The file is saved with another content.
    Edit,
    /// A component ends by itself.
    Exit,
    /// A driver stops answering, or answers again.
    Blindness,
    /// Nobody may look at a namespace of the cluster, or may again.
    Hiding,
    /// The disk is full, or has room again.
    FullDisk,
    /// The daemon is killed, and another starts.
    Death,
    /// A person asks for a start, a stop or a restart.
    Request,
    /// Somebody sets the clock.
    Clock,
    /// The cluster takes what runs from its node.
    Disruption,
    /// The cluster has no room for what is started, or has some again.
    Room,
}

/// Each with its share of 60 steps; in the rest nothing befalls.
const SHARES: [(Fault, u64); 10] = [
    (Fault::Edit, 1),
    (Fault::Exit, 3),
    (Fault::Blindness, 2),
    (Fault::FullDisk, 1),
    (Fault::Death, 2),
    (Fault::Request, 1),
    (Fault::Clock, 1),
    (Fault::Room, 2),
    (Fault::Hiding, 2),
    (Fault::Disruption, 2),
];

impl Fault {
    /// What befalls in this step, if anything.
    pub fn draw(random: &mut Random) -> Option<Self> {
        let mut left = random.below(60);
        SHARES.into_iter().find_map(|(fault, share)| {
            let is_it = left < share;
            left = left.saturating_sub(share);
            is_it.then_some(fault)
        })
    }
}

/// What the file says by now, and which definition each component has come to.
pub(super) struct File {
    pub wanted: PipelineSpec,
    hashes: BTreeMap<u64, u64>,
}

impl File {
    pub fn new(random: &mut Random) -> Self {
        let mut hashes = BTreeMap::new();
        let wanted = random_spec(random, &mut hashes);
        Self { wanted, hashes }
    }
}

impl World {
    pub fn suffer(&mut self, fault: Fault, file: &mut File) {
        match fault {
            Fault::Edit => {
                file.wanted = random_spec(&mut self.random, &mut file.hashes);
                self.apply(file.wanted.clone());
            }
            Fault::Exit => {
                let alive = self.alive();
                if alive.is_empty() {
                    return;
                }
                let id = &alive[self.random.below(alive.len() as u64) as usize];
                let code = i32::try_from(self.random.below(3)).unwrap();
                self.exit(id, ExitStatus::Code(code));
                // Half of the hints are lost; the relist has to find the end.
                if self.random.one_in(2) {
                    let instances = [id.clone()].into();
                    let driver = self.things[id].driver;
                    self.core
                        .handle(Input::Hinted { driver, instances }, self.now);
                }
            }
            Fault::Blindness => {
                let driver = DRIVERS[self.random.below(DRIVERS.len() as u64) as usize];
                if !self.blind.remove(&driver) {
                    self.blind.insert(driver);
                }
            }
            Fault::Hiding => {
                let names = ["one", "two"];
                let namespace = Partition::new(names[self.random.below(2) as usize]);
                if !self.hidden.remove(&namespace) {
                    self.hidden.insert(namespace);
                }
            }
            Fault::FullDisk => self.disk_full = !self.disk_full,
            Fault::Death => {
                self.die();
                // The watch reads the file again at every start.
                self.apply(file.wanted.clone());
            }
            Fault::Request => {
                let ids: Vec<ComponentId> = file.wanted.components.keys().cloned().collect();
                let id = ids[self.random.below(ids.len() as u64) as usize].clone();
                let request = match self.random.below(3) {
                    0 => Request::Stop,
                    1 => Request::Start,
                    _ => Request::Restart(Pull::No),
                };
                self.ask(id.as_str(), request);
            }
            Fault::Clock => {
                let millis = if self.random.one_in(2) { DAY } else { -DAY };
                self.step_clock(millis);
            }
            Fault::Disruption => {
                let is_of_cluster =
                    |id: &&InstanceId| self.things[*id].driver == DriverKind::Kubernetes;
                let alive = self.alive();
                let pods: Vec<&InstanceId> = alive.iter().filter(is_of_cluster).collect();
                if !pods.is_empty() {
                    let one = pods[self.random.below(pods.len() as u64) as usize];
                    self.disrupt(one);
                }
            }
            Fault::Room if self.crowded => self.make_room(),
            Fault::Room => self.crowded = true,
        }
    }
}

/// A random pipeline over up to five components, each depending on some before it.
pub(super) fn random_spec(random: &mut Random, hashes: &mut BTreeMap<u64, u64>) -> PipelineSpec {
    const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut components = Vec::new();
    for (index, id) in IDS.into_iter().enumerate() {
        if random.one_in(5) {
            continue;
        }
        let hash = hashes.entry(index as u64).or_insert(1);
        if random.one_in(3) {
            *hash += 1;
        }
        let known: Vec<String> = components
            .iter()
            .map(|c: &ComponentSpec| c.id.to_string())
            .collect();
        let after: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|_| random.one_in(3))
            .collect();
        let mut spec = component(id, *hash, &after);
        spec.replicas = 1 + u32::try_from(random.below(3)).unwrap() / 2;
        // A component stays with its driver, whatever else is edited.
        match index {
            1 | 3 => spec.workload = container(),
            2 => spec.workload = pod_in("one"),
            4 => spec.workload = pod_in("two"),
            _ => {}
        }
        components.push(spec);
    }
    if components.is_empty() {
        components.push(component("a", 1, &[]));
    }
    pipeline(components)
}

/// What runs as a pod in this namespace.
pub(super) fn pod_in(namespace: &str) -> Workload {
    let mut workload = pod();
    if let Workload::Kubernetes(pod) = &mut workload {
        pod.namespace = Some(namespace.to_owned());
    }
    workload
}
