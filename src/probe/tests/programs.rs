//! Exec probes.

use std::path::Path;

use super::*;
use crate::model::InstanceId;
use crate::probe::{ExecPlace, ExecSite, RunAs};

fn in_folder(folder: &Path) -> Target {
    running_as(None, folder)
}

fn running_as(run_as: Option<RunAs>, folder: &Path) -> Target {
    let env = [("PATH", "/usr/bin:/bin"), ("COLOUR", "green")];
    let instance: InstanceId = "default.p.a.0.1".parse().unwrap();
    let place = ExecPlace {
        env: env.map(|(k, v)| (k.to_owned(), v.into())).into(),
        working_dir: folder.to_owned(),
        run_as,
    };
    Target {
        addresses: Addresses::Host(Host::Loopback),
        exec: Some(ExecSite::new(instance, move |_| Ok(place.clone()))),
    }
}

fn shell(script: &str) -> ProbeCheck {
    ProbeCheck::Exec {
        command: ["sh", "-c", script].map(str::to_owned).into(),
    }
}

/// The pids that a script wrote into `folder`, one file each, once there are `count` of them.
async fn pids_in(folder: &Path, count: usize) -> Vec<u32> {
    let deadline = tokio::time::Instant::now() + AMPLE;
    loop {
        let pids: Vec<u32> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
            .filter_map(|text| text.trim().parse().ok())
            .collect();
        if pids.len() == count {
            return pids;
        }
        assert!(tokio::time::Instant::now() < deadline, "{pids:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_alive(pid: u32) -> bool {
    // A zombie still has an entry; its command line is empty.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn all_gone(pids: &[u32]) {
    let deadline = tokio::time::Instant::now() + AMPLE;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(tokio::time::Instant::now() < deadline, "{pids:?} live on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_program_passes_with_exit_0_and_tells_its_first_line_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(120);
    for (script, wanted) in [
        ("true", ProbeOutcome::Pass),
        ("echo fine; exit 0", ProbeOutcome::Pass),
        ("exit 3", failed("exit 3")),
        (
            "echo; echo no luck >&2; echo more; exit 1",
            failed("exit 1: no luck"),
        ),
        (
            "printf '\\033[31mred\\a'; exit 1",
            failed("exit 1: [31mred"),
        ),
        ("kill -SEGV $$", failed("killed by SIGSEGV")),
        ("test \"$COLOUR$HOME\" = green", ProbeOutcome::Pass),
        ("read line && exit 1; exit 0", ProbeOutcome::Pass),
        (
            "yes x | tr -d '\\n' | head -c 10000000; exit 1",
            failed(&format!("exit 1: {long}")),
        ),
    ] {
        let (answer, _) = asked(shell(script), in_folder(folder.path()), AMPLE).await;
        assert_eq!(answer, wanted, "{script}");
    }
}

#[tokio::test]
async fn a_program_runs_in_the_working_directory_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mark"), "").unwrap();
    let here = in_folder(folder.path());
    assert_eq!(
        asked(shell("test -e mark"), here.clone(), AMPLE).await.0,
        ProbeOutcome::Pass
    );
    let command = vec!["./no-such-check".to_owned()];
    let (answer, _) = asked(ProbeCheck::Exec { command }, here, AMPLE).await;
    assert_eq!(answer, failed("./no-such-check not found"));
}

#[tokio::test]
async fn at_the_timeout_the_program_and_all_it_forked_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM INT HUP; echo $$ > main; \
                  (trap '' TERM; echo $(exec sh -c 'echo $PPID') > child; sleep 1000) & \
                  sleep 1000 & echo $! > sleeper; wait";
    let target = in_folder(folder.path());
    let ask = tokio::spawn(asked(shell(script), target, Duration::from_secs(2)));
    let pids = pids_in(folder.path(), 3).await;
    let (answer, _) = ask.await.unwrap();
    assert_eq!(answer, failed("no answer within 2s"));
    all_gone(&pids).await;
}

#[tokio::test]
async fn what_a_finished_program_left_behind_neither_delays_the_answer_nor_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    // The child holds the output open.
    let script = "sleep 1000 & echo $! > sleeper; echo waiting for nobody; exit 1";
    let (answer, took) = asked(shell(script), in_folder(folder.path()), AMPLE).await;
    assert_eq!(answer, failed("exit 1: waiting for nobody"));
    assert!(took < AMPLE);
    let pids = pids_in(folder.path(), 1).await;
    all_gone(&pids).await;
}

#[tokio::test]
async fn giving_up_on_an_ask_kills_its_program() {
    let folder = tempfile::tempdir().unwrap();
    let target = in_folder(folder.path());
    let ask = tokio::spawn(asked(shell("echo $$ > main; sleep 1000"), target, AMPLE));
    let pids = pids_in(folder.path(), 1).await;
    ask.abort();
    all_gone(&pids).await;
}

#[tokio::test]
async fn a_program_runs_as_the_component_does() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run a program as another user");
        return;
    }
    let nobody = RunAs {
        uid: 65534,
        gid: 65533,
    };
    let target = running_as(Some(nobody), Path::new("/"));
    let script = "test $(id -u):$(id -G) = 65534:65533";
    assert_eq!(
        asked(shell(script), target, AMPLE).await.0,
        ProbeOutcome::Pass
    );
}

#[tokio::test]
async fn an_exec_probe_without_a_place_says_nothing_about_the_component() {
    assert!(ask(&shell("true"), &on_loopback(), AMPLE).await.is_err());
}
