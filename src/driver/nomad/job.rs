//! From a launch to the job that Nomad is asked for. Pure.
//!
//! flowctl alone restarts: Nomad gets no attempt, no other placement, and all time to see a node again.
//! It is a batch job, since only there an exit with 0 is an end.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::names::{self, MAIN};
use super::text;
use crate::driver::Launch;
use crate::model::{
    ComponentSpec, ContainerSpec, ImagePullPolicy, NomadSpec, Port, ProbeCheck, Protocol,
    Resources, StartFailure, VolumeSource,
};

/// Where a container finds what is its own, and what Nomad calls that folder.
const SECRETS: &str = "/secrets/files";
const SECRETS_DIR: &str = "secrets/files";
/// The variable of a token, and of the file that holds it.
pub(super) const TOKEN: &str = "COMPONENT_TOKEN";
pub(super) const TOKEN_FILE: &str = "COMPONENT_TOKEN_FILE";
/// Processes and threads of a container that asks for no limit of its own.
const PIDS: u64 = 1_024;
/// What a program that begins as root commonly needs; all else is taken away.
const CAPABILITIES: [&str; 7] = [
    "chown",
    "dac_override",
    "fowner",
    "setuid",
    "setgid",
    "kill",
    "net_bind_service",
];
/// A node that is away keeps what it runs for so long, which is for good.
const HELD: i64 = 8_760 * 3_600 * SECOND;
const SECOND: i64 = 1_000_000_000;
/// What Nomad sets aside of a node's disk unless somebody says otherwise, in MiB.
const DISK: u64 = 300;
/// A line of a file of variables that is longer is not read.
const LONGEST_LINE: usize = 60 << 10;
/// All that a variable of Nomad's may hold.
const VARIABLE: usize = 64 << 10;

/// What a job is made from.
pub(super) struct Order<'a> {
    pub(super) owner: &'a str,
    pub(super) launch: &'a Launch,
    pub(super) nomad: &'a NomadSpec,
    /// The namespace that it is in, once all defaults are known.
    pub(super) namespace: &'a str,
    pub(super) region: Option<&'a str>,
    /// What runs.
    pub(super) image: String,
    pub(super) pull: Pull,
    /// All variables of its program but its token.
    pub(super) variables: BTreeMap<String, String>,
    /// Its token for the control plane.
    pub(super) token: Option<String>,
    /// The values of its secrets, by name.
    pub(super) secrets: &'a BTreeMap<String, Vec<u8>>,
}

/// When a node looks for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pull {
    /// Before every start.
    Always,
    /// Where it has none of that name.
    IfMissing,
}

impl Pull {
    /// What `policy` comes to.
    pub(super) fn of(policy: Option<ImagePullPolicy>) -> Self {
        match policy {
            Some(ImagePullPolicy::Always) => Self::Always,
            // A node looks for a tag of `latest` each time by itself.
            Some(ImagePullPolicy::IfNotPresent | ImagePullPolicy::Never) | None => Self::IfMissing,
        }
    }
}

/// What a program is told: `given`, then what its file says, then what it is.
pub(super) fn variables(
    mut given: BTreeMap<String, String>,
    launch: &Launch,
) -> BTreeMap<String, String> {
    for (name, value) in &launch.spec.env {
        let value = ComponentSpec::for_replica(value, launch.instance.replica.replica);
        given.insert(name.clone(), value);
    }
    given.insert("FLOWCTL_INSTANCE".to_owned(), launch.instance.to_string());
    if !launch.spec.secrets.is_empty() {
        given.insert("FLOWCTL_SECRETS_DIR".to_owned(), SECRETS.to_owned());
    }
    given
}

/// A job, and the variable that has to be there before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    pub(super) id: String,
    pub(super) job: Value,
    /// What its variable holds; `None` = it needs none.
    pub(super) items: Option<Map<String, Value>>,
}

fn refusal(reason: &str, message: String) -> StartFailure {
    StartFailure {
        reason: reason.to_owned(),
        message,
    }
}

/// The job that `order` describes.
///
/// # Errors
/// What of it Nomad cannot be asked for.
pub(super) fn job(order: &Order<'_>) -> Result<Made, StartFailure> {
    let Order { launch, nomad, .. } = order;
    let spec = &launch.spec;
    let id = names::job(order.owner, &launch.instance);
    let meta = names::meta(order.owner, launch).map_err(|why| refusal("SpecTooLarge", why))?;
    let private = private(order, &id)?;
    let labels = labels(&spec.ports)?;
    let mut task = json!({
        "Name": MAIN,
        "Driver": "docker",
        "Config": config(order, &nomad.container, &labels)?,
        "Env": private.env,
        "Templates": private.templates,
        "Resources": resources(&spec.resources)?,
        "LogConfig": {
            "MaxFiles": spec.logs.max_files.max(1),
            "MaxFileSizeMB": log_size(spec),
        },
        "KillTimeout": nanos(spec.stop.grace_period.get()),
        "KillSignal": spec.stop.signal.map(|signal| signal.to_string()).unwrap_or_default(),
        "ShutdownDelay": 0,
        "RestartPolicy": no_restart(),
        "VolumeMounts": volume_mounts(spec),
    });
    if let Some(user) = &spec.user {
        if text::is_replaced(user) {
            return Err(refusal(
                "UserInvalid",
                format!("the user `{user}` holds `${{`, which Nomad would replace"),
            ));
        }
        task["User"] = user.as_str().into();
    }
    let mut group = json!({
        "Name": MAIN,
        "Count": 1,
        "Tasks": [task],
        "RestartPolicy": no_restart(),
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": false},
        // Without this a node that is lost for a moment makes a second copy elsewhere.
        "Disconnect": {"LostAfter": HELD, "Replace": false, "Reconcile": "keep_original"},
        "EphemeralDisk": {"SizeMB": disk(spec), "Sticky": false, "Migrate": false},
        "Volumes": volumes(spec),
    });
    if !labels.is_empty() {
        group["Networks"] = json!([network(&spec.ports, &labels)]);
    }
    let mut job = json!({
        "ID": id,
        "Name": names::title(&launch.instance),
        "Type": "batch",
        "Namespace": order.namespace,
        "Datacenters": [nomad.datacenter.as_deref().unwrap_or("*")],
        "Meta": meta,
        "TaskGroups": [group],
    });
    if let Some(region) = order.region {
        job["Region"] = region.into();
    }
    Ok(Made {
        id,
        job,
        items: (!private.items.is_empty()).then_some(private.items),
    })
}

fn no_restart() -> Value {
    json!({
        "Attempts": 0,
        "Mode": "fail",
        "Interval": 3_600 * SECOND,
        "Delay": SECOND,
        "RenderTemplates": false,
    })
}

fn nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The size of a log file in MiB, which Nomad counts in, rounded up.
fn log_size(spec: &ComponentSpec) -> u64 {
    spec.logs.max_size_bytes.div_ceil(1 << 20).max(1)
}

/// What has to be set aside of the disk: the logs of both streams, and some.
fn disk(spec: &ComponentSpec) -> u64 {
    let logs = log_size(spec).saturating_mul(u64::from(spec.logs.max_files.max(1)));
    DISK.max(logs.saturating_mul(2).saturating_add(100))
}

fn config(
    order: &Order<'_>,
    container: &ContainerSpec,
    labels: &[String],
) -> Result<Value, StartFailure> {
    let spec = &order.launch.spec;
    let number = order.launch.instance.replica.replica;
    let filled = |text: &String| text::in_config(&ComponentSpec::for_replica(text, number));
    let mut words: Vec<String> = container.command.iter().flatten().map(filled).collect();
    words.extend(container.args.iter().map(filled));
    let mut config = Map::new();
    config.insert("image".to_owned(), text::in_config(&order.image).into());
    // Both replace what the image runs, and keep what it runs it with, as the docker driver does.
    if container.command.is_some() && !words.is_empty() {
        config.insert("command".to_owned(), words.remove(0).into());
    }
    if !words.is_empty() {
        config.insert("args".to_owned(), words.into());
    }
    if let Some(dir) = &container.working_dir {
        config.insert("work_dir".to_owned(), filled(dir).into());
    }
    config.insert("init".to_owned(), true.into());
    config.insert("force_pull".to_owned(), (order.pull == Pull::Always).into());
    config.insert("logging".to_owned(), engine_log());
    config.insert("cap_drop".to_owned(), json!(["all"]));
    config.insert("cap_add".to_owned(), json!(CAPABILITIES));
    let pids = spec.resources.pids_limit.unwrap_or(PIDS);
    config.insert("pids_limit".to_owned(), pids.into());
    if !spec.allow_new_privileges {
        config.insert("security_opt".to_owned(), json!(["no-new-privileges"]));
    }
    if spec.probes.readiness.is_some() {
        // A probe of the file decides; two judges would contradict each other.
        config.insert("healthchecks".to_owned(), json!([{"disable": true}]));
    }
    if !labels.is_empty() {
        config.insert("ports".to_owned(), json!(labels));
    }
    let mut mounts = Vec::new();
    for volume in &spec.volumes {
        let target = text::in_config(&volume.target);
        match &volume.source {
            VolumeSource::Named(_) => {}
            VolumeSource::Tmpfs => mounts.push(json!({"type": "tmpfs", "target": target})),
            VolumeSource::Bind(path) => {
                let Some(path) = path.to_str() else {
                    let message = format!(
                        "the volume {} is no text, and Nomad takes only that",
                        path.display()
                    );
                    return Err(refusal("VolumeInvalid", message));
                };
                mounts.push(json!({
                    "type": "bind",
                    "source": text::in_config(path),
                    "target": target,
                    "readonly": volume.read_only,
                }));
            }
        }
    }
    for secret in &spec.secrets {
        if let Some(path) = &secret.container_path {
            mounts.push(json!({
                "type": "bind",
                "source": text::in_config(&format!("{SECRETS_DIR}/{}", secret.name)),
                "target": text::in_config(path),
                "readonly": true,
            }));
        }
    }
    if !mounts.is_empty() {
        config.insert("mount".to_owned(), mounts.into());
    }
    Ok(config.into())
}

/// The engine's own copy of the output, which Nomad follows. Where it is replaced by the next file while
/// much is written, as with Nomad's own 2 MB, the lines of whole files are lost on the way.
fn engine_log() -> Value {
    json!([{"type": "json-file", "config": [{"max-size": "64m", "max-file": "2"}]}])
}

/// What of a component Nomad cannot be asked for, as far as its definition tells.
///
/// # Errors
/// That.
pub(super) fn check(spec: &ComponentSpec) -> Result<(), StartFailure> {
    labels(&spec.ports)?;
    resources(&spec.resources)?;
    let probes = [
        &spec.probes.startup,
        &spec.probes.readiness,
        &spec.probes.liveness,
    ];
    let mut checks = probes.into_iter().flatten().map(|probe| &probe.check);
    if checks.any(|check| matches!(check, ProbeCheck::Exec { .. })) {
        let message = "a probe of it runs a program (`exec`), and none is run inside of Nomad's jobs: ask a \
                       port instead (`http`, `grpc` or `tcp`)";
        return Err(refusal("ProbeInvalid", message.to_owned()));
    }
    Ok(())
}

/// Named volumes are the hosts' of the cluster.
fn named(spec: &ComponentSpec) -> impl Iterator<Item = (&str, &str, bool)> {
    spec.volumes
        .iter()
        .filter_map(|volume| match &volume.source {
            VolumeSource::Named(name) => {
                Some((name.as_str(), volume.target.as_str(), volume.read_only))
            }
            VolumeSource::Bind(_) | VolumeSource::Tmpfs => None,
        })
}

fn volumes(spec: &ComponentSpec) -> Value {
    let each = named(spec).map(|(name, _, read_only)| {
        let volume = json!({"Name": name, "Type": "host", "Source": name, "ReadOnly": read_only});
        (name.to_owned(), volume)
    });
    Value::Object(each.collect())
}

fn volume_mounts(spec: &ComponentSpec) -> Value {
    named(spec)
        .map(|(name, target, read_only)| {
            json!({"Volume": name, "Destination": target, "ReadOnly": read_only})
        })
        .collect()
}

/// What each port is called in the cluster, in their order.
pub(super) fn labels(ports: &[Port]) -> Result<Vec<String>, StartFailure> {
    let mut labels: Vec<String> = Vec::new();
    for port in ports {
        if port.protocol == Protocol::Sctp {
            let message = format!(
                "port {}/SCTP cannot be given by Nomad: make it TCP or UDP",
                port.container_port
            );
            return Err(refusal("PortInvalid", message));
        }
        let label = label(port);
        // One number over two protocols is one port of Nomad's, which gives both.
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    Ok(labels)
}

/// What one port is called in the cluster.
pub(super) fn label(port: &Port) -> String {
    match &port.name {
        Some(name) => name
            .chars()
            .map(|it| if it.is_ascii_alphanumeric() { it } else { '_' })
            .collect(),
        None => format!("port_{}", port.container_port),
    }
}

fn network(ports: &[Port], labels: &[String]) -> Value {
    let (mut reserved, mut dynamic) = (Vec::new(), Vec::new());
    for wanted in labels {
        let Some(port) = ports.iter().find(|port| label(port) == *wanted) else {
            continue;
        };
        match port.host_port {
            Some(number) => reserved.push(json!({
                "Label": wanted, "Value": number, "To": port.container_port,
            })),
            None => dynamic.push(json!({"Label": wanted, "To": port.container_port})),
        }
    }
    json!({"ReservedPorts": reserved, "DynamicPorts": dynamic})
}

/// MHz and MiB, or whole cores.
fn resources(resources: &Resources) -> Result<Value, StartFailure> {
    let mut asked = Map::new();
    match (resources.cpu_mhz, resources.cpu_request_millis) {
        (Some(mhz), _) => drop(asked.insert("CPU".to_owned(), mhz.into())),
        (None, Some(millis)) if millis > 0 && millis.is_multiple_of(1_000) => {
            asked.insert("Cores".to_owned(), (millis / 1_000).into());
        }
        (None, Some(millis)) => {
            let message = format!(
                "Nomad gives whole cores or MHz, and {millis}m are neither: write `resources: {{cpu: MHZ}}`, \
                 or a whole number of cores"
            );
            return Err(refusal("CpuInvalid", message));
        }
        (None, None) => {}
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let (request, limit) = (resources.memory_request_bytes, resources.memory_limit_bytes);
    if let Some(memory) = request.or(limit) {
        asked.insert("MemoryMB".to_owned(), mib(memory).into());
    }
    if let (Some(request), Some(limit)) = (request, limit)
        && mib(request) < mib(limit)
    {
        asked.insert("MemoryMaxMB".to_owned(), mib(limit).into());
    }
    Ok(asked.into())
}

/// What only the program may read, and how it gets it.
#[derive(Default)]
struct Private {
    /// Variables that are as they are.
    env: Map<String, Value>,
    templates: Vec<Value>,
    /// What the variable of the job holds.
    items: Map<String, Value>,
}

fn private(order: &Order<'_>, id: &str) -> Result<Private, StartFailure> {
    let mut private = Private::default();
    let path = names::variable(id);
    let spec = &order.launch.spec;
    let mut file = String::new();
    for (name, value) in &order.variables {
        if !text::is_replaced(value) {
            private.env.insert(name.clone(), value.as_str().into());
            continue;
        }
        let line = text::assignment(name, value);
        let wrong = match () {
            () if !text::is_assignable(name) => {
                Some("its name is none that Nomad reads from a file")
            }
            () if line.len() > LONGEST_LINE => Some("it is longer than Nomad reads from a file"),
            () => None,
        };
        if let Some(why) = wrong {
            let message = format!(
                "the variable {name} holds `${{`, which Nomad would replace, and {why}: put it into a file"
            );
            return Err(refusal("VariableInvalid", message));
        }
        file.push_str(&line);
    }
    let fences = text::fences(&file);
    if let Some(token) = &order.token {
        private
            .items
            .insert("token".to_owned(), token.as_str().into());
        let (left, right) = &fences;
        file.push_str(&format!(
            "{TOKEN}={left} with nomadVar \"{path}\" {right}{left} .token.Value {right}{left} end {right}\n"
        ));
        private.templates.push(once(
            "secrets/token",
            &render(&path, "token", Held::Text),
            0o444,
            None,
        ));
        private
            .env
            .insert(TOKEN_FILE.to_owned(), "/secrets/token".into());
    }
    if !file.is_empty() {
        let mut template = once("secrets/flowctl.env", &file, 0o400, None);
        template["Envvars"] = true.into();
        template["LeftDelim"] = fences.0.into();
        template["RightDelim"] = fences.1.into();
        private.templates.push(template);
    }
    let owner = spec.user.as_deref().and_then(numbers);
    for (number, secret) in spec.secrets.iter().enumerate() {
        let value = order
            .secrets
            .get(&secret.name)
            .map_or(&[][..], Vec::as_slice);
        let (held, value) = match std::str::from_utf8(value) {
            Ok(text) if !text.contains('\0') => (Held::Text, text.to_owned()),
            Ok(_) | Err(_) => (Held::Encoded, crate::model::codec::to_base64(value)),
        };
        let item = format!("s{number}");
        // Nobody but root and its own user may read it, unless it runs as somebody whose number is
        // only known inside of the image.
        let mode = match (&owner, spec.user.as_deref()) {
            (None, Some(_)) => secret.mode | 0o444,
            (Some(_), _) | (None, None) => secret.mode,
        };
        let path = render(&path, &item, held);
        let template = once(
            &format!("{SECRETS_DIR}/{}", secret.name),
            &path,
            mode,
            owner,
        );
        private.templates.push(template);
        private.items.insert(item, value.into());
    }
    let held: usize = private
        .items
        .iter()
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    if held > VARIABLE {
        let message = format!(
            "its secrets have {} KiB together, and a variable of Nomad's holds {}: give it a volume instead",
            held.div_ceil(1 << 10),
            VARIABLE >> 10
        );
        return Err(refusal("SecretTooLarge", message));
    }
    Ok(private)
}

/// User and group by their numbers; `None` = they are names.
fn numbers(user: &str) -> Option<(u32, u32)> {
    let (user, group) = user.split_once(':').unwrap_or((user, user));
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// How a value is held in a variable, which is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Text,
    Encoded,
}

/// The template that is replaced by one item of the variable at `path`.
fn render(path: &str, item: &str, held: Held) -> String {
    let value = match held {
        Held::Text => format!("{{{{ .{item}.Value }}}}"),
        Held::Encoded => format!("{{{{ base64Decode .{item}.Value }}}}"),
    };
    format!("{{{{ with nomadVar \"{path}\" }}}}{value}{{{{ end }}}}")
}

/// A template that is rendered before the program begins and never again: otherwise servers that are
/// away for minutes end the program.
fn once(path: &str, content: &str, mode: u32, owner: Option<(u32, u32)>) -> Value {
    let mut template = json!({
        "DestPath": path,
        "EmbeddedTmpl": content,
        "Perms": format!("{mode:04o}"),
        "ChangeMode": "noop",
        "Once": true,
    });
    if let Some((user, group)) = owner {
        template["Uid"] = user.into();
        template["Gid"] = group.into();
    }
    template
}
