//! The task that asks every probe when it is due.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::future::{AbortHandle, Abortable, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::failpoint;
use crate::model::{InstanceId, ProbeOutcome};

use super::schedule::{Ask, Schedule, Slot, Watched};
use super::{AskError, Report};

/// So many asks are under way at once, over all instances.
pub const MAX_ASKS: usize = 16;

/// Owns the schedule of all probes and asks them. Runs until its handle is dropped.
#[derive(Debug)]
pub struct Prober {
    wishes: mpsc::UnboundedReceiver<Wish>,
    reports: mpsc::Sender<Report>,
    schedule: Schedule,
}

/// Says what is to be probed. Every call is idempotent and takes effect at once.
#[derive(Clone, Debug)]
pub struct ProberHandle {
    wishes: mpsc::UnboundedSender<Wish>,
}

#[derive(Debug)]
enum Wish {
    All(BTreeMap<InstanceId, Watched>),
    Watch(InstanceId, Box<Watched>),
    Forget(InstanceId),
}

impl ProberHandle {
    /// Makes `wanted` the whole set of instances that are probed.
    pub fn set(&self, wanted: BTreeMap<InstanceId, Watched>) {
        self.wish(Wish::All(wanted));
    }

    /// Probes one instance, or takes over what changed of it: its probes, its stage, its target.
    /// Costs little when nothing did.
    pub fn watch(&self, instance: InstanceId, watched: Watched) {
        self.wish(Wish::Watch(instance, Box::new(watched)));
    }

    /// Stops probing one instance. An ask that is under way ends unheard.
    pub fn forget(&self, instance: InstanceId) {
        self.wish(Wish::Forget(instance));
    }

    fn wish(&self, wish: Wish) {
        if self.wishes.send(wish).is_err() {
            tracing::debug!("the prober has ended; nothing is probed any more");
        }
    }
}

impl Prober {
    /// A prober that sends what it learns to `reports`, and how to tell it what to ask.
    pub fn new(reports: mpsc::Sender<Report>) -> (Self, ProberHandle) {
        let (sender, wishes) = mpsc::unbounded_channel();
        let prober = Self {
            wishes,
            reports,
            schedule: Schedule::default(),
        };
        (prober, ProberHandle { wishes: sender })
    }

    /// Asks until every handle is dropped, or nobody reads the reports.
    pub async fn run(self) {
        self.run_with(
            |ask: Ask| async move { super::ask(&ask.check, &ask.target, ask.timeout).await },
        )
        .await;
    }

    /// As [`Prober::run`], with the answers of `question`.
    pub(super) async fn run_with<F>(self, question: impl Fn(Ask) -> F)
    where
        F: Future<Output = Answer>,
    {
        let Self {
            mut wishes,
            reports,
            mut schedule,
        } = self;
        let mut asks = Asks {
            running: FuturesUnordered::new(),
            aborts: HashMap::new(),
            troubled: None,
        };
        let mut outbox = VecDeque::new();
        loop {
            failpoint::reach("prober");
            // Reports that nobody takes hold new asks up, not memory.
            if outbox.len() < MAX_ASKS {
                let room = MAX_ASKS - asks.running.len();
                for ask in schedule.take_due(Instant::now(), room) {
                    asks.begin(ask.slot, guarded(ask.slot, question(ask)));
                }
            }
            let may_ask = asks.running.len() < MAX_ASKS && outbox.len() < MAX_ASKS;
            let next = schedule.next().filter(|_| may_ask);
            // Every arm is cancel-safe: a wish, an ended ask and a permit are taken only by the
            // arm that wins.
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => asks.abandon(&wish.fulfil(&mut schedule)),
                    None => return,
                },
                Some(ended) = asks.running.next() => {
                    // An abandoned one has nothing to say.
                    if let Ok((slot, answer)) = ended {
                        asks.end(slot, answer.as_ref().err());
                        outbox.extend(schedule.answered(slot, answer, Instant::now()));
                    }
                }
                permit = reports.reserve(), if !outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(report) = outbox.pop_front() {
                        permit.send(report);
                    },
                    Err(_) => return,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }
}

impl Wish {
    /// Takes it over into the schedule, and answers the slots that ended.
    fn fulfil(self, schedule: &mut Schedule) -> Vec<Slot> {
        let now = Instant::now();
        match self {
            Self::All(wanted) => schedule.set(wanted, now),
            Self::Watch(instance, watched) => schedule.watch(instance, *watched, now),
            Self::Forget(instance) => schedule.forget(&instance),
        }
    }
}

type Answer = Result<ProbeOutcome, AskError>;

/// The asks that are under way. They live in the prober's own task: waking another thread would
/// cost as much as asking.
struct Asks<F> {
    running: FuturesUnordered<Abortable<F>>,
    aborts: HashMap<Slot, AbortHandle>,
    /// Whether the last ask met trouble of our own: told once, not with every ask.
    troubled: Option<AskError>,
}

impl<F: Future<Output = (Slot, Answer)>> Asks<F> {
    fn begin(&mut self, slot: Slot, question: F) {
        let (abort, registration) = AbortHandle::new_pair();
        self.running.push(Abortable::new(question, registration));
        self.aborts.insert(slot, abort);
    }

    /// Ends the asks of these slots. They make room when they are gone.
    fn abandon(&mut self, ended: &[Slot]) {
        for abort in ended.iter().filter_map(|slot| self.aborts.remove(slot)) {
            abort.abort();
        }
    }

    /// Notes that an ask ended, and whether that was our own trouble.
    fn end(&mut self, slot: Slot, trouble: Option<&AskError>) {
        self.aborts.remove(&slot);
        match trouble {
            Some(error @ AskError::NotSeen { .. }) => {
                tracing::debug!(%error, "probe not asked yet");
                return;
            }
            Some(error) if self.troubled.as_ref() != trouble => {
                tracing::warn!(%error, "probe not asked");
            }
            Some(_) | None => {}
        }
        self.troubled = trouble.cloned();
    }
}

/// An ask with its slot. A bug in one ask must not silence all probes, so a panic is its answer.
async fn guarded(slot: Slot, question: impl Future<Output = Answer>) -> (Slot, Answer) {
    let caught = AssertUnwindSafe(question).catch_unwind().await;
    (slot, caught.unwrap_or(Err(AskError::Panicked)))
}
