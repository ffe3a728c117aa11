//! The control plane as its clients use it: runs, the gate, tokens and certificates.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::clients::{Swarm, call, client, component, registration};
use crate::support::{
    Status, World, eventually, free_ports, kill, openssl, pipeline, sleeper, text,
};

const LEGACY: &str = "flowctl.ControlPlane";
const SDK: &str = "flowctl.v1.ControlPlaneService";
const GATE: &str = "flowctl.v1.ComponentGate";

fn address(status: &Status) -> String {
    let address = status.0["daemon"]["control_plane"].as_str();
    address.unwrap().to_owned()
}

fn legacy(address: &str, method: &str, request: Value) -> Value {
    let (taken, answer) = call(address, &format!("{LEGACY}/{method}"), &request, &[]);
    assert!(taken, "{method}: {answer}");
    answer
}

/// The variables of a process, as it was started with them.
fn variable(pid: u32, name: &str) -> String {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let entry = environ.split(|byte| *byte == 0).find_map(|entry| {
        text(entry)
            .strip_prefix(&format!("{name}="))
            .map(str::to_owned)
    });
    entry.unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn a_run_is_what_really_runs_and_stopping_it_stops_that() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let status = world.status();
    let at = address(&status);
    let own = variable(status.pid("a").unwrap(), "FLOWCTL_RUN_ID");
    let run = legacy(&at, "GetPipelineRun", json!({ "runId": own }));
    assert_eq!(run["status"], "RUN_STATUS_RUNNING", "{run}");
    assert_eq!(run["componentIds"], json!(["a", "b"]));

    // A runner tells of a run by an id of its own, as upstream's does.
    let create = json!({ "runId": "5f0c", "pipelineName": "p", "componentIds": ["a", "b"] });
    let run = legacy(&at, "CreatePipelineRun", create);
    assert_eq!(
        run["status"], "RUN_STATUS_RUNNING",
        "it is what runs: {run}"
    );
    let figures = json!({ "runId": "5f0c", "metrics": { "eventsProcessed": "7" } });
    legacy(&at, "UpdatePipelineRun", figures);
    let listed = legacy(&at, "ListPipelineRuns", json!({ "pipelineName": "p" }));
    let ids: Vec<_> = listed["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["runId"])
        .collect();
    assert!(ids.len() == 2 && ids.contains(&&json!("5f0c")), "{listed}");
    let elsewhere = json!({ "runId": "else", "pipelineName": "not-here" });
    legacy(&at, "CreatePipelineRun", elsewhere);
    legacy(&at, "StopPipelineRun", json!({ "runId": "else" }));
    assert!(
        world.status().settled(),
        "another pipeline's run is another's"
    );

    let stopped = legacy(&at, "StopPipelineRun", json!({ "runId": "5f0c" }));
    assert_eq!(stopped["status"], "RUN_STATUS_STOPPED");
    world.until("both are stopped for real", |status| {
        ["a", "b"].iter().all(|id| status.phase(id) == "stopped")
    });
    eventually("no process is left", || world.marked().is_empty());
    let run = legacy(&at, "GetPipelineRun", json!({ "runId": "5f0c" }));
    assert!(
        run["endTime"].is_string() && run["metrics"]["eventsProcessed"] == "7",
        "{run}"
    );
    let run = legacy(&at, "GetPipelineRun", json!({ "runId": own }));
    assert_eq!(run["status"], "RUN_STATUS_STOPPED");

    // And by the id that the components were given.
    world.ok(&["start", "a"]);
    world.ok(&["start", "b"]);
    legacy(&at, "StopPipelineRun", json!({ "runId": own }));
    world.until("they are stopped again", |status| {
        ["a", "b"].iter().all(|id| status.phase(id) == "stopped")
    });
    world.kill_daemon();
    world.start_daemon();
    assert_eq!(world.status().phase("a"), "stopped", "it is remembered");
    let told = legacy(
        &address(&world.status()),
        "GetPipelineRun",
        json!({ "runId": "5f0c" }),
    );
    assert_eq!(told["status"], "RUN_STATUS_STOPPED");
}

#[test]
fn the_gate_opens_only_for_a_component_that_runs() {
    let world = World::new();
    let ports = free_ports(1);
    world.apply(&component(
        "ttp",
        &[&client(), "sdk"],
        ports[0],
        ", PORT: '127.0.0.1:0'",
    ));
    let at = address(&world.status());
    let wait = |timeout: &str| {
        let request = json!({ "componentId": "ttp", "timeout": timeout });
        call(&at, &format!("{GATE}/WaitForComponent"), &request, &[])
    };
    let (open, answer) = wait("20s");
    assert!(open && answer["component"]["id"] == "ttp", "{answer}");
    let find = |filter: Value| {
        let (_, answer) = call(&at, &format!("{SDK}/DiscoverComponents"), &filter, &[]);
        answer["components"].as_array().map_or(0, Vec::len)
    };
    let by_type =
        json!({ "type": "COMPONENT_TYPE_PROCESSOR", "eventTypes": ["stellar.ledger.v1"] });
    assert_eq!(find(by_type.clone()), 1);
    assert_eq!(find(json!({ "type": "COMPONENT_TYPE_SOURCE" })), 0);
    world.ok(&["stop", "ttp"]);
    let (open, answer) = wait("0.1s");
    assert!(
        !open && answer["code"] == "DEADLINE_EXCEEDED",
        "its registration is left: {answer}"
    );
    assert_eq!(find(by_type.clone()), 0, "nor is it found");
    world.ok(&["start", "ttp"]);
    assert!(wait("20s").0);
    assert_eq!(find(by_type), 1);
    let gone = json!({ "serviceId": "ttp" });
    assert!(call(&at, &format!("{SDK}/UnregisterComponent"), &gone, &[]).0);
    let (known, answer) = call(&at, &format!("{SDK}/GetComponentStatus"), &gone, &[]);
    // Its next heartbeat brings it back: no client of the field registers twice.
    assert!(known || answer["code"] == "NOT_FOUND", "{answer}");
    world.until("it is heard of", |status| {
        !registration(status, "ttp").is_null()
    });
}

#[test]
fn tokens_are_checked_and_renewed_when_their_key_is_rotated() {
    let world = World::new();
    world.write("p.yaml", &pipeline(&(sleeper("a", "") + &sleeper("b", ""))));
    let apply = world
        .command(&["apply", "-f", "p.yaml", "--wait"])
        .env("FLOWCTL_REQUIRE_TOKENS", "true")
        .output()
        .unwrap();
    assert!(apply.status.success(), "{}", text(&apply.stderr));
    let status = world.status();
    let (at, pid) = (address(&status), status.pid("a").unwrap());
    let first = variable(pid, "COMPONENT_TOKEN");
    let file = variable(pid, "COMPONENT_TOKEN_FILE");
    let register = |id: &str, token: &str| {
        let request = json!({ "component": { "id": id, "type": "COMPONENT_TYPE_SOURCE" } });
        let variables = [("CALL_TOKEN", token)];
        let given = if token.is_empty() {
            &[][..]
        } else {
            &variables
        };
        let (taken, answer) = call(&at, &format!("{SDK}/RegisterComponent"), &request, given);
        if taken {
            "OK".to_owned()
        } else {
            answer["code"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(register("a", ""), "UNAUTHENTICATED", "a missing one");
    assert_eq!(register("a", "nonsense"), "UNAUTHENTICATED");
    assert_eq!(register("b", &first), "PERMISSION_DENIED", "another's");
    assert_eq!(register("a", &first), "OK");
    assert_eq!(fs::read_to_string(&file).unwrap(), first);

    let signed_anew = |before: &str| {
        eventually("the file holds a new token", || {
            fs::read_to_string(&file).unwrap() != before
        });
        fs::read_to_string(&file).unwrap()
    };
    world.ok(&["components", "rotate-keys"]);
    let second = signed_anew(&first);
    assert_eq!(register("a", &first), "OK", "the overlap");
    assert_eq!(register("a", &second), "OK");
    world.ok(&["components", "rotate-keys"]);
    let third = signed_anew(&second);
    assert_eq!(register("a", &first), "UNAUTHENTICATED", "two keys ago");
    assert_eq!(register("a", &second), "OK");
    assert_eq!(register("a", &third), "OK");
    assert_eq!(world.status().pid("a"), Some(pid), "it runs on");
    // A component that runs elsewhere shows a token that a person made for it.
    let far = world.ok(&["components", "issue-token", "far", "--for", "1h"]);
    assert_eq!(register("far", far.trim()), "OK");
    assert_eq!(register("a", far.trim()), "PERMISSION_DENIED");
    let speak = |method: &str, request: Value| {
        let given = [("CALL_TOKEN", far.trim())];
        call(&at, &format!("{LEGACY}/{method}"), &request, &given)
    };
    assert!(speak("Heartbeat", json!({ "serviceId": "far" })).0);
    let foreign = speak("Heartbeat", json!({ "serviceId": "a" })).1;
    assert_eq!(foreign["code"], "PERMISSION_DENIED");
    let run = variable(pid, "FLOWCTL_RUN_ID");
    let foreign = speak("StopPipelineRun", json!({ "runId": run })).1;
    assert_eq!(foreign["code"], "PERMISSION_DENIED");
    let told = world.fails(7, &["status", "--control-plane-address", &at]);
    assert!(told.contains("a token is required"), "{told}");
    let kept = as_text(&world.write("far.token", &far));
    let listed = world.ok(&[
        "status",
        "--control-plane-address",
        &at,
        "--token-file",
        &kept,
    ]);
    assert!(listed.contains("far"), "{listed}");
    world.fails(
        2,
        &["components", "rotate-keys", "--control-plane-address", &at],
    );
}

/// An authority, and pairs that it vouches for, by openssl.
struct Authority<'w>(&'w World);

impl Authority<'_> {
    fn new(world: &World) -> Authority<'_> {
        let authority = Authority(world);
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout ca.key -out ca.pem -subj /CN=authority",
        );
        authority
    }

    fn pair(&self, name: &str) {
        self.0.write("ext", "subjectAltName=DNS:localhost\n");
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key.new \
             -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -out {name}.pem.new -extfile ext"
        ));
        for file in ["key", "pem"] {
            let path = self.0.path(&format!("{name}.{file}"));
            fs::rename(path.with_extension(format!("{file}.new")), path).unwrap();
        }
    }

    fn openssl(&self, arguments: &str) -> String {
        let output = openssl(&self.0.path("."), arguments);
        let said = text(&output.stderr);
        assert!(
            output.status.success() || arguments.starts_with("s_client"),
            "{said}"
        );
        text(&output.stdout) + &said
    }
}

fn as_text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_server_with_certificates_serves_those_it_knows_and_changes_them_while_it_runs() {
    let world = World::new();
    let authority = Authority::new(&world);
    authority.pair("server");
    authority.pair("client");
    let port = free_ports(1)[0];
    let serve = |certificate: &str| {
        let mut server = world.command(&["server", "--port", &port.to_string()]);
        server.args(["--tls-cert", certificate, "--tls-key", "server.key"]);
        server.args(["--tls-client-ca", "ca.pem"]);
        server
    };
    let refused = serve("client.pem").output().unwrap();
    let said = text(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        said.contains("client.pem") && said.contains("server.key"),
        "{said}"
    );

    let log = fs::File::create(world.path("server.log")).unwrap();
    let server = serve("server.pem").stderr(log).spawn().unwrap();
    let _server = Swarm(server);
    let at = format!("127.0.0.1:{port}");
    let path = |name: &str| as_text(&world.path(name));
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let known = [
        ("CALL_CA", &*ca),
        ("CALL_CERT", &*cert),
        ("CALL_KEY", &*key),
    ];
    let register = |given: &[(&str, &str)]| {
        let request = json!({ "component": { "id": "ttp" } });
        call(&at, &format!("{SDK}/RegisterComponent"), &request, given).0
    };
    eventually("it serves a client that it knows", || register(&known));
    assert!(
        !register(&known[..1]),
        "one without a certificate is refused"
    );
    assert!(!register(&[]), "and one without TLS");
    let place = format!("localhost:{port}");
    let by_tls = |more: &[&str]| {
        let asked = ["components", "list", "--control-plane-address", &place];
        world.run(&[&asked, more].concat())
    };
    let own = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let listed = by_tls(&own);
    assert!(
        text(&listed.stdout).contains("ttp"),
        "{}",
        text(&listed.stderr)
    );
    assert_eq!(by_tls(&own[..2]).status.code(), Some(4));
    assert_eq!(by_tls(&[]).status.code(), Some(4));
    let shown = |more: &str| {
        authority.openssl(&format!(
            "s_client -connect {at} -CAfile ca.pem -servername localhost -alpn h2 {more}"
        ))
    };
    assert!(
        shown("-tls1_2").contains("Protocol  : TLSv1.2") || shown("-tls1_2").contains("TLSv1.2,")
    );
    assert!(!shown("-tls1_1").contains("BEGIN CERTIFICATE"));
    let certificate = |said: String| {
        let begun = said.lines().skip_while(|line| !line.contains("BEGIN CERT"));
        begun
            .take_while(|line| !line.contains("END CERT"))
            .collect::<String>()
    };
    let before = certificate(shown(""));
    assert!(!before.is_empty());
    authority.pair("server");
    eventually("the new certificate is served", || {
        let now = certificate(shown(""));
        !now.is_empty() && now != before
    });
    assert!(register(&known));
}

#[test]
fn what_a_component_is_told_counts_its_tries() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let first = world.status().pid("a").unwrap();
    assert_eq!(variable(first, "FLOWCTL_ATTEMPT"), "1");
    kill(first, "KILL");
    let status = world.until("it runs again", |status| {
        status.phase("a") == "running" && status.pid("a") != Some(first)
    });
    assert_eq!(variable(status.pid("a").unwrap(), "FLOWCTL_ATTEMPT"), "2");
}

#[test]
fn a_user_who_sets_a_variable_wins_and_is_warned_of_what_breaks_clients() {
    let world = World::new();
    world.save(
        "p.yaml",
        &pipeline(&sleeper("a", ", env: { FLOWCTL_HEARTBEAT_INTERVAL: 10s }")),
    );
    let applied = world.run(&["apply", "-f", "p.yaml", "--wait"]);
    let said = text(&applied.stderr);
    assert!(
        applied.status.success() && said.contains("write `10000ms`"),
        "{said}"
    );
    let pid = world.status().pid("a").unwrap();
    assert_eq!(variable(pid, "FLOWCTL_HEARTBEAT_INTERVAL"), "10s");
    assert_eq!(variable(pid, "FLOWCTL_HEARTBEAT_INTERVAL_MS"), "10000");
}

/// Calls the control plane as the user `nobody`, with no token.
fn call_as_nobody(at: &str, method: &str, request: &Value) -> (bool, Value) {
    let [python, script] = crate::clients::python("call.py");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([&python, &script, at, method, &request.to_string()]);
    let output = command.output().unwrap();
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.unwrap_or_else(|_| panic!("{method}: {}", text(&output.stderr)));
    (output.status.success(), answer)
}

#[test]
fn another_user_of_the_machine_stops_nothing_and_is_nobody_of_ours() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can call as another user");
        return;
    }
    let world = World::new();
    let ports = free_ports(2);
    let named = component("a", &[&client(), "named"], ports[0], "");
    // It sends no id, no token, and runs as another user than the daemon.
    let anonymous = component("b", &[&client(), "legacy"], ports[1], "").replacen(
        "id: b,",
        "id: b, user: '1234:1234',",
        1,
    );
    world.apply(&(named + &anonymous));
    let status = world.until("both are known by themselves", |status| {
        ["a", "b"]
            .iter()
            .all(|id| registration(status, id)["last_heartbeat"].is_string())
    });
    let at = address(&status);
    let run = variable(status.pid("a").unwrap(), "FLOWCTL_RUN_ID");
    for (method, request) in [
        ("StopPipelineRun", json!({ "runId": run })),
        ("Register", json!({ "serviceId": "a" })),
        ("Register", json!({ "componentId": "b" })),
        ("Heartbeat", json!({ "serviceId": "a" })),
    ] {
        let (taken, answer) = call_as_nobody(&at, &format!("{LEGACY}/{method}"), &request);
        assert!(
            !taken && answer["code"] == "PERMISSION_DENIED",
            "{method}: {answer}"
        );
    }
    let unregister = json!({ "serviceId": "a" });
    let answer = call_as_nobody(&at, &format!("{SDK}/UnregisterComponent"), &unregister).1;
    assert_eq!(answer["code"], "PERMISSION_DENIED");
    let outsider = json!({ "serviceId": "outsider" });
    assert!(call_as_nobody(&at, &format!("{LEGACY}/Register"), &outsider).0);
    let after = world.status();
    assert!(after.settled() && after.pid("a") == status.pid("a"));
    let stopped = legacy(&at, "StopPipelineRun", json!({ "runId": run }));
    assert_eq!(stopped["status"], "RUN_STATUS_STOPPED", "its own user may");
}

/// In a network of its own, where nobody else has the port.
#[test]
fn port_8080_is_left_to_the_component_that_wants_it() {
    let may = std::process::Command::new("unshare")
        .args(["-n", "true"])
        .status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this test may not make a network of its own");
        return;
    }
    let world = World::new();
    let server = "python3 -m http.server 8080 --bind 127.0.0.1";
    world.write(
        "p.yaml",
        &pipeline(&format!(
            "    - {{ id: web, command: [sh, -c, 'exec {server}'], health_check: /, health_port: 8080 }}\n"
        )),
    );
    let other = pipeline(&format!(
        "    - {{ id: second, command: [sh, -c, 'exec {server}'] }}\n"
    ));
    world.write("q.yaml", &other.replace("name: p", "name: q"));
    let flowctl = world.command(&[]).get_program().to_owned();
    let inside = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command
            .args([
                "-n",
                "sh",
                "-c",
                &format!("ip link set lo up; {script}"),
                "sh",
            ])
            .arg(&flowctl)
            .current_dir(world.path("."))
            .env("FLOWCTL_STATE_DIR", world.state())
            .env_remove("FLOWCTL_CONTROL_PLANE_PORT");
        let output = command.output().unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let said = inside("\"$1\" apply -f p.yaml --wait --timeout 20s; echo rc=$?; \"$1\" status");
    assert!(said.contains("rc=0"), "{said}");
    let status = world.status();
    let moved = address(&status);
    assert!(
        status.phase("web") == "running" && !moved.ends_with(":8080"),
        "{said}"
    );
    assert!(said.contains(&format!("control plane  {moved}")), "{said}");
    let told = variable(status.pid("web").unwrap(), "FLOWCTL_ENDPOINT");
    assert_eq!(told, moved, "it was told of the new one");
    world.ok(&["down"]);

    // Where components were told already, it stays, and says how it is moved.
    world.write("p.yaml", &pipeline(&sleeper("told", "")));
    let said = inside("\"$1\" apply -f p.yaml --wait; \"$1\" apply -f q.yaml; echo rc=$?");
    assert!(
        said.contains("rc=7")
            && said.contains("second: port 8080 is flowctl's own control plane")
            && said.contains("--control-plane-port"),
        "{said}"
    );
    assert!(address(&world.status()).ends_with(":8080"));
}
