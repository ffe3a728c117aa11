//! Following the processor's stream: skipping what is written already, committing what is new,
//! connecting again when the processor goes away.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::file::{COMMIT_BYTES, Output, OutputError};
use super::record::Record;
use super::{AtEnd, ConsumerSettings, Range};
use crate::component::health::{Health, Metric};
use crate::component::link::{self, Backoff};
use crate::proto::token_transfer::TokenTransferEvent;
use crate::proto::token_transfer_service::GetEventsRequest;
use crate::proto::token_transfer_service::event_service_client::EventServiceClient;

/// How long an event may wait for its commit.
const COMMIT_AFTER: Duration = Duration::from_millis(50);

/// How long another consumer of the same output may take to leave.
const HANDOVER: Duration = Duration::from_secs(5);

/// Why the consumer ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The output can't be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

struct Consumer {
    settings: ConsumerSettings,
    health: Arc<Health>,
    output: Output,
    received: Arc<Metric>,
    last: Arc<Metric>,
    latency: Arc<Metric>,
    failed: Arc<Metric>,
    reconnects: Arc<Metric>,
}

/// Why a stream ended.
enum Pause {
    /// Every event asked for has come.
    Complete,
    /// The processor went away, or says that it can't go on; that may pass.
    Processor(String),
}

/// Consumes until `stop`, or until the end of the range if so set. What was received is committed
/// in either case.
pub(super) async fn consume(
    settings: ConsumerSettings,
    health: Arc<Health>,
    stop: CancellationToken,
) -> Result<(), ConsumerError> {
    let Some(output) = stop.run_until_cancelled(open(&settings)).await else {
        return Ok(());
    };
    let output = output?;
    let reached = output.reached();
    tracing::info!(
        processor = settings.processor,
        output = %settings.output.display(),
        events = reached.events,
        ledger = reached.ledger,
        "consuming",
    );
    let mut consumer = Consumer {
        received: health.metric("total_events_received"),
        last: health.metric("last_processed_ledger"),
        latency: health.metric("processing_latency_ms"),
        failed: health.metric("error_count"),
        reconnects: health.metric("processor_reconnects"),
        settings,
        health,
        output,
    };
    consumer.show();
    let outcome = stop.run_until_cancelled(consumer.follow()).await;
    consumer.output.commit()?;
    outcome.unwrap_or(Ok(()))
}

/// Opens the output; the consumer before this one may still be on its way out.
async fn open(settings: &ConsumerSettings) -> Result<Output, OutputError> {
    let begin = Instant::now();
    loop {
        match Output::open(&settings.output) {
            Err(OutputError::Taken(_)) if begin.elapsed() < HANDOVER => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened,
        }
    }
}

impl Consumer {
    /// Streams until the range is complete, whatever becomes of the processor.
    async fn follow(&mut self) -> Result<(), ConsumerError> {
        let mut backoff = Backoff::default();
        let mut told = String::new();
        while !self.complete() {
            let before = self.output.reached();
            match self.stream().await? {
                Pause::Complete => break,
                Pause::Processor(reason) => {
                    if self.output.reached() != before {
                        backoff.reset();
                        told.clear();
                    }
                    self.failed.add(1.0);
                    let reason = format!("processor {}: {reason}", self.settings.processor);
                    // The same trouble again is no news.
                    if reason != told {
                        tracing::warn!(ledger = before.ledger, "{reason}; trying again");
                    }
                    self.health.unhealthy(reason.as_str());
                    told = reason;
                }
            }
            tokio::time::sleep(backoff.delay()).await;
            self.reconnects.add(1.0);
        }
        let Range { start, end } = self.settings.range;
        let events = self.output.reached().events;
        tracing::info!(start, end, events, "every event of the range is written");
        self.health.idle();
        self.health
            .healthy(format!("complete: {events} events written"));
        match self.settings.at_end {
            AtEnd::Exit => Ok(()),
            AtEnd::Stay => std::future::pending().await,
        }
    }

    fn complete(&self) -> bool {
        let done = self.output.reached().complete_to;
        self.settings
            .range
            .end
            .is_some_and(|end| done.is_some_and(|done| done >= end))
    }

    /// One stream of the processor, up to what ends it.
    async fn stream(&mut self) -> Result<Pause, ConsumerError> {
        let channel = match link::connect(&self.settings.processor).await {
            Ok(channel) => channel,
            Err(error) => return Ok(Pause::Processor(link::causes(&error))),
        };
        let mut client =
            EventServiceClient::new(channel).max_decoding_message_size(link::MAX_MESSAGE);
        let reached = self.output.reached();
        // The last ledger may be incomplete, so it is asked for again and its known part skipped.
        let start_ledger = reached.ledger.max(self.settings.range.start);
        let end_ledger = self.settings.range.end.unwrap_or_default();
        let mut skip = if reached.ledger == start_ledger {
            reached.events_of_ledger
        } else {
            0
        };
        let request = GetEventsRequest {
            start_ledger,
            end_ledger,
        };
        let events = match client.get_ttp_events(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Pause::Processor(status.message().to_owned())),
        };
        tracing::info!(ledger = start_ledger, known = skip, "stream opened");
        self.health
            .healthy(format!("streaming from ledger {start_ledger}"));
        self.health.progress();
        let pause = self.take(events, &mut skip).await?;
        if matches!(pause, Pause::Complete)
            && let Some(end) = self.settings.range.end
        {
            self.output.complete(end);
        }
        self.output.commit()?;
        self.show();
        Ok(pause)
    }

    /// Takes the events of one stream, committing as they come. `skip` events are known already.
    async fn take(
        &mut self,
        mut events: Streaming<TokenTransferEvent>,
        skip: &mut u32,
    ) -> Result<Pause, ConsumerError> {
        let mut commit = interval(COMMIT_AFTER);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                _ = commit.tick(), if self.output.dirty() => {
                    self.output.commit()?;
                    self.show();
                    continue;
                }
                event = events.message() => event,
            };
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) if self.settings.range.end.is_some() => return Ok(Pause::Complete),
                Ok(None) => return Ok(Pause::Processor("ended the stream".to_owned())),
                Err(status) => return Ok(Pause::Processor(status.message().to_owned())),
            };
            self.health.progress();
            if *skip > 0 {
                if self.known(&event) {
                    *skip -= 1;
                    continue;
                }
                tracing::warn!(
                    missing = *skip,
                    "the processor tells fewer events than before"
                );
                *skip = 0;
            }
            if let Err(reason) = self.add(event) {
                return Ok(Pause::Processor(reason));
            }
            if self.output.waiting() > COMMIT_BYTES {
                self.output.commit()?;
                self.show();
            }
        }
    }

    /// Whether the event belongs to the ledger whose beginning is written already.
    fn known(&self, event: &TokenTransferEvent) -> bool {
        let ledger = event.meta.as_ref().map(|meta| meta.ledger_sequence);
        ledger == Some(self.output.reached().ledger)
    }

    fn add(&mut self, event: TokenTransferEvent) -> Result<(), String> {
        let reached = self.output.reached();
        let ledger = event
            .meta
            .as_ref()
            .map(|meta| meta.ledger_sequence)
            .unwrap_or_default();
        if ledger < reached.ledger {
            return Err(format!(
                "sent ledger {ledger} after ledger {}",
                reached.ledger
            ));
        }
        let index = if ledger == reached.ledger {
            reached.events_of_ledger
        } else {
            0
        };
        let record = Record::of(event, index).map_err(|error| error.to_string())?;
        self.latency.set(age_ms(record.closed_at));
        self.output.add(&record);
        Ok(())
    }

    /// Shows how far the output goes.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of events stays below 2^53"
    )]
    fn show(&self) {
        let reached = self.output.reached();
        self.received.set(reached.events as f64);
        self.last.set(f64::from(reached.ledger));
        if reached.ledger > 0 {
            let events = reached.events;
            self.health
                .healthy(format!("{events} events up to ledger {}", reached.ledger));
        }
    }
}

/// How long ago a ledger closed. For one that closed just now, this is the whole pipeline's delay.
fn age_ms(closed_at: i64) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "ledgers carry the wall clock")]
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let closed = Duration::from_secs(u64::try_from(closed_at).unwrap_or_default());
    now.saturating_sub(closed).as_secs_f64() * 1000.0
}
