//! The guardian of one process.
//!
//! **Expected flow.** It claims the instance directory, says so, waits for the driver's word,
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

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpgid, getpgrp, kill_process,
    kill_process_group, wait, waitid,
};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::driver::OutputStream;

use super::cgroup;
use super::descendants;
use super::identity;
use super::record::{Ended, Line, StateFile};
use super::sink::{self, OUTPUT, PIECE, Piece, Sink};
use super::sys::{self, Mapping, Program, Received, SignalQueue};
use super::wire::{GO, MAX_REQUEST, Reply, Request, Stage, StopOrder};

/// Bytes read at once: the usual capacity of a pipe, behind the longest line that is kept whole.
const INPUT: usize = (64 << 10) + PIECE;
/// Memory touched by one batch that is not worth giving back.
const SMALL: usize = 4 << 10;
/// After a burst, memory is given back once the pipes were quiet for so long.
const QUIET_MS: i64 = 50;
/// How often a full log disk is tried again while the program is silent.
const MARKER_RETRY_MS: i64 = 1_000;
/// How soon what survived a kill is killed again; doubles up to [`KILL_RETRY_MAX_MS`].
const KILL_RETRY_MS: i64 = 10;
/// An unkillable process (blocked in the kernel) is looked at this often.
const KILL_RETRY_MAX_MS: i64 = 1_000;

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
pub(super) fn run(control: &OwnedFd) {
    sys::await_children();
    sys::set_name(c"flowctl-shim");
    let answer = |reply: Reply| {
        // A driver that is gone needs no answer: the instance directory tells its successor.
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
        // Nothing was started, and saying so lets the directory be removed without a search.
        best_effort(state.write(&Line::Gone { at: wall_ms() }));
        return;
    }
    let (signals, child, pipes) = match start(&request) {
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

    // Of the request only these two paths are needed from now on; they are near the start.
    let (incarnation, max_size, max_files) = (
        request.incarnation,
        request.max_log_size,
        request.max_log_files,
    );
    let place = |path: &CStr| {
        let start = path.as_ptr() as usize - body.as_ptr() as usize;
        start..start + path.count_bytes() + 1
    };
    let (logs, oom) = (place(request.logs), place(request.oom));
    let (kept, rest) = body.split_at_mut(logs.end.max(oom.end));
    sys::discard(rest);
    let (Ok(dir), Ok(oom)) = (
        CStr::from_bytes_with_nul(&kept[logs]),
        CStr::from_bytes_with_nul(&kept[oom]),
    ) else {
        return;
    };
    let limits = sink::Limits {
        dir,
        incarnation,
        max_size,
        max_files,
    };
    guard(child, &signals, &pipes, &state, oom, limits);
}

/// A shim has nobody to tell: what it could not do shows in what its directory lacks.
fn best_effort<T>(_: Result<T, Errno>) {}

/// Milliseconds since the Unix epoch.
fn wall_ms() -> i64 {
    millis(clock_gettime(ClockId::Realtime))
}

/// Milliseconds of a clock that no one sets.
fn steady_ms() -> i64 {
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

fn receive(control: &OwnedFd) -> Result<Mapping, Errno> {
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
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(request.dir, flags, Mode::empty())?;
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
    Ok((StateFile::claim(&dir, &line)?, Reply::Ready { pid, ticks }))
}

type Started = (SignalQueue, Pid, [OwnedFd; 2]);

/// Starts the program; answers its pid and the read ends of its output.
fn start(request: &Request<'_>) -> Result<Started, (Stage, i32)> {
    let failed = |error: Errno| (Stage::Spawn, error.raw_os_error());
    let signals = SignalQueue::open()
        .map_err(|error| (Stage::Spawn, error.raw_os_error().unwrap_or_default()))?;
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let pid = sys::spawn(&Program {
        candidates: request.candidates,
        argv: request.argv,
        envp: request.envp,
        working_dir: request.working_dir,
        credentials: request.credentials,
        limits: request.limits,
        groups: request.groups,
        stdout: stdout_end.as_fd(),
        stderr: stderr_end.as_fd(),
    })?;
    let pid = Pid::from_raw(pid).ok_or((Stage::Spawn, Errno::SRCH.raw_os_error()))?;
    for pipe in [&stdout, &stderr] {
        rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(failed)?;
    }
    Ok((signals, pid, [stdout, stderr]))
}

/// One output of the program.
struct Pipe<'a> {
    from: Option<&'a OwnedFd>,
    stream: OutputStream,
    input: &'a mut [u8],
    /// Bytes of a line that has not ended yet, at the start of `input`.
    pending: usize,
}

/// What reading a pipe once gave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Some(usize),
    Nothing,
}

impl Pipe<'_> {
    /// Reads once and hands over whole lines, and pieces of those that are too long.
    fn pump(&mut self, sink: &mut Sink<'_>) -> Read {
        let Some(from) = self.from else {
            return Read::Nothing;
        };
        let count = match rustix::io::read(from, &mut self.input[self.pending..]) {
            Ok(count @ 1..) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            Ok(0) | Err(_) => {
                self.from = None;
                self.finish(sink);
                return Read::Nothing;
            }
        };
        let end = self.pending + count;
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', &self.input[self.pending..end]) {
            let newline = self.pending + newline;
            let mut line = &self.input[start..newline];
            while let Some((piece, rest)) = line.split_at_checked(PIECE)
                && !rest.is_empty()
            {
                sink.record(self.stream, Piece::Part, piece);
                line = rest;
            }
            sink.record(self.stream, Piece::Last, line);
            start = newline + 1;
        }
        while end - start > PIECE {
            let piece = &self.input[start..start + PIECE];
            sink.record(self.stream, Piece::Part, piece);
            start += PIECE;
        }
        self.input.copy_within(start..end, 0);
        self.pending = end - start;
        Read::Some(count)
    }

    /// Ends a last line without newline.
    fn finish(&mut self, sink: &mut Sink<'_>) {
        if self.pending > 0 {
            sink.record(self.stream, Piece::Last, &self.input[..self.pending]);
            self.pending = 0;
        }
    }
}

/// How far the end of the tree is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// Nothing is to end.
    Alive,
    /// A stop was ordered; at this time, of the steady clock, everything is killed.
    Stopping { signal: u8, deadline: i64 },
    /// What is left is killed; again at this time.
    Killing { again: i64, wait: i64 },
    /// Nothing is left.
    Gone,
}

struct Guard<'a> {
    child: Pid,
    state: &'a StateFile,
    /// The file that counts kills for want of memory; empty = there is none.
    oom: &'a CStr,
    tree: Tree,
    /// Whether the program itself has ended and was reaped.
    reaped: bool,
    /// Whether anything was reaped since the last kill: its children are ours now.
    inherited: bool,
}

fn guard(
    child: Pid,
    signals: &SignalQueue,
    pipes: &[OwnedFd; 2],
    state: &StateFile,
    oom: &CStr,
    limits: sink::Limits<'_>,
) {
    let Ok(mut memory) = Mapping::new(2 * INPUT + OUTPUT) else {
        return;
    };
    let (stdout, rest) = memory.split_at_mut(INPUT);
    let (stderr, output) = rest.split_at_mut(INPUT);
    let mut sink = Sink::new(limits, output);
    let mut pipes = [
        (&pipes[0], OutputStream::Stdout, stdout),
        (&pipes[1], OutputStream::Stderr, stderr),
    ]
    .map(|(from, stream, input)| Pipe {
        from: Some(from),
        stream,
        input,
        pending: 0,
    });
    let mut guard = Guard {
        child,
        state,
        oom,
        tree: Tree::Alive,
        reaped: false,
        inherited: false,
    };
    // The program may have ended before the queue was first looked at.
    guard.reap();
    let mut burst = 0;
    while guard.tree != Tree::Gone {
        let timeout = guard
            .timeout()
            .into_iter()
            .chain((burst > SMALL).then_some(QUIET_MS))
            .chain(sink.owes_marker().then_some(MARKER_RETRY_MS))
            .min();
        match wait_for(signals, &pipes, timeout) {
            Woken::Signal => guard.receive(signals),
            Woken::Output => {}
            Woken::Timeout => {
                sink.settle();
                give_back(&mut pipes, &mut sink);
                burst = 0;
            }
        }
        sink.set_time(clock_gettime(ClockId::Realtime));
        for pipe in &mut pipes {
            if let Read::Some(count) = pipe.pump(&mut sink) {
                burst = burst.max(count);
            }
        }
        sink.flush();
        guard.step();
    }
    drain(&mut pipes, &mut sink);
    best_effort(state.write(&Line::Gone { at: wall_ms() }));
}

/// What the dead tree wrote is in the pipes, and no more than they hold: a stranger who was handed
/// their other end does not keep the shim.
fn drain(pipes: &mut [Pipe<'_>; 2], sink: &mut Sink<'_>) {
    const LARGEST_PIPE: usize = 1 << 20;
    sink.set_time(clock_gettime(ClockId::Realtime));
    for pipe in pipes {
        let mut left = LARGEST_PIPE;
        while let Read::Some(count) = pipe.pump(sink)
            && left > 0
        {
            left = left.saturating_sub(count);
        }
        pipe.finish(sink);
    }
    sink.settle();
}

fn give_back(pipes: &mut [Pipe<'_>; 2], sink: &mut Sink<'_>) {
    for pipe in pipes {
        sys::discard(&mut pipe.input[pipe.pending..]);
    }
    sys::discard(sink.output());
}

enum Woken {
    Signal,
    Output,
    Timeout,
}

fn wait_for(signals: &SignalQueue, pipes: &[Pipe<'_>; 2], timeout_ms: Option<i64>) -> Woken {
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: ms / 1_000,
        tv_nsec: ms % 1_000 * 1_000_000,
    });
    let signals = signals.descriptor();
    let mut ready = [signals; 3].map(|fd| PollFd::new(fd, PollFlags::IN));
    let mut count = 1;
    for from in pipes.iter().filter_map(|pipe| pipe.from) {
        ready[count] = PollFd::new(from, PollFlags::IN);
        count += 1;
    }
    match poll(&mut ready[..count], timeout.as_ref()) {
        Ok(0) => Woken::Timeout,
        Ok(_) if !ready[0].revents().is_empty() => Woken::Signal,
        Ok(_) | Err(_) => Woken::Output,
    }
}

impl Guard<'_> {
    /// Milliseconds until there is something to do.
    fn timeout(&self) -> Option<i64> {
        let at = match self.tree {
            Tree::Alive | Tree::Gone => return None,
            Tree::Stopping { deadline, .. } => deadline,
            Tree::Killing { again, .. } => again,
        };
        Some((at - steady_ms()).max(0))
    }

    fn receive(&mut self, signals: &SignalQueue) {
        while let Some(received) = signals.next() {
            match received {
                Received::Child => self.reap(),
                Received::Order(payload) => {
                    if let Some(order) = StopOrder::decode(payload) {
                        self.stop(order);
                    }
                }
            }
        }
    }

    /// Signals the program's group, once per kind of signal, and sets the deadline; a later order
    /// can only shorten it.
    fn stop(&mut self, order: StopOrder) {
        let grace = i64::try_from(order.grace_ms).unwrap_or(i64::MAX);
        let deadline = steady_ms().saturating_add(grace);
        let (repeated, deadline) = match self.tree {
            Tree::Alive => (false, deadline),
            Tree::Stopping {
                signal,
                deadline: known,
            } => (signal == order.signal, deadline.min(known)),
            Tree::Killing { .. } | Tree::Gone => return,
        };
        // Until it is reaped its number is nobody else's.
        if !self.reaped && !repeated {
            sys::signal_group(self.child.as_raw_nonzero().get(), i32::from(order.signal));
            // A stopped process cannot act on a signal.
            best_effort(kill_process_group(self.child, Signal::CONT));
        }
        self.tree = Tree::Stopping {
            signal: order.signal,
            deadline,
        };
    }

    /// Reaps what has ended, and records the end of the program itself.
    fn reap(&mut self) {
        if !self.reaped {
            // A look first, without reaping: while it is unreaped its group can be killed by
            // number. In a stop the others have until the deadline.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let ended = matches!(waitid(WaitId::Pid(self.child), options), Ok(Some(_)));
            if ended && self.tree == Tree::Alive {
                best_effort(kill_process_group(self.child, Signal::KILL));
            }
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.inherited = true;
                    if pid != self.child {
                        continue;
                    }
                    self.reaped = true;
                    let status = match status.exit_status() {
                        Some(code) => Ended::Code(code),
                        None => Ended::Signal(status.terminating_signal().unwrap_or_default()),
                    };
                    best_effort(self.state.write(&Line::Exit {
                        status,
                        oom: status == Ended::Signal(9)
                            && !self.oom.is_empty()
                            && cgroup::was_out_of_memory(self.oom),
                        at: wall_ms(),
                    }));
                }
                Ok(None) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.tree = Tree::Gone;
                    return;
                }
            }
        }
        if self.reaped && self.tree == Tree::Alive {
            self.kill(KILL_RETRY_MS);
        }
    }

    /// Does what is due by now.
    fn step(&mut self) {
        let now = steady_ms();
        match self.tree {
            Tree::Alive | Tree::Gone => {}
            Tree::Stopping { deadline, .. } => {
                if now >= deadline {
                    self.kill(KILL_RETRY_MS);
                }
            }
            Tree::Killing { again, wait } => {
                if self.inherited {
                    self.kill(KILL_RETRY_MS);
                } else if now >= again {
                    self.reap();
                    if self.tree != Tree::Gone {
                        self.kill((wait * 2).min(KILL_RETRY_MAX_MS));
                    }
                }
            }
        }
    }

    /// Kills everything that has this shim as its parent. What those leave behind becomes ours in
    /// turn, and is killed as they are reaped.
    fn kill(&mut self, wait: i64) {
        self.inherited = false;
        let own = getpgrp();
        descendants::for_each_child(|child| {
            // The number of a child that only we can reap, and of its group, is not re-used.
            if let Ok(group) = getpgid(Some(child))
                && group != own
            {
                best_effort(kill_process_group(group, Signal::KILL));
            }
            best_effort(kill_process(child, Signal::KILL));
        });
        self.tree = Tree::Killing {
            again: steady_ms() + wait,
            wait,
        };
    }
}
