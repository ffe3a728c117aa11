//! The fields of what a pipeline says beside its components: who is told of it, and what its images
//! must be.

use super::OnEdit::AppliesLive;
use super::{Field, Kind, REQUIRED, Section};

/// An entry of `spec.notify`.
pub(super) static TARGET: Section = Section {
    what: "a notification target",
    text: "Somebody who is told of what is wrong with a pipeline.",
    fields: &[
        Field::new(
            "name",
            Kind::Label,
            REQUIRED,
            AppliesLive,
            "what `flowctl notify` calls it",
            "name: owner",
        ),
        Field::new(
            "when",
            Kind::TextsOrOne,
            "all",
            AppliesLive,
            "of which conditions",
            "when: [failed, crashloop]",
        ),
        Field::new(
            "for",
            Kind::Duration,
            "by condition",
            AppliesLive,
            "how long one has to last",
            "for: 1m",
        ),
        Field::new(
            "repeat",
            Kind::Duration,
            "never",
            AppliesLive,
            "after how long it is told again",
            "repeat: 4h",
        ),
        Field::new(
            "match",
            Kind::Section(&MATCH),
            "all",
            AppliesLive,
            "of which component",
            "match: {component: sink}",
        ),
        Field::new(
            "resolved",
            Kind::Truth,
            "`true`",
            AppliesLive,
            "whether the end is told",
            "resolved: false",
        ),
        Field::new(
            "to",
            Kind::Section(&TO),
            REQUIRED,
            AppliesLive,
            "where to",
            "to: {webhook: {url_file: hook.url}}",
        ),
    ],
};

static MATCH: Section = Section {
    what: "`match`",
    text: "What a target is told of.",
    fields: &[Field::new(
        "component",
        Kind::Label,
        "all",
        AppliesLive,
        "of this component alone",
        "component: sink",
    )],
};

static TO: Section = Section {
    what: "`to`",
    text: "Where a message goes: one of these.",
    fields: &[
        Field::new(
            "webhook",
            Kind::Section(&WEBHOOK),
            "",
            AppliesLive,
            "an address that takes a POST",
            "webhook: {url_file: hook.url}",
        ),
        Field::new(
            "alertmanager",
            Kind::Section(&ALERTMANAGER),
            "",
            AppliesLive,
            "an Alertmanager",
            "alertmanager: {url: \"http://localhost:9093\"}",
        ),
    ],
};

static WEBHOOK: Section = Section {
    what: "`webhook`",
    text: "An address that takes a POST.",
    fields: &[
        Field::new(
            "url",
            Kind::Word,
            "",
            AppliesLive,
            "the address, `http` or `https`",
            "url: \"https://example.org/hook\"",
        ),
        Field::new(
            "url_file",
            Kind::Word,
            "",
            AppliesLive,
            "a file that holds it, where it is a secret",
            "url_file: hook.url",
        ),
        Field::new(
            "format",
            Kind::Choice(&["json", "slack", "ntfy", "text"], &[]),
            "`json`",
            AppliesLive,
            "what is sent",
            "format: slack",
        ),
        Field::new(
            "headers_file",
            Kind::Word,
            "",
            AppliesLive,
            "a file of further headers",
            "headers_file: headers",
        ),
        Field::new(
            "secret_file",
            Kind::Word,
            "",
            AppliesLive,
            "a file with the key that signs each message",
            "secret_file: hook.key",
        ),
    ],
};

static ALERTMANAGER: Section = Section {
    what: "`alertmanager`",
    text: "An Alertmanager.",
    fields: &[
        Field::new(
            "url",
            Kind::Word,
            "",
            AppliesLive,
            "its address",
            "url: \"http://localhost:9093\"",
        ),
        Field::new(
            "url_file",
            Kind::Word,
            "",
            AppliesLive,
            "a file that holds it",
            "url_file: alertmanager.url",
        ),
    ],
};

/// `spec.images`.
pub(super) static REQUIREMENT: Section = Section {
    what: "a requirement of images",
    text: "What must hold of an image before it runs.",
    fields: &[
        Field::new(
            "digest",
            Kind::Choice(&["resolved", "pinned"], &[]),
            "`resolved`",
            AppliesLive,
            "`pinned`: the file has to name the digest",
            "digest: pinned",
        ),
        Field::new(
            "signatures",
            Kind::Section(&SIGNATURES),
            "none",
            AppliesLive,
            "who has to have signed it",
            "signatures: {any: [{key: release}]}",
        ),
        Field::new(
            "attestations",
            Kind::Sections(&ATTESTATION),
            "none",
            AppliesLive,
            "what has to be attested of it",
            "attestations: [{type: provenance, by: {key: release}}]",
        ),
        Field::new(
            "scan",
            Kind::Section(&SCAN),
            "none",
            AppliesLive,
            "a program that judges it",
            "scan: {command: [./scan], timeout: 2m}",
        ),
    ],
};

static SIGNATURES: Section = Section {
    what: "`signatures`",
    text: "Who has to have signed an image.",
    fields: &[
        Field::new(
            "any",
            Kind::Sections(&SIGNER),
            REQUIRED,
            AppliesLive,
            "of these signers",
            "any: [{key: release}]",
        ),
        Field::new(
            "at_least",
            Kind::Whole(1, 100),
            "`1`",
            AppliesLive,
            "so many",
            "at_least: 2",
        ),
        Field::new(
            "no_downgrade",
            Kind::Truth,
            "`false`",
            AppliesLive,
            "`true`: a tag does not go back to an image that was signed earlier; of identities alone",
            "no_downgrade: true",
        ),
        Field::new(
            "from",
            Kind::Word,
            "beside the image",
            AppliesLive,
            "the repository that holds the signatures, with its registry",
            "from: registry.example.org/signatures",
        ),
    ],
};

static SIGNER: Section = Section {
    what: "a signer",
    text: "A key, an identity or the holder of a certificate.",
    fields: SIGNER_FIELDS,
};

static BY: Section = Section {
    what: "`by`",
    text: "Who attests it: a key or an identity.",
    fields: SIGNER_FIELDS,
};

const SIGNER_FIELDS: &[Field] = &[
    Field::new(
        "key",
        Kind::Word,
        "",
        AppliesLive,
        "a key of the daemon's policy, by name",
        "key: release",
    ),
    Field::new(
        "keyless",
        Kind::Section(&KEYLESS),
        "",
        AppliesLive,
        "an identity, and who vouches for it",
        "keyless: {root: public, issuer: \"https://issuer.example.org\", subject: \"*@example.org\"}",
    ),
    Field::new(
        "notation",
        Kind::Section(&NOTATION),
        "",
        AppliesLive,
        "the holder of a certificate, and the store that knows its issuers; of signatures alone",
        "notation: {store: company, subject: \"C=US, O=acme\"}",
    ),
];

static NOTATION: Section = Section {
    what: "`notation`",
    text: "The holder of a certificate.",
    fields: &[
        Field::new(
            "store",
            Kind::Word,
            REQUIRED,
            AppliesLive,
            "a trust store of the daemon's policy, by name",
            "store: company",
        ),
        Field::new(
            "subject",
            Kind::Word,
            REQUIRED,
            AppliesLive,
            "the parts of the holder's name that have to be there",
            "subject: \"C=US, O=acme\"",
        ),
    ],
};

static KEYLESS: Section = Section {
    what: "`keyless`",
    text: "An identity, and who vouches for it.",
    fields: &[
        Field::new(
            "root",
            Kind::Word,
            REQUIRED,
            AppliesLive,
            "a trusted root of the daemon's policy, by name",
            "root: public",
        ),
        Field::new(
            "issuer",
            Kind::Word,
            REQUIRED,
            AppliesLive,
            "who issued the identity, in full",
            "issuer: \"https://issuer.example.org\"",
        ),
        Field::new(
            "subject",
            Kind::Word,
            REQUIRED,
            AppliesLive,
            "whose it is; `*` is a text without `/` and `@`, `**` any text",
            "subject: \"*@example.org\"",
        ),
    ],
};

static ATTESTATION: Section = Section {
    what: "an attestation",
    text: "What has to be attested of an image.",
    fields: &[
        Field::new(
            "type",
            Kind::Choice(&["provenance", "vulnerabilities"], &[]),
            REQUIRED,
            AppliesLive,
            "SLSA `provenance`, or a scan for `vulnerabilities`",
            "type: provenance",
        ),
        Field::new(
            "by",
            Kind::Section(&BY),
            REQUIRED,
            AppliesLive,
            "who attests it",
            "by: {key: release}",
        ),
        Field::new(
            "builder",
            Kind::Word,
            "any",
            AppliesLive,
            "of provenance: who built it",
            "builder: \"https://builder.example.org/**\"",
        ),
        Field::new(
            "source",
            Kind::Word,
            "any",
            AppliesLive,
            "of provenance: what of",
            "source: \"https://git.example.org/ttp\"",
        ),
        Field::new(
            "max_age",
            Kind::Duration,
            "",
            AppliesLive,
            "of a scan, where it is needed: how old it may be",
            "max_age: 7d",
        ),
        Field::new(
            "max_severity",
            Kind::Choice(&["negligible", "low", "medium", "high", "critical"], &[]),
            "any",
            AppliesLive,
            "of a scan: the gravest finding that is let pass",
            "max_severity: medium",
        ),
    ],
};

static SCAN: Section = Section {
    what: "`scan`",
    text: "A program that judges an image.",
    fields: &[
        Field::new(
            "command",
            Kind::Texts,
            REQUIRED,
            AppliesLive,
            "the program and its arguments",
            "command: [./scan]",
        ),
        Field::new(
            "timeout",
            Kind::Duration,
            "`2m`",
            AppliesLive,
            "how long it may take",
            "timeout: 5m",
        ),
    ],
};
