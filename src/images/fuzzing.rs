//! Any bytes as what strangers or files say about images.

use std::path::Path;

pub use super::credentials::read_any as auth;
use super::evidence::read_any;
use super::keys::PublicKey;
use super::{keyless, notation, oci, registry};
use crate::manifest::{self, PolicyFiles, parse_image_policy};
use crate::model::image::{Digest, HolderName, ImageName, ImagePattern, SubjectPattern};

struct NoFiles;

impl PolicyFiles for NoFiles {
    fn key(&mut self, _: &str, _: &Path) -> Result<(), String> {
        Ok(())
    }

    fn root(&mut self, _: &str, _: &Path) -> Result<(), String> {
        Ok(())
    }

    fn store(&mut self, _: &str, _: &Path) -> Result<(), String> {
        Ok(())
    }
}

/// Reads `bytes` as everything that is read of images: a policy, a manifest, signatures, keys, roots,
/// names.
///
/// # Panics
/// When one thing is read as two.
pub fn images(bytes: &[u8]) {
    let read = parse_image_policy("images.yaml", bytes, Path::new("/"), &mut NoFiles);
    if let Ok(read) = read {
        for rule in &read.policy.rules {
            for pattern in &rule.images {
                let again: ImagePattern = pattern.to_string().parse().expect("it was written");
                assert_eq!(again, *pattern);
                assert!(pattern.covers(pattern));
            }
        }
    }
    if let Ok(places) = manifest::images("p.yaml", bytes) {
        let same: Vec<_> = places
            .into_iter()
            .map(|place| {
                let image = place.image.clone();
                (place, image)
            })
            .collect();
        assert_eq!(manifest::with_images(bytes, &same), bytes);
    }
    for kind in oci::ACCEPTED.split(", ") {
        // What it says is judged elsewhere.
        oci::read(bytes, kind).ok();
    }
    read_any(bytes);
    PublicKey::from_der(bytes).ok();
    PublicKey::from_pem(bytes).ok();
    keyless::Root::read(bytes).ok();
    notation::read_any(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    registry::read_any(text);
    if let Ok(name) = text.parse::<ImageName>() {
        let full = name.repository.to_string();
        let again: ImageName = full.parse().expect("a full name is a name");
        assert_eq!(again.repository, name.repository);
    }
    if let Ok(holder) = text.parse::<HolderName>() {
        let again: HolderName = holder.to_string().parse().expect("it was written");
        assert_eq!(again, holder);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Some(pattern) = SubjectPattern::new(text)
        && !text.contains('*')
    {
        assert!(pattern.matches(text) || text.len() > 2_000);
    }
}

#[cfg(test)]
#[test]
fn kept_and_changed_docker_configurations_are_read_or_refused() {
    crate::fuzzing::replay("auth", auth);
}

#[cfg(test)]
#[test]
fn kept_and_changed_texts_about_images_are_read_or_refused() {
    crate::fuzzing::replay("images", images);
}
