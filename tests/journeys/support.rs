//! A world of its own per test: a state directory, a folder of manifests, the real binary.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a condition may take before a test gives up on it. Generous: it is reached only by a
/// failing test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A state directory, a folder of manifests, and the daemon that `apply` starts for them.
pub struct World {
    folder: tempfile::TempDir,
    mounted: Option<PathBuf>,
    /// Whether something read-only is mounted over the state directory.
    shadowed: bool,
    /// The container engine of its daemons.
    engine: Option<String>,
    /// Further variables of whatever it runs.
    variables: Vec<(&'static str, String)>,
}

/// Ports that nobody listens on, each given out once. The kernel gives none of this range to those
/// who want any port, such as clients that connect.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 16_000;
    const COUNT: u16 = 16_000;
    // Test runs side by side begin at different places.
    let begin = std::process::id() % u32::from(COUNT);
    let begin = u16::try_from(begin).expect("less than the count");
    let ports = std::iter::repeat_with(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        FIRST + (begin + next) % COUNT
    });
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.filter(is_free).take(count).collect()
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("flowctl-")
            .tempdir()
            .unwrap();
        Self {
            folder,
            mounted: None,
            shadowed: false,
            engine: None,
            // A daemon that is killed finds its port free again, and its components find it there:
            // the default is every daemon's.
            variables: vec![("FLOWCTL_CONTROL_PLANE_PORT", free_ports(1)[0].to_string())],
        }
    }

    /// A world whose daemons use this container engine.
    pub fn with_engine(host: &str) -> Self {
        let mut world = Self::new();
        world.use_engine(host);
        world
    }

    /// Uses this container engine from now on.
    pub fn use_engine(&mut self, host: &str) {
        self.engine = Some(host.to_owned());
    }

    /// Runs everything with this variable from now on.
    pub fn set(&mut self, variable: &'static str, value: &str) {
        self.variables.push((variable, value.to_owned()));
    }

    /// A world with a file system of `size` mounted on a folder of it; `None`, said loudly, when
    /// this test may not mount.
    pub fn with_small_disk(test: &str, folder: &str, size: &str) -> Option<Self> {
        if !may_mount(test) {
            return None;
        }
        let mut world = Self::new();
        let place = world.path(folder);
        fs::create_dir_all(&place).unwrap();
        fs::set_permissions(world.state(), fs::Permissions::from_mode(0o700)).unwrap();
        let options = format!("mode=700,size={size}");
        run_mount(&["-t", "tmpfs", "-o", &options, "none"], &place);
        world.mounted = Some(place);
        Some(world)
    }

    /// A world whose state directory is a disk of its own that turns read-only when it fails;
    /// `None`, said loudly, when this test may not mount.
    pub fn with_failing_disk(test: &str) -> Option<Self> {
        if !may_mount(test) {
            return None;
        }
        let mut world = Self::new();
        let image = world.path("image");
        let place = world.state();
        fs::create_dir(&place).unwrap();
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let mut format = Command::new("mkfs.ext4");
        let format = format.args(["-q", "-O", "^has_journal"]).arg(&image);
        assert!(format.status().unwrap().success());
        let source = image.to_str().unwrap();
        run_mount(&["-o", "loop,errors=remount-ro", source], &place);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        world.mounted = Some(place);
        Some(world)
    }

    /// Makes the kernel believe that the failing disk has failed: it is read-only from now on.
    pub fn break_disk(&self) {
        let mut find = Command::new("findmnt");
        let found = find.args(["-no", "SOURCE"]).arg(self.state()).output();
        let device = text(&found.unwrap().stdout);
        let name = device.trim().rsplit('/').next().unwrap();
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").unwrap();
    }

    /// Makes the state directory read-only for whoever opens something in it from now on; false,
    /// said loudly, when this test may not mount.
    pub fn make_read_only(&mut self, test: &str) -> bool {
        if !may_mount(test) {
            return false;
        }
        let state = self.state();
        run_mount(&["--bind", state.to_str().unwrap()], &state);
        self.shadowed = true;
        run_mount(&["-o", "remount,bind,ro"], &state);
        true
    }

    /// Takes back `make_read_only`.
    pub fn make_writable(&mut self) {
        if std::mem::take(&mut self.shadowed) {
            run_unmount(&self.state());
        }
    }

    /// Unmounts the world's disk, whoever still looks at it.
    pub fn unmount(&mut self) {
        if let Some(place) = self.mounted.take() {
            run_unmount(&place);
        }
    }

    /// Leaves the small disk no room at all, by the file that it answers. The disk's size bounds
    /// what is written.
    pub fn fill_disk(&self) -> fs::File {
        let mut filler = fs::File::create(self.filler()).unwrap();
        let page = [b'x'; 4096];
        let error = loop {
            if let Err(error) = filler.write_all(&page) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        filler
    }

    /// Takes away what `fill_disk` wrote.
    pub fn free_disk(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        let place = self.mounted.as_ref().expect("a world with a small disk");
        place.join("filler")
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes a file in place.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a file beside its place and renames it over, as editors do.
    pub fn save(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (self.path(name), self.path(&format!(".{name}.new")));
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &path).unwrap();
        path
    }

    /// The text of a file; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The binary with this world's state directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowctl"));
        command
            .args(arguments)
            .env("FLOWCTL_STATE_DIR", self.state())
            .env("NO_COLOR", "1")
            .env_remove("FLOWCTL_LOG")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        if let Some(engine) = &self.engine {
            command.env("FLOWCTL_DOCKER_HOST", engine);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the binary, asserts that it ends with 0, and answers what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "flowctl {arguments:?} ended with {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs the binary and asserts its exit code; answers what it printed, both streams.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "flowctl {arguments:?} said\n{said}"
        );
        said
    }

    /// Writes `p.yaml` with these components, applies it, and waits until all is as it says.
    pub fn apply(&self, components: &str) {
        self.save("p.yaml", &pipeline(components));
        self.ok(&["apply", "-f", "p.yaml", "--wait"]);
    }

    /// `status -o json`.
    pub fn status(&self) -> Status {
        Status(serde_json::from_str(&self.ok(&["status", "-o", "json"])).unwrap())
    }

    /// Asks for the status until `holds` says yes. Answers the status that did.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        let mut asked = 0;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            asked += 1;
            assert!(
                begun.elapsed() < PATIENCE,
                "never came true: {what} (asked {asked} times)\n{:#}",
                status.0,
            );
            pause();
        }
    }

    /// Shows what is known of all that happened here, for whoever asks why a test failed.
    fn testify(&self) {
        for asked in [&["status"][..], &["events"], &["logs", "--tail", "10"]] {
            let answer = self.run(asked);
            let said = text(&answer.stdout) + &text(&answer.stderr);
            eprintln!("\nflowctl {}:\n{said}", asked.join(" "));
        }
        let log = self.read("daemon.err") + &self.read("state/daemon.log");
        eprintln!("\nits daemon's log:\n{log}");
    }

    /// kill -9 of the daemon; waits until it is gone.
    pub fn kill_daemon(&self) -> u32 {
        let pid = self.status().daemon_pid();
        kill(pid, "KILL");
        eventually("the daemon is gone", || !is_alive(pid));
        pid
    }

    /// Starts a daemon in the background without applying anything.
    pub fn start_daemon(&self) {
        self.start_daemon_that_logs_to(fs::File::create(self.path("daemon.err")).unwrap());
    }

    /// Starts a daemon in the background whose standard error is `log`.
    pub fn start_daemon_that_logs_to(&self, log: fs::File) {
        let child = self
            .command(&["daemon"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        reap_later(child);
        eventually("a daemon answers", || {
            let output = self.run(&["status", "-o", "json"]);
            let status = serde_json::from_slice(&output.stdout).map(Status);
            status.is_ok_and(|status| status.has_daemon())
        });
    }

    /// Every live process that carries a mark of this world's state directory.
    pub fn marked(&self) -> Vec<u32> {
        let state = self.state();
        let needle = state.as_os_str().as_encoded_bytes();
        let mut pids: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let owns = environ.windows(needle.len()).any(|window| window == needle);
                let component = environ
                    .windows(17)
                    .any(|window| window == b"FLOWCTL_INSTANCE=");
                owns && component && is_alive(*pid)
            })
            .collect();
        pids.sort_unstable();
        pids
    }
}

impl Drop for World {
    /// Takes everything down that the test started, however the test ended.
    fn drop(&mut self) {
        if !self.state().exists() {
            return;
        }
        self.make_writable();
        if let Some(place) = &self.mounted {
            // Best effort: only a tmpfs that a failed test left full needs it.
            Command::new("mount")
                .args(["-o", "remount,rw,size=96m"])
                .arg(place)
                .stderr(Stdio::null())
                .status()
                .ok();
        }
        if std::thread::panicking() {
            self.testify();
        }
        let output = self.run(&["down", "--timeout", "20s"]);
        self.unmount();
        if !output.status.success() && !std::thread::panicking() {
            panic!(
                "down failed: {}{}",
                text(&output.stdout),
                text(&output.stderr)
            );
        }
    }
}

/// A manifest `p` with these components (YAML list items, indented by four) as its sources.
pub fn pipeline(components: &str) -> String {
    format!(
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{ name: p }}\nspec:\n  driver: process\n  \
         defaults: {{ restart: {{ initial_delay: 100ms, jitter: 0 }}, stop: {{ grace_period: 2s }} }}\n  \
         sources:\n{components}"
    )
}

/// A component that runs a shell script, ready after 50 ms.
pub fn shell(id: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!("    - {{ id: {id}, command: [sh, -c, {script}], ready_after: 50ms{more} }}\n")
}

/// A component that just lives.
pub fn sleeper(id: &str, more: &str) -> String {
    shell(id, "exec sleep 100000", more)
}

/// A parsed `status -o json`.
pub struct Status(pub Value);

impl Status {
    /// Whether a daemon answered.
    pub fn has_daemon(&self) -> bool {
        !self.0["daemon"].is_null()
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> u32 {
        u32::try_from(self.0["daemon"]["pid"].as_u64().expect("a daemon")).unwrap()
    }

    /// The only pipeline; null when there is none.
    pub fn pipeline(&self) -> &Value {
        &self.0["pipelines"][0]
    }

    /// Whether the only pipeline is settled.
    pub fn settled(&self) -> bool {
        self.pipeline()["settled"] == true
    }

    /// A component's first replica; null when there is none.
    pub fn replica(&self, component: &str) -> &Value {
        self.replicas(component)
            .first()
            .copied()
            .unwrap_or(&Value::Null)
    }

    /// A component's replicas.
    pub fn replicas(&self, component: &str) -> Vec<&Value> {
        let all = self.pipeline()["components"].as_array();
        all.into_iter()
            .flatten()
            .filter(|c| c["id"] == component)
            .flat_map(|c| c["replicas"].as_array().into_iter().flatten())
            .collect()
    }

    /// The state of a component's first replica.
    pub fn phase(&self, component: &str) -> &str {
        self.replica(component)["phase"]
            .as_str()
            .unwrap_or("absent")
    }

    /// The process id of a component's first replica.
    pub fn pid(&self, component: &str) -> Option<u32> {
        self.replica(component)["pid"]
            .as_u64()
            .map(|pid| u32::try_from(pid).unwrap())
    }

    /// The restarts of a component's first replica.
    pub fn restarts(&self, component: &str) -> u64 {
        self.replica(component)["restarts"].as_u64().unwrap_or(0)
    }

    /// Why a component's first replica is as it is.
    pub fn why(&self, component: &str) -> &str {
        self.replica(component)["why"].as_str().unwrap_or_default()
    }
}

/// Waits until `holds` says yes.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        pause();
    }
}

/// The exit code of a process that ends in time; one that does not is killed, so that nothing of
/// the test stays.
#[track_caller]
pub fn end_of(process: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("the process did not end");
        }
        pause();
    }
}

/// The distance between two looks at a condition.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Sends a signal to one process that the test started, by id.
pub fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    assert!(status.unwrap().success(), "kill -{signal} {pid}");
    if signal == "STOP" {
        // One thread takes the signal, and the others go on until that one has run.
        eventually("every thread of it stands still", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten();
            tasks.flatten().all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit(')')
                    .next()
                    .is_none_or(|rest| rest.trim_start().starts_with(['T', 't', 'Z', 'X']))
            })
        });
    }
}

/// Whether a process lives; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// The parent of a live process; for a program, its shim.
pub fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    fields.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs openssl in `folder`.
pub fn openssl(folder: &std::path::Path, arguments: &str) -> std::process::Output {
    Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Keeps an ended background process from staying a zombie.
pub fn reap_later(mut child: Child) {
    std::thread::spawn(move || child.wait());
}

/// Whether this test may mount file systems; says so loudly when it may not.
pub fn may_mount(test: &str) -> bool {
    let may = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n");
    if !may {
        eprintln!("NOT RUN: {test} needs root to mount a small tmpfs");
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
    }
    may
}

/// Unmounts what is on `place`, whoever still looks at it.
fn run_unmount(place: &std::path::Path) {
    let unmounted = Command::new("umount").arg("-l").arg(place).status();
    assert!(unmounted.unwrap().success(), "umount {}", place.display());
}

/// Runs `mount` on `place`.
fn run_mount(arguments: &[&str], place: &std::path::Path) {
    let mut mount = Command::new("mount");
    let status = mount.args(arguments).arg(place).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

/// What a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
