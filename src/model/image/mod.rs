//! Images by name, and who may run: the vocabulary of the image policy.

mod holder;
mod name;
mod pattern;
mod policy;

pub use holder::{HolderError, HolderName};
pub use name::{DOCKER_HUB, Digest, DigestError, ImageName, NameError, Repository};
pub use pattern::{ImagePattern, PatternError, SubjectPattern};
pub use policy::{
    AttestationNeed, ByDefault, DigestNeed, Downgrade, ImagePolicy, ImageRequirement, ImageRule,
    KeySpec, PolicyMode, RegistrySpec, RootSpec, RuleSays, ScanNeed, SignatureNeed, Signer,
    StoreSpec, Transport, VulnerabilitySeverity,
};
