//! What runners tell about runs of pipelines and about the chunks of bounded runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{ComponentId, PipelineKey};
use super::registry::ServiceId;
use super::time::Timestamp;

/// Who told of a run or a chunk: nobody else but the daemon's own user changes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Teller {
    /// A component of a pipeline here, whichever instance of it.
    Component {
        /// In which pipeline.
        pipeline: PipelineKey,
        /// Which component.
        component: ComponentId,
    },
    /// A component that runs elsewhere, by the token that was made for its name.
    Outsider(ServiceId),
    /// The daemon's own user.
    Operator,
    /// Another user of this machine, by uid.
    User(u32),
}

impl Teller {
    /// Whether it is of a pipeline here, or its operator.
    pub fn is_of_here(&self) -> bool {
        match self {
            Self::Component { .. } | Self::Operator => true,
            Self::Outsider(_) | Self::User(_) => false,
        }
    }
}

/// How a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Nobody said.
    #[default]
    Unknown,
    /// Not everything runs yet.
    Starting,
    /// Everything runs.
    Running,
    /// It ended with success.
    Completed,
    /// It ended without.
    Failed,
    /// It was stopped.
    Stopped,
}

impl RunState {
    /// Whether the run is over.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Unknown | Self::Starting | Self::Running => false,
            Self::Completed | Self::Failed | Self::Stopped => true,
        }
    }
}

/// Figures of one component in a run.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowFigures {
    /// Events read.
    pub events_in: i64,
    /// Events written.
    pub events_out: i64,
    /// Bytes read.
    pub bytes_in: i64,
    /// Bytes written.
    pub bytes_out: i64,
    /// Time spent, in milliseconds.
    pub processing_time_ms: f64,
}

/// Figures of a run.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFigures {
    /// Events so far.
    pub events_processed: i64,
    /// Events a second.
    pub events_per_second: f64,
    /// Bytes so far.
    pub bytes_processed: i64,
    /// By component.
    pub components: BTreeMap<String, FlowFigures>,
}

/// A run that a runner told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The runner's id of it.
    pub id: String,
    /// Of which pipeline.
    pub pipeline: String,
    /// How it is doing.
    pub state: RunState,
    /// When it was first told of.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The pipeline's file, as the runner sent it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config: String,
    /// Its figures.
    #[serde(default)]
    pub figures: RunFigures,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Its components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Who told of it first; `None` = not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teller: Option<Teller>,
}

/// What a runner says anew about a run; what it leaves out stays.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RunChange {
    /// Its state.
    pub state: Option<RunState>,
    /// Its figures.
    pub figures: Option<RunFigures>,
    /// What went wrong.
    pub error: Option<String>,
}

impl RunRecord {
    /// Takes over what a runner says at `now`.
    pub fn change(&mut self, change: RunChange, now: Timestamp) {
        if let Some(state) = change.state {
            self.state = state;
            self.ended_at = if state.has_ended() {
                self.ended_at.or(Some(now))
            } else {
                None
            };
        }
        if let Some(figures) = change.figures {
            self.figures = figures;
        }
        if let Some(error) = change.error {
            self.error = error;
        }
    }
}

/// How one chunk of a bounded run is doing.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChunkRecord {
    /// The runner's id of it.
    pub id: String,
    /// Of which run.
    pub run: String,
    /// Whose work it is.
    pub component: String,
    /// The first position.
    pub start: i64,
    /// The last position.
    pub end: i64,
    /// Which try this is.
    pub attempt: i32,
    /// Its status, by the number that the wire gives it.
    pub status: i32,
    /// What kind of failure, by the number that the wire gives it.
    pub failure_class: i32,
    /// The step in which it is.
    pub phase: String,
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    pub recommended_action: String,
    /// When it was begun.
    pub started_at: Option<Timestamp>,
    /// When it was done.
    pub completed_at: Option<Timestamp>,
    /// When it was checked.
    pub verified_at: Option<Timestamp>,
    /// Rows written by table.
    pub row_counts: BTreeMap<String, i64>,
    /// What the check found.
    pub verification: BTreeMap<String, String>,
    /// Whatever else it sends.
    pub metadata: BTreeMap<String, String>,
    /// When it was last told of.
    pub told_at: Timestamp,
    /// Who told of it first; `None` = not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teller: Option<Teller>,
}
