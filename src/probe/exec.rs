//! Exec probes: a program that exits with 0.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::model::{InstanceId, Signal};

use super::connect::{broken, exhausted};
use super::{AskError, Ending, ExecPlace, ExecSite, FindPlace, Trouble, Which};

/// So much output is kept; the rest is read and dropped, so that the program never blocks on it.
const OUTPUT_LIMIT: usize = 4 << 10;
/// So much of its first line is shown.
const LINE_LIMIT: usize = 120;

/// Passes when the program exits with 0. Cancelling kills its whole process group; so does its
/// end, since what it left behind would pile up with every ask. `asked` is false while nothing of
/// the component has been asked yet.
pub(super) async fn run(
    command: &[String],
    site: &ExecSite,
    asked: &AtomicBool,
) -> Result<(), Trouble> {
    let place = match &site.which {
        Which::Here { find, found } => place(&site.instance, find, found).await?,
        Which::Inside(inside) => {
            asked.store(false, Ordering::Relaxed);
            let begun = inside.begin(&site.instance, command).await;
            let ending = begun.map_err(|why| AskError::NoPlace { why })?;
            asked.store(true, Ordering::Relaxed);
            return judge(ending).await;
        }
    };
    let Some((program, args)) = command.split_first() else {
        return Err(Trouble::component("its command is empty"));
    };
    let (reader, writer) = io::pipe().map_err(|error| exhausted(&error))?;
    let mut output = Output::new(reader)?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(&place.env)
        .current_dir(&place.working_dir)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(|error| exhausted(&error))?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true);
    if let Some(who) = place.run_as {
        command.uid(who.uid).gid(who.gid);
    }
    let spawned = command.spawn();
    // Our own copies of the pipe's writing end live in the command.
    drop(command);
    let mut child = spawned.map_err(|error| not_started(program, &error))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let leader = pid.and_then(Pid::from_raw).ok_or_else(unfollowed_reaped)?;
    // Declared after the child, so dropped before it: the group is killed while its number is
    // still taken by the unreaped leader.
    let group = Group { leader };
    output.follow(group.ended()).await?;
    drop(group);
    let status = child.wait().await.map_err(|error| unfollowed(&error))?;
    if status.success() {
        return Ok(());
    }
    Err(Trouble::Component(failure(status, &output.kept)))
}

/// What the end of a program inside says of its component.
async fn judge(ending: Ending) -> Result<(), Trouble> {
    let (code, output) = ending.await.map_err(|why| AskError::NoPlace { why })?;
    if code == 0 {
        return Ok(());
    }
    Err(Trouble::Component(told(&format!("exit {code}"), &output)))
}

/// The place; found out once.
async fn place(
    instance: &InstanceId,
    find: &Arc<FindPlace>,
    found: &Arc<OnceLock<ExecPlace>>,
) -> Result<ExecPlace, AskError> {
    if let Some(place) = found.get() {
        return Ok(place.clone());
    }
    let (instance, find, found) = (instance.clone(), Arc::clone(find), Arc::clone(found));
    let finding = move || {
        let place = find(&instance)?;
        Ok(found.get_or_init(|| place).clone())
    };
    match tokio::task::spawn_blocking(finding).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(why)) => Err(AskError::NoPlace { why }),
        Err(_) => Err(AskError::Panicked),
    }
}

/// The process group of a running probe. Dropping kills all of it.
struct Group {
    leader: Pid,
}

impl Group {
    /// Waits until the leader ended, and leaves it unreaped: reaping it would free the number by
    /// which the rest of the group is killed.
    async fn ended(&self) -> Result<(), Trouble> {
        let mut children = signal(SignalKind::child()).map_err(|error| unfollowed(&error))?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match waitid(WaitId::Pid(self.leader), look) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(unfollowed(&error.into())),
            }
            children.recv().await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        match kill_process_group(self.leader, rustix::process::Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => {
                tracing::warn!(pid = self.leader.as_raw_nonzero(), %error, "cannot end a probe's process group");
            }
        }
    }
}

/// Standard output and error, through one pipe so that their order is kept.
struct Output {
    pipe: pipe::Receiver,
    kept: Vec<u8>,
}

impl Output {
    fn new(reader: PipeReader) -> Result<Self, Trouble> {
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader));
        Ok(Self {
            pipe: pipe.map_err(|error| broken(&error))?,
            kept: Vec::new(),
        })
    }

    /// Reads until the program `ended`, not until the pipe did: what it forked may hold that open.
    async fn follow(
        &mut self,
        ended: impl Future<Output = Result<(), Trouble>>,
    ) -> Result<(), Trouble> {
        let mut ended = pin!(ended);
        let mut buffer = [0; OUTPUT_LIMIT];
        let mut open = true;
        loop {
            // The end is only borrowed by its arm, and a read that is dropped has taken nothing.
            tokio::select! {
                biased;
                over = &mut ended => {
                    over?;
                    break;
                }
                read = self.pipe.read(&mut buffer), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(length) => self.keep(&buffer[..length]),
                },
            }
        }
        // What it wrote last may not have been announced yet: ask the kernel itself.
        while self.kept.len() < OUTPUT_LIMIT {
            match rustix::io::read(self.pipe.as_fd(), &mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => self.keep(&buffer[..length]),
            }
        }
        Ok(())
    }

    fn keep(&mut self, read: &[u8]) {
        let room = OUTPUT_LIMIT - self.kept.len();
        self.kept.extend_from_slice(&read[..read.len().min(room)]);
    }
}

fn failure(status: ExitStatus, output: &[u8]) -> String {
    let how = match (status.code(), status.signal().and_then(Signal::from_number)) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by {signal}"),
        (None, None) => status.to_string(),
    };
    told(&how, output)
}

fn told(how: &str, output: &[u8]) -> String {
    match first_line(output) {
        Some(line) => format!("{how}: {line}"),
        None => how.to_owned(),
    }
}

/// The first line that says something, cut, and without what could steer a terminal.
fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let shown = line.trim().chars().filter(|c| !c.is_control());
    Some(shown.take(LINE_LIMIT).collect())
}

fn not_started(program: &str, error: &io::Error) -> Trouble {
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM) => exhausted(error),
        Some(Errno::NOENT) => Trouble::component(format!("{program} not found")),
        Some(_) | None => {
            let why = error.kind();
            Trouble::component(format!("cannot run {program}: {why}"))
        }
    }
}

fn unfollowed(error: &io::Error) -> Trouble {
    AskError::Unfollowed {
        why: error.to_string(),
    }
    .into()
}

fn unfollowed_reaped() -> Trouble {
    AskError::Unfollowed {
        why: "it has no process id".to_owned(),
    }
    .into()
}
