//! An instance of Sigstore that a test is: an authority for certificates, the log of those, and the
//! log of what was signed by them. All of it can be made wrong in one place.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::keys::tests::{Pair, value};
use super::super::sha256;
use crate::model::Timestamp;
use crate::model::codec::to_base64;

/// When things are signed, unless a test says otherwise.
pub const NOON: &str = "2026-06-01T12:00:00Z";
pub const ISSUER: &str = "https://token.actions.githubusercontent.com";
pub const SUBJECT: &str = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1";

const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
pub const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const SCT_LIST: &[u8] = &[0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2];
const FULCIO_ISSUER: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 8];

/// A name of the holder of a certificate.
#[derive(Clone)]
pub enum Name {
    Mail(String),
    Uri(String),
}

/// How the log of certificates knows one.
#[derive(Clone, Copy, PartialEq)]
pub enum Logged {
    Yes,
    No,
    /// By a log that nobody trusts.
    Elsewhere,
    /// It is another certificate that is known.
    Another,
}

/// A certificate, as it is wanted.
#[derive(Clone)]
pub struct Wanted {
    pub names: Vec<Name>,
    pub issuer: Option<String>,
    pub from: Timestamp,
    pub to: Timestamp,
    pub usage: Option<&'static [u8]>,
    pub is_authority: bool,
    pub logged: Logged,
    /// When the log of signatures says that it was used.
    pub used: Timestamp,
}

impl Wanted {
    pub fn good() -> Self {
        Self {
            names: vec![Name::Uri(SUBJECT.to_owned())],
            issuer: Some(ISSUER.to_owned()),
            from: at("2026-06-01T11:55:00Z"),
            to: at("2026-06-01T12:05:00Z"),
            usage: Some(CODE_SIGNING),
            is_authority: false,
            logged: Logged::Yes,
            used: at(NOON),
        }
    }

    pub fn of(name: Name) -> Self {
        Self {
            names: vec![name],
            ..Self::good()
        }
    }
}

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// An instance of Sigstore.
pub struct Instance {
    authority: Pair,
    certificates: Pair,
    signatures: Pair,
}

/// Something signed by an identity.
pub struct Minted {
    certificate: Vec<u8>,
    signature: Vec<u8>,
    /// What the log of signatures has of it.
    body: String,
    used: i64,
    promise: Vec<u8>,
    log: Vec<u8>,
}

impl Instance {
    pub fn new() -> Self {
        Self {
            authority: Pair::p256(),
            certificates: Pair::p256(),
            signatures: Pair::p256(),
        }
    }

    /// One that differs in its authority, in its log of certificates, or in that of signatures.
    pub fn but_for(mut self, part: &str) -> Self {
        match part {
            "authority" => self.authority = Pair::p256(),
            "certificates" => self.certificates = Pair::p256(),
            _ => self.signatures = Pair::p256(),
        }
        self
    }

    /// The root by which others trust it.
    pub fn root(&self) -> String {
        let log = |pair: &Pair| {
            json!({
                "baseUrl": "https://log.test",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": to_base64(&pair.der()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": { "start": "2021-01-01T00:00:00Z" },
                },
                "logId": { "keyId": to_base64(sha256(&pair.der()).bytes()) },
            })
        };
        let authority = self.certificate(
            &Wanted {
                names: Vec::new(),
                issuer: None,
                from: at("2021-01-01T00:00:00Z"),
                to: at("2040-01-01T00:00:00Z"),
                usage: None,
                is_authority: true,
                logged: Logged::No,
                used: at(NOON),
            },
            &self.authority,
        );
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.signatures)],
            "ctlogs": [log(&self.certificates)],
            "certificateAuthorities": [{
                "uri": "https://ca.test",
                "certChain": { "certificates": [{ "rawBytes": to_base64(&authority) }] },
                "validFor": { "start": "2021-01-01T00:00:00Z" },
            }],
        })
        .to_string()
    }

    /// A certificate of `holder`.
    fn certificate(&self, wanted: &Wanted, holder: &Pair) -> Vec<u8> {
        let bare = to_be_signed(wanted, holder, None);
        let listed = match wanted.logged {
            Logged::No => None,
            Logged::Yes => Some(self.known(&self.certificates, &bare)),
            Logged::Elsewhere => Some(self.known(&Pair::p256(), &bare)),
            Logged::Another => Some(self.known(&self.certificates, b"another")),
        };
        let signed = to_be_signed(wanted, holder, listed.as_deref());
        let signature = [vec![0], self.authority.sign(&signed)].concat();
        sequence(&[signed, algorithm(), value(3, &signature)])
    }

    /// What `log` says of a certificate that it knows.
    fn known(&self, log: &Pair, bare: &[u8]) -> Vec<u8> {
        let moment = 1_780_315_200_000_u64.to_be_bytes();
        let signed = [
            &[0, 0][..],
            &moment,
            &[0, 1],
            sha256(&self.authority.der()).bytes(),
            &u32::try_from(bare.len()).unwrap().to_be_bytes()[1..],
            bare,
            &[0, 0],
        ]
        .concat();
        let signature = log.sign(&signed);
        let one = [
            &[0][..],
            sha256(&log.der()).bytes(),
            &moment,
            &[0, 0, 4, 3],
            &length(signature.len()),
            &signature,
        ]
        .concat();
        let list = [&length(one.len())[..], &one].concat();
        value(4, &[&length(list.len())[..], &list].concat())
    }

    /// Signs a text as cosign's older form has it.
    pub fn text(&self, wanted: &Wanted, text: &[u8]) -> Minted {
        let pair = Pair::p256();
        let certificate = self.certificate(wanted, &pair);
        let signature = pair.sign(text);
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": { "hash": { "algorithm": "sha256", "value": sha256(text).hex() } },
                "signature": {
                    "content": to_base64(&signature),
                    "publicKey": { "content": to_base64(pem(&certificate).as_bytes()) },
                },
            },
        });
        self.log(certificate, signature, &body, wanted.used)
    }

    /// Signs a statement.
    pub fn statement(&self, wanted: &Wanted, statement: &[u8]) -> Minted {
        let pair = Pair::p256();
        let certificate = self.certificate(wanted, &pair);
        let signature = pair.sign(
            &[
                format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), statement.len()).as_bytes(),
                statement,
            ]
            .concat(),
        );
        let hash = |bytes: &[u8]| json!({ "algorithm": "sha256", "value": sha256(bytes).hex() });
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": hash(b"of the form in which it was sent"),
                "payloadHash": hash(statement),
                "signatures": [{
                    "signature": to_base64(&signature),
                    "verifier": to_base64(pem(&certificate).as_bytes()),
                }],
            },
        });
        self.log(certificate, signature, &body, wanted.used)
    }

    fn log(
        &self,
        certificate: Vec<u8>,
        signature: Vec<u8>,
        body: &Value,
        used: Timestamp,
    ) -> Minted {
        let body = body.to_string();
        let used = used.as_millis() / 1_000;
        let log = sha256(&self.signatures.der());
        let entry = format!(
            r#"{{"body":"{}","integratedTime":{used},"logID":"{}","logIndex":7}}"#,
            to_base64(body.as_bytes()),
            log.hex()
        );
        Minted {
            certificate,
            signature,
            body,
            used,
            promise: self.signatures.sign(entry.as_bytes()),
            log: log.bytes().to_vec(),
        }
    }

    /// A bundle with a statement.
    pub fn bundle(&self, minted: &Minted, statement: &[u8]) -> Value {
        let leaf = sha256(&[&[0], minted.body.as_bytes()].concat());
        let note = format!("log.test\n1\n{}\n", to_base64(leaf.bytes()));
        let signature = self.signatures.sign(note.as_bytes());
        let hinted = to_base64(&[&minted.log[..4], &signature].concat());
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": { "rawBytes": to_base64(&minted.certificate) },
                "tlogEntries": [{
                    "logIndex": "7",
                    "logId": { "keyId": to_base64(&minted.log) },
                    "kindVersion": { "kind": "dsse", "version": "0.0.1" },
                    "integratedTime": minted.used.to_string(),
                    "inclusionPromise": { "signedEntryTimestamp": to_base64(&minted.promise) },
                    "inclusionProof": {
                        "logIndex": "0",
                        "rootHash": to_base64(leaf.bytes()),
                        "treeSize": "1",
                        "hashes": [],
                        "checkpoint": { "envelope": format!("{note}\n\u{2014} log.test {hinted}\n") },
                    },
                    "canonicalizedBody": to_base64(minted.body.as_bytes()),
                }],
            },
            "dsseEnvelope": minted.envelope(statement),
        })
    }
}

const IN_TOTO: &str = "application/vnd.in-toto+json";

impl Minted {
    pub fn signature(&self) -> String {
        to_base64(&self.signature)
    }

    pub fn envelope(&self, statement: &[u8]) -> Value {
        json!({
            "payload": to_base64(statement),
            "payloadType": IN_TOTO,
            "signatures": [{ "sig": self.signature() }],
        })
    }

    /// The annotations of a layer in cosign's older form.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let hex: String = self.log.iter().map(|byte| format!("{byte:02x}")).collect();
        let promise = json!({
            "SignedEntryTimestamp": to_base64(&self.promise),
            "Payload": {
                "body": to_base64(self.body.as_bytes()),
                "integratedTime": self.used,
                "logIndex": 7,
                "logID": hex,
            },
        });
        [
            ("dev.cosignproject.cosign/signature", self.signature()),
            ("dev.sigstore.cosign/certificate", pem(&self.certificate)),
            ("dev.sigstore.cosign/bundle", promise.to_string()),
        ]
        .map(|(name, text)| (name.to_owned(), text))
        .into()
    }
}

fn to_be_signed(wanted: &Wanted, holder: &Pair, logged: Option<&[u8]>) -> Vec<u8> {
    let authority = distinguished(&[(&[0x55, 4, 10], "test"), (&[0x55, 4, 3], "authority")]);
    let subject = match wanted.is_authority && wanted.names.is_empty() {
        true => authority.clone(),
        false => sequence(&[]),
    };
    let mut extensions = Vec::new();
    let usage: &[u8] = match wanted.is_authority {
        true => &[3, 2, 1, 6],
        false => &[3, 2, 7, 0x80],
    };
    extensions.push(extension(&[0x55, 0x1d, 0x0f], usage));
    if wanted.is_authority {
        extensions.push(extension(
            &[0x55, 0x1d, 0x13],
            &sequence(&[vec![1, 1, 0xff]]),
        ));
    }
    if let Some(usage) = wanted.usage {
        extensions.push(extension(
            &[0x55, 0x1d, 0x25],
            &sequence(&[value(6, usage)]),
        ));
    }
    if !wanted.names.is_empty() {
        let names = wanted.names.iter().map(|name| match name {
            Name::Mail(text) => value(0x81, text.as_bytes()),
            Name::Uri(text) => value(0x86, text.as_bytes()),
        });
        let names: Vec<_> = names.collect();
        extensions.push(extension(&[0x55, 0x1d, 0x11], &sequence(&names)));
    }
    if let Some(issuer) = &wanted.issuer {
        extensions.push(extension(FULCIO_ISSUER, &value(0x0c, issuer.as_bytes())));
    }
    if let Some(logged) = logged {
        extensions.push(extension(SCT_LIST, logged));
    }
    sequence(&[
        value(0xa0, &value(2, &[2])),
        value(2, &[7]),
        algorithm(),
        authority,
        sequence(&[moment(wanted.from), moment(wanted.to)]),
        subject,
        holder.der(),
        value(0xa3, &sequence(&extensions)),
    ])
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

pub fn algorithm() -> Vec<u8> {
    sequence(&[value(6, ECDSA_SHA256)])
}

pub fn extension(name: &[u8], inside: &[u8]) -> Vec<u8> {
    sequence(&[value(6, name), value(4, inside)])
}

/// A name of several parts.
pub fn distinguished(parts: &[(&[u8], &str)]) -> Vec<u8> {
    let parts = parts.iter().map(|(kind, text)| {
        let one = sequence(&[value(6, kind), value(0x0c, text.as_bytes())]);
        value(0x31, &one)
    });
    sequence(&parts.collect::<Vec<_>>())
}

/// A time of this century.
pub fn moment(at: Timestamp) -> Vec<u8> {
    let digits: String = at
        .to_string()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    value(0x17, format!("{}Z", &digits[2..14]).as_bytes())
}

pub fn pem(der: &[u8]) -> String {
    let text = to_base64(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

fn length(of: usize) -> [u8; 2] {
    u16::try_from(of).unwrap().to_be_bytes()
}
