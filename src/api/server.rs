//! The listening side: who is let in, and how much one peer can cost.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::backend::Backend;
use super::body::{Bodies, Peer};
use super::error::{ApiError, ErrorCode};
use super::places::{self, Place, Places};
use super::routes;
use super::socket::Listener;
use super::stall::{Impatient, Streaming};
use crate::model::Snapshot;

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Of these, how many may be streams, which last: the rest stays free for questions.
const MAX_STREAMS: usize = 128;
/// A request's head arrives within this, also on a connection that is kept open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that reads nothing of its answer for this long is dropped.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// After the request to end, answers in progress get this long.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves `backend` on `listener` until `closing`, then ends streams, lets answers in progress
/// finish, and removes the socket.
pub async fn serve(listener: Listener, backend: Arc<dyn Backend>, closing: CancellationToken) {
    let shared = Arc::new(Shared::new(backend, closing.clone()));
    let places = Places::new(MAX_CONNECTIONS, HEADER_TIMEOUT);
    let tasks = TaskTracker::new();
    // Cancel-safe: `accepted` holds nothing but a place and a connection, both of which close.
    while let Some((stream, place)) = closing
        .run_until_cancelled(accepted(&listener, &places))
        .await
    {
        let (shared, closing) = (Arc::clone(&shared), closing.clone());
        let patience = places.patience();
        tasks.spawn(async move {
            let router = router_for(&stream, &shared);
            converse(stream, patience, shared, router, closing).await;
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(FAREWELL, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "left connections behind at the end");
    }
}

/// The next connection of someone who may connect.
async fn accepted(listener: &Listener, places: &Places) -> (UnixStream, Place) {
    loop {
        let place = places.take().await;
        match listener.inner.accept().await {
            Ok((stream, _)) if is_permitted(&stream) => return (stream, place),
            Ok(_) => tracing::warn!("refused a connection of another user"),
            Err(error) => places::rest_after(&error, "a client").await,
        }
    }
}

/// Our own user and root may connect: whoever can is able to run any program as us.
fn is_permitted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// The routes, for whoever is at the other end.
fn router_for(stream: &UnixStream, shared: &Arc<Shared>) -> Router {
    routes::router(Arc::clone(shared)).layer(Extension(Peer::of(stream)))
}

/// Answers on one connection until the peer leaves, or `closing` and what is being answered is done.
pub(super) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    patience: Duration,
    shared: Arc<Shared>,
    router: Router,
    closing: CancellationToken,
) {
    let streaming = Streaming::default();
    let io = TokioIo::new(Impatient::new(stream, READ_PATIENCE, streaming.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(streaming.clone());
        let (router, shared) = (router.clone(), Arc::clone(&shared));
        let route = routes::route_of(request.uri().path());
        async move {
            let answer = router.oneshot(request).await.unwrap_or_else(|e| match e {});
            shared.backend.answered(route, answer.status().as_u16());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // The connection is not dropped: it is asked to finish what it does and is polled on.
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A server that only its holder can reach: no socket, no limit on connections.
#[derive(Clone)]
pub(super) struct Inside(Arc<Shared>);

impl Inside {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(Arc::new(Shared::new(backend, CancellationToken::new())))
    }

    /// A connection to it. Needs a runtime.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        let (shared, closing) = (Arc::clone(&self.0), self.0.closing.clone());
        let router = router_for(&far, &shared);
        tokio::spawn(converse(far, HEADER_TIMEOUT, shared, router, closing));
        Ok(near)
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

/// What all requests share.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) closing: CancellationToken,
    pub(super) bodies: Bodies,
    streams: Arc<Semaphore>,
    /// The latest snapshot that was asked for, as JSON: it is written once for all readers.
    written: Mutex<Option<(Arc<Snapshot>, Bytes)>>,
}

impl Shared {
    pub(super) fn new(backend: Arc<dyn Backend>, closing: CancellationToken) -> Self {
        Self {
            backend,
            closing,
            bodies: Bodies::new(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            written: Mutex::new(None),
        }
    }

    /// `snapshot` as one line of JSON.
    pub(super) fn written(&self, snapshot: &Arc<Snapshot>) -> Bytes {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match &*written {
            Some((known, line)) if Arc::ptr_eq(known, snapshot) => line.clone(),
            Some(_) | None => {
                let line = json_line(&**snapshot);
                *written = Some((Arc::clone(snapshot), line.clone()));
                line
            }
        }
    }

    /// The right to one stream, for as long as the permit lives.
    pub(super) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            ApiError::new(
                ErrorCode::Busy,
                format!("{MAX_STREAMS} streams are open already"),
            )
            .with_hint("end a `logs -f`, `events -f` or `status --watch` and repeat")
        })
    }
}

/// `value` as JSON with a newline at its end.
pub(super) fn json_line<T: serde::Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("our types have string keys only");
    line.push(b'\n');
    line.into()
}
