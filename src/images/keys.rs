//! Public keys, and what they have signed.

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};

use super::sha256;
use crate::model::codec;
use crate::model::image::Digest;

/// The largest file of a key, in bytes.
pub(super) const KEY_LIMIT: u64 = 64 << 10;
/// The sizes of RSA keys that are accepted, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519_ID: &[u8] = &[0x2b, 0x65, 0x70];

/// A public key. Its kind alone says how a signature is checked: none says so itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    bytes: Vec<u8>,
    fingerprint: Digest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Rsa,
    Ed25519,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {}", self.fingerprint)
    }
}

impl PublicKey {
    /// Reads a key as PEM.
    ///
    /// # Errors
    /// What the text holds instead, as it follows the name of its file.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "is no PEM file: it is not text")?;
        if text.contains("PRIVATE KEY-----") {
            return Err(
                "holds a PRIVATE key, which must never lie here: put the public one there, and \
                 take the private one to a safe place"
                    .to_owned(),
            );
        }
        let (begin, end) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");
        let Some((before, rest)) = text.split_once(begin) else {
            return Err(if text.contains("BEGIN CERTIFICATE") {
                "holds a certificate, not a public key; `openssl x509 -pubkey -noout` gives its key"
            } else if text.contains("BEGIN RSA PUBLIC KEY") {
                "holds a key in an old form; `openssl rsa -RSAPublicKey_in -pubout` gives the usual one"
            } else {
                "holds no public key: it has no `-----BEGIN PUBLIC KEY-----`"
            }
            .to_owned());
        };
        let (inside, after) = rest
            .split_once(end)
            .ok_or("breaks off within its public key")?;
        if after.contains("-----BEGIN") || before.contains("-----BEGIN") {
            return Err("holds more than one key; write a key of each".to_owned());
        }
        let inside: String = inside.split_ascii_whitespace().collect();
        let der = codec::from_base64(&inside).ok_or("holds a public key that is not base64")?;
        Self::from_der(&der)
    }

    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// What it is instead, as it follows the name of its file.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let broken = || "holds a public key that is not well formed".to_owned();
        let mut outer = Der(der);
        let mut info = Der(outer.take(0x30).ok_or_else(broken)?);
        let mut algorithm = Der(info.take(0x30).ok_or_else(broken)?);
        let bits = info.take(0x03).ok_or_else(broken)?;
        let (unused, bytes) = bits.split_first().ok_or_else(broken)?;
        if *unused != 0 || !outer.0.is_empty() || !info.0.is_empty() {
            return Err(broken());
        }
        let name = algorithm.take(0x06).ok_or_else(broken)?;
        let kind = match name {
            EC_PUBLIC_KEY => match algorithm.take(0x06).ok_or_else(broken)? {
                P256 if bytes.len() == 65 && bytes[0] == 4 => Kind::P256,
                P384 if bytes.len() == 97 && bytes[0] == 4 => Kind::P384,
                P256 | P384 => return Err(broken()),
                _ => {
                    return Err(
                        "holds a key on a curve that is not supported: P-256 and P-384 are"
                            .to_owned(),
                    );
                }
            },
            RSA => {
                let bits = rsa_bits(bytes).ok_or_else(broken)?;
                if !RSA_BITS.contains(&bits) {
                    return Err(format!(
                        "holds an RSA key of {bits} bits; {} to {} are accepted",
                        RSA_BITS.start(),
                        RSA_BITS.end()
                    ));
                }
                Kind::Rsa
            }
            ED25519_ID if bytes.len() == 32 => Kind::Ed25519,
            ED25519_ID => return Err(broken()),
            _ => {
                return Err(
                    "holds a key of a kind that is not supported: ECDSA, RSA and Ed25519 are"
                        .to_owned(),
                );
            }
        };
        Ok(Self {
            kind,
            bytes: bytes.to_owned(),
            fingerprint: sha256(der),
        })
    }

    /// What is worth knowing when nothing is by it.
    pub fn remark(&self) -> &'static str {
        match self.kind {
            Kind::Ed25519 => {
                ", whose signatures are read in the pure form of Ed25519; cosign makes the prehashed one"
            }
            Kind::P256 | Kind::P384 | Kind::Rsa => "",
        }
    }

    /// The digest of the whole key: one key is one, whatever it is called.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// Whether `signature` is this key's, over `message`.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithms: &[&dyn VerificationAlgorithm] = match self.kind {
            Kind::P256 => &[&ECDSA_P256_SHA256_ASN1],
            // Older signers use SHA-256 with every key.
            Kind::P384 => &[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1],
            Kind::Rsa => &[&RSA_PKCS1_2048_8192_SHA256],
            Kind::Ed25519 => &[&ED25519],
        };
        algorithms.iter().any(|algorithm| {
            let key = UnparsedPublicKey::new(*algorithm, &self.bytes);
            key.verify(message, signature).is_ok()
        })
    }
}

impl PublicKey {
    /// Whether `signature` is this key's, over `message`, as JSON web signatures by `algorithm` are. One
    /// that is for another kind of key is none.
    pub(super) fn has_signed_for_web(
        &self,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match (self.kind, algorithm) {
            (Kind::P256, "ES256") => &ECDSA_P256_SHA256_FIXED,
            (Kind::P384, "ES384") => &ECDSA_P384_SHA384_FIXED,
            (Kind::Rsa, "PS256") => &RSA_PSS_2048_8192_SHA256,
            (Kind::Rsa, "PS384") => &RSA_PSS_2048_8192_SHA384,
            (Kind::Rsa, "PS512") => &RSA_PSS_2048_8192_SHA512,
            (Kind::P256 | Kind::P384 | Kind::Rsa | Kind::Ed25519, _) => return false,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.bytes);
        key.verify(message, signature).is_ok()
    }
}

/// The bits of the modulus of an RSAPublicKey.
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let mut outer = Der(der);
    let mut key = Der(outer.take(0x30)?);
    let modulus = key.take(0x02)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let modulus = &modulus[first..];
    let top = usize::try_from(modulus.first()?.leading_zeros()).ok()?;
    Some(modulus.len() * 8 - top)
}

/// What is left to read of a DER text.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next value, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(2)?;
        if head[0] != tag {
            return None;
        }
        let (length, rest) = match head[1] {
            short @ ..=0x7f => (usize::from(short), rest),
            0x81 => {
                let (bytes, rest) = rest.split_at_checked(1)?;
                (usize::from(bytes[0]), rest)
            }
            0x82 => {
                let (bytes, rest) = rest.split_at_checked(2)?;
                (usize::from(bytes[0]) << 8 | usize::from(bytes[1]), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    };

    use super::*;

    /// A key pair of the tests.
    pub enum Pair {
        Ecdsa(EcdsaKeyPair, &'static [u8]),
        Ed25519(Ed25519KeyPair),
    }

    impl Pair {
        pub fn p256() -> Self {
            Self::ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, P256)
        }

        pub fn p384() -> Self {
            Self::ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, P384)
        }

        fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static [u8]) -> Self {
            let random = SystemRandom::new();
            let secret = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, secret.as_ref(), &random).unwrap();
            Self::Ecdsa(pair, curve)
        }

        pub fn ed25519() -> Self {
            let secret = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Self::Ed25519(Ed25519KeyPair::from_pkcs8(secret.as_ref()).unwrap())
        }

        pub fn sign(&self, message: &[u8]) -> Vec<u8> {
            match self {
                Self::Ecdsa(pair, _) => {
                    let signature = pair.sign(&SystemRandom::new(), message).unwrap();
                    signature.as_ref().to_owned()
                }
                Self::Ed25519(pair) => pair.sign(message).as_ref().to_owned(),
            }
        }

        /// A signature on P-256 as JSON web signatures have it.
        pub fn sign_for_web(&self, message: &[u8]) -> Vec<u8> {
            let signature = self.sign(message);
            let mut outer = Der(&signature);
            let mut numbers = Der(outer.take(0x30).unwrap());
            let mut fixed = Vec::new();
            for _ in 0..2 {
                let number = numbers.take(0x02).unwrap();
                let number: Vec<u8> = number.iter().copied().skip_while(|it| *it == 0).collect();
                fixed.extend(vec![0; 32 - number.len()]);
                fixed.extend(number);
            }
            fixed
        }

        pub fn der(&self) -> Vec<u8> {
            let oid = |oid: &[u8]| value(6, oid);
            let (algorithm, key) = match self {
                Self::Ecdsa(pair, curve) => (
                    [oid(EC_PUBLIC_KEY), oid(curve)].concat(),
                    pair.public_key().as_ref().to_owned(),
                ),
                Self::Ed25519(pair) => (oid(ED25519_ID), pair.public_key().as_ref().to_owned()),
            };
            spki(&algorithm, &key)
        }

        pub fn pem(&self) -> String {
            pem(&self.der())
        }

        pub fn public(&self) -> PublicKey {
            PublicKey::from_der(&self.der()).unwrap()
        }
    }

    fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
        let bits = [&[0], key].concat();
        value(0x30, &[value(0x30, algorithm), value(3, &bits)].concat())
    }

    /// A value in DER.
    pub fn value(tag: u8, inside: &[u8]) -> Vec<u8> {
        let length = inside.len();
        let [.., high, low] = length.to_be_bytes();
        let head = match length {
            0..0x80 => vec![tag, low],
            0x80..0x100 => vec![tag, 0x81, low],
            _ => vec![tag, 0x82, high, low],
        };
        [head, inside.to_owned()].concat()
    }

    fn pem(der: &[u8]) -> String {
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            codec::to_base64(der)
        )
    }

    #[test]
    fn each_kind_of_key_knows_its_own_signatures_and_no_others() {
        let pairs = [Pair::p256(), Pair::p384(), Pair::ed25519(), Pair::p256()];
        for (mine, pair) in pairs.iter().enumerate() {
            let signature = pair.sign(b"message");
            for (other, key) in pairs.iter().enumerate() {
                let key = PublicKey::from_pem(key.pem().as_bytes()).unwrap();
                assert_eq!(key.has_signed(b"message", &signature), mine == other);
                assert!(!key.has_signed(b"messagf", &signature));
            }
            for at in 0..signature.len() {
                let mut broken = signature.clone();
                broken[at] ^= 1;
                assert!(!pair.public().has_signed(b"message", &broken), "{at}");
            }
        }
    }

    #[test]
    fn what_is_no_public_key_is_called_what_it_is() {
        let rsa = |bits: usize| {
            let modulus = [vec![0], vec![0xff; bits / 8]].concat();
            let key = value(0x30, &[value(2, &modulus), value(2, &[1, 0, 1])].concat());
            pem(&spki(&[value(6, RSA), value(5, &[])].concat(), &key))
        };
        assert!(PublicKey::from_pem(rsa(2_048).as_bytes()).is_ok());
        let good = Pair::p256().pem();
        let begin = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
        for (text, wanted) in [
            (rsa(1_024), "1024 bits"),
            (begin("PRIVATE KEY"), "PRIVATE key"),
            (begin("ENCRYPTED SIGSTORE PRIVATE KEY"), "PRIVATE key"),
            (begin("CERTIFICATE"), "a certificate"),
            (begin("RSA PUBLIC KEY"), "old form"),
            (begin("PUBLIC KEY"), "not well formed"),
            (format!("{good}{good}"), "more than one key"),
            (String::new(), "no public key"),
            (good[..60].to_owned(), "breaks off"),
            (
                pem(&spki(&value(6, &[0x2b, 0x65, 0x71]), &[0; 57])),
                "a kind that is not supported",
            ),
            (
                pem(&spki(
                    &[
                        value(6, EC_PUBLIC_KEY),
                        value(6, &[0x2b, 0x81, 0x04, 0x00, 0x23]),
                    ]
                    .concat(),
                    &[4; 133],
                )),
                "a curve that is not supported",
            ),
        ] {
            let why = PublicKey::from_pem(text.as_bytes()).unwrap_err();
            assert!(why.contains(wanted), "{wanted}: {why}");
        }
        assert!(PublicKey::from_pem(&[0xff]).is_err());
    }
}
