//! `probes`, and the shorthands `health_check`, `health_port` and `health_endpoint`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::model::{HttpTarget, HumanDuration, Port, Probe, ProbeCheck, Probes, ReplicaPort};

use super::fields::{Field, Fields, Text};
use super::problem::{Findings, Span, shown};
use super::references::Resolver;
use super::suggest;
use super::tree::Value;

/// Where components of the field answer for their health, and what a bare port is asked for.
const DEFAULT_PATH: &str = "/health";

/// A period below this would keep a core busy with asking.
const LEAST_PERIOD: HumanDuration = HumanDuration::from_millis(10);

/// What was written of the probes of a component, or of `spec.defaults`.
#[derive(Clone, Debug, Default)]
pub(super) struct ProbesDraft<'t> {
    startup: ProbeDraft<'t>,
    readiness: ProbeDraft<'t>,
    liveness: ProbeDraft<'t>,
    /// The port of a shorthand, where it is a plain number: one that the component serves.
    pub health_port: Option<(u16, Span)>,
}

#[derive(Clone, Debug, Default)]
struct ProbeDraft<'t> {
    check: Option<CheckDraft<'t>>,
    at: Span,
    /// Where it was written, when it names no check.
    blank: Option<Span>,
    period: Option<HumanDuration>,
    timeout: Option<HumanDuration>,
    failures: Option<u32>,
    successes: Option<u32>,
}

#[derive(Clone, Debug)]
enum CheckDraft<'t> {
    Http(TargetDraft<'t>),
    Grpc {
        port: PortDraft<'t>,
        service: String,
    },
    Tcp {
        port: PortDraft<'t>,
    },
    Exec {
        command: Vec<Text<'t>>,
    },
    Heartbeat {
        ttl: HumanDuration,
    },
}

/// What is asked by http.
#[derive(Clone, Debug)]
pub(super) struct TargetDraft<'t> {
    host: Option<String>,
    port: PortDraft<'t>,
    path: Text<'t>,
}

/// A port by number, by the name of one of the component's own, or with references in it.
#[derive(Clone, Copy, Debug)]
enum PortDraft<'t> {
    Number(u16),
    Named(Text<'t>),
    Referring(Text<'t>),
}

/// The figures that a probe has unless it says otherwise.
struct Timing {
    period: HumanDuration,
    failures: u32,
}

const STARTUP: Timing = Timing {
    period: HumanDuration::from_secs(1),
    failures: 30,
};
const RUNNING: Timing = Timing {
    period: HumanDuration::from_secs(10),
    failures: 3,
};
const TIMEOUT: HumanDuration = HumanDuration::from_secs(2);

impl<'t> ProbesDraft<'t> {
    /// Reads `probes`, of a component or of `spec.defaults`.
    pub(super) fn read(fields: &mut Fields<'t>, findings: &mut Findings<'_>) -> Self {
        let Some(mut fields) = fields
            .get("probes")
            .and_then(|field| field.fields("`probes`", findings))
        else {
            return Self::default();
        };
        let mut probe = |name| {
            fields
                .get(name)
                .map(|f| ProbeDraft::read(f, findings))
                .unwrap_or_default()
        };
        let draft = Self {
            startup: probe("startup"),
            readiness: probe("readiness"),
            liveness: probe("liveness"),
            health_port: None,
        };
        fields.close(findings);
        draft
    }

    /// The probes that were written, and where.
    pub(super) fn written(&self) -> BTreeMap<&'static str, Span> {
        let all = [
            ("startup", &self.startup),
            ("readiness", &self.readiness),
            ("liveness", &self.liveness),
        ];
        all.into_iter()
            .filter(|(_, probe)| probe.check.is_some())
            .map(|(name, probe)| (name, probe.at))
            .collect()
    }

    /// About how much memory they take where they are used.
    pub(super) fn bytes(&self) -> usize {
        [&self.startup, &self.readiness, &self.liveness]
            .into_iter()
            .filter_map(|probe| probe.check.as_ref())
            .map(|check| match check {
                CheckDraft::Http(TargetDraft { host, path, .. }) => {
                    host.as_deref().map_or(0, str::len) + path.text.len()
                }
                CheckDraft::Grpc { service, .. } => service.len(),
                CheckDraft::Exec { command } => {
                    command.iter().map(|text| 32 + text.text.len()).sum()
                }
                CheckDraft::Tcp { .. } | CheckDraft::Heartbeat { .. } => 0,
            })
            .sum()
    }

    /// Reads the shorthands of a component into the readiness probe.
    pub(super) fn read_shorthands(&mut self, fields: &mut Fields<'t>, findings: &mut Findings<'_>) {
        let check = fields.get_cased(findings, "health_check");
        let port = fields.get_or_legacy(findings, "health_port", &["healthPort"]);
        let endpoint = fields
            .get("health_endpoint")
            .or_else(|| fields.get("healthEndpoint"));
        if let Some(endpoint) = endpoint {
            findings.warn(
                endpoint.key_at,
                "`health_endpoint` is an old spelling",
                Some("write `health_check` with the same URL".to_owned()),
            );
            if let Some(check) = check {
                findings.clash(
                    endpoint.key_at,
                    "`health_endpoint` and `health_check` mean the same",
                    check.key_at,
                    "first written here",
                );
                return;
            }
        }
        let Some(first) = check.or(endpoint).or(port) else {
            return;
        };
        let drawn = port.and_then(|port| PortDraft::unnamed(port, findings));
        self.health_port = match (drawn, port) {
            (Some(PortDraft::Number(number)), Some(port)) => Some((number, port.key_at)),
            (Some(PortDraft::Named(_) | PortDraft::Referring(_)) | None, _) | (_, None) => None,
        };
        let target = match check.or(endpoint) {
            Some(check) => target(check, port.is_some(), drawn, findings),
            None => drawn.map(|port| TargetDraft {
                host: None,
                port,
                path: default_path(first.key_at),
            }),
        };
        let Some(target) = target else {
            return;
        };
        if self.readiness.check.is_some() {
            findings.clash(
                first.key_at,
                "the component has a readiness probe already",
                self.readiness.at,
                "keep this one or the shorthand",
            );
            return;
        }
        self.readiness.at = first.key_at;
        self.readiness.check = Some(CheckDraft::Http(target));
    }

    /// The probes: what was written, then what `defaults` say, then our own defaults.
    pub(super) fn resolve(
        &self,
        defaults: &Self,
        ports: &[Port],
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Probes {
        let mut one = |own: &ProbeDraft<'t>, default: &ProbeDraft<'t>, timing| {
            own.resolve(default, timing, ports, resolver, findings)
        };
        Probes {
            startup: one(&self.startup, &defaults.startup, STARTUP),
            readiness: one(&self.readiness, &defaults.readiness, RUNNING),
            liveness: one(&self.liveness, &defaults.liveness, RUNNING),
        }
    }
}

fn default_path(at: Span) -> Text<'static> {
    Text {
        text: DEFAULT_PATH,
        at,
    }
}

/// What `health_check` asks: a path beside `health_port`, or a whole URL.
fn target<'t>(
    field: Field<'t>,
    has_port: bool,
    port: Option<PortDraft<'t>>,
    findings: &mut Findings<'_>,
) -> Option<TargetDraft<'t>> {
    if matches!(field.node.value, Value::Map(_) | Value::List(_)) {
        field.mismatch(
            findings,
            "a path or a URL",
            Some(
                "for a command write `probes: {readiness: {exec: [program, argument]}}`".to_owned(),
            ),
        );
        return None;
    }
    let written = field.referring_word(findings)?;
    let text = written.text;
    if text.contains("://") {
        return url(field, text, port, findings);
    }
    if !text.starts_with('/') {
        findings.error(
            field.node.at,
            format!(
                "`{}` must be a path or a URL, not `{}`",
                field.name,
                shown(text)
            ),
            Some(format!("did you mean `/{}`?", shown(text))),
        );
        return None;
    }
    if !has_port {
        findings.error(
            field.key_at,
            format!("`{}` is a path without a port", field.name),
            Some("add `health_port: PORT`".to_owned()),
        );
    }
    port.map(|port| TargetDraft {
        host: None,
        port,
        path: written,
    })
}

fn url<'t>(
    field: Field<'t>,
    text: &'t str,
    port: Option<PortDraft<'t>>,
    findings: &mut Findings<'_>,
) -> Option<TargetDraft<'t>> {
    let mut refuse = |message: &str, fix: &str| {
        findings.error(
            field.node.at,
            format!("`{}`: {message}", field.name),
            Some(fix.to_owned()),
        );
        None
    };
    let Some(rest) = text.strip_prefix("http://") else {
        return refuse(
            "only http:// can be asked",
            "use a plain http port, or a tcp or exec probe",
        );
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let (host, written) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('@') {
        return refuse(
            "the URL names no host",
            "write it like http://localhost:8088/health",
        );
    }
    let number = match written {
        None => port.unwrap_or(PortDraft::Number(80)),
        Some(text) if text.contains(REFERENCE) => PortDraft::Referring(Text {
            text,
            at: field.node.at,
        }),
        Some(text) => match text.parse::<u16>() {
            Ok(number) if number > 0 => PortDraft::Number(number),
            _ => {
                return refuse(
                    "the port in the URL is not one",
                    "write a number from 1 to 65535",
                );
            }
        },
    };
    if let (Some(port), Some(_)) = (port, written)
        && port.text() != number.text()
    {
        return refuse(
            "the URL and `health_port` name different ports",
            "leave `health_port` out",
        );
    }
    let here = matches!(host, "localhost" | "127.0.0.1" | "::1" | "0.0.0.0");
    Some(TargetDraft {
        host: (!here).then(|| host.to_owned()),
        port: number,
        path: Text {
            text: path,
            at: field.node.at,
        },
    })
}

impl<'t> ProbeDraft<'t> {
    fn read(field: Field<'t>, findings: &mut Findings<'_>) -> Self {
        let Some(mut fields) = field.fields("a probe", findings) else {
            return Self::default();
        };
        let mut draft = Self {
            at: field.key_at,
            ..Self::default()
        };
        let checks = ["http", "grpc", "tcp", "exec", "heartbeat"];
        let mut first: Option<Field<'t>> = None;
        for check in checks.into_iter().filter_map(|name| fields.get(name)) {
            if let Some(first) = first {
                findings.clash(
                    check.key_at,
                    format!(
                        "a probe asks one thing, not `{}` and `{}`",
                        first.name, check.name
                    ),
                    first.key_at,
                    "the other check",
                );
                continue;
            }
            first = Some(check);
            draft.check = CheckDraft::read(check, findings);
        }
        draft.period = fields
            .get("period")
            .and_then(|f| f.duration(findings, LEAST_PERIOD));
        draft.timeout = fields
            .get("timeout")
            .and_then(|f| f.duration(findings, HumanDuration::from_millis(1)));
        draft.failures = fields
            .get("failures")
            .and_then(|f| f.small(findings, 1..=1_000_000));
        draft.successes = fields
            .get("successes")
            .and_then(|f| f.small(findings, 1..=1_000));
        // A check that is misspelled is told as that.
        let asks_nothing = first.is_none() && !fields.misspells(&checks);
        draft.blank = asks_nothing.then_some(field.key_at);
        fields.close(findings);
        draft
    }

    fn resolve(
        &self,
        defaults: &Self,
        timing: Timing,
        ports: &[Port],
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<Probe> {
        let check = match (&self.check, &defaults.check) {
            (Some(check), _) | (None, Some(check)) => check,
            (None, None) => {
                if let Some(at) = self.blank {
                    findings.error(
                        at,
                        "the probe asks nothing",
                        Some("add one of `http`, `grpc`, `tcp`, `exec` or `heartbeat`".to_owned()),
                    );
                }
                return None;
            }
        };
        Some(Probe {
            check: check.resolve(ports, resolver, findings)?,
            period: self.period.or(defaults.period).unwrap_or(timing.period),
            timeout: self.timeout.or(defaults.timeout).unwrap_or(TIMEOUT),
            failures: self
                .failures
                .or(defaults.failures)
                .unwrap_or(timing.failures),
            successes: self.successes.or(defaults.successes).unwrap_or(1),
        })
    }
}

impl<'t> CheckDraft<'t> {
    fn read(field: Field<'t>, findings: &mut Findings<'_>) -> Option<Self> {
        if field.name == "exec" {
            let command = match &field.node.value {
                Value::Map(_) => {
                    let mut fields = field.fields("`exec`", findings)?;
                    let command = fields.get("command").and_then(|f| f.texts(findings));
                    fields.close(findings);
                    command?
                }
                Value::Null | Value::Scalar(_) | Value::List(_) => field.texts(findings)?,
            };
            if command.is_empty() {
                findings.error(
                    field.key_at,
                    "`exec` names no program",
                    Some("write `exec: [program, argument]`".to_owned()),
                );
                return None;
            }
            return Some(Self::Exec { command });
        }
        // `tcp: 8080` says all there is to say.
        if field.name != "heartbeat" && matches!(field.node.value, Value::Scalar(_)) {
            let port = PortDraft::read(field, findings)?;
            return Some(match field.name {
                "grpc" => Self::Grpc {
                    port,
                    service: String::new(),
                },
                "tcp" => Self::Tcp { port },
                _ => Self::Http(TargetDraft {
                    host: None,
                    port,
                    path: default_path(field.key_at),
                }),
            });
        }
        let mut fields = field.fields("a check", findings)?;
        let check = if field.name == "heartbeat" {
            let ttl = fields
                .get("ttl")
                .and_then(|f| f.duration(findings, HumanDuration::from_millis(100)));
            ttl.map(|ttl| Self::Heartbeat { ttl })
        } else if field.name == "http" {
            TargetDraft::read(&mut fields, field, findings).map(Self::Http)
        } else {
            let port = PortDraft::needed(&mut fields, field, findings);
            match field.name {
                "grpc" => {
                    let service = fields.get("service").and_then(|f| f.word(findings));
                    let service = service.map(|word| word.text.to_owned()).unwrap_or_default();
                    port.map(|port| Self::Grpc { port, service })
                }
                _ => port.map(|port| Self::Tcp { port }),
            }
        };
        fields.close(findings);
        check
    }

    fn resolve(
        &self,
        ports: &[Port],
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<ProbeCheck> {
        Some(match self {
            Self::Http(target) => ProbeCheck::Http(target.resolve(ports, resolver, findings)?),
            Self::Grpc { port, service } => ProbeCheck::Grpc {
                port: port.resolve(ports, resolver, findings)?,
                service: service.clone(),
            },
            Self::Tcp { port } => ProbeCheck::Tcp {
                port: port.resolve(ports, resolver, findings)?,
            },
            Self::Exec { command } => ProbeCheck::Exec {
                command: resolver.texts(command, findings),
            },
            Self::Heartbeat { ttl } => ProbeCheck::Heartbeat { ttl: *ttl },
        })
    }
}

impl<'t> TargetDraft<'t> {
    /// Reads host, port and path of `field`, whose `fields` these are.
    pub(super) fn read(
        fields: &mut Fields<'t>,
        field: Field<'t>,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let port = PortDraft::needed(fields, field, findings);
        let host = fields
            .get("host")
            .and_then(|f| f.word(findings))
            .map(|word| word.text.to_owned());
        let path = fields.get("path");
        let path = path.and_then(|f| f.referring_word(findings));
        if let Some(path) = path.filter(|path| !path.text.starts_with('/')) {
            findings.error(
                path.at,
                "`path` must start with `/`",
                Some(format!("did you mean `/{}`?", shown(path.text))),
            );
        }
        let path = path.unwrap_or_else(|| default_path(field.key_at));
        port.map(|port| Self { host, port, path })
    }

    /// What is asked, where the component serves `ports`.
    pub(super) fn resolve(
        &self,
        ports: &[Port],
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<HttpTarget> {
        Some(HttpTarget {
            host: self.host.clone(),
            port: self.port.resolve(ports, resolver, findings)?,
            path: resolver.text(self.path, findings),
        })
    }
}

/// What a reference begins with.
const REFERENCE: &str = "${{";

impl<'t> PortDraft<'t> {
    /// As it was written.
    fn text(self) -> Cow<'t, str> {
        match self {
            Self::Number(number) => number.to_string().into(),
            Self::Named(text) | Self::Referring(text) => text.text.into(),
        }
    }

    /// One that is no name.
    fn unnamed(field: Field<'t>, findings: &mut Findings<'_>) -> Option<Self> {
        if let Value::Scalar(scalar) = &field.node.value
            && scalar.text.contains(REFERENCE)
        {
            return field.referring_word(findings).map(Self::Referring);
        }
        field.port(findings).map(Self::Number)
    }

    /// The `port` that `field` cannot do without.
    fn needed(
        fields: &mut Fields<'t>,
        field: Field<'t>,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let Some(port) = fields.get("port") else {
            let message = format!("`{}` needs a `port`", field.name);
            fields.missing(&["port"], field.key_at, message, None);
            return None;
        };
        Self::read(port, findings)
    }

    fn read(field: Field<'t>, findings: &mut Findings<'_>) -> Option<Self> {
        if let Value::Scalar(scalar) = &field.node.value
            && scalar.text.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            return Some(Self::Named(Text {
                text: &scalar.text,
                at: field.node.at,
            }));
        }
        Self::unnamed(field, findings)
    }

    fn resolve(
        self,
        ports: &[Port],
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<ReplicaPort> {
        let name = match self {
            Self::Number(number) => return Some(number.into()),
            Self::Referring(text) => {
                let resolved = resolver.text_if_whole(text, findings)?;
                let port = resolved.parse::<ReplicaPort>();
                return port
                    .map_err(|why| {
                        let what = format!("`{}` is not a port", shown(&resolved));
                        findings.error(text.at, what, Some(why.to_string()));
                    })
                    .ok();
            }
            Self::Named(name) => name,
        };
        let found = ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name.text));
        if found.is_none() {
            findings.error(
                name.at,
                format!("the component has no port named `{}`", shown(name.text)),
                suggest::did_you_mean(
                    name.text,
                    ports.iter().filter_map(|port| port.name.as_deref()),
                ),
            );
        }
        found.map(|port| port.container_port.into())
    }
}
