//! `flowctl install` and `uninstall`: the daemon as a service of systemd.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::args::{Install, Uninstall};
use super::exit::{Exit, Failure};
use super::out::tell;
use super::place::{self, Clues};
use super::text::shown;
use super::unit::{self, MARK, NAME, STATE, Scope};
use super::{Stateless, asking};
use crate::api::{ApiError, Client, ClientError, ErrorCode};
use crate::ownership::{End, Trusted};

/// Where root puts units.
const HOST_UNITS: &str = "/etc/systemd/system";
/// Where systemd notes who may have services without being logged in.
const LINGERING: &str = "/var/lib/systemd/linger";
/// How long a daemon in the background may take to make way.
const MAKES_WAY: Duration = Duration::from_secs(30);

pub(super) fn run(cx: &mut Stateless<'_>, args: Install) -> Result<Exit, Failure> {
    let scope = scope(args.user);
    let state = state_dir(scope, cx.global.state_dir.as_deref())?;
    let program = program(scope)?;
    let text = unit::text(scope, &program, &state).map_err(|path| {
        refused(
            format!("no unit can name {}, which is not UTF-8", shown(path)),
            "install it under another path".to_owned(),
        )
    })?;
    let text = format!("{MARK}\n{text}");
    if args.print {
        cx.out.put(&text)?;
        return Ok(Exit::Done);
    }
    may_write(scope)?;
    if let Some(unit) = scope.of_packages().iter().find(|unit| unit.exists()) {
        return Err(refused(
            format!("a package brought {}", shown(unit)),
            format!("use that one: `systemctl enable --now {NAME}`, `systemctl edit {NAME}`"),
        ));
    }
    systemctl(scope, &["show", "--property=Version"])?;
    let path = path(scope)?;
    let before = ours(&path)?;
    if before.as_deref() != Some(&*text) {
        write(&path, &text)?;
    }
    systemctl(scope, &["daemon-reload"])?;
    systemctl(scope, &["enable", NAME])?;
    let word = match before {
        Some(before) if before == text => "unchanged",
        Some(_) => "written anew",
        None => "written",
    };
    cx.out
        .put(&format!("{} {word} and enabled\n", shown(&path)))?;
    if args.now {
        if systemctl(scope, &["is-active", NAME]).is_err() {
            asking(make_way(&state))?;
        }
        // It returns once the daemon looks after what ran before.
        systemctl(scope, &["restart", NAME])?;
        cx.out.put(&format!(
            "the daemon runs; its state is in {}\n",
            shown(&state)
        ))?;
    }
    match scope {
        Scope::Host => {}
        Scope::User => hint_at_lingering(),
    }
    if !args.now {
        let options = scope.options().join(" ");
        tell(&format!(
            "start it with `systemctl {options} start flowctl`"
        ));
    }
    Ok(Exit::Done)
}

pub(super) fn undo(cx: &mut Stateless<'_>, args: Uninstall) -> Result<Exit, Failure> {
    let scope = scope(args.user);
    may_write(scope)?;
    let path = path(scope)?;
    if ours(&path)?.is_none() {
        tell(&format!("nothing to do: there is no {}", shown(&path)));
        return Ok(Exit::Done);
    }
    systemctl(scope, &["disable", "--now", NAME])?;
    std::fs::remove_file(&path).map_err(|source| Failure::File {
        operation: "remove",
        path: path.clone(),
        source,
    })?;
    systemctl(scope, &["daemon-reload"])?;
    cx.out.put(&format!("{} removed\n", shown(&path)))?;
    tell("what components run goes on, and the state is kept; the next daemon takes both over");
    Ok(Exit::Done)
}

fn scope(user: bool) -> Scope {
    if user { Scope::User } else { Scope::Host }
}

fn refused(message: String, hint: String) -> Failure {
    Failure::Told(ApiError::new(ErrorCode::Refused, message).with_hint(hint))
}

/// Where the service keeps its state: as told, else where it belongs.
fn state_dir(scope: Scope, given: Option<&Path>) -> Result<PathBuf, Failure> {
    match (scope, given) {
        (Scope::Host, None) => Ok(STATE.into()),
        (Scope::Host | Scope::User, Some(given)) => place::absolute(given),
        // Neither that of the folder in which somebody happens to be, nor the host's.
        (Scope::User, None) => Clues {
            here: None,
            host: None,
            ..Clues::of_this_process(None)
        }
        .state_dir(),
    }
}

/// This program, by the name that it was called by: where that is a link, as package managers with a
/// folder for each version make, it leads to the next version too.
fn program(scope: Scope) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::Output)?;
    let is_own = |name: &PathBuf| name.canonicalize().is_ok_and(|path| path == own);
    let called = std::env::args_os().next().map(PathBuf::from);
    let names: Vec<PathBuf> = match called {
        Some(name) if name.components().count() > 1 => place::absolute(&name).into_iter().collect(),
        Some(name) => {
            let places = std::env::var_os("PATH").unwrap_or_default();
            let places: Vec<PathBuf> = std::env::split_paths(&places).collect();
            places.iter().map(|place| place.join(&name)).collect()
        }
        None => Vec::new(),
    };
    let named = names
        .into_iter()
        .find(|name| name.is_absolute() && is_own(name));
    let program = named.unwrap_or(own);
    let stranger = match scope {
        // What root starts at each boot, nobody else may exchange.
        Scope::Host => Trusted::of([0]).stranger(&program, End::Itself),
        // Whoever may exchange what a user runs, may so without a service.
        Scope::User => None,
    };
    match stranger {
        None => Ok(program),
        Some(stranger) => Err(refused(
            format!(
                "{} cannot be a service: {stranger}, who could have it run another program",
                shown(&program)
            ),
            "`sudo install flowctl /usr/local/bin/` puts it where only root may change it"
                .to_owned(),
        )),
    }
}

/// Whether this user may manage services of that scope.
fn may_write(scope: Scope) -> Result<(), Failure> {
    match scope {
        Scope::Host if !rustix::process::geteuid().is_root() => Err(refused(
            "only root may change the services of the host".to_owned(),
            "`sudo flowctl install`, or `flowctl install --user` for a service of your own"
                .to_owned(),
        )),
        Scope::Host | Scope::User => Ok(()),
    }
}

/// Where the unit lies.
fn path(scope: Scope) -> Result<PathBuf, Failure> {
    let folder = match scope {
        Scope::Host => PathBuf::from(HOST_UNITS),
        Scope::User => {
            let absolute = |name| {
                let value = std::env::var_os(name).map(PathBuf::from);
                value.filter(|path| path.is_absolute())
            };
            absolute("XDG_CONFIG_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".config")))
                .ok_or_else(|| {
                    let why = "where are your units? neither $XDG_CONFIG_HOME nor $HOME tells";
                    Failure::Usage(why.to_owned())
                })?
                .join("systemd/user")
        }
    };
    Ok(folder.join(NAME))
}

/// The unit that is there; one that somebody else wrote is left alone.
fn ours(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(Some(text)),
        Ok(_) => Err(refused(
            format!("{} was not written by `flowctl install`", shown(path)),
            "move it away; what it changes belongs into `systemctl edit flowctl`".to_owned(),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::File {
            operation: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes the unit in one step: systemd may read it at any time.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = path.with_extension("service.new");
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&beside, text))
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|source| Failure::File {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}

/// Has `systemctl` do something.
fn systemctl(scope: Scope, words: &[&str]) -> Result<(), Failure> {
    let command = || {
        let words: Vec<&str> = [scope.options(), words].concat();
        format!("`systemctl {}`", words.join(" "))
    };
    let mut systemctl = Command::new("systemctl");
    systemctl.args(scope.options()).args(words);
    let ran = systemctl.stdin(Stdio::null()).output();
    let why = match ran {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            match said.trim() {
                "" => format!("{} failed: {}", command(), output.status),
                said => format!("{} failed: {said}", command()),
            }
        }
        Err(error) => format!("{} cannot be run: {error}", command()),
    };
    let hint = match words.first() {
        Some(&"restart") => "`journalctl -u flowctl -e` has its last words",
        _ => "`flowctl install --print` prints the unit, for a host that is managed otherwise",
    };
    Err(refused(why, hint.to_owned()))
}

/// Has a daemon that no service manager knows of end, so that the service finds its state directory
/// free. Components run on.
async fn make_way(state: &Path) -> Result<(), Failure> {
    let process = match Client::new(state).process().await {
        Ok(process) => process,
        Err(ClientError::NoDaemon { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    tell("the daemon in the background makes way for the service");
    process.ask_to_end().map_err(Failure::Output)?;
    if process.ended(MAKES_WAY).await {
        return Ok(());
    }
    Err(refused(
        format!("the daemon that runs on {} does not end", shown(state)),
        "end it, then `systemctl start flowctl`".to_owned(),
    ))
}

/// Services of users end with their last session, unless they linger.
fn hint_at_lingering() {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let Ok(user) = user else { return };
    if !Path::new(LINGERING).join(&user).exists() {
        tell(&format!(
            "it ends with your last session; `loginctl enable-linger {user}` keeps it"
        ));
    }
}
