//! Rust source as text to search in: comments and literals blanked out, blocks and paths found.

use std::path::Path;

/// Whether `c` may stand in a name.
pub fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A source text whose comments and literals are blanks, so that offsets and lines stay true.
pub struct Code {
    pub text: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    pub tests: Vec<(usize, usize)>,
    /// Byte ranges of `mod name { .. }`.
    modules: Vec<(usize, usize)>,
}

impl Code {
    pub fn new(source: &str) -> Self {
        let mut code = Self {
            text: blank(source),
            tests: Vec::new(),
            modules: Vec::new(),
        };
        for (offset, _) in code.text.match_indices("#[cfg(test)]") {
            code.tests.extend(code.block_after(offset));
        }
        for (offset, _) in code.text.match_indices("mod ") {
            if !code.text[..offset].ends_with(is_word) {
                code.modules.extend(code.block_after(offset));
            }
        }
        code
    }

    /// The range of an item with a body, from its start; `None` when it ends with `;`.
    fn block_after(&self, start: usize) -> Option<(usize, usize)> {
        let open = start + self.text[start..].find(['{', ';'])?;
        let mut depth = 0_usize;
        for (offset, byte) in self.text.bytes().enumerate().skip(open) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return (byte == b'}').then_some((start, offset));
            }
        }
        None
    }

    pub fn within(&self, ranges: &[(usize, usize)], offset: usize) -> bool {
        ranges
            .iter()
            .any(|(start, end)| (*start..=*end).contains(&offset))
    }

    pub fn line_of(&self, offset: usize) -> usize {
        1 + self.text[..offset].matches('\n').count()
    }

    /// Where a path starts with `name::`.
    pub fn paths<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.text
            .match_indices(name)
            .filter_map(move |(offset, _)| {
                let before = self.text[..offset].trim_end();
                let starts = !self.text[..offset].ends_with(is_word)
                    && !before.ends_with("::")
                    && !before.ends_with('.');
                // `pub(in crate::x)` names a room too, but gives instead of taking.
                let gives = before.ends_with("pub(in");
                let goes_on = self.text[offset + name.len()..].starts_with("::");
                (starts && goes_on && !gives).then_some(offset)
            })
    }

    /// What follows each `super::super::..` that leaves its room: it would hide an import.
    pub fn climbs_to_the_root(&self, inner: &Path) -> Vec<(usize, &str)> {
        let named_after_folder = ["mod.rs", "lib.rs", "main.rs"];
        let is_folder = named_after_folder.iter().any(|name| inner.ends_with(name));
        let depth = inner.iter().count() - usize::from(is_folder);
        self.paths("super")
            .filter_map(|offset| {
                let rest = self.text[offset..].trim_start_matches("super::");
                let climbed = (self.text.len() - offset - rest.len()) / "super::".len();
                let inline = self
                    .modules
                    .iter()
                    .filter(|(start, end)| (*start..=*end).contains(&offset))
                    .count();
                (climbed >= depth + inline).then_some((offset, rest))
            })
            .collect()
    }
}

/// `source` with the insides of comments, strings and characters replaced by spaces.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(source, at);
        if end > at {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(source: &str, at: usize) -> usize {
    let rest = &source.as_bytes()[at..];
    let until = |from: usize, what: &str| {
        let found = source[at + from..].find(what);
        found.map_or(source.len(), |found| at + from + found + what.len())
    };
    match rest {
        [b'/', b'/', ..] => until(0, "\n"),
        [b'/', b'*', ..] => {
            let mut depth = 0_usize;
            let mut here = 0;
            while here + 1 < rest.len() {
                match &rest[here..here + 2] {
                    b"/*" => (depth, here) = (depth + 1, here + 2),
                    b"*/" => (depth, here) = (depth - 1, here + 2),
                    _ => here += 1,
                }
                if depth == 0 {
                    return at + here;
                }
            }
            source.len()
        }
        [b'r', b'"' | b'#', ..] if at == 0 || !is_word(char::from(source.as_bytes()[at - 1])) => {
            raw_string_end(source, at)
        }
        [b'b', b'r', b'"' | b'#', ..] => raw_string_end(source, at + 1),
        [b'"', ..] => {
            let mut here = 1;
            while here < rest.len() && rest[here] != b'"' {
                here += 1 + usize::from(rest[here] == b'\\');
            }
            (at + here + 1).min(source.len())
        }
        // A character, and not a lifetime.
        [b'\'', b'\\', _, ..] => until(3, "'"),
        [b'\'', ..] => {
            let mut chars = source[at + 1..].char_indices();
            match (chars.next(), chars.next()) {
                (Some(_), Some((width, '\''))) => at + 1 + width + 1,
                _ => at,
            }
        }
        _ => at,
    }
}

/// As [`literal_end`], for `r"`, `r#"` and so on; `at` for a raw identifier.
fn raw_string_end(source: &str, at: usize) -> usize {
    let rest = &source[at + 1..];
    let inside = rest.trim_start_matches('#');
    let hashes = rest.len() - inside.len();
    let Some(inside) = inside.strip_prefix('"') else {
        return at;
    };
    let close = format!("\"{}", "#".repeat(hashes));
    let start = source.len() - inside.len();
    inside
        .find(&close)
        .map_or(source.len(), |found| start + found + close.len())
}
