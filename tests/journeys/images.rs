//! Images from a registry that wants to know who asks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::engine::{Engine, IMAGE, container, resting, unique, world_with_engine};
use crate::support::{Status, World, eventually, free_ports, kill, pipeline, text};

/// `user` and `secret`, as a registry keeps them and as Docker's configuration does.
const HTPASSWD: &str = "user:$2b$05$y9DJY9JFM/xAbIXDo4c0deXHHqwkWvqDiyw2cSFDUQkcCSFr.03Ou\n";
const AUTH: &str = "dXNlcjpzZWNyZXQ=";
/// The same for a push, `{"username":"user","password":"secret"}`.
const PUSH_AUTH: &str = "eyJ1c2VybmFtZSI6InVzZXIiLCJwYXNzd29yZCI6InNlY3JldCJ9";

/// Debian's docker-registry on a free port of loopback.
pub struct Registry {
    server: Child,
    pub address: String,
}

impl Registry {
    /// One for those with a password.
    pub fn start(folder: &Path) -> Self {
        let path = folder.join("htpasswd");
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
            path.display()
        );
        Self::begin(folder, &auth)
    }

    /// One for everybody.
    pub fn open(folder: &Path) -> Self {
        Self::begin(folder, "")
    }

    fn begin(folder: &Path, auth: &str) -> Self {
        fs::create_dir(folder).unwrap();
        let address = format!("127.0.0.1:{}", free_ports(1)[0]);
        let config = folder.join("registry.yml");
        let passwords = folder.join("htpasswd");
        fs::write(&passwords, HTPASSWD).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n{auth}",
            folder.join("data").display(),
        );
        fs::write(&config, text).unwrap();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        eventually("the registry answers", || {
            TcpStream::connect(&address).is_ok()
        });
        Self { server, address }
    }

    pub fn stop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// Gives an image of the engine the name `repository:1` and pushes it. The name stays.
pub fn push(engine: &Engine, image: &str, repository: &str) {
    let path = format!("/images/{image}/tag?repo={repository}&tag=1");
    engine.act("POST", &path);
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    write!(
        stream,
        "POST /images/{repository}/push?tag=1 HTTP/1.0\r\nHost: engine\r\nX-Registry-Auth: {PUSH_AUTH}\r\n\r\n"
    )
    .unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let said = text(&said);
    assert!(
        said.contains("\"aux\"") && !said.contains("errorDetail"),
        "{said}"
    );
}

pub fn forget(engine: &Engine, repository: &str) {
    engine.ask("DELETE", &format!("/images/{repository}:1"));
}

pub fn digest(status: &Status, component: &str) -> String {
    let digest = &status.replica(component)["image"]["digest"];
    digest.as_str().expect("a digest").to_owned()
}

/// Writes the Docker configuration of `world`'s user.
fn configure(world: &World, config: &serde_json::Value) {
    world.save("docker.json", &config.to_string());
    fs::create_dir_all(world.path("docker")).unwrap();
    fs::rename(world.path("docker.json"), world.path("docker/config.json")).unwrap();
}

#[test]
fn a_private_registry_is_asked_with_what_docker_knows_of_it() {
    let (mut world, engine) = world_with_engine!("a_private_registry_…");
    let registry = Registry::start(&world.path("registry"));
    let id = unique("private");
    let repository = format!("{}/{id}", registry.address);
    push(&engine, IMAGE, &repository);
    forget(&engine, &repository);

    let config = world.path("docker").display().to_string();
    world.set("DOCKER_CONFIG", &config);
    let programs = world.path("bin");
    fs::create_dir(&programs).unwrap();
    let path = std::env::var("PATH").unwrap();
    world.set("PATH", &format!("{}:{path}", programs.display()));

    // Without credentials: put off, and said what helps.
    configure(&world, &serde_json::json!({}));
    let file = pipeline(&resting(&id, "").replace(IMAGE, &format!("{repository}:1")));
    world.save("p.yaml", &file);
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    let waits = world.until("it is put off", |status| status.phase(&id) == "backoff");
    assert!(
        waits.why(&id).contains("docker login"),
        "{}",
        waits.why(&id)
    );
    let next = &waits.replica(&id)["next"];
    assert!(next["at"].is_string(), "{next}");
    assert_eq!(waits.restarts(&id), 0);
    let why = world.ok(&["why", &id]);
    assert!(
        why.contains("in 9s") || why.contains("in 10s") || why.contains("in 1"),
        "{why}"
    );

    // With those of the configuration.
    let auths = serde_json::json!({ "auths": { &registry.address: { "auth": AUTH } } });
    configure(&world, &auths);
    world.ok(&["start", &id]);
    assert!(world.status().settled());
    world.ok(&["down"]);
    forget(&engine, &repository);

    // With those that a helper keeps; the configuration itself knows nothing.
    let helper = programs.join("docker-credential-of-tests");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread -r server\n[ \"$server\" = {} ] || {{ echo credentials not found in native keychain; exit 1; }}\n\
         echo asked >>{}\necho '{{\"ServerURL\":\"x\",\"Username\":\"user\",\"Secret\":\"secret\"}}'\n",
        registry.address,
        world.path("asked").display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    for config in [
        serde_json::json!({ "credHelpers": { &registry.address: "of-tests" } }),
        serde_json::json!({ "credsStore": "of-tests", "auths": { &registry.address: {} } }),
    ] {
        configure(&world, &config);
        fs::remove_file(world.path("asked")).ok();
        world.ok(&["apply", "-f", "p.yaml", "--wait"]);
        assert_eq!(world.read("asked"), "asked\n");
        assert!(digest(&world.status(), &id).starts_with("sha256:"));
        world.ok(&["down"]);
        forget(&engine, &repository);
    }
}

#[test]
fn restart_pull_stops_nothing_before_the_image_is_there() {
    let (mut world, engine) = world_with_engine!("restart_pull_…");
    let mut registry = Registry::start(&world.path("registry"));
    let id = unique("renewed");
    let repository = format!("{}/{id}", registry.address);
    world.set("DOCKER_CONFIG", &world.path("docker").display().to_string());
    let auths = serde_json::json!({ "auths": { &registry.address: { "auth": AUTH } } });
    configure(&world, &auths);
    push(&engine, IMAGE, &repository);
    world.apply(&resting(&id, "").replace(IMAGE, &format!("{repository}:1")));
    let first = world.status();

    // Another image has the name by now, there and not here.
    push(&engine, "flowctl-test/user:1", &repository);
    engine.act(
        "POST",
        &format!("/images/{IMAGE}/tag?repo={repository}&tag=1"),
    );
    let said = world.run(&["restart", "--pull", &id]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains("which runs on"));
    let second = world.status();
    assert_ne!(digest(&second, &id), digest(&first, &id));

    // Nobody has it any more, and what is here runs already.
    registry.stop();
    let said = world.fails(7, &["restart", "--pull", &id]);
    assert!(
        said.contains("cannot pull") && said.contains("was not touched"),
        "{said}"
    );
    let third = world.status();
    let run = |status: &Status| status.replica(&id)["container"].clone();
    assert_eq!(run(&third), run(&second));
    assert_eq!(third.phase(&id), "running");
    world.ok(&["restart", &id]);
    assert_ne!(run(&world.status()), run(&second));
    world.ok(&["down"]);
    forget(&engine, &repository);
}

#[test]
fn restart_pull_of_what_is_never_pulled_says_so_and_runs_what_is_here() {
    let (world, engine) = world_with_engine!("restart_pull_of_what_is_never_pulled_…");
    let (id, repository) = (unique("kept"), format!("flowctl-test/{}", unique("local")));
    let name = |image: &str| {
        let path = format!("/images/{image}/tag?repo={repository}&tag=1");
        engine.act("POST", &path);
    };
    name(IMAGE);
    let component = resting(&id, ", pull: never").replace(IMAGE, &format!("{repository}:1"));
    world.apply(&component);
    let image = || engine.inspect(&id).unwrap()["Image"].clone();
    let first = image();
    name("flowctl-test/user:1");
    world.ok(&["restart", &id]);
    assert_eq!(image(), first);
    let said = world.run(&["restart", "--pull", &id]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(
        text(&said.stderr).contains("`pull: never`"),
        "{}",
        text(&said.stderr)
    );
    assert_ne!(image(), first);
    world.ok(&["down"]);
    forget(&engine, &repository);
}

#[test]
fn a_pull_that_nobody_wants_any_more_is_given_up() {
    let (world, engine) = world_with_engine!("a_pull_that_nobody_wants_…");
    let image = format!("{}/absent:1", endless_registry());
    let id = unique("boxed");
    let right = pipeline(&resting(&id, ""));
    let wrong = right.replace(IMAGE, &image);
    let pulls = |status: &Status| status.why(&id).contains("pulling");
    world.save("p.yaml", &wrong);
    world.ok(&["apply", "-f", "p.yaml", "--no-wait"]);
    world.until("it is pulled", pulls);
    world.save("p.yaml", &right);
    world.until("the corrected name runs", Status::settled);
    world.save("p.yaml", &wrong);
    world.until("it is pulled after an edit", pulls);
    world.ok(&["stop", &id]);
    assert_eq!(world.status().phase(&id), "stopped");
    world.ok(&["start", &id, "--no-wait"]);
    let after = world.until("it is pulled once more", pulls);
    assert_eq!(after.restarts(&id), 0);
    world.ok(&["down"]);
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}

#[test]
fn a_run_goes_on_when_a_pull_is_given_up_for_an_edit() {
    let (world, engine) = world_with_engine!("a_run_goes_on_…");
    let id = unique("boxed");
    let right = pipeline(&resting(&id, ""));
    let image = format!("{}/absent:1", endless_registry());
    world.save("p.yaml", &right.replace(IMAGE, &image));
    let mut run = world
        .command(&["run", "p.yaml"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is pulled", || {
        let status = world.run(&["status"]);
        text(&status.stdout).contains("pulling")
    });
    world.save("p.yaml", &right);
    let after = world.until("the corrected name runs", Status::settled);
    assert_eq!(after.restarts(&id), 0);
    assert_eq!(run.try_wait().unwrap(), None, "the run goes on");
    kill(run.id(), "INT");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}

/// A registry that says that it is one, and then never gives an image.
fn endless_registry() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut guest in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut asked = [0; 4096];
                while let Ok(count @ 1..) = guest.read(&mut asked) {
                    let asked = &asked[..count];
                    if asked.starts_with(b"GET /v2/ ") {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        guest.write_all(answer).unwrap();
                    } else if !asked.is_ascii() {
                        // TLS, which it does not speak.
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Carries connections to loopback over to `to`, which answers slowly through it.
fn slow_relay(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for guest in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&to).unwrap();
            let (mut up, mut served) = (guest.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut up, &mut served).ok();
                served.shutdown(std::net::Shutdown::Write).ok();
            });
            std::thread::spawn(move || answer_slowly(server, guest));
        }
    });
    address
}

/// Half a megabyte a second.
fn answer_slowly(mut server: TcpStream, mut guest: TcpStream) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count) = server.read(&mut buffer) {
        if count == 0 || guest.write_all(&buffer[..count]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    guest.shutdown(std::net::Shutdown::Both).ok();
}

#[test]
fn apply_and_run_show_how_far_a_pull_is() {
    let (mut world, engine) = world_with_engine!("apply_and_run_show_…");
    let registry = Registry::start(&world.path("registry"));
    let slow = slow_relay(registry.address.clone());
    let id = unique("large");
    // An image of its own: the engine keeps a layer for as long as any image has it.
    let fills =
        "dd if=/dev/urandom of=/large bs=1024 count=3000 2>/dev/null; echo full; exec sleep 100000";
    world.apply(&container(&id, fills, ", stop: { grace_period: 0s }"));
    eventually("it is large", || world.ok(&["logs", &id]) == "full\n");
    let filled = world.status().replica(&id)["container"].clone();
    let fast = format!("{}/{id}", registry.address);
    let commit = format!(
        "/commit?container={}&repo={fast}&tag=0",
        filled.as_str().unwrap()
    );
    engine.act("POST", &commit);
    push(&engine, &format!("{fast}:0"), &fast);
    world.ok(&["down"]);
    for tag in ["0", "1"] {
        engine.act("DELETE", &format!("/images/{fast}:{tag}"));
    }
    let repository = format!("{slow}/{id}");
    world.set("DOCKER_CONFIG", &world.path("docker").display().to_string());
    let auths = serde_json::json!({ "auths": { &slow: { "auth": AUTH } } });
    configure(&world, &auths);
    world.save(
        "p.yaml",
        &pipeline(&resting(&id, "").replace(IMAGE, &format!("{repository}:1"))),
    );
    let applied = world.run(&["apply", "-f", "p.yaml", "--wait"]);
    let said = text(&applied.stdout) + &text(&applied.stderr);
    assert!(applied.status.success(), "{said}");
    assert!(said.contains(&format!("pulling {repository}:1")), "{said}");
    assert!(said.contains(" % of "), "{said}");
    world.ok(&["down"]);
    forget(&engine, &repository);

    let job = container(&id, "exit 0", ", restart_policy: never");
    let image = format!("{repository}:1");
    world.save("job.yaml", &pipeline(&job.replace(IMAGE, &image)));
    let ran = world.run(&["run", "job.yaml"]);
    let said = text(&ran.stdout) + &text(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains(&image) && said.contains(" % of "), "{said}");
    forget(&engine, &repository);
}
