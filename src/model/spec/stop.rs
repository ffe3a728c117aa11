//! How an instance is asked to end.

use serde::{Deserialize, Serialize};

use super::signal::Signal;
use crate::model::time::HumanDuration;

/// How an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// Sent to the whole process group first. Default SIGTERM.
    pub signal: Signal,
    /// After this the whole tree is killed. Default 10 s (dockerd, supervisord, systemd's habit).
    pub grace_period: HumanDuration,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            signal: Signal::TERM,
            grace_period: HumanDuration::from_secs(10),
        }
    }
}
