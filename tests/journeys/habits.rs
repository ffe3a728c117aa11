//! What people who know kubectl, compose, cargo and their shell try first.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::{World, pipeline, sleeper, text};

/// Two pipelines, `p` of two components and `q` of one.
fn two_pipelines() -> World {
    let world = World::new();
    world.write(
        "p.yaml",
        &pipeline(&(sleeper("a", "") + &sleeper("b", ", inputs: [a]"))),
    );
    let other = pipeline(&sleeper("c", "")).replace("name: p", "name: q");
    world.write("q.yaml", &other);
    world.ok(&["apply", "p.yaml", "q.yaml", "--wait"]);
    world
}

/// What a command prints on a terminal, on which `typed` is typed.
fn on_a_terminal(world: &World, arguments: &str, typed: &str) -> (Option<i32>, String) {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_flowctl"));
    let command = world.command(&[]);
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    let mut child = script
        .current_dir(world.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(typed.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout))
}

#[test]
fn every_verb_that_takes_a_file_finds_the_usual_one() {
    let world = World::new();
    let told = world.fails(2, &["apply"]);
    assert!(
        told.contains("there is none of flow.yml, pipeline.yaml"),
        "{told}"
    );
    world.write("pipeline.yaml", &pipeline(&sleeper("a", "")));
    world.ok(&["validate"]);
    assert!(world.ok(&["graph"]).contains('a'));
    world.ok(&["apply", "--wait"]);
    world.ok(&["diff"]);
}

#[test]
fn start_stop_and_restart_take_a_pipeline() {
    let world = two_pipelines();
    let said = world.ok(&["stop", "p"]);
    // Whoever reads goes before what it reads from.
    assert_eq!(said, "p/b stopped\np/a stopped\n");
    let status = world.ok(&["status"]);
    assert_eq!(status.matches("stopped by request").count(), 2, "{status}");
    world.ok(&["start", "p"]);
    world.ok(&["restart", "p", "q"]);
    world.ok(&["status", "--check"]);
}

#[test]
fn status_is_narrowed_to_a_component_or_a_state() {
    let world = two_pipelines();
    let one = world.ok(&["status", "p/b"]);
    assert!(
        one.contains("\nb ") && !one.contains("\na ") && !one.contains("\nc "),
        "{one}"
    );
    world.ok(&["stop", "c"]);
    let stopped = world.ok(&["status", "--phase", "stopped"]);
    assert!(
        stopped.contains("\nc ") && !stopped.contains("\na "),
        "{stopped}"
    );
    let json = world.ok(&["status", "b", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["pipelines"].as_array().unwrap().len(), 1);
    assert_eq!(json["pipelines"][0]["components"][0]["id"], "b");
    world.fails(6, &["status", "nobody"]);
}

#[test]
fn delete_takes_the_file_that_apply_took() {
    let world = two_pipelines();
    let said = world.ok(&["delete", "-f", "p.yaml"]);
    assert_eq!(said, "p deleted\n");
    let again = world.run(&["delete", "-f", "p.yaml"]);
    assert!(text(&again.stderr).contains("p is not there"), "{again:?}");
    let status = world.ok(&["status"]);
    assert!(
        status.contains("q  generation") && !status.contains("p  generation"),
        "{status}"
    );
}

#[test]
fn down_takes_pipelines_and_asks_on_a_terminal_before_it_ends_several() {
    let world = two_pipelines();
    let (code, said) = on_a_terminal(&world, "down", "n\n");
    assert!(
        said.contains("this ends 2 pipelines") && said.contains("nothing was ended"),
        "{said}"
    );
    assert_eq!(code, Some(7));
    world.ok(&["status", "--check"]);
    world.ok(&["down", "p"]);
    let status = world.ok(&["status"]);
    assert!(
        status.contains("q  generation") && !status.contains("p  generation"),
        "{status}"
    );
    // One is what was meant.
    let (code, said) = on_a_terminal(&world, "down", "");
    assert!(said.contains("everything is down"), "{said}");
    assert_eq!(code, Some(0));
}

#[test]
fn a_terminal_is_told_what_goes_on_and_is_not_flooded() {
    let world = World::new();
    let many = "i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo line $i; done; exec sleep 1000";
    world.write(
        "pipeline.yaml",
        &pipeline(&crate::support::shell("a", many, "")),
    );
    let (_, said) = on_a_terminal(&world, "apply --wait", "");
    assert!(said.contains("each save is applied"), "{said}");
    crate::support::eventually("it has written", || {
        world.ok(&["logs", "a"]).lines().count() == 300
    });
    let (_, said) = on_a_terminal(&world, "logs a", "");
    assert!(
        said.contains("the last 200 lines") && !said.contains("line 100\r"),
        "{said}"
    );
    let (_, said) = on_a_terminal(&world, "logs a --all", "");
    assert!(said.contains("line 1\r"), "{said}");
    let (_, said) = on_a_terminal(&world, "events", "");
    assert!(said.contains("the last 50 events"), "{said}");
}

#[test]
fn the_registry_is_asked_by_its_new_and_its_old_words() {
    let world = two_pipelines();
    for words in [
        &["registry", "list", "--output", "json"][..],
        &["components", "list", "-o", "json"],
        &["components", "list", "--format", "json"],
        &["registry", "find", "--writes", "t", "--reads", "u"],
        &["components", "find", "--output", "t", "--input", "u"],
    ] {
        world.ok(words);
    }
    world.fails(4, &["status", "--server", "127.0.0.1:1"]);
    world.fails(4, &["status", "--control-plane-address", "127.0.0.1:1"]);
}

#[test]
fn bash_completes_names_of_what_runs_and_never_starts_a_daemon() {
    let world = two_pipelines();
    let script = world.ok(&["completion", "bash"]);
    world.write("flowctl.bash", &script);
    let complete = |words: &str| {
        let count = words.split(' ').count();
        let line = format!(
            "source flowctl.bash; COMP_WORDS=({} {words}); COMP_CWORD={count}; \
             [ -z \"{words}\" ] || _flowctl; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_flowctl")
        );
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", &line])
            .current_dir(world.path(""));
        for (name, value) in world.command(&[]).get_envs() {
            if let Some(value) = value {
                bash.env(name, value);
            }
        }
        let output = bash.output().unwrap();
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(
        complete("delete ''").split('\n').collect::<Vec<_>>(),
        ["p", "q"]
    );
    assert_eq!(complete("why p/"), "p/a\np/b");
    assert_eq!(complete("status --phase cr"), "crashloop");
    assert_eq!(complete("descr"), "describe");
    world.ok(&["down"]);
    assert_eq!(complete("delete ''"), "");
    assert!(!world.state().join("flowctl.sock").exists());
    assert!(
        world
            .ok(&["completion", "zsh"])
            .starts_with("#compdef flowctl")
    );
    assert!(
        world
            .ok(&["completion", "fish"])
            .contains("complete -c flowctl")
    );
}
