//! One component: from its mapping to a draft, and from the draft to its specification.
//!
//! A draft needs nothing but its own text. The specification needs its neighbours: references
//! resolve to their addresses, and dependencies must name them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::image::ImageRequirement;
use crate::model::{
    ComponentId, ComponentSpec, Condition, Dependency, DriverKind, HumanDuration, LogLimits,
    Registration, Resources, Rlimits, Role, SecretSpec, SpecHash, StopTarget, Umask, Volume,
    revision,
};

use super::attachments::{self, PortDraft, from_base};
use super::clients;
use super::combinations::Written;
use super::fields::{Field, Fields, Text, owned, scalar};
use super::health::ProbesDraft;
use super::limits;
use super::policy::{RestartDraft, StopDraft};
use super::problem::{Findings, Span, shown};
use super::progress::ProgressDraft;
use super::references::Resolver;
use super::suggest;
use super::tree::{Node, Value};
use super::workload::{Placement, Program};
use super::yaml;

/// Without a readiness probe a component that lived this long counts as ready.
const READY_AFTER: HumanDuration = HumanDuration::from_secs(1);

/// More copies of one component than this is a typing mistake.
const MAX_REPLICAS: u32 = 1_000;

/// What `spec` gives to each of its components.
#[derive(Default)]
pub(super) struct Defaults<'t> {
    pub env: BTreeMap<&'t str, Text<'t>>,
    pub restart: RestartDraft,
    pub stop: StopDraft,
    pub probes: ProbesDraft<'t>,
    /// `spec.network`.
    pub network: Option<String>,
    /// `spec.images`.
    pub images: Option<ImageRequirement>,
}

impl Defaults<'_> {
    /// About how much memory they take in each component.
    pub(super) fn bytes(&self) -> usize {
        let entry = |(name, value): (&&str, &Text<'_>)| 64 + name.len() + value.text.len();
        self.env.iter().map(entry).sum::<usize>() + self.probes.bytes()
    }
}

/// A component as written, each part checked by itself.
pub(super) struct Draft<'t> {
    /// `None` when it is missing or wrong, which was reported.
    pub id: Option<(ComponentId, Span)>,
    pub role: Role,
    pub program: Option<Program<'t>>,
    kind: Option<String>,
    env: BTreeMap<&'t str, Text<'t>>,
    env_file: Vec<PathBuf>,
    inherit_env: Vec<String>,
    pub inputs: Vec<(ComponentId, Span)>,
    pub depends_on: Vec<(ComponentId, Condition, Span)>,
    pub ports: Vec<PortDraft>,
    probes: ProbesDraft<'t>,
    progress: Option<ProgressDraft<'t>>,
    restart: RestartDraft,
    stop: StopDraft,
    ready_after: HumanDuration,
    pub replicas: u32,
    pub replicas_at: Span,
    resources: Resources,
    rlimits: Rlimits,
    volumes: Vec<Volume>,
    secrets: Vec<SecretSpec>,
    user: Option<String>,
    umask: Umask,
    allow_new_privileges: bool,
    logs: LogLimits,
    input_event_types: Vec<String>,
    output_event_types: Vec<String>,
    registration: Registration,
    config: Option<&'t Node<'t>>,
    written: Written,
}

impl<'t> Draft<'t> {
    /// Reads the mapping `node`; `None` when it is none.
    pub(super) fn read(
        node: &'t Node<'t>,
        role: Role,
        placement: &Placement<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let mut fields = Fields::open(node, "a component", findings)?;
        let f = &mut fields;
        let id = id(f, findings);
        let kind = f.get("type").and_then(|field| field.word(findings));
        let program = Program::read(f, kind, placement, findings);
        // A component that cannot run anywhere is read on as a process, to find its other mistakes.
        let driver = program
            .as_ref()
            .map_or(placement.fallback(), Program::driver);
        let base = placement.base;
        let mut probes = ProbesDraft::read(f, findings);
        probes.read_shorthands(f, findings);
        let replicas = f.get("replicas");
        let ready_after = f.get_cased(findings, "ready_after");
        let registration = f.get("registration");
        let pull_at = f.position("pull");
        let keys = [
            "user",
            "inherit_env",
            "volumes",
            "resources",
            "allow_new_privileges",
        ];
        let keys = keys
            .into_iter()
            .filter_map(|name| Some((name, f.position(name)?)));
        let keys = keys.collect();
        let has_image = f.position("image").is_some();
        let (secrets, secrets_at) = attachments::secrets(f, base, findings);
        let event_types = |field: Option<Field<'t>>, findings: &mut Findings<'_>| {
            owned(
                field
                    .and_then(|field| field.words(findings))
                    .unwrap_or_default(),
            )
        };
        let draft = Self {
            id,
            role,
            program,
            kind: kind.map(|kind| kind.text.to_owned()),
            env: f
                .get("env")
                .map(|field| environment(field, findings))
                .unwrap_or_default(),
            env_file: f
                .get_cased(findings, "env_file")
                .and_then(|field| field.words(findings))
                .unwrap_or_default()
                .iter()
                .map(|file| from_base(base, file.text))
                .collect(),
            inherit_env: f
                .get_cased(findings, "inherit_env")
                .map(|field| inherit_env(field, findings))
                .unwrap_or_default(),
            inputs: f
                .get("inputs")
                .map(|field| inputs(field, findings))
                .unwrap_or_default(),
            depends_on: f
                .get_or_legacy(findings, "depends_on", &["dependsOn"])
                .map(|field| depends_on(field, findings))
                .unwrap_or_default(),
            ports: attachments::ports(f, findings),
            probes,
            progress: f
                .get("progress")
                .and_then(|field| ProgressDraft::read(field, findings)),
            restart: RestartDraft::read(f, findings),
            stop: stop(f, driver, findings),
            ready_after: ready_after
                .and_then(|field| field.duration(findings, HumanDuration::default()))
                .unwrap_or(READY_AFTER),
            replicas: replicas
                .and_then(|field| field.small(findings, 0..=MAX_REPLICAS))
                .unwrap_or(1),
            replicas_at: replicas.map(|field| field.node.at).unwrap_or_default(),
            resources: limits::resources(f, driver, findings),
            rlimits: limits::rlimits(f, driver, findings),
            volumes: attachments::volumes(f, driver, base, findings),
            secrets,
            user: f
                .get("user")
                .and_then(|field| field.word(findings))
                .map(|word| word.text.to_owned()),
            umask: umask(f, driver, findings),
            allow_new_privileges: f
                .get_cased(findings, "allow_new_privileges")
                .and_then(|field| field.truth(findings))
                .unwrap_or_default(),
            logs: limits::logs(f, findings),
            input_event_types: {
                let field = f.get_or_legacy(findings, "input_event_types", &["inputEventTypes"]);
                event_types(field, findings)
            },
            output_event_types: {
                let field = f.get_or_legacy(findings, "output_event_types", &["outputEventTypes"]);
                event_types(field, findings)
            },
            registration: registration
                .and_then(|field| {
                    let words = [
                        ("optional", Registration::Optional),
                        ("required", Registration::Required),
                    ];
                    field.choice(findings, &words)
                })
                .unwrap_or_default(),
            config: f.get("config").map(|field| config(field, findings)),
            written: Written {
                ready_after: ready_after.map(|field| field.key_at),
                registration: registration.map(|field| field.key_at),
                secrets: secrets_at,
                pull: pull_at,
                has_image,
                keys,
                ..Written::default()
            },
        };
        fields.close(findings);
        Some(draft)
    }

    /// Where its fields stand, for what is judged of all of them together.
    pub(super) fn written(&self, defaults: &Defaults<'_>) -> Written {
        let env = defaults.env.iter().chain(&self.env);
        Written {
            depends_on: self.depends_on.clone(),
            restart: self.restart.written().clone(),
            stop_signal: self.stop.signal_at(),
            probes: self.probes.written(),
            progress: self.progress.as_ref().map(ProgressDraft::at),
            has_health_port: self.probes.health_port.is_some(),
            ports: self.ports.iter().map(|draft| draft.at).collect(),
            env: env
                .filter(|(name, _)| is_told(name))
                .map(|(name, text)| ((*name).to_owned(), text.at))
                .collect(),
            ..self.written.clone()
        }
    }

    /// The ports that this component takes on the host when a process runs it.
    pub(super) fn health_port(&self) -> Option<(u16, Span)> {
        self.probes.health_port
    }

    /// The specification; `None` when a part is missing, which was reported.
    pub(super) fn resolve(
        self,
        defaults: &Defaults<'t>,
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<ComponentSpec> {
        let (id, _) = self.id?;
        let ports: Vec<_> = self.ports.into_iter().map(|draft| draft.port).collect();
        let mut env = BTreeMap::new();
        for (name, text) in &defaults.env {
            if !self.env.contains_key(name) {
                let value = resolver.variable(name, *text, findings);
                env.insert((*name).to_owned(), value);
            }
        }
        for (name, text) in &self.env {
            let value = resolver.variable(name, *text, findings);
            env.insert((*name).to_owned(), value);
        }
        let config = self.config.map(|node| {
            yaml::free_form(node, &mut |node, text| {
                resolver.text(Text { text, at: node.at }, findings)
            })
        });
        let dependencies = dependencies(&self.inputs, &self.depends_on);
        let mut spec = ComponentSpec {
            role: self.role,
            hash: SpecHash::new(""),
            workload: self.program?.resolve(
                resolver,
                defaults.network.as_deref(),
                defaults.images.as_ref(),
                findings,
            ),
            kind: self.kind,
            env,
            env_file: self.env_file,
            inherit_env: self.inherit_env,
            inputs: self.inputs.into_iter().map(|(id, _)| id).collect(),
            dependencies,
            probes: self
                .probes
                .resolve(&defaults.probes, &ports, resolver, findings),
            progress: self
                .progress
                .and_then(|draft| draft.resolve(&ports, resolver, findings)),
            ports,
            restart: self.restart.resolve(&defaults.restart, findings),
            stop: self.stop.resolve(&defaults.stop),
            ready_after: self.ready_after,
            replicas: self.replicas,
            resources: self.resources,
            rlimits: self.rlimits,
            volumes: self.volumes,
            secrets: self.secrets,
            user: self.user,
            umask: self.umask,
            allow_new_privileges: self.allow_new_privileges,
            logs: self.logs,
            input_event_types: self.input_event_types,
            output_event_types: self.output_event_types,
            registration: self.registration,
            config,
            id,
        };
        spec.hash = revision::of(&spec);
        Some(spec)
    }
}

/// Whether a variable is one of those that flowctl gives a meaning.
fn is_told(name: &str) -> bool {
    name.starts_with("FLOWCTL_") || matches!(name, "ENABLE_FLOWCTL" | "CONTROL_PLANE_ENDPOINT")
}

/// Reads `config`, which files of the field have.
fn config<'t>(field: Field<'t>, findings: &mut Findings<'_>) -> &'t Node<'t> {
    findings.warn(
        field.key_at,
        "`config` reaches no program: no client of the field asks for it",
        "write what the program reads into `env`, in its own names".to_owned(),
    );
    field.node
}

fn id(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Option<(ComponentId, Span)> {
    let Some(field) = fields.get_or_legacy(findings, "id", &["name"]) else {
        let fix = "add `id: NAME`".to_owned();
        fields.missing(&["id", "name"], fields.at, "the component has no `id`", fix);
        return None;
    };
    let word = field.word(findings)?;
    match word.text.parse() {
        Ok(id) => Some((id, word.at)),
        Err(error) => {
            let fix = suggest::label(word.text).map(|label| format!("did you mean `{label}`?"));
            findings.error(word.at, error.to_string(), fix);
            None
        }
    }
}

/// Reads `env`, of a component or of a pipeline.
pub(super) fn environment<'t>(
    field: Field<'t>,
    findings: &mut Findings<'_>,
) -> BTreeMap<&'t str, Text<'t>> {
    if matches!(field.node.value, Value::List(_)) {
        field.mismatch(
            findings,
            "a mapping",
            Some("write `NAME: value` lines, without `- `".to_owned()),
        );
        return BTreeMap::new();
    }
    if let Value::Map(entries) = &field.node.value {
        for entry in entries {
            let odd = |c: char| c.is_control() || c.is_whitespace() || c == '=';
            if entry.key.is_empty() || entry.key.chars().any(odd) {
                findings.error(
                    entry.key_at,
                    format!("`{}` cannot be the name of a variable", shown(&entry.key)),
                    Some("use letters, digits and `_`".to_owned()),
                );
            }
        }
    }
    let env = field.text_map(findings).unwrap_or_default();
    clients::check(&env, findings);
    env
}

fn inherit_env(field: Field<'_>, findings: &mut Findings<'_>) -> Vec<String> {
    let words = field.words(findings).unwrap_or_default();
    for word in &words {
        let name = word.text.strip_suffix('*').unwrap_or(word.text);
        if name.contains(['*', '=', ' ']) {
            findings.error(
                word.at,
                format!("`{}` is neither a variable nor a prefix", shown(word.text)),
                Some("write a name, or a prefix with one `*` at its end, like `AWS_*`".to_owned()),
            );
        }
    }
    owned(words)
}

/// Reads `stop`. What runs in a container is signalled by its engine, which knows its main program
/// only.
fn stop(fields: &mut Fields<'_>, driver: DriverKind, findings: &mut Findings<'_>) -> StopDraft {
    let draft = StopDraft::read(fields, findings);
    if let Some((StopTarget::All | StopTarget::Group, at)) = draft.target()
        && driver != DriverKind::Process
    {
        limits::no_effect(at, "to", driver, findings);
    }
    draft
}

/// Reads `umask`. An image brings its own.
fn umask(fields: &mut Fields<'_>, driver: DriverKind, findings: &mut Findings<'_>) -> Umask {
    let Some(field) = fields.get("umask") else {
        return Umask::default();
    };
    let umask = field.parsed(findings).unwrap_or_default();
    if driver == DriverKind::Process {
        return umask;
    }
    limits::no_effect(field.key_at, "umask", driver, findings);
    Umask::default()
}

fn inputs(field: Field<'_>, findings: &mut Findings<'_>) -> Vec<(ComponentId, Span)> {
    let texts = field.texts_or_one(findings).unwrap_or_default();
    texts
        .into_iter()
        .filter_map(|text| Some((neighbour(text, findings)?, text.at)))
        .collect()
}

/// The id of another component. Whether there is one is the graph's business.
fn neighbour(text: Text<'_>, findings: &mut Findings<'_>) -> Option<ComponentId> {
    match text.text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            let fix = suggest::label(text.text).map(|label| format!("did you mean `{label}`?"));
            findings.error(text.at, error.to_string(), fix);
            None
        }
    }
}

/// The conditions, with the spellings of compose files.
const CONDITIONS: [(&str, Condition); 3] = [
    ("started", Condition::Started),
    ("ready", Condition::Ready),
    ("completed", Condition::Completed),
];
const COMPOSE_CONDITIONS: [(&str, &str); 4] = [
    ("service_started", "started"),
    ("service_healthy", "ready"),
    ("healthy", "ready"),
    ("service_completed_successfully", "completed"),
];

fn depends_on(
    field: Field<'_>,
    findings: &mut Findings<'_>,
) -> Vec<(ComponentId, Condition, Span)> {
    if matches!(field.node.value, Value::Scalar(_)) {
        return inputs(field, findings)
            .into_iter()
            .map(|(id, at)| (id, Condition::Ready, at))
            .collect();
    }
    let mut edges = Vec::new();
    for node in field.list(findings).unwrap_or_default() {
        if let Some(text) = scalar(node) {
            let id = neighbour(Text { text, at: node.at }, findings);
            edges.extend(id.map(|id| (id, Condition::Ready, node.at)));
            continue;
        }
        let Some(mut fields) = Fields::open(node, "a dependency", findings) else {
            continue;
        };
        let at = fields.at;
        let id = fields.get("id");
        if id.is_none() {
            let fix = "write `{id: NAME, condition: ready}`".to_owned();
            fields.missing(&["id"], at, "the dependency has no `id`", fix);
        }
        let id = id
            .and_then(|field| field.text(findings))
            .and_then(|text| Some((neighbour(text, findings)?, text.at)));
        let condition = fields
            .get("condition")
            .and_then(|field| condition(field, findings));
        fields.close(findings);
        edges.extend(id.map(|(id, at)| (id, condition.unwrap_or_default(), at)));
    }
    edges
}

fn condition(field: Field<'_>, findings: &mut Findings<'_>) -> Option<Condition> {
    let written = scalar(field.node).map(AsRef::as_ref);
    if let Some((old, new)) = COMPOSE_CONDITIONS
        .iter()
        .find(|(old, _)| Some(*old) == written)
    {
        findings.warn(
            field.node.at,
            format!("`{old}` is another tool's spelling"),
            Some(format!("write `{new}`")),
        );
        return CONDITIONS
            .iter()
            .find(|(name, _)| name == new)
            .map(|(_, condition)| *condition);
    }
    field.choice(findings, &CONDITIONS)
}

/// `inputs` and `depends_on` together, one entry per id. What `depends_on` says goes: an input is
/// also waited for, but the condition is written there only.
fn dependencies(
    inputs: &[(ComponentId, Span)],
    depends_on: &[(ComponentId, Condition, Span)],
) -> Vec<Dependency> {
    let explicit = depends_on.iter().map(|(id, condition, _)| (id, *condition));
    let implied = inputs.iter().map(|(id, _)| (id, Condition::Ready));
    let mut seen = BTreeSet::new();
    let mut all = Vec::with_capacity(inputs.len() + depends_on.len());
    for (id, condition) in explicit.chain(implied) {
        if seen.insert(id) {
            all.push(Dependency {
                id: id.clone(),
                condition,
            });
        }
    }
    all
}
