//! The number of a replica in the texts of its component, and ports that have it in them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The literal that stands for the replica's number until an instance starts.
pub(super) const REFERENCE: &str = "${{ component.replica }}";

/// `text` as replica `replica` gets it.
pub(super) fn filled(text: &str, replica: u32) -> String {
    text.replace(REFERENCE, &replica.to_string())
}

/// A port that may be another one for each replica: a number, or digits around the number of the
/// replica, as in `808${{ component.replica }}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct ReplicaPort(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The same for all.
    Same(u16),
    /// Digits before and after the number of the replica.
    Around(Digits, Digits),
}

/// Decimal digits, with the zeros that they begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digits {
    value: u32,
    count: u8,
}

/// A text that is no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number from 1 to 65535, or digits around `{REFERENCE}`")]
pub struct NotAPort;

impl ReplicaPort {
    /// The port of one replica; `None` when that is none.
    pub fn of(self, replica: u32) -> Option<u16> {
        match self.0 {
            Kind::Same(port) => Some(port),
            Kind::Around(before, after) => {
                let text = format!("{before}{replica}{after}");
                text.parse().ok().filter(|port| *port > 0)
            }
        }
    }

    /// The ports of so many replicas, as far as they are some.
    pub fn all(self, replicas: u32) -> impl Iterator<Item = u16> {
        let different = match self.0 {
            Kind::Same(_) => replicas.min(1),
            // No more numbers than that make a port.
            Kind::Around(..) => replicas.min(u32::from(u16::MAX)),
        };
        (0..different).filter_map(move |replica| self.of(replica))
    }

    /// Whether all replicas have the same.
    pub fn is_shared(self) -> bool {
        matches!(self.0, Kind::Same(_))
    }

    /// As replica `replica` has it. One that would be none stays as it is, and is asked in vain.
    pub(super) fn filled(self, replica: u32) -> Self {
        self.of(replica).map_or(self, Self::from)
    }

    /// The number that is asked, once it is that of one replica.
    pub fn number(self) -> u16 {
        // 0 is nobody's: an ask fails, and says so.
        self.of(0).unwrap_or(0)
    }
}

impl From<u16> for ReplicaPort {
    fn from(port: u16) -> Self {
        Self(Kind::Same(port))
    }
}

impl FromStr for ReplicaPort {
    type Err = NotAPort;

    fn from_str(text: &str) -> Result<Self, NotAPort> {
        let port = match text.split_once(REFERENCE) {
            None => Self(Kind::Same(text.parse().map_err(|_| NotAPort)?)),
            Some((before, after)) => Self(Kind::Around(before.parse()?, after.parse()?)),
        };
        port.of(0)
            .filter(|port| *port > 0)
            .map(|_| port)
            .ok_or(NotAPort)
    }
}

impl FromStr for Digits {
    type Err = NotAPort;

    fn from_str(text: &str) -> Result<Self, NotAPort> {
        let are_digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits {
            return Err(NotAPort);
        }
        Ok(Self {
            value: text
                .bytes()
                .fold(0, |sum, byte| sum * 10 + u32::from(byte - b'0')),
            count: u8::try_from(text.len()).map_err(|_| NotAPort)?,
        })
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => Ok(()),
            count => write!(f, "{:0width$}", self.value, width = usize::from(count)),
        }
    }
}

impl fmt::Display for ReplicaPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Same(port) => write!(f, "{port}"),
            Kind::Around(before, after) => write!(f, "{before}{REFERENCE}{after}"),
        }
    }
}

/// As it stands in files.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u16),
    Text(String),
}

impl From<ReplicaPort> for Written {
    fn from(port: ReplicaPort) -> Self {
        match port.0 {
            Kind::Same(number) => Self::Number(number),
            Kind::Around(..) => Self::Text(port.to_string()),
        }
    }
}

impl TryFrom<Written> for ReplicaPort {
    type Error = NotAPort;

    fn try_from(written: Written) -> Result<Self, NotAPort> {
        match written {
            Written::Number(number) => Ok(number.into()),
            Written::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_the_number_of_its_replica_where_that_was_written() {
        let table = [
            ("8080", Some(8080), Some(8080)),
            ("808${{ component.replica }}", Some(8080), Some(8083)),
            ("8${{ component.replica }}05", Some(8005), Some(8305)),
            ("${{ component.replica }}0", None, None),
            ("6553${{ component.replica }}", Some(65530), Some(65533)),
            ("80x${{ component.replica }}", None, None),
            ("123456", None, None),
            ("0", None, None),
            ("", None, None),
        ];
        for (text, first, fourth) in table {
            let port: Option<ReplicaPort> = text.parse().ok();
            assert_eq!(port.and_then(|port| port.of(0)), first, "{text}");
            assert_eq!(port.and_then(|port| port.of(3)), fourth, "{text}");
            let Some(port) = port else { continue };
            assert_eq!(port.to_string(), text);
            let json = serde_json::to_value(port).unwrap();
            assert_eq!(json.is_number(), port.is_shared());
            assert_eq!(serde_json::from_value::<ReplicaPort>(json).unwrap(), port);
        }
        let port: ReplicaPort = "6553${{ component.replica }}".parse().unwrap();
        assert_eq!(port.of(9), None, "there is no port 65539");
        assert_eq!(port.all(20).count(), 6);
        assert_eq!(ReplicaPort::from(80).all(3).collect::<Vec<_>>(), [80]);
    }
}
