//! The name of an image, taken apart strictly: whatever two readers could take for two things is no
//! name at all.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The registry of names that name none.
pub const DOCKER_HUB: &str = "docker.io";
/// Other names of it.
const HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// Where its official images lie.
const OFFICIAL: &str = "library";
/// The longest name of a repository, its registry included, in bytes: what registries take.
const LONGEST: usize = 255;
/// The longest tag, in bytes.
const LONGEST_TAG: usize = 128;

/// The SHA-256 digest of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest that consists of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its 64 hexadecimal digits, in lower case.
    pub fn hex(&self) -> String {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(digit).collect()
    }

    /// Its beginning, for people.
    pub fn short(&self) -> String {
        format!("sha256:{}…", &self.hex()[..12])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It is one of another algorithm.
    #[error("`{0}` digests are not supported: write a `sha256:` one")]
    Algorithm(String),
    /// It is not well formed.
    #[error("a digest is `sha256:` and 64 hexadecimal digits in lower case")]
    Form,
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        if algorithm != "sha256" {
            return match algorithm {
                "sha512" | "sha384" => Err(DigestError::Algorithm(algorithm.to_owned())),
                _ => Err(DigestError::Form),
            };
        }
        let value = |letter: u8| match letter {
            b'0'..=b'9' => Some(letter - b'0'),
            b'a'..=b'f' => Some(letter - b'a' + 10),
            _ => None,
        };
        let letters = hex.as_bytes();
        if letters.len() != 64 {
            return Err(DigestError::Form);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(letters.chunks_exact(2)) {
            let (high, low) = (value(pair[0]), value(pair[1]));
            *byte = high
                .zip(low)
                .map(|(high, low)| high << 4 | low)
                .ok_or(DigestError::Form)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

/// A repository in full: its registry in lower case without a default port, and its path. Two names
/// of one repository are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Host of its registry, with a port unless that is 443.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Its path in the registry, as `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        repository.to_string()
    }
}

impl TryFrom<String> for Repository {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if is_registry(first) => (registry(first)?, rest.to_owned()),
            Some(_) | None => (DOCKER_HUB.to_owned(), text.to_owned()),
        };
        let path = match registry == DOCKER_HUB && !path.contains('/') {
            true => format!("{OFFICIAL}/{path}"),
            false => path,
        };
        if let Some(wrong) = path.split('/').find(|part| !is_path_part(part)) {
            return Err(NameError::Path(wrong.to_owned()));
        }
        if registry.len() + 1 + path.len() > LONGEST {
            return Err(NameError::TooLong);
        }
        Ok(Self { registry, path })
    }
}

/// The name of an image in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Where it lies.
    pub repository: Repository,
    /// Its tag; where a digest is written, the tag says nothing.
    pub tag: Option<String>,
    /// Its digest, where one is written.
    pub digest: Option<Digest>,
}

impl ImageName {
    /// The tag that is meant where no digest is written.
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }
}

/// A text that names no image, or more than one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// Its registry is none.
    #[error("`{0}` is no registry: write a host in ASCII, with `:PORT` where it has one")]
    Registry(String),
    /// A part of its path is none.
    #[error(
        "`{0}` cannot be a part of its path: lower-case letters and digits, joined by `.`, `_`, `__` or `-`"
    )]
    Path(String),
    /// Its tag is none.
    #[error("`{0}` is no tag")]
    Tag(String),
    /// Its digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > LONGEST + LONGEST_TAG + 100 {
            return Err(NameError::TooLong);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
            Some(_) | None => (name, None),
        };
        if let Some(wrong) = tag.filter(|tag| !is_tag(tag)) {
            return Err(NameError::Tag(wrong.to_owned()));
        }
        Ok(Self {
            repository: name.parse()?,
            tag: tag.map(ToOwned::to_owned),
            digest,
        })
    }
}

/// Whether the first part of a name is its registry, by Docker's rule.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// A registry in the one form that is compared.
pub(super) fn registry(text: &str) -> Result<String, NameError> {
    let wrong = || NameError::Registry(text.to_owned());
    let lower = text.to_ascii_lowercase();
    let (host, port) = match lower.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (lower.as_str(), None),
    };
    let number = match port {
        // A number in the form that the kernel would give it: `0443` is another text.
        Some(port) => {
            let number: u16 = port.parse().map_err(|_| wrong())?;
            (number.to_string() == port && number != 0)
                .then_some(Some(number))
                .ok_or_else(wrong)?
        }
        None => None,
    };
    if !is_host(host) {
        return Err(wrong());
    }
    let host = match HUB_ALIASES.contains(&host) {
        true => DOCKER_HUB,
        false => host,
    };
    Ok(match number {
        None | Some(443) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    })
}

fn is_host(host: &str) -> bool {
    if let Some(inside) = host.strip_prefix('[') {
        let address = inside.strip_suffix(']');
        return address.is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        let ends = |letter: Option<u8>| letter.is_some_and(|it| it.is_ascii_alphanumeric());
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && ends(bytes.first().copied())
            && ends(bytes.last().copied())
            && bytes
                .iter()
                .all(|it| it.is_ascii_alphanumeric() || *it == b'-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_part(part: &str) -> bool {
    let is_word = |letter: &u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    let mut joints = bytes.split(is_word).filter(|joint| !joint.is_empty());
    joints.all(|joint| matches!(joint, b"." | b"_" | b"__") || joint.iter().all(|it| *it == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |letter: &u8| letter.is_ascii_alphanumeric() || *letter == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= LONGEST_TAG
        && bytes.first().is_some_and(is_word)
        && bytes
            .iter()
            .all(|it| is_word(it) || matches!(it, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        let name: ImageName = text.parse().unwrap();
        name.repository.to_string()
    }

    #[test]
    fn a_name_is_completed_as_docker_does() {
        assert_eq!(full("nginx"), "docker.io/library/nginx");
        assert_eq!(full("acme/app:1"), "docker.io/acme/app");
        assert_eq!(full("index.docker.io/nginx"), "docker.io/library/nginx");
        assert_eq!(full("registry-1.docker.io/a/b"), "docker.io/a/b");
        assert_eq!(full("GHCR.IO/acme/app"), "ghcr.io/acme/app");
        assert_eq!(full("registry.acme:443/x"), "registry.acme/x");
        assert_eq!(full("localhost:5000/a/b:2"), "localhost:5000/a/b");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a");
        assert_eq!(full("docker.io.evil.com/x"), "docker.io.evil.com/x");
        let digest = format!("sha256:{}", "0a".repeat(32));
        let name: ImageName = format!("r.io/a:1@{digest}").parse().unwrap();
        assert_eq!(name.digest.unwrap().to_string(), digest);
        assert_eq!(name.tag.as_deref(), Some("1"));
    }

    #[test]
    fn what_two_readers_could_take_for_two_things_is_no_name() {
        let upper = format!("r.io/a@sha256:{}", "0A".repeat(32));
        let long = format!("r.io/{}", "a".repeat(300));
        for text in [
            "",
            "/a",
            "a/",
            "a//b",
            "r.io/../a",
            "r.io/a/..",
            "r.io/%2e/a",
            "r.io/A",
            "user@r.io/a",
            "r.io/a@sha256:00",
            "r.io/a@md5:00",
            &upper,
            &long,
            "r.io/a b",
            "r.io/a\n",
            "r.io:0443/a",
            "r.io:99999/a",
            "r..io/a",
            "-r.io/a",
            "regïstry.io/a",
            "r.io/a:",
            "r.io/a:-1",
            "r.io/a___b",
            "https://r.io/a",
            "r.io/a?b",
            "r.io/a@",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
        assert!("xn--80ak6aa92e.com/a".parse::<ImageName>().is_ok());
    }

    #[test]
    fn a_digest_of_another_algorithm_is_refused_by_name() {
        let error = "a@sha512:00".parse::<ImageName>().unwrap_err();
        assert!(error.to_string().contains("sha512"), "{error}");
    }
}
