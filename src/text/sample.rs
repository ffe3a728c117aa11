//! A snapshot with one component in every state that matters, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    ComponentStatus, DaemonStatus, DriverKind, ExitSummary, Generation, Next, PhaseName,
    PipelineStatus, ReplicaStatus, Role, STATUS_SCHEMA, Snapshot, SpecHash, Timestamp,
};

/// When the sample is looked at, in milliseconds since the Unix epoch.
const NOW_MILLIS: i64 = 1_795_228_980_000;

/// When the sample is looked at.
pub fn now() -> Timestamp {
    Timestamp::from_millis(NOW_MILLIS)
}

/// So many seconds before that; after it when negative.
pub fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW_MILLIS - seconds * 1_000)
}

/// A replica in `phase` since `seconds`, because of `why`.
pub fn replica(id: &str, number: u32, phase: PhaseName, seconds: i64, why: &str) -> ReplicaStatus {
    ReplicaStatus {
        replica: number,
        instance: format!("default.ttp.{id}.{number}.1").parse().ok(),
        phase,
        ready: phase == PhaseName::Running,
        since: ago(seconds),
        why: why.to_owned(),
        next: None,
        restarts: 0,
        pid: None,
        container: None,
        name: None,
        node: None,
        image: None,
        exit: None,
        spec: Some(SpecHash::new("v1:00000000000000aa")),
        addresses: BTreeMap::new(),
        registration: None,
        hold: None,
        started_at: None,
        progress: None,
        usage: None,
    }
}

/// A component of these replicas.
pub fn component(id: &str, role: Role, replicas: Vec<ReplicaStatus>) -> ComponentStatus {
    ComponentStatus {
        id: id.parse().expect("samples are valid"),
        role,
        driver: DriverKind::Process,
        desired: u32::try_from(replicas.len()).expect("samples are small"),
        unenforced: Vec::new(),
        notes: Vec::new(),
        replicas,
    }
}

/// A pipeline `ttp` of these components.
pub fn pipeline(components: Vec<ComponentStatus>) -> PipelineStatus {
    PipelineStatus {
        namespace: Default::default(),
        name: "ttp".parse().expect("samples are valid"),
        file: Some("/srv/ttp/pipeline.yaml".into()),
        watched: true,
        generation: Generation(3),
        observed_generation: Generation(3),
        settled: false,
        deleting: false,
        problem: None,
        labels: BTreeMap::new(),
        conditions: Vec::new(),
        components,
    }
}

/// Everything at once.
pub fn snapshot() -> Snapshot {
    use PhaseName as P;
    let mut source = replica("ledger-source", 0, P::Running, 11_045, "");
    source.pid = Some(4711);
    source.addresses = BTreeMap::from([("grpc".to_owned(), "localhost:50051".to_owned())]);
    let mut second = replica("ttp-processor", 1, P::Crashloop, 16, "exit 1 (failure 5)");
    second.restarts = 5;
    second.next = Some(Next {
        what: "start".to_owned(),
        at: Some(ago(-12)),
    });
    second.exit = Some(ExitSummary {
        code: Some(1),
        signal: None,
        oom: false,
        at: ago(16),
    });
    let first = replica(
        "ttp-processor",
        0,
        P::Starting,
        0,
        "not ready yet: no probe answered",
    );
    let waiting = "waiting for ttp-processor (unready since 02:43:00: connection refused)";
    let blind = "the docker driver does not answer: connection refused";
    let gone = "gave up after 3 restarts (SIGSEGV); `flowctl start` revives it";
    let mut failed = replica("audit", 0, P::Failed, 300_000, gone);
    failed.exit = Some(ExitSummary {
        code: None,
        signal: Some(11),
        oom: false,
        at: ago(300_000),
    });
    Snapshot {
        schema: STATUS_SCHEMA.to_owned(),
        daemon: Some(DaemonStatus {
            version: "0.1.0".to_owned(),
            pid: 42,
            started_at: ago(86_400),
            state_dir: "/var/lib/flowctl".into(),
            durable: true,
            durable_why: None,
            control_plane: Some("127.0.0.1:8080".to_owned()),
        }),
        conditions: Vec::new(),
        pipelines: vec![Arc::new(pipeline(vec![
            component("ledger-source", Role::Source, vec![source]),
            component("ttp-processor", Role::Processor, vec![first, second]),
            component(
                "sink",
                Role::Sink,
                vec![replica("sink", 0, P::Pending, 20, waiting)],
            ),
            component("audit", Role::Sink, vec![failed]),
            component(
                "import",
                Role::Source,
                vec![replica("import", 0, P::Completed, 90, "exit 0")],
            ),
            component(
                "cache",
                Role::Sink,
                vec![replica("cache", 0, P::Unknown, 61, blind)],
            ),
            component("spare", Role::Sink, Vec::new()),
        ]))],
    }
}
