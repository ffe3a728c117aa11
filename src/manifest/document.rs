//! One YAML document to one pipeline.

use std::collections::BTreeMap;

use crate::model::{Namespace, PipelineKey, PipelineName, PipelineSpec, Role};

use super::combinations;
use super::component::{Defaults, Draft, environment};
use super::drivers::kubernetes;
use super::fields::{Field, Fields, scalar};
use super::graph;
use super::health::ProbesDraft;
use super::image_need::{self, Names};
use super::notifications;
use super::policy::{RestartDraft, StopDraft};
use super::problem::{Findings, Span, shown};
use super::references::{Ids, Peer, Resolver, Target};
use super::suggest;
use super::tree::{Node, Value};
use super::workload::{self, Cluster, Placement};
use super::{Given, Options};

/// The version that files state.
const API_VERSION: &str = "flowctl/v1";

/// What earlier releases and their examples state for files of the same form.
const OLD_API_VERSIONS: [&str; 4] = [
    "v1",
    "flowctl.withobsrvr.com/v1",
    "flowctl.io/v1",
    "withobsrvr.com/flowctl/v1",
];

/// The most components in one pipeline.
const MAX_COMPONENTS: usize = 10_000;

/// The most bytes that `spec.env` and `spec.defaults` may come to, written out in each component.
const MAX_SHARED: usize = 32 << 20;

/// Reads the document `node`; `None` when it is no usable pipeline, which was reported. The span is
/// that of its name.
pub(super) fn read<'t>(
    node: &'t Node<'t>,
    options: &Options,
    findings: &mut Findings<'_>,
) -> Option<(PipelineSpec, Span)> {
    let mut fields = Fields::open(node, "a pipeline", findings)?;
    if !is_pipeline(&mut fields, node, findings) {
        return None;
    }
    let metadata = Metadata::read(&mut fields, &options.given, findings);
    let spec = fields.get("spec");
    if spec.is_none() {
        let fix = "add `spec:` with its components".to_owned();
        fields.missing(&["spec"], fields.at, "the pipeline has no `spec`", fix);
    }
    fields.close(findings);
    let mut spec = spec?.fields("`spec`", findings)?;
    let mut pipeline = read_spec(&mut spec, options, &metadata, findings);
    spec.close(findings);
    let (name, at) = metadata.name?;
    pipeline.key.name = name;
    Some((pipeline, at))
}

/// Checks `apiVersion` and `kind`. A file of another kind is told apart with one sentence, not
/// with one for each of its fields.
fn is_pipeline(fields: &mut Fields<'_>, node: &Node<'_>, findings: &mut Findings<'_>) -> bool {
    let version = fields.get_or_legacy(findings, "apiVersion", &["api_version", "apiversion"]);
    let kind = fields.get("kind");
    let has = |name: &str| match &node.value {
        Value::Map(entries) => entries.iter().any(|entry| entry.key == name),
        Value::Null | Value::Scalar(_) | Value::List(_) => false,
    };
    if !has("spec") && (has("source") || has("sink") || has("services")) {
        let what = if has("services") {
            "a file of services"
        } else {
            "a configuration of the time before pipelines"
        };
        findings.error(
            fields.at,
            format!("this is {what}, not a pipeline"),
            Some(format!("write `apiVersion: {API_VERSION}`, `kind: Pipeline`, `metadata` and `spec`; `flowctl init` writes an example")),
        );
        return false;
    }
    match kind.map(|kind| (kind, scalar(kind.node).map(AsRef::as_ref))) {
        Some((_, Some("Pipeline"))) => {}
        Some((kind, Some(other))) => {
            findings.error(
                kind.node.at,
                format!("`{}` is not a kind that flowctl runs", shown(other)),
                Some("write `kind: Pipeline`".to_owned()),
            );
            return false;
        }
        Some((kind, None)) => {
            kind.mismatch(findings, "`Pipeline`", None);
            return false;
        }
        None => {
            let fix = "add `kind: Pipeline`".to_owned();
            fields.missing(&["kind"], fields.at, "the file has no `kind`", fix);
        }
    }
    match version {
        Some(version) => api_version(version, findings),
        None => {
            let fix = format!("add `apiVersion: {API_VERSION}`");
            let message = "the file has no `apiVersion`";
            fields.missing(&["apiVersion"], fields.at, message, fix);
        }
    }
    true
}

fn api_version(field: Field<'_>, findings: &mut Findings<'_>) {
    let Some(word) = field.word(findings) else {
        return;
    };
    if word.text == API_VERSION {
        return;
    }
    if OLD_API_VERSIONS.contains(&word.text) {
        findings.warn(
            word.at,
            format!("`{}` is an old spelling", word.text),
            Some(format!("write `{API_VERSION}`")),
        );
        return;
    }
    findings.error(
        word.at,
        format!(
            "this release does not read `apiVersion: {}`",
            shown(word.text)
        ),
        Some(format!("write `{API_VERSION}`")),
    );
}

/// `metadata`.
#[derive(Default)]
struct Metadata {
    name: Option<(PipelineName, Span)>,
    namespace: Namespace,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    description: Option<String>,
}

impl Metadata {
    fn read(fields: &mut Fields<'_>, given: &Given, findings: &mut Findings<'_>) -> Self {
        let Some(field) = fields.get("metadata") else {
            let fix = "add `metadata: {name: NAME}`".to_owned();
            let message = "the pipeline has no `metadata`";
            fields.missing(&["metadata"], fields.at, message, fix);
            return Self::default();
        };
        let Some(mut fields) = field.fields("`metadata`", findings) else {
            return Self::default();
        };
        let name = fields.get("name");
        if name.is_none() {
            let fix = "add `name: NAME` to `metadata`".to_owned();
            fields.missing(&["name"], field.key_at, "the pipeline has no name", fix);
        }
        let description = fields.get("description");
        if let Some(description) = description {
            findings.warn(
                description.key_at,
                "`metadata.description` is an old place",
                Some("write it as `spec.description`".to_owned()),
            );
        }
        let metadata = Self {
            name: name.and_then(|f| label::<PipelineName>(f, findings)),
            namespace: fields
                .get("namespace")
                .and_then(|f| label::<Namespace>(f, findings))
                .map(|(namespace, _)| namespace)
                .or_else(|| given.namespace.clone())
                .unwrap_or_default(),
            labels: fields
                .get("labels")
                .map(|f| f.plain_map(findings))
                .unwrap_or_default(),
            annotations: fields
                .get("annotations")
                .map(|f| f.plain_map(findings))
                .unwrap_or_default(),
            description: description
                .and_then(|f| f.text(findings))
                .map(|text| text.text.to_owned()),
        };
        fields.close(findings);
        metadata
    }
}

/// A name that must be a DNS label.
fn label<T>(field: Field<'_>, findings: &mut Findings<'_>) -> Option<(T, Span)>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let word = field.word(findings)?;
    match word.text.parse() {
        Ok(name) => Some((name, word.at)),
        Err(error) => {
            let fix = suggest::label(word.text).map(|label| format!("did you mean `{label}`?"));
            findings.error(word.at, error.to_string(), fix);
            None
        }
    }
}

fn read_spec<'t>(
    fields: &mut Fields<'t>,
    options: &Options,
    metadata: &Metadata,
    findings: &mut Findings<'_>,
) -> PipelineSpec {
    let description = fields
        .get("description")
        .and_then(|f| f.text(findings))
        .map(|text| text.text.to_owned());
    let driver = workload::driver(fields, findings);
    let network = fields
        .get("network")
        .and_then(|f| f.word(findings))
        .map(|word| word.text.to_owned());
    let images = fields.get("images").and_then(|field| {
        image_need::requirement(field, &options.base_dir, Names::Elsewhere, findings)
    });
    let cluster = Cluster::read(fields, findings);
    let notify = fields.get("notify");
    let env = fields
        .get("env")
        .map(|f| environment(f, findings))
        .unwrap_or_default();
    let mut defaults = Defaults {
        env,
        network: network.clone(),
        images,
        ..Defaults::default()
    };
    if let Some(mut written) = fields
        .get("defaults")
        .and_then(|f| f.fields("`defaults`", findings))
    {
        defaults.restart = RestartDraft::read(&mut written, findings);
        defaults.stop = StopDraft::read(&mut written, findings);
        defaults.probes = ProbesDraft::read(&mut written, findings);
        written.close(findings);
    }
    fields.unused(
        findings,
        "config",
        "write `config` in the components that read it",
    );
    fields.refuse(
        findings,
        "flow",
        "write `inputs: [FROM]` in the component that reads",
    );
    fields.refuse(
        findings,
        "components",
        "write them under `sources`, `processors` and `sinks`",
    );
    let placement = Placement {
        base: &options.base_dir,
        forced: options.given.orchestrator,
        driver,
        cluster,
    };
    let (mut drafts, ids) = components(fields, &placement, findings);
    if defaults.bytes().saturating_mul(drafts.len()) > MAX_SHARED {
        findings.error(
            fields.at,
            format!(
                "`spec` gives too much to each of its {} components",
                drafts.len()
            ),
            Some("move long values to an `env_file`".to_owned()),
        );
        drafts.clear();
    }
    graph::check(&drafts, ids, findings);
    graph::check_container_names(&drafts, findings);
    graph::check_host_ports(&drafts, findings);
    let name = metadata.name.as_ref().map(|(name, _)| name.clone());
    // A file without a usable name is not used; a stand-in lets its references be checked.
    let name = name.unwrap_or_else(|| "unnamed".parse().expect("a label"));
    let mut pipeline = PipelineSpec {
        key: PipelineKey {
            namespace: metadata.namespace.clone(),
            name,
        },
        description: description.or_else(|| metadata.description.clone()),
        labels: metadata.labels.clone(),
        annotations: metadata.annotations.clone(),
        network,
        notify: Vec::new(),
        components: BTreeMap::new(),
    };
    let names: Vec<String> = drafts
        .iter()
        .filter_map(|draft| Some(draft.id.as_ref()?.0.to_string()))
        .collect();
    if let Some(field) = notify {
        let ids = names.iter().map(String::as_str);
        pipeline.notify =
            notifications::of_pipeline(field, &pipeline.key, ids, &options.base_dir, findings);
    }
    let peers = peers(&pipeline.key, &names, &drafts);
    let mut written = BTreeMap::new();
    for draft in drafts {
        let (Some((id, _)), Some(program)) = (draft.id.clone(), &draft.program) else {
            continue;
        };
        let resolver = Resolver {
            pipeline: &pipeline.key,
            component: &id,
            driver: program.driver(),
            peers: &peers,
            ids,
        };
        let places = draft.written(&defaults);
        if let Some(spec) = draft.resolve(&defaults, &resolver, findings) {
            written.insert(id.clone(), places);
            pipeline.components.insert(id, spec);
        }
    }
    combinations::check(&pipeline.components, &written, findings);
    for (id, at) in &written {
        if let Some(spec) = pipeline.components.get(id) {
            kubernetes::check(spec, at, findings);
        }
    }
    kubernetes::check_shared_volumes(&pipeline.components, &written, findings);
    pipeline
}

/// What each component is to those that refer to it.
fn peers<'i>(
    pipeline: &PipelineKey,
    ids: &'i [String],
    drafts: &[Draft<'_>],
) -> BTreeMap<&'i str, Peer> {
    let identified = drafts.iter().filter(|draft| draft.id.is_some());
    let peer = |draft: &Draft<'_>| match (&draft.program, &draft.id) {
        (Some(program), Some((id, _))) => Peer::Known(Target {
            driver: program.driver(),
            name: program.name(pipeline, id),
            ports: draft.ports.iter().map(|draft| draft.port.clone()).collect(),
        }),
        (None, _) | (_, None) => Peer::Faulty,
    };
    ids.iter()
        .map(String::as_str)
        .zip(identified.map(peer))
        .collect()
}

fn components<'t>(
    fields: &mut Fields<'t>,
    placement: &Placement<'_>,
    findings: &mut Findings<'_>,
) -> (Vec<Draft<'t>>, Ids) {
    let lists = [
        (fields.get("sources"), Role::Source),
        (fields.get("processors"), Role::Processor),
        (
            fields.get_or_legacy(findings, "sinks", &["consumers"]),
            Role::Sink,
        ),
        // A whole pipeline in one image produces what it consumes: nothing feeds it.
        (fields.get("pipelines"), Role::Source),
    ];
    let names = &["sources", "processors", "sinks"];
    let mut ids = match fields.misspells(names) {
        true => Ids::SomeUnread,
        false => Ids::AllKnown,
    };
    let mut drafts: Vec<Draft<'t>> = Vec::new();
    let mut written = 0;
    let mut faulty = false;
    for (field, role) in lists {
        let Some(field) = field else { continue };
        let Some(items) = field.list(findings) else {
            faulty = true;
            continue;
        };
        written += items.len();
        if written > MAX_COMPONENTS {
            findings.error(
                field.key_at,
                format!("the pipeline has more than {MAX_COMPONENTS} components"),
                Some("split it into several pipelines".to_owned()),
            );
            return (Vec::new(), Ids::SomeUnread);
        }
        for node in items {
            if field.name == "pipelines" {
                require_image(node, findings);
            }
            drafts.extend(Draft::read(node, role, placement, findings));
        }
    }
    if written == 0 && !faulty {
        let fix = "add at least one to `sources`, `processors` or `sinks`".to_owned();
        fields.missing(names, fields.at, "the pipeline has no components", fix);
    }
    if faulty || drafts.len() < written || drafts.iter().any(|draft| draft.id.is_none()) {
        ids = Ids::SomeUnread;
    }
    (drafts, ids)
}

fn require_image(node: &Node<'_>, findings: &mut Findings<'_>) {
    if let Value::Map(entries) = &node.value
        && !entries.iter().any(|entry| entry.key == "image")
    {
        findings.error(
            entries.first().map_or(node.at, |entry| entry.key_at),
            "an entry of `pipelines` needs an image",
            Some("add `image`, or move it to `sources`".to_owned()),
        );
    }
}
