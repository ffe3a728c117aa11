//! The system calls that no safe wrapper offers. The only unsafe code of the crate.
//!
//! **Assumptions.** Linux on a 64-bit machine. What is sound in a process with one thread only asks
//! for a [`OneThread`], what is sound for memory of a mapping only for its [`Pages`].
#![expect(
    unsafe_code,
    reason = "fork, clone, signalfd, queued signals, private mappings and the user database have no safe wrapper"
)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::wire::{Credentials, NewPrivileges, Program, Stage};

mod inheritance;
mod memory;
mod users;

pub(super) use inheritance::forget_the_caller;
pub use inheritance::hide_from_peers;
use memory::Stack;
pub(super) use memory::{Mapping, Pages};
pub(super) use users::{User, UserKey, group, groups_of, user, with_rights_of};

/// The real-time signal that carries orders to a shim. Fixed by number, not by `SIGRTMIN`, which
/// differs between C libraries: shims of an earlier release must understand a later driver.
pub(super) const ORDER_SIGNAL: c_int = 40;

/// The soft limit on a program's stack, in bytes: the kernel's default. It also bounds what arguments
/// and variables may take.
pub(super) const STACK_LIMIT: u64 = 8 << 20;

/// Bytes of a page of this host.
pub(super) fn page_size() -> usize {
    // SAFETY: only asks.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Blocks every signal, so that [`SignalQueue`] receives them all; all but SIGCONT, which wakes
/// nobody who is not stopped only while it is not blocked.
pub(super) fn block_signals(_: &OneThread) {
    // The kernel's set, a bit for each signal. The C library's would leave out the two signals that it
    // keeps for itself, by which anybody could end us.
    let all: u64 = !(1 << (libc::SIGCONT - 1));
    // SAFETY: the kernel reads eight bytes; changing the mask of the only thread is sound.
    unsafe {
        let none: *mut u64 = ptr::null_mut();
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            none,
            8,
        );
    }
}

/// Whether a signal was sent to us that is blocked, and that nobody reads. Uses no heap.
pub(super) fn is_pending(signal: Signal) -> bool {
    let mut pending = 0u64;
    // SAFETY: the kernel writes eight bytes.
    let asked = unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut pending, 8) };
    asked == 0 && pending & (1 << (signal.as_raw() - 1)) != 0
}

/// Gives every signal its default meaning, as programs that are started expect it; but lets the
/// kernel reap children, without zombies and without waking us.
pub(super) fn default_signals() {
    // The kernel's `sigaction`, at most four words on every machine; zero means the default.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: no handler is installed. The C library would refuse two of the numbers, which
        // an ancestor may all the same have ignored; SIGKILL and SIGSTOP cannot be changed.
        unsafe {
            let none: *mut u64 = ptr::null_mut();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8)
        };
    }
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Makes children wait to be reaped.
pub(super) fn await_children() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Sets the name that `ps` and `top` show, at most 15 bytes.
pub(super) fn set_name(name: &CStr) {
    // SAFETY: the kernel copies at most 16 bytes of a terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Makes standard input, whatever it was, one that is at its end.
pub(super) fn empty_stdin() {
    // SAFETY: replaces a descriptor that no owner in this process closes.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        libc::dup2(if null < 0 { 1 } else { null }, 0);
        if null > 2 {
            libc::close(null);
        }
    };
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) {
    // SAFETY: only called before any owner of such a descriptor exists in this process.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Keeps all descriptors of this process but 0 to 2 from the programs that it executes from now on.
/// They stay open here.
pub fn keep_descriptors_from_children() {
    // SAFETY: no descriptor is closed; each only gets the flag that those of the standard library
    // have from their beginning.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Lets go of what whoever executed this program has left to it and did not mean for it: open
/// descriptors but 0 to 2, signals that are blocked, children that are reaped by nobody, a umask and
/// a niceness. To be called while there is one thread, before anything else is opened.
pub fn start_afresh() {
    close_from(3);
    unblock_signals();
    await_children();
    ignore_signals();
    // What components get, and the default of nearly every host.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Whoever may not raise it goes on as nice as it was started.
    rustix::process::setpriority_process(None, 0).ok();
}

/// Ignores what nobody listens for and the kernel would end or stop us by: the two signals that the
/// C library keeps for itself, and those of a terminal that others have, which a handler would have
/// repeated for ever.
fn ignore_signals() {
    let mut ignore = [0u64; 4];
    ignore[0] = libc::SIG_IGN as u64;
    for signal in [libc::SIGTTIN, libc::SIGTTOU, 32, 33] {
        // SAFETY: no handler is installed. The C library installs its own where it needs them.
        unsafe {
            let none: *mut u64 = ptr::null_mut();
            libc::syscall(libc::SYS_rt_sigaction, signal, ignore.as_ptr(), none, 8)
        };
    }
}

/// Lets every signal arrive in the calling thread, and in those that it starts.
pub(super) fn unblock_signals() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set; changing the mask of the only thread is sound.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Says that this process has one thread, so that no lock can be held by a thread that a fork would
/// leave behind, and nobody shares what is said of the process as a whole. It stays with that thread,
/// and with those of its forks.
pub(super) struct OneThread(PhantomData<*const ()>);

impl OneThread {
    /// Asks the kernel, whose word counts; where it does not say, the caller's does. `None` = there
    /// are more.
    pub(super) fn here() -> Option<Self> {
        let threads = super::identity::own_stat().map_or(1, |stat| stat.threads);
        (threads == 1).then_some(Self(PhantomData))
    }

    /// For a test that is a fork server: the other thread of its harness holds nothing, and waits for
    /// this one.
    #[cfg(test)]
    pub(super) fn beside_its_harness() -> Self {
        Self(PhantomData)
    }
}

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    /// The process that called.
    Parent,
    /// The new one.
    Child,
}

/// Copies this process.
pub(super) fn fork(_: &OneThread) -> io::Result<Fork> {
    // SAFETY: with one thread no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        _ => Ok(Fork::Parent),
    }
}

/// Which side of a [`fork_child`] this is.
pub(super) enum Forked {
    /// The process that called.
    Parent {
        /// The new one.
        child: Pid,
    },
    /// The new one.
    Child,
}

/// As [`fork`], for who waits for the new process.
pub(super) fn fork_child(_: &OneThread) -> io::Result<Forked> {
    // SAFETY: with one thread no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent {
            child: Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?,
        }),
    }
}

/// All signals, as a descriptor. They must be blocked.
pub(super) struct AllSignals(OwnedFd);

/// A received signal.
pub(super) struct Signalled {
    /// Which.
    pub(super) number: c_int,
    /// Whether the kernel itself sent it, and no process.
    pub(super) is_from_kernel: bool,
}

impl AllSignals {
    /// Opens the queue.
    pub(super) fn open() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigfillset` initialises the set; `signalfd` returns a fresh descriptor.
        let fd = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the next one; `None` when the wait was interrupted.
    pub(super) fn wait(&self) -> Option<Signalled> {
        let info = read_info(&self.0)?;
        Some(Signalled {
            number: c_int::try_from(info.ssi_signo).ok()?,
            is_from_kernel: info.ssi_code == libc::SI_KERNEL,
        })
    }
}

fn read_info(queue: &OwnedFd) -> Option<libc::signalfd_siginfo> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is writable and `size` bytes long; any bytes are a valid value.
    let (read, info) = unsafe {
        let read = libc::read(queue.as_raw_fd(), info.as_mut_ptr().cast(), size);
        (read, info.assume_init())
    };
    (usize::try_from(read) == Ok(size)).then_some(info)
}

/// Ends the process at once: no destructors, no exit handlers.
pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: `_exit` is always sound.
    unsafe { libc::_exit(code) }
}

/// SIGCHLD and the orders, as a descriptor. All signals must be blocked.
pub(super) struct SignalQueue(OwnedFd);

/// One received signal.
pub(super) enum Received {
    /// Some child changed state.
    Child,
    /// A driver sent an order with this payload.
    Order(u64),
}

impl SignalQueue {
    /// Opens the queue.
    pub(super) fn open() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set; `signalfd` returns a fresh descriptor.
        let fd = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
            libc::sigaddset(set.as_mut_ptr(), ORDER_SIGNAL);
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// To poll for.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// The next signal, `None` when there is none.
    pub(super) fn next(&self) -> Option<Received> {
        let info = read_info(&self.0)?;
        if info.ssi_signo == libc::SIGCHLD as u32 {
            Some(Received::Child)
        } else {
            Some(Received::Order(info.ssi_ptr))
        }
    }
}

/// Queues an order for the process behind `pidfd`; it cannot reach any other process.
pub(super) fn send_order(pidfd: BorrowedFd<'_>, payload: u64) -> io::Result<()> {
    /// The kernel's `siginfo_t` for a queued signal on 64-bit machines.
    #[repr(C)]
    struct Queued {
        signo: c_int,
        errno: c_int,
        code: c_int,
        pad: c_int,
        pid: libc::pid_t,
        uid: libc::uid_t,
        value: u64,
        rest: [u64; 12],
    }
    const { assert!(size_of::<Queued>() == size_of::<libc::siginfo_t>()) };
    // SAFETY: both calls only read the ids of this process.
    let (pid, uid) = unsafe { (libc::getpid(), libc::getuid()) };
    let info = Queued {
        signo: ORDER_SIGNAL,
        errno: 0,
        code: libc::SI_QUEUE,
        pad: 0,
        pid,
        uid,
        value: payload,
        rest: [0; 12],
    };
    // SAFETY: `info` has the size and layout of `siginfo_t` and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            ORDER_SIGNAL,
            &raw const info,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a signal of any number to the process behind `pidfd`.
pub(super) fn send_signal(pidfd: &OwnedFd, signal: c_int) -> io::Result<()> {
    let info: *const libc::siginfo_t = ptr::null();
    let number = pidfd.as_raw_fd();
    // SAFETY: without information the kernel makes up its own; the descriptor is open.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, signal, info, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a signal of any number to a process group that is known to be ours.
pub(super) fn signal_group(group: libc::pid_t, signal: c_int) {
    // Zero and one would mean other groups than the one named.
    if group > 1 {
        // SAFETY: sending a signal touches no memory.
        unsafe { libc::kill(-group, signal) };
    }
}

/// Sends a signal of any number to a process that is known to be ours and not reaped.
pub(super) fn signal_process(pid: libc::pid_t, signal: c_int) {
    if pid > 1 {
        // SAFETY: sending a signal touches no memory.
        unsafe { libc::kill(pid, signal) };
    }
}

/// A descriptor that tokio waits for. Call it inside a runtime.
pub(super) fn waitable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor for as long as it lives, and the `AsyncFd`
    // owns it from now on.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Makes `pipe`, the writing end of a program's output, the property of whom it becomes; and lets
/// whoever it hands it to open it by name, as `/dev/stdout`, however it changed its user by then.
/// Only who may look into the program's own folder in `/proc` gets that far.
pub(super) fn hand_over(pipe: BorrowedFd<'_>, to: Option<&Credentials<'_>>) -> io::Result<()> {
    const OTHERS_WRITE: libc::mode_t = 0o622;
    let fd = pipe.as_raw_fd();
    // SAFETY: both calls only change the owner and mode of an open pipe.
    let failed = unsafe {
        libc::fchmod(fd, OTHERS_WRITE) < 0
            || to.is_some_and(|who| libc::fchown(fd, who.uid, who.gid) < 0)
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Where a start stopped, and the error number.
pub(super) type SpawnError = (Stage, i32);

/// What the new process reads, and where it leaves why it failed. All of it is prepared before,
/// since a process that shares its parent's memory must not allocate.
struct Birth<'a> {
    program: &'a Program<'a>,
    stdout: BorrowedFd<'a>,
    stderr: BorrowedFd<'a>,
    candidates: &'a [*const libc::c_char],
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    parent: libc::pid_t,
    failed: Option<SpawnError>,
}

/// Starts `program` in a process group of its own, to be killed when this process dies, and returns its
/// pid once it runs. Memory is shared until then, so a start costs no page of ours. Standard input
/// is the caller's; both outputs are descriptors over 2.
pub(super) fn spawn(
    _: &OneThread,
    program: &Program<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<libc::pid_t, SpawnError> {
    /// Deep enough for unoptimised builds.
    const STACK: usize = 128 << 10;
    let failed = |error: io::Error| (Stage::Spawn, error.raw_os_error().unwrap_or(libc::ENOMEM));

    let count = program.candidates.count() + program.argv.count() + program.envp.count() + 3;
    let mut memory = Mapping::new(count * size_of::<*const libc::c_char>()).map_err(failed)?;
    let mut stack = Stack::new(STACK).map_err(failed)?;
    // SAFETY: a mapping is page-aligned and long enough for `count` pointers, and zero bytes are
    // null pointers.
    let table = unsafe {
        std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<*const libc::c_char>(), count)
    };
    let (candidates, rest) = table.split_at_mut(program.candidates.count() + 1);
    let (argv, envp) = rest.split_at_mut(program.argv.count() + 1);
    for (slots, strings) in [
        (&mut *candidates, program.candidates),
        (&mut *argv, program.argv),
        (&mut *envp, program.envp),
    ] {
        for (slot, string) in slots.iter_mut().zip(strings.iter()) {
            *slot = string.as_ptr();
        }
    }
    let mut birth = Birth {
        program,
        stdout,
        stderr,
        candidates: &candidates[..program.candidates.count()],
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        // SAFETY: only reads our own id.
        parent: unsafe { libc::getpid() },
        failed: None,
    };
    // SAFETY: with CLONE_VFORK this thread sleeps until the child has executed or ended, so
    // `birth` and the stack, which is 16-byte aligned at its top, are used by the child alone.
    let pid = unsafe {
        libc::clone(
            born,
            stack.top(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut birth).cast(),
        )
    };
    if pid < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: a read of our own variable; volatile since the other process wrote it.
    match unsafe { (&raw const birth.failed).read_volatile() } {
        None => Ok(pid),
        Some(error) => {
            // SAFETY: reaps our own child, which has ended.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err(error)
        }
    }
}

/// The first function of the new process; returns only when it failed.
extern "C" fn born(birth: *mut c_void) -> c_int {
    let birth: *mut Birth<'_> = birth.cast();
    // SAFETY: `spawn` passed a valid `Birth` and sleeps until we are done with it.
    unsafe {
        let error = become_program(&*birth);
        (*birth).failed = Some(error);
    }
    127
}

fn errno() -> i32 {
    // SAFETY: the location is valid for the calling thread; the parent sleeps.
    unsafe { *libc::__errno_location() }
}

/// Turns this process into the program; answers why it could not.
///
/// # Safety
/// Only in the child of [`spawn`].
unsafe fn become_program(birth: &Birth<'_>) -> SpawnError {
    let program = birth.program;
    // SAFETY: plain system calls on our own process with valid arguments. Ids are changed by raw
    // calls, since the C library's would also signal threads that the parent may have.
    unsafe {
        // The session is the shim's, so no other component can join this group.
        if libc::setpgid(0, 0) < 0 {
            return (Stage::Session, errno());
        }
        libc::umask(program.umask);
        let limits = [
            (libc::RLIMIT_NOFILE, Some(program.limits.nofile)),
            (
                libc::RLIMIT_CORE,
                program.limits.core.map(|limit| (limit, limit)),
            ),
        ];
        for (resource, limit) in limits {
            if let Some((soft, hard)) = limit {
                let limit = libc::rlimit {
                    rlim_cur: soft,
                    rlim_max: hard,
                };
                if libc::setrlimit(resource, &raw const limit) < 0 {
                    return (Stage::Limits, errno());
                }
            }
        }
        for group in program.groups.iter() {
            let file = libc::open(group.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) < 0 {
                return (Stage::Cgroup, errno());
            }
        }
        if let Some(who) = &program.credentials {
            let (count, groups) = (who.groups.len() / size_of::<u32>(), who.groups.as_ptr());
            if libc::syscall(libc::SYS_setgroups, count, groups) < 0 {
                return (Stage::Groups, errno());
            }
            if libc::syscall(libc::SYS_setresgid, who.gid, who.gid, who.gid) < 0 {
                return (Stage::Group, errno());
            }
            if libc::syscall(libc::SYS_setresuid, who.uid, who.uid, who.uid) < 0 {
                return (Stage::User, errno());
            }
            let regained = who.uid != 0 && libc::syscall(libc::SYS_setresuid, -1, 0, -1) == 0;
            if libc::geteuid() != who.uid || libc::getegid() != who.gid || regained {
                return (Stage::User, libc::EPERM);
            }
        }
        let denied = program.privileges == NewPrivileges::Denied;
        if denied && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return (Stage::Privileges, errno());
        }
        // After the change of user, which clears it.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
            return (Stage::Privileges, errno());
        }
        if libc::getppid() != birth.parent {
            libc::_exit(127);
        }
        if libc::dup2(birth.stdout.as_raw_fd(), 1) < 0
            || libc::dup2(birth.stderr.as_raw_fd(), 2) < 0
        {
            return (Stage::Descriptors, errno());
        }
        // Older kernels lack the call; ours all close on exec anyway.
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        if libc::chdir(program.working_dir.as_ptr()) < 0 {
            return (Stage::WorkingDir, errno());
        }
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        // A candidate that exists but may not be executed is the better explanation.
        let mut error = libc::ENOENT;
        for &candidate in birth.candidates {
            libc::execve(candidate, birth.argv, birth.envp);
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => error = libc::EACCES,
                other => return (Stage::Exec, other),
            }
        }
        (Stage::Exec, error)
    }
}
