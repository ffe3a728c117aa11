//! Which process holds the other end of a loopback connection.
//!
//! Half of the components of the field send nothing that tells them apart; the kernel does. One
//! walk over `/proc` answers for every connection of that moment, so 500 components that register
//! at once cost a few walks. Only processes that we may look into are found.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::diag;
use crate::model::InstanceId;
use crate::reconciler::PeerProcess;

/// A walk answers for this long; an answer that it does not hold asks for another.
const FRESH: Duration = Duration::from_millis(200);
/// A registration never waits longer than this for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Ancestors that are followed from a process.
const MAX_ANCESTORS: usize = 16;
/// The variable by which the process driver marks what it starts.
const INSTANCE_VARIABLE: &str = "FLOWCTL_INSTANCE";

/// Who holds which socket. Cheap to clone; all clones share one walk.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets {
    holders: Arc<Mutex<Option<Holders>>>,
}

#[derive(Debug)]
struct Holders {
    walked: Instant,
    /// Pid by inode of the socket.
    pids: HashMap<u64, u32>,
}

impl Sockets {
    /// The process at `peer`, connected to us at `local`.
    pub(super) async fn process(&self, peer: SocketAddr, local: SocketAddr) -> PeerProcess {
        if !peer.ip().to_canonical().is_loopback() {
            return PeerProcess::Unknown;
        }
        let sockets = self.clone();
        let found = tokio::task::spawn_blocking(move || sockets.look_up(peer, local));
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(Ok(process)) => process,
            Ok(Err(_)) | Err(_) => PeerProcess::Unknown,
        }
    }

    fn look_up(&self, peer: SocketAddr, local: SocketAddr) -> PeerProcess {
        let inode = diag::inode(peer, local).or_else(|| inode_in_tables(peer, local));
        let Some(inode) = inode else {
            return PeerProcess::Unknown;
        };
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let known = holders
            .as_ref()
            .and_then(|holders| holders.pids.get(&inode).copied());
        let pid = known.or_else(|| {
            if holders
                .as_ref()
                .is_none_or(|holders| holders.walked.elapsed() > FRESH)
            {
                *holders = Some(Holders {
                    walked: Instant::now(),
                    pids: walk(),
                });
            }
            holders.as_ref()?.pids.get(&inode).copied()
        });
        drop(holders);
        match pid {
            Some(pid) => PeerProcess::Found {
                pids: lineage(pid),
                instance: instance(pid),
            },
            None => PeerProcess::Unknown,
        }
    }
}

/// The inode of the socket whose own end is `own` and whose other end is `other`, for kernels that
/// cannot be asked for one.
fn inode_in_tables(own: SocketAddr, other: SocketAddr) -> Option<u64> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let table = std::fs::read_to_string(table).ok()?;
            table
                .lines()
                .skip(1)
                .find_map(|row| inode_of_row(row, own, other))
        })
}

fn inode_of_row(row: &str, own: SocketAddr, other: SocketAddr) -> Option<u64> {
    let mut columns = row.split_ascii_whitespace();
    let (local, remote) = (columns.nth(1)?, columns.next()?);
    let is = |column, at: SocketAddr| address(column) == Some((at.ip().to_canonical(), at.port()));
    if is(local, own) && is(remote, other) {
        columns.nth(6)?.parse().ok()
    } else {
        None
    }
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
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return pids;
    };
    let names = processes
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    for pid in names.filter_map(|name| name.parse::<u32>().ok()) {
        // A process that ended, or is another user's, holds nothing that we can see.
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let target = std::fs::read_link(descriptor.path());
            if let Some(inode) = target.ok().as_deref().and_then(socket_inode) {
                pids.insert(inode, pid);
            }
        }
    }
    pids
}

fn socket_inode(target: &Path) -> Option<u64> {
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// A process, its group, and those that started it.
fn lineage(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = pid;
    while pids.len() < MAX_ANCESTORS {
        let Some((parent, group)) = parent_and_group(next) else {
            break;
        };
        for found in [group, parent] {
            if !pids.contains(&found) {
                pids.push(found);
            }
        }
        if parent <= 1 {
            break;
        }
        next = parent;
    }
    pids
}

fn parent_and_group(pid: u32) -> Option<(u32, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.next()?.parse().ok()?))
}

/// The instance that a process's environment names.
fn instance(pid: u32) -> Option<InstanceId> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
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
    async fn a_connection_is_traced_to_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let found = Sockets::default()
            .process(peer, server.local_addr().unwrap())
            .await;
        let PeerProcess::Found { pids, instance } = found else {
            panic!("{found:?}");
        };
        assert_eq!((pids[0], instance), (std::process::id(), None));
        let (own, other) = (peer, server.local_addr().unwrap());
        let tables = inode_in_tables(own, other);
        assert!(diag::inode(own, other).is_none_or(|inode| Some(inode) == tables));
        drop(client);
    }

    #[tokio::test]
    async fn a_connection_from_elsewhere_is_nobodys() {
        let peer = "10.0.0.1:5".parse().unwrap();
        let found = Sockets::default()
            .process(peer, "10.0.0.2:8080".parse().unwrap())
            .await;
        assert_eq!(found, PeerProcess::Unknown);
    }

    #[test]
    fn rows_of_both_tables_are_read() {
        let v4 = "   0: 0100007F:A0F0 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 777 1";
        let v6 = "   0: 0000000000000000FFFF00000100007F:A0F0 0000000000000000FFFF00000100007F:1F90 01 0:0 00:0 0 0 0 778 1";
        let (own, other) = (
            "127.0.0.1:41200".parse().unwrap(),
            "127.0.0.1:8080".parse().unwrap(),
        );
        assert_eq!(inode_of_row(v4, own, other), Some(777));
        assert_eq!(inode_of_row(v6, own, other), Some(778));
        assert_eq!(inode_of_row(v4, other, own), None);
        assert_eq!(inode_of_row("", own, other), None);
    }
}
