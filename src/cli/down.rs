//! `flowctl down`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Instant;

use serde_json::json;

use super::args::{Delete, Down, Patience, TextOrJson};
use super::exit::{Exit, Failure};
use super::goal::Goal;
use super::out::tell;
use super::reader::{COMING_UP, GOING, LOOK_AGAIN};
use super::{Context, asking, delete, wait};
use crate::api::{ClientError, ErrorCode};
use crate::daemon::Volumes;
use crate::model::HumanDuration;

pub(super) fn run(cx: &mut Context<'_>, args: Down) -> Result<Exit, Failure> {
    if !args.pipelines.is_empty() {
        let args = Delete {
            pipelines: args.pipelines,
            file: Vec::new(),
            output: args.output,
            volumes: args.volumes,
            logs: false,
            patience: Patience {
                no_wait: false,
                timeout: args.timeout,
            },
        };
        return asking(delete::run(cx, args));
    }
    if !args.yes && !is_meant(cx, &args)? {
        tell("nothing was ended");
        return Ok(Exit::Refused);
    }
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
                volumes(cx, &args, exit)?;
                return Ok(exit);
            }
        }
    }
}

/// Whether whoever typed it means it: asked on a terminal, where more than one pipeline ends or data
/// goes.
fn is_meant(cx: &mut Context<'_>, args: &Down) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    let known = asking(async { Ok(cx.client.status().await.ok()) })?;
    let pipelines = known.map_or(0, |snapshot| snapshot.pipelines.len());
    if pipelines < 2 && !args.volumes {
        return Ok(true);
    }
    let data = if args.volumes {
        " and removes named volumes with their data"
    } else {
        ""
    };
    let question = format!(
        "this ends {pipelines} pipelines and the daemon of {}{data}; go on? [y/N] ",
        cx.state_dir.display()
    );
    io::stderr().lock().write_all(question.as_bytes())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Removes named volumes if so asked, and says what becomes of them. Those of what the next daemon
/// starts again keep their data.
fn volumes(cx: &mut Context<'_>, args: &Down, exit: Exit) -> Result<(), Failure> {
    let starts_again = exit == Exit::NotDurable;
    let (fate, why) = if starts_again {
        (Volumes::Keep, "what uses it starts again")
    } else if args.volumes {
        (Volumes::Remove, "a container uses it")
    } else {
        (Volumes::Keep, "`flowctl down --volumes` removes it")
    };
    let cleaned = cx.host.volumes(&cx.state_dir, fate)?;
    if args.output == TextOrJson::Json {
        let answer = json!({
            "outcome": "down",
            "recorded": !starts_again,
            "volumes_removed": cleaned.volumes_removed,
            "volumes_kept": cleaned.volumes_kept,
        });
        cx.out.line(answer.to_string().as_bytes())?;
        return Ok(());
    }
    for name in &cleaned.volumes_removed {
        cx.out.put(&format!("volume {name} removed\n"))?;
    }
    for name in &cleaned.volumes_kept {
        cx.out.put(&format!("volume {name} kept; {why}\n"))?;
    }
    Ok(())
}

fn attempt(cx: &mut Context<'_>, args: &Down) -> Result<Exit, Failure> {
    let mut durability = Durability::Recorded;
    match asking(through_the_daemon(cx, args)) {
        Ok(Left::Nothing(said)) => durability = said,
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
    if args.output == TextOrJson::Text {
        cx.out.put("everything is down\n")?;
    }
    match (memory(cx), durability) {
        (Memory::Empty, _) | (Memory::Unknown, Durability::Recorded) => Ok(Exit::Done),
        (Memory::Pipelines, _) | (Memory::Unknown, Durability::Failing) => {
            tell(
                "warning: that could not be recorded; the next daemon of this state directory \
                 starts it all again",
            );
            Ok(Exit::NotDurable)
        }
    }
}

/// What a daemon that has ended left behind.
enum Left {
    /// Its last word was that nothing runs.
    Nothing(Durability),
    /// It ended before it said so.
    Perhaps,
}

/// Whether the daemon could record things at the end.
enum Durability {
    Recorded,
    Failing,
}

/// What the state directory still knows of.
enum Memory {
    Empty,
    Pipelines,
    /// It cannot be asked: something is wrong with it, or another daemon has it already.
    Unknown,
}

fn memory(cx: &Context<'_>) -> Memory {
    match cx.host.look(&cx.state_dir) {
        Ok(None) => Memory::Empty,
        Ok(Some(found)) if found.owner().snapshots().borrow().pipelines.is_empty() => Memory::Empty,
        Ok(Some(_)) => Memory::Pipelines,
        Err(_) => Memory::Unknown,
    }
}

async fn through_the_daemon(cx: &Context<'_>, args: &Down) -> Result<Left, Failure> {
    let process = cx.client.process().await?;
    cx.client.down().await?;
    let left = match wait::until(&cx.client, &Goal::Empty, args.timeout).await {
        Ok(reached) => Left::Nothing(match wait::unrecorded(reached) {
            Some(_) => Durability::Failing,
            None => Durability::Recorded,
        }),
        Err(Failure::Daemon(ClientError::NoDaemon { .. } | ClientError::Broken { .. })) => {
            Left::Perhaps
        }
        Err(other) => return Err(other),
    };
    if process.ended(GOING).await {
        return Ok(left);
    }
    Err(Failure::TimedOut {
        after: HumanDuration::new(GOING),
        waiting: vec!["the daemon to end".to_owned()],
    })
}
