//! Programs that are run beside an instance find around them what it finds, and leave nothing.

use std::path::Path;

use super::output::lines_until;
use super::*;
use crate::driver::process::exec::{NotBegun, Ran};
use crate::model::{ComponentSpec, HumanDuration, Probe, ProbeCheck, Signal as ModelSignal};

async fn begun(stage: &ProcessStage, launch: &Launch, command: &[&str]) -> Result<Ran, NotBegun> {
    let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    let injected = launch.injected.clone();
    let driver = &stage.driver;
    let ending = driver.exec(&launch.instance, &command, move |_| injected);
    ending.await?.await.map_err(NotBegun::NoPlace)
}

async fn ran(stage: &ProcessStage, launch: &Launch, script: &str) -> Ran {
    begun(stage, launch, &["sh", "-c", script]).await.unwrap()
}

fn said(status: ExitStatus, output: &str) -> Ran {
    Ran {
        status,
        output: output.into(),
    }
}

/// All that a process of a component is, as far as it can see it itself.
const EVERYTHING: &str =
    "id -u; id -g; id -G; pwd; umask; ulimit -Sa; ulimit -Hn; ulimit -Hc; env | sort;
    grep -E '^(Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Cpus_allowed:)' /proc/self/status;
    cat /proc/self/oom_score_adj /proc/self/timerslack_ns 2>/dev/null; ps -o ni= -o cls= -p $$;
    ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\([a-z/]*\\).*/\\1 \\2/p';
    sed 's/^[0-9]*://' /proc/self/cgroup; echo by-name > /dev/stdout; echo end";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_process_of_a_component_is_done_for_its_probes() {
    let stage = ProcessStage::new();
    let mut specs = vec![spec("plain", "sh", &[])];
    let mut limited = spec("limited", "sh", &[]);
    limited.rlimits.nofile = Some(333);
    limited.rlimits.core = Some(0);
    limited.resources.pids_limit = Some(200);
    limited.env.insert("OWN".to_owned(), "yes".to_owned());
    limited.umask = "027".parse().unwrap();
    limited.allow_new_privileges = true;
    specs.push(limited);
    if rustix::process::geteuid().is_root() {
        for user in ["nobody", "4242:4343", "daemon"] {
            let mut other = spec("user", "sh", &[]);
            other.id = format!("user-{}", specs.len()).parse().unwrap();
            other.user = Some(user.to_owned());
            specs.push(other);
        }
    }
    for mut spec in specs {
        let script = format!("{EVERYTHING}; exec sleep 1000");
        let Workload::Process(process) = &mut spec.workload else {
            panic!("it is a process");
        };
        process.args = vec!["-c".to_owned(), script];
        let launch = launch(spec, 1);
        stage.start(&launch).await;
        let program = until_end(&stage, &launch).await;
        // As it was told at the start, and as a daemon that was started anew finds it out.
        for _ in 0..2 {
            let probe = ran(&stage, &launch, EVERYTHING).await;
            let probe = String::from_utf8(probe.output).unwrap();
            assert_eq!(program, probe.trim_end(), "{:?}", launch.spec.user);
            assert!(probe.contains("by-name"), "{probe}");
            let umask = format!("\n0{}\n", launch.spec.umask);
            assert!(probe.contains(&umask), "{probe}");
            let denied = format!(
                "NoNewPrivs:\t{}",
                u8::from(!launch.spec.allow_new_privileges)
            );
            assert!(probe.contains(&denied), "{probe}");
            stage.driver.site.memory().clear();
        }
        stage.stop(&launch).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_the_same_whoever_started_the_daemon() {
    let nice = match rustix::process::geteuid().is_root() {
        true => "nice -n 5",
        // Only root may take it back.
        false => "",
    };
    let odd = format!(
        "umask 077; ulimit -S -s 4096; ulimit -S -n 100; ulimit -S -c unlimited 2>/dev/null;
         ulimit -S -f 100000; trap '' HUP PIPE; exec 7</dev/null; exec {nice} \"$0\" \"$@\""
    );
    let mut arguments = vec!["-c".to_owned(), odd];
    arguments.push(std::env::current_exe().unwrap().display().to_string());
    arguments.extend(server_arguments());
    let odd = ForkServer::start_with("/bin/sh".into(), arguments).unwrap();
    let mut told = Vec::new();
    for stage in [ProcessStage::new(), ProcessStage::with(odd)] {
        let script = format!("{EVERYTHING}; exec sleep 1000");
        let (launch, _) = stage.start_shell("same", &script).await;
        let all = until_end(&stage, &launch).await;
        let lines = all.lines().map(str::to_owned);
        let lines: Vec<String> = lines
            .filter(|line| !line.starts_with("FLOWCTL_INSTANCE_FILE"))
            // Each state directory has a control group of its own.
            .filter(|line| !line.contains("/flowctl-"))
            .collect();
        told.push(lines);
        stage.stop(&launch).await.unwrap();
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0].contains(&"0022".to_owned()), "{:?}", told[0]);
}

/// What a component wrote until it said `end`.
async fn until_end(stage: &ProcessStage, launch: &Launch) -> String {
    let mut count = 10;
    loop {
        let lines = lines_until(stage, &launch.spec.id, count).await;
        if lines.last().is_some_and(|line| line == "end") {
            return lines.join("\n");
        }
        count = lines.len() + 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_probe_has_all_groups_of_its_component() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may change the user");
        return;
    }
    let stage = ProcessStage::new();
    let mut spec = spec("groups", "sleep", &["1000"]);
    spec.user = Some("4242:4343".to_owned());
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    assert_eq!(ran(&stage, &launch, "id -G").await.output, b"4343\n");
    // As of a user that is in further groups, which this host need not have.
    let site = &stage.driver.site;
    let mut context = (*site.context(&launch.instance).unwrap()).clone();
    let account = context.account.as_mut().unwrap();
    account.groups = [4343u32, 7, 5151]
        .iter()
        .flat_map(|gid| gid.to_ne_bytes())
        .collect();
    site.keep_context(&launch.instance, Arc::new(context));
    assert_eq!(ran(&stage, &launch, "id -G").await.output, b"4343 7 5151\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_it_ended_and_the_beginning_of_its_output_are_told() {
    let stage = ProcessStage::new();
    let (launch, _) = stage.start_shell("svc", "exec sleep 1000").await;
    let segv = ModelSignal::from_number(11).unwrap();
    for (script, wanted) in [
        ("true", said(ExitStatus::Code(0), "")),
        ("echo fine", said(ExitStatus::Code(0), "fine\n")),
        (
            "echo a; echo b >&2; exit 3",
            said(ExitStatus::Code(3), "a\nb\n"),
        ),
        ("kill -SEGV $$", said(ExitStatus::Signal(segv), "")),
        ("read line && exit 1; exit 0", said(ExitStatus::Code(0), "")),
    ] {
        assert_eq!(ran(&stage, &launch, script).await, wanted, "{script}");
    }
    let much = ran(&stage, &launch, "yes x | head -c 10000000; exit 1").await;
    assert_eq!(much.status, ExitStatus::Code(1));
    assert_eq!(much.output.len(), 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_executed_is_the_components_and_a_gone_instance_is_not() {
    let stage = ProcessStage::new();
    let (mut launch, _) = stage.start_shell("svc", "exec sleep 1000").await;
    let answer = begun(&stage, &launch, &["./no-such-check"]).await;
    let Err(NotBegun::Component(why)) = answer else {
        panic!("{answer:?}");
    };
    assert!(
        why.starts_with("program `./no-such-check` does not exist in /"),
        "{why}"
    );
    launch.instance.incarnation += 1;
    let answer = begun(&stage, &launch, &["true"]).await;
    assert!(matches!(answer, Err(NotBegun::NoPlace(_))), "{answer:?}");
}

/// The pids that a script wrote into `folder`, one file each, once there are `count` of them.
async fn pids_in(folder: &Path, count: usize) -> Vec<u32> {
    let read = || -> Vec<u32> {
        std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
            .filter_map(|text| text.trim().parse().ok())
            .collect()
    };
    wait_for("its processes are there", || read().len() == count).await;
    read()
}

/// An instance that runs in a folder of its own.
async fn in_folder(stage: &ProcessStage) -> (Launch, PathBuf) {
    let folder = stage.root.path().join("work");
    std::fs::create_dir(&folder).unwrap();
    let mut spec: ComponentSpec = spec("svc", "sleep", &["1000"]);
    let Workload::Process(process) = &mut spec.workload else {
        panic!("it is a process");
    };
    process.working_dir.clone_from(&folder);
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    (launch, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_or_left_behind_is_killed_whatever_it_forked() {
    let stage = ProcessStage::new();
    let (launch, folder) = in_folder(&stage).await;
    let script =
        "trap '' TERM INT HUP; echo $$ > main; setsid -f sh -c 'echo $$ > far; exec sleep 1000';
        sleep 1000 & echo $! > sleeper; wait";
    let pids = tokio::select! {
        answer = ran(&stage, &launch, script) => panic!("{answer:?}"),
        pids = pids_in(&folder, 3) => pids,
    };
    wait_for("all of it is gone", || pids.iter().all(|pid| !runs(*pid))).await;

    for name in ["main", "far", "sleeper"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    // The child holds the output open.
    let script = "sleep 1000 & echo $! > sleeper; setsid -f sh -c 'echo $$ > far; exec sleep 1000';
        until test -s far; do sleep 0.01; done; echo waiting for nobody; exit 1";
    let answer = ran(&stage, &launch, script).await;
    assert_eq!(answer, said(ExitStatus::Code(1), "waiting for nobody\n"));
    let pids = pids_in(&folder, 2).await;
    wait_for("all of it is gone", || pids.iter().all(|pid| !runs(*pid))).await;
    assert!(runs(stage.shim_of(&launch)), "the instance itself runs on");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_an_instance_with_exec_probes_are_read_once() {
    let stage = ProcessStage::new();
    let file = stage.path("file.env");
    std::fs::write(&file, "A=first\n").unwrap();
    let mut spec = spec("svc", "sleep", &["1000"]);
    spec.env_file = vec![file.clone().into()];
    spec.probes.readiness = Some(Probe {
        check: ProbeCheck::Exec {
            command: vec!["true".to_owned()],
        },
        period: HumanDuration::from_secs(10),
        timeout: HumanDuration::from_secs(2),
        failures: 3,
        successes: 1,
    });
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    std::fs::write(&file, "A=second\n").unwrap();
    let answer = ran(&stage, &launch, "echo $A").await;
    assert_eq!(answer, said(ExitStatus::Code(0), "first\n"));
}
