//! Whose socket answers at an address of this host.
//!
//! The kernel is asked for the sockets of one port only, and the processes of the component are
//! looked at first, since each probe of each component asks. What was found once is remembered as a
//! [`Proof`], which costs one look at one link to confirm.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::model::Protocol;

use super::ports::{Holder, Socket, Sockets, inode_of};

/// Whose socket it is.
#[derive(Debug)]
pub enum Answerer {
    /// One of the component's own processes has it.
    Own(Option<Proof>),
    /// Somebody else has it, in words.
    Other(String),
    /// The component and others each have one, and the kernel deals connections out among them:
    /// [`taker`] tells who got which.
    Shared,
    /// Who has it may not be seen, and nothing speaks against the component; or nobody of this
    /// host has it, as when the kernel passes the port on to a container.
    Unknown,
}

/// A socket in the hands of a process: as long as it is open there, nobody else has its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    link: PathBuf,
    inode: u64,
}

impl Proof {
    /// Whether the process still has the socket open.
    pub fn holds(&self) -> bool {
        let link = fs::read_link(&self.link);
        link.is_ok_and(|link| inode_of(&link) == Some(self.inode))
    }
}

/// Finds out whose socket answers at `address`, of this host, for a component whose program is
/// `program`. `is_own` says of a process outside of that one's descendants whether it is the
/// component's all the same.
pub fn answerer(address: SocketAddr, program: u32, is_own: impl Fn(&Holder) -> bool) -> Answerer {
    let answering = answering(address);
    if answering.is_empty() {
        return Answerer::Unknown;
    }
    let mut own: Vec<Proof> = Vec::new();
    for pid in family(program) {
        own.extend(proofs(pid, &answering));
        if answering
            .iter()
            .all(|socket| own.iter().any(|proof| proof.inode == socket.inode))
        {
            // Of several sockets one proves nothing for later.
            return Answerer::Own(own.pop().filter(|_| answering.len() == 1));
        }
    }
    if !own.is_empty() {
        return Answerer::Shared;
    }
    let all = Sockets::of(answering);
    let holders = all.holders();
    if holders.iter().any(is_own) {
        return Answerer::Own(None);
    }
    if let Some(holder) = holders.first() {
        return Answerer::Other(holder.to_string());
    }
    // What this user may not see: another user's socket is not that of the program.
    let owner = fs::metadata(format!("/proc/{program}")).map(|data| data.uid());
    match (owner, all.first()) {
        (Ok(owner), Some(socket)) if socket.uid != owner => {
            Answerer::Other(format!("a process of user {}", socket.uid))
        }
        (Ok(_) | Err(_), _) => Answerer::Unknown,
    }
}

/// Who has taken the connection from `ours` to `theirs`, both of this host, for a component whose
/// program is `program`; `None` while nobody has. It waits at the port then, or was dropped.
pub fn taker(ours: SocketAddr, theirs: SocketAddr, program: u32) -> Option<Answerer> {
    let taken = connection(ours, theirs).ok().flatten()?;
    let sockets = [taken];
    let is_own = family(program)
        .into_iter()
        .any(|pid| !proofs(pid, &sockets).is_empty());
    if is_own {
        return Some(Answerer::Own(None));
    }
    let holders = Sockets::of(sockets.into()).holders();
    let holder = holders.first().map(ToString::to_string);
    Some(Answerer::Other(
        holder.unwrap_or_else(|| "another process".to_owned()),
    ))
}

/// The sockets that take connections to `address`: those of this very address, else of all.
fn answering(address: SocketAddr) -> Vec<Socket> {
    let port = address.port();
    let found = [libc_family::V4, libc_family::V6].map(|family| listening(family, port));
    let listening = match found {
        [Ok(mut v4), Ok(v6)] => {
            v4.extend(v6);
            v4
        }
        // A kernel without that door has the table all the same.
        [Err(_), _] | [_, Err(_)] => Sockets::read().into_listening(port),
    };
    let (exact, others): (Vec<_>, Vec<_>) = listening
        .into_iter()
        .partition(|socket| socket.address == address.ip());
    if !exact.is_empty() {
        return exact;
    }
    let of_all = others.into_iter();
    of_all
        .filter(|socket| socket.address.is_unspecified())
        .collect()
}

/// A process and all that it has forked, as far as they are still its descendants.
fn family(program: u32) -> Vec<u32> {
    let mut family = vec![program];
    let mut at = 0;
    while let Some(pid) = family.get(at).copied() {
        at += 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            let children = children.split_ascii_whitespace();
            family.extend(children.filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    family
}

/// Where `pid` has any of `sockets` open.
fn proofs(pid: u32, sockets: &[Socket]) -> Vec<Proof> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.into_iter().flatten().flatten();
    open.filter_map(|entry| {
        let link = entry.path();
        let inode = inode_of(&fs::read_link(&link).ok()?)?;
        let is_one = sockets.iter().any(|socket| socket.inode == inode);
        is_one.then_some(Proof { link, inode })
    })
    .collect()
}

/// The numbers of address families, as the kernel's messages have them.
mod libc_family {
    pub(super) const V4: u8 = 2;
    pub(super) const V6: u8 = 10;
}

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLMSG_DONE` of `linux/netlink.h`: all was said.
const DONE: u16 = 3;
/// `NLMSG_ERROR` of `linux/netlink.h`: there is no such thing, or no such door.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`: this one.
const ONE: u16 = 0x1;
/// `NLM_F_REQUEST | NLM_F_DUMP`: all that match.
const DUMP: u16 = 0x301;
/// Any state.
const ANY: u32 = u32::MAX;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `1 << TCP_LISTEN`.
const LISTENING: u32 = 1 << 10;
/// The head of a netlink message.
const HEAD: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// The listening TCP sockets on `port`, asked of the kernel's `sock_diag`.
fn listening(family: u8, port: u16) -> io::Result<Vec<Socket>> {
    let found = ask(&question(family, DUMP, LISTENING, port))?;
    let about = found.into_iter();
    Ok(about.filter(|socket| socket.port == port).collect())
}

/// The other end, on this host, of a connection from `ours` to `theirs`, once somebody has it.
fn connection(ours: SocketAddr, theirs: SocketAddr) -> io::Result<Option<Socket>> {
    let (family, from, to) = match (theirs.ip(), ours.ip()) {
        (IpAddr::V4(theirs), IpAddr::V4(ours)) => {
            let wide = |ip: Ipv4Addr| {
                let mut wide = [0; 16];
                wide[..4].copy_from_slice(&ip.octets());
                wide
            };
            (libc_family::V4, wide(theirs), wide(ours))
        }
        (theirs, ours) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            (libc_family::V6, wide(theirs), wide(ours))
        }
    };
    let mut message = question(family, ONE, ANY, theirs.port());
    message[HEAD + 10..HEAD + 12].copy_from_slice(&ours.port().to_be_bytes());
    message[HEAD + 12..HEAD + 28].copy_from_slice(&from);
    message[HEAD + 28..HEAD + 44].copy_from_slice(&to);
    // `INET_DIAG_NOCOOKIE`: by its addresses alone.
    message[HEAD + 48..HEAD + 56].fill(0xff);
    let found = ask(&message)?.into_iter().next();
    // Until it is accepted it is nobody's file.
    Ok(found.filter(|socket| socket.inode != 0))
}

/// Asks the kernel's `sock_diag`.
fn ask(question: &[u8; HEAD + REQUEST]) -> io::Result<Vec<Socket>> {
    let is_one = question[6..8] == ONE.to_ne_bytes();
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&kernel, question, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let (count, _) = recv(&kernel, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..count];
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while rest.len() >= HEAD {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if length < HEAD || length > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match kind {
                DONE => return Ok(found),
                BY_FAMILY => found.extend(told(&rest[HEAD..length])),
                ERROR if is_one => return Ok(found),
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
            // Messages begin at multiples of four.
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        if is_one {
            return Ok(found);
        }
    }
}

fn question(family: u8, how: u16, states: u32, port: u16) -> [u8; HEAD + REQUEST] {
    let mut message = [0; HEAD + REQUEST];
    let length = u32::try_from(message.len()).unwrap_or_default();
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    message[6..8].copy_from_slice(&how.to_ne_bytes());
    message[HEAD] = family;
    message[HEAD + 1] = TCP;
    message[HEAD + 4..HEAD + 8].copy_from_slice(&states.to_ne_bytes());
    message[HEAD + 8..HEAD + 10].copy_from_slice(&port.to_be_bytes());
    message
}

/// One `struct inet_diag_msg`.
fn told(message: &[u8]) -> Option<Socket> {
    let message: &[u8; ANSWER] = message.get(..ANSWER)?.try_into().ok()?;
    let word = |at: usize| {
        let bytes = [
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        ];
        u32::from_ne_bytes(bytes)
    };
    let address: [u8; 16] = message[8..24].try_into().ok()?;
    let address = match message[0] {
        libc_family::V4 => IpAddr::from(Ipv4Addr::new(
            address[0], address[1], address[2], address[3],
        )),
        libc_family::V6 => {
            let v6 = Ipv6Addr::from(address);
            // A v6 socket that serves a v4 address.
            v6.to_ipv4_mapped().map_or(v6.into(), IpAddr::from)
        }
        _ => return None,
    };
    Some(Socket {
        protocol: Protocol::Tcp,
        address,
        port: u16::from_be_bytes([message[4], message[5]]),
        uid: word(64),
        inode: u64::from(word(68)),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn me() -> u32 {
        std::process::id()
    }

    fn nobodys(_: &Holder) -> bool {
        false
    }

    #[test]
    fn both_of_the_kernels_doors_tell_of_the_same_sockets() {
        for place in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(place) else {
                eprintln!("skipped: this host has no {place}");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let port = address.port();
            let asked = [libc_family::V4, libc_family::V6].map(|family| listening(family, port));
            let asked: Vec<Socket> = asked.into_iter().flat_map(|found| found.unwrap()).collect();
            assert_eq!(asked.len(), 1, "{place}");
            assert_eq!(asked[0].address, address.ip());
            assert_eq!(asked, Sockets::read().into_listening(port));
        }
    }

    #[test]
    fn a_socket_of_the_program_or_its_children_is_its_own_and_any_other_a_strangers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let Answerer::Own(Some(proof)) = answerer(address, me(), nobodys) else {
            panic!("it is ours");
        };
        assert!(proof.holds());
        let mut child = child();
        match answerer(address, child.id(), nobodys) {
            Answerer::Other(who) => assert!(who.contains(&format!("pid {}", me())), "{who}"),
            found @ (Answerer::Own(_) | Answerer::Shared | Answerer::Unknown) => {
                panic!("{found:?}")
            }
        }
        // What has another parent may say whose it is.
        let adopted = answerer(address, child.id(), |holder| holder.pid == me());
        assert!(matches!(adopted, Answerer::Own(None)), "{adopted:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        drop(listener);
        assert!(!proof.holds());
        assert!(matches!(
            answerer(address, me(), nobodys),
            Answerer::Unknown
        ));
    }

    #[test]
    fn of_a_connection_it_is_known_who_took_it_and_that_nobody_has_yet() {
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(place) else {
                eprintln!("skipped: this host has no {place}");
                continue;
            };
            let theirs = listener.local_addr().unwrap();
            let asks = TcpStream::connect(theirs).unwrap();
            let ours = asks.local_addr().unwrap();
            let waits = taker(ours, theirs, me());
            assert!(waits.is_none(), "{waits:?}");
            let _taken = listener.accept().unwrap();
            let by_us = taker(ours, theirs, me());
            assert!(matches!(by_us, Some(Answerer::Own(_))), "{by_us:?}");
            let mut child = child();
            let by_other = taker(ours, theirs, child.id());
            assert!(matches!(by_other, Some(Answerer::Other(_))), "{by_other:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn child() -> Child {
        let mut sleep = Command::new("sleep");
        sleep.arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn the_socket_of_the_very_address_answers_before_that_of_all() {
        let all = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = all.local_addr().unwrap().port();
        let found = answering(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(found.len(), 1);
        assert!(found[0].address.is_unspecified());
        let other = answering(SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(other.iter().all(|socket| socket.port == 1));
    }
}
