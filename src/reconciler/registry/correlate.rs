//! Which instance somebody is. Pure.
//!
//! The kernel and the container engine prove it ([`identify`]): by the process or the container at
//! the other end of the connection. Where they do not, and the caller may be believed, a ladder of
//! what it says goes on ([`owner`]), strongest first: half of the components of the field send no id
//! at all, so what they do send is held against what is known of every live instance. A rung that
//! fits several instances narrows the choice, and the next rung goes on with those; one that fits
//! none is passed over. What is told as the evidence is the rung that settled it.

use crate::model::{ComponentSpec, Evidence, Facts, InstanceId, Owner, ReplicaKey, ServiceKind};

use super::commands::Identified;
use super::identity::Identity;

/// Who is at the other end of a connection, as far as the kernel and the engine tell.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Peer {
    /// Whose socket it is.
    pub process: PeerProcess,
    /// The instance whose container has this address.
    pub container: Option<InstanceId>,
}

/// A process, told from a later one of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its number.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since the host's start.
    pub start_ticks: u64,
}

/// Whose socket a connection's other end is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum PeerProcess {
    /// Nobody looked, or it could not be seen.
    #[default]
    Unknown,
    /// A process of this host.
    Found {
        /// It, the leader of its process group, and those that started it, nearest first.
        line: Vec<Ancestor>,
        /// The engine's id of the container that it is in.
        container: Option<String>,
        /// The instance that its environment names, where that can be believed.
        instance: Option<InstanceId>,
        /// The same where it cannot: anybody may write it there.
        claimed: Option<InstanceId>,
    },
}

/// A live instance that a registration may belong to.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub id: &'a InstanceId,
    pub spec: &'a ComponentSpec,
    /// Where it runs; `None` while its start is under way.
    pub facts: Option<&'a Facts>,
    /// Whether a registration of it is known already.
    pub registered: bool,
}

/// What a registration shows.
pub(super) struct Clues<'a> {
    /// Names that it gives itself, the most trusted first.
    pub names: &'a [String],
    /// Where it says it answers health checks.
    pub health_endpoint: &'a str,
    /// Who calls, as far as that is proven.
    pub who: &'a Identity,
    pub kind: ServiceKind,
}

/// The instance at the other end of a connection, by what the kernel and the engine tell.
pub(super) fn identify(candidates: &[Candidate<'_>], peer: &Peer) -> Identified {
    let of = |candidate: &Candidate<'_>, by| Identified::Instance {
        id: candidate.id.clone(),
        by,
    };
    let live = |id: &InstanceId| candidates.iter().find(|candidate| candidate.id == id);
    if let Some(found) = peer.container.as_ref().and_then(live) {
        return of(found, Evidence::Container);
    }
    let PeerProcess::Found {
        line,
        container,
        instance,
        claimed,
    } = &peer.process
    else {
        return Identified::Nobody;
    };
    if let Some(found) = candidates.iter().find(|c| is_of_line(c, line)) {
        return of(found, Evidence::Process);
    }
    if let Some(found) = candidates.iter().find(|c| is_in(c, container.as_deref())) {
        return of(found, Evidence::Container);
    }
    if let Some(marked) = instance {
        return match live(marked) {
            Some(found) => of(found, Evidence::Process),
            None => Identified::Ended(marked.clone()),
        };
    }
    // A program may call before its start was answered.
    let starts = |candidate: &&Candidate<'_>| candidate.facts.is_none();
    match claimed.as_ref().and_then(live).filter(starts) {
        Some(_) => Identified::NotYet,
        None => Identified::Nobody,
    }
}

fn is_of_line(candidate: &Candidate<'_>, line: &[Ancestor]) -> bool {
    let mut own = candidate.facts.iter().flat_map(|facts| &facts.processes);
    own.any(|own| {
        let mut line = line.iter();
        line.any(|one| (own.pid, own.start_ticks) == (one.pid, one.start_ticks))
    })
}

fn is_in(candidate: &Candidate<'_>, id: Option<&str>) -> bool {
    let container = candidate.facts.and_then(|facts| facts.container.as_deref());
    container.is_some() && container == id
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
        rung(Evidence::Name, &mut left, &|c| {
            is_called(&c.id.replica, name)
        });
    }
    if let Some(port) = health_port {
        rung(Evidence::HealthPort, &mut left, &|c| {
            let told = c.spec.health_port();
            told.and_then(|told| told.of(c.id.replica.replica)) == Some(port)
        });
    }
    if let Identity::Instance { id, by } = clues.who {
        rung(*by, &mut left, &|c| c.id == id);
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
    // A process that was seen and is no instance's is nobody of ours.
    if *clues.who != Identity::OwnUser || !clues.names.is_empty() {
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

/// Whether `name` is what a replica is called.
pub(super) fn is_called(replica: &ReplicaKey, name: &str) -> bool {
    replica.component.as_str() == name || (replica.replica > 0 && replica.to_string() == name)
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
        facts: Option<Facts>,
        registered: bool,
    }

    /// A live instance `default.p.ID.REPLICA.1` that was given `port` for its health checks.
    fn live(id: &str, replica: u32, role: Role, port: u16) -> Live {
        let mut spec = component(id, 1, &[]);
        spec.role = role;
        spec.probes.readiness = Some(Probe {
            check: ProbeCheck::Http(HttpTarget {
                host: None,
                port: port.into(),
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
            facts: None,
            registered: false,
        }
    }

    fn candidates(live: &[Live]) -> Vec<Candidate<'_>> {
        live.iter()
            .map(|l| Candidate {
                id: &l.id,
                spec: &l.spec,
                facts: l.facts.as_ref(),
                registered: l.registered,
            })
            .collect()
    }

    fn ask(
        live: &[Live],
        names: &[&str],
        endpoint: &str,
        who: &Identity,
        kind: ServiceKind,
    ) -> Option<String> {
        let candidates = candidates(live);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let clues = Clues {
            names: &names,
            health_endpoint: endpoint,
            who,
            kind,
        };
        owner(&candidates, &clues)
            .map(|owner| format!("{} by {}", owner.instance.replica, owner.by))
    }

    fn instance(live: &Live, by: Evidence) -> Identity {
        let id = live.id.clone();
        Identity::Instance { id, by }
    }

    /// A process of the shim and the program with these numbers.
    fn process(shim: u32, child: u32) -> Option<Facts> {
        let identity = |pid| crate::model::ProcessIdentity {
            boot_id: "b".to_owned(),
            pid,
            start_ticks: 7,
        };
        Some(Facts {
            processes: vec![identity(shim), identity(child)],
            ..Facts::default()
        })
    }

    /// The process `pid`, whose environment may name an instance.
    fn from(pid: u32, start_ticks: u64) -> PeerProcess {
        PeerProcess::Found {
            line: vec![
                Ancestor { pid, start_ticks },
                Ancestor {
                    pid: 1,
                    start_ticks: 0,
                },
            ],
            container: None,
            instance: None,
            claimed: None,
        }
    }

    const ANY: ServiceKind = ServiceKind::Unspecified;
    const US: Identity = Identity::Operator;

    #[test]
    fn the_silent_processor_is_known_by_the_health_port_that_it_was_given() {
        let live = [
            live("src", 0, Role::Source, 18088),
            live("ttp", 0, Role::Processor, 18089),
        ];
        let found = ask(&live, &[], "http://localhost:18089/health", &US, ANY);
        assert_eq!(found.as_deref(), Some("ttp by health port"));
    }

    #[test]
    fn a_name_counts_for_more_than_a_port_that_everyone_reports() {
        let live = [
            live("a", 0, Role::Source, 8088),
            live("b", 0, Role::Sink, 8093),
        ];
        let found = ask(&live, &["b"], "http://localhost:8088/health", &US, ANY);
        assert_eq!(found.as_deref(), Some("b by name"));
    }

    #[test]
    fn replicas_are_told_apart_by_the_process_or_container_that_they_call_from() {
        for by in [Evidence::Process, Evidence::Container] {
            let live = [0, 1].map(|replica| live("ttp", replica, Role::Processor, 8088));
            let second = instance(&live[1], by);
            for (names, endpoint) in [
                (&[][..], ""),
                (&["ttp"], ""),
                (&[], "http://localhost:8088/health"),
            ] {
                let known = ask(&live, names, endpoint, &second, ANY);
                assert_eq!(known, Some(format!("ttp-1 by {by}")));
            }
            let found = ask(&live[1..], &["ttp"], "", &second, ANY);
            assert_eq!(found.as_deref(), Some("ttp-1 by name"), "it needed no more");
        }
    }

    #[test]
    fn replicas_that_nothing_tells_apart_register_one_after_the_other() {
        let mut live = [live("w", 0, Role::Sink, 1), live("w", 1, Role::Sink, 1)];
        live[0].registered = true;
        let found = ask(&live, &["w"], "", &US, ANY);
        assert_eq!(found.as_deref(), Some("w-1 by name"));
    }

    #[test]
    fn a_client_without_any_id_is_the_only_one_of_its_kind_left() {
        let unseen = Identity::OwnUser;
        let mut live = [live("a", 0, Role::Sink, 1), live("b", 0, Role::Sink, 2)];
        assert_eq!(ask(&live, &[], "", &unseen, ServiceKind::Sink), None);
        live[0].registered = true;
        let found = ask(&live, &[], "", &unseen, ServiceKind::Sink);
        assert_eq!(found.as_deref(), Some("b by kind"));
        assert_eq!(ask(&live, &[], "", &US, ServiceKind::Sink), None);
        assert_eq!(ask(&live, &["x"], "", &unseen, ServiceKind::Sink), None);
    }

    #[test]
    fn an_instance_is_whoever_descends_from_its_program_or_guardian_in_that_life() {
        let mut live = [live("a", 0, Role::Sink, 1), live("b", 0, Role::Sink, 2)];
        live[0].facts = process(20, 21);
        live[1].facts = process(30, 31);
        let who = |process| {
            let peer = Peer {
                process,
                container: None,
            };
            match identify(&candidates(&live), &peer) {
                Identified::Instance { id, by } => format!("{} by {by}", id.replica),
                other @ (Identified::Ended(_) | Identified::NotYet | Identified::Nobody) => {
                    format!("{other:?}")
                }
            }
        };
        assert_eq!(who(from(21, 7)), "a by process");
        assert_eq!(
            who(from(30, 7)),
            "b by process",
            "what the guardian took in"
        );
        assert_eq!(who(from(21, 8)), "Nobody", "a later process of that number");
        assert_eq!(who(from(99, 7)), "Nobody");
        assert_eq!(who(PeerProcess::Unknown), "Nobody");
    }

    /// The environment of a process of another user is what that user wrote.
    #[test]
    fn a_mark_is_believed_of_our_own_user_only_and_else_a_reason_to_wait_for_a_start() {
        let mut live = [live("a", 0, Role::Sink, 1)];
        let id = live[0].id.clone();
        let later: InstanceId = "default.p.a.0.9".parse().unwrap();
        let marked = |believed: Option<&InstanceId>, claimed: Option<&InstanceId>| Peer {
            process: PeerProcess::Found {
                line: vec![],
                container: None,
                instance: believed.cloned(),
                claimed: claimed.cloned(),
            },
            container: None,
        };
        let ours = Identified::Instance {
            id: id.clone(),
            by: Evidence::Process,
        };
        let who = |live: &[Live], peer: &Peer| identify(&candidates(live), peer);
        assert_eq!(who(&live, &marked(Some(&id), None)), ours);
        assert_eq!(who(&live, &marked(None, Some(&id))), Identified::NotYet);
        live[0].facts = process(20, 21);
        assert_eq!(who(&live, &marked(Some(&id), None)), ours);
        assert_eq!(who(&live, &marked(None, Some(&id))), Identified::Nobody);
        let ended = Identified::Ended(later.clone());
        assert_eq!(who(&live, &marked(Some(&later), None)), ended);
    }

    #[test]
    fn a_container_is_known_by_its_address_or_its_control_group() {
        let mut live = [live("a", 0, Role::Sink, 1)];
        live[0].facts = Some(Facts {
            container: Some("c0ffee".to_owned()),
            ..Facts::default()
        });
        let id = live[0].id.clone();
        let inside = |container: &str| Peer {
            process: PeerProcess::Found {
                line: vec![],
                container: Some(container.to_owned()),
                instance: None,
                claimed: None,
            },
            container: None,
        };
        let at = |id: &InstanceId| Peer {
            process: PeerProcess::Unknown,
            container: Some(id.clone()),
        };
        let ours = Identified::Instance {
            id: id.clone(),
            by: Evidence::Container,
        };
        let who = |peer: &Peer| identify(&candidates(&live), peer);
        assert_eq!(who(&at(&id)), ours);
        assert_eq!(who(&inside("c0ffee")), ours);
        assert_eq!(who(&inside("beef")), Identified::Nobody);
        let elses = "default.other.x.0.1".parse().unwrap();
        assert_eq!(who(&at(&elses)), Identified::Nobody);
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
