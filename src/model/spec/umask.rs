//! The permission bits that a process' files are created without.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Permission bits that files of a process are created without (umask(2)). Written in octal: `022`,
/// `"0027"`, `0o77`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Umask(u32);

/// A text that is no umask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a umask: write permission bits in octal, like `\"022\"`")]
pub struct NotAUmask(String);

impl Umask {
    /// Whether these are the bits of a component that names none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for Umask {
    /// 022, as of every login and every unit: what is written can be read by others, and changed
    /// by nobody else.
    fn default() -> Self {
        Self(0o022)
    }
}

impl FromStr for Umask {
    type Err = NotAUmask;

    fn from_str(text: &str) -> Result<Self, NotAUmask> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        // from_str_radix takes a sign, which no mode has.
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| u32::from_str_radix(digits, 8).ok())
            .flatten()
            .filter(|bits| *bits <= 0o777)
            .map(Self)
            .ok_or_else(|| NotAUmask(text.to_owned()))
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

impl Serialize for Umask {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_umask_is_octal_however_it_is_written() {
        for text in ["022", "22", "0022", "0o22"] {
            assert_eq!(text.parse::<Umask>().unwrap(), Umask::default(), "{text}");
        }
        assert_eq!("77".parse::<Umask>().unwrap().bits(), 0o77);
        for text in ["", "8", "+22", "-1", "1000", "rwx", "0x12", " 22"] {
            assert!(text.parse::<Umask>().is_err(), "{text}");
        }
        let json = serde_json::to_string(&"27".parse::<Umask>().unwrap()).unwrap();
        assert_eq!(json, "\"027\"");
        assert_eq!(serde_json::from_str::<Umask>(&json).unwrap().bits(), 0o27);
    }
}
