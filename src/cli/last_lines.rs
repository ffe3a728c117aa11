//! The last lines of components, for those who want to see them beside something else.

use crate::api::{ApiError, Client, ClientError, LeftOut, Lines, LogEntry, LogItem, LogParams};
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
    lines_of(client, params, tell_trouble).await
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
    trouble: impl Fn(&ApiError),
) -> Result<Vec<LogEntry>, ClientError> {
    let mut lines: Vec<LogEntry> = Vec::new();
    let mut feed = client.logs(params).await?;
    while let Some(entry) = entry_of(&mut feed, &trouble).await? {
        add(&mut lines, entry);
    }
    Ok(lines)
}

fn tell_trouble(error: &ApiError) {
    tell(&format!("warning: {error}"));
}

/// The next entry of `feed`; a driver that cannot read its logs says so, and the others go on.
/// Cancel-safe.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn next_entry(feed: &mut Lines) -> Result<Option<LogEntry>, ClientError> {
    entry_of(feed, &tell_trouble).await
}

async fn entry_of(
    feed: &mut Lines,
    trouble: &impl Fn(&ApiError),
) -> Result<Option<LogEntry>, ClientError> {
    loop {
        match feed.log_item().await {
            Ok(Some(LogItem::Line(entry))) => return Ok(Some(*entry)),
            Ok(Some(LogItem::LeftOut(left_out))) => tell_left_out(&left_out),
            Ok(None) => return Ok(None),
            Err(ClientError::Answer(error)) => trouble(&error),
            Err(
                error @ (ClientError::NoDaemon { .. }
                | ClientError::NotOurs { .. }
                | ClientError::Unwritten { .. }
                | ClientError::Silent { .. }
                | ClientError::Broken { .. }),
            ) => return Err(error),
        }
    }
}

/// Says which lines `--level` does not show although nobody knows their level.
fn tell_left_out(left_out: &LeftOut) {
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
    tell(&format!(
        "note: {count} {lines} of {of} {have} no level and {} not shown",
        if count == 1 { "is" } else { "are" }
    ));
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
