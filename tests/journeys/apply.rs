//! Apply, edit, converge.

use crate::support::{World, pause, pipeline, shell, sleeper};

#[test]
fn apply_starts_a_daemon_and_status_tells_what_runs() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", ", depends_on: [a]")));
    let status = world.status();
    assert!(status.settled());
    for component in ["a", "b"] {
        assert_eq!(status.phase(component), "running");
        assert!(crate::support::is_alive(status.pid(component).unwrap()));
    }
    let table = world.ok(&["status"]);
    assert!(table.contains("running") && table.contains('a'), "{table}");
}

#[test]
fn edit_restarts_only_the_changed_component() {
    let world = World::new();
    world.apply(&(sleeper("a", ", env: { LEVEL: info }") + &sleeper("b", "")));
    let before = world.status();
    world.save(
        "p.yaml",
        &pipeline(&(sleeper("a", ", env: { LEVEL: debug }") + &sleeper("b", ""))),
    );
    let after = world.until("a runs its new definition", |status| {
        status.settled() && status.replica("a")["spec"] != before.replica("a")["spec"]
    });
    assert_ne!(after.pid("a"), before.pid("a"));
    assert_eq!(after.pid("b"), before.pid("b"));
    assert_eq!((after.restarts("a"), after.restarts("b")), (0, 0));
}

#[test]
fn an_edit_in_place_is_taken_over_too() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    world.write("p.yaml", &pipeline(&(sleeper("a", "") + &sleeper("b", ""))));
    world.until("b runs", |status| status.phase("b") == "running");
}

#[test]
fn comments_probes_and_policies_restart_nothing() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let edited = pipeline(&sleeper("a", ", restart: { max_delay: 7s }"));
    world.save("p.yaml", &format!("# a comment\n{edited}\n\n"));
    let after = world.until("the edit is taken over", |status| {
        status.pipeline()["generation"] != before.pipeline()["generation"] && status.settled()
    });
    assert_eq!(after.pid("a"), before.pid("a"));
}

#[test]
fn a_broken_file_changes_nothing_and_status_shows_the_line() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let good = world.read("p.yaml");
    world.save("p.yaml", &good.replace("    - { id: a", "    - { idd: a"));
    let broken = world.until("the problem shows", |status| {
        !status.pipeline()["problem"].is_null()
    });
    assert_eq!(broken.pipeline()["problem"]["line"], 8);
    assert_eq!(broken.pid("a"), before.pid("a"));
    world.save("p.yaml", &good);
    world.until("the problem is gone", |status| {
        status.pipeline()["problem"].is_null()
    });
    assert_eq!(world.status().pid("a"), before.pid("a"));
}

#[test]
fn a_removed_or_emptied_file_deletes_nothing() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    let good = world.read("p.yaml");
    std::fs::remove_file(world.path("p.yaml")).unwrap();
    world.until("the loss shows", |status| {
        !status.pipeline()["problem"].is_null()
    });
    world.save("p.yaml", "");
    pause();
    assert_eq!(world.status().pid("a"), before.pid("a"));
    world.save("p.yaml", &good);
    let after = world.until("all is well", |status| {
        status.pipeline()["problem"].is_null()
    });
    assert_eq!(after.pid("a"), before.pid("a"));
}

#[test]
fn a_component_that_leaves_the_file_is_stopped_and_the_others_stay() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let before = world.status();
    world.save("p.yaml", &pipeline(&sleeper("a", "")));
    let after = world.until("b is gone", |status| status.phase("b") == "absent");
    assert!(!crate::support::is_alive(before.pid("b").unwrap()));
    assert_eq!(after.pid("a"), before.pid("a"));
}

#[test]
fn a_scale_change_touches_no_other_replica() {
    let world = World::new();
    world.apply(&sleeper("a", ", replicas: 2"));
    let pids = |status: &crate::support::Status| -> Vec<u64> {
        status
            .replicas("a")
            .iter()
            .filter_map(|replica| replica["pid"].as_u64())
            .collect()
    };
    let before = pids(&world.status());
    world.apply(&sleeper("a", ", replicas: 4"));
    let more = pids(&world.status());
    assert_eq!((more.len(), &more[..2]), (4, &before[..]));
    world.apply(&sleeper("a", ", replicas: 1"));
    world.until("one is left", |status| pids(status) == before[..1]);
}

#[test]
fn dry_run_and_diff_tell_what_would_happen_and_change_nothing() {
    let world = World::new();
    world.apply(&sleeper("a", ", env: { LEVEL: info }"));
    let before = world.status();
    world.save(
        "q.yaml",
        &pipeline(&sleeper("a", ", env: { LEVEL: debug }")),
    );
    let said = world.ok(&["apply", "-f", "q.yaml", "--dry-run"]);
    assert!(
        said.contains("env.LEVEL") && said.contains("restarts"),
        "{said}"
    );
    world.fails(1, &["diff", "-f", "q.yaml"]);
    world.ok(&["diff", "-f", "p.yaml"]);
    let after = world.status();
    assert_eq!(after.pid("a"), before.pid("a"));
    assert_eq!(
        after.pipeline()["generation"],
        before.pipeline()["generation"]
    );
}

#[test]
fn stop_is_remembered_and_start_and_restart_do_as_told() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    world.ok(&["stop", "a"]);
    assert_eq!(world.status().phase("a"), "stopped");
    assert!(!crate::support::is_alive(before.pid("a").unwrap()));
    world.kill_daemon();
    world.start_daemon();
    assert_eq!(world.status().phase("a"), "stopped");
    world.ok(&["start", "a"]);
    let started = world.status();
    assert_eq!(started.phase("a"), "running");
    world.ok(&["restart", "a"]);
    let restarted = world.status();
    assert_eq!(restarted.phase("a"), "running");
    assert_ne!(restarted.pid("a"), started.pid("a"));
    assert_eq!(restarted.restarts("a"), 0);
}

#[test]
fn logs_show_what_components_wrote_in_order() {
    let world = World::new();
    world.apply(&shell(
        "a",
        "for n in 1 2 3; do echo line $n; done; exec sleep 1000",
        "",
    ));
    crate::support::eventually("it has written all", || {
        world.ok(&["logs", "a"]).lines().count() >= 3
    });
    let logs = world.ok(&["logs", "a"]);
    assert_eq!(logs, "line 1\nline 2\nline 3\n");
    assert_eq!(world.ok(&["logs", "a", "--tail", "1"]), "line 3\n");
}

#[test]
fn down_leaves_nothing_running_and_a_daemon_no_more() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", ", depends_on: [a]")));
    let status = world.status();
    let daemon = status.daemon_pid();
    world.ok(&["down"]);
    crate::support::eventually("the daemon ended", || !crate::support::is_alive(daemon));
    for component in ["a", "b"] {
        assert!(!crate::support::is_alive(status.pid(component).unwrap()));
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_refused_in_words_and_keeps_nobody_else() {
    let world = World::new();
    let boxed = "    - { id: box, driver: nomad, image: 'redis:7' }\n";
    let nowhere = "  nomad: {address: 'http://127.0.0.1:1'}\n";
    let text = pipeline(&(sleeper("a", "") + boxed));
    world.save(
        "p.yaml",
        &text.replacen("spec:\n", &format!("spec:\n{nowhere}"), 1),
    );
    let said = world.fails(7, &["apply", "-f", "p.yaml"]);
    assert!(
        said.contains("box: Nomad does not answer: http://127.0.0.1:1: no connection"),
        "{said}"
    );
    world.ok(&["apply", "-f", "p.yaml", "--force", "--no-wait"]);
    world.until("the others run", |status| status.phase("a") == "running");
}
