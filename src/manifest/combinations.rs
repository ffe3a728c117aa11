//! Combinations of fields that can never come true: each field is right by itself, and together
//! they wait for ever, or one of them means nothing.
//!
//! [`RULES`] is the table. It was made by going through all pairs of fields that meet while a
//! component runs; a new field is held against the others there. What makes a component wait for
//! ever is an error; what only has no effect is a warning, since files are shared between drivers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{
    Backoff, ComponentId, ComponentSpec, Condition, Expected, HumanDuration, OnStall, ProbeCheck,
    Progress, Protocol, Registration, RestartMode, RestartPolicy, Signal, Watches, Workload,
};

use super::problem::{Findings, Span};

/// Where the fields of a component stand whose combinations are judged. What is not written in the
/// component itself is not there: a default that does not fit one of many is no mistake.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub depends_on: Vec<(ComponentId, Condition, Span)>,
    /// The fields of `restart`, by name.
    pub restart: BTreeMap<&'static str, Span>,
    pub stop_signal: Option<Span>,
    pub ready_after: Option<Span>,
    pub registration: Option<Span>,
    /// The probes, by name.
    pub probes: BTreeMap<&'static str, Span>,
    /// Where `progress` stands.
    pub progress: Option<Span>,
    /// Whether one of them is meant by a plain `health_port`, which replicas of a process cannot share.
    pub has_health_port: bool,
    /// Each of `ports`, in their order.
    pub ports: Vec<Span>,
    /// Each of `secrets` with a `mode` or a `container_path`, by name.
    pub secrets: BTreeMap<String, Span>,
    pub pull: Option<Span>,
    /// Further fields, by name, that not every driver takes.
    pub keys: BTreeMap<&'static str, Span>,
    /// Variables of its own or of `spec.env`, by name.
    pub env: BTreeMap<String, Span>,
    /// Whether it names an image, even if it is run as a process now.
    pub has_image: bool,
}

/// One component among the others.
struct Case<'a> {
    spec: &'a ComponentSpec,
    at: &'a Written,
    all: &'a BTreeMap<ComponentId, ComponentSpec>,
}

type Rule = fn(&Case<'_>, &mut Findings<'_>);

/// Every pair of fields that cannot work together, and what tells of it.
const RULES: [(&str, Rule); 20] = [
    (
        "depends_on completed, restart of the other",
        never_completed,
    ),
    ("restart never, its other fields", never_restarts),
    ("restart backoff, factor and max_delay", unused_curve),
    ("restart max_retries, window", never_spent),
    ("ready_after, probes.readiness", not_asked_for),
    ("registration, ENABLE_FLOWCTL", never_registers),
    ("probes heartbeat, ENABLE_FLOWCTL", never_beats),
    (
        "probes heartbeat ttl, FLOWCTL_HEARTBEAT_INTERVAL",
        beats_too_seldom,
    ),
    ("probes, ports protocol", asks_another_protocol),
    ("probes port, replicas", asks_one_port_of_many),
    ("progress while, inputs", never_expected),
    ("progress on_stall, restart never", ended_for_good),
    ("progress metric, ENABLE_FLOWCTL", never_moves),
    (
        "progress metric max_age, FLOWCTL_HEARTBEAT_INTERVAL",
        looked_at_too_seldom,
    ),
    ("progress http port, replicas", looks_at_one_port_of_many),
    ("stop signal, grace_period", never_ends),
    ("ports hostPort and hostIP, driver", unpublished),
    ("secrets mode, container_path, driver", unreadable_secret),
    ("env FLOWCTL_ENDPOINT, driver", own_loopback),
    ("env of flowctl's own", overwritten),
];

/// Tells of every combination in a pipeline that cannot work.
pub(super) fn check(
    all: &BTreeMap<ComponentId, ComponentSpec>,
    written: &BTreeMap<ComponentId, Written>,
    findings: &mut Findings<'_>,
) {
    for (id, at) in written {
        let Some(spec) = all.get(id) else { continue };
        let case = Case { spec, at, all };
        for (_, rule) in RULES {
            rule(&case, findings);
        }
    }
}

fn never_completed(case: &Case<'_>, findings: &mut Findings<'_>) {
    for (id, condition, at) in &case.at.depends_on {
        let Some(other) = case.all.get(id) else {
            continue;
        };
        if *condition != Condition::Completed {
            continue;
        }
        let why = if other.restart.mode == RestartMode::Always {
            "it is started again whenever it ends (`restart: always`, which is the default)"
        } else if other.restart.success_codes.is_empty() {
            "none of its exit codes counts as success (`success_codes: []`)"
        } else {
            continue;
        };
        findings.error(
            *at,
            format!("`{id}` is never completed: {why}"),
            format!("write `restart: on-failure` in `{id}`, or wait for it to be `ready`"),
        );
    }
}

fn no_effect(at: Span, what: &str, because: &str, findings: &mut Findings<'_>) {
    findings.warn(at, format!("`{what}` has no effect: {because}"), None);
}

fn never_restarts(case: &Case<'_>, findings: &mut Findings<'_>) {
    if case.spec.restart.mode != RestartMode::Never {
        return;
    }
    // Which exit is a success is still asked.
    let others = case.at.restart.iter();
    for (name, at) in others.filter(|(name, _)| !matches!(**name, "policy" | "success_codes")) {
        no_effect(
            *at,
            name,
            "under `restart: never` nothing is started again",
            findings,
        );
    }
}

fn unused_curve(case: &Case<'_>, findings: &mut Findings<'_>) {
    let (unused, because): (&[&str], _) = match case.spec.restart.backoff {
        Backoff::Exponential => return,
        Backoff::Linear => (&["factor"], "a linear backoff has none"),
        Backoff::Fixed => (&["factor", "max_delay"], "a fixed backoff does not grow"),
    };
    for name in unused {
        if let Some(at) = case.at.restart.get(name) {
            no_effect(*at, name, because, findings);
        }
    }
}

/// The pauses alone are longer than the span in which failures are counted.
fn never_spent(case: &Case<'_>, findings: &mut Findings<'_>) {
    let restart = &case.spec.restart;
    let Some((limit, window)) = restart.limit.and_then(|it| Some((it, it.window?))) else {
        return;
    };
    let at = case
        .at
        .restart
        .get("window")
        .or(case.at.restart.get("max_retries"));
    let Some(at) = at else { return };
    if least_span(restart, limit.max_retries) > window.get() {
        findings.warn(
            *at,
            format!(
                "`max_retries: {}` is never spent: that many restarts take longer than `window` ({window})",
                limit.max_retries
            ),
            "make `window` longer, or the delays shorter".to_owned(),
        );
    }
}

/// So many restarts in a row take at least this long.
fn least_span(restart: &RestartPolicy, retries: u32) -> Duration {
    /// The delays do not shrink, so that the last one that was looked at stands for the rest.
    const STEPS: u32 = 64;
    let (initial, cap) = (restart.initial_delay.get(), restart.max_delay.get());
    let mut span = Duration::ZERO;
    let mut delay = initial.min(cap);
    for number in 1..=retries.min(STEPS) {
        span = span.saturating_add(delay);
        delay = match restart.backoff {
            Backoff::Fixed => delay,
            Backoff::Linear => initial.saturating_mul(number + 1).min(cap),
            Backoff::Exponential => {
                let grown = delay.as_secs_f64() * restart.factor.max(1.0);
                Duration::from_secs_f64(grown.min(cap.as_secs_f64()))
            }
        };
    }
    span.saturating_add(delay.saturating_mul(retries.saturating_sub(STEPS)))
}

fn not_asked_for(case: &Case<'_>, findings: &mut Findings<'_>) {
    if let (Some(at), Some(_)) = (case.at.ready_after, &case.spec.probes.readiness) {
        no_effect(
            at,
            "ready_after",
            "the readiness probe says when it is ready",
            findings,
        );
    }
}

/// Where the component is told not to speak with the control plane.
fn disabled(case: &Case<'_>) -> Option<Span> {
    let says_no = |name: &&str| {
        let value = case.spec.env.get(*name).map(String::as_str);
        value.is_some_and(|value| matches!(value, "false" | "0" | "no" | "off" | "False" | "FALSE"))
    };
    let name = ["ENABLE_FLOWCTL", "FLOWCTL_ENABLED"]
        .into_iter()
        .find(says_no)?;
    case.at.env.get(name).copied()
}

fn never_registers(case: &Case<'_>, findings: &mut Findings<'_>) {
    if let (Registration::Required, Some(at), Some(_)) =
        (case.spec.registration, case.at.registration, disabled(case))
    {
        findings.error(
            at,
            "it never registers, and so is never ready: its `env` turns that off",
            "leave ENABLE_FLOWCTL out, or `registration: required`".to_owned(),
        );
    }
}

/// The probes of a kind that the component itself asks for, with where they stand.
fn probes<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (&'static str, Span, &'a ProbeCheck)> {
    let probes = &case.spec.probes;
    let all = [
        ("startup", &probes.startup),
        ("readiness", &probes.readiness),
        ("liveness", &probes.liveness),
    ];
    all.into_iter().filter_map(move |(name, probe)| {
        let at = case.at.probes.get(name)?;
        Some((name, *at, &probe.as_ref()?.check))
    })
}

fn never_beats(case: &Case<'_>, findings: &mut Findings<'_>) {
    if disabled(case).is_none() {
        return;
    }
    for (name, at, check) in probes(case) {
        if let ProbeCheck::Heartbeat { .. } = check {
            findings.error(
                at,
                format!("the {name} probe never passes: its `env` turns heartbeats off"),
                "leave ENABLE_FLOWCTL out, or ask something else".to_owned(),
            );
        }
    }
}

/// How often components send a heartbeat unless they are told otherwise.
const HEARTBEAT: HumanDuration = HumanDuration::from_secs(10);

/// How often the component is told to send one; `None` = what it is told is no duration, which is a
/// mistake of its own.
fn heartbeat_interval(case: &Case<'_>) -> Option<HumanDuration> {
    let told = case.spec.env.get("FLOWCTL_HEARTBEAT_INTERVAL");
    told.map_or(Some(HEARTBEAT), |text| text.parse().ok())
}

fn beats_too_seldom(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Some(every) = heartbeat_interval(case) else {
        return;
    };
    for (name, at, check) in probes(case) {
        if let ProbeCheck::Heartbeat { ttl } = check
            && *ttl <= every
        {
            findings.warn(
                at,
                format!("the {name} probe fails between any two heartbeats: they come every {every}, and `ttl` is {ttl}"),
                "make `ttl` two or three times as long".to_owned(),
            );
        }
    }
}

fn asks_another_protocol(case: &Case<'_>, findings: &mut Findings<'_>) {
    for (name, at, check) in probes(case) {
        let number = match check {
            ProbeCheck::Http(target) if target.host.is_none() => target.port.number(),
            ProbeCheck::Grpc { port, .. } | ProbeCheck::Tcp { port } => port.number(),
            ProbeCheck::Http(_) | ProbeCheck::Exec { .. } | ProbeCheck::Heartbeat { .. } => {
                continue;
            }
        };
        let mut known = case
            .spec
            .ports
            .iter()
            .filter(|port| port.container_port == number)
            .peekable();
        if known.peek().is_some() && known.all(|port| port.protocol != Protocol::Tcp) {
            findings.warn(
                at,
                format!("the {name} probe asks over TCP, and port {number} is none of TCP's"),
                "ask another port, or a program (`exec`)".to_owned(),
            );
        }
    }
}

fn asks_one_port_of_many(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Workload::Process(_) = case.spec.workload else {
        // Containers have a network of their own.
        return;
    };
    for (name, at, check) in probes(case) {
        let port = match check {
            ProbeCheck::Http(target) if target.host.is_none() => target.port,
            ProbeCheck::Grpc { port, .. } | ProbeCheck::Tcp { port } => *port,
            ProbeCheck::Http(_) | ProbeCheck::Exec { .. } | ProbeCheck::Heartbeat { .. } => {
                continue;
            }
        };
        let replicas = case.spec.replicas;
        let is_told = name == "readiness" && case.at.has_health_port;
        if port.is_shared() && replicas > 1 && !is_told {
            findings.warn(
                at,
                format!("the {name} probe asks all {replicas} replicas at one port, {port}, which one of them has"),
                "have the number of the replica in it and in what the program is told, like `808${{ component.replica }}`".to_owned(),
            );
        } else if let Some(replica) = (0..replicas).find(|replica| port.of(*replica).is_none()) {
            findings.error(
                at,
                format!("the {name} probe has no port for replica {replica}: {port} is none then"),
                "leave room for the number of each replica".to_owned(),
            );
        }
    }
}

/// How the work of the component is looked at, with where it says so.
fn progress<'a>(case: &'a Case<'_>) -> Option<(&'a Progress, Span)> {
    case.spec.progress.as_ref().zip(case.at.progress)
}

fn never_expected(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Some((progress, at)) = progress(case) else {
        return;
    };
    let watched = |id: &ComponentId| case.all.get(id).is_some_and(|it| it.progress.is_some());
    if progress.expected == Expected::UpstreamProgressing && !case.spec.inputs.iter().any(watched) {
        findings.error(
            at,
            "nothing is ever expected of it: `while: upstream-progressing`, and none of its `inputs` \
             has a `progress`",
            "give one of its inputs a `progress`, or leave `while` out".to_owned(),
        );
    }
}

fn ended_for_good(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Some((progress, at)) = progress(case) else {
        return;
    };
    if progress.on_stall == OnStall::Restart && case.spec.restart.mode == RestartMode::Never {
        findings.error(
            at,
            "`on_stall: restart` would only end it: under `restart: never` nothing is started again",
            "write `restart: on-failure`, or leave `on_stall` out".to_owned(),
        );
    }
}

fn never_moves(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Some((progress, at)) = progress(case) else {
        return;
    };
    if let (Watches::Metric(_), Some(_)) = (&progress.watches, disabled(case)) {
        findings.error(
            at,
            "its figure never comes: its `env` turns heartbeats off",
            "leave ENABLE_FLOWCTL out, or watch its `output` or an `http` answer".to_owned(),
        );
    }
}

fn looked_at_too_seldom(case: &Case<'_>, findings: &mut Findings<'_>) {
    let (Some((progress, at)), Some(every)) = (progress(case), heartbeat_interval(case)) else {
        return;
    };
    if let Watches::Metric(_) = &progress.watches
        && progress.max_age <= every
    {
        let max_age = progress.max_age;
        findings.warn(
            at,
            format!("it stands still between any two heartbeats: they come every {every}, and `max_age` is {max_age}"),
            "make `max_age` two or three times as long".to_owned(),
        );
    }
}

fn looks_at_one_port_of_many(case: &Case<'_>, findings: &mut Findings<'_>) {
    let (Some((progress, at)), Workload::Process(_)) = (progress(case), &case.spec.workload) else {
        return;
    };
    let Watches::Http { target, .. } = &progress.watches else {
        return;
    };
    let (port, replicas) = (target.port, case.spec.replicas);
    if target.host.is_some() {
        return;
    }
    if port.is_shared() && replicas > 1 {
        findings.warn(
            at,
            format!("the work of all {replicas} replicas is looked at by one port, {port}, which one of them has"),
            "have the number of the replica in it and in what the program is told, like `808${{ component.replica }}`".to_owned(),
        );
    } else if let Some(replica) = (0..replicas).find(|replica| port.of(*replica).is_none()) {
        findings.error(
            at,
            format!("`progress` has no port for replica {replica}: {port} is none then"),
            "leave room for the number of each replica".to_owned(),
        );
    }
}

fn never_ends(case: &Case<'_>, findings: &mut Findings<'_>) {
    const STOP: i32 = 19;
    let Some(at) = case.at.stop_signal else {
        return;
    };
    if case.spec.stop.signal.map(Signal::number) == Some(STOP) {
        findings.warn(
            at,
            "no program ends by SIGSTOP: it is killed after the grace",
            "write the signal that it ends by, or `KILL`".to_owned(),
        );
    }
}

fn unpublished(case: &Case<'_>, findings: &mut Findings<'_>) {
    let on_host = match &case.spec.workload {
        // One with an image is a container, too, when it is told to be.
        Workload::Process(_) if case.at.has_image => return,
        Workload::Process(_) => Some("a process listens on its `containerPort` itself"),
        Workload::Docker(container) if container.network.as_deref() == Some("host") => {
            Some("on the host's network it listens on its `containerPort` itself")
        }
        Workload::Docker(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => None,
    };
    for (port, at) in case.spec.ports.iter().zip(&case.at.ports) {
        let moved = port
            .host_port
            .is_some_and(|host| host != port.container_port);
        if let (true, Some(because)) = (moved, on_host) {
            no_effect(*at, "hostPort", because, findings);
        } else if port.host_ip.is_some() && port.host_port.is_none() {
            no_effect(*at, "hostIP", "no `hostPort` is published at it", findings);
        }
    }
}

fn unreadable_secret(case: &Case<'_>, findings: &mut Findings<'_>) {
    let process = matches!(case.spec.workload, Workload::Process(_)) && !case.at.has_image;
    for secret in &case.spec.secrets {
        let Some(at) = case.at.secrets.get(&secret.name) else {
            continue;
        };
        if secret.mode & 0o444 == 0 {
            findings.warn(
                *at,
                format!("nobody may read a file of mode {:04o}", secret.mode),
                "write `mode: \"0400\"`, or leave it out".to_owned(),
            );
        }
        if process && secret.container_path.is_some() {
            let because = "a process finds the file in $FLOWCTL_SECRETS_DIR";
            no_effect(*at, "container_path", because, findings);
        }
    }
    if let (Some(at), true) = (case.at.pull, process) {
        no_effect(at, "pull", "a process has no image", findings);
    }
}

/// Inside of a container, its loopback is not the host's.
fn own_loopback(case: &Case<'_>, findings: &mut Findings<'_>) {
    let inside = match &case.spec.workload {
        Workload::Docker(container) => container.network.as_deref() != Some("host"),
        Workload::Nomad(_) | Workload::Kubernetes(_) => true,
        Workload::Process(_) => false,
    };
    for name in ["FLOWCTL_ENDPOINT", "CONTROL_PLANE_ENDPOINT"] {
        let (Some(value), Some(at), true) =
            (case.spec.env.get(name), case.at.env.get(name), inside)
        else {
            continue;
        };
        let bare = value
            .split_once("://")
            .map_or(value.as_str(), |(_, rest)| rest);
        let local = ["localhost", "127.", "[::1]", "0.0.0.0"];
        if local.iter().any(|host| bare.starts_with(host)) {
            findings.warn(
                *at,
                format!("in a container `{name}` means the container itself: it will not register"),
                "leave it out: each component is told where its control plane is".to_owned(),
            );
        }
    }
}

fn overwritten(case: &Case<'_>, findings: &mut Findings<'_>) {
    for name in ["FLOWCTL_INSTANCE", "FLOWCTL_INSTANCE_FILE"] {
        if let Some(at) = case.at.env.get(name) {
            no_effect(*at, name, "flowctl sets it itself", findings);
        }
    }
    if let (Some(at), false) = (
        case.at.env.get("FLOWCTL_SECRETS_DIR"),
        case.spec.secrets.is_empty(),
    ) {
        let because = "flowctl sets it to where the secrets are";
        no_effect(*at, "FLOWCTL_SECRETS_DIR", because, findings);
    }
}
