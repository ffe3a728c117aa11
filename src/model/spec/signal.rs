//! The signals of Linux, by name and number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal of Linux by number (x86-64 and arm64 numbering). Written as kill(1) takes it: `SIGTERM`,
/// `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    const NAMES: [(&'static str, i32); 31] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];

    /// Second names (glibc's `bits/signum-*.h`).
    const ALIASES: [(&'static str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];

    /// The real-time signals that programs may use: the C libraries keep 32 and 33 to themselves.
    const RT_MIN: i32 = 34;
    const RT_MAX: i32 = 64;
    /// Up to here bash's `kill -l` counts from the lower end, and from the upper one after.
    const RT_MIDDLE: i32 = 49;

    /// The signal of this number, 1 to 64 (from 32 on: real-time signals).
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// The number that `name`, upper case and without `SIG`, stands for.
fn named(name: &str) -> Option<i32> {
    let mut known = Signal::NAMES.iter().chain(&Signal::ALIASES);
    let known = known.find(|(known, _)| *known == name);
    known.map(|(_, number)| *number).or_else(|| real_time(name))
}

/// `RTMIN`, `RTMIN+n`, `RTMAX` and `RTMAX-n`, as far as they stay between the two.
fn real_time(name: &str) -> Option<i32> {
    let (end, direction, rest) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (Signal::RT_MIN, 1, rest.strip_prefix('+').or(none(rest)))
    } else {
        let rest = name.strip_prefix("RTMAX")?;
        (Signal::RT_MAX, -1, rest.strip_prefix('-').or(none(rest)))
    };
    let found = end + direction * number(rest?)?;
    let usable = (Signal::RT_MIN..=Signal::RT_MAX).contains(&found);
    usable.then_some(found)
}

/// No distance at all.
fn none(rest: &str) -> Option<&'static str> {
    rest.is_empty().then_some("0")
}

/// Plain digits, which is less than a parser of numbers takes.
fn number(text: &str) -> Option<i32> {
    let plain = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl FromStr for Signal {
    type Err = NoSuchSignal;

    fn from_str(text: &str) -> Result<Self, NoSuchSignal> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        named(name)
            .or_else(|| number(&upper))
            .and_then(Self::from_number)
            .ok_or_else(|| NoSuchSignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = Self::NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            Self::RT_MIN => f.write_str("SIGRTMIN"),
            Self::RT_MAX => f.write_str("SIGRTMAX"),
            low if (Self::RT_MIN..=Self::RT_MIDDLE).contains(&low) => {
                write!(f, "SIGRTMIN+{}", low - Self::RT_MIN)
            }
            high if high > Self::RT_MIDDLE => write!(f, "SIGRTMAX-{}", Self::RT_MAX - high),
            nameless => write!(f, "signal {nameless}"),
        }
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i32(self.0)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let number = i32::deserialize(d)?;
        Self::from_number(number)
            .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a signal number")))
    }
}

/// A text that names no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a signal: write a name like SIGTERM or SIGRTMIN+3 (see `kill -l`), or a number from 1 to 64"
)]
pub struct NoSuchSignal(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number_and_shown_by_name() {
        for (text, number, shown) in [
            ("SIGTERM", 15, "SIGTERM"),
            ("term", 15, "SIGTERM"),
            ("15", 15, "SIGTERM"),
            ("SIGCLD", 17, "SIGCHLD"),
            ("iot", 6, "SIGABRT"),
            ("SIGPOLL", 29, "SIGIO"),
            ("SIGRTMIN", 34, "SIGRTMIN"),
            ("RTMIN+0", 34, "SIGRTMIN"),
            ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
            ("37", 37, "SIGRTMIN+3"),
            ("rtmin+30", 64, "SIGRTMAX"),
            ("SIGRTMAX-1", 63, "SIGRTMAX-1"),
            ("SIGRTMAX-30", 34, "SIGRTMIN"),
            ("SIGRTMAX", 64, "SIGRTMAX"),
            ("32", 32, "signal 32"),
        ] {
            let signal: Signal = text.parse().unwrap();
            assert_eq!((signal.number(), &*signal.to_string()), (number, shown));
        }
        for text in [
            "", "SIG", "SIGNOPE", "0", "65", "-1", "+15", "SIG15", "RTMIN+31", "RTMIN-1",
            "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN+-1", "RTMIN3",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_of_a_signal_is_read_as_the_same_signal() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
    }
}
