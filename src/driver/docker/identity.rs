//! The labels by which a container says whose it is and what it was started from, so that a lost
//! store loses nothing.

use std::collections::HashMap;

use crate::driver::{Description, Launch};
use crate::model::{ComponentSpec, InstanceId, path};

/// The present form of the labels.
const SCHEMA: &str = "1";

/// Which state directory a thing belongs to.
pub(super) const OWNER: &str = "dev.flowctl.owner";
/// The instance, in its text form.
pub(super) const INSTANCE: &str = "dev.flowctl.instance";
/// The digest that the image was resolved to.
pub(super) const IMAGE: &str = "dev.flowctl.image";
/// The boot of the host on which it was made; nothing where the engine is on another one.
const BOOT: &str = "dev.flowctl.boot";
const NAMESPACE: &str = "dev.flowctl.namespace";
const PIPELINE: &str = "dev.flowctl.pipeline";
const COMPONENT: &str = "dev.flowctl.component";
const REPLICA: &str = "dev.flowctl.replica";
const INCARNATION: &str = "dev.flowctl.incarnation";
const GENERATION: &str = "dev.flowctl.generation";
const SPEC_HASH: &str = "dev.flowctl.spec-hash";
const SPEC: &str = "dev.flowctl.spec";
const FILE: &str = "dev.flowctl.file";
const VERSION: &str = "dev.flowctl.schema";

/// What a container, network or volume of ours always carries.
pub(super) fn mark(owner: &str) -> HashMap<String, String> {
    [(OWNER, owner), (VERSION, SCHEMA)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The filter that finds what carries `owner`'s mark.
pub(super) fn owned_by(owner: &str) -> HashMap<String, Vec<String>> {
    [("label".to_owned(), vec![format!("{OWNER}={owner}")])].into()
}

/// The filter that finds what any flowctl has made.
pub(super) fn of_anybody() -> HashMap<String, Vec<String>> {
    [("label".to_owned(), vec![OWNER.to_owned()])].into()
}

/// The filter that finds the container of one instance.
pub(super) fn of_instance(owner: &str, instance: &InstanceId) -> HashMap<String, Vec<String>> {
    let labels = vec![format!("{OWNER}={owner}"), format!("{INSTANCE}={instance}")];
    [("label".to_owned(), labels)].into()
}

/// The labels of a container that is made in this boot of its host. Secrets are not in it: a spec
/// holds where they are, not what.
pub(super) fn labels(
    owner: &str,
    launch: &Launch,
    image: &str,
    boot: Option<String>,
) -> Result<HashMap<String, String>, serde_json::Error> {
    let InstanceId {
        pipeline,
        replica,
        incarnation,
    } = &launch.instance;
    let mut labels = mark(owner);
    let mut set = |key: &str, value: String| labels.insert(key.to_owned(), value);
    set(INSTANCE, launch.instance.to_string());
    set(NAMESPACE, pipeline.namespace.to_string());
    set(PIPELINE, pipeline.name.to_string());
    set(COMPONENT, replica.component.to_string());
    set(REPLICA, replica.replica.to_string());
    set(INCARNATION, incarnation.to_string());
    set(GENERATION, launch.generation.to_string());
    set(SPEC_HASH, launch.spec.hash.to_string());
    set(SPEC, serde_json::to_string(&*launch.spec)?);
    set(IMAGE, image.to_owned());
    // Those that have nothing to say are set too: an image may have labels of these names.
    set(BOOT, boot.unwrap_or_default());
    let file = launch.file.as_deref().map(path::to_text);
    set(FILE, serde_json::to_string(&file)?);
    Ok(labels)
}

/// Reads the labels of a container of ours; the text says what is wrong with them.
pub(super) fn read(labels: &HashMap<String, String>) -> Result<Description, String> {
    let get = |key: &str| {
        labels
            .get(key)
            .ok_or_else(|| format!("the label {key} is missing"))
    };
    let unreadable = |key: &str, why: String| format!("the label {key}: {why}");
    let instance = get(INSTANCE)?
        .parse()
        .map_err(|error: crate::model::IdError| unreadable(INSTANCE, error.to_string()))?;
    let spec: ComponentSpec =
        serde_json::from_str(get(SPEC)?).map_err(|error| unreadable(SPEC, error.to_string()))?;
    let generation = get(GENERATION)?
        .parse()
        .map_err(|error: std::num::ParseIntError| unreadable(GENERATION, error.to_string()))?;
    let file = labels
        .get(FILE)
        .map(|file| serde_json::from_str::<Option<String>>(file));
    Ok(Description {
        instance,
        spec: spec.into(),
        generation: crate::model::Generation(generation),
        file: file
            .transpose()
            .map_err(|error| unreadable(FILE, error.to_string()))?
            .flatten()
            .map(|text| path::from_text(&text)),
    })
}

/// The instance that labels name, whatever the rest of them says.
pub(super) fn instance(labels: &HashMap<String, String>) -> Option<InstanceId> {
    labels.get(INSTANCE)?.parse().ok()
}

/// The boot of the host on which it was made; `None` where the engine is on another one.
pub(super) fn boot(labels: &HashMap<String, String>) -> Option<String> {
    labels.get(BOOT).filter(|boot| !boot.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::conformance;

    #[test]
    fn a_container_can_be_described_from_its_labels_alone() {
        let launch = conformance::launch(conformance::spec("a", "program", &["x"]), 3);
        let labels = labels("host", &launch, "sha256:1", Some("a boot".to_owned())).unwrap();
        let read = read(&labels).unwrap();
        assert_eq!(read.instance, launch.instance);
        assert_eq!(read.spec, launch.spec);
        assert_eq!(read.generation, launch.generation);
        assert_eq!(read.file, launch.file);
        assert_eq!(labels[OWNER], "host");
        assert_eq!(boot(&labels).as_deref(), Some("a boot"));
    }

    #[test]
    fn what_a_container_has_nothing_to_say_of_is_not_said_by_its_image() {
        let mut launch = conformance::launch(conformance::spec("a", "program", &["x"]), 3);
        launch.file = None;
        let own = labels("host", &launch, "sha256:1", None).unwrap();
        let planted = [FILE, BOOT].map(|key| (key.to_owned(), "\"/evil\"".to_owned()));
        let mut all = HashMap::from(planted);
        all.extend(own);
        assert_eq!(read(&all).unwrap().file, None);
        assert_eq!(boot(&all), None);
    }
}
