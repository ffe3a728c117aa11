//! What an answer of a probe means: thresholds, and nothing else.
//!
//! An answer changes [`Health`] and may have a [`Meaning`] on which the reconciler acts. Only
//! counted failures lead anywhere; an early pass is the first of a row like any other. Nothing
//! but the row of answers decides, so a daemon that starts again flips nothing before it has
//! asked.

use std::borrow::Cow;

use crate::model::{
    Counts, EngineHealth, Health, HumanDuration, Probe, ProbeCheck, ProbeKind, ProbeOutcome,
    ProbeTally, Prober, Probes, StopCause, Timestamp,
};

/// What an answer changed.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthChange {
    /// The health from now on.
    pub health: Health,
    /// What that means.
    pub meaning: Meaning,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing that anyone acts on.
    Nothing,
    /// The startup probe passed: the other two are asked from now on.
    Started,
    /// Dependents may count on it.
    BecameReady,
    /// Dependents can no longer count on it, for this reason. It runs on.
    BecameUnready(String),
    /// It has to be stopped: its startup probe used up its failures, or its liveness probe did.
    Failed(StopCause),
}

/// Why a component is not ready whose registration is required.
pub const UNREGISTERED: &str = "it has not registered with the control plane";

/// The health of an instance that has just been started.
pub fn begin(probes: &Probes) -> Health {
    Health {
        started: probes.startup.is_none(),
        ..Health::default()
    }
}

/// What `outcome` of the probe `kind` makes of `health`, at `at`.
///
/// An answer of a probe that is no longer wanted, or not yet, changes nothing.
pub fn apply(
    health: &Health,
    probes: &Probes,
    kind: ProbeKind,
    counts: Counts,
    outcome: &ProbeOutcome,
    at: Timestamp,
) -> HealthChange {
    let mut health = health.clone();
    // A startup probe that was edited away gates nothing.
    health.started |= probes.startup.is_none();
    let probe = match kind {
        ProbeKind::Startup => probes.startup.as_ref().filter(|_| !health.started),
        ProbeKind::Readiness => probes.readiness.as_ref().filter(|_| health.started),
        ProbeKind::Liveness => probes.liveness.as_ref().filter(|_| health.started),
    };
    let meaning = match (kind, probe) {
        (_, None) => Meaning::Nothing,
        (ProbeKind::Startup, Some(probe)) => startup(&mut health, probe, counts, outcome),
        (ProbeKind::Readiness, Some(probe)) => readiness(&mut health, probe, counts, outcome, at),
        (ProbeKind::Liveness, Some(probe)) => liveness(&mut health, probe, counts, outcome),
    };
    HealthChange { health, meaning }
}

/// What a component that was waited for in the control plane's registry makes of `health`, at `at`.
pub fn registered(health: &Health, probes: &Probes, at: Timestamp) -> HealthChange {
    let mut health = health.clone();
    health.unregistered = false;
    let passed = |probe: &Probe| health.readiness.successes >= probe.successes;
    let meaning =
        if health.started && !health.ready && probes.readiness.as_ref().is_some_and(passed) {
            health.ready = true;
            health.ready_changed = Some(at);
            health.why = None;
            Meaning::BecameReady
        } else {
            Meaning::Nothing
        };
    HealthChange { health, meaning }
}

/// What an engine that runs a check of its own, and says `said` now, makes of `health`, at `at`. Whether
/// that makes ready is a matter of [`is_due`].
pub fn checked(
    health: &Health,
    (prober, probes): (Prober, &Probes),
    said: Option<EngineHealth>,
    at: Timestamp,
) -> HealthChange {
    let mut health = health.clone();
    let mut meaning = Meaning::Nothing;
    if probes.readiness.is_none() {
        let because = said.as_ref().and_then(|said| why_not(said, prober));
        if let (Some(EngineHealth::Unhealthy(_)), Some(why), true) = (&said, &because, health.ready)
        {
            health.ready = false;
            health.ready_changed = Some(at);
            meaning = Meaning::BecameUnready(why.clone());
        }
        if said.is_some() && !health.ready {
            health.why = because;
        }
    }
    health.engine = said;
    HealthChange { health, meaning }
}

/// The probes of a component that are asked by the daemon, of an instance that `prober` asks.
pub fn asked(prober: Prober, probes: &Probes) -> Cow<'_, Probes> {
    match prober {
        Prober::Flowctl => return Cow::Borrowed(probes),
        Prober::Engine => {}
    }
    // Heartbeats come to the daemon alone.
    let is_asked = |probe: &&Probe| matches!(probe.check, ProbeCheck::Heartbeat { .. });
    Cow::Owned(Probes {
        startup: probes.startup.as_ref().filter(is_asked).cloned(),
        readiness: probes.readiness.as_ref().filter(is_asked).cloned(),
        liveness: probes.liveness.as_ref().filter(is_asked).cloned(),
    })
}

/// Why what an engine says makes nobody ready.
fn why_not(said: &EngineHealth, prober: Prober) -> Option<String> {
    let check = match prober {
        Prober::Flowctl => "its image's health check",
        Prober::Engine => "its readiness probe",
    };
    match said {
        EngineHealth::Healthy => None,
        EngineHealth::Starting => Some(format!("{check} has not passed yet")),
        EngineHealth::Unhealthy(words) if words.is_empty() => Some(format!("{check} fails")),
        EngineHealth::Unhealthy(words) => Some(format!("{check} fails: {words}")),
    }
}

/// Why a component without a readiness probe, that runs since `since`, is ready `now`; `None` while
/// it is not to be: it has to live for `ready_after`, or to pass the check that its engine runs.
pub fn is_due(
    health: &Health,
    since: Timestamp,
    ready_after: HumanDuration,
    now: Timestamp,
) -> Option<String> {
    if !health.started || health.unregistered {
        return None;
    }
    match &health.engine {
        Some(EngineHealth::Healthy) => Some("its image's health check passed".to_owned()),
        Some(EngineHealth::Starting | EngineHealth::Unhealthy(_)) => None,
        None => {
            let lived = since.after(ready_after.get()) <= now;
            lived.then(|| format!("lived for {ready_after}"))
        }
    }
}

fn startup(health: &mut Health, probe: &Probe, counts: Counts, outcome: &ProbeOutcome) -> Meaning {
    match add(&mut health.startup, probe, counts, outcome) {
        Row::Passed => {
            health.started = true;
            health.why = None;
            Meaning::Started
        }
        Row::Passing(why) | Row::Failing(why) => {
            health.why = Some(why);
            Meaning::Nothing
        }
        Row::Failed(why) => {
            health.why = Some(why.clone());
            Meaning::Failed(StopCause::StartupFailed(why))
        }
    }
}

fn readiness(
    health: &mut Health,
    probe: &Probe,
    counts: Counts,
    outcome: &ProbeOutcome,
    at: Timestamp,
) -> Meaning {
    match (
        add(&mut health.readiness, probe, counts, outcome),
        health.ready,
    ) {
        (Row::Passed, false) if health.unregistered => {
            health.why = Some(UNREGISTERED.to_owned());
            Meaning::Nothing
        }
        (Row::Passed, false) => {
            health.ready = true;
            health.ready_changed = Some(at);
            health.why = None;
            Meaning::BecameReady
        }
        (Row::Failed(why), true) => {
            health.ready = false;
            health.ready_changed = Some(at);
            health.why = Some(why.clone());
            Meaning::BecameUnready(why)
        }
        (Row::Passing(why) | Row::Failing(why) | Row::Failed(why), false) => {
            health.why = Some(why);
            Meaning::Nothing
        }
        (Row::Passed | Row::Passing(_) | Row::Failing(_), true) => Meaning::Nothing,
    }
}

fn liveness(health: &mut Health, probe: &Probe, counts: Counts, outcome: &ProbeOutcome) -> Meaning {
    match add(&mut health.liveness, probe, counts, outcome) {
        Row::Failed(why) => Meaning::Failed(StopCause::LivenessFailed(why)),
        Row::Passed | Row::Passing(_) | Row::Failing(_) => Meaning::Nothing,
    }
}

/// Where a row of equal answers has come to.
enum Row {
    /// As many passes as are asked for, or more.
    Passed,
    /// Passes, and more of them are asked for; the text says so.
    Passing(String),
    /// Failures, not enough of them; the text is the last answer.
    Failing(String),
    /// As many failures as are allowed, or more; the text is the last answer.
    Failed(String),
}

fn add(tally: &mut ProbeTally, probe: &Probe, counts: Counts, outcome: &ProbeOutcome) -> Row {
    match outcome {
        ProbeOutcome::Pass => {
            tally.failures = 0;
            tally.successes = tally.successes.saturating_add(1);
            if tally.successes >= probe.successes {
                Row::Passed
            } else {
                let ProbeTally { successes, .. } = tally;
                Row::Passing(format!("passed {successes} of {} times", probe.successes))
            }
        }
        ProbeOutcome::Fail(why) => {
            tally.successes = 0;
            match counts {
                Counts::Early => return Row::Failing(why.clone()),
                Counts::Counted => tally.failures = tally.failures.saturating_add(1),
            }
            if tally.failures >= probe.failures {
                Row::Failed(why.clone())
            } else {
                Row::Failing(why.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probe(failures: u32, successes: u32) -> Probe {
        Probe {
            check: ProbeCheck::Tcp { port: 1.into() },
            period: HumanDuration::from_secs(10),
            timeout: HumanDuration::from_secs(2),
            failures,
            successes,
        }
    }

    fn all(failures: u32, successes: u32) -> Probes {
        Probes {
            startup: Some(probe(30, 1)),
            readiness: Some(probe(failures, successes)),
            liveness: Some(probe(failures, 1)),
        }
    }

    fn readiness_only(failures: u32, successes: u32) -> Probes {
        Probes {
            readiness: Some(probe(failures, successes)),
            ..Probes::default()
        }
    }

    /// Feeds answers about one probe, one a second, and collects what they meant.
    fn feed(
        health: &mut Health,
        probes: &Probes,
        kind: ProbeKind,
        answers: &[(Counts, ProbeOutcome)],
    ) -> Vec<Meaning> {
        let mut meanings = Vec::new();
        for (second, (counts, outcome)) in (1..).zip(answers) {
            let at = Timestamp::from_millis(second * 1000);
            let change = apply(health, probes, kind, *counts, outcome, at);
            *health = change.health;
            if change.meaning != Meaning::Nothing {
                meanings.push(change.meaning);
            }
        }
        meanings
    }

    fn fail(counts: Counts) -> (Counts, ProbeOutcome) {
        (counts, ProbeOutcome::Fail("connection refused".to_owned()))
    }

    const EARLY_PASS: (Counts, ProbeOutcome) = (Counts::Early, ProbeOutcome::Pass);
    const PASS: (Counts, ProbeOutcome) = (Counts::Counted, ProbeOutcome::Pass);

    #[test]
    fn what_an_engine_says_counts_where_the_file_names_no_readiness_probe() {
        let second = |second: i64| Timestamp::from_millis(second * 1000);
        let ready_after = HumanDuration::from_secs(1);
        let unwell = || Some(EngineHealth::Unhealthy("no".to_owned()));
        let (none, probed) = (Probes::default(), readiness_only(3, 1));
        let due = |health: &Health| is_due(health, second(0), ready_after, second(9)).is_some();
        for (said, is_ready) in [
            (None, true),
            (Some(EngineHealth::Starting), false),
            (unwell(), false),
            (Some(EngineHealth::Healthy), true),
        ] {
            let change = checked(
                &begin(&none),
                (Prober::Flowctl, &none),
                said.clone(),
                second(1),
            );
            assert_eq!(due(&change.health), is_ready, "{said:?}");
            assert_eq!(change.meaning, Meaning::Nothing);
            assert_eq!(change.health.why.is_none(), is_ready, "{said:?}");
        }
        let ready = Health {
            ready: true,
            ..begin(&none)
        };
        let told = "its image's health check fails: no".to_owned();
        let change = checked(&ready, (Prober::Flowctl, &none), unwell(), second(1));
        assert_eq!(change.meaning, Meaning::BecameUnready(told));
        let change = checked(&ready, (Prober::Flowctl, &probed), unwell(), second(1));
        assert!(change.health.ready, "the probe of the file counts");
        let change = checked(
            &ready,
            (Prober::Flowctl, &none),
            Some(EngineHealth::Starting),
            second(1),
        );
        assert!(
            change.health.ready,
            "an engine that began anew knows nothing yet"
        );
    }

    #[test]
    fn one_early_pass_makes_ready_at_once() {
        let probes = readiness_only(3, 1);
        let mut health = begin(&probes);
        let meant = feed(
            &mut health,
            &probes,
            ProbeKind::Readiness,
            &[fail(Counts::Early), EARLY_PASS],
        );
        assert_eq!(meant, [Meaning::BecameReady]);
        assert!(health.ready);
        assert_eq!(health.ready_changed, Some(Timestamp::from_millis(2000)));
        assert_eq!(health.why, None);
    }

    #[test]
    fn two_passes_are_waited_for_where_two_are_asked_for() {
        let probes = readiness_only(3, 2);
        let mut health = begin(&probes);
        let row = [EARLY_PASS, fail(Counts::Counted), PASS];
        assert_eq!(feed(&mut health, &probes, ProbeKind::Readiness, &row), []);
        assert_eq!(health.why.as_deref(), Some("passed 1 of 2 times"));
        let meant = feed(&mut health, &probes, ProbeKind::Readiness, &[PASS]);
        assert_eq!(meant, [Meaning::BecameReady]);
    }

    #[test]
    fn a_component_that_was_never_ready_says_why_and_is_not_called_unready() {
        let probes = readiness_only(3, 1);
        let mut health = begin(&probes);
        let row = vec![fail(Counts::Counted); 100];
        assert_eq!(feed(&mut health, &probes, ProbeKind::Readiness, &row), []);
        assert_eq!(health.why.as_deref(), Some("connection refused"));
        assert_eq!(health.ready_changed, None);
    }

    #[test]
    fn readiness_is_lost_with_the_third_failure_in_a_row_and_regained_with_one_pass() {
        let probes = readiness_only(3, 1);
        let mut health = begin(&probes);
        let bad = fail(Counts::Counted);
        let row = [
            PASS,
            bad.clone(),
            bad.clone(),
            PASS,
            bad.clone(),
            bad.clone(),
        ];
        let meant = feed(&mut health, &probes, ProbeKind::Readiness, &row);
        assert_eq!(meant, [Meaning::BecameReady]);
        let meant = feed(&mut health, &probes, ProbeKind::Readiness, &[bad, PASS]);
        let lost = Meaning::BecameUnready("connection refused".to_owned());
        assert_eq!(meant, [lost, Meaning::BecameReady]);
    }

    #[test]
    fn a_startup_probe_fails_for_good_with_its_thirtieth_counted_failure() {
        let probes = all(3, 1);
        let mut health = begin(&probes);
        let mut row = vec![fail(Counts::Early); 50];
        row.extend(vec![fail(Counts::Counted); 29]);
        assert_eq!(feed(&mut health, &probes, ProbeKind::Startup, &row), []);
        let meant = feed(
            &mut health,
            &probes,
            ProbeKind::Startup,
            &[fail(Counts::Counted)],
        );
        let why = "connection refused".to_owned();
        assert_eq!(meant, [Meaning::Failed(StopCause::StartupFailed(why))]);
    }

    #[test]
    fn nothing_but_the_startup_probe_is_heard_until_it_passed() {
        let probes = all(1, 1);
        let mut health = begin(&probes);
        for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
            let row = [PASS, fail(Counts::Counted)];
            assert_eq!(feed(&mut health, &probes, kind, &row), []);
            assert_eq!(health, begin(&probes));
        }
        let meant = feed(&mut health, &probes, ProbeKind::Startup, &[EARLY_PASS]);
        assert_eq!(meant, [Meaning::Started]);
        // A late answer of it is heard no more.
        let row = vec![fail(Counts::Counted); 100];
        assert_eq!(feed(&mut health, &probes, ProbeKind::Startup, &row), []);
    }

    #[test]
    fn liveness_ends_an_instance_and_says_nothing_about_readiness() {
        let probes = all(2, 1);
        let mut health = begin(&probes);
        feed(&mut health, &probes, ProbeKind::Startup, &[PASS]);
        feed(&mut health, &probes, ProbeKind::Readiness, &[PASS]);
        let row = vec![fail(Counts::Counted); 2];
        let meant = feed(&mut health, &probes, ProbeKind::Liveness, &row);
        let why = "connection refused".to_owned();
        assert_eq!(meant, [Meaning::Failed(StopCause::LivenessFailed(why))]);
        assert!(health.ready);
        assert_eq!(health.why, None);
    }

    #[test]
    fn a_probe_that_was_edited_away_is_not_heard() {
        let probes = readiness_only(1, 1);
        let mut health = begin(&probes);
        feed(&mut health, &probes, ProbeKind::Readiness, &[PASS]);
        let none = Probes::default();
        let row = vec![fail(Counts::Counted); 5];
        assert_eq!(feed(&mut health, &none, ProbeKind::Readiness, &row), []);
        assert!(health.ready);
    }

    fn answer() -> impl Strategy<Value = (ProbeKind, Counts, ProbeOutcome)> {
        (
            prop_oneof![
                Just(ProbeKind::Startup),
                Just(ProbeKind::Readiness),
                Just(ProbeKind::Liveness)
            ],
            prop_oneof![Just(Counts::Early), Just(Counts::Counted)],
            prop_oneof![
                Just(ProbeOutcome::Pass),
                Just(ProbeOutcome::Fail("HTTP 503".to_owned()))
            ],
        )
    }

    proptest! {
        #[test]
        fn health_follows_the_rows_of_answers(
            failures in 1u32..4,
            successes in 1u32..4,
            answers in prop::collection::vec(answer(), 0..200),
        ) {
            let probes = all(failures, successes);
            let mut health = begin(&probes);
            // An independent account: counted failures and passes since the last other answer.
            let mut bad = [0u32; 3];
            let mut good = [0u32; 3];
            for (step, (kind, counts, outcome)) in (1..).zip(answers) {
                let at = Timestamp::from_millis(step);
                let before = health.clone();
                let change = apply(&before, &probes, kind, counts, &outcome, at);
                health = change.health;
                let heard = (kind == ProbeKind::Startup) != before.started;
                if !heard {
                    prop_assert_eq!(&health, &before);
                    prop_assert_eq!(change.meaning, Meaning::Nothing);
                    continue;
                }
                let (bad, good) = (&mut bad[kind as usize], &mut good[kind as usize]);
                match (&outcome, counts) {
                    (ProbeOutcome::Pass, _) => { *good += 1; *bad = 0 }
                    (ProbeOutcome::Fail(_), Counts::Counted) => { *bad += 1; *good = 0 }
                    (ProbeOutcome::Fail(_), Counts::Early) => *good = 0,
                }
                for tally in [health.startup, health.readiness, health.liveness] {
                    prop_assert!(tally.failures == 0 || tally.successes == 0);
                }
                prop_assert!(health.started || !before.started);
                // Readiness moves exactly where its row of answers is long enough.
                let up = kind == ProbeKind::Readiness && *good >= successes;
                let down = kind == ProbeKind::Readiness && *bad >= failures;
                prop_assert_eq!(health.ready, up || (before.ready && !down));
                let moved = health.ready != before.ready;
                let changed = if moved { Some(at) } else { before.ready_changed };
                prop_assert_eq!(health.ready_changed, changed);
                prop_assert_eq!(moved, matches!(
                    change.meaning,
                    Meaning::BecameReady | Meaning::BecameUnready(_)
                ));
                prop_assert!(!health.ready || health.why.is_none());
                // An early failure never has a consequence.
                if counts == Counts::Early && outcome != ProbeOutcome::Pass {
                    prop_assert_eq!(&change.meaning, &Meaning::Nothing);
                }
                let over = matches!(change.meaning, Meaning::Failed(_));
                let limit = if kind == ProbeKind::Startup { 30 } else { failures };
                prop_assert_eq!(over, kind != ProbeKind::Readiness
                    && counts == Counts::Counted && *bad >= limit);
            }
        }
    }
}
