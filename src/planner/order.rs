//! The graph over `inputs` and `depends_on`: in which order components start and stop.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ComponentId, PipelineSpec};

/// All components, each after what it depends on (Kahn's algorithm). Ties go by id, so equal
/// pipelines have equal orders.
///
/// Total: an edge to a component that does not exist is ignored, and members of a cycle, which
/// [`crate::manifest`] refuses, come last by id.
pub fn start_order(spec: &PipelineSpec) -> Vec<ComponentId> {
    let mut waits_for: BTreeMap<&ComponentId, usize> = BTreeMap::new();
    let mut dependents: BTreeMap<&ComponentId, Vec<&ComponentId>> = BTreeMap::new();
    for (id, component) in &spec.components {
        let known: BTreeSet<&ComponentId> = component
            .dependencies
            .iter()
            .map(|dependency| &dependency.id)
            .filter(|dependency| spec.components.contains_key(*dependency))
            .collect();
        waits_for.insert(id, known.len());
        for dependency in known {
            dependents.entry(dependency).or_default().push(id);
        }
    }
    let mut free: BTreeSet<&ComponentId> = waits_for
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(id, _)| *id)
        .collect();
    let mut order = Vec::with_capacity(spec.components.len());
    while let Some(id) = free.pop_first() {
        waits_for.remove(id);
        order.push(id.clone());
        for dependent in dependents.get(id).into_iter().flatten() {
            if let Some(count) = waits_for.get_mut(dependent) {
                *count -= 1;
                if *count == 0 {
                    free.insert(dependent);
                }
            }
        }
    }
    order.extend(waits_for.into_keys().cloned());
    order
}

/// Which running components depend on which, by what each depended on when it started.
///
/// Edges of different revisions may form a cycle; [`StopGraph::depends_on`] then says that both
/// depend on each other, and neither waits for the other.
#[derive(Debug, Default)]
pub struct StopGraph<'a> {
    after: BTreeMap<&'a ComponentId, BTreeSet<&'a ComponentId>>,
    dependents: BTreeMap<&'a ComponentId, BTreeSet<&'a ComponentId>>,
}

impl<'a> StopGraph<'a> {
    /// Adds that `component` depended on each of `after`.
    pub fn add(&mut self, component: &'a ComponentId, after: &'a [ComponentId]) {
        self.after.entry(component).or_default().extend(after);
        for upstream in after {
            self.dependents
                .entry(upstream)
                .or_default()
                .insert(component);
        }
    }

    /// The components that depended on `component` directly.
    pub fn dependents(&self, component: &ComponentId) -> impl Iterator<Item = &'a ComponentId> {
        self.dependents
            .get(component)
            .into_iter()
            .flatten()
            .copied()
    }

    /// Whether `one` depends on `other`, directly or through others.
    pub fn depends_on(&self, one: &ComponentId, other: &ComponentId) -> bool {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&ComponentId> = self.upstreams(one).collect();
        while let Some(next) = open.pop() {
            if next == other {
                return true;
            }
            if seen.insert(next) {
                open.extend(self.upstreams(next));
            }
        }
        false
    }

    fn upstreams(&self, id: &ComponentId) -> impl Iterator<Item = &'a ComponentId> {
        self.after.get(id).into_iter().flatten().copied()
    }
}
