//! What can be typed about notifications.

use clap::{Args, Subcommand};

use super::TextOrJson;
use crate::model::TargetName;

/// `flowctl notify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl notify list\n  \
    flowctl notify test on-call\n  \
    flowctl notify pending -o json\n\n\
    Who is told stands in notify.yaml of the state directory; `flowctl validate FILE` checks it.")]
pub struct Notify {
    /// What to do.
    #[command(subcommand)]
    pub verb: NotifyVerb,
    /// How to print the answer
    #[arg(
        long,
        short = 'o',
        global = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub output: TextOrJson,
}

/// What can be asked about notifications.
#[derive(Debug, Subcommand)]
pub enum NotifyVerb {
    /// Who is told, of what, and how that went
    List,
    /// Send a test by the very way that messages take
    Test {
        /// The target
        #[arg(value_name = "NAME")]
        name: TargetName,
    },
    /// What waits to be delivered
    Pending,
}
