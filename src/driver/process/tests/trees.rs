//! How trees of processes end: who is asked, who is killed, and that nothing is left.

use std::time::Instant;

use super::super::start::begin;
use super::super::wire::Orders;
use super::*;
use crate::driver::conformance::eventually;
use crate::driver::inputs::Inputs;
use crate::model::{HumanDuration, StopPolicy, StopTarget};

/// Long enough for what was asked to end; who is not asked is noticed by its silence, not by time.
const GRACE: HumanDuration = HumanDuration::from_secs(20);

fn to(target: StopTarget) -> StopPolicy {
    StopPolicy {
        to: target,
        grace_period: GRACE,
        ..StopPolicy::default()
    }
}

fn is_lost(life: &Life) -> bool {
    matches!(life, Life::Lost { .. })
}

/// A shell line that says `NAME up`, and `NAME asked` once it is sent SIGTERM, in a file each.
fn polite(folder: &str, name: &str) -> String {
    format!(
        "trap \"echo > {folder}/{name}.asked; exit 0\" TERM; echo > {folder}/{name}.up; \
         while :; do sleep 0.05; done"
    )
}

impl ProcessStage {
    async fn is_up(&self, name: &str) {
        let file = self.path(&format!("{name}.up"));
        wait_for("it is up", || Path::new(&file).exists()).await;
    }

    fn was_asked(&self, name: &str) -> bool {
        Path::new(&self.path(&format!("{name}.asked"))).exists()
    }
}

/// Ways out of the program's process group.
const WAYS: [(&str, &str); 5] = [
    (
        "group",
        "perl -e 'setpgrp(0, 0); exec @ARGV' sh -c '{}' & wait",
    ),
    ("session", "setsid sh -c '{}' & wait"),
    ("cleared", "env -i PATH=/bin:/usr/bin sh -c '{}' & wait"),
    ("both", "setsid env -i PATH=/bin:/usr/bin sh -c '{}' & wait"),
    (
        "daemon",
        "setsid sh -c 'setsid sh -c \"$0\" & exit' '{}' & wait; exec sleep 1000",
    ),
];

fn out_by(way: &str, line: &str) -> String {
    // The line stands in single quotes, of which it has none.
    assert!(!line.contains('\''));
    way.replace("{}", line)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_if_it_stays_is_asked_first_wherever_it_went() {
    let stage = ProcessStage::new();
    let folder = stage.path("");
    for (name, way) in WAYS {
        let line = polite(folder.trim_end_matches('/'), name);
        let (launch, _) = stage.start_shell(name, &out_by(way, &line)).await;
        stage.is_up(name).await;
        let begun = Instant::now();
        let how = to(StopTarget::All);
        stage.driver.stop(&launch.instance, &how).await.unwrap();
        assert!(stage.was_asked(name), "{name}");
        assert!(begun.elapsed() < GRACE.get(), "{name} ended when asked");
        let seen = sight(&stage.driver, &launch.instance).await.unwrap();
        let Life::Exited(exit) = seen.life else {
            panic!("{name}: {seen:?}");
        };
        assert_eq!(exit.killed, 0, "{name}");
        stage.driver.forget(&launch.instance).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_asked_alone_lets_its_workers_finish() {
    let stage = ProcessStage::new();
    let folder = stage.path("");
    let folder = folder.trim_end_matches('/');
    // The worker is done when there is a file; the master writes it when it is asked, and waits.
    let script = format!(
        "trap 'echo > {folder}/finish; wait $worker; echo > {folder}/master.asked; exit 0' TERM; \
         sh -c 'trap \"echo > {folder}/worker.asked; exit 1\" TERM; echo > {folder}/worker.up; \
         while ! [ -e {folder}/finish ]; do sleep 0.05; done; echo > {folder}/job.done' & \
         worker=$!; wait"
    );
    for orders in [Orders::Whom, Orders::Group] {
        let (launch, _) = stage.start_shell("master", &script).await;
        stage.is_up("worker").await;
        stop_as(&stage, &launch, orders, &to(StopTarget::Main)).await;
        assert!(!stage.was_asked("worker"), "{orders:?}");
        assert!(stage.was_asked("master"), "{orders:?}");
        assert!(Path::new(&stage.path("job.done")).exists(), "{orders:?}");
        stage.driver.forget(&launch.instance).await.unwrap();
        for file in ["finish", "worker.up", "master.asked", "job.done"] {
            std::fs::remove_file(stage.path(file)).unwrap();
        }
    }
}

/// Stops an instance whose shim understands these orders.
async fn stop_as(stage: &ProcessStage, launch: &Launch, orders: Orders, how: &StopPolicy) {
    let Finding::Guarded {
        process, handle, ..
    } = stage.driver.examine(&launch.instance).await.unwrap()
    else {
        panic!("it runs");
    };
    let (driver, instance) = (&stage.driver, &launch.instance);
    let stopping = driver.stop_guarded(instance, process, handle.as_ref(), orders, how);
    stopping.await.unwrap();
    stage.stop(launch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_of_the_first_release_are_stopped_as_the_file_says() {
    let stage = ProcessStage::new();
    let folder = stage.path("");
    let (name, way) = WAYS[3];
    let line = polite(folder.trim_end_matches('/'), name);
    let (launch, _) = stage.start_shell(name, &out_by(way, &line)).await;
    stage.is_up(name).await;
    stop_as(&stage, &launch, Orders::Group, &to(StopTarget::All)).await;
    assert!(stage.was_asked(name));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_master_leaves_is_asked_before_it_is_killed() {
    let stage = ProcessStage::new();
    let folder = stage.path("");
    for target in [StopTarget::Main, StopTarget::Group] {
        let name = &target.to_string();
        let line = polite(folder.trim_end_matches('/'), name);
        let script = format!("setsid sh -c '{line}' & trap 'exit 0' TERM; wait");
        let (launch, _) = stage.start_shell(name, &script).await;
        stage.is_up(name).await;
        let begun = Instant::now();
        let how = to(target);
        stage.driver.stop(&launch.instance, &how).await.unwrap();
        assert!(stage.was_asked(name), "{name}");
        assert!(begun.elapsed() < GRACE.get(), "{name}");
        stage.driver.forget(&launch.instance).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_time_signal_is_sent_as_it_is_named() {
    let stage = ProcessStage::new();
    let file = stage.path("asked");
    let up = stage.path("rt.up");
    // SIGRTMIN+3 as the C library counts.
    let script =
        format!("trap 'echo > {file}; exit 0' 37; echo > {up}; while :; do sleep 0.05; done");
    let (launch, _) = stage.start_shell("rt", &script).await;
    stage.is_up("rt").await;
    let how = StopPolicy {
        signal: crate::model::Signal::from_number(37),
        ..to(StopTarget::Main)
    };
    stage.driver.stop(&launch.instance, &how).await.unwrap();
    assert!(Path::new(&file).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_end_in_the_grace_period_is_counted() {
    let stage = ProcessStage::new();
    let up = stage.path("deaf.up");
    // Both ignore it: what is ignored stays so in what is forked.
    let script = format!("trap '' TERM; setsid sleep 1000 & echo > {up}; wait");
    let (launch, _) = stage.start_shell("deaf", &script).await;
    stage.is_up("deaf").await;
    stage.stop(&launch).await.unwrap();
    let seen = sight(&stage.driver, &launch.instance).await.unwrap();
    let Life::Exited(exit) = seen.life else {
        panic!("{seen:?}");
    };
    assert_eq!(exit.killed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dropped_its_mark_does_not_outlive_its_guardian() {
    let stage = ProcessStage::new();
    let folder = stage.path("");
    for (name, way) in WAYS {
        let folder = folder.trim_end_matches('/');
        let line =
            format!("echo $$ > {folder}/{name}.pid; echo > {folder}/{name}.up; exec sleep 1000");
        let (launch, _) = stage.start_shell(name, &out_by(way, &line)).await;
        stage.is_up(name).await;
        let pid: u32 = std::fs::read_to_string(stage.path(&format!("{name}.pid")))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        // Another component goes on meanwhile.
        let other = self::launch(spec(&format!("beside-{name}"), "sleep", &["1000"]), 1);
        let bystander = stage.start(&other).await;
        signal(stage.shim_of(&launch), Signal::KILL);
        eventually(&stage.driver, &launch.instance, is_lost).await;
        assert!(!runs(pid), "{name}");
        assert!(runs(bystander.pid), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dropped_its_mark_is_found_by_the_next_driver_too() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: it needs a control group, and so root");
        return;
    }
    let mut stage = ProcessStage::new();
    let folder = stage.path("");
    let (name, way) = WAYS[3];
    let folder = folder.trim_end_matches('/');
    let line = format!("echo $$ > {folder}/{name}.pid; echo > {folder}/{name}.up; exec sleep 1000");
    let (launch, _) = stage.start_shell(name, &out_by(way, &line)).await;
    let other = self::launch(spec("beside", "sleep", &["1000"]), 1);
    let bystander = stage.start(&other).await;
    stage.is_up(name).await;
    let text = std::fs::read_to_string(stage.path(&format!("{name}.pid"))).unwrap();
    let pid: u32 = text.trim().parse().unwrap();
    // The fork server goes, and its group stays; then the guardian.
    stage.driver.site.server.as_ref().unwrap().end();
    signal(stage.shim_of(&launch), Signal::KILL);
    stage.restart().await;
    eventually(&stage.driver, &launch.instance, is_lost).await;
    assert!(!runs(pid));
    assert!(runs(bystander.pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_on_another_users_process_proves_nothing() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: it needs root, to run something as another user");
        return;
    }
    let stage = ProcessStage::new();
    let (launch, _) = stage.start_shell("marked", "exec sleep 1000").await;
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .env(environment::MARK_FILE, stage.file_of(&launch))
        .uid(65_533)
        .spawn()
        .unwrap();
    signal(stage.shim_of(&launch), Signal::KILL);
    eventually(&stage.driver, &launch.instance, is_lost).await;
    assert!(runs(stranger.id()), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_names_a_stranger_as_guardian_harms_nobody() {
    let stage = ProcessStage::new();
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = stranger.id();
    let ticks = identity::stat(pid).unwrap().ticks;
    let boot = stage.driver.site.boot.id.clone();
    let fake = self::launch(spec("fake", "sleep", &["1000"]), 1);
    super::faults::forge(&stage, &fake, &boot, pid, ticks);
    stage.stop(&fake).await.unwrap();
    let seen = sight(&stage.driver, &fake.instance).await.unwrap();
    assert!(is_lost(&seen.life), "{seen:?}");
    assert!(runs(pid), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardian_in_the_making_is_no_leftover() {
    let stage = ProcessStage::new();
    let (lost, _) = stage.start_shell("lost", "exec sleep 1000").await;
    // Forked, and told nothing yet.
    let waiting = self::launch(spec("waiting", "sleep", &["1000"]), 1);
    let (control, _request) = begin(&stage.driver.site, &waiting, &Inputs::default()).unwrap();
    signal(stage.shim_of(&lost), Signal::KILL);
    eventually(&stage.driver, &lost.instance, is_lost).await;
    control.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let read = std::io::Read::read(&mut &control, &mut byte);
    let kind = read.map_err(|error| error.kind());
    assert_eq!(kind, Err(std::io::ErrorKind::WouldBlock), "it waits on");
}
