//! Components that run, say that they are well, and get nowhere.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clients::python;
use crate::support::{Status, World, eventually, free_ports, shell};

/// A component that sends the number in the file of its name with its heartbeats, five times a
/// second.
pub fn ledgers(world: &World, id: &str, more: &str) -> String {
    let [python, script] = python("ledgers.py");
    let command = serde_json::to_string(&[python, script, file(world, id)]).unwrap();
    let port = free_ports(1)[0];
    format!(
        "    - {{ id: {id}, command: {command}, health_check: /health, health_port: {port},\n\
         \x20       env: {{ FLOWCTL_HEARTBEAT_INTERVAL_MS: '200' }}{more} }}\n"
    )
}

fn file(world: &World, id: &str) -> String {
    let path = world.path(&format!("{id}.ledger"));
    path.to_str().unwrap().to_owned()
}

/// Has the component `id` be at `ledger`, and waits until that is seen.
pub fn reach(world: &World, id: &str, ledger: u64) -> Status {
    world.save(&format!("{id}.ledger"), &ledger.to_string());
    let text = ledger.to_string();
    world.until("its ledger is seen", |status| {
        progress(status, id)["value"] == text.as_str()
    })
}

fn progress<'a>(status: &'a Status, id: &str) -> &'a Value {
    &status.replica(id)["progress"]
}

/// What is told of a pipeline, each as `KIND COMPONENT`.
fn told(status: &Status) -> Vec<String> {
    let conditions = status.pipeline()["conditions"].as_array().unwrap().iter();
    let of = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    conditions
        .map(|one| of(one, "kind") + " " + &of(one, "component"))
        .collect()
}

fn events(world: &World, kind: &str) -> Vec<Value> {
    let all = world.ok(&["events", "-o", "json"]);
    let all = all.lines().map(|line| serde_json::from_str(line).unwrap());
    all.filter(|event: &Value| event["kind"] == kind).collect()
}

#[test]
fn a_ledger_that_stands_still_while_health_is_green_is_a_stall_until_it_moves() {
    let world = World::new();
    let progress_of = ", progress: { metric: last_processed_ledger, max_age: 2s }";
    let short = ledgers(&world, "ttp", progress_of);
    let long = short.replace("max_age: 2s", "max_age: 1h");
    world.apply(&short);
    reach(&world, "ttp", 52_114_907);
    reach(&world, "ttp", 52_114_908);
    let stalled = world.until("it is stalled", |status| told(status) == ["stalled ttp"]);
    assert_eq!(stalled.phase("ttp"), "running");
    assert_eq!(stalled.replica("ttp")["ready"], true);
    let since = progress(&stalled, "ttp")["advanced_at"].as_str().unwrap();
    let why = format!("last_processed_ledger stands at 52114908 since {since}");
    assert_eq!(stalled.why("ttp"), why);
    let status = world.ok(&["status"]);
    assert!(
        status.starts_with("stalled  p/ttp") && status.contains(&why),
        "{status}"
    );
    let line = world.fails(1, &["status", "--check=nagios"]);
    assert!(
        line.starts_with("FLOWCTL WARNING - stalled p/ttp"),
        "{line}"
    );
    assert!(world.ok(&["describe", "ttp"]).contains(&why));
    let metrics = world.ok(&["metrics"]);
    let sample = "flowctl_replica_stalled{namespace=\"default\",pipeline=\"p\",component=\"ttp\",replica=\"0\"} 1";
    assert!(metrics.contains(sample), "{metrics}");

    // Another `max_age` is an edit of nothing that runs.
    let pid = stalled.pid("ttp");
    world.save("p.yaml", &crate::support::pipeline(&long));
    let edited = world.until("it has more time", |status| told(status).is_empty());
    assert_eq!(edited.pid("ttp"), pid);
    world.save("p.yaml", &crate::support::pipeline(&short));
    world.until("it has less", |status| told(status) == ["stalled ttp"]);
    reach(&world, "ttp", 52_114_909);
    world.until("it gets on", |status| told(status).is_empty());
    let over = events(&world, "advanced");
    assert_eq!(
        over.last().unwrap()["reason"],
        "last_processed_ledger is 52114909"
    );
    assert!(!events(&world, "stalled").is_empty());
}

#[test]
fn one_that_has_nothing_to_do_is_not_stalled_and_one_that_leaves_its_work_is() {
    let world = World::new();
    let source = ", progress: { metric: last_processed_ledger, max_age: 1h }";
    let sink = ", inputs: [source], progress: { metric: last_processed_ledger, max_age: 4s, \
                while: upstream-progressing }";
    world.apply(&(ledgers(&world, "source", source) + &ledgers(&world, "sink", sink)));
    for ledger in 1..3 {
        reach(&world, "source", ledger);
        reach(&world, "sink", ledger);
    }
    // Both stand still now, for longer than it may.
    let idle = |status: &Status| {
        let why = progress(status, "sink")["why"].as_str().unwrap_or_default();
        why == "nothing is expected of it: its inputs get no further either"
    };
    world.until("it is idle", idle);
    let begun = Instant::now();
    eventually("so much time has passed", || {
        begun.elapsed() > Duration::from_secs(5)
    });
    assert!(told(&world.status()).is_empty() && events(&world, "stalled").is_empty());

    let mut ledger = 3;
    eventually("what it leaves undone is a stall", || {
        ledger += 1;
        told(&reach(&world, "source", ledger)) == ["stalled sink"]
    });
}

#[test]
fn one_that_writes_nothing_any_more_is_restarted_for_it_once_an_hour() {
    let world = World::new();
    let progress = ", progress: { output: 2s, startup: 2s, on_stall: restart }";
    let hangs = shell("hangs", "echo one; echo two; exec sleep 100000", progress);
    world.apply(&hangs);
    let first = world.status().pid("hangs");
    let again = world.until("it was restarted and stands still again", |status| {
        status.restarts("hangs") == 1 && told(status) == ["stalled hangs"]
    });
    assert_ne!(again.pid("hangs"), first);
    assert!(
        again
            .why("hangs")
            .starts_with("it has written nothing since ")
    );
    let ends = events(&world, "stopped");
    assert_eq!(ends[0]["ended_by"], "stalled");
    let metrics = world.ok(&["metrics"]);
    assert!(metrics.contains("reason=\"stalled\"} 1"), "{metrics}");

    // The next daemon knows that it stands still, and when it was restarted for that.
    world.kill_daemon();
    world.start_daemon();
    let adopted = world.until("it is told at once", |status| {
        told(status) == ["stalled hangs"]
    });
    assert_eq!(adopted.pid("hangs"), again.pid("hangs"));
    assert_eq!(adopted.restarts("hangs"), 1);
    assert_eq!(
        events(&world, "stalled").len(),
        2,
        "nothing new has happened"
    );
}

#[test]
fn a_daemon_that_was_away_finds_nobody_stalled_who_gets_on() {
    let world = World::new();
    let moves = ", progress: { metric: last_processed_ledger, max_age: 2s }";
    let talks = ", progress: { output: 3s }";
    let talker = shell("talks", "while echo more; do sleep 0.5; done", talks);
    world.apply(&(ledgers(&world, "ttp", moves) + &talker));
    reach(&world, "ttp", 1);
    reach(&world, "ttp", 2);
    world.kill_daemon();
    let away = Instant::now();
    eventually("it is away for longer than they may stand still", || {
        away.elapsed() > Duration::from_secs(4)
    });
    let events_before = events(&world, "stalled").len();
    world.start_daemon();
    // By the time at which it is seen again it has got on.
    reach(&world, "ttp", 3);
    let seen = world.until("the talker is seen again", |status| {
        !progress(status, "talks")["advanced_at"].is_null()
    });
    assert!(told(&seen).is_empty(), "{:?}", told(&seen));
    assert_eq!(events(&world, "stalled").len(), events_before);
}

#[test]
fn a_value_of_an_answer_is_watched_and_it_is_told_why_it_cannot_be_seen() {
    let world = World::new();
    let port = free_ports(1)[0];
    let folder = world.path("www");
    std::fs::create_dir(&folder).unwrap();
    world.write("www/stats.json", r#"{"stats": {"last": 7}}"#);
    let serves = format!(
        "    - {{ id: serves, command: [python3, -m, http.server, '{port}', --bind, 127.0.0.1],\n\
         \x20       working_dir: {}, probes: {{ readiness: {{ tcp: {port} }} }},\n\
         \x20       progress: {{ http: {{ port: {port}, path: /stats.json, pointer: /stats/last }}, max_age: 2s }} }}\n",
        folder.display()
    );
    world.apply(&serves);
    let value = |wanted: &str| {
        world.until("the value is seen", |status| {
            progress(status, "serves")["value"] == wanted
        })
    };
    value("7");
    world.write("www/stats.json", r#"{"stats": {"last": 8}}"#);
    value("8");
    world.write("www/stats.json", r#"{"stats": {}}"#);
    let stalled = world.until("it is stalled", |status| told(status) == ["stalled serves"]);
    let why = stalled.why("serves");
    assert!(why.starts_with("/stats/last stands at 8 since "), "{why}");
    assert!(why.ends_with(" (the answer has no /stats/last)"), "{why}");
    world.write("www/stats.json", r#"{"stats": {"last": 9}}"#);
    value("9");
    world.until("it gets on", |status| told(status).is_empty());
}
