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
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::places::{self, Places};
use super::routes;
use super::server::{self, Shared};

/// Scrapers served at once. Each may be sent a text of its own, of some megabytes.
const MOST: usize = 16;
/// A request's head arrives within this; so long an idle connection is kept open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection takes no further request after this: Prometheus opens another without a word.
const LIFE: Duration = Duration::from_secs(60);
/// And is cut off so long after that, whatever is still being sent.
const FAREWELL: Duration = Duration::from_secs(30);

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
    let places = Places::new(MOST, HEADER_TIMEOUT);
    let tasks = TaskTracker::new();
    let accepting = async {
        loop {
            let place = places.take().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    places::rest_after(&error, "a scraper").await;
                    continue;
                }
            };
            let (router, shared) = (router.clone(), Arc::clone(&shared));
            let leaving = closing.child_token();
            let patience = places.patience();
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
