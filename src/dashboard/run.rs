//! The loop: keys, news and time in, pictures out.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::api::{Asked, Client, Heard, follow};
use crate::clock::Clock;
use crate::failpoint;
use crate::model::Snapshot;
use crate::text::{Style, Tone};

use super::feed::{self, Feed, Sources};
use super::frame;
use super::keys;
use super::screen::{DashboardError, Taken, give_back};
use super::state::{Content, Control, Effect, Link, Note, Question, Ui, View, World};
use super::table;

pub use super::feed::Describe;

/// Distance between two pictures, at least.
const FRAME: Duration = Duration::from_millis(50);

/// How the dashboard is to run.
#[derive(Debug)]
pub struct Options {
    /// The daemon that is asked.
    pub client: Client,
    /// What was found without a daemon, and who tells more of it.
    pub offline: Option<(Client, Snapshot)>,
    /// What time it is.
    pub clock: Clock,
    /// The terminal.
    pub out: File,
    /// Whether there are colours.
    pub style: Style,
    /// Whether a person may steer.
    pub control: Control,
    /// Tells why a component is in its state.
    pub describe: Describe,
}

/// Why the dashboard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A person said so.
    Quit,
    /// By a signal, or because the terminal has gone.
    Told,
}

/// Shows all of it until a person or a signal ends it.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn run(options: Options) -> Result<Ended, DashboardError> {
    let mut end = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut stop = signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
    let mut go_on = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let taken = Taken::take(options.out.try_clone()?)?;
    let mut screen = taken.screen()?;
    let mut board = Board::new(&options);
    let mut keys = listen_to_keys();
    let mut drawn_at: Option<Instant> = None;
    loop {
        board.follow_view();
        if board.is_dirty && drawn_at.is_none_or(|at| at.elapsed() >= FRAME) {
            board.fit();
            let (ui, world, now) = (&board.ui, &board.world, options.clock.now());
            board.changes_at =
                screen.show(ui.size, |buffer| frame::draw(buffer, ui, world, now))?;
            board.is_dirty = false;
            drawn_at = Some(Instant::now());
            failpoint::reach("dashboard-drawn");
        }
        let due = board.due_at(drawn_at, &options.clock);
        let effect = tokio::select! {
            // Cancel-safe, all of them: they only wait, and what they miss stays where it is.
            key = keys.recv() => match key {
                Some(Ok(event)) => board.take(event),
                Some(Err(error)) => return gone(&error),
                None => return Ok(Ended::Told),
            },
            changed = board.sources.heard.changed() => {
                if changed.is_ok() {
                    board.hear();
                }
                None
            }
            told = board.feed.next() => {
                feed::add(&mut board.world, told);
                board.is_dirty = true;
                None
            }
            Some(answer) = board.asked.join_next() => {
                board.ui.note = answer.ok();
                board.is_dirty = true;
                None
            }
            () = wait_until(due) => {
                board.is_dirty = true;
                None
            }
            _ = end.recv() => return Ok(Ended::Told),
            _ = hangup.recv() => return Ok(Ended::Told),
            _ = quit.recv() => return Ok(Ended::Told),
            _ = stop.recv() => Some(Effect::Suspend),
            _ = go_on.recv() => {
                // Whoever stopped us may have changed the terminal.
                taken.enter()?;
                Some(Effect::Redraw)
            }
        };
        match effect {
            None => {}
            Some(Effect::Quit) => return Ok(Ended::Quit),
            Some(Effect::Steer(question)) => board.steer(question),
            Some(Effect::Redraw) => {
                board.resize(terminal::size()?);
                screen.forget();
            }
            Some(Effect::Suspend) => {
                give_back();
                // The whole job, as the terminal does it: a script around us stops with us.
                rustix::process::kill_current_process_group(Signal::STOP)
                    .map_err(std::io::Error::from)?;
                taken.enter()?;
                board.resize(terminal::size()?);
                screen.forget();
            }
        }
    }
}

/// The terminal cannot be read: it has gone.
fn gone(error: &std::io::Error) -> Result<Ended, DashboardError> {
    tracing::debug!(%error, "the terminal has gone");
    Ok(Ended::Told)
}

/// Keys, sizes and focus, read by a thread of their own: there is no other way to wait for them.
fn listen_to_keys() -> mpsc::Receiver<std::io::Result<Event>> {
    let (tell, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        loop {
            let read = event::read();
            let is_over = read.is_err();
            if tell.blocking_send(read).is_err() || is_over {
                return;
            }
        }
    });
    keys
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What is shown, and where it comes from.
struct Board {
    ui: Ui,
    world: World,
    sources: Sources,
    feed: Feed,
    online: Client,
    asked: JoinSet<Note>,
    epoch: u64,
    is_dirty: bool,
    /// Whether somebody looks.
    is_watched: bool,
    /// When the picture changes though nothing happens.
    changes_at: Option<crate::model::Timestamp>,
}

impl Board {
    fn new(options: &Options) -> Self {
        let (offline, snapshot) = options.offline.clone().unzip();
        let link = match &snapshot {
            Some(_) => Link::Alone,
            None => Link::Waiting,
        };
        let snapshot = snapshot.map(Arc::new);
        let first = Heard {
            snapshot: snapshot.clone(),
            link: link.clone(),
            epoch: 0,
        };
        let heard = follow(options.client.clone(), options.clock.clone(), first);
        let sources = Sources {
            client: offline.unwrap_or_else(|| options.client.clone()),
            clock: options.clock.clone(),
            heard,
            describe: options.describe,
        };
        let size = terminal::size().unwrap_or((80, 24));
        Self {
            ui: Ui::new(options.control, options.style, size),
            world: World {
                snapshot,
                link,
                content: Content::None,
                trouble: None,
            },
            feed: Feed::open(sources.clone(), View::Table, 0),
            sources,
            online: options.client.clone(),
            asked: JoinSet::new(),
            epoch: 0,
            is_dirty: true,
            is_watched: true,
            changes_at: None,
        }
    }

    /// Reads what is looked at, and nothing else.
    fn follow_view(&mut self) {
        let (view, epoch) = &self.feed.of;
        let is_new_view = *view != self.ui.view;
        if !is_new_view && *epoch == self.epoch {
            return;
        }
        if is_new_view {
            self.world.content = Content::None;
            self.world.trouble = None;
        }
        self.feed = Feed::open(self.sources.clone(), self.ui.view.clone(), self.epoch);
    }

    fn fit(&mut self) {
        let height = frame::body_height(&self.ui, &self.world);
        if let Some(snapshot) = &self.world.snapshot {
            table::fit(&mut self.ui, snapshot, height);
        }
    }

    /// When the picture is due: it was put off, or an age in it changes.
    fn due_at(&self, drawn_at: Option<Instant>, clock: &Clock) -> Option<Instant> {
        if self.is_dirty {
            return drawn_at.map(|at| at + FRAME);
        }
        let changes_at = self.changes_at.filter(|_| self.is_watched);
        changes_at.map(|at| clock.instant_of(at))
    }

    fn take(&mut self, event: Event) -> Option<Effect> {
        match event {
            Event::Key(key) => {
                self.is_dirty = true;
                return keys::key(&mut self.ui, &self.world, key);
            }
            Event::Resize(columns, rows) => self.resize((columns, rows)),
            Event::FocusGained => {
                self.is_watched = true;
                self.is_dirty = true;
            }
            // What happens is drawn all the same, and ages are not.
            Event::FocusLost => self.is_watched = false,
            Event::Mouse(_) | Event::Paste(_) => {}
        }
        None
    }

    fn resize(&mut self, size: (u16, u16)) {
        self.ui.size = size;
        self.is_dirty = true;
    }

    /// Takes over what was heard of the daemon.
    fn hear(&mut self) {
        let heard = self.sources.heard.borrow_and_update().clone();
        let was_there = match self.world.link {
            Link::Answers | Link::Waiting => true,
            Link::Alone | Link::Lost { .. } => false,
        };
        if !was_there && heard.link == Link::Answers {
            let daemon = heard.snapshot.as_ref().and_then(|one| one.daemon.as_ref());
            let pid = daemon.map_or_else(String::new, |one| format!(" (pid {})", one.pid));
            self.ui
                .tell(format!("the daemon answers again{pid}"), Tone::Good);
        }
        if heard.epoch != self.epoch {
            self.epoch = heard.epoch;
            self.sources.client = self.online.clone();
        }
        self.world.snapshot = heard.snapshot;
        self.world.link = heard.link;
        self.is_dirty = true;
    }

    /// Asks the daemon what a person confirmed.
    fn steer(&mut self, question: Question) {
        let client = self.online.clone();
        let Question {
            pipeline,
            component,
            asked,
        } = question;
        self.ui
            .tell(format!("asking for the {asked} of {component}"), Tone::Dim);
        self.asked.spawn(async move {
            let answer = client.request(&pipeline, &component, asked).await;
            match answer {
                Ok(answer) => {
                    let done = match asked {
                        Asked::Start => "is being started",
                        Asked::Stop => "is being stopped",
                        Asked::Restart | Asked::Pull => "is being restarted",
                    };
                    let warnings = answer.warnings.join("; ");
                    let text = format!("{pipeline}/{component} {done}");
                    if warnings.is_empty() {
                        let tone = Tone::Good;
                        Note { text, tone }
                    } else {
                        let text = format!("{text}; warning: {warnings}");
                        let tone = Tone::Moving;
                        Note { text, tone }
                    }
                }
                Err(error) => Note {
                    text: format!("could not {asked} {pipeline}/{component}: {error}"),
                    tone: Tone::Bad,
                },
            }
        });
    }
}
