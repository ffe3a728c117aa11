//! The long part of a shim's life: its program runs.
//!
//! One loop waits for output, for children that end and for orders, and sleeps otherwise. Until
//! the program is reaped its number is held, and so is its group's: killing by number is safe only
//! here.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpgid, getpgrp, kill_process,
    kill_process_group, wait, waitid,
};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::driver::OutputStream;

use super::cgroup;
use super::descendants;
use super::record::{Ended, Line, StateFile};
use super::shim::{best_effort, millis, wall_ms};
use super::sink::{self, OUTPUT, PIECE, Piece, Sink};
use super::sys::{self, Mapping, Received, SignalQueue};
use super::wire::StopOrder;

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

/// Milliseconds of a clock that no one sets.
fn steady_ms() -> i64 {
    millis(clock_gettime(ClockId::Monotonic))
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

/// Guards the program to its end and that of all it forked; does not return from there.
pub(super) fn guard(
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
    // Whoever waits for our end waits for nothing more.
    sys::exit_now(0);
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
