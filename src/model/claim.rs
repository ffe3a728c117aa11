//! What only one instance may have at a time, or should: two instances of different names hand it
//! over when an edit gives it from one to the other.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ids::ReplicaKey;
use super::spec::{ComponentSpec, Port, Protocol, VolumeSource, Workload};

/// One thing that an instance has for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// A port of the host.
    Port {
        /// Its number.
        number: u16,
        /// Its transport.
        protocol: Protocol,
    },
    /// The name of a container.
    Name(String),
    /// A volume of the engine.
    Volume(String),
    /// A folder or file of the host that it writes to.
    Place(PathBuf),
}

impl Claim {
    /// Whether two instances cannot have it at once, however they get along.
    pub fn is_exclusive(&self) -> bool {
        match self {
            Self::Port { .. } | Self::Name(_) => true,
            Self::Volume(_) | Self::Place(_) => false,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { number, protocol } => {
                let protocol = match protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Sctp => "sctp",
                };
                write!(f, "port {number}/{protocol}")
            }
            Self::Name(name) => write!(f, "the container name {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Place(path) => write!(f, "{}", path.display()),
        }
    }
}

impl ComponentSpec {
    /// What replica `replica` has for itself while it runs. `folder` is its manifest's, where every
    /// program works that names no other: that one is nobody's own.
    pub fn claims(&self, replica: u32, folder: Option<&Path>) -> BTreeSet<Claim> {
        let mut claims: BTreeSet<Claim> = self.ports.iter().filter_map(|p| self.port(p)).collect();
        match &self.workload {
            Workload::Process(process) => {
                let is_own = folder.is_some_and(|folder| folder != process.working_dir);
                if is_own && process.working_dir != Path::new("/") {
                    claims.insert(Claim::Place(process.working_dir.clone()));
                }
            }
            Workload::Docker(_) => {
                let component = self.id.clone();
                let key = ReplicaKey { component, replica };
                claims.insert(Claim::Name(key.container_name()));
                let written = self.volumes.iter().filter(|volume| !volume.read_only);
                claims.extend(written.filter_map(|volume| match &volume.source {
                    VolumeSource::Bind(path) => Some(Claim::Place(path.clone())),
                    VolumeSource::Named(name) => Some(Claim::Volume(name.clone())),
                    VolumeSource::Tmpfs => None,
                }));
            }
            // A cluster's ports, names and volumes are its own to share out.
            Workload::Nomad(_) | Workload::Kubernetes(_) => {}
        }
        claims
    }

    /// The port of this host that `port` takes; `None` where it takes none.
    fn port(&self, port: &Port) -> Option<Claim> {
        let number = match &self.workload {
            Workload::Process(_) => port.container_port,
            Workload::Docker(_) => port.host_port.filter(|number| *number != 0)?,
            Workload::Nomad(_) | Workload::Kubernetes(_) => return None,
        };
        let protocol = port.protocol;
        Some(Claim::Port { number, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::component;
    use super::super::{ContainerSpec, ProcessSpec, Volume};
    use super::*;

    fn words(spec: &ComponentSpec, folder: &str) -> Vec<String> {
        let claims = spec.claims(1, Some(Path::new(folder)));
        claims.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_process_has_its_ports_and_the_folder_that_it_names() {
        let mut spec = component("web", 1, &[]);
        spec.workload = Workload::Process(ProcessSpec {
            program: "web".to_owned(),
            args: vec![],
            working_dir: "/srv/web".into(),
        });
        spec.ports = vec![Port {
            name: None,
            container_port: 80,
            host_port: Some(8080),
            host_ip: None,
            protocol: Protocol::Tcp,
        }];
        assert_eq!(words(&spec, "/etc"), ["port 80/tcp", "/srv/web"]);
        assert_eq!(words(&spec, "/srv/web"), ["port 80/tcp"]);
    }

    #[test]
    fn a_container_has_its_name_its_host_ports_and_what_it_writes_to() {
        let mut spec = component("web", 1, &[]);
        spec.workload = Workload::Docker(ContainerSpec {
            image: "web:1".to_owned(),
            command: None,
            args: vec![],
            working_dir: None,
            pull: None,
            network: None,
            verify: None,
        });
        let port = |host_port, protocol| Port {
            name: None,
            container_port: 80,
            host_port,
            host_ip: None,
            protocol,
        };
        spec.ports = vec![
            port(Some(8080), Protocol::Udp),
            port(None, Protocol::Tcp),
            port(Some(0), Protocol::Tcp),
        ];
        let volume = |source, read_only| Volume {
            source,
            target: "/data".to_owned(),
            read_only,
        };
        spec.volumes = vec![
            volume(VolumeSource::Named("data".to_owned()), false),
            volume(VolumeSource::Bind("/srv/in".into()), true),
            volume(VolumeSource::Bind("/srv/out".into()), false),
            volume(VolumeSource::Tmpfs, false),
        ];
        let expected = [
            "port 8080/udp",
            "the container name web-1",
            "volume data",
            "/srv/out",
        ];
        assert_eq!(words(&spec, "/etc"), expected);
    }
}
