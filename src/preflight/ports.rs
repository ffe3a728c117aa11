//! Who holds which port of this host, by what the kernel shows in `/proc`.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::model::{InstanceId, Port, Protocol, Workload};

use super::Running;

/// So much of a holder's command line is shown.
const COMMAND_LIMIT: usize = 60;
/// `/proc/net` state of a listening TCP socket.
const LISTEN: &str = "0A";
/// `/proc/net` state of a UDP socket that anyone may send to.
const UNCONNECTED: &str = "07";

/// The port and address that a component needs of this host; `None` = none of this host's.
pub(super) fn on_host(workload: &Workload, port: &Port) -> Option<(u16, Option<IpAddr>)> {
    match workload {
        // Which address a program binds is its own affair.
        Workload::Process(_) => Some((port.container_port, None)),
        // On the host's own network its ports are the host's.
        Workload::Docker(container) if container.network.as_deref() == Some("host") => {
            Some((port.container_port, None))
        }
        Workload::Docker(_) => {
            let address = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            Some((port.host_port.filter(|port| *port != 0)?, Some(address)))
        }
        Workload::Nomad(_) | Workload::Kubernetes(_) => None,
    }
}

/// One socket that keeps others from its port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) protocol: Protocol,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Whose it is.
    pub(super) uid: u32,
    pub(super) inode: u64,
}

/// All of them.
pub(super) struct Sockets {
    all: Vec<Socket>,
    /// Who has which inode open. Found out once, when the first port is taken: it means looking
    /// at every process.
    owners: OnceCell<HashMap<u64, Vec<u32>>>,
}

/// A process that has a socket open.
#[derive(Debug)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// As whom it runs; `None` = it has ended.
    user: Option<u32>,
    /// It and its ancestors.
    line: Vec<u32>,
    /// What it says about the instance that it belongs to.
    marks: Marks,
}

impl Sockets {
    /// Reads the kernel's tables. One that cannot be read holds nothing that is known.
    pub(super) fn read() -> Self {
        let tables = [
            ("tcp", Protocol::Tcp),
            ("tcp6", Protocol::Tcp),
            ("udp", Protocol::Udp),
            ("udp6", Protocol::Udp),
        ];
        let sockets = tables.into_iter().flat_map(|(name, protocol)| {
            let text = fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
            let lines: Vec<_> = text.lines().skip(1).map(str::to_owned).collect();
            lines
                .into_iter()
                .filter_map(move |line| socket(&line, protocol))
        });
        Self::of(sockets.collect())
    }

    /// These alone.
    pub(super) fn of(all: Vec<Socket>) -> Self {
        Self {
            all,
            owners: OnceCell::new(),
        }
    }

    /// One of them.
    pub(super) fn first(&self) -> Option<&Socket> {
        self.all.first()
    }

    /// The processes that have any of them open, as far as this user may see.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let all = self.all.iter();
        all.flat_map(|socket| self.holders_of(socket)).collect()
    }

    /// Those that take connections to `port`.
    pub(super) fn into_listening(self, port: u16) -> Vec<Socket> {
        let all = self.all.into_iter();
        all.filter(|socket| socket.protocol == Protocol::Tcp && socket.port == port)
            .collect()
    }

    /// The processes that have `socket` open, as far as this user may see.
    pub(super) fn holders_of(&self, socket: &Socket) -> Vec<Holder> {
        let pids = self.owners.get_or_init(owners).get(&socket.inode);
        let mut pids = pids.cloned().unwrap_or_default();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().map(Holder::of).collect()
    }

    /// Those that keep a component from `port` of `address`; without an address: of all, or of
    /// loopback, which programs mean by it.
    pub(super) fn taking(
        &self,
        protocol: Protocol,
        port: u16,
        address: Option<IpAddr>,
    ) -> impl Iterator<Item = &Socket> {
        let in_the_way = move |at: IpAddr| match address {
            _ if at.is_unspecified() => true,
            None => at == Ipv4Addr::LOCALHOST || at == Ipv6Addr::LOCALHOST,
            Some(address) => address.is_unspecified() || address == at,
        };
        self.all.iter().filter(move |socket| {
            socket.protocol == protocol && socket.port == port && in_the_way(socket.address)
        })
    }
}

/// One line of `/proc/net/{tcp,udp}{,6}`.
fn socket(line: &str, protocol: Protocol) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let wanted = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => UNCONNECTED,
        Protocol::Sctp => return None,
    };
    (state == wanted).then_some(())?;
    // After the state: queues, timer, retransmits, uid, timeout, inode.
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Socket {
        protocol,
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        uid,
        inode,
    })
}

/// An address as the kernel prints it: 32-bit words in the host's byte order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<u32>> = hex
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok())
        .collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(v4.into());
    }
    let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?);
    // A v6 socket that serves a v4 address.
    Some(v6.to_ipv4_mapped().map_or(v6.into(), IpAddr::from))
}

impl Socket {
    /// Whether it was closed since the tables were read.
    pub(super) fn is_gone(&self) -> bool {
        !Sockets::read().all.contains(self)
    }
}

/// The inodes of all sockets with the processes that have them open.
fn owners() -> HashMap<u64, Vec<u32>> {
    let mut owners = HashMap::<_, Vec<_>>::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // Another user's process shows nothing.
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        let links = open.into_iter().flatten().flatten();
        for link in links.filter_map(|entry| fs::read_link(entry.path()).ok()) {
            if let Some(inode) = inode_of(&link) {
                owners.entry(inode).or_default().push(pid);
            }
        }
    }
    owners
}

/// The inode of a socket, by what an open file's link says.
pub(super) fn inode_of(link: &Path) -> Option<u64> {
    let inode = link.to_str()?.strip_prefix("socket:[")?;
    inode.strip_suffix(']')?.parse().ok()
}

fn command_of(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let shown: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    match shown.char_indices().nth(COMMAND_LIMIT) {
        Some((end, _)) => format!("{}..", &shown[..end]),
        None => shown,
    }
}

impl Holder {
    fn of(pid: u32) -> Self {
        let line = std::iter::successors(Some(pid), |pid| Place::of(*pid)?.above());
        Self {
            pid,
            user: user_of(pid),
            // Pids are re-used while they are read: a ring would be endless.
            line: line.take(1000).collect(),
            marks: Marks::of(pid),
        }
    }

    /// Whether this process is the program of `instance`, or was forked by it.
    pub(super) fn belongs_to(&self, instance: &Running) -> bool {
        let program = instance.pid;
        program.is_some_and(|program| self.is_of(&instance.instance, program))
    }

    /// Whether this process is `program`, that of `instance`, or was forked by it.
    pub fn is_of(&self, instance: &InstanceId, program: u32) -> bool {
        self.line.contains(&program) || self.is_left_to_guardian(program) || {
            // One that left its guardian as well still bears the marks of its instance. They carry
            // its state directory, too, so that a namesake of another daemon is told apart. Anybody
            // can write them, so they are believed of the program's own user alone.
            let claims = self.marks.instance().as_ref() == Some(instance);
            let is_its_user = self.user.is_some() && self.user == user_of(program);
            claims && is_its_user && Marks::of(program) == self.marks
        }
    }

    /// Whether this is what `program` forked and left behind: its guardian is handed that, whatever
    /// the process has made of its session, its user and its environment.
    fn is_left_to_guardian(&self, program: u32) -> bool {
        let guardian = Place::of(program).and_then(|place| place.above());
        guardian.is_some_and(|guardian| {
            let leads = Place::of(guardian).is_some_and(|place| place.session == guardian);
            leads && self.line.contains(&guardian)
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, command_of(self.pid))
    }
}

/// Where a process stands among the others.
struct Place {
    parent: u32,
    /// The process that began its session.
    session: u32,
}

impl Place {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            parent: fields.nth(1)?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
        })
    }

    /// The parent, unless that is the first of all processes.
    fn above(&self) -> Option<u32> {
        (self.parent > 1).then_some(self.parent)
    }
}

/// As whom process `pid` runs; `None` = it has ended.
fn user_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The variables by which a process tells which instance it belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Marks(Vec<String>);

impl Marks {
    const INSTANCE: &str = "FLOWCTL_INSTANCE=";

    fn of(pid: u32) -> Self {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let pairs = environment.split(|byte| *byte == 0);
        let marks = pairs.filter(|pair| pair.starts_with(b"FLOWCTL_INSTANCE"));
        let mut marks: Vec<_> = marks
            .map(|pair| String::from_utf8_lossy(pair).into_owned())
            .collect();
        marks.sort();
        Self(marks)
    }

    fn instance(&self) -> Option<InstanceId> {
        let mut named = self
            .0
            .iter()
            .filter_map(|pair| pair.strip_prefix(Self::INSTANCE));
        named.next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    /// A program that is ended when this is dropped.
    struct Program(Child);

    impl Program {
        fn marked(instance: &str, user: Option<u32>) -> Self {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null());
            command.env_clear().env("FLOWCTL_INSTANCE", instance);
            command.env("FLOWCTL_INSTANCE_FILE", "/there/state/instances/one");
            if let Some(user) = user {
                command.uid(user);
            }
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn the_marks_of_an_instance_are_believed_of_the_user_of_its_program_alone() {
        let instance = "default.p.a.1.7";
        let id: InstanceId = instance.parse().unwrap();
        let program = Program::marked(instance, None);
        let is_its = |other: &Program| Holder::of(other.0.id()).is_of(&id, program.0.id());
        assert!(is_its(&program));
        assert!(is_its(&Program::marked(instance, None)), "a detached one");
        assert!(!is_its(&Program::marked("default.p.a.1.8", None)));
        if rustix::process::geteuid().is_root() {
            let strangers = Program::marked(instance, Some(65534));
            assert!(!is_its(&strangers), "whoever likes can write the marks");
        } else {
            println!("SKIPPED: only root may start programs of other users");
        }
    }

    #[test]
    fn the_kernels_tables_are_understood() {
        let v4 = "   0: 0100007F:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     \
                  0        0 102 1 000000003db03b69 100 0 0 10 0";
        let found = socket(v4, Protocol::Tcp).unwrap();
        assert_eq!(found.address, Ipv4Addr::LOCALHOST);
        assert_eq!((found.port, found.inode), (2024, 102));
        let v6 = v4.replace("0100007F", "00000000000000000000000001000000");
        assert_eq!(
            socket(&v6, Protocol::Tcp).unwrap().address,
            Ipv6Addr::LOCALHOST
        );
        let mapped = v4.replace("0100007F", "0000000000000000FFFF00000100007F");
        assert_eq!(
            socket(&mapped, Protocol::Tcp).unwrap().address,
            Ipv4Addr::LOCALHOST
        );
        let established = v4.replace(" 0A ", " 01 ");
        assert_eq!(socket(&established, Protocol::Tcp), None);
        for broken in ["", "0: x", "0: 0100007F:07E8 00000000:0000 0A"] {
            assert_eq!(socket(broken, Protocol::Tcp), None);
        }
    }
}
