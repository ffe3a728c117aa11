//! Any bytes as the file of an instance, and as what a driver asks of a guardian.

use super::record::read_any;
use super::wire::{Program, Request};

/// Reads `bytes` as the file of an instance, with and without checksums that are right.
pub fn instance_file(bytes: &[u8]) {
    read_any(bytes);
}

/// Reads `bytes` as a request to a guardian.
pub fn request(bytes: &[u8]) {
    if let Some(request) = Request::read(bytes) {
        judge(&request.program);
    }
    if let Some(program) = Program::read(bytes) {
        judge(&program);
    }
}

/// The counts decide how much memory a guardian makes for pointers to the strings.
fn judge(program: &Program<'_>) {
    let lists = [
        program.groups,
        program.candidates,
        program.argv,
        program.envp,
    ];
    for list in lists {
        assert_eq!(list.iter().count(), list.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_and_changed_files_of_instances_are_read_or_refused() {
        crate::fuzzing::replay("instance_file", instance_file);
    }

    #[test]
    fn kept_and_changed_requests_to_a_guardian_are_read_or_refused() {
        crate::fuzzing::replay("request", request);
    }
}
