//! Why a container could not be started, in words that say what to do.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::images::{Reason, Refused};
use crate::model::{ComponentSpec, StartFailure};

use super::engine::Failure;

/// Why an instance never got to run its program.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("component {0} is no container: this driver cannot run it")]
    WrongDriver(String),
    #[error(
        "the name `{name}` belongs to a container that {whose}: rename the component, or remove it \
         with `docker rm {name}`"
    )]
    NameConflict { name: String, whose: String },
    #[error("cannot pull {image}: {why}; check its name and that this host reaches the registry")]
    ImagePullFailed { image: String, why: String },
    #[error("cannot pull {image}: {why}; log in with `docker login`, as the daemon's user")]
    ImagePullDenied { image: String, why: String },
    #[error("cannot pull {image}: the registry does not have it: {why}")]
    ImagePullNotFound { image: String, why: String },
    #[error("{image} was being pulled, and is not wanted any more")]
    ImagePullGivenUp { image: String },
    #[error("image {image} is not on this host, and its pull policy is `never`: pull it yourself")]
    ImagePullNever { image: String },
    #[error(
        "the engine has something else as {image} than what was asked for: see what it pulls from"
    )]
    ImageChanged { image: String },
    #[error("{0}")]
    Image(Refused),
    #[error("program `{program}` was not found in {image}: correct `command`, or the image")]
    ExecNotFound { program: String, image: String },
    #[error("program `{program}` of {image} is not an executable file")]
    NotExecutable { program: String, image: String },
    #[error("program `{program}` of {image} is not for this machine: {why}")]
    BadFormat {
        program: String,
        image: String,
        why: String,
    },
    #[error("there is no user `{user}` in {image}: correct `user`: {why}")]
    NoSuchUser {
        user: String,
        image: String,
        why: String,
    },
    #[error("host port {port} is taken by {by}: choose another `hostPort`, or end that")]
    HostPortTaken { port: String, by: String },
    #[error("cannot mount {}: it does not exist on this host: create it first", .0.display())]
    MountMissing(PathBuf),
    #[error(
        "cannot mount {}: {error}: see that flowctl's daemon can get there", path.display()
    )]
    MountUnreadable { path: PathBuf, error: io::Error },
    #[error(
        "{} lies neither in the folder of its manifest nor where the daemon was told that components \
         may write: mount it with `readonly: true`, or start the daemon with --allow-mounts {}",
        path.display(), path.display()
    )]
    MountWritable { path: PathBuf },
    #[error(
        "cannot mount {}: what it leads to could be exchanged at {}, which others than root and the \
         daemon's user may change: give that folder to one of them",
        path.display(), by.display()
    )]
    MountLoose { path: PathBuf, by: PathBuf },
    #[error(
        "{what} gives power over the whole host: start the daemon with --allow-privileged if that \
         is meant"
    )]
    Privileged { what: String },
    #[error("secrets are files of this host, which the engine at {0} does not see")]
    SecretsNeedLocalEngine(String),
    #[error("cannot write secrets to {}: {error}", path.display())]
    SecretWrite { path: PathBuf, error: io::Error },
    #[error("cannot write its labels: {0}")]
    Labels(serde_json::Error),
    #[error("the engine refused the container: {0}")]
    Container(String),
    #[error("the engine has no init for containers: install `catatonit` on its host: {0}")]
    NoInit(String),
    #[error("the engine could not start the container: {0}")]
    Start(String),
    #[error("{0}")]
    Input(StartFailureText),
}

/// What a shared reader of inputs said.
#[derive(Debug)]
pub(super) struct StartFailureText(pub(super) StartFailure);

impl std::fmt::Display for StartFailureText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Refusal {
    /// One word for scripts. Part of the interface: only ever add.
    fn reason(&self) -> &str {
        match self {
            Self::WrongDriver(_) => "WrongDriver",
            Self::NameConflict { .. } => "NameConflict",
            Self::ImagePullFailed { .. } => "ImagePullFailed",
            Self::ImagePullDenied { .. } => "ImagePullDenied",
            Self::ImagePullNotFound { .. } => "ImagePullNotFound",
            Self::ImagePullGivenUp { .. } => StartFailure::GIVEN_UP,
            Self::ImagePullNever { .. } => "ImagePullNever",
            Self::ImageChanged { .. } => Reason::Changed.word(),
            Self::Image(refused) => refused.reason.word(),
            Self::ExecNotFound { .. } => "ExecNotFound",
            Self::NotExecutable { .. } => "NotExecutable",
            Self::BadFormat { .. } => "ExecFormat",
            Self::NoSuchUser { .. } => "NoSuchUser",
            Self::HostPortTaken { .. } => "HostPortTaken",
            Self::MountMissing(_) => "MountMissing",
            Self::Privileged { .. } => "PrivilegedRefused",
            Self::MountUnreadable { .. } => "MountUnreadable",
            Self::MountWritable { .. } => "MountNotWritable",
            Self::MountLoose { .. } => "MountNotSafe",
            Self::SecretsNeedLocalEngine(_) => "SecretsNeedLocalEngine",
            Self::SecretWrite { .. } => "SecretNotWritable",
            Self::Labels(_) | Self::Container(_) => "ContainerRefused",
            Self::NoInit(_) => "NoInit",
            Self::Start(_) => "StartFailed",
            Self::Input(input) => &input.0.reason,
        }
    }

    /// What the engine's words about a failed start mean; `spec` is what was to start, where that is
    /// known.
    pub(super) fn of_start(
        message: &str,
        program: &str,
        image: &str,
        spec: Option<&ComponentSpec>,
    ) -> Self {
        let says = |text: &str| message.contains(text);
        let (program, image) = (program.to_owned(), image.to_owned());
        let why = message.to_owned();
        if says("executable file not found") || says("stat ") && says("no such file or directory") {
            Self::ExecNotFound { program, image }
        } else if says("exec format error") {
            Self::BadFormat {
                program,
                image,
                why,
            }
        } else if says("permission denied") && says("exec") {
            Self::NotExecutable { program, image }
        } else if says("unable to find user") || says("unable to find group") {
            Self::NoSuchUser {
                user: spec.and_then(|spec| spec.user.clone()).unwrap_or_default(),
                image,
                why,
            }
        } else if (says("port is already allocated") || says("address already in use"))
            && let Some(port) = taken_port(message).or_else(|| host_ports(spec?))
        {
            Self::HostPortTaken {
                port,
                by: "another program".to_owned(),
            }
        } else {
            Self::Start(why)
        }
    }

    /// What the words of a container's init mean, which could not execute the program.
    pub(super) fn of_init(why: &str, program: &str, image: &str) -> Self {
        let (program, image) = (program.to_owned(), image.to_owned());
        if why.contains("No such file") {
            Self::ExecNotFound { program, image }
        } else if why.contains("Exec format error") {
            let why = why.to_owned();
            Self::BadFormat {
                program,
                image,
                why,
            }
        } else {
            Self::NotExecutable { program, image }
        }
    }

    /// What the engine's words about a failed pull mean; `None` when the engine itself is silent.
    pub(super) fn of_pull(failure: &Failure, image: &str) -> Option<Self> {
        let Failure::Answered { message, .. } = failure else {
            return None;
        };
        let says = |text: &str| message.contains(text);
        let (image, why) = (image.to_owned(), message.clone());
        Some(
            if says("unauthorized") || says("denied") || says("no basic auth credentials") {
                Self::ImagePullDenied { image, why }
            } else if says("manifest unknown") || says("not found") {
                Self::ImagePullNotFound { image, why }
            } else {
                Self::ImagePullFailed { image, why }
            },
        )
    }
}

/// The address in `Bind for 127.0.0.1:8080 failed: port is already allocated` and its kin.
fn taken_port(message: &str) -> Option<String> {
    message.split_whitespace().find_map(address)
}

/// `IP:PORT` at the beginning of a word. Newer engines write the container's own address behind it,
/// and the protocol.
fn address(word: &str) -> Option<String> {
    // Colons of an IPv6 address come before that of its port.
    let colon = match word.find("]:") {
        Some(bracket) => bracket + 1,
        None if word.starts_with(":::") => 2,
        None => word.find(':')?,
    };
    let (ip, rest) = (&word[..colon], &word[colon + 1..]);
    let digits = rest.find(|letter: char| !letter.is_ascii_digit());
    let port = &rest[..digits.unwrap_or(rest.len())];
    let ip_alone = ip.trim_start_matches('[').trim_end_matches(']');
    let known = ip_alone.is_empty() || ip_alone.parse::<IpAddr>().is_ok();
    let whole = known && port.parse::<u16>().is_ok_and(|port| port > 0);
    whole.then(|| format!("{ip}:{port}"))
}

/// The ports of the host that a component asks for, as people write them.
fn host_ports(spec: &ComponentSpec) -> Option<String> {
    let ports = spec.ports.iter().filter_map(|port| port.host_port);
    let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
    (!ports.is_empty()).then(|| ports.join(" or "))
}

impl From<Refusal> for StartFailure {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.reason().to_owned(),
            message: refusal.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::conformance;
    use crate::model::{Port, Protocol};

    #[test]
    fn the_engines_words_become_a_reason() {
        let reason = |message: &str| StartFailure::from(Refusal::of_start(message, "p", "i", None));
        let missing = "OCI runtime create failed: container_linux.go:380: starting container \
                       process caused: exec: \"nope\": executable file not found in $PATH: unknown";
        assert_eq!(reason(missing).reason, "ExecNotFound");
        let taken = "driver failed programming external connectivity on endpoint a (0a): Bind for \
                     127.0.0.1:8080 failed: port is already allocated";
        assert_eq!(reason(taken).reason, "HostPortTaken");
        assert!(reason(taken).message.contains("127.0.0.1:8080"));
        assert_eq!(reason("something new").reason, "StartFailed");
    }

    #[test]
    fn a_host_port_that_is_taken_is_named_whatever_the_engine_calls_it() {
        for (message, port) in [
            // Docker 20.10.
            (
                "driver failed programming external connectivity on endpoint a (0a1b): Bind for \
                 0.0.0.0:7148 failed: port is already allocated",
                "0.0.0.0:7148",
            ),
            (
                "driver failed programming external connectivity on endpoint a (0a1b): Bind for \
                 :::7148 failed: port is already allocated",
                ":::7148",
            ),
            (
                "driver failed programming external connectivity on endpoint a (0a1b): Error \
                 starting userland proxy: listen tcp4 127.0.0.1:7148: bind: address already in use",
                "127.0.0.1:7148",
            ),
            // Docker 28.
            (
                "failed to set up container networking: driver failed programming external \
                 connectivity on endpoint a (0a1b): failed to bind host port for \
                 0.0.0.0:7148:172.18.0.2:7148/tcp: address already in use",
                "0.0.0.0:7148",
            ),
            (
                "failed to bind host port for [::1]:7148:[fd00::2]:80/udp: address already in use",
                "[::1]:7148",
            ),
            (
                "failed to bind host port 0.0.0.0:7148/tcp: address already in use",
                "0.0.0.0:7148",
            ),
            (
                "failed to bind host port [::]:7148/sctp: address already in use",
                "[::]:7148",
            ),
            // Podman.
            (
                "cannot listen on the TCP port: listen tcp4 :7148: bind: address already in use",
                ":7148",
            ),
        ] {
            let failure = StartFailure::from(Refusal::of_start(message, "p", "i", None));
            assert_eq!(failure.reason, "HostPortTaken");
            let expected = format!("host port {port} is taken by another program:");
            assert!(failure.message.starts_with(&expected), "{failure:?}");
        }
    }

    #[test]
    fn a_host_port_that_the_engine_does_not_name_is_one_of_those_in_the_file() {
        let says = |ports: &[Option<u16>]| {
            let mut spec = conformance::spec("a", "program", &[]);
            spec.ports = ports.iter().copied().map(port).collect();
            let message = "container_linux.go:380: address already in use";
            StartFailure::from(Refusal::of_start(message, "p", "i", Some(&spec)))
        };
        let failure = says(&[Some(7_148), None, Some(7_149)]);
        let expected = "host port 7148 or 7149 is taken by another program:";
        assert!(failure.message.starts_with(expected), "{failure:?}");
        let failure = says(&[]);
        assert_eq!(failure.reason, "StartFailed");
        assert!(
            failure.message.contains("container_linux.go"),
            "{failure:?}"
        );
    }

    fn port(host_port: Option<u16>) -> Port {
        Port {
            name: None,
            container_port: 80,
            host_port,
            host_ip: None,
            protocol: Protocol::Tcp,
        }
    }
}
