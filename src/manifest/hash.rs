//! The digest that decides whether a running thing must be replaced.
//!
//! It covers what the user wrote that the running thing is made of, and nothing that holds a
//! default: a later release with other defaults must restart nobody's components.

use ring::digest;
use serde_json::{Map, Value, json};

use crate::model::{
    ComponentSpec, ContainerSpec, ImagePullPolicy, Port, Protocol, Resources, Rlimits,
    SecretSource, SecretSpec, SpecHash, Volume, VolumeSource, Workload,
};

/// Bits of a secret's file unless the manifest says otherwise.
const DEFAULT_MODE: u32 = 0o400;

/// The hash of `spec`, whatever its `hash` field says.
pub fn of(spec: &ComponentSpec) -> SpecHash {
    let text = canonical(spec).to_string();
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    SpecHash::new(format!("v1:{hex}"))
}

/// What is hashed. A field of the specification that is new to this list must be put in or be
/// named as left out, which the pattern without `..` enforces.
fn canonical(spec: &ComponentSpec) -> Value {
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
        config,
        id: _,
        role: _,
        hash: _,
        kind: _,
        inputs: _,
        dependencies: _,
        probes: _,
        restart: _,
        stop: _,
        ready_after: _,
        replicas: _,
        logs: _,
        input_event_types: _,
        output_event_types: _,
        registration: _,
    } = spec;
    let mut all = Fields::new();
    all.put("workload", workload_of(workload));
    all.put_list(
        "env",
        env.iter()
            .map(|(name, value)| json!([name, value]))
            .collect(),
    );
    all.put_list(
        "env_file",
        env_file
            .iter()
            .map(|path| path.to_string_lossy().into())
            .collect(),
    );
    all.put_list(
        "inherit_env",
        inherit_env
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
    );
    all.put_list("ports", ports.iter().map(port).collect());
    all.put_some("resources", resources_of(resources));
    all.put_some("rlimits", rlimits_of(rlimits));
    all.put_list("volumes", volumes.iter().map(volume).collect());
    all.put_list("secrets", secrets.iter().map(secret).collect());
    all.put_text("user", user.as_deref());
    if let Some(config) = config {
        all.put("config", sorted(config));
    }
    Value::Object(all.0)
}

/// An object without the fields that were not written.
struct Fields(Map<String, Value>);

impl Fields {
    fn new() -> Self {
        Self(Map::new())
    }

    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn put_text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.put(name, text.into());
        }
    }

    fn put_number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.put(name, number.into());
        }
    }

    fn put_list(&mut self, name: &str, list: Vec<Value>) {
        if !list.is_empty() {
            self.put(name, Value::Array(list));
        }
    }

    fn put_some(&mut self, name: &str, fields: Self) {
        if !fields.0.is_empty() {
            self.put(name, Value::Object(fields.0));
        }
    }
}

fn workload_of(workload: &Workload) -> Value {
    let mut fields = Fields::new();
    fields.put("driver", workload.driver().to_string().into());
    match workload {
        Workload::Process(process) => {
            fields.put("program", process.program.as_str().into());
            fields.put_list(
                "args",
                process.args.iter().map(|arg| arg.as_str().into()).collect(),
            );
            fields.put("working_dir", process.working_dir.to_string_lossy().into());
        }
        Workload::Docker(spec) => container(spec, &mut fields),
        Workload::Nomad(spec) => {
            container(&spec.container, &mut fields);
            fields.put_text("address", spec.address.as_deref());
            fields.put_text("datacenter", spec.datacenter.as_deref());
            fields.put_text("namespace", spec.namespace.as_deref());
        }
        Workload::Kubernetes(spec) => {
            container(&spec.container, &mut fields);
            fields.put_text("namespace", spec.namespace.as_deref());
        }
    }
    Value::Object(fields.0)
}

fn container(spec: &ContainerSpec, fields: &mut Fields) {
    let ContainerSpec {
        image,
        command,
        args,
        working_dir,
        pull,
    } = spec;
    fields.put("image", image.as_str().into());
    if let Some(command) = command {
        fields.put("command", command.as_slice().into());
    }
    fields.put_list("args", args.iter().map(|arg| arg.as_str().into()).collect());
    fields.put_text("working_dir", working_dir.as_deref());
    fields.put_text(
        "pull",
        pull.map(|pull| match pull {
            ImagePullPolicy::Always => "always",
            ImagePullPolicy::IfNotPresent => "if-not-present",
            ImagePullPolicy::Never => "never",
        }),
    );
}

fn port(port: &Port) -> Value {
    let Port {
        name,
        container_port,
        host_port,
        host_ip,
        protocol,
    } = port;
    let mut fields = Fields::new();
    fields.put_text("name", name.as_deref());
    fields.put("container_port", (*container_port).into());
    fields.put_number("host_port", host_port.map(u64::from));
    fields.put_text("host_ip", host_ip.map(|ip| ip.to_string()).as_deref());
    fields.put_text(
        "protocol",
        match protocol {
            Protocol::Tcp => None,
            Protocol::Udp => Some("UDP"),
            Protocol::Sctp => Some("SCTP"),
        },
    );
    Value::Object(fields.0)
}

fn resources_of(resources: &Resources) -> Fields {
    let Resources {
        cpu_limit_millis,
        memory_limit_bytes,
        pids_limit,
        cpu_request_millis,
        memory_request_bytes,
    } = *resources;
    let mut fields = Fields::new();
    fields.put_number("cpu_limit_millis", cpu_limit_millis);
    fields.put_number("memory_limit_bytes", memory_limit_bytes);
    fields.put_number("pids_limit", pids_limit);
    fields.put_number("cpu_request_millis", cpu_request_millis);
    fields.put_number("memory_request_bytes", memory_request_bytes);
    fields
}

fn rlimits_of(rlimits: &Rlimits) -> Fields {
    let Rlimits { nofile, core } = *rlimits;
    let mut fields = Fields::new();
    fields.put_number("nofile", nofile);
    fields.put_number("core", core);
    fields
}

fn volume(volume: &Volume) -> Value {
    let Volume {
        source,
        target,
        read_only,
    } = volume;
    let source = match source {
        VolumeSource::Bind(path) => json!(["bind", path.to_string_lossy()]),
        VolumeSource::Named(name) => json!(["named", name]),
        VolumeSource::Tmpfs => json!(["tmpfs"]),
    };
    json!([source, target, read_only])
}

fn secret(secret: &SecretSpec) -> Value {
    let SecretSpec {
        name,
        source,
        container_path,
        mode,
    } = secret;
    let mut fields = Fields::new();
    fields.put("name", name.as_str().into());
    match source {
        SecretSource::File(path) => fields.put("file", path.to_string_lossy().into()),
        SecretSource::Env(variable) => fields.put("env", variable.as_str().into()),
    }
    fields.put_text("container_path", container_path.as_deref());
    fields.put_number("mode", (*mode != DEFAULT_MODE).then_some(u64::from(*mode)));
    Value::Object(fields.0)
}

/// `value` with the keys of its maps in order: the order in the file means nothing.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            Value::Object(
                keys.into_iter()
                    .map(|key| (key.clone(), sorted(&map[key])))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
