//! Whether the ports of a component are free for it.

use std::net::IpAddr;

use crate::model::{
    ComponentId, ComponentSpec, HttpTarget, InstanceId, PipelineKey, PipelineSpec, Port,
    ProbeCheck, Probes, Protocol, ReplicaPort,
};

use super::ports::{Holder, on_host};
use super::{List, Running, Trouble, World};

/// The ports that a component needs: those that it names, and those that it will be asked at.
pub(super) fn needed(spec: &ComponentSpec) -> Vec<Port> {
    let mut needed = spec.ports.clone();
    for number in asked_here(&spec.probes).flat_map(|port| port.all(spec.replicas)) {
        let is_known =
            |port: &Port| port.protocol == Protocol::Tcp && port.container_port == number;
        if !needed.iter().any(is_known) {
            needed.push(Port {
                name: None,
                container_port: number,
                host_port: None,
                host_ip: None,
                protocol: Protocol::Tcp,
            });
        }
    }
    needed
}

/// The ports at which probes ask the component itself. An HTTP probe may name another machine.
fn asked_here(probes: &Probes) -> impl Iterator<Item = ReplicaPort> {
    let all = [&probes.startup, &probes.readiness, &probes.liveness];
    let checks = all.into_iter().flatten().map(|probe| &probe.check);
    checks.filter_map(|check| match check {
        ProbeCheck::Http(HttpTarget { host, port, .. }) => {
            let is_here = host.as_deref().is_none_or(is_loopback);
            is_here.then_some(*port)
        }
        ProbeCheck::Grpc { port, .. } | ProbeCheck::Tcp { port } => Some(*port),
        ProbeCheck::Exec { .. } | ProbeCheck::Heartbeat { .. } => None,
    })
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

const HINT: &str = "stop that, or give this component another port";

impl World<'_> {
    /// Whether `port` of `spec` is free, or held by `own`, its running instances.
    pub(super) fn check_port(
        &self,
        own: &[&Running],
        spec: &ComponentSpec,
        port: &Port,
        list: &mut List<'_>,
    ) {
        let Some((number, address)) = on_host(&spec.workload, port) else {
            return;
        };
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            // The kernel does not show who holds an SCTP port.
            Protocol::Sctp => return,
        };
        let subject = || format!("port {number}/{protocol}");
        let twin = wanted_before(self.pipelines, list.pipeline, spec, port.protocol, number);
        if let Some((pipeline, component)) = twin {
            let what = format!("is wanted by {component} of pipeline {pipeline}, too");
            list.add(Some(Trouble::new(what, HINT)), subject);
        }
        for socket in self.sockets.taking(port.protocol, number, address) {
            let holders = self.sockets.holders_of(socket);
            let gone = holders.is_empty() && socket.is_gone();
            if gone || own.iter().any(|one| holds(one, number, &holders)) {
                continue;
            }
            let mut others = self.running.values().flatten();
            let other = others.find(|one| holders.iter().any(|holder| holder.belongs_to(one)));
            if other.is_some_and(|other| self.takes_away(other, port.protocol, number)) {
                continue;
            }
            let what = match (other.map(|other| &other.instance), holders.first()) {
                (Some(other), _) => {
                    let InstanceId {
                        pipeline, replica, ..
                    } = other;
                    format!("is held by {replica} of pipeline {pipeline}")
                }
                (None, Some(holder)) => format!("is held by {holder}"),
                (None, None) => "is held by a process that this user may not see".to_owned(),
            };
            list.add(Some(Trouble::new(what, HINT)), subject);
            return;
        }
    }

    /// Whether what is about to be applied takes this port from a running component of ours.
    fn takes_away(&self, holder: &Running, protocol: Protocol, number: u16) -> bool {
        let InstanceId {
            pipeline, replica, ..
        } = &holder.instance;
        let applied = self.pipelines.iter().find(|one| one.key == *pipeline);
        applied.is_some_and(|applied| {
            let spec = applied.components.get(&replica.component);
            !spec.is_some_and(|spec| wants(spec, protocol, number))
        })
    }
}

/// Whether an instance of the very component is what has the port open.
fn holds(own: &Running, number: u16, holders: &[Holder]) -> bool {
    let says_so = own.ports.contains(&number);
    match own.pid {
        Some(_) if holders.is_empty() => says_so,
        Some(_) => holders.iter().any(|holder| holder.belongs_to(own)),
        // A container's port is held by its engine.
        None => says_so,
    }
}

/// Which component of a pipeline before `this` one wants the same port, or which one before `spec`
/// in the same pipeline. Of two that name a port of one pipeline the manifest's own check has told.
fn wanted_before<'a>(
    pipelines: &[&'a PipelineSpec],
    this: &PipelineKey,
    spec: &ComponentSpec,
    protocol: Protocol,
    number: u16,
) -> Option<(&'a PipelineKey, &'a ComponentId)> {
    let names = |one: &ComponentSpec| takes(one, &one.ports, protocol, number);
    let told = |one: &ComponentSpec| names(one) && names(spec);
    for pipeline in pipelines {
        let is_this = pipeline.key == *this;
        let components = pipeline.components.values();
        let mut before = components.take_while(|one| !is_this || one.id != spec.id);
        let twin = before.find(|one| wants(one, protocol, number) && !(is_this && told(one)));
        if let Some(twin) = twin {
            return Some((&pipeline.key, &twin.id));
        }
        if is_this {
            break;
        }
    }
    None
}

fn wants(spec: &ComponentSpec, protocol: Protocol, number: u16) -> bool {
    takes(spec, &needed(spec), protocol, number)
}

/// Whether one of these ports of a component is that one of the host.
fn takes(spec: &ComponentSpec, ports: &[Port], protocol: Protocol, number: u16) -> bool {
    ports.iter().any(|port| {
        let wanted = on_host(&spec.workload, port);
        port.protocol == protocol && wanted.is_some_and(|(wanted, _)| wanted == number)
    })
}
