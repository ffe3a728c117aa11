//! `flowctl exec`, `flowctl shell` and `flowctl env`: a program beside a component, with what the
//! component has around it.
//!
//! A process shows its own variables, folder and user to whoever may look into it, so this program
//! takes them and becomes the one that is asked for: nothing is between it and the terminal. In a
//! container it is the engine that begins it, and this program hands on what is typed and written.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::Mode;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::args::{Env, Exec, Pair, Shell, TextOrJson};
use super::exit::{Exit, Failure};
use super::reader;
use super::target::{component, find};
use super::text::clean;
use super::{Context, asking};
use crate::api::{ApiError, ErrorCode};
use crate::daemon;
use crate::driver::OutputStream;
use crate::driver::docker::{Session, Size, Wish};
use crate::driver::process::{self, Around};
use crate::driver::readers::{Inside, inside};
use crate::model::{InstanceId, ReplicaStatus};

/// Bash where there is one, else what every image with a shell has.
const SHELL: [&str; 3] = [
    "sh",
    "-c",
    "command -v bash >/dev/null 2>&1 && exec bash; exec sh",
];
/// So much of what is typed is on its way to a program that does not read it yet.
const TYPED_AHEAD: usize = 16;

pub(super) fn shell(cx: &mut Context<'_>, args: Shell) -> Result<Exit, Failure> {
    let exec = Exec {
        component: args.component,
        variables: args.variables,
        command: SHELL.iter().map(OsString::from).collect(),
    };
    run(cx, exec)
}

pub(super) fn run(cx: &mut Context<'_>, args: Exec) -> Result<Exit, Failure> {
    match asking(place(cx, &args.component))? {
        Place::Process { around } => {
            cx.out.flush()?;
            Err(become_it(&around, &args))
        }
        Place::Container { id } => asking(in_container(cx, &id, &args)),
    }
}

pub(super) fn env(cx: &mut Context<'_>, args: Env) -> Result<Exit, Failure> {
    let mut variables = match asking(place(cx, &args.component))? {
        Place::Process { around } => around.variables,
        Place::Container { id } => asking(of_container(cx, &id))?,
    };
    variables.sort();
    match args.output {
        TextOrJson::Json => {
            let named = variables.iter().map(|(name, value)| {
                let value = shown(args.show_values, value);
                (name.to_string_lossy().into_owned(), value.into())
            });
            let object: serde_json::Map<String, serde_json::Value> = named.collect();
            cx.out
                .line(serde_json::Value::from(object).to_string().as_bytes())?;
        }
        TextOrJson::Text => {
            for (name, value) in &variables {
                let value = shown(args.show_values, value);
                let line = format!("{}={}\n", clean(&name.to_string_lossy()), clean(&value));
                cx.out.put(&line)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// A value as it is shown: whoever looks over one's shoulder sees none.
fn shown(shows: bool, value: &OsStr) -> String {
    if shows {
        value.to_string_lossy().into_owned()
    } else {
        "***".to_owned()
    }
}

/// Where a component runs.
enum Place {
    Process { around: Around },
    Container { id: String },
}

async fn place(cx: &mut Context<'_>, text: &str) -> Result<Place, Failure> {
    let snapshot = reader::status(cx).await?;
    let namespace = cx.global.namespace.clone();
    let (name, number) = match component(&snapshot, namespace.as_ref(), text) {
        Err(Failure::NotFound(why)) => {
            let numbered = text.rsplit_once('.');
            let number = numbered.and_then(|(_, number)| number.parse::<u32>().ok());
            match (numbered, number) {
                (Some((name, _)), Some(number)) => (name, Some(number)),
                (Some(_) | None, None) | (None, Some(_)) => return Err(Failure::NotFound(why)),
            }
        }
        Err(failure) => return Err(failure),
        Ok(_) => (text, None),
    };
    let target = component(&snapshot, namespace.as_ref(), name)?;
    let found = find(&snapshot, &target);
    let (_, status) =
        found.ok_or_else(|| Failure::NotFound(format!("there is no component `{target}`")))?;
    let replica = match number {
        Some(number) => {
            let mut replicas = status.replicas.iter();
            let found = replicas.find(|replica| replica.replica == number);
            found.ok_or_else(|| Failure::NotFound(format!("`{target}` has no replica {number}")))?
        }
        // The first that runs: which one of several is all the same to whoever does not say.
        None => {
            let runs =
                |replica: &&ReplicaStatus| replica.pid.is_some() || replica.container.is_some();
            let mut replicas = status.replicas.iter();
            match replicas.clone().find(runs).or_else(|| replicas.next()) {
                Some(replica) => replica,
                None => return Err(not_running(&target.to_string(), "it has no replica")),
            }
        }
    };
    let name = target.to_string();
    let live = replica.instance.as_ref().filter(|_| replica.phase.lives());
    let why = format!("{}: {}", replica.phase, replica.why);
    match inside(status.driver) {
        Inside::Process => match (live, replica.pid) {
            (Some(instance), Some(pid)) => {
                let around = around(pid, instance)?;
                Ok(Place::Process { around })
            }
            (Some(_) | None, None) | (None, Some(_)) => Err(not_running(&name, &why)),
        },
        Inside::Engine => match (live, &replica.container) {
            (Some(_), Some(id)) => Ok(Place::Container { id: id.clone() }),
            (Some(_) | None, None) | (None, Some(_)) => Err(not_running(&name, &why)),
        },
        Inside::Elsewhere { with } => Err(refused(
            format!("`{name}` runs on another host, where flowctl runs no program"),
            format!("use `{with}`"),
        )),
    }
}

fn around(pid: u32, instance: &InstanceId) -> Result<Around, Failure> {
    process::around(pid, instance).map_err(|error| {
        refused(
            format!("nothing can be run beside `{}`: {error}", instance.replica),
            "it takes the user that the component runs as, or root".to_owned(),
        )
    })
}

fn not_running(name: &str, why: &str) -> Failure {
    refused(
        format!("`{name}` does not run, so nothing can be run beside it ({why})"),
        "`flowctl why COMPONENT` tells more".to_owned(),
    )
}

fn refused(message: String, hint: String) -> Failure {
    Failure::Told(ApiError::new(ErrorCode::Refused, message).with_hint(hint))
}

/// Turns this process into what is asked for; comes back only when that fails.
fn become_it(around: &Around, args: &Exec) -> Failure {
    let (program, arguments) = match args.command.split_first() {
        Some(command) => command,
        None => return Failure::Usage("say which program to run".to_owned()),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(around.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(&around.working_dir);
    // The terminal is that of the person, whatever the component was told.
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    for Pair { key, value } in &args.variables {
        command.env(key, value);
    }
    if around.uid != rustix::process::geteuid().as_raw() {
        command.uid(around.uid).gid(around.gid);
    }
    rustix::process::umask(Mode::from_raw_mode(around.umask));
    let source = command.exec();
    let program = program.as_bytes().escape_ascii();
    if source.kind() == io::ErrorKind::NotFound {
        return refused(
            format!("there is no program `{program}` in the component's PATH or at that path"),
            "`flowctl env COMPONENT --show-values` shows its PATH".to_owned(),
        );
    }
    refused(
        format!("could not run `{program}` as user {}: {source}", around.uid),
        "it takes the user that the component runs as, or root".to_owned(),
    )
}

async fn of_container(cx: &Context<'_>, id: &str) -> Result<Vec<(OsString, OsString)>, Failure> {
    let engine = daemon::engine_of(&cx.state_dir, &cx.clock)?;
    let found = engine.variables_of(id).await.map_err(unreachable)?;
    let found = found.ok_or_else(|| Failure::NotFound("its container is gone".to_owned()))?;
    let pairs = found.iter().filter_map(|pair| pair.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect())
}

fn unreachable(error: crate::driver::DriverError) -> Failure {
    Failure::Told(ApiError::new(ErrorCode::Unreachable, error.to_string()))
}

async fn in_container(cx: &mut Context<'_>, id: &str, args: &Exec) -> Result<Exit, Failure> {
    let mut command = Vec::new();
    for word in &args.command {
        let word = word.to_str().ok_or_else(|| {
            Failure::Usage("a container engine takes only words that are UTF-8".to_owned())
        })?;
        command.push(word.to_owned());
    }
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let variables = args
        .variables
        .iter()
        .map(|pair| format!("{}={}", pair.key, pair.value));
    let mut variables: Vec<String> = variables.collect();
    if is_terminal && let Ok(term) = std::env::var("TERM") {
        variables.insert(0, format!("TERM={term}"));
    }
    let wish = Wish {
        command,
        variables,
        terminal: is_terminal.then(terminal_size),
    };
    let engine = daemon::engine_of(&cx.state_dir, &cx.clock)?;
    let session = engine.attach(id, wish).await.map_err(unreachable)?;
    let raw = if is_terminal { Raw::begin() } else { None };
    let ended = hand_on(session).await;
    drop(raw);
    let code = ended?;
    // What the engine calls it: 126 and 127 are a program that cannot be begun.
    #[expect(
        clippy::disallowed_methods,
        reason = "the code is the other program's, and any number"
    )]
    std::process::exit(i32::try_from(code).unwrap_or(1));
}

/// Hands on what is typed and what is written until the program ends; answers its exit code.
async fn hand_on(mut session: Session) -> Result<i64, Failure> {
    let mut typed = typed();
    let mut resized = signal(SignalKind::window_change()).map_err(Failure::Output)?;
    let mut is_open = true;
    loop {
        tokio::select! {
            written = session.next() => match written.map_err(Failure::Output)? {
                Some((OutputStream::Stdout, bytes)) => write(&mut io::stdout().lock(), &bytes)?,
                Some((OutputStream::Stderr, bytes)) => write(&mut io::stderr().lock(), &bytes)?,
                None => break,
            },
            // Cancel-safe: what was not received stays in the channel.
            some = typed.recv(), if is_open => {
                let sent = match some {
                    Some(bytes) => send(&mut session, &bytes).await,
                    None => {
                        is_open = false;
                        session.input.shutdown().await
                    }
                };
                // Whoever has ended reads nothing any more: its output says so.
                is_open = is_open && sent.is_ok();
            }
            Some(()) = resized.recv() => {
                session.resize(terminal_size()).await.map_err(unreachable)?;
            }
        }
    }
    session.exit_code().await.map_err(unreachable)
}

async fn send(session: &mut Session, bytes: &[u8]) -> io::Result<()> {
    session.input.write_all(bytes).await?;
    session.input.flush().await
}

fn write(to: &mut dyn Write, bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes)?;
    to.flush()?;
    Ok(())
}

/// What is typed, read in a thread of its own, which ends with this process.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(TYPED_AHEAD);
    std::thread::spawn(move || {
        let mut buffer = [0; 8 << 10];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

fn terminal_size() -> Size {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map_or(
        Size {
            columns: 80,
            rows: 24,
        },
        |(columns, rows)| Size {
            columns: columns.0,
            rows: rows.0,
        },
    )
}

/// The terminal hands on every key as it is, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn begin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::debug!(%error, "the terminal stays raw");
        }
    }
}
