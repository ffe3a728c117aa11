//! Events: packed small, capped, found by number.
//!
//! An event goes into a row of its own first, with the batch that it belongs to. Once many such
//! rows are there, they are packed into few: reading the whole history at start then costs a few
//! thousand rows instead of a hundred thousand. The oldest are dropped as new ones are packed.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sled::Tree;

use super::batch::EventQuery;
use super::error::StoreError;
use super::load::Unreadable;
use super::rows::{self, Change, Key, Kind, ROW_MAX};
use crate::model::{
    ComponentId, Event, EventKind, ExitReason, InstanceId, Namespace, PipelineKey, PipelineName,
    ReplicaKey, Timestamp,
};

/// How much history is kept, whichever is reached first. 10 MB take up to 25 MB on the disk, and
/// nearly as much memory as they are long: sled caches what it has read or written, and hardly evicts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cap {
    events: u64,
    bytes: u64,
}

impl Cap {
    pub(super) const DEFAULT: Self = Self {
        events: 100_000,
        bytes: 10_000_000,
    };
}

/// Fresh rows are packed at this many rows or bytes: reading them costs a row each, keeping them in
/// memory a copy.
const PACK_AT_ROWS: usize = 128;
const PACK_AT_BYTES: usize = 24 * 1024;

/// What is kept of an event besides its number, in this order, as a JSON array.
#[derive(Serialize, Deserialize)]
struct Line(
    i64,
    EventKind,
    Option<Namespace>,
    Option<PipelineName>,
    Option<ComponentId>,
    Option<u32>,
    Option<Run>,
    String,
    String,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<ExitReason>,
);

/// The instance of an event: nearly always the run of the replica that it names already.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Run {
    OfThat(u64),
    Of(InstanceId),
}

/// One encoded event.
pub(super) struct Entry {
    seq: u64,
    line: Vec<u8>,
}

/// Encodes events for [`History::append`].
pub(super) fn encode(events: &[Event]) -> Result<Vec<Entry>, StoreError> {
    events
        .iter()
        .map(|event| {
            // JSON may need six bytes for one of the text, so the room is found by trying.
            let mut room = 4 * 1024;
            loop {
                let line = serde_json::to_vec(&to_line(event, room)).map_err(|source| {
                    StoreError::Encode {
                        what: format!("event {}", event.seq),
                        source: Arc::new(source),
                    }
                })?;
                if COUNT_LEN + line.len() <= ROW_MAX {
                    let seq = event.seq;
                    return Ok(Entry { seq, line });
                }
                room /= 2;
            }
        })
        .collect()
}

fn to_line(event: &Event, room: usize) -> Line {
    let cut = |text: &str| {
        let mut end = room.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    };
    let run = event.instance.as_ref().map(|instance| {
        if replica_of(event).is_some_and(|(pipeline, replica)| {
            instance.pipeline == pipeline && instance.replica == replica
        }) {
            Run::OfThat(instance.incarnation)
        } else {
            Run::Of(instance.clone())
        }
    });
    Line(
        event.at.as_millis(),
        event.kind,
        event.namespace.clone(),
        event.pipeline.clone(),
        event.component.clone(),
        event.replica,
        run,
        cut(&event.reason),
        cut(&event.message),
        event.ended_by,
    )
}

fn replica_of(event: &Event) -> Option<(PipelineKey, ReplicaKey)> {
    let pipeline = PipelineKey {
        namespace: event.namespace.clone()?,
        name: event.pipeline.clone()?,
    };
    let replica = ReplicaKey {
        component: event.component.clone()?,
        replica: event.replica?,
    };
    Some((pipeline, replica))
}

fn from_line(seq: u64, line: Line) -> Option<Event> {
    let Line(at, kind, namespace, pipeline, component, replica, run, reason, message, ended_by) =
        line;
    let mut event = Event {
        seq,
        at: Timestamp::from_millis(at),
        namespace,
        pipeline,
        component,
        replica,
        instance: None,
        kind,
        reason,
        message,
        ended_by,
    };
    event.instance = match run {
        None => None,
        Some(Run::Of(instance)) => Some(instance),
        Some(Run::OfThat(incarnation)) => {
            let (pipeline, replica) = replica_of(&event)?;
            Some(InstanceId {
                pipeline,
                replica,
                incarnation,
            })
        }
    };
    Some(event)
}

/// Bytes of the count in front of a row's lines.
const COUNT_LEN: usize = 2;

/// A row of consecutive events: how many, then one line each.
struct Row {
    first: u64,
    count: u16,
    lines: Vec<u8>,
}

impl Row {
    fn starting_with(entry: Entry) -> Self {
        Self {
            first: entry.seq,
            count: 1,
            lines: entry.line,
        }
    }

    fn next_seq(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Whether `more` bytes of lines that start with event `seq` can be added.
    fn takes(&self, seq: u64, more: usize) -> bool {
        self.next_seq() == seq && COUNT_LEN + self.lines.len() + 1 + more <= ROW_MAX
    }

    fn add(&mut self, count: u16, lines: &[u8]) {
        self.lines.push(b'\n');
        self.lines.extend_from_slice(lines);
        self.count += count;
    }

    fn put(&self, kind: Kind) -> Change {
        let mut payload = Vec::with_capacity(COUNT_LEN + self.lines.len());
        payload.extend_from_slice(&self.count.to_le_bytes());
        payload.extend_from_slice(&self.lines);
        let key = rows::number_key(kind, self.first);
        let row = rows::seal(&key, &payload);
        (key, Some(row))
    }

    /// Reads a row without looking into its lines. One whose numbers run over the last is none.
    fn parse(first: u64, payload: &[u8]) -> Option<Self> {
        let (count, lines) = payload.split_first_chunk::<COUNT_LEN>()?;
        let count = u16::from_le_bytes(*count);
        first.checked_add(u64::from(count))?;
        (count > 0).then(|| Self {
            first,
            count,
            lines: lines.to_owned(),
        })
    }

    /// Its events, oldest first; `None` when they can't be understood.
    fn events(&self) -> Option<Vec<Event>> {
        let lines = self.lines.split(|&byte| byte == b'\n');
        let events = (self.first..)
            .zip(lines)
            .map(|(seq, line)| from_line(seq, serde_json::from_slice(line).ok()?))
            .collect::<Option<Vec<_>>>()?;
        (events.len() == usize::from(self.count)).then_some(events)
    }
}

/// A packed row, as it is remembered in memory.
#[derive(Clone, Copy, Debug)]
struct Packed {
    first: u64,
    count: u16,
    bytes: usize,
}

/// What the history holds: enough to add to it and to drop from it without reading.
pub(super) struct History {
    cap: Cap,
    packed: VecDeque<Packed>,
    fresh: VecDeque<Row>,
    /// The number after the newest event; `None` while there is none.
    next_seq: Option<u64>,
}

impl History {
    pub(super) fn new(cap: Cap) -> Self {
        Self {
            cap,
            packed: VecDeque::new(),
            fresh: VecDeque::new(),
            next_seq: None,
        }
    }

    /// The number after the newest event.
    pub(super) fn next_seq(&self) -> Option<u64> {
        self.next_seq
    }

    /// Takes note of a row that was read; packed rows come first, each kind in order.
    pub(super) fn note(&mut self, kind: Kind, first: u64, payload: &[u8]) -> Option<()> {
        let row = Row::parse(first, payload)?;
        if self.next_seq.is_some_and(|next| first < next) {
            return None;
        }
        self.next_seq = Some(row.next_seq());
        if kind == Kind::Packed {
            self.packed.push_back(Packed {
                first,
                count: row.count,
                bytes: row.lines.len(),
            });
        } else {
            self.fresh.push_back(row);
        }
        Some(())
    }

    /// Adds what is new of `entries`, and packs and drops where it is time to.
    pub(super) fn append(&mut self, entries: Vec<Entry>, changes: &mut Vec<Change>) {
        let written = self.fresh.len();
        for entry in entries {
            if self.next_seq.is_some_and(|next| entry.seq < next) {
                continue;
            }
            self.next_seq = Some(entry.seq + 1);
            let own = self.fresh.len() > written;
            match self.fresh.back_mut() {
                Some(row) if own && row.takes(entry.seq, entry.line.len()) => {
                    row.add(1, &entry.line);
                }
                Some(_) | None => self.fresh.push_back(Row::starting_with(entry)),
            }
        }
        let bytes: usize = self.fresh.iter().map(|row| row.lines.len()).sum();
        if self.fresh.len() >= PACK_AT_ROWS || bytes >= PACK_AT_BYTES {
            self.pack(written, changes);
            self.trim(changes);
        } else {
            changes.extend(
                self.fresh
                    .iter()
                    .skip(written)
                    .map(|row| row.put(Kind::Fresh)),
            );
        }
    }

    /// Turns all fresh rows, of which the first `written` are on the disk, into few packed ones.
    fn pack(&mut self, written: usize, changes: &mut Vec<Change>) {
        let mut packing: Option<Row> = None;
        for (index, row) in self.fresh.drain(..).enumerate() {
            if index < written {
                changes.push((rows::number_key(Kind::Fresh, row.first), None));
            }
            match &mut packing {
                Some(whole) if whole.takes(row.first, row.lines.len()) => {
                    whole.add(row.count, &row.lines);
                }
                Some(_) | None => {
                    if let Some(whole) = packing.replace(row) {
                        changes.push(whole.put(Kind::Packed));
                        self.packed.push_back(Packed::of(&whole));
                    }
                }
            }
        }
        if let Some(whole) = packing {
            changes.push(whole.put(Kind::Packed));
            self.packed.push_back(Packed::of(&whole));
        }
    }

    /// Drops the oldest rows above the cap.
    fn trim(&mut self, changes: &mut Vec<Change>) {
        let mut events: u64 = self.packed.iter().map(|row| u64::from(row.count)).sum();
        let mut bytes: u64 = self.packed.iter().map(|row| row.bytes as u64).sum();
        while events > self.cap.events || bytes > self.cap.bytes {
            let Some(oldest) = self.packed.pop_front() else {
                return;
            };
            events -= u64::from(oldest.count);
            bytes -= oldest.bytes as u64;
            changes.push((rows::number_key(Kind::Packed, oldest.first), None));
        }
    }
}

impl Packed {
    fn of(row: &Row) -> Self {
        Self {
            first: row.first,
            count: row.count,
            bytes: row.lines.len(),
        }
    }
}

/// The events that `query` asks for, oldest first.
pub(super) fn read(tree: &Tree, query: &EventQuery) -> Result<Vec<Event>, Unreadable> {
    let mut found = Vec::new();
    // Fresh rows may be packed while this reads: newest first, and never a number twice.
    let mut below = query.before.unwrap_or(u64::MAX);
    'rows: for kind in [Kind::Fresh, Kind::Packed] {
        let range = rows::number_key(kind, 0)..rows::number_key(kind, below);
        for item in tree.range(range).rev() {
            let (key, row) = item.map_err(Unreadable::Engine)?;
            let malformed = || Unreadable::malformed(&key);
            let Some(Key::Packed(first) | Key::Fresh(first)) = Key::parse(&key) else {
                return Err(malformed());
            };
            let payload = rows::unseal(&key, &row).ok_or_else(malformed)?;
            let row = Row::parse(first, payload).ok_or_else(malformed)?;
            if query
                .after
                .is_some_and(|after| row.next_seq() <= after.saturating_add(1))
            {
                break 'rows;
            }
            for event in row.events().ok_or_else(malformed)?.into_iter().rev() {
                if event.seq >= below {
                    continue;
                }
                below = event.seq;
                if query.after.is_some_and(|after| event.seq <= after)
                    || query.last.is_some_and(|last| found.len() >= last)
                {
                    break 'rows;
                }
                if query.wants(&event) {
                    found.push(event);
                }
            }
        }
    }
    found.reverse();
    Ok(found)
}
