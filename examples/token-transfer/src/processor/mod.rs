//! `ttp-processor`: streams the token transfer events of the ledgers that a source streams.

mod relay;
mod service;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::component::env::{Env, SettingError};
use crate::component::health::Health;
use crate::component::link;
use crate::component::register::{Registration, Role};
use crate::component::run::Frame;
use crate::events::Network;
use crate::proto::token_transfer_service::event_service_server::EventServiceServer;
use service::EventsService;

/// The variables, for `--help`.
pub const HELP: &str = concat!(
    "\
Environment, first name wins:
  NETWORK_PASSPHRASE    the network the ledgers come from; required unless STELLAR_NETWORK is
  STELLAR_NETWORK       testnet, pubnet (or mainnet) or futurenet, instead of the passphrase
  SOURCE_SERVICE_ADDRESS, LIVE_SOURCE_ENDPOINT, LIVE_SOURCE_ADDRESS
                        the ledger source, as host:port; localhost:50052
  PORT, GRPC_PORT       where events are streamed; 50051
  HEALTH_PORT           where /health and /metrics are served; 8088
  STALL_TIMEOUT         unhealthy when an open stream gets no ledger for this long; 0 turns it
                        off; 5m
",
    crate::component::registration_help!(),
    "  HEALTH_ENDPOINT       where the control plane is told its health is;
                        http://localhost:HEALTH_PORT/health
  LOG_LEVEL             error, warn, info, debug; info",
);

/// The default of `STALL_TIMEOUT`.
pub const STALL_AFTER: Duration = Duration::from_secs(300);

/// What the processor needs to know.
#[derive(Debug, Clone)]
pub struct ProcessorSettings {
    /// The component's id.
    pub component: String,
    /// The network the ledgers come from.
    pub network: Network,
    /// The source, as `host:port`.
    pub source: String,
    /// Where events are streamed.
    pub address: SocketAddr,
    /// Where health is served.
    pub health_address: SocketAddr,
    /// An open stream without a ledger for this long is a stall; zero turns that off.
    pub stall_after: Duration,
    /// How to register with flowctl.
    pub registration: Option<Registration>,
}

impl ProcessorSettings {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// One is missing or can't be understood.
    pub fn from_env(env: &Env) -> Result<Self, SettingError> {
        let component = env.component("ttp-processor");
        let health_address = env.listen(&["HEALTH_PORT"], 8088)?;
        let port = health_address.port();
        let source = [
            "SOURCE_SERVICE_ADDRESS",
            "LIVE_SOURCE_ENDPOINT",
            "LIVE_SOURCE_ADDRESS",
        ];
        Ok(Self {
            network: network(env)?,
            source: env.peer(&source, "localhost:50052")?,
            address: env.listen(&["PORT", "GRPC_PORT"], 50051)?,
            health_address,
            stall_after: env.duration(&["STALL_TIMEOUT"])?.unwrap_or(STALL_AFTER),
            registration: Registration::from_env(env, Role::Processor, &component, port)?,
            component,
        })
    }
}

fn network(env: &Env) -> Result<Network, SettingError> {
    if let Some(passphrase) = env.text(&["NETWORK_PASSPHRASE"]) {
        return Ok(Network::new(&passphrase));
    }
    let known = env.with(&["STELLAR_NETWORK"], |name| {
        match name.to_ascii_lowercase().as_str() {
            "testnet" => Ok("Test SDF Network ; September 2015"),
            "pubnet" | "mainnet" | "public" => Ok("Public Global Stellar Network ; September 2015"),
            "futurenet" => Ok("Test SDF Future Network ; October 2022"),
            _ => Err("it is none of testnet, pubnet and futurenet".to_owned()),
        }
    })?;
    let missing = || SettingError::Missing {
        names: "NETWORK_PASSPHRASE".to_owned(),
        meaning: "the passphrase of the network the ledgers come from, \
                  such as \"Test SDF Network ; September 2015\""
            .to_owned(),
    };
    known.map(Network::new).ok_or_else(missing)
}

/// Why the processor ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The port for streams can't be listened on.
    #[error("can't listen on {address} for event streams: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// Serving failed.
    #[error("serving event streams: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the processor until it is asked to stop.
pub async fn main(settings: ProcessorSettings) -> ExitCode {
    let health = Health::new(settings.component.clone(), settings.stall_after);
    let frame = Frame {
        health: health.clone(),
        health_address: settings.health_address,
        registration: settings.registration.clone(),
    };
    frame.run(|stop| serve(settings, health, stop)).await
}

async fn serve(
    settings: ProcessorSettings,
    health: Arc<Health>,
    stop: CancellationToken,
) -> Result<(), ProcessorError> {
    let address = settings.address;
    let listen = |error| ProcessorError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    tracing::info!(%address, source = settings.source, "streaming events");
    let service = EventsService::new(&settings, health, stop.clone());
    let watch = tokio::spawn(service.clone().watch_source());
    let outcome = Server::builder()
        .http2_keepalive_interval(Some(link::KEEPALIVE))
        .http2_keepalive_timeout(Some(link::KEEPALIVE))
        .initial_stream_window_size(link::WINDOW)
        .tcp_nodelay(true)
        .add_service(EventServiceServer::new(service))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await;
    watch.abort();
    Ok(outcome?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ProcessorSettings, SettingError> {
        let lookup = |name: &str| {
            pairs
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        ProcessorSettings::from_env(&Env::new(&lookup))
    }

    #[test]
    fn the_names_of_real_components_win_over_those_of_the_design_notes() {
        let settings = read(&[
            ("STELLAR_NETWORK", "testnet"),
            ("LIVE_SOURCE_ENDPOINT", "http://notes:1"),
            ("SOURCE_SERVICE_ADDRESS", "real:2"),
            ("GRPC_PORT", "3"),
            ("PORT", ":4"),
        ])
        .unwrap();
        assert_eq!(settings.source, "real:2");
        assert_eq!(settings.address.port(), 4);
        assert_eq!(
            settings.network,
            Network::new("Test SDF Network ; September 2015")
        );
    }

    #[test]
    fn without_a_network_the_error_says_what_a_passphrase_looks_like() {
        let error = read(&[]).unwrap_err().to_string();
        assert!(
            error.contains("NETWORK_PASSPHRASE") && error.contains("September"),
            "{error}"
        );
    }
}
