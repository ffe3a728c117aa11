//! Who is at the root of what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{
    Charge, ComponentId, ComponentPath, ComponentStatus, ConditionKind, Hold, PipelineKey,
    PipelineSpec, Record, ReplicaStatus, StatusCondition, Timestamp,
};

/// Since when components are in a trouble that can be others' cause.
type Troubled<'a> = BTreeMap<&'a ComponentId, Timestamp>;

/// A failure that is noticed so long before its upstream's may still be that one's fault: a probe
/// needs a while to notice.
const TOGETHER: Duration = Duration::from_secs(30);

/// Who waits for whom, and who fell with whom.
#[derive(Debug, Default)]
pub(super) struct Causes {
    /// By a component that waits, or whose last end was charged to another: that other.
    held_by: BTreeMap<ComponentId, ComponentId>,
    /// By a component whose work stands still: another whose work stood still first.
    stilled_by: BTreeMap<ComponentId, ComponentId>,
}

impl Causes {
    /// Takes in one replica.
    pub fn note(
        &mut self,
        component: &ComponentStatus,
        replica: &ReplicaStatus,
        record: Option<&Record>,
    ) {
        let stilled_by = replica.progress.as_ref().and_then(|it| it.held_by.clone());
        if let Some(other) = stilled_by {
            self.stilled_by.insert(component.id.clone(), other);
        }
        let waits = match &replica.hold {
            Some(Hold::WaitingFor { component, .. }) => Some(component.clone()),
            Some(_) | None => None,
        };
        let fell = || {
            let last = record?.history.recent.last()?;
            match &last.charge {
                Charge::Upstream(upstream) if !replica.ready => Some(upstream.clone()),
                Charge::Upstream(_) | Charge::Own => None,
            }
        };
        if let Some(other) = waits.or_else(fell) {
            self.held_by.insert(component.id.clone(), other);
        }
    }

    /// Of what was found, the roots, each with whom it holds up.
    pub fn roots(
        &self,
        pipeline: &PipelineKey,
        spec: &PipelineSpec,
        found: BTreeMap<(ComponentId, ConditionKind), StatusCondition>,
    ) -> Vec<StatusCondition> {
        let mut troubled = Troubled::new();
        for ((id, kind), condition) in &found {
            if holds_others_up(*kind) {
                let since = troubled.entry(id).or_insert(condition.since);
                *since = (*since).min(condition.since);
            }
        }
        let mut blocks: BTreeMap<ComponentId, BTreeSet<ComponentId>> = BTreeMap::new();
        for id in self.held_by.keys().chain(troubled.keys().copied()) {
            let root = self.root_of(id, spec, &troubled);
            if root != id {
                blocks.entry(root.clone()).or_default().insert(id.clone());
            }
        }
        let held: BTreeSet<ComponentId> = blocks.values().flatten().cloned().collect();
        let mut stilled = self.stilled();
        let is_root = |(id, kind): &(ComponentId, ConditionKind)| {
            let is_stilled = *kind == ConditionKind::Stalled && self.stilled_by.contains_key(id);
            let is_held = holds_others_up(*kind) && held.contains(id);
            !(is_stilled || is_held)
        };
        let mut roots = Vec::new();
        for (of, mut condition) in found {
            if !is_root(&of) {
                continue;
            }
            let held = if of.1 == ConditionKind::Stalled {
                stilled.remove(&of.0)
            } else if holds_others_up(of.1) {
                blocks.remove(&of.0)
            } else {
                None
            };
            let path = |component| ComponentPath {
                pipeline: pipeline.clone(),
                component,
            };
            condition.blocks = held.into_iter().flatten().map(path).collect();
            roots.push(condition);
        }
        roots
    }

    /// By each component whose work stood still first: those whose work stands still since.
    fn stilled(&self) -> BTreeMap<ComponentId, BTreeSet<ComponentId>> {
        let mut stilled: BTreeMap<ComponentId, BTreeSet<ComponentId>> = BTreeMap::new();
        for id in self.stilled_by.keys() {
            let (mut root, mut seen) = (id, BTreeSet::from([id]));
            while let Some(next) = self.stilled_by.get(root).filter(|next| seen.insert(*next)) {
                root = next;
            }
            stilled.entry(root.clone()).or_default().insert(id.clone());
        }
        stilled
    }

    /// Follows from a component to what is at the root of its state: itself, where nobody else is
    /// known to be.
    fn root_of<'a>(
        &'a self,
        id: &'a ComponentId,
        spec: &'a PipelineSpec,
        troubled: &Troubled<'a>,
    ) -> &'a ComponentId {
        let mut root = id;
        let mut at = id;
        let mut seen = BTreeSet::from([id]);
        while let Some(next) = self
            .held_by
            .get(at)
            .or_else(|| upstream_of(at, spec, troubled))
        {
            if !seen.insert(next) {
                break;
            }
            if troubled.contains_key(next) {
                root = next;
            }
            at = next;
        }
        root
    }
}

/// An upstream that is in trouble itself: what fails beneath it from then on does so because of it.
/// What failed long before has a cause of its own.
fn upstream_of<'a>(
    id: &ComponentId,
    spec: &'a PipelineSpec,
    troubled: &Troubled<'_>,
) -> Option<&'a ComponentId> {
    let component = spec.components.get(id)?;
    let since = troubled.get(id);
    component
        .dependencies
        .iter()
        .map(|dependency| &dependency.id)
        .find(|upstream| match (troubled.get(upstream), since) {
            (Some(upstream), Some(since)) => since.after(TOGETHER) >= *upstream,
            (Some(_), None) => true,
            (None, _) => false,
        })
}

/// Whether others wait for the end of it.
fn holds_others_up(kind: ConditionKind) -> bool {
    match kind {
        ConditionKind::Failed | ConditionKind::Crashloop | ConditionKind::Unready => true,
        ConditionKind::NotDurable
        | ConditionKind::Blind
        | ConditionKind::Stalled
        | ConditionKind::Rejected
        | ConditionKind::Oom
        | ConditionKind::OverRestarting
        | ConditionKind::LogDropped
        | ConditionKind::Undelivered
        | ConditionKind::ImageRefused => false,
    }
}
