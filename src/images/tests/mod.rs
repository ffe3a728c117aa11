//! The attacks that the gate must hold, against a registry that lies as it is told.
//!
//! | attack | test |
//! |---|---|
//! | a tag that moves between look, verification and pull; a registry that is gone at a restart | `a_tag_is_read_once_and_what_was_verified_runs_again_without_anybody`, journeys `policy` |
//! | other bytes, headers or kinds than announced; schema 1; an index that is a manifest too | `what_contradicts_itself_is_refused`, `oci::tests` |
//! | a signature of another image, by another key, of another text; an attestation that poses as one | `judge::tests`, `a_list_of_referrers_is_followed_and_has_an_end` |
//! | doubled fields, trailing bytes, depth, a byte order mark | `simple::tests`, `oci::tests`, `dsse::tests` |
//! | one key that counts twice; a key after its end; private, weak and unknown keys | `judge::tests`, `keys::tests` |
//! | near misses of identities; another issuer | `model::image::pattern`, `keyless::tests` |
//! | parts of a bundle or root that are missing, changed or of another | `keyless::tests` |
//! | a platform that nobody signed | `a_signature_of_a_part_lets_exactly_that_part_run` |
//! | refusals, errors and silence of each of the answers, taken for absence | `silence_is_told_apart_from_absence_wherever_it_comes` |
//! | endless, huge, compressed and circular answers | `what_does_not_end_is_not_waited_for_nor_held`, `a_list_of_referrers_is_followed_and_has_an_end` |
//! | redirects with credentials, to the host itself, to a cloud's metadata; foreign realms | `a_redirect_takes_no_token_along_and_leads_to_no_nearer_network`, `a_token_is_asked_for_only_where_that_is_safe`, `registry::auth::tests` |
//! | names that two programs read in two ways; owners that begin alike | `model::image::name`, `model::image::pattern` |
//! | a pipeline that loosens | `manifest::image_policy` |
//! | a policy that is half-written, gone, others' or another; a key that was exchanged | `a_broken_edit_changes_nothing_and_a_policy_that_was_never_read_lets_nothing_run`, `source::tests` |
//! | a verdict that is used for another image, repository or policy | `a_verdict_about_one_image_is_none_about_another` |
//! | old scans, scans of tomorrow, scans of strangers; a scanner that hangs, lies or floods | `attest::tests`, `scan::tests` |
//! | many starts of one image at once | `many_starts_of_one_image_are_one_question` |
//! | a local image with a trusted name; a refused image in an update | journeys `policy` |
//!
//! Not held, and said so: an older image that was properly signed, unless it is pinned or its scan has
//! an age.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::keys::tests::Pair;
use super::*;
use crate::clock::Clock;
use crate::model::codec;

mod lies;

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
            let found = replies.get(&path).or_else(|| replies.get(plain));
            found.cloned().unwrap_or_else(|| Reply::status(404))
        };
        if reply.then == Then::Reset {
            return;
        }
        let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        let has_length = reply
            .headers
            .iter()
            .any(|(name, _)| name == "Content-Length");
        if reply.then == Then::Whole && !has_length {
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
        let blob = self.blob(payload.as_bytes());
        let layer = format!(
            r#"{{"mediaType":"{SIMPLE}","digest":"{blob}","size":{},"annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}"#,
            payload.len()
        );
        let text = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
        let path = format!("manifests/sha256-{}.sig", digest.hex());
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
        let blob = self.blob(text.as_bytes());
        let layer = format!(
            r#"{{"mediaType":"{BUNDLE}","digest":"{blob}","size":{}}}"#,
            text.len()
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
            "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\nkeys:\n  release: {{ file: release.pub }}\nrules:\n  - images: [\"{}/**\"]\n    require: {require}\n",
            self.registry.address
        );
        fs::write(self.file(), text).unwrap();
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
