//! What a component says of itself on its health port: `/health` as JSON and `/metrics` as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// One figure. Whole numbers are exact up to 2^53.
#[derive(Debug, Default)]
pub struct Metric(AtomicU64);

impl Metric {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds to it.
    pub fn add(&self, more: f64) {
        let sum = |bits| Some((f64::from_bits(bits) + more).to_bits());
        // The closure never refuses, so the update never fails.
        let _previous = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }

    /// Its value now.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How a component is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// Not yet in touch with what it needs.
    Starting(String),
    /// Doing its work.
    Healthy(String),
    /// Not able to do its work.
    Unhealthy(String),
}

#[derive(Debug)]
struct Now {
    condition: Condition,
    /// Last sign of progress; none while there is nothing to make progress with.
    progress: Option<Instant>,
}

/// A component's health, shared by the tasks that know something of it.
#[derive(Debug)]
pub struct Health {
    component: String,
    started: Instant,
    /// Without progress for this long it is unhealthy; zero turns this off.
    stall_after: Duration,
    now: Mutex<Now>,
    metrics: Mutex<BTreeMap<&'static str, Arc<Metric>>>,
}

impl Health {
    /// The health of `component`, which is starting. Work that was begun and then makes no
    /// progress for `stall_after` makes it unhealthy; zero turns that off.
    pub fn new(component: impl Into<String>, stall_after: Duration) -> Arc<Self> {
        let now = Now {
            condition: Condition::Starting("starting".to_owned()),
            progress: None,
        };
        Arc::new(Self {
            component: component.into(),
            started: Instant::now(),
            stall_after,
            now: Mutex::new(now),
            metrics: Mutex::default(),
        })
    }

    /// The component this is the health of.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Notes that it does its work; `message` says what.
    pub fn healthy(&self, message: impl Into<String>) {
        self.now().condition = Condition::Healthy(message.into());
    }

    /// Notes that it can't do its work; `message` says why.
    pub fn unhealthy(&self, message: impl Into<String>) {
        self.now().condition = Condition::Unhealthy(message.into());
    }

    /// Notes progress, and that more is expected.
    pub fn progress(&self) {
        self.now().progress = Some(Instant::now());
    }

    /// Notes that there is nothing to make progress with, so that silence is no stall.
    pub fn idle(&self) {
        self.now().progress = None;
    }

    /// The figure of this name, made at zero when there is none.
    pub fn metric(&self, name: &'static str) -> Arc<Metric> {
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.entry(name).or_default().clone()
    }

    /// All figures by name.
    pub fn metrics(&self) -> BTreeMap<&'static str, f64> {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics
            .iter()
            .map(|(name, metric)| (*name, metric.get()))
            .collect()
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn condition(&self) -> Condition {
        let now = self.now();
        let silent = now.progress.map(|last| last.elapsed()).unwrap_or_default();
        match &now.condition {
            Condition::Healthy(_) if !self.stall_after.is_zero() && silent > self.stall_after => {
                let seconds = silent.as_secs();
                Condition::Unhealthy(format!("stalled: no progress for {seconds} s"))
            }
            Condition::Starting(_) | Condition::Healthy(_) | Condition::Unhealthy(_) => {
                now.condition.clone()
            }
        }
    }

    fn report(&self) -> (StatusCode, Value) {
        let (code, status, message) = match self.condition() {
            Condition::Starting(message) => (StatusCode::SERVICE_UNAVAILABLE, "starting", message),
            Condition::Healthy(message) => (StatusCode::OK, "healthy", message),
            Condition::Unhealthy(message) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", message)
            }
        };
        let metrics: BTreeMap<_, _> = self
            .metrics()
            .into_iter()
            .map(|(name, value)| (name, number(value)))
            .collect();
        let body = json!({
            "status": status,
            "component": self.component,
            "message": message,
            "uptime_ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "metrics": metrics,
        });
        (code, body)
    }

    fn exposition(&self) -> String {
        let mut text = String::new();
        let up = u8::from(matches!(self.condition(), Condition::Healthy(_)));
        let component = &self.component;
        let mut line = |name: &str, value: f64| {
            // Writing to a String does not fail.
            let _written = writeln!(text, "{name}{{component=\"{component}\"}} {value}");
        };
        line("healthy", f64::from(up));
        for (name, value) in self.metrics() {
            line(name, value);
        }
        text
    }
}

/// A whole number as one, so that readers see `5` rather than `5.0`.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and within 2^53, so exact"
        )]
        let whole = value as i64;
        json!(whole)
    } else {
        json!(value)
    }
}

/// Serves `health` on `address` until `stop`.
///
/// # Errors
/// The address can't be listened on.
pub async fn serve(
    health: Arc<Health>,
    address: SocketAddr,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let routes = Router::new()
        .route("/health", get(report))
        .route("/", get(report))
        .route("/metrics", get(exposition))
        .with_state(health);
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn report(State(health): State<Arc<Health>>) -> Response {
    let (code, body) = health.report();
    (code, Json(body)).into_response()
}

async fn exposition(State(health): State<Arc<Health>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, health.exposition()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_what_the_component_notes() {
        let health = Health::new("x", Duration::ZERO);
        assert_eq!(health.report().1["status"], "starting");
        health.healthy("streaming");
        assert_eq!(health.report().0, StatusCode::OK);
        health.unhealthy("lost the source");
        let (code, body) = health.report();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["message"], "lost the source");
    }

    #[test]
    fn work_without_progress_is_a_stall_and_idleness_is_not() {
        let health = Health::new("x", Duration::from_nanos(1));
        health.healthy("streaming");
        health.progress();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(health.report().1["status"], "unhealthy");
        health.idle();
        assert_eq!(health.report().1["status"], "healthy");
    }

    #[test]
    fn figures_appear_as_json_numbers_and_as_metrics() {
        let health = Health::new("x", Duration::ZERO);
        health.metric("total_processed").add(2.0);
        health.metric("total_processed").add(1.0);
        health.metric("latency_ms").set(0.5);
        let body = health.report().1;
        assert_eq!(body["metrics"]["total_processed"], json!(3));
        assert_eq!(body["metrics"]["latency_ms"], json!(0.5));
        assert!(
            health
                .exposition()
                .contains("total_processed{component=\"x\"} 3\n")
        );
    }
}
