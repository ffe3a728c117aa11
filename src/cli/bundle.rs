//! `flowctl bundle`: what somebody else needs who is asked for help, in one archive, without secrets.
//!
//! **Guarantees.** What is masked is masked before it is in any buffer that is written: values of
//! variables, of headers and of addresses to which notifications go, and arguments that look like
//! passwords. Nothing that components wrote is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use super::args::Bundle;
use super::exit::{Exit, Failure};
use super::out::tell;
use super::text::size;
use super::{Context, doctor, reader};
use crate::api::EventQuery;
use crate::model::Timestamp;
use crate::telemetry::LOG;

/// So much of the end of the daemon's log.
const LOG_BYTES: u64 = 2 << 20;
/// So many of the last events.
const EVENTS: usize = 5_000;
/// What stands for what is not told.
const MASK: &str = "***";

/// One file of the archive.
struct Entry {
    name: String,
    bytes: Vec<u8>,
    /// What it is, for the listing.
    about: &'static str,
}

pub(super) async fn run(cx: &mut Context<'_>, args: Bundle) -> Result<Exit, Failure> {
    let to_stdout = args.output == Path::new("-");
    if !to_stdout && !args.force && args.output.exists() {
        return Err(Failure::Exists { path: args.output });
    }
    let entries = gather(cx).await?;
    for entry in &entries {
        let line = format!(
            "{:<28} {:>9}  {}",
            entry.name,
            size(entry.bytes.len() as u64),
            entry.about
        );
        tell(&line);
    }
    let archive = archive(&entries, cx.clock.now());
    if to_stdout {
        cx.out.put_bytes(&archive)?;
        return Ok(Exit::Done);
    }
    write(&args.output, &archive).map_err(|source| Failure::File {
        operation: "write",
        path: args.output.clone(),
        source,
    })?;
    cx.out.put(&format!("{}\n", args.output.display()))?;
    tell("values of variables are masked; read it before you send it");
    Ok(Exit::Done)
}

fn write(path: &Path, archive: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(archive)?;
    file.sync_all()
}

async fn gather(cx: &mut Context<'_>) -> Result<Vec<Entry>, Failure> {
    let findings = doctor::examine(cx).await;
    let status = reader::status_text(cx).await?;
    let snapshot = reader::status(cx).await?;
    let mut entries = vec![
        Entry {
            name: "version.txt".to_owned(),
            bytes: format!(
                "flowctl {}\nLinux {}\n",
                env!("CARGO_PKG_VERSION"),
                fs::read_to_string("/proc/sys/kernel/osrelease")
                    .unwrap_or_default()
                    .trim()
            )
            .into_bytes(),
            about: "of this program and of the kernel",
        },
        Entry {
            name: "doctor.json".to_owned(),
            bytes: serde_json::to_vec_pretty(&findings).expect("a finding has string keys only"),
            about: "what `flowctl doctor` finds",
        },
        Entry {
            name: "status.json".to_owned(),
            bytes: status,
            about: "what runs, since when, and why",
        },
    ];
    let query = EventQuery {
        tail: Some(EVENTS),
        ..EventQuery::default()
    };
    let mut events = Vec::new();
    for event in cx.client.kept_events(query).await? {
        events.extend(serde_json::to_vec(&event).expect("an event has string keys only"));
        events.push(b'\n');
    }
    entries.push(Entry {
        name: "events.jsonl".to_owned(),
        bytes: events,
        about: "what happened last",
    });
    for pipeline in &snapshot.pipelines {
        let key = pipeline.key();
        let definition = cx.client.definition(&key).await?;
        let mut value = serde_json::to_value(&definition).expect("it has string keys only");
        mask(&mut value);
        entries.push(Entry {
            name: format!("definitions/{}.{}.json", key.namespace, key.name),
            bytes: serde_json::to_vec_pretty(&value).expect("it was a value"),
            about: "what is wanted, values masked",
        });
    }
    if let Ok(log) = end_of(&cx.state_dir.join(LOG)) {
        entries.push(Entry {
            name: LOG.to_owned(),
            bytes: log,
            about: "the end of the daemon's log",
        });
    }
    Ok(entries)
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Under which names whatever is below is nobody's business.
const SECRET_PARTS: [&str; 4] = ["env", "headers", "notify", "annotations"];
/// Parts of the names of arguments whose values are.
const SECRET_WORDS: [&str; 10] = [
    "pass",
    "pwd",
    "secret",
    "token",
    "key",
    "credential",
    "auth",
    "bearer",
    "salt",
    "dsn",
];

/// Takes out of a definition what is nobody's business.
fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if SECRET_PARTS.contains(&name.as_str()) {
                    mask_all(member);
                } else {
                    mask(member);
                }
            }
        }
        Value::Array(members) => mask_list(members),
        Value::String(text) => *text = masked_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Arguments: what follows `--password` is masked as what `--password=` has is.
fn mask_list(members: &mut [Value]) {
    let mut is_secret = false;
    for member in members {
        match member {
            Value::String(text) if is_secret && !text.starts_with('-') => *text = MASK.to_owned(),
            Value::String(text) => {
                let named = text.trim_start_matches('-');
                let is_option = text.starts_with('-') && !text.contains('=');
                let asks = is_option && sounds_secret(named);
                *text = masked_text(text);
                is_secret = asks;
                continue;
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                mask(member);
            }
        }
        is_secret = false;
    }
}

/// Everything below: the names stay.
fn mask_all(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(mask_all),
        Value::Array(members) => members.iter_mut().for_each(mask_all),
        Value::String(text) => *text = MASK.to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A text without the value of `--password=VALUE` and without the user in `scheme://USER@HOST`.
fn masked_text(text: &str) -> String {
    if let Some((name, _)) = text.split_once('=')
        && sounds_secret(name)
    {
        return format!("{name}={MASK}");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// The entries as a tar archive (ustar), which every host can read.
fn archive(entries: &[Entry], now: Timestamp) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut archive = Vec::new();
    for entry in entries {
        archive.extend_from_slice(&header(&entry.name, entry.bytes.len(), now));
        archive.extend_from_slice(&entry.bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks end it.
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn header(name: &str, length: usize, now: Timestamp) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    let kept = name.len().min(NAME);
    put(0, &name[..kept]);
    put(100, "0000600");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{length:011o}"));
    put(136, &format!("{:011o}", now.as_millis().max(0) / 1_000));
    // The sum is made as if it were blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    header[148..156].copy_from_slice(text.as_bytes());
    header
}

/// The longest name that fits.
const NAME: usize = 99;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_nobody_s_business_is_masked_and_the_rest_stays() {
        let mut definition = json!({
            "id": "sink",
            "env": {"DATABASE_URL": "postgres://u:p@h/db", "N": "1"},
            "args": ["--password", "hunter2", "--token=abc", "--verbose", "http://u:p@h/x", "plain"],
            "notify": [{"name": "ops", "url": "https://hooks/T0"}],
            "working_dir": "/srv",
        });
        mask(&mut definition);
        assert_eq!(
            definition,
            json!({
                "id": "sink",
                "env": {"DATABASE_URL": "***", "N": "***"},
                "args": ["--password", "***", "--token=***", "--verbose", "http://***@h/x", "plain"],
                "notify": [{"name": "***", "url": "***"}],
                "working_dir": "/srv",
            })
        );
    }

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let entry = |name: &str, text: &str| Entry {
            name: name.to_owned(),
            bytes: text.as_bytes().to_vec(),
            about: "",
        };
        let entries = [entry("a.txt", "one\n"), entry("d/b.txt", &"x".repeat(600))];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        fs::write(&path, archive(&entries, Timestamp::from_millis(1_000_000))).unwrap();
        let run = |options: &[&str]| {
            let mut tar = std::process::Command::new("tar");
            let output = tar
                .args(options)
                .current_dir(folder.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run(&["-tf", "x.tar"]), "a.txt\nd/b.txt\n");
        run(&["-xf", "x.tar"]);
        assert_eq!(
            fs::read_to_string(folder.path().join("a.txt")).unwrap(),
            "one\n"
        );
    }
}
