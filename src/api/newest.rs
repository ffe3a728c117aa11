//! Logs for a reader that shows only the newest lines, and may be slower than who writes them.

use std::time::Duration;

use futures_util::FutureExt;

use super::client::{Client, ClientError};
use super::error::ApiError;
use super::lines::Lines;
use super::wire::{LogEntry, LogParams};
use crate::clock::Clock;
use crate::model::Timestamp;

/// A reader that is so far behind who writes leaves lines out.
const BEHIND: Duration = Duration::from_secs(2);

/// The lines of a log as they come. Those that the reader cannot keep up with are left out, which
/// is said; they stay in their files.
#[derive(Debug)]
pub struct NewestLines {
    client: Client,
    params: LogParams,
    /// Lines in one batch, at most; and so many are read again where lines were left out.
    most: usize,
    clock: Clock,
    lines: Lines,
    /// From when on being behind counts: what was written before comes first.
    counts_from: Timestamp,
    /// The time of the newest line that was given out.
    newest: Option<i64>,
    /// Whether lines up to `newest` may come again.
    is_reopened: bool,
}

/// Lines that came together.
#[derive(Debug, Default)]
pub struct LogBatch {
    /// They.
    pub entries: Vec<LogEntry>,
    /// What could not be read, and why.
    pub troubles: Vec<ApiError>,
    /// Whether lines between these and the next batch are left out.
    pub left_out: bool,
}

impl NewestLines {
    /// Begins to follow what `params` wants, in batches of at most `most` lines.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn open(
        client: Client,
        params: LogParams,
        most: usize,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        let lines = client.logs(&params).await?;
        Ok(Self {
            client,
            params,
            most,
            counts_from: clock.now().after(BEHIND),
            clock,
            lines,
            newest: None,
            is_reopened: false,
        })
    }

    /// The next batch: waits for a line and takes those that are there with it. `None` at the end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<LogBatch>, ClientError> {
        let mut batch = LogBatch::default();
        let mut read = self.lines.decoded::<LogEntry>().await;
        loop {
            match read {
                Ok(Some(entry)) => self.take(entry, &mut batch),
                Ok(None) if batch.entries.is_empty() && batch.troubles.is_empty() => {
                    return Ok(None);
                }
                Ok(None) => break,
                Err(error) => batch.troubles.push(error.answered()?),
            }
            if batch.entries.len() + batch.troubles.len() >= self.most {
                self.leave_out(&mut batch).await?;
                break;
            }
            match self.lines.decoded::<LogEntry>().now_or_never() {
                Some(next) => read = next,
                None => {
                    self.is_reopened = false;
                    break;
                }
            }
        }
        Ok(Some(batch))
    }

    fn take(&mut self, entry: LogEntry, batch: &mut LogBatch) {
        if self.is_reopened && self.newest.is_some_and(|newest| entry.at_nanos <= newest) {
            return;
        }
        self.newest = self.newest.max(Some(entry.at_nanos));
        batch.entries.push(entry);
    }

    /// Goes on at the end of the log if it is too far away.
    async fn leave_out(&mut self, batch: &mut LogBatch) -> Result<(), ClientError> {
        let now = self.clock.now();
        let newest = self.newest.map_or(now, |nanos| {
            Timestamp::from_millis(nanos.div_euclid(1_000_000))
        });
        if now < self.counts_from || now.since(newest) < BEHIND {
            return Ok(());
        }
        let tail = u64::try_from(self.most).unwrap_or(u64::MAX);
        let params = LogParams {
            tail: Some(tail),
            since: None,
            ..self.params.clone()
        };
        self.lines = self.client.logs(&params).await?;
        self.counts_from = now.after(BEHIND);
        self.is_reopened = true;
        batch.left_out = true;
        Ok(())
    }
}
