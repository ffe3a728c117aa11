//! Whose fault an end is: a component that exits since its upstream is away spends none of its
//! own restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{
    Charge, ComponentId, ComponentSpec, Condition, EndCause, PipelineSpec, Record, ReplicaKey,
    Timestamp,
};

use super::gate;

/// The probe period that is assumed for a component without a readiness probe: kubelet's default.
const DEFAULT_PERIOD: Duration = Duration::from_secs(10);

/// Whom an end of `component` right now is charged to: the first upstream that is not ready.
pub fn charge(
    spec: &PipelineSpec,
    records: &BTreeMap<ReplicaKey, Record>,
    component: &ComponentSpec,
) -> Charge {
    component
        .dependencies
        .iter()
        .filter(|dependency| dependency.condition != Condition::Completed)
        .find(|dependency| {
            spec.components
                .get(&dependency.id)
                .is_some_and(|upstream| gate::unmet(upstream, records, Condition::Ready).is_some())
        })
        .map_or(Charge::Own, |dependency| {
            Charge::Upstream(dependency.id.clone())
        })
}

/// The replicas whose last failure is taken back now that `upstream` is seen unready: dependents
/// that ended by themselves within two of its probe periods, since it must have been away by then.
pub fn wronged(
    spec: &PipelineSpec,
    records: &BTreeMap<ReplicaKey, Record>,
    upstream: &ComponentId,
    now: Timestamp,
) -> Vec<ReplicaKey> {
    let Some(blamed) = spec.components.get(upstream) else {
        return Vec::new();
    };
    let period = blamed
        .probes
        .readiness
        .as_ref()
        .map_or(DEFAULT_PERIOD, |p| p.period.get());
    let depends = |id: &ComponentId| {
        spec.components.get(id).is_some_and(|component| {
            component.dependencies.iter().any(|dependency| {
                dependency.id == *upstream && dependency.condition != Condition::Completed
            })
        })
    };
    let recent = |record: &Record| {
        record.history.last.as_ref().is_some_and(|last| {
            last.cause == EndCause::Itself(Charge::Own)
                && now.since(last.exit.at) <= period.saturating_mul(2)
        })
    };
    records
        .iter()
        .filter(|(key, record)| {
            record.instance.is_none() && depends(&key.component) && recent(record)
        })
        .map(|(key, _)| key.clone())
        .collect()
}
