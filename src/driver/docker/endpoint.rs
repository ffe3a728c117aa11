//! Which engine is meant: an option, a variable, a Docker context, or a socket that is there.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::images::config_dir;

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket of this host.
    Unix(PathBuf),
    /// `host:port`, in clear text.
    Tcp(String),
    /// `host:port` with client certificates.
    Tls {
        /// `host:port`.
        address: String,
        /// The folder of `ca.pem`, `cert.pem` and `key.pem`.
        certificates: PathBuf,
    },
}

/// Why no engine could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerError {
    /// A text that names no engine.
    #[error(
        "`{text}` names no container engine: write unix:///PATH or tcp://HOST:PORT, in {origin}"
    )]
    NotAnEndpoint {
        /// What was written.
        text: String,
        /// Where.
        origin: String,
    },
    /// A context that does not exist or cannot be read.
    #[error(
        "cannot use the Docker context `{name}`: {why}; see `docker context ls`, or set DOCKER_HOST"
    )]
    Context {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Where Docker's own default is.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Where the engine of Podman's system service is.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

impl Endpoint {
    /// The engine that is meant, in the order of the `docker` command: `option`, `DOCKER_HOST`, the
    /// Docker context (`DOCKER_CONTEXT`, then `currentContext` of the user's configuration), then
    /// the first socket there is: Docker's, that of a rootless Docker, Podman's. `variable` looks a
    /// variable up.
    ///
    /// # Errors
    /// When what was written names no engine. That none answers is no error.
    pub fn discover(
        option: Option<&str>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, DockerError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let parse = |text: &str, origin: &str| {
            Self::parse(text, certificates(&variable)).ok_or_else(|| DockerError::NotAnEndpoint {
                text: text.to_owned(),
                origin: origin.to_owned(),
            })
        };
        if let Some(text) = option {
            return parse(text, "--docker-host");
        }
        if let Some(text) = variable("DOCKER_HOST") {
            return parse(&text, "DOCKER_HOST");
        }
        let config = config_dir(&variable);
        let current = || config.as_deref().and_then(current_context);
        let context = variable("DOCKER_CONTEXT").or_else(current);
        if let Some(name) = context.filter(|name| name != "default") {
            return from_context(config.as_deref(), &name);
        }
        let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        let of_user = |path: &str| runtime.as_ref().map(|dir| dir.join(path));
        let candidates = [
            Some(PathBuf::from(DEFAULT_SOCKET)),
            of_user("docker.sock"),
            of_user("podman/podman.sock"),
            Some(PathBuf::from(PODMAN_SOCKET)),
        ];
        let found = candidates.into_iter().flatten().find(|path| path.exists());
        Ok(Self::Unix(found.unwrap_or_else(|| DEFAULT_SOCKET.into())))
    }

    /// Whether the engine runs on this host, so that it sees this host's files.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(_) | Self::Tls { .. } => false,
        }
    }

    fn parse(text: &str, certificates: Option<PathBuf>) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        if text.starts_with('/') {
            return Some(Self::Unix(text.into()));
        }
        let (scheme, address) = text.split_once("://")?;
        let address = address.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':')?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return None;
        }
        let address = address.to_owned();
        match (scheme, certificates) {
            ("tcp" | "https", Some(certificates)) => Some(Self::Tls {
                address,
                certificates,
            }),
            ("tcp" | "http", _) => Some(Self::Tcp(address)),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

/// Where client certificates lie, when they are asked for.
fn certificates(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    variable("DOCKER_TLS_VERIFY")?;
    match variable("DOCKER_CERT_PATH") {
        Some(dir) => Some(dir.into()),
        None => config_dir(variable),
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

fn current_context(config: &Path) -> Option<String> {
    let text = std::fs::read(config.join("config.json")).ok()?;
    let config: Config = serde_json::from_slice(&text).ok()?;
    config.current_context.filter(|name| !name.is_empty())
}

#[derive(Deserialize)]
struct Context {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Endpoints")]
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Option<ContextEndpoint>,
}

#[derive(Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host")]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

/// Looks a context up by its name: its folder is called by a digest of it.
fn from_context(config: Option<&Path>, name: &str) -> Result<Endpoint, DockerError> {
    let failed = |why: String| DockerError::Context {
        name: name.to_owned(),
        why,
    };
    let missing = || failed("there is none of that name".to_owned());
    let contexts = config.ok_or_else(missing)?.join("contexts");
    let metas = match std::fs::read_dir(contexts.join("meta")) {
        Ok(metas) => metas,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(failed(error.to_string())),
    };
    for meta in metas {
        let meta = meta.map_err(|error| failed(error.to_string()))?;
        // Another context that is broken is none of our concern.
        let Ok(text) = std::fs::read(meta.path().join("meta.json")) else {
            continue;
        };
        let Ok(context) = serde_json::from_slice::<Context>(&text) else {
            continue;
        };
        if context.name != name {
            continue;
        }
        let Some(ContextEndpoint {
            host,
            skip_tls_verify,
        }) = context.endpoints.docker
        else {
            return Err(failed("it names no Docker endpoint".to_owned()));
        };
        if skip_tls_verify {
            let why = "it takes any certificate for the engine's, which flowctl does not";
            return Err(failed(why.to_owned()));
        }
        let tls = contexts.join("tls").join(meta.file_name()).join("docker");
        return Endpoint::parse(&host, tls.exists().then_some(tls))
            .ok_or_else(|| failed(format!("flowctl cannot connect to `{host}`")));
    }
    Err(missing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn discover(option: Option<&str>, variables: &[(&str, &str)]) -> Result<Endpoint, DockerError> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Endpoint::discover(option, &|name| {
            variables.get(name).map(|value| (*value).to_owned())
        })
    }

    #[test]
    fn the_option_stands_above_the_variable() {
        let variable = [("DOCKER_HOST", "tcp://10.0.0.1:2375")];
        let unix = discover(Some("unix:///a.sock"), &variable).unwrap();
        assert_eq!(unix, Endpoint::Unix("/a.sock".into()));
        let tcp = discover(None, &variable).unwrap();
        assert_eq!(tcp, Endpoint::Tcp("10.0.0.1:2375".to_owned()));
    }

    #[test]
    fn tls_is_used_when_it_is_asked_for() {
        let found = discover(
            Some("tcp://host:2376"),
            &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/certs")],
        );
        let wanted = Endpoint::Tls {
            address: "host:2376".to_owned(),
            certificates: "/certs".into(),
        };
        assert_eq!(found.unwrap(), wanted);
    }

    #[test]
    fn a_text_that_names_no_engine_is_an_error_that_says_where_it_stands() {
        for text in [
            "nonsense",
            "unix://relative",
            "tcp://:1",
            "ssh://host:22",
            "tcp://host",
        ] {
            let error = discover(Some(text), &[]).unwrap_err().to_string();
            assert!(error.contains("--docker-host"), "{error}");
        }
    }

    #[test]
    fn the_current_context_decides_and_a_missing_one_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join(".docker");
        let meta = config.join("contexts/meta/0a1b");
        std::fs::create_dir_all(&meta).unwrap();
        let write = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
        write(config.join("config.json"), r#"{"currentContext":"lab"}"#);
        write(
            meta.join("meta.json"),
            r#"{"Name":"lab","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///lab.sock"}}}"#,
        );
        let home = home.path().to_str().unwrap();
        let found = discover(None, &[("HOME", home)]).unwrap();
        assert_eq!(found, Endpoint::Unix("/lab.sock".into()));
        let variables = [("HOME", home), ("DOCKER_CONTEXT", "other")];
        let error = discover(None, &variables).unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
    }
}
