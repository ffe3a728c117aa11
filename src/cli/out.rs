//! Where results go, and what the terminal is like.

use std::fs::File;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::args::When;
use super::text::{Look, Style};

/// Standard output. Unlike `println!`, a reader that has gone is an error and not a panic.
pub struct Out {
    stdout: io::BufWriter<StdoutLock<'static>>,
    style: Style,
    is_terminal: bool,
}

impl Out {
    /// Standard output, coloured as `color` and the environment say.
    pub fn new(color: When) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self {
            stdout: io::BufWriter::with_capacity(64 << 10, stdout.lock()),
            style: style(color, is_terminal),
            is_terminal,
        }
    }

    /// Colours and width of the terminal; no width when there is none.
    pub fn look(&self) -> Look {
        let size = terminal_size::terminal_size_of(io::stdout());
        Look {
            style: self.style,
            columns: size.map(|(columns, _)| usize::from(columns.0)),
        }
    }

    /// Whether a person looks on.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// The same output once more, for another thread. Nothing of it is kept in a buffer.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn another(&self) -> io::Result<File> {
        let stdout = self.stdout.get_ref().as_fd().try_clone_to_owned()?;
        Ok(File::from(stdout))
    }

    /// Begins at the top of the terminal, for a table that is drawn anew. What was scrolled away stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn clear(&mut self) -> io::Result<()> {
        self.put("\x1b[H\x1b[J")
    }

    /// Writes `text` as it is; it may stay in the buffer.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())
    }

    /// Writes `bytes` as they are; they may stay in the buffer.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// Writes `bytes` and a newline; they may stay in the buffer.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn line(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)?;
        self.stdout.write_all(b"\n")
    }

    /// Hands everything over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Writes a line of anything but results to standard error. When even that is closed, there is
/// nobody left to tell.
pub fn tell(line: &str) {
    if writeln!(io::stderr().lock(), "{line}").is_err() {
        tracing::debug!("standard error is closed");
    }
}

fn style(color: When, is_terminal: bool) -> Style {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = || std::env::var_os("TERM").is_some_and(|term| term == *Path::new("dumb"));
    let on = match color {
        When::Always => true,
        When::Never => false,
        When::Auto => is_terminal && !is_set("NO_COLOR") && !is_dumb(),
    };
    if on { Style::Coloured } else { Style::Plain }
}
