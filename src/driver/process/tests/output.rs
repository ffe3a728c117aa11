//! Logs, from the program's mouth to the reader.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::driver::conformance::{eventually_exits, pipeline};
use crate::driver::{Follow, LogLine, OutputStream, Runs};
use crate::model::{ComponentId, LogLimits};

fn query(component: &ComponentId) -> LogQuery {
    LogQuery {
        pipeline: pipeline(),
        components: BTreeSet::from([component.clone()]),
        without: BTreeSet::new(),
        since: None,
        until: None,
        tail: None,
        filter: None,
        runs: Runs::All,
        follow: Follow::No,
    }
}

async fn read(stage: &ProcessStage, query: &LogQuery) -> Vec<LogLine> {
    let mut stream = stage.driver.logs(query).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = stream.recv().await {
        lines.push(line.unwrap());
    }
    lines
}

/// All that is kept of a component.
pub(super) async fn all_lines(stage: &ProcessStage, component: &ComponentId) -> Vec<LogLine> {
    read(stage, &query(component)).await
}

/// Follows a component until it has written so many lines.
pub(super) async fn lines_until(
    stage: &ProcessStage,
    component: &ComponentId,
    count: usize,
) -> Vec<String> {
    let mut stream = stage
        .driver
        .logs(&LogQuery {
            follow: Follow::Yes,
            ..query(component)
        })
        .await
        .unwrap();
    let mut lines = Vec::new();
    while lines.len() < count {
        let line = tokio::time::timeout(Duration::from_secs(20), stream.recv()).await;
        let line = line.unwrap_or_else(|_| panic!("no more than {lines:?}"));
        lines.push(text(&line.unwrap().unwrap()));
    }
    lines
}

fn text(line: &LogLine) -> String {
    String::from_utf8(line.text.clone()).unwrap()
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(text).collect()
}

async fn run(stage: &ProcessStage, id: &str, script: &str, incarnation: u64, limits: LogLimits) {
    let mut spec = spec(id, "sh", &["-c", script]);
    spec.logs = limits;
    let launch = launch(spec, incarnation);
    stage.start(&launch).await;
    let status = eventually_exits(&stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(0), "{script}");
    stage.driver.forget(&launch.instance).await.unwrap();
}

fn id(text: &str) -> ComponentId {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_writer_loses_no_line_over_many_rotations() {
    let stage = ProcessStage::new();
    let limits = LogLimits {
        max_size_bytes: 1 << 20,
        max_files: 100,
    };
    run(&stage, "fast", "seq 1 400000", 1, limits).await;
    let lines = all_lines(&stage, &id("fast")).await;
    assert_eq!(lines.len(), 400_000);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line.text, (index + 1).to_string().as_bytes());
    }
    assert!(
        lines
            .windows(2)
            .all(|pair| pair[0].at_nanos <= pair[1].at_nanos)
    );
    let dir = stage.root.path().join("logs/default/suite/fast/0");
    let files = std::fs::read_dir(dir).unwrap();
    let sizes: Vec<u64> = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .collect();
    assert!(
        sizes.len() > 10 && sizes.iter().all(|size| *size <= 1 << 20),
        "{sizes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_many_small_runs_is_kept() {
    let stage = ProcessStage::new();
    let limits = LogLimits {
        max_size_bytes: 10_000,
        max_files: 2,
    };
    for incarnation in 1..=8 {
        let script = format!("echo run {incarnation}");
        run(&stage, "kept", &script, incarnation, limits).await;
    }
    let lines = all_lines(&stage, &id("kept")).await;
    let told: Vec<(u64, String)> = lines
        .iter()
        .map(|line| (line.incarnation, text(line)))
        .collect();
    let wanted: Vec<(u64, String)> = (1..=8).map(|run| (run, format!("run {run}"))).collect();
    assert_eq!(told, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_newline_yet_can_be_read_and_outlives_us_all() {
    let stage = ProcessStage::new();
    let script = "echo hello; printf 'Enter passphrase: '; read answer; echo $answer";
    let mut spec = spec(
        "ask",
        "sh",
        &[
            "-c",
            &format!("mkfifo {0}; {script} < {0}", stage.path("in")),
        ],
    );
    spec.logs = LogLimits::default();
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    // The program waits for the other end of its input; only then does it ask.
    let answer = {
        wait_for("its input is there", || {
            Path::new(&stage.path("in")).exists()
        })
        .await;
        let path = stage.path("in");
        tokio::task::spawn_blocking(move || std::fs::File::create(path).unwrap())
            .await
            .unwrap()
    };
    let asked = async || texts(&all_lines(&stage, &id("ask")).await);
    while asked()
        .await
        .last()
        .is_none_or(|line| line != "Enter passphrase: ")
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asked().await, ["hello", "Enter passphrase: "]);
    drop(answer);
    let status = eventually_exits(&stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(0));
    assert_eq!(asked().await, ["hello", "Enter passphrase: "], "one line");
    stage.driver.forget(&launch.instance).await.unwrap();

    let (asking, _) = stage
        .start_shell("killed", "printf 'the last words'; exec sleep 1000")
        .await;
    let words = async || texts(&all_lines(&stage, &id("killed")).await);
    while words().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shim = rustix::process::Pid::from_raw(stage.shim_of(&asking).cast_signed()).unwrap();
    rustix::process::kill_process(shim, Signal::KILL).unwrap();
    assert_eq!(words().await, ["the last words"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_component_holds_no_file_and_goes_on_in_what_is_there() {
    let stage = ProcessStage::new();
    let flag = stage.path("go");
    let script = format!(
        "echo before; until [ -e {flag} ]; do sleep 0.05; done; echo after; exec sleep 1000"
    );
    let (launch, _) = stage.start_shell("quiet", &script).await;
    lines_until(&stage, &id("quiet"), 1).await;
    let shim = stage.shim_of(&launch);
    let log = stage
        .root
        .path()
        .join("logs/default/suite/quiet/0/000001-000001.log");
    let holds = || {
        let open = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap();
        open.flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == log))
    };
    wait_for("it lets go of its log", || !holds()).await;
    std::fs::remove_file(&log).unwrap();
    std::fs::write(&flag, "").unwrap();
    assert_eq!(lines_until(&stage, &id("quiet"), 1).await, ["after"]);
    stage.stop(&launch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_both_streams_and_a_last_line_without_newline_come_back_whole() {
    let stage = ProcessStage::new();
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo to-stderr >&2; sleep 0.05
        head -c 16384 /dev/zero | tr '\\0' y; echo; printf last";
    run(&stage, "long", script, 1, LogLimits::default()).await;
    let lines = all_lines(&stage, &id("long")).await;
    let mut sizes: Vec<(usize, OutputStream)> = lines
        .iter()
        .map(|line| (line.text.len(), line.stream))
        .collect();
    sizes.sort_unstable();
    let wanted = [
        (4, OutputStream::Stdout),
        (9, OutputStream::Stderr),
        (16_384, OutputStream::Stdout),
        (100_000, OutputStream::Stdout),
    ];
    assert_eq!(sizes, wanted);
    assert_eq!(text(&lines[3]), "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_is_per_component_and_times_bound_what_is_read() {
    let stage = ProcessStage::new();
    run(&stage, "one", "seq 1 5000", 1, LogLimits::default()).await;
    let between = stage
        .driver
        .site
        .clock
        .now()
        .after(Duration::from_millis(5));
    tokio::time::sleep(Duration::from_millis(20)).await;
    run(&stage, "two", "seq 1 3", 1, LogLimits::default()).await;
    let both = LogQuery {
        components: BTreeSet::new(),
        tail: Some(2),
        ..query(&id("one"))
    };
    let lines = texts(&read(&stage, &both).await);
    assert_eq!(lines, ["4999", "5000", "2", "3"]);
    let all = LogQuery { tail: None, ..both };
    let since = LogQuery {
        since: Some(between),
        ..all.clone()
    };
    assert_eq!(texts(&read(&stage, &since).await), ["1", "2", "3"]);
    let until = LogQuery {
        until: Some(between),
        ..all
    };
    assert_eq!(read(&stage, &until).await.len(), 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_run_is_the_one_before_the_latest_even_if_that_is_silent() {
    let stage = ProcessStage::new();
    run(&stage, "runs", "echo first", 1, LogLimits::default()).await;
    run(&stage, "runs", "echo second", 2, LogLimits::default()).await;
    let previous = LogQuery {
        runs: Runs::Previous,
        ..query(&id("runs"))
    };
    assert_eq!(texts(&read(&stage, &previous).await), ["first"]);
    let silent = launch(spec("runs", "sleep", &["1000"]), 3);
    stage.start(&silent).await;
    assert_eq!(texts(&read(&stage, &previous).await), ["second"]);
    stage.stop(&silent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_over_rotations_and_restarts_without_a_gap() {
    let stage = ProcessStage::new();
    let limits = LogLimits {
        max_size_bytes: 50_000,
        max_files: 50,
    };
    run(&stage, "followed", "seq 1 100", 1, limits).await;
    let query = LogQuery {
        follow: Follow::Yes,
        ..query(&id("followed"))
    };
    let mut stream = stage.driver.logs(&query).await.unwrap();
    let follower = tokio::spawn(async move {
        let mut lines = Vec::new();
        while lines
            .last()
            .is_none_or(|line: &LogLine| line.text != b"12000")
        {
            lines.push(stream.recv().await.unwrap().unwrap());
        }
        lines
    });
    for (incarnation, script) in [
        (2, "seq 101 6000"),
        (3, "for i in $(seq 6001 6010); do echo $i; sleep 0.01; done"),
        (4, "seq 6011 12000"),
    ] {
        run(&stage, "followed", script, incarnation, limits).await;
    }
    let lines = tokio::time::timeout(Duration::from_secs(30), follower).await;
    let lines = lines.unwrap().unwrap();
    let numbers: Vec<String> = (1..=12_000).map(|number| number.to_string()).collect();
    assert!(texts(&lines) == numbers, "each line once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_until_it_is_over_ends_with_all_that_was_written_before() {
    let stage = ProcessStage::new();
    for round in 0..5 {
        let over = CancellationToken::new();
        let name = id(&format!("brief-{round}"));
        let query = LogQuery {
            follow: Follow::Until(over.clone()),
            ..query(&name)
        };
        let mut stream = stage.driver.logs(&query).await.unwrap();
        // Its folder is made after the follower has looked.
        let script = "seq 1 1000; printf unfinished";
        run(&stage, name.as_str(), script, 1, LogLimits::default()).await;
        over.cancel();
        let mut lines = Vec::new();
        while let Some(line) = stream.recv().await {
            lines.push(line.unwrap());
        }
        let numbers = (1..=1000).map(|number| number.to_string());
        let wanted: Vec<String> = numbers.chain(["unfinished".to_owned()]).collect();
        assert_eq!(texts(&lines), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_disk_blocks_nobody_and_what_is_dropped_is_counted() {
    let stage = ProcessStage::new();
    let logs = stage.root.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&logs)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: only root may mount a small disk");
        return;
    }
    let filler = logs.join("filler");
    let written = stage.path("written");
    let script = format!(
        "seq 1 100000; : > {written}; until [ ! -e {} ]; do sleep 0.01; done; sleep 0.05; echo after",
        filler.display()
    );
    std::fs::write(&filler, vec![0; 600 << 10]).unwrap();
    let mut spec = spec("full", "sh", &["-c", &script]);
    spec.logs = LogLimits {
        max_size_bytes: 10 << 20,
        max_files: 2,
    };
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    // It writes on although nothing more fits; then there is room again, for more than its pipe may
    // hold still.
    let done = || std::fs::metadata(logs.join("default/suite/full/0/000001-000001.log"));
    wait_for("the disk is full", || {
        done().is_ok_and(|file| file.len() > 300 << 10)
    })
    .await;
    wait_for("all is written", || Path::new(&written).exists()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::remove_file(&filler).unwrap();
    let status = eventually_exits(&stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(0));
    let lines = texts(&all_lines(&stage, &id("full")).await);
    let unmounted = std::process::Command::new("umount").arg(&logs).status();
    assert!(unmounted.unwrap().success());
    let marker = "flowctl: dropped ";
    let dropped: usize = lines
        .iter()
        .filter_map(|line| line.strip_prefix(marker))
        .map(|rest| rest.split(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    let kept = lines
        .iter()
        .filter(|line| !line.starts_with(marker))
        .count();
    assert!(dropped > 0 && kept > 1_000);
    assert_eq!(kept + dropped, 100_001, "each line is kept or counted");
    assert_eq!(lines.last().unwrap(), "after");
    let numbers: Vec<u32> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "none twice, none torn"
    );
}
