//! The dialect of env files: that of docker compose, but that nothing is expanded.
//!
//! Pure. The help topic `environment` has its table. Whatever two tools of the field read in two ways, and what none
//! reads, is a mistake with its line, never a guess. Texts of the file are in no message: they are
//! secrets.

use std::fmt;

/// What a file says, in its order; the last of a name wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvFile {
    /// Names and values; values need not be UTF-8 and hold no NUL.
    pub variables: Vec<(String, Vec<u8>)>,
    /// Values that other tools would expand, and that are kept as they are written.
    pub literals: Vec<Literal>,
}

/// A value with an unescaped `$NAME`, `${` or `$$`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// Where it begins, from 1.
    pub line: usize,
    /// The name of its variable.
    pub name: String,
}

/// A place of a file that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvProblem {
    /// Where its statement begins, from 1.
    pub line: usize,
    /// What is wrong.
    pub mistake: EnvMistake,
}

impl fmt::Display for EnvProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.mistake)
    }
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvMistake {
    /// A line that is no assignment.
    NoValue,
    /// A line that begins with its `=`.
    NoName,
    /// A name with something else in it.
    BadName,
    /// A quote that the file ends in.
    OpenQuote,
    /// Something other than a comment after a quoted value.
    BehindQuote,
    /// A NUL, which no variable can hold.
    Nul,
    /// A file that an editor of Windows saved as "Unicode".
    Utf16,
}

impl fmt::Display for EnvMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoValue => {
                "write NAME=value (a variable of the daemon's own is passed on by `inherit_env`)"
            }
            Self::NoName => "there is no name before the `=`",
            Self::BadName => "a name is made of letters, digits and `_`, `.`, `-`",
            Self::OpenQuote => "the quote is not closed",
            Self::BehindQuote => {
                "something follows the closing quote: quote all of the value, or put a `#` before \
                 the comment"
            }
            Self::Nul => "a variable cannot hold a NUL byte",
            Self::Utf16 => "the file is UTF-16: save it as UTF-8",
        })
    }
}

/// So many problems are told of one file.
const MOST_PROBLEMS: usize = 10;

/// Reads the text of an env file.
///
/// # Errors
/// The first ten places that cannot be read.
pub fn parse_env(text: &[u8]) -> Result<EnvFile, Vec<EnvProblem>> {
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        let mistake = EnvMistake::Utf16;
        return Err(vec![EnvProblem { line: 1, mistake }]);
    }
    let text = with_unix_line_ends(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let mut cursor = Cursor {
        rest: &text,
        line: 1,
    };
    let mut file = EnvFile::default();
    let mut problems = Vec::new();
    while cursor.next_statement() && problems.len() < MOST_PROBLEMS {
        let line = cursor.line;
        match cursor.statement() {
            Ok(Statement {
                name,
                value,
                expandable,
            }) => {
                if expandable {
                    let name = name.clone();
                    file.literals.push(Literal { line, name });
                }
                file.variables.push((name, value));
            }
            Err(mistake) => problems.push(EnvProblem { line, mistake }),
        }
    }
    if problems.is_empty() {
        Ok(file)
    } else {
        Err(problems)
    }
}

fn with_unix_line_ends(text: &[u8]) -> Vec<u8> {
    let mut unix = Vec::with_capacity(text.len());
    for (index, byte) in text.iter().enumerate() {
        if !(*byte == b'\r' && text.get(index + 1) == Some(&b'\n')) {
            unix.push(*byte);
        }
    }
    unix
}

/// One assignment.
struct Statement {
    name: String,
    value: Vec<u8>,
    /// Whether other tools would expand something in it.
    expandable: bool,
}

/// The text that is left, and the number of its first line.
struct Cursor<'t> {
    rest: &'t [u8],
    line: usize,
}

impl<'t> Cursor<'t> {
    /// Goes on to the next assignment, over empty lines and comments; false at the end.
    fn next_statement(&mut self) -> bool {
        while let Some(first) = self.rest.first() {
            match first {
                b'#' => self.take_line(),
                byte if byte.is_ascii_whitespace() || *byte == 0x0b => self.advance(1),
                _ => return true,
            }
        }
        false
    }

    /// Goes over `count` bytes.
    fn advance(&mut self, count: usize) {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.line += memchr::memchr_iter(b'\n', taken).count();
        self.rest = rest;
    }

    /// What is left of this line.
    fn line(&self) -> &'t [u8] {
        let end = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    /// Goes on to the next line.
    fn take_line(&mut self) {
        self.advance(self.line().len() + 1);
    }

    fn skip_blanks(&mut self) {
        let blanks = self.rest.iter().take_while(|byte| is_blank(**byte));
        self.advance(blanks.count());
    }

    /// The assignment that begins here. Behind a mistake it goes on where the next one may begin.
    fn statement(&mut self) -> Result<Statement, EnvMistake> {
        let exported = self.rest.strip_prefix(b"export");
        if exported.is_some_and(|rest| rest.first().is_some_and(|byte| is_blank(*byte))) {
            self.advance(b"export".len());
            self.skip_blanks();
        }
        let (name, separated) = match assignment(self.line()) {
            Ok(found) => found,
            Err(mistake) => {
                self.take_line();
                return Err(mistake);
            }
        };
        self.advance(separated);
        let before = self.rest;
        self.skip_blanks();
        let value = match self.rest.first() {
            Some(quote @ (b'"' | b'\'')) => self.quoted(*quote)?,
            Some(_) | None => {
                let blank = before.len() > self.rest.len();
                self.plain(blank)
            }
        };
        if value.0.contains(&0) {
            return Err(EnvMistake::Nul);
        }
        Ok(Statement {
            name: name.to_owned(),
            value: value.0,
            expandable: value.1,
        })
    }

    /// A value without quotes, up to a comment: a `#` after a blank. `blank` = one stands before it.
    fn plain(&mut self, blank: bool) -> (Vec<u8>, bool) {
        let line = self.line();
        self.take_line();
        let begins_comment = |index: usize| match index.checked_sub(1) {
            Some(before) => is_blank(line[before]),
            None => blank,
        };
        let comment = memchr::memchr_iter(b'#', line).find(|index| begins_comment(*index));
        let value = line[..comment.unwrap_or(line.len())].trim_ascii_end();
        let dollars = memchr::memchr_iter(b'$', value);
        let expandable = dollars.map(|at| &value[at + 1..]).any(is_expandable);
        (value.to_vec(), expandable)
    }

    /// A value in quotes, which may go over many lines.
    fn quoted(&mut self, quote: u8) -> Result<(Vec<u8>, bool), EnvMistake> {
        let text = &self.rest[1..];
        let mut value = Vec::new();
        let mut expandable = false;
        let mut at = 0;
        loop {
            let Some(byte) = text.get(at).copied() else {
                // What stands in it is no statement of its own.
                self.advance(self.rest.len());
                return Err(EnvMistake::OpenQuote);
            };
            let after = &text[at + 1..];
            if byte == quote {
                break;
            }
            at += 1;
            if byte == b'\\' {
                at += match after.first() {
                    Some(same) if *same == quote => {
                        value.push(quote);
                        1
                    }
                    Some(other) if quote == b'\'' => {
                        value.extend([b'\\', *other]);
                        1
                    }
                    Some(_) | None => unescaped(after, &mut value),
                };
                continue;
            }
            expandable |= byte == b'$' && quote == b'"' && is_expandable(after);
            value.push(byte);
        }
        self.advance(1 + at + 1);
        self.skip_blanks();
        match self.line().first() {
            None | Some(b'#') => {
                self.take_line();
                Ok((value, expandable))
            }
            Some(_) => {
                self.take_line();
                Err(EnvMistake::BehindQuote)
            }
        }
    }
}

/// What follows a backslash in double quotes, as Go's and the shell's `echo` read it; answers how
/// many bytes of `after` that was. An escape that nobody knows stays as it is written.
fn unescaped(after: &[u8], value: &mut Vec<u8>) -> usize {
    let known = match after.first() {
        Some(b'a') => 0x07,
        Some(b'b') => 0x08,
        Some(b'f') => 0x0c,
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'v') => 0x0b,
        Some(same @ (b'\\' | b'$')) => *same,
        Some(b'0') => {
            if let Some(code) = after.get(1..4).and_then(octal) {
                let mut utf8 = [0; 2];
                value.extend(char::from(code).encode_utf8(&mut utf8).as_bytes());
                return 4;
            }
            value.extend(b"\\0");
            return 1;
        }
        Some(other) => {
            value.extend([b'\\', *other]);
            return 1;
        }
        None => return 0,
    };
    value.push(known);
    1
}

fn octal(digits: &[u8]) -> Option<u8> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    let text = plain.then(|| str::from_utf8(digits).ok()).flatten()?;
    u8::from_str_radix(text, 8).ok()
}

/// Whether other tools would expand a `$` that `after` follows.
fn is_expandable(after: &[u8]) -> bool {
    matches!(
        after.first(),
        Some(b'$' | b'{' | b'_' | b'a'..=b'z' | b'A'..=b'Z')
    )
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

/// The name that a line assigns to, and how long it is with its `=` or `:`.
fn assignment(line: &[u8]) -> Result<(&str, usize), EnvMistake> {
    let end = memchr::memchr2(b'=', b':', line).ok_or(EnvMistake::NoValue)?;
    Ok((name(line[..end].trim_ascii_end())?, end + 1))
}

/// `text` as a name.
fn name(text: &[u8]) -> Result<&str, EnvMistake> {
    if text.is_empty() {
        return Err(EnvMistake::NoName);
    }
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
    let name = str::from_utf8(text).map_err(|_| EnvMistake::BadName)?;
    match name.chars().all(fits) {
        true => Ok(name),
        false => Err(EnvMistake::BadName),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &[u8]) -> Vec<(String, String)> {
        let read = parse_env(text).unwrap_or_else(|problems| panic!("{text:?}: {problems:?}"));
        let shown = |value: Vec<u8>| String::from_utf8(value).unwrap();
        let pairs = read.variables.into_iter();
        pairs.map(|(name, value)| (name, shown(value))).collect()
    }

    /// What compose's own reader makes of these (its tests are the source), where nothing is
    /// expanded.
    #[test]
    fn it_is_read_as_compose_reads_it() {
        for (text, name, value) in [
            ("FOO=bar", "FOO", "bar"),
            ("FOO =bar", "FOO", "bar"),
            ("FOO= bar ", "FOO", "bar"),
            ("\tFOO=bar\r\n", "FOO", "bar"),
            ("FOO=", "FOO", ""),
            ("FOO: bar=1", "FOO", "bar=1"),
            ("FOO=1:B", "FOO", "1:B"),
            ("FOO=bar=", "FOO", "bar="),
            ("foo.bar-1=x", "foo.bar-1", "x"),
            ("export FOO=2", "FOO", "2"),
            ("  export\tFOO=2", "FOO", "2"),
            ("exportFOO=2", "exportFOO", "2"),
            ("export.FOO= 2", "export.FOO", "2"),
            ("FOO=bar # note", "FOO", "bar"),
            ("FOO=bar #", "FOO", "bar"),
            ("FOO=123#no-note", "FOO", "123#no-note"),
            ("FOO=#ff0000", "FOO", "#ff0000"),
            ("FOO=a\\tb", "FOO", "a\\tb"),
            ("FOO=it's \"so\"", "FOO", "it's \"so\""),
            ("FOO=\"bar#baz\" # note", "FOO", "bar#baz"),
            ("FOO='bar#baz'# note", "FOO", "bar#baz"),
            ("FOO=\"'d'\"", "FOO", "'d'"),
            ("FOO=\"a\\\"b\"", "FOO", "a\"b"),
            ("FOO='it\\'s'", "FOO", "it's"),
            ("FOO='a\\n\\\\b'", "FOO", "a\\n\\\\b"),
            ("FOO=\"a\\tb\"", "FOO", "a\tb"),
            ("FOO=\"bar\\n\\ b\\\\z\"", "FOO", "bar\n\\ b\\z"),
            ("FOO=\"Z\\0123Z\\012\\08\"", "FOO", "ZSZ\\012\\08"),
            ("FOO=\"\\x07\"", "FOO", "\\x07"),
            ("FOO=\"foo\\$BAR\"", "FOO", "foo$BAR"),
            (
                "FOO=\"one\ntwo=2\n\n# three\"",
                "FOO",
                "one\ntwo=2\n\n# three",
            ),
            ("FOO='one\r\ntwo'", "FOO", "one\ntwo"),
            ("\u{feff}FOO=bar", "FOO", "bar"),
        ] {
            let expected = vec![(name.to_owned(), value.to_owned())];
            assert_eq!(pairs(text.as_bytes()), expected, "{text:?}");
        }
        for nothing in [
            "",
            "\n",
            "\r\n",
            "\t\t ",
            "# note",
            "\t # note\n\n",
            "\u{feff}",
        ] {
            assert_eq!(pairs(nothing.as_bytes()), [], "{nothing:?}");
        }
    }

    #[test]
    fn a_blank_before_the_hash_makes_a_comment_even_of_the_whole_value() {
        assert_eq!(pairs(b"FOO= # unset\n"), [("FOO".into(), String::new())]);
        assert_eq!(pairs(b"FOO=1\t# tab\n"), [("FOO".into(), "1".into())]);
    }

    #[test]
    fn what_cannot_be_read_is_told_all_at_once_and_without_its_text() {
        let text = b"A=1\nnothing\n=x\nlol$wut=1\nA B=1\nC=\"x\"y\nD=\"\\0000\"\n\nE='open\nF=1\n";
        let problems = parse_env(text).unwrap_err();
        let told: Vec<(usize, EnvMistake)> = problems
            .iter()
            .map(|problem| (problem.line, problem.mistake))
            .collect();
        assert_eq!(
            told,
            [
                (2, EnvMistake::NoValue),
                (3, EnvMistake::NoName),
                (4, EnvMistake::BadName),
                (5, EnvMistake::BadName),
                (6, EnvMistake::BehindQuote),
                (7, EnvMistake::Nul),
                (9, EnvMistake::OpenQuote),
            ]
        );
        assert_eq!(problems[0].to_string().find("nothing"), None);
        let utf16 = parse_env(b"\xff\xfeA\0=\x001\0").unwrap_err();
        assert_eq!(utf16[0].mistake, EnvMistake::Utf16);
        assert_eq!(parse_env(&[b'x', b'\n'].repeat(99)).unwrap_err().len(), 10);
    }

    #[test]
    fn what_others_would_expand_is_kept_and_told() {
        let read =
            parse_env(b"A=$HOME\nB=\"${X}\"\nC='$X'\nD=\"\\$X\"\nE=a$\nF=$1\nG=a$$b\n").unwrap();
        let told: Vec<_> = read
            .literals
            .iter()
            .map(|it| (it.line, &*it.name))
            .collect();
        assert_eq!(told, [(1, "A"), (2, "B"), (7, "G")]);
        assert_eq!(read.variables[0].1, b"$HOME");
    }

    #[test]
    fn values_need_not_be_utf_8() {
        let read = parse_env(b"A=caf\xe9\nB=\"\xff\"\n").unwrap();
        assert_eq!(read.variables[0].1, b"caf\xe9");
        assert_eq!(read.variables[1].1, b"\xff");
        assert_eq!(
            parse_env(b"caf\xe9=1").unwrap_err()[0].mistake,
            EnvMistake::BadName
        );
    }

    /// `value` in double quotes.
    fn in_quotes(value: &[u8]) -> Vec<u8> {
        let mut text = vec![b'"'];
        for byte in value {
            if matches!(byte, b'"' | b'\\' | b'$') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text.push(b'"');
        text
    }

    fn any_value() -> impl Strategy<Value = Vec<u8>> {
        // A carriage return before a newline is a line end of Windows, wherever it stands.
        proptest::collection::vec(1..=255_u8, 0..40).prop_filter("line ends of Windows", |v| {
            !v.windows(2).any(|w| w == b"\r\n")
        })
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer_with_lines_that_it_has(
            text in proptest::collection::vec(
                prop_oneof![any::<u8>(), proptest::sample::select(&b"AB=:#'\"\\$ \t\r\n"[..])], 0..80),
        ) {
            let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
            match parse_env(&text) {
                Ok(file) => for (name, value) in file.variables {
                    prop_assert!(!name.is_empty() && !name.contains('='));
                    prop_assert!(!value.contains(&0));
                },
                Err(problems) => for problem in problems {
                    prop_assert!((1..=lines).contains(&problem.line));
                },
            }
        }

        #[test]
        fn a_quoted_value_comes_back_whatever_stands_around_it(
            pairs in proptest::collection::vec(("[A-Z_][A-Z0-9_]{0,5}", any_value()), 0..6),
            note in "( #[ -~]{0,9})?",
            windows in any::<bool>(),
        ) {
            let end: &[u8] = if windows { b"\r\n" } else { b"\n" };
            let mut text = b"\xef\xbb\xbf# a file".to_vec();
            text.extend(end);
            for (name, value) in &pairs {
                text.extend(name.as_bytes());
                text.push(b'=');
                text.extend(in_quotes(value));
                text.extend(note.as_bytes());
                text.extend(end);
            }
            let read = parse_env(&text).unwrap();
            prop_assert_eq!(read.variables, pairs);
            prop_assert!(read.literals.is_empty());
        }
    }
}
