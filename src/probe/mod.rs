//! Health checks: asks a component how it is, when it is time to.
//!
//! **Expected flow.** The reconciler hands every running instance with its probes to the
//! [`ProberHandle`], and takes it back when the instance ends or is being stopped. The [`Prober`]
//! asks each probe when it is due and sends a [`Report`] per answer.
//!
//! **Guarantees.** At most [`MAX_ASKS`] asks are under way. An ask ends at its timeout, whatever
//! the other side does, and keeps at most 64 KiB of an answer. It runs no program itself: those of
//! exec probes are begun by the driver of their instance, as that runs. A report is about an instance that
//! was still wanted when its ask ended. Where a port answers is found out at each ask, and no
//! answer of a stranger, or of the ask itself, passes for the component's.
//!
//! **What it does not do.** It judges nothing: thresholds are [`crate::planner`]'s. It never logs
//! or passes on a body. An error of its own (no descriptors left) is no outcome and is not
//! reported. [`ProbeCheck::Heartbeat`] is never asked: the component calls by itself.

mod connect;
mod exec;
mod grpc;
mod http;
mod metadata;
mod prober;
mod schedule;
mod site;
#[cfg(test)]
mod tests;
mod work;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::model::{
    Counts, ExitStatus, HumanDuration, InstanceId, ProbeCheck, ProbeKind, ProbeOutcome,
};

pub use metadata::{WHY as METADATA_IS_NOT_ASKED, is_metadata};
pub use prober::{MAX_ASKS, Prober, ProberHandle};
pub use schedule::{Found, Stage, Watched};
pub use site::{Located, PortSite, Ports, Whose};
pub use work::{LastLine, Observer, Tell};

/// Where the probes of one instance ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where its ports answer.
    pub ports: PortSite,
    /// Where its exec probes run; `None` where its driver cannot run any.
    pub exec: Option<ExecSite>,
}

/// A machine, as far as probes care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// This one: 127.0.0.1, then `::1`.
    Loopback,
    /// A literal address, as that of a container.
    Ip(IpAddr),
    /// A name for the resolver.
    Name(String),
}

impl From<&str> for Host {
    fn from(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        match bare.unwrap_or(text).parse() {
            Ok(ip) => Self::Ip(ip),
            Err(_) if text.eq_ignore_ascii_case("localhost") => Self::Loopback,
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

impl fmt::Display for Host {
    /// As it stands in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("localhost"),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Where the exec probes of one instance run: where only its driver gets.
#[derive(Clone)]
pub struct ExecSite {
    instance: InstanceId,
    inside: Arc<dyn Inside>,
}

/// Runs programs where instances run, and as they do.
#[async_trait]
pub trait Inside: Send + Sync {
    /// Begins `command` in `instance`; what it answers waits for the end. Dropping either future
    /// ends the program.
    ///
    /// # Errors
    /// Why it was not begun.
    async fn begin(&self, instance: &InstanceId, command: &[String]) -> Result<Ending, NotBegun>;
}

/// Why a program was not begun, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// As the component has it, it cannot be run.
    Component(String),
    /// That says nothing about the component.
    NoPlace(String),
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of what it wrote.
    pub output: Vec<u8>,
}

/// A program that runs; it resolves to what became of it, or to why that is not known.
pub type Ending = BoxFuture<'static, Result<Ended, String>>;

impl ExecSite {
    /// The inside of `instance`, where `inside` gets.
    pub fn new(instance: InstanceId, inside: Arc<dyn Inside>) -> Self {
        Self { instance, inside }
    }
}

impl PartialEq for ExecSite {
    /// What an instance finds around it stays the same for all its life.
    fn eq(&self, other: &Self) -> bool {
        self.instance == other.instance
    }
}

impl Eq for ExecSite {}

impl fmt::Debug for ExecSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExecSite").field(&self.instance).finish()
    }
}

/// What one ask gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which instance was asked.
    pub instance: InstanceId,
    /// Which of its probes.
    pub kind: ProbeKind,
    /// What came back.
    pub outcome: ProbeOutcome,
    /// Whether a failure counts.
    pub counts: Counts,
    /// How long it took.
    pub took: Duration,
}

/// Why an ask says nothing about the component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The daemon lacks descriptors, ports or memory.
    #[error("cannot ask a probe: {why}; raise the daemon's limits")]
    Exhausted {
        /// What the kernel said.
        why: String,
    },
    /// A bug of ours.
    #[error("asking a probe panicked; the panic is in the log")]
    Panicked,
    /// Where a probe's program would have to run cannot be known.
    #[error("cannot run a probe's program as its component runs: {why}")]
    NoPlace {
        /// What is missing.
        why: String,
    },
    /// Where a port answers has not been seen yet, as after a daemon's start.
    #[error("cannot ask port {port} of {instance}: where it answers has not been seen yet")]
    NotSeen {
        /// Whose port it is.
        instance: InstanceId,
        /// Which.
        port: u16,
    },
    /// The check is not one that this room asks.
    #[error("a {what} probe cannot be asked here")]
    NotAskable {
        /// `heartbeat`, or `exec` where the driver offers no place to run it.
        what: &'static str,
    },
}

/// Asks once. Takes no longer than `timeout`, connecting included.
///
/// The text of a failure is short and for people: `connection refused`, `HTTP 503`,
/// `no answer within 2s`, `status is "unhealthy"`, `exit 1: <first line of output>`.
///
/// # Errors
/// [`AskError`] when the answer, or its absence, says nothing about the component.
pub async fn ask(
    check: &ProbeCheck,
    target: &Target,
    timeout: Duration,
) -> Result<ProbeOutcome, AskError> {
    // What an instance runs in may be what does not answer.
    let asked = AtomicBool::new(true);
    let question = async {
        match check {
            ProbeCheck::Http(at) => {
                let named = at.host.as_deref().map(Host::from);
                http::get(&target.ports.door(named, at.port.number())?, &at.path).await
            }
            ProbeCheck::Grpc { port, service } => {
                grpc::check(&target.ports.door(None, port.number())?, service).await
            }
            ProbeCheck::Tcp { port } => {
                let door = target.ports.door(None, port.number())?;
                door.connect().await.map(drop)
            }
            ProbeCheck::Exec { command } => match &target.exec {
                Some(site) => exec::run(command, site, &asked).await,
                None => Err(AskError::NotAskable { what: "exec" }.into()),
            },
            ProbeCheck::Heartbeat { .. } => Err(AskError::NotAskable { what: "heartbeat" }.into()),
        }
    };
    match tokio::time::timeout(timeout, question).await {
        Ok(Ok(())) => Ok(ProbeOutcome::Pass),
        Ok(Err(Trouble::Component(why))) => Ok(ProbeOutcome::Fail(why)),
        Ok(Err(Trouble::Prober(error))) => Err(error),
        Err(_) => {
            let timeout = HumanDuration::new(timeout);
            if asked.load(Ordering::Relaxed) {
                Ok(ProbeOutcome::Fail(format!("no answer within {timeout}")))
            } else {
                let why = format!("it could not be begun within {timeout}");
                Err(AskError::NoPlace { why })
            }
        }
    }
}

/// Why an ask did not pass: whose trouble it is.
#[derive(Debug)]
enum Trouble {
    /// The component's, in words.
    Component(String),
    /// Ours.
    Prober(AskError),
}

impl From<AskError> for Trouble {
    fn from(error: AskError) -> Self {
        Self::Prober(error)
    }
}

impl Trouble {
    /// The component's trouble in `words`.
    fn component(words: impl Into<String>) -> Self {
        Self::Component(words.into())
    }
}
