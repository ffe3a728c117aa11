//! How a component is asked whether it is well.

use serde::{Deserialize, Serialize};

use super::replica::{self, ReplicaPort};
use crate::model::time::HumanDuration;

/// The three health checks of a component.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Probes {
    /// Until it passes, the other two are not asked; failing it `failures` times ends the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Whether dependents may start, and what `ready` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Failing it `failures` times restarts the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
}

impl Probes {
    /// The ports that are asked.
    pub fn ports(&self) -> impl Iterator<Item = ReplicaPort> {
        let all = [&self.startup, &self.readiness, &self.liveness];
        all.into_iter()
            .flatten()
            .filter_map(|probe| match &probe.check {
                ProbeCheck::Http(HttpTarget { port, .. })
                | ProbeCheck::Grpc { port, .. }
                | ProbeCheck::Tcp { port } => Some(*port),
                ProbeCheck::Exec { .. } | ProbeCheck::Heartbeat { .. } => None,
            })
    }

    /// The probes as they are asked of replica `number`.
    #[must_use]
    pub fn for_replica(&self, number: u32) -> Self {
        let filled = |text: &String| replica::filled(text, number);
        let mut probes = self.clone();
        let all = [
            &mut probes.startup,
            &mut probes.readiness,
            &mut probes.liveness,
        ];
        for probe in all.into_iter().flatten() {
            match &mut probe.check {
                ProbeCheck::Http(at) => {
                    at.path = filled(&at.path);
                    at.port = at.port.filled(number);
                }
                ProbeCheck::Exec { command } => *command = command.iter().map(filled).collect(),
                ProbeCheck::Grpc { port, .. } | ProbeCheck::Tcp { port } => {
                    *port = port.filled(number);
                }
                ProbeCheck::Heartbeat { .. } => {}
            }
        }
        probes
    }
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    pub check: ProbeCheck,
    /// Distance between two asks. Default 10 s (startup: 1 s), kubelet's figure.
    pub period: HumanDuration,
    /// An ask without an answer by then has failed. Default 2 s.
    pub timeout: HumanDuration,
    /// Failures in a row that make it failed. Default 3 (startup: 30).
    pub failures: u32,
    /// Passes in a row that make it passed. Default 1.
    pub successes: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeCheck {
    /// GET: a 2xx or 3xx whose JSON body, if any, does not say `"status": "unhealthy"`.
    Http(HttpTarget),
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// Port asked.
        port: ReplicaPort,
        /// Service named in the request; empty = the whole server.
        service: String,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// Port asked.
        port: ReplicaPort,
    },
    /// A program exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The component's last heartbeat is younger than this.
    Heartbeat {
        /// Oldest accepted.
        ttl: HumanDuration,
    },
}

/// Where an HTTP probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpTarget {
    /// Host; `None` = where the component runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port asked.
    pub port: ReplicaPort,
    /// Path and query, with the leading `/`.
    pub path: String,
}
