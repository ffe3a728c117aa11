//! What tells a process from any other: boot id, pid and start time.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::model::{Boot, ProcessIdentity, Timestamp};

use super::text::Text;

/// Reads which boot of the host this is.
pub(super) fn present_boot() -> std::io::Result<Boot> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let stat = std::fs::read_to_string("/proc/stat")?;
    let began = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|seconds| seconds.trim().parse::<i64>().ok())
        .ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Boot {
        id: id.trim().to_owned(),
        began_at: Timestamp::from_millis(began.saturating_mul(1000)),
    })
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Whether it has ended and waits to be reaped.
    pub(super) is_dead: bool,
    /// Its parent.
    pub(super) parent: i32,
    /// Its session: the number of the process that began that.
    pub(super) session: i32,
    /// How many threads it has.
    pub(super) threads: u32,
    /// Start time in clock ticks since boot.
    pub(super) ticks: u64,
}

/// What the kernel says of process `pid`, without using the heap; `None` = there is none.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    read_stat(Text::<32>::format(format_args!("/proc/{pid}/stat")).as_c_str())
}

/// What the kernel says of this process.
pub(super) fn own_stat() -> Option<Stat> {
    read_stat(c"/proc/self/stat")
}

fn read_stat(path: &CStr) -> Option<Stat> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 1024];
    let len = rustix::io::read(&file, &mut text).ok()?;
    parse_stat(&text[..len])
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name in field 2 may hold anything, `)` and spaces too.
    let after_name = memchr::memrchr(b')', text)? + 2;
    let fields = str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // State was field 3, parent field 4; session is field 6, threads field 20, start time field 22.
    let session = fields.nth(1)?.parse().ok()?;
    let threads = fields.nth(13)?.parse().ok()?;
    let ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        is_dead: matches!(state, "Z" | "X" | "x"),
        parent,
        session,
        threads,
        ticks,
    })
}

/// Whose process `pid` is; `None` = there is none.
pub(super) fn uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// As [`open`], for one that says to be a guardian: `None` also when it cannot be one, since it is
/// another user's or leads no session. A file says much.
///
/// # Errors
/// As [`open`].
pub(super) fn open_guardian(
    identity: &ProcessIdentity,
    boot: &Boot,
) -> std::io::Result<Option<OwnedFd>> {
    let opened = open(identity, boot)?;
    let leads = stat(identity.pid).is_some_and(|stat| {
        u32::try_from(stat.session).is_ok_and(|session| session == identity.pid)
    });
    let is_ours = uid(identity.pid) == Some(rustix::process::getuid().as_raw());
    Ok(opened.filter(|_| leads && is_ours))
}

/// Opens a descriptor of exactly the process that `identity` names; `None` when that has ended.
/// What is sent through the descriptor can reach no other process.
///
/// # Errors
/// When the kernel does not say, for want of descriptors for one.
pub(super) fn open(identity: &ProcessIdentity, boot: &Boot) -> std::io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    if identity.boot_id != boot.id {
        return Ok(None);
    }
    let descriptor = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Only now is the pid held still: a look at it before could have been at another process.
    let alive =
        stat(identity.pid).is_some_and(|stat| !stat.is_dead && stat.ticks == identity.start_ticks);
    Ok(alive.then_some(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_brackets_does_not_mislead() {
        let line = b"7 (a) S 1 (b)) Z 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                is_dead: true,
                parent: 3,
                session: 7,
                threads: 1,
                ticks: 4242
            })
        );
    }

    #[test]
    fn only_the_very_process_is_opened() {
        let boot = present_boot().unwrap();
        let own = own_stat().unwrap();
        let identity = ProcessIdentity {
            boot_id: boot.id.clone(),
            pid: std::process::id(),
            start_ticks: own.ticks,
        };
        assert!(open(&identity, &boot).unwrap().is_some());
        let stranger = ProcessIdentity {
            start_ticks: own.ticks + 1,
            ..identity.clone()
        };
        assert!(open(&stranger, &boot).unwrap().is_none());
        let elsewhere = ProcessIdentity {
            boot_id: "another boot".to_owned(),
            ..identity
        };
        assert!(open(&elsewhere, &boot).unwrap().is_none());
    }
}
