//! Lives of instances on a real cluster: what hands and the cluster itself do to them.

use super::*;
use crate::driver::conformance::{eventually, eventually_exits, eventually_runs, launch, sight};
use crate::model::{Disruption, DisruptionKind, ExitStatus, Life, Port, Protocol};

async fn pod_of(stage: &ClusterStage, job: &str) -> String {
    let prefix = format!("{job}-");
    let pods = stage.pods().await;
    let mut names = pods.into_keys().filter(|name| name.starts_with(&prefix));
    names.next().expect("its Job has a pod")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_recorded_on_its_job_and_the_next_run_is_another_job() {
    let Some(stage) = ClusterStage::new().await else {
        return;
    };
    let spec = stage.shell("crashes", "echo out; exit 7");
    let first = launch(spec.clone(), 1);
    stage.driver.start(&first).await.unwrap();
    let status = eventually_exits(&*stage.driver, &first.instance).await;
    assert_eq!(status, ExitStatus::Code(7));
    let name = objects::names::job(&first.instance);
    for _ in 0..1_200 {
        let job = stage.jobs().await.remove(&name).unwrap();
        if job["metadata"]["annotations"][objects::identity::EXIT].is_string() {
            assert_eq!(job["spec"]["suspend"], true, "nobody starts it again");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.eventually_logs("crashes", "out").await;
    stage.driver.forget(&first.instance).await.unwrap();
    let second = launch(spec, 2);
    stage.driver.start(&second).await.unwrap();
    eventually_exits(&*stage.driver, &second.instance).await;
    stage.driver.forget(&second.instance).await.unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_waits_until_the_first_is_over() {
    let Some(stage) = ClusterStage::new().await else {
        return;
    };
    let spec = stage.shell("one", FOREVER);
    let (first, second) = (launch(spec.clone(), 1), launch(spec.clone(), 2));
    stage.driver.start(&first).await.unwrap();
    let refused = stage.driver.start(&second).await;
    assert!(
        matches!(refused, Err(DriverError::InTheWay { .. })),
        "{refused:?}"
    );
    stage
        .driver
        .stop(&first.instance, &spec.stop)
        .await
        .unwrap();
    stage.driver.start(&second).await.unwrap();
    eventually_runs(&*stage.driver, &second.instance).await;
    stage
        .driver
        .stop(&second.instance, &spec.stop)
        .await
        .unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_drain_or_a_hand_takes_away_is_no_failure_of_its_own() {
    let Some(stage) = ClusterStage::new().await else {
        return;
    };
    let api = stage.api().await;
    for (id, kind) in [
        ("drained", DisruptionKind::Drained),
        ("deleted", DisruptionKind::DeletedByHand),
    ] {
        let launch = launch(stage.shell(id, FOREVER), 1);
        stage.driver.start(&launch).await.unwrap();
        stage.prepared(&launch.spec).await;
        let pod = pod_of(&stage, &objects::names::job(&launch.instance)).await;
        let path = format!("{}/{pod}", places::core_path(&stage.namespace, "pods"));
        if kind == DisruptionKind::Drained {
            let body = json!({
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod, "namespace": stage.namespace},
            });
            let call = Call::create(format!("{path}/eviction"), &body);
            api.tell(call).await.unwrap();
        } else {
            let options = json!({});
            api.tell(Call::delete(path, &options)).await.unwrap();
        }
        let seen = eventually(&*stage.driver, &launch.instance, |life| !life.is_alive()).await;
        let Life::Disrupted { disruption, .. } = seen.life else {
            panic!("{:?}", seen.life);
        };
        let Disruption { kind: found, .. } = disruption;
        assert_eq!(found, kind);
        stage.driver.forget(&launch.instance).await.unwrap();
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_job_of_its_name_is_left_alone() {
    let Some(stage) = ClusterStage::new().await else {
        return;
    };
    let launch = launch(stage.shell("taken", FOREVER), 1);
    let name = objects::names::job(&launch.instance);
    let container = json!({"name": "x", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "100"]});
    let body = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    });
    let api = stage.api().await;
    let path = places::jobs_path(&stage.namespace);
    api.tell(Call::create(path, &body)).await.unwrap();
    let refused = stage.driver.start(&launch).await.unwrap_err();
    let DriverError::Refused(failure) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(failure.reason, "NameConflict");
    assert!(
        failure.message.contains("is not flowctl's"),
        "{}",
        failure.message
    );
    stage
        .driver
        .stop(&launch.instance, &launch.spec.stop)
        .await
        .unwrap();
    stage.driver.forget(&launch.instance).await.unwrap();
    assert_eq!(sight(&*stage.driver, &launch.instance).await, None);
    let job = stage.jobs().await.remove(&name).unwrap();
    assert_eq!(job["spec"]["suspend"], false);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_pod_is_refused_is_told_in_the_clusters_own_words() {
    let Some(stage) = ClusterStage::new().await else {
        return;
    };
    let api = stage.api().await;
    let body = json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    });
    let path = places::core_path(&stage.namespace, "resourcequotas");
    api.tell(Call::create(path.clone(), &body)).await.unwrap();
    // The quota counts from when its controller has seen it.
    for _ in 0..1_200 {
        let quotas = stage.objects(&path).await;
        if quotas["none"]["status"]["hard"]["pods"] == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let launch = launch(stage.shell("crowded", FOREVER), 1);
    stage.driver.start(&launch).await.unwrap();
    let told = |life: &Life| {
        matches!(life, Life::Pending(pending)
            if pending.why.as_ref().is_some_and(|why| why.contains("exceeded quota: none")))
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let seen = sight(&*stage.driver, &launch.instance).await;
        if seen.as_ref().is_some_and(|seen| told(&seen.life)) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage
        .driver
        .stop(&launch.instance, &launch.spec.stop)
        .await
        .unwrap();
    assert_eq!(sight(&*stage.driver, &launch.instance).await, None);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pipelines_have_left_is_removed_and_nothing_else() {
    let Some(stage) = ClusterStage::new().await else {
        return;
    };
    let mut spec = stage.shell("served", FOREVER);
    spec.ports = vec![Port {
        name: None,
        container_port: 8_080,
        host_port: None,
        host_ip: None,
        protocol: Protocol::Tcp,
    }];
    let launch = launch(spec, 1);
    stage.driver.start(&launch).await.unwrap();
    let services = places::core_path(&stage.namespace, "services");
    assert_eq!(stage.objects(&services).await.len(), 1);
    let kept = stage.driver.tidy(&BTreeSet::new()).await.unwrap();
    assert_eq!(kept, Tidied::Postponed, "an instance is there");
    assert_eq!(stage.objects(&services).await.len(), 1);
    stage
        .driver
        .stop(&launch.instance, &launch.spec.stop)
        .await
        .unwrap();
    stage.driver.forget(&launch.instance).await.unwrap();
    assert!(stage.driver.may_have_something());
    let done = stage.driver.tidy(&BTreeSet::new()).await.unwrap();
    assert_eq!(done, Tidied::Done);
    assert!(stage.objects(&services).await.is_empty());
    assert!(!stage.driver.may_have_something());
    stage.end().await;
}
