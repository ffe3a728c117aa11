//! `flowctl run`: one pipeline in the foreground, with nothing left behind.
//!
//! It is a daemon that applies one file, tells what happens, and takes everything down before it
//! ends. A setting in its store says so: should it be killed, the next run knows that what it finds
//! is nobody's, and ends it first.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, Backend as _, ErrorCode, Loaded, SourceInput, Watching, WhenUnready};
use crate::driver::logs::kept::Retention;
use crate::driver::{Follow, LogQuery, Runs};
use crate::manifest::{Severity, Taken};
use crate::model::{
    ComponentId, DriverKind, Event, EventKind, HumanDuration, InstanceId, PhaseName, PipelineKey,
    Signal, Snapshot, StopPolicy,
};
use crate::reconciler::Refusal;
use crate::store::{self, Batch};

use super::backend;
use super::{
    ControlPlaneChoice, Daemon, DaemonError, Defects, EngineChoice, FAREWELL, Options, Reading,
    Signals, Voice, check, control::Seat,
};

/// The setting by which a directory belongs to a run rather than to a daemon.
const OWNER: &str = "owner";
/// See [`OWNER`].
const RUN: &str = "run";
/// How long the last lines of components wait for a reader that is slow or paused. Those of a reader
/// that is neither take half a second at most.
const LAST_LINES: Duration = Duration::from_secs(5);
/// Between two kills of what did not die: an engine that comes back is not made to wait.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where state is kept while it runs.
    pub state_dir: PathBuf,
    /// Where the manifest is.
    pub sources: Vec<SourceInput>,
    /// How it is read.
    pub reading: Reading,
    /// How long the start of everything may take; zero = without end.
    pub timeout: HumanDuration,
    /// What to do when the preflight finds problems.
    pub when_unready: WhenUnready,
    /// Which control plane components are told of.
    pub control_plane: ControlPlaneChoice,
    /// Where containers run.
    pub engine: EngineChoice,
    /// Whether logs stay when it ends.
    pub logs: AfterRun,
}

/// What becomes of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRun {
    /// They stay in the state directory.
    Keep,
    /// They go.
    Remove,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Somebody asked for it: everything was stopped in order.
    Stopped,
    /// Every component had completed.
    Completed,
    /// A component failed to start, or for good; one line each.
    Failed(Vec<String>),
    /// Not everything was ready in time; one line for each that was not.
    TimedOut(Vec<String>),
    /// A second signal: everything was killed.
    Killed,
    /// A third signal, or one while the leftovers of another run were ended: before everything was
    /// dead. One line for each that may run on. The next run ends it.
    LeftBehind(Vec<String>),
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifest, or what it needs, is not in order.
    #[error(transparent)]
    Manifest(#[from] ApiError),
    /// The daemon's part failed.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// It could not be recorded.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The directory holds the pipelines of a daemon.
    #[error("{} holds pipelines of a daemon ({pipelines})", state_dir.display())]
    NotOurs {
        /// The directory.
        state_dir: PathBuf,
        /// Their names.
        pipelines: String,
    },
}

/// Runs the file until it is told to end, has ended, or failed. Whatever the end, nothing of it
/// runs afterwards, except for what [`RunEnd::LeftBehind`] names.
///
/// # Errors
/// When nothing was run; [`DaemonError::Defect`] when a part of this program panicked: what was begun
/// is then left to the next run.
pub async fn run(
    options: RunOptions,
    voice: Voice,
    defects: &mut Defects,
) -> Result<RunEnd, RunError> {
    let checked = check(&options.sources, Watching::Yes, &options.reading)?;
    check_policy(&options)?;
    let logs = options.state_dir.join("logs");
    // Logs that somebody else left there are not this run's to remove.
    let had_logs = logs.exists();
    let daemon = Daemon::open(Options {
        state_dir: options.state_dir.clone(),
        control_plane: options.control_plane.clone(),
        engine: options.engine.clone(),
        retention: Retention::default(),
        metrics: None,
        otlp: None,
        notify: None,
    })
    .await?;
    let ended = supervise(&daemon, &options, checked, voice, defects).await;
    let is_over = daemon.owner.snapshots().borrow().pipelines.is_empty();
    // By the mark the next run knows that it may end what is left.
    let release = if is_over {
        daemon.set_owner(None).await
    } else {
        Ok(())
    };
    // Not cancel-safe, and need not be: what is not on the disk is as after a kill.
    let closed = tokio::time::timeout(FAREWELL, daemon.close("the run is over"));
    if closed.await.is_err() {
        tracing::warn!("ended before all was written");
    }
    let ended = ended?;
    release?;
    if options.logs == AfterRun::Remove && !had_logs && is_over {
        match std::fs::remove_dir_all(&logs) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %logs.display(), "logs are left over"),
        }
    }
    Ok(ended)
}

/// Somebody is there to mend a policy that cannot be read.
fn check_policy(options: &RunOptions) -> Result<(), ApiError> {
    let Some(file) = &options.engine.image_policy else {
        return Ok(());
    };
    crate::images::load(file).map(drop).map_err(|problems| {
        let rendered = problems.render(options.reading.colour);
        ApiError::manifest(rendered, problems.rows(Severity::Error, Some(file)))
    })
}

async fn supervise(
    daemon: &Daemon,
    options: &RunOptions,
    checked: crate::api::Checked,
    voice: Voice,
    defects: &mut Defects,
) -> Result<RunEnd, RunError> {
    let signals = Signals::of_run();
    let mut signals = signals.map_err(|source| daemon.failed("listen for signals", source))?;
    if let ControlFlow::Break(end) = clear_leftovers(daemon, options, &voice, &mut signals).await? {
        return Ok(end);
    }
    let answering = daemon.answer()?;
    let mut logs = Logs::default();
    let ended = tokio::select! {
        ended = begin(daemon, options, checked, &voice, &mut signals, &mut logs) => ended,
        // Not cancel-safe, and need not be: the next run ends what was begun.
        () = defects.outlived() => Err(DaemonError::Defect.into()),
    };
    if let Err(RunError::Daemon(DaemonError::Defect)) = ended {
        answering.end().await;
        return ended;
    }
    if daemon.owner.has_ended() {
        // Nobody is left to take anything down. A signal meanwhile is for the run that is no more.
        return tokio::select! {
            () = defects.outlived() => Err(DaemonError::Defect.into()),
            // Cancel-safe: it only waits.
            _ = signals.end() => Ok(RunEnd::LeftBehind(left(&daemon.owner.snapshots().borrow()))),
        };
    }
    // However it went, nothing stays.
    let stopped = take_down(daemon, &voice, &mut signals).await;
    if !matches!(stopped, RunEnd::LeftBehind(_)) {
        // All that was written is in its file by now.
        logs.end(&mut signals).await;
    }
    answering.end().await;
    match (ended?, stopped) {
        (_, end @ (RunEnd::Killed | RunEnd::LeftBehind(_))) => Ok(end),
        (ended, RunEnd::Stopped | RunEnd::Completed | RunEnd::Failed(_) | RunEnd::TimedOut(_)) => {
            if matches!(ended, RunEnd::Completed) {
                voice.say("Every component has completed");
            }
            if matches!(ended, RunEnd::Stopped | RunEnd::Completed) {
                voice.say("Pipeline stopped successfully");
            }
            Ok(ended)
        }
    }
}

/// Ends what a run left behind that was killed. A signal meanwhile ends the run before it began.
async fn clear_leftovers(
    daemon: &Daemon,
    options: &RunOptions,
    voice: &Voice,
    signals: &mut Signals,
) -> Result<ControlFlow<RunEnd>, RunError> {
    let names: Vec<String> = names(&daemon.owner.snapshots().borrow());
    if names.is_empty() {
        daemon.set_owner(Some(RUN)).await?;
        return Ok(ControlFlow::Continue(()));
    }
    if daemon.settings.get(OWNER).is_none_or(|owner| owner != RUN) {
        let state_dir = options.state_dir.clone();
        return Err(RunError::NotOurs {
            state_dir,
            pipelines: names.join(", "),
        });
    }
    voice.say(&format!(
        "Ending what an earlier run left behind: {}",
        names.join(", ")
    ));
    daemon.owner.down().await?;
    let mut snapshots = daemon.owner.snapshots();
    let emptied = snapshots.wait_for(|snapshot| snapshot.pipelines.is_empty());
    tokio::select! {
        // Cancel-safe: only the latest snapshot counts.
        emptied = emptied => match emptied {
            Ok(_) => Ok(ControlFlow::Continue(())),
            Err(_) => Err(DaemonError::Ended.into()),
        },
        // Cancel-safe: a signal that was not taken stays pending. It kills nothing: whoever left
        // these did not ask for that, and the next run goes on with their end.
        _ = signals.end() => {
            let left = left(&daemon.owner.snapshots().borrow());
            Ok(ControlFlow::Break(RunEnd::LeftBehind(left)))
        }
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .pipelines
        .iter()
        .map(|pipeline| pipeline.name.to_string())
        .collect()
}

/// Applies the file and goes along until something ends it.
async fn begin(
    daemon: &Daemon,
    options: &RunOptions,
    checked: crate::api::Checked,
    voice: &Voice,
    signals: &mut Signals,
    logs: &mut Logs,
) -> Result<RunEnd, RunError> {
    if !checked.remarks.rendered.is_empty() {
        voice.say(checked.remarks.rendered.trim_end());
    }
    let obstacles = daemon.backend().preflight(&checked.loaded).await;
    if !obstacles.is_empty() && options.when_unready == WhenUnready::Refuse {
        let lines: Vec<&str> = obstacles
            .iter()
            .map(|problem| problem.message.as_str())
            .collect();
        return Err(ApiError::new(ErrorCode::Refused, lines.join("\n"))
            .with_hint("mend it, or go on with --force")
            .into());
    }
    if let Some(address) = daemon.seat.as_ref().and_then(Seat::displaced) {
        voice.say(&format!("The control plane is at {address}"));
    }
    for remark in backend::remarks(&checked.loaded, None).await {
        voice.say(&format!("warning: {}", remark.message));
    }
    let mut events = daemon.owner.events();
    let mut keys = Vec::new();
    let taken: Vec<Taken> = checked.loaded.iter().filter_map(Loaded::taken).collect();
    for loaded in checked.loaded {
        for spec in &loaded.pipelines {
            voice.say(&format!("Starting pipeline: {}", spec.key));
            keys.push(spec.key.clone());
        }
        daemon.owner.apply(loaded.pipelines, loaded.source).await?;
    }
    let given = options.reading.given();
    for source in &options.sources {
        match source {
            SourceInput::File(file) => {
                let (file, given) = (file.clone(), given.clone());
                daemon.sources.begin(file, given, &taken).await;
            }
            // It was read, and cannot be read again.
            SourceInput::Text { .. } => {}
        }
    }
    if !obstacles.is_empty() {
        daemon.overrides.add(keys.clone());
    }
    for key in keys {
        logs.show(daemon, key, voice.clone());
    }
    let mut snapshots = daemon.owner.snapshots();
    let mut started = BTreeSet::new();
    let deadline = options.timeout.get();
    let late = async {
        if deadline.is_zero() {
            std::future::pending().await
        } else {
            tokio::time::sleep(deadline).await
        }
    };
    tokio::pin!(late);
    let mut up = false;
    loop {
        tokio::select! {
            // Events first: a snapshot is newer than the events that led to it.
            biased;
            // Cancel-safe: a signal that was not taken stays pending.
            _ = signals.end() => {
                voice.say("Received shutdown signal");
                return Ok(RunEnd::Stopped);
            }
            // Cancel-safe: it only waits for what stays decided. Somebody asked for a `down`.
            () = daemon.owner.downed() => return Ok(RunEnd::Stopped),
            // Cancel-safe: the deadline is kept outside of the loop.
            () = &mut late, if !up => {
                return Ok(RunEnd::TimedOut(unready(&snapshots.borrow())));
            }
            // Cancel-safe: receiving takes nothing out unless it wins.
            event = events.recv() => match event {
                Ok(event) => if let Some(failed) = tell(&event, &mut started, voice) {
                    return Ok(RunEnd::Failed(vec![failed]));
                },
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(DaemonError::Ended.into()),
            },
            // Cancel-safe: only the latest snapshot counts.
            changed = snapshots.changed() => if changed.is_err() {
                return Err(DaemonError::Ended.into());
            },
        }
        let snapshot = Arc::clone(&snapshots.borrow());
        // The events that led to a snapshot are sent before it: they are told before it is judged.
        while let Ok(event) = events.try_recv() {
            if let Some(failed) = tell(&event, &mut started, voice) {
                return Ok(RunEnd::Failed(vec![failed]));
            }
        }
        let failed = in_phase(&snapshot, PhaseName::Failed);
        if !failed.is_empty() {
            return Ok(RunEnd::Failed(failed));
        }
        let settled = !snapshot.pipelines.is_empty()
            && snapshot.pipelines.iter().all(|pipeline| pipeline.settled);
        if settled && !up {
            up = true;
            voice.say("Pipeline started successfully");
        }
        if settled && all_completed(&snapshot) {
            return Ok(RunEnd::Completed);
        }
    }
}

/// Tells what an event means to the person who runs it. Answers what failed to start.
fn tell(event: &Event, started: &mut BTreeSet<ComponentId>, voice: &Voice) -> Option<String> {
    let component = event.component.as_ref()?;
    match event.kind {
        EventKind::Starting => voice.say(&format!("Starting component: {component}")),
        EventKind::Ready => {
            started.insert(component.clone());
            voice.say(&format!("Component {component} health check passed"));
        }
        EventKind::Completed => {
            started.insert(component.clone());
            voice.say(&format!("Component {component} completed"));
        }
        EventKind::Preparing
        | EventKind::Unready
        | EventKind::Recovered
        | EventKind::Silent
        | EventKind::Stalled => voice.say(&event.message),
        // One that ends before it was ever ready has failed to start; later ends are restarted.
        EventKind::Exited | EventKind::StartFailed if !started.contains(component) => {
            if event.reason != "exit 0" {
                return Some(format!("{component} failed to start: {}", event.reason));
            }
        }
        // So far nothing is known to have failed, or the run would be over.
        EventKind::Backoff if !started.contains(component) => voice.say(&event.message),
        EventKind::Exited | EventKind::StartFailed | EventKind::Crashloop => {
            voice.say(&event.message);
        }
        EventKind::Applied
        | EventKind::Deleted
        | EventKind::Rejected
        | EventKind::Started
        | EventKind::Stopping
        | EventKind::Stopped
        | EventKind::StopFailed
        | EventKind::Backoff
        | EventKind::Failed
        | EventKind::Waiting
        | EventKind::Adopted
        | EventKind::Blind
        | EventKind::Sighted
        | EventKind::NotDurable
        | EventKind::Durable
        | EventKind::Rebuilt
        | EventKind::DaemonStarted
        | EventKind::DaemonStopping
        | EventKind::Requested
        | EventKind::Registered
        | EventKind::Heard
        | EventKind::Advanced => {}
    }
    None
}

/// How everything is taken down.
enum Haste {
    /// In order, each component with its grace.
    Orderly,
    /// All at once, without any.
    Killing,
}

/// Stops everything in order; a signal meanwhile kills everything at once, and one more leaves what
/// cannot be killed, as when its engine is away.
async fn take_down(daemon: &Daemon, voice: &Voice, signals: &mut Signals) -> RunEnd {
    let mut events = daemon.owner.events();
    let mut snapshots = daemon.owner.snapshots();
    if let Err(error) = daemon.owner.down().await {
        tracing::error!(%error, "the end is not recorded; it is carried out all the same");
    }
    let mut haste = Haste::Orderly;
    let kills = kill_all(daemon);
    tokio::pin!(kills);
    loop {
        let is_empty = snapshots.borrow_and_update().pipelines.is_empty();
        // The events that led to a snapshot are sent before it.
        while let Ok(event) = events.try_recv() {
            tell_of_stop(&event, voice);
        }
        if is_empty {
            tokio::select! {
                // Nothing runs any more: what is not swept is removed by the next daemon.
                () = daemon.swept() => {}
                // Cancel-safe: a signal that was not taken stays pending.
                _ = signals.again() => {}
                // A kill that nobody polls would keep its turn at the driver, and so the sweep.
                never = &mut kills, if matches!(haste, Haste::Killing) => match never {},
            }
            return match haste {
                Haste::Orderly => RunEnd::Stopped,
                Haste::Killing => RunEnd::Killed,
            };
        }
        tokio::select! {
            // Cancel-safe: a signal that was not taken stays pending.
            _ = signals.again() => match haste {
                Haste::Orderly => {
                    haste = Haste::Killing;
                    voice.say("Killing everything");
                }
                Haste::Killing => return RunEnd::LeftBehind(left(&snapshots.borrow())),
            },
            // Cancel-safe: it is kept outside of the loop.
            never = &mut kills, if matches!(haste, Haste::Killing) => match never {},
            // Cancel-safe: receiving takes nothing out unless it wins.
            event = events.recv() => if let Ok(event) = event {
                tell_of_stop(&event, voice);
            },
            // Cancel-safe: only the latest snapshot counts.
            changed = snapshots.changed() => if changed.is_err() {
                return RunEnd::Killed;
            },
        }
    }
}

fn tell_of_stop(event: &Event, voice: &Voice) {
    if let (EventKind::Stopping, Some(component)) = (event.kind, &event.component) {
        voice.say(&format!("Stopping component: {component}"));
    }
}

/// Kills what lives, without grace and without order, and again what lives on: it may have been
/// started meanwhile, and its engine may have been away. Whoever asks knows when it is enough.
async fn kill_all(daemon: &Daemon) -> Infallible {
    let how = &StopPolicy {
        signal: Some(Signal::KILL),
        grace_period: HumanDuration::from_secs(0),
        ..StopPolicy::default()
    };
    let snapshots = daemon.owner.snapshots();
    let mut told = BTreeSet::new();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow());
        let kills = living(&snapshot).filter_map(|(kind, instance)| {
            let driver = daemon.drivers.get(&kind)?;
            Some(async move { (instance, driver.stop(instance, how).await) })
        });
        for (instance, killed) in join_all(kills).await {
            if let Err(error) = killed
                && told.insert(instance.clone())
            {
                tracing::error!(%instance, %error, "it could not be killed; it is tried again");
            }
        }
        tokio::time::sleep(KILL_AGAIN).await;
    }
}

fn living(snapshot: &Snapshot) -> impl Iterator<Item = (DriverKind, &InstanceId)> {
    let components = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.components);
    components.flat_map(|component| {
        let instances = component
            .replicas
            .iter()
            .filter_map(|r| r.instance.as_ref());
        instances.map(|instance| (component.driver, instance))
    })
}

/// What components write, shown as it comes.
#[derive(Default)]
struct Logs {
    /// Cancelled once nothing is written any more.
    over: CancellationToken,
    shown: JoinSet<()>,
}

impl Logs {
    /// Tells the lines of a pipeline that are written from this run's beginning on.
    fn show(&mut self, daemon: &Daemon, pipeline: PipelineKey, voice: Voice) {
        let drivers = daemon.drivers.clone();
        let since = daemon
            .owner
            .snapshots()
            .borrow()
            .daemon
            .as_ref()
            .map(|daemon| daemon.started_at);
        let query = LogQuery {
            pipeline,
            components: BTreeSet::new(),
            without: BTreeSet::new(),
            since,
            until: None,
            tail: None,
            filter: None,
            runs: Runs::All,
            follow: Follow::Until(self.over.clone()),
        };
        self.shown.spawn(async move {
            // The files of all drivers lie in one folder, so each of them reads all.
            let reader = drivers
                .values()
                .next()
                .expect("there is a driver of processes");
            let mut lines = match reader.logs(&query).await {
                Ok(lines) => lines,
                Err(error) => {
                    tracing::warn!(%error, "logs cannot be followed");
                    return;
                }
            };
            while let Some(Ok(line)) = lines.recv().await {
                if voice.pass_on(line).await.is_err() {
                    break;
                }
            }
        });
    }

    /// Shows what is written by now, as long as a reader takes it and nobody asks to end.
    async fn end(mut self, signals: &mut Signals) {
        self.over.cancel();
        tokio::select! {
            // Not cancel-safe, and need not be: what is not shown by then stays untold.
            () = async { while self.shown.join_next().await.is_some() {} } => {}
            _ = signals.again() => {}
            () = tokio::time::sleep(LAST_LINES) => {}
        }
    }
}

/// What runs, or may.
fn left(snapshot: &Snapshot) -> Vec<String> {
    lines(snapshot, PhaseName::lives)
}

fn in_phase(snapshot: &Snapshot, phase: PhaseName) -> Vec<String> {
    lines(snapshot, |found| found == phase)
}

fn unready(snapshot: &Snapshot) -> Vec<String> {
    lines(snapshot, |phase| {
        phase != PhaseName::Running && phase != PhaseName::Completed
    })
}

fn lines(snapshot: &Snapshot, wanted: impl Fn(PhaseName) -> bool) -> Vec<String> {
    let components = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.components);
    components
        .flat_map(|component| {
            component
                .replicas
                .iter()
                .map(move |replica| (component, replica))
        })
        .filter(|(_, replica)| wanted(replica.phase))
        .map(|(component, replica)| {
            format!("{}: {} ({})", component.id, replica.phase, replica.why)
        })
        .collect()
}

fn all_completed(snapshot: &Snapshot) -> bool {
    let components = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.components);
    let mut replicas = components.flat_map(|component| &component.replicas);
    replicas.all(|replica| replica.phase == PhaseName::Completed)
}

impl Daemon {
    /// Makes what a run left behind this daemon's own: no later run may end it.
    pub(super) fn take_over_from_run(&self) {
        if !self.settings.contains_key(OWNER) {
            return;
        }
        let mut batch = Batch::new();
        batch.forget_setting(OWNER);
        self.store
            .commit(batch, store::Durability::PowerSafe, |result| {
                if let Err(error) = result {
                    tracing::warn!(%error, "the next run may take this daemon's pipelines for its own");
                }
            });
    }

    /// Says in the store whose the directory is.
    async fn set_owner(&self, owner: Option<&str>) -> Result<(), DaemonError> {
        let mut batch = Batch::new();
        match owner {
            Some(owner) => batch.put_setting(OWNER, owner),
            None => batch.forget_setting(OWNER),
        }
        let (done, recorded) = tokio::sync::oneshot::channel();
        self.store
            .commit(batch, store::Durability::PowerSafe, move |result| {
                if done.send(result).is_err() {
                    tracing::debug!("the run ended before its mark was recorded");
                }
            });
        let dir = self.options.state_dir.clone();
        match recorded.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(DaemonError::Store { dir, source }),
            Err(_) => Err(DaemonError::Ended),
        }
    }
}
