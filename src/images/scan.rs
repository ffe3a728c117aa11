//! A program of the user's that judges an image, held to a strict contract.
//!
//! It is told what to look at by its environment, and says by its exit status: 0 = it may run, 1 = it
//! may not, and the first line of its output says why; anything else = it could not look. It has a
//! time, its output is bounded, and when its time is over it ends with all that it has started.

use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::refusal::{Reason, Refused};
use crate::model::image::{Digest, Repository, ScanNeed};

/// So much of its output is read, in bytes.
const OUTPUT_LIMIT: usize = 64 << 10;
/// So much of it is shown, in characters.
const SHOWN: usize = 200;
/// What it has of our environment. Nothing secret is among it.
const VARIABLES: [&str; 8] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Asks the program about an image, which the file calls `written`.
///
/// # Errors
/// What it objects to, or why it could not look.
pub(super) async fn ask(
    need: &ScanNeed,
    written: &str,
    repository: &Repository,
    digest: &Digest,
) -> Result<String, Refused> {
    let program = need.command.first().map_or("", String::as_str);
    let silent = |why: String| {
        let message =
            format!("image {written} could not be judged: `{program}` {why}. Nothing was started");
        Refused::new(Reason::ScanFailed, message)
    };
    let mut command = Command::new(program);
    command
        .args(&need.command[1..])
        .env_clear()
        .envs(
            VARIABLES
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("FLOWCTL_IMAGE", format!("{repository}@{digest}"))
        .env("FLOWCTL_IMAGE_WRITTEN", written)
        .env(
            "FLOWCTL_PLATFORM",
            format!("linux/{}", super::architecture()),
        )
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| silent(format!("cannot be run: {error}")))?;
    let group = Group(child.id());
    let stdout = child.stdout.take();
    let answering = async {
        let output = match stdout {
            Some(stdout) => bounded(stdout).await,
            None => Vec::new(),
        };
        (output, child.wait().await)
    };
    let answered = tokio::time::timeout(need.timeout.get(), answering).await;
    drop(group);
    let (output, ended) =
        answered.map_err(|_| silent(format!("did not answer within {}", need.timeout)))?;
    let status = ended.map_err(|error| silent(format!("could not be waited for: {error}")))?;
    let said = first_line(&output);
    match status.code() {
        Some(0) => Ok(format!("passed `{program}`")),
        Some(1) => Err(Refused::new(
            Reason::Vulnerable,
            format!(
                "image {written} ({}) is refused by `{program}`: {said}",
                digest.short()
            ),
        )),
        Some(code) => Err(silent(format!("ended with {code}: {said}"))),
        None => Err(silent("was ended by a signal".to_owned())),
    }
}

/// The program with all that it has started. It ends when this does.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|pid| i32::try_from(pid).ok());
        let Some(leader) = leader.and_then(rustix::process::Pid::from_raw) else {
            return;
        };
        let killed = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        if let Err(error) = killed {
            // As a rule nobody is left.
            tracing::trace!(%error, "nothing of a scan is left");
        }
    }
}

/// The beginning of what is written; the rest is read and dropped, so that nobody is held up.
async fn bounded(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 8 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
    }
    kept
}

fn first_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or("it says nothing");
    line.chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HumanDuration;

    async fn scan(script: &str, timeout: &str) -> Result<String, Refused> {
        let timeout: HumanDuration = timeout.parse().unwrap();
        let command = ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec();
        let need = ScanNeed { command, timeout };
        let digest = Digest::new([1; 32]);
        ask(&need, "r.io/a:1", &"r.io/a".parse().unwrap(), &digest).await
    }

    #[tokio::test]
    async fn a_scanner_says_yes_or_no_and_all_else_is_no_answer() {
        let told = "test \"$FLOWCTL_IMAGE\" = r.io/a@sha256:0101010101010101010101010101010101010101010101010101010101010101 && test \"$FLOWCTL_IMAGE_WRITTEN\" = r.io/a:1 && test -n \"$FLOWCTL_PLATFORM\" && test -z \"$CARGO_PKG_NAME\"";
        scan(told, "30s").await.unwrap();
        let no = scan("echo; echo CVE-1 is critical; exit 1", "30s")
            .await
            .unwrap_err();
        assert_eq!(no.reason, Reason::Vulnerable);
        assert!(no.message.contains("CVE-1 is critical"), "{no}");
        for (script, timeout, wanted) in [
            ("exit 2", "30s", "ended with 2"),
            ("exit 137", "30s", "ended with 137"),
            ("kill -9 $$", "30s", "by a signal"),
            ("sleep 1000 & sleep 1000", "100ms", "did not answer within"),
            // What it has started holds its output open.
            ("sleep 1000 & exit 0", "100ms", "did not answer within"),
            ("head -c 100000000 /dev/zero; exit 3", "30s", "ended with 3"),
        ] {
            let silent = scan(script, timeout).await.unwrap_err();
            assert_eq!(silent.reason, Reason::ScanFailed, "{script}");
            assert!(silent.message.contains(wanted), "{wanted}: {silent}");
        }
        let command = vec!["/nonexistent".to_owned()];
        let timeout = HumanDuration::from_secs(30);
        let need = ScanNeed { command, timeout };
        let repository = "r.io/a".parse().unwrap();
        let missing = ask(&need, "a", &repository, &Digest::new([1; 32]))
            .await
            .unwrap_err();
        assert!(missing.message.contains("cannot be run"), "{missing}");
    }
}
