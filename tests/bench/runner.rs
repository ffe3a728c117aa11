//! What is compared: anything that can keep components running.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::control::Place;
use crate::world::{Component, PATIENCE, World};
use crate::{Result, flowctl, limit, rivals};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one that is measured.
    Flowctl,
    /// No supervisor at all.
    Limit,
    /// PM2 or supervisord.
    Rival,
}

/// Something that keeps components running.
pub trait Runner {
    /// Name and version.
    fn name(&self) -> String;

    fn kind(&self) -> Kind;

    /// Gets ready for a new round, with nothing running and nothing remembered.
    fn fresh(&mut self, world: &mut World) -> Result<()>;

    /// Has exactly these components run. Answers when the change was handed over, as
    /// [`crate::world::now`]: before its command, or before its file was put in place.
    fn apply(&mut self, world: &World, components: &[Component]) -> Result<i64>;

    /// As `apply`, by the way that a person changes one of many.
    fn edit(&mut self, world: &World, components: &[Component], changed: usize) -> Result<i64>;

    /// Runs its `status` command to the end.
    fn status(&self) -> Result<()>;

    /// The pids of the components that it says are running.
    fn running(&self) -> Result<Vec<u32>>;

    /// The supervisor's process.
    fn supervisor(&self) -> Result<u32>;

    /// What a careful person does beforehand so that a killed supervisor can come back.
    fn before_the_kill(&mut self) -> Result<()>;

    /// Starts the supervisor again after it was killed.
    fn revive(&mut self) -> Result<()>;

    /// What is kept of a component's output; at least its end.
    fn output(&self, component: &str) -> Result<Vec<u8>>;

    /// Where components find its control plane.
    fn control_plane(&self) -> Result<Place> {
        Err("it has no control plane".into())
    }

    /// Prints the last lines of a component's output, and drops them.
    fn tail(&self, _component: &str, _lines: u32) -> Result<()> {
        Err("it takes no part in this row".into())
    }

    /// Sets variables of supervisors that are begun from now on.
    fn set(&mut self, _variables: Vec<(&'static str, String)>) -> Result<()> {
        Err("it takes no part in this row".into())
    }

    /// What a scraper of metrics is sent.
    fn scrape(&self) -> Result<Vec<u8>> {
        Err("it takes no part in this row".into())
    }

    /// When the only component became ready, as [`crate::world::now`], to the millisecond.
    fn ready_at(&self) -> Result<i64> {
        Err("it takes no part in this row".into())
    }

    /// Ends everything of it.
    fn down(&mut self) -> Result<()>;
}

/// flowctl and the limit, and the rivals when they are wanted.
pub fn all(with_rivals: bool) -> Result<Vec<Box<dyn Runner>>> {
    let mut all: Vec<Box<dyn Runner>> = vec![
        Box::new(flowctl::Flowctl::new()?),
        Box::new(limit::Limit::default()),
    ];
    if with_rivals {
        all.push(Box::new(rivals::Pm2::installed()?));
        all.push(Box::new(rivals::Supervisord::installed()?));
    }
    Ok(all)
}

/// Runs a command to its end; a failure carries what it printed.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let end = said.trim_end().lines().rev().take(5).collect::<Vec<_>>();
    let end = end.into_iter().rev().collect::<Vec<_>>().join("\n  ");
    Err(format!("{command:?}: {}\n  {end}", output.status).into())
}

/// Runs a command to its end and drops what it prints, as a reader who is faster than it.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {status}").into())
    }
}

/// Waits for the end of a process that was asked to end; one that does not is killed.
pub fn end(mut child: Child) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err("it was asked to end, did not, and was killed".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
