//! One exchange with a cluster's API: deadlines, sizes and what errors mean.
//!
//! Nomad gives a hundred connections to each address that asks it, so at most [`AT_ONCE`] are open
//! beside the one that listens to events.

use std::fmt::Write as _;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::failure::Failure;
use super::settings::{Address, Settings, Token};
use crate::http::{self, Trust};
use crate::model::codec::to_base64;

/// Connections at once.
const AT_ONCE: usize = 16;
/// Servers hold a call for 5 s while they choose a leader.
const PATIENCE: Duration = Duration::from_secs(15);
/// A connection that is not made by then will not be.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const LARGEST: usize = 64 << 20;
/// Servers send a sign of life on an event stream each 30 s or sooner.
const SILENCE: Duration = Duration::from_secs(75);
/// The longest line of an event stream.
const LONGEST_LINE: usize = 16 << 20;

/// Whoever can be read from and written to.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The way to one cluster.
pub(super) struct Client {
    address: Address,
    settings: Settings,
    slots: Semaphore,
}

/// An answer, and how current it is.
#[derive(Clone, Debug)]
pub(super) struct Answer<T> {
    pub(super) body: T,
    /// The state that it tells of.
    pub(super) index: u64,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    method: Method,
    path: String,
    query: Vec<(&'a str, String)>,
    body: Option<Vec<u8>>,
}

impl<'a> Ask<'a> {
    /// To read what is at `path`, whose parts are names as they are.
    pub(super) fn read(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    /// To write `body` there.
    pub(super) fn write(path: &[&str], body: &serde_json::Value) -> Self {
        let mut ask = Self::new(Method::PUT, path);
        ask.body = Some(body.to_string().into_bytes());
        ask
    }

    /// To remove what is there.
    pub(super) fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path)
    }

    fn new(method: Method, path: &[&str]) -> Self {
        let mut text = String::from("/v1");
        for part in path {
            text.push('/');
            text.push_str(&encoded(part));
        }
        Self {
            method,
            path: text,
            query: Vec::new(),
            body: None,
        }
    }

    /// With the parameter `name`.
    pub(super) fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}

/// `text` as a part of a path, or as a value of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

impl Client {
    pub(super) fn new(address: Address, settings: Settings) -> Self {
        Self {
            address,
            settings,
            slots: Semaphore::new(AT_ONCE),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Asks for JSON.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        ask: Ask<'_>,
    ) -> Result<Answer<T>, Failure> {
        let path = ask.path.clone();
        let Answer { body, index } = self.bytes(ask).await?;
        let body = serde_json::from_slice(&body).map_err(|error| {
            Failure::Silent(format!(
                "{} answers to {path} with what is not understood: {error}",
                self.address
            ))
        })?;
        Ok(Answer { body, index })
    }

    /// Asks for something whose answer says nothing.
    pub(super) async fn done(&self, ask: Ask<'_>) -> Result<(), Failure> {
        self.bytes(ask).await.map(drop)
    }

    /// Asks for bytes.
    pub(super) async fn bytes(&self, ask: Ask<'_>) -> Result<Answer<Bytes>, Failure> {
        let silent = |why: String| Failure::Silent(format!("{}: {why}", self.address));
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(silent("nobody asks any more".to_owned()));
        };
        let asked = async {
            let stream = self.connect().await?;
            let request = self.request(ask).await?;
            http::exchange(stream, request, whole).await
        };
        let (status, index, is_led, body) = match timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(silent)?,
            Err(_) => return Err(silent(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        if !(200..300).contains(&status) {
            return Err(Failure::of(status, &String::from_utf8_lossy(&body)));
        }
        if !is_led {
            return Err(Failure::NoLeader(format!(
                "{} answers from what it remembers",
                self.address
            )));
        }
        Ok(Answer { body, index })
    }

    /// Listens to an answer that does not end; `hear` is given each line, and says whether to go on.
    pub(super) async fn listen(
        &self,
        ask: Ask<'_>,
        mut hear: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        let silent = |why: String| Failure::Silent(format!("{}: {why}", self.address));
        let begun = timeout(PATIENCE, async {
            let stream = self.connect().await?;
            Ok((stream, self.request(ask).await?))
        });
        let (stream, request) = match begun.await {
            Ok(begun) => begun.map_err(silent)?,
            Err(_) => return Err(silent("it takes no connection".to_owned())),
        };
        let read = async |response: Response<Incoming>| {
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let mut rest = Vec::new();
            loop {
                let frame = timeout(SILENCE, body.frame()).await;
                let frame = frame.map_err(|_| "it fell silent".to_owned())?;
                let Some(frame) = frame else {
                    break;
                };
                let frame = frame.map_err(|error| error.to_string())?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                rest.extend_from_slice(&data);
                if status == 200 {
                    while let Some(end) = memchr::memchr(b'\n', &rest) {
                        hear(&rest[..end]);
                        rest.drain(..=end);
                    }
                }
                if rest.len() > LONGEST_LINE {
                    return Err("a line of it does not end".to_owned());
                }
            }
            Ok((status, rest))
        };
        let (status, rest) = http::exchange(stream, request, read)
            .await
            .map_err(silent)?;
        match status {
            200 => Ok(()),
            _ => Err(Failure::of(status, &String::from_utf8_lossy(&rest))),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Wire>, String> {
        let failed = |error: std::io::Error| format!("no connection: {error}");
        let to = async |host: &str, port: u16| match timeout(
            CONNECT,
            TcpStream::connect((host.to_owned(), port)),
        )
        .await
        {
            Ok(Ok(stream)) => {
                // A delay of small packets is not worth an error.
                stream.set_nodelay(true).ok();
                Ok(stream)
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(format!("no connection within {} s", CONNECT.as_secs())),
        };
        match &self.address {
            Address::Http { host, port } => Ok(Box::new(to(host, *port).await?)),
            Address::Https { host, port } => {
                let stream = to(host, *port).await?;
                let (authorities, shown) = (
                    self.settings.authorities.clone(),
                    self.settings.shown.clone(),
                );
                // Read for each connection: keys are replaced while this runs.
                let trust = tokio::task::spawn_blocking(move || {
                    Trust::of_files(&authorities, shown.as_ref())
                });
                let trust = trust.await.map_err(|error| error.to_string())??;
                let name = self.settings.server_name.as_deref().unwrap_or(host);
                let greeted = trust.greet(name, stream).await;
                Ok(Box::new(
                    greeted.map_err(|error| format!("no TLS: {error}"))?,
                ))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                Ok(Box::new(stream))
            }
        }
    }

    async fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, String> {
        let authority = match &self.address {
            Address::Http { host, port } | Address::Https { host, port } => {
                match host.contains(':') {
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                }
            }
            Address::Unix(_) => "localhost".to_owned(),
        };
        let mut path = ask.path;
        let region = self
            .settings
            .region
            .clone()
            .map(|region| ("region", region));
        for (number, (name, value)) in ask.query.into_iter().chain(region).enumerate() {
            let before = if number == 0 { '?' } else { '&' };
            // Writing to a text cannot fail.
            write!(path, "{before}{name}={}", encoded(&value)).ok();
        }
        let mut request = Request::new(Full::new(Bytes::from(ask.body.unwrap_or_default())));
        *request.method_mut() = ask.method;
        *request.uri_mut() = path.parse().map_err(|_| format!("{path} is no path"))?;
        let headers = request.headers_mut();
        *headers = http::headers(&authority)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = self.token().await? {
            let value = HeaderValue::from_str(token.trim());
            let mut value = value.map_err(|_| "the token for Nomad is no text".to_owned())?;
            value.set_sensitive(true);
            headers.insert("x-nomad-token", value);
        }
        if let Some(basic) = &self.settings.basic {
            let value = format!("Basic {}", to_base64(basic.as_bytes()));
            let value = HeaderValue::from_str(&value);
            let mut value = value.map_err(|_| "NOMAD_HTTP_AUTH is no text".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn token(&self) -> Result<Option<String>, String> {
        match &self.settings.token {
            None => Ok(None),
            Some(Token::Literal(token)) => Ok(Some(token.clone())),
            Some(Token::File(path)) => match tokio::fs::read_to_string(path).await {
                Ok(token) => Ok(Some(token)),
                Err(error) => Err(format!(
                    "the token in {} cannot be read: {error}",
                    path.display()
                )),
            },
        }
    }
}

/// Reads a whole answer: its status, the state it is of, whether servers had a leader, and its body.
async fn whole(response: Response<Incoming>) -> Result<(u16, u64, bool, Bytes), String> {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let index = header("x-nomad-index").and_then(|it| it.parse().ok());
    let is_led = header("x-nomad-knownleader") != Some("false");
    let body = http_body_util::Limited::new(response.into_body(), LARGEST);
    let body = body.collect().await.map_err(|error| error.to_string())?;
    Ok((status, index.unwrap_or_default(), is_led, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_filters_reach_the_server_as_they_are() {
        let ask = Ask::read(&["job", "a/b c"]).with("filter", "JobID == \"x\"");
        assert_eq!(ask.path, "/v1/job/a%2Fb%20c");
        assert_eq!(encoded(&ask.query[0].1), "JobID%20%3D%3D%20%22x%22");
    }
}
