//! What is known after a while in which nobody listened, or of an instance before.

use super::*;

/// Clients of gRPC that lost their connection try again after up to two minutes.
#[test]
fn after_a_daemons_absence_a_heartbeat_probe_waits_until_a_component_may_be_back() {
    let mut spec = component("a", 1, &[]);
    let ttl = HumanDuration::from_secs(30);
    spec.probes.liveness = Some(probe(ProbeCheck::Heartbeat { ttl }));
    // One that registered, and one that only ever beat under an id that is not kept.
    for id in ["a", "sim-1"] {
        let mut owned = Owned::of(vec![spec.clone()]);
        let who = owned.instance("a");
        if id == "a" {
            owned.register(named("a")).unwrap();
        }
        owned.beat_from(id, who.clone(), None, Metrics::new());
        owned.now = owned.now.shifted(300_000);
        owned.restart_daemon();
        owned.register(named("somebody-else")).unwrap();
        owned.pass(170_000);
        assert_eq!(owned.status("a").phase, PhaseName::Running, "{id}");
        // Once it was heard again its silence counts as ever.
        owned.beat_from(id, who, None, Metrics::new());
        owned.pass(25_000);
        assert_eq!(owned.status("a").phase, PhaseName::Running, "{id}");
        owned.pass(20_000);
        assert_eq!(owned.status("a").phase, PhaseName::Stopping, "{id}");
    }
    // One that does not come back is found out in the end.
    let mut owned = Owned::of(vec![spec]);
    owned.register(named("a")).unwrap();
    owned.restart_daemon();
    owned.pass(200_000);
    assert_eq!(owned.status("a").phase, PhaseName::Stopping);
}

#[test]
fn a_daemon_that_was_stopped_or_slept_counts_its_own_absence_against_nobody() {
    let mut spec = component("a", 1, &[]);
    let ttl = HumanDuration::from_secs(30);
    spec.probes.liveness = Some(probe(ProbeCheck::Heartbeat { ttl }));
    let mut owned = Owned::of(vec![spec]);
    owned.register(named("a")).unwrap();
    owned.beat("a");
    owned.now = owned.now.shifted(600_000);
    owned.input(Input::Tick);
    owned.pass(20_000);
    assert_eq!(owned.status("a").phase, PhaseName::Running);
    assert_eq!(owned.entry("a").unwrap().silent_since, None);
    owned.pass(30_000);
    assert_eq!(owned.status("a").phase, PhaseName::Stopping);
}

#[test]
fn a_new_instance_shows_nothing_of_its_predecessors_heartbeats_and_figures() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    let first = owned.instance("a");
    owned
        .register(Introduction {
            who: first.clone(),
            ..named("a")
        })
        .unwrap();
    owned.beat_with("a", Some(ServiceHealth::Degraded), &[("total", 9.0)]);
    owned.crash("a");
    assert_eq!(owned.status("a").registration, None);
    // What its predecessor sent last is not about it.
    owned.beat_from(
        "a",
        first,
        None,
        [("total".to_owned(), Metric::Number(10.0))].into(),
    );
    assert_eq!(owned.status("a").registration, None);
    let second = owned.instance("a");
    owned
        .register(Introduction {
            who: second.clone(),
            ..named("a")
        })
        .unwrap();
    let shown = owned.status("a").registration.unwrap();
    assert_eq!((shown.last_heartbeat, shown.metrics.len()), (None, 0));
    assert_eq!(owned.entry("a").unwrap().health(), ServiceHealth::Healthy);

    // One that beats on under its old id without registering again is itself from then on.
    owned.beat_with("a", Some(ServiceHealth::Degraded), &[("total", 9.0)]);
    owned.crash("a");
    let third = owned.instance("a");
    owned.beat_from(
        "a",
        third,
        None,
        [("other".to_owned(), Metric::Number(1.0))].into(),
    );
    let shown = owned.status("a").registration.unwrap();
    assert_eq!(shown.metrics.keys().collect::<Vec<_>>(), ["other"]);
    assert!(shown.last_heartbeat.is_some());
    assert_eq!(owned.entry("a").unwrap().health(), ServiceHealth::Healthy);
}

#[test]
fn what_was_well_before_the_daemon_started_is_unknown_until_it_is_heard_of() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("a")).unwrap();
    owned.register(named("outsider")).unwrap();
    owned.beat("a");
    owned.restart_daemon();
    for id in ["a", "outsider"] {
        let record = owned.entry(id).unwrap();
        assert_eq!(record.health(), ServiceHealth::Unknown, "{id}");
        assert!(record.is_healthy(), "nobody is hidden for our absence");
    }
    owned.beat("a");
    assert_eq!(owned.entry("a").unwrap().health(), ServiceHealth::Healthy);
    owned.pass(200_000);
    assert_eq!(
        owned.entry("outsider").unwrap().health(),
        ServiceHealth::Unhealthy
    );
}
