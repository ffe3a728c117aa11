//! Files of instances as crashes, reboots and strangers leave them.

use super::super::start::begin;
use super::super::wire::Reply;
use super::*;
use crate::driver::conformance::eventually;
use crate::driver::inputs::Inputs;

/// What the driver says of `launch`, in boot `boot_id`.
fn describe(launch: &Launch, boot_id: &str) -> record::Description {
    record::Description {
        schema: record::Schema::V1,
        instance: launch.instance.clone(),
        boot_id: boot_id.to_owned(),
        generation: launch.generation,
        file: None,
        injected: Vec::new(),
        spec: launch.spec.clone(),
    }
}

/// Writes the file of an instance as if `shim` had claimed it and started `child`.
pub(super) fn forge(
    stage: &ProcessStage,
    launch: &Launch,
    boot_id: &str,
    child: u32,
    ticks: u64,
) -> record::StateFile {
    let file = stage.file_of(launch);
    describe(launch, boot_id).write(&file).unwrap();
    let line = record::Line::Shim {
        boot_id,
        pid: child,
        ticks,
    };
    let state = record::StateFile::claim(&file, &line).unwrap();
    let line = record::Line::Child {
        pid: child,
        ticks,
        at: 1,
    };
    state.write(&line).unwrap();
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_asked_to_end_as_it_went_down_has_neither_failed_nor_completed() {
    let stage = ProcessStage::new();
    let ended = |all_asked| record::Line::Exit {
        status: record::Ended::Code(0),
        oom: false,
        at: 2,
        all_asked,
    };
    for (id, all_asked) in [("asked", true), ("by-itself", false)] {
        let launch = launch(spec(id, "sleep", &["1000"]), 1);
        let state = forge(&stage, &launch, "an-earlier-boot", 1, 1);
        state.write(&ended(all_asked)).unwrap();
        state
            .write(&record::Line::Gone { at: 3, killed: 0 })
            .unwrap();
        let seen = sight(&stage.driver, &launch.instance).await.unwrap();
        match &seen.life {
            Life::HostReboot { .. } => assert!(all_asked, "{id}"),
            Life::Exited(_) => assert!(!all_asked, "{id}"),
            Life::Created
            | Life::Pending(_)
            | Life::Running { .. }
            | Life::NotStarted { .. }
            | Life::Lost { .. }
            | Life::RuntimeRestarted(_)
            | Life::Disrupted { .. } => panic!("{id}: {:?}", seen.life),
        }
        stage.driver.forget(&launch.instance).await.unwrap();
    }
    // In this boot an end is what it is; that its guardian was asked as well is written down.
    let launch = launch(spec("now", "sleep", &["1000"]), 1);
    let child = stage.start(&launch).await;
    for pid in [stage.shim_of(&launch), child.pid] {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    let exited = |life: &Life| matches!(life, Life::Exited(_));
    eventually(&stage.driver, &launch.instance, exited).await;
    let state = record::State::read(&stage.file_of(&launch))
        .unwrap()
        .unwrap();
    assert!(state.all_asked, "{state:?}");
    stage.driver.forget(&launch.instance).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_pid_of_an_instance_is_never_signalled() {
    let stage = ProcessStage::new();
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = stranger.id();
    let ticks = identity::stat(pid).unwrap().ticks;
    let boot = stage.driver.site.boot.id.clone();
    let earlier = launch(spec("re-used", "sleep", &["1000"]), 1);
    forge(&stage, &earlier, &boot, pid, ticks - 1);
    let lost = |life: &Life| matches!(life, Life::Lost { .. });
    eventually(&stage.driver, &earlier.instance, lost).await;
    stage.stop(&earlier).await.unwrap();
    stage.driver.forget(&earlier.instance).await.unwrap();

    let rebooted = launch(spec("rebooted", "sleep", &["1000"]), 1);
    forge(&stage, &rebooted, "an-earlier-boot", pid, ticks);
    stage.stop(&rebooted).await.unwrap();
    let seen = sight(&stage.driver, &rebooted.instance).await.unwrap();
    assert!(matches!(seen.life, Life::HostReboot { .. }), "{seen:?}");
    stage.driver.forget(&rebooted.instance).await.unwrap();
    assert!(runs(pid), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_made_files_are_nothing_and_the_same_instance_can_be_started() {
    let stage = ProcessStage::new();
    type Crash = fn(&Path);
    let crashes: [(&str, Crash); 4] = [
        ("empty", |file| std::fs::write(file, "").unwrap()),
        ("torn", |file| {
            let whole = std::fs::read(file).unwrap();
            std::fs::write(file, &whole[..whole.len() - 6]).unwrap();
        }),
        ("unclaimed", |_| {}),
        ("unheard", |file| {
            let line = record::Line::Shim {
                boot_id: "b",
                pid: 1,
                ticks: 1,
            };
            let state = record::StateFile::claim(file, &line).unwrap();
            state
                .write(&record::Line::Gone { at: 1, killed: 0 })
                .unwrap();
        }),
    ];
    for (id, crash) in crashes {
        let launch = launch(spec(id, "sleep", &["1000"]), 1);
        let make = || {
            let file = stage.file_of(&launch);
            describe(&launch, "b").write(&file).unwrap();
            crash(&file);
        };
        make();
        assert!(stage.driver.observe(&Scope::All).await.unwrap().is_empty());
        assert!(!stage.file_of(&launch).exists(), "{id} is cleared away");
        make();
        stage.start(&launch).await;
        stage.stop(&launch).await.unwrap();
        stage.driver.forget(&launch.instance).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_without_the_drivers_word_starts_nothing() {
    let stage = ProcessStage::new();
    let flag = stage.path("started");
    let launch = launch(spec("wordless", "touch", &[&flag]), 1);
    let (control, prepared) = begin(&stage.driver.site, &launch, &Inputs::default()).unwrap();
    control.set_nonblocking(false).unwrap();
    std::io::Write::write_all(&mut &control, &prepared.request).unwrap();
    let mut reply = [0; Reply::SIZE];
    std::io::Read::read_exact(&mut &control, &mut reply).unwrap();
    assert!(matches!(Reply::decode(&reply), Some(Reply::Ready { .. })));
    let seen = sight(&stage.driver, &launch.instance).await.unwrap();
    assert_eq!(seen.life, Life::Created);
    let shim = stage.shim_of(&launch);
    drop(control);
    wait_for("the shim left", || !runs(shim)).await;
    assert_eq!(sight(&stage.driver, &launch.instance).await, None);
    assert!(!Path::new(&flag).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_description_never_hides_what_runs() {
    let mut stage = ProcessStage::new();
    let (launch, child) = stage.start_shell("damaged", "exec sleep 1000").await;
    let file = stage.file_of(&launch);
    let length = std::fs::metadata(&file).unwrap().len();
    let open = std::fs::File::options().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, b"\0\0\0", length / 2).unwrap();
    stage.restart().await;
    let seen = eventually_runs(&stage.driver, &launch.instance).await;
    assert_ne!(
        seen.spec, launch.spec.hash,
        "it does not claim to know the spec"
    );
    assert!(runs(child.pid));
    stage.stop(&launch).await.unwrap();
    assert!(!runs(child.pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_never_hides_what_runs() {
    let mut stage = ProcessStage::new();
    let (launch, child) = stage.start_shell("cut-off", "exec sleep 1000").await;
    let file = std::fs::File::options()
        .write(true)
        .open(stage.file_of(&launch))
        .unwrap();
    file.set_len(100).unwrap();
    stage.restart().await;
    eventually_runs(&stage.driver, &launch.instance).await;
    assert!(runs(child.pid));
    // What its shim writes into such a file is not to be read, which the answer says.
    stage.stop(&launch).await.ok();
    assert!(!runs(child.pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_onlooker_sees_all_and_changes_nothing() {
    let stage = ProcessStage::new();
    let (running, _) = stage.start_shell("running", "exec sleep 1000").await;
    let debris = stage
        .driver
        .site
        .config
        .instances_dir
        .join("default.suite.debris.0.1");
    std::fs::write(&debris, "").unwrap();
    let onlooker = ProcessDriver::onlooker(config_in(stage.root.path()), Clock::new()).unwrap();
    let seen = onlooker.observe(&Scope::All).await.unwrap().sightings;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].instance, running.instance);
    assert!(debris.exists());
    let other = launch(spec("other", "sleep", &["1000"]), 1);
    let refused = onlooker.start(&other).await;
    assert!(
        matches!(refused, Err(DriverError::Refused(_))),
        "{refused:?}"
    );
    let nowhere = ProcessDriver::onlooker(config_in(&stage.root.path().join("no")), Clock::new());
    assert!(
        nowhere
            .unwrap()
            .observe(&Scope::All)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_state_directory_with_the_same_names_is_left_alone() {
    let (ours, theirs) = (ProcessStage::new(), ProcessStage::new());
    let (launch, _) = ours.start_shell("twin", "exec sleep 1000").await;
    let (_, twin) = theirs.start_shell("twin", "exec sleep 1000").await;
    signal(ours.shim_of(&launch), Signal::KILL);
    let lost = |life: &Life| matches!(life, Life::Lost { .. });
    eventually(&ours.driver, &launch.instance, lost).await;
    assert!(runs(twin.pid), "only our own mark is looked for");
}
