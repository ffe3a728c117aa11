//! The Unix socket of a state directory.
//!
//! **Guarantees.** Nobody is connected to who could be a stranger's: neither through a directory that
//! another user owns or may write, nor to a listener of another user. The socket is born with mode 0600, so there is no moment in which others could connect.
//! A path longer than the 107 bytes that a socket address holds works all the same: both sides go
//! through `/proc/self/fd`, where the directory has a short name.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

use crate::ownership::{End, How, Stranger, Trusted};

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

/// Why nobody was connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Another user may be who answers.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// `NotFound` when there is no socket, `ConnectionRefused` when its daemon died, `WouldBlock`
    /// when too many wait already.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Connects to the daemon of `state_dir`.
///
/// # Errors
/// When nobody listens, or one who may be a stranger.
pub async fn connect(state_dir: &Path) -> Result<UnixStream, ConnectError> {
    connect_as(&Trusted::ours(), state_dir).await
}

async fn connect_as(trusted: &Trusted, state_dir: &Path) -> Result<UnixStream, ConnectError> {
    if let Some(stranger) = trusted.stranger(state_dir, End::WithContents) {
        return Err(stranger.into());
    }
    let short = ShortPath::of(state_dir)?;
    let stream = UnixStream::connect(short.socket()).await?;
    trust_listener(trusted, &stream, state_dir)?;
    Ok(stream)
}

/// Who listens, and not who made the file: what was asked would be theirs to answer.
fn trust_listener(
    trusted: &Trusted,
    stream: &UnixStream,
    state_dir: &Path,
) -> Result<(), ConnectError> {
    let listener = stream.peer_cred()?.uid();
    if trusted.has(listener) {
        return Ok(());
    }
    Err(ConnectError::Stranger(Stranger {
        path: state_dir.join(NAME),
        how: How::Owns(listener),
    }))
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
        let ConnectError::Io(error) = error else {
            panic!("nobody is there: {error}");
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn one_who_may_be_a_stranger_is_not_talked_to() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = bind(dir.path()).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let stream = connect(dir.path()).await.unwrap();
        // To a user whom we are not, all of this is a stranger's.
        let trusted = Trusted::of([own + 1]);
        let refused = trust_listener(&trusted, &stream, dir.path());
        assert!(matches!(
            refused,
            Err(ConnectError::Stranger(Stranger {
                how: How::Owns(user),
                ..
            })) if user == own
        ));
        let refused = connect_as(&trusted, dir.path()).await;
        assert!(matches!(refused, Err(ConnectError::Stranger(_))));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = connect(dir.path()).await;
        assert!(matches!(
            refused,
            Err(ConnectError::Stranger(Stranger {
                how: How::AllWrite,
                ..
            }))
        ));
    }
}
