//! Every address, and what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;

use super::backend::Loaded;
use super::body::Sent;
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::server::{self, Shared};
use super::stall::Streaming;
use super::stream::{self, LogsOfWhom};
use super::wire::{
    AppliedPipeline, ApplyAnswer, ApplyRequest, AskAnswer, Asked, DiffAnswer, EventQuery,
    HostMount, KeptEntry, KeptLogs, LogParams, LogsOf, RemovedLogs, VersionAnswer, VolumesAnswer,
    VolumesRequest, WhenUnready,
};
use crate::conditions::{Health, health};
use crate::driver::logs::filter::Filter;
use crate::driver::{Follow, LogQuery, Runs};
use crate::model::{
    ComponentId, ComponentList, Namespace, Notifications, PipelineKey, PipelineName, Problem,
    TargetName,
};
use crate::planner::diff::{PipelineDiff, diff};
use crate::reconciler::Refusal;

/// The version of this interface: grows when something is taken away, which is not planned.
const API_VERSION: u32 = 1;

type Answer<T> = Result<T, ApiError>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/health", get(verdict))
        .route("/v1/components", get(components))
        .route("/v1/apply", post(apply))
        .route("/v1/diff", post(compare))
        .route("/v1/events", get(events))
        .route("/v1/logs", get(logs).delete(remove_logs))
        .route("/v1/logs/kept", get(kept_logs))
        .route("/v1/down", post(down))
        .route("/v1/volumes", post(volumes))
        .route("/v1/notify", get(notifications))
        .route("/v1/notify/{name}/test", post(notify_test))
        .route(
            "/v1/pipelines/{namespace}/{name}",
            get(definition).delete(delete),
        )
        .route(
            "/v1/pipelines/{namespace}/{name}/components/{id}/{request}",
            post(ask),
        )
        .fallback(no_such_address)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status())
            .expect("every code maps to a valid HTTP status");
        (status, Json(ErrorBody { error: self })).into_response()
    }
}

async fn no_such_address() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such address").with_hint(
        "client and daemon may be of different versions; compare them with `flowctl version`",
    )
}

async fn wrong_method() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "this address has no such method")
}

pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    // Asked for by whoever cannot say so in a header, as a person with a browser.
    let asked = query.is_some_and(|query| query == "format=openmetrics");
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept = accept.filter_map(|value| value.to_str().ok());
    let accept: Vec<_> = asked
        .then_some(OPENMETRICS)
        .into_iter()
        .chain(accept)
        .collect();
    let written = shared.backend.metrics(&accept.join(",")).await;
    let body = Bytes::from_owner(Shareable(written.text));
    ([(header::CONTENT_TYPE, written.content_type)], body).into_response()
}

/// What a scraper accepts that wants OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// A text that is sent to several without being copied for each.
struct Shareable(Arc<String>);

impl AsRef<[u8]> for Shareable {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The route that answers `path`, for counting: what users name is not among it.
pub(super) fn route_of(path: &str) -> &'static str {
    const WHOLE: [&str; 14] = [
        "/metrics",
        "/healthz",
        "/v1/version",
        "/v1/status",
        "/v1/health",
        "/v1/components",
        "/v1/apply",
        "/v1/diff",
        "/v1/events",
        "/v1/logs",
        "/v1/logs/kept",
        "/v1/down",
        "/v1/volumes",
        "/v1/notify",
    ];
    if let Some(route) = WHOLE.into_iter().find(|route| *route == path) {
        return route;
    }
    if path.starts_with("/v1/notify/") {
        return "/v1/notify/{name}/test";
    }
    match path
        .strip_prefix("/v1/pipelines/")
        .map(|rest| rest.matches('/').count())
    {
        Some(1) => "/v1/pipelines/{namespace}/{name}",
        Some(4) => "/v1/pipelines/{namespace}/{name}/components/{id}/{request}",
        Some(_) | None => "other",
    }
}

async fn version() -> Json<VersionAnswer> {
    Json(VersionAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        api: API_VERSION,
    })
}

async fn status(
    State(shared): State<Arc<Shared>>,
    Extension(streaming): Extension<Streaming>,
    RawQuery(query): RawQuery,
) -> Answer<Response> {
    if asks_for(query.as_deref(), "watch") {
        return stream::snapshots(shared, &streaming);
    }
    let snapshot = shared.backend.owner().snapshots().borrow().clone();
    if asks_for(query.as_deref(), "usage") {
        let snapshot = shared.backend.with_usage(snapshot).await;
        return Ok(json(server::json_line(&*snapshot)));
    }
    Ok(json(shared.written(&snapshot)))
}

/// 200 as long as the daemon answers: how all of it is stands in the body.
async fn verdict(State(shared): State<Arc<Shared>>) -> Json<Health> {
    Json(health(&shared.backend.owner().snapshots().borrow()))
}

async fn components(State(shared): State<Arc<Shared>>) -> Answer<Json<ComponentList>> {
    let directory = shared.backend.owner().directory().await?;
    let entries = directory.values().map(|record| record.as_ref().into());
    Ok(Json(ComponentList::new(entries.collect())))
}

/// Whether a query says `WHAT`, or that it is true.
fn asks_for(query: Option<&str>, what: &str) -> bool {
    let mut parts = query.unwrap_or_default().split('&');
    parts.any(|part| match part.strip_prefix(what) {
        Some(value) => matches!(value, "" | "=" | "=true" | "=1"),
        None => false,
    })
}

fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn apply(State(shared): State<Arc<Shared>>, sent: Sent) -> Answer<Json<ApplyAnswer>> {
    let request: ApplyRequest = parsed(&shared.bodies.read(sent).await?)?;
    // In a task of its own: what was begun is finished, also when the asker has gone.
    let work = tokio::spawn(async move { apply_all(&shared, &request).await });
    work.await
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("the apply broke: {error}")))?
        .map(Json)
}

async fn apply_all(shared: &Shared, request: &ApplyRequest) -> Answer<ApplyAnswer> {
    let backend = &shared.backend;
    if backend.owner().is_ending() {
        // Told at once: reading and checking may take a while.
        return Err(Refusal::ShuttingDown.into());
    }
    let checked = backend.load(request).await?;
    refuse_twins(&checked.loaded)?;
    let mut remarks = checked.remarks;
    let obstacles = backend.preflight(&checked.loaded).await;
    match request.when_unready {
        WhenUnready::Refuse if !obstacles.is_empty() => return Err(obstructed(obstacles)),
        WhenUnready::Refuse | WhenUnready::Force => {}
    }
    let is_forced = !obstacles.is_empty();
    let caller = request.caller.as_ref();
    let more = backend.remarks(&checked.loaded, caller).await;
    for remark in obstacles.into_iter().chain(more) {
        remarks
            .rendered
            .push_str(&format!("warning: {}\n", remark.message));
        remarks.warnings.push(remark);
    }
    let pipelines = checked.loaded.iter().flat_map(|one| &one.pipelines);
    let mut mounts: BTreeMap<_, _> = pipelines
        .map(|spec| (spec.key.clone(), HostMount::all_of(spec)))
        .collect();
    let keys: Vec<_> = mounts.keys().cloned().collect();
    let taken = checked.loaded.iter().filter_map(Loaded::taken).collect();
    let applied = apply_each(shared, checked.loaded).await;
    if is_forced {
        backend.forced(keys).await;
    }
    // What was recorded before another one failed is followed too, as its files say it now.
    let taken = applied.as_ref().map_or(Vec::new(), |_| taken);
    backend.applied(request, taken).await;
    let mut pipelines = applied?;
    for pipeline in &mut pipelines {
        pipeline.host_mounts = mounts.remove(&pipeline.key()).unwrap_or_default();
    }
    Ok(ApplyAnswer { pipelines, remarks })
}

async fn apply_each(shared: &Shared, all: Vec<Loaded>) -> Answer<Vec<AppliedPipeline>> {
    let mut pipelines = Vec::new();
    for Loaded {
        source,
        pipelines: wanted,
        text: _,
    } in all
    {
        let applied = shared.backend.owner().apply(wanted, source).await?;
        pipelines.extend(applied.into_iter().map(Into::into));
    }
    Ok(pipelines)
}

fn obstructed(obstacles: Vec<Problem>) -> ApiError {
    let lines: Vec<&str> = obstacles.iter().map(|o| o.message.as_str()).collect();
    let mut error = ApiError::new(
        ErrorCode::Refused,
        format!("this would not run:\n  {}", lines.join("\n  ")),
    )
    .with_hint("mend it, or go on regardless with --force");
    error.problems = obstacles;
    error
}

/// One pipeline cannot come from two sources of one request: which would win is anyone's guess.
fn refuse_twins(loaded: &[Loaded]) -> Answer<()> {
    let mut seen = BTreeSet::new();
    for spec in loaded.iter().flat_map(|one| &one.pipelines) {
        if !seen.insert(&spec.key) {
            let message = format!("pipeline `{}` is defined by two of these sources", spec.key);
            let problem = Problem {
                file: None,
                line: None,
                column: None,
                message: message.clone(),
            };
            return Err(ApiError::manifest(message, vec![problem])
                .with_hint("give each pipeline a name of its own"));
        }
    }
    Ok(())
}

async fn compare(State(shared): State<Arc<Shared>>, sent: Sent) -> Answer<Json<DiffAnswer>> {
    let request: ApplyRequest = parsed(&shared.bodies.read(sent).await?)?;
    let checked = shared.backend.load(&request).await?;
    refuse_twins(&checked.loaded)?;
    let mut pipelines = Vec::new();
    for loaded in &checked.loaded {
        for spec in &loaded.pipelines {
            let present = shared.backend.definition(spec.key.clone()).await?;
            pipelines.push(diff(present.as_deref(), Some(spec)));
        }
        pipelines.extend(leavers(&shared, loaded).await?);
    }
    Ok(Json(DiffAnswer {
        pipelines,
        remarks: checked.remarks,
    }))
}

/// The pipelines that came from this file and are not in it any more.
async fn leavers(shared: &Shared, loaded: &Loaded) -> Answer<Vec<PipelineDiff>> {
    let Some(file) = &loaded.source.file else {
        return Ok(Vec::new());
    };
    let snapshot = shared.backend.owner().snapshots().borrow().clone();
    let mut gone = Vec::new();
    for status in &snapshot.pipelines {
        let key = status.key();
        let stays = loaded.pipelines.iter().any(|spec| spec.key == key);
        if status.file.as_ref() == Some(file)
            && !stays
            && !status.deleting
            && let Some(spec) = shared.backend.definition(key).await?
        {
            gone.push(diff(Some(&spec), None));
        }
    }
    Ok(gone)
}

async fn events(
    State(shared): State<Arc<Shared>>,
    Extension(streaming): Extension<Streaming>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Answer<Response> {
    let Query(query) = understood(query)?;
    stream::events(shared, &streaming, query).await
}

async fn logs(
    State(shared): State<Arc<Shared>>,
    Extension(streaming): Extension<Streaming>,
    query: Result<Query<LogParams>, QueryRejection>,
) -> Answer<Response> {
    let Query(params) = understood(query)?;
    let filter = understood(Filter::new(&understood(params.asked())?))?;
    let pipeline = PipelineKey {
        namespace: params.namespace,
        name: params.pipeline,
    };
    let components = params
        .components
        .split(',')
        .filter(|id| !id.is_empty())
        .map(str::parse)
        .collect::<Result<BTreeSet<ComponentId>, _>>();
    let query = LogQuery {
        pipeline,
        components: understood(components)?,
        without: BTreeSet::new(),
        since: params.since,
        until: params.until,
        tail: params.tail,
        filter: filter.map(Arc::new),
        runs: if params.previous {
            Runs::Previous
        } else {
            Runs::All
        },
        follow: if params.follow {
            Follow::Yes
        } else {
            Follow::No
        },
    };
    let of = if params.defined {
        LogsOfWhom::Defined
    } else {
        LogsOfWhom::Anybody
    };
    stream::logs(shared, &streaming, query, of).await
}

async fn kept_logs(State(shared): State<Arc<Shared>>) -> Answer<Json<KeptLogs>> {
    let snapshot = shared.backend.owner().snapshots().borrow().clone();
    let kept = shared.backend.kept_logs(None).await?;
    let logs = kept
        .into_iter()
        .filter(|log| !stream::defines(&snapshot, log))
        .map(KeptEntry::from)
        .collect();
    Ok(Json(KeptLogs { logs }))
}

async fn remove_logs(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<LogsOf>, QueryRejection>,
) -> Answer<Json<RemovedLogs>> {
    let Query(LogsOf {
        namespace,
        pipeline: name,
    }) = understood(query)?;
    let bytes = shared
        .backend
        .remove_logs(PipelineKey { namespace, name })
        .await?;
    Ok(Json(RemovedLogs { bytes }))
}

async fn definition(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(Namespace, PipelineName)>, PathRejection>,
) -> Answer<Response> {
    let Path((namespace, name)) = understood(path)?;
    let key = PipelineKey { namespace, name };
    match shared.backend.definition(key.clone()).await? {
        Some(spec) => Ok(Json(&*spec).into_response()),
        None => Err(Refusal::NoSuchPipeline(key).into()),
    }
}

async fn delete(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(Namespace, PipelineName)>, PathRejection>,
) -> Answer<Response> {
    let Path((namespace, name)) = understood(path)?;
    let key = PipelineKey { namespace, name };
    shared.backend.owner().delete(key).await?;
    Ok(done())
}

async fn ask(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(Namespace, PipelineName, ComponentId, Asked)>, PathRejection>,
) -> Answer<Response> {
    let Path((namespace, name, id, asked)) = understood(path)?;
    let key = PipelineKey { namespace, name };
    let warnings = match asked {
        Asked::Pull => shared.backend.renew_image(&key, &id).await?,
        Asked::Start | Asked::Stop | Asked::Restart => Vec::new(),
    };
    let owner = shared.backend.owner();
    owner.request(key, id, asked.into()).await?;
    Ok(Json(AskAnswer { warnings }).into_response())
}

async fn volumes(State(shared): State<Arc<Shared>>, sent: Sent) -> Answer<Json<VolumesAnswer>> {
    let request: VolumesRequest = parsed(&shared.bodies.read(sent).await?)?;
    Ok(Json(shared.backend.volumes(request).await?))
}

async fn notifications(State(shared): State<Arc<Shared>>) -> Answer<Json<Notifications>> {
    Ok(Json(shared.backend.notifications().await?))
}

async fn notify_test(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<TargetName>, PathRejection>,
) -> Answer<Response> {
    let Path(target) = understood(path)?;
    shared.backend.notify_test(target).await?;
    Ok(done())
}

async fn down(State(shared): State<Arc<Shared>>) -> Answer<Response> {
    shared.backend.owner().down_and_end().await?;
    Ok(done())
}

/// The answer of a command that has nothing to tell: it is recorded.
fn done() -> Response {
    json(Bytes::from_static(b"{}\n"))
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    understood(serde_json::from_slice(body))
}

fn understood<T, E: Display>(read: Result<T, E>) -> Answer<T> {
    read.map_err(|error| {
        ApiError::new(
            ErrorCode::BadRequest,
            format!("could not understand the request: {error}"),
        )
    })
}
