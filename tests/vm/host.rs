//! An emulated host: what it is given, its console, and its power switch.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// With this variable hosts are emulated, and one that cannot be is a failure.
const NEEDED: &str = "FLOWCTL_TESTS_NEED_VM";
/// How long one boot may take, its script included. Generous: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(2_400);
/// How long it may take until the script begins.
const BEGINNING: Duration = Duration::from_secs(300);
/// The first thing that each script says.
const BEGUN: &str = "BEGUN";
/// How often a host is switched on that hangs before.
const BOOTS: usize = 3;
/// How long a frozen emulator's last output takes to arrive.
const SETTLE: Duration = Duration::from_millis(200);

/// What is needed beside root.
const PROGRAMS: [&str; 4] = ["qemu-system-x86_64", "debootstrap", "mkfs.ext4", "strip"];

/// The right to emulate: one host at a time, since each takes all that the machine has.
pub struct Turn {
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits for it, and sees to it that there is a host to boot. `None`, said loudly, where none can
    /// be emulated.
    pub fn take(test: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if std::env::var_os(NEEDED).is_none() {
            eprintln!("NOT RUN: {test} needs an emulated host: `tests/run` as root emulates one");
            return None;
        }
        let why = missing().or_else(|| build().err());
        if let Some(why) = why {
            panic!("{test} needs an emulated host: {why}");
        }
        Some(Self { _turn: turn })
    }
}

fn missing() -> Option<String> {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !is_root {
        return Some("not root".to_owned());
    }
    let places = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |name: &&&str| {
        let mut places = std::env::split_paths(&places);
        places.any(|place| place.join(name).exists())
    };
    let missing: Vec<_> = PROGRAMS.iter().filter(|name| !is_there(name)).collect();
    (!missing.is_empty()).then(|| format!("{missing:?} not found; tests/run installs them"))
}

/// The release of Debian that the host has, where it is not that of this one.
const RELEASE: &str = "FLOWCTL_TESTS_VM_RELEASE";

/// Where the host's own disk is kept between runs, and between checkouts.
fn folder() -> PathBuf {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into())).join(".cache");
    let cache = given.filter(|dir| dir.is_absolute()).unwrap_or_else(home);
    let release = std::env::var(RELEASE).unwrap_or_else(|_| "own".to_owned());
    cache.join("flowctl-tests").join(format!("vm-{release}"))
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/machine")
}

fn build() -> Result<(), String> {
    let folder = folder();
    let release = std::env::var_os(RELEASE);
    let arguments = ["build".as_ref(), folder.as_ref()];
    let arguments: Vec<_> = arguments.into_iter().chain(release.as_deref()).collect();
    machine(&arguments)
}

fn machine(arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(script()).args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// What a host finds at `/stage`, and keeps from boot to boot.
pub struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    /// A disk with this binary, what all scripts share, and `files`.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let stage = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let contents = stage.path("contents");
        std::fs::create_dir(&contents).unwrap();
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(contents.join("flowctl"));
        let stripped = strip.arg(env!("CARGO_BIN_EXE_flowctl")).status();
        assert!(stripped.unwrap().success());
        for (name, text) in [("common", include_str!("common.sh"))].iter().chain(files) {
            let path = contents.join(name);
            std::fs::write(&path, text).unwrap();
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, executable).unwrap();
        }
        stage.make_disk("stage.img", &contents);
        stage
    }

    /// A file beside the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a further disk, with what is in `contents`.
    pub fn make_disk(&self, name: &str, contents: &Path) {
        let disk = self.path(name);
        machine(&["disk".as_ref(), disk.as_ref(), contents.as_ref()]).unwrap();
    }

    /// Makes a further disk that holds nothing.
    pub fn make_empty_disk(&self, name: &str) {
        let nothing = tempfile::tempdir().unwrap();
        self.make_disk(name, nothing.path());
    }

    /// What the emulator is told of a further disk.
    pub fn drive(&self, name: &str) -> [String; 2] {
        let path = self.path(name);
        let drive = format!("file={},format=raw,if=virtio,cache=none", path.display());
        ["-drive".to_owned(), drive]
    }

    /// Switches the host on. It runs `/stage/NAME` and ends. An emulated kernel may hang before it
    /// has begun anything, as a real one may: whoever waits for it presses the button again.
    pub fn boot(&self, name: &str, options: &[String]) -> Host {
        for _ in 0..BOOTS {
            let mut host = self.switch_on(name, options);
            if host.begins() {
                return host;
            }
            eprintln!(
                "the host hangs; it is switched off and on:\n{}",
                host.console()
            );
            host.cut();
        }
        panic!("the host does not come up");
    }

    fn switch_on(&self, name: &str, options: &[String]) -> Host {
        let mut emulator = Command::new(script());
        emulator
            .arg("boot")
            .arg(folder())
            .arg(self.path("stage.img"))
            .arg(name)
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut emulator = emulator.spawn().unwrap();
        let console = emulator.stdout.take().unwrap();
        let (send, lines) = channel();
        // It ends with the emulator.
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Host {
            emulator,
            lines,
            seen: Vec::new(),
            deadline: Instant::now() + PATIENCE,
        }
    }
}

/// A host that is switched on.
pub struct Host {
    emulator: Child,
    lines: Receiver<String>,
    /// What its console showed, and when.
    pub seen: Vec<(Instant, String)>,
    deadline: Instant,
}

impl Host {
    /// Whether its script begins in time.
    fn begins(&mut self) -> bool {
        let until = Instant::now() + BEGINNING;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line.ends_with(BEGUN);
                    self.seen.push((Instant::now(), line));
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the host ended\n{}", self.console())
                }
            }
        }
    }

    /// Reads on until a line that begins so.
    pub fn until(&mut self, beginning: &str) {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line.starts_with(beginning);
                    self.seen.push((Instant::now(), line));
                    if found {
                        return;
                    }
                }
                Err(error) => panic!("no `{beginning}`: {error}\n{}", self.console()),
            }
        }
    }

    /// Reads what comes for so long.
    pub fn read_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push((Instant::now(), line)),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the host ended\n{}", self.console())
                }
            }
        }
    }

    /// Waits until the script has ended and the host is off; fails if a check of the script did.
    pub fn finish(mut self) {
        self.until("END");
        self.finish_checked();
    }

    /// As [`Self::finish`], once the script has said that it ended.
    pub fn finish_checked(mut self) {
        let console = self.console();
        let failed = |(_, line): &&(Instant, String)| line.starts_with("CHECK failed");
        let failed: Vec<_> = self.seen.iter().filter(failed).collect();
        assert!(failed.is_empty(), "{failed:#?}\n{console}");
        while self.emulator.try_wait().unwrap().is_none() {
            assert!(Instant::now() < self.deadline, "it does not end\n{console}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Copies a disk as a power cut at this moment would leave it.
    pub fn copy(&mut self, from: &Path, to: &Path) {
        let pid = self.emulator.id().to_string();
        let signal = |name: &str| {
            let sent = Command::new("kill").args([name, &pid]).status();
            assert!(sent.unwrap().success());
        };
        signal("-STOP");
        self.read_for(SETTLE);
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .args([from, to])
            .status();
        assert!(copied.unwrap().success());
        signal("-CONT");
    }

    /// Cuts the power.
    pub fn cut(&mut self) {
        self.emulator.kill().unwrap();
        self.emulator.wait().unwrap();
        // What it said before is still to be read.
        while let Ok(line) = self.lines.recv() {
            self.seen.push((Instant::now(), line));
        }
    }

    /// What the console showed.
    pub fn console(&self) -> String {
        let lines: Vec<&str> = self.seen.iter().map(|(_, line)| line.as_str()).collect();
        lines.join("\n")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // One that is off already is what is wanted.
        self.emulator.kill().ok();
        self.emulator.wait().ok();
    }
}
