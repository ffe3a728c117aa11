//! The last lines of components, for those who want to see them beside something else.

use crate::api::{Client, ClientError, LeftOut, Lines, LogEntry, LogItem, LogParams};
use crate::model::{Namespace, PipelineKey};

use super::out::tell;

/// The lines that `params` wants, each whole. A driver that cannot read its logs says so, and the
/// others are told.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn last_lines(
    client: &Client,
    params: &LogParams,
) -> Result<Vec<LogEntry>, ClientError> {
    lines_of(client, params, tell).await
}

/// The same without a word about drivers that cannot read their logs, for those whose standard
/// error is what they draw on.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn last_lines_quietly(
    client: &Client,
    params: &LogParams,
) -> Result<Vec<LogEntry>, ClientError> {
    lines_of(client, params, |_| {}).await
}

async fn lines_of(
    client: &Client,
    params: &LogParams,
    say: impl Fn(&str),
) -> Result<Vec<LogEntry>, ClientError> {
    let mut lines: Vec<LogEntry> = Vec::new();
    let mut feed = client.logs(params).await?;
    while let Some(entry) = entry_of(&mut feed, &say).await? {
        add(&mut lines, entry);
    }
    Ok(lines)
}

/// The next entry of `feed`; a driver that cannot read its logs says so, and the others go on.
/// Cancel-safe.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn next_entry(feed: &mut Lines) -> Result<Option<LogEntry>, ClientError> {
    entry_of(feed, &tell).await
}

async fn entry_of(feed: &mut Lines, say: &impl Fn(&str)) -> Result<Option<LogEntry>, ClientError> {
    loop {
        match feed.log_item().await {
            Ok(Some(LogItem::Line(entry))) => return Ok(Some(*entry)),
            Ok(Some(LogItem::LeftOut(left_out))) => say(&left_out_in_words(&left_out)),
            Ok(None) => return Ok(None),
            Err(error) => say(&format!("warning: {}", error.answered()?)),
        }
    }
}

/// Which lines `--level` does not show although nobody knows their level.
fn left_out_in_words(left_out: &LeftOut) -> String {
    let PipelineKey { namespace, name } = &left_out.pipeline;
    let of = if *namespace == Namespace::default() {
        name.to_string()
    } else {
        left_out.pipeline.to_string()
    };
    let count = left_out.without_level;
    let (lines, have) = if count == 1 {
        ("line", "has")
    } else {
        ("lines", "have")
    };
    let are = if count == 1 { "is" } else { "are" };
    format!("note: {count} {lines} of {of} {have} no level and {are} not shown")
}

/// Adds an entry, or its text to the line of which it is a part.
fn add(lines: &mut Vec<LogEntry>, entry: LogEntry) {
    let mut of_writer = lines.iter_mut().rev();
    let before =
        of_writer.find(|line| (&line.instance, line.stream) == (&entry.instance, entry.stream));
    match before {
        Some(line) if line.partial => {
            line.text.push_str(&entry.text);
            line.partial = entry.partial;
        }
        Some(_) | None => lines.push(entry),
    }
}
