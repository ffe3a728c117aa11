//! The Unix socket of a state directory.
//!
//! **Guarantees.** It is born with mode 0600, so there is no moment in which others could connect.
//! A path longer than the 107 bytes that a socket address holds works all the same: both sides go
//! through `/proc/self/fd`, where the directory has a short name.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in its state directory.
pub const NAME: &str = "flowctl.sock";

/// Connections that wait to be accepted; more are refused with `EAGAIN`.
const BACKLOG: i32 = 1024;

/// The socket of a running daemon. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) inner: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the socket");
        }
    }
}

/// Binds the socket of `state_dir`. The caller holds the directory's lock, so a socket that is
/// there already was left by a daemon that died, and is replaced. Needs a runtime.
///
/// # Errors
/// When the directory cannot be opened or written.
pub fn bind(state_dir: &Path) -> io::Result<Listener> {
    let path = state_dir.join(NAME);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let short = ShortPath::of(state_dir)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Linux gives the file the mode of the socket's own inode, so this comes before `bind`.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(short.socket())?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let inner = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok(Listener { inner, path })
}

/// Connects to the daemon of `state_dir`.
///
/// # Errors
/// `NotFound` when there is no socket, `ConnectionRefused` when its daemon died, `WouldBlock` when
/// too many wait already.
pub async fn connect(state_dir: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(state_dir)?;
    UnixStream::connect(short.socket()).await
}

/// A directory under a name that always fits a socket address, valid while this lives.
struct ShortPath(OwnedFd);

impl ShortPath {
    fn of(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(dir, flags, Mode::empty())?))
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{NAME}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_still_connects() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = bind(&deep).unwrap();
        let (accepted, connected) = tokio::join!(listener.inner.accept(), connect(&deep));
        assert!(accepted.is_ok());
        assert!(connected.is_ok());
    }

    #[tokio::test]
    async fn the_socket_is_private_replaces_a_dead_one_and_leaves_no_file_behind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), "left over").unwrap();
        let listener = bind(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        let error = connect(dir.path()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
