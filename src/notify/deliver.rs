//! A message on its way to its target.

use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::exec;
use super::http::{Call, Failure, call};
use super::message::Message;
use super::sign::signature;
use crate::files::{self, Wanted};
use crate::model::{Address, Destination, NotifyTarget, TargetName, Timestamp, WebhookFormat};
use crate::ownership::Trusted;

/// The largest file of a secret.
const SECRET_LIMIT: u64 = 64 << 10;
/// How long such a file is waited for.
const FILE_PATIENCE: Duration = Duration::from_secs(5);
/// A longer message becomes an attachment, or is refused, in bytes.
const NTFY_TAKES: usize = 4_000;
/// How long an alert stands that nobody repeats.
const ALERT_LASTS: Duration = Duration::from_secs(300);

/// Hands `message` to where it goes.
///
/// # Errors
/// What went wrong, in words without secrets.
pub(super) async fn deliver(
    target: &NotifyTarget,
    message: &Message,
    host: &str,
    now: Timestamp,
) -> Result<(), Failure> {
    let named = NamedBy::of(&target.name);
    match &target.to {
        Destination::Exec { command } => Ok(exec::run(command, message, host).await?),
        Destination::Alertmanager { address } => {
            let base = url(address, named).await?;
            let url = format!("{}/api/v2/alerts", base.trim_end_matches('/'));
            let alerts = message.alerts(host, now.after(ALERT_LASTS));
            let headers = vec![content("application/json")];
            post(&url, headers, alerts.to_string().into_bytes()).await
        }
        Destination::Webhook {
            address,
            format,
            headers_file,
            secret_file,
        } => {
            let url = url(address, named).await?;
            let (mut headers, body) = match format {
                WebhookFormat::Json => (
                    vec![content("application/cloudevents+json")],
                    message.event(host).to_string(),
                ),
                WebhookFormat::Slack => (
                    vec![content("application/json")],
                    message.slack(host).to_string(),
                ),
                WebhookFormat::Ntfy => (
                    vec![
                        content("text/plain; charset=utf-8"),
                        ("Title".to_owned(), ascii(&message.title(host))),
                    ],
                    message.text_within(NTFY_TAKES, str::to_owned),
                ),
                WebhookFormat::Text => (
                    vec![content("text/plain; charset=utf-8")],
                    format!("{}\n{}\n", message.title(host), message.text()),
                ),
            };
            let body = body.into_bytes();
            if let Some(path) = secret_file {
                let secret = word(path, named).await?;
                let id = message.id_on(host);
                let seconds = now.as_millis() / 1_000;
                let signed = signature(&secret, &id, seconds, &body);
                headers.extend([
                    ("webhook-id".to_owned(), id),
                    ("webhook-timestamp".to_owned(), seconds.to_string()),
                    ("webhook-signature".to_owned(), signed),
                ]);
            }
            if let Some(path) = headers_file {
                headers.extend(header_lines(path, &secret(path, named).await?)?);
            }
            post(&url, headers, body).await
        }
    }
}

/// Tells a dead man's switch that all is well, or what is not.
///
/// # Errors
/// What went wrong, in words without secrets.
pub(super) async fn beat(address: &Address, trouble: Option<&str>) -> Result<(), Failure> {
    let url = url(address, NamedBy::Host).await?;
    match trouble {
        None => {
            let ping = Call {
                method: Method::GET,
                url: &url,
                headers: Vec::new(),
                body: Vec::new(),
            };
            call(ping).await
        }
        Some(verdict) => {
            let (path, query) = url.split_once('?').unwrap_or((&url, ""));
            let separator = if query.is_empty() { "" } else { "?" };
            let url = format!("{}/fail{separator}{query}", path.trim_end_matches('/'));
            let headers = vec![content("text/plain; charset=utf-8")];
            post(&url, headers, verdict.as_bytes().to_vec()).await
        }
    }
}

async fn post(url: &str, headers: Vec<(String, String)>, body: Vec<u8>) -> Result<(), Failure> {
    let post = Call {
        method: Method::POST,
        url,
        headers,
        body,
    };
    call(post).await
}

fn content(kind: &str) -> (String, String) {
    ("Content-Type".to_owned(), kind.to_owned())
}

/// What headers can hold everywhere.
fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

fn header_lines(path: &Path, text: &str) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            let (path, line) = (path.display(), index + 1);
            return Err(format!("{path}:{line} is no header; write `Name: value`"));
        };
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(headers)
}

async fn url(address: &Address, named: NamedBy) -> Result<String, String> {
    match address {
        Address::Url(url) => Ok(url.clone()),
        Address::UrlFile(path) => word(path, named).await,
    }
}

/// The first line of a file of a secret that says anything.
async fn word(path: &Path, named: NamedBy) -> Result<String, String> {
    let text = secret(path, named).await?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.ok_or_else(|| format!("{} is empty", path.display()))?;
    Ok(line.to_owned())
}

/// What a file of a secret holds. It is read each time: whoever replaces it need tell nobody.
async fn secret(path: &Path, named: NamedBy) -> Result<String, String> {
    let path = path.to_owned();
    let told = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read(&path, named)).await;
    match read {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(why)) => Err(format!("{told} {why}")),
        Err(error) => Err(format!("{told} could not be read: {error}")),
    }
}

/// What a file of a secret holds. Blocks, for a while at most.
///
/// # Errors
/// Why there is nothing, as in "FILE ..".
pub fn look(path: &Path) -> Result<String, String> {
    read(path, NamedBy::Host)
}

/// Who named a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamedBy {
    /// Whoever looks after the host.
    Host,
    /// A manifest, which is given nothing that flowctl keeps for itself.
    Manifest,
}

impl NamedBy {
    /// Who named the files of this target.
    fn of(target: &TargetName) -> Self {
        if target.is_of_a_pipeline() {
            Self::Manifest
        } else {
            Self::Host
        }
    }
}

fn read(path: &Path, named: NamedBy) -> Result<String, String> {
    match files::look(
        Wanted {
            path,
            limit: SECRET_LIMIT,
            judge: match named {
                NamedBy::Host => |path, file| Trusted::ours().check_meant(path, file),
                NamedBy::Manifest => |path, file| Trusted::ours().check_named(path, file),
            },
        },
        FILE_PATIENCE,
    ) {
        Ok(files::Looked::Whole(bytes)) => {
            String::from_utf8(bytes).map_err(|_| "is not text".to_owned())
        }
        Ok(files::Looked::Pipe) => Err("is a pipe, which is read only once".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_secret_signs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (text, is_one) in [("", false), (" \r\n\n", false), ("key\r\n", true)] {
            std::fs::write(&path, text).unwrap();
            let read = word(&path, NamedBy::Host).await;
            assert_eq!(read.ok(), is_one.then(|| "key".to_owned()), "{text:?}");
        }
    }
}
