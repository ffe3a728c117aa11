//! Asking another control plane, upstream's included, who is registered with it.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::convert::{health_of_v1, kind_of_v1, metrics_of_legacy, metrics_of_v1, time_of};
use super::tls::{self, ClientTls};
use super::wire::legacy::ServiceStatus;
use super::wire::legacy::control_plane_client::ControlPlaneClient;
use super::wire::v1::control_plane_service_client::ControlPlaneServiceClient;
use super::wire::v1::{ComponentStatusResponse, ListComponentsRequest};
use crate::model::{ComponentEntry, ServiceHealth, ServiceId, ServiceKind};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest list that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why another control plane could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address cannot be used.
    #[error("`{address}` is not an address: write HOST:PORT, without a scheme")]
    Address {
        /// What was written.
        address: String,
    },
    /// Nobody answers.
    #[error("no control plane answers at {address}: {why}")]
    Unreachable {
        /// Which one.
        address: String,
        /// What happened.
        why: String,
    },
    /// It refused.
    #[error("the control plane at {address} refused: {} ({:?})", .status.message(), .status.code())]
    Refused {
        /// Which one.
        address: String,
        /// What it said.
        status: Box<Status>,
    },
}

/// Another control plane, and how it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// `host:port`.
    pub address: String,
    /// The token to show; `None` = none.
    pub token: Option<String>,
    /// `None` = plain.
    pub tls: Option<ClientTls>,
}

/// Everyone who is registered with another control plane.
///
/// # Errors
/// When nobody answers there, or the answer is a refusal.
pub async fn components_at(place: &Elsewhere) -> Result<Vec<ComponentEntry>, RemoteError> {
    let address = place.address.as_str();
    let bad_address = || RemoteError::Address {
        address: address.to_owned(),
    };
    if address.contains('/') || !address.contains(':') {
        return Err(bad_address());
    }
    let endpoint = Endpoint::try_from(format!("http://{address}")).map_err(|_| bad_address())?;
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
    let connected = match &place.tls {
        None => endpoint.connect().await,
        Some(tls) => {
            let (tls, address) = (tls.clone(), address.to_owned());
            let connect = tower::service_fn(move |_: Uri| open(tls.clone(), address.clone()));
            endpoint.connect_with_connector(connect).await
        }
    };
    let unreachable = |error: &dyn Error| RemoteError::Unreachable {
        address: address.to_owned(),
        why: root_cause(error),
    };
    let channel = connected.map_err(|error| unreachable(&error))?;
    let refused = |status: Status| match status.source() {
        // The connection broke: a client without a certificate that is asked for learns it so.
        Some(error) => unreachable(error),
        None => RemoteError::Refused {
            address: address.to_owned(),
            status: Box::new(status),
        },
    };
    let token = place.token.as_deref();
    match of_sdk(channel.clone(), token).await {
        // The server of July 2025 knows only the older service.
        Err(status) if status.code() == Code::Unimplemented => {
            of_legacy(channel, token).await.map_err(refused)
        }
        answer => answer.map_err(refused),
    }
}

/// What the transport says of itself is no help; what the host said is.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

async fn open(tls: ClientTls, address: String) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect(&address).await?;
    let stream = tls::connect(&tls, host, stream).await?;
    Ok(TokioIo::new(stream))
}

/// A request that shows `token`.
fn bearing<T>(message: T, token: Option<&str>) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let header = format!("Bearer {token}").parse();
        let header = header.map_err(|_| Status::unauthenticated("the token is no token"))?;
        request.metadata_mut().insert("authorization", header);
    }
    Ok(request)
}

async fn of_sdk(channel: Channel, token: Option<&str>) -> Result<Vec<ComponentEntry>, Status> {
    let mut client = ControlPlaneServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let request = ListComponentsRequest {
        type_filter: 0,
        include_unhealthy: true,
    };
    let answer = client
        .list_components(bearing(request, token)?)
        .await?
        .into_inner();
    Ok(answer
        .components
        .into_iter()
        .filter_map(entry_of_sdk)
        .collect())
}

async fn of_legacy(channel: Channel, token: Option<&str>) -> Result<Vec<ComponentEntry>, Status> {
    let mut client = ControlPlaneClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let answer = client
        .list_services(bearing((), token)?)
        .await?
        .into_inner();
    Ok(answer
        .services
        .into_iter()
        .filter_map(entry_of_legacy)
        .collect())
}

/// One that has no id that can be shown is left out.
fn entry_of_sdk(status: ComponentStatusResponse) -> Option<ComponentEntry> {
    let info = status.component?;
    let metrics = metrics_of_v1(status.metrics);
    Some(ComponentEntry {
        kind: kind_of_v1(info.r#type),
        health: health_of_v1(status.status).unwrap_or_default(),
        registered_at: status.registered_at.map(time_of),
        last_heartbeat: status.last_heartbeat.map(time_of),
        name: info.name,
        version: info.version,
        endpoint: info.endpoint,
        input_event_types: info.input_event_types,
        output_event_types: info.output_event_types,
        metadata: info.metadata,
        metrics: metrics
            .iter()
            .map(|(name, value)| (name.clone(), value.to_json()))
            .collect(),
        ..nameless(info.id.parse().ok()?, info.id)
    })
}

fn entry_of_legacy(status: ServiceStatus) -> Option<ComponentEntry> {
    let metrics = metrics_of_legacy(status.metrics);
    Some(ComponentEntry {
        kind: match status.service_type {
            1 => ServiceKind::Source,
            2 => ServiceKind::Processor,
            3 => ServiceKind::Sink,
            4 => ServiceKind::Pipeline,
            _ => ServiceKind::Unspecified,
        },
        health: if status.is_healthy {
            ServiceHealth::Healthy
        } else {
            ServiceHealth::Unhealthy
        },
        last_heartbeat: status.last_heartbeat.map(time_of),
        metrics: metrics
            .iter()
            .map(|(name, value)| (name.clone(), value.to_json()))
            .collect(),
        ..nameless(status.service_id.parse().ok()?, status.component_id)
    })
}

fn nameless(service_id: ServiceId, component: String) -> ComponentEntry {
    ComponentEntry {
        service_id,
        component,
        kind: ServiceKind::Unspecified,
        health: ServiceHealth::default(),
        registered_at: None,
        last_heartbeat: None,
        instance: None,
        known_by: None,
        name: String::new(),
        version: String::new(),
        endpoint: String::new(),
        health_endpoint: String::new(),
        input_event_types: Vec::new(),
        output_event_types: Vec::new(),
        metadata: Default::default(),
        metrics: Default::default(),
    }
}
