//! What the file of an instance holds, and how both sides write it.
//!
//! One file for each: making and removing inodes is most of what a start costs the disk. It begins
//! with the shim's part: who guards, what runs, how it ended. That is four lines of fixed width in
//! one disk block, there from the beginning and overwritten in place, so it can be written on a
//! full disk, is never torn (each line ends with a checksum) and is read with one system call. A
//! line that is blank has not happened yet:
//!
//! ```text
//! shim BOOT_ID PID TICKS ORDERS              this process guards the instance
//! child PID TICKS AT | failed STAGE ERRNO AT its program started, or could not
//! exit code|signal N OOM AT [all]            its program ended
//! gone AT KILLED | lost AT                   nothing is left; the guardian died
//! ```
//!
//! The driver's part follows, as JSON: what was started. It is complete before a shim is asked for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::model::{
    ComponentSpec, Exit, ExitStatus, Generation, InstanceId, ProcessIdentity, Signal, Timestamp,
};

use super::text::{Text, hash};
use super::wire::{Orders, Stage};

/// What was started: all that a lost store needs to know about a running instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    /// The form of this description.
    pub(super) schema: Schema,
    /// The instance.
    pub(super) instance: InstanceId,
    /// The boot in which it was started.
    pub(super) boot_id: String,
    /// The pipeline's generation by which it was decided.
    pub(super) generation: Generation,
    /// The pipeline's file.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::model::path::optional"
    )]
    pub(super) file: Option<PathBuf>,
    /// Names of the injected variables; their values may be secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) injected: Vec<String>,
    /// Its component.
    pub(super) spec: Arc<ComponentSpec>,
}

/// The form of a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Schema {
    /// The first.
    #[serde(rename = "flowctl.instance/v1")]
    V1,
}

/// What a shim recorded.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Who guards the instance.
    pub(super) shim: Option<ProcessIdentity>,
    /// Which orders it understands.
    pub(super) orders: Orders,
    /// Whether its program started.
    pub(super) start: Option<Start>,
    /// How its program ended.
    pub(super) exit: Option<Exit>,
    /// Whether the shim had been asked to end by then, as everything is when a host goes down.
    pub(super) all_asked: bool,
    /// That nothing is left.
    pub(super) end: Option<End>,
}

/// Whether the program started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It did.
    Running {
        /// The program.
        child: ProcessIdentity,
        /// When it started.
        since: Timestamp,
    },
    /// It did not.
    Failed {
        /// Where that stopped; `None` = a stage of a later release.
        stage: Option<Stage>,
        /// The error number.
        errno: i32,
        /// When.
        at: Timestamp,
    },
}

/// That nothing is left of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its shim saw to it.
    Gone {
        /// Processes that were still there when the grace period of a stop was over.
        killed: u32,
    },
    /// Its shim died, and a driver saw to it.
    Lost {
        /// When that was seen.
        at: Timestamp,
    },
}

/// One line of the shim's part.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line<'a> {
    /// Line 1.
    Shim {
        /// The present boot.
        boot_id: &'a str,
        /// The shim's pid.
        pid: u32,
        /// Its start time in clock ticks since boot.
        ticks: u64,
    },
    /// Line 2.
    Child {
        /// The program's pid.
        pid: u32,
        /// Its start time in clock ticks since boot.
        ticks: u64,
        /// When, in milliseconds since the Unix epoch.
        at: i64,
    },
    /// Line 2.
    Failed {
        /// Where it stopped.
        stage: Stage,
        /// The error number.
        errno: i32,
        /// When.
        at: i64,
    },
    /// Line 3.
    Exit {
        /// How the program ended.
        status: Ended,
        /// Whether the out-of-memory killer did it.
        oom: bool,
        /// When.
        at: i64,
        /// Whether the shim had been asked to end by then.
        all_asked: bool,
    },
    /// Line 4.
    Gone {
        /// When.
        at: i64,
        /// Processes that were still there when the grace period of a stop was over.
        killed: u32,
    },
    /// Line 4.
    Lost {
        /// When.
        at: i64,
    },
}

/// How a program ended, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// Bytes of a line, its newline included.
const WIDTH: usize = 128;
/// Bytes of the shim's part.
const SIZE: usize = 4 * WIDTH;

const BLANK: [u8; WIDTH] = {
    let mut blank = [b' '; WIDTH];
    blank[WIDTH - 1] = b'\n';
    blank
};

/// Where the checksum of a line starts.
const SUM: usize = WIDTH - 17;

impl Line<'_> {
    fn position(&self) -> usize {
        match self {
            Self::Shim { .. } => 0,
            Self::Child { .. } | Self::Failed { .. } => WIDTH,
            Self::Exit { .. } => 2 * WIDTH,
            Self::Gone { .. } | Self::Lost { .. } => 3 * WIDTH,
        }
    }

    fn row(&self) -> [u8; WIDTH] {
        let text = match *self {
            Self::Shim {
                boot_id,
                pid,
                ticks,
            } => {
                let orders = Orders::OURS;
                Text::<WIDTH>::format(format_args!("shim {boot_id} {pid} {ticks} {orders}"))
            }
            Self::Child { pid, ticks, at } => {
                Text::format(format_args!("child {pid} {ticks} {at}"))
            }
            Self::Failed { stage, errno, at } => {
                Text::format(format_args!("failed {} {errno} {at}", stage as u8))
            }
            Self::Exit {
                status,
                oom,
                at,
                all_asked,
            } => {
                let (what, number) = match status {
                    Ended::Code(code) => ("code", code),
                    Ended::Signal(signal) => ("signal", signal),
                };
                let oom = u8::from(oom);
                let all = if all_asked { " all" } else { "" };
                Text::format(format_args!("exit {what} {number} {oom} {at}{all}"))
            }
            Self::Gone { at, killed } => Text::format(format_args!("gone {at} {killed}")),
            Self::Lost { at } => Text::format(format_args!("lost {at}")),
        };
        let text = text.as_bytes();
        debug_assert!(text.len() < SUM, "a line fits its width");
        let mut row = BLANK;
        row[..text.len()].copy_from_slice(text);
        let sum = Text::<17>::format(format_args!("{:016x}", hash(&row[..SUM])));
        row[SUM..WIDTH - 1].copy_from_slice(sum.as_bytes());
        row
    }
}

/// The shim's part, open for writing.
pub(super) struct StateFile(OwnedFd);

impl StateFile {
    /// Claims the instance for this shim: fails with [`Errno::EXIST`] when another did.
    pub(super) fn claim(path: impl rustix::path::Arg, line: &Line<'_>) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        // Held for as long as the shim lives; after that its line is there.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Errno::EXIST),
            locked => locked?,
        }
        let mut first = BLANK;
        if rustix::io::pread(&file, &mut first, 0)? != WIDTH || first != BLANK {
            return Err(Errno::EXIST);
        }
        let state = Self(file);
        state.write(line)?;
        Ok(state)
    }

    /// Opens the file of an instance whose shim is dead.
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Self)
    }

    /// Writes one line.
    pub(super) fn write(&self, line: &Line<'_>) -> Result<(), Errno> {
        rustix::io::pwrite(&self.0, &line.row(), line.position() as u64).map(drop)
    }
}

impl State {
    /// Reads the shim's part of an instance's file; `None` when no shim has claimed it.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is damaged and stays so.
    pub(super) fn read(path: &Path) -> std::io::Result<Option<Self>> {
        // A line that is being written may be seen half; it is whole a moment later.
        const TRIES: u32 = 50;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        for attempt in 1.. {
            let mut block = [0; SIZE];
            // The driver died while it wrote, so no shim was asked for; or the power went before
            // the file reached the disk, and what it was about with it.
            if rustix::io::pread(&file, &mut block, 0)? < SIZE || block == [0; SIZE] {
                return Ok(None);
            }
            if let Some(state) = Self::parse(&block) {
                return Ok(state.shim.is_some().then_some(state));
            }
            if attempt == TRIES {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "its lines do not match their checksums",
        ))
    }

    fn parse(block: &[u8; SIZE]) -> Option<Self> {
        let mut state = Self::default();
        let mut boot = String::new();
        for row in block.chunks_exact(WIDTH) {
            if row == BLANK {
                continue;
            }
            let sum = std::str::from_utf8(&row[SUM..WIDTH - 1]).ok()?;
            if u64::from_str_radix(sum, 16).ok()? != hash(&row[..SUM]) {
                return None;
            }
            let mut words = std::str::from_utf8(&row[..SUM])
                .ok()?
                .split_ascii_whitespace();
            match words.next()? {
                "shim" => {
                    boot = words.next()?.to_owned();
                    state.shim = Some(identity(&boot, &mut words)?);
                    // The first release said nothing.
                    let orders = words.next().and_then(|word| word.parse().ok());
                    state.orders = Orders::from_number(orders);
                }
                "child" => {
                    state.start = Some(Start::Running {
                        child: identity(&boot, &mut words)?,
                        since: moment(&mut words)?,
                    });
                }
                "failed" => {
                    state.start = Some(Start::Failed {
                        stage: Stage::from_number(words.next()?.parse().ok()?),
                        errno: words.next()?.parse().ok()?,
                        at: moment(&mut words)?,
                    });
                }
                "exit" => {
                    let what = words.next()?;
                    let number = words.next()?.parse().ok()?;
                    let status = match what {
                        "code" => ExitStatus::Code(number),
                        "signal" => Signal::from_number(number)
                            .map_or(ExitStatus::Unknown, ExitStatus::Signal),
                        _ => ExitStatus::Unknown,
                    };
                    let oom = words.next()? == "1";
                    let started_at = match &state.start {
                        Some(Start::Running { since, .. }) => Some(*since),
                        Some(Start::Failed { .. }) | None => None,
                    };
                    state.exit = Some(Exit {
                        status,
                        oom,
                        started_at,
                        at: moment(&mut words)?,
                        killed: 0,
                    });
                    // Earlier releases said nothing more.
                    state.all_asked = words.next() == Some("all");
                }
                "gone" => {
                    // The first release said nothing more.
                    let killed = words.nth(1).and_then(|word| word.parse().ok());
                    let killed = killed.unwrap_or_default();
                    state.end = Some(End::Gone { killed });
                }
                "lost" => {
                    state.end = Some(End::Lost {
                        at: moment(&mut words)?,
                    });
                }
                _ => return None,
            }
        }
        Some(state)
    }
}

fn identity<'a>(boot: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<ProcessIdentity> {
    Some(ProcessIdentity {
        boot_id: boot.to_owned(),
        pid: words.next()?.parse().ok()?,
        start_ticks: words.next()?.parse().ok()?,
    })
}

fn moment<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Timestamp> {
    Some(Timestamp::from_millis(words.next()?.parse().ok()?))
}

impl Description {
    /// Reads the description of an instance; `None` when there is none, or half of one.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(super) fn read(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(file) => Ok(file
                .get(SIZE..)
                .and_then(|text| serde_json::from_slice(text).ok())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the file of an instance, which is nobody's yet.
    ///
    /// # Errors
    /// When it exists, or cannot be written.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = [BLANK; SIZE / WIDTH].concat();
        serde_json::to_writer(&mut file, self)?;
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?
            .write_all(&file)
    }
}

/// Reads `bytes` as the file of an instance: as it is, and with the checksums that it should have.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(bytes: &[u8]) {
    let mut block = [b' '; SIZE];
    let len = bytes.len().min(SIZE);
    block[..len].copy_from_slice(&bytes[..len]);
    let as_it_is = State::parse(&block);
    for row in block.chunks_exact_mut(WIDTH) {
        let sum = format!("{:016x}", hash(&row[..SUM]));
        row[SUM..WIDTH - 1].copy_from_slice(sum.as_bytes());
    }
    for state in [as_it_is, State::parse(&block)].into_iter().flatten() {
        assert!(!format!("{state:?}").is_empty());
    }
    let description = bytes.get(SIZE..).unwrap_or(bytes);
    if let Ok(read) = serde_json::from_slice::<Description>(description) {
        serde_json::to_vec(&read).expect("what was read can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that no shim has claimed.
    fn unclaimed() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.a.0.1");
        std::fs::write(&path, [BLANK; SIZE / WIDTH].concat()).unwrap();
        (dir, path)
    }

    const SHIM: Line<'_> = Line::Shim {
        boot_id: "36f2b1d4-8a55-4a07-9c63-e1f2a3b4c5d6",
        pid: u32::MAX,
        ticks: u64::MAX,
    };

    #[test]
    fn a_life_is_read_back_as_it_was_written() {
        let (_dir, path) = unclaimed();
        assert_eq!(State::read(&path).unwrap(), None);
        let file = StateFile::claim(&path, &SHIM).unwrap();
        for line in [
            Line::Child {
                pid: 7,
                ticks: 8,
                at: 9,
            },
            Line::Exit {
                status: Ended::Signal(11),
                oom: true,
                at: i64::MAX / 2,
                all_asked: true,
            },
            Line::Gone { at: 12, killed: 3 },
        ] {
            file.write(&line).unwrap();
        }
        let state = State::read(&path).unwrap().unwrap();
        assert_eq!(state.shim.unwrap().start_ticks, u64::MAX);
        let exit = state.exit.unwrap();
        assert_eq!(
            exit.status,
            ExitStatus::Signal(Signal::from_number(11).unwrap())
        );
        assert_eq!(exit.started_at, Some(Timestamp::from_millis(9)));
        assert!(exit.oom && state.all_asked);
        assert_eq!(state.end, Some(End::Gone { killed: 3 }));
        assert_eq!(state.orders, Orders::Whom);
    }

    #[test]
    fn one_instance_is_claimed_once_while_its_shim_lives_and_after() {
        let (_dir, path) = unclaimed();
        let claimed = StateFile::claim(&path, &SHIM).unwrap();
        assert_eq!(StateFile::claim(&path, &SHIM).err(), Some(Errno::EXIST));
        drop(claimed);
        assert_eq!(StateFile::claim(&path, &SHIM).err(), Some(Errno::EXIST));
    }

    #[test]
    fn lines_of_the_first_release_are_read() {
        let (_dir, path) = unclaimed();
        let lines = [
            (0, "shim 36f2b1d4-8a55-4a07-9c63-e1f2a3b4c5d6 7 8"),
            (3, "gone 12"),
        ];
        let mut file = std::fs::read(&path).unwrap();
        for (line, text) in lines {
            let row = &mut file[line * WIDTH..(line + 1) * WIDTH];
            row[..text.len()].copy_from_slice(text.as_bytes());
            let sum = format!("{:016x}", hash(&row[..SUM]));
            row[SUM..WIDTH - 1].copy_from_slice(sum.as_bytes());
        }
        std::fs::write(&path, file).unwrap();
        let state = State::read(&path).unwrap().unwrap();
        assert_eq!(state.orders, Orders::Group);
        assert_eq!(state.end, Some(End::Gone { killed: 0 }));
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let (_dir, path) = unclaimed();
        StateFile::claim(&path, &SHIM).unwrap();
        let good = std::fs::read(&path).unwrap();
        for position in (0..SIZE).step_by(7) {
            let mut bad = good.clone();
            bad[position] ^= 0x41;
            let block: &[u8; SIZE] = bad.as_slice().try_into().unwrap();
            assert_eq!(State::parse(block), None, "byte {position}");
        }
    }

    #[test]
    fn a_half_written_file_was_claimed_by_nobody() {
        let (_dir, path) = unclaimed();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, WIDTH, SIZE - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(State::read(&path).unwrap(), None, "{length} bytes");
        }
        // What a file system may show of it after a power cut.
        std::fs::write(&path, [0; 2 * SIZE]).unwrap();
        assert_eq!(State::read(&path).unwrap(), None);
    }
}
