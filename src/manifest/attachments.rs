//! `ports`, `volumes` and `secrets`: what connects a component to the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::model::{DriverKind, Port, Protocol, SecretSource, SecretSpec, Volume, VolumeSource};

use super::drivers::kubernetes;
use super::fields::{Field, Fields, Text, scalar};
use super::limits::no_effect;
use super::problem::{Findings, Span, shown};
use super::tree::{Node, Value};

/// A port and where it was written.
#[derive(Clone, Debug)]
pub(super) struct PortDraft {
    pub port: Port,
    pub at: Span,
}

/// `path` as meant from the manifest's folder. `..` is left for the kernel, since what it leads to
/// depends on symbolic links.
pub(super) fn from_base(base: &Path, path: &str) -> PathBuf {
    let path = Path::new(path);
    base.join(path.strip_prefix("./").unwrap_or(path))
        .components()
        .collect()
}

/// Reads `ports`.
pub(super) fn ports(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Vec<PortDraft> {
    let Some(field) = fields.get("ports") else {
        return Vec::new();
    };
    let items = field.list(findings).unwrap_or_default();
    let mut ports: Vec<PortDraft> = Vec::with_capacity(items.len());
    let mut numbers: BTreeMap<(Protocol, u16), Span> = BTreeMap::new();
    let mut names: BTreeMap<String, Span> = BTreeMap::new();
    for node in items {
        let Some(draft) = port(Field { node, ..field }, findings) else {
            continue;
        };
        let number = (draft.port.protocol, draft.port.container_port);
        if let Some(known) = numbers.insert(number, draft.at) {
            findings.clash(
                draft.at,
                "the port is listed twice",
                known,
                "first listed here",
            );
        }
        if let Some(name) = &draft.port.name
            && let Some(known) = names.insert(name.clone(), draft.at)
        {
            findings.clash(
                draft.at,
                "two ports have one name",
                known,
                "first used here",
            );
        }
        ports.push(draft);
    }
    ports
}

fn port(field: Field<'_>, findings: &mut Findings<'_>) -> Option<PortDraft> {
    if let Some(text) = scalar(field.node) {
        if text.contains(':') {
            findings.error(
                field.node.at,
                format!("`{}` is not a port", shown(text)),
                Some("write `{containerPort: .., hostPort: ..}`".to_owned()),
            );
            return None;
        }
        let container_port = field.port(findings)?;
        findings.warn(
            field.node.at,
            "a bare port is an old spelling",
            Some(format!("write `containerPort: {container_port}`")),
        );
        let port = Port {
            name: None,
            container_port,
            host_port: None,
            host_ip: None,
            protocol: Protocol::Tcp,
        };
        return Some(PortDraft {
            port,
            at: field.node.at,
        });
    }
    let mut fields = field.fields("a port", findings)?;
    let at = fields.at;
    let container_port = fields.get_or_legacy(
        findings,
        "containerPort",
        &["container_port", "container", "port"],
    );
    if container_port.is_none() {
        let fix = "add the port that the program listens on".to_owned();
        fields.missing(
            &["containerPort"],
            at,
            "the port has no `containerPort`",
            fix,
        );
    }
    let port = Port {
        container_port: container_port.and_then(|f| f.port(findings)).unwrap_or(0),
        host_port: fields
            .get_or_legacy(findings, "hostPort", &["host_port", "host"])
            .and_then(|f| f.port(findings)),
        host_ip: fields
            .get_or_legacy(findings, "hostIP", &["host_ip", "hostIp"])
            .and_then(|f| f.parsed(findings)),
        name: fields
            .get("name")
            .and_then(|f| f.word(findings))
            .map(|word| word.text.to_owned()),
        protocol: fields
            .get("protocol")
            .and_then(|f| protocol(f, findings))
            .unwrap_or_default(),
    };
    fields.close(findings);
    // Port 0 stands for one that was reported above.
    (port.container_port > 0).then_some(PortDraft {
        port,
        at: container_port.map_or(at, |f| f.node.at),
    })
}

fn protocol(field: Field<'_>, findings: &mut Findings<'_>) -> Option<Protocol> {
    let upper = [
        ("TCP", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("SCTP", Protocol::Sctp),
    ];
    let any = scalar(field.node)
        .and_then(|text| {
            upper
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text))
        })
        .map(|(_, protocol)| *protocol);
    any.or_else(|| field.choice(findings, &upper))
}

/// Reads `volumes`, which only containers have.
pub(super) fn volumes(
    fields: &mut Fields<'_>,
    driver: DriverKind,
    base: &Path,
    findings: &mut Findings<'_>,
) -> Vec<Volume> {
    let Some(field) = fields.get("volumes") else {
        return Vec::new();
    };
    let mut volumes: Vec<Volume> = Vec::new();
    let mut targets = BTreeSet::new();
    for node in field.list(findings).unwrap_or_default() {
        let Some((volume, at)) = volume(node, base, findings) else {
            continue;
        };
        if !targets.insert(volume.target.clone()) {
            findings.error(
                at,
                format!("two volumes are mounted at `{}`", shown(&volume.target)),
                None,
            );
        }
        volumes.push(volume);
    }
    if driver == DriverKind::Process && !volumes.is_empty() {
        // One with an image is a container, too, when it is told to be.
        if fields.get("image").is_none() {
            no_effect(field.key_at, "volumes", driver, findings);
        }
        volumes.clear();
    }
    volumes
}

fn volume(node: &Node<'_>, base: &Path, findings: &mut Findings<'_>) -> Option<(Volume, Span)> {
    if matches!(node.value, Value::Scalar(_)) {
        findings.error(
            node.at,
            "a volume is a mapping",
            Some("write `{host_path: /on/the/host, container_path: /in/the/container}`".to_owned()),
        );
        return None;
    }
    let mut fields = Fields::open(node, "a volume", findings)?;
    let at = fields.at;
    let name = fields.get("name").and_then(|f| f.word(findings));
    let host = fields
        .get_or_legacy(findings, "host_path", &["hostPath", "host"])
        .and_then(|f| f.word(findings));
    let target = fields
        .first_of(
            findings,
            &["container_path", "mountPath"],
            &["containerPath", "mount_path", "container"],
        )
        .and_then(|f| f.word(findings));
    let read_only = fields
        .first_of(findings, &["readonly", "read_only"], &["readOnly"])
        .and_then(|f| f.truth(findings))
        .unwrap_or(false);
    let tmpfs = fields
        .get("tmpfs")
        .and_then(|f| f.truth(findings))
        .unwrap_or(false);
    if host.is_none() && name.is_none() && !tmpfs {
        fields.missing(
            &["host_path", "name", "tmpfs"],
            at,
            "the volume does not say where its data lies",
            "add `host_path`, `name` or `tmpfs: true`".to_owned(),
        );
    }
    if target.is_none() {
        let names = &["container_path", "mountPath"];
        fields.missing(names, at, "the volume has no `container_path`", None);
    }
    fields.close(findings);
    let source = match (host, name) {
        (Some(host), _) if tmpfs => {
            findings.error(
                host.at,
                "a tmpfs volume has no `host_path`",
                Some("leave one of the two out".to_owned()),
            );
            return None;
        }
        (Some(host), _) => {
            let path = from_base(base, host.text);
            if path.to_str().is_none() {
                findings.error(
                    host.at,
                    format!(
                        "`{}` cannot be named to a container engine: it is not UTF-8",
                        path.display()
                    ),
                    Some("move it to a folder whose whole path is UTF-8".to_owned()),
                );
            }
            VolumeSource::Bind(path)
        }
        (None, _) if tmpfs => VolumeSource::Tmpfs,
        (None, Some(name)) => VolumeSource::Named(name.text.to_owned()),
        (None, None) => return None,
    };
    let target = target?;
    absolute("container_path", target, findings)?;
    Some((
        Volume {
            source,
            target: target.text.to_owned(),
            read_only,
        },
        target.at,
    ))
}

fn absolute(name: &str, path: Text<'_>, findings: &mut Findings<'_>) -> Option<()> {
    if path.text.starts_with('/') {
        return Some(());
    }
    findings.error(
        path.at,
        format!("`{name}` must be an absolute path"),
        Some(format!(
            "did you mean `/{}`?",
            shown(path.text.trim_start_matches("./"))
        )),
    );
    None
}

/// Reads `secrets`; answers also where each of them stands.
pub(super) fn secrets(
    fields: &mut Fields<'_>,
    base: &Path,
    findings: &mut Findings<'_>,
) -> (Vec<SecretSpec>, BTreeMap<String, Span>) {
    let mut secrets: Vec<SecretSpec> = Vec::new();
    let mut names = BTreeMap::new();
    let Some(field) = fields.get("secrets") else {
        return (secrets, names);
    };
    for node in field.list(findings).unwrap_or_default() {
        let Some((secret, at)) = secret(node, base, findings) else {
            continue;
        };
        if names.insert(secret.name.clone(), at).is_some() {
            findings.error(
                at,
                format!("two secrets are named `{}`", shown(&secret.name)),
                None,
            );
        }
        secrets.push(secret);
    }
    (secrets, names)
}

/// What upstream's `type` says of a secret.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    Dir,
    Env,
}

fn secret(node: &Node<'_>, base: &Path, findings: &mut Findings<'_>) -> Option<(SecretSpec, Span)> {
    let mut fields = Fields::open(node, "a secret", findings)?;
    let at = fields.at;
    let name = fields.get("name");
    if name.is_none() {
        let fix = "it is read from $FLOWCTL_SECRETS_DIR/NAME".to_owned();
        fields.missing(&["name"], at, "the secret has no `name`", fix);
    }
    let name = name.and_then(|f| f.word(findings));
    let file = fields
        .first_of(findings, &["file", "host_path"], &["hostPath"])
        .and_then(|f| f.word(findings));
    let variable = fields.get("env").and_then(|f| f.word(findings));
    let of_cluster = fields.get("kubernetes");
    let cluster = of_cluster.and_then(|f| kubernetes::secret(f, findings));
    let container_path = fields
        .get_or_legacy(findings, "container_path", &["containerPath"])
        .and_then(|f| f.word(findings))
        .filter(|path| absolute("container_path", *path, findings).is_some());
    let mode = fields
        .get("mode")
        .and_then(|f| mode(f, findings))
        .unwrap_or(0o400);
    if let Some(kind) = fields.get("type")
        && kind.choice(
            findings,
            &[("file", Kind::File), ("env", Kind::Env), ("dir", Kind::Dir)],
        ) == Some(Kind::Dir)
    {
        findings.error(
            kind.node.at,
            "a folder cannot be a secret",
            Some("list its files one by one, or mount it as a volume".to_owned()),
        );
    }
    fields.unused(
        findings,
        "required",
        "a secret that cannot be read always keeps the component from starting",
    );
    fields.unused(findings, "labels", "leave it out");
    if file.is_none() && variable.is_none() && of_cluster.is_none() {
        fields.missing(
            &["file", "host_path", "env", "kubernetes"],
            at,
            "the secret does not say where its value comes from",
            "add `file: PATH` or `env: VARIABLE`".to_owned(),
        );
    }
    fields.close(findings);
    if let (Some(field), true) = (of_cluster, file.is_some() || variable.is_some()) {
        findings.error(
            field.key_at,
            "a secret comes from the cluster or from this host, not both",
            None,
        );
        return None;
    }
    let source = match (file, variable) {
        (Some(file), None) => SecretSource::File(from_base(base, file.text)),
        (None, Some(variable)) => SecretSource::Env(variable.text.to_owned()),
        (Some(_), Some(variable)) => {
            findings.error(
                variable.at,
                "a secret comes from a file or from a variable, not both",
                None,
            );
            return None;
        }
        (None, None) => SecretSource::Cluster(cluster?),
    };
    let name = name?;
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.text.chars().all(safe) || name.text.starts_with('.') || name.text.len() > 255 {
        findings.error(
            name.at,
            format!(
                "`{}` cannot be the name of a secret's file",
                shown(name.text)
            ),
            Some("use letters, digits, `.`, `_` and `-`".to_owned()),
        );
        return None;
    }
    let container_path = container_path.map(|path| path.text.to_owned());
    Some((
        SecretSpec {
            name: name.text.to_owned(),
            source,
            container_path,
            mode,
        },
        name.at,
    ))
}

/// Permission bits in octal, however they are written: `0400`, `"400"`, `0o400`.
fn mode(field: Field<'_>, findings: &mut Findings<'_>) -> Option<u32> {
    let bits = scalar(field.node)
        .and_then(|text| u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok())
        .filter(|bits| *bits <= 0o777);
    if bits.is_none() {
        field.mismatch(
            findings,
            "permission bits in octal",
            Some("write them like `\"0400\"`".to_owned()),
        );
    }
    bits
}
