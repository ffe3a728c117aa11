//! Why an image does not run.

use crate::model::StartFailure;

/// An image that does not run, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What kind of reason it is.
    pub reason: Reason,
    /// Which image, why, and what to do.
    pub message: String,
}

/// Kinds of reasons. Part of the interface: only ever add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No rule lets it run.
    NotAllowed,
    /// Its name must hold a digest.
    NotPinned,
    /// Nobody has signed it.
    NotSigned,
    /// What should be its signature is not.
    SignatureInvalid,
    /// Somebody has signed it, and nobody whom the policy accepts.
    SignerUnknown,
    /// Something must be attested about it, and is not.
    AttestationMissing,
    /// What was found in it is too grave.
    Vulnerable,
    /// Something else came than was asked for.
    Changed,
    /// Its tag was turned back to an image that was signed earlier.
    Downgraded,
    /// There is a policy, and it cannot be read.
    PolicyBroken,
    /// The registry does not have it.
    NotFound,
    /// It could not be looked at. The only reason of its own accord to try again.
    Unverifiable,
    /// The program that judges it did not.
    ScanFailed,
}

impl Reason {
    /// One word for scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotAllowed => "ImageNotAllowed",
            Self::NotPinned => "ImageNotPinned",
            Self::NotSigned => "ImageNotSigned",
            Self::SignatureInvalid => "ImageSignatureInvalid",
            Self::SignerUnknown => "ImageSignerUnknown",
            Self::AttestationMissing => "ImageAttestationMissing",
            Self::Vulnerable => "ImageVulnerable",
            Self::Changed => "ImageChanged",
            Self::Downgraded => "ImageDowngraded",
            Self::PolicyBroken => "ImagePolicyBroken",
            Self::NotFound => "ImagePullNotFound",
            Self::Unverifiable => "ImagePullUnverifiable",
            Self::ScanFailed => "ImagePullScanFailed",
        }
    }

    /// Whether nothing is known about the image.
    pub fn is_silence(self) -> bool {
        match self {
            Self::Unverifiable | Self::ScanFailed | Self::PolicyBroken => true,
            Self::NotAllowed
            | Self::NotPinned
            | Self::NotSigned
            | Self::SignatureInvalid
            | Self::SignerUnknown
            | Self::AttestationMissing
            | Self::Vulnerable
            | Self::Changed
            | Self::Downgraded
            | Self::NotFound => false,
        }
    }
}

impl Reason {
    /// Whether what was looked for may have been said of a part of the image instead.
    pub(super) fn may_be_of_a_part(self) -> bool {
        match self {
            Self::NotSigned
            | Self::SignatureInvalid
            | Self::SignerUnknown
            | Self::AttestationMissing => true,
            Self::NotAllowed
            | Self::NotPinned
            | Self::Vulnerable
            | Self::Changed
            | Self::Downgraded
            | Self::PolicyBroken
            | Self::NotFound
            | Self::Unverifiable
            | Self::ScanFailed => false,
        }
    }
}

impl Refused {
    /// A refusal for `reason`.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl From<Refused> for StartFailure {
    fn from(refused: Refused) -> Self {
        Self {
            reason: refused.reason.word().to_owned(),
            message: refused.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_refusal_counts_as_a_failure_of_the_component() {
        for reason in [
            Reason::NotAllowed,
            Reason::NotPinned,
            Reason::NotSigned,
            Reason::SignatureInvalid,
            Reason::SignerUnknown,
            Reason::AttestationMissing,
            Reason::Vulnerable,
            Reason::Changed,
            Reason::Downgraded,
            Reason::PolicyBroken,
            Reason::NotFound,
            Reason::Unverifiable,
            Reason::ScanFailed,
        ] {
            let failure = StartFailure::from(Refused::new(reason, ""));
            assert!(failure.is_image(), "{failure:?}");
        }
    }
}
