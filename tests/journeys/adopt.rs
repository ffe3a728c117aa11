//! Killing the daemon costs no component anything.

use std::collections::BTreeMap;
use std::fs;

use crate::damage::database;
use crate::support::{Status, World, eventually, is_alive, kill, pipeline, shell, sleeper};

#[test]
fn kill_9_of_the_daemon_costs_no_component_anything() {
    let world = World::new();
    let counter = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done";
    world.apply(&(shell("a", counter, "") + &sleeper("b", ", depends_on: [a]")));
    let before = world.status();
    let lines_so_far = world.ok(&["logs", "a"]).lines().count();
    world.kill_daemon();
    let alone = world.status();
    assert!(!alone.has_daemon());
    assert_eq!(
        alone.pid("a"),
        before.pid("a"),
        "status without a daemon looks for itself"
    );
    world.start_daemon();
    let after = world.until("all is adopted", |status| status.settled());
    for component in ["a", "b"] {
        assert_eq!(after.pid(component), before.pid(component));
        assert_eq!(after.restarts(component), 0);
        assert_eq!(after.replica(component)["ready"], true);
    }
    eventually("it goes on writing", || {
        world.ok(&["logs", "a"]).lines().count() > lines_so_far + 10
    });
    let logs = world.ok(&["logs", "a"]);
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, expected, "no line is lost and none is repeated");
}

#[test]
fn sigterm_to_the_daemon_leaves_components_running() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    kill(before.daemon_pid(), "TERM");
    eventually("the daemon ended", || !is_alive(before.daemon_pid()));
    assert!(is_alive(before.pid("a").unwrap()));
    world.start_daemon();
    assert_eq!(
        world.until("adopted", |status| status.settled()).pid("a"),
        before.pid("a")
    );
}

#[test]
fn every_kind_of_exit_while_the_daemon_is_down_is_reported_exactly() {
    let world = World::new();
    let never = ", restart_policy: never";
    let wait = |end: &str| format!("while [ ! -e go ]; do sleep 0.02; done; {end}");
    let mut components = String::new();
    for (id, end) in [
        ("zero", "exit 0"),
        ("one", "exit 1"),
        ("answer", "exit 42"),
        ("segv", "kill -SEGV $$"),
        ("killed", "kill -KILL $$"),
    ] {
        components += &shell(id, &wait(end), never);
    }
    let once = wait("[ -e ran ] && exec sleep 100000; touch ran; exit 9");
    components += &shell("again", &once, "");
    world.apply(&components);
    let before = world.status();
    world.kill_daemon();
    world.write("go", "");
    for id in ["zero", "one", "answer", "segv", "killed", "again"] {
        let pid = before.pid(id).unwrap();
        eventually("it ended", || !is_alive(pid));
    }
    world.start_daemon();
    let after = world.until("all ends are taken in", |status| {
        ["zero", "one", "answer", "segv", "killed"]
            .iter()
            .all(|id| !status.replica(id)["exit"].is_null())
    });
    let exit = |id: &str| {
        let exit = &after.replica(id)["exit"];
        (exit["code"].as_i64(), exit["signal"].as_i64())
    };
    assert_eq!(exit("zero"), (Some(0), None));
    assert_eq!(exit("one"), (Some(1), None));
    assert_eq!(exit("answer"), (Some(42), None));
    assert_eq!(exit("segv"), (None, Some(11)));
    assert_eq!(exit("killed"), (None, Some(9)));
    assert_eq!(after.phase("zero"), "completed");
    assert_eq!(after.phase("one"), "failed");
    let again = world.until("its policy is applied", |status| {
        status.phase("again") == "running"
    });
    assert_eq!(again.replica("again")["exit"]["code"], 9);
    assert_eq!(again.restarts("again"), 1, "once");
}

#[test]
fn down_without_a_daemon_leaves_no_state_behind() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", ", depends_on: [a]")));
    world.kill_daemon();
    world.ok(&["down"]);
    assert_eq!(world.marked(), Vec::<u32>::new());
    assert_eq!(world.status().0["pipelines"], serde_json::json!([]));
    let instances = fs::read_dir(world.state().join("instances")).unwrap();
    assert_eq!(instances.count(), 0, "no folder of an instance is left");
    world.start_daemon();
    assert_eq!(world.status().0["pipelines"], serde_json::json!([]));
}

#[test]
fn a_lost_or_damaged_store_costs_no_restart() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 6] = [
        ("deleted", |store| fs::remove_dir_all(store).unwrap()),
        ("replaced by a file", |store| {
            fs::remove_dir_all(store).unwrap();
            fs::write(store, "junk").unwrap();
        }),
        ("replaced by an empty folder", |store| {
            fs::remove_dir_all(store).unwrap();
            fs::create_dir(store).unwrap();
        }),
        ("its database replaced by a folder", |store| {
            let database = database(store);
            fs::remove_file(&database).unwrap();
            fs::create_dir(&database).unwrap();
        }),
        ("truncated", |store| {
            let db = fs::OpenOptions::new()
                .write(true)
                .open(database(store))
                .unwrap();
            db.set_len(1000).unwrap();
        }),
        ("scrambled", |store| {
            let mut bytes = fs::read(database(store)).unwrap();
            for byte in bytes.iter_mut().step_by(97) {
                *byte ^= 0x10;
            }
            fs::write(database(store), bytes).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let world = World::new();
        world.apply(&(sleeper("a", "") + &sleeper("b", ", depends_on: [a]")));
        let before = world.status();
        world.kill_daemon();
        damage(&world.state().join("store"));
        world.start_daemon();
        let after = world.until("it is rebuilt", |status| {
            status.settled() && status.phase("b") == "running"
        });
        for component in ["a", "b"] {
            assert_eq!(after.pid(component), before.pid(component), "store {name}");
        }
        let both = sleeper("a", "") + &sleeper("b", ", depends_on: [a]") + &sleeper("c", "");
        world.save("p.yaml", &pipeline(&both));
        world.until("its file is watched again", |status| {
            status.phase("c") == "running"
        });
    }
}

/// The component and replica of every live program of this world, one entry for each.
fn programs(world: &World) -> Vec<String> {
    let name = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let group = stat.rsplit(')').next()?.split_whitespace().nth(2)?;
        let leads = group == pid.to_string();
        let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mark = environ
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"FLOWCTL_INSTANCE="))?;
        let instance = String::from_utf8_lossy(mark).into_owned();
        let replica = instance.rsplit_once('.').unwrap().0.to_owned();
        leads.then_some(replica)
    };
    let mut programs: Vec<String> = world.marked().into_iter().filter_map(name).collect();
    programs.sort();
    programs
}

/// `FLOWCTL_KILL_ROUNDS` sets another number of rounds.
#[test]
fn kill_9_of_the_daemon_at_random_moments_leaves_one_of_each() {
    let rounds: u64 =
        std::env::var("FLOWCTL_KILL_ROUNDS").map_or(60, |rounds| rounds.parse().unwrap());
    let world = World::new();
    let crashy = "echo >> runs-$FLOWCTL_COMPONENT_ID; [ -e calm ] && exec sleep 100000; \
                  n=0; while [ $n -lt 20 ]; do n=$((n+1)); sleep 0.05; done; exit 3";
    let counter = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done";
    let mut components = String::new();
    for n in 0..10 {
        components += &shell(&format!("calm-{n}"), counter, "");
        let fast = ", restart: { initial_delay: 50ms, max_delay: 200ms, jitter: 0 }";
        components += &shell(&format!("crashy-{n}"), crashy, fast);
    }
    world.save("p.yaml", &pipeline(&components));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    world.until("the calm ones run", |status| {
        status.phase("calm-9") == "running"
    });
    let calm: Vec<Option<u32>> = (0..10)
        .map(|n| world.status().pid(&format!("calm-{n}")))
        .collect();
    let mut restarts: BTreeMap<String, u64> = BTreeMap::new();
    let mut random = 88_172_645_463_325_252_u64;
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(std::time::Duration::from_millis(random % 150));
        world.kill_daemon();
        world.start_daemon();
        let status = world.status();
        for n in 0..10 {
            let id = format!("crashy-{n}");
            let seen = restarts.entry(id.clone()).or_default();
            // What was shown last may not have been recorded: then it was not carried out either, and
            // is counted when it is.
            assert!(
                status.restarts(&id) + 1 >= *seen,
                "round {round}: restarts of {id} fell"
            );
            *seen = status.restarts(&id);
        }
        let live = programs(&world);
        let mut replicas = live.clone();
        replicas.dedup();
        assert_eq!(
            live, replicas,
            "round {round}: two live instances of one replica"
        );
    }
    let after = world.until("the calm ones are adopted", |status| {
        (0..10).all(|n| status.phase(&format!("calm-{n}")) == "running")
    });
    let still: Vec<Option<u32>> = (0..10).map(|n| after.pid(&format!("calm-{n}"))).collect();
    assert_eq!(still, calm);
    world.write("calm", "");
    let id = |n: u32| format!("crashy-{n}");
    let end = world.until("no more crashes", |status| {
        (0..10).all(|n| status.phase(&id(n)) == "running" && slept(status, &id(n)))
    });
    for n in 0..10 {
        let runs = world.read(&format!("runs-{}", id(n))).lines().count() as u64;
        assert_eq!(
            end.restarts(&id(n)),
            runs - 1,
            "each restart is counted once"
        );
        assert_eq!(end.replica(&id(n))["exit"]["code"], 3);
        let logs = world.ok(&["logs", &format!("calm-{n}")]);
        let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
        let expected: Vec<usize> = (1..=numbers.len()).collect();
        assert_eq!(numbers, expected, "calm-{n}: a line is lost or repeated");
    }
}

/// Whether the program of a component has become `sleep`.
fn slept(status: &Status, component: &str) -> bool {
    let pid = status.pid(component).unwrap_or_default();
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
}
