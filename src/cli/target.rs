//! Which pipeline or component a typed name means. Pure.

use std::sync::Arc;

use crate::model::{
    ComponentId, ComponentStatus, Namespace, PhaseName, PipelineKey, PipelineStatus, Snapshot,
};

use super::args::Pair;
use super::exit::Failure;

/// A component of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// In which pipeline.
    pub pipeline: PipelineKey,
    /// Which component.
    pub component: ComponentId,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pipeline, self.component)
    }
}

/// What a name may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A whole pipeline.
    Pipeline(PipelineKey),
    /// One component.
    Component(Target),
}

/// The component that `text` means: `COMPONENT`, `PIPELINE/COMPONENT` or
/// `NAMESPACE/PIPELINE/COMPONENT`.
///
/// # Errors
/// When there is none, or several.
pub fn component(
    snapshot: &Snapshot,
    namespace: Option<&Namespace>,
    text: &str,
) -> Result<Target, Failure> {
    let candidates: Vec<Target> = targets(snapshot, namespace)
        .filter(|target| matches_component(target, text))
        .collect();
    only(candidates, text, "component")
}

/// All components that `text` may mean.
///
/// # Errors
/// When there is none.
pub fn components_named(
    snapshot: &Snapshot,
    namespace: Option<&Namespace>,
    text: &str,
) -> Result<Vec<Target>, Failure> {
    let named: Vec<Target> = targets(snapshot, namespace)
        .filter(|target| matches_component(target, text))
        .collect();
    if named.is_empty() {
        return Err(Failure::NotFound(format!("there is no component `{text}`")));
    }
    Ok(named)
}

/// Those of `kept`, which are deleted, that `text` means: a component as in [`component`], or all of
/// a pipeline.
///
/// # Errors
/// When there is none, or several.
pub fn deleted(
    kept: &[Target],
    namespace: Option<&Namespace>,
    text: &str,
) -> Result<Vec<Target>, Failure> {
    let kept = || in_namespace(kept, namespace);
    let components: Vec<Target> = kept()
        .filter(|target| matches_component(target, text))
        .cloned()
        .collect();
    if !components.is_empty() {
        return only(components, text, "component").map(|one| vec![one]);
    }
    let pipeline = match deleted_pipeline(kept(), text) {
        Err(Failure::NotFound(_)) => Err(Failure::NotFound(format!(
            "there is no component `{text}`, and no logs of a deleted one (`flowctl logs --deleted` \
             lists those)"
        ))),
        found => found,
    }?;
    let of_pipeline = kept().filter(|target| target.pipeline == pipeline);
    Ok(of_pipeline.cloned().collect())
}

/// The deleted pipeline that `text` means, of which something in `kept` is.
///
/// # Errors
/// When there is none, or several.
pub fn deleted_pipeline<'a>(
    kept: impl Iterator<Item = &'a Target>,
    text: &str,
) -> Result<PipelineKey, Failure> {
    let mut pipelines: Vec<PipelineKey> = kept
        .map(|target| target.pipeline.clone())
        .filter(|key| matches_pipeline(key, text))
        .collect();
    pipelines.sort();
    pipelines.dedup();
    only(pipelines, text, "pipeline")
}

/// Those of `kept` that are in a namespace.
pub fn in_namespace<'a>(
    kept: &'a [Target],
    namespace: Option<&'a Namespace>,
) -> impl Iterator<Item = &'a Target> {
    kept.iter()
        .filter(move |target| namespace.is_none_or(|it| *it == target.pipeline.namespace))
}

/// The pipeline that `text` means: `NAME` or `NAMESPACE/NAME`.
///
/// # Errors
/// When there is none, or several.
pub fn pipeline(
    snapshot: &Snapshot,
    namespace: Option<&Namespace>,
    text: &str,
) -> Result<PipelineKey, Failure> {
    let candidates: Vec<PipelineKey> = pipelines(snapshot, namespace)
        .map(PipelineStatus::key)
        .filter(|key| matches_pipeline(key, text))
        .collect();
    only(candidates, text, "pipeline")
}

/// The pipeline or component that `text` means; a pipeline of that name goes first.
///
/// # Errors
/// When there is none, or several.
pub fn either(
    snapshot: &Snapshot,
    namespace: Option<&Namespace>,
    text: &str,
) -> Result<Named, Failure> {
    let exists = pipelines(snapshot, namespace).any(|status| matches_pipeline(&status.key(), text));
    if exists {
        pipeline(snapshot, namespace, text).map(Named::Pipeline)
    } else {
        component(snapshot, namespace, text).map(Named::Component)
    }
}

/// The status of a target.
pub fn find<'a>(
    snapshot: &'a Snapshot,
    target: &Target,
) -> Option<(&'a PipelineStatus, &'a ComponentStatus)> {
    let pipeline = snapshot
        .pipelines
        .iter()
        .find(|status| status.key() == target.pipeline)?;
    let component = pipeline
        .components
        .iter()
        .find(|component| component.id == target.component)?;
    Some((pipeline, component))
}

/// `snapshot` with only the pipelines of `namespace` that are named; no names = all.
///
/// # Errors
/// When a name means nothing, or several.
pub fn narrowed(
    mut snapshot: Snapshot,
    namespace: Option<&Namespace>,
    names: &[String],
) -> Result<Snapshot, Failure> {
    let wanted = names
        .iter()
        .map(|name| pipeline(&snapshot, namespace, name))
        .collect::<Result<Vec<_>, _>>()?;
    snapshot.pipelines.retain(|status| {
        namespace.is_none_or(|wanted| *wanted == status.namespace)
            && (wanted.is_empty() || wanted.contains(&status.key()))
    });
    Ok(snapshot)
}

/// `snapshot` with only the pipelines and components of `namespace` that are named; no names = all.
///
/// # Errors
/// When a name means nothing, or several.
pub fn narrowed_to(
    mut snapshot: Snapshot,
    namespace: Option<&Namespace>,
    names: &[String],
) -> Result<Snapshot, Failure> {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for name in names {
        match either(&snapshot, namespace, name)? {
            Named::Pipeline(key) => whole.push(key),
            Named::Component(target) => parts.push(target),
        }
    }
    snapshot.pipelines.retain_mut(|status| {
        let key = status.key();
        if namespace.is_some_and(|wanted| *wanted != status.namespace) {
            return false;
        }
        if names.is_empty() || whole.contains(&key) {
            return true;
        }
        let wanted: Vec<&ComponentId> = parts
            .iter()
            .filter(|target| target.pipeline == key)
            .map(|target| &target.component)
            .collect();
        if wanted.is_empty() {
            return false;
        }
        let status = Arc::make_mut(status);
        status.components.retain(|one| wanted.contains(&&one.id));
        status
            .conditions
            .retain(|one| one.component.as_ref().is_none_or(|id| wanted.contains(&id)));
        true
    });
    Ok(snapshot)
}

/// `snapshot` with only the components of which a replica is in one of `phases`; none = all.
pub fn in_phases(mut snapshot: Snapshot, phases: &[PhaseName]) -> Snapshot {
    if phases.is_empty() {
        return snapshot;
    }
    for status in &mut snapshot.pipelines {
        let status = Arc::make_mut(status);
        status.components.retain(|component| {
            let mut replicas = component.replicas.iter();
            replicas.any(|replica| phases.contains(&replica.phase))
        });
    }
    snapshot
        .pipelines
        .retain(|status| !status.components.is_empty());
    snapshot
}

/// `snapshot` with only the pipelines that bear all of `labels`; none = all.
///
/// # Errors
/// When labels are asked for and no pipeline bears them.
pub fn labelled(mut snapshot: Snapshot, labels: &[Pair]) -> Result<Snapshot, Failure> {
    if labels.is_empty() {
        return Ok(snapshot);
    }
    let bears = |status: &PipelineStatus| {
        let mut labels = labels.iter();
        labels.all(|pair| status.labels.get(&pair.key) == Some(&pair.value))
    };
    snapshot.pipelines.retain(|status| bears(status));
    if snapshot.pipelines.is_empty() {
        let asked: Vec<String> = labels
            .iter()
            .map(|pair| format!("{}={}", pair.key, pair.value))
            .collect();
        let message = format!("no pipeline bears the label {}", asked.join(" and "));
        return Err(Failure::NotFound(message));
    }
    Ok(snapshot)
}

/// All components of `namespace`; none = of all.
pub fn all<'a>(
    snapshot: &'a Snapshot,
    namespace: Option<&'a Namespace>,
) -> impl Iterator<Item = Target> {
    targets(snapshot, namespace)
}

fn pipelines<'a>(
    snapshot: &'a Snapshot,
    namespace: Option<&'a Namespace>,
) -> impl Iterator<Item = &'a PipelineStatus> {
    snapshot
        .pipelines
        .iter()
        .map(|status| &**status)
        .filter(move |status| namespace.is_none_or(|wanted| *wanted == status.namespace))
}

fn targets<'a>(
    snapshot: &'a Snapshot,
    namespace: Option<&'a Namespace>,
) -> impl Iterator<Item = Target> {
    pipelines(snapshot, namespace).flat_map(|status| {
        status.components.iter().map(|component| Target {
            pipeline: status.key(),
            component: component.id.clone(),
        })
    })
}

fn matches_pipeline(key: &PipelineKey, text: &str) -> bool {
    match text.split_once('/') {
        Some((namespace, name)) => key.namespace.as_str() == namespace && key.name.as_str() == name,
        None => key.name.as_str() == text,
    }
}

fn matches_component(target: &Target, text: &str) -> bool {
    match text.rsplit_once('/') {
        Some((pipeline, id)) => {
            target.component.as_str() == id && matches_pipeline(&target.pipeline, pipeline)
        }
        None => target.component.as_str() == text,
    }
}

fn only<T: ToString>(mut candidates: Vec<T>, text: &str, what: &str) -> Result<T, Failure> {
    match (candidates.pop(), candidates.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(Failure::NotFound(format!("there is no {what} `{text}`"))),
        (Some(one), false) => {
            let names: Vec<String> = candidates
                .iter()
                .chain([&one])
                .map(ToString::to_string)
                .collect();
            let names = names.join(", ");
            Err(Failure::Usage(format!(
                "`{text}` may mean {names}; write which"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::super::sample;
    use super::*;
    use std::sync::Arc;

    fn names(snapshot: &Snapshot) -> Vec<String> {
        let pipelines = snapshot.pipelines.iter();
        pipelines.map(|status| status.key().to_string()).collect()
    }

    /// The sample, and a second pipeline `other` in the namespace `lab` with a `sink` too.
    fn two() -> Snapshot {
        let mut snapshot = sample::snapshot();
        let mut other = (*snapshot.pipelines[0]).clone();
        other.namespace = "lab".parse().unwrap();
        other.name = "other".parse().unwrap();
        other.components.retain(|c| c.id.as_str() == "sink");
        snapshot.pipelines.push(Arc::new(other));
        snapshot
    }

    #[test]
    fn a_component_is_found_by_its_own_name_where_that_is_enough() {
        let snapshot = two();
        let found = |text| component(&snapshot, None, text).map(|t| t.to_string());
        assert_eq!(found("ledger-source").unwrap(), "ttp/ledger-source");
        assert_eq!(found("ttp/sink").unwrap(), "ttp/sink");
        assert_eq!(found("lab/other/sink").unwrap(), "lab/other/sink");
        let ambiguous = found("sink").unwrap_err();
        assert_eq!(ambiguous.exit(), Exit::Usage);
        assert_eq!(
            ambiguous.to_string(),
            "`sink` may mean ttp/sink, lab/other/sink; write which"
        );
        assert_eq!(found("nope").unwrap_err().exit(), Exit::NotFound);
        let lab: Namespace = "lab".parse().unwrap();
        assert!(component(&snapshot, Some(&lab), "sink").is_ok());
    }

    #[test]
    fn what_was_deleted_is_named_as_what_is_there_or_by_its_pipeline() {
        let snapshot = two();
        let all: Vec<Target> = targets(&snapshot, None).collect();
        let named = |text: &str| {
            deleted(&all, None, text).map(|found| {
                let names: Vec<String> = found.iter().map(ToString::to_string).collect();
                names.join(" ")
            })
        };
        assert_eq!(named("ttp/sink").unwrap(), "ttp/sink");
        assert_eq!(named("ledger-source").unwrap(), "ttp/ledger-source");
        assert_eq!(named("lab/other").unwrap(), "lab/other/sink");
        assert_eq!(named("sink").unwrap_err().exit(), Exit::Usage);
        assert_eq!(named("nope").unwrap_err().exit(), Exit::NotFound);
        let lab: Namespace = "lab".parse().unwrap();
        assert_eq!(deleted(&all, Some(&lab), "sink").unwrap().len(), 1);
    }

    #[test]
    fn a_name_means_a_pipeline_before_it_means_a_component() {
        let snapshot = two();
        assert!(matches!(
            either(&snapshot, None, "ttp"),
            Ok(Named::Pipeline(_))
        ));
        assert!(matches!(
            either(&snapshot, None, "ttp/sink"),
            Ok(Named::Component(_))
        ));
        assert!(matches!(
            either(&snapshot, None, "lab/other"),
            Ok(Named::Pipeline(_))
        ));
    }

    #[test]
    fn a_label_means_the_pipelines_that_bear_it() {
        let mut snapshot = two();
        let pipeline = Arc::make_mut(&mut snapshot.pipelines[1]);
        pipeline.labels.insert("team".to_owned(), "data".to_owned());
        let pair = |text: &str| text.parse::<Pair>().unwrap();
        let found = labelled(snapshot.clone(), &[pair("team=data")]).unwrap();
        assert_eq!(names(&found), ["lab/other"]);
        let missing = labelled(snapshot.clone(), &[pair("team=data"), pair("a=b")]);
        assert_eq!(missing.unwrap_err().exit(), Exit::NotFound);
        assert_eq!(
            names(&labelled(snapshot.clone(), &[]).unwrap()),
            names(&snapshot)
        );
    }

    #[test]
    fn a_snapshot_is_narrowed_to_what_was_named() {
        let narrow = narrowed(two(), None, &["other".to_owned()]).unwrap();
        assert_eq!(names(&narrow), ["lab/other"]);
        let lab = "lab".parse().unwrap();
        assert_eq!(
            names(&narrowed(two(), Some(&lab), &[]).unwrap()),
            ["lab/other"]
        );
        assert!(narrowed(two(), None, &["nope".to_owned()]).is_err());
    }
}
