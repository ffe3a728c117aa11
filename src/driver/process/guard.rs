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
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpgid, getpgrp, getpid, kill_process,
    kill_process_group, wait, waitid,
};
use rustix::time::Timespec;

use crate::model::StopTarget;

use super::cgroup;
use super::descendants;
use super::identity;
use super::output::{Log, MEMORY, Output};
use super::record::{Ended, Line, StateFile};
use super::shim::{best_effort, steady_ms, wall_ms};
use super::sys::{self, Mapping, Received, SignalQueue};
use super::wire::StopOrder;

/// How soon what survived a kill is killed again; doubles up to [`KILL_RETRY_MAX_MS`].
const KILL_RETRY_MS: i64 = 10;
/// An unkillable process (blocked in the kernel) is looked at this often.
const KILL_RETRY_MAX_MS: i64 = 1_000;

/// How far the end of the tree is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// Nothing is to end.
    Alive,
    /// A stop was ordered; at this time, of the steady clock, everything is killed.
    Stopping { order: StopOrder, deadline: i64 },
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
    /// The file that kills all of its control group; empty = there is none.
    kill_group: &'a CStr,
    tree: Tree,
    /// Whether the program itself has ended and was reaped.
    reaped: bool,
    /// Whether anything was reaped since the last kill: its children are ours now.
    inherited: bool,
    /// Processes that did not end within the grace period of a stop.
    killed: u32,
}

/// Guards the program to its end and that of all it forked; does not return from there.
pub(super) fn guard(
    child: Pid,
    signals: &SignalQueue,
    pipes: &[OwnedFd; 2],
    state: &StateFile,
    [oom, kill_group]: [&CStr; 2],
    log: Log<'_>,
) {
    let Ok(mut memory) = Mapping::new(MEMORY) else {
        return;
    };
    let mut output = Output::new(pipes, &log, memory.pages());
    let mut guard = Guard {
        child,
        state,
        oom,
        kill_group,
        tree: Tree::Alive,
        reaped: false,
        inherited: false,
        killed: 0,
    };
    // The program may have ended before the queue was first looked at.
    guard.reap();
    while guard.tree != Tree::Gone {
        let timeout = guard.timeout().into_iter().chain(output.timeout()).min();
        match wait_for(signals, &output, timeout) {
            Woken::Signal => guard.receive(signals),
            Woken::Output => {}
            Woken::Timeout => output.rest(),
        }
        output.pump();
        guard.step();
    }
    output.finish();
    best_effort(state.write(&Line::Gone {
        at: wall_ms(),
        killed: guard.killed,
    }));
    // Whoever waits for our end waits for nothing more.
    sys::exit_now(0);
}

enum Woken {
    Signal,
    Output,
    Timeout,
}

fn wait_for(signals: &SignalQueue, output: &Output<'_>, timeout_ms: Option<i64>) -> Woken {
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: ms / 1_000,
        tv_nsec: ms % 1_000 * 1_000_000,
    });
    let signals = signals.descriptor();
    let mut ready = [signals; 3].map(|fd| PollFd::new(fd, PollFlags::IN));
    let mut count = 1;
    for from in output.open_pipes() {
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

    /// Asks the tree to end, once with each signal, and sets the deadline; a later order can only
    /// shorten it.
    fn stop(&mut self, order: StopOrder) {
        let grace = i64::try_from(order.grace_ms).unwrap_or(i64::MAX);
        let deadline = steady_ms().saturating_add(grace);
        let (repeated, deadline) = match self.tree {
            Tree::Alive => (false, deadline),
            Tree::Stopping {
                order: earlier,
                deadline: known,
            } => (earlier.signal == order.signal, deadline.min(known)),
            Tree::Killing { .. } | Tree::Gone => return,
        };
        if !repeated {
            self.ask(order.signal, order.to);
        }
        self.tree = Tree::Stopping { order, deadline };
    }

    /// Sends `signal`, and wakes whoever is stopped: they could not act on it.
    fn ask(&self, signal: u8, to: StopTarget) {
        let main = self.child.as_raw_nonzero().get();
        for signal in [i32::from(signal), libc::SIGCONT] {
            // Until it is reaped its number is nobody else's.
            match to {
                StopTarget::Main if !self.reaped => sys::signal_process(main, signal),
                StopTarget::Main => {}
                StopTarget::Group | StopTarget::All => {
                    if !self.reaped {
                        sys::signal_group(main, signal);
                    }
                }
            }
            if to == StopTarget::All {
                self.ask_others(signal);
            }
        }
    }

    /// Sends `signal` to whatever the program forked that is not in its group any more.
    fn ask_others(&self, signal: i32) {
        let own = getpid();
        descendants::for_each_descendant(own, |pid, parent| {
            let is_asked = !self.reaped && getpgid(Some(pid)) == Ok(self.child);
            if !is_asked {
                // One that has ended meanwhile is what is wanted.
                descendants::signal_child(pid, parent, own, signal);
            }
        });
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
                        all_asked: sys::is_pending(Signal::TERM),
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
        if !self.reaped {
            return;
        }
        match self.tree {
            Tree::Alive => self.kill(KILL_RETRY_MS),
            // Whatever it did not end itself is asked before it is killed.
            Tree::Stopping { order, deadline } if order.to != StopTarget::All => {
                let order = StopOrder {
                    to: StopTarget::All,
                    ..order
                };
                self.ask(order.signal, order.to);
                self.tree = Tree::Stopping { order, deadline };
            }
            Tree::Stopping { .. } | Tree::Killing { .. } | Tree::Gone => {}
        }
    }

    /// Does what is due by now.
    fn step(&mut self) {
        let now = steady_ms();
        match self.tree {
            Tree::Alive | Tree::Gone => {}
            Tree::Stopping { order, deadline } => {
                if now >= deadline {
                    // Whoever orders a kill gives no grace that could be over.
                    if order.grace_ms > 0 && i32::from(order.signal) != libc::SIGKILL {
                        self.killed = self.count();
                    }
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

    /// How many processes are left.
    fn count(&self) -> u32 {
        let mut count = 0;
        descendants::for_each_descendant(getpid(), |pid, _| {
            let stat = identity::stat(pid.as_raw_nonzero().get().unsigned_abs());
            count += u32::from(stat.is_some_and(|stat| !stat.is_dead));
        });
        count
    }

    /// Kills everything that has this shim as its parent. What those leave behind becomes ours in
    /// turn, and is killed as they are reaped.
    fn kill(&mut self, wait: i64) {
        self.inherited = false;
        if !self.kill_group.is_empty() {
            // At once, so that nothing forks away from it.
            best_effort(cgroup::kill_all(self.kill_group));
        }
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
