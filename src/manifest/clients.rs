//! Values of variables that are known to break the clients of the field.
//!
//! The user's own value of a variable wins over what the component would be told, so a value that
//! no client can use is worth a warning.

use std::collections::BTreeMap;

use super::fields::Text;
use super::problem::Findings;

/// Warns of what in `env` keeps a component from reaching the control plane.
pub(super) fn check(env: &BTreeMap<&str, Text<'_>>, findings: &mut Findings<'_>) {
    for (name, value) in env {
        if let Some((message, fix)) = trouble(name, value.text) {
            findings.warn(value.at, message, Some(format!("write `{fix}`")));
        }
    }
}

/// What `value` does to clients, and what to write instead.
fn trouble(name: &str, value: &str) -> Option<(String, String)> {
    match name {
        "FLOWCTL_ENDPOINT" => {
            let (_, rest) = value.split_once("://")?;
            let bare = rest.trim_end_matches('/').to_owned();
            let message = format!("no known client can connect to `{value}`: it wants host:port");
            Some((message, bare))
        }
        "FLOWCTL_HEARTBEAT_INTERVAL" => {
            let is_number =
                |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_number(value) {
                let message = format!("clients written in Go cannot read `{value}`");
                return Some((message, format!("{value}ms")));
            }
            let seconds = value.strip_suffix('s').filter(|text| is_number(text))?;
            let message = format!("the Node client reads `{value}` as {seconds} milliseconds");
            Some((message, format!("{seconds}000ms")))
        }
        "ENABLE_FLOWCTL" | "FLOWCTL_ENABLED" => {
            let is_odd = value != "true" && value.eq_ignore_ascii_case("true");
            is_odd.then(|| {
                let message = format!("some clients know only `true`, not `{value}`");
                (message, "true".to_owned())
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_break_a_client_are_told_with_what_to_write() {
        let fix = |name, value| trouble(name, value).map(|(_, fix)| fix);
        for (name, value, wanted) in [
            (
                "FLOWCTL_ENDPOINT",
                "http://localhost:8080/",
                "localhost:8080",
            ),
            ("FLOWCTL_HEARTBEAT_INTERVAL", "10s", "10000ms"),
            ("FLOWCTL_HEARTBEAT_INTERVAL", "10000", "10000ms"),
            ("ENABLE_FLOWCTL", "True", "true"),
        ] {
            assert_eq!(fix(name, value).as_deref(), Some(wanted), "{name}={value}");
        }
        for (name, value) in [
            ("FLOWCTL_ENDPOINT", "localhost:8080"),
            ("FLOWCTL_HEARTBEAT_INTERVAL", "10000ms"),
            ("FLOWCTL_HEARTBEAT_INTERVAL", "s"),
            ("ENABLE_FLOWCTL", "false"),
            ("OTHER", "http://localhost"),
        ] {
            assert_eq!(fix(name, value), None, "{name}={value}");
        }
    }
}
