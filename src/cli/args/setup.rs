//! What can be typed to set a host up: its service, a first file, a shell.

use std::path::PathBuf;

use clap::Args;

use super::TextOrJson;

/// `flowctl install`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    sudo flowctl install --now              for the whole host, state in /var/lib/flowctl\n  \
    flowctl install --user --now            for you, state where `flowctl` keeps it anyway\n  \
    flowctl install --print                 the unit's text, for whatever manages this host\n\n\
    It writes a unit for systemd, and enables it. A restart of the service restarts no component.\n\
    Options of the daemon are given to it by variables: `systemctl edit flowctl`,\n\
    `[Service]`, `Environment=FLOWCTL_CONTROL_PLANE_PORT=8081`.")]
pub struct Install {
    /// As a service of your own, which ends with your last session unless you linger
    #[arg(long)]
    pub user: bool,
    /// Start it too; one that runs is restarted, and a daemon in the background makes way for it
    #[arg(long)]
    pub now: bool,
    /// Print the unit and change nothing
    #[arg(long, conflicts_with = "now")]
    pub print: bool,
}

/// `flowctl uninstall`.
#[derive(Debug, Args)]
#[command(
    after_help = "The service is stopped and its unit removed. Components run on, and the state is kept:\n\
    say `flowctl down` before to end them."
)]
pub struct Uninstall {
    /// The service of your own
    #[arg(long)]
    pub user: bool,
}

/// `flowctl help`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl help                  the commands by what they are for, and the topics\n  \
    flowctl help apply            one command\n  \
    flowctl help exit-codes       one topic")]
pub struct Help {
    /// A command, or a topic; `topics` lists those
    #[arg(value_name = "COMMAND|TOPIC")]
    pub what: Vec<String>,
}

/// `flowctl init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Where to write it; `-` = standard output
    #[arg(value_name = "FILE", default_value = "pipeline.yaml")]
    pub file: PathBuf,
    /// Overwrite a file that is there
    #[arg(long)]
    pub force: bool,
    /// Write `flowctl.schema.json` beside it too, by which editors check it as you type
    #[arg(long)]
    pub schema: bool,
}

/// `flowctl completion`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    flowctl completion bash > ~/.local/share/bash-completion/completions/flowctl")]
pub struct Completion {
    /// For which shell
    pub shell: clap_complete::Shell,
}

/// `flowctl man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Where to
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// `flowctl __complete`.
#[derive(Debug, Args)]
pub struct Complete {
    /// The words behind the program's name, the last of which is not complete
    #[arg(last = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// `flowctl version`.
#[derive(Debug, Args)]
pub struct Version {
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}
