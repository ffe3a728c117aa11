//! What scrapers read of a snapshot with one replica in every state that matters.

use super::*;
use crate::model::{
    DaemonStatus, PipelineStatus, ProgressStatus, RegistrationStatus, ReplicaStatus, STATUS_SCHEMA,
    Usage,
};

fn replica(number: u32, phase: &str) -> ReplicaStatus {
    serde_json::from_value(serde_json::json!({
        "replica": number, "instance": format!("default.ttp.sink.{number}.4711"), "phase": phase,
        "ready": phase == "running", "since": "2026-11-21T02:00:00Z", "why": "", "next": null,
        "restarts": 3, "pid": 7, "container": null, "exit": null, "spec": null, "addresses": {},
        "registration": null, "hold": null
    }))
    .unwrap()
}

fn snapshot(replicas: Vec<ReplicaStatus>) -> Snapshot {
    let mut pipeline: PipelineStatus = serde_json::from_value(serde_json::json!({
        "namespace": "default", "name": "ttp", "file": "/srv/p.yaml", "watched": true,
        "generation": 3, "observed_generation": 3, "settled": true, "deleting": false,
        "problem": null,
        "components": [{ "id": "sink", "role": "sink", "driver": "process", "desired": 1,
            "replicas": [] }],
    }))
    .unwrap();
    pipeline.components[0].replicas = replicas;
    Snapshot {
        schema: STATUS_SCHEMA.to_owned(),
        daemon: Some(DaemonStatus {
            version: "0".to_owned(),
            pid: 1,
            started_at: Timestamp::from_millis(1_000),
            state_dir: "/s".into(),
            durable: true,
            durable_why: None,
            control_plane: None,
        }),
        conditions: Vec::new(),
        pipelines: vec![Arc::new(pipeline)],
    }
}

fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn a_replica_is_told_under_the_names_that_rules_select() {
    let mut one = replica(0, "running");
    one.started_at = Some(Timestamp::from_millis(5_500));
    one.usage = Some(Usage {
        cpu_seconds: Some(1.5),
        cpu_cores: None,
        memory_bytes: Some(1024),
        memory_limit_bytes: None,
        processes: Some(2),
        open_files: Some(9),
        sampled_at: Timestamp::default(),
    });
    one.progress = Some(ProgressStatus {
        watches: "last_processed_ledger".to_owned(),
        value: Some("7".to_owned()),
        advanced_at: Some(Timestamp::from_millis(9_000)),
        stalled_since: Some(Timestamp::from_millis(9_000)),
        why: String::new(),
        held_by: None,
    });
    let scrape = of_snapshot(&snapshot(vec![one]), Format::Classic);
    let told = samples(&scrape.text);
    let labels = "{namespace=\"default\",pipeline=\"ttp\",component=\"sink\",replica=\"0\"";
    for (name, more, value) in [
        ("replica_phase", ",phase=\"running\"", "1"),
        ("replica_ready", "", "1"),
        ("replica_stalled", "", "1"),
        (
            "replica_phase_since_timestamp_seconds",
            "",
            "1795226400.000",
        ),
        ("replica_start_time_seconds", "", "5.500"),
        ("replica_progress_timestamp_seconds", "", "9.000"),
        ("replica_restarts_total", "", "3"),
        ("replica_cpu_seconds_total", "", "1.5"),
        ("replica_memory_bytes", "", "1024"),
        ("replica_processes", "", "2"),
        ("replica_open_fds", "", "9"),
    ] {
        let wanted = format!("flowctl_{name}{labels}{more}}} {value}");
        assert!(told.contains(&wanted.as_str()), "{wanted}\n{}", scrape.text);
    }
    for wanted in [
        "flowctl_pipeline_generation{namespace=\"default\",pipeline=\"ttp\"} 3",
        "flowctl_component_replicas_desired{namespace=\"default\",pipeline=\"ttp\",component=\"sink\"} 1",
        "flowctl_driver_up{driver=\"process\"} 1",
        "flowctl_durable 1",
    ] {
        assert!(told.contains(&wanted), "{wanted}\n{}", scrape.text);
    }
}

#[test]
fn figures_of_heartbeats_are_bounded_in_number_length_and_letters() {
    let mut one = replica(0, "running");
    let mut metrics: std::collections::BTreeMap<String, serde_json::Value> = (0..500)
        .map(|n| (format!("figure-{n:03}"), n.into()))
        .collect();
    metrics.insert("a\"b".to_owned(), "12.5".into());
    metrics.insert("a`b".to_owned(), 7.into());
    metrics.insert("state".to_owned(), "warming up".into());
    metrics.insert("x".repeat(10_000), 1.into());
    one.registration = Some(RegistrationStatus {
        service_id: "s".to_owned(),
        last_heartbeat: None,
        metrics,
    });
    let scrape = of_snapshot(&snapshot(vec![one]), Format::Classic);
    let told: Vec<_> = samples(&scrape.text)
        .into_iter()
        .filter(|line| line.starts_with("flowctl_component_metric{"))
        .collect();
    assert!(told.len() <= 64, "{}", told.len());
    assert!(told[0].ends_with("name=\"a_b\"} 12.5"), "{}", told[0]);
    assert!(told.iter().all(|line| line.len() < 250));
    assert!(!scrape.text.contains("warming"));
}

#[test]
fn no_series_is_named_after_a_run() {
    let scrape = of_snapshot(&snapshot(vec![replica(0, "crashloop")]), Format::Classic);
    assert!(!scrape.text.contains("4711"), "{}", scrape.text);
    assert!(!scrape.text.contains("instance="));
}

#[test]
fn every_series_stands_once() {
    let all = (0..4).map(|number| replica(number, "running")).collect();
    let scrape = of_snapshot(&snapshot(all), Format::OpenMetrics);
    let names: Vec<_> = samples(&scrape.text)
        .into_iter()
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    let different: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), different.len());
    assert!(scrape.text.ends_with("# EOF\n"));
}
