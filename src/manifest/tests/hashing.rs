//! What restarts a component, and what does not.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{component, pipeline};
use crate::model::{SpecHash, revision};

/// The hash of a process component with `extra` fields.
fn of_process(extra: &str) -> SpecHash {
    component(
        &format!("  sources: [{{id: a, binary: x{extra}}}, {{id: b, command: [y]}}]\n"),
        "a",
    )
    .hash
}

/// The hash of a container with `extra` fields.
fn of_container(extra: &str) -> SpecHash {
    component(&format!("  sources: [{{id: a, image: x{extra}}}]\n"), "a").hash
}

#[test]
fn what_the_running_thing_is_made_of_changes_its_hash() {
    let of_process_fields = [
        "",
        ", args: [a]",
        ", args: [a, b]",
        ", args: [ab]",
        ", working_dir: /tmp",
        ", env: {A: b}",
        ", env: {Ab: \"\"}",
        ", env_file: a",
        ", inherit_env: [A]",
        ", ports: [{containerPort: 80}]",
        ", ports: [{containerPort: 80, protocol: UDP}]",
        ", ports: [{containerPort: 80, name: web}]",
        ", resources: {limits: {cpu: 1}}",
        ", resources: {requests: {cpu: 1}}",
        ", resources: {limits: {memory: 1Gi}}",
        ", rlimits: {nofile: 100}",
        ", rlimits: {core: 100}",
        ", secrets: [{name: s, file: f}]",
        ", secrets: [{name: s, env: f}]",
        ", secrets: [{name: s, env: f, mode: \"0440\"}]",
        ", user: nobody",
        ", umask: 077",
        ", umask: 027",
        ", allow_new_privileges: true",
        ", health_port: 80",
        ", health_port: 81",
        ", config: {a: 1}",
        ", config: {a: \"1\"}",
    ];
    let of_container_fields = [
        "",
        ", command: [a]",
        ", args: [a]",
        ", working_dir: /app",
        ", allow_new_privileges: true",
        ", pull: always",
        ", ports: [{containerPort: 80, hostPort: 81}]",
        ", ports: [{containerPort: 80, hostPort: 81, hostIP: 0.0.0.0}]",
        ", volumes: [{name: v, container_path: /v}]",
        ", volumes: [{host_path: v, container_path: /v}]",
        ", volumes: [{host_path: v, container_path: /v, readonly: true}]",
        ", volumes: [{tmpfs: true, container_path: /v}]",
        ", driver: nomad",
        ", driver: kubernetes",
    ];
    let hashes: BTreeSet<SpecHash> = of_process_fields
        .iter()
        .map(|fields| of_process(fields))
        .chain(
            of_container_fields
                .iter()
                .map(|fields| of_container(fields)),
        )
        .collect();
    assert_eq!(
        hashes.len(),
        of_process_fields.len() + of_container_fields.len()
    );
}

#[test]
fn what_applies_live_changes_no_hash() {
    let plain = of_process("");
    for fields in [
        ", type: other",
        ", inputs: [b]",
        ", depends_on: [{id: b, condition: started}]",
        ", probes: {liveness: {exec: [true], period: 1s}}",
        ", restart: {policy: never, jitter: 0.5}",
        ", stop: {signal: INT, grace_period: 1s}",
        ", stop: {to: main}",
        ", ready_after: 5s",
        ", replicas: 3",
        ", logs: {max_size: 1Mi, max_files: 2}",
        ", input_event_types: [a]",
        ", output_event_types: [a]",
        ", registration: required",
        ", driver: process",
        ", secrets: []",
        ", env: {}",
    ] {
        assert_eq!(of_process(fields), plain, "{fields}");
    }
}

#[test]
fn writing_a_default_or_another_spelling_changes_no_hash() {
    for (one, other) in [
        (
            ", ports: [{containerPort: 80}]",
            ", ports: [{containerPort: 80, protocol: tcp}]",
        ),
        (
            ", secrets: [{name: s, file: f}]",
            ", secrets: [{name: s, host_path: ./f, mode: 0400}]",
        ),
        (", env: {A: 1, B: 2}", ", env: {B: \"2\", A: '1'}"),
        (
            ", config: {a: 1, b: {c: 2, d: 3}}",
            ", config: {b: {d: 3, c: 2}, a: 1}",
        ),
        (", working_dir: .", ""),
        (", umask: 022", ""),
        (", umask: \"0077\"", ", umask: 077"),
        (", allow_new_privileges: false", ""),
        (
            ", resources: {limits: {cpu: 500m, memory: 1Gi}}",
            ", resources: {limits: {cpu: 0.5, memory: 1024Mi}}",
        ),
    ] {
        assert_eq!(of_process(one), of_process(other), "{one} and {other}");
    }
    let before = pipeline("  sources: [{id: a, command: [x]}]\n");
    let after = pipeline(
        "  description: new\n  sinks:\n    # moved, with a comment\n    - id: a\n      binary: x\n",
    );
    assert_eq!(before.components["a"].hash, after.components["a"].hash);
}

#[test]
fn a_neighbours_new_port_changes_who_refers_to_it_and_nobody_else() {
    let with_port = |port: u16| {
        pipeline(&format!(
            "  sources:\n    - {{id: a, command: [x], ports: [{{containerPort: {port}}}]}}\n    - {{id: b, command: [x], env: {{A: \"${{{{ components.a.address }}}}\"}}}}\n    - {{id: c, command: [x], inputs: [a]}}\n"
        ))
    };
    let (before, after) = (with_port(80), with_port(81));
    let changed: Vec<_> = before
        .components
        .values()
        .filter(|component| component.hash != after.components[&component.id].hash)
        .map(|component| component.id.as_str())
        .collect();
    assert_eq!(changed, ["a", "b"]);
}

/// The hashes of an earlier release must be those of this one: whoever changes one of them makes
/// an upgrade restart everything.
#[test]
fn hashes_stay_the_same_over_releases() {
    let recorded = [
        (of_process(""), "v1:2140b85cd71fa857"),
        (
            of_process(", args: [a], env: {A: b}, ports: [{containerPort: 80}], user: nobody"),
            "v1:b9e2b3128f4582b8",
        ),
        (
            of_container(
                ", volumes: [{name: v, container_path: /v}], resources: {limits: {memory: 1Gi}}",
            ),
            "v1:087aa5cf14da1346",
        ),
    ];
    for (hash, expected) in recorded {
        assert_eq!(hash.as_str(), expected);
    }
}

/// What a running program was told of its readiness probe is part of it; what it was not told, is
/// not.
#[test]
fn the_port_that_a_program_was_told_is_part_of_it() {
    let told = of_process(", health_port: 80");
    let probed = ", probes: {readiness: {http: {port: 80, path: /other}, period: 1s}}";
    assert_eq!(of_process(probed), told);
    assert_ne!(of_process(", probes: {readiness: {http: 81}}"), told);
    assert_eq!(
        of_process(", probes: {readiness: {tcp: 81}}"),
        of_process("")
    );
    let own = ", env: {HEALTH_PORT: 9}";
    let with_own = of_process(&format!("{own}, health_port: 80"));
    assert_eq!(with_own, of_process(own));
}

/// The release before this one did not look at it: an upgrade restarts nothing, and an edit does.
#[test]
fn a_definition_that_says_the_same_keeps_the_hash_that_an_earlier_release_gave_it() {
    let with = |port: u16| {
        pipeline(&format!(
            "  sources: [{{id: a, binary: x, health_port: {port}}}]\n"
        ))
    };
    let mut standing = with(80);
    let old = of_process("");
    standing.components.get_mut("a").unwrap().hash = old.clone();
    let (mut same, mut edited) = (with(80), with(81));
    revision::carry(&standing, &mut same);
    assert_eq!(same, standing);
    revision::carry(&same, &mut edited);
    assert_ne!(edited.components["a"].hash, old);
}

#[test]
fn a_hash_is_recomputed_from_the_spec_alone() {
    let mut a = component("  sources: [{id: a, command: [x, y], env: {A: b}}]\n", "a");
    let hash = std::mem::replace(&mut a.hash, SpecHash::new(""));
    assert_eq!(revision::of(&a), hash);
    let text = hash.as_str();
    assert!(
        text.starts_with("v1:")
            && text.len() == 19
            && text[3..].bytes().all(|b| b.is_ascii_hexdigit())
    );
}

proptest! {
    #[test]
    fn different_variables_never_share_a_hash(
        one in proptest::collection::btree_map("[A-Z]{1,3}", "[a-z0-9=,:]{0,4}", 0..4),
        other in proptest::collection::btree_map("[A-Z]{1,3}", "[a-z0-9=,:]{0,4}", 0..4),
    ) {
        let mut a = component("  sources: [{id: a, command: [x]}]\n", "a");
        a.env = one.clone();
        let first = revision::of(&a);
        a.env = other.clone();
        prop_assert_eq!(first == revision::of(&a), one == other);
    }
}
