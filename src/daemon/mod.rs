//! The composition root: opens the state, builds the drivers, wires the rooms, waits for a signal.
//!
//! **Expected flow.** [`Daemon::open`] takes the state directory's lock, opens the store and the
//! drivers, and starts the reconciler: from here on everything that was running is being looked
//! after. [`Daemon::serve`] answers on the socket until a signal or `down` ends it.
//!
//! **Guarantees.** One daemon per state directory. Ending the daemon, however it happens, leaves
//! components running; only `down` ends them.

mod alone;
mod answers;
mod backend;
mod clusters;
mod control;
pub mod defect;
mod engine;
mod foreground;
mod images;
mod leftovers;
mod losses;
mod metering;
mod nomad;
mod otel;
mod overrides;
mod probing;
mod rebuilding;
mod recording;
mod registrations;
mod retention;
mod service_manager;
mod signals;
mod sources;
mod tokens;
mod voice;

pub use sources::{Reading, check};

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, socket};
use crate::clock::Clock;
use crate::control_plane::{Certificates, Connections, Containers};
use crate::driver::docker::DockerDriver;
use crate::driver::kubernetes::KubernetesDriver;
use crate::driver::logs::kept::Retention;
use crate::driver::nomad::NomadDriver;
use crate::driver::process::{self, ForkServer, ProcessConfig, ProcessDriver};
use crate::driver::{Driver, DriverError, Scope};
use crate::metrics::Metrics;
use crate::model::{DaemonStatus, DriverKind, Signal};
use crate::notify::{Notifier, NotifyHandle, OwnTargets, Source as NotifySource};
use crate::probe::Prober;
use crate::reconciler::{Core, Drivers, Kept, Reconciler, ReconcilerHandle, Refusal};
use crate::store::{self, LockError, Recovery, StateLock, Store, StoreError};

pub use alone::{Onlooker, down, look, volumes};
use backend::Backend;
pub use clusters::ClusterChoice;
use control::{Control, Seat, Token};
pub use control::{ControlError, ControlPlaneChoice};
use defect::Defects;
pub use engine::of as engine_of;
pub use engine::{CleanedUp, EngineChoice, EngineError, Privileged, Volumes};
use engine::{Contained, Containing};
pub use foreground::{AfterRun, RunEnd, RunError, RunOptions, run};
pub use otel::OtlpEndpoint;
use overrides::Overrides;
use probing::Injection;
use rebuilding::{judge_recovery, note_silence, rebuilt};
use recording::{end_rebuilding, recorder};
use service_manager::ServiceManager;
pub use signals::{Asked, Signals};
use sources::Sources;
pub use voice::{Said, Voice};

use crate::telemetry::LogFile;
use crate::usage::Meters;

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; made when it does not exist.
    pub state_dir: PathBuf,
    /// Which control plane components are told of.
    pub control_plane: ControlPlaneChoice,
    /// Where containers run.
    pub engine: EngineChoice,
    /// How long logs are kept of what is not defined any more.
    pub retention: Retention,
    /// Where scrapers are answered beside the socket; `None` = nowhere.
    pub metrics: Option<SocketAddr>,
    /// Which file says who is told of what is wrong; `None` = nobody is.
    pub notify: Option<NotifySource>,
    /// Where components are told that a collector is; `None` = nowhere.
    pub otlp: Option<OtlpEndpoint>,
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
    /// The control plane cannot be started.
    #[error("the control plane cannot be started")]
    ControlPlane(#[from] ControlError),
    /// The container engine cannot be used.
    #[error("the container engine cannot be used")]
    Engine(#[from] EngineError),
    /// Named volumes could not be removed.
    #[error("volumes cannot be removed")]
    Volumes(#[source] DriverError),
    /// What the directory owns could not be ended.
    #[error("what runs cannot be ended")]
    Down(#[source] Refusal),
    /// Something panicked, by a defect of ours; the log has told what.
    #[error("a part of it panicked")]
    Defect,
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

/// What a daemon is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To look after what it owns.
    Supervise,
    /// To end what it owns: nothing is started on the way.
    TakeDown,
}

/// A running daemon.
pub struct Daemon {
    options: Options,
    owner: ReconcilerHandle,
    store: Store,
    drivers: Drivers,
    docker: Arc<DockerDriver>,
    cluster: Arc<KubernetesDriver>,
    nomad: Arc<NomadDriver>,
    sources: Sources,
    certificates: Option<Certificates>,
    connections: Option<Connections>,
    seat: Option<Seat>,
    overrides: Overrides,
    metrics: Arc<Metrics>,
    meters: Arc<Meters>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    settings: BTreeMap<String, String>,
    notifier: Option<NotifyHandle>,
    /// Whether everybody could say what they run: else logs may be of what nobody knows of yet.
    knows_all: bool,
    lock: StateLock,
}

impl Daemon {
    /// Takes the state directory and starts to look after what it owns.
    ///
    /// # Errors
    /// When another daemon has it, or it cannot be used; nothing was changed then.
    pub async fn open(options: Options) -> Result<Self, DaemonError> {
        // Components of this user could read its variables and its keys otherwise.
        process::hide_from_peers();
        Self::open_to(Purpose::Supervise, options).await
    }

    async fn open_to(purpose: Purpose, options: Options) -> Result<Self, DaemonError> {
        let dir = options.state_dir.clone();
        let clock = Clock::new();
        let lock = take(&dir, &clock).await?;
        let (store, loaded) =
            Store::open(&dir.join("store"), clock.now()).map_err(|source| DaemonError::Store {
                dir: dir.clone(),
                source,
            })?;
        let process = open_process_driver(&dir, &clock)?;
        let gate = images::gate(&options, &clock, &loaded.settings, &store);
        let docker = engine::open(&dir, &options.engine, &clock, Arc::clone(&gate))?;
        let cluster = clusters::open(&dir, &options.engine.cluster, &clock, Arc::clone(&gate))?;

        let nomad = nomad::open(&dir, &clock, Arc::clone(&gate))?;

        let settings = loaded.settings.clone();
        let kept = Kept {
            pipelines: loaded.pipelines,
            records: loaded.records,
            registrations: registrations::kept(&loaded.settings),
            notes: registrations::notes(&loaded.settings),
            next_seq: loaded.next_seq,
        };
        let mut drivers: Drivers = BTreeMap::new();
        drivers.insert(DriverKind::Process, Arc::clone(&process) as Arc<dyn Driver>);
        let recovery = judge_recovery(loaded.recovery, &settings);
        if engine::is_asked(&kept, &recovery, &options.engine) {
            drivers.insert(DriverKind::Docker, Arc::clone(&docker) as Arc<dyn Driver>);
        }
        if clusters::is_asked(&cluster, &kept, &recovery) {
            drivers.insert(cluster.kind(), Arc::clone(&cluster) as Arc<dyn Driver>);
        }
        if nomad::is_asked(&nomad, &kept, &recovery) {
            drivers.insert(nomad.kind(), Arc::clone(&nomad) as Arc<dyn Driver>);
        }
        let (kept, silent) = rebuilt(kept, &drivers, &recovery).await;
        note_silence(&store, &silent, &settings);
        let containing = if settings.contains_key(leftovers::CONTAINERS) {
            Containing::Containers
        } else {
            engine::containing(&kept)
        };
        let pipelines = kept.pipelines.values();
        let networks = engine::networks_of(pipelines.map(|record| record.spec.as_ref()));
        drivers.insert(DriverKind::Docker, Arc::clone(&docker) as Arc<dyn Driver>);
        drivers.insert(cluster.kind(), Arc::clone(&cluster) as Arc<dyn Driver>);
        drivers.insert(nomad.kind(), Arc::clone(&nomad) as Arc<dyn Driver>);
        let told = if kept.pipelines.is_empty() && kept.registrations.is_empty() {
            control::Told::Nobody
        } else {
            control::Told::Somebody
        };
        let containers = if silent.contains(&DriverKind::Docker) {
            tokens::Containers::SomeUnknown
        } else {
            tokens::Containers::AllKnown
        };
        let choice = options.control_plane.clone();
        let control = Control::open(&dir, choice, told, process.handed(), containers)?;
        let daemon = DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: clock.now(),
            state_dir: dir.clone(),
            durable: true,
            durable_why: None,
            control_plane: control.address().map(|address| address.to_string()),
        };
        let files: Vec<PathBuf> = watched_files(&kept);
        let owners = own_targets(&kept);
        let mut core = Core::new(kept, drivers.keys().copied(), daemon, clock.now());
        if containing == Containing::Nothing {
            core.spare(DriverKind::Docker);
        }
        if !cluster.may_have_something() {
            core.spare(cluster.kind());
        }
        if !nomad.may_have_some() {
            core.spare(nomad.kind());
        }
        for kind in &silent {
            core.leave_strangers(*kind);
        }
        match purpose {
            Purpose::Supervise => core.opened("to look after what it owns"),
            Purpose::TakeDown => {
                core.opened("to take everything down");
                core.freeze("everything is being taken down");
            }
        }
        for driver in drivers.values() {
            core.cannot_enforce(driver.kind(), driver.unenforced());
            if let Some(boot) = driver.boot() {
                core.booted(driver.kind(), boot);
            }
        }
        if let ControlPlaneChoice::Own(own) = &options.control_plane {
            core.set_patience(own.patience);
        }
        if let Recovery::Rebuilt { set_aside, why } = &recovery {
            core.rebuilt(set_aside, why);
        }
        if recovery == Recovery::New {
            core.record_anew();
        }

        let (reports, answers) = mpsc::channel(1024);
        let (prober, prober_handle) = Prober::new(reports);
        let injection = Injection::default();
        let logs = process_config(&dir).logs_dir;
        let probes = probing::probes(
            prober_handle,
            answers,
            (&process, &docker, &nomad),
            &injection,
            logs,
        );
        let (reconciler, owner) = Reconciler::new(
            core,
            clock.clone(),
            drivers.clone(),
            recorder(&store),
            probes,
        );
        let [starting, looking] = [Token::New, Token::Present]
            .map(|token| control.environment(clock.clone(), owner.clone(), token))
            .map(|environment| otel::beside(environment, options.otlp.as_ref()));
        // Only this line sets it.
        injection.set(looking).ok();
        let reconciler = reconciler.with_environment(starting);
        if let Some(doors) = control.doors() {
            engine::open_doors(&docker, doors, networks);
        }
        let metrics = Arc::new(Metrics::new(
            owner.clone(),
            clock.clone(),
            process_config(&options.state_dir).logs_dir,
        ));
        let meters = Arc::new(metering::meters(&process, &docker, &clock, &owner));
        let seat = control.seat();
        let containers = Some(Arc::new(Contained(Arc::clone(&docker))) as Arc<dyn Containers>);
        let certificates = control.certificates();
        let keys = control.keys();
        let connections = control.connections();
        let stop = CancellationToken::new();
        let (clock_of_notifier, clock_of_tokens) = (clock.clone(), clock.clone());
        let mut tasks = vec![
            tokio::spawn(control.serve(owner.clone(), clock, containers, stop.clone())),
            tokio::spawn(reconciler.run(stop.clone())),
            tokio::spawn(prober.run()),
            tokio::spawn(leftovers::follow(
                Arc::downgrade(&docker),
                owner.clone(),
                store.clone(),
                containing,
            )),
            tokio::spawn(clusters::follow(Arc::downgrade(&cluster), owner.clone())),
        ];
        if recovery != Recovery::Intact && silent.is_empty() {
            tasks.push(tokio::spawn(end_rebuilding(
                store.clone(),
                owner.snapshots(),
            )));
        }
        if let Some(keys) = keys {
            let cluster = Arc::downgrade(&cluster);
            let renewing = clusters::renew(cluster, keys, owner.clone(), clock_of_tokens);
            tasks.push(tokio::spawn(renewing));
        }
        let overrides = Overrides::new(owner.clone(), store.clone(), &settings);
        tasks.push(tokio::spawn(overrides.clone().follow()));
        let watching = Sources::start(
            owner.clone(),
            store.clone(),
            &settings,
            files,
            Arc::clone(&gate),
            &stop,
        );
        let sources = watching.await.map_err(|source| DaemonError::Io {
            doing: "watch files",
            dir,
            source,
        })?;
        // A daemon that cannot see its files is of no use; the thread was started just now.
        let touches = |file: &Path| {
            let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            let touches = sources.touches(absolute);
            touches.map_err(|died| DaemonError::Io {
                doing: "watch files",
                dir: options.state_dir.clone(),
                source: io::Error::other(died),
            })
        };
        let mut notifier = None;
        if let Some(source) = options.notify.clone() {
            let touches = touches(source.path())?;
            let (telling, handle) = Notifier::new(
                clock_of_notifier,
                store.clone(),
                owner.clone(),
                &settings,
                source,
                owners,
            );
            tasks.push(tokio::spawn(telling.run(touches, stop.clone())));
            notifier = Some(handle);
        }
        if let Some(file) = options.engine.image_policy.clone() {
            let touches = touches(&file)?;
            let following = images::follow(gate, file, touches, owner.clone());
            let stop = stop.clone();
            let following = async move {
                // Cancel-safe: what it finds is found again.
                stop.run_until_cancelled(following).await;
            };
            tasks.push(tokio::spawn(following));
        }
        Ok(Self {
            options,
            owner,
            store,
            drivers,
            docker,
            cluster,
            nomad,
            sources,
            certificates,
            connections,
            seat,
            overrides,
            metrics,
            meters,
            stop,
            tasks,
            settings,
            notifier,
            knows_all: silent.is_empty(),
            lock,
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
    /// When the socket cannot be bound; [`DaemonError::Ended`] when a defect ended the owner of the
    /// state, since a daemon that answers with what once was would lie.
    pub async fn serve(
        mut self,
        signals: &mut Signals,
        log: &LogFile,
        defects: &mut Defects,
        ready: impl FnOnce(),
    ) -> Result<Ended, DaemonError> {
        let answering = self.answer()?;
        self.take_over_from_run();
        if self.knows_all {
            let logs = process_config(&self.options.state_dir).logs_dir;
            let (owner, retention) = (self.owner.clone(), self.options.retention);
            let losing = losses::follow(logs.clone(), self.owner.clone(), Clock::new());
            self.tasks.push(tokio::spawn(losing));
            let sweeping = retention::follow(logs, owner, Clock::new(), retention);
            self.tasks.push(tokio::spawn(sweeping));
        }
        if let Some(address) = self.options.metrics {
            let serving = metering::serve(address, Arc::new(self.backend()), self.stop.clone());
            self.tasks.push(tokio::spawn(serving));
        }
        let manager = ServiceManager::of_this_process().map(Arc::new);
        if let Some(manager) = manager.clone() {
            let owner = self.owner.clone();
            self.tasks
                .push(tokio::spawn(async move { manager.follow(owner).await }));
        }
        ready();
        let mut outcome = Ok(Ended::ForGood);
        let mut why = DOWN.to_owned();
        tokio::select! {
            // Cancel-safe: a signal that was not taken stays pending.
            told = self.until_told(signals, log) => match told {
                Some(signal) => {
                    why = signal.to_string();
                    tracing::info!(%signal, "ending; components run on");
                }
                None => {
                    why = "it begins again as the program that is installed".to_owned();
                    tracing::info!("beginning again as the program that is installed");
                    outcome = Ok(Ended::ToBeginAgain);
                }
            },
            // Cancel-safe: what is under way is begun again by the next program.
            () = defects.outlived() => {
                why = "a part of it has panicked".to_owned();
                outcome = Err(DaemonError::Defect);
            }
            // Cancel-safe: it only waits for what stays decided.
            () = self.owner.downed() => {
                tokio::select! {
                    // What it had not removed yet is removed by the next daemon.
                    () = self.swept() => {}
                    // Cancel-safe: a signal that was not taken stays pending.
                    _ = signals.end() => {}
                }
                tracing::info!("everything is down; ending");
            }
            // Cancel-safe: it only waits.
            () = self.owner.ended() => outcome = Err(DaemonError::Ended),
        }
        let is_over = !matches!(outcome, Ok(Ended::ToBeginAgain));
        if let Some(manager) = manager.as_ref().filter(|_| is_over) {
            manager.stopping(&why);
        }
        // Whoever finds no socket from here on waits for the lock rather than give up.
        self.lock.say(ENDING);
        let ending = async {
            answering.end().await;
            self.close(&why).await;
        };
        tokio::select! {
            () = ending => {}
            // Not cancel-safe, and need not be: what is not on the disk is as after a kill. A disk
            // that hangs, and a signal of somebody who insists, must not keep it from ending.
            () = tokio::time::sleep(FAREWELL) => tracing::warn!("ended before all was written"),
            signal = signals.end() => tracing::warn!(%signal, "ended before all was written"),
        }
        outcome
    }

    /// Does what signals ask for until one says to end, or (`None`) to begin again.
    async fn until_told(&self, signals: &mut Signals, log: &LogFile) -> Option<Signal> {
        loop {
            match signals.asked().await {
                signals::Asked::End(signal) => return Some(signal),
                signals::Asked::BeginAgain => return None,
                signals::Asked::LookAgain => {
                    tracing::info!("looking again at every file and certificate");
                    self.sources.look_again();
                    if let Some(certificates) = &self.certificates {
                        certificates.read_again();
                    }
                }
                signals::Asked::LogAnew => log.begin_anew(),
            }
        }
    }

    /// Begins to answer on the state directory's socket.
    fn answer(&self) -> Result<Answering, DaemonError> {
        let listener = socket::bind(&self.options.state_dir)
            .map_err(|source| self.failed("bind the socket", source))?;
        let backend = self.backend();
        let closing = CancellationToken::new();
        let server = api::server::serve(listener, Arc::new(backend), closing.clone());
        let server = tokio::spawn(server);
        Ok(Answering { server, closing })
    }

    fn backend(&self) -> Backend {
        Backend {
            owner: self.owner.clone(),
            store: self.store.clone(),
            drivers: self.drivers.clone(),
            docker: Arc::clone(&self.docker),
            cluster: Arc::clone(&self.cluster),
            nomad: Arc::clone(&self.nomad),
            sources: self.sources.clone(),
            logs: process_config(&self.options.state_dir).logs_dir,
            seat: self.seat.clone(),
            overrides: self.overrides.clone(),
            metrics: Arc::clone(&self.metrics),
            meters: Arc::clone(&self.meters),
            connections: self.connections.clone(),
            notifier: self.notifier.clone(),
        }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> DaemonError {
        DaemonError::Io {
            doing,
            dir: self.options.state_dir.clone(),
            source,
        }
    }

    /// Removes what is left of ended instances. What is left after a while is removed by the next
    /// daemon.
    async fn swept(&self) {
        let drivers = self.drivers.values();
        let all = futures_util::future::join_all(drivers.map(|driver| clear(driver.as_ref())));
        if tokio::time::timeout(SWEEP_PATIENCE, all).await.is_err() {
            tracing::warn!("ended instances have left something; the next daemon removes it");
        }
        leftovers::tidy(&self.docker, &self.store).await;
        clusters::clear(&self.cluster).await;
    }

    /// Records that the daemon ends and what made it, ends its tasks, hands what is undone to the
    /// disk, and lets go of the directory.
    pub async fn close(self, why: &str) {
        match tokio::time::timeout(LAST_WORD, self.owner.leave(why)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "its end is not among the events"),
            Err(_) => tracing::warn!("the disk does not answer; its end is not among the events"),
        }
        self.stop.cancel();
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

/// How a daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody wants one.
    ForGood,
    /// The program that is installed is to go on in its place.
    ToBeginAgain,
}

/// Listens for signals, for a daemon of `state_dir`.
///
/// # Errors
/// When the host lets nobody listen.
pub fn listen(state_dir: &Path) -> Result<Signals, DaemonError> {
    Signals::of_daemon().map_err(|source| DaemonError::Io {
        doing: "listen for signals",
        dir: state_dir.to_owned(),
        source,
    })
}

/// How long the end of a daemon may take whose disk hangs.
const FAREWELL: Duration = Duration::from_secs(10);
/// What made a daemon end that nobody sent a signal.
const DOWN: &str = "everything is down";
/// How long a disk may take to record that.
const LAST_WORD: Duration = Duration::from_secs(2);
/// What the holder of a lock that only looks says of itself.
const LOOKING: &str = "looking";
/// What the holder of a lock says of itself that lets go of it as soon as it can.
const ENDING: &str = "ending";
/// How long somebody who looks or ends may keep a daemon from starting.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
/// How long what ended instances leave behind may take to go: longer than the last lines of a
/// container are waited for.
const SWEEP_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at it.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// So many times is a driver asked that does not answer. Most hosts have no engine.
const SWEEP_LOOKS: u32 = 3;
/// One that takes longer than this to fail hangs, and is asked no more.
const SWEEP_HANGS: Duration = Duration::from_secs(1);

/// Has a driver forget all that it has, until that is nothing. The owner of the state has asked for
/// it once already, and does not ask again for what no pipeline names.
async fn clear(driver: &dyn Driver) {
    let mut unanswered = 0;
    while unanswered < SWEEP_LOOKS {
        let asked = tokio::time::Instant::now();
        match driver.observe(&Scope::All).await {
            Ok(look) if look.is_empty() => return,
            Ok(look) => {
                let forgetting = look.sightings.iter().map(|sighting| async {
                    if let Err(error) = driver.forget(&sighting.instance).await {
                        let instance = &sighting.instance;
                        tracing::debug!(%instance, %error, "it is forgotten later");
                    }
                });
                futures_util::future::join_all(forgetting).await;
            }
            Err(error) => {
                unanswered += 1;
                tracing::debug!(driver = %driver.kind(), %error, "what is left is not known");
                if asked.elapsed() > SWEEP_HANGS {
                    return;
                }
            }
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}

/// Takes the directory; waits for those who only look at it or are about to leave it.
async fn take(dir: &Path, clock: &Clock) -> Result<StateLock, LockError> {
    let deadline = tokio::time::Instant::now() + LOOK_PATIENCE;
    loop {
        match store::lock(dir, &format!("since {}", clock.now())) {
            // A holder that ended is named until the next one has written its own name.
            Err(LockError::Held { about, pid, .. })
                if (about == LOOKING || about == ENDING || pid.is_none_or(is_gone))
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answer => return answer,
        }
    }
}

/// Whether a process has ended, or is about to: one that was killed holds its locks until its last
/// thread is gone, which takes a while on a busy host.
fn is_gone(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // Behind the name, which may hold anything.
    let state = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.as_bytes().first());
    matches!(state, Some(Some(b'Z' | b'X')))
}

fn process_config(dir: &Path) -> ProcessConfig {
    ProcessConfig {
        instances_dir: dir.join("instances"),
        logs_dir: dir.join("logs"),
        handed: tokens::handed(dir),
    }
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
        .map_err(|source| failed("make the folder of instances", source))
}

/// Who is told of each pipeline by its own file.
fn own_targets(kept: &Kept) -> OwnTargets {
    let wanted = kept.pipelines.iter().filter(|(_, one)| !one.deleting);
    wanted
        .map(|(key, one)| (key.clone(), (one.generation, one.spec.notify.clone())))
        .collect()
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

/// The server while it answers.
struct Answering {
    server: JoinHandle<()>,
    closing: CancellationToken,
}

impl Answering {
    async fn end(self) {
        self.closing.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the server ended with a panic");
        }
    }
}
