//! What scrapers and people are told of what runs, with the real Prometheus.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::engine::{container, world_with_engine};
use crate::servers::find;
use crate::stalled::{ledgers, reach};
use crate::support::{World, eventually, free_ports, kill, shell, sleeper, text};

/// A Prometheus that scrapes every second.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    /// One that scrapes `target`; `None`, said loudly, where there is none.
    fn start(world: &World, target: u16) -> Option<Self> {
        let Some(program) = find("prometheus") else {
            eprintln!("NOT RUN: a scrape needs prometheus; see tests/run");
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
            return None;
        };
        let port = free_ports(1)[0];
        let configuration = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n  \
             - job_name: flowctl\n    static_configs: [{{ targets: ['127.0.0.1:{target}'] }}]\n"
        );
        let configuration = world.write("prometheus.yml", &configuration);
        let child = Command::new(program)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                world.path("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, port })
    }

    /// What a query selects now.
    fn selects(&self, query: &str) -> Vec<Value> {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "10", "--get"])
            .arg(format!("http://127.0.0.1:{}/api/v1/query", self.port))
            .arg("--data-urlencode")
            .arg(format!("query={query}"))
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let found = answer["data"]["result"].as_array();
        found.cloned().unwrap_or_default()
    }

    fn is(&self, query: &str, value: &str) -> bool {
        self.selects(query)
            .first()
            .is_some_and(|found| found["value"][1] == value)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Everything that is there whatever runs.
const ALWAYS: [&str; 29] = [
    "flowctl_build_info",
    "flowctl_daemon_start_time_seconds",
    "flowctl_durable",
    "flowctl_driver_up",
    "flowctl_pipeline_generation",
    "flowctl_pipeline_observed_generation",
    "flowctl_pipeline_settled",
    "flowctl_pipeline_file_valid",
    "flowctl_pipeline_watched",
    "flowctl_component_info",
    "flowctl_component_replicas_desired",
    "flowctl_component_replicas_ready",
    "flowctl_replica_phase",
    "flowctl_replica_ready",
    "flowctl_replica_phase_since_timestamp_seconds",
    "flowctl_replica_start_time_seconds",
    "flowctl_replica_restarts_total",
    "flowctl_replica_oom_kills_total",
    "flowctl_replica_output_bytes_total",
    "flowctl_replica_last_output_timestamp_seconds",
    "flowctl_replica_cpu_seconds_total",
    "flowctl_replica_memory_bytes",
    "flowctl_replica_processes",
    "flowctl_events_total",
    "flowctl_reconcile_duration_seconds_count",
    "flowctl_store_commit_duration_seconds_count",
    "flowctl_full_look_age_seconds",
    "flowctl_control_plane_connections",
    "process_resident_memory_bytes",
];

#[test]
fn prometheus_scrapes_every_name_sees_a_crash_and_forgets_what_is_deleted() {
    let mut world = World::new();
    let address = free_ports(1)[0];
    world.set("FLOWCTL_METRICS_ADDRESS", &format!("127.0.0.1:{address}"));
    let talks = |id: &str| shell(id, "echo here; exec sleep 100000", "");
    world.apply(&(talks("steady") + &talks("crashes")));
    let Some(prometheus) = Prometheus::start(&world, address) else {
        return;
    };
    eventually("it is scraped", || prometheus.is("up", "1"));
    for name in ALWAYS {
        eventually(name, || !prometheus.selects(name).is_empty());
    }
    let of = |name: &str, component: &str| format!("{name}{{component=\"{component}\"}}");
    assert!(prometheus.is(&of("flowctl_replica_restarts_total", "crashes"), "0"));
    kill(world.status().pid("crashes").unwrap(), "KILL");
    eventually("the crash is counted", || {
        prometheus.is(&of("flowctl_replica_restarts_total", "crashes"), "1")
            && prometheus.is(
                "flowctl_replica_exits_total{component=\"crashes\",reason=\"signal\"}",
                "1",
            )
    });
    assert!(prometheus.is(&of("flowctl_replica_restarts_total", "steady"), "0"));

    world.apply(&talks("steady"));
    eventually("what is deleted is gone", || {
        prometheus
            .selects(&of("flowctl_replica_ready", "crashes"))
            .is_empty()
            && prometheus.is(&of("flowctl_replica_ready", "steady"), "1")
    });
    // Labels that Prometheus owns are not ours to set.
    assert!(prometheus.selects("{exported_instance=~\".+\"}").is_empty());
}

#[test]
fn metrics_are_what_promtool_wants_with_and_without_a_daemon() {
    let world = World::new();
    let flaky = shell("flaky", "exit 3", "");
    world.save(
        "p.yaml",
        &crate::support::pipeline(&(sleeper("a", "") + &flaky)),
    );
    world.ok(&["apply", "-f", "p.yaml"]);
    world.until("it fails", |status| status.restarts("flaky") > 1);
    let checked = |metrics: &str| {
        let Some(promtool) = find("promtool") else {
            eprintln!("NOT RUN: a check of metrics needs promtool; see tests/run");
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
            return;
        };
        let file = world.write("metrics.txt", metrics);
        let output = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(std::fs::File::open(file).unwrap())
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    };
    let told = world.ok(&["metrics"]);
    assert!(told.contains("phase=\"running\"} 1"), "{told}");
    assert!(told.contains("reason=\"code\"}"), "{told}");
    checked(&told);
    let open = world.ok(&["metrics", "-o", "openmetrics"]);
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE flowctl_events counter"));
    // A run more is no series more.
    let names = |told: &str| -> std::collections::BTreeSet<String> {
        let samples = told
            .lines()
            .filter(|line| line.starts_with("flowctl_replica_"));
        let samples = samples.filter(|line| !line.contains("_hold{") && !line.contains("next_try"));
        let samples = samples.filter(|line| !line.contains("flaky") || line.contains("_total{"));
        samples
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    };
    let before = world.status().restarts("flaky");
    world.until("it fails on", |status| status.restarts("flaky") > before);
    let usage = |name: &String| !name.contains("cpu_seconds");
    let (earlier, later) = (names(&told), names(&world.ok(&["metrics"])));
    let new: Vec<_> = later
        .difference(&earlier)
        .filter(|name| usage(name))
        .collect();
    assert!(new.is_empty(), "{new:?}");

    world.kill_daemon();
    let alone = world.ok(&["metrics"]);
    assert!(
        alone.contains("flowctl_replica_restarts_total{") && !alone.contains("flowctl_durable")
    );
    checked(&alone);
}

/// The expressions of the board's panels, each with its panel's title, with Grafana's variables filled
/// in.
fn panels() -> Vec<(String, String)> {
    let board = include_str!("../../examples/monitoring/flowctl.dashboard.json");
    let board: Value = serde_json::from_str(board).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title, target))
    });
    let filled = targets.map(|(title, target)| {
        let mut expression = target["expr"]
            .as_str()
            .unwrap()
            .replace("$__rate_interval", "1m");
        for variable in ["$job", "$instance", "$namespace", "$pipeline"] {
            expression = expression.replace(variable, ".+");
        }
        (title.to_owned(), expression)
    });
    filled.collect()
}

#[test]
fn every_panel_of_the_board_selects_something_on_a_running_prometheus() {
    let (mut world, _engine) = world_with_engine!("every_panel_of_the_board_…");
    let address = free_ports(1)[0];
    world.set("FLOWCTL_METRICS_ADDRESS", &format!("127.0.0.1:{address}"));
    let Some(prometheus) = Prometheus::start(&world, address) else {
        return;
    };
    // One that sends heartbeats and gets on, one with a limit, and one that crashes.
    let progress = ", progress: { metric: last_processed_ledger, max_age: 1h }";
    let limited = container(
        "limited",
        "trap 'exit 0' TERM; while :; do sleep 0.1; done",
        ", resources: { limits: { memory: 64Mi } }",
    );
    world.apply(&(ledgers(&world, "ttp", progress) + &limited + &sleeper("crashes", "")));
    reach(&world, "ttp", 1);
    reach(&world, "ttp", 2);
    // What is counted shows as a difference to what was scraped before.
    let before = "flowctl_replica_restarts_total{component=\"crashes\"}";
    eventually("all of it is scraped", || prometheus.is(before, "0"));
    kill(world.status().pid("crashes").unwrap(), "KILL");
    let panels = panels();
    assert!(panels.len() > 15, "{panels:?}");
    for (title, expression) in panels {
        eventually(&format!("{title}: {expression}"), || {
            !prometheus.selects(&expression).is_empty()
        });
    }
}

/// Holds 100 MiB, is busy now and then, and tells how long it was.
const BUSY: &str = r#"
import os, sys, time
hold = bytearray(100 << 20)
for at in range(0, len(hold), 4096): hold[at] = 1
while True:
    until = time.process_time() + 0.05
    while time.process_time() < until: pass
    with open(sys.argv[1] + ".new", "w") as f: f.write(str(time.process_time()))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(0.05)
"#;

#[test]
fn usage_is_what_the_program_itself_measures() {
    let world = World::new();
    let (script, said) = (world.write("busy.py", BUSY), world.path("said"));
    let busy = format!(
        "    - {{ id: busy, command: [python3, {}, {}] }}\n",
        script.display(),
        said.display()
    );
    let family = shell("family", "sleep 1000 & sleep 1000 & wait", "");
    world.apply(&(busy + &family));
    let own = || world.read("said").parse::<f64>().unwrap_or_default();
    eventually("it has been busy for a while", || own() > 1.0);
    let usage = |id: &str| {
        let told = world.ok(&["top", "--once", "-o", "json"]);
        crate::support::Status(serde_json::from_str(&told).unwrap()).replica(id)["usage"].clone()
    };
    let before = own();
    let told = usage("busy");
    let after = own() + 0.1;
    let seconds = told["cpu_seconds"].as_f64().unwrap();
    assert!(
        seconds > before * 0.9 && seconds < after * 1.1,
        "{before} {seconds} {after}"
    );
    let cores = told["cpu_cores"].as_f64().unwrap();
    assert!(cores > 0.0 && cores < 1.1, "{cores}");
    let memory = told["memory_bytes"].as_f64().unwrap() / f64::from(100 << 20);
    assert!((0.9..1.1).contains(&memory), "{memory}");
    // The shell and what it began, each once, and not the guardian.
    assert_eq!(usage("family")["processes"], 3);
    let table = world.ok(&["top", "--once"]);
    let first = table.lines().nth(2).unwrap();
    assert!(
        first.starts_with("p  ") && first.contains("busy"),
        "{table}"
    );
    // Nobody asks for it here.
    assert_eq!(world.status().replica("busy")["usage"], Value::Null);
    let wide = world.ok(&["status", "-o", "wide"]);
    assert!(wide.contains(" CPU ") && wide.contains("Mi"), "{wide}");
}

#[test]
fn what_the_rules_and_the_board_select_exists() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let told = world.ok(&["metrics"]);
    let types = told.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let known: std::collections::BTreeSet<&str> =
        types.filter_map(|line| line.split(' ').next()).collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring");
    for file in ["flowctl.rules.yml", "flowctl.dashboard.json"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: std::collections::BTreeSet<&str> = words
            .filter(|word| word.starts_with("flowctl_") || word.starts_with("process_"))
            .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
            .collect();
        assert!(named.len() > 10, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} selects {unknown:?}");
    }
    let Some(promtool) = find("promtool") else {
        return;
    };
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "flowctl.rules.yml"],
        ["test", "rules", "flowctl.rules.test.yml"],
    ] {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(&folder)
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
    // Each alert is shown to fire, and to end.
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let (rules, tests) = (read("flowctl.rules.yml"), read("flowctl.rules.test.yml"));
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested: Vec<_> = alerts
        .filter(|alert| !tests.contains(&format!("alertname: {alert}\n")))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
    // Every panel's expression is one, with Grafana's variables filled in.
    let mut rules = "groups:\n  - name: board\n    rules:\n".to_owned();
    for (number, (_, expression)) in panels().into_iter().enumerate() {
        let quoted = serde_json::to_string(&expression).unwrap();
        rules += &format!("      - record: board:panel{number}\n        expr: {quoted}\n");
    }
    let rules = world.write("board.yml", &rules);
    let output = Command::new(&promtool)
        .args(["check", "rules"])
        .arg(rules)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
