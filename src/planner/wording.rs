//! How the manifest says what the model holds: the path of each field, its units, and what a change
//! of it costs. A diff is read beside the file.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Serialize;
use serde_json::Value;

use crate::model::{
    ComponentSpec, NotifyTarget, Port, Protocol, SecretSource, SecretSpec, Volume, VolumeSource,
    Watches,
};

/// What a change of a field costs the running component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// The running program is made of it or was told it.
    Restarts,
    /// Only the daemon acts on it.
    Live,
    /// It says how many run.
    Scales,
}

/// One field as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub value: String,
    pub cost: Cost,
}

/// In what the model counts, and how the manifest writes it.
#[derive(Clone, Copy)]
enum Unit {
    AsItIs,
    Bytes,
    Millis,
}

/// Fields whose path in the model is not that of the manifest: (model, manifest, unit). A path
/// stands for all below it.
const NAMES: [(&str, &str, Unit); 21] = [
    ("kind", "type", Unit::AsItIs),
    ("workload.process.program", "binary", Unit::AsItIs),
    ("workload.process", "", Unit::AsItIs),
    ("workload.docker", "", Unit::AsItIs),
    ("workload.nomad.container", "", Unit::AsItIs),
    ("workload.nomad", "nomad", Unit::AsItIs),
    ("workload.kubernetes.container", "", Unit::AsItIs),
    (
        "workload.kubernetes.options.storage.size_bytes",
        "kubernetes.storage.size",
        Unit::Bytes,
    ),
    ("workload.kubernetes.options", "kubernetes", Unit::AsItIs),
    ("workload.kubernetes", "kubernetes", Unit::AsItIs),
    ("progress.watches", "progress", Unit::AsItIs),
    ("restart.mode", "restart.policy", Unit::AsItIs),
    ("restart.limit", "restart", Unit::AsItIs),
    (
        "resources.cpu_limit_millis",
        "resources.limits.cpu",
        Unit::Millis,
    ),
    (
        "resources.memory_limit_bytes",
        "resources.limits.memory",
        Unit::Bytes,
    ),
    (
        "resources.pids_limit",
        "resources.limits.pids",
        Unit::AsItIs,
    ),
    (
        "resources.cpu_request_millis",
        "resources.requests.cpu",
        Unit::Millis,
    ),
    ("resources.cpu_mhz", "resources.cpu", Unit::AsItIs),
    (
        "resources.memory_request_bytes",
        "resources.requests.memory",
        Unit::Bytes,
    ),
    ("logs.max_size_bytes", "logs.max_size", Unit::Bytes),
    ("rlimits.core", "rlimits.core", Unit::Bytes),
];

/// The fields that only the daemon acts on.
const LIVE: [&str; 13] = [
    "type",
    "role",
    "probes",
    "progress",
    "restart",
    "stop",
    "ready_after",
    "inputs",
    "depends_on",
    "registration",
    "logs",
    "input_event_types",
    "output_event_types",
];

/// Where a readiness probe's port stands. The program is told it (HEALTH_PORT).
const TOLD_PORT: &str = "probes.readiness.http.port";

/// The fields of a component by their path in the manifest.
pub(super) fn component(spec: &ComponentSpec) -> BTreeMap<String, Shown> {
    let mut value = json(spec);
    if let Some(fields) = value.as_object_mut() {
        for own in ["id", "hash", "dependencies", "ports", "volumes", "secrets"] {
            fields.remove(own);
        }
    }
    let mut raw = BTreeMap::new();
    flatten(&value, String::new(), &mut raw);
    let mut leaves: BTreeMap<String, String> = raw
        .into_iter()
        .map(|(path, text)| written(&path, text))
        .collect();
    leaves.insert("driver".to_owned(), spec.driver().to_string());
    if spec.progress.as_ref().map(|it| &it.watches) == Some(&Watches::Output) {
        // The manifest says how old its last line may be in the field that says that it is watched.
        leaves.remove("progress");
        let age = leaves.remove("progress.max_age");
        leaves.extend(age.map(|age| ("progress.output".to_owned(), age)));
    }
    if let Some(signal) = spec.stop.signal {
        leaves.insert("stop.signal".to_owned(), signal.to_string());
    }
    let lists = [
        (
            "depends_on",
            spec.dependencies
                .iter()
                .map(|it| format!("{} ({})", it.id, it.condition))
                .collect(),
        ),
        ("ports", spec.ports.iter().map(port).collect()),
        ("volumes", spec.volumes.iter().map(volume).collect()),
        (
            "secrets",
            spec.secrets.iter().map(secret).collect::<Vec<_>>(),
        ),
    ];
    for (name, items) in lists {
        if !items.is_empty() {
            leaves.insert(name.to_owned(), items.join(", "));
        }
    }
    leaves
        .into_iter()
        .map(|(path, value)| {
            let cost = cost(&path, spec);
            (path, Shown { value, cost })
        })
        .collect()
}

/// The same for what stands outside of components; `None` of it interrupts anything by itself.
pub(super) fn plain<T: Serialize>(value: &T) -> BTreeMap<String, Shown> {
    let mut leaves = BTreeMap::new();
    flatten(&json(value), String::new(), &mut leaves);
    let live = |value| Shown {
        value,
        cost: Cost::Live,
    };
    leaves
        .into_iter()
        .map(|(path, value)| (path, live(value)))
        .collect()
}

/// Who is told, without what may be secret.
pub(super) fn notified(target: &NotifyTarget) -> Shown {
    let mut value = target.to.to_string();
    // Two that are shown alike may differ.
    let mut digest = DefaultHasher::new();
    json(target).to_string().hash(&mut digest);
    value.push_str(&format!(" #{:08x}", digest.finish() as u32));
    Shown {
        value,
        cost: Cost::Live,
    }
}

fn cost(path: &str, spec: &ComponentSpec) -> Cost {
    if path == "replicas" {
        return Cost::Scales;
    }
    if path == TOLD_PORT && !spec.env.contains_key("HEALTH_PORT") {
        return Cost::Restarts;
    }
    let first = path.split('.').next().unwrap_or(path);
    match LIVE.contains(&first) {
        true => Cost::Live,
        false => Cost::Restarts,
    }
}

/// A path of the model and its value as the manifest writes them.
fn written(path: &str, text: String) -> (String, String) {
    let path = match path.split_once(".check.") {
        // The form of a check is part of its path; that of a program is its value.
        Some((probe, check)) => {
            let check = match check {
                "exec.command" => "exec",
                "tcp.port" => "tcp",
                other => other,
            };
            format!("{probe}.{check}")
        }
        None => path.to_owned(),
    };
    for (model, manifest, unit) in NAMES {
        let Some(rest) = path.strip_prefix(model) else {
            continue;
        };
        if !rest.is_empty() && !rest.starts_with('.') {
            continue;
        }
        let path = format!("{manifest}{rest}");
        let path = path.strip_prefix('.').unwrap_or(&path).to_owned();
        return (path, in_unit(text, unit));
    }
    (path, text)
}

fn in_unit(text: String, unit: Unit) -> String {
    let Ok(number) = text.parse::<u64>() else {
        return text;
    };
    match unit {
        Unit::AsItIs => text,
        Unit::Millis if number % 1_000 == 0 => (number / 1_000).to_string(),
        Unit::Millis => format!("{number}m"),
        Unit::Bytes => {
            let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
            let whole = units
                .iter()
                .find(|(_, bits)| number > 0 && number % (1_u64 << bits) == 0);
            match whole {
                Some((unit, bits)) => format!("{}{unit}", number >> bits),
                None => text,
            }
        }
    }
}

fn port(port: &Port) -> String {
    let mut words = vec![format!("containerPort: {}", port.container_port)];
    words.extend(port.host_port.map(|number| format!("hostPort: {number}")));
    words.extend(port.host_ip.map(|ip| format!("hostIP: {ip}")));
    words.extend(port.name.as_ref().map(|name| format!("name: {name}")));
    words.extend(match port.protocol {
        Protocol::Tcp => None,
        Protocol::Udp => Some("protocol: UDP".to_owned()),
        Protocol::Sctp => Some("protocol: SCTP".to_owned()),
    });
    format!("{{{}}}", words.join(", "))
}

fn volume(volume: &Volume) -> String {
    let source = match &volume.source {
        VolumeSource::Bind(path) => format!("host_path: {}", path.display()),
        VolumeSource::Named(name) => format!("name: {name}"),
        VolumeSource::Tmpfs => "tmpfs: true".to_owned(),
    };
    let mut words = vec![source, format!("container_path: {}", volume.target)];
    if volume.read_only {
        words.push("readonly: true".to_owned());
    }
    format!("{{{}}}", words.join(", "))
}

fn secret(secret: &SecretSpec) -> String {
    let source = match &secret.source {
        SecretSource::File(path) => format!("file: {}", path.display()),
        SecretSource::Env(variable) => format!("env: {variable}"),
        SecretSource::Cluster(at) => {
            format!("kubernetes: {{secret: {}, key: {}}}", at.secret, at.key)
        }
    };
    let mut words = vec![format!("name: {}", secret.name), source];
    let inside = secret.container_path.as_ref();
    words.extend(inside.map(|path| format!("container_path: {path}")));
    if secret.mode != 0o400 {
        words.push(format!("mode: \"{:04o}\"", secret.mode));
    }
    format!("{{{}}}", words.join(", "))
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a definition has string keys only, so it is valid JSON")
}

/// Objects are descended into, lists are one value: an inserted argument would otherwise read as
/// a change of all that follow.
fn flatten(value: &Value, path: String, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(field, path, leaves);
            }
        }
        Value::Array(items) => {
            leaves.insert(path, list(items));
        }
        Value::String(text) => {
            leaves.insert(path, text.clone());
        }
        Value::Bool(_) | Value::Number(_) => {
            leaves.insert(path, value.to_string());
        }
    }
}

fn list(items: &[Value]) -> String {
    let words: Vec<String> = items
        .iter()
        .map(|item| match item {
            Value::String(text) if !text.is_empty() && !text.contains([' ', ',', '"']) => {
                text.clone()
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => item.to_string(),
        })
        .collect();
    format!("[{}]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_in_the_manifest() {
        let shown = |path: &str, number: u64| written(path, number.to_string());
        for (path, number, name, value) in [
            ("logs.max_size_bytes", 10 << 20, "logs.max_size", "10Mi"),
            (
                "resources.memory_limit_bytes",
                1_000,
                "resources.limits.memory",
                "1000",
            ),
            (
                "resources.cpu_limit_millis",
                500,
                "resources.limits.cpu",
                "500m",
            ),
            (
                "resources.cpu_request_millis",
                2_000,
                "resources.requests.cpu",
                "2",
            ),
            ("workload.docker.image", 1, "image", "1"),
            ("workload.nomad.container.args", 1, "args", "1"),
            ("workload.nomad.address", 1, "nomad.address", "1"),
            (
                "probes.liveness.check.http.port",
                1,
                "probes.liveness.http.port",
                "1",
            ),
            ("restart.limit.window", 1, "restart.window", "1"),
            ("restart.limits", 1, "restart.limits", "1"),
        ] {
            assert_eq!(shown(path, number), (name.to_owned(), value.to_owned()));
        }
    }
}
