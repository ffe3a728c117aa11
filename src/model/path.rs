//! The text form of a path. A path is bytes, and our records, answers and labels are text.
//!
//! **Guarantees.** Every path has a text, every text stands for a path, and the way there and back
//! gives the same bytes. A path that is UTF-8 is its own text, so that readers see what they know
//! and rows of older versions mean what they meant. Any other is a `file://` address as RFC 8089
//! has it, with what is not printable ASCII as `%XX`: `file:///tmp/caf%E9`.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// What a text begins with that is not the path itself.
const SCHEME: &str = "file://";

/// The names in `path`, from its root on, `..` included.
pub fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// The text of `path`.
pub fn to_text(path: &Path) -> Cow<'_, str> {
    match path.to_str() {
        // One that looks like an address would be read as one.
        Some(text) if !text.starts_with(SCHEME) => Cow::Borrowed(text),
        Some(_) | None => Cow::Owned(address(path.as_os_str().as_bytes())),
    }
}

fn address(bytes: &[u8]) -> String {
    let mut text = SCHEME.to_owned();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(*byte));
            }
            _ => write!(text, "%{byte:02X}").expect("writing to a string succeeds"),
        }
    }
    text
}

/// The path that `text` stands for.
pub fn from_text(text: &str) -> PathBuf {
    let Some(address) = text.strip_prefix(SCHEME) else {
        return PathBuf::from(text);
    };
    let mut bytes = Vec::with_capacity(address.len());
    let mut rest = address.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = behind
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = match escaped {
            Some(_) => &behind[2..],
            None => behind,
        };
    }
    OsString::from_vec(bytes).into()
}

/// For `#[serde(with)]` on a path.
pub mod one {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn serialize<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&to_text(path))
    }

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        Ok(from_text(&Cow::<str>::deserialize(d)?))
    }
}

/// For `#[serde(with)]` on a path that may be missing; it needs `default` beside it.
pub mod optional {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, s: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(to_text).serialize(s)
    }

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<String>::deserialize(d)?.map(|text| from_text(&text)))
    }
}

/// For `#[serde(with)]` on several paths.
pub mod many {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn serialize<'a, S, C>(paths: &'a C, s: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        &'a C: IntoIterator<Item = &'a PathBuf>,
    {
        s.collect_seq(paths.into_iter().map(|path| to_text(path)))
    }

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn deserialize<'de, D, C>(d: D) -> Result<C, D::Error>
    where
        D: Deserializer<'de>,
        C: FromIterator<PathBuf>,
    {
        let texts = Vec::<String>::deserialize(d)?;
        Ok(texts.iter().map(|text| from_text(text)).collect())
    }
}

/// For `#[serde(with)]` on several paths that may be missing; it needs `default` beside it.
pub mod optional_many {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn serialize<'a, S, C>(paths: &'a Option<C>, s: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        &'a C: IntoIterator<Item = &'a PathBuf>,
    {
        let texts = paths.as_ref().map(|paths| {
            let texts = paths.into_iter().map(|path| to_text(path));
            texts.collect::<Vec<_>>()
        });
        texts.serialize(s)
    }

    #[expect(missing_docs, reason = "called by serde alone")]
    pub fn deserialize<'de, D, C>(d: D) -> Result<Option<C>, D::Error>
    where
        D: Deserializer<'de>,
        C: FromIterator<PathBuf>,
    {
        let texts = Option::<Vec<String>>::deserialize(d)?;
        Ok(texts.map(|texts| texts.iter().map(|text| from_text(text)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_path_survives_its_text(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            prop_assert_eq!(from_text(&to_text(&path)), path);
        }

        #[test]
        fn a_text_path_is_its_own_text(text in "/[^\u{0}]{0,40}") {
            prop_assert_eq!(to_text(Path::new(&text)), text.as_str());
        }
    }

    #[test]
    fn other_bytes_are_an_address_that_people_can_read() {
        let path = PathBuf::from(OsString::from_vec(b"/tmp/caf\xe9 1/p.yaml".to_vec()));
        assert_eq!(to_text(&path), "file:///tmp/caf%E9%201/p.yaml");
        // A relative name of that form is kept apart from an address.
        let name = Path::new("file://x");
        assert_eq!(from_text(&to_text(name)), name);
        // What is no address of ours is taken as it stands.
        assert_eq!(from_text("file:///a%zz%4"), Path::new("/a%zz%4"));
    }
}
