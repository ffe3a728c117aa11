//! The place that a bench runs in: a temporary folder, the small component, and what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::{Result, proc};

/// No figure of any of the tools is anywhere near this; later means that something is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Nanoseconds of the clock that the components write.
pub fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Milliseconds of the clock that events are told by.
pub fn wall_millis() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// Milliseconds between two readings of [`now`].
pub fn millis(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1e6
}

/// One component to run.
#[derive(Clone)]
pub struct Component {
    /// Its name, a DNS label.
    pub id: String,
    /// What it calls itself when it starts; another tag makes it another component.
    pub tag: u32,
    /// What it does after it has said that it started.
    pub task: Task,
    /// Where it runs.
    pub home: Home,
}

/// Where a component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// On this host.
    Process,
    /// In a container, which finds the world's folder at [`IN_CONTAINER`].
    Container,
    /// The same without a network, since one of the tests' engine has room for 60 only.
    Offline,
}

/// Where a container finds the world's folder.
pub const IN_CONTAINER: &str = "/bench";

/// What a component does.
#[derive(Clone, Copy)]
pub enum Task {
    /// Sleep.
    Sleep,
    /// Answer HTTP on this port.
    Serve(u16),
    /// The same from 50 ms after its start on.
    ServeLate(u16),
    /// Write so many bytes, then sleep.
    Spew(u64),
    /// The same, and all of it is kept.
    SpewToKeep(u64),
    /// Exit with a failure at once, each time, with the usual delays.
    Crash,
}

impl Component {
    /// What it calls itself.
    pub fn name(&self) -> String {
        format!("{}@{}", self.id, self.tag)
    }

    /// Its program's arguments.
    pub fn args(&self, log: &Path) -> Vec<String> {
        let mut args = vec![log.display().to_string(), self.name()];
        match self.task {
            Task::Sleep => {}
            Task::Serve(port) => args.extend(["serve".into(), port.to_string()]),
            Task::ServeLate(port) => args.extend(["late".into(), port.to_string()]),
            Task::Spew(bytes) | Task::SpewToKeep(bytes) => {
                args.extend(["spew".into(), bytes.to_string()]);
            }
            Task::Crash => args.push("crash".into()),
        }
        args
    }
}

/// `count` components that sleep.
pub fn sleepers(count: usize) -> Vec<Component> {
    let component = |number| Component {
        id: format!("c{number}"),
        tag: 0,
        task: Task::Sleep,
        home: Home::Process,
    };
    (0..count).map(component).collect()
}

/// One line that a component wrote.
pub struct Beat {
    /// Who.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// When, as [`now`].
    pub at: i64,
    /// After spewing: the longest that one write took, in nanoseconds.
    pub longest_write: Option<i64>,
}

/// A temporary folder with the component's program in it.
pub struct World {
    dir: tempfile::TempDir,
    /// The folders of rounds, with flowctl's state: no container may see that.
    aside: tempfile::TempDir,
    /// The program of every component.
    pub program: PathBuf,
    /// Where the components of this round write.
    pub log: PathBuf,
    rounds: u32,
    read: usize,
}

impl World {
    /// Builds the component with the C compiler that building flowctl needs anyway.
    pub fn new() -> Result<Self> {
        let folder = || tempfile::Builder::new().prefix("flowctl-bench-").tempdir();
        let (dir, aside) = (folder()?, folder()?);
        let program = dir.path().join("beat");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/beat.c");
        // Static where the host can: a loader would be most of what such a program costs.
        let builds = ["-static", "-O2"].map(|flag| {
            let mut cc = Command::new("cc");
            cc.args(["-O2", flag, "-o"]).arg(&program).arg(&source);
            cc
        });
        let mut built = false;
        for mut cc in builds {
            built = built || cc.output().is_ok_and(|output| output.status.success());
        }
        if !built {
            return Err(format!("cc cannot build {}", source.display()).into());
        }
        Ok(Self {
            log: dir.path().join("beats.0"),
            dir,
            aside,
            program,
            rounds: 0,
            read: 0,
        })
    }

    /// The folder that containers see.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a container of `component` runs.
    pub fn command_in_container(&self, component: &Component) -> Vec<String> {
        let log = self.log.file_name().unwrap_or_default();
        let args = component.args(&Path::new(IN_CONTAINER).join(log));
        let program = format!("{IN_CONTAINER}/beat");
        std::iter::once(program).chain(args).collect()
    }

    /// A new round: nothing said so far, and an empty folder for it.
    pub fn next_round(&mut self) -> Result<PathBuf> {
        self.rounds += 1;
        self.read = 0;
        self.log = self.dir.path().join(format!("beats.{}", self.rounds));
        let folder = self.aside.path().join(format!("round.{}", self.rounds));
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// What the components wrote since the last look.
    pub fn beats(&mut self) -> Result<Vec<Beat>> {
        let bytes = match std::fs::read(&self.log) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let text = std::str::from_utf8(&bytes)?;
        let fresh = &text[self.read..];
        let whole = &fresh[..fresh.rfind('\n').map_or(0, |end| end + 1)];
        self.read += whole.len();
        whole.lines().map(read_beat).collect()
    }

    /// Waits until `count` more lines were written.
    pub fn wait_for(&mut self, count: usize) -> Result<Vec<Beat>> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.beats()?;
        while seen.len() < count {
            if Instant::now() > deadline {
                return Err(format!("{} of {count} components started", seen.len()).into());
            }
            // Long enough to leave the machine to those who are measured.
            std::thread::sleep(Duration::from_millis(2));
            seen.extend(self.beats()?);
        }
        Ok(seen)
    }

    /// The components that live, whoever started them.
    fn living(&self) -> Vec<u32> {
        proc::running(&self.program)
    }

    /// Ends every component that still lives and waits until they are gone; answers how many.
    pub fn sweep(&self) -> usize {
        let left = self.living();
        for pid in &left {
            proc::kill(*pid);
        }
        let deadline = Instant::now() + PATIENCE / 10;
        while !self.living().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        left.len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.sweep();
    }
}

fn read_beat(line: &str) -> Result<Beat> {
    let mut words = line.split(' ');
    let mut next = || words.next().ok_or_else(|| format!("torn line `{line}`"));
    Ok(Beat {
        name: next()?.to_owned(),
        pid: next()?.parse()?,
        at: next()?.parse()?,
        longest_write: words.next().map(str::parse).transpose()?,
    })
}
