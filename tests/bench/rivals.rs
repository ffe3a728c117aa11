//! PM2 and supervisord, installed below `target/` and run as their manuals say.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::runner::{Kind, Runner, end, run, run_quietly};
use crate::world::{Component, PATIENCE, World, now};
use crate::{Result, proc};

const PM2_VERSION: &str = "7.0.4";
const SUPERVISOR_VERSION: &str = "4.3.0";

/// Where they are installed: kept between runs, gone with `cargo clean`.
fn cellar() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("rivals")
}

/// PM2 of the npm registry, with its daemon.
pub struct Pm2 {
    program: PathBuf,
    dir: Option<PathBuf>,
}

impl Pm2 {
    /// Installs it when it is not there yet.
    pub fn installed() -> Result<Self> {
        let folder = cellar().join(format!("pm2-{PM2_VERSION}"));
        let program = folder.join("node_modules/.bin/pm2");
        if !program.exists() {
            std::fs::create_dir_all(&folder)?;
            eprintln!("installing pm2 {PM2_VERSION}");
            run(Command::new("npm")
                .args([
                    "install",
                    "--no-save",
                    "--no-audit",
                    "--no-fund",
                    "--prefix",
                ])
                .arg(&folder)
                .arg(format!("pm2@{PM2_VERSION}")))?;
        }
        Ok(Self { program, dir: None })
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let dir = self.dir()?;
        let mut command = Command::new(&self.program);
        command.args(args).env("PM2_HOME", dir).current_dir(dir);
        Ok(command)
    }

    fn dir(&self) -> Result<&Path> {
        Ok(self.dir.as_deref().ok_or("no round has begun")?)
    }

    fn save(&self, world: &World, components: &[Component]) -> Result<()> {
        let app = |component: &Component| {
            json!({
                "name": component.id,
                "script": world.program,
                "args": component.args(&world.log),
                "interpreter": "none",
                "exec_mode": "fork",
                "autorestart": true,
                "restart_delay": 0,
                // It gives up after this many quick ends; 100 ms is the least it accepts as quick.
                "max_restarts": 1_000_000,
                "min_uptime": 100,
                "out_file": format!("{}.out", component.id),
                "error_file": "/dev/null",
            })
        };
        let apps: Vec<Value> = components.iter().map(app).collect();
        std::fs::write(
            self.dir()?.join("pipeline.json"),
            json!({ "apps": apps }).to_string(),
        )?;
        Ok(())
    }
}

impl Runner for Pm2 {
    fn name(&self) -> String {
        format!("PM2 {PM2_VERSION}")
    }

    fn kind(&self) -> Kind {
        Kind::Rival
    }

    fn fresh(&mut self, world: &mut World) -> Result<()> {
        self.down()?;
        self.dir = Some(world.next_round()?);
        run_quietly(&mut self.command(&["ping"])?)
    }

    fn apply(&mut self, world: &World, components: &[Component]) -> Result<i64> {
        self.save(world, components)?;
        let handed_over = now();
        run_quietly(&mut self.command(&["start", "pipeline.json"])?)?;
        Ok(handed_over)
    }

    fn edit(&mut self, world: &World, components: &[Component], changed: usize) -> Result<i64> {
        self.save(world, components)?;
        let only = components[changed].id.as_str();
        let handed_over = now();
        run_quietly(&mut self.command(&["start", "pipeline.json", "--only", only])?)?;
        Ok(handed_over)
    }

    fn status(&self) -> Result<()> {
        run_quietly(&mut self.command(&["list"])?)
    }

    fn running(&self) -> Result<Vec<u32>> {
        let said = String::from_utf8(run(&mut self.command(&["jlist"])?)?)?;
        // Notices may come before the list.
        let list = said.find('[').map_or("[]", |start| &said[start..]);
        let apps: Vec<Value> = serde_json::from_str(list)?;
        Ok(apps
            .iter()
            .filter(|app| app["pm2_env"]["status"] == "online")
            .filter_map(|app| u32::try_from(app["pid"].as_u64()?).ok())
            .collect())
    }

    fn supervisor(&self) -> Result<u32> {
        let pid = std::fs::read_to_string(self.dir()?.join("pm2.pid"))?;
        Ok(pid.trim().parse()?)
    }

    fn before_the_kill(&mut self) -> Result<()> {
        run_quietly(&mut self.command(&["save"])?)
    }

    fn revive(&mut self) -> Result<()> {
        run_quietly(&mut self.command(&["resurrect"])?)
    }

    fn output(&self, component: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.dir()?.join(format!("{component}.out")))?)
    }

    fn down(&mut self) -> Result<()> {
        if self.dir.is_none() {
            return Ok(());
        }
        let answer = run_quietly(&mut self.command(&["kill"])?);
        if let Ok(pid) = self.supervisor()
            && proc::lives(pid)
        {
            proc::kill(pid);
        }
        if let Some(dir) = self.dir.take() {
            std::fs::remove_dir_all(dir)?;
        }
        answer
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("PM2 did not end in order: {error}");
        }
    }
}

/// supervisord of PyPI, in the foreground.
pub struct Supervisord {
    bin: PathBuf,
    round: Option<(PathBuf, Option<Child>)>,
}

impl Supervisord {
    /// Installs it when it is not there yet.
    pub fn installed() -> Result<Self> {
        let folder = cellar().join(format!("supervisor-{SUPERVISOR_VERSION}"));
        let bin = folder.join("bin");
        if !bin.join("supervisord").exists() {
            eprintln!("installing supervisor {SUPERVISOR_VERSION}");
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
            run(Command::new(bin.join("pip"))
                .args(["install", "--quiet"])
                .arg(format!("supervisor=={SUPERVISOR_VERSION}")))?;
        }
        Ok(Self { bin, round: None })
    }

    fn dir(&self) -> Result<&Path> {
        Ok(&self.round.as_ref().ok_or("no round has begun")?.0)
    }

    fn control(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.bin.join("supervisorctl"));
        command
            .arg("-c")
            .arg(self.dir()?.join("supervisord.conf"))
            .args(args)
            .current_dir(self.dir()?);
        Ok(command)
    }

    fn save(&self, world: &World, components: &[Component]) -> Result<()> {
        let mut text = String::from(
            "[supervisord]\nnodaemon=true\nminfds=8192\npidfile=%(here)s/pid\n\
             logfile=%(here)s/supervisord.log\nchildlogdir=%(here)s\n\
             [unix_http_server]\nfile=%(here)s/sock\n\
             [supervisorctl]\nserverurl=unix://%(here)s/sock\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        );
        for component in components {
            write!(
                text,
                "[program:{id}]\ncommand={program} {args}\nautorestart=true\nstartsecs=0\n\
                 startretries=1000000\nredirect_stderr=true\nstdout_logfile=%(here)s/{id}.out\n",
                id = component.id,
                program = world.program.display(),
                args = component.args(&world.log).join(" "),
            )?;
        }
        std::fs::write(self.dir()?.join("supervisord.conf"), text)?;
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let (dir, daemon) = self.round.as_mut().ok_or("no round has begun")?;
        let log = File::create(dir.join("out"))?;
        *daemon = Some(
            Command::new(self.bin.join("supervisord"))
                .arg("-c")
                .arg(dir.join("supervisord.conf"))
                .current_dir(dir)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?,
        );
        Ok(())
    }
}

impl Runner for Supervisord {
    fn name(&self) -> String {
        format!("supervisord {SUPERVISOR_VERSION}")
    }

    fn kind(&self) -> Kind {
        Kind::Rival
    }

    /// Its daemon is started with its components, since that is how it is used.
    fn fresh(&mut self, world: &mut World) -> Result<()> {
        self.down()?;
        self.round = Some((world.next_round()?, None));
        Ok(())
    }

    fn apply(&mut self, world: &World, components: &[Component]) -> Result<i64> {
        self.save(world, components)?;
        let handed_over = now();
        self.start()?;
        Ok(handed_over)
    }

    fn edit(&mut self, world: &World, components: &[Component], _changed: usize) -> Result<i64> {
        self.save(world, components)?;
        let handed_over = now();
        run_quietly(&mut self.control(&["update"])?)?;
        Ok(handed_over)
    }

    fn status(&self) -> Result<()> {
        run_quietly(&mut self.control(&["status"])?)
    }

    fn running(&self) -> Result<Vec<u32>> {
        let said = String::from_utf8(run(&mut self.control(&["status"])?)?)?;
        let pid = |line: &str| {
            let (_, rest) = line.split_once("RUNNING   pid ")?;
            rest.split(',').next()?.parse().ok()
        };
        Ok(said.lines().filter_map(pid).collect())
    }

    fn supervisor(&self) -> Result<u32> {
        let (_, daemon) = self.round.as_ref().ok_or("no round has begun")?;
        Ok(daemon.as_ref().ok_or("it was not started")?.id())
    }

    fn before_the_kill(&mut self) -> Result<()> {
        Ok(())
    }

    fn revive(&mut self) -> Result<()> {
        if let Some((_, Some(daemon))) = &mut self.round {
            daemon.wait()?;
        }
        self.start()
    }

    fn output(&self, component: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.dir()?.join(format!("{component}.out")))?)
    }

    fn down(&mut self) -> Result<()> {
        let answer = match &self.round {
            None => return Ok(()),
            Some((_, None)) => Ok(()),
            Some((_, Some(_))) => {
                // It may still be on its way up and not answer yet.
                let deadline = Instant::now() + PATIENCE / 10;
                let mut answer = run(&mut self.control(&["shutdown"])?);
                while answer.is_err() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(100));
                    answer = run(&mut self.control(&["shutdown"])?);
                }
                answer.map(|_| ())
            }
        };
        if let Some((dir, daemon)) = self.round.take() {
            if let Some(daemon) = daemon {
                end(daemon)?;
            }
            std::fs::remove_dir_all(dir)?;
        }
        answer
    }
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("supervisord did not end in order: {error}");
        }
    }
}
