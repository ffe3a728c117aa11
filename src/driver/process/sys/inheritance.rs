//! What a process has from whoever started it, made the same for everybody.
//!
//! A daemon lives longer than the shell, script or service manager that happened to start it, and so
//! do components. None of what those had set for themselves is passed on: the fork server forgets it
//! once, and all that it forks begins without it. What this process may not change, since it lacks
//! the right, stays as it is.

use std::ffi::c_int;

/// What the kernel gives a process that nobody limited: `None` = as much as the hard limit allows.
/// Open files and core dumps are told per program.
const SOFT_LIMITS: [(libc::__rlimit_resource_t, Option<u64>); 14] = [
    (libc::RLIMIT_CPU, None),
    (libc::RLIMIT_FSIZE, None),
    (libc::RLIMIT_DATA, None),
    (libc::RLIMIT_STACK, Some(super::STACK_LIMIT)),
    (libc::RLIMIT_CORE, Some(0)),
    (libc::RLIMIT_RSS, None),
    (libc::RLIMIT_NPROC, None),
    (libc::RLIMIT_MEMLOCK, None),
    (libc::RLIMIT_AS, None),
    (libc::RLIMIT_LOCKS, None),
    (libc::RLIMIT_SIGPENDING, None),
    (libc::RLIMIT_MSGQUEUE, None),
    (libc::RLIMIT_NICE, None),
    (libc::RLIMIT_RTPRIO, None),
];
/// Which processors may run it: as many as any kernel knows. The control group still decides.
const ALL_PROCESSORS: [u64; 128] = [u64::MAX; 128];
/// `ioprio_set`: this process.
const IOPRIO_WHO_PROCESS: c_int = 1;
/// `keyctl`: a new session keyring without a name.
const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;

/// Forgets umask, priorities, soft limits, processors, the score for the oom killer, and the keys of
/// the caller's session.
pub(in super::super) fn forget_the_caller() {
    // SAFETY: plain system calls on our own process, with arguments that outlive them.
    unsafe {
        libc::umask(0o022);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        let ordinary = libc::sched_param { sched_priority: 0 };
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            &raw const ordinary,
        );
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0);
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(&ALL_PROCESSORS),
            ALL_PROCESSORS.as_ptr(),
        );
        libc::personality(0);
        let none = std::ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, none);
        for (resource, soft) in SOFT_LIMITS {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            if libc::getrlimit(resource, &raw mut limit) == 0 {
                limit.rlim_cur = soft.map_or(limit.rlim_max, |soft| soft.min(limit.rlim_max));
                libc::setrlimit(resource, &raw const limit);
            }
        }
        let score = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if score >= 0 {
            libc::write(score, c"0".as_ptr().cast(), 1);
            libc::close(score);
        }
    }
}

/// Keeps other processes of this user, which components may be, from reading our memory and
/// environment or tracing us. What this process forks is hidden as well; what it executes is not.
pub fn hide_from_peers() {
    // SAFETY: only sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}
