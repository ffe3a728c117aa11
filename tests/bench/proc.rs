//! What the kernel says about processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// Ends a process that this bench caused to be; one that is gone already is fine.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::KILL)
        && error != rustix::io::Errno::SRCH
    {
        eprintln!("cannot kill {pid:?}: {error}");
    }
}

/// The processes that run `program`.
pub fn running(program: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
        })
        .collect()
}

/// Whether the process lives: not gone, and not waiting to be reaped.
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        !state.is_some_and(|state| state.starts_with('Z'))
    })
}

/// The parents of these processes.
pub fn parents(pids: &[u32]) -> Result<BTreeSet<u32>> {
    pids.iter().map(|pid| status(*pid, "PPid:")).collect()
}

/// Resident memory in KiB.
pub fn resident(pid: u32) -> Result<u32> {
    status(pid, "VmRSS:")
}

/// How often the process was given a processor so far.
pub fn switches(pid: u32) -> Result<u32> {
    Ok(status(pid, "voluntary_ctxt_switches:")? + status(pid, "nonvoluntary_ctxt_switches:")?)
}

fn status(pid: u32, field: &str) -> Result<u32> {
    first_number(&format!("/proc/{pid}/status"), field)
}

/// Memory of its own and its share of what it shares, in KiB.
pub fn memory(pid: u32) -> Result<(u32, u32)> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let private = first_number(&file, "Private_Clean:")? + first_number(&file, "Private_Dirty:")?;
    Ok((private, first_number(&file, "Pss:")?))
}

fn first_number(file: &str, field: &str) -> Result<u32> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let number = number.ok_or_else(|| format!("{file} has no {field}"))?;
    Ok(number.parse()?)
}

/// Processor time of the process so far, ended threads included, in nanoseconds.
#[expect(
    unsafe_code,
    reason = "the clock of another process has no safe wrapper, and /proc counts in 10 ms"
)]
pub fn processor_time(pid: u32) -> Result<i64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let pid = libc::pid_t::try_from(pid)?;
    // SAFETY: both calls only write through the pointers, which are valid for that.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    if failed {
        return Err(format!("there is no process {pid} to measure").into());
    }
    Ok(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}
