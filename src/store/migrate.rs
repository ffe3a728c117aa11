//! Versions of the layout, and the way from each to the next.
//!
//! A step reads the rows of its version and answers the changes that make them the next one's; the
//! new version number is written in the same batch, so a step happens whole or not at all.

use sled::{Batch, IVec, Tree};

use super::load::Unreadable;
use super::rows::{self, Change, Fact};

/// What a step does: from the rows as they are to what has to change.
type Step = fn(&Tree) -> Result<Vec<Change>, Unreadable>;

/// Step `n` leads from version `n + 1` to version `n + 2`.
const STEPS: &[Step] = &[];

/// The version that this build writes.
pub(super) const CURRENT: u32 = 1 + STEPS.len() as u32;

/// The row that says that the layout has this version.
pub(super) fn stamp(version: u32) -> (Vec<u8>, IVec) {
    let key = Fact::Schema.key();
    let row = rows::seal(&key, version.to_string().as_bytes());
    (key, row)
}

/// Takes every step from version `found`, which is not above [`CURRENT`].
pub(super) fn run(tree: &Tree, found: u32) -> Result<(), Unreadable> {
    run_steps(tree, found, STEPS)
}

fn run_steps(tree: &Tree, found: u32, steps: &[Step]) -> Result<(), Unreadable> {
    let done = found.saturating_sub(1) as usize;
    for (version, step) in (found + 1..).zip(steps.iter().skip(done)) {
        let mut batch = Batch::default();
        for (key, row) in step(tree)? {
            match row {
                Some(row) => batch.insert(key, row),
                None => batch.remove(key),
            }
        }
        let (key, row) = stamp(version);
        batch.insert(key, row);
        tree.apply_batch(batch).map_err(Unreadable::Engine)?;
        tree.flush().map_err(Unreadable::Engine)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::load;

    fn first(_: &Tree) -> Result<Vec<Change>, Unreadable> {
        panic!("a step below the version found is not taken")
    }

    fn second(tree: &Tree) -> Result<Vec<Change>, Unreadable> {
        let old = tree.get(b"old").unwrap().unwrap();
        Ok(vec![(b"old".to_vec(), None), (b"new".to_vec(), Some(old))])
    }

    fn third(_: &Tree) -> Result<Vec<Change>, Unreadable> {
        Err(Unreadable::Malformed("not today".to_owned()))
    }

    #[test]
    fn steps_run_in_order_from_the_version_found_and_each_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).open().unwrap();
        db.insert(b"old", b"value").unwrap();
        let (key, row) = stamp(2);
        db.insert(key, row).unwrap();

        run_steps(&db, 2, &[first, second, third]).unwrap_err();

        assert_eq!(load::schema(&db).unwrap(), Some(3));
        assert_eq!(db.get(b"new").unwrap().unwrap(), &b"value"[..]);
        assert_eq!(db.get(b"old").unwrap(), None);
    }
}
