//! What must hold of images: `require` of an image policy, and `spec.images` of a pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::HumanDuration;
use crate::model::image::{
    AttestationNeed, DigestNeed, Downgrade, HolderName, ImageRequirement, KeySpec, Repository,
    RootSpec, ScanNeed, SignatureNeed, Signer, StoreSpec, SubjectPattern, VulnerabilitySeverity,
};

use super::fields::{Field, Fields, Text, owned};
use super::problem::{Findings, shown};
use super::suggest;
use super::tree::Node;

/// The most signers that one rule names.
const MAX_SIGNERS: usize = 100;
/// How long a program that judges an image may take unless the policy says otherwise, and at most.
const SCAN_PATIENCE: HumanDuration = HumanDuration::from_secs(120);
const LONGEST_SCAN: HumanDuration = HumanDuration::from_secs(3_600);

/// Which names a requirement may use.
#[derive(Clone, Copy)]
pub(super) enum Names<'a> {
    /// Those that the same file explains.
    Of {
        keys: &'a BTreeMap<String, KeySpec>,
        roots: &'a BTreeMap<String, RootSpec>,
        stores: &'a BTreeMap<String, StoreSpec>,
    },
    /// Those of the daemon's policy, which is not at hand.
    Elsewhere,
}

/// Reads `require`, of a rule or of a pipeline.
pub(super) fn requirement(
    field: Field<'_>,
    base: &Path,
    names: Names<'_>,
    findings: &mut Findings<'_>,
) -> Option<ImageRequirement> {
    let mut fields = field.fields("a requirement of images", findings)?;
    let choices = [
        ("resolved", DigestNeed::Resolved),
        ("pinned", DigestNeed::Pinned),
    ];
    let digest = fields.get("digest");
    let signatures = fields.get("signatures");
    let attestations = fields.get("attestations");
    let scan = fields.get("scan");
    for name in ["allow", "local", "keys", "deny", "default"] {
        let fix = "only the daemon's policy says that; here is what must hold besides";
        fields.refuse(findings, name, fix);
    }
    if digest.is_none() && signatures.is_none() && attestations.is_none() && scan.is_none() {
        fields.missing(
            &["digest", "signatures", "attestations", "scan"],
            field.key_at,
            "nothing is required",
            "write `digest: resolved` where the repository alone is enough".to_owned(),
        );
    }
    fields.close(findings);
    let digest = match digest {
        Some(digest) => digest.choice(findings, &choices)?,
        None => DigestNeed::Resolved,
    };
    let signatures = match signatures {
        Some(field) => Some(signature_need(field, names, findings)?),
        None => None,
    };
    let attestations = match attestations {
        Some(field) => {
            let items = field.list(findings)?.iter();
            let read = items.map(|item| attestation(item, names, findings));
            let read: Vec<Option<AttestationNeed>> = read.collect();
            read.into_iter().collect::<Option<Vec<_>>>()?
        }
        None => Vec::new(),
    };
    let scan = match scan {
        Some(field) => Some(scan_need(field, base, findings)?),
        None => None,
    };
    Some(ImageRequirement {
        digest,
        signatures,
        attestations,
        scan,
    })
}

fn signature_need(
    field: Field<'_>,
    names: Names<'_>,
    findings: &mut Findings<'_>,
) -> Option<SignatureNeed> {
    let mut fields = field.fields("`signatures`", findings)?;
    let any = fields.get("any");
    if any.is_none() {
        let fix = "add `any: [{key: NAME}]`".to_owned();
        let message = "`signatures` does not say whose";
        fields.missing(&["any"], field.key_at, message, fix);
    }
    let at_least = fields.get_cased(findings, "at_least");
    let no_downgrade = fields.get_cased(findings, "no_downgrade");
    let from = fields.get("from").and_then(|field| {
        let word = field.word(findings)?;
        let is_full = word
            .text
            .split_once('/')
            .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
        match word.text.parse::<Repository>() {
            Ok(repository) if is_full => Some(repository),
            Ok(_) => {
                field.mismatch(findings, "a repository with its registry", None);
                None
            }
            Err(error) => {
                findings.error(word.at, format!("`from`: {error}"), None);
                None
            }
        }
    });
    fields.close(findings);
    let any = any?;
    let items = any.list(findings)?;
    if items.is_empty() || items.len() > MAX_SIGNERS {
        any.mismatch(findings, "a list of signers", None);
        return None;
    }
    let signers: Vec<Option<Signer>> = items
        .iter()
        .map(|item| {
            let mut fields = Fields::open(item, "a signer", findings)?;
            let signer = signer(&mut fields, names, findings);
            fields.close(findings);
            signer
        })
        .collect();
    let most = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let at_least = match at_least {
        Some(field) => field.small(findings, 1..=most)?,
        None => 1,
    };
    let signers = signers.into_iter().collect::<Option<Vec<_>>>()?;
    let downgrade = match no_downgrade {
        Some(field) => downgrade(field, &signers, findings)?,
        None => Downgrade::Allowed,
    };
    Some(SignatureNeed {
        any: signers,
        at_least,
        downgrade,
        from,
    })
}

fn downgrade(
    field: Field<'_>,
    signers: &[Signer],
    findings: &mut Findings<'_>,
) -> Option<Downgrade> {
    if !field.truth(findings)? {
        return Some(Downgrade::Allowed);
    }
    let knows_time = |signer: &Signer| match signer {
        Signer::Keyless { .. } => true,
        Signer::Key(_) | Signer::Notation { .. } => false,
    };
    if signers.iter().all(knows_time) {
        return Some(Downgrade::Refused);
    }
    let fix = Some("name identities alone (`keyless`), or pin the image by its digest".to_owned());
    let message =
        "`no_downgrade` goes by when an image was signed, and only for identities is that known";
    findings.error(field.key_at, message, fix);
    None
}

fn signer(
    fields: &mut Fields<'_>,
    names: Names<'_>,
    findings: &mut Findings<'_>,
) -> Option<Signer> {
    let key = fields.get("key");
    let keyless = fields.get("keyless");
    let notation = fields.get("notation");
    match (key, keyless, notation) {
        (Some(_), Some(second), _)
        | (Some(_), None, Some(second))
        | (None, Some(_), Some(second)) => {
            let fix = Some("write a signer of each".to_owned());
            let message = "a signer is a key, an identity or a certificate's holder";
            findings.error(second.key_at, message, fix);
            None
        }
        (Some(key), None, None) => {
            let word = key.word(findings)?;
            if let Names::Of { keys, .. } = names {
                known(word, "key", keys.keys(), findings)?;
            }
            Some(Signer::Key(word.text.to_owned()))
        }
        (None, Some(field), None) => identity(field, names, findings),
        (None, None, Some(field)) => holder(field, names, findings),
        (None, None, None) => {
            let fix = "write `key: NAME`, `keyless: {root, issuer, subject}` or `notation: {store, \
                       subject}`";
            let message = "the signer is neither a key nor an identity";
            fields.missing(
                &["key", "keyless", "notation"],
                fields.at,
                message,
                fix.to_owned(),
            );
            None
        }
    }
}

fn holder(field: Field<'_>, names: Names<'_>, findings: &mut Findings<'_>) -> Option<Signer> {
    let mut fields = field.fields("`notation`", findings)?;
    let (store, subject) = (fields.get("store"), fields.get("subject"));
    for (name, found) in [("store", store), ("subject", subject)] {
        if found.is_none() {
            let names: &'static [&'static str] = match name {
                "store" => &["store"],
                _ => &["subject"],
            };
            let fix = "write `notation: {store: NAME, subject: \"C=US, O=acme\"}`".to_owned();
            let message = format!("`notation` has no `{name}`");
            fields.missing(names, field.key_at, message, fix);
        }
    }
    fields.close(findings);
    let store = store?.word(findings)?;
    if let Names::Of { stores, .. } = names {
        known(store, "store", stores.keys(), findings)?;
    }
    let subject = subject?.word(findings)?;
    match subject.text.parse::<HolderName>() {
        Ok(name) => Some(Signer::Notation {
            store: store.text.to_owned(),
            subject: name,
        }),
        Err(error) => {
            findings.error(subject.at, format!("{error}"), None);
            None
        }
    }
}

fn identity(field: Field<'_>, names: Names<'_>, findings: &mut Findings<'_>) -> Option<Signer> {
    let mut fields = field.fields("`keyless`", findings)?;
    let found = ["root", "issuer", "subject"].map(|name| {
        let found = fields.get(name);
        if found.is_none() {
            let names: &'static [&'static str] = match name {
                "root" => &["root"],
                "issuer" => &["issuer"],
                _ => &["subject"],
            };
            let message = format!("`keyless` has no `{name}`");
            let fix = "an identity is worth something only with who vouches for it".to_owned();
            fields.missing(names, field.key_at, message, fix);
        }
        found
    });
    fields.close(findings);
    let [root, issuer, subject] = found;
    let root = root?.word(findings)?;
    if let Names::Of { roots, .. } = names {
        known(root, "root", roots.keys(), findings)?;
    }
    let issuer = issuer?.word(findings)?;
    if issuer.text.contains('*') {
        findings.error(issuer.at, "an issuer is written in full, without `*`", None);
        return None;
    }
    Some(Signer::Keyless {
        root: root.text.to_owned(),
        issuer: issuer.text.to_owned(),
        subject: subject_pattern(subject?, findings)?,
    })
}

fn subject_pattern(field: Field<'_>, findings: &mut Findings<'_>) -> Option<SubjectPattern> {
    let word = field.word(findings)?;
    let pattern = SubjectPattern::new(word.text);
    if pattern.is_none() {
        let fix = Some("`*` is a text without `/` and `@`, `**` any text".to_owned());
        field.mismatch(findings, "an identity without blanks", fix);
    }
    pattern
}

fn known<'n>(
    word: Text<'_>,
    what: &str,
    mut names: impl Iterator<Item = &'n String> + Clone,
    findings: &mut Findings<'_>,
) -> Option<()> {
    let all = names.clone();
    if names.any(|name| name == word.text) {
        return Some(());
    }
    let fix = suggest::did_you_mean(word.text, all.map(String::as_str))
        .unwrap_or_else(|| format!("explain it below `{what}s` of the policy"));
    let message = format!("there is no {what} `{}`", shown(word.text));
    findings.error(word.at, message, fix);
    None
}

fn attestation(
    item: &Node<'_>,
    names: Names<'_>,
    findings: &mut Findings<'_>,
) -> Option<AttestationNeed> {
    /// What may be attested.
    #[derive(Clone, Copy)]
    enum Kind {
        Provenance,
        Vulnerabilities,
    }
    let mut fields = Fields::open(item, "an attestation", findings)?;
    let kind = fields.get("type");
    let by = fields.get("by");
    for (name, found) in [("type", kind), ("by", by)] {
        if found.is_none() {
            let names: &'static [&'static str] = match name {
                "by" => &["by"],
                _ => &["type"],
            };
            let fix = "write `{type: provenance, by: {key: NAME}}`".to_owned();
            fields.missing(
                names,
                fields.at,
                format!("the attestation has no `{name}`"),
                fix,
            );
        }
    }
    let kinds = [
        ("provenance", Kind::Provenance),
        ("vulnerabilities", Kind::Vulnerabilities),
    ];
    let kind = kind.and_then(|field| field.choice(findings, &kinds));
    let by = by.and_then(|field| {
        let mut fields = field.fields("`by`", findings)?;
        let signer = signer(&mut fields, names, findings);
        fields.close(findings);
        match signer? {
            Signer::Notation { .. } => {
                let fix = Some("write `by: {key: NAME}` or `by: {keyless: ..}`".to_owned());
                let message = "Notation signs images, and attests nothing";
                findings.error(field.key_at, message, fix);
                None
            }
            signer @ (Signer::Key(_) | Signer::Keyless { .. }) => Some(signer),
        }
    });
    let read = match kind {
        None => None,
        Some(Kind::Provenance) => {
            let mut pattern = |name, findings: &mut Findings<'_>| match fields.get(name) {
                Some(field) => subject_pattern(field, findings).map(Some),
                None => Some(None),
            };
            let (builder, source) = (pattern("builder", findings), pattern("source", findings));
            builder
                .zip(source)
                .zip(by)
                .map(|((builder, source), by)| AttestationNeed::Provenance {
                    by,
                    builder,
                    source,
                })
        }
        Some(Kind::Vulnerabilities) => {
            let severities = [
                ("negligible", VulnerabilitySeverity::Negligible),
                ("low", VulnerabilitySeverity::Low),
                ("medium", VulnerabilitySeverity::Medium),
                ("high", VulnerabilitySeverity::High),
                ("critical", VulnerabilitySeverity::Critical),
            ];
            let age = fields.get_cased(findings, "max_age");
            if age.is_none() {
                let fix = "add `max_age: 7d`".to_owned();
                let message = "it does not say how old the scan may be";
                fields.missing(&["max_age"], fields.at, message, fix);
            }
            let max_age =
                age.and_then(|field| field.duration(findings, HumanDuration::from_secs(60)));
            let max_severity = match fields.get_cased(findings, "max_severity") {
                Some(field) => field.choice(findings, &severities).map(Some),
                None => Some(None),
            };
            max_age
                .zip(max_severity)
                .zip(by)
                .map(
                    |((max_age, max_severity), by)| AttestationNeed::Vulnerabilities {
                        by,
                        max_age,
                        max_severity,
                    },
                )
        }
    };
    fields.close(findings);
    read
}

fn scan_need(field: Field<'_>, base: &Path, findings: &mut Findings<'_>) -> Option<ScanNeed> {
    let mut fields = field.fields("`scan`", findings)?;
    let command = fields.get("command");
    if command.is_none() {
        let fix = "add `command: [PROGRAM, ARGUMENT]`".to_owned();
        fields.missing(&["command"], field.key_at, "`scan` has no command", fix);
    }
    let timeout = fields.get("timeout");
    fields.close(findings);
    let command = command?;
    let mut words = owned(command.texts(findings)?);
    let Some(program) = words.first_mut().filter(|program| !program.is_empty()) else {
        command.mismatch(findings, "a program and its arguments", None);
        return None;
    };
    // One with a folder is meant from the policy's own.
    if program.contains('/') {
        let path: PathBuf = base.join(&*program);
        *program = path.to_str()?.to_owned();
    }
    let timeout = match timeout {
        Some(field) => {
            let timeout = field.duration(findings, HumanDuration::from_secs(1))?;
            if timeout > LONGEST_SCAN {
                field.mismatch(findings, &format!("at most {LONGEST_SCAN}"), None);
                return None;
            }
            timeout
        }
        None => SCAN_PATIENCE,
    };
    Some(ScanNeed {
        command: words,
        timeout,
    })
}
