//! What is open beside the table, read as long as it is looked at.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::api::{Client, ClientError, EventQuery, Heard, LogBatch, LogParams, NewestLines};
use crate::clock::Clock;
use crate::graph::tree;
use crate::model::{
    ComponentId, ComponentStatus, Event, Generation, PipelineKey, Snapshot, Timestamp,
};

use super::page::{EventPage, LogPage};
use super::state::{Content, View, World};

/// What tells, in text, why a component is in its state.
pub type Describe = fn(
    Client,
    Arc<Snapshot>,
    PipelineKey,
    ComponentId,
    Timestamp,
) -> BoxFuture<'static, Result<String, String>>;

/// Lines of one component's log that are shown at first.
const TAIL: u64 = 500;
/// The same of each component where several are merged.
const MERGED_TAIL: u64 = 100;
/// Lines that are taken at once.
const AT_ONCE: usize = 200;
/// Between two batches of lines.
const SPACING: Duration = Duration::from_millis(100);
/// The same where more is written than anybody reads.
const FLOODED: Duration = Duration::from_millis(250);
/// Events that are shown at first.
const EVENTS: usize = 500;
/// Between two measurements of what replicas use.
const MEASURE: Duration = Duration::from_secs(2);
/// Reasons are told again no more often than this,
const WHY_SPACING: Duration = Duration::from_secs(1);
/// and at least this often, since they tell of times.
const WHY_AGAIN: Duration = Duration::from_secs(10);

/// News of what is open.
#[derive(Debug)]
pub enum Told {
    /// What there is.
    Content(Content),
    /// More lines.
    Lines(LogBatch),
    /// More events.
    Events(Vec<Event>),
    /// Why there is no more.
    Trouble(String),
}

/// Adds what was told to what is known.
pub fn add(world: &mut World, told: Told) {
    match (told, &mut world.content) {
        (Told::Content(content), _) => {
            world.content = content;
            world.trouble = None;
        }
        (Told::Lines(batch), Content::Logs(page)) => page.add(batch),
        (Told::Events(events), Content::Events(page)) => page.add(events),
        (Told::Trouble(why), _) => world.trouble = Some(why),
        // Of a page that has gone.
        (Told::Lines(_) | Told::Events(_), _) => {}
    }
}

/// What every feed needs.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Who is asked.
    pub client: Client,
    /// What time it is.
    pub clock: Clock,
    /// What runs.
    pub heard: watch::Receiver<Heard>,
    /// Tells reasons.
    pub describe: Describe,
}

/// A feed that runs until it is dropped.
#[derive(Debug)]
pub struct Feed {
    /// What is looked at, over which connection.
    pub of: (View, u64),
    news: mpsc::Receiver<Told>,
    task: Option<AbortHandle>,
}

impl Feed {
    /// Begins to read what `view` shows.
    pub fn open(sources: Sources, view: View, epoch: u64) -> Self {
        let (tell, news) = mpsc::channel(4);
        let task = (view != View::Table).then(|| {
            let view = view.clone();
            tokio::spawn(async move {
                if let Err(error) = read(&sources, view, &tell).await {
                    // Nobody listens: it is closed.
                    tell.send(Told::Trouble(error)).await.ok();
                }
            })
            .abort_handle()
        });
        Self {
            of: (view, epoch),
            news,
            task,
        }
    }

    /// What comes next; never, once there is no more. Cancel-safe.
    pub async fn next(&mut self) -> Told {
        match self.news.recv().await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

type Tell = mpsc::Sender<Told>;

async fn read(sources: &Sources, view: View, tell: &Tell) -> Result<(), String> {
    match view {
        View::Table => Ok(()),
        View::Logs(pipeline, component) => logs(sources, pipeline, component, tell).await,
        View::Why(pipeline, component) => why(sources, pipeline, component, tell).await,
        View::Events(about) => events(sources, about, tell).await,
        View::Graph(pipeline) => graph(sources, pipeline, tell).await,
        View::Top => usage(sources, tell).await,
    }
}

fn in_words(error: ClientError) -> String {
    error.to_string()
}

async fn logs(
    sources: &Sources,
    pipeline: PipelineKey,
    component: Option<ComponentId>,
    tell: &Tell,
) -> Result<(), String> {
    let tail = if component.is_some() {
        TAIL
    } else {
        MERGED_TAIL
    };
    let components = component.as_ref().map(ToString::to_string);
    let components = components.unwrap_or_default();
    let params = LogParams {
        defined: component.is_none(),
        tail: Some(tail),
        follow: true,
        ..LogParams::of(&pipeline, components)
    };
    let (client, clock) = (sources.client.clone(), sources.clock.clone());
    let opened = NewestLines::open(client, params, AT_ONCE, clock).await;
    let mut lines = opened.map_err(in_words)?;
    let empty = Told::Content(Content::Logs(LogPage::default()));
    if tell.send(empty).await.is_err() {
        return Ok(());
    }
    while let Some(batch) = lines.next().await.map_err(in_words)? {
        let is_flooded = batch.left_out;
        if tell.send(Told::Lines(batch)).await.is_err() {
            return Ok(());
        }
        sleep(if is_flooded { FLOODED } else { SPACING }).await;
    }
    Ok(())
}

async fn events(
    sources: &Sources,
    about: Option<(PipelineKey, Option<ComponentId>)>,
    tell: &Tell,
) -> Result<(), String> {
    let (pipeline, component) = about.unzip();
    let query = EventQuery {
        namespace: pipeline.as_ref().map(|key| key.namespace.clone()),
        pipeline: pipeline.map(|key| key.name),
        component: component.flatten(),
        tail: Some(EVENTS),
        follow: true,
        ..EventQuery::default()
    };
    let mut lines = sources.client.events(&query).await.map_err(in_words)?;
    let empty = Told::Content(Content::Events(EventPage::default()));
    if tell.send(empty).await.is_err() {
        return Ok(());
    }
    loop {
        let events: Vec<Event> = lines.several(EVENTS).await.map_err(in_words)?;
        if events.is_empty() {
            return Ok(());
        }
        if tell.send(Told::Events(events)).await.is_err() {
            return Ok(());
        }
        sleep(SPACING).await;
    }
}

async fn usage(sources: &Sources, tell: &Tell) -> Result<(), String> {
    loop {
        let written = sources.client.usage_text().await.map_err(in_words)?;
        let snapshot: Snapshot =
            serde_json::from_slice(&written).map_err(|error| error.to_string())?;
        let content = Content::Usage(Arc::new(snapshot));
        if tell.send(Told::Content(content)).await.is_err() {
            return Ok(());
        }
        sleep(MEASURE).await;
    }
}

/// The status of a component.
fn component_of<'a>(
    snapshot: &'a Snapshot,
    pipeline: &PipelineKey,
    component: &ComponentId,
) -> Option<&'a ComponentStatus> {
    let mut pipelines = snapshot.pipelines.iter();
    let of =
        pipelines.find(|one| one.name == pipeline.name && one.namespace == pipeline.namespace)?;
    of.components.iter().find(|one| one.id == *component)
}

async fn why(
    sources: &Sources,
    pipeline: PipelineKey,
    component: ComponentId,
    tell: &Tell,
) -> Result<(), String> {
    let mut heard = sources.heard.clone();
    let mut told: Option<ComponentStatus> = None;
    let mut is_due = true;
    loop {
        let snapshot = heard.borrow_and_update().snapshot.clone();
        if let Some(snapshot) = snapshot {
            let now = component_of(&snapshot, &pipeline, &component).cloned();
            if is_due || now != told {
                let (of, id) = (pipeline.clone(), component.clone());
                let at = sources.clock.now();
                let described = (sources.describe)(sources.client.clone(), snapshot, of, id, at);
                let text = described.await?;
                let lines = text.lines().map(str::to_owned).collect();
                let content = Content::Why(lines);
                if tell.send(Told::Content(content)).await.is_err() {
                    return Ok(());
                }
                told = now;
                sleep(WHY_SPACING).await;
            }
        }
        // Cancel-safe: both only wait.
        tokio::select! {
            changed = heard.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                is_due = false;
            }
            () = sleep(WHY_AGAIN) => is_due = true,
        }
    }
}

async fn graph(sources: &Sources, pipeline: PipelineKey, tell: &Tell) -> Result<(), String> {
    let mut heard = sources.heard.clone();
    let mut told: Option<Option<Generation>> = None;
    loop {
        let generation = heard.borrow_and_update().snapshot.as_ref().and_then(|one| {
            let mut pipelines = one.pipelines.iter();
            let of = pipelines.find(|one| one.key() == pipeline)?;
            Some(of.generation)
        });
        if told != Some(generation) {
            let spec = sources.client.definition(&pipeline).await;
            let content = Content::Graph(tree(&spec.map_err(in_words)?));
            if tell.send(Told::Content(content)).await.is_err() {
                return Ok(());
            }
            told = Some(generation);
        }
        if heard.changed().await.is_err() {
            return Ok(());
        }
    }
}
