//! The holder of a certificate, by the parts of its name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The parts that can be asked for, as certificates and Notation's policies call them.
const PARTS: [&str; 7] = ["C", "ST", "L", "O", "OU", "CN", "STREET"];
/// Longer names are refused, in bytes.
const LONGEST: usize = 1_000;

/// Parts of a name that the holder of a certificate must have, each exactly: `C=US, O=acme`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HolderName(Vec<(String, String)>);

/// A text that is no name of a holder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// It has no parts.
    #[error("it names nobody; write `C=US, O=acme`")]
    Empty,
    /// It is too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// A part of it is not in the form `O=acme`.
    #[error("`{0}` is no part of a name; write `O=acme`, and `\\,` for a comma in it")]
    Part(String),
    /// A part of it is of a kind that is not known.
    #[error("`{0}` is no part of a name that can be asked for; C, ST, L, O, OU, CN and STREET are")]
    Kind(String),
    /// A part is there twice.
    #[error("`{0}` is written twice")]
    Twice(String),
}

impl FromStr for HolderName {
    type Err = HolderError;

    fn from_str(text: &str) -> Result<Self, HolderError> {
        if text.len() > LONGEST {
            return Err(HolderError::TooLong);
        }
        // As Notation writes them.
        let text = text.trim();
        let text = text.strip_prefix("x509.subject:").unwrap_or(text).trim();
        if text.is_empty() {
            return Err(HolderError::Empty);
        }
        let mut parts: Vec<(String, String)> = Vec::new();
        for part in split(text) {
            let broken = || HolderError::Part(part.trim().to_owned());
            let (kind, value) = part.split_once('=').ok_or_else(broken)?;
            let kind = kind.trim().to_ascii_uppercase();
            let value = unescaped(value.trim()).filter(|it| !it.is_empty());
            let value = value.ok_or_else(broken)?;
            if !PARTS.contains(&kind.as_str()) {
                return Err(HolderError::Kind(kind));
            }
            if parts.iter().any(|(known, _)| *known == kind) {
                return Err(HolderError::Twice(kind));
            }
            parts.push((kind, value));
        }
        Ok(Self(parts))
    }
}

/// The parts between commas that are not escaped.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut is_escaped) = (Vec::new(), 0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '\\' if !is_escaped => is_escaped = true,
            ',' if !is_escaped => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => is_escaped = false,
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// A value without its escapes; `None` = it breaks off, or holds what cannot be seen.
fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            '\\' => letters.next()?,
            other => other,
        };
        if letter.is_control() {
            return None;
        }
        plain.push(letter);
    }
    Some(plain)
}

impl HolderName {
    /// Whether the holder of these parts is meant. One that has a part twice could be two.
    pub fn matches(&self, holder: &[(String, String)]) -> bool {
        self.0.iter().all(|(kind, value)| {
            let mut found = holder.iter().filter(|(known, _)| known == kind);
            let is_it = found.next().is_some_and(|(_, known)| known == value);
            is_it && found.next().is_none()
        })
    }
}

impl fmt::Display for HolderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let value = value.replace('\\', "\\\\").replace(',', "\\,");
            write!(f, "{comma}{kind}={value}")?;
        }
        Ok(())
    }
}

impl From<HolderName> for String {
    fn from(name: HolderName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for HolderName {
    type Error = HolderError;

    fn try_from(text: String) -> Result<Self, HolderError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(parts: &[(&str, &str)]) -> Vec<(String, String)> {
        let parts = parts.iter();
        parts
            .map(|(kind, value)| ((*kind).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_holder_has_every_part_that_is_asked_for_exactly() {
        let acme = holder(&[
            ("C", "US"),
            ("ST", "WA"),
            ("O", "acme, inc"),
            ("CN", "build"),
        ]);
        for good in [
            "O=acme\\, inc",
            "x509.subject: C=US, ST=WA, O=acme\\, inc",
            "cn=build,c=US",
        ] {
            let name: HolderName = good.parse().unwrap();
            assert!(name.matches(&acme), "{good}");
            let again: HolderName = name.to_string().parse().unwrap();
            assert_eq!(again, name);
        }
        for near in [
            "O=acme",
            "O=Acme\\, inc",
            "O=acme\\, inc\\\\",
            "C=US, ST=OR",
            "L=Seattle",
            "CN=builder",
        ] {
            assert!(
                !near.parse::<HolderName>().unwrap().matches(&acme),
                "{near}"
            );
        }
        let twice = holder(&[("O", "acme"), ("O", "evil")]);
        assert!(!"O=acme".parse::<HolderName>().unwrap().matches(&twice));
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for (text, wanted) in [
            ("", "names nobody"),
            ("*", "no part of a name"),
            ("acme", "no part of a name"),
            ("O=", "no part of a name"),
            ("O=acme,", "no part of a name"),
            ("O=acme\\", "no part of a name"),
            ("UID=acme", "can be asked for"),
            ("O=a, O=b", "twice"),
        ] {
            let why = text.parse::<HolderName>().unwrap_err().to_string();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }
}
