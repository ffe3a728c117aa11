//! Whose registration it is: a ladder of evidence, strongest first. Pure.
//!
//! Half of the components of the field send no id at all, so what they do send is held against
//! what is known of every live instance. A rung that fits several instances narrows the choice,
//! and the next rung goes on with those; one that fits none is passed over. What is told as the
//! evidence is the rung that settled it.

use std::net::IpAddr;

use crate::model::{ComponentSpec, Evidence, InstanceId, Owner, ServiceKind};

/// Where a call came from, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Peer {
    /// The address of the other end.
    pub ip: Option<IpAddr>,
    /// Whose socket it is.
    pub process: PeerProcess,
    /// The instance whose container has this address.
    pub container: Option<InstanceId>,
}

/// Whose socket a connection's other end is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum PeerProcess {
    /// Nobody looked, or it could not be seen.
    #[default]
    Unknown,
    /// A process of this host.
    Found {
        /// Its pid, its process group, and those that started it, nearest first.
        pids: Vec<u32>,
        /// The instance that its environment names.
        instance: Option<InstanceId>,
    },
}

/// A live instance that a registration may belong to.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub id: &'a InstanceId,
    pub spec: &'a ComponentSpec,
    /// The pid of its program.
    pub pid: Option<u32>,
    /// Whether a registration of it is known already.
    pub registered: bool,
}

/// What a registration shows.
pub(super) struct Clues<'a> {
    /// Names that it gives itself, the most trusted first.
    pub names: &'a [String],
    /// Where it says it answers health checks.
    pub health_endpoint: &'a str,
    pub peer: &'a Peer,
    pub kind: ServiceKind,
}

/// The instance that `clues` point at.
pub(super) fn owner(candidates: &[Candidate<'_>], clues: &Clues<'_>) -> Option<Owner> {
    let mut left: Vec<&Candidate<'_>> = candidates.iter().collect();
    let mut best = None;
    let health_port = port_of(clues.health_endpoint);
    let mut rung =
        |by: Evidence, left: &mut Vec<&Candidate<'_>>, fits: &dyn Fn(&Candidate<'_>) -> bool| {
            let fitting: Vec<_> = left
                .iter()
                .copied()
                .filter(|candidate| fits(candidate))
                .collect();
            if fitting.is_empty() {
                return;
            }
            if best.is_none() || fitting.len() < left.len() {
                best = Some(by);
            }
            *left = fitting;
        };
    for name in clues.names {
        rung(Evidence::Name, &mut left, &|c| is_named(c, name));
    }
    if let Some(port) = health_port {
        rung(Evidence::HealthPort, &mut left, &|c| {
            c.spec.health_port() == Some(port)
        });
    }
    rung(Evidence::Process, &mut left, &|c| {
        is_process_of(c, &clues.peer.process)
    });
    if let Some(container) = &clues.peer.container {
        rung(Evidence::Container, &mut left, &|c| c.id == container);
    }
    if let Some(by) = best {
        // Replicas that nothing tells apart register one after the other.
        let chosen = left.iter().find(|c| !c.registered).or(left.first())?;
        return Some(Owner {
            instance: chosen.id.clone(),
            by,
        });
    }
    by_kind(candidates, clues)
}

/// The only component of its kind that has not registered, for a client that tells nothing else.
fn by_kind(candidates: &[Candidate<'_>], clues: &Clues<'_>) -> Option<Owner> {
    let role = clues.kind.role()?;
    let stranger = matches!(clues.peer.process, PeerProcess::Found { .. });
    if stranger || !clues.names.is_empty() {
        return None;
    }
    let mut of_kind = candidates
        .iter()
        .filter(|c| c.spec.role == role && !c.registered);
    match (of_kind.next(), of_kind.next()) {
        (Some(only), None) => Some(Owner {
            instance: only.id.clone(),
            by: Evidence::Kind,
        }),
        (Some(_) | None, _) => None,
    }
}

fn is_named(candidate: &Candidate<'_>, name: &str) -> bool {
    let replica = &candidate.id.replica;
    replica.component.as_str() == name || (replica.replica > 0 && replica.to_string() == name)
}

fn is_process_of(candidate: &Candidate<'_>, process: &PeerProcess) -> bool {
    match process {
        PeerProcess::Unknown => false,
        PeerProcess::Found { pids, instance } => {
            instance.as_ref() == Some(candidate.id)
                || candidate.pid.is_some_and(|pid| pids.contains(&pid))
        }
    }
}

/// The port in `http://localhost:8088/health`, `localhost:8088` or `:8088`.
fn port_of(endpoint: &str) -> Option<u16> {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next()?;
    authority.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::component;
    use crate::model::{HttpTarget, HumanDuration, Probe, ProbeCheck, Role};

    struct Live {
        id: InstanceId,
        spec: ComponentSpec,
        pid: Option<u32>,
        registered: bool,
    }

    /// A live instance `default.p.ID.REPLICA.1` that was given `port` for its health checks.
    fn live(id: &str, replica: u32, role: Role, port: u16) -> Live {
        let mut spec = component(id, 1, &[]);
        spec.role = role;
        spec.probes.readiness = Some(Probe {
            check: ProbeCheck::Http(HttpTarget {
                host: None,
                port,
                path: "/health".into(),
            }),
            period: HumanDuration::from_secs(1),
            timeout: HumanDuration::from_secs(1),
            failures: 1,
            successes: 1,
        });
        let id = format!("default.p.{id}.{replica}.1").parse().unwrap();
        Live {
            id,
            spec,
            pid: None,
            registered: false,
        }
    }

    fn ask(
        live: &[Live],
        names: &[&str],
        endpoint: &str,
        peer: &Peer,
        kind: ServiceKind,
    ) -> Option<String> {
        let candidates: Vec<_> = live
            .iter()
            .map(|l| Candidate {
                id: &l.id,
                spec: &l.spec,
                pid: l.pid,
                registered: l.registered,
            })
            .collect();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let clues = Clues {
            names: &names,
            health_endpoint: endpoint,
            peer,
            kind,
        };
        owner(&candidates, &clues)
            .map(|owner| format!("{} by {}", owner.instance.replica, owner.by))
    }

    fn from_pid(pid: u32) -> Peer {
        Peer {
            process: PeerProcess::Found {
                pids: vec![pid, 1],
                instance: None,
            },
            ..Peer::default()
        }
    }

    const ANY: ServiceKind = ServiceKind::Unspecified;

    #[test]
    fn the_silent_processor_is_known_by_the_health_port_that_it_was_given() {
        let live = [
            live("src", 0, Role::Source, 18088),
            live("ttp", 0, Role::Processor, 18089),
        ];
        let found = ask(
            &live,
            &[],
            "http://localhost:18089/health",
            &Peer::default(),
            ANY,
        );
        assert_eq!(found.as_deref(), Some("ttp by health port"));
    }

    #[test]
    fn a_name_counts_for_more_than_a_port_that_everyone_reports() {
        let live = [
            live("a", 0, Role::Source, 8088),
            live("b", 0, Role::Sink, 8093),
        ];
        let found = ask(
            &live,
            &["b"],
            "http://localhost:8088/health",
            &Peer::default(),
            ANY,
        );
        assert_eq!(found.as_deref(), Some("b by name"));
    }

    #[test]
    fn replicas_of_one_name_are_told_apart_by_their_process() {
        let mut live = [live("w", 0, Role::Sink, 1), live("w", 1, Role::Sink, 1)];
        (live[0].pid, live[1].pid) = (Some(10), Some(11));
        let found = ask(&live, &["w"], "", &from_pid(11), ANY);
        assert_eq!(found.as_deref(), Some("w-1 by process"));
        let found = ask(&live[1..], &["w"], "", &from_pid(11), ANY);
        assert_eq!(found.as_deref(), Some("w-1 by name"), "it needed no more");
    }

    #[test]
    fn replicas_in_containers_are_told_apart_by_the_address_that_they_call_from() {
        let live = [0, 1].map(|replica| live("ttp", replica, Role::Processor, 8088));
        let from = |container: &InstanceId, names: &[&str], endpoint: &str| {
            let peer = Peer {
                container: Some(container.clone()),
                ..Peer::default()
            };
            ask(&live, names, endpoint, &peer, ANY)
        };
        let second = &live[1].id;
        for (names, endpoint) in [
            (&[][..], ""),
            (&["ttp"], ""),
            (&[], "http://localhost:8088/health"),
        ] {
            let known = from(second, names, endpoint);
            assert_eq!(known.as_deref(), Some("ttp-1 by container"));
        }
        let elses = "default.other.x.0.1".parse().unwrap();
        assert_eq!(
            from(&elses, &[], ""),
            None,
            "a container of somebody else's"
        );
    }

    #[test]
    fn replicas_that_nothing_tells_apart_register_one_after_the_other() {
        let mut live = [live("w", 0, Role::Sink, 1), live("w", 1, Role::Sink, 1)];
        live[0].registered = true;
        let found = ask(&live, &["w"], "", &Peer::default(), ANY);
        assert_eq!(found.as_deref(), Some("w-1 by name"));
    }

    #[test]
    fn a_client_without_any_id_is_the_only_one_of_its_kind_left() {
        let mut live = [live("a", 0, Role::Sink, 1), live("b", 0, Role::Sink, 2)];
        assert_eq!(
            ask(&live, &[], "", &Peer::default(), ServiceKind::Sink),
            None
        );
        live[0].registered = true;
        let found = ask(&live, &[], "", &Peer::default(), ServiceKind::Sink);
        assert_eq!(found.as_deref(), Some("b by kind"));
    }

    #[test]
    fn a_stranger_of_the_right_kind_is_nobody_of_ours() {
        let mut live = [live("a", 0, Role::Sink, 1)];
        live[0].pid = Some(10);
        assert_eq!(ask(&live, &[], "", &from_pid(99), ServiceKind::Sink), None);
        assert_eq!(
            ask(&live, &["other"], "", &Peer::default(), ServiceKind::Sink),
            None
        );
    }

    #[test]
    fn ports_are_read_from_every_spelling_of_an_endpoint() {
        for (text, port) in [
            ("http://localhost:8088/health", Some(8088)),
            ("localhost:8088", Some(8088)),
            (":50051", Some(50051)),
            ("http://[::1]:80?x", Some(80)),
            ("http://localhost/health", None),
            ("http://localhost:99999/", None),
            ("", None),
        ] {
            assert_eq!(port_of(text), port, "{text}");
        }
    }
}
