//! What can be typed about the control plane and those who register with it.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::TextOrJson;
use crate::model::{HumanDuration, ServiceId};

/// `flowctl registry`, which was `components` once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl registry list\n  \
    flowctl registry show ttp-processor\n  \
    flowctl registry find --writes stellar.token.transfer.v1 --metadata network=testnet\n  \
    flowctl registry list --server other-host:8080\n  \
    flowctl registry issue-token far-away >token\n  \
    flowctl registry list --server other-host:8080 --token-file token --tls-ca ca.pem\n  \
    flowctl registry rotate-keys    a second time makes tokens from before the first invalid")]
pub struct Components {
    /// What to do.
    #[command(subcommand)]
    pub verb: ComponentsVerb,
    /// How to print the answer
    #[arg(
        long,
        short = 'o',
        global = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub format: TextOrJson,
    /// Ask another control plane instead of the daemon.
    #[command(flatten)]
    pub remote: Remote,
}

/// What can be asked about registered components.
#[derive(Debug, Subcommand)]
pub enum ComponentsVerb {
    /// All of them
    List {
        /// The unhealthy ones too, which is what it always does
        #[arg(long, hide = true)]
        include_unhealthy: bool,
        /// The same as `-o`
        #[arg(long, value_name = "FORMAT")]
        output: Option<TextOrJson>,
    },
    /// One of them, with its metadata and figures
    Show {
        /// Its service id, or the component that it is
        #[arg(value_name = "NAME")]
        name: String,
        /// The same as `-o`
        #[arg(long, value_name = "FORMAT")]
        output: Option<TextOrJson>,
    },
    /// Those that read, write or carry something
    Find(Seek),
    /// Sign tokens with a new key; those signed with the key before it stay good until they expire
    RotateKeys,
    /// Print a token for a component that runs elsewhere and has to show one
    IssueToken {
        /// The name under which it registers
        #[arg(value_name = "NAME")]
        name: ServiceId,
        /// How long it is good
        #[arg(long = "for", value_name = "TIME", default_value = "30d")]
        life: HumanDuration,
    },
}

impl ComponentsVerb {
    /// The format that was asked for behind the verb.
    pub fn output(&self) -> Option<TextOrJson> {
        match self {
            Self::List { output, .. } | Self::Show { output, .. } => *output,
            Self::Find(_) | Self::RotateKeys | Self::IssueToken { .. } => None,
        }
    }
}

/// How another control plane is reached.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// Ask this control plane, upstream's or another daemon's
    #[arg(
        id = "control_plane_address",
        long = "server",
        alias = "control-plane-address",
        global = true,
        value_name = "HOST:PORT"
    )]
    pub control_plane_address: Option<String>,
    /// The token to show there, in a file
    #[arg(
        long,
        global = true,
        env = "FLOWCTL_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub token_file: Option<PathBuf>,
    /// Reach it by TLS, and trust whom this authority vouches for, in PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate to show there, in PEM
    #[arg(long, global = true, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// What a component must have.
#[derive(Clone, Debug, Args)]
pub struct Seek {
    /// An event type that it reads
    #[arg(long = "reads", alias = "input", value_name = "TYPE")]
    pub input: Option<String>,
    /// An event type that it writes
    #[arg(long = "writes", alias = "output", value_name = "TYPE")]
    pub output: Option<String>,
    /// Metadata that it carries; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub metadata: Vec<Pair>,
    /// Those too that are unhealthy or silent
    #[arg(long)]
    pub include_unhealthy: bool,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Before the `=`.
    pub key: String,
    /// After it.
    pub value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// Options of the control plane.
#[derive(Clone, Debug, Args)]
pub struct ControlPlane {
    /// Where components reach the control plane
    #[arg(
        long,
        alias = "address",
        env = "FLOWCTL_CONTROL_PLANE_ADDRESS",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1"
    )]
    pub control_plane_address: std::net::IpAddr,
    /// Its port [default: 8080, or a free one if that is taken]; 0 = any free one, kept from then on
    #[arg(
        long,
        alias = "port",
        env = "FLOWCTL_CONTROL_PLANE_PORT",
        hide_env_values = true,
        value_name = "PORT"
    )]
    pub control_plane_port: Option<u16>,
    /// Where components of a cluster reach it [default: at its address, unless that is of this machine
    /// alone; then they are told of none]
    #[arg(
        long,
        env = "FLOWCTL_CONTROL_PLANE_ADVERTISE",
        hide_env_values = true,
        value_name = "HOST:PORT"
    )]
    pub control_plane_advertise: Option<String>,
    /// How long a component may send no heartbeat before it counts as silent
    #[arg(
        long,
        env = "FLOWCTL_HEARTBEAT_TTL",
        hide_env_values = true,
        value_name = "TIME",
        default_value = "30s"
    )]
    pub heartbeat_ttl: HumanDuration,
    /// How often silent components are looked for
    #[arg(
        long,
        env = "FLOWCTL_JANITOR_INTERVAL",
        hide_env_values = true,
        value_name = "TIME",
        default_value = "10s"
    )]
    pub janitor_interval: HumanDuration,
    /// Refuse components that show no token, even from this machine
    #[arg(long, env = "FLOWCTL_REQUIRE_TOKENS")]
    pub require_tokens: bool,
    /// The control plane's certificate and those that vouch for it, in PEM; read anew when it changes
    #[arg(
        long,
        env = "FLOWCTL_TLS_CERT",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(
        long,
        env = "FLOWCTL_TLS_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Let in only components whose certificate this authority vouches for, in PEM
    #[arg(
        long,
        env = "FLOWCTL_TLS_CLIENT_CA",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_client_ca: Option<PathBuf>,
    /// Tell components of another control plane and start none
    #[arg(
        long,
        env = "FLOWCTL_USE_EXTERNAL_CONTROL_PLANE",
        hide_env_values = true,
        value_name = "HOST:PORT"
    )]
    pub use_external_control_plane: Option<String>,
}
