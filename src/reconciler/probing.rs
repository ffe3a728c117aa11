//! Which instances are probed, and what their answers change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    ComponentSpec, Counts, EngineHealth, EventKind, Instance, InstanceId, Phase, ProbeKind,
    ProbeOutcome, Prober, Probes, ReplicaKey,
};
use crate::planner::health::{self, Meaning};
use crate::probe::{Found, Report, Stage};

use super::core::Core;
use super::ledger::Ledger;
use super::pipeline::Pipeline;

/// A running instance whose probes are to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Probing {
    /// Its component, as the file wants it now.
    pub spec: Arc<ComponentSpec>,
    /// How far it has come.
    pub stage: Stage,
    /// Whether this daemon started it.
    pub found: Found,
}

/// What changed about one instance's probing; `None` = it is probed no more.
pub type ProbingChange = (InstanceId, Option<Probing>);

impl Core {
    /// Takes in what one ask gave. An answer about an ended instance is dropped.
    pub(super) fn probed(&mut self, report: &Report) {
        let id = &report.instance;
        if let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) {
            let Report {
                kind,
                outcome,
                counts,
                ..
            } = report;
            pipeline.judged(id, *kind, outcome, *counts, &mut self.ledger);
        }
    }
}

impl Pipeline {
    /// Takes in what one probe of `id` says.
    pub(super) fn judged(
        &mut self,
        id: &InstanceId,
        kind: ProbeKind,
        outcome: &ProbeOutcome,
        counts: Counts,
        ledger: &mut Ledger,
    ) {
        let key = &id.replica;
        let Some(probes) = self.asked_probes(key) else {
            return;
        };
        let Some(Instance {
            phase: Phase::Running { health, .. },
            ..
        }) = self
            .records
            .get_mut(key)
            .and_then(|record| record.instance.as_mut())
            .filter(|instance| instance.id == *id)
        else {
            return;
        };
        let change = health::apply(health, &probes, kind, counts, outcome, ledger.now);
        let told = change.health.why != health.why;
        *health = change.health;
        self.dirty |= told;
        if change.meaning != Meaning::Nothing {
            self.dirty = true;
            ledger.touch(&self.desired.key, key);
        }
        self.act_on(id, change.meaning, ledger);
    }

    /// The probes of `key` that the daemon asks: its engine may ask the others.
    pub(super) fn asked_probes(&self, key: &ReplicaKey) -> Option<Probes> {
        let spec = self.desired.wants(key)?;
        let record = self.records.get(key);
        let instance = record.and_then(|record| record.instance.as_ref());
        let prober = instance.map_or(Prober::Flowctl, |instance| instance.prober);
        Some(health::asked(prober, &spec.probes).into_owned())
    }

    /// Takes in what the engine of `id` says of its health.
    pub(super) fn engine_said(
        &mut self,
        id: &InstanceId,
        said: Option<EngineHealth>,
        ledger: &mut Ledger,
    ) {
        let key = &id.replica;
        let Some(probes) = self.asked_probes(key) else {
            return;
        };
        let Some(Instance {
            prober,
            phase: Phase::Running { health, .. },
            ..
        }) = self
            .records
            .get(key)
            .and_then(|record| record.instance.as_ref())
        else {
            return;
        };
        if health.engine == said {
            return;
        }
        let change = health::checked(health, (*prober, &probes), said, ledger.now);
        self.change(key, ledger, |record| {
            if let Some(Instance {
                phase: Phase::Running { health, .. },
                ..
            }) = &mut record.instance
            {
                *health = change.health;
            }
        });
        self.act_on(id, change.meaning, ledger);
    }

    pub(super) fn act_on(&mut self, id: &InstanceId, meaning: Meaning, ledger: &mut Ledger) {
        let key = &id.replica;
        let (kind, reason, message) = match meaning {
            Meaning::Nothing | Meaning::Started => return,
            Meaning::BecameReady => {
                let reason = "its readiness probe passed".to_owned();
                (EventKind::Ready, reason, format!("{key} is ready"))
            }
            Meaning::BecameUnready(why) => {
                self.take_back_from(key, ledger);
                (
                    EventKind::Unready,
                    why,
                    format!("{key} is not ready any more"),
                )
            }
            Meaning::Failed(cause) => {
                let reason = cause.to_string();
                self.change(key, ledger, |record| {
                    if let Some(Instance {
                        phase: Phase::Running { health, .. },
                        ..
                    }) = &mut record.instance
                    {
                        health.condemned = Some(cause);
                    }
                });
                (
                    EventKind::Unready,
                    reason,
                    format!("{key} has to be replaced"),
                )
            }
        };
        self.emit(ledger, key, Some(id), kind, reason, message);
    }

    /// What changed about its probing since the last call.
    pub(super) fn probing_changes(&mut self) -> Vec<ProbingChange> {
        let mut wanted = BTreeMap::new();
        for (key, record) in &self.records {
            let Some(Instance {
                id,
                spec: revision,
                prober,
                phase: Phase::Running { health, .. },
                ..
            }) = &record.instance
            else {
                continue;
            };
            let Some(spec) = self.desired.wants(key) else {
                continue;
            };
            // What runs is an older revision: the probes of the new one are not about it.
            let probes = health::asked(*prober, &spec.probes);
            if *revision != spec.hash || !is_probed(&probes) {
                continue;
            }
            wanted.insert(id.clone(), (spec, probes, Stage::from(health)));
        }
        let gone = self
            .probing
            .keys()
            .filter(|id| !wanted.contains_key(*id))
            .cloned();
        let mut changes: Vec<ProbingChange> = gone.map(|id| (id, None)).collect();
        for (id, _) in &changes {
            self.probing.remove(id);
        }
        for (id, (spec, probes, stage)) in wanted {
            let known = self.probing.get(&id);
            if known.is_some_and(|known| known.stage == stage && known.spec.probes == *probes) {
                continue;
            }
            let found = if self.fresh.contains(&id) {
                Found::Fresh
            } else {
                Found::Adopted
            };
            let probing = Probing {
                spec: Arc::new(ComponentSpec {
                    probes: probes.into_owned(),
                    ..spec.clone()
                }),
                stage,
                found,
            };
            self.probing.insert(id.clone(), probing.clone());
            changes.push((id, Some(probing)));
        }
        changes
    }
}

fn is_probed(probes: &Probes) -> bool {
    [&probes.startup, &probes.readiness, &probes.liveness]
        .iter()
        .any(|probe| probe.is_some())
}
