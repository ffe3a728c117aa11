//! Taking everything down, while others go on using it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;

use crate::support::{Status, World, eventually, is_alive, pipeline, shell, sleeper, text};

#[test]
fn what_is_applied_while_the_daemon_ends_runs_under_the_next_one() {
    let mut world = World::new();
    // An engine that hangs makes the daemon take its time to end.
    let socket = world.path("engine.sock");
    let engine = UnixListener::bind(&socket).unwrap();
    world.use_engine(&format!("unix://{}", socket.display()));
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let down = world
        .command(&["down"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    world.until("all is down", |status| status.pipeline().is_null());
    let mut apply = world
        .command(&["apply", "-f", "p.yaml", "--wait"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(apply.stderr.take().unwrap()).lines();
    let first = told.next().unwrap().unwrap();
    drop(engine);
    std::fs::remove_file(&socket).unwrap();
    let told: Vec<String> = told.map(Result::unwrap).collect();
    assert!(apply.wait().unwrap().success(), "{first}\n{told:?}");
    assert!(
        first.contains("the daemon is ending"),
        "it did not wait: {first}\n{told:?}"
    );
    let after = world.until("it runs", Status::settled);
    assert!(after.has_daemon(), "it runs and nobody looks after it");
    assert_ne!(after.daemon_pid(), before.daemon_pid());
    assert_eq!(after.phase("a"), "running");
    let down = down.wait_with_output().unwrap();
    let said = text(&down.stdout) + &text(&down.stderr);
    assert_eq!(down.status.code(), Some(0), "{said}");
    assert!(said.contains("everything is down"), "{said}");
}

#[test]
fn a_down_that_timed_out_is_called_off_by_the_next_apply() {
    let world = World::new();
    let stubborn = "trap '' TERM; until [ -e go ]; do sleep 0.02; done";
    world.apply(&shell("a", stubborn, ", stop: { grace_period: 1h }"));
    let before = world.status();
    world.fails(5, &["down", "--timeout", "100ms"]);
    world.save("p.yaml", &pipeline(&sleeper("a", "")));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    world.write("go", "");
    world.until("it runs as applied", |status| {
        status.settled() && status.pid("a") != before.pid("a")
    });
    world.ok(&["delete", "p"]);
    world.apply(&sleeper("a", ""));
    assert_eq!(world.status().daemon_pid(), before.daemon_pid());
}

#[test]
fn down_ends_the_daemon_also_when_whoever_asked_has_left() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let daemon = world.status().daemon_pid();
    let socket = world.state().join("flowctl.sock");
    let question = b"POST /v1/down HTTP/1.1\r\nhost: flowctl\r\ncontent-length: 0\r\n\r\n";
    // One that leaves before the daemon has turned to it has asked for nothing.
    eventually("it is begun", || {
        if let Ok(mut client) = UnixStream::connect(&socket) {
            client.write_all(question).ok();
        }
        let status = world.status();
        status.pipeline().is_null() || status.pipeline()["deleting"] == true
    });
    eventually("the daemon has ended", || !is_alive(daemon));
    assert_eq!(world.marked(), Vec::<u32>::new());
}
