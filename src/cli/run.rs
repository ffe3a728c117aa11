//! `flowctl run`.

use std::path::Path;

use super::args::Run;
use super::exit::{Exit, Failure};
use super::host::RunOptions;
use super::sources::gather_to_follow;
use super::{Context, asking};

pub(super) fn run(cx: &mut Context<'_>, args: Run) -> Result<Exit, Failure> {
    let named = args.file.as_deref().map(Path::to_path_buf);
    let named = named.into_iter().collect();
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
