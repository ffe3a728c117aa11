//! A store that is not what was written: set aside and begun anew, or refused, never believed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::super::rows::{self, Kind};
use super::super::{EventQuery, Recovery, migrate};
use super::*;

/// A closed store with a pipeline, records, a setting and some history.
fn written() -> (tempfile::TempDir, PathBuf) {
    let (store, loaded, folder) = Store::temporary();
    let ttp = key("ttp");
    let mut batch = Batch::new();
    batch.put_pipeline(ttp.clone(), pipeline("ttp", 60));
    for number in 0..60 {
        let replica = replica(number);
        batch.put_record(ttp.clone(), replica.clone(), record(&ttp, &replica, 1));
    }
    batch.put_setting("control-plane.port", "8080");
    (0..2_000).for_each(|n| batch.push_event(event(loaded.next_seq + n)));
    commit(&store, batch, Durability::PowerSafe).unwrap();
    store.close().unwrap();
    let dir = folder.path().join("store");
    (folder, dir)
}

fn database(dir: &Path) -> PathBuf {
    dir.join("db-1")
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(database(dir)).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("snap.")
        })
        .collect()
}

/// What is beside the store in the state directory.
fn set_aside(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.parent().unwrap()).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path != dir)
        .collect();
    found.sort();
    found
}

/// Opens a store that must have been set aside, and shows that the new one works and goes on saying
/// so until everything was committed again.
fn opens_rebuilt(dir: &Path) -> Loaded {
    let (store, loaded) = open(dir);
    let Recovery::Rebuilt {
        set_aside: kept,
        why,
    } = &loaded.recovery
    else {
        panic!("{:?}", loaded.recovery);
    };
    assert!(!why.is_empty());
    assert_eq!(set_aside(dir).last(), Some(kept));
    let name = kept.file_name().unwrap().to_string_lossy();
    assert!(name.starts_with("store.corrupt-2026-11-21T"), "{name}");
    assert!(loaded.next_seq > 1_000_000_000_000, "{}", loaded.next_seq);

    let mut batch = Batch::new();
    batch.push_event(event(loaded.next_seq));
    commit(&store, batch, Durability::CrashSafe).unwrap();
    store.close().unwrap();
    let (store, again) = open(dir);
    assert_eq!(again.recovery, loaded.recovery);
    let mut batch = Batch::new();
    batch.put_setting("host", "0b8d1c5e");
    batch.end_rebuilding();
    commit(&store, batch, Durability::CrashSafe).unwrap();
    store.close().unwrap();
    let (store, again) = open(dir);
    assert_eq!(again.recovery, Recovery::Intact);
    assert_eq!(again.next_seq, loaded.next_seq + 1);
    store.close().unwrap();
    loaded
}

#[test]
fn a_store_replaced_by_a_plain_file_is_set_aside() {
    let (_folder, dir) = written();
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "junk").unwrap();
    let loaded = opens_rebuilt(&dir);
    assert!(loaded.pipelines.is_empty() && loaded.records.is_empty());
    assert_eq!(fs::read(&set_aside(&dir)[0]).unwrap(), b"junk");
}

#[test]
fn a_store_replaced_by_a_link_that_leads_nowhere_is_set_aside() {
    let (_folder, dir) = written();
    fs::remove_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", &dir).unwrap();
    opens_rebuilt(&dir);
}

#[test]
fn a_database_replaced_by_a_file_or_its_file_by_a_folder_is_set_aside() {
    let (_folder, dir) = written();
    fs::remove_dir_all(database(&dir)).unwrap();
    fs::write(database(&dir), "junk").unwrap();
    opens_rebuilt(&dir);

    let (_folder, dir) = written();
    fs::remove_file(database(&dir).join("db")).unwrap();
    fs::create_dir(database(&dir).join("db")).unwrap();
    opens_rebuilt(&dir);
}

#[test]
fn a_database_of_junk_is_set_aside() {
    let (_folder, dir) = written();
    fs::write(database(&dir).join("db"), vec![0x5a; 600_000]).unwrap();
    opens_rebuilt(&dir);

    let (_folder, dir) = written();
    fs::write(database(&dir).join("db"), "").unwrap();
    opens_rebuilt(&dir);

    // Not even a snapshot left that could tell.
    let (_folder, dir) = written();
    fs::write(database(&dir).join("db"), "").unwrap();
    snapshots(&dir)
        .iter()
        .for_each(|path| fs::remove_file(path).unwrap());
    opens_rebuilt(&dir);
}

#[test]
fn a_deleted_store_or_database_is_a_new_one_and_numbers_go_on() {
    let (_folder, dir) = written();
    fs::remove_dir_all(&dir).unwrap();
    let (store, loaded) = open(&dir);
    assert_eq!(loaded.recovery, Recovery::New);
    store.close().unwrap();
    assert!(set_aside(&dir).is_empty());

    fs::remove_dir_all(database(&dir)).unwrap();
    let later = Timestamp::from_millis(NOW + 60_000);
    let (_store, again) = Store::open(&dir, later).unwrap();
    assert_eq!(again.recovery, Recovery::New);
    assert!(again.next_seq > loaded.next_seq);
}

#[test]
fn a_deleted_main_file_is_damage() {
    let (_folder, dir) = written();
    fs::remove_file(database(&dir).join("db")).unwrap();
    opens_rebuilt(&dir);
}

#[test]
fn only_the_three_newest_damaged_stores_are_kept() {
    let (folder, dir) = written();
    let bystander = folder.path().join("store.txt");
    fs::write(&bystander, "").unwrap();
    for hour in 0..5_i64 {
        // Each one that replaces another has the next number.
        let newest = dir.join(format!("db-{}", hour + 1));
        fs::write(newest.join("db"), "junk").unwrap();
        let now = Timestamp::from_millis(NOW + hour * 3_600_000);
        let (store, loaded) = Store::open(&dir, now).unwrap();
        assert!(matches!(loaded.recovery, Recovery::Rebuilt { .. }));
        store.close().unwrap();
    }
    let kept = set_aside(&dir);
    let names = kept
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy());
    let names: Vec<_> = names.collect();
    assert_eq!(
        names,
        [
            "store.corrupt-2026-11-21T04-43-00.123Z",
            "store.corrupt-2026-11-21T05-43-00.123Z",
            "store.corrupt-2026-11-21T06-43-00.123Z",
            "store.txt"
        ]
    );
}

#[test]
fn damaged_history_costs_only_the_history() {
    let (_folder, dir) = written();
    let db = raw(&dir);
    let (row_key, row) = db
        .scan_prefix([Kind::Packed.byte()])
        .nth(3)
        .unwrap()
        .unwrap();
    let mut row = row.to_vec();
    row[100] ^= 1;
    db.insert(row_key, row).unwrap();
    drop(db);

    let loaded = opens_rebuilt(&dir);
    let ttp = key("ttp");
    assert_eq!(
        loaded.pipelines,
        [(ttp.clone(), pipeline("ttp", 60))].into()
    );
    assert_eq!(loaded.records[&ttp].len(), 60);
    assert_eq!(loaded.settings["control-plane.port"], "8080");
}

#[test]
fn a_row_that_is_not_what_was_written_is_damage() {
    let replace: [fn(&sled::Db); 3] = [
        |db| {
            db.insert(rows::setting_key("port"), b"no checksum")
                .unwrap();
        },
        |db| {
            // Sound in itself, in the wrong place.
            let row = db
                .get(rows::setting_key("control-plane.port"))
                .unwrap()
                .unwrap();
            db.insert(rows::setting_key("other"), row).unwrap();
        },
        |db| {
            let (section, _) = db
                .scan_prefix([Kind::Section.byte()])
                .next()
                .unwrap()
                .unwrap();
            db.remove(section).unwrap();
        },
    ];
    for replace in replace {
        let (_folder, dir) = written();
        let db = raw(&dir);
        replace(&db);
        drop(db);
        opens_rebuilt(&dir);
    }
}

#[test]
fn a_newer_schema_is_refused_in_words_and_left_alone() {
    let (_folder, dir) = written();
    let db = raw(&dir);
    let (row_key, row) = migrate::stamp(migrate::CURRENT + 6);
    db.insert(row_key, row).unwrap();
    drop(db);
    for _ in 0..2 {
        let error = Store::open(&dir, now()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the state in `{}` has schema version 7, this flowctl knows up to 1; install the \
                 newer flowctl again, or use another state directory",
                database(&dir).display()
            )
        );
    }
    assert!(set_aside(&dir).is_empty());
}

#[test]
fn what_an_open_that_was_killed_leaves_behind_does_no_harm() {
    let (_folder, dir) = written();
    // As sled leaves it when it is killed while it writes a snapshot: newer than all, half there.
    let whole = fs::read(&snapshots(&dir)[0]).unwrap();
    let leftover = database(&dir).join("snap.00000000FFFFFFFF.generating");
    fs::write(&leftover, &whole[..whole.len() / 2]).unwrap();
    fs::create_dir(dir.join("new-2")).unwrap();
    fs::write(dir.join("new-2").join("db"), "junk").unwrap();
    fs::create_dir(dir.join("db-0")).unwrap();

    let (_store, loaded) = open(&dir);
    assert_eq!(loaded.recovery, Recovery::Intact);
    assert_eq!(loaded.records[&key("ttp")].len(), 60);
    assert!(!leftover.exists());
    let left = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let kept = BTreeSet::from([database(&dir), dir.join("pipelines-created")]);
    assert_eq!(left.collect::<BTreeSet<_>>(), kept);
}

/// A sequence that looks random and is the same each time.
fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |sides| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    }
}

/// Whatever is wrong with the file: the open answers, what it answers was written, and the store it
/// answers works.
fn is_answered_and_true(dir: &Path, what: &str) {
    let (store, loaded) = open(dir);
    let ttp = key("ttp");
    if let Some(found) = loaded.pipelines.get(&ttp) {
        assert_eq!(*found, pipeline("ttp", 60), "{what}");
    }
    for (replica, found) in loaded.records.get(&ttp).into_iter().flatten() {
        assert_eq!(*found, record(&ttp, replica, 1), "{what}");
    }
    if loaded.recovery == Recovery::Intact {
        assert_eq!(loaded.records[&ttp].len(), 60, "{what}");
        assert_eq!(loaded.pipelines.len(), 1, "{what}");
    }
    for found in store.events(&EventQuery::default()).unwrap() {
        assert_eq!(found, event(found.seq), "{what}");
    }
    let mut batch = Batch::new();
    batch.put_setting("works", what);
    commit(&store, batch, Durability::PowerSafe).unwrap();
    store.close().unwrap();
    let (store, loaded) = open(dir);
    assert_eq!(loaded.settings["works"], what);
    store.close().unwrap();
}

/// Copies the written store, and damages the copy.
fn damaged_copies(count: u64, damage: impl Fn(&fs::File, u64, &mut dyn FnMut(u64) -> u64)) {
    let (folder, dir) = written();
    for seed in 0..count {
        let copy = folder.path().join(format!("copy-{seed}")).join("store");
        fs::create_dir_all(copy.join("db-1").join("blobs")).unwrap();
        for entry in fs::read_dir(database(&dir)).unwrap().map(Result::unwrap) {
            if entry.metadata().unwrap().is_file() {
                fs::copy(entry.path(), copy.join("db-1").join(entry.file_name())).unwrap();
            }
        }
        let path = copy.join("db-1").join("db");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        damage(&file, length, &mut dice(seed));
        drop(file);
        is_answered_and_true(&copy, &format!("seed {seed}"));
        fs::remove_dir_all(copy.parent().unwrap()).unwrap();
    }
}

#[test]
fn a_database_cut_anywhere_is_answered_and_never_believed() {
    damaged_copies(30, |file, length, dice| file.set_len(dice(length)).unwrap());
}

#[test]
fn a_database_with_a_scrambled_byte_anywhere_is_answered_and_never_believed() {
    damaged_copies(60, |file, length, dice| {
        let byte = [dice(256) as u8];
        file.write_all_at(&byte, dice(length)).unwrap();
    });
}

#[test]
fn a_database_with_a_page_of_zeros_anywhere_is_answered_and_never_believed() {
    damaged_copies(30, |file, length, dice| {
        let page = dice(length / 4096) * 4096;
        file.write_all_at(&[0; 4096], page).unwrap();
    });
}

/// A folder with everything in it, as it is.
fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_database_that_became_what_it_was_says_so_until_its_pipelines_are_there_again() {
    let (store, loaded, folder) = Store::temporary();
    let dir = folder.path().join("store");
    let mut batch = Batch::new();
    batch.push_event(event(loaded.next_seq));
    commit(&store, batch, Durability::PowerSafe).unwrap();
    store.close().unwrap();
    let earlier = folder.path().join("earlier");
    copied(&database(&dir), &earlier);

    let (store, loaded) = open(&dir);
    assert_eq!(loaded.recovery, Recovery::Intact);
    let with_pipeline = || {
        let mut batch = Batch::new();
        batch.put_pipeline(key("ttp"), pipeline("ttp", 3));
        batch
    };
    commit(&store, with_pipeline(), Durability::PowerSafe).unwrap();
    store.close().unwrap();
    fs::remove_dir_all(database(&dir)).unwrap();
    copied(&earlier, &database(&dir));

    for commits_before in 0..2 {
        let (store, loaded) = open(&dir);
        assert_eq!(loaded.recovery, Recovery::New, "after {commits_before}");
        let mut batch = Batch::new();
        batch.push_event(event(loaded.next_seq));
        commit(&store, batch, Durability::PowerSafe).unwrap();
        store.close().unwrap();
    }
    let (store, _) = open(&dir);
    commit(&store, with_pipeline(), Durability::PowerSafe).unwrap();
    store.close().unwrap();
    assert_eq!(open(&dir).1.recovery, Recovery::Intact);
}

#[test]
fn a_store_from_which_every_pipeline_was_deleted_has_lost_nothing() {
    let (store, loaded, folder) = Store::temporary();
    let dir = folder.path().join("store");
    let mut batch = Batch::new();
    batch.put_pipeline(key("ttp"), pipeline("ttp", 3));
    batch.push_event(event(loaded.next_seq));
    commit(&store, batch, Durability::PowerSafe).unwrap();
    let mut batch = Batch::new();
    batch.forget_pipeline(key("ttp"));
    commit(&store, batch, Durability::PowerSafe).unwrap();
    store.close().unwrap();
    assert_eq!(open(&dir).1.recovery, Recovery::Intact);
}
