//! kill -9 at any moment: nothing acknowledged is lost, and the next open is quick.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use super::super::{EventQuery, Recovery};
use super::*;

const DIR: &str = "FLOWCTL_TEST_STORE_DIR";

/// How many commits the child makes; without it, it goes on until it is killed.
const COMMITS: &str = "FLOWCTL_TEST_COMMITS";

/// A process of its own that commits as fast as it can, and says what was acknowledged.
///
/// Commit `n` keeps `n` in a record, a setting and an event at once, and each fiftieth a pipeline
/// of 40 components of generation `n`.
#[test]
#[ignore = "a child process of other tests"]
fn child_that_commits() {
    let dir = std::env::var(DIR).unwrap();
    let commits = std::env::var(COMMITS).map_or(usize::MAX, |n| n.parse().unwrap());
    println!("\nopening");
    let (store, loaded) = open(Path::new(&dir));
    let start = loaded
        .settings
        .get("newest")
        .map_or(0, |n| n.parse().unwrap());
    let ttp = key("ttp");
    let mut out = std::io::stdout().lock();
    writeln!(out, "open").unwrap();
    for number in (start + 1..).take(commits) {
        let replica = replica((number % 20) as u32);
        let mut batch = Batch::new();
        batch.put_record(ttp.clone(), replica.clone(), record(&ttp, &replica, number));
        batch.put_setting("newest", number.to_string());
        batch.push_event(event(number));
        if number % 50 == 0 {
            let mut pipeline = pipeline("ttp", 40);
            pipeline.generation = Generation(number);
            let spec = std::sync::Arc::make_mut(&mut pipeline.spec);
            spec.description = Some(number.to_string().repeat(4_000));
            batch.put_pipeline(ttp.clone(), pipeline);
        }
        commit(&store, batch, Durability::CrashSafe).unwrap();
        writeln!(out, "{number}").unwrap();
    }
}

fn child(dir: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::kill::child_that_commits"])
        .args(["--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Checks that everything up to `acknowledged` is there, whole, and nothing is torn; answers the
/// newest commit and how long the open took.
fn check(dir: &Path, acknowledged: u64) -> (u64, Duration) {
    let started = Instant::now();
    let (store, loaded) = open(dir);
    let took = started.elapsed();
    let newest: u64 = loaded
        .settings
        .get("newest")
        .map_or(0, |n| n.parse().unwrap());
    assert!(newest >= acknowledged, "{newest} of {acknowledged}");
    if newest == 0 {
        assert_eq!(loaded.recovery, Recovery::New);
        return (0, took);
    }
    // The first pipeline is counted beside the database before it is recorded there: who is killed in
    // between makes the next one look at what runs.
    if newest != 49 || loaded.recovery != Recovery::New {
        assert_eq!(loaded.recovery, Recovery::Intact);
    }
    let ttp = key("ttp");
    for (replica, found) in &loaded.records[&ttp] {
        let number: u64 = replica.component.as_str()[10..].parse().unwrap();
        let last = (0..20).map(|back| newest - back).find(|n| n % 20 == number);
        assert_eq!(*found, record(&ttp, replica, last.unwrap()));
    }
    if newest >= 50 {
        let found = &loaded.pipelines[&ttp];
        assert_eq!(found.generation, Generation(newest / 50 * 50));
        let text = found.generation.to_string().repeat(4_000);
        assert_eq!(found.spec.description, Some(text));
        assert_eq!(found.spec.components.len(), 40);
    }
    // What was shown and not recorded is not used again: each kill leaves out what was set aside.
    assert!(loaded.next_seq > newest);
    let events = store.events(&EventQuery::default()).unwrap();
    assert_eq!(events.last(), Some(&event(newest)));
    assert_eq!(events[0].seq + events.len() as u64, newest + 1);
    store.close().unwrap();
    (newest, took)
}

/// The last number that the child wrote before it was killed.
fn last_number(out: BufReader<ChildStdout>) -> Option<u64> {
    let lines = out.lines().map_while(Result::ok);
    lines.filter_map(|line| line.parse().ok()).last()
}

#[test]
fn kill_9_at_any_moment_of_writing_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let (mut newest, mut longest) = (0, Duration::ZERO);
    for round in 0..60_u64 {
        let (mut child, mut out) = child(&dir);
        let mut line = String::new();
        while !line.starts_with("open\n") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the child opens it");
        }
        // The moment is random enough by what else the machine does; this spreads it.
        std::thread::sleep(Duration::from_micros(round * round * 40 % 90_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = last_number(out).unwrap_or(newest);
        let took;
        (newest, took) = check(&dir, acknowledged);
        longest = longest.max(took);
    }
    println!("{newest} commits, 60 kills, longest open {longest:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn kill_9_at_any_moment_of_opening_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let (mut newest, mut longest) = (0, Duration::ZERO);
    for round in 0..60_u64 {
        let (mut child, mut out) = child(&dir);
        let mut line = String::new();
        while !line.starts_with("opening\n") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the child starts");
        }
        // A first open takes some 30 ms, a later one some 10 ms.
        std::thread::sleep(Duration::from_micros(round * 550));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = last_number(out).unwrap_or(newest);
        if round % 3 == 0 {
            let took;
            (newest, took) = check(&dir, acknowledged);
            longest = longest.max(took);
        } else {
            newest = acknowledged;
        }
    }
    println!("{newest} commits, 60 kills, longest open {longest:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The same at each system call that changes a file, one after the other, on an old store and on a
/// new one: `cargo test --lib -- --ignored --nocapture kill_9_at_each_system_call`, 20 s.
#[test]
#[ignore = "needs strace"]
fn kill_9_at_each_system_call_loses_nothing_acknowledged() {
    let calls = [
        "openat",
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "rename",
        "unlink",
        "mkdir",
    ];
    for call in calls {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old").join("store");
        let (mut newest, mut kills) = (0, 0);
        for when in 1.. {
            let new = folder.path().join(format!("new-{when}")).join("store");
            let (_, first) = killed_at(&new, call, when, 0);
            let (now, second) = killed_at(&old, call, when, newest);
            newest = now;
            kills += u32::from(first) + u32::from(second);
            if !first && !second {
                break;
            }
        }
        println!("{call}: {kills} kills");
    }
}

/// Lets a child be killed when one of its threads makes `call` for the `when`-th time; answers the
/// newest commit, and whether it came to that.
fn killed_at(dir: &Path, call: &str, when: u32, newest: u64) -> (u64, bool) {
    std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-e", &format!("trace={call}"), "-e"])
        .arg(format!("inject={call}:signal=KILL:when={when}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::kill::child_that_commits"])
        .args(["--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(COMMITS, "30")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let acknowledged = text.lines().rev().find_map(|line| line.parse().ok());
    let (newest, _) = check(dir, acknowledged.unwrap_or(newest));
    (newest, !output.status.success())
}
