//! The signals by which somebody asks this process to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, Ctrl+C, and for some the end of their terminal. While there is one of these, they end
/// nothing by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens for SIGTERM and Ctrl+C from now on.
    ///
    /// # Errors
    /// When the host lets nobody listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// Listens also for the end of the terminal, except where `nohup` says that it means nothing.
    ///
    /// # Errors
    /// When the host lets nobody listen.
    pub(super) fn listen_at_a_terminal() -> io::Result<Self> {
        let hangup = if is_hangup_ignored() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            hangup,
            ..Self::listen()?
        })
    }

    /// The name of the next one. Cancel-safe: one that was not taken stays pending.
    pub async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cancel-safe, all: a signal that was not taken stays pending.
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }

    /// The next one of somebody who insists. The end of a terminal is told twice, by the kernel
    /// and by the shell, and insists on nothing. Cancel-safe as [`Self::next`] is.
    pub(super) async fn again(&mut self) -> &'static str {
        tokio::select! {
            // Cancel-safe, both: a signal that was not taken stays pending.
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
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
