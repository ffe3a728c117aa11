//! Disks that are full or read-only.

use std::time::{Duration, Instant};

use crate::engine::{Engine, container, unique};
use crate::support::{Status, World, eventually, is_alive, kill, pipeline, shell, sleeper};

/// Has the daemon record things until the full disk takes no more.
fn fail_to_record(world: &World) {
    let mut round = 0_usize;
    while world.status().0["daemon"]["durable"] == true {
        // The database has a little room of its own, which 64 of these more than fill.
        assert!(round < 64, "the daemon never noticed");
        round += 1;
        let much = format!(
            ", env: {{ MUCH: \"{}\" }}",
            format!("{round:02}").repeat(50_000)
        );
        let edited = sleeper("a", "") + &sleeper("b", "") + &sleeper("c", &much);
        world.save("p.yaml", &pipeline(&edited));
        world.run(&["apply", "-f", "p.yaml", "--no-wait"]);
    }
}

#[test]
fn a_full_state_disk_stops_nothing_and_starts_nothing_and_heals_by_itself() {
    let name = "a full state disk";
    let Some(world) = World::with_small_disk(name, "state", "24m") else {
        return;
    };
    world.apply(&(sleeper("a", "") + &sleeper("b", "") + &sleeper("c", "")));
    let before = world.status();
    world.fill_disk();
    fail_to_record(&world);
    let broken = world.status();
    assert!(broken.0["daemon"]["durable_why"].is_string());
    for component in ["a", "b"] {
        assert_eq!(broken.pid(component), before.pid(component));
    }

    world.save(
        "more.yaml",
        &pipeline(&sleeper("d", "")).replace("name: p", "name: more"),
    );
    world.fails(75, &["apply", "-f", "more.yaml"]);
    world.fails(75, &["start", "a"]);
    world.fails(75, &["stop", "b"]);
    let b = before.pid("b").unwrap();
    assert!(!is_alive(b), "stop works, and says that it is not recorded");
    let a = before.pid("a").unwrap();
    assert!(is_alive(a), "what runs stays up");
    kill(a, "KILL");
    let held = world.until("the crash shows", |status| status.phase("a") != "running");
    assert!(!held.replica("a")["exit"].is_null() || !held.why("a").is_empty());

    world.free_disk();
    let healed = world.until("it heals by itself", |status| {
        status.0["daemon"]["durable"] == true && status.phase("a") == "running"
    });
    assert!(healed.0["daemon"]["durable_why"].is_null());
    assert_eq!(healed.restarts("a"), 1);
    assert_eq!(healed.phase("b"), "stopped");
    world.save(
        "p.yaml",
        &pipeline(&(sleeper("a", "") + &sleeper("b", "") + &sleeper("e", ""))),
    );
    let edited = world.until("an edit applies", |status| {
        status.phase("e") == "running" && status.phase("c") == "absent"
    });

    world.kill_daemon();
    world.start_daemon();
    let after = world.until("all is adopted", |status| status.settled());
    for component in ["a", "e"] {
        assert_eq!(after.pid(component), edited.pid(component));
    }
    assert_eq!(after.restarts("a"), 1);
    assert_eq!(after.phase("b"), "stopped");
    assert_eq!(world.marked().len(), 2);
}

#[test]
fn a_full_state_disk_is_noticed_and_healed_though_nothing_happens() {
    let name = "a full state disk of an idle daemon";
    let Some(world) = World::with_small_disk(name, "state", "24m") else {
        return;
    };
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let before = world.status();
    world.fill_disk();
    let broken = world.until("it says so", |status| {
        status.0["daemon"]["durable"] == false
    });
    let why = broken.0["daemon"]["durable_why"].as_str().unwrap();
    assert!(why.contains("room"), "{why}");
    assert!(world.ok(&["events"]).contains("a is ready"));
    world.free_disk();
    let healed = world.until("it heals by itself", |status| {
        status.0["daemon"]["durable"] == true && status.settled()
    });
    for component in ["a", "b"] {
        assert_eq!(healed.pid(component), before.pid(component));
        assert_eq!(healed.restarts(component), 0);
    }
    let events = world.ok(&["events"]);
    assert!(events.contains("cannot be recorded"), "{events}");
}

#[test]
fn a_disk_that_turns_read_only_stops_nothing_and_starts_nothing() {
    let Some(mut world) = World::with_failing_disk("a disk that turns read-only") else {
        return;
    };
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let other = pipeline(&sleeper("e", "")).replace("name: p", "name: q");
    world.save("q.yaml", &other);
    world.ok(&["apply", "-f", "q.yaml", "--wait"]);
    let before = world.status();
    world.break_disk();
    kill(before.pid("a").unwrap(), "KILL");
    let broken = world.until("it says so", |status| {
        status.0["daemon"]["durable"] == false && status.phase("a") == "pending"
    });
    let why = broken.0["daemon"]["durable_why"].as_str().unwrap();
    assert!(why.contains("ead-only"), "{why}");
    // Nor can its shim write down how it ended.
    assert!(broken.replica("a")["exit"]["at"].is_string());
    assert!(broken.why("a").contains("ead-only"), "{}", broken.why("a"));
    assert_eq!(broken.pid("b"), before.pid("b"));
    assert_eq!(broken.phase("b"), "running");
    world.save(
        "more.yaml",
        &pipeline(&sleeper("d", "")).replace("name: p", "name: more"),
    );
    let said = world.fails(75, &["apply", "-f", "more.yaml"]);
    assert!(said.contains("ead-only"), "{said}");
    world.fails(75, &["start", "a"]);
    world.fails(75, &["restart", "b"]);
    let after = world.status();
    assert_eq!(after.phase("a"), "pending", "nothing new is begun");
    let b = before.pid("b").unwrap();
    assert!(is_alive(b));
    let said = world.fails(75, &["stop", "b"]);
    assert!(said.contains("p/b stopped"), "{said}");
    assert!(!is_alive(b), "stop works, and says that it is not recorded");
    let said = world.fails(75, &["delete", "q"]);
    assert!(
        said.contains("q deleted") && said.contains("not recorded"),
        "{said}"
    );
    let said = world.fails(75, &["down"]);
    assert!(said.contains("everything is down"), "{said}");
    assert_eq!(world.marked(), Vec::<u32>::new());
    world.unmount();
}

#[test]
fn a_state_directory_that_is_read_only_for_a_while_heals_by_itself() {
    let name = "a read-only state directory";
    let Some(mut world) = World::with_small_disk(name, "state", "24m") else {
        return;
    };
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let before = world.status();
    // Full at first: that makes the daemon let go of the database, which it had open to write.
    let filler = world.fill_disk();
    fail_to_record(&world);
    assert!(world.make_read_only(name));
    filler.set_len(0).unwrap();
    let why = |status: &Status| {
        let why = status.0["daemon"]["durable_why"].as_str();
        why.unwrap_or_default().to_owned()
    };
    world.until("it says so", |status| why(status).contains("ead-only"));
    kill(before.pid("a").unwrap(), "KILL");
    world.until("the crash shows", |status| status.phase("a") == "pending");
    world.fails(75, &["start", "a"]);
    world.make_writable();
    let healed = world.until("it heals by itself", |status| {
        status.0["daemon"]["durable"] == true && status.phase("a") == "running"
    });
    assert_eq!(why(&healed), "");
    assert_eq!(healed.restarts("a"), 1);
    assert_eq!(healed.pid("b"), before.pid("b"));
    assert_eq!(healed.daemon_pid(), before.daemon_pid());
    world.until("all is as its file says", |status| status.settled());
    assert_eq!(world.marked().len(), 3);
}

#[test]
fn a_state_directory_that_is_read_only_at_the_start_is_refused_and_costs_nothing() {
    let mut world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    world.kill_daemon();
    if !world.make_read_only("a state directory that is read-only at the start") {
        return;
    }
    for verb in [&["daemon"][..], &["apply", "-f", "p.yaml"], &["status"]] {
        let said = world.fails(75, verb);
        assert!(said.contains("ead-only"), "{verb:?}: {said}");
    }
    assert!(is_alive(before.pid("a").unwrap()));
    world.make_writable();
    world.start_daemon();
    let after = world.until("it is adopted", |status| status.settled());
    assert_eq!((after.pid("a"), after.restarts("a")), (before.pid("a"), 0));
}

#[test]
fn a_daemon_whose_own_log_cannot_be_written_does_its_work() {
    let world = World::new();
    world.start_daemon_that_logs_to(std::fs::File::create("/dev/full").unwrap());
    world.apply(&sleeper("a", ""));
    let before = world.status();
    kill(before.pid("a").unwrap(), "KILL");
    let after = world.until("it runs again", |status| {
        status.phase("a") == "running" && status.restarts("a") == 1
    });
    assert_eq!(after.daemon_pid(), before.daemon_pid());
}

#[test]
fn the_log_of_a_daemon_in_the_background_is_begun_anew_when_it_is_large() {
    let world = World::new();
    let (log, before) = (world.path("state/daemon.log"), "state/daemon.log.1");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(&log, "a line of months\n".repeat(1 << 20)).unwrap();
    world.apply(&sleeper("a", ""));
    eventually("it is begun anew", || world.path(before).exists());
    assert!(world.read(before).starts_with("a line of months"));
    kill(world.status().pid("a").unwrap(), "KILL");
    world.until("it runs again", |status| status.restarts("a") == 1);
    let written = world.read("state/daemon.log");
    assert!(written.contains("starting a") && !written.contains("months"));
}

#[test]
fn a_full_log_disk_never_blocks_a_program_and_the_gap_is_counted() {
    let name = "a full log disk";
    let Some(world) = World::with_small_disk(name, "state/logs", "256k") else {
        return;
    };
    let counter = "n=0; while :; do n=$((n+1)); echo $n; echo $n > progress; sleep 0.001; done";
    world.apply(&shell("a", counter, ""));
    let before = world.status();
    let progress = || -> u64 { world.read("progress").trim().parse().unwrap_or(0) };
    world.fill_disk();
    let full_at = progress();
    eventually("the program goes on", || progress() > full_at + 1000);
    world.free_disk();
    let logs = || world.ok(&["logs", "a"]);
    eventually("the gap is marked", || logs().contains("dropped"));
    let marked = progress();
    eventually("it is written again", || {
        logs()
            .lines()
            .any(|line| line.parse().is_ok_and(|n: u64| n > marked))
    });
    let (mut expected, mut gaps) = (1, 0);
    for line in logs().lines() {
        if let Some(rest) = line.split("flowctl: dropped ").nth(1) {
            let dropped: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            assert!(dropped > 0);
            gaps += 1;
            expected += dropped;
        } else {
            assert_eq!(line.parse::<u64>().unwrap(), expected, "the count is exact");
            expected += 1;
        }
    }
    assert!(gaps > 0);
    assert_eq!(world.status().pid("a"), before.pid("a"));
}

#[test]
fn lines_that_the_disk_of_the_logs_did_not_take_are_told() {
    let name = "a full disk of the logs";
    let Some(world) = World::with_small_disk(name, "state/logs", "4m") else {
        return;
    };
    let talks = "while echo a line that is written again and again; do sleep 0.01; done";
    world.apply(&shell("talks", talks, ""));
    eventually("it has written", || {
        !world.ok(&["logs", "talks"]).is_empty()
    });
    world.fill_disk();
    std::thread::sleep(std::time::Duration::from_secs(2));
    world.free_disk();
    let status = world.until("it is told", |status| {
        status.0["conditions"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    let condition = &status.0["conditions"][0];
    assert_eq!(
        (&condition["kind"], &condition["component"]),
        (&"log-dropped".into(), &"talks".into())
    );
    let why = condition["why"].as_str().unwrap();
    assert!(
        why.ends_with(" lines of its log were lost: the disk did not take them"),
        "{why}"
    );
    let metrics = world.ok(&["metrics"]);
    let family = "flowctl_replica_output_dropped_lines_total{";
    let sample = metrics
        .lines()
        .find(|line| line.starts_with(family))
        .unwrap();
    assert!(!sample.ends_with(" 0"), "{sample}");
    assert!(world.ok(&["logs", "talks"]).contains("flowctl: dropped "));
}

#[test]
fn lines_that_a_removed_container_took_along_are_a_condition() {
    let name = "lines that a removed container took along";
    let Some(engine) = Engine::shared(name) else {
        return;
    };
    let Some(mut world) = World::with_small_disk(name, "state/logs", "1m") else {
        return;
    };
    world.use_engine(&engine.host());
    let id = unique("talks");
    let counts = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done";
    world.apply(&container(&id, counts, ", restart: { policy: never }"));
    let copied = || world.ok(&["logs", &id, "--tail", "1"]);
    eventually("its lines are copied", || copied().contains("line"));
    let filler = world.fill_disk();
    // It writes fifty lines a second: where none arrives for a while, they have no room.
    let (mut last, mut since) = (String::new(), Instant::now());
    eventually("lines have no room", || {
        let now = copied();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(5)
    });
    let [container] = &engine.containers(&world)[..] else {
        panic!("one container was expected");
    };
    engine.act("DELETE", &format!("/containers/{container}?force=1"));
    drop(filler);
    world.free_disk();
    let told = world.until("it is told", |status| {
        let conditions = status.0["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["kind"] == "log-dropped"))
    });
    let conditions = told.0["conditions"].as_array().unwrap();
    let told = conditions.iter().find(|one| one["kind"] == "log-dropped");
    let told = told.unwrap();
    assert_eq!(told["component"], id.as_str());
    let why = told["why"].as_str().unwrap();
    assert!(why.ends_with("before their container was removed"), "{why}");
    let log = world.ok(&["logs", &id]);
    assert!(log.contains("flowctl: dropped "), "{log}");
    let metrics = world.ok(&["metrics"]);
    let dropped = metrics
        .lines()
        .find(|line| line.starts_with("flowctl_replica_output_dropped_lines_total{"));
    assert!(
        dropped.is_some_and(|line| !line.ends_with(" 0")),
        "{dropped:?}"
    );
}
