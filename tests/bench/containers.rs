//! Containers: flowctl beside the same calls of the engine and nothing else, and beside Compose.
//!
//! **What the bare calls are.** The bodies of the containers are read back from those that flowctl
//! made, so that both ask for the same; what is left out is everything that is not needed to have
//! the container: looks at what is there, labels to find it by, records, copies of its output.
//!
//! **Whose engine.** The one that `FLOWCTL_TEST_DOCKER_HOST` names, with the image of
//! `tests/engine`. Without one the rows say that they were not measured.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, KillContainerOptions, ListContainersOptions,
    RemoveContainerOptions, StartContainerOptions, WaitContainerOptions,
};
use flowctl::clock::Clock;
use flowctl::driver::Conduct;
use flowctl::driver::docker::{DockerConfig, DockerDriver, Endpoint, Privileged};
use flowctl::driver::{Driver, Scope};
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::runner::{Runner, run};
use crate::table::Cell;
use crate::world::{Component, Home, IN_CONTAINER, World, millis, now, sleepers};
use crate::{Effort, Result};

/// Names the engine, as for the tests.
pub const HOST: &str = "FLOWCTL_TEST_DOCKER_HOST";
/// What every container is made of; `tests/engine` makes it.
pub const IMAGE: &str = "flowctl-test/busybox:1";
/// Says whose a container is.
const OWNER: &str = "dev.flowctl.owner";
/// The network of containers that flowctl did not make.
const NETWORK: &str = "flowctl-bench";
/// Containers of the rows that compare.
const COUNT: usize = 30;

/// An engine that answers.
struct Engine {
    runtime: Runtime,
    client: Docker,
    host: String,
}

impl Engine {
    /// The engine of the bench, or why there is none.
    fn reach() -> Result<Self> {
        let host = std::env::var(HOST).map_err(|_| {
            format!("{HOST} is not set; `tests/engine start FOLDER` starts an engine and prints it")
        })?;
        let runtime = Runtime::new()?;
        let path = host.strip_prefix("unix://").ok_or("not a unix socket")?;
        let client = {
            let _inside = runtime.enter();
            Docker::connect_with_unix(path, 60, bollard::API_DEFAULT_VERSION)?
        };
        runtime
            .block_on(client.inspect_image(IMAGE))
            .map_err(|error| format!("no image {IMAGE} on the engine at {host}: {error}"))?;
        Ok(Self {
            runtime,
            client,
            host,
        })
    }

    fn inspect(&self, name: &str) -> Result<ContainerInspectResponse> {
        let options = None::<InspectContainerOptions>;
        let inspected = self.client.inspect_container(name, options);
        Ok(self.runtime.block_on(inspected)?)
    }

    /// What flowctl asked for when it made the container of `component`.
    fn body(&self, world: &World, component: &Component) -> Result<ContainerCreateBody> {
        let inspected = self.inspect(&component.id)?;
        let mut body: ContainerCreateBody =
            serde_json::from_value(serde_json::to_value(&inspected.config)?)?;
        body.hostname = None;
        // The daemon that runs meanwhile would take it for one of its own.
        if let Some(owner) = body.labels.as_mut().and_then(|all| all.get_mut(OWNER)) {
            *owner = owner.chars().rev().collect();
        }
        body.cmd = Some(world.command_in_container(component));
        let mut host = inspected.host_config.unwrap_or_default();
        host.network_mode = Some(NETWORK.to_owned());
        // Its own folder of tokens goes with it.
        for mount in host.mounts.iter_mut().flatten() {
            mount.source = Some(world.dir().display().to_string());
        }
        body.host_config = Some(host);
        let endpoint = json!({ NETWORK: { "Aliases": [component.id] } });
        body.networking_config = Some(serde_json::from_value(
            json!({ "EndpointsConfig": endpoint }),
        )?);
        Ok(body)
    }

    /// The same as flowctl's containers of `components`, with the log of this round.
    fn bares(&self, world: &World, components: &[Component]) -> Result<Bares<'_>> {
        let bare = |component: &Component| {
            Ok(Bare {
                name: format!("bare-{}", component.id),
                body: self.body(world, component)?,
            })
        };
        Ok(Bares {
            engine: self,
            all: components.iter().map(bare).collect::<Result<_>>()?,
        })
    }

    /// Network and containers, all at once. Answers when it began.
    fn start(&self, all: &[Bare]) -> Result<i64> {
        let handed_over = now();
        self.runtime.block_on(async {
            let network = NetworkCreateRequest {
                name: NETWORK.to_owned(),
                ..NetworkCreateRequest::default()
            };
            self.client.create_network(network).await?;
            try_join_all(all.iter().map(|one| self.make(one))).await
        })?;
        Ok(handed_over)
    }

    async fn make(&self, one: &Bare) -> std::result::Result<(), bollard::errors::Error> {
        let options = CreateContainerOptions {
            name: Some(one.name.clone()),
            ..CreateContainerOptions::default()
        };
        let created = self
            .client
            .create_container(Some(options), one.body.clone())
            .await?;
        let start = None::<StartContainerOptions>;
        self.client.start_container(&created.id, start).await?;
        let look = None::<InspectContainerOptions>;
        self.client.inspect_container(&created.id, look).await?;
        Ok(())
    }

    /// Ends one and makes another of its name. Answers when it began.
    fn replace(&self, one: &Bare) -> Result<i64> {
        let handed_over = now();
        self.runtime.block_on(async {
            let term = KillContainerOptions {
                signal: "TERM".to_owned(),
            };
            self.client.kill_container(&one.name, Some(term)).await?;
            let wait = None::<WaitContainerOptions>;
            let mut end = Box::pin(self.client.wait_container(&one.name, wait));
            // A code other than 0 is an error to the client, and an end all the same.
            drop(end.next().await);
            self.remove(&one.name).await?;
            self.make(one).await
        })?;
        Ok(handed_over)
    }

    async fn remove(&self, name: &str) -> std::result::Result<(), bollard::errors::Error> {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            link: false,
        };
        self.client.remove_container(name, Some(options)).await
    }

    /// Lists what carries `owner`'s mark.
    fn list(&self, owner: &str) -> Result<()> {
        let marked = vec![format!("{OWNER}={owner}")];
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), marked)].into()),
            ..ListContainersOptions::default()
        };
        let listed = self.client.list_containers(Some(options));
        self.runtime.block_on(listed)?;
        Ok(())
    }
}

/// Containers that flowctl has no part in. They are gone with this, however the row ended.
struct Bares<'a> {
    engine: &'a Engine,
    all: Vec<Bare>,
}

impl Drop for Bares<'_> {
    fn drop(&mut self) {
        let Engine {
            runtime, client, ..
        } = self.engine;
        let removals = self.all.iter().map(|one| self.engine.remove(&one.name));
        for removed in runtime.block_on(join_all(removals)) {
            if let Err(error) = removed {
                eprintln!("  a container is left: {error}");
            }
        }
        if let Err(error) = runtime.block_on(client.remove_network(NETWORK)) {
            eprintln!("  a network is left: {error}");
        }
    }
}

/// One of them.
struct Bare {
    name: String,
    body: ContainerCreateBody,
}

/// Docker Compose, as a plugin or by itself.
struct Compose<'a> {
    engine: &'a Engine,
    words: Vec<&'static str>,
    file: PathBuf,
}

impl<'a> Compose<'a> {
    /// `None` where it is not installed.
    fn find(engine: &'a Engine, world: &World) -> Option<Self> {
        let known = [vec!["docker", "compose"], vec!["docker-compose"]];
        let words = known.into_iter().find(|words| {
            let mut version = Command::new(words[0]);
            let version = version.args(&words[1..]).arg("version");
            version.output().is_ok_and(|output| output.status.success())
        })?;
        Some(Self {
            engine,
            words,
            file: world.dir().join("compose.json"),
        })
    }

    fn name(&self) -> Result<String> {
        let version = run(Command::new(self.words[0])
            .args(&self.words[1..])
            .args(["version", "--short"]))?;
        let version = String::from_utf8_lossy(&version);
        Ok(format!("{} {}", self.words.join(" "), version.trim()))
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(self.words[0]);
        command
            .args(&self.words[1..])
            .args(["--project-name", NETWORK, "--file"])
            .arg(&self.file)
            .args(args)
            .env("DOCKER_HOST", &self.engine.host);
        run(&mut command).map(drop)
    }

    /// Has these run. Answers when its command began.
    fn up(&self, world: &World, components: &[Component]) -> Result<i64> {
        let service = |component: &Component| {
            let service = json!({
                "image": IMAGE,
                "command": world.command_in_container(component),
                "volumes": [format!("{}:{IN_CONTAINER}", world.dir().display())],
                "init": true,
                "security_opt": ["no-new-privileges"],
                "pids_limit": 1024,
            });
            (component.id.clone(), service)
        };
        let services: serde_json::Map<String, Value> = components.iter().map(service).collect();
        let document = json!({ "services": services });
        std::fs::write(&self.file, document.to_string())?;
        let handed_over = now();
        self.run(&["up", "--detach"])?;
        Ok(handed_over)
    }

    fn down(&self) -> Result<()> {
        self.run(&["down", "--timeout", "1"])
    }
}

/// Containers whose names are of this run alone.
fn boxed(count: usize, home: Home) -> Vec<Component> {
    let mut all = sleepers(count);
    for component in &mut all {
        component.id = format!("bench-{}-{}", std::process::id(), component.id);
        component.home = home;
    }
    all
}

/// The figures of a row that could not be had, and why, also on standard error at once.
fn not_measured(title: String, why: &dyn std::fmt::Display) -> Vec<Cell> {
    eprintln!("  NOT MEASURED: {why}");
    let mut cell = Cell::new(title, "ms", None);
    cell.remark(format!("not measured: {why}"));
    vec![cell]
}

/// How much more one figure is than another, in percent.
fn more(ours: f64, bare: f64) -> f64 {
    (ours / bare - 1.0) * 100.0
}

fn compose_cell(compose: Option<&Compose<'_>>, what: &str) -> Result<Cell> {
    match compose {
        Some(compose) => Ok(Cell::new(
            format!("  {what} of {}", compose.name()?),
            "ms",
            None,
        )),
        None => {
            eprintln!("  docker compose is not installed, so it is not measured");
            let mut cell = Cell::new(format!("  {what} of docker compose"), "ms", None);
            cell.remark("docker compose is not installed".into());
            Ok(cell)
        }
    }
}

/// When the last of so many said that it started.
fn last_of(world: &mut World, count: usize) -> Result<i64> {
    let beats = world.wait_for(count)?;
    Ok(beats.iter().map(|beat| beat.at).max().unwrap_or_default())
}

/// 30 containers from nothing.
pub fn start(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let title = format!("{COUNT} containers from nothing to running");
    let engine = match Engine::reach() {
        Ok(engine) => engine,
        Err(why) => return Ok(not_measured(title, &why)),
    };
    let compose = Compose::find(&engine, world);
    let mut ours = Cell::new(title, "ms", None);
    let mut bare = Cell::new("  the same calls of the engine alone", "ms", None);
    let mut over = Cell::new("  more than those", "%", Some("10"));
    let mut theirs = compose_cell(compose.as_ref(), "up")?;
    let components = boxed(COUNT, Home::Container);
    for _ in 0..effort.rounds(10, 2) {
        runner.fresh(world)?;
        let handed_over = runner.apply(world, &components)?;
        let with = millis(handed_over, last_of(world, COUNT)?);
        ours.add(with);
        let bares = engine.bares(world, &components)?;
        runner.down()?;

        let handed_over = engine.start(&bares.all)?;
        let without = millis(handed_over, last_of(world, COUNT)?);
        bare.add(without);
        over.add(more(with, without));
        drop(bares);

        if let Some(compose) = &compose {
            let handed_over = compose.up(world, &components)?;
            theirs.add(millis(handed_over, last_of(world, COUNT)?));
            compose.down()?;
        }
    }
    Ok(vec![ours, bare, over, theirs])
}

/// One of 30 containers is edited.
pub fn edit(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let title = format!("one of {COUNT} containers edited until it runs");
    let engine = match Engine::reach() {
        Ok(engine) => engine,
        Err(why) => return Ok(not_measured(title, &why)),
    };
    let compose = Compose::find(&engine, world);
    let mut ours = Cell::new(title, "ms", None);
    let mut others = Cell::new("  other containers restarted by that", "", Some("0"));
    let mut bare = Cell::new("  the same calls of the engine alone (edit)", "ms", None);
    let mut over = Cell::new("  more than those (edit)", "%", Some("10"));
    let mut theirs = compose_cell(compose.as_ref(), "an edit")?;
    let mut components = boxed(COUNT, Home::Container);
    runner.fresh(world)?;
    runner.apply(world, &components)?;
    world.wait_for(COUNT)?;
    let mut bares = engine.bares(world, &components)?;
    engine.start(&bares.all)?;
    world.wait_for(COUNT)?;
    if let Some(compose) = &compose {
        compose.up(world, &components)?;
        world.wait_for(COUNT)?;
    }
    for round in 0..effort.rounds(30, 5) {
        let changed = (round * 11 + 5) % COUNT;
        components[changed].tag += 1;
        let handed_over = runner.edit(world, &components, changed)?;
        let with = millis(handed_over, last_of(world, 1)?);
        ours.add(with);
        // Time for what should not happen, and for what follows a start.
        std::thread::sleep(Duration::from_millis(1_500));
        others.add(world.beats()?.len() as f64);

        bares.all[changed].body.cmd = Some(world.command_in_container(&components[changed]));
        let handed_over = engine.replace(&bares.all[changed])?;
        let without = millis(handed_over, last_of(world, 1)?);
        bare.add(without);
        over.add(more(with, without));

        if let Some(compose) = &compose {
            let handed_over = compose.up(world, &components)?;
            theirs.add(millis(handed_over, last_of(world, 1)?));
        }
    }
    if let Some(compose) = &compose {
        compose.down()?;
    }
    Ok(vec![ours, others, bare, over, theirs])
}

/// A full look at 300 containers, as the daemon takes one every 10 s.
pub fn resync(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let count = match effort {
        Effort::Full => 300,
        Effort::Quick => 30,
    };
    let title = format!("a full look at {count} running containers");
    let engine = match Engine::reach() {
        Ok(engine) => engine,
        Err(why) => return Ok(not_measured(title, &why)),
    };
    let mut again = Cell::new(title, "ms", Some("30"));
    let mut first = Cell::new("  the first one of a daemon", "ms", None);
    let mut bare = Cell::new("  the engine's own list of them", "ms", None);
    let components = boxed(count, Home::Offline);
    runner.fresh(world)?;
    runner.apply(world, &components)?;
    world.wait_for(count)?;
    // What follows a start has to be over.
    std::thread::sleep(Duration::from_secs(15));
    let owner = engine.inspect(&components[0].id)?.config;
    let owner = owner.and_then(|config| config.labels?.remove(OWNER));
    let owner = owner.ok_or("no mark on a container of flowctl")?;
    let config = DockerConfig {
        endpoint: Endpoint::discover(Some(&engine.host), &|_| None)?,
        state_dir: world.dir().join("looks"),
        owner: owner.clone(),
        privileged: Privileged::Refused,
        allowed_mounts: vec![std::env::temp_dir()],
        conduct: Conduct::OnlyLooks,
        gate: std::sync::Arc::new(flowctl::images::Gate::open()),
    };
    let _inside = engine.runtime.enter();
    let driver = DockerDriver::new(config, Clock::new());
    let look = || -> Result<f64> {
        let begun = now();
        let seen = engine
            .runtime
            .block_on(driver.observe(&Scope::All))?
            .sightings;
        if seen.len() != count {
            return Err(format!("{} of {count} containers were seen", seen.len()).into());
        }
        Ok(millis(begun, now()))
    };
    first.add(look()?);
    // Its copies of their output have to be on their way.
    std::thread::sleep(Duration::from_secs(5));
    for _ in 0..effort.rounds(100, 20) {
        again.add(look()?);
        let begun = now();
        engine.list(&owner)?;
        bare.add(millis(begun, now()));
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(vec![again, first, bare])
}
