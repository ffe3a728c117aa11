//! The notifier's task: the only owner of what targets were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::conditions;
use crate::model::{
    ConditionKind, Generation, HeartbeatSpec, MessageStatus, Notifications, NotifySpec,
    NotifyTarget, PendingMessage, PipelineKey, Problem, Snapshot, StatusCondition, TargetName,
    TellEnd, Timestamp,
};
use crate::reconciler::{Asker, ReconcilerHandle};
use crate::store::Store;
use crate::watch::Touches;

use super::deliver;
use super::http::Failure;
use super::kept::{Changes, Kept};
use super::message::Message;
use super::queue::Queue;
use super::source::{self, Reading, Source};
use super::tracker::{Active, Tracker};

/// It wakes this often where nothing is due.
const AT_REST: Duration = Duration::from_secs(60);
/// A target that takes nothing for so long is a condition itself.
const UNDELIVERED: Duration = Duration::from_secs(300);
/// How long the owner of the state may take to answer before all is not well.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);
/// So many bytes of a verdict are sent at most, unless its first line is longer: healthchecks.io keeps
/// no more where one runs it oneself.
const VERDICT_LIMIT: usize = 10_000;
/// Questions that may wait.
const ASKS: usize = 16;

/// Why a notifier did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// No target of that name.
    #[error("there is no notification target `{0}`")]
    NoSuchTarget(TargetName),
    /// It did not take the message.
    #[error("`{target}` did not take it: {why}")]
    Refused {
        /// Which one.
        target: TargetName,
        /// What it answered instead.
        why: String,
    },
    /// The daemon is going.
    #[error("the daemon is shutting down")]
    Ending,
}

/// Who is told of each pipeline by its own file, and by which generation of it.
pub type OwnTargets = BTreeMap<PipelineKey, (Generation, Vec<NotifyTarget>)>;

enum Ask {
    List(oneshot::Sender<Notifications>),
    Test(TargetName, oneshot::Sender<Result<(), NotifyError>>),
}

/// The way to the notifier. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NotifyHandle {
    asks: mpsc::Sender<Ask>,
}

impl NotifyHandle {
    /// Who is told, and what waits to be.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn list(&self) -> Result<Notifications, NotifyError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.send(Ask::List(reply)).await;
        sent.map_err(|_| NotifyError::Ending)?;
        answer.await.map_err(|_| NotifyError::Ending)
    }

    /// Sends a test to a target, by the very way that messages take.
    ///
    /// # Errors
    /// When there is no such target, or it does not take the message.
    pub async fn test(&self, target: TargetName) -> Result<(), NotifyError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.send(Ask::Test(target, reply)).await;
        sent.map_err(|_| NotifyError::Ending)?;
        answer.await.map_err(|_| NotifyError::Ending)?
    }
}

/// One target with what it was told and what waits for it.
struct Target {
    spec: Arc<NotifyTarget>,
    tracker: Tracker,
    queue: Queue,
}

/// One dead man's switch.
struct Switch {
    spec: HeartbeatSpec,
    queue: Queue,
    next: Timestamp,
    under_way: bool,
}

/// Something that ended.
enum Ended {
    Delivery(TargetName, u64, Result<(), Failure>),
    Beat(TargetName, Result<(), Failure>),
    Read(Reading),
    /// What the definition of a pipeline says by now; `None` = there is none.
    Desired(PipelineKey, Option<(Generation, Vec<NotifyTarget>)>),
}

/// The notifier.
pub struct Notifier {
    clock: Clock,
    store: Store,
    owner: ReconcilerHandle,
    host: String,
    source: Source,
    /// What the file held when it was last read.
    text: Option<Vec<u8>>,
    problem: Option<(Problem, Timestamp)>,
    targets: BTreeMap<TargetName, Target>,
    /// By which generation of each pipeline its own targets are known; `None` = that is being asked.
    owners: BTreeMap<PipelineKey, Option<Generation>>,
    switches: BTreeMap<TargetName, Switch>,
    next_id: u64,
    /// What is not recorded yet.
    unrecorded: Changes,
    opened: Timestamp,
    reported: Vec<StatusCondition>,
    asks: mpsc::Receiver<Ask>,
    ends: mpsc::UnboundedReceiver<Ended>,
    ended: mpsc::UnboundedSender<Ended>,
}

impl Notifier {
    /// A notifier that goes on from what is kept in `settings`, and the way to it.
    pub fn new(
        clock: Clock,
        store: Store,
        owner: ReconcilerHandle,
        settings: &BTreeMap<String, String>,
        source: Source,
        owners: OwnTargets,
    ) -> (Self, NotifyHandle) {
        let opened = clock.now();
        let kept = Kept::read(settings, opened);
        let (ask, asks) = mpsc::channel(ASKS);
        // Unbounded, and still bounded: one end for each delivery under way.
        let (ended, ends) = mpsc::unbounded_channel();
        let mut notifier = Self {
            clock,
            store,
            owner,
            host: host_name(),
            source,
            text: None,
            problem: None,
            targets: BTreeMap::new(),
            owners: BTreeMap::new(),
            switches: BTreeMap::new(),
            next_id: kept.next,
            unrecorded: Changes::default(),
            opened,
            reported: Vec::new(),
            asks,
            ends,
            ended,
        };
        // What the file said when it was last good holds until it is read.
        notifier.adopt(kept.good, opened);
        for (pipeline, (generation, targets)) in owners {
            notifier.replace(targets, |name| name.is_of(&pipeline));
            notifier.owners.insert(pipeline, Some(generation));
        }
        for (name, condition, entry) in kept.told {
            if let Some(target) = notifier.targets.get_mut(&name) {
                target.tracker.remember(condition, entry);
            }
        }
        for message in kept.out {
            if let Some(target) = notifier.targets.get_mut(&message.target) {
                target.queue.push(message);
            }
        }
        (notifier, NotifyHandle { asks: ask })
    }

    /// Runs until `stop` is cancelled; `touches` tells when the file may have changed. What was not
    /// delivered is delivered by the next daemon.
    pub async fn run(mut self, mut touches: Touches, stop: CancellationToken) {
        let mut snapshots = self.owner.snapshots();
        let mut is_touched = true;
        let mut is_reading = false;
        loop {
            if is_touched && !is_reading {
                (is_touched, is_reading) = (false, true);
                self.look_at_file();
            }
            let snapshot = snapshots.borrow_and_update().clone();
            let wake_at = self.turn(&snapshot).await;
            let wake = wake_at.map(|at| self.clock.instant_of(at));
            let at_rest = Instant::now() + AT_REST;
            let until = wake.map_or(at_rest, |wake| wake.min(at_rest));
            tokio::select! {
                // Cancel-safe: a change that was not taken is seen again.
                changed = snapshots.changed() => if changed.is_err() { break },
                // Cancel-safe: receiving takes nothing out unless it wins.
                Some(ask) = self.asks.recv() => self.answer(ask),
                // Cancel-safe, as above.
                Some(ended) = self.ends.recv() => {
                    if matches!(ended, Ended::Read(_)) {
                        is_reading = false;
                    }
                    self.take(ended).await;
                }
                // Cancel-safe: a change that was not taken is told again.
                () = touches.next() => is_touched = true,
                // Cancel-safe: it only waits.
                () = sleep_until(until) => {}
                // Cancel-safe: cancellation stays set.
                () = stop.cancelled() => break,
            }
        }
    }

    fn look_at_file(&self) {
        let (source, text, ended) = (self.source.clone(), self.text.clone(), self.ended.clone());
        tokio::task::spawn_blocking(move || {
            // Nobody is there to hear it once the daemon ends.
            ended
                .send(Ended::Read(source::read(&source, text.as_deref())))
                .ok();
        });
    }

    /// Takes over what a good file says.
    fn adopt(&mut self, spec: NotifySpec, now: Timestamp) -> Changes {
        let mut changes = Changes::default();
        changes.good(&spec);
        let NotifySpec {
            targets,
            heartbeats,
        } = spec;
        changes.append(self.replace(targets, |name| !name.is_of_a_pipeline()));
        let mut before = std::mem::take(&mut self.switches);
        for spec in heartbeats {
            let known = before.remove(&spec.name);
            let switch = match known.filter(|known| known.spec == spec) {
                Some(known) => known,
                None => Switch {
                    spec,
                    queue: Queue::default(),
                    next: now,
                    under_way: false,
                },
            };
            self.switches.insert(switch.spec.name.clone(), switch);
        }
        changes
    }

    /// Puts `targets` in the place of those whose names are `of` their file.
    fn replace(&mut self, targets: Vec<NotifyTarget>, of: impl Fn(&TargetName) -> bool) -> Changes {
        let all = std::mem::take(&mut self.targets);
        let (mut before, others): (BTreeMap<_, _>, _) =
            all.into_iter().partition(|(name, _)| of(name));
        self.targets = others;
        for spec in targets {
            let target = match before.remove(&spec.name) {
                Some(known) => Target {
                    spec: Arc::new(spec),
                    ..known
                },
                None => Target {
                    spec: Arc::new(spec),
                    tracker: Tracker::default(),
                    queue: Queue::default(),
                },
            };
            self.targets.insert(target.spec.name.clone(), target);
        }
        // Who is not in the file any more is owed nothing.
        let mut changes = Changes::default();
        for (name, target) in before {
            for condition in target.tracker.names() {
                changes.told(&name, condition, None);
            }
            for (message, _) in target.queue.waiting() {
                changes.forget(message);
            }
        }
        changes
    }

    /// Asks what the definitions of pipelines say that have changed; those that are gone tell nobody.
    fn follow_owners(&mut self, snapshot: &Snapshot) -> Changes {
        let mut changes = Changes::default();
        let there: BTreeMap<PipelineKey, Generation> = snapshot
            .pipelines
            .iter()
            .filter(|one| !one.deleting)
            .map(|one| (one.key(), one.generation))
            .collect();
        let gone = self.owners.keys().filter(|key| !there.contains_key(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.owners.remove(&key);
            changes.append(self.replace(Vec::new(), |name| name.is_of(&key)));
        }
        for (key, generation) in there {
            match self.owners.get(&key) {
                Some(None) => continue,
                Some(Some(known)) if *known == generation => continue,
                Some(Some(_)) | None => {}
            }
            self.owners.insert(key.clone(), None);
            let (owner, ended) = (self.owner.clone(), self.ended.clone());
            tokio::spawn(async move {
                let desired = owner.desired(key.clone()).await.ok().flatten();
                let said = desired.map(|(generation, spec)| (generation, spec.notify.clone()));
                // Nobody is there to hear it once the daemon ends.
                ended.send(Ended::Desired(key, said)).ok();
            });
        }
        changes
    }

    /// Tells what is to be told, begins what is due. Answers when to look again at the latest.
    async fn turn(&mut self, snapshot: &Snapshot) -> Option<Timestamp> {
        let now = self.clock.now();
        let gone = self.follow_owners(snapshot);
        if !gone.is_empty() {
            self.record(gone).await;
        }
        let none = BTreeMap::new();
        let of_pipelines = snapshot.pipelines.iter();
        let active: Vec<Active<'_>> = of_pipelines
            .flat_map(|one| {
                one.conditions
                    .iter()
                    .map(|condition| (condition, &one.labels))
            })
            .chain(
                snapshot
                    .conditions
                    .iter()
                    .map(|condition| (condition, &none)),
            )
            .collect();
        let mut changes = Changes::default();
        let mut wakes = Vec::new();
        let mut messages = Vec::new();
        for (name, target) in &mut self.targets {
            let step = target.tracker.step(&target.spec, &active, self.opened, now);
            for (condition, entry) in &step.changed {
                changes.told(name, condition, entry.as_ref());
            }
            for draft in step.drafts {
                let message = Message {
                    id: self.next_id,
                    target: name.clone(),
                    status: draft.status,
                    at: now,
                    conditions: draft.conditions,
                };
                self.next_id += 1;
                changes.put(&message);
                messages.push(message);
            }
            wakes.extend(step.wake_at);
        }
        let mut replaced = Changes::default();
        // What is sent is recorded first: its number is never given to another.
        self.record(changes).await;
        for message in messages {
            if let Some(target) = self.targets.get_mut(&message.target) {
                for gone in target.queue.push(message) {
                    replaced.forget(&gone);
                }
            }
        }
        if !replaced.is_empty() {
            self.record(replaced).await;
        }
        self.begin(now);
        self.beat(snapshot, now);
        self.report(now).await;
        wakes.extend(
            self.targets
                .values()
                .filter_map(|target| target.queue.wake_at()),
        );
        let switches = self.switches.values().filter(|switch| !switch.under_way);
        wakes.extend(switches.map(|switch| switch.next));
        let queues = self.queues();
        wakes.extend(queues.filter_map(|(_, queue)| {
            let at = queue.failing()?.0.after(UNDELIVERED);
            (at > now).then_some(at)
        }));
        wakes.into_iter().min()
    }

    /// Records `changes`, and what could not be recorded before.
    async fn record(&mut self, changes: Changes) {
        self.unrecorded.append(changes);
        self.unrecorded.record(&self.store).await;
    }

    fn queues(&self) -> impl Iterator<Item = (&TargetName, &Queue)> {
        let targets = self
            .targets
            .iter()
            .map(|(name, target)| (name, &target.queue));
        let switches = self
            .switches
            .iter()
            .map(|(name, switch)| (name, &switch.queue));
        targets.chain(switches)
    }

    /// Begins the delivery of what is due.
    fn begin(&mut self, now: Timestamp) {
        for (name, target) in &mut self.targets {
            let Some(message) = target.queue.begin(now) else {
                continue;
            };
            let (spec, name) = (Arc::clone(&target.spec), name.clone());
            let (ended, host) = (self.ended.clone(), self.host.clone());
            tokio::spawn(async move {
                let result = deliver::deliver(&spec, &message, &host, now).await;
                // Nobody is there to hear it once the daemon ends.
                ended.send(Ended::Delivery(name, message.id, result)).ok();
            });
        }
    }

    /// Tells dead man's switches whose time has come.
    fn beat(&mut self, snapshot: &Snapshot, now: Timestamp) {
        for (name, switch) in &mut self.switches {
            if switch.under_way || switch.next > now {
                continue;
            }
            switch.under_way = true;
            switch.next = now.after(switch.spec.every.get());
            let trouble = trouble(snapshot);
            let (address, name) = (switch.spec.address.clone(), name.clone());
            let (ended, owner) = (self.ended.clone(), self.owner.clone());
            tokio::spawn(async move {
                let trouble = match trouble {
                    Some(trouble) => Some(trouble),
                    None => silence(&owner).await,
                };
                let result = deliver::beat(&address, trouble.as_deref()).await;
                // Nobody is there to hear it once the daemon ends.
                ended.send(Ended::Beat(name, result)).ok();
            });
        }
    }

    async fn take(&mut self, ended: Ended) {
        let now = self.clock.now();
        match ended {
            Ended::Delivery(name, id, result) => {
                let Some(target) = self.targets.get_mut(&name) else {
                    return;
                };
                if let Err(Failure { why, .. }) = &result {
                    tracing::warn!(target = %name, %why, "a notification was not taken");
                }
                let is_first = target
                    .queue
                    .waiting()
                    .next()
                    .is_some_and(|(one, _)| one.id == id);
                // One of a target that left the file and came back is not known any more.
                if is_first && let Some(done) = target.queue.ended(result, now) {
                    let mut changes = Changes::default();
                    changes.forget(&done);
                    self.record(changes).await;
                }
            }
            Ended::Beat(name, result) => {
                if let Some(switch) = self.switches.get_mut(&name) {
                    switch.under_way = false;
                    match result {
                        Ok(()) => switch.queue.well(now),
                        Err(Failure { why, .. }) => {
                            tracing::warn!(target = %name, %why, "a heartbeat was not taken");
                            switch.queue.ill(why, now);
                        }
                    }
                }
            }
            Ended::Desired(key, None) => {
                self.owners.remove(&key);
            }
            Ended::Desired(key, Some((generation, targets))) => {
                let changes = self.replace(targets, |name| name.is_of(&key));
                self.owners.insert(key, Some(generation));
                if !changes.is_empty() {
                    self.record(changes).await;
                }
            }
            Ended::Read(Reading::Same) => {}
            Ended::Read(Reading::Good { text, spec }) => {
                self.text = Some(text);
                if self.problem.take().is_some() {
                    tracing::info!(file = %self.source.path().display(), "the file is good again");
                }
                let changes = self.adopt(spec, now);
                self.record(changes).await;
            }
            Ended::Read(Reading::Bad { text, problem }) => {
                self.text = Some(text);
                let since = self.problem.as_ref().map_or(now, |(_, since)| *since);
                if let Some(problem) = problem {
                    let why = problem.in_place();
                    tracing::warn!(%why, "who is told stays as it was");
                    self.problem = Some((problem, since));
                }
            }
        }
    }

    /// Has `status` say what is wrong with telling.
    async fn report(&mut self, now: Timestamp) {
        let mut found = Vec::new();
        if let Some((problem, since)) = &self.problem {
            let mut condition =
                conditions::whole(ConditionKind::Rejected, *since, problem.in_place());
            condition.about = Some("notify.yaml".to_owned());
            found.push(condition);
        }
        for (name, queue) in self.queues() {
            if let Some((since, why)) = queue.failing()
                && since.after(UNDELIVERED) <= now
            {
                let kind = ConditionKind::Undelivered;
                let mut condition = conditions::whole(kind, since, why.to_owned());
                condition.about = Some(name.to_string());
                found.push(condition);
            }
        }
        if found != self.reported {
            self.owner
                .report_conditions(Asker::Notifier, found.clone())
                .await;
            self.reported = found;
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::List(reply) => {
                // Who asked may have gone.
                reply.send(self.list()).ok();
            }
            Ask::Test(name, reply) => self.test(name, reply),
        }
    }

    fn test(&mut self, name: TargetName, reply: oneshot::Sender<Result<(), NotifyError>>) {
        let now = self.clock.now();
        let (host, owner) = (self.host.clone(), self.owner.clone());
        let target = self
            .targets
            .get(&name)
            .map(|target| Arc::clone(&target.spec));
        let switch = self.switches.get(&name).map(|switch| switch.spec.clone());
        let id = self.next_id;
        self.next_id += 1;
        tokio::spawn(async move {
            let result = match (target, switch) {
                (Some(target), _) => {
                    let message = Message {
                        id,
                        target: name.clone(),
                        status: MessageStatus::Test,
                        at: now,
                        conditions: Vec::new(),
                    };
                    deliver::deliver(&target, &message, &host, now).await
                }
                (None, Some(switch)) => {
                    let snapshot = owner.snapshots().borrow().clone();
                    let trouble = trouble(&snapshot);
                    deliver::beat(&switch.address, trouble.as_deref()).await
                }
                (None, None) => {
                    // Who asked may have gone.
                    reply.send(Err(NotifyError::NoSuchTarget(name))).ok();
                    return;
                }
            };
            let answer = result.map_err(|failure| NotifyError::Refused {
                target: name,
                why: failure.why,
            });
            // Who asked may have gone.
            reply.send(answer).ok();
        });
    }

    fn list(&self) -> Notifications {
        let targets = self.targets.iter().map(|(name, target)| {
            let spec = &target.spec;
            target
                .queue
                .status(name.clone(), spec.to.to_string(), when(spec))
        });
        let switches = self.switches.iter().map(|(name, switch)| {
            let to = format!("heartbeat {}", switch.spec.address);
            let when = format!("every {}", switch.spec.every);
            switch.queue.status(name.clone(), to, when)
        });
        let mut pending: Vec<PendingMessage> = self
            .targets
            .values()
            .flat_map(|target| target.queue.waiting())
            .map(|(message, next_try)| PendingMessage {
                id: message.id_on(&self.host),
                target: message.target.clone(),
                status: message.status,
                at: message.at,
                summary: message.summary(),
                next_try,
            })
            .collect();
        pending.sort_by_key(|message| message.at);
        Notifications {
            file: self.source.path().to_owned(),
            problem: self.problem.as_ref().map(|(problem, _)| problem.clone()),
            targets: targets.chain(switches).collect(),
            pending,
        }
    }
}

/// Which conditions a target is told of, in words.
fn when(target: &NotifyTarget) -> String {
    let mut words = if target.when.is_empty() {
        "all".to_owned()
    } else {
        let kinds = target.when.iter().map(ToString::to_string);
        kinds.collect::<Vec<_>>().join(", ")
    };
    if let Some(lasting) = target.lasting {
        words.push_str(&format!(" after {lasting}"));
    }
    if let Some(repeat) = target.repeat {
        words.push_str(&format!(", repeated every {repeat}"));
    }
    match target.resolved {
        TellEnd::Yes => {}
        TellEnd::No => words.push_str(", ends untold"),
    }
    words
}

/// What keeps a dead man's switch from being told that all is well, as far as it is kept there.
fn trouble(snapshot: &Snapshot) -> Option<String> {
    let all = snapshot.all_conditions();
    let mut text = String::new();
    for (index, one) in all.iter().enumerate() {
        let line = format!("{} {}: {}\n", one.kind, one.subject(), one.why);
        if !text.is_empty() && text.len() + line.len() > VERDICT_LIMIT {
            text.push_str(&format!("and {} more", all.len() - index));
            break;
        }
        text.push_str(&line);
    }
    (!all.is_empty()).then(|| text.trim_end().to_owned())
}

/// What is wrong with the owner of the state, if it does not answer.
async fn silence(owner: &ReconcilerHandle) -> Option<String> {
    let nobody = PipelineKey {
        namespace: Default::default(),
        name: "nobody".parse().expect("it is a label"),
    };
    let answer = timeout(OWNER_PATIENCE, owner.desired(nobody)).await;
    match answer {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the reconciler does not answer".to_owned()),
    }
}

/// The host's name, as ids bear it.
fn host_name() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = read
        .trim()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    if name.is_empty() {
        "host".to_owned()
    } else {
        name
    }
}
