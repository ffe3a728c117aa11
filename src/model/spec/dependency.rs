//! What a component waits for before its first start.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::ids::ComponentId;

/// One edge of the graph: what has to be true of `id` before the first start of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The component waited for.
    pub id: ComponentId,
    /// What has to be true of it.
    pub condition: Condition,
}

/// What a dependent waits for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Every replica runs.
    Started,
    /// Every replica is ready.
    #[default]
    Ready,
    /// Every replica ended with success.
    Completed,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Completed => "completed",
        })
    }
}
