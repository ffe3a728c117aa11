//! What networks are made, and when they go.

use std::collections::BTreeSet;

use bollard::models::NetworkCreateRequest;

use super::*;
use crate::driver::conformance::{eventually_exits, eventually_runs, launch};

#[tokio::test]
async fn of_two_networks_that_two_flowctls_made_at_once_the_older_is_kept() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let client = stage.driver.inner.engine.client().unwrap();
    let make = async |labels| {
        let request = NetworkCreateRequest {
            name: stage.mark.clone(),
            labels,
            ..NetworkCreateRequest::default()
        };
        client.create_network(request).await
    };
    let ours = [make(Some(identity::mark(&stage.mark))).await.unwrap().id];
    let twin = make(Some(identity::mark("another"))).await;
    if let Err(refusal) = twin {
        // Engines from API 1.44 on never make a second one.
        assert!(refusal.to_string().contains("already exists"), "{refusal}");
        stage.end().await;
        return;
    }
    let named = || async {
        let networks = client.list_networks(None).await.unwrap().into_iter();
        let named = networks.filter(|network| network.name.as_ref() == Some(&stage.mark));
        named.map(|network| network.id.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(named().await.len(), 2);
    let first = launch(stage.container("first", &["sleep", "1000"]), 1);
    stage.driver.start(&first).await.unwrap();
    eventually_runs(&*stage.driver, &first.instance).await;
    assert_eq!(named().await, ours);

    // Neither does one that is made between a container and its start count as a failure of it.
    let late = launch(stage.container("late", &["sleep", "1000"]), 1);
    let Workload::Docker(container) = &late.spec.workload else {
        panic!("{late:?}");
    };
    let made = stage.driver.create(&late, container).await.unwrap();
    make(Some(identity::mark("another"))).await.unwrap();
    let started = stage.driver.run(&late, container, &made.id).await;
    assert_eq!(started.unwrap(), None, "it has to be made anew");
    let id = made.id.clone();
    // What keeps its network goes with it.
    drop(made);
    stage.driver.remove(&id, &late.instance).await.unwrap();
    stage.driver.start(&late).await.unwrap();
    eventually_runs(&*stage.driver, &late.instance).await;
    assert_eq!(named().await, ours);

    // Which of them is meant is not ours to say when a stranger made one.
    let strange = make(None).await.unwrap().id;
    let second = launch(stage.container("second", &["sleep", "1000"]), 1);
    let answer = stage.driver.start(&second).await;
    assert!(is_unreachable(&answer), "{answer:?}");
    assert!(named().await.contains(&strange));
    client.remove_network(&strange).await.unwrap();
    stage.end().await;
}

#[tokio::test]
async fn what_is_taken_down_keeps_no_network_though_a_sweep_has_just_begun() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let client = stage.driver.inner.engine.client().unwrap();
    let request = NetworkCreateRequest {
        name: stage.mark.clone(),
        labels: Some(identity::mark(&stage.mark)),
        ..NetworkCreateRequest::default()
    };
    client.create_network(request).await.unwrap();
    let driver = stage.driver.clone();
    let sweep = tokio::spawn(async move { driver.drop_networks(&BTreeSet::new()).await });
    // It runs until the engine is to answer; the daemon that goes breaks it off.
    tokio::task::yield_now().await;
    stage.driver.clean_up(Volumes::Keep).await.unwrap();
    sweep.abort();
    let left = network::look(&stage.driver.inner.engine, &stage.mark).await;
    assert!(left.unwrap().is_none());
}

#[tokio::test]
async fn a_network_stays_until_what_ended_on_it_is_removed() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let job = launch(stage.container("job", &["true"]), 1);
    stage.driver.start(&job).await.unwrap();
    eventually_exits(&*stage.driver, &job.instance).await;
    let engine = &stage.driver.inner.engine;
    let sweep = stage.driver.drop_networks(&BTreeSet::new()).await;
    assert_eq!(sweep.unwrap(), Sweep::Postponed);
    assert!(network::look(engine, &stage.mark).await.unwrap().is_some());
    eventually_forgotten(&stage.driver, &job.instance).await;
    let sweep = stage.driver.drop_networks(&BTreeSet::new()).await;
    assert_eq!(sweep.unwrap(), Sweep::Done);
    assert!(network::look(engine, &stage.mark).await.unwrap().is_none());
}
