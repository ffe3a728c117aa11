//! Any bytes as the log of a component.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Place, stream};
use crate::driver::{Follow, LogQuery, Runs};
use crate::model::{DriverKind, Namespace, PipelineKey, Timestamp};

/// A folder that goes with its thread.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowctl-fuzz-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("default/p/a/0")).expect("temporary files can be made");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it.
        fs::remove_dir_all(&self.0).ok();
    }
}

thread_local! {
    static FOLDER: Folder = Folder::new();
}

/// Reads `bytes` as they lie on a disk: all, the last lines, and those since a time.
pub fn log(bytes: &[u8]) {
    FOLDER.with(|folder| {
        let file = folder.0.join("default/p/a/0/000001-000001.log");
        fs::write(file, bytes).expect("temporary files can be written");
        let all = read(folder, None, None);
        let some = read(folder, Some(3), None);
        assert!(some <= all);
        read(
            folder,
            None,
            Some(Timestamp::from_millis(1_700_000_000_000)),
        );
    });
}

fn read(folder: &Folder, tail: Option<u64>, since: Option<Timestamp>) -> usize {
    let place = Place {
        driver: DriverKind::Process,
        logs_dir: folder.0.clone(),
        instances_dir: folder.0.join("none"),
    };
    let query = LogQuery {
        pipeline: PipelineKey {
            namespace: Namespace::default(),
            name: "p".parse().expect("it is a name"),
        },
        components: BTreeSet::new(),
        without: BTreeSet::new(),
        since,
        until: None,
        tail,
        filter: None,
        runs: Runs::All,
        follow: Follow::No,
    };
    let mut lines = stream(place, query);
    let mut count = 0;
    while let Some(line) = lines.blocking_recv() {
        count += 1;
        // Its fault is the reader's panic, which ends the stream without a word.
        line.expect("the file can be read");
    }
    count
}

#[cfg(test)]
#[test]
fn kept_and_changed_logs_are_read() {
    crate::fuzzing::replay("log", log);
}
