//! The simulated host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::driver::{Began, DriverError, Launch, Look, Scope, Started, Stopped};
use crate::model::fixtures::{daemon, pipeline};
use crate::model::{
    ComponentId, Disruption, DisruptionKind, DriverKind, EarlierEnd, EngineHealth, Event, Exit,
    ExitStatus, Facts, Handle, Hidden, InstanceId, Life, Partition, Pending, PipelineSpec, Prober,
    ReplicaKey, Sighting, SpecHash, StartFailure, StopPolicy, Timestamp,
};

use super::super::commands;
use super::super::core::{Commit, Core, Input, Kept, Turn};
use super::super::handle::{Command, Origin, Request, Source};
use super::super::ledger::{Durability, Effect};
use super::properties::Seen;

/// The drivers of the simulated host.
pub(super) const DRIVERS: [DriverKind; 3] = [
    DriverKind::Process,
    DriverKind::Docker,
    DriverKind::Kubernetes,
];
/// What the simulated cluster says while it has no room.
pub(super) const NO_ROOM: &str = "0/3 nodes are available: insufficient memory";

/// SplitMix64: small, and the same in every release.
pub(super) struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What really runs.
pub(super) struct Thing {
    pub driver: DriverKind,
    pub partition: Option<Partition>,
    pub spec: SpecHash,
    pub after: Vec<ComponentId>,
    pub life: Life,
    /// Ends after which the cluster started it again by itself.
    pub earlier: Vec<EarlierEnd>,
    /// What the cluster says of its health.
    pub health: Option<EngineHealth>,
}

impl Thing {
    fn never_ran(&self) -> bool {
        matches!(self.life, Life::Created | Life::Pending(_))
    }
}

/// Who asks the probes of what `driver` runs: the cluster does that itself.
fn prober_of(driver: DriverKind) -> Prober {
    match driver {
        DriverKind::Kubernetes => Prober::Engine,
        DriverKind::Process | DriverKind::Docker | DriverKind::Nomad => Prober::Flowctl,
    }
}

/// What the drivers tell of an instance that they run.
fn told(instance: &InstanceId) -> (Handle, Facts) {
    let container = instance.to_string();
    let facts = Facts {
        container: Some(container.clone()),
        ..Facts::default()
    };
    (Handle::new(&container), facts)
}

/// A driver call, a look or a commit that has not been answered.
pub(super) enum Call {
    Start(Box<Launch>),
    Stop(InstanceId, DriverKind),
    Forget(InstanceId),
    Look(DriverKind, Scope),
    Commit(Box<Commit>),
    /// The disk has a commit that was to be power-safe.
    Synced(u64),
}

/// A host with three kinds of driver, a disk and a daemon. Nothing happens in it but by
/// [`World::step`], which lets the daemon plan and then the next thing happen that is due: a driver
/// call, a look, a commit, or the daemon's own deadline.
pub(super) struct World {
    pub random: Random,
    pub now: Timestamp,
    pub core: Core,
    pub things: BTreeMap<InstanceId, Thing>,
    pub calls: Vec<(Timestamp, Call)>,
    pub commits: VecDeque<(Timestamp, Call)>,
    pub disk: Kept,
    pub events: BTreeMap<u64, Event>,
    pub disk_full: bool,
    /// Drivers that do not answer.
    pub blind: BTreeSet<DriverKind>,
    /// Namespaces of the cluster in which nobody may look.
    pub hidden: BTreeSet<Partition>,
    /// What runs on machines of the cluster that do not report.
    pub unseen: BTreeSet<InstanceId>,
    /// The namespaces that the look under way is a look at.
    pub attending: BTreeSet<Partition>,
    /// The drivers start nothing and cannot say so.
    pub mute: bool,
    /// The cluster accepts starts and has no room for them.
    pub crowded: bool,
    /// An ended instance that keeps its successor from starting, and until when.
    pub left_behind: Option<(InstanceId, Timestamp)>,
    /// What the mute drivers have laid ready for starts, and were not told to forget.
    pub laid_ready: BTreeSet<InstanceId>,
    /// Nothing fails and all is quick.
    pub calm: bool,
    /// Every start that took effect, for asserting what was left alone.
    pub started: Vec<InstanceId>,
    pub deaths: u32,
    /// Instances whose probing the daemon ever changed.
    pub probed: BTreeSet<InstanceId>,
    /// How far the clock was set.
    pub set_by: i64,
    /// What was true of every state so far.
    pub seen: Seen,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let now = Timestamp::from_millis(1_795_228_980_123);
        Self {
            random: Random(seed),
            now,
            core: Core::new(Kept::default(), DRIVERS, daemon(), now),
            things: BTreeMap::new(),
            calls: vec![],
            commits: VecDeque::new(),
            disk: Kept::default(),
            events: BTreeMap::new(),
            disk_full: false,
            blind: BTreeSet::new(),
            hidden: BTreeSet::new(),
            attending: BTreeSet::new(),
            unseen: BTreeSet::new(),
            mute: false,
            crowded: false,
            left_behind: None,
            laid_ready: BTreeSet::new(),
            calm: false,
            started: vec![],
            deaths: 0,
            probed: BTreeSet::new(),
            set_by: 0,
            seen: Seen::new(),
        }
    }

    /// The daemon dies and another starts from the disk. A call under way took effect or did not.
    pub fn die(&mut self) {
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
                    && thing.driver != DriverKind::Kubernetes
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
        self.core = Core::new(self.disk.clone(), DRIVERS, daemon(), self.now);
        self.seen.died(&self.disk);
    }

    /// Somebody sets the host's clock. What shims wrote down before stays as it is, what is under
    /// way takes as long as it takes.
    pub fn set_clock(&mut self, millis: i64) {
        self.now = self.now.shifted(millis);
        for (at, _) in self.calls.iter_mut().chain(&mut self.commits) {
            *at = at.shifted(millis);
        }
        self.set_by += millis;
    }

    /// The same while the daemon runs, which notices before it takes anything in.
    pub fn step_clock(&mut self, millis: i64) {
        self.set_clock(millis);
        self.core.handle(Input::ClockStepped { millis }, self.now);
    }

    /// What the time would be had nobody set the clock.
    pub fn true_now(&self) -> Timestamp {
        self.now.shifted(-self.set_by)
    }

    pub fn take_effect(&mut self, call: &Call) {
        match call {
            Call::Start(launch) => {
                let driver = launch.spec.driver();
                let life = match driver {
                    DriverKind::Kubernetes if self.crowded => Life::Pending(Pending {
                        since: self.now,
                        why: Some(NO_ROOM.to_owned()),
                    }),
                    DriverKind::Process
                    | DriverKind::Docker
                    | DriverKind::Nomad
                    | DriverKind::Kubernetes => Life::Running { since: self.now },
                };
                let thing = Thing {
                    driver,
                    partition: launch.spec.workload.partition(),
                    spec: launch.spec.hash.clone(),
                    after: launch
                        .spec
                        .dependencies
                        .iter()
                        .map(|d| d.id.clone())
                        .collect(),
                    life,
                    earlier: Vec::new(),
                    health: None,
                };
                if !self.things.contains_key(&launch.instance) {
                    self.things.insert(launch.instance.clone(), thing);
                    self.started.push(launch.instance.clone());
                }
            }
            // What never ran is gone without a trace.
            Call::Stop(id, _) if self.things.get(id).is_some_and(Thing::never_ran) => {
                self.things.remove(id);
            }
            Call::Stop(id, _) => self.exit(id, ExitStatus::Code(143)),
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
            Call::Look(..) | Call::Synced(_) => {}
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

    /// The cluster takes an instance from its node. It starts some again by itself, inside the same
    /// instance, and tells of both with every look.
    pub fn disrupt(&mut self, id: &InstanceId) {
        let (again, by_itself) = (self.random.one_in(2), self.random.one_in(2));
        let (now, crowded) = (self.now, self.crowded);
        let Some(thing) = self.things.get_mut(id) else {
            return;
        };
        let Life::Running { since } = thing.life else {
            return;
        };
        let exit = Exit {
            status: ExitStatus::Code(1),
            oom: false,
            started_at: Some(since),
            at: now,
            killed: 0,
        };
        let disruption = Disruption {
            kind: DisruptionKind::Evicted,
            message: Some("The node was low on resource: memory".to_owned()),
        };
        if !again {
            thing.life = Life::Disrupted { exit, disruption };
            return;
        }
        let end = EarlierEnd {
            id: format!("pod-{}", thing.earlier.len()),
            exit,
            disruption: (!by_itself).then_some(disruption),
        };
        thing.earlier.push(end);
        thing.life = match crowded {
            true => Life::Pending(Pending {
                since: now,
                why: Some(NO_ROOM.to_owned()),
            }),
            false => Life::Running { since: now },
        };
        *self.seen.inside.entry(id.clone()).or_default() += 1;
    }

    /// The cluster has room again: what waited runs. Half of the hints are lost.
    pub fn make_room(&mut self) {
        self.crowded = false;
        let since = self.now;
        let mut begun = BTreeSet::new();
        for (id, thing) in &mut self.things {
            if let Life::Pending(_) = thing.life {
                thing.life = Life::Running { since };
                begun.insert(id.clone());
            }
        }
        if self.random.one_in(2) {
            let driver = DriverKind::Kubernetes;
            let instances = begun;
            self.core
                .handle(Input::Hinted { driver, instances }, self.now);
        }
    }

    pub fn exit(&mut self, id: &InstanceId, status: ExitStatus) {
        if let Some(thing) = self.things.get_mut(id)
            && let Life::Running { since } = thing.life
        {
            let exit = Exit {
                status,
                oom: false,
                started_at: Some(since),
                at: self.now,
                killed: 0,
            };
            thing.life = Life::Exited(exit);
        }
    }

    pub fn alive(&self) -> Vec<InstanceId> {
        let alive = self
            .things
            .iter()
            .filter(|(_, thing)| thing.life.is_alive());
        alive.map(|(id, _)| id.clone()).collect()
    }

    pub fn answer(&mut self, call: Call) {
        let unreachable = |driver, operation: &str| DriverError::Unreachable {
            driver,
            operation: operation.to_owned(),
            why: "simulated".to_owned(),
        };
        let input = match call {
            Call::Start(launch) if self.mute => {
                self.laid_ready.insert(launch.instance.clone());
                let driver = launch.spec.driver();
                Input::StartAnswered {
                    instance: launch.instance,
                    result: Err(unreachable(driver, "start")),
                }
            }
            Call::Start(launch) if self.is_in_the_way_of(&launch.instance) => {
                let what = format!("container {} is being removed", launch.instance.replica);
                Input::StartAnswered {
                    instance: launch.instance,
                    result: Err(DriverError::InTheWay { what }),
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
                    unreachable(launch.spec.driver(), "start")
                });
                Input::StartAnswered {
                    instance: launch.instance,
                    result,
                }
            }
            Call::Start(launch) => {
                let instance = launch.instance.clone();
                self.take_effect(&Call::Start(launch));
                let (handle, facts) = told(&instance);
                let thing = self.things.get(&instance);
                let driver = thing.map_or(DriverKind::Process, |thing| thing.driver);
                let result = match thing.map(|thing| &thing.life) {
                    Some(Life::Pending(pending)) => Ok(Started {
                        handle,
                        facts,
                        prober: prober_of(driver),
                        state: Began::Pending(pending.clone()),
                    }),
                    Some(_) | None => Ok(Started {
                        prober: prober_of(driver),
                        ..Started::running((handle, facts), self.now, None)
                    }),
                };
                Input::StartAnswered { instance, result }
            }
            Call::Stop(instance, _) if !self.calm && self.random.one_in(8) => {
                let result = Err(DriverError::StillAlive {
                    instance: instance.clone(),
                    why: "simulated".to_owned(),
                });
                Input::StopAnswered { instance, result }
            }
            Call::Stop(instance, driver) => {
                self.take_effect(&Call::Stop(instance.clone(), driver));
                let mut left = self.sightings(driver, &Scope::Instances([instance.clone()].into()));
                let result = Stopped::seen(left.pop());
                Input::StopAnswered { instance, result }
            }
            Call::Forget(_) => {
                self.take_effect(&call);
                return;
            }
            Call::Look(driver, scope) => {
                let is_blind = self.blind.contains(&driver);
                self.seen.looked(driver, is_blind);
                if scope == Scope::All && driver == DriverKind::Kubernetes && !is_blind {
                    self.seen.hidden = self.hidden.clone();
                    self.seen.attended = self.attending.clone();
                }
                let result = if is_blind {
                    Err(unreachable(driver, "list"))
                } else {
                    Ok(self.see(driver, &scope))
                };
                Input::Looked { driver, result }
            }
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

    fn is_in_the_way_of(&self, instance: &InstanceId) -> bool {
        let left = self.left_behind.as_ref();
        left.is_some_and(|(left, until)| left.replica == instance.replica && self.now < *until)
    }

    /// Whether a look at all is a look at where this is: the cluster is asked namespace by namespace.
    fn is_attended(&self, thing: &Thing) -> bool {
        let partition = thing.partition.as_ref();
        partition.is_none_or(|partition| self.attending.contains(partition))
    }

    fn sightings(&self, driver: DriverKind, scope: &Scope) -> Vec<Sighting> {
        let asked = |id: &InstanceId| match scope {
            Scope::All => true,
            Scope::Instances(some) => some.contains(id),
        };
        let is_hidden = |thing: &Thing| {
            let partition = thing.partition.as_ref();
            partition.is_some_and(|partition| self.hidden.contains(partition))
        };
        self.things
            .iter()
            .filter(|(id, thing)| thing.driver == driver && asked(id))
            .filter(|(id, thing)| !is_hidden(thing) && !self.unseen.contains(*id))
            .filter(|(_, thing)| *scope != Scope::All || self.is_attended(thing))
            .map(|(id, thing)| Sighting {
                instance: id.clone(),
                spec: thing.spec.clone(),
                handle: Some(told(id).0),
                facts: told(id).1,
                stop: StopPolicy::default(),
                after: thing.after.clone(),
                driver,
                partition: thing.partition.clone(),
                life: thing.life.clone(),
                earlier: thing.earlier.clone(),
                outdated: false,
                prober: prober_of(driver),
                health: thing.health.clone(),
            })
            .collect()
    }

    pub fn see(&self, driver: DriverKind, scope: &Scope) -> Look {
        let hidden = self.hidden.iter();
        let hidden = hidden.filter(|_| driver == DriverKind::Kubernetes);
        let why = "pods is forbidden".to_owned();
        let hidden = hidden.map(|it| (Hidden::Partition(it.clone()), why.clone()));
        let silent = "node n3 has not reported for 62 s".to_owned();
        let unseen = self
            .unseen
            .iter()
            .filter(|_| driver == DriverKind::Kubernetes);
        let unseen = unseen.map(|id| (Hidden::Instance(id.clone()), silent.clone()));
        Look {
            sightings: self.sightings(driver, scope),
            hidden: hidden.chain(unseen).collect(),
        }
    }

    /// Lets the core plan and queues what it asks for.
    pub fn turn(&mut self) {
        let Turn {
            commit,
            effects,
            looks,
            mut attend,
            probing,
            wake_at,
            ..
        } = self.core.turn(self.now);
        self.probed.extend(probing.into_iter().map(|(id, _)| id));
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
                Effect::Stop {
                    instance, driver, ..
                } => Call::Stop(instance, driver),
                Effect::Forget { instance, .. } => Call::Forget(instance),
                Effect::GiveUp { instance } => {
                    self.give_up(&instance);
                    continue;
                }
                Effect::Answer(answer) => {
                    commands::confirm(answer);
                    continue;
                }
            };
            let at = due(self);
            self.calls.push((at, call));
        }
        for (driver, scope) in looks {
            let attended = attend.remove(&driver).unwrap_or_default();
            if driver == DriverKind::Kubernetes {
                self.attending = attended;
            }
            let at = due(self);
            self.calls.push((at, Call::Look(driver, scope)));
        }
        self.check_plans();
        assert!(
            wake_at.is_some_and(|at| at > self.now),
            "the core would spin"
        );
    }

    /// Moves to the next thing that happens and lets it happen.
    pub fn step(&mut self) {
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

    pub fn apply(&mut self, spec: PipelineSpec) {
        self.apply_from(Origin::Watch, spec);
    }

    pub fn apply_from(&mut self, origin: Origin, spec: PipelineSpec) {
        self.apply_all(origin, vec![spec]);
    }

    /// Applies a file of these pipelines.
    pub fn apply_all(&mut self, origin: Origin, specs: Vec<PipelineSpec>) {
        self.seen.applied(&specs);
        let (reply, _) = tokio::sync::oneshot::channel();
        let source = Source {
            file: Some("/p.yaml".into()),
            watched: true,
            origin,
        };
        let command = Command::Apply {
            pipelines: specs,
            source,
            reply,
        };
        self.core.handle(Input::Command(command), self.now);
    }

    pub fn ask(&mut self, component: &str, request: Request) {
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

    pub fn calm_down(&mut self) {
        self.calm = true;
        self.blind.clear();
        self.hidden.clear();
        self.disk_full = false;
        self.make_room();
    }

    /// Runs until every wanted replica is ready and nothing is under way.
    pub fn converge(&mut self, wanted: &PipelineSpec, stopped: &BTreeSet<ComponentId>) {
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

    pub fn is_as_wanted(&self, wanted: &PipelineSpec, stopped: &BTreeSet<ComponentId>) -> bool {
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
