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

/// Why a text is not a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// Not in the form of RFC 3339.
    #[error(
        "`{text}` is not a moment: write it like 2026-11-21T02:00:00Z or 2026-11-21T04:00:00+02:00"
    )]
    Malformed {
        /// What was written.
        text: String,
    },
    /// A day alone.
    #[error("`{text}` is a whole day: add the time, as in {text}T02:00:00Z")]
    NoTime {
        /// What was written.
        text: String,
    },
    /// A day and a time of no zone, which each reader would take for another moment.
    #[error(
        "`{text}` does not say in which time zone: end it with Z for UTC, or an offset like \
         +02:00 (in the address of a request `+` is written `%2B`)"
    )]
    NoOffset {
        /// What was written.
        text: String,
    },
    /// A month of 13, an hour of 25.
    #[error("`{text}` is a moment that never comes: its {part} is out of range")]
    OutOfRange {
        /// What was written.
        text: String,
        /// Which part of it.
        part: &'static str,
    },
}

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;

    /// All of RFC 3339: any offset, any number of digits in the fraction, `T` or a blank before the
    /// time, and the comma that `date -Ins` prints. Nothing that would have to be guessed. What lies
    /// before 1970 is 1970.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let malformed = || TimestampError::Malformed {
            text: text.to_owned(),
        };
        let out_of_range = |part| TimestampError::OutOfRange {
            text: text.to_owned(),
            part,
        };
        let mut rest = Digits(text);
        let mut day = || {
            let year = rest.number(4)?;
            let month = rest.literal("-").and_then(|()| rest.number(2))?;
            let day = rest.literal("-").and_then(|()| rest.number(2))?;
            Some((year, month, day))
        };
        let (year, month, day) = day().ok_or_else(malformed)?;
        if rest.0.is_empty() {
            return Err(TimestampError::NoTime {
                text: text.to_owned(),
            });
        }
        let mut time = || {
            rest.one_of(&['T', 't', ' ', '_'])?;
            let hour = rest.number(2)?;
            let minute = rest.literal(":").and_then(|()| rest.number(2))?;
            let second = rest.literal(":").and_then(|()| rest.number(2))?;
            let millis = match rest.one_of(&['.', ',']) {
                Some(_) => rest.fraction()?,
                None => 0,
            };
            Some((hour, minute, second, millis))
        };
        let (hour, minute, second, millis) = time().ok_or_else(malformed)?;
        if rest.0.is_empty() {
            return Err(TimestampError::NoOffset {
                text: text.to_owned(),
            });
        }
        let mut offset = || {
            let sign = match rest.one_of(&['Z', 'z', '+', '-', '\u{2212}'])? {
                'Z' | 'z' => return Some((0, 0, 0)),
                '+' => 1,
                _ => -1,
            };
            let hours = rest.number(2)?;
            // RFC 3339 has the colon, ISO 8601 and `date +%z` may leave it out.
            rest.literal(":");
            let minutes = rest.number(2)?;
            Some((sign, hours, minutes))
        };
        let (sign, offset_hours, offset_minutes) = offset().ok_or_else(malformed)?;
        if !rest.0.is_empty() {
            return Err(malformed());
        }
        let checks = [
            ("month", (1..=12).contains(&month)),
            ("day", day >= 1 && day <= days_of(year, month)),
            ("hour", hour <= 23),
            ("minute", minute <= 59),
            // A leap second is the first of the next minute, as the host's clock has it.
            ("second", second <= 60),
            ("offset", offset_hours <= 23 && offset_minutes <= 59),
        ];
        if let Some((part, _)) = checks.iter().find(|(_, good)| !good) {
            return Err(out_of_range(part));
        }
        let seconds =
            days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
                - sign * (offset_hours * 3_600 + offset_minutes * 60);
        Ok(Self::from_millis(seconds * 1_000 + millis))
    }
}

/// What is left to be read of a point in time.
struct Digits<'a>(&'a str);

impl Digits<'_> {
    /// A number of exactly `width` digits.
    fn number(&mut self, width: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.0 = rest;
        digits.parse().ok()
    }

    /// Digits after the point, as milliseconds; what is finer is cut off.
    fn fraction(&mut self) -> Option<i64> {
        let end = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        let millis: String = digits.chars().chain("000".chars()).take(3).collect();
        (end > 0).then(|| millis.parse().ok())?
    }

    fn literal(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn one_of(&mut self, letters: &[char]) -> Option<char> {
        let first = self.0.chars().next().filter(|c| letters.contains(c))?;
        self.0 = &self.0[first.len_utf8()..];
        Some(first)
    }
}

fn days_of(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the day that may be missing is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let century_cycle = year.div_euclid(400);
    let year_of_cycle = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
    century_cycle * 146_097 + day_of_cycle - 719_468
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
    fn all_of_rfc_3339_is_one_moment() {
        for text in [
            "2026-11-30T20:48:25.154Z",
            "2026-11-30t20:48:25.154z",
            "2026-11-30 20:48:25.154Z",
            "2026-11-30T20:48:25.154999999Z",
            "2026-11-30T20:48:25,154999999+00:00",
            "2026-11-30T15:48:25.154-05:00",
            "2026-12-01T05:48:25.154+09:00",
            "2026-12-01T02:18:25.154+05:30",
            "2026-12-01T02:18:25.154+0530",
            "2026-11-30T20:48:25.154-00:00",
        ] {
            let at = text.parse::<Timestamp>();
            let at = at.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(at.to_string(), "2026-11-30T20:48:25.154Z", "{text}");
        }
        for (text, moment) in [
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"),
            ("2000-02-29T23:59:60Z", "2000-03-01T00:00:00.000Z"),
            ("1970-01-01T00:30:00+01:00", "1970-01-01T00:00:00.000Z"),
            ("1900-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.9Z", "9999-12-31T23:59:59.900Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), moment);
        }
    }

    #[test]
    fn what_would_have_to_be_guessed_is_refused_with_what_is_missing() {
        for (text, word) in [
            ("2026-11-30T15:48:25", "time zone"),
            ("2026-11-30 15:48:25.154", "time zone"),
            ("2026-11-30", "whole day"),
            ("2026-13-01T00:00:00Z", "month"),
            ("2026-02-29T00:00:00Z", "day"),
            ("2026-11-30T24:00:00Z", "hour"),
            ("2026-11-30T23:60:00Z", "minute"),
            ("2026-11-30T23:59:61Z", "second"),
            ("2026-11-30T23:59:00+24:00", "offset"),
            // A `+` that an address turned into a blank.
            ("2026-11-30T15:48:25 05:00", "is not a moment"),
            ("2026-11-30T15:48:25+05", "is not a moment"),
            ("2026-11-30T15:48Z", "is not a moment"),
            ("2026-11-30T15:48:25.Z", "is not a moment"),
            ("2026-11-30T15:48:25Z and more", "is not a moment"),
            ("+026-11-30T15:48:25Z", "is not a moment"),
            ("20261130T154825Z", "is not a moment"),
            ("１970-01-01T00:00:00Z", "is not a moment"),
            ("", "is not a moment"),
        ] {
            let error = text.parse::<Timestamp>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_moment_is_read_as_it_is_shown(millis in 0i64..=253_402_300_799_999) {
            let at = Timestamp::from_millis(millis);
            proptest::prop_assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }
    }

    #[test]
    fn durations_show_two_units_at_most() {
        let long = HumanDuration::new(Duration::from_millis(93_784_005));
        assert_eq!(long.to_string(), "1day 2h");
    }
}
