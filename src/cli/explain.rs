//! `flowctl explain` and `flowctl schema`: the manifest's own vocabulary.

use super::Stateless;
use super::args::Explain;
use super::exit::{Exit, Failure};
use crate::manifest::{Depth, explain, schema};

pub(super) fn run(cx: &mut Stateless<'_>, args: Explain) -> Result<Exit, Failure> {
    let depth = if args.recursive {
        Depth::All
    } else {
        Depth::Next
    };
    let path = args.path.unwrap_or_default();
    match explain(&path, depth) {
        Ok(text) => {
            cx.out.put(&text)?;
            Ok(Exit::Done)
        }
        Err(error) => Err(Failure::Usage(format!("{error}: {}", error.fix))),
    }
}

pub(super) fn print_schema(cx: &mut Stateless<'_>) -> Result<Exit, Failure> {
    cx.out.put(&text())?;
    Ok(Exit::Done)
}

/// The schema as a file.
pub(super) fn text() -> String {
    format!("{:#}\n", schema())
}
