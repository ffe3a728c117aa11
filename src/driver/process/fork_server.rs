//! Where shims come from: a small process with one thread that forks them without executing.
//!
//! A process with threads cannot fork safely, and executing a large program for each shim costs
//! three times as much as forking a small one. So the driver starts this program once more as a
//! fork server, and passes it one socket per shim.
//!
//! **Guarantees.** It ends when the driver's end of its socket is closed, however that happens;
//! shims live on, since each has a session of its own. One that died is started anew.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::time::{ClockId, clock_gettime};

use super::attendant;
use super::shim;
use super::sys::{self, Fork, OneThread};
use super::wire::{Reply, Stage};

/// The hidden verb by which `main` knows that it is to be the fork server.
pub const FORK_SERVER_VERB: &str = "__fork-server";

/// The process that shims are forked from.
pub struct ForkServer {
    program: PathBuf,
    arguments: Vec<String>,
    /// The control group that all shims are forked in.
    group: OnceLock<PathBuf>,
    running: Mutex<Option<Running>>,
}

struct Running {
    process: Child,
    socket: UnixStream,
    /// Whether it was moved to the group.
    is_placed: bool,
}

impl ForkServer {
    /// Starts this very program as a fork server, by [`FORK_SERVER_VERB`]. Its file may be replaced
    /// meanwhile: the running one is used.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn start() -> io::Result<Self> {
        let verb = vec![FORK_SERVER_VERB.to_owned()];
        Self::start_with("/proc/self/exe".into(), verb)
    }

    /// Starts `program` with `arguments`; it must call [`run_fork_server`] before it starts any
    /// thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(program: PathBuf, arguments: Vec<String>) -> io::Result<Self> {
        let server = Self {
            program,
            arguments,
            group: OnceLock::new(),
            running: Mutex::new(None),
        };
        let running = server.spawn()?;
        *server.lock() = Some(running);
        Ok(server)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> io::Result<Running> {
        let (socket, theirs) = UnixStream::pair()?;
        let process = Command::new(&self.program)
            .arg0("flowctl")
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Running {
            process,
            socket,
            is_placed: false,
        })
    }

    /// Forks all shims from now on in this control group. The first of them waits for
    /// [`Self::place`].
    pub(super) fn fork_in(&self, group: PathBuf) {
        // Only its driver says so, and once.
        self.group.set(group).ok();
    }

    /// Moves the process to its group. The kernel takes some milliseconds for that, so it is best
    /// done before somebody waits for a shim.
    pub(super) fn place(&self) {
        if let (Some(running), Some(group)) = (&mut *self.lock(), self.group.get()) {
            running.enter(group);
        }
    }

    /// The fork server's pid.
    pub(super) fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(|running| running.process.id())
    }

    /// Asks for a shim that speaks on `control`. The shim, not this call, tells what comes of it.
    ///
    /// # Errors
    /// When there is no fork server and none can be started.
    pub(super) fn launch(&self, duty: Duty, control: BorrowedFd<'_>) -> io::Result<()> {
        let mut running = self.lock();
        if let Some(server) = &mut *running {
            if let Some(group) = self.group.get() {
                server.enter(group);
            }
            if send(&server.socket, duty, control).is_ok() {
                return Ok(());
            }
        }
        if let Some(mut dead) = running.take() {
            drop(dead.socket);
            dead.process.wait()?;
        }
        let mut server = self.spawn()?;
        if let Some(group) = self.group.get() {
            server.enter(group);
        }
        send(&server.socket, duty, control)?;
        *running = Some(server);
        Ok(())
    }
}

impl Running {
    /// Moves the process to `group`, once. Without, what clears its environment is still found as long
    /// as the fork server lives.
    fn enter(&mut self, group: &Path) {
        if std::mem::replace(&mut self.is_placed, true) {
            return;
        }
        let joined = std::fs::create_dir_all(group).and_then(|()| {
            let pid = self.process.id().to_string();
            std::fs::write(group.join("cgroup.procs"), pid)
        });
        if let Err(error) = joined {
            tracing::warn!(group = %group.display(), %error, "cannot be joined");
        }
    }
}

impl ForkServer {
    /// Ends the process. Shims live on.
    pub(super) fn end(&self) {
        if let Some(mut server) = self.lock().take() {
            drop(server.socket);
            // It ends at once, having nothing to do; the wait only avoids a zombie.
            if let Err(error) = server.process.wait() {
                tracing::debug!(%error, "fork server could not be reaped");
            }
        }
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a shim is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Duty {
    /// To guard an instance, whoever is there to see it.
    Instance = 1,
    /// To run a program beside an instance, for as long as somebody waits for it.
    Exec = 2,
}

impl Duty {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Instance),
            2 => Some(Self::Exec),
            _ => None,
        }
    }
}

fn send(socket: &UnixStream, duty: Duty, control: BorrowedFd<'_>) -> io::Result<()> {
    let passed = [control];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&passed));
    let byte = [duty as u8];
    let byte = [IoSlice::new(&byte)];
    loop {
        match sendmsg(socket, &byte, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Is the fork server until the driver is gone. `main` calls it for [`FORK_SERVER_VERB`], before
/// any thread is started.
pub fn run_fork_server() {
    let one_thread = OneThread::here().expect("main starts no thread before it calls this");
    serve(&one_thread);
}

/// Forks for the driver at the other end of standard input, until that is gone.
pub(super) fn serve(one_thread: &OneThread) {
    sys::close_from(3);
    sys::block_signals(one_thread);
    sys::default_signals();
    sys::set_name(c"flowctl-forks");
    sys::forget_the_caller();
    // Its shims hold what their programs were given, and orders reach them by signals.
    sys::hide_from_peers();
    // A session of its own keeps the terminal's signals away; one that has it already is as good.
    // The root directory pins no mount.
    if rustix::process::setsid().is_err() || rustix::process::chdir(c"/").is_err() {
        tracing::trace!("the fork server keeps its session or directory");
    }
    // What a dead shim has left becomes ours, and so is known for that. The kernel reaps it.
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::trace!(%error, "what dead shims leave is not kept together");
    }
    shim::warm_up();
    let socket = std::io::stdin();
    while let Some((duty, control)) = receive(socket.as_fd()) {
        match sys::fork(one_thread) {
            Ok(Fork::Parent) => {}
            Ok(Fork::Child) => {
                // Descriptor 0 was the server's socket: the shim must not keep it open.
                sys::empty_stdin();
                match duty {
                    Duty::Instance => shim::run(one_thread, &control),
                    Duty::Exec => attendant::run(one_thread, &control),
                }
                sys::exit_now(0);
            }
            Err(error) => {
                let failed = Reply::Failed {
                    stage: Stage::Shim,
                    errno: error.raw_os_error().unwrap_or_default(),
                    at: clock_gettime(ClockId::Realtime).tv_sec * 1_000,
                };
                // The driver sees the closed socket if this does not reach it.
                if rustix::net::send(&control, &failed.encode(), SendFlags::NOSIGNAL).is_err() {
                    continue;
                }
            }
        }
    }
}

/// The next socket, and what for; `None` when the driver is gone.
fn receive(socket: BorrowedFd<'_>) -> Option<(Duty, OwnedFd)> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut buffers = [IoSliceMut::new(&mut byte)];
        match recvmsg(
            socket,
            &mut buffers,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) if message.bytes == 0 => return None,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut passed) = message
                && let Some(control) = passed.next()
                && let Some(duty) = Duty::from_number(byte[0])
            {
                return Some((duty, control));
            }
        }
    }
}
