//! The composition root: opens the state, builds the drivers, wires the rooms, waits for a signal.
//!
//! **Expected flow.** [`Daemon::open`] takes the state directory's lock, opens the store and the
//! drivers, and starts the reconciler: from here on everything that was running is being looked
//! after. [`Daemon::serve`] answers on the socket until a signal or `down` ends it.
//!
//! **Guarantees.** One daemon per state directory. Ending the daemon, however it happens, leaves
//! components running; only `down` ends them.

mod alone;
mod backend;
mod registrations;
mod sources;

pub use sources::{Reading, check};

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, socket};
use crate::clock::Clock;
use crate::driver::Driver;
use crate::driver::process::{ForkServer, ProcessConfig, ProcessDriver};
use crate::model::{
    ComponentSpec, DaemonStatus, DriverKind, Hold, InstanceId, PipelineRecord, PipelineSpec,
    Snapshot, Workload,
};
use crate::probe::{ExecPlace, Host, Prober, Target};
use crate::reconciler::{
    Changes, Core, Drivers, Durability, Kept, Probes, Reconciler, ReconcilerHandle, Recorder,
    Refusal,
};
use crate::store::{self, Batch, LockError, Recovery, StateLock, Store, StoreError};

pub use alone::{down, look};
use backend::Backend;
use sources::Sources;

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; made when it does not exist.
    pub state_dir: PathBuf,
}

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon has the state directory, or it cannot be used.
    #[error("the state directory cannot be taken")]
    Lock(#[from] LockError),
    /// The store cannot be opened.
    #[error("the state in {} cannot be opened", dir.display())]
    Store {
        /// Where it is.
        dir: PathBuf,
        /// What went wrong.
        source: StoreError,
    },
    /// What the directory owns could not be ended.
    #[error("what runs cannot be ended")]
    Down(#[source] Refusal),
    /// The owner of the state ended early, by a defect of ours.
    #[error("the reconciler ended before its time")]
    Ended,
    /// Something else of the host.
    #[error("cannot {doing} in {}", dir.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The state directory.
        dir: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// A running daemon.
pub struct Daemon {
    options: Options,
    owner: ReconcilerHandle,
    store: Store,
    drivers: Drivers,
    sources: Sources,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _lock: StateLock,
}

impl Daemon {
    /// Takes the state directory and starts to look after what it owns.
    ///
    /// # Errors
    /// When another daemon has it, or it cannot be used; nothing was changed then.
    pub async fn open(options: Options) -> Result<Self, DaemonError> {
        let dir = options.state_dir.clone();
        let clock = Clock::new();
        let lock = store::lock(&dir, &format!("since {}", clock.now()))?;
        let (store, loaded) =
            Store::open(&dir.join("store"), clock.now()).map_err(|source| DaemonError::Store {
                dir: dir.clone(),
                source,
            })?;
        let process = open_process_driver(&dir, &clock)?;

        let kept = Kept {
            pipelines: loaded.pipelines,
            records: loaded.records,
            registrations: registrations::kept(&loaded.settings),
            notes: registrations::notes(&loaded.settings),
            next_seq: loaded.next_seq,
        };
        let kept = rebuilt(kept, process.as_ref(), &loaded.recovery).await;
        let mut drivers: Drivers = BTreeMap::new();
        drivers.insert(DriverKind::Process, Arc::clone(&process) as Arc<dyn Driver>);
        let daemon = DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: clock.now(),
            state_dir: dir.clone(),
            durable: true,
            durable_why: None,
            control_plane: None,
        };
        let files: Vec<PathBuf> = watched_files(&kept);
        let mut core = Core::new(kept, drivers.keys().copied(), daemon, clock.now());
        if let Recovery::Rebuilt { set_aside, why } = &loaded.recovery {
            core.rebuilt(set_aside, why);
        }
        if loaded.recovery == Recovery::New {
            core.record_anew();
        }

        let (reports, answers) = mpsc::channel(1024);
        let (prober, prober_handle) = Prober::new(reports);
        let probes = Probes {
            prober: prober_handle,
            reports: answers,
            target: Box::new(move |instance, spec| Target {
                host: Host::Loopback,
                exec: exec_place(instance, spec),
            }),
        };
        let (reconciler, owner) =
            Reconciler::new(core, clock, drivers.clone(), recorder(&store), probes);
        let stop = CancellationToken::new();
        let mut tasks = vec![
            tokio::spawn(reconciler.run(stop.clone())),
            tokio::spawn(prober.run()),
        ];
        if loaded.recovery != Recovery::Intact {
            tasks.push(tokio::spawn(end_rebuilding(
                store.clone(),
                owner.snapshots(),
            )));
        }
        let sources = Sources::start(owner.clone(), files, &stop).await;
        Ok(Self {
            options,
            owner,
            store,
            drivers,
            sources,
            stop,
            tasks,
            _lock: lock,
        })
    }

    /// The way to the owner of the state.
    pub fn owner(&self) -> &ReconcilerHandle {
        &self.owner
    }

    /// Answers on the state directory's socket until a signal says to end, or `down` was asked and
    /// nothing is left. Tells `ready` once it answers.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn serve(self, ready: impl FnOnce()) -> Result<(), DaemonError> {
        let dir = self.options.state_dir.clone();
        let failed = |doing, source| DaemonError::Io {
            doing,
            dir: dir.clone(),
            source,
        };
        let listener = socket::bind(&dir).map_err(|source| failed("bind the socket", source))?;
        let (down, mut downed) = watch::channel(false);
        let backend = Backend {
            owner: self.owner.clone(),
            store: self.store.clone(),
            drivers: self.drivers.clone(),
            sources: self.sources.clone(),
            down,
        };
        let closing = CancellationToken::new();
        let server = tokio::spawn(api::server::serve(
            listener,
            Arc::new(backend),
            closing.clone(),
        ));
        ready();
        let mut snapshots = self.owner.snapshots();
        let emptied = async {
            // An error would mean that the backend is gone, and so the server.
            if downed.wait_for(|down| *down).await.is_ok() {
                let empty = |snapshot: &Arc<Snapshot>| snapshot.pipelines.is_empty();
                if snapshots.wait_for(empty).await.is_err() {
                    tracing::error!("the reconciler ended before everything was down");
                }
            }
        };
        let signal = ended_by_signal().await;
        let mut signal = signal.map_err(|source| failed("listen for signals", source))?;
        tokio::select! {
            // Cancel-safe: a signal that was not taken stays pending.
            name = signal.next() => {
                tracing::info!(signal = name, "ending; components run on");
            }
            // Cancel-safe: both waits look at the latest value.
            () = emptied => tracing::info!("everything is down; ending"),
        }
        closing.cancel();
        if let Err(error) = server.await {
            tracing::error!(%error, "the server ended with a panic");
        }
        self.close().await;
        Ok(())
    }

    /// Ends the daemon's tasks, hands what is undone to the disk, and lets go of the directory.
    pub async fn close(self) {
        self.stop.cancel();
        self.sources.close();
        for task in self.tasks {
            task.abort();
            // A task that was cancelled has nothing to say; one that panicked said it already.
            task.await.ok();
        }
        let store = self.store;
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = in_full(error), "the store did not close"),
            Err(error) => tracing::error!(%error, "the store did not close"),
        }
    }
}

fn process_config(dir: &Path) -> ProcessConfig {
    ProcessConfig {
        instances_dir: dir.join("instances"),
        logs_dir: dir.join("logs"),
    }
}

/// What the programs of an instance's exec probes find around them.
fn exec_place(instance: &InstanceId, spec: &ComponentSpec) -> Option<ExecPlace> {
    let Workload::Process(process) = &spec.workload else {
        return None;
    };
    let passed = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"];
    let mut env: BTreeMap<String, String> = passed
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
        .collect();
    let replica = instance.replica.replica;
    let own = |(name, value): (&String, &String)| {
        (name.clone(), ComponentSpec::for_replica(value, replica))
    };
    env.extend(spec.env.iter().map(own));
    Some(ExecPlace {
        env,
        working_dir: process.working_dir.clone(),
        run_as: None,
    })
}

fn open_process_driver(dir: &Path, clock: &Clock) -> Result<Arc<ProcessDriver>, DaemonError> {
    let failed = |doing, source| DaemonError::Io {
        doing,
        dir: dir.to_owned(),
        source,
    };
    let forks = ForkServer::start().map_err(|source| failed("start the fork server", source))?;
    ProcessDriver::new(forks, process_config(dir), clock.clone())
        .map(Arc::new)
        .map_err(|source| failed("open the instance directories", source))
}

/// Pipelines of a lost store, put together from what their instances carry.
async fn rebuilt(mut kept: Kept, process: &dyn Driver, recovery: &Recovery) -> Kept {
    if *recovery == Recovery::Intact {
        return kept;
    }
    let described = process.describe().await.unwrap_or_else(|error| {
        tracing::error!(%error, "what runs cannot be read; it is left alone");
        Vec::new()
    });
    for launch in described {
        let key = launch.instance.pipeline.clone();
        let record = kept
            .pipelines
            .entry(key.clone())
            .or_insert_with(|| PipelineRecord {
                spec: Arc::new(PipelineSpec {
                    key,
                    description: None,
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                    network: None,
                    components: BTreeMap::new(),
                }),
                generation: launch.generation,
                watched: launch.file.is_some(),
                file: launch.file.clone(),
                deleting: false,
            });
        record.generation = record.generation.max(launch.generation);
        Arc::make_mut(&mut record.spec)
            .components
            .entry(launch.spec.id.clone())
            .or_insert_with(|| launch.spec.as_ref().clone());
    }
    kept
}

fn watched_files(kept: &Kept) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = kept
        .pipelines
        .values()
        .filter(|record| record.watched && !record.deleting)
        .filter_map(|record| record.file.clone())
        .collect();
    files.sort();
    files.dedup();
    files
}

fn recorder(store: &Store) -> Recorder {
    let store = store.clone();
    Box::new(move |changes, durability, done| {
        let durability = match durability {
            Durability::CrashSafe => store::Durability::CrashSafe,
            Durability::PowerSafe => store::Durability::PowerSafe,
        };
        store.commit(batch(changes), durability, |result| {
            done(result.map_err(in_full))
        });
    })
}

fn batch(changes: Changes) -> Batch {
    let mut batch = Batch::new();
    for (key, record) in changes.pipelines {
        match record {
            Some(record) => batch.put_pipeline(key, record),
            None => batch.forget_pipeline(key),
        }
    }
    for ((key, replica), record) in changes.records {
        match record {
            Some(record) => batch.put_record(key, replica, record),
            None => batch.forget_record(key, replica),
        }
    }
    registrations::put(&mut batch, changes.registrations);
    registrations::put_notes(&mut batch, changes.notes);
    for event in changes.events {
        batch.push_event(event);
    }
    batch
}

/// Tells the store that everything is recorded anew, once every driver has been looked at.
async fn end_rebuilding(store: Store, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let sighted = |snapshot: &Arc<Snapshot>| {
        let mut replicas = snapshot
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.components)
            .flat_map(|component| &component.replicas);
        !replicas.any(|replica| matches!(replica.hold, Some(Hold::Blind { .. })))
    };
    if snapshots.wait_for(sighted).await.is_ok() {
        let mut batch = Batch::new();
        batch.end_rebuilding();
        store.commit(batch, store::Durability::PowerSafe, |result| {
            if let Err(error) = result {
                tracing::warn!(
                    error = in_full(error),
                    "the rebuilt state is not recorded yet"
                );
            }
        });
    }
}

/// An error with all its causes, for people.
pub(crate) fn in_full(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The signals that end a daemon.
struct Ending {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Ending {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            // Cancel-safe, both: a signal that was not taken stays pending.
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn ended_by_signal() -> io::Result<Ending> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Ending {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    })
}
