//! The pod of one instance.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::probes::{self, seconds};
use super::shared::{self, TOKEN_KEY};
use super::{MAIN, Order, Values, failure, identity, names};
use crate::driver::CAPABILITIES;
use crate::driver::variables::given;
use crate::model::{
    ComponentSpec, ContainerSpec, ImageChoice, ImagePullPolicy, KubernetesOptions, KubernetesSpec,
    Port, Resources, SecretSource, SecurityProfile, StartFailure, TaintEffect, Toleration, Volume,
    VolumeSource,
};

/// The variable of a token.
pub(super) const TOKEN: &str = "COMPONENT_TOKEN";
/// The variable of the file that a token is in.
const TOKEN_FILE: &str = "COMPONENT_TOKEN_FILE";
/// Where a pod finds its token.
const TOKEN_DIR: &str = "/run/flowctl/token";
/// Where a pod finds its secrets.
const SECRETS: &str = "/run/flowctl/secrets";

/// The pod of the instance of `order`, as a Job has it.
pub(super) fn template(
    order: &Order<'_>,
    pod: &KubernetesSpec,
    token: Option<&str>,
) -> Result<Value, StartFailure> {
    let launch = order.launch;
    let (spec, options) = (&launch.spec, &pod.options);
    let replica = &launch.instance.replica;
    let user = User::of(spec)?;
    let mounts = Mounts::of(order, user, token);
    let mut main = Map::new();
    let mut set = |name: &str, value: Value| main.insert(name.to_owned(), value);
    set("name", MAIN.into());
    set("image", image(&launch.image, &pod.container).into());
    if let Some(pull) = pod.container.pull {
        set("imagePullPolicy", pull_policy(pull).into());
    }
    let words = words(&pod.container, replica.replica);
    if !words.is_empty() {
        set("args", words.into());
    }
    if let Some(dir) = &pod.container.working_dir {
        let dir = ComponentSpec::for_replica(dir, replica.replica);
        set("workingDir", dir.into());
    }
    set("env", variables(order, token)?);
    if !spec.ports.is_empty() {
        let ports = spec.ports.iter().map(|port| container_port(port, options));
        set("ports", ports.collect());
    }
    if let Some(resources) = resources(&spec.resources) {
        set("resources", resources);
    }
    if !mounts.mounts.is_empty() {
        set("volumeMounts", mounts.mounts.into());
    }
    for (name, probe) in probes::of(&spec.probes.for_replica(replica.replica)) {
        set(&name, probe);
    }
    if let Some(signal) = spec.stop.signal {
        // A cluster that does not know it leaves it out, and sends SIGTERM.
        set("lifecycle", json!({"stopSignal": signal.to_string()}));
    }
    if let Some(context) = container_context(options.security, spec) {
        set("securityContext", context);
    }
    // What a run said last is still known once its log is gone.
    set("terminationMessagePolicy", "FallbackToLogsOnError".into());
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("restartPolicy", "Never".into());
    set("hostname", names::host(replica).into());
    if !spec.ports.is_empty() {
        // Also while there is one replica: its pod need not change once there are more.
        let subdomain = names::headless(&launch.instance.pipeline, &spec.id);
        set("subdomain", subdomain.into());
    }
    // Variables of Services would overrule what programs read: NAME_PORT is an address there.
    set("enableServiceLinks", false.into());
    set(
        "automountServiceAccountToken",
        options.service_account.is_some().into(),
    );
    if let Some(account) = &options.service_account {
        set("serviceAccountName", account.clone().into());
    }
    set(
        "terminationGracePeriodSeconds",
        seconds(spec.stop.grace_period).into(),
    );
    set("os", json!({"name": "linux"}));
    if let Some(context) = pod_context(options.security, user) {
        set("securityContext", context);
    }
    place(options, &mut set);
    set("containers", json!([main]));
    if !mounts.volumes.is_empty() {
        set("volumes", mounts.volumes.into());
    }
    let mut labels = Map::new();
    for (name, value) in &options.labels {
        labels.insert(name.clone(), value.clone().into());
    }
    // Ours win: a pod is found by them.
    labels.extend(identity::of_instance(order.owner, launch));
    let mut metadata = json!({"labels": labels});
    let mut annotations = Map::new();
    for (name, value) in &options.annotations {
        annotations.insert(name.clone(), value.clone().into());
    }
    annotations.insert(
        identity::INSTANCE.to_owned(),
        launch.instance.to_string().into(),
    );
    metadata["annotations"] = annotations.into();
    Ok(json!({"metadata": metadata, "spec": body}))
}

/// Where a pod may go, and how urgent it is.
fn place(options: &KubernetesOptions, set: &mut impl FnMut(&str, Value) -> Option<Value>) {
    if !options.image_pull_secrets.is_empty() {
        let names = options.image_pull_secrets.iter();
        let names = names.map(|name| json!({"name": name}));
        set("imagePullSecrets", names.collect());
    }
    if !options.node_selector.is_empty() {
        set("nodeSelector", json!(options.node_selector));
    }
    if !options.tolerations.is_empty() {
        set(
            "tolerations",
            options.tolerations.iter().map(toleration).collect(),
        );
    }
    if let Some(class) = &options.priority_class {
        set("priorityClassName", class.clone().into());
    }
    if let Some(class) = &options.runtime_class {
        set("runtimeClassName", class.clone().into());
    }
}

fn toleration(toleration: &Toleration) -> Value {
    let Toleration {
        key,
        value,
        effect,
        seconds,
    } = toleration;
    let mut taint = Map::new();
    let mut set = |name: &str, value: Value| taint.insert(name.to_owned(), value);
    if let Some(key) = key {
        set("key", key.clone().into());
    }
    match value {
        Some(value) => {
            set("operator", "Equal".into());
            set("value", value.clone().into());
        }
        None => drop(set("operator", "Exists".into())),
    }
    if let Some(effect) = effect {
        let effect = match effect {
            TaintEffect::NoSchedule => "NoSchedule",
            TaintEffect::PreferNoSchedule => "PreferNoSchedule",
            TaintEffect::NoExecute => "NoExecute",
        };
        set("effect", effect.into());
    }
    if let Some(seconds) = seconds {
        set("tolerationSeconds", (*seconds).into());
    }
    taint.into()
}

/// `text` as the kubelet has to be given it, so that the program gets it as it is: it would put the value
/// of a variable in the place of `$(NAME)`.
pub(super) fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

/// The image to start: its name, or what that has come to mean.
fn image(choice: &ImageChoice, container: &ContainerSpec) -> String {
    match choice {
        ImageChoice::ByPolicy | ImageChoice::Pulled => container.image.clone(),
        ImageChoice::Recorded(image) => image.clone(),
    }
}

fn pull_policy(pull: ImagePullPolicy) -> &'static str {
    match pull {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    }
}

/// What the image's entrypoint is given: here, too, `command` takes the place of the image's CMD and
/// leaves its ENTRYPOINT alone.
fn words(container: &ContainerSpec, replica: u32) -> Vec<String> {
    let command = container.command.iter().flatten();
    command
        .chain(&container.args)
        .map(|word| escaped(&ComponentSpec::for_replica(word, replica)))
        .collect()
}

/// The variables of a pod; later sources win.
fn variables(order: &Order<'_>, token: Option<&str>) -> Result<Value, StartFailure> {
    let launch = order.launch;
    let spec = &launch.spec;
    let mut variables: BTreeMap<String, String> = launch.injected.clone();
    variables.remove(TOKEN);
    variables.remove(TOKEN_FILE);
    if token.is_some() {
        variables.insert(TOKEN_FILE.to_owned(), format!("{TOKEN_DIR}/{TOKEN_KEY}"));
    }
    let from_files = match &order.values {
        Values::Read(inputs) => &inputs.variables[..],
        Values::Withheld(variables) => variables,
    };
    variables.extend(given(spec, from_files)?);
    for (name, value) in &spec.env {
        let value = ComponentSpec::for_replica(value, launch.instance.replica.replica);
        variables.insert(name.clone(), value);
    }
    variables.insert("FLOWCTL_INSTANCE".to_owned(), launch.instance.to_string());
    if !spec.secrets.is_empty() {
        variables.insert("FLOWCTL_SECRETS_DIR".to_owned(), SECRETS.to_owned());
    }
    let mut list: Vec<Value> = Vec::with_capacity(variables.len() + 1);
    // The user's own value wins over ours.
    if token.is_some() && !variables.contains_key(TOKEN) {
        let name = names::token(order.pipeline(), order.replica());
        let from = json!({"secretKeyRef": {"name": name, "key": TOKEN_KEY}});
        list.push(json!({"name": TOKEN, "valueFrom": from}));
    }
    let given = variables.into_iter();
    list.extend(given.map(|(name, value)| json!({"name": name, "value": escaped(&value)})));
    Ok(list.into())
}

fn container_port(port: &Port, options: &KubernetesOptions) -> Value {
    let mut body = json!({
        "name": shared::port_name(port),
        "containerPort": port.container_port,
        "protocol": shared::protocol(port.protocol),
    });
    if let (Some(host), true) = (port.host_port, options.allow_host_ports) {
        body["hostPort"] = host.into();
        if let Some(ip) = port.host_ip {
            body["hostIP"] = ip.to_string().into();
        }
    }
    body
}

/// Limits, and what is set aside; `None` = neither was written, and the cluster decides.
fn resources(resources: &Resources) -> Option<Value> {
    let amounts = |cpu: Option<u64>, memory: Option<u64>| {
        let mut amounts = Map::new();
        if let Some(millis) = cpu {
            amounts.insert("cpu".to_owned(), format!("{millis}m").into());
        }
        if let Some(bytes) = memory {
            amounts.insert("memory".to_owned(), bytes.to_string().into());
        }
        amounts
    };
    let limits = amounts(resources.cpu_limit_millis, resources.memory_limit_bytes);
    let requests = amounts(resources.cpu_request_millis, resources.memory_request_bytes);
    let mut body = Map::new();
    for (name, amounts) in [("requests", requests), ("limits", limits)] {
        if !amounts.is_empty() {
            body.insert(name.to_owned(), amounts.into());
        }
    }
    (!body.is_empty()).then(|| body.into())
}

/// Who the program runs as.
#[derive(Clone, Copy)]
enum User {
    /// Whoever the image says.
    OfImage,
    /// This user, and this group where one was named.
    Known(u32, Option<u32>),
}

impl User {
    fn of(spec: &ComponentSpec) -> Result<Self, StartFailure> {
        let Some(text) = &spec.user else {
            return Ok(Self::OfImage);
        };
        let named = || failure::named_user(text);
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text.as_str(), None),
        };
        let user = match user {
            "root" => 0,
            user => user.parse().map_err(|_| named())?,
        };
        let group = match group {
            Some("root") => Some(0),
            Some(group) => Some(group.parse().map_err(|_| named())?),
            None => None,
        };
        Ok(Self::Known(user, group))
    }

    /// The group that files of the cluster are given to, so that the user can read them.
    fn group_of_files(self) -> Option<u32> {
        match self {
            Self::OfImage | Self::Known(0, None) => None,
            Self::Known(user, group) => Some(group.unwrap_or(user)),
        }
    }

    /// The permission bits of a secret of `mode`. Files of the cluster are root's: whoever reads them is
    /// let in as owner, as the group of files, or, where nobody knows who that is, as everybody. Only
    /// this pod sees them.
    fn mode(self, mode: u32) -> u32 {
        let mode = mode & 0o777;
        match self {
            Self::Known(0, _) => mode,
            Self::Known(..) => mode | ((mode & 0o700) >> 3),
            Self::OfImage => mode | 0o444,
        }
    }
}

/// What the containers of a pod may do.
fn pod_context(security: SecurityProfile, user: User) -> Option<Value> {
    let mut context = Map::new();
    let mut set = |name: &str, value: Value| context.insert(name.to_owned(), value);
    if let User::Known(user, group) = user {
        set("runAsUser", user.into());
        if let Some(group) = group {
            set("runAsGroup", group.into());
        }
    }
    if let Some(group) = user.group_of_files() {
        set("fsGroup", group.into());
        // A large volume is not gone through at each start.
        set("fsGroupChangePolicy", "OnRootMismatch".into());
    }
    match (security, user) {
        (SecurityProfile::Restricted, _) => drop(set("runAsNonRoot", true.into())),
        (SecurityProfile::SameAsDocker, User::Known(user, _)) if user > 0 => {
            set("runAsNonRoot", true.into());
        }
        // An image with a named user would not start.
        (SecurityProfile::SameAsDocker | SecurityProfile::Image, _) => {}
    }
    match security {
        SecurityProfile::SameAsDocker | SecurityProfile::Restricted => {
            set("seccompProfile", json!({"type": "RuntimeDefault"}));
        }
        SecurityProfile::Image => {}
    }
    (!context.is_empty()).then(|| context.into())
}

/// What the program may do.
fn container_context(security: SecurityProfile, spec: &ComponentSpec) -> Option<Value> {
    match security {
        SecurityProfile::SameAsDocker => Some(json!({
            "allowPrivilegeEscalation": spec.allow_new_privileges,
            "capabilities": {"drop": ["ALL"], "add": CAPABILITIES},
        })),
        SecurityProfile::Restricted => Some(json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        })),
        SecurityProfile::Image => None,
    }
}

/// The volumes of a pod and where its container sees them.
#[derive(Default)]
struct Mounts {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl Mounts {
    fn of(order: &Order<'_>, user: User, token: Option<&str>) -> Self {
        let mut all = Self::default();
        all.token(order, user, token);
        all.secrets(order, user);
        for (number, volume) in order.launch.spec.volumes.iter().enumerate() {
            all.volume(order, number, volume);
        }
        all
    }

    /// A whole folder, so that a renewed token is seen.
    fn token(&mut self, order: &Order<'_>, user: User, token: Option<&str>) {
        if token.is_none() {
            return;
        }
        let name = names::token(order.pipeline(), order.replica());
        let mode = user.mode(0o400);
        let secret = json!({"secretName": name, "defaultMode": mode});
        self.volumes
            .push(json!({"name": "token", "secret": secret}));
        self.mounts
            .push(json!({"name": "token", "mountPath": TOKEN_DIR, "readOnly": true}));
    }

    fn secrets(&mut self, order: &Order<'_>, user: User) {
        let spec = &order.launch.spec;
        if spec.secrets.is_empty() {
            return;
        }
        let mut sources: Vec<Value> = Vec::new();
        if let Some(name) = shared::values_name(order) {
            let items = shared::own(spec).map(|secret| {
                json!({"key": secret.name, "path": secret.name, "mode": user.mode(secret.mode)})
            });
            let items: Vec<Value> = items.collect();
            sources.push(json!({"secret": {"name": name, "items": items}}));
        }
        for secret in &spec.secrets {
            let SecretSource::Cluster(at) = &secret.source else {
                continue;
            };
            let item = json!({"key": at.key, "path": secret.name, "mode": user.mode(secret.mode)});
            sources.push(json!({"secret": {"name": at.secret, "items": [item]}}));
        }
        self.volumes
            .push(json!({"name": "secrets", "projected": {"sources": sources}}));
        self.mounts
            .push(json!({"name": "secrets", "mountPath": SECRETS, "readOnly": true}));
        for secret in &spec.secrets {
            if let Some(path) = &secret.container_path {
                self.mounts.push(json!({
                    "name": "secrets",
                    "mountPath": path,
                    "subPath": secret.name,
                    "readOnly": true,
                }));
            }
        }
    }

    fn volume(&mut self, order: &Order<'_>, number: usize, volume: &Volume) {
        let name = format!("volume-{number}");
        let source = match &volume.source {
            VolumeSource::Named(named) => {
                let claim = names::claim(&order.launch.instance.pipeline, named);
                json!({"persistentVolumeClaim": {"claimName": claim}})
            }
            VolumeSource::Tmpfs => json!({"emptyDir": {"medium": "Memory"}}),
            // A manifest has some only where it says that the node's are meant.
            VolumeSource::Bind(path) => json!({"hostPath": {"path": path.to_string_lossy()}}),
        };
        let mut body = json!({"name": name});
        if let (Value::Object(body), Value::Object(source)) = (&mut body, source) {
            body.extend(source);
        }
        self.volumes.push(body);
        let mut mount = json!({"name": name, "mountPath": volume.target});
        if volume.read_only {
            mount["readOnly"] = true.into();
        }
        self.mounts.push(mount);
    }
}
