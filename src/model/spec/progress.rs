//! How it is seen that a component's work gets on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::probe::HttpTarget;
use super::replica;
use crate::model::time::HumanDuration;

/// What has to change while a component works, and how soon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What has to change.
    pub watches: Watches,
    /// How long it may stand still.
    pub max_age: HumanDuration,
    /// How long after its start it may take to change for the first time. Default 1 h.
    pub startup: HumanDuration,
    /// When it has to change at all.
    #[serde(default, rename = "while", skip_serializing_if = "Expected::is_always")]
    pub expected: Expected,
    /// What is done once it stands still for too long.
    #[serde(default, skip_serializing_if = "OnStall::is_tell")]
    pub on_stall: OnStall,
}

/// What has to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watches {
    /// A figure of this name that the component sends with its heartbeats.
    Metric(String),
    /// Its log: another line has to come.
    Output,
    /// What it answers to a GET.
    Http {
        /// Where it is asked.
        #[serde(flatten)]
        target: HttpTarget,
        /// Which value of a JSON answer, as RFC 6901 names it; `None` = the whole answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pointer: Option<String>,
    },
}

impl fmt::Display for Watches {
    /// `last_processed_ledger`, `its output`, `/stats/last` or `:8088/stats`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metric(name) => f.pad(name),
            Self::Output => f.pad("its output"),
            Self::Http {
                pointer: Some(pointer),
                ..
            } => f.pad(pointer),
            Self::Http { target, .. } => write!(f, ":{}{}", target.port, target.path),
        }
    }
}

/// When progress is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// Always.
    #[default]
    Always,
    /// While one of its inputs gets on: one that has nothing to do is not stalled.
    UpstreamProgressing,
}

impl Expected {
    fn is_always(&self) -> bool {
        *self == Self::Always
    }
}

/// What is done with a component whose work stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStall {
    /// It is told.
    #[default]
    Tell,
    /// It is restarted too, at most once an hour.
    Restart,
}

impl OnStall {
    fn is_tell(&self) -> bool {
        *self == Self::Tell
    }
}

impl Progress {
    /// The same as it is looked at for replica `number`.
    #[must_use]
    pub fn for_replica(&self, number: u32) -> Self {
        let mut progress = self.clone();
        if let Watches::Http { target, .. } = &mut progress.watches {
            target.path = replica::filled(&target.path, number);
            target.port = target.port.filled(number);
        }
        progress
    }
}
