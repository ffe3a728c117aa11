//! A program beside a component, and what is wrong with a host: exec, shell, env, doctor, bundle.

use std::fs;
use std::process::Stdio;

use crate::engine::{resting, unique, world_with_engine};
use crate::support::{World, shell, text};

/// A component with a variable, a folder and a secret value.
fn world() -> World {
    let world = World::new();
    world.apply(&shell(
        "a",
        "exec sleep 1000",
        ", env: {GREETING: hello there, PASSWORD: hunter2}",
    ));
    world.until("it runs", |status| status.replica("a")["pid"].is_u64());
    world
}

#[test]
fn a_program_finds_what_the_component_has_and_its_exit_code_is_handed_on() {
    let world = world();
    let said = world.ok(&["exec", "a", "--", "sh", "-c", "echo $GREETING; pwd"]);
    let folder = world.path("").canonicalize().unwrap();
    assert_eq!(said, format!("hello there\n{}\n", folder.display()));
    let said = world.ok(&["exec", "p/a.0", "-e", "MORE=1", "sh", "-c", "echo $MORE"]);
    assert_eq!(said, "1\n");
    // A restart of the component must not end it.
    let said = world.ok(&["exec", "a", "env"]);
    assert!(!said.contains("FLOWCTL_INSTANCE="), "{said}");
    let ended = world.run(&["exec", "a", "--", "sh", "-c", "exit 41"]);
    assert_eq!(ended.status.code(), Some(41));
    // What is typed reaches it.
    let mut shell = world.command(&["shell", "a"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = shell.stdin.take().unwrap();
    std::io::Write::write_all(&mut typed, b"echo $GREETING to $((40 + 2))\n").unwrap();
    drop(typed);
    let output = shell.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "hello there to 42\n");
}

#[test]
fn what_does_not_run_or_is_not_there_is_told() {
    let world = world();
    world.fails(6, &["exec", "b", "true"]);
    world.fails(6, &["exec", "a.7", "true"]);
    let told = world.fails(7, &["exec", "a", "no-such-program"]);
    assert!(
        told.contains("there is no program `no-such-program`"),
        "{told}"
    );
    world.ok(&["stop", "a"]);
    let told = world.fails(7, &["exec", "a", "true"]);
    assert!(told.contains("p/a` does not run"), "{told}");
}

#[test]
fn variables_are_shown_and_their_values_only_when_that_is_asked_for() {
    let world = world();
    let hidden = world.ok(&["env", "a"]);
    assert!(
        hidden.contains("GREETING=***\n") && !hidden.contains("hunter2"),
        "{hidden}"
    );
    let shown = world.ok(&["env", "a", "--show-values"]);
    assert!(shown.contains("GREETING=hello there\n") && shown.contains("PASSWORD=hunter2\n"));
    let json = world.ok(&["env", "a", "-o", "json", "--show-values"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["GREETING"], "hello there");
}

#[test]
fn a_program_runs_inside_of_a_container_too() {
    let (world, _engine) = world_with_engine!("a_program_runs_inside_of_a_container_too");
    let id = unique("inside");
    world.apply(&resting(&id, ", env: {GREETING: hello}"));
    let a = id.as_str();
    let said = world.ok(&[
        "exec",
        a,
        "-e",
        "MORE=1",
        "--",
        "sh",
        "-c",
        "echo $GREETING $MORE",
    ]);
    assert_eq!(said, "hello 1\n");
    let ended = world.run(&["exec", a, "--", "sh", "-c", "exit 41"]);
    assert_eq!(ended.status.code(), Some(41));
    let shown = world.ok(&["env", a, "--show-values"]);
    assert!(shown.contains("GREETING=hello\n"), "{shown}");
    let mut shell = world.command(&["shell", a]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = shell.stdin.take().unwrap();
    std::io::Write::write_all(&mut typed, b"echo typed $((40 + 2))\n").unwrap();
    drop(typed);
    let output = shell.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "typed 42\n");
    world.ok(&["down"]);
}

#[test]
fn a_daemon_goes_on_as_the_installed_program_and_no_component_is_restarted() {
    let world = world();
    let before = world.status();
    let said = world.ok(&["daemon", "restart"]);
    assert!(said.contains("components ran on"), "{said}");
    let after = world.status();
    assert_eq!(
        after.daemon_pid(),
        before.daemon_pid(),
        "it stays in its process"
    );
    assert_eq!(after.replica("a")["pid"], before.replica("a")["pid"]);
    assert_ne!(
        after.0["daemon"]["started_at"],
        before.0["daemon"]["started_at"]
    );
    world.ok(&["down"]);
    world.fails(4, &["daemon", "restart"]);
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let world = world();
    let told = world.ok(&["doctor"]);
    assert!(
        told.contains("daemon: flowctl ") && told.contains("disk: "),
        "{told}"
    );
    world.kill_daemon();
    let told = world.fails(1, &["doctor", "--strict"]);
    assert!(told.contains("warning  daemon: none runs"), "{told}");
    assert!(
        told.contains("`flowctl apply -f FILE` starts one"),
        "{told}"
    );
    let json = world.ok(&["doctor", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut findings = json.as_array().unwrap().iter();
    assert!(findings.any(|one| one["what"] == "daemon" && one["grade"] == "warning"));
    let left = fs::read_dir(world.state()).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with(".doctor")));
}

#[test]
fn a_bundle_says_what_is_in_it_and_has_no_secret() {
    let world = world();
    let output = world.run(&["bundle"]);
    assert!(output.status.success(), "{output:?}");
    let listed = text(&output.stderr);
    for name in [
        "doctor.json",
        "status.json",
        "events.jsonl",
        "definitions/default.p.json",
        "daemon.log",
    ] {
        assert!(listed.contains(name), "{listed}");
    }
    let archive = fs::read(world.path("flowctl-bundle.tar")).unwrap();
    let archive = text(&archive);
    assert!(archive.contains("\"GREETING\"") && !archive.contains("hunter2"));
    assert!(!archive.contains("hello there"));
    world.fails(7, &["bundle"]);
    world.ok(&["bundle", "--force"]);
    // Without a daemon as well.
    world.kill_daemon();
    assert!(
        world
            .run(&["bundle", "-o", "-"])
            .stdout
            .starts_with(b"version.txt")
    );
}
