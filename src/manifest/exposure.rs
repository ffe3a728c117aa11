//! Where the components of each driver are reached. Each driver says it once; what one component is told
//! of another follows for every pair of them.

use std::net::IpAddr;

use super::drivers::kubernetes;
use crate::model::{DriverKind, Port};

/// The name by which a container reaches a program on its host. The Docker driver makes it known
/// inside every container.
pub const HOST_FROM_CONTAINER: &str = "host.flowctl.internal";

/// How what a driver runs is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// On this host, at the port that its program listens at.
    OnHost,
    /// In the network of its engine by its name; for everybody else where it is published on this host.
    InNetwork,
    /// By its name wherever one asks: its engine resolves that.
    ByName,
    /// At an address that its engine knows once it has placed it, and that only those get to know who
    /// are placed there too.
    OncePlaced,
}

impl Exposure {
    fn of(driver: DriverKind) -> Self {
        match driver {
            DriverKind::Process => Self::OnHost,
            DriverKind::Docker => Self::InNetwork,
            DriverKind::Kubernetes => Self::ByName,
            DriverKind::Nomad => Self::OncePlaced,
        }
    }
}

/// One component asking for another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Who runs the one that asks.
    pub(super) from: DriverKind,
    /// Who runs the one that is asked for.
    pub(super) to: DriverKind,
}

/// A port by which one component reaches another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// At this number.
    At(u16),
    /// Not at all: it is not published on the host.
    Unpublished,
}

impl Way {
    /// Whether the two share a network in which names are known.
    fn is_by_name(self) -> bool {
        let (from, to) = (Exposure::of(self.from), Exposure::of(self.to));
        match to {
            Exposure::ByName | Exposure::OncePlaced => true,
            Exposure::InNetwork => from == to,
            Exposure::OnHost => false,
        }
    }

    /// Whether no address leads from one to the other: what a cluster runs has an address that only the
    /// cluster knows.
    pub(super) fn is_cut_off(self) -> bool {
        let is_placed = |driver| Exposure::of(driver) == Exposure::OncePlaced;
        kubernetes::is_cut_off(self.from, self.to) || is_placed(self.from) != is_placed(self.to)
    }

    /// Whether both run where nobody knows an address before a cluster has placed what has it.
    pub(super) fn is_known_once_placed(self) -> bool {
        [self.from, self.to].map(Exposure::of) == [Exposure::OncePlaced; 2]
    }

    /// The host by which `id` is reached.
    pub(super) fn host(self, id: &str, port: Option<&Port>) -> String {
        if self.is_by_name() {
            return id.to_owned();
        }
        match Exposure::of(self.from) {
            Exposure::OnHost => self.on_this_host(port),
            Exposure::InNetwork | Exposure::ByName | Exposure::OncePlaced => {
                HOST_FROM_CONTAINER.to_owned()
            }
        }
    }

    fn on_this_host(self, port: Option<&Port>) -> String {
        let published = match Exposure::of(self.to) {
            Exposure::InNetwork => port.and_then(|port| port.host_ip),
            Exposure::OnHost | Exposure::ByName | Exposure::OncePlaced => None,
        };
        match published.filter(|ip| !ip.is_unspecified() && !ip.is_loopback()) {
            Some(IpAddr::V4(ip)) => ip.to_string(),
            Some(IpAddr::V6(ip)) => format!("[{ip}]"),
            None => "localhost".to_owned(),
        }
    }

    /// The number at which `port` is reached.
    pub(super) fn port(self, port: &Port) -> Reached {
        let is_published = !self.is_by_name() && Exposure::of(self.to) == Exposure::InNetwork;
        match (is_published, port.host_port) {
            (false, _) => Reached::At(port.container_port),
            (true, Some(number)) => Reached::At(number),
            (true, None) => Reached::Unpublished,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DriverKind::{Docker, Kubernetes, Nomad, Process};

    #[test]
    fn every_pair_of_drivers_follows_from_what_each_says() {
        let port = Port {
            name: None,
            container_port: 7000,
            host_port: Some(17000),
            host_ip: None,
            protocol: crate::model::Protocol::Tcp,
        };
        for (from, to, expected) in [
            (Process, Process, "localhost:7000"),
            (Process, Docker, "localhost:17000"),
            (Docker, Docker, "b:7000"),
            (Docker, Process, "host.flowctl.internal:7000"),
            (Process, Kubernetes, "b:7000"),
            (Docker, Nomad, "b:7000"),
            (Kubernetes, Process, "host.flowctl.internal:7000"),
            (Nomad, Docker, "host.flowctl.internal:17000"),
        ] {
            let way = Way { from, to };
            let Reached::At(number) = way.port(&port) else {
                panic!("{from} {to}");
            };
            let told = format!("{}:{number}", way.host("b", Some(&port)));
            assert_eq!(told, expected, "{from} to {to}");
        }
        let unpublished = Port {
            host_port: None,
            ..port
        };
        let way = Way {
            from: Process,
            to: Docker,
        };
        assert_eq!(way.port(&unpublished), Reached::Unpublished);
    }
}
