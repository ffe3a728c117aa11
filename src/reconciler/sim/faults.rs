//! What befalls the simulated host and its components.

use std::collections::BTreeMap;

use crate::model::fixtures::{component, container, pipeline};
use crate::model::{ComponentId, ComponentSpec, ExitStatus, PipelineSpec, Pull};

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
    /// The disk is full, or has room again.
    FullDisk,
    /// The daemon is killed, and another starts.
    Death,
    /// A person asks for a start, a stop or a restart.
    Request,
    /// Somebody sets the clock.
    Clock,
}

/// Each with its share of 60 steps; in the rest nothing befalls.
const SHARES: [(Fault, u64); 7] = [
    (Fault::Edit, 1),
    (Fault::Exit, 3),
    (Fault::Blindness, 2),
    (Fault::FullDisk, 1),
    (Fault::Death, 2),
    (Fault::Request, 1),
    (Fault::Clock, 1),
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
                let driver = DRIVERS[self.random.below(2) as usize];
                if !self.blind.remove(&driver) {
                    self.blind.insert(driver);
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
        if index % 2 == 1 {
            spec.workload = container();
        }
        components.push(spec);
    }
    if components.is_empty() {
        components.push(component("a", 1, &[]));
    }
    pipeline(components)
}
