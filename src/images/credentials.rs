//! What the user's Docker configuration says about a registry: credentials, or a helper that
//! keeps them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::model::codec;
use crate::model::image::DOCKER_HUB;

/// A helper may ask a keyring, not a person.
const HELPER_PATIENCE: Duration = Duration::from_secs(20);
/// How Docker Hub is called in the configuration.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: HashMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

/// What the user has for a registry. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// How the configuration calls the registry.
    pub server: String,
    /// What is shown there.
    pub secret: Secret,
}

/// What is shown to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that others are given for.
    Identity(String),
}

/// The folder of the user's Docker configuration.
pub fn config_dir(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    match variable("DOCKER_CONFIG") {
        Some(dir) => Some(dir.into()),
        None => Some(Path::new(&variable("HOME")?).join(".docker")),
    }
}

/// The user's credentials for `registry`; `None` = it is asked without any. What is wrong with the
/// configuration is logged: a public image needs none.
pub async fn credentials(registry: &str) -> Option<Credentials> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let path = config_dir(&variable)?.join("config.json");
    let config = read(path)?;
    let key = if registry == DOCKER_HUB {
        HUB_KEY
    } else {
        registry
    };
    let helper = config.helpers.get(registry).or(config.store.as_ref());
    if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
        match ask(helper, key).await {
            Ok(Some(kept)) => return Some(from_helper(kept, key)),
            Ok(None) => {}
            Err(why) => tracing::warn!(registry, helper, why, "the credential helper failed"),
        }
    }
    from_entry(find(&config.auths, key)?, key)
}

fn read(path: PathBuf) -> Option<Config> {
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read Docker's configuration");
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read Docker's configuration");
            None
        }
    }
}

/// The entry of a registry, which people write with and without scheme and path.
fn find<'a>(auths: &'a HashMap<String, Entry>, key: &str) -> Option<&'a Entry> {
    let bare = |text: &str| {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        text.split('/').next().unwrap_or_default().to_owned()
    };
    auths.get(key).or_else(|| {
        let wanted = bare(key);
        let known = auths.iter().find(|(name, _)| bare(name) == wanted);
        known.map(|(_, entry)| entry)
    })
}

fn from_entry(entry: &Entry, key: &str) -> Option<Credentials> {
    let server = key.to_owned();
    let token = entry.identitytoken.clone();
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        let secret = Secret::Identity(token);
        return Some(Credentials { server, secret });
    }
    let decoded = codec::from_base64(entry.auth.as_deref()?)?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    let secret = Secret::Password {
        user: user.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    };
    Some(Credentials { server, secret })
}

fn from_helper(kept: Kept, key: &str) -> Credentials {
    let secret = if kept.username == TOKEN_USER {
        Secret::Identity(kept.secret)
    } else {
        Secret::Password {
            user: kept.username,
            password: kept.secret,
        }
    };
    Credentials {
        server: key.to_owned(),
        secret,
    }
}

/// Asks a helper; `None` when it keeps nothing for this registry.
async fn ask(helper: &str, key: &str) -> Result<Option<Kept>, String> {
    // It is looked up in PATH, and nowhere else.
    if helper.contains('/') {
        return Err("its name is a path".to_owned());
    }
    let program = format!("docker-credential-{helper}");
    let conversation = async {
        let mut child = Command::new(&program)
            .arg("get")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(key.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let answered = tokio::time::timeout(HELPER_PATIENCE, conversation).await;
    let output = answered
        .map_err(|_| format!("{program} did not answer"))?
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("{program}: {}", said.trim()));
    }
    serde_json::from_slice(&output.stdout)
        .map(Some)
        .map_err(|error| format!("{program}: {error}"))
}

/// Reads `bytes` as a configuration, and as what a helper answers.
#[cfg(any(test, feature = "fuzzing"))]
pub fn read_any(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
        for key in [HUB_KEY, "registry.example:5000"] {
            find(&config.auths, key).and_then(|entry| from_entry(entry, key));
        }
        for (key, entry) in &config.auths {
            assert!(find(&config.auths, key).is_some());
            from_entry(entry, key);
        }
    }
    if let Ok(kept) = serde_json::from_slice::<Kept>(bytes) {
        from_helper(kept, HUB_KEY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_helper_is_a_program_of_the_search_path_and_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let told = ask(&format!("/../..{}/x", folder.path().display()), "r.io").await;
        assert_eq!(told.err(), Some("its name is a path".to_owned()));
    }

    #[test]
    fn an_entry_is_found_however_its_registry_is_written() {
        let config: Config = serde_json::from_str(
            r#"{"auths":{"https://r.io/v2/":{"auth":"dXNlcjpwYTpzcw=="}},"other":1}"#,
        )
        .unwrap();
        let found = from_entry(find(&config.auths, "r.io").unwrap(), "r.io").unwrap();
        let (user, password) = ("user".to_owned(), "pa:ss".to_owned());
        assert!(found.secret == Secret::Password { user, password });
        assert!(find(&config.auths, "s.io").is_none());
    }
}
