//! Which processes a process has below it. Uses no heap.

use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::identity;
use super::sys;
use super::text::Text;

/// Trees are looked at to this depth; what lies deeper has nobody's attention but that of its own
/// parents, until these end.
const DEPTH: usize = 64;

/// Calls `act` for each child of this process, which has one thread.
pub(super) fn for_each_child(mut act: impl FnMut(Pid)) {
    of_thread(getpid(), getpid(), &mut act);
}

/// Calls `act` for each process below `root`, and its parent. What forks meanwhile may be missed.
pub(super) fn for_each_descendant(root: Pid, mut act: impl FnMut(Pid, Pid)) {
    visit(root, DEPTH, &mut act);
}

/// Sends `signal` to the process `pid` if that is a child of `parent`, or has become one of `heir`;
/// answers whether it is. It cannot reach another process.
pub(super) fn signal_child(pid: Pid, parent: Pid, heir: Pid, signal: i32) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    // Only now is the number held.
    let found = identity::stat(pid.as_raw_nonzero().get().unsigned_abs());
    let is_child = found.is_some_and(|stat| {
        let parents = [parent, heir].map(|one| one.as_raw_nonzero().get());
        !stat.is_dead && parents.contains(&stat.parent)
    });
    is_child && sys::send_signal(&process, signal).is_ok()
}

fn visit(parent: Pid, depth: usize, act: &mut dyn FnMut(Pid, Pid)) {
    if depth == 0 {
        return;
    }
    let number = parent.as_raw_nonzero().get();
    let path = Text::<32>::format(format_args!("/proc/{number}/task"));
    for_each_number(path.as_c_str(), |thread| {
        of_thread(parent, thread, &mut |child| {
            act(child, parent);
            visit(child, depth - 1, act);
        });
    });
}

/// Calls `act` for each child that `thread` of `process` has.
fn of_thread(process: Pid, thread: Pid, act: &mut dyn FnMut(Pid)) {
    let (number, thread) = (process.as_raw_nonzero(), thread.as_raw_nonzero());
    let path = Text::<64>::format(format_args!("/proc/{number}/task/{thread}/children"));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let list = match rustix::fs::open(path.as_c_str(), flags, Mode::empty()) {
        Ok(list) => list,
        // Kernels built without the list leave the long way, which finds the children of all threads.
        Err(_) if number == thread => return scan(number.get(), act),
        Err(_) => return,
    };
    let mut chunk = [0; 4096];
    let mut number = 0;
    while let Ok(count @ 1..) = rustix::io::read(&list, &mut chunk) {
        for byte in &chunk[..count] {
            if byte.is_ascii_digit() {
                number = number * 10 + i32::from(byte - b'0');
            } else if let Some(pid) = Pid::from_raw(std::mem::take(&mut number)) {
                act(pid);
            }
        }
    }
}

/// Looks at every process of the host.
fn scan(parent: i32, act: &mut dyn FnMut(Pid)) {
    for_each_number(c"/proc", |pid| {
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        if identity::stat(number).is_some_and(|stat| stat.parent == parent) {
            act(pid);
        }
    });
}

/// Calls `act` for each entry of a folder that is the number of a process or thread.
fn for_each_number(folder: &std::ffi::CStr, mut act: impl FnMut(Pid)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(folder, flags, Mode::empty()) else {
        return;
    };
    let mut space = [MaybeUninit::<u8>::uninit(); 1024];
    let mut entries = RawDir::new(folder, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        let name = str::from_utf8(entry.file_name().to_bytes()).unwrap_or_default();
        if let Some(pid) = name.parse().ok().and_then(Pid::from_raw) {
            act(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_a_child() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let wanted = Pid::from_child(&child);
        let own = getpid().as_raw_nonzero().get();
        let mut found = false;
        scan(own, &mut |pid| found |= pid == wanted);
        let mut listed = false;
        for_each_descendant(getpid(), |pid, parent| {
            listed |= pid == wanted && parent == getpid();
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found && listed);
    }

    #[test]
    fn only_a_child_of_that_parent_is_signalled() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let stranger = Pid::INIT;
        assert!(!signal_child(pid, stranger, stranger, libc::SIGKILL));
        assert!(signal_child(pid, stranger, getpid(), libc::SIGKILL));
        child.wait().unwrap();
        assert!(!signal_child(pid, getpid(), getpid(), 0));
    }
}
