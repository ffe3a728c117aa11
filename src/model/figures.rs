//! What is measured of a replica: what it uses, and how far its work gets.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::ComponentId;
use super::state::{EndCause, Ended, ExitStatus, StopCause};
use super::time::Timestamp;

/// What a replica uses of its host, over its whole process tree. A figure that cannot be read where
/// it runs is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time since the instance started, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Cores that were busy with it between the last two samples; `None` after the first.
    pub cpu_cores: Option<f64>,
    /// Memory that cannot be taken from it without swapping, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most that it may have, in bytes; `None` = there is no limit that is enforced.
    pub memory_limit_bytes: Option<u64>,
    /// Processes.
    pub processes: Option<u32>,
    /// Open files of all of them.
    pub open_files: Option<u32>,
    /// When it was measured.
    pub sampled_at: Timestamp,
}

/// How far the work of a replica gets, where its file says how that is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressStatus {
    /// What is watched, in words: `last_processed_ledger`, `its output`.
    pub watches: String,
    /// What that last was, as text; `None` = nothing was seen yet.
    pub value: Option<String>,
    /// When it last changed, as far as this daemon knows; `None` = it has not been seen to.
    pub advanced_at: Option<Timestamp>,
    /// Since when it counts as stalled; `None` = it does not.
    pub stalled_since: Option<Timestamp>,
    /// In words: what stands still and for how long, or why that is not held against it now. Empty
    /// while it gets on.
    pub why: String,
    /// Another component whose work stood still first, and which this one's stands still for.
    #[serde(default)]
    pub held_by: Option<ComponentId>,
}

/// What ended an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitReason {
    /// It exited by itself, with a code.
    Code,
    /// A signal that was not ours.
    Signal,
    /// The kernel, for want of memory.
    Oom,
    /// Its startup or liveness probe failed.
    Probe,
    /// Its work stood still, and its file asks for a restart then.
    Stalled,
    /// An edit of its pipeline.
    Edit,
    /// A person: `stop`, `restart`, `down`.
    Manual,
    /// Nobody knows: its guardian died, or somebody removed it.
    Lost,
    /// Its host or its engine went down.
    Host,
}

impl ExitReason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Code,
        Self::Signal,
        Self::Oom,
        Self::Probe,
        Self::Stalled,
        Self::Edit,
        Self::Manual,
        Self::Lost,
        Self::Host,
    ];

    /// What ended it; `None` for one that never ran.
    pub fn of(ended: &Ended) -> Option<Self> {
        match &ended.cause {
            EndCause::NotStarted(_) => None,
            EndCause::Itself(_) if ended.exit.oom => Some(Self::Oom),
            EndCause::Itself(_) => Some(match ended.exit.status {
                ExitStatus::Code(_) => Self::Code,
                ExitStatus::Signal(_) => Self::Signal,
                ExitStatus::Unknown => Self::Lost,
            }),
            EndCause::Stopped(cause) => Some(match cause {
                StopCause::Removed | StopCause::ScaledDown | StopCause::SpecChanged => Self::Edit,
                StopCause::RestartRequested | StopCause::StopRequested => Self::Manual,
                StopCause::LivenessFailed(_) | StopCause::StartupFailed(_) => Self::Probe,
                StopCause::Stalled(_) => Self::Stalled,
                StopCause::Stray => Self::Lost,
            }),
            EndCause::Lost | EndCause::Vanished => Some(Self::Lost),
            EndCause::HostReboot | EndCause::RuntimeRestarted | EndCause::Disrupted(_) => {
                Some(Self::Host)
            }
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Probe => "probe",
            Self::Stalled => "stalled",
            Self::Edit => "edit",
            Self::Manual => "manual",
            Self::Lost => "lost",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How often something took how long.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Durations {
    /// How many took at most [`Durations::BOUNDS`] of the same place, and longer than the one before.
    within: [u64; Self::BOUNDS.len()],
    /// How many there were.
    count: u64,
    /// All of them together.
    sum: Duration,
}

impl Durations {
    /// In seconds.
    pub const BOUNDS: [f64; 12] = [
        0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0,
    ];

    /// Takes in one more.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(place) = Self::BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.within[place] += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// How many took at most each of [`Durations::BOUNDS`] seconds.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut seen = 0;
        Self::BOUNDS
            .into_iter()
            .zip(self.within)
            .map(move |(bound, count)| {
                seen += count;
                (bound, seen)
            })
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_every_bucket_that_holds_them() {
        let mut durations = Durations::default();
        for millis in [1, 3, 700, 60_000] {
            durations.observe(Duration::from_millis(millis));
        }
        let held: Vec<u64> = durations.cumulative().map(|(_, count)| count).collect();
        assert_eq!(held, [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3]);
        assert_eq!((durations.count(), durations.sum_seconds()), (4, 60.704));
    }
}
