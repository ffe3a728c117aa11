//! What all pages are told: the daemon is followed once, and each snapshot written once.

use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::watch;

use crate::api::{Client, Heard, Link, follow};
use crate::clock::Clock;

/// Pages are told of snapshots no more often than this; those between two are skipped.
const SPACING: Duration = Duration::from_millis(500);

/// What a page is told, as it is written to a stream of events.
#[derive(Clone, Debug)]
pub struct News {
    /// Whether the daemon answers.
    pub link: Bytes,
    /// What it told last.
    pub status: Option<Bytes>,
}

/// Follows the daemon as long as somebody listens.
pub fn start(client: Client, clock: Clock) -> watch::Receiver<News> {
    let mut heard = follow(client, clock, Heard::nothing());
    let (tell, news) = watch::channel(written(&heard.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            // Cancel-safe: both only wait.
            tokio::select! {
                changed = heard.changed() => if changed.is_err() {
                    return;
                },
                () = tell.closed() => return,
            }
            let now = written(&heard.borrow_and_update());
            tell.send_replace(now);
            tokio::time::sleep(SPACING).await;
        }
    });
    news
}

fn written(heard: &Heard) -> News {
    let link = match &heard.link {
        Link::Waiting | Link::Alone => serde_json::json!({"state": "waiting"}),
        Link::Answers => serde_json::json!({"state": "answers"}),
        Link::Lost { since, why } => {
            serde_json::json!({"state": "lost", "since": since, "why": why})
        }
    };
    let status = heard.snapshot.as_ref().map(|snapshot| {
        let json = serde_json::to_vec(&**snapshot).expect("a snapshot has string keys only");
        event("status", &json)
    });
    News {
        link: event("link", link.to_string().as_bytes()),
        status,
    }
}

/// An event of a stream. `json` is one line, as our JSON is.
pub fn event(name: &str, json: &[u8]) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    text.extend_from_slice(json);
    text.extend_from_slice(b"\n\n");
    text.into()
}
