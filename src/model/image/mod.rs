//! Images by name, and who may run: the vocabulary of the image policy.

mod name;
mod pattern;
mod policy;

pub use name::{DOCKER_HUB, Digest, DigestError, ImageName, NameError, Repository};
pub use pattern::{ImagePattern, PatternError, SubjectPattern};
pub use policy::{
    AttestationNeed, ByDefault, DigestNeed, ImagePolicy, ImageRequirement, ImageRule, KeySpec,
    PolicyMode, RegistrySpec, RootSpec, RuleSays, ScanNeed, SignatureNeed, Signer, Transport,
    VulnerabilitySeverity,
};
