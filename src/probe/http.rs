//! HTTP/1.1 probes.

use std::fmt::Write as _;
use std::io;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;

use super::connect::broken;
use super::site::Door;
use super::{Host, Trouble};
use crate::http::alongside;

/// So much of a body is looked at. Health answers are a few hundred bytes.
const BODY_LIMIT: usize = 64 << 10;
/// Room for the status line and all headers; hyper's smallest is 8 KiB.
const HEAD_LIMIT: usize = 64 << 10;
/// So many redirects are followed. A health path needs one (`/health` to `/health/`).
const REDIRECT_LIMIT: usize = 5;
const AGENT: &str = concat!("flowctl-probe/", env!("CARGO_PKG_VERSION"));

/// Passes on a 2xx or 3xx whose JSON body, if any, does not say `"status": "unhealthy"`.
///
/// A redirect to the same host and port is followed. One that leads elsewhere is a pass by its
/// status: a component must not be able to make the daemon call others.
pub(super) async fn get(door: &Door<'_>, path: &str) -> Result<(), Trouble> {
    match follow(door, path, Wanted::Health).await? {
        Some(body) => judge_json(&body),
        None => Ok(()),
    }
}

/// The body of a 2xx, of decent size. Redirects as with [`get`].
pub(super) async fn body(door: &Door<'_>, path: &str) -> Result<Vec<u8>, Trouble> {
    let body = follow(door, path, Wanted::Body).await?;
    body.ok_or_else(|| Trouble::component("the answer is none, or longer than 64 KiB"))
}

async fn follow(door: &Door<'_>, path: &str, wanted: Wanted) -> Result<Option<Vec<u8>>, Trouble> {
    let place = Place { door, wanted };
    let mut path = path.to_owned();
    for _ in 0..=REDIRECT_LIMIT {
        match place.ask(&path).await? {
            Answer::Came(body) => return Ok(body),
            Answer::Redirect(to) => path = to,
        }
    }
    Err(Trouble::component(format!(
        "more than {REDIRECT_LIMIT} redirects"
    )))
}

/// What is read of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A JSON object, if it may be one.
    Health,
    /// All of it.
    Body,
}

/// Host and port that are asked.
struct Place<'a> {
    door: &'a Door<'a>,
    wanted: Wanted,
}

enum Answer {
    /// It was answered; with this body, if that was to be read.
    Came(Option<Vec<u8>>),
    /// Another path of the same place.
    Redirect(String),
}

impl Place<'_> {
    async fn ask(&self, path: &str) -> Result<Answer, Trouble> {
        let mut authority = self.door.host.to_string();
        if self.door.port != 80 {
            // Writing to a string cannot fail.
            write!(authority, ":{}", self.door.port).ok();
        }
        let request = Request::get(path)
            .header(HOST, authority)
            .header(USER_AGENT, AGENT)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_| Trouble::component("its path or host is not valid in a URL"))?;
        let stream = self.door.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| no_answer(&error))?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| no_answer(&error))?;
            self.judge(path, response).await
        };
        alongside(connection, exchange).await
    }

    async fn judge(&self, path: &str, response: Response<Incoming>) -> Result<Answer, Trouble> {
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let followed = location
                .filter(|_| status != StatusCode::NOT_MODIFIED)
                .and_then(|location| self.path_here(path, location));
            return Ok(followed.map_or(Answer::Came(None), Answer::Redirect));
        }
        if !status.is_success() {
            return Err(Trouble::component(format!("HTTP {}", status.as_u16())));
        }
        let body = start_of(response.into_body(), self.wanted).await?;
        Ok(Answer::Came(body))
    }

    /// The path that `location` names, if it is one of this very place.
    fn path_here(&self, from: &str, location: &str) -> Option<String> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(location.to_owned());
        }
        let parsed = location.parse::<Uri>().ok();
        match parsed.as_ref().and_then(Uri::host) {
            Some(host) if location.contains("://") => {
                let parsed = parsed.as_ref()?;
                let same = parsed.scheme() == Some(&Scheme::HTTP)
                    && parsed.port_u16().unwrap_or(80) == self.door.port
                    && self.is_called(host);
                same.then(|| parsed.path_and_query().map(ToString::to_string))?
            }
            // A relative one: `ready`, `?full=1`. hyper reads the former as a host.
            Some(_) | None if !location.contains(':') && !location.starts_with("//") => {
                let path = from.split('?').next().unwrap_or(from);
                let folder = match location.starts_with('?') {
                    true => path,
                    false => path.rsplit_once('/').map_or("", |(folder, _)| folder),
                };
                let slash = if location.starts_with('?') { "" } else { "/" };
                Some(format!("{folder}{slash}{location}"))
            }
            Some(_) | None => None,
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let loopback = |host: &Host| match host {
            Host::Loopback => true,
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(_) => false,
        };
        let other = Host::from(name);
        other == self.door.host
            || (loopback(&other) && loopback(&self.door.host))
            || other
                .to_string()
                .eq_ignore_ascii_case(&self.door.host.to_string())
    }
}

/// The whole body if it is of decent size and may be what is wanted. Anything else is left unread.
async fn start_of(mut body: Incoming, wanted: Wanted) -> Result<Option<Vec<u8>>, Trouble> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Trouble::component("the answer broke off"))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if kept.len() + data.len() > BODY_LIMIT {
            return Ok(None);
        }
        kept.extend_from_slice(data);
        if wanted == Wanted::Body {
            continue;
        }
        match kept.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') | None => {}
            Some(_) => return Ok(None),
        }
    }
    Ok(Some(kept))
}

fn judge_json(body: &[u8]) -> Result<(), Trouble> {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let status = said.as_ref().and_then(|json| json.get("status"));
    match status.and_then(serde_json::Value::as_str) {
        Some(status) if status.eq_ignore_ascii_case("unhealthy") => {
            Err(Trouble::component("status is \"unhealthy\""))
        }
        Some(_) | None => Ok(()),
    }
}

fn no_answer(error: &hyper::Error) -> Trouble {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return broken(io);
        }
        cause = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() {
        return Trouble::component("closed the connection without an answer");
    }
    Trouble::component("the answer is not HTTP")
}
