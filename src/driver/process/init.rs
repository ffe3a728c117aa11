//! Process 1 of a container, or of a pid namespace: what every orphan there is handed to.
//!
//! **Expected flow.** [`split`] forks before any thread is started. The new process goes on as the
//! program that was asked for. Process 1 stays behind with nothing to do but to reap whoever ends, to
//! pass signals on, and to end as the program does; with it ends all that is left in the namespace.
//! That keeps the two apart: what the program waits for is its own children alone.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, wait};

use super::sys::{self, AllSignals, Forked, OneThread};

/// How long others may go on when the program has ended.
const READERS: Duration = Duration::from_millis(300);

/// Which of the two this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// It goes on as the program.
    Program,
    /// It was process 1 until the program ended, with this exit code.
    Ended(u8),
}

/// Becomes two where this process is number 1. Call it before any thread is started.
///
/// # Errors
/// When no process can be made, or no signal received.
pub fn split() -> io::Result<Split> {
    if getpid() != Pid::INIT {
        return Ok(Split::Program);
    }
    let one_thread = OneThread::here().ok_or(io::ErrorKind::ResourceBusy)?;
    sys::block_signals(&one_thread);
    let signals = AllSignals::open()?;
    match sys::fork_child(&one_thread)? {
        Forked::Child => {
            drop(signals);
            sys::unblock_signals();
            Ok(Split::Program)
        }
        Forked::Parent { child } => {
            sys::set_name(c"flowctl-init");
            Ok(Split::Ended(serve(&signals, child)))
        }
    }
}

/// Is process 1 until `program` has ended; answers its exit code.
fn serve(signals: &AllSignals, program: Pid) -> u8 {
    loop {
        if let Some(code) = reap(program) {
            wait_for_readers();
            return code;
        }
        let Some(signal) = signals.wait() else {
            continue;
        };
        if signal.number != libc::SIGCHLD && !is_told_by_terminal(&signal) {
            sys::signal_process(program.as_raw_nonzero().get(), signal.number);
        }
    }
}

/// With this process all others of the namespace are killed. Whoever asked the program to end may
/// still be reading its answer.
fn wait_for_readers() {
    let begun = Instant::now();
    while begun.elapsed() < READERS && !is_alone() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether there is no other process. Where that cannot be seen there is nobody to wait for.
fn is_alone() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return true;
    };
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    numbers.filter(|number| *number != 1).count() == 0
}

/// What a terminal sends, it sends to the whole group that is in front: the program has it already.
fn is_told_by_terminal(signal: &sys::Signalled) -> bool {
    let keys = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGWINCH];
    signal.is_from_kernel && keys.contains(&signal.number)
}

/// Reaps all that have ended; answers the exit code of `program` once that is among them.
fn reap(program: Pid) -> Option<u8> {
    let mut ended = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program => {
                // As a shell tells of an end by a signal.
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                ended = Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return ended,
        }
    }
}
