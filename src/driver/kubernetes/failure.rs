//! Why an instance does not start, in words that say what to do.

use super::client::{Answer, Failure, unreachable};
use super::wire::Terminated;
use crate::driver::DriverError;
use crate::model::StartFailure;

/// What is done when a Job is made, for errors.
pub(super) const START: &str = "start a Job";

/// That nothing was started.
pub(super) fn refused(reason: &str, message: String) -> DriverError {
    DriverError::Refused(StartFailure {
        reason: reason.to_owned(),
        message,
    })
}

/// What an answer to a write means for the start that made it. What may pass by itself, or by somebody
/// who gives a right, is no failure of the component: it is tried again, and not counted.
pub(super) fn of_write(failure: Failure, what: &str, namespace: &str) -> DriverError {
    let answer = match failure {
        Failure::Config(_) | Failure::Silent(_) => return failure.unreachable(START),
        Failure::Answered(answer) => answer,
    };
    if let Some(why) = not_now(&answer, namespace) {
        return unreachable(START, why);
    }
    let message = format!("the cluster refuses {what}: {}", answer.message);
    match answer.code {
        400 | 422 => refused(denied(&answer).unwrap_or("Invalid"), message),
        403 => refused(denied(&answer).unwrap_or("Forbidden"), message),
        409 => refused("NameConflict", message),
        _ => unreachable(START, answer),
    }
}

/// Why it is worth to try again later, without any change to the component.
fn not_now(answer: &Answer, namespace: &str) -> Option<String> {
    let is_terminating = answer.is_caused_by("NamespaceTerminating");
    match answer.code {
        404 => Some(missing_namespace(namespace)),
        403 if is_terminating => Some(format!(
            "namespace {namespace} of the cluster is being deleted"
        )),
        // What admission says is for the component; what the rights say is not.
        403 if denied(answer).is_none() => Some(format!(
            "{}: give the daemon's account that right (`flowctl kubernetes manifest` prints them)",
            answer.message
        )),
        _ => None,
    }
}

/// What to do about a namespace that is not there.
pub(super) fn missing_namespace(namespace: &str) -> String {
    format!(
        "the cluster has no namespace `{namespace}`: make it with `kubectl create namespace \
         {namespace}`, or name another in `spec.kubernetes.namespace`"
    )
}

/// Who denies an object that the rights allow, in one word.
fn denied(answer: &Answer) -> Option<&'static str> {
    let says = |text: &str| answer.message.contains(text);
    if says("exceeded quota") {
        Some("QuotaExceeded")
    } else if says("violates PodSecurity") {
        Some("PodSecurity")
    } else if says("admission webhook") || says("denied the request") {
        Some("AdmissionDenied")
    } else {
        None
    }
}

/// Why the program of a container never ran; `None` when it did.
pub(super) fn of_start(terminated: &Terminated, image: &str) -> Option<StartFailure> {
    let is_start = matches!(
        terminated.reason.as_str(),
        "StartError" | "ContainerCannotRun" | "RunContainerError"
    );
    if !is_start {
        return None;
    }
    let says = |text: &str| terminated.message.contains(text);
    let program = program_in(&terminated.message).unwrap_or("of the image");
    let (reason, message) =
        if says("executable file not found") || says("no such file or directory") {
            let text = format!(
                "program `{program}` was not found in {image}: correct `command`, or the image"
            );
            ("ExecNotFound", text)
        } else if says("exec format error") {
            let text = format!("program `{program}` of {image} is not for the machine of its node");
            ("ExecFormat", text)
        } else if says("permission denied") {
            let text = format!("program `{program}` of {image} is not an executable file");
            ("NotExecutable", text)
        } else {
            let text = format!(
                "the node could not start the container: {}",
                terminated.message
            );
            ("StartFailed", text)
        };
    Some(StartFailure {
        reason: reason.to_owned(),
        message,
    })
}

/// The program that a runtime names, which writes `exec: "PROGRAM": why`.
fn program_in(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("exec: \"")?;
    let (program, _) = rest.split_once('"')?;
    Some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let terminated = Terminated {
            exit_code: 128,
            reason: "StartError".to_owned(),
            message: "failed to create containerd task: runc create failed: exec: \"no-such\": \
                      executable file not found in $PATH: unknown"
                .to_owned(),
            ..Terminated::default()
        };
        let failure = of_start(&terminated, "busybox:1").unwrap();
        assert_eq!(failure.reason, "ExecNotFound");
        assert!(failure.message.contains("`no-such`"), "{}", failure.message);
        let ended = Terminated {
            exit_code: 128,
            reason: "Error".to_owned(),
            ..Terminated::default()
        };
        assert_eq!(of_start(&ended, "busybox:1"), None);
    }

    #[test]
    fn a_right_that_is_missing_is_no_failure_of_the_component() {
        let answer = |code, message: &str| {
            Failure::Answered(Box::new(Answer {
                code,
                message: message.to_owned(),
                ..Answer::default()
            }))
        };
        let forbidden = answer(403, "jobs.batch is forbidden: User \"x\" cannot create");
        let error = of_write(forbidden, "Job j", "team-a");
        assert!(matches!(error, DriverError::Unreachable { .. }), "{error}");
        let gone = of_write(
            answer(404, "namespaces \"team-a\" not found"),
            "Job j",
            "team-a",
        );
        assert!(gone.to_string().contains("kubectl create namespace team-a"));
        let quota = of_write(
            answer(403, "forbidden: exceeded quota: q"),
            "Job j",
            "team-a",
        );
        let DriverError::Refused(failure) = quota else {
            panic!("{quota}");
        };
        assert_eq!(failure.reason, "QuotaExceeded");
    }
}
