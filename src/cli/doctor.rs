//! `flowctl doctor`: what of this host, its daemon and its state will make trouble, and what to do.
//!
//! **Expected flow.** [`examine`] asks the host and the daemon; each question is a function that
//! answers with one or more [`Finding`]s. What is decided about a figure is decided in pure functions
//! below.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::Context;
use super::args::{Doctor, TextOrJson};
use super::exit::{Exit, Failure};
use super::text::{Style, Tone, paint, size};
use super::unit::Scope;
use super::version;
use crate::api::ClientError;
use crate::daemon;
use crate::driver::process;
use crate::model::{Snapshot, StatusCondition};

/// How long an engine may take to say that it is there.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);
/// A disk that takes longer to keep a page slows every command.
const SLOW_FSYNC: Duration = Duration::from_millis(100);
/// Less room than this is soon used up by logs.
const LITTLE_ROOM: u64 = 500 << 20;
/// A user needs about one for each follower of logs and each watched folder.
const FEW_INSTANCES: u64 = 128;
/// Each component with its guardian needs a handful.
const FEW_FILES: u64 = 4_096;
/// The first kernel with descriptors of processes that can be waited for.
const OLDEST_KERNEL: (u32, u32) = (5, 4);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Something is to be done.
    Warning,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How bad it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub todo: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            grade: Grade::Ok,
            found: found.into(),
            todo: None,
        }
    }

    fn note(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            grade: Grade::Note,
            ..Self::ok(what, found)
        }
    }

    fn warning(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            grade: Grade::Warning,
            todo: Some(todo.into()),
            ..Self::ok(what, found)
        }
    }
}

pub(super) async fn run(cx: &mut Context<'_>, args: Doctor) -> Result<Exit, Failure> {
    let findings = examine(cx).await;
    match args.output {
        TextOrJson::Json => {
            let json = serde_json::to_vec(&findings).expect("a finding has string keys only");
            cx.out.line(&json)?;
        }
        TextOrJson::Text => {
            let style = cx.out.look().style;
            cx.out.put(&drawn(&findings, style))?;
        }
    }
    let is_ill = findings.iter().any(|one| one.grade == Grade::Warning);
    Ok(if args.strict && is_ill {
        Exit::Differs
    } else {
        Exit::Done
    })
}

/// All findings, in the order in which one would look.
pub(super) async fn examine(cx: &Context<'_>) -> Vec<Finding> {
    let snapshot = cx.client.status().await.ok();
    let mut findings = vec![kernel(&text_of("/proc/sys/kernel/osrelease"))];
    findings.push(limits_of_components());
    findings.push(open_files());
    findings.push(inotify());
    findings.extend(state(&cx.state_dir));
    findings.extend(daemon(cx).await);
    findings.extend(snapshot.iter().flat_map(of_snapshot));
    findings.push(engine(cx, snapshot.as_ref()).await);
    findings.extend(units());
    findings
}

fn drawn(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for one in findings {
        let (word, tone) = match one.grade {
            Grade::Ok => ("ok", Tone::Good),
            Grade::Note => ("note", Tone::Dim),
            Grade::Warning => ("warning", Tone::Bad),
        };
        let word = paint(&format!("{word:<7}"), tone, style);
        text.push_str(&format!("{word}  {}: {}\n", one.what, one.found));
        if let Some(todo) = &one.todo {
            text.push_str(&format!("         {todo}\n"));
        }
    }
    let count = findings
        .iter()
        .filter(|one| one.grade == Grade::Warning)
        .count();
    text.push_str(&match count {
        0 => "nothing is wrong here\n".to_owned(),
        1 => "1 warning\n".to_owned(),
        more => format!("{more} warnings\n"),
    });
    text
}

/// The text of a file of the kernel; empty where it has none.
fn text_of(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_KERNEL => {
            let (major, minor) = OLDEST_KERNEL;
            let found = format!("Linux {release}");
            Finding::warning(
                "kernel",
                found,
                format!("Linux {major}.{minor} is the oldest that does"),
            )
        }
        (Some(_) | None, Some(_) | None) => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn limits_of_components() -> Finding {
    let missing = process::unenforced();
    if missing.is_empty() {
        return Finding::ok(
            "limits",
            "memory, cpu and pids of processes can be limited from here",
        );
    }
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Finding::note(
        "limits",
        format!(
            "{} of processes cannot be limited from here: {}; a daemon that systemd runs may do it",
            names.join(", "),
            process::why_unenforced()
        ),
    )
}

fn open_files() -> Finding {
    let hard = getrlimit(Resource::Nofile).maximum;
    match hard {
        Some(most) if most < FEW_FILES => Finding::warning(
            "open files",
            format!("a process may have {most} at most"),
            "raise the hard limit: `LimitNOFILE=1024:524288` in the unit, or /etc/security/limits.conf",
        ),
        Some(most) => Finding::ok("open files", format!("a process may have {most} at most")),
        None => Finding::ok("open files", "as many as there is memory for"),
    }
}

fn inotify() -> Finding {
    let number = |name: &str| {
        text_of(&format!("/proc/sys/fs/inotify/{name}"))
            .parse::<u64>()
            .ok()
    };
    match (number("max_user_instances"), number("max_user_watches")) {
        (Some(instances), Some(_)) if instances < FEW_INSTANCES => Finding::warning(
            "inotify",
            format!(
                "a user may have {instances} instances; followers of logs look twice a second without"
            ),
            "sysctl fs.inotify.max_user_instances=512",
        ),
        (Some(instances), Some(watches)) => Finding::ok(
            "inotify",
            format!("{instances} instances and {watches} watches for each user"),
        ),
        (Some(_) | None, Some(_) | None) => Finding::note("inotify", "the kernel does not say"),
    }
}

/// The state directory, its disk, and what else of it can be found out without a daemon.
fn state(dir: &Path) -> Vec<Finding> {
    let what = "state";
    let named = dir.display();
    let about = match fs::symlink_metadata(dir) {
        Ok(about) => about,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Finding::note(
                what,
                format!("there is nothing in {named} yet"),
            )];
        }
        Err(error) => {
            let todo = "run this as the user of the daemon, or name another one by --state-dir";
            return vec![Finding::warning(what, format!("{named}: {error}"), todo)];
        }
    };
    let mut findings = Vec::new();
    let mode = about.permissions().mode() & 0o7777;
    let own = rustix::process::geteuid().as_raw();
    findings.push(if mode & 0o022 != 0 {
        Finding::warning(
            what,
            format!("others may write to {named} (mode {mode:o})"),
            format!("chmod go-w {named}"),
        )
    } else if about.uid() != own && own != 0 {
        Finding::warning(
            what,
            format!("{named} is that of user {}", about.uid()),
            "run this as that user or as root: half of it cannot be looked at",
        )
    } else {
        Finding::ok(what, format!("{named} (mode {mode:o})"))
    });
    findings.extend(disk(dir));
    findings
}

fn disk(dir: &Path) -> Vec<Finding> {
    let what = "disk";
    let Ok(about) = statvfs(dir) else {
        return vec![Finding::note(what, "the kernel does not say")];
    };
    if about.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let todo = "mount it to be written to; until then nothing new is begun";
        return vec![Finding::warning(what, "it is mounted read-only", todo)];
    }
    let mut findings = vec![room(
        about.f_bavail.saturating_mul(about.f_frsize),
        about.f_blocks.saturating_mul(about.f_frsize),
    )];
    if about.f_files > 0 && about.f_favail < 1_000 {
        findings.push(Finding::warning(
            what,
            format!("room for {} more files", about.f_favail),
            "remove files of the disk that nobody needs: every component has a few",
        ));
    }
    findings.push(match kept_after(dir) {
        Ok(taken) => speed(taken),
        Err(error) => Finding::warning(
            what,
            format!("nothing can be kept in {}: {error}", dir.display()),
            "`flowctl help state` tells what a daemon needs of it",
        ),
    });
    findings
}

fn room(free: u64, all: u64) -> Finding {
    let found = format!("{} of {} are free", size(free), size(all));
    if free < LITTLE_ROOM {
        let todo = "make room: without it nothing new is begun, and lines of logs are lost";
        Finding::warning("disk", found, todo)
    } else {
        Finding::ok("disk", found)
    }
}

fn speed(taken: Duration) -> Finding {
    let found = format!("it keeps a page within {} ms", taken.as_millis().max(1));
    if taken > SLOW_FSYNC {
        let todo = "use a faster one: each apply, stop and start waits for it";
        Finding::warning("disk", found, todo)
    } else {
        Finding::ok("disk", found)
    }
}

/// How long the disk takes to keep something.
fn kept_after(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let write = |mut file: File| -> std::io::Result<Duration> {
        file.write_all(&[b'x'; 4096])?;
        let begun = Instant::now();
        file.sync_all()?;
        Ok(begun.elapsed())
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let taken = write(file);
    fs::remove_file(&path)?;
    taken
}

async fn daemon(cx: &Context<'_>) -> Vec<Finding> {
    let what = "daemon";
    match cx.client.version().await {
        Ok(found) => {
            let line = format!("flowctl {}, pid {}", found.version, found.pid);
            let mut findings = vec![Finding::ok(what, line)];
            if version::skew(&found.version).is_some() {
                findings.push(Finding::warning(
                    what,
                    format!("it is flowctl {}, and this is another one", found.version),
                    "`flowctl daemon restart`: no component is restarted",
                ));
            }
            findings
        }
        Err(ClientError::NoDaemon { .. }) => vec![Finding::warning(
            what,
            "none runs: nothing is restarted or applied until one does",
            "`flowctl apply -f FILE` starts one; `flowctl install --now` has systemd do it",
        )],
        Err(error) => vec![Finding::warning(
            what,
            error.to_string(),
            "see daemon.log in the state directory",
        )],
    }
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(daemon) = &snapshot.daemon
        && !daemon.durable
    {
        let why = daemon.durable_why.clone().unwrap_or_default();
        findings.push(Finding::warning(
            "durable",
            format!("nothing can be recorded: {why}"),
            "mend the disk of the state directory; it heals by itself then",
        ));
    }
    for condition in snapshot.all_conditions() {
        findings.push(Finding::warning(
            "condition",
            condition_words(condition),
            "`flowctl status` shows where, `flowctl why COMPONENT` why",
        ));
    }
    if findings.is_empty() {
        let count = snapshot.pipelines.len();
        let pipelines = if count == 1 { "pipeline" } else { "pipelines" };
        findings.push(Finding::ok(
            "pipelines",
            format!("{count} {pipelines}, nothing wrong with them"),
        ));
    }
    findings
}

fn condition_words(condition: &StatusCondition) -> String {
    let place = condition
        .pipeline_key()
        .map(|key| match &condition.component {
            Some(component) => format!("{key}/{component}: "),
            None => format!("{key}: "),
        });
    format!("{}{}", place.unwrap_or_default(), condition.why)
}

async fn engine(cx: &Context<'_>, snapshot: Option<&Snapshot>) -> Finding {
    let what = "engine";
    let has_containers = snapshot.is_some_and(|snapshot| {
        let mut replicas = snapshot.replicas();
        replicas.any(|(_, component, _)| crate::driver::readers::is_container(component.driver))
    });
    let answer = match daemon::engine_of(&cx.state_dir, &cx.clock) {
        Ok(engine) => match tokio::time::timeout(ENGINE_PATIENCE, engine.greet()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!(
                "it did not answer within {} s",
                ENGINE_PATIENCE.as_secs()
            )),
        },
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(named) => Finding::ok(what, named),
        Err(why) if has_containers => Finding::warning(
            what,
            why,
            "start it: components in containers are left alone until it answers",
        ),
        Err(_) => Finding::note(
            what,
            "no container engine answers, and no component needs one",
        ),
    }
}

/// What the unit of each scope says that it should not, or does not say that it should.
fn units() -> Vec<Finding> {
    let mut findings = Vec::new();
    for scope in [Scope::Host, Scope::User] {
        let [first, second] = scope.of_packages();
        let written = Path::new("/etc/systemd/system/flowctl.service").to_owned();
        let places = match scope {
            Scope::Host => vec![written, first, second],
            Scope::User => vec![first, second],
        };
        let found = places
            .into_iter()
            .find_map(|path| Some((fs::read_to_string(&path).ok()?, path)));
        if let Some((text, path)) = found {
            findings.extend(of_unit(&text, &path));
        }
    }
    findings
}

fn of_unit(text: &str, path: &Path) -> Vec<Finding> {
    let what = "unit";
    let says = |setting: &str| text.lines().any(|line| line.trim() == setting);
    let has = |name: &str| text.lines().any(|line| line.trim().starts_with(name));
    let mut wrong = Vec::new();
    if !says("KillMode=process") {
        wrong.push("KillMode=process is missing: a restart of the daemon ends components");
    }
    if !says("OOMPolicy=continue") && !has("Delegate=") {
        wrong.push("OOMPolicy=continue is missing: a component without memory ends the daemon");
    }
    if !says("Type=notify") {
        wrong.push("Type=notify is missing: systemd does not know when it is ready");
    }
    if !has("StartLimitIntervalSec=0") {
        wrong.push("StartLimitIntervalSec=0 is missing: systemd gives up after some starts");
    }
    if has("LimitNOFILE=1048576") || has("LimitNOFILE=infinity") {
        wrong.push("LimitNOFILE has one number: programs that close all descriptors hang; write 1024:524288");
    }
    if wrong.is_empty() {
        return vec![Finding::ok(what, path.display().to_string())];
    }
    let todo = "`flowctl install --print` prints a unit that is right";
    wrong
        .into_iter()
        .map(|why| Finding::warning(what, format!("{}: {why}", path.display()), todo))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::unit;
    use super::*;

    fn grades(findings: &[Finding]) -> Vec<Grade> {
        findings.iter().map(|one| one.grade).collect()
    }

    #[test]
    fn a_kernel_that_is_too_old_is_told() {
        assert_eq!(kernel("6.1.0-28-amd64").grade, Grade::Ok);
        assert_eq!(kernel("4.19.0").grade, Grade::Warning);
        assert_eq!(kernel("").grade, Grade::Ok);
    }

    #[test]
    fn a_disk_that_is_slow_or_nearly_full_is_told() {
        assert_eq!(room(1 << 20, 1 << 30).grade, Grade::Warning);
        assert_eq!(room(1 << 32, 1 << 40).grade, Grade::Ok);
        assert_eq!(speed(Duration::from_millis(400)).grade, Grade::Warning);
        assert_eq!(speed(Duration::from_micros(40)).grade, Grade::Ok);
    }

    #[test]
    fn our_own_unit_is_right_and_one_of_a_blog_is_not() {
        let path = Path::new("/etc/systemd/system/flowctl.service");
        let ours = unit::text(
            Scope::Host,
            Path::new("/usr/bin/flowctl"),
            Path::new(unit::STATE),
        )
        .unwrap();
        assert_eq!(grades(&of_unit(&ours, path)), [Grade::Ok]);
        let blog = "[Service]\nExecStart=/usr/bin/flowctl daemon\nLimitNOFILE=1048576\n";
        let found = of_unit(blog, path);
        assert_eq!(grades(&found), [Grade::Warning; 5]);
        assert!(
            found[0].found.contains("KillMode=process"),
            "{}",
            found[0].found
        );
    }

    #[test]
    fn what_is_to_be_done_stands_below_what_was_found() {
        let text = drawn(&[kernel("6.1"), room(1, 2)], Style::Plain);
        assert!(
            text.starts_with("ok       kernel: Linux 6.1\nwarning  disk: "),
            "{text}"
        );
        assert!(text.contains("\n         make room"), "{text}");
        assert!(text.ends_with("1 warning\n"), "{text}");
    }
}
