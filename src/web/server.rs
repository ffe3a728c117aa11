//! The listening side: who is let in, and how much a browser can cost.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt;

use super::doors::{Doors, LEAST_TOKEN, NoRandomness, Security, secret};
use super::hub;
use super::page::Sources;
use super::routes::{self, Control, Shared};
use crate::api::{Client, Impatient, Streaming};
use crate::clock::Clock;
use crate::control_plane::{Certificates, Speaks, TlsError, TlsFiles};

/// Connections that are served at once; more wait.
const MOST_CONNECTIONS: usize = 128;
/// A request's head arrives within this, also on a connection that is kept open.
const HEAD: Duration = Duration::from_secs(5);
/// A request is answered within this, or its stream has begun.
const ANSWER: Duration = Duration::from_secs(90);
/// A browser that reads nothing for so long is dropped.
const STALLED: Duration = Duration::from_secs(30);
/// After a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// How pages are to be served.
#[derive(Debug)]
pub struct Options {
    /// The daemon that is asked.
    pub client: Client,
    /// What time it is.
    pub clock: Clock,
    /// Where browsers are answered.
    pub listen: SocketAddr,
    /// What else this host is called by.
    pub hosts: Vec<String>,
    /// The token of a file; without one a link is made that works once.
    pub token: Option<String>,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether components can be steered.
    pub control: Control,
}

/// Why no pages are served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Others on the network could come, and nothing would keep them out.
    #[error(
        "{address} can be reached from other hosts, and that needs {lacking}: pages show what \
         components write"
    )]
    Open {
        /// Where was to be listened.
        address: SocketAddr,
        /// What is missing.
        lacking: &'static str,
    },
    /// A token that can be guessed.
    #[error("the token has {0} characters, and needs {LEAST_TOKEN}")]
    ShortToken(usize),
    /// Nobody can listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is nothing to make a token of.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Pages that can be served.
#[derive(Debug)]
pub struct Ready {
    /// Where to look at them.
    pub url: String,
    listener: TcpListener,
    certificates: Option<Certificates>,
    shared: Arc<Shared>,
}

/// Listens. Call it inside a tokio runtime.
///
/// # Errors
/// When it may not, or cannot.
pub fn serve(options: Options) -> Result<Ready, WebError> {
    let address = options.listen;
    if !address.ip().is_loopback() {
        let lacking = match (&options.token, &options.tls) {
            (None, _) => Some("--token-file"),
            (Some(_), None) => Some("--tls-cert and --tls-key"),
            (Some(_), Some(_)) => None,
        };
        if let Some(lacking) = lacking {
            return Err(WebError::Open { address, lacking });
        }
    }
    if let Some(token) = &options.token
        && token.chars().count() < LEAST_TOKEN
    {
        return Err(WebError::ShortToken(token.chars().count()));
    }
    let certificates = options.tls.map(|(certificate, key)| {
        let files = TlsFiles {
            certificate,
            key,
            client_authority: None,
        };
        Certificates::load(files, Speaks::Http1)
    });
    let certificates = certificates.transpose()?;
    let refused = |source| WebError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let once = match &options.token {
        Some(_) => None,
        None => Some(secret()?),
    };
    let (security, scheme) = match &certificates {
        Some(_) => (Security::Tls, "https"),
        None => (Security::Plain, "http"),
    };
    let url = match &once {
        Some(token) => format!("{scheme}://{bound}/login?token={token}"),
        None => format!("{scheme}://{bound}/"),
    };
    let doors = Doors::new(
        bound,
        &options.hosts,
        security,
        once.as_deref(),
        options.token.as_deref(),
    );
    let sources = Sources {
        news: hub::start(options.client.clone(), options.clock.clone()),
        client: options.client,
        clock: options.clock,
    };
    Ok(Ready {
        url,
        listener,
        certificates,
        shared: Arc::new(Shared::new(doors, sources, options.control)),
    })
}

impl Ready {
    /// Serves until it is dropped.
    ///
    /// # Errors
    /// When nobody can be accepted there at all.
    pub async fn run(self) -> io::Result<Infallible> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a browser");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let (shared, certificates) = (Arc::clone(&self.shared), self.certificates.clone());
            tokio::spawn(async move {
                welcome(stream, certificates, shared).await;
                drop(place);
            });
        }
    }
}

async fn welcome(stream: TcpStream, certificates: Option<Certificates>, shared: Arc<Shared>) {
    let Some(certificates) = certificates else {
        return converse(stream, shared).await;
    };
    match timeout(HEAD, certificates.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, shared).await,
        Ok(Err(error)) => tracing::debug!(%error, "a browser did not speak TLS"),
        Err(_) => tracing::debug!("a browser took too long over TLS"),
    }
}

/// Answers on one connection until the browser leaves.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    // A stream, too, ends when its reader does not read: it can open another.
    let io = TokioIo::new(Impatient::new(stream, STALLED, Streaming::default()));
    let router = routes::router(Arc::clone(&shared));
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, shared) = (router.clone(), Arc::clone(&shared));
        async move {
            let turned_away = routes::turned_away(&shared, request.method(), request.headers());
            let answer: Response = match turned_away {
                Some(refusal) => refusal,
                None => match timeout(ANSWER, router.oneshot(request)).await {
                    Ok(answer) => answer.unwrap_or_else(|never| match never {}),
                    Err(_) => routes::too_slow(),
                },
            };
            Ok::<_, Infallible>(routes::hardened(answer))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(io, service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a browser's connection ended early");
    }
}
