//! What is written together, and what can be asked of the history.

use std::collections::BTreeMap;

use crate::model::{ComponentId, Event, PipelineKey, PipelineRecord, Record, ReplicaKey};

/// How safe a batch is before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the kernel: survives kill -9 of everything of ours. It is made power-safe within
    /// 200 ms, together with what else came in.
    CrashSafe,
    /// On the disk: survives a power cut.
    PowerSafe,
}

/// Changes that are recorded together, in order with other batches.
///
/// A batch of up to 256 KB is atomic over a crash. A larger one is recorded in several steps, each
/// value whole; a crash in between leaves some of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub(super) pipelines: BTreeMap<PipelineKey, Option<PipelineRecord>>,
    pub(super) records: BTreeMap<(PipelineKey, ReplicaKey), Option<Record>>,
    pub(super) settings: BTreeMap<String, Option<String>>,
    pub(super) events: Vec<Event>,
    pub(super) ends_rebuilding: bool,
}

impl Batch {
    /// Nothing yet. Committing nothing is useful too: it asks whether the store works, and makes
    /// it try again when it does not.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps this of a pipeline. Only what changed of its definition is written.
    pub fn put_pipeline(&mut self, pipeline: PipelineKey, record: PipelineRecord) {
        self.pipelines.insert(pipeline, Some(record));
    }

    /// Forgets a pipeline's definition; its replicas' records are forgotten one by one.
    pub fn forget_pipeline(&mut self, pipeline: PipelineKey) {
        self.pipelines.insert(pipeline, None);
    }

    /// Keeps this of a replica.
    pub fn put_record(&mut self, pipeline: PipelineKey, replica: ReplicaKey, record: Record) {
        self.records.insert((pipeline, replica), Some(record));
    }

    /// Forgets a replica.
    pub fn forget_record(&mut self, pipeline: PipelineKey, replica: ReplicaKey) {
        self.records.insert((pipeline, replica), None);
    }

    /// Keeps a setting of the daemon.
    pub fn put_setting(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.settings.insert(name.into(), Some(value.into()));
    }

    /// Forgets a setting.
    pub fn forget_setting(&mut self, name: impl Into<String>) {
        self.settings.insert(name.into(), None);
    }

    /// Adds to the history. An event whose number is not above the newest recorded one is there
    /// already and is skipped, so committing again is harmless. Texts are cut where an event would
    /// not fit 6 KB.
    pub fn push_event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Says that with this batch everything known is recorded anew. Until then each open of a store
    /// that was begun after a damage answers [`Recovery::Rebuilt`](super::Recovery::Rebuilt).
    pub fn end_rebuilding(&mut self) {
        self.ends_rebuilding = true;
    }

    /// Adds all that `later` changes; what both change is as `later` has it.
    pub fn append(&mut self, later: Self) {
        let Self {
            pipelines,
            records,
            settings,
            events,
            ends_rebuilding,
        } = later;
        self.pipelines.extend(pipelines);
        self.records.extend(records);
        self.settings.extend(settings);
        self.events.extend(events);
        self.ends_rebuilding |= ends_rebuilding;
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which events are wanted. The default is all that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only those with a higher number.
    pub after: Option<u64>,
    /// Only those with a lower number.
    pub before: Option<u64>,
    /// Only those of this pipeline.
    pub pipeline: Option<PipelineKey>,
    /// Only those of components of this name.
    pub component: Option<ComponentId>,
    /// Only the newest so many of what remains.
    pub last: Option<usize>,
}

impl EventQuery {
    /// Whether `event` is of the pipeline and component asked for.
    pub(super) fn wants(&self, event: &Event) -> bool {
        let pipeline = self.pipeline.as_ref().is_none_or(|wanted| {
            event.namespace.as_ref() == Some(&wanted.namespace)
                && event.pipeline.as_ref() == Some(&wanted.name)
        });
        let component = self
            .component
            .as_ref()
            .is_none_or(|wanted| event.component.as_ref() == Some(wanted));
        pipeline && component
    }
}
