//! Copying what containers write into our own log files, while they run and after they ended, so
//! that one reader serves all drivers and the lines outlive the container.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt;

use super::engine::{Failure, Quiet};
use super::sight::Seen;
use super::{Conduct, Inner};
use crate::driver::logs::{Copier, LogFile, Record, Unwritten, blocking};
use crate::driver::{OutputStream, logs};
use crate::model::{InstanceId, Life, LogLimits, Timestamp};

/// The first pause after a failed try; doubled up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the removal of a container waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(10);
/// Pieces of output that are written at once.
const BATCH: usize = 512;

/// Whose output is copied.
#[derive(Clone)]
struct Source {
    id: String,
    instance: InstanceId,
    began: Option<Timestamp>,
    limits: LogLimits,
}

/// Whether the engine is asked to go on as the container writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

impl Inner {
    /// Copies a container's output from now on, unless that is done already.
    pub(super) fn copy_output(self: &Arc<Self>, seen: &Seen) {
        if self.config.conduct == Conduct::OnlyLooks {
            return;
        }
        let began = match &seen.life {
            Life::Created | Life::Pending(_) | Life::NotStarted { .. } => return,
            Life::Running { since } => Some(*since),
            Life::Exited(exit) | Life::RuntimeRestarted(exit) | Life::Disrupted { exit, .. } => {
                exit.started_at
            }
            Life::Lost { .. } | Life::HostReboot { .. } => None,
        };
        self.copiers().entry(seen.id.clone()).or_insert_with(|| {
            let spec = seen.description.as_ref().map(|it| &it.spec);
            let source = Source {
                id: seen.id.clone(),
                instance: seen.instance.clone(),
                began,
                limits: spec.map_or_else(LogLimits::default, |spec| spec.logs),
            };
            Copier::spawn(self.clone().copy_to_the_end(source))
        });
    }

    /// Waits until the last lines of an ended container are copied; false when they are not yet.
    pub(super) async fn copied(&self, id: &str) -> bool {
        let done = self.copiers().get(id).map(|it| it.done_within(LAST_LINES));
        match done {
            Some(done) => done.await,
            None => true,
        }
    }

    async fn copy_to_the_end(self: Arc<Self>, source: Source) {
        let mut pause = SHORTEST_PAUSE;
        let mut behind = None;
        loop {
            let begun = tokio::time::Instant::now();
            match self.copy_while_it_runs(&source, &mut behind).await {
                Ok(()) => return,
                Err(Failure::Answered { status: 404, .. }) => {
                    // Whoever removed it did not wait for us.
                    if let Some(lost) = behind {
                        self.tell_loss(&source, lost).await;
                    }
                    return;
                }
                Err(Failure::Answered {
                    status: 501,
                    message,
                }) => {
                    tracing::warn!(instance = %source.instance, message, "its output cannot be read");
                    return;
                }
                Err(failure) => {
                    tracing::debug!(instance = %source.instance, ?failure, "output is copied later");
                }
            }
            pause = if begun.elapsed() > LONGEST_PAUSE {
                SHORTEST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Opens the log of `source`, on a thread that may block.
    fn log_of(
        &self,
        source: &Source,
    ) -> impl Fn() -> std::io::Result<LogFile> + Clone + Send + 'static {
        let InstanceId {
            pipeline,
            replica,
            incarnation,
        } = &source.instance;
        let dir = logs::replica_dir(&self.logs_dir(), pipeline, replica);
        let (incarnation, limits) = (*incarnation, source.limits);
        move || LogFile::open(&dir, incarnation, limits)
    }

    /// Says that lines were lost, once the disk takes that.
    async fn tell_loss(&self, source: &Source, lost: Unwritten) {
        let (open, lost) = (self.log_of(source), Arc::new(lost));
        tracing::warn!(
            instance = %source.instance,
            lines = lost.lines,
            error = %lost.error,
            "lines of a log were lost with their container"
        );
        loop {
            let (open, lost, now) = (open.clone(), Arc::clone(&lost), self.clock.now());
            let told = blocking(move || open()?.append_loss(now, &lost));
            if told.await.is_ok() {
                return;
            }
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }

    /// `behind` is what the disk did not take when it was last asked to.
    async fn copy_while_it_runs(
        &self,
        source: &Source,
        behind: &mut Option<Unwritten>,
    ) -> Result<(), Failure> {
        loop {
            self.copy_some(source, Follow::Yes, behind).await?;
            let inspected = self.engine.container(&source.id).await?;
            let state = inspected.and_then(|inspected| inspected.state);
            if state.and_then(|state| state.running) != Some(true) {
                // What it wrote with its last breath may have come after the stream's end.
                return self.copy_some(source, Follow::No, behind).await;
            }
            tokio::time::sleep(SHORTEST_PAUSE).await;
        }
    }

    /// Copies what the engine has, or will have until the container ends.
    async fn copy_some(
        &self,
        source: &Source,
        follow: Follow,
        behind: &mut Option<Unwritten>,
    ) -> Result<(), Failure> {
        let log = blocking(self.log_of(source)).await;
        let mut log = log.map_err(Failure::Silent)?;
        let options = LogsOptions {
            follow: follow == Follow::Yes,
            stdout: true,
            stderr: true,
            since: i32::try_from(log.since()).unwrap_or(0),
            timestamps: true,
            tail: "all".to_owned(),
            ..LogsOptions::default()
        };
        let client = self.engine.client()?;
        let pieces = client.logs(&source.id, Some(options));
        let mut batches = Box::pin(pieces.ready_chunks(BATCH));
        loop {
            let batch = match (self.engine.heard(batches.next()).await, follow) {
                (Ok(Some(batch)), _) => batch,
                // The caller looks whether it still runs, and goes on from here.
                (Ok(None), _) | (Err(Quiet), Follow::Yes) => return Ok(()),
                (Err(Quiet), Follow::No) => {
                    let why = "the engine fell silent in the midst of its output";
                    return Err(Failure::Silent(why.to_owned()));
                }
            };
            let mut records = Vec::with_capacity(batch.len());
            let mut failed = None;
            for piece in batch {
                match piece {
                    Ok(LogOutput::StdOut { message }) => {
                        records.extend(Record::read(OutputStream::Stdout, &message, source.began));
                    }
                    Ok(LogOutput::StdErr { message }) => {
                        records.extend(Record::read(OutputStream::Stderr, &message, source.began));
                    }
                    // A piece that was cut off: it is asked for again.
                    Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) => {}
                    Err(error) => failed = Some(self.engine.failure(error)),
                }
            }
            let appended = blocking(move || {
                let appended = log.append(&records);
                Ok((log, appended))
            });
            let (written, appended) = appended.await.map_err(Failure::Silent)?;
            log = written;
            match appended {
                // The answer that there is no such container is no piece of output.
                Ok(0) => {}
                Ok(_) => *behind = None,
                Err(unwritten) => {
                    let why = format!("cannot write its log: {}", unwritten.error);
                    *behind = Some(unwritten);
                    return Err(Failure::Silent(why));
                }
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
        }
    }
}

/// The tasks that copy, by container.
pub(super) type Copiers = std::collections::HashMap<String, Copier>;
