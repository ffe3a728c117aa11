//! `flowctl describe` and `flowctl why`: why is it (not) running, on one screen.

use std::fmt::Write as _;

use serde_json::json;

use super::Context;
use super::args::{Describe, TextOrJson, Why};
use super::components::age;
use super::events;
use super::exit::{Exit, Failure};
use super::last_lines::{last_lines, last_lines_quietly};
use super::reader;
use super::render::{
    Columns, NONE_WANTED, ended, heading, notes_of, push, replica_name, status, why as reason,
};
use super::target::{Named, Target, component, either, find, narrowed};
use super::text::{Look, Style, Tone, clean, paint, short, tone};
use crate::api::{Client, EventQuery, HostMount, LogEntry, LogParams};
use crate::model::{
    ComponentSpec, ComponentStatus, Event, PipelineKey, PipelineStatus, ProgressStatus,
    ReplicaStatus, Snapshot, StatusCondition, StopTarget, Timestamp, Volume, VolumeSource,
    Workload,
};

/// Events shown.
const EVENTS: usize = 10;
/// Log lines shown, per replica.
const LINES: u64 = 10;

pub(super) async fn why(cx: &mut Context<'_>, args: Why) -> Result<Exit, Failure> {
    let snapshot = reader::status(cx).await?;
    let target = component(&snapshot, cx.global.namespace.as_ref(), &args.component)?;
    let account = account(&cx.client, &snapshot, target, Remarks::Told).await?;
    if args.output == TextOrJson::Json {
        cx.out.line(account.json().to_string().as_bytes())?;
        return Ok(Exit::Done);
    }
    let text = account.why(cx.out.look().style, cx.clock.now());
    cx.out.put(&text)?;
    Ok(Exit::Done)
}

pub(super) async fn run(cx: &mut Context<'_>, args: Describe) -> Result<Exit, Failure> {
    let snapshot = reader::status(cx).await?;
    let (look, now) = (cx.out.look(), cx.clock.now());
    let text = match either(&snapshot, cx.global.namespace.as_ref(), &args.name)? {
        Named::Pipeline(key) => {
            let events = recent(&cx.client, &key, None).await?;
            let only = narrowed(snapshot, Some(&key.namespace), &[key.name.to_string()])?;
            if args.output == TextOrJson::Json {
                let answer = json!({"pipeline": only.pipelines.first(), "events": events});
                cx.out.line(answer.to_string().as_bytes())?;
                return Ok(Exit::Done);
            }
            let mut text = status(&only, Columns::Usual, look, now);
            recent_events(&events, look.style, &mut text);
            text
        }
        Named::Component(target) => {
            let definition = cx.client.definition(&target.pipeline).await;
            let spec = match definition {
                Ok(mut pipeline) => pipeline.components.remove(&target.component),
                // It is being deleted: nothing is wanted of it any more.
                Err(error) => {
                    error.answered()?;
                    None
                }
            };
            let account = account(&cx.client, &snapshot, target, Remarks::Told).await?;
            if args.output == TextOrJson::Json {
                // Without the definition: its values may be secrets.
                cx.out.line(account.json().to_string().as_bytes())?;
                return Ok(Exit::Done);
            }
            account.whole(spec.as_ref(), look, now)
        }
    };
    cx.out.put(&text)?;
    Ok(Exit::Done)
}

/// All that is known of one component.
struct Account<'a> {
    pipeline: &'a PipelineStatus,
    component: &'a ComponentStatus,
    events: Vec<Event>,
    lines: Vec<LogEntry>,
}

/// Why a component is in its state, as `flowctl why` tells it, for those who draw it themselves.
///
/// # Errors
/// When there is no such component, or the daemon does not answer.
pub(super) async fn why_text(
    client: &Client,
    snapshot: &Snapshot,
    target: Target,
    now: Timestamp,
) -> Result<String, Failure> {
    let account = account(client, snapshot, target, Remarks::Dropped).await?;
    Ok(account.why(Style::Plain, now))
}

/// What becomes of remarks about logs that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remarks {
    /// They go to standard error.
    Told,
    /// That is drawn on.
    Dropped,
}

async fn account<'a>(
    client: &Client,
    snapshot: &'a Snapshot,
    target: Target,
    remarks: Remarks,
) -> Result<Account<'a>, Failure> {
    let (pipeline, component) = find(snapshot, &target)
        .ok_or_else(|| Failure::NotFound(format!("there is no component `{target}`")))?;
    let replicas = u64::try_from(component.replicas.len()).unwrap_or(1);
    let params = LogParams {
        tail: Some(LINES * replicas.max(1)),
        defined: true,
        ..LogParams::of(&target.pipeline, target.component.to_string())
    };
    let lines = match remarks {
        Remarks::Told => last_lines(client, &params).await?,
        Remarks::Dropped => last_lines_quietly(client, &params).await?,
    };
    Ok(Account {
        pipeline,
        component,
        events: recent(client, &target.pipeline, Some(&target)).await?,
        lines,
    })
}

async fn recent(
    client: &Client,
    pipeline: &PipelineKey,
    target: Option<&Target>,
) -> Result<Vec<Event>, Failure> {
    let query = EventQuery {
        namespace: Some(pipeline.namespace.clone()),
        pipeline: Some(pipeline.name.clone()),
        component: target.map(|target| target.component.clone()),
        tail: Some(EVENTS),
        ..EventQuery::default()
    };
    Ok(client.kept_events(query).await?)
}

impl Account<'_> {
    /// All of it, for programs.
    fn json(&self) -> serde_json::Value {
        let id = &self.component.id;
        let concerns = |condition: &&StatusCondition| {
            condition.component.as_ref() == Some(id)
                || condition.blocks.iter().any(|path| path.component == *id)
        };
        let conditions: Vec<_> = self.pipeline.conditions.iter().filter(concerns).collect();
        json!({
            "namespace": self.pipeline.namespace,
            "pipeline": self.pipeline.name,
            "component": self.component,
            "conditions": conditions,
            "events": self.events,
            "last_lines": self.lines,
        })
    }

    /// The state of each replica, why it is so, what comes next, and what led there.
    fn why(&self, style: Style, now: Timestamp) -> String {
        let mut text = String::new();
        for replica in &self.component.replicas {
            self.replica(replica, style, now, &mut text);
        }
        self.notes(&mut text);
        if self.component.replicas.is_empty() {
            let id = &self.component.id;
            push(&mut text, |text| writeln!(text, "{id}: {NONE_WANTED}"));
        }
        recent_events(&self.events, style, &mut text);
        text
    }

    fn notes(&self, text: &mut String) {
        for words in notes_of(self.component) {
            field(text, "note", &words);
        }
    }

    fn replica(&self, replica: &ReplicaStatus, style: Style, now: Timestamp, text: &mut String) {
        let name = replica_name(self.component, replica);
        let phase = paint(&replica.phase.to_string(), tone(replica.phase), style);
        let since = short(now.since(replica.since));
        let name = paint(&name, Tone::Strong, style);
        push(text, |text| writeln!(text, "{name}: {phase} for {since}"));
        let reason = reason(replica, now);
        if !reason.is_empty() {
            field(text, "why", &reason);
        }
        if let Some(image) = &replica.image {
            field(text, "image", &clean(&image.to_string()));
        }
        if let Some(exit) = &replica.exit {
            field(text, "last exit", &ended(exit, now));
        }
        if replica.restarts > 0 {
            field(text, "restarts", &replica.restarts.to_string());
        }
        if let Some(registration) = &replica.registration {
            let heartbeat = age(registration.last_heartbeat, now);
            let told = format!("as {}, last heartbeat {heartbeat}", registration.service_id);
            field(text, "registered", &told);
        }
        let lines: Vec<&LogEntry> = self
            .lines
            .iter()
            .filter(|line| line.replica == replica.replica)
            .collect();
        let first = lines.len().saturating_sub(10);
        if !lines.is_empty() {
            text.push_str("  last lines\n");
        }
        for line in &lines[first..] {
            let shown = clean(&line.text);
            push(text, |text| writeln!(text, "    {shown}"));
        }
    }

    /// The same with identity and definition.
    fn whole(&self, spec: Option<&ComponentSpec>, look: Look, now: Timestamp) -> String {
        let mut text = String::new();
        heading(self.pipeline, look, &mut text);
        text.push('\n');
        for replica in &self.component.replicas {
            self.replica(replica, look.style, now, &mut text);
            identity(replica, &mut text);
        }
        text.push('\n');
        let component = self.component;
        push(&mut text, |text| {
            writeln!(
                text,
                "{} is a {} of the {} driver, {} wanted",
                component.id, component.role, component.driver, component.desired
            )
        });
        if let Some(spec) = spec {
            definition(spec, &mut text);
        }
        self.notes(&mut text);
        recent_events(&self.events, look.style, &mut text);
        text
    }
}

fn identity(replica: &ReplicaStatus, text: &mut String) {
    let pid = replica.pid.map(|pid| pid.to_string());
    let instance = replica.instance.as_ref().map(ToString::to_string);
    let spec = replica.spec.as_ref().map(ToString::to_string);
    // One that a cluster runs has a name there.
    let own = replica
        .container
        .as_ref()
        .filter(|_| replica.name.is_none());
    let container = own.map(|id| match &replica.instance {
        // By that name it is known to its engine.
        Some(instance) => format!("{} ({id})", instance.replica.container_name()),
        None => id.clone(),
    });
    for (name, value) in [
        ("pid", pid.as_ref()),
        ("container", container.as_ref()),
        ("name", replica.name.as_ref()),
        ("node", replica.node.as_ref()),
        ("instance", instance.as_ref()),
        ("spec", spec.as_ref()),
    ] {
        if let Some(value) = value {
            field(text, name, value);
        }
    }
    if let Some(progress) = &replica.progress {
        field(text, "progress", &words(progress));
    }
    let metrics = replica.registration.iter().flat_map(|told| &told.metrics);
    for (name, value) in metrics {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        field(text, "metric", &format!("{name} = {value}"));
    }
    for (name, address) in &replica.addresses {
        field(text, "address", &format!("{name} {address}"));
    }
}

/// How far its work gets.
fn words(progress: &ProgressStatus) -> String {
    let ProgressStatus {
        watches,
        value,
        advanced_at,
        why,
        ..
    } = progress;
    if !why.is_empty() {
        return format!("{watches}: {why}");
    }
    match (value, advanced_at) {
        (Some(value), Some(at)) => format!("{watches}: {value}, since {at}"),
        (Some(value), None) => format!("{watches}: {value}, not seen to change yet"),
        (None, _) => format!("{watches}: not seen yet"),
    }
}

/// What the file says, as far as it decides about running.
fn definition(spec: &ComponentSpec, text: &mut String) {
    for dependency in &spec.dependencies {
        let words = format!("{} to be {}", dependency.id, dependency.condition);
        field(text, "waits for", &words);
    }
    let restart = &spec.restart;
    let limit = match restart.limit {
        Some(limit) => format!(", at most {} times", limit.max_retries),
        None => String::new(),
    };
    field(
        text,
        "restart",
        &format!(
            "{} after {} to {}{limit}",
            match restart.mode {
                crate::model::RestartMode::Always => "always",
                crate::model::RestartMode::OnFailure => "on failure",
                crate::model::RestartMode::Never => "never",
            },
            restart.initial_delay,
            restart.max_delay,
        ),
    );
    field(text, "stop", &stop(spec));
    if !spec.umask.is_default() {
        field(text, "umask", &spec.umask.to_string());
    }
    if spec.allow_new_privileges {
        field(text, "privileges", "set-uid programs may gain new ones");
    }
    let resources = &spec.resources;
    let limits = [
        ("memory", resources.memory_limit_bytes, "bytes"),
        ("cpu", resources.cpu_limit_millis, "thousandths of a core"),
        ("pids", resources.pids_limit, "processes"),
    ];
    for (name, limit, unit) in limits {
        if let Some(limit) = limit {
            field(text, "limit", &format!("{name} {limit} {unit}"));
        }
    }
    let probes = [
        ("startup", &spec.probes.startup),
        ("readiness", &spec.probes.readiness),
        ("liveness", &spec.probes.liveness),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            let words = format!("{name} every {}", probe.period);
            field(text, "probe", &words);
        }
    }
    for volume in &spec.volumes {
        field(text, "mount", &mount(volume));
    }
    // Names only: values may be secrets.
    let names: Vec<&str> = spec.env.keys().map(String::as_str).collect();
    if !names.is_empty() {
        field(text, "variables", &names.join(" "));
    }
    for file in &spec.env_file {
        field(text, "variables", &format!("of {}", file.display()));
    }
    if !spec.inherit_env.is_empty() {
        let names = spec.inherit_env.join(" ");
        field(text, "variables", &format!("{names} of the daemon's own"));
    }
}

/// What a container is given of the host, of the engine or of memory.
pub(super) fn mount(volume: &Volume) -> String {
    let what = match &volume.source {
        VolumeSource::Bind(path) => format!("{} of the host", path.display()),
        VolumeSource::Named(name) => format!("volume {name}"),
        VolumeSource::Tmpfs => "memory".to_owned(),
    };
    let how = if volume.read_only {
        "to read"
    } else {
        "to write"
    };
    format!("{what} at {}, {how}", volume.target)
}

/// A line for each file and folder of the host that containers are given.
pub(super) fn host_mounts(mounts: &[HostMount]) -> String {
    let line = |one: &HostMount| {
        let words = format!("  {} mounts {}", one.component, mount(&one.volume));
        clean(&words).into_owned() + "\n"
    };
    mounts.iter().map(line).collect()
}

/// Who is asked with what, and for how long it has time.
fn stop(spec: &ComponentSpec) -> String {
    let stop = &spec.stop;
    let signal = match (stop.signal, &spec.workload) {
        (Some(signal), _) => signal.to_string(),
        (None, Workload::Process(_)) => stop.signal_or_term().to_string(),
        (None, Workload::Docker(_) | Workload::Nomad(_) | Workload::Kubernetes(_)) => {
            format!("the image's signal, else {}", stop.signal_or_term())
        }
    };
    let whom = match (stop.to, &spec.workload) {
        (StopTarget::All, _)
        | (_, Workload::Docker(_) | Workload::Nomad(_) | Workload::Kubernetes(_)) => "",
        (StopTarget::Group, Workload::Process(_)) => " to its process group",
        (StopTarget::Main, Workload::Process(_)) => " to its main program",
    };
    format!("{signal}{whom}, then {} of grace", stop.grace_period)
}

fn recent_events(events: &[Event], style: Style, text: &mut String) {
    if events.is_empty() {
        return;
    }
    text.push_str("\nlast events\n");
    for event in events {
        text.push_str("  ");
        text.push_str(&events::line(event, style));
    }
}

fn field(text: &mut String, name: &str, value: &str) {
    let value = clean(value);
    push(text, |text| writeln!(text, "  {name:<10} {value}"));
}

#[cfg(test)]
mod tests {
    use super::super::sample::{ago, now, snapshot};
    use super::*;
    use crate::driver::{LogLine, OutputStream};
    use crate::model::fixtures::{component, container};
    use crate::model::{EventKind, ReplicaKey};

    fn target() -> Target {
        Target {
            pipeline: PipelineKey {
                namespace: Default::default(),
                name: "ttp".parse().unwrap(),
            },
            component: "ttp-processor".parse().unwrap(),
        }
    }

    #[test]
    fn what_a_container_has_of_the_host_is_listed() {
        let mut spec = component("a", 1, &[]);
        spec.workload = container();
        let volume = |source, read_only| Volume {
            source,
            target: "/there".to_owned(),
            read_only,
        };
        spec.volumes = vec![
            volume(VolumeSource::Bind("/etc/hosts".into()), true),
            volume(VolumeSource::Bind("/srv/p/out".into()), false),
            volume(VolumeSource::Named("kept".to_owned()), false),
        ];
        let mut text = String::new();
        definition(&spec, &mut text);
        for line in [
            "mount      /etc/hosts of the host at /there, to read",
            "mount      /srv/p/out of the host at /there, to write",
            "mount      volume kept at /there, to write",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn why_tells_state_reason_next_step_last_exit_last_lines_and_events_on_one_screen() {
        let snapshot = snapshot();
        let (pipeline, component) = find(&snapshot, &target()).unwrap();
        let line = |replica, text: &str| {
            let line = LogLine {
                at_nanos: 0,
                replica: ReplicaKey {
                    component: component.id.clone(),
                    replica,
                },
                incarnation: 1,
                stream: OutputStream::Stderr,
                text: text.as_bytes().to_vec(),
                ends: true,
            };
            LogEntry::new(&target().pipeline, line)
        };
        let account = Account {
            pipeline,
            component,
            events: vec![Event {
                seq: 1,
                at: ago(16),
                namespace: Some(Default::default()),
                pipeline: Some(target().pipeline.name),
                component: Some(target().component),
                replica: Some(1),
                instance: None,
                kind: EventKind::Exited,
                reason: "exit 1".to_owned(),
                message: "exit 1 after 3s".to_owned(),
                ended_by: None,
            }],
            lines: vec![line(0, "hello"), line(1, "panic: \x1b[31mno route")],
        };
        insta::assert_snapshot!(account.why(Style::Plain, now()), @r"
        ttp-processor: starting for 0s
          why        not ready yet: no probe answered
          last lines
            hello
        ttp-processor-1: crashloop for 16s
          why        exit 1 (failure 5); start in 12s
          last exit  exit 1, 16s ago
          restarts   5
          last lines
            panic: \u{1b}[31mno route

        last events
          2026-11-21T02:42:44.000Z  exited         ttp/ttp-processor-1       exit 1 after 3s
        ");
        let look = Look {
            style: Style::Plain,
            columns: None,
        };
        insta::assert_snapshot!(account.whole(None, look, now()), @r"
        ttp  generation 3  not settled  1 of 6 ready, 1 failed  /srv/ttp/pipeline.yaml

        ttp-processor: starting for 0s
          why        not ready yet: no probe answered
          last lines
            hello
          instance   default.ttp.ttp-processor.0.1
          spec       v1:00000000000000aa
        ttp-processor-1: crashloop for 16s
          why        exit 1 (failure 5); start in 12s
          last exit  exit 1, 16s ago
          restarts   5
          last lines
            panic: \u{1b}[31mno route
          instance   default.ttp.ttp-processor.1.1
          spec       v1:00000000000000aa

        ttp-processor is a processor of the process driver, 2 wanted

        last events
          2026-11-21T02:42:44.000Z  exited         ttp/ttp-processor-1       exit 1 after 3s
        ");
    }
}
