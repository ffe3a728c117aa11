//! What is committed is there, in order, and costs what it should.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::super::load::Boot;
use super::super::numbers::{BLOCK, Numbers, SEQ_GAP};
use super::super::{EventQuery, Recovery};
use super::*;

#[test]
fn everything_committed_is_there_after_a_restart() {
    let (store, loaded, folder) = Store::temporary();
    assert_eq!(loaded.recovery, Recovery::New);
    let (ttp, other) = (key("ttp"), key("other"));
    let first = loaded.next_seq;

    let mut batch = Batch::new();
    batch.put_pipeline(ttp.clone(), pipeline("ttp", 3));
    batch.put_pipeline(other.clone(), pipeline("other", 1));
    batch.put_record(ttp.clone(), replica(0), record(&ttp, &replica(0), 7));
    batch.put_record(ttp.clone(), replica(1), record(&ttp, &replica(1), 1));
    batch.put_setting("control-plane.port", "8080");
    batch.put_setting("host", "0b8d1c5e");
    batch.push_event(event(first));
    commit(&store, batch, Durability::CrashSafe).unwrap();
    let mut batch = Batch::new();
    batch.forget_pipeline(other);
    batch.forget_record(ttp.clone(), replica(1));
    batch.forget_setting("host");
    batch.push_event(event(first + 1));
    commit(&store, batch, Durability::PowerSafe).unwrap();
    store.close().unwrap();

    let (store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.recovery, Recovery::Intact);
    assert_eq!(loaded.pipelines, [(ttp.clone(), pipeline("ttp", 3))].into());
    let records = [(replica(0), record(&ttp, &replica(0), 7))].into();
    assert_eq!(loaded.records, [(ttp, records)].into());
    let port = ("control-plane.port".to_owned(), "8080".to_owned());
    assert_eq!(loaded.settings, [port].into());
    assert_eq!(loaded.next_seq, first + 2);
    let events = store.events(&EventQuery::default()).unwrap();
    assert_eq!(events, [event(first), event(first + 1)]);
}

#[test]
fn commits_are_recorded_in_order_and_each_is_answered() {
    let (store, _, folder) = Store::temporary();
    let (send, receive) = mpsc::channel();
    for number in 1..=2_000_u64 {
        let mut batch = Batch::new();
        batch.put_setting("newest", number.to_string());
        let durability = match number % 3 {
            0 => Durability::PowerSafe,
            _ => Durability::CrashSafe,
        };
        let send = send.clone();
        store.commit(batch, durability, move |result| {
            send.send((number, durability, result)).unwrap();
        });
    }
    drop(send);
    let mut last = (0, 0);
    for (number, durability, result) in receive {
        result.unwrap();
        let last = match durability {
            Durability::CrashSafe => &mut last.0,
            Durability::PowerSafe => &mut last.1,
        };
        assert!(number > *last, "{number} after {last}");
        *last = number;
    }
    assert_eq!(last, (2_000, 1_998));
    store.close().unwrap();
    let (_store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.settings["newest"], "2000");
}

#[test]
fn a_pipeline_of_a_thousand_components_survives_edits_and_costs_little_when_unchanged() {
    let (store, _, folder) = Store::temporary();
    let ttp = key("ttp");
    let put = |record: &PipelineRecord| {
        let mut batch = Batch::new();
        batch.put_pipeline(ttp.clone(), record.clone());
        let started = Instant::now();
        commit(&store, batch, Durability::CrashSafe).unwrap();
        started.elapsed()
    };
    let mut wanted = pipeline("ttp", 1_000);
    let whole = put(&wanted);
    let unchanged = put(&wanted);
    let mut equal = wanted.clone();
    equal.spec = Arc::new(PipelineSpec::clone(&wanted.spec));
    let equal = put(&equal);

    // An edit, an addition in the middle, a removal, and a component that is larger than any row.
    let spec = Arc::make_mut(&mut wanted.spec);
    let mut edit = |id: &str| {
        let id: ComponentId = id.parse().unwrap();
        let component = spec.components.entry(id.clone());
        component.or_insert_with(|| super::component(&id)).env = [].into();
    };
    edit("component-0500");
    edit("component-0500-b");
    spec.components.remove("component-0001");
    let large = spec.components.get_mut("component-0900").unwrap();
    large.config = Some("x".repeat(300_000).into());
    wanted.generation = wanted.generation.next();
    let edited = put(&wanted);
    println!("1,000 components: {whole:?}, again {unchanged:?}, equal {equal:?}, edit {edited:?}");

    store.close().unwrap();
    let (store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.pipelines, [(ttp.clone(), wanted.clone())].into());

    // What is read goes on where what was written stopped.
    let spec = Arc::make_mut(&mut wanted.spec);
    spec.components.remove("component-0900");
    let mut batch = Batch::new();
    batch.put_pipeline(ttp.clone(), wanted.clone());
    commit(&store, batch, Durability::CrashSafe).unwrap();
    store.close().unwrap();
    let (store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.pipelines, [(ttp.clone(), wanted)].into());

    let mut batch = Batch::new();
    batch.forget_pipeline(ttp);
    commit(&store, batch, Durability::CrashSafe).unwrap();
    store.close().unwrap();
    let (_store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.recovery, Recovery::New);
}

#[test]
fn numbers_of_a_config_are_kept_to_the_last_digit() {
    let (store, _, folder) = Store::temporary();
    let mut wanted = pipeline("ttp", 1);
    let spec = Arc::make_mut(&mut wanted.spec);
    let component = spec.components.first_entry().unwrap().into_mut();
    let numbers: Vec<f64> = (1..10_000).map(|n| 1.0 / f64::from(n)).collect();
    component.config = Some(serde_json::json!({ "weights": numbers, "seed": u64::MAX }));
    let mut batch = Batch::new();
    batch.put_pipeline(key("ttp"), wanted.clone());
    commit(&store, batch, Durability::CrashSafe).unwrap();
    store.close().unwrap();
    let (_store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.pipelines[&key("ttp")], wanted);
}

#[test]
fn a_path_that_is_not_utf_8_comes_back_byte_for_byte() {
    use std::os::unix::ffi::OsStringExt;
    let (store, _, folder) = Store::temporary();
    let mut latin = pipeline("ttp", 40);
    latin.file = Some(std::ffi::OsString::from_vec(vec![b'/', 0xff]).into());
    let mut batch = Batch::new();
    batch.put_pipeline(key("ttp"), latin.clone());
    commit(&store, batch, Durability::CrashSafe).unwrap();
    store.close().unwrap();
    let (_store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.pipelines, [(key("ttp"), latin)].into());
}

#[test]
fn a_closed_store_says_so() {
    let (store, _, _folder) = Store::temporary();
    let other = store.clone();
    store.close().unwrap();
    let error = commit(&other, Batch::new(), Durability::CrashSafe).unwrap_err();
    assert!(matches!(error, StoreError::Closed));
    let error = other.events(&EventQuery::default()).unwrap_err();
    assert!(matches!(error, StoreError::Closed));
    assert!(matches!(other.close(), Err(StoreError::Closed)));
}

#[test]
fn a_second_open_of_one_store_is_refused_and_sets_nothing_aside() {
    let (_store, _, folder) = Store::temporary();
    let error = Store::open(&folder.path().join("store"), now()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_crash_safe_reaches_the_disk_by_itself() {
    let (store, _, _folder) = Store::temporary();
    for number in 0..10 {
        let mut batch = Batch::new();
        batch.put_setting("number", number.to_string());
        commit(&store, batch, Durability::CrashSafe).unwrap();
    }
    let started = Instant::now();
    while !store.inner.link.sync.is_synced() {
        assert!(started.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn dropping_the_last_handle_closes_the_store() {
    let (store, _, folder) = Store::temporary();
    let mut batch = Batch::new();
    batch.put_setting("port", "8080");
    store.commit(batch, Durability::CrashSafe, |result| result.unwrap());
    drop(store);
    let (_store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.settings["port"], "8080");
}

#[test]
fn a_listener_that_panics_takes_nothing_along() {
    let (store, _, _folder) = Store::temporary();
    for durability in [Durability::CrashSafe, Durability::PowerSafe] {
        let mut batch = Batch::new();
        batch.put_setting("port", "8080");
        store.commit(batch, durability, |_| panic!("a bug in the listener"));
        commit(&store, Batch::new(), durability).unwrap();
    }
}

#[test]
fn event_numbers_that_a_power_cut_may_have_taken_are_not_used_again() {
    let (store, loaded, folder) = Store::temporary();
    let mut batch = Batch::new();
    batch.put_setting("port", "8080");
    batch.push_event(event(loaded.next_seq));
    commit(&store, batch, Durability::PowerSafe).unwrap();
    store.close().unwrap();
    let dir = folder.path().join("store");
    let db = raw(&dir);
    let earlier = Boot {
        id: "an earlier boot".to_owned(),
        first_seq: loaded.next_seq,
    };
    let (row_key, row) = earlier.change();
    db.insert(row_key, row.unwrap()).unwrap();
    drop(db);

    // Again, too, when nothing was recorded in between.
    for _ in 0..3 {
        let (store, after) = open(&dir);
        assert_eq!(after.next_seq, loaded.next_seq + 1 + SEQ_GAP);
        store.close().unwrap();
    }
}

#[test]
fn event_numbers_that_a_killed_daemon_may_have_shown_are_not_used_again() {
    let (store, loaded, folder) = Store::temporary();
    let mut batch = Batch::new();
    batch.put_setting("port", "8080");
    batch.push_event(event(loaded.next_seq));
    commit(&store, batch, Durability::CrashSafe).unwrap();
    // As `kill -9` leaves it: nothing is given back.
    let dir = folder.path().join("store");
    let copy = folder.path().join("killed");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&dir, &copy])
        .status();
    assert!(copied.unwrap().success());
    let (killed, after) = open(&copy);
    assert!(after.next_seq > loaded.next_seq + BLOCK / 2, "{after:?}");
    drop(killed);
    // One that is closed leaves no gap.
    store.close().unwrap();
    let (_store, after) = open(&dir);
    assert_eq!(after.next_seq, loaded.next_seq + 1);
}

#[test]
fn numbers_are_set_aside_well_before_they_are_given_out() {
    let now = Timestamp::from_millis(1);
    let mut numbers = Numbers::begin(Some(7), None, now);
    assert!(numbers.give_back(Some(7)).is_none(), "nothing to give back");
    assert!(numbers.reserve(Some(7)).is_some());
    assert!(numbers.reserve(Some(8)).is_none(), "once for many");
    assert!(numbers.reserve(Some(7 + BLOCK / 2)).is_some());
    numbers.forget();
    assert!(numbers.reserve(Some(8)).is_some());
}

/// What commits cost, in figures: `cargo test --release -- --ignored --nocapture store_costs`.
#[test]
#[ignore = "measures; asserts nothing"]
fn store_costs() {
    let (store, loaded, folder) = Store::temporary();
    let ttp = key("ttp");
    let mut all = Batch::new();
    for number in 0..500 {
        let replica = replica(number);
        let record = record(&ttp, &replica, 1);
        all.put_record(ttp.clone(), replica, record);
    }
    let mut seq = loaded.next_seq;
    for durability in [Durability::CrashSafe, Durability::PowerSafe] {
        for _ in 0..3 {
            let started = Instant::now();
            commit(&store, all.clone(), durability).unwrap();
            println!("500 records, {durability:?}: {:?}", started.elapsed());
        }
        let mut times = Vec::new();
        for number in 0..2_000 {
            let replica = replica(number % 500);
            let mut batch = Batch::new();
            batch.put_record(ttp.clone(), replica.clone(), record(&ttp, &replica, 2));
            batch.push_event(event(seq));
            seq += 1;
            let started = Instant::now();
            commit(&store, batch, durability).unwrap();
            times.push(started.elapsed());
        }
        times.sort();
        let (p50, p99, max) = (times[1_000], times[1_980], times[1_999]);
        println!("one record and event, {durability:?}: p50 {p50:?} p99 {p99:?} max {max:?}");
    }
    let started = Instant::now();
    store.close().unwrap();
    println!("close: {:?}", started.elapsed());
    let dir = folder.path().join("store");
    let started = Instant::now();
    let (store, _) = open(&dir);
    println!(
        "open: {:?}; disk {} KB",
        started.elapsed(),
        disk_use(&dir) / 1024
    );

    let before = resources();
    std::thread::sleep(Duration::from_secs(10));
    let after = resources();
    println!("idle for 10 s: from {before:?} to {after:?}");
    drop(store);
}

/// Resident KB, threads, and how often ours and the database's threads woke up.
fn resources() -> (u64, usize, u64, u64) {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let digits = line.chars().filter(char::is_ascii_digit);
        digits.collect::<String>().parse::<u64>().unwrap()
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let (mut threads, mut ours, mut sleds) = (0, 0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap();
        let wakes = field(
            &std::fs::read_to_string(task.join("status")).unwrap(),
            "voluntary",
        );
        threads += 1;
        match name.trim() {
            "store-write" | "store-sync" => ours += wakes,
            name if name.starts_with("sled") => sleds += wakes,
            _ => {}
        }
    }
    (field(&status, "VmRSS"), threads, ours, sleds)
}
