//! Whoever could change what a daemon goes by could have it run anything: what another user owns or
//! may write is refused, aloud.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use crate::support::{World, pipeline, sleeper};

/// Whom a thing is given to that is not ours.
const ANOTHER: u32 = 65534;

fn give(path: &Path) -> bool {
    if chown(path, Some(ANOTHER), Some(ANOTHER)).is_ok() {
        return true;
    }
    println!("SKIPPED: only root may give files away");
    false
}

#[test]
fn a_state_directory_that_another_user_planted_is_refused_and_nothing_of_it_runs() {
    let world = World::new();
    let trap = world.path("trap");
    let planted = trap.join("state");
    fs::create_dir_all(&planted).unwrap();
    fs::write(planted.join(".flowctl"), "").unwrap();
    // What is in it: a component that leaves a trace when it runs.
    let component = sleeper("a", "").replace("sleep", "touch");
    fs::write(trap.join("p.yaml"), pipeline(&component)).unwrap();
    for path in [&planted.join(".flowctl"), &planted, &trap] {
        if !give(path) {
            return;
        }
    }
    for arguments in [
        &["status"][..],
        &["apply", "-f", "p.yaml"],
        &["run", "p.yaml"],
        &["down"],
        &["logs"],
        &["daemon"],
        &["components", "rotate-keys"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowctl"));
        let command = command.args(arguments).current_dir(&trap);
        let output = command.env_remove("FLOWCTL_STATE_DIR").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{arguments:?}: {said}");
        assert!(
            said.contains("belongs to user 65534"),
            "{arguments:?}: {said}"
        );
    }
    let left: Vec<_> = fs::read_dir(&planted).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was made in it: {left:?}");
    // The same where it is ours, in a folder in which they could exchange it.
    chown(&planted, Some(0), Some(0)).unwrap();
    chown(planted.join(".flowctl"), Some(0), Some(0)).unwrap();
    let state = planted.to_str().unwrap();
    let said = world.fails(7, &["status", "--state-dir", state]);
    assert!(said.contains("trap belongs to user 65534"), "{said}");
}

#[test]
fn what_others_could_change_is_applied_once_and_not_followed() {
    let world = World::new();
    let file = world.write("p.yaml", &pipeline(&sleeper("a", "")));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let said = world.run(&["apply", "-f", "p.yaml", "--wait"]);
    assert!(said.status.success());
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(told.contains("not followed"), "{told}");
    assert_eq!(world.status().pipeline()["watched"], false);
    // An edit by anybody changes nothing.
    world.write("p.yaml", &pipeline(&sleeper("planted", "")));
    let ours = world.write(
        "q.yaml",
        &pipeline(&sleeper("b", "")).replace("name: p", "name: q"),
    );
    world.ok(&["apply", "-f", "q.yaml", "--wait"]);
    // One that is followed and is opened to others is told of, and what ran runs on.
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o666)).unwrap();
    let edit = pipeline(&sleeper("planted", "")).replace("name: p", "name: q");
    world.write("q.yaml", &edit);
    world.until("its pipeline says so", |status| {
        let pipelines = status.0["pipelines"].as_array().unwrap();
        let followed = pipelines.iter().find(|one| one["name"] == "q").unwrap();
        let problem = followed["problem"]["message"].as_str().unwrap_or_default();
        problem.contains("everybody may write")
    });
    let said = world.ok(&["status", "-o", "json"]);
    assert!(!said.contains("planted"), "{said}");
    // Closed again, it is followed as before.
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o600)).unwrap();
    world.until("it is followed again", |status| {
        status.0.to_string().contains("planted")
    });
}

#[test]
fn a_folder_that_others_could_add_to_is_applied_once_and_not_followed() {
    let world = World::new();
    let folder = world.path("folder");
    fs::create_dir(&folder).unwrap();
    world.write("folder/p.yaml", &pipeline(&sleeper("a", "")));
    // What is in it stays ours, and others may add to it.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
    let said = world.run(&["apply", "-f", "folder", "--wait"]);
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{told}");
    assert!(told.contains("not followed"), "{told}");
    assert_eq!(world.status().pipeline()["watched"], false);
}
