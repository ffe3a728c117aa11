//! What the server needs from the daemon beside the owner of the state.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::{ApiError, ErrorCode};
use super::wire::{
    ApplyRequest, CallerVariables, EventQuery, Remarks, VolumesAnswer, VolumesRequest,
};
use crate::driver::logs::kept::KeptLog;
use crate::driver::{LogQuery, LogStream};
use crate::manifest::{Fingerprint, Taken};
use crate::model::{
    ComponentId, Event, Notifications, PipelineKey, PipelineSpec, Problem, Snapshot, TargetName,
};
use crate::reconciler::{ReconcilerHandle, Source};

/// The daemon as the server sees it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The owner of the state.
    fn owner(&self) -> &ReconcilerHandle;

    /// The definition that a pipeline runs by; `None` = there is no such pipeline.
    ///
    /// # Errors
    /// When the daemon is going.
    async fn definition(&self, key: PipelineKey) -> Result<Option<Arc<PipelineSpec>>, ApiError> {
        Ok(self.owner().desired(key).await?.map(|(_, spec)| spec))
    }

    /// Reads and checks every source of `request`, changing nothing.
    ///
    /// # Errors
    /// [`ApiError::manifest`] with all problems of all sources; or when one cannot be read.
    async fn load(&self, request: &ApplyRequest) -> Result<Checked, ApiError>;

    /// What can be known now that would keep these pipelines from running: a program that is not
    /// there, a port that is taken. Empty = nothing.
    async fn preflight(&self, loaded: &[Loaded]) -> Vec<Problem>;

    /// What will work otherwise than its author or `caller` may expect.
    async fn remarks(&self, loaded: &[Loaded], caller: Option<&CallerVariables>) -> Vec<Problem>;

    /// Told after the pipelines of `request` were recorded, so that the watch follows its files and
    /// folders, or leaves them when that is asked for. `taken` are the files as they were read.
    async fn applied(&self, request: &ApplyRequest, taken: Vec<Taken>);

    /// Told after these pipelines were recorded although something would keep them from running.
    async fn forced(&self, pipelines: Vec<PipelineKey>);

    /// The kept events that `query` wants, oldest first; `query.tail` is honoured,
    /// [`EventQuery::wants`] is the filter.
    ///
    /// # Errors
    /// When the history cannot be read.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ApiError>;

    /// The log lines that `query` wants, merged over the drivers of its components.
    ///
    /// # Errors
    /// When they cannot be read at all.
    async fn logs(&self, query: LogQuery) -> Result<LogStream, ApiError>;

    /// The logs that lie on the disk, of one pipeline or of all, whether or not anything still
    /// defines whose they are.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn kept_logs(&self, of: Option<PipelineKey>) -> Result<Vec<KeptLog>, ApiError>;

    /// Removes the logs of a pipeline that is gone; answers how many bytes they had.
    ///
    /// # Errors
    /// When the pipeline is there, or they could not be removed.
    async fn remove_logs(&self, pipeline: PipelineKey) -> Result<u64, ApiError>;

    /// Pulls the image of a component that is a container, which runs on meanwhile. Answers what is
    /// worth telling.
    ///
    /// # Errors
    /// When the image is not to be had: nothing was changed.
    async fn renew_image(
        &self,
        pipeline: &PipelineKey,
        component: &ComponentId,
    ) -> Result<Vec<String>, ApiError>;

    /// Removes or keeps these named volumes, as far as they were made for components of ours and
    /// nothing uses them any more, and tells which.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn volumes(&self, asked: VolumesRequest) -> Result<VolumesAnswer, ApiError>;

    /// `snapshot` with what its replicas use, where somebody can measure that.
    async fn with_usage(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        snapshot
    }

    /// The metrics, in the form that a scraper with this `Accept` takes.
    async fn metrics(&self, accept: &str) -> Exposition;

    /// Told of every request that was answered: by which route, with which HTTP status.
    fn answered(&self, _route: &'static str, _status: u16) {}

    /// Who is told of what is wrong, and what waits to be.
    ///
    /// # Errors
    /// When nobody tells anybody, since no daemon runs.
    async fn notifications(&self) -> Result<Notifications, ApiError> {
        Err(nobody_is_told())
    }

    /// Sends a test to a target by the very way that messages take.
    ///
    /// # Errors
    /// When there is no such target, or it does not take it.
    async fn notify_test(&self, target: TargetName) -> Result<(), ApiError> {
        tracing::debug!(%target, "nobody is there to tell it");
        Err(nobody_is_told())
    }
}

/// Why there are no notifications.
pub fn nobody_is_told() -> ApiError {
    ApiError::new(
        ErrorCode::ShuttingDown,
        "no daemon runs, so nobody is told of anything",
    )
    .with_hint("`flowctl daemon` or `flowctl apply` starts one")
}

/// Metrics as a scraper reads them.
#[derive(Clone, Debug)]
pub struct Exposition {
    /// Their `Content-Type`.
    pub content_type: &'static str,
    /// The text; several scrapers may be sent the same one.
    pub text: Arc<String>,
}

/// Sources that were read and found good.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Checked {
    /// Each source with the pipelines that it defines.
    pub loaded: Vec<Loaded>,
    /// What is worth telling about them.
    pub remarks: Remarks,
}

/// One source and the pipelines that it defines.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Where they come from; `origin` is a person.
    pub source: Source,
    /// All that it defines.
    pub pipelines: Vec<PipelineSpec>,
    /// The text that says so.
    pub text: Fingerprint,
}

impl Loaded {
    /// What of it was taken over once it is applied; `None` of a text that came without a file.
    pub fn taken(&self) -> Option<Taken> {
        Some(Taken {
            file: self.source.file.clone()?,
            text: self.text,
            pipelines: self.pipelines.iter().map(|spec| spec.key.clone()).collect(),
        })
    }
}
