//! `flowctl down`.

use std::time::{Duration, Instant};

use super::args::Down;
use super::exit::{Exit, Failure};
use super::goal::Goal;
use super::out::tell;
use super::reader::{COMING_UP, LOOK_AGAIN};
use super::{Context, asking, wait};
use crate::api::{ClientError, ErrorCode};
use crate::daemon::Volumes;
use crate::model::HumanDuration;

/// A daemon that has nothing left to do is gone within this.
const FAREWELL: Duration = Duration::from_secs(15);

pub(super) fn run(cx: &mut Context<'_>, args: Down) -> Result<Exit, Failure> {
    let deadline = Instant::now() + COMING_UP;
    loop {
        match attempt(cx, &args) {
            // Somebody holds the directory and does not answer yet: a daemon that starts.
            Err(Failure::Told(error))
                if error.code == ErrorCode::Refused && Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            answer => {
                let exit = answer?;
                volumes(cx, &args)?;
                return Ok(exit);
            }
        }
    }
}

/// Says what becomes of named volumes.
fn volumes(cx: &mut Context<'_>, args: &Down) -> Result<(), Failure> {
    let fate = if args.volumes {
        Volumes::Remove
    } else {
        Volumes::Keep
    };
    let cleaned = cx.host.volumes(&cx.state_dir, fate)?;
    for name in &cleaned.volumes_removed {
        cx.out.put(&format!("volume {name} removed\n"))?;
    }
    let why = match fate {
        Volumes::Keep => "`flowctl down --volumes` removes it",
        Volumes::Remove => "a container uses it",
    };
    for name in &cleaned.volumes_kept {
        cx.out.put(&format!("volume {name} kept; {why}\n"))?;
    }
    Ok(())
}

fn attempt(cx: &mut Context<'_>, args: &Down) -> Result<Exit, Failure> {
    match asking(through_the_daemon(cx, args)) {
        Ok(Left::Nothing) => {}
        Ok(Left::Memories) if remembers(cx) => {
            cx.out.put("everything is down\n")?;
            tell(
                "warning: that could not be recorded; the next daemon of this state directory \
                 starts it all again",
            );
            return Ok(Exit::NotDurable);
        }
        Ok(Left::Memories) => {}
        Ok(Left::Perhaps) => cx.host.end_all(&cx.state_dir, wait::limit(args.timeout))?,
        Err(Failure::Daemon(ClientError::NoDaemon { .. })) => {
            if cx.host.look(&cx.state_dir)?.is_none() {
                tell(&format!(
                    "nothing to do: there is no state in {}",
                    cx.state_dir.display()
                ));
                return Ok(Exit::Done);
            }
            tell("no daemon answers; ending what the state directory owns");
            cx.host.end_all(&cx.state_dir, wait::limit(args.timeout))?;
        }
        Err(other) => return Err(other),
    }
    cx.out.put("everything is down\n")?;
    Ok(Exit::Done)
}

/// What a daemon that has ended left behind.
enum Left {
    /// Its last word was that nothing runs.
    Nothing,
    /// The same, but it could not record things when it was asked.
    Memories,
    /// It ended before it said so.
    Perhaps,
}

/// Whether the state directory knows of anything still, or cannot be asked.
fn remembers(cx: &Context<'_>) -> bool {
    match cx.host.look(&cx.state_dir) {
        Ok(None) => false,
        Ok(Some(found)) => !found.owner().snapshots().borrow().pipelines.is_empty(),
        Err(_) => true,
    }
}

async fn through_the_daemon(cx: &Context<'_>, args: &Down) -> Result<Left, Failure> {
    let process = cx.client.process().await?;
    let daemon = cx.client.status().await?.daemon;
    cx.client.down().await?;
    let left = match wait::until(&cx.client, &Goal::Empty, args.timeout).await {
        Ok(()) if daemon.is_some_and(|daemon| !daemon.durable) => Left::Memories,
        Ok(()) => Left::Nothing,
        Err(Failure::Daemon(ClientError::NoDaemon { .. } | ClientError::Broken { .. })) => {
            Left::Perhaps
        }
        Err(other) => return Err(other),
    };
    if process.ended(FAREWELL).await {
        return Ok(left);
    }
    Err(Failure::TimedOut {
        after: HumanDuration::new(FAREWELL),
        waiting: vec!["the daemon to end".to_owned()],
    })
}
