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
mod bundle;
mod completion;
mod components;
mod control;
mod daemon;
mod delete;
mod describe;
mod diff;
mod doctor;
mod down;
mod engine;
mod events;
mod exec;
pub mod exit;
mod explain;
mod foreground;
mod goal;
mod graph;
mod help;
mod host;
mod image;
mod init;
mod install;
mod kubernetes;
mod last_lines;
mod logs;
mod man;
mod metrics;
mod notifications;
mod objects;
mod out;
mod place;
mod program;
mod reader;
mod render;
mod run;
mod sources;
mod spawn;
mod status;
mod steer;
mod target;
mod top;
mod ui;
mod unit;
mod validate;
mod version;
mod wait;
mod wait_for;
mod web;

use std::ffi::OsString;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches};

use crate::api::{ApiError, Asked, Client, ClientError, ErrorCode};
use crate::clock::Clock;
use crate::text;
#[cfg(test)]
use crate::text::sample;
use args::{Cli, DaemonVerb, Global, Verb};
use out::{Out, tell};

pub use exit::{Exit, Failure};
pub use host::{Approved, DaemonOptions, Host, Question, RunOptions};
pub use place::MARKER;
pub use program::Program;
pub use text::{Style, Tone, clean, paint};

/// Does what `words` say, the program's name first, and answers how it went.
pub fn main(host: &dyn Host, words: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match parse(words) {
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

fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = help::by_task(without_empty_variables(Cli::command()));
    let mut matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// A variable that is set to nothing counts as not set, as units and scripts that fill in
/// `FLOWCTL_STATE_DIR=$DIR` expect.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            if value.is_some_and(|value| value.is_empty()) {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        })
        .mut_subcommands(without_empty_variables)
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
        | Failure::Unread { .. }
        | Failure::ComponentFailed { .. }
        | Failure::Homeless { .. }
        | Failure::File { .. }
        | Failure::Exists { .. }
        | Failure::Output(_)
        | Failure::CutShort
        | Failure::LeftBehind { .. } => tell(&format!("error: {}", clean_lines(failure))),
    }
    if let Some(hint) = failure.hint() {
        tell(&format!("hint: {}", clean_lines(&hint)));
    }
}

/// A message of several lines; names in it, which others chose, may hold anything.
fn clean_lines(message: &dyn std::fmt::Display) -> String {
    let message = message.to_string();
    let lines: Vec<_> = message.split('\n').map(clean).collect();
    lines.join("\n")
}

/// What verbs need that look at no state: they work where none can be.
struct Stateless<'a> {
    host: &'a dyn Host,
    global: Global,
    out: Out,
    clock: Clock,
}

/// What all other verbs need.
struct Context<'a> {
    host: &'a dyn Host,
    global: Global,
    state_dir: PathBuf,
    client: Client,
    out: Out,
    clock: Clock,
}

impl<'a> Stateless<'a> {
    /// Carries out a verb that looks at no state.
    fn alone(
        mut self,
        verb: impl FnOnce(&mut Self) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let exit = verb(&mut self)?;
        self.out.flush()?;
        Ok(exit)
    }

    /// Carries out a verb that does.
    fn with_state(
        self,
        verb: impl FnOnce(&mut Context<'a>) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let given = self.global.state_dir.clone();
        let state_dir = place::Clues::of_this_process(given).state_dir()?;
        let mut cx = Context {
            host: self.host,
            client: Client::new(&state_dir),
            state_dir,
            out: self.out,
            clock: self.clock,
            global: self.global,
        };
        let exit = verb(&mut cx)?;
        cx.out.flush()?;
        Ok(exit)
    }
}

fn carry_out(host: &dyn Host, cli: Cli) -> Result<Exit, Failure> {
    let cx = Stateless {
        host,
        out: Out::new(cli.global.color),
        clock: Clock::new(),
        global: cli.global,
    };
    match cli.verb {
        Verb::Validate(args) => cx.alone(|cx| validate::run(cx, args)),
        Verb::Image(args) => cx.alone(|cx| image::run(cx, args)),
        Verb::Init(args) => cx.alone(|cx| init::run(cx, args)),
        Verb::Graph(args) => cx.alone(|cx| graph::run(cx, args)),
        Verb::Kubernetes(args) => cx.alone(|cx| kubernetes::run(cx, args)),
        Verb::Render(args) => cx.alone(|cx| objects::run(cx, args)),
        Verb::Explain(args) => cx.alone(|cx| explain::run(cx, args)),
        Verb::Schema => cx.alone(explain::print_schema),
        Verb::Install(args) => cx.alone(|cx| install::run(cx, args)),
        Verb::Uninstall(args) => cx.alone(|cx| install::undo(cx, args)),
        Verb::Help(args) => cx.alone(|cx| help::run(cx, args)),
        Verb::Completion(args) => cx.alone(|cx| completion::run(cx, args)),
        Verb::Man(args) => cx.alone(|cx| man::run(cx, args)),
        Verb::Complete(args) => cx.alone(|cx| completion::complete(cx, args)),
        Verb::Status(args) if status::is_about_another(&args) => {
            cx.alone(|cx| asking(status::run_elsewhere(cx, args)))
        }
        Verb::Components(args) if components::is_about_another(&args) => {
            cx.alone(|cx| asking(components::run_elsewhere(cx, args)))
        }
        Verb::Daemon(args::Daemon {
            verb: Some(DaemonVerb::Restart { timeout }),
            ..
        }) => cx.with_state(|cx| asking(daemon::restart(cx, timeout))),
        Verb::Daemon(args) if args.no_persistence => {
            cx.alone(|cx| daemon::run_in_passing(cx, args))
        }
        Verb::Apply(args) => cx.with_state(|cx| asking(apply::run(cx, args))),
        Verb::Diff(args) => cx.with_state(|cx| asking(diff::run(cx, args))),
        Verb::Status(args) => cx.with_state(|cx| asking(status::run(cx, args))),
        Verb::Components(args) => cx.with_state(|cx| asking(components::run(cx, args))),
        Verb::Describe(args) => cx.with_state(|cx| asking(describe::run(cx, args))),
        Verb::Why(args) => cx.with_state(|cx| asking(describe::why(cx, args))),
        Verb::Events(args) => cx.with_state(|cx| asking(events::run(cx, args))),
        Verb::Ui(args) => cx.with_state(|cx| asking(ui::run(cx, args))),
        Verb::Web(args) => cx.with_state(|cx| asking(web::run(cx, args))),
        Verb::Top(args) => cx.with_state(|cx| asking(top::run(cx, args))),
        Verb::Metrics(args) => cx.with_state(|cx| asking(metrics::run(cx, args))),
        Verb::Notify(args) => cx.with_state(|cx| asking(notifications::run(cx, args))),
        Verb::Logs(args) => cx.with_state(|cx| asking(logs::run(cx, args))),
        Verb::Start(args) => cx.with_state(|cx| asking(steer::run(cx, args, Asked::Start))),
        Verb::Stop(args) => cx.with_state(|cx| asking(steer::run(cx, args, Asked::Stop))),
        Verb::Restart(args) => {
            let asked = if args.pull {
                Asked::Pull
            } else {
                Asked::Restart
            };
            cx.with_state(|cx| asking(steer::run(cx, args.steer, asked)))
        }
        Verb::Exec(args) => cx.with_state(|cx| exec::run(cx, args)),
        Verb::Shell(args) => cx.with_state(|cx| exec::shell(cx, args)),
        Verb::Env(args) => cx.with_state(|cx| exec::env(cx, args)),
        Verb::Doctor(args) => cx.with_state(|cx| asking(doctor::run(cx, args))),
        Verb::Bundle(args) => cx.with_state(|cx| asking(bundle::run(cx, args))),
        Verb::Wait(args) => cx.with_state(|cx| asking(wait_for::run(cx, args))),
        Verb::Version(args) => cx.with_state(|cx| asking(version::run(cx, args))),
        Verb::Delete(args) => cx.with_state(|cx| asking(delete::run(cx, args))),
        Verb::Down(args) => cx.with_state(|cx| down::run(cx, args)),
        Verb::Run(args) => cx.with_state(|cx| run::run(cx, args)),
        Verb::Daemon(args) => cx.with_state(|cx| daemon::run(cx, args)),
    }
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
