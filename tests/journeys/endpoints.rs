//! The ways to a container engine: TCP, TLS with certificates of both sides, Docker's contexts, and
//! Podman.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::engine::{Engine, OwnEngine, container, resting, unique};
use crate::support::{World, eventually, free_ports, kill, may_mount, openssl, text};

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

/// Podman's service, with a store and networks of its own.
struct Podman {
    service: Child,
    engine: Engine,
    folder: PathBuf,
}

impl Podman {
    fn start(folder: &Path) -> Self {
        for part in ["net", "root", "run", "tmp"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        // Limits that this host grants, and a network that no other engine of the tests has.
        let octet = std::process::id() % 200;
        let config = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\ntmp_dir = \"{0}/tmp\"\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{0}/net\"\n\
             default_subnet_pools = [{{ base = \"10.219.{octet}.0/24\", size = 28 }}]\n\
             [containers]\nlog_driver = \"k8s-file\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
            folder.display()
        );
        fs::write(folder.join("containers.conf"), config).unwrap();
        let socket = folder.join("podman.sock");
        let service = Self::command(folder)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .expect("podman is installed");
        let podman = Self {
            service,
            engine: Engine::at(&format!("unix://{}", socket.display())),
            folder: folder.to_owned(),
        };
        eventually("Podman answers", || UnixStream::connect(&socket).is_ok());
        podman
    }

    fn command(folder: &Path) -> Command {
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", folder.join("containers.conf"))
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--runroot")
            .arg(folder.join("run"))
            .stdin(Stdio::null());
        command
    }

    /// Takes the image of the tests over from the engine of the tests.
    fn copy_image(&self, from: &Engine) {
        let tar = self.folder.join("image.tar");
        let saved = Command::new("curl")
            .args(["--silent", "--fail", "--unix-socket"])
            .arg(from.socket())
            .arg("--output")
            .arg(&tar)
            .arg("http://engine/images/flowctl-test/busybox:1/get")
            .status();
        assert!(saved.unwrap().success());
        let mut load = Self::command(&self.folder);
        let loaded = load.arg("load").arg("--input").arg(&tar).output().unwrap();
        assert!(loaded.status.success(), "{}", text(&loaded.stderr));
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut remove = Self::command(&self.folder);
        remove.args(["system", "reset", "--force"]).output().ok();
        kill(self.service.id(), "TERM");
        self.service.wait().ok();
        // What a store that is in use by nobody any more has mounted.
        let overlay = self.folder.join("root/overlay");
        Command::new("umount").arg(overlay).output().ok();
    }
}

#[test]
fn podman_runs_a_pipeline_as_docker_does() {
    let Some(docker) = Engine::shared("podman_runs_a_pipeline_…") else {
        return;
    };
    // Its containers are root's; a user's own are another matter.
    if !may_mount("podman_runs_a_pipeline_…") {
        return;
    }
    let mut world = World::new();
    let podman = Podman::start(&world.path("podman"));
    podman.copy_image(&docker);
    world.use_engine(&podman.engine.host());
    let (serves, asks, ends, absent) = (
        unique("serves"),
        unique("asks"),
        unique("ends"),
        unique("absent"),
    );
    let port = free_ports(1)[0];
    let serve = "while :; do echo hello from $HOSTNAME | nc -l -p 7000; done";
    let ask = format!(
        "while :; do nc ${{{{ components.{serves}.host }}}} ${{{{ components.{serves}.port }}}} </dev/null; sleep 0.2; done"
    );
    let ports = format!(", ports: [{{ containerPort: 7000, hostPort: {port} }}]");
    world.apply(
        &(container(&serves, serve, &ports)
            + &container(&asks, &ask, &format!(", depends_on: [{serves}]"))),
    );
    eventually("one reaches the other by its name", || {
        world.ok(&["logs", &asks]).contains("hello from")
    });
    let before = world.status();
    let id = |status: &crate::support::Status, of: &str| status.replica(of)["container"].clone();

    // A person's kill is a crash; the daemon's is nothing.
    let victim = id(&before, &serves).as_str().unwrap().to_owned();
    podman
        .engine
        .act("POST", &format!("/containers/{victim}/kill"));
    let after = world.until("another runs", |status| {
        status.settled() && status.restarts(&serves) == 1
    });
    assert_eq!(id(&after, &asks), id(&before, &asks));
    world.kill_daemon();
    world.start_daemon();
    let adopted = world.until("all is adopted", |status| status.settled());
    assert_eq!(id(&adopted, &serves), id(&after, &serves));
    assert_eq!(id(&adopted, &asks), id(&after, &asks));

    let job = container(&ends, "exit 42", ", restart_policy: never");
    let lost =
        container(&absent, "true", ", restart_policy: never").replace("[sh, -c,", "[absent,");
    world.save("p.yaml", &crate::support::pipeline(&(job + &lost)));
    let failed = world.until("both have failed", |status| {
        [&ends, &absent]
            .iter()
            .all(|id| status.phase(id) == "failed")
    });
    assert_eq!(failed.replica(&ends)["exit"]["code"], 42);
    assert!(
        failed.why(&absent).contains("`absent`"),
        "{}",
        failed.why(&absent)
    );
    world.ok(&["down"]);
    assert_eq!(podman.engine.containers(&world), Vec::<String>::new());
    let (_, networks) = podman.engine.ask("GET", "/networks");
    assert!(
        !networks.to_string().contains("flowctl-bridge"),
        "{networks}"
    );
}
