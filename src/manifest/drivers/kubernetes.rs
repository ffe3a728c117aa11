//! `spec.kubernetes`, `kubernetes` of a component, and what a component that Kubernetes runs may say at
//! all: what a cluster cannot do is told while the file is read, not once it is there.

use std::collections::BTreeMap;

use crate::manifest::combinations::Written;
use crate::manifest::fields::{Field, Fields, owned};
use crate::manifest::limits::{amount, no_effect};
use crate::manifest::problem::{Findings, Span, shown};
use crate::manifest::quantity;
use crate::manifest::tree::Node;
use crate::model::kubernetes::service_host;
use crate::model::{
    ClusterSecret, ComponentId, ComponentSpec, DriverKind, KubernetesOptions, PipelineKey, Probe,
    ProbeCheck, SecretSource, SecurityProfile, Storage, StorageAccess, TaintEffect, Toleration,
    VolumeSource, Workload,
};

/// The least that is worth a volume: an amount under it is a missing unit.
const LEAST_STORAGE: u64 = 1 << 20;
/// The longest name of a namespace.
const LONGEST_NAMESPACE: usize = 63;

/// Labels and annotations that other tools take things by: what bears them may be pruned, or rewritten.
const OF_OTHERS: [&str; 6] = [
    "app.kubernetes.io/instance",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "helm.sh/",
    "flowctl.dev/",
];

/// What a mapping of these fields says; what it does not say is left to the one around it.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    service_account: Option<String>,
    image_pull_secrets: Option<Vec<String>>,
    security: Option<SecurityProfile>,
    storage: Option<Storage>,
    node_selector: BTreeMap<String, String>,
    tolerations: Option<Vec<Toleration>>,
    priority_class: Option<String>,
    runtime_class: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    allow_host_ports: Option<bool>,
    allow_host_path: Option<bool>,
}

impl Draft {
    /// Reads the fields that a pipeline and a component both have.
    pub fn read(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Self {
        Self {
            service_account: word(fields, "service_account", findings),
            image_pull_secrets: fields
                .get_cased(findings, "image_pull_secrets")
                .and_then(|field| field.words(findings))
                .map(owned),
            security: fields.get("security").and_then(|field| {
                let words = [
                    ("same-as-docker", SecurityProfile::SameAsDocker),
                    ("restricted", SecurityProfile::Restricted),
                    ("image", SecurityProfile::Image),
                ];
                field.choice(findings, &words)
            }),
            storage: fields
                .get("storage")
                .and_then(|field| storage(field, findings)),
            node_selector: fields
                .get_cased(findings, "node_selector")
                .map(|field| field.plain_map(findings))
                .unwrap_or_default(),
            tolerations: fields
                .get("tolerations")
                .map(|field| tolerations(field, findings)),
            priority_class: word(fields, "priority_class", findings),
            runtime_class: word(fields, "runtime_class", findings),
            labels: marks(fields, "labels", findings),
            annotations: marks(fields, "annotations", findings),
            allow_host_ports: truth(fields, "allow_host_ports", findings),
            allow_host_path: truth(fields, "allow_host_path", findings),
        }
    }

    /// What holds for a component: its own words over those of its pipeline.
    pub fn resolve(self, around: &Self) -> KubernetesOptions {
        let Self {
            service_account,
            image_pull_secrets,
            security,
            storage,
            node_selector,
            tolerations,
            priority_class,
            runtime_class,
            labels,
            annotations,
            allow_host_ports,
            allow_host_path,
        } = self;
        KubernetesOptions {
            service_account: service_account.or_else(|| around.service_account.clone()),
            image_pull_secrets: image_pull_secrets
                .or_else(|| around.image_pull_secrets.clone())
                .unwrap_or_default(),
            security: security.or(around.security).unwrap_or_default(),
            storage: storage.or_else(|| around.storage.clone()),
            node_selector: over(&around.node_selector, node_selector),
            tolerations: tolerations
                .or_else(|| around.tolerations.clone())
                .unwrap_or_default(),
            priority_class: priority_class.or_else(|| around.priority_class.clone()),
            runtime_class: runtime_class.or_else(|| around.runtime_class.clone()),
            labels: over(&around.labels, labels),
            annotations: over(&around.annotations, annotations),
            allow_host_ports: allow_host_ports
                .or(around.allow_host_ports)
                .unwrap_or(false),
            allow_host_path: allow_host_path.or(around.allow_host_path).unwrap_or(false),
        }
    }
}

fn over(
    around: &BTreeMap<String, String>,
    own: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = around.clone();
    all.extend(own);
    all
}

/// Reads `spec.kubernetes`; answers also the cluster's namespace.
pub fn of_pipeline(field: Field<'_>, findings: &mut Findings<'_>) -> (Option<String>, Draft) {
    let Some(mut fields) = field.fields("`kubernetes`", findings) else {
        return (None, Draft::default());
    };
    let namespace = fields
        .get("namespace")
        .and_then(|field| namespace(field, findings));
    let draft = Draft::read(&mut fields, findings);
    fields.close(findings);
    (namespace, draft)
}

/// Reads `kubernetes` of a component.
pub fn of_component(field: Field<'_>, findings: &mut Findings<'_>) -> Draft {
    let Some(mut fields) = field.fields("`kubernetes` of a component", findings) else {
        return Draft::default();
    };
    fields.refuse(
        findings,
        "namespace",
        "a pipeline is in one namespace, so that its components reach each other: write it in `spec.kubernetes`",
    );
    let draft = Draft::read(&mut fields, findings);
    fields.close(findings);
    draft
}

/// Reads `kubernetes` of a secret: where the cluster has its value.
pub fn secret(field: Field<'_>, findings: &mut Findings<'_>) -> Option<ClusterSecret> {
    let mut fields = field.fields("`kubernetes` of a secret", findings)?;
    let at = fields.at;
    let secret = word(&mut fields, "secret", findings);
    let key = word(&mut fields, "key", findings);
    if secret.is_none() {
        let fix = "write the name of the cluster's Secret".to_owned();
        fields.missing(&["secret"], at, "no `secret` is named", fix);
    }
    if key.is_none() {
        let fix = "write which of the Secret's keys it is".to_owned();
        fields.missing(&["key"], at, "no `key` is named", fix);
    }
    fields.close(findings);
    Some(ClusterSecret {
        secret: secret?,
        key: key?,
    })
}

fn namespace(field: Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let word = field.word(findings)?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = word.text.len() <= LONGEST_NAMESPACE
        && word.text.chars().all(fits)
        && !word.text.starts_with('-')
        && !word.text.ends_with('-');
    if !is_label {
        field.mismatch(
            findings,
            "the name of a namespace: up to 63 lower-case letters, digits and `-`",
            None,
        );
        return None;
    }
    Some(word.text.to_owned())
}

fn word(
    fields: &mut Fields<'_>,
    name: &'static str,
    findings: &mut Findings<'_>,
) -> Option<String> {
    let field = fields.get_cased(findings, name)?;
    let word = field.word(findings)?;
    // Each component carries a copy, so these are held to the length of an object's name.
    if word.text.len() > 253 {
        field.mismatch(findings, "at most 253 characters long", None);
    }
    Some(word.text.to_owned())
}

fn truth(fields: &mut Fields<'_>, name: &'static str, findings: &mut Findings<'_>) -> Option<bool> {
    fields.get_cased(findings, name)?.truth(findings)
}

/// Labels or annotations of pods.
fn marks(
    fields: &mut Fields<'_>,
    name: &'static str,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, String> {
    let Some(field) = fields.get(name) else {
        return BTreeMap::new();
    };
    let marks = field.plain_map(findings);
    for key in marks.keys() {
        let taken = |own: &&&str| match own.strip_suffix('/') {
            Some(_) => key.starts_with(**own),
            None => key == **own,
        };
        if let Some(whose) = OF_OTHERS.iter().find(taken) {
            findings.error(
                field.key_at,
                format!(
                    "`{}` is not for pods of flowctl: {}",
                    shown(key),
                    match *whose {
                        "flowctl.dev/" => "it finds its own by them",
                        _ =>
                            "the tool whose it is would take them for its own, and may delete them",
                    }
                ),
                Some("leave it out".to_owned()),
            );
        }
    }
    marks
}

fn storage(field: Field<'_>, findings: &mut Findings<'_>) -> Option<Storage> {
    let mut fields = field.fields("`storage`", findings)?;
    let at = fields.at;
    let size = fields.get("size");
    if size.is_none() {
        let fix = "write how large each volume is, as in `size: 10Gi`".to_owned();
        fields.missing(&["size"], at, "`storage` has no `size`", fix);
    }
    let size =
        size.and_then(|field| amount(field, |text| quantity::bytes(text, LEAST_STORAGE), findings));
    let class = word(&mut fields, "class", findings);
    let access = fields.get("access").and_then(|field| {
        let words = [
            ("one-node", StorageAccess::OneNode),
            ("many-nodes", StorageAccess::ManyNodes),
        ];
        field.choice(findings, &words)
    });
    fields.close(findings);
    Some(Storage {
        size_bytes: size?,
        class,
        access: access.unwrap_or_default(),
    })
}

fn tolerations(field: Field<'_>, findings: &mut Findings<'_>) -> Vec<Toleration> {
    let items = field.list(findings).unwrap_or_default();
    items
        .iter()
        .filter_map(|node| toleration(node, findings))
        .collect()
}

fn toleration(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Toleration> {
    let mut fields = Fields::open(node, "a toleration", findings)?;
    let at = fields.at;
    let key = word(&mut fields, "key", findings);
    let value = fields
        .get("value")
        .and_then(|field| field.text(findings))
        .map(|text| text.text.to_owned());
    let effect = fields.get("effect").and_then(|field| {
        let words = [
            ("NoSchedule", TaintEffect::NoSchedule),
            ("PreferNoSchedule", TaintEffect::PreferNoSchedule),
            ("NoExecute", TaintEffect::NoExecute),
        ];
        field.choice(findings, &words)
    });
    let seconds = fields
        .get("seconds")
        .and_then(|field| field.small(findings, 0..=u32::MAX / 2));
    fields.close(findings);
    if key.is_none() && value.is_some() {
        findings.error(
            at,
            "a toleration of every taint has no `value`",
            Some("name the taint's `key`, or leave `value` out".to_owned()),
        );
    }
    if seconds.is_some() && effect != Some(TaintEffect::NoExecute) {
        findings.error(
            at,
            "only a taint of the effect NoExecute is put up with for a time",
            Some("add `effect: NoExecute`, or leave `seconds` out".to_owned()),
        );
    }
    Some(Toleration {
        key,
        value,
        effect,
        seconds,
    })
}

/// The name by which a component that this driver runs is reached.
pub fn host(pipeline: &PipelineKey, component: &ComponentId, namespace: Option<&str>) -> String {
    service_host(pipeline, component, namespace)
}

/// Whether no address leads from one to the other: pods have a network of their own.
pub fn is_cut_off(from: DriverKind, to: DriverKind) -> bool {
    (from == DriverKind::Kubernetes) != (to == DriverKind::Kubernetes)
}

/// Tells of all that a component says and a cluster cannot do, and of what only a cluster can do.
pub fn check(spec: &ComponentSpec, at: &Written, findings: &mut Findings<'_>) {
    let Workload::Kubernetes(pod) = &spec.workload else {
        of_others(spec, at, findings);
        return;
    };
    let place = |name: &str| at.keys.get(name).copied();
    let options = &pod.options;
    if let (Some(at), false) = (place("inherit_env"), spec.inherit_env.is_empty()) {
        findings.error(
            at,
            "a pod inherits no variables of the daemon, which may be on another machine",
            Some("write them into `env` or `env_file`, or hand them over as `secrets`".to_owned()),
        );
    }
    user(spec, options, place("user"), findings);
    volumes(spec, options, place("volumes"), findings);
    for (port, at) in spec.ports.iter().zip(&at.ports) {
        if port.host_port.is_some() && !options.allow_host_ports {
            findings.warn(
                *at,
                "`hostPort` has no effect on Kubernetes: other pods reach the component by its Service",
                "leave it out; `kubernetes: {allow_host_ports: true}` opens it on the node".to_owned(),
            );
        }
    }
    if let (Some(at), Some(_)) = (place("resources"), spec.resources.pids_limit) {
        no_effect(at, "pids", DriverKind::Kubernetes, findings);
    }
    if let (Some(at), Some(signal)) = (at.stop_signal, spec.stop.signal) {
        findings.warn(
            at,
            format!("a cluster sends {signal} only where it has ContainerStopSignals, which is on by default from Kubernetes 1.37 on; others send what the image says, else SIGTERM"),
            "put it into the image (STOPSIGNAL), where every cluster keeps it".to_owned(),
        );
    }
    if let (Some(at), true, SecurityProfile::Restricted) = (
        place("allow_new_privileges"),
        spec.allow_new_privileges,
        options.security,
    ) {
        findings.error(
            at,
            "`security: restricted` lets nobody have new privileges",
            Some("leave one of the two out".to_owned()),
        );
    }
    let probes = &spec.probes;
    for (name, probe) in [
        ("startup", &probes.startup),
        ("readiness", &probes.readiness),
        ("liveness", &probes.liveness),
    ] {
        if let (Some(probe), Some(at)) = (probe, at.probes.get(name)) {
            check_probe(name, probe, *at, findings);
        }
    }
}

fn check_probe(name: &str, probe: &Probe, at: Span, findings: &mut Findings<'_>) {
    let asked_by_kubelet = match &probe.check {
        ProbeCheck::Http(target) => {
            if let Some(host) = &target.host {
                findings.error(
                    at,
                    format!(
                        "the {name} probe asks {}, and a kubelet asks the pod itself only",
                        shown(host)
                    ),
                    Some("leave the host out, or ask by a program (`exec`)".to_owned()),
                );
            }
            true
        }
        ProbeCheck::Grpc { .. } | ProbeCheck::Tcp { .. } | ProbeCheck::Exec { .. } => true,
        ProbeCheck::Heartbeat { .. } => false,
    };
    let is_whole =
        |time: crate::model::HumanDuration| time.get().subsec_nanos() == 0 && !time.get().is_zero();
    if asked_by_kubelet && !(is_whole(probe.period) && is_whole(probe.timeout)) {
        findings.warn(
            at,
            format!("the times of the {name} probe are rounded up to whole seconds: a kubelet knows no others"),
            None,
        );
    }
    if asked_by_kubelet && name != "readiness" && probe.successes > 1 {
        findings.warn(
            at,
            format!("the {name} probe has passed once it passes once: a kubelet takes no other `successes`"),
            "leave `successes` out".to_owned(),
        );
    }
}

/// What only a cluster has, said of a component that another driver runs.
fn of_others(spec: &ComponentSpec, at: &Written, findings: &mut Findings<'_>) {
    for secret in &spec.secrets {
        let SecretSource::Cluster(_) = &secret.source else {
            continue;
        };
        if let Some(at) = at.secrets.get(&secret.name) {
            findings.error(
                *at,
                format!(
                    "secret `{}` is one of a Kubernetes cluster, and the {} driver runs the component",
                    shown(&secret.name),
                    spec.driver()
                ),
                Some("write `driver: kubernetes`, or `file: PATH` or `env: VARIABLE` in place of `kubernetes`".to_owned()),
            );
        }
    }
}

fn user(
    spec: &ComponentSpec,
    options: &KubernetesOptions,
    at: Option<Span>,
    findings: &mut Findings<'_>,
) {
    let (Some(user), Some(at)) = (&spec.user, at) else {
        return;
    };
    let (user, group) = user.split_once(':').unwrap_or((user, "0"));
    let is_number = |text: &str| text == "root" || text.parse::<u32>().is_ok();
    if !is_number(user) || !is_number(group) {
        findings.error(
            at,
            "a pod runs as a number: only its image knows the names of its users",
            Some("write `user: \"UID\"` or `\"UID:GID\"`, or leave it to the image".to_owned()),
        );
    } else if options.security == SecurityProfile::Restricted && matches!(user, "root" | "0") {
        findings.error(
            at,
            "`security: restricted` runs nobody as root",
            Some("write another `user`, or another `security`".to_owned()),
        );
    }
}

fn volumes(
    spec: &ComponentSpec,
    options: &KubernetesOptions,
    at: Option<Span>,
    findings: &mut Findings<'_>,
) {
    let Some(at) = at else { return };
    for volume in &spec.volumes {
        match &volume.source {
            VolumeSource::Tmpfs => {}
            VolumeSource::Bind(path) if !options.allow_host_path => findings.error(
                at,
                format!(
                    "`host_path: {}` is a folder of one machine, and a pod may come to any",
                    shown(&path.to_string_lossy())
                ),
                Some("use a named volume, or a secret for a file; `kubernetes: {allow_host_path: true}` means the node's own folder".to_owned()),
            ),
            VolumeSource::Bind(_) => {}
            VolumeSource::Named(name) => match &options.storage {
                None => findings.error(
                    at,
                    format!("nothing says how large volume `{}` is", shown(name)),
                    Some("add `kubernetes: {storage: {size: 10Gi}}` to the component, or to `spec`".to_owned()),
                ),
                Some(storage) if spec.replicas > 1 && storage.access == StorageAccess::OneNode => {
                    findings.error(
                        at,
                        format!(
                            "{} replicas cannot share volume `{}`, which is on one node at a time",
                            spec.replicas,
                            shown(name)
                        ),
                        Some("write `kubernetes: {storage: {access: many-nodes}}` with a `class` that has such volumes, or one component for each".to_owned()),
                    );
                }
                Some(_) => {}
            },
        }
    }
}

/// Tells of volumes on one node at a time that several components name: their pods have to come to that
/// node, all of them.
pub fn check_shared_volumes(
    all: &BTreeMap<ComponentId, ComponentSpec>,
    written: &BTreeMap<ComponentId, Written>,
    findings: &mut Findings<'_>,
) {
    let mut first: BTreeMap<&str, &ComponentId> = BTreeMap::new();
    for (id, spec) in all {
        let Workload::Kubernetes(pod) = &spec.workload else {
            continue;
        };
        let is_on_one = |storage: &Storage| storage.access == StorageAccess::OneNode;
        if !pod.options.storage.as_ref().is_some_and(is_on_one) {
            continue;
        }
        for volume in &spec.volumes {
            let VolumeSource::Named(name) = &volume.source else {
                continue;
            };
            let Some(other) = first.get(name.as_str()) else {
                first.insert(name, id);
                continue;
            };
            let at = written.get(id).and_then(|at| at.keys.get("volumes"));
            if let (Some(at), true) = (at, *other != id) {
                findings.warn(
                    *at,
                    format!(
                        "`{other}` has volume `{}`, too, which is on one node at a time: both wait until the cluster puts them there",
                        shown(name)
                    ),
                    "write `storage: {access: many-nodes}` with a `class` that has such volumes".to_owned(),
                );
            }
        }
    }
}
