//! Taking the planned steps, and the answers to them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::driver::{Began, DriverError, Scope, Started, Stopped};
use crate::model::{
    Action, EndCause, Ended, EngineHealth, EventKind, Exit, Facts, Handle, Health, Hold, InFlight,
    Instance, InstanceId, Pending, Phase, Prober, Reason, Record, Registration, ReplicaKey, Step,
    StopCause, StopFailure, Timestamp,
};
use crate::planner::{self, Observed, health, restart};

use super::core::Core;
use super::ledger::{Effect, Ledger};
use super::pipeline::{Pipeline, started_at};

/// A failed stop is tried again after this long (kubelet's and Nomad's order of magnitude).
pub(super) const STOP_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Whether time alone may change `record`: what runs, was ready and never failed waits for nothing.
fn may_settle(record: &Record) -> bool {
    let Some(Instance {
        phase: Phase::Running { health, .. },
        ..
    }) = &record.instance
    else {
        return false;
    };
    let fulfilled = health.started && health.ready && !health.unregistered;
    let history = &record.history;
    let ended = history.failures > 0 || history.successes > 0 || !history.recent.is_empty();
    !fulfilled || ended
}

impl Core {
    /// Lets time do its part: readiness by age, failures forgotten.
    pub(super) fn settle(&mut self, pipeline: &mut Pipeline) {
        let now = self.ledger.now;
        let desired = pipeline.desired.clone();
        let unsettled: Vec<_> = pipeline
            .records
            .iter()
            .filter(|(_, record)| may_settle(record))
            .map(|(key, _)| key.clone())
            .collect();
        for key in unsettled {
            pipeline.let_start(&key, &mut self.ledger);
            let (Some(spec), Some(record)) = (desired.wants(&key), pipeline.records.get(&key))
            else {
                continue;
            };
            let Some(instance) = &record.instance else {
                continue;
            };
            if let Phase::Running { since, health } = &instance.phase
                && !health.ready
                && health::asked(instance.prober, &spec.probes)
                    .readiness
                    .is_none()
                && let Some(reason) = health::is_due(health, *since, spec.ready_after, now)
            {
                let id = instance.id.clone();
                pipeline.change(&key, &mut self.ledger, |record| {
                    if let Some(Instance {
                        phase: Phase::Running { health, .. },
                        ..
                    }) = &mut record.instance
                    {
                        health.ready = true;
                        health.ready_changed = Some(now);
                        health.why = None;
                    }
                });
                let message = format!("{key} is ready");
                pipeline.emit(
                    &mut self.ledger,
                    &key,
                    Some(&id),
                    EventKind::Ready,
                    reason,
                    message,
                );
            }
            let Some(record) = pipeline.records.get(&key) else {
                continue;
            };
            let reset = record.instance.as_ref().and_then(|instance| {
                restart::reset_at(&record.history, &instance.phase, &spec.restart)
            });
            if reset.is_some_and(|at| at <= now) {
                pipeline.change(&key, &mut self.ledger, |record| {
                    record.history = restart::cleared(&record.history);
                });
            }
        }
        pipeline.dirty = false;
    }

    /// Plans and takes the steps: from here on each stepped replica is busy.
    pub(super) fn decide(&mut self, pipeline: &mut Pipeline) {
        self.need_drivers(pipeline);
        let (mut plan, unwanted) = {
            let observed = Observed {
                records: Cow::Borrowed(&pipeline.records),
                strays: Cow::Borrowed(&pipeline.strays),
                blind: self.blind(pipeline),
                drivers: self.drivers.keys().copied().collect(),
                busy: Cow::Borrowed(&pipeline.busy),
                leaving_elsewhere: Cow::Owned(self.leaving_elsewhere(pipeline)),
                awaited_elsewhere: self.awaited_of(pipeline.key()),
                image_policy_since: self.image_policy_since,
                frozen: self.frozen(),
                next_incarnation: self.ledger.next_seq(),
            };
            let unwanted = planner::unwanted_starts(&pipeline.desired, &observed);
            let unwanted: Vec<InstanceId> = unwanted.cloned().collect();
            let plan = planner::plan(&pipeline.desired, &observed, self.ledger.now);
            (plan, unwanted)
        };
        for instance in unwanted {
            if pipeline.given_up.insert(instance.clone()) {
                self.ledger.effects.push(Effect::GiveUp { instance });
            }
        }
        self.tell_of_holds(pipeline, &plan);
        for step in plan.steps.clone() {
            self.take(pipeline, step);
        }
        // Forgetting is done once it is taken; the other steps are under way now.
        plan.steps.retain(|step| step.action != Action::Forget);
        pipeline.plan = plan;
        pipeline.dirty = false;
    }

    fn take(&mut self, pipeline: &mut Pipeline, step: Step) {
        let Step {
            replica: key,
            action,
            reason,
        } = step;
        match action {
            Action::Forget => {
                pipeline.records.remove(&key);
                self.ledger.touch(pipeline.key(), &key);
            }
            Action::Start { instance } => self.begin_start(pipeline, instance, &reason),
            Action::Stop { instance, cause } => {
                self.begin_stop(pipeline, &instance, &cause, &reason);
            }
        }
    }

    fn begin_start(&mut self, pipeline: &mut Pipeline, id: InstanceId, reason: &Reason) {
        let Some(launch) = pipeline.launch(&id) else {
            return;
        };
        let (key, now) = (id.replica.clone(), self.ledger.now);
        let spec = &launch.spec;
        let instance = Instance {
            id: id.clone(),
            spec: spec.hash.clone(),
            driver: spec.driver(),
            partition: spec.workload.partition(),
            stop: spec.stop,
            after: spec
                .dependencies
                .iter()
                .map(|dependency| dependency.id.clone())
                .collect(),
            holds: Vec::new(),
            stalled: None,
            counted: BTreeSet::new(),
            handle: None,
            facts: Facts::default(),
            prober: Prober::Flowctl,
            phase: Phase::Starting {
                since: now,
                pending: None,
            },
        };
        let released = spec.hash.clone();
        pipeline.change(&key, &mut self.ledger, |record| {
            // A start that came to nothing, because the daemon died or the disk was full, was
            // counted when it was intended: the end that it answers is counted once.
            let is_counted = record
                .history
                .last
                .as_ref()
                .is_some_and(|last| record.incarnation > last.instance.incarnation);
            record.incarnation = id.incarnation;
            record.instance = Some(instance);
            record.released = Some(released);
            match reason {
                Reason::Restart { .. } | Reason::Retry { .. } if is_counted => {}
                // Nothing of it ever ran.
                Reason::Retry { failure, .. } if failure.is_image() => {}
                Reason::Restart { .. } | Reason::Retry { .. } => record.history.restarts += 1,
                // The curve starts over with another definition, or when a person says so.
                Reason::SpecChanged { .. } | Reason::Requested => {
                    record.history = restart::cleared(&record.history);
                }
                Reason::New
                | Reason::UpstreamRecovered { .. }
                | Reason::Interrupted
                | Reason::Stop(_)
                | Reason::StopAgain { .. }
                | Reason::Gone => {}
            }
        });
        pipeline.busy.insert(key.clone(), InFlight::Start);
        pipeline.fresh.insert(id.clone());
        let message = format!("starting {key}");
        let why = reason.to_string();
        pipeline.emit(
            &mut self.ledger,
            &key,
            Some(&id),
            EventKind::Starting,
            why,
            message,
        );
        self.ledger.effects.push(Effect::Start(Box::new(launch)));
    }

    fn begin_stop(
        &mut self,
        pipeline: &mut Pipeline,
        id: &InstanceId,
        cause: &StopCause,
        reason: &Reason,
    ) {
        let (key, now) = (id.replica.clone(), self.ledger.now);
        let stopping = |instance: &mut Instance| {
            let before = instance.phase.clone();
            instance.phase = Phase::Stopping {
                since: match &before {
                    Phase::Stopping { since, .. } => *since,
                    Phase::Starting { .. } | Phase::Running { .. } => now,
                },
                started_at: started_at(&before).unwrap_or(now),
                cause: cause.clone(),
                failed: None,
            };
            (instance.driver, instance.stop, before)
        };
        let begun = match pipeline.strays.get_mut(id) {
            Some(stray) => Some(stopping(stray)),
            None => pipeline.change(&key, &mut self.ledger, |record| {
                record
                    .instance
                    .as_mut()
                    .filter(|instance| instance.id == *id)
                    .map(stopping)
            }),
        };
        let Some((driver, how, before)) = begun else {
            return;
        };
        pipeline.busy.insert(key.clone(), InFlight::Stop);
        let message = format!("stopping {key}");
        let why = reason.to_string();
        pipeline.emit(
            &mut self.ledger,
            &key,
            Some(id),
            EventKind::Stopping,
            why,
            message,
        );
        self.ledger.effects.push(Effect::Stop {
            instance: id.clone(),
            driver,
            how,
            before,
        });
    }

    /// Notes what the starts of instances are at.
    pub(super) fn said(&mut self, said: BTreeMap<InstanceId, String>) {
        for (id, what) in said {
            let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) else {
                continue;
            };
            // A word that comes after the answer is about the past.
            if !pipeline.fresh.contains(&id) || !pipeline.busy.contains_key(&id.replica) {
                continue;
            }
            let key = &id.replica;
            let message = format!("{key}: {what}");
            let kind = EventKind::Preparing;
            pipeline.emit(
                &mut self.ledger,
                key,
                Some(&id),
                kind,
                what.clone(),
                message,
            );
            pipeline.preparing.insert(key.clone(), what);
            pipeline.restate = true;
        }
    }

    pub(super) fn start_answered(&mut self, id: &InstanceId, result: Result<Started, DriverError>) {
        let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) else {
            return;
        };
        let key = id.replica.clone();
        pipeline.busy.remove(&key);
        pipeline.preparing.remove(&key);
        pipeline.given_up.remove(id);
        pipeline.dirty = true;
        let Some(driver) = pipeline
            .records
            .get(&key)
            .and_then(|record| record.instance.as_ref())
            .filter(|instance| instance.id == *id)
            .map(|instance| instance.driver)
        else {
            // It ended, and that was seen, before the answer came.
            return;
        };
        if let Some(looking) = self.drivers.get_mut(&driver) {
            looking.touched(id);
        }
        match result {
            Ok(started) => {
                let told = (started.handle, started.facts);
                let prober = started.prober;
                pipeline.change(&key, &mut self.ledger, |record| {
                    if let Some(instance) = &mut record.instance {
                        instance.prober = prober;
                    }
                });
                let (since, said) = match started.state {
                    Began::Running { since, health } => (since.min(self.ledger.now), health),
                    Began::Pending(pending) => {
                        pipeline.accepted(&key, told, pending, &mut self.ledger);
                        return;
                    }
                };
                let health = pipeline.initial_health(&key, said, self.ledger.now);
                pipeline.change(&key, &mut self.ledger, |record| {
                    record.unanswered = None;
                    if let Some(instance) = &mut record.instance {
                        (instance.handle, instance.facts) = (Some(told.0), told.1);
                        if let Phase::Starting { .. } = instance.phase {
                            instance.phase = Phase::Running { since, health };
                        }
                    }
                });
                let message = format!("{key} runs");
                let why = String::new();
                pipeline.emit(
                    &mut self.ledger,
                    &key,
                    Some(id),
                    EventKind::Started,
                    why,
                    message,
                );
            }
            Err(DriverError::Refused(failure)) => {
                let at = self.ledger.now;
                let spec = pipeline.records.get(&key).and_then(|r| r.instance.as_ref());
                let spec = spec.map(|instance| instance.spec.clone());
                let Some(spec) = spec else { return };
                let exit = Exit::unknown(None, at);
                let cause = EndCause::NotStarted(failure);
                let ended = Ended {
                    instance: id.clone(),
                    spec,
                    exit,
                    cause,
                };
                pipeline.end(&key, ended, &mut self.ledger);
                self.ledger.effects.push(Effect::Forget {
                    instance: id.clone(),
                    driver,
                });
            }
            // It is as if it had not been: what is in the way is no fault of the component.
            Err(DriverError::InTheWay { what }) => {
                let now = self.ledger.now;
                pipeline.fresh.remove(id);
                pipeline.change(&key, &mut self.ledger, |record| {
                    if let Some(Instance { spec, .. }) = record.instance.take() {
                        let before = record.unanswered.as_ref();
                        let starts = restart::in_the_way(before, id, &spec, what, now);
                        record.unanswered = Some(starts);
                    }
                });
                self.ledger.effects.push(Effect::Forget {
                    instance: id.clone(),
                    driver,
                });
            }
            Err(error @ (DriverError::Unreachable { .. } | DriverError::StillAlive { .. })) => {
                let (why, now) = (error.to_string(), self.ledger.now);
                pipeline.change(&key, &mut self.ledger, |record| {
                    let Some(Instance { spec, .. }) = &record.instance else {
                        return;
                    };
                    let before = record.unanswered.as_ref();
                    let starts = restart::unanswered(before, id, spec, why, now);
                    record.unanswered = Some(starts);
                });
                // Whether it runs is open; only a look can tell.
                if let Some(looking) = self.drivers.get_mut(&driver) {
                    looking.want(Scope::Instances([id.clone()].into()));
                }
            }
        }
    }

    pub(super) fn stop_answered(&mut self, id: &InstanceId, result: Result<Stopped, DriverError>) {
        let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) else {
            return;
        };
        let (key, now) = (id.replica.clone(), self.ledger.now);
        pipeline.busy.remove(&key);
        pipeline.dirty = true;
        let is_stray = pipeline.strays.contains_key(id);
        let instance = match pipeline.strays.get(id) {
            Some(stray) => Some(stray),
            None => pipeline
                .records
                .get(&key)
                .and_then(|record| record.instance.as_ref()),
        };
        let Some(driver) = instance
            .filter(|i| i.id == *id)
            .map(|instance| instance.driver)
        else {
            // Its end was seen before the answer came.
            return;
        };
        if let Some(looking) = self.drivers.get_mut(&driver) {
            looking.touched(id);
        }
        match result {
            Ok(_) if is_stray => {
                pipeline.strays.remove(id);
                self.ledger.effects.push(Effect::Forget {
                    instance: id.clone(),
                    driver,
                });
            }
            Ok(stopped) => {
                let boot = self.drivers.get(&driver).and_then(|it| it.boot.as_ref());
                pipeline.stopped(id, stopped, boot, &mut self.ledger);
            }
            Err(error) => {
                let failure = StopFailure {
                    why: error.to_string(),
                    retry_at: now.after(STOP_AGAIN),
                };
                let why = failure.why.clone();
                let note = |instance: &mut Instance| {
                    if let Phase::Stopping { failed, .. } = &mut instance.phase {
                        *failed = Some(failure);
                    }
                };
                match pipeline.strays.get_mut(id) {
                    Some(stray) => note(stray),
                    None => pipeline.change(&key, &mut self.ledger, |record| {
                        record.instance.as_mut().map(note);
                    }),
                }
                let message = format!("{key} could not be stopped");
                pipeline.emit(
                    &mut self.ledger,
                    &key,
                    Some(id),
                    EventKind::StopFailed,
                    why,
                    message,
                );
            }
        }
    }

    /// Events about what is waited for, once per change of the wait.
    fn tell_of_holds(&mut self, pipeline: &Pipeline, plan: &crate::model::Plan) {
        for (key, hold) in &plan.holds {
            if pipeline
                .plan
                .holds
                .get(key)
                .is_some_and(|before| same_wait(before, hold))
            {
                continue;
            }
            let kind = match hold {
                Hold::Backoff {
                    crashloop: true, ..
                } => EventKind::Crashloop,
                // Nothing is known to have failed: whoever waits for the start waits on.
                Hold::Backoff {
                    crashloop: false, ..
                }
                | Hold::StartFailed { .. } => EventKind::Backoff,
                Hold::WaitingFor { .. }
                | Hold::Handover { .. }
                | Hold::Leftover { .. }
                | Hold::Pending(_) => EventKind::Waiting,
                Hold::Completed => EventKind::Completed,
                Hold::Failed { .. } | Hold::GaveUp { .. } | Hold::NoDriver { .. } => {
                    EventKind::Failed
                }
                Hold::StopsAfter { .. }
                | Hold::InFlight { .. }
                | Hold::BecomingReady { .. }
                | Hold::Unhealthy { .. }
                | Hold::StopFailed { .. }
                | Hold::Blind { .. }
                | Hold::Frozen { .. }
                | Hold::StoppedByRequest => continue,
            };
            let message = match (hold, hold.until()) {
                // No event before it told why.
                (Hold::StartFailed { .. } | Hold::Leftover { .. }, Some(until)) => {
                    format!("{key}: {hold}; next try at {until}")
                }
                (_, Some(until)) => format!("{key}: next try at {until}"),
                (_, None) => format!("{key}: {hold}"),
            };
            pipeline.emit(&mut self.ledger, key, None, kind, hold.to_string(), message);
        }
    }
}

impl Pipeline {
    /// An engine has accepted the instance of `key`, and starts it once it can. A look may have seen it
    /// run by now.
    fn accepted(
        &mut self,
        key: &ReplicaKey,
        (handle, facts): (Handle, Facts),
        accepted: Pending,
        ledger: &mut Ledger,
    ) {
        self.change(key, ledger, |record| {
            if let Some(instance) = &mut record.instance {
                (instance.handle, instance.facts) = (Some(handle), facts);
                if let Phase::Starting { pending, .. } = &mut instance.phase {
                    *pending = Some(accepted);
                }
            }
        });
    }

    /// The health of an instance that has just started.
    pub(super) fn initial_health(
        &self,
        key: &ReplicaKey,
        said: Option<EngineHealth>,
        now: Timestamp,
    ) -> Health {
        let (Some(spec), Some(probes)) = (self.desired.wants(key), self.asked_probes(key)) else {
            return Health::default();
        };
        let instance = self
            .records
            .get(key)
            .and_then(|record| record.instance.as_ref());
        let registered = instance.is_some_and(|i| self.registrations.contains_key(&i.id));
        let health = Health {
            unregistered: spec.registration == Registration::Required && !registered,
            ..health::begin(&probes)
        };
        let prober = instance.map_or(Prober::Flowctl, |instance| instance.prober);
        health::checked(&health, (prober, &probes), said, now).health
    }

    /// A startup probe that was edited away gates nothing, nor does a registration that is no longer
    /// required.
    fn let_start(&mut self, key: &ReplicaKey, ledger: &mut Ledger) {
        let optional = self
            .desired
            .wants(key)
            .is_some_and(|spec| spec.registration == Registration::Optional);
        if optional
            && let Some(record) = self.records.get_mut(key)
            && let Some(Instance {
                phase: Phase::Running { health, .. },
                ..
            }) = &mut record.instance
        {
            health.unregistered = false;
        }
        let gated = self
            .asked_probes(key)
            .is_none_or(|probes| probes.startup.is_some());
        let waits = |record: &Record| {
            matches!(
                &record.instance,
                Some(Instance { phase: Phase::Running { health, .. }, .. }) if !health.started
            )
        };
        if !gated && self.records.get(key).is_some_and(waits) {
            self.change(key, ledger, |record| {
                if let Some(Instance {
                    phase: Phase::Running { health, .. },
                    ..
                }) = &mut record.instance
                {
                    health.started = true;
                }
            });
        }
    }
}

/// Whether two holds are one wait for the reader of events.
fn same_wait(before: &Hold, after: &Hold) -> bool {
    match (before, after) {
        (Hold::Backoff { until: one, .. }, Hold::Backoff { until: two, .. }) => one == two,
        (Hold::WaitingFor { component: one, .. }, Hold::WaitingFor { component: two, .. }) => {
            one == two
        }
        // An engine that finds another reason is told of again: hours later nobody else remembers it.
        (Hold::Pending(one), Hold::Pending(two)) => one.why == two.why,
        (one, two) => std::mem::discriminant(one) == std::mem::discriminant(two),
    }
}
