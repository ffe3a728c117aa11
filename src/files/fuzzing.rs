//! Any bytes as an env file.

use super::parse_env;

/// Reads `bytes`; what is good are variables that a program can be given.
pub fn env_file(bytes: &[u8]) {
    match parse_env(bytes) {
        Ok(file) => {
            for (name, value) in file.variables {
                assert!(!name.is_empty() && !name.contains(['=', '\0']), "{name:?}");
                assert!(!value.contains(&0), "{name:?}");
            }
        }
        Err(problems) => assert!(problems.iter().all(|problem| problem.line > 0)),
    }
}

#[cfg(test)]
#[test]
fn kept_and_changed_env_files_are_read_or_explained() {
    crate::fuzzing::replay("env_file", env_file);
}
