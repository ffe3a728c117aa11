//! Calls to the cluster: each with a deadline, none repeated behind anybody's back, what comes back
//! sorted into an answer or a silence.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::config::{Access, ConfigError};
use super::limiter::{Limiter, Share};
use super::wire::{List, Status};
use crate::driver::DriverError;
use crate::model::DriverKind;

/// The manager under which fields are applied. It never changes: another name would leave fields
/// behind that nobody owns.
pub(super) const MANAGER: &str = "flowctl";
/// By when an answer is there.
pub(super) const READ: Duration = Duration::from_secs(5);
pub(super) const WRITE: Duration = Duration::from_secs(8);
pub(super) const LIST: Duration = Duration::from_secs(15);
/// What is asked whether the cluster is there.
pub(super) const PROBE: Duration = Duration::from_secs(3);
/// Objects of a list that are asked for at once.
const PAGE: u32 = 250;
/// The largest answer that is read.
const LARGEST: usize = 64 << 20;
/// How soon the credentials are read anew that the cluster has refused.
const CREDENTIALS_AGAIN: Duration = Duration::from_secs(30);

/// Why a call has not come to what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no usable configuration.
    Config(String),
    /// Nothing came back, or nothing that can be understood. A write may have been made.
    Silent(String),
    /// The cluster said no.
    Answered(Box<Answer>),
}

/// What the cluster said instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u16,
    /// In one word.
    pub(super) reason: String,
    pub(super) message: String,
    /// The words of its causes.
    pub(super) causes: Vec<String>,
    /// After how many seconds it wants to be asked again.
    pub(super) retry_after: u64,
}

impl Failure {
    /// The status of the answer; `None` = there was none.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Config(_) | Self::Silent(_) => None,
            Self::Answered(answer) => Some(answer.code),
        }
    }

    /// Whether there is no such object.
    pub(super) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the rights or the credentials do not suffice.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }

    /// That nothing is known.
    pub(super) fn unreachable(self, operation: &str) -> DriverError {
        unreachable(operation, self)
    }
}

/// That nothing is known.
pub(super) fn unreachable(operation: &str, why: impl fmt::Display) -> DriverError {
    DriverError::Unreachable {
        driver: DriverKind::Kubernetes,
        operation: operation.to_owned(),
        why: why.to_string(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(why) | Self::Silent(why) => f.write_str(why),
            Self::Answered(answer) => answer.fmt(f),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            401 => write!(
                f,
                "the cluster refuses the credentials of its kubeconfig ({}): renew them",
                self.message
            ),
            429 if self.retry_after > 0 => {
                write!(f, "the cluster asks to wait {} s", self.retry_after)
            }
            _ if self.message.is_empty() => write!(f, "the cluster answered {}", self.code),
            _ => f.write_str(&self.message),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

/// A call that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Call<'c> {
    method: Method,
    path: String,
    body: Option<&'c Value>,
    content: &'static str,
    deadline: Duration,
    share: Share,
}

impl<'c> Call<'c> {
    pub(super) fn get(path: String) -> Self {
        Self {
            method: Method::GET,
            path,
            body: None,
            content: "application/json",
            deadline: READ,
            share: Share::Usual,
        }
    }

    pub(super) fn create(path: String, body: &'c Value) -> Self {
        Self {
            method: Method::POST,
            path: format!("{path}?fieldManager={MANAGER}"),
            body: Some(body),
            deadline: WRITE,
            ..Self::get(String::new())
        }
    }

    /// Applies what `body` says, and takes nothing from other managers.
    pub(super) fn apply(path: &str, body: &'c Value) -> Self {
        Self {
            method: Method::PATCH,
            path: format!("{path}?fieldManager={MANAGER}&force=false"),
            content: "application/apply-patch+yaml",
            ..Self::create(String::new(), body)
        }
    }

    /// Changes those fields that `body` names.
    pub(super) fn patch(path: &str, body: &'c Value) -> Self {
        Self {
            method: Method::PATCH,
            path: format!("{path}?fieldManager={MANAGER}"),
            content: "application/merge-patch+json",
            ..Self::create(String::new(), body)
        }
    }

    pub(super) fn delete(path: String, options: &'c Value) -> Self {
        Self {
            method: Method::DELETE,
            path,
            ..Self::create(String::new(), options)
        }
    }

    /// The same by then.
    pub(super) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same on the share of stops.
    pub(super) fn of_a_stop(self) -> Self {
        Self {
            share: Share::Stops,
            ..self
        }
    }
}

/// The text of a parameter of a path.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The way to one cluster.
pub(super) struct Api {
    access: Access,
    client: Mutex<(kube::Client, Instant)>,
    limiter: Limiter,
}

impl Api {
    /// The way by `access`. Nothing is asked yet.
    pub(super) fn new(access: Access) -> Result<Self, Failure> {
        let client = access.client()?;
        let now = Instant::now();
        Ok(Self {
            access,
            client: Mutex::new((client, now)),
            limiter: Limiter::new(now),
        })
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Makes a call and reads the answer.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Failure> {
        let bytes = self.bytes(call).await?;
        self.read(&bytes)
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(bytes).map_err(|error| {
            Failure::Silent(format!(
                "{} sent what no API server says: {error}",
                self.access.url()
            ))
        })
    }

    /// Makes a call whose answer is of no interest.
    pub(super) async fn tell(&self, call: Call<'_>) -> Result<(), Failure> {
        self.bytes(call).await.map(drop)
    }

    async fn bytes(&self, call: Call<'_>) -> Result<Bytes, Failure> {
        let deadline = call.deadline;
        let (method, path) = (call.method.clone(), call.path.clone());
        let asked = async {
            let stream = self.open(call).await?;
            stream.whole().await
        };
        match timeout(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                tracing::debug!(%method, path, "no answer by the deadline");
                Err(Failure::Silent(format!(
                    "{} did not answer within {} s",
                    self.access.url(),
                    deadline.as_secs()
                )))
            }
        }
    }

    /// All objects of a list, page by page, and the version that it is of.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        selector: &str,
    ) -> Result<(Vec<T>, String), Failure> {
        let selector = encoded(selector);
        let (mut items, mut more) = (Vec::new(), String::new());
        loop {
            let page = format!(
                "{path}?labelSelector={selector}&limit={PAGE}&continue={}",
                encoded(&more)
            );
            let list: List<T> = self.call(Call::get(page).within(LIST)).await?;
            items.extend(list.items);
            more = list.metadata.more;
            if more.is_empty() {
                return Ok((items, list.metadata.resource_version));
            }
        }
    }

    /// Begins a call whose answer comes bit by bit. Its head has the call's deadline.
    pub(super) async fn begin(&self, call: Call<'_>) -> Result<Stream, Failure> {
        let deadline = call.deadline;
        match timeout(deadline, self.open(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Silent(format!(
                "{} did not answer within {} s",
                self.access.url(),
                deadline.as_secs()
            ))),
        }
    }

    async fn open(&self, call: Call<'_>) -> Result<Stream, Failure> {
        self.limiter.admit(call.share).await;
        let body = match call.body {
            Some(body) => body.to_string().into_bytes(),
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(call.method)
            .uri(&call.path)
            .header(header::ACCEPT, "application/json, */*")
            .header(header::ACCEPT_ENCODING, "identity")
            .header(
                header::USER_AGENT,
                concat!(
                    "flowctl/",
                    env!("CARGO_PKG_VERSION"),
                    " (kubernetes driver)"
                ),
            )
            .header(header::CONTENT_TYPE, call.content)
            .body(Body::from(body));
        let request = request.map_err(|error| Failure::Silent(error.to_string()))?;
        let client = self.client().0;
        let response = client.send(request).await.map_err(|error| {
            let why = innermost(&error);
            Failure::Silent(format!("{} cannot be asked: {why}", self.access.url()))
        })?;
        let status = response.status();
        let stream = Stream {
            body: response.into_body(),
            rest: Vec::new(),
        };
        if status.is_success() {
            return Ok(stream);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.renew().await;
        }
        let bytes = stream.whole().await?;
        Err(answered(status, &bytes))
    }

    fn client(&self) -> (kube::Client, Instant) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone()
    }

    /// Reads the credentials of the same user again, since the cluster refuses those that it knows.
    async fn renew(&self) {
        if self.client().1.elapsed() < CREDENTIALS_AGAIN {
            return;
        }
        let client = match self.access.again().await {
            Ok(client) => Some(client),
            Err(error) => {
                tracing::warn!(%error, "the credentials for the cluster cannot be read again");
                None
            }
        };
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client {
            kept.0 = client;
        }
        kept.1 = Instant::now();
    }
}

/// The last cause of an error, which tells most, and its first words where these are others.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    // Spelled by the TLS library.
    if text.contains("UnknownIssuer") {
        text =
            format!("its certificate is not of the authority that the kubeconfig names ({text})");
    }
    text
}

fn answered(status: StatusCode, bytes: &[u8]) -> Failure {
    let code = status.as_u16();
    let Ok(told) = serde_json::from_slice::<Status>(bytes) else {
        let text = String::from_utf8_lossy(bytes);
        let text: String = text.trim().chars().take(200).collect();
        return Failure::Answered(Box::new(Answer {
            code,
            message: text,
            ..Answer::default()
        }));
    };
    Failure::Answered(Box::new(Answer::of(code, told)))
}

impl Answer {
    /// What a status says that came with `code`.
    pub(super) fn of(code: u16, told: Status) -> Self {
        let causes = told.details.causes.into_iter();
        Self {
            code,
            reason: told.reason,
            message: told.message,
            causes: causes.map(|cause| cause.reason).collect(),
            retry_after: told.details.retry_after_seconds,
        }
    }

    /// Whether one of its causes has this word.
    pub(super) fn is_caused_by(&self, word: &str) -> bool {
        self.causes.iter().any(|cause| cause == word)
    }
}

/// An answer that comes bit by bit.
pub(super) struct Stream {
    body: Body,
    rest: Vec<u8>,
}

impl Stream {
    /// What comes next; `None` at its end.
    async fn bytes(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Ok(Some(bytes)),
                    // Trailers say nothing here.
                    Err(_) => {}
                },
                Some(Err(error)) => {
                    let why = format!("the answer broke off: {}", innermost(&error));
                    return Err(Failure::Silent(why));
                }
            }
        }
    }

    async fn whole(mut self) -> Result<Bytes, Failure> {
        let mut all = Vec::new();
        while let Some(bytes) = self.bytes().await? {
            if all.len() + bytes.len() > LARGEST {
                let why = "an answer is larger than any that is read";
                return Err(Failure::Silent(why.to_owned()));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }

    /// The next line, with its newline where it has one; `None` at the end. Cancel-safe: what was read
    /// of a line stays.
    pub(super) async fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                let rest = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
            if self.rest.len() > LARGEST {
                let why = "a line is longer than any that is read";
                return Err(Failure::Silent(why.to_owned()));
            }
            match self.bytes().await? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None if self.rest.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.rest))),
            }
        }
    }

    /// The lines that are there, at least one; nothing at the end. Cancel-safe.
    pub(super) async fn lines(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        let Some(first) = self.line().await? else {
            return Ok(Vec::new());
        };
        let mut lines = vec![first];
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', &self.rest) {
            lines.push(self.rest[from..=end].to_vec());
            from = end + 1;
        }
        self.rest.drain(..from);
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_says_is_handed_on_in_its_own_words() {
        let body = br#"{"kind":"Status","status":"Failure","message":"pods is forbidden: User \"x\" cannot list","reason":"Forbidden","details":{"kind":"pods","causes":[{"reason":"NamespaceTerminating"}]},"code":403}"#;
        let failure = answered(StatusCode::FORBIDDEN, body);
        assert_eq!(
            failure.to_string(),
            "pods is forbidden: User \"x\" cannot list"
        );
        assert!(failure.is_refused());
        let Failure::Answered(answer) = failure else {
            panic!("it is an answer");
        };
        assert!(answer.is_caused_by("NamespaceTerminating"));
        let html = answered(StatusCode::BAD_GATEWAY, b"<html>no</html>");
        assert_eq!(html.to_string(), "<html>no</html>");
        let wait = br#"{"code":429,"details":{"retryAfterSeconds":30}}"#;
        let wait = answered(StatusCode::TOO_MANY_REQUESTS, wait);
        assert_eq!(wait.to_string(), "the cluster asks to wait 30 s");
    }

    #[test]
    fn a_selector_is_one_parameter_of_a_path() {
        assert_eq!(encoded("a.b/c=d,e"), "a.b%2Fc%3Dd%2Ce");
    }
}
