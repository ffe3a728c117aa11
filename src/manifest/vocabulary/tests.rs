//! The vocabulary is that of the parser, of the schema and of the help topics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::component::COMPONENT;
use super::health::{PROBE, PROGRESS};
use super::parts::RESTART;
use super::{Depth, Field, PIPELINE, Section, explain, markdown, schema};
use crate::manifest::fields::asked;
use crate::manifest::{Options, parse};

/// Every mapping that a manifest may have. It need not be of use.
const EVERYTHING: &str = r#"
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: all}
spec:
  defaults: {restart: always, stop: {to: all}, probes: {}}
  nomad: {address: a}
  kubernetes: {namespace: a, storage: {size: 1Gi}, tolerations: [{key: a}]}
  notify: [{name: a, match: {component: a}, to: {webhook: {url: "http://a"}}}, {name: b, to: {alertmanager: {url: "http://a"}}}]
  images:
    digest: pinned
    signatures: {any: [{keyless: {root: r, issuer: i, subject: s}}, {notation: {store: s, subject: "C=US"}}]}
    attestations: [{type: provenance, by: {key: k}}, {type: vulnerabilities, by: {key: k}, max_age: 1d}]
    scan: {command: [a]}
  sources:
    - id: a
      image: a
      driver: nomad
      resources: {limits: {pids: 5}, requests: {cpu: 1}}
      rlimits: {nofile: 10}
      logs: {max_size: 10Mi}
      ports: [{containerPort: 80}]
      secrets: [{name: a, file: a}, {name: b, kubernetes: {secret: a, key: b}}]
      kubernetes: {}
      volumes: [{name: a, container_path: /a}]
      depends_on: [{id: b}]
      restart: {policy: always}
      progress: {http: {port: 80}, max_age: 1m}
      probes: {startup: {grpc: {port: 80}}, readiness: {exec: {command: [a]}}, liveness: {heartbeat: {ttl: 30s}}}
    - id: b
      command: [a]
      probes: {startup: {http: {port: 80}}, readiness: {tcp: {port: 80}}}
"#;

/// What the parser asks for only to refuse it here.
const REFUSED: [(&str, &str); 2] = [("a notification target", "heartbeat"), ("`to`", "exec")];

/// Every mapping below this one, itself included, each once.
fn sections(from: &'static Section) -> Vec<&'static Section> {
    let mut found: Vec<&'static Section> = vec![from];
    let mut at = 0;
    while at < found.len() {
        for below in found[at].fields.iter().filter_map(Field::section) {
            if !found.iter().any(|known| std::ptr::eq(*known, below)) {
                found.push(below);
            }
        }
        at += 1;
    }
    found
}

#[test]
fn the_parser_asks_for_exactly_what_the_vocabulary_has() {
    asked::take();
    // It has errors, which do not keep the parser from asking.
    parse("p.yaml", EVERYTHING.as_bytes(), &Options::at("/base")).ok();
    let asked = asked::take();
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut spellings: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for section in sections(&PIPELINE) {
        for field in section.fields {
            if !matches!(field.kind, super::Kind::Unused) {
                names.entry(section.what).or_default().insert(field.name);
            }
            let all = spellings.entry(section.what).or_default();
            all.insert(field.name);
            all.extend(field.others);
        }
    }
    let whats: BTreeSet<&str> = names.keys().copied().collect();
    let asked_of: BTreeSet<&str> = asked.keys().copied().collect();
    assert_eq!(asked_of, whats, "mappings");
    for (what, asked) in asked {
        let unasked: Vec<_> = names[what].difference(&asked).collect();
        assert!(unasked.is_empty(), "nobody asks {what} for {unasked:?}");
        let unknown: Vec<_> = asked
            .difference(&spellings[what])
            .filter(|name| !REFUSED.contains(&(what, name)))
            .collect();
        assert!(unknown.is_empty(), "{what} lacks {unknown:?}");
    }
}

#[test]
fn every_field_has_a_sentence_and_an_example_that_names_it() {
    for section in sections(&PIPELINE) {
        for field in section.fields {
            let at = format!("{}: {}", section.what, field.name);
            assert!(field.text.len() > 3 && !field.text.ends_with('.'), "{at}");
            let key = format!("{}: ", field.name);
            assert!(field.example.starts_with(&key), "{at}: {}", field.example);
            let read: Result<Value, _> = serde_yaml::from_str(field.example);
            assert!(read.is_ok(), "{at}: {}", field.example);
        }
    }
}

/// Whether `value` is as `schema` says, as far as our schema goes; patterns are not looked at.
fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(rules) = schema.as_object() else {
        return schema != &Value::Bool(false);
    };
    rules.iter().all(|(name, rule)| match name.as_str() {
        "$ref" => {
            let pointer = rule.as_str().unwrap().trim_start_matches('#');
            is_valid(root, root.pointer(pointer).unwrap(), value)
        }
        "type" => {
            let types = rule
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![rule.clone()]);
            types.iter().any(|one| match one.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                other => panic!("a type {other}"),
            })
        }
        "enum" => rule.as_array().unwrap().contains(value),
        "const" => rule == value,
        "minimum" => value.as_f64().is_none_or(|it| it >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|it| it <= rule.as_f64().unwrap()),
        "anyOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .any(|one| is_valid(root, one, value)),
        "allOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .all(|one| is_valid(root, one, value)),
        "required" => value.as_object().is_none_or(|fields| {
            let names = rule.as_array().unwrap();
            names
                .iter()
                .all(|name| fields.contains_key(name.as_str().unwrap()))
        }),
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| is_valid(root, rule, item))),
        "properties" => value.as_object().is_none_or(|fields| {
            fields.iter().all(|(name, value)| {
                rule.get(name)
                    .is_none_or(|rule| is_valid(root, rule, value))
            })
        }),
        "additionalProperties" => value.as_object().is_none_or(|fields| {
            let known = rules.get("properties").and_then(Value::as_object);
            let unknown = fields
                .iter()
                .filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)));
            unknown
                .map(|(_, value)| value)
                .all(|it| is_valid(root, rule, it))
        }),
        "minLength" | "pattern" | "description" | "deprecated" | "title" | "$schema"
        | "definitions" => true,
        other => panic!("a rule {other}"),
    })
}

/// The documents of a file, as an editor reads them.
fn documents(text: &str) -> Option<Vec<Value>> {
    use serde::Deserialize as _;
    let all = serde_yaml::Deserializer::from_str(text).map(|document| {
        let mut value = serde_yaml::Value::deserialize(document)?;
        value.apply_merge()?;
        serde_yaml::from_value(value)
    });
    all.collect::<Result<Vec<_>, _>>().ok()
}

fn manifests(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(folder).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .map(|path| {
            let text = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&text).into_owned();
            (path.display().to_string(), text)
        })
        .collect()
}

#[test]
fn what_the_parser_takes_the_schema_takes() {
    let schema = schema();
    let mut seen = 0;
    let good = manifests("tests/data/manifests/good");
    let starter = (
        "the starter".to_owned(),
        crate::manifest::starter().to_owned(),
    );
    for (name, text) in good.into_iter().chain([starter]) {
        let Ok(parsed) = parse(&name, text.as_bytes(), &Options::at("/base")) else {
            continue;
        };
        drop(parsed);
        for document in documents(&text).unwrap_or_default() {
            if !document.is_null() {
                seen += 1;
                assert!(is_valid(&schema, &schema, &document), "{name}");
            }
        }
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn what_the_parser_does_not_know_the_schema_refuses() {
    let schema = schema();
    let base = "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {name: p}\nspec: {sources: [{id: a, command: [x]";
    let whole = |fields: &str| {
        documents(&format!("{base}{fields}}}]}}\n"))
            .unwrap()
            .remove(0)
    };
    assert!(is_valid(&schema, &schema, &whole("")));
    for fields in [
        ", comand: [x]",
        ", probes: {rediness: {tcp: 80}}",
        ", probes: {readiness: {http: {path: /a}}}",
        ", restart: sometimes",
        ", replicas: 5000",
        ", ports: [{hostPort: 80}]",
        ", env: [A]",
        ", resources: {limits: {pid: 5}}",
        ", allow_new_privileges: perhaps",
    ] {
        assert!(!is_valid(&schema, &schema, &whole(fields)), "{fields}");
    }
}

#[test]
fn a_field_is_explained_by_its_path_from_the_pipeline_or_from_a_component() {
    for path in [
        "component.probes.readiness",
        "probes.readiness",
        "spec.sources.probes.readiness",
        "spec.sources[0].probes.readiness",
    ] {
        let text = explain(path, Depth::Next).unwrap();
        for words in ["unready", "heartbeat", "applies live", "period: 5s"] {
            assert!(
                words == "applies live" || text.contains(words),
                "{path}: {text}"
            );
        }
    }
    let text = explain("restart.max_delay", Depth::Next).unwrap();
    assert!(text.starts_with("component.restart.max_delay\n"), "{text}");
    assert!(
        text.contains("`60s`") && text.contains("applies live"),
        "{text}"
    );
    let text = explain("", Depth::All).unwrap();
    assert!(
        text.contains("spec.sources.probes.liveness.grpc.port"),
        "{text}"
    );
    let error = explain("component.probes.redyness", Depth::Next).unwrap_err();
    assert_eq!(error.fix, "did you mean `readiness`?");
    let error = explain("component.image.tag", Depth::Next).unwrap_err();
    assert!(error.fix.contains("no fields"), "{error:?}");
}

#[test]
fn the_tables_of_the_help_topics_are_those_of_the_vocabulary() {
    let topics = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/topics");
    let topic = |name: &str| std::fs::read_to_string(topics.join(name)).unwrap();
    let told = topic("manifest.md") + &topic("behaviour.md");
    for section in [&COMPONENT, &RESTART, &PROBE, &PROGRESS] {
        let table = markdown(section);
        assert!(told.contains(&table), "the topics lack\n{table}");
    }
}
