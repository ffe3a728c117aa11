//! Looking: the jobs that carry our mark, their placements, and each that a list leaves out by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::client::Ask;
use super::failure::Failure;
use super::ledger::{Entry, Keeps};
use super::sight::{Asked, Seen};
use super::wire::{Allocation, Evaluation, Job};
use super::{Inner, Named, Place, lock, names, placement};
use crate::driver::{Description, DriverError, Look};
use crate::model::{
    Disruption, DisruptionKind, DriverKind, Exit, Hidden, InstanceId, Life, Pending, Sighting,
};

const LOOK: &str = "look at its jobs";
/// How often, and how soon after each other, it is looked for what a program has written that ended.
const WORDS: usize = 3;
const WORDS_AGAIN: Duration = Duration::from_millis(100);

/// What a look at one job has found.
pub(super) enum Found {
    /// It is there.
    There(Box<Seen>),
    /// It is not there, and whoever says so knows that.
    Gone,
    /// It is there, and another's.
    Foreign(String),
}

impl Inner {
    /// All places that hold something of ours, or that components name.
    fn all_places(self: &Arc<Self>) -> Vec<Arc<Place>> {
        let mut named: BTreeSet<Named> = lock(&self.places).places.keys().cloned().collect();
        for (_, entry) in self.ledger.all() {
            named.insert(Named {
                address: entry.address,
                namespace: entry.namespace,
            });
        }
        for partition in &*lock(&self.attended) {
            // One that components name at another address is found by what was registered there.
            let known = named
                .iter()
                .any(|it| it.namespace.as_deref() == Some(partition.as_str()));
            if !known {
                named.insert(Named {
                    address: None,
                    namespace: Some(partition.as_str().to_owned()),
                });
            }
        }
        // An address that cannot be read was refused before anything was registered there.
        named
            .iter()
            .filter_map(|named| self.place(named).ok())
            .collect()
    }

    pub(super) async fn look_at_all(self: &Arc<Self>) -> Result<Look, DriverError> {
        let places = self.all_places();
        let looks = places.iter().map(|place| self.look_at_place(place));
        let looks = futures_util::future::join_all(looks).await;
        let mut look = Look::default();
        let mut taken = BTreeSet::new();
        for (place, looked) in places.iter().zip(looks) {
            match looked {
                Ok(sightings) => {
                    // Two names may mean one place.
                    let new = sightings
                        .into_iter()
                        .filter(|it| taken.insert(it.0.instance.clone()));
                    for (sighting, hidden) in new {
                        match hidden {
                            Some(why) => {
                                drop(look.hidden.insert(Hidden::Instance(sighting.instance), why))
                            }
                            None => look.sightings.push(sighting),
                        }
                    }
                }
                Err(failure) => self.hide(place, &failure, &mut look)?,
            }
        }
        Ok(look)
    }

    /// Nothing is known of what is in `place`.
    fn hide(&self, place: &Place, failure: &Failure, look: &mut Look) -> Result<(), DriverError> {
        let why = failure.to_string();
        match (&place.named.namespace, &place.named.address) {
            (None, None) => return Err(failure.unreachable(LOOK)),
            (Some(namespace), _) => {
                let partition = crate::model::Partition::new(namespace.clone());
                look.hidden.insert(Hidden::Partition(partition), why);
            }
            (None, Some(_)) => {
                let all = self.ledger.all().into_iter();
                let there = all.filter(|(_, entry)| {
                    entry.address == place.named.address && entry.namespace.is_none()
                });
                for (instance, _) in there {
                    look.hidden.insert(Hidden::Instance(instance), why.clone());
                }
            }
        }
        Ok(())
    }

    async fn look_at_place(
        self: &Arc<Self>,
        place: &Arc<Place>,
    ) -> Result<Vec<(Sighting, Option<String>)>, Failure> {
        let owner = &self.config.owner;
        let jobs = Ask::read(&["jobs"])
            .with("namespace", place.namespace.as_str())
            .with("meta", "true")
            .with("filter", names::jobs_of(owner));
        let jobs: Vec<Job> = place.client.json(jobs).await?.body;
        let placements = match jobs.is_empty() {
            true => Vec::new(),
            false => place.placements(names::placements_of(owner)).await?,
        };
        let mut by_job: BTreeMap<String, Vec<Allocation>> = BTreeMap::new();
        for placement in placements {
            by_job
                .entry(placement.job_id.clone())
                .or_default()
                .push(placement);
        }
        let mut sightings = Vec::new();
        let mut seen_here = BTreeSet::new();
        for job in jobs {
            let placements = by_job.remove(&job.id).unwrap_or_default();
            let Some(seen) = self.seen(place, job, placements).await? else {
                continue;
            };
            seen_here.insert(seen.instance.clone());
            sightings.push(self.tell(place, seen));
        }
        for (instance, entry) in self.ledger.all() {
            let is_here =
                entry.address == place.named.address && entry.namespace == place.named.namespace;
            if !is_here || seen_here.contains(&instance) {
                continue;
            }
            match self.look_at_job(place, &instance).await? {
                Found::There(seen) => sightings.push(self.tell(place, *seen)),
                Found::Foreign(_) => {}
                Found::Gone => {
                    if let Some(gone) = self.gone(place, &instance, &entry).await? {
                        sightings.push((gone, None));
                    }
                }
            }
        }
        let mut album = lock(&self.album);
        album.retain(|instance, (of, _)| {
            !Arc::ptr_eq(of, place)
                || seen_here.contains(instance)
                || self.ledger.get(instance).is_some()
        });
        Ok(sightings)
    }

    pub(super) async fn look_at_some(
        self: &Arc<Self>,
        wanted: &BTreeSet<InstanceId>,
    ) -> Result<Look, DriverError> {
        let looks = wanted.iter().map(|instance| async move {
            let Some(place) = self.place_of(instance) else {
                return Ok((instance, None, None));
            };
            let looked = self.look_at_job(&place, instance).await;
            let gone = match (&looked, self.ledger.get(instance)) {
                (Ok(Found::Gone), Some(entry)) => self.gone(&place, instance, &entry).await,
                (Ok(Found::Gone | Found::There(_) | Found::Foreign(_)) | Err(_), _) => Ok(None),
            };
            match (looked, gone) {
                (Err(failure), _) | (_, Err(failure)) => Err((place, failure)),
                (Ok(Found::There(seen)), _) => {
                    let (sighting, hidden) = self.tell(&place, *seen);
                    Ok((instance, Some(sighting), hidden))
                }
                (Ok(Found::Gone | Found::Foreign(_)), Ok(gone)) => Ok((instance, gone, None)),
            }
        });
        let looks = futures_util::future::join_all(looks).await;
        let mut look = Look::default();
        for looked in looks {
            match looked {
                Ok((instance, _, Some(why))) => {
                    look.hidden.insert(Hidden::Instance(instance.clone()), why);
                }
                Ok((_, sighting, None)) => look.sightings.extend(sighting),
                Err((place, failure)) => self.hide(&place, &failure, &mut look)?,
            }
        }
        Ok(look)
    }

    /// Looks at the job of one instance.
    pub(super) async fn look_at_job(
        self: &Arc<Self>,
        place: &Arc<Place>,
        instance: &InstanceId,
    ) -> Result<Found, Failure> {
        let id = names::job(&self.config.owner, instance);
        let job = Ask::read(&["job", &id]).with("namespace", place.namespace.as_str());
        let job: Job = match place.client.json(job).await {
            Ok(answer) => answer.body,
            Err(Failure::Absent(_)) => return Ok(Found::Gone),
            Err(failure) => return Err(failure),
        };
        let owner = job.meta.get(names::OWNER);
        if owner != Some(&self.config.owner) {
            return Ok(Found::Foreign(match owner {
                Some(owner) => format!("another flowctl made ({owner})"),
                None => "flowctl did not make".to_owned(),
            }));
        }
        let placements = place.placements(names::placements_of_job(&id)).await?;
        match self.seen(place, job, placements).await? {
            Some(seen) => Ok(Found::There(Box::new(seen))),
            None => Ok(Found::Foreign(
                "does not say of which component it is".to_owned(),
            )),
        }
    }

    /// Reads a job of ours; of one that waits for a place, also what for.
    async fn seen(
        self: &Arc<Self>,
        place: &Arc<Place>,
        job: Job,
        placements: Vec<Allocation>,
    ) -> Result<Option<Seen>, Failure> {
        let Some(instance) = names::instance(&job) else {
            return Ok(None);
        };
        let description = match self.remembered(&instance) {
            Some(description) => Some(description),
            None => match names::read(&job) {
                Ok(description) => Some(Arc::new(description)),
                Err(why) => {
                    tracing::warn!(%instance, why, "a job does not say what it was started from");
                    None
                }
            },
        };
        let (asked, now) = (self.ledger.asked(&instance), self.clock.now());
        let seen = Seen::of(job, description, placements, asked, now);
        let Some(mut seen) = seen else {
            return Ok(None);
        };
        if seen.placements.is_empty()
            && let Life::Pending(Pending { why, .. }) = &mut seen.life
        {
            let of = Ask::read(&["job", &seen.job.id, "evaluations"])
                .with("namespace", place.namespace.as_str());
            let evaluations: Vec<Evaluation> = match place.client.json(of).await {
                Ok(answer) => answer.body,
                // It goes at this moment.
                Err(Failure::Absent(_)) => Vec::new(),
                Err(failure) => return Err(failure),
            };
            *why = Some(placement::why(&evaluations, now));
            seen.room = placement::room(&evaluations);
        }
        if let (Asked::No, Some(placement)) = (asked, seen.may_not_have_begun()) {
            let said = place.first_words(&placement).await;
            seen.without_program(&said);
        }
        Ok(Some(seen))
    }

    /// What an instance was started from, if it was looked at before.
    fn remembered(&self, instance: &InstanceId) -> Option<Arc<Description>> {
        let album = lock(&self.album);
        album
            .get(instance)
            .and_then(|(_, seen)| seen.description.clone())
    }

    /// Notes what was seen, and answers what is told of it, and why it is out of sight if it is.
    pub(super) fn tell(
        self: &Arc<Self>,
        place: &Arc<Place>,
        seen: Seen,
    ) -> (Sighting, Option<String>) {
        let sighting = self.sighting(place, &seen);
        let hidden = seen.hidden.clone();
        self.copy_output(place, &seen);
        lock(&self.album).insert(seen.instance.clone(), (Arc::clone(place), seen));
        (sighting, hidden)
    }

    pub(super) fn sighting(&self, place: &Place, seen: &Seen) -> Sighting {
        let address = place.client.address().to_string();
        seen.sighting(&address, &place.namespace, self.clock.now())
    }

    /// What is told of an instance whose job is gone without our doing; `None` = it was never there, or
    /// we have removed it.
    async fn gone(
        self: &Arc<Self>,
        place: &Arc<Place>,
        instance: &InstanceId,
        entry: &Entry,
    ) -> Result<Option<Sighting>, Failure> {
        let job = Job {
            id: entry.job.clone(),
            meta: entry.meta.clone(),
            stop: true,
            ..Job::default()
        };
        // Its placements outlive it for hours, and tell how it ended.
        let placements = place
            .placements(names::placements_of_job(&entry.job))
            .await?;
        if placements.is_empty() && lock(&self.album).get(instance).is_none() && !entry.was_tagged()
        {
            // Its registration may never have come through.
            return Ok(None);
        }
        let description = self
            .remembered(instance)
            .or_else(|| names::read(&job).ok().map(Arc::new));
        let (asked, now) = (entry.stop.into(), self.clock.now());
        let Some(mut seen) = Seen::of(job, description, placements, asked, now) else {
            return Ok(None);
        };
        let exit = Exit::unknown(None, now);
        let by_hand = |exit| Life::Disrupted {
            exit,
            disruption: Disruption {
                kind: DisruptionKind::DeletedByHand,
                message: Some("its job was purged".to_owned()),
            },
        };
        seen.life = match (asked, seen.life) {
            (Asked::Yes, _) if seen.placements.is_empty() => return Ok(None),
            // Nomad has not told yet that its program ends with it.
            (_, life) if life.is_alive() => by_hand(exit),
            (Asked::No, _) if seen.placements.is_empty() => match entry.kept {
                Keeps::Tagged => by_hand(exit),
                Keeps::Untagged => Life::Lost { at: now },
            },
            (Asked::Yes | Asked::No, life) => life,
        };
        Ok(Some(self.sighting(place, &seen)))
    }

    /// What all jobs of ours were started from.
    pub(super) async fn describe_all(self: &Arc<Self>) -> Result<Vec<Description>, DriverError> {
        let mut places = self.all_places();
        let own = self
            .place(&Named::default())
            .map_err(|error| DriverError::Unreachable {
                driver: DriverKind::Nomad,
                operation: LOOK.to_owned(),
                why: error.to_string(),
            })?;
        if self.is_told() && !places.iter().any(|place| Arc::ptr_eq(place, &own)) {
            places.push(own);
        }
        let mut all: BTreeMap<InstanceId, Description> = BTreeMap::new();
        for place in places {
            let jobs = Ask::read(&["jobs"])
                .with("namespace", place.namespace.as_str())
                .with("meta", "true")
                .with("filter", names::jobs_of(&self.config.owner));
            let jobs: Vec<Job> = match place.client.json(jobs).await {
                Ok(answer) => answer.body,
                Err(failure) => return Err(failure.unreachable(LOOK)),
            };
            for description in jobs.iter().filter_map(|job| names::read(job).ok()) {
                all.insert(description.instance.clone(), description);
            }
        }
        Ok(all.into_values().collect())
    }
}

impl Entry {
    /// Whether it was certainly registered.
    fn was_tagged(&self) -> bool {
        self.kept == Keeps::Tagged
    }
}

impl Place {
    /// What a program has written first to its standard error, as far as its node has it soon.
    async fn first_words(&self, placement: &str) -> String {
        for _ in 0..WORDS {
            let ask = Ask::read(&["client", "fs", "readat", placement])
                .with("namespace", self.namespace.as_str())
                .with("path", format!("alloc/logs/{}.stderr.0", names::MAIN))
                .with("offset", "0")
                .with("limit", "1024");
            match self.client.bytes(ask).await {
                Ok(answer) if !answer.body.is_empty() => {
                    return String::from_utf8_lossy(&answer.body).into_owned();
                }
                Ok(_) | Err(_) => tokio::time::sleep(WORDS_AGAIN).await,
            }
        }
        String::new()
    }

    /// The placements that `filter` finds.
    pub(super) async fn placements(&self, filter: String) -> Result<Vec<Allocation>, Failure> {
        let ask = Ask::read(&["allocations"])
            .with("namespace", self.namespace.as_str())
            .with("task_states", "true")
            .with("resources", "true")
            .with("filter", filter);
        Ok(self.client.json(ask).await?.body)
    }
}
