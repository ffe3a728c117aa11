//! Who is let in. Pure, but for the sessions that it remembers and the random bytes of them.
//!
//! A browser asks whatever any page tells it to ask, with the cookies of whom it asks. So a request
//! has to name a host that is ours (a name that was pointed here is another one), to come from a
//! page of ours, and to bring a cookie that only we gave. What changes something needs a header as
//! well, which no other page can send.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// The header that requests bring which change something.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-flowctl-token");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Browsers that are let in at the same time; the oldest has to come in again.
const MOST_SESSIONS: usize = 64;
/// A token that a person chose has at least so many letters.
pub const LEAST_TOKEN: usize = 20;

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request names a host that is not this one.
    #[error(
        "this server does not answer to that host name; open it as it was printed, or name the host \
         with --host"
    )]
    Host,
    /// A page of somebody else asks.
    #[error("a page of another site asked for this")]
    Origin,
    /// It brings no cookie or token that is good.
    #[error("open the link that `flowctl web` printed; each works once")]
    Unknown,
    /// It brings no token in its header.
    #[error("the request lacks the token of this page in its header")]
    NoToken,
}

impl Refused {
    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::NoToken => StatusCode::FORBIDDEN,
            Self::Unknown => StatusCode::UNAUTHORIZED,
        }
    }
}

/// What is kept of a secret: enough to know it again, in a time that tells nothing.
type Mark = [u8; 32];

fn mark(secret: &str) -> Mark {
    let digest = digest(&SHA256, secret.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The host gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host gives no random bytes for a token")]
pub struct NoRandomness;

/// 256 random bits as text.
///
/// # Errors
/// When the host has none.
pub fn secret() -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A browser that was let in.
#[derive(Clone, Debug)]
struct Session {
    cookie: Mark,
    token: String,
}

/// The doors of one server.
#[derive(Debug)]
pub struct Doors {
    /// Names and addresses beside those of this host alone.
    hosts: Vec<String>,
    cookie_name: String,
    is_secure: Security,
    /// The token of a link that was printed; used up by whoever comes first.
    once: Mutex<Option<Mark>>,
    /// The token of a file.
    permanent: Option<Mark>,
    sessions: Mutex<VecDeque<Session>>,
}

/// Whether the server speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// It does.
    Tls,
    /// It does not.
    Plain,
}

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A browser, with the token of its pages.
    Browser {
        /// What requests bring in their header that change something.
        token: String,
    },
    /// A program with the token of the file.
    Program,
}

impl Doors {
    /// Doors of a server at `address` that is also called `hosts`.
    pub fn new(
        address: SocketAddr,
        hosts: &[String],
        security: Security,
        once: Option<&str>,
        permanent: Option<&str>,
    ) -> Self {
        let mut hosts: Vec<String> = hosts.iter().map(|host| host.to_lowercase()).collect();
        if !address.ip().is_unspecified() {
            hosts.push(bracketed(address.ip()));
        }
        Self {
            hosts,
            // Cookies do not tell ports apart.
            cookie_name: format!("flowctl-{}", address.port()),
            is_secure: security,
            once: Mutex::new(once.map(mark)),
            permanent: permanent.map(mark),
            sessions: Mutex::new(VecDeque::new()),
        }
    }

    /// Whether a request may be answered at all: it names this host, and no page of another site
    /// sent it.
    ///
    /// # Errors
    /// When not.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
        let mut named = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            return Err(Refused::Host);
        };
        let host = host.to_str().map_err(|_| Refused::Host)?.to_lowercase();
        if !self.is_ours(without_port(&host)) {
            return Err(Refused::Host);
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().map_err(|_| Refused::Origin)?.to_lowercase();
            let from = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            if from != Some(host.as_str()) {
                return Err(Refused::Origin);
            }
        }
        // A link may lead here from anywhere; what it leads to only shows the page.
        let is_navigation = *method == Method::GET
            && headers
                .get("sec-fetch-mode")
                .is_some_and(|mode| mode == "navigate");
        let site = headers.get(FETCH_SITE);
        let is_foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
        if is_foreign && !is_navigation {
            return Err(Refused::Origin);
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        let address: Option<IpAddr> = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
            .parse()
            .ok();
        host == "localhost"
            || address.is_some_and(|address| address.is_loopback())
            || self.hosts.iter().any(|known| known == host)
    }

    /// Lets a browser in that brings a token: answers the cookie that it is given.
    ///
    /// # Errors
    /// When the token is not good, or was used before.
    pub fn let_in(&self, token: &str) -> Result<Result<String, Refused>, NoRandomness> {
        let brought = mark(token);
        let is_permanent = self.permanent == Some(brought);
        let is_once = lock(&self.once).take_if(|once| *once == brought).is_some();
        if !is_permanent && !is_once {
            return Ok(Err(Refused::Unknown));
        }
        let (cookie, token) = (secret()?, secret()?);
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= MOST_SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(Session {
            cookie: mark(&cookie),
            token,
        });
        let name = &self.cookie_name;
        let secure = match self.is_secure {
            Security::Tls => "; Secure",
            Security::Plain => "",
        };
        Ok(Ok(format!(
            "{name}={cookie}; Path=/; HttpOnly; SameSite=Strict{secure}"
        )))
    }

    /// Who asks.
    ///
    /// # Errors
    /// When nobody who was let in.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        if let Some(shown) = headers.get(header::AUTHORIZATION) {
            let token = shown.to_str().ok();
            let token = token.and_then(|shown| shown.strip_prefix("Bearer "));
            let brought = token.map(|token| mark(token.trim()));
            return if brought.is_some() && brought == self.permanent {
                Ok(Caller::Program)
            } else {
                Err(Refused::Unknown)
            };
        }
        let cookies = headers.get_all(header::COOKIE).iter();
        let pairs = cookies
            .filter_map(|cookie| cookie.to_str().ok())
            .flat_map(|cookie| cookie.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let sessions = lock(&self.sessions);
        for (_, value) in pairs.filter(|(name, _)| *name == self.cookie_name) {
            let brought = mark(value);
            if let Some(session) = sessions.iter().find(|one| one.cookie == brought) {
                return Ok(Caller::Browser {
                    token: session.token.clone(),
                });
            }
        }
        Err(Refused::Unknown)
    }

    /// Whether the caller may change something: a browser's page says the token in a header, and
    /// tells where it is from.
    ///
    /// # Errors
    /// When not.
    pub fn may_change(&self, headers: &HeaderMap) -> Result<(), Refused> {
        match self.caller(headers)? {
            Caller::Program => Ok(()),
            Caller::Browser { token } => {
                if !headers.contains_key(header::ORIGIN) {
                    return Err(Refused::Origin);
                }
                let said = headers.get(TOKEN_HEADER);
                let said = said.and_then(|said| said.to_str().ok()).map(mark);
                if said == Some(mark(&token)) {
                    Ok(())
                } else {
                    Err(Refused::NoToken)
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An address of version 6 stands in brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            if name.contains(':') && !name.ends_with(']') {
                host
            } else {
                name
            }
        }
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    fn doors() -> Doors {
        let address = "127.0.0.1:4000".parse().unwrap();
        let hosts = ["Flow.example".to_owned()];
        Doors::new(
            address,
            &hosts,
            Security::Plain,
            Some("once"),
            Some("for ever"),
        )
    }

    fn checked(pairs: &[(&'static str, &str)]) -> Result<(), Refused> {
        doors().check(&Method::GET, &headers(pairs))
    }

    #[test]
    fn a_name_that_was_pointed_here_is_not_this_host() {
        for ours in [
            "127.0.0.1:4000",
            "127.0.0.1",
            "localhost:9000",
            "LOCALHOST",
            "[::1]:4000",
            "flow.example:443",
        ] {
            assert_eq!(checked(&[("host", ours)]), Ok(()), "{ours}");
        }
        for other in [
            "evil.example",
            "127.0.0.1.evil.example:4000",
            "localhost.evil.example",
            "evil.example:4000",
            "10.0.0.1",
            "",
            "localhost@evil.example",
        ] {
            assert_eq!(checked(&[("host", other)]), Err(Refused::Host), "{other}");
        }
        assert_eq!(checked(&[]), Err(Refused::Host));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(checked(&twice), Err(Refused::Host));
    }

    #[test]
    fn a_page_of_another_site_is_refused_and_a_link_to_ours_is_not() {
        let host = ("host", "localhost:4000");
        for origin in [
            "http://evil.example",
            "http://localhost:4001",
            "null",
            "http://localhost:4000.evil.example",
            "file://localhost:4000",
        ] {
            let refused = checked(&[host, ("origin", origin)]);
            assert_eq!(refused, Err(Refused::Origin), "{origin}");
        }
        assert_eq!(
            checked(&[host, ("origin", "http://localhost:4000")]),
            Ok(())
        );
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(checked(&[host, cross]), Err(Refused::Origin));
        let link = ("sec-fetch-mode", "navigate");
        assert_eq!(checked(&[host, cross, link]), Ok(()));
        let post = doors().check(&Method::POST, &headers(&[host, cross, link]));
        assert_eq!(post, Err(Refused::Origin));
    }

    #[test]
    fn a_link_lets_one_browser_in_and_its_cookie_keeps_it_in() {
        let doors = doors();
        assert_eq!(doors.let_in("twice").unwrap(), Err(Refused::Unknown));
        let cookie = doors.let_in("once").unwrap().unwrap();
        assert!(
            cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"),
            "{cookie}"
        );
        assert_eq!(doors.let_in("once").unwrap(), Err(Refused::Unknown));
        let (pair, _) = cookie.split_once(';').unwrap();
        let brought = headers(&[("cookie", &format!("a=b; {pair}"))]);
        assert!(matches!(doors.caller(&brought), Ok(Caller::Browser { .. })));
        for other in ["", "flowctl-4000=", "flowctl-4000=0000", "x=1"] {
            let refused = doors.caller(&headers(&[("cookie", other)]));
            assert_eq!(refused, Err(Refused::Unknown), "{other}");
        }
    }

    #[test]
    fn whoever_changes_something_brings_the_token_of_the_page() {
        let doors = doors();
        let cookie = doors.let_in("for ever").unwrap().unwrap();
        let pair = cookie.split(';').next().unwrap();
        let Ok(Caller::Browser { token }) = doors.caller(&headers(&[("cookie", pair)])) else {
            panic!("it was let in");
        };
        let origin = ("origin", "http://localhost:4000");
        let tried = |pairs: &[(&'static str, &str)]| doors.may_change(&headers(pairs));
        let said = ("x-flowctl-token", token.as_str());
        assert_eq!(tried(&[("cookie", pair), origin, said]), Ok(()));
        assert_eq!(tried(&[("cookie", pair), origin]), Err(Refused::NoToken));
        assert_eq!(tried(&[("cookie", pair), said]), Err(Refused::Origin));
        assert_eq!(tried(&[origin, said]), Err(Refused::Unknown));
        let wrong = ("x-flowctl-token", "0000");
        assert_eq!(
            tried(&[("cookie", pair), origin, wrong]),
            Err(Refused::NoToken)
        );
        assert_eq!(tried(&[("authorization", "Bearer for ever")]), Ok(()));
        assert_eq!(
            tried(&[("authorization", "Bearer once")]),
            Err(Refused::Unknown)
        );
        assert_eq!(
            tried(&[
                ("authorization", "Bearer never"),
                ("cookie", pair),
                origin,
                said
            ]),
            Err(Refused::Unknown)
        );
    }

    #[test]
    fn of_too_many_browsers_the_oldest_comes_in_again() {
        let doors = doors();
        let first = doors.let_in("for ever").unwrap().unwrap();
        for _ in 0..MOST_SESSIONS {
            doors.let_in("for ever").unwrap().unwrap();
        }
        let brought = headers(&[("cookie", first.split(';').next().unwrap())]);
        assert_eq!(doors.caller(&brought), Err(Refused::Unknown));
    }
}
