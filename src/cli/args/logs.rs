//! What can be typed about what components wrote.

use clap::{Args, ValueEnum};

use super::{Moment, Pair, TextOrJson};
use crate::driver::logs::filter::Level;

/// `flowctl logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl logs                        all components, merged by time\n  \
    flowctl logs ledger-source -f       follow one, over restarts and rotations\n  \
    flowctl logs --since 10m --tail 100 at most 100 lines of each, of the last ten minutes\n  \
    flowctl logs sink --previous        what the instance before this one wrote\n  \
    flowctl logs --grep 'time.?out' -i  only lines that match, of all components\n  \
    flowctl logs --level warn --tail 20 the last 20 warnings and errors of each\n  \
    flowctl logs --field status=500     of JSON and logfmt lines\n  \
    flowctl logs old-job                what a pipeline wrote that is deleted, as long as it is kept")]
pub struct Logs {
    /// Which components or pipelines, deleted ones too; none = all that are there
    #[arg(value_name = "[PIPELINE/]COMPONENT")]
    pub components: Vec<String>,
    /// Only of pipelines that bear this label; may be repeated
    #[arg(
        long = "label",
        short = 'l',
        value_name = "KEY=VALUE",
        conflicts_with = "components"
    )]
    pub labels: Vec<Pair>,
    /// All but these components; may be repeated
    #[arg(long, value_name = "[PIPELINE/]COMPONENT")]
    pub exclude: Vec<String>,
    /// List the logs that are kept of what is deleted
    #[arg(long, conflicts_with_all = ["path", "exclude", "grep", "level", "field", "labels", "components", "follow", "previous", "since", "until", "tail"])]
    pub deleted: bool,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub follow: bool,
    /// Only what was written since: a time ago (`10m`) or a moment (`2026-11-21T02:00:00Z`)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<Moment>,
    /// Only what was written before
    #[arg(long, value_name = "WHEN")]
    pub until: Option<Moment>,
    /// Only the last so many lines of each component, of those that are asked for [default: all;
    /// 200 on a terminal, where nothing else says which]
    #[arg(long, value_name = "N")]
    pub tail: Option<u64>,
    /// All that is kept, on a terminal too
    #[arg(long, conflicts_with = "tail")]
    pub all: bool,
    /// What is asked of the lines.
    #[command(flatten)]
    pub sieve: Sieve,
    /// Begin each line with its time
    #[arg(long, short)]
    pub timestamps: bool,
    /// Do not begin lines with the component's name
    #[arg(long)]
    pub no_prefix: bool,
    /// Print where the files lie that hold the lines, and not the lines
    #[arg(long, conflicts_with_all = ["follow", "previous", "since", "until", "tail", "grep", "level", "field", "timestamps"])]
    pub path: bool,
    /// Only the instance before the latest, of each replica
    #[arg(long, short, conflicts_with = "follow")]
    pub previous: bool,
    /// Print what components wrote as it is, terminal escapes included
    #[arg(long)]
    pub raw: bool,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// What is asked of log lines.
#[derive(Clone, Debug, Args)]
pub struct Sieve {
    /// Only lines that match this regular expression
    #[arg(long, short, value_name = "PATTERN")]
    pub grep: Option<String>,
    /// Let the pattern match upper and lower case alike
    #[arg(long, short, requires = "grep")]
    pub ignore_case: bool,
    /// Only lines that do not match the pattern
    #[arg(long = "invert-match", short = 'v', requires = "grep")]
    pub invert: bool,
    /// So many lines after each that is wanted, too
    #[arg(
        long = "after-context",
        short = 'A',
        value_name = "N",
        default_value_t = 0
    )]
    pub after: usize,
    /// So many lines before each that is wanted, too
    #[arg(
        long = "before-context",
        short = 'B',
        value_name = "N",
        default_value_t = 0
    )]
    pub before: usize,
    /// Only lines of this level or a higher one: of JSON, of logfmt, and such as begin with it. How
    /// many have none is told at the end
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<LeastLevel>,
    /// Only JSON and logfmt lines with this field; `.` leads into objects; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub field: Vec<Pair>,
}

/// How much a line says that it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LeastLevel {
    /// Every step.
    Trace,
    /// What helps to find a defect.
    Debug,
    /// What happens.
    Info,
    /// What may go wrong.
    #[value(alias = "warning")]
    Warn,
    /// What went wrong; fatal, critical and panic too.
    #[value(aliases = ["err", "fatal", "critical"])]
    Error,
}

impl From<LeastLevel> for Level {
    fn from(level: LeastLevel) -> Self {
        match level {
            LeastLevel::Trace => Self::Trace,
            LeastLevel::Debug => Self::Debug,
            LeastLevel::Info => Self::Info,
            LeastLevel::Warn => Self::Warn,
            LeastLevel::Error => Self::Error,
        }
    }
}
