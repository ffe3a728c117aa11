//! Probes, order, and what an upstream's trouble does to others.

use std::net::TcpListener;

use crate::support::{Status, World, eventually, free_ports, kill, pipeline, shell, sleeper};

#[test]
fn an_exec_probe_finds_what_its_component_finds_also_after_a_daemon_restart() {
    let world = World::new();
    world.write("more.env", "FROM_FILE=yes\n");
    world.write("password", "let me in");
    std::fs::create_dir(world.path("work")).unwrap();
    let probe = "test \"$OWN\" = own-${{ component.replica }} && test \"$FROM_FILE\" = yes \
                 && test \"$(cat \"$FLOWCTL_SECRETS_DIR/db\")\" = 'let me in' \
                 && test \"$(basename \"$PWD\")\" = work && test -n \"$COMPONENT_TOKEN\" \
                 && test \"$COMPONENT_TOKEN_FILE\" = \"$(cat token-file-${{ component.replica }})\" \
                 && test -z \"$LEAK\"";
    let probe = serde_json::to_string(probe).unwrap();
    let more = format!(
        ", replicas: 2, working_dir: work, env_file: [more.env], \
         env: {{ OWN: 'own-${{{{ component.replica }}}}' }}, \
         secrets: [{{ name: db, file: password }}], \
         probes: {{ readiness: {{ exec: [sh, -c, {probe}], period: 100ms, failures: 1 }} }}"
    );
    let script =
        "echo \"$COMPONENT_TOKEN_FILE\" > token-file-${{ component.replica }}; exec sleep 1000";
    world.save("p.yaml", &pipeline(&shell("a", script, &more)));
    let mut apply = world.command(&["apply", "-f", "p.yaml", "--wait"]);
    let output = apply.env("LEAK", "no").output().unwrap();
    assert!(output.status.success(), "{:#}", world.status().0);
    let before = world.status();
    world.kill_daemon();
    world.start_daemon();
    world.until("it is adopted", |status| status.settled());
    // A probe that found less now would have made them unready by the time this one says so.
    let events = world.ok(&["events", "a"]);
    assert!(!events.contains("unready"), "{events}");
    assert_eq!(world.status().pid("a"), before.pid("a"));
}

#[test]
fn an_exec_probe_that_lingers_is_killed_with_all_that_it_forked() {
    let world = World::new();
    let probe = "sleep 1001 & echo $! >> lingering; sleep 1001";
    let probe = serde_json::to_string(probe).unwrap();
    let more = format!(
        ", probes: {{ readiness: {{ exec: [sh, -c, {probe}], period: 1h, timeout: 200ms }} }}"
    );
    world.save("p.yaml", &pipeline(&sleeper("a", &more)));
    world.ok(&["apply", "-f", "p.yaml"]);
    world.until("it says that it timed out", |status| {
        status.why("a").contains("no answer within 200ms")
    });
    eventually("its first programs are gone", || {
        let first = world.read("lingering");
        let first = first.lines().next().and_then(|pid| pid.parse().ok());
        first.is_some_and(|pid| !crate::support::is_alive(pid))
    });
}

#[test]
fn dependents_wait_for_completion_and_jobs_that_are_done_stay_done() {
    let world = World::new();
    let job = ", restart_policy: never";
    let after = ", depends_on: [{ id: job, condition: completed }]";
    // The list is in no useful order.
    world.apply(&(sleeper("late", after) + &shell("job", "sleep 0.2; echo done", job)));
    let status = world.status();
    assert_eq!(
        (status.phase("job"), status.phase("late")),
        ("completed", "running")
    );
    let events = world.ok(&["events"]);
    let place = |words: &str| {
        events
            .find(words)
            .unwrap_or_else(|| panic!("{words}: {events}"))
    };
    assert!(place("completed      p/job") < place("starting       p/late"));
    world.kill_daemon();
    world.start_daemon();
    let after = world.until("it is adopted", |status| status.settled());
    assert_eq!(
        (after.phase("job"), after.restarts("job")),
        ("completed", 0)
    );
    assert_eq!(after.pid("late"), status.pid("late"));
}

#[test]
fn a_started_condition_does_not_wait_for_readiness_and_stops_go_in_reverse() {
    let world = World::new();
    let never = ", probes: { readiness: { exec: ['false'], period: 100ms } }";
    let components = sleeper("c", ", depends_on: [b]")
        + &sleeper("b", ", depends_on: [{ id: a, condition: started }]")
        + &sleeper("a", never);
    world.save("p.yaml", &pipeline(&components));
    world.ok(&["apply", "-f", "p.yaml"]);
    world.until("c runs although a is not ready", |status| {
        status.phase("c") == "running" && status.phase("a") == "starting"
    });
    world.ok(&["delete", "p"]);
    let events = world.ok(&["events"]);
    let stopped: Vec<usize> = ["c", "b", "a"]
        .iter()
        .map(|id| events.find(&format!("stopped        p/{id}")).unwrap())
        .collect();
    assert!(stopped.is_sorted(), "{events}");
}

#[test]
fn a_hundred_crash_loops_leave_the_probes_of_others_on_time() {
    let world = World::new();
    let looping = ", replicas: 100";
    let probe = ", probes: { readiness: { exec: [sh, -c, 'date +%s%N >> asked'], period: 500ms } }";
    let components = shell("loop", "exit 3", looping) + &sleeper("a", probe);
    world.save("p.yaml", &pipeline(&components));
    world.ok(&["apply", "-f", "p.yaml"]);
    world.until("all loop", |status| {
        let replicas = status.replicas("loop");
        replicas.len() == 100 && replicas.iter().all(|r| r["phase"] == "crashloop")
    });
    let asked = || world.read("asked").lines().count();
    let before = asked();
    eventually("it is asked on", || asked() >= before + 6);
    let times: Vec<u64> = world
        .read("asked")
        .lines()
        .filter_map(|t| t.parse().ok())
        .collect();
    let late = times[before..]
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) / 1_000_000)
        .max();
    // Generous: the bound is about starvation and not about this machine's load.
    assert!(late < Some(10_000), "{late:?} ms between two asks");
    let status = world.status();
    assert_eq!((status.phase("a"), status.restarts("a")), ("running", 0));
    eventually("it takes less than a fifth of a core", || {
        share_of_a_core(status.daemon_pid()) < 0.2
    });
}

/// What a process and its children took of a core over two seconds.
fn share_of_a_core(pid: u32) -> f64 {
    const WINDOW: std::time::Duration = std::time::Duration::from_secs(2);
    let ticks = || -> u64 {
        processes()
            .filter(|p| p.pid == pid || p.parent == pid)
            .map(|p| p.ticks)
            .sum()
    };
    let (before, began) = (ticks(), std::time::Instant::now());
    std::thread::sleep(WINDOW);
    // The kernel's clock ticks a hundred times a second, as user space sees it.
    (ticks() - before) as f64 / 100.0 / began.elapsed().as_secs_f64()
}

/// What /proc tells of a process.
struct Process {
    pid: u32,
    parent: u32,
    ticks: u64,
}

fn processes() -> impl Iterator<Item = Process> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| words.get(index)?.parse::<u64>().ok();
        Some(Process {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            ticks: number(11)? + number(12)?,
        })
    })
}

#[test]
fn a_port_that_a_stranger_answers_is_refused_and_makes_nobody_ready() {
    let world = World::new();
    let port = free_ports(1)[0];
    let stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    // It tries until the port is free.
    let program = format!(
        "import socket, time\nwhile True:\n  try: s = socket.create_server(('127.0.0.1', {port})); time.sleep(1000)\n  except OSError: time.sleep(0.05)"
    );
    let component = |probe: &str| {
        format!(
            "    - {{ id: a, command: [python3, -c, {}], probes: {{ readiness: {{ {probe}, period: 200ms }} }} }}\n",
            serde_json::to_string(&program).unwrap()
        )
    };
    world.save("p.yaml", &pipeline(&component(&format!("tcp: {port}"))));
    let refused = world.fails(7, &["apply", "-f", "p.yaml"]);
    let holder = format!("port {port}/tcp is held by pid {}", std::process::id());
    assert!(refused.contains(&holder), "{refused}");
    world.ok(&["apply", "-f", "p.yaml", "--force"]);
    let why = format!("port {port} is answered by pid {}", std::process::id());
    world.until("it says who answers", |status| {
        status.why("a").contains(&why) && status.replica("a")["ready"] == false
    });
    drop(stranger);
    let ready = world.until("it has its port", Status::settled);
    // A new daemon knows it for the component's own, too.
    world.kill_daemon();
    world.start_daemon();
    let asked = world.until("it is adopted", Status::settled);
    assert_eq!(asked.pid("a"), ready.pid("a"));
}

#[test]
fn of_replicas_that_share_a_port_each_is_asked_itself() {
    let world = World::new();
    let port = free_ports(1)[0];
    let program = format!(
        "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\ns.bind(('127.0.0.1', {port}))\ns.listen(64)\nwhile True: s.accept()[0].recv(1)"
    );
    world.apply(&format!(
        "    - {{ id: a, replicas: 2, command: [python3, -c, {}], probes: {{ readiness: {{ tcp: {port}, period: 200ms, failures: 2 }} }} }}\n",
        serde_json::to_string(&program).unwrap()
    ));
    let pid = |status: &Status| {
        let replicas = status.replicas("a");
        u32::try_from(replicas[1]["pid"].as_u64().unwrap()).unwrap()
    };
    let stopped = pid(&world.status());
    kill(stopped, "STOP");
    world.until(
        "the one that stands still is not ready, and only that one",
        |status| {
            let replicas = status.replicas("a");
            replicas[1]["ready"] == false && replicas[0]["ready"] == true
        },
    );
    kill(stopped, "CONT");
    let after = world.until("both are ready", Status::settled);
    assert_eq!(pid(&after), stopped);
}
