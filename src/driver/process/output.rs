//! What the program of a shim says, from its pipes into its log.
//!
//! Its owner waits for [`Output::open_pipes`], for at most [`Output::timeout`]; then it has
//! [`Output::pump`] read, or [`Output::rest`] do what is due where nothing came.
//!
//! **Guarantees.** Whatever was written is in the log within [`PARTIAL_MS`], whether or not its line
//! has ended. Without output nothing is done: what is due is due once, after the last output.
//!
//! **Caveats.** What both pipes hold when they are read has one time, and standard output goes
//! first: which of them was written to first cannot be known.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::driver::OutputStream;
use crate::driver::logs::Budget;

use super::shim::steady_ms;
use super::sink::{OUTPUT, PIECE, Piece, Sink};
use super::sys::Pages;

/// Bytes read at once: the usual capacity of a pipe, behind the longest line that is kept whole.
const INPUT: usize = (64 << 10) + PIECE;
/// Memory touched by one batch that is not worth giving back before the file is let go.
const SMALL: usize = 4 << 10;
/// After a burst, memory is given back once the pipes were quiet for so long.
const QUIET_MS: i64 = 50;
/// How often a full log disk is tried again while the program is silent.
const MARKER_RETRY_MS: i64 = 1_000;
/// How long the beginning of a line is waited on for the rest of it.
const PARTIAL_MS: i64 = 1_000;
/// After so long without output the log file is let go.
const CLOSE_MS: i64 = 1_000;
/// Memory that an [`Output`] works in, untouched while there is nothing to log.
pub(super) const MEMORY: usize = 2 * INPUT + OUTPUT;

/// One output of the program.
struct Pipe<'a> {
    from: Option<&'a OwnedFd>,
    stream: OutputStream,
    input: Pages<'a>,
    /// Bytes of a line that has not ended yet, at the start of `input`.
    pending: usize,
    /// When the first of them came.
    since: i64,
    /// Whether an earlier part of that line is in the log.
    begun: bool,
}

/// What reading a pipe once gave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Some(usize),
    Nothing,
}

impl Pipe<'_> {
    /// Reads once and hands over whole lines, and pieces of those that are too long.
    fn pump(&mut self, sink: &mut Sink<'_>, now: i64) -> Read {
        let Some(from) = self.from else {
            return Read::Nothing;
        };
        let count = match rustix::io::read(from, &mut self.input[self.pending..]) {
            Ok(count @ 1..) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            Ok(0) | Err(_) => {
                self.from = None;
                self.finish(sink);
                return Read::Nothing;
            }
        };
        let end = self.pending + count;
        let mut start = 0;
        if self.pending == 0 {
            self.since = now;
        }
        for newline in memchr::memchr_iter(b'\n', &self.input[self.pending..end]) {
            let newline = self.pending + newline;
            let mut line = &self.input[start..newline];
            while let Some((piece, rest)) = line.split_at_checked(PIECE)
                && !rest.is_empty()
            {
                sink.record(self.stream, Piece::Part, piece);
                line = rest;
            }
            sink.record(self.stream, Piece::Last, line);
            start = newline + 1;
            (self.begun, self.since) = (false, now);
        }
        while end - start > PIECE {
            let piece = &self.input[start..start + PIECE];
            sink.record(self.stream, Piece::Part, piece);
            start += PIECE;
            (self.begun, self.since) = (true, now);
        }
        self.input.copy_within(start..end, 0);
        self.pending = end - start;
        Read::Some(count)
    }

    /// Milliseconds until the beginning of a line has waited long enough.
    fn patience(&self, now: i64) -> Option<i64> {
        (self.pending > 0).then(|| (self.since + PARTIAL_MS - now).max(0))
    }

    /// Hands over the beginning of a line that has waited for its rest.
    fn hand_over(&mut self, sink: &mut Sink<'_>, now: i64) {
        if self.patience(now) == Some(0) {
            sink.record(self.stream, Piece::Part, &self.input[..self.pending]);
            (self.pending, self.begun) = (0, true);
        }
    }

    /// Ends a last line without newline.
    fn finish(&mut self, sink: &mut Sink<'_>) {
        if self.pending > 0 || self.begun {
            sink.record(self.stream, Piece::Last, &self.input[..self.pending]);
            (self.pending, self.begun) = (0, false);
        }
    }
}

/// Which log the output goes to.
pub(super) struct Log<'a> {
    /// The replica's log directory, made when there is something to log.
    pub(super) dir: &'a CStr,
    /// Which run of the replica this is.
    pub(super) run: u64,
    /// How much of the replica's output is kept.
    pub(super) budget: Budget,
}

/// Both outputs of the program and the log that they go to.
pub(super) struct Output<'a> {
    pipes: [Pipe<'a>; 2],
    sink: Sink<'a>,
    /// The most that was read at once since memory was last given back.
    burst: usize,
    /// When something was read last.
    heard: i64,
}

impl<'a> Output<'a> {
    /// Reads `pipes`, standard output first, into `log`. `memory` has [`MEMORY`] bytes.
    pub(super) fn new(pipes: &'a [OwnedFd; 2], log: &Log<'a>, memory: Pages<'a>) -> Self {
        let (stdout, rest) = memory.split_at(INPUT);
        let (stderr, output) = rest.split_at(INPUT);
        let pipes = [
            (&pipes[0], OutputStream::Stdout, stdout),
            (&pipes[1], OutputStream::Stderr, stderr),
        ]
        .map(|(from, stream, input)| Pipe {
            from: Some(from),
            stream,
            input,
            pending: 0,
            since: 0,
            begun: false,
        });
        Self {
            pipes,
            sink: Sink::new(log.dir, log.run, log.budget, output),
            burst: 0,
            heard: 0,
        }
    }

    /// What can still be read; at most two.
    pub(super) fn open_pipes(&self) -> impl Iterator<Item = &'a OwnedFd> {
        self.pipes.iter().filter_map(|pipe| pipe.from)
    }

    /// Milliseconds until there is something to do though nothing comes; `None` = nothing is.
    pub(super) fn timeout(&self) -> Option<i64> {
        let now = steady_ms();
        let after = |pause: i64| (self.heard + pause - now).max(0);
        let give_back = (self.burst > SMALL).then(|| after(QUIET_MS));
        let close = self.sink.is_open().then(|| after(CLOSE_MS));
        let marker = self.sink.owes_marker().then_some(MARKER_RETRY_MS);
        let partial = self.pipes.iter().filter_map(|pipe| pipe.patience(now));
        partial.chain(give_back).chain(close).chain(marker).min()
    }

    /// Writes what has come by now.
    pub(super) fn pump(&mut self) {
        let now = steady_ms();
        self.sink.set_time(clock_gettime(ClockId::Realtime));
        for pipe in &mut self.pipes {
            if let Read::Some(count) = pipe.pump(&mut self.sink, now) {
                self.burst = self.burst.max(count);
                self.heard = now;
            }
            pipe.hand_over(&mut self.sink, now);
        }
        self.sink.flush();
    }

    /// Nothing has come for a while: says what was lost, gives memory back, lets the file go.
    pub(super) fn rest(&mut self) {
        let now = steady_ms();
        self.sink.settle();
        let is_silent = now >= self.heard + CLOSE_MS;
        if is_silent || (self.burst > SMALL && now >= self.heard + QUIET_MS) {
            for pipe in &mut self.pipes {
                pipe.input.discard_from(pipe.pending);
            }
            self.sink.give_back();
            self.burst = 0;
        }
        if is_silent {
            self.sink.close();
        }
    }

    /// What the dead tree wrote is in the pipes, and no more than they hold: a stranger who was
    /// handed their other end does not keep the shim.
    pub(super) fn finish(mut self) {
        const LARGEST_PIPE: usize = 1 << 20;
        let now = steady_ms();
        self.sink.set_time(clock_gettime(ClockId::Realtime));
        for pipe in &mut self.pipes {
            let mut left = LARGEST_PIPE;
            while let Read::Some(count) = pipe.pump(&mut self.sink, now)
                && left > 0
            {
                left = left.saturating_sub(count);
            }
            pipe.finish(&mut self.sink);
        }
        self.sink.settle();
        // Before the next run may begin: it goes on in this file.
        self.sink.close();
    }
}
