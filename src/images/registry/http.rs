//! One request to a registry, bounded in time and size, to an address that was looked at.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderMap, HeaderValue,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::http::{self, Trust};
use crate::model::HumanDuration;
use crate::probe::is_metadata;

/// How long one request may take, with its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where something is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Whether by TLS.
    pub tls: bool,
    /// In lower case; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// Reads an address; `None` = it is none that could be asked.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        if uri.authority()?.as_str().contains('@') {
            return None;
        }
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }

    /// Where an answer from here leads with `location`.
    pub(super) fn leads(&self, location: &str) -> Option<Self> {
        match location.starts_with('/') && !location.starts_with("//") {
            true => {
                let path: Uri = location.parse().ok()?;
                let path = path.path_and_query()?.to_string();
                Some(Self {
                    path,
                    ..self.clone()
                })
            }
            false => Self::parse(location),
        }
    }

    /// Whether both are one server, asked in one way.
    pub(super) fn is_same_server(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Url {
    /// Without its query, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

/// How far away an address is, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Zone {
    /// On this host.
    Loopback,
    /// In a private network.
    Private,
    /// Anywhere.
    Public,
}

impl Zone {
    /// That of an address; `None` = nothing that a registry may send us to is there, such as the
    /// metadata service of a cloud.
    pub(super) fn of(address: IpAddr) -> Option<Self> {
        if is_metadata(address) {
            return None;
        }
        match address.to_canonical() {
            IpAddr::V4(it) if it.is_loopback() => Some(Self::Loopback),
            IpAddr::V4(it) if it.is_unspecified() || it.is_multicast() || it.is_broadcast() => None,
            IpAddr::V4(it) => {
                let [first, second, ..] = it.octets();
                // Shared by the customers of one provider.
                let is_shared = first == 100 && second & 0xc0 == 64;
                Some(match it.is_private() || is_shared || first == 0 {
                    true => Self::Private,
                    false => Self::Public,
                })
            }
            IpAddr::V6(it) if it.is_loopback() => Some(Self::Loopback),
            IpAddr::V6(it) if it.is_unspecified() || it.is_multicast() => None,
            // A translator leads to the IPv4 address at its end.
            IpAddr::V6(it) if it.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
                let [.., a, b, c, d] = it.octets();
                Self::of(IpAddr::from([a, b, c, d]))
            }
            IpAddr::V6(it) => Some(match it.is_unique_local() {
                true => Self::Private,
                false => Self::Public,
            }),
        }
    }
}

/// Whether a host is this one by its name alone.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|it| Zone::of(it) == Some(Zone::Loopback))
}

/// What is asked.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub url: &'a Url,
    /// The whole value of the header.
    pub authorization: Option<&'a str>,
    pub accept: &'a str,
    /// A form that is posted.
    pub form: Option<String>,
    /// A longer body is refused, in bytes.
    pub limit: usize,
    /// Nearer addresses are not asked.
    pub nearest: Option<Zone>,
    /// A folder of certificates of authorities that are trusted here besides.
    pub trusts: Option<&'a Path>,
}

/// What was answered.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// How far away it came from.
    pub zone: Zone,
}

impl Answer {
    /// A header's text; empty when it is not there or no text.
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|it| it.to_str().ok()).unwrap_or_default()
    }
}

/// Asks servers that the host trusts.
pub(super) struct Asker {
    trust: OnceCell<Trust>,
    /// How long one request may take, with its answer.
    pub patience: Duration,
}

impl Default for Asker {
    fn default() -> Self {
        Self {
            trust: OnceCell::new(),
            patience: PATIENCE,
        }
    }
}

impl Asker {
    /// Asks, within a deadline of its own.
    ///
    /// # Errors
    /// Why there is no answer, in words without secrets.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, String> {
        let host = ask.url.host.clone();
        match tokio::time::timeout(self.patience, self.exchange(ask)).await {
            Ok(answer) => answer.map_err(|why| format!("{host}: {why}")),
            Err(_) => {
                let limit = HumanDuration::new(self.patience);
                Err(format!("{host}: no answer within {limit}"))
            }
        }
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Answer, String> {
        let url = ask.url;
        let (stream, zone) = connect(url, ask.nearest).await?;
        let request = request(&ask)?;
        if !url.tls {
            return answer(stream, request, ask.limit, zone).await;
        }
        let read = |folder: Option<PathBuf>| async move {
            tokio::task::spawn_blocking(move || Trust::read(folder.as_deref()))
                .await
                .map_err(|error| format!("certificates could not be read: {error}"))?
        };
        let trust = match ask.trusts.filter(|folder| folder.is_dir()) {
            Some(folder) => read(Some(folder.to_owned())).await?,
            None => self.trust.get_or_try_init(|| read(None)).await?.clone(),
        };
        let stream = trust.greet(&url.host, stream).await;
        let stream = stream.map_err(|error| no_tls(&error, ask.trusts))?;
        answer(stream, request, ask.limit, zone).await
    }
}

/// Why a server is not believed, and what makes it so, where that is a usual thing.
fn no_tls(error: &std::io::Error, folder: Option<&Path>) -> String {
    let why = error.to_string();
    if why.contains("CaUsedAsEndEntity") {
        "its certificate is that of an authority, which is none for a server: make it one of its own, \
         signed by that authority"
            .to_owned()
    } else if let Some(folder) = folder.filter(|_| why.contains("UnknownIssuer")) {
        format!(
            "its certificate is of an authority that this host does not trust: if it is yours, put its \
             certificate into {} as `ca.crt`, where the engine wants it too",
            folder.display()
        )
    } else {
        format!("no TLS: {why}")
    }
}

/// Connects to an address that is not nearer than `nearest`. The address that was judged is the one
/// that is used, so that a name that changes its meaning gains nothing.
async fn connect(url: &Url, nearest: Option<Zone>) -> Result<(TcpStream, Zone), String> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
    let found: Vec<SocketAddr> = found
        .map_err(|error| format!("its name is not known: {error}"))?
        .collect();
    let usable: Vec<(SocketAddr, Zone)> = found
        .iter()
        .filter_map(|address| Some((*address, Zone::of(address.ip())?)))
        .filter(|(_, zone)| nearest.is_none_or(|nearest| *zone >= nearest))
        .collect();
    if usable.is_empty() {
        return Err(match found.is_empty() {
            true => "its name has no address".to_owned(),
            false => "its address is one that a registry may not send us to".to_owned(),
        });
    }
    let mut why = String::new();
    for (address, zone) in usable {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, zone)),
            Err(error) => why = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(why)
}

fn request(ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(&ask.method)
        .uri(&ask.url.path)
        .body(Full::new(Bytes::from(ask.form.clone().unwrap_or_default())))
        .map_err(|_| "its address is not valid".to_owned())?;
    let headers = request.headers_mut();
    let value =
        |text: &str| HeaderValue::from_str(text).map_err(|_| "a header is not valid".to_owned());
    headers.extend(http::headers(&ask.url.authority())?);
    headers.insert(ACCEPT, value(ask.accept)?);
    // Nothing is decompressed: what is counted is what is held.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if ask.form.is_some() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
    }
    if let Some(text) = ask.authorization {
        let mut secret = value(text)?;
        secret.set_sensitive(true);
        headers.insert(AUTHORIZATION, secret);
    }
    Ok(request)
}

async fn answer<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    limit: usize,
    zone: Zone,
) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let read = |response: Response<Incoming>| async move {
        let (head, body) = response.into_parts();
        let encoding = head.headers.get(CONTENT_ENCODING);
        if encoding.is_some_and(|it| it != "identity") {
            return Err("it compresses its answer, which was not asked for".to_owned());
        }
        Ok(Answer {
            status: head.status,
            body: whole(body, &head.headers, limit).await?,
            headers: head.headers,
            zone,
        })
    };
    http::exchange(stream, request, read).await
}

/// A body that is not longer than it may be.
async fn whole(mut body: Incoming, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, String> {
    let too_long = || format!("its answer is longer than {limit} bytes");
    let announced = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    let announced = announced.and_then(|it| it.parse::<u64>().ok());
    if announced.is_some_and(|it| it > u64::try_from(limit).unwrap_or(u64::MAX)) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "its answer breaks off".to_owned())?;
        if let Some(more) = frame.data_ref() {
            if bytes.len() + more.len() > limit {
                return Err(too_long());
            }
            bytes.extend_from_slice(more);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_leads_to_the_same_server_or_to_another() {
        let here = Url::parse("https://r.io/v2/a/manifests/1").unwrap();
        let there = here.leads("/v2/x?y=1").unwrap();
        assert!(there.is_same_server(&here));
        assert_eq!(there.path, "/v2/x?y=1");
        for other in ["https://s.io/x", "http://r.io/x", "https://r.io:444/x"] {
            assert!(!here.leads(other).unwrap().is_same_server(&here), "{other}");
        }
        for none in [
            "//s.io/x",
            "file:///etc/passwd",
            "x",
            "",
            "https://u:p@r.io/",
            "gopher://r.io/",
        ] {
            assert_eq!(here.leads(none), None, "{none}");
        }
        assert!(!format!("{there}").contains("y=1"));
    }

    #[test]
    fn a_server_that_is_not_believed_is_told_what_would_help() {
        let told = |why: &str| {
            let error = std::io::Error::other(why.to_owned());
            no_tls(&error, Some(Path::new("/etc/docker/certs.d/r.acme")))
        };
        let unknown = told("invalid peer certificate: UnknownIssuer");
        assert!(unknown.contains("/etc/docker/certs.d/r.acme"), "{unknown}");
        let authority = told("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))");
        assert!(
            authority.contains("signed by that authority"),
            "{authority}"
        );
        assert_eq!(told("tls handshake eof"), "no TLS: tls handshake eof");
    }

    #[test]
    fn the_metadata_service_of_a_cloud_is_nowhere() {
        let zone = |text: &str| Zone::of(text.parse().unwrap());
        for none in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
        ] {
            assert_eq!(zone(none), None, "{none}");
        }
        assert_eq!(zone("127.0.0.2"), Some(Zone::Loopback));
        assert_eq!(zone("::ffff:127.0.0.1"), Some(Zone::Loopback));
        for private in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::254"] {
            assert_eq!(zone(private), Some(Zone::Private), "{private}");
        }
        assert_eq!(zone("8.8.8.8"), Some(Zone::Public));
        assert!(Zone::Loopback < Zone::Private && Zone::Private < Zone::Public);
    }
}
