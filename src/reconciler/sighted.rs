//! What was seen of one instance, taken into its record.

use std::collections::BTreeSet;

use crate::driver::Stopped;
use crate::model::{
    Boot, Charge, EarlierEnd, EndCause, Ended, EngineHealth, EventKind, Exit, Handle, InFlight,
    Instance, InstanceId, Life, Pending, Phase, ReplicaKey, Sighting, Timestamp,
};
use crate::planner::{blame, restart};

use super::ledger::{Effect, Ledger};
use super::pipeline::{Pipeline, unknown_exit};
use super::stepped::not_after;

impl Pipeline {
    /// Takes in what was seen of one instance.
    pub(super) fn sighted(&mut self, sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        let record = self.records.get(&key);
        let known = record.and_then(|record| record.instance.as_ref());
        let is_ours = known.is_some_and(|instance| instance.id == sighting.instance);
        let is_past = record
            .is_some_and(|record| sighting.instance.incarnation <= record.incarnation && !is_ours);
        if is_ours {
            self.sighted_ours(sighting, ledger);
        } else if !sighting.life.is_alive() && (is_past || known.is_some()) {
            self.strays.remove(&sighting.instance);
            let (instance, driver) = (sighting.instance, sighting.driver);
            ledger.effects.push(Effect::Forget { instance, driver });
        } else if known.is_some() || (is_past && sighting.life.is_alive()) {
            self.sighted_stray(sighting, ledger);
        } else {
            self.adopt(sighting, ledger);
        }
    }

    /// Takes in how the instance ended that was stopped.
    pub(super) fn stopped(
        &mut self,
        id: &InstanceId,
        stopped: Stopped,
        boot: Option<&Boot>,
        ledger: &mut Ledger,
    ) {
        match stopped.into_sighting() {
            Some(left) => self.sighted_ours(not_after(left, ledger.now), ledger),
            None => self.vanished(id, boot, ledger),
        }
    }

    /// A second live instance of a replica, or one whose end was recorded: it has to go.
    fn sighted_stray(&mut self, sighting: Sighting, ledger: &Ledger) {
        if self.strays.contains_key(&sighting.instance) {
            return;
        }
        let stray = instance_of(&sighting, ledger.now);
        self.strays.insert(sighting.instance, stray);
        self.dirty = true;
    }

    /// An instance that no record knows: the store was lost, and what it carries rebuilds it.
    fn adopt(&mut self, sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        let id = sighting.instance.clone();
        let instance = instance_of(&sighting, ledger.now);
        let released = sighting.spec.clone();
        self.change(&key, ledger, |record| {
            record.incarnation = record.incarnation.max(id.incarnation);
            record.instance = Some(instance);
            record.released = Some(released);
        });
        if sighting.life.is_alive() {
            let found = found_as(&sighting.life).unwrap_or("running");
            let message = format!("{key} was found {found} and kept");
            let why = "it carries our mark".to_owned();
            self.emit(ledger, &key, Some(&id), EventKind::Adopted, why, message);
        }
        self.sighted_ours(sighting, ledger);
    }

    fn sighted_ours(&mut self, mut sighting: Sighting, ledger: &mut Ledger) {
        let key = sighting.instance.replica.clone();
        self.count_earlier(&key, std::mem::take(&mut sighting.earlier), ledger);
        let Some(instance) = self
            .records
            .get(&key)
            .and_then(|record| record.instance.clone())
        else {
            return;
        };
        if let Some(found) = found_as(&sighting.life)
            && self.found.remove(&instance.id)
        {
            let message = format!("{key} was found {found} and kept");
            let why = "a new daemon looks after it".to_owned();
            let kind = EventKind::Adopted;
            self.emit(ledger, &key, Some(&instance.id), kind, why, message);
        }
        let changed = if sighting.outdated {
            self.outdated.insert(instance.id.clone())
        } else {
            self.outdated.remove(&instance.id)
        };
        self.restate |= changed;
        // A start whose answer was lost: what it runs is to be known when it ends.
        if instance.handle.is_none() && sighting.handle.is_some() {
            let handle = sighting.handle.clone();
            self.change(&key, ledger, |record| {
                if let Some(instance) = &mut record.instance {
                    instance.handle = handle;
                }
            });
        }
        // A node, or the program of an instance that its engine has started again, may change.
        let told = (&sighting.facts, sighting.prober);
        if !sighting.facts.is_empty() && told != (&instance.facts, instance.prober) {
            let (facts, prober) = (sighting.facts.clone(), sighting.prober);
            self.change(&key, ledger, |record| {
                if let Some(instance) = &mut record.instance {
                    (instance.facts, instance.prober) = (facts, prober);
                }
            });
        }
        match sighting.life {
            Life::Created => self.sighted_created(instance, ledger),
            Life::Pending(pending) => self.sighted_pending(&instance, pending, ledger),
            Life::Running { since } => {
                let said = sighting.health;
                self.sighted_running(&instance, since, sighting.handle, said.clone(), ledger);
                self.engine_said(&instance.id, said, ledger);
            }
            Life::Exited(mut exit) => {
                exit.started_at = exit
                    .started_at
                    .or(super::pipeline::started_at(&instance.phase));
                let cause = match &instance.phase {
                    Phase::Stopping { cause, .. } => EndCause::Stopped(cause.clone()),
                    Phase::Starting { .. } | Phase::Running { .. } => {
                        EndCause::Itself(self.charge(&key, &exit))
                    }
                };
                self.ended(&instance, exit, cause, ledger);
            }
            // The driver may be trying again: what comes of the start is its own answer.
            Life::NotStarted { .. } if self.busy.get(&key) == Some(&InFlight::Start) => {}
            Life::NotStarted { failure, at } => {
                let never_ran = Phase::Starting {
                    since: at,
                    pending: None,
                };
                let exit = unknown_exit(&never_ran, at);
                self.ended(&instance, exit, EndCause::NotStarted(failure), ledger);
            }
            Life::Lost { at } => {
                let cause = stopped_or(&instance.phase, EndCause::Lost);
                self.ended(&instance, unknown_exit(&instance.phase, at), cause, ledger);
            }
            Life::HostReboot { at } => {
                let exit = unknown_exit(&instance.phase, at);
                self.ended(&instance, exit, EndCause::HostReboot, ledger);
            }
            Life::RuntimeRestarted(exit) => {
                let cause = stopped_or(&instance.phase, EndCause::RuntimeRestarted);
                self.ended(&instance, exit, cause, ledger);
            }
            Life::Disrupted { exit, disruption } => {
                let cause = stopped_or(&instance.phase, EndCause::Disrupted(disruption));
                self.ended(&instance, exit, cause, ledger);
            }
        }
    }

    /// Counts the ends inside the instance of `key` that were not counted yet, the oldest first. They
    /// may be told by every look, and by looks of several daemons.
    fn count_earlier(&mut self, key: &ReplicaKey, mut ends: Vec<EarlierEnd>, ledger: &mut Ledger) {
        let Some(instance) = self.records.get(key).and_then(|it| it.instance.as_ref()) else {
            return;
        };
        ends.retain(|end| !instance.counted.contains(&end.id));
        let (id, spec) = (instance.id.clone(), instance.spec.clone());
        ends.sort_by_key(|end| end.exit.at);
        for end in ends {
            let cause = match end.disruption {
                Some(disruption) => EndCause::Disrupted(disruption),
                None => EndCause::Itself(self.charge(key, &end.exit)),
            };
            let ended = Ended {
                instance: id.clone(),
                spec: spec.clone(),
                exit: end.exit,
                cause,
            };
            self.ended_inside(key, (end.id, ended), ledger);
        }
    }

    /// A container or a guardian without its program. Unless it is being started now, the daemon
    /// that began to start it died, and nothing will come of it: it goes, and another is started.
    fn sighted_created(&mut self, instance: Instance, ledger: &mut Ledger) {
        let key = instance.id.replica.clone();
        let abandoned =
            matches!(instance.phase, Phase::Starting { .. }) && !self.busy.contains_key(&key);
        if abandoned {
            self.change(&key, ledger, |record| record.instance = None);
            self.strays.insert(instance.id.clone(), instance);
            self.dirty = true;
        }
    }

    /// One that its engine starts by itself. The engine may have found another reason by now why it
    /// does not, or have taken it from where it ran.
    fn sighted_pending(&mut self, instance: &Instance, seen: Pending, ledger: &mut Ledger) {
        let since = match &instance.phase {
            Phase::Starting { pending, .. } if pending.as_ref() == Some(&seen) => return,
            Phase::Starting { since, .. } => *since,
            Phase::Running { .. } => seen.since,
            Phase::Stopping { .. } => return,
        };
        self.change(&instance.id.replica, ledger, |record| {
            if let Some(instance) = &mut record.instance {
                let pending = Some(seen);
                instance.phase = Phase::Starting { since, pending };
            }
        });
    }

    fn sighted_running(
        &mut self,
        instance: &Instance,
        since: Timestamp,
        handle: Option<Handle>,
        said: Option<EngineHealth>,
        ledger: &mut Ledger,
    ) {
        let key = &instance.id.replica;
        let starting = matches!(instance.phase, Phase::Starting { .. });
        if !starting && (instance.handle == handle || handle.is_none()) {
            return;
        }
        // A start whose answer was lost, or is on its way: what runs is what counts.
        let health = self.initial_health(key, said, ledger.now);
        self.change(key, ledger, |record| {
            record.unanswered = None;
            if let Some(instance) = &mut record.instance {
                instance.handle = handle.or(instance.handle.take());
                if starting {
                    instance.phase = Phase::Running { since, health };
                }
            }
        });
        if starting && !self.busy.contains_key(key) {
            let message = format!("{key} runs");
            let why = "found running".to_owned();
            self.emit(
                ledger,
                key,
                Some(&instance.id),
                EventKind::Started,
                why,
                message,
            );
        }
    }

    fn ended(&mut self, instance: &Instance, exit: Exit, cause: EndCause, ledger: &mut Ledger) {
        let (id, driver) = (instance.id.clone(), instance.driver);
        let ended = Ended {
            instance: id.clone(),
            spec: instance.spec.clone(),
            exit,
            cause,
        };
        self.end(&id.replica, ended, ledger);
        ledger.effects.push(Effect::Forget {
            instance: id,
            driver,
        });
    }

    /// An instance that its driver, asked and answering, does not have. What tells of one is not
    /// synced to the disk: a power cut takes that too.
    pub(super) fn vanished(&mut self, id: &InstanceId, boot: Option<&Boot>, ledger: &mut Ledger) {
        let Some(instance) = self
            .records
            .get(&id.replica)
            .and_then(|record| record.instance.clone())
            .filter(|instance| instance.id == *id)
        else {
            return;
        };
        match &instance.phase {
            Phase::Starting { .. } if self.busy.contains_key(&id.replica) => {}
            // The intent was recorded and nothing came of it: it is as if it had not been. What was
            // laid ready for it, like secrets, goes. Somebody who removes what waits, again and again,
            // is not answered at once each time.
            Phase::Starting { pending, .. } => {
                let now = ledger.now;
                let removed = pending.is_some();
                self.change(&id.replica, ledger, |record| {
                    let Some(Instance { spec, .. }) = record.instance.take() else {
                        return;
                    };
                    if removed {
                        let why = "it was removed from its engine before it ran".to_owned();
                        let before = record.unanswered.as_ref();
                        let starts = restart::unanswered(before, id, &spec, why, now);
                        record.unanswered = Some(starts);
                    }
                });
                self.fresh.remove(id);
                ledger.effects.push(Effect::Forget {
                    instance: instance.id,
                    driver: instance.driver,
                });
            }
            Phase::Running { .. } | Phase::Stopping { .. } => {
                let ended_by = boot.filter(|boot| {
                    let mut processes = instance.facts.processes.iter();
                    processes.any(|process| process.boot_id != boot.id)
                });
                let (at, cause) = match ended_by {
                    Some(boot) => (boot.began_at.min(ledger.now), EndCause::HostReboot),
                    None => {
                        let cause = stopped_or(&instance.phase, EndCause::Vanished);
                        (ledger.now, cause)
                    }
                };
                let exit = unknown_exit(&instance.phase, at);
                self.ended(&instance, exit, cause, ledger);
            }
        }
    }

    fn charge(&self, key: &ReplicaKey, exit: &Exit) -> Charge {
        let Some(spec) = self.desired.wants(key) else {
            return Charge::Own;
        };
        let (since, at) = (exit.started_at, exit.at);
        blame::charge(&self.desired.spec, &self.records, spec, since, at)
    }
}

/// The end of an instance in `phase`: one that was being stopped ended by that.
fn stopped_or(phase: &Phase, otherwise: EndCause) -> EndCause {
    match phase {
        Phase::Stopping { cause, .. } => EndCause::Stopped(cause.clone()),
        Phase::Starting { .. } | Phase::Running { .. } => otherwise,
    }
}

/// How an instance was found that a new daemon keeps; `None` when it is to be seen.
fn found_as(life: &Life) -> Option<&'static str> {
    match life {
        Life::Running { .. } => Some("running"),
        Life::Pending(_) => Some("waiting"),
        Life::Created
        | Life::Exited(_)
        | Life::NotStarted { .. }
        | Life::Lost { .. }
        | Life::HostReboot { .. }
        | Life::RuntimeRestarted(_)
        | Life::Disrupted { .. } => None,
    }
}

/// The instance that a sighting describes.
fn instance_of(sighting: &Sighting, now: Timestamp) -> Instance {
    let phase = match &sighting.life {
        Life::Running { since } => Phase::Running {
            since: *since,
            health: crate::model::Health {
                started: true,
                ..crate::model::Health::default()
            },
        },
        Life::Pending(pending) => Phase::Starting {
            since: pending.since,
            pending: Some(pending.clone()),
        },
        Life::Created
        | Life::Exited(_)
        | Life::NotStarted { .. }
        | Life::Lost { .. }
        | Life::HostReboot { .. }
        | Life::RuntimeRestarted(_)
        | Life::Disrupted { .. } => Phase::Starting {
            since: now,
            pending: None,
        },
    };
    Instance {
        id: sighting.instance.clone(),
        spec: sighting.spec.clone(),
        driver: sighting.driver,
        partition: sighting.partition.clone(),
        stop: sighting.stop,
        after: sighting.after.clone(),
        holds: Vec::new(),
        stalled: None,
        counted: BTreeSet::new(),
        handle: sighting.handle.clone(),
        facts: sighting.facts.clone(),
        prober: sighting.prober,
        phase,
    }
}
