//! The service that streams ledgers, and what it knows of the lake's health.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::SourceSettings;
use crate::component::health::{Health, Metric};
use crate::lake::reader::Sign;
use crate::lake::{Lake, LakeError, Reader};
use crate::proto::raw_ledger_service::raw_ledger_service_server::RawLedgerService;
use crate::proto::raw_ledger_service::{RawLedger, StreamLedgersRequest};

/// Ledgers a stream may hold for a slow reader.
const WAITING: usize = 16;

/// How often the lake is looked at when nobody streams from it.
const LOOK: Duration = Duration::from_secs(2);

/// A lake that takes longer than this to say how far it reaches counts as lost.
const ANSWER: Duration = Duration::from_secs(8);

/// Ledger 1 is the network's birth certificate, which no lake holds.
const FIRST_LEDGER: u32 = 2;

/// Streams ledgers of one lake.
#[derive(Debug, Clone)]
pub(super) struct LedgerService {
    shared: Arc<Shared>,
    start: u32,
    end: Option<u32>,
    poll: Duration,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    lake: Arc<Lake>,
    health: Arc<Health>,
    /// The ledger that could not be streamed. It stays a fault until it was streamed after all.
    fault: Mutex<Option<(u32, LakeError)>>,
    figures: Figures,
}

#[derive(Debug)]
struct Figures {
    succeeded: Arc<Metric>,
    failed: Arc<Metric>,
    processed: Arc<Metric>,
    bytes: Arc<Metric>,
    last: Arc<Metric>,
}

impl LedgerService {
    pub(super) fn new(lake: Arc<Lake>, settings: &SourceSettings, health: Arc<Health>) -> Self {
        let figures = Figures {
            succeeded: health.metric("success_count"),
            failed: health.metric("error_count"),
            processed: health.metric("total_processed"),
            bytes: health.metric("total_bytes_processed"),
            last: health.metric("last_successful_sequence"),
        };
        Self {
            shared: Arc::new(Shared {
                lake,
                health,
                fault: Mutex::new(None),
                figures,
            }),
            start: settings.start,
            end: settings.end,
            poll: settings.lake.poll,
            stop: CancellationToken::new(),
        }
    }

    /// The same, with streams that end when `stop` is cancelled.
    pub(super) fn until(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// Keeps looking whether the lake can be read, so that its loss shows even when nobody reads.
    pub(super) async fn watch_lake(self) {
        let shared = self.shared;
        let mut reachable = true;
        loop {
            let mut tip = pin!(shared.lake.tip());
            let tip = match tokio::time::timeout(ANSWER, &mut tip).await {
                Ok(tip) => tip,
                // A second question beside the first would only pile up.
                Err(_) => {
                    let silence = format!(
                        "the lake {} does not answer for {} s",
                        shared.lake.location(),
                        ANSWER.as_secs()
                    );
                    tracing::error!("{silence}");
                    shared.health.unhealthy(silence);
                    reachable = false;
                    tip.await
                }
            };
            let again = match &tip {
                Err(error) => {
                    shared.health.unhealthy(error.to_string());
                    Some(false)
                }
                Ok(_) if shared.tell_fault() => None,
                Ok(Some(tip)) => {
                    shared
                        .health
                        .healthy(format!("the lake reaches to ledger {tip}"));
                    Some(true)
                }
                Ok(None) => {
                    shared
                        .health
                        .healthy("the lake is empty: waiting for its first ledger");
                    Some(true)
                }
            };
            match (&tip, again) {
                (Err(error), Some(false)) if reachable => tracing::error!("{error}"),
                (Ok(_), Some(true)) if !reachable => tracing::info!("the lake can be read again"),
                _ => {}
            }
            reachable = again.unwrap_or(reachable);
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Shared {
    /// Says in health what the fault is, if there is one.
    fn tell_fault(&self) -> bool {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, error)) = &*fault {
            self.health.unhealthy(error.to_string());
        }
        fault.is_some()
    }

    fn delivered(&self, sequence: u32) {
        self.figures.succeeded.add(1.0);
        self.figures.processed.add(1.0);
        self.figures.last.set(f64::from(sequence));
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault
            .as_ref()
            .is_some_and(|(faulty, _)| *faulty <= sequence)
        {
            tracing::info!(ledger = sequence, "the ledger that failed was streamed now");
            *fault = None;
            self.health.healthy(format!("streamed ledger {sequence}"));
        }
    }

    /// Notes that the stream which should have sent ledger `next` failed, and says so to its reader.
    fn failed(&self, next: u32, error: &LakeError) -> Status {
        if *error == LakeError::Stopping {
            return Status::unavailable(error.to_string());
        }
        self.figures.failed.add(1.0);
        self.health.unhealthy(error.to_string());
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let news = fault.as_ref().is_none_or(|(_, before)| before != error);
        if news {
            tracing::error!(ledger = next, "{error}");
        }
        match error {
            LakeError::Unreachable { .. } | LakeError::Stopping => {
                Status::unavailable(error.to_string())
            }
            LakeError::Gap { .. } | LakeError::Damaged { .. } => {
                *fault = Some((next, error.clone()));
                Status::data_loss(error.to_string())
            }
            LakeError::Unusable { .. } => Status::failed_precondition(error.to_string()),
        }
    }
}

type LedgerStream = Pin<Box<dyn Stream<Item = Result<RawLedger, Status>> + Send>>;

#[tonic::async_trait]
impl RawLedgerService for LedgerService {
    type StreamRawLedgersStream = LedgerStream;

    async fn stream_raw_ledgers(
        &self,
        request: Request<StreamLedgersRequest>,
    ) -> Result<Response<LedgerStream>, Status> {
        let peer = request.remote_addr().map(|address| address.to_string());
        let wanted = request.into_inner();
        let start = match wanted.start_ledger {
            0 => self.start,
            start => start,
        };
        let start = start.max(FIRST_LEDGER);
        // An end before the start is the older way of asking for no end.
        let end = Some(wanted.end_ledger)
            .filter(|end| *end >= start)
            .or(self.end);
        tracing::info!(peer, start, end, "stream opened");

        let (out, ledgers) = mpsc::channel(WAITING);
        let reader = Reader::new(self.shared.lake.clone(), self.poll);
        let shared = self.shared.clone();
        let (watching, stop) = (shared.clone(), self.stop.clone());
        tokio::spawn(async move {
            let watch = |sign| {
                if let Sign::Delivered(sequence) = sign {
                    watching.delivered(sequence);
                }
            };
            let done = stop
                .run_until_cancelled(reader.run(start, end, out.clone(), watch))
                .await;
            if done.is_none() {
                // A stream that ends without an error says that it is complete, which it is not.
                drop(out.send(Err(LakeError::Stopping)).await);
            }
        });

        let mut next = start;
        let stream = ReceiverStream::new(ledgers).map(move |ledger| match ledger {
            Ok(ledger) => {
                next = ledger.sequence + 1;
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a file has less than 2^53 bytes"
                )]
                shared.figures.bytes.add(ledger.xdr.len() as f64);
                Ok(RawLedger {
                    sequence: ledger.sequence,
                    ledger_close_meta_xdr: ledger.xdr,
                })
            }
            Err(error) => Err(shared.failed(next, &error)),
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
