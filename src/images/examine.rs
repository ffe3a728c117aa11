//! Finds out what an image is: reads its tag, looks at what lies beside it, asks who is to be asked.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::{Demand, signer};
use super::evidence::{Believed, Beside, Piece, Signed, attested, signed};
use super::oci::Document;
use super::refusal::{Reason, Refused};
use super::registry::{Client, Fetched, Session, Trouble};
use super::scan;
use super::source::Loaded;
use crate::model::Timestamp;
use crate::model::image::{
    AttestationNeed, Digest, Downgrade, ImageName, ImageRequirement, RegistrySpec, Repository,
    SignatureNeed, Signer,
};

/// How long the word of a program that judges images counts.
const SCAN_LASTS: Duration = Duration::from_secs(24 * 3_600);

/// Asks whoever has to be asked, as of a moment.
pub(super) struct Examiner<'a> {
    pub client: &'a Client,
    /// When it has asked for long enough.
    pub deadline: Instant,
    pub now: Timestamp,
    /// Hears what takes a while.
    pub tell: &'a (dyn Fn(String) + Sync),
}

/// Which image is examined.
pub(super) enum Subject {
    /// That of this digest.
    Known(Digest),
    /// That which a tag named just now.
    Read(Fetched),
}

/// What an image was found to be.
pub(super) struct Examined {
    pub digest: Digest,
    /// What runs instead: the one in it that is for this host.
    pub runs: Option<Digest>,
    /// In words.
    pub found: String,
    /// Until when that counts.
    pub until: Option<Timestamp>,
    /// When it was signed, where its tag must not be turned back to an earlier one.
    pub signed: Option<Timestamp>,
}

impl Examiner<'_> {
    /// Reads what the tag of an image names.
    ///
    /// # Errors
    /// When it is not there, or could not be asked for.
    pub(super) async fn read_tag(&self, case: &Case<'_>) -> Result<Fetched, Refused> {
        let registry = case.name.repository.registry();
        (self.tell)(format!("asking {registry} for {}", case.image));
        let registries = case.registries();
        let mut session = self.ask_about(&case.name.repository, &registries);
        read_tag(&mut session, case.image, case.name).await
    }

    /// Looks whether all that is demanded holds of an image.
    ///
    /// # Errors
    /// What does not, or could not be found out.
    pub(super) async fn examine(
        &self,
        case: &Case<'_>,
        subject: Subject,
    ) -> Result<Examined, Refused> {
        let registries = case.registries();
        let (digest, document) = match subject {
            Subject::Known(digest) => (digest, None),
            Subject::Read(fetched) => (fetched.digest, Some(fetched.document)),
        };
        let mut evidence = Evidence {
            client: self.client,
            deadline: self.deadline,
            registries: &registries,
            beside: BTreeMap::new(),
        };
        let (facts, runs) = match self.prove(case, &digest, &mut evidence).await {
            Ok(facts) => (facts, None),
            // Some sign the images for each platform instead of what lists them. Then the one that
            // was proved is what runs.
            Err(refused) if refused.reason.may_be_of_a_part() => {
                let document = match document {
                    Some(document) => Some(document),
                    None => {
                        let mut session = self.ask_about(&case.name.repository, &registries);
                        let found = session.manifest(&digest).await;
                        let found = found.map_err(|trouble| unclear(case.image, &trouble))?;
                        found.map(|found| found.document)
                    }
                };
                let Some(part) = document.as_ref().and_then(part_for_this_host) else {
                    return Err(refused);
                };
                match self.prove(case, &part, &mut evidence).await {
                    Ok(facts) => (facts, Some(part)),
                    Err(other) if other.reason.is_silence() => return Err(other),
                    Err(_) => return Err(refused),
                }
            }
            Err(refused) => return Err(refused),
        };
        Ok(Examined {
            digest,
            runs,
            found: facts.in_words(runs.as_ref().unwrap_or(&digest)),
            until: facts.until,
            signed: facts.signed,
        })
    }

    fn ask_about(
        &self,
        repository: &Repository,
        registries: &BTreeMap<String, RegistrySpec>,
    ) -> Session<'_> {
        self.client.ask_about(repository, registries, self.deadline)
    }

    /// Looks whether all that is demanded holds of `digest`.
    async fn prove(
        &self,
        case: &Case<'_>,
        digest: &Digest,
        evidence: &mut Evidence<'_>,
    ) -> Result<Facts, Refused> {
        let mut facts = Facts::default();
        let called = format!("image {} ({})", case.image, digest.short());
        for Demand { need, place } in &case.demands {
            let asks = need.signatures.is_some() || !need.attestations.is_empty();
            let policy = match (asks, case.policy) {
                (true, None) => {
                    return Err(Refused::new(
                        Reason::NotAllowed,
                        format!(
                            "{called} is refused: {place} names signers, and this daemon has no image policy that says who they are: start it with --image-policy"
                        ),
                    ));
                }
                (true, Some(policy)) => Some(policy),
                (false, _) => None,
            };
            let now = self.now;
            let believed = policy.map(|policy| Believed { policy, now });
            if let (Some(signatures), Some(believed)) = (&need.signatures, believed) {
                let at = signatures.from.as_ref().unwrap_or(&case.name.repository);
                let found = signers(signatures, at, digest, believed, evidence).await;
                let found = found.map_err(|trouble| unclear(case.image, &trouble))?;
                if found.count() < as_count(signatures.at_least) {
                    let wanted = Ruled(need, place).wanted();
                    return Err(Refused::new(
                        found.reason(),
                        format!(
                            "{called} is not signed by {wanted}: {}. Sign it, or correct the image policy; a signature that is made later counts at the next try",
                            found.instead()
                        ),
                    ));
                }
                facts.found.push(format!("signed by {}", found.who()));
                facts.until(believed.until(&signatures.any));
                facts.until(found.until);
                match signatures.downgrade {
                    Downgrade::Refused => facts.signed = facts.signed.max(found.at),
                    Downgrade::Allowed => {}
                }
            }
            for attestation in &need.attestations {
                let Some(believed) = believed else { continue };
                let pieces = evidence.attestations(&case.name.repository, digest).await;
                let pieces = pieces.map_err(|trouble| unclear(case.image, &trouble))?;
                let attested = attested(attestation, pieces, digest, believed);
                let attested = attested.map_err(|(reason, why)| {
                    let what = match attestation {
                        AttestationNeed::Provenance { .. } => "provenance",
                        AttestationNeed::Vulnerabilities { .. } => "scan",
                    };
                    Refused::new(
                        reason,
                        format!("{called} has no {what} as {place} wants it: {why}"),
                    )
                })?;
                facts.found.push(attested.words);
                facts.until(attested.until);
            }
            if let Some(scan) = &need.scan {
                let asked = scan::ask(scan, case.image, &case.name.repository, digest);
                facts.found.push(asked.await?);
                facts.until(Some(now.after(SCAN_LASTS)));
            }
        }
        Ok(facts)
    }
}

/// What was found out.
#[derive(Default)]
struct Facts {
    found: Vec<String>,
    until: Option<Timestamp>,
    /// When it was signed, where that matters.
    signed: Option<Timestamp>,
}

impl Facts {
    fn until(&mut self, until: Option<Timestamp>) {
        self.until = self.until.into_iter().chain(until).min();
    }

    fn in_words(&self, digest: &Digest) -> String {
        match self.found.as_slice() {
            [] => format!("it is {digest}"),
            found => format!("{} is {}", digest.short(), found.join(", ")),
        }
    }
}

/// What lies beside the images of some repositories, each looked at once.
struct Evidence<'c> {
    client: &'c Client,
    deadline: Instant,
    registries: &'c BTreeMap<String, RegistrySpec>,
    beside: BTreeMap<(Repository, Digest), Found<'c>>,
}

struct Found<'c> {
    beside: Beside<'c>,
    signatures: Option<Vec<Piece>>,
    referring: Option<Vec<Piece>>,
    attestations: Option<Vec<Piece>>,
}

impl<'c> Evidence<'c> {
    fn of(&mut self, repository: &Repository, digest: &Digest) -> &mut Found<'c> {
        let key = (repository.clone(), *digest);
        let (client, registries, deadline) = (self.client, self.registries, self.deadline);
        self.beside.entry(key).or_insert_with(|| Found {
            beside: Beside::new(client.ask_about(repository, registries, deadline)),
            signatures: None,
            referring: None,
            attestations: None,
        })
    }

    /// What may be a signature by the tag that is made for that.
    async fn tagged(
        &mut self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<&[Piece], Trouble> {
        let found = self.of(repository, digest);
        if found.signatures.is_none() {
            found.signatures = Some(found.beside.tagged(digest, "sig").await?);
        }
        Ok(found.signatures.as_deref().unwrap_or_default())
    }

    /// What refers to it.
    async fn referring(
        &mut self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<&[Piece], Trouble> {
        let found = self.of(repository, digest);
        if found.referring.is_none() {
            found.referring = Some(found.beside.referring(digest).await?);
        }
        Ok(found.referring.as_deref().unwrap_or_default())
    }

    /// All that may attest something.
    async fn attestations(
        &mut self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<&[Piece], Trouble> {
        let referring = self.referring(repository, digest).await?.to_vec();
        let found = self.of(repository, digest);
        if found.attestations.is_none() {
            let mut pieces = found.beside.tagged(digest, "att").await?;
            pieces.extend(referring);
            found.attestations = Some(pieces);
        }
        Ok(found.attestations.as_deref().unwrap_or_default())
    }
}

/// Who of those that are accepted has signed `digest`. The place that costs least is looked at first.
async fn signers(
    need: &SignatureNeed,
    at: &Repository,
    digest: &Digest,
    believed: Believed<'_>,
    evidence: &mut Evidence<'_>,
) -> Result<Signed, Trouble> {
    let client = evidence.client;
    // Notation keeps nothing by that tag.
    let may_be_tagged = |signer: &Signer| match signer {
        Signer::Key(_) | Signer::Keyless { .. } => true,
        Signer::Notation { .. } => false,
    };
    let places: &[Place] = match (need.any.iter().any(may_be_tagged), client.is_listing(at)) {
        (true, false) => &[Place::Tag, Place::List],
        (true, true) => &[Place::List, Place::Tag],
        (false, _) => &[Place::List],
    };
    let mut all: Vec<Piece> = Vec::new();
    let mut found = Signed::default();
    for place in places {
        let pieces = match place {
            Place::Tag => evidence.tagged(at, digest).await?,
            Place::List => evidence.referring(at, digest).await?,
        };
        all.extend(pieces.iter().cloned());
        found = signed(&need.any, &all, digest, believed);
        if found.count() >= as_count(need.at_least) {
            match place {
                Place::Tag => client.note(at, false),
                Place::List => client.note(at, true),
            }
            break;
        }
    }
    Ok(found)
}

/// Where signatures lie.
#[derive(Clone, Copy)]
enum Place {
    /// By the tag that cosign makes for them.
    Tag,
    /// In the list of what refers to the image.
    List,
}

fn as_count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A requirement of signatures, in words.
struct Ruled<'a>(&'a ImageRequirement, &'a str);

impl Ruled<'_> {
    fn wanted(&self) -> String {
        let Self(need, place) = self;
        let Some(signatures) = &need.signatures else {
            return (*place).to_owned();
        };
        let signers: Vec<String> = signatures.any.iter().map(signer).collect();
        let signers = signers.join(", ");
        match signatures.at_least {
            1 => format!("anyone whom {place} accepts ({signers})"),
            count => format!("{count} of those whom {place} accepts ({signers})"),
        }
    }
}

/// The image for this host among those of an index, if it is clear which one that is.
fn part_for_this_host(document: &Document) -> Option<Digest> {
    let Document::Index(parts) = document else {
        return None;
    };
    let mut fitting = parts.iter().filter(|part| {
        part.platform.as_ref().is_some_and(|platform| {
            platform.os == "linux" && platform.architecture == super::architecture()
        })
    });
    match (fitting.next(), fitting.next()) {
        (Some(part), None) => Some(part.digest),
        (Some(_), Some(_)) | (None, _) => None,
    }
}

/// An image that is judged, and by what.
pub(super) struct Case<'a> {
    pub image: &'a str,
    pub name: &'a ImageName,
    pub policy: Option<&'a Loaded>,
    pub demands: Vec<Demand<'a>>,
    pub by: Digest,
    /// The tag whose meaning of now decides; `None` = its digest is known otherwise.
    pub tag: Option<&'a str>,
}

impl Case<'_> {
    fn registries(&self) -> BTreeMap<String, RegistrySpec> {
        let registries = self.policy.map(|loaded| loaded.policy.registries.clone());
        registries.unwrap_or_default()
    }

    pub(super) fn places(&self) -> String {
        let places = self.demands.iter().map(|demand| demand.place.as_str());
        places.collect::<Vec<_>>().join(", ")
    }
}

/// The digest that the tag of an image names now, whatever any policy says of it.
///
/// # Errors
/// When it is not there, or could not be asked for.
pub async fn resolve(
    image: &str,
    name: &ImageName,
    registries: &BTreeMap<String, RegistrySpec>,
) -> Result<Digest, Refused> {
    let client = Client::default();
    let mut session = client.ask_about(&name.repository, registries, client.deadline());
    let fetched = read_tag(&mut session, image, name).await?;
    Ok(fetched.digest)
}

/// Reads what a tag names.
async fn read_tag(
    session: &mut Session<'_>,
    image: &str,
    name: &ImageName,
) -> Result<Fetched, Refused> {
    match session.tag(name.tag()).await {
        Ok(Some(fetched)) => Ok(fetched),
        Ok(None) => Err(Refused::new(
            Reason::NotFound,
            format!(
                "image {image} is not in registry {}: correct its name, or push it",
                name.repository.registry()
            ),
        )),
        Err(trouble) => Err(unclear(image, &trouble)),
    }
}

/// What it means that a registry did not answer, or contradicted itself.
fn unclear(image: &str, trouble: &Trouble) -> Refused {
    match trouble {
        Trouble::Silent(why) => Refused::new(
            Reason::Unverifiable,
            format!("image {image} could not be verified: {why}. Nothing was started"),
        ),
        Trouble::Lies(why) => Refused::new(
            Reason::Changed,
            format!(
                "image {image} is refused: {why}. Do not trust that registry before it is known why"
            ),
        ),
    }
}
