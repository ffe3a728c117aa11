//! `flowctl ui`.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Context;
use super::args::Ui;
use super::describe;
use super::exit::{Exit, Failure};
use super::reader;
use super::target::Target;
use crate::api::{Client, ClientError};
use crate::dashboard::{self, Control, DashboardError, Ended, Options};
use crate::model::{ComponentId, PipelineKey, Snapshot, Timestamp};

pub(super) async fn run(cx: &mut Context<'_>, args: Ui) -> Result<Exit, Failure> {
    if !cx.out.is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "`ui` draws on a terminal and reads keys from it, and one of both is something else; \
             `flowctl status` prints the same"
                .to_owned(),
        ));
    }
    let client = cx.client.clone();
    let offline = match reader::status(cx).await {
        Ok(snapshot) if snapshot.daemon.is_none() => Some((cx.client.clone(), snapshot)),
        Ok(_) => None,
        // It is waited for, and that is shown.
        Err(
            Failure::NoState { .. }
            | Failure::Daemon(
                ClientError::Silent { .. }
                | ClientError::NoDaemon { .. }
                | ClientError::Broken { .. },
            ),
        ) => None,
        Err(failure) => return Err(failure),
    };
    let options = Options {
        client,
        offline,
        clock: cx.clock.clone(),
        out: cx.out.another()?,
        style: cx.out.look().style,
        control: if args.read_only {
            Control::ReadOnly
        } else {
            Control::Allowed
        },
        describe: why,
    };
    match dashboard::run(options).await {
        Ok(Ended::Quit) => Ok(Exit::Done),
        Ok(Ended::Told) => Ok(Exit::Interrupted),
        Err(DashboardError::Terminal(error)) => Err(error.into()),
    }
}

/// Why a component is in its state, as `flowctl why` tells it.
fn why(
    client: Client,
    snapshot: Arc<Snapshot>,
    pipeline: PipelineKey,
    component: ComponentId,
    now: Timestamp,
) -> BoxFuture<'static, Result<String, String>> {
    async move {
        let target = Target {
            pipeline,
            component,
        };
        let told = describe::why_text(&client, &snapshot, target, now).await;
        told.map_err(|failure| failure.to_string())
    }
    .boxed()
}
