//! One verdict for machines: how all of it is, what is wrong, and what to do.

use serde::{Deserialize, Serialize};

use crate::model::{
    ComponentId, ComponentPath, PipelineStatus, Severity, Snapshot, StatusCondition, Timestamp,
};

/// The name and version of the verdict's format.
pub const HEALTH_SCHEMA: &str = "flowctl.health/v1";

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthColour {
    /// As it should be.
    Green,
    /// Somebody should look, or it is on its way.
    Yellow,
    /// It will not get well by itself, or nothing is known.
    Red,
}

impl std::fmt::Display for HealthColour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        })
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// [`HEALTH_SCHEMA`].
    pub schema: String,
    /// The worst of all indicators.
    pub status: HealthColour,
    /// Whether `status --check` passes: nothing is wrong, and nothing is on its way.
    pub settled: bool,
    /// Replicas that are meant to run.
    pub wanted: usize,
    /// Those of them that are ready.
    pub ready: usize,
    /// What is not as it should be, the gravest first; empty = all is well.
    pub indicators: Vec<Indicator>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Indicator {
    /// What kind of thing: a condition's, `daemon`, or `settling`.
    pub name: String,
    /// What it is about.
    pub subject: String,
    /// How bad it is.
    pub status: HealthColour,
    /// Since when; `None` where that is not known.
    pub since: Option<Timestamp>,
    /// Why.
    pub cause: String,
    /// What to do.
    pub action: String,
    /// Which components can do nothing until it is over.
    pub impacts: Vec<ComponentPath>,
}

impl Indicator {
    fn of(condition: &StatusCondition) -> Self {
        Self {
            name: condition.kind.to_string(),
            subject: condition.subject(),
            status: match condition.kind.severity() {
                Severity::Critical => HealthColour::Red,
                Severity::Warning => HealthColour::Yellow,
            },
            since: Some(condition.since),
            cause: condition.why.clone(),
            action: condition.action(),
            impacts: condition.blocks.clone(),
        }
    }
}

/// The verdict on a snapshot.
pub fn health(snapshot: &Snapshot) -> Health {
    let mut indicators = Vec::new();
    if snapshot.daemon.is_none() {
        indicators.push(Indicator {
            name: "daemon".to_owned(),
            subject: "daemon".to_owned(),
            status: HealthColour::Red,
            since: None,
            cause: "no daemon is in charge".to_owned(),
            action: "start it: `flowctl daemon`, or its service".to_owned(),
            impacts: Vec::new(),
        });
    }
    indicators.extend(snapshot.all_conditions().into_iter().map(Indicator::of));
    let pipelines = snapshot.pipelines.iter();
    indicators.extend(pipelines.filter_map(|pipeline| settling(pipeline)));
    let replicas = || snapshot.replicas().map(|(_, _, replica)| replica);
    let worst = indicators.iter().map(|one| one.status).max();
    Health {
        schema: HEALTH_SCHEMA.to_owned(),
        status: worst.unwrap_or(HealthColour::Green),
        settled: indicators.is_empty(),
        wanted: replicas().filter(|one| one.is_meant_to_run()).count(),
        ready: replicas().filter(|one| one.ready).count(),
        indicators,
    }
}

/// What is on its way in a pipeline, beside its conditions.
fn settling(pipeline: &PipelineStatus) -> Option<Indicator> {
    let known = |id: &ComponentId| {
        let mut conditions = pipeline.conditions.iter();
        conditions.any(|condition| {
            condition.component.as_ref() == Some(id)
                || condition.blocks.iter().any(|path| path.component == *id)
        })
    };
    let open: Vec<_> = pipeline
        .replicas()
        .filter(|(component, replica)| !replica.is_fine() && !known(&component.id))
        .collect();
    if open.is_empty() && (pipeline.settled || !pipeline.conditions.is_empty()) {
        return None;
    }
    let cause = match open.first() {
        Some((component, replica)) if replica.why.is_empty() => {
            format!("{} is {}", component.id, replica.phase)
        }
        Some((component, replica)) => {
            format!("{} is {}: {}", component.id, replica.phase, replica.why)
        }
        None => "something is being done".to_owned(),
    };
    let cause = match open.len() {
        0 | 1 => cause,
        count => format!("{cause}; and {} more", count - 1),
    };
    let key = pipeline.key();
    Some(Indicator {
        name: "settling".to_owned(),
        subject: key.to_string(),
        status: HealthColour::Yellow,
        since: open.iter().map(|(_, replica)| replica.since).min(),
        cause,
        action: format!("wait, or `flowctl describe {key}`"),
        impacts: Vec::new(),
    })
}
