//! Who has registered with the control plane, and when each was last heard of.
//!
//! **Guarantees.** Pure: time and evidence are inputs. An id stays with its component over restarts
//! of either side. A heartbeat of an id that is not known is taken in, since no client of the field
//! registers twice. Any heartbeat clears silence. What is kept is bounded, whatever arrives.
//!
//! **Caveats.** Heartbeats are not recorded one by one: the moment of the last one is recorded when
//! the record is written for another reason, or lags by 15 minutes.

mod beats;
mod commands;
mod correlate;
mod hook;
mod identity;
mod notes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    About, Hearing, InstanceId, Metrics, Owner, Patience, Provenance, RegistrationRecord,
    ServiceHealth, ServiceId, ServiceKind, Timestamp,
};

pub use beats::{Beat, Beats, Room, TooMany};
pub use commands::{Identified, RegistryCommand};
pub use correlate::{Ancestor, Peer, PeerProcess};
pub(super) use hook::silence;
pub use identity::Identity;
pub use notes::{Note, NoteKey, Notes};

/// Registrations that are kept at most of those who belong to nobody here. Who has an owner has room
/// beside them.
const MAX_RECORDS: usize = 4096;
/// Of these, ids that only ever sent heartbeats.
const MAX_STRANGERS: usize = 1024;
/// Registrations that one replica may have; beyond it, its own oldest goes. A client that cannot
/// register makes up a new id with each of its lives.
const MAX_PER_REPLICA: usize = 16;
/// A client of gRPC that lost its connection tries again after two minutes at the latest, give or
/// take a fifth.
const RECONNECT: Duration = Duration::from_secs(150);
/// Who looks so much too late was not there to listen, such as on a host that slept.
const ABSENCE: Duration = Duration::from_secs(15);
/// Figures that are kept of one component.
const MAX_METRICS: usize = 128;
/// What nobody owns is forgotten after this.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);
/// By how much the recorded moment of the last heartbeat may lag.
const RECORD_LAG: Duration = Duration::from_secs(15 * 60);

/// All registrations by id, as of one moment.
pub type Directory = BTreeMap<ServiceId, Arc<RegistrationRecord>>;

/// What a component says when it registers, and what is known of the caller.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    /// The id that it wants for its heartbeats.
    pub wanted: Option<ServiceId>,
    /// Names that it gives itself, the most trusted first.
    pub names: Vec<String>,
    /// What it says of itself.
    pub about: About,
    /// Where the call came from.
    pub ip: Option<IpAddr>,
    /// Who calls.
    pub who: Identity,
}

/// An answer to a component or a runner, which stands from now on.
#[derive(Debug)]
pub struct Standing<T> {
    /// What is answered.
    pub answer: T,
    /// Fires once the change behind it is recorded, crash-safe; closed when it cannot be, in which
    /// case it stands all the same.
    pub recorded: tokio::sync::oneshot::Receiver<()>,
}

/// Why a registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryRefusal {
    /// The token's instance has ended.
    #[error(
        "the token or process belongs to {0}, which runs no more; use the token in COMPONENT_TOKEN_FILE"
    )]
    EndedInstance(InstanceId),
    /// It belongs to another component.
    #[error("the token or connection belongs to {bearer}, not to `{named}`")]
    Foreign {
        /// Who it is.
        bearer: Identity,
        /// What it was used for.
        named: String,
    },
    /// It belongs to a component here, and nothing proves that the caller is that one.
    #[error(
        "`{named}` belongs to a component that runs here, and nothing proves that {who} is that; \
         send `authorization: Bearer $COMPONENT_TOKEN`"
    )]
    Unproven {
        /// Who calls.
        who: Identity,
        /// What it was used for.
        named: String,
    },
    /// Somebody else told of it.
    #[error("{what} was told of by somebody else, who alone may change it")]
    ToldByAnother {
        /// Which run or chunk.
        what: String,
    },
    /// No room is left.
    #[error("{MAX_RECORDS} components of nobody here are registered, which is the limit")]
    Full,
}

/// One registration and how far its record is behind.
#[derive(Debug)]
struct Entry {
    record: Arc<RegistrationRecord>,
    /// The last sign of life that is recorded.
    recorded: Timestamp,
}

/// The registrations.
#[derive(Debug)]
pub(super) struct Registry {
    entries: BTreeMap<ServiceId, Entry>,
    patience: Patience,
    /// When this daemon began to listen: its absence before counts against no one.
    listening_since: Timestamp,
    /// Since when it has listened without a gap.
    attentive_since: Timestamp,
    sweep_at: Timestamp,
    directory: Option<Arc<Directory>>,
    /// What runners told.
    pub notes: Notes,
    /// Pushed out for others and not yet taken off the record.
    evicted: Vec<ServiceId>,
}

impl Registry {
    pub fn new(
        kept: BTreeMap<ServiceId, RegistrationRecord>,
        notes: Vec<Note>,
        now: Timestamp,
    ) -> Self {
        let patience = Patience::default();
        let entries = kept
            .into_iter()
            .map(|(id, mut record)| {
                // The clock was set back while no daemon ran.
                record.registered_at = record.registered_at.min(now);
                record.last_heartbeat = record.last_heartbeat.map(|at| at.min(now));
                record.hearing = Hearing::Earlier;
                let recorded = record.last_seen();
                (
                    id,
                    Entry {
                        record: Arc::new(record),
                        recorded,
                    },
                )
            })
            .collect();
        Self {
            entries,
            patience,
            listening_since: now,
            attentive_since: now,
            sweep_at: now.after(patience.sweep),
            directory: None,
            notes: Notes::new(notes),
            evicted: Vec::new(),
        }
    }

    pub fn set_patience(&mut self, patience: Patience, now: Timestamp) {
        self.patience = patience;
        self.sweep_at = now.after(patience.sweep);
    }

    pub fn get(&self, id: &ServiceId) -> Option<&Arc<RegistrationRecord>> {
        self.entries.get(id).map(|entry| &entry.record)
    }

    pub fn ids(&self) -> impl Iterator<Item = &ServiceId> {
        self.entries.keys()
    }

    pub fn records(&self) -> impl Iterator<Item = &Arc<RegistrationRecord>> {
        self.entries.values().map(|entry| &entry.record)
    }

    /// When the next look for silent components is due; `None` while nobody is registered.
    pub fn sweep_at(&self) -> Option<Timestamp> {
        (!self.entries.is_empty()).then_some(self.sweep_at)
    }

    /// All registrations, made anew only after something changed.
    pub fn directory(&mut self) -> Arc<Directory> {
        let entries = &self.entries;
        let directory = self.directory.get_or_insert_with(|| {
            let rows = entries
                .iter()
                .map(|(id, entry)| (id.clone(), Arc::clone(&entry.record)));
            Arc::new(rows.collect())
        });
        Arc::clone(directory)
    }

    /// The directory, when it changed since the last one was made.
    pub fn published(&mut self) -> Option<Arc<Directory>> {
        self.directory.is_none().then(|| self.directory())
    }

    /// From when on the silence of a component counts that was last heard of at `seen`: one that an
    /// earlier daemon heard of has to find its way back first.
    fn silence_counts_from(&self, seen: Timestamp, hearing: Hearing) -> Timestamp {
        match hearing {
            Hearing::Earlier => self.listening_since.after(RECONNECT),
            Hearing::Current => seen.max(self.attentive_since),
        }
    }

    /// The same of an instance that runs since `since` and may not have registered.
    pub fn instance_counts_from(
        &self,
        registered: Option<&RegistrationRecord>,
        since: Timestamp,
    ) -> Timestamp {
        match registered {
            Some(record) => self.silence_counts_from(record.last_seen(), record.hearing),
            None if since < self.listening_since => {
                self.silence_counts_from(since, Hearing::Earlier)
            }
            None => self.silence_counts_from(since, Hearing::Current),
        }
    }

    /// Since when this daemon has listened without a gap.
    pub fn attentive_since(&self) -> Timestamp {
        self.attentive_since
    }

    /// From when on the figures of a component can have been seen: one that an earlier daemon heard
    /// of, or nobody yet, has to find its way here first.
    pub fn figures_seen_from(&self, registered: Option<&RegistrationRecord>) -> Timestamp {
        match registered.map_or(Hearing::Earlier, |record| record.hearing) {
            Hearing::Earlier => self.listening_since.after(RECONNECT),
            Hearing::Current => self.attentive_since,
        }
    }

    /// Registrations that were pushed out for others since the last call.
    pub fn take_evicted(&mut self) -> Vec<ServiceId> {
        std::mem::take(&mut self.evicted)
    }

    pub fn note_keys(&self) -> impl Iterator<Item = NoteKey> {
        self.notes.keys()
    }

    fn changed(&mut self) {
        self.directory = None;
    }

    /// Takes in a registration of `owner`'s, or of nobody's here.
    pub fn register(
        &mut self,
        intro: Introduction,
        owner: Option<Owner>,
        now: Timestamp,
    ) -> Result<ServiceId, RegistryRefusal> {
        let id = self.choose_id(&intro, owner.as_ref().map(|owner| &owner.instance), now);
        let before = self.entries.get(&id).map(|entry| Arc::clone(&entry.record));
        if before.is_none() {
            self.make_room(owner.as_ref(), now)?;
        }
        let before = before.as_deref();
        // What another instance said of itself is not this one's.
        let own = before.filter(|before| {
            let instance =
                |owner: &Option<Owner>| owner.as_ref().map(|owner| owner.instance.clone());
            owner.is_none() || instance(&owner) == instance(&before.owner)
        });
        let last_heartbeat = own.and_then(|own| own.last_heartbeat);
        let metrics = own.map(|own| own.metrics.clone()).unwrap_or_default();
        let mut about = intro.about;
        if about.kind == ServiceKind::Unspecified {
            about.kind = before.map_or(ServiceKind::Unspecified, |before| before.about.kind);
        }
        let record = RegistrationRecord {
            service_id: id.clone(),
            about,
            owner: owner.or_else(|| before.and_then(|before| before.owner.clone())),
            provenance: Provenance::Registered,
            peer: intro.ip,
            first_seen: before.map_or(now, |before| before.first_seen),
            registered_at: now,
            last_heartbeat,
            said: ServiceHealth::Healthy,
            metrics,
            silent_since: None,
            hearing: Hearing::Current,
        };
        self.entries.insert(
            id.clone(),
            Entry {
                record: Arc::new(record),
                recorded: now,
            },
        );
        self.changed();
        Ok(id)
    }

    /// The id of a registration: the one that it asks for, its component's, or the one it had;
    /// never one that another replica holds.
    fn choose_id(
        &self,
        intro: &Introduction,
        owner: Option<&InstanceId>,
        now: Timestamp,
    ) -> ServiceId {
        let Some(instance) = owner else {
            let wanted = intro.wanted.clone();
            return wanted
                .or_else(|| self.known_place(intro))
                .unwrap_or_else(|| self.made_up(intro.about.kind, now));
        };
        let shown = of_text(&instance.replica.to_string());
        let InstanceId {
            pipeline, replica, ..
        } = instance;
        let qualified = format!(
            "{}.{}.{}.{}",
            pipeline.namespace, pipeline.name, replica.component, replica.replica
        );
        let wanted = intro
            .wanted
            .clone()
            .filter(|wanted| wanted.as_str() != instance.replica.component.as_str());
        [wanted, Some(shown)]
            .into_iter()
            .flatten()
            .find(|id| self.is_free_for(id, instance))
            .unwrap_or_else(|| of_text(&qualified))
    }

    fn is_free_for(&self, id: &ServiceId, instance: &InstanceId) -> bool {
        let holder = self
            .entries
            .get(id)
            .and_then(|entry| entry.record.owner.as_ref());
        holder.is_none_or(|holder| {
            holder.instance.pipeline == instance.pipeline
                && holder.instance.replica == instance.replica
        })
    }

    /// A component that names nothing is the one that was at this place before.
    fn known_place(&self, intro: &Introduction) -> Option<ServiceId> {
        if intro.about.health_endpoint.is_empty() || intro.ip.is_none() {
            return None;
        }
        self.records()
            .find(|record| {
                record.owner.is_none()
                    && record.provenance == Provenance::Registered
                    && record.peer == intro.ip
                    && record.about.kind == intro.about.kind
                    && record.about.health_endpoint == intro.about.health_endpoint
            })
            .map(|record| record.service_id.clone())
    }

    fn made_up(&self, kind: ServiceKind, now: Timestamp) -> ServiceId {
        let mut number = now.as_millis();
        loop {
            let id = of_text(&format!("{kind}-{number}"));
            if !self.entries.contains_key(&id) {
                return id;
            }
            number += 1;
        }
    }

    /// Takes in the heartbeats of `id`; answers whether it had been silent.
    pub fn heard(&mut self, id: &ServiceId, beat: Beat) -> Option<Heard> {
        let entry = self.entries.get_mut(id)?;
        let record = Arc::make_mut(&mut entry.record);
        let was_silent = record.silent_since.take().is_some();
        let before = record.last_heartbeat;
        record.last_heartbeat = Some(before.map_or(beat.at, |before| before.max(beat.at)));
        record.said = beat.said.unwrap_or(record.said);
        record.peer = beat.ip.or(record.peer);
        record.hearing = Hearing::Current;
        merge(&mut record.metrics, beat.metrics);
        self.changed();
        Some(if was_silent {
            Heard::Again
        } else {
            Heard::Still
        })
    }

    /// Takes in an id that never registered here; `None` when there is no room for it.
    pub fn adopt(&mut self, id: &ServiceId, beat: &Beat, owner: Option<Owner>) -> Option<()> {
        if owner.is_none() {
            self.make_room_for_a_stranger();
        }
        self.make_room(owner.as_ref(), beat.at).ok()?;
        let record = RegistrationRecord {
            service_id: id.clone(),
            about: About::default(),
            owner,
            provenance: Provenance::Adopted,
            peer: beat.ip,
            first_seen: beat.at,
            registered_at: beat.at,
            last_heartbeat: None,
            said: ServiceHealth::Healthy,
            metrics: Metrics::new(),
            silent_since: None,
            hearing: Hearing::Current,
        };
        self.entries.insert(
            id.clone(),
            Entry {
                record: Arc::new(record),
                recorded: beat.at,
            },
        );
        self.changed();
        Some(())
    }

    /// Says that `id` belongs to `owner`, of whom nothing was heard so far.
    pub fn own(&mut self, id: &ServiceId, owner: Owner) {
        if let Some(entry) = self.entries.get_mut(id) {
            let record = Arc::make_mut(&mut entry.record);
            record.owner = Some(owner);
            record.last_heartbeat = None;
            record.metrics = Metrics::new();
            record.said = ServiceHealth::Healthy;
            self.changed();
        }
    }

    pub fn remove(&mut self, id: &ServiceId) -> Option<Arc<RegistrationRecord>> {
        self.changed();
        self.entries.remove(id).map(|entry| entry.record)
    }

    /// Finds who fell silent, what nobody owns any more and what is to be recorded.
    pub fn sweep(&mut self, now: Timestamp, is_known: impl Fn(&InstanceId) -> bool) -> Swept {
        let mut swept = Swept::default();
        if now.since(self.sweep_at) > ABSENCE {
            self.attentive_since = now;
        }
        self.sweep_at = now.after(self.patience.sweep);
        let counts_from: Vec<Timestamp> = self
            .records()
            .map(|record| self.silence_counts_from(record.last_seen(), record.hearing))
            .collect();
        for ((id, entry), counts_from) in self.entries.iter_mut().zip(counts_from) {
            let record = &entry.record;
            let seen = record.last_seen().max(self.listening_since);
            let lost = record
                .owner
                .as_ref()
                .is_some_and(|owner| !is_known(&owner.instance));
            let silent =
                record.silent_since.is_none() && now.since(counts_from) > self.patience.ttl;
            if lost || silent {
                let record = Arc::make_mut(&mut entry.record);
                if lost {
                    record.owner = None;
                    swept.to_record.push(id.clone());
                }
                if silent {
                    record.silent_since = Some(counts_from.after(self.patience.ttl));
                    swept.silent.push(id.clone());
                }
            }
            let record = &entry.record;
            if record.owner.is_none() && now.since(seen) > FORGET_AFTER {
                swept.forgotten.push(id.clone());
            } else if record.provenance == Provenance::Registered
                && record.last_seen().since(entry.recorded) > RECORD_LAG
            {
                swept.to_record.push(id.clone());
            }
        }
        for id in &swept.forgotten {
            self.entries.remove(id);
        }
        self.changed();
        swept
    }

    /// What is to be kept of `id`, when it is being recorded; ids that only ever sent heartbeats
    /// are not, since they come back by themselves.
    pub fn take_record(&mut self, id: &ServiceId) -> Option<RegistrationRecord> {
        let entry = self.entries.get_mut(id)?;
        entry.recorded = entry.record.last_seen();
        match entry.record.provenance {
            Provenance::Registered => Some(entry.record.as_ref().clone()),
            Provenance::Adopted => None,
        }
    }

    /// Moves every time along with the clock.
    pub fn shift(&mut self, millis: i64) {
        for entry in self.entries.values_mut() {
            let record = Arc::make_mut(&mut entry.record);
            for at in [
                &mut record.first_seen,
                &mut record.registered_at,
                &mut entry.recorded,
            ] {
                *at = at.shifted(millis);
            }
            record.last_heartbeat = record.last_heartbeat.map(|at| at.shifted(millis));
            record.silent_since = record.silent_since.map(|at| at.shifted(millis));
        }
        self.listening_since = self.listening_since.shifted(millis);
        self.attentive_since = self.attentive_since.shifted(millis);
        self.sweep_at = self.sweep_at.shifted(millis);
        self.changed();
    }

    /// Makes room for one more at `now`. Whoever has an owner always has room: within its replica's
    /// share, at the cost of that replica's oldest.
    fn make_room(&mut self, owner: Option<&Owner>, now: Timestamp) -> Result<(), RegistryRefusal> {
        if self.entries.is_empty() {
            self.sweep_at = now.after(self.patience.sweep);
        }
        let Some(owner) = owner else {
            let strangers = self.records().filter(|record| record.owner.is_none());
            if strangers.count() < MAX_RECORDS {
                return Ok(());
            }
            let gone = self.oldest(|record| {
                record.owner.is_none()
                    && (record.provenance == Provenance::Adopted || record.silent_since.is_some())
            });
            return match gone {
                Some(id) => {
                    self.evict(id);
                    Ok(())
                }
                None => Err(RegistryRefusal::Full),
            };
        };
        let same_replica = |record: &RegistrationRecord| {
            record.owner.as_ref().is_some_and(|other| {
                other.instance.pipeline == owner.instance.pipeline
                    && other.instance.replica == owner.instance.replica
            })
        };
        if self.records().filter(|record| same_replica(record)).count() >= MAX_PER_REPLICA
            && let Some(id) = self.oldest(same_replica)
        {
            self.evict(id);
        }
        Ok(())
    }

    fn evict(&mut self, id: ServiceId) {
        self.entries.remove(&id);
        self.evicted.push(id);
    }

    fn make_room_for_a_stranger(&mut self) {
        let is_stranger = |record: &RegistrationRecord| {
            record.owner.is_none() && record.provenance == Provenance::Adopted
        };
        if self.records().filter(|record| is_stranger(record)).count() >= MAX_STRANGERS
            && let Some(id) = self.oldest(is_stranger)
        {
            self.evict(id);
        }
    }

    fn oldest(&self, which: impl Fn(&RegistrationRecord) -> bool) -> Option<ServiceId> {
        self.records()
            .filter(|record| which(record))
            .min_by_key(|record| record.last_seen())
            .map(|record| record.service_id.clone())
    }
}

/// What a heartbeat meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was heard of lately.
    Still,
    /// It had been silent.
    Again,
}

/// What a sweep found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Swept {
    /// Silent from now on.
    pub silent: Vec<ServiceId>,
    /// Forgotten.
    pub forgotten: Vec<ServiceId>,
    /// To be recorded anew.
    pub to_record: Vec<ServiceId>,
}

/// Puts `new` over `old`, as far as there is room.
fn merge(old: &mut Metrics, new: Metrics) {
    for (name, value) in new {
        if old.len() < MAX_METRICS || old.contains_key(&name) {
            old.insert(name, value);
        }
    }
}

fn of_text(text: &str) -> ServiceId {
    text.parse().expect("labels and numbers make a service id")
}
