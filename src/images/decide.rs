//! What a policy says of a name. Pure: nobody is asked.

use super::refusal::{Reason, Refused};
use super::source::Loaded;
use crate::model::image::{
    AttestationNeed, ByDefault, DigestNeed, Downgrade, ImageName, ImageRequirement, RuleSays,
    Signer,
};

/// What holds of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling<'p> {
    /// It runs as without a policy.
    Unruled {
        /// What says so.
        place: String,
    },
    /// It runs as this host has it.
    Local {
        /// What says so.
        place: String,
    },
    /// It runs if all of this holds.
    Demands(Vec<Demand<'p>>),
}

/// A requirement, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand<'p> {
    /// What must hold.
    pub need: &'p ImageRequirement,
    /// What says so.
    pub place: String,
}

/// How the requirement of a pipeline is called.
const OF_PIPELINE: &str = "spec.images";

/// Decides about `image`, which is called `name` in full, by the policy and by what its pipeline
/// requires besides.
///
/// # Errors
/// When it does not run, whatever it holds.
pub fn rule<'p>(
    image: &str,
    name: &ImageName,
    policy: Option<&'p Loaded>,
    besides: Option<&'p ImageRequirement>,
) -> Result<Ruling<'p>, Refused> {
    let of_pipeline = besides.map(|need| Demand {
        need,
        place: OF_PIPELINE.to_owned(),
    });
    let ruling = match policy {
        Some(loaded) => by_policy(image, name, loaded)?,
        None => Ruling::Unruled {
            place: "no image policy".to_owned(),
        },
    };
    let ruling = match (ruling, of_pipeline) {
        (ruling, None) => ruling,
        (Ruling::Unruled { .. }, Some(demand)) => Ruling::Demands(vec![demand]),
        (Ruling::Demands(mut demands), Some(demand)) => {
            demands.push(demand);
            Ruling::Demands(demands)
        }
        (Ruling::Local { place }, Some(_)) => {
            return Err(Refused::new(
                Reason::NotAllowed,
                format!(
                    "image {image} runs as this host has it ({place}), so nothing can be required of \
                     it: take {OF_PIPELINE} out, or name an image of a registry"
                ),
            ));
        }
    };
    if let Ruling::Demands(demands) = &ruling
        && name.digest.is_none()
        && let Some(demand) = demands
            .iter()
            .find(|it| it.need.digest == DigestNeed::Pinned)
    {
        return Err(Refused::new(
            Reason::NotPinned,
            format!(
                "image {image} has no digest, and {} wants one: `flowctl image pin FILE` writes it",
                demand.place
            ),
        ));
    }
    Ok(ruling)
}

fn by_policy<'p>(image: &str, name: &ImageName, loaded: &'p Loaded) -> Result<Ruling<'p>, Refused> {
    let policy = &loaded.policy;
    let repository = &name.repository;
    let found = policy.rules.iter().find(|rule| {
        rule.images
            .iter()
            .any(|pattern| pattern.matches(repository))
    });
    let Some(rule) = found else {
        let place = loaded.place(policy.default_line);
        return match policy.default {
            ByDefault::Allow => Ok(Ruling::Unruled { place }),
            ByDefault::Deny => Err(Refused::new(
                Reason::NotAllowed,
                format!(
                    "image {image} is refused: no rule of the image policy is about {repository}, and \
                     its default is deny ({place}); add a rule, or use an image that one is about"
                ),
            )),
        };
    };
    let place = loaded.place(rule.line);
    match &rule.says {
        RuleSays::Deny { why } => {
            let why = why.as_ref().map(|why| format!(": {why}"));
            Err(Refused::new(
                Reason::NotAllowed,
                format!(
                    "image {image} is refused by {place}{}",
                    why.unwrap_or_default()
                ),
            ))
        }
        RuleSays::Local => Ok(Ruling::Local { place }),
        RuleSays::Require(need) => Ok(Ruling::Demands(vec![Demand { need, place }])),
    }
}

/// A requirement in words, as it follows "it must": empty = nothing beyond its name.
pub fn in_words(need: &ImageRequirement) -> Vec<String> {
    let mut words = Vec::new();
    match need.digest {
        DigestNeed::Pinned => words.push("be named by its digest".to_owned()),
        DigestNeed::Resolved => {}
    }
    if let Some(signatures) = &need.signatures {
        let signers: Vec<String> = signatures.any.iter().map(signer).collect();
        let how_many = match (signatures.at_least, signers.len()) {
            (_, 1) => String::new(),
            (1, _) => "one of ".to_owned(),
            (count, _) => format!("{count} of "),
        };
        words.push(format!("be signed by {how_many}{}", signers.join(", ")));
        match signatures.downgrade {
            Downgrade::Refused => {
                words.push("be signed no earlier than what its tag named last".to_owned());
            }
            Downgrade::Allowed => {}
        }
    }
    for attestation in &need.attestations {
        words.push(match attestation {
            AttestationNeed::Provenance {
                by,
                builder,
                source,
            } => {
                let builder = builder.as_ref().map(|it| format!(" built by {it}"));
                let source = source.as_ref().map(|it| format!(" from {it}"));
                format!(
                    "have its provenance attested by {}{}{}",
                    signer(by),
                    builder.unwrap_or_default(),
                    source.unwrap_or_default()
                )
            }
            AttestationNeed::Vulnerabilities {
                by,
                max_age,
                max_severity,
            } => {
                let gravest = max_severity.map(|it| format!(" with nothing above {it}"));
                format!(
                    "have a scan attested by {} within {max_age}{}",
                    signer(by),
                    gravest.unwrap_or_default()
                )
            }
        });
    }
    if let Some(scan) = &need.scan {
        let program = scan.command.first().map(String::as_str);
        words.push(format!("pass {}", program.unwrap_or_default()));
    }
    words
}

/// A signer in words.
pub(super) fn signer(signer: &Signer) -> String {
    match signer {
        Signer::Key(name) => format!("key {name}"),
        Signer::Keyless {
            issuer, subject, ..
        } => format!("{subject} of {issuer}"),
        Signer::Notation { store, subject } => format!("{subject} of store {store}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::source::load;
    use super::*;

    fn policy(rules: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.yaml");
        let text = format!("apiVersion: flowctl/v1\nkind: ImagePolicy\n{rules}");
        fs::write(&file, text).unwrap();
        load(&file).unwrap()
    }

    const RULES: &str = "default: deny\nrules:\n  - images: [r.acme/secret/**]\n    deny: it is not for this host\n  - images: [r.acme/**]\n    require: {digest: resolved}\n  - images: [docker.io/library/*]\n    require: {digest: pinned}\n  - images: [localhost/**]\n    allow: {local: true}\n";

    fn ruled(image: &str) -> Result<String, String> {
        let policy = policy(RULES);
        let name = image.parse().unwrap();
        match rule(image, &name, Some(&policy), None) {
            Ok(Ruling::Demands(demands)) => Ok(demands[0].place.clone()),
            Ok(Ruling::Local { place } | Ruling::Unruled { place }) => Ok(place),
            Err(refused) => Err(format!("{}: {refused}", refused.reason.word())),
        }
    }

    #[test]
    fn the_first_rule_that_is_about_an_image_decides() {
        assert_eq!(ruled("r.acme/app:1").unwrap(), "images.yaml:7");
        assert_eq!(ruled("localhost/app").unwrap(), "images.yaml:11");
        let pinned = format!("nginx@sha256:{}", "0".repeat(64));
        assert_eq!(ruled(&pinned).unwrap(), "images.yaml:9");
        for (image, wanted) in [
            (
                "nginx:1",
                "ImageNotPinned: image nginx:1 has no digest, and images.yaml:9 wants one",
            ),
            ("r.acme/secret/a", "images.yaml:5: it is not for this host"),
            ("ghcr.io/acme/a", "its default is deny (images.yaml:3)"),
            ("r.acme.evil.io/a", "ImageNotAllowed"),
        ] {
            let why = ruled(image).unwrap_err();
            assert!(why.contains(wanted), "{image}: {why}");
        }
    }

    #[test]
    fn what_a_pipeline_requires_is_added_and_never_loosens() {
        let policy = policy(RULES);
        let pinned = ImageRequirement {
            digest: DigestNeed::Pinned,
            ..ImageRequirement::default()
        };
        let resolved = ImageRequirement::default();
        let ruled = |image: &str, need, policy: Option<&Loaded>| {
            let name = image.parse().unwrap();
            rule(image, &name, policy, Some(need))
                .map(drop)
                .map_err(|it| it.reason)
        };
        assert_eq!(
            ruled("r.acme/a:1", &pinned, Some(&policy)),
            Err(Reason::NotPinned)
        );
        assert_eq!(
            ruled("nginx:1", &resolved, Some(&policy)),
            Err(Reason::NotPinned)
        );
        assert_eq!(
            ruled("ghcr.io/a:1", &resolved, Some(&policy)),
            Err(Reason::NotAllowed)
        );
        assert_eq!(
            ruled("localhost/a", &resolved, Some(&policy)),
            Err(Reason::NotAllowed)
        );
        assert_eq!(ruled("nginx:1", &pinned, None), Err(Reason::NotPinned));
        assert_eq!(ruled("nginx:1", &resolved, None), Ok(()));
    }
}
