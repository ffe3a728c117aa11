//! What the README says is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::{IMAGE, unique, world_with_engine};
use crate::support::{World, eventually};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}

/// The Markdown files of the repository's examples and of the help topics.
fn further_pages() -> Vec<PathBuf> {
    let examples = fs::read_dir(repository().join("examples")).unwrap();
    let topics = fs::read_dir(repository().join("src/cli/topics")).unwrap();
    let examples = examples.map(|entry| entry.unwrap().path().join("README.md"));
    let topics = topics.map(|entry| entry.unwrap().path());
    examples
        .chain(topics)
        .filter(|path| path.exists())
        .collect()
}

/// All that is told to those who use it.
fn all_pages() -> String {
    let further = further_pages();
    assert!(further.len() > 20, "{further:?}");
    let texts = further.iter().map(|path| fs::read_to_string(path).unwrap());
    readme() + &texts.collect::<String>()
}

/// The words that `flowctl --help` lists as commands.
fn verbs(world: &World) -> BTreeSet<String> {
    let help = world.ok(&["--help"]);
    let (tasks, _) = help.split_once("\nOptions:").unwrap();
    let verbs = tasks.lines().filter_map(|line| line.strip_prefix("  "));
    verbs
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|word| word != "flowctl")
        .collect()
}

#[test]
fn every_command_line_that_is_shown_is_understood() {
    let world = World::new();
    let pages = all_pages();
    let lines: BTreeSet<&str> = pages
        .lines()
        .filter_map(|line| line.strip_prefix("$ flowctl "))
        .map(|line| {
            let marks = [" | ", " > ", " &", ";", "  #"];
            let ends = marks.iter().filter_map(|mark| line.find(mark));
            &line[..ends.min().unwrap_or(line.len())]
        })
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
    let (readme, pages) = (readme(), all_pages());
    let named: BTreeSet<String> = pages
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
    let table = table.split("\n## ").next().unwrap();
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        let is_told = [format!("`{verb}"), format!("`{verb}`")];
        assert!(
            is_told.iter().any(|told| table.contains(told)),
            "the table of commands lacks {verb}"
        );
    }
}

#[test]
fn every_topic_that_is_named_is_there() {
    let world = World::new();
    let pages = all_pages();
    let named = pages.split("`flowctl help ").skip(1);
    let named = named.filter_map(|rest| rest.split_once('`').map(|(name, _)| name));
    let topics: BTreeSet<&str> = named
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect();
    assert!(topics.len() > 10, "{topics:?}");
    for topic in topics {
        assert!(world.ok(&["help", topic]).len() > 100, "{topic}");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_table() {
    let world = World::new();
    let table = include_str!("../../src/cli/topics/exit-codes.md");
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

/// Copies an example, so that what it makes lies elsewhere.
fn copied(world: &World, example: &Path) -> PathBuf {
    let to = world.path(example.file_name().unwrap().to_str().unwrap());
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(example).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

#[test]
fn every_example_of_processes_runs_as_it_stands() {
    // That of containers is run below, token-transfer by tests of its own.
    let examples = [
        "hello",
        "web",
        "migration",
        "replicas",
        "limits",
        "health",
        "monitoring",
    ];
    for example in examples {
        let world = World::new();
        let folder = copied(&world, &repository().join("examples").join(example));
        // Its README tells to make this by hand.
        fs::create_dir(folder.join("run")).unwrap();
        fs::write(folder.join("run/store-is-up"), "").unwrap();
        let file = folder.join("pipeline.yaml");
        world.ok(&["apply", "-f", file.to_str().unwrap(), "--wait"]);
        let status = world.ok(&["status"]);
        assert!(status.contains(" settled "), "{example}: {status}");
        world.ok(&["down"]);
    }
}

#[test]
fn the_example_of_containers_runs_as_it_stands() {
    let (world, _engine) = world_with_engine!("the_example_of_containers_…");
    let folder = copied(&world, &repository().join("examples/containers"));
    let file = folder.join("pipeline.yaml");
    // The tests' image has the programs, and gets the scripts by a mount.
    let hello = copied(&world, &repository().join("examples/hello"));
    let text = fs::read_to_string(&file).unwrap();
    let names = ["source", "processor", "sink"].map(|id| (id, unique(id)));
    let mut text = text.replace("flowctl-hello:1", IMAGE);
    for (id, name) in &names {
        text = text.replace(&format!("id: {id}\n"), &format!("id: {name}\n"));
        text = text.replace(&format!("inputs: [{id}]"), &format!("inputs: [{name}]"));
        text = text.replace(&format!("sh, {id}.sh"), &format!("sh, /scripts/{id}.sh"));
    }
    let mount = format!(
        "volumes: [{{ host_path: {}, container_path: /scripts, readonly: true }}, {{ name: flowctl-hello,",
        hello.display()
    );
    text = text.replace("volumes: [{ name: flowctl-hello,", &mount);
    text = text.replace("PIPES: run", "PIPES: /hello/run");
    text = text.replace("test, -p, run/names", "test, -p, /hello/run/names");
    fs::write(&file, text).unwrap();
    world.ok(&["apply", "-f", file.to_str().unwrap(), "--wait"]);
    eventually("a greeting arrives", || {
        world.ok(&["logs", &names[2].1]).contains("Hello, ")
    });
    world.ok(&["down", "--volumes"]);
}
