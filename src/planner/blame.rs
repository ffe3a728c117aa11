//! Whose fault an end is: a component that exits since an upstream of it is away spends none of its
//! own restarts.
//!
//! An upstream is to blame, near or far, if it was away at some moment of the program's life that is
//! not long past when it ended. What counts are the moments at which things happened, not those at
//! which they were told: an engine tells ends late, and in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::{
    Charge, ComponentId, ComponentSpec, Condition, Health, Phase, PipelineSpec, Record, ReplicaKey,
    Timestamp,
};

use super::gate;
use super::restart::{self, Verdict};

/// The probe period that is assumed for a component without a readiness probe: kubelet's default.
const DEFAULT_PERIOD: Duration = Duration::from_secs(10);
/// So long does a program take to give up on an upstream that is back already, or to notice.
const AFTERMATH: Duration = Duration::from_secs(5);

/// A time in which an upstream was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    /// Since when, as far as is known.
    from: Timestamp,
    /// Until when; `None` = it lasts.
    until: Option<Timestamp>,
    /// Whether it comes back without a person.
    comes_back: bool,
}

/// The life of a program that ended.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// When it had started; `None` = not known.
    since: Option<Timestamp>,
    /// When it ended.
    at: Timestamp,
}

/// How far an upstream is from a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distance {
    /// It is named by the component.
    Direct,
    /// It is an upstream of an upstream.
    Far,
}

/// Whom an end of `component` is charged to: its program had started at `since` and ended at `at`.
/// Near upstreams go before far ones, and those that are away still before those that are back.
pub fn charge(
    spec: &PipelineSpec,
    records: &BTreeMap<ReplicaKey, Record>,
    component: &ComponentSpec,
    since: Option<Timestamp>,
    at: Timestamp,
) -> Charge {
    let life = Life { since, at };
    let mut back = None;
    for (upstream, distance) in upstreams(spec, component) {
        for outage in outages(upstream, records) {
            if !explains(outage, upstream, life, distance) {
                continue;
            }
            match outage.until {
                None => return Charge::Upstream(upstream.id.clone()),
                Some(_) => back = back.or(Some(&upstream.id)),
            }
        }
    }
    back.map_or(Charge::Own, |id| Charge::Upstream(id.clone()))
}

/// Whether `upstream` explains an end of `component`.
pub fn is_fault_of(
    upstream: &ComponentId,
    spec: &PipelineSpec,
    records: &BTreeMap<ReplicaKey, Record>,
    component: &ComponentSpec,
    since: Option<Timestamp>,
    at: Timestamp,
) -> bool {
    let life = Life { since, at };
    let mut all = upstreams(spec, component);
    let Some((blamed, distance)) = all.find(|(one, _)| one.id == *upstream) else {
        return false;
    };
    outages(blamed, records).any(|outage| explains(outage, blamed, life, distance))
}

/// All upstreams of `component`, the nearest first, each once. What has to be completed is over by
/// the time that it matters.
fn upstreams<'a>(
    spec: &'a PipelineSpec,
    component: &'a ComponentSpec,
) -> impl Iterator<Item = (&'a ComponentSpec, Distance)> {
    let mut seen: BTreeSet<&ComponentId> = [&component.id].into();
    let mut open: VecDeque<(&ComponentSpec, Distance)> = VecDeque::new();
    let extend = move |of: &'a ComponentSpec,
                       distance: Distance,
                       open: &mut VecDeque<(&'a ComponentSpec, Distance)>,
                       seen: &mut BTreeSet<&'a ComponentId>| {
        for dependency in &of.dependencies {
            match dependency.condition {
                Condition::Completed => continue,
                Condition::Started | Condition::Ready => {}
            }
            if let Some(next) = spec.components.get(&dependency.id)
                && seen.insert(&next.id)
            {
                open.push_back((next, distance));
            }
        }
    };
    extend(component, Distance::Direct, &mut open, &mut seen);
    std::iter::from_fn(move || {
        let (next, distance) = open.pop_front()?;
        extend(next, Distance::Far, &mut open, &mut seen);
        Some((next, distance))
    })
}

/// The latest outage of each replica of `upstream` that had one.
fn outages<'a>(
    upstream: &'a ComponentSpec,
    records: &'a BTreeMap<ReplicaKey, Record>,
) -> impl Iterator<Item = Outage> + 'a {
    (0..upstream.replicas).filter_map(|replica| {
        let component = upstream.id.clone();
        let key = ReplicaKey { component, replica };
        match records.get(&key) {
            // It has never run.
            None => Some(lasting(Timestamp::default(), upstream, &Record::default())),
            Some(record) => outage(upstream, record),
        }
    })
}

fn outage(upstream: &ComponentSpec, record: &Record) -> Option<Outage> {
    let ended = record.history.last.as_ref().map(|last| last.exit.at);
    let Some(instance) = &record.instance else {
        if gate::is_completed(upstream, record) {
            return None;
        }
        return Some(lasting(ended.unwrap_or_default(), upstream, record));
    };
    match &instance.phase {
        Phase::Starting { since, .. } => Some(lasting(ended.unwrap_or(*since), upstream, record)),
        Phase::Stopping { since, .. } => Some(lasting(*since, upstream, record)),
        Phase::Running { since, health } => running(*since, health, ended, upstream, record),
    }
}

fn running(
    since: Timestamp,
    health: &Health,
    ended: Option<Timestamp>,
    upstream: &ComponentSpec,
    record: &Record,
) -> Option<Outage> {
    // The end before it, or else its own beginning.
    let before = ended.filter(|ended| *ended <= since).unwrap_or(since);
    match (health.ready, health.ready_changed) {
        (false, Some(lost)) => Some(lasting(lost, upstream, record)),
        (false, None) => Some(lasting(before, upstream, record)),
        (true, changed) => Some(Outage {
            from: before,
            until: Some(changed.unwrap_or(since).max(since)),
            comes_back: true,
        }),
    }
}

fn lasting(from: Timestamp, upstream: &ComponentSpec, record: &Record) -> Outage {
    let is_there = record.instance.is_some();
    Outage {
        from,
        until: None,
        comes_back: is_there || comes_back(upstream, record),
    }
}

fn comes_back(upstream: &ComponentSpec, record: &Record) -> bool {
    if gate::is_stopped(record) {
        return false;
    }
    match restart::verdict(
        &upstream.restart,
        record,
        &upstream.hash,
        Timestamp::default(),
    ) {
        Verdict::Start(_) | Verdict::Backoff { .. } | Verdict::AwaitUpstream(_) => true,
        Verdict::Completed | Verdict::Failed { .. } | Verdict::GaveUp { .. } => false,
    }
}

/// Whether `outage` of `upstream` explains the end of a program that lived so.
fn explains(outage: Outage, upstream: &ComponentSpec, life: Life, distance: Distance) -> bool {
    // That it is away is noticed by a probe, later.
    let in_time = outage.from <= life.at.after(notice(upstream));
    let Some(until) = outage.until else {
        // One that is far and stays away was no fault of programs that began without it.
        let began_without = life.since.is_some_and(|since| outage.from < since);
        return in_time && (outage.comes_back || distance == Distance::Direct || !began_without);
    };
    // A program that began when all was well again has nothing to do with what was before.
    let shared = life.since.is_none_or(|since| since < until);
    in_time && shared && life.at <= until.after(AFTERMATH)
}

/// How long it may take until it shows that `upstream` is away: two periods of its probe, or as many
/// as the probe may fail.
fn notice(upstream: &ComponentSpec) -> Duration {
    match &upstream.probes.readiness {
        None => DEFAULT_PERIOD.saturating_mul(2),
        Some(probe) => probe.period.get().saturating_mul(probe.failures.max(2)),
    }
}
