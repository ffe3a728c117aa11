//! Any bytes on the socket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc, watch};

use super::backend::{Backend, Checked, Exposition, Loaded};
use super::error::{ApiError, ErrorCode};
use super::server::Inside;
use super::wire::{ApplyRequest, CallerVariables, EventQuery, VolumesAnswer, VolumesRequest};
use crate::driver::logs::kept::KeptLog;
use crate::driver::{LogQuery, LogStream};
use crate::manifest::Taken;
use crate::model::{
    ComponentId, Event, PipelineKey, PipelineSpec, Problem, STATUS_SCHEMA, Snapshot,
};
use crate::reconciler::ReconcilerHandle;

/// Answers that are streams are left after this.
const PATIENCE: Duration = Duration::from_millis(10);

/// A daemon that does nothing of what it is asked.
struct Nobody(ReconcilerHandle);

fn refused() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "nothing is here")
}

#[async_trait]
impl Backend for Nobody {
    fn owner(&self) -> &ReconcilerHandle {
        &self.0
    }

    async fn load(&self, request: &ApplyRequest) -> Result<Checked, ApiError> {
        assert!(!format!("{request:?}").is_empty());
        Err(refused())
    }

    async fn preflight(&self, _: &[Loaded]) -> Vec<Problem> {
        Vec::new()
    }

    async fn remarks(&self, _: &[Loaded], _: Option<&CallerVariables>) -> Vec<Problem> {
        Vec::new()
    }

    async fn applied(&self, _: &ApplyRequest, _: Vec<Taken>) {}

    async fn forced(&self, _: Vec<PipelineKey>) {}

    async fn definition(&self, _: PipelineKey) -> Result<Option<Arc<PipelineSpec>>, ApiError> {
        Ok(None)
    }

    async fn events(&self, _: &EventQuery) -> Result<Vec<Event>, ApiError> {
        Ok(Vec::new())
    }

    async fn logs(&self, _: LogQuery) -> Result<LogStream, ApiError> {
        Err(refused())
    }

    async fn kept_logs(&self, _: Option<PipelineKey>) -> Result<Vec<KeptLog>, ApiError> {
        Ok(Vec::new())
    }

    async fn remove_logs(&self, _: PipelineKey) -> Result<u64, ApiError> {
        Err(refused())
    }

    async fn renew_image(&self, _: &PipelineKey, _: &ComponentId) -> Result<Vec<String>, ApiError> {
        Err(refused())
    }

    async fn volumes(&self, _: VolumesRequest) -> Result<VolumesAnswer, ApiError> {
        Err(refused())
    }

    async fn metrics(&self, _: &str) -> Exposition {
        Exposition {
            content_type: "text/plain",
            text: Arc::default(),
        }
    }
}

/// Sends `bytes`; what comes back is HTTP, or nothing.
pub fn http(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let (commands, _) = mpsc::channel(1);
        let snapshot = Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: None,
            conditions: Vec::new(),
            pipelines: Vec::new(),
        };
        let (_snapshots, latest) = watch::channel(Arc::new(snapshot));
        let owner = ReconcilerHandle::new(commands, latest, broadcast::channel(1).0);
        let server = Inside::new(Arc::new(Nobody(owner)));
        let stream = server.connect().expect("a pair of sockets can be made");
        let (mut from, mut to) = stream.into_split();
        let mut answer = Vec::new();
        let conversation = async {
            // It may hang up in the middle: an answer like any other.
            if to.write_all(bytes).await.is_ok() {
                to.shutdown().await.ok();
            }
            from.read_to_end(&mut answer).await.ok();
        };
        tokio::time::timeout(PATIENCE, conversation).await.ok();
        let is_http = answer.is_empty() || answer.starts_with(b"HTTP/1.");
        assert!(is_http, "{}", answer.escape_ascii());
    });
}

#[cfg(test)]
#[test]
fn kept_and_changed_requests_are_answered_or_hung_up_on() {
    crate::fuzzing::replay("http", http);
}
