//! Who answers a command that only reads: the daemon, or, where none runs, a look of our own.

use std::time::Duration;

use tokio::time::Instant;

use super::Context;
use super::exit::Failure;
use super::out::tell;
use crate::api::{ClientError, ErrorCode};
use crate::model::Snapshot;

/// How long a daemon may hold its directory before it answers; opening a large store on a slow disk
/// takes seconds.
pub(super) const COMING_UP: Duration = Duration::from_secs(10);
/// A daemon that has nothing left to do is gone within this, also when its engine hangs or keeps a
/// container.
pub(super) const GOING: Duration = Duration::from_secs(60);
/// Between two looks at a daemon that comes up or goes.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The snapshot as it is written, a line of JSON. When no daemon answers, `cx.client` speaks from
/// now on to a look of our own, and that is said.
///
/// # Errors
/// When there is no state either, or the daemon does not answer.
pub(super) async fn status_text(cx: &mut Context<'_>) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + COMING_UP;
    loop {
        match cx.client.status_text().await {
            Ok(written) => return Ok(written.to_vec()),
            // Broken off: it ended while it answered.
            Err(ClientError::NoDaemon { .. } | ClientError::Broken { .. }) => {}
            Err(
                error @ (ClientError::Silent { .. }
                | ClientError::NotOurs { .. }
                | ClientError::Unwritten { .. }
                | ClientError::Answer(_)),
            ) => return Err(error.into()),
        }
        match cx.host.look(&cx.state_dir) {
            Ok(Some(found)) => {
                cx.client = cx.client.answered_by(found);
                tell(&format!(
                    "warning: no daemon runs for {}; nothing is restarted or applied until one does",
                    cx.state_dir.display()
                ));
            }
            Ok(None) => {
                return Err(Failure::NoState {
                    state_dir: cx.state_dir.clone(),
                });
            }
            // Somebody holds the directory and does not answer yet: a daemon that starts.
            Err(Failure::Told(error))
                if error.code == ErrorCode::Refused && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// The same with what replicas use, which is measured for it.
///
/// # Errors
/// As [`status_text`].
pub(super) async fn usage_text(cx: &mut Context<'_>) -> Result<Vec<u8>, Failure> {
    match cx.client.usage_text().await {
        Ok(written) => Ok(written.to_vec()),
        // Whoever answers then, or why nobody does.
        Err(ClientError::NoDaemon { .. } | ClientError::Broken { .. }) => status_text(cx).await,
        Err(
            error @ (ClientError::Silent { .. }
            | ClientError::NotOurs { .. }
            | ClientError::Unwritten { .. }
            | ClientError::Answer(_)),
        ) => Err(error.into()),
    }
}

/// The same, understood.
///
/// # Errors
/// As [`status_text`].
pub(super) async fn status(cx: &mut Context<'_>) -> Result<Snapshot, Failure> {
    let written = status_text(cx).await?;
    understood(cx, &written)
}

/// What a snapshot that was written says.
///
/// # Errors
/// When it is none.
pub(super) fn understood(cx: &Context<'_>, written: &[u8]) -> Result<Snapshot, Failure> {
    let broken = |why: String| {
        Failure::Daemon(ClientError::Broken {
            state_dir: cx.state_dir.clone(),
            question: "/v1/status".to_owned(),
            why,
        })
    };
    // Checked at once, it is not checked again for each name in it.
    let written = std::str::from_utf8(written).map_err(|error| broken(error.to_string()))?;
    serde_json::from_str(written).map_err(|error| broken(error.to_string()))
}
