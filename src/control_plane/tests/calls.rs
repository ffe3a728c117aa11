//! What clients ask, and what they are told.

use prost::Message;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Served;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::super::wire::v1::component_gate_client::ComponentGateClient;
use super::*;

#[tokio::test]
async fn a_legacy_component_registers_beats_and_is_seen_with_its_figures() {
    let plane = Plane::start().await;
    let mut client = plane.legacy().await;
    let info = legacy::ServiceInfo {
        service_type: legacy::ServiceType::Source.into(),
        output_event_types: vec!["raw_ledger_service.RawLedgerChunk".to_owned()],
        health_endpoint: "http://localhost:8088/health".to_owned(),
        max_inflight: 100,
        ..by_name("")
    };
    let ack = client.register(info).await.unwrap().into_inner();
    assert!(ack.service_id.starts_with("source-"), "{}", ack.service_id);
    assert_eq!(ack.topic_names, ["raw_ledger_service.RawLedgerChunk.v1"]);
    assert_eq!(
        ack.connection_info["control_plane_endpoint"],
        plane.address.to_string()
    );
    let beat = legacy::ServiceHeartbeat {
        service_id: ack.service_id.clone(),
        timestamp: None,
        metrics: [("success_count".to_owned(), 12.0)].into(),
    };
    client.heartbeat(beat).await.unwrap();
    let status = client
        .get_service_status(by_name(&ack.service_id))
        .await
        .unwrap()
        .into_inner();
    assert!(status.is_healthy && status.last_heartbeat.is_some());
    assert_eq!(status.metrics["success_count"], 12.0);
    let listed = client
        .list_services(())
        .await
        .unwrap()
        .into_inner()
        .services;
    assert_eq!(listed, [status]);
    plane.end().await;
}

#[tokio::test]
async fn a_component_of_the_sdk_is_found_by_type_event_type_and_metadata() {
    let plane = Plane::start().await;
    let mut client = plane.sdk().await;
    let answer = client
        .register_component(component("ttp"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.service_id.as_str(), &answer.assigned_topics[..]),
        ("ttp", &["transfer.v1".to_owned()][..])
    );
    let ask = |event_types: &[&str], network: &str, kind: v1::ComponentType| v1::DiscoveryRequest {
        r#type: kind.into(),
        event_types: event_types.iter().map(|&event| event.to_owned()).collect(),
        metadata_filters: [("network".to_owned(), network.to_owned())].into(),
    };
    use v1::ComponentType::{Processor, Source, Unspecified};
    for (request, found) in [
        (ask(&["ledger"], "testnet", Processor), 1),
        (ask(&["other", "transfer"], "testnet", Unspecified), 1),
        (ask(&[], "testnet", Unspecified), 1),
        (ask(&["other"], "testnet", Unspecified), 0),
        (ask(&["ledger"], "mainnet", Unspecified), 0),
        (ask(&["ledger"], "testnet", Source), 0),
    ] {
        let components = client
            .discover_components(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(components.components.len(), found, "{request:?}");
    }
    plane.end().await;
}

#[tokio::test]
async fn an_unhealthy_component_is_listed_only_when_asked_for_and_unknown_health_means_alive() {
    let plane = Plane::start().await;
    let mut client = plane.sdk().await;
    client.register_component(component("ttp")).await.unwrap();
    let beat = |status: v1::HealthStatus| v1::HeartbeatRequest {
        service_id: "ttp".to_owned(),
        status: status.into(),
        metrics: [("processed_count".to_owned(), "7".to_owned())].into(),
    };
    client
        .heartbeat(beat(v1::HealthStatus::Unhealthy))
        .await
        .unwrap();
    let mut listed = async |include_unhealthy| {
        let request = v1::ListComponentsRequest {
            type_filter: 0,
            include_unhealthy,
        };
        client
            .list_components(request)
            .await
            .unwrap()
            .into_inner()
            .components
    };
    assert_eq!(listed(false).await, []);
    let all = listed(true).await;
    assert_eq!(all[0].status(), v1::HealthStatus::Unhealthy);
    assert_eq!(all[0].metrics["processed_count"], "7");
    client
        .heartbeat(beat(v1::HealthStatus::Healthy))
        .await
        .unwrap();
    client
        .heartbeat(beat(v1::HealthStatus::Unknown))
        .await
        .unwrap();
    let request = v1::ComponentStatusRequest {
        service_id: "ttp".to_owned(),
    };
    let status = client
        .get_component_status(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.status(), v1::HealthStatus::Healthy);
    assert_eq!(status.component.unwrap().endpoint, ":50051");
    plane.end().await;
}

#[tokio::test]
async fn a_heartbeat_of_an_id_that_never_registered_is_taken_in() {
    let plane = Plane::start().await;
    let mut client = plane.legacy().await;
    let id = "sim-ttp-processor-20250711093000";
    let beat = legacy::ServiceHeartbeat {
        service_id: id.to_owned(),
        ..Default::default()
    };
    client.heartbeat(beat).await.unwrap();
    assert!(
        client
            .get_service_status(by_name(id))
            .await
            .unwrap()
            .into_inner()
            .is_healthy
    );
    plane.end().await;
}

#[tokio::test]
async fn ids_outlive_the_daemon_and_clients_beat_on_without_registering_again() {
    let plane = Plane::start().await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = plane.legacy().await;
        let info = legacy::ServiceInfo {
            service_type: legacy::ServiceType::Processor.into(),
            health_endpoint: format!("http://localhost:{}/health", 18000 + number),
            ..by_name("")
        };
        clients.push(client.register(info).await.unwrap().into_inner().service_id);
    }
    let (address, disk) = plane.end().await;
    let options = ControlPlaneOptions {
        port: PortChoice::Kept(address.port()),
        ..Default::default()
    };
    let plane = Plane::with(options, disk).await;
    assert_eq!(plane.address, address, "the port is kept");
    let mut client = plane.legacy().await;
    let listed = client
        .list_services(())
        .await
        .unwrap()
        .into_inner()
        .services;
    let mut known: Vec<_> = listed.into_iter().map(|status| status.service_id).collect();
    clients.sort();
    known.sort();
    assert_eq!(known, clients);
    for id in &clients {
        let beat = legacy::ServiceHeartbeat {
            service_id: id.clone(),
            ..Default::default()
        };
        client.heartbeat(beat).await.unwrap();
    }
    let after = client
        .list_services(())
        .await
        .unwrap()
        .into_inner()
        .services;
    assert!(
        after
            .iter()
            .all(|status| status.is_healthy && status.last_heartbeat.is_some())
    );
    assert_eq!(after.len(), 20);
    plane.end().await;
}

#[tokio::test]
async fn a_registration_is_recorded_before_it_is_answered_and_never_waits_long_for_a_hung_disk() {
    let plane = Plane::start().await;
    let mut client = plane.legacy().await;
    client.register(by_name("a")).await.unwrap();
    assert!(plane.disk.registrations().contains_key("a"));
    plane.disk.hangs.send_replace(true);
    let answered = tokio::time::timeout(Duration::from_secs(20), client.register(by_name("b")));
    assert_eq!(
        answered.await.unwrap().unwrap().into_inner().service_id,
        "b"
    );
    assert!(!plane.disk.registrations().contains_key("b"));
    plane.disk.hangs.send_replace(false);
    let mut commits = plane.disk.commits.subscribe();
    let recorded = commits.wait_for(|_| plane.disk.registrations().contains_key("b"));
    tokio::time::timeout(Duration::from_secs(20), recorded)
        .await
        .unwrap()
        .unwrap();
    plane.end().await;
}

#[tokio::test]
async fn wrong_questions_are_told_by_their_code() {
    let plane = Plane::start().await;
    let (mut old, mut new) = (plane.legacy().await, plane.sdk().await);
    let beat = |id: &str| legacy::ServiceHeartbeat {
        service_id: id.to_owned(),
        ..Default::default()
    };
    assert_eq!(code(old.heartbeat(beat("")).await), Code::InvalidArgument);
    assert_eq!(
        code(old.heartbeat(beat("a\nb")).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(old.get_service_status(by_name("nobody")).await),
        Code::NotFound
    );
    let nobody = || "nobody".to_owned();
    let status = v1::ComponentStatusRequest {
        service_id: nobody(),
    };
    assert_eq!(code(new.get_component_status(status).await), Code::NotFound);
    let empty = v1::RegisterRequest::default();
    assert_eq!(
        code(new.register_component(empty).await),
        Code::InvalidArgument
    );
    let run = legacy::GetPipelineRunRequest { run_id: nobody() };
    assert_eq!(code(old.get_pipeline_run(run).await), Code::NotFound);
    let chunk = legacy::UpsertChunkRunRequest { chunk: None };
    assert_eq!(
        code(old.upsert_chunk_run(chunk).await),
        Code::InvalidArgument
    );
    let gone = v1::UnregisterRequest {
        service_id: nobody(),
    };
    new.unregister_component(gone).await.unwrap();
    plane.end().await;
}

#[tokio::test]
async fn an_unregistered_component_is_gone() {
    let plane = Plane::start().await;
    let mut client = plane.sdk().await;
    client.register_component(component("ttp")).await.unwrap();
    let request = v1::UnregisterRequest {
        service_id: "ttp".to_owned(),
    };
    client.unregister_component(request).await.unwrap();
    let status = v1::ComponentStatusRequest {
        service_id: "ttp".to_owned(),
    };
    assert_eq!(
        code(client.get_component_status(status).await),
        Code::NotFound
    );
    plane.end().await;
}

#[tokio::test]
async fn the_gate_opens_when_the_component_registers_and_not_before() {
    let plane = Plane::start().await;
    let mut gate = ComponentGateClient::new(plane.channel().await);
    let wait = |millis: i32| v1::WaitForComponentRequest {
        component_id: "ttp".to_owned(),
        timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        }),
    };
    assert_eq!(
        code(gate.wait_for_component(wait(50)).await),
        Code::DeadlineExceeded
    );
    let mut waiting = gate.clone();
    let long = v1::WaitForComponentRequest {
        timeout: None,
        ..wait(0)
    };
    let waiting = tokio::spawn(async move { waiting.wait_for_component(long).await });
    plane
        .sdk()
        .await
        .register_component(component("ttp"))
        .await
        .unwrap();
    let status = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!(status.component.unwrap().id, "ttp");
    plane.end().await;
}

#[tokio::test]
async fn runs_and_chunks_that_a_runner_tells_of_are_kept_and_listed_newest_first() {
    let plane = Plane::start().await;
    let mut client = plane.legacy().await;
    for number in 0..12 {
        let request = legacy::CreatePipelineRunRequest {
            run_id: format!("run-{number:02}"),
            pipeline_name: "history".to_owned(),
            config_yaml: "kind: Pipeline".to_owned(),
            component_ids: vec!["loader".to_owned()],
        };
        client.create_pipeline_run(request).await.unwrap();
    }
    let update = legacy::UpdatePipelineRunRequest {
        run_id: "run-03".to_owned(),
        status: legacy::RunStatus::Failed.into(),
        metrics: Some(legacy::RunMetrics {
            events_processed: 9,
            ..Default::default()
        }),
        error: "no ledger".to_owned(),
    };
    let run = client
        .update_pipeline_run(update)
        .await
        .unwrap()
        .into_inner();
    assert!(run.end_time.is_some() && run.config_yaml == "kind: Pipeline");
    let list = |status: i32, limit| legacy::ListPipelineRunsRequest {
        pipeline_name: "history".to_owned(),
        status,
        limit,
    };
    let count =
        |answer: tonic::Response<legacy::ListPipelineRunsResponse>| answer.into_inner().runs.len();
    assert_eq!(
        count(client.list_pipeline_runs(list(0, 0)).await.unwrap()),
        10
    );
    assert_eq!(
        count(client.list_pipeline_runs(list(0, -1)).await.unwrap()),
        12
    );
    let failed = legacy::RunStatus::Failed.into();
    assert_eq!(
        count(client.list_pipeline_runs(list(failed, 0)).await.unwrap()),
        1
    );
    let stop = legacy::StopPipelineRunRequest {
        run_id: "run-05".to_owned(),
    };
    let stopped = client.stop_pipeline_run(stop).await.unwrap().into_inner();
    assert_eq!(stopped.status(), legacy::RunStatus::Stopped);
    let chunk = legacy::ChunkRun {
        chunk_id: "c1".to_owned(),
        pipeline_run_id: "run-05".to_owned(),
        chunk_end: 100,
        ..Default::default()
    };
    let request = legacy::UpsertChunkRunRequest {
        chunk: Some(chunk.clone()),
    };
    client.upsert_chunk_run(request).await.unwrap();
    let request = legacy::GetChunkRunRequest {
        chunk_id: "c1".to_owned(),
    };
    assert_eq!(
        client.get_chunk_run(request).await.unwrap().into_inner(),
        chunk
    );
    let request = legacy::ListChunkRunsRequest {
        pipeline_run_id: "run-05".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        client
            .list_chunk_runs(request)
            .await
            .unwrap()
            .into_inner()
            .chunks,
        [chunk]
    );
    plane.end().await;
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let plane = Plane::start().await;
    let mut health = HealthClient::new(plane.channel().await);
    for service in ["", "flowctl.ControlPlane", "flowctl.v1.ControlPlaneService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, i32::from(Served::Serving), "{service}");
    }
    let mut reflection = ServerReflectionClient::new(plane.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    let answer = asked.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "flowctl.ControlPlane",
        "flowctl.v1.ControlPlaneService",
        "flowctl.v1.ComponentGate",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    plane.end().await;
}

/// The numbers of the wire, written down by hand: the programs of the field hold them.
#[test]
fn messages_have_the_numbers_that_programs_of_the_field_send() {
    let beat = v1::HeartbeatRequest {
        service_id: "s".to_owned(),
        status: v1::HealthStatus::Stopping.into(),
        metrics: [("k".to_owned(), "v".to_owned())].into(),
    };
    assert_eq!(
        beat.encode_to_vec(),
        b"\x0a\x01s\x10\x05\x1a\x06\x0a\x01k\x12\x01v"
    );
    let info = legacy::ServiceInfo {
        service_id: "s".to_owned(),
        service_type: 4,
        input_event_types: vec!["i".to_owned()],
        output_event_types: vec!["o".to_owned()],
        health_endpoint: "h".to_owned(),
        max_inflight: 100,
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        component_id: "c".to_owned(),
    };
    assert_eq!(
        info.encode_to_vec(),
        b"\x0a\x01s\x10\x04\x1a\x01i\x22\x01o\x2a\x01h\x30\x64\x3a\x06\x0a\x01k\x12\x01v\x42\x01c"
    );
}
