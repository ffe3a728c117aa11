//! One request to an address that may do anything: it is bounded in time and size, and what it
//! answers besides its status is thrown away.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, Uri};
use tokio::net::TcpStream;

use crate::http::{self, Trust};
use crate::manifest::check_url;
use crate::probe::{METADATA_IS_NOT_ASKED, is_metadata};

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// So much of an answer's body is read.
const BODY_LIMIT: usize = 64 << 10;

/// What is asked.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words without secrets.
    pub why: String,
    /// For how long it is not to be tried again, where whoever refused it said so.
    pub pause: Option<Duration>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, pause: None }
    }
}

/// Asks, and is content with a 2xx.
///
/// # Errors
/// What went wrong, in words; never the address, which may hold a secret.
pub(super) async fn call(call: Call<'_>) -> Result<(), Failure> {
    match tokio::time::timeout(DEADLINE, exchange(call)).await {
        Ok(answer) => answer?,
        Err(_) => Err(format!("no answer within {}s", DEADLINE.as_secs()).into()),
    }
}

async fn exchange(call: Call<'_>) -> Result<Result<(), Failure>, String> {
    check_url(call.url).map_err(|why| format!("its address {why}"))?;
    let uri: Uri = call
        .url
        .parse()
        .map_err(|_| "its address is not valid".to_owned())?;
    let host = uri.host().ok_or("its address names no host")?.to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let request = request(&uri, call)?;
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let stream = connect(&bare, port)
        .await
        .map_err(|why| format!("cannot connect to {host}:{port}: {why}"))?;
    if !is_tls {
        return http::exchange(stream, request, judge).await;
    }
    // It is read each time: what an administrator adds counts from then on.
    let trust = tokio::task::spawn_blocking(|| Trust::read(None))
        .await
        .map_err(|error| format!("certificates could not be read: {error}"))??;
    let stream = trust.greet(&bare, stream).await;
    let stream = stream.map_err(|error| format!("no TLS with {host}:{port}: {error}"))?;
    http::exchange(stream, request, judge).await
}

/// The address that was judged is the one that is used, so that a name that changes its meaning gains
/// nothing.
async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    let usable: Vec<SocketAddr> = found
        .iter()
        .copied()
        .filter(|address| !is_metadata(address.ip()))
        .collect();
    if usable.is_empty() && !found.is_empty() {
        return Err(format!("it {METADATA_IS_NOT_ASKED}"));
    }
    let connected = TcpStream::connect(&usable[..]).await;
    connected.map_err(|error| error.to_string())
}

fn request(uri: &Uri, call: Call<'_>) -> Result<Request<Full<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut authority = uri.host().unwrap_or_default().to_owned();
    if let Some(port) = uri.port_u16() {
        // Writing to a string cannot fail.
        write!(authority, ":{port}").ok();
    }
    let mut request = Request::builder().method(call.method).uri(path);
    let Some(headers) = request.headers_mut() else {
        return Err("its address is not valid".to_owned());
    };
    headers.extend(http::headers(&authority)?);
    for (name, text) in &call.headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(text))
        else {
            return Err(format!("its header `{name}` cannot be sent"));
        };
        headers.insert(name, value);
    }
    request
        .body(Full::new(Bytes::from(call.body)))
        .map_err(|error| format!("the request cannot be made: {error}"))
}

/// What an answer means.
async fn judge(response: Response<Incoming>) -> Result<Result<(), Failure>, String> {
    let status = response.status();
    let pause = response.headers().get(RETRY_AFTER).and_then(seconds);
    // A receiver that wants its answer read gets that much.
    skim(response.into_body()).await;
    if status.is_success() {
        return Ok(Ok(()));
    }
    let why = if status.is_redirection() {
        format!("it answers {status}, which leads elsewhere; write the final address")
    } else {
        format!("it answers {status}")
    };
    Ok(Err(Failure { why, pause }))
}

/// The pause that a receiver asks for in seconds. One that names a date is not heard.
fn seconds(header: &HeaderValue) -> Option<Duration> {
    let seconds: f64 = header.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

async fn skim(mut body: Incoming) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > BODY_LIMIT {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_told_in_seconds() {
        let read = |text: &str| seconds(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("30"), Some(Duration::from_secs(30)));
        assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
        for none in ["", "-1", "NaN", "1e300", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_to_where_a_cloud_hands_out_credentials() {
        for url in [
            "http://169.254.169.254/latest/meta-data/",
            "https://[fd00:ec2::254]/",
        ] {
            let call = call(Call {
                method: Method::POST,
                url,
                headers: Vec::new(),
                body: Vec::new(),
            });
            let why = call.await.unwrap_err().why;
            assert!(why.contains("tells a machine its credentials"), "{why}");
        }
    }
}
