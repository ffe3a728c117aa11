//! Reading the whole database once: at open, so that damage is found then and not in use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::Tree;

use super::history::{Cap, History};
use super::ledger::{Head, Ledger, Section, Shelved};
use super::rows::{self, Change, Fact, Key, Kind, Parts, Value};
use crate::model::{ComponentSpec, PipelineKey, PipelineRecord, PipelineSpec, Record, ReplicaKey};

/// Why rows could not be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The database itself said so.
    Engine(sled::Error),
    /// A row is not what was written.
    Malformed(String),
}

impl Unreadable {
    /// The row under `key` is not what was written.
    pub(super) fn malformed(key: &[u8]) -> Self {
        let key = key.escape_ascii();
        Self::Malformed(format!(
            "row `{key}` does not match its checksum or its form"
        ))
    }
}

/// That a store was begun after a damage and is not complete yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rebuilding {
    pub(super) set_aside: PathBuf,
    pub(super) why: String,
}

/// The boot of the host in which the store was last open, and the numbers of events until then.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Boot {
    /// What the kernel calls it.
    pub(super) id: String,
    /// No event that anybody saw has this number or a higher one.
    pub(super) first_seq: u64,
}

impl Boot {
    /// Remembers it.
    pub(super) fn change(&self) -> Change {
        let key = Fact::Boot.key();
        let value = serde_json::json!({ "id": self.id, "first_seq": self.first_seq });
        let row = rows::seal(&key, value.to_string().as_bytes());
        (key, Some(row))
    }
}

/// All that counts now, and the ledger to go on with.
pub(super) struct State {
    pub(super) pipelines: BTreeMap<PipelineKey, PipelineRecord>,
    pub(super) records: BTreeMap<PipelineKey, BTreeMap<ReplicaKey, Record>>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) rebuilding: Option<Rebuilding>,
    pub(super) boot: Option<Boot>,
    /// Whether pipelines were recorded that are not in it, see [`super::tally`].
    pub(super) lost_its_end: bool,
    pub(super) ledger: Ledger,
    /// Removes the rows that nothing points at, left by a crash between the steps of a large batch.
    pub(super) garbage: Vec<Change>,
}

/// The schema version; `None` when the row is missing.
pub(super) fn schema(tree: &Tree) -> Result<Option<u32>, Unreadable> {
    let key = Fact::Schema.key();
    let Some(row) = tree.get(&key).map_err(Unreadable::Engine)? else {
        return Ok(None);
    };
    let payload = rows::unseal(&key, &row).ok_or_else(|| Unreadable::malformed(&key))?;
    decoded(&key, payload).map(Some)
}

/// Reads all state. Stops at the first error: an iterator over a damaged page never ends.
pub(super) fn state(tree: &Tree) -> Result<State, Unreadable> {
    let mut reader = Reader::default();
    let mut state = State {
        pipelines: BTreeMap::new(),
        records: BTreeMap::new(),
        settings: BTreeMap::new(),
        rebuilding: None,
        boot: None,
        lost_its_end: false,
        ledger: Ledger::new(History::new(Cap::DEFAULT)),
        garbage: Vec::new(),
    };
    for item in tree.range(..Kind::HISTORY) {
        let (key, row) = item.map_err(Unreadable::Engine)?;
        let payload = rows::unseal(&key, &row).ok_or_else(|| Unreadable::malformed(&key))?;
        let parsed = Key::parse(&key).ok_or_else(|| Unreadable::malformed(&key))?;
        match parsed {
            Key::Fact if *key == *Fact::Boot.key() => {
                let boot: Boot = decoded(&key, payload)?;
                countable(&key, boot.first_seq)?;
                state.boot = Some(boot);
            }
            Key::Fact if *key == *Fact::Rebuilding.key() => {
                state.rebuilding = Some(decoded(&key, payload)?);
            }
            Key::Fact if *key == *Fact::Created.key() => {
                state.ledger.created = countable(&key, decoded(&key, payload)?)?;
            }
            Key::Fact => {}
            Key::Part(number) => {
                reader.parts.insert(number, payload.to_owned());
            }
            Key::Section(number) => {
                let value = reader.value(&key, payload)?;
                reader.sections.insert(number, decoded(&key, &value)?);
            }
            Key::Pipeline(pipeline) => {
                let head = reader.value(&key, payload)?;
                let (record, shelved) = reader.pipeline(&key, head)?;
                state.ledger.pipelines.insert(pipeline.clone(), shelved);
                state.pipelines.insert(pipeline, record);
            }
            Key::Record(pipeline, replica) => {
                let record = decoded(&key, &reader.value(&key, payload)?)?;
                state
                    .records
                    .entry(pipeline)
                    .or_default()
                    .insert(replica, record);
            }
            Key::Setting(name) => {
                let value = String::from_utf8(reader.value(&key, payload)?)
                    .map_err(|_| Unreadable::malformed(&key))?;
                state.settings.insert(name, value);
            }
            Key::Packed(_) | Key::Fresh(_) => return Err(Unreadable::malformed(&key)),
        }
    }
    reader.finish(&mut state);
    Ok(state)
}

/// Checks all history and takes note of it in the ledger.
pub(super) fn history(tree: &Tree, ledger: &mut Ledger) -> Result<(), Unreadable> {
    for item in tree.range(Kind::HISTORY..) {
        let (key, row) = item.map_err(Unreadable::Engine)?;
        let noted = rows::unseal(&key, &row).and_then(|payload| match Key::parse(&key)? {
            Key::Packed(first) => ledger.history.note(Kind::Packed, first, payload),
            Key::Fresh(first) => ledger.history.note(Kind::Fresh, first, payload),
            Key::Fact
            | Key::Part(_)
            | Key::Section(_)
            | Key::Pipeline(_)
            | Key::Record(..)
            | Key::Setting(_) => None,
        });
        noted.ok_or_else(|| Unreadable::malformed(&key))?;
    }
    Ok(())
}

/// What rows point at, while all is being read. Parts sort before what points at them, and sections
/// before pipelines.
#[derive(Default)]
struct Reader {
    parts: BTreeMap<u64, Vec<u8>>,
    sections: BTreeMap<u64, Vec<ComponentSpec>>,
    parts_used: BTreeSet<u64>,
    sections_used: BTreeSet<u64>,
    parts_of: Vec<(Vec<u8>, Parts)>,
}

impl Reader {
    fn value(&mut self, key: &[u8], payload: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let malformed = || Unreadable::malformed(key);
        match rows::read_value(payload).ok_or_else(malformed)? {
            Value::Whole(value) => Ok(value.to_owned()),
            Value::InParts(parts) => {
                let mut value = Vec::new();
                for number in parts.numbers() {
                    value.extend_from_slice(self.parts.get(&number).ok_or_else(malformed)?);
                }
                self.parts_used.extend(parts.numbers());
                self.parts_of.push((key.to_owned(), parts));
                Ok(value)
            }
        }
    }

    fn pipeline(
        &mut self,
        key: &[u8],
        head: Vec<u8>,
    ) -> Result<(PipelineRecord, Shelved), Unreadable> {
        let Head { record, sections } = decoded(key, &head)?;
        let mut components = BTreeMap::new();
        let mut shelf = Vec::with_capacity(sections.len());
        for number in sections {
            let group = self
                .sections
                .get(&number)
                .ok_or_else(|| Unreadable::malformed(key))?;
            shelf.push(Section {
                number,
                count: group.len(),
            });
            components.extend(group.iter().map(|spec| (spec.id.clone(), spec.clone())));
            self.sections_used.insert(number);
        }
        let spec = Arc::new(PipelineSpec {
            components,
            ..PipelineSpec::clone(&record.spec)
        });
        let shelved = Shelved {
            head,
            spec: Arc::clone(&spec),
            sections: shelf,
        };
        Ok((PipelineRecord { spec, ..record }, shelved))
    }

    /// Tells the ledger which numbers are used, and collects what nothing points at.
    fn finish(self, state: &mut State) {
        let after = |number: &u64| number + 1;
        state.ledger.next_part = self.parts.keys().next_back().map_or(0, after);
        state.ledger.next_section = self.sections.keys().next_back().map_or(0, after);
        let parts = self.parts.keys().filter(|n| !self.parts_used.contains(n));
        let sections = self
            .sections
            .keys()
            .filter(|n| !self.sections_used.contains(n));
        state.garbage = parts
            .map(|number| (rows::number_key(Kind::Part, *number), None))
            .chain(sections.map(|number| (rows::number_key(Kind::Section, *number), None)))
            .collect();
        state.ledger.parts = self.parts_of.into_iter().collect();
    }
}

/// A number that can be counted on from.
fn countable(key: &[u8], number: u64) -> Result<u64, Unreadable> {
    let is_one = number <= rows::LAST_NUMBER;
    is_one
        .then_some(number)
        .ok_or_else(|| Unreadable::malformed(key))
}

fn decoded<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(value).map_err(|problem| {
        let key = key.escape_ascii();
        Unreadable::Malformed(format!("row `{key}` cannot be understood: {problem}"))
    })
}
