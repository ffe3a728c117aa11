//! Engines of one test's own, and what may lie between an engine and us.

use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

/// Passes on what is said between an engine and whoever connects.
pub(super) struct Proxy {
    root: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Before the engine at `socket`. What that says goes through `alter`, of which each connection
    /// has its own; it answers how much of it arrives, and where that is not all, the connection
    /// ends.
    pub(super) fn before<Alter: FnMut(&mut [u8]) -> usize + Send + 'static>(
        socket: PathBuf,
        alter: impl Fn() -> Alter + Send + 'static,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(Self::socket_in(&root)).unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut ours, _) = listener.accept().await.unwrap();
                let mut theirs = UnixStream::connect(&socket).await.unwrap();
                let mut alter = alter();
                tokio::spawn(async move {
                    let (mut from, mut to) = ours.split();
                    let (mut answer, mut ask) = theirs.split();
                    let back = async {
                        let mut bytes = vec![0; 1 << 20];
                        loop {
                            let count = answer.read(&mut bytes).await.unwrap_or(0);
                            let passed = alter(&mut bytes[..count]);
                            let told = to.write_all(&bytes[..passed]).await;
                            if count == 0 || passed < count || told.is_err() {
                                return;
                            }
                        }
                    };
                    // The engine waits for no end of a request, so that way may stay open.
                    let forth = async {
                        tokio::io::copy(&mut from, &mut ask).await.unwrap_or(0);
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = back => {}
                        () = forth => {}
                    }
                });
            }
        });
        Self { root, task }
    }

    fn socket_in(root: &tempfile::TempDir) -> PathBuf {
        root.path().join("engine.sock")
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(Self::socket_in(&self.root))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes on what is said to an engine, as the socket of a virtual machine or of `ssh -L` does.
pub(super) struct Forwarder {
    proxy: Proxy,
    /// The number that it gives every process instead of the engine's; 0 = it changes nothing.
    pid: Arc<AtomicU32>,
}

impl Forwarder {
    pub(super) fn to(engine: &Endpoint) -> Self {
        let Endpoint::Unix(socket) = engine.clone() else {
            panic!("{engine} has no socket");
        };
        let pid = Arc::new(AtomicU32::new(0));
        let says = pid.clone();
        let proxy = Proxy::before(socket, move || {
            let says = says.clone();
            move |said: &mut [u8]| {
                rename_processes(said, says.load(Ordering::Relaxed));
                said.len()
            }
        });
        Self { proxy, pid }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.proxy.endpoint()
    }

    pub(super) fn says_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }
}

/// Gives each process in an engine's answer the number `pid`, in as many bytes as before.
fn rename_processes(said: &mut [u8], pid: u32) {
    let keys: [&[u8]; 2] = [b"\"Pid\":", b"\"pid\":"];
    let mut at = 0;
    while pid != 0 && at < said.len() {
        let key = keys.iter().find(|key| said[at..].starts_with(key));
        at += key.map_or(1, |key| key.len());
        let digits = said[at..].iter().take_while(|byte| byte.is_ascii_digit());
        let width = digits.count();
        // What does not run has the number 0.
        if key.is_some() && width > 0 && said[at] != b'0' {
            let number = format!("{pid:width$}");
            assert_eq!(number.len(), width, "{pid} is too long");
            said[at..at + width].copy_from_slice(number.as_bytes());
        }
    }
}

/// An engine needs root, and so does whoever ill-treats it.
pub(super) fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// An engine of one test's own, which it may ill-treat.
pub(super) struct OwnEngine {
    pub(super) folder: PathBuf,
}

impl OwnEngine {
    pub(super) fn start(name: &str) -> Self {
        let name = format!("flowctl-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let engine = Self { folder };
        engine.run("start");
        engine
    }

    pub(super) fn run(&self, word: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine");
        let status = as_root(script)
            .arg(word)
            .arg(&self.folder)
            .status()
            .unwrap();
        assert!(status.success(), "tests/engine {word}");
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.folder.join("docker.sock"))
    }

    pub(super) fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.folder.join("docker.pid")).unwrap();
        let sent = as_root("kill").args([signal, pid.trim()]).status();
        assert!(sent.unwrap().success());
        let pid = pid.trim().parse().unwrap();
        while (signal == "-KILL" && evidence::lives(pid))
            || (signal == "-STOP" && !stands_still(pid))
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether every thread of a process is stopped: one takes the signal, and the others go on until that
/// one has run.
fn stands_still(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_none_or(|rest| rest.trim_start().starts_with(['T', 't', 'Z', 'X']))
    })
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.run("stop");
    }
}
