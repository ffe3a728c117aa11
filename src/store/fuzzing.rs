//! Any rows as those of a database.

use std::sync::OnceLock;

use super::{load, rows};

/// Reads `bytes` as keys and values (one byte of length, two bytes of length), all of which bear
/// the right checksum, and loads what they say.
pub fn store_rows(mut bytes: &[u8]) {
    static DATABASE: OnceLock<sled::Db> = OnceLock::new();
    let database = DATABASE.get_or_init(|| {
        let config = sled::Config::new().temporary(true);
        config.open().expect("a temporary database can be made")
    });
    let name = format!("{:?}", std::thread::current().id());
    let tree = database.open_tree(name).expect("a tree can be opened");
    tree.clear().expect("a tree can be emptied");
    while let Some((key, rest)) = split::<1>(bytes) {
        let Some((payload, rest)) = split::<2>(rest) else {
            break;
        };
        let row = rows::seal(key, payload);
        tree.insert(key, row).expect("a row can be written");
        bytes = rest;
    }
    if let Ok(mut state) = load::state(&tree) {
        load::history(&tree, &mut state.ledger).ok();
    }
    load::schema(&tree).ok();
}

/// A piece that begins with its length, in so many bytes, and what follows it.
fn split<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    Some(rest.split_at(length.min(rest.len())))
}

#[cfg(test)]
#[test]
fn kept_and_changed_rows_are_loaded_or_refused() {
    crate::fuzzing::replay("store_rows", store_rows);
}
