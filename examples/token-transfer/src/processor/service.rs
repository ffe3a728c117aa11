//! The service that streams events, and the watch over the source while nobody streams.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::ProcessorSettings;
use super::relay::{Figures, Relay};
use crate::component::health::Health;
use crate::component::link;
use crate::events::Network;
use crate::proto::token_transfer::TokenTransferEvent;
use crate::proto::token_transfer_service::GetEventsRequest;
use crate::proto::token_transfer_service::event_service_server::EventService;

/// Ledgers whose events a stream may hold for a slow consumer.
const WAITING: usize = 32;

/// How often the source is looked for while nobody streams.
const LOOK: Duration = Duration::from_secs(1);

/// Streams the events of one source's ledgers.
#[derive(Debug, Clone)]
pub(super) struct EventsService {
    network: Network,
    source: String,
    health: Arc<Health>,
    figures: Arc<Figures>,
    streams: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// Counts a stream as long as it lives.
struct Open(Arc<AtomicUsize>, Arc<Health>);

impl Open {
    fn new(service: &EventsService) -> Self {
        service.streams.fetch_add(1, Ordering::Relaxed);
        Self(service.streams.clone(), service.health.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.idle();
        }
    }
}

impl EventsService {
    pub(super) fn new(
        settings: &ProcessorSettings,
        health: Arc<Health>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            network: settings.network,
            source: settings.source.clone(),
            figures: Arc::new(Figures::of(&health)),
            health,
            streams: Arc::default(),
            stop,
        }
    }

    /// Looks whether the source answers as long as no stream tells.
    pub(super) async fn watch_source(self) {
        loop {
            if self.streams.load(Ordering::Relaxed) == 0 {
                let found = link::connect(&self.source).await;
                // A stream that was opened meanwhile knows better.
                if self.streams.load(Ordering::Relaxed) == 0 {
                    match found {
                        Ok(_) => self
                            .health
                            .healthy("the source answers; nobody asks for events"),
                        Err(error) => {
                            let reason = link::causes(&error);
                            self.health
                                .unhealthy(format!("source {}: {reason}", self.source));
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<TokenTransferEvent, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for EventsService {
    type GetTTPEventsStream = EventStream;

    async fn get_ttp_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let peer = request.remote_addr().map(|address| address.to_string());
        let wanted = request.into_inner();
        let start = wanted.start_ledger.max(2);
        // An end before the start is the older way of asking for no end.
        let end = Some(wanted.end_ledger).filter(|end| *end >= start);
        tracing::info!(peer, start, end, "stream opened");

        let (out, events) = mpsc::channel(WAITING);
        let relay = Relay {
            network: self.network,
            source: self.source.clone(),
            health: self.health.clone(),
            figures: self.figures.clone(),
        };
        let (open, stop) = (Open::new(self), self.stop.clone());
        tokio::spawn(async move {
            let done = stop
                .run_until_cancelled(relay.run(start, end, out.clone()))
                .await;
            if done.is_none() {
                // A stream that ends without an error says that it is complete, which it is not.
                let stopping = Status::unavailable("the processor is stopping");
                drop(out.send(vec![Err(stopping)]).await);
            }
            drop(open);
        });
        let events = ReceiverStream::new(events).flat_map(stream::iter);
        Ok(Response::new(Box::pin(events)))
    }
}
