//! What an edit gives from one instance to another changes hands in order: the new one begins when
//! the old one is gone, though their names have nothing to do with each other.
//!
//! A component that an edit brings waits for all that the same edit removes from the same driver,
//! since any of it may be its predecessor under another name, and for whoever has what it is to
//! have: a port, a container's name, a volume, a folder of its own. All of this is read from what
//! lives and what is wanted, so it outlasts the daemon.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Claim, ComponentId, ComponentSpec, DriverKind, Hold, Holder, Instance, InstanceId, PipelineKey,
    Record, ReplicaKey,
};

use super::{Desired, Observed, leaves_for_good};

/// A live instance that has to go, or to make room for one of another definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaving {
    /// Which one.
    pub instance: InstanceId,
    /// Who runs it.
    pub driver: DriverKind,
    /// What it has, and will not have again.
    pub claims: BTreeSet<Claim>,
    /// How it is bound to what comes.
    pub bond: Bond,
}

/// How a leaving instance is bound to what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// The edit took its component away: what the edit brings may be the same under another name.
    Removed,
    /// It goes for another reason, and none of its component follows.
    Stops,
    /// Another definition of its component follows.
    Replaced,
}

/// The instances of a pipeline that have to go, with what they leave.
pub fn leaving(desired: &Desired, records: &BTreeMap<ReplicaKey, Record>) -> Vec<Leaving> {
    let leaving = |(key, record): (&ReplicaKey, &Record)| {
        let instance = record.instance.as_ref()?;
        let spec = desired.spec.components.get(&key.component);
        let claims = |spec: &ComponentSpec| spec.claims(key.replica, desired.folder.as_deref());
        let (bond, claims) = match (leaves_for_good(desired, key, record), spec) {
            (Some(_), None) => (Bond::Removed, instance.holds.iter().cloned().collect()),
            (Some(_), Some(spec)) if instance.spec == spec.hash => (Bond::Stops, claims(spec)),
            (Some(_), Some(_)) => (Bond::Stops, instance.holds.iter().cloned().collect()),
            (None, Some(spec)) if instance.spec != spec.hash => {
                let kept = claims(spec);
                let mut held: BTreeSet<Claim> = instance.holds.iter().cloned().collect();
                held.retain(|claim| !kept.contains(claim));
                (Bond::Replaced, held)
            }
            (None, _) => return None,
        };
        Some(Leaving {
            instance: instance.id.clone(),
            driver: instance.driver,
            claims,
            bond,
        })
    };
    records.iter().filter_map(leaving).collect()
}

/// The leaving instances that a pipeline has to heed: its own and those of others.
pub(super) struct Handovers<'a> {
    desired: &'a Desired,
    records: &'a BTreeMap<ReplicaKey, Record>,
    own: Vec<Leaving>,
    elsewhere: &'a [Leaving],
    /// Instances that have something for which a replica that does not run waits.
    awaited: BTreeSet<InstanceId>,
}

impl<'a> Handovers<'a> {
    pub fn new(desired: &'a Desired, observed: &'a Observed<'_>) -> Self {
        let records = observed.records.as_ref();
        let mut handovers = Self {
            desired,
            records,
            own: leaving(desired, records),
            elsewhere: observed.leaving_elsewhere.as_ref(),
            awaited: BTreeSet::new(),
        };
        if handovers.own.iter().any(|one| one.bond == Bond::Replaced) {
            let elsewhere = observed.awaited_elsewhere.iter();
            handovers.awaited = elsewhere.map(|id| (*id).clone()).collect();
            let waiting: Vec<InstanceId> = desired
                .replicas()
                .filter(|(key, _)| !handovers.lives(key))
                .flat_map(|(key, spec)| handovers.holders(&key, spec))
                .map(|holder| holder.instance)
                .collect();
            handovers.awaited.extend(waiting);
        }
        handovers
    }

    /// Whether somebody who does not run waits for what `instance` has.
    pub fn is_awaited(&self, instance: &InstanceId) -> bool {
        self.awaited.contains(instance)
    }

    /// What has to be gone before an instance of `key` starts.
    pub fn before_starting(&self, key: &ReplicaKey, spec: &ComponentSpec) -> Option<Hold> {
        hold(self.holders(key, spec).collect())
    }

    /// What has to be gone before `instance` makes room for its successor of `spec`. Those that are
    /// to be replaced themselves may wait for it in turn, so nobody waits for them here.
    pub fn before_replacing(&self, instance: &Instance, spec: &ComponentSpec) -> Option<Hold> {
        if self.own.is_empty() && self.elsewhere.is_empty() {
            return None;
        }
        let replica = instance.id.replica.replica;
        let mut wanted = spec.claims(replica, self.desired.folder.as_deref());
        for had in &instance.holds {
            wanted.remove(had);
        }
        let holders = self.all().filter_map(|one| match one.bond {
            Bond::Removed | Bond::Stops => {
                let claim = one.claims.intersection(&wanted).next()?.clone();
                (one.instance != instance.id).then(|| self.holder(one, Some(claim)))
            }
            Bond::Replaced => None,
        });
        hold(holders.collect())
    }

    fn holders(
        &self,
        key: &ReplicaKey,
        spec: &ComponentSpec,
    ) -> impl Iterator<Item = Holder> + use<'_, 'a> {
        let nobody_goes = self.own.is_empty() && self.elsewhere.is_empty();
        let is_new = !nobody_goes && self.is_new(spec);
        let mut wanted = if nobody_goes {
            BTreeSet::new()
        } else {
            spec.claims(key.replica, self.desired.folder.as_deref())
        };
        // What several may share is taken over with the first start only.
        wanted.retain(|claim| is_new || claim.is_exclusive());
        let (key, driver) = (key.clone(), spec.driver());
        self.all().filter_map(move |one| {
            let is_self = self.is_own(one) && one.instance.replica == key;
            if is_self {
                return None;
            }
            let claim = one.claims.intersection(&wanted).next().cloned();
            let may_be_it = match one.bond {
                Bond::Removed => is_new && one.driver == driver,
                Bond::Stops | Bond::Replaced => false,
            };
            (claim.is_some() || may_be_it).then(|| self.holder(one, claim))
        })
    }

    fn all(&self) -> impl Iterator<Item = &Leaving> {
        self.own.iter().chain(self.elsewhere)
    }

    fn is_own(&self, one: &Leaving) -> bool {
        one.instance.pipeline == self.desired.key
    }

    fn holder(&self, one: &Leaving, claim: Option<Claim>) -> Holder {
        let pipeline: Option<PipelineKey> =
            (!self.is_own(one)).then(|| one.instance.pipeline.clone());
        Holder {
            instance: one.instance.clone(),
            pipeline,
            claim,
        }
    }

    fn lives(&self, key: &ReplicaKey) -> bool {
        let record = self.records.get(key);
        record.is_some_and(|record| record.instance.is_some())
    }

    /// Whether no replica of the component was ever started.
    fn is_new(&self, spec: &ComponentSpec) -> bool {
        let id: &ComponentId = &spec.id;
        (0..spec.replicas).all(|replica| {
            let component = id.clone();
            let record = self.records.get(&ReplicaKey { component, replica });
            record.is_none_or(|record| record.incarnation == 0)
        })
    }
}

fn hold(holders: Vec<Holder>) -> Option<Hold> {
    (!holders.is_empty()).then_some(Hold::Handover { holders })
}
