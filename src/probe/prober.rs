//! The task that asks every probe when it is due.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

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
        F: Future<Output = Result<ProbeOutcome, AskError>> + Send + 'static,
    {
        let Self {
            mut wishes,
            reports,
            mut schedule,
        } = self;
        let mut asks = Asks::default();
        let mut outbox = VecDeque::new();
        loop {
            // Reports that nobody takes hold new asks up, not memory.
            while asks.running.len() < MAX_ASKS && outbox.len() < MAX_ASKS {
                let Some(ask) = schedule.take_due(Instant::now()) else {
                    break;
                };
                asks.begin(ask.slot, question(ask));
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
                Some(ended) = asks.running.join_next_with_id() => {
                    if let Some((slot, answer)) = asks.end(ended) {
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

type Ended = Result<(tokio::task::Id, Result<ProbeOutcome, AskError>), JoinError>;

/// The asks that are under way.
#[derive(Default)]
struct Asks {
    running: JoinSet<Result<ProbeOutcome, AskError>>,
    slots: HashMap<tokio::task::Id, (Slot, AbortHandle)>,
    /// Whether the last ask met trouble of our own: told once, not with every ask.
    troubled: Option<AskError>,
}

impl Asks {
    fn begin(
        &mut self,
        slot: Slot,
        question: impl Future<Output = Result<ProbeOutcome, AskError>> + Send + 'static,
    ) {
        let task = self.running.spawn(question);
        self.slots.insert(task.id(), (slot, task));
    }

    /// Ends the asks of these slots. They make room when they are gone.
    fn abandon(&mut self, ended: &[Slot]) {
        for (slot, task) in self.slots.values() {
            if ended.contains(slot) {
                task.abort();
            }
        }
    }

    /// Whose ask ended, and with what.
    fn end(&mut self, ended: Ended) -> Option<(Slot, Result<ProbeOutcome, AskError>)> {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, answer),
            // A bug in one ask must not silence all probes.
            Err(error) if error.is_panic() => (error.id(), Err(AskError::Panicked)),
            Err(error) => {
                self.slots.remove(&error.id());
                return None;
            }
        };
        let troubled = answer.as_ref().err().cloned();
        if let Some(error) = &troubled
            && self.troubled != troubled
        {
            tracing::warn!(%error, "probe not asked");
        }
        self.troubled = troubled;
        let (slot, _) = self.slots.remove(&id)?;
        Some((slot, answer))
    }
}
