//! Signatures by an identity: a certificate of a few minutes, and a log that it was used in time. The
//! one place that knows `sigstore_verify`.
//!
//! All of it is looked at by that crate, offline, with a root from a file: the certificate's chain and
//! its own log, the time of signing, the entry in the transparency log and that it is of this very
//! signature. Its policy is to believe any identity; whose it is, is decided by our caller, who is
//! given nothing but what was proved. A certificate for more than one identity proves none: each of
//! two readers could take another one for the signer.

use std::cell::RefCell;
use std::fmt;
use std::sync::Once;

use ring::digest;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use sigstore_verify::crypto::{
    self, CryptoProvider, Error, HashContext, SigningScheme, SubjectAltName,
};
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::{Artifact, Bundle, HashAlgorithm, Sha256Hash, SignatureContent};
use sigstore_verify::{VerificationPolicy, Verifier};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName as SubjectAltNames;

use crate::model::Timestamp;
use crate::model::image::Digest;

/// Whom certificates are believed from.
pub struct Root {
    verifier: Verifier,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

/// Who has signed, as a certificate proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Who vouched for the identity.
    pub issuer: String,
    /// The identity.
    pub subject: String,
    /// When, as a log or an authority for time attests.
    pub at: Timestamp,
}

/// A statement whose signer a certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proved {
    /// Who has signed it.
    pub by: Identity,
    /// The statement that was signed. Whoever has read the bundle by other means has to see that it is
    /// the same.
    pub payload: Vec<u8>,
}

impl Root {
    /// Reads a trusted root, as Sigstore writes it.
    ///
    /// # Errors
    /// What the text is instead, as it follows the name of its file.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        use_ring();
        let broken = |why: String| format!("holds no usable trusted root: {why}");
        let text = std::str::from_utf8(text).map_err(|error| broken(error.to_string()))?;
        let root = TrustedRoot::from_json(text).map_err(|error| broken(error.to_string()))?;
        if root.certificate_authorities.is_empty() || root.tlogs.is_empty() {
            return Err(broken(
                "it names no certificate authority, or no log".to_owned(),
            ));
        }
        let verifier = Verifier::new(&root).map_err(|error| broken(error.to_string()))?;
        Ok(Self { verifier })
    }

    /// Who has signed, by a bundle, that which states something of `digest`.
    ///
    /// # Errors
    /// Why that is not proved.
    pub(super) fn verify(&self, bundle: &[u8], digest: &Digest) -> Result<Proved, String> {
        let bundle = read(bundle)?;
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(broken(&"it is on something else than a statement"));
        };
        let artifact =
            Sha256Hash::try_from(digest.bytes().as_slice()).map_err(|error| broken(&error))?;
        Ok(Proved {
            by: self.prove(artifact.into(), &bundle)?,
            payload: envelope.payload.as_bytes().to_owned(),
        })
    }

    /// Who has signed `text`, by a bundle.
    ///
    /// # Errors
    /// Why that is not proved.
    pub(super) fn verify_text(&self, bundle: &[u8], text: &[u8]) -> Result<Identity, String> {
        let bundle = read(bundle)?;
        let SignatureContent::MessageSignature(_) = &bundle.content else {
            return Err(broken(&"it is on something else than a text"));
        };
        let _at_hand = AtHand::new(text);
        self.prove(text.into(), &bundle)
    }

    fn prove(&self, artifact: Artifact<'_>, bundle: &Bundle) -> Result<Identity, String> {
        let policy = VerificationPolicy::any_identity();
        let result = self
            .verifier
            .verify(artifact, bundle, &policy)
            .map_err(|error| broken(&error))?;
        // All of it was asked for; what was not done proves nothing.
        let is_whole =
            result.certificate_verified() && result.sct_verified() && result.tlog_verified();
        let at = result.verified_timestamps().iter().max();
        let Some(at) = at.filter(|_| is_whole) else {
            return Err(broken(&"not all of it could be checked"));
        };
        let certificate = bundle.signing_certificate();
        let names = certificate.and_then(|it| names(it.as_bytes()));
        let subject = match (result.identity(), names) {
            (Some(_), Some(2..)) => return Err(broken(&"it names more than one identity")),
            // One kind must not pose as the other.
            (Some(SubjectAltName::Email(text)), Some(1)) if !text.contains([':', '/']) => text,
            (Some(SubjectAltName::Uri(text)), Some(1)) if text.contains(':') => text,
            (Some(_) | None, _) => return Err(broken(&"it names no identity")),
        };
        let issuer = result
            .issuer()
            .ok_or_else(|| broken(&"it names no issuer"))?;
        Ok(Identity {
            issuer: issuer.to_owned(),
            subject: subject.clone(),
            at: Timestamp::from_millis(at.as_millisecond()),
        })
    }
}

fn broken(why: &dyn fmt::Display) -> String {
    format!("its certificate proves nothing: {why}")
}

fn read(bundle: &[u8]) -> Result<Bundle, String> {
    use_ring();
    let text = std::str::from_utf8(bundle).map_err(|error| broken(&error))?;
    Bundle::from_json(text).map_err(|error| broken(&error))
}

/// For how many names a certificate is.
fn names(certificate: &[u8]) -> Option<usize> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let (_, names) = certificate
        .tbs_certificate
        .get::<SubjectAltNames>()
        .ok()??;
    Some(names.0.len())
}

thread_local! {
    /// The text whose signature is looked at. That crate asks about its hash, and ring answers about
    /// texts alone.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, a text is at hand for this thread.
struct AtHand;

impl AtHand {
    fn new(text: &[u8]) -> Self {
        TEXT.with_borrow_mut(|at_hand| *at_hand = text.to_owned());
        Self
    }
}

impl Drop for AtHand {
    fn drop(&mut self) {
        TEXT.with_borrow_mut(Vec::clear);
    }
}

/// Has that crate count with the library that all else here does.
fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if crypto::install_default_provider(&Ring).is_err() {
            tracing::debug!("it counts already");
        }
    });
}

/// Hashes and signatures by ring. It signs nothing.
#[derive(Debug)]
struct Ring;

struct Hashing(digest::Context);

impl HashContext for Hashing {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finish().as_ref().to_owned()
    }
}

impl CryptoProvider for Ring {
    fn hash(&self, algorithm: HashAlgorithm) -> crypto::Result<Box<dyn HashContext>> {
        let algorithm = match algorithm {
            HashAlgorithm::Sha2256 => &digest::SHA256,
            HashAlgorithm::Sha2384 => &digest::SHA384,
            HashAlgorithm::Sha2512 => &digest::SHA512,
            _ => return Err(Error::UnsupportedAlgorithm("a hash".to_owned())),
        };
        Ok(Box::new(Hashing(digest::Context::new(algorithm))))
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> crypto::Result<()> {
        let algorithm: &dyn VerificationAlgorithm = match scheme {
            SigningScheme::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
            SigningScheme::EcdsaP256Sha384 => &ECDSA_P256_SHA384_ASN1,
            SigningScheme::EcdsaP384Sha256 => &ECDSA_P384_SHA256_ASN1,
            SigningScheme::EcdsaP384Sha384 => &ECDSA_P384_SHA384_ASN1,
            SigningScheme::Ed25519 => &ED25519,
            SigningScheme::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
            SigningScheme::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
            SigningScheme::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
            SigningScheme::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            SigningScheme::RsaPkcs1Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            SigningScheme::RsaPkcs1Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            SigningScheme::MlDsa44 | SigningScheme::MlDsa65 | SigningScheme::MlDsa87 => {
                return Err(Error::UnsupportedAlgorithm(scheme.name().to_owned()));
            }
            // It may grow.
            _ => return Err(Error::UnsupportedAlgorithm(scheme.name().to_owned())),
        };
        UnparsedPublicKey::new(algorithm, key)
            .verify(data, signature)
            .map_err(|_| Error::Verification("the signature does not fit".to_owned()))
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        hash: &[u8],
        signature: &[u8],
    ) -> crypto::Result<()> {
        let unknown = || Error::UnsupportedAlgorithm(format!("{} over a hash", scheme.name()));
        let algorithm = scheme.hash_algorithm().ok_or_else(unknown)?;
        TEXT.with_borrow(|text| {
            let mut hashing = self.hash(algorithm)?;
            hashing.update(text);
            match hashing.finalize() == hash {
                true => self.verify_raw(scheme, key, text, signature),
                // That of another text: nothing is known of it.
                false => Err(unknown()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle, and the root of the instance that it is of.
    const BUNDLES: [(&str, &str); 2] = [
        (
            include_str!("../../tests/data/sigstore/rekor-1.sigstore.json"),
            include_str!("../../tests/data/sigstore/trusted_root.json"),
        ),
        (
            include_str!("../../tests/data/sigstore/rekor-2.sigstore.json"),
            include_str!("../../tests/data/sigstore/staging_root.json"),
        ),
    ];
    const ABOUT: &str = "sha256:54303491a8418fbed24344b513546182c29b43bf282ceb433af65e2299f9271f";

    fn root(text: &str) -> Root {
        Root::read(text.as_bytes()).unwrap()
    }

    fn proved(root: &Root, bundle: &str, about: &str) -> Result<Proved, String> {
        root.verify(bundle.as_bytes(), &about.parse().unwrap())
    }

    #[test]
    fn a_real_bundle_proves_who_has_signed_what_and_nothing_else() {
        for (bundle, of) in BUNDLES {
            let root = root(of);
            let found = proved(&root, bundle, ABOUT).unwrap();
            let issuers = [
                "https://token.actions.githubusercontent.com",
                "https://github.com/login/oauth",
            ];
            assert!(issuers.contains(&found.by.issuer.as_str()), "{found:?}");
            let other = format!("sha256:{}", "0a".repeat(32));
            proved(&root, bundle, &other).unwrap_err();
            proved(&root, "{}", ABOUT).unwrap_err();
        }
        // That of another instance believes others.
        let [(one, of_one), (two, of_two)] = BUNDLES;
        proved(&root(of_two), one, ABOUT).unwrap_err();
        proved(&root(of_one), two, ABOUT).unwrap_err();
    }

    #[test]
    fn a_root_that_lacks_a_part_proves_nothing() {
        use serde_json::Value;
        let (bundle, of) = BUNDLES[1];
        // The second kind of log has no time of its own.
        for part in [
            "tlogs",
            "certificateAuthorities",
            "ctlogs",
            "timestampAuthorities",
        ] {
            let mut root: Value = serde_json::from_str(of).unwrap();
            root[part] = Value::Array(Vec::new());
            if let Ok(root) = Root::read(root.to_string().as_bytes()) {
                proved(&root, bundle, ABOUT).expect_err(part);
            }
        }
        for text in ["", "{}", "x"] {
            Root::read(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_part_of_a_bundle_that_is_missing_or_of_another_proves_nothing() {
        use serde_json::Value;
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let root = root(BUNDLES[0].1);
        let [one, two] = BUNDLES.map(|(bundle, _)| read(bundle));
        for path in [
            "/verificationMaterial/certificate",
            "/verificationMaterial/tlogEntries",
            "/dsseEnvelope/payload",
            "/dsseEnvelope/signatures",
        ] {
            let mut bundle = one.clone();
            *bundle.pointer_mut(path).unwrap() = two.pointer(path).unwrap().clone();
            if bundle != one {
                proved(&root, &bundle.to_string(), ABOUT).expect_err(path);
            }
            let mut bundle = one.clone();
            *bundle.pointer_mut(path).unwrap() = Value::Null;
            proved(&root, &bundle.to_string(), ABOUT).expect_err(path);
        }
    }

    #[test]
    fn a_time_stamp_of_something_else_and_a_chain_that_is_brought_along_prove_nothing() {
        use serde_json::{Value, json};
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        // The second kind of log has no time of its own.
        let (root, two) = (root(BUNDLES[1].1), read(BUNDLES[1].0));
        let stamps = "/verificationMaterial/timestampVerificationData";
        assert!(two.pointer(stamps).is_some());
        let mut without = two.clone();
        *without.pointer_mut(stamps).unwrap() = Value::Null;
        proved(&root, &without.to_string(), ABOUT).expect_err("no time");
        let mut other = two.clone();
        other["dsseEnvelope"]["signatures"][0]["sig"] =
            read(BUNDLES[0].0)["dsseEnvelope"]["signatures"][0]["sig"].clone();
        proved(&root, &other.to_string(), ABOUT).expect_err("a time of another signature");
        for count in [1, 2, 50] {
            let mut chained = two.clone();
            let material = &mut chained["verificationMaterial"];
            let certificate = material["certificate"].take();
            material.as_object_mut().unwrap().remove("certificate");
            material["x509CertificateChain"] = json!({ "certificates": vec![certificate; count] });
            proved(&root, &chained.to_string(), ABOUT).expect_err("a chain");
        }
    }

    #[test]
    fn a_bundle_that_is_two_things_is_none_or_the_statement() {
        let (bundle, of) = BUNDLES[0];
        let root = root(of);
        let whole = proved(&root, bundle, ABOUT).unwrap();
        let hash = "VDA0kahBj77SQ0S1E1RhgsKbQ78oLO9DOvZeIpn5Jx8=";
        let other = format!(
            r#"{{"messageSignature":{{"messageDigest":{{"algorithm":"SHA2_256","digest":"{hash}"}},"signature":"AAAA"}},"#
        );
        for both in [
            bundle.replacen('{', &other, 1),
            bundle.replacen('{', r#"{"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]},"#, 1),
        ] {
            if let Ok(found) = proved(&root, &both, ABOUT) {
                assert_eq!(found, whole);
            }
        }
    }

    #[test]
    fn a_changed_letter_of_a_bundle_proves_no_other() {
        for (bundle, of) in BUNDLES {
            let root = root(of);
            let whole = proved(&root, bundle, ABOUT).unwrap();
            for (at, letter) in bundle.char_indices().step_by(29) {
                let mut changed = bundle.to_owned();
                let other = if letter == 'A' { "B" } else { "A" };
                changed.replace_range(at..at + letter.len_utf8(), other);
                if let Ok(found) = proved(&root, &changed, ABOUT) {
                    assert_eq!(found, whole, "{at}");
                }
            }
        }
    }
}
