//! How an instance is asked to end.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::signal::Signal;
use crate::model::time::HumanDuration;

/// How an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// What it is asked with; `None` = the file says nothing: for a container what its image says
    /// (STOPSIGNAL), else SIGTERM. A default of ours must never overrule the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// Who of a process' tree is sent the signal. A container's engine signals its main program.
    #[serde(default, skip_serializing_if = "StopTarget::is_default")]
    pub to: StopTarget,
    /// After this the whole tree is killed. Default 10 s (dockerd, supervisord, systemd's habit).
    pub grace_period: HumanDuration,
}

impl StopPolicy {
    /// What a program that no image speaks for is asked with.
    pub fn signal_or_term(&self) -> Signal {
        self.signal.unwrap_or(Signal::TERM)
    }
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            signal: None,
            to: StopTarget::All,
            grace_period: HumanDuration::from_secs(10),
        }
    }
}

/// Who is sent the stop signal (systemd's KillMode, s6's and runit's groups). Whatever is chosen:
/// all that is left after the grace is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopTarget {
    /// Every process of the component, whatever it forked.
    #[default]
    All,
    /// The process group that the main program leads.
    Group,
    /// The main program alone, which tells its own children.
    Main,
}

impl StopTarget {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for StopTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::All => "all",
            Self::Group => "group",
            Self::Main => "main",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_an_earlier_release_stored_is_read_as_it_was_meant() {
        let stored = r#"{"signal":15,"grace_period":"10s"}"#;
        let read: StopPolicy = serde_json::from_str(stored).unwrap();
        assert_eq!(read.signal, Some(Signal::TERM));
        assert_eq!(read.to, StopTarget::All);
        let written = serde_json::to_string(&StopPolicy::default()).unwrap();
        assert_eq!(written, r#"{"grace_period":"10s"}"#);
    }
}
