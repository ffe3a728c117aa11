//! How runs end, as the cluster tells it, and how that is recorded on the Job itself: a record outlives
//! the pod, and the daemon that made it.

use serde::{Deserialize, Serialize};

use super::cache::{Main, PodSeen};
use super::failure;
use super::wire::{self, Terminated};
use crate::model::{
    Disruption, DisruptionKind, EarlierEnd, Exit, ExitStatus, Life, StartFailure, Timestamp,
};

/// An end as it is written on a Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Recorded {
    /// It ended by itself or was stopped.
    Exited(Exit),
    /// The cluster, or a person, took it from where it ran.
    Disrupted { exit: Exit, disruption: Disruption },
    /// Its program never ran.
    Refused {
        failure: StartFailure,
        at: Timestamp,
    },
}

impl Recorded {
    /// The same as a life.
    pub(super) fn life(&self) -> Life {
        match self.clone() {
            Self::Exited(exit) => Life::Exited(exit),
            Self::Disrupted { exit, disruption } => Life::Disrupted { exit, disruption },
            Self::Refused { failure, at } => Life::NotStarted { failure, at },
        }
    }
}

/// Who asked for the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// This driver did.
    ByUs,
    /// Nobody of ours.
    Otherwise,
}

/// How the run in `pod`, which is over, ended; `program` and `image` are for words.
pub(super) fn of(pod: &PodSeen, asked: Asked, image: &str, now: Timestamp) -> Recorded {
    let exit = match &pod.main {
        Main::Terminated(terminated) => {
            if let Some(failure) = failure::of_start(terminated, image) {
                let at = ended_at(terminated, pod, now);
                return Recorded::Refused { failure, at };
            }
            exit_of(terminated, pod, now)
        }
        // Nobody has seen it end.
        Main::Running { since } => Exit::unknown(*since, now),
        Main::Unknown | Main::Waiting { .. } => Exit::unknown(None, now),
    };
    if asked == Asked::ByUs {
        return Recorded::Exited(exit);
    }
    match disruption(pod, &exit) {
        Some(disruption) => Recorded::Disrupted { exit, disruption },
        None => Recorded::Exited(exit),
    }
}

/// The same as an end inside an instance that goes on.
pub(super) fn earlier(pod: &PodSeen, image: &str, now: Timestamp) -> EarlierEnd {
    let (exit, disruption) = match of(pod, Asked::Otherwise, image, now) {
        Recorded::Exited(exit) => (exit, None),
        Recorded::Disrupted { exit, disruption } => (exit, Some(disruption)),
        Recorded::Refused { at, .. } => (Exit::unknown(None, at), None),
    };
    EarlierEnd {
        id: pod.uid.clone(),
        exit,
        disruption,
    }
}

fn exit_of(terminated: &Terminated, pod: &PodSeen, now: Timestamp) -> Exit {
    // The kubelet has lost sight of it, and made the code up.
    let is_made_up = terminated.reason == "ContainerStatusUnknown";
    let started_at = wire::time(terminated.started_at.as_deref());
    let at = ended_at(terminated, pod, now);
    Exit {
        status: match is_made_up {
            true => ExitStatus::Unknown,
            false => ExitStatus::Code(terminated.exit_code),
        },
        oom: terminated.reason == "OOMKilled",
        started_at: started_at.map(|started| started.min(at)),
        at,
        killed: 0,
    }
}

/// When it ended, by the clock of its node, which may differ from ours: not before its pod was made,
/// and not later than now.
fn ended_at(terminated: &Terminated, pod: &PodSeen, now: Timestamp) -> Timestamp {
    let told = wire::time(terminated.finished_at.as_deref()).unwrap_or(now);
    told.max(pod.created.unwrap_or(told)).min(now)
}

/// What took it, where that was neither itself nor us.
fn disruption(pod: &PodSeen, exit: &Exit) -> Option<Disruption> {
    let of = |kind, message: &str| Disruption {
        kind,
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
    };
    if let Some((reason, message)) = &pod.disruption {
        let kind = match reason.as_str() {
            "PreemptionByScheduler" => DisruptionKind::Preempted,
            "DeletionByTaintManager" | "DeletionByPodGC" => DisruptionKind::NodeLost,
            "TerminationByKubelet" => DisruptionKind::Evicted,
            // The one of drains, and others that come.
            _ => DisruptionKind::Drained,
        };
        return Some(of(kind, message));
    }
    let is_over = matches!(pod.main, Main::Terminated(_));
    if !is_over && pod.phase == "Failed" {
        let kind = match pod.reason.as_str() {
            "Preempting" => DisruptionKind::Preempted,
            "NodeLost" | "NodeShutdown" | "Terminated" => DisruptionKind::NodeLost,
            _ => DisruptionKind::Evicted,
        };
        let message = match (pod.reason.is_empty(), pod.message.is_empty()) {
            (false, false) => format!("{}: {}", pod.reason, pod.message),
            (false, true) => pod.reason.clone(),
            (true, _) => pod.message.clone(),
        };
        return Some(of(kind, &message));
    }
    if let Some(asked) = pod.deletion_asked {
        // Times of the cluster are whole seconds.
        let is_before = is_over && exit.at.as_millis() / 1_000 < asked.as_millis() / 1_000;
        return (!is_before).then(|| of(DisruptionKind::DeletedByHand, ""));
    }
    let force = "its pod is gone without an end: what ran may still run";
    (!is_over && pod.gone.is_some()).then(|| of(DisruptionKind::DeletedByHand, force))
}
