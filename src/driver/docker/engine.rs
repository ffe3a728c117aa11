//! Calls of the engine: each with a deadline, each failure told apart by what is known after it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};

use serde::de::DeserializeOwned;

use super::dialect;
use super::endpoint::Endpoint;
use crate::driver::DriverError;
use crate::model::DriverKind;

/// A look, which an engine that is well answers within milliseconds.
pub(super) const LOOK: Duration = Duration::from_secs(8);
/// A change, which waits for disks, networks and kernels.
pub(super) const CHANGE: Duration = Duration::from_secs(30);
/// So many characters of what it says are kept: it may be a proxy's whole page.
const MESSAGE_LIMIT: usize = 1_000;
/// After this without a word a stream from another host is begun anew: its connection may have died
/// without a sign, as when that host lost its power or a router forgot it.
const QUIET: Duration = Duration::from_secs(20);
/// What bollard waits for the head of an answer; ours are shorter, except for streams.
const HEAD_SECONDS: u64 = 60;

/// Nothing was heard on a stream for a while.
pub(super) struct Quiet;

/// The engine, connected when it is first needed.
pub(super) struct Engine {
    endpoint: Endpoint,
    client: Mutex<Option<Docker>>,
}

/// Why a call did not give what it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The engine said no.
    Answered {
        /// HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// No answer, or one that makes no sense: nothing is known.
    Silent(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { status, message } => {
                write!(f, "the engine answered {status}: {message}")
            }
            Self::Silent(why) => f.write_str(why),
        }
    }
}

impl Failure {
    /// What it means to whoever asked the driver for `operation`.
    pub(super) fn unreachable(self, operation: &str) -> DriverError {
        unreachable(operation, self)
    }

    /// Whether the engine says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Answered { status: 404, .. })
    }

    /// Whether the engine says that somebody else has or uses it. Podman's older ones say so with
    /// the number of a failure.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Answered { status: 409, .. } => true,
            Self::Answered {
                status: 500,
                message,
            } => message.contains("in use") || message.contains("being used"),
            Self::Answered { .. } | Self::Silent(_) => false,
        }
    }
}

/// Nothing is known of what `operation` was about.
pub(super) fn unreachable(operation: &str, why: impl std::fmt::Display) -> DriverError {
    DriverError::Unreachable {
        driver: DriverKind::Docker,
        operation: operation.to_owned(),
        why: why.to_string(),
    }
}

/// `None` where the engine says that there is no such thing.
pub(super) fn found<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl Engine {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            client: Mutex::new(None),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks the engine, and waits `deadline` for the whole answer.
    pub(super) async fn call<T, F>(
        &self,
        deadline: Duration,
        ask: impl FnOnce(Docker) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client()?;
        match tokio::time::timeout(deadline, ask(client)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_) => Err(Failure::Silent(format!(
                "the engine at {} did not answer within {} s",
                self.endpoint,
                deadline.as_secs()
            ))),
        }
    }

    /// The containers that these filters take, in any state.
    pub(super) async fn containers(
        &self,
        filters: HashMap<String, Vec<String>>,
    ) -> Result<Vec<ContainerSummary>, Failure> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..ListContainersOptions::default()
        };
        self.read(LOOK, |client| async move {
            client.list_containers(Some(options)).await
        })
        .await
    }

    /// The container of this id or name, if there is one.
    pub(super) async fn container(
        &self,
        container: &str,
    ) -> Result<Option<ContainerInspectResponse>, Failure> {
        let answer = self.read(LOOK, |client| async move {
            let options = None::<InspectContainerOptions>;
            client.inspect_container(container, options).await
        });
        found(answer.await)
    }

    /// Asks the engine for a description, and understands also what only Podman says.
    pub(super) async fn read<T, F>(
        &self,
        deadline: Duration,
        ask: impl FnOnce(Docker) -> F,
    ) -> Result<T, Failure>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<T, Error>>,
    {
        let understood = |client| async move {
            match ask(client).await {
                Err(Error::JsonDataError {
                    message,
                    contents,
                    column,
                }) => dialect::translated(&contents).ok_or(Error::JsonDataError {
                    message,
                    contents,
                    column,
                }),
                answer => answer,
            }
        };
        self.call(deadline, understood).await
    }

    /// The next item of a stream; [`Quiet`] when it should be begun anew. On this host a connection
    /// ends with its engine.
    ///
    /// # Cancel safety
    /// As that of `next`.
    pub(super) async fn heard<T>(&self, next: impl Future<Output = T>) -> Result<T, Quiet> {
        if self.endpoint.is_local() {
            return Ok(next.await);
        }
        tokio::time::timeout(QUIET, next).await.map_err(|_| Quiet)
    }

    /// A client for a stream, whose items have no deadline of their own: see [`Self::heard`].
    pub(super) fn client(&self) -> Result<Docker, Failure> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = match &self.endpoint {
            Endpoint::Unix(path) => Docker::connect_with_unix(
                &path.to_string_lossy(),
                HEAD_SECONDS,
                API_DEFAULT_VERSION,
            ),
            Endpoint::Tcp(address) => Docker::connect_with_http(
                &format!("tcp://{address}"),
                HEAD_SECONDS,
                API_DEFAULT_VERSION,
            ),
            Endpoint::Tls {
                address,
                certificates,
            } => Docker::connect_with_ssl(
                &format!("tcp://{address}"),
                &certificates.join("key.pem"),
                &certificates.join("cert.pem"),
                &authorities(certificates),
                HEAD_SECONDS,
                API_DEFAULT_VERSION,
            ),
        };
        let connected = connected.map_err(|error| self.failure(error))?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// What an error of the client means.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the client's many errors only two are an answer of the engine"
    )]
    pub(super) fn failure(&self, error: Error) -> Failure {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Failure::Answered {
                status: status_code,
                message: message.trim().chars().take(MESSAGE_LIMIT).collect(),
            },
            Error::DockerStreamError { error } => Failure::Answered {
                status: 500,
                message: error,
            },
            other => Failure::Silent(format!(
                "no usable answer from the engine at {}: {}",
                self.endpoint,
                causes(&other)
            )),
        }
    }
}

/// The authorities that vouch for the engine, beside those of this host.
fn authorities(certificates: &Path) -> PathBuf {
    let own = certificates.join("ca.pem");
    // A context may name none; its engine then has a certificate that every host trusts.
    match own.try_exists() {
        Ok(false) => "/dev/null".into(),
        // One that cannot be looked at must not be passed over: reading it says why.
        Ok(true) | Err(_) => own,
    }
}

/// An error with what lies below it, which says more than its surface.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        below = cause.source();
    }
    text
}
