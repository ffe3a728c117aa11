//! Every address, and what it does.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::doors::{Caller, Doors, Refused};
use super::page::{self, Shown, Sources};
use crate::api::{Asked, ClientError, EventQuery, LogEntry, LogParams};
use crate::graph;
use crate::model::{ComponentId, Namespace, PipelineKey, PipelineName};

/// Pages that are open at the same time.
const MOST_PAGES: usize = 32;
/// A body is a token at most.
const LARGEST_BODY: usize = 4 << 10;
/// After a token that is not good.
const WRONG_TOKEN: Duration = Duration::from_millis(500);
/// Events that tell why a component is in its state.
const EVENTS: usize = 20;
/// Last lines that do.
const LINES: u64 = 20;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/app.js");
const LOGIN: &str = include_str!("page/login.html");
const ENTERED: &str = include_str!("page/entered.html");

/// No script but ours, nothing from elsewhere, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Whether components can be steered from a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// They can.
    Allowed,
    /// It only shows.
    ReadOnly,
}

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    doors: Doors,
    sources: Sources,
    control: Control,
    pages: Arc<Semaphore>,
}

impl Shared {
    /// For requests that come through `doors`.
    pub fn new(doors: Doors, sources: Sources, control: Control) -> Self {
        Self {
            doors,
            sources,
            control,
            pages: Arc::new(Semaphore::new(MOST_PAGES)),
        }
    }
}

type App = State<Arc<Shared>>;

/// The routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/style.css", get(|| async { text("text/css", STYLE) }))
        .route("/app.js", get(|| async { text("text/javascript", SCRIPT) }))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/login", get(follow_link).post(log_in))
        .route("/api/session", get(session))
        .route("/api/stream", get(stream))
        .route("/api/why/{namespace}/{pipeline}/{component}", get(why))
        .route("/api/graph/{namespace}/{pipeline}", get(drawn))
        .route(
            "/api/steer/{namespace}/{pipeline}/{component}/{request}",
            post(steer),
        )
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is no such address") })
        .method_not_allowed_fallback(|| async {
            problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address has no such method",
            )
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(shared)
}

/// The answer to a request that is not let in; `None` = it is. What every answer says to the browser is
/// in [`hardened`].
pub fn turned_away(shared: &Shared, method: &Method, headers: &HeaderMap) -> Option<Response> {
    shared.doors.check(method, headers).err().map(refusal)
}

/// `answer` with what keeps a browser from doing more with it than showing it.
pub fn hardened(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn text(kind: &'static str, text: &'static str) -> Response {
    let kind = format!("{kind}; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn json_of(value: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, value.to_string()).into_response()
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, json_of(&json!({"error": {"message": message}}))).into_response()
}

fn refusal(refused: Refused) -> Response {
    problem(refused.status(), &refused.to_string())
}

/// Whoever sends its request too slowly, or a daemon that does not answer.
pub fn too_slow() -> Response {
    problem(StatusCode::REQUEST_TIMEOUT, "it took too long")
}

fn failed(error: &ClientError) -> Response {
    let (status, hint) = match error {
        ClientError::Answer(error) => (
            StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::BAD_GATEWAY),
            error.hint.as_deref(),
        ),
        ClientError::NoDaemon { .. }
        | ClientError::NotOurs { .. }
        | ClientError::Unwritten { .. }
        | ClientError::Silent { .. }
        | ClientError::Broken { .. } => (StatusCode::BAD_GATEWAY, None),
    };
    let told = json!({"error": {"message": error.to_string(), "hint": hint}});
    (status, json_of(&told)).into_response()
}

/// The page for whoever was let in, else the way in.
async fn index(State(shared): App, headers: HeaderMap) -> Response {
    match shared.doors.caller(&headers) {
        Ok(_) => text("text/html", PAGE),
        Err(_) => (StatusCode::UNAUTHORIZED, text("text/html", LOGIN)).into_response(),
    }
}

/// A token as it is brought.
#[derive(Debug, Deserialize)]
struct Brought {
    token: String,
}

/// The link that was printed.
async fn follow_link(
    State(shared): App,
    method: Method,
    brought: Result<Query<Brought>, QueryRejection>,
) -> Response {
    match brought {
        // To ask for the head alone uses nothing up.
        Ok(Query(brought)) if method == Method::GET => enter(&shared, &brought.token).await,
        Ok(_) | Err(_) => text("text/html", LOGIN),
    }
}

/// A token that a person typed.
async fn log_in(State(shared): App, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let token = body.trim().strip_prefix("token=").unwrap_or_default();
    enter(&shared, &decoded(token)).await
}

/// What a form wrote.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = str::from_utf8(&digits).unwrap_or_default();
                match u8::from_str_radix(digits, 16) {
                    Ok(byte) => (byte, tail),
                    Err(_) => (first, &rest[1..]),
                }
            }
            (byte, _) => (byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

async fn enter(shared: &Shared, token: &str) -> Response {
    match shared.doors.let_in(token) {
        Ok(Ok(cookie)) => {
            // A page rather than a redirect: the next request then comes from here, so that a
            // cookie for this site alone goes with it wherever the link was.
            let mut answer = text("text/html", ENTERED);
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                answer.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            answer
        }
        Ok(Err(_)) => {
            sleep(WRONG_TOKEN).await;
            (StatusCode::UNAUTHORIZED, text("text/html", LOGIN)).into_response()
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// What the page may do, and with which token.
async fn session(State(shared): App, headers: HeaderMap) -> Response {
    let caller = match shared.doors.caller(&headers) {
        Ok(caller) => caller,
        Err(refused) => return refusal(refused),
    };
    let control = shared.control == Control::Allowed;
    let token = match caller {
        Caller::Browser { token } if control => Some(token),
        Caller::Browser { .. } | Caller::Program => None,
    };
    json_of(&json!({
        "control": control,
        "token": token,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

async fn stream(
    State(shared): App,
    headers: HeaderMap,
    shown: Result<Query<Shown>, QueryRejection>,
) -> Response {
    if let Err(refused) = shared.doors.caller(&headers) {
        return refusal(refused);
    }
    let Ok(Query(shown)) = shown else {
        return problem(StatusCode::BAD_REQUEST, "the request names no such thing");
    };
    let Ok(permit) = Arc::clone(&shared.pages).try_acquire_owned() else {
        let words = format!("{MOST_PAGES} pages are open already; close one");
        return problem(StatusCode::SERVICE_UNAVAILABLE, &words);
    };
    let body: Body = page::stream(shared.sources.clone(), shown, permit);
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

type Component = (Namespace, PipelineName, ComponentId);

/// What led to the state of a component: its last events and lines.
async fn why(
    State(shared): App,
    headers: HeaderMap,
    path: Result<Path<Component>, PathRejection>,
) -> Response {
    if let Err(refused) = shared.doors.caller(&headers) {
        return refusal(refused);
    }
    let Ok(Path((namespace, pipeline, component))) = path else {
        return problem(
            StatusCode::NOT_FOUND,
            "there is no component of such a name",
        );
    };
    let client = &shared.sources.client;
    let query = EventQuery {
        namespace: Some(namespace.clone()),
        pipeline: Some(pipeline.clone()),
        component: Some(component.clone()),
        tail: Some(EVENTS),
        ..EventQuery::default()
    };
    let events = match client.kept_events(query).await {
        Ok(events) => events,
        Err(error) => return failed(&error),
    };
    let key = PipelineKey {
        namespace,
        name: pipeline,
    };
    let params = LogParams {
        tail: Some(LINES),
        defined: true,
        ..LogParams::of(&key, component.to_string())
    };
    match last_lines(&shared, &params).await {
        Ok(lines) => json_of(&json!({"events": events, "lines": lines})),
        Err(error) => failed(&error),
    }
}

async fn last_lines(shared: &Shared, params: &LogParams) -> Result<Vec<Value>, ClientError> {
    let mut lines = shared.sources.client.logs(params).await?;
    let mut told = Vec::new();
    loop {
        match lines.decoded::<LogEntry>().await {
            Ok(Some(entry)) => told.push(json!({
                "at": entry.at,
                "name": entry.instance.replica.to_string(),
                "text": entry.text.chars().take(2_000).collect::<String>(),
            })),
            Ok(None) => return Ok(told),
            // One driver cannot read its logs, and the others go on.
            Err(error) => {
                let trouble = error.answered()?;
                told.push(json!({"at": null, "name": "", "text": trouble.to_string()}));
            }
        }
    }
}

/// What reads from what. Of the definition nothing else: its values may be secrets.
async fn drawn(
    State(shared): App,
    headers: HeaderMap,
    path: Result<Path<(Namespace, PipelineName)>, PathRejection>,
) -> Response {
    if let Err(refused) = shared.doors.caller(&headers) {
        return refusal(refused);
    }
    let Ok(Path((namespace, name))) = path else {
        return problem(StatusCode::NOT_FOUND, "there is no pipeline of such a name");
    };
    let key = PipelineKey { namespace, name };
    match shared.sources.client.definition(&key).await {
        Ok(spec) => json_of(&graph::as_json(&spec)),
        Err(error) => failed(&error),
    }
}

/// What a page may ask for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wish {
    Start,
    Stop,
    Restart,
}

impl From<Wish> for Asked {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Start => Self::Start,
            Wish::Stop => Self::Stop,
            Wish::Restart => Self::Restart,
        }
    }
}

async fn steer(
    State(shared): App,
    headers: HeaderMap,
    path: Result<Path<(Namespace, PipelineName, ComponentId, Wish)>, PathRejection>,
) -> Response {
    if let Err(refused) = shared.doors.may_change(&headers) {
        return refusal(refused);
    }
    if shared.control == Control::ReadOnly {
        let words = "this server only shows; `flowctl web --allow-control` also steers";
        return problem(StatusCode::FORBIDDEN, words);
    }
    let Ok(Path((namespace, name, component, wish))) = path else {
        return problem(StatusCode::NOT_FOUND, "there is no such thing to ask for");
    };
    let key = PipelineKey { namespace, name };
    let asked = wish.into();
    match shared.sources.client.request(&key, &component, asked).await {
        Ok(answer) => json_of(&json!({"warnings": answer.warnings})),
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_form_writes_is_read() {
        for (written, read) in [
            ("abc", "abc"),
            ("a%2Bb+c", "a+b c"),
            ("100%", "100%"),
            ("%zz", "%zz"),
            ("%C3%A4%0A", "ä"),
            ("", ""),
        ] {
            assert_eq!(decoded(written), read);
        }
    }

    #[test]
    fn the_page_is_small_and_needs_nobody_else() {
        let all = [PAGE, STYLE, SCRIPT, LOGIN, ENTERED];
        let size: usize = all.iter().map(|text| text.len()).sum();
        assert!(size < 60 << 10, "{size}");
        for text in all {
            let without = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!without.contains("http://") && !without.contains("https://"));
            for inline in [
                "<style",
                "style=",
                "onclick=",
                "javascript:",
                "innerHTML",
                "eval(",
            ] {
                assert!(!text.contains(inline), "{inline}");
            }
        }
    }
}
