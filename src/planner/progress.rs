//! Whether the work of a component gets on.
//!
//! What it shows of its work (a figure, its log, an answer) is compared with what it showed before;
//! once nothing has changed for too long it is *stalled*. A stall ends when something changes again,
//! and with nothing else.
//!
//! **Excuses.** Nothing is held against a component whose upstream is not ready (it has nothing to
//! do), nor against one whose downstream is not (it may be unable to hand on what it has), nor, where
//! its file says so, against one whose inputs stand still too. Time counts from the end of an excuse.
//! They keep a stall from beginning and a restart from being made; they end none.
//!
//! **Guarantees.** Pure. What the daemon was not there to see counts against nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::model::{
    ComponentId, ComponentSpec, Condition, Expected, InstanceId, OnStall, Phase, Progress,
    ProgressStatus, Record, ReplicaKey, Stalled, Timestamp, Watches,
};

use super::{Desired, gate};

/// A component whose work stands still is restarted for it at most this often.
const RESTART_AGAIN: Duration = Duration::from_secs(3600);
/// Work that stood still so much before an upstream's may still do so because of that: figures are
/// seen every few seconds only.
const TOGETHER: Duration = Duration::from_secs(30);
/// So much of a value is kept.
const VALUE_LIMIT: usize = 200;

/// What an instance shows of its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// What is watched is this now.
    Value(String),
    /// The last line of its log was written then.
    Written(Timestamp),
    /// It cannot be seen now, for this reason.
    Nothing(String),
}

/// Why it is not held against a component that its work stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Excuse {
    /// This upstream of it is not ready.
    Upstream(ComponentId),
    /// This downstream of it is not ready.
    Downstream(ComponentId),
    /// Its inputs get no further either.
    Idle,
}

impl fmt::Display for Excuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(id) | Self::Downstream(id) => write!(f, "{id} is not ready"),
            Self::Idle => f.write_str("its inputs get no further either"),
        }
    }
}

/// What is known of the work of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    instance: InstanceId,
    value: Option<String>,
    /// Why nothing of it can be seen now.
    unseen: Option<String>,
    advanced_at: Option<Timestamp>,
    counts_from: Timestamp,
    /// The daemon could not see it before then.
    seen_from: Timestamp,
    excuse: Option<Excuse>,
    stalled: Option<Stalled>,
    held_by: Option<ComponentId>,
}

impl Work {
    /// The work of `instance`, seen from `now` on; `kept` is what an earlier daemon knew of it.
    pub fn new(instance: InstanceId, kept: Option<Stalled>, now: Timestamp) -> Self {
        Self {
            instance,
            value: kept.as_ref().and_then(|kept| kept.value.clone()),
            unseen: None,
            advanced_at: kept.as_ref().and_then(|kept| kept.advanced_at),
            counts_from: now,
            seen_from: now,
            excuse: None,
            stalled: kept,
            held_by: None,
        }
    }

    /// Whose work it is.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// That it stands still, if it does.
    pub fn stalled(&self) -> Option<&Stalled> {
        self.stalled.as_ref()
    }

    /// Takes in that nothing of it could be seen before `from`.
    pub fn seen_from(&mut self, from: Timestamp) {
        self.seen_from = from;
    }

    /// Takes in what it shows at `at`.
    pub fn shows(&mut self, shown: Shown, at: Timestamp) {
        match shown {
            Shown::Nothing(why) => self.unseen = Some(why),
            Shown::Written(written) => {
                self.unseen = None;
                let written = written.min(at);
                if self.advanced_at.is_none_or(|before| before < written) {
                    self.value = Some(written.to_string());
                    self.advance(written);
                }
            }
            Shown::Value(mut value) => {
                self.unseen = None;
                if let Some((end, _)) = value.char_indices().nth(VALUE_LIMIT) {
                    value.truncate(end);
                }
                let is_further = match &self.value {
                    Some(before) => is_further(before, &value),
                    // The first one is where it begins; one that was missed has come.
                    None => self.stalled.is_some(),
                };
                self.value = Some(value);
                if is_further {
                    self.advance(at);
                }
            }
        }
    }

    /// Takes in that other times count from now on: whether it stands still is judged anew.
    pub fn judged_anew(&mut self) {
        self.stalled = None;
        self.held_by = None;
    }

    fn advance(&mut self, at: Timestamp) {
        self.advanced_at = Some(at);
        self.counts_from = self.counts_from.max(at);
        self.stalled = None;
        self.held_by = None;
    }

    /// When it stands still for too long if nothing changes; `started` is when its program was.
    fn due(&self, progress: &Progress, started: Timestamp) -> Timestamp {
        let due = self
            .counts_from
            .max(self.seen_from)
            .after(progress.max_age.get());
        match self.advanced_at {
            Some(_) => due,
            None => due.max(started.after(progress.startup.get())),
        }
    }

    /// Every time that is remembered, to be moved along with the clock.
    pub fn each_time(&mut self, change: &dyn Fn(&mut Timestamp)) {
        self.advanced_at.iter_mut().for_each(change);
        change(&mut self.counts_from);
        change(&mut self.seen_from);
        self.stalled.iter_mut().for_each(|one| each(one, change));
    }

    /// What readers see of it; `started` is when its program was.
    pub fn status(&self, progress: &Progress, started: Timestamp) -> ProgressStatus {
        let why = match (&self.stalled, &self.excuse) {
            (Some(_), _) => self.standstill(progress, started),
            (None, Some(excuse)) => format!("nothing is expected of it: {excuse}"),
            (None, None) => String::new(),
        };
        ProgressStatus {
            watches: progress.watches.to_string(),
            value: self.value.clone(),
            advanced_at: self.advanced_at,
            stalled_since: self.stalled.as_ref().map(|stalled| stalled.since),
            why,
            held_by: self.held_by.clone(),
        }
    }

    /// What stands still and since when, in words.
    fn standstill(&self, progress: &Progress, started: Timestamp) -> String {
        let watches = &progress.watches;
        let since = match self.advanced_at {
            Some(at) => format!("since {at}"),
            None => format!("since it started at {started}"),
        };
        let still = match (watches, &self.value) {
            (Watches::Output, _) => format!("it has written nothing {since}"),
            (Watches::Metric(_) | Watches::Http { .. }, Some(value)) => {
                format!("{watches} stands at {value} {since}")
            }
            (Watches::Metric(_) | Watches::Http { .. }, None) => {
                format!("{watches} has not been seen {since}")
            }
        };
        match &self.unseen {
            Some(why) => format!("{still} ({why})"),
            None => still,
        }
    }
}

/// Every time of a stall.
pub fn each(stalled: &mut Stalled, change: &dyn Fn(&mut Timestamp)) {
    change(&mut stalled.since);
    stalled.advanced_at.iter_mut().for_each(change);
}

/// Whether `after` is further than `before`. A counter that falls was set back, which is no progress;
/// of what is no number any change is.
fn is_further(before: &str, after: &str) -> bool {
    if let (Ok(before), Ok(after)) = (before.parse::<i128>(), after.parse::<i128>()) {
        return after > before;
    }
    match (before.parse::<f64>(), after.parse::<f64>()) {
        (Ok(before), Ok(after)) => after > before,
        (Ok(_) | Err(_), _) => after != before,
    }
}

/// The work of a pipeline's replicas.
pub type Works = BTreeMap<ReplicaKey, Work>;

/// What follows from how the work of a pipeline gets on.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Judgement {
    /// Whose instances are to be restarted, with what stands still.
    pub restarts: Vec<(ReplicaKey, String)>,
    /// When to judge again even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

impl Judgement {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }
}

/// Judges the work of all replicas. Those in `works` run, and their components have a `progress`.
pub fn judge(
    works: &mut Works,
    desired: &Desired,
    records: &BTreeMap<ReplicaKey, Record>,
    now: Timestamp,
) -> Judgement {
    let mut judgement = Judgement::default();
    if works.is_empty() {
        return judgement;
    }
    let neighbours = Neighbours::of(desired, records);
    let mut latest: BTreeMap<ComponentId, Option<Timestamp>> = BTreeMap::new();
    for (key, work) in works.iter() {
        let one = latest.entry(key.component.clone()).or_default();
        *one = (*one).max(work.advanced_at);
    }
    for (key, work) in works.iter_mut() {
        let Some((progress, inputs)) = wanted(desired, key) else {
            continue;
        };
        let Some(started) = started(records, key) else {
            continue;
        };
        let excuse = neighbours
            .excuse(&key.component)
            .or_else(|| match progress.expected {
                Expected::Always => None,
                Expected::UpstreamProgressing => {
                    let newest = inputs.iter().filter_map(|input| *latest.get(input)?).max();
                    let until = newest.map(|at| at.after(progress.max_age.get() / 2));
                    match until.filter(|until| *until > now) {
                        Some(until) => {
                            judgement.wake(until);
                            None
                        }
                        None => Some(Excuse::Idle),
                    }
                }
            });
        let was_excused = std::mem::replace(&mut work.excuse, excuse).is_some();
        if work.stalled.is_some() {
            continue;
        }
        if was_excused || work.excuse.is_some() {
            work.counts_from = now;
        }
        let due = work.due(progress, started);
        if work.excuse.is_some() {
            continue;
        }
        if due > now {
            judgement.wake(due);
            continue;
        }
        work.stalled = Some(Stalled {
            since: due,
            value: work.value.clone(),
            advanced_at: work.advanced_at,
        });
    }
    name_causes(works, desired, records);
    for (key, work) in works.iter() {
        let Some((progress, _)) = wanted(desired, key) else {
            continue;
        };
        let is_asked = progress.on_stall == OnStall::Restart && work.stalled.is_some();
        let is_its_own = match &work.excuse {
            Some(Excuse::Upstream(_) | Excuse::Downstream(_)) => false,
            Some(Excuse::Idle) | None => work.held_by.is_none(),
        };
        let (Some(started), true) = (started(records, key), is_asked && is_its_own) else {
            continue;
        };
        let last = records.get(key).and_then(|one| one.history.stall_ended_at);
        match last.map(|last| last.after(RESTART_AGAIN)) {
            Some(again) if again > now => judgement.wake(again),
            Some(_) | None => {
                let why = work.standstill(progress, started);
                judgement.restarts.push((key.clone(), why));
            }
        }
    }
    judgement
}

/// How the work of a replica is looked at, and what it reads from.
fn wanted<'a>(desired: &'a Desired, key: &ReplicaKey) -> Option<(&'a Progress, &'a [ComponentId])> {
    let spec = desired.wants(key)?;
    Some((spec.progress.as_ref()?, &spec.inputs))
}

/// When the program of a replica was started that runs.
fn started(records: &BTreeMap<ReplicaKey, Record>, key: &ReplicaKey) -> Option<Timestamp> {
    match records.get(key)?.instance.as_ref()?.phase {
        Phase::Running { since, .. } => Some(since),
        Phase::Starting { .. } | Phase::Stopping { .. } => None,
    }
}

/// Who is not ready above and below each component, at any distance. Above is whatever it needs to
/// work; below is only what it hands its output to: one that merely waits for it to run, such as a
/// monitor, takes nothing from it and keeps it from nothing.
#[derive(Debug, Default)]
struct Neighbours<'a> {
    above: BTreeMap<&'a ComponentId, &'a ComponentId>,
    below: BTreeMap<&'a ComponentId, &'a ComponentId>,
}

impl<'a> Neighbours<'a> {
    fn of(desired: &'a Desired, records: &BTreeMap<ReplicaKey, Record>) -> Self {
        let mut all = Self::default();
        let unready: BTreeSet<&ComponentId> = desired
            .in_order()
            .filter(|spec| gate::unmet(spec, records, Condition::Ready).is_some())
            .map(|spec| &spec.id)
            .collect();
        if unready.is_empty() {
            return all;
        }
        let order: Vec<_> = desired.in_order().collect();
        for spec in &order {
            let found = needs(spec).find_map(|id| {
                let itself = unready.get(id).copied();
                itself.or_else(|| all.above.get(id).copied())
            });
            if let Some(found) = found {
                all.above.insert(&spec.id, found);
            }
        }
        for spec in order.iter().rev() {
            let itself = unready.get(&spec.id).copied();
            let Some(found) = itself.or_else(|| all.below.get(&spec.id).copied()) else {
                continue;
            };
            for id in feeds(spec) {
                all.below.entry(id).or_insert(found);
            }
        }
        all
    }

    fn excuse(&self, id: &ComponentId) -> Option<Excuse> {
        let above = self.above.get(id).map(|it| Excuse::Upstream((*it).clone()));
        above.or_else(|| {
            let below = self.below.get(id)?;
            Some(Excuse::Downstream((*below).clone()))
        })
    }
}

/// What a component reads from while it runs. What it waited for to be completed gives it nothing any
/// more.
fn feeds(spec: &ComponentSpec) -> impl Iterator<Item = &ComponentId> + Clone {
    spec.inputs.iter().filter(move |input| {
        let mut waits = spec.dependencies.iter();
        !waits.any(|it| it.id == **input && it.condition == Condition::Completed)
    })
}

/// What a component needs to be ready to get on: what it reads from, and what it waits for to be
/// ready.
fn needs(spec: &ComponentSpec) -> impl Iterator<Item = &ComponentId> + Clone {
    let waits = spec
        .dependencies
        .iter()
        .filter(move |it| match it.condition {
            Condition::Ready => !spec.inputs.contains(&it.id),
            Condition::Started | Condition::Completed => false,
        });
    feeds(spec).chain(waits.map(|it| &it.id))
}

/// Whether `to` holds `from` up, directly or through others.
fn leads_to(
    held: &BTreeMap<ComponentId, ComponentId>,
    from: &ComponentId,
    to: &ComponentId,
) -> bool {
    std::iter::successors(Some(from), |at| held.get(*at)).any(|at| at == to)
}

/// Names of each component that stands still the neighbour that did so first. Below one that stands
/// still nothing comes any more; above it nothing can be handed on, which shows later.
fn name_causes(works: &mut Works, desired: &Desired, records: &BTreeMap<ReplicaKey, Record>) {
    let mut still: BTreeMap<ComponentId, Timestamp> = BTreeMap::new();
    for (key, work) in works.iter_mut() {
        work.held_by = None;
        let (Some(stalled), Some(started)) = (&work.stalled, started(records, key)) else {
            continue;
        };
        let since = stalled.advanced_at.unwrap_or(started);
        let first = still.entry(key.component.clone()).or_insert(since);
        *first = (*first).min(since);
    }
    if still.len() < 2 {
        return;
    }
    let mut held: BTreeMap<ComponentId, ComponentId> = BTreeMap::new();
    for spec in desired.in_order() {
        let Some(own) = still.get(&spec.id) else {
            continue;
        };
        for upstream in needs(spec) {
            let Some(theirs) = still.get(upstream) else {
                continue;
            };
            let (second, first) = if *theirs <= own.after(TOGETHER) {
                (&spec.id, upstream)
            } else if feeds(spec).any(|id| id == upstream) {
                (upstream, &spec.id)
            } else {
                continue;
            };
            // Somebody has to be left who holds up the others.
            if !leads_to(&held, first, second) {
                held.entry(second.clone()).or_insert(first.clone());
            }
        }
    }
    for (key, work) in works.iter_mut() {
        if work.stalled.is_some() {
            work.held_by = held.get(&key.component).cloned();
        }
    }
}
