//! What is wrong, since when, why, and whom it holds up. Pure.
//!
//! **Expected flow.** The owner of the state keeps a [`Memory`] for each pipeline and asks it with
//! every change of what readers see ([`Memory::look`]); what concerns the daemon as a whole comes
//! from [`blind`] and [`not_durable`].
//!
//! **Guarantees.** Only a root cause is a condition. Whoever waits for another component, or fell
//! with it, is named by that one's condition and raises none. What begins and ends within a normal
//! start raises none either.
//!
//! **What it does not do.** It tells nobody, and records nothing: what is kept over restarts comes
//! from the records of replicas.

mod cause;
mod memory;
#[cfg(test)]
mod tests;
mod verdict;

pub use memory::Memory;
pub use verdict::{HEALTH_SCHEMA, Health, HealthColour, Indicator, health};

use crate::model::{
    ComponentPath, ConditionKind, DriverKind, Hidden, Hold, InstanceId, Partition, PhaseName,
    PipelineKey, PipelineStatus, ReplicaStatus, StatusCondition, Timestamp,
};

/// The condition of a driver that does not answer; it holds up whatever it runs.
pub fn blind<'a>(
    driver: DriverKind,
    since: Timestamp,
    why: &str,
    pipelines: impl IntoIterator<Item = &'a PipelineStatus>,
) -> StatusCondition {
    let mut blocks = Vec::new();
    for pipeline in pipelines {
        let of_it = pipeline.components.iter().filter(|component| {
            component.driver == driver
                && component
                    .replicas
                    .iter()
                    .any(|replica| replica.phase == PhaseName::Unknown)
        });
        blocks.extend(of_it.map(|component| ComponentPath {
            pipeline: pipeline.key(),
            component: component.id.clone(),
        }));
    }
    StatusCondition {
        about: Some(driver.to_string()),
        blocks,
        ..whole(ConditionKind::Blind, since, why.to_owned())
    }
}

/// The condition of a part of what a driver runs that it cannot look at; it holds up whatever runs
/// there.
pub fn hidden<'a>(
    (driver, partition): (DriverKind, &Partition),
    since: Timestamp,
    why: &str,
    pipelines: impl IntoIterator<Item = &'a PipelineStatus>,
) -> StatusCondition {
    let is_there = |replica: &ReplicaStatus| match &replica.hold {
        Some(Hold::Blind {
            driver: of,
            hidden: Some(Hidden::Partition(part)),
            ..
        }) => *of == driver && part == partition,
        Some(_) | None => false,
    };
    let mut blocks = Vec::new();
    for pipeline in pipelines {
        let of_it = pipeline.components.iter();
        let of_it = of_it.filter(|component| component.replicas.iter().any(is_there));
        blocks.extend(of_it.map(|component| ComponentPath {
            pipeline: pipeline.key(),
            component: component.id.clone(),
        }));
    }
    StatusCondition {
        about: Some(format!("{driver} {partition}")),
        blocks,
        ..whole(ConditionKind::Blind, since, why.to_owned())
    }
}

/// The condition of an instance of which its driver knows nothing although it answers, as of one on a
/// machine that does not report.
pub fn unseen(
    (driver, instance): (DriverKind, &InstanceId),
    since: Timestamp,
    why: &str,
) -> StatusCondition {
    let PipelineKey { namespace, name } = &instance.pipeline;
    let why = format!("the {driver} driver knows nothing of it: {why}");
    StatusCondition {
        namespace: Some(namespace.clone()),
        pipeline: Some(name.clone()),
        component: Some(instance.replica.component.clone()),
        replicas: vec![instance.replica.replica],
        about: Some(instance.replica.to_string()),
        ..whole(ConditionKind::Blind, since, why)
    }
}

/// The condition of a state that cannot be recorded.
pub fn not_durable(since: Timestamp, why: &str) -> StatusCondition {
    whole(ConditionKind::NotDurable, since, why.to_owned())
}

/// A condition that concerns the daemon itself.
pub fn whole(kind: ConditionKind, since: Timestamp, why: String) -> StatusCondition {
    StatusCondition {
        kind,
        since,
        namespace: None,
        pipeline: None,
        component: None,
        replicas: Vec::new(),
        about: None,
        why,
        next: None,
        exit: None,
        blocks: Vec::new(),
    }
}
