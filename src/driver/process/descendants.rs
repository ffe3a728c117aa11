//! Which processes have this one as their parent.

use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{Pid, getpid};

use super::identity;
use super::text::Text;

/// Calls `act` for each child of this process, which has one thread. Uses no heap.
pub(super) fn for_each_child(mut act: impl FnMut(Pid)) {
    let own = getpid().as_raw_nonzero().get();
    let path = Text::<48>::format(format_args!("/proc/self/task/{own}/children"));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    // Kernels built without the list leave the long way.
    let Ok(list) = rustix::fs::open(path.as_c_str(), flags, Mode::empty()) else {
        return scan(own, act);
    };
    let mut chunk = [0; 512];
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
fn scan(own: i32, mut act: impl FnMut(Pid)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(proc) = rustix::fs::open(c"/proc", flags, Mode::empty()) else {
        return;
    };
    let mut space = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(proc, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        let name = str::from_utf8(entry.file_name().to_bytes()).unwrap_or_default();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        if identity::stat(pid).is_some_and(|stat| stat.parent == own)
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
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
        scan(own, |pid| found |= pid == wanted);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
