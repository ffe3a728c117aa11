//! What scrapers read: everything that a snapshot says, and how flowctl itself is doing, as metrics.
//!
//! **Expected flow.** The daemon makes one [`Metrics`] beside the owner of the state. Whoever asks
//! (the socket, the address for scrapers, `flowctl metrics`) gets a [`Scrape`] of it.
//!
//! **Guarantees.** It is a reader: the owner of the state never waits for it. The number of series is
//! bounded by what is defined, whatever restarts how often. However many scrape at once, one text is
//! written at a time and shared by those who asked meanwhile, and nothing of it is kept once they
//! have it.
//!
//! **What it does not do.** It listens on nothing, and judges nothing: rules are Prometheus'.

mod families;
mod own;
mod tally;
#[cfg(test)]
mod tests;
mod text;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::driver::logs::Outputs;
use crate::model::{Snapshot, TargetStatus, Timestamp};
use crate::reconciler::{ReconcilerHandle, VitalFigures};
use crate::usage::Usages;

pub use text::Format;

use own::{Process, Requests};
use tally::{Tally, Tallying, Whose};

/// One that was written so long ago answers whoever asks now: a storm of scrapers costs what ten a
/// second cost.
const FRESH: Duration = Duration::from_millis(100);

/// Metrics as text.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// How they are written.
    pub format: Format,
    /// The text.
    pub text: Arc<String>,
}

/// A text that was written, and when.
type Latest = (Instant, Weak<String>);

/// The metrics of a running daemon.
#[derive(Debug)]
pub struct Metrics {
    owner: ReconcilerHandle,
    clock: Clock,
    tallying: Tallying,
    requests: std::sync::Mutex<Requests>,
    outputs: Arc<std::sync::Mutex<Outputs>>,
    /// The latest text of each form, as long as somebody is being sent it.
    latest: [Mutex<Option<Latest>>; 2],
}

impl Metrics {
    /// Begins to count. Needs a runtime. What components write lies below `logs`.
    pub fn new(owner: ReconcilerHandle, clock: Clock, logs: PathBuf) -> Self {
        let tallying = Tallying::default();
        tokio::spawn(tallying.clone().follow(owner.events(), owner.snapshots()));
        Self {
            owner,
            clock,
            tallying,
            requests: Default::default(),
            outputs: Arc::new(std::sync::Mutex::new(Outputs::new(logs))),
            latest: Default::default(),
        }
    }

    /// Counts a request to the socket that was answered: by which route, with which HTTP status.
    pub fn answered(&self, route: &'static str, status: u16) {
        *self.requests().entry((route, status)).or_default() += 1;
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The metrics as they are now. `usages` is what instances use; `told` is how those do who are
    /// told of what is wrong; `connections` is how many the control plane has, where it is ours.
    pub async fn scrape(
        &self,
        format: Format,
        told: Vec<TargetStatus>,
        connections: Option<usize>,
        usages: impl Future<Output = Arc<Usages>>,
    ) -> Scrape {
        let place = match format {
            Format::Classic => &self.latest[0],
            Format::OpenMetrics => &self.latest[1],
        };
        // Whoever asks meanwhile waits for this one.
        let mut latest = place.lock().await;
        if let Some((at, text)) = &*latest
            && at.elapsed() < FRESH
            && let Some(text) = text.upgrade()
        {
            return Scrape { format, text };
        }
        let usages = usages.await;
        let snapshot = self.owner.snapshots().borrow().clone();
        let (tallying, vitals) = (self.tallying.clone(), self.owner.vitals());
        let requests = self.requests().clone();
        let now = self.clock.now();
        let outputs = Arc::clone(&self.outputs);
        let writing = tokio::task::spawn_blocking(move || {
            let tally = tallying.seen(&snapshot);
            let there: HashSet<Whose> = families::whose(&snapshot).collect();
            vitals.keep(|whose| there.contains(whose));
            let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
            outputs.look(there.into_iter(), now);
            let living = Living {
                tally,
                usages: &usages,
                outputs: &outputs,
                told,
                connections,
                vitals: vitals.figures(),
                process: Process::read(),
                requests,
            };
            write(&snapshot, Some(&living), format, now)
        });
        let text = match writing.await {
            Ok(text) => Arc::new(text),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        *latest = Some((Instant::now(), Arc::downgrade(&text)));
        Scrape { format, text }
    }
}

/// What only a daemon that runs can tell.
struct Living<'a> {
    tally: Tally,
    usages: &'a Usages,
    outputs: &'a Outputs,
    told: Vec<TargetStatus>,
    connections: Option<usize>,
    vitals: VitalFigures,
    process: Process,
    requests: Requests,
}

/// The metrics of a snapshot that no daemon vouches for.
pub fn of_snapshot(snapshot: &Snapshot, format: Format) -> Scrape {
    let now = Timestamp::default();
    Scrape {
        format,
        text: Arc::new(write(snapshot, None, format, now)),
    }
}

fn write(
    snapshot: &Snapshot,
    living: Option<&Living<'_>>,
    format: Format,
    now: Timestamp,
) -> String {
    let rows = families::Rows::of(snapshot, living.map(|living| living.usages));
    let mut text = text::Text::new(format, rows.expected());
    own::write_build(&mut text);
    if let Some(daemon) = &snapshot.daemon {
        own::write_daemon(daemon, &mut text);
    }
    rows.write(living.map(|living| &living.tally), &mut text);
    if let Some(living) = living {
        rows.write_output(living.outputs, &mut text);
        rows.write_probes(&living.vitals, &mut text);
        families::write_events(&living.tally, &mut text);
        own::write_told(&living.told, &mut text);
        own::write_vitals(&living.vitals, now, &mut text);
        own::write_connections(living.connections, &mut text);
        own::write_requests(&living.requests, &mut text);
        if let Some(daemon) = &snapshot.daemon {
            own::write_process(&living.process, daemon.started_at, &mut text);
        }
    }
    text.end()
}
