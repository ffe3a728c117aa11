//! When an ended instance is followed by another.

use serde::{Deserialize, Serialize};

use crate::model::time::HumanDuration;

/// When an ended instance is followed by another, and how soon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Which ends are followed by a start.
    pub mode: RestartMode,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Delay before the first restart. Default 1 s (KEP-4603).
    pub initial_delay: HumanDuration,
    /// The delay never exceeds this, jitter apart. Default 60 s (dockerd, KEP-4603).
    pub max_delay: HumanDuration,
    /// Growth per failure of [`Backoff::Exponential`]. Default 2.
    pub factor: f64,
    /// Largest fraction of the delay that is added to it, 0 to 1. Default 0.25 (Nomad).
    pub jitter: f64,
    /// After how many restarts it gives up; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RetryLimit>,
    /// Running and ready for this long forgets earlier failures. Default 2 min.
    pub reset_after: HumanDuration,
    /// Exit codes that count as success. Default `[0]`.
    pub success_codes: Vec<i32>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::Always,
            backoff: Backoff::Exponential,
            initial_delay: HumanDuration::from_secs(1),
            max_delay: HumanDuration::from_secs(60),
            factor: 2.0,
            jitter: 0.25,
            limit: None,
            reset_after: HumanDuration::from_secs(120),
            success_codes: vec![0],
        }
    }
}

/// Which ends are followed by a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Every end (`unless-stopped` is the same: a manual stop is remembered anyway).
    Always,
    /// Ends that are not a success.
    OnFailure,
    /// None (`no`).
    Never,
}

/// How the restart delay grows with failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// `initial * factor^(n-1)`.
    Exponential,
    /// `initial * n`.
    Linear,
    /// `initial`.
    Fixed,
}

/// How many restarts are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryLimit {
    /// Restarts allowed.
    pub max_retries: u32,
    /// Only failures within the last such span count; `None` = all failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
}
