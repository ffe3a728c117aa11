//! Patterns of repositories and of signers, each anchored at both ends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::{DOCKER_HUB, Repository, registry};

/// Longer patterns are refused, in bytes.
const LONGEST: usize = 300;

/// Which repositories a rule is about: `ghcr.io/acme/**`. `*` stands for any text within one part,
/// `**` for one or more whole parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImagePattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One or more parts, whatever they are.
    Any,
    /// One part of this form.
    Like(String),
}

/// A text that is no pattern of repositories.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not say which registry.
    #[error("`{0}` names no registry; write `docker.io/{0}` or `HOST/{0}`")]
    NoHost(String),
    /// Its registry would match more than its author sees.
    #[error("`{0}` is no registry: write a host, or `*.` and the end of one")]
    Host(String),
    /// It says nothing of the path.
    #[error("`{0}` names a registry alone; `{0}/**` is all of it")]
    NoPath(String),
    /// A part of it can match nothing.
    #[error("`{0}` matches no image: a part is lower-case letters, digits, `.`, `_`, `-` and `*`")]
    Part(String),
    /// It has a tag or a digest.
    #[error("`{0}` has a tag or a digest; a pattern is about repositories")]
    Version(String),
    /// It is about official images and does not match them.
    #[error("official images lie below `library`: write `docker.io/library/{0}`")]
    Official(String),
    /// It is too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
}

impl FromStr for ImagePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > LONGEST {
            return Err(PatternError::TooLong);
        }
        let Some((host, path)) = text.split_once('/') else {
            return Err(match text.contains(['.', ':']) {
                true => PatternError::NoPath(text.to_owned()),
                false => PatternError::NoHost(text.to_owned()),
            });
        };
        if !(host.contains(['.', ':']) || host == "localhost") {
            return Err(PatternError::NoHost(text.to_owned()));
        }
        let host = host_pattern(host).ok_or_else(|| PatternError::Host(host.to_owned()))?;
        if path.is_empty() {
            return Err(PatternError::NoPath(host));
        }
        if path.contains([':', '@']) {
            return Err(PatternError::Version(text.to_owned()));
        }
        if host == DOCKER_HUB && !path.contains('/') && path != "**" {
            return Err(PatternError::Official(path.to_owned()));
        }
        let mut parts = vec![Part::Like(host)];
        for part in path.split('/') {
            let is_good = |letter: u8| {
                letter.is_ascii_lowercase()
                    || letter.is_ascii_digit()
                    || matches!(letter, b'.' | b'_' | b'-' | b'*')
            };
            parts.push(match part {
                "**" => Part::Any,
                _ if part.is_empty() || part.contains("**") || !part.bytes().all(is_good) => {
                    return Err(PatternError::Part(part.to_owned()));
                }
                _ => Part::Like(part.to_owned()),
            });
        }
        Ok(Self { parts })
    }
}

/// A registry, or `*.` before the end of one that has two labels at least.
fn host_pattern(text: &str) -> Option<String> {
    let Some(end) = text.strip_prefix("*.") else {
        return registry(text).ok();
    };
    let end = registry(end).ok()?;
    let name = end.split(':').next().unwrap_or_default();
    (name.contains('.') && !name.starts_with('[')).then(|| format!("*.{end}"))
}

impl ImagePattern {
    /// Whether `repository` is one of those.
    pub fn matches(&self, repository: &Repository) -> bool {
        let text = repository.to_string();
        let parts: Vec<Part> = text
            .split('/')
            .map(|part| Part::Like(part.to_owned()))
            .collect();
        covers(&self.parts, &parts, &|pattern, part| like(pattern, part))
    }

    /// Whether surely each repository that `other` matches is matched by this one.
    pub fn covers(&self, other: &Self) -> bool {
        covers(&self.parts, &other.parts, &|pattern, part| {
            pattern == "*" && !part.starts_with("*.")
                || pattern == part
                || !part.contains('*') && like(pattern, part)
        })
    }

    /// The owner's name that is left open at its end, as in `ghcr.io/acme*`: others can choose one
    /// that begins alike.
    pub fn open_owner(&self) -> Option<String> {
        match self.parts.as_slice() {
            [Part::Like(host), Part::Like(owner), ..] => {
                let name = owner.strip_suffix('*')?;
                (!name.is_empty()).then(|| format!("{host}/{name}"))
            }
            [..] => None,
        }
    }
}

/// Whether `patterns` stands for all that `parts` stands for, as far as `alike` can tell.
fn covers(patterns: &[Part], parts: &[Part], alike: &dyn Fn(&str, &str) -> bool) -> bool {
    // reached[i]: the patterns before i stand for the parts so far.
    let mut reached = vec![false; patterns.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; patterns.len() + 1];
        for (index, pattern) in patterns.iter().enumerate() {
            next[index + 1] = match (pattern, part) {
                (Part::Any, Part::Any | Part::Like(_)) => reached[index] || reached[index + 1],
                (Part::Like(pattern), Part::Like(part)) => reached[index] && alike(pattern, part),
                (Part::Like(_), Part::Any) => false,
            };
        }
        reached = next;
    }
    reached[patterns.len()]
}

/// Whether `text` is of the form `pattern`, in which `*` is any text.
fn like(pattern: &str, text: &str) -> bool {
    // A star before a host stands for whole labels, one at least.
    if let Some(end) = pattern.strip_prefix("*.") {
        let before = text.strip_suffix(end).and_then(|it| it.strip_suffix('.'));
        return before.is_some_and(|before| !before.is_empty() && !before.contains(':'));
    }
    glob(pattern.as_bytes(), text.as_bytes(), |_| true)
}

/// Whether `text` is `pattern`, in which `*` is any run of bytes that `may_cross` allows and `**`
/// any run at all. Takes time in proportion to both lengths.
fn glob(pattern: &[u8], text: &[u8], may_cross: impl Fn(u8) -> bool) -> bool {
    // What each place of the pattern wants: a byte, or a run.
    enum Want {
        Byte(u8),
        Run,
        AnyRun,
    }
    let mut wants = Vec::new();
    let mut rest = pattern;
    loop {
        rest = match rest {
            [] => break,
            [b'*', b'*', rest @ ..] => {
                wants.push(Want::AnyRun);
                rest
            }
            [b'*', rest @ ..] => {
                wants.push(Want::Run);
                rest
            }
            [byte, rest @ ..] => {
                wants.push(Want::Byte(*byte));
                rest
            }
        };
    }
    // reached[i]: the wants before i are fulfilled by the text so far. A run may be empty.
    let skip = |reached: &mut Vec<bool>| {
        for (index, want) in wants.iter().enumerate() {
            if matches!(want, Want::Run | Want::AnyRun) && reached[index] {
                reached[index + 1] = true;
            }
        }
    };
    let mut reached = vec![false; wants.len() + 1];
    reached[0] = true;
    skip(&mut reached);
    for byte in text {
        let mut next = vec![false; wants.len() + 1];
        for (index, want) in wants.iter().enumerate() {
            match want {
                Want::Byte(wanted) => next[index + 1] = reached[index] && wanted == byte,
                Want::Run => next[index + 1] |= reached[index + 1] && may_cross(*byte),
                Want::AnyRun => next[index + 1] |= reached[index + 1],
            }
        }
        skip(&mut next);
        reached = next;
    }
    reached[wants.len()]
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(match part {
                Part::Any => "**",
                Part::Like(text) => text,
            })?;
        }
        Ok(())
    }
}

impl From<ImagePattern> for String {
    fn from(pattern: ImagePattern) -> Self {
        pattern.to_string()
    }
}

impl TryFrom<String> for ImagePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

/// Which identities of a certificate are meant. `*` is any text without `/` and `@`, `**` any text;
/// both without blanks and control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectPattern(String);

impl SubjectPattern {
    /// A pattern; `None` when it is empty or holds what no identity does.
    pub fn new(text: &str) -> Option<Self> {
        let is_good = |c: char| !c.is_control() && !c.is_whitespace();
        let is_open = text.chars().all(|c| c == '*');
        (!is_open && text.len() <= LONGEST * 4 && text.chars().all(is_good))
            .then(|| Self(text.to_owned()))
    }

    /// Whether `identity` is one of those.
    pub fn matches(&self, identity: &str) -> bool {
        let is_good = |c: char| !c.is_control() && !c.is_whitespace();
        identity.len() <= LONGEST * 8
            && identity.chars().all(is_good)
            && glob(self.0.as_bytes(), identity.as_bytes(), |byte| {
                !matches!(byte, b'/' | b'@')
            })
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, image: &str) -> bool {
        let pattern: ImagePattern = pattern.parse().unwrap();
        pattern.matches(&image.parse().unwrap())
    }

    #[test]
    fn a_pattern_matches_whole_parts_and_nothing_that_only_begins_alike() {
        for (pattern, image) in [
            ("ghcr.io/acme/**", "ghcr.io/acme/app"),
            ("ghcr.io/acme/**", "ghcr.io/acme/team/app"),
            ("ghcr.io/acme/*", "ghcr.io/acme/app"),
            ("GHCR.io/acme/*-app", "ghcr.io/acme/my-app"),
            ("docker.io/library/*", "nginx"),
            ("registry-1.docker.io/library/*", "nginx"),
            ("registry.acme:443/**", "registry.acme:443/x"),
            ("registry.acme:443/**", "registry.acme/x"),
            ("*.amazonaws.com/**", "1.dkr.ecr.eu.amazonaws.com/x"),
            ("r.io/**/app", "r.io/a/b/app"),
        ] {
            assert!(matches(pattern, image), "{pattern} {image}");
        }
        for (pattern, image) in [
            ("ghcr.io/acme/**", "ghcr.io/acme-evil/app"),
            ("ghcr.io/acme/**", "ghcr.io/acme"),
            ("ghcr.io/acme/*", "ghcr.io/acme/team/app"),
            ("docker.io/library/*", "docker.io.evil.com/library/nginx"),
            ("docker.io/library/*", "acme/nginx"),
            ("*.amazonaws.com/**", "amazonaws.com/x"),
            ("*.amazonaws.com/**", "evilamazonaws.com/x"),
            ("*.amazonaws.com/**", "a.amazonaws.com.evil.io/x"),
            ("*.amazonaws.com/**", "a.amazonaws.com:5000/x"),
            ("registry.acme/**", "registry.acme:5000/x"),
        ] {
            assert!(!matches(pattern, image), "{pattern} {image}");
        }
    }

    #[test]
    fn a_pattern_without_a_registry_is_refused() {
        for text in [
            "nginx",
            "acme/*",
            "**",
            "*/acme",
            "*.com/**",
            "*/**",
            "docker.io",
            "docker.io/nginx",
            "docker.io/*",
            "g*.io/**",
            "r.io/a:1",
            "r.io/a@sha256:00",
            "r.io/A",
            "r.io/a**",
            "r.io//a",
            "r.io/",
            "https://r.io/a",
        ] {
            assert!(text.parse::<ImagePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_an_earlier_one_covers_is_known() {
        let covers = |wide: &str, narrow: &str| {
            let wide: ImagePattern = wide.parse().unwrap();
            wide.covers(&narrow.parse().unwrap())
        };
        assert!(covers("r.io/**", "r.io/a/*"));
        assert!(covers("r.io/**", "r.io/**"));
        assert!(covers("r.io/a/*", "r.io/a/b-*"));
        assert!(covers("*.r.io/**", "x.r.io/a"));
        assert!(!covers("r.io/a/*", "r.io/a/**"));
        assert!(!covers("r.io/a-*/x", "r.io/a*/x"));
        assert!(!covers("r.io/a", "r.io/**"));
    }

    #[test]
    fn an_open_end_of_an_owner_is_known() {
        let open = |text: &str| text.parse::<ImagePattern>().unwrap().open_owner();
        assert_eq!(open("ghcr.io/acme*/app").unwrap(), "ghcr.io/acme");
        assert_eq!(open("ghcr.io/acme/app-*"), None);
        assert_eq!(open("ghcr.io/*/app"), None);
    }

    #[test]
    fn an_identity_that_is_only_nearly_the_one_is_another() {
        let github = "https://github.com/acme/*/.github/workflows/release.yml@refs/tags/*";
        let pattern = SubjectPattern::new(github).unwrap();
        let good = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1";
        assert!(pattern.matches(good));
        for near in [
            "https://github.com/acme-evil/app/.github/workflows/release.yml@refs/tags/v1",
            "https://github.com/acme/app/.github/workflows/other.yml@refs/tags/v1",
            "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/v1",
            "https://github.com/acme/app/x/.github/workflows/release.yml@refs/tags/v1",
            "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1/x",
            "https://github.com/acme/a@b/.github/workflows/release.yml@refs/tags/v1",
            "https://GITHUB.com/acme/app/.github/workflows/release.yml@refs/tags/v1",
            "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1\n",
            "xhttps://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1",
            "",
        ] {
            assert!(!pattern.matches(near), "{near}");
        }
        assert!(SubjectPattern::new("a@b.c").unwrap().matches("a@b.c"));
        assert_eq!(SubjectPattern::new("**"), None);
        assert_eq!(SubjectPattern::new(""), None);
    }
}
