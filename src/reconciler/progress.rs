//! Whose work is looked at, what it shows, and what follows from that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    ComponentSpec, EventKind, InstanceId, Phase, Progress, ProgressStatus, ReplicaKey, Stalled,
    StopCause, Timestamp, Watches,
};
use crate::planner::progress::{self, Judgement, Shown, Work, Works};

use super::core::Core;
use super::ledger::Ledger;
use super::pipeline::Pipeline;
use super::registry::Registry;

/// What changed about who looks at the work of one instance; `None` = nobody does any more.
pub type WatchingChange = (InstanceId, Option<Arc<ComponentSpec>>);

/// The work of a pipeline's running instances.
#[derive(Debug, Default)]
pub(super) struct Working {
    works: Works,
    /// How that of each is looked at.
    watched: BTreeMap<InstanceId, Progress>,
    /// What has changed about that since it was last asked.
    changes: Vec<WatchingChange>,
    wake_at: Option<Timestamp>,
}

impl Working {
    /// Whether somebody may stand still for too long by now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.wake_at.is_some_and(|at| at <= now)
    }

    /// When somebody may.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wake_at
    }

    /// Every time that is remembered, to be moved along with the clock.
    pub fn each_time(&mut self, change: &dyn Fn(&mut Timestamp)) {
        let works = self.works.values_mut();
        works.for_each(|work| work.each_time(change));
        self.wake_at.iter_mut().for_each(change);
    }

    /// What changed since the last call about whose work is looked at where it runs.
    pub fn changes(&mut self) -> Vec<WatchingChange> {
        std::mem::take(&mut self.changes)
    }

    /// What readers see of the work of a replica; `started` is when its program was.
    pub fn status(&self, key: &ReplicaKey, started: Timestamp) -> Option<ProgressStatus> {
        let work = self.works.get(key)?;
        let progress = self.watched.get(work.instance())?;
        Some(work.status(progress, started))
    }

    /// Looks at the work of `instance` from now on as `spec` says.
    fn watch(
        &mut self,
        instance: &InstanceId,
        kept: Option<Stalled>,
        spec: &ComponentSpec,
        now: Timestamp,
    ) {
        let Some(wanted) = &spec.progress else { return };
        let before = self.watched.insert(instance.clone(), wanted.clone());
        let work = self.works.get_mut(&instance.replica);
        if let (Some(before), Some(work)) = (before, work)
            && before.watches == wanted.watches
        {
            if before != *wanted {
                work.judged_anew();
            }
            return;
        }
        let work = Work::new(instance.clone(), kept, now);
        self.works.insert(instance.replica.clone(), work);
        match wanted.watches {
            // Heartbeats come by themselves.
            Watches::Metric(_) => self.changes.push((instance.clone(), None)),
            Watches::Output | Watches::Http { .. } => {
                let spec = Arc::new(spec.clone());
                self.changes.push((instance.clone(), Some(spec)));
            }
        }
    }

    /// Looks at the work of these only.
    fn keep(&mut self, wanted: &dyn Fn(&InstanceId) -> bool) {
        self.works.retain(|_, work| wanted(work.instance()));
        let gone = self.watched.keys().filter(|id| !wanted(id)).cloned();
        for id in gone.collect::<Vec<_>>() {
            self.watched.remove(&id);
            self.changes.push((id, None));
        }
    }
}

impl Core {
    /// Takes in what an instance shows of its work.
    pub(super) fn shown(&mut self, id: &InstanceId, shown: Shown) {
        let now = self.ledger.now;
        let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) else {
            return;
        };
        let started = pipeline.started(&id.replica);
        let work = pipeline.working.works.get_mut(&id.replica);
        let (Some(work), Some(started)) = (work.filter(|work| work.instance() == id), started)
        else {
            return;
        };
        match shown {
            // The last line of the run before it.
            Shown::Written(at) if at < started => return,
            Shown::Written(_) | Shown::Value(_) | Shown::Nothing(_) => work.shows(shown, now),
        }
        pipeline.restate = true;
    }

    /// Judges how the work of a pipeline gets on.
    pub(super) fn judge_work(&mut self, pipeline: &mut Pipeline) {
        pipeline.follow_work(&self.registry, self.ledger.now);
        pipeline.judge_work(&mut self.ledger);
    }
}

impl Pipeline {
    /// When the program of a replica was started that runs.
    fn started(&self, key: &ReplicaKey) -> Option<Timestamp> {
        match self.records.get(key)?.instance.as_ref()?.phase {
            Phase::Running { since, .. } => Some(since),
            Phase::Starting { .. } | Phase::Stopping { .. } => None,
        }
    }

    /// Looks at the work of whoever runs as its file wants it, and at nobody else's.
    fn follow_work(&mut self, registry: &Registry, now: Timestamp) {
        let is_asked_for = self.desired.in_order().any(|spec| spec.progress.is_some());
        if !is_asked_for && self.working.watched.is_empty() {
            return;
        }
        let mut wanted = Vec::new();
        for (key, record) in &self.records {
            let (Some(spec), Some(instance)) = (self.desired.wants(key), &record.instance) else {
                continue;
            };
            let is_condemned = match &instance.phase {
                Phase::Running { health, .. } => health.condemned.is_some(),
                Phase::Starting { .. } | Phase::Stopping { .. } => continue,
            };
            if instance.spec == spec.hash && !is_condemned && spec.progress.is_some() {
                wanted.push((instance.id.clone(), instance.stalled.clone(), spec.clone()));
            }
        }
        self.working
            .keep(&|id| wanted.iter().any(|(wanted, ..)| wanted == id));
        for (id, stalled, spec) in wanted {
            self.working.watch(&id, stalled, &spec, now);
            let Some(work) = self.working.works.get_mut(&id.replica) else {
                continue;
            };
            let Some(Watches::Metric(name)) = spec.progress.as_ref().map(|it| &it.watches) else {
                work.seen_from(registry.attentive_since());
                continue;
            };
            let registered = self.registrations.get(&id);
            work.seen_from(registry.figures_seen_from(registered.map(Arc::as_ref)));
            if let Some(figure) = registered.and_then(|one| one.metrics.get(name)) {
                let at = registered.and_then(|one| one.last_heartbeat).unwrap_or(now);
                work.shows(Shown::Value(figure.to_string()), at.min(now));
            }
        }
    }

    fn judge_work(&mut self, ledger: &mut Ledger) {
        let Judgement { restarts, wake_at } = progress::judge(
            &mut self.working.works,
            &self.desired,
            &self.records,
            ledger.now,
        );
        self.working.wake_at = wake_at;
        self.record_stalls(ledger);
        for (key, why) in restarts {
            self.change(&key, ledger, |record| {
                let instance = record.instance.as_mut();
                if let Some(Phase::Running { health, .. }) = instance.map(|it| &mut it.phase) {
                    health.condemned = Some(StopCause::Stalled(why));
                }
            });
        }
    }

    /// Records stalls that have begun or ended, and tells of them.
    fn record_stalls(&mut self, ledger: &mut Ledger) {
        let mut changed = Vec::new();
        for (key, record) in &self.records {
            let Some(instance) = &record.instance else {
                continue;
            };
            let work = self.working.works.get(key);
            let stalled = work.and_then(Work::stalled).cloned();
            // One that is being replaced keeps what is known of it.
            let is_judged = work.is_some()
                || self
                    .desired
                    .wants(key)
                    .is_none_or(|it| it.progress.is_none());
            if is_judged && stalled != instance.stalled {
                changed.push((key.clone(), instance.id.clone(), stalled));
            }
        }
        for (key, id, stalled) in changed {
            let told = self.work_told(&key, stalled.as_ref());
            self.change(&key, ledger, |record| {
                if let Some(instance) = &mut record.instance {
                    instance.stalled = stalled;
                }
            });
            if let Some((kind, reason, message)) = told {
                self.emit(ledger, &key, Some(&id), kind, reason, message);
            }
        }
    }

    /// The event that a stall has begun, or is over; `None` where nobody looks any more.
    fn work_told(
        &self,
        key: &ReplicaKey,
        stalled: Option<&Stalled>,
    ) -> Option<(EventKind, String, String)> {
        let status = self.working.status(key, self.started(key)?)?;
        Some(match stalled {
            Some(_) => {
                let message = format!("{key} stands still: {}", status.why);
                (EventKind::Stalled, status.why, message)
            }
            None => {
                let value = status.value.unwrap_or_default();
                let reason = format!("{} is {value}", status.watches);
                (EventKind::Advanced, reason, format!("{key} gets on again"))
            }
        })
    }
}
