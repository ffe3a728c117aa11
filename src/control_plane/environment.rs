//! What a component is told by its environment, so that every client of the field finds us. Pure.
//!
//! The set is the union of what the known clients read, in the one spelling that all of them read
//! alike: an address without a scheme, an interval in milliseconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::runs::run_id;
use crate::driver::Launch;
use crate::model::PipelineKey;

/// How often components are asked to send a heartbeat.
const INTERVAL_MILLIS: u32 = 10_000;

/// Where the control plane is reached from where the component runs: loopback for a process, the
/// bridge's own address for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach(pub String);

impl From<SocketAddr> for Reach {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

/// What was made for this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which try of its replica this is, from 1.
    pub attempt: u64,
    /// Its token.
    pub token: Option<String>,
    /// Where the renewed token is found.
    pub token_file: Option<String>,
}

/// The variables for the instance of `launch`; the user's own values win over them.
pub fn injected(launch: &Launch, reach: &Reach, given: &Given) -> BTreeMap<String, String> {
    let Launch {
        instance,
        spec,
        generation,
        ..
    } = launch;
    let component = instance.replica.component.to_string();
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
    set("ENABLE_FLOWCTL", "true".to_owned());
    set("FLOWCTL_ENABLED", "true".to_owned());
    set("FLOWCTL_ENDPOINT", reach.0.clone());
    set("CONTROL_PLANE_ENDPOINT", reach.0.clone());
    // `10s` makes the Node client beat a hundred times a second, `10000` makes those of Go fail.
    set("FLOWCTL_HEARTBEAT_INTERVAL", format!("{INTERVAL_MILLIS}ms"));
    set("FLOWCTL_HEARTBEAT_INTERVAL_MS", INTERVAL_MILLIS.to_string());
    for name in [
        "COMPONENT_ID",
        "FLOWCTL_COMPONENT_ID",
        "FLOWCTL_SERVICE_ID",
        "SERVICE_ID",
    ] {
        set(name, component.clone());
    }
    let PipelineKey { namespace, name } = &instance.pipeline;
    set("FLOWCTL_RUN_ID", run_id(namespace, name, *generation));
    set("FLOWCTL_ATTEMPT", given.attempt.to_string());
    let replica = instance.replica.replica;
    if let Some(port) = spec.health_port().and_then(|port| port.of(replica)) {
        set("HEALTH_PORT", port.to_string());
        // Only reported by the clients, which makes it the one thing that tells them apart.
        set("HEALTH_ENDPOINT", format!("http://localhost:{port}/health"));
    }
    if let Some(token) = &given.token {
        set("COMPONENT_TOKEN", token.clone());
    }
    if let Some(file) = &given.token_file {
        set("COMPONENT_TOKEN_FILE", file.clone());
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::component;
    use crate::model::{ComponentSpec, Generation, HttpTarget, HumanDuration, Probe, ProbeCheck};

    fn spec() -> ComponentSpec {
        let mut spec = component("ttp", 1, &[]);
        spec.probes.readiness = Some(Probe {
            check: ProbeCheck::Http(HttpTarget {
                host: None,
                port: 18089.into(),
                path: "/health".to_owned(),
            }),
            period: HumanDuration::from_secs(10),
            timeout: HumanDuration::from_secs(2),
            failures: 3,
            successes: 1,
        });
        spec
    }

    #[test]
    fn every_known_client_finds_its_variables() {
        let launch = Launch {
            instance: "default.p.ttp.1.7".parse().unwrap(),
            spec: std::sync::Arc::new(spec()),
            generation: Generation(3),
            file: None,
            injected: BTreeMap::new(),
            image: crate::model::ImageChoice::ByPolicy,
            given_up: tokio_util::sync::CancellationToken::new(),
        };
        let given = Given {
            attempt: 7,
            token: Some("jwt".to_owned()),
            token_file: Some("/s/t".to_owned()),
        };
        let reach = Reach("127.0.0.1:8080".to_owned());
        let found = injected(&launch, &reach, &given);
        let lines: Vec<_> = found
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "COMPONENT_ID=ttp",
                "COMPONENT_TOKEN=jwt",
                "COMPONENT_TOKEN_FILE=/s/t",
                "CONTROL_PLANE_ENDPOINT=127.0.0.1:8080",
                "ENABLE_FLOWCTL=true",
                "FLOWCTL_ATTEMPT=7",
                "FLOWCTL_COMPONENT_ID=ttp",
                "FLOWCTL_ENABLED=true",
                "FLOWCTL_ENDPOINT=127.0.0.1:8080",
                "FLOWCTL_HEARTBEAT_INTERVAL=10000ms",
                "FLOWCTL_HEARTBEAT_INTERVAL_MS=10000",
                "FLOWCTL_RUN_ID=67b651af-default.p.3",
                "FLOWCTL_SERVICE_ID=ttp",
                "HEALTH_ENDPOINT=http://localhost:18089/health",
                "HEALTH_PORT=18089",
                "SERVICE_ID=ttp",
            ]
        );
    }
}
