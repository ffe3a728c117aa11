//! What one target has been told, and what it is to be told next. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::Told;
use crate::model::{MessageStatus, NotifyTarget, StatusCondition, TellEnd, Timestamp};

/// What begins together becomes one message: nothing more has begun for so long..
const GATHER: Duration = Duration::from_secs(2);
/// .. or this has passed since the first.
const GATHER_AT_MOST: Duration = Duration::from_secs(10);
/// A condition is over once it has been gone for so long: one that comes and goes is one.
const OVER: Duration = Duration::from_secs(5);
/// A daemon that has just started does not know yet what is over: longer than a component may take
/// to become ready before that is a condition.
const SETTLING: Duration = Duration::from_secs(90);
/// How often Alertmanager is told again of what lasts: it forgets what nobody repeats.
const ALERTMANAGER_REPEATS: Duration = Duration::from_secs(60);
/// The most conditions of one message.
const MOST: usize = 100;

/// One condition that a target is told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub told: Told,
    /// When it was put into a message; `None` = it is due and not in one yet.
    pub sent: Option<Timestamp>,
    /// Since when it is gone.
    #[serde(skip)]
    gone: Option<Timestamp>,
}

/// A message to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft {
    pub status: MessageStatus,
    pub conditions: Vec<Told>,
}

/// What is to be recorded, and sent once it is.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Entries to keep, or to forget (`None`), by name.
    pub changed: BTreeMap<String, Option<Entry>>,
    pub drafts: Vec<Draft>,
    /// When to look again at the latest.
    pub wake_at: Option<Timestamp>,
}

impl Step {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    fn draft(&mut self, status: MessageStatus, mut conditions: Vec<Told>) {
        conditions.sort_by_key(|told| (told.condition.kind, told.condition.since));
        for some in conditions.chunks(MOST) {
            self.drafts.push(Draft {
                status,
                conditions: some.to_vec(),
            });
        }
    }
}

/// A condition that is there, and the labels of its pipeline.
pub(super) type Active<'a> = (&'a StatusCondition, &'a BTreeMap<String, String>);

/// What one target has been told.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    entries: BTreeMap<String, Entry>,
    /// When the first and the newest of those became due that are gathered.
    gathering: Option<(Timestamp, Timestamp)>,
}

impl Tracker {
    /// What is remembered of an earlier daemon's.
    pub fn remember(&mut self, name: String, entry: Entry) {
        self.entries.insert(name, entry);
    }

    /// The names of all entries.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    /// What to tell, now that these conditions are there. `opened` is when the daemon began.
    pub fn step(
        &mut self,
        target: &NotifyTarget,
        active: &[Active<'_>],
        opened: Timestamp,
        now: Timestamp,
    ) -> Step {
        let mut step = Step::default();
        let mut present = BTreeSet::new();
        let mut again = Vec::new();
        let repeat = repeats(target);
        for (condition, labels) in active {
            if !target.wants(condition, labels) {
                continue;
            }
            let name = condition.key().to_string();
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.gone = None;
                entry.told = Told::new(condition);
                if let (Some(sent), Some(repeat)) = (entry.sent, repeat) {
                    // A clock that was set back must not silence it.
                    let due = sent.min(now).after(repeat);
                    if due <= now {
                        entry.sent = Some(now);
                        again.push(entry.told.clone());
                        step.changed.insert(name.clone(), Some(entry.clone()));
                        step.wake(now.after(repeat));
                    } else {
                        step.wake(due);
                    }
                }
            } else {
                let due = condition.since.after(target.patience(condition.kind));
                if due > now {
                    step.wake(due);
                    continue;
                }
                let entry = Entry {
                    told: Told::new(condition),
                    sent: None,
                    gone: None,
                };
                // Recorded at once: a daemon that dies now owes it still.
                step.changed.insert(name.clone(), Some(entry.clone()));
                self.entries.insert(name.clone(), entry);
                let first = self.gathering.map_or(now, |(first, _)| first);
                self.gathering = Some((first, now));
            }
            present.insert(name);
        }
        step.draft(MessageStatus::Repeated, again);
        self.tell_gathered(now, &mut step);
        self.tell_ends(target, &present, opened, now, &mut step);
        step
    }

    fn tell_gathered(&mut self, now: Timestamp, step: &mut Step) {
        let mut unsent = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.sent.is_none());
        if unsent.by_ref().next().is_none() {
            self.gathering = None;
            return;
        }
        let (first, last) = *self.gathering.get_or_insert((now, now));
        let due = last.after(GATHER).min(first.after(GATHER_AT_MOST));
        if due > now {
            step.wake(due);
            return;
        }
        self.gathering = None;
        let mut told = Vec::new();
        for (name, entry) in &mut self.entries {
            if entry.sent.is_none() {
                entry.sent = Some(now);
                told.push(entry.told.clone());
                step.changed.insert(name.clone(), Some(entry.clone()));
            }
        }
        step.draft(MessageStatus::Firing, told);
    }

    fn tell_ends(
        &mut self,
        target: &NotifyTarget,
        present: &BTreeSet<String>,
        opened: Timestamp,
        now: Timestamp,
        step: &mut Step,
    ) {
        let mut over = Vec::new();
        for (name, entry) in &mut self.entries {
            if present.contains(name) || entry.sent.is_none() {
                continue;
            }
            let gone = *entry.gone.get_or_insert(now);
            let due = gone.after(OVER).max(opened.after(SETTLING));
            if due <= now {
                over.push(name.clone());
            } else {
                step.wake(due);
            }
        }
        let mut ended = Vec::new();
        for name in over {
            ended.extend(self.entries.remove(&name).map(|entry| entry.told));
            step.changed.insert(name, None);
        }
        match target.resolved {
            TellEnd::Yes => step.draft(MessageStatus::Resolved, ended),
            TellEnd::No => {}
        }
    }
}

fn repeats(target: &NotifyTarget) -> Option<Duration> {
    use crate::model::{Destination, HumanDuration};
    match &target.to {
        Destination::Alertmanager { .. } => Some(ALERTMANAGER_REPEATS),
        Destination::Webhook { .. } | Destination::Exec { .. } => {
            target.repeat.map(HumanDuration::get)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::whole;
    use crate::model::{ConditionKind, Destination, HumanDuration};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).after(Duration::from_secs(seconds))
    }

    fn target() -> NotifyTarget {
        NotifyTarget {
            name: "ops".parse().unwrap(),
            when: Vec::new(),
            lasting: None,
            repeat: None,
            only: Default::default(),
            resolved: TellEnd::Yes,
            to: Destination::Exec {
                command: vec!["true".to_owned()],
            },
        }
    }

    fn condition(kind: ConditionKind, id: &str, since: u64) -> StatusCondition {
        let mut condition = whole(kind, at(since), "why".to_owned());
        condition.namespace = Some("default".parse().unwrap());
        condition.pipeline = Some("p".parse().unwrap());
        condition.component = Some(id.parse().unwrap());
        condition
    }

    /// Looks once a second from `from` to `to` and answers what was drafted, with the second.
    fn run(
        tracker: &mut Tracker,
        target: &NotifyTarget,
        active: &[&StatusCondition],
        seconds: std::ops::Range<u64>,
    ) -> Vec<(u64, MessageStatus, usize)> {
        let none = BTreeMap::new();
        let active: Vec<Active<'_>> = active.iter().map(|one| (*one, &none)).collect();
        let mut drafts = Vec::new();
        for second in seconds {
            let step = tracker.step(target, &active, at(0), at(second));
            let more = step.drafts.into_iter();
            drafts.extend(more.map(|draft| (second, draft.status, draft.conditions.len())));
        }
        drafts
    }

    #[test]
    fn a_condition_is_told_once_and_its_end_once() {
        let mut tracker = Tracker::default();
        let failed = condition(ConditionKind::Failed, "a", 100);
        let told = run(&mut tracker, &target(), &[&failed], 100..200);
        assert_eq!(told, [(102, MessageStatus::Firing, 1)]);
        let ends = run(&mut tracker, &target(), &[], 200..300);
        assert_eq!(ends, [(205, MessageStatus::Resolved, 1)]);
        assert!(run(&mut tracker, &target(), &[], 300..400).is_empty());
    }

    #[test]
    fn what_begins_together_is_one_message() {
        let mut tracker = Tracker::default();
        let all: Vec<StatusCondition> = (0..50)
            .map(|number| condition(ConditionKind::Failed, &format!("c{number}"), 100))
            .collect();
        let all: Vec<&StatusCondition> = all.iter().collect();
        let told = run(&mut tracker, &target(), &all, 100..200);
        assert_eq!(told, [(102, MessageStatus::Firing, 50)]);
    }

    #[test]
    fn what_lasts_too_short_is_never_told() {
        let mut tracker = Tracker::default();
        let unready = condition(ConditionKind::Unready, "a", 100);
        assert!(run(&mut tracker, &target(), &[&unready], 100..399).is_empty());
        assert!(run(&mut tracker, &target(), &[], 399..1_000).is_empty());
    }

    #[test]
    fn what_lasts_is_repeated_when_that_is_asked_for() {
        let mut tracker = Tracker::default();
        let mut often = target();
        often.repeat = Some(HumanDuration::from_secs(3_600));
        let failed = condition(ConditionKind::Failed, "a", 0);
        let told = run(&mut tracker, &often, &[&failed], 0..8_000);
        let statuses: Vec<_> = told.iter().map(|(at, status, _)| (*at, *status)).collect();
        assert_eq!(
            statuses,
            [
                (2, MessageStatus::Firing),
                (3_602, MessageStatus::Repeated),
                (7_202, MessageStatus::Repeated)
            ]
        );
    }

    #[test]
    fn what_comes_and_goes_is_one_condition() {
        let mut tracker = Tracker::default();
        let failed = condition(ConditionKind::Failed, "a", 100);
        run(&mut tracker, &target(), &[&failed], 100..110);
        for round in 0..10 {
            let from = 110 + round * 8;
            assert!(run(&mut tracker, &target(), &[], from..from + 4).is_empty());
            assert!(run(&mut tracker, &target(), &[&failed], from + 4..from + 8).is_empty());
        }
    }

    #[test]
    fn what_was_due_when_the_daemon_died_is_told_by_the_next_though_it_is_over() {
        let mut tracker = Tracker::default();
        let failed = condition(ConditionKind::Failed, "a", 100);
        let none = BTreeMap::new();
        let step = tracker.step(&target(), &[(&failed, &none)], at(0), at(100));
        assert!(step.drafts.is_empty());
        let mut next = Tracker::default();
        for (name, entry) in step.changed {
            next.remember(name, entry.unwrap());
        }
        let told = run(&mut next, &target(), &[], 101..300);
        let statuses: Vec<_> = told.iter().map(|(_, status, _)| *status).collect();
        assert_eq!(statuses, [MessageStatus::Firing, MessageStatus::Resolved]);
    }

    #[test]
    fn a_daemon_that_has_just_started_does_not_say_that_anything_is_over() {
        let mut tracker = Tracker::default();
        let entry = Entry {
            told: Told::new(&condition(ConditionKind::Failed, "a", 0)),
            sent: Some(at(0)),
            gone: None,
        };
        tracker.remember("failed default/p/a".to_owned(), entry);
        let ends = run(&mut tracker, &target(), &[], 1..100);
        assert_eq!(ends, [(90, MessageStatus::Resolved, 1)]);
    }
}
