//! A real Docker Engine, as a person at its socket sees it, with the images of this build.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::stage::ALL;

/// The engine that `tests/run` starts.
const HOST: &str = "FLOWCTL_TEST_DOCKER_HOST";
/// Set where a test without an engine is a failure.
const NEEDED: &str = "FLOWCTL_TESTS_NEED_DOCKER";
/// The tag of this build's images.
pub const TAG: &str = "tests";
/// The tag of another build of the processor's.
pub const OTHER_TAG: &str = "tests-2";

/// An engine.
pub struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// The engine of all tests, which has the images; `None`, said loudly, when there is none.
    pub fn shared(test: &str) -> Option<Self> {
        let Ok(host) = std::env::var(HOST) else {
            assert!(
                std::env::var_os(NEEDED).is_none(),
                "{test} needs a Docker Engine and {HOST} is not set; tests/run starts one"
            );
            eprintln!("SKIPPED: {test} needs a Docker Engine; run tests/run, or set {HOST}");
            return None;
        };
        let socket = host.strip_prefix("unix://").expect("a unix socket").into();
        let engine = Self { socket };
        engine.make_images();
        Some(engine)
    }

    /// What `DOCKER_HOST` is for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Makes images of the programs as these tests were built, once.
    fn make_images(&self) {
        static MADE: OnceLock<()> = OnceLock::new();
        MADE.get_or_init(|| {
            // Those of an earlier build would stay for ever, without a name.
            for tag in [TAG, OTHER_TAG] {
                for program in ALL {
                    let image = format!("token-transfer/{}:{tag}", program.id());
                    self.ask("DELETE", &format!("/images/{image}"));
                }
            }
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build-images.sh");
            let programs = Path::new(env!("CARGO_BIN_EXE_ttp-processor"));
            let mut build = Command::new(script);
            build.args(["--tag", TAG, "--programs"]);
            build.arg(programs.parent().unwrap());
            let built = build.env("DOCKER_HOST", self.host()).output().unwrap();
            let said = String::from_utf8_lossy(&built.stderr);
            assert!(built.status.success(), "build-images.sh: {said}");
        });
    }

    /// Asks the engine; answers the status and the body.
    pub fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        let patience = Duration::from_secs(60);
        stream.set_read_timeout(Some(patience)).unwrap();
        // HTTP/1.0, so that the answer comes whole and the connection ends with it.
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Does something, as a person would.
    pub fn act(&self, method: &str, path: &str) {
        let (code, said) = self.ask(method, path);
        assert!(code < 300, "{method} {path}: {code} {said}");
    }

    /// Whether there is such a container, alive or ended.
    pub fn has(&self, container: &str) -> bool {
        let (code, _) = self.ask("GET", &format!("/containers/{container}/json"));
        code == 200
    }
}
