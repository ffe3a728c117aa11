//! The registry as a part of the owner: registrations meet instances here.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::model::{
    ComponentSpec, Counts, Event, EventKind, Evidence, Health, Instance, InstanceId, Owner,
    Patience, Phase, PipelineKey, Probe, ProbeCheck, ProbeKind, ProbeOutcome, Provenance,
    RegistrationRecord, ServiceId, Timestamp,
};
use crate::planner::health;

use super::correlate::{self, Candidate, Clues};
use super::{
    Beat, Directory, Heard, Identified, Identity, Introduction, Note, NoteKey, Peer,
    RegistryCommand, RegistryRefusal, Standing,
};
use crate::reconciler::core::Core;
use crate::reconciler::ledger::{Answer, Effect, Ledger};
use crate::reconciler::pipeline::Pipeline;

/// Ids of nobody here that are taken in from one group of heartbeats; the others come again with
/// their next one.
const ADOPTED_AT_ONCE: usize = 256;

impl Core {
    /// When a registration counts as silent.
    pub fn set_patience(&mut self, patience: Patience) {
        let now = self.ledger.now;
        self.registry.set_patience(patience, now);
    }

    /// Shows what was registered before this daemon started beside the instances that did.
    pub(in crate::reconciler) fn show_registrations(&mut self) {
        let ids: Vec<ServiceId> = self.registry.ids().cloned().collect();
        for id in &ids {
            self.show(id);
        }
    }

    pub(in crate::reconciler) fn registry_command(&mut self, command: RegistryCommand) {
        match command {
            RegistryCommand::Identify { peer, reply } => answer(reply, self.identify(&peer)),
            RegistryCommand::Moved { address } => self.control_plane_moved(address),
            RegistryCommand::Lives { instance, reply } => {
                let lives = candidates(&self.pipelines)
                    .iter()
                    .any(|candidate| *candidate.id == instance);
                answer(reply, lives);
            }
            RegistryCommand::Register { intro, reply } => self.register(*intro, reply),
            RegistryCommand::Unregister { id, who, reply } => self.unregister(&id, &who, reply),
            RegistryCommand::Directory { reply } => answer(reply, self.directory()),
            RegistryCommand::Tell { note, who, reply } => {
                let told = self.tell(*note, &who);
                answer(reply, told);
            }
            RegistryCommand::ChangeRun {
                id,
                change,
                who,
                reply,
            } => {
                let key = NoteKey::Run(id);
                let changed = self.check_teller(&key, &who).map(|()| {
                    let NoteKey::Run(id) = &key else { return None };
                    let now = self.ledger.now;
                    let run = self.registry.notes.change(id, *change, now)?;
                    self.ledger.notes.insert(key);
                    Some(self.standing(run))
                });
                answer(reply, changed);
            }
            RegistryCommand::Notes { reply } => answer(reply, self.registry.notes.clone()),
        }
    }

    fn identify(&self, peer: &Peer) -> Identified {
        match correlate::identify(&candidates(&self.pipelines), peer) {
            // A mark of what is not known here, as of a daemon's that has another directory.
            Identified::Ended(instance) if !self.knows(&instance) => Identified::Nobody,
            identified @ (Identified::Instance { .. }
            | Identified::Ended(_)
            | Identified::NotYet
            | Identified::Nobody) => identified,
        }
    }

    /// Whether `instance` is or was one of a replica here.
    fn knows(&self, instance: &InstanceId) -> bool {
        self.pipelines
            .get(&instance.pipeline)
            .is_some_and(|pipeline| {
                pipeline.desired.wants(&instance.replica).is_some()
                    || pipeline.records.contains_key(&instance.replica)
            })
    }

    /// Whether `name` is what a component or a replica here is called.
    fn is_called(&self, name: &str) -> bool {
        self.pipelines.values().any(|pipeline| {
            let wanted = pipeline.desired.replicas().map(|(key, _)| key);
            let mut all = wanted.chain(pipeline.records.keys().cloned());
            all.any(|key| correlate::is_called(&key, name))
        })
    }

    fn tell(&mut self, mut note: Note, who: &Identity) -> Result<Standing<()>, RegistryRefusal> {
        let key = note.key();
        self.check_teller(&key, who)?;
        let first = self.registry.notes.teller(&key).cloned();
        note.told_by(first.or_else(|| who.teller()));
        let gone = self.registry.notes.put(note);
        self.ledger.notes.insert(key);
        self.ledger.notes.extend(gone);
        Ok(self.standing(()))
    }

    /// Who told of something first is the only one who changes it.
    fn check_teller(&self, key: &NoteKey, who: &Identity) -> Result<(), RegistryRefusal> {
        if who.may_change(self.registry.notes.teller(key)) {
            return Ok(());
        }
        let what = key.to_string();
        Err(RegistryRefusal::ToldByAnother { what })
    }

    fn register(
        &mut self,
        intro: Introduction,
        reply: oneshot::Sender<Result<Standing<Arc<RegistrationRecord>>, RegistryRefusal>>,
    ) {
        let outcome = self.introduce(intro).map(|record| self.standing(record));
        answer(reply, outcome);
    }

    /// An answer that is told once the open group of changes is recorded.
    fn standing<T>(&mut self, answer: T) -> Standing<T> {
        let (reply, recorded) = oneshot::channel();
        let noted = Effect::Answer(Answer::Noted { reply });
        self.ledger.effects.push(noted);
        Standing { answer, recorded }
    }

    fn introduce(
        &mut self,
        mut intro: Introduction,
    ) -> Result<Arc<RegistrationRecord>, RegistryRefusal> {
        let now = self.ledger.now;
        let owner = self.owner_of(&intro)?;
        // A nickname that is another component's name stays free for that one.
        if let Some(owner) = &owner {
            let own = &owner.instance.replica;
            let others = |wanted: &ServiceId| {
                self.is_called(wanted.as_str()) && !correlate::is_called(own, wanted.as_str())
            };
            intro.wanted = intro.wanted.filter(|wanted| !others(wanted));
        }
        let id = self.registry.register(intro, owner, now)?;
        self.ledger.registrations.insert(id.clone());
        self.ledger
            .registrations
            .extend(self.registry.take_evicted());
        self.show(&id);
        let record = self.registry.get(&id).map(Arc::clone);
        let record = record.expect("it was put there a moment ago");
        let message = match &record.owner {
            Some(owner) => format!("{} registered as {id}", owner.instance.replica),
            None => format!("{id} registered; it is no component of a pipeline here"),
        };
        let reason = match &record.owner {
            Some(owner) => format!("known by its {}", owner.by),
            None => "nothing of it matches a running component".to_owned(),
        };
        self.emit_about(
            record.owner.as_ref(),
            EventKind::Registered,
            reason,
            message,
        );
        Ok(record)
    }

    /// The owner of a registration: the instance that the caller is proven to be, or, where it may be
    /// believed, the one that the evidence points at.
    fn owner_of(&self, intro: &Introduction) -> Result<Option<Owner>, RegistryRefusal> {
        let candidates = candidates(&self.pipelines);
        let clues = Clues {
            names: &intro.names,
            health_endpoint: &intro.about.health_endpoint,
            who: &intro.who,
            kind: intro.about.kind,
        };
        let (id, by) = match &intro.who {
            Identity::Instance { id, by } => (id, *by),
            Identity::Operator | Identity::OwnUser => {
                return Ok(correlate::owner(&candidates, &clues));
            }
            Identity::Outsider(_) => {
                let names_only = Clues {
                    health_endpoint: "",
                    ..clues
                };
                return Ok(correlate::owner(&candidates, &names_only));
            }
            Identity::User(_) | Identity::Stranger => {
                return self.check_is_nobodys(intro).map(|()| None);
            }
        };
        if !candidates.iter().any(|candidate| candidate.id == id) {
            return Err(RegistryRefusal::EndedInstance(id.clone()));
        }
        // A name that no component of its pipeline has is a nickname; another's is a lie.
        let foreign = intro.names.iter().find(|name| {
            let others = candidates.iter().any(|candidate| {
                candidate.id.pipeline == id.pipeline
                    && candidate.id.replica.component.as_str() == name.as_str()
            });
            others && id.replica.component.as_str() != name.as_str()
        });
        if let Some(named) = foreign {
            return Err(intro.who.foreign(named));
        }
        let by = match by {
            Evidence::Token => by,
            // What it says of itself may point at the same one; that is what people look for.
            Evidence::Name
            | Evidence::HealthPort
            | Evidence::Process
            | Evidence::Container
            | Evidence::Kind => correlate::owner(&candidates, &clues)
                .filter(|owner| owner.instance == *id)
                .map_or(by, |owner| owner.by),
        };
        Ok(Some(Owner {
            instance: id.clone(),
            by,
        }))
    }

    /// Whether everything that a registration claims belongs to nobody here.
    fn check_is_nobodys(&self, intro: &Introduction) -> Result<(), RegistryRefusal> {
        let wanted = intro.wanted.iter().map(ServiceId::as_str);
        let names = intro.names.iter().map(String::as_str);
        for name in wanted.chain(names) {
            let has_owner = |record: &Arc<RegistrationRecord>| record.owner.is_some();
            let held = name.parse().ok().and_then(|id| self.registry.get(&id));
            if self.is_called(name) || held.is_some_and(has_owner) {
                return Err(intro.who.foreign(name));
            }
        }
        Ok(())
    }

    fn unregister(
        &mut self,
        id: &ServiceId,
        who: &Identity,
        reply: oneshot::Sender<Result<Standing<()>, RegistryRefusal>>,
    ) {
        let record = self.registry.get(id).map(Arc::clone);
        let allowed = record
            .as_ref()
            .map_or(Ok(()), |record| who.check_speaks_for(record));
        if let Err(refusal) = allowed {
            return answer(reply, Err(refusal));
        }
        let owner = record.and_then(|record| record.owner.clone());
        if self.registry.remove(id).is_some() {
            self.ledger.registrations.insert(id.clone());
            if let Some(owner) = owner
                && let Some(pipeline) = self.pipelines.get_mut(&owner.instance.pipeline)
            {
                pipeline.registrations.remove(&owner.instance);
                pipeline.restate = true;
            }
        }
        let done = self.standing(());
        answer(reply, Ok(done));
    }

    pub(in crate::reconciler) fn directory(&mut self) -> Arc<Directory> {
        self.registry.directory()
    }

    pub(in crate::reconciler) fn beats(&mut self, beats: BTreeMap<ServiceId, Beat>) {
        let mut adopted = 0;
        for (id, beat) in beats {
            match self.registry.get(&id) {
                // It may have got an owner since the heartbeat was let in.
                Some(record) if beat.who.check_speaks_for(record).is_err() => continue,
                Some(_) => {}
                None => {
                    adopted += usize::from(beat.who.instance().is_none());
                    if adopted > ADOPTED_AT_ONCE || self.adopt(&id, &beat).is_none() {
                        continue;
                    }
                }
            }
            if self.follow_restart(&id, &beat) == Life::Past {
                continue;
            }
            let Some(heard) = self.registry.heard(&id, beat) else {
                continue;
            };
            self.show(&id);
            let Some(owner) = self
                .registry
                .get(&id)
                .and_then(|record| record.owner.clone())
            else {
                continue;
            };
            if heard == Heard::Again {
                let message = format!("{} sends heartbeats again", owner.instance.replica);
                let reason = "a heartbeat arrived".to_owned();
                self.emit_about(Some(&owner), EventKind::Heard, reason, message);
            }
            self.judge_heartbeat(&owner.instance, &ProbeOutcome::Pass);
        }
        self.ledger
            .registrations
            .extend(self.registry.take_evicted());
    }

    fn adopt(&mut self, id: &ServiceId, beat: &Beat) -> Option<()> {
        let intro = Introduction {
            wanted: Some(id.clone()),
            names: vec![id.to_string()],
            ip: beat.ip,
            who: beat.who.clone(),
            ..Introduction::default()
        };
        let owner = self.owner_of(&intro).ok()?;
        self.registry.adopt(id, beat, owner)
    }

    /// A component that restarted and beats on under its old id is the same replica's new instance;
    /// what its predecessor sent last is not about it.
    fn follow_restart(&mut self, id: &ServiceId, beat: &Beat) -> Life {
        let record = self.registry.get(id);
        let Some(owner) = record.and_then(|record| record.owner.clone()) else {
            return Life::Present;
        };
        let Some(live) = live_instance(&self.pipelines, &owner.instance) else {
            return Life::Present;
        };
        if live.id == owner.instance {
            return Life::Present;
        }
        let is_its_own = match beat.who.instance() {
            Some(sender) => *sender == live.id,
            None => beat.at >= began(live),
        };
        if !is_its_own {
            return Life::Past;
        }
        let owner = Owner {
            instance: live.id.clone(),
            by: owner.by,
        };
        self.registry.own(id, owner);
        Life::Present
    }

    /// Looks for components that fell silent, and for registrations that nobody owns any more.
    pub(in crate::reconciler) fn sweep(&mut self) {
        let now = self.ledger.now;
        if self.registry.sweep_at().is_none_or(|at| at > now) {
            return;
        }
        let pipelines = &self.pipelines;
        let swept = self.registry.sweep(now, |instance| {
            pipelines.get(&instance.pipeline).is_some_and(|pipeline| {
                pipeline.desired.wants(&instance.replica).is_some()
                    || pipeline.records.contains_key(&instance.replica)
            })
        });
        self.ledger.registrations.extend(swept.forgotten);
        self.ledger.registrations.extend(swept.to_record);
        for id in &swept.silent {
            self.show(id);
            let Some(record) = self.registry.get(id).map(Arc::clone) else {
                continue;
            };
            let Some(owner) = &record.owner else { continue };
            if live_instance(&self.pipelines, &owner.instance)
                .is_some_and(|live| live.id == owner.instance)
            {
                let message = format!("{} sends no heartbeats", owner.instance.replica);
                let reason = silence(&record);
                self.emit_about(Some(owner), EventKind::Silent, reason, message);
            }
        }
        self.judge_silence();
    }

    /// Asks every heartbeat probe, whether or not its component ever registered.
    fn judge_silence(&mut self) {
        let now = self.ledger.now;
        let mut late = Vec::new();
        for pipeline in self.pipelines.values() {
            for (key, record) in &pipeline.records {
                let (Some(spec), Some(instance)) = (pipeline.desired.wants(key), &record.instance)
                else {
                    continue;
                };
                let Phase::Running { since, .. } = &instance.phase else {
                    continue;
                };
                let registered = pipeline.registrations.get(&instance.id);
                let registered = registered.map(Arc::as_ref);
                let counts_from = self.registry.instance_counts_from(registered, *since);
                let silent_for = now.since(counts_from);
                let ttls = heartbeat_probes(spec).map(|(_, ttl)| ttl);
                if ttls.clone().any(|ttl| silent_for > ttl) {
                    let seconds = silent_for.as_secs();
                    late.push((instance.id.clone(), format!("no heartbeat for {seconds} s")));
                }
            }
        }
        for (instance, why) in late {
            self.judge_heartbeat(&instance, &ProbeOutcome::Fail(why));
        }
    }

    fn judge_heartbeat(&mut self, id: &InstanceId, outcome: &ProbeOutcome) {
        let Some(pipeline) = self.pipelines.get_mut(&id.pipeline) else {
            return;
        };
        let kinds: Vec<ProbeKind> = match pipeline.desired.wants(&id.replica) {
            Some(spec) => heartbeat_probes(spec).map(|(kind, _)| kind).collect(),
            None => return,
        };
        for kind in kinds {
            pipeline.judged(id, kind, outcome, Counts::Counted, &mut self.ledger);
        }
    }

    /// Puts a registration beside the instance that it belongs to.
    fn show(&mut self, id: &ServiceId) {
        let Some(record) = self.registry.get(id) else {
            return;
        };
        let Some(owner) = &record.owner else { return };
        let Some(pipeline) = self.pipelines.get_mut(&owner.instance.pipeline) else {
            return;
        };
        let is_live = pipeline
            .records
            .get(&owner.instance.replica)
            .and_then(|record| record.instance.as_ref())
            .is_some_and(|instance| instance.id == owner.instance);
        if !is_live {
            return;
        }
        let shown = pipeline.registrations.get(&owner.instance);
        let yields = shown.is_none_or(|shown| {
            shown.service_id == *id
                || shown.provenance == Provenance::Adopted
                || (record.provenance == Provenance::Registered
                    && shown.last_seen() <= record.last_seen())
        });
        if yields {
            let first = shown.is_none();
            pipeline
                .registrations
                .insert(owner.instance.clone(), Arc::clone(record));
            pipeline.restate = true;
            if first {
                let instance = owner.instance.clone();
                pipeline.has_registered(&instance, &mut self.ledger);
            }
        }
    }

    fn emit_about(
        &mut self,
        owner: Option<&Owner>,
        kind: EventKind,
        reason: String,
        message: String,
    ) {
        let instance = owner.map(|owner| &owner.instance);
        let at = self.ledger.now;
        self.ledger.emit(Event {
            seq: 0,
            at,
            namespace: instance.map(|id| id.pipeline.namespace.clone()),
            pipeline: instance.map(|id| id.pipeline.name.clone()),
            component: instance.map(|id| id.replica.component.clone()),
            replica: instance.map(|id| id.replica.replica),
            instance: instance.cloned(),
            kind,
            reason,
            message,
            ended_by: None,
        });
    }
}

impl Pipeline {
    /// A component whose readiness waits for its registration has waited long enough.
    fn has_registered(&mut self, id: &InstanceId, ledger: &mut Ledger) {
        let Some(probes) = self.asked_probes(&id.replica) else {
            return;
        };
        let now = ledger.now;
        let waits = |instance: &Instance| {
            matches!(
                &instance.phase,
                Phase::Running {
                    health: Health {
                        unregistered: true,
                        ..
                    },
                    ..
                }
            )
        };
        let instance = self
            .records
            .get(&id.replica)
            .and_then(|record| record.instance.as_ref());
        if !instance.is_some_and(waits) {
            return;
        }
        let meaning = self.change(&id.replica, ledger, |record| {
            let Some(Instance {
                phase: Phase::Running { health, .. },
                ..
            }) = &mut record.instance
            else {
                return health::Meaning::Nothing;
            };
            let change = health::registered(health, &probes, now);
            *health = change.health;
            change.meaning
        });
        self.act_on(id, meaning, ledger);
    }
}

/// Whether a heartbeat is of the instance that lives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It is, or of one that may be.
    Present,
    /// It is of one before it.
    Past,
}

/// The probes of a component that ask for heartbeats, with the age that they accept.
fn heartbeat_probes(
    spec: &ComponentSpec,
) -> impl Iterator<Item = (ProbeKind, std::time::Duration)> + Clone + use<> {
    let ttl = |probe: &Option<Probe>| match probe.as_ref()?.check {
        ProbeCheck::Heartbeat { ttl } => Some(ttl.get()),
        ProbeCheck::Http(_)
        | ProbeCheck::Grpc { .. }
        | ProbeCheck::Tcp { .. }
        | ProbeCheck::Exec { .. } => None,
    };
    let probes = [
        (ProbeKind::Startup, ttl(&spec.probes.startup)),
        (ProbeKind::Readiness, ttl(&spec.probes.readiness)),
        (ProbeKind::Liveness, ttl(&spec.probes.liveness)),
    ];
    probes
        .into_iter()
        .filter_map(|(kind, ttl)| Some((kind, ttl?)))
}

/// Every live instance with what is known of it.
fn candidates(pipelines: &BTreeMap<PipelineKey, Pipeline>) -> Vec<Candidate<'_>> {
    let mut found = Vec::new();
    for pipeline in pipelines.values() {
        for (key, record) in &pipeline.records {
            let spec = pipeline.kept.spec.components.get(&key.component);
            let (Some(instance), Some(spec)) = (&record.instance, spec) else {
                continue;
            };
            let registered = pipeline.registrations.contains_key(&instance.id);
            found.push(Candidate {
                id: &instance.id,
                spec,
                facts: instance.handle.as_ref().map(|_| &instance.facts),
                registered,
            });
        }
    }
    found
}

/// The instance that lives of the replica that `instance` is or was a run of.
fn live_instance<'a>(
    pipelines: &'a BTreeMap<PipelineKey, Pipeline>,
    instance: &InstanceId,
) -> Option<&'a Instance> {
    let pipeline = pipelines.get(&instance.pipeline)?;
    pipeline.records.get(&instance.replica)?.instance.as_ref()
}

/// When an instance began, at the earliest.
fn began(instance: &Instance) -> Timestamp {
    match instance.phase {
        Phase::Starting { since, .. } | Phase::Running { since, .. } => since,
        Phase::Stopping { started_at, .. } => started_at,
    }
}

/// Since when nothing was heard, in words.
pub(in crate::reconciler) fn silence(record: &RegistrationRecord) -> String {
    match record.last_heartbeat {
        Some(at) => format!("no heartbeat since {at}"),
        None => format!(
            "no heartbeat since it registered at {}",
            record.registered_at
        ),
    }
}

/// Whoever asked may have left meanwhile.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::debug!("the caller left before its answer");
    }
}
