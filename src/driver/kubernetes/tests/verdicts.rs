//! What the cluster's objects mean, without a cluster.

use std::time::Instant;

use super::super::cache::Cache;
use super::super::sight::{Moment, Verdict, judge};
use super::super::wire::{Job, Pod};
use super::*;
use crate::driver::conformance::launch;
use crate::model::{
    DisruptionKind, ExitStatus, InstanceId, Life, Sighting, StartFailure, Timestamp,
};

/// A cluster's objects of one instance.
struct Scene {
    instance: InstanceId,
    cache: Cache,
    version: u32,
}

const CREATED: &str = "2026-12-01T10:00:00Z";
const ENDED: &str = "2026-12-01T10:00:30Z";

impl Scene {
    fn new() -> Self {
        Self {
            instance: launch(spec("c", "unused", &[]), 1).instance,
            cache: Cache::default(),
            version: 0,
        }
    }

    fn labels(&self) -> Value {
        json!({
            "flowctl.dev/owner": "o",
            "flowctl.dev/namespace": "default",
            "flowctl.dev/pipeline": "suite",
            "flowctl.dev/component": "c",
            "flowctl.dev/replica": "0",
            "flowctl.dev/incarnation": "1",
            "batch.kubernetes.io/job-name": objects::names::job(&self.instance),
            "batch.kubernetes.io/controller-uid": "job",
        })
    }

    fn job(&mut self, metadata: Value, spec: Value, status: Value) {
        let job = self.read_job(metadata, spec, status);
        self.cache.note_job(job, "flows", Instant::now());
    }

    fn read_job(&mut self, metadata: Value, spec: Value, status: Value) -> Job {
        self.version += 1;
        let mut body = json!({
            "metadata": {
                "name": objects::names::job(&self.instance),
                "uid": "job",
                "resourceVersion": self.version.to_string(),
                "creationTimestamp": CREATED,
                "labels": self.labels(),
            },
            "spec": spec,
            "status": status,
        });
        for (key, value) in metadata.as_object().unwrap() {
            body["metadata"][key] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    fn read_pod(&mut self, uid: &str, metadata: Value, status: Value) -> Pod {
        self.version += 1;
        let mut body = json!({
            "metadata": {
                "name": format!("pod-{uid}"),
                "uid": uid,
                "resourceVersion": self.version.to_string(),
                "creationTimestamp": CREATED,
                "labels": self.labels(),
            },
            "spec": {"nodeName": "n1"},
            "status": status,
        });
        for (key, value) in metadata.as_object().unwrap() {
            body["metadata"][key] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    fn pod(&mut self, uid: &str, metadata: Value, status: Value) {
        let pod = self.read_pod(uid, metadata, status);
        self.cache.note_pod(pod, "flows", Instant::now());
    }

    fn gone(&mut self, uid: &str, metadata: Value, status: Value) {
        let pod = self.read_pod(uid, metadata, status);
        self.cache.pod_gone(pod, "flows", Instant::now());
    }

    fn verdict(&self, silent: &[(&str, &str)]) -> Verdict {
        let moment = Moment {
            now: "2026-12-01T11:00:00Z".parse().unwrap(),
            instant: Instant::now(),
        };
        let silent = silent.iter();
        let silent = silent.map(|(node, why)| ((*node).to_owned(), (*why).to_owned()));
        let entry = self.cache.get(&self.instance);
        entry.map_or(Verdict::Absent, |entry| {
            judge((&self.instance, entry), &silent.collect(), "flows", moment)
        })
    }

    fn seen(&self) -> Sighting {
        match self.verdict(&[]) {
            Verdict::Is(sighting) => *sighting,
            verdict @ (Verdict::Absent | Verdict::Unknown(_)) => panic!("{verdict:?}"),
        }
    }

    fn life(&self) -> Life {
        self.seen().life
    }
}

fn terminated(code: i32, reason: &str) -> Value {
    json!({
        "phase": "Failed",
        "containerStatuses": [{"name": "main", "state": {"terminated": {
            "exitCode": code, "reason": reason, "startedAt": "2026-12-01T10:00:05Z",
            "finishedAt": ENDED,
        }}}],
    })
}

fn running() -> Value {
    json!({
        "phase": "Running",
        "containerStatuses": [{"name": "main",
            "state": {"running": {"startedAt": "2026-12-01T10:00:05Z"}}}],
    })
}

fn with(mut status: Value, condition: Value) -> Value {
    status["conditions"] = json!([condition]);
    status
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn an_exit_is_that_of_the_components_own_container() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    scene.pod("a", json!({}), running());
    assert!(matches!(scene.life(), Life::Running { since } if since == at("2026-12-01T10:00:05Z")));
    // Another container of the pod runs on.
    let mut status = terminated(3, "Error");
    status["phase"] = "Running".into();
    scene.pod("a", json!({}), status);
    let Life::Exited(exit) = scene.life() else {
        panic!("{:?}", scene.life());
    };
    assert_eq!((exit.status, exit.at), (ExitStatus::Code(3), at(ENDED)));
    scene.pod("a", json!({}), terminated(137, "OOMKilled"));
    assert!(matches!(scene.life(), Life::Exited(exit) if exit.oom));
    scene.pod("a", json!({}), terminated(137, "ContainerStatusUnknown"));
    assert!(matches!(scene.life(), Life::Exited(exit) if exit.status == ExitStatus::Unknown));
}

#[test]
fn what_the_cluster_takes_is_disrupted_whatever_the_code() {
    for (reason, kind) in [
        ("PreemptionByScheduler", DisruptionKind::Preempted),
        ("EvictionByEvictionAPI", DisruptionKind::Drained),
        ("DeletionByTaintManager", DisruptionKind::NodeLost),
        ("DeletionByPodGC", DisruptionKind::NodeLost),
        ("TerminationByKubelet", DisruptionKind::Evicted),
    ] {
        let mut scene = Scene::new();
        scene.job(json!({}), json!({}), json!({}));
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason,
            "message": "words"});
        for code in [0, 143] {
            let status = with(terminated(code, "Error"), condition.clone());
            scene.pod("a", json!({}), status);
            let Life::Disrupted { disruption, exit } = scene.life() else {
                panic!("{:?}", scene.life());
            };
            assert_eq!(disruption.kind, kind, "{reason}");
            assert_eq!(disruption.message.as_deref(), Some("words"));
            assert_eq!(exit.status, ExitStatus::Code(code));
        }
    }
}

#[test]
fn a_pod_that_never_ran_and_failed_was_evicted_and_has_no_code() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    let status = json!({"phase": "Failed", "reason": "OutOfmemory", "message": "no room",
        "containerStatuses": null});
    scene.pod("a", json!({}), status);
    let Life::Disrupted { disruption, exit } = scene.life() else {
        panic!("{:?}", scene.life());
    };
    assert_eq!(disruption.kind, DisruptionKind::Evicted);
    assert_eq!(disruption.message.as_deref(), Some("OutOfmemory: no room"));
    assert_eq!(exit.status, ExitStatus::Unknown);
}

#[test]
fn a_deletion_by_hand_counts_only_if_it_came_before_the_end() {
    let deleted =
        |asked: &str| json!({"deletionTimestamp": asked, "deletionGracePeriodSeconds": 10});
    for (due, is_by_hand) in [
        ("2026-12-01T10:00:40Z", true),
        ("2026-12-01T10:01:40Z", false),
    ] {
        let mut scene = Scene::new();
        scene.job(json!({}), json!({}), json!({}));
        scene.pod("a", deleted(due), terminated(1, "Error"));
        let life = scene.life();
        assert_eq!(
            matches!(life, Life::Disrupted { .. }),
            is_by_hand,
            "{life:?}"
        );
        // What we have asked for is a stop.
        let held = json!({"annotations": {"flowctl.dev/held": "true"}});
        scene.job(held, json!({"suspend": true}), json!({}));
        assert!(matches!(scene.life(), Life::Exited(_)));
    }
}

#[test]
fn a_pod_that_is_gone_without_an_end_was_deleted_by_force() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    scene.pod("a", json!({}), running());
    scene.gone("a", json!({}), running());
    let Life::Disrupted { disruption, exit } = scene.life() else {
        panic!("{:?}", scene.life());
    };
    assert_eq!(disruption.kind, DisruptionKind::DeletedByHand);
    assert!(disruption.message.unwrap().contains("may still run"));
    assert_eq!(exit.status, ExitStatus::Unknown);
}

#[test]
fn nobody_knows_of_a_pod_whose_node_does_not_report() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    scene.pod("a", json!({}), running());
    let silent = [("n1", "node n1 has not reported for 62 s")];
    assert_eq!(
        scene.verdict(&silent),
        Verdict::Unknown(silent[0].1.to_owned())
    );
    let ready = json!({"type": "Ready", "status": "True"});
    scene.pod("a", json!({}), with(running(), ready));
    assert!(
        matches!(scene.verdict(&silent), Verdict::Is(_)),
        "it reports"
    );
}

#[test]
fn a_job_without_a_pod_waits_and_one_that_others_suspend_too() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    assert!(matches!(scene.life(), Life::Pending(pending) if pending.why.is_none()));
    let instance = scene.instance.clone();
    assert!(
        scene
            .cache
            .note_why(&instance, Some("exceeded quota".to_owned()))
    );
    assert!(matches!(scene.life(), Life::Pending(pending) if pending.why.is_some()));
    scene.job(json!({}), json!({"suspend": true}), json!({}));
    let Life::Pending(pending) = scene.life() else {
        panic!("{:?}", scene.life());
    };
    assert!(pending.why.unwrap().contains("somebody has suspended"));
}

#[test]
fn a_record_outlives_the_pod_and_a_pod_that_lives_outweighs_it() {
    let mut scene = Scene::new();
    let recorded = json!({"exited": {"status": {"code": 9}, "at": ENDED}});
    let annotations = json!({"annotations": {
        "flowctl.dev/held": "true", "flowctl.dev/exit": recorded.to_string(),
    }});
    scene.job(annotations, json!({"suspend": true}), json!({}));
    assert!(matches!(scene.life(), Life::Exited(exit) if exit.status == ExitStatus::Code(9)));
    scene.pod("late", json!({}), running());
    assert!(matches!(scene.life(), Life::Running { .. }));
}

#[test]
fn a_run_that_the_cluster_has_followed_with_another_is_an_earlier_end() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    let drained = json!({"type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": ""});
    scene.pod("a", json!({}), with(terminated(143, "Error"), drained));
    let later = json!({"creationTimestamp": "2026-12-01T10:01:00Z"});
    scene.pod("b", later, running());
    let seen = scene.seen();
    assert!(matches!(seen.life, Life::Running { .. }));
    assert_eq!(seen.earlier.len(), 1);
    assert_eq!(seen.earlier[0].id, "a");
    let disruption = seen.earlier[0].disruption.clone().unwrap();
    assert_eq!(disruption.kind, DisruptionKind::Drained);
}

#[test]
fn a_program_that_could_not_be_executed_never_started() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    let mut status = terminated(128, "StartError");
    status["containerStatuses"][0]["state"]["terminated"]["message"] =
        "exec: \"nope\": executable file not found in $PATH".into();
    scene.pod("a", json!({}), status);
    let Life::NotStarted {
        failure: StartFailure { reason, .. },
        ..
    } = scene.life()
    else {
        panic!("{:?}", scene.life());
    };
    assert_eq!(reason, "ExecNotFound");
}

#[test]
fn what_a_list_no_longer_has_is_gone_unless_it_was_written_since_the_list_began() {
    let mut scene = Scene::new();
    let begun = Instant::now();
    scene.job(json!({}), json!({}), json!({}));
    let now = Instant::now();
    scene.cache.replace_jobs(Vec::new(), "flows", (begun, now));
    assert!(
        scene.cache.get(&scene.instance).is_some(),
        "it was written since"
    );
    scene
        .cache
        .replace_jobs(Vec::new(), "flows", (Instant::now(), now));
    assert!(scene.cache.get(&scene.instance).is_none());
}

#[test]
fn a_late_word_of_what_is_forgotten_brings_nothing_back() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    scene.pod("a", json!({}), terminated(1, "Error"));
    let instance = scene.instance.clone();
    scene.cache.forget(&instance, Instant::now());
    scene.job(json!({}), json!({}), json!({}));
    let gone = scene.read_job(json!({}), json!({}), json!({}));
    scene.cache.job_gone(&gone);
    scene.pod("a", json!({}), terminated(1, "Error"));
    assert!(scene.cache.get(&instance).is_none());
}

#[test]
fn a_pod_that_was_only_being_removed_is_no_more_once_it_is_gone() {
    let mut scene = Scene::new();
    scene.pod("a", json!({}), terminated(1, "Error"));
    assert!(matches!(scene.life(), Life::Exited(_)));
    scene.gone("a", json!({}), terminated(1, "Error"));
    assert_eq!(scene.verdict(&[]), Verdict::Absent);
    // One that lived when its Job was deleted by hand is remembered.
    scene.pod("b", json!({}), running());
    scene.gone("b", json!({}), terminated(143, "Error"));
    assert!(matches!(scene.verdict(&[]), Verdict::Is(_)));
}

#[test]
fn an_older_version_takes_nothing_back_and_a_copy_made_by_hand_is_nobodys() {
    let mut scene = Scene::new();
    scene.job(json!({}), json!({}), json!({}));
    let early = scene.read_pod("a", json!({}), running());
    scene.pod("a", json!({}), terminated(1, "Error"));
    scene.cache.note_pod(early, "flows", Instant::now());
    assert!(matches!(scene.life(), Life::Exited(_)));
    let mut labels = scene.labels();
    labels["batch.kubernetes.io/job-name"] = "another".into();
    scene.pod("copy", json!({"labels": labels}), running());
    assert!(matches!(scene.life(), Life::Exited(_)));
}

#[test]
fn images_are_pinned_where_a_registry_has_given_a_digest() {
    let pinned = super::super::sight::pinned;
    let digest = format!("@sha256:{}", "0a".repeat(32));
    let full = format!("docker.io/library/busybox{digest}");
    assert_eq!(pinned(&full, "busybox:1"), Some(full.clone()));
    let own = format!("reg.io:5000/team/a{digest}");
    assert_eq!(pinned(&own, "reg.io:5000/team/a:v2"), Some(own.clone()));
    let loaded = format!("docker.io/library/import-2026{digest}");
    assert_eq!(pinned(&loaded, "busybox:1"), None);
    assert_eq!(pinned("sha256:0a", "busybox:1"), None);
}
