//! What each signal means to this process. None is left to the kernel's default by accident.
//!
//! | signal | a daemon | a run |
//! |---|---|---|
//! | TERM, INT, QUIT | ends in order, components run on | stops everything in order |
//! | HUP | looks again at every file and certificate | is the end of its terminal: stops everything |
//! | USR1 | begins its log anew | ignored, and noted |
//! | USR2 | begins again as the program that is installed now; components run on | ignored, and noted |
//! | TSTP | ignored, and noted | is stopped until CONT, as a shell wants it |
//! | ALRM, IO, PROF, PWR, STKFLT, VTALRM, XCPU, XFSZ, real-time ones | ignored, and noted | likewise |
//! | CHLD, CONT, PIPE, TTIN, TTOU, URG, WINCH | ignored | likewise |
//! | ABRT, BUS, FPE, ILL, SEGV, SYS, TRAP | a crash: components run on | a crash: the next run ends what is left |
//! | KILL, STOP | cannot be caught | likewise |

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::SignalKind;

use crate::model::Signal;

/// Those that are asked to end by.
const ENDS: [i32; 3] = [2, 3, 15];
const HUP: i32 = 1;
const USR1: i32 = 10;
const USR2: i32 = 12;
const TSTP: i32 = 20;
/// ALRM, STKFLT, XCPU, XFSZ, VTALRM, PROF, IO, PWR.
const NOTED: [i32; 8] = [14, 16, 24, 25, 26, 27, 29, 30];
/// The real-time signals that the C library leaves to programs.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// To end in order.
    End,
    /// To end in order, but whoever says it twice insists on nothing: the kernel and the shell both
    /// tell of the end of a terminal.
    EndOfTerminal,
    /// To look at everything anew.
    LookAgain,
    /// To begin the log anew.
    LogAnew,
    /// To begin again as the program that is installed.
    BeginAgain,
    /// Nothing, and that is noted.
    Nothing,
}

/// What a signal tells that is not ignored.
enum Told {
    End(Signal),
    EndOfTerminal(Signal),
    LookAgain,
    LogAnew,
    BeginAgain,
}

/// What somebody asks of a daemon by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To end, by this signal.
    End(Signal),
    /// To look again at every file and certificate.
    LookAgain,
    /// To begin its log anew.
    LogAnew,
    /// To begin again as the program that is installed.
    BeginAgain,
}

/// The signals that reach this process. While there is one of these, none of them does anything by
/// itself.
#[derive(Debug)]
pub struct Signals {
    heard: Vec<Heard>,
}

#[derive(Debug)]
struct Heard {
    signal: Signal,
    meaning: Meaning,
    arrivals: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens as a daemon does. Needs a runtime.
    ///
    /// # Errors
    /// When the host lets nobody listen.
    pub fn of_daemon() -> io::Result<Self> {
        Self::listen(&[
            (HUP, Meaning::LookAgain),
            (USR1, Meaning::LogAnew),
            (USR2, Meaning::BeginAgain),
            (TSTP, Meaning::Nothing),
        ])
    }

    /// Listens as one does who runs something in the foreground: the end of the terminal counts,
    /// except where `nohup` says that it means nothing. Needs a runtime.
    ///
    /// # Errors
    /// When the host lets nobody listen.
    pub fn of_run() -> io::Result<Self> {
        let hangup = if is_hangup_ignored() {
            Meaning::Nothing
        } else {
            Meaning::EndOfTerminal
        };
        Self::listen(&[
            (HUP, hangup),
            (USR1, Meaning::Nothing),
            (USR2, Meaning::Nothing),
        ])
    }

    fn listen(special: &[(i32, Meaning)]) -> io::Result<Self> {
        let ends = ENDS.map(|number| (number, Meaning::End));
        let noted = NOTED.into_iter().chain(REAL_TIME);
        let noted = noted.map(|number| (number, Meaning::Nothing));
        let all = ends.into_iter().chain(special.iter().copied()).chain(noted);
        let heard = all
            .filter_map(|(number, meaning)| Some((Signal::from_number(number)?, meaning)))
            .map(|(signal, meaning)| {
                let kind = SignalKind::from_raw(signal.number());
                let arrivals = tokio::signal::unix::signal(kind)?;
                Ok(Heard {
                    signal,
                    meaning,
                    arrivals,
                })
            });
        Ok(Self {
            heard: heard.collect::<io::Result<_>>()?,
        })
    }

    /// What the next one tells that is not ignored. Cancel-safe: one that was not taken stays
    /// pending.
    async fn next(&mut self) -> Told {
        loop {
            let (signal, meaning) = poll_fn(|cx| {
                for one in &mut self.heard {
                    if one.arrivals.poll_recv(cx).is_ready() {
                        return Poll::Ready((one.signal, one.meaning));
                    }
                }
                Poll::Pending
            })
            .await;
            match meaning {
                Meaning::End => return Told::End(signal),
                Meaning::EndOfTerminal => return Told::EndOfTerminal(signal),
                Meaning::LookAgain => return Told::LookAgain,
                Meaning::LogAnew => return Told::LogAnew,
                Meaning::BeginAgain => return Told::BeginAgain,
                Meaning::Nothing => {
                    tracing::warn!(%signal, "it means nothing here and is ignored");
                }
            }
        }
    }

    /// What is asked next. Cancel-safe: what was not taken stays pending.
    pub async fn asked(&mut self) -> Asked {
        match self.next().await {
            Told::End(signal) | Told::EndOfTerminal(signal) => Asked::End(signal),
            Told::LookAgain => Asked::LookAgain,
            Told::LogAnew => Asked::LogAnew,
            Told::BeginAgain => Asked::BeginAgain,
        }
    }

    /// The next by which somebody wants an end. Cancel-safe as [`Self::asked`] is.
    pub async fn end(&mut self) -> Signal {
        loop {
            if let Asked::End(signal) = self.asked().await {
                return signal;
            }
        }
    }

    /// The next of somebody who insists on an end. Cancel-safe as [`Self::asked`] is.
    pub async fn again(&mut self) -> Signal {
        loop {
            if let Told::End(signal) = self.next().await {
                return signal;
            }
        }
    }
}

/// Whether this process was started with the order to ignore SIGHUP.
fn is_hangup_ignored() -> bool {
    // Where the kernel does not say, nobody gave that order.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is that of signal 1.
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
