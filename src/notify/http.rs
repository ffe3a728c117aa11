//! One request to an address that may do anything: it is bounded in time and size, and what it
//! answers besides its status is thrown away.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::manifest::check_url;
use crate::probe::alongside;

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// So much of an answer's body is read.
const BODY_LIMIT: usize = 64 << 10;
/// Room for the status line and all headers of an answer.
const HEAD_LIMIT: usize = 64 << 10;
const AGENT: &str = concat!("flowctl/", env!("CARGO_PKG_VERSION"));

/// What is asked.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Asks, and is content with a 2xx.
///
/// # Errors
/// What went wrong, in words; never the address, which may hold a secret.
pub(super) async fn call(call: Call<'_>) -> Result<(), String> {
    match tokio::time::timeout(DEADLINE, exchange(call)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {}s", DEADLINE.as_secs())),
    }
}

async fn exchange(call: Call<'_>) -> Result<(), String> {
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
    let stream = TcpStream::connect((bare.as_str(), port))
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    if !is_tls {
        return ask(stream, request).await;
    }
    let name =
        ServerName::try_from(bare).map_err(|_| "its host cannot be checked by TLS".to_owned())?;
    let config = tokio::task::spawn_blocking(trusting)
        .await
        .map_err(|error| format!("certificates could not be read: {error}"))??;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("no TLS with {host}:{port}: {error}"))?;
    ask(stream, request).await
}

/// Trusts whom the host trusts.
fn trusting() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "this host trusts no certificate authority; install ca-certificates".to_owned(),
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
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
    let value = |text: &str| HeaderValue::from_str(text);
    let authority = value(&authority).map_err(|_| "its host is not valid".to_owned())?;
    headers.insert(HOST, authority);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, text) in &call.headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value(text)) else {
            return Err(format!("its header `{name}` cannot be sent"));
        };
        headers.insert(name, value);
    }
    request
        .body(Full::new(Bytes::from(call.body)))
        .map_err(|error| format!("the request cannot be made: {error}"))
}

async fn ask<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| {
        if error.is_incomplete_message() || error.is_canceled() {
            "it closed the connection without an answer".to_owned()
        } else {
            format!("it does not answer as HTTP: {error}")
        }
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        // A receiver that wants its answer read gets that much.
        skim(response.into_body()).await;
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(format!(
                "it answers {status}, which leads elsewhere; write the final address"
            ))
        } else {
            Err(format!("it answers {status}"))
        }
    };
    alongside(connection, exchange).await
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
