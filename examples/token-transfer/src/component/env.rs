//! Settings from environment variables, each under one or more names, the first that is set winning.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// A variable that is missing or can't be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingError {
    /// None of the names is set.
    #[error("{names} is not set; it has to be {meaning}")]
    Missing {
        /// The names, joined by ` or `.
        names: String,
        /// What the value has to be.
        meaning: String,
    },
    /// The value does not have the form it needs.
    #[error("{name}={value} can't be used: {reason}")]
    Unusable {
        /// The name it was found under.
        name: String,
        /// The value as found.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where settings are looked up: the process's environment, or a table in tests.
pub struct Env<'a>(&'a dyn Fn(&str) -> Option<String>);

impl<'a> Env<'a> {
    /// Looks settings up with `lookup`.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// The first of `names` that is set to something, with its value, trimmed.
    fn find(&self, names: &[&str]) -> Option<(String, String)> {
        names.iter().find_map(|name| {
            let value = (self.0)(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| ((*name).to_owned(), value.to_owned()))
        })
    }

    /// The first of `names` that is set.
    pub fn text(&self, names: &[&str]) -> Option<String> {
        self.find(names).map(|(_, value)| value)
    }

    /// The first of `names` that is set; `meaning` completes "it has to be" when none is.
    ///
    /// # Errors
    /// None of them is set.
    pub fn required(&self, names: &[&str], meaning: &str) -> Result<String, SettingError> {
        self.text(names).ok_or_else(|| SettingError::Missing {
            names: names.join(" or "),
            meaning: meaning.to_owned(),
        })
    }

    /// The first of `names` that is set, read with `read`.
    ///
    /// # Errors
    /// It is set, and `read` refuses it.
    pub fn with<T>(
        &self,
        names: &[&str],
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingError> {
        let Some((name, value)) = self.find(names) else {
            return Ok(None);
        };
        match read(&value) {
            Ok(read) => Ok(Some(read)),
            Err(reason) => Err(SettingError::Unusable {
                name,
                value,
                reason,
            }),
        }
    }

    /// The first of `names` that is set, parsed.
    ///
    /// # Errors
    /// It is set and does not parse.
    pub fn parsed<T: FromStr<Err: Display>>(
        &self,
        names: &[&str],
    ) -> Result<Option<T>, SettingError> {
        self.with(names, |value| {
            value.parse().map_err(|error: T::Err| error.to_string())
        })
    }

    /// The component's id in its pipeline, or `default` outside of one.
    pub fn component(&self, default: &str) -> String {
        let names = [
            "FLOWCTL_COMPONENT_ID",
            "COMPONENT_ID",
            "FLOWCTL_SERVICE_ID",
            "SERVICE_ID",
        ];
        self.text(&names).unwrap_or_else(|| default.to_owned())
    }

    /// Whether one of `names` is set to `true` (any case) or `1`.
    pub fn flag(&self, names: &[&str]) -> bool {
        self.text(names)
            .is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// A length of time: `10s`, `250ms`, or a plain number of milliseconds; `0` and `0s` are zero.
    ///
    /// # Errors
    /// It is set and is no length of time.
    pub fn duration(&self, names: &[&str]) -> Result<Option<Duration>, SettingError> {
        self.with(names, |value| match value.parse() {
            Ok(milliseconds) => Ok(Duration::from_millis(milliseconds)),
            Err(_) => humantime::parse_duration(value).map_err(|error| error.to_string()),
        })
    }

    /// An address to listen on: `50051`, `:50051` or `127.0.0.1:50051`; a bare port means every
    /// interface, since a container's port is reached from outside it.
    ///
    /// # Errors
    /// It is set and is none of these.
    pub fn listen(&self, names: &[&str], port: u16) -> Result<SocketAddr, SettingError> {
        let everywhere = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let read = |value: &str| {
            if let Ok(port) = value.strip_prefix(':').unwrap_or(value).parse() {
                return Ok(everywhere(port));
            }
            value
                .parse()
                .map_err(|_| "not a port, nor an address and a port".to_owned())
        };
        Ok(self.with(names, read)?.unwrap_or_else(|| everywhere(port)))
    }

    /// The address of another component, as `host:port`; a leading `http://` is accepted.
    ///
    /// # Errors
    /// It is set and is no host and port.
    pub fn peer(&self, names: &[&str], default: &str) -> Result<String, SettingError> {
        let read = |value: &str| {
            let bare = value
                .strip_prefix("http://")
                .unwrap_or(value)
                .trim_end_matches('/');
            match bare.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(bare.to_owned())
                }
                Some(_) | None => Err("not of the form host:port".to_owned()),
            }
        };
        Ok(self
            .with(names, read)?
            .unwrap_or_else(|| default.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(pairs: &[(&str, &str)], ask: impl Fn(&Env) -> T) -> T {
        let lookup = |name: &str| {
            pairs
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        ask(&Env::new(&lookup))
    }

    #[test]
    fn the_first_name_that_is_set_wins_and_empty_is_not_set() {
        let pairs = [("PORT", ""), ("GRPC_PORT", "50052"), ("X", "1")];
        let text = with(&pairs, |env| env.text(&["PORT", "GRPC_PORT", "X"]));
        assert_eq!(text.as_deref(), Some("50052"));
    }

    #[test]
    fn a_missing_value_names_every_name_it_may_have() {
        let error = with(&[], |env| {
            env.required(&["A", "B"], "a directory").unwrap_err()
        });
        assert_eq!(
            error.to_string(),
            "A or B is not set; it has to be a directory"
        );
    }

    #[test]
    fn durations_are_read_with_a_unit_or_as_milliseconds() {
        for (text, milliseconds) in [
            ("10000ms", 10_000),
            ("10s", 10_000),
            ("250", 250),
            ("0s", 0),
        ] {
            let read = with(&[("D", text)], |env| env.duration(&["D"]));
            assert_eq!(
                read,
                Ok(Some(Duration::from_millis(milliseconds))),
                "{text}"
            );
        }
        assert!(with(&[("D", "soon")], |env| env.duration(&["D"])).is_err());
    }

    #[test]
    fn an_address_to_listen_on_may_be_a_bare_port() {
        for (text, address) in [
            ("7", "0.0.0.0:7"),
            (":7", "0.0.0.0:7"),
            ("127.0.0.1:7", "127.0.0.1:7"),
        ] {
            let read = with(&[("PORT", text)], |env| env.listen(&["PORT"], 1));
            assert_eq!(read, Ok(address.parse().unwrap()), "{text}");
        }
        assert!(with(&[("PORT", "here")], |env| env.listen(&["PORT"], 1)).is_err());
    }

    #[test]
    fn a_peer_is_a_host_and_a_port_with_or_without_a_scheme() {
        let read = |text| with(&[("P", text)], |env| env.peer(&["P"], "localhost:1"));
        assert_eq!(read("http://ttp:50051/").as_deref(), Ok("ttp:50051"));
        assert_eq!(read("ttp:50051").as_deref(), Ok("ttp:50051"));
        assert!(read("ttp").is_err());
    }
}
