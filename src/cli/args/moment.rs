//! Moments as they are typed.

use std::str::FromStr;

use crate::model::{DurationError, HumanDuration, Timestamp, TimestampError};

/// A moment as it is typed: so long ago, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long before now.
    Ago(HumanDuration),
    /// Then.
    At(Timestamp),
}

impl Moment {
    /// The point in time that is meant.
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(length) => {
                let millis = i64::try_from(length.get().as_millis()).unwrap_or(i64::MAX);
                now.shifted(-millis)
            }
        }
    }
}

/// A text that is neither a time ago nor a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchMoment {
    /// It looks like neither, or like a time ago.
    #[error("write a time ago like `10m`, or a moment like `2026-11-21T02:00:00Z` ({0})")]
    Ago(DurationError),
    /// It looks like a point in time.
    #[error(transparent)]
    At(TimestampError),
}

impl FromStr for Moment {
    type Err = NoSuchMoment;

    fn from_str(text: &str) -> Result<Self, NoSuchMoment> {
        // A duration has no hyphen.
        if text.contains('-') {
            return text.parse().map(Self::At).map_err(NoSuchMoment::At);
        }
        text.parse().map(Self::Ago).map_err(NoSuchMoment::Ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_ago_or_a_point_in_time() {
        let now = Timestamp::from_millis(1_000_000);
        let ago: Moment = "10s".parse().unwrap();
        assert_eq!(ago.from(now), Timestamp::from_millis(990_000));
        let at: Moment = "1970-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(at.from(now), Timestamp::from_millis(1_000));
        let at: Moment = "1970-01-01T01:00:01+01:00".parse().unwrap();
        assert_eq!(at.from(now), Timestamp::from_millis(1_000));
        for (text, word) in [
            ("yesterday", "time ago"),
            ("1796071075", "a number and a unit"),
            ("15:48", "time ago"),
            ("2026-11-30", "whole day"),
            ("2026-11-30T15:48:25", "time zone"),
            ("-10m", "not a moment"),
        ] {
            let error = text.parse::<Moment>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
