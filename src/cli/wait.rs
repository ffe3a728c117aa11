//! Waits until a goal is reached, and shows how it gets there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until};

use super::exit::Failure;
use super::goal::{Goal, Stage, Standing};
use super::last_lines::last_lines;
use super::out::tell;
use super::target::Target;
use super::text::{clean, truncated};
use crate::api::{Client, ClientError, LogParams};
use crate::clock::Clock;
use crate::model::{HumanDuration, Snapshot};

/// Lines shown of what failed.
const LINES: u64 = 10;

/// A limit as it is typed, where zero stands for none: the longest length that can be added to a
/// point in time is as good as none.
pub fn limit(within: HumanDuration) -> HumanDuration {
    if within.get().is_zero() {
        HumanDuration::new(HumanDuration::MAX)
    } else {
        within
    }
}

/// Waits until `goal` is reached, for at most `within` (zero = without end). Answers what was seen
/// then.
///
/// # Errors
/// [`Failure::ComponentFailed`] as soon as something will not get there by itself,
/// [`Failure::TimedOut`] with what was still waited for, [`Failure::Daemon`] when the daemon goes.
pub async fn until(
    client: &Client,
    goal: &Goal,
    within: HumanDuration,
) -> Result<Snapshot, Failure> {
    let deadline = Instant::now() + limit(within).get();
    let mut lines = client.watch().await?;
    let mut progress = Progress::new();
    let clock = Clock::new();
    let mut waiting = Vec::new();
    let mut ailing = BTreeSet::new();
    loop {
        let snapshot: Option<Snapshot> = tokio::select! {
            // Cancel-safe: a line that is not whole yet stays in `lines`.
            line = lines.decoded() => line?,
            () = sleep_until(deadline) => {
                progress.end();
                tell_last_lines(client, &ailing).await;
                return Err(Failure::TimedOut { after: within, waiting });
            }
        };
        let Some(snapshot) = snapshot else {
            progress.end();
            return Err(Failure::Daemon(ClientError::NoDaemon {
                state_dir: client.state_dir().to_path_buf(),
                why: "it ended while it was waited for".to_owned(),
            }));
        };
        let standings = goal.standings(&snapshot, clock.now());
        progress.show(&standings);
        let failed = lines_of(&standings, &[Stage::Failed]);
        if !failed.is_empty() {
            progress.end();
            let lost = standings.iter().filter(|it| it.stage == Stage::Failed);
            let ailing = lost.filter_map(|standing| standing.ailing.clone());
            tell_last_lines(client, &ailing.collect()).await;
            return Err(Failure::ComponentFailed { failed });
        }
        ailing = standings
            .iter()
            .filter_map(|standing| standing.ailing.clone())
            .collect();
        waiting = lines_of(&standings, &[Stage::Waiting, Stage::Untouched]);
        if waiting.is_empty() {
            progress.end();
            return Ok(snapshot);
        }
    }
}

/// Shows what those wrote last that are not well: it mostly says why.
async fn tell_last_lines(client: &Client, ailing: &BTreeSet<Target>) {
    for target in ailing {
        let params = LogParams {
            tail: Some(LINES),
            defined: true,
            ..LogParams::of(&target.pipeline, target.component.to_string())
        };
        match last_lines(client, &params).await {
            Ok(lines) if lines.is_empty() => tell(&format!("{target} wrote nothing")),
            Ok(lines) => {
                tell(&format!("last lines of {target}:"));
                for line in lines {
                    tell(&format!("  {}", clean(&line.text)));
                }
            }
            Err(error) => tell(&format!("warning: the last lines of {target}: {error}")),
        }
    }
}

/// Why what was done is not recorded, where it is not: what ends something is done all the same,
/// since it may be what frees the disk.
pub fn unrecorded(snapshot: Snapshot) -> Option<String> {
    let daemon = snapshot.daemon.filter(|daemon| !daemon.durable)?;
    Some(daemon.durable_why.unwrap_or_default())
}

fn lines_of(standings: &[Standing], stages: &[Stage]) -> Vec<String> {
    standings
        .iter()
        .filter(|standing| stages.contains(&standing.stage))
        .map(|standing| standing.line.clone())
        .collect()
}

/// How a wait is shown, on standard error.
enum Progress {
    /// One line that is drawn anew, on a terminal.
    Line(ProgressBar),
    /// A line for each change, elsewhere; the state last told of each name.
    Log(BTreeMap<String, String>),
}

impl Progress {
    fn new() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            Self::Line(bar)
        } else {
            Self::Log(BTreeMap::new())
        }
    }

    fn show(&mut self, standings: &[Standing]) {
        match self {
            Self::Line(bar) => {
                let columns = terminal_size::terminal_size_of(std::io::stderr())
                    .map_or(80, |(columns, _)| usize::from(columns.0));
                let line = summary(standings);
                // Two columns are the spinner's.
                bar.set_message(truncated(&line, columns.saturating_sub(3)).into_owned());
            }
            Self::Log(told) => {
                for standing in standings {
                    // What was well from the start is no news.
                    let is_news = match told.get(&standing.name) {
                        Some(before) => *before != standing.state,
                        None => standing.stage != Stage::Done,
                    };
                    if is_news {
                        tell(&standing.line);
                    }
                    told.insert(standing.name.clone(), standing.state.clone());
                }
            }
        }
    }

    fn end(&self) {
        match self {
            Self::Line(bar) => bar.finish_and_clear(),
            Self::Log(_) => {}
        }
    }
}

/// `3 of 5; ttp/sink: pending (..)`.
fn summary(standings: &[Standing]) -> String {
    let done = standings
        .iter()
        .filter(|standing| standing.stage == Stage::Done)
        .count();
    let next = standings
        .iter()
        .find(|standing| standing.stage != Stage::Done)
        .map_or("", |standing| &standing.line);
    format!("{done} of {}; {next}", standings.len())
}
