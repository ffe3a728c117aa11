//! A stage for journeys: a lake, the three programs as processes, and the question whether every
//! expected event was written exactly once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use token_transfer::generator::LakePlan;
use token_transfer::generator::write::MANIFEST;

/// Everything that is waited for comes within this time, or the test fails.
const DEADLINE: Duration = Duration::from_secs(120);

/// One of the three programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Source,
    Processor,
    Consumer,
}

pub const ALL: [Program; 3] = [Program::Source, Program::Processor, Program::Consumer];

impl Program {
    /// Its component's id in the shipped file.
    pub fn id(self) -> &'static str {
        match self {
            Self::Source => "stellar-live-source-datalake",
            Self::Processor => "ttp-processor",
            Self::Consumer => "consumer-app",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Source => env!("CARGO_BIN_EXE_stellar-live-source-datalake"),
            Self::Processor => env!("CARGO_BIN_EXE_ttp-processor"),
            Self::Consumer => env!("CARGO_BIN_EXE_consumer-app"),
        }
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A lake, and programs that come and go.
pub struct Stage {
    home: TempDir,
    pub last: u32,
    source_port: u16,
    processor_port: u16,
    health: BTreeMap<Program, u16>,
    extra: Vec<(String, OsString)>,
    running: BTreeMap<Program, Running>,
    /// The lake's last ledger, once it has what was asked for.
    fed: Cell<u32>,
    /// Lets the lake grow to a ledger.
    feeder: Option<Sender<u32>>,
}

/// A port that nobody listens on, given out once. The kernel gives none of this range to those who
/// want any port, such as the daemons of other tests, and the shipped file names none of it: its ports
/// are replaced one after the other, and none must be taken for one that is still to be replaced.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Test runs side by side begin at different places.
    let begin = std::process::id() % u32::from(COUNT);
    let begin = u16::try_from(begin).expect("less than the count");
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (begin + next % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for `condition`; `what` says in the failure what did not come.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            begin.elapsed() < DEADLINE,
            "{what} did not come in {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Stage {
    /// A stage with a lake of `ledgers` ledgers.
    pub fn with_lake(ledgers: u32) -> Self {
        let stage = Self::empty(1 + ledgers);
        LakePlan::of(ledgers).make(&stage.lake()).unwrap();
        stage
    }

    /// A stage with a lake that will have `ledgers` ledgers and has none yet: they come in portions,
    /// so that the stream has always a middle and never an end before the test wants it.
    pub fn with_hungry_lake(ledgers: u32) -> Self {
        let mut stage = Self::empty(1 + ledgers);
        let lake = stage.lake();
        let plan = LakePlan {
            pace: Duration::from_millis(1),
            ..LakePlan::of(ledgers)
        };
        plan.begin(&lake).unwrap();
        let (feeder, wanted) = mpsc::channel();
        stage.feeder = Some(feeder);
        // Ends with the stage; one that is torn down early makes the writes fail.
        std::thread::spawn(move || {
            let mut next = plan.first;
            while let Ok(last) = wanted.recv() {
                match plan.add(&lake, next..=last) {
                    Ok(_) => next = last + 1,
                    Err(_) => return,
                }
            }
        });
        stage
    }

    /// Lets the lake grow by `ledgers` while the caller goes on. Each takes more than a millisecond,
    /// so that what is done next is done in the middle of them.
    pub fn feed(&self, ledgers: u32) {
        self.fed.set(self.last.min(self.fed.get() + ledgers));
        let feeder = self.feeder.as_ref().expect("the lake is a hungry one");
        feeder.send(self.fed.get()).unwrap();
    }

    /// Lets the lake grow to its end.
    pub fn feed_rest(&self) {
        self.feed(self.last);
    }

    /// A stage without a lake, for ledgers up to `last`.
    pub fn empty(last: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        // Whoever a container's user is may write there.
        let out = home.path().join("data/out");
        fs::create_dir_all(&out).unwrap();
        fs::set_permissions(&out, Permissions::from_mode(0o777)).unwrap();
        Self {
            home,
            last,
            source_port: free_port(),
            processor_port: free_port(),
            health: ALL
                .into_iter()
                .map(|program| (program, free_port()))
                .collect(),
            extra: Vec::new(),
            running: BTreeMap::new(),
            fed: Cell::new(1),
            feeder: None,
        }
    }

    /// Sets a variable for every program that is started from now on, in place of the stage's own.
    pub fn set(&mut self, name: &str, value: &str) {
        self.extra.push((name.to_owned(), value.into()));
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn lake(&self) -> PathBuf {
        self.home.path().join("data/lake")
    }

    pub fn output(&self) -> PathBuf {
        self.home.path().join("data/out/events.ndjson")
    }

    pub fn log(&self, program: Program) -> String {
        fs::read_to_string(self.home.path().join(format!("{program:?}.log"))).unwrap_or_default()
    }

    pub fn start(&mut self, program: Program) {
        let log = self.home.path().join(format!("{program:?}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program.path());
        command
            .env_clear()
            .env("HEALTH_PORT", self.health[&program].to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        match program {
            Program::Source => command
                .env("STORAGE_TYPE", "FS")
                .env("BUCKET_NAME", self.lake())
                .env("LAKE_POLL_INTERVAL", "50ms")
                .env("PORT", self.source_port.to_string()),
            Program::Processor => command
                .env("NETWORK_PASSPHRASE", "Test SDF Network ; September 2015")
                .env(
                    "SOURCE_SERVICE_ADDRESS",
                    format!("localhost:{}", self.source_port),
                )
                .env("PORT", self.processor_port.to_string()),
            Program::Consumer => command
                .env(
                    "TTP_SERVICE_ADDRESS",
                    format!("localhost:{}", self.processor_port),
                )
                .env("OUTPUT_FILE", self.output())
                .args(["2", &self.last.to_string()]),
        };
        command.envs(self.extra.iter().cloned());
        self.running
            .insert(program, Running(command.spawn().unwrap()));
    }

    pub fn start_all(&mut self) {
        for program in ALL {
            self.start(program);
        }
    }

    /// Kills a program so that it can't do anything about it.
    pub fn kill(&mut self, program: Program) {
        self.running.remove(&program).expect("it runs");
    }

    /// Stops a program in its tracks; it keeps its connections and answers nothing.
    pub fn pause(&mut self, program: Program) {
        self.signal(program, Signal::STOP);
    }

    /// Lets a paused program go on.
    pub fn resume(&mut self, program: Program) {
        self.signal(program, Signal::CONT);
    }

    fn signal(&self, program: Program, signal: Signal) {
        kill_process(Pid::from_child(&self.running[&program].0), signal).unwrap();
    }

    /// Asks a program to stop, and says how it ended and how long that took.
    pub fn terminate(&mut self, program: Program) -> (ExitStatus, Duration) {
        let running = self.running.get_mut(&program).expect("it runs");
        let begin = Instant::now();
        kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
        let status = until("the end of a program that was asked to stop", || {
            running.0.try_wait().unwrap()
        });
        let took = begin.elapsed();
        self.running.remove(&program);
        (status, took)
    }

    /// Waits for a program to end by itself.
    pub fn ended(&mut self, program: Program) -> ExitStatus {
        let running = self.running.get_mut(&program).expect("it was started");
        until("the end of a program", || running.0.try_wait().unwrap())
    }

    pub fn alive(&mut self, program: Program) -> bool {
        let running = self.running.get_mut(&program);
        running.is_some_and(|running| running.0.try_wait().unwrap().is_none())
    }

    /// The answer on a program's health port.
    pub fn ask(&self, program: Program, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health[&program])).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub fn health(&self, program: Program) -> Option<Value> {
        serde_json::from_str(&self.ask(program, "/health")?.1).ok()
    }

    /// Waits until a program's health is `status`, and gives its message.
    pub fn until_health(&self, program: Program, status: &str) -> String {
        until(&format!("{program:?} {status}"), || {
            let health = self.health(program)?;
            (health["status"] == status).then(|| health["message"].as_str().unwrap().to_owned())
        })
    }

    /// Lines of the output so far.
    pub fn written(&self) -> usize {
        let text = fs::read(self.output()).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    pub fn until_written(&self, lines: usize) {
        until(&format!("{lines} lines of output"), || {
            (self.written() >= lines).then_some(())
        });
    }

    /// Waits until what comes into the lake from now on is written. The lake grows for it: all that
    /// came before may be written by now, and then there would be nothing to wait for.
    pub fn until_flowing(&self) {
        let written = self.written();
        // Some 250 events.
        self.feed(50);
        self.until_written(written + 100);
    }

    pub fn expected(&self) -> Vec<Value> {
        let text = fs::read(self.lake().join(MANIFEST)).unwrap();
        let mut manifest: Value = serde_json::from_slice(&text).unwrap();
        serde_json::from_value(manifest["events"].take()).unwrap()
    }

    /// Waits until the consumer says that it has everything, and checks that everything is what the
    /// lake's maker expects: every event, exactly once, in order.
    pub fn verify(&mut self) {
        until("the end of the stream", || {
            assert!(
                self.alive(Program::Consumer),
                "{}",
                self.log(Program::Consumer)
            );
            let message = self.health(Program::Consumer)?["message"]
                .as_str()?
                .to_owned();
            message.starts_with("complete").then_some(())
        });
        self.verify_output();
    }

    pub fn verify_output(&self) {
        let expected = self.expected();
        let text = fs::read_to_string(self.output()).unwrap();
        let found: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "line {}", number + 1);
        }
        assert_eq!(found.len(), expected.len());
    }
}

/// Moves a lake away, or back.
pub fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}
