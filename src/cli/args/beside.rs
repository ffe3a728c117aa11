//! What can be typed to run a program beside a component, and to find out what is wrong with a host.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{Pair, TextOrJson};

/// `flowctl exec`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl exec sink -- env                     with its variables, folder and user\n  \
    flowctl exec ttp/sink.2 -- cat /etc/hosts    beside its third replica\n  \
    flowctl exec sink -e DEBUG=1 -- ./sink --dry-run\n\n\
    It ends with the program's exit code. A process is found by its pid, so it has to run, and its\n\
    user has to be yours unless you are root; of its groups the program has the main one. What is\n\
    started is yours: a restart of the component does not end it.")]
pub struct Exec {
    /// Which component, and which replica of it
    #[arg(value_name = "[PIPELINE/]COMPONENT[.REPLICA]")]
    pub component: String,
    /// A variable beside those that the component has; may be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub variables: Vec<Pair>,
    /// The program and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

/// `flowctl shell`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl shell sink\n  \
    flowctl shell ttp/sink.2\n\n\
    It is bash where there is one, else sh. See `flowctl exec --help` for what it finds around it.")]
pub struct Shell {
    /// Which component, and which replica of it
    #[arg(value_name = "[PIPELINE/]COMPONENT[.REPLICA]")]
    pub component: String,
    /// A variable beside those that the component has; may be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub variables: Vec<Pair>,
}

/// `flowctl env`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl env sink\n  \
    flowctl env sink --show-values")]
pub struct Env {
    /// Which component, and which replica of it
    #[arg(value_name = "[PIPELINE/]COMPONENT[.REPLICA]")]
    pub component: String,
    /// Show what they are set to, secrets among them
    #[arg(long)]
    pub show_values: bool,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl doctor\n  \
    flowctl doctor --strict -o json     exits 1 if anything is to be done\n\n\
    It looks and changes nothing, but for a file in the state directory that it removes again.")]
pub struct Doctor {
    /// Exit 1 when there is a warning
    #[arg(long)]
    pub strict: bool,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl bundle`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl bundle                       writes flowctl-bundle.tar, and says what is in it\n  \
    flowctl bundle -o - | ssh host 'cat > bundle.tar'\n\n\
    Values of variables, headers and addresses of notifications are masked, and so are arguments\n\
    that look like passwords. What components wrote is not in it. Read it before you send it.")]
pub struct Bundle {
    /// Where to write it; `-` = standard output
    #[arg(long, short, value_name = "FILE", default_value = "flowctl-bundle.tar")]
    pub output: PathBuf,
    /// Overwrite a file that is there
    #[arg(long)]
    pub force: bool,
}
