//! What an exchange with Nomad came to when it came to nothing.

use crate::driver::DriverError;
use crate::model::{DriverKind, StartFailure};

/// Why a call has no answer of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Nothing that can be understood came back: of a write it is open whether it was carried out.
    #[error("{0}")]
    Silent(String),
    /// The servers have no leader now, or cannot reach it. A write may have been carried out.
    #[error("Nomad has no leader now: {0}")]
    NoLeader(String),
    /// Whoever asks may not.
    #[error("Nomad refuses: {0}; give the daemon a token that may (see `flowctl help nomad`)")]
    Denied(String),
    /// There is no such thing.
    #[error("Nomad has no such thing: {0}")]
    Absent(String),
    /// It is there already, or was changed meanwhile.
    #[error("Nomad has another one: {0}")]
    Conflict(String),
    /// The node that has what is asked for is away, or has it no more.
    #[error("the node does not answer: {0}")]
    NodeAway(String),
    /// It was understood and not done.
    #[error("Nomad answers {status}: {message}")]
    Refused { status: u16, message: String },
    /// Something broke on the way. A write may have been carried out.
    #[error("Nomad answers {status}: {message}")]
    Broken { status: u16, message: String },
}

/// What Nomad says before a registration that comes too late.
const CONFLICT: &str = "Enforcing job modify index";

impl Failure {
    /// What an answer with `status` and `body` means.
    pub(super) fn of(status: u16, body: &str) -> Self {
        let message = shortened(body);
        let says = |what: &str| message.contains(what);
        if is_page(body) {
            return Self::Silent(format!(
                "what answers there (with {status}) is not Nomad's API; look at the address"
            ));
        }
        match status {
            _ if says(CONFLICT) || says("cas error") => Self::Conflict(message),
            403 => Self::Denied(message),
            404 if says("Unknown allocation")
                || says("No path to node")
                || says("alloc lookup") =>
            {
                Self::NodeAway(message)
            }
            404 if says("page not found") => Self::Silent(
                "what answers there is not Nomad's API: it does not know the path".to_owned(),
            ),
            404 if says("not found") || says("no such") || says("no variable") => {
                Self::Absent(message)
            }
            404 => Self::Silent(format!(
                "what answers there is not Nomad's API: it does not know the path ({message})"
            )),
            _ if says("Permission denied")
                || says("ACL token not found")
                || says("ACL token expired") =>
            {
                Self::Denied(message)
            }
            500 if says("No cluster leader")
                || says("No path to region")
                || says("Not ready to serve consistent reads")
                || says("lost leadership")
                || says("leadership lost")
                || says("raft is already shutdown")
                || says("EOF") =>
            {
                Self::NoLeader(message)
            }
            500 if says("No path to node")
                || says("Unknown allocation")
                || says("Unknown node") =>
            {
                Self::NodeAway(message)
            }
            500 if says("nonexistent namespace")
                || says("error occurred")
                || says("errors occurred")
                || says("registration, dispatch, and scale are disabled") =>
            {
                Self::Refused { status, message }
            }
            400 | 405 | 413 | 422 => Self::Refused { status, message },
            429 => Self::Silent("it has too many connections from this host (429)".to_owned()),
            502..=504 => Self::Silent(format!("a proxy answers {status}: {message}")),
            _ => Self::Broken { status, message },
        }
    }

    /// Nothing is known by it.
    pub(super) fn unreachable(&self, operation: &str) -> DriverError {
        DriverError::Unreachable {
            driver: DriverKind::Nomad,
            operation: operation.to_owned(),
            why: self.to_string(),
        }
    }

    /// The end of a start: certainly nothing was registered, or that is open.
    pub(super) fn of_start(&self, operation: &str) -> DriverError {
        match self {
            Self::Refused { message, .. } => refused(
                "JobRefused",
                format!("Nomad does not take the job: {message}"),
            ),
            Self::Silent(_)
            | Self::NoLeader(_)
            | Self::Denied(_)
            | Self::Absent(_)
            | Self::Conflict(_)
            | Self::NodeAway(_)
            | Self::Broken { .. } => self.unreachable(operation),
        }
    }
}

/// A start that came to nothing for certain.
pub(super) fn refused(reason: &str, message: String) -> DriverError {
    DriverError::Refused(StartFailure {
        reason: reason.to_owned(),
        message,
    })
}

fn is_page(body: &str) -> bool {
    let head = body.trim_start().get(..9).unwrap_or_default();
    head.eq_ignore_ascii_case("<!doctype") || body.trim_start().starts_with("<html")
}

/// The body without what forwarding puts before it, in one line.
fn shortened(body: &str) -> String {
    let mut text = body.trim();
    while let Some(rest) = text.strip_prefix("rpc error: ") {
        text = rest;
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_means_one_thing() {
        let kind = |status, body: &str| match Failure::of(status, body) {
            Failure::Silent(_) => "blind",
            Failure::NoLeader(_) => "no leader",
            Failure::Denied(_) => "denied",
            Failure::Absent(_) => "absent",
            Failure::Conflict(_) => "conflict",
            Failure::NodeAway(_) => "node away",
            Failure::Refused { .. } => "refused",
            Failure::Broken { .. } => "broken",
        };
        for (status, body, meant) in [
            (500, "No cluster leader", "no leader"),
            (500, "rpc error: rpc error: EOF", "no leader"),
            (
                500,
                "rpc error: rpc error: Enforcing job modify index 0: job exists",
                "conflict",
            ),
            (403, "Permission denied", "denied"),
            (500, "rpc error: Permission denied", "denied"),
            (404, "job not found", "absent"),
            (404, "<!DOCTYPE html><html>", "blind"),
            (404, "nothing here", "blind"),
            (404, "Unknown allocation \"a\"", "node away"),
            (500, "No path to node", "node away"),
            (400, "Failed to read filter expression", "refused"),
            (
                500,
                "1 error occurred:\n\t* Task group main validation failed",
                "refused",
            ),
            (429, "429", "blind"),
            (503, "no healthy upstream", "blind"),
            (500, "something new", "broken"),
        ] {
            assert_eq!(kind(status, body), meant, "{status} {body}");
        }
    }

    #[test]
    fn a_path_that_is_not_known_is_no_absence_of_a_job() {
        // Go's own answer to a path that nobody serves, as of a proxy or of another program.
        let unknown = Failure::of(404, "404 page not found\n");
        assert!(matches!(unknown, Failure::Silent(_)), "{unknown:?}");
    }
}
