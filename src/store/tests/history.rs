//! Events: all that are kept can be found, and there are never too many.

use std::time::Instant;

use super::super::EventQuery;
use super::*;

fn put(store: &Store, events: impl IntoIterator<Item = Event>) {
    let mut batch = Batch::new();
    events.into_iter().for_each(|event| batch.push_event(event));
    commit(store, batch, Durability::CrashSafe).unwrap();
}

fn numbers(store: &Store, query: &EventQuery) -> Vec<u64> {
    let events = store.events(query).unwrap();
    events.iter().map(|event| event.seq).collect()
}

#[test]
fn events_are_found_by_number_pipeline_and_component() {
    let (store, _, folder) = Store::temporary();
    // One at a time, so that some are packed and some are not.
    for seq in 1..=300 {
        let mut event = event(seq);
        if seq % 10 == 0 {
            event.pipeline = Some("other".parse().unwrap());
        }
        put(&store, [event]);
    }
    let check = |store: &Store| {
        let all = EventQuery::default();
        assert_eq!(numbers(store, &all), (1..=300).collect::<Vec<_>>());
        let query = EventQuery {
            after: Some(120),
            before: Some(124),
            ..all.clone()
        };
        assert_eq!(numbers(store, &query), [121, 122, 123]);
        let query = EventQuery {
            pipeline: Some(key("other")),
            last: Some(3),
            ..all.clone()
        };
        assert_eq!(numbers(store, &query), [280, 290, 300]);
        let query = EventQuery {
            component: Some(replica(7).component),
            before: Some(200),
            ..all.clone()
        };
        assert_eq!(numbers(store, &query), [7, 57, 107, 157]);
        let query = EventQuery {
            after: Some(u64::MAX),
            ..all.clone()
        };
        assert!(numbers(store, &query).is_empty());
        let query = EventQuery {
            last: Some(0),
            ..all
        };
        assert!(numbers(store, &query).is_empty());
    };
    check(&store);
    store.close().unwrap();
    let (store, loaded) = open(&folder.path().join("store"));
    assert_eq!(loaded.next_seq, 301);
    check(&store);
    let mut other = event(10);
    other.pipeline = Some("other".parse().unwrap());
    assert_eq!(store.events(&EventQuery::default()).unwrap()[9], other);
}

#[test]
fn an_event_that_is_committed_again_is_there_once() {
    let (store, _, _folder) = Store::temporary();
    put(&store, (1..=20).map(event));
    put(&store, (11..=30).map(event));
    let all = EventQuery::default();
    assert_eq!(numbers(&store, &all), (1..=30).collect::<Vec<_>>());
}

#[test]
fn a_gap_in_the_numbers_stays_a_gap() {
    let (store, _, _folder) = Store::temporary();
    let wanted: Vec<u64> = (1..=100).map(|n| n * n).collect();
    put(&store, wanted.iter().map(|&seq| event(seq)));
    put(&store, [event(1_000_000)]);
    let found = numbers(&store, &EventQuery::default());
    assert_eq!(found[..100], wanted);
    assert_eq!(found[100..], [1_000_000]);
}

#[test]
fn a_text_that_does_not_fit_is_cut_between_characters() {
    let (store, _, _folder) = Store::temporary();
    let mut long = event(1);
    // Each of these needs six bytes in JSON, the last ones three in UTF-8.
    long.message = "\u{1}".repeat(10_000);
    long.reason = "€".repeat(10_000);
    put(&store, [long, event(2)]);
    let found = store.events(&EventQuery::default()).unwrap();
    assert!(found[0].message.len() > 100 && found[0].reason.starts_with("€€€"));
    assert_eq!(found[1], event(2));
}

#[test]
fn events_are_read_while_others_are_written_without_a_loss_or_a_double() {
    let (store, _, _folder) = Store::temporary();
    put(&store, [event(1)]);
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || (2..=3_000).for_each(|seq| put(&store, [event(seq)])))
    };
    while !writer.is_finished() {
        let found = numbers(&store, &EventQuery::default());
        let last = *found.last().unwrap();
        assert_eq!(found, (1..=last).collect::<Vec<_>>());
    }
    writer.join().unwrap();
}

#[test]
fn a_million_events_leave_the_newest_in_less_than_50_mb() {
    let (store, _, folder) = Store::temporary();
    let dir = folder.path().join("store");
    let mut most = 0;
    let mut seq = 1;
    while seq <= 1_000_000 {
        put(&store, (seq..seq + 1_000).map(event));
        seq += 1_000;
        if seq % 50_000 == 1 {
            most = most.max(disk_use(folder.path()));
        }
    }
    let found = numbers(&store, &EventQuery::default());
    assert!((60_000..=100_000).contains(&found.len()), "{}", found.len());
    assert_eq!(found.last(), Some(&1_000_000));
    assert_eq!(found[0] + found.len() as u64, 1_000_001);
    store.close().unwrap();

    let started = Instant::now();
    let (_store, loaded) = open(&dir);
    let (took, left) = (started.elapsed(), disk_use(folder.path()));
    println!(
        "{} events kept: at most {} KB, {} KB left, opened in {took:?}",
        found.len(),
        most / 1024,
        left / 1024
    );
    assert_eq!(loaded.next_seq, 1_000_001);
    assert!(most < 50 << 20, "{most} bytes");
}

/// What a long life costs: `cargo test --lib -- --ignored --nocapture a_long_life`.
#[test]
#[ignore = "measures; asserts nothing"]
fn a_long_life_in_figures() {
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = |name| {
            status
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned()
        };
        format!("{} {}", line("VmRSS"), line("RssAnon"))
    };
    println!("before: {}", rss());
    let (store, _, folder) = Store::temporary();
    println!("start: {}", rss());
    for first in (1..=100_000).step_by(1_000) {
        put(&store, (first..first + 1_000).map(event));
    }
    println!(
        "full history: {} disk {} KB",
        rss(),
        disk_use(folder.path()) / 1024
    );
    let ttp = key("ttp");
    let mut batch = Batch::new();
    for number in 0..500 {
        let replica = replica(number);
        batch.put_record(ttp.clone(), replica.clone(), record(&ttp, &replica, 1));
    }
    commit(&store, batch, Durability::CrashSafe).unwrap();
    for round in 0..10_u64 {
        let (send, receive) = std::sync::mpsc::channel();
        for step in 0..20_000_u64 {
            let seq = 100_001 + round * 20_000 + step;
            let replica = replica((seq % 500) as u32);
            let mut batch = Batch::new();
            batch.put_record(ttp.clone(), replica.clone(), record(&ttp, &replica, seq));
            batch.push_event(event(seq));
            let send = send.clone();
            store.commit(batch, Durability::CrashSafe, move |result| {
                send.send(result).unwrap();
            });
            receive.recv().unwrap().unwrap();
        }
        println!(
            "{round}: {} disk {} KB",
            rss(),
            disk_use(folder.path()) / 1024
        );
    }
    store.close().unwrap();
    println!("closed: {}", rss());
    let started = Instant::now();
    let (store, _) = open(&folder.path().join("store"));
    println!(
        "open: {:?} {} disk {} KB",
        started.elapsed(),
        rss(),
        disk_use(folder.path()) / 1024
    );
    let started = Instant::now();
    let found = store
        .events(&EventQuery {
            last: Some(100),
            ..EventQuery::default()
        })
        .unwrap();
    println!(
        "the last {} of {:?}: {:?}",
        found.len(),
        found.last().map(|e| e.seq),
        started.elapsed()
    );
}
