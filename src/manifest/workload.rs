//! What a component runs and where: `driver`, `image`, `binary`, `command`, `args`, `working_dir`.

use std::path::{Path, PathBuf};

use crate::model::image::ImageRequirement;
use crate::model::{
    ComponentId, ContainerSpec, DriverKind, ImagePullPolicy, KubernetesOptions, KubernetesSpec,
    NomadSpec, PipelineKey, ProcessSpec, Workload,
};

use super::Orchestrator;
use super::attachments::from_base;
use super::drivers::kubernetes;
use super::fields::{Field, Fields, Text, scalar};
use super::problem::{Findings, shown};
use super::references::Resolver;
use super::tree::Value;

/// What the pipeline and the command line say about where components run.
pub(super) struct Placement<'p> {
    /// The folder that relative paths are meant from.
    pub base: &'p Path,
    /// `--orchestrator`: goes over whatever the file says.
    pub forced: Option<Orchestrator>,
    /// `spec.driver`.
    pub driver: Option<DriverKind>,
    pub cluster: Cluster,
}

impl Placement<'_> {
    /// Where a component that says nothing usable would run.
    pub(super) fn fallback(&self) -> DriverKind {
        let said = self.forced.map(Orchestrator::driver).or(self.driver);
        said.unwrap_or(DriverKind::Process)
    }
}

impl Orchestrator {
    /// Who runs components there.
    fn driver(self) -> DriverKind {
        match self {
            Self::Process => DriverKind::Process,
            Self::Container => DriverKind::Docker,
            Self::Kubernetes => DriverKind::Kubernetes,
            Self::Nomad => DriverKind::Nomad,
        }
    }
}

/// `spec.nomad` and `spec.kubernetes`.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    address: Option<String>,
    datacenter: Option<String>,
    nomad_namespace: Option<String>,
    kubernetes_namespace: Option<String>,
    pods: kubernetes::Draft,
}

impl Cluster {
    /// Reads both mappings of `spec`.
    pub(super) fn read(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Self {
        // Each component carries a copy, so these are held to the length of a host name.
        let word = |fields: &mut Fields<'_>, name, findings: &mut Findings<'_>| {
            let field = fields.get(name)?;
            let word = field.word(findings)?;
            if word.text.len() > 253 {
                field.mismatch(findings, "at most 253 characters long", None);
            }
            Some(word.text.to_owned())
        };
        let mut cluster = Self::default();
        if let Some(mut nomad) = fields
            .get("nomad")
            .and_then(|f| f.fields("`nomad`", findings))
        {
            cluster.address = word(&mut nomad, "address", findings);
            cluster.datacenter = word(&mut nomad, "datacenter", findings);
            cluster.nomad_namespace = word(&mut nomad, "namespace", findings);
            nomad.close(findings);
        }
        if let Some(field) = fields.get("kubernetes") {
            (cluster.kubernetes_namespace, cluster.pods) = kubernetes::of_pipeline(field, findings);
        }
        cluster
    }
}

/// A driver as written: one of the four, or no preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Driver(DriverKind),
    NoPreference,
}

const DRIVERS: [(&str, Choice); 4] = [
    ("process", Choice::Driver(DriverKind::Process)),
    ("docker", Choice::Driver(DriverKind::Docker)),
    ("nomad", Choice::Driver(DriverKind::Nomad)),
    ("kubernetes", Choice::Driver(DriverKind::Kubernetes)),
];
const OLD_DRIVERS: [(&str, Choice, &str); 4] = [
    (
        "container",
        Choice::Driver(DriverKind::Docker),
        "write `docker`",
    ),
    (
        "k8s",
        Choice::Driver(DriverKind::Kubernetes),
        "write `kubernetes`",
    ),
    (
        "local",
        Choice::Driver(DriverKind::Process),
        "write `process`",
    ),
    (
        "dag",
        Choice::NoPreference,
        "leave `driver` out: each component decides",
    ),
];

/// Reads `driver` and its old name `executor`, of a pipeline or of a component.
pub(super) fn driver(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Option<DriverKind> {
    let current = fields.get("driver");
    let old = fields.get("executor");
    if let Some(old) = old {
        findings.warn(
            old.key_at,
            "`executor` is an old spelling",
            Some("write `driver`".to_owned()),
        );
    }
    let chosen = current.and_then(|field| choice(field, findings));
    let also = old.and_then(|field| choice(field, findings));
    if let (Some(field), Some(first), Some(a), Some(b)) = (old, current, chosen, also)
        && a != b
    {
        findings.clash(
            field.node.at,
            "`executor` and `driver` disagree",
            first.node.at,
            "the other one",
        );
    }
    match chosen.or(also)? {
        Choice::Driver(driver) => Some(driver),
        Choice::NoPreference => None,
    }
}

fn choice(field: Field<'_>, findings: &mut Findings<'_>) -> Option<Choice> {
    let old =
        scalar(field.node).and_then(|text| OLD_DRIVERS.iter().find(|(name, ..)| name == text));
    if let Some((name, choice, fix)) = old {
        findings.warn(
            field.node.at,
            format!("`{name}` is an old spelling"),
            Some((*fix).to_owned()),
        );
        return Some(*choice);
    }
    field.choice(findings, &DRIVERS)
}

/// What a component runs, its references not resolved yet.
pub(super) struct Program<'t> {
    args: Vec<Text<'t>>,
    place: Place<'t>,
}

enum Place<'t> {
    Process {
        program: Text<'t>,
        before: Vec<Text<'t>>,
        working_dir: PathBuf,
    },
    Docker(ContainerDraft<'t>),
    Nomad(ContainerDraft<'t>, Cluster),
    Kubernetes(ContainerDraft<'t>, Option<String>, KubernetesOptions),
}

struct ContainerDraft<'t> {
    image: String,
    command: Option<Vec<Text<'t>>>,
    working_dir: Option<String>,
    pull: Option<ImagePullPolicy>,
}

impl<'t> Program<'t> {
    /// Reads the fields; `None` when they name nothing that can run, which is reported.
    pub(super) fn read(
        fields: &mut Fields<'t>,
        kind: Option<Text<'t>>,
        placement: &Placement<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let at = fields.at;
        let asked = driver(fields, findings);
        let written = ["image", "binary", "command"].map(|name| fields.get(name));
        let [image, binary, command] = written;
        let image = image.and_then(|f| f.word(findings));
        let binary = binary.and_then(|f| f.word(findings));
        let command = command.and_then(|f| self::command(f, findings));
        let read = [image.is_some(), binary.is_some(), command.is_some()];
        // What was written and is wrong was reported; that it is missing would be a second word
        // about one mistake.
        let faulty = written
            .iter()
            .zip(read)
            .any(|(written, read)| written.is_some() && !read);
        let args = fields
            .get("args")
            .and_then(|f| f.texts_or_one(findings))
            .unwrap_or_default();
        let working_dir = fields
            .get_or_legacy(findings, "working_dir", &["workingDir"])
            .and_then(|f| f.word(findings));
        let pull =
            fields.get_or_legacy(findings, "pull", &["image_pull_policy", "imagePullPolicy"]);
        let pull = pull.and_then(|f| pull_policy(f, findings));
        let pods = fields.get("kubernetes");
        let pods = pods.map(|f| kubernetes::of_component(f, findings));
        let runs = binary.is_some() || command.is_some();
        let image = match (image, kind) {
            (Some(image), _) => Some(image.text.to_owned()),
            (None, Some(kind)) if !runs => registry_image(kind, findings),
            (None, _) => None,
        };
        if faulty {
            return None;
        }
        let driver = match (placement.forced, asked.or(placement.driver)) {
            (Some(forced), _) => forced.driver(),
            (None, Some(driver)) => driver,
            (None, None) if image.is_some() => DriverKind::Docker,
            (None, None) => DriverKind::Process,
        };
        if driver == DriverKind::Process {
            let mut words = match (binary, command) {
                (Some(binary), Some(command)) if image.is_none() => {
                    findings.clash(
                        command[0].at,
                        "`command` and `binary` both name the program",
                        binary.at,
                        "keep one of the two; arguments go to `args`",
                    );
                    return None;
                }
                (Some(binary), _) => vec![binary],
                (None, Some(command)) => command,
                (None, None) => {
                    let (message, fix) = match (&image, placement.forced) {
                        (Some(_), Some(_)) => (
                            "the process driver cannot run an image",
                            "add `binary` or `command`, or run it as a container",
                        ),
                        (Some(_), None) => (
                            "the process driver cannot run an image",
                            "write `driver: docker`, or add the `binary` or `command` of a process",
                        ),
                        (None, Some(_)) => (
                            "the component names nothing to run",
                            "add `binary` or `command`, or run it as a container",
                        ),
                        (None, None) => (
                            "the component names nothing to run",
                            "add `binary` or `command`, or an `image` for a container",
                        ),
                    };
                    let names = &["binary", "command", "image"];
                    fields.missing(names, at, message, fix.to_owned());
                    return None;
                }
            };
            let program = words.remove(0);
            let working_dir = from_base(placement.base, working_dir.map_or("", |dir| dir.text));
            return Some(Self {
                args,
                place: Place::Process {
                    program,
                    before: words,
                    working_dir,
                },
            });
        }
        let Some(image) = image else {
            let fix = match runs {
                true => "add `image`, or use the driver `process`",
                false => "add `image`",
            };
            let message = format!("the {driver} driver needs an image");
            fields.missing(&["image"], at, message, fix.to_owned());
            return None;
        };
        let inside = working_dir.filter(|dir| dir.text.starts_with('/'));
        if let (Some(dir), None) = (working_dir, inside) {
            // It is one of the host's, for the component run as a process.
            findings.warn(
                dir.at,
                "a relative `working_dir` has no effect on a container",
                "it starts where its image says; write an absolute path inside the image"
                    .to_owned(),
            );
        }
        let command = match (command, binary) {
            (Some(command), _) => Some(command),
            // A program of the host means nothing in an image that has its own.
            (None, Some(_)) | (None, None) => None,
        };
        let container = ContainerDraft {
            image,
            command,
            working_dir: inside.map(|dir| dir.text.to_owned()),
            pull,
        };
        let place = match driver {
            DriverKind::Nomad => Place::Nomad(container, placement.cluster.clone()),
            DriverKind::Kubernetes => Place::Kubernetes(
                container,
                placement.cluster.kubernetes_namespace.clone(),
                pods.unwrap_or_default().resolve(&placement.cluster.pods),
            ),
            DriverKind::Docker | DriverKind::Process => Place::Docker(container),
        };
        Some(Self { args, place })
    }

    /// Where it runs.
    pub(super) fn driver(&self) -> DriverKind {
        match self.place {
            Place::Process { .. } => DriverKind::Process,
            Place::Docker(_) => DriverKind::Docker,
            Place::Nomad(..) => DriverKind::Nomad,
            Place::Kubernetes(..) => DriverKind::Kubernetes,
        }
    }

    /// The name by which others reach the component `id` where its engine resolves names.
    pub(super) fn name(&self, pipeline: &PipelineKey, id: &ComponentId) -> String {
        match &self.place {
            Place::Process { .. } | Place::Docker(_) | Place::Nomad(..) => id.to_string(),
            Place::Kubernetes(_, namespace, _) => {
                kubernetes::host(pipeline, id, namespace.as_deref())
            }
        }
    }

    /// The workload, its references resolved; a container of Docker's is on `network`, and `verify` must
    /// hold of its image.
    pub(super) fn resolve(
        self,
        resolver: &Resolver<'_>,
        network: Option<&str>,
        verify: Option<&ImageRequirement>,
        findings: &mut Findings<'_>,
    ) -> Workload {
        let mut args = resolver.texts(&self.args, findings);
        let mut container = |draft: ContainerDraft<'t>, args: Vec<String>| ContainerSpec {
            image: draft.image,
            command: draft
                .command
                .map(|command| resolver.texts(&command, findings)),
            args,
            working_dir: draft.working_dir,
            pull: draft.pull,
            network: None,
            verify: verify.cloned(),
        };
        match self.place {
            Place::Docker(draft) => Workload::Docker(ContainerSpec {
                network: network.map(str::to_owned),
                ..container(draft, args)
            }),
            Place::Nomad(draft, cluster) => Workload::Nomad(NomadSpec {
                container: container(draft, args),
                address: cluster.address,
                datacenter: cluster.datacenter,
                namespace: cluster.nomad_namespace,
            }),
            Place::Kubernetes(draft, namespace, options) => Workload::Kubernetes(KubernetesSpec {
                container: container(draft, args),
                namespace,
                options,
            }),
            Place::Process {
                program,
                before,
                working_dir,
            } => {
                let mut all = resolver.texts(&before, findings);
                all.append(&mut args);
                Workload::Process(ProcessSpec {
                    program: resolver.text(program, findings),
                    args: all,
                    working_dir,
                })
            }
        }
    }
}

/// `command`: the program and its first arguments.
fn command<'t>(field: Field<'t>, findings: &mut Findings<'_>) -> Option<Vec<Text<'t>>> {
    if let Value::Scalar(scalar) = &field.node.value
        && scalar.text.trim().contains(char::is_whitespace)
    {
        let words: Vec<&str> = scalar.text.split_whitespace().take(4).collect();
        findings.error(
            field.node.at,
            "`command` must be a list, since no shell splits it into words",
            Some(format!(
                "write `[{}]`, or `[sh, -c, \"...\"]` for a shell",
                shown(&words.join(", "))
            )),
        );
        return None;
    }
    let words = field.texts_or_one(findings)?;
    if words
        .first()
        .is_none_or(|program| program.text.trim().is_empty())
    {
        findings.error(
            field.key_at,
            "`command` names no program",
            Some("write `command: [program, argument]`".to_owned()),
        );
        return None;
    }
    Some(words)
}

fn pull_policy(field: Field<'_>, findings: &mut Findings<'_>) -> Option<ImagePullPolicy> {
    let words = [
        ("always", ImagePullPolicy::Always),
        ("if-not-present", ImagePullPolicy::IfNotPresent),
        ("never", ImagePullPolicy::Never),
    ];
    let kubernetes = [
        ("Always", words[0].1),
        ("IfNotPresent", words[1].1),
        ("Never", words[2].1),
    ];
    let old = scalar(field.node).and_then(|text| kubernetes.iter().find(|(name, _)| name == text));
    match old {
        Some((_, policy)) => Some(*policy),
        None => field.choice(findings, &words),
    }
}

/// The image that `type: name@version` stands for in upstream's registry.
fn registry_image(kind: Text<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let (name, version) = kind.text.split_once('@')?;
    let path = if name.contains('/') {
        name.to_owned()
    } else {
        format!("withobsrvr/{name}")
    };
    let image = format!("docker.io/{path}:{version}");
    findings.warn(
        kind.at,
        format!("`type` is read as the image {}", shown(&image)),
        Some("write it as `image`".to_owned()),
    );
    Some(image)
}
