//! What travels between driver, fork server and shim.
//!
//! The driver opens a socket pair per launch and passes one end to the fork server, which forks a
//! shim that inherits it. On that pair: the request, [`Reply::Ready`], [`GO`], and the last reply.
//! The request is read in place, so a shim needs no heap for it.
//!
//! For a program that is run beside an instance, as an exec probe, the request is a [`Program`]; the
//! answers are [`Reply::Started`] and, at its end, [`Ran`] with what it wrote.

use std::ffi::{CStr, CString, NulError};

use crate::model::StopTarget;

/// The driver's word that the shim may start the program.
pub(super) const GO: u8 = b'G';

/// The largest request; over Linux's own limit for arguments and environment together.
pub(super) const MAX_REQUEST: usize = 16 << 20;

/// All that a shim needs to know.
pub(super) struct Request<'a> {
    /// The instance's file.
    pub(super) file: &'a CStr,
    /// The replica's log directory, made when there is something to log.
    pub(super) logs: &'a CStr,
    /// The file that counts kills of this instance for want of memory; empty = there is none.
    pub(super) oom: &'a CStr,
    /// The file that kills all of its control group; empty = there is none.
    pub(super) kill: &'a CStr,
    /// The present boot.
    pub(super) boot_id: &'a CStr,
    /// Which run of the replica this is.
    pub(super) incarnation: u64,
    /// A log file ends at this size.
    pub(super) max_log_size: u64,
    /// Log files kept.
    pub(super) max_log_files: u64,
    /// The program.
    pub(super) program: Program<'a>,
}

/// A program to run, and all that it finds around it: as much for that of an instance as for one
/// of its probes. What is not here is the same for all, and the fork server's.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    /// Resource limits.
    pub(super) limits: Limits,
    /// Bits that files which it makes do not get.
    pub(super) umask: u32,
    /// Whether set-uid bits and file capabilities mean anything to it.
    pub(super) privileges: NewPrivileges,
    /// Whom to become.
    pub(super) credentials: Option<Credentials<'a>>,
    /// Files of control groups to which it writes itself.
    pub(super) groups: Strings<'a>,
    /// Where it runs; entered after the change of user.
    pub(super) working_dir: &'a CStr,
    /// Paths of the program to try in turn, as `execvp` does.
    pub(super) candidates: Strings<'a>,
    /// With `argv[0]`.
    pub(super) argv: Strings<'a>,
    /// `NAME=value`.
    pub(super) envp: Strings<'a>,
}

/// Resource limits of a program, soft and hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Open files.
    pub(super) nofile: (u64, u64),
    /// Bytes of a core dump; `None` = none, unless the program raises it.
    pub(super) core: Option<u64>,
}

/// Whether a program may have more rights than the one that executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewPrivileges {
    /// Set-uid bits and file capabilities are ignored, for it and all that it starts.
    Denied,
    /// They mean what they say.
    Allowed,
}

/// Whom a program becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Credentials<'a> {
    /// User id.
    pub(super) uid: u32,
    /// Group id.
    pub(super) gid: u32,
    /// All groups, as native 32-bit numbers one after the other.
    pub(super) groups: &'a [u8],
}

/// Terminated strings one after the other.
#[derive(Clone, Copy)]
pub(super) struct Strings<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Strings<'a> {
    /// How many.
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// Each of them.
    pub(super) fn iter(self) -> impl Iterator<Item = &'a CStr> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let string = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[string.count_bytes() + 1..];
            Some(string)
        })
        .take(self.count)
    }
}

/// Strings that are being put together.
#[derive(Default)]
pub(super) struct StringList {
    count: usize,
    bytes: Vec<u8>,
}

impl StringList {
    /// Adds one more.
    ///
    /// # Errors
    /// When it holds a NUL byte, which no argument or variable can.
    pub(super) fn push(&mut self, string: impl Into<Vec<u8>>) -> Result<(), NulError> {
        self.bytes
            .extend_from_slice(CString::new(string)?.as_bytes_with_nul());
        self.count += 1;
        Ok(())
    }

    /// The list as it is sent.
    pub(super) fn as_strings(&self) -> Strings<'_> {
        Strings {
            count: self.count,
            bytes: &self.bytes,
        }
    }
}

impl<'a> Request<'a> {
    /// The request in `body`, without its length; `None` when it is malformed.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        Some(Self {
            file: reader.string()?,
            logs: reader.string()?,
            oom: reader.string()?,
            kill: reader.string()?,
            boot_id: reader.string()?,
            incarnation: reader.number()?,
            max_log_size: reader.number()?,
            max_log_files: reader.number()?,
            program: reader.program()?,
        })
    }

    /// The request as it is sent, its length in front. The order is that of [`Request::read`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(vec![0; 4]);
        for string in [self.file, self.logs, self.oom, self.kill, self.boot_id] {
            writer.blob(string.to_bytes_with_nul());
        }
        for number in [self.incarnation, self.max_log_size, self.max_log_files] {
            writer.number(number);
        }
        writer.program(&self.program);
        writer.sealed()
    }
}

impl<'a> Program<'a> {
    /// The program in `body`, which is all of a request for one beside an instance; `None` when it
    /// is malformed.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        Reader(body).program()
    }

    /// The request as it is sent, its length in front.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(vec![0; 4]);
        writer.program(self);
        writer.sealed()
    }
}

struct Writer(Vec<u8>);

impl Writer {
    /// All that was written, its length in front.
    fn sealed(mut self) -> Vec<u8> {
        // A body over 4 GiB would wrap, and is over `MAX_REQUEST` by far.
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    /// In the order of [`Reader::program`].
    fn program(&mut self, program: &Program<'_>) {
        self.number(program.limits.nofile.0);
        self.number(program.limits.nofile.1);
        self.option(program.limits.core);
        self.number(u64::from(program.umask));
        self.number(match program.privileges {
            NewPrivileges::Denied => 0,
            NewPrivileges::Allowed => 1,
        });
        self.option(program.credentials.map(|who| u64::from(who.uid)));
        if let Some(who) = program.credentials {
            self.number(u64::from(who.gid));
            self.blob(who.groups);
        }
        self.strings(program.groups);
        self.blob(program.working_dir.to_bytes_with_nul());
        for strings in [program.candidates, program.argv, program.envp] {
            self.strings(strings);
        }
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_ne_bytes());
    }

    fn option(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }

    fn blob(&mut self, blob: &[u8]) {
        self.number(blob.len() as u64);
        self.0.extend_from_slice(blob);
    }

    fn strings(&mut self, strings: Strings<'_>) {
        self.number(strings.count as u64);
        self.blob(strings.bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    fn option(&mut self) -> Option<Option<u64>> {
        let present = self.number()? != 0;
        let number = self.number()?;
        Some(present.then_some(number))
    }

    fn blob(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        self.bytes(count)
    }

    fn string(&mut self) -> Option<&'a CStr> {
        CStr::from_bytes_with_nul(self.blob()?).ok()
    }

    fn strings(&mut self) -> Option<Strings<'a>> {
        let count = usize::try_from(self.number()?).ok()?;
        let bytes = self.blob()?;
        // The count decides about memory, so it is not believed.
        let are_all = memchr::memchr_iter(0, bytes).count() == count;
        let is_ended = bytes.last().is_none_or(|last| *last == 0);
        (are_all && is_ended).then_some(Strings { count, bytes })
    }

    fn program(&mut self) -> Option<Program<'a>> {
        Some(Program {
            limits: Limits {
                nofile: (self.number()?, self.number()?),
                core: self.option()?,
            },
            umask: u32::try_from(self.number()?).ok()?,
            privileges: match self.number()? {
                0 => NewPrivileges::Denied,
                1 => NewPrivileges::Allowed,
                _ => return None,
            },
            credentials: match self.option()? {
                None => None,
                Some(uid) => Some(Credentials {
                    uid: u32::try_from(uid).ok()?,
                    gid: u32::try_from(self.number()?).ok()?,
                    groups: self.blob()?,
                }),
            },
            groups: self.strings()?,
            working_dir: self.string()?,
            candidates: self.strings()?,
            argv: self.strings()?,
            envp: self.strings()?,
        })
    }
}

/// Where a start stopped. The numbers are kept in the files of instances: only ever add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// The fork server could not make a shim.
    Shim = 1,
    /// The shim could not read its request or claim its file.
    Claim = 2,
    /// The shim could not make pipes or a process.
    Spawn = 3,
    /// setpgid.
    Session = 4,
    /// setrlimit.
    Limits = 5,
    /// setgroups.
    Groups = 6,
    /// setresgid.
    Group = 7,
    /// setresuid, or it could be undone.
    User = 8,
    /// prctl.
    Privileges = 9,
    /// dup2.
    Descriptors = 10,
    /// chdir.
    WorkingDir = 11,
    /// execve.
    Exec = 12,
    /// Joining a control group.
    Cgroup = 13,
}

impl Stage {
    /// The stage of this number; `None` = one of a later release.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Shim,
            2 => Self::Claim,
            3 => Self::Spawn,
            4 => Self::Session,
            5 => Self::Limits,
            6 => Self::Groups,
            7 => Self::Group,
            8 => Self::User,
            9 => Self::Privileges,
            10 => Self::Descriptors,
            11 => Self::WorkingDir,
            12 => Self::Exec,
            13 => Self::Cgroup,
            _ => return None,
        })
    }
}

/// What a shim answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Its identity is in its file; it waits for [`GO`].
    Ready {
        /// The shim's pid.
        pid: u32,
        /// Its start time in clock ticks since boot.
        ticks: u64,
    },
    /// The program runs.
    Started {
        /// The program's pid.
        pid: u32,
        /// Its start time in clock ticks since boot.
        ticks: u64,
        /// When, in milliseconds since the Unix epoch.
        at: i64,
    },
    /// Nothing was started.
    Failed {
        /// Where it stopped.
        stage: Stage,
        /// The error number.
        errno: i32,
        /// When, in milliseconds since the Unix epoch.
        at: i64,
    },
}

impl Reply {
    /// Bytes of every reply.
    pub(super) const SIZE: usize = 24;

    /// The reply as it is sent.
    pub(super) fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (kind, stage, small, ticks, at) = match self {
            Self::Ready { pid, ticks } => (1, 0, pid.to_ne_bytes(), ticks, 0),
            Self::Started { pid, ticks, at } => (2, 0, pid.to_ne_bytes(), ticks, at),
            Self::Failed { stage, errno, at } => (3, stage as u8, errno.to_ne_bytes(), 0, at),
        };
        bytes[0] = kind;
        bytes[1] = stage;
        bytes[4..8].copy_from_slice(&small);
        bytes[8..16].copy_from_slice(&ticks.to_ne_bytes());
        bytes[16..24].copy_from_slice(&at.to_ne_bytes());
        bytes
    }

    /// The reply in `bytes`; `None` when it is none.
    pub(super) fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let small: [u8; 4] = bytes[4..8].try_into().ok()?;
        let ticks = u64::from_ne_bytes(bytes[8..16].try_into().ok()?);
        let at = i64::from_ne_bytes(bytes[16..24].try_into().ok()?);
        let pid = u32::from_ne_bytes(small);
        Some(match bytes[0] {
            1 => Self::Ready { pid, ticks },
            2 => Self::Started { pid, ticks, at },
            3 => Self::Failed {
                stage: Stage::from_number(bytes[1])?,
                errno: i32::from_ne_bytes(small),
                at,
            },
            _ => return None,
        })
    }
}

/// How a program that was run beside an instance ended, and the beginning of what it wrote. It
/// follows [`Reply::Started`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    /// Its exit code, or the number of the signal that ended it, negative.
    pub(super) status: i32,
    /// Bytes of output that follow.
    pub(super) output: u32,
}

impl Ran {
    /// So much output is kept; the rest is read and dropped, so that the program never blocks on it.
    pub(super) const OUTPUT: usize = 4 << 10;
    /// Bytes of the answer, without the output.
    pub(super) const SIZE: usize = 8;

    /// The answer as it is sent.
    pub(super) fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.status.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.output.to_ne_bytes());
        bytes
    }

    /// The answer in `bytes`; `None` when more output is announced than is ever kept.
    pub(super) fn decode(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let output = u32::from_ne_bytes([e, f, g, h]);
        (output as usize <= Self::OUTPUT).then_some(Self {
            status: i32::from_ne_bytes([a, b, c, d]),
            output,
        })
    }
}

/// What a driver asks of a running shim, carried as the payload of one queued signal. The layout
/// is an interface between releases: only ever add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StopOrder {
    /// Sent first.
    pub(super) signal: u8,
    /// To whom.
    pub(super) to: StopTarget,
    /// After so many milliseconds everything is killed.
    pub(super) grace_ms: u64,
}

/// Which orders a shim understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Orders {
    /// Only those of the first release, which say nothing of whom the signal goes to: its program's
    /// group.
    #[default]
    Group,
    /// All of [`StopOrder`].
    Whom,
}

impl Orders {
    /// What a shim of this release writes of itself.
    pub(super) const OURS: u8 = 2;

    /// What a shim that wrote `number`, or nothing, understands.
    pub(super) fn from_number(number: Option<u8>) -> Self {
        match number {
            Some(Self::OURS..) => Self::Whom,
            Some(_) | None => Self::Group,
        }
    }
}

impl StopOrder {
    /// The kind of the first release: to the group.
    const GROUP: u64 = 1;
    const ALL: u64 = 2;
    const MAIN: u64 = 3;

    /// The order as a payload: signal in byte 0, kind in byte 1, grace above.
    pub(super) fn encode(self) -> u64 {
        let kind = match self.to {
            StopTarget::Group => Self::GROUP,
            StopTarget::All => Self::ALL,
            StopTarget::Main => Self::MAIN,
        };
        let grace = self.grace_ms.min((1 << 48) - 1);
        grace << 16 | kind << 8 | u64::from(self.signal)
    }

    /// The order in `payload`; `None` = one of a later release, or noise.
    pub(super) fn decode(payload: u64) -> Option<Self> {
        let signal = u8::try_from(payload & 0xff).ok()?;
        let to = match (payload >> 8) & 0xff {
            Self::GROUP => StopTarget::Group,
            Self::ALL => StopTarget::All,
            Self::MAIN => StopTarget::Main,
            _ => return None,
        };
        (1..=64).contains(&signal).then_some(Self {
            signal,
            to,
            grace_ms: payload >> 16,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let list = |words: &[&str]| {
            let mut list = StringList::default();
            words.iter().for_each(|word| list.push(*word).unwrap());
            list
        };
        let groups: Vec<u8> = [7u32, 8].iter().flat_map(|g| g.to_ne_bytes()).collect();
        let [candidates, argv, envp] = [
            list(&["/bin/a", "/usr/bin/a"]),
            list(&["a", ""]),
            list(&["X=1"]),
        ];
        let groups_to_join = list(&["/sys/fs/cgroup/x"]);
        let sent = Request {
            file: c"/file",
            logs: c"/logs",
            oom: c"",
            kill: c"",
            boot_id: c"boot",
            incarnation: 3,
            max_log_size: 10,
            max_log_files: 5,
            program: Program {
                limits: Limits {
                    nofile: (1024, 4096),
                    core: Some(0),
                },
                umask: 0o027,
                privileges: NewPrivileges::Denied,
                credentials: Some(Credentials {
                    uid: 65534,
                    gid: 7,
                    groups: &groups,
                }),
                groups: groups_to_join.as_strings(),
                working_dir: c"/tmp",
                candidates: candidates.as_strings(),
                argv: argv.as_strings(),
                envp: envp.as_strings(),
            },
        }
        .encode();
        let read = Request::read(&sent[4..]).unwrap().program;
        assert_eq!(read.credentials.unwrap().groups, groups);
        assert_eq!(read.limits.core, Some(0));
        assert_eq!(read.umask, 0o027);
        assert_eq!(read.privileges, NewPrivileges::Denied);
        assert_eq!(read.working_dir, c"/tmp");
        let argv: Vec<_> = read.argv.iter().collect();
        assert_eq!(argv, [c"a", c""]);
        assert_eq!(read.envp.count(), 1);
        let alone = read.encode();
        assert_eq!(Program::read(&alone[4..]).unwrap().umask, 0o027);
        for cut in 0..sent.len() - 4 {
            assert!(Request::read(&sent[4..4 + cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_nul_byte_is_refused_before_anything_starts() {
        assert!(StringList::default().push("a\0b").is_err());
    }

    #[test]
    fn replies_and_orders_survive_their_encoding() {
        for reply in [
            Reply::Ready { pid: 7, ticks: 9 },
            Reply::Started {
                pid: 7,
                ticks: u64::MAX,
                at: -1,
            },
            Reply::Failed {
                stage: Stage::Exec,
                errno: 2,
                at: 5,
            },
        ] {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        let ran = Ran {
            status: -9,
            output: 7,
        };
        assert_eq!(Ran::decode(ran.encode()), Some(ran));
        assert_eq!(Ran::decode([0xff; Ran::SIZE]), None);
        for to in [StopTarget::All, StopTarget::Group, StopTarget::Main] {
            // The last is a real-time signal.
            for signal in [15, 37] {
                let order = StopOrder {
                    signal,
                    to,
                    grace_ms: 10_000,
                };
                assert_eq!(StopOrder::decode(order.encode()), Some(order));
            }
        }
        assert_eq!(StopOrder::decode(0), None);
        // As the first release sent it.
        let first = 10_000 << 16 | 1 << 8 | 15;
        let group = StopOrder::decode(first).map(|order| order.to);
        assert_eq!(group, Some(StopTarget::Group));
    }
}
