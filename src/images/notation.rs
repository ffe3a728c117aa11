//! Notation's signatures: a JSON web signature, and certificates that lead to a store of ours. The one
//! place that knows `webpki`.
//!
//! **Guarantees.** What is signed names the image by its digest. The certificate is good now, is for
//! signing, and comes of a certificate in the store; one there that is no authority vouches for itself
//! alone. What has to be understood is understood, or nothing counts.
//!
//! **What it does not do.** It asks nobody whether a certificate was revoked: take it, or its
//! authority, out of the store. It believes no countersigned time, so that a signature ends with its
//! certificate. It runs no plug-ins, and does not read COSE.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tokio_rustls::rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage as SigningUsage};

use super::keys::PublicKey;
use crate::model::Timestamp;
use crate::model::codec;
use crate::model::image::Digest;

/// What a signature in JSON is called in a manifest, and one in COSE.
pub(super) const JSON: &str = "application/jose+json";
pub(super) const COSE: &str = "application/cose";
/// What is said of one in COSE.
pub(super) const NO_COSE: &str =
    "a signature by Notation is in COSE, which is not read: sign with `--signature-format jws`";

/// What is signed.
const CONTENT: &str = "application/vnd.cncf.notary.payload.v1+json";
/// Signed by whoever holds the certificate.
const SCHEME: &str = "notary.x509";
/// What has to be understood, and is.
const UNDERSTOOD: [&str; 2] = ["io.cncf.notary.signingScheme", "io.cncf.notary.expiry"];
/// The purpose of certificates that sign programs.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
/// The most certificates of a store, and of a signature.
const MAX_STORED: usize = 100;
const MAX_CHAIN: usize = 10;
/// So far may another host's clock be ahead of ours.
const AHEAD: Duration = Duration::from_secs(300);

/// Whom signatures by Notation are believed from.
pub struct Store {
    authorities: Vec<TrustAnchor<'static>>,
    /// Those that vouch for themselves alone.
    alone: Vec<Vec<u8>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// A signature of an image, as it was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notarized {
    /// The parts of its holder's name.
    pub holder: Vec<(String, String)>,
    /// Until when that counts.
    pub until: Timestamp,
}

impl Notarized {
    /// The holder in words.
    pub(super) fn name(&self) -> String {
        let parts = self
            .holder
            .iter()
            .map(|(kind, value)| format!("{kind}={value}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Deserialize)]
struct Envelope {
    payload: String,
    protected: String,
    header: Header,
    signature: String,
}

#[derive(Deserialize)]
struct Header {
    x5c: Vec<String>,
}

#[derive(Deserialize)]
struct Protected {
    alg: String,
    cty: String,
    crit: Vec<String>,
    #[serde(rename = "io.cncf.notary.signingScheme")]
    scheme: String,
    #[serde(rename = "io.cncf.notary.signingTime")]
    signed: Option<String>,
    #[serde(rename = "io.cncf.notary.expiry")]
    expiry: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    target_artifact: Target,
}

#[derive(Deserialize)]
struct Target {
    digest: Digest,
}

impl Store {
    /// Reads certificates as PEM.
    ///
    /// # Errors
    /// What the text is instead, as it follows the name of its file.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "is no PEM file: it is not text")?;
        if text.contains("PRIVATE KEY-----") {
            return Err(
                "holds a PRIVATE key, which must never lie here: leave only certificates"
                    .to_owned(),
            );
        }
        let mut store = Self {
            authorities: Vec::new(),
            alone: Vec::new(),
        };
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
            let (inside, after) = after
                .split_once("-----END CERTIFICATE-----")
                .ok_or("breaks off within a certificate")?;
            rest = after;
            let inside: String = inside.split_ascii_whitespace().collect();
            let der =
                codec::from_base64(&inside).ok_or("holds a certificate that is not base64")?;
            store.add(der)?;
            if store.authorities.len() + store.alone.len() > MAX_STORED {
                return Err(format!("holds more than {MAX_STORED} certificates"));
            }
        }
        if store.authorities.is_empty() && store.alone.is_empty() {
            return Err("holds no certificate: it has no `-----BEGIN CERTIFICATE-----`".to_owned());
        }
        Ok(store)
    }

    fn add(&mut self, der: Vec<u8>) -> Result<(), String> {
        let broken =
            |why: &dyn fmt::Display| format!("holds a certificate that is not usable: {why}");
        let read = Certificate::from_der(&der).map_err(|error| broken(&error))?;
        let is_authority = match read.tbs_certificate.get::<BasicConstraints>() {
            Ok(constraints) => constraints.is_some_and(|(_, it)| it.ca),
            Err(error) => return Err(broken(&error)),
        };
        if is_authority {
            let whole = CertificateDer::from(der.as_slice());
            let anchor = anchor_from_trusted_cert(&whole).map_err(|error| broken(&error))?;
            self.authorities.push(anchor.to_owned());
        } else {
            self.alone.push(der);
        }
        Ok(())
    }

    /// Who has signed the image of `digest` by `envelope`, as of `now`.
    ///
    /// # Errors
    /// Why nobody has.
    pub(super) fn verify(
        &self,
        envelope: &[u8],
        digest: &Digest,
        now: Timestamp,
    ) -> Result<Notarized, String> {
        let broken =
            |why: &dyn fmt::Display| format!("its signature by Notation is not well formed: {why}");
        let envelope: Envelope =
            serde_json::from_slice(envelope).map_err(|error| broken(&error))?;
        let decoded =
            |text: &str| codec::from_base64(text).ok_or_else(|| broken(&"it is not base64"));
        let protected: Protected = serde_json::from_slice(&decoded(&envelope.protected)?)
            .map_err(|error| broken(&error))?;
        if let Some(other) = protected
            .crit
            .iter()
            .find(|it| !UNDERSTOOD.contains(&it.as_str()))
        {
            return Err(format!("`{other}` has to be understood, and is not"));
        }
        if protected.scheme != SCHEME || !protected.crit.iter().any(|it| it == UNDERSTOOD[0]) {
            return Err(format!(
                "it was signed by scheme `{}`; `{SCHEME}` is understood",
                protected.scheme
            ));
        }
        if protected.cty != CONTENT {
            return Err("it is on something else than an image".to_owned());
        }
        let chain: Result<Vec<_>, _> = envelope.header.x5c.iter().map(|it| decoded(it)).collect();
        let chain = chain?;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(broken(&"it bears no certificate, or too many"));
        }
        let holder = Holder::read(&chain[0])?;
        // What is signed is the text as it stands there.
        let signed = format!("{}.{}", envelope.protected, envelope.payload);
        let signature = decoded(&envelope.signature)?;
        if !holder
            .key
            .has_signed_for_web(&protected.alg, signed.as_bytes(), &signature)
        {
            return Err("its signature does not fit its certificate".to_owned());
        }
        self.vouches_for(&chain, now)?;
        let payload: Payload =
            serde_json::from_slice(&decoded(&envelope.payload)?).map_err(|error| broken(&error))?;
        let about = payload.target_artifact.digest;
        if about != *digest {
            return Err(format!("it is of another image ({})", about.short()));
        }
        let moment = |text: &String| text.parse::<Timestamp>().map_err(|error| broken(&error));
        let signed = protected.signed.as_ref().map(moment).transpose()?;
        if let Some(signed) = signed.filter(|signed| *signed > now.after(AHEAD)) {
            return Err(format!(
                "it was signed on {signed}, which is yet to come: one of the clocks is wrong"
            ));
        }
        let expiry = protected.expiry.as_ref().map(moment).transpose()?;
        if let Some(expiry) = expiry.filter(|expiry| *expiry <= now) {
            return Err(format!("it has not counted since {expiry}: sign it again"));
        }
        Ok(Notarized {
            holder: holder.name,
            until: expiry.map_or(holder.until, |expiry| expiry.min(holder.until)),
        })
    }

    /// Whether a certificate, with those that lead from it to one of ours, is good now.
    fn vouches_for(&self, chain: &[Vec<u8>], now: Timestamp) -> Result<(), String> {
        let [leaf, others @ ..] = chain else {
            return Err("it bears no certificate".to_owned());
        };
        let none =
            |why: webpki::Error| format!("its certificate is not vouched for by the store: {why}");
        let whole = CertificateDer::from(leaf.as_slice());
        let of_itself = match self.alone.contains(leaf) {
            true => vec![anchor_from_trusted_cert(&whole).map_err(none)?],
            false => Vec::new(),
        };
        let anchors = match self.alone.contains(leaf) {
            true => of_itself.as_slice(),
            false => self.authorities.as_slice(),
        };
        let others: Vec<_> = others
            .iter()
            .map(|it| CertificateDer::from(it.as_slice()))
            .collect();
        let now = u64::try_from(now.as_millis() / 1_000).unwrap_or(0);
        let certificate = EndEntityCert::try_from(&whole).map_err(none)?;
        let path = certificate.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            anchors,
            &others,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            None,
        );
        path.map(drop).map_err(none)
    }
}

/// The holder of a certificate that may sign.
struct Holder {
    key: PublicKey,
    name: Vec<(String, String)>,
    until: Timestamp,
}

impl Holder {
    fn read(der: &[u8]) -> Result<Self, String> {
        let broken = |why: &dyn fmt::Display| format!("its certificate is not well formed: {why}");
        let read = Certificate::from_der(der).map_err(|error| broken(&error))?;
        let read = read.tbs_certificate;
        let usage = read.get::<SigningUsage>().map_err(|error| broken(&error))?;
        if !usage.is_some_and(|(_, usage)| usage.digital_signature()) {
            return Err("its certificate is not for signing".to_owned());
        }
        let key = read
            .subject_public_key_info
            .to_der()
            .map_err(|error| broken(&error))?;
        let key = PublicKey::from_der(&key).map_err(|why| format!("its certificate {why}"))?;
        let mut name = Vec::new();
        for part in read.subject.0.iter().flat_map(|it| it.0.iter()) {
            let value = std::str::from_utf8(part.value.value()).map_err(|error| broken(&error))?;
            name.push((kind(&part.oid), value.to_owned()));
        }
        let until = read.validity.not_after.to_unix_duration().as_millis();
        Ok(Self {
            key,
            name,
            until: Timestamp::from_millis(i64::try_from(until).unwrap_or(i64::MAX)),
        })
    }
}

/// Reads `bytes` as certificates and as a signature.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(bytes: &[u8]) {
    Holder::read(bytes).ok();
    if let Ok(store) = Store::read(bytes) {
        store
            .verify(bytes, &Digest::new([0; 32]), Timestamp::from_millis(0))
            .ok();
    }
    let store = Store {
        authorities: Vec::new(),
        alone: Vec::new(),
    };
    let found = store.verify(bytes, &Digest::new([0; 32]), Timestamp::from_millis(0));
    assert!(found.is_err(), "an empty store vouches for nobody");
}

/// How a part of a name is called.
fn kind(oid: &ObjectIdentifier) -> String {
    match oid.to_string().as_str() {
        "2.5.4.3" => "CN".to_owned(),
        "2.5.4.6" => "C".to_owned(),
        "2.5.4.7" => "L".to_owned(),
        "2.5.4.8" => "ST".to_owned(),
        "2.5.4.9" => "STREET".to_owned(),
        "2.5.4.10" => "O".to_owned(),
        "2.5.4.11" => "OU".to_owned(),
        other => other.to_owned(),
    }
}
