//! What is recorded as one, and what becomes of it when it cannot be.

use std::time::Duration;

use crate::model::{EventKind, Phase, StopCause, Timestamp};

use super::core::Core;
use super::ledger::{Answer, Changes, Durability, Effect};

/// How soon recording is tried again after it failed.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// How long a daemon that was told to end waits for its last try to record, where recording failed
/// before. A disk that has room again answers within milliseconds; one that hangs keeps no `down`.
const LAST_RECORD: Duration = Duration::from_secs(2);

/// What is to be recorded as one.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Grows by one with each.
    pub number: u64,
    /// What changed.
    pub changes: Changes,
    /// How well it has to be kept before it is answered.
    pub durability: Durability,
}

/// Why nothing can be recorded.
pub(super) struct NotDurable {
    pub why: String,
    /// When that was found out.
    pub since: Timestamp,
    /// When it is tried again.
    pub again_at: Timestamp,
    /// The newest commit when that was found out: what older ones answer proves nothing.
    newest: u64,
}

/// The try to record that nothing is left, once nothing is.
pub(super) struct LastRecord {
    /// The newest commit before it.
    after: u64,
    /// When it is not waited for any longer.
    pub until: Timestamp,
}

/// A commit that has not been answered.
pub(super) struct Pending {
    number: u64,
    changes: Changes,
    pub effects: Vec<Effect>,
}

impl Pending {
    /// Whether it was only asked whether anything could be recorded.
    pub fn is_empty(&self) -> bool {
        self.changes == Changes::default() && self.effects.is_empty()
    }
}

impl Core {
    /// Turns what was touched into a commit. While nothing can be recorded, touches pile up and one
    /// commit a second tries to get rid of them.
    pub(super) fn open_commit(&mut self, now_ready: &mut Vec<Effect>) -> Option<Commit> {
        if let Some(NotDurable { again_at, .. }) = &mut self.not_durable {
            if self.ledger.now < *again_at || !self.pending.is_empty() {
                let effects = std::mem::take(&mut self.ledger.effects);
                now_ready.extend(
                    effects
                        .into_iter()
                        .filter_map(|effect| self.without_record(effect)),
                );
                return None;
            }
            *again_at = self.ledger.now.after(RECORD_AGAIN);
        } else if self.ledger.is_empty() && !std::mem::take(&mut self.ask_disk) {
            return None;
        }
        self.ask_disk = false;
        let changes = Changes {
            records: std::mem::take(&mut self.ledger.records)
                .into_iter()
                .map(|(key, replica)| {
                    let record = self
                        .pipelines
                        .get(&key)
                        .and_then(|p| p.records.get(&replica));
                    ((key, replica), record.cloned())
                })
                .collect(),
            pipelines: std::mem::take(&mut self.ledger.pipelines)
                .into_iter()
                .map(|key| {
                    let kept = self
                        .pipelines
                        .get(&key)
                        .map(|pipeline| pipeline.kept.clone());
                    (key, kept)
                })
                .collect(),
            registrations: std::mem::take(&mut self.ledger.registrations)
                .into_iter()
                .map(|id| {
                    let kept = self.registry.take_record(&id);
                    (id, kept)
                })
                .collect(),
            notes: std::mem::take(&mut self.ledger.notes)
                .into_iter()
                .map(|key| {
                    let kept = self.registry.notes.get(&key);
                    (key, kept)
                })
                .collect(),
            events: std::mem::take(&mut self.ledger.events),
        };
        let durability = std::mem::replace(&mut self.ledger.durability, Durability::CrashSafe);
        let effects = std::mem::take(&mut self.ledger.effects);
        self.commits += 1;
        let number = self.commits;
        self.pending.push_back(Pending {
            number,
            changes: changes.clone(),
            effects,
        });
        Some(Commit {
            number,
            changes,
            durability,
        })
    }

    /// Tries once more to record that nothing is left, where recording has failed: the disk may have room
    /// again by now. Answers whether that is over, with or without success.
    pub(super) fn finish_recording(&mut self) -> bool {
        let Some(trouble) = &mut self.not_durable else {
            return true;
        };
        match &self.last_record {
            None => {
                trouble.again_at = self.ledger.now;
                self.last_record = Some(LastRecord {
                    after: self.commits,
                    until: self.ledger.now.after(LAST_RECORD),
                });
                false
            }
            Some(last) => trouble.newest > last.after || self.ledger.now >= last.until,
        }
    }

    pub(super) fn recorded(&mut self, number: u64, result: Result<(), String>) {
        let found = self.pending.iter().position(|one| one.number == number);
        let Some(pending) = found.and_then(|found| self.pending.remove(found)) else {
            return;
        };
        match result {
            Ok(()) => {
                self.changed |= !pending.is_empty();
                let healed = self.not_durable.take_if(|trouble| number > trouble.newest);
                if healed.is_some() {
                    self.changed = true;
                    self.daemon.durable = true;
                    self.daemon.durable_why = None;
                    self.touch_all();
                    self.emit_daemon(EventKind::Durable, "the state can be recorded again");
                }
                self.ready.extend(pending.effects);
            }
            Err(why) => {
                self.changed = true;
                if self.not_durable.is_none() {
                    self.emit_daemon(
                        EventKind::NotDurable,
                        &format!("the state cannot be recorded: {why}"),
                    );
                    self.touch_all();
                }
                let since = self.not_durable.as_ref().map(|trouble| trouble.since);
                self.not_durable = Some(NotDurable {
                    why: why.clone(),
                    since: since.unwrap_or(self.ledger.now),
                    again_at: self.ledger.now.after(RECORD_AGAIN),
                    newest: self.commits,
                });
                self.daemon.durable = false;
                self.daemon.durable_why = Some(why);
                // What the failed commit held is owed still.
                self.ledger
                    .records
                    .extend(pending.changes.records.into_keys());
                self.ledger
                    .pipelines
                    .extend(pending.changes.pipelines.into_keys());
                self.ledger
                    .registrations
                    .extend(pending.changes.registrations.into_keys());
                self.ledger.notes.extend(pending.changes.notes.into_keys());
                let mut events = pending.changes.events;
                events.append(&mut self.ledger.events);
                self.ledger.events = events;
                for effect in pending.effects {
                    let allowed = self.without_record(effect);
                    self.ready.extend(allowed);
                }
            }
        }
    }

    /// Everything is recorded anew: after a failed flush nothing on the disk is to be trusted, and
    /// after a step of the clock its times are another clock's.
    pub(super) fn touch_all(&mut self) {
        for (key, pipeline) in &mut self.pipelines {
            pipeline.dirty = true;
            self.ledger.pipelines.insert(key.clone());
            let replicas = pipeline
                .records
                .keys()
                .map(|replica| (key.clone(), replica.clone()));
            self.ledger.records.extend(replicas);
        }
        self.ledger
            .registrations
            .extend(self.registry.ids().cloned());
        self.ledger.notes.extend(self.registry.note_keys());
    }

    /// What becomes of an effect that could not be announced: new side effects are taken back, ends
    /// that a person asked for go ahead.
    fn without_record(&mut self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Start(launch) => {
                let instance = launch.instance;
                if let Some(pipeline) = self.pipelines.get_mut(&instance.pipeline) {
                    pipeline.busy.remove(&instance.replica);
                    pipeline.dirty = true;
                    if let Some(record) = pipeline.records.get_mut(&instance.replica)
                        && record.instance.as_ref().is_some_and(|i| i.id == instance)
                    {
                        record.instance = None;
                    }
                }
                None
            }
            Effect::Stop {
                instance,
                driver,
                how,
                before,
            } => {
                let pipeline = self.pipelines.get_mut(&instance.pipeline)?;
                let current = pipeline
                    .records
                    .get_mut(&instance.replica)
                    .and_then(|record| record.instance.as_mut())
                    .filter(|current| current.id == instance);
                if let Some(current) = current
                    && let Phase::Stopping { cause, .. } = &current.phase
                    && is_followed_by_a_start(cause)
                {
                    current.phase = before;
                    pipeline.busy.remove(&instance.replica);
                    pipeline.dirty = true;
                    return None;
                }
                Some(Effect::Stop {
                    instance,
                    driver,
                    how,
                    before,
                })
            }
            Effect::GiveUp { instance } => Some(Effect::GiveUp { instance }),
            Effect::Forget { .. } => None,
            Effect::Answer(answer) => {
                self.refuse(answer);
                None
            }
        }
    }

    fn refuse(&mut self, answer: Answer) {
        let why = self
            .not_durable
            .as_ref()
            .map_or_else(String::new, |trouble| trouble.why.clone());
        super::commands::refuse(self, answer, why);
    }
}

/// Whether the stop is the first half of a replacement, which must not begin unless the second
/// half can be recorded.
fn is_followed_by_a_start(cause: &StopCause) -> bool {
    match cause {
        StopCause::SpecChanged
        | StopCause::RestartRequested
        | StopCause::LivenessFailed(_)
        | StopCause::StartupFailed(_)
        | StopCause::Stalled(_) => true,
        StopCause::Removed
        | StopCause::ScaledDown
        | StopCause::StopRequested
        | StopCause::Stray => false,
    }
}
