//! The guardian of one process.
//!
//! **Expected flow.** It claims the instance's file, says so, waits for the driver's word,
//! starts the program, writes what that says into the log, and reaps whatever the program leaves
//! behind. When the program ends it ends the rest of its tree, drains the pipes, records the exit
//! and leaves.
//!
//! **Guarantees.** Without the driver's word it starts nothing. It leaves only when nothing of the
//! tree is left. The program dies with it. It needs no driver once the program runs: orders come as
//! queued signals and are carried out whether or not whoever sent them is still there.
//!
//! **Assumptions.** Forked from the fork server: one thread, all signals blocked, descriptors 0 to
//! 2 on `/dev/null`. It uses no heap, and memory only while there is something to log.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::driver::logs::Budget;

use super::guard::guard;
use super::identity;
use super::output::Log;
use super::record::{Line, StateFile};
use super::sys::{self, Mapping, OneThread, SignalQueue};
use super::wire::{GO, MAX_REQUEST, Reply, Request, Stage};

/// Does once, in the fork server, what libraries do at their first use, so that every shim shares
/// the memory that it touches.
pub(super) fn warm_up() {
    let line = [b'x', b'\n'];
    std::hint::black_box((
        memchr::memchr_iter(b'\n', &line).count(),
        memchr::memrchr(b'\n', &line),
        identity::own_stat(),
        wall_ms(),
    ));
}

/// Guards one instance to its end.
pub(super) fn run(one_thread: &OneThread, control: &OwnedFd) {
    sys::await_children();
    sys::set_name(c"flowctl-shim");
    let answer = |reply: Reply| {
        // A driver that is gone needs no answer: the instance's file tells its successor.
        best_effort(rustix::net::send(
            control,
            &reply.encode(),
            rustix::net::SendFlags::NOSIGNAL,
        ));
    };
    let failed = |stage, error: Errno| {
        answer(Reply::Failed {
            stage,
            errno: error.raw_os_error(),
            at: wall_ms(),
        });
    };
    let session = rustix::process::setsid().map(drop);
    let reaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    if let Err(error) = session.and(reaper) {
        return failed(Stage::Claim, error);
    }
    let mut body = match receive(control) {
        Ok(body) => body,
        Err(error) => return failed(Stage::Claim, error),
    };
    let Some(request) = Request::read(&body) else {
        return failed(Stage::Claim, Errno::BADMSG);
    };
    let state = match claim(&request) {
        Ok((state, reply)) => {
            answer(reply);
            state
        }
        Err(error) => return failed(Stage::Claim, error),
    };
    let mut word = [0];
    if read_all(control, &mut word).is_err() || word != [GO] {
        // Nothing was started, and saying so lets the file be removed without a search.
        best_effort(state.write(&Line::Gone {
            at: wall_ms(),
            killed: 0,
        }));
        return;
    }
    let (signals, child, pipes) = match start(one_thread, &request) {
        Ok(started) => started,
        Err((stage, errno)) => {
            let at = wall_ms();
            best_effort(state.write(&Line::Failed { stage, errno, at }));
            return answer(Reply::Failed { stage, errno, at });
        }
    };
    let at = wall_ms();
    let pid = child.as_raw_nonzero().get().unsigned_abs();
    let ticks = identity::stat(pid).map_or(0, |stat| stat.ticks);
    best_effort(state.write(&Line::Child { pid, ticks, at }));
    answer(Reply::Started { pid, ticks, at });

    // Of the request only these three paths are needed from now on; they are near the start.
    let run = request.incarnation;
    let budget = Budget {
        max_size: request.max_log_size,
        max_files: request.max_log_files,
    };
    let place = |path: &CStr| {
        let start = path.as_ptr() as usize - body.as_ptr() as usize;
        start..start + path.count_bytes() + 1
    };
    let places = [request.logs, request.oom, request.kill].map(place);
    let end = places.iter().map(|place| place.end).max();
    let (kept, mut rest) = body.pages().split_at(end.unwrap_or_default());
    rest.discard_from(0);
    let [Ok(dir), Ok(oom), Ok(kill)] = places.map(|place| CStr::from_bytes_with_nul(&kept[place]))
    else {
        return;
    };
    let log = Log { dir, run, budget };
    guard(child, &signals, &pipes, &state, [oom, kill], log);
}

/// A shim has nobody to tell: what it could not do shows in what its file lacks.
pub(super) fn best_effort<T>(_: Result<T, Errno>) {}

/// Milliseconds since the Unix epoch.
pub(super) fn wall_ms() -> i64 {
    millis(clock_gettime(ClockId::Realtime))
}

/// Milliseconds of a clock that no one sets.
pub(super) fn steady_ms() -> i64 {
    millis(clock_gettime(ClockId::Monotonic))
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

fn read_all(from: &OwnedFd, mut into: &mut [u8]) -> Result<(), Errno> {
    while !into.is_empty() {
        match rustix::io::read(from, &mut *into) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(count) => into = &mut into[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The request that the driver sends first.
pub(super) fn receive(control: &OwnedFd) -> Result<Mapping, Errno> {
    let mut length = [0; 4];
    read_all(control, &mut length)?;
    let length = u32::from_ne_bytes(length) as usize;
    if length > MAX_REQUEST {
        return Err(Errno::TOOBIG);
    }
    let mut body = Mapping::new(length).map_err(|_| Errno::NOMEM)?;
    read_all(control, &mut body)?;
    Ok(body)
}

/// Makes the instance this shim's own.
fn claim(request: &Request<'_>) -> Result<(StateFile, Reply), Errno> {
    let ticks = identity::own_stat().ok_or(Errno::SRCH)?.ticks;
    let pid = rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    let boot_id = request.boot_id.to_str().map_err(|_| Errno::INVAL)?;
    let line = Line::Shim {
        boot_id,
        pid,
        ticks,
    };
    Ok((
        StateFile::claim(request.file, &line)?,
        Reply::Ready { pid, ticks },
    ))
}

type Started = (SignalQueue, Pid, [OwnedFd; 2]);

/// Starts the program; answers its pid and the read ends of its output.
fn start(one_thread: &OneThread, request: &Request<'_>) -> Result<Started, (Stage, i32)> {
    let failed = |error: Errno| (Stage::Spawn, error.raw_os_error());
    let refused = |error: std::io::Error| (Stage::Spawn, error.raw_os_error().unwrap_or_default());
    let program = &request.program;
    let signals = SignalQueue::open().map_err(refused)?;
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    for end in [&stdout_end, &stderr_end] {
        sys::hand_over(end.as_fd(), program.credentials.as_ref()).map_err(refused)?;
    }
    let pid = sys::spawn(one_thread, program, stdout_end.as_fd(), stderr_end.as_fd())?;
    let pid = Pid::from_raw(pid).ok_or((Stage::Spawn, Errno::SRCH.raw_os_error()))?;
    for pipe in [&stdout, &stderr] {
        rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(failed)?;
    }
    Ok((signals, pid, [stdout, stderr]))
}
