//! When a changed file is read: at once where it is known to be complete, else after a pause.

use std::time::Instant;

use super::{LONGEST_WAIT, QUIET};

/// A problem that was seen in this many looks in a row is reported even if the writer never pauses.
const MOST_UNFINISHED: u32 = 8;

/// What an event says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Something changed and more may come.
    UnderWay,
    /// It was closed after writing, or renamed into place.
    Complete,
}

/// The timing of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Debounce {
    due: Option<Instant>,
    /// The first change that was not read yet.
    waiting_since: Option<Instant>,
    last_change: Option<Instant>,
    last_complete: Option<Instant>,
    /// How many looks in a row saw something unfinished.
    unfinished: u32,
}

impl Debounce {
    /// Takes note of a change.
    pub(super) fn saw(&mut self, change: Change, now: Instant) {
        self.last_change = Some(now);
        let since = *self.waiting_since.get_or_insert(now);
        let due_now = self.due.is_some_and(|due| due <= now);
        // Many saves in a row are one edit: the first is read at once, then the last.
        let at_once = match change {
            Change::UnderWay => false,
            Change::Complete => {
                let before = self.last_complete.replace(now);
                before.is_none_or(|before| now >= before + QUIET)
            }
        };
        if at_once {
            self.due = Some(now);
        } else if !due_now {
            self.due = Some((now + QUIET).min(since + LONGEST_WAIT));
        }
    }

    /// When it is to be read; `None` = nothing changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a problem that is seen at `now` is one that the writer left: it was there a look ago,
    /// nothing was written since, and we were not asleep ourselves, as the writer may have been.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let paused = self.last_change.is_none_or(|last| now >= last + QUIET);
        let on_time = self.due.is_none_or(|due| now < due + QUIET / 2);
        (paused && on_time && self.unfinished > 0) || self.unfinished >= MOST_UNFINISHED
    }

    /// Takes note that it is being read.
    pub(super) fn reading(&mut self) {
        self.due = None;
        self.waiting_since = None;
    }

    /// Takes note that what was read was whole, or was reported for what it is.
    pub(super) fn finished(&mut self) {
        self.unfinished = 0;
    }

    /// Takes note that what was read looked unfinished, and asks for another look after the pause.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.unfinished += 1;
        self.due = Some(now + QUIET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_complete_file_is_read_at_once_and_others_after_a_pause() {
        let start = now();
        let mut debounce = Debounce::default();
        debounce.saw(Change::UnderWay, start);
        assert_eq!(debounce.due(), Some(start + QUIET));
        let closed = start + QUIET / 10;
        debounce.saw(Change::Complete, closed);
        assert_eq!(debounce.due(), Some(closed));
        debounce.saw(Change::UnderWay, closed);
        assert_eq!(debounce.due(), Some(closed));
    }

    #[test]
    fn many_saves_are_read_first_last_and_now_and_then() {
        let start = now();
        let save = QUIET / 20;
        let mut debounce = Debounce::default();
        let mut reads = Vec::new();
        let mut at = start;
        for _ in 0..600 {
            if debounce.due().is_some_and(|due| due <= at) {
                debounce.reading();
                reads.push(at);
            }
            debounce.saw(Change::Complete, at);
            at += save;
        }
        let took = at - start;
        assert!(
            reads.len() as u32 <= 2 + took.as_millis() as u32 / LONGEST_WAIT.as_millis() as u32
        );
        let last = debounce.due().unwrap();
        assert!(last > at && last <= at + QUIET, "the last save is read too");
    }

    #[test]
    fn a_file_written_without_a_pause_is_read_all_the_same() {
        let start = now();
        let mut debounce = Debounce::default();
        let mut at = start;
        while at < start + LONGEST_WAIT * 2 {
            debounce.saw(Change::UnderWay, at);
            at += QUIET / 2;
        }
        assert_eq!(debounce.due(), Some(start + LONGEST_WAIT));
    }
}
