//! Which images may run: the policy, what registries say, who has signed, and the one gate from a
//! name to an image.
//!
//! **Expected flow.** The daemon makes a [`Gate`] and has it [look again](Gate::look_again) at the policy's
//! file whenever that changed. Before a driver pulls or makes anything, it asks the gate to [admit](Gate::admit) what a
//! component names, and runs what the answer [says](VerifiedImage::runs).
//!
//! **Guarantees.** Without a policy everything runs as it is written. With one, every doubt refuses:
//! a policy that cannot be read, a registry that does not answer, a signature that does not fit. What
//! was verified is a digest that we took ourselves, and only that digest runs: a [`VerifiedImage`]
//! can be made nowhere else. A tag is read once. What was verified once runs again without anybody
//! being asked, as long as the policy and its keys are the same.
//!
//! **What it does not do.** It pulls nothing. It protects from nobody who is root, who may speak to
//! the engine, or who has a signing key; and an older image that was properly signed is properly
//! signed.

pub mod credentials;
mod decide;
mod evidence;
mod examine;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod keyless;
mod keys;
mod notation;
mod oci;
mod refusal;
mod registry;
mod scan;
mod source;
#[cfg(test)]
mod tests;

use ring::digest;

pub use credentials::config_dir;
pub use decide::{Demand, Ruling, in_words, rule};
pub use examine::resolve;
pub use gate::{Gate, InForce, Question, Runs, Standing, State, Verdict, VerifiedImage};
pub use keyless::Root;
pub use keys::PublicKey;
pub use notation::Store;
pub use refusal::{Reason, Refused};
pub use source::{Loaded, load};

use crate::model::image::Digest;

/// The digest of these bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut own = [0; 32];
    own.copy_from_slice(digest.as_ref());
    Digest::new(own)
}

/// The processor of this host, as registries name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
