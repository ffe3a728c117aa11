//! What the fuzz targets of `tests/fuzz` and the tests of this crate share.
//!
//! The body of a target is a plain function of the room whose parser it feeds. LibFuzzer calls it
//! from `tests/fuzz`, by hand and for as long as one likes; [`replay`] calls it in an ordinary test,
//! with all that is kept of earlier runs and with as many changes of that as a moment allows.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Changed inputs that a test tries.
const ROUNDS: usize = 3_000;
/// It tries fewer on a machine on which that takes longer.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest input that is made.
const LONGEST: usize = 4_096;

/// Runs `body` on every kept input of `target`, and on changed ones, the same at each call.
///
/// # Panics
/// When `body` does, having shown the input; and when nothing is kept.
pub fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).expect("every target has a corpus");
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path| fs::read(path).expect("a kept input can be read");
    let kept: Vec<Vec<u8>> = paths.into_iter().map(read).collect();
    assert!(!kept.is_empty(), "{} is empty", folder.display());
    let begun = Instant::now();
    for input in &kept {
        shown(input, body);
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        if begun.elapsed() > PATIENCE {
            break;
        }
        shown(&changed(&kept, &mut dice), body);
    }
}

/// An input that is printed when what it was given to panics.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the input was b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn shown(input: &[u8], body: fn(&[u8])) {
    let _shown = Shown(input);
    body(input);
}

/// Xorshift: the same numbers at each run.
struct Dice(u64);

impl Dice {
    /// A number below `limit`; 0 where that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.0 % limit).unwrap_or_default()
    }
}

/// A kept input with one to four changes.
fn changed(kept: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    const TELLING: [&[u8]; 8] = [
        b"\0",
        b"\xff\xff\xff\xff",
        b"-1",
        b"99999999999999999999",
        b"\n",
        b"\"",
        b"{[",
        "\u{202e}".as_bytes(),
    ];
    let mut input = kept[dice.below(kept.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let end = at + dice.below((input.len() - at).min(64) + 1);
        match dice.below(6) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.below(256).to_le_bytes()[0],
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let telling = TELLING[dice.below(TELLING.len())];
                input.splice(at..end, telling.iter().copied());
            }
            _ => {
                let other = &kept[dice.below(kept.len())];
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}
