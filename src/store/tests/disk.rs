//! Disks that are full, read-only or failing. They are mounted for the test, which takes root; what
//! can't be mounted is said aloud and not tested.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use super::super::{EventQuery, Recovery};
use super::*;

/// A file system of its own, gone with this value.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// `None`, and a line that can't be overlooked, where this can't be mounted.
    fn new(test: &str, arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(arguments)
            .arg(folder.path())
            .output()
            .map(|output| output.status.success());
        if !matches!(mounted, Ok(true)) {
            // Not `eprintln`, which the harness keeps to itself.
            writeln!(
                std::io::stderr(),
                "NOT RUN: `{test}` needs to mount file systems (root)"
            )
            .unwrap();
            return None;
        }
        Some(Self { folder })
    }

    fn tmpfs(test: &str, options: &str) -> Option<Self> {
        Self::new(test, &["-t", "tmpfs", "-o", options, "none"])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        // Another test that forks at this moment may hold a file of ours until its child execs.
        let done = (0..200).any(|_| {
            let mut mount = Command::new("mount");
            let mount = mount.args(["-o", &options]).arg(self.folder.path());
            let done = mount.output().unwrap().status.success();
            if !done {
                std::thread::sleep(Duration::from_millis(10));
            }
            done
        });
        assert!(done, "mount -o {options}");
    }

    fn unmount(&self) -> bool {
        let mut umount = Command::new("umount");
        let umount = umount.arg(self.folder.path()).output();
        umount.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Another test that forks at this moment may hold a file of ours until its child execs.
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            self.unmount()
        });
        if !gone && !std::thread::panicking() {
            panic!("{} stays mounted", self.folder.path().display());
        }
    }
}

/// Takes all the room of a file system.
fn fill(path: &Path) {
    let mut ballast = fs::File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

/// Gives the room back, also where a child that is being forked still has the file open.
fn clear(path: &Path) {
    fs::File::create(path).unwrap();
    fs::remove_file(path).unwrap();
}

fn setting(number: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put_setting(format!("setting-{}", number % 100), number.to_string());
    batch.put_setting("newest", number.to_string());
    batch.push_event(event(number));
    batch
}

/// Commits from `number` on until one fails; answers the last that was acknowledged, and the error.
fn commit_until_failure(
    store: &Store,
    mut number: u64,
    durability: Durability,
) -> (u64, StoreError) {
    loop {
        match commit(store, setting(number), durability) {
            Ok(()) => number += 1,
            Err(error) => return (number - 1, error),
        }
        assert!(number < 1_000_000, "the disk is never full");
    }
}

#[test]
fn a_full_disk_stops_the_recording_until_there_is_room_again() {
    let test = "a_full_disk_stops_the_recording_until_there_is_room_again";
    let Some(disk) = Mounted::tmpfs(test, "size=40m") else {
        return;
    };
    let dir = disk.path("store");
    let (store, _) = open(&dir);
    for number in 1..=100 {
        commit(&store, setting(number), Durability::CrashSafe).unwrap();
    }
    let mut newest = 100;
    for _ in 0..5 {
        let ballast = disk.path("ballast");
        fill(&ballast);
        for durability in [Durability::CrashSafe, Durability::PowerSafe] {
            for batch in [setting(newest + 1), Batch::new()] {
                // Before anything is half written: it stays readable, and answers at once.
                let error = commit(&store, batch, durability).unwrap_err();
                assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
                let events = store.events(&EventQuery::default()).unwrap();
                assert!(events.contains(&event(newest)));
            }
        }
        clear(&ballast);
        commit(&store, Batch::new(), Durability::PowerSafe).unwrap();
        newest += 1;
        commit(&store, setting(newest), Durability::CrashSafe).unwrap();
    }
    store.close().unwrap();
    let (store, loaded) = open(&dir);
    assert_eq!(loaded.recovery, Recovery::Intact);
    assert_eq!(loaded.settings["newest"], newest.to_string());
    store.close().unwrap();
}

#[test]
fn a_disk_that_is_full_at_the_start_is_an_error_and_no_damage() {
    let test = "a_disk_that_is_full_at_the_start_is_an_error_and_no_damage";
    for options in ["size=24m", "size=40m,nr_inodes=60"] {
        let Some(disk) = Mounted::tmpfs(test, options) else {
            return;
        };
        let dir = disk.path("store");
        let (store, _) = open(&dir);
        commit(&store, setting(1), Durability::PowerSafe).unwrap();
        store.close().unwrap();

        let ballast = disk.path("ballast");
        fs::create_dir(&ballast).unwrap();
        if options.contains("inodes") {
            let mut files = (0..).map(|n| fs::write(ballast.join(n.to_string()), ""));
            assert!(files.any(|made| made.is_err()));
        } else {
            // A little is left, but not enough to be sure.
            let path = ballast.join("file");
            fill(&path);
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length - (4 << 20)).unwrap();
        }
        let error = Store::open(&dir, now()).unwrap_err();
        assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");

        for file in fs::read_dir(&ballast).unwrap() {
            clear(&file.unwrap().path());
        }
        fs::remove_dir(&ballast).unwrap();
        // Another test that forks at this moment may hold the ballast until its child execs.
        let (store, loaded) = (0..200)
            .find_map(|_| match Store::open(&dir, now()) {
                Ok(opened) => Some(opened),
                Err(StoreError::NoRoom { .. }) => {
                    std::thread::sleep(Duration::from_millis(10));
                    None
                }
                Err(error) => panic!("{error}"),
            })
            .expect("there is room again");
        assert_eq!(loaded.recovery, Recovery::Intact);
        assert_eq!(loaded.settings["newest"], "1");
        store.close().unwrap();
        assert_eq!(fs::read_dir(disk.folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_read_only_disk_is_an_error_and_no_damage() {
    let test = "a_read_only_disk_is_an_error_and_no_damage";
    let Some(disk) = Mounted::tmpfs(test, "size=40m") else {
        return;
    };
    let dir = disk.path("store");
    let (store, _) = open(&dir);
    commit(&store, setting(1), Durability::PowerSafe).unwrap();
    store.close().unwrap();

    disk.remount("ro");
    let error = Store::open(&dir, now()).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    let error = Store::open(&disk.path("another"), now()).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");

    disk.remount("rw");
    let (store, loaded) = open(&dir);
    assert_eq!(loaded.recovery, Recovery::Intact);
    store.close().unwrap();
}

/// Copies the disk under a store that has just acknowledged, as a power cut would leave it.
#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_power_safe() {
    let test = "a_power_cut_loses_nothing_that_was_acknowledged_power_safe";
    // The file system may wait for minutes where nobody makes it hurry.
    let options = "loop,commit=300";
    let Some(below) = Mounted::tmpfs(test, "size=200m") else {
        return;
    };
    let image = below.path("image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let mkfs = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&image)
        .status();
    if !mkfs.is_ok_and(|status| status.success()) {
        writeln!(std::io::stderr(), "NOT RUN: `{test}` needs mkfs.ext4").unwrap();
        return;
    }
    let Some(disk) = Mounted::new(test, &["-o", options, image.to_str().unwrap()]) else {
        return;
    };
    let (store, _) = open(&disk.path("store"));
    let mut number = 0;
    for round in 0..12 {
        for _ in 0..round * 20 {
            number += 1;
            commit(&store, setting(number), Durability::CrashSafe).unwrap();
        }
        number += 1;
        commit(&store, setting(number), Durability::PowerSafe).unwrap();
        let promised = number;
        for _ in 0..round {
            number += 1;
            commit(&store, setting(number), Durability::CrashSafe).unwrap();
        }
        let copy = below.path("copy");
        fs::copy(&image, &copy).unwrap();

        let after = Mounted::new(test, &["-o", "loop", copy.to_str().unwrap()]).unwrap();
        let (found, loaded) = open(&after.path("store"));
        assert_eq!(loaded.recovery, Recovery::Intact, "round {round}");
        let newest: u64 = loaded.settings["newest"].parse().unwrap();
        assert!(newest >= promised, "{newest} of {promised}");
        let events = found.events(&EventQuery::default()).unwrap();
        assert_eq!(events, (1..=newest).map(event).collect::<Vec<_>>());
        found.close().unwrap();
        drop(after);
        fs::remove_file(&copy).unwrap();
    }
    store.close().unwrap();
}

/// An ext4 on a file whose metadata has its blocks and whose data has not: once the disk below is
/// full, writing data fails with EIO, and what only the page cache has of it is lost.
struct Failing {
    test: &'static str,
    disk: Option<Mounted>,
    below: Mounted,
    image: String,
}

impl Failing {
    fn new(test: &'static str) -> Option<Self> {
        let below = Mounted::tmpfs(test, "size=80m")?;
        let done = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        let sparse = tempfile::NamedTempFile::new().unwrap();
        sparse.as_file().set_len(64 << 20).unwrap();
        let image = below.path("image");
        let mut mkfs = Command::new("mkfs.ext4");
        let made = done(mkfs.args(["-q", "-F", "-b", "4096"]).arg(sparse.path()))
            && done(
                Command::new("cp")
                    .arg("--sparse=never")
                    .arg(sparse.path())
                    .arg(&image),
            );
        let image = image.to_str().unwrap().to_owned();
        let mut disk = Self {
            test,
            disk: None,
            below,
            image,
        };
        if made {
            disk.mount()?;
            let free = disk.disk.as_ref()?.folder.path();
            if done(Command::new("fstrim").arg(free)) {
                return Some(disk);
            }
        }
        let mut terminal = std::io::stderr();
        writeln!(terminal, "NOT RUN: `{test}` needs mkfs.ext4 and fstrim").unwrap();
        None
    }

    fn mount(&mut self) -> Option<()> {
        let options = ["-o", "loop,errors=continue", &self.image];
        self.disk = Some(Mounted::new(self.test, &options)?);
        Some(())
    }

    fn store(&self) -> PathBuf {
        self.disk.as_ref().unwrap().path("store")
    }

    fn fails(&self) {
        fill(&self.below.path("ballast"));
    }

    fn works_again(&self) {
        self.below.remount("size=200m");
    }

    /// Makes the kernel forget what it has of the database's file and believes to be on the disk.
    fn forget_cache(&self) {
        let file = fs::File::open(self.store().join("db-1").join("db")).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    /// Forgets what only the page cache has, as a power cut does.
    fn mounted_again(&mut self) {
        self.disk = None;
        let mut fsck = Command::new("e2fsck");
        let checked = fsck.args(["-fy", &self.image]).output().unwrap();
        assert!(checked.status.code().unwrap() < 4, "{checked:?}");
        self.mount().unwrap();
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.disk = None;
    }
}

#[test]
fn a_disk_that_fails_for_good_loses_nothing_that_was_acknowledged_power_safe() {
    let test = "a_disk_that_fails_for_good_loses_nothing_that_was_acknowledged_power_safe";
    for durability in [Durability::PowerSafe, Durability::CrashSafe] {
        let Some(mut disk) = Failing::new(test) else {
            return;
        };
        let (store, _) = open(&disk.store());
        for number in 1..=100 {
            commit(&store, setting(number), Durability::PowerSafe).unwrap();
        }
        disk.fails();
        let (last, error) = commit_until_failure(&store, 101, durability);
        println!("{durability:?} up to {last}, then: {error}");
        for _ in 0..3 {
            commit(&store, setting(last + 1), durability).unwrap_err();
            assert!(store.trouble().is_some());
        }
        store.close().unwrap_err();

        disk.works_again();
        disk.mounted_again();
        let (store, loaded) = open(&disk.store());
        assert_eq!(loaded.recovery, Recovery::Intact);
        let newest: u64 = loaded.settings["newest"].parse().unwrap();
        let promised = match durability {
            Durability::PowerSafe => last,
            Durability::CrashSafe => 100,
        };
        assert!(newest >= promised, "{newest} of {promised}");
        store.close().unwrap();
    }
}

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing_that_was_acknowledged_at_all() {
    let test = "a_disk_that_fails_for_a_while_loses_nothing_that_was_acknowledged_at_all";
    for durability in [Durability::PowerSafe, Durability::CrashSafe] {
        let Some(mut disk) = Failing::new(test) else {
            return;
        };
        let (store, _) = open(&disk.store());
        disk.fails();
        let (last, error) = commit_until_failure(&store, 1, durability);
        println!("{durability:?} up to {last}, then: {error}");
        commit(&store, setting(last + 1), durability).unwrap_err();
        assert!(store.trouble().is_some());

        disk.works_again();
        disk.forget_cache();
        commit(&store, Batch::new(), Durability::PowerSafe).unwrap();
        assert!(store.trouble().is_none());
        commit(&store, setting(last + 2), Durability::PowerSafe).unwrap();
        store.close().unwrap();

        disk.mounted_again();
        let (store, loaded) = open(&disk.store());
        assert_eq!(loaded.recovery, Recovery::Intact);
        assert_eq!(loaded.settings["newest"], (last + 2).to_string());
        let events = store.events(&EventQuery::default()).unwrap();
        for number in 1..=last {
            assert!(events.contains(&event(number)), "{number} of {last}");
        }
        store.close().unwrap();
    }
}

#[test]
fn a_store_that_is_deleted_while_it_runs_is_begun_anew_and_says_so() {
    let (store, _, folder) = Store::temporary();
    let dir = folder.path().join("store");
    commit(&store, setting(1), Durability::PowerSafe).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let error = commit(&store, setting(2), Durability::PowerSafe).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("could not be brought to the disk"),
        "{error}"
    );
    let error = commit(&store, setting(2), Durability::PowerSafe).unwrap_err();
    assert!(matches!(error, StoreError::Lost { .. }), "{error}");
    commit(&store, setting(3), Durability::PowerSafe).unwrap();
    assert!(store.trouble().is_none());
    store.close().unwrap();
    let (_store, loaded) = open(&dir);
    assert_eq!(loaded.settings["newest"], "3");
}
