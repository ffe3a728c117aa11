//! Following a daemon, over its restarts: its snapshots as they come, and whether it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Client, ClientError};
use super::lines::Lines;
use crate::clock::Clock;
use crate::model::{Snapshot, Timestamp};

/// Snapshots are taken no more often than this; those between two of them are skipped.
const SPACING: Duration = Duration::from_millis(200);
/// Distance between two tries to find a daemon.
const RETRY: Duration = Duration::from_secs(1);
/// A daemon that says nothing is asked this often whether it still answers.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Whether the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It has not been heard of yet.
    Waiting,
    /// It answers.
    Answers,
    /// None runs; what is known was found without one.
    Alone,
    /// It answered once.
    Lost {
        /// Until when.
        since: Timestamp,
        /// Why it does not.
        why: String,
    },
}

/// What is known of the daemon.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What it told last.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Whether it answers.
    pub link: Link,
    /// Grows with each connection, so that what was opened over an earlier one is opened again.
    pub epoch: u64,
}

impl Heard {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self {
            snapshot: None,
            link: Link::Waiting,
            epoch: 0,
        }
    }
}

/// Follows the daemon until nobody listens. `first` is what was known before.
pub fn follow(client: Client, clock: Clock, first: Heard) -> watch::Receiver<Heard> {
    let (tell, heard) = watch::channel(first);
    tokio::spawn(async move {
        let follower = Follower {
            client,
            clock,
            tell,
        };
        // Cancel-safe: it only waits, and nobody reads what it would tell.
        tokio::select! {
            () = follower.run() => {}
            () = follower.tell.closed() => {}
        }
    });
    heard
}

struct Follower {
    client: Client,
    clock: Clock,
    tell: watch::Sender<Heard>,
}

impl Follower {
    async fn run(&self) {
        loop {
            let why = match self.client.watch().await {
                Ok(mut lines) => {
                    self.tell.send_modify(|heard| heard.epoch += 1);
                    self.listen(&mut lines).await
                }
                Err(error) => reason(&error),
            };
            self.lost(why);
            sleep(RETRY).await;
        }
    }

    /// Tells of each snapshot; answers why there are no more.
    async fn listen(&self, lines: &mut Lines) -> String {
        let mut ask_at = Instant::now() + ASK_AGAIN;
        loop {
            // Cancel-safe: a line that is not whole yet stays in `lines`.
            tokio::select! {
                line = lines.decoded::<Snapshot>() => match line {
                    Ok(Some(snapshot)) => {
                        self.tell.send_modify(|heard| {
                            heard.snapshot = Some(Arc::new(snapshot));
                            heard.link = Link::Answers;
                        });
                        sleep(SPACING).await;
                    }
                    Ok(None) => return "it has ended".to_owned(),
                    Err(error) => return reason(&error),
                },
                () = sleep_until(ask_at) => match self.client.version().await {
                    Ok(_) => self.answers(),
                    Err(error @ ClientError::Silent { .. }) => self.lost(reason(&error)),
                    Err(error) => return reason(&error),
                },
            }
            ask_at = Instant::now() + ASK_AGAIN;
        }
    }

    fn answers(&self) {
        self.tell.send_if_modified(|heard| {
            let is_new = heard.link != Link::Answers;
            heard.link = Link::Answers;
            is_new
        });
    }

    /// What was known stays; since when it is old is told.
    fn lost(&self, why: String) {
        let now = self.clock.now();
        self.tell.send_if_modified(|heard| lose(heard, why, now));
    }
}

/// Notes that the daemon does not answer; answers whether that is new.
fn lose(heard: &mut Heard, why: String, now: Timestamp) -> bool {
    match &heard.link {
        Link::Waiting | Link::Alone | Link::Lost { .. } => false,
        Link::Answers => {
            heard.link = Link::Lost { since: now, why };
            true
        }
    }
}

fn reason(error: &ClientError) -> String {
    match error {
        ClientError::NoDaemon { why, .. } => why.clone(),
        ClientError::Silent { .. } => "It runs and says nothing: it may be stopped.".to_owned(),
        ClientError::Broken { .. } => "It has just ended.".to_owned(),
        ClientError::NotOurs { .. } | ClientError::Unwritten { .. } | ClientError::Answer(_) => {
            error.to_string()
        }
    }
}
