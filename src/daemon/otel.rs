//! What components are told of OpenTelemetry: where a collector takes what they tell, and what they
//! are called there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::driver::Launch;
use crate::driver::variables::is_named;
use crate::manifest::{HOST_FROM_CONTAINER, check_url};
use crate::model::Workload;
use crate::reconciler::Environment;

/// Where a collector takes what components tell by OTLP: an `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_url(text).map_err(|why| format!("it {why}, as http://localhost:4318 does"))?;
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl OtlpEndpoint {
    /// The same as whatever runs `workload` reaches it: in a container, its loopback is not the
    /// host's.
    fn from(&self, workload: &Workload) -> String {
        let is_apart = match workload {
            Workload::Docker(container) => container.network.as_deref() != Some("host"),
            Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => false,
        };
        let Some((scheme, rest)) = self.0.split_once("://").filter(|_| is_apart) else {
            return self.0.clone();
        };
        let loopback = ["localhost", "127.0.0.1", "[::1]"];
        let after = loopback.iter().find_map(|host| rest.strip_prefix(host));
        match after.filter(|after| after.is_empty() || after.starts_with([':', '/'])) {
            Some(after) => format!("{scheme}://{HOST_FROM_CONTAINER}{after}"),
            None => self.0.clone(),
        }
    }

    /// How a collector is spoken to at its usual ports.
    fn protocol(&self) -> &'static str {
        let authority = self.0.split_once("://").map_or("", |(_, rest)| rest);
        match authority.split('/').next().unwrap_or_default() {
            authority if authority.ends_with(":4317") => "grpc",
            _ => "http/protobuf",
        }
    }
}

/// `environment`, and who an instance is to a collector at `endpoint`, if there is one.
pub(super) fn beside(environment: Environment, endpoint: Option<&OtlpEndpoint>) -> Environment {
    let Some(endpoint) = endpoint.cloned() else {
        return environment;
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_owned();
    Arc::new(move |launch: &Launch| {
        let mut variables = environment(launch);
        let inherits = |name: &str| {
            let is_named = is_named(&launch.spec.inherit_env, name);
            is_named && std::env::var_os(name).is_some()
        };
        variables.extend(identity(launch, &endpoint, &host, inherits));
        variables
    })
}

/// The variables that make an instance known to a collector, but for what its file says itself or
/// `inherits` from the daemon.
fn identity(
    launch: &Launch,
    endpoint: &OtlpEndpoint,
    host: &str,
    inherits: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
    const SERVICE: &str = "OTEL_SERVICE_NAME";
    let spec = &launch.spec;
    let says = |name: &str| spec.env.contains_key(name) || inherits(name);
    let (pipeline, replica) = (&launch.instance.pipeline, &launch.instance.replica);
    let component = &replica.component;
    // The same over restarts: it tells apart what runs at one time.
    let id = format!(
        "{host}.{}.{}.{component}.{}",
        pipeline.namespace, pipeline.name, replica.replica
    );
    let all = [
        (ENDPOINT, endpoint.from(&spec.workload)),
        (PROTOCOL, endpoint.protocol().to_owned()),
        (SERVICE, component.to_string()),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            format!("service.namespace={pipeline},service.instance.id={id}"),
        ),
    ];
    // One for traces alone would be spoken to as we say.
    let is_of_place = |name: &String| name.starts_with("OTEL_EXPORTER_OTLP_");
    let has_own_place =
        spec.env.keys().any(is_of_place) || inherits(ENDPOINT) || inherits(PROTOCOL);
    // It would go above the one among the attributes.
    let attributes = spec.env.get("OTEL_RESOURCE_ATTRIBUTES");
    let has_own_name = attributes.is_some_and(|text| text.contains("service.name="));
    all.into_iter()
        .filter(|(name, _)| match *name {
            ENDPOINT | PROTOCOL => !has_own_place,
            SERVICE => !says(SERVICE) && !has_own_name,
            name => !says(name),
        })
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{component, container};
    use crate::model::{ComponentSpec, Generation, ImageChoice};

    fn told(spec: ComponentSpec, endpoint: &str, inherited: &[&str]) -> Vec<String> {
        let launch = Launch {
            instance: "default.ttp.sink.1.7".parse().unwrap(),
            spec: Arc::new(spec),
            generation: Generation(3),
            file: None,
            injected: BTreeMap::new(),
            image: ImageChoice::ByPolicy,
            given_up: tokio_util::sync::CancellationToken::new(),
        };
        let endpoint = endpoint.parse().unwrap();
        let found = identity(&launch, &endpoint, "h", |name| inherited.contains(&name));
        found
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn a_component_is_told_where_a_collector_is_and_what_it_is_called() {
        let found = told(component("sink", 1, &[]), "http://localhost:4318/", &[]);
        assert_eq!(
            found,
            [
                "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                "OTEL_RESOURCE_ATTRIBUTES=service.namespace=ttp,service.instance.id=h.default.ttp.sink.1",
                "OTEL_SERVICE_NAME=sink",
            ]
        );
    }

    #[test]
    fn what_a_file_says_stands_and_so_does_what_it_inherits() {
        let mut own = component("sink", 1, &[]);
        own.env
            .insert("OTEL_SERVICE_NAME".to_owned(), "mine".to_owned());
        own.env.insert(
            "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
            "http://other".to_owned(),
        );
        let found = told(own, "http://localhost:4317", &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("OTEL_RESOURCE_ATTRIBUTES="));
        let mut named = component("sink", 1, &[]);
        named.env.insert(
            "OTEL_RESOURCE_ATTRIBUTES".to_owned(),
            "service.name=mine".to_owned(),
        );
        named.env.insert(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".to_owned(),
            "http://traces:4317".to_owned(),
        );
        let found = told(named, "http://localhost:4318", &[]);
        assert_eq!(found, Vec::<String>::new());
        let inherits = ["OTEL_RESOURCE_ATTRIBUTES"];
        let found = told(component("sink", 1, &[]), "https://c:4317", &inherits);
        assert_eq!(
            found,
            [
                "OTEL_EXPORTER_OTLP_ENDPOINT=https://c:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
                "OTEL_SERVICE_NAME=sink",
            ]
        );
    }

    #[test]
    fn a_container_finds_the_collector_of_its_host() {
        for (endpoint, network, wanted) in [
            (
                "http://localhost:4317",
                None,
                "http://host.flowctl.internal:4317",
            ),
            (
                "http://127.0.0.1:4317/x",
                None,
                "http://host.flowctl.internal:4317/x",
            ),
            (
                "http://localhost:4317",
                Some("host"),
                "http://localhost:4317",
            ),
            ("http://localhost.example", None, "http://localhost.example"),
            ("http://collector:4318", None, "http://collector:4318"),
        ] {
            let mut workload = container();
            if let Workload::Docker(container) = &mut workload {
                container.network = network.map(str::to_owned);
            }
            let parsed: OtlpEndpoint = endpoint.parse().unwrap();
            assert_eq!(parsed.from(&workload), wanted);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_one() {
        let error = "localhost:4317".parse::<OtlpEndpoint>().unwrap_err();
        assert_eq!(
            error,
            "it must begin with `http://` or `https://`, as http://localhost:4318 does"
        );
    }
}
