//! What one open page is sent: one stream of events, with the log or the events that it shows.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::sleep;

use super::hub::{News, event};
use crate::api::{Client, EventQuery, LogBatch, LogParams, NewestLines};
use crate::clock::Clock;
use crate::model::{ComponentId, Event, Namespace, PipelineKey, PipelineName};

/// Parts of the stream that wait for the page, at most.
const AHEAD: usize = 4;
/// A stream that has nothing to say says so, by which a page that has gone is noticed.
const BEAT: Duration = Duration::from_secs(15);
/// Lines of a log that are shown at first, of each component.
const TAIL: u64 = 300;
/// Lines that are sent at once.
const AT_ONCE: usize = 200;
/// Between two batches of lines.
const SPACING: Duration = Duration::from_millis(100);
/// The same where more is written than anybody reads.
const FLOODED: Duration = Duration::from_millis(500);
/// So much of one line is shown.
const LONGEST: usize = 4 << 10;
/// Events that are shown at first.
const EVENTS: usize = 300;

/// What is open beside the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Open {
    /// What a component, or all of a pipeline, wrote.
    Logs,
    /// What happened to them, or to all.
    Events,
}

/// What a page shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Shown {
    /// What is open beside the table.
    #[serde(default)]
    pub open: Option<Open>,
    /// Of which namespace.
    #[serde(default)]
    pub namespace: Option<Namespace>,
    /// Of which pipeline.
    #[serde(default)]
    pub pipeline: Option<PipelineName>,
    /// Of which component; `None` = of all of the pipeline.
    #[serde(default)]
    pub component: Option<ComponentId>,
}

/// Where the parts of a stream come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The daemon.
    pub client: Client,
    /// What time it is.
    pub clock: Clock,
    /// What all pages are told.
    pub news: watch::Receiver<News>,
}

/// The stream of a page that shows `shown`; it ends when the page goes. `permit` is held so long.
pub fn stream(sources: Sources, shown: Shown, permit: OwnedSemaphorePermit) -> Body {
    let (tell, parts) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Cancel-safe: what is dropped only waits, and nobody reads what it would tell.
        tokio::select! {
            () = status(sources.news.clone(), &tell) => {}
            () = beside(&sources, shown, &tell) => {}
            () = beat(&tell) => {}
            () = tell.closed() => {}
        }
    });
    Body::from_stream(parts_of(parts, permit))
}

fn parts_of(
    parts: mpsc::Receiver<Bytes>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((parts, permit), |(mut parts, permit)| async move {
        let part = parts.recv().await?;
        Some((Ok(part), (parts, permit)))
    })
}

type Tell = mpsc::Sender<Bytes>;

/// Tells each snapshot that is the latest when the page has taken the one before.
async fn status(mut news: watch::Receiver<News>, tell: &Tell) {
    loop {
        let News { link, status } = news.borrow_and_update().clone();
        for part in [Some(link), status].into_iter().flatten() {
            if tell.send(part).await.is_err() {
                return;
            }
        }
        if news.changed().await.is_err() {
            return;
        }
    }
}

async fn beat(tell: &Tell) {
    loop {
        sleep(BEAT).await;
        if tell.send(Bytes::from_static(b": \n\n")).await.is_err() {
            return;
        }
    }
}

/// Tells what is open beside the table. Ends only with the page: what is over stays as it is.
async fn beside(sources: &Sources, shown: Shown, tell: &Tell) {
    let told = match shown.open {
        None => Ok(()),
        Some(Open::Logs) => logs(sources, shown, tell).await,
        Some(Open::Events) => events(sources, shown, tell).await,
    };
    if let Err(why) = told {
        let part = event("over", json!({"why": why}).to_string().as_bytes());
        // The page has gone otherwise, which ends all of this.
        tell.send(part).await.ok();
    }
    std::future::pending().await
}

async fn logs(sources: &Sources, shown: Shown, tell: &Tell) -> Result<(), String> {
    let Some(pipeline) = shown.pipeline else {
        return Err("whose logs? the request names no pipeline".to_owned());
    };
    let key = PipelineKey {
        namespace: shown.namespace.unwrap_or_default(),
        name: pipeline,
    };
    let is_whole = shown.component.is_none();
    let components = shown.component.map(|id| id.to_string());
    let params = LogParams {
        defined: is_whole,
        tail: Some(TAIL),
        follow: true,
        ..LogParams::of(&key, components.unwrap_or_default())
    };
    let (client, clock) = (sources.client.clone(), sources.clock.clone());
    let opened = NewestLines::open(client, params, AT_ONCE, clock).await;
    let mut lines = opened.map_err(|error| error.to_string())?;
    loop {
        let next = lines.next().await.map_err(|error| error.to_string())?;
        let Some(batch) = next else {
            return Ok(());
        };
        let pause = if batch.left_out { FLOODED } else { SPACING };
        if tell.send(lines_of(&batch)).await.is_err() {
            return Ok(());
        }
        sleep(pause).await;
    }
}

fn lines_of(batch: &LogBatch) -> Bytes {
    let lines: Vec<_> = batch
        .entries
        .iter()
        .map(|entry| {
            json!({
                "at": entry.at,
                "name": entry.instance.replica.to_string(),
                "run": entry.instance.to_string(),
                "stream": entry.stream,
                "text": cut(&entry.text),
                "partial": entry.partial,
            })
        })
        .collect();
    let troubles: Vec<String> = batch.troubles.iter().map(ToString::to_string).collect();
    let told = json!({"lines": lines, "troubles": troubles, "left_out": batch.left_out});
    event("lines", told.to_string().as_bytes())
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let is_boundary = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=LONGEST).rev().find(is_boundary).unwrap_or(0);
    format!("{}…", &text[..end])
}

async fn events(sources: &Sources, shown: Shown, tell: &Tell) -> Result<(), String> {
    let query = EventQuery {
        namespace: shown.namespace,
        pipeline: shown.pipeline,
        component: shown.component,
        tail: Some(EVENTS),
        follow: true,
        ..EventQuery::default()
    };
    let in_words = |error: crate::api::ClientError| error.to_string();
    let mut lines = sources.client.events(&query).await.map_err(in_words)?;
    loop {
        let events: Vec<Event> = lines.several(EVENTS).await.map_err(in_words)?;
        if events.is_empty() {
            return Ok(());
        }
        let json = serde_json::to_vec(&events).expect("events have string keys only");
        if tell.send(event("events", &json)).await.is_err() {
            return Ok(());
        }
        sleep(SPACING).await;
    }
}
