//! What only all components together can get wrong: names that nobody bears, cycles, and names
//! of containers and ports of the host that two want.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{ComponentId, DriverKind, Protocol, ReplicaKey};

use super::component::Draft;
use super::problem::{Findings, Span, shown};
use super::references::Ids;
use super::suggest;
use super::workload::Program;

/// One way in which a component depends on another, by index.
#[derive(Clone, Copy)]
struct Edge {
    to: usize,
    at: Span,
}

/// Checks ids, `inputs` and `depends_on` over all lists. Where not all `ids` are known, a name that
/// nobody bears is no mistake of its own.
pub(super) fn check(drafts: &[Draft<'_>], ids: Ids, findings: &mut Findings<'_>) {
    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let Some((id, at)) = &draft.id else { continue };
        if let Some(first) = by_id.get(id.as_str()) {
            let earlier = drafts[*first]
                .id
                .as_ref()
                .map(|(_, at)| *at)
                .unwrap_or_default();
            findings.clash(
                *at,
                format!("two components have the id `{id}`"),
                earlier,
                "first used here",
            );
        } else {
            by_id.insert(id.as_str(), index);
        }
    }
    let mut edges: Vec<Vec<Edge>> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let inputs = draft.inputs.iter().map(|(id, at)| ("inputs", id, *at));
        let depends_on = draft
            .depends_on
            .iter()
            .map(|(id, _, at)| ("depends_on", id, *at));
        let mut out = Vec::new();
        for (field, id, at) in inputs.chain(depends_on) {
            match by_id.get(id.as_str()) {
                Some(to) => out.push(Edge { to: *to, at }),
                None if ids == Ids::SomeUnread => {}
                None => unknown(field, id, at, &by_id, findings),
            }
        }
        edges.push(out);
    }
    report_cycles(drafts, &edges, findings);
}

fn unknown(
    field: &str,
    id: &ComponentId,
    at: Span,
    by_id: &BTreeMap<&str, usize>,
    findings: &mut Findings<'_>,
) {
    let fix = match findings.is_full() {
        true => None,
        false => suggest::did_you_mean(id.as_str(), by_id.keys().copied()),
    };
    findings.error(
        at,
        format!("`{field}` names `{id}`, but there is no such component"),
        fix,
    );
}

/// How far the search has come with a component.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Unseen,
    /// On the path that is being followed.
    OnPath,
    Done,
}

/// Follows every edge once, without recursion: a chain may be as long as the file. Each cycle is
/// reported where the edge that closes it was written.
fn report_cycles(drafts: &[Draft<'_>], edges: &[Vec<Edge>], findings: &mut Findings<'_>) {
    let mut marks = vec![Mark::Unseen; drafts.len()];
    for start in 0..drafts.len() {
        if marks[start] != Mark::Unseen {
            continue;
        }
        marks[start] = Mark::OnPath;
        // Each step of the path, and how many of its edges were followed.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((at, followed)) = path.last_mut() {
            let at = *at;
            let Some(edge) = edges[at].get(*followed).copied() else {
                marks[at] = Mark::Done;
                path.pop();
                continue;
            };
            *followed += 1;
            match marks[edge.to] {
                Mark::Unseen => {
                    marks[edge.to] = Mark::OnPath;
                    path.push((edge.to, 0));
                }
                Mark::OnPath => {
                    let from = path
                        .iter()
                        .position(|(node, _)| *node == edge.to)
                        .unwrap_or(0);
                    let members: Vec<usize> = path[from..].iter().map(|(node, _)| *node).collect();
                    report_cycle(drafts, &members, edge, findings);
                }
                Mark::Done => {}
            }
        }
    }
}

fn report_cycle(
    drafts: &[Draft<'_>],
    members: &[usize],
    closing: Edge,
    findings: &mut Findings<'_>,
) {
    let name = |index: &usize| {
        drafts[*index]
            .id
            .as_ref()
            .map_or("?", |(id, _)| id.as_str())
    };
    if let [one] = members {
        findings.error(
            closing.at,
            format!("component `{}` depends on itself", shown(name(one))),
            Some("remove it from the list".to_owned()),
        );
        return;
    }
    let mut names: Vec<&str> = members.iter().take(12).map(name).collect();
    if members.len() > names.len() {
        names.push("...");
    }
    names.extend(members.first().map(name));
    findings.error(
        closing.at,
        format!("components wait for each other: {}", names.join(" -> ")),
        Some("remove one of these dependencies".to_owned()),
    );
}

/// Checks that no component has the name of another one's replica, by which that one's container is
/// made and reached.
pub(super) fn check_container_names(drafts: &[Draft<'_>], findings: &mut Findings<'_>) {
    let mut by_id: BTreeMap<&str, &Draft<'_>> = BTreeMap::new();
    let containers = || drafts.iter().filter(|draft| runs_as_container(draft));
    for draft in containers() {
        if let Some((id, _)) = &draft.id {
            by_id.entry(id.as_str()).or_insert(draft);
        }
    }
    for draft in containers() {
        let Some((id, at)) = &draft.id else { continue };
        let Some((of, number)) = id.as_str().rsplit_once('-') else {
            continue;
        };
        let (Some(other), Ok(number)) = (by_id.get(of), number.parse::<u32>()) else {
            continue;
        };
        let Some((component, component_at)) = &other.id else {
            continue;
        };
        let has_it = |replica: u32| {
            let component = component.clone();
            let key = ReplicaKey { component, replica };
            key.container_aliases()
                .iter()
                .any(|name| name == id.as_str())
        };
        // The number in a name is that of its replica, or one more.
        let Some(first) = (number.saturating_sub(1)..=number).find(|replica| has_it(*replica))
        else {
            continue;
        };
        if first >= other.replicas {
            continue;
        }
        let (fix, place, why) = match first {
            0 => ("rename one of them", *component_at, "this one does"),
            1.. => (
                "rename one of them, or ask for fewer replicas",
                other.replicas_at,
                "one of these replicas does",
            ),
        };
        findings.clash_to_mend(
            *at,
            format!("containers of `{of}` and of `{id}` would both be called `{id}`"),
            fix,
            place,
            why,
        );
    }
}

/// Whether a component makes containers of the engine's.
fn runs_as_container(draft: &Draft<'_>) -> bool {
    let driver = draft.program.as_ref().map(Program::driver);
    driver == Some(DriverKind::Docker) && draft.replicas > 0
}

/// Who takes a port of the host, and where that was written.
struct Taken<'d> {
    id: &'d str,
    at: Span,
    ip: Option<IpAddr>,
}

/// Checks that no port of the host is wanted twice, by components or by replicas of one.
pub(super) fn check_host_ports(drafts: &[Draft<'_>], findings: &mut Findings<'_>) {
    let mut taken: BTreeMap<(Protocol, u16), Taken<'_>> = BTreeMap::new();
    for draft in drafts {
        let (Some((id, _)), Some(driver)) =
            (&draft.id, draft.program.as_ref().map(Program::driver))
        else {
            continue;
        };
        let process = driver == DriverKind::Process;
        let mut wanted: Vec<(Protocol, u16, Option<IpAddr>, Span)> = Vec::new();
        for draft in &draft.ports {
            let port = &draft.port;
            match driver {
                DriverKind::Process => {
                    wanted.push((port.protocol, port.container_port, None, draft.at))
                }
                DriverKind::Docker => wanted.extend(
                    port.host_port
                        .map(|host| (port.protocol, host, port.host_ip, draft.at)),
                ),
                DriverKind::Nomad | DriverKind::Kubernetes => {}
            }
        }
        for (protocol, number, ip, at) in &wanted {
            let key = (*protocol, *number);
            let claim = Taken {
                id: id.as_str(),
                at: *at,
                ip: *ip,
            };
            match taken.get(&key) {
                Some(first) if first.id == claim.id => {}
                Some(first) if first.ip.is_some() && ip.is_some() && first.ip != *ip => {}
                Some(first) => findings.clash(
                    *at,
                    format!(
                        "`{}` and `{id}` both take port {number} of the host",
                        first.id
                    ),
                    first.at,
                    "first taken here",
                ),
                None => {
                    taken.insert(key, claim);
                }
            }
        }
        let health = draft
            .health_port()
            .filter(|_| process)
            .map(|(number, at)| (Protocol::Tcp, number, None, at));
        if draft.replicas > 1
            && let Some((_, number, ..)) = wanted.first().copied().or(health)
        {
            let fix = if process && wanted.is_empty() {
                "have the number of the replica in it, like `808${{ component.replica }}`"
            } else if process {
                "run it as a container, or leave the port out"
            } else {
                "leave `hostPort` out: other containers reach it by its id"
            };
            findings.error(
                draft.replicas_at,
                format!(
                    "{} replicas of `{id}` cannot share port {number} of the host",
                    draft.replicas
                ),
                Some(fix.to_owned()),
            );
        }
    }
}
