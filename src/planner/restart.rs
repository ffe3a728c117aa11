//! What follows the end of an instance: whether it is started again, and when.
//!
//! Pure functions of the recorded [`History`], the policy and `now`. The verdict is not stored, so
//! an edited policy applies to ends of the past.

use std::time::Duration;

use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff as _;

use crate::model::{
    Backoff, Charge, ComponentId, EndCause, Ended, Ending, ExitStatus, Failure, Health, History,
    HumanDuration, ImageChoice, InstanceId, Phase, Pull, Reason, Record, RestartMode,
    RestartPolicy, RunIntent, SpecHash, StartFailure, StartTrouble, StopCause, Timestamp,
    UnansweredStarts,
};

/// Failures within [`CRASHLOOP_WINDOW`] that make a crash loop.
const CRASHLOOP_FAILURES: usize = 5;
/// See [`CRASHLOOP_FAILURES`].
const CRASHLOOP_WINDOW: Duration = Duration::from_secs(300);
/// The pause after an image could not be had for the first time, and the longest.
const PULL_AGAIN: Duration = Duration::from_secs(10);
const PULL_AGAIN_AT_MOST: Duration = Duration::from_secs(300);
/// The pause after a start of which its driver could not say what came of it, and the longest: an
/// engine that is back is used within half a minute.
const START_AGAIN: Duration = Duration::from_secs(1);
const START_AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// The pause before it is tried again to start where an earlier run left something behind.
const LEFTOVER_AGAIN: Duration = Duration::from_secs(1);
/// Steps after which an exponential delay is taken as it is: 2^64 ms is beyond any cap, and a
/// factor close to 1 must not turn months of failures into a long loop.
const MAX_STEPS: u32 = 4096;

/// What is to be done about a replica that has no instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Start one.
    Start(Reason),
    /// Start one at `until`.
    Backoff {
        /// When.
        until: Timestamp,
        /// Failures in a row, or ends with success where the last was one.
        failures: u32,
        /// The last end, in words.
        last: String,
        /// Whether it is a crash loop.
        crashloop: bool,
        /// Which of the two the last was.
        ending: Ending,
    },
    /// Start one when this upstream is ready.
    AwaitUpstream(ComponentId),
    /// It ended with success, for good.
    Completed,
    /// It ended with a failure, for good.
    Failed {
        /// The last end, in words.
        last: String,
    },
    /// `max_retries` is spent.
    GaveUp {
        /// Restarts tried.
        retries: u32,
        /// The last end, in words.
        last: String,
    },
}

/// Judges a replica that has no instance and should have one of revision `wanted`.
pub fn verdict(
    policy: &RestartPolicy,
    record: &Record,
    wanted: &SpecHash,
    now: Timestamp,
) -> Verdict {
    let Some(last) = &record.history.last else {
        return Verdict::Start(Reason::New);
    };
    if last.spec != *wanted {
        let (from, to) = (last.spec.clone(), wanted.clone());
        return Verdict::Start(Reason::SpecChanged { from, to });
    }
    match record.intent {
        RunIntent::Start { upto, .. } | RunIntent::Restart { upto, .. }
            if last.instance.incarnation <= upto =>
        {
            return Verdict::Start(Reason::Requested);
        }
        RunIntent::Run
        | RunIntent::Start { .. }
        | RunIntent::Restart { .. }
        | RunIntent::Stop { .. } => {}
    }
    match &last.cause {
        EndCause::HostReboot | EndCause::RuntimeRestarted | EndCause::Disrupted(_) => {
            Verdict::Start(Reason::Interrupted)
        }
        EndCause::Stopped(cause) if !is_failed_probe(cause) => Verdict::Start(Reason::Interrupted),
        EndCause::Itself(_) if succeeded(policy, last) && policy.mode != RestartMode::Always => {
            Verdict::Completed
        }
        EndCause::Itself(_)
        | EndCause::NotStarted(_)
        | EndCause::Stopped(_)
        | EndCause::Lost
        | EndCause::Vanished
            if policy.mode == RestartMode::Never =>
        {
            Verdict::Failed {
                last: in_words(last),
            }
        }
        EndCause::Itself(Charge::Upstream(upstream)) => Verdict::AwaitUpstream(upstream.clone()),
        EndCause::NotStarted(failure) if failure.is_image() => {
            after_failed_pull(&record.history, last, failure, now)
        }
        EndCause::Itself(Charge::Own)
        | EndCause::NotStarted(_)
        | EndCause::Stopped(_)
        | EndCause::Lost
        | EndCause::Vanished => after_failure(policy, &record.history, last, now),
    }
}

fn after_failure(
    policy: &RestartPolicy,
    history: &History,
    last: &Ended,
    now: Timestamp,
) -> Verdict {
    let ends = history.failures.saturating_add(history.successes).max(1);
    let (ending, failures) = match last.cause {
        EndCause::Itself(_) if succeeded(policy, last) => (Ending::Success, history.successes),
        EndCause::Itself(_)
        | EndCause::NotStarted(_)
        | EndCause::Stopped(_)
        | EndCause::Lost
        | EndCause::Vanished
        | EndCause::HostReboot
        | EndCause::RuntimeRestarted
        | EndCause::Disrupted(_) => (Ending::Failure, history.failures),
    };
    let failures = failures.max(1);
    if let Some(limit) = policy.limit {
        let counted = match limit.window {
            None => ends,
            Some(window) => own_failures_since(history, last.exit.at, window.get()),
        };
        if counted > limit.max_retries {
            return Verdict::GaveUp {
                retries: limit.max_retries,
                last: in_words(last),
            };
        }
    }
    let until = last.exit.at.after(delay(policy, ends, &last.instance));
    if until > now {
        let crashloop = history.crashloop_since.is_some();
        return Verdict::Backoff {
            until,
            failures,
            last: in_words(last),
            crashloop,
            ending,
        };
    }
    Verdict::Start(match &last.cause {
        EndCause::NotStarted(failure) => Reason::Retry {
            failure: failure.clone(),
            failures,
        },
        EndCause::Itself(_)
        | EndCause::Stopped(_)
        | EndCause::Lost
        | EndCause::Vanished
        | EndCause::HostReboot
        | EndCause::RuntimeRestarted
        | EndCause::Disrupted(_) => Reason::Restart {
            exit: last.exit.clone(),
            failures,
            ending,
        },
    })
}

/// An image that is not to be had is asked for again and again, at a pace that a registry bears. It
/// counts neither as a crash nor against the limit of retries.
fn after_failed_pull(
    history: &History,
    last: &Ended,
    failure: &StartFailure,
    now: Timestamp,
) -> Verdict {
    let failures = history.failed_pulls.max(1);
    let curve = doubling(PULL_AGAIN, PULL_AGAIN_AT_MOST);
    let until = last.exit.at.after(delay(&curve, failures, &last.instance));
    if until > now {
        return Verdict::Backoff {
            until,
            failures,
            last: in_words(last),
            crashloop: false,
            ending: Ending::Failure,
        };
    }
    Verdict::Start(Reason::Retry {
        failure: failure.clone(),
        failures,
    })
}

/// Why a replica whose image was refused is started before its time: another image policy came into
/// force `since`.
pub fn judged_anew(record: &Record, since: Option<Timestamp>) -> Option<Reason> {
    let last = record.history.last.as_ref()?;
    match &last.cause {
        EndCause::NotStarted(failure) if failure.is_image() && last.exit.at < since? => {
            Some(Reason::Retry {
                failure: failure.clone(),
                failures: record.history.failed_pulls.max(1),
            })
        }
        EndCause::NotStarted(_)
        | EndCause::Itself(_)
        | EndCause::Stopped(_)
        | EndCause::Lost
        | EndCause::Vanished
        | EndCause::HostReboot
        | EndCause::RuntimeRestarted
        | EndCause::Disrupted(_) => None,
    }
}

/// A curve that no file can set.
fn doubling(initial: Duration, at_most: Duration) -> RestartPolicy {
    RestartPolicy {
        backoff: Backoff::Exponential,
        initial_delay: HumanDuration::new(initial),
        max_delay: HumanDuration::new(at_most),
        factor: 2.0,
        ..RestartPolicy::default()
    }
}

/// `before` and one more: the driver of `instance`, of revision `spec`, said `why` instead of what
/// came of its start. A driver that fails at once must not be asked again at once, for ever.
#[must_use]
pub fn unanswered(
    before: Option<&UnansweredStarts>,
    instance: &InstanceId,
    spec: &SpecHash,
    why: String,
    now: Timestamp,
) -> UnansweredStarts {
    let times = before
        .filter(|before| before.spec == *spec)
        .map_or(0, |before| before.times)
        .saturating_add(1);
    let curve = doubling(START_AGAIN, START_AGAIN_AT_MOST);
    UnansweredStarts {
        spec: spec.clone(),
        incarnation: instance.incarnation,
        times,
        why,
        retry_at: now.after(delay(&curve, times, instance)),
        trouble: StartTrouble::Unanswered,
    }
}

/// `before` and one more: `what` an earlier run left behind kept `instance`, of revision `spec`, from
/// starting. It is going, so it is looked for at a steady pace.
#[must_use]
pub fn in_the_way(
    before: Option<&UnansweredStarts>,
    instance: &InstanceId,
    spec: &SpecHash,
    what: String,
    now: Timestamp,
) -> UnansweredStarts {
    UnansweredStarts {
        retry_at: now.after(LEFTOVER_AGAIN),
        trouble: StartTrouble::Leftover,
        ..unanswered(before, instance, spec, what, now)
    }
}

/// The starts that hold back another one of revision `wanted` now. A person who asks for one after
/// them need not wait.
pub fn holding<'a>(
    record: &'a Record,
    wanted: &SpecHash,
    now: Timestamp,
) -> Option<&'a UnansweredStarts> {
    let starts = record.unanswered.as_ref()?;
    let asked_for = match record.intent {
        RunIntent::Start { upto, .. } | RunIntent::Restart { upto, .. } => {
            starts.incarnation <= upto
        }
        RunIntent::Run | RunIntent::Stop { .. } => false,
    };
    (starts.spec == *wanted && starts.retry_at > now && !asked_for).then_some(starts)
}

fn own_failures_since(history: &History, last: Timestamp, window: Duration) -> u32 {
    let inside =
        |failure: &&Failure| failure.charge == Charge::Own && last.since(failure.at) <= window;
    u32::try_from(history.recent.iter().filter(inside).count()).unwrap_or(u32::MAX)
}

/// The pause before the restart that follows failure number `failures` (from 1) of `instance`.
///
/// Jitter is added on top of the capped delay and derived from the instance id, so the deadline
/// shown is the deadline kept, over daemon restarts too.
pub fn delay(policy: &RestartPolicy, failures: u32, instance: &InstanceId) -> Duration {
    let base = base_delay(policy, failures);
    base.saturating_add(base.mul_f64(policy.jitter.clamp(0.0, 1.0) * fraction_of(instance)))
}

fn base_delay(policy: &RestartPolicy, failures: u32) -> Duration {
    let (initial, max) = (policy.initial_delay.get(), policy.max_delay.get());
    if initial.is_zero() {
        // The crate would stay at zero too, but only after `failures` rounds.
        return Duration::ZERO;
    }
    match policy.backoff {
        Backoff::Fixed => initial.min(max),
        Backoff::Linear => initial.saturating_mul(failures.max(1)).min(max),
        Backoff::Exponential => {
            let mut curve = ExponentialBackoffBuilder::new()
                .with_initial_interval(initial.min(max))
                .with_max_interval(max)
                .with_multiplier(policy.factor.max(1.0))
                .with_randomization_factor(0.0)
                .with_max_elapsed_time(None)
                .build();
            let mut delay = initial.min(max);
            for _ in 0..failures.clamp(1, MAX_STEPS) {
                delay = curve.next_backoff().unwrap_or(max);
                if delay >= max {
                    return max;
                }
            }
            delay
        }
    }
}

/// A number from 0 to 1 that is the same for the same instance in every release (FNV-1a).
fn fraction_of(instance: &InstanceId) -> f64 {
    let hash = instance
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    // FNV's high bits differ little between texts that differ in the last character only.
    let mixed = hash ^ (hash >> 33);
    let mixed = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd);
    f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// `history` after `ended`: the end itself, and what it adds to the failures.
#[must_use]
pub fn ended(history: &History, ended: Ended, policy: &RestartPolicy) -> History {
    let mut history = history.clone();
    history.failed_pulls = match &ended.cause {
        EndCause::NotStarted(failure) if failure.is_image() => {
            history.failed_pulls.saturating_add(1)
        }
        EndCause::NotStarted(_)
        | EndCause::Itself(_)
        | EndCause::Stopped(_)
        | EndCause::Lost
        | EndCause::Vanished
        | EndCause::HostReboot
        | EndCause::RuntimeRestarted
        | EndCause::Disrupted(_) => 0,
    };
    let charge = match &ended.cause {
        EndCause::Itself(charge) if succeeded(policy, &ended) => {
            if policy.mode == RestartMode::Always && *charge == Charge::Own {
                history.successes = history.successes.saturating_add(1);
            }
            None
        }
        EndCause::Itself(charge) => Some(charge.clone()),
        EndCause::NotStarted(failure) if failure.is_image() => None,
        EndCause::NotStarted(_) | EndCause::Lost | EndCause::Vanished => Some(Charge::Own),
        EndCause::Stopped(cause) => is_failed_probe(cause).then_some(Charge::Own),
        EndCause::HostReboot | EndCause::RuntimeRestarted | EndCause::Disrupted(_) => None,
    };
    if let Some(charge) = charge {
        if charge == Charge::Own {
            history.failures = history.failures.saturating_add(1);
        }
        history.recent.push(Failure {
            at: ended.exit.at,
            since: match &ended.cause {
                EndCause::Itself(_) => ended.exit.started_at,
                EndCause::NotStarted(_)
                | EndCause::Stopped(_)
                | EndCause::Lost
                | EndCause::Vanished
                | EndCause::HostReboot
                | EndCause::RuntimeRestarted
                | EndCause::Disrupted(_) => None,
            },
            charge,
        });
        if history.recent.len() > History::KEPT {
            history.recent.remove(0);
        }
        if history.crashloop_since.is_none() && is_crashloop(&history, ended.exit.at) {
            history.crashloop_since = Some(ended.exit.at);
        }
    }
    if let EndCause::Stopped(StopCause::Stalled(_)) = &ended.cause {
        history.stall_ended_at = Some(ended.exit.at);
    }
    history.last = Some(ended);
    history
}

/// `history` after `ended`, which its engine has followed with another run of the same instance: a
/// restart like one of ours, so that the figures do not depend on who was there.
#[must_use]
pub fn ended_inside(history: &History, ended: Ended, policy: &RestartPolicy) -> History {
    let is_counted = match &ended.cause {
        EndCause::Itself(Charge::Own)
        | EndCause::NotStarted(_)
        | EndCause::Lost
        | EndCause::Vanished => true,
        EndCause::Itself(Charge::Upstream(_))
        | EndCause::Stopped(_)
        | EndCause::HostReboot
        | EndCause::RuntimeRestarted
        | EndCause::Disrupted(_) => false,
    };
    let mut history = self::ended(history, ended, policy);
    history.restarts += u64::from(is_counted);
    history
}

fn is_crashloop(history: &History, at: Timestamp) -> bool {
    let burst = own_failures_since(history, at, CRASHLOOP_WINDOW);
    usize::try_from(burst).unwrap_or(usize::MAX) >= CRASHLOOP_FAILURES
}

/// Whether an end by itself, or a failure, is held against the component.
pub fn is_charged(history: &History) -> bool {
    let last = history.last.as_ref();
    let is_last = last.is_some_and(|last| last.cause == EndCause::Itself(Charge::Own));
    is_last || history.failures > 0
}

/// `history` when ends that were held against the component turn out to be the fault of `upstream`:
/// those of which `is_its_fault` says so, given when the program had started, if that is known, and
/// when it ended. `None` when there is nothing to take back.
pub fn taken_back(
    history: &History,
    upstream: &ComponentId,
    is_its_fault: impl Fn(Option<Timestamp>, Timestamp) -> bool,
) -> Option<History> {
    let mut history = history.clone();
    let mut changed = false;
    let charge = || Charge::Upstream(upstream.clone());
    let last_at = history.last.as_ref().map(|last| last.exit.at);
    let newest = history.recent.len().saturating_sub(1);
    let mut is_last_counted = false;
    if let Some(last) = &mut history.last
        && last.cause == EndCause::Itself(Charge::Own)
        && is_its_fault(last.exit.started_at, last.exit.at)
    {
        last.cause = EndCause::Itself(charge());
        is_last_counted = history
            .recent
            .last()
            .is_some_and(|one| one.at == last.exit.at);
        if !is_last_counted {
            history.successes = history.successes.saturating_sub(1);
        }
        changed = true;
    }
    for (index, failure) in history.recent.iter_mut().enumerate() {
        let is_last = is_last_counted && index == newest;
        // Of what was recorded by an older flowctl, only the last is known to be an end by itself.
        let is_earlier = failure.since.is_some() && is_its_fault(failure.since, failure.at);
        if failure.charge == Charge::Own && (is_last || is_earlier) {
            failure.charge = charge();
            history.failures = history.failures.saturating_sub(1);
            changed = true;
        }
    }
    if !changed {
        return None;
    }
    if !last_at.is_some_and(|at| is_crashloop(&history, at)) {
        history.crashloop_since = None;
    }
    Some(history)
}

/// `history` with its failures forgotten. The total of restarts never falls.
#[must_use]
pub fn cleared(history: &History) -> History {
    History {
        restarts: history.restarts,
        last: history.last.clone(),
        failures: 0,
        successes: 0,
        recent: Vec::new(),
        crashloop_since: None,
        failed_pulls: 0,
        stall_ended_at: history.stall_ended_at,
    }
}

/// When the failures of a replica in `phase` are forgotten, if it stays ready until then.
pub fn reset_at(history: &History, phase: &Phase, policy: &RestartPolicy) -> Option<Timestamp> {
    if history.failures == 0 && history.successes == 0 && history.recent.is_empty() {
        return None;
    }
    match phase {
        Phase::Running {
            health:
                Health {
                    ready: true,
                    ready_changed,
                    ..
                },
            since,
        } => Some(
            ready_changed
                .unwrap_or(*since)
                .after(policy.reset_after.get()),
        ),
        Phase::Running { .. } | Phase::Starting { .. } | Phase::Stopping { .. } => None,
    }
}

/// Which image the next container of revision `wanted` is started from.
pub fn image(record: &Record, wanted: &SpecHash) -> ImageChoice {
    let recorded = record.image.as_ref();
    if let RunIntent::Restart {
        upto,
        pull: Pull::Yes,
        ..
    } = record.intent
        && recorded.is_none_or(|image| image.incarnation <= upto)
    {
        return ImageChoice::Pulled;
    }
    match recorded.filter(|image| image.spec == *wanted) {
        Some(image) => ImageChoice::Recorded(image.reference.clone()),
        None => ImageChoice::ByPolicy,
    }
}

/// Whether an end of this cause came from a probe, or from work that stood still, and so counts as a
/// failure.
fn is_failed_probe(cause: &StopCause) -> bool {
    match cause {
        StopCause::LivenessFailed(_) | StopCause::StartupFailed(_) | StopCause::Stalled(_) => true,
        StopCause::Removed
        | StopCause::ScaledDown
        | StopCause::SpecChanged
        | StopCause::RestartRequested
        | StopCause::StopRequested
        | StopCause::Stray => false,
    }
}

fn succeeded(policy: &RestartPolicy, ended: &Ended) -> bool {
    match ended.exit.status {
        ExitStatus::Code(code) => policy.success_codes.contains(&code),
        ExitStatus::Signal(_) | ExitStatus::Unknown => false,
    }
}

/// An end in the words of `status`.
pub fn in_words(ended: &Ended) -> String {
    match &ended.cause {
        EndCause::NotStarted(failure) => failure.message.clone(),
        EndCause::Stopped(cause) => cause.to_string(),
        EndCause::Lost => "its guardian died and took it along, exit unknown".to_owned(),
        EndCause::Vanished => {
            "somebody removed it from outside, so nothing tells how it ended".to_owned()
        }
        EndCause::HostReboot => "the host rebooted".to_owned(),
        EndCause::RuntimeRestarted => "its container engine went down".to_owned(),
        EndCause::Disrupted(disruption) => disruption.to_string(),
        EndCause::Itself(_) => ended.exit.to_string(),
    }
}
