//! Where components run: the contract that every driver keeps, and the drivers.
//!
//! **Expected flow.** The reconciler records the intent to start an instance, calls
//! [`Driver::start`], records the answer. Later it calls [`Driver::stop`], records how the instance
//! ended as the answer says, and calls [`Driver::forget`]. What ends by itself is told by
//! [`Driver::observe`].
//!
//! **Guarantees of a driver.** Every call is idempotent and keyed by instance id. Whatever it
//! started carries its own description, so [`Driver::observe`] finds it after a crash of
//! everything of ours. It decides nothing: no restarts, no order, no policy.
//!
//! **Caveats.** [`Driver::hints`] is a reason to look, never the truth; it may lose and repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use self::logs::filter::Filter;
use crate::model::{
    Boot, ComponentId, ComponentSpec, DriverKind, EngineHealth, Facts, Generation, Handle, Hidden,
    ImageChoice, InstanceId, Limit, Partition, Pending, PipelineKey, Prober, ReplicaKey, Sighting,
    StartFailure, StopPolicy, Timestamp,
};

#[cfg(test)]
mod conformance;
pub mod docker;
#[cfg(test)]
pub mod fake;
mod inputs;
pub mod kubernetes;
pub mod logs;
pub mod nomad;
pub mod process;
pub mod readers;
mod rendering;
pub mod usage;
pub mod variables;

/// What a driver may do to what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// What has to be done beside the calls of the daemon: output is copied, ends are recorded, what
    /// somebody has paused runs on.
    Tends,
    /// Nothing: another daemon may own it, or none.
    OnlyLooks,
}

/// The capabilities that a program in a container keeps: what one that begins as root commonly needs.
/// All others are taken away.
pub(crate) const CAPABILITIES: [&str; 7] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "SETUID",
    "SETGID",
    "KILL",
    "NET_BIND_SERVICE",
];

/// One place where components run.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Which one.
    fn kind(&self) -> DriverKind;

    /// Everything in `scope` that carries our mark, alive or dead, with how it ended; and what of it
    /// could not be looked at, whose absence means nothing.
    ///
    /// # Errors
    /// [`DriverError::Unreachable`] when nothing is known: the driver is then *blind*, and absence
    /// from a failed look means nothing.
    async fn observe(&self, scope: &Scope) -> Result<Look, DriverError>;

    /// The partitions that components name, or that hold instances: from now on each look at all is a
    /// look at these too. Called before such a look.
    fn attend(&self, partitions: &BTreeSet<Partition>) {
        // Most drivers have no parts.
        debug_assert!(partitions.is_empty(), "{} has no partitions", self.kind());
    }

    /// Starts an instance. Calling it again for the same instance answers what the first call did.
    ///
    /// A start that its engine has accepted and cannot carry out yet is answered at once, with
    /// [`Began::Pending`]: what may take hours is no call. From then on [`Driver::observe`] says
    /// [`Life::Pending`](crate::model::Life::Pending), also to the next daemon, and
    /// [`Driver::stop`] gives it up.
    ///
    /// # Errors
    /// [`DriverError::Refused`] and [`DriverError::InTheWay`] when certainly nothing runs; any other
    /// error leaves that open, and only [`Driver::observe`] can tell.
    async fn start(&self, launch: &Launch) -> Result<Started, DriverError>;

    /// Stops an instance and all it forked: signal, grace, kill, and a look that nothing is left, which
    /// it answers with. One that is already gone is a success.
    ///
    /// # Errors
    /// [`DriverError::StillAlive`] when something survived.
    async fn stop(&self, instance: &InstanceId, how: &StopPolicy) -> Result<Stopped, DriverError>;

    /// Removes what is left of an instance whose end has been recorded. Its logs stay, within
    /// their limits. One that is already gone is a success; a live one is left alone.
    ///
    /// # Errors
    /// When the leftovers could not be removed; they are then seen again and forgotten later.
    async fn forget(&self, instance: &InstanceId) -> Result<(), DriverError>;

    /// The kept log lines that `query` asks for, oldest first, merged by time.
    ///
    /// # Errors
    /// When the logs cannot be read at all; a later error arrives in the stream.
    async fn logs(&self, query: &LogQuery) -> Result<LogStream, DriverError>;

    /// What the instances that carry our mark were started from, for a store that was lost.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn describe(&self) -> Result<Vec<Description>, DriverError> {
        Ok(Vec::new())
    }

    /// The limits of components that it cannot enforce where it runs them.
    fn unenforced(&self) -> BTreeSet<Limit> {
        BTreeSet::new()
    }

    /// The present boot of the host, where nothing that it runs outlives one.
    fn boot(&self) -> Option<Boot> {
        None
    }

    /// Which instances are worth a look.
    fn hints(&self) -> Hints;
}

/// Which instances are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that carry our mark.
    All,
    /// These; one that does not exist is simply absent from the answer.
    Instances(BTreeSet<InstanceId>),
}

/// What a look saw, and what it could not see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// What was seen.
    pub sightings: Vec<Sighting>,
    /// What nothing is known of, and why. A look at all names all of that; one at some instances what
    /// concerns these.
    pub hidden: BTreeMap<Hidden, String>,
}

impl Look {
    /// Whether it is sure that nothing is there.
    pub fn is_empty(&self) -> bool {
        self.sightings.is_empty() && self.hidden.is_empty()
    }
}

impl From<Vec<Sighting>> for Look {
    /// A look that saw all there is.
    fn from(sightings: Vec<Sighting>) -> Self {
        Self {
            sightings,
            hidden: BTreeMap::new(),
        }
    }
}

/// All that a driver needs to start one instance.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The new instance.
    pub instance: InstanceId,
    /// Its component.
    pub spec: Arc<ComponentSpec>,
    /// The pipeline's generation by which it was decided.
    pub generation: Generation,
    /// The pipeline's file, for the instance to carry.
    pub file: Option<PathBuf>,
    /// Variables that flowctl injects; the user's own values win over them.
    pub injected: BTreeMap<String, String>,
    /// Which image it is started from, where it is a container.
    pub image: ImageChoice,
    /// Cancelled once nobody wants the instance any more. Whatever takes long and leaves nothing
    /// behind, such as a pull, then ends with a refusal; whatever else was begun is finished, and
    /// stopped as usual.
    pub given_up: CancellationToken,
}

/// What an instance was started from, as it carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Which instance.
    pub instance: InstanceId,
    /// Its component.
    pub spec: Arc<ComponentSpec>,
    /// The pipeline's generation by which it was decided.
    pub generation: Generation,
    /// The pipeline's file.
    pub file: Option<PathBuf>,
}

/// A started instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// How to address it.
    pub handle: Handle,
    /// What its driver tells of it.
    pub facts: Facts,
    /// Who asks its probes.
    pub prober: Prober,
    /// Whether its program runs.
    pub state: Began,
}

impl Started {
    /// An instance whose program has run since `since`, and whose probes the daemon asks.
    pub fn running(
        (handle, facts): (Handle, Facts),
        since: Timestamp,
        health: Option<EngineHealth>,
    ) -> Self {
        let state = Began::Running { since, health };
        Self {
            handle,
            facts,
            prober: Prober::Flowctl,
            state,
        }
    }
}

/// Whether the program of a started instance runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Began {
    /// It does.
    Running {
        /// Since when.
        since: Timestamp,
        /// What its engine says of its health, where that runs a check of its own.
        health: Option<EngineHealth>,
    },
    /// Its engine has accepted it, and starts it by itself once it can.
    Pending(Pending),
}

/// What is left of an instance that was stopped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stopped {
    seen: Option<Box<Sighting>>,
}

impl Stopped {
    /// What a look after the stop has seen; `None` = nothing is left to tell how it ended.
    ///
    /// # Errors
    /// When it was seen alive.
    pub fn seen(seen: Option<Sighting>) -> Result<Self, DriverError> {
        match &seen {
            Some(alive) if alive.life.is_alive() => Err(DriverError::StillAlive {
                instance: alive.instance.clone(),
                why: "it was stopped, and is seen alive".to_owned(),
            }),
            Some(_) | None => Ok(Self {
                seen: seen.map(Box::new),
            }),
        }
    }

    /// How it ended; `None` = nothing is left to tell that.
    pub fn into_sighting(self) -> Option<Sighting> {
        self.seen.map(|seen| *seen)
    }
}

/// What went wrong in a driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// Certainly nothing was started.
    #[error("{}", .0.message)]
    Refused(StartFailure),
    /// Certainly nothing was started, since what an earlier run of the same replica left behind is in
    /// the way. It is going, by itself or because it was made to: another start soon is worth a
    /// try, and none of it is a failure of the component.
    #[error("{what}")]
    InTheWay {
        /// What, and what becomes of it.
        what: String,
    },
    /// The driver did not answer, or its answer could not be understood: nothing is known.
    #[error("the {driver} driver could not {operation}: {why}")]
    Unreachable {
        /// Which driver.
        driver: DriverKind,
        /// What was tried.
        operation: String,
        /// What happened.
        why: String,
    },
    /// A stop left something alive.
    #[error("{instance} is still alive: {why}")]
    StillAlive {
        /// Which instance.
        instance: InstanceId,
        /// What survived.
        why: String,
    },
}

/// The set of instances worth a look, shared between a driver, which raises, and its one reader.
/// Raising the same instance often costs one look.
#[derive(Clone, Default)]
pub struct Hints {
    inner: Arc<HintsInner>,
}

#[derive(Default)]
struct HintsInner {
    raised: Mutex<BTreeSet<InstanceId>>,
    wake: Notify,
    said: Mutex<BTreeMap<InstanceId, String>>,
    listen: Notify,
}

impl Hints {
    /// Says that `instance` may have changed.
    pub fn raise(&self, instance: InstanceId) {
        self.inner
            .raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(instance);
        self.inner.wake.notify_one();
    }

    /// Says what the start of `instance` is at, where it may take a while. The latest word counts.
    pub fn say(&self, instance: InstanceId, what: String) {
        self.inner
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(instance, what);
        self.inner.listen.notify_one();
    }

    /// Waits until something was said and takes all of it. Cancel-safe: what was said stays until it
    /// is returned.
    pub async fn heard(&self) -> BTreeMap<InstanceId, String> {
        loop {
            let said = std::mem::take(
                &mut *self
                    .inner
                    .said
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            if !said.is_empty() {
                return said;
            }
            self.inner.listen.notified().await;
        }
    }

    /// Waits until something was raised and takes all of it. Cancel-safe: what was raised stays
    /// until it is returned.
    pub async fn taken(&self) -> BTreeSet<InstanceId> {
        loop {
            let raised = std::mem::take(
                &mut *self
                    .inner
                    .raised
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            if !raised.is_empty() {
                return raised;
            }
            self.inner.wake.notified().await;
        }
    }
}

/// Which log lines are wanted.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Of which pipeline.
    pub pipeline: PipelineKey,
    /// Of which components; empty = all.
    pub components: BTreeSet<ComponentId>,
    /// Of all replicas of these but those.
    pub without: BTreeSet<ReplicaKey>,
    /// Only lines at or after this.
    pub since: Option<Timestamp>,
    /// Only lines before this.
    pub until: Option<Timestamp>,
    /// Only the last so many per component, of those that `filter` wants.
    pub tail: Option<u64>,
    /// Which lines, by what stands in them; `None` = all.
    pub filter: Option<Arc<Filter>>,
    /// Which instances.
    pub runs: Runs,
    /// Whether the stream ends.
    pub follow: Follow,
}

impl LogQuery {
    /// Whether the stream goes on with what is written later: the run before the latest is over.
    pub(crate) fn follows(&self) -> bool {
        self.runs == Runs::All && !matches!(self.follow, Follow::No)
    }
}

/// The lines of which instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// All that are kept.
    All,
    /// The one before the latest, of each replica.
    Previous,
}

/// Whether a log stream ends.
#[derive(Clone, Debug)]
pub enum Follow {
    /// It ends with what is kept now.
    No,
    /// It goes on over restarts and rotations until the reader leaves.
    Yes,
    /// The same until this is cancelled; then it ends, within a second, with what is kept by then.
    Until(CancellationToken),
}

/// One line that a component wrote, put together again where it had been split; of one that is very
/// long, or was begun and not ended yet, a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Nanoseconds since the Unix epoch.
    pub at_nanos: i64,
    /// Who wrote it.
    pub replica: ReplicaKey,
    /// Which run of it.
    pub incarnation: u64,
    /// Where to.
    pub stream: OutputStream,
    /// What, without the newline; not necessarily UTF-8, but no character of it is cut.
    pub text: Vec<u8>,
    /// Whether the line ends with it; else the next one of the same stream and instance is the rest.
    pub ends: bool,
}

/// The two streams of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Log lines as they are read. The driver ends it by dropping its side; the reader likewise.
pub type LogStream = mpsc::Receiver<Result<LogLine, DriverError>>;
