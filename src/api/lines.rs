//! A stream as its reader gets it: line by line.

use std::path::{Path, PathBuf};

use axum::body::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::client::{ClientError, broken, decode};
use super::error::ErrorBody;
use super::wire::{LeftOut, LogEntry};

/// An item of a stream of log lines.
#[derive(Debug)]
pub enum LogItem {
    /// What a component wrote.
    Line(Box<LogEntry>),
    /// How many lines were left out so far since they have no level.
    LeftOut(LeftOut),
}

/// The lines of a stream.
#[derive(Debug)]
pub struct Lines {
    state_dir: PathBuf,
    question: String,
    body: Incoming,
    pending: Vec<u8>,
    /// How much of `pending` was given out.
    taken: usize,
}

impl Lines {
    /// The lines of `body`, the answer to `question`.
    pub(super) fn new(state_dir: &Path, question: &str, body: Incoming) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            question: question.to_owned(),
            body,
            pending: Vec::new(),
            taken: 0,
        }
    }

    /// The next line without its newline; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Answer`] for a failure that the daemon tells as a line: the stream may go on
    /// after it. [`ClientError::Broken`] when it broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.starts_with(br#"{"error":{"#)
                    && let Ok(told) = serde_json::from_slice::<ErrorBody>(&line)
                {
                    return Err(ClientError::Answer(told.error));
                }
                return Ok(Some(line));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.state_dir, &self.question, &error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.drain(..self.taken);
                        self.taken = 0;
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The next line as a value, once there is one, and those that are there with it: `most` at the most.
    /// None at all at the end.
    ///
    /// # Errors
    /// As [`Lines::decoded`].
    pub async fn several<T: DeserializeOwned>(
        &mut self,
        most: usize,
    ) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::from_iter(self.decoded().await?);
        while !all.is_empty()
            && all.len() < most
            && let Some(more) = self.decoded().now_or_never()
        {
            match more? {
                Some(one) => all.push(one),
                None => break,
            }
        }
        Ok(all)
    }

    /// The next line as a value.
    ///
    /// # Errors
    /// As [`Lines::next`], and when it is not such a value.
    pub async fn decoded<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        match self.next().await? {
            Some(line) => Ok(Some(decode(&self.state_dir, &self.question, &line)?)),
            None => Ok(None),
        }
    }

    /// The next item of a stream of log lines.
    ///
    /// # Errors
    /// As [`Lines::decoded`].
    pub async fn log_item(&mut self) -> Result<Option<LogItem>, ClientError> {
        let Some(line) = self.next().await? else {
            return Ok(None);
        };
        let item = if line.starts_with(br#"{"without_level":"#) {
            LogItem::LeftOut(decode(&self.state_dir, &self.question, &line)?)
        } else {
            LogItem::Line(decode(&self.state_dir, &self.question, &line)?)
        };
        Ok(Some(item))
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let rest = &self.pending[self.taken..];
        let end = memchr::memchr(b'\n', rest)?;
        let line = Bytes::copy_from_slice(&rest[..end]);
        self.taken += end + 1;
        Some(line)
    }
}
