//! Notifications as `flowctl notify` and scripts see them. Grows only.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ids::TargetName;
use super::status::Problem;
use super::time::Timestamp;

/// What a message says of its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageStatus {
    /// They have begun.
    Firing,
    /// They last.
    Repeated,
    /// They are over.
    Resolved,
    /// Nothing: somebody tries whether it arrives.
    Test,
}

impl fmt::Display for MessageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Firing => "firing",
            Self::Repeated => "repeated",
            Self::Resolved => "resolved",
            Self::Test => "test",
        })
    }
}

/// Who is told, and what waits to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notifications {
    /// The file that says so.
    #[serde(with = "super::path::one")]
    pub file: PathBuf,
    /// Why that could not be taken over; the last good version is in force.
    pub problem: Option<Problem>,
    /// Who is told, in the order of the file; heartbeats last.
    pub targets: Vec<TargetStatus>,
    /// What waits to be delivered, oldest first.
    pub pending: Vec<PendingMessage>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name.
    pub name: TargetName,
    /// Where to, without what may be secret.
    pub to: String,
    /// Which conditions, in words.
    pub when: String,
    /// Messages that it took since the daemon started.
    pub delivered: u64,
    /// Deliveries that failed since the daemon started, each of which was or is tried again.
    #[serde(default)]
    pub failed: u64,
    /// Messages that were given up since the daemon started: too old, or too many.
    pub dropped: u64,
    /// Messages that wait.
    pub pending: u64,
    /// When it last took something.
    pub last_delivered: Option<Timestamp>,
    /// Since when it takes nothing.
    pub failing_since: Option<Timestamp>,
    /// What it last answered instead.
    pub last_error: Option<String>,
}

/// A message that has not been taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingMessage {
    /// By which receivers know one that comes twice.
    pub id: String,
    /// To whom.
    pub target: TargetName,
    /// What it says.
    pub status: MessageStatus,
    /// When it was decided.
    pub at: Timestamp,
    /// One line for people.
    pub summary: String,
    /// When it is tried next; `None` = it waits for those before it, or is under way.
    pub next_try: Option<Timestamp>,
}
