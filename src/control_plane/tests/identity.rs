//! Who may do what: each attack by each caller.

use tonic::Request;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::*;
use crate::reconciler::Ancestor;

/// A process that descends from the process `pid`.
fn child_of(pid: u32) -> PeerProcess {
    PeerProcess::Found {
        line: vec![Ancestor {
            pid,
            start_ticks: 7,
        }],
        container: None,
        instance: None,
        claimed: None,
    }
}

/// Programs of the components `a` and `b` of `p`, and of `c` of `q`.
const A: u32 = 111;
const B: u32 = 121;
const C: u32 = 131;
const PIPELINES: &[(&str, &[&str])] = &[("p", &["a", "b"]), ("q", &["c"])];

async fn plane() -> Plane {
    Plane::of(Setting {
        pipelines: PIPELINES,
        ..Setting::default()
    })
    .await
}

/// What a caller was answered: `Ok` for a success.
fn answer<T: std::fmt::Debug>(answered: Result<T, tonic::Status>) -> Code {
    answered.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// One caller: who it is to the kernel, and the token that it shows.
struct Client<'p> {
    plane: &'p Plane,
    channel: Channel,
    token: Option<String>,
}

impl<'p> Client<'p> {
    async fn seen(plane: &'p Plane, user: LocalUser, process: PeerProcess) -> Self {
        plane.callers_are(user, process);
        let client = Self {
            plane,
            channel: plane.channel().await,
            token: None,
        };
        // Who it is is asked with its first call.
        assert_eq!(client.update("no-such-run").await, Code::NotFound);
        client
    }

    /// Somebody of whom the kernel tells nothing that helps, with a token.
    async fn with_token(plane: &'p Plane, token: String) -> Self {
        let token = Some(token);
        let unknown = Self::seen(plane, LocalUser::Other(1000), PeerProcess::Unknown).await;
        Self { token, ..unknown }
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let header = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        request
    }

    fn old(&self) -> ControlPlaneClient<Channel> {
        ControlPlaneClient::new(self.channel.clone())
    }

    async fn register(&self, name: &str) -> Code {
        answer(self.old().register(self.ask(by_name(name))).await)
    }

    async fn beat(&self, name: &str) -> Code {
        let beat = legacy::ServiceHeartbeat {
            service_id: name.to_owned(),
            ..Default::default()
        };
        answer(self.old().heartbeat(self.ask(beat)).await)
    }

    async fn unregister(&self, name: &str) -> Code {
        let mut sdk = ControlPlaneServiceClient::new(self.channel.clone());
        let request = v1::UnregisterRequest {
            service_id: name.to_owned(),
        };
        answer(sdk.unregister_component(self.ask(request)).await)
    }

    async fn create(&self, run: &str, pipeline: &str) -> Code {
        let request = legacy::CreatePipelineRunRequest {
            run_id: run.to_owned(),
            pipeline_name: pipeline.to_owned(),
            ..Default::default()
        };
        answer(self.old().create_pipeline_run(self.ask(request)).await)
    }

    async fn update(&self, run: &str) -> Code {
        let request = legacy::UpdatePipelineRunRequest {
            run_id: run.to_owned(),
            error: "mine".to_owned(),
            ..Default::default()
        };
        answer(self.old().update_pipeline_run(self.ask(request)).await)
    }

    async fn chunk(&self, id: &str) -> Code {
        let chunk = legacy::ChunkRun {
            chunk_id: id.to_owned(),
            ..Default::default()
        };
        let request = legacy::UpsertChunkRunRequest { chunk: Some(chunk) };
        answer(self.old().upsert_chunk_run(self.ask(request)).await)
    }

    async fn stop(&self, run: &str) -> Code {
        let run_id = run.to_owned();
        let request = legacy::StopPipelineRunRequest { run_id };
        answer(self.old().stop_pipeline_run(self.ask(request)).await)
    }

    async fn list(&self) -> Result<Vec<legacy::PipelineRun>, Code> {
        let request = legacy::ListPipelineRunsRequest::default();
        let answered = self.old().list_pipeline_runs(self.ask(request)).await;
        answered
            .map(|listed| listed.into_inner().runs)
            .map_err(|status| status.code())
    }

    async fn get(&self, run: &str) -> legacy::PipelineRun {
        let run_id = run.to_owned();
        let request = legacy::GetPipelineRunRequest { run_id };
        let answered = self.old().get_pipeline_run(self.ask(request)).await;
        answered.unwrap().into_inner()
    }
}

fn token(plane: &Plane, instance: &str) -> String {
    plane.keys.issue(&instance.parse().unwrap(), plane.now())
}

fn is_stopped(plane: &Plane, pipeline: &str) -> bool {
    let snapshot = plane.owner.snapshots().borrow().clone();
    let found = snapshot
        .pipelines
        .iter()
        .find(|one| one.name.as_str() == pipeline);
    found.unwrap().components.iter().any(|component| {
        use crate::model::PhaseName::{Stopped, Stopping};
        matches!(component.replicas[0].phase, Stopping | Stopped)
    })
}

/// The run of `p`, by the id that its components were given.
const RUN: &str = "default.p.2";

#[tokio::test]
async fn another_users_process_and_a_caller_without_a_face_touch_nothing_that_has_an_owner() {
    let plane = plane().await;
    let a = Client::seen(&plane, LocalUser::Operator, child_of(A)).await;
    assert_eq!(a.register("a").await, Code::Ok);
    assert_eq!(a.create("run-of-a", "elsewhere").await, Code::Ok);
    assert_eq!(a.chunk("chunk-of-a").await, Code::Ok);
    for user in [LocalUser::Other(1000), LocalUser::Unknown] {
        let who = Client::seen(&plane, user, PeerProcess::Unknown).await;
        for id in ["a", "b"] {
            assert_eq!(who.register(id).await, Code::PermissionDenied, "{user:?}");
            assert_eq!(who.beat(id).await, Code::PermissionDenied, "{user:?}");
        }
        assert_eq!(who.unregister("a").await, Code::PermissionDenied);
        assert_eq!(who.stop(RUN).await, Code::PermissionDenied, "{user:?}");
        assert_eq!(who.update("run-of-a").await, Code::PermissionDenied);
        assert_eq!(who.create("run-of-a", "x").await, Code::PermissionDenied);
        assert_eq!(who.stop("run-of-a").await, Code::PermissionDenied);
        assert_eq!(who.chunk("chunk-of-a").await, Code::PermissionDenied);
        // A run of its own that bears the pipeline's name is no way to that, either.
        let trojan = format!("trojan-{user:?}");
        assert_eq!(who.create(&trojan, "p").await, Code::Ok);
        assert_eq!(who.stop(&trojan).await, Code::PermissionDenied);
        // What is nobody's is anybody's.
        assert_eq!(who.register("outsider").await, Code::Ok, "{user:?}");
        assert_eq!(who.beat("outsider").await, Code::Ok);
        assert_eq!(who.unregister("outsider").await, Code::Ok);
        let listed = who.list().await.unwrap();
        assert!(listed.iter().all(|run| run.config_yaml.is_empty()));
        assert_eq!(who.get(RUN).await.config_yaml, "", "it may hold secrets");
    }
    assert!(!is_stopped(&plane, "p"));
    plane.end().await;
}

#[tokio::test]
async fn an_instance_is_itself_without_a_token_and_stops_no_pipeline_but_its_own() {
    let plane = plane().await;
    let a = Client::seen(&plane, LocalUser::Other(1000), child_of(A)).await;
    let b = Client::seen(&plane, LocalUser::Other(1001), child_of(B)).await;
    let c = Client::seen(&plane, LocalUser::Operator, child_of(C)).await;
    for (client, own) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        assert_eq!(client.register(own).await, Code::Ok);
        assert_eq!(client.beat(own).await, Code::Ok);
        assert_eq!(client.beat(&format!("sim-{own}")).await, Code::Ok);
    }
    for other in ["b", "c"] {
        assert_eq!(a.beat(other).await, Code::PermissionDenied);
        assert_eq!(a.unregister(other).await, Code::PermissionDenied);
    }
    assert_eq!(a.register("b").await, Code::PermissionDenied);
    assert_eq!(a.create("run-of-a", "elsewhere").await, Code::Ok);
    assert_eq!(b.update("run-of-a").await, Code::PermissionDenied);
    assert_eq!(a.update("run-of-a").await, Code::Ok);
    assert_eq!(c.stop(RUN).await, Code::PermissionDenied);
    assert!(!is_stopped(&plane, "p"));
    assert_eq!(b.stop(RUN).await, Code::Ok);
    assert!(!is_stopped(&plane, "q"));
    plane.end().await;
}

#[tokio::test]
async fn a_token_gives_its_instance_and_no_more_and_nothing_once_that_has_ended() {
    let plane = plane().await;
    let a = Client::with_token(&plane, token(&plane, "default.p.a.0.1")).await;
    let c = Client::with_token(&plane, token(&plane, "default.q.c.0.1")).await;
    assert_eq!(a.register("a").await, Code::Ok);
    assert_eq!(a.create("run-of-a", "elsewhere").await, Code::Ok);
    assert_eq!(c.update("run-of-a").await, Code::PermissionDenied);
    assert_eq!(c.stop(RUN).await, Code::PermissionDenied);
    assert_eq!(c.beat("a").await, Code::PermissionDenied);
    let far = "far".parse().unwrap();
    let far = plane.keys.issue_outside(&far, plane.now(), TOKEN_LIFE);
    let far = Client::with_token(&plane, far).await;
    assert_eq!(far.register("far").await, Code::Ok);
    assert_eq!(far.register("a").await, Code::PermissionDenied);
    assert_eq!(far.beat("a").await, Code::PermissionDenied);
    assert_eq!(far.beat("nobody").await, Code::PermissionDenied);
    assert_eq!(far.update("run-of-a").await, Code::PermissionDenied);
    assert_eq!(far.stop(RUN).await, Code::PermissionDenied);
    // A predecessor, and one of a pipeline that was deleted.
    for ended in ["default.p.a.0.7", "default.gone.x.0.1"] {
        let ended = Client::with_token(&plane, token(&plane, ended)).await;
        assert_eq!(ended.list().await.unwrap_err(), Code::Unauthenticated);
        for refused in [
            ended.register("x").await,
            ended.beat("x").await,
            ended.unregister("x").await,
            ended.create("run-of-x", "elsewhere").await,
            ended.update("run-of-a").await,
            ended.chunk("chunk").await,
            ended.stop(RUN).await,
        ] {
            assert_eq!(refused, Code::Unauthenticated);
        }
    }
    plane.end().await;
}

#[tokio::test]
async fn the_operator_does_it_all_and_reads_what_runs() {
    let plane = plane().await;
    let a = Client::seen(&plane, LocalUser::Other(1000), child_of(A)).await;
    assert_eq!(a.create("run-of-a", "elsewhere").await, Code::Ok);
    let operator = Client::seen(&plane, LocalUser::Operator, PeerProcess::Unknown).await;
    assert_eq!(operator.register("b").await, Code::Ok);
    assert_eq!(operator.beat("b").await, Code::Ok);
    assert_eq!(operator.update("run-of-a").await, Code::Ok);
    let config = operator.get(RUN).await.config_yaml;
    assert!(
        config.contains("kind: Pipeline") && config.contains("id: b"),
        "{config}"
    );
    assert_eq!(operator.stop(RUN).await, Code::Ok);
    plane.end().await;
}

/// An engine with one container of ours at an address.
struct OneContainer(IpAddr);

#[tonic::async_trait]
impl Containers for OneContainer {
    async fn at(&self, address: IpAddr) -> Option<InstanceId> {
        (address == self.0).then(|| "default.q.c.0.1".parse().unwrap())
    }
}

#[tokio::test]
async fn over_a_bridge_a_container_of_ours_is_itself_and_any_other_needs_a_token() {
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    for (known_at, is_ours) in [(here, true), ("10.9.9.9".parse().unwrap(), false)] {
        let plane = Plane::of(Setting {
            pipelines: PIPELINES,
            containers: Some(Arc::new(OneContainer(known_at))),
            ..Setting::default()
        })
        .await;
        let bridge = plane
            .doors
            .open_bridge("127.0.0.2".parse().unwrap())
            .unwrap();
        plane.callers_are(LocalUser::Unknown, PeerProcess::Unknown);
        let mut client = Client {
            plane: &plane,
            channel: channel(bridge).await,
            token: None,
        };
        if is_ours {
            assert_eq!(client.register("c").await, Code::Ok);
            assert_eq!(client.beat("c").await, Code::Ok);
            assert!(client.list().await.is_ok());
            assert_eq!(
                client.register("a").await,
                Code::Ok,
                "a nickname of its own"
            );
            let found = plane.owner.directory().await.unwrap();
            let owners = found.values().map(|record| record.component().to_owned());
            assert!(owners.clone().all(|owner| owner == "c"), "{found:?}");
            assert_eq!(client.stop(RUN).await, Code::PermissionDenied);
        } else {
            for refused in [
                client.register("outsider").await,
                client.beat("outsider").await,
                client.unregister("outsider").await,
                client.create("run-1234", "x").await,
                client.stop(RUN).await,
                client.list().await.unwrap_err(),
            ] {
                assert_eq!(refused, Code::Unauthenticated);
            }
            client.token = Some(token(&plane, "default.q.c.0.1"));
            assert_eq!(client.register("c").await, Code::Ok);
        }
        assert!(client.plane.owner.directory().await.is_ok());
        plane.end().await;
    }
}

#[tokio::test]
async fn reflection_answers_nobody_who_would_need_a_token() {
    let options = ControlPlaneOptions {
        tokens: TokenPolicy::Required,
        ..Default::default()
    };
    for (options, over_a_bridge) in [(options, false), (ControlPlaneOptions::default(), true)] {
        let plane = Plane::of(Setting {
            options,
            pipelines: PIPELINES,
            ..Setting::default()
        })
        .await;
        let at = if over_a_bridge {
            plane
                .doors
                .open_bridge("127.0.0.2".parse().unwrap())
                .unwrap()
        } else {
            plane.address
        };
        let mut client = Client {
            plane: &plane,
            channel: channel(at).await,
            token: None,
        };
        let ask = async |client: &Client<'_>| {
            let mut reflection = ServerReflectionClient::new(client.channel.clone());
            let asked = tokio_stream::iter([ServerReflectionRequest::default()]);
            answer(reflection.server_reflection_info(client.ask(asked)).await)
        };
        assert_eq!(ask(&client).await, Code::Unauthenticated);
        client.token = Some("nonsense".to_owned());
        assert_eq!(ask(&client).await, Code::Unauthenticated);
        client.token = Some(token(client.plane, "default.q.c.0.1"));
        assert_eq!(ask(&client).await, Code::Ok);
        plane.end().await;
    }
}

/// Clients of the field take an id by its first eight characters and read figures unlooked.
#[tokio::test]
async fn a_run_is_what_clients_of_the_field_expect_and_keeps_its_ids_over_edits() {
    let plane = plane().await;
    let operator = Client::seen(&plane, LocalUser::Operator, PeerProcess::Unknown).await;
    let listed = operator.list().await.unwrap();
    let starts: std::collections::BTreeSet<&str> =
        listed.iter().map(|run| &run.run_id[..8]).collect();
    assert_eq!((listed.len(), starts.len()), (2, 2), "{listed:?}");
    assert!(listed.iter().all(|run| run.metrics.is_some()));
    let current = &listed
        .iter()
        .find(|run| run.pipeline_name == "p")
        .unwrap()
        .run_id;
    let key = "p".parse().unwrap();
    let earlier = runs::run_id(&Default::default(), &key, Generation(1));
    for id in [current.as_str(), &earlier, RUN, "default.p.3"] {
        let run = operator.get(id).await;
        assert_eq!((run.run_id.as_str(), run.pipeline_name.as_str()), (id, "p"));
        assert!(run.metrics.is_some());
        assert_eq!(operator.update(id).await, Code::FailedPrecondition);
    }
    let never = runs::run_id(&Default::default(), &key, Generation(4));
    for id in [
        never.as_str(),
        "default.p.0",
        "default.p.4",
        "00000000-default.p.3",
    ] {
        assert_eq!(operator.update(id).await, Code::NotFound, "{id}");
    }
    plane.end().await;
}
