//! One stream of events: ledgers asked from the source, turned into events, handed on in order.
//! When the source goes away, it is connected to again and asked for the ledger after the last
//! one that was handed on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tonic::{Code, Status};

use crate::component::health::{Health, Metric};
use crate::component::link::{self, Backoff};
use crate::events::{self, Network};
use crate::proto::raw_ledger_service::raw_ledger_service_client::RawLedgerServiceClient;
use crate::proto::raw_ledger_service::{RawLedger, StreamLedgersRequest};
use crate::proto::token_transfer::TokenTransferEvent;

/// The events of one ledger, in order: one wake-up for all of them. Or why there are no more.
pub(super) type Told = Vec<Result<TokenTransferEvent, Status>>;

/// Relays the events of a stretch of ledgers.
#[derive(Debug)]
pub(super) struct Relay {
    pub network: Network,
    pub source: String,
    pub health: Arc<Health>,
    pub figures: Arc<Figures>,
}

/// The processor's figures.
#[derive(Debug)]
pub(super) struct Figures {
    succeeded: Arc<Metric>,
    failed: Arc<Metric>,
    processed: Arc<Metric>,
    emitted: Arc<Metric>,
    last: Arc<Metric>,
    latency: Arc<Metric>,
    reconnects: Arc<Metric>,
}

impl Figures {
    pub(super) fn of(health: &Health) -> Self {
        Self {
            succeeded: health.metric("success_count"),
            failed: health.metric("error_count"),
            processed: health.metric("total_processed"),
            emitted: health.metric("total_events_emitted"),
            last: health.metric("last_processed_ledger"),
            latency: health.metric("processing_latency_ms"),
            reconnects: health.metric("source_reconnects"),
        }
    }
}

/// Why relaying paused or ended.
enum Pause {
    /// The consumer has gone.
    Gone,
    /// All that was asked for was handed on.
    Done,
    /// The source went away, or says that it can't go on; that may pass.
    Source(String),
    /// A ledger can't be turned into events; it will not get better by itself.
    Ledger(Status),
}

/// How long a stream that brings nothing has to stay open until the source counts as well again. One
/// that can't go on ends the stream at once.
const OPEN: Duration = Duration::from_secs(1);

impl Relay {
    /// Hands on the events of the ledgers from `start` to `end` (or for ever).
    pub(super) async fn run(&self, start: u32, end: Option<u32>, out: Sender<Told>) {
        let mut next = start;
        let mut backoff = Backoff::default();
        let mut told = String::new();
        loop {
            let begin = next;
            let pause = tokio::select! {
                pause = self.stream(&mut next, end, &out) => pause,
                () = out.closed() => Pause::Gone,
            };
            if next > begin {
                backoff.reset();
                told.clear();
            }
            match pause {
                Pause::Gone => return tracing::info!(next, "the consumer has gone"),
                Pause::Done => return tracing::info!(next, "all that was asked for was streamed"),
                Pause::Ledger(status) => {
                    self.figures.failed.add(1.0);
                    self.health.unhealthy(status.message());
                    tracing::error!(ledger = next, "{}", status.message());
                    // Whoever has gone meanwhile does not miss it.
                    return drop(out.send(vec![Err(status)]).await);
                }
                Pause::Source(reason) => {
                    self.figures.failed.add(1.0);
                    let reason = format!("source {}: {reason}", self.source);
                    // The same trouble again is no news.
                    if reason != told {
                        tracing::warn!(next, "{reason}; trying again");
                    }
                    self.health.unhealthy(reason.as_str());
                    told = reason;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => self.figures.reconnects.add(1.0),
                () = out.closed() => return tracing::info!(next, "the consumer has gone"),
            }
        }
    }

    /// One stream of the source, up to what ends it. `next` follows the ledgers handed on.
    async fn stream(&self, next: &mut u32, end: Option<u32>, out: &Sender<Told>) -> Pause {
        let channel = match link::connect(&self.source).await {
            Ok(channel) => channel,
            Err(error) => return Pause::Source(link::causes(&error)),
        };
        let mut client =
            RawLedgerServiceClient::new(channel).max_decoding_message_size(link::MAX_MESSAGE);
        let request = StreamLedgersRequest {
            start_ledger: *next,
            end_ledger: end.unwrap_or_default(),
        };
        let mut ledgers = match client.stream_raw_ledgers(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Pause::Source(describe(&status)),
        };
        tracing::debug!(next = *next, "source stream opened");
        self.health.progress();
        let mut open_for_a_while = false;
        loop {
            let message = if open_for_a_while {
                ledgers.message().await
            } else {
                // Cancel-safe: what was received of a message stays in the stream.
                match tokio::time::timeout(OPEN, ledgers.message()).await {
                    Ok(message) => message,
                    Err(_) => {
                        open_for_a_while = true;
                        self.health.healthy(format!("waiting for ledger {next}"));
                        continue;
                    }
                }
            };
            match message {
                Ok(Some(ledger)) => {
                    if let Err(pause) = self.hand_on(next, end, &ledger, out).await {
                        return pause;
                    }
                }
                Ok(None) => return Pause::Source("ended the stream".to_owned()),
                Err(status) => return Pause::Source(describe(&status)),
            }
        }
    }

    /// Turns one ledger into events and hands them on.
    async fn hand_on(
        &self,
        next: &mut u32,
        end: Option<u32>,
        ledger: &RawLedger,
        out: &Sender<Told>,
    ) -> Result<(), Pause> {
        if ledger.sequence != *next {
            let got = ledger.sequence;
            return Err(Pause::Source(format!(
                "sent ledger {got} in the place of ledger {next}"
            )));
        }
        let begin = Instant::now();
        let events = events::decode(&ledger.ledger_close_meta_xdr)
            .and_then(|meta| events::of_ledger(self.network, &meta));
        let events = events.map_err(|error| {
            Pause::Ledger(Status::data_loss(format!(
                "ledger {}: {error}",
                ledger.sequence
            )))
        })?;
        self.figures
            .latency
            .set(begin.elapsed().as_secs_f64() * 1000.0);
        let emitted = u32::try_from(events.len()).expect("a ledger has less than 2^32 events");
        let told = events.into_iter().map(Ok).collect();
        out.send(told).await.map_err(|_| Pause::Gone)?;
        self.figures.emitted.add(f64::from(emitted));
        self.figures.processed.add(1.0);
        self.figures.succeeded.add(1.0);
        self.figures.last.set(f64::from(ledger.sequence));
        self.health.progress();
        self.health
            .healthy(format!("streamed the events of ledger {}", ledger.sequence));
        *next = ledger.sequence + 1;
        match end {
            Some(end) if *next > end => Err(Pause::Done),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a source's refusal says, with its code unless that is the plain loss of the connection.
fn describe(status: &Status) -> String {
    if status.code() == Code::Unavailable {
        return status.message().to_owned();
    }
    format!("{:?}: {}", status.code(), status.message())
}
