//! How things lie in the database: keys, sealed values, and values too large for one row.
//!
//! One sled tree holds everything, so that one batch changes any of it atomically. The first byte
//! of a key says what the row is; state sorts before history, so that state can be read, and saved,
//! when history is damaged.
//!
//! A row is kept small. sled puts up to 17 neighbouring rows in one page, and a page of more than
//! 128 KiB goes to a file of its own that is never fsynced. [`ROW_MAX`] keeps the fullest page below
//! that; larger values are cut into parts under numbers that are never used twice, so that a reader
//! sees the old value or the new one, never a mixture, however many steps the write took.

use crc32fast::Hasher;
use sled::IVec;

use crate::model::{ComponentId, Namespace, PipelineKey, PipelineName, ReplicaKey};

/// The most bytes that one row holds: 17 of them, with keys, fit a page of 128 KiB.
pub(super) const ROW_MAX: usize = 6 * 1024;

/// What a row is: the first byte of its key. The order of the bytes is the order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Facts about the store itself, see [`Fact`].
    Fact,
    /// One part of a value that is too large for a row.
    Part,
    /// A group of components of a pipeline.
    Section,
    /// A pipeline, without its components.
    Pipeline,
    /// What is remembered of one replica.
    Record,
    /// A setting of the daemon.
    Setting,
    /// Events, packed. From here on: history.
    Packed,
    /// Events as they were committed, not packed yet.
    Fresh,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Fact,
        Self::Part,
        Self::Section,
        Self::Pipeline,
        Self::Record,
        Self::Setting,
        Self::Packed,
        Self::Fresh,
    ];

    /// Keys before this one are state, from it on history.
    pub(super) const HISTORY: [u8; 1] = [b'h'];

    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Fact => b'a',
            Self::Part => b'b',
            Self::Section => b'c',
            Self::Pipeline => b'd',
            Self::Record => b'e',
            Self::Setting => b'f',
            Self::Packed => b'h',
            Self::Fresh => b'i',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// What the store remembers about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// The version of this layout.
    Schema,
    /// The boot of the host in which it was last open, see [`super::load::Boot`].
    Boot,
    /// That it was begun empty after a damage, and not all was committed anew since.
    Rebuilding,
    /// How many pipelines were ever recorded, see [`super::tally`].
    Created,
}

impl Fact {
    pub(super) fn key(self) -> Vec<u8> {
        let name = match self {
            Self::Schema => "schema",
            Self::Boot => "boot",
            Self::Rebuilding => "rebuilding",
            Self::Created => "pipelines-created",
        };
        text_key(Kind::Fact, name)
    }
}

/// A key, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Fact,
    Part(u64),
    Section(u64),
    Pipeline(PipelineKey),
    Record(PipelineKey, ReplicaKey),
    Setting(String),
    Packed(u64),
    Fresh(u64),
}

/// No store comes to count as far as this. A row that claims to be a later one is none: those that
/// follow it would run over.
pub(super) const LAST_NUMBER: u64 = u64::MAX / 2;

impl Key {
    /// Reads a key. `None` when no version of this layout wrote it.
    pub(super) fn parse(key: &[u8]) -> Option<Self> {
        let (&kind, rest) = key.split_first()?;
        let number = || {
            let number = u64::from_be_bytes(rest.try_into().ok()?);
            (number <= LAST_NUMBER).then_some(number)
        };
        let text = std::str::from_utf8(rest);
        Some(match Kind::of(kind)? {
            Kind::Fact => Self::Fact,
            Kind::Part => Self::Part(number()?),
            Kind::Section => Self::Section(number()?),
            Kind::Packed => Self::Packed(number()?),
            Kind::Fresh => Self::Fresh(number()?),
            Kind::Setting => Self::Setting(text.ok()?.to_owned()),
            Kind::Pipeline => {
                let (namespace, name) = text.ok()?.split_once('.')?;
                Self::Pipeline(PipelineKey {
                    namespace: namespace.parse().ok()?,
                    name: name.parse().ok()?,
                })
            }
            Kind::Record => {
                let mut parts = text.ok()?.splitn(4, '.');
                let namespace: Namespace = parts.next()?.parse().ok()?;
                let name: PipelineName = parts.next()?.parse().ok()?;
                let component: ComponentId = parts.next()?.parse().ok()?;
                let replica = u32::from_str_radix(parts.next()?, 16).ok()?;
                Self::Record(
                    PipelineKey { namespace, name },
                    ReplicaKey { component, replica },
                )
            }
        })
    }
}

fn text_key(kind: Kind, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + text.len());
    key.push(kind.byte());
    key.extend_from_slice(text.as_bytes());
    key
}

/// The key of a row that is found by number.
pub(super) fn number_key(kind: Kind, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(kind.byte());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn setting_key(name: &str) -> Vec<u8> {
    text_key(Kind::Setting, name)
}

pub(super) fn pipeline_key(pipeline: &PipelineKey) -> Vec<u8> {
    let PipelineKey { namespace, name } = pipeline;
    text_key(Kind::Pipeline, &format!("{namespace}.{name}"))
}

pub(super) fn record_key(pipeline: &PipelineKey, replica: &ReplicaKey) -> Vec<u8> {
    let PipelineKey { namespace, name } = pipeline;
    let ReplicaKey { component, replica } = replica;
    // Eight digits, so that replicas sort by number.
    text_key(
        Kind::Record,
        &format!("{namespace}.{name}.{component}.{replica:08x}"),
    )
}

/// One change to one row: a sealed value, or `None` to delete it.
pub(super) type Change = (Vec<u8>, Option<IVec>);

/// Bytes of keys and values.
pub(super) fn size(changes: &[Change]) -> usize {
    let row = |(key, row): &Change| key.len() + row.as_ref().map_or(0, |row| row.len());
    changes.iter().map(row).sum()
}

/// `payload` with a checksum over it and its key: a value that is found under a wrong key is
/// damage as much as a flipped bit.
pub(super) fn seal(key: &[u8], payload: &[u8]) -> IVec {
    debug_assert!(payload.len() <= ROW_MAX, "a row is at most ROW_MAX long");
    let mut row = Vec::with_capacity(4 + payload.len());
    row.extend_from_slice(&checksum(key, payload).to_le_bytes());
    row.extend_from_slice(payload);
    IVec::from(row)
}

/// The payload of a sealed value; `None` when its checksum is wrong.
pub(super) fn unseal<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, payload) = row.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(key, payload)).then_some(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

/// The parts that a large value was cut into: consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Parts {
    pub(super) fn numbers(self) -> std::ops::Range<u64> {
        self.first..self.first.saturating_add(self.count)
    }
}

const WHOLE: u8 = 0;
const IN_PARTS: u8 = 1;

/// What a row of a value says: the value, or where its parts are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Whole(&'a [u8]),
    InParts(Parts),
}

/// Reads the payload of a value's row; `None` when it is malformed.
pub(super) fn read_value(payload: &[u8]) -> Option<Value<'_>> {
    let (&form, rest) = payload.split_first()?;
    match form {
        WHOLE => Some(Value::Whole(rest)),
        IN_PARTS => {
            let (first, count) = rest.split_first_chunk::<8>()?;
            Some(Value::InParts(Parts {
                first: u64::from_le_bytes(*first),
                count: u64::from_le_bytes(count.try_into().ok()?),
            }))
        }
        _ => None,
    }
}

/// Writes `value` under `key`: parts first, then the row that points at them. `next_part` is the
/// first unused number; answers which parts were used.
pub(super) fn write_value(
    key: Vec<u8>,
    value: &[u8],
    next_part: u64,
    changes: &mut Vec<Change>,
) -> Option<Parts> {
    if value.len() < ROW_MAX {
        let mut payload = Vec::with_capacity(1 + value.len());
        payload.push(WHOLE);
        payload.extend_from_slice(value);
        let row = seal(&key, &payload);
        changes.push((key, Some(row)));
        return None;
    }
    let mut number = next_part;
    for part in value.chunks(ROW_MAX) {
        let part_key = number_key(Kind::Part, number);
        let row = seal(&part_key, part);
        changes.push((part_key, Some(row)));
        number += 1;
    }
    let parts = Parts {
        first: next_part,
        count: number - next_part,
    };
    let mut payload = vec![IN_PARTS];
    payload.extend_from_slice(&parts.first.to_le_bytes());
    payload.extend_from_slice(&parts.count.to_le_bytes());
    let row = seal(&key, &payload);
    changes.push((key, Some(row)));
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> PipelineKey {
        PipelineKey {
            namespace: Namespace::default(),
            name: text.parse().unwrap(),
        }
    }

    #[test]
    fn every_key_is_read_back_as_it_was_written() {
        let replica = ReplicaKey {
            component: "ttp-processor".parse().unwrap(),
            replica: 11,
        };
        let record = record_key(&key("ttp"), &replica);
        assert_eq!(Key::parse(&record), Some(Key::Record(key("ttp"), replica)));
        assert_eq!(
            Key::parse(&pipeline_key(&key("ttp"))),
            Some(Key::Pipeline(key("ttp")))
        );
        assert_eq!(
            Key::parse(&setting_key("control-plane.port")),
            Some(Key::Setting("control-plane.port".to_owned()))
        );
        assert_eq!(
            Key::parse(&number_key(Kind::Fresh, 300)),
            Some(Key::Fresh(300))
        );
        assert_eq!(Key::parse(b"zzz"), None);
        assert_eq!(Key::parse(b""), None);
        assert_eq!(Key::parse(b"hshort"), None);
    }

    #[test]
    fn state_sorts_before_history() {
        for kind in Kind::ALL {
            let is_history = matches!(kind, Kind::Packed | Kind::Fresh);
            assert_eq!([kind.byte()] >= Kind::HISTORY, is_history, "{kind:?}");
        }
    }

    #[test]
    fn a_flipped_bit_or_a_wrong_key_breaks_the_seal() {
        let row = seal(b"key", b"payload");
        assert_eq!(unseal(b"key", &row), Some(&b"payload"[..]));
        assert_eq!(unseal(b"kez", &row), None);
        for bit in 0..row.len() * 8 {
            let mut flipped = row.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"key", &flipped), None, "bit {bit}");
        }
        assert_eq!(unseal(b"key", b"abc"), None);
    }

    #[test]
    fn a_large_value_is_cut_into_rows_that_fit() {
        let value: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut changes = Vec::new();
        let parts = write_value(b"dkey".to_vec(), &value, 40, &mut changes).unwrap();
        assert_eq!(parts.numbers(), 40..57);
        let mut whole = Vec::new();
        for (key, row) in &changes[..changes.len() - 1] {
            whole.extend_from_slice(unseal(key, row.as_ref().unwrap()).unwrap());
        }
        assert_eq!(whole, value);
        let (key, row) = changes.last().unwrap();
        let payload = unseal(key, row.as_ref().unwrap()).unwrap();
        assert_eq!(read_value(payload), Some(Value::InParts(parts)));
    }
}
