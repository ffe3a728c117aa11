//! What can be typed to steer components and to take pipelines down.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Pair, Patience, TextOrJson};
use crate::model::HumanDuration;

/// `flowctl start`, `stop` and `restart`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl restart ledger-source\n  \
    flowctl stop ttp/ledger-source --no-wait\n  \
    flowctl stop ttp                        all of a pipeline, for maintenance")]
pub struct Steer {
    /// Which components, or pipelines, all of which is meant then
    #[arg(value_name = "NAME", required_unless_present = "labels")]
    pub components: Vec<String>,
    /// All components of pipelines that bear this label; may be repeated
    #[arg(
        long = "label",
        short = 'l',
        value_name = "KEY=VALUE",
        conflicts_with = "components"
    )]
    pub labels: Vec<Pair>,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
    /// Whether and how long to wait.
    #[command(flatten)]
    pub patience: Patience,
}

/// `flowctl restart`.
#[derive(Debug, Args)]
pub struct Restart {
    /// Which components, and whether to wait.
    #[command(flatten)]
    pub steer: Steer,
    /// Pull the image of a container first, and run what its name means then. It is stopped once
    /// that has succeeded. Without this the image that it ran runs again
    #[arg(long)]
    pub pull: bool,
}

/// `flowctl delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl delete ttp\n  \
    flowctl delete -f pipeline.yaml\n\n\
    Its components are stopped in reverse order. The file is left alone.")]
pub struct Delete {
    /// Which pipelines, as [NAMESPACE/]NAME
    #[arg(value_name = "PIPELINE", required_unless_present = "file")]
    pub pipelines: Vec<String>,
    /// All pipelines of this file or folder; may be repeated
    #[arg(long, short = 'f', value_name = "FILE|DIR|-")]
    pub file: Vec<PathBuf>,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
    /// Remove the named volumes of its containers too, with their data. Without it they are kept
    #[arg(long, conflicts_with = "no_wait")]
    pub volumes: bool,
    /// Remove its logs too, also of a pipeline that is deleted already. Without it they are kept for
    /// the daemon's `--keep-logs`
    #[arg(long, conflicts_with = "no_wait")]
    pub logs: bool,
    /// Whether and how long to wait.
    #[command(flatten)]
    pub patience: Patience,
}

/// `flowctl wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl wait ttp                        until all of a pipeline is ready or completed\n  \
    flowctl wait ttp/migrate --for completed\n  \
    flowctl wait ttp --for gone --timeout 1m\n\n\
    Exits 8 as soon as something has failed for good, 5 when the time is over.")]
pub struct Wait {
    /// Which pipelines or components
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// What for
    #[arg(long = "for", value_name = "STATE", default_value = "ready")]
    pub goal: WaitFor,
    /// How long at most; `0s` = without end. Exits 5 when it is over
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: HumanDuration,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Every replica runs and is ready, or has completed.
    Ready,
    /// Every replica has ended with success.
    Completed,
    /// Every replica was stopped by a person.
    Stopped,
    /// The pipeline is gone.
    Gone,
}

impl WaitFor {
    /// As it follows a name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "is ready",
            Self::Completed => "is completed",
            Self::Stopped => "is stopped",
            Self::Gone => "is gone",
        }
    }
}
