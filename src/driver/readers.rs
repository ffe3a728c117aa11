//! What readers are told of instances that depends on who runs them.

use crate::model::{DriverKind, Port, Signal};

/// How a program is run where an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Beside its process.
    Process,
    /// By the engine of its container.
    Engine,
    /// By a program of another kind.
    Elsewhere {
        /// How that is called.
        with: &'static str,
    },
}

/// How a program is run where the instances of a driver are.
pub fn inside(driver: DriverKind) -> Inside {
    match driver {
        DriverKind::Process => Inside::Process,
        DriverKind::Docker => Inside::Engine,
        DriverKind::Nomad => Inside::Elsewhere {
            with: "nomad alloc exec",
        },
        DriverKind::Kubernetes => Inside::Elsewhere {
            with: "kubectl exec",
        },
    }
}

/// Whether instances are containers of an engine of this host.
pub fn is_container(driver: DriverKind) -> bool {
    inside(driver) == Inside::Engine
}

/// The signal that an exit code stands for: an engine tells of signals as a shell does, by 128 and their
/// number. `None` = it is a code like any other.
pub fn signal_of(driver: DriverKind, code: i32) -> Option<Signal> {
    match driver {
        DriverKind::Process => None,
        DriverKind::Docker | DriverKind::Nomad | DriverKind::Kubernetes => {
            code.checked_sub(128).and_then(Signal::from_number)
        }
    }
}

/// The port of this host at which `port` of a component is reached, where its file says so.
pub fn port_on_host(driver: DriverKind, port: &Port) -> Option<u16> {
    match driver {
        DriverKind::Process => Some(port.container_port),
        DriverKind::Docker | DriverKind::Nomad | DriverKind::Kubernetes => port.host_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_tells_of_signals_as_codes() {
        assert_eq!(signal_of(DriverKind::Docker, 137), Some(Signal::KILL));
        assert_eq!(signal_of(DriverKind::Process, 137), None);
        assert_eq!(signal_of(DriverKind::Docker, 3), None);
    }
}
