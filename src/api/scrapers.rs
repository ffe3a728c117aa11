//! The address for scrapers: metrics and nothing else, for whoever can reach it.
//!
//! **Guarantees.** It answers two questions and takes no command. So many scrapers at once; the
//! others wait in the kernel. One that reads slowly is asked to leave after a while, and is cut off
//! a while later.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::routes;
use super::server::{self, Shared};

/// Scrapers served at once. Each may be sent a text of its own, of some megabytes.
const MOST: usize = 16;
/// A request's head arrives within this; so long an idle connection is kept open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same while more than half of all places are taken: whoever dawdles must not keep a scraper
/// out for longer than that waits.
const HURRIED_HEADER_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection takes no further request after this: Prometheus opens another without a word.
const LIFE: Duration = Duration::from_secs(60);
/// And is cut off so long after that, whatever is still being sent.
const FAREWELL: Duration = Duration::from_secs(30);
/// Distance to the next accept after one failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the metrics of `backend` on `listener` until `closing`.
pub async fn serve_scrapers(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    closing: CancellationToken,
) {
    let shared = Arc::new(Shared::new(backend, closing.clone()));
    let router = Router::new()
        .route("/metrics", get(routes::metrics))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || {
            let text = "flowctl answers GET /metrics and GET /healthz here\n";
            (axum::http::StatusCode::NOT_FOUND, text)
        })
        .with_state(Arc::clone(&shared));
    let places = Arc::new(Semaphore::new(MOST));
    let tasks = TaskTracker::new();
    let accepting = async {
        loop {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a scraper");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (router, shared) = (router.clone(), Arc::clone(&shared));
            let leaving = closing.child_token();
            let patience = if places.available_permits() > MOST / 2 {
                HEADER_TIMEOUT
            } else {
                HURRIED_HEADER_TIMEOUT
            };
            tasks.spawn(async move {
                let leave = leaving.clone();
                let answering = server::converse(stream, patience, shared, router, leaving);
                tokio::pin!(answering);
                tokio::select! {
                    () = answering.as_mut() => {}
                    () = tokio::time::sleep(LIFE) => {
                        leave.cancel();
                        if tokio::time::timeout(FAREWELL, answering).await.is_err() {
                            tracing::debug!("a scraper that reads slowly was cut off");
                        }
                    }
                }
                drop(place);
            });
        }
    };
    // Cancel-safe: a connection that is accepted and not served yet is closed.
    closing.run_until_cancelled(accepting).await;
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(1), tasks.wait())
        .await
        .is_err()
    {
        tracing::debug!(open = tasks.len(), "left scrapers behind at the end");
    }
}
