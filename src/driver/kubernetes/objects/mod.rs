//! From a start to the objects of a cluster. Pure: no cluster, no clock, no files.
//!
//! **Guarantees.** What is started twice gives the same objects under the same names. Bodies hold what is
//! meant and nothing else: no defaults, no status, no version. No object but a Secret holds the value of
//! a secret.

mod failure;
pub mod identity;
pub mod names;
mod pod;
mod probes;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::driver::Launch;
use crate::driver::inputs::Inputs;
use crate::model::kubernetes::{digest_of, service_host};
use crate::model::{
    ComponentSpec, KubernetesSpec, PipelineKey, ReplicaKey, StartFailure, Workload,
};

/// The container of a pod that is the component's own; others may have been put beside it.
pub const MAIN: &str = "main";

/// All that an instance is made from.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// The daemon's id, as a label has it.
    pub owner: &'a str,
    /// The cluster's namespace that it goes to.
    pub namespace: &'a str,
    /// The start.
    pub launch: &'a Launch,
    /// The values that were read for it.
    pub values: Values<'a>,
    /// The uid of its pipeline's ConfigMap, which the objects go with; `None` = it is not known.
    pub parent: Option<&'a str>,
}

impl<'a> Order<'a> {
    /// The pipeline that it belongs to.
    pub fn pipeline(&self) -> &'a PipelineKey {
        &self.launch.instance.pipeline
    }

    /// The replica that it is a run of.
    pub fn replica(&self) -> &'a ReplicaKey {
        &self.launch.instance.replica
    }
}

/// The values that a start needs from files and variables of the daemon.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// They were read.
    Read(&'a Inputs),
    /// Those of secrets stay where they are, since objects are only shown; these are the variables of
    /// its env files.
    Withheld(&'a [(String, Vec<u8>)]),
}

/// The objects of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// What its Job needs, in the order in which it is written.
    pub before: Vec<Object>,
    /// The instance itself.
    pub job: Object,
}

/// An object as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// How it is written.
    pub write: Write,
    /// The digest of what it is sent as; shared objects bear it as an annotation, so that it is known
    /// without a look at their values whether they have to be sent again.
    pub hash: String,
    /// All of it.
    pub body: Value,
}

impl Object {
    fn new(kind: Kind, name: String, write: Write, mut body: Value) -> Self {
        let hash = digest_of(&[&body.to_string()]);
        match write {
            Write::Apply => {
                body["metadata"]["annotations"][identity::APPLIED_HASH] = hash.clone().into();
            }
            Write::CreateOnly | Write::Lock => {}
        }
        Self {
            kind,
            name,
            write,
            hash,
            body,
        }
    }
}

/// The kinds of objects that this or any earlier release writes. What is no longer written is still
/// found and removed by this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Job: an instance.
    Job,
    /// A Service: the address of a component.
    Service,
    /// A Secret: values of a component, or the token of a replica.
    Secret,
    /// A ConfigMap: the parent of all the others of a pipeline.
    ConfigMap,
    /// A PersistentVolumeClaim: a volume that components name.
    Claim,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Job,
        Self::Service,
        Self::Secret,
        Self::ConfigMap,
        Self::Claim,
    ];

    /// As `kind` says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Job => "Job",
            Self::Service => "Service",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Claim => "PersistentVolumeClaim",
        }
    }

    /// As the cluster's paths and rights say it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Job => "jobs",
            Self::Service => "services",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Claim => "persistentvolumeclaims",
        }
    }

    /// As `apiVersion` says it.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Job => "batch/v1",
            Self::Service | Self::Secret | Self::ConfigMap | Self::Claim => "v1",
        }
    }
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Applied by the server, again whenever it is to be another.
    Apply,
    /// Created unless it is there: it never changes, or only a person may change it.
    CreateOnly,
    /// Created, and its name keeps anybody from creating a second: the instance itself.
    Lock,
}

/// The ConfigMap that all other objects of a pipeline belong to. It is written first, since they bear
/// its uid.
pub fn parent(owner: &str, namespace: &str, pipeline: &PipelineKey, file: Option<&Path>) -> Object {
    shared::parent(owner, namespace, pipeline, file)
}

/// The objects of the instance of `order`.
///
/// # Errors
/// Why there cannot be any.
pub fn of(order: &Order<'_>) -> Result<Objects, StartFailure> {
    let Workload::Kubernetes(pod) = &order.launch.spec.workload else {
        return Err(failure::other_driver(order.launch.spec.id.as_str()));
    };
    let token = order.launch.injected.get(pod::TOKEN).map(String::as_str);
    let mut before = shared::services(order);
    before.extend(shared::values(order));
    before.extend(token.map(|token| shared::token(order, token)));
    before.extend(shared::claims(order, pod));
    for object in &before {
        failure::weigh(object.kind.word(), &object.body)?;
    }
    let job = job(order, pod, token)?;
    failure::weigh(job.kind.word(), &job.body)?;
    Ok(Objects { before, job })
}

/// The Secret of a replica's token alone, to renew it.
pub fn token(order: &Order<'_>, token: &str) -> Object {
    shared::token(order, token)
}

/// Where the ports of a component are reached from anywhere in the cluster, by name; the first of them
/// also as the component's.
pub fn addresses(
    namespace: &str,
    pipeline: &PipelineKey,
    spec: &ComponentSpec,
) -> BTreeMap<String, String> {
    let host = service_host(pipeline, &spec.id, Some(namespace));
    let ports = spec.ports.iter();
    ports
        .map(|port| {
            let name = port.name.clone().unwrap_or_else(|| shared::port_name(port));
            (name, format!("{host}:{}", port.container_port))
        })
        .collect()
}

/// Whether the kubelet asks the component anything: then it says whether its pod is ready.
pub fn asks(spec: &ComponentSpec) -> bool {
    !probes::of(&spec.probes).is_empty()
}

fn job(
    order: &Order<'_>,
    pod: &KubernetesSpec,
    token: Option<&str>,
) -> Result<Object, StartFailure> {
    let launch = order.launch;
    let name = names::job(&launch.instance);
    let mut labels = Map::new();
    for (name, value) in &pod.options.labels {
        labels.insert(name.clone(), value.clone().into());
    }
    labels.extend(identity::of_instance(order.owner, launch));
    let annotations = identity::annotations(launch).map_err(|error| failure::unwritable(&error))?;
    let mut metadata = json!({
        "name": name,
        "namespace": order.namespace,
        "labels": labels,
        "annotations": annotations,
    });
    if let Some(uid) = order.parent {
        let pipeline = &launch.instance.pipeline;
        metadata["ownerReferences"] = shared::owner_references(pipeline, uid);
    }
    let body = json!({
        "apiVersion": Kind::Job.api_version(),
        "kind": Kind::Job.word(),
        "metadata": metadata,
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "completionMode": "NonIndexed",
            // flowctl restarts. Without it the cluster starts nothing anew but what it moves.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [{
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            }]},
            "template": pod::template(order, pod, token)?,
        },
    });
    Ok(Object::new(Kind::Job, name, Write::Lock, body))
}
