//! What can be typed about what is looked at for longer.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// `flowctl ui`.
#[derive(Clone, Copy, Debug, Args)]
#[command(
    after_help = "Keys: arrows or j k move, Enter logs, w why, e events, g graph, t top, / filter, s stop,\n\
    S start, r restart (each asks y/n), : commands, ? all keys, q quit.\n\n\
    It follows the daemon, over its restarts too, and writes nothing while nothing changes."
)]
pub struct Ui {
    /// Only look: nothing can be started, stopped or restarted from here
    #[arg(long)]
    pub read_only: bool,
}

/// `flowctl web`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl web                                   print a link that works once; Ctrl+C ends it\n  \
    flowctl web --allow-control                   pages can start, stop and restart, too\n  \
    ssh -L 4000:127.0.0.1:4000 host flowctl web --listen 127.0.0.1:4000\n  \
    flowctl web --listen 0.0.0.0:8443 --host flow.example --token-file token \\\n      \
    --tls-cert cert.pem --tls-key key.pem\n\n\
    Whoever may ask the daemon may run it. Without --allow-control pages only show. Where other hosts\n\
    can come it needs a token in a file and TLS.")]
pub struct Web {
    /// Where browsers are answered; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Let pages start, stop and restart components
    #[arg(long)]
    pub allow_control: bool,
    /// A name by which browsers know this host, beside localhost; may be repeated
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// A file with the token that lets browsers in, as often as it is typed; without one a link is
    /// printed that works once
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A certificate, in PEM, to speak TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}
