//! A driver without processes, for tests: every fault is a script.
//!
//! What "runs" lives in a [`FakeWorld`], which outlives any driver: a new [`FakeDriver`] on the
//! same world is a restarted daemon. All waiting is on tokio's clock, so paused tests are quick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Began, Description, Driver, DriverError, Hints, Launch, LogQuery, LogStream, Look, Scope,
    Started, Stopped,
};
use crate::clock::Clock;
use crate::model::{
    ComponentId, DriverKind, EarlierEnd, Exit, ExitStatus, Facts, Handle, Hidden, InstanceId, Life,
    Partition, Pending, ProcessIdentity, ReplicaKey, Sighting, Signal, StartFailure, StopPolicy,
};

/// How the instances of a component behave. Looked up at each step of an instance's life, so a
/// changed script changes what comes next.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// What a start does.
    pub start: StartScript,
    /// What a running instance does.
    pub run: RunScript,
    /// What a stop does.
    pub stop: StopScript,
}

/// What a start does.
#[derive(Clone, Debug, Default)]
pub enum StartScript {
    /// It runs at once.
    #[default]
    Runs,
    /// It runs after so long.
    RunsAfter(Duration),
    /// It is refused.
    Fails(StartFailure),
    /// It hangs until [`FakeWorld::release`].
    Hangs,
    /// It is accepted, and waits with these words until [`FakeWorld::release`].
    Waits(String),
    /// It runs, and the answer is lost.
    AnswerLost,
}

/// What a running instance does.
#[derive(Clone, Debug, Default)]
pub enum RunScript {
    /// It runs until it is stopped.
    #[default]
    Forever,
    /// It ends by itself after so long.
    Exits(Duration, ExitStatus),
}

/// What a stop does.
#[derive(Clone, Debug, Default)]
pub enum StopScript {
    /// It ends at the signal.
    #[default]
    Obeys,
    /// It ends so long after the signal, killed at the end of grace at the latest.
    Takes(Duration),
    /// It survives even the kill.
    Survives,
}

/// Whether the world answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It does.
    Clear,
    /// Every call fails with [`DriverError::Unreachable`]; what runs runs on.
    Blind,
}

/// Whether ends raise hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whisper {
    /// They do.
    Heard,
    /// They are lost: only a full look finds out.
    Lost,
}

/// Where the fake's instances run.
#[derive(Clone)]
pub struct FakeWorld {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    scripts: BTreeMap<ComponentId, Script>,
    instances: BTreeMap<InstanceId, Fake>,
    sight: Sight,
    hidden: BTreeMap<Partition, String>,
    whisper: Whisper,
    hints: Hints,
    started: Vec<InstanceId>,
    stopped: Vec<InstanceId>,
    doubles: BTreeSet<ReplicaKey>,
    pids: u32,
}

struct Fake {
    launch: Launch,
    handle: Option<Handle>,
    life: Life,
    earlier: Vec<EarlierEnd>,
}

impl FakeWorld {
    /// An empty world.
    pub fn new(clock: Clock) -> Self {
        let state = State {
            scripts: BTreeMap::new(),
            instances: BTreeMap::new(),
            sight: Sight::Clear,
            hidden: BTreeMap::new(),
            whisper: Whisper::Heard,
            hints: Hints::default(),
            started: Vec::new(),
            stopped: Vec::new(),
            doubles: BTreeSet::new(),
            pids: 100,
        };
        Self {
            inner: Arc::new(Inner {
                clock,
                state: Mutex::new(state),
                changed: Notify::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the instances of `component` behave from now on.
    pub fn script(&self, component: &ComponentId, script: Script) {
        self.lock().scripts.insert(component.clone(), script);
    }

    /// Sets whether the world answers.
    pub fn set_sight(&self, sight: Sight) {
        self.lock().sight = sight;
    }

    /// Takes a partition out of sight: what runs there runs on.
    pub fn hide(&self, partition: Partition, why: &str) {
        self.lock().hidden.insert(partition, why.to_owned());
    }

    /// Sets whether ends raise hints.
    pub fn set_whisper(&self, whisper: Whisper) {
        self.lock().whisper = whisper;
    }

    /// Lets starts of this component that hang or wait go on.
    pub fn release(&self, component: &ComponentId) {
        self.lock()
            .scripts
            .entry(component.clone())
            .or_default()
            .start = StartScript::Runs;
        self.inner.changed.notify_waiters();
    }

    /// Ends a running instance, as a crash would.
    pub fn end(&self, instance: &InstanceId, status: ExitStatus) {
        let mut state = self.lock();
        let at = self.inner.clock.now();
        state.end(instance, |started_at| {
            Life::Exited(Exit {
                status,
                oom: false,
                started_at,
                at,
                killed: 0,
            })
        });
        drop(state);
        self.inner.changed.notify_waiters();
    }

    /// Ends the run of an instance and begins another inside it, as a cluster does by itself.
    pub fn end_inside(&self, instance: &InstanceId, status: ExitStatus) {
        let at = self.inner.clock.now();
        let mut state = self.lock();
        let Some(fake) = state.instances.get_mut(instance) else {
            return;
        };
        let Life::Running { since } = fake.life else {
            return;
        };
        let id = fake.earlier.len().to_string();
        let exit = Exit {
            status,
            oom: false,
            started_at: Some(since),
            at,
            killed: 0,
        };
        fake.earlier.push(EarlierEnd {
            id,
            exit,
            disruption: None,
        });
        fake.life = Life::Running { since: at };
        state.whisper(instance);
    }

    /// Ends everything, as a reboot of the host would.
    pub fn reboot(&self) {
        let mut state = self.lock();
        let at = self.inner.clock.now();
        let all: Vec<InstanceId> = state.instances.keys().cloned().collect();
        for instance in all {
            state.end(&instance, |_| Life::HostReboot { at });
        }
        drop(state);
        self.inner.changed.notify_waiters();
    }

    /// Instances that run or are about to.
    pub fn alive(&self) -> Vec<InstanceId> {
        let state = self.lock();
        let alive = state.instances.iter().filter(|(_, it)| it.life.is_alive());
        alive.map(|(instance, _)| instance.clone()).collect()
    }

    /// Every instance that a start was asked for, in order.
    pub fn started(&self) -> Vec<InstanceId> {
        self.lock().started.clone()
    }

    /// Every instance that a stop was asked for, in order.
    pub fn stopped(&self) -> Vec<InstanceId> {
        self.lock().stopped.clone()
    }

    /// Replicas of which two instances ever lived at once.
    pub fn doubles(&self) -> BTreeSet<ReplicaKey> {
        self.lock().doubles.clone()
    }

    /// Carries a start out, whether or not anyone still waits for its answer.
    async fn carry_out(self, instance: InstanceId, answer: Answer) {
        let mut answer = Some(answer);
        let started = self.carry_on(&instance, &mut answer).await;
        // Whoever asked may have crashed meanwhile, and what was started runs all the same.
        if let Some(answer) = answer {
            drop(answer.send(started));
        }
    }

    /// The same until its program runs; what only waits is answered before.
    async fn carry_on(
        &self,
        instance: &InstanceId,
        answer: &mut Option<Answer>,
    ) -> Result<Started, DriverError> {
        let mut answer_lost = false;
        loop {
            let changed = self.inner.changed.notified();
            let script = self.lock().script_of(instance);
            match script.start {
                StartScript::Runs => break,
                StartScript::RunsAfter(delay) => {
                    tokio::time::sleep(delay).await;
                    break;
                }
                StartScript::Fails(failure) => {
                    let at = self.inner.clock.now();
                    let life = Life::NotStarted {
                        failure: failure.clone(),
                        at,
                    };
                    self.lock().end(instance, |_| life);
                    return Err(DriverError::Refused(failure));
                }
                StartScript::Hangs => changed.await,
                StartScript::Waits(why) => {
                    let since = self.inner.clock.now();
                    let pending = Pending {
                        since,
                        why: Some(why),
                    };
                    let Some(started) = self.lock().accept(instance, pending) else {
                        return Err(unreachable("start an instance"));
                    };
                    if let Some(answer) = answer.take() {
                        drop(answer.send(Ok(started)));
                    }
                    changed.await;
                }
                StartScript::AnswerLost => {
                    answer_lost = true;
                    break;
                }
            }
        }
        let since = self.inner.clock.now();
        let run = {
            let mut state = self.lock();
            let handle = state.handle_of(instance);
            let Some(fake) = state.instances.get_mut(instance) else {
                return Err(unreachable("start an instance"));
            };
            if !fake.life.is_alive() {
                return Err(unreachable("start an instance"));
            }
            fake.handle = Some(handle);
            fake.life = Life::Running { since };
            state.note_doubles(instance);
            if answer.is_none() {
                state.whisper(instance);
            }
            state.script_of(instance).run
        };
        if let RunScript::Exits(after, status) = run {
            let world = self.clone();
            let ending = instance.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                world.end(&ending, status);
            });
        }
        if answer_lost {
            return Err(unreachable("start an instance"));
        }
        let state = self.lock();
        let handle = state
            .instances
            .get(instance)
            .and_then(|fake| fake.handle.clone());
        match handle {
            Some(handle) => Ok(Started::running(
                (handle.clone(), facts(&handle)),
                since,
                None,
            )),
            None => Err(unreachable("start an instance")),
        }
    }
}

impl Fake {
    fn sighting(&self, instance: &InstanceId) -> Sighting {
        Sighting {
            instance: instance.clone(),
            spec: self.launch.spec.hash.clone(),
            handle: self.handle.clone(),
            facts: self.handle.as_ref().map(facts).unwrap_or_default(),
            stop: self.launch.spec.stop,
            after: self
                .launch
                .spec
                .dependencies
                .iter()
                .map(|it| it.id.clone())
                .collect(),
            driver: DriverKind::Process,
            partition: self.launch.spec.workload.partition(),
            life: self.life.clone(),
            earlier: self.earlier.clone(),
            outdated: false,
            prober: Default::default(),
            health: None,
        }
    }
}

impl State {
    fn script_of(&self, instance: &InstanceId) -> Script {
        let component = &instance.replica.component;
        self.scripts.get(component).cloned().unwrap_or_default()
    }

    fn end(
        &mut self,
        instance: &InstanceId,
        life: impl FnOnce(Option<crate::model::Timestamp>) -> Life,
    ) {
        let Some(fake) = self.instances.get_mut(instance) else {
            return;
        };
        if !fake.life.is_alive() {
            return;
        }
        let started_at = match fake.life {
            Life::Running { since } => Some(since),
            Life::Created
            | Life::Pending(_)
            | Life::Exited(_)
            | Life::NotStarted { .. }
            | Life::Lost { .. }
            | Life::HostReboot { .. }
            | Life::RuntimeRestarted(_)
            | Life::Disrupted { .. } => None,
        };
        fake.life = life(started_at);
        self.whisper(instance);
    }

    fn whisper(&self, instance: &InstanceId) {
        if self.whisper == Whisper::Heard {
            self.hints.raise(instance.clone());
        }
    }

    /// The handle of an instance: a new one, where it has none yet.
    fn handle_of(&mut self, instance: &InstanceId) -> Handle {
        let known = self.instances.get(instance);
        if let Some(known) = known.and_then(|fake| fake.handle.clone()) {
            return known;
        }
        self.pids += 2;
        handle(self.pids)
    }

    /// Has an instance wait; `None` when it is not wanted any more.
    fn accept(&mut self, instance: &InstanceId, pending: Pending) -> Option<Started> {
        let handle = self.handle_of(instance);
        let fake = self.instances.get_mut(instance)?;
        let pending = match &fake.life {
            Life::Pending(before) if before.why == pending.why => before.clone(),
            Life::Created | Life::Pending(_) => pending,
            Life::Running { .. }
            | Life::Exited(_)
            | Life::NotStarted { .. }
            | Life::Lost { .. }
            | Life::HostReboot { .. }
            | Life::RuntimeRestarted(_)
            | Life::Disrupted { .. } => return None,
        };
        fake.handle = Some(handle.clone());
        fake.life = Life::Pending(pending.clone());
        Some(Started {
            facts: facts(&handle),
            handle,
            prober: Default::default(),
            state: Began::Pending(pending),
        })
    }

    fn note_doubles(&mut self, instance: &InstanceId) {
        let lives = self.instances.iter().filter(|(other, fake)| {
            other.pipeline == instance.pipeline
                && other.replica == instance.replica
                && fake.life.is_alive()
        });
        if lives.count() > 1 {
            self.doubles.insert(instance.replica.clone());
        }
    }
}

/// Where a start is answered.
type Answer = oneshot::Sender<Result<Started, DriverError>>;

fn handle(pid: u32) -> Handle {
    let identity = |pid| ProcessIdentity {
        boot_id: "fake".to_owned(),
        pid,
        start_ticks: u64::from(pid),
    };
    Handle::new(&[identity(pid), identity(pid + 1)])
}

/// What is told of an instance that has this handle.
fn facts(handle: &Handle) -> Facts {
    Facts {
        processes: handle.read().unwrap_or_default(),
        ..Facts::default()
    }
}

fn unreachable(operation: &str) -> DriverError {
    DriverError::Unreachable {
        driver: DriverKind::Process,
        operation: operation.to_owned(),
        why: "as the script says".to_owned(),
    }
}

/// A driver that runs nothing.
pub struct FakeDriver {
    world: FakeWorld,
    hints: Hints,
}

impl FakeDriver {
    /// A driver of `world`; from now on the world's hints come to it.
    pub fn new(world: &FakeWorld) -> Self {
        let hints = Hints::default();
        world.lock().hints = hints.clone();
        Self {
            world: world.clone(),
            hints,
        }
    }

    /// What is left of an instance that was stopped.
    fn stopped(&self, instance: &InstanceId) -> Result<Stopped, DriverError> {
        let state = self.sighted("stop an instance")?;
        let left = state.instances.get(instance);
        Stopped::seen(left.map(|fake| fake.sighting(instance)))
    }

    fn sighted(&self, operation: &str) -> Result<MutexGuard<'_, State>, DriverError> {
        let state = self.world.lock();
        match state.sight {
            Sight::Clear => Ok(state),
            Sight::Blind => Err(unreachable(operation)),
        }
    }
}

#[async_trait]
impl Driver for FakeDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Process
    }

    async fn observe(&self, scope: &Scope) -> Result<Look, DriverError> {
        let state = self.sighted("look")?;
        let seen = state.instances.iter().filter(|(instance, _)| match scope {
            Scope::All => true,
            Scope::Instances(wanted) => wanted.contains(*instance),
        });
        let is_in_sight = |fake: &Fake| {
            let partition = fake.launch.spec.workload.partition();
            partition.is_none_or(|partition| !state.hidden.contains_key(&partition))
        };
        let seen = seen.filter(|(_, fake)| is_in_sight(fake));
        let seen = seen.map(|(instance, fake)| fake.sighting(instance));
        let hidden = state.hidden.clone().into_iter();
        let hidden = hidden.map(|(partition, why)| (Hidden::Partition(partition), why));
        Ok(Look {
            sightings: seen.collect(),
            hidden: hidden.collect(),
        })
    }

    async fn start(&self, launch: &Launch) -> Result<Started, DriverError> {
        let instance = launch.instance.clone();
        let earlier = {
            let mut state = self.sighted("start an instance")?;
            state.started.push(instance.clone());
            let earlier = state.instances.get(&instance);
            let earlier = earlier.map(|fake| (fake.life.clone(), fake.handle.clone()));
            if earlier.is_none() {
                let fake = Fake {
                    launch: launch.clone(),
                    handle: None,
                    life: Life::Created,
                    earlier: Vec::new(),
                };
                state.instances.insert(instance.clone(), fake);
            }
            earlier
        };
        match earlier {
            None => {}
            Some((Life::NotStarted { failure, .. }, _)) => {
                return Err(DriverError::Refused(failure));
            }
            Some((Life::Running { since }, Some(handle))) => {
                return Ok(Started::running(
                    (handle.clone(), facts(&handle)),
                    since,
                    None,
                ));
            }
            Some((Life::Pending(pending), Some(handle))) => {
                return Ok(Started {
                    facts: facts(&handle),
                    handle,
                    prober: Default::default(),
                    state: Began::Pending(pending),
                });
            }
            Some((_, Some(handle))) => {
                let since = self.world.inner.clock.now();
                return Ok(Started::running(
                    (handle.clone(), facts(&handle)),
                    since,
                    None,
                ));
            }
            Some((_, None)) => return Err(unreachable("start an instance")),
        }
        let (answer, answered) = oneshot::channel();
        tokio::spawn(self.world.clone().carry_out(instance, answer));
        answered
            .await
            .unwrap_or_else(|_| Err(unreachable("start an instance")))
    }

    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<Stopped, DriverError> {
        let (life, script) = {
            let mut state = self.sighted("stop an instance")?;
            state.stopped.push(instance.clone());
            let life = state.instances.get(instance).map(|fake| fake.life.clone());
            (life, state.script_of(instance))
        };
        match life {
            // Nothing of it ever ran, so nothing is left to tell of it.
            Some(Life::Pending(_)) => {
                self.sighted("stop an instance")?.instances.remove(instance);
                self.world.inner.changed.notify_waiters();
                return Ok(Stopped::default());
            }
            Some(life) if life.is_alive() => {}
            Some(_) | None => return self.stopped(instance),
        }
        let grace = how.grace_period.get();
        let (after, signal) = match script.stop {
            StopScript::Obeys => (Duration::ZERO, how.signal_or_term()),
            StopScript::Takes(time) if time <= grace => (time, how.signal_or_term()),
            StopScript::Takes(_) => (grace, Signal::KILL),
            StopScript::Survives => {
                tokio::time::sleep(grace).await;
                return Err(DriverError::StillAlive {
                    instance: instance.clone(),
                    why: "as the script says".to_owned(),
                });
            }
        };
        // The guardian carries a stop out even if the daemon crashes meanwhile.
        let (world, ending) = (self.world.clone(), instance.clone());
        let done = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            world.end(&ending, ExitStatus::Signal(signal));
        });
        done.await.map_err(|_| unreachable("stop an instance"))?;
        self.stopped(instance)
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), DriverError> {
        let mut state = self.sighted("forget an instance")?;
        let over = state
            .instances
            .get(instance)
            .is_some_and(|fake| !fake.life.is_alive());
        if over {
            state.instances.remove(instance);
        }
        Ok(())
    }

    async fn logs(&self, _query: &LogQuery) -> Result<LogStream, DriverError> {
        Ok(mpsc::channel(1).1)
    }

    async fn describe(&self) -> Result<Vec<Description>, DriverError> {
        let state = self.sighted("read its instances")?;
        let launches = state.instances.values().map(|fake| &fake.launch);
        let described = launches.map(|launch| Description {
            instance: launch.instance.clone(),
            spec: launch.spec.clone(),
            generation: launch.generation,
            file: launch.file.clone(),
        });
        Ok(described.collect())
    }

    fn hints(&self) -> Hints {
        self.hints.clone()
    }
}

#[cfg(test)]
mod tests;
