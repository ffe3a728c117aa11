//! Answers that go on: one JSON object a line.
//!
//! **Guarantees.** A slow reader holds no memory: snapshots it did not take are skipped, events it
//! missed are read again from the history, log lines wait in their files. Every stream ends when
//! the daemon does.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::{broadcast, watch};

use super::error::{ApiError, ErrorBody, ErrorCode};
use super::server::{Shared, json_line};
use super::stall::Streaming;
use super::wire::{EventQuery, LeftOut, LogEntry};
use crate::driver::logs::filter::Filter;
use crate::driver::logs::kept::KeptLog;
use crate::driver::{DriverError, LogLine, LogQuery, LogStream};
use crate::model::{Event, PipelineKey, Snapshot};

/// A watcher gets at most one snapshot in this time, the latest.
const SNAPSHOT_DISTANCE: Duration = Duration::from_millis(50);
/// Log lines put into one chunk, at most.
const LINES_AT_ONCE: usize = 512;
/// How often a reader is told how many lines were left out since they have no level.
const TELL_LEFT_OUT: Duration = Duration::from_secs(10);

/// The latest snapshot now, and again whenever it changes.
pub(super) fn snapshots(shared: Arc<Shared>, streaming: &Streaming) -> Result<Response, ApiError> {
    let receiver = shared.backend.owner().snapshots();
    let writer = Arc::clone(&shared);
    let lines = stream::unfold((receiver, Turn::First), move |(receiver, turn)| {
        let writer = Arc::clone(&writer);
        async move { next_snapshot(receiver, turn, &writer).await }
    });
    respond(&shared, streaming, lines)
}

/// Whether a watcher has got anything yet.
enum Turn {
    First,
    Later,
}

async fn next_snapshot(
    mut receiver: watch::Receiver<Arc<Snapshot>>,
    turn: Turn,
    writer: &Shared,
) -> Option<(Bytes, (watch::Receiver<Arc<Snapshot>>, Turn))> {
    match turn {
        Turn::First => {}
        Turn::Later => {
            tokio::time::sleep(SNAPSHOT_DISTANCE).await;
            receiver.changed().await.ok()?;
        }
    }
    let snapshot = receiver.borrow_and_update().clone();
    Some((writer.written(&snapshot), (receiver, Turn::Later)))
}

/// Kept events, then, if asked for, what happens.
pub(super) async fn events(
    shared: Arc<Shared>,
    streaming: &Streaming,
    query: EventQuery,
) -> Result<Response, ApiError> {
    // Listening comes before reading, so that nothing falls between the two.
    let live = shared.backend.owner().events();
    let kept = shared.backend.events(&query).await?;
    let last = kept.last().map(|event| event.seq).or(query.after);
    let state = EventFeed {
        shared: Arc::clone(&shared),
        ready: kept.into(),
        last,
        live,
        query,
    };
    let lines = stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await? {
            Ok(line) => Some((line, Some(state))),
            // The error is the last line.
            Err(line) => Some((line, None)),
        }
    });
    respond(&shared, streaming, lines)
}

struct EventFeed {
    shared: Arc<Shared>,
    /// Read and not yet sent.
    ready: VecDeque<Event>,
    /// The newest that was sent or read.
    last: Option<u64>,
    live: broadcast::Receiver<Arc<Event>>,
    query: EventQuery,
}

impl EventFeed {
    async fn next(&mut self) -> Option<Result<Bytes, Bytes>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = Some(event.seq);
                return Some(Ok(json_line(&event)));
            }
            if !self.query.follow {
                return None;
            }
            match self.live.recv().await {
                Ok(event) if self.last.is_none_or(|last| event.seq > last) => {
                    if self.query.wants(&event) {
                        self.last = Some(event.seq);
                        return Some(Ok(json_line(&*event)));
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    if let Err(error) = self.catch_up().await {
                        return Some(Err(json_line(&ErrorBody { error })));
                    }
                }
            }
        }
    }

    /// Reads what went by too fast.
    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let missed = EventQuery {
            after: self.last.or(self.query.after),
            tail: None,
            ..self.query.clone()
        };
        self.ready = self.shared.backend.events(&missed).await?.into();
        Ok(())
    }
}

/// Whose log lines are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogsOfWhom {
    /// Only of replicas that are defined now.
    Defined,
    /// Of all whose logs are kept.
    Anybody,
}

/// Log lines as the drivers give them.
pub(super) async fn logs(
    shared: Arc<Shared>,
    streaming: &Streaming,
    mut query: LogQuery,
    of: LogsOfWhom,
) -> Result<Response, ApiError> {
    let snapshot = shared.backend.owner().snapshots().borrow().clone();
    match (check_names(&snapshot, &query), of) {
        (Ok(()), LogsOfWhom::Anybody) => {}
        (Ok(()), LogsOfWhom::Defined) => {
            let kept = shared.backend.kept_logs(Some(query.pipeline.clone()));
            let kept = kept.await?.into_iter();
            let gone = kept.filter(|log| !defines(&snapshot, log));
            query.without = gone.map(|log| log.replica).collect();
        }
        (Err(unknown), LogsOfWhom::Anybody | LogsOfWhom::Defined) => {
            // What was deleted has no place in the snapshot, but may have left its logs.
            let kept = shared
                .backend
                .kept_logs(Some(query.pipeline.clone()))
                .await?;
            let known: BTreeSet<_> = kept.iter().map(|log| &log.replica.component).collect();
            if known.is_empty() || !query.components.iter().all(|id| known.contains(id)) {
                return Err(unknown);
            }
        }
    }
    let feed = LogFeed {
        pipeline: query.pipeline.clone(),
        filter: query.filter.clone(),
        lines: shared.backend.logs(query).await?,
        batch: Vec::with_capacity(LINES_AT_ONCE),
        told: 0,
    };
    let chunks = stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Some((chunk, feed))
    });
    respond(&shared, streaming, chunks)
}

struct LogFeed {
    pipeline: PipelineKey,
    filter: Option<Arc<Filter>>,
    lines: LogStream,
    batch: Vec<Result<LogLine, DriverError>>,
    /// How many lines were told to be left out.
    told: u64,
}

impl LogFeed {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let received = self.lines.recv_many(&mut self.batch, LINES_AT_ONCE);
            // Cancel-safe: what was received is in the batch.
            match tokio::time::timeout(TELL_LEFT_OUT, received).await {
                Ok(0) => return self.left_out(),
                Ok(_) => return Some(log_chunk(&mut self.batch, &self.pipeline)),
                Err(_) => {
                    if let Some(line) = self.left_out() {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// What was left out since it was told last; `None` = nothing.
    fn left_out(&mut self) -> Option<Bytes> {
        let without_level = self.filter.as_ref()?.without_level();
        if without_level == self.told {
            return None;
        }
        self.told = without_level;
        Some(json_line(&LeftOut {
            without_level,
            pipeline: self.pipeline.clone(),
        }))
    }
}

fn log_chunk(batch: &mut Vec<Result<LogLine, DriverError>>, pipeline: &PipelineKey) -> Bytes {
    let mut chunk = Vec::with_capacity(batch.len() * 256);
    for item in batch.drain(..) {
        let line = match item {
            Ok(line) => json_line(&LogEntry::new(pipeline, line)),
            Err(error) => json_line(&ErrorBody {
                error: error.into(),
            }),
        };
        chunk.extend_from_slice(&line);
    }
    chunk.into()
}

/// Whether something defines the replica that a log is of, or it still runs.
pub(super) fn defines(snapshot: &Snapshot, log: &KeptLog) -> bool {
    let mut pipelines = snapshot.pipelines.iter();
    let pipeline = pipelines.find(|pipeline| {
        pipeline.namespace == log.pipeline.namespace && pipeline.name == log.pipeline.name
    });
    let mut components = pipeline.iter().flat_map(|pipeline| &pipeline.components);
    let component = components.find(|component| component.id == log.replica.component);
    component.is_some_and(|component| {
        let mut replicas = component.replicas.iter();
        replicas.any(|replica| replica.replica == log.replica.replica)
    })
}

/// An unknown name is an error, not an empty log.
fn check_names(snapshot: &Snapshot, query: &LogQuery) -> Result<(), ApiError> {
    let pipeline = snapshot.pipelines.iter().find(|pipeline| {
        pipeline.namespace == query.pipeline.namespace && pipeline.name == query.pipeline.name
    });
    let Some(pipeline) = pipeline else {
        let message = format!("there is no pipeline `{}`", query.pipeline);
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    for id in &query.components {
        if !pipeline.components.iter().any(|known| known.id == *id) {
            let message = format!("pipeline `{}` has no component `{id}`", query.pipeline);
            return Err(ApiError::new(ErrorCode::NotFound, message));
        }
    }
    Ok(())
}

fn respond(
    shared: &Shared,
    streaming: &Streaming,
    lines: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Response, ApiError> {
    let permit = shared.stream_permit()?;
    streaming.begin();
    let lines = lines
        .take_until(shared.closing.clone().cancelled_owned())
        .map(move |line| {
            // Held by the closure, so that it lives as long as the stream.
            let _held = &permit;
            Ok::<_, Infallible>(line)
        });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}
