//! The owner under simulated time and a scripted world: random edits, exits, slow, blind and
//! failing drivers, lost hints, a store that fails, a clock that is set, and deaths of the daemon
//! between any two effects. Each seed replays exactly: `FLOWCTL_SIM_SEED=17 cargo test simulated`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::driver::{DriverError, Launch, Scope, Started};
use crate::model::fixtures::{component, daemon, pipeline};
use crate::model::{
    ComponentId, ComponentSpec, DriverKind, Event, Exit, ExitStatus, Handle, InstanceId, Life,
    PhaseName, PipelineSpec, ReplicaKey, Sighting, SpecHash, StartFailure, StopPolicy, Timestamp,
};

use super::core::{Commit, Core, Input, Kept, Turn};
use super::handle::{Command, Origin, Request, Source};
use super::ledger::{Durability, Effect};

mod ending;
mod retries;
mod times;

const DAY: i64 = 24 * 3600 * 1000;

/// SplitMix64: small, and the same in every release.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What really runs.
struct Thing {
    spec: SpecHash,
    after: Vec<ComponentId>,
    life: Life,
}

/// A driver call, a look or a commit that has not been answered.
impl Thing {
    fn is_created(&self) -> bool {
        self.life == Life::Created
    }
}

enum Call {
    Start(Box<Launch>),
    Stop(InstanceId),
    Forget(InstanceId),
    Look(Scope),
    Commit(Box<Commit>),
    /// The disk has a commit that was to be power-safe.
    Synced(u64),
}

struct World {
    random: Random,
    now: Timestamp,
    core: Core,
    things: BTreeMap<InstanceId, Thing>,
    calls: Vec<(Timestamp, Call)>,
    commits: VecDeque<(Timestamp, Call)>,
    disk: Kept,
    events: BTreeMap<u64, Event>,
    disk_full: bool,
    blind: bool,
    /// The driver starts nothing and cannot say so.
    mute: bool,
    /// What the mute driver has laid ready for starts, and was not told to forget.
    laid_ready: BTreeSet<InstanceId>,
    calm: bool,
    /// Every start that took effect, for asserting what was left alone.
    started: Vec<InstanceId>,
    deaths: u32,
    /// How far the clock was set.
    set_by: i64,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Timestamp::from_millis(1_795_228_980_123);
        Self {
            random: Random(seed),
            now,
            core: Core::new(Kept::default(), [DriverKind::Process], daemon(), now),
            things: BTreeMap::new(),
            calls: vec![],
            commits: VecDeque::new(),
            disk: Kept::default(),
            events: BTreeMap::new(),
            disk_full: false,
            blind: false,
            mute: false,
            laid_ready: BTreeSet::new(),
            calm: false,
            started: vec![],
            deaths: 0,
            set_by: 0,
        }
    }

    /// The daemon dies and another starts from the disk. A call under way took effect or did not.
    fn die(&mut self) {
        self.deaths += 1;
        for (_, call) in std::mem::take(&mut self.calls) {
            if self.random.one_in(2) {
                let before = self.things.len();
                self.take_effect(&call);
                // A container may have been created and not started.
                if let Call::Start(launch) = &call
                    && self.things.len() > before
                    && self.random.one_in(3)
                    && let Some(thing) = self.things.get_mut(&launch.instance)
                {
                    thing.life = Life::Created;
                }
            }
        }
        for (_, call) in std::mem::take(&mut self.commits) {
            // Commits are applied in order: the first that was lost loses all after it.
            if self.random.one_in(2) || self.disk_full {
                break;
            }
            self.take_effect(&call);
        }
        self.core = Core::new(self.disk.clone(), [DriverKind::Process], daemon(), self.now);
    }

    /// Somebody sets the host's clock. What shims wrote down before stays as it is, what is under
    /// way takes as long as it takes.
    fn set_clock(&mut self, millis: i64) {
        self.now = self.now.shifted(millis);
        for (at, _) in self.calls.iter_mut().chain(&mut self.commits) {
            *at = at.shifted(millis);
        }
        self.set_by += millis;
    }

    /// The same while the daemon runs, which notices before it takes anything in.
    fn step_clock(&mut self, millis: i64) {
        self.set_clock(millis);
        self.core.handle(Input::ClockStepped { millis }, self.now);
    }

    /// What the time would be had nobody set the clock.
    fn true_now(&self) -> Timestamp {
        self.now.shifted(-self.set_by)
    }

    fn take_effect(&mut self, call: &Call) {
        match call {
            Call::Start(launch) => {
                let thing = Thing {
                    spec: launch.spec.hash.clone(),
                    after: launch
                        .spec
                        .dependencies
                        .iter()
                        .map(|d| d.id.clone())
                        .collect(),
                    life: Life::Running { since: self.now },
                };
                if !self.things.contains_key(&launch.instance) {
                    self.things.insert(launch.instance.clone(), thing);
                    self.started.push(launch.instance.clone());
                }
            }
            // What was only created is gone without a trace.
            Call::Stop(id) if self.things.get(id).is_some_and(Thing::is_created) => {
                self.things.remove(id);
            }
            Call::Stop(id) => self.exit(id, ExitStatus::Code(143)),
            Call::Forget(id) => {
                self.laid_ready.remove(id);
                if self
                    .things
                    .get(id)
                    .is_some_and(|thing| !thing.life.is_alive())
                {
                    self.things.remove(id);
                }
            }
            Call::Look(_) | Call::Synced(_) => {}
            Call::Commit(commit) => {
                let changes = &commit.changes;
                for ((pipeline, replica), record) in &changes.records {
                    let records = self.disk.records.entry(pipeline.clone()).or_default();
                    match record {
                        Some(record) => records.insert(replica.clone(), record.clone()),
                        None => records.remove(replica),
                    };
                }
                for (key, kept) in &changes.pipelines {
                    match kept {
                        Some(kept) => self.disk.pipelines.insert(key.clone(), kept.clone()),
                        None => self.disk.pipelines.remove(key),
                    };
                }
                for event in &changes.events {
                    // What a failed fsync left in doubt is recorded again.
                    let known = self
                        .events
                        .entry(event.seq)
                        .or_insert_with(|| event.clone());
                    assert_eq!(known, event, "an event number was used twice");
                    self.disk.next_seq = self.disk.next_seq.max(event.seq + 1);
                }
            }
        }
    }

    fn exit(&mut self, id: &InstanceId, status: ExitStatus) {
        if let Some(thing) = self.things.get_mut(id)
            && let Life::Running { since } = thing.life
        {
            let exit = Exit {
                status,
                oom: false,
                started_at: Some(since),
                at: self.now,
            };
            thing.life = Life::Exited(exit);
        }
    }

    fn alive(&self) -> Vec<InstanceId> {
        let alive = self
            .things
            .iter()
            .filter(|(_, thing)| thing.life.is_alive());
        alive.map(|(id, _)| id.clone()).collect()
    }

    fn answer(&mut self, call: Call) {
        let unreachable = |operation: &str| DriverError::Unreachable {
            driver: DriverKind::Process,
            operation: operation.to_owned(),
            why: "simulated".to_owned(),
        };
        let input = match call {
            Call::Start(launch) if self.mute => {
                self.laid_ready.insert(launch.instance.clone());
                Input::StartAnswered {
                    instance: launch.instance,
                    result: Err(unreachable("start")),
                }
            }
            Call::Start(launch) if !self.calm && self.random.one_in(12) => {
                let result = Err(if self.random.one_in(2) {
                    let reason = "ExecNotFound".to_owned();
                    DriverError::Refused(StartFailure {
                        reason,
                        message: "no such file".into(),
                    })
                } else {
                    if self.random.one_in(2) {
                        self.take_effect(&Call::Start(launch.clone()));
                    }
                    unreachable("start")
                });
                Input::StartAnswered {
                    instance: launch.instance,
                    result,
                }
            }
            Call::Start(launch) => {
                let instance = launch.instance.clone();
                self.take_effect(&Call::Start(launch));
                let handle = Handle::Docker {
                    container: instance.to_string(),
                    image: None,
                };
                let result = Ok(Started {
                    handle,
                    since: self.now,
                });
                Input::StartAnswered { instance, result }
            }
            Call::Stop(instance) if !self.calm && self.random.one_in(8) => {
                let result = Err(DriverError::StillAlive {
                    instance: instance.clone(),
                    why: "simulated".to_owned(),
                });
                Input::StopAnswered { instance, result }
            }
            Call::Stop(instance) => {
                self.take_effect(&Call::Stop(instance.clone()));
                Input::StopAnswered {
                    instance,
                    result: Ok(()),
                }
            }
            Call::Forget(_) => {
                self.take_effect(&call);
                return;
            }
            Call::Look(_) if self.blind => {
                let result = Err(unreachable("list"));
                Input::Looked {
                    driver: DriverKind::Process,
                    result,
                }
            }
            Call::Look(scope) => Input::Looked {
                driver: DriverKind::Process,
                result: Ok(self.see(&scope)),
            },
            Call::Commit(commit) => {
                let (number, durability) = (commit.number, commit.durability);
                let result = if self.disk_full {
                    Err("no space left on device".to_owned())
                } else {
                    self.take_effect(&Call::Commit(commit));
                    if durability == Durability::PowerSafe && !self.calm {
                        let later = i64::try_from(self.random.below(500)).unwrap();
                        self.calls
                            .push((self.now.shifted(later), Call::Synced(number)));
                        return;
                    }
                    Ok(())
                };
                Input::Recorded { number, result }
            }
            Call::Synced(number) => {
                let result = if self.disk_full && self.random.one_in(2) {
                    Err("input/output error".to_owned())
                } else {
                    Ok(())
                };
                Input::Recorded { number, result }
            }
        };
        if std::env::var_os("FLOWCTL_SIM_SEED").is_some() {
            eprintln!("{} {input:?}", self.now);
        }
        self.core.handle(input, self.now);
    }

    fn see(&self, scope: &Scope) -> Vec<Sighting> {
        let asked = |id: &InstanceId| match scope {
            Scope::All => true,
            Scope::Instances(some) => some.contains(id),
        };
        self.things
            .iter()
            .filter(|(id, _)| asked(id))
            .map(|(id, thing)| Sighting {
                instance: id.clone(),
                spec: thing.spec.clone(),
                handle: Some(Handle::Docker {
                    container: id.to_string(),
                    image: None,
                }),
                stop: StopPolicy::default(),
                after: thing.after.clone(),
                driver: DriverKind::Process,
                life: thing.life.clone(),
                outdated: false,
            })
            .collect()
    }

    /// Lets the core plan and queues what it asks for.
    fn turn(&mut self) {
        let Turn {
            commit,
            effects,
            looks,
            wake_at,
            ..
        } = self.core.turn(self.now);
        let due = |world: &mut Self| {
            let slow = if world.calm { 3 } else { 2_000 };
            world
                .now
                .shifted(1 + i64::try_from(world.random.below(slow)).unwrap())
        };
        if let Some(commit) = commit {
            let at = due(self);
            let at = self.commits.back().map_or(at, |(last, _)| at.max(*last));
            self.commits.push_back((at, Call::Commit(Box::new(commit))));
        }
        for effect in effects {
            let call = match effect {
                Effect::Start(launch) => Call::Start(launch),
                Effect::Stop { instance, .. } => Call::Stop(instance),
                Effect::Forget { instance, .. } => Call::Forget(instance),
                Effect::GiveUp { instance } => {
                    self.give_up(&instance);
                    continue;
                }
                Effect::Answer(answer) => {
                    super::commands::confirm(answer);
                    continue;
                }
            };
            let at = due(self);
            self.calls.push((at, call));
        }
        for (_, scope) in looks {
            let at = due(self);
            self.calls.push((at, Call::Look(scope)));
        }
        assert!(
            wake_at.is_some_and(|at| at > self.now),
            "the core would spin"
        );
    }

    /// Moves to the next thing that happens and lets it happen.
    fn step(&mut self) {
        self.turn();
        let next_call = self.calls.iter().map(|(at, _)| *at).min();
        let next_commit = self.commits.front().map(|(at, _)| *at);
        let wake = self.core.turn_wake();
        let next = [next_call, next_commit, Some(wake)]
            .into_iter()
            .flatten()
            .min()
            .unwrap();
        self.now = self.now.max(next);
        if next_commit.is_some_and(|at| at <= self.now) {
            let (_, call) = self.commits.pop_front().unwrap();
            self.answer(call);
        } else if let Some(due) = self.calls.iter().position(|(at, _)| *at <= self.now) {
            let (_, call) = self.calls.swap_remove(due);
            self.answer(call);
        } else {
            self.core.handle(Input::Tick, self.now);
        }
        self.check();
    }

    /// I1: never two live instances of one replica.
    fn check(&self) {
        let mut replicas = BTreeSet::new();
        for id in self.alive() {
            let replica = id.replica.clone();
            assert!(
                replicas.insert(replica),
                "two live instances of {}",
                id.replica
            );
        }
    }

    fn apply(&mut self, spec: PipelineSpec) {
        self.apply_from(Origin::Watch, spec);
    }

    fn apply_from(&mut self, origin: Origin, spec: PipelineSpec) {
        let (reply, _) = tokio::sync::oneshot::channel();
        let source = Source {
            file: Some("/p.yaml".into()),
            watched: true,
            origin,
        };
        let command = Command::Apply {
            pipelines: vec![spec],
            source,
            reply,
        };
        self.core.handle(Input::Command(command), self.now);
    }

    fn ask(&mut self, component: &str, request: Request) {
        let (reply, _) = tokio::sync::oneshot::channel();
        let pipeline = pipeline(vec![]).key;
        let component = component.parse().unwrap();
        let command = Command::Ask {
            pipeline,
            component,
            request,
            reply,
        };
        self.core.handle(Input::Command(command), self.now);
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.blind = false;
        self.disk_full = false;
    }

    /// Runs until every wanted replica is ready and nothing is under way.
    fn converge(&mut self, wanted: &PipelineSpec, stopped: &BTreeSet<ComponentId>) {
        for _ in 0..20_000 {
            self.step();
            if self.is_as_wanted(wanted, stopped) {
                return;
            }
        }
        let wanted: Vec<String> = wanted
            .components
            .values()
            .map(|spec| {
                format!(
                    "{} x{} {} {:?}",
                    spec.id, spec.replicas, spec.hash, spec.dependencies
                )
            })
            .collect();
        let snapshot = self.core.snapshot();
        let shown: Vec<String> = snapshot
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.components)
            .flat_map(|component| &component.replicas)
            .map(|r| format!("{:?} {} {:?} {}", r.instance, r.phase, r.spec, r.why))
            .collect();
        panic!(
            "not settled at {} ({:?}, settled {:?})\nwanted {wanted:#?}\nstopped {stopped:?}\nshown {shown:#?}\nalive {:#?}",
            self.now,
            snapshot.daemon,
            self.core
                .pipelines
                .values()
                .map(|p| (&p.busy, &p.strays, &p.plan))
                .collect::<Vec<_>>(),
            self.alive()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        );
    }

    fn is_as_wanted(&self, wanted: &PipelineSpec, stopped: &BTreeSet<ComponentId>) -> bool {
        let expected: BTreeSet<(ReplicaKey, SpecHash)> = wanted
            .components
            .values()
            .filter(|spec| !stopped.contains(&spec.id))
            .flat_map(|spec| {
                (0..spec.replicas).map(|replica| {
                    (
                        ReplicaKey {
                            component: spec.id.clone(),
                            replica,
                        },
                        spec.hash.clone(),
                    )
                })
            })
            .collect();
        let alive: BTreeSet<(ReplicaKey, SpecHash)> = self
            .things
            .iter()
            .filter(|(_, thing)| thing.life.is_alive())
            .map(|(id, thing)| (id.replica.clone(), thing.spec.clone()))
            .collect();
        let snapshot = self.core.snapshot();
        let settled = snapshot.pipelines.iter().all(|pipeline| pipeline.settled);
        alive == expected && settled && snapshot.daemon.is_some_and(|daemon| daemon.durable)
    }
}

/// A random pipeline over up to five components, each depending on some before it.
fn random_spec(random: &mut Random, hashes: &mut BTreeMap<u64, u64>) -> PipelineSpec {
    const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut components = Vec::new();
    for (index, id) in IDS.into_iter().enumerate() {
        if random.one_in(5) {
            continue;
        }
        let hash = hashes.entry(index as u64).or_insert(1);
        if random.one_in(3) {
            *hash += 1;
        }
        let known: Vec<String> = components
            .iter()
            .map(|c: &ComponentSpec| c.id.to_string())
            .collect();
        let after: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|_| random.one_in(3))
            .collect();
        let mut spec = component(id, *hash, &after);
        spec.replicas = 1 + u32::try_from(random.below(3)).unwrap() / 2;
        components.push(spec);
    }
    if components.is_empty() {
        components.push(component("a", 1, &[]));
    }
    pipeline(components)
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    let mut hashes = BTreeMap::new();
    let mut wanted = random_spec(&mut world.random, &mut hashes);
    let mut stopped = BTreeSet::new();
    let mut restarts_seen: BTreeMap<ReplicaKey, u64> = BTreeMap::new();
    world.apply(wanted.clone());
    for _ in 0..world.random.below(400) {
        world.step();
        match world.random.below(60) {
            0 => {
                wanted = random_spec(&mut world.random, &mut hashes);
                world.apply(wanted.clone());
            }
            1..4 => {
                let alive = world.alive();
                if !alive.is_empty() {
                    let index = world.random.below(alive.len() as u64) as usize;
                    let code = i32::try_from(world.random.below(3)).unwrap();
                    world.exit(&alive[index], ExitStatus::Code(code));
                    // Half of the hints are lost; the relist has to find the end.
                    if world.random.one_in(2) {
                        let instances = [alive[index].clone()].into();
                        let driver = DriverKind::Process;
                        world
                            .core
                            .handle(Input::Hinted { driver, instances }, world.now);
                    }
                }
            }
            4 => world.blind = !world.blind,
            5 => world.disk_full = !world.disk_full,
            6 | 7 => {
                world.die();
                // The watch reads the file again at every start.
                world.apply(wanted.clone());
            }
            8 => {
                let ids: Vec<ComponentId> = wanted.components.keys().cloned().collect();
                let id = ids[world.random.below(ids.len() as u64) as usize].clone();
                let request = match world.random.below(3) {
                    0 => Request::Stop,
                    1 => Request::Start,
                    _ => Request::Restart(crate::model::Pull::No),
                };
                world.ask(id.as_str(), request);
            }
            9 => {
                let millis = if world.random.one_in(2) { DAY } else { -DAY };
                world.step_clock(millis);
            }
            _ => {}
        }
        for pipeline in &world.core.snapshot().pipelines {
            for (component, replica) in pipeline
                .components
                .iter()
                .flat_map(|c| c.replicas.iter().map(move |r| (c, r)))
            {
                let ready_and_gone = replica.ready && replica.phase == PhaseName::Stopped;
                assert!(!ready_and_gone, "a stopped replica is shown as ready");
                let key = ReplicaKey {
                    component: component.id.clone(),
                    replica: replica.replica,
                };
                if world.deaths == 0 {
                    let seen = restarts_seen.entry(key).or_default();
                    *seen = (*seen).min(replica.restarts).max(replica.restarts);
                }
            }
        }
    }
    world.calm_down();
    // A person has the last word on every component, so what is wanted is known.
    for id in wanted.components.keys().cloned().collect::<Vec<_>>() {
        let stop = world.random.one_in(6);
        let mut asked = false;
        while !asked {
            world.step();
            let durable = world.core.snapshot().daemon.is_some_and(|d| d.durable);
            asked = durable;
        }
        world.ask(
            id.as_str(),
            if stop { Request::Stop } else { Request::Start },
        );
        if stop {
            stopped.insert(id);
        }
    }
    // What depends on a stopped component and never started waits for it, rightly.
    let mut waits = true;
    while waits {
        waits = false;
        for spec in wanted.components.values() {
            let blocked = spec.dependencies.iter().any(|d| stopped.contains(&d.id));
            if blocked && !stopped.contains(&spec.id) {
                let id = spec.id.clone();
                world.ask(id.as_str(), Request::Stop);
                stopped.insert(id);
                waits = true;
            }
        }
    }
    world.converge(&wanted, &stopped);
    let before = (world.alive(), world.started.len());
    let until = world.now.shifted(300_000);
    while world.now < until {
        world.step();
    }
    assert_eq!(
        (world.alive(), world.started.len()),
        before,
        "it acts although nothing changed"
    );
}

#[test]
fn simulated_faults_end_in_the_wanted_state_with_one_instance_each() {
    if let Ok(seed) = std::env::var("FLOWCTL_SIM_SEED") {
        return simulate(seed.parse().unwrap());
    }
    let seeds: u64 = std::env::var("FLOWCTL_SIM_SEEDS").map_or(1_000, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| simulate(seed));
        assert!(result.is_ok(), "replay with FLOWCTL_SIM_SEED={seed}");
    }
}

#[test]
fn edit_restarts_only_the_changed_component_in_dependency_order() {
    let mut world = World::new(7);
    world.calm = true;
    let spec = |b: u64, c: u64| {
        pipeline(vec![
            component("a", 1, &[]),
            component("b", b, &["a"]),
            component("c", c, &["b"]),
        ])
    };
    let none = BTreeSet::new();
    world.apply(spec(1, 1));
    world.converge(&spec(1, 1), &none);
    let order: Vec<String> = world
        .started
        .iter()
        .map(|id| id.replica.to_string())
        .collect();
    assert_eq!(order, ["a", "b", "c"]);
    world.started.clear();
    world.apply(spec(2, 2));
    world.converge(&spec(2, 2), &none);
    let order: Vec<String> = world
        .started
        .iter()
        .map(|id| id.replica.to_string())
        .collect();
    assert_eq!(order, ["b", "c"]);
}

#[test]
fn a_lost_store_is_rebuilt_from_what_runs_without_a_restart() {
    let mut world = World::new(9);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[]), component("b", 1, &["a"])]);
    let none = BTreeSet::new();
    world.apply(spec.clone());
    world.converge(&spec, &none);
    let before = world.alive();
    let pipelines = world.disk.pipelines.clone();
    world.disk = Kept {
        pipelines,
        ..Kept::default()
    };
    world.events.clear();
    world.calls.clear();
    world.commits.clear();
    world.core = Core::new(
        world.disk.clone(),
        [DriverKind::Process],
        daemon(),
        world.now,
    );
    world.converge(&spec, &none);
    assert_eq!(world.alive(), before);
}
