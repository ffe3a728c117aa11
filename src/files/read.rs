//! Reading one file, for as long as somebody wants it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// What takes longer is told to those who wait.
const SLOW: Duration = Duration::from_secs(1);

/// How long a file is waited for.
pub struct Patience<'a> {
    /// After this it fails.
    pub deadline: Duration,
    /// Cancelled when nobody wants it any more.
    pub given_up: &'a CancellationToken,
    /// Hears, once, what is waited for when it takes long.
    pub tell: &'a (dyn Fn(Wait) + Send + Sync),
}

/// What a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For somebody who writes to a named pipe.
    Writer,
    /// For a file system to answer.
    FileSystem,
}

impl fmt::Display for Wait {
    /// As it follows the file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "is a named pipe that nobody has written to",
            Self::FileSystem => "does not answer: its file system or device hangs",
        })
    }
}

/// Why a file was not read. Shown as the end of a sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused it.
    #[error("{}", in_words(.0))]
    Io(#[from] io::Error),
    /// It is a folder.
    #[error("is a directory")]
    Directory,
    /// It has no end that could be waited for.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// So much is read.
        limit: u64,
    },
    /// It gave nothing in time.
    #[error("{wait}, for {}", crate::model::HumanDuration::new(*waited))]
    Hangs {
        /// What was waited for.
        wait: Wait,
        /// How long.
        waited: Duration,
    },
    /// What was opened is not what is wanted, in the words of whoever judged it.
    #[error("{0}")]
    Refused(String),
    /// Nobody wants it any more.
    #[error("is not wanted any more")]
    GivenUp,
}

/// Looks at a file that was opened at a path, before anything of it is read; answers why it must not
/// be.
pub type Judge = fn(&Path, &File) -> Result<(), String>;

/// Which file is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Beyond so many bytes it is refused.
    pub limit: u64,
    /// Judges what is found there.
    pub judge: Judge,
}

fn in_words(error: &io::Error) -> String {
    let is = |kind| error.kind() == kind;
    if is(io::ErrorKind::NotFound) {
        "does not exist: create it, or correct its path".to_owned()
    } else if is(io::ErrorKind::PermissionDenied) {
        "may not be read by the daemon's user".to_owned()
    } else if is(io::ErrorKind::WouldBlock) {
        "gives nothing to read".to_owned()
    } else {
        format!("cannot be read: {error}")
    }
}

/// What a look at a file found.
#[derive(Debug)]
pub enum Looked {
    /// All that it holds.
    Whole(Vec<u8>),
    /// A named pipe, which is read once, by the start.
    Pipe,
}

/// What a thread brings back.
enum Opened {
    Whole(Vec<u8>),
    /// `None` = it was not opened, since that would take what somebody wrote.
    Pipe(Option<File>),
}

/// Whether a pipe is opened.
#[derive(Clone, Copy)]
enum Pipes {
    Opened,
    LeftAlone,
}

/// Reads all of a file. A named pipe is read once somebody writes to it, to the end of what that one
/// writes.
///
/// # Errors
/// Why there is nothing, see [`ReadError`].
pub async fn read(wanted: Wanted<'_>, patience: &Patience<'_>) -> Result<Vec<u8>, ReadError> {
    let begun = Instant::now();
    let reading = async {
        let opened = opened(wanted, begun, patience);
        match until(begun, patience, Wait::FileSystem, opened).await? {
            Opened::Whole(bytes) => Ok(bytes),
            Opened::Pipe(Some(pipe)) => {
                let drained = drained(pipe, wanted.limit, begun, patience);
                until(begun, patience, Wait::Writer, drained).await
            }
            Opened::Pipe(None) => Ok(Vec::new()),
        }
    };
    tokio::select! {
        biased;
        () = patience.given_up.cancelled() => Err(ReadError::GivenUp),
        read = reading => read,
    }
}

async fn until<T>(
    begun: Instant,
    patience: &Patience<'_>,
    wait: Wait,
    work: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReadError> {
    let waited = patience.deadline;
    let in_time = timeout_at(begun + waited, work).await;
    in_time.unwrap_or(Err(ReadError::Hangs { wait, waited }))
}

/// The bytes of a file, or the pipe that it is, from a thread of its own.
async fn opened(
    wanted: Wanted<'_>,
    begun: Instant,
    patience: &Patience<'_>,
) -> Result<Opened, ReadError> {
    let slow = begun + SLOW;
    let mut told = false;
    // A second thread would only hang beside one that hangs there already.
    while let Some(over) = hanging(wanted.path) {
        if !told && timeout_at(slow, over.cancelled()).await.is_err() {
            (patience.tell)(Wait::FileSystem);
            told = true;
        }
        over.cancelled().await;
    }
    let (answer, answered) = oneshot::channel();
    let mut reader = Reader::begin(wanted, Pipes::Opened, move |opened| {
        drop(answer.send(opened));
    })?;
    tokio::pin!(answered);
    let opened = match timeout_at(slow, &mut answered).await {
        Ok(opened) => opened,
        Err(_) => {
            if !told {
                (patience.tell)(Wait::FileSystem);
            }
            answered.await
        }
    };
    reader.is_done();
    opened.map_err(|_| io::Error::other("its reader broke"))?
}

/// All that one writer puts into a pipe.
async fn drained(
    pipe: File,
    limit: u64,
    begun: Instant,
    patience: &Patience<'_>,
) -> Result<Vec<u8>, ReadError> {
    let mut source = pipe::Receiver::from_file(pipe)?.take(limit + 1);
    let mut bytes = Vec::new();
    {
        // No event comes before a writer does, and its leaving is the end of the stream.
        let reading = source.read_to_end(&mut bytes);
        tokio::pin!(reading);
        if timeout_at(begun + SLOW, &mut reading).await.is_err() {
            (patience.tell)(Wait::Writer);
        }
        reading.await?;
    }
    within(bytes, limit)
}

/// As much as [`read`] would give of a file that is there now, for those who only look ahead: at
/// most `patience` is waited for it, and a pipe is left alone.
///
/// # Errors
/// Why there is nothing, see [`ReadError`].
pub fn look(wanted: Wanted<'_>, patience: Duration) -> Result<Looked, ReadError> {
    let hangs = ReadError::Hangs {
        wait: Wait::FileSystem,
        waited: patience,
    };
    if hanging(wanted.path).is_some() {
        return Err(hangs);
    }
    let (answer, answered) = mpsc::sync_channel(1);
    let mut reader = Reader::begin(wanted, Pipes::LeftAlone, move |opened| {
        drop(answer.send(opened));
    })?;
    let Ok(opened) = answered.recv_timeout(patience) else {
        return Err(hangs);
    };
    reader.is_done();
    match opened? {
        Opened::Whole(bytes) => Ok(Looked::Whole(bytes)),
        Opened::Pipe(_) => Ok(Looked::Pipe),
    }
}

/// The threads that were left in the kernel, by what they read.
static HANGING: Mutex<BTreeMap<PathBuf, CancellationToken>> = Mutex::new(BTreeMap::new());

/// Cancelled when the thread that hangs at `path` is over; `None` when none hangs there.
fn hanging(path: &Path) -> Option<CancellationToken> {
    let mut hanging = HANGING.lock().unwrap_or_else(PoisonError::into_inner);
    hanging.retain(|_, over| !over.is_cancelled());
    hanging.get(path).cloned()
}

/// A thread that reads one file. Dropped before it is done, it counts as hanging there.
struct Reader<'a> {
    path: &'a Path,
    /// Cancelled when the thread ends.
    over: CancellationToken,
    done: bool,
}

impl<'a> Reader<'a> {
    fn begin(
        wanted: Wanted<'a>,
        pipes: Pipes,
        answer: impl FnOnce(Result<Opened, ReadError>) + Send + 'static,
    ) -> io::Result<Self> {
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let Wanted { path, limit, judge } = wanted;
        let file = path.to_path_buf();
        std::thread::Builder::new()
            .name("read-file".to_owned())
            .spawn(move || {
                let _guard = guard;
                let wanted = Wanted {
                    path: &file,
                    limit,
                    judge,
                };
                answer(open(wanted, pipes));
            })?;
        Ok(Self {
            path,
            over,
            done: false,
        })
    }

    fn is_done(&mut self) {
        self.done = true;
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut hanging = HANGING.lock().unwrap_or_else(PoisonError::into_inner);
            hanging.insert(self.path.to_path_buf(), self.over.clone());
        }
    }
}

/// Opens a file and reads it, unless it is a pipe. It may hang in every line.
fn open(wanted: Wanted<'_>, pipes: Pipes) -> Result<Opened, ReadError> {
    let Wanted { path, limit, judge } = wanted;
    if let Pipes::LeftAlone = pipes
        && std::fs::metadata(path)?.file_type().is_fifo()
    {
        return Ok(Opened::Pipe(None));
    }
    // Without NONBLOCK the opening of a pipe waits for its writer. Files know nothing of it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut refused = 0;
    let file = loop {
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
        let file = File::from(file);
        match judge(path, &file) {
            Ok(()) => break file,
            // One that its owner exchanges at this moment is not what was opened.
            Err(_) if refused < 2 => refused += 1,
            Err(why) => return Err(ReadError::Refused(why)),
        }
    };
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() {
        return Ok(Opened::Pipe(Some(file)));
    }
    if kind.is_dir() {
        return Err(ReadError::Directory);
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    within(bytes, limit).map(Opened::Whole)
}

fn within(bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, ReadError> {
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLarge { limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is there.
    fn wanted(path: &Path) -> Wanted<'_> {
        Wanted {
            path,
            limit: 100,
            judge: |_, _| Ok(()),
        }
    }

    #[test]
    fn what_is_refused_is_not_read_and_one_that_was_exchanged_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"new").unwrap();
        let never = Wanted {
            judge: |_, _| Err("leads astray".to_owned()),
            ..wanted(&path)
        };
        let refused = look(never, LONG).unwrap_err();
        assert_eq!(refused.to_string(), "leads astray");
        let once = Wanted {
            judge: |path, _| {
                match path.with_extension("seen") {
                    seen if seen.exists() => Ok(()),
                    seen => std::fs::write(seen, "").and(Err(io::Error::other("not yet"))),
                }
                .map_err(|error| error.to_string())
            },
            ..wanted(&path)
        };
        assert!(matches!(look(once, LONG), Ok(Looked::Whole(new)) if new == b"new"));
    }

    /// Its path, in a folder that goes with it.
    fn pipe_in(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        path
    }

    /// Reads with a deadline of `deadline`, and answers what was told meanwhile.
    async fn reading(path: &Path, deadline: Duration) -> (Result<Vec<u8>, ReadError>, Vec<Wait>) {
        let told = Mutex::new(Vec::new());
        let tell = |wait| told.lock().unwrap().push(wait);
        let patience = Patience {
            deadline,
            given_up: &CancellationToken::new(),
            tell: &tell,
        };
        let read = read(wanted(path), &patience).await;
        (read, told.into_inner().unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [b'x'; 100]).unwrap();
        let (read, told) = reading(&path, LONG).await;
        assert_eq!((read.unwrap().len(), told.len()), (100, 0));
        std::fs::write(&path, [b'x'; 101]).unwrap();
        let (read, _) = reading(&path, LONG).await;
        assert!(matches!(read, Err(ReadError::TooLarge { limit: 100 })));
        let (read, _) = reading(Path::new("/dev/zero"), LONG).await;
        assert!(matches!(read, Err(ReadError::TooLarge { .. })));
        let (read, _) = reading(dir.path(), LONG).await;
        assert!(matches!(read, Err(ReadError::Directory)));
        let (read, _) = reading(&dir.path().join("none"), LONG).await;
        assert!(
            matches!(read, Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
    }

    #[tokio::test]
    async fn a_pipe_gives_what_its_writer_writes_however_late_that_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = pipe_in(&dir);
        let told = Mutex::new(None);
        let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
        let tell = |wait| {
            *told.lock().unwrap() = Some(wait);
            came.send(()).unwrap();
        };
        let patience = Patience {
            deadline: LONG,
            given_up: &CancellationToken::new(),
            tell: &tell,
        };
        let writing = async {
            coming.recv().await;
            tokio::fs::write(&path, b"A=1").await.unwrap();
        };
        let (read, ()) = tokio::join!(read(wanted(&path), &patience), writing);
        assert_eq!(read.unwrap(), b"A=1");
        assert_eq!(told.into_inner().unwrap(), Some(Wait::Writer));
    }

    #[tokio::test]
    async fn a_pipe_without_a_writer_ends_at_its_deadline_or_when_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = pipe_in(&dir);
        let Ok(Opened::Pipe(Some(pipe))) = open(wanted(&path), Pipes::Opened) else {
            panic!("it is a pipe");
        };
        let patience = Patience {
            deadline: Duration::from_millis(20),
            given_up: &CancellationToken::new(),
            tell: &|_| {},
        };
        let begun = Instant::now();
        let drained = drained(pipe, 100, begun, &patience);
        let read = until(begun, &patience, Wait::Writer, drained).await;
        assert_eq!(
            read.unwrap_err().to_string(),
            "is a named pipe that nobody has written to, for 20ms"
        );
        let given_up = CancellationToken::new();
        let patience = Patience {
            deadline: LONG,
            given_up: &given_up,
            tell: &|_| given_up.cancel(),
        };
        let read = read_of(&path, &patience).await;
        assert!(matches!(read, Err(ReadError::GivenUp)));
    }

    async fn read_of(path: &Path, patience: &Patience<'_>) -> Result<Vec<u8>, ReadError> {
        read(wanted(path), patience).await
    }

    #[tokio::test]
    async fn looking_at_a_pipe_takes_nothing_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = pipe_in(&dir);
        let of_writer = path.clone();
        let writer = std::thread::spawn(move || std::fs::write(of_writer, b"A=1").unwrap());
        assert!(matches!(look(wanted(&path), LONG), Ok(Looked::Pipe)));
        let (read, _) = reading(&path, LONG).await;
        assert_eq!(read.unwrap(), b"A=1");
        writer.join().unwrap();
    }

    /// What hangs is played by a thread that ends when the test says so.
    #[tokio::test]
    async fn a_path_where_a_reader_hangs_costs_no_second_thread_and_is_read_once_that_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"new").unwrap();
        let over = CancellationToken::new();
        drop(Reader {
            path: &path,
            over: over.clone(),
            done: false,
        });
        assert!(matches!(
            look(wanted(&path), LONG),
            Err(ReadError::Hangs { .. })
        ));
        let (hung, _) = reading(&path, Duration::from_millis(20)).await;
        assert!(matches!(
            hung,
            Err(ReadError::Hangs {
                wait: Wait::FileSystem,
                ..
            })
        ));
        let patience = Patience {
            deadline: LONG,
            given_up: &CancellationToken::new(),
            tell: &|wait| {
                assert_eq!(wait, Wait::FileSystem);
                over.cancel();
            },
        };
        assert_eq!(read_of(&path, &patience).await.unwrap(), b"new");
    }
}
