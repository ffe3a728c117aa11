//! What the README says is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::World;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}

/// The words that `flowctl --help` lists as commands.
fn verbs(world: &World) -> BTreeSet<String> {
    let help = world.ok(&["--help"]);
    let commands = help.split("Commands:\n").nth(1).unwrap();
    commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[test]
fn every_command_line_of_the_readme_is_understood() {
    let world = World::new();
    let readme = readme();
    let lines: BTreeSet<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("$ flowctl "))
        .map(|line| line.split(" | ").next().unwrap())
        .collect();
    assert!(lines.len() > 10, "{lines:?}");
    for line in lines {
        let mut arguments: Vec<&str> = line.split_whitespace().collect();
        // Whatever comes before it has to be understood for help to be given.
        arguments.push("--help");
        world.ok(&arguments);
    }
}

#[test]
fn every_command_that_the_readme_names_exists_and_every_command_is_named() {
    let world = World::new();
    let verbs = verbs(&world);
    let readme = readme();
    let named: BTreeSet<String> = readme
        .split("`flowctl ")
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_lowercase());
            rest[..end.unwrap_or(rest.len())].to_owned()
        })
        .filter(|verb| !verb.is_empty())
        .collect();
    let unknown: Vec<&String> = named.difference(&verbs).collect();
    assert!(unknown.is_empty(), "the README names {unknown:?}");
    let table = readme.split("## Commands").nth(1).unwrap();
    let table = table.split("## The manifest").next().unwrap();
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        let is_told = [format!("`{verb}"), format!("`{verb}`")];
        assert!(
            is_told.iter().any(|told| table.contains(told)),
            "the table of commands lacks {verb}"
        );
    }
}

#[test]
fn the_exit_codes_are_those_of_the_table() {
    let world = World::new();
    let table = readme();
    let table = table.split("### Exit codes").nth(1).unwrap();
    let is_listed = |code: i32| table.contains(&format!("\n| {code} | "));
    world.write("broken.yaml", "kind: Pipeline\n");
    world.write(
        "good.yaml",
        &crate::support::pipeline(&crate::support::sleeper("a", "")),
    );
    let cases: [(i32, &[&str]); 5] = [
        (0, &["validate", "good.yaml"]),
        (2, &["no-such-command"]),
        (3, &["validate", "broken.yaml"]),
        (4, &["status"]),
        (4, &["logs"]),
    ];
    for (code, arguments) in cases {
        world.fails(code, arguments);
        assert!(is_listed(code), "{code}");
    }
    world.ok(&["apply", "-f", "good.yaml", "--wait"]);
    world.fails(6, &["why", "no-such-component"]);
    world.fails(7, &["daemon"]);
    assert!(is_listed(6) && is_listed(7));
}

#[test]
fn the_examples_and_the_starter_are_valid() {
    let world = World::new();
    world.ok(&["init", "starter.yaml"]);
    world.ok(&["validate", "starter.yaml"]);
    let examples = fs::read_dir(repository().join("examples")).unwrap();
    let manifests: Vec<PathBuf> = examples
        .map(|entry| entry.unwrap().path().join("pipeline.yaml"))
        .filter(|path| path.exists())
        .collect();
    assert!(!manifests.is_empty());
    for path in manifests {
        world.ok(&["validate", path.to_str().unwrap()]);
    }
}
