//! For every field of a component: `diff` names exactly the path that was edited, in the words of
//! the file, and says that it restarts exactly if the revision changes.

use crate::manifest::{OnEdit, Options, component_fields, on_edit, parse};
use crate::model::PipelineSpec;
use crate::planner::diff::{Effect, diff};

fn pipeline(component: &str) -> PipelineSpec {
    let text = format!(
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{name: p}}\nspec:\n  sources: [{{id: b, command: [x]}}, {{id: c, command: [x]}}]\n  sinks: [{{id: a, {component}}}]\n"
    );
    let parsed = parse("p.yaml", text.as_bytes(), &Options::at("/base"));
    let [pipeline] = parsed.unwrap().pipelines.try_into().unwrap();
    pipeline
}

/// The paths that differ between two components, each with its values and its effect.
fn differing(one: &str, other: &str) -> Vec<(String, Option<String>, Option<String>, Effect)> {
    let (old, new) = (pipeline(one), pipeline(other));
    let found = diff(Some(&old), Some(&new));
    assert!(found.fields.is_empty(), "{one}: {:?}", found.fields);
    let fields = found.components.into_iter().flat_map(|it| it.fields);
    let fields = fields.map(|it| (it.path, it.from, it.to, it.effect));
    let fields: Vec<_> = fields.collect();
    let hash = |spec: &PipelineSpec| spec.components["a"].hash.clone();
    let restarts = fields.iter().any(|field| field.3 == Effect::Restarts);
    assert_eq!(
        restarts,
        hash(&old) != hash(&new),
        "{one} and {other}: {fields:?}"
    );
    fields
}

/// Edits: the path that differs, one form, the other, and what that costs.
fn edits() -> Vec<(&'static str, String, String, Effect)> {
    let (live, restarts) = (Effect::AppliesLive, Effect::Restarts);
    let process = [
        ("args", "args: [\"1\"]", "args: [\"2\"]", restarts),
        (
            "working_dir",
            "working_dir: /a",
            "working_dir: /b",
            restarts,
        ),
        ("env.A", "env: {A: one}", "env: {A: two}", restarts),
        ("env_file", "env_file: [/a]", "env_file: [/b]", restarts),
        (
            "inherit_env",
            "inherit_env: [A]",
            "inherit_env: [B]",
            restarts,
        ),
        (
            "ports",
            "ports: [{containerPort: 80}]",
            "ports: [{containerPort: 81}]",
            restarts,
        ),
        (
            "secrets",
            "secrets: [{name: s, file: /a}]",
            "secrets: [{name: s, file: /b}]",
            restarts,
        ),
        (
            "secrets",
            "secrets: [{name: s, file: /a}]",
            "secrets: [{name: s, file: /a, mode: \"0440\"}]",
            restarts,
        ),
        ("user", "user: root", "user: nobody", restarts),
        ("umask", "umask: 027", "umask: 077", restarts),
        (
            "allow_new_privileges",
            "replicas: 1",
            "allow_new_privileges: true",
            restarts,
        ),
        (
            "resources.limits.cpu",
            "resources: {limits: {cpu: 1}}",
            "resources: {limits: {cpu: 500m}}",
            restarts,
        ),
        (
            "resources.limits.memory",
            "resources: {limits: {memory: 64Mi}}",
            "resources: {limits: {memory: 1Gi}}",
            restarts,
        ),
        (
            "resources.limits.pids",
            "resources: {limits: {pids: 5}}",
            "resources: {limits: {pids: 6}}",
            restarts,
        ),
        (
            "resources.requests.cpu",
            "resources: {requests: {cpu: 1}}",
            "resources: {requests: {cpu: 2}}",
            restarts,
        ),
        (
            "resources.requests.memory",
            "resources: {requests: {memory: 1Mi}}",
            "resources: {requests: {memory: 2Mi}}",
            restarts,
        ),
        (
            "rlimits.nofile",
            "rlimits: {nofile: 10}",
            "rlimits: {nofile: 20}",
            restarts,
        ),
        (
            "rlimits.core",
            "rlimits: {core: 10}",
            "rlimits: {core: 20}",
            restarts,
        ),
        (
            "config.depth",
            "config: {depth: 1}",
            "config: {depth: 2}",
            restarts,
        ),
        (
            "probes.readiness.http.port",
            "health_port: 80",
            "health_port: 81",
            restarts,
        ),
        (
            "probes.readiness.http.port",
            "env: {HEALTH_PORT: 9}, health_port: 80",
            "env: {HEALTH_PORT: 9}, health_port: 81",
            live,
        ),
        (
            "probes.readiness.http.path",
            "probes: {readiness: {http: {port: 80, path: /a}}}",
            "probes: {readiness: {http: {port: 80, path: /b}}}",
            live,
        ),
        (
            "probes.readiness.tcp",
            "probes: {readiness: {tcp: 80}}",
            "probes: {readiness: {tcp: 81}}",
            live,
        ),
        (
            "probes.liveness.http.port",
            "probes: {liveness: {http: 80}}",
            "probes: {liveness: {http: 81}}",
            live,
        ),
        (
            "probes.liveness.grpc.port",
            "probes: {liveness: {grpc: 80}}",
            "probes: {liveness: {grpc: 81}}",
            live,
        ),
        (
            "probes.liveness.exec",
            "probes: {liveness: {exec: [a]}}",
            "probes: {liveness: {exec: [b]}}",
            live,
        ),
        (
            "probes.liveness.heartbeat.ttl",
            "probes: {liveness: {heartbeat: {ttl: 30s}}}",
            "probes: {liveness: {heartbeat: {ttl: 40s}}}",
            live,
        ),
        (
            "probes.startup.period",
            "probes: {startup: {tcp: 80, period: 1s}}",
            "probes: {startup: {tcp: 80, period: 2s}}",
            live,
        ),
        (
            "probes.startup.timeout",
            "probes: {startup: {tcp: 80, timeout: 1s}}",
            "probes: {startup: {tcp: 80, timeout: 3s}}",
            live,
        ),
        (
            "probes.startup.failures",
            "probes: {startup: {tcp: 80, failures: 1}}",
            "probes: {startup: {tcp: 80, failures: 2}}",
            live,
        ),
        (
            "probes.startup.successes",
            "probes: {startup: {tcp: 80, successes: 1}}",
            "probes: {startup: {tcp: 80, successes: 2}}",
            live,
        ),
        (
            "progress.max_age",
            "progress: {metric: m, max_age: 1m}",
            "progress: {metric: m, max_age: 2m}",
            live,
        ),
        (
            "progress.metric",
            "progress: {metric: m, max_age: 1m}",
            "progress: {metric: n, max_age: 1m}",
            live,
        ),
        (
            "progress.output",
            "progress: {output: 1m}",
            "progress: {output: 2m}",
            live,
        ),
        (
            "progress.http.pointer",
            "progress: {http: {port: 80, pointer: /a}, max_age: 1m}",
            "progress: {http: {port: 80, pointer: /b}, max_age: 1m}",
            live,
        ),
        (
            "progress.http.port",
            "progress: {http: {port: 80}, max_age: 1m}",
            "progress: {http: {port: 81}, max_age: 1m}",
            live,
        ),
        (
            "progress.startup",
            "progress: {output: 1m, startup: 1m}",
            "progress: {output: 1m, startup: 2m}",
            live,
        ),
        (
            "progress.on_stall",
            "progress: {output: 1m}",
            "progress: {output: 1m, on_stall: restart}",
            live,
        ),
        (
            "restart.policy",
            "restart: always",
            "restart: on-failure",
            live,
        ),
        (
            "restart.backoff",
            "restart: {backoff: linear}",
            "restart: {backoff: fixed}",
            live,
        ),
        (
            "restart.initial_delay",
            "restart: {initial_delay: 2s}",
            "restart: {initial_delay: 3s}",
            live,
        ),
        (
            "restart.max_delay",
            "restart: {max_delay: 2m}",
            "restart: {max_delay: 3m}",
            live,
        ),
        (
            "restart.factor",
            "restart: {factor: 3}",
            "restart: {factor: 4}",
            live,
        ),
        (
            "restart.jitter",
            "restart: {jitter: 0.5}",
            "restart: {jitter: 0.75}",
            live,
        ),
        (
            "restart.max_retries",
            "restart: {max_retries: 1}",
            "restart: {max_retries: 2}",
            live,
        ),
        (
            "restart.window",
            "restart: {max_retries: 1, window: 1m}",
            "restart: {max_retries: 1, window: 2m}",
            live,
        ),
        (
            "restart.reset_after",
            "restart: {reset_after: 1m}",
            "restart: {reset_after: 3m}",
            live,
        ),
        (
            "restart.success_codes",
            "restart: {success_codes: [0]}",
            "restart: {success_codes: [3]}",
            live,
        ),
        (
            "stop.signal",
            "stop: {signal: SIGINT}",
            "stop: {signal: SIGRTMIN+3}",
            live,
        ),
        ("stop.to", "stop: {to: main}", "stop: {to: group}", live),
        (
            "stop.grace_period",
            "stop: {grace_period: 1s}",
            "stop: {grace_period: 2s}",
            live,
        ),
        ("ready_after", "ready_after: 2s", "ready_after: 3s", live),
        (
            "logs.max_size",
            "logs: {max_size: 10Mi}",
            "logs: {max_size: 20Mi}",
            live,
        ),
        (
            "logs.max_files",
            "logs: {max_files: 2}",
            "logs: {max_files: 3}",
            live,
        ),
        ("type", "type: one", "type: two", live),
        (
            "depends_on",
            "depends_on: [b]",
            "depends_on: [{id: b, condition: started}]",
            live,
        ),
        (
            "input_event_types",
            "input_event_types: [a]",
            "input_event_types: [b]",
            live,
        ),
        (
            "output_event_types",
            "output_event_types: [a]",
            "output_event_types: [b]",
            live,
        ),
        (
            "registration",
            "registration: optional",
            "registration: required",
            live,
        ),
        ("replicas", "replicas: 1", "replicas: 3", Effect::Starts(2)),
    ];
    let container = [
        ("image", "image: x:1", "image: x:2", restarts),
        (
            "kubernetes.storage.size",
            "image: x, driver: kubernetes, kubernetes: {storage: {size: 1Gi}}",
            "image: x, driver: kubernetes, kubernetes: {storage: {size: 2Gi}}",
            restarts,
        ),
        (
            "kubernetes.security",
            "image: x, driver: kubernetes, kubernetes: {security: image}",
            "image: x, driver: kubernetes, kubernetes: {security: restricted}",
            restarts,
        ),
        (
            "command",
            "image: x, command: [a]",
            "image: x, command: [b]",
            restarts,
        ),
        (
            "args",
            "image: x, args: [a]",
            "image: x, args: [b]",
            restarts,
        ),
        (
            "working_dir",
            "image: x, working_dir: /a",
            "image: x, working_dir: /b",
            restarts,
        ),
        (
            "pull",
            "image: x, pull: never",
            "image: x, pull: always",
            restarts,
        ),
        (
            "volumes",
            "image: x, volumes: [{name: v, container_path: /a}]",
            "image: x, volumes: [{name: v, container_path: /b}]",
            restarts,
        ),
        (
            "volumes",
            "image: x, volumes: [{tmpfs: true, container_path: /a}]",
            "image: x, volumes: [{tmpfs: true, container_path: /a, readonly: true}]",
            restarts,
        ),
    ];
    let of_process = process.map(|(path, one, other, effect)| {
        let with = |fields: &str| format!("command: [x], {fields}");
        (path, with(one), with(other), effect)
    });
    let of_container = container
        .map(|(path, one, other, effect)| (path, one.to_owned(), other.to_owned(), effect));
    of_process.into_iter().chain(of_container).collect()
}

#[test]
fn every_field_is_named_as_in_the_file_and_its_cost_is_true() {
    for (path, one, other, effect) in edits() {
        let differs = differing(&one, &other);
        let told: Vec<_> = differs.iter().map(|it| (it.0.as_str(), it.3)).collect();
        assert_eq!(told, [(path, effect)], "{one} and {other}");
    }
}

#[test]
fn the_vocabulary_says_what_each_edit_costs() {
    let mut told = std::collections::BTreeSet::new();
    for (path, one, other, effect) in edits() {
        let cost = on_edit(path).unwrap_or_else(|| panic!("the vocabulary lacks {path}"));
        // What lies below says more than the mapping as a whole.
        let is_so = cost == OnEdit::Depends
            || match effect {
                Effect::Restarts => matches!(cost, OnEdit::Restarts | OnEdit::RestartsIfTold),
                Effect::AppliesLive => matches!(cost, OnEdit::AppliesLive | OnEdit::RestartsIfTold),
                Effect::Starts(_) | Effect::Stops(_) => cost == OnEdit::StartsOrStops,
            };
        assert!(is_so, "{path}: {cost:?}, but {one} and {other}: {effect:?}");
        told.extend(path.split('.').next());
    }
    // These do not show as one path: whether the revision changes says what they cost.
    for (name, one, other) in [
        ("binary", "binary: x", "binary: y"),
        (
            "driver",
            "image: x, command: [x], driver: process",
            "image: x, command: [x], driver: docker",
        ),
        (
            "inputs",
            "command: [x], inputs: [b]",
            "command: [x], inputs: [c]",
        ),
        (
            "health_check",
            "command: [x], health_port: 80, health_check: /a",
            "command: [x], health_port: 80, health_check: /b",
        ),
    ] {
        let hash = |fields: &str| pipeline(fields).components["a"].hash.clone();
        let restarts = hash(one) != hash(other);
        assert_eq!(on_edit(name) == Some(OnEdit::Restarts), restarts, "{name}");
        told.insert(name);
    }
    // What names it, and what only stands for others.
    told.extend(["id", "health_port", "restart_policy"]);
    let all: std::collections::BTreeSet<_> = component_fields().collect();
    let untold: Vec<_> = all.difference(&told).collect();
    assert!(untold.is_empty(), "no edit of {untold:?} is tried");
}

#[test]
fn values_are_shown_as_they_are_written() {
    for (fields, edited, from, to) in [
        (
            "logs: {max_size: 10Mi}",
            "logs: {max_size: 20Mi}",
            "10Mi",
            "20Mi",
        ),
        (
            "resources: {limits: {cpu: 500m}}",
            "resources: {limits: {cpu: 2}}",
            "500m",
            "2",
        ),
        ("umask: 027", "umask: \"0077\"", "027", "077"),
        (
            "stop: {signal: 37}",
            "stop: {signal: SIGCLD}",
            "SIGRTMIN+3",
            "SIGCHLD",
        ),
        (
            "ports: [{containerPort: 80, name: web}]",
            "ports: [{containerPort: 80, protocol: udp}]",
            "{containerPort: 80, name: web}",
            "{containerPort: 80, protocol: UDP}",
        ),
    ] {
        let with = |fields: &str| format!("command: [x], {fields}");
        let differs = differing(&with(fields), &with(edited));
        let [(_, shown_from, shown_to, _)] = &differs[..] else {
            panic!("{differs:?}");
        };
        assert_eq!(shown_from.as_deref(), Some(from));
        assert_eq!(shown_to.as_deref(), Some(to));
    }
}
