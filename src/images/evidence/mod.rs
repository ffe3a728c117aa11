//! What lies beside an image in a registry, and what it proves.
//!
//! **Guarantees.** Each piece is read once and hashed by us. A signature counts for an image only if
//! what is signed names its digest; a statement counts as a signature only if that is what it states;
//! a signer counts once, whatever and however often it has signed.

mod annotated;
mod attest;
mod dsse;
mod judge;
mod simple;

use std::sync::Arc;

use super::notation;
use super::oci::{Descriptor, Document, Manifest};
use super::registry::{Session, Trouble};
use crate::model::image::Digest;
use annotated::{Certified, Content};

pub(super) use attest::attested;
pub(super) use judge::{Believed, Signed, signed};

/// The most pieces that are looked at beside one image.
const MAX_PIECES: usize = 64;
/// The largest signature, and the largest bundle or envelope, in bytes.
const SIGNATURE_LIMIT: usize = 1 << 20;
const STATEMENT_LIMIT: usize = 16 << 20;
/// The most bytes beside one image.
const TOTAL_LIMIT: usize = 20 << 20;

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// Where the signature of a simply signed text stands.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Something that lies beside an image.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// A text and its signature.
    Simple {
        payload: Vec<u8>,
        signature: String,
        certified: Certified,
    },
    /// A bundle, with a statement in it.
    Bundle(Arc<Vec<u8>>),
    /// An envelope alone.
    Envelope {
        bytes: Arc<Vec<u8>>,
        certified: Certified,
    },
    /// A signature by Notation.
    Notation(Arc<Vec<u8>>),
    /// Something that could not be used, and why.
    Unusable(String),
}

/// What lies beside the images of one repository, asked for as it is needed.
pub(super) struct Beside<'c> {
    session: Session<'c>,
    bytes: usize,
}

impl<'c> Beside<'c> {
    pub(super) fn new(session: Session<'c>) -> Self {
        Self { session, bytes: 0 }
    }

    /// What the tag that cosign makes for signatures, or for attestations, holds.
    ///
    /// # Errors
    /// When that could not be found out.
    pub(super) async fn tagged(
        &mut self,
        digest: &Digest,
        suffix: &str,
    ) -> Result<Vec<Piece>, Trouble> {
        let tag = format!("sha256-{}.{suffix}", digest.hex());
        match self.session.tag(&tag).await? {
            None => Ok(Vec::new()),
            Some(found) => match found.document {
                Document::Manifest(manifest) => self.pieces(&manifest).await,
                Document::Index(_) => Ok(vec![Piece::Unusable(format!("{tag} is an index"))]),
            },
        }
    }

    /// What refers to an image.
    ///
    /// # Errors
    /// When that could not be found out.
    pub(super) async fn referring(&mut self, digest: &Digest) -> Result<Vec<Piece>, Trouble> {
        let listed = self.session.referrers(digest, MAX_PIECES).await?;
        let mut pieces = Vec::new();
        for Descriptor { digest, .. } in listed {
            // What it is called in the list need not be what it is.
            let Some(found) = self.session.manifest(&digest).await? else {
                pieces.push(Piece::Unusable(format!(
                    "{digest} is listed, and not there"
                )));
                continue;
            };
            match found.document {
                Document::Manifest(manifest) => pieces.extend(self.pieces(&manifest).await?),
                Document::Index(_) => {}
            }
            if pieces.len() > MAX_PIECES {
                break;
            }
        }
        Ok(pieces)
    }

    async fn pieces(&mut self, manifest: &Manifest) -> Result<Vec<Piece>, Trouble> {
        let mut pieces = Vec::new();
        for layer in &manifest.layers {
            if pieces.len() == MAX_PIECES {
                pieces.push(Piece::Unusable(format!(
                    "more than {MAX_PIECES} pieces lie in one place; the others were not looked at"
                )));
                break;
            }
            let limit = match layer.media_type.as_str() {
                SIMPLE => SIGNATURE_LIMIT,
                ENVELOPE => STATEMENT_LIMIT,
                notation::JSON => SIGNATURE_LIMIT,
                notation::COSE => {
                    pieces.push(Piece::Unusable(notation::NO_COSE.to_owned()));
                    continue;
                }
                kind if kind.starts_with(BUNDLE) => STATEMENT_LIMIT,
                _ => continue,
            };
            let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
            if size > limit || self.bytes.saturating_add(size) > TOTAL_LIMIT {
                let why = format!("{} is too large ({size} bytes)", layer.digest);
                pieces.push(Piece::Unusable(why));
                continue;
            }
            let Some(bytes) = self.session.blob(layer, limit).await? else {
                pieces.push(Piece::Unusable(format!("{} is not there", layer.digest)));
                continue;
            };
            self.bytes = self.bytes.saturating_add(bytes.len());
            pieces.push(match layer.media_type.as_str() {
                SIMPLE => match layer.annotations.get(SIGNATURE) {
                    Some(signature) => {
                        let text = &bytes;
                        let content = Content::Text { text, signature };
                        Piece::Simple {
                            certified: Certified::read(&layer.annotations, &content),
                            signature: signature.clone(),
                            payload: bytes,
                        }
                    }
                    None => Piece::Unusable("a text bears no signature".to_owned()),
                },
                ENVELOPE => Piece::Envelope {
                    certified: Certified::read(&layer.annotations, &Content::Envelope(&bytes)),
                    bytes: Arc::new(bytes),
                },
                notation::JSON => Piece::Notation(Arc::new(bytes)),
                _ => Piece::Bundle(Arc::new(bytes)),
            });
        }
        Ok(pieces)
    }
}

/// Reads `bytes` as whatever may lie beside an image.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(bytes: &[u8]) {
    simple::read(bytes).ok();
    let read = [
        dsse::Envelope::of_bundle(bytes),
        dsse::Envelope::alone(bytes),
    ];
    for envelope in read.iter().flatten() {
        envelope.is_about(&Digest::new([0; 32]));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The bundle that an annotated text is written as; empty = it is none.
    pub fn as_bundle(
        annotations: &BTreeMap<String, String>,
        text: &[u8],
        signature: &str,
    ) -> Vec<u8> {
        let certified = Certified::read(annotations, &Content::Text { text, signature });
        certified.bundle().map(<[u8]>::to_vec).unwrap_or_default()
    }
}
