//! What can be typed about how all of it is.

use clap::{Args, ValueEnum};

use super::{Pair, Remote, StatusFormat};
use crate::model::PhaseName;

/// `flowctl status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl status\n  \
    flowctl status -o wide            with what it uses, pids, addresses and the last exit\n  \
    flowctl status --check || page    exit 1 unless all is settled and nothing has failed\n  \
    flowctl status --check=nagios     one line, and 0 ok, 1 warning, 2 critical, 3 unknown\n  \
    flowctl status -l team=data       only pipelines with that label\n  \
    flowctl status ttp/sink           only one component\n  \
    flowctl status --phase crashloop  only what is in a state\n  \
    flowctl status -o json | jq '.pipelines[].components[].replicas[].phase'\n\n\
    Without a daemon it looks for itself and says so.")]
pub struct Status {
    /// Only these pipelines or components
    #[arg(value_name = "NAME", conflicts_with = "control_plane_address")]
    pub names: Vec<String>,
    /// Only components with a replica in this state; may be repeated
    #[arg(long, value_name = "STATE", conflicts_with = "control_plane_address")]
    pub phase: Vec<InState>,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: StatusFormat,
    /// Measure what each replica uses, as `-o wide` does: cores, memory, processes, open files
    #[arg(long, conflicts_with_all = ["watch", "control_plane_address"])]
    pub usage: bool,
    /// Go on showing each change
    #[arg(long, short, conflicts_with = "control_plane_address")]
    pub watch: bool,
    /// Show instead who is registered elsewhere.
    #[command(flatten)]
    pub remote: Remote,
    /// Exit 1 unless a daemon is in charge, every pipeline is settled, its file is good and
    /// nothing has failed
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "plain",
        conflicts_with_all = ["watch", "control_plane_address"]
    )]
    pub check: Option<CheckHow>,
    /// Only pipelines that bear this label; may be repeated
    #[arg(
        long = "label",
        short = 'l',
        value_name = "KEY=VALUE",
        conflicts_with = "control_plane_address"
    )]
    pub labels: Vec<Pair>,
}

/// A state of a replica, as the column STATE has it; `flowctl help states` tells what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InState {
    Pending,
    Starting,
    Running,
    Unhealthy,
    Backoff,
    Crashloop,
    Stopping,
    Stopped,
    Completed,
    Failed,
    Unknown,
}

impl From<InState> for PhaseName {
    fn from(state: InState) -> Self {
        match state {
            InState::Pending => Self::Pending,
            InState::Starting => Self::Starting,
            InState::Running => Self::Running,
            InState::Unhealthy => Self::Unhealthy,
            InState::Backoff => Self::Backoff,
            InState::Crashloop => Self::Crashloop,
            InState::Stopping => Self::Stopping,
            InState::Stopped => Self::Stopped,
            InState::Completed => Self::Completed,
            InState::Failed => Self::Failed,
            InState::Unknown => Self::Unknown,
        }
    }
}

/// How `status --check` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckHow {
    /// Beside the status, by an exit code of 0 or 1.
    Plain,
    /// As a check plugin of Nagios and its heirs: one line, and 0, 1, 2 or 3.
    Nagios,
}
