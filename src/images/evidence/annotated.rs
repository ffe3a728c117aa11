//! Cosign's older form of a signature by an identity: its certificate and the log's promise stand in
//! annotations of a layer. It is written anew as a bundle, so that there is one way to verify.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::images::sha256;
use crate::model::codec;

/// Where the certificate of whoever has signed stands, as PEM.
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// Where the log's promise stands that it has the signature.
const PROMISE: &str = "dev.sigstore.cosign/bundle";
/// The form of bundle that a promise is enough for.
const FORM: &str = "application/vnd.dev.sigstore.bundle+json;version=0.1";

/// A signature by an identity, as a bundle.
#[derive(Clone, Debug)]
pub(in crate::images) enum Certified {
    /// No certificate stands there: it may be by a key.
    No,
    /// One does.
    Bundle(Arc<Vec<u8>>),
    /// One does, and proves nothing.
    Broken(String),
}

/// What is signed.
pub(super) enum Content<'a> {
    /// A text, by a signature in base64.
    Text { text: &'a [u8], signature: &'a str },
    /// An envelope with its signatures.
    Envelope(&'a [u8]),
}

#[derive(Deserialize)]
struct Promise {
    #[serde(rename = "SignedEntryTimestamp")]
    signature: String,
    #[serde(rename = "Payload")]
    entry: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    api_version: String,
    kind: String,
}

impl Certified {
    /// Reads the annotations of a layer.
    pub(super) fn read(annotations: &BTreeMap<String, String>, content: &Content<'_>) -> Self {
        let Some(certificate) = annotations.get(CERTIFICATE) else {
            return Self::No;
        };
        let promise = annotations.get(PROMISE);
        match bundle(certificate, promise.map(String::as_str), content) {
            Ok(bundle) => Self::Bundle(Arc::new(bundle.to_string().into_bytes())),
            Err(why) => Self::Broken(why),
        }
    }

    /// The bundle.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn bundle(&self) -> Result<&[u8], String> {
        match self {
            Self::No => Err("it bears no certificate".to_owned()),
            Self::Bundle(bundle) => Ok(bundle),
            Self::Broken(why) => Err(why.clone()),
        }
    }
}

fn bundle(
    certificate: &str,
    promise: Option<&str>,
    content: &Content<'_>,
) -> Result<Value, String> {
    let certificate = from_pem(certificate).ok_or("its certificate is not one, as PEM")?;
    let promise = promise.ok_or(
        "its certificate proves nothing, since no log says when it was used (it was signed with \
         `--tlog-upload=false`)",
    )?;
    let promise: Promise = serde_json::from_str(promise)
        .map_err(|error| format!("what the log says of it is not well formed: {error}"))?;
    let Entry {
        body,
        integrated_time,
        log_index,
        log_id,
    } = promise.entry;
    let body = codec::from_base64(&body).ok_or("the log's entry is not base64")?;
    let Body { api_version, kind } = serde_json::from_slice(&body)
        .map_err(|error| format!("the log's entry is not well formed: {error}"))?;
    let log_id = from_hex(&log_id).ok_or("the log's name is not hexadecimal")?;
    let mut bundle = json!({
        "mediaType": FORM,
        "verificationMaterial": {
            "certificate": { "rawBytes": codec::to_base64(&certificate) },
            "tlogEntries": [{
                "logIndex": log_index.to_string(),
                "logId": { "keyId": codec::to_base64(&log_id) },
                "kindVersion": { "kind": kind, "version": api_version },
                "integratedTime": integrated_time.to_string(),
                "inclusionPromise": { "signedEntryTimestamp": promise.signature },
                "canonicalizedBody": codec::to_base64(&body),
            }],
        },
    });
    match content {
        Content::Text { text, signature } => {
            bundle["messageSignature"] = json!({
                "messageDigest": {
                    "algorithm": "SHA2_256",
                    "digest": codec::to_base64(sha256(text).bytes()),
                },
                "signature": signature,
            });
        }
        Content::Envelope(envelope) => {
            let envelope: Value = serde_json::from_slice(envelope)
                .map_err(|error| format!("a statement's envelope is not well formed: {error}"))?;
            bundle["dsseEnvelope"] = envelope;
        }
    }
    Ok(bundle)
}

/// The one certificate of a PEM text.
fn from_pem(text: &str) -> Option<Vec<u8>> {
    let (before, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (inside, after) = rest.split_once("-----END CERTIFICATE-----")?;
    let is_alone = before.trim().is_empty() && after.trim().is_empty();
    let inside: String = inside.split_ascii_whitespace().collect();
    codec::from_base64(&inside).filter(|der| is_alone && !der.is_empty())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|it| it.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    bytes.collect()
}
