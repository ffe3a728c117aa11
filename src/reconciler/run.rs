//! The owner's task: waits, hands inputs to the [`Core`], carries its turns out.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::driver::{Driver, DriverError, Launch, Scope};
use crate::failpoint;
use crate::model::{ComponentSpec, DriverKind, Event, InstanceId, Snapshot};
use crate::probe::{LastLine, Observer, ProberHandle, Report, Target, Tell, Watched};

use super::commands;
use super::core::{Commit, Core, Input, Turn};
use super::handle::{Command, ReconcilerHandle};
use super::ledger::{Changes, Durability, Effect, Ending};
use super::probing::Probing;
use super::registry::{Beats, Directory};
use super::vitals::{Action, Success, Vitals};

/// The drivers of this daemon.
pub type Drivers = BTreeMap<DriverKind, Arc<dyn Driver>>;

/// Records changes; answers on the channel, in order.
pub type Recorder =
    Box<dyn Fn(Changes, Durability, Box<dyn FnOnce(Result<(), String>) + Send>) + Send>;

/// Where the probes of an instance ask.
pub type TargetOf = Box<dyn Fn(&InstanceId, &ComponentSpec) -> Target + Send>;

/// What is added to an instance's environment as it starts. Called off the owner's task.
pub type Environment = Arc<dyn Fn(&Launch) -> BTreeMap<String, String> + Send + Sync>;

/// How probes are asked.
pub struct Probes {
    /// Told what to ask.
    pub prober: ProberHandle,
    /// Says what came back.
    pub reports: mpsc::Receiver<Report>,
    /// Where the probes of an instance ask.
    pub target: TargetOf,
    /// When an instance last wrote something.
    pub last_line: LastLine,
}

/// Commands that may wait for the owner.
const COMMANDS: usize = 1024;
/// Events that a slow reader may be behind.
const EVENTS: usize = 1024;
/// From so many unanswered driver calls on, answers are gathered before the next plan: each plan
/// looks at every replica, and the answers of a crowd come one after the other.
const CROWD: usize = 16;
/// How long they are gathered. Of what a person waits for, that is nothing.
const GATHER: Duration = Duration::from_millis(3);

/// The owner's task.
pub struct Reconciler {
    core: Core,
    clock: Clock,
    drivers: Drivers,
    recorder: Recorder,
    commands: mpsc::Receiver<Command>,
    inputs: mpsc::UnboundedReceiver<Input>,
    probes: Probes,
    answers: mpsc::UnboundedSender<Input>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: broadcast::Sender<Arc<Event>>,
    directories: watch::Sender<Arc<Directory>>,
    beats: Beats,
    vitals: Vitals,
    observer: Observer,
    ending: CancellationToken,
    environment: Option<Environment>,
    /// Starts under way, each with how it is told that nobody wants it any more.
    starts: HashMap<InstanceId, CancellationToken>,
}

impl Reconciler {
    /// An owner and the way to it.
    pub fn new(
        mut core: Core,
        clock: Clock,
        drivers: Drivers,
        recorder: Recorder,
        probes: Probes,
    ) -> (Self, ReconcilerHandle) {
        let (command, commands) = mpsc::channel(COMMANDS);
        // Unbounded, and still bounded: one answer per effect under way, one hint per driver.
        let (answers, inputs) = mpsc::unbounded_channel();
        let (snapshots, snapshot) = watch::channel(Arc::new(core.snapshot()));
        let (events, _) = broadcast::channel(EVENTS);
        let (directories, directory) = watch::channel(core.directory());
        let beats = Beats::default();
        let vitals = Vitals::default();
        let ending = CancellationToken::new();
        let handle = ReconcilerHandle {
            commands: command,
            snapshots: snapshot,
            events: events.clone(),
            directories: directory,
            beats: beats.clone(),
            vitals: vitals.clone(),
            ending: ending.clone(),
        };
        let shown = answers.clone();
        let tell: Tell = Arc::new(move |instance, what| send(&shown, Input::Shown(instance, what)));
        let observer = Observer::new(Arc::clone(&probes.last_line), tell);
        let reconciler = Self {
            core,
            clock,
            drivers,
            recorder,
            commands,
            inputs,
            probes,
            answers,
            snapshots,
            events,
            directories,
            beats,
            vitals,
            observer,
            ending,
            environment: None,
            starts: HashMap::new(),
        };
        (reconciler, handle)
    }

    /// Adds `environment` to that of every instance that is started.
    #[must_use]
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Runs until `stop` is cancelled. Components are left as they are.
    pub async fn run(mut self, stop: CancellationToken) {
        let hints = self.follow_hints(&stop);
        loop {
            failpoint::reach("reconciler");
            let begun = Instant::now();
            let turn = self.core.turn(self.clock.now());
            let wake_at = turn.wake_at;
            self.carry_out(turn);
            self.vitals.round(begun.elapsed());
            let wake = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(self.clock.instant_of(at)).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                // Cancel-safe: receiving takes nothing out unless it wins.
                Some(input) = self.inputs.recv() => input,
                // Cancel-safe, as above; `None` (every handle is gone) only disables the arm.
                Some(command) = self.commands.recv() => Input::Command(command),
                // Cancel-safe, as above; `None` means that the prober ended with the daemon.
                Some(report) = self.probes.reports.recv() => Input::Probed(report),
                // Cancel-safe: it only waits; what waits for us is taken below.
                () = self.beats.due() => Input::Beats(self.beats.take()),
                // Cancel-safe: a sleep that loses is made anew from the next turn's deadline.
                () = wake => Input::Tick,
                // Cancel-safe: cancellation stays set.
                () = stop.cancelled() => break,
            };
            let is_answer = matches!(
                input,
                Input::StartAnswered { .. } | Input::StopAnswered { .. }
            );
            if is_answer && self.core.unanswered() >= CROWD {
                tokio::time::sleep(GATHER).await;
            }
            self.follow_clock();
            self.take_beats_for(&input);
            if let Input::Probed(report) = &input {
                self.vitals.probed(report);
            }
            self.take_in(input);
            // Whatever else waits is taken in before planning: 500 answers cost one plan.
            while let Ok(input) = self.inputs.try_recv() {
                self.take_in(input);
            }
            while let Ok(report) = self.probes.reports.try_recv() {
                self.vitals.probed(&report);
                self.core.handle(Input::Probed(report), self.clock.now());
            }
            while let Ok(command) = self.commands.try_recv() {
                let input = Input::Command(command);
                self.take_beats_for(&input);
                self.core.handle(input, self.clock.now());
            }
        }
        for task in hints {
            task.abort();
        }
    }

    fn take_in(&mut self, input: Input) {
        if let Input::StartAnswered { instance, .. } = &input {
            self.starts.remove(instance);
        }
        self.core.handle(input, self.clock.now());
    }

    /// Who asks about registrations is told of every heartbeat that came before the question.
    fn take_beats_for(&mut self, input: &Input) {
        if let Input::Command(Command::Registry(_)) = input {
            let beats = self.beats.take();
            if !beats.is_empty() {
                self.core.handle(Input::Beats(beats), self.clock.now());
            }
        }
    }

    /// Before anything is taken in: it may bear times of the host's clock as it is now. The relist
    /// sees to it that this is done at least every few seconds.
    fn follow_clock(&mut self) {
        if let Some(millis) = self.clock.realign() {
            tracing::warn!(millis, "the host's clock was set; deadlines move along");
            let stepped = Input::ClockStepped { millis };
            self.core.handle(stepped, self.clock.now());
        }
    }

    fn follow_hints(&self, stop: &CancellationToken) -> Vec<tokio::task::JoinHandle<()>> {
        self.drivers
            .iter()
            .map(|(kind, driver)| {
                let (driver, hints) = (*kind, driver.hints());
                let (answers, stop) = (self.answers.clone(), stop.clone());
                tokio::spawn(async move {
                    loop {
                        let input = tokio::select! {
                            // Cancel-safe by its contract.
                            instances = hints.taken() => Input::Hinted { driver, instances },
                            // Cancel-safe by its contract.
                            said = hints.heard() => Input::Said(said),
                            // Cancel-safe: cancellation stays set.
                            () = stop.cancelled() => break,
                        };
                        if answers.send(input).is_err() {
                            break;
                        }
                    }
                })
            })
            .collect()
    }

    fn carry_out(&mut self, turn: Turn) {
        if let Some(Commit {
            number,
            changes,
            durability,
        }) = turn.commit
        {
            for event in &changes.events {
                tracing::info!(
                    pipeline = event.pipeline.as_ref().map(tracing::field::display),
                    component = event.component.as_ref().map(tracing::field::display),
                    kind = %event.kind,
                    reason = %event.reason,
                    "{}",
                    event.message
                );
                // An error means that nobody listens.
                self.events.send(Arc::new(event.clone())).ok();
            }
            let answers = self.answers.clone();
            let (vitals, handed_over) = (self.vitals.clone(), Instant::now());
            let done = move |result: Result<(), String>| {
                vitals.committed(handed_over.elapsed(), Success::of(&result));
                send(&answers, Input::Recorded { number, result });
            };
            (self.recorder)(changes, durability, Box::new(done));
        }
        for effect in turn.effects {
            self.begin(effect);
        }
        for (kind, scope) in turn.looks {
            let Some(driver) = self.drivers.get(&kind).cloned() else {
                continue;
            };
            let answers = self.answers.clone();
            let (vitals, clock) = (self.vitals.clone(), self.clock.clone());
            if let Some(partitions) = turn.attend.get(&kind) {
                driver.attend(partitions);
            }
            tokio::spawn(async move {
                let result = answered(kind, "look", driver.observe(&scope)).await;
                let saw_all = scope == Scope::All && result.is_ok();
                if saw_all {
                    let (driver, limits) = (kind, driver.unenforced());
                    send(&answers, Input::CannotEnforce { driver, limits });
                }
                send(
                    &answers,
                    Input::Looked {
                        driver: kind,
                        result,
                    },
                );
                // Whoever waits for it may count on what was seen.
                if saw_all {
                    vitals.saw_all(kind, clock.now());
                }
            });
        }
        for (instance, probing) in turn.probing {
            match probing {
                None => self.probes.prober.forget(instance),
                Some(Probing { spec, stage, found }) => {
                    let target = Arc::new((self.probes.target)(&instance, &spec));
                    let probes = spec.probes.for_replica(instance.replica.replica);
                    let watched = Watched {
                        probes,
                        target,
                        stage,
                        found,
                    };
                    self.probes.prober.watch(instance, watched);
                }
            }
        }
        for (instance, watched) in turn.watching {
            let progress = watched.as_ref().and_then(|spec| spec.progress.as_ref());
            match watched.as_ref().zip(progress) {
                None => self.observer.forget(&instance),
                Some((spec, progress)) => {
                    let target = Arc::new((self.probes.target)(&instance, spec));
                    let progress = progress.for_replica(instance.replica.replica);
                    self.observer.watch(instance, progress, target);
                }
            }
        }
        if let Some(directory) = turn.directory {
            self.directories.send_replace(directory);
        }
        if let Some(snapshot) = turn.snapshot {
            self.snapshots.send_replace(snapshot);
        }
        match turn.ending {
            Ending::Decided => self.ending.cancel(),
            Ending::No | Ending::WhenEmpty => {}
        }
    }

    fn begin(&mut self, effect: Effect) {
        let (answers, vitals) = (self.answers.clone(), self.vitals.clone());
        match effect {
            Effect::Answer(answer) => commands::confirm(answer),
            Effect::Start(mut launch) => {
                let Some(driver) = self.drivers.get(&launch.spec.driver()).cloned() else {
                    return;
                };
                let environment = self.environment.clone();
                let given_up = launch.given_up.clone();
                self.starts.insert(launch.instance.clone(), given_up);
                tokio::spawn(async move {
                    if let Some(environment) = environment {
                        launch.injected = environment(&launch);
                    }
                    let result = answered(driver.kind(), "start", driver.start(&launch)).await;
                    vitals.did(Action::Start, Success::of(&result));
                    let instance = launch.instance;
                    send(&answers, Input::StartAnswered { instance, result });
                });
            }
            Effect::GiveUp { instance } => {
                if let Some(given_up) = self.starts.get(&instance) {
                    given_up.cancel();
                }
            }
            Effect::Stop {
                instance,
                driver,
                how,
                ..
            } => {
                let Some(driver) = self.drivers.get(&driver).cloned() else {
                    return;
                };
                tokio::spawn(async move {
                    let result =
                        answered(driver.kind(), "stop", driver.stop(&instance, &how)).await;
                    vitals.did(Action::Stop, Success::of(&result));
                    send(&answers, Input::StopAnswered { instance, result });
                });
            }
            Effect::Forget { instance, driver } => {
                let Some(driver) = self.drivers.get(&driver).cloned() else {
                    return;
                };
                tokio::spawn(async move {
                    let forgotten = driver.forget(&instance).await;
                    vitals.did(Action::Forget, Success::of(&forgotten));
                    if let Err(error) = forgotten {
                        // The relist sees the leftovers and asks again.
                        tracing::warn!(%instance, %error, "leftovers could not be removed");
                    }
                });
            }
        }
    }
}

/// What a driver's call answers, also when it panics: a call without an answer would leave its
/// replica, or all that the driver runs, as it is for ever.
async fn answered<T>(
    driver: DriverKind,
    operation: &str,
    call: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(DriverError::Unreachable {
            driver,
            operation: operation.to_owned(),
            why: "it panicked, which is a defect of flowctl; what it said is in daemon.log"
                .to_owned(),
        }),
    }
}

/// Hands an answer to the owner; when that is gone, the next daemon sees for itself.
fn send(answers: &mpsc::UnboundedSender<Input>, input: Input) {
    if answers.send(input).is_err() {
        tracing::debug!("an answer came after the reconciler had ended");
    }
}
