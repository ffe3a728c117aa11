//! Whether the ports of a component are free for it.

use crate::model::{
    ComponentId, ComponentSpec, InstanceId, PipelineKey, PipelineSpec, Port, Protocol,
};

use super::ports::{Holder, on_host};
use super::{List, Running, Trouble, World};

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
        let twin = wanted_before(self.pipelines, list.pipeline, port.protocol, number);
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

/// Which component of a pipeline before `this` one wants the same port. Within one pipeline the
/// manifest's own check has told.
fn wanted_before<'a>(
    pipelines: &[&'a PipelineSpec],
    this: &PipelineKey,
    protocol: Protocol,
    number: u16,
) -> Option<(&'a PipelineKey, &'a ComponentId)> {
    let before = pipelines.iter().take_while(|one| one.key != *this);
    let mut components = before.flat_map(|one| {
        let specs = one.components.values();
        specs.map(|spec| (&one.key, spec))
    });
    let (pipeline, spec) = components.find(|(_, spec)| wants(spec, protocol, number))?;
    Some((pipeline, &spec.id))
}

fn wants(spec: &ComponentSpec, protocol: Protocol, number: u16) -> bool {
    spec.ports.iter().any(|port| {
        let wanted = on_host(&spec.workload, port);
        port.protocol == protocol && wanted.is_some_and(|(wanted, _)| wanted == number)
    })
}
