//! What will be done, why, and why not yet. The words here are the words that every reader sees.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::claim::Claim;
use super::ids::{ComponentId, InstanceId, PipelineKey, ReplicaKey, SpecHash};
use super::partition::Hidden;
use super::spec::{Condition, DriverKind};
use super::state::{Exit, Pending, StartFailure, StopCause};
use super::time::Timestamp;

/// The whole decision about one pipeline at one moment.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Plan {
    /// What is to be done now, at most one step per replica, in the order to begin them.
    pub steps: Vec<Step>,
    /// Why each other unsettled replica has no step.
    pub holds: BTreeMap<ReplicaKey, Hold>,
    /// When to look again even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Whether nothing is to be done and nothing is waited for, but for what is final.
    pub fn is_settled(&self) -> bool {
        self.steps.is_empty()
            && self
                .holds
                .values()
                .all(|hold| hold.effort() == Effort::Final)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// To which replica.
    pub replica: ReplicaKey,
    /// What.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// What is done. Execution has no choice left: identities are in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start this new instance.
    Start {
        /// Minted from the replica's record.
        instance: InstanceId,
    },
    /// Stop this instance and all it forked.
    Stop {
        /// Which one.
        instance: InstanceId,
        /// Recorded with it, so that its end is judged rightly.
        cause: StopCause,
    },
    /// Drop the record of a replica that is no longer wanted and of which nothing is left.
    Forget,
}

/// Why a step is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// It never ran.
    New,
    /// The file wants another revision.
    SpecChanged {
        /// What runs or ran.
        from: SpecHash,
        /// What is wanted.
        to: SpecHash,
    },
    /// It ended and its policy asks for another instance.
    Restart {
        /// How it ended.
        exit: Exit,
        /// Failures in a row by now, or ends with success, where that was one.
        failures: u32,
        /// Which of the two.
        ending: Ending,
    },
    /// Its program could not be started; another try is due.
    Retry {
        /// What went wrong.
        failure: StartFailure,
        /// Failures in a row by now.
        failures: u32,
    },
    /// The upstream that its end was charged to is ready again.
    UpstreamRecovered {
        /// Which one.
        upstream: ComponentId,
    },
    /// A person asked.
    Requested,
    /// Its last instance did not end by itself: the host, its engine or we ended it.
    Interrupted,
    /// It is stopped for this.
    Stop(StopCause),
    /// An earlier stop left something alive.
    StopAgain {
        /// What.
        why: String,
    },
    /// Nothing is left of a replica that nobody wants.
    Gone,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("not running yet"),
            Self::SpecChanged { .. } => f.write_str("its definition changed"),
            Self::Restart {
                exit,
                failures,
                ending,
            } => write!(f, "{exit} ({})", ending.counted(*failures)),
            Self::Retry { failure, failures } => {
                write!(f, "{} (failure {failures})", failure.message)
            }
            Self::UpstreamRecovered { upstream } => write!(f, "{upstream} is ready again"),
            Self::Requested => f.write_str("requested"),
            Self::Interrupted => f.write_str("its last instance was ended from outside"),
            Self::Stop(cause) => cause.fmt(f),
            Self::StopAgain { why } => write!(f, "an earlier stop failed: {why}"),
            Self::Gone => f.write_str("nothing is left of it"),
        }
    }
}

/// Why a replica that is not as desired has no step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// The next start is due at `until`.
    Backoff {
        /// When.
        until: Timestamp,
        /// Failures in a row, or ends with success, where the last was one.
        failures: u32,
        /// What the last one was, in words.
        last: String,
        /// Whether it failed so often that people should look.
        crashloop: bool,
        /// Whether the last was a failure at all: a policy may ask for another run after success.
        #[serde(default, skip_serializing_if = "Ending::is_failure")]
        ending: Ending,
    },
    /// What the same edit takes from others, or takes away, is not gone yet.
    Handover {
        /// Who has to be gone first.
        holders: Vec<Holder>,
    },
    /// A dependency is not there yet, or the upstream that its end was charged to is down.
    WaitingFor {
        /// Which component.
        component: ComponentId,
        /// What has to be true of it.
        condition: Condition,
        /// What is known of it, in words.
        because: String,
    },
    /// Components that depend on it stop first.
    StopsAfter {
        /// One of them.
        component: ComponentId,
    },
    /// A driver call for it has not been answered.
    InFlight {
        /// `start` or `stop`, for readers.
        call: InFlight,
    },
    /// Its engine has accepted it and has not begun to run it.
    Pending(Pending),
    /// It runs and is not ready yet.
    BecomingReady {
        /// What its probe last said, or that none has answered.
        because: String,
        /// When it is ready by age, where no probe decides.
        at: Option<Timestamp>,
    },
    /// It runs, was ready, and its probe fails now.
    Unhealthy {
        /// What the probe last said.
        because: String,
    },
    /// Its driver could not say what came of the last start, and nothing is there; another is
    /// started at `until`.
    StartFailed {
        /// What the driver said.
        why: String,
        /// When.
        until: Timestamp,
    },
    /// What its last run left behind is in the way; another start is tried at `until`.
    Leftover {
        /// What.
        why: String,
        /// When.
        until: Timestamp,
    },
    /// The last stop left something alive; it is tried again at `until`.
    StopFailed {
        /// What survived.
        why: String,
        /// When.
        until: Timestamp,
    },
    /// Its driver does not answer, so nothing is known and nothing is done.
    Blind {
        /// Which driver.
        driver: DriverKind,
        /// What of it, where it answers and knows nothing of that alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hidden: Option<Hidden>,
        /// What went wrong.
        because: String,
    },
    /// This build, or this daemon, has no such driver.
    NoDriver {
        /// Which driver.
        driver: DriverKind,
    },
    /// Nothing new is begun: the intent could not be recorded, or no daemon runs.
    Frozen {
        /// What went wrong.
        because: String,
    },
    /// A person said `stop`.
    StoppedByRequest,
    /// It ended with success and its policy asks for no more.
    Completed,
    /// It ended with a failure and its policy asks for no more.
    Failed {
        /// What the last end was, in words.
        last: String,
    },
    /// `max_retries` is spent.
    GaveUp {
        /// Restarts tried.
        retries: u32,
        /// What the last end was, in words.
        last: String,
    },
}

/// Whether a run ended with a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It did.
    #[default]
    Failure,
    /// It ended with success.
    Success,
}

impl Ending {
    fn is_failure(&self) -> bool {
        *self == Self::Failure
    }

    /// `failure 3`, `success 3`: the third in a row.
    pub fn counted(self, count: u32) -> String {
        match self {
            Self::Failure => format!("failure {count}"),
            Self::Success => format!("success {count}"),
        }
    }
}

/// An instance that has to be gone before another starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Which one.
    pub instance: InstanceId,
    /// Its pipeline, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineKey>,
    /// What it has that the other is to get; `None` = it leaves with the edit that brings the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.instance.replica)?;
        if let Some(pipeline) = &self.pipeline {
            write!(f, " of pipeline {pipeline}")?;
        }
        match &self.claim {
            Some(claim) => write!(f, " (has {claim})"),
            None => Ok(()),
        }
    }
}

/// So many are named; the rest is counted.
const NAMED: usize = 3;

fn name(f: &mut fmt::Formatter<'_>, holders: &[Holder]) -> fmt::Result {
    let (named, more) = holders.split_at(holders.len().min(NAMED));
    let named: Vec<String> = named.iter().map(ToString::to_string).collect();
    f.write_str(&named.join(", "))?;
    match more.len() {
        0 => Ok(()),
        count => write!(f, " and {count} more"),
    }
}

/// Which call has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InFlight {
    /// A start.
    Start,
    /// A stop.
    Stop,
}

/// Whether a hold ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Something is going on, or will be tried again.
    Ongoing,
    /// Only a person or an edit changes it.
    Final,
}

impl Hold {
    /// Whether this hold ends by itself.
    pub fn effort(&self) -> Effort {
        match self {
            Self::Backoff { .. }
            | Self::Handover { .. }
            | Self::WaitingFor { .. }
            | Self::StopsAfter { .. }
            | Self::InFlight { .. }
            | Self::Pending(_)
            | Self::BecomingReady { .. }
            | Self::Unhealthy { .. }
            | Self::StartFailed { .. }
            | Self::Leftover { .. }
            | Self::StopFailed { .. }
            | Self::Blind { .. }
            | Self::Frozen { .. } => Effort::Ongoing,
            Self::NoDriver { .. }
            | Self::StoppedByRequest
            | Self::Completed
            | Self::Failed { .. }
            | Self::GaveUp { .. } => Effort::Final,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backoff {
                failures,
                last,
                crashloop,
                ending,
                ..
            } => {
                let word = if *crashloop { "crash loop" } else { "backoff" };
                write!(f, "{word} ({}, {last})", ending.counted(*failures))
            }
            Self::Handover { holders } => {
                f.write_str("waiting until these are gone: ")?;
                name(f, holders)
            }
            Self::WaitingFor {
                component,
                condition: Condition::Ready,
                because,
            } => {
                write!(f, "waiting for {component} ({because})")
            }
            Self::WaitingFor {
                component,
                condition,
                because,
            } => {
                write!(f, "waiting for {component} to be {condition} ({because})")
            }
            Self::StopsAfter { component } => write!(f, "waiting for {component} to stop first"),
            Self::InFlight {
                call: InFlight::Start,
            } => f.write_str("being started"),
            Self::InFlight {
                call: InFlight::Stop,
            } => f.write_str("being stopped"),
            Self::Pending(pending) => pending.fmt(f),
            Self::BecomingReady { because, .. } => write!(f, "not ready yet: {because}"),
            Self::Unhealthy { because } => write!(f, "readiness probe fails: {because}"),
            Self::StartFailed { why, .. } => write!(f, "start failed: {why}"),
            Self::Leftover { why, .. } => {
                write!(f, "waiting for what its last run left behind: {why}")
            }
            Self::StopFailed { why, .. } => write!(f, "stop failed: {why}"),
            Self::Blind {
                driver,
                hidden,
                because,
            } => match hidden {
                None => write!(f, "the {driver} driver does not answer: {because}"),
                Some(Hidden::Partition(partition)) => {
                    write!(
                        f,
                        "the {driver} driver cannot look at {partition}: {because}"
                    )
                }
                Some(Hidden::Instance(_)) => {
                    write!(f, "the {driver} driver knows nothing of it: {because}")
                }
            },
            Self::NoDriver { driver } => {
                write!(
                    f,
                    "this build of flowctl cannot run {driver} components yet"
                )
            }
            Self::Frozen { because } => write!(f, "nothing new is begun: {because}"),
            Self::StoppedByRequest => f.write_str("stopped by request; `flowctl start` revives it"),
            Self::Completed => f.write_str("completed"),
            Self::Failed { last } => {
                write!(f, "{last}; its restart policy asks for no restart")
            }
            Self::GaveUp { retries, last } => {
                write!(
                    f,
                    "gave up after {retries} restarts ({last}); `flowctl start` revives it"
                )
            }
        }
    }
}

impl Hold {
    /// When the hold is looked at again at the latest, where a time decides.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Backoff { until, .. }
            | Self::StartFailed { until, .. }
            | Self::Leftover { until, .. }
            | Self::StopFailed { until, .. } => Some(*until),
            Self::BecomingReady { at, .. } => *at,
            Self::Handover { .. }
            | Self::WaitingFor { .. }
            | Self::StopsAfter { .. }
            | Self::InFlight { .. }
            | Self::Pending(_)
            | Self::Unhealthy { .. }
            | Self::Blind { .. }
            | Self::NoDriver { .. }
            | Self::Frozen { .. }
            | Self::StoppedByRequest
            | Self::Completed
            | Self::Failed { .. }
            | Self::GaveUp { .. } => None,
        }
    }
}
