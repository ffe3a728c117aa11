//! A message handed to a program: clean environment, a group of its own, a deadline.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::message::Message;

/// How long a program may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// So much of its output is kept; the rest is read, so that it never blocks on it.
const OUTPUT: usize = 4 << 10;
/// How long output is waited for once the program has ended: what it left behind may hold it open.
const LAST_OUTPUT: Duration = Duration::from_millis(200);
/// The longest variable, in characters. The kernel takes four times as much, in bytes.
const LONGEST: usize = 8 << 10;
/// What a program finds of the daemon's environment.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];

/// Runs `command` with `message` on its standard input, and is content when it exits with 0.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn run(command: &[String], message: &Message, host: &str) -> Result<(), String> {
    let Some((program, args)) = command.split_first() else {
        return Err("it names no program".to_owned());
    };
    let mut input =
        serde_json::to_vec(&message.event(host)).expect("an event has string keys only");
    input.push(b'\n');
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .envs(variables(message))
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let group = Group(
        child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw),
    );
    // All of it ends with this set, however this one ends.
    let mut streams = JoinSet::new();
    if let Some(mut stdin) = child.stdin.take() {
        streams.spawn(async move {
            // A program that does not read it is content without.
            stdin.write_all(&input).await.ok();
            String::new()
        });
    }
    streams.spawn(beginning(child.stdout.take()));
    streams.spawn(beginning(child.stderr.take()));
    let Ok(ended) = tokio::time::timeout(DEADLINE, child.wait()).await else {
        group.kill();
        return Err(format!(
            "it did not end within {}s and was killed",
            DEADLINE.as_secs()
        ));
    };
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let last = last_line(streams).await;
            let separator = if last.is_empty() { "" } else { ": " };
            Err(format!("it ended with {status}{separator}{last}"))
        }
        Err(error) => Err(format!("its end is not known: {error}")),
    }
}

/// The last line of what was written, if it comes soon.
async fn last_line(mut streams: JoinSet<String>) -> String {
    let mut last = String::new();
    let gathering = async {
        while let Some(Ok(text)) = streams.join_next().await {
            if let Some(line) = text.lines().next_back() {
                line.trim().clone_into(&mut last);
            }
        }
    };
    if tokio::time::timeout(LAST_OUTPUT, gathering).await.is_err() {
        tracing::debug!("a notification program left its output open");
    }
    last
}

/// The process group of a program.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(group) = self.0
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "a notification program was gone before it was killed");
        }
    }
}

fn variables(message: &Message) -> Vec<(&'static str, String)> {
    let first = message.conditions.first().map(|told| &told.condition);
    let text = |value: Option<String>| value.unwrap_or_default();
    let all = vec![
        ("FLOWCTL_EVENT_STATUS", message.status.to_string()),
        (
            "FLOWCTL_EVENT_KIND",
            text(first.map(|one| one.kind.to_string())),
        ),
        (
            "FLOWCTL_EVENT_PIPELINE",
            text(
                first
                    .and_then(|one| one.pipeline_key())
                    .map(|key| key.to_string()),
            ),
        ),
        (
            "FLOWCTL_EVENT_COMPONENT",
            text(
                first
                    .and_then(|one| one.component.as_ref())
                    .map(ToString::to_string),
            ),
        ),
        ("FLOWCTL_EVENT_WHY", text(first.map(|one| one.why.clone()))),
        ("FLOWCTL_EVENT_SUMMARY", message.summary()),
    ];
    all.into_iter()
        .map(|(name, value)| (name, storable(&value)))
        .collect()
}

/// A text as a variable can hold it: what a component says of itself keeps no program from being run.
fn storable(text: &str) -> String {
    let short = text.chars().take(LONGEST);
    short
        .map(|c| {
            if c == '\0' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// The beginning of what is written; the rest is read and thrown away.
async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 4096];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::whole;
    use crate::model::{ConditionKind, MessageStatus, Timestamp};
    use crate::notify::message::Told;

    fn message() -> Message {
        Message {
            id: 1,
            target: "ops".parse().unwrap(),
            status: MessageStatus::Test,
            at: Timestamp::from_millis(0),
            conditions: Vec::new(),
        }
    }

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_program_reads_the_event_and_finds_a_clean_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let script = format!("cat >{0}; env >>{0}", path.display());
        run(&shell(&script), &message(), "h").await.unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text.starts_with(r#"{"specversion":"1.0","id":"h/1""#),
            "{text}"
        );
        assert!(text.contains("FLOWCTL_EVENT_STATUS=test"));
        assert!(!text.contains("CARGO"), "{text}");
    }

    #[tokio::test]
    async fn nothing_that_a_component_says_keeps_the_program_from_being_run() {
        let mut hostile = message();
        let said = format!("\0{}", "ü".repeat(1 << 20));
        let stalled = whole(ConditionKind::Stalled, Timestamp::from_millis(0), said);
        hostile.conditions.push(Told::new(&stalled));
        run(&shell("cat >/dev/null"), &hostile, "h").await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_fails_tells_why() {
        let failed = run(&shell("echo no route >&2; exit 3"), &message(), "h").await;
        assert_eq!(
            failed.unwrap_err(),
            "it ended with exit status: 3: no route"
        );
        let missing = run(&["/no/such".to_owned()], &message(), "h").await;
        assert!(missing.unwrap_err().starts_with("/no/such cannot be run"));
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_holds_nobody_up() {
        run(&shell("sleep 60 & exit 0"), &message(), "h")
            .await
            .unwrap();
    }
}
