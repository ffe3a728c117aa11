//! What stands beside the Jobs of a pipeline: its ConfigMap, the Services of its components, their
//! Secrets, and the claims of its volumes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Kind, Object, Order, Values, Write, identity, names};
use crate::model::codec::to_base64;
use crate::model::kubernetes::service_name;
use crate::model::{
    ComponentSpec, KubernetesSpec, PipelineKey, Port, Protocol, SecretSource, SecretSpec, Storage,
    StorageAccess, VolumeSource, path,
};

/// The key of a token in its Secret, and the name of its file.
pub(super) const TOKEN_KEY: &str = "token";

/// What stands in the place of a value that is not shown.
const WITHHELD: &str = "(read when the component starts)";

/// The ConfigMap that all other objects of a pipeline belong to: they go with it.
pub(super) fn parent(
    owner: &str,
    namespace: &str,
    pipeline: &PipelineKey,
    file: Option<&Path>,
) -> Object {
    let mut data = Map::new();
    data.insert("daemon".to_owned(), owner.into());
    data.insert("pipeline".to_owned(), pipeline.to_string().into());
    if let Some(file) = file {
        data.insert("file".to_owned(), path::to_text(file).into());
    }
    let metadata = Metadata {
        name: names::parent(pipeline),
        namespace,
        labels: identity::of_pipeline(owner, pipeline),
        parent: None,
    };
    metadata.object(Kind::ConfigMap, Write::Apply, [("data", data.into())])
}

/// What the metadata of every object is made of.
struct Metadata<'a> {
    name: String,
    namespace: &'a str,
    labels: Map<String, Value>,
    parent: Option<(&'a PipelineKey, &'a str)>,
}

impl Metadata<'_> {
    fn object<const N: usize>(self, kind: Kind, write: Write, rest: [(&str, Value); N]) -> Object {
        let mut metadata = json!({
            "name": self.name,
            "namespace": self.namespace,
            "labels": self.labels,
        });
        if let Some((pipeline, uid)) = self.parent {
            metadata["ownerReferences"] = owner_references(pipeline, uid);
        }
        let mut body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.word(),
            "metadata": metadata,
        });
        for (name, value) in rest {
            body[name] = value;
        }
        Object::new(kind, self.name, write, body)
    }
}

/// What makes an object go with its pipeline's ConfigMap.
pub(super) fn owner_references(pipeline: &PipelineKey, uid: &str) -> Value {
    json!([{
        "apiVersion": Kind::ConfigMap.api_version(),
        "kind": Kind::ConfigMap.word(),
        "name": names::parent(pipeline),
        "uid": uid,
    }])
}

/// The metadata of what belongs to the component of `order` and goes with its pipeline.
fn of_component<'a>(order: &Order<'a>, name: String) -> Metadata<'a> {
    let pipeline = order.pipeline();
    Metadata {
        name,
        namespace: order.namespace,
        labels: identity::of_component(order.owner, pipeline, &order.launch.spec),
        parent: order.parent.map(|uid| (pipeline, uid)),
    }
}

/// The Service by which a component is reached, and the one that gives each of its replicas a name. What
/// serves no port has none.
pub(super) fn services(order: &Order<'_>) -> Vec<Object> {
    let (pipeline, spec) = (order.pipeline(), &*order.launch.spec);
    if spec.ports.is_empty() {
        return Vec::new();
    }
    let selector = identity::pods_of(order.owner, pipeline, &spec.id);
    let ports: Vec<Value> = spec.ports.iter().map(service_port).collect();
    let name = service_name(pipeline, &spec.id);
    let service = json!({"type": "ClusterIP", "selector": selector, "ports": ports});
    let mut services =
        vec![of_component(order, name).object(Kind::Service, Write::Apply, [("spec", service)])];
    if spec.replicas > 1 {
        let each = json!({
            "type": "ClusterIP",
            "clusterIP": "None",
            // A replica is found by its name before it is ready: its peers may wait for each other.
            "publishNotReadyAddresses": true,
            "selector": selector,
            "ports": ports,
        });
        let name = names::headless(pipeline, &spec.id);
        services.push(of_component(order, name).object(
            Kind::Service,
            Write::Apply,
            [("spec", each)],
        ));
    }
    services
}

fn service_port(port: &Port) -> Value {
    json!({
        "name": port_name(port),
        "port": port.container_port,
        "targetPort": port.container_port,
        "protocol": protocol(port.protocol),
    })
}

/// The name of a port in its Service and in its pod; each has one.
pub(super) fn port_name(port: &Port) -> String {
    match (&port.name, port.protocol) {
        (Some(name), _) => names::container_port(name),
        (None, Protocol::Tcp) => format!("port-{}", port.container_port),
        (None, Protocol::Udp) => format!("udp-{}", port.container_port),
        (None, Protocol::Sctp) => format!("sctp-{}", port.container_port),
    }
}

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// The name of the Secret that holds the values of a component that the daemon reads; `None` = it reads
/// none.
pub(super) fn values_name(order: &Order<'_>) -> Option<String> {
    let spec = &order.launch.spec;
    let mut contents = Vec::new();
    for secret in own(spec) {
        contents.push(secret.name.clone());
        contents.push(match &order.values {
            Values::Read(inputs) => to_base64(value_of(&inputs.secrets, secret)),
            Values::Withheld(_) => format!("{:?}", secret.source),
        });
    }
    let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
    (!contents.is_empty()).then(|| names::secret(order.pipeline(), &spec.id, &contents))
}

/// The secrets of a component whose values the daemon reads.
pub(super) fn own(spec: &ComponentSpec) -> impl Iterator<Item = &SecretSpec> {
    spec.secrets.iter().filter(|secret| match &secret.source {
        SecretSource::File(_) | SecretSource::Env(_) => true,
        SecretSource::Cluster(_) => false,
    })
}

fn value_of<'a>(values: &'a BTreeMap<String, Vec<u8>>, secret: &SecretSpec) -> &'a [u8] {
    // A value was read for each of them.
    values.get(&secret.name).map_or(&[], Vec::as_slice)
}

/// The Secret of the values that the daemon read for a component. It never changes: other values are
/// another Secret.
pub(super) fn values(order: &Order<'_>) -> Option<Object> {
    let name = values_name(order)?;
    let mut data = Map::new();
    for secret in own(&order.launch.spec) {
        let value = match &order.values {
            Values::Read(inputs) => to_base64(value_of(&inputs.secrets, secret)),
            Values::Withheld(_) => WITHHELD.to_owned(),
        };
        data.insert(secret.name.clone(), value.into());
    }
    let field = match order.values {
        Values::Read(_) => "data",
        Values::Withheld(_) => "stringData",
    };
    let rest = [
        ("type", "Opaque".into()),
        ("immutable", true.into()),
        (field, data.into()),
    ];
    Some(of_component(order, name).object(Kind::Secret, Write::CreateOnly, rest))
}

/// The Secret of a replica's token, which is renewed.
pub(super) fn token(order: &Order<'_>, token: &str) -> Object {
    let replica = order.replica();
    let name = names::token(order.pipeline(), replica);
    let mut metadata = of_component(order, name);
    metadata.labels.insert(
        identity::REPLICA.to_owned(),
        replica.replica.to_string().into(),
    );
    let data = json!({TOKEN_KEY: to_base64(token.as_bytes())});
    let rest = [("type", "Opaque".into()), ("data", data)];
    metadata.object(Kind::Secret, Write::Apply, rest)
}

/// The claims of the volumes that a component names. They outlive its pipeline, so nothing owns them.
pub(super) fn claims(order: &Order<'_>, pod: &KubernetesSpec) -> Vec<Object> {
    let pipeline = order.pipeline();
    let Some(storage) = &pod.options.storage else {
        return Vec::new();
    };
    let named = order.launch.spec.volumes.iter();
    let named = named.filter_map(|volume| match &volume.source {
        VolumeSource::Named(name) => Some(names::claim(pipeline, name)),
        VolumeSource::Bind(_) | VolumeSource::Tmpfs => None,
    });
    let mut names: Vec<String> = named.collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let metadata = Metadata {
                name,
                namespace: order.namespace,
                labels: identity::of_pipeline(order.owner, pipeline),
                parent: None,
            };
            metadata.object(Kind::Claim, Write::CreateOnly, [("spec", claim(storage))])
        })
        .collect()
}

fn claim(storage: &Storage) -> Value {
    let access = match storage.access {
        StorageAccess::OneNode => "ReadWriteOnce",
        StorageAccess::ManyNodes => "ReadWriteMany",
    };
    let mut spec = json!({
        "accessModes": [access],
        "resources": {"requests": {"storage": storage.size_bytes.to_string()}},
    });
    if let Some(class) = &storage.class {
        spec["storageClassName"] = class.clone().into();
    }
    spec
}
