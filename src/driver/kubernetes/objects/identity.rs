//! The labels and annotations by which an object says whose it is and what it was made from, so that a
//! lost store loses nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::driver::{Description, Launch};
use crate::model::{
    ComponentId, ComponentSpec, Generation, IdError, InstanceId, Namespace, PipelineKey,
    ReplicaKey, Role, path,
};

/// The present form of the labels and annotations.
const SCHEMA_VERSION: &str = "1";

/// Which daemon a thing belongs to.
pub const OWNER: &str = "flowctl.dev/owner";
/// The pipeline's own namespace, which is not the cluster's.
pub const NAMESPACE: &str = "flowctl.dev/namespace";
/// The pipeline.
pub const PIPELINE: &str = "flowctl.dev/pipeline";
/// The component.
pub const COMPONENT: &str = "flowctl.dev/component";
/// The replica's number.
pub const REPLICA: &str = "flowctl.dev/replica";
/// Which run of the replica.
pub const INCARNATION: &str = "flowctl.dev/incarnation";

/// Annotation: the instance, in its text form.
pub const INSTANCE: &str = "flowctl.dev/instance";
/// Annotation: the digest of the component's definition.
pub const SPEC_HASH: &str = "flowctl.dev/spec-hash";
/// Annotation: the component's definition. Secrets are not in it: it holds where they are, not what.
pub const SPEC: &str = "flowctl.dev/spec";
/// Annotation: the pipeline's generation.
pub const GENERATION: &str = "flowctl.dev/generation";
/// Annotation: the pipeline's file.
pub const FILE: &str = "flowctl.dev/file";
/// Annotation: the form of all these.
pub const SCHEMA: &str = "flowctl.dev/schema";
/// Annotation: the digest of what an object was sent as.
pub const APPLIED_HASH: &str = "flowctl.dev/applied-hash";
/// Annotation that the driver adds: how the instance ended.
pub const EXIT: &str = "flowctl.dev/exit";
/// Annotation that the driver adds: it was us who suspended the Job.
pub const HELD: &str = "flowctl.dev/held";

/// The label selector of all that `owner` has made.
pub fn selector_of_owner(owner: &str) -> String {
    format!("{OWNER}={owner}")
}

/// The label selector of all that `owner` has made for a pipeline.
pub fn selector_of_pipeline(owner: &str, pipeline: &PipelineKey) -> String {
    let PipelineKey { namespace, name } = pipeline;
    format!("{OWNER}={owner},{NAMESPACE}={namespace},{PIPELINE}={name}")
}

/// The label selector of all runs of a replica.
pub fn selector_of_replica(owner: &str, pipeline: &PipelineKey, replica: &ReplicaKey) -> String {
    let ReplicaKey { component, replica } = replica;
    let of_pipeline = selector_of_pipeline(owner, pipeline);
    format!("{of_pipeline},{COMPONENT}={component},{REPLICA}={replica}")
}

/// The labels of what belongs to a pipeline as a whole.
pub fn of_pipeline(owner: &str, pipeline: &PipelineKey) -> Map<String, Value> {
    let PipelineKey { namespace, name } = pipeline;
    let mut labels = Map::new();
    set(&mut labels, "app.kubernetes.io/managed-by", "flowctl");
    set(&mut labels, "app.kubernetes.io/part-of", name.as_str());
    set(&mut labels, OWNER, owner);
    set(&mut labels, NAMESPACE, namespace.as_str());
    set(&mut labels, PIPELINE, name.as_str());
    labels
}

/// The labels of what belongs to a component.
pub fn of_component(
    owner: &str,
    pipeline: &PipelineKey,
    spec: &ComponentSpec,
) -> Map<String, Value> {
    let mut labels = of_pipeline(owner, pipeline);
    let role = match spec.role {
        Role::Source => "source",
        Role::Processor => "processor",
        Role::Sink => "sink",
    };
    set(&mut labels, "app.kubernetes.io/name", spec.id.as_str());
    set(&mut labels, "app.kubernetes.io/component", role);
    set(&mut labels, COMPONENT, spec.id.as_str());
    labels
}

/// The labels of an instance: of its Job, and of its pod.
pub fn of_instance(owner: &str, launch: &Launch) -> Map<String, Value> {
    let InstanceId {
        pipeline,
        replica,
        incarnation,
    } = &launch.instance;
    let mut labels = of_component(owner, pipeline, &launch.spec);
    set(&mut labels, REPLICA, &replica.replica.to_string());
    set(&mut labels, INCARNATION, &incarnation.to_string());
    labels
}

/// The labels by which a Service finds the pods of a component.
pub fn pods_of(owner: &str, pipeline: &PipelineKey, component: &ComponentId) -> Map<String, Value> {
    let PipelineKey { namespace, name } = pipeline;
    let mut labels = Map::new();
    set(&mut labels, OWNER, owner);
    set(&mut labels, NAMESPACE, namespace.as_str());
    set(&mut labels, PIPELINE, name.as_str());
    set(&mut labels, COMPONENT, component.as_str());
    labels
}

/// The annotations of a Job: all that it was started from.
///
/// # Errors
/// When the definition cannot be written.
pub fn annotations(launch: &Launch) -> Result<Map<String, Value>, serde_json::Error> {
    let mut annotations = Map::new();
    set(&mut annotations, INSTANCE, &launch.instance.to_string());
    set(&mut annotations, GENERATION, &launch.generation.to_string());
    set(&mut annotations, SPEC_HASH, launch.spec.hash.as_str());
    let spec = serde_json::to_string(&*launch.spec)?;
    set(&mut annotations, SPEC, &spec);
    if let Some(file) = launch.file.as_deref() {
        set(&mut annotations, FILE, &path::to_text(file));
    }
    set(&mut annotations, SCHEMA, SCHEMA_VERSION);
    Ok(annotations)
}

fn set(map: &mut Map<String, Value>, name: &str, value: &str) {
    map.insert(name.to_owned(), Value::String(value.to_owned()));
}

/// The instance that labels name, of a Job or of a pod, whatever else they say.
pub fn instance(labels: &BTreeMap<String, String>) -> Option<InstanceId> {
    let get = |key: &str| labels.get(key).map(String::as_str);
    let pipeline = PipelineKey {
        namespace: get(NAMESPACE)?.parse::<Namespace>().ok()?,
        name: get(PIPELINE)?.parse().ok()?,
    };
    let replica = ReplicaKey {
        component: get(COMPONENT)?.parse().ok()?,
        replica: get(REPLICA)?.parse().ok()?,
    };
    Some(InstanceId {
        pipeline,
        replica,
        incarnation: get(INCARNATION)?.parse().ok()?,
    })
}

/// What a Job was started from, by its annotations.
///
/// # Errors
/// What is wrong with them.
pub fn read(annotations: &BTreeMap<String, String>) -> Result<Description, String> {
    let get = |key: &str| {
        annotations
            .get(key)
            .ok_or_else(|| format!("the annotation {key} is missing"))
    };
    let unreadable = |key: &str, why: String| format!("the annotation {key}: {why}");
    let instance = get(INSTANCE)?
        .parse()
        .map_err(|error: IdError| unreadable(INSTANCE, error.to_string()))?;
    let spec: ComponentSpec =
        serde_json::from_str(get(SPEC)?).map_err(|error| unreadable(SPEC, error.to_string()))?;
    let generation = get(GENERATION)?
        .parse()
        .map_err(|error: std::num::ParseIntError| unreadable(GENERATION, error.to_string()))?;
    Ok(Description {
        instance,
        spec: spec.into(),
        generation: Generation(generation),
        file: annotations.get(FILE).map(|file| path::from_text(file)),
    })
}

/// Whether an object that was found under a name is the one that `wanted`, as it would be sent, means: of
/// the same daemon, pipeline and component. Two pipelines can come to one name (`a-b`, `c` and `a`,
/// `b-c`), and a name may be somebody else's.
pub fn is_same_thing(found: &BTreeMap<String, String>, wanted: &Value) -> bool {
    [OWNER, NAMESPACE, PIPELINE, COMPONENT, REPLICA]
        .iter()
        .all(|key| {
            let wanted = wanted["metadata"]["labels"][*key].as_str();
            found.get(*key).map(String::as_str) == wanted
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::conformance;

    fn texts(map: &Map<String, Value>) -> BTreeMap<String, String> {
        let pairs = map.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn an_instance_can_be_described_from_its_job_alone() {
        let launch = conformance::launch(conformance::spec("a", "program", &["x"]), 3);
        let read = read(&texts(&annotations(&launch).unwrap())).unwrap();
        assert_eq!(read.instance, launch.instance);
        assert_eq!(read.spec, launch.spec);
        assert_eq!(read.generation, launch.generation);
        assert_eq!(read.file, launch.file);
        let labels = texts(&of_instance("host", &launch));
        assert_eq!(instance(&labels), Some(launch.instance));
        assert_eq!(labels[OWNER], "host");
    }

    #[test]
    fn an_object_of_another_component_under_the_same_name_is_another_thing() {
        let launch = conformance::launch(conformance::spec("a", "program", &[]), 1);
        let mine = of_component("host", &launch.instance.pipeline, &launch.spec);
        let wanted = serde_json::json!({"metadata": {"labels": mine}});
        assert!(is_same_thing(&texts(&mine), &wanted));
        for (key, other) in [(OWNER, "else"), (COMPONENT, "b"), (PIPELINE, "q")] {
            let mut found = texts(&mine);
            found.insert(key.to_owned(), other.to_owned());
            assert!(!is_same_thing(&found, &wanted), "{key}");
        }
        assert!(!is_same_thing(&BTreeMap::new(), &wanted));
    }
}
