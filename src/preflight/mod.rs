//! What can be known to be wrong before anything is touched: a program that is not there, a port
//! that a stranger holds.
//!
//! **Guarantees.** [`preflight`] changes nothing and starts nothing. It reports all problems of all
//! components in one list, in the order of their names, each once. What a start would refuse is
//! found by the start's own functions, in the same words.
//! What it cannot know (files and users inside a container, a user of a directory service) it
//! does not report.
//!
//! **Assumptions.** It reads files, `/proc` and the host's users, so it may block: async callers run it on a thread
//! of its own. Its answer is about now; what happens between it and a start is the driver's to
//! tell.

mod conflict;
mod listeners;
mod ports;
#[cfg(test)]
mod tests;
mod wanted;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::driver::process::{Inheritance, foresee};
use crate::model::{
    ComponentId, ComponentSpec, InstanceId, PipelineKey, PipelineSpec, PipelineStatus, Snapshot,
    SpecHash,
};

pub use wanted::wants_port;

use ports::Sockets;

pub use listeners::{Answerer, Proof, answerer, taker};
pub use ports::Holder;

/// Something that would keep a component from running.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PreflightProblem {
    /// In which pipeline.
    pub pipeline: PipelineKey,
    /// Which component.
    pub component: ComponentId,
    /// What is wrong, and what to do about it.
    pub what: String,
}

impl fmt::Display for PreflightProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.component, self.what)
    }
}

/// An instance of ours that runs now, as far as its ports go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which one.
    pub instance: InstanceId,
    /// The revision that it runs; `None` = not known.
    pub spec: Option<SpecHash>,
    /// The process of its program; `None` for one that runs elsewhere, as in a container.
    pub pid: Option<u32>,
    /// The host's ports that are its own.
    pub ports: BTreeSet<u16>,
}

impl Running {
    /// Every running instance of `snapshot`.
    pub fn all(snapshot: &Snapshot) -> Vec<Self> {
        let pipelines = snapshot.pipelines.iter();
        pipelines.flat_map(|status| Self::of(status)).collect()
    }

    fn of(status: &PipelineStatus) -> impl Iterator<Item = Self> {
        let components = status.components.iter();
        let replicas = components.flat_map(|component| &component.replicas);
        replicas
            .filter(|replica| replica.pid.is_some() || replica.container.is_some())
            .filter_map(|replica| {
                let addresses = replica.addresses.values();
                Some(Self {
                    instance: replica.instance.clone()?,
                    spec: replica.spec.clone(),
                    pid: replica.pid,
                    ports: addresses
                        .filter_map(|address| address.rsplit_once(':')?.1.parse().ok())
                        .collect(),
                })
            })
    }
}

/// What would keep these pipelines from running, beside `running`, what already does.
/// `inheritance` is what of the daemon's own they would get.
///
/// A component of which nothing is to be started, since it runs as it is wanted, is not looked at.
pub fn preflight(
    pipelines: &[&PipelineSpec],
    running: &[Running],
    inheritance: &Inheritance,
) -> Vec<PreflightProblem> {
    look(Whom::ToStart, pipelines, running, inheritance)
}

/// What is in the way of these pipelines, also of what runs already: it was started regardless.
pub fn in_the_way(
    pipelines: &[&PipelineSpec],
    running: &[Running],
    inheritance: &Inheritance,
) -> Vec<PreflightProblem> {
    look(Whom::All, pipelines, running, inheritance)
}

/// Which components are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// Those of which something is to be started.
    ToStart,
    /// All.
    All,
}

fn look(
    whom: Whom,
    pipelines: &[&PipelineSpec],
    running: &[Running],
    inheritance: &Inheritance,
) -> Vec<PreflightProblem> {
    let world = World {
        pipelines,
        running: by_component(running),
        sockets: LazyCell::new(Sockets::read),
    };
    let mut problems = BTreeSet::new();
    for pipeline in pipelines {
        for spec in pipeline.components.values() {
            let own = world.running.get(&(&pipeline.key, &spec.id));
            let own = own.map_or(&[][..], Vec::as_slice);
            if whom == Whom::ToStart && runs_as_wanted(own, spec) {
                continue;
            }
            let mut list = List {
                pipeline: &pipeline.key,
                component: &spec.id,
                problems: &mut problems,
            };
            for refusal in foresee(spec, inheritance) {
                list.insert(refusal.message);
            }
            for port in conflict::needed(spec) {
                world.check_port(own, spec, &port, &mut list);
            }
        }
    }
    problems.into_iter().collect()
}

/// The components of which something is to be started beside `running`, what already runs.
pub fn to_start<'a>(pipelines: &'a [PipelineSpec], running: &[Running]) -> Vec<&'a ComponentSpec> {
    let running = by_component(running);
    let is_missing = |pipeline: &PipelineSpec, spec: &ComponentSpec| {
        let own = running.get(&(&pipeline.key, &spec.id));
        !runs_as_wanted(own.map_or(&[][..], Vec::as_slice), spec)
    };
    let of = |pipeline: &'a PipelineSpec| {
        let components = pipeline.components.values();
        components.filter(move |spec| is_missing(pipeline, spec))
    };
    pipelines.iter().flat_map(of).collect()
}

fn runs_as_wanted(own: &[&Running], spec: &ComponentSpec) -> bool {
    let same = own
        .iter()
        .filter(|one| one.spec.as_ref() == Some(&spec.hash));
    u32::try_from(same.count()).is_ok_and(|count| count >= spec.replicas)
}

type ByComponent<'a> = BTreeMap<(&'a PipelineKey, &'a ComponentId), Vec<&'a Running>>;

fn by_component(running: &[Running]) -> ByComponent<'_> {
    let mut map = ByComponent::new();
    for one in running {
        let InstanceId {
            pipeline, replica, ..
        } = &one.instance;
        map.entry((pipeline, &replica.component))
            .or_default()
            .push(one);
    }
    map
}

/// What is wanted, what runs, and what is read of this host once, when it is first needed.
struct World<'a> {
    pipelines: &'a [&'a PipelineSpec],
    running: ByComponent<'a>,
    sockets: LazyCell<Sockets>,
}

/// Where the problems of one component go.
struct List<'a> {
    pipeline: &'a PipelineKey,
    component: &'a ComponentId,
    problems: &'a mut BTreeSet<PreflightProblem>,
}

/// What is wrong with something, as the end of a sentence, and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    what: String,
    hint: &'static str,
}

impl Trouble {
    fn new(what: impl Into<String>, hint: &'static str) -> Self {
        let what = what.into();
        Self { what, hint }
    }
}

impl List<'_> {
    fn add(&mut self, trouble: Option<Trouble>, subject: impl FnOnce() -> String) {
        if let Some(Trouble { what, hint }) = trouble {
            self.insert(format!("{} {what}; {hint}", subject()));
        }
    }

    fn insert(&mut self, what: String) {
        self.problems.insert(PreflightProblem {
            pipeline: self.pipeline.clone(),
            component: self.component.clone(),
            what,
        });
    }
}
