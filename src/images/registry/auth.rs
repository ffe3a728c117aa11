//! How a registry wants to be shown who asks, and who is shown the password.

use std::path::Path;

use hyper::Method;
use serde::Deserialize;

use super::http::{Ask, Asker, Url, Zone, is_loopback};
use crate::images::credentials::{Credentials, Secret};
use crate::model::codec;

/// The longest answer of a server that gives tokens, in bytes.
const TOKEN_LIMIT: usize = 64 << 10;
/// The longest token, in bytes.
const LONGEST_TOKEN: usize = 32 << 10;

/// How a registry wants to be shown who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By name and password.
    Basic,
    /// By a token.
    Bearer {
        /// Who gives one.
        realm: String,
        /// For what, by that one's words.
        service: Option<String>,
    },
}

/// Reads the header of an answer that says that it wants to know who asks.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let header = header.trim();
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = rest.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "realm" => Some(&mut realm),
            "service" => Some(&mut service),
            _ => None,
        };
        // One that is there twice means two things to two readers.
        if let Some(place) = place
            && place.replace(value.to_owned()).is_some()
        {
            return None;
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
    })
}

/// Whether whoever gives tokens at `realm` may be told the password of `registry`: that host itself,
/// one that it lies below, or the one that the policy names.
pub(super) fn may_be_told(realm: &str, registry: &str, named: Option<&str>) -> bool {
    let is_above = realm.contains('.')
        && registry
            .strip_suffix(realm)
            .is_some_and(|before| before.ends_with('.'));
    // Docker Hub's.
    let is_hub = realm == "auth.docker.io" && registry == "registry-1.docker.io";
    realm == registry || is_above || is_hub || named == Some(realm)
}

/// The header that shows name and password.
pub(super) fn basic(secret: &Secret) -> Option<String> {
    match secret {
        Secret::Password { user, password } => Some(format!(
            "Basic {}",
            codec::to_base64(format!("{user}:{password}").as_bytes())
        )),
        Secret::Identity(_) => None,
    }
}

/// A question for a token that lets one read a repository.
pub(super) struct TokenQuestion<'a> {
    /// Who gives it.
    pub realm: Url,
    /// The registry that wants it.
    pub registry: &'a Url,
    pub service: Option<&'a str>,
    /// The repository's path.
    pub path: &'a str,
    pub credentials: Option<&'a Credentials>,
    /// Who else may be told the password.
    pub named: Option<&'a str>,
    /// The nearest address that is asked.
    pub nearest: Zone,
    /// As of the registry, where both are one.
    pub trusts: Option<&'a Path>,
}

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks for a token; answers the header that shows it.
///
/// # Errors
/// Why there is none, in words without secrets.
pub(super) async fn token(asker: &Asker, question: TokenQuestion<'_>) -> Result<String, String> {
    let TokenQuestion {
        mut realm,
        registry,
        service,
        path,
        credentials,
        named,
        nearest,
        trusts,
    } = question;
    let is_safe = realm.tls || is_loopback(&realm.host) && is_loopback(&registry.host);
    if !is_safe {
        return Err(format!("it wants a token of {realm}, which is not safe"));
    }
    let is_trusted = may_be_told(&realm.host, &registry.host, named);
    let secret = credentials
        .filter(|_| is_trusted)
        .map(|credentials| &credentials.secret);
    if credentials.is_some() && !is_trusted {
        tracing::warn!(
            registry = registry.host,
            realm = realm.host,
            "the password is not shown to another host; name it as `token_host` of the registry in the image policy"
        );
    }
    let mut pairs = vec![("scope", format!("repository:{path}:pull"))];
    pairs.extend(service.map(|service| ("service", service.to_owned())));
    let (method, authorization, form) = match secret {
        Some(Secret::Identity(token)) => {
            pairs.push(("grant_type", "refresh_token".to_owned()));
            pairs.push(("client_id", "flowctl".to_owned()));
            pairs.push(("refresh_token", token.clone()));
            (Method::POST, None, Some(query(&pairs)))
        }
        Some(secret @ Secret::Password { .. }) => (Method::GET, basic(secret), None),
        None => (Method::GET, None, None),
    };
    if form.is_none() {
        let joint = if realm.path.contains('?') { '&' } else { '?' };
        realm.path = format!("{}{joint}{}", realm.path, query(&pairs));
    }
    let ask = Ask {
        method,
        url: &realm,
        authorization: authorization.as_deref(),
        accept: "application/json",
        form,
        limit: TOKEN_LIMIT,
        nearest: Some(nearest),
        trusts,
    };
    // It leads nowhere else: a redirect is no answer.
    let answer = asker.ask(ask).await?;
    if !answer.status.is_success() {
        return Err(format!(
            "{realm} answers {} when asked for a token",
            answer.status
        ));
    }
    let given: Given = serde_json::from_slice(&answer.body)
        .map_err(|_| format!("{realm} gives something else than a token"))?;
    let token = given.token.or(given.access_token);
    token
        .filter(|token| !token.is_empty() && token.len() <= LONGEST_TOKEN)
        .map(|token| format!("Bearer {token}"))
        .ok_or_else(|| format!("{realm} gives no token"))
}

/// Pairs as a query, or as a form.
fn query(pairs: &[(&str, String)]) -> String {
    let pairs = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_in_every_common_form() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        assert_eq!(
            challenge(hub),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".to_owned(),
                service: Some("registry.docker.io".to_owned()),
            })
        );
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(
            challenge("bearer service=x, realm=https://r.io/token"),
            Some(Challenge::Bearer {
                realm: "https://r.io/token".to_owned(),
                service: Some("x".to_owned()),
            })
        );
        for none in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm=\"x",
            r#"Bearer realm="https://r.io",realm="https://evil.io""#,
        ] {
            assert_eq!(challenge(none), None, "{none}");
        }
    }

    #[test]
    fn a_password_is_told_to_no_other_host_unless_the_policy_names_it() {
        for (realm, registry) in [
            ("ghcr.io", "ghcr.io"),
            ("auth.docker.io", "registry-1.docker.io"),
            ("gitlab.com", "registry.gitlab.com"),
        ] {
            assert!(may_be_told(realm, registry, None), "{realm} {registry}");
        }
        for (realm, registry) in [
            ("evil.io", "ghcr.io"),
            ("auth.docker.io", "ghcr.io"),
            ("evilgitlab.com", "registry.gitlab.com"),
            ("x.ghcr.io", "ghcr.io"),
            ("lab.com", "registry.gitlab.com"),
            ("io", "ghcr.io"),
        ] {
            assert!(!may_be_told(realm, registry, None), "{realm} {registry}");
        }
        assert!(may_be_told("auth.acme", "r.acme", Some("auth.acme")));
    }

    #[test]
    fn a_query_is_escaped() {
        let pairs = [
            ("scope", "repository:a/b:pull".to_owned()),
            ("x", "a&b=c d".to_owned()),
        ];
        assert_eq!(query(&pairs), "scope=repository:a/b:pull&x=a%26b%3Dc%20d");
    }
}
