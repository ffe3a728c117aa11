//! `flowctl metrics`.

use super::Context;
use super::args::Metrics;
use super::exit::{Exit, Failure};
use super::reader;

pub(super) async fn run(cx: &mut Context<'_>, args: Metrics) -> Result<Exit, Failure> {
    // Finds who answers, a look of our own where no daemon runs.
    reader::status_text(cx).await?;
    let text = cx.client.metrics(args.output.into()).await?;
    cx.out.put(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
