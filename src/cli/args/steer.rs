//! What can be typed to steer components and to take pipelines down.

use clap::Args;

use super::{Pair, Patience, TextOrJson};

/// `flowctl start`, `stop` and `restart`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl restart ledger-source\n  \
    flowctl stop ttp/ledger-source --no-wait")]
pub struct Steer {
    /// Which components
    #[arg(
        value_name = "[PIPELINE/]COMPONENT",
        required_unless_present = "labels"
    )]
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
#[command(after_help = "Example:\n  \
    flowctl delete ttp\n\n\
    Its components are stopped in reverse order. The file is left alone.")]
pub struct Delete {
    /// Which pipelines, as [NAMESPACE/]NAME
    #[arg(value_name = "PIPELINE", required = true)]
    pub pipelines: Vec<String>,
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
