//! A real Docker Engine, as a person at its socket sees it, and worlds whose daemons use it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::{World, eventually, is_alive, kill, text};

/// The engine that `tests/run` starts.
const HOST: &str = "FLOWCTL_TEST_DOCKER_HOST";
/// Set where a test without an engine is a failure.
const NEEDED: &str = "FLOWCTL_TESTS_NEED_DOCKER";
/// What containers of the tests are made of.
pub const IMAGE: &str = "flowctl-test/busybox:1";

/// A world with the shared engine, and that engine; without one the test ends here.
macro_rules! world_with_engine {
    ($test:literal) => {{
        let Some(engine) = $crate::engine::Engine::shared($test) else {
            return;
        };
        ($crate::support::World::with_engine(&engine.host()), engine)
    }};
}
pub(crate) use world_with_engine;

/// An engine.
#[derive(Clone)]
pub struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// The engine of all tests; `None`, said loudly, when there is none.
    pub fn shared(test: &str) -> Option<Self> {
        match std::env::var(HOST) {
            Ok(host) => Some(Self::at(&host)),
            Err(_) if std::env::var_os(NEEDED).is_some() => {
                panic!("{test} needs a Docker Engine and {HOST} is not set; tests/run starts one")
            }
            Err(_) => {
                eprintln!("SKIPPED: {test} needs a Docker Engine; run tests/run, or set {HOST}");
                None
            }
        }
    }

    /// The engine at a `unix://` address.
    pub fn at(host: &str) -> Self {
        let path = host.strip_prefix("unix://").expect("a unix socket");
        Self {
            socket: path.into(),
        }
    }

    /// `--docker-host` for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Asks the engine; answers the status and the body.
    pub fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        // HTTP/1.0, so that the answer comes whole and the connection ends with it.
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = text(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Does something to a container, as a person would.
    pub fn act(&self, method: &str, path: &str) {
        let (code, said) = self.ask(method, path);
        assert!(code < 300, "{method} {path}: {code} {said}");
    }

    /// A container by name or id; `None` when there is none.
    pub fn inspect(&self, container: &str) -> Option<Value> {
        let (code, found) = self.ask("GET", &format!("/containers/{container}/json"));
        (code == 200).then_some(found)
    }

    /// The ids of all containers, also ended ones, of the pipeline of `world`.
    pub fn containers(&self, world: &World) -> Vec<String> {
        let all = self.list(world);
        let id = |container: &Value| container["Id"].as_str().unwrap().to_owned();
        all.iter().map(id).collect()
    }

    /// The same, as the engine lists them.
    pub fn list(&self, world: &World) -> Vec<Value> {
        let (_, all) = self.ask("GET", "/containers/json?all=1");
        let state = world.state().display().to_string();
        let ours = |container: &&Value| {
            let labels = container["Labels"].as_object().unwrap();
            labels
                .values()
                .any(|value| value.as_str().is_some_and(|value| value.ends_with(&state)))
        };
        all.as_array()
            .unwrap()
            .iter()
            .filter(ours)
            .cloned()
            .collect()
    }
}

/// An engine of one test's own, which it may kill.
pub struct OwnEngine {
    pub engine: Engine,
    folder: tempfile::TempDir,
    options: String,
}

/// Whether containers survive the end of their engine.
#[derive(Clone, Copy)]
pub enum LiveRestore {
    /// They end with it, or when it is back.
    Off,
    /// They run on.
    On,
}

impl OwnEngine {
    /// Starts one; `None`, said loudly, when this host has none.
    pub fn start(test: &str, live_restore: LiveRestore) -> Option<Self> {
        let options = match live_restore {
            LiveRestore::Off => "",
            LiveRestore::On => "--live-restore",
        };
        Self::start_with(test, options)
    }

    /// Starts one whose daemon has further options.
    pub fn start_with(test: &str, options: &str) -> Option<Self> {
        Engine::shared(test)?;
        let folder = tempfile::Builder::new().prefix("flowctl-").tempdir();
        let folder = folder.unwrap();
        let own = Self {
            engine: Engine::at(&format!("unix://{}/docker.sock", folder.path().display())),
            folder,
            options: options.to_owned(),
        };
        own.script("start");
        Some(own)
    }

    fn script(&self, verb: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine");
        let mut command = Command::new(script);
        let command = command
            .arg(verb)
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .env("FLOWCTL_ENGINE_OPTIONS", &self.options);
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "tests/engine {verb}: {said}");
    }

    /// The pid of its daemon.
    pub fn pid(&self) -> u32 {
        let file = self.folder.path().join("docker.pid");
        std::fs::read_to_string(file)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    /// Ends its daemon with a signal and waits until it is gone.
    pub fn end(&self, signal: &str) {
        let pid = self.pid();
        kill(pid, signal);
        eventually("the engine is gone", || !is_alive(pid));
    }

    /// Starts its daemon again, on what it had before.
    pub fn again(&self) {
        self.script("start");
        eventually("the engine answers", || {
            self.engine.ask("GET", "/_ping").0 == 200
        });
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine");
        let mut command = Command::new(script);
        command
            .arg("stop")
            .arg(self.folder.path())
            .stdin(Stdio::null());
        command.status().ok();
    }
}

/// Waits for more output of a component that counts, and looks that no number of it is missing.
pub fn counts_on(world: &World, id: &str) {
    let lines = world.ok(&["logs", id]).lines().count();
    eventually("its log goes on", || {
        world.ok(&["logs", id]).lines().count() > lines + 10
    });
    let logs = world.ok(&["logs", id]);
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, expected, "no line is lost and none is repeated");
}

/// An id that no other test uses: containers are named by it, and the engine is shared.
pub fn unique(id: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{id}-{}-{number}", std::process::id())
}

/// A container that runs a shell script, ready after 50 ms.
pub fn container(id: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "    - {{ id: {id}, image: \"{IMAGE}\", command: [sh, -c, {script}], driver: docker, ready_after: 50ms{more} }}\n"
    )
}

/// A container that just lives.
pub fn resting(id: &str, more: &str) -> String {
    container(id, "trap 'exit 0' TERM; while :; do sleep 0.1; done", more)
}
