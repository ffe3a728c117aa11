//! Words of Podman's that Docker's client does not know.

use bollard::models::ContainerInspectResponse;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where Podman puts the init that begins a container's program.
const INIT: &str = "podman-init";

/// Reads an answer once more, with Podman's states of a container called as Docker calls them.
pub(super) fn translated<T: DeserializeOwned>(answer: &str) -> Option<T> {
    let mut answer: Value = serde_json::from_str(answer).ok()?;
    if let Some(list) = answer.as_array_mut() {
        for one in list {
            translate(one.get_mut("State"));
        }
    } else {
        translate(answer.pointer_mut("/State/Status"));
    }
    serde_json::from_value(answer).ok()
}

/// The program of a container, which Podman calls an argument of its init.
pub(super) fn program(inspected: &ContainerInspectResponse) -> Option<String> {
    let first = inspected.path.as_ref().filter(|path| !path.is_empty())?;
    if !first.ends_with(INIT) {
        return Some(first.clone());
    }
    let mut arguments = inspected.args.iter().flatten();
    arguments.find(|word| *word != "--").cloned()
}

/// Why an init could not execute its program, from the last line that it wrote: Docker's and
/// Podman's.
pub(super) fn words_of_init(line: &str) -> Option<&str> {
    let (_, why) = line
        .split_once("[FATAL tini")
        .or_else(|| line.split_once("ERROR (catatonit"))?;
    why.split_once(')')
        .map(|(_, why)| why.trim_start_matches([']', ':', ' ']).trim())
}

fn translate(state: Option<&mut Value>) {
    let Some(state) = state else { return };
    let docker = match state.as_str() {
        Some("configured" | "initialized") => "created",
        // Its program has ended, and its network is being taken away.
        Some("stopped") => "exited",
        Some(_) | None => return,
    };
    *state = docker.into();
}

#[cfg(test)]
mod tests {
    use bollard::models::{
        ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
        ContainerSummaryStateEnum,
    };

    use super::*;

    #[test]
    fn podmans_states_are_dockers() {
        let one: ContainerInspectResponse =
            translated(r#"{"Id":"a","State":{"Status":"stopped","ExitCode":3}}"#).unwrap();
        let state = one.state.unwrap();
        assert_eq!(state.status, Some(ContainerStateStatusEnum::EXITED));
        assert_eq!(state.exit_code, Some(3));
        let list: Vec<ContainerSummary> =
            translated(r#"[{"State":"running"},{"State":"initialized"}]"#).unwrap();
        assert_eq!(list[1].state, Some(ContainerSummaryStateEnum::CREATED));
    }

    #[test]
    fn the_program_is_found_behind_an_init() {
        let program_of = |json: &str| program(&serde_json::from_str(json).unwrap());
        let docker = program_of(r#"{"Path":"sh","Args":["-c","x"]}"#);
        assert_eq!(docker.as_deref(), Some("sh"));
        let podman = program_of(r#"{"Path":"/run/podman-init","Args":["--","sh","-c"]}"#);
        assert_eq!(podman.as_deref(), Some("sh"));
        for line in [
            "[FATAL tini (7)] exec x failed: No such file or directory",
            "ERROR (catatonit:7): failed to exec pid1: No such file or directory",
        ] {
            let why = words_of_init(line).unwrap();
            assert!(
                why.ends_with("failed: No such file or directory")
                    || why.starts_with("failed to exec"),
                "{why}"
            );
        }
        assert_eq!(words_of_init("all is well"), None);
    }

    #[test]
    fn nonsense_stays_nonsense() {
        let answer = r#"{"Id":"a","State":{"Status":"dreaming"}}"#;
        assert!(translated::<ContainerInspectResponse>(answer).is_none());
    }
}
