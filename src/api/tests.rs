//! The server and the client against each other, on a real socket, with a scripted owner.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::driver::logs::kept::KeptLog;
use crate::driver::{LogLine, LogQuery, LogStream, OutputStream};
use crate::manifest::{Fingerprint, Taken};
use crate::model::{
    ComponentId, DaemonStatus, Event, EventKind, Generation, IdError, PipelineKey, PipelineSpec,
    PipelineStatus, Problem, ReplicaKey, STATUS_SCHEMA, Snapshot, Timestamp,
};
use crate::planner::diff::DiffKind;
use crate::reconciler::{
    Afterwards, Applied, Change, Command, Origin, ReconcilerHandle, Refusal, Source,
};

/// A daemon without a planner: it knows the pipeline `known` with the component `a`.
struct Daemon {
    dir: tempfile::TempDir,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: broadcast::Sender<Arc<Event>>,
    backend: Arc<Scripted>,
    closing: CancellationToken,
}

struct Scripted {
    owner: ReconcilerHandle,
    kept: Mutex<Vec<Event>>,
    obstacles: Mutex<Vec<Problem>>,
    logs: Mutex<Vec<KeptLog>>,
}

#[async_trait]
impl Backend for Scripted {
    fn owner(&self) -> &ReconcilerHandle {
        &self.owner
    }

    /// A source's text is the name of its only pipeline.
    async fn load(&self, request: &ApplyRequest) -> Result<Checked, ApiError> {
        let mut loaded = Vec::new();
        for source in &request.sources {
            let (text, file) = match source {
                SourceInput::File(path) => ("from-file".to_owned(), Some(path.clone())),
                SourceInput::Text { text, .. } => (text.clone(), None),
            };
            let spec =
                pipeline(&text).map_err(|why| ApiError::manifest(why.to_string(), Vec::new()))?;
            loaded.push(Loaded {
                source: Source {
                    file,
                    watched: request.watch == Watching::Yes,
                    origin: Origin::Person,
                },
                pipelines: vec![spec],
                text: Fingerprint::of(text.as_bytes()),
            });
        }
        let remarks = Remarks::default();
        Ok(Checked { loaded, remarks })
    }

    async fn preflight(&self, _: &[Loaded]) -> Vec<Problem> {
        self.obstacles.lock().unwrap().clone()
    }

    async fn remarks(&self, _: &[Loaded], _: Option<&CallerVariables>) -> Vec<Problem> {
        Vec::new()
    }

    async fn applied(&self, _: &ApplyRequest, _: Vec<Taken>) {}

    async fn forced(&self, _: Vec<PipelineKey>) {}

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ApiError> {
        let kept = self.kept.lock().unwrap();
        Ok(kept.iter().filter(|e| query.wants(e)).cloned().collect())
    }

    async fn logs(&self, query: LogQuery) -> Result<LogStream, ApiError> {
        let (sender, lines) = mpsc::channel(4);
        tokio::spawn(async move {
            for n in 0..query.tail.unwrap_or(3) {
                let line = LogLine {
                    at_nanos: i64::try_from(n).unwrap(),
                    replica: ReplicaKey {
                        component: "a".parse().unwrap(),
                        replica: 0,
                    },
                    incarnation: 1,
                    stream: OutputStream::Stdout,
                    text: format!("line {n}").into_bytes(),
                    ends: true,
                };
                if sender.send(Ok(line)).await.is_err() {
                    return;
                }
            }
        });
        Ok(lines)
    }

    async fn renew_image(&self, _: &PipelineKey, _: &ComponentId) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }

    async fn kept_logs(&self, of: Option<PipelineKey>) -> Result<Vec<KeptLog>, ApiError> {
        let kept = self.logs.lock().unwrap().clone();
        Ok(kept
            .into_iter()
            .filter(|log| of.as_ref().is_none_or(|of| *of == log.pipeline))
            .collect())
    }

    async fn remove_logs(&self, _: PipelineKey) -> Result<u64, ApiError> {
        Ok(self
            .logs
            .lock()
            .unwrap()
            .drain(..)
            .map(|log| log.bytes)
            .sum())
    }

    async fn volumes(&self, _: VolumesRequest) -> Result<VolumesAnswer, ApiError> {
        Ok(VolumesAnswer::default())
    }

    async fn metrics(&self, accept: &str) -> Exposition {
        Exposition {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            text: Arc::new(format!("# for {accept}\n")),
        }
    }
}

fn pipeline(name: &str) -> Result<PipelineSpec, IdError> {
    Ok(PipelineSpec {
        key: key(name)?,
        description: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        network: None,
        notify: vec![],
        components: BTreeMap::new(),
    })
}

fn key(name: &str) -> Result<PipelineKey, IdError> {
    Ok(PipelineKey {
        namespace: Default::default(),
        name: name.parse()?,
    })
}

fn snapshot(generation: u64) -> Arc<Snapshot> {
    let pipeline = serde_json::from_value::<PipelineStatus>(serde_json::json!({
        "namespace": "default", "name": "known", "file": "/p.yaml", "watched": true,
        "generation": generation, "observed_generation": generation, "settled": true,
        "deleting": false, "problem": null,
        "components": [{
            "id": "a", "role": "source", "driver": "process", "desired": 1, "replicas": []
        }],
    }));
    Arc::new(Snapshot {
        schema: STATUS_SCHEMA.to_owned(),
        daemon: Some(DaemonStatus {
            version: "0".to_owned(),
            pid: 1,
            started_at: Timestamp::from_millis(0),
            state_dir: "/s".into(),
            durable: true,
            durable_why: None,
            control_plane: None,
        }),
        conditions: Vec::new(),
        pipelines: vec![Arc::new(pipeline.unwrap())],
    })
}

fn event(seq: u64) -> Event {
    Event {
        seq,
        at: Timestamp::from_millis(0),
        namespace: None,
        pipeline: None,
        component: None,
        replica: None,
        instance: None,
        kind: EventKind::Ready,
        reason: String::new(),
        message: format!("event {seq}"),
        ended_by: None,
    }
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (commands, mut asked) = mpsc::channel(16);
        let (snapshots, latest) = watch::channel(snapshot(1));
        let events = broadcast::channel(4).0;
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                obey(command);
            }
        });
        let backend = Arc::new(Scripted {
            owner: ReconcilerHandle::new(commands, latest, events.clone()),
            kept: Mutex::default(),
            obstacles: Mutex::default(),
            logs: Mutex::default(),
        });
        let closing = CancellationToken::new();
        let listener = socket::bind(dir.path()).unwrap();
        tokio::spawn(server::serve(listener, backend.clone(), closing.clone()));
        Self {
            dir,
            snapshots,
            events,
            backend,
            closing,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.dir.path())
    }

    /// Sends bytes that need not be HTTP and answers what came back until the server hung up.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = socket::connect(self.dir.path()).await.unwrap();
        let mut answer = Vec::new();
        // The server may hang up in the middle of what we send: an answer like any other.
        if stream.write_all(bytes).await.is_err() || stream.read_to_end(&mut answer).await.is_err()
        {
            answer.extend_from_slice(b" (hung up)");
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn obey(command: Command) {
    let known = key("known").unwrap();
    let reached = match command {
        Command::Apply {
            pipelines, reply, ..
        } => {
            let applied = pipelines.into_iter().map(|spec| Applied {
                pipeline: spec.key,
                generation: Generation(1),
                change: Change::Created,
                moved_from: None,
            });
            reply.send(Ok(applied.collect())).is_ok()
        }
        Command::Delete { pipeline, reply } if pipeline == known => reply.send(Ok(())).is_ok(),
        Command::Delete { pipeline, reply } => {
            reply.send(Err(Refusal::NoSuchPipeline(pipeline))).is_ok()
        }
        // The end of the daemon is asked for with it: an asker that leaves cannot get between.
        Command::Down {
            afterwards: Afterwards::End,
            reply,
        } => reply.send(Ok(())).is_ok(),
        Command::Down {
            afterwards: Afterwards::GoOn,
            ..
        } => false,
        Command::Ask { reply, .. } => {
            let why = "no space left".to_owned();
            reply.send(Err(Refusal::NotDurable { why })).is_ok()
        }
        Command::Leave { reply, .. } => reply.send(()).is_ok(),
        Command::Desired {
            pipeline: wanted,
            reply,
        } => {
            let spec = Arc::new(pipeline("known").unwrap());
            let found = (wanted == known).then_some((Generation(1), spec));
            reply.send(found).is_ok()
        }
        Command::Problem { .. }
        | Command::Note { .. }
        | Command::Reported { .. }
        | Command::ImagePolicyChanged
        | Command::Registry(_) => true,
    };
    assert!(reached, "the asker waits for its answer");
}

fn request(sources: Vec<SourceInput>) -> ApplyRequest {
    ApplyRequest {
        sources,
        namespace: None,
        watch: Watching::Yes,
        orchestrator: None,
        when_unready: WhenUnready::Refuse,
        caller: None,
    }
}

fn text(text: &str) -> SourceInput {
    SourceInput::Text {
        name: None,
        text: text.to_owned(),
        folder: PathBuf::from("/"),
    }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> ErrorCode {
    let error = outcome.unwrap_err();
    let ClientError::Answer(told) = error else {
        panic!("not an answer of the daemon: {error}")
    };
    told.code
}

#[tokio::test]
async fn status_is_the_latest_snapshot_and_a_watcher_gets_each_later_one() {
    let daemon = Daemon::start();
    let client = daemon.client();
    assert_eq!(client.status().await.unwrap(), *snapshot(1));
    let mut lines = client.watch().await.unwrap();
    let first: Snapshot = lines.decoded().await.unwrap().unwrap();
    daemon.snapshots.send(snapshot(2)).unwrap();
    let second: Snapshot = lines.decoded().await.unwrap().unwrap();
    assert_eq!(first, *snapshot(1));
    assert_eq!(second, *snapshot(2));
}

#[tokio::test]
async fn a_stream_ends_with_the_daemon_and_the_socket_goes_with_it() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut lines = client.watch().await.unwrap();
    lines.next().await.unwrap().unwrap();
    daemon.closing.cancel();
    assert_eq!(lines.next().await.unwrap(), None);
    while daemon.dir.path().join(socket::NAME).exists() {
        tokio::task::yield_now().await;
    }
    let outcome = client.status().await;
    assert!(matches!(outcome, Err(ClientError::NoDaemon { .. })));
}

#[tokio::test]
async fn refusals_arrive_with_their_code() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let (known, unknown) = (key("known").unwrap(), key("nope").unwrap());
    assert_eq!(code(client.delete(&unknown).await), ErrorCode::NotFound);
    client.delete(&known).await.unwrap();
    let component = "a".parse().unwrap();
    let asked = client.request(&known, &component, Asked::Stop).await;
    assert_eq!(code(asked), ErrorCode::NotDurable);
    assert_eq!(code(client.definition(&unknown).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn an_apply_checks_every_source_before_it_changes_anything() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let both = request(vec![text("one"), text("two")]);
    let answer = client.apply(&both).await.unwrap();
    let names: Vec<&str> = answer.pipelines.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    for wrong in ["NOT A NAME", "one"] {
        let outcome = client.apply(&request(vec![text("one"), text(wrong)])).await;
        assert_eq!(code(outcome), ErrorCode::ManifestInvalid, "{wrong}");
    }
}

#[tokio::test]
async fn an_obstacle_refuses_an_apply_unless_it_is_forced() {
    let daemon = Daemon::start();
    let client = daemon.client();
    *daemon.backend.obstacles.lock().unwrap() = vec![Problem {
        file: None,
        line: None,
        column: None,
        message: "port 80 is held by pid 1".to_owned(),
    }];
    let mut wanted = request(vec![text("one")]);
    assert_eq!(code(client.apply(&wanted).await), ErrorCode::Refused);
    wanted.when_unready = WhenUnready::Force;
    let answer = client.apply(&wanted).await.unwrap();
    assert_eq!(answer.remarks.warnings.len(), 1);
}

#[tokio::test]
async fn a_diff_names_pipelines_that_left_the_file() {
    let daemon = Daemon::start();
    let wanted = request(vec![SourceInput::File("/p.yaml".into())]);
    let answer = daemon.client().diff(&wanted).await.unwrap();
    let found: Vec<(String, DiffKind)> = answer
        .pipelines
        .iter()
        .map(|d| (d.pipeline.clone().unwrap().to_string(), d.change))
        .collect();
    let expected = [
        ("from-file".to_owned(), DiffKind::Added),
        ("known".to_owned(), DiffKind::Removed),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn down_is_one_request_for_the_end_of_everything_and_of_the_daemon() {
    let daemon = Daemon::start();
    daemon.client().down().await.unwrap();
}

#[tokio::test]
async fn events_go_from_kept_to_live_without_gap_or_double_even_when_the_reader_lags() {
    let daemon = Daemon::start();
    let keep = |seq| daemon.backend.kept.lock().unwrap().push(event(seq));
    keep(1);
    keep(2);
    let query = EventQuery {
        follow: true,
        ..EventQuery::default()
    };
    let mut lines = daemon.client().events(&query).await.unwrap();
    // Far more than the channel of four holds.
    for seq in 3..=200 {
        keep(seq);
        daemon.events.send(Arc::new(event(seq))).unwrap();
    }
    for seq in 1..=200 {
        let next: Event = lines.decoded().await.unwrap().unwrap();
        assert_eq!(next.seq, seq);
    }
    let last_two = EventQuery {
        after: Some(198),
        ..EventQuery::default()
    };
    let kept = daemon.client().kept_events(last_two).await.unwrap();
    assert_eq!(kept.len(), 2);
}

#[tokio::test]
async fn logs_stream_lines_and_refuse_unknown_names() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut params = LogParams {
        tail: Some(2_000),
        ..LogParams::of(&key("known").unwrap(), "a".to_owned())
    };
    let mut lines = client.logs(&params).await.unwrap();
    let mut count = 0;
    while let Some(entry) = lines.decoded::<LogEntry>().await.unwrap() {
        assert_eq!(entry.text, format!("line {count}"));
        count += 1;
    }
    assert_eq!(count, 2_000);
    params.components = "b".to_owned();
    assert_eq!(code(client.logs(&params).await), ErrorCode::NotFound);
    // It was taken out, and its log is kept.
    let kept = KeptLog {
        pipeline: key("known").unwrap(),
        replica: ReplicaKey {
            component: "b".parse().unwrap(),
            replica: 0,
        },
        bytes: 7,
        written: None,
        gone: None,
    };
    daemon.backend.logs.lock().unwrap().push(kept.clone());
    assert!(client.logs(&params).await.is_ok());
    assert_eq!(client.kept_logs().await.unwrap(), [KeptEntry::from(kept)]);
    let switch =
        b"GET /v1/logs?pipeline=known&follow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = daemon.raw(switch).await;
    assert!(answer.contains("line 2"), "{answer}");
}

#[tokio::test]
async fn garbage_is_answered_or_hung_up_on_and_costs_nobody_else_anything() {
    let daemon = Daemon::start();
    let mut long = b"GET /".to_vec();
    long.extend(vec![b'a'; 1 << 20]);
    for bytes in [
        b"\0\xff\x00\x01 garbage \r\n\r\n".as_slice(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &long,
    ] {
        let answer = daemon.raw(bytes).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    for (request, expected) in [
        ("GET /nope", "not-found"),
        ("PUT /v1/status", "bad-request"),
        ("GET /v1/events?tail=x", "bad-request"),
        ("DELETE /v1/pipelines/default/UPPER", "bad-request"),
        (
            "POST /v1/pipelines/default/known/components/a/explode",
            "bad-request",
        ),
        ("POST /v1/apply", "bad-request"),
    ] {
        let bytes = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = daemon.raw(bytes.as_bytes()).await;
        assert!(answer.contains(expected), "{request}: {answer}");
    }
    daemon.client().status().await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let daemon = Daemon::start();
    let head = format!(
        "POST /v1/apply HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        17 << 20
    );
    let answer = daemon.raw(head.as_bytes()).await;
    assert!(answer.contains("bad-request"), "{answer}");
}

/// Time is paused: it moves when every task waits, so the silent peers' deadlines pass at once.
#[tokio::test(start_paused = true)]
async fn peers_that_say_nothing_lose_their_connection_and_do_not_lock_others_out() {
    let daemon = Daemon::start();
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut stream = socket::connect(daemon.dir.path()).await.unwrap();
        stream.write_all(b"GET /v1/st").await.unwrap();
        silent.push(stream);
    }
    for mut stream in silent {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer));
        assert!(read.await.is_ok(), "the server hangs up");
    }
    let answer = daemon.raw(b"GET /v1/version HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("200 OK"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_for_a_daemon_that_never_answers() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = socket::bind(dir.path()).unwrap();
    let outcome = Client::new(dir.path()).status().await;
    assert!(matches!(outcome, Err(ClientError::Silent { .. })));
}

#[tokio::test]
async fn a_daemon_that_dies_while_it_is_asked_counts_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let listener = socket::bind(dir.path()).unwrap();
    let dying = tokio::spawn(async move {
        let (connection, _) = listener.inner.accept().await.unwrap();
        drop((connection, listener));
    });
    let outcome = Client::new(dir.path()).down().await;
    assert!(matches!(outcome, Err(ClientError::NoDaemon { .. })));
    dying.await.unwrap();
}
