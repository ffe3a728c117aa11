//! Where a manifest names images, so that their digests can be written there and nothing else changes.

use super::documents;
use super::problem::{Findings, Problems, Span};
use super::tree::{Entry, Node, Value};

/// An image in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePlace {
    /// As it is written there.
    pub image: String,
    /// The line, from 1.
    pub line: u32,
    /// Its bytes in the text, without quotes.
    start: usize,
    end: usize,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The images that the components of a manifest name, in the order of the text. Those that are written
/// in a way that could not be edited, such as over several lines, are left out.
///
/// # Errors
/// When it is no YAML.
pub fn images(file: &str, bytes: &[u8]) -> Result<Vec<ImagePlace>, Problems> {
    let (documents, findings) = documents(file, bytes)?;
    if findings.has_errors() {
        return Err(findings.finish(file));
    }
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut places = Vec::new();
    for document in &documents {
        for (_, spec) in entries(document).filter(|(key, _)| *key == "spec") {
            let lists = entries(spec).filter(|(key, _)| {
                let lists = ["sources", "processors", "sinks", "consumers", "pipelines"];
                lists.contains(key)
            });
            for (_, list) in lists {
                let Value::List(items) = &list.value else {
                    continue;
                };
                for item in items {
                    let images = entries(item).filter(|(key, _)| *key == "image");
                    places.extend(images.filter_map(|(_, node)| place(text, node, &findings)));
                }
            }
        }
    }
    // What an alias stands for is written once.
    places.sort_by_key(|place| place.start);
    places.dedup();
    Ok(places)
}

fn entries<'n>(node: &'n Node<'_>) -> impl Iterator<Item = (&'n str, &'n Node<'n>)> {
    let all: &[Entry<'_>] = match &node.value {
        Value::Map(entries) => entries,
        Value::Null | Value::Scalar(_) | Value::List(_) => &[],
    };
    all.iter().map(|entry| (entry.key.as_ref(), &entry.node))
}

fn place(text: &[u8], node: &Node<'_>, findings: &Findings<'_>) -> Option<ImagePlace> {
    let Value::Scalar(scalar) = &node.value else {
        return None;
    };
    let Span { start, end } = node.at;
    let written = text.get(start..end)?;
    let image = scalar.text.as_bytes();
    let inside = written
        .windows(image.len().max(1))
        .position(|it| it == image)?;
    // Only quotes around it, so that what is put there means what it says. What follows them, such as
    // a comment, is nobody's.
    let (before, after) = (&written[..inside], &written[inside + image.len()..]);
    let is_plain = match before {
        [] => true,
        [quote @ (b'"' | b'\'')] => after.first() == Some(quote),
        [..] => false,
    };
    is_plain.then(|| ImagePlace {
        image: scalar.text.to_string(),
        line: findings.line(node.at),
        start: start + inside,
        end: start + inside + image.len(),
    })
}

/// The text with other images at some places, in the order of the text.
pub fn with_images(bytes: &[u8], pinned: &[(ImagePlace, String)]) -> Vec<u8> {
    let mark = match bytes.starts_with(BYTE_ORDER_MARK) {
        true => BYTE_ORDER_MARK.len(),
        false => 0,
    };
    let mut new = Vec::with_capacity(bytes.len() + pinned.len() * 80);
    let mut done = 0;
    for (place, image) in pinned {
        new.extend_from_slice(&bytes[done..mark + place.start]);
        new.extend_from_slice(image.as_bytes());
        done = mark + place.end;
    }
    new.extend_from_slice(&bytes[done..]);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_replaced_and_all_else_stays() {
        let text = "\u{feff}# ü\napiVersion: flowctl/v1\nkind: Pipeline\nspec:\n  sources:\n    - id: a\n      image: r.io/a:1   # keep\n    - { id: b, image: \"r.io/b\", env: { image: x } }\n  sinks:\n    - image: 'r.io/a:1' # by tag\n      id: c\n";
        let places = images("p.yaml", text.as_bytes()).unwrap();
        let found: Vec<(&str, u32)> = places
            .iter()
            .map(|it| (it.image.as_str(), it.line))
            .collect();
        assert_eq!(found, [("r.io/a:1", 7), ("r.io/b", 8), ("r.io/a:1", 10)]);
        let pinned: Vec<_> = places
            .into_iter()
            .map(|place| {
                let new = format!("{}@D", place.image);
                (place, new)
            })
            .collect();
        let new = String::from_utf8(with_images(text.as_bytes(), &pinned)).unwrap();
        let wanted = text
            .replace("r.io/a:1", "r.io/a:1@D")
            .replace("r.io/b\"", "r.io/b@D\"");
        assert_eq!(new, wanted);
    }
}
