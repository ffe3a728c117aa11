//! A file system that hangs, as a hard NFS mount does whose server has gone.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Status, World, may_mount, pipeline, sleeper};

/// A file system over a folder of which every question waits for ever.
struct Hung {
    place: PathBuf,
    /// Whoever holds this is its server, and never answers.
    server: Option<File>,
}

impl Hung {
    fn over(place: PathBuf) -> Self {
        let mut fuse = File::options();
        let server = fuse.read(true).write(true).open("/dev/fuse").unwrap();
        // `mount` finds it as its standard input.
        let mount = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o"])
            .args(["fd=0,rootmode=40000,user_id=0,group_id=0", "none"])
            .arg(&place)
            .stdin(Stdio::from(server.try_clone().unwrap()))
            .status();
        assert!(mount.unwrap().success());
        let server = Some(server);
        Self { place, server }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Without a server all questions fail.
        self.server.take();
        let unmounted = Command::new("umount").arg("-l").arg(&self.place).status();
        assert!(unmounted.unwrap().success());
    }
}

/// The pipeline of this name.
fn named<'a>(status: &'a Status, name: &str) -> &'a Value {
    let pipelines = status.0["pipelines"].as_array().unwrap();
    let found = pipelines.iter().find(|pipeline| pipeline["name"] == name);
    found.unwrap_or(&Value::Null)
}

#[test]
fn a_manifest_on_a_file_system_that_hangs_keeps_nobody_else_from_anything() {
    if !may_mount("a_manifest_on_a_file_system_that_hangs_…") {
        return;
    }
    let world = World::new();
    std::fs::create_dir(world.path("far")).unwrap();
    world.write("far/p.yaml", &pipeline(&sleeper("a", "")));
    world.ok(&["apply", "-f", "far/p.yaml", "--wait"]);
    let before = world.status();
    world.kill_daemon();
    let hung = Hung::over(world.path("far"));
    world.start_daemon();

    let near = |arg: &str| {
        pipeline(&sleeper("b", &format!(", env: {{ N: '{arg}' }}")))
            .replacen("name: p", "name: q", 1)
    };
    world.save("q.yaml", &near("1"));
    world.ok(&["apply", "-f", "q.yaml", "--wait"]);
    world.save("q.yaml", &near("2"));
    world.until("an edit of another file is noticed", |status| {
        named(status, "q")["generation"] == 2
    });
    let told = world.until("status says what it waits for", |status| {
        !named(status, "p")["problem"].is_null()
    });
    let problem = named(&told, "p")["problem"]["message"].to_string();
    assert!(problem.contains("file system does not answer"), "{problem}");
    assert_eq!(told.pid("a"), before.pid("a"));

    drop(hung);
    world.until("the file is read again", |status| {
        named(status, "p")["problem"].is_null()
    });
    world.write("far/p.yaml", &pipeline(&sleeper("a", ", env: { N: '2' }")));
    let after = world.until("its edits are noticed", |status| {
        named(status, "p")["generation"] == 2 && named(status, "p")["settled"] == true
    });
    assert_ne!(after.pid("a"), before.pid("a"));
}
