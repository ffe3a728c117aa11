//! Signatures by identities, with certificates made here: right ones, and ones that are wrong in one
//! thing each.

use super::mint::{ISSUER, Instance, Logged, Minted, Name, SERVER_AUTH, SUBJECT, Wanted, at};
use super::*;

const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

fn payload(about: Digest) -> Vec<u8> {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"r.io/app"}},"image":{{"docker-manifest-digest":"{about}"}},"type":"cosign container image signature"}},"optional":null}}"#
    )
    .into_bytes()
}

fn statement(about: Digest, kind: &str, predicate: &str) -> Vec<u8> {
    format!(
        r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"{kind}","predicate":{predicate}}}"#,
        about.hex()
    )
    .into_bytes()
}

fn required(subject: &str, issuer: &str) -> String {
    format!(
        "{{ signatures: {{ any: [{{ keyless: {{ root: r, issuer: \"{issuer}\", subject: \"{subject}\" }} }}] }} }}"
    )
}

/// The two forms in which an identity signs an image.
#[derive(Clone, Copy, Debug)]
enum Form {
    Annotated,
    Bundle,
}

const FORMS: [Form; 2] = [Form::Annotated, Form::Bundle];

/// What becomes of an image that `by` signed as `wanted`, where `trusted` is believed.
async fn signed(
    trusted: &Instance,
    by: &Instance,
    wanted: &Wanted,
    form: Form,
    require: &str,
) -> Result<(), Refused> {
    let world = World::trusting(trusted, require);
    let digest = world.registry.image("a");
    match form {
        Form::Annotated => {
            let text = payload(digest);
            let annotations = by.text(wanted, &text).annotations();
            world
                .registry
                .tagged(digest, "sig", SIMPLE, &[(&text, annotations)]);
        }
        Form::Bundle => {
            let text = statement(digest, SIGN, "{}");
            let bundle = by.bundle(&by.statement(wanted, &text), &text).to_string();
            let listed = world.registry.artifact(BUNDLE, bundle.as_bytes());
            world
                .registry
                .list(&format!("referrers/{digest}"), &[listed]);
        }
    }
    world.admit(Standing::Fresh).await.map(drop)
}

#[tokio::test]
async fn an_identity_signs_in_either_form() {
    let instance = Instance::new();
    let require = required(
        "https://github.com/acme/*/.github/workflows/release.yml@refs/tags/*",
        ISSUER,
    );
    for form in FORMS {
        signed(&instance, &instance, &Wanted::good(), form, &require)
            .await
            .unwrap();
    }
    let mail = Wanted::of(Name::Mail("ops@acme.test".to_owned()));
    for form in FORMS {
        let require = required("ops@acme.test", ISSUER);
        signed(&instance, &instance, &mail, form, &require)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_certificate_that_is_wrong_in_one_thing_proves_nothing() {
    let good = Wanted::good;
    let two = vec![
        Name::Uri(SUBJECT.to_owned()),
        Name::Uri("https://github.com/evil".to_owned()),
    ];
    let mail = Wanted::of(Name::Mail(SUBJECT.to_owned()));
    let uri = Wanted::of(Name::Uri("ops@acme.test".to_owned()));
    let wrong: [(&str, Wanted); 15] = [
        (
            "used after its end",
            Wanted {
                used: at("2026-06-01T12:05:01Z"),
                ..good()
            },
        ),
        (
            "used before its begin",
            Wanted {
                used: at("2026-06-01T11:54:59Z"),
                ..good()
            },
        ),
        (
            "used in time to come",
            Wanted {
                used: at("2036-06-01T12:00:00Z"),
                from: at("2036-06-01T11:55:00Z"),
                to: at("2036-06-01T12:05:00Z"),
                ..good()
            },
        ),
        (
            "for servers",
            Wanted {
                usage: Some(SERVER_AUTH),
                ..good()
            },
        ),
        (
            "for nothing",
            Wanted {
                usage: None,
                ..good()
            },
        ),
        (
            "of an authority",
            Wanted {
                is_authority: true,
                ..good()
            },
        ),
        (
            "in no log",
            Wanted {
                logged: Logged::No,
                ..good()
            },
        ),
        (
            "in a log that nobody trusts",
            Wanted {
                logged: Logged::Elsewhere,
                ..good()
            },
        ),
        (
            "another is in the log",
            Wanted {
                logged: Logged::Another,
                ..good()
            },
        ),
        (
            "two names",
            Wanted {
                names: two.clone(),
                ..good()
            },
        ),
        (
            "two names",
            Wanted {
                names: two.into_iter().rev().collect(),
                ..good()
            },
        ),
        (
            "no name",
            Wanted {
                names: Vec::new(),
                ..good()
            },
        ),
        (
            "no issuer",
            Wanted {
                issuer: None,
                ..good()
            },
        ),
        ("an address that reads as a place", mail),
        ("a place that reads as an address", uri),
    ];
    let instance = Instance::new();
    for (what, wanted) in &wrong {
        for subject in [SUBJECT, "ops@acme.test"] {
            let require = required(subject, ISSUER);
            for form in FORMS {
                let refused = signed(&instance, &instance, wanted, form, &require).await;
                let refused = refused.expect_err(what);
                assert_eq!(
                    refused.reason,
                    Reason::SignerUnknown,
                    "{what} {form:?}: {refused}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_part_of_another_instance_proves_nothing() {
    let require = required(SUBJECT, ISSUER);
    for part in ["authority", "certificates", "signatures"] {
        for form in FORMS {
            let (mine, wanted) = (Instance::new(), Wanted::good());
            let theirs = Instance::new();
            let refused = signed(&mine, &theirs, &wanted, form, &require)
                .await
                .unwrap_err();
            assert_eq!(refused.reason, Reason::SignerUnknown, "{refused}");
            let changed = mine.but_for(part);
            let text = payload(Digest::new([1; 32]));
            // Of one instance all is well, and with one part of another nothing.
            signed(&changed, &changed, &wanted, form, &require)
                .await
                .unwrap();
            let root = Root::read(Instance::new().but_for(part).root().as_bytes()).unwrap();
            let minted = changed.text(&wanted, &text);
            assert!(root.verify_text(&bundle_of(&minted, &text), &text).is_err());
        }
    }
}

/// As a piece beside an image is read.
fn bundle_of(minted: &Minted, text: &[u8]) -> Vec<u8> {
    let signature = minted.signature();
    super::super::evidence::tests::as_bundle(&minted.annotations(), text, &signature)
}

#[tokio::test]
async fn an_identity_that_is_only_nearly_the_one_has_not_signed() {
    let instance = Instance::new();
    let github = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1";
    for (what, subject) in [
        ("something before", format!("x{github}")),
        ("something behind", format!("{github}0")),
        ("a line break", format!("{github}\n")),
        ("case", github.replace("acme", "Acme")),
        (
            "case of the host",
            github.replace("github.com", "GitHub.com"),
        ),
        (
            "an owner that begins alike",
            github.replace("acme", "acme-evil"),
        ),
        ("a dot more", github.replace("github.com", "github.com.")),
        (
            "a dot that stands for any letter",
            github.replace("github.com", "githubxcom"),
        ),
        ("anchors", format!("^{github}$")),
        (
            "another workflow",
            github.replace("release.yml", "release.yml2"),
        ),
        ("a branch", github.replace("refs/tags", "refs/heads")),
        ("a folder more", github.replace("acme/app", "acme/app/x")),
        ("an escaped slash", github.replace("acme/app", "acme%2fapp")),
    ] {
        let wanted = Wanted::of(Name::Uri(subject));
        for subject in [
            github,
            "https://github.com/acme/*/.github/workflows/release.yml@refs/tags/v1",
        ] {
            for form in FORMS {
                let require = required(subject, ISSUER);
                let refused = signed(&instance, &instance, &wanted, form, &require).await;
                let refused = refused.expect_err(what);
                assert!(
                    refused.message.contains("its certificate is for"),
                    "{what}: {refused}"
                );
            }
        }
    }
    for issuer in [
        format!("{ISSUER}/"),
        ISSUER.replace("https", "http"),
        format!("{ISSUER}.evil.test"),
        ISSUER.to_uppercase(),
        String::new(),
    ] {
        let wanted = Wanted {
            issuer: Some(issuer.clone()),
            ..Wanted::good()
        };
        for form in FORMS {
            let require = required(SUBJECT, ISSUER);
            let refused = signed(&instance, &instance, &wanted, form, &require).await;
            let refused = refused.expect_err(&issuer);
            assert!(
                refused.message.contains("its certificate is of issuer"),
                "{issuer}: {refused}"
            );
        }
    }
}

#[tokio::test]
async fn what_the_log_says_of_something_else_proves_nothing() {
    let (instance, wanted) = (Instance::new(), Wanted::good());
    let root = Root::read(instance.root().as_bytes()).unwrap();
    let text = payload(Digest::new([1; 32]));
    let minted = instance.text(&wanted, &text);
    let signature = minted.signature();
    let read = |annotations: &BTreeMap<String, String>, text: &[u8], signature: &str| {
        let bundle = super::super::evidence::tests::as_bundle(annotations, text, signature);
        root.verify_text(&bundle, text)
    };
    let good = minted.annotations();
    assert_eq!(read(&good, &text, &signature).unwrap().subject, SUBJECT);
    // That of another signature, by the same identity and of another text or by another certificate.
    let other = instance.text(&wanted, b"other");
    let same = instance.text(&wanted, &text);
    for name in [
        "dev.sigstore.cosign/certificate",
        "dev.sigstore.cosign/bundle",
    ] {
        for from in [&other, &same] {
            let mut mixed = good.clone();
            mixed.insert(name.to_owned(), from.annotations()[name].clone());
            assert!(read(&mixed, &text, &signature).is_err(), "{name}");
        }
    }
    assert!(read(&good, b"other", &signature).is_err());
    assert!(read(&good, &text, &same.signature()).is_err());
    assert!(read(&other.annotations(), &text, &signature).is_err());
    // A time, an index or a log that is not what was promised.
    let promise = &good["dev.sigstore.cosign/bundle"];
    for (what, changed) in [
        ("integratedTime\":1780315200", "integratedTime\":1780315201"),
        ("logIndex\":7", "logIndex\":8"),
        ("\"logID\":\"", "\"logID\":\"00"),
        (
            "\"SignedEntryTimestamp\":\"ME",
            "\"SignedEntryTimestamp\":\"MF",
        ),
    ] {
        let changed = promise.replace(what, changed);
        assert_ne!(changed, *promise, "{what}");
        let mut mixed = good.clone();
        mixed.insert("dev.sigstore.cosign/bundle".to_owned(), changed);
        assert!(read(&mixed, &text, &signature).is_err(), "{what}");
    }
}

#[tokio::test]
async fn an_identity_counts_once_whatever_certificates_it_had() {
    let instance = Instance::new();
    let both = |at_least: u32| {
        format!(
            "{{ signatures: {{ at_least: {at_least}, any: [{{ key: release }}, {{ keyless: {{ root: r, issuer: \"{ISSUER}\", subject: \"**@acme.test\" }} }}, {{ keyless: {{ root: r, issuer: \"{ISSUER}\", subject: \"*@acme.test\" }} }}] }} }}"
        )
    };
    let mail = |name: &str| Wanted::of(Name::Mail(format!("{name}@acme.test")));
    let world = World::trusting(&instance, &both(2));
    let digest = world.registry.image("a");
    let text = payload(digest);
    let by = |name: &str| {
        (
            text.as_slice(),
            instance.text(&mail(name), &text).annotations(),
        )
    };
    world
        .registry
        .tagged(digest, "sig", SIMPLE, &[by("ops"), by("ops")]);
    let refused = world.refused().await;
    assert_eq!(refused.reason, Reason::SignerUnknown, "{refused}");
    world
        .registry
        .tagged(digest, "sig", SIMPLE, &[by("ops"), by("dev")]);
    world.admit(Standing::Fresh).await.unwrap();
}

#[tokio::test]
async fn an_identity_attests_in_either_form_and_does_not_sign_by_that() {
    let instance = Instance::new();
    let slsa = "https://slsa.dev/provenance/v1";
    let built = r#"{"runDetails":{"builder":{"id":"https://b.test"}}}"#;
    let by = format!("keyless: {{ root: r, issuer: \"{ISSUER}\", subject: \"{SUBJECT}\" }}");
    let attested = format!(
        "{{ attestations: [{{ type: provenance, by: {{ {by} }}, builder: \"https://b.test\" }}] }}"
    );
    for form in FORMS {
        for (require, is_enough) in [(&attested, true), (&required(SUBJECT, ISSUER), false)] {
            let world = World::trusting(&instance, require);
            let digest = world.registry.image("a");
            let text = statement(digest, slsa, built);
            let minted = instance.statement(&Wanted::good(), &text);
            match form {
                Form::Annotated => {
                    let envelope = minted.envelope(&text).to_string();
                    let kind = "application/vnd.dsse.envelope.v1+json";
                    let layers = [(envelope.as_bytes(), minted.annotations())];
                    world.registry.tagged(digest, "att", kind, &layers);
                }
                Form::Bundle => {
                    let bundle = instance.bundle(&minted, &text).to_string();
                    let listed = world.registry.artifact(BUNDLE, bundle.as_bytes());
                    world
                        .registry
                        .list(&format!("referrers/{digest}"), &[listed]);
                }
            }
            let found = world.admit(Standing::Fresh).await;
            assert_eq!(found.is_ok(), is_enough, "{form:?} {found:?}");
        }
    }
}

#[tokio::test]
async fn a_tag_is_not_turned_back_where_the_policy_minds() {
    let instance = Instance::new();
    let keyless = |more: &str| {
        required(SUBJECT, ISSUER).replace("signatures: {", &format!("signatures: {{ {more}"))
    };
    let wanted = |minute: u32| Wanted {
        used: at(&format!("2026-06-01T12:0{minute}:00Z")),
        ..Wanted::good()
    };
    for (require, is_held) in [(keyless("no_downgrade: true,"), true), (keyless(""), false)] {
        let world = World::trusting(&instance, &require);
        let image = |salt: &str, minute: u32| {
            let digest = world.registry.image(salt);
            let text = payload(digest);
            let annotations = instance.text(&wanted(minute), &text).annotations();
            world
                .registry
                .tagged(digest, "sig", SIMPLE, &[(&text, annotations)]);
            digest
        };
        let anew = || async {
            let anew = gate(&world.kept);
            anew.begin(&world.file()).unwrap();
            let name = world.registry.image_name();
            let ask = |standing| {
                let (image, besides) = (name.as_str(), None);
                anew.admit(
                    Question {
                        image,
                        besides,
                        standing,
                    },
                    &|_| {},
                )
            };
            // The second question finds what the first one has read.
            let first = ask(Standing::Fresh).await.map(|it| digest_of(&it));
            let second = ask(Standing::Renewed).await.map(|it| digest_of(&it));
            assert_eq!(first, second);
            first
        };
        let old = image("old", 1);
        assert_eq!(anew().await.unwrap(), old);
        let new = image("new", 3);
        assert_eq!(anew().await.unwrap(), new);
        // The older one, which ran before; and one that was signed in between.
        for (salt, minute) in [("old", 1), ("between", 2)] {
            let turned = image(salt, minute);
            match anew().await {
                Ok(found) => assert_eq!((found, is_held), (turned, false)),
                Err(refused) => {
                    assert!(is_held, "{refused}");
                    assert_eq!(refused.reason, Reason::Downgraded);
                    assert!(refused.message.contains("2026-06-01T12:03:00"), "{refused}");
                }
            }
            // By its digest it runs all the same, and so does what ran, whatever the tag says.
            for standing in [
                Standing::Fresh,
                Standing::Recorded(&format!("{}/app@{new}", world.registry.address)),
            ] {
                let name = match standing {
                    Standing::Fresh => format!("{}/app@{old}", world.registry.address),
                    Standing::Recorded(_) | Standing::Renewed => world.registry.image_name(),
                };
                let question = Question {
                    image: &name,
                    besides: None,
                    standing,
                };
                world.gate.admit(question, &|_| {}).await.unwrap();
            }
        }
        let newest = image("newest", 4);
        assert_eq!(anew().await.unwrap(), newest);
    }
}

/// What tokens sign (PKCS #11) bears a certificate and no log's promise.
#[tokio::test]
async fn a_key_signs_also_where_a_certificate_stands_beside_it() {
    let minted = Instance::new().text(&Wanted::good(), b"x").annotations();
    let certificate = "dev.sigstore.cosign/certificate";
    for beside in [minted[certificate].as_str(), "", "rubbish"] {
        let world = World::new(SIGNED);
        let digest = world.registry.image("a");
        let text = payload(digest);
        let signature = codec::to_base64(&world.pair.sign(&text));
        let annotations = [
            ("dev.cosignproject.cosign/signature", signature.as_str()),
            (certificate, beside),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()));
        let layers = [(text.as_slice(), annotations.into())];
        world.registry.tagged(digest, "sig", SIMPLE, &layers);
        world.admit(Standing::Fresh).await.unwrap();
    }
}

#[test]
fn a_proof_of_another_log_or_of_another_place_in_it_proves_nothing() {
    let instance = Instance::new();
    let root = Root::read(instance.root().as_bytes()).unwrap();
    let digest = Digest::new([1; 32]);
    let text = statement(digest, SIGN, "{}");
    let minted = instance.statement(&Wanted::good(), &text);
    let bundle = instance.bundle(&minted, &text);
    let proof = "/verificationMaterial/tlogEntries/0/inclusionProof";
    root.verify(bundle.to_string().as_bytes(), &digest).unwrap();
    // A checkpoint by a log that nobody trusts, another entry's, and none at all.
    let other = instance.statement(&Wanted::good(), b"other");
    let theirs = Instance::new().bundle(&minted, &text);
    for wrong in [
        theirs,
        instance.bundle(&other, b"other"),
        serde_json::Value::Null,
    ] {
        let mut changed = bundle.clone();
        let found = wrong.pointer(proof).cloned().unwrap_or_default();
        *changed.pointer_mut(proof).unwrap() = found;
        let changed = changed.to_string();
        root.verify(changed.as_bytes(), &digest).unwrap_err();
    }
}
