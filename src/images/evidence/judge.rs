//! Who has signed an image. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Piece;
use super::annotated::Certified;
use super::dsse::Envelope;
use super::simple;
use crate::images::keyless::{Identity, Root};
use crate::images::keys::PublicKey;
use crate::images::refusal::Reason;
use crate::images::source::Loaded;
use crate::model::Timestamp;
use crate::model::codec;
use crate::model::image::{Digest, Signer, SubjectPattern};

/// What a statement states that is a signature, and nothing else.
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// Whose word counts: the keys and roots of a policy, at a moment.
#[derive(Clone, Copy)]
pub(in crate::images) struct Believed<'a> {
    pub policy: &'a Loaded,
    pub now: Timestamp,
}

/// A signer, as one is told from others: a key by itself, a person by what was proved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Known {
    Key(Digest),
    Identity {
        issuer: String,
        subject: String,
    },
    /// Whoever holds a certificate of this name.
    Holder(String),
}

/// A signer, and what is known of the signature.
pub(super) struct Vouched {
    by: Known,
    /// When it was made, as others attest.
    at: Option<Timestamp>,
    /// Until when it counts, of its own accord.
    until: Option<Timestamp>,
}

impl From<Known> for Vouched {
    fn from(by: Known) -> Self {
        Self {
            by,
            at: None,
            until: None,
        }
    }
}

impl<'a> Believed<'a> {
    /// A key that is accepted now.
    pub(super) fn key(&self, name: &str) -> Result<&'a PublicKey, String> {
        let spec = self.policy.policy.keys.get(name);
        let key = self.policy.keys.get(name);
        let (Some(spec), Some(key)) = (spec, key) else {
            return Err(format!("there is no key {name} in the image policy"));
        };
        match spec.not_after {
            Some(end) if self.now > end => {
                Err(format!("key {name} is not accepted any more since {end}"))
            }
            Some(_) | None => Ok(key),
        }
    }

    pub(super) fn root(&self, name: &str) -> Result<&'a Root, String> {
        let root = self.policy.roots.get(name);
        root.ok_or_else(|| format!("there is no root {name} in the image policy"))
    }

    /// Until when the word of these signers counts.
    pub(in crate::images) fn until(&self, signers: &[Signer]) -> Option<Timestamp> {
        let ends = signers.iter().filter_map(|signer| match signer {
            Signer::Key(name) => self.policy.policy.keys.get(name)?.not_after,
            Signer::Keyless { .. } | Signer::Notation { .. } => None,
        });
        ends.min()
    }

    /// Who of `signer` has made a statement; `Err` = nobody, and what was found.
    pub(super) fn has_stated(
        &self,
        signer: &Signer,
        bundle: Result<&[u8], String>,
        envelope: &Envelope,
        digest: &Digest,
    ) -> Result<Vouched, String> {
        match signer {
            Signer::Key(name) => self.by_key(name, |key| envelope.is_signed_by(key)),
            Signer::Keyless {
                root,
                issuer,
                subject,
            } => {
                let proved = self.root(root)?.verify(bundle?, digest)?;
                // Two readers of one text must have read the same.
                if !envelope.states(&proved.payload) {
                    return Err("its bundle is two things at once".to_owned());
                }
                wanted(issuer, subject, proved.by)
            }
            Signer::Notation { .. } => Err(by_notation(signer)),
        }
    }

    /// Who of `signer` has signed a text; `Err` = nobody, and what was found.
    fn has_signed(
        &self,
        signer: &Signer,
        text: &[u8],
        signature: &[u8],
        certified: &Certified,
    ) -> Result<Vouched, String> {
        match signer {
            Signer::Key(name) => self.by_key(name, |key| key.has_signed(text, signature)),
            Signer::Keyless {
                root,
                issuer,
                subject,
            } => {
                let proved = self.root(root)?.verify_text(certified.bundle()?, text)?;
                wanted(issuer, subject, proved)
            }
            Signer::Notation { .. } => Err(by_notation(signer)),
        }
    }

    /// The key of that name, if it `has_signed`.
    fn by_key(
        &self,
        name: &str,
        has_signed: impl FnOnce(&PublicKey) -> bool,
    ) -> Result<Vouched, String> {
        let key = self.key(name)?;
        if has_signed(key) {
            Ok(Known::Key(key.fingerprint()).into())
        } else {
            Err(format!("not by key {name}{}", key.remark()))
        }
    }

    /// Who of `signer` has signed an image by Notation; `Err` = nobody, and what was found.
    fn has_notarized(
        &self,
        signer: &Signer,
        envelope: &[u8],
        digest: &Digest,
    ) -> Result<Vouched, String> {
        let Signer::Notation { store, subject } = signer else {
            let signer = crate::images::decide::signer(signer);
            return Err(format!("it is by Notation, not by {signer}"));
        };
        let found = self.policy.stores.get(store);
        let found =
            found.ok_or_else(|| format!("there is no store {store} in the image policy"))?;
        let proved = found.verify(envelope, digest, self.now)?;
        if !subject.matches(&proved.holder) {
            return Err(format!(
                "its certificate is for `{}`, and `{subject}` is wanted",
                proved.name()
            ));
        }
        Ok(Vouched {
            by: Known::Holder(proved.name()),
            at: None,
            until: Some(proved.until),
        })
    }
}

fn by_notation(signer: &Signer) -> String {
    format!(
        "not by Notation, as {}",
        crate::images::decide::signer(signer)
    )
}

/// Whether what was proved is the identity that is wanted.
fn wanted(issuer: &str, subject: &SubjectPattern, proved: Identity) -> Result<Vouched, String> {
    if proved.issuer != *issuer {
        return Err(format!(
            "its certificate is of issuer {}, {issuer} is wanted",
            proved.issuer
        ));
    }
    if !subject.matches(&proved.subject) {
        return Err(format!(
            "its certificate is for {}, {subject} is wanted",
            proved.subject
        ));
    }
    Ok(Vouched {
        at: Some(proved.at),
        until: None,
        by: Known::Identity {
            issuer: proved.issuer,
            subject: proved.subject,
        },
    })
}

/// Who of those that are accepted has signed an image.
#[derive(Clone, Debug, Default)]
pub(in crate::images) struct Signed {
    by: BTreeMap<Known, String>,
    /// Signatures of this image by others.
    strangers: BTreeSet<String>,
    /// What is no signature of this image.
    invalid: BTreeSet<String>,
    /// When the latest of them was made, where others attest that.
    pub(in crate::images) at: Option<Timestamp>,
    /// Until when they count, of their own accord.
    pub(in crate::images) until: Option<Timestamp>,
}

impl Signed {
    /// How many different signers.
    pub(in crate::images) fn count(&self) -> usize {
        self.by.len()
    }

    /// Who, in words.
    pub(in crate::images) fn who(&self) -> String {
        let who: Vec<&str> = self.by.values().map(String::as_str).collect();
        who.join(", ")
    }

    /// Why those are too few.
    pub(in crate::images) fn reason(&self) -> Reason {
        match (self.strangers.is_empty(), self.invalid.is_empty()) {
            _ if !self.by.is_empty() => Reason::SignerUnknown,
            (false, _) => Reason::SignerUnknown,
            (true, false) => Reason::SignatureInvalid,
            (true, true) => Reason::NotSigned,
        }
    }

    /// What was found instead, in words.
    pub(in crate::images) fn instead(&self) -> String {
        let mut words = Vec::new();
        if !self.by.is_empty() {
            words.push(format!("signed by {}", self.who()));
        }
        words.extend(self.strangers.iter().take(3).cloned());
        words.extend(self.invalid.iter().take(3).cloned());
        if words.is_empty() {
            "no signature lies beside it".to_owned()
        } else {
            words.join("; ")
        }
    }
}

/// Looks who of `signers` has signed `digest` by what lies beside it.
pub(in crate::images) fn signed(
    signers: &[Signer],
    pieces: &[Piece],
    digest: &Digest,
    believed: Believed<'_>,
) -> Signed {
    let mut signed = Signed::default();
    for piece in pieces {
        if let Err(why) = take(signers, piece, digest, believed, &mut signed) {
            signed.invalid.insert(why);
        }
    }
    signed
}

fn take(
    signers: &[Signer],
    piece: &Piece,
    digest: &Digest,
    believed: Believed<'_>,
    signed: &mut Signed,
) -> Result<(), String> {
    let other = |about: &str| format!("a signature is of another image ({about})");
    let mut why_not = BTreeSet::new();
    let mut is_known = false;
    let mut note =
        |signer: &Signer, found: Result<Vouched, String>, signed: &mut Signed| match found {
            Ok(Vouched { by, at, until }) => {
                is_known = true;
                let words = match (&by, signer) {
                    (Known::Identity { subject, .. }, _) => subject.clone(),
                    (Known::Holder(name), _) => name.clone(),
                    (Known::Key(_), signer) => crate::images::decide::signer(signer),
                };
                signed.by.entry(by).or_insert(words);
                signed.at = signed.at.max(at);
                signed.until = signed.until.into_iter().chain(until).min();
            }
            Err(why) => drop(why_not.insert(why)),
        };
    match piece {
        Piece::Unusable(why) => return Err(why.clone()),
        Piece::Notation(bytes) => {
            for signer in signers {
                note(
                    signer,
                    believed.has_notarized(signer, bytes, digest),
                    signed,
                );
            }
        }
        // It attests something, and is no signature.
        Piece::Envelope { .. } => return Ok(()),
        Piece::Simple {
            payload,
            signature,
            certified,
        } => {
            let about = simple::read(payload)?;
            if about != *digest {
                return Err(other(&about.short()));
            }
            let signature = codec::from_base64(signature).ok_or("a signature is not base64")?;
            for signer in signers {
                let found = believed.has_signed(signer, payload, &signature, certified);
                note(signer, found, signed);
            }
        }
        Piece::Bundle(bytes) => {
            let envelope = Envelope::of_bundle(bytes)?;
            // Whoever may attest something has not signed by that.
            if envelope.predicate_type != SIGN {
                return Ok(());
            }
            if !envelope.is_about(digest) {
                return Err(other("by its statement"));
            }
            for signer in signers {
                let found =
                    believed.has_stated(signer, envelope.certified(bytes), &envelope, digest);
                note(signer, found, signed);
            }
        }
    }
    if !is_known {
        let why_not: Vec<String> = why_not.into_iter().collect();
        signed.strangers.insert(format!(
            "a signature of it is by nobody who is accepted ({})",
            why_not.join(", ")
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::super::dsse::tests::{bundle, statement};
    use super::*;
    use crate::images::keys::tests::Pair;
    use crate::images::source::load;

    fn digest(byte: u8) -> Digest {
        Digest::new([byte; 32])
    }

    /// A policy that knows these keys as `a`, `b`, and so on.
    pub fn policy(pairs: &[&Pair], more: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.yaml");
        let mut text =
            "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\nkeys:\n".to_owned();
        for (name, pair) in ["a", "b", "c"].iter().zip(pairs) {
            fs::write(folder.path().join(format!("{name}.pub")), pair.pem()).unwrap();
            text.push_str(&format!("  {name}: {{ file: {name}.pub{more} }}\n"));
        }
        fs::write(&file, text).unwrap();
        load(&file).unwrap()
    }

    fn simple_of(pair: &Pair, payload: String) -> Piece {
        let signature = codec::to_base64(&pair.sign(payload.as_bytes()));
        Piece::Simple {
            payload: payload.into_bytes(),
            signature,
            certified: Certified::No,
        }
    }

    fn simple(pair: &Pair, digest: Digest) -> Piece {
        simple_of(
            pair,
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
            ),
        )
    }

    fn stated(pair: &Pair, predicate_type: &str, digest: Digest) -> Piece {
        let statement = statement(predicate_type, &digest.to_string(), "{}");
        Piece::Bundle(bundle(pair, &statement).into_bytes().into())
    }

    fn keys(names: &[&str]) -> Vec<Signer> {
        names
            .iter()
            .map(|name| Signer::Key((*name).to_owned()))
            .collect()
    }

    fn ask(pieces: &[Piece], names: &[&str], policy: &Loaded) -> Signed {
        let now = Timestamp::from_millis(0);
        signed(&keys(names), pieces, &digest(1), Believed { policy, now })
    }

    #[test]
    fn both_formats_count_with_every_kind_of_key() {
        for pair in [Pair::p256(), Pair::p384(), Pair::ed25519()] {
            let policy = policy(&[&pair], "");
            for piece in [simple(&pair, digest(1)), stated(&pair, SIGN, digest(1))] {
                let found = ask(&[piece], &["a"], &policy);
                assert_eq!((found.count(), found.who().as_str()), (1, "key a"));
            }
        }
    }

    #[test]
    fn what_is_no_signature_of_this_image_by_this_key_does_not_count() {
        let (mine, theirs) = (Pair::p256(), Pair::p256());
        let policy = policy(&[&mine], "");
        let Piece::Simple {
            payload, signature, ..
        } = simple(&mine, digest(1))
        else {
            panic!("it is simply signed");
        };
        let payload = [payload, b" ".to_vec()].concat();
        let broken = Piece::Simple {
            payload,
            signature,
            certified: Certified::No,
        };
        let sbom = "https://spdx.dev/Document";
        for (what, piece, reason) in [
            ("nothing", None, Reason::NotSigned),
            ("another image", Some(simple(&mine, digest(2))), Reason::SignatureInvalid),
            ("another image", Some(stated(&mine, SIGN, digest(2))), Reason::SignatureInvalid),
            ("another key", Some(simple(&theirs, digest(1))), Reason::SignerUnknown),
            ("another key", Some(stated(&theirs, SIGN, digest(1))), Reason::SignerUnknown),
            ("another text", Some(broken), Reason::SignerUnknown),
            ("an attestation", Some(stated(&mine, sbom, digest(1))), Reason::NotSigned),
            (
                "another kind of text",
                Some(simple_of(&mine, r#"{"critical":{"image":{"docker-manifest-digest":"sha256:0101010101010101010101010101010101010101010101010101010101010101"},"type":"x"}}"#.to_owned())),
                Reason::SignatureInvalid,
            ),
            ("rubbish", Some(Piece::Bundle(b"{}".to_vec().into())), Reason::SignatureInvalid),
        ] {
            let pieces: Vec<Piece> = piece.into_iter().collect();
            let found = ask(&pieces, &["a"], &policy);
            assert_eq!((found.count(), found.reason()), (0, reason), "{what}");
        }
    }

    #[test]
    fn a_key_counts_once_whatever_it_has_signed_and_however_it_is_called() {
        let (one, two) = (Pair::p256(), Pair::ed25519());
        // `a` and `b` are one key: CVE-2026-102884.
        let policy = policy(&[&one, &one, &two], "");
        let pieces = [
            simple(&one, digest(1)),
            simple(&one, digest(1)),
            stated(&one, SIGN, digest(1)),
        ];
        assert_eq!(ask(&pieces, &["a", "b", "c"], &policy).count(), 1);
        let pieces = [simple(&one, digest(1)), stated(&two, SIGN, digest(1))];
        assert_eq!(ask(&pieces, &["a", "b", "c"], &policy).count(), 2);
        // During a rotation either is enough.
        assert_eq!(ask(&pieces[1..], &["a", "c"], &policy).who(), "key c");
    }

    #[test]
    fn a_key_is_not_accepted_after_its_end() {
        let pair = Pair::p256();
        let policy = policy(&[&pair], ", not_after: 2027-06-30");
        let at = |text: &str| {
            let now = text.parse().unwrap();
            let believed = Believed {
                policy: &policy,
                now,
            };
            signed(
                &keys(&["a"]),
                &[simple(&pair, digest(1))],
                &digest(1),
                believed,
            )
        };
        assert_eq!(at("2027-06-30T23:59:58Z").count(), 1);
        let late = at("2027-07-01T00:00:00Z");
        assert_eq!(late.count(), 0);
        assert!(
            late.instead().contains("not accepted any more"),
            "{}",
            late.instead()
        );
    }

    /// What real cosigns of two generations made, see `tests/data/cosign`.
    #[test]
    fn what_cosign_signs_counts_and_what_it_attests_does_not() {
        const IMAGE: &str =
            "sha256:8cac139af4d50a74e5e702d0d848e958eacb66b6e4ac907d66facebfaf810148";
        const IMAGE_OF_3: &str =
            "sha256:501f6bc0d6c1ec85043374f02b1896324a704c146ef464eb867c81cc15fbb83e";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.yaml");
        let key = include_str!("../../../tests/data/cosign/cosign.pub");
        fs::write(folder.path().join("a.pub"), key).unwrap();
        let key = include_str!("../../../tests/data/cosign/v3/cosign.pub");
        fs::write(folder.path().join("b.pub"), key).unwrap();
        let text = "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\n\
                    keys: { a: { file: a.pub }, b: { file: b.pub } }\n";
        fs::write(&file, text).unwrap();
        let policy = &load(&file).unwrap();
        let now = Timestamp::from_millis(0);
        let count = |piece: &Piece, key: &str, image: &str| {
            let (image, pieces) = (image.parse().unwrap(), [piece.clone()]);
            signed(&keys(&[key]), &pieces, &image, Believed { policy, now }).count()
        };
        let bundle = |bytes: &[u8]| Piece::Bundle(bytes.to_vec().into());
        let simple = Piece::Simple {
            payload: include_bytes!("../../../tests/data/cosign/payload.json").to_vec(),
            signature: include_str!("../../../tests/data/cosign/payload.sig").to_owned(),
            certified: Certified::No,
        };
        let sign = bundle(include_bytes!(
            "../../../tests/data/cosign/sign.sigstore.json"
        ));
        let sign_of_3 = bundle(include_bytes!(
            "../../../tests/data/cosign/v3/sign.sigstore.json"
        ));
        for (piece, key, other, image) in [
            (simple, "a", "b", IMAGE),
            (sign, "a", "b", IMAGE),
            (sign_of_3, "b", "a", IMAGE_OF_3),
        ] {
            assert_eq!(count(&piece, key, image), 1);
            assert_eq!(count(&piece, other, image), 0);
            assert_eq!(count(&piece, key, &digest(1).to_string()), 0);
        }
        let sbom = bundle(include_bytes!(
            "../../../tests/data/cosign/spdx.sigstore.json"
        ));
        let provenance = bundle(include_bytes!(
            "../../../tests/data/cosign/v3/provenance.sigstore.json"
        ));
        assert_eq!(count(&sbom, "a", IMAGE), 0);
        assert_eq!(count(&provenance, "b", IMAGE_OF_3), 0);
    }
}
