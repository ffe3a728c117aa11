//! What people and engines do to containers behind our back.

use std::process::Command;
use std::time::{Duration, Instant};

use super::engines::{Forwarder, OwnEngine, Proxy, as_root};
use super::*;
use crate::driver::conformance::{eventually, eventually_exits, eventually_runs, launch, sight};
use crate::model::{ExitStatus, Life, RestartMode};
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CommitContainerOptions, CreateContainerOptions, KillContainerOptions, RemoveContainerOptions,
    RemoveImageOptions, StartContainerOptions,
};

#[tokio::test]
async fn a_strangers_container_that_has_the_name_is_not_touched() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let launch = launch(stage.container("taken", &["sleep", "1000"]), 1);
    let client = stage.driver.inner.engine.client().unwrap();
    let options = CreateContainerOptions {
        name: Some(launch.spec.id.to_string()),
        ..CreateContainerOptions::default()
    };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["true".to_owned()]),
        ..ContainerCreateBody::default()
    };
    let strange = client
        .create_container(Some(options), body)
        .await
        .unwrap()
        .id;
    match stage.driver.start(&launch).await {
        Err(DriverError::Refused(failure)) => assert_eq!(failure.reason, "NameConflict"),
        answer => panic!("{answer:?}"),
    }
    assert!(
        stage
            .driver
            .inner
            .engine
            .container(&strange)
            .await
            .unwrap()
            .is_some()
    );
    let force = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    client
        .remove_container(&strange, Some(force))
        .await
        .unwrap();
    stage.end().await;
}

#[tokio::test]
async fn what_is_made_of_a_copy_of_a_container_is_nobodys_instance() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let launch = launch(stage.container("copied", &["sleep", "1000"]), 1);
    stage.driver.start(&launch).await.unwrap();
    eventually_runs(&*stage.driver, &launch.instance).await;
    let name = launch.instance.replica.container_name();
    let client = stage.driver.inner.engine.client().unwrap();
    let commit = CommitContainerOptions {
        container: Some(name.clone()),
        ..CommitContainerOptions::default()
    };
    let image = client.commit_container(commit, ContainerConfig::default());
    let image = image.await.unwrap().id;
    let copy = async |name: Option<String>| {
        let options = CreateContainerOptions {
            name,
            ..CreateContainerOptions::default()
        };
        let body = ContainerCreateBody {
            image: Some(image.clone()),
            host_config: Some(HostConfig {
                network_mode: Some(stage.mark.clone()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let made = client.create_container(Some(options), body).await.unwrap();
        let none = None::<StartContainerOptions>;
        client.start_container(&made.id, none).await.unwrap();
        made.id
    };
    let other = copy(None).await;
    let seen = stage.driver.inner.look_at_all().await.unwrap();
    assert!(matches!(&seen[..], [only] if only.id != other), "{other}");
    let inspected = stage.driver.inner.engine.container(&other).await.unwrap();
    let settings = inspected.unwrap().network_settings.unwrap();
    let address = settings.networks.unwrap()[&stage.mark].ip_address.clone();
    let address = address.unwrap().parse().unwrap();
    assert_eq!(stage.driver.instance_at(address).await, None);
    let stop = &launch.spec.stop;
    stage.driver.stop(&launch.instance, stop).await.unwrap();
    stage.driver.forget(&launch.instance).await.unwrap();
    // Not even one that has the name by now is taken for a container of ours.
    let namesake = copy(Some(name)).await;
    match stage.driver.start(&launch).await {
        Err(DriverError::Refused(failure)) => assert_eq!(failure.reason, "NameConflict"),
        answer => panic!("{answer:?}"),
    }
    for id in [other, namesake] {
        let left = stage.driver.inner.engine.container(&id).await.unwrap();
        assert_eq!(left.unwrap().state.unwrap().running, Some(true));
        let force = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        client.remove_container(&id, Some(force)).await.unwrap();
    }
    let none = None::<RemoveImageOptions>;
    client.remove_image(&image, none, None).await.unwrap();
    stage.end().await;
}

#[tokio::test]
async fn a_dead_container_of_an_earlier_run_makes_room() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let first = launch(stage.container("again", &["true"]), 1);
    stage.driver.start(&first).await.unwrap();
    eventually_exits(&*stage.driver, &first.instance).await;
    let second = launch(stage.container("again", &["sleep", "1000"]), 2);
    stage.driver.start(&second).await.unwrap();
    eventually_runs(&*stage.driver, &second.instance).await;
    assert_eq!(sight(&*stage.driver, &first.instance).await, None);
    stage.end().await;
}

#[tokio::test]
async fn what_a_person_does_with_docker_is_seen() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let driver = &*stage.driver;
    let client = driver.inner.engine.client().unwrap();
    let launch = launch(stage.container("handled", &["sleep", "1000"]), 1);
    driver.start(&launch).await.unwrap();
    let id = driver.find(&launch.instance).await.unwrap().unwrap().id;

    client.pause_container(&id).await.unwrap();
    driver.observe(&Scope::All).await.unwrap();
    let state = driver
        .inner
        .engine
        .container(&id)
        .await
        .unwrap()
        .unwrap()
        .state
        .unwrap();
    assert_eq!(state.paused, Some(false), "it runs on");

    let kill = KillContainerOptions {
        signal: "KILL".to_owned(),
    };
    client.kill_container(&id, Some(kill)).await.unwrap();
    let status = eventually_exits(driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(137));

    let force = Some(RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    });
    client.remove_container(&id, force).await.unwrap();
    assert_eq!(sight(driver, &launch.instance).await, None);
    stage.end().await;
}

#[tokio::test]
async fn a_container_that_was_made_but_not_started_is_finished_by_a_second_start() {
    let Some(mut stage) = DockerStage::new() else {
        return;
    };
    let launch = launch(stage.container("halfway", &["sleep", "1000"]), 1);
    let Workload::Docker(container) = &launch.spec.workload else {
        panic!("{launch:?}");
    };
    let made = stage.driver.create(&launch, container).await.unwrap();
    stage.restart().await;
    let seen = sight(&*stage.driver, &launch.instance).await.unwrap();
    assert_eq!(seen.life, Life::Created);
    stage.driver.start(&launch).await.unwrap();
    let seen = eventually_runs(&*stage.driver, &launch.instance).await;
    let (Some(container), image) = (seen.facts.container.clone(), seen.facts.image.clone()) else {
        panic!("{seen:?}");
    };
    assert_ne!(
        container, made.id,
        "it is made anew, on the network that is there now"
    );
    assert!(
        stage
            .driver
            .inner
            .engine
            .container(&made.id)
            .await
            .unwrap()
            .is_none()
    );
    assert!(image.is_some(), "what it runs is known");
    stage.end().await;
}

#[tokio::test]
async fn an_engine_that_is_down_is_no_absence() {
    let root = tempfile::tempdir().unwrap();
    let stage = DockerStage::on(Endpoint::Unix(root.path().join("none.sock")));
    let launch = launch(stage.container("away", &["true"]), 1);
    let driver = &*stage.driver;
    assert!(is_unreachable(&driver.observe(&Scope::All).await));
    assert!(is_unreachable(&driver.start(&launch).await));
    assert!(is_unreachable(
        &driver.stop(&launch.instance, &launch.spec.stop).await
    ));
    assert!(is_unreachable(&driver.forget(&launch.instance).await));
    assert!(is_unreachable(&driver.gateway(network::DEFAULT).await));
}

#[tokio::test]
async fn a_reply_that_is_cut_short_is_no_absence() {
    let Some(Endpoint::Unix(socket)) = engine() else {
        return;
    };
    // Lets so many bytes of each reply through.
    let budget = Arc::new(AtomicU32::new(u32::MAX));
    let allowed = budget.clone();
    let proxy = Proxy::before(socket, move || {
        let mut left = allowed.load(Ordering::Relaxed) as usize;
        move |said: &mut [u8]| {
            let count = said.len().min(left);
            left -= count;
            count
        }
    });
    let stage = DockerStage::on(proxy.endpoint());
    let launch = launch(stage.container("cut", &["sleep", "1000"]), 1);
    stage.driver.start(&launch).await.unwrap();
    eventually_runs(&*stage.driver, &launch.instance).await;
    for bytes in [0, 1, 20, 120, 300, 400] {
        budget.store(bytes, Ordering::Relaxed);
        let answer = stage.driver.observe(&Scope::All).await;
        assert!(is_unreachable(&answer), "{bytes} bytes: {answer:?}");
    }
    // The engine acts, and its answer is lost: the next call finds what was done.
    let second = conformance::launch(stage.container("cut-2", &["sleep", "1000"]), 1);
    let until = Instant::now() + Duration::from_secs(20);
    let mut bytes = 400;
    while stage.driver.start(&second).await.is_err() && Instant::now() < until {
        bytes += 200;
        budget.store(bytes, Ordering::Relaxed);
    }
    budget.store(u32::MAX, Ordering::Relaxed);
    stage.driver.start(&second).await.unwrap();
    let all = stage.driver.observe(&Scope::All).await.unwrap().sightings;
    assert_eq!(all.len(), 2, "{all:#?}");
    stage.end().await;
}

#[tokio::test]
async fn a_container_that_the_engine_cannot_describe_hides_no_other_and_can_be_removed() {
    let Some(Endpoint::Unix(socket)) = engine() else {
        return;
    };
    // Says 500 instead of 200 where it describes this container.
    let unspeakable = Arc::new(Mutex::new("nobody".to_owned()));
    let spoiled = unspeakable.clone();
    let proxy = Proxy::before(socket, move || {
        let spoiled = spoiled.clone();
        move |said: &mut [u8]| {
            let id = spoiled.lock().unwrap();
            let begins = format!("\n{{\"Id\":\"{id}\"");
            let describes = said
                .windows(begins.len())
                .any(|part| part == begins.as_bytes());
            if describes && let Some(status) = said.get_mut(9..12) {
                status.copy_from_slice(b"500");
            }
            said.len()
        }
    });
    let mut stage = DockerStage::on(proxy.endpoint());
    let ended = launch(stage.container("ended", &["true"]), 1);
    let runs = launch(stage.container("runs", &["sleep", "1000"]), 1);
    for launch in [&ended, &runs] {
        stage.driver.start(launch).await.unwrap();
    }
    eventually_exits(&*stage.driver, &ended.instance).await;
    eventually_runs(&*stage.driver, &runs.instance).await;
    let spoil = async |driver: &DockerDriver, launch: &Launch| {
        let seen = driver.find(&launch.instance).await.unwrap().unwrap();
        unspeakable.lock().unwrap().clone_from(&seen.id);
        driver.inner.album().doubt_all();
    };
    spoil(&stage.driver, &runs).await;
    let seen = sight(&*stage.driver, &runs.instance).await.unwrap();
    assert!(matches!(seen.life, Life::Running { .. }), "{seen:?}");

    spoil(&stage.driver, &ended).await;
    stage.restart().await;
    // It may be the engine's passing trouble: how the container ended is not given up at once.
    let answer = stage.driver.observe(&Scope::All).await;
    assert!(is_unreachable(&answer), "{answer:?}");
    let until = Instant::now() + Duration::from_secs(60);
    while stage.driver.observe(&Scope::All).await.is_err() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seen = sight(&*stage.driver, &ended.instance).await.unwrap();
    assert!(matches!(seen.life, Life::Lost { .. }), "{seen:?}");
    let seen = sight(&*stage.driver, &runs.instance).await.unwrap();
    assert!(matches!(seen.life, Life::Running { .. }), "{seen:?}");
    stage.driver.forget(&ended.instance).await.unwrap();
    let all = stage.driver.observe(&Scope::All).await.unwrap().sightings;
    assert_eq!(all.len(), 1, "{all:?}");
    stage.end().await;
}

#[tokio::test]
async fn an_engine_that_hangs_is_unreachable_within_the_deadline_and_comes_back() {
    if engine().is_none() {
        return;
    }
    let own = OwnEngine::start("hung");
    let stage = DockerStage::on(own.endpoint());
    let driver = &*stage.driver;
    let launch = launch(stage.container("waits", &["sleep", "1000"]), 1);
    driver.start(&launch).await.unwrap();
    own.signal("-STOP");
    let look = tokio::time::timeout(Duration::from_secs(60), driver.observe(&Scope::All)).await;
    own.signal("-CONT");
    assert!(is_unreachable(&look.unwrap()));
    eventually_runs(driver, &launch.instance).await;
}

#[tokio::test]
async fn what_died_with_its_engine_did_not_crash() {
    if engine().is_none() {
        return;
    }
    let own = OwnEngine::start("killed");
    let mut stage = DockerStage::on(own.endpoint());
    let script = "trap '' TERM; while :; do sleep 1; done";
    let launch = launch(stage.shell("victim", script), 1);
    stage.driver.start(&launch).await.unwrap();
    // Later than the container by more than the kernel's clock ticks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    own.signal("-KILL");
    own.run("start");
    let died = |life: &Life| matches!(life, Life::RuntimeRestarted(_));
    eventually(&*stage.driver, &launch.instance, died).await;
    // Neither does a daemon that was down as well take it for a crash.
    stage.restart().await;
    eventually(&*stage.driver, &launch.instance, died).await;
}

/// Kills the guardian and the program of each of these, and the engine's containerd, which would
/// notice.
async fn make_phantoms(own: &OwnEngine, driver: &DockerDriver, launches: &[&Launch]) {
    let pid_file = own.folder.join("exec/containerd/containerd.pid");
    let containerd = std::fs::read_to_string(pid_file).unwrap();
    let mut victims = vec![containerd.trim().to_owned()];
    for launch in launches {
        let seen = driver.find(&launch.instance).await.unwrap().unwrap();
        let program = seen.pid.unwrap().to_string();
        let stat = std::fs::read_to_string(format!("/proc/{program}/stat")).unwrap();
        let guardian = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1);
        victims.extend([guardian.unwrap().to_owned(), program]);
    }
    for pid in victims {
        let sent = as_root("kill").args(["-KILL", &pid]).status();
        assert!(sent.unwrap().success());
    }
}

fn over(life: &Life) -> bool {
    !life.is_alive()
}

#[tokio::test]
async fn a_container_that_runs_only_in_the_engines_mind_is_lost_and_can_be_removed() {
    if engine().is_none() {
        return;
    }
    let own = OwnEngine::start("phantom");
    let mut stage = DockerStage::on(own.endpoint());
    let first = launch(stage.container("first", &["sleep", "1000"]), 1);
    let second = launch(stage.container("second", &["sleep", "1000"]), 1);
    stage.driver.start(&first).await.unwrap();
    stage.driver.start(&second).await.unwrap();
    make_phantoms(&own, &stage.driver, &[&first, &second]).await;
    // A daemon that begins now has never seen their processes.
    stage.restart().await;
    for launch in [&first, &second] {
        let seen = eventually(&*stage.driver, &launch.instance, over).await;
        println!("it is {:?}", seen.life);
        eventually_forgotten(&stage.driver, &launch.instance).await;
    }
}

#[tokio::test]
async fn a_container_that_runs_only_in_the_engines_mind_is_noticed_and_holds_up_no_successor() {
    if engine().is_none() {
        return;
    }
    let own = OwnEngine::start("phantom-ahead");
    let stage = DockerStage::on(own.endpoint());
    let driver = &*stage.driver;
    let spec = stage.container("ahead", &["sleep", "1000"]);
    let first = launch(spec.clone(), 1);
    driver.start(&first).await.unwrap();
    // So that nothing but what is asked for below is a reason to look.
    eventually(driver, &first.instance, Life::is_alive).await;
    let hints = driver.hints();
    make_phantoms(&own, driver, &[&first]).await;
    let noticed = async { while !hints.taken().await.contains(&first.instance) {} };
    tokio::time::timeout(Duration::from_secs(60), noticed)
        .await
        .unwrap();
    eventually(driver, &first.instance, over).await;
    // Its name and its network are free; the engine cannot start anything without its containerd.
    let second = launch(spec, 2);
    let error = driver.start(&second).await.unwrap_err().to_string();
    assert!(error.contains("could not start the container"), "{error}");
    let old = driver.find(&first.instance).await.unwrap();
    assert!(old.is_some(), "nobody has removed it yet");
    eventually_forgotten(&stage.driver, &first.instance).await;
    stage.end().await;
}

#[tokio::test]
async fn a_container_whose_process_was_seen_here_is_lost_without_it_whoever_passes_on_the_calls() {
    if engine().is_none() {
        return;
    }
    let own = OwnEngine::start("phantom-behind");
    let forwarder = Forwarder::to(&own.endpoint());
    let stage = DockerStage::on(forwarder.endpoint());
    let driver = &*stage.driver;
    let launch = launch(stage.container("phantom", &["sleep", "1000"]), 1);
    driver.start(&launch).await.unwrap();
    make_phantoms(&own, driver, &[&launch]).await;
    eventually(driver, &launch.instance, over).await;
    eventually_forgotten(driver, &launch.instance).await;
}

#[tokio::test]
async fn a_container_of_an_engine_that_counts_its_own_processes_is_left_to_run() {
    let Some(engine) = engine() else {
        return;
    };
    let forwarder = Forwarder::to(&engine);
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    forwarder.says_pid(gone.id());
    let mut stage = DockerStage::on(forwarder.endpoint());
    let launch = launch(stage.container("elsewhere", &["sleep", "1000"]), 1);
    stage.driver.start(&launch).await.unwrap();
    for _ in 0..2 {
        let seen = sight(&*stage.driver, &launch.instance).await.unwrap();
        assert!(matches!(seen.life, Life::Running { .. }), "{seen:?}");
        let found = stage.driver.find(&launch.instance).await.unwrap().unwrap();
        assert_eq!(found.pid, Some(gone.id()));
        assert!(matches!(found.life, Life::Running { .. }), "{found:?}");
        stage.restart().await;
    }
    stage.end().await;
}

#[tokio::test]
async fn a_program_that_takes_too_long_in_a_container_is_killed_and_nobody_else_of_its_number() {
    let Some(engine) = engine() else {
        return;
    };
    // Before there is any container, so that its number is not the longer one.
    let mut bystander =
        std::os::unix::process::CommandExt::process_group(Command::new("sleep").arg("1000"), 0)
            .spawn()
            .unwrap();
    let forwarder = Forwarder::to(&engine);
    let stage = DockerStage::on(forwarder.endpoint());
    let driver = &*stage.driver;
    let launch = launch(stage.container("asked", &["sleep", "1000"]), 1);
    driver.start(&launch).await.unwrap();
    let client = driver.inner.engine.client().unwrap();
    let container = driver.find(&launch.instance).await.unwrap().unwrap().id;
    // Whether the engine can tell the number of what it runs there.
    let is_known = async |program: &str| {
        let inspected = client.inspect_container(&container, None).await.unwrap();
        for id in inspected.exec_ids.unwrap_or_default() {
            let told = client.inspect_exec(&id).await.unwrap();
            let runs = told.running == Some(true) && told.pid.is_some_and(|pid| pid != 0);
            let arguments = told.process_config.and_then(|it| it.arguments);
            if runs && arguments.is_some_and(|arguments| arguments == [program]) {
                return true;
            }
        }
        false
    };
    let give_up_on = async |program: &str| {
        let command = ["sleep".to_owned(), program.to_owned()];
        let asked = async { driver.exec(&launch.instance, &command).await.unwrap().await };
        let until = Instant::now() + Duration::from_secs(30);
        let known = async {
            while !is_known(program).await {
                assert!(Instant::now() < until, "it never runs");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            early = asked => panic!("{early:?}"),
            () = known => {}
        }
    };
    let running = || {
        let top = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        String::from_utf8(top.stdout).unwrap()
    };

    let own = format!("31{}", std::process::id());
    give_up_on(&own).await;
    let until = Instant::now() + Duration::from_secs(10);
    while running().contains(&format!("sleep {own}")) {
        assert!(Instant::now() < until, "it still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    forwarder.says_pid(bystander.id());
    give_up_on("1000").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended = bystander.try_wait().unwrap();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert_eq!(ended, None, "a stranger was killed");
    stage.end().await;
}

#[tokio::test]
async fn a_job_that_ended_when_the_hosts_clock_was_set_forward_is_done() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let mut spec = stage.shell("job", "sleep 2");
    spec.restart.mode = RestartMode::Never;
    let launch = launch(spec, 1);
    stage.driver.start(&launch).await.unwrap();
    let Life::Running { since } = eventually_runs(&*stage.driver, &launch.instance).await.life
    else {
        panic!("it does not run");
    };
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split_once(' ').unwrap().0.parse().unwrap();
    // By the new time the host began a second after the job did.
    let since_boot = Duration::from_secs_f64(uptime + 1.0);
    let clock = &stage.driver.inner.clock;
    assert!(
        clock
            .realign_to(since.after(since_boot).as_millis())
            .is_some()
    );
    let status = eventually_exits(&*stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(0));
    stage.end().await;
}

#[tokio::test]
async fn a_host_port_that_is_taken_is_named_with_who_has_it() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let host_port = free_port();
    let mut failure = None;
    for id in ["first", "second"] {
        let mut spec = stage.container(id, &["sleep", "1000"]);
        spec.ports = vec![crate::model::Port {
            name: None,
            container_port: 7_000,
            host_port: Some(host_port),
            host_ip: None,
            protocol: crate::model::Protocol::Tcp,
        }];
        failure = stage.driver.start(&launch(spec, 1)).await.err();
    }
    let Some(DriverError::Refused(failure)) = failure else {
        panic!("{failure:?}");
    };
    assert_eq!(failure.reason, "HostPortTaken");
    let holder = format!("container {}-first", stage.mark);
    assert!(failure.message.contains(&holder), "{}", failure.message);
    stage.end().await;
}

#[tokio::test]
async fn a_program_that_its_container_cannot_execute_never_ran() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let script = stage.folder().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let launch = launch(stage.container("script", &["/stage/script"]), 1);
    // Its init starts, so the start itself may well succeed.
    if let Err(error) = stage.driver.start(&launch).await {
        assert!(matches!(error, DriverError::Refused(_)), "{error:?}");
    }
    let never_ran = |life: &Life| matches!(life, Life::NotStarted { .. });
    let seen = eventually(&*stage.driver, &launch.instance, never_ran).await;
    let Life::NotStarted { failure, .. } = seen.life else {
        panic!("{seen:?}");
    };
    assert_eq!(failure.reason, "ExecNotFound");
    stage.end().await;
}
