//! Where a cluster is and as whom it is asked, by the variables that Nomad's own programs read.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::http::Shown;

/// Where Nomad is looked for when nobody says where it is.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:4646";
/// The namespace of whoever names none.
const DEFAULT_NAMESPACE: &str = "default";
const DEFAULT_PORT: u16 = 4646;

/// What the daemon's own variables say of Nomad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where its API is, for components that name no address.
    pub(super) address: Address,
    /// Whether somebody has said so.
    pub(super) is_told: bool,
    /// `None` = that of the server which is asked.
    pub(super) region: Option<String>,
    /// For components that name no namespace.
    pub(super) namespace: String,
    pub(super) token: Option<Token>,
    /// `user:password` for a proxy in front of it.
    pub(super) basic: Option<String>,
    /// Files of the authorities that vouch for it; none = those that this host trusts.
    pub(super) authorities: Vec<PathBuf>,
    pub(super) shown: Option<Shown>,
    /// The name that its certificate is for, where that is not its host.
    pub(super) server_name: Option<String>,
}

/// What says who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// This.
    Literal(String),
    /// What this file holds whenever it is asked: it may be replaced.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("a token"),
            Self::File(path) => write!(f, "the token in {}", path.display()),
        }
    }
}

/// Why the variables cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// An address that is none.
    #[error(
        "{variable}={value} is no address of Nomad: {why}; write `http://HOST:4646`, \
         `https://HOST:4646` or `unix:///PATH`"
    )]
    Address {
        /// Where it is from.
        variable: String,
        /// What it says.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// One of the two files without the other.
    #[error("{given} is set and {missing} is not: a certificate needs its key; set both, or none")]
    Half {
        /// The variable that is set.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// Certificates that nobody checks.
    #[error(
        "NOMAD_SKIP_VERIFY is set: flowctl checks the certificate of the servers that it asks; \
         name their authority in NOMAD_CACERT"
    )]
    SkipVerify,
    /// A folder that cannot be read.
    #[error("NOMAD_CAPATH={}: {why}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the host says.
        why: String,
    },
}

impl Settings {
    /// Reads what `get` says of each variable. Blocks on the disk where NOMAD_CAPATH is set.
    ///
    /// # Errors
    /// Which one cannot be used.
    pub fn of(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let told = get("NOMAD_ADDR");
        let is_told = told.is_some();
        let address = told.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        if get("NOMAD_SKIP_VERIFY").is_some_and(|value| !matches!(&*value, "0" | "false")) {
            return Err(SettingsError::SkipVerify);
        }
        let (certificate, key) = ("NOMAD_CLIENT_CERT", "NOMAD_CLIENT_KEY");
        let half = |given, missing| Err(SettingsError::Half { given, missing });
        let shown = match (get(certificate), get(key)) {
            (Some(certificate), Some(key)) => Some(Shown {
                certificate: certificate.into(),
                key: key.into(),
            }),
            (Some(_), None) => return half(certificate, key),
            (None, Some(_)) => return half(key, certificate),
            (None, None) => None,
        };
        let mut authorities: Vec<PathBuf> =
            get("NOMAD_CACERT").map(PathBuf::from).into_iter().collect();
        if let (Some(folder), true) = (get("NOMAD_CAPATH"), authorities.is_empty()) {
            authorities = certificates_in(Path::new(&folder))?;
        }
        Ok(Self {
            address: Address::read("NOMAD_ADDR", &address)?,
            is_told,
            region: get("NOMAD_REGION"),
            namespace: get("NOMAD_NAMESPACE").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            token: match (get("NOMAD_TOKEN_FILE"), get("NOMAD_TOKEN")) {
                (Some(file), _) => Some(Token::File(file.into())),
                (None, Some(token)) => Some(Token::Literal(token)),
                (None, None) => None,
            },
            basic: get("NOMAD_HTTP_AUTH"),
            authorities,
            shown,
            server_name: get("NOMAD_TLS_SERVER_NAME"),
        })
    }
}

fn certificates_in(folder: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let failed = |error: std::io::Error| SettingsError::Folder {
        path: folder.to_owned(),
        why: error.to_string(),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|it| it == "pem" || it == "crt")
        {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        let error = std::io::Error::other("no file in it ends with .pem or .crt");
        return Err(failed(error));
    }
    Ok(found)
}

/// Where the API of a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Address {
    Http { host: String, port: u16 },
    Https { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// Reads an address that `variable` says, with or without a scheme.
    pub(super) fn read(variable: &str, text: &str) -> Result<Self, SettingsError> {
        let wrong = |why: &str| SettingsError::Address {
            variable: variable.to_owned(),
            value: text.to_owned(),
            why: why.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(wrong("its path is not absolute")),
            };
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(wrong("it is more than a host and a port"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| wrong("its port is no number"))?;
                (host, port)
            }
            Some(_) | None => (authority, DEFAULT_PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong("it names no host"));
        }
        let host = host.to_owned();
        match scheme {
            "http" => Ok(Self::Http { host, port }),
            "https" => Ok(Self::Https { host, port }),
            _ => Err(wrong("its scheme is unknown")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = |host: &str, port| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        match self {
            Self::Http { host, port } => write!(f, "http://{}", authority(host, port)),
            Self::Https { host, port } => write!(f, "https://{}", authority(host, port)),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::of(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_nomads_own_programs_read_is_read_here() {
        let settings = of(&[]).unwrap();
        assert_eq!(settings.address.to_string(), "http://127.0.0.1:4646");
        assert_eq!(settings.namespace, "default");
        assert!(!settings.is_told);
        let settings = of(&[
            ("NOMAD_ADDR", "https://nomad.example:443/"),
            ("NOMAD_NAMESPACE", "data"),
            ("NOMAD_REGION", "eu"),
            ("NOMAD_TOKEN", "secret"),
        ])
        .unwrap();
        assert_eq!(settings.address.to_string(), "https://nomad.example:443");
        assert_eq!(settings.namespace, "data");
        assert_eq!(settings.region.as_deref(), Some("eu"));
        assert!(
            !format!("{settings:?}").contains("secret"),
            "a token is never told"
        );
    }

    #[test]
    fn addresses_are_taken_as_people_write_them_and_others_are_refused_in_words() {
        let read = |text| Address::read("NOMAD_ADDR", text).map(|it| it.to_string());
        for (text, meant) in [
            ("nomad", "http://nomad:4646"),
            ("nomad:80", "http://nomad:80"),
            ("http://[::1]:4646", "http://[::1]:4646"),
            ("https://[::1]", "https://[::1]:4646"),
            ("unix:///run/nomad.sock", "unix:///run/nomad.sock"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(meant));
        }
        for text in [
            "http://",
            "ftp://a",
            "http://a:b",
            "http://a/ui",
            "unix://relative",
            "a b",
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.contains("is no address of Nomad"), "{said}");
        }
    }

    #[test]
    fn half_a_certificate_and_unchecked_ones_are_refused() {
        let half = of(&[("NOMAD_CLIENT_KEY", "/k")]).unwrap_err().to_string();
        assert!(half.contains("NOMAD_CLIENT_CERT is not"), "{half}");
        let unchecked = of(&[("NOMAD_SKIP_VERIFY", "true")]);
        assert_eq!(unchecked, Err(SettingsError::SkipVerify));
        assert!(of(&[("NOMAD_SKIP_VERIFY", "false")]).is_ok());
    }
}
