//! What has changed since the last commit, and what may be done once it is recorded.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;

use crate::driver::Launch;
use crate::model::{
    DriverKind, Event, InstanceId, Phase, PipelineKey, PipelineRecord, Record, RegistrationRecord,
    ReplicaKey, RunIntent, ServiceId, StopPolicy, Timestamp,
};

use super::handle::{Applied, Refusal};
use super::registry::{Note, NoteKey};

/// How sure a change has to be before its effects are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Handed to the kernel: survives the death of everything of ours.
    CrashSafe,
    /// On the disk: survives a power cut.
    PowerSafe,
}

/// One group of changes to the store, applied as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Records to put, or to delete (`None`).
    pub records: BTreeMap<(PipelineKey, ReplicaKey), Option<Record>>,
    /// Pipelines to put, or to delete (`None`).
    pub pipelines: BTreeMap<PipelineKey, Option<PipelineRecord>>,
    /// Registrations to put, or to delete (`None`).
    pub registrations: BTreeMap<ServiceId, Option<RegistrationRecord>>,
    /// What runners told, to put or to delete (`None`).
    pub notes: BTreeMap<NoteKey, Option<Note>>,
    /// Events to append.
    pub events: Vec<Event>,
}

/// Something to do once the changes that announce it are recorded.
#[derive(Debug)]
pub enum Effect {
    /// Start an instance.
    Start(Box<Launch>),
    /// Tell the start of an instance that nobody wants it any more.
    GiveUp {
        /// Which one.
        instance: InstanceId,
    },
    /// Stop an instance.
    Stop {
        /// Which one.
        instance: InstanceId,
        /// Who runs it.
        driver: DriverKind,
        /// Signal and grace.
        how: StopPolicy,
        /// Where it was, should the stop not be recordable.
        before: Phase,
    },
    /// Remove what is left of an instance whose end is recorded.
    Forget {
        /// Which one.
        instance: InstanceId,
        /// Who ran it.
        driver: DriverKind,
    },
    /// Answer a command.
    Answer(Answer),
}

/// The answer to a command, held until the command is recorded.
#[derive(Debug)]
pub enum Answer {
    /// To an apply; refusing puts the pipelines back.
    Applied {
        /// Whom to tell.
        reply: oneshot::Sender<Result<Vec<Applied>, Refusal>>,
        /// What to tell.
        applied: Vec<Applied>,
        /// What was there before.
        before: Vec<(PipelineKey, Option<PipelineRecord>)>,
        /// Whether the owner was to end.
        ending: Ending,
    },
    /// To a start or restart; refusing puts the intents back.
    Asked {
        /// Whom to tell.
        reply: oneshot::Sender<Result<(), Refusal>>,
        /// What was there before.
        before: Vec<(PipelineKey, ReplicaKey, RunIntent)>,
    },
    /// To a registration, which stands whether or not it can be recorded: nobody registers twice.
    Noted {
        /// Whom to tell.
        reply: oneshot::Sender<()>,
    },
    /// To a stop, delete or down: these are carried out even when they cannot be recorded, since a
    /// person must be able to end what fills the disk.
    Done {
        /// Whom to tell.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
}

/// Whether the owner ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It does not.
    #[default]
    No,
    /// It does once nothing is left, unless something is wanted again before.
    WhenEmpty,
    /// It does: nothing is applied any more.
    Decided,
}

/// The open group of changes of one turn.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The moment that is being handled.
    pub now: Timestamp,
    /// Replicas whose records changed.
    pub records: BTreeSet<(PipelineKey, ReplicaKey)>,
    /// Pipelines that changed.
    pub pipelines: BTreeSet<PipelineKey>,
    /// Registrations that changed.
    pub registrations: BTreeSet<ServiceId>,
    /// What runners told anew.
    pub notes: BTreeSet<NoteKey>,
    /// Events that have their number.
    pub events: Vec<Event>,
    /// What waits for the commit.
    pub effects: Vec<Effect>,
    /// What the commit needs to be.
    pub durability: Durability,
    next_seq: u64,
}

/// Events held while nothing can be recorded; the oldest are given up first.
const MAX_HELD_EVENTS: usize = 4096;

impl Ledger {
    pub fn new(next_seq: u64) -> Self {
        Self {
            now: Timestamp::default(),
            records: BTreeSet::new(),
            pipelines: BTreeSet::new(),
            registrations: BTreeSet::new(),
            notes: BTreeSet::new(),
            events: Vec::new(),
            effects: Vec::new(),
            durability: Durability::CrashSafe,
            next_seq,
        }
    }

    pub fn touch(&mut self, pipeline: &PipelineKey, replica: &ReplicaKey) {
        self.records.insert((pipeline.clone(), replica.clone()));
    }

    pub fn touch_pipeline(&mut self, pipeline: &PipelineKey) {
        self.pipelines.insert(pipeline.clone());
    }

    /// Appends an event under the next number.
    pub fn emit(&mut self, mut event: Event) {
        event.seq = self.next_seq;
        self.next_seq += 1;
        self.events.push(event);
        if self.events.len() > MAX_HELD_EVENTS {
            self.events.remove(0);
        }
    }

    /// Asks that this turn's changes be on the disk before their effects.
    pub fn require_power_safe(&mut self) {
        self.durability = Durability::PowerSafe;
    }

    /// The number of the next event: above every number that was ever given out.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.pipelines.is_empty()
            && self.registrations.is_empty()
            && self.notes.is_empty()
            && self.events.is_empty()
            && self.effects.is_empty()
    }
}
