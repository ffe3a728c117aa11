//! One pipeline as the owner holds it, and the small changes that everything is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::conditions::Memory;
use crate::driver::Launch;
use crate::model::{
    ComponentId, DriverKind, Ended, Event, EventKind, Exit, ExitReason, Facts, ImageChoice,
    InFlight, Instance, InstanceId, Phase, PipelineKey, PipelineRecord, PipelineStatus, Plan,
    Problem, Record, RecordedImage, RegistrationRecord, ReplicaKey, RestartPolicy, Timestamp,
};
use crate::planner::restart;
use crate::planner::{Desired, blame};

use super::ledger::Ledger;
use super::probing::Probing;
use super::progress::Working;
use super::snapshot::{self, Unenforced};

/// A pipeline: what it should be, what it is, and what was last decided.
pub(super) struct Pipeline {
    /// Definition, generation and origin, as kept.
    pub kept: PipelineRecord,
    /// What should be; nothing once it is being deleted.
    pub desired: Desired,
    /// What is remembered of each replica.
    pub records: BTreeMap<ReplicaKey, Record>,
    /// Live instances that no record owns.
    pub strays: BTreeMap<InstanceId, Instance>,
    /// Replicas with an unanswered driver call.
    pub busy: BTreeMap<ReplicaKey, InFlight>,
    /// The last decision.
    pub plan: Plan,
    /// Instances that are probed.
    pub probing: BTreeMap<InstanceId, Probing>,
    /// How the work of its running instances gets on.
    pub working: Working,
    /// Instances of an earlier daemon that this one has not seen yet.
    pub found: BTreeSet<InstanceId>,
    /// Instances that this daemon started.
    pub fresh: BTreeSet<InstanceId>,
    /// Instances that nobody wants any more, whose starts were told so.
    pub given_up: BTreeSet<InstanceId>,
    /// What the starts of replicas are at that take a while.
    pub preparing: BTreeMap<ReplicaKey, String>,
    /// Live instances whose image's name means another image by now.
    pub outdated: BTreeSet<InstanceId>,
    /// What is worth knowing of its components that nobody decides by.
    pub notes: BTreeMap<ComponentId, Vec<String>>,
    /// Why its file could not be taken over.
    pub problem: Option<Problem>,
    /// What is remembered to tell what is wrong with it.
    pub memory: Memory,
    /// What readers see of it.
    pub status: Option<Arc<PipelineStatus>>,
    /// What its live instances told the control plane.
    pub registrations: BTreeMap<InstanceId, Arc<RegistrationRecord>>,
    /// Whether it has to be looked at in this turn.
    pub dirty: bool,
    /// Whether what readers see of it has to be said anew, with nothing to decide.
    pub restate: bool,
}

impl Pipeline {
    /// Whether a component of it runs on `kind`, or ran there so far.
    pub fn uses(&self, kind: DriverKind) -> bool {
        let mut wanted = self.desired.spec.components.values();
        let mut there = self
            .records
            .values()
            .filter_map(|record| record.instance.as_ref());
        wanted.any(|spec| spec.driver() == kind) || there.any(|instance| instance.driver == kind)
    }

    pub fn new(kept: PipelineRecord, mut records: BTreeMap<ReplicaKey, Record>) -> Self {
        let there = records.values_mut();
        for instance in there.filter_map(|record| record.instance.as_mut()) {
            if let Some(handle) = instance
                .handle
                .as_ref()
                .filter(|_| instance.facts.is_empty())
            {
                instance.facts = Facts::of_first_format(handle);
            }
        }
        let desired = Self::desired_of(&kept);
        let lives = records.values().filter_map(|record| {
            let instance = record.instance.as_ref()?;
            match &instance.phase {
                Phase::Running { .. }
                | Phase::Starting {
                    pending: Some(_), ..
                } => Some(instance.id.clone()),
                Phase::Starting { pending: None, .. } | Phase::Stopping { .. } => None,
            }
        });
        Self {
            found: lives.collect(),
            kept,
            desired,
            records,
            strays: BTreeMap::new(),
            busy: BTreeMap::new(),
            plan: Plan::default(),
            probing: BTreeMap::new(),
            working: Working::default(),
            fresh: BTreeSet::new(),
            given_up: BTreeSet::new(),
            preparing: BTreeMap::new(),
            outdated: BTreeSet::new(),
            notes: BTreeMap::new(),
            problem: None,
            memory: Memory::default(),
            status: None,
            registrations: BTreeMap::new(),
            dirty: true,
            restate: false,
        }
    }

    /// A pipeline that is known only by something that still runs of it.
    pub fn ghost(key: &PipelineKey) -> Self {
        let spec = Desired::nothing(key.clone()).spec;
        let kept = PipelineRecord {
            spec,
            generation: crate::model::Generation::default(),
            file: None,
            watched: false,
            deleting: true,
        };
        Self::new(kept, BTreeMap::new())
    }

    pub fn key(&self) -> &PipelineKey {
        &self.desired.key
    }

    /// Takes over another definition or origin.
    pub fn keep(&mut self, kept: PipelineRecord, ledger: &mut Ledger) {
        let before = std::mem::replace(&mut self.desired, Self::desired_of(&kept));
        self.kept = kept;
        self.dirty = true;
        ledger.touch_pipeline(self.key());
        self.note_what_is_held(&before, ledger);
        // A moved edge restarts nothing, but it decides the order of later stops.
        for (key, record) in &mut self.records {
            let (Some(spec), Some(instance)) = (self.desired.wants(key), &mut record.instance)
            else {
                continue;
            };
            let after: Vec<_> = spec.dependencies.iter().map(|d| d.id.clone()).collect();
            if instance.spec == spec.hash && (instance.after != after || instance.stop != spec.stop)
            {
                instance.after = after;
                instance.stop = spec.stop;
                ledger.touch(&self.desired.key, key);
            }
        }
    }

    /// What runs by a definition that is replaced, or gone, keeps what it has by that one until it
    /// ends.
    fn note_what_is_held(&mut self, before: &Desired, ledger: &mut Ledger) {
        for (key, record) in &mut self.records {
            let (Some(old), Some(instance)) = (
                before.spec.components.get(&key.component),
                &mut record.instance,
            ) else {
                continue;
            };
            let wanted = self.desired.wants(key);
            let is_wanted = wanted.is_some_and(|spec| spec.hash == instance.spec);
            if old.hash != instance.spec || is_wanted {
                continue;
            }
            let claims = old.claims(key.replica, before.folder.as_deref());
            if instance.holds.is_empty() && !claims.is_empty() {
                instance.holds = claims.into_iter().collect();
                ledger.touch(&self.desired.key, key);
            }
        }
    }

    fn desired_of(kept: &PipelineRecord) -> Desired {
        if kept.deleting {
            return Desired::nothing(kept.spec.key.clone());
        }
        let folder = kept.file.as_deref().and_then(Path::parent);
        Desired::new(Arc::clone(&kept.spec)).of_folder(folder)
    }

    /// Says anew what readers see of it.
    pub fn state(&mut self, now: Timestamp, unenforced: &Unenforced) {
        self.restate = false;
        let mut status = snapshot::status(self, now, unenforced);
        let spec = &self.desired.spec;
        status.conditions = self.memory.look(&status, spec, &self.records, now);
        self.status = Some(Arc::new(status));
    }

    /// Whether nothing is left of a pipeline that should not be.
    pub fn is_gone(&self) -> bool {
        self.kept.deleting
            && self.records.is_empty()
            && self.strays.is_empty()
            && self.busy.is_empty()
    }

    /// Changes the record of `key`.
    pub fn change<T>(
        &mut self,
        key: &ReplicaKey,
        ledger: &mut Ledger,
        change: impl FnOnce(&mut Record) -> T,
    ) -> T {
        self.dirty = true;
        ledger.touch(&self.desired.key, key);
        change(self.records.entry(key.clone()).or_default())
    }

    /// Records an event about a replica.
    pub fn emit(
        &self,
        ledger: &mut Ledger,
        key: &ReplicaKey,
        instance: Option<&InstanceId>,
        kind: EventKind,
        reason: String,
        message: String,
    ) {
        ledger.emit(Event {
            component: Some(key.component.clone()),
            replica: Some(key.replica),
            instance: instance.cloned(),
            ..self.event(ledger.now, kind, reason, message)
        });
    }

    /// Records the event that is the end of `instance`.
    fn emit_end(
        &self,
        ledger: &mut Ledger,
        instance: &InstanceId,
        (kind, ended_by): (EventKind, Option<ExitReason>),
        reason: String,
        message: String,
    ) {
        ledger.emit(Event {
            component: Some(instance.replica.component.clone()),
            replica: Some(instance.replica.replica),
            instance: Some(instance.clone()),
            ended_by,
            ..self.event(ledger.now, kind, reason, message)
        });
    }

    /// Records an event about the pipeline itself.
    pub fn emit_whole(
        &self,
        ledger: &mut Ledger,
        kind: EventKind,
        reason: String,
        message: String,
    ) {
        ledger.emit(self.event(ledger.now, kind, reason, message));
    }

    fn event(&self, at: Timestamp, kind: EventKind, reason: String, message: String) -> Event {
        let PipelineKey { namespace, name } = self.key();
        Event {
            seq: 0,
            at,
            namespace: Some(namespace.clone()),
            pipeline: Some(name.clone()),
            component: None,
            replica: None,
            instance: None,
            kind,
            reason,
            message,
            ended_by: None,
        }
    }

    /// The restart policy of `key`: the file's, or the default once it left the file.
    pub fn policy(&self, key: &ReplicaKey) -> RestartPolicy {
        self.desired
            .spec
            .components
            .get(&key.component)
            .map_or_else(RestartPolicy::default, |spec| spec.restart.clone())
    }

    /// Records the end of the instance of `key`.
    pub fn end(&mut self, key: &ReplicaKey, ended: Ended, ledger: &mut Ledger) {
        let policy = self.policy(key);
        let instance = ended.instance.clone();
        let (reason, message) = describe_end(&ended);
        let ended_by = ExitReason::of(&ended);
        let kind = match &ended.cause {
            crate::model::EndCause::Stopped(_) => EventKind::Stopped,
            crate::model::EndCause::NotStarted(failure) if failure.is_given_up() => {
                EventKind::Stopped
            }
            crate::model::EndCause::NotStarted(_) => EventKind::StartFailed,
            crate::model::EndCause::Itself(_)
            | crate::model::EndCause::Lost
            | crate::model::EndCause::Vanished
            | crate::model::EndCause::HostReboot
            | crate::model::EndCause::RuntimeRestarted
            | crate::model::EndCause::Disrupted(_) => EventKind::Exited,
        };
        self.fresh.remove(&instance);
        self.found.remove(&instance);
        self.outdated.remove(&instance);
        self.registrations.remove(&instance);
        let reboot = ended.cause == crate::model::EndCause::HostReboot;
        self.change(key, ledger, |record| {
            record.history = restart::ended(&record.history, ended, &policy);
            record.unanswered = None;
            record.incarnation = record.incarnation.max(instance.incarnation);
            if let Some(Instance {
                spec,
                facts:
                    Facts {
                        image: Some(reference),
                        ..
                    },
                ..
            }) = record.instance.take()
            {
                record.image = Some(RecordedImage {
                    spec,
                    incarnation: instance.incarnation,
                    reference,
                });
            }
            if reboot {
                // After a reboot the whole pipeline comes up anew, in order.
                record.released = None;
            }
        });
        self.emit_end(ledger, &instance, (kind, ended_by), reason, message);
        self.take_back_from(key, ledger);
    }

    /// Records an end inside the instance of `key`, which its engine has followed with another run.
    pub fn ended_inside(
        &mut self,
        key: &ReplicaKey,
        (id, ended): (String, Ended),
        ledger: &mut Ledger,
    ) {
        let policy = self.policy(key);
        let instance = ended.instance.clone();
        let (reason, message) = describe_end(&ended);
        let ended_by = ExitReason::of(&ended);
        self.change(key, ledger, |record| {
            record.history = restart::ended_inside(&record.history, ended, &policy);
            let Some(instance) = &mut record.instance else {
                return;
            };
            instance.counted.insert(id);
            // Whatever runs now began after that, and nobody has probed it yet.
            match instance.phase {
                Phase::Running { since, .. } => {
                    instance.phase = Phase::Starting {
                        since,
                        pending: None,
                    };
                }
                Phase::Starting { .. } | Phase::Stopping { .. } => {}
            }
        });
        let message = format!("{message}; its engine started it again");
        let what = (EventKind::Exited, ended_by);
        self.emit_end(ledger, &instance, what, reason, message);
        self.take_back_from(key, ledger);
    }

    /// Takes back the failures of dependents of `upstream` that turn out to be its fault, now that
    /// more is known of it.
    pub fn take_back_from(&mut self, upstream: &ReplicaKey, ledger: &mut Ledger) {
        let spec = Arc::clone(&self.desired.spec);
        let upstream = &upstream.component;
        let mut corrected = Vec::new();
        for (key, record) in &self.records {
            let Some(component) = spec.components.get(&key.component) else {
                continue;
            };
            // Most have no upstream, or nothing to take back: an end costs little however many there
            // are.
            if component.dependencies.is_empty() || !restart::is_charged(&record.history) {
                continue;
            }
            let is_its_fault = |since, at| {
                blame::is_fault_of(upstream, &spec, &self.records, component, since, at)
            };
            let history = restart::taken_back(&record.history, upstream, is_its_fault);
            corrected.extend(history.map(|history| (key.clone(), history)));
        }
        for (key, history) in corrected {
            self.change(&key, ledger, |record| record.history = history);
        }
    }

    /// What the driver needs to start `instance`; `None` when the file no longer wants it.
    pub fn launch(&self, instance: &InstanceId) -> Option<Launch> {
        let spec = self.desired.wants(&instance.replica)?;
        let record = self.records.get(&instance.replica);
        Some(Launch {
            instance: instance.clone(),
            spec: Arc::new(spec.clone()),
            generation: self.kept.generation,
            file: self.kept.file.clone(),
            injected: BTreeMap::new(),
            image: record.map_or(ImageChoice::ByPolicy, |record| {
                restart::image(record, &spec.hash)
            }),
            given_up: CancellationToken::new(),
        })
    }
}

/// When the program of an instance started.
pub(super) fn started_at(phase: &Phase) -> Option<Timestamp> {
    match phase {
        Phase::Starting { .. } => None,
        Phase::Running { since, .. } => Some(*since),
        Phase::Stopping { started_at, .. } => Some(*started_at),
    }
}

/// An exit of which only the moment is known.
pub(super) fn unknown_exit(phase: &Phase, at: Timestamp) -> Exit {
    Exit::unknown(started_at(phase), at)
}

fn describe_end(ended: &Ended) -> (String, String) {
    let words = restart::in_words(ended);
    let message = match ended.exit.started_at {
        Some(started) => {
            let ran = crate::model::HumanDuration::new(ended.exit.at.since(started));
            format!("{}: {words} after {ran}", ended.instance.replica)
        }
        None => format!("{}: {words}", ended.instance.replica),
    };
    let message = match ended.exit.killed {
        0 => message,
        1 => format!("{message}; one process did not end in its grace period and was killed"),
        many => {
            format!("{message}; {many} processes did not end in their grace period and were killed")
        }
    };
    let reason = match &ended.cause {
        crate::model::EndCause::Stopped(_) => format!("{words}; {}", ended.exit),
        crate::model::EndCause::NotStarted(failure) => failure.reason.clone(),
        crate::model::EndCause::Itself(crate::model::Charge::Upstream(upstream)) => {
            format!("{words}, while {upstream} was not ready")
        }
        crate::model::EndCause::Itself(crate::model::Charge::Own)
        | crate::model::EndCause::Lost
        | crate::model::EndCause::Vanished
        | crate::model::EndCause::HostReboot
        | crate::model::EndCause::RuntimeRestarted
        | crate::model::EndCause::Disrupted(_) => words,
    };
    (reason, message)
}
