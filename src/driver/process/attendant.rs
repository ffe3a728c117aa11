//! A shim that runs one program beside an instance, as an exec probe is.
//!
//! **Expected flow.** It reads the request, starts the program, reads what that writes, and when it
//! ends answers how and what. Then it ends whatever the program left behind, and leaves.
//!
//! **Guarantees.** The program is made by the same call as that of an instance, from a request of the
//! same form, so it finds the same around it. Nothing of it outlives the interest in it: when the
//! other end of the socket is closed, or the shim dies, all of it is killed.
//!
//! **Assumptions.** Those of [`super::shim`].

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpgid, getpgrp, kill_process,
    kill_process_group, wait, waitid,
};

use super::descendants;
use super::identity;
use super::shim::{best_effort, receive, wall_ms};
use super::sys::{self, OneThread, SignalQueue};
use super::wire::{Program, Ran, Reply, Stage};

/// Attends to one program to its end.
pub(super) fn run(one_thread: &OneThread, control: &OwnedFd) {
    sys::await_children();
    sys::set_name(c"flowctl-exec");
    // Whoever asked and is gone needs no answer.
    let answer = |bytes: &[u8]| best_effort(send(control, bytes, SendFlags::NOSIGNAL));
    let failed = |stage, errno| {
        let at = wall_ms();
        answer(&Reply::Failed { stage, errno, at }.encode());
    };
    let session = rustix::process::setsid().map(drop);
    let reaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let body = match session.and(reaper).and_then(|()| receive(control)) {
        Ok(body) => body,
        Err(error) => return failed(Stage::Claim, error.raw_os_error()),
    };
    let Some(program) = Program::read(&body) else {
        return failed(Stage::Claim, Errno::BADMSG.raw_os_error());
    };
    let (signals, leader, output) = match start(one_thread, &program) {
        Ok(started) => started,
        Err((stage, errno)) => return failed(stage, errno),
    };
    let pid = leader.as_raw_nonzero().get().unsigned_abs();
    answer(
        &Reply::Started {
            pid,
            ticks: identity::stat(pid).map_or(0, |stat| stat.ticks),
            at: wall_ms(),
        }
        .encode(),
    );
    let mut kept = Kept::default();
    let ended = attend(leader, control, &signals, &output, &mut kept);
    // While the leader is not reaped its number, and that of its group, is nobody else's.
    best_effort(kill_process_group(leader, Signal::KILL));
    if let Ended::ByItself(status) = ended {
        while kept.len < Ran::OUTPUT && kept.read(&output) {}
        let told = Ran {
            status,
            output: u32::try_from(kept.len).unwrap_or(0),
        };
        answer(&told.encode());
        answer(&kept.bytes[..kept.len]);
    }
    clear(&signals);
}

/// Starts the program; answers its pid and the read end of all that it writes: one pipe, so that
/// the order is kept.
fn start(
    one_thread: &OneThread,
    program: &Program<'_>,
) -> Result<(SignalQueue, Pid, OwnedFd), (Stage, i32)> {
    let failed = |error: Errno| (Stage::Spawn, error.raw_os_error());
    let refused = |error: std::io::Error| (Stage::Spawn, error.raw_os_error().unwrap_or_default());
    let signals = SignalQueue::open().map_err(refused)?;
    let (output, end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    sys::hand_over(end.as_fd(), program.credentials.as_ref()).map_err(refused)?;
    let pid = sys::spawn(one_thread, program, end.as_fd(), end.as_fd())?;
    let pid = Pid::from_raw(pid).ok_or((Stage::Spawn, Errno::SRCH.raw_os_error()))?;
    rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK).map_err(failed)?;
    Ok((signals, pid, output))
}

/// The beginning of what the program wrote.
struct Kept {
    bytes: [u8; Ran::OUTPUT],
    len: usize,
    is_open: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            bytes: [0; Ran::OUTPUT],
            len: 0,
            is_open: true,
        }
    }
}

impl Kept {
    /// Reads once, and keeps what there is room for; answers whether it may be tried again.
    fn read(&mut self, output: &OwnedFd) -> bool {
        let mut rest = [0; Ran::OUTPUT];
        let room = Ran::OUTPUT - self.len;
        match rustix::io::read(output, &mut rest) {
            Ok(0) => self.is_open = false,
            Ok(count) => {
                let count = count.min(room);
                self.bytes[self.len..self.len + count].copy_from_slice(&rest[..count]);
                self.len += count;
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(_) => {}
        }
        false
    }
}

/// How it came to an end.
enum Ended {
    /// With this status, as [`Ran`] tells it. Its leader is not reaped yet.
    ByItself(i32),
    /// Nobody waits for it any more.
    Unwanted,
}

/// Waits until the program itself ends, not for what it forked: that may hold its output open.
fn attend(
    leader: Pid,
    control: &OwnedFd,
    signals: &SignalQueue,
    output: &OwnedFd,
    kept: &mut Kept,
) -> Ended {
    loop {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Ok(Some(status)) = waitid(WaitId::Pid(leader), look) {
            let signal = status.terminating_signal().map(|signal| -signal);
            return Ended::ByItself(status.exit_status().or(signal).unwrap_or(0));
        }
        // Others that ended meanwhile are reaped at the end.
        let mut ready = [
            PollFd::new(control, PollFlags::IN),
            PollFd::new(signals.descriptor(), PollFlags::IN),
            PollFd::new(output, PollFlags::IN),
        ];
        let count = if kept.is_open { 3 } else { 2 };
        if poll(&mut ready[..count], None).is_err() {
            continue;
        }
        let [of_control, _, of_output] = ready.map(|it| it.revents());
        // It says nothing more, so that it is readable means that it is closed.
        if !of_control.is_empty() {
            return Ended::Unwanted;
        }
        while signals.next().is_some() {}
        if !of_output.is_empty() {
            kept.read(output);
        }
    }
}

/// Kills and reaps until nothing is left.
fn clear(signals: &SignalQueue) {
    let own = getpgrp();
    loop {
        descendants::for_each_child(|child| {
            // The number of a child that only we can reap, and of its group, is not re-used.
            if let Ok(group) = getpgid(Some(child))
                && group != own
            {
                best_effort(kill_process_group(group, Signal::KILL));
            }
            best_effort(kill_process(child, Signal::KILL));
        });
        // What a reaped one leaves behind becomes ours, and is killed in the next round.
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        while signals.next().is_some() {}
    }
}
