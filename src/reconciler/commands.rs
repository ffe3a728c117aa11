//! Commands, carried out on the state.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::model::{
    ComponentId, EventKind, Generation, PipelineKey, PipelineRecord, PipelineSpec, Problem, Pull,
    ReplicaKey, RunIntent, revision,
};

use super::core::Core;
use super::handle::{Afterwards, Applied, Change, Command, Origin, Refusal, Request, Source};
use super::ledger::{Answer, Effect, Ending};
use super::pipeline::Pipeline;

impl Core {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Apply {
                pipelines,
                source,
                reply,
            } => {
                let outcome = self.check_apply(&source);
                match outcome {
                    Err(refusal) => answer(reply, Err(refusal)),
                    Ok(()) => {
                        let (applied, mut before) = self.apply(pipelines, &source);
                        if source.origin == Origin::Watch {
                            // Nobody repeats it, so it stands until it can be recorded.
                            before.clear();
                        }
                        self.ledger.require_power_safe();
                        let reply = Answer::Applied {
                            reply,
                            applied,
                            before,
                            ending: self.ending,
                        };
                        self.ledger.effects.push(Effect::Answer(reply));
                    }
                }
            }
            Command::Registry(command) => self.registry_command(command),
            Command::Problem { file, problem } => self.report(&file, problem),
            Command::Delete { pipeline, reply } => match self.pipelines.get_mut(&pipeline) {
                None => answer(reply, Err(Refusal::NoSuchPipeline(pipeline))),
                Some(_) => {
                    self.delete(&pipeline, "requested");
                    self.done(reply);
                }
            },
            Command::Down { afterwards, reply } => {
                match (afterwards, self.ending) {
                    (Afterwards::End, Ending::No) => self.ending = Ending::WhenEmpty,
                    (Afterwards::End, Ending::WhenEmpty | Ending::Decided)
                    | (Afterwards::GoOn, _) => {}
                }
                let keys: Vec<PipelineKey> = self.pipelines.keys().cloned().collect();
                for key in keys {
                    self.delete(&key, "down requested");
                }
                self.done(reply);
            }
            Command::Ask {
                pipeline,
                component,
                request,
                reply,
            } => match self.ask(&pipeline, &component, request) {
                Err(refusal) => answer(reply, Err(refusal)),
                Ok(before) => match request {
                    Request::Stop => self.done(reply),
                    Request::Start | Request::Restart(_) => {
                        self.ledger.require_power_safe();
                        let reply = Answer::Asked { reply, before };
                        self.ledger.effects.push(Effect::Answer(reply));
                    }
                },
            },
            Command::Note { pipeline, notes } => {
                if let Some(pipeline) = self.pipelines.get_mut(&pipeline)
                    && pipeline.notes != notes
                {
                    pipeline.notes = notes;
                    pipeline.restate = true;
                }
            }
            Command::Reported { asker, conditions } => {
                let known = self.reported.entry(asker).or_default();
                if *known != conditions {
                    *known = conditions;
                    self.changed = true;
                }
            }
            Command::ImagePolicyChanged => {
                self.image_policy_since = Some(self.ledger.now);
                for pipeline in self.pipelines.values_mut() {
                    pipeline.dirty = true;
                }
            }
            Command::Leave { why, reply } => {
                let message = format!("the daemon ends: {why}");
                self.tell_of_daemon(EventKind::DaemonStopping, why, message);
                let answer = Answer::Noted { reply };
                self.ledger.effects.push(Effect::Answer(answer));
            }
            Command::Desired { pipeline, reply } => {
                let known = self
                    .pipelines
                    .get(&pipeline)
                    .filter(|known| !known.kept.deleting);
                answer(
                    reply,
                    known.map(|k| (k.kept.generation, Arc::clone(&k.kept.spec))),
                );
            }
        }
    }

    /// Answers once the command is recorded; power-safe, since a person waits for it.
    fn done(&mut self, reply: tokio::sync::oneshot::Sender<Result<(), Refusal>>) {
        self.ledger.require_power_safe();
        self.ledger
            .effects
            .push(Effect::Answer(Answer::Done { reply }));
    }

    /// Nothing is begun that nobody would look after. A person's apply that cannot be recorded is
    /// refused before it changes anything; the watch's is taken over in memory and recorded later.
    fn check_apply(&self, source: &Source) -> Result<(), Refusal> {
        match self.ending {
            Ending::Decided => return Err(Refusal::ShuttingDown),
            Ending::No | Ending::WhenEmpty => {}
        }
        match (source.origin, self.not_durable()) {
            (Origin::Person, Some(why)) => Err(Refusal::NotDurable {
                why: why.to_owned(),
            }),
            (Origin::Person | Origin::Watch, _) => Ok(()),
        }
    }

    fn apply(
        &mut self,
        specs: Vec<PipelineSpec>,
        source: &Source,
    ) -> (Vec<Applied>, Vec<(PipelineKey, Option<PipelineRecord>)>) {
        let (mut applied, mut before) = (Vec::new(), Vec::new());
        let named: BTreeSet<PipelineKey> = specs.iter().map(|spec| spec.key.clone()).collect();
        if let Some(file) = &source.file {
            self.report(file, None);
            for key in self.of_file(file) {
                if !named.contains(&key) {
                    before.push((key.clone(), Some(self.pipelines[&key].kept.clone())));
                    self.delete(&key, "it is no longer in its file");
                    let generation = self.pipelines[&key].kept.generation;
                    let change = Change::Deleted;
                    let moved_from = None;
                    applied.push(Applied {
                        pipeline: key,
                        generation,
                        change,
                        moved_from,
                    });
                }
            }
        }
        for spec in specs {
            let known = self
                .pipelines
                .get(&spec.key)
                .map(|pipeline| pipeline.kept.clone());
            let elsewhere = known
                .as_ref()
                .is_some_and(|k| !k.deleting && k.file != source.file);
            if source.origin == Origin::Watch && elsewhere {
                continue;
            }
            before.push((spec.key.clone(), known.clone()));
            applied.push(self.apply_one(spec, known, source));
        }
        (applied, before)
    }

    fn apply_one(
        &mut self,
        mut spec: PipelineSpec,
        known: Option<PipelineRecord>,
        source: &Source,
    ) -> Applied {
        let key = spec.key.clone();
        if let Some(known) = &known {
            revision::carry(&known.spec, &mut spec);
        }
        let live = known.as_ref().filter(|known| !known.deleting);
        let change = match live {
            None => Change::Created,
            Some(known) if *known.spec == spec => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        let moved_from = live
            .and_then(|known| known.file.clone())
            .filter(|old| Some(old) != source.file.as_ref());
        let last = known
            .as_ref()
            .map_or(Generation::default(), |known| known.generation);
        let generation = if change == Change::Unchanged {
            last
        } else {
            last.next()
        };
        let kept = PipelineRecord {
            spec: match (&change, live) {
                (Change::Unchanged, Some(known)) => Arc::clone(&known.spec),
                (Change::Created | Change::Changed | Change::Deleted | Change::Unchanged, _) => {
                    Arc::new(spec)
                }
            },
            generation,
            file: source.file.clone(),
            watched: source.watched,
            deleting: false,
        };
        if known.as_ref() != Some(&kept) {
            let ledger = &mut self.ledger;
            match self.pipelines.get_mut(&key) {
                Some(pipeline) => pipeline.keep(kept, ledger),
                None => {
                    ledger.touch_pipeline(&key);
                    let pipeline = Pipeline::new(kept, std::collections::BTreeMap::new());
                    self.pipelines.insert(key.clone(), pipeline);
                }
            }
        }
        if change != Change::Unchanged {
            let from = match &source.file {
                Some(file) => file.display().to_string(),
                None => "standard input".to_owned(),
            };
            let message = format!("pipeline {key} is at generation {generation}");
            self.pipelines[&key].emit_whole(&mut self.ledger, EventKind::Applied, from, message);
        }
        Applied {
            pipeline: key,
            generation,
            change,
            moved_from,
        }
    }

    fn of_file(&self, file: &Path) -> Vec<PipelineKey> {
        self.pipelines
            .iter()
            .filter(|(_, pipeline)| {
                pipeline.kept.file.as_deref() == Some(file) && !pipeline.kept.deleting
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Notes on every pipeline of `file` what is wrong with it.
    fn report(&mut self, file: &Path, problem: Option<Problem>) {
        for key in self.of_file(file) {
            let Some(pipeline) = self.pipelines.get_mut(&key) else {
                continue;
            };
            if pipeline.problem == problem {
                continue;
            }
            let shown = file.display();
            let (kind, reason, message) = match &problem {
                Some(problem) => (
                    EventKind::Rejected,
                    problem.message.clone(),
                    format!("{shown} was not taken over; the last good version runs on"),
                ),
                None => (
                    EventKind::Recovered,
                    "no problem is left".to_owned(),
                    format!("{shown} is good again"),
                ),
            };
            pipeline.problem = problem.clone();
            pipeline.dirty = true;
            pipeline.emit_whole(&mut self.ledger, kind, reason, message);
        }
    }

    fn delete(&mut self, key: &PipelineKey, why: &str) {
        let Some(pipeline) = self.pipelines.get_mut(key) else {
            return;
        };
        if pipeline.kept.deleting {
            return;
        }
        let kept = PipelineRecord {
            deleting: true,
            ..pipeline.kept.clone()
        };
        pipeline.keep(kept, &mut self.ledger);
        let message = format!("pipeline {key} is being taken down");
        pipeline.emit_whole(
            &mut self.ledger,
            EventKind::Deleted,
            why.to_owned(),
            message,
        );
    }

    fn ask(
        &mut self,
        key: &PipelineKey,
        component: &ComponentId,
        request: Request,
    ) -> Result<Vec<(PipelineKey, ReplicaKey, RunIntent)>, Refusal> {
        let at = self.ledger.now;
        let not_durable = self.not_durable().map(str::to_owned);
        let pipeline = self
            .pipelines
            .get_mut(key)
            .ok_or_else(|| Refusal::NoSuchPipeline(key.clone()))?;
        if pipeline.kept.deleting {
            return Err(Refusal::Deleting(key.clone()));
        }
        let spec = pipeline
            .desired
            .spec
            .components
            .get(component)
            .ok_or_else(|| Refusal::NoSuchComponent {
                pipeline: key.clone(),
                component: component.clone(),
            })?;
        if let (Some(why), Request::Start | Request::Restart(_)) = (not_durable, request) {
            return Err(Refusal::NotDurable { why });
        }
        let mut before = Vec::new();
        for replica in 0..spec.replicas {
            let replica = ReplicaKey {
                component: component.clone(),
                replica,
            };
            let old = pipeline.change(&replica, &mut self.ledger, |record| {
                let upto = record.incarnation;
                std::mem::replace(
                    &mut record.intent,
                    match request {
                        Request::Start => RunIntent::Start { at, upto },
                        Request::Stop => RunIntent::Stop { at },
                        Request::Restart(pull) => RunIntent::Restart { at, upto, pull },
                    },
                )
            });
            let (reason, message) = match request {
                Request::Start => ("start requested", format!("start of {replica} requested")),
                Request::Stop => ("stop requested", format!("stop of {replica} requested")),
                Request::Restart(Pull::No) => (
                    "restart requested",
                    format!("restart of {replica} requested"),
                ),
                Request::Restart(Pull::Yes) => (
                    "restart requested",
                    format!("restart of {replica} with a pulled image requested"),
                ),
            };
            let kind = EventKind::Requested;
            pipeline.emit(
                &mut self.ledger,
                &replica,
                None,
                kind,
                reason.to_owned(),
                message,
            );
            before.push((key.clone(), replica, old));
        }
        Ok(before)
    }
}

/// Answers a command that could not be recorded, and takes back what it changed.
pub(super) fn refuse(core: &mut Core, refused: Answer, why: String) {
    match refused {
        Answer::Done { reply } => answer(reply, Ok(())),
        Answer::Noted { reply } => answer(reply, ()),
        Answer::Asked { reply, before } => {
            for (key, replica, intent) in before {
                if let Some(pipeline) = core.pipelines.get_mut(&key) {
                    pipeline.change(&replica, &mut core.ledger, |record| record.intent = intent);
                }
            }
            answer(reply, Err(Refusal::NotDurable { why }));
        }
        Answer::Applied {
            reply,
            before,
            ending,
            ..
        } => {
            // It called nothing off. Whether something else did shows in what is wanted; a `down`
            // that came after it stands.
            match core.ending {
                Ending::No => core.ending = ending,
                Ending::WhenEmpty | Ending::Decided => {}
            }
            for (key, kept) in before {
                match (kept, core.pipelines.get_mut(&key)) {
                    (Some(kept), Some(pipeline)) => pipeline.keep(kept, &mut core.ledger),
                    (None, Some(pipeline)) => {
                        let kept = PipelineRecord {
                            deleting: true,
                            ..pipeline.kept.clone()
                        };
                        pipeline.keep(kept, &mut core.ledger);
                    }
                    (_, None) => {}
                }
            }
            answer(reply, Err(Refusal::NotDurable { why }));
        }
    }
}

/// Gives a recorded command its answer.
pub(super) fn confirm(answer_to: Answer) {
    match answer_to {
        Answer::Applied { reply, applied, .. } => answer(reply, Ok(applied)),
        Answer::Asked { reply, .. } | Answer::Done { reply } => answer(reply, Ok(())),
        Answer::Noted { reply } => answer(reply, ()),
    }
}

/// Whoever asked may have left meanwhile; the command stands all the same.
fn answer<T>(reply: tokio::sync::oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::debug!("the caller left before its answer");
    }
}
