//! The store on real files: what it keeps, and what becomes of it when things go wrong.

mod damage;
mod disk;
mod history;
mod keeps;
mod kill;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Batch, Durability, Loaded, Store, StoreError};
use crate::model::{
    ComponentId, ComponentSpec, DriverKind, Event, EventKind, Facts, Generation, Handle, Health,
    Instance, InstanceId, Phase, PipelineKey, PipelineRecord, PipelineSpec, ProcessIdentity,
    ProcessSpec, Record, ReplicaKey, RunIntent, SpecHash, StopPolicy, Timestamp, Workload,
    fixtures,
};

/// When these tests take place.
const NOW: i64 = 1_795_228_980_123;

/// A commit that takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(60);

fn now() -> Timestamp {
    Timestamp::from_millis(NOW)
}

fn open(dir: &Path) -> (Store, Loaded) {
    Store::open(dir, now()).unwrap()
}

/// The database below a closed store. A program that another test has just forked holds its lock too,
/// until it executes, so it may not be free at once.
fn raw(dir: &Path) -> sled::Db {
    let begun = Instant::now();
    loop {
        match sled::open(dir.join("db-1")) {
            Ok(db) => return db,
            Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn commit(store: &Store, batch: Batch, durability: Durability) -> Result<(), StoreError> {
    let (send, receive) = mpsc::channel();
    store.commit(batch, durability, move |result| {
        send.send(result).expect("the test waits for the answer");
    });
    receive
        .recv_timeout(DEADLINE)
        .expect("a commit is answered")
}

fn key(name: &str) -> PipelineKey {
    PipelineKey {
        namespace: crate::model::Namespace::default(),
        name: name.parse().unwrap(),
    }
}

fn replica(number: u32) -> ReplicaKey {
    ReplicaKey {
        component: format!("component-{number:04}").parse().unwrap(),
        replica: 0,
    }
}

fn component(id: &ComponentId) -> ComponentSpec {
    ComponentSpec {
        hash: SpecHash::new("v1:0123456789abcdef"),
        workload: Workload::Process(ProcessSpec {
            program: format!("/usr/local/bin/{id}"),
            args: vec!["--port".to_owned(), "50051".to_owned()],
            working_dir: "/srv/pipelines/ttp".into(),
        }),
        env: [("LOG_LEVEL", "info"), ("NETWORK", "testnet")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..fixtures::component(id.as_str(), 1, &[])
    }
}

/// A pipeline of `count` components.
fn pipeline(name: &str, count: u32) -> PipelineRecord {
    let components = (0..count)
        .map(|number| replica(number).component)
        .map(|id| (id.clone(), component(&id)));
    PipelineRecord {
        spec: std::sync::Arc::new(PipelineSpec {
            key: key(name),
            description: None,
            labels: [("team".to_owned(), "data".to_owned())].into(),
            annotations: [].into(),
            network: None,
            notify: vec![],
            components: components.collect(),
        }),
        generation: Generation(1),
        file: Some("/srv/pipelines/ttp/pipeline.yaml".into()),
        watched: true,
        deleting: false,
    }
}

/// The record of a running process, its `incarnation`-th run.
fn record(pipeline: &PipelineKey, replica: &ReplicaKey, incarnation: u64) -> Record {
    let process = |pid| ProcessIdentity {
        boot_id: "0b8d1c5e-6f8a-4d7f-9d5c-7b1f6f3e2a10".to_owned(),
        pid,
        start_ticks: 123_456_789,
    };
    Record {
        incarnation,
        intent: RunIntent::Run,
        instance: Some(Instance {
            id: InstanceId {
                pipeline: pipeline.clone(),
                replica: replica.clone(),
                incarnation,
            },
            spec: SpecHash::new("v1:0123456789abcdef"),
            driver: DriverKind::Process,
            stop: StopPolicy::default(),
            after: vec!["ledger-source".parse().unwrap()],
            holds: vec![],
            stalled: None,
            counted: Default::default(),
            prober: Default::default(),
            partition: None,
            handle: Some(Handle::new(&[process(4711), process(4712)])),
            facts: Facts {
                processes: vec![process(4711), process(4712)],
                ..Facts::default()
            },
            phase: Phase::Running {
                since: now(),
                health: Health {
                    started: true,
                    ready: true,
                    ready_changed: Some(now()),
                    why: None,
                    ..Health::default()
                },
            },
        }),
        released: Some(SpecHash::new("v1:0123456789abcdef")),
        ..Record::default()
    }
}

fn event(seq: u64) -> Event {
    let pipeline = key("ttp");
    let replica = replica((seq % 50) as u32);
    Event {
        seq,
        at: Timestamp::from_millis(NOW + seq as i64),
        namespace: Some(pipeline.namespace.clone()),
        pipeline: Some(pipeline.name.clone()),
        component: Some(replica.component.clone()),
        replica: Some(replica.replica),
        instance: Some(InstanceId {
            pipeline,
            replica,
            incarnation: seq,
        }),
        kind: EventKind::Exited,
        reason: "exited".to_owned(),
        message: format!("exited with code 1 after 2m 3s; the next try is in {seq} s"),
        ended_by: None,
    }
}

/// Bytes that a folder takes up on the disk.
fn disk_use(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            found if found.is_dir() => disk_use(&entry.path()),
            found => found.blocks() * 512,
        })
        .sum()
}
