//! `consumer-app`: writes the events of a processor to a file, each exactly once.

pub mod file;
pub mod record;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::component::env::{Env, SettingError};
use crate::component::health::Health;
use crate::component::register::{Registration, Role};
use crate::component::run::Frame;
use crate::processor::STALL_AFTER;

/// The variables, for `--help`.
pub const HELP: &str = concat!(
    "\
Environment, first name wins (arguments win over all):
  START_LEDGER          the first ledger, when no argument names it; 2
  END_LEDGER            the last ledger, likewise; 0 goes on for ever
  TTP_SERVICE_ADDRESS, TTP_PROCESSOR_ADDRESS, TTP_ENDPOINT
                        the processor, as host:port; localhost:50051
  OUTPUT_FILE           where events are written, one JSON object a line; events.ndjson
  HEALTH_PORT, PORT     where /health and /metrics are served; 8093
  STALL_TIMEOUT         unhealthy when no event comes for this long; 0 turns it off; 5m
",
    crate::component::registration_help!(),
    "  STELLAR_NETWORK       the network that the control plane is told; testnet
  HEALTH_ENDPOINT       where the control plane is told its health is;
                        http://localhost:HEALTH_PORT/health
  LOG_LEVEL             error, warn, info, debug; info

How far it has come is kept beside the output, in OUTPUT_FILE.checkpoint. A restarted consumer goes
on from there, whatever START_LEDGER says; to begin anew, remove both files.",
);

/// The ledgers whose events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u32,
    /// The last; `None` goes on for ever.
    pub end: Option<u32>,
}

/// What the consumer does once it has every event of a bounded range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Stays, so that its health can be read.
    Stay,
    /// Ends, with success.
    Exit,
}

/// What the consumer needs to know.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// The component's id.
    pub component: String,
    /// The processor, as `host:port`.
    pub processor: String,
    /// The ledgers wanted.
    pub range: Range,
    /// What to do at the end of them.
    pub at_end: AtEnd,
    /// Where events are written.
    pub output: PathBuf,
    /// Where health is served.
    pub health_address: SocketAddr,
    /// No event for this long is a stall; zero turns that off.
    pub stall_after: Duration,
    /// How to register with flowctl.
    pub registration: Option<Registration>,
}

impl ConsumerSettings {
    /// Reads the settings from the environment; `start` and `end` are the arguments, which win.
    ///
    /// # Errors
    /// One is missing or can't be understood.
    pub fn from_env(
        env: &Env,
        start: Option<u32>,
        end: Option<u32>,
        at_end: AtEnd,
    ) -> Result<Self, SettingError> {
        let component = env.component("consumer-app");
        let health_address = env.listen(&["HEALTH_PORT", "PORT"], 8093)?;
        let port = health_address.port();
        let start = start.or(env.parsed(&["START_LEDGER"])?).unwrap_or(2).max(2);
        let end = end.or(env.parsed(&["END_LEDGER"])?);
        let processor = [
            "TTP_SERVICE_ADDRESS",
            "TTP_PROCESSOR_ADDRESS",
            "TTP_ENDPOINT",
        ];
        Ok(Self {
            processor: env.peer(&processor, "localhost:50051")?,
            range: Range {
                start,
                end: end.filter(|end| *end >= start),
            },
            at_end,
            output: env
                .text(&["OUTPUT_FILE"])
                .unwrap_or_else(|| "events.ndjson".to_owned())
                .into(),
            health_address,
            stall_after: env.duration(&["STALL_TIMEOUT"])?.unwrap_or(STALL_AFTER),
            registration: Registration::from_env(env, Role::Sink, &component, port)?,
            component,
        })
    }
}

/// Runs the consumer until it is asked to stop, or, if so set, has everything.
pub async fn main(settings: ConsumerSettings) -> ExitCode {
    let health = Health::new(settings.component.clone(), settings.stall_after);
    let frame = Frame {
        health: health.clone(),
        health_address: settings.health_address,
        registration: settings.registration.clone(),
    };
    frame
        .run(|stop| stream::consume(settings, health, stop))
        .await
}
