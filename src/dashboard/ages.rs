//! How long ago something was, and when that text changes next. Pure.

use std::cell::Cell;
use std::time::Duration;

use crate::model::Timestamp;
use crate::text::short;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How exactly an age is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// Of what is on its way: to the second.
    Seconds,
    /// Of what is as it should be: to the minute, so that a quiet screen stays as it is.
    Minutes,
}

/// The moment of a picture, and when the next one looks different though nothing has happened.
#[derive(Debug)]
pub struct Ages {
    now: Timestamp,
    next: Cell<Option<Timestamp>>,
}

impl Ages {
    /// The ages at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            next: Cell::new(None),
        }
    }

    /// When one of the texts that were asked for changes first; `None` = never by itself.
    pub fn next(&self) -> Option<Timestamp> {
        self.next.get()
    }

    /// The moment of the picture.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// How long ago `since` was.
    pub fn of(&self, since: Timestamp, exactness: Exactness) -> String {
        let age = self.now.since(since);
        let (text, step) = match exactness {
            Exactness::Seconds if age < HOUR => (short(age), SECOND),
            Exactness::Minutes if age < MINUTE => ("<1m".to_owned(), MINUTE),
            Exactness::Minutes if age < HOUR => (format!("{}m", age.as_secs() / 60), MINUTE),
            // `2h5m` changes with the minute, `3d4h` with the hour.
            Exactness::Seconds | Exactness::Minutes if age < 24 * HOUR => (short(age), MINUTE),
            Exactness::Seconds | Exactness::Minutes => (short(age), HOUR),
        };
        let steps = age.as_millis() / step.as_millis() + 1;
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.changes_at(since.after(step.saturating_mul(steps)));
        text
    }

    /// Notes that a text counts down to `at`, second by second.
    pub fn counts_down_to(&self, at: Timestamp) {
        if at <= self.now {
            return;
        }
        let left = at.since(self.now);
        let whole = Duration::from_secs(left.as_secs());
        let until_next = if left == whole { SECOND } else { left - whole };
        self.changes_at(self.now.after(until_next.max(Duration::from_millis(100))));
    }

    fn changes_at(&self, at: Timestamp) {
        let next = self.next.get().map_or(at, |next| next.min(at));
        self.next.set(Some(next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(age_millis: i64, exactness: Exactness) -> (String, i64) {
        let now = Timestamp::from_millis(1_000_000_000_000);
        let ages = Ages::at(now);
        let text = ages.of(now.shifted(-age_millis), exactness);
        (text, ages.next().unwrap().as_millis() - now.as_millis())
    }

    #[test]
    fn what_is_well_is_told_in_minutes_and_what_moves_in_seconds() {
        use Exactness::{Minutes, Seconds};
        for (age, exactness, text, next) in [
            (0, Seconds, "0s", 1_000),
            (12_300, Seconds, "12s", 700),
            (190_000, Seconds, "3m10s", 1_000),
            (190_000, Minutes, "3m", 50_000),
            (59_999, Minutes, "<1m", 1),
            (7_500_000, Minutes, "2h5m", 60_000),
            (273_600_000, Seconds, "3d4h", 3_600_000),
        ] {
            assert_eq!(shown(age, exactness), (text.to_owned(), next), "{age}");
        }
    }

    #[test]
    fn a_countdown_changes_with_each_second_that_is_left() {
        let now = Timestamp::from_millis(1_000_000_000_000);
        let ages = Ages::at(now);
        ages.counts_down_to(now.shifted(-5));
        assert_eq!(ages.next(), None);
        ages.counts_down_to(now.shifted(12_400));
        assert_eq!(ages.next(), Some(now.shifted(400)));
    }
}
