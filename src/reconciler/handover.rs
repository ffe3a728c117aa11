//! What changes hands between pipelines: who leaves, and who waits for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Hold, InstanceId, PipelineKey, Plan};
use crate::planner::{Bond, Leaving, leaving};

use super::core::Core;
use super::pipeline::Pipeline;

/// The instances that have to go, and those that another pipeline waits for.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    /// By the pipeline that they are of; pipelines without any are not listed.
    leaving: BTreeMap<PipelineKey, Vec<Leaving>>,
    /// By the pipeline that waits for them.
    awaited: BTreeMap<PipelineKey, BTreeSet<InstanceId>>,
}

impl Core {
    /// Finds out anew who leaves the pipelines that are to be planned. Whoever waits for one that is
    /// gone by now is planned too.
    pub(super) fn find_leaving(&mut self) {
        let mut is_any_gone = false;
        let pipelines = &self.pipelines;
        self.handovers.leaving.retain(|key, _| {
            let is_there = pipelines.contains_key(key);
            is_any_gone |= !is_there;
            is_there
        });
        for (key, pipeline) in pipelines.iter().filter(|(_, one)| one.dirty) {
            let now = leaving(&pipeline.desired, &pipeline.records);
            let before = if now.is_empty() {
                self.handovers.leaving.remove(key)
            } else {
                self.handovers.leaving.insert(key.clone(), now.clone())
            };
            is_any_gone |= before.is_some_and(|before| before != now);
        }
        if is_any_gone {
            for key in self.handovers.awaited.keys() {
                if let Some(waiting) = self.pipelines.get_mut(key) {
                    waiting.dirty = true;
                }
            }
        }
    }

    /// The instances of other pipelines that have to go, as `pipeline` is to see them: only what
    /// left the same file may be its own under another name.
    pub(super) fn leaving_elsewhere(&self, pipeline: &Pipeline) -> Vec<Leaving> {
        let others = self.handovers.leaving.iter();
        let others = others.filter(|(key, _)| *key != pipeline.key());
        let seen = |(key, leaving): (&PipelineKey, &Vec<Leaving>)| {
            let file = self
                .pipelines
                .get(key)
                .and_then(|one| one.kept.file.as_ref());
            let is_same_file = file.is_some() && file == pipeline.kept.file.as_ref();
            let seen = leaving.iter().map(move |one| {
                let mut one = one.clone();
                if one.bond == Bond::Removed && !is_same_file {
                    one.bond = Bond::Stops;
                }
                one
            });
            seen.collect::<Vec<Leaving>>()
        };
        others.flat_map(seen).collect()
    }

    /// The instances of `pipeline` that another one waits for.
    pub(super) fn awaited_of(&self, pipeline: &PipelineKey) -> BTreeSet<&InstanceId> {
        let others = self.handovers.awaited.values().flatten();
        others.filter(|id| id.pipeline == *pipeline).collect()
    }

    /// Notes whom `pipeline` waits for in others; those that did not know yet are planned again.
    pub(super) fn note_awaited(&mut self, pipeline: &PipelineKey, plan: &Plan) {
        let awaited: BTreeSet<InstanceId> = plan
            .holds
            .values()
            .filter_map(|hold| match hold {
                Hold::Handover { holders } => Some(holders),
                Hold::Backoff { .. }
                | Hold::WaitingFor { .. }
                | Hold::StopsAfter { .. }
                | Hold::InFlight { .. }
                | Hold::Pending(_)
                | Hold::BecomingReady { .. }
                | Hold::Unhealthy { .. }
                | Hold::StartFailed { .. }
                | Hold::Leftover { .. }
                | Hold::StopFailed { .. }
                | Hold::Blind { .. }
                | Hold::NoDriver { .. }
                | Hold::Frozen { .. }
                | Hold::StoppedByRequest
                | Hold::Completed
                | Hold::Failed { .. }
                | Hold::GaveUp { .. } => None,
            })
            .flatten()
            .filter(|holder| holder.pipeline.is_some())
            .map(|holder| holder.instance.clone())
            .collect();
        let before = if awaited.is_empty() {
            self.handovers.awaited.remove(pipeline)
        } else {
            self.handovers
                .awaited
                .insert(pipeline.clone(), awaited.clone())
        };
        let before = before.unwrap_or_default();
        for instance in awaited.difference(&before) {
            if let Some(other) = self.pipelines.get_mut(&instance.pipeline) {
                other.dirty = true;
            }
        }
    }
}
