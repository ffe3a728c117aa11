//! The digest that decides whether a running thing must be replaced.
//!
//! It covers what the user wrote that the running thing is made of or was told, as canonical JSON,
//! and nothing that holds a default: a later release with other defaults must restart nobody's
//! components. So the forms below are not the model's own; a field may only ever be added to them
//! if it is left out where it was not written.
//!
//! A release may look at more than the one before. What it did not look at then is no change now:
//! [`carry`] keeps the digest of a definition that says the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ring::digest;
use serde::Serialize;
use serde_json::Value;

use super::ids::SpecHash;
use super::path;
use super::spec::{
    ComponentSpec, ContainerSpec, ImagePullPolicy, KubernetesOptions, PipelineSpec, Port, Protocol,
    ReplicaPort, Resources, Rlimits, SecretSource, SecretSpec, Umask, Volume, VolumeSource,
    Workload,
};

/// Bits of a secret's file unless the manifest says otherwise.
const DEFAULT_MODE: u32 = 0o400;

/// The hash of `spec`, whatever its `hash` field says.
pub fn of(spec: &ComponentSpec) -> SpecHash {
    let json = serde_json::to_vec(&Written::of(spec)).expect("texts and numbers under text keys");
    let digest = digest::digest(&digest::SHA256, &json);
    let mut text = String::with_capacity(19);
    text.push_str("v1:");
    for byte in &digest.as_ref()[..8] {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    SpecHash::new(text)
}

/// Whether `new` is run by what was started from `standing`: it says nothing else about the running
/// thing, even if an earlier release took its digest.
pub fn is_same(standing: &ComponentSpec, new: &ComponentSpec) -> bool {
    standing.hash == new.hash || of(standing) == new.hash
}

/// Lets the components of `new` that are the same as in `standing` keep their digests, which is what
/// their instances bear.
pub fn carry(standing: &PipelineSpec, new: &mut PipelineSpec) {
    for (id, spec) in &mut new.components {
        if let Some(standing) = standing.components.get(id)
            && is_same(standing, spec)
        {
            spec.hash = standing.hash.clone();
        }
    }
}

/// What is hashed of a component.
#[derive(Serialize)]
struct Written<'a> {
    workload: Runs<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env_file: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    inherit_env: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Serves<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimits: Option<Rlimits>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<Mounts<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Reads<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    umask: Option<Umask>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allow_new_privileges: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Value>,
    /// What HEALTH_PORT tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    health_port: Option<ReplicaPort>,
}

impl<'a> Written<'a> {
    /// The pattern without `..` asks of every new field whether the running thing is made of it.
    fn of(spec: &'a ComponentSpec) -> Self {
        let ComponentSpec {
            workload,
            env,
            env_file,
            inherit_env,
            ports,
            resources,
            rlimits,
            volumes,
            secrets,
            user,
            umask,
            allow_new_privileges,
            config,
            id: _,
            role: _,
            hash: _,
            kind: _,
            inputs: _,
            dependencies: _,
            probes: _,
            progress: _,
            restart: _,
            stop: _,
            ready_after: _,
            replicas: _,
            logs: _,
            input_event_types: _,
            output_event_types: _,
            registration: _,
        } = spec;
        Self {
            workload: Runs::of(workload),
            env,
            env_file: env_file.iter().map(|file| path::to_text(file)).collect(),
            inherit_env,
            ports: ports.iter().map(Serves::of).collect(),
            resources: Some(*resources).filter(|resources| *resources != Resources::default()),
            rlimits: Some(*rlimits).filter(|rlimits| *rlimits != Rlimits::default()),
            volumes: volumes.iter().map(Mounts::of).collect(),
            secrets: secrets.iter().map(Reads::of).collect(),
            user: user.as_deref(),
            umask: Some(*umask).filter(|umask| !umask.is_default()),
            allow_new_privileges: *allow_new_privileges,
            config: config.as_ref().map(sorted),
            // Its own variable is among its variables.
            health_port: spec
                .health_port()
                .filter(|_| !env.contains_key("HEALTH_PORT")),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Runs<'a> {
    Process {
        program: &'a str,
        args: &'a [String],
        working_dir: Cow<'a, str>,
    },
    Docker {
        container: Container<'a>,
    },
    Nomad {
        container: Container<'a>,
        address: Option<&'a str>,
        datacenter: Option<&'a str>,
        namespace: Option<&'a str>,
    },
    Kubernetes {
        container: Container<'a>,
        namespace: Option<&'a str>,
        #[serde(flatten)]
        options: &'a KubernetesOptions,
    },
}

impl<'a> Runs<'a> {
    fn of(workload: &'a Workload) -> Self {
        match workload {
            Workload::Process(spec) => Self::Process {
                program: &spec.program,
                args: &spec.args,
                working_dir: path::to_text(&spec.working_dir),
            },
            Workload::Docker(spec) => Self::Docker {
                container: Container::of(spec),
            },
            Workload::Nomad(spec) => Self::Nomad {
                container: Container::of(&spec.container),
                address: spec.address.as_deref(),
                datacenter: spec.datacenter.as_deref(),
                namespace: spec.namespace.as_deref(),
            },
            Workload::Kubernetes(spec) => Self::Kubernetes {
                container: Container::of(&spec.container),
                namespace: spec.namespace.as_deref(),
                options: &spec.options,
            },
        }
    }
}

#[derive(Serialize)]
struct Container<'a> {
    image: &'a str,
    command: Option<&'a [String]>,
    args: &'a [String],
    working_dir: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull: Option<ImagePullPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
}

impl<'a> Container<'a> {
    fn of(spec: &'a ContainerSpec) -> Self {
        let ContainerSpec {
            image,
            command,
            args,
            working_dir,
            pull,
            network,
            // It decides what may run, not what runs.
            verify: _,
        } = spec;
        Self {
            image,
            command: command.as_deref(),
            args,
            working_dir: working_dir.as_deref(),
            pull: *pull,
            network: network.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct Serves<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    container_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
}

impl<'a> Serves<'a> {
    fn of(port: &'a Port) -> Self {
        let Port {
            name,
            container_port,
            host_port,
            host_ip,
            protocol,
        } = port;
        Self {
            name: name.as_deref(),
            container_port: *container_port,
            host_port: *host_port,
            host_ip: *host_ip,
            protocol: Some(*protocol).filter(|protocol| *protocol != Protocol::Tcp),
        }
    }
}

#[derive(Serialize)]
struct Mounts<'a> {
    source: &'a VolumeSource,
    target: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

impl<'a> Mounts<'a> {
    fn of(volume: &'a Volume) -> Self {
        let Volume {
            source,
            target,
            read_only,
        } = volume;
        Self {
            source,
            target,
            read_only: *read_only,
        }
    }
}

#[derive(Serialize)]
struct Reads<'a> {
    name: &'a str,
    source: &'a SecretSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

impl<'a> Reads<'a> {
    fn of(secret: &'a SecretSpec) -> Self {
        let SecretSpec {
            name,
            source,
            container_path,
            mode,
        } = secret;
        Self {
            name,
            source,
            container_path: container_path.as_deref(),
            mode: Some(*mode).filter(|mode| *mode != DEFAULT_MODE),
        }
    }
}

/// `value` with the keys of its maps in order: the order in the file means nothing.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, &Value> = map.iter().collect();
            let pairs = ordered.into_iter();
            Value::Object(
                pairs
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
