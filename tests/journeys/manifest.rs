//! What one does with a manifest beside applying it: have it explained, drawn, checked, waited for.

use crate::support::{World, pipeline, shell, sleeper};

#[test]
fn a_field_is_explained_and_a_word_that_is_none_gets_a_suggestion() {
    let world = World::new();
    let said = world.ok(&["explain", "restart.max_delay"]);
    assert!(said.starts_with("component.restart.max_delay\n"), "{said}");
    assert!(said.contains("an edit  applies live"), "{said}");
    let said = world.ok(&["explain", "component", "--recursive"]);
    assert!(said.contains("  probes.readiness.http.port"), "{said}");
    let said = world.fails(2, &["explain", "component.comand"]);
    assert!(said.contains("did you mean `command`?"), "{said}");
}

#[test]
fn init_writes_a_schema_beside_the_file_that_the_file_names() {
    let world = World::new();
    world.ok(&["init", "--schema"]);
    let file = world.read("pipeline.yaml");
    let first = "# yaml-language-server: $schema=flowctl.schema.json\n";
    assert!(file.starts_with(first), "{file}");
    let schema: serde_json::Value =
        serde_json::from_str(&world.read("flowctl.schema.json")).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert_eq!(world.ok(&["schema"]), world.read("flowctl.schema.json"));
    world.ok(&["validate", "pipeline.yaml", "--deny-warnings"]);
}

#[test]
fn a_warning_ends_a_check_that_denies_warnings_and_no_other() {
    let world = World::new();
    let old = pipeline(&sleeper("a", "")).replace("driver: process", "executor: process");
    world.write("p.yaml", &old);
    let checked = world.ok(&["validate", "p.yaml"]);
    assert!(checked.contains("valid"), "{checked}");
    let said = world.fails(3, &["validate", "p.yaml", "--deny-warnings"]);
    assert!(said.contains("--deny-warnings"), "{said}");
    world.fails(3, &["validate", "p.yaml", "--deny-warnings", "-o", "json"]);
}

const JOINED: &str = "apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: g}
spec:
  sources:
    - {id: one, command: [sleep, '9']}
    - {id: migrate, command: [sleep, '9'], restart: never}
  processors:
    - {id: both, command: [sleep, '9'], inputs: [one], depends_on: [{id: migrate, condition: completed}]}
  sinks:
    - {id: end, command: [sleep, '9'], inputs: [both]}
";

#[test]
fn a_pipeline_is_drawn_in_the_order_of_its_data() {
    let world = World::new();
    world.write("g.yaml", JOINED);
    assert_eq!(
        world.ok(&["graph", "g.yaml"]),
        "g\n  migrate\n  `- both (waits until it is completed)\n     `- end\n  one\n  `- both ^\n"
    );
    let dot = world.ok(&["graph", "g.yaml", "-o", "dot"]);
    assert!(dot.contains("\"one\" -> \"both\";"), "{dot}");
    assert!(dot.contains("style=dashed, label=\"completed\""), "{dot}");
    // `end` is a word of Mermaid's own.
    let mermaid = world.ok(&["graph", "g.yaml", "-o", "mermaid"]);
    assert!(mermaid.contains("n1[\"end\"]"), "{mermaid}");
    assert!(mermaid.contains("n2 -. completed .-> n0"), "{mermaid}");
    let json = world.ok(&["graph", "g.yaml", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["pipelines"][0]["edges"].as_array().unwrap().len(), 3);
}

#[test]
fn one_waits_for_what_is_asked_for_and_learns_when_it_will_not_come() {
    let world = World::new();
    let once = shell("once", "sleep 0.2", ", restart: never");
    let broken = shell("broken", "sleep 0.2; exit 3", ", restart: never");
    world.write(
        "p.yaml",
        &pipeline(&(sleeper("steady", "") + &once + &broken)),
    );
    world.ok(&["apply", "-f", "p.yaml"]);
    assert_eq!(
        world.ok(&["wait", "steady", "p/once"]),
        "steady is ready\np/once is ready\n"
    );
    world.ok(&["wait", "once", "--for", "completed"]);
    let said = world.fails(8, &["wait", "p"]);
    assert!(said.contains("broken"), "{said}");
    let said = world.fails(
        5,
        &["wait", "steady", "--for", "completed", "--timeout", "200ms"],
    );
    assert!(said.contains("still waiting"), "{said}");
    world.fails(6, &["wait", "nobody"]);
    world.ok(&["delete", "p", "--no-wait"]);
    assert_eq!(world.ok(&["wait", "p", "--for", "gone"]), "p is gone\n");
}

#[test]
fn the_versions_of_both_sides_are_told() {
    let world = World::new();
    let said = world.ok(&["version"]);
    assert!(said.contains("daemon  none"), "{said}");
    world.apply(&sleeper("a", ""));
    let said = world.ok(&["version"]);
    let pid = format!("(pid {}, ", world.status().daemon_pid());
    assert!(said.contains(&pid), "{said}");
    let json: serde_json::Value =
        serde_json::from_str(&world.ok(&["version", "-o", "json"])).unwrap();
    assert_eq!(json["client"], json["daemon"]["version"]);
}
