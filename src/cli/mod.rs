//! The command line: one file per verb, and what they share.
//!
//! **Expected flow.** `main` calls [`main`] with the [`Host`] that the composition root provides,
//! and ends the process with the [`Exit`] that comes back.
//!
//! **Guarantees.** Results go to standard output and everything else to standard error; a reader
//! that goes away ends a command quietly. Every failure says what failed, why and what to do, once,
//! and maps to one documented exit code. Verbs that only ask the daemon run on one thread.

mod apply;
pub mod args;
mod completion;
mod components;
mod control;
mod daemon;
mod delete;
mod describe;
mod diff;
mod down;
mod engine;
mod events;
pub mod exit;
mod foreground;
mod goal;
mod host;
mod init;
mod last_lines;
mod logs;
mod out;
mod place;
mod program;
mod reader;
mod render;
mod run;
#[cfg(test)]
mod sample;
mod sources;
mod spawn;
mod status;
mod steer;
mod target;
mod text;
mod validate;
mod wait;

use std::ffi::OsString;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use clap::Parser;

use crate::api::{ApiError, Client, ClientError, ErrorCode};
use crate::clock::Clock;
use args::{Cli, Global, Verb};
use out::{Out, tell};

pub use exit::{Exit, Failure};
pub use host::{Approved, DaemonOptions, Host, Question, RunOptions};
pub use place::MARKER;
pub use program::Program;
pub use text::{Style, Tone, clean, paint};

/// Does what `words` say, the program's name first, and answers how it went.
pub fn main(host: &dyn Host, words: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    // A defect of ours has an exit code of its own; the panic hook has told what it was.
    let outcome = catch_unwind(AssertUnwindSafe(|| carry_out(host, cli)));
    match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            explain(&failure);
            failure.exit()
        }
        Err(_) => {
            tell("error: this is a bug of flowctl; please report it with the lines above");
            Exit::Bug
        }
    }
}

/// What clap answers instead of a command: help and the version are results.
fn not_understood(error: &clap::Error) -> Exit {
    let exit = if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Done
    };
    match error.print() {
        Ok(()) => exit,
        Err(error) => {
            tracing::debug!(%error, "nobody reads the help");
            exit
        }
    }
}

fn explain(failure: &Failure) {
    match failure {
        Failure::ClosedPipe => {}
        // A newline, since the terminal shows ^C.
        Failure::Interrupted => tell(""),
        // Rendered by the manifest room, with the offending lines.
        Failure::Daemon(ClientError::Answer(ApiError {
            code: ErrorCode::ManifestInvalid,
            message,
            ..
        }))
        | Failure::Told(ApiError {
            code: ErrorCode::ManifestInvalid,
            message,
            ..
        }) => tell(message.trim_end()),
        Failure::Usage(_)
        | Failure::Daemon(_)
        | Failure::Told(_)
        | Failure::NotFound(_)
        | Failure::NoState { .. }
        | Failure::NoControlPlane(_)
        | Failure::DaemonDied { .. }
        | Failure::TimedOut { .. }
        | Failure::ComponentFailed { .. }
        | Failure::File { .. }
        | Failure::Exists { .. }
        | Failure::Output(_)
        | Failure::CutShort
        | Failure::LeftBehind { .. } => tell(&format!("error: {failure}")),
    }
    if let Some(hint) = failure.hint() {
        tell(&format!("hint: {hint}"));
    }
}

/// What every verb needs.
struct Context<'a> {
    host: &'a dyn Host,
    global: Global,
    state_dir: PathBuf,
    client: Client,
    out: Out,
    clock: Clock,
}

fn carry_out(host: &dyn Host, cli: Cli) -> Result<Exit, Failure> {
    let state_dir = place::Clues::of_this_process(cli.global.state_dir.clone())?.state_dir()?;
    let mut cx = Context {
        host,
        client: Client::new(&state_dir),
        state_dir,
        out: Out::new(cli.global.color),
        clock: Clock::new(),
        global: cli.global,
    };
    let exit = match cli.verb {
        Verb::Apply(args) => asking(apply::run(&mut cx, args)),
        Verb::Diff(args) => asking(diff::run(&mut cx, args)),
        Verb::Status(args) => asking(status::run(&mut cx, args)),
        Verb::Components(args) => asking(components::run(&mut cx, args)),
        Verb::Describe(args) => asking(describe::run(&mut cx, args)),
        Verb::Why(args) => asking(describe::why(&mut cx, args)),
        Verb::Events(args) => asking(events::run(&mut cx, args)),
        Verb::Logs(args) => asking(logs::run(&mut cx, args)),
        Verb::Start(args) => asking(steer::run(&mut cx, args, crate::api::Asked::Start)),
        Verb::Stop(args) => asking(steer::run(&mut cx, args, crate::api::Asked::Stop)),
        Verb::Restart(args) => {
            let asked = if args.pull {
                crate::api::Asked::Pull
            } else {
                crate::api::Asked::Restart
            };
            asking(steer::run(&mut cx, args.steer, asked))
        }
        Verb::Delete(args) => asking(delete::run(&mut cx, args)),
        Verb::Down(args) => down::run(&mut cx, args),
        Verb::Validate(args) => validate::run(&mut cx, args),
        Verb::Run(args) => run::run(&mut cx, args),
        Verb::Daemon(args) => daemon::run(&mut cx, args),
        Verb::Init(args) => init::run(&mut cx, args),
        Verb::Completion(args) => completion::run(&mut cx, args),
    }?;
    cx.out.flush()?;
    Ok(exit)
}

/// Runs `verb` on this thread until it is done or Ctrl+C is pressed.
fn asking<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Output)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = verb => outcome,
            // Nothing is lost by dropping the verb: what the daemon accepted, it carries out.
            pressed = tokio::signal::ctrl_c() => {
                Err(pressed.err().map_or(Failure::Interrupted, Failure::Output))
            }
        }
    });
    // A wait in another thread must not outlive the command.
    runtime.shutdown_background();
    outcome
}
