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
const EVERYTHING: &str = "id -u; id -g; id -G; pwd; umask; ulimit -Sa; ulimit -Ha; env | sort;
    grep -E '^(Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Cpus_allowed:)' /proc/self/status;
    cat /proc/self/oom_score_adj /proc/self/timerslack_ns 2>/dev/null; ps -o ni= -o cls= -p $$;
    ls -l /proc/$$/fd | sed -n 's/.* \\([0-9]*\\) -> \\([a-z/]*\\).*/\\1 \\2/p';
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
            stage.driver.site.memory().clear();
        }
        stage.stop(&launch).await.unwrap();
    }
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
    // Any user of this host with more than one group.
    let group = std::fs::read_to_string("/etc/group").unwrap();
    let user = group.lines().find_map(|line| {
        let members = line.rsplit(':').next()?;
        let member = members.split(',').find(|name| !name.is_empty())?;
        (member != "root").then(|| member.to_owned())
    });
    let Some(user) = user else {
        println!("skipped: no user of this host has further groups");
        return;
    };
    let stage = ProcessStage::new();
    let mut spec = spec("groups", "sleep", &["1000"]);
    spec.user = Some(user.clone());
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    let known = sys::user(&sys::UserKey::Name(&user)).unwrap().unwrap();
    let mut wanted = sys::groups_of(&user, known.gid).unwrap();
    wanted.sort_unstable();
    let output = ran(&stage, &launch, "id -G").await.output;
    let text = String::from_utf8(output).unwrap();
    let mut groups: Vec<u32> = text
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    groups.sort_unstable();
    assert_eq!(groups, wanted);
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
    let given_up = tokio::time::timeout(Duration::from_secs(1), ran(&stage, &launch, script));
    let (pids, answer) = tokio::join!(pids_in(&folder, 3), given_up);
    assert!(answer.is_err());
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
