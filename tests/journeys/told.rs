//! What users are told, by whichever command they ask, for as long as it is so.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::{World, free_ports, pipeline, shell, sleeper, text};

#[test]
fn a_variable_that_the_daemon_lacks_is_told_at_apply_and_in_describe() {
    let world = World::new();
    let prints = "echo \"TOKEN=[$FLOWCTL_TESTS_TOKEN]\"; exec sleep 1000";
    let inherits = shell("a", prints, ", inherit_env: [FLOWCTL_TESTS_TOKEN]");
    world.save("p.yaml", &pipeline(&inherits));
    for token in [None, Some("new")] {
        let mut command = world.command(&["apply", "-f", "p.yaml", "--wait"]);
        let output = command
            .envs(token.map(|it| ("FLOWCTL_TESTS_TOKEN", it)))
            .output();
        let output = output.unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        let told = "`inherit_env` names FLOWCTL_TESTS_TOKEN, which the daemon does not have";
        assert!(said.contains(told), "{said}");
    }
    // The value stays the daemon's, whoever asks for the restart.
    let mut restart = world.command(&["restart", "a"]);
    assert!(
        restart
            .env("FLOWCTL_TESTS_TOKEN", "new")
            .status()
            .unwrap()
            .success()
    );
    let logs = world.ok(&["logs", "a"]);
    assert_eq!(logs.matches("TOKEN=[]").count(), 2, "{logs}");
    let described = world.ok(&["describe", "a"]);
    assert!(
        described.contains("FLOWCTL_TESTS_TOKEN of the daemon's own"),
        "{described}"
    );
}

#[test]
fn what_force_went_over_stays_in_status_until_it_is_gone() {
    let world = World::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let wants = sleeper("app", &format!(", ports: [{{containerPort: {port}}}]"));
    world.save("p.yaml", &pipeline(&wants));
    world.fails(7, &["apply", "-f", "p.yaml"]);
    world.ok(&["apply", "-f", "p.yaml", "--force"]);
    let notes = |status: &crate::support::Status| {
        status.pipeline()["components"][0]["notes"]
            .as_array()
            .unwrap()
            .len()
    };
    world.until("it is noted", |status| notes(status) == 1);
    assert!(
        world
            .ok(&["status"])
            .contains(&format!("port {port}/tcp is held by"))
    );
    // A new daemon knows it, too.
    world.kill_daemon();
    world.start_daemon();
    world.until("it is noted still", |status| notes(status) == 1);
    drop(stranger);
    world.until("the note went with its reason", |status| notes(status) == 0);
}

#[test]
fn a_component_of_which_no_replica_is_wanted_is_known() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("none", ", replicas: 0")));
    let status = world.status();
    assert_eq!(status.replicas("none").len(), 0);
    let components = status.pipeline()["components"].as_array().unwrap();
    let none = components.iter().find(|it| it["id"] == "none").unwrap();
    assert_eq!(none["desired"], 0);
    assert!(world.ok(&["status"]).contains("0 replicas wanted"));
    assert!(
        world
            .ok(&["why", "none"])
            .contains("no replica of it is wanted")
    );
    world.ok(&["logs", "none"]);
}

#[test]
fn validate_tells_scripts_every_problem_and_every_warning() {
    let world = World::new();
    let broken = "    - { id: a, comand: [x] }\n    - { id: b, command: [x], replicas: -1 }\n    - { id: c, command: [x], restart: { policy: never, jitter: 0.5 } }\n";
    world.save("broken.yaml", &pipeline(broken));
    let output = world.run(&["validate", "broken.yaml", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["valid"], false);
    let lines = |name: &str| {
        let all = told[name].as_array().unwrap();
        all.iter()
            .map(|it| it["line"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines("problems"), [8, 9], "{told}");
    world.save(
        "warned.yaml",
        &pipeline(&broken.replace("comand", "command").replace("-1", "1")),
    );
    let output = world.run(&["validate", "warned.yaml", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["warnings"][0]["line"], 10, "{told}");
    assert!(
        told["warnings"][0]["message"]
            .as_str()
            .unwrap()
            .contains("jitter"),
        "{told}"
    );
}

#[test]
fn a_variable_that_is_no_text_is_refused_for_a_container_and_given_to_a_process() {
    let world = World::new();
    std::fs::write(world.path("app.env"), b"V=caf\xe9\n").unwrap();
    let of = |more: &str| shell("a", "printf %s \"$V\"; exec sleep 1000", more);
    let container = ", driver: docker, image: none.example/none, env_file: [app.env]";
    world.save("c.yaml", &pipeline(&of(container)));
    let said = world.fails(7, &["apply", "-f", "c.yaml"]);
    assert!(said.contains("variable V is not UTF-8 text"), "{said}");
    world.apply(&of(", env_file: [app.env]"));
    world.until("it was given as it is", |_| {
        world
            .run(&["logs", "a", "--raw"])
            .stdout
            .starts_with(b"caf\xe9")
    });
}

#[test]
fn each_replica_of_a_process_is_asked_at_its_own_port() {
    let world = World::new();
    // Two ports that nobody else is given, and that differ in their last digit, 0 and 1.
    let base = loop {
        let ports = free_ports(11);
        let mut tens = ports.iter().filter(|port| **port % 10 == 0);
        if let Some(port) = tens.find(|port| ports.contains(&(**port + 1))) {
            break port / 10;
        }
    };
    let serves = "exec python3 -m http.server \"$HEALTH_PORT\" --bind 127.0.0.1";
    let port = format!("{base}${{{{ component.replica }}}}");
    let probe = format!("http: {{path: /, port: \"{port}\"}}, period: 200ms, timeout: 1s");
    let more = format!(", replicas: 2, probes: {{readiness: {{{probe}}}}}");
    world.apply(&shell("web", serves, &more));
    let status = world.until("both are ready", |status| status.settled());
    let second = status.replicas("web")[1]["pid"].as_u64().unwrap();
    crate::support::kill(u32::try_from(second).unwrap(), "STOP");
    world.until("only the one that hangs is not ready", |status| {
        let ready = |number: usize| status.replicas("web")[number]["ready"] == true;
        ready(0) && !ready(1)
    });
    crate::support::kill(u32::try_from(second).unwrap(), "CONT");
}
