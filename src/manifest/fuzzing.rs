//! Any bytes as a manifest.

use super::{Colour, Options, parse};

/// Reads `bytes` as a file; problems can be shown, and what is good is good at the second reading too.
pub fn manifest(bytes: &[u8]) {
    let options = Options::at("/there");
    match parse("p.yaml", bytes, &options) {
        Ok(parsed) => {
            let again = parse("p.yaml", bytes, &options).expect("it was good a moment ago");
            assert_eq!(parsed.pipelines, again.pipelines);
        }
        Err(problems) => assert!(!problems.render(Colour::Off).is_empty()),
    }
}

#[cfg(test)]
#[test]
fn kept_and_changed_manifests_are_read_or_explained() {
    crate::fuzzing::replay("manifest", manifest);
}
