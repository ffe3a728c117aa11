//! A registry that lies, falls silent, or leads elsewhere.

use super::*;

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let one = r#"{"mediaType":"x","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1}"#;
    let both = format!(r#"{{"schemaVersion":2,"manifests":[{one}],"layers":[{one}]}}"#);
    let good = image("a");
    let zero = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    for (what, reply) in [
        (
            "header",
            Reply::new(200, MANIFEST, good.clone()).with("Docker-Content-Digest", zero),
        ),
        ("kind", Reply::new(200, INDEX, good.clone())),
        ("both", Reply::new(200, INDEX, both.clone())),
        ("both", Reply::new(200, MANIFEST, both)),
        ("html", Reply::new(200, "text/html", "<html>")),
        (
            "schema 1",
            Reply::new(200, MANIFEST, r#"{"schemaVersion":1,"fsLayers":[]}"#),
        ),
        ("depth", Reply::new(200, MANIFEST, "[".repeat(100_000))),
    ] {
        let world = World::new(RESOLVED);
        world.registry.put("manifests/1", reply);
        assert_eq!(world.refused().await.reason, Reason::Changed, "{what}");
    }
    // Asked for a digest, it gives something else.
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    let blobs: Vec<String> = world
        .registry
        .replies
        .lock()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let blob = blobs.iter().find(|path| path.contains("/blobs/")).unwrap();
    let path = blob.trim_start_matches("/v2/app/");
    world
        .registry
        .put(path, Reply::new(200, "x", "something else"));
    assert_eq!(world.refused().await.reason, Reason::Changed);
}

#[tokio::test]
async fn another_manifest_than_the_one_that_was_asked_for_is_refused() {
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    let other = Reply::new(200, MANIFEST, image("b"));
    world.registry.put(&format!("manifests/{digest}"), other);
    let named = format!("{}/app@{digest}", world.registry.address);
    let question = Question {
        image: &named,
        besides: None,
        standing: Standing::Fresh,
    };
    let refused = world.gate.admit(question, &|_| {}).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Changed, "{refused}");
}

#[tokio::test]
async fn a_token_that_was_shown_to_the_registry_is_shown_to_no_other() {
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    let other = Registry::start();
    let challenge = format!("Bearer realm=\"http://{}/token\"", world.registry.address);
    {
        // Everything is for those with a token alone, and blobs lie elsewhere.
        let mut replies = world.registry.replies.lock().unwrap();
        for (path, reply) in replies.clone() {
            let known = match path.contains("/blobs/") {
                true => {
                    other.replies.lock().unwrap().insert(path.clone(), reply);
                    let there = format!("http://{}{path}", other.address);
                    Reply::status(307).with("Location", &there)
                }
                false => reply,
            };
            let refuse = Reply::status(401).with("WWW-Authenticate", &challenge);
            replies.insert(path.clone(), refuse);
            replies.insert(format!("{path}#known"), known);
        }
        let token = Reply::new(200, "application/json", r#"{"token":"abc"}"#);
        replies.insert("/token".to_owned(), token);
    }
    world.admit(Standing::Fresh).await.unwrap();
    let elsewhere = other.asked.lock().unwrap().clone();
    assert!(!elsewhere.is_empty());
    for (path, head) in elsewhere {
        assert!(!head.contains("authorization"), "{path}: {head}");
    }
}

#[tokio::test]
async fn what_does_not_end_is_not_waited_for_nor_held() {
    for reply in [
        Reply::new(200, MANIFEST, "{").then(Then::Endless),
        Reply::new(200, MANIFEST, "{").with("Content-Length", "5368709120"),
        Reply::new(200, MANIFEST, "x").with("Content-Encoding", "gzip"),
        Reply::new(200, MANIFEST, "x").with("X-Long", &"x".repeat(200_000)),
    ] {
        let world = World::new(RESOLVED);
        world.registry.put("manifests/1", reply);
        let refused = world.refused().await;
        assert_eq!(refused.reason, Reason::Unverifiable, "{refused}");
    }
}

#[tokio::test]
async fn silence_is_told_apart_from_absence_wherever_it_comes() {
    let signed = || {
        let world = World::new(SIGNED);
        let digest = world.registry.image("a");
        let listed =
            world
                .registry
                .bundle(&world.pair, "https://sigstore.dev/cosign/sign/v1", digest);
        world
            .registry
            .list(&format!("manifests/sha256-{}", digest.hex()), &[listed]);
        (world, digest)
    };
    // By the list that stands in for the interface, which is not there.
    let (world, _) = signed();
    world.admit(Standing::Fresh).await.unwrap();

    let silences = [
        Reply::status(401),
        Reply::status(403),
        Reply::status(429),
        Reply::status(500),
        Reply::status(503),
        Reply::status(302),
        Reply::status(200).then(Then::Reset),
    ];
    for silence in silences {
        for place in ["tag", "sig", "referrers", "fallback", "blob"] {
            let (world, digest) = signed();
            let hex = digest.hex();
            let keys: Vec<String> = world
                .registry
                .replies
                .lock()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            let blob = keys.iter().find(|path| path.contains("/blobs/")).unwrap();
            let path = match place {
                "tag" => "manifests/1".to_owned(),
                "sig" => format!("manifests/sha256-{hex}.sig"),
                "referrers" => format!("referrers/{digest}"),
                "fallback" => format!("manifests/sha256-{hex}"),
                _ => blob.trim_start_matches("/v2/app/").to_owned(),
            };
            world.registry.put(&path, silence.clone());
            let refused = world.refused().await;
            let status = silence.status;
            assert_eq!(
                refused.reason,
                Reason::Unverifiable,
                "{status} {place}: {refused}"
            );
            assert!(refused.message.contains("Nothing was started"), "{refused}");
        }
    }
    let (world, digest) = signed();
    world
        .registry
        .remove(&format!("manifests/sha256-{}", digest.hex()));
    assert_eq!(world.refused().await.reason, Reason::NotSigned);
    world.registry.remove("manifests/1");
    let world = World {
        gate: gate(&Arc::default()),
        ..world
    };
    world.gate.begin(&world.file()).unwrap();
    assert_eq!(world.refused().await.reason, Reason::NotFound);
}

#[tokio::test]
async fn a_list_of_referrers_is_followed_and_has_an_end() {
    let sign = "https://sigstore.dev/cosign/sign/v1";
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    let theirs = world.registry.bundle(&Pair::p256(), sign, digest);
    let sbom = world
        .registry
        .bundle(&world.pair, "https://spdx.dev/Document", digest);
    let other = world
        .registry
        .bundle(&world.pair, sign, Digest::new([7; 32]));
    let path = format!("referrers/{digest}");
    // None of them is a signature of it by this key.
    world.registry.list(&path, &[theirs.clone(), sbom, other]);
    let refused = world.refused().await;
    assert_eq!(refused.reason, Reason::SignerUnknown, "{refused}");
    // The next page has one.
    let mine = world.registry.bundle(&world.pair, sign, digest);
    world.registry.list(&format!("{path}?page=2"), &[mine]);
    let page = |listed: &[String], next: &str| {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            listed.join(",")
        );
        Reply::new(200, INDEX, text).with("Link", &format!("<{next}>; rel=\"next\""))
    };
    let theirs = [theirs];
    world
        .registry
        .put(&path, page(&theirs, &format!("/v2/app/{path}?page=2")));
    world.admit(Standing::Fresh).await.unwrap();

    // One that is empty, where what refers to it stands by the tag.
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    let path = format!("referrers/{digest}");
    let mine = world.registry.bundle(&world.pair, sign, digest);
    world.registry.list(&path, &[]);
    world
        .registry
        .list(&format!("manifests/sha256-{}", digest.hex()), &[mine]);
    world.admit(Standing::Fresh).await.unwrap();

    // One that leads to itself, elsewhere, or on and on.
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    let path = format!("referrers/{digest}");
    let whole = format!("/v2/app/{path}");
    for next in [whole.as_str(), "http://127.0.0.1:1/x", "//evil/x"] {
        world.registry.put(&path, page(&[], next));
        assert_eq!(world.refused().await.reason, Reason::Changed, "{next}");
    }
    world
        .registry
        .put(&format!("{path}?n=1"), page(&[], &format!("{whole}?n=2")));
    world
        .registry
        .put(&format!("{path}?n=2"), page(&[], &format!("{whole}?n=1")));
    world
        .registry
        .put(&path, page(&[], &format!("{whole}?n=1")));
    assert_eq!(world.refused().await.reason, Reason::Changed);
    let many = vec![theirs[0].clone(); 65];
    world.registry.list(&path, &many);
    assert_eq!(world.refused().await.reason, Reason::Changed);
}

#[tokio::test]
async fn a_signature_of_a_part_lets_exactly_that_part_run() {
    let index = |world: &World, architecture: &str, signs: bool| {
        let part = world.registry.manifest(MANIFEST, &image("part"));
        let entry = |digest: Digest, architecture: &str| {
            format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
            )
        };
        let other = entry(Digest::new([9; 32]), "sparc");
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{other}]}}"#,
            entry(part, architecture)
        );
        let whole = world.registry.manifest(INDEX, &text);
        world
            .registry
            .put("manifests/1", Reply::new(200, INDEX, text));
        let about = if signs { part } else { whole };
        world.registry.sign(&world.pair, about, about);
        (whole, part)
    };
    let world = World::new(SIGNED);
    let (whole, _) = index(&world, architecture(), false);
    assert_eq!(
        digest_of(&world.admit(Standing::Fresh).await.unwrap()),
        whole
    );
    let world = World::new(SIGNED);
    let (whole, part) = index(&world, architecture(), true);
    assert_eq!(
        digest_of(&world.admit(Standing::Fresh).await.unwrap()),
        part
    );
    // Its next start is of that part too, by whichever digest, and asks nobody.
    let asked = world.registry.asked().len();
    for digest in [whole, part] {
        let reference = format!("{}/app@{digest}", world.registry.address);
        let again = world.admit(Standing::Recorded(&reference)).await.unwrap();
        assert_eq!(digest_of(&again), part);
    }
    assert_eq!(world.registry.asked().len(), asked);
    // That of another machine says nothing of ours.
    let world = World::new(SIGNED);
    index(&world, "mips", true);
    assert_eq!(world.refused().await.reason, Reason::NotSigned);
}

#[tokio::test]
async fn a_redirect_takes_no_token_along_and_leads_to_no_nearer_network() {
    let world = World::new(SIGNED);
    let digest = world.registry.image("a");
    world.registry.sign(&world.pair, digest, digest);
    let other = Registry::start();
    {
        // All blobs lie elsewhere, and who asks has to show a token.
        let mut replies = world.registry.replies.lock().unwrap();
        let blobs: Vec<String> = replies
            .keys()
            .filter(|it| it.contains("/blobs/"))
            .cloned()
            .collect();
        for path in blobs {
            let blob = replies.remove(&path).unwrap();
            other.replies.lock().unwrap().insert(path.clone(), blob);
            let there = format!("http://{}{path}", other.address);
            replies.insert(path, Reply::status(307).with("Location", &there));
        }
        let token = Reply::new(200, "application/json", r#"{"token":"abc"}"#);
        replies.insert("/token".to_owned(), token);
    }
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\"",
        world.registry.address
    );
    let manifest = world.registry.replies.lock().unwrap()["/v2/app/manifests/1"].clone();
    world.registry.put(
        "manifests/1",
        Reply::status(401).with("WWW-Authenticate", &realm),
    );
    let refused = world.refused().await;
    // It goes on asking for one: that is an answer too.
    assert_eq!(refused.reason, Reason::Unverifiable, "{refused}");
    let asked = world.registry.asked.lock().unwrap().clone();
    assert!(
        asked
            .iter()
            .any(|(path, _)| path.starts_with("/token?scope=repository:app:pull"))
    );
    assert!(
        asked
            .iter()
            .any(|(path, head)| path.ends_with("/manifests/1")
                && head.contains("authorization: bearer abc"))
    );
    world.registry.put("manifests/1", manifest);
    world.registry.put(
        &format!("manifests/sha256-{}.sig", digest.hex()),
        Reply::status(401).with("WWW-Authenticate", &realm),
    );
    assert_eq!(world.refused().await.reason, Reason::Unverifiable);
    world.registry.sign(&world.pair, digest, digest);
    {
        let mut replies = world.registry.replies.lock().unwrap();
        let blob = replies
            .iter()
            .find(|(path, reply)| path.contains("/blobs/") && reply.status == 200);
        let blob = blob
            .map(|(path, reply)| (path.clone(), reply.clone()))
            .unwrap();
        let there = format!("http://{}{}", other.address, blob.0);
        other.replies.lock().unwrap().insert(blob.0.clone(), blob.1);
        replies.insert(blob.0.clone(), Reply::status(307).with("Location", &there));
    }
    world.admit(Standing::Fresh).await.unwrap();
    let elsewhere = other.asked.lock().unwrap().clone();
    assert!(!elsewhere.is_empty());
    assert!(
        elsewhere
            .iter()
            .all(|(_, head)| !head.contains("authorization")),
        "{elsewhere:?}"
    );

    for (to, wanted) in [
        (
            "http://169.254.169.254/latest/meta-data/",
            "may not send us",
        ),
        ("http://[::ffff:169.254.169.254]/", "may not send us"),
        ("file:///etc/passwd", "leads to nothing"),
        ("", "leads to nothing"),
    ] {
        let world = World::new(RESOLVED);
        world
            .registry
            .put("manifests/1", Reply::status(302).with("Location", to));
        let refused = world.refused().await;
        assert!(refused.message.contains(wanted), "{to}: {refused}");
    }
    let world = World::new(RESOLVED);
    world.registry.put(
        "manifests/1",
        Reply::status(302).with("Location", "/v2/app/manifests/1"),
    );
    assert!(world.refused().await.message.contains("more than 5 times"));
}

#[tokio::test]
async fn a_token_is_asked_for_only_where_that_is_safe() {
    for (realm, wanted) in [
        ("http://registry.example/token", "not safe"),
        ("ftp://127.0.0.1/token", "of nobody"),
    ] {
        let world = World::new(RESOLVED);
        let challenge = format!("Bearer realm=\"{realm}\"");
        world.registry.put(
            "manifests/1",
            Reply::status(401).with("WWW-Authenticate", &challenge),
        );
        let refused = world.refused().await;
        assert_eq!(refused.reason, Reason::Unverifiable);
        assert!(refused.message.contains(wanted), "{realm}: {refused}");
    }
    // Whoever gives tokens and does not, or gives something else.
    for answer in [
        Reply::status(401),
        Reply::status(403),
        Reply::status(404),
        Reply::status(429),
        Reply::status(500),
        Reply::status(302).with("Location", "/token"),
        Reply::status(200).then(Then::Reset),
        Reply::new(200, "application/json", "{}"),
        Reply::new(200, "application/json", r#"{"token":""}"#),
        Reply::new(200, "application/json", r#"{"token":"a\r\nb"}"#),
        Reply::new(200, "application/json", "{").then(Then::Endless),
    ] {
        let world = World::new(RESOLVED);
        let challenge = format!("Bearer realm=\"http://{}/token\"", world.registry.address);
        let status = answer.status;
        let refuse = Reply::status(401).with("WWW-Authenticate", &challenge);
        world.registry.put("manifests/1", refuse);
        let replies = &world.registry.replies;
        replies.lock().unwrap().insert("/token".to_owned(), answer);
        let refused = world.refused().await;
        assert_eq!(refused.reason, Reason::Unverifiable, "{status}: {refused}");
    }
}

#[tokio::test]
async fn a_slow_registry_is_given_up_after_a_while_and_not_after_each_byte() {
    let answer = Duration::from_millis(400);
    let hurried = |all: Duration| {
        let mut world = World::new(SIGNED);
        let client = registry::Client::hurried(answer, all);
        world.gate = gate(&world.kept).by(client);
        world.gate.begin(&world.file()).unwrap();
        world
    };
    let minute = Duration::from_secs(60);
    for place in ["tag", "sig", "referrers", "blob"] {
        let world = hurried(minute);
        let digest = world.registry.image("a");
        world.registry.sign(&world.pair, digest, digest);
        let blob = {
            let replies = world.registry.replies.lock().unwrap();
            let blob = replies.keys().find(|path| path.contains("/blobs/"));
            blob.unwrap().trim_start_matches("/v2/app/").to_owned()
        };
        let path = match place {
            "tag" => "manifests/1".to_owned(),
            "sig" => format!("manifests/sha256-{}.sig", digest.hex()),
            "referrers" => {
                world.registry.sign(&Pair::p256(), digest, digest);
                format!("referrers/{digest}")
            }
            _ => blob,
        };
        // Each byte comes sooner than anybody would give up, and the last one never.
        let dripping = Reply::new(200, MANIFEST, "{").then(Then::Dripping);
        world.registry.put(&path, dripping);
        let refused = world.refused().await;
        assert_eq!(refused.reason, Reason::Unverifiable, "{place}: {refused}");
        assert!(
            refused.message.contains("no answer within 400ms"),
            "{place}: {refused}"
        );
    }
    // Each answer comes in time, and all of them do not.
    let world = hurried(answer);
    let digest = world.registry.image("a");
    let sign = "https://sigstore.dev/cosign/sign/v1";
    let listed: Vec<String> = (0..60)
        .map(|_| world.registry.bundle(&Pair::p256(), sign, digest))
        .collect();
    world.registry.list(&format!("referrers/{digest}"), &listed);
    for reply in world.registry.replies.lock().unwrap().values_mut() {
        reply.then = Then::Late;
    }
    let refused = world.refused().await;
    assert_eq!(refused.reason, Reason::Unverifiable, "{refused}");
    assert!(
        refused.message.contains("to all questions within 400ms"),
        "{refused}"
    );
    let asked = world.registry.asked().len();
    assert!(asked < 60, "it gave up after {asked} of 120 questions");
}

#[tokio::test]
async fn a_first_start_asks_little_and_the_next_ones_less() {
    let sign = "https://sigstore.dev/cosign/sign/v1";
    // How many questions a start of a new image in the same repository costs, and then its restart.
    let costs = async |world: &World, put: &dyn Fn(Digest)| {
        let mut costs = Vec::new();
        for salt in ["a", "b", "c"] {
            let digest = world.registry.image(salt);
            put(digest);
            let before = world.registry.asked().len();
            let name = format!("{}/app:1", world.registry.address);
            let question = Question {
                image: &name,
                besides: None,
                standing: Standing::Fresh,
            };
            // A tag that was read just now is not read again.
            let anew = world.gate.forgetting_tags();
            anew.admit(question, &|_| {}).await.unwrap();
            costs.push(world.registry.asked().len() - before);
            let reference = format!("{}/app@{digest}", world.registry.address);
            world.admit(Standing::Recorded(&reference)).await.unwrap();
            assert_eq!(
                world.registry.asked().len() - before,
                costs[costs.len() - 1]
            );
        }
        costs
    };
    // By cosign's tag; by the list of what refers to it; by the tag that stands in for that.
    let world = World::new(SIGNED);
    let put = |digest| world.registry.sign(&world.pair, digest, digest);
    assert_eq!(costs(&world, &put).await, [3, 3, 3]);
    let world = World::new(SIGNED);
    let put = |digest: Digest| {
        let listed = world.registry.bundle(&world.pair, sign, digest);
        world
            .registry
            .list(&format!("referrers/{digest}"), &[listed]);
    };
    assert_eq!(costs(&world, &put).await, [5, 4, 4]);
    let world = World::new(SIGNED);
    let put = |digest: Digest| {
        let listed = world.registry.bundle(&world.pair, sign, digest);
        world
            .registry
            .list(&format!("manifests/sha256-{}", digest.hex()), &[listed]);
    };
    assert_eq!(costs(&world, &put).await, [6, 4, 4]);
    // A registry that has learned to list is asked for its list.
    let digest = world.registry.image("d");
    let listed = world.registry.bundle(&world.pair, sign, digest);
    world
        .registry
        .list(&format!("referrers/{digest}"), &[listed]);
    world
        .gate
        .forgetting_tags()
        .admit(
            Question {
                image: &world.registry.image_name(),
                besides: None,
                standing: Standing::Fresh,
            },
            &|_| {},
        )
        .await
        .unwrap();
}
