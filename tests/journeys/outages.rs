//! Engines that go down, come back, hang, are deaf, or say what is not so. Whatever they do, what
//! runs on the host itself goes on, no crash is counted, and all is as the file says in the end.

use std::time::Duration;

use crate::containers::id_of;
use crate::engine::{LiveRestore, OwnEngine, container, counts_on, resting, unique};
use crate::proxy::{Manner, world_with_proxy};
use crate::support::{Status, World, eventually, kill, pipeline, sleeper};

/// A world whose engine is its own, which outlives it.
macro_rules! world_with_own_engine {
    ($test:literal, $live_restore:expr) => {{
        let Some(own) = OwnEngine::start($test, $live_restore) else {
            return;
        };
        let world = World::with_engine(&own.engine.host());
        (own, world)
    }};
}

/// Waits until the containers of these components are unknown.
fn until_unknown(world: &World, ids: &[&String]) -> Status {
    world.until("they are unknown", |status| {
        ids.iter().all(|id| status.phase(id) == "unknown")
    })
}

/// A process that is another one when `word` is.
fn says(id: &str, word: &str) -> String {
    sleeper(id, &format!(", env: {{ WORD: \"{word}\" }}"))
}

/// A container that is another one when `word` is.
fn boxed_says(id: &str, word: &str) -> String {
    resting(id, &format!(", env: {{ WORD: \"{word}\" }}"))
}

/// Waits until the edit of a process has arrived.
fn until_replaced(world: &World, free: &str, before: &Status) -> Status {
    world.until("the process is another one", |status| {
        status.phase(free) == "running" && status.pid(free) != before.pid(free)
    })
}

#[test]
fn an_engine_that_dies_makes_its_components_unknown_and_stops_nothing_else() {
    let (own, world) = world_with_own_engine!("an_engine_that_dies_…", LiveRestore::Off);
    let (boxed, free) = (unique("boxed"), unique("free"));
    world.apply(&(resting(&boxed, "") + &sleeper(&free, "")));
    let before = world.status();
    own.end("KILL");
    let blind = until_unknown(&world, &[&boxed]);
    assert_eq!(blind.pid(&free), before.pid(&free));
    assert_eq!(blind.phase(&free), "running");
    own.again();
    let after = world.until("it is known again", Status::settled);
    assert_eq!(after.restarts(&boxed), 0, "its engine's death is no crash");
    assert_eq!(after.pid(&free), before.pid(&free));
    world.ok(&["down"]);
    assert_eq!(own.engine.containers(&world), Vec::<String>::new());
}

#[test]
fn an_engine_that_is_shut_down_takes_its_containers_along_and_no_crash_is_counted() {
    let (own, world) = world_with_own_engine!("an_engine_that_is_shut_down_…", LiveRestore::Off);
    let ids = ["obeys", "dies", "ignores"].map(unique);
    let [obeys, dies, ignores] = &ids;
    let free = unique("free");
    let stubborn = "trap '' TERM; while :; do sleep 0.1; done";
    world.apply(
        &(resting(obeys, "")
            + &container(dies, "exec sleep 100000", "")
            + &container(ignores, stubborn, "")
            + &sleeper(&free, "")),
    );
    let before = world.status();
    own.end("TERM");
    let blind = until_unknown(&world, &[obeys, dies, ignores]);
    assert_eq!(blind.phase(&free), "running");
    own.again();
    let after = world.until("all run again", Status::settled);
    for id in &ids {
        assert_eq!(after.restarts(id), 0, "{id}: {}", after.why(id));
        assert_ne!(id_of(&after, id), id_of(&before, id));
    }
    assert_eq!(after.pid(&free), before.pid(&free));
    assert_eq!(own.engine.containers(&world).len(), ids.len());
}

#[test]
fn a_shut_down_of_engine_and_daemon_together_is_no_crash_either() {
    let (own, world) = world_with_own_engine!("a_shut_down_of_engine_…", LiveRestore::Off);
    let ids = ["obeys", "dies"].map(unique);
    world.apply(&(resting(&ids[0], "") + &container(&ids[1], "exec sleep 100000", "")));
    world.kill_daemon();
    own.end("TERM");
    own.again();
    world.start_daemon();
    let after = world.until("all run again", Status::settled);
    for id in &ids {
        assert_eq!(after.restarts(id), 0, "{id}: {}", after.why(id));
    }
}

#[test]
fn containers_that_outlive_their_engine_are_found_as_they_were() {
    let (own, world) = world_with_own_engine!("containers_that_outlive_…", LiveRestore::On);
    let (counts, edited, free) = (unique("counts"), unique("edited"), unique("free"));
    let counter = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    let file = |word: &str| {
        container(&counts, counter, "") + &boxed_says(&edited, word) + &says(&free, word)
    };
    world.apply(&file("before"));
    let before = world.status();
    own.end("KILL");
    until_unknown(&world, &[&counts, &edited]);
    // What is edited meanwhile arrives where it can.
    world.save("p.yaml", &pipeline(&file("after")));
    until_replaced(&world, &free, &before);
    own.again();
    let after = world.until("the edit has arrived", |status| {
        status.settled() && id_of(status, &edited) != id_of(&before, &edited)
    });
    assert_eq!(id_of(&after, &counts), id_of(&before, &counts));
    for id in [&counts, &edited] {
        assert_eq!(after.restarts(id), 0, "{id}: {}", after.why(id));
    }
    counts_on(&world, &counts);
    assert_eq!(own.engine.containers(&world).len(), 2);
}

#[test]
fn an_engine_that_hangs_makes_its_components_unknown_until_it_goes_on() {
    let (own, world) = world_with_own_engine!("an_engine_that_hangs_…", LiveRestore::Off);
    let (boxed, edited, free) = (unique("boxed"), unique("edited"), unique("free"));
    // Which the engine would have to carry out.
    let probe =
        ", probes: { liveness: { exec: ['true'], period: 300ms, timeout: 1s, failures: 2 } }";
    let file =
        |word: &str| resting(&boxed, probe) + &boxed_says(&edited, word) + &says(&free, word);
    world.apply(&file("before"));
    let before = world.status();
    kill(own.pid(), "STOP");
    until_unknown(&world, &[&boxed, &edited]);
    world.save("p.yaml", &pipeline(&file("after")));
    until_replaced(&world, &free, &before);
    kill(own.pid(), "CONT");
    let after = world.until("the edit has arrived", |status| {
        status.settled() && id_of(status, &edited) != id_of(&before, &edited)
    });
    assert_eq!(id_of(&after, &boxed), id_of(&before, &boxed));
    for id in [&boxed, &edited] {
        assert_eq!(after.restarts(id), 0, "{id}: {}", after.why(id));
    }
    assert_eq!(own.engine.containers(&world).len(), 2);
}

#[test]
fn events_that_repeat_come_late_or_never_change_nothing_but_the_time() {
    let (world, engine, proxy) = world_with_proxy!("events_that_repeat_…");
    let (dies, edited, rests) = (unique("dies"), unique("edited"), unique("rests"));
    let file = |word: &str| resting(&dies, "") + &boxed_says(&edited, word) + &resting(&rests, "");
    world.apply(&file("0"));
    let first = world.status();
    let manners = [
        Manner::Stutters,
        Manner::Dawdles(Duration::from_secs(1)),
        Manner::Conceals,
    ];
    for (manner, round) in manners.into_iter().zip(1..) {
        proxy.behave(manner);
        let before = world.status();
        engine.act(
            "POST",
            &format!("/containers/{}/kill", id_of(&before, &dies)),
        );
        world.save("p.yaml", &pipeline(&file(&round.to_string())));
        let arrived = |status: &Status| {
            status.settled()
                && status.restarts(&dies) >= round
                && id_of(status, &edited) != id_of(&before, &edited)
        };
        let after = world.until("both have arrived", arrived);
        // The last of the events that are late.
        std::thread::sleep(Duration::from_secs(2));
        let later = world.status();
        for id in [&dies, &edited, &rests] {
            assert_eq!(id_of(&later, id), id_of(&after, id), "{manner:?}");
        }
        assert_eq!(later.restarts(&dies), round, "{manner:?}");
        assert_eq!(later.restarts(&edited), 0, "{manner:?}");
        assert_eq!(id_of(&later, &rests), id_of(&first, &rests));
    }
    assert_eq!(engine.containers(&world).len(), 3);
}

#[test]
fn an_engine_that_says_what_is_not_so_is_not_believed() {
    let (world, engine, proxy) = world_with_proxy!("an_engine_that_says_…");
    let (rests, edited, free) = (unique("rests"), unique("edited"), unique("free"));
    let file = |word: &str| resting(&rests, "") + &boxed_says(&edited, word) + &says(&free, word);
    world.apply(&file("0"));
    let first = world.status();
    let manners = [
        Manner::Breaks(40),
        Manner::Breaks(700),
        Manner::Babbles,
        Manner::Drips(Duration::from_millis(100)),
        Manner::Fails,
    ];
    for (manner, round) in manners.into_iter().zip(1..) {
        let before = world.status();
        proxy.behave(manner);
        // An event, so that it does not take the next full look to hear of it.
        engine.ask("GET", &format!("/containers/{rests}/archive?path=/bin/sh"));
        until_unknown(&world, &[&rests, &edited]);
        world.save("p.yaml", &pipeline(&file(&round.to_string())));
        until_replaced(&world, &free, &before);
        proxy.behave(Manner::Honest);
        let after = world.until("the edit has arrived", |status| {
            status.settled() && id_of(status, &edited) != id_of(&before, &edited)
        });
        assert_eq!(id_of(&after, &rests), id_of(&first, &rests), "{manner:?}");
        for id in [&rests, &edited, &free] {
            assert_eq!(after.restarts(id), 0, "{manner:?}: {}", after.why(id));
        }
        assert_eq!(engine.containers(&world).len(), 2, "{manner:?}");
    }
}

#[test]
fn an_engine_that_can_make_nothing_is_asked_again_at_growing_distances() {
    let (world, engine, proxy) = world_with_proxy!("an_engine_that_can_make_nothing_…");
    let (boxed, rests) = (unique("boxed"), unique("rests"));
    world.apply(&resting(&rests, ""));
    let before = world.status();
    proxy.behave(Manner::MakesNothing);
    world.save(
        "p.yaml",
        &pipeline(&(resting(&boxed, "") + &resting(&rests, ""))),
    );
    let waits = world.until("it is put off", |status| {
        status.phase(&boxed) == "backoff" && status.restarts(&boxed) >= 2
    });
    let why = waits.why(&boxed);
    assert!(why.contains("the proxy says no"), "{why}");
    assert_eq!(waits.phase(&rests), "running");
    proxy.behave(Manner::Honest);
    let after = world.until("it runs", Status::settled);
    assert_eq!(id_of(&after, &rests), id_of(&before, &rests));
    assert_eq!(engine.containers(&world).len(), 2);
}

#[test]
fn an_engine_that_fails_before_anything_is_made_is_asked_again_at_growing_distances() {
    let (world, engine, proxy) = world_with_proxy!("an_engine_that_fails_before_…");
    let (boxed, rests) = (unique("boxed"), unique("rests"));
    world.apply(&resting(&rests, ""));
    proxy.behave(Manner::HidesNetworks);
    world.save(
        "p.yaml",
        &pipeline(&(resting(&boxed, "") + &resting(&rests, ""))),
    );
    let count = |what: &str| {
        let events = world.ok(&["events", &boxed]);
        events.matches(&format!("{what} {boxed}")).count()
    };
    world.until("it was tried four times", |_| count("starting") >= 4);
    let waits = world.until("it is put off", |status| status.phase(&boxed) == "backoff");
    let why = waits.why(&boxed);
    assert!(why.contains("the proxy says no"), "{why}");
    // One, two, four and eight seconds lie between them.
    assert!(
        (4..=6).contains(&count("starting")),
        "{}",
        world.ok(&["events"])
    );
    proxy.behave(Manner::Honest);
    world.ok(&["restart", &boxed]);
    let after = world.until("it runs", Status::settled);
    assert_eq!(after.restarts(&boxed), 0);
    assert_eq!(after.restarts(&rests), 0);
    assert_eq!(engine.containers(&world).len(), 2);
}

#[test]
fn an_engine_that_breaks_off_a_wait_costs_nobody_the_grace_of_a_stop() {
    let (world, _engine, proxy) = world_with_proxy!("an_engine_that_breaks_off_…");
    let id = unique("slow");
    let ends_in_peace = "trap 'sleep 2; echo bye; exit 0' TERM; while :; do sleep 0.1; done";
    let stop = ", stop: { grace_period: 20s }";
    world.apply(&container(&id, ends_in_peace, stop));
    proxy.behave(Manner::WaitsForNothing);
    world.ok(&["stop", &id]);
    let logs = || world.ok(&["logs", &id]);
    eventually("its last word", || logs() == "bye\n");
}

#[test]
fn what_a_silent_engine_runs_outlives_a_lost_store_until_it_can_be_asked() {
    let (world, engine, proxy) = world_with_proxy!("what_a_silent_engine_runs_…");
    let (lost, later) = (unique("lost"), unique("later"));
    world.apply(&resting(&lost, ""));
    let before = id_of(&world.status(), &lost);
    world.kill_daemon();
    std::fs::remove_dir_all(world.state().join("store")).unwrap();
    proxy.behave(Manner::Fails);
    world.start_daemon();
    proxy.behave(Manner::Honest);
    let other = pipeline(&resting(&later, "")).replace("name: p ", "name: q ");
    world.save("q.yaml", &other);
    world.ok(&["apply", "-f", "q.yaml", "--wait"]);
    // Longer than it takes to look at all.
    std::thread::sleep(Duration::from_secs(12));
    let runs = |id: &str| engine.inspect(id).unwrap()["State"]["Running"] == true;
    assert!(
        runs(&lost),
        "nobody knew whose it is, and nobody stopped it"
    );
    world.kill_daemon();
    world.start_daemon();
    let after = world.until("it is known", |status| status.phase(&lost) == "running");
    assert_eq!(id_of(&after, &lost), before);
    assert_eq!(after.restarts(&lost), 0);
}

#[test]
fn what_a_deletion_could_not_remove_is_removed_by_the_next_daemon() {
    let (world, engine, proxy) = world_with_proxy!("what_a_deletion_could_not_remove_…");
    let id = unique("left");
    world.apply(&resting(&id, ""));
    proxy.behave(Manner::RemovesNothing);
    world.ok(&["delete", "p"]);
    world.kill_daemon();
    assert_eq!(engine.containers(&world).len(), 1);
    proxy.behave(Manner::Honest);
    world.start_daemon();
    eventually("nothing is left", || engine.containers(&world).is_empty());
}

#[test]
fn down_ends_once_what_could_not_be_removed_at_first_is_gone() {
    let (world, engine, proxy) = world_with_proxy!("down_ends_once_…");
    let id = unique("stays");
    world.apply(&resting(&id, ""));
    proxy.behave(Manner::RemovesNothing);
    let mut down = world.command(&["down"]).spawn().unwrap();
    eventually("it is stopped", || {
        let (_, found) = engine.ask("GET", &format!("/containers/{id}/json"));
        found["State"]["Status"] == "exited"
    });
    // Its removal has failed by now.
    std::thread::sleep(Duration::from_secs(1));
    proxy.behave(Manner::Honest);
    assert!(down.wait().unwrap().success());
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}
