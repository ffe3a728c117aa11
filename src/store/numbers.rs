//! The numbers of events: none that anybody saw is ever used again, whatever ends the daemon.
//!
//! Events are shown as they happen and recorded right after. So numbers are set aside in blocks, with
//! the first change that is recorded and from then on well before they are given out: the next store
//! begins above the block, unless this one was closed and gave the rest of it back. Who only looks
//! writes nothing.

use super::load::Boot;
use super::rows::Change;
use crate::model::Timestamp;

/// How many event numbers are left out after a reboot: a power cut may have taken up to 200 ms of
/// events whose numbers people have seen.
pub(super) const SEQ_GAP: u64 = 10_000;
/// How many are set aside at a time. A new block is taken with half of it left, which is more than a
/// turn of the daemon gives out.
pub(super) const BLOCK: u64 = 10_000;

/// Which numbers may be given out.
#[derive(Debug)]
pub(super) struct Numbers {
    /// What the kernel calls this boot; empty where it doesn't tell.
    boot: String,
    /// The first of this store.
    pub(super) first: u64,
    /// No number below is given out, whatever is recorded.
    floor: u64,
    /// Numbers from here on are not set aside.
    end: u64,
}

impl Numbers {
    /// Begins above `next`, which follows the newest event that is recorded (`None` = none is), and
    /// above what was set aside before.
    pub(super) fn begin(next: Option<u64>, earlier: Option<Boot>, now: Timestamp) -> Self {
        // Milliseconds outrun any sequence that grows by less than a thousand a second.
        let base = u64::try_from(now.as_millis()).unwrap_or(0);
        let is_new = next.is_none() && earlier.is_none();
        let next = next.unwrap_or(base);
        let boot = boot_id();
        let first = match earlier {
            Some(earlier) if earlier.id == boot => next.max(earlier.first_seq),
            Some(earlier) => next.max(earlier.first_seq) + SEQ_GAP,
            None => next,
        };
        Self {
            boot,
            first,
            // Nobody has seen a number yet.
            floor: if is_new { 0 } else { first },
            end: 0,
        }
    }

    /// Sets numbers aside when those that are run out; `next` follows the newest event.
    pub(super) fn reserve(&mut self, next: Option<u64>) -> Option<Change> {
        let next = self.next(next);
        if next + BLOCK / 2 < self.end {
            return None;
        }
        self.end = next + BLOCK;
        Some(self.row(self.end))
    }

    /// Nothing that was set aside is known to the database any more.
    pub(super) fn forget(&mut self) {
        self.end = 0;
    }

    /// Gives back what was not given out, if any was set aside.
    pub(super) fn give_back(&self, next: Option<u64>) -> Option<Change> {
        (self.end > 0).then(|| self.row(self.next(next)))
    }

    fn next(&self, next: Option<u64>) -> u64 {
        next.unwrap_or(self.first).max(self.floor)
    }

    fn row(&self, first_seq: u64) -> Change {
        let id = self.boot.clone();
        Boot { id, first_seq }.change()
    }
}

/// What changes with each boot of the host; empty where the kernel doesn't tell.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
