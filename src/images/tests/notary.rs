//! Signatures by Notation, with certificates made here: right ones, and ones that are wrong in one
//! thing each.

use serde_json::{Value, json};

use super::super::keys::tests::value;
use super::mint::{SERVER_AUTH, algorithm, at, distinguished, extension, moment, pem, sequence};
use super::*;
use crate::model::Timestamp;

const JSON: &str = "application/jose+json";
const SCHEME: &str = "io.cncf.notary.signingScheme";
const EXPIRY: &str = "io.cncf.notary.expiry";
const NAME: [(&[u8], &str); 3] = [
    (&[0x55, 4, 6], "US"),
    (&[0x55, 4, 10], "acme"),
    (&[0x55, 4, 3], "build"),
];
const REQUIRE: &str =
    "{ signatures: { any: [{ notation: { store: s, subject: \"C=US, O=acme\" } }] } }";

/// A certificate, as it is wanted.
#[derive(Clone)]
struct Wanted {
    name: Vec<(&'static [u8], &'static str)>,
    from: Timestamp,
    to: Timestamp,
    usage: u8,
    purpose: Option<&'static [u8]>,
    is_authority: bool,
}

impl Wanted {
    fn good() -> Self {
        Self {
            name: NAME.to_vec(),
            from: at("2021-01-01T00:00:00Z"),
            to: at("2049-01-01T00:00:00Z"),
            usage: 0x80,
            purpose: Some(&[0x2b, 6, 1, 5, 5, 7, 3, 3]),
            is_authority: false,
        }
    }
}

/// An authority, which has a name and a key.
struct Authority {
    pair: Pair,
    name: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        Self {
            pair: Pair::p256(),
            name: distinguished(&[(&[0x55, 4, 10], "authority")]),
        }
    }

    fn own(&self) -> Vec<u8> {
        let wanted = Wanted {
            usage: 0x06,
            purpose: None,
            is_authority: true,
            ..Wanted::good()
        };
        certificate(&wanted, &self.name, &self.pair, self)
    }

    fn of(&self, wanted: &Wanted, holder: &Pair) -> Vec<u8> {
        certificate(wanted, &distinguished(&wanted.name), holder, self)
    }
}

fn certificate(wanted: &Wanted, subject: &[u8], holder: &Pair, by: &Authority) -> Vec<u8> {
    let mut extensions = Vec::new();
    if wanted.usage != 0 {
        extensions.push(extension(&[0x55, 0x1d, 0x0f], &[3, 2, 0, wanted.usage]));
    }
    if wanted.is_authority {
        extensions.push(extension(
            &[0x55, 0x1d, 0x13],
            &sequence(&[vec![1, 1, 0xff]]),
        ));
    }
    if let Some(purpose) = wanted.purpose {
        extensions.push(extension(
            &[0x55, 0x1d, 0x25],
            &sequence(&[value(6, purpose)]),
        ));
    }
    let signed = sequence(&[
        value(0xa0, &value(2, &[2])),
        value(2, &[7]),
        algorithm(),
        by.name.clone(),
        sequence(&[moment(wanted.from), moment(wanted.to)]),
        subject.to_owned(),
        holder.der(),
        value(0xa3, &sequence(&extensions)),
    ]);
    let signature = [vec![0], by.pair.sign(&signed)].concat();
    sequence(&[signed, algorithm(), value(3, &signature)])
}

fn for_web(bytes: &[u8]) -> String {
    codec::to_base64(bytes)
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_")
}

/// What Notation signs, and how.
#[derive(Clone)]
struct Text {
    protected: Value,
    payload: Value,
}

impl Text {
    fn about(digest: Digest) -> Self {
        Self {
            protected: json!({
                "alg": "ES256",
                "cty": "application/vnd.cncf.notary.payload.v1+json",
                "crit": ["io.cncf.notary.signingScheme"],
                "io.cncf.notary.signingScheme": "notary.x509",
                "io.cncf.notary.signingTime": "2026-01-01T00:00:00Z",
            }),
            payload: json!({
                "targetArtifact": { "mediaType": MANIFEST, "digest": digest, "size": 1 },
            }),
        }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.protected[name] = value;
        self
    }

    fn signed(&self, by: &Pair, chain: &[Vec<u8>]) -> String {
        let (protected, payload) = (
            for_web(self.protected.to_string().as_bytes()),
            for_web(self.payload.to_string().as_bytes()),
        );
        let signature = by.sign_for_web(format!("{protected}.{payload}").as_bytes());
        let chain = chain.iter().map(|it| codec::to_base64(it));
        json!({
            "payload": payload,
            "protected": protected,
            "header": { "x5c": chain.collect::<Vec<_>>(), "io.cncf.notary.signingAgent": "tests" },
            "signature": for_web(&signature),
        })
        .to_string()
    }
}

/// A world that believes `stored`, with an image that bears `kind` of piece.
fn world(stored: &[Vec<u8>], kind: &str, piece: impl Fn(Digest) -> String) -> World {
    let mut world = World::new(RESOLVED);
    let stored: String = stored.iter().map(|it| pem(it)).collect();
    fs::write(world.folder.path().join("store.pem"), stored).unwrap();
    world.more = "stores: { s: { file: store.pem } }\n".to_owned();
    world.require(REQUIRE);
    world.gate.begin(&world.file()).unwrap();
    let digest = world.registry.image("a");
    let listed = world.registry.artifact(kind, piece(digest).as_bytes());
    world
        .registry
        .list(&format!("referrers/{digest}"), &[listed]);
    world
}

#[tokio::test]
async fn a_holder_whom_the_store_vouches_for_signs() {
    let authority = Authority::new();
    let pair = Pair::p256();
    let chain = [authority.of(&Wanted::good(), &pair), authority.own()];
    let world = world(&[authority.own()], JSON, |digest| {
        Text::about(digest).signed(&pair, &chain)
    });
    let admitted = world.admit(Standing::Fresh).await.unwrap();
    let verdict = admitted.verdict().unwrap();
    assert!(
        verdict.found.contains("signed by C=US, O=acme, CN=build"),
        "{verdict:?}"
    );
    // It counts for as long as its certificate does.
    assert_eq!(verdict.until, Some(at("2049-01-01T00:00:00Z")));
    // One that vouches for itself, and for nobody else.
    let alone = Authority {
        pair: Pair::p256(),
        name: distinguished(&NAME),
    };
    let own = alone.of(&Wanted::good(), &alone.pair);
    let itself = self::world(std::slice::from_ref(&own), JSON, |digest| {
        Text::about(digest).signed(&alone.pair, std::slice::from_ref(&own))
    });
    itself.admit(Standing::Fresh).await.unwrap();
    let other = Pair::p256();
    let chain = [alone.of(&Wanted::good(), &other), own.clone()];
    let other = self::world(&[own], JSON, |digest| {
        Text::about(digest).signed(&other, &chain)
    });
    other.refused().await;
}

#[tokio::test]
async fn a_signature_by_notation_that_is_wrong_in_one_thing_is_none() {
    let (authority, pair) = (Authority::new(), Pair::p256());
    let good = Wanted::good;
    type Change = fn(Text) -> Text;
    let as_it_is: Change = |text| text;
    let texts: [(&str, Wanted, Change); 16] = [
        (
            "not vouched for",
            Wanted {
                to: at("2026-01-02T00:00:00Z"),
                ..good()
            },
            as_it_is,
        ),
        (
            "not vouched for",
            Wanted {
                from: at("2048-01-01T00:00:00Z"),
                ..good()
            },
            as_it_is,
        ),
        (
            "not vouched for",
            Wanted {
                purpose: Some(SERVER_AUTH),
                ..good()
            },
            as_it_is,
        ),
        (
            "not vouched for",
            Wanted {
                is_authority: true,
                usage: 0x86,
                ..good()
            },
            as_it_is,
        ),
        (
            "not for signing",
            Wanted {
                usage: 0x20,
                ..good()
            },
            as_it_is,
        ),
        ("not for signing", Wanted { usage: 0, ..good() }, as_it_is),
        (
            "O=acme` is wanted",
            Wanted {
                name: vec![(&[0x55, 4, 6], "US"), (&[0x55, 4, 10], "Acme")],
                ..good()
            },
            as_it_is,
        ),
        (
            "O=acme` is wanted",
            Wanted {
                name: vec![(&[0x55, 4, 10], "acme")],
                ..good()
            },
            as_it_is,
        ),
        (
            "O=acme` is wanted",
            Wanted {
                name: [NAME.to_vec(), vec![(&[0x55, 4, 10], "evil")]].concat(),
                ..good()
            },
            as_it_is,
        ),
        ("of another image", good(), |mut text| {
            text.payload["targetArtifact"]["digest"] = json!(Digest::new([9; 32]));
            text
        }),
        ("has not counted since", good(), |text| {
            text.with(EXPIRY, json!("2026-01-02T00:00:00Z"))
        }),
        ("yet to come", good(), |text| {
            text.with("io.cncf.notary.signingTime", json!("2048-01-01T00:00:00Z"))
        }),
        ("has to be understood", good(), |text| {
            text.with("crit", json!([SCHEME, "io.cncf.notary.verificationPlugin"]))
        }),
        ("by scheme `notary.x509.signingAuthority`", good(), |text| {
            text.with(SCHEME, json!("notary.x509.signingAuthority"))
        }),
        ("does not fit", good(), |text| {
            text.with("alg", json!("ES384"))
        }),
        ("on something else", good(), |text| {
            text.with("cty", json!("text/plain"))
        }),
    ];
    for (wanted, certificate, change) in texts {
        let chain = [authority.of(&certificate, &pair), authority.own()];
        let world = world(&[authority.own()], JSON, |digest| {
            change(Text::about(digest)).signed(&pair, &chain)
        });
        let refused = world.refused().await;
        assert_eq!(refused.reason, Reason::SignerUnknown, "{wanted}: {refused}");
        assert!(refused.message.contains(wanted), "{wanted}: {refused}");
    }
    let chain = [authority.of(&good(), &pair), authority.own()];
    for (what, by, stored, chain) in [
        (
            "an authority of the same name",
            &pair,
            Authority::new().own(),
            chain.to_vec(),
        ),
        (
            "another key",
            &Pair::p256(),
            authority.own(),
            chain.to_vec(),
        ),
        ("no certificate", &pair, authority.own(), Vec::new()),
        (
            "too many",
            &pair,
            authority.own(),
            vec![chain[0].clone(); 11],
        ),
    ] {
        let world = world(&[stored], JSON, |digest| {
            Text::about(digest).signed(by, &chain)
        });
        assert_eq!(
            world.refused().await.reason,
            Reason::SignerUnknown,
            "{what}"
        );
    }
    // Another text beside the signature, and a form that is not read.
    let changed = world(&[authority.own()], JSON, |digest| {
        let other = Text::about(Digest::new([9; 32])).signed(&pair, &chain);
        let mut other: Value = serde_json::from_str(&other).unwrap();
        let payload = Text::about(digest).payload.to_string();
        other["payload"] = json!(for_web(payload.as_bytes()));
        other.to_string()
    });
    assert!(changed.refused().await.message.contains("does not fit"));
    let cose = world(&[authority.own()], "application/cose", |_| "x".to_owned());
    let refused = cose.refused().await;
    assert_eq!(refused.reason, Reason::SignatureInvalid);
    assert!(
        refused.message.contains("--signature-format jws"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_signature_by_notation_ends_when_it_says() {
    let (authority, pair) = (Authority::new(), Pair::p256());
    let chain = [authority.of(&Wanted::good(), &pair)];
    let soon = Clock::new()
        .now()
        .after(std::time::Duration::from_secs(3_600));
    let world = world(&[authority.own()], JSON, |digest| {
        let crit = json!(["io.cncf.notary.signingScheme", "io.cncf.notary.expiry"]);
        Text::about(digest)
            .with("crit", crit)
            .with("io.cncf.notary.expiry", json!(soon))
            .signed(&pair, &chain)
    });
    let admitted = world.admit(Standing::Fresh).await.unwrap();
    assert_eq!(admitted.verdict().unwrap().until, Some(soon));
}

#[test]
fn what_is_no_store_of_certificates_is_called_what_it_is() {
    let authority = Authority::new();
    let good = pem(&authority.own());
    assert!(Store::read(format!("{good}\n{good}").as_bytes()).is_ok());
    for (text, wanted) in [
        (String::new(), "no certificate"),
        (Pair::p256().pem(), "no certificate"),
        (
            format!("{good}-----BEGIN PRIVATE KEY-----\n"),
            "PRIVATE key",
        ),
        (good[..100].to_owned(), "breaks off"),
        (good.replacen('M', "!", 1), "not base64"),
        (pem(b"x"), "not usable"),
        (good.repeat(101), "more than 100"),
    ] {
        let why = Store::read(text.as_bytes()).unwrap_err();
        assert!(why.contains(wanted), "{wanted}: {why}");
    }
}

/// What notation-go made, see `tests/data/notation`.
#[test]
fn what_notation_signs_counts_until_it_ends() {
    macro_rules! data {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/data/notation/", $name)).as_slice()
        };
    }
    for (store, signature, image, name) in [
        (
            data!("rsa.pem"),
            data!("rsa.jws.json"),
            "sha256:fbcce7c87d0341b28e5c622bc87149b0a567cf5880644242ce90a98ab6966749",
            "CN=Notation Test RSA Leaf Cert",
        ),
        (
            data!("ec.pem"),
            data!("ec.jws.json"),
            "sha256:18cfa08f901d251f142ef73f05cfc8c60b23802380c3cc3fbd067aebdaeefc93",
            "CN=Notation Test EC Leaf Cert",
        ),
        (
            data!("self.pem"),
            data!("self.jws.json"),
            "sha256:f9fbbd8762837cd679a4c0f5b738caa26d79ac9056a04573886ddb4c3673ef8d",
            "CN=self.test",
        ),
    ] {
        let store = Store::read(store).unwrap();
        let digest: Digest = image.parse().unwrap();
        let signed = at("2026-12-01T14:00:00Z");
        let whole = store.verify(signature, &digest, signed).unwrap();
        assert!(whole.name().contains(name), "{whole:?}");
        for late in ["2026-12-02T13:28:05Z", "2027-06-01T00:00:00Z"] {
            store.verify(signature, &digest, at(late)).unwrap_err();
        }
        store
            .verify(signature, &Digest::new([1; 32]), signed)
            .unwrap_err();
        // Whatever byte of it changes: it is nobody's, or it is the same.
        for index in (0..signature.len()).step_by(7) {
            let mut changed = signature.to_owned();
            changed[index] ^= 1;
            if let Ok(found) = store.verify(&changed, &digest, signed) {
                assert_eq!(found, whole, "{index}");
            }
        }
    }
}
