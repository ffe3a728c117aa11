//! The signals of Linux, by name and number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal of Linux by number (x86-64 and arm64 numbering). Written `SIGTERM`, `TERM` or `15`.
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

    /// The signal of this number, 1 to 64 (from 32 on: real-time signals).
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = NoSuchSignal;

    fn from_str(text: &str) -> Result<Self, NoSuchSignal> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let named = Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, n)| *n);
        named
            .or_else(|| name.parse().ok())
            .and_then(Self::from_number)
            .ok_or_else(|| NoSuchSignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
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
#[error("`{0}` is not a signal: write a name like SIGTERM or SIGINT")]
pub struct NoSuchSignal(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number_and_shown_by_name() {
        for text in ["SIGTERM", "term", "15"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        for text in ["", "SIGNOPE", "0", "65", "-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
