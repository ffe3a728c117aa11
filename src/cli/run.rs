//! `flowctl run`.

use std::path::{Path, PathBuf};

use super::args::Run;
use super::exit::{Exit, Failure};
use super::host::RunOptions;
use super::sources::gather_to_follow;
use super::{Context, asking};

/// Looked for in this order when no file is named.
const DEFAULTS: [&str; 2] = ["flow.yml", "pipeline.yaml"];

pub(super) fn run(cx: &mut Context<'_>, args: Run) -> Result<Exit, Failure> {
    let named = vec![chosen(args.file.as_deref())?];
    let sources = asking(gather_to_follow(named, args.timeout))?;
    let options = RunOptions {
        state_dir: cx.state_dir.clone(),
        sources,
        namespace: cx.global.namespace.clone(),
        log: cx.global.log.clone(),
        style: cx.out.look().style,
        args,
    };
    cx.host.run(&options, &mut cx.out)
}

fn chosen(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(file) = named {
        return Ok(file.to_path_buf());
    }
    DEFAULTS
        .iter()
        .map(PathBuf::from)
        .find(|file| file.exists())
        .ok_or_else(|| {
            Failure::Usage(format!(
                "which file? there is neither {} here; `flowctl init` writes one",
                DEFAULTS.join(" nor ")
            ))
        })
}
