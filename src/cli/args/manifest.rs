//! What can be typed about manifests and their fields.

use clap::{Args, ValueEnum};

use super::Files;

/// `flowctl explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl explain                         the fields of a pipeline\n  \
    flowctl explain restart.max_delay       one of a component\n  \
    flowctl explain spec.defaults           one of a pipeline\n  \
    flowctl explain component --recursive   everything that a component may have")]
pub struct Explain {
    /// The field: words with `.` between them, from the pipeline or from a component
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    /// List all that lies below it, too
    #[arg(long, short)]
    pub recursive: bool,
}

/// `flowctl graph`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl graph pipeline.yaml\n  \
    flowctl graph pipeline.yaml -o dot | dot -Tsvg > pipeline.svg")]
pub struct Graph {
    /// Which files.
    #[command(flatten)]
    pub files: Files,
    /// As what
    #[arg(long, short, value_name = "FORMAT", default_value = "ascii")]
    pub output: GraphFormat,
}

/// The forms of `graph`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A tree of text.
    Ascii,
    /// A flowchart of Mermaid, which many forges draw.
    Mermaid,
    /// A graph of Graphviz.
    Dot,
    /// Components and edges.
    Json,
}
