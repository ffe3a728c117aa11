//! Combinations of fields that can never come true are told, and those that can are not.

use super::{HEAD, read};

/// Every error and warning of the pipeline whose `spec` holds `body`, in one line each.
fn said(body: &str) -> Vec<String> {
    let text = format!("{HEAD}{body}");
    let found = match read(&text) {
        Ok(parsed) => parsed.warnings,
        Err(problems) => problems,
    };
    let lines = found.findings.iter();
    lines
        .map(|it| {
            assert!(it.line.is_some() && it.column.is_some(), "{it:?}");
            format!("{:?}: {}", it.severity, it.message)
        })
        .collect()
}

/// One process with `fields`.
fn of_process(fields: &str) -> Vec<String> {
    said(&format!("  sources: [{{id: a, command: [x]{fields}}}]\n"))
}

/// One container with `fields`.
fn of_container(fields: &str) -> Vec<String> {
    said(&format!("  sources: [{{id: a, image: x{fields}}}]\n"))
}

/// A job with `fields` that another component waits for.
fn of_job(condition: &str, fields: &str) -> Vec<String> {
    said(&format!(
        "  sources: [{{id: job, command: [x]{fields}}}]\n  sinks: [{{id: app, command: [x], depends_on: [{{id: job, condition: {condition}}}]}}]\n"
    ))
}

#[test]
fn progress_that_can_never_be_seen_or_helps_nobody_is_told() {
    for (fields, message) in [
        (
            "progress: {metric: m, max_age: 1m, while: upstream-progressing}",
            "Error: nothing is ever expected of it: `while: upstream-progressing`, and none of its `inputs` has a `progress`",
        ),
        (
            "progress: {output: 1m, on_stall: restart}, restart: never",
            "Error: `on_stall: restart` would only end it: under `restart: never` nothing is started again",
        ),
        (
            "progress: {metric: m, max_age: 1m}, env: {ENABLE_FLOWCTL: false}",
            "Error: its figure never comes: its `env` turns heartbeats off",
        ),
        (
            "progress: {metric: m, max_age: 10s}",
            "Warning: it stands still between any two heartbeats: they come every 10s, and `max_age` is 10s",
        ),
        (
            "progress: {http: {port: 80}, max_age: 1m}, replicas: 2",
            "Warning: the work of all 2 replicas is looked at by one port, 80, which one of them has",
        ),
    ] {
        assert_eq!(of_process(&format!(", {fields}")), [message]);
    }
    for fields in [
        "progress: {output: 1m, on_stall: restart}",
        "progress: {output: 1m}, env: {ENABLE_FLOWCTL: false}",
        "progress: {metric: m, max_age: 10s}, env: {FLOWCTL_HEARTBEAT_INTERVAL: 1000ms}",
        "progress: {http: {port: '808${{ component.replica }}'}, max_age: 1m}, replicas: 2",
    ] {
        assert_eq!(of_process(&format!(", {fields}")), Vec::<String>::new());
    }
    let after = said(
        "  sources: [{id: a, command: [x], progress: {output: 1m}}]\n  sinks: [{id: b, command: [x], inputs: [a], progress: {output: 1m, while: upstream-progressing}}]\n",
    );
    assert_eq!(after, Vec::<String>::new());
}

#[test]
fn what_most_kernels_would_not_hand_to_a_program_is_told_with_its_size() {
    let long = "x".repeat(131_072);
    let arg = of_process(&format!(", args: [{long}]"));
    assert_eq!(
        arg,
        ["Warning: this argument is 131073 bytes long, and most kernels take no more than 131072"]
    );
    let probe = of_process(&format!(
        ", probes: {{readiness: {{exec: [test, {long}]}}}}"
    ));
    assert_eq!(probe, arg);
    let variable = of_container(&format!(", env: {{BLOB: {}}}", &long[..131_067]));
    assert_eq!(
        variable,
        ["Warning: variable BLOB is 131073 bytes long, and most kernels take no more than 131072"]
    );
    let fits = format!(
        ", args: [{}], env: {{B: {}}}",
        &long[..131_071],
        &long[..131_069]
    );
    assert_eq!(of_process(&fits), Vec::<String>::new());
}

#[test]
fn a_pair_of_fields_that_cannot_work_is_told_once() {
    for (said, expected) in [
        (of_job("completed", ""), "Error: `job` is never completed"),
        (
            of_job("completed", ", restart: always"),
            "Error: `job` is never completed",
        ),
        (
            of_job(
                "completed",
                ", restart: {policy: on-failure, success_codes: []}",
            ),
            "Error: `job` is never completed",
        ),
        (
            of_process(", replicas: 2, probes: {readiness: {tcp: 80}}"),
            "Warning: the readiness probe asks all 2 replicas at one port, 80",
        ),
        (
            of_process(
                ", replicas: 20, probes: {liveness: {tcp: \"6553${{ component.replica }}\"}}",
            ),
            "Error: the liveness probe has no port for replica 6",
        ),
        (
            of_process(", restart: {policy: never, max_retries: 3}"),
            "Warning: `max_retries` has no effect",
        ),
        (
            of_process(", restart: {policy: never, jitter: 0.5}"),
            "Warning: `jitter` has no effect",
        ),
        (
            of_process(", restart: {backoff: fixed, factor: 3}"),
            "Warning: `factor` has no effect",
        ),
        (
            of_process(", restart: {backoff: fixed, max_delay: 2m}"),
            "Warning: `max_delay` has no effect",
        ),
        (
            of_process(", restart: {backoff: linear, factor: 3}"),
            "Warning: `factor` has no effect",
        ),
        (
            of_process(", restart: {max_retries: 5, window: 10s}"),
            "Warning: `max_retries: 5` is never spent",
        ),
        (
            of_process(
                ", restart: {backoff: fixed, initial_delay: 1m, max_retries: 1000000, window: 1h}",
            ),
            "Warning: `max_retries: 1000000` is never spent",
        ),
        (
            of_process(", ready_after: 5s, probes: {readiness: {tcp: 80}}"),
            "Warning: `ready_after` has no effect",
        ),
        (
            of_process(", registration: required, env: {ENABLE_FLOWCTL: false}"),
            "Error: it never registers",
        ),
        (
            of_process(
                ", probes: {liveness: {heartbeat: {ttl: 1m}}}, env: {ENABLE_FLOWCTL: false}",
            ),
            "Error: the liveness probe never passes",
        ),
        (
            of_process(", probes: {liveness: {heartbeat: {ttl: 5s}}}"),
            "Warning: the liveness probe fails between any two heartbeats",
        ),
        (
            of_process(
                ", ports: [{containerPort: 53, protocol: UDP}], probes: {readiness: {tcp: 53}}",
            ),
            "Warning: the readiness probe asks over TCP",
        ),
        (
            of_process(", stop: {signal: STOP}"),
            "Warning: no program ends by SIGSTOP",
        ),
        (
            of_process(", ports: [{containerPort: 80, hostPort: 81}]"),
            "Warning: `hostPort` has no effect",
        ),
        (
            of_container(", ports: [{containerPort: 80, hostIP: 0.0.0.0}]"),
            "Warning: `hostIP` has no effect",
        ),
        (
            of_process(", secrets: [{name: s, file: f, mode: \"0200\"}]"),
            "Warning: nobody may read a file of mode 0200",
        ),
        (
            of_process(", secrets: [{name: s, file: f, container_path: /s}]"),
            "Warning: `container_path` has no effect",
        ),
        (of_process(", pull: never"), "Warning: `pull` has no effect"),
        (
            of_process(
                ", umask: 022, stop: {to: main}, volumes: [{tmpfs: true, container_path: /x}]",
            ),
            "Warning: `volumes` has no effect",
        ),
        (
            of_container(", umask: 027"),
            "Warning: `umask` has no effect",
        ),
        (
            of_container(", stop: {to: group}"),
            "Warning: `to` has no effect",
        ),
        (
            of_container(", env: {FLOWCTL_ENDPOINT: \"localhost:8080\"}"),
            "Warning: in a container `FLOWCTL_ENDPOINT` means the container itself",
        ),
        (
            of_container(", env: {FLOWCTL_INSTANCE: x}"),
            "Warning: `FLOWCTL_INSTANCE` has no effect",
        ),
        (
            of_container(", working_dir: ./app"),
            "Warning: a relative `working_dir` has no effect on a container",
        ),
        (
            of_process(", config: {depth: 3}"),
            "Warning: `config` reaches no program",
        ),
    ] {
        assert_eq!(said.len(), 1, "{expected}: {said:?}");
        assert!(
            said[0].starts_with(expected),
            "{said:?} instead of {expected}"
        );
    }
}

#[test]
fn what_can_come_true_is_not_told_of() {
    for said in [
        of_job("completed", ", restart: on-failure"),
        of_job("completed", ", restart: never"),
        of_job(
            "completed",
            ", restart: {policy: never, success_codes: [3]}",
        ),
        of_job("ready", ""),
        of_job("started", ""),
        of_process(", restart: {max_retries: 5, window: 31s}"),
        of_process(", restart: {max_retries: 5}"),
        of_process(", restart: {backoff: fixed, initial_delay: 1s, max_retries: 100, window: 2m}"),
        of_process(", restart: {initial_delay: 0s, max_retries: 1000000, window: 1s}"),
        of_process(", ready_after: 5s, probes: {liveness: {tcp: 80}}"),
        of_process(", registration: required, env: {ENABLE_FLOWCTL: true}"),
        of_process(", probes: {liveness: {heartbeat: {ttl: 30s}}}"),
        of_process(
            ", probes: {liveness: {heartbeat: {ttl: 5s}}}, env: {FLOWCTL_HEARTBEAT_INTERVAL: 1000ms}",
        ),
        of_process(
            ", ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}], probes: {readiness: {tcp: 53}}",
        ),
        of_process(", stop: {signal: SIGRTMIN+3, to: group}"),
        of_process(", ports: [{containerPort: 80, hostPort: 80}]"),
        of_process(", env: {FLOWCTL_ENDPOINT: \"localhost:8080\"}"),
        of_process(", allow_new_privileges: true, umask: \"027\""),
        of_container(", env: {FLOWCTL_ENDPOINT: \"plane:8080\"}"),
        of_container(", stop: {to: main, signal: SIGQUIT}"),
        of_container(", ports: [{containerPort: 80, hostPort: 81, hostIP: 0.0.0.0}]"),
        of_container(", working_dir: /app, pull: always"),
        // One file for every driver.
        said(
            "  driver: process\n  sources: [{id: a, image: x, binary: y, pull: never, ports: [{containerPort: 80, hostPort: 81}], volumes: [{tmpfs: true, container_path: /x}]}]\n",
        ),
    ] {
        assert!(said.is_empty(), "{said:?}");
    }
}

#[test]
fn one_mistake_gets_one_message() {
    for (body, expected) in [
        (
            "  sources: [{id: a, comand: [x]}]\n",
            "unknown field `comand`",
        ),
        ("  sources: [{id: a, imgae: x}]\n", "unknown field `imgae`"),
        (
            "  driver: docker\n  sources: [{id: a, imgae: x}]\n",
            "unknown field `imgae`",
        ),
        (
            "  sources: [{idd: a, command: [x]}]\n",
            "unknown field `idd`",
        ),
        (
            "  source: [{id: a, command: [x]}]\n",
            "unknown field `source`",
        ),
        ("  sources: {id: a}\n", "`sources` must be a list"),
        (
            "  sources: [{id: a_b, command: [x]}]\n  sinks: [{id: c, command: [x], inputs: [a]}]\n",
            "`a_b`",
        ),
        (
            "  source: [{id: a, command: [x]}]\n  sinks: [{id: c, command: [x], inputs: [a], env: {A: \"${{ components.a.port }}\"}}]\n",
            "unknown field `source`",
        ),
        (
            "  sources: [{id: a, command: [x], probes: {readiness: {htpp: 80}}}]\n",
            "unknown field `htpp`",
        ),
        (
            "  sources: [{id: a, command: [x], probes: {readiness: {http: {prot: 80}}}}]\n",
            "unknown field `prot`",
        ),
        (
            "  sources: [{id: a, command: [x], ports: [{containerPrt: 80}]}]\n",
            "unknown field `containerPrt`",
        ),
        (
            "  sources: [{id: a, command: [x], secrets: [{name: s, flie: /x}]}]\n",
            "unknown field `flie`",
        ),
        (
            "  sources: [{id: a, command: [x], secrets: [{nmae: s, file: /x}]}]\n",
            "unknown field `nmae`",
        ),
        (
            "  sources: [{id: a, image: x, volumes: [{host_pth: /x, container_path: /y}]}]\n",
            "unknown field `host_pth`",
        ),
        (
            "  sources: [{id: a, image: x, volumes: [{host_path: /x, container_pth: /y}]}]\n",
            "unknown field `container_pth`",
        ),
        (
            "  sources: [{id: a, driver: process, image: x}]\n",
            "the process driver cannot run an image",
        ),
    ] {
        let said = said(body);
        assert_eq!(said.len(), 1, "{body}: {said:?}");
        assert!(said[0].contains(expected), "{said:?} instead of {expected}");
    }
}

#[test]
fn what_is_really_missing_is_told() {
    for (body, expected) in [
        ("  sources: [{id: a}]\n", "names nothing to run"),
        ("  sources: [{id: a, zzz: 1}]\n", "names nothing to run"),
        ("  sources: [{command: [x]}]\n", "has no `id`"),
        ("  description: x\n", "has no components"),
        (
            "  sources: [{id: a, command: [x], secrets: [{name: s}]}]\n",
            "where its value comes from",
        ),
    ] {
        let said = said(body);
        assert!(said.iter().any(|line| line.contains(expected)), "{said:?}");
    }
}

/// Every field may be written in camelCase, as other tools' files have it.
#[test]
fn camel_case_names_are_read_and_told() {
    let whole = std::fs::read_to_string(super::data("good").join("whole-schema.yaml")).unwrap();
    let mut camel = String::new();
    let mut words = whole.split_inclusive(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let mut changed = 0;
    words.by_ref().for_each(|word| {
        let is_key = word.ends_with(':') && word.trim_end_matches(':').contains('_');
        if !is_key {
            camel.push_str(word);
            return;
        }
        changed += 1;
        let mut parts = word.split('_');
        camel.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let (first, rest) = part.split_at(1);
            camel.push_str(&first.to_ascii_uppercase());
            camel.push_str(rest);
        }
    });
    assert!(changed > 20, "only {changed} names");
    let (snake, camel) = (read(&whole).unwrap(), read(&camel).unwrap());
    assert_eq!(snake.pipelines, camel.pipelines);
    assert!(camel.warnings.findings.len() > changed / 2);
}
