//! The same file as containers, on a real Docker Engine.

use std::fs;

use serde_json::{Value, json};

use crate::engine::{IMAGE, container, counts_on, resting, unique, world_with_engine};
use crate::support::{Status, World, eventually, free_ports, is_alive, pipeline, sleeper, text};

/// The container of a component's first replica.
pub fn id_of(status: &Status, component: &str) -> String {
    let container = &status.replica(component)["container"];
    container.as_str().expect("a container").to_owned()
}

#[test]
fn the_same_file_as_processes_and_as_containers_gives_the_same_status() {
    let (world, engine) = world_with_engine!("the_same_file_…");
    let (one, two) = (unique("one"), unique("two"));
    let both = |driver: &str| {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
        let component = |id: &str, more: &str| {
            format!(
                "    - {{ id: {id}, image: \"{IMAGE}\", command: [sh, -c, {script:?}], driver: {driver}, ready_after: 50ms{more} }}\n"
            )
        };
        pipeline(&(component(&one, "") + &component(&two, &format!(", inputs: [{one}]"))))
    };
    let processes = World::new();
    for (world, driver) in [(&processes, "process"), (&world, "docker")] {
        world.save("p.yaml", &both(driver));
        world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    }
    let comparable = |world: &World| {
        let mut status = world.status().0["pipelines"].clone();
        strip(&mut status);
        status
    };
    let (as_processes, as_containers) = (comparable(&processes), comparable(&world));
    assert_eq!(as_processes, as_containers);
    assert_eq!(engine.containers(&world).len(), 2);
    world.ok(&["down"]);
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}

#[test]
fn a_container_without_a_readiness_probe_is_ready_while_the_check_of_its_image_passes() {
    let (world, _engine) = world_with_engine!("a_container_without_a_readiness_probe_…");
    let (web, next) = (unique("web"), unique("next"));
    fs::create_dir(world.path("data")).unwrap();
    let checked = resting(
        &web,
        ", volumes: [{ host_path: data, container_path: /data }]",
    )
    .replace("busybox:1", "checked:1");
    let file = checked + &resting(&next, &format!(", inputs: [{web}]"));
    world.save("p.yaml", &pipeline(&file));
    world.ok(&["apply", "-f", "p.yaml"]);
    let why = "its image's health check has not passed yet";
    world.until("it is not ready yet", |s| s.why(&web).contains(why));
    assert_eq!(world.status().phase(&next), "pending");
    world.write("data/well", "");
    let before = world.until("both are up", Status::settled);
    fs::remove_file(world.path("data/well")).unwrap();
    let fails = "its image's health check fails: cat: can't open '/data/well'";
    let is_unwell = |s: &Status| s.phase(&web) == "unhealthy" && s.why(&web).contains(fails);
    world.until("it is not well any more", is_unwell);
    world.kill_daemon();
    world.start_daemon();
    world.until("the next daemon knows it", |s| {
        s.has_daemon() && is_unwell(s)
    });
    world.write("data/well", "");
    let after = world.until("it is well again", |s| s.phase(&web) == "running");
    for component in [&web, &next] {
        assert_eq!(id_of(&after, component), id_of(&before, component));
        assert_eq!(after.restarts(component), 0);
    }
    // A probe of the file counts, whatever the image says.
    fs::remove_file(world.path("data/well")).unwrap();
    world.until("it is not well any more", is_unwell);
    let probe = "probes: { readiness: { exec: [\"true\"], period: 1s } }, volumes:";
    world.save("p.yaml", &pipeline(&file.replacen("volumes:", probe, 1)));
    let probed = world.until("its probe passes", |s| s.phase(&web) == "running");
    assert_eq!(id_of(&probed, &web), id_of(&before, &web));
    world.ok(&["down"]);
}

#[test]
fn a_container_has_seven_of_roots_powers_and_its_programs_get_no_more() {
    let (world, _engine) = world_with_engine!("a_container_has_seven_of_roots_powers_…");
    let id = unique("powers");
    let script = "grep -e CapBnd -e NoNewPrivs /proc/self/status; exec sleep 1000";
    world.apply(&container(&id, script, ""));
    // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID and NET_BIND_SERVICE.
    let expected = "CapBnd:\t00000000000004eb\nNoNewPrivs:\t1\n";
    eventually("it has said both", || {
        world.ok(&["logs", &id]).lines().count() == 2
    });
    assert_eq!(world.ok(&["logs", &id]), expected);
    world.ok(&["down"]);
}

/// Takes away what differs from run to run and from driver to driver.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in [
                "pid",
                "container",
                "since",
                "started_at",
                "file",
                "instance",
                "driver",
                "spec",
                "image",
            ] {
                fields.remove(name);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(all) => all.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn an_edit_replaces_only_the_changed_container_and_its_logs_go_on() {
    let (world, _engine) = world_with_engine!("an_edit_replaces_…");
    let (kept, edited) = (unique("kept"), unique("edited"));
    let both = |word: &str| {
        let says = format!("echo {word}; trap 'exit 0' TERM; while :; do sleep 0.1; done");
        resting(&kept, "") + &container(&edited, &says, "")
    };
    world.apply(&both("before"));
    let before = world.status();
    world.save("p.yaml", &pipeline(&both("after")));
    let after = world.until("the edit has arrived", |status| {
        status.settled() && id_of(status, &edited) != id_of(&before, &edited)
    });
    assert_eq!(id_of(&after, &kept), id_of(&before, &kept));
    let events = world.ok(&["events"]);
    let starts = events.matches(&format!("starting {edited}")).count();
    assert_eq!(starts, 2, "the name of the first was waited for: {events}");
    eventually("both runs are in the log", || {
        world.ok(&["logs", &edited]) == "before\nafter\n"
    });
}

#[test]
fn kill_9_of_the_daemon_costs_no_container_anything() {
    let (world, engine) = world_with_engine!("kill_9_of_the_daemon_…");
    let (counts, ends) = (unique("counts"), unique("ends"));
    let counter = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    let once = "[ -e /mark/ran ] && exec sleep 100000; while [ ! -e /mark/go ]; do sleep 0.05; done; touch /mark/ran; exit 42";
    fs::create_dir(world.path("mark")).unwrap();
    let mount = ", volumes: [{ host_path: mark, container_path: /mark }]";
    world.apply(&(container(&counts, counter, "") + &container(&ends, once, mount)));
    let before = world.status();
    eventually("it counts", || {
        world.ok(&["logs", &counts]).lines().count() > 20
    });
    world.kill_daemon();
    world.write("mark/go", "");
    let ended = id_of(&before, &ends);
    eventually("it ended", || {
        engine.inspect(&ended).unwrap()["State"]["Status"] == "exited"
    });
    let alone = world.status();
    assert_eq!(id_of(&alone, &counts), id_of(&before, &counts));
    world.start_daemon();
    let after = world.until("all is adopted", |status| {
        status.settled() && status.restarts(&ends) == 1
    });
    assert_eq!(id_of(&after, &counts), id_of(&before, &counts));
    assert_eq!(after.restarts(&counts), 0);
    assert_eq!(after.replica(&ends)["exit"]["code"], 42);
    counts_on(&world, &counts);
}

#[test]
fn what_a_person_does_to_a_container_is_repaired() {
    let (world, engine) = world_with_engine!("what_a_person_does_…");
    let id = unique("poked");
    world.apply(&resting(&id, ""));
    for (round, (method, path)) in [
        ("POST", "kill"),
        ("POST", "stop?t=1"),
        ("DELETE", "?force=1"),
        ("DELETE", "?force=1"),
        ("DELETE", "?force=1"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = id_of(&world.status(), &id);
        let path = match method {
            "DELETE" => format!("/containers/{before}{path}"),
            _ => format!("/containers/{before}/{path}"),
        };
        engine.act(method, &path);
        let restarts = u64::try_from(round).unwrap() + 1;
        let after = world.until("another runs", |status| {
            status.settled() && status.restarts(&id) == restarts
        });
        assert_ne!(id_of(&after, &id), before);
    }
    let events = world.ok(&["events", &id]);
    assert_eq!(events.matches("guardian").count(), 0, "{events}");
}

#[test]
fn a_paused_container_runs_on_with_a_daemon_and_is_left_alone_without_one() {
    let (world, engine) = world_with_engine!("a_paused_container_…");
    let id = unique("paused");
    world.apply(&resting(&id, ""));
    let is_paused = || engine.inspect(&id).unwrap()["State"]["Paused"] == true;
    world.kill_daemon();
    engine.act("POST", &format!("/containers/{id}/pause"));
    world.ok(&["status"]);
    world.ok(&["logs", &id]);
    assert!(is_paused(), "who only looks changes nothing");
    world.start_daemon();
    eventually("it runs on", || !is_paused());
    let after = world.until("it is known", Status::settled);
    assert_eq!(after.restarts(&id), 0, "{}", world.ok(&["events"]));
}

#[test]
fn a_container_of_somebody_else_with_the_name_is_never_touched() {
    let (world, engine) = world_with_engine!("a_container_of_somebody_else_…");
    let other = World::with_engine(&engine.host());
    let id = unique("mine");
    other.apply(&resting(&id, ""));
    let theirs = id_of(&other.status(), &id);
    world.save("p.yaml", &pipeline(&resting(&id, "")));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    world.until("it says whose the name is", |status| {
        status.why(&id).contains("NameConflict") || status.why(&id).contains("name")
    });
    world.ok(&["down"]);
    let still = engine.inspect(&theirs).unwrap();
    assert_eq!(still["State"]["Status"], "running");
}

#[test]
fn a_component_that_changes_its_driver_never_runs_twice() {
    let (world, engine) = world_with_engine!("a_component_that_changes_…");
    let id = unique("moves");
    world.apply(&sleeper(&id, ""));
    let pid = world.status().pid(&id).unwrap();
    world.save("p.yaml", &pipeline(&resting(&id, "")));
    let moved = world.until("it runs as a container", |status| {
        status.settled() && status.replica(&id)["container"].is_string()
    });
    assert!(!is_alive(pid));
    let container = id_of(&moved, &id);
    world.save("p.yaml", &pipeline(&sleeper(&id, "")));
    world.until("it runs as a process", |status| {
        status.settled() && status.pid(&id).is_some()
    });
    eventually("the container is gone", || {
        engine.inspect(&container).is_none()
    });
}

#[test]
fn containers_and_processes_reach_each_other_by_reference() {
    let (world, _engine) = world_with_engine!("containers_and_processes_…");
    let (inside, asks_in, beside, outside, asks_out) = (
        unique("inside"),
        unique("asks-in"),
        unique("beside"),
        unique("outside"),
        unique("asks-out"),
    );
    let [published, own] = free_ports(2)[..] else {
        unreachable!("two were asked for")
    };
    let serve = |port: u16, word: &str| format!("while :; do echo {word} | nc -l -p {port}; done");
    let asks = |id: &str| {
        format!(
            "while :; do echo got $(nc ${{{{ components.{id}.host }}}} ${{{{ components.{id}.port }}}} </dev/null); sleep 0.3; done"
        )
    };
    let ports = |inner: u16, outer: u16| {
        format!(", ports: [{{ containerPort: {inner}, hostPort: {outer} }}]")
    };
    let python = format!(
        "import socket\ns=socket.create_server(('0.0.0.0',{own}))\nwhile True:\n c,_=s.accept(); c.sendall(b'process\\n'); c.close()"
    );
    let ask_process = "import socket,time,os\nwhile True:\n try: print('got', socket.create_connection((os.environ['HOST'],int(os.environ['PORT'])),2).recv(100).decode().strip(), flush=True)\n except OSError: pass\n time.sleep(0.3)";
    world.apply(
        &(container(&inside, &serve(7000, "container"), &ports(7000, published))
            + &container(&beside, &asks(&inside), &format!(", depends_on: [{inside}]"))
            + &format!(
                "    - {{ id: {outside}, command: [python3, -c, {}], ports: [{{ containerPort: {own} }}], ready_after: 50ms }}\n",
                json!(python)
            )
            + &container(&asks_in, &asks(&outside), &format!(", depends_on: [{outside}]"))
            + &format!(
                "    - {{ id: {asks_out}, command: [python3, -u, -c, {}], env: {{ HOST: \"${{{{ components.{inside}.host }}}}\", PORT: \"${{{{ components.{inside}.port }}}}\" }}, ready_after: 50ms }}\n",
                json!(ask_process)
            )),
    );
    for (who, word) in [
        (&beside, "got container"),
        (&asks_in, "got process"),
        (&asks_out, "got container"),
    ] {
        eventually("an answer came", || world.ok(&["logs", who]).contains(word));
    }
}

#[test]
fn probes_ask_inside_of_containers() {
    let (world, _engine) = world_with_engine!("probes_ask_inside_…");
    let (web, file) = (unique("web"), unique("file"));
    let serve = "mkdir -p /tmp/w && echo ok > /tmp/w/health && exec httpd -f -p 8080 -h /tmp/w";
    let probe = ", probes: { readiness: { http: { path: /health, port: 8080 } } }";
    let makes = "touch /tmp/ready; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let exec = ", probes: { readiness: { exec: [test, -e, /tmp/ready] } }";
    world.apply(&(container(&web, serve, probe) + &container(&file, makes, exec)));
    let status = world.status();
    for id in [&web, &file] {
        assert_eq!(status.replica(id)["ready"], true, "{}", status.why(id));
    }
}

#[test]
fn a_foreground_run_as_containers_leaves_nothing() {
    let (world, engine) = world_with_engine!("a_foreground_run_…");
    let id = unique("greets");
    let script = "echo hello; exit 0";
    let component =
        container(&id, script, ", restart_policy: never").replace("driver: docker, ", "");
    world.save("p.yaml", &pipeline(&component));
    let said = world.ok(&["run", "p.yaml", "--orchestrator", "container"]);
    assert!(said.contains("hello"), "{said}");
    assert!(
        said.contains(&format!("Starting component: {id}")),
        "{said}"
    );
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}

/// A component of an image whose registry nobody runs.
fn of_moving_image(id: &str, image: &str) -> String {
    resting(id, "").replace(IMAGE, image)
}

#[test]
fn a_tag_that_moves_changes_nothing_until_a_restart_with_pull() {
    let (world, engine) = world_with_engine!("a_tag_that_moves_…");
    let id = unique("tagged");
    let name = format!("localhost:1/{id}");
    let point_at = |image: &str| {
        let path = format!("/images/{image}/tag?repo={name}&tag=1");
        engine.act("POST", &path);
    };
    point_at(IMAGE);
    world.apply(&of_moving_image(&id, &format!("{name}:1")));
    let before = world.status();
    let image = before.replica(&id)["image"].clone();
    assert_eq!(image["name"], format!("{name}:1"));
    assert_eq!(image["outdated"], false);
    let digest = image["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{image}");
    let wide = world.ok(&["status", "-o", "wide"]);
    assert!(wide.contains(&digest[7..19]), "{wide}");

    point_at("flowctl-test/user:1");
    world.until("it says that another image is here", |status| {
        status.replica(&id)["image"]["outdated"] == true
            && status.why(&id).contains("restart --pull")
    });
    assert_eq!(id_of(&world.status(), &id), id_of(&before, &id));
    let path = format!("/containers/{}/kill", id_of(&before, &id));
    engine.act("POST", &path);
    let crashed = world.until("another runs", |status| {
        status.settled() && status.restarts(&id) == 1
    });
    assert_eq!(crashed.replica(&id)["image"]["digest"], digest);
    world.ok(&["restart", &id]);
    let restarted = world.status();
    assert_eq!(restarted.replica(&id)["image"]["digest"], digest);

    // Its registry does not answer, so what is here has to do.
    let said = world.run(&["restart", "--pull", &id]);
    assert!(said.status.success());
    let said = text(&said.stderr);
    assert!(
        said.contains("cannot pull") && said.contains("runs instead"),
        "{said}"
    );
    let pulled = world.status();
    let image = &pulled.replica(&id)["image"];
    assert_ne!(image["digest"], digest);
    assert_eq!(image["outdated"], false);
    world.ok(&["down"]);
    engine.act("DELETE", &format!("/images/{name}:1"));
}

#[test]
fn an_image_that_cannot_be_had_is_put_off_and_no_crash_loop() {
    let (world, _engine) = world_with_engine!("an_image_that_cannot_be_had_…");
    let id = unique("nowhere");
    let file = pipeline(&of_moving_image(&id, "localhost:1/nowhere:1"));
    world.save("p.yaml", &file);
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    let waits = world.until("it is put off", |status| status.phase(&id) == "backoff");
    assert!(
        waits.why(&id).contains("localhost:1/nowhere:1"),
        "{}",
        waits.why(&id)
    );
    assert_eq!(waits.restarts(&id), 0);
}

#[test]
fn down_keeps_named_volumes_and_says_so_until_it_is_told_to_remove_them() {
    let (world, engine) = world_with_engine!("down_keeps_named_volumes_…");
    let (id, volume) = (unique("stores"), unique("data"));
    let mount = format!(", volumes: [{{ name: {volume}, container_path: /data }}]");
    let there = || engine.ask("GET", &format!("/volumes/{volume}")).0 == 200;
    world.apply(&resting(&id, &mount));
    assert!(there());
    let said = world.ok(&["down"]);
    assert!(said.contains(&format!("volume {volume} kept")), "{said}");
    assert!(there());
    // Nothing runs any more, and no daemon either.
    let said = world.ok(&["down", "--volumes"]);
    assert!(said.contains(&format!("volume {volume} removed")), "{said}");
    assert!(!there());
}

#[test]
fn a_container_finds_its_token_in_a_file_whoever_it_runs_as() {
    let (world, engine) = world_with_engine!("a_container_finds_its_token_…");
    let id = unique("knows");
    let asks = "[ -z \"$COMPONENT_TOKEN\" ] && grep -q '^[^.]*[.][^.]*[.][^.]*$' $COMPONENT_TOKEN_FILE && echo found; touch /run/flowctl/token/x && echo written; exec sleep 100000";
    world.apply(&container(&id, asks, "").replace(IMAGE, "flowctl-test/user:1"));
    eventually("it read its token", || {
        world.ok(&["logs", &id]).lines().any(|line| line == "found")
    });
    assert!(!world.ok(&["logs", &id]).contains("written"));
    let token = fs::read_dir(world.state().join("tokens/containers")).unwrap();
    let token = token.last().unwrap().unwrap().path().join("token");
    let token = fs::read_to_string(token).unwrap();
    let inspected = engine.inspect(&id).unwrap().to_string();
    assert!(
        !inspected.contains(token.trim()),
        "it stands in no variable"
    );
}

#[test]
fn what_keeps_containers_from_starting_is_told_before_anything_is_touched() {
    let (mut world, engine) = world_with_engine!("what_keeps_containers_…");
    let id = unique("absent");
    let never = resting(&id, ", pull: never").replace(IMAGE, "localhost:1/absent:1");
    world.save("p.yaml", &pipeline(&never));
    let refused = world.run(&["apply", "-f", "p.yaml"]);
    let said = text(&refused.stderr);
    assert!(
        said.contains("localhost:1/absent:1") && said.contains("never"),
        "{said}"
    );
    assert_eq!(engine.containers(&world), Vec::<String>::new());
    world.ok(&["down"]);
    let nowhere = format!("unix://{}", world.path("none.sock").display());
    world.use_engine(&nowhere);
    world.save("p.yaml", &pipeline(&resting(&id, "")));
    let refused = world.run(&["apply", "-f", "p.yaml"]);
    let said = text(&refused.stderr);
    assert!(said.contains("does not answer"), "{said}");
}

#[test]
fn a_restart_of_the_daemon_leaves_probed_containers_ready_and_asks_them_where_they_are() {
    let (world, _engine) = world_with_engine!("a_restart_of_the_daemon_leaves_…");
    let (by_http, by_tcp) = (unique("http"), unique("tcp"));
    fs::create_dir(world.path("www")).unwrap();
    world.write("www/health", "ok\n");
    let mount = ", volumes: [{ host_path: www, container_path: /www }]";
    let asked = |check: &str| {
        let probe = format!("{{ {check}, period: 200ms, failures: 2 }}");
        format!("{mount}, probes: {{ readiness: {probe}, liveness: {probe} }}")
    };
    let serve = "exec httpd -f -p 7000 -h /www";
    world.apply(
        &(container(
            &by_http,
            serve,
            &asked("http: { port: 7000, path: /health }"),
        ) + &container(&by_tcp, serve, &asked("tcp: 7000"))),
    );
    let before = world.status();
    world.kill_daemon();
    world.start_daemon();
    // Only who asks after the restart sees this.
    fs::remove_file(world.path("www/health")).unwrap();
    world.until("it is asked again", |status| status.restarts(&by_http) == 1);
    world.write("www/health", "ok\n");
    let after = world.until("it is ready again", Status::settled);
    let events = world.ok(&["events"]);
    assert!(events.contains("HTTP 404"), "{events}");
    assert!(!events.contains("cannot be reached"), "{events}");
    assert_eq!(after.restarts(&by_tcp), 0, "{events}");
    assert_eq!(id_of(&after, &by_tcp), id_of(&before, &by_tcp));
}

#[test]
fn a_component_writes_to_the_host_where_its_manifest_lies_or_the_daemon_was_told() {
    let (mut world, engine) = world_with_engine!("a_component_writes_to_the_host_…");
    let id = unique("writes");
    let elsewhere = tempfile::tempdir().unwrap();
    let there = elsewhere.path().display().to_string();
    fs::create_dir(world.path("mine")).unwrap();
    let script = "touch /mine/x /there/x; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mounts = |more: &str| {
        format!(
            ", volumes: [{{ host_path: mine, container_path: /mine }}, {{ host_path: \"{there}\", container_path: /there{more} }}]"
        )
    };
    world.save("p.yaml", &pipeline(&container(&id, script, &mounts(""))));
    let refused = world.fails(7, &["apply", "-f", "p.yaml"]);
    assert!(
        refused.contains(&format!("--allow-mounts {there}")),
        "{refused}"
    );
    assert_eq!(engine.containers(&world), Vec::<String>::new());
    world.apply(&container(&id, script, &mounts(", readonly: true")));
    eventually("it wrote", || world.path("mine/x").exists());
    assert!(!elsewhere.path().join("x").exists());
    world.ok(&["down"]);
    world.set("FLOWCTL_ALLOW_MOUNTS", &there);
    world.apply(&container(&id, script, &mounts("")));
    eventually("it wrote there too", || elsewhere.path().join("x").exists());
    world.ok(&["down"]);
}
