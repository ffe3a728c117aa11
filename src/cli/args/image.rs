//! What can be typed about images.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::TextOrJson;

/// `flowctl image`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl image check ghcr.io/acme/app:1.2 --image-policy images.yaml\n  \
    flowctl image verify ghcr.io/acme/app:1.2\n  \
    flowctl image pin pipeline.yaml\n\n\
    `check` and `verify` exit 7 when an image may not run, and 3 when the policy is not usable.")]
pub struct Image {
    /// What to do.
    #[command(subcommand)]
    pub verb: ImageVerb,
    /// The file that says which images may run
    #[arg(
        long,
        global = true,
        env = "FLOWCTL_IMAGE_POLICY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub image_policy: Option<PathBuf>,
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

/// What can be asked about images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Tell which rule decides about images, without asking anybody
    Check {
        /// The images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Ask registries whether images may run, as a start does
    Verify {
        /// The images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Write the digests that tags mean now into pipelines' files; all else in them stays
    Pin {
        /// The files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}
