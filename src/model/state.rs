//! What is: instances, how they ended, and what is remembered of each replica.
//!
//! [`Record`] is exactly what the store keeps; there is no second, "persisted" form of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::claim::Claim;
use super::handle::{Facts, Handle};
use super::ids::{ComponentId, InstanceId, SpecHash};
use super::partition::Partition;
use super::spec::{ComponentSpec, DriverKind, Signal, StopPolicy};
use super::time::Timestamp;

/// All that is remembered of one replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
pub struct Record {
    /// The number of the newest instance ever minted; 0 = none yet.
    pub incarnation: u64,
    /// What a person last asked for.
    pub intent: RunIntent,
    /// The instance that lives, is being started or is being stopped. At most one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The revision whose dependencies were satisfied once: they gate it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<SpecHash>,
    /// Ends, failures and restarts.
    pub history: History,
    /// The image that its latest ended container ran: a restart of the same revision runs it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<RecordedImage>,
    /// Starts in a row of which their driver could not say what came of them, and of which nothing
    /// was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<UnansweredStarts>,
}

/// Starts that are known neither to have failed nor to have happened. They are no failures of the
/// component, so its restart policy does not apply to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredStarts {
    /// The revision that was started: another one is not held back by it.
    pub spec: SpecHash,
    /// The number of the latest of these instances.
    pub incarnation: u64,
    /// How many, at least 1.
    pub times: u32,
    /// What the driver said of the latest.
    pub why: String,
    /// When another is started.
    pub retry_at: Timestamp,
    /// What kept it from being known, or from being.
    #[serde(default)]
    pub trouble: StartTrouble,
}

/// Why a start came to nothing that is no failure of its component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartTrouble {
    /// Its driver could not say what came of it.
    #[default]
    Unanswered,
    /// What an earlier run left behind is in the way.
    Leftover,
}

/// The image that a container ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedImage {
    /// The revision whose image name was resolved to it.
    pub spec: SpecHash,
    /// The run that ran it.
    pub incarnation: u64,
    /// Names exactly this image to the engine: `repository@digest`, or its id.
    pub reference: String,
}

/// Which image a container is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageChoice {
    /// What its name means now, pulled as its policy says.
    ByPolicy,
    /// What its name means now: it was pulled before the last one was stopped.
    Pulled,
    /// The one that an earlier run of the same revision ran: a name that moved changes nothing.
    Recorded(String),
}

/// Whether a requested restart looks for a newer image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// The image that was resolved before runs again.
    #[default]
    No,
    /// The image is pulled first, and what its name means then runs.
    Yes,
}

/// What a person last asked of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase", tag = "want")]
pub enum RunIntent {
    /// Nothing: it runs because its pipeline says so.
    #[default]
    Run,
    /// `flowctl start`: ends of instances up to `upto` no longer hold it back.
    Start {
        /// When it was asked.
        at: Timestamp,
        /// The newest incarnation by then.
        upto: u64,
    },
    /// `flowctl restart`: an instance up to `upto` is replaced.
    Restart {
        /// When it was asked.
        at: Timestamp,
        /// The newest incarnation by then.
        upto: u64,
        /// Whether its image is pulled first.
        #[serde(default)]
        pull: Pull,
    },
    /// `flowctl stop`: it stays down until a person says otherwise.
    Stop {
        /// When it was asked.
        at: Timestamp,
    },
}

/// One run of a replica, from the intent to start it until its end was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity, and the mark it carries.
    pub id: InstanceId,
    /// What it was started from.
    pub spec: SpecHash,
    /// Who runs it.
    pub driver: DriverKind,
    /// In which part of what that runs; `None` = the driver's own, or it has no parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<Partition>,
    /// How it is stopped, whatever the file says by then.
    pub stop: StopPolicy,
    /// What it depended on when it started: decides the order of stops after it left the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ComponentId>,
    /// What it has for itself, once its component's definition says otherwise or is gone: until its
    /// end nobody else may take that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Claim>,
    /// That its work stands still, while it does: the next daemon need not wait to see that again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
    /// How its driver addresses it; `None` until the driver answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<Handle>,
    /// What its driver tells of it.
    #[serde(default, skip_serializing_if = "Facts::is_empty")]
    pub facts: Facts,
    /// Who asks its probes.
    #[serde(default, skip_serializing_if = "Prober::is_flowctl")]
    pub prober: Prober,
    /// The ends inside it that were counted: those that its engine has restarted it after.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub counted: BTreeSet<String>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// That the work of an instance stands still for too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// Since when it counts as that.
    pub since: Timestamp,
    /// What is watched was last, as text; `None` = nothing was ever seen.
    pub value: Option<String>,
    /// When that had changed; `None` = it was never seen to.
    pub advanced_at: Option<Timestamp>,
}

/// Where an instance is in its life. Its end is not a phase: an ended instance is history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The intent is recorded. Next: the driver says it runs, or could not start it.
    Starting {
        /// When the intent was recorded.
        since: Timestamp,
        /// What its engine has it wait for, once the engine has accepted it; `None` = the driver has
        /// not answered yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pending: Option<Pending>,
    },
    /// It runs. Next: it ends, or a stop is decided.
    Running {
        /// When the program started.
        since: Timestamp,
        /// What its probes say.
        health: Health,
    },
    /// A stop was decided. Next: the driver says it is gone.
    Stopping {
        /// When the stop was decided.
        since: Timestamp,
        /// When the program had started.
        started_at: Timestamp,
        /// Why.
        cause: StopCause,
        /// The last attempt that failed; it is tried again at `retry_at`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<StopFailure>,
    },
}

/// That an engine has accepted an instance and has not begun to run it. The engine begins it by itself
/// once it can, also while no daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Since when it waits.
    pub since: Timestamp,
    /// What for, in the engine's own words; `None` = the engine does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its engine has not started it yet")?;
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// A stop that did not end the whole tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopFailure {
    /// What survived, or what the driver said.
    pub why: String,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// Why an instance is being stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// The component left the file, or its pipeline was deleted.
    Removed,
    /// `replicas` shrank below it.
    ScaledDown,
    /// The file wants another revision.
    SpecChanged,
    /// A person said `restart`.
    RestartRequested,
    /// A person said `stop`, or `down`.
    StopRequested,
    /// The liveness probe failed; the text is the last answer.
    LivenessFailed(String),
    /// The startup probe never passed; the text is the last answer.
    StartupFailed(String),
    /// Its work stood still for too long; the text says what did.
    Stalled(String),
    /// A second live instance of one replica, or one that nobody owns.
    Stray,
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("removed from the pipeline"),
            Self::ScaledDown => f.write_str("scaled down"),
            Self::SpecChanged => f.write_str("its definition changed"),
            Self::RestartRequested => f.write_str("restart requested"),
            Self::StopRequested => f.write_str("stop requested"),
            Self::LivenessFailed(why) => write!(f, "liveness probe failed: {why}"),
            Self::StartupFailed(why) => write!(f, "startup probe failed: {why}"),
            Self::Stalled(why) => write!(f, "stalled: {why}"),
            Self::Stray => f.write_str("nothing owns it"),
        }
    }
}

/// One boot of this host. A process of another one is over, whatever is left to tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// `/proc/sys/kernel/random/boot_id`.
    pub id: String,
    /// When it began.
    pub began_at: Timestamp,
}

/// What tells a process from any other, before and after it: a pid alone is re-used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// `/proc/sys/kernel/random/boot_id` when it started.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: start time in clock ticks since boot.
    pub start_ticks: u64,
}

/// What the probes of a running instance say. The tallies live in memory only: a daemon restart
/// keeps `started` and `ready` and counts anew.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The startup probe passed, or there is none.
    pub started: bool,
    /// Dependents may count on it.
    pub ready: bool,
    /// When `ready` last changed; `None` = it was never ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_changed: Option<Timestamp>,
    /// Why it is not ready, in words, from the last probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Its readiness waits for its registration with the control plane.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unregistered: bool,
    /// What its engine says, which runs a check of its own. It counts where the file names no
    /// readiness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineHealth>,
    /// It has to be replaced, since its liveness or startup probe failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condemned: Option<StopCause>,
    /// Results of the startup probe in a row.
    #[serde(skip)]
    pub startup: ProbeTally,
    /// Results of the readiness probe in a row.
    #[serde(skip)]
    pub readiness: ProbeTally,
    /// Results of the liveness probe in a row.
    #[serde(skip)]
    pub liveness: ProbeTally,
}

/// Who asks whether an instance is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prober {
    /// The daemon asks its probes. Where its file names no readiness probe, what an engine says of a
    /// check of its own counts.
    #[default]
    Flowctl,
    /// Its engine asks all of its probes, and acts on liveness and startup; what it says is what
    /// counts.
    Engine,
}

impl Prober {
    /// Whether that is the daemon.
    fn is_flowctl(&self) -> bool {
        *self == Self::Flowctl
    }
}

/// What an engine says of an instance for which it runs a check, as that of an image (HEALTHCHECK).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineHealth {
    /// The check has not passed yet, and has not failed too often.
    Starting,
    /// It passes.
    Healthy,
    /// It failed too often, the last time with these words.
    Unhealthy(String),
}

/// Results in a row of one probe; one of the two figures is always 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProbeTally {
    /// Failures in a row.
    pub failures: u32,
    /// Passes in a row.
    pub successes: u32,
}

/// Which of the three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// Gates the other two.
    Startup,
    /// Feeds `ready`.
    Readiness,
    /// Restarts when failing.
    Liveness,
}

/// What one ask of a probe gave. An error of the prober itself is not an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It passed.
    Pass,
    /// It failed; the text says how, without the body that came back.
    Fail(String),
}

/// Whether an ask of a probe counts towards its thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counts {
    /// It came sooner than the probe's period asks for, to notice a fast starter: its failure
    /// counts for nothing.
    Early,
    /// It came at the probe's own pace.
    Counted,
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Code, signal, or unknown.
    pub status: ExitStatus,
    /// The kernel's out-of-memory killer did it.
    #[serde(default)]
    pub oom: bool,
    /// When the program had started; `None` when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub at: Timestamp,
    /// Processes of it that had not ended when the grace period of a stop was over, and were killed.
    #[serde(default, skip_serializing_if = "is_none_killed")]
    pub killed: u32,
}

impl Exit {
    /// An end of which nobody knows more than when it was.
    pub fn unknown(started_at: Option<Timestamp>, at: Timestamp) -> Self {
        Self {
            status: ExitStatus::Unknown,
            oom: false,
            started_at,
            at,
            killed: 0,
        }
    }
}

/// Whether there is nothing to say of that.
fn is_none_killed(killed: &u32) -> bool {
    *killed == 0
}

/// Code, signal, or unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(Signal),
    /// Nobody saw it: the guardian died with it, or the host went down.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            _ if self.oom => f.write_str("out of memory"),
            ExitStatus::Code(code) => write!(f, "exit {code}"),
            ExitStatus::Signal(signal) => write!(f, "{signal}"),
            ExitStatus::Unknown => f.write_str("exit unknown"),
        }
    }
}

/// Why an instance never got to run its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// One word for scripts, CamelCase: `ExecNotFound`, `NoSuchUser`, `NameConflict`.
    pub reason: String,
    /// What failed, on what, why, and what to do.
    pub message: String,
}

impl StartFailure {
    /// What the reasons of images begin with that are not to be had, or are not let run.
    const IMAGE: &str = "Image";

    /// Why a start says that it ended early because nobody wanted its instance any more.
    pub const GIVEN_UP: &str = "ImagePullGivenUp";

    /// Whether nothing failed: nobody wanted the instance any more.
    pub fn is_given_up(&self) -> bool {
        self.reason == Self::GIVEN_UP
    }

    /// Whether its image was not to be had, or is not let run: no fault of the component.
    pub fn is_image(&self) -> bool {
        self.reason.starts_with(Self::IMAGE)
    }
}

/// The past of one replica.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// Restarts that followed a counted failure, ever. Never falls.
    pub restarts: u64,
    /// Failures in a row that are the component's own; decides the next delay.
    pub failures: u32,
    /// Ends with success since the last reset that a policy of `always` has made restarts of. They
    /// decide the next delay too, and are no failures.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub successes: u32,
    /// The newest failures since the last reset, oldest first, at most [`History::KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Failure>,
    /// Since when it counts as crash-looping; cleared with the failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashloop_since: Option<Timestamp>,
    /// How the latest instance ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Ended>,
    /// Starts in a row that failed for want of the image; they have a curve of their own.
    #[serde(default)]
    pub failed_pulls: u32,
    /// When an instance was last ended because its work stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_ended_at: Option<Timestamp>,
}

impl History {
    /// How many failures are remembered one by one.
    pub const KEPT: usize = 32;
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// One failure that may be counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When it happened.
    pub at: Timestamp,
    /// When the program had started that ended by itself then; `None` for any other failure, which
    /// is nobody else's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Whose it is.
    pub charge: Charge,
}

/// Whose fault a failure is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Charge {
    /// The component's own.
    Own,
    /// An upstream's, which was unready then or soon after.
    Upstream(ComponentId),
}

/// The end of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which one.
    pub instance: InstanceId,
    /// What it had been started from.
    pub spec: SpecHash,
    /// Code, signal and times. For one that never started: when that was known.
    pub exit: Exit,
    /// What brought it about.
    pub cause: EndCause,
}

/// What brought an end about; decides whether it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndCause {
    /// It exited by itself: counts, unless the policy calls it a success.
    Itself(Charge),
    /// Its program never ran: counts.
    NotStarted(StartFailure),
    /// We stopped it; counts only after a failed probe.
    Stopped(StopCause),
    /// Its guardian died and took it along: counts.
    Lost,
    /// It is gone and left nothing, since somebody removed it behind our back: counts.
    Vanished,
    /// The host rebooted: does not count.
    HostReboot,
    /// Its container engine stopped it when it went down: does not count.
    RuntimeRestarted,
    /// Its engine took it from where it ran, or a person did: does not count.
    Disrupted(Disruption),
}

/// What took an instance from where it ran. It is never a failure of the component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disruption {
    /// In one word.
    pub kind: DisruptionKind,
    /// In the engine's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What took an instance from where it ran, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisruptionKind {
    /// Its node was drained.
    Drained,
    /// Its node was short of something.
    Evicted,
    /// Something more important needed its place.
    Preempted,
    /// Its node is gone for good.
    NodeLost,
    /// A person removed it through the engine.
    DeletedByHand,
}

impl fmt::Display for DisruptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "its node was drained",
            Self::Evicted => "it was evicted from its node",
            Self::Preempted => "it made room for something more important",
            Self::NodeLost => "its node was lost",
            Self::DeletedByHand => "somebody deleted it",
        })
    }
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

/// How a run ended that its engine followed with another inside the same instance, as a cluster does
/// while no daemon runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierEnd {
    /// Tells it from the other ends inside the instance, for as long as the engine tells of it.
    pub id: String,
    /// How it ended.
    pub exit: Exit,
    /// What took it; `None` = it ended by itself.
    pub disruption: Option<Disruption>,
}

/// What a driver saw of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// The mark it carries.
    pub instance: InstanceId,
    /// The spec it says it was started from.
    pub spec: SpecHash,
    /// How to address it.
    pub handle: Option<Handle>,
    /// What its driver tells of it.
    pub facts: Facts,
    /// How it is stopped, as it was told at its start.
    pub stop: StopPolicy,
    /// What it depended on at its start.
    pub after: Vec<ComponentId>,
    /// Who runs it.
    pub driver: DriverKind,
    /// In which part of what that runs; `None` = the driver's own, or it has no parts.
    pub partition: Option<Partition>,
    /// Alive or not.
    pub life: Life,
    /// The ends inside it that its engine knows of, in any order. Each is counted once, however often
    /// it is told.
    pub earlier: Vec<EarlierEnd>,
    /// Whether its image's name means another image by now.
    pub outdated: bool,
    /// Who asks its probes.
    pub prober: Prober,
    /// What its engine says of its health, where that runs a check of its own, or all of its probes.
    pub health: Option<EngineHealth>,
}

impl Sighting {
    /// One of `instance` as `spec`, which it was started from, says it; what cannot be known from that is
    /// left out. Without a spec, as its description is damaged, with what is safe to assume.
    pub fn of(
        instance: InstanceId,
        driver: DriverKind,
        spec: Option<&ComponentSpec>,
        life: Life,
    ) -> Self {
        let after = spec.iter().flat_map(|spec| &spec.dependencies);
        Self {
            instance,
            spec: spec.map_or_else(|| SpecHash::new("unknown"), |spec| spec.hash.clone()),
            handle: None,
            facts: Facts::default(),
            stop: spec.map_or_else(StopPolicy::default, |spec| spec.stop),
            after: after.map(|dependency| dependency.id.clone()).collect(),
            driver,
            partition: None,
            life,
            earlier: Vec::new(),
            outdated: false,
            prober: Prober::Flowctl,
            health: None,
        }
    }
}

/// Alive or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It was made and its program does not run; unless its driver is just starting it, nothing will
    /// come of it.
    Created,
    /// Its engine has it and starts its program by itself, once it can.
    Pending(Pending),
    /// Its program runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It ended by itself or was stopped, with this result.
    Exited(Exit),
    /// Its program could not be started.
    NotStarted {
        /// Why.
        failure: StartFailure,
        /// When that was known.
        at: Timestamp,
    },
    /// Its guardian died without recording an end.
    Lost {
        /// When that was seen.
        at: Timestamp,
    },
    /// It belonged to an earlier boot of this host.
    HostReboot {
        /// When the present boot began.
        at: Timestamp,
    },
    /// The engine that ran it went down and took it along.
    RuntimeRestarted(Exit),
    /// Its engine took it from where it ran, or a person did, and does not run it elsewhere.
    Disrupted {
        /// How it ended, as far as that is known.
        exit: Exit,
        /// What took it.
        disruption: Disruption,
    },
}

impl Life {
    /// Whether anything of it may still run.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Created | Self::Pending(_) | Self::Running { .. } => true,
            Self::Exited(_)
            | Self::NotStarted { .. }
            | Self::Lost { .. }
            | Self::HostReboot { .. }
            | Self::RuntimeRestarted(_)
            | Self::Disrupted { .. } => false,
        }
    }
}

/// What is kept of one pipeline: its last good definition and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineRecord {
    /// The last good definition.
    pub spec: std::sync::Arc<super::spec::PipelineSpec>,
    /// Grows by one with each accepted change.
    pub generation: super::ids::Generation,
    /// The file it comes from; `None` = standard input.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "super::path::optional"
    )]
    pub file: Option<std::path::PathBuf>,
    /// Whether saving the file applies it.
    pub watched: bool,
    /// Whether it is being taken down for good.
    #[serde(default)]
    pub deleting: bool,
}
