//! Signed statements: a bundle, the envelope in it, and what it states about which images.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::images::keys::PublicKey;
use crate::model::codec;
use crate::model::image::Digest;

/// What an envelope with a statement says that it holds.
const PAYLOAD: &str = "application/vnd.in-toto+json";
/// What statements say that they are.
const STATEMENTS: [&str; 2] = [
    "https://in-toto.io/Statement/v1",
    "https://in-toto.io/Statement/v0.1",
];
/// What bundles say that they are.
const BUNDLES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
];
/// The most signatures of one envelope, and the most subjects of one statement.
const MAX_SIGNATURES: usize = 64;
const MAX_SUBJECTS: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Option<Written>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stated {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    #[serde(default)]
    predicate: Value,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// A statement with the signatures on it. It states nothing until somebody is known to have signed.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// What is signed.
    signed: Vec<u8>,
    signatures: Vec<Vec<u8>>,
    /// What kind of statement.
    pub predicate_type: String,
    /// What it states.
    pub predicate: Value,
    subjects: Vec<Digest>,
    /// Whether a certificate says who has signed, rather than a key.
    has_certificate: bool,
}

impl Envelope {
    /// Reads a bundle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of_bundle(bytes: &[u8]) -> Result<Self, String> {
        let bundle: Bundle = serde_json::from_slice(bytes)
            .map_err(|error| format!("a bundle is not well formed: {error}"))?;
        if !BUNDLES.contains(&bundle.media_type.as_str()) {
            return Err(format!(
                "a bundle of kind `{}` is not known",
                bundle.media_type
            ));
        }
        let material = bundle.verification_material;
        let has_certificate =
            material.certificate.is_some() || material.x509_certificate_chain.is_some();
        let envelope = bundle.dsse_envelope;
        let envelope = envelope.ok_or("a bundle holds no statement")?;
        Self::of(envelope, has_certificate)
    }

    /// Reads an envelope that stands alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn alone(bytes: &[u8]) -> Result<Self, String> {
        let written = serde_json::from_slice(bytes)
            .map_err(|error| format!("a statement's envelope is not well formed: {error}"))?;
        Self::of(written, false)
    }

    fn of(written: Written, has_certificate: bool) -> Result<Self, String> {
        if written.payload_type != PAYLOAD {
            return Err("an envelope holds something else than a statement".to_owned());
        }
        if written.signatures.is_empty() || written.signatures.len() > MAX_SIGNATURES {
            return Err("a statement bears no signature, or too many".to_owned());
        }
        let payload = codec::from_base64(&written.payload).ok_or("a statement is not base64")?;
        let signatures = written
            .signatures
            .iter()
            .map(|it| codec::from_base64(&it.sig));
        let signatures: Option<Vec<_>> = signatures.collect();
        // What is read is what is signed: the same bytes.
        let stated: Stated = serde_json::from_slice(&payload)
            .map_err(|error| format!("a statement is not well formed: {error}"))?;
        if !STATEMENTS.contains(&stated.kind.as_str()) || stated.subject.len() > MAX_SUBJECTS {
            return Err("a statement is of a kind that is not known".to_owned());
        }
        let subjects = stated.subject.iter().filter_map(|subject| {
            let hex = subject.digest.get("sha256")?;
            format!("sha256:{hex}").parse().ok()
        });
        Ok(Self {
            signed: authenticated(&written.payload_type, &payload),
            signatures: signatures.ok_or("a signature is not base64")?,
            subjects: subjects.collect(),
            predicate_type: stated.predicate_type,
            predicate: stated.predicate,
            has_certificate,
        })
    }

    /// Whether it is about the image of this digest. A name says nothing.
    pub(super) fn is_about(&self, digest: &Digest) -> bool {
        self.subjects.contains(digest)
    }

    /// The bundle that it was read from, if a certificate in it says who has signed.
    ///
    /// # Errors
    /// When none does.
    pub(super) fn certified<'b>(&self, bundle: &'b [u8]) -> Result<&'b [u8], String> {
        match self.has_certificate {
            true => Ok(bundle),
            false => Err("it bears no certificate".to_owned()),
        }
    }

    /// Whether it is this statement, to the byte.
    pub(super) fn states(&self, payload: &[u8]) -> bool {
        self.signed == authenticated(PAYLOAD, payload)
    }

    /// Whether this key has signed it.
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        let mut signatures = self.signatures.iter();
        signatures.any(|signature| key.has_signed(&self.signed, signature))
    }
}

/// What is signed of an envelope: the DSSE pre-authentication encoding.
pub(super) fn authenticated(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::images::keys::tests::Pair;

    pub fn statement(predicate_type: &str, digest: &str, predicate: &str) -> String {
        let hex = digest.trim_start_matches("sha256:");
        format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{hex}"}}}}],"predicateType":"{predicate_type}","predicate":{predicate}}}"#
        )
    }

    pub fn bundle(pair: &Pair, statement: &str) -> String {
        let signature = pair.sign(&authenticated(PAYLOAD, statement.as_bytes()));
        let (payload, signature) = (
            codec::to_base64(statement.as_bytes()),
            codec::to_base64(&signature),
        );
        format!(
            r#"{{"mediaType":"{}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{payload}","payloadType":"{PAYLOAD}","signatures":[{{"sig":"{signature}"}}]}}}}"#,
            BUNDLES[0]
        )
    }

    #[test]
    fn a_bundle_is_read_and_a_changed_one_is_nobodys() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let pair = Pair::p256();
        let text = bundle(&pair, &statement("x", &digest, "{}"));
        let envelope = Envelope::of_bundle(text.as_bytes()).unwrap();
        assert!(envelope.is_about(&digest.parse().unwrap()));
        assert!(envelope.is_signed_by(&pair.public()));
        assert!(!envelope.is_signed_by(&Pair::p256().public()));
        // Whatever letter of it changes: it is refused, signed by nobody, or it states the same.
        for (at, letter) in text.char_indices() {
            let other = if letter == 'A' { 'B' } else { 'A' };
            let mut changed = text.clone();
            changed.replace_range(at..=at, &other.to_string());
            if let Ok(envelope) = Envelope::of_bundle(changed.as_bytes())
                && envelope.is_signed_by(&pair.public())
            {
                assert!(envelope.is_about(&digest.parse().unwrap()), "{changed}");
                assert_eq!(envelope.predicate_type, "x", "{changed}");
            }
        }
    }

    #[test]
    fn what_is_no_statement_is_refused() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let good = statement("x", &digest, "{}");
        let pair = Pair::ed25519();
        let text = bundle(&pair, &good);
        for bad in [
            text.replace(BUNDLES[0], "application/vnd.dev.sigstore.bundle.v0.9+json"),
            text.replace(PAYLOAD, "text/plain"),
            text.replace("\"sig\"", "\"gis\""),
            text.replace("dsseEnvelope", "messageSignature"),
            format!("{text}{text}"),
            bundle(&pair, &good.replace("Statement/v1", "Statement/v9")),
            bundle(&pair, &format!("{good}x")),
            bundle(&pair, "{}"),
            "{".repeat(100_000),
        ] {
            let shown: String = bad.chars().take(80).collect();
            assert!(Envelope::of_bundle(bad.as_bytes()).is_err(), "{shown}");
        }
        // One that is about several is about each of them.
        let several = good.replace(
            "[{",
            &format!("[{{\"digest\":{{\"sha256\":\"{}\"}}}},{{", "0b".repeat(32)),
        );
        let several = Envelope::of_bundle(bundle(&pair, &several).as_bytes()).unwrap();
        assert!(several.is_about(&digest.parse().unwrap()));
        // One that is about an image by another algorithm, or by its name alone, is about none.
        let hex = "0a".repeat(32);
        for about in ["{\"sha512\":\"", "{\"name\":\""] {
            let other = good.replace("{\"sha256\":\"", about);
            let text = bundle(&pair, &other);
            let envelope = Envelope::of_bundle(text.as_bytes()).unwrap();
            assert!(!envelope.is_about(&format!("sha256:{hex}").parse().unwrap()));
        }
    }
}
