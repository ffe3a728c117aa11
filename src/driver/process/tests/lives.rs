//! How instances end, and that all of them is gone then.

use super::*;
use crate::driver::conformance::{eventually, eventually_exits};

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_while_no_driver_is_there_is_reported_exactly() {
    let mut stage = ProcessStage::new();
    let flag = stage.path("go");
    let signalled = |number| ExitStatus::Signal(crate::model::Signal::from_number(number).unwrap());
    let ends = [
        ("zero", "exit 0", ExitStatus::Code(0)),
        ("one", "exit 1", ExitStatus::Code(1)),
        ("forty-two", "exit 42", ExitStatus::Code(42)),
        ("segv", "kill -SEGV $$", signalled(11)),
        ("killed", "kill -KILL $$", signalled(9)),
    ];
    let mut launches = Vec::new();
    for (id, end, status) in ends {
        let script = format!("until [ -e {flag} ]; do sleep 0.01; done; {end}");
        launches.push((stage.start_shell(id, &script).await, status));
    }
    let nobody = tempfile::tempdir().unwrap();
    stage.driver = driver_in(nobody.path());
    std::fs::write(&flag, "").unwrap();
    for ((_, child), _) in &launches {
        wait_for("the program ended", || !runs(child.pid)).await;
    }
    stage.restart().await;
    for ((launch, _), status) in &launches {
        let seen = eventually_exits(&stage.driver, &launch.instance).await;
        assert_eq!(seen, *status, "{}", launch.instance);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_whole_tree_even_what_left_its_group_and_session() {
    let stage = ProcessStage::new();
    let flags = [stage.path("a"), stage.path("b")];
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; : > {}; while :; do sleep 1000; done' &
         (setsid sh -c 'trap \"\" TERM; : > {}; while :; do sleep 1000; done' &)
         wait",
        flags[0], flags[1]
    );
    let (launch, _) = stage.start_shell("tree", &script).await;
    wait_for("the tree stands", || {
        flags.iter().all(|flag| Path::new(flag).exists())
    })
    .await;
    assert!(stage.marked(&launch) >= 3);
    stage.stop(&launch).await.unwrap();
    assert_eq!(stage.marked(&launch), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_by_itself_leaves_nothing_of_its_tree() {
    let stage = ProcessStage::new();
    let flag = stage.path("up");
    let script = format!(
        "(setsid sh -c ': > {flag}; sleep 1000; true' &)
         sleep 1000 &
         until [ -e {flag} ]; do sleep 0.01; done; exit 3"
    );
    let (launch, _) = stage.start_shell("leaves", &script).await;
    let status = eventually_exits(&stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(3));
    assert_eq!(stage.marked(&launch), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_stop_the_workers_of_a_program_that_ended_first_keep_their_grace() {
    let stage = ProcessStage::new();
    let (ready, done) = (stage.path("ready"), stage.path("done"));
    let script = format!(
        "sh -c 'trap \"sleep 0.1; : > {done}; exit\" TERM; : > {ready}
                while :; do sleep 0.01; done' &
         wait"
    );
    let mut spec = spec("workers", "sh", &["-c", &script]);
    spec.stop.grace_period = crate::model::HumanDuration::from_secs(30);
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    wait_for("the worker is ready", || Path::new(&ready).exists()).await;
    stage.stop(&launch).await.unwrap();
    assert!(Path::new(&done).exists(), "the worker finished its work");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_ordered_is_carried_out_though_the_driver_is_gone() {
    let mut stage = ProcessStage::new();
    let flag = stage.path("ready");
    let script = format!("trap '' TERM; : > {flag}; while :; do sleep 1000; done");
    let mut spec = spec("abandoned", "sh", &["-c", &script]);
    spec.stop.grace_period = crate::model::HumanDuration::from_secs(3);
    let launch = launch(spec, 1);
    let child = stage.start(&launch).await;
    wait_for("it ignores signals", || Path::new(&flag).exists()).await;
    let stop = stage.stop(&launch);
    // Time enough to order it.
    assert!(
        tokio::time::timeout(Duration::from_secs(1), stop)
            .await
            .is_err(),
        "grace is longer than that"
    );
    let nobody = tempfile::tempdir().unwrap();
    stage.driver = driver_in(nobody.path());
    wait_for("it was killed", || !runs(child.pid)).await;
    stage.restart().await;
    eventually_exits(&stage.driver, &launch.instance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_program_and_a_stopped_shim_can_be_stopped() {
    let stage = ProcessStage::new();
    let (asleep, child) = stage.start_shell("asleep", "exec sleep 1000").await;
    signal(child.pid, Signal::STOP);
    stage.stop(&asleep).await.unwrap();
    let (guarded, _) = stage.start_shell("guarded", "exec sleep 1000").await;
    signal(stage.shim_of(&guarded), Signal::STOP);
    stage.stop(&guarded).await.unwrap();
    for launch in [&asleep, &guarded] {
        let status = eventually_exits(&stage.driver, &launch.instance).await;
        assert_eq!(status, ExitStatus::Signal(crate::model::Signal::TERM));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_someone_stopped_is_woken_by_the_next_full_look() {
    let stage = ProcessStage::new();
    let (launch, child) = stage.start_shell("woken", "exec sleep 1000").await;
    signal(stage.shim_of(&launch), Signal::STOP);
    signal(child.pid, Signal::KILL);
    eventually_runs(&stage.driver, &launch.instance).await;
    stage.driver.observe(&Scope::All).await.unwrap();
    let status = eventually_exits(&stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Signal(crate::model::Signal::KILL));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_shim_leaves_is_ended_and_reported_as_lost_once() {
    let mut stage = ProcessStage::new();
    let flag = stage.path("up");
    let script = format!("setsid sh -c ': > {flag}; sleep 1000; true' & wait");
    let (launch, child) = stage.start_shell("lost", &script).await;
    wait_for("the tree stands", || Path::new(&flag).exists()).await;
    signal(stage.shim_of(&launch), Signal::KILL);
    let lost = |life: &Life| matches!(life, Life::Lost { .. });
    let seen = eventually(&stage.driver, &launch.instance, lost).await;
    assert!(!runs(child.pid));
    assert_eq!(stage.marked(&launch), 0, "nothing is left when it is lost");
    stage.restart().await;
    let again = sight(&stage.driver, &launch.instance).await.unwrap();
    assert_eq!(
        again.life, seen.life,
        "and it stays lost since the same moment"
    );
    assert_eq!(again.handle, seen.handle);
    stage.driver.forget(&launch.instance).await.unwrap();
    assert_eq!(sight(&stage.driver, &launch.instance).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finds_what_a_killed_shim_left() {
    let stage = ProcessStage::new();
    let flag = stage.path("up");
    let script = format!("setsid sh -c 'trap \"\" TERM; : > {flag}; sleep 1000; true' & wait");
    let (launch, _) = stage.start_shell("lost", &script).await;
    wait_for("the tree stands", || Path::new(&flag).exists()).await;
    signal(stage.shim_of(&launch), Signal::KILL);
    stage.stop(&launch).await.unwrap();
    assert_eq!(stage.marked(&launch), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_fork_server_is_replaced_and_its_shims_live_on() {
    let stage = ProcessStage::new();
    let (before, _) = stage.start_shell("before", "exec sleep 1000").await;
    let server = stage.driver.site.server.as_ref().unwrap();
    signal(server.pid().unwrap(), Signal::KILL);
    // The socket of a killed process closes a moment later; a launch into it is not answered.
    let after = launch(spec("after", "sleep", &["1000"]), 1);
    for _ in 0..100 {
        match stage.driver.start(&after).await {
            Ok(_) => break,
            Err(DriverError::Unreachable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for launch in [&before, &after] {
        eventually_runs(&stage.driver, &launch.instance).await;
        stage.stop(launch).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_shim_sleeps_through_every_look() {
    let stage = ProcessStage::new();
    let (launch, _) = stage.start_shell("idle", "exec sleep 1000").await;
    let status = format!("/proc/{}/status", stage.shim_of(&launch));
    let switches = || -> Vec<String> {
        let text = std::fs::read_to_string(&status).unwrap();
        let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
        lines.map(str::to_owned).collect()
    };
    let asleep = || {
        let text = std::fs::read_to_string(&status).unwrap();
        text.lines().any(|line| line.starts_with("State:\tS"))
    };
    wait_for("the shim sleeps", asleep).await;
    let before = switches();
    for _ in 0..20 {
        stage.driver.observe(&Scope::All).await.unwrap();
    }
    assert_eq!(switches(), before);
}
