//! One HTTP/1.1 exchange with a host that may do anything: the head of its answer is bounded, TLS is
//! with whom this host trusts, and what goes wrong is told in words without secrets.
//!
//! **What it does not do.** It looks up no names, sets no deadline and reads no body: whoever asks
//! knows what an answer may cost.

use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Room for the status line and all headers of an answer.
const HEAD_LIMIT: usize = 64 << 10;
const AGENT: &str = concat!("flowctl/", env!("CARGO_PKG_VERSION"));

/// Who is trusted to vouch for servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts whom this host trusts, and whoever's certificates lie in `folder`, as `*.crt`. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// Why nobody can be trusted.
    pub fn read(folder: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (mut added, _) = roots.add_parsable_certificates(found.certs);
        let entries = folder.map(std::fs::read_dir).transpose();
        let entries =
            entries.map_err(|error| format!("its certificates cannot be read: {error}"))?;
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|it| it == "crt") {
                let found = rustls_native_certs::load_certs_from_paths(Some(&path), None);
                added += roots.add_parsable_certificates(found.certs).0;
            }
        }
        if added == 0 {
            return Err(
                "this host trusts no certificate authority; install ca-certificates".to_owned(),
            );
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Trusts whoever's certificates lie in the files `roots`, or whom this host trusts where there are
    /// none, and shows the certificate of `shown` to servers that ask for one. Blocks on the disk.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn of_files(roots: &[PathBuf], shown: Option<&Shown>) -> Result<Self, String> {
        if roots.is_empty() && shown.is_none() {
            return Self::read(None);
        }
        let mut trusted = RootCertStore::empty();
        let found = match roots {
            [] => rustls_native_certs::load_native_certs().certs,
            files => {
                let read = files.iter().map(|file| certificates(file));
                read.collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        if trusted.add_parsable_certificates(found).0 == 0 {
            let files: Vec<_> = roots
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            return Err(format!(
                "{} vouches for nobody: no certificate of an authority is in it",
                files.join(", ")
            ));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?
            .with_root_certificates(trusted);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(Shown { certificate, key }) => {
                let chain = certificates(certificate)?;
                let read = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                    format!("the key {} cannot be read: {error}", key.display())
                })?;
                config.with_client_auth_cert(chain, read).map_err(|error| {
                    let (of, key) = (certificate.display(), key.display());
                    format!("the certificate {of} and the key {key} do not go together: {error}")
                })?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Begins TLS with the server `host`: a name, or an address without brackets.
    ///
    /// # Errors
    /// Why not, such as a certificate that nobody who is trusted vouches for.
    pub async fn greet(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other("its name cannot be checked by TLS"))?;
        TlsConnector::from(Arc::clone(&self.0))
            .connect(name, stream)
            .await
    }
}

/// What is shown to a server that asks who one is: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| {
        format!(
            "the certificates in {} cannot be read: {error}",
            file.display()
        )
    };
    let read = CertificateDer::pem_file_iter(file).map_err(failed)?;
    read.collect::<Result<Vec<_>, _>>().map_err(failed)
}

/// The headers of every request: whom it is for, who asks, and that it is the only one.
///
/// # Errors
/// When `authority` is none.
pub fn headers(authority: &str) -> Result<HeaderMap, String> {
    let host = HeaderValue::from_str(authority);
    let host = host.map_err(|_| "its host is not valid".to_owned())?;
    Ok(HeaderMap::from_iter([
        (HOST, host),
        (USER_AGENT, HeaderValue::from_static(AGENT)),
        (CONNECTION, HeaderValue::from_static("close")),
    ]))
}

/// Sends `request` over `stream` and answers what `read` makes of the response.
///
/// # Errors
/// Why there is no response, or what `read` says.
pub async fn exchange<S, T, F>(
    stream: S,
    request: Request<Full<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<T, String>>,
{
    let broken = |error: hyper::Error| {
        if error.is_incomplete_message() || error.is_canceled() {
            "it closed the connection without a whole answer".to_owned()
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
        read(response).await
    };
    alongside(connection, exchange).await
}

/// Runs an exchange together with the connection that carries it, until the exchange is over.
/// Both live in the caller's task, so giving up on the answer closes the socket.
pub async fn alongside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    let mut open = true;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        if open && connection.as_mut().poll(cx).is_ready() {
            open = false;
            // What had arrived before the end has not been looked at yet.
            return exchange.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
}
