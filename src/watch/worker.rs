//! A thread that watches one file system: events in, updates out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use crate::failpoint;
use crate::manifest::{Given, Taken};

use super::debounce::Change;
use super::sources::{Look, Patience, Watched};
use super::{Method, OnProblem, POLL, Source, Update};

/// Looking for what to watch and watching it are two steps: what changes in between is found by
/// doing both again, which a sane tree needs once.
const MAX_ROUNDS: usize = 8;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Something changed in a directory.
    Event(notify::Result<Event>),
    /// Watch a source.
    Add {
        source: Source,
        /// What it said to whoever adds it, who has taken that over.
        taken: Vec<Taken>,
        on_problem: OnProblem,
        reply: oneshot::Sender<Vec<Update>>,
    },
    /// Tell when this file may have changed, and do not read it.
    Touch {
        path: PathBuf,
        touched: watch::Sender<()>,
    },
    /// Watch it no longer.
    Remove { path: PathBuf },
    /// Read everything again.
    LookAgain,
    /// End.
    Stop,
}

/// Starts the thread.
pub(super) fn spawn(
    method: Method,
    rescan: Duration,
    updates: UnboundedSender<Update>,
) -> io::Result<Sender<Message>> {
    let (sender, messages) = mpsc::channel();
    let events = sender.clone();
    let directories = match method {
        Method::Events => Directories::events(events),
        Method::Polling => Directories::default(),
    };
    let worker = Worker {
        directories,
        sources: BTreeMap::new(),
        touches: Vec::new(),
        updates,
        rescan,
        rescanned: Instant::now(),
    };
    std::thread::Builder::new()
        .name("flowctl-watch".to_owned())
        .spawn(move || worker.run(&messages))?;
    Ok(sender)
}

struct Worker {
    directories: Directories,
    sources: BTreeMap<PathBuf, Watched>,
    /// Files of which somebody only wants to know when they change.
    touches: Vec<(Watched, watch::Sender<()>)>,
    updates: UnboundedSender<Update>,
    /// How often everything is looked at where the kernel tells of changes.
    rescan: Duration,
    rescanned: Instant,
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    /// What has changed and was left alone since.
    Due,
    /// Everything.
    All,
}

/// Whether the thread goes on.
#[derive(PartialEq)]
enum Flow {
    On,
    End,
}

impl Worker {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match self.sleep() {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(length) => messages.recv_timeout(length),
            };
            match message {
                Ok(message) => {
                    // All that has arrived is one batch: a save is three or four events.
                    for message in std::iter::once(message).chain(messages.try_iter()) {
                        if self.take(message) == Flow::End {
                            return;
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            failpoint::reach("watch");
            if self.read_what_is_due() == Flow::End {
                return;
            }
        }
    }

    /// Everything that is watched.
    fn all(&self) -> impl Iterator<Item = &Watched> {
        let touches = self.touches.iter().map(|(watched, _)| watched);
        self.sources.values().chain(touches)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        let touches = self.touches.iter_mut().map(|(watched, _)| watched);
        self.sources.values_mut().chain(touches)
    }

    /// How long there is nothing to do; `None` = until something is heard.
    fn sleep(&self) -> Option<Duration> {
        let due = self.all().filter_map(|watched| watched.debounce.due());
        let rescan = self.all().next().is_some().then(|| self.next_rescan());
        let next = due.chain(rescan).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn next_rescan(&self) -> Instant {
        let every = match self.directories.sees_all() {
            true => self.rescan,
            false => POLL.min(self.rescan),
        };
        self.rescanned + every
    }

    fn take(&mut self, message: Message) -> Flow {
        match message {
            Message::Event(Ok(event)) => self.heard(&event),
            Message::Event(Err(error)) => {
                tracing::warn!(%error, "the kernel's file watch failed; everything is read again");
                self.look_at_all();
            }
            Message::Add {
                source,
                taken,
                on_problem,
                reply,
            } => {
                let updates = self.add(source, taken, on_problem);
                if reply.send(updates).is_err() {
                    tracing::debug!("nobody waits for the answer about a new source");
                }
            }
            Message::Touch { path, touched } => {
                if self.all().next().is_none() {
                    self.rescanned = Instant::now();
                }
                let given = Given::default();
                let mut watched = Watched::new(Source { path, given });
                self.directories.follow(&mut watched);
                // What was changed before was not seen.
                touched.send_replace(());
                self.touches.push((watched, touched));
            }
            Message::Remove { path } => {
                if let Some(watched) = self.sources.remove(&path) {
                    self.directories.release(watched.route.dirs);
                }
            }
            Message::LookAgain => self.look_at_all(),
            Message::Stop => return Flow::End,
        }
        Flow::On
    }

    fn add(&mut self, source: Source, taken: Vec<Taken>, on_problem: OnProblem) -> Vec<Update> {
        let path = source.path.clone();
        let mut watched = Watched::new(source);
        let before = self.sources.remove(&path);
        watched.know(taken, before.as_ref());
        if let Some(before) = &before {
            // Its directories stay watched: the new one takes them over.
            watched.route = before.route.clone();
        }
        self.directories.follow(&mut watched);
        watched.debounce.reading();
        let Look { updates, .. } = watched.look(Patience::Settled);
        let good = updates.iter().all(|update| update.outcome.is_ok());
        if self.all().next().is_none() {
            self.rescanned = Instant::now();
        }
        match (good || on_problem == OnProblem::Wait, before) {
            (true, _) => {
                self.sources.insert(path, watched);
            }
            // A file that breaks stays under watch, whoever reads it meanwhile.
            (false, Some(mut before)) => {
                before.route = watched.route;
                self.sources.insert(path, before);
            }
            (false, None) => self.directories.release(watched.route.dirs),
        }
        updates
    }

    fn heard(&mut self, event: &Event) {
        if event.need_rescan() {
            tracing::warn!("the kernel dropped file events; everything is read again");
            self.look_at_all();
            return;
        }
        let Some(change) = change(event.kind) else {
            return;
        };
        let now = Instant::now();
        for path in &event.paths {
            self.directories.may_be_gone(path, event.kind);
            let mut concerns_us = false;
            for watched in self.all_mut() {
                if watched.is_touched_by(path) {
                    watched.debounce.saw(change, now);
                    concerns_us = true;
                }
            }
            if !concerns_us {
                self.directories.heard_noise(path, now);
            }
        }
    }

    /// Everything may have changed: watches anew and reads anew.
    fn look_at_all(&mut self) {
        self.directories.distrust();
        let now = Instant::now();
        for watched in self.all_mut() {
            watched.debounce.saw(Change::Complete, now);
        }
    }

    fn read_what_is_due(&mut self) -> Flow {
        let now = Instant::now();
        let rescan = now >= self.next_rescan();
        if rescan {
            self.rescanned = now;
        }
        self.tell_touches(now, if rescan { Extent::All } else { Extent::Due });
        for watched in self.sources.values_mut() {
            let due = watched.debounce.due().is_some_and(|due| due <= now);
            if !due && !rescan {
                continue;
            }
            let patience = if watched.debounce.is_settled(now) {
                Patience::Settled
            } else {
                Patience::FirstLook
            };
            self.directories.follow(watched);
            watched.debounce.reading();
            let Look {
                updates,
                suspicious,
            } = watched.look(patience);
            if suspicious {
                watched.debounce.look_again(now);
            } else {
                watched.debounce.finished();
            }
            for update in updates {
                if self.updates.send(update).is_err() {
                    return Flow::End;
                }
            }
        }
        Flow::On
    }

    /// Tells of files that may have changed, once their writers have left them alone: whoever reads
    /// one must not find it half-written, or missing while it is replaced.
    fn tell_touches(&mut self, now: Instant, extent: Extent) {
        for (watched, touched) in &mut self.touches {
            let due = watched.debounce.due().is_some_and(|due| due <= now);
            if !due && extent == Extent::Due {
                continue;
            }
            let is_settled = watched.debounce.is_settled(now);
            self.directories.follow(watched);
            watched.debounce.reading();
            if due && !is_settled {
                watched.debounce.look_again(now);
                continue;
            }
            watched.debounce.finished();
            touched.send_replace(());
        }
        let gone = self
            .touches
            .extract_if(.., |(_, touched)| touched.is_closed());
        for (watched, _) in gone {
            self.directories.release(watched.route.dirs);
        }
    }
}

/// What an event means for the file that it names; `None` = nothing, such as our own reading.
fn change(kind: EventKind) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Complete),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
            Some(Change::Complete)
        }
        // Created, written, renamed away, removed, made readable: more is to come.
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => Some(Change::UnderWay),
    }
}

/// The directories that the kernel watches for us.
#[derive(Default)]
struct Directories {
    /// `None` = the kernel does not tell: everything is polled.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Directory>,
}

struct Directory {
    /// How many sources depend on it.
    users: usize,
    sight: Sight,
    noise: Noise,
    /// The last time that it was not listened to.
    calm: Option<Calm>,
}

/// Of so many changes a second that concern no source, a directory is too loud to listen to.
const LOUD: u32 = 300;
/// How long it is looked at from time to time instead, before it is listened to again: at first, as
/// after the start of hundreds of components that write there, and at most, where it is loud again and
/// again. So what others write for ever costs [`LOUD`] events in the longest time at most. Meanwhile
/// an edit is found within [`POLL`].
const FIRST_CALM: Duration = Duration::from_secs(1);
const LONGEST_CALM: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// The changes in a directory that concern no source.
#[derive(Clone, Copy, Debug, Default)]
struct Noise {
    since: Option<Instant>,
    count: u32,
}

impl Noise {
    /// Takes note of one more. Whether that is too much.
    fn heard(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) > SECOND {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count > LOUD
    }
}

/// A time in which a directory is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calm {
    length: Duration,
    until: Instant,
}

impl Calm {
    /// The one that begins `now`: twice as long as the last where that is not long over.
    fn after(last: Option<Self>, now: Instant) -> Self {
        let length = match last {
            Some(last) if now < last.until + LONGEST_CALM => (last.length * 2).min(LONGEST_CALM),
            Some(_) | None => FIRST_CALM,
        };
        let until = now + length;
        Self { length, until }
    }
}

/// Whether the kernel tells of changes in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// It does, for the directory of this device and inode.
    Watched(u64, u64),
    /// It may not: the directory is new to us, or another one under the same name.
    Doubtful,
    /// It refused: too many watches, no permission.
    Refused,
    /// It is not listened to until then: others write too much there.
    Loud(Instant),
}

impl Sight {
    /// The same once it is not known any more whether the kernel tells of all.
    fn doubted(self) -> Self {
        match self {
            Self::Loud(_) => self,
            Self::Watched(..) | Self::Doubtful | Self::Refused => Self::Doubtful,
        }
    }
}

impl Directories {
    fn events(events: Sender<Message>) -> Self {
        let handler = move |event: notify::Result<Event>| {
            let matters = |event: &Event| event.need_rescan() || change(event.kind).is_some();
            if !event.as_ref().map_or(true, matters) {
                return;
            }
            // A watch that was dropped has no use for events.
            if events.send(Message::Event(event)).is_err() {
                tracing::debug!("a file event came after the watch had ended");
            }
        };
        match notify::recommended_watcher(handler) {
            Ok(watcher) => Self {
                watcher: Some(watcher),
                watched: BTreeMap::new(),
            },
            Err(error) => {
                tracing::warn!(%error, "the kernel cannot watch files; they are polled instead");
                Self::default()
            }
        }
    }

    /// Whether the kernel tells of every change.
    fn sees_all(&self) -> bool {
        let seen = |directory: &Directory| matches!(directory.sight, Sight::Watched(..));
        self.watcher.is_some() && self.watched.values().all(seen)
    }

    /// Brings what is watched in line with where the source leads now.
    fn follow(&mut self, source: &mut Watched) {
        for _ in 0..MAX_ROUNDS {
            let route = source.follow();
            let mut new = false;
            for dir in &route.dirs {
                let users = usize::from(!source.route.dirs.contains(dir));
                new |= self.hold(dir, users);
            }
            let before = std::mem::replace(&mut source.route, route);
            let left = before
                .dirs
                .into_iter()
                .filter(|dir| !source.route.dirs.contains(dir));
            self.release(left);
            if !new {
                return;
            }
        }
    }

    /// Watches `dir` for `users` more. Whether that is new: what happened before was not seen.
    fn hold(&mut self, dir: &Path, users: usize) -> bool {
        let directory = self.watched.entry(dir.to_path_buf()).or_insert(Directory {
            users: 0,
            sight: Sight::Doubtful,
            noise: Noise::default(),
            calm: None,
        });
        directory.users += users;
        if matches!(directory.sight, Sight::Loud(until) if Instant::now() < until) {
            return false;
        }
        let (Some(watcher), Ok(found)) = (&mut self.watcher, fs::metadata(dir)) else {
            return false;
        };
        // A removed and re-created directory is another one under the same name.
        let watched = Sight::Watched(found.dev(), found.ino());
        if directory.sight == watched {
            return false;
        }
        unwatch(watcher, dir);
        match watcher.watch(dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                directory.sight = watched;
                true
            }
            Err(error) => {
                if directory.sight != Sight::Refused {
                    let dir = dir.display();
                    tracing::warn!(%dir, %error, "cannot watch a directory; it is polled instead");
                }
                directory.sight = Sight::Refused;
                false
            }
        }
    }

    fn release(&mut self, dirs: impl IntoIterator<Item = PathBuf>) {
        for dir in dirs {
            let Some(directory) = self.watched.get_mut(&dir) else {
                continue;
            };
            directory.users = directory.users.saturating_sub(1);
            if directory.users == 0 {
                self.watched.remove(&dir);
                if let Some(watcher) = &mut self.watcher {
                    unwatch(watcher, &dir);
                }
            }
        }
    }

    /// Something changed at `path` that concerns nobody. Where that happens too often, the directory
    /// is looked at each [`POLL`] for a while, and not listened to.
    fn heard_noise(&mut self, path: &Path, now: Instant) {
        let Some((dir, directory)) = path
            .parent()
            .and_then(|dir| Some((dir, self.watched.get_mut(dir)?)))
        else {
            return;
        };
        if !directory.noise.heard(now) || matches!(directory.sight, Sight::Loud(_)) {
            return;
        }
        directory.noise = Noise::default();
        let calm = Calm::after(directory.calm, now);
        directory.calm = Some(calm);
        directory.sight = Sight::Loud(calm.until);
        if let Some(watcher) = &mut self.watcher {
            unwatch(watcher, dir);
        }
        let dir = dir.display();
        tracing::info!(%dir, "much is written beside the files in it; it is polled for a while");
    }

    /// An event that names a watched directory itself ends its watch, and a new directory may bear
    /// the same inode number.
    fn may_be_gone(&mut self, path: &Path, kind: EventKind) {
        let moved = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        );
        if moved && let Some(directory) = self.watched.get_mut(path) {
            directory.sight = directory.sight.doubted();
        }
    }

    /// Events were lost: which watches still stand is not known.
    fn distrust(&mut self) {
        for directory in self.watched.values_mut() {
            directory.sight = directory.sight.doubted();
        }
    }
}

fn unwatch(watcher: &mut RecommendedWatcher, dir: &Path) {
    // A directory that is gone took its watch along.
    if let Err(error) = watcher.unwatch(dir) {
        tracing::trace!(dir = %dir.display(), %error, "was not watched");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_too_loud_once_too_much_of_a_second_concerns_nobody() {
        let start = Instant::now();
        let heard = |count: u32, apart: Duration| {
            let mut noise = Noise::default();
            (0..count).any(|nth| noise.heard(start + apart * nth))
        };
        assert!(!heard(LOUD, Duration::ZERO));
        assert!(heard(LOUD + 1, Duration::ZERO));
        assert!(heard(10_000, Duration::from_millis(1)));
        assert!(!heard(10_000, Duration::from_millis(5)));
    }

    #[test]
    fn a_directory_that_is_loud_again_and_again_is_listened_to_ever_less() {
        let mut now = Instant::now();
        let mut calm = None;
        let mut next = |quiet: u64| {
            let one = Calm::after(calm, now);
            calm = Some(one);
            now = one.until + Duration::from_secs(quiet);
            one.length.as_secs()
        };
        let at_once = [0; 7].map(&mut next);
        assert_eq!(at_once, [1, 2, 4, 8, 16, 30, 30]);
        // A burst, and nothing for a while, is forgotten.
        assert_eq!([30, 0].map(&mut next), [30, 1]);
    }
}
