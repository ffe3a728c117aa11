//! Any bytes as the user's Docker configuration.

pub use super::auth::read_any as auth;

#[cfg(test)]
#[test]
fn kept_and_changed_docker_configurations_are_read_or_refused() {
    crate::fuzzing::replay("auth", auth);
}
