//! The terminal: taken, drawn on, and given back as it was.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::sync::{Mutex, Once, PoisonError};

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{DisableFocusChange, EnableFocusChange};
use ratatui::crossterm::queue;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::Rect;

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// The terminal cannot be used.
    #[error("could not use the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// The terminal as long as it is ours; what a panic gives back.
static TAKEN: Mutex<Option<File>> = Mutex::new(None);

/// The right to draw. The terminal is given back when it is dropped.
#[derive(Debug)]
pub struct Taken {
    out: File,
}

impl Taken {
    /// Takes the terminal behind `out`.
    ///
    /// # Errors
    /// When it is none.
    pub fn take(out: File) -> io::Result<Self> {
        let taken = Self { out };
        taken.enter()?;
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                // First, so that the message is not on the screen that goes.
                give_back();
                before(panic);
            }));
        });
        Ok(taken)
    }

    /// The terminal is ours again after it was given back, or after somebody changed it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn enter(&self) -> io::Result<()> {
        let mut out = self.out.try_clone()?;
        *lock() = Some(self.out.try_clone()?);
        // What was set before may not hold any more: a shell sets its own.
        disable_raw_mode()?;
        enable_raw_mode()?;
        queue!(
            out,
            EnterAlternateScreen,
            Hide,
            EnableFocusChange,
            Clear(ClearType::All)
        )?;
        out.flush()
    }

    /// A canvas on it.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn screen(&self) -> io::Result<Screen<CrosstermBackend<BufWriter<File>>>> {
        let out = BufWriter::with_capacity(64 << 10, self.out.try_clone()?);
        Ok(Screen::new(CrosstermBackend::new(out)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<File>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the terminal back as it was, if it is ours. One that has gone needs nothing.
pub fn give_back() {
    let Some(mut out) = lock().take() else {
        return;
    };
    // Each for itself: what fails must not keep the others from being done.
    let steps = [
        queue!(out, DisableFocusChange),
        queue!(out, Show),
        queue!(out, LeaveAlternateScreen),
        out.flush(),
        disable_raw_mode(),
    ];
    for error in steps.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "the terminal has gone");
    }
}

/// A terminal, and what is on it.
pub struct Screen<B> {
    backend: B,
    shown: Buffer,
}

impl<B: Backend> Screen<B> {
    /// An empty one.
    pub fn new(backend: B) -> Self {
        Self {
            backend,
            shown: Buffer::empty(Rect::ZERO),
        }
    }

    /// Shows what `draw` draws, by writing what differs; nothing is written where nothing does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn show<T>(
        &mut self,
        (columns, rows): (u16, u16),
        draw: impl FnOnce(&mut Buffer) -> T,
    ) -> Result<T, B::Error> {
        let area = Rect::new(0, 0, columns, rows);
        let mut next = Buffer::empty(area);
        let answer = draw(&mut next);
        if self.shown.area != area {
            self.backend.clear()?;
            self.shown = Buffer::empty(area);
        }
        let differing = self.shown.diff(&next);
        if !differing.is_empty() {
            self.backend.draw(differing.into_iter())?;
            self.backend.flush()?;
        }
        self.shown = next;
        Ok(answer)
    }

    /// Forgets what is on it, so that all of it is drawn.
    pub fn forget(&mut self) {
        self.shown = Buffer::empty(Rect::ZERO);
    }

    /// The terminal.
    #[cfg(test)]
    pub fn backend(&self) -> &B {
        &self.backend
    }
}
