//! The host's users and groups, and what one of them may do.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// A user of the host's database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct User {
    /// Login name.
    pub(in super::super) name: String,
    /// User id.
    pub(in super::super) uid: u32,
    /// Primary group.
    pub(in super::super) gid: u32,
    /// Home directory.
    pub(in super::super) home: String,
}

/// How a user is asked for.
pub(in super::super) enum UserKey<'a> {
    /// By login name.
    Name(&'a str),
    /// By id.
    Id(u32),
}

/// Looks a user up; `None` = there is none.
pub(in super::super) fn user(key: &UserKey<'_>) -> io::Result<Option<User>> {
    let name = match key {
        UserKey::Name(name) => CString::new(*name)?,
        UserKey::Id(_) => CString::default(),
    };
    let mut space = vec![0 as libc::c_char; 16 << 10];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found: *mut libc::passwd = ptr::null_mut();
    // SAFETY: all buffers are valid for the call, and the strings of a found entry lie in
    // `space`, which outlives their copies.
    unsafe {
        let (entry, buffer, len) = (entry.as_mut_ptr(), space.as_mut_ptr(), space.len());
        let code = match key {
            UserKey::Name(_) => libc::getpwnam_r(name.as_ptr(), entry, buffer, len, &raw mut found),
            UserKey::Id(uid) => libc::getpwuid_r(*uid, entry, buffer, len, &raw mut found),
        };
        match (code, found.as_ref()) {
            (_, Some(entry)) => Ok(Some(User {
                name: CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned(),
                uid: entry.pw_uid,
                gid: entry.pw_gid,
                home: CStr::from_ptr(entry.pw_dir).to_string_lossy().into_owned(),
            })),
            (0 | libc::ENOENT | libc::ESRCH, None) => Ok(None),
            (code, None) => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The id of a group by name; `None` = there is none.
pub(in super::super) fn group(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    let mut space = vec![0 as libc::c_char; 64 << 10];
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut found: *mut libc::group = ptr::null_mut();
    // SAFETY: all buffers are valid for the call.
    unsafe {
        let code = libc::getgrnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            space.as_mut_ptr(),
            space.len(),
            &raw mut found,
        );
        match (code, found.as_ref()) {
            (_, Some(entry)) => Ok(Some(entry.gr_gid)),
            (0 | libc::ENOENT | libc::ESRCH, None) => Ok(None),
            (code, None) => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The groups that `user` is in, `gid` included.
pub(in super::super) fn groups_of(user: &str, gid: u32) -> io::Result<Vec<u32>> {
    let user = CString::new(user)?;
    let mut groups = vec![0; 64];
    loop {
        let mut count = c_int::try_from(groups.len()).unwrap_or(c_int::MAX);
        // SAFETY: `groups` has room for `count` ids.
        let code =
            unsafe { libc::getgrouplist(user.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let wanted = usize::try_from(count).unwrap_or(0);
        if code >= 0 {
            groups.truncate(wanted);
            return Ok(groups);
        }
        // The kernel knows no more groups than this per process.
        if groups.len() >= 1 << 16 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        groups.resize(wanted.max(groups.len() * 2), 0);
    }
}

/// Answers `question` in a thread that has the rights of this user and no others, so that it is the
/// kernel that judges them: by mode, access list and mount alike. The rest of the process keeps its
/// own. Only root can do that.
///
/// # Errors
/// When the thread cannot be made, or may not change its user.
pub(in super::super) fn with_rights_of<T: Send>(
    uid: u32,
    gid: u32,
    groups: &[u8],
    question: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let become_user = || -> io::Result<()> {
        let count = groups.len() / size_of::<u32>();
        // SAFETY: system calls on the calling thread alone, which is what is wanted here: the C
        // library's own would change all threads.
        let failed = unsafe {
            libc::syscall(libc::SYS_setgroups, count, groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // The thread ends with its question, so nothing else is ever done with these rights.
        let asked = std::thread::Builder::new()
            .name("as-another-user".to_owned())
            .spawn_scoped(scope, || become_user().map(|()| question()))?;
        asked
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
