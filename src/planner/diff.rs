//! What would change between two definitions of a pipeline, field by field, and what each change
//! costs.
//!
//! **Guarantees.** Pure. A component is said to restart exactly when its
//! [`SpecHash`](crate::model::SpecHash) differs,
//! since that is what the planner goes by. Values that look like secrets are never shown.
//!
//! **How.** Both definitions are compared in the form and under the names that the manifest has
//! (`wording`); a field that is added to the model is compared without a line here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::wording::{self, Cost, Shown};
use crate::model::{ComponentId, ComponentSpec, PipelineKey, PipelineSpec, revision};

/// What stands for a value that must not be shown.
const HIDDEN: &str = "(hidden)";

/// Everything that differs between two definitions of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineDiff {
    /// Which pipeline; `None` only when both sides were absent.
    pub pipeline: Option<PipelineKey>,
    /// What happens to the pipeline as a whole.
    pub change: DiffKind,
    /// Its own fields that differ: description, labels, annotations, network.
    pub fields: Vec<FieldChange>,
    /// The components that differ, by id.
    pub components: Vec<ComponentDiff>,
}

impl PipelineDiff {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.change == DiffKind::Unchanged
    }
}

/// What happens to a pipeline or a component as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiffKind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// Some of it differs.
    Changed,
    /// Nothing differs.
    Unchanged,
}

/// What differs in one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentDiff {
    /// Which component.
    pub id: ComponentId,
    /// What happens to it as a whole.
    pub change: DiffKind,
    /// What that costs: the largest effect of its fields.
    pub effect: Effect,
    /// The fields that differ; empty for one that is added or removed.
    pub fields: Vec<FieldChange>,
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where it stands in the manifest, like `env.LOG_LEVEL` or `probes.readiness.period`.
    pub path: String,
    /// Its value before; `None` = it was not there.
    pub from: Option<String>,
    /// Its value after; `None` = it is not there any more.
    pub to: Option<String>,
    /// What the change costs.
    pub effect: Effect,
}

/// What a change costs, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing is interrupted.
    AppliesLive,
    /// So many new replicas are started.
    Starts(u32),
    /// So many replicas are stopped.
    Stops(u32),
    /// Every replica of the component is replaced.
    Restarts,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AppliesLive => f.pad("applies live"),
            Self::Starts(count) => write!(f, "starts {count}"),
            Self::Stops(count) => write!(f, "stops {count}"),
            Self::Restarts => f.pad("restarts"),
        }
    }
}

/// What changes when `old` becomes `new`; `None` = the pipeline is not there on that side.
pub fn diff(old: Option<&PipelineSpec>, new: Option<&PipelineSpec>) -> PipelineDiff {
    let components: Vec<ComponentDiff> = component_ids(old, new)
        .into_iter()
        .filter_map(|id| component(id, find(old, id), find(new, id)))
        .collect();
    let fields = match (old, new) {
        (Some(old), Some(new)) => pipeline_fields(old, new, &components),
        (None | Some(_), None) | (None, Some(_)) => Vec::new(),
    };
    let change = match (old, new) {
        (None, Some(_)) => DiffKind::Added,
        (Some(_), None) => DiffKind::Removed,
        (Some(_), Some(_)) if !(fields.is_empty() && components.is_empty()) => DiffKind::Changed,
        (Some(_), Some(_)) | (None, None) => DiffKind::Unchanged,
    };
    PipelineDiff {
        pipeline: new.or(old).map(|spec| spec.key.clone()),
        change,
        fields,
        components,
    }
}

fn find<'a>(side: Option<&'a PipelineSpec>, id: &ComponentId) -> Option<&'a ComponentSpec> {
    side.and_then(|spec| spec.components.get(id))
}

fn component_ids<'a>(
    old: Option<&'a PipelineSpec>,
    new: Option<&'a PipelineSpec>,
) -> BTreeSet<&'a ComponentId> {
    [old, new]
        .into_iter()
        .flatten()
        .flat_map(|spec| spec.components.keys())
        .collect()
}

fn component(
    id: &ComponentId,
    old: Option<&ComponentSpec>,
    new: Option<&ComponentSpec>,
) -> Option<ComponentDiff> {
    let (change, effect, fields) = match (old, new) {
        (None, None) => return None,
        (Some(old), Some(new)) if old == new => return None,
        (None, Some(new)) => (DiffKind::Added, Effect::Starts(new.replicas), Vec::new()),
        (Some(old), None) => (DiffKind::Removed, Effect::Stops(old.replicas), Vec::new()),
        (Some(old), Some(new)) => {
            let fields = component_fields(old, new);
            let effect = fields.iter().map(|field| field.effect).max()?;
            (DiffKind::Changed, effect, fields)
        }
    };
    Some(ComponentDiff {
        id: id.clone(),
        change,
        effect,
        fields,
    })
}

/// The fields of a component that differ. Whether it restarts is decided by its hash alone; which
/// of its fields is named as the cause is a matter of presentation.
fn component_fields(old: &ComponentSpec, new: &ComponentSpec) -> Vec<FieldChange> {
    let restarts = !revision::is_same(old, new);
    let mut fields = changes(
        &wording::component(old),
        &wording::component(new),
        |cost| match cost {
            Cost::Scales => scale(old.replicas, new.replicas),
            Cost::Restarts if restarts => Effect::Restarts,
            Cost::Restarts | Cost::Live => Effect::AppliesLive,
        },
    );
    let explained = fields.iter().any(|field| field.effect == Effect::Restarts);
    if restarts && !explained {
        // The definition was hashed in a way that the shown fields do not explain: say so rather
        // than promise that nothing restarts.
        fields.push(FieldChange {
            path: "definition".to_owned(),
            from: Some(old.hash.to_string()),
            to: Some(new.hash.to_string()),
            effect: Effect::Restarts,
        });
    }
    fields
}

fn scale(old: u32, new: u32) -> Effect {
    if new > old {
        Effect::Starts(new - old)
    } else {
        Effect::Stops(old - new)
    }
}

fn pipeline_fields(
    old: &PipelineSpec,
    new: &PipelineSpec,
    components: &[ComponentDiff],
) -> Vec<FieldChange> {
    let restarts = components
        .iter()
        .any(|component| component.effect == Effect::Restarts);
    let live = |_: Cost| Effect::AppliesLive;
    let mut fields = changes(&pipeline_shown(old), &pipeline_shown(new), live);
    for field in &mut fields {
        field.effect = if field.path == "network" && restarts {
            Effect::Restarts
        } else {
            Effect::AppliesLive
        };
    }
    fields
}

/// The fields that differ, by path, each with the effect that its cost has here.
fn changes(
    old: &BTreeMap<String, Shown>,
    new: &BTreeMap<String, Shown>,
    effect: impl Fn(Cost) -> Effect,
) -> Vec<FieldChange> {
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = paths.into_iter().filter_map(|path| {
        let (from, to) = (old.get(path), new.get(path));
        let text = |side: Option<&Shown>| side.map(|shown| shown.value.clone());
        if text(from) == text(to) {
            return None;
        }
        let costs = [from, to].into_iter().flatten();
        let effects = costs.map(|shown| effect(shown.cost));
        Some(FieldChange {
            path: path.clone(),
            from: text(from).map(|value| masked(path, &value)),
            to: text(to).map(|value| masked(path, &value)),
            effect: effects.max().unwrap_or(Effect::AppliesLive),
        })
    });
    changed.collect()
}

fn pipeline_shown(spec: &PipelineSpec) -> BTreeMap<String, Shown> {
    let mut fields = wording::plain(spec);
    let own = ["components", "key", "notify"];
    fields.retain(|path, _| !own.iter().any(|name| path.starts_with(name)));
    for target in &spec.notify {
        let path = format!("notify.{}", target.name.label());
        fields.insert(path, wording::notified(target));
    }
    fields
}

/// `value`, unless the last word of `path` or its own form says that it is a secret.
fn masked(path: &str, value: &str) -> String {
    if is_secret_name(path) && is_value_of_the_user(path) {
        return HIDDEN.to_owned();
    }
    mask_credentials(value)
}

/// Whether a variable of this name is shown as hidden.
pub fn is_secret_name(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path).to_ascii_uppercase();
    ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL"]
        .iter()
        .any(|word| name.contains(word))
}

/// Our own field names (`secrets`) hold where a secret lies, not what it is.
fn is_value_of_the_user(path: &str) -> bool {
    path.starts_with("env.")
        || path.starts_with("config.")
        || !path.contains('.') && path != "secrets"
}

/// Hides the password of each `scheme://user:password@host` in `value`.
fn mask_credentials(value: &str) -> String {
    let mut shown = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let authority = after
            .find(|c: char| c == '/' || c == '?' || c.is_whitespace())
            .unwrap_or(after.len());
        rest = after;
        if let Some(at) = after[..authority].rfind('@')
            && let Some(colon) = after[..at].find(':')
        {
            shown.push_str(&after[..=colon]);
            shown.push_str(HIDDEN);
            rest = &after[at..];
        }
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Dependency, HumanDuration, Probe, ProbeCheck, ProcessSpec, Role, Signal, SpecHash,
        Workload, fixtures,
    };

    fn component(id: &str) -> ComponentSpec {
        ComponentSpec {
            role: Role::Source,
            workload: Workload::Process(ProcessSpec {
                program: "sh".to_owned(),
                args: vec!["-c".to_owned(), "sleep 1".to_owned()],
                working_dir: "/srv".into(),
            }),
            env: BTreeMap::from([("LOG_LEVEL".to_owned(), "info".to_owned())]),
            ..fixtures::component(id, 1, &[])
        }
    }

    fn pipeline(components: Vec<ComponentSpec>) -> PipelineSpec {
        PipelineSpec {
            key: PipelineKey {
                namespace: "default".parse().unwrap(),
                name: "ttp".parse().unwrap(),
            },
            description: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            network: None,
            notify: Vec::new(),
            components: components.into_iter().map(|c| (c.id.clone(), c)).collect(),
        }
    }

    /// Each line as `component path: from -> to   effect`.
    fn lines(old: &PipelineSpec, new: &PipelineSpec) -> Vec<String> {
        let found = diff(Some(old), Some(new));
        let own = found.fields.iter().map(|field| ("", field));
        let theirs = found
            .components
            .iter()
            .flat_map(|c| c.fields.iter().map(move |field| (c.id.as_str(), field)));
        own.chain(theirs)
            .map(|(id, field)| {
                let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                format!(
                    "{id} {}: {} -> {}   {}",
                    field.path,
                    side(&field.from),
                    side(&field.to),
                    field.effect
                )
            })
            .collect()
    }

    fn edited(edit: impl FnOnce(&mut ComponentSpec)) -> Vec<String> {
        let mut new = component("a");
        edit(&mut new);
        lines(&pipeline(vec![component("a")]), &pipeline(vec![new]))
    }

    fn rehash(spec: &mut ComponentSpec) {
        spec.hash = SpecHash::new("v1:0000000000000002");
    }

    #[test]
    fn equal_definitions_differ_in_nothing() {
        let same = pipeline(vec![component("a")]);
        assert!(diff(Some(&same), Some(&same)).is_empty());
    }

    #[test]
    fn a_changed_variable_restarts_and_is_named() {
        let found = edited(|spec| {
            spec.env.insert("LOG_LEVEL".to_owned(), "debug".to_owned());
            rehash(spec);
        });
        assert_eq!(found, ["a env.LOG_LEVEL: info -> debug   restarts"]);
    }

    #[test]
    fn a_changed_probe_applies_live_even_beside_a_change_that_restarts() {
        let probe = Probe {
            check: ProbeCheck::Tcp { port: 80.into() },
            period: HumanDuration::from_secs(10),
            timeout: HumanDuration::from_secs(2),
            failures: 3,
            successes: 1,
        };
        let mut old = component("a");
        old.probes.readiness = Some(probe.clone());
        let mut new = old.clone();
        if let Some(probe) = &mut new.probes.readiness {
            probe.period = HumanDuration::from_secs(5);
        }
        if let Workload::Process(process) = &mut new.workload {
            process.program = "bash".to_owned();
        }
        rehash(&mut new);
        assert_eq!(
            lines(&pipeline(vec![old]), &pipeline(vec![new])),
            [
                "a binary: sh -> bash   restarts",
                "a probes.readiness.period: 10s -> 5s   applies live",
            ]
        );
    }

    #[test]
    fn scaling_starts_or_stops_only_the_difference() {
        assert_eq!(
            edited(|spec| spec.replicas = 3),
            ["a replicas: 1 -> 3   starts 2"]
        );
        let found = diff(
            Some(&pipeline(vec![component("a"), component("b")])),
            Some(&pipeline(vec![component("b"), component("c")])),
        );
        let effects: Vec<(&str, DiffKind, Effect)> = found
            .components
            .iter()
            .map(|c| (c.id.as_str(), c.change, c.effect))
            .collect();
        assert_eq!(
            effects,
            [
                ("a", DiffKind::Removed, Effect::Stops(1)),
                ("c", DiffKind::Added, Effect::Starts(1)),
            ]
        );
    }

    #[test]
    fn a_restart_that_no_shown_field_explains_is_still_announced() {
        assert_eq!(
            edited(rehash),
            ["a definition: v1:0000000000000001 -> v1:0000000000000002   restarts"]
        );
    }

    #[test]
    fn secrets_and_passwords_in_urls_are_never_shown() {
        let found = edited(|spec| {
            spec.env.insert("API_KEY".to_owned(), "s3cr3t".to_owned());
            spec.env.insert(
                "DATABASE_URL".to_owned(),
                "postgres://app:s3cr3t@db:5432/x?y=http://u:s3cr3t@z".to_owned(),
            );
            rehash(spec);
        });
        assert_eq!(
            found,
            [
                "a env.API_KEY: - -> (hidden)   restarts",
                "a env.DATABASE_URL: - -> \
                 postgres://app:(hidden)@db:5432/x?y=http://u:(hidden)@z   restarts",
            ]
        );
    }

    #[test]
    fn signals_and_dependencies_read_as_they_are_written() {
        let found = edited(|spec| {
            spec.stop.signal = Some(Signal::INT);
            spec.dependencies = vec![Dependency {
                id: "b".parse().unwrap(),
                condition: crate::model::Condition::Started,
            }];
        });
        assert_eq!(
            found,
            [
                "a depends_on: - -> b (started)   applies live",
                "a stop.signal: - -> SIGINT   applies live",
            ]
        );
    }

    #[test]
    fn a_label_of_the_pipeline_applies_live() {
        let old = pipeline(vec![component("a")]);
        let mut new = old.clone();
        new.labels.insert("team".to_owned(), "data".to_owned());
        assert_eq!(
            lines(&old, &new),
            [" labels.team: - -> data   applies live"]
        );
    }
}
