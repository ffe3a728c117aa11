//! What hostile components and other users of the machine try against a running daemon.

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::process::{Child, Command};

use serde_json::json;

use crate::clients::{IMAGES, client, component, make_images, python, registration};
use crate::engine::{Engine, unique};
use crate::support::{
    World, eventually, free_ports, may_mount, parent, pipeline, shell, sleeper, text,
};

/// A user that is nobody's.
const NOBODY: u32 = 65534;

/// Asks another control plane, or its own, for what it was told in a variable, without a token and
/// with its own.
const HOSTILE: &str = r#"
import json, os, subprocess, sys, time
at = os.environ.get("AT") or os.environ["FLOWCTL_ENDPOINT"]
with open(os.environ["COMPONENT_TOKEN_FILE"]) as file:
    own = file.read().strip()
for token in [None, own]:
    for method, request in json.loads(os.environ["ATTACKS"]):
        env = {"CALL_TOKEN": token} if token else {}
        call = [sys.executable, os.environ["CALL"], at, method, json.dumps(request)]
        said = subprocess.run(call, capture_output=True, text=True, env=env)
        try:
            code = json.loads(said.stdout).get("code", "TAKEN")
        except ValueError:
            code = said.stderr[-300:]
        print(method, bool(token), code, flush=True)
print("that is all", flush=True)
time.sleep(600)
"#;

fn hostile(id: &str, at: &str, attacks: &str) -> String {
    let [python, call] = python("call.py");
    let command = serde_json::to_string(&[&python, "-c", HOSTILE]).unwrap();
    format!(
        "    - {{ id: {id}, driver: docker, image: \"{}\", command: {command},\n\
         \x20       env: {{ CALL: {call}, AT: '{at}', ATTACKS: '{attacks}' }} }}\n",
        IMAGES[1]
    )
}

#[test]
fn a_container_changes_nothing_of_another_and_a_strangers_container_nothing_at_all() {
    let Some(engine) = Engine::shared("a_container_changes_nothing_of_another_…") else {
        return;
    };
    make_images(&engine);
    let (world, stranger) = (
        World::with_engine(&engine.host()),
        World::with_engine(&engine.host()),
    );
    let [victim, insider, alien] = ["victim", "insider", "alien"].map(unique);
    let boxed = format!("{{ driver: docker, image: \"{}\", id:", IMAGES[0]);
    let victims = component(&victim, &[&client(), "named"], 8089, "");
    world.apply(&victims.replacen("{ id:", &boxed, 1));
    world.until("the victim is known", |status| {
        registration(status, &victim)["last_heartbeat"].is_string()
    });
    let before = engine.inspect(&victim).unwrap();
    let variable = |name: &str| {
        let mut entries = before["Config"]["Env"].as_array().unwrap().iter();
        let value =
            |entry: &serde_json::Value| Some(entry.as_str()?.strip_prefix(name)?.to_owned());
        entries.find_map(value).unwrap()
    };
    let (run, at) = (variable("FLOWCTL_RUN_ID="), variable("FLOWCTL_ENDPOINT="));
    let attacks = json!([
        ["flowctl.ControlPlane/Register", { "serviceId": victim }],
        ["flowctl.ControlPlane/Heartbeat", { "serviceId": victim }],
        ["flowctl.v1.ControlPlaneService/UnregisterComponent", { "serviceId": victim }],
        ["flowctl.ControlPlane/StopPipelineRun", { "runId": run }],
    ]);
    let attacks = attacks.to_string();
    // Whatever name a component of ours registers by, it is registered as itself.
    for (from, id, at, code, refused) in [
        (&world, &insider, "", "PERMISSION_DENIED", 6),
        (&stranger, &alien, at.as_str(), "UNAUTHENTICATED", 8),
    ] {
        let file = pipeline(&hostile(id, at, &attacks)).replace("name: p", "name: q");
        from.write("q.yaml", &file);
        from.ok(&["apply", "-f", "q.yaml", "--wait"]);
        let log = || from.ok(&["logs", id]);
        eventually("all was tried", || log().contains("that is all"));
        let said = log();
        assert_eq!(said.matches(code).count(), refused, "{id}: {said}");
    }
    let after = engine.inspect(&victim).unwrap();
    assert_eq!(after["State"]["Pid"], before["State"]["Pid"]);
    let after = world.status();
    assert_eq!(registration(&after, &victim)["service_id"], *victim);
}

#[test]
fn a_program_of_the_daemons_own_user_cannot_look_into_it_or_its_guardians() {
    let world = World::new();
    let folder = world.path("");
    let flowctl = world.path("flowctl");
    let built = env!("CARGO_BIN_EXE_flowctl");
    let placed = fs::hard_link(built, &flowctl).or_else(|_| fs::copy(built, &flowctl).map(drop));
    placed.unwrap();
    world.write("p.yaml", &pipeline(&sleeper("a", "")));
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        for path in [folder.clone(), world.path("p.yaml")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    // Root may look into everything, so nothing of it is root's.
    let as_user = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(if is_root { "setpriv" } else { program });
        if is_root {
            let user = format!("--reuid={NOBODY}");
            let group = format!("--regid={NOBODY}");
            command.args([&user, &group, "--clear-groups", program]);
        }
        let likeness = world.command(&[]);
        let variables = likeness
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        command.envs(variables).env("HOME", &folder);
        command.env("FLOWCTL_STATE_DIR", world.state());
        command.args(arguments).current_dir(&folder);
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        text(&output.stdout)
    };
    let flowctl = flowctl.to_str().unwrap();
    as_user(flowctl, &["apply", "-f", "p.yaml", "--wait"]);
    let status: serde_json::Value =
        serde_json::from_str(&as_user(flowctl, &["status", "-o", "json"])).unwrap();
    let pid = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let daemon = pid(&status["daemon"]["pid"]);
    let program = pid(&status["pipelines"][0]["components"][0]["replicas"][0]["pid"]);
    let guardian = parent(program);
    let can_look = |pid: u32| {
        let script = format!(
            "for name in environ mem maps; do (true < /proc/{pid}/$name) 2>/dev/null && echo $name; done; true"
        );
        as_user("/bin/sh", &["-c", &script])
    };
    assert_eq!(
        can_look(program).lines().count(),
        3,
        "the question is right"
    );
    for (who, pid) in [
        ("the daemon", daemon),
        ("the guardian", guardian),
        ("the fork server", parent(guardian)),
    ] {
        assert_eq!(can_look(pid), "", "{who}");
    }
    as_user(flowctl, &["down"]);
    fs::remove_dir_all(world.state()).unwrap();
}

#[test]
fn an_env_file_and_a_secret_of_another_user_lead_to_nothing_that_is_not_theirs() {
    let world = World::new();
    let theirs = world.path("theirs");
    fs::create_dir(&theirs).unwrap();
    let secret = world.write("secret.env", "TOKEN=hunter2\n");
    let trap = theirs.join("app.env");
    symlink(&secret, &trap).unwrap();
    if chown(&theirs, Some(NOBODY), Some(NOBODY)).is_err() {
        println!("SKIPPED: only root may give files away");
        return;
    }
    lchown(&trap, Some(NOBODY), Some(NOBODY)).unwrap();
    let secrets = "[{ name: s, file: theirs/app.env }]";
    for (number, field) in ["env_file: theirs/app.env", &format!("secrets: {secrets}")]
        .iter()
        .enumerate()
    {
        world.write("p.yaml", &pipeline(&sleeper("a", &format!(", {field}"))));
        let applied = world.run(&["apply", "-f", "p.yaml", "--wait"]);
        let said = text(&applied.stderr);
        assert!(!applied.status.success(), "{number}: {said}");
        let named = said.contains("secret.env") && said.contains("belongs to user 65534");
        assert!(named && !said.contains("hunter2"), "{number}: {said}");
    }
    // What is theirs is read as before.
    fs::remove_file(&trap).unwrap();
    fs::write(&trap, "TOKEN=theirs\n").unwrap();
    lchown(&trap, Some(NOBODY), Some(NOBODY)).unwrap();
    world.apply(&sleeper("a", ", env_file: theirs/app.env"));
    let pid = world.status().pid("a").unwrap();
    let environ = text(&fs::read(format!("/proc/{pid}/environ")).unwrap());
    assert!(environ.contains("TOKEN=theirs"), "{environ}");
}

/// A daemon is killed and another program gets its number, by which its lock, its log and its
/// operator's notes know it.
const REUSE: &str = r#"
set -eu
lock="$FLOWCTL_STATE_DIR/lock"
"$FLOWCTL" apply -f p.yaml --wait >apply.out 2>&1
daemon=$(head -n 1 "$lock")
kill -9 "$daemon"
while [ -e "/proc/$daemon" ]; do sleep 0.05; done
innocent=
while [ "$innocent" != "$daemon" ]; do
  if [ -n "$innocent" ]; then kill "$innocent"; fi
  echo $((daemon - 1)) >/proc/sys/kernel/ns_last_pid
  sleep 100000 &
  innocent=$!
done
is_well() { [ "$(cat "/proc/$innocent/comm")" = sleep ] && echo "well after $1"; }
# Somebody holds the lock, in which the killed daemon still stands.
flock "$lock" "$FLOWCTL" daemon >held.out 2>&1 && exit 1
grep -o 'in use by .*; stop it' held.out
is_well daemon
"$FLOWCTL" status >status.out 2>&1
grep -o 'no daemon' status.out | head -n 1
is_well status
"$FLOWCTL" down >down.out 2>&1
is_well down
"$FLOWCTL" apply -f p.yaml --wait >again.out 2>&1
next=$(head -n 1 "$lock")
[ "$next" != "$daemon" ] && echo "another daemon"
"$FLOWCTL" down >over.out 2>&1
while [ -e "/proc/$next" ]; do sleep 0.05; done
is_well "the end"
"#;

#[test]
fn a_program_that_got_the_number_of_a_killed_daemon_is_not_taken_for_it_nor_ended() {
    if !may_mount("a_program_that_got_the_number_of_a_killed_daemon_…") {
        return;
    }
    let world = World::new();
    world.write("p.yaml", &pipeline(&sleeper("a", "")));
    let likeness = world.command(&[]);
    let mut alone = Command::new("unshare");
    alone
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            REUSE,
        ])
        .envs(
            likeness
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("FLOWCTL", env!("CARGO_BIN_EXE_flowctl"))
        .env("FLOWCTL_STATE_DIR", world.state())
        .current_dir(world.path(""));
    let output = alone.output().unwrap();
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    let wanted = [
        "in use by another process; stop it",
        "well after daemon",
        "no daemon",
        "well after status",
        "well after down",
        "another daemon",
        "well after the end",
    ];
    assert!(output.status.success(), "{told}\n{said}");
    let mut lines = told.lines();
    for wanted in wanted {
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with(wanted), "{line} is not {wanted}:\n{told}");
    }
    // Its processes ended with their namespace.
    fs::remove_dir_all(world.state()).unwrap();
}

#[test]
fn nothing_that_flowctl_keeps_is_given_to_whoever_names_it_in_a_manifest() {
    let world = World::new();
    let hidden = world.write("hidden", "hunter2\n");
    let hidden = hidden.display();
    world.apply(&shell(
        "a",
        "echo $FLOWCTL_SECRETS_DIR; exec sleep 100000",
        &format!(", secrets: [{{ name: s, file: {hidden} }}]"),
    ));
    let key = world.state().join("tokens.key").display().to_string();
    symlink(&key, world.path("link")).unwrap();
    let mut of_another = String::new();
    eventually("the place of secrets is known", || {
        of_another = world.ok(&["logs", "a"]).trim().to_owned() + "/s";
        of_another.starts_with('/')
    });
    for (field, why) in [
        (
            format!("secrets: [{{ name: s, file: {key} }}]"),
            "keeps for itself",
        ),
        (format!("env_file: {key}"), "keeps for itself"),
        ("env_file: link".to_owned(), "keeps for itself"),
        (
            format!("secrets: [{{ name: s, file: {of_another} }}]"),
            "keeps for itself",
        ),
        (
            "secrets: [{ name: s, file: /proc/self/environ }]".to_owned(),
            "tells of a process",
        ),
    ] {
        let file = pipeline(&sleeper("thief", &format!(", {field}")));
        world.write("q.yaml", &file.replace("name: p", "name: q"));
        for (code, verb) in [
            (3, &["validate", "q.yaml"][..]),
            (7, &["apply", "-f", "q.yaml"]),
        ] {
            let said = world.fails(code, verb);
            assert!(said.contains(why), "{verb:?} of {field}: {said}");
        }
        world.ok(&["apply", "-f", "q.yaml", "--force", "--no-wait"]);
        world.until("its start is refused", |status| {
            status.0.to_string().contains(why) && status.pid("thief").is_none()
        });
        world.ok(&["delete", "q"]);
    }
    // Whatever a daemon makes in its state directory is meant.
    for entry in fs::read_dir(world.state()).unwrap().flatten() {
        let path = entry.path();
        if path.ends_with("flowctl.sock") {
            continue;
        }
        let field = format!(", secrets: [{{ name: s, file: {} }}]", path.display());
        world.write("q.yaml", &pipeline(&sleeper("thief", &field)));
        let said = world.fails(3, &["validate", "q.yaml"]);
        assert!(said.contains("keeps for itself"), "{path:?}: {said}");
    }
    // Nor is it sent to whom its pipeline tells.
    let to = format!("{{ webhook: {{ url: 'http://127.0.0.1:9/', headers_file: {key} }} }}");
    let notify = format!("spec:\n  notify: [{{ name: owner, to: {to} }}]\n");
    let file = pipeline(&sleeper("b", "")).replace("name: p", "name: q");
    world.write("q.yaml", &file.replace("spec:\n", &notify));
    world.ok(&["apply", "-f", "q.yaml", "--wait"]);
    let told = world.run(&["notify", "test", "default.q.owner"]);
    let said = text(&told.stderr);
    assert!(
        !told.status.success() && said.contains("keeps for itself"),
        "{said}"
    );
    world.ok(&["down"]);
}

#[test]
fn what_bears_the_marks_of_another_users_instance_answers_for_nobody() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may start programs of other users");
        return;
    }
    let world = World::new();
    let port = free_ports(1)[0];
    // It listens on nothing, so whoever answers on its port is somebody else.
    let silent = format!(
        "    - {{ id: a, command: [sleep, '100000'], health_check: /, health_port: {port} }}\n"
    );
    world.save("p.yaml", &pipeline(&silent));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    let status = world.until("it runs", |status| status.pid("a").is_some());
    let environ = fs::read(format!("/proc/{}/environ", status.pid("a").unwrap())).unwrap();
    let marks = environ
        .split(|byte| *byte == 0)
        .filter(|entry| entry.starts_with(b"FLOWCTL_INSTANCE"))
        .map(text);
    let mut fake = Command::new("setpriv");
    fake.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    fake.args(["env", "-i"]).args(marks);
    fake.args(["busybox", "httpd", "-f", "-h", "/", "-p"]);
    fake.arg(format!("127.0.0.1:{port}"));
    let _fake = Ended(fake.current_dir("/").spawn().unwrap());
    let told = world.until("it says who answers", |status| {
        status.why("a").contains("busybox")
    });
    assert_ne!(told.phase("a"), "running");
}

/// A program that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
