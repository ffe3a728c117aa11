//! Components of the field, in Go and Python, as they behave: most send no id, none registers
//! twice, and one beats a hundred times a second when it is told `10s`.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::clients::{
    IMAGES, Swarm, beat_since, client, component, make_images, python, registration,
};
use crate::engine::{Engine, unique};
use crate::support::{Status, World, eventually, free_ports, kill, pipeline, text};

/// What a stranger is told by the control plane.
fn ask(status: &Status) -> Value {
    let address = status.0["daemon"]["control_plane"].as_str().unwrap();
    let [python, script] = python("ask.py");
    let output = Command::new(python)
        .arg(script)
        .arg(address)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn components_of_the_field_are_known_and_outlive_the_daemon() {
    let world = World::new();
    let [python, consumer] = python("node_consumer.py");
    let (go, ports) = (client(), free_ports(5));
    let components = component("silent-one", &[&go, "legacy"], ports[0], "")
        + &component("silent-two", &[&go, "legacy"], ports[1], "")
        + &component("named", &[&go, "named"], ports[2], "")
        + &component("sdk", &[&go, "sdk"], ports[3], ", PORT: '127.0.0.1:0'")
        + &component("consumer", &[&python, &consumer], ports[4], "");
    let all = ["silent-one", "silent-two", "named", "sdk", "consumer"];
    world.apply(&components);
    let before = world.until("all have sent heartbeats", |status| {
        beat_since(status, &all, "")
    });
    for component in all {
        assert_eq!(registration(&before, component)["service_id"], component);
    }
    let figures = &registration(&before, "silent-one")["metrics"];
    assert!(figures["success_count"].is_u64() && figures["processing_latency_ms"] == 1.5);
    assert_eq!(
        registration(&before, "sdk")["metrics"]["processing_latency"],
        "1.5ms"
    );

    let told = ask(&before);
    assert_eq!(told["health"], "SERVING");
    for service in [
        "flowctl.ControlPlane",
        "flowctl.v1.ControlPlaneService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            told["services"]
                .as_array()
                .unwrap()
                .contains(&service.into()),
            "{told:#}"
        );
    }
    assert_eq!(
        told["methods"]["flowctl.ControlPlane"]
            .as_array()
            .unwrap()
            .len(),
        12
    );
    assert_eq!(told["listed"]["consumer"]["type"], 3, "its own 4 is a sink");
    assert!(
        told["listed"]
            .as_object()
            .unwrap()
            .values()
            .all(|status| status["healthy"] == true)
    );

    let listed = world.ok(&["components", "list"]);
    assert_eq!(listed.lines().count(), 1 + all.len(), "{listed}");
    let shown = world.ok(&["components", "show", "silent-one"]);
    assert!(shown.contains("known by its health port"), "{shown}");
    let writer = "stellar.token.transfer.v1";
    let found = world.ok(&["components", "find", "--output", writer, "-o", "json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["components"].as_array().unwrap().len(), 1);
    assert_eq!(found["components"][0]["component"], "sdk");
    let address = before.0["daemon"]["control_plane"].as_str().unwrap();
    let remote = world.ok(&["status", "--control-plane-address", address]);
    assert!(
        all.iter().all(|component| remote.contains(component)),
        "{remote}"
    );
    let told = world.ok(&["describe", "sdk"]);
    assert!(
        told.contains("registered as sdk") && told.contains("processed_count"),
        "{told}"
    );
    world.fails(
        4,
        &[
            "components",
            "list",
            "--control-plane-address",
            "127.0.0.1:1",
        ],
    );
    world.fails(
        2,
        &[
            "components",
            "list",
            "--control-plane-address",
            "http://127.0.0.1:1",
        ],
    );

    world.kill_daemon();
    world.start_daemon();
    let restarted = world.status().0["daemon"]["started_at"]
        .as_str()
        .unwrap()
        .to_owned();
    let after = world.until("all beat on", |status| beat_since(status, &all, &restarted));
    assert_eq!(
        after.0["daemon"]["control_plane"],
        before.0["daemon"]["control_plane"]
    );
    for component in all {
        assert_eq!(registration(&after, component)["service_id"], component);
        assert_eq!(
            after.pid(component),
            before.pid(component),
            "{component} was not restarted"
        );
    }
    assert_eq!(
        ask(&after)["listed"].as_object().unwrap().len(),
        all.len(),
        "and no id is new"
    );
}

#[test]
fn the_same_clients_are_known_as_processes_and_as_containers() {
    let Some(engine) = Engine::shared("the_same_clients_…") else {
        return;
    };
    make_images(&engine);
    let ids = ["silent", "twin", "named", "sdk", "consumer"].map(unique);
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    let file = |driver: &str, ports: &[u16]| {
        let [python, consumer] = python("node_consumer.py");
        let (go, at) = (client(), ", PORT: '127.0.0.1:0'");
        // It goes into their metadata, and tells the silent ones apart for us only.
        let says = |one: usize| format!(", STELLAR_NETWORK: {}", all[one]);
        let boxed = |component: String, image: &str| {
            let either = format!("{{ driver: {driver}, image: \"{image}\", id:");
            component.replacen("{ id:", &either, 1)
        };
        let [of_go, of_python] = IMAGES;
        pipeline(
            &(boxed(
                component(all[0], &[&go, "legacy"], ports[0], &says(0)),
                of_go,
            ) + &boxed(
                component(all[1], &[&go, "legacy"], ports[1], &says(1)),
                of_go,
            ) + &boxed(component(all[2], &[&go, "named"], ports[2], ""), of_go)
                + &boxed(component(all[3], &[&go, "sdk"], ports[3], at), of_go)
                + &boxed(
                    component(all[4], &[&python, &consumer], ports[4], ""),
                    of_python,
                )),
        )
    };
    let processes = World::new();
    let containers = World::with_engine(&engine.host());
    // In a container each has all ports to itself: the first two differ by nothing but its address.
    let shared = [8088, 8088, 8089, 8090, 8091];
    for (world, driver, ports, evidence) in [
        (
            &processes,
            "process",
            &*free_ports(5),
            "known by its health port",
        ),
        (&containers, "docker", &shared, "known by its container"),
    ] {
        world.save("p.yaml", &file(driver, ports));
        world.ok(&["apply", "-f", "p.yaml", "--wait"]);
        let before = world.until("all have sent heartbeats", |status| {
            beat_since(status, &all, "")
        });
        for id in &all {
            let known = registration(&before, id);
            assert_eq!(known["service_id"], *id, "as {driver}");
            assert!(
                known["metrics"]
                    .as_object()
                    .is_some_and(|told| !told.is_empty())
            );
        }
        for id in &all[..2] {
            let shown = world.ok(&["components", "show", id]);
            assert!(shown.contains(evidence), "as {driver}: {shown}");
            let itself = format!("network = {id}");
            assert!(shown.contains(&itself), "as {driver}: {shown}");
        }
        assert_eq!(ask(&before)["listed"].as_object().unwrap().len(), all.len());
        world.kill_daemon();
        world.start_daemon();
        let started = world.status().0["daemon"]["started_at"].clone();
        let after = world.until("all beat on", |status| {
            beat_since(status, &all, started.as_str().unwrap())
        });
        for id in &all {
            assert_eq!(registration(&after, id)["service_id"], *id);
            let ran_on = |field: &str| after.replica(id)[field] == before.replica(id)[field];
            assert!(ran_on("pid") && ran_on("container"), "{id} as {driver}");
        }
        assert_eq!(ask(&after)["listed"].as_object().unwrap().len(), all.len());
    }
}

#[test]
fn a_component_that_is_replaced_keeps_its_id() {
    let world = World::new();
    let (go, ports) = (client(), free_ports(1));
    world.apply(&component("ttp", &[&go, "legacy"], ports[0], ""));
    let first = world.until("it beats", |status| beat_since(status, &["ttp"], ""));
    kill(first.pid("ttp").unwrap(), "KILL");
    let second = world.until("its successor beats", |status| {
        status
            .pid("ttp")
            .is_some_and(|pid| Some(pid) != first.pid("ttp"))
            && beat_since(status, &["ttp"], "")
    });
    assert_eq!(registration(&second, "ttp")["service_id"], "ttp");
    assert_eq!(ask(&second)["listed"].as_object().unwrap().len(), 1);
}

#[test]
fn a_client_that_was_told_ten_seconds_and_beats_a_hundred_times_a_second_harms_nobody() {
    let world = World::new();
    let [python, consumer] = python("node_consumer.py");
    let (go, ports) = (client(), free_ports(2));
    let hasty = component("hasty", &[&python, &consumer], ports[0], "").replace("200ms", "10s");
    world.apply(&(hasty + &component("calm", &[&go, "legacy"], ports[1], "")));
    let sent = |status: &Status| {
        registration(status, "hasty")["metrics"]["success_count"]
            .as_u64()
            .unwrap_or(0)
    };
    let status = world.until("it has sent 300", |status| sent(status) > 300);
    assert!(beat_since(&status, &["calm"], ""));
    let events = world.ok(&["events", "-o", "json"]);
    assert!(
        events.lines().count() < 40,
        "heartbeats are no events:\n{events}"
    );
    assert!(!events.contains("silent"));
}

#[test]
fn a_component_that_stops_beating_is_shown_and_replaced_where_that_is_asked_for() {
    let world = World::new();
    let (go, ports) = (client(), free_ports(2));
    let watched = component("watched", &[&go, "legacy"], ports[0], "")
        .replace(
            " }\n",
            ", probes: { liveness: { heartbeat: { ttl: 8s }, failures: 1 } } }\n",
        )
        .replace("health_check: /health, ", "");
    let lone = component("lone", &[&go, "legacy"], ports[1], "");
    world.write(
        "p.yaml",
        &pipeline(&(watched.replace(&format!("health_port: {},", ports[0]), "") + &lone)),
    );
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_flowctl"));
    daemon
        .args([
            "daemon",
            "--heartbeat-ttl",
            "2s",
            "--janitor-interval",
            "500ms",
        ])
        .env("FLOWCTL_STATE_DIR", world.state())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    eventually("a daemon answers", || {
        world.run(&["status"]).status.success()
    });
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let before = world.until("both beat", |status| {
        beat_since(status, &["lone", "watched"], "")
    });
    // Stopped, they live and say nothing.
    for component in ["lone", "watched"] {
        kill(before.pid(component).unwrap(), "STOP");
    }
    let silent = world.until("silence is told and acted on", |status| {
        status.why("lone").starts_with("no heartbeat since")
            && status.restarts("watched") == before.restarts("watched") + 1
    });
    assert_eq!(
        silent.pid("lone"),
        before.pid("lone"),
        "nobody asked to replace it"
    );
    kill(before.pid("lone").unwrap(), "CONT");
    world.until("it is heard of again", |status| {
        status.why("lone").is_empty()
    });
    let events = world.ok(&["events"]);
    assert!(
        events.contains("silent") && events.contains("heard"),
        "{events}"
    );
    world.ok(&["down"]);
    daemon.wait().unwrap();
}

#[test]
fn a_server_without_persistence_and_a_run_that_uses_it_leave_nothing() {
    let world = World::new();
    let [port] = free_ports(1)[..] else {
        unreachable!()
    };
    let temporary = world.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let server = world
        .command(&[
            "server",
            "--no-persistence",
            "--port",
            &port.to_string(),
            "--heartbeat-ttl",
            "5s",
        ])
        .env("TMPDIR", &temporary)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = server.id();
    let mut server = Swarm(server);
    let address = format!("127.0.0.1:{port}");
    let listed = || world.run(&["components", "list", "--control-plane-address", &address]);
    eventually("it answers", || listed().status.success());
    assert!(!world.state().exists(), "its state is elsewhere");
    let ports = free_ports(1);
    world.write(
        "p.yaml",
        &pipeline(&component("ttp", &[&client(), "named"], ports[0], "")),
    );
    let run = world
        .command(&["run", "p.yaml", "--use-external-control-plane", &address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let run = Swarm(run);
    eventually("its component is known to the server", || {
        text(&listed().stdout)
            .lines()
            .any(|line| line.starts_with("ttp"))
    });
    kill(run.0.id(), "TERM");
    eventually("the run ended", || !crate::support::is_alive(run.0.id()));
    kill(pid, "TERM");
    server.0.wait().unwrap();
    assert_eq!(
        fs::read_dir(&temporary).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn a_remote_control_plane_of_the_older_kind_is_listed() {
    let world = World::new();
    let [python, script] = python("old_server.py");
    let said = world.path("port");
    let server = Command::new(python)
        .arg(script)
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let _server = Swarm(server);
    eventually("it has a port", || world.read("port").ends_with('\n'));
    let address = format!("127.0.0.1:{}", world.read("port").trim());
    let remote = ["--control-plane-address", &address];
    let shown = |arguments: &[&str]| {
        let asked = [arguments, &remote].concat();
        eventually("it answers", || world.run(&asked).status.success());
        world.ok(&asked)
    };
    let status = shown(&["status"]);
    assert!(
        status.contains("well") && status.contains("ill"),
        "{status}"
    );
    let listed = shown(&["components", "list", "--include-unhealthy", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["components"].as_array().unwrap().len(), 2);
    let found = shown(&["components", "find"]);
    assert!(found.contains("well") && !found.contains("ill "), "{found}");
    assert!(shown(&["components", "show", "well"]).contains("success_count = 7"));
    let mut unknown = vec!["components", "show", "nobody"];
    unknown.extend(remote);
    world.fails(6, &unknown);
}

#[test]
fn fifty_clients_beat_on_over_a_kill_9_and_all_keep_their_ids() {
    let world = World::new();
    // One component keeps the pipeline, and with it the port, alive.
    world.apply("    - { id: a, command: [sleep, '1000'], ready_after: 50ms }\n");
    let status = world.status();
    let said = world.path("swarm.log");
    let swarm = Command::new(client())
        .args(["swarm", "50"])
        .env(
            "FLOWCTL_ENDPOINT",
            status.0["daemon"]["control_plane"].as_str().unwrap(),
        )
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let _swarm = Swarm(swarm);
    eventually("all have registered", || {
        world.read("swarm.log").contains("all registered")
    });
    let log = world.read("swarm.log");
    let mut ids: Vec<_> = log
        .lines()
        .filter_map(|line| line.strip_prefix("registered "))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 50, "each has an id of its own\n{log}");
    assert!(!log.contains("sim-"), "{log}");
    world.kill_daemon();
    world.start_daemon();
    let status = world.status();
    let restarted = humantime_millis(status.0["daemon"]["started_at"].as_str().unwrap());
    eventually("all of them are heard of again", || {
        let told = ask(&status);
        let listed = told["listed"].as_object().unwrap();
        let beat = |id: &&str| listed[*id]["heartbeat"].as_i64().unwrap() > restarted;
        assert_eq!(
            listed.keys().collect::<Vec<_>>(),
            ids,
            "the same ids and no others"
        );
        ids.iter().all(beat)
    });
}

#[test]
fn no_registration_that_was_answered_is_lost_to_a_kill_9() {
    let world = World::new();
    // One component keeps the pipeline, and with it the port, alive.
    world.apply("    - { id: a, command: [sleep, '1000'], ready_after: 50ms }\n");
    for (round, enough) in [20, 45, 70].into_iter().enumerate() {
        let (said, prefix) = (format!("burst-{round}.log"), format!("burst-{round}-"));
        let status = world.status();
        let burst = Command::new(client())
            .args(["burst", &prefix])
            .env(
                "FLOWCTL_ENDPOINT",
                status.0["daemon"]["control_plane"].as_str().unwrap(),
            )
            .stderr(fs::File::create(world.path(&said)).unwrap())
            .spawn()
            .unwrap();
        let _burst = Swarm(burst);
        // It is killed while the next one registers.
        eventually("some have registered", || {
            world.read(&said).lines().count() > enough
        });
        kill(status.daemon_pid(), "KILL");
        eventually("the client gave up", || world.read(&said).contains("ended"));
        world.start_daemon();
        let told = ask(&world.status());
        let listed = told["listed"].as_object().unwrap();
        let log = world.read(&said);
        let answered = log
            .lines()
            .filter_map(|line| line.strip_prefix("registered "));
        for id in answered {
            assert!(listed.contains_key(id), "{id} was answered and is lost");
        }
    }
}

fn humantime_millis(text: &str) -> i64 {
    let at = humantime::parse_rfc3339(text).unwrap();
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
