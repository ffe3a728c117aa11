//! The host's clock is set, while the daemon runs or while none does.
//!
//! Deadlines are kept as points in time, since they outlive the daemon. When the clock is set, all
//! of them move along, so a step of a day neither fires a backoff nor parks it for a day. What
//! others wrote down by their own clock, a shim or an earlier daemon, is believed at most up to
//! now: nothing has happened in the future.

use crate::model::{Exit, Health, Instance, Life, Phase, Record, Sighting, Timestamp};

use crate::planner::progress;

use super::core::Core;
use super::pipeline::Pipeline;

/// Moves one point in time.
type Move<'a> = &'a dyn Fn(&mut Timestamp);

/// What is to be tried again later than this from now was noted by another clock: a start and a stop
/// are tried again within half of it.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

impl Core {
    /// Takes over that the clock was set: what is remembered moves along, on the disk too.
    pub(super) fn clock_stepped(&mut self, millis: i64) {
        self.shift_own(millis);
        self.registry.shift(millis);
        let shift = |at: &mut Timestamp| *at = at.shifted(millis);
        for pipeline in self.pipelines.values_mut() {
            each_time(pipeline, &shift);
        }
        self.touch_all();
    }

    /// Takes back what was recorded in the future, since the clock was set back while no daemon
    /// ran.
    pub(super) fn clamp_to(&mut self, now: Timestamp) {
        for pipeline in self.pipelines.values_mut() {
            each_time(pipeline, &|at| *at = (*at).min(now.after(LONGEST_WAIT)));
            for record in pipeline.records.values_mut() {
                past(record, &|at| *at = (*at).min(now));
            }
        }
    }
}

/// Every time that decides something about a pipeline.
fn each_time(pipeline: &mut Pipeline, change: Move<'_>) {
    for record in pipeline.records.values_mut() {
        past(record, change);
        let failed = record.instance.as_mut().and_then(retry_at);
        failed.into_iter().for_each(change);
        let unanswered = record.unanswered.as_mut();
        unanswered
            .map(|starts| &mut starts.retry_at)
            .into_iter()
            .for_each(change);
    }
    pipeline.memory.each_time(change);
    pipeline.working.each_time(change);
    for stray in pipeline.strays.values_mut() {
        phase(&mut stray.phase, change);
        retry_at(stray).into_iter().for_each(change);
    }
}

/// Every time of a record that lies in the past.
fn past(record: &mut Record, change: Move<'_>) {
    if let Some(last) = &mut record.history.last {
        exit(&mut last.exit, change);
    }
    for failure in &mut record.history.recent {
        change(&mut failure.at);
        failure.since.iter_mut().for_each(change);
    }
    record.history.crashloop_since.iter_mut().for_each(change);
    record.history.stall_ended_at.iter_mut().for_each(change);
    if let Some(instance) = &mut record.instance {
        let stalled = instance.stalled.iter_mut();
        stalled.for_each(|stalled| progress::each(stalled, change));
        phase(&mut instance.phase, change);
    }
}

fn phase(phase: &mut Phase, change: Move<'_>) {
    match phase {
        Phase::Starting { since, pending } => {
            change(since);
            let waits = pending.iter_mut().map(|pending| &mut pending.since);
            waits.for_each(change);
        }
        Phase::Running {
            since,
            health: Health { ready_changed, .. },
        } => {
            change(since);
            ready_changed.iter_mut().for_each(change);
        }
        Phase::Stopping {
            since, started_at, ..
        } => {
            change(since);
            change(started_at);
        }
    }
}

fn exit(exit: &mut Exit, change: Move<'_>) {
    change(&mut exit.at);
    exit.started_at.iter_mut().for_each(change);
}

/// When a stop that failed is tried again.
fn retry_at(instance: &mut Instance) -> Option<&mut Timestamp> {
    match &mut instance.phase {
        Phase::Stopping { failed, .. } => failed.as_mut().map(|failed| &mut failed.retry_at),
        Phase::Starting { .. } | Phase::Running { .. } => None,
    }
}

/// What a driver saw, with nothing later than `now`.
pub(super) fn not_after(mut seen: Sighting, now: Timestamp) -> Sighting {
    let change = |at: &mut Timestamp| *at = (*at).min(now);
    for earlier in &mut seen.earlier {
        exit(&mut earlier.exit, &change);
    }
    match &mut seen.life {
        Life::Created => {}
        Life::Pending(pending) => change(&mut pending.since),
        Life::Running { since } => change(since),
        Life::Exited(ended)
        | Life::RuntimeRestarted(ended)
        | Life::Disrupted { exit: ended, .. } => exit(ended, &change),
        Life::NotStarted { at, .. } | Life::Lost { at } | Life::HostReboot { at } => change(at),
    }
    seen
}
