//! What an image policy says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::time::{HumanDuration, Timestamp};
use super::holder::HolderName;
use super::name::Repository;
use super::pattern::{ImagePattern, SubjectPattern};

/// All that a policy file says. The files that it names are not read yet.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePolicy {
    /// What becomes of images that no rule is about.
    pub default: ByDefault,
    /// The line that says so.
    pub default_line: u32,
    /// Whether images are refused or only told of.
    pub mode: PolicyMode,
    /// Public keys by name.
    pub keys: BTreeMap<String, KeySpec>,
    /// Whom certificates are believed from, by name.
    pub roots: BTreeMap<String, RootSpec>,
    /// Whom Notation's certificates are believed from, by name.
    pub stores: BTreeMap<String, StoreSpec>,
    /// What is particular about registries, by host.
    pub registries: BTreeMap<String, RegistrySpec>,
    /// The first one that is about an image decides.
    pub rules: Vec<ImageRule>,
}

/// What becomes of images that no rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByDefault {
    /// They are refused.
    Deny,
    /// They run as without a policy.
    Allow,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMode {
    /// What it refuses does not run.
    Enforce,
    /// What it would refuse runs, and is told of.
    Warn,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Where it lies.
    pub file: PathBuf,
    /// From then on nothing is accepted from it.
    pub not_after: Option<Timestamp>,
}

/// Whom certificates are believed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootSpec {
    /// The file of the trusted root, as Sigstore writes it.
    pub file: PathBuf,
}

/// Whom Notation's certificates are believed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// The file of certificates, as PEM.
    pub file: PathBuf,
}

/// What is particular about a registry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RegistrySpec {
    /// How it is spoken to.
    pub transport: Transport,
    /// The host that gives tokens for it and may be told the password, where that is not its own.
    pub token_host: Option<String>,
}

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transport {
    /// By TLS, unless it is on this host.
    #[default]
    Secure,
    /// In plain text, without credentials.
    Plain,
}

/// What is demanded of some images.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRule {
    /// The line where it begins.
    pub line: u32,
    /// Of which.
    pub images: Vec<ImagePattern>,
    /// What.
    pub says: RuleSays,
}

/// What a rule says of its images.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleSays {
    /// They never run.
    Deny {
        /// Why, in its author's words.
        why: Option<String>,
    },
    /// They were built here: they run as the engine has them, and are never pulled.
    Local,
    /// They run if this holds.
    Require(ImageRequirement),
}

/// What must hold of an image. All of it.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageRequirement {
    /// Whether its name must hold a digest.
    #[serde(default)]
    pub digest: DigestNeed,
    /// Who must have signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<SignatureNeed>,
    /// What must have been attested about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<AttestationNeed>,
    /// The program that must not object to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanNeed>,
}

/// Whether the name of an image must hold a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestNeed {
    /// A tag is resolved, once.
    #[default]
    Resolved,
    /// It must.
    Pinned,
}

/// Who must have signed an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignatureNeed {
    /// Whose signatures count.
    pub any: Vec<Signer>,
    /// How many different ones of them are needed, 1 at least.
    pub at_least: u32,
    /// Whether an image that was signed earlier than the last one of the same tag is refused.
    #[serde(default, skip_serializing_if = "Downgrade::is_allowed")]
    pub downgrade: Downgrade,
    /// Where signatures lie, if not beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Repository>,
}

/// Whether the tag of an image may be turned back to one that was signed earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Downgrade {
    /// It may.
    #[default]
    Allowed,
    /// It may not.
    Refused,
}

impl Downgrade {
    fn is_allowed(&self) -> bool {
        *self == Self::Allowed
    }
}

/// Whose signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signer {
    /// Of the key of this name.
    Key(String),
    /// Of whoever could prove this identity to this issuer.
    Keyless {
        /// The name of the trusted root.
        root: String,
        /// Who vouches for the identity, exactly.
        issuer: String,
        /// Which identities.
        subject: SubjectPattern,
    },
    /// By Notation, of whoever holds a certificate of this name.
    Notation {
        /// The name of the store.
        store: String,
        /// Which parts the holder's name must have.
        subject: HolderName,
    },
}

/// What must have been attested about an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttestationNeed {
    /// How it was built: SLSA provenance.
    Provenance {
        /// Who attests it.
        by: Signer,
        /// The builder.
        #[serde(default)]
        builder: Option<SubjectPattern>,
        /// The repository that it was built from.
        #[serde(default)]
        source: Option<SubjectPattern>,
    },
    /// That it was scanned for vulnerabilities.
    Vulnerabilities {
        /// Who attests it.
        by: Signer,
        /// How old the scan may be.
        max_age: HumanDuration,
        /// The gravest that may have been found; `None` = whatever.
        #[serde(default)]
        max_severity: Option<VulnerabilitySeverity>,
    },
}

/// How grave a vulnerability is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VulnerabilitySeverity {
    /// Hardly.
    Negligible,
    /// A little.
    Low,
    /// Middling.
    Medium,
    /// Very.
    High,
    /// Extremely.
    Critical,
}

impl std::fmt::Display for VulnerabilitySeverity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Negligible => "negligible",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// A program that judges an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanNeed {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: HumanDuration,
}
