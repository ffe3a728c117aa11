//! What can be typed about flowctl in a cluster.

use std::path::PathBuf;

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
    /// Make a folder that nobody else may write into, in a volume whose group may: for the manifest's
    /// first container
    #[command(hide = true)]
    Prepare {
        /// Which
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Write this program as a container image that holds nothing else
    #[command(after_help = "Examples:\n  \
        flowctl kubernetes image -o flowctl.tar && docker load -i flowctl.tar\n  \
        flowctl kubernetes image -o flowctl.tar && ctr -n k8s.io images import flowctl.tar")]
    Image {
        /// Where to
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// What it is called [default: flowctl:VERSION]
        #[arg(long, value_name = "REF")]
        image: Option<String>,
    },
}
