//! `stellar-live-source-datalake`: streams the ledgers of a lake.

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
use crate::lake::{Lake, LakeError, LakeSettings};
use crate::proto::raw_ledger_service::raw_ledger_service_server::RawLedgerServiceServer;
use service::LedgerService;

/// The variables, for `--help`.
pub const HELP: &str = concat!(
    "\
Environment, first name wins:
  BUCKET_NAME, ARCHIVE_BUCKET_NAME, LAKE_URL
                        the lake: a directory, a bucket, or a URL (s3://, gs://, file://); required
  STORAGE_TYPE, ARCHIVE_STORAGE_TYPE
                        FS, S3 or GCS, when the lake is named by a bucket; FS by default
  ARCHIVE_PATH          folder within the bucket
  LEDGERS_PER_FILE      layout of the lake; by default what its .config.json says, else 64
  FILES_PER_PARTITION   likewise, else 10
  AWS_REGION or AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
  AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI,
  S3_ENDPOINT_URL or AWS_ENDPOINT_URL, S3_FORCE_PATH_STYLE,
  GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, LAKE_ANONYMOUS (true for public buckets)
                        how to reach the bucket
  LAKE_TIMEOUT          how long one request to the bucket may take; 30s
  LAKE_POLL_INTERVAL    how often a follower looks for the next file; 500ms
  START_LEDGER          first ledger for those who ask for none; 2
  END_LEDGER            last ledger for those who ask for none; 0 follows the tip for ever
  PORT, GRPC_PORT       where ledgers are streamed; 50052
  HEALTH_PORT           where /health and /metrics are served; 8088
",
    crate::component::registration_help!(),
    "  STELLAR_NETWORK       the network that the control plane is told; testnet
  HEALTH_ENDPOINT       where the control plane is told its health is;
                        http://localhost:HEALTH_PORT/health
  LOG_LEVEL             error, warn, info, debug; info",
);

/// What the source needs to know.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// The component's id.
    pub component: String,
    /// The lake.
    pub lake: LakeSettings,
    /// First ledger for requests that name none.
    pub start: u32,
    /// Last ledger for requests that name none; `None` follows the tip.
    pub end: Option<u32>,
    /// Where ledgers are streamed.
    pub address: SocketAddr,
    /// Where health is served.
    pub health_address: SocketAddr,
    /// How to register with flowctl.
    pub registration: Option<Registration>,
}

impl SourceSettings {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// One is missing or can't be understood.
    pub fn from_env(env: &Env) -> Result<Self, SettingError> {
        let component = env.component("stellar-live-source-datalake");
        let health_address = env.listen(&["HEALTH_PORT"], 8088)?;
        let port = health_address.port();
        Ok(Self {
            lake: LakeSettings::from_env(env)?,
            start: env.parsed(&["START_LEDGER"])?.unwrap_or(2),
            end: env.parsed(&["END_LEDGER"])?.filter(|end| *end > 0),
            address: env.listen(&["PORT", "GRPC_PORT"], 50052)?,
            health_address,
            registration: Registration::from_env(env, Role::Source, &component, port)?,
            component,
        })
    }
}

/// Why the source ended.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The lake's location makes no sense.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The port for streams can't be listened on.
    #[error("can't listen on {address} for ledger streams: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// Serving failed.
    #[error("serving ledger streams: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the source until it is asked to stop.
pub async fn main(settings: SourceSettings) -> ExitCode {
    // A source at the tip of a quiet lake is not stalled, and it knows the difference itself.
    let health = Health::new(settings.component.clone(), Duration::ZERO);
    let frame = Frame {
        health: health.clone(),
        health_address: settings.health_address,
        registration: settings.registration.clone(),
    };
    frame.run(|stop| serve(settings, health, stop)).await
}

async fn serve(
    settings: SourceSettings,
    health: Arc<Health>,
    stop: CancellationToken,
) -> Result<(), SourceError> {
    let lake: Arc<Lake> = Arc::new(settings.lake.open()?);
    let address = settings.address;
    let listen = |error| SourceError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    tracing::info!(%address, lake = lake.location(), "streaming ledgers");
    let service = LedgerService::new(lake, &settings, health);
    let watch = tokio::spawn(service.clone().watch_lake());
    let outcome = Server::builder()
        .http2_keepalive_interval(Some(link::KEEPALIVE))
        .http2_keepalive_timeout(Some(link::KEEPALIVE))
        .initial_stream_window_size(link::WINDOW)
        .tcp_nodelay(true)
        .add_service(RawLedgerServiceServer::new(service.until(stop.clone())))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await;
    watch.abort();
    Ok(outcome?)
}
