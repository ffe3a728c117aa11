//! The asking side: one connection per question, and a deadline on each.
//!
//! **Guarantees.** No call waits for ever on a daemon that is stopped or stuck. Only a stream, once
//! it has begun, lasts as long as its reader wants.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::backend::Backend;
use super::error::{ApiError, ErrorBody};
use super::lines::Lines;
use super::server::Inside;
use super::socket::{self, ConnectError};
use super::wire::{
    ApplyAnswer, ApplyRequest, AskAnswer, Asked, DiffAnswer, EventQuery, KeptEntry, KeptLogs,
    LogParams, MetricsForm, RemovedLogs, VersionAnswer, VolumesAnswer, VolumesRequest,
};
use crate::model::{
    ComponentId, ComponentList, Event, Notifications, PipelineKey, PipelineSpec, Snapshot,
    TargetName,
};

/// A daemon that is alive accepts within this, unless thousands wait before us.
const CONNECT: Duration = Duration::from_secs(2);
/// A question that touches no disk is answered within this.
const QUESTION: Duration = Duration::from_secs(10);
/// A command is recorded power-safe before it is answered; a slow disk takes its time.
const COMMAND: Duration = Duration::from_secs(60);

/// A pull that makes progress takes its time; the daemon gives it up before this.
const PULL: Duration = Duration::from_secs(40 * 60);

/// How often a question is repeated whose connection broke, and after which pause: a process that
/// was killed is gone by then.
const REPEATS: u32 = 3;
const REPEAT_PAUSE: Duration = Duration::from_millis(20);

/// The way to the daemon of one state directory.
#[derive(Clone, Debug)]
pub struct Client {
    state_dir: PathBuf,
    way: Way,
}

/// Who answers.
#[derive(Clone, Debug)]
enum Way {
    /// Whoever listens on the socket of the state directory.
    Socket,
    /// A backend in this process.
    Inside(Inside),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers in {}: {why}", state_dir.display())]
    NoDaemon {
        /// The state directory that was asked.
        state_dir: PathBuf,
        /// What connecting gave.
        why: String,
    },
    /// Who answers there may be another user, who is neither asked nor told anything.
    #[error("the state directory {} is not ours alone: {why}", state_dir.display())]
    NotOurs {
        /// The state directory that was to be asked.
        state_dir: PathBuf,
        /// Who, and by what.
        why: String,
        /// What to do about it.
        advice: String,
    },
    /// What was to be asked could not be put into words: a fault of this side.
    #[error("the question {question} could not be written: {why}")]
    Unwritten {
        /// What was to be asked.
        question: String,
        /// What went wrong.
        why: String,
    },
    /// Somebody listens and does not answer.
    #[error("the daemon of {} did not answer within {after:?}", state_dir.display())]
    Silent {
        /// The state directory that was asked.
        state_dir: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The daemon answered that it failed.
    #[error(transparent)]
    Answer(ApiError),
    /// The answer broke off or cannot be understood.
    #[error("the daemon's answer to {question} broke: {why}")]
    Broken {
        /// The state directory that was asked.
        state_dir: PathBuf,
        /// What was asked.
        question: String,
        /// What went wrong.
        why: String,
    },
}

impl ClientError {
    /// What the daemon answered, for those who go on after that.
    ///
    /// # Errors
    /// Itself, where the daemon did not answer.
    pub fn answered(self) -> Result<ApiError, Self> {
        match self {
            Self::Answer(error) => Ok(error),
            Self::NoDaemon { .. }
            | Self::NotOurs { .. }
            | Self::Unwritten { .. }
            | Self::Silent { .. }
            | Self::Broken { .. } => Err(self),
        }
    }
}

impl Client {
    /// The way to the daemon of `state_dir`; nothing is connected yet.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            way: Way::Socket,
        }
    }

    /// A client of the same state directory that `backend` answers, in this process.
    #[must_use]
    pub fn answered_by(&self, backend: Arc<dyn Backend>) -> Self {
        Self {
            state_dir: self.state_dir.clone(),
            way: Way::Inside(Inside::new(backend)),
        }
    }

    /// The state directory that is asked.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Which daemon answers.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call.
    pub async fn version(&self) -> Result<VersionAnswer, ClientError> {
        self.ask(Method::GET, "/v1/version", QUESTION).await
    }

    /// The snapshot as the daemon wrote it: a line of JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status_text(&self) -> Result<Bytes, ClientError> {
        let answer = self
            .send(Method::GET, "/v1/status", Bytes::new(), QUESTION)
            .await?;
        self.whole(answer, "/v1/status", QUESTION).await
    }

    /// The latest snapshot.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Snapshot, ClientError> {
        decode(&self.state_dir, "/v1/status", &self.status_text().await?)
    }

    /// The latest snapshot with what replicas use, which is measured for it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn usage_text(&self) -> Result<Bytes, ClientError> {
        let path = "/v1/status?usage";
        let answer = self.send(Method::GET, path, Bytes::new(), QUESTION).await?;
        self.whole(answer, path, QUESTION).await
    }

    /// The metrics as text, as a scraper reads them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn metrics(&self, form: MetricsForm) -> Result<Bytes, ClientError> {
        let path = match form {
            MetricsForm::Classic => "/metrics",
            MetricsForm::OpenMetrics => "/metrics?format=openmetrics",
        };
        let answer = self.send(Method::GET, path, Bytes::new(), QUESTION).await?;
        self.whole(answer, path, QUESTION).await
    }

    /// Everyone who is registered with the control plane.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn components(&self) -> Result<ComponentList, ClientError> {
        self.ask(Method::GET, "/v1/components", QUESTION).await
    }

    /// The latest snapshot and each later one, a line each.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&self) -> Result<Lines, ClientError> {
        self.stream("/v1/status?watch").await
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyAnswer, ClientError> {
        self.post("/v1/apply", request).await
    }

    /// What applying would change.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn diff(&self, request: &ApplyRequest) -> Result<DiffAnswer, ClientError> {
        self.post("/v1/diff", request).await
    }

    /// The definition that a pipeline runs by.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn definition(&self, pipeline: &PipelineKey) -> Result<PipelineSpec, ClientError> {
        self.ask(Method::GET, &address(pipeline), QUESTION).await
    }

    /// Events, a line each; see [`Lines::decoded`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, query: &EventQuery) -> Result<Lines, ClientError> {
        self.stream(&format!("/v1/events?{}", event_query(query)))
            .await
    }

    /// All events that `query` wants and that are kept.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kept_events(&self, query: EventQuery) -> Result<Vec<Event>, ClientError> {
        let query = EventQuery {
            follow: false,
            ..query
        };
        let mut lines = self.events(&query).await?;
        let mut events = Vec::new();
        while let Some(event) = lines.decoded().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// Log lines, a [`super::LogEntry`] each.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(&self, params: &LogParams) -> Result<Lines, ClientError> {
        self.stream(&format!("/v1/logs?{}", log_query(params)))
            .await
    }

    /// The logs of what nothing defines any more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kept_logs(&self) -> Result<Vec<KeptEntry>, ClientError> {
        let kept: KeptLogs = self.ask(Method::GET, "/v1/logs/kept", COMMAND).await?;
        Ok(kept.logs)
    }

    /// Removes the logs of a pipeline that is gone; answers how many bytes they had.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_logs(&self, pipeline: &PipelineKey) -> Result<u64, ClientError> {
        let query = joined(&[
            ("namespace", Some(pipeline.namespace.to_string())),
            ("pipeline", Some(pipeline.name.to_string())),
        ]);
        let path = format!("/v1/logs?{query}");
        let removed: RemovedLogs = self.ask(Method::DELETE, &path, COMMAND).await?;
        Ok(removed.bytes)
    }

    /// Starts, stops or restarts a component; answered once that is recorded, and its image pulled
    /// if that is asked for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request(
        &self,
        pipeline: &PipelineKey,
        component: &ComponentId,
        asked: Asked,
    ) -> Result<AskAnswer, ClientError> {
        let address = address(pipeline);
        let path = format!("{address}/components/{component}/{asked}");
        let within = match asked {
            Asked::Start | Asked::Stop | Asked::Restart => COMMAND,
            Asked::Pull => PULL,
        };
        self.ask(Method::POST, &path, within).await
    }

    /// Takes a pipeline down and forgets it; answered once that is recorded.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, pipeline: &PipelineKey) -> Result<(), ClientError> {
        self.command(Method::DELETE, &address(pipeline)).await
    }

    /// Removes or keeps named volumes whose components are gone, and tells which.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volumes(&self, request: &VolumesRequest) -> Result<VolumesAnswer, ClientError> {
        self.post("/v1/volumes", request).await
    }

    /// Who is told of what is wrong, and what waits to be.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn notifications(&self) -> Result<Notifications, ClientError> {
        self.ask(Method::GET, "/v1/notify", QUESTION).await
    }

    /// Sends a test to a notification target; answered once that took it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn notify_test(&self, target: &TargetName) -> Result<(), ClientError> {
        let path = format!("/v1/notify/{target}/test");
        let _taken: serde_json::Value = self.ask(Method::POST, &path, COMMAND).await?;
        Ok(())
    }

    /// Takes everything down and ends the daemon; answered once that is recorded.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn down(&self) -> Result<(), ClientError> {
        self.command(Method::POST, "/v1/down").await
    }

    /// The daemon's process, to wait for its end.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] when nobody listens.
    pub async fn process(&self) -> Result<DaemonProcess, ClientError> {
        loop {
            let pid = self.listener().await?;
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .map_err(|error| self.no_daemon(&error.into()))?;
            // One that listens still had its number all the time: what was opened is no other
            // process that was given it meanwhile.
            if self.listener().await? == pid {
                return Ok(DaemonProcess { pidfd });
            }
        }
    }

    /// The number of the process that listens.
    async fn listener(&self) -> Result<Pid, ClientError> {
        let connection = self.connect().await?;
        let peer = connection.peer_cred().map_err(|e| self.no_daemon(&e))?;
        let pid = peer.pid().and_then(Pid::from_raw);
        pid.ok_or_else(|| self.no_daemon(&io::Error::other("it has no process id here")))
    }

    async fn command(&self, method: Method, path: &str) -> Result<(), ClientError> {
        let _recorded: serde_json::Value = self.ask(method, path, COMMAND).await?;
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        within: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, Bytes::new(), within).await?;
        decode(
            &self.state_dir,
            path,
            &self.whole(answer, path, within).await?,
        )
    }

    async fn post<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(question).map_err(|error| ClientError::Unwritten {
            question: path.to_owned(),
            why: error.to_string(),
        })?;
        let answer = self.send(Method::POST, path, body.into(), COMMAND).await?;
        decode(
            &self.state_dir,
            path,
            &self.whole(answer, path, COMMAND).await?,
        )
    }

    async fn stream(&self, path: &str) -> Result<Lines, ClientError> {
        let answer = self.send(Method::GET, path, Bytes::new(), QUESTION).await?;
        if answer.status().is_success() {
            Ok(Lines::new(&self.state_dir, path, answer.into_body()))
        } else {
            let body = self.whole(answer, path, QUESTION).await?;
            Err(self.broken(path, &String::from_utf8_lossy(&body)))
        }
    }

    /// Sends a request and waits for the head of its answer. A daemon that dies just then takes the
    /// connection along: asking again tells whether there is one. Doing so is safe, since every
    /// request says what is to be and not what is to be done, but for a restart.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let again = if path.ends_with("/restart") || path.ends_with("/pull") {
            0
        } else {
            REPEATS
        };
        for _ in 0..again {
            match self.attempt(&method, path, body.clone(), within).await {
                Err(ClientError::Broken { .. }) => sleep(REPEAT_PAUSE).await,
                outcome => return outcome,
            }
        }
        self.attempt(&method, path, body, within).await
    }

    async fn attempt(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let question = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends when the answer has been read or dropped; its error is the answer's too.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the daemon ended early");
                }
            });
            let request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header(header::HOST, "flowctl")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .expect("paths are made of ids, which need no escaping");
            sender.send_request(request).await
        };
        match timeout(within, question).await {
            Ok(answer) => answer.map_err(|error| self.broken(path, &error)),
            Err(_) => Err(self.silent(within)),
        }
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        if let Way::Inside(server) = &self.way {
            return server.connect().map_err(|error| self.no_daemon(&error));
        }
        let deadline = Instant::now() + CONNECT;
        loop {
            let error = match socket::connect(&self.state_dir).await {
                Ok(stream) => return Ok(stream),
                Err(ConnectError::Io(error)) => error,
                Err(ConnectError::Stranger(stranger)) => {
                    return Err(ClientError::NotOurs {
                        state_dir: self.state_dir.clone(),
                        why: stranger.to_string(),
                        advice: stranger.advice(),
                    });
                }
            };
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(self.no_daemon(&error));
            }
            // The queue of the socket is full: others wait before us.
            if Instant::now() > deadline {
                return Err(self.silent(CONNECT));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn no_daemon(&self, error: &io::Error) -> ClientError {
        let why = if error.kind() == io::ErrorKind::NotFound {
            "there is no socket".to_owned()
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            "its socket was left by a daemon that died".to_owned()
        } else {
            error.to_string()
        };
        ClientError::NoDaemon {
            state_dir: self.state_dir.clone(),
            why,
        }
    }

    /// The whole body of an answer; an error that the daemon tells becomes one.
    async fn whole(
        &self,
        answer: Response<Incoming>,
        path: &str,
        within: Duration,
    ) -> Result<Bytes, ClientError> {
        let status = answer.status();
        let body = match timeout(within, answer.into_body().collect()).await {
            Ok(body) => body.map_err(|error| self.broken(path, &error))?.to_bytes(),
            Err(_) => return Err(self.silent(within)),
        };
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(told) => Err(ClientError::Answer(told.error)),
            Err(_) => Err(self.broken(
                path,
                &format!("{status}: {}", String::from_utf8_lossy(&body)),
            )),
        }
    }

    fn broken(&self, question: &str, why: &dyn std::fmt::Display) -> ClientError {
        broken(&self.state_dir, question, why)
    }

    fn silent(&self, after: Duration) -> ClientError {
        ClientError::Silent {
            state_dir: self.state_dir.clone(),
            after,
        }
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct DaemonProcess {
    pidfd: OwnedFd,
}

impl DaemonProcess {
    /// Asks it to end. What it looks after runs on.
    ///
    /// # Errors
    /// When it belongs to another user.
    pub fn ask_to_end(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM) {
            // It has ended already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended, at most for `within`. Answers whether it has.
    pub async fn ended(self, within: Duration) -> bool {
        let waiting = tokio::task::spawn_blocking(move || {
            let patience = Timespec {
                tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: within.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            matches!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1))
        });
        waiting.await.unwrap_or(false)
    }
}

fn address(pipeline: &PipelineKey) -> String {
    format!("/v1/pipelines/{}/{}", pipeline.namespace, pipeline.name)
}

pub(super) fn decode<T: DeserializeOwned>(
    state_dir: &Path,
    question: &str,
    body: &[u8],
) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| broken(state_dir, question, &error))
}

pub(super) fn broken(state_dir: &Path, question: &str, why: &dyn std::fmt::Display) -> ClientError {
    ClientError::Broken {
        state_dir: state_dir.to_owned(),
        question: question.to_owned(),
        why: why.to_string(),
    }
}

/// `name=value&..` of the pairs that have a value. Ids, times and numbers need no escaping.
fn joined(pairs: &[(&str, Option<String>)]) -> String {
    let words: Vec<String> = pairs
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}")))
        .collect();
    words.join("&")
}

/// `value` as a query may carry it.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(ToString::to_string)
}

fn event_query(query: &EventQuery) -> String {
    joined(&[
        ("after", text(query.after.as_ref())),
        ("since", text(query.since.as_ref())),
        ("namespace", text(query.namespace.as_ref())),
        ("pipeline", text(query.pipeline.as_ref())),
        ("component", text(query.component.as_ref())),
        ("tail", text(query.tail.as_ref())),
        ("follow", Some(query.follow.to_string())),
    ])
}

fn log_query(params: &LogParams) -> String {
    joined(&[
        ("namespace", Some(params.namespace.to_string())),
        ("pipeline", Some(params.pipeline.to_string())),
        ("components", Some(params.components.clone())),
        ("since", text(params.since.as_ref())),
        ("until", text(params.until.as_ref())),
        ("tail", text(params.tail.as_ref())),
        ("grep", params.grep.as_deref().map(escaped)),
        ("ignore_case", Some(params.ignore_case.to_string())),
        ("invert", Some(params.invert.to_string())),
        ("before", Some(params.before.to_string())),
        ("after_each", Some(params.after_each.to_string())),
        ("level", params.level.map(|level| level.to_string())),
        ("fields", Some(escaped(&params.fields))),
        ("previous", Some(params.previous.to_string())),
        ("defined", Some(params.defined.to_string())),
        ("follow", Some(params.follow.to_string())),
    ])
}
