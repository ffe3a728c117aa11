//! How the owner itself is doing: what it does, how long that takes, when it last saw everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::model::{
    DriverKind, Durations, PipelineKey, ProbeKind, ProbeOutcome, ReplicaKey, Timestamp,
};
use crate::probe::Report;

/// What the owner has a driver do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// A start.
    Start,
    /// A stop.
    Stop,
    /// The removal of what is left of an ended instance.
    Forget,
}

impl Action {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Forget => "forget",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Success {
    /// It was done.
    Done,
    /// It was not, or nobody knows.
    Failed,
}

impl Success {
    pub(super) fn of<T, E>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(_) => Self::Failed,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// The figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VitalFigures {
    /// Rounds of planning, the hand-over of what they decided included.
    pub rounds: Durations,
    /// Commits, from the moment that they are handed over until they are recorded.
    pub commits: Durations,
    /// Of these, how many were not recorded.
    pub commits_failed: u64,
    /// What drivers were asked to do.
    pub actions: BTreeMap<(Action, Success), u64>,
    /// When each driver last told all that it runs.
    pub seen: BTreeMap<DriverKind, Timestamp>,
    /// Probes that were asked, by which of the three.
    pub probes: BTreeMap<ProbeKind, Durations>,
    /// How many failed, of each replica.
    pub probe_failures: BTreeMap<(PipelineKey, ReplicaKey), BTreeMap<ProbeKind, u64>>,
}

/// The figures while they change. Cheap to clone; a reader holds nobody up for longer than a copy
/// takes.
#[derive(Clone, Debug, Default)]
pub struct Vitals {
    figures: Arc<Mutex<VitalFigures>>,
    looks: Arc<watch::Sender<u64>>,
}

impl Vitals {
    /// The figures as they are now.
    pub fn figures(&self) -> VitalFigures {
        self.lock().clone()
    }

    /// How many times a driver has told all that it runs, at the reconciler's wish.
    pub fn looks(&self) -> watch::Receiver<u64> {
        self.looks.subscribe()
    }

    pub(super) fn round(&self, took: Duration) {
        self.lock().rounds.observe(took);
    }

    pub(super) fn committed(&self, took: Duration, success: Success) {
        let mut figures = self.lock();
        figures.commits.observe(took);
        match success {
            Success::Done => {}
            Success::Failed => figures.commits_failed += 1,
        }
    }

    pub(super) fn did(&self, action: Action, success: Success) {
        *self.lock().actions.entry((action, success)).or_default() += 1;
    }

    pub(super) fn saw_all(&self, driver: DriverKind, at: Timestamp) {
        self.lock().seen.insert(driver, at);
        self.looks.send_modify(|count| *count += 1);
    }

    pub(super) fn probed(&self, report: &Report) {
        let mut figures = self.lock();
        let durations = figures.probes.entry(report.kind).or_default();
        durations.observe(report.took);
        if let ProbeOutcome::Fail(_) = report.outcome {
            let whose = (
                report.instance.pipeline.clone(),
                report.instance.replica.clone(),
            );
            let of_it = figures.probe_failures.entry(whose).or_default();
            *of_it.entry(report.kind).or_default() += 1;
        }
    }

    /// Forgets the failures of replicas that are not `there` any more.
    pub fn keep(&self, there: impl Fn(&(PipelineKey, ReplicaKey)) -> bool) {
        self.lock().probe_failures.retain(|whose, _| there(whose));
    }

    fn lock(&self) -> MutexGuard<'_, VitalFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
