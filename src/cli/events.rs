//! `flowctl events`.

use super::Context;
use super::args::{Events, TextOrJson};
use super::exit::{Exit, Failure};
use super::out::tell;
use super::reader;
use super::status::ended;
use super::target::{Named, either, labelled};
use super::text::{Style, Tone, clean, event_place, event_tone, paint};
use crate::api::{ClientError, EventQuery};
use crate::model::{Event, Snapshot};

/// So many events are shown on a terminal, unless something says which.
const ON_A_TERMINAL: usize = 50;

pub(super) async fn run(cx: &mut Context<'_>, args: Events) -> Result<Exit, Failure> {
    // What goes on needs a daemon; what happened is kept.
    let snapshot = if args.follow {
        cx.client.status().await?
    } else {
        reader::status(cx).await?
    };
    let snapshot = labelled(snapshot, &args.labels)?;
    let mut query = query(cx, &args, &snapshot)?;
    let says_which = args.tail.is_some() || args.since.is_some() || args.all;
    if !says_which && cx.out.is_terminal() && args.output == TextOrJson::Text {
        tell(&format!(
            "note: the last {ON_A_TERMINAL} events; --all shows what else is kept"
        ));
        query.tail = Some(ON_A_TERMINAL);
    }
    // The newest of those that are meant are picked here.
    let is_picked = !args.labels.is_empty() && !args.follow;
    if let Some(tail) = query.tail.take_if(|_| is_picked) {
        return last_labelled(cx, &args, &snapshot, query, tail).await;
    }
    let mut lines = cx.client.events(&query).await?;
    let style = cx.out.look().style;
    while let Some(written) = lines.next().await? {
        if !args.labels.is_empty() && !is_of(&snapshot, &understood(cx, &written)?) {
            continue;
        }
        match args.output {
            TextOrJson::Json => cx.out.line(&written)?,
            TextOrJson::Text => {
                let event = understood(cx, &written)?;
                cx.out.put(&line(&event, style))?;
            }
        }
        if args.follow {
            cx.out.flush()?;
        }
    }
    if args.follow {
        return Err(ended(cx));
    }
    Ok(Exit::Done)
}

/// The last `tail` events of pipelines that are in `snapshot`.
async fn last_labelled(
    cx: &mut Context<'_>,
    args: &Events,
    snapshot: &Snapshot,
    query: EventQuery,
    tail: usize,
) -> Result<Exit, Failure> {
    let mut events = cx.client.kept_events(query).await?;
    events.retain(|event| is_of(snapshot, event));
    let style = cx.out.look().style;
    for event in events.iter().skip(events.len().saturating_sub(tail)) {
        match args.output {
            TextOrJson::Json => {
                let json = serde_json::to_vec(event).expect("an event has string keys only");
                cx.out.line(&json)?;
            }
            TextOrJson::Text => cx.out.put(&line(event, style))?,
        }
    }
    Ok(Exit::Done)
}

fn understood(cx: &Context<'_>, written: &[u8]) -> Result<Event, Failure> {
    serde_json::from_slice(written).map_err(|error| {
        Failure::Daemon(ClientError::Broken {
            state_dir: cx.state_dir.clone(),
            question: "/v1/events".to_owned(),
            why: error.to_string(),
        })
    })
}

/// Whether an event is of a pipeline that is in `snapshot`.
fn is_of(snapshot: &Snapshot, event: &Event) -> bool {
    let mut pipelines = snapshot.pipelines.iter();
    pipelines.any(|status| {
        event.namespace.as_ref() == Some(&status.namespace)
            && event.pipeline.as_ref() == Some(&status.name)
    })
}

fn query(cx: &Context<'_>, args: &Events, snapshot: &Snapshot) -> Result<EventQuery, Failure> {
    let mut query = EventQuery {
        since: args.since.map(|moment| moment.from(cx.clock.now())),
        namespace: cx.global.namespace.clone(),
        tail: args.tail,
        follow: args.follow,
        ..EventQuery::default()
    };
    if let Some(name) = &args.name {
        let pipeline = match either(snapshot, cx.global.namespace.as_ref(), name)? {
            Named::Pipeline(pipeline) => pipeline,
            Named::Component(target) => {
                query.component = Some(target.component);
                target.pipeline
            }
        };
        query.namespace = Some(pipeline.namespace);
        query.pipeline = Some(pipeline.name);
    }
    Ok(query)
}

/// An event as people read it: when, where, what, in a sentence. Pure.
pub(super) fn line(event: &Event, style: Style) -> String {
    let kind = format!("{:<13}", event.kind);
    format!(
        "{}  {}  {:<24}  {}\n",
        paint(&event.at.to_string(), Tone::Dim, style),
        paint(&kind, event_tone(event.kind), style),
        event_place(event),
        clean(&event.message),
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::ago;
    use super::*;
    use crate::model::{EventKind, Namespace};

    #[test]
    fn an_event_tells_when_where_and_what() {
        let mut event = Event {
            seq: 7,
            at: ago(0),
            namespace: Some(Namespace::default()),
            pipeline: "ttp".parse().ok(),
            component: "ttp-processor".parse().ok(),
            replica: Some(1),
            instance: None,
            kind: EventKind::Exited,
            reason: "exit 1".to_owned(),
            message: "exit 1 after 3s\x07".to_owned(),
            ended_by: None,
        };
        let mut text = line(&event, Style::Plain);
        event.component = None;
        event.namespace = "lab".parse().ok();
        text += &line(&event, Style::Plain);
        (event.namespace, event.pipeline) = (None, None);
        text += &line(&event, Style::Plain);
        insta::assert_snapshot!(text, @r"
        2026-11-21T02:43:00.000Z  exited         ttp/ttp-processor-1       exit 1 after 3s\u{7}
        2026-11-21T02:43:00.000Z  exited         lab/ttp                   exit 1 after 3s\u{7}
        2026-11-21T02:43:00.000Z  exited         daemon                    exit 1 after 3s\u{7}
        ");
    }
}
