//! What can be typed about manifests and their fields.

use clap::{Args, ValueEnum};

use super::Files;
use crate::api::Orchestrator;

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

/// `flowctl render`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl render pipeline.yaml\n  \
    flowctl render --driver kubernetes pipeline.yaml | kubectl apply --dry-run=server -f -\n\n\
    No cluster is asked. Values of secrets are left out, and so is what only a daemon can give: its\n\
    address and tokens. The numbers of instances are those of a first start.")]
pub struct Render {
    /// Which files.
    #[command(flatten)]
    pub files: Files,
    /// Render everything for this driver, whatever the file says
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<Renderer>,
    /// The cluster's namespace of pipelines that name none
    #[arg(
        long,
        env = "FLOWCTL_KUBE_NAMESPACE",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "default"
    )]
    pub kube_namespace: String,
    /// As what
    #[arg(long, short, value_name = "FORMAT", default_value = "yaml")]
    pub output: RenderFormat,
}

/// The drivers whose objects can be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Renderer {
    /// Objects of a Kubernetes cluster.
    #[value(alias = "k8s")]
    Kubernetes,
    /// Jobs of a Nomad cluster, always as JSON.
    Nomad,
}

impl From<Renderer> for Orchestrator {
    fn from(renderer: Renderer) -> Self {
        match renderer {
            Renderer::Kubernetes => Self::Kubernetes,
            Renderer::Nomad => Self::Nomad,
        }
    }
}

/// The forms of `render`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RenderFormat {
    /// A document for each object.
    Yaml,
    /// A list of all objects.
    Json,
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
