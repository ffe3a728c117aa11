//! What can be typed about flowctl in a cluster.

use clap::{Args, Subcommand};

/// `flowctl kubernetes`.
#[derive(Debug, Args)]
pub struct Kubernetes {
    /// What to do.
    #[command(subcommand)]
    pub verb: KubernetesVerb,
}

/// What can be done about flowctl in a cluster.
#[derive(Debug, Subcommand)]
pub enum KubernetesVerb {
    /// Print the objects of a daemon that runs in a cluster, for `kubectl apply -f -`
    #[command(after_help = "Example:\n  \
        flowctl kubernetes manifest --namespace data --image registry.example/flowctl:1 | kubectl apply -f -\n\n\
        `--namespace` is the cluster's here; it has to be there.")]
    Manifest {
        /// The image of flowctl [default: flowctl:VERSION, which is published nowhere]
        #[arg(long, value_name = "REF")]
        image: Option<String>,
    },
}
