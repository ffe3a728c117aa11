//! What is named on the command line: paths are bytes, links are followed anew each time, and what
//! only the caller can read is read by the caller.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::support::{World, pipeline, shell, sleeper};

#[test]
fn a_folder_whose_name_is_not_text_is_carried_whole() {
    let world = World::new();
    let folder = world
        .path("x")
        .with_file_name(OsStr::from_bytes(b"caf\xe9 1"));
    fs::create_dir(&folder).unwrap();
    let there = |arguments: &[&str]| {
        let output = world.command(arguments).current_dir(&folder).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
    };
    fs::write(folder.join("p.yaml"), pipeline(&sleeper("a", ""))).unwrap();
    there(&["validate", "p.yaml"]);
    there(&["apply", "-f", "p.yaml", "--wait"]);
    let works_there = |status: &crate::support::Status| {
        let pid = &status.replica("a")["pid"];
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let status = world.until("it runs in that folder", works_there);
    let file = status.pipeline()["file"].as_str().unwrap().to_owned();
    assert!(
        file.starts_with("file:///") && file.ends_with("/caf%E9%201/p.yaml"),
        "{file}"
    );
    let pid = status.replica("a")["pid"].clone();
    // The next daemon knows it too, keeps it, and follows its file.
    world.kill_daemon();
    world.start_daemon();
    let kept = world.until("it is kept", |status| status.settled());
    assert_eq!(kept.replica("a")["pid"], pid);
    fs::write(folder.join("p.yaml"), pipeline(&sleeper("b", ""))).unwrap();
    world.until("an edit is taken over", |status| {
        status.replica("b")["ready"] == true && works_as(status, "b", &folder)
    });
    there(&["diff", "-f", "p.yaml"]);
    there(&["delete", "p"]);
}

fn works_as(status: &crate::support::Status, id: &str, folder: &std::path::Path) -> bool {
    let pid = &status.replica(id)["pid"];
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

#[test]
fn a_release_that_a_link_is_swapped_to_is_taken_over_and_the_old_one_may_go() {
    for given in ["current/p.yaml", "current"] {
        let world = World::new();
        for release in ["1", "2"] {
            fs::create_dir_all(world.path(&format!("rel/{release}"))).unwrap();
            let component = shell(
                "app",
                &format!("echo release {release}; exec sleep 1000"),
                "",
            );
            world.write(&format!("rel/{release}/p.yaml"), &pipeline(&component));
        }
        symlink("rel/1", world.path("current")).unwrap();
        world.ok(&["apply", "-f", given, "--wait"]);
        symlink("rel/2", world.path("next")).unwrap();
        fs::rename(world.path("next"), world.path("current")).unwrap();
        world.until("the new release is wanted", |status| {
            status.pipeline()["generation"] == 2 && status.settled()
        });
        assert!(world.ok(&["logs", "app"]).contains("release 2"), "{given}");
        fs::remove_dir_all(world.path("rel/1")).unwrap();
        world.write("rel/2/p.yaml", &pipeline(&sleeper("app", "")));
        let status = world.until("an edit in it is taken over", |status| {
            status.pipeline()["generation"] == 3 && status.settled()
        });
        assert!(status.pipeline()["problem"].is_null(), "{given}");
    }
}

#[test]
fn what_can_be_read_once_is_read_by_the_caller_and_never_followed() {
    let world = World::new();
    let text = pipeline(&sleeper("a", ""));
    for arguments in [
        &["validate", "/dev/stdin"][..],
        &["diff", "-f", "/dev/stdin"],
        &["apply", "-f", "/dev/stdin", "--wait"],
        &["apply", "-f", "/proc/self/fd/0", "--wait"],
    ] {
        let mut child = world.command(arguments);
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(text.as_bytes()).unwrap();
        drop(pipe);
        let code = child.wait().unwrap().code();
        let expected = if arguments[0] == "diff" { 1 } else { 0 };
        assert_eq!(code, Some(expected), "{arguments:?}");
    }
    let status = world.status();
    assert!(status.pipeline()["file"].is_null());
    assert!(status.pipeline()["problem"].is_null());
    // A regular file behind the same name is the caller's as well: the daemon's is another.
    let file = world.write("q.yaml", &text);
    let mut apply = world.command(&["apply", "-f", "/dev/stdin"]);
    let applied = apply.stdin(fs::File::open(file).unwrap()).status();
    assert!(applied.unwrap().success());
    assert!(world.status().pipeline()["file"].is_null());
    // Nobody writes into this one.
    let made = Command::new("mkfifo").arg(world.path("pipe")).status();
    assert!(made.unwrap().success());
    let said = world.fails(5, &["apply", "-f", "pipe", "--timeout", "200ms"]);
    assert!(said.contains("pipe"), "{said}");
}

#[test]
fn a_command_asks_only_for_what_it_needs() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let gone = world.path("gone");
    for (arguments, code) in [
        (&["status"][..], 0),
        (&["completion", "bash"], 0),
        (&["validate", "p.yaml"], 2),
        (&["apply", "-f", "p.yaml"], 2),
        (&["status", "--state-dir", "relative"], 2),
    ] {
        fs::create_dir(&gone).unwrap();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "rmdir ../gone; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_flowctl"))
            .args(arguments)
            .current_dir(&gone)
            .env("FLOWCTL_STATE_DIR", world.state());
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert_eq!(code == 2, said.contains("removed"), "{arguments:?}: {said}");
    }
    // Nor for a home where no state is kept.
    for arguments in [
        &["validate", "p.yaml"][..],
        &["init", "-"],
        &["completion", "zsh"],
        &["help"],
    ] {
        let mut bare = Command::new(env!("CARGO_BIN_EXE_flowctl"));
        let bare = bare.args(arguments).env_clear().current_dir(world.path(""));
        let output = bare.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn a_daemon_keeps_nothing_open_that_its_caller_had_open() {
    let world = World::new();
    world.write("p.yaml", &pipeline(&sleeper("a", "")));
    let mut deploy = Command::new("sh");
    deploy
        .args(["-c", "exec 9>lock; flock -n 9 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_flowctl"))
        .args(["apply", "-f", "p.yaml", "--wait"])
        .env("FLOWCTL_STATE_DIR", world.state())
        .env("FLOWCTL_CONTROL_PLANE_PORT", "0")
        .current_dir(world.path(""));
    // A pipe that the daemon kept would keep this from ending too.
    assert!(deploy.output().unwrap().status.success());
    let mut again = Command::new("flock");
    let again = again
        .args(["-n", "lock", "true"])
        .current_dir(world.path(""));
    assert!(again.status().unwrap().success(), "the lock is held still");
}
