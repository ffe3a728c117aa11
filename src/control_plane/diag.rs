//! The socket at one end of a TCP connection of this machine, asked of the kernel by both ends.
//!
//! `/proc/net/tcp` tells the same, and costs a walk over every bucket of the kernel's table: ten
//! milliseconds where this takes a tenth of one.

use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY`: the question, and its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `AF_INET` and `AF_INET6`.
const FAMILIES: (u8, u8) = (2, 10);
/// Bytes of a netlink header, and of the question after it.
const HEADER: usize = 16;
const QUESTION: usize = 56;
/// Where the answer holds the ports of both ends, the user and the inode.
const PORTS: usize = HEADER + 4;
const USER: usize = HEADER + 64;
const INODE: usize = HEADER + 68;

/// A socket of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Whose it is: the user that opened it.
    pub uid: u32,
    pub inode: u64,
}

/// The socket whose own end is `own` and whose other end is `other`; `None` when there is none, or
/// this kernel cannot be asked.
pub(super) fn socket(own: SocketAddr, other: SocketAddr) -> Option<Socket> {
    let question = question(own, other)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(SOCK_DIAG),
    );
    let socket = socket.ok()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &question, SendFlags::empty(), &kernel).ok()?;
    let mut answer = [0; 1024];
    // It was answered while we asked, or it never will be.
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    socket_in(answer.get(..length)?, own, other)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`. IPv4 stands for what is mapped into IPv6, as in
/// the kernel's table.
fn question(own: SocketAddr, other: SocketAddr) -> Option<Vec<u8>> {
    let (family, ends) = match (own.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V4(own), IpAddr::V4(other)) => {
            let padded = |ip: [u8; 4]| [&ip[..], &[0; 12]].concat();
            (
                FAMILIES.0,
                [padded(own.octets()), padded(other.octets())].concat(),
            )
        }
        (IpAddr::V6(own), IpAddr::V6(other)) => {
            (FAMILIES.1, [own.octets(), other.octets()].concat())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let mut bytes = Vec::with_capacity(HEADER + QUESTION);
    let length = u32::try_from(HEADER + QUESTION).ok()?;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence and sender: one question a socket needs neither.
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    // In whatever state it is.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(other.port().to_be_bytes());
    bytes.extend(ends);
    // On any interface, by no cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    Some(bytes)
}

/// The socket in an answer about the connection of these ends; a listener at `own` is another one.
fn socket_in(answer: &[u8], own: SocketAddr, other: SocketAddr) -> Option<Socket> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let port = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if (kind, port(PORTS)?, port(PORTS + 2)?) != (BY_FAMILY, own.port(), other.port()) {
        return None;
    }
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let (uid, inode) = (word(USER)?, word(INODE)?);
    // A socket that nobody holds any more has none.
    (inode != 0).then_some(Socket {
        uid,
        inode: inode.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn ours(socket: impl AsFd) -> Socket {
        Socket {
            uid: rustix::process::geteuid().as_raw(),
            inode: rustix::fs::fstat(socket).unwrap().st_ino,
        }
    }

    #[test]
    fn the_kernel_knows_the_socket_at_either_end_and_no_listener_for_one() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("SKIPPED: this host has no {address}");
                continue;
            };
            let at = listener.local_addr().unwrap();
            let client = TcpStream::connect(at).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let Some(found) = socket(peer, at) else {
                eprintln!("SKIPPED: this kernel has no tcp_diag");
                return;
            };
            assert_eq!(found, ours(&client));
            assert_eq!(socket(at, peer), Some(ours(&server)));
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert_eq!(socket(at, nobody), None);
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_or_an_error_is_none() {
        let (own, other) = (
            "127.0.0.1:41200".parse().unwrap(),
            "127.0.0.1:8080".parse().unwrap(),
        );
        let mut answer = question(own, other).unwrap();
        // The ends stand at the same distance from their start in question and answer.
        answer.drain(HEADER + 4..HEADER + 8);
        answer.resize(USER, 0);
        answer.extend(1000u32.to_ne_bytes());
        answer.extend(777u32.to_ne_bytes());
        let found = Socket {
            uid: 1000,
            inode: 777,
        };
        assert_eq!(socket_in(&answer, own, other), Some(found));
        assert_eq!(socket_in(&answer, other, own), None);
        for length in 0..answer.len() {
            assert_eq!(socket_in(&answer[..length], own, other), None);
        }
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(socket_in(&answer, own, other), None);
    }
}
