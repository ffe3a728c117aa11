//! flowctl as its users run it: the binary, a state directory, a file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flowctl::model::Timestamp;
use serde_json::Value;

use crate::control::Place;
use crate::runner::{Kind, Runner, end, run, run_quietly};
use crate::world::{Component, Home, IN_CONTAINER, PATIENCE, Task, World, now, wall_millis};
use crate::{Result, containers, proc};

/// A daemon in the foreground, and the commands that talk to it.
pub struct Flowctl {
    version: String,
    variables: Vec<(&'static str, String)>,
    round: Option<Round>,
}

struct Round {
    dir: PathBuf,
    daemon: Child,
}

impl Flowctl {
    /// The binary that was built with this bench.
    pub fn new() -> Result<Self> {
        let version = run(Command::new(env!("CARGO_BIN_EXE_flowctl")).arg("--version"))?;
        Ok(Self {
            version: String::from_utf8(version)?.trim().to_owned(),
            variables: Vec::new(),
            round: None,
        })
    }

    /// `flowctl ARGS` on the state directory of this round.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        Ok(command(self.round()?.dir.join("state"), args))
    }

    /// The pipeline's file.
    pub fn file(&self) -> Result<PathBuf> {
        Ok(self.round()?.dir.join("pipeline.yaml"))
    }

    fn round(&self) -> Result<&Round> {
        Ok(self.round.as_ref().ok_or("no round has begun")?)
    }

    /// Puts the file in place by a rename, as editors do; answers when.
    fn save(&self, world: &World, components: &[Component]) -> Result<i64> {
        let file = self.file()?;
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, manifest(world, components))?;
        let handed_over = now();
        std::fs::rename(&fresh, &file)?;
        Ok(handed_over)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = run(&mut self.command(&["status", "-o", "json"])?);
            if let Ok(json) = answer
                && !serde_json::from_slice::<Value>(&json)?["daemon"].is_null()
            {
                return Ok(());
            }
            let round = self.round.as_mut().ok_or("no round has begun")?;
            if let Some(status) = round.daemon.try_wait()? {
                let said = std::fs::read_to_string(round.dir.join("daemon.log"))?;
                return Err(format!("the daemon ended ({status}):\n{said}").into());
            }
            if Instant::now() > deadline {
                return Err("the daemon does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn command(state: PathBuf, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowctl"));
    command
        .args(args)
        .env("FLOWCTL_STATE_DIR", state)
        .env("FLOWCTL_CONTROL_PLANE_PORT", "0")
        // Containers write beside the manifest.
        .env("FLOWCTL_ALLOW_MOUNTS", std::env::temp_dir());
    if let Ok(engine) = std::env::var(containers::HOST) {
        command.env("FLOWCTL_DOCKER_HOST", engine);
    }
    command
}

fn daemon(dir: &std::path::Path, variables: &[(&'static str, String)]) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("daemon.log"))?;
    Ok(command(dir.join("state"), &["daemon"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?)
}

fn manifest(world: &World, components: &[Component]) -> String {
    let offline = components.iter().any(|one| one.home == Home::Offline);
    let network = if offline { "network: none\n  " } else { "" };
    let mut yaml = format!(
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{ name: bench }}\nspec:\n  {network}\
         driver: process\n  defaults:\n    \
         restart: {{ policy: always, initial_delay: 0s, backoff: fixed, jitter: 0 }}\n  sources:\n",
    );
    for component in components {
        // A list of JSON strings is a list of YAML strings.
        let args = Value::from(component.args(&world.log));
        let program = Value::from(world.program.display().to_string());
        let Component { id, task, home, .. } = component;
        match home {
            Home::Process => writeln!(yaml, "    - {{ id: {id}, binary: {program}, args: {args}"),
            Home::Container | Home::Offline => {
                let command = Value::from(world.command_in_container(component));
                let dir = Value::from(world.dir().display().to_string());
                writeln!(
                    yaml,
                    "    - {{ id: {id}, driver: docker, image: \"{}\", command: {command}\n        \
                     , volumes: [{{ host_path: {dir}, container_path: {IN_CONTAINER} }}]",
                    containers::IMAGE
                )
            }
        }
        .expect("a string takes all");
        match task {
            Task::Sleep | Task::Spew(_) => {}
            Task::Serve(port) | Task::ServeLate(port) => writeln!(
                yaml,
                "        , probes: {{ readiness: {{ http: {{ path: /, port: {port} }} }} }}"
            )
            .expect("a string takes all"),
            Task::SpewToKeep(_) => {
                yaml.push_str("        , logs: { max_size: 512Mi, max_files: 5 }\n")
            }
            Task::Crash => {
                yaml.push_str("        , restart: { initial_delay: 1s, backoff: exponential }\n");
            }
        }
        yaml.push_str("      }\n");
    }
    yaml
}

impl Runner for Flowctl {
    fn name(&self) -> String {
        self.version.clone()
    }

    fn kind(&self) -> Kind {
        Kind::Flowctl
    }

    fn fresh(&mut self, world: &mut World) -> Result<()> {
        self.down()?;
        let dir = world.next_round()?;
        let daemon = daemon(&dir, &self.variables)?;
        self.round = Some(Round { dir, daemon });
        self.wait_until_it_answers()
    }

    fn apply(&mut self, world: &World, components: &[Component]) -> Result<i64> {
        self.save(world, components)?;
        let file = self.file()?.display().to_string();
        let handed_over = now();
        run(&mut self.command(&["apply", "-f", &file, "--no-wait"])?)?;
        Ok(handed_over)
    }

    fn edit(&mut self, world: &World, components: &[Component], _changed: usize) -> Result<i64> {
        self.save(world, components)
    }

    fn status(&self) -> Result<()> {
        run_quietly(&mut self.command(&["status"])?)
    }

    fn running(&self) -> Result<Vec<u32>> {
        let json = run(&mut self.command(&["status", "-o", "json"])?)?;
        let status: Value = serde_json::from_slice(&json)?;
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut pids = Vec::new();
        for pipeline in list(&status, "pipelines") {
            for component in list(&pipeline, "components") {
                for replica in list(&component, "replicas") {
                    if replica["phase"] == "running" {
                        pids.extend(
                            replica["pid"]
                                .as_u64()
                                .and_then(|pid| u32::try_from(pid).ok()),
                        );
                    }
                }
            }
        }
        Ok(pids)
    }

    fn supervisor(&self) -> Result<u32> {
        Ok(self.round()?.daemon.id())
    }

    fn before_the_kill(&mut self) -> Result<()> {
        Ok(())
    }

    fn revive(&mut self) -> Result<()> {
        let round = self.round.as_mut().ok_or("no round has begun")?;
        round.daemon.wait()?;
        round.daemon = daemon(&round.dir, &self.variables)?;
        Ok(())
    }

    fn output(&self, component: &str) -> Result<Vec<u8>> {
        run(&mut self.command(&["logs", component])?)
    }

    fn control_plane(&self) -> Result<Place> {
        let json = run(&mut self.command(&["status", "-o", "json"])?)?;
        let status: Value = serde_json::from_slice(&json)?;
        let address = status["daemon"]["control_plane"].as_str();
        Ok(Place {
            address: address.ok_or("it has no control plane")?.to_owned(),
            store: self.round()?.dir.join("state/store"),
        })
    }

    fn tail(&self, component: &str, lines: u32) -> Result<()> {
        run_quietly(&mut self.command(&["logs", component, "--tail", &lines.to_string()])?)
    }

    fn set(&mut self, variables: Vec<(&'static str, String)>) -> Result<()> {
        self.variables = variables;
        Ok(())
    }

    fn scrape(&self) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.round()?.dir.join("state/flowctl.sock"))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: flowctl\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.filter(|_| answer.starts_with(b"HTTP/1.1 200 "));
        Ok(answer.split_off(end.ok_or("it is not scraped")? + 4))
    }

    fn ready_at(&self) -> Result<i64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (clock, wall) = (now(), wall_millis());
            let line = run(&mut self.command(&["events", "-o", "json", "--tail", "1"])?)?;
            let event: Value = serde_json::from_slice(&line)?;
            if event["kind"] == "ready" {
                let at: Timestamp = serde_json::from_value(event["at"].clone())?;
                let ago = wall - at.as_millis();
                return Ok(clock - ago * 1_000_000);
            }
            if Instant::now() > deadline {
                return Err("it never became ready".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn down(&mut self) -> Result<()> {
        if self.round.is_none() {
            return Ok(());
        }
        let answer = run(&mut self.command(&["down"])?);
        if let Some(round) = self.round.take() {
            if answer.is_err() {
                proc::kill(round.daemon.id());
            }
            end(round.daemon)?;
            std::fs::remove_dir_all(&round.dir)?;
        }
        answer.map(|_| ())
    }
}

impl Drop for Flowctl {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("flowctl did not end in order: {error}");
        }
    }
}
