//! What reaches people who do not look.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::engine::{LiveRestore, OwnEngine, resting};
use crate::servers::find;
use crate::support::{World, eventually, free_ports, shell, sleeper};

/// How a receiver treats who calls.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Takes,
    Fails,
    Closes,
    Hangs,
    Redirects,
    NeverEnds,
}

/// A receiver on loopback that keeps what it is sent, taken or not.
#[derive(Clone)]
struct Receiver {
    port: u16,
    manner: Arc<Mutex<Manner>>,
    heard: Arc<Mutex<Vec<(String, String)>>>,
    taken: Arc<Mutex<Vec<(String, String)>>>,
}

impl Receiver {
    fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            manner: Arc::new(Mutex::new(manner)),
            heard: Arc::default(),
            taken: Arc::default(),
        };
        let this = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let this = this.clone();
                std::thread::spawn(move || this.serve(stream));
            }
        });
        receiver
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let said = (head, String::from_utf8(body).unwrap());
        self.heard.lock().unwrap().push(said.clone());
        let manner = *self.manner.lock().unwrap();
        let answer: &[u8] = match manner {
            Manner::Takes => b"HTTP/1.1 204 No Content\r\n\r\n",
            Manner::Fails => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
            Manner::Closes => return,
            Manner::Hangs => {
                std::thread::sleep(Duration::from_secs(60));
                return;
            }
            Manner::Redirects => {
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
            }
            Manner::NeverEnds => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        };
        if manner == Manner::Takes {
            self.taken.lock().unwrap().push(said);
        }
        if stream.write_all(answer).is_err() {
            return;
        }
        // Until the caller has had enough.
        while manner == Manner::NeverEnds
            && stream.write_all(b"400\r\n").is_ok()
            && stream.write_all(&[b'x'; 0x400]).is_ok()
            && stream.write_all(b"\r\n").is_ok()
        {}
    }

    fn becomes(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn events(of: &Mutex<Vec<(String, String)>>) -> Vec<Value> {
        let said = of.lock().unwrap();
        let events = said
            .iter()
            .map(|(_, body)| serde_json::from_str(body).unwrap());
        events.collect()
    }

    fn webhook(&self, name: &str) -> String {
        let url = format!("http://127.0.0.1:{}/secret-path", self.port);
        format!("- name: {name}\n  to: {{webhook: {{url: '{url}'}}}}\n")
    }
}

/// A world whose daemons tell by this file.
fn world(notify: &str) -> World {
    let mut world = World::new();
    let path = world.write("notify.yaml", notify);
    world.set("FLOWCTL_NOTIFY", path.to_str().unwrap());
    world
}

fn failing(id: &str) -> String {
    shell(id, "exit 3", ", restart: { policy: never }")
}

#[test]
fn a_crash_loop_reaches_its_receiver_over_a_kill_of_the_daemon() {
    let receiver = Receiver::new(Manner::Fails);
    let world = world(&receiver.webhook("on-call"));
    let loops = shell(
        "sink",
        "exit 1",
        ", restart: { initial_delay: 0s, max_delay: 1s }",
    );
    let after = sleeper("audit", ", depends_on: [sink]");
    world.save("p.yaml", &crate::support::pipeline(&(loops + &after)));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    eventually("the receiver was asked", || {
        !receiver.heard.lock().unwrap().is_empty()
    });
    let first = Receiver::events(&receiver.heard)[0].clone();
    let pending = world.ok(&["notify", "pending"]);
    world.kill_daemon();
    receiver.becomes(Manner::Takes);
    world.start_daemon();
    eventually("it arrived", || !receiver.taken.lock().unwrap().is_empty());
    let arrived = &Receiver::events(&receiver.taken)[0];
    assert_eq!(arrived["id"], first["id"], "it is the very message");
    assert_eq!(arrived["type"], "flowctl.component.crashloop");
    assert_eq!(arrived["subject"], "p/sink");
    assert_eq!(arrived["data"]["status"], "firing");
    let condition = &arrived["data"]["conditions"][0];
    assert_eq!(condition["blocks"][0], "default/p/audit");
    assert_eq!(arrived["data"]["conditions"].as_array().unwrap().len(), 1);
    // It is what the help topic shows, but for numbers and times.
    let (asked, shown) = shown();
    assert_eq!(told(&asked), told(&pending));
    let summary = &arrived["data"]["summary"];
    let parts = [
        &arrived["id"],
        &arrived["type"],
        &arrived["subject"],
        summary,
    ];
    let parts = parts.map(|part| part.as_str().unwrap().to_owned());
    assert_eq!(told(&shown), told(&parts.join("\n")));
    let status = world.ok(&["status"]);
    assert!(status.starts_with("crashloop  p/sink"), "{status}");
    assert!(!status.contains("secret-path"), "{status}");
    assert!(!world.ok(&["notify", "list"]).contains("secret-path"));
}

/// What the help topic shows of a message that waits, and of the same once it has arrived.
fn shown() -> (String, String) {
    let topic = include_str!("../../src/cli/topics/notify.md");
    let (_, pending) = topic.split_once("$ flowctl notify pending\n").unwrap();
    let (pending, rest) = pending.split_once("$ kill -9").unwrap();
    let (_, arrived) = rest.split_once(".data.summary'\n").unwrap();
    let (arrived, _) = arrived.split_once("```").unwrap();
    (pending.to_owned(), arrived.trim().to_owned())
}

/// Words of an output without what differs from run to run: numbers, the host, how long ago it was.
fn told(output: &str) -> Vec<String> {
    let cells = output.lines().flat_map(|line| line.split("  "));
    let cells = cells.map(str::trim).filter(|cell| !cell.is_empty());
    let is_time = |cell: &&str| *cell == "now" || cell.starts_with("in ") || cell.len() <= 4;
    let cells = cells.filter(|cell| !is_time(cell)).map(|cell| {
        let cell = match cell.rsplit_once('/') {
            Some((_, number)) if number.parse::<u64>().is_ok() => "HOST/0",
            Some(_) | None => cell,
        };
        let letters = cell.chars().filter(|c| !c.is_ascii_digit());
        letters.collect()
    });
    cells.collect()
}

/// Rounds of the loop below; more of them are run by hand.
fn rounds() -> u32 {
    let asked = std::env::var("FLOWCTL_TESTS_KILLS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn every_failure_arrives_whenever_the_daemon_is_killed() {
    let receiver = Receiver::new(Manner::Takes);
    let world = world(&receiver.webhook("ops"));
    world.apply(&sleeper("idle", ""));
    let mut components = sleeper("idle", "");
    for round in 0..rounds() {
        let id = format!("f{round}");
        components.push_str(&failing(&id));
        world.save("p.yaml", &crate::support::pipeline(&components));
        world.until("it failed", |status| {
            let all = status.0["pipelines"][0]["components"].as_array().unwrap();
            all.iter().any(|one| one["id"] == *id) && status.phase(&id) == "failed"
        });
        // A moment of its own each round, from before it is due to after it is delivered.
        let moment = u64::from(round) * 977 % 3_000;
        std::thread::sleep(Duration::from_millis(moment));
        world.kill_daemon();
        world.start_daemon();
    }
    let arrived = || -> BTreeSet<String> {
        let events = Receiver::events(&receiver.taken).into_iter();
        let conditions = events.flat_map(|event| {
            let all = event["data"]["conditions"].as_array().unwrap().clone();
            all.into_iter()
                .map(|one| one["component"].as_str().unwrap().to_owned())
        });
        conditions.collect()
    };
    eventually("all arrived", || arrived().len() == rounds() as usize);
    // One id is one message, and those that are new come in order.
    let events = Receiver::events(&receiver.taken);
    let mut last = 0;
    for event in &events {
        let same: Vec<_> = events
            .iter()
            .filter(|one| one["id"] == event["id"])
            .collect();
        assert!(same.iter().all(|one| one["data"] == event["data"]));
        let id = event["id"].as_str().unwrap().rsplit_once('/').unwrap().1;
        let id: u64 = id.parse().unwrap();
        assert!(id >= last, "{id} after {last}");
        last = id;
    }
}

#[test]
fn a_receiver_that_misbehaves_is_tried_again_and_delays_nobody() {
    let bad: Vec<Receiver> = [
        Manner::Closes,
        Manner::Hangs,
        Manner::Redirects,
        Manner::Fails,
    ]
    .map(Receiver::new)
    .to_vec();
    let endless = Receiver::new(Manner::NeverEnds);
    let good = Receiver::new(Manner::Takes);
    let mut file = good.webhook("good") + &endless.webhook("endless");
    for (index, one) in bad.iter().enumerate() {
        file.push_str(&one.webhook(&format!("bad{index}")));
    }
    let world = world(&file);
    world.save("p.yaml", &crate::support::pipeline(&failing("a")));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    eventually("the good one has it", || {
        good.taken.lock().unwrap().len() == 1
    });
    eventually("each was tried", || {
        bad.iter().all(|one| !one.heard.lock().unwrap().is_empty())
    });
    let list = |name: &str| -> Value {
        let all: Value =
            serde_json::from_str(&world.ok(&["notify", "list", "-o", "json"])).unwrap();
        let targets = all["targets"].as_array().unwrap();
        targets
            .iter()
            .find(|one| one["name"] == name)
            .unwrap()
            .clone()
    };
    eventually("what they did is told", || {
        list("bad0")["last_error"] == "it closed the connection without a whole answer"
            && list("bad2")["last_error"]
                .as_str()
                .unwrap_or_default()
                .contains("leads elsewhere")
            && list("bad3")["last_error"] == "it answers 500 Internal Server Error"
            && list("endless")["delivered"] == 1
    });
    assert_eq!(list("bad1")["pending"], 1, "a hanging one is waited for");
    let pending = world.ok(&["notify", "pending"]);
    assert!(pending.contains("failed p/a"), "{pending}");
    for one in &bad {
        one.becomes(Manner::Takes);
    }
    eventually("those that mend take it", || {
        [0, 2, 3]
            .into_iter()
            .all(|index: usize| bad[index].taken.lock().unwrap().len() == 1)
    });
}

#[test]
fn a_broken_notify_file_keeps_the_last_good_one_and_is_a_condition() {
    let receiver = Receiver::new(Manner::Takes);
    let world = world(&receiver.webhook("ops"));
    world.apply(&sleeper("a", ""));
    eventually("the file is in force", || {
        world.ok(&["notify", "list"]).contains("ops")
    });
    world.save(
        "notify.yaml",
        "- name: ops\n  wehn: [failed]\n  to: {exec: [true]}\n",
    );
    let status = world.until("it is a condition", |status| {
        status.0["conditions"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    let condition = &status.0["conditions"][0];
    assert_eq!(
        (&condition["kind"], &condition["about"]),
        (&"rejected".into(), &"notify.yaml".into())
    );
    let why = condition["why"].as_str().unwrap();
    assert!(
        why.contains("notify.yaml:2:3: unknown field `wehn`"),
        "{why}"
    );
    let said = world.fails(3, &["validate", "notify.yaml"]);
    assert!(said.contains("did you mean `when`?"), "{said}");
    world.ok(&["notify", "test", "ops"]);
    assert_eq!(Receiver::events(&receiver.taken)[0]["type"], "flowctl.test");
    world.save("notify.yaml", &receiver.webhook("ops"));
    world.until("it is over", |status| {
        status.0["conditions"].as_array().is_some_and(Vec::is_empty)
    });
    world.fails(6, &["notify", "test", "nobody"]);
}

#[test]
fn a_dead_mans_switch_hears_that_all_is_well_until_it_is_not() {
    let receiver = Receiver::new(Manner::Takes);
    let url = format!("http://127.0.0.1:{}/ping", receiver.port);
    let world = world(&format!(
        "- name: dead-man\n  heartbeat: {{url: '{url}', every: 10s}}\n"
    ));
    world.apply(&sleeper("a", ""));
    let asked = |line: &str| {
        let taken = receiver.taken.lock().unwrap();
        taken.iter().any(|(head, _)| head.starts_with(line))
    };
    eventually("it was told that all is well", || asked("GET /ping HTTP"));
    world.save(
        "p.yaml",
        &crate::support::pipeline(&(sleeper("a", "") + &failing("b"))),
    );
    eventually("it was told that it is not", || {
        asked("POST /ping/fail HTTP")
    });
    let taken = receiver.taken.lock().unwrap();
    let (_, body) = taken
        .iter()
        .find(|(head, _)| head.starts_with("POST"))
        .unwrap();
    assert!(body.starts_with("failed p/b: "), "{body}");
}

#[test]
fn a_pipelines_own_target_is_told_of_that_pipeline_alone_over_a_kill_of_the_daemon() {
    let receiver = Receiver::new(Manner::Fails);
    let world = World::new();
    let url = format!("http://127.0.0.1:{}/secret-path", receiver.port);
    world.write("hook.url", &url);
    let told = |components: &str| {
        let notify = "  notify: [{ name: owner, to: { webhook: { url_file: hook.url } } }]\n";
        crate::support::pipeline(components) + notify
    };
    let other = crate::support::pipeline(&failing("b")).replace("name: p", "name: q");
    world.save("q.yaml", &other);
    world.save("p.yaml", &told(&failing("a")));
    world.ok(&["apply", "-f", "q.yaml", "-f", "p.yaml", "--no-wait"]);
    eventually("it was asked", || {
        !receiver.heard.lock().unwrap().is_empty()
    });
    let list = world.ok(&["notify", "list"]);
    assert!(
        list.contains("default.p.owner") && !list.contains("secret-path"),
        "{list}"
    );
    world.kill_daemon();
    receiver.becomes(Manner::Takes);
    world.start_daemon();
    eventually("it arrived", || !receiver.taken.lock().unwrap().is_empty());
    let events = Receiver::events(&receiver.taken);
    assert_eq!(events[0]["subject"], "p/a");
    assert_eq!(events[0]["id"], Receiver::events(&receiver.heard)[0]["id"]);
    // Both have failed, and one of them says whom to tell.
    let failed = world.status();
    let conditions = failed.0["pipelines"].as_array().unwrap().iter();
    assert!(
        conditions
            .into_iter()
            .all(|one| one["conditions"][0]["kind"] == "failed")
    );
    assert_eq!(events.len(), 1);
    world.ok(&["notify", "test", "default.p.owner"]);
    let metrics = world.ok(&["metrics"]);
    let sample = "flowctl_notifications_total{target=\"default.p.owner\",result=\"delivered\"} 1";
    assert!(metrics.contains(sample), "{metrics}");

    // Whom it tells is no part of what runs, and an address is shown nowhere.
    world.save("p.yaml", &told(&failing("a")).replace("owner", "us"));
    eventually("the file is followed", || {
        world.ok(&["notify", "list"]).contains("default.p.us")
    });
    world.save("p.yaml", &crate::support::pipeline(&failing("a")));
    eventually("nobody is told any more", || {
        !world.ok(&["notify", "list"]).contains("default.p")
    });
}

#[test]
fn a_check_says_what_is_wrong_to_programs_and_a_label_narrows_it() {
    let world = World::new();
    let labelled = crate::support::pipeline(&failing("a"))
        .replace("{ name: p }", "{ name: p, labels: { team: data } }");
    world.save("p.yaml", &labelled);
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    world.until("it failed", |status| status.phase("a") == "failed");
    let line = world.fails(2, &["status", "--check=nagios"]);
    assert!(
        line.starts_with("FLOWCTL CRITICAL - failed p/a: exit 3"),
        "{line}"
    );
    let output = world.run(&["status", "--check", "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(status["health"]["status"], "red");
    assert_eq!(status["health"]["indicators"][0]["name"], "failed");
    assert_eq!(status["pipelines"][0]["conditions"][0]["kind"], "failed");
    let why: Value = serde_json::from_str(&world.ok(&["why", "a", "-o", "json"])).unwrap();
    assert_eq!(why["conditions"][0]["kind"], "failed");
    world.fails(6, &["status", "-l", "team=other"]);
    let stopped = world.ok(&["stop", "-l", "team=data", "-o", "json"]);
    let stopped: Value = serde_json::from_str(&stopped).unwrap();
    assert_eq!(stopped["components"][0]["outcome"], "stopped");
    world.until("it was stopped", |status| status.phase("a") == "stopped");
    let line = world.ok(&["status", "--check=nagios"]);
    assert!(line.starts_with("FLOWCTL OK - "), "{line}");
}

/// Debian's Alertmanager, with nobody to tell.
struct Alertmanager {
    child: std::process::Child,
    port: u16,
}

impl Alertmanager {
    /// `None`, said loudly, where there is none.
    fn start(world: &World) -> Option<Self> {
        let program = find("prometheus-alertmanager").zip(find("amtool"));
        let Some((program, _)) = program else {
            eprintln!("NOT RUN: this needs prometheus-alertmanager; see tests/run");
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
            return None;
        };
        let configuration = "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n";
        let configuration = world.write("alertmanager.yml", configuration);
        let port = free_ports(1)[0];
        let child = std::process::Command::new(program)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.path={}", world.path("am").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, port })
    }

    /// The alerts that it has, as its own tool tells them.
    fn alerts(&self, matchers: &[&str]) -> Vec<Value> {
        let output = std::process::Command::new("amtool")
            .arg(format!("--alertmanager.url=http://127.0.0.1:{}", self.port))
            .args(["-o", "json", "alert", "query"])
            .args(matchers)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn alertmanager_has_an_alert_for_each_root_cause_with_labels_to_route_by() {
    let mut world = World::new();
    let Some(alertmanager) = Alertmanager::start(&world) else {
        return;
    };
    let port = alertmanager.port;
    let notify =
        format!("- name: am\n  to: {{alertmanager: {{url: 'http://127.0.0.1:{port}/'}}}}\n");
    let notify = world.write("notify.yaml", &notify);
    world.set("FLOWCTL_NOTIFY", notify.to_str().unwrap());
    let after = sleeper("after", ", depends_on: [a]");
    world.save(
        "p.yaml",
        &crate::support::pipeline(&(failing("a") + &after)),
    );
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    eventually("the alert is there", || {
        alertmanager
            .alerts(&["alertname=FlowctlFailed", "component=a"])
            .len()
            == 1
    });
    let all = alertmanager.alerts(&[]);
    assert_eq!(all.len(), 1, "{all:?}");
    let labels = &all[0]["labels"];
    assert_eq!(labels["severity"], "critical");
    assert_eq!(
        (&labels["namespace"], &labels["pipeline"]),
        (&"default".into(), &"p".into())
    );
    let summary = all[0]["annotations"]["summary"].as_str().unwrap();
    assert_eq!(
        summary,
        "failed p/a: exit 3; its restart policy asks for no restart; holds up p/after"
    );
    world.ok(&["notify", "test", "am"]);
    eventually("a test arrives too", || {
        alertmanager.alerts(&["alertname=FlowctlTest"]).len() == 1
    });
}

#[test]
fn fifty_that_die_with_their_database_are_one_message_that_names_it() {
    let receiver = Receiver::new(Manner::Takes);
    let world = world(&receiver.webhook("ops"));
    let pid = world.path("db.pid");
    let pid = pid.display();
    let database = shell(
        "db",
        &format!("echo $$ > {pid}; exec sleep 100000"),
        ", restart: { policy: never }",
    );
    let reads = format!("while kill -0 $(cat {pid}); do sleep 0.3; done; exit 1");
    let readers: Vec<String> = (0..50)
        .map(|number| shell(&format!("c{number}"), &reads, ", depends_on: [db]"))
        .collect();
    world.save(
        "p.yaml",
        &crate::support::pipeline(&(database + &readers.concat())),
    );
    world.ok(&["apply", "-f", "p.yaml", "--wait", "--timeout", "60s"]);
    crate::support::kill(world.status().pid("db").unwrap(), "KILL");
    eventually("it is told", || !receiver.taken.lock().unwrap().is_empty());
    world.until("all of them have noticed", |status| {
        (0..50).all(|number| status.pid(&format!("c{number}")).is_none())
    });
    let conditions = world.until("one thing is wrong", |status| {
        let all = status.pipeline()["conditions"].as_array().unwrap();
        all.len() == 1 && all[0]["blocks"].as_array().unwrap().len() == 50
    });
    assert_eq!(conditions.pipeline()["conditions"][0]["component"], "db");
    let events = Receiver::events(&receiver.heard);
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0]["subject"], "p/db");
}

#[test]
fn a_start_of_hundreds_of_components_is_told_to_nobody() {
    let receiver = Receiver::new(Manner::Takes);
    let world = world(&receiver.webhook("ops"));
    let all: Vec<String> = (0..500)
        .map(|number| sleeper(&format!("c{number}"), ""))
        .collect();
    world.save("p.yaml", &crate::support::pipeline(&all.concat()));
    world.ok(&["apply", "-f", "p.yaml", "--wait", "--timeout", "2m"]);
    // The same for a daemon that finds them.
    world.kill_daemon();
    world.start_daemon();
    world.until("all are known", |status| status.settled());
    world.ok(&["notify", "test", "ops"]);
    let events = Receiver::events(&receiver.heard);
    let types: Vec<_> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["flowctl.test"]);
}

#[test]
fn a_dead_mans_switch_is_told_of_an_engine_that_is_gone_within_two_periods() {
    let name = "a_dead_mans_switch_is_told_of_an_engine_…";
    let Some(own) = OwnEngine::start(name, LiveRestore::On) else {
        return;
    };
    let receiver = Receiver::new(Manner::Takes);
    let url = format!("http://127.0.0.1:{}/ping", receiver.port);
    let mut world = world(&format!(
        "- name: dead-man\n  heartbeat: {{url: '{url}', every: 10s}}\n"
    ));
    world.use_engine(&own.engine.host());
    world.apply(&resting("c", ""));
    let heard = |line: &str| {
        let heard = receiver.heard.lock().unwrap();
        let lines = heard.iter().filter(|(head, _)| head.starts_with(line));
        lines.count()
    };
    eventually("all is well", || heard("GET /ping HTTP") > 0);
    own.end("KILL");
    let before = heard("GET /ping HTTP");
    eventually("it is told", || heard("POST /ping/fail HTTP") > 0);
    let after = heard("GET /ping HTTP");
    assert!(after <= before + 2, "{before} {after}");
    let body = {
        let heard = receiver.heard.lock().unwrap();
        let told = heard.iter().find(|(head, _)| head.starts_with("POST"));
        told.unwrap().1.clone()
    };
    assert!(body.starts_with("blind "), "{body}");
    own.again();
    eventually("it is well again", || heard("GET /ping HTTP") > after);
}

#[test]
fn a_dead_mans_switch_is_silent_while_its_daemon_is_frozen_and_told_of_a_full_disk() {
    let name = "a dead man's switch on a full disk";
    let Some(mut world) = World::with_small_disk(name, "state", "24m") else {
        return;
    };
    let receiver = Receiver::new(Manner::Takes);
    let url = format!("http://127.0.0.1:{}/ping", receiver.port);
    let file = format!("- name: dead-man\n  heartbeat: {{url: '{url}', every: 10s}}\n");
    let file = world.write("notify.yaml", &file);
    world.set("FLOWCTL_NOTIFY", file.to_str().unwrap());
    world.apply(&sleeper("a", ""));
    let heard = |line: &str| {
        let heard = receiver.heard.lock().unwrap();
        heard
            .iter()
            .filter(|(head, _)| head.starts_with(line))
            .count()
    };
    eventually("all is well", || heard("GET /ping HTTP") > 0);
    let daemon = world.status().daemon_pid();
    crate::support::kill(daemon, "STOP");
    let (before, frozen) = (heard(""), std::time::Instant::now());
    // What was on its way may arrive; two periods later nothing has come for one.
    eventually("two periods have passed", || {
        frozen.elapsed() > Duration::from_secs(20)
    });
    let after = heard("");
    crate::support::kill(daemon, "CONT");
    assert!(after <= before + 1, "{before} {after}");
    eventually("it is well again", || heard("GET /ping HTTP") > before);
    world.fill_disk();
    eventually("it is told of the disk", || {
        heard("POST /ping/fail HTTP") > 0
    });
    let heard = receiver.heard.lock().unwrap().clone();
    let (_, body) = heard
        .iter()
        .find(|(head, _)| head.starts_with("POST"))
        .unwrap();
    assert!(body.starts_with("not-durable daemon: "), "{body}");
    world.free_disk();
}
