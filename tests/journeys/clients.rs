//! The clients of the field in Go and Python, as the journeys use them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use crate::engine::Engine;
use crate::support::{Status, text};

/// The folder of the clients, made once by their own tools.
fn clients() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        let made = Command::new(root.join("tests/clients/setup"))
            .arg(&folder)
            .output()
            .unwrap();
        let said = text(&made.stdout) + &text(&made.stderr);
        assert!(made.status.success(), "tests/clients/setup failed: {said}");
        folder
    })
}

/// The image of the Go client, and that of the Python clients; at the paths of this host.
pub const IMAGES: [&str; 2] = ["flowctl-test/client:1", "flowctl-test/python:1"];

/// Puts the images on `engine`.
pub fn make_images(engine: &Engine) {
    let host = engine.host();
    let socket = host.strip_prefix("unix://").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/images");
    let made = Command::new(script)
        .arg(clients())
        .arg(socket)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
}

/// A component that runs one of the clients, with a health port of its own.
pub fn component(id: &str, command: &[&str], health_port: u16, env: &str) -> String {
    let command = serde_json::to_string(command).unwrap();
    format!(
        "    - {{ id: {id}, command: {command}, health_check: /health, health_port: {health_port},\n\
         \x20       env: {{ FLOWCTL_HEARTBEAT_INTERVAL: 200ms{env} }} }}\n"
    )
}

/// The Go client.
pub fn client() -> String {
    clients().join("bin/client").to_str().unwrap().to_owned()
}

/// A Python client.
pub fn python(script: &str) -> [String; 2] {
    let of = |path: &str| clients().join(path).to_str().unwrap().to_owned();
    [of("venv/bin/python"), of(&format!("python/{script}"))]
}

/// Calls `method` of the control plane at `address` as a Python client does, with `variables` of
/// `call.py`. Answers whether it was taken, and what was said.
pub fn call(
    address: &str,
    method: &str,
    request: &Value,
    variables: &[(&str, &str)],
) -> (bool, Value) {
    let [python, script] = python("call.py");
    let mut command = Command::new(python);
    command
        .args([&script, address, method, &request.to_string()])
        .envs(variables.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let answer = serde_json::from_slice(&stdout);
    let answer = answer.unwrap_or_else(|_| panic!("{method}: {}", text(&stderr)));
    (status.success(), answer)
}

/// What `status` shows of a component's registration.
pub fn registration<'a>(status: &'a Status, component: &str) -> &'a Value {
    &status.replica(component)["registration"]
}

/// Whether every one of these has sent a heartbeat later than `since`.
pub fn beat_since(status: &Status, components: &[&str], since: &str) -> bool {
    components.iter().all(|component| {
        registration(status, component)["last_heartbeat"]
            .as_str()
            .is_some_and(|at| at > since)
    })
}

/// Clients that flowctl did not start.
pub struct Swarm(pub Child);

impl Drop for Swarm {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
