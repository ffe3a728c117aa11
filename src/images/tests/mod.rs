//! The attacks that the gate must hold, against a registry that lies as it is told.
//!
//! | # | attack | test |
//! |---|---|---|
//! | 1 | a tag that moves between look and signatures | `a_tag_is_read_once_and_what_was_verified_runs_again_without_anybody` |
//! | 2 | a tag that moves between verification, pull and start | journey `policy::only_what_the_policy_lets_run_runs_and_by_its_digest` |
//! | 3 | other bytes, headers or kinds than announced; schema 1; an index that is a manifest too | `lies::what_contradicts_itself_is_refused`, `oci::tests` |
//! | 4 | signatures exchanged between two reads of them | `a_tag_is_read_once_…`: each is read once, counted |
//! | 5 | a signature of another image | `judge::tests`, `certificates::what_the_log_says_of_something_else_proves_nothing` |
//! | 6 | doubled fields, other kinds of text, trailing bytes, depth, a byte order mark | `simple::tests`, `oci::tests`, `dsse::tests` |
//! | 7 | an attestation that poses as a signature | `judge::tests`, `lies::a_list_of_referrers_is_followed_and_has_an_end`, `certificates::an_identity_attests_in_either_form_and_does_not_sign_by_that` |
//! | 8 | an attestation of another image, by name or by another hash | `dsse::tests`, `attest::tests` |
//! | 9 | a signed index whose parts are exchanged | the digest of the index is what the engine is given: journey `policy` (2) |
//! | 10 | a platform that nobody signed | `lies::a_signature_of_a_part_lets_exactly_that_part_run` |
//! | 11 | another key, kind, curve, size or hash | `keys::tests` |
//! | 12 | near misses of identities; several names; another issuer | `certificates::an_identity_that_is_only_nearly_the_one_has_not_signed`, `certificates::a_certificate_that_is_wrong_in_one_thing_proves_nothing`, `model::image::pattern` |
//! | 13 | certificates after their end, before their begin, in time to come; time stamps of others | `certificates::a_certificate_that_…`, `keyless::tests` |
//! | 14 | certificates in no log, in another, or as another; promises and proofs of something else | `certificates::a_part_of_another_instance_proves_nothing`, `certificates::what_the_log_says_…`, `keyless::tests` |
//! | 15 | another authority, another purpose, an authority as signer, a long chain | `certificates::a_certificate_that_…`, `certificates::a_part_of_another_instance_…`, `keyless::tests` |
//! | 16 | one signer that counts twice | `judge::tests`, `certificates::an_identity_counts_once_whatever_certificates_it_had` |
//! | 17 | an older image under the tag | `certificates::a_tag_is_not_turned_back_where_the_policy_minds`; without that nothing holds it |
//! | 18 | refusals, errors and silence of each answer, taken for absence | `lies::silence_is_told_apart_from_absence_wherever_it_comes`, `lies::a_token_is_asked_for_only_where_that_is_safe` |
//! | 19 | endless, slow, huge, compressed and circular answers | `lies::what_does_not_end_is_not_waited_for_nor_held`, `lies::a_slow_registry_is_given_up_after_a_while_and_not_after_each_byte`, `lies::a_list_of_referrers_…` |
//! | 20 | redirects with credentials, to the host itself, to a cloud's metadata | `lies::a_redirect_takes_no_token_along_and_leads_to_no_nearer_network` |
//! | 21 | foreign realms that want the password | `registry::auth::tests`, `lies::a_token_is_asked_for_…` |
//! | 22 | names that two programs read in two ways; owners that begin alike | `model::image::name`, `model::image::pattern` |
//! | 23 | a local image with a trusted name | journeys `policy` (2), `policy::what_was_built_here_runs_where_that_is_allowed_and_is_flagged_where_it_is_not` |
//! | 24 | a pipeline that loosens | `manifest::image_policy` |
//! | 25 | a policy that is half-written, gone, others' or another; a key that was exchanged | `a_broken_edit_changes_nothing_and_a_policy_that_was_never_read_lets_nothing_run`, `source::tests` |
//! | 26 | a policy that changes during a pull | `a_tag_is_read_once_…` (`is_current`), which the driver asks before it starts |
//! | 27 | a daemon that is killed between verdict, pull and start | journey `policy::a_daemon_killed_between_verdict_and_start_starts_what_was_verified_and_nothing_else`, `a_verdict_about_one_image_is_none_about_another` |
//! | 28 | a restart without a registry, by the same policy and by another | `a_tag_is_read_once_…`, journeys `policy` |
//! | 29 | a refused image in an update | journey `policy::an_image_runs_once_it_is_signed_and_a_changed_policy_judges_anew` |
//! | 30 | a scanner that hangs, lies, floods, leaves children or is missing | `scan::tests` |
//! | 31 | a clock that is wrong | `attest::tests`; identities are judged at the time of signing |
//! | 32 | an engine with several digests of one image, or a policy of its own | `driver::docker` takes that of the same repository; journey `policy` (2) |
//! | 33 | a label that claims that something was verified | the gate is shown none: [`Question`] |
//! | 34 | many starts of one image at once | `many_starts_of_one_image_are_one_question` |
//! | 35 | a tag that two parts resolve | [`VerifiedImage`] can be made by the gate alone, and drivers take nothing else |
//! | 36 | old scans, scans of tomorrow, scans of strangers | `attest::tests` |
//! | 37 | signatures by Notation that are wrong in one thing | `notary` |
//!
//! Not held, and said so: an older image that was properly signed, unless it is pinned, `no_downgrade`
//! is set, or its scan has an age.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::keys::tests::Pair;
use super::*;
use crate::clock::Clock;
use crate::model::codec;

mod certificates;
mod lies;
mod mint;
mod notary;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// What a registry answers.
#[derive(Clone)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    then: Then,
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Whole,
    Endless,
    Reset,
    /// A byte now and then, without end.
    Dripping,
    /// Whole, a while later.
    Late,
}

impl Reply {
    fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), kind.to_owned())],
            body: body.into(),
            then: Then::Whole,
        }
    }

    fn status(status: u16) -> Self {
        Self::new(status, "text/plain", "")
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// A registry of one repository, `app`.
#[derive(Clone)]
struct Registry {
    address: String,
    replies: Arc<Mutex<BTreeMap<String, Reply>>>,
    /// All that was asked, each with its headers.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Self {
            address: listener.local_addr().unwrap().to_string(),
            replies: Arc::default(),
            asked: Arc::default(),
        };
        let served = registry.clone();
        std::thread::spawn(move || {
            for guest in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                std::thread::spawn(move || served.serve(guest));
            }
        });
        registry
    }

    fn serve(&self, mut guest: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match guest.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) | Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        self.asked
            .lock()
            .unwrap()
            .push((path.clone(), head.to_lowercase()));
        let plain = path.split('?').next().unwrap();
        let reply = {
            let replies = self.replies.lock().unwrap();
            // What only those see who show a token.
            let known = head.to_lowercase().contains("authorization: bearer");
            let guarded = replies.get(&format!("{path}#known")).filter(|_| known);
            let found = guarded.or_else(|| replies.get(&path));
            let found = found.or_else(|| replies.get(plain));
            found.cloned().unwrap_or_else(|| Reply::status(404))
        };
        if reply.then == Then::Reset {
            return;
        }
        if reply.then == Then::Late {
            std::thread::sleep(Duration::from_millis(40));
        }
        let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        let has_length = reply
            .headers
            .iter()
            .any(|(name, _)| name == "Content-Length");
        if matches!(reply.then, Then::Whole | Then::Late) && !has_length {
            text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
        }
        for (name, value) in &reply.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut sent = guest.write_all(text.as_bytes());
        sent = sent.and_then(|()| guest.write_all(&reply.body));
        while reply.then == Then::Endless && sent.is_ok() {
            sent = guest.write_all(&[b' '; 65_536]);
        }
        while reply.then == Then::Dripping && sent.is_ok() {
            std::thread::sleep(Duration::from_millis(5));
            sent = guest.write_all(b" ");
        }
    }

    fn put(&self, path: &str, reply: Reply) {
        let path = format!("/v2/app/{path}");
        self.replies.lock().unwrap().insert(path, reply);
    }

    fn remove(&self, path: &str) {
        self.replies
            .lock()
            .unwrap()
            .remove(&format!("/v2/app/{path}"));
    }

    /// Keeps a manifest by its digest; answers that.
    fn manifest(&self, kind: &str, text: &str) -> Digest {
        let digest = sha256(text.as_bytes());
        self.put(&format!("manifests/{digest}"), Reply::new(200, kind, text));
        digest
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        let reply = Reply::new(200, "application/octet-stream", bytes);
        self.put(&format!("blobs/{digest}"), reply);
        digest
    }

    /// Keeps an image under the tag `1`.
    fn image(&self, salt: &str) -> Digest {
        let text = image(salt);
        let digest = self.manifest(MANIFEST, &text);
        self.put("manifests/1", Reply::new(200, MANIFEST, text));
        digest
    }

    /// Signs `about` by a `.sig` tag at `digest`.
    fn sign(&self, pair: &Pair, digest: Digest, about: Digest) {
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{about}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let signature = codec::to_base64(&pair.sign(payload.as_bytes()));
        let signature = ("dev.cosignproject.cosign/signature".to_owned(), signature);
        self.tagged(
            digest,
            "sig",
            SIMPLE,
            &[(payload.as_bytes(), [signature].into())],
        );
    }

    /// Keeps layers with annotations under the tag that cosign makes for an image.
    fn tagged(
        &self,
        digest: Digest,
        suffix: &str,
        kind: &str,
        layers: &[(&[u8], BTreeMap<String, String>)],
    ) {
        let layers = layers.iter().map(|(bytes, annotations)| {
            let (blob, size) = (self.blob(bytes), bytes.len());
            serde_json::json!({
                "mediaType": kind, "digest": blob, "size": size, "annotations": annotations,
            })
        });
        let layers: Vec<_> = layers.collect();
        let text = serde_json::json!({ "schemaVersion": 2, "layers": layers }).to_string();
        let path = format!("manifests/sha256-{}.{suffix}", digest.hex());
        self.put(&path, Reply::new(200, MANIFEST, text));
    }

    /// A bundle in a manifest of its own; answers how it is listed.
    fn bundle(&self, pair: &Pair, predicate_type: &str, about: Digest) -> String {
        let payload = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"{predicate_type}","predicate":{{}}}}"#,
            about.hex()
        );
        let kind = "application/vnd.in-toto+json";
        let signed = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        let signature = codec::to_base64(&pair.sign(signed.as_bytes()));
        let text = format!(
            r#"{{"mediaType":"{BUNDLE}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{}","payloadType":"{kind}","signatures":[{{"sig":"{signature}"}}]}}}}"#,
            codec::to_base64(payload.as_bytes())
        );
        self.artifact(BUNDLE, text.as_bytes())
    }

    /// Something in a manifest of its own; answers how it is listed.
    fn artifact(&self, kind: &str, bytes: &[u8]) -> String {
        let blob = self.blob(bytes);
        let layer = format!(
            r#"{{"mediaType":"{kind}","digest":"{blob}","size":{}}}"#,
            bytes.len()
        );
        let text = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
        let digest = self.manifest(MANIFEST, &text);
        // Without an artifactType, as some list it.
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}}"#,
            text.len()
        )
    }

    fn list(&self, path: &str, listed: &[String]) {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            listed.join(",")
        );
        self.put(path, Reply::new(200, INDEX, text));
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(path, _)| path.clone()).collect()
    }

    fn image_name(&self) -> String {
        format!("{}/app:1", self.address)
    }
}

fn image(salt: &str) -> String {
    let digest = sha256(salt.as_bytes());
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"x","digest":"{digest}","size":1}},"layers":[]}}"#
    )
}

/// A policy in a folder of its own, and a gate that goes by it.
struct World {
    registry: Registry,
    folder: tempfile::TempDir,
    gate: Gate,
    pair: Pair,
    kept: Arc<Mutex<BTreeMap<String, String>>>,
    /// What else its policy says.
    more: String,
}

fn gate(kept: &Arc<Mutex<BTreeMap<String, String>>>) -> Gate {
    let settings = kept.lock().unwrap().clone();
    let kept = Arc::clone(kept);
    let keep = move |name: String, text: Option<String>| {
        let mut kept = kept.lock().unwrap();
        match text {
            Some(text) => kept.insert(name, text),
            None => kept.remove(&name),
        };
    };
    Gate::new(Clock::new(), &settings, Box::new(keep))
}

const SIGNED: &str = "{ signatures: { any: [{ key: release }] } }";
const RESOLVED: &str = "{ digest: resolved }";

impl World {
    fn new(require: &str) -> Self {
        let kept = Arc::default();
        let world = Self {
            registry: Registry::start(),
            folder: tempfile::tempdir().unwrap(),
            gate: gate(&kept),
            pair: Pair::p256(),
            kept,
            more: String::new(),
        };
        fs::write(world.folder.path().join("release.pub"), world.pair.pem()).unwrap();
        world.require(require);
        world.gate.begin(&world.file()).unwrap();
        world
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("images.yaml")
    }

    fn require(&self, require: &str) {
        let text = format!(
            "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\nkeys:\n  release: {{ file: release.pub }}\nrules:\n  - images: [\"{}/**\"]\n    require: {require}\n{}",
            self.registry.address, self.more
        );
        fs::write(self.file(), text).unwrap();
    }

    /// One that believes certificates of `instance`.
    fn trusting(instance: &mint::Instance, require: &str) -> Self {
        let mut world = Self::new(RESOLVED);
        fs::write(world.folder.path().join("root.json"), instance.root()).unwrap();
        world.more = "roots: { r: { file: root.json } }\n".to_owned();
        world.require(require);
        world.gate.begin(&world.file()).unwrap();
        world
    }

    async fn admit(&self, standing: Standing<'_>) -> Result<VerifiedImage, Refused> {
        let image = self.registry.image_name();
        let question = Question {
            image: &image,
            besides: None,
            standing,
        };
        self.gate.admit(question, &|_| {}).await
    }

    async fn refused(&self) -> Refused {
        self.admit(Standing::Fresh)
            .await
            .expect_err("it is not to run")
    }
}

fn digest_of(image: &VerifiedImage) -> Digest {
    match image.runs() {
        Runs::Exactly(_, digest) => *digest,
        Runs::AsWritten(_) | Runs::Local(_) => panic!("{image:?}"),
    }
}

#[tokio::test]
async fn without_a_policy_everything_runs_as_it_is_written() {
    let gate = Gate::open();
    let question = Question {
        image: "Whatever it is",
        besides: None,
        standing: Standing::Fresh,
    };
    let admitted = gate.admit(question, &|_| {}).await.unwrap();
    assert_eq!(admitted.runs(), Runs::AsWritten("Whatever it is"));
}

#[tokio::test]
async fn a_tag_is_read_once_and_what_was_verified_runs_again_without_anybody() {
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    let admitted = world.admit(Standing::Fresh).await.unwrap();
    assert_eq!(digest_of(&admitted), digest);
    let asked = world.registry.asked();
    assert_eq!(
        asked.len(),
        3,
        "manifest, signatures, one of them: {asked:?}"
    );
    assert_eq!(
        asked
            .iter()
            .filter(|path| path.ends_with("/manifests/1"))
            .count(),
        1
    );

    // The tag moves, and the registry goes: what ran runs again, also after the daemon is killed.
    world.registry.image("b");
    let reference = format!("{}/app@{digest}", world.registry.address);
    let world = World {
        gate: gate(&world.kept),
        ..world
    };
    world.gate.begin(&world.file()).unwrap();
    let again = world.admit(Standing::Recorded(&reference)).await.unwrap();
    assert_eq!(digest_of(&again), digest);
    assert_eq!(world.registry.asked().len(), 3);

    // Another policy judges anew, by the digest that ran and not by the tag.
    fs::write(world.folder.path().join("release.pub"), Pair::p256().pem()).unwrap();
    world.gate.look_again(&world.file()).await;
    assert!(!world.gate.is_current(&again));
    let refused = world
        .admit(Standing::Recorded(&reference))
        .await
        .unwrap_err();
    assert_eq!(refused.reason, Reason::SignerUnknown, "{refused}");
    assert!(refused.message.contains("images.yaml:7"), "{refused}");
    assert!(refused.message.contains("not by key release"), "{refused}");
    let tags = world.registry.asked();
    assert_eq!(
        tags.iter()
            .filter(|path| path.ends_with("/manifests/1"))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_verdict_about_one_image_is_none_about_another() {
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    world.admit(Standing::Fresh).await.unwrap();
    let other = world.registry.image("b");
    let reference = format!("{}/app@{other}", world.registry.address);
    let refused = world
        .admit(Standing::Recorded(&reference))
        .await
        .unwrap_err();
    assert_eq!(refused.reason, Reason::NotSigned);
    // Nor is one of the same digest in another repository, whatever was recorded.
    let elsewhere = format!("{}/other@{digest}", world.registry.address);
    tokio::time::sleep(std::time::Duration::from_secs(0)).await;
    let asked = world.registry.asked().len();
    let image = format!("{}/other:1", world.registry.address);
    let question = Question {
        image: &image,
        besides: None,
        standing: Standing::Recorded(&elsewhere),
    };
    world.gate.admit(question, &|_| {}).await.unwrap_err();
    assert!(world.registry.asked().len() > asked);
}

#[tokio::test]
async fn a_verdict_counts_for_as_long_as_it_says() {
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    world.admit(Standing::Fresh).await.unwrap();
    let reference = format!("{}/app@{digest}", world.registry.address);
    for (until, asks) in [
        ("2100-01-01T00:00:00Z", false),
        ("2020-01-01T00:00:00Z", true),
    ] {
        for text in world.kept.lock().unwrap().values_mut() {
            let mut verdict: serde_json::Value = serde_json::from_str(text).unwrap();
            verdict["until"] = until.into();
            *text = verdict.to_string();
        }
        let before = world.registry.asked().len();
        let anew = gate(&world.kept);
        anew.begin(&world.file()).unwrap();
        let image = world.registry.image_name();
        let question = Question {
            image: &image,
            besides: None,
            standing: Standing::Recorded(&reference),
        };
        anew.admit(question, &|_| {}).await.unwrap();
        assert_eq!(world.registry.asked().len() > before, asks, "{until}");
    }
}

#[tokio::test]
async fn many_starts_of_one_image_are_one_question() {
    let world = Arc::new(World::new(SIGNED));
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    let starts: Vec<_> = (0..20)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.admit(Standing::Fresh).await.map(|it| digest_of(&it)) })
        })
        .collect();
    // Those who leave early take nobody along.
    starts[0].abort();
    for start in starts.into_iter().skip(1) {
        assert_eq!(start.await.unwrap().unwrap(), digest);
    }
    let tags = world.registry.asked();
    let tags = tags
        .iter()
        .filter(|path| path.ends_with("/manifests/1"))
        .count();
    assert!(tags <= 2, "one of them may have been cut short: {tags}");
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_a_policy_that_was_never_read_lets_nothing_run() {
    let world = World::new(RESOLVED);
    let digest = world.registry.image("a");
    let file = world.file();
    let good = fs::read_to_string(&file).unwrap();
    let before = world.admit(Standing::Fresh).await.unwrap();
    for broken in ["", "default: deny", "kind: [", &good[..good.len() / 2]] {
        fs::write(&file, broken).unwrap();
        world.gate.look_again(&file).await;
        assert!(world.gate.states().borrow().problem.is_some(), "{broken}");
        assert!(
            world.gate.is_current(&before),
            "the last good one is in force"
        );
        assert_eq!(
            digest_of(&world.admit(Standing::Fresh).await.unwrap()),
            digest
        );
    }
    fs::remove_file(&file).unwrap();
    world.gate.look_again(&file).await;
    world.admit(Standing::Fresh).await.unwrap();
    // A daemon that begins with it starts nothing.
    let anew = gate(&world.kept);
    anew.begin(&file).unwrap_err();
    let image = world.registry.image_name();
    let question = Question {
        image: &image,
        besides: None,
        standing: Standing::Fresh,
    };
    let refused = anew.admit(question, &|_| {}).await.unwrap_err();
    assert_eq!(refused.reason, Reason::PolicyBroken);
    assert!(refused.message.contains("does not exist"), "{refused}");
    fs::write(&file, good).unwrap();
    anew.look_again(&file).await;
    anew.admit(question, &|_| {}).await.unwrap();
}

#[tokio::test]
async fn a_policy_that_only_warns_lets_run_and_tells() {
    let world = World::new(SIGNED);
    world.registry.image("a");
    let text = fs::read_to_string(world.file()).unwrap();
    fs::write(
        world.file(),
        text.replace("default: deny", "default: deny\nmode: warn"),
    )
    .unwrap();
    world.gate.look_again(&world.file()).await;
    let said = Mutex::new(Vec::new());
    let image = world.registry.image_name();
    let question = Question {
        image: &image,
        besides: None,
        standing: Standing::Fresh,
    };
    let admitted = world
        .gate
        .admit(question, &|what| said.lock().unwrap().push(what))
        .await;
    assert_eq!(admitted.unwrap().runs(), Runs::AsWritten(&image));
    let said = said.into_inner().unwrap();
    assert!(
        said.iter()
            .any(|what| what.contains("only warns") && what.contains("not signed")),
        "{said:?}"
    );
}
