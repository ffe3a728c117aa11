//! Who holds the other end of a connection on this machine.
//!
//! Half of the components of the field send nothing that tells them apart; the kernel does. It names
//! the user of every socket; the process is found by a walk over `/proc`. A walk answers for all who
//! asked before it began, so 500 components that register at once cost a few walks. Only processes
//! that we may look into are found.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::geteuid;

use super::diag::{self, Socket};
use crate::model::InstanceId;
use crate::reconciler::{Ancestor, PeerProcess};

/// A registration never waits longer than this for a walk; clients give up after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// Ancestors that are followed from a process.
const MAX_ANCESTORS: usize = 16;
/// The variable by which the process driver marks what it starts.
const INSTANCE_VARIABLE: &str = "FLOWCTL_INSTANCE";
/// What an engine calls a container: so many hexadecimal digits.
const CONTAINER_ID: usize = 64;

/// The user at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum LocalUser {
    /// It is not of this machine, or the kernel does not say.
    #[default]
    Unknown,
    /// The daemon's own, or root: in a process that is in no container.
    Operator,
    /// The daemon's own, by a process that cannot be looked into.
    Unseen,
    /// Another one, or one of a container.
    Other(u32),
}

/// What the kernel tells of the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct OtherEnd {
    pub user: LocalUser,
    pub process: PeerProcess,
}

/// Who tells what is at the other end of a connection.
#[tonic::async_trait]
pub(super) trait Ends: Send + Sync {
    /// What is at `peer`, connected to us at `local`.
    async fn other_end(&self, peer: SocketAddr, local: SocketAddr) -> OtherEnd;
}

/// Who holds which socket. Cheap to clone; all clones share their walks.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets {
    holders: Arc<Mutex<Option<Holders>>>,
}

#[derive(Debug)]
struct Holders {
    /// When the walk began.
    begun: Instant,
    /// Pid by inode of the socket.
    pids: HashMap<u64, u32>,
}

#[tonic::async_trait]
impl Ends for Sockets {
    async fn other_end(&self, peer: SocketAddr, local: SocketAddr) -> OtherEnd {
        let (from, to) = (peer.ip().to_canonical(), local.ip().to_canonical());
        // Who calls an address of its own machine calls from that address.
        if !from.is_loopback() && from != to {
            return OtherEnd::default();
        }
        let sockets = self.clone();
        let found = tokio::task::spawn_blocking(move || sockets.look_up(peer, local));
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(Ok(end)) => end,
            Ok(Err(_)) | Err(_) => OtherEnd::default(),
        }
    }
}

impl Sockets {
    fn look_up(&self, peer: SocketAddr, local: SocketAddr) -> OtherEnd {
        let asked = Instant::now();
        let socket = diag::socket(peer, local).or_else(|| socket_in_tables(peer, local));
        let Some(Socket { uid, inode }) = socket else {
            return OtherEnd::default();
        };
        let own = geteuid().as_raw();
        match self.holder(inode, asked) {
            Some(pid) => {
                let is_ours =
                    (uid == own || uid == 0) && is_outside_of_containers(pid) && !is_relay(pid);
                OtherEnd {
                    user: if is_ours {
                        LocalUser::Operator
                    } else {
                        LocalUser::Other(uid)
                    },
                    process: about(pid, own),
                }
            }
            // Root sees all of its own; another user not those of its programs that may do more.
            None => OtherEnd {
                user: if uid == own && own != 0 {
                    LocalUser::Unseen
                } else {
                    LocalUser::Other(uid)
                },
                process: PeerProcess::Unknown,
            },
        }
    }

    /// The process that holds a socket which was open at `asked`.
    fn holder(&self, inode: u64, asked: Instant) -> Option<u32> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = holders.as_ref()
            && let Some(pid) = known.pids.get(&inode)
            && holds(*pid, inode)
        {
            return Some(*pid);
        }
        // One that began after the question has seen all that there was to see.
        if holders.as_ref().is_none_or(|known| known.begun < asked) {
            let begun = Instant::now();
            let pids = walk();
            *holders = Some(Holders { begun, pids });
        }
        holders.as_ref()?.pids.get(&inode).copied()
    }
}

/// The socket whose own end is `own` and whose other end is `other`, for kernels that cannot be asked
/// for one.
fn socket_in_tables(own: SocketAddr, other: SocketAddr) -> Option<Socket> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let table = fs::read_to_string(table).ok()?;
            table
                .lines()
                .skip(1)
                .find_map(|row| socket_of_row(row, own, other))
        })
}

fn socket_of_row(row: &str, own: SocketAddr, other: SocketAddr) -> Option<Socket> {
    let mut columns = row.split_ascii_whitespace();
    let (local, remote) = (columns.nth(1)?, columns.next()?);
    let is = |column, at: SocketAddr| address(column) == Some((at.ip().to_canonical(), at.port()));
    if !is(local, own) || !is(remote, other) {
        return None;
    }
    let uid = columns.nth(4)?.parse().ok()?;
    let inode = columns.nth(1)?.parse().ok()?;
    Some(Socket { uid, inode })
}

/// `0100007F:1F90`: words of the address in the host's byte order, then the port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(four) => IpAddr::from(four),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical(),
    };
    Some((ip, port))
}

/// Every socket that a process of ours holds, by inode.
fn walk() -> HashMap<u64, u32> {
    let mut pids = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return pids;
    };
    let names = processes
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    for pid in names.filter_map(|name| name.parse::<u32>().ok()) {
        pids.extend(sockets_of(pid).into_iter().map(|inode| (inode, pid)));
    }
    pids
}

/// A process that ended, or is another user's, holds nothing that we can see.
fn sockets_of(pid: u32) -> Vec<u64> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| socket_inode(&fs::read_link(descriptor.path()).ok()?))
        .collect()
}

/// Whether it still does: numbers of processes and of sockets are used again.
fn holds(pid: u32, inode: u64) -> bool {
    sockets_of(pid).contains(&inode)
}

fn socket_inode(target: &Path) -> Option<u64> {
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// What is told of a process; `own` is the daemon's user.
fn about(pid: u32, own: u32) -> PeerProcess {
    let marked = instance(pid);
    let is_own = fs::metadata(format!("/proc/{pid}")).is_ok_and(|about| about.uid() == own);
    let (instance, claimed) = if is_own {
        (marked, None)
    } else {
        (None, marked)
    };
    PeerProcess::Found {
        line: lineage(pid),
        container: container(pid),
        instance,
        claimed,
    }
}

/// What carries the calls of containers into the network of their user, by the names of its programs.
const RELAYS: [&str; 8] = [
    "docker-proxy",
    "gvproxy",
    "passt",
    "pasta",
    "rootlesskit",
    "rootlessport",
    "slirp4netns",
    "vpnkit",
];

/// Whether a process speaks for containers, and not for its user. Its name is no proof, and needs to
/// be none: whoever bears it is believed less.
fn is_relay(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // Some are built for one kind of processor, and say so: `pasta.avx2`.
    let name = name.trim().split('.').next().unwrap_or_default();
    RELAYS.contains(&name)
}

/// Whether a process sees the same processes, users and files as the daemon does.
fn is_outside_of_containers(pid: u32) -> bool {
    let place = |pid: &str, name: &str| {
        let about = fs::metadata(format!("/proc/{pid}/{name}")).ok()?;
        Some((about.dev(), about.ino()))
    };
    let pid = pid.to_string();
    ["ns/pid", "ns/user", "root"].iter().all(|name| {
        let own = place("self", name);
        // A kernel without such namespaces has no such containers.
        own == place(&pid, name)
    })
}

/// The container that a process is in, by its control group. Only the host's root can have put it
/// there: it is in a namespace of processes of its own, and in none of users, in which anybody may be
/// root.
fn container(pid: u32) -> Option<String> {
    let same = |name: &str| {
        let inode = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|at| at.ino());
        Some(inode("self").ok()? == inode(&pid.to_string()).ok()?)
    };
    if !same("user")? || same("pid")? {
        return None;
    }
    container_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The container that a control group is made for: `/docker/ID`, `docker-ID.scope`, `libpod-ID`.
fn container_in(groups: &str) -> Option<String> {
    let words = groups.split(|char: char| !char.is_ascii_alphanumeric());
    let mut ids = words.filter(|word| {
        word.len() == CONTAINER_ID && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    ids.next().map(str::to_owned)
}

/// A process, its group, and those that started it.
fn lineage(pid: u32) -> Vec<Ancestor> {
    let mut line: Vec<Ancestor> = Vec::new();
    let mut next = pid;
    while line.len() < MAX_ANCESTORS {
        let Some(stat) = stat(next) else { break };
        let leader = self::stat(stat.group).map(|leader| leader.itself);
        for found in [Some(stat.itself), leader].into_iter().flatten() {
            if !line.contains(&found) {
                line.push(found);
            }
        }
        if stat.parent <= 1 {
            break;
        }
        next = stat.parent;
    }
    line
}

/// What is read of a process.
struct Stat {
    itself: Ancestor,
    parent: u32,
    group: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(16)?.parse().ok()?;
    let itself = Ancestor { pid, start_ticks };
    Some(Stat {
        itself,
        parent,
        group,
    })
}

/// The instance that a process's environment names.
fn instance(pid: u32) -> Option<InstanceId> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let variable = std::str::from_utf8(variable).ok()?;
        let (name, value) = variable.split_once('=')?;
        (name == INSTANCE_VARIABLE).then(|| value.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_traced_to_its_user_and_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let (own, other) = (peer, server.local_addr().unwrap());
        let found = Sockets::default().other_end(peer, other).await;
        assert_eq!(found.user, LocalUser::Operator);
        let PeerProcess::Found { line, instance, .. } = found.process else {
            panic!("{found:?}");
        };
        assert_eq!((line[0].pid, instance), (std::process::id(), None));
        let tables = socket_in_tables(own, other);
        assert!(diag::socket(own, other).is_none_or(|socket| Some(socket) == tables));
        drop(client);
    }

    /// A rootless engine's network is a program of the daemon's own user.
    #[tokio::test]
    async fn what_carries_the_calls_of_containers_is_not_taken_for_its_user() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, is_user) in [
            ("slirp4netns", false),
            ("pasta.avx2", false),
            ("tool", true),
        ] {
            let program = folder.path().join(name);
            std::os::unix::fs::symlink("/bin/bash", &program).unwrap();
            let call = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r <&3", at.port());
            let mut relay = std::process::Command::new(&program)
                .args(["-c", &call])
                .spawn()
                .unwrap();
            let (server, peer) = listener.accept().unwrap();
            let found = Sockets::default().other_end(peer, at).await;
            drop(server);
            relay.wait().unwrap();
            assert_eq!(
                found.user == LocalUser::Operator,
                is_user,
                "{name}: {found:?}"
            );
        }
    }

    /// The mark that its environment bears is what it claims, and no more.
    #[test]
    fn a_mark_is_believed_of_the_daemons_own_user_alone() {
        let mark: InstanceId = "default.p.a.0.1".parse().unwrap();
        let mut sleeper = std::process::Command::new("sleep")
            .arg("1000")
            .env(INSTANCE_VARIABLE, mark.to_string())
            .spawn()
            .unwrap();
        // It may not have begun yet.
        while instance(sleeper.id()).is_none() {
            std::thread::yield_now();
        }
        let own = rustix::process::geteuid().as_raw();
        let told = [own, own + 1].map(|daemon| match about(sleeper.id(), daemon) {
            PeerProcess::Found {
                instance, claimed, ..
            } => (instance, claimed),
            PeerProcess::Unknown => panic!("it can be seen"),
        });
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(told[0], (Some(mark.clone()), None));
        assert_eq!(told[1], (None, Some(mark)));
    }

    /// Nothing that was true before the question is an answer to it.
    #[tokio::test]
    async fn a_connection_that_is_made_right_after_a_walk_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let sockets = Sockets::default();
        for _ in 0..3 {
            let _client = TcpStream::connect(at).unwrap();
            let (_server, peer) = listener.accept().unwrap();
            let found = sockets.other_end(peer, at).await;
            assert_eq!(found.user, LocalUser::Operator);
        }
    }

    #[tokio::test]
    async fn a_connection_from_elsewhere_is_nobodys() {
        let peer = "10.0.0.1:5".parse().unwrap();
        let found = Sockets::default()
            .other_end(peer, "10.0.0.2:8080".parse().unwrap())
            .await;
        assert_eq!(found, OtherEnd::default());
    }

    #[test]
    fn rows_of_both_tables_are_read() {
        let v4 = "   0: 0100007F:A0F0 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 777 1";
        let v6 = "   0: 0000000000000000FFFF00000100007F:A0F0 0000000000000000FFFF00000100007F:1F90 01 0:0 00:0 0 0 0 778 1";
        let (own, other) = (
            "127.0.0.1:41200".parse().unwrap(),
            "127.0.0.1:8080".parse().unwrap(),
        );
        let socket = |uid, inode| Some(Socket { uid, inode });
        assert_eq!(socket_of_row(v4, own, other), socket(1000, 777));
        assert_eq!(socket_of_row(v6, own, other), socket(0, 778));
        assert_eq!(socket_of_row(v4, other, own), None);
        assert_eq!(socket_of_row("", own, other), None);
    }

    #[test]
    fn a_container_is_found_in_every_spelling_of_its_control_group() {
        let id = "0123456789abcdef".repeat(4);
        for groups in [
            format!("12:pids:/docker/{id}\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/machine.slice/libpod-{id}.scope/container\n"),
            format!("2:cpu:/\n1:memory:/docker/{id}/init\n"),
        ] {
            assert_eq!(container_in(&groups), Some(id.clone()), "{groups}");
        }
        assert_eq!(container_in("0::/user.slice/user-1000.slice\n"), None);
        assert_eq!(container_in(&format!("0::/x/{id}0\n")), None);
    }
}
