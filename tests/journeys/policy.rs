//! Which images may run: the policy, a real registry, a real engine, signatures made here.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::engine::{Engine, IMAGE, resting, unique, world_with_engine};
use crate::images::{Registry, digest, forget, push};
use crate::support::{Status, World, eventually, pipeline};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Who signs.
struct Signer {
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
        let secret = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, secret.as_ref(), &random).unwrap();
        Self { pair }
    }

    /// Its public key.
    fn pem(&self) -> String {
        // A SubjectPublicKeyInfo of a point on P-256.
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let der = [&head, self.pair.public_key().as_ref()].concat();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            base64(&der)
        )
    }

    /// Signs the image of this digest, as cosign does by default with a key.
    fn sign(&self, registry: &Registry, repository: &str, image: &str) {
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{image}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let signature = self
            .pair
            .sign(&SystemRandom::new(), payload.as_bytes())
            .unwrap();
        let signature = base64(signature.as_ref());
        let layer = upload(registry, repository, payload.as_bytes());
        let config = upload(registry, repository, b"{}");
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"{config}"}},"layers":[{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":{},"digest":"{layer}","annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}]}}"#,
            payload.len()
        );
        let tag = image.replace(':', "-");
        let path = format!("/v2/{repository}/manifests/{tag}.sig");
        ask(registry, "PUT", &path, MANIFEST, manifest.as_bytes());
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |place: usize| usize::from(chunk.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = char::from(LETTERS[bits >> (18 - 6 * place) & 63]);
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

/// Asks a registry; answers the headers.
fn ask(registry: &Registry, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(&registry.address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        registry.address,
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap_or_default();
    assert!(code.starts_with('2'), "{method} {path}: {answer}");
    answer
}

fn upload(registry: &Registry, repository: &str, bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let hex: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let digest = format!("sha256:{hex}");
    let path = format!("/v2/{repository}/blobs/uploads/");
    let begun = ask(registry, "POST", &path, "text/plain", b"");
    let place = begun
        .lines()
        .find_map(|line| line.strip_prefix("Location: "))
        .expect("a place to upload to");
    let place = place
        .split_once(&registry.address)
        .map_or(place, |(_, path)| path);
    let path = format!("{place}&digest={digest}");
    ask(registry, "PUT", &path, "application/octet-stream", bytes);
    digest
}

/// The tests' image in a registry of the test's own; the engine has forgotten it.
struct Published {
    registry: Registry,
    /// Its name there, which no other test uses.
    id: String,
    repository: String,
    digest: String,
}

impl Published {
    fn new(world: &World, engine: &Engine, name: &str) -> Self {
        let registry = Registry::open(&world.path("registry"));
        let id = unique(name);
        let repository = format!("{}/{id}", registry.address);
        push(engine, IMAGE, &repository);
        let digest = own_digest(engine, &repository);
        forget(engine, &repository);
        Self {
            registry,
            id,
            repository,
            digest,
        }
    }
}

/// The digest by which the registry has what was pushed.
fn own_digest(engine: &Engine, repository: &str) -> String {
    let pushed = engine.ask("GET", &format!("/images/{repository}:1/json")).1;
    let names = pushed["RepoDigests"].as_array().unwrap();
    let own = names
        .iter()
        .find_map(|name| name.as_str()?.strip_prefix(&format!("{repository}@")));
    own.expect("a digest").to_owned()
}

/// Writes the policy of `world`, whose daemons go by it from now on.
fn policy(world: &World, rules: &str) {
    let head = "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\n";
    world.save("images.yaml", &format!("{head}{rules}"));
}

fn refused(world: &World, id: &str, words: &[&str]) -> Status {
    let status = world.until("it is refused", |status| {
        words.iter().all(|word| status.why(id).contains(word))
    });
    assert_eq!(status.restarts(id), 0, "a refusal is no failure");
    status
}

#[test]
fn only_what_the_policy_lets_run_runs_and_by_its_digest() {
    let (mut world, engine) = world_with_engine!("only_what_the_policy_lets_run_…");
    let mut registry = Registry::open(&world.path("registry"));
    let (id, other) = (unique("allowed"), unique("refused"));
    let repository = format!("{}/{id}", registry.address);
    push(&engine, IMAGE, &repository);
    forget(&engine, &repository);
    let rules = format!(
        "rules:\n  - images: [\"{}/**\"]\n    require: {{ digest: resolved }}\n",
        registry.address
    );
    policy(&world, &rules);
    let file = world.path("images.yaml").display().to_string();
    world.set("FLOWCTL_IMAGE_POLICY", &file);

    let image = format!("{repository}:1");
    let said = world.ok(&["image", "check", &image]);
    assert!(said.contains("it may run (images.yaml:5)"), "{said}");
    let said = world.fails(7, &["image", "check", IMAGE]);
    assert!(said.contains("default is deny (images.yaml:3)"), "{said}");
    let verified = world.ok(&["image", "verify", &image, "-o", "json"]);
    let verified: serde_json::Value = serde_json::from_str(&verified).unwrap();

    // Refused before anything is touched; and with force it waits, and says how that ends.
    let good = resting(&id, "").replace(IMAGE, &image);
    world.save("p.yaml", &pipeline(&(good.clone() + &resting(&other, ""))));
    let said = world.fails(7, &["apply", "-f", "p.yaml", "--no-wait"]);
    assert!(said.contains("no rule of the image policy"), "{said}");
    world.ok(&["apply", "-f", "p.yaml", "--no-wait", "--force"]);
    let status = refused(&world, &other, &["images.yaml:3"]);
    assert!(status.replica(&other)["next"]["at"].is_string());
    let why = world.ok(&["why", &other]);
    assert!(
        why.contains("no rule of the image policy is about"),
        "{why}"
    );
    let status = world.until("the good one runs", |status| status.phase(&id) == "running");
    assert_eq!(
        digest(&status, &id),
        verified[0]["digest"].as_str().unwrap()
    );
    let run = engine.inspect(&id).unwrap();
    let reference = format!("{repository}@{}", digest(&status, &id));
    assert_eq!(run["Config"]["Image"], reference.as_str());

    // The tag moves and the registry goes: a restart runs what was verified.
    registry.stop();
    world.ok(&["restart", &id]);
    let again = world.status();
    assert_eq!(digest(&again, &id), digest(&status, &id));
    // So does one of another daemon.
    world.kill_daemon();
    engine.act("POST", &format!("/containers/{id}/kill"));
    world.start_daemon();
    world.until("it runs again", |status| status.phase(&id) == "running");

    // A local image with a trusted name is none of the registry's.
    let fake = format!("{}/fake", registry.address);
    engine.act("POST", &format!("/images/{IMAGE}/tag?repo={fake}&tag=1"));
    let faked = resting(&other, ", pull: never").replace(IMAGE, &format!("{fake}:1"));
    world.save("p.yaml", &pipeline(&(good + &faked)));
    refused(&world, &other, &["could not be verified"]);
    world.ok(&["down"]);
    forget(&engine, &repository);
    forget(&engine, &fake);
}

#[test]
fn an_image_runs_once_it_is_signed_and_a_changed_policy_judges_anew() {
    let (mut world, engine) = world_with_engine!("an_image_runs_once_it_is_signed_…");
    let Published {
        registry,
        id,
        repository,
        digest: pushed,
    } = Published::new(&world, &engine, "signed");

    let signer = Signer::new();
    fs::write(world.path("release.pub"), signer.pem()).unwrap();
    fs::write(world.path("other.pub"), Signer::new().pem()).unwrap();
    let rules = |keys: &str| {
        format!(
            "keys:\n  release: {{ file: release.pub }}\n  other: {{ file: other.pub }}\nrules:\n  - images: [\"{}/**\"]\n    require: {{ signatures: {{ any: [{keys}] }} }}\n",
            registry.address
        )
    };
    policy(&world, &rules("{ key: release }, { key: other }"));
    world.set(
        "FLOWCTL_IMAGE_POLICY",
        &world.path("images.yaml").display().to_string(),
    );
    let image = format!("{repository}:1");
    world.save(
        "p.yaml",
        &pipeline(&resting(&id, "").replace(IMAGE, &image)),
    );
    world.ok(&["apply", "-f", "p.yaml", "--no-wait", "--force"]);
    refused(
        &world,
        &id,
        &[
            "is not signed by",
            "images.yaml:8",
            "key release, key other",
        ],
    );
    let said = world.fails(7, &["image", "verify", &image]);
    assert!(said.contains("no signature lies beside it"), "{said}");

    // By somebody else, and of something else.
    Signer::new().sign(&registry, &id, &pushed);
    let said = world.fails(7, &["image", "verify", &image]);
    assert!(said.contains("by nobody who is accepted"), "{said}");
    signer.sign(&registry, &id, &pushed);
    let said = world.ok(&["image", "verify", &image]);
    assert!(said.contains("signed by key release"), "{said}");
    world.ok(&["start", &id]);
    let before = world.status();
    assert_eq!(digest(&before, &id), pushed);
    let events = world.ok(&["events", &id]);
    assert!(
        events.contains("signed by key release (images.yaml:8)"),
        "{events}"
    );

    // A policy that refuses what runs stops nothing, and says so; the next start is refused.
    policy(&world, &rules("{ key: other }"));
    let flagged = world.until("what runs is flagged", |status| {
        status.0["conditions"].to_string().contains("image-refused")
    });
    assert_eq!(flagged.phase(&id), "running");
    assert_eq!(
        flagged.replica(&id)["container"],
        before.replica(&id)["container"]
    );
    world.ok(&["restart", &id, "--no-wait"]);
    let waits = refused(&world, &id, &["by nobody who is accepted"]);
    assert_eq!(waits.phase(&id), "backoff");

    // A policy that lets it run has it start, without anybody asking.
    policy(&world, &rules("{ key: release }"));
    world.until("it is judged anew", |status| status.phase(&id) == "running");
    // A broken edit changes nothing, and says so.
    world.save("images.yaml", "default: [");
    world.until("it is told", |status| {
        let conditions = status.0["conditions"].to_string();
        conditions.contains("rejected") && conditions.contains("images.yaml:1:")
    });
    world.ok(&["restart", &id]);
    let restarted = world.status();
    assert_eq!(digest(&restarted, &id), pushed);

    // An edit whose image may not run replaces nothing.
    let text = world.read("p.yaml");
    world.save("p.yaml", &text.replace(&image, &format!("{repository}:2")));
    let held = world.until("the edit is held back", |status| {
        let problem = &status.pipeline()["problem"]["message"];
        problem
            .as_str()
            .is_some_and(|why| why.contains("is not in registry"))
    });
    let container = |status: &Status| status.replica(&id)["container"].clone();
    assert_eq!(held.phase(&id), "running");
    assert_eq!(container(&held), container(&restarted));
    world.save("p.yaml", &text);
    let settled = world.until("all is well again", |status| {
        status.pipeline()["problem"].is_null() && status.settled()
    });
    assert_eq!(container(&settled), container(&restarted));
    world.ok(&["down"]);
    forget(&engine, &repository);
}

#[test]
fn a_daemon_killed_between_verdict_and_start_starts_what_was_verified_and_nothing_else() {
    let (mut world, engine) = world_with_engine!("a_daemon_killed_between_verdict_and_start_…");
    let Published {
        registry,
        id,
        repository,
        digest: pushed,
    } = Published::new(&world, &engine, "killed");
    let signer = Signer::new();
    fs::write(world.path("release.pub"), signer.pem()).unwrap();
    signer.sign(&registry, &id, &pushed);
    let rules = format!(
        "keys:\n  release: {{ file: release.pub }}\nrules:\n  - images: [\"{}/**\"]\n    require: {{ signatures: {{ any: [{{ key: release }}] }} }}\n",
        registry.address
    );
    policy(&world, &rules);
    world.set(
        "FLOWCTL_IMAGE_POLICY",
        &world.path("images.yaml").display().to_string(),
    );
    // Its variables come late: it waits for them once its image is verified and there.
    let variables = world.path("late.env");
    let made = Command::new("mkfifo").arg(&variables).status().unwrap();
    assert!(made.success());
    let image = format!("{repository}:1");
    let text = resting(&id, ", env_file: [late.env]").replace(IMAGE, &image);
    world.save("p.yaml", &pipeline(&text));
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    let reference = format!("{repository}@{pushed}");
    eventually("its image is there", || {
        engine.ask("GET", &format!("/images/{reference}/json")).0 == 200
    });
    world.kill_daemon();
    assert_eq!(engine.inspect(&id), None, "nothing was made of it");
    // Nobody vouches for it any more. It was judged, and that counts as long as the policy is the same.
    Signer::new().sign(&registry, &id, &pushed);
    world.start_daemon();
    let writes = std::thread::spawn(move || fs::write(variables, "A=1\n"));
    let status = world.until("it runs", |status| status.phase(&id) == "running");
    writes.join().unwrap().unwrap();
    assert_eq!(digest(&status, &id), pushed);
    assert_eq!(status.restarts(&id), 0);
    let events = world.ok(&["events", &id]);
    let pulls = events.matches(&format!("pulling {reference}\n")).count();
    assert!(pulls <= 1, "{events}");
    // Under another policy it is judged anew.
    policy(&world, &format!("{rules}# x\n"));
    world.until("it is flagged", |status| {
        status.0["conditions"].to_string().contains("image-refused")
    });
    world.ok(&["down"]);
    forget(&engine, &repository);
}

#[test]
fn what_was_built_here_runs_where_that_is_allowed_and_is_flagged_where_it_is_not() {
    let (mut world, engine) = world_with_engine!("what_was_built_here_runs_…");
    let id = unique("built");
    let repository = format!("localhost/{id}");
    engine.act(
        "POST",
        &format!("/images/{IMAGE}/tag?repo={repository}&tag=1"),
    );
    let rules = |says: &str| format!("rules:\n  - images: [\"localhost/**\"]\n    {says}\n");
    policy(&world, &rules("allow: { local: true }"));
    world.set(
        "FLOWCTL_IMAGE_POLICY",
        &world.path("images.yaml").display().to_string(),
    );
    let text = resting(&id, ", pull: never").replace(IMAGE, &format!("{repository}:1"));
    world.save("p.yaml", &pipeline(&text));
    world.ok(&["apply", "-f", "p.yaml"]);
    let before = world.until("it runs", |status| status.phase(&id) == "running");
    policy(&world, &rules("require: { digest: resolved }"));
    let flagged = world.until("what runs is flagged", |status| {
        let conditions = status.0["conditions"].to_string();
        conditions.contains("image-refused") && conditions.contains("was built on this host")
    });
    assert_eq!(
        flagged.replica(&id)["container"],
        before.replica(&id)["container"]
    );
    policy(&world, &rules("allow: { local: true }"));
    world.until("all is well again", |status| {
        !status.0["conditions"].to_string().contains("image-refused")
    });
    world.ok(&["down"]);
    forget(&engine, &repository);
}

#[test]
fn a_bad_policy_is_told_with_its_place_and_lets_nothing_run() {
    let world = World::new();
    world.save(
        "images.yaml",
        "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\nrules:\n  - images: [nginx]\n    require: { digest: pinned }\n",
    );
    let asked = ["image", "check", "nginx", "--image-policy", "images.yaml"];
    let said = world.fails(3, &asked);
    assert!(said.contains("names no registry"), "{said}");
    assert!(said.contains("images.yaml:5:14"), "{said}");
    let said = world.fails(3, &["validate", "images.yaml"]);
    assert!(said.contains("names no registry"), "{said}");
    world.save(
        "p.yaml",
        &pipeline("    - { id: a, image: nginx, driver: docker }\n"),
    );
    world.save(
        "good.yaml",
        "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\nrules:\n  - images: [docker.io/library/*]\n    require: { digest: pinned }\n",
    );
    let asked = [
        "validate",
        "p.yaml",
        "--image-policy",
        "good.yaml",
        "-o",
        "json",
    ];
    let said = world.ok(&asked);
    assert!(
        said.contains("has no digest, and good.yaml:5 wants one"),
        "{said}"
    );
    let said = world.fails(3, &["run", "p.yaml", "--image-policy", "images.yaml"]);
    assert!(said.contains("names no registry"), "{said}");
    let said = world.fails(2, &["image", "check", "nginx"]);
    assert!(said.contains("--image-policy"), "{said}");
}

#[test]
fn pins_are_written_and_comments_stay() {
    let (world, engine) = world_with_engine!("pins_are_written_…");
    let registry = Registry::open(&world.path("registry"));
    let id = unique("pinned");
    let repository = format!("{}/{id}", registry.address);
    push(&engine, IMAGE, &repository);
    forget(&engine, &repository);
    let text = format!(
        "# mine\n{}",
        pipeline(&format!(
            "    - id: {id}   # that one\n      image: \"{repository}:1\" # by tag\n      driver: docker\n"
        ))
    );
    world.save("p.yaml", &text);
    world.ok(&["image", "pin", "p.yaml"]);
    let pinned = world.read("p.yaml");
    let (before, after) = pinned.split_once("@sha256:").expect("a digest");
    assert_eq!(format!("{before}{}", &after[64..]), text);
    world.ok(&["validate", "p.yaml"]);
    let said = world.ok(&["image", "pin", "p.yaml"]);
    assert!(said.contains("nothing to pin"), "{said}");
    eventually("it is the same", || world.read("p.yaml") == pinned);
}

#[test]
fn the_policy_of_the_help_topic_works_as_it_stands() {
    let topic = include_str!("../../src/cli/topics/images.md");
    let (before, after) = topic.split_once("kind: ImagePolicy").unwrap();
    let (_, begun) = before.rsplit_once("```yaml\n").unwrap();
    let (rest, _) = after.split_once("```").unwrap();
    let world = World::new();
    world.write("images.yaml", &format!("{begun}kind: ImagePolicy{rest}"));
    let (_, shown) = after.split_once("$ flowctl image check").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    for one in shown.split("$ flowctl image check") {
        let (asked, answer) = one.trim().split_once('\n').unwrap();
        let arguments = format!("image check {asked}");
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        assert_eq!(world.fails(7, &arguments).trim(), answer.trim());
    }
}
