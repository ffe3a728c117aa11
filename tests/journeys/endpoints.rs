//! The ways to a container engine: TCP, TLS with certificates of both sides, Docker's contexts.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::engine::{Engine, OwnEngine, container, resting, unique};
use crate::support::{World, eventually, free_ports, openssl, text};

/// Carries every connection to `port` of loopback over to a socket, for as long as the test runs.
fn relay(socket: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        for guest in listener.incoming().map_while(Result::ok) {
            let engine = UnixStream::connect(&socket).unwrap();
            let (from_guest, from_engine) = (guest.try_clone(), engine.try_clone());
            carry(from_guest.unwrap(), engine, |engine| {
                engine.shutdown(std::net::Shutdown::Write).ok();
            });
            carry(from_engine.unwrap(), guest, |guest| {
                guest.shutdown(std::net::Shutdown::Write).ok();
            });
        }
    });
    port
}

/// Copies until `from` ends, then ends `to`. A side that has gone is the other's to notice.
fn carry<R, W>(mut from: R, mut to: W, end: fn(&W))
where
    R: std::io::Read + Send + 'static,
    W: std::io::Write + Send + 'static,
{
    std::thread::spawn(move || {
        std::io::copy(&mut from, &mut to).ok();
        end(&to);
    });
}

/// A component runs, can be looked at, logs, and goes.
fn lives_and_ends(world: &World) -> String {
    let id = unique("far");
    let says = "echo hello; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    world.apply(&container(&id, says, ""));
    eventually("its output arrives", || {
        world.ok(&["logs", &id]) == "hello\n"
    });
    let status = world.status();
    let found = status.replica(&id)["container"]
        .as_str()
        .unwrap()
        .to_owned();
    world.ok(&["restart", &id]);
    assert_ne!(world.status().replica(&id)["container"], found.as_str());
    world.ok(&["down"]);
    found
}

/// Runs openssl in `folder`, which must succeed.
fn make(folder: &Path, arguments: &str) {
    let output = openssl(folder, arguments);
    let said = text(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
}

/// An authority, and what it vouches for: an engine on loopback and a client.
fn certificates(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    make(
        folder,
        &format!("req -x509 {key} -keyout authority.pem -out ca.pem -subj /CN=authority -days 2"),
    );
    fs::write(
        folder.join("engine.ext"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for (who, key_file, certificate) in [
        ("engine", "engine-key.pem", "engine-cert.pem"),
        ("client", "key.pem", "cert.pem"),
    ] {
        make(
            folder,
            &format!("req {key} -keyout {key_file} -out {who}.csr -subj /CN={who}"),
        );
        make(
            folder,
            &format!(
                "x509 -req -in {who}.csr -CA ca.pem -CAkey authority.pem -CAcreateserial \
                 -out {certificate} -days 2 -extfile {who}.ext"
            ),
        );
    }
}

/// A Docker configuration in `folder` whose current context is an engine at `host`; answers where
/// its certificates belong.
fn context(folder: &Path, host: &str) -> PathBuf {
    let (meta, tls) = (
        folder.join("contexts/meta/0a1b"),
        folder.join("contexts/tls/0a1b/docker"),
    );
    fs::create_dir_all(&meta).unwrap();
    let endpoint = serde_json::json!({
        "Name": "lab", "Metadata": {},
        "Endpoints": { "docker": { "Host": host, "SkipTLSVerify": false } },
    });
    fs::write(meta.join("meta.json"), endpoint.to_string()).unwrap();
    fs::write(folder.join("config.json"), r#"{"currentContext":"lab"}"#).unwrap();
    tls
}

#[test]
fn an_engine_behind_tls_is_used_with_the_certificates_of_variables_and_of_a_context() {
    let test = "an_engine_behind_tls_…";
    let mut world = World::new();
    let certs = world.path("certs");
    certificates(&certs);
    let port = free_ports(1)[0];
    let at = |file: &str| certs.join(file).display().to_string();
    let options = format!(
        "--host tcp://127.0.0.1:{port} --tlsverify --tlscacert {} --tlscert {} --tlskey {}",
        at("ca.pem"),
        at("engine-cert.pem"),
        at("engine-key.pem"),
    );
    let Some(own) = OwnEngine::start_with(test, &options) else {
        return;
    };
    let host = format!("tcp://127.0.0.1:{port}");
    world.save("p.yaml", &crate::support::pipeline(&resting("none", "")));

    // In clear text, and with an authority but no certificate of its own, nobody is let in.
    world.use_engine(&host);
    for variables in [false, true] {
        if variables {
            let bare = world.path("bare");
            fs::create_dir(&bare).unwrap();
            fs::copy(certs.join("ca.pem"), bare.join("ca.pem")).unwrap();
            world.set("DOCKER_TLS_VERIFY", "1");
            world.set("DOCKER_CERT_PATH", &bare.display().to_string());
        }
        let said = text(&world.run(&["apply", "-f", "p.yaml"]).stderr);
        assert!(
            said.contains(&host) && said.contains("does not answer"),
            "{said}"
        );
        world.ok(&["down"]);
    }

    world.set("DOCKER_CERT_PATH", &certs.display().to_string());
    let made = lives_and_ends(&world);
    assert_eq!(own.engine.inspect(&made), None);

    let mut world = World::new();
    let config = world.path("docker");
    let tls = context(&config, &host);
    fs::create_dir_all(&tls).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(certs.join(file), tls.join(file)).unwrap();
    }
    world.set("DOCKER_CONFIG", &config.display().to_string());
    world.set("DOCKER_HOST", "");
    lives_and_ends(&world);
    assert_eq!(own.engine.containers(&world), Vec::<String>::new());
}

#[test]
fn an_engine_is_reached_in_clear_text_and_by_the_context_that_a_variable_names() {
    let Some(engine) = Engine::shared("an_engine_is_reached_in_clear_text_…") else {
        return;
    };
    let port = relay(engine.socket());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut world = World::new();
    world.use_engine(&format!("tcp://127.0.0.1:{port}"));
    let made = lives_and_ends(&world);
    assert_eq!(engine.inspect(&made), None);

    let mut world = World::new();
    let config = world.path("docker");
    context(&config, &engine.host());
    fs::write(config.join("config.json"), "{}").unwrap();
    world.set("DOCKER_CONFIG", &config.display().to_string());
    world.set("DOCKER_HOST", "");
    world.set("DOCKER_CONTEXT", "lab");
    lives_and_ends(&world);
    world.set("DOCKER_CONTEXT", "other");
    let said = text(&world.run(&["apply", "-f", "p.yaml"]).stderr);
    assert!(said.contains("other"), "{said}");
    world.set("DOCKER_CONTEXT", "lab");
}
