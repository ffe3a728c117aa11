//! The whole room by its texts: broken files beside what is said of them, good ones, hostile ones.

mod combinations;
mod hashing;
mod hostile;
mod kubernetes;
mod meaning;

use std::path::{Path, PathBuf};

use crate::model::{ComponentSpec, PipelineSpec};

use super::{Colour, Options, Parsed, Problems, parse, starter};

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/manifests")
        .join(folder)
}

fn read(text: &str) -> Result<Parsed, Problems> {
    parse("pipeline.yaml", text.as_bytes(), &Options::at("/base"))
}

/// The pipeline whose `spec` holds `body`.
fn pipeline(body: &str) -> PipelineSpec {
    let text = format!("{HEAD}{body}");
    let parsed = read(&text).unwrap_or_else(|problems| panic!("{}", problems.render(Colour::Off)));
    let [pipeline] = parsed.pipelines.try_into().unwrap();
    pipeline
}

/// The component `id` of [`pipeline`].
fn component(body: &str, id: &str) -> ComponentSpec {
    pipeline(body).components[id].clone()
}

const HEAD: &str = "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {name: p}\nspec:\n";

/// Compares what each file of a folder gives with the text beside it.
fn compare(folder: &str, outcome: impl Fn(&str, &[u8]) -> String) -> usize {
    let mut differences = String::new();
    let mut files = 0;
    for entry in std::fs::read_dir(data(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        files += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let said = outcome(name, &std::fs::read(&path).unwrap());
        let expected_path = path.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected_path, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            differences +=
                &format!("--- {folder}/{name} gives\n{said}--- instead of\n{expected}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
    files
}

#[test]
fn every_broken_file_gives_exactly_the_expected_text() {
    let files = compare("broken", |name, text| {
        parse(name, text, &Options::at("/base"))
            .map(|_| "nothing is wrong\n".to_owned())
            .unwrap_or_else(|problems| problems.render(Colour::Off))
    });
    assert!(files >= 40, "only {files} broken files");
}

#[test]
fn every_good_file_gives_only_the_expected_warnings() {
    compare("good", |name, text| {
        match parse(name, text, &Options::at("/base")) {
            Ok(parsed) => parsed.warnings.render(Colour::Off),
            Err(problems) => format!("REFUSED\n{}", problems.render(Colour::Off)),
        }
    });
}

#[test]
fn the_starter_file_is_read_without_a_word() {
    let parsed = read(starter()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
}

#[test]
fn problems_go_to_machines_to_status_and_to_one_line_alike() {
    let problems = read(&format!(
        "{HEAD}  sources:\n    - {{id: a, comand: [x], zz: 1}}\n"
    ))
    .unwrap_err();
    let rows = problems.to_json();
    let expected = serde_json::json!({
        "file": "pipeline.yaml", "line": 6, "column": 15, "severity": "error",
        "message": "unknown field `comand` in a component", "fix": "did you mean `command`?",
    });
    assert_eq!(rows[0], expected);
    let first = problems
        .first(Some(Path::new("/base/pipeline.yaml")))
        .unwrap();
    assert_eq!((first.line, first.column), (Some(6), Some(15)));
    assert!(
        first.message.ends_with("(and 1 more problem)"),
        "{}",
        first.message
    );
    let text = problems.to_string();
    assert!(
        text.contains("pipeline.yaml:6:15: unknown field `comand`"),
        "{text}"
    );
}

#[test]
fn colours_are_only_used_when_asked_for() {
    let problems = read("kind: [").unwrap_err();
    assert!(problems.render(Colour::On).contains("\x1b["));
    assert!(!problems.render(Colour::Off).contains('\x1b'));
}
