//! gRPC probes: one call of `grpc.health.v1.Health/Check` over plain HTTP/2.
//!
//! The two messages have one field each, so they are written and read by hand.

use h2::client::SendRequest;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, StatusCode};

use super::Trouble;
use super::connect::broken;
use super::site::Door;
use crate::http::alongside;

/// An answer is 7 bytes; more than this is not one.
const MESSAGE_LIMIT: usize = 4 << 10;
/// Room for response headers and trailers.
const HEADER_LIMIT: u32 = 16 << 10;

/// Passes when `service` (empty = the whole server) is SERVING.
pub(super) async fn check(door: &Door<'_>, service: &str) -> Result<(), Trouble> {
    let Door { host, port, .. } = door;
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(
            USER_AGENT,
            concat!("flowctl-probe/", env!("CARGO_PKG_VERSION")),
        )
        .body(())
        .map_err(|_| Trouble::component("its host is not valid in a URL"))?;
    let stream = door.connect().await?;
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(HEADER_LIMIT)
        .handshake(stream)
        .await
        .map_err(no_answer)?;
    alongside(connection, exchange(sender, request, service)).await
}

async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    service: &str,
) -> Result<(), Trouble> {
    let mut sender = sender.ready().await.map_err(no_answer)?;
    let (response, mut body) = sender.send_request(request, false).map_err(no_answer)?;
    body.send_data(framed(service), true).map_err(no_answer)?;
    let response = response.await.map_err(no_answer)?;
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err(Trouble::component(format!("HTTP {status}")));
    }
    // An error may come in the headers alone, without body and trailers.
    if let Some(code) = status_code(response.headers())
        && code != 0
    {
        return Err(refused(code, service));
    }
    let mut body = response.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(no_answer)?;
        if message.len() + data.len() > MESSAGE_LIMIT {
            return Err(not_grpc());
        }
        message.extend_from_slice(&data);
        body.flow_control()
            .release_capacity(data.len())
            .map_err(no_answer)?;
    }
    let trailers = body.trailers().await.map_err(no_answer)?;
    match trailers.as_ref().and_then(status_code) {
        Some(0) => judge(&message),
        Some(code) => Err(refused(code, service)),
        None => Err(not_grpc()),
    }
}

/// `HealthCheckRequest { string service = 1; }` behind the five bytes of a gRPC frame.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).expect("a service name is far below 4 GiB");
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// Reads `HealthCheckResponse { ServingStatus status = 1; }`; an absent field is 0.
fn judge(frame: &[u8]) -> Result<(), Trouble> {
    let Some((&[0, a, b, c, d], message)) = frame.split_first_chunk() else {
        return Err(not_grpc());
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    let message = usize::try_from(length)
        .ok()
        .and_then(|length| message.get(..length))
        .ok_or_else(not_grpc)?;
    let status = match message {
        [] => 0,
        [0x08, status, ..] => *status,
        [..] => return Err(not_grpc()),
    };
    let name = match status {
        1 => return Ok(()),
        0 => "UNKNOWN",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => return Err(Trouble::component(format!("status is {status}"))),
    };
    Err(Trouble::component(format!("status is {name}")))
}

fn status_code(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The codes of gRPC that a health check meets, by name.
fn refused(code: u32, service: &str) -> Trouble {
    let name = match code {
        1 => "CANCELLED",
        2 => "UNKNOWN",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => return Trouble::component(format!("it knows no service `{service}`")),
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        12 => return Trouble::component("it serves no grpc.health.v1.Health"),
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        16 => "UNAUTHENTICATED",
        _ => return Trouble::component(format!("gRPC status {code}")),
    };
    Trouble::component(format!("gRPC status {name}"))
}

fn not_grpc() -> Trouble {
    Trouble::component("the answer is not gRPC")
}

fn no_answer(error: h2::Error) -> Trouble {
    match error.get_io() {
        Some(io) => broken(io),
        None => not_grpc(),
    }
}
