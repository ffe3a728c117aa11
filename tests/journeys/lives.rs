//! What a container is made of and what is left of it, on a real engine.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::containers::id_of;
use crate::engine::{IMAGE, container, resting, unique, world_with_engine};
use crate::support::{eventually, free_ports, pipeline, text};

/// A manifest `p` whose components are on this network.
pub fn on_network(network: &str, components: &str) -> String {
    let spec = format!("spec:\n  network: {network}\n");
    pipeline(components).replacen("spec:\n", &spec, 1)
}

#[test]
fn a_container_is_what_its_component_says() {
    let (world, engine) = world_with_engine!("a_container_is_what_…");
    let (id, volume) = (unique("whole"), unique("kept"));
    let port = free_ports(1)[0];
    world.write("vars.env", "FROM_FILE=file\nBOTH=file\n");
    world.write("password", "hunter2\n");
    fs::create_dir(world.path("relative")).unwrap();
    world.write("relative/here", "relative\n");
    fs::create_dir(world.path("absolute")).unwrap();
    let absolute = world.path("absolute").display().to_string();
    let script = "echo \"$0 $1 $FROM_FILE $BOTH $OWN\"; id -u; id -g; pwd; cat /rel/here; \
        touch /abs/x 2>/dev/null || echo abs is read-only; echo data >/data/x && cat /data/x; \
        touch /tmp/scratch/x && grep -c ' /tmp/scratch tmpfs' /proc/mounts; \
        cat $FLOWCTL_SECRETS_DIR/password; touch $FLOWCTL_SECRETS_DIR/x 2>/dev/null || echo secrets are read-only; \
        trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let component = format!(
        "    - id: {id}\n      image: flowctl-test/user:1\n      driver: docker\n      command: [sh, -c, {}]\n\
         \x20     args: [zero, one]\n      ready_after: 50ms\n      replicas: 1\n      user: \"0:1234\"\n\
         \x20     working_dir: /data\n      env: {{ OWN: own, BOTH: env }}\n      env_file: [vars.env]\n\
         \x20     ports: [{{ containerPort: 7000, hostPort: {port}, hostIP: 127.0.0.2 }}, {{ containerPort: 7001, protocol: UDP }}]\n\
         \x20     volumes:\n        - {{ host_path: relative, container_path: /rel }}\n\
         \x20       - {{ host_path: {absolute}, container_path: /abs, readonly: true }}\n\
         \x20       - {{ name: {volume}, container_path: /data }}\n\
         \x20       - {{ tmpfs: true, container_path: /tmp/scratch }}\n\
         \x20     secrets: [{{ name: password, file: password }}]\n\
         \x20     logs: {{ max_size: 2Mi, max_files: 3 }}\n\
         \x20     resources: {{ requests: {{ cpu: 250m, memory: 16Mi }}, limits: {{ cpu: 500m, memory: 64Mi, pids: 32 }} }}\n",
        json!(script)
    );
    world.apply(&component);
    let expected = "zero one file env own\n0\n1234\n/data\nrelative\nabs is read-only\ndata\n1\nhunter2\n\
                    secrets are read-only\n";
    eventually("it has said all", || {
        world.ok(&["logs", &id]).lines().count() >= expected.lines().count()
    });
    assert_eq!(world.ok(&["logs", &id]), expected);
    let found = engine.inspect(&id).expect("it is named by its id");
    let host = &found["HostConfig"];
    for (name, value) in [
        ("Memory", json!(64 << 20)),
        ("MemorySwap", json!(64 << 20)),
        ("MemoryReservation", json!(16 << 20)),
        ("NanoCpus", json!(500_000_000)),
        ("CpuShares", json!(256)),
        ("PidsLimit", json!(32)),
        ("Init", json!(true)),
        ("CapDrop", json!(["ALL"])),
        ("SecurityOpt", json!(["no-new-privileges"])),
    ] {
        assert_eq!(host[name], value, "{name}");
    }
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "2097152");
    assert_eq!(host["LogConfig"]["Config"]["max-file"], "3");
    let published = &found["NetworkSettings"]["Ports"]["7000/tcp"][0];
    assert_eq!(published["HostIp"], "127.0.0.2");
    assert_eq!(published["HostPort"], port.to_string());
    assert_eq!(found["NetworkSettings"]["Ports"]["7001/udp"], Value::Null);
    assert_eq!(fs::read_dir(world.path("absolute")).unwrap().count(), 0);
    world.ok(&["down", "--volumes"]);
}

#[test]
fn replicas_share_a_name_and_have_each_their_own() {
    let (world, engine) = world_with_engine!("replicas_share_a_name_…");
    let id = unique("many");
    let says =
        "echo I am ${{ component.replica }}; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    world.apply(&container(&id, says, ", replicas: 3"));
    for (name, number) in [
        (id.clone(), 0),
        (format!("{id}-1"), 1),
        (format!("{id}-2"), 2),
    ] {
        let found = engine.inspect(&name).expect("a container of each");
        let networks = found["NetworkSettings"]["Networks"].as_object().unwrap();
        let aliases = networks.values().next().unwrap()["Aliases"].to_string();
        assert!(aliases.contains(&format!("\"{id}\"")), "{aliases}");
        eventually("each knows which it is", || {
            world.ok(&["logs", &id]).contains(&format!("I am {number}"))
        });
    }
    let first = engine.inspect(&id).unwrap()["Id"].clone();
    world.save("p.yaml", &pipeline(&container(&id, says, ", replicas: 1")));
    world.until("two are gone", |status| {
        status.settled() && status.replicas(&id).len() == 1
    });
    eventually("their containers too", || {
        engine.containers(&world).len() == 1
    });
    assert_eq!(engine.inspect(&id).unwrap()["Id"], first);
}

#[test]
fn delete_keeps_named_volumes_and_says_so_until_it_is_told_to_remove_them() {
    let (world, engine) = world_with_engine!("delete_keeps_named_volumes_…");
    let (id, volume, network) = (unique("stores"), unique("data"), unique("net"));
    let mount = format!(", volumes: [{{ name: {volume}, container_path: /data }}]");
    let there = |kind: &str, name: &str| engine.ask("GET", &format!("/{kind}/{name}")).0 == 200;
    // Another pipeline keeps the daemon busy, so that the clean-up is the delete's own.
    let file = on_network(&network, &resting(&id, &mount));
    for arguments in [&["delete", "p"][..], &["delete", "p", "--volumes"]] {
        world.save("p.yaml", &file);
        world.ok(&["apply", "-f", "p.yaml", "--wait"]);
        assert!(there("volumes", &volume) && there("networks", &network));
        let said = world.ok(arguments);
        let kept = arguments.len() == 2;
        let word = if kept { "kept" } else { "removed" };
        assert!(said.contains(&format!("volume {volume} {word}")), "{said}");
        assert_eq!(there("volumes", &volume), kept);
        eventually("nothing else is left", || {
            !there("networks", &network) && engine.containers(&world).is_empty()
        });
    }
}

#[test]
fn a_delete_leaves_no_network_while_something_else_waits_for_its_image() {
    let (world, engine) = world_with_engine!("a_delete_leaves_no_network_…");
    let (rests, waits, network) = (unique("rests"), unique("waits"), unique("net"));
    world.save("p.yaml", &on_network(&network, &resting(&rests, "")));
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    // A registry that takes calls and never answers.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/absent:1", deaf.local_addr().unwrap());
    let other = pipeline(&resting(&waits, "").replace(IMAGE, &image));
    world.save("q.yaml", &other.replace("name: p ", "name: q "));
    world.ok(&["apply", "-f", "q.yaml", "--no-wait"]);
    let pulls = || world.ok(&["status"]).contains("pulling");
    eventually("it is pulled", pulls);
    world.ok(&["delete", "p"]);
    let path = format!("/networks/{network}");
    eventually("the network is gone", || engine.ask("GET", &path).0 == 404);
    assert!(pulls(), "{}", world.ok(&["status"]));
}

#[test]
fn a_network_that_an_edit_leaves_goes_and_so_does_one_whose_daemon_died() {
    let (world, engine) = world_with_engine!("a_network_that_an_edit_leaves_…");
    let id = unique("moves");
    let networks = ["one", "two", "three"].map(unique);
    let there = |network: &str| engine.ask("GET", &format!("/networks/{network}")).0 == 200;
    let save = |network: &str| world.save("p.yaml", &on_network(network, &resting(&id, "")));
    save(&networks[0]);
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    save(&networks[1]);
    eventually("only the second is there", || {
        there(&networks[1]) && !there(&networks[0])
    });
    world.until("it has moved", |status| status.settled());
    world.kill_daemon();
    save(&networks[2]);
    world.start_daemon();
    eventually("only the third is there", || {
        there(&networks[2]) && !there(&networks[1])
    });
}

#[test]
fn on_a_network_of_its_own_a_container_reaches_the_control_plane_of_the_next_daemon() {
    let (world, _engine) = world_with_engine!("on_a_network_of_its_own_…");
    let (id, network) = (unique("calls"), unique("net"));
    let calls = "while :; do nc -w 1 ${FLOWCTL_ENDPOINT%:*} ${FLOWCTL_ENDPOINT##*:} </dev/null && echo answered > /mark/said || echo alone > /mark/said; sleep 0.1; done";
    fs::create_dir(world.path("mark")).unwrap();
    let mount = ", volumes: [{ host_path: mark, container_path: /mark }]";
    world.save(
        "p.yaml",
        &on_network(&network, &container(&id, calls, mount)),
    );
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let made = id_of(&world.status(), &id);
    let says = |word: &str| {
        let said = world.path("mark/said");
        eventually(word, || {
            fs::read_to_string(&said).is_ok_and(|said| said.trim() == word)
        });
    };
    says("answered");
    world.kill_daemon();
    says("alone");
    world.start_daemon();
    says("answered");
    assert_eq!(id_of(&world.status(), &id), made);
}

#[test]
fn a_run_that_fails_leaves_no_container_no_network_and_no_anonymous_volume() {
    let (world, engine) = world_with_engine!("a_run_that_fails_…");
    let (good, bad, network) = (unique("good"), unique("bad"), unique("net"));
    // An image with a volume that nobody names.
    let image = format!("flowctl-test/{}", unique("anonymous"));
    world.apply(&resting(&good, ""));
    let made = world.status().replica(&good)["container"].clone();
    let commit = format!(
        "/commit?container={}&repo={image}&tag=1&changes=VOLUME%20/anonymous",
        made.as_str().unwrap()
    );
    engine.act("POST", &commit);
    world.ok(&["down"]);

    let volumes = || engine.ask("GET", "/volumes").1.to_string();
    let components = resting(&good, "").replace("flowctl-test/busybox:1", &format!("{image}:1"))
        + &container(
            &bad,
            "true",
            &format!(", depends_on: [{good}], restart_policy: never"),
        )
        .replace("[sh, -c,", "[absent,");
    world.save("p.yaml", &on_network(&network, &components));
    // Looks at the volume while the first component has it.
    let child = world.command(&["run", "p.yaml"]).output().unwrap();
    let said = text(&child.stdout) + &text(&child.stderr);
    assert_eq!(child.status.code(), Some(8), "{said}");
    assert!(said.contains("ExecNotFound"), "{said}");
    assert_eq!(engine.containers(&world), Vec::<String>::new());
    assert_eq!(engine.ask("GET", &format!("/networks/{network}")).0, 404);
    let dangling = engine.ask(
        "GET",
        "/volumes?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D",
    );
    let anonymous = |volume: &Value| {
        let name = volume["Name"].as_str().unwrap();
        name.len() == 64 && name.bytes().all(|letter| letter.is_ascii_hexdigit())
    };
    let left = dangling.1["Volumes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(!left.iter().any(anonymous), "{}", volumes());
    engine.act("DELETE", &format!("/images/{image}:1"));
}

#[test]
fn a_container_on_the_hosts_network_finds_the_host_at_its_name_and_is_probed() {
    let (mut world, _engine) = world_with_engine!("a_container_on_the_hosts_network_…");
    let id = unique("host");
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = host.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for guest in host.incoming().map_while(Result::ok) {
            let mut guest = guest;
            guest.write_all(b"host answers\n").ok();
        }
    });
    let port = free_ports(1)[0];
    let script = format!(
        "nc host.flowctl.internal {asked} </dev/null; nc -w 1 ${{FLOWCTL_ENDPOINT%:*}} ${{FLOWCTL_ENDPOINT##*:}} </dev/null >/dev/null && echo control plane answers; \
         mkdir -p /tmp/w && echo ok >/tmp/w/health && exec httpd -f -p 127.0.0.1:{port} -h /tmp/w"
    );
    let probe = format!(", probes: {{ readiness: {{ http: {{ path: /health, port: {port} }} }} }}");
    let file = on_network("host", &container(&id, &script, &probe));
    world.save("p.yaml", &file);
    let refused = world.fails(7, &["apply", "-f", "p.yaml"]);
    assert!(refused.contains("--allow-privileged"), "{refused}");
    world.ok(&["down"]);
    world.set("FLOWCTL_ALLOW_PRIVILEGED", "true");
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let said = || world.ok(&["logs", &id]);
    eventually("it has said both", || said().lines().count() >= 2);
    assert_eq!(said(), "host answers\ncontrol plane answers\n");
    world.ok(&["down"]);
}

#[test]
fn an_image_says_what_asks_its_programs_to_end_unless_the_file_does() {
    let (world, engine) = world_with_engine!("an_image_says_what_asks_…");
    let (made, by_image, by_file) = (unique("made"), unique("image"), unique("file"));
    let image = format!("flowctl-test/{}", unique("quits"));
    // What an image is made of says it from then on.
    world.apply(&resting(&made, ", stop: { signal: SIGQUIT }"));
    let commit = format!(
        "/commit?container={}&repo={image}&tag=1",
        world.status().replica(&made)["container"].as_str().unwrap()
    );
    engine.act("POST", &commit);
    let script = "trap 'echo drained; exit 0' QUIT; trap 'echo interrupted; exit 0' INT; \
                  trap 'echo cut off; exit 1' TERM; while :; do sleep 0.1; done";
    let file = container(&by_image, script, "")
        + &container(&by_file, script, ", stop: { signal: SIGINT }");
    world.apply(&file.replace(IMAGE, &format!("{image}:1")));
    world.ok(&["stop", &by_image, &by_file]);
    eventually("each was asked in its own way", || {
        world.ok(&["logs", &by_image]) == "drained\n"
            && world.ok(&["logs", &by_file]) == "interrupted\n"
    });
    world.ok(&["down"]);
    engine.act("DELETE", &format!("/images/{image}:1"));
}
