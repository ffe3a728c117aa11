//! `flowctl version`.

use serde_json::json;

use super::Context;
use super::args::{TextOrJson, Version};
use super::exit::{Exit, Failure};
use super::out::tell;
use crate::api::ClientError;

/// The version of this program.
const OWN: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn run(cx: &mut Context<'_>, args: Version) -> Result<Exit, Failure> {
    let daemon = match cx.client.version().await {
        Ok(daemon) => Some(daemon),
        Err(ClientError::NoDaemon { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    match args.output {
        TextOrJson::Json => {
            let answer = json!({ "client": OWN, "daemon": daemon });
            cx.out.line(answer.to_string().as_bytes())?;
        }
        TextOrJson::Text => {
            let state = cx.state_dir.display().to_string();
            let line = match &daemon {
                Some(daemon) => format!(
                    "{} (pid {}, interface {}, state in {state})",
                    daemon.version, daemon.pid, daemon.api
                ),
                None => format!("none (state in {state})"),
            };
            cx.out.put(&format!("client  {OWN}\ndaemon  {line}\n"))?;
        }
    }
    if let Some(warning) = daemon.and_then(|daemon| skew(&daemon.version)) {
        tell(&warning);
    }
    Ok(Exit::Done)
}

/// What is to be told where the daemon is of another version.
pub(super) fn skew(daemon: &str) -> Option<String> {
    (daemon != OWN).then(|| {
        format!(
            "warning: the daemon is flowctl {daemon}, this is {OWN}; end it with SIGTERM or \
             restart its service to have the newer one: components run on"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_daemon_of_another_version_is_told_of() {
        assert_eq!(skew(OWN), None);
        let warning = skew("0.0.1").unwrap();
        assert!(warning.contains("flowctl 0.0.1") && warning.contains("components run on"));
    }
}
