//! What becomes of the store while the daemon has it open, and of hosts that go down.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    PATIENCE, Status, World, eventually, is_alive, kill, parent, pipeline, reap_later, shell,
    sleeper,
};

/// The database file of the store.
pub fn database(store: &Path) -> PathBuf {
    let mut entries = fs::read_dir(store).unwrap();
    let found = entries.find_map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let is_database = name.to_str().unwrap().starts_with("db-");
        is_database.then(|| entry.path().join("db"))
    });
    found.expect("the store has a database")
}

/// Changes bytes all over a file, in place: the daemon has this very file open.
fn scramble(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    for byte in bytes.iter_mut().step_by(97) {
        *byte ^= 0x10;
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_store_that_is_lost_or_damaged_while_the_daemon_runs_costs_no_restart() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("deleted", |store| fs::remove_dir_all(store).unwrap()),
        ("replaced by a file", |store| {
            fs::remove_dir_all(store).unwrap();
            fs::write(store, "junk").unwrap();
        }),
        ("its database replaced by a folder", |store| {
            let database = database(store);
            fs::remove_file(&database).unwrap();
            fs::create_dir(&database).unwrap();
        }),
        ("truncated", |store| {
            let database = fs::OpenOptions::new().write(true).open(database(store));
            database.unwrap().set_len(1000).unwrap();
        }),
        ("scrambled", |store| scramble(&database(store))),
    ];
    for (name, damage) in damages {
        let world = World::new();
        world.apply(&(sleeper("a", "") + &sleeper("b", "")));
        let before = world.status();
        damage(&world.state().join("store"));
        kill(before.pid("a").unwrap(), "KILL");
        let after = world.until(name, |status| {
            status.settled()
                && status.restarts("a") == 1
                && status.phase("a") == "running"
                && status.0["daemon"]["durable"] == true
        });
        assert_eq!(after.pid("b"), before.pid("b"), "store {name}");
        assert_eq!(after.daemon_pid(), before.daemon_pid(), "store {name}");
        world.save(
            "p.yaml",
            &pipeline(&(sleeper("a", "") + &sleeper("b", "") + &sleeper("c", ""))),
        );
        // The loss may be found only now, by the disk's answer to the command: then that says so.
        eventually("the edit is applied", || {
            let code = world
                .run(&["apply", "-f", "p.yaml", "--wait"])
                .status
                .code();
            assert!([Some(0), Some(75)].contains(&code), "{code:?}");
            code == Some(0)
        });
        let last = world.status();
        world.kill_daemon();
        world.start_daemon();
        let adopted = world.until("all is adopted", Status::settled);
        for component in ["a", "b", "c"] {
            assert_eq!(adopted.pid(component), last.pid(component), "store {name}");
        }
        assert_eq!(world.marked().len(), 3, "store {name}");
    }
}

#[test]
fn a_disk_without_a_free_inode_restarts_what_was_there_starts_nothing_half_and_heals() {
    let name = "a disk without inodes";
    let Some(world) = World::with_small_disk(name, "state", "64m,nr_inodes=300") else {
        return;
    };
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let before = world.status();
    let crowd = world.state().join("crowd");
    fs::create_dir(&crowd).unwrap();
    let mut count = 0;
    while fs::File::create(crowd.join(count.to_string())).is_ok() {
        count += 1;
        assert!(count < 300, "the disk has an end");
    }
    // What ran before has its place there.
    kill(before.pid("a").unwrap(), "KILL");
    let again = world.until("it runs again", |status| {
        status.phase("a") == "running" && status.restarts("a") == 1
    });
    let more = sleeper("a", "") + &sleeper("b", "") + &sleeper("c", "");
    world.save("p.yaml", &pipeline(&more));
    world.until("it says why", |status| {
        status.phase("c") != "running" && status.why("c").contains("No space left")
    });
    assert_eq!(world.status().pid("b"), before.pid("b"));
    fs::remove_dir_all(&crowd).unwrap();
    let healed = world.until("it heals by itself", |status| {
        status.settled() && status.phase("c") == "running" && status.0["daemon"]["durable"] == true
    });
    for (component, earlier) in [("a", &again), ("b", &before)] {
        assert_eq!(healed.pid(component), earlier.pid(component));
    }
    assert_eq!(world.marked().len(), 3);
}

#[test]
fn a_daemon_that_is_killed_again_and_again_while_it_recovers_adopts_all_in_the_end() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", ", depends_on: [a]") + &sleeper("c", "")));
    let before = world.status();
    world.kill_daemon();
    // One end to take in, which must be answered once.
    let c = before.pid("c").unwrap();
    kill(c, "KILL");
    eventually("it ended", || !is_alive(c));
    for round in 0..40 {
        let mut command = world.command(&["daemon"]);
        let mut daemon = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    world.start_daemon();
    let after = world.until("all is as it should be", Status::settled);
    for component in ["a", "b"] {
        assert_eq!(after.pid(component), before.pid(component));
        assert_eq!(after.restarts(component), 0);
    }
    assert_eq!(after.restarts("c"), 1);
    assert_eq!(world.marked().len(), 3);
}

#[test]
fn after_a_reboot_all_is_started_in_order_and_nothing_is_counted() {
    let world = World::new();
    let order = "echo $FLOWCTL_COMPONENT_ID >> order; exec sleep 100000";
    // Ready once it has written.
    let probe = ", probes: { readiness: { exec: [grep, -q, a, order], period: 100ms } }";
    world.apply(&(shell("b", order, ", depends_on: [a]") + &shell("a", order, probe)));
    let has_written = |components: &str| {
        eventually("both have written", || {
            world.read("order").len() >= components.len()
        });
        assert_eq!(world.read("order"), components);
    };
    has_written("a\nb\n");
    std::fs::remove_file(world.path("order")).unwrap();
    let before = world.status();
    world.kill_daemon();
    for component in ["a", "b"] {
        let program = before.pid(component).unwrap();
        kill(parent(program), "KILL");
        eventually("it is gone with its shim", || !is_alive(program));
    }
    // Another boot id, for the daemon alone.
    world.write("boot-id", "11111111-2222-4333-8444-555555555555\n");
    let script = "mount --bind boot-id /proc/sys/kernel/random/boot_id && exec \"$0\" daemon";
    let mut daemon = std::process::Command::new("unshare");
    daemon
        .args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_flowctl")])
        .env("FLOWCTL_STATE_DIR", world.state())
        .current_dir(world.path(""))
        .stderr(std::process::Stdio::null());
    let mut child = daemon.spawn().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !world.status().has_daemon() {
        if child.try_wait().unwrap().is_some() {
            eprintln!("NOT RUN: only root can pretend a reboot");
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
            return;
        }
        assert!(std::time::Instant::now() < deadline, "it never answers");
    }
    reap_later(child);
    let after = world.until("both run", Status::settled);
    for component in ["a", "b"] {
        assert_eq!(after.restarts(component), 0);
        assert_ne!(after.pid(component), before.pid(component));
    }
    has_written("a\nb\n");
    let events = world.ok(&["events"]);
    assert!(events.contains("reboot"), "{events}");
}

#[test]
fn what_could_not_be_started_starts_once_its_program_appears() {
    let world = World::new();
    let fast = ", restart: { initial_delay: 50ms, max_delay: 100ms, jitter: 0 }";
    let component = format!("    - {{ id: a, command: [./late, '100000']{fast} }}\n");
    world.save("p.yaml", &pipeline(&component));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait", "--force"]);
    world.until("it cannot start", |status| {
        ["backoff", "crashloop"].contains(&status.phase("a"))
    });
    std::os::unix::fs::symlink("/bin/sleep", world.path("late")).unwrap();
    let status = world.until("it runs", |status| status.phase("a") == "running");
    assert!(status.restarts("a") >= 1);
}
