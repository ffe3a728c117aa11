//! When which probe is asked: pure, with the time as an input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{
    Counts, Health, InstanceId, Probe, ProbeCheck, ProbeKind, ProbeOutcome, Probes,
};

use super::{AskError, Report, Target};

/// From the start of an instance, or an edit of its probe, to the first ask.
const FIRST: Duration = Duration::from_millis(10);
/// The longest distance between early asks.
const EARLY_MAX: Duration = Duration::from_secs(1);

/// A running instance whose probes are to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// Its probes, as the file wants them now.
    pub probes: Probes,
    /// Where they ask.
    pub target: Arc<Target>,
    /// How far it has come.
    pub stage: Stage,
    /// Whether this daemon started it.
    pub found: Found,
}

/// How far a running instance has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its startup probe has not passed: only that one is asked.
    Starting,
    /// It is up and was never ready.
    Started,
    /// It has been ready: fast answers are no longer worth extra asks.
    Proven,
}

impl From<&Health> for Stage {
    fn from(health: &Health) -> Self {
        match (health.started, health.ready_changed) {
            (false, _) => Self::Starting,
            (true, None) => Self::Started,
            (true, Some(_)) => Self::Proven,
        }
    }
}

/// Whether this daemon started an instance. Matters only when it is first handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It did.
    Fresh,
    /// An earlier daemon did: the first asks are spread over the probe's period, as those of all
    /// other instances come due at the same moment.
    Adopted,
}

/// One probe of one instance, until its check or target changes. Never re-used, so that an answer
/// to an old question finds nobody.
pub(super) type Slot = u64;

/// An ask that is due.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) slot: Slot,
    pub(super) check: ProbeCheck,
    pub(super) target: Arc<Target>,
    pub(super) timeout: Duration,
}

/// The schedule of all probes of all instances.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    instances: BTreeMap<InstanceId, Entry>,
    slots: HashMap<Slot, Turn>,
    /// When each slot that is not being asked comes due. Equal moments: first come, first asked.
    due: BTreeSet<(Instant, Slot)>,
    minted: Slot,
}

#[derive(Debug)]
struct Entry {
    watched: Watched,
    slots: BTreeMap<ProbeKind, Slot>,
}

/// Where one slot is.
#[derive(Debug)]
struct Turn {
    instance: InstanceId,
    kind: ProbeKind,
    probe: Probe,
    pace: Pace,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Due(Instant),
    Asking { since: Instant },
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    /// Until the first pass, at doubling distances.
    Early {
        /// From the coming ask to the one after it.
        distance: Duration,
        /// When a period began that no failure has been counted for.
        period_since: Instant,
    },
    /// Once each period.
    Regular,
}

impl Schedule {
    /// Makes `wanted` the whole set, and answers the slots that ended.
    pub(super) fn set(&mut self, wanted: BTreeMap<InstanceId, Watched>, now: Instant) -> Vec<Slot> {
        let gone = self.instances.keys().filter(|id| !wanted.contains_key(id));
        let gone: Vec<_> = gone.cloned().collect();
        let mut ended: Vec<_> = gone.iter().flat_map(|id| self.forget(id)).collect();
        for (id, watched) in wanted {
            ended.extend(self.watch(id, watched, now));
        }
        ended
    }

    /// Takes an instance in, or takes over what changed of it, and answers the slots that ended.
    pub(super) fn watch(&mut self, id: InstanceId, watched: Watched, now: Instant) -> Vec<Slot> {
        let before = self.instances.remove(&id);
        let (old, mut slots) = match before {
            Some(entry) if entry.watched == watched => {
                self.instances.insert(id, entry);
                return Vec::new();
            }
            Some(entry) => (Some(entry.watched), entry.slots),
            None => (None, BTreeMap::new()),
        };
        let moved = old.as_ref().is_some_and(|old| old.target != watched.target);
        let mut ended = Vec::new();
        for kind in [
            ProbeKind::Startup,
            ProbeKind::Readiness,
            ProbeKind::Liveness,
        ] {
            let wanted = asked(&watched, kind);
            let slot = slots.get(&kind).copied();
            let turn = slot.and_then(|slot| Some((slot, self.slots.get(&slot)?)));
            match (turn, wanted) {
                (Some((slot, turn)), Some(probe)) if turn.probe.check == probe.check && !moved => {
                    if turn.probe != *probe {
                        self.retime(slot, probe.clone(), now);
                    }
                }
                (turn, wanted) => {
                    if let Some((slot, _)) = turn {
                        self.end(slot);
                        slots.remove(&kind);
                        ended.push(slot);
                    }
                    if let Some(probe) = wanted {
                        let found = match old {
                            Some(_) => Found::Fresh,
                            None => watched.found,
                        };
                        let (first, pace) = beginning(&id, kind, probe, watched.stage, found, now);
                        slots.insert(kind, self.begin(&id, kind, probe.clone(), first, pace));
                    }
                }
            }
        }
        self.instances.insert(id, Entry { watched, slots });
        ended
    }

    /// Drops an instance and answers the slots that ended.
    pub(super) fn forget(&mut self, id: &InstanceId) -> Vec<Slot> {
        let entry = self.instances.remove(id);
        let slots: Vec<_> = entry
            .into_iter()
            .flat_map(|e| e.slots.into_values())
            .collect();
        for slot in &slots {
            self.end(*slot);
        }
        slots
    }

    /// When the next ask is due; `None` = nothing waits.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes at most `room` asks, the longest due first; none before the first is due. Those that
    /// would come due a moment later come along, since each wake-up costs as much as an ask.
    pub(super) fn take_due(&mut self, now: Instant, room: usize) -> Vec<Ask> {
        let mut taken = Vec::new();
        if self.next().is_none_or(|at| at > now) {
            return taken;
        }
        while taken.len() < room
            && let Some((at, slot)) = self.due.first().copied()
            && let Some(turn) = self.slots.get_mut(&slot)
            && let Some(entry) = self.instances.get(&turn.instance)
            && at <= now + turn.pace.slack(&turn.probe)
        {
            self.due.pop_first();
            turn.state = State::Asking { since: now };
            taken.push(Ask {
                slot,
                check: turn.probe.check.clone(),
                target: Arc::clone(&entry.watched.target),
                timeout: turn.probe.timeout.get(),
            });
        }
        taken
    }

    /// Takes an answer in, sets the next ask, and says what there is to report. An answer of a
    /// slot that ended meanwhile, and an error of ours, are nothing to report.
    pub(super) fn answered(
        &mut self,
        slot: Slot,
        answer: Result<ProbeOutcome, AskError>,
        now: Instant,
    ) -> Option<Report> {
        let turn = self.slots.get_mut(&slot)?;
        let State::Asking { since } = turn.state else {
            return None;
        };
        let counts = turn
            .pace
            .take_answer(answer.as_ref().ok(), &turn.probe, since);
        let next = match &answer {
            // It is known as soon as the driver has looked.
            Err(AskError::NotSeen { .. }) => now + EARLY_MAX.min(period(&turn.probe)),
            Ok(_) | Err(_) => turn.pace.after(&turn.probe, since, now),
        };
        turn.state = State::Due(next);
        self.due.insert((next, slot));
        Some(Report {
            instance: turn.instance.clone(),
            kind: turn.kind,
            outcome: answer.ok()?,
            counts,
            took: now.saturating_duration_since(since),
        })
    }

    fn begin(
        &mut self,
        id: &InstanceId,
        kind: ProbeKind,
        probe: Probe,
        first: Instant,
        pace: Pace,
    ) -> Slot {
        self.minted += 1;
        let slot = self.minted;
        let turn = Turn {
            instance: id.clone(),
            kind,
            probe,
            pace,
            state: State::Due(first),
        };
        self.slots.insert(slot, turn);
        self.due.insert((first, slot));
        slot
    }

    fn end(&mut self, slot: Slot) {
        if let Some(Turn {
            state: State::Due(at),
            ..
        }) = self.slots.remove(&slot)
        {
            self.due.remove(&(at, slot));
        }
    }

    /// Other figures, the same question. A shorter period is kept from now on; a longer one from
    /// the next ask on.
    fn retime(&mut self, slot: Slot, probe: Probe, now: Instant) {
        let Some(turn) = self.slots.get_mut(&slot) else {
            return;
        };
        if let State::Due(at) = turn.state {
            let sooner = at.min(now + period(&probe));
            self.due.remove(&(at, slot));
            self.due.insert((sooner, slot));
            turn.state = State::Due(sooner);
        }
        turn.probe = probe;
    }
}

impl Pace {
    /// Notes an answer to an ask of `since` and says whether it counts.
    fn take_answer(
        &mut self,
        outcome: Option<&ProbeOutcome>,
        probe: &Probe,
        since: Instant,
    ) -> Counts {
        let Self::Early { period_since, .. } = self else {
            return Counts::Counted;
        };
        match outcome {
            Some(ProbeOutcome::Pass) => {
                *self = Self::Regular;
                Counts::Early
            }
            Some(ProbeOutcome::Fail(_)) if since - *period_since >= period(probe) => {
                *period_since = since;
                Counts::Counted
            }
            Some(ProbeOutcome::Fail(_)) | None => Counts::Early,
        }
    }

    /// How much sooner than due an ask may come. Asks that came together once stay together.
    fn slack(&self, probe: &Probe) -> Duration {
        match self {
            Self::Early { .. } => Duration::ZERO,
            Self::Regular => period(probe) / 40,
        }
    }

    /// When to ask after an ask that began at `since` and ended `now`.
    fn after(&mut self, probe: &Probe, since: Instant, now: Instant) -> Instant {
        match self {
            Self::Early { distance, .. } => {
                let longest = EARLY_MAX.min(period(probe));
                let next = (since + *distance).max(now + (now - since).min(longest));
                *distance = (*distance * 2).min(longest);
                next
            }
            Self::Regular => (since + period(probe)).max(now),
        }
    }
}

/// The probe of `kind`, if it is to be asked now.
fn asked(watched: &Watched, kind: ProbeKind) -> Option<&Probe> {
    let Probes {
        startup,
        readiness,
        liveness,
    } = &watched.probes;
    let starting = watched.stage == Stage::Starting && startup.is_some();
    let probe = match kind {
        ProbeKind::Startup => startup.as_ref().filter(|_| starting),
        ProbeKind::Readiness => readiness.as_ref().filter(|_| !starting),
        ProbeKind::Liveness => liveness.as_ref().filter(|_| !starting),
    };
    probe.filter(|probe| match probe.check {
        ProbeCheck::Http(_)
        | ProbeCheck::Grpc { .. }
        | ProbeCheck::Tcp { .. }
        | ProbeCheck::Exec { .. } => true,
        ProbeCheck::Heartbeat { .. } => false,
    })
}

/// The first ask of a probe, and its pace from then on.
fn beginning(
    id: &InstanceId,
    kind: ProbeKind,
    probe: &Probe,
    stage: Stage,
    found: Found,
    now: Instant,
) -> (Instant, Pace) {
    let early = Pace::Early {
        distance: (FIRST * 2).min(period(probe)),
        period_since: now,
    };
    let spread = now + spread(id, kind, period(probe));
    match (kind, stage, found) {
        (ProbeKind::Startup, _, _)
        | (ProbeKind::Readiness, Stage::Starting | Stage::Started, _) => (now + FIRST, early),
        (ProbeKind::Readiness, Stage::Proven, Found::Fresh) => (now + FIRST, Pace::Regular),
        (ProbeKind::Readiness, Stage::Proven, Found::Adopted)
        | (ProbeKind::Liveness, _, Found::Adopted) => (spread, Pace::Regular),
        // What has only just started is given one period before it can be found dead.
        (ProbeKind::Liveness, _, Found::Fresh) => (now + period(probe), Pace::Regular),
    }
}

/// The distance of a probe's asks; never so short that it would be asked without pause.
fn period(probe: &Probe) -> Duration {
    probe.period.get().max(FIRST)
}

/// A part of `period` that is the same whenever it is asked for, and different for each probe.
fn spread(id: &InstanceId, kind: ProbeKind, period: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (id, kind).hash(&mut hasher);
    // The upper half of the hash as a fraction of 2^32.
    let fraction = (hasher.finish() >> 32) as f64 / f64::from(u32::MAX);
    period.mul_f64(fraction)
}
