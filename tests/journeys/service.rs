//! The daemon as a service: what a service manager is told, and how it becomes one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use crate::support::{PATIENCE, World, eventually, is_alive, kill, pipeline, shell, sleeper};

/// What a service manager has heard since it was asked last.
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(length) = socket.recv(&mut bytes) {
        all.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
    }
    all
}

/// Listens until it has heard what `is_it` knows. Answers all that was heard.
#[track_caller]
fn until_heard(socket: &UnixDatagram, what: &str, is_it: impl Fn(&str) -> bool) -> Vec<String> {
    let begun = Instant::now();
    let mut all = Vec::new();
    eventually(what, || {
        all.extend(heard(socket));
        assert!(begun.elapsed() < PATIENCE, "heard {all:?}");
        all.iter().any(|words| is_it(words))
    });
    all
}

#[test]
fn a_service_manager_is_told_when_the_daemon_is_ready_how_it_is_and_that_it_ends() {
    let mut world = World::new();
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    world.set("NOTIFY_SOCKET", world.path("notify").to_str().unwrap());
    world.set("WATCHDOG_USEC", "60000000");
    let file = world.path("told");
    let file = file.display();
    let script = format!("env > {file}.new; mv {file}.new {file}; exec sleep 100000");
    let nosy = shell("nosy", &script, ", inherit_env: ['*']");
    world.apply(&(nosy + &sleeper("steady", "")));
    assert_eq!(
        heard(&socket),
        Vec::<String>::new(),
        "a daemon in the background is nobody's service"
    );
    let before = world.status();
    world.kill_daemon();

    world.start_daemon();
    let all = until_heard(&socket, "it is ready", |words| {
        words.starts_with("READY=1\n")
    });
    assert!(
        all[0].starts_with("READY=1\nSTATUS=1 pipeline, "),
        "nothing comes before it: {all:?}"
    );
    let after = world.until("they are known again", |status| status.settled());
    for id in ["nosy", "steady"] {
        assert_eq!(after.pid(id), before.pid(id));
    }
    until_heard(&socket, "the watchdog is fed", |words| {
        words == "WATCHDOG=1"
    });
    world.ok(&["stop", "steady"]);
    until_heard(&socket, "the status changes", |words| {
        words == "STATUS=1 pipeline, 1 of 1 ready"
    });

    fs::remove_file(world.path("told")).unwrap();
    world.ok(&["restart", "nosy"]);
    eventually("it has told", || !world.read("told").is_empty());
    let told = world.read("told");
    assert!(told.contains("FLOWCTL_CONTROL_PLANE_PORT="), "{told}");
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(!told.contains(variable), "{told}");
    }
    let daemon = world.status().daemon_pid();
    kill(daemon, "TERM");
    until_heard(&socket, "it ends", |words| {
        words == "STOPPING=1\nSTATUS=Ending: SIGTERM"
    });
    eventually("the daemon is gone", || !is_alive(daemon));
}

/// A `systemctl` that only writes down what it is told, and starts nothing.
fn fake_systemctl(world: &World) -> String {
    let folder = world.path("bin");
    fs::create_dir(&folder).unwrap();
    let told = world.path("systemctl.told");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\n[ \"$2\" != is-active ]\n",
        told.display()
    );
    let program = folder.join("systemctl");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", folder.display())
}

#[test]
fn install_writes_the_unit_has_a_daemon_in_the_background_make_way_and_uninstall_takes_it_back() {
    let mut world = World::new();
    let path = fake_systemctl(&world);
    world.set("PATH", &path);
    let home = world.path("config");
    world.set("XDG_CONFIG_HOME", home.to_str().unwrap());
    world.write("p.yaml", &pipeline(&sleeper("steady", "")));
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let before = world.status();

    let printed = world.ok(&["install", "--user", "--print"]);
    assert!(!home.exists(), "it only prints");
    let said = world.ok(&["install", "--user", "--now"]);
    assert!(
        said.contains("flowctl.service written and enabled"),
        "{said}"
    );
    let unit = world.read("config/systemd/user/flowctl.service");
    assert_eq!(unit, printed);
    let state = world.state();
    let started = format!("daemon --state-dir {}\n", state.display());
    assert!(unit.contains(&started), "{unit}");
    let told = world.read("systemctl.told");
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(
        told,
        [
            "--user show --property=Version",
            "--user daemon-reload",
            "--user enable flowctl.service",
            "--user is-active flowctl.service",
            "--user restart flowctl.service",
        ]
    );
    let daemon = before.daemon_pid();
    assert!(!is_alive(daemon), "it has made way");
    let steady = before.pid("steady").unwrap();
    assert!(is_alive(steady), "what it ran goes on");

    let again = world.ok(&["install", "--user"]);
    assert!(again.contains("flowctl.service unchanged"), "{again}");
    world.ok(&["uninstall", "--user"]);
    assert!(!world.path("config/systemd/user/flowctl.service").exists());
    assert!(is_alive(steady), "what it ran goes on");
    world.ok(&["uninstall", "--user"]);

    world.write("config/systemd/user/flowctl.service", "[Unit]\n");
    for verb in ["install", "uninstall"] {
        let said = world.fails(7, &[verb, "--user"]);
        assert!(
            said.contains("was not written by `flowctl install`"),
            "{said}"
        );
    }
}

#[test]
fn the_unit_names_the_program_as_it_was_called_so_that_a_link_leads_to_the_next_version() {
    let world = World::new();
    let link = world.path("flowctl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_flowctl"), &link).unwrap();
    for (called, path) in [(link.as_os_str(), "/usr/bin"), ("flowctl".as_ref(), "")] {
        let path = format!("{path}:{}", world.path("").display());
        let mut command = std::process::Command::new(&link);
        std::os::unix::process::CommandExt::arg0(&mut command, called);
        let printed = command
            .args(["install", "--user", "--print"])
            .env("PATH", path)
            .output()
            .unwrap();
        let unit = String::from_utf8(printed.stdout).unwrap();
        let line = format!("ExecStart={} daemon ", link.display());
        assert!(unit.contains(&line), "{called:?}: {unit}");
    }
}

#[test]
fn a_host_without_systemd_is_told_what_to_do_instead() {
    let mut world = World::new();
    let nothing = world.path("nothing");
    world.set("PATH", nothing.to_str().unwrap());
    let said = world.fails(7, &["install", "--user"]);
    assert!(said.contains("cannot be run"), "{said}");
    assert!(said.contains("`flowctl install --print`"), "{said}");
}
