//! Points in time and lengths of time, as flowctl reads, stores and shows them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch, UTC. Shown and sent as RFC 3339.
///
/// It is stored as a number (small, ordered); [`Display`](std::fmt::Display) gives the text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The last millisecond that RFC 3339 can write (year 9999).
    const MAX_MILLIS: i64 = 253_402_300_799_999;

    /// `millis` since the Unix epoch, clamped into the years 1970 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MAX_MILLIS))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// This point moved forward by `by`, at most to the end of the year 9999.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(by))
    }

    /// This point moved by a signed number of milliseconds.
    #[must_use]
    pub fn shifted(self, millis: i64) -> Self {
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0).unwrap_or(0);
        let at = std::time::UNIX_EPOCH + Duration::from_millis(millis);
        write!(f, "{}", humantime::format_rfc3339_millis(at))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = humantime::parse_rfc3339_weak(text)?;
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Self::from_millis(
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        ))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A length of time written the way people write it: `250ms`, `1s`, `2m 30s`, `0s`.
///
/// The only place that knows `humantime`. Parsing refuses a bare number (a unit is missing)
/// and anything over [`HumanDuration::MAX`], which would overflow arithmetic with points in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// The longest length accepted: 366 days.
    pub const MAX: Duration = Duration::from_secs(366 * 24 * 3600);

    /// A length from a plain [`Duration`].
    pub const fn new(length: Duration) -> Self {
        Self(length)
    }

    /// A length in whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A length in whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The length as a plain [`Duration`].
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for HumanDuration {
    /// At most the two largest units, since a reader wants `3d 2h`, not nine figures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.0 >= Duration::from_secs(1) {
            Duration::from_millis(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX))
        } else {
            self.0
        };
        let text = humantime::format_duration(whole).to_string();
        let mut words = text.split(' ');
        let first = words.next().unwrap_or("0s");
        f.write_str(first)?;
        match words.next() {
            Some(second) => write!(f, " {second}"),
            None => Ok(()),
        }
    }
}

/// Why a text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not in the form that humantime reads.
    #[error("`{text}` is not a duration: write a number and a unit, like 500ms, 10s or 2m")]
    Malformed {
        /// What was written.
        text: String,
    },
    /// Longer than [`HumanDuration::MAX`].
    #[error("`{text}` is longer than a year, the longest duration accepted")]
    TooLong {
        /// What was written.
        text: String,
    },
}

impl std::str::FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length =
            humantime::parse_duration(text.trim()).map_err(|_| DurationError::Malformed {
                text: text.to_owned(),
            })?;
        if length > Self::MAX {
            return Err(DurationError::TooLong {
                text: text.to_owned(),
            });
        }
        Ok(Self(length))
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_without_a_unit_or_over_a_year_is_refused() {
        assert!("90".parse::<HumanDuration>().is_err());
        assert!("999999999999999h".parse::<HumanDuration>().is_err());
        assert_eq!("0s".parse::<HumanDuration>().unwrap().get(), Duration::ZERO);
        assert_eq!(
            "1m 30s".parse::<HumanDuration>().unwrap(),
            HumanDuration::from_secs(90)
        );
    }

    #[test]
    fn a_timestamp_survives_its_text_form() {
        let at = Timestamp::from_millis(1_795_228_980_123);
        assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
    }

    #[test]
    fn durations_show_two_units_at_most() {
        let long = HumanDuration::new(Duration::from_millis(93_784_005));
        assert_eq!(long.to_string(), "1day 2h");
    }
}
