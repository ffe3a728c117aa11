//! Podman in Docker's place.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::containers::id_of;
use crate::engine::{Engine, IMAGE, container, unique};
use crate::lives::on_network;
use crate::support::{World, eventually, free_ports, kill, may_mount, pipeline, text};

/// Podman's service, with a store and networks of its own.
///
/// Podman keeps which addresses and names its containers have in `/run/containers`, and its locks
/// in `/dev/shm`, whatever store it is given: what a killed test left there would be believed by
/// every later one. The service has both for itself alone.
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
        let alone = "mkdir -p /run/containers && mount -t tmpfs flowctl-test /run/containers \
                     && mount -t tmpfs flowctl-test /dev/shm && exec \"$@\"";
        let mut beginning = Command::new("unshare");
        beginning.args(["--mount", "sh", "-c", alone, "sh"]);
        let service = Self::command(beginning, folder)
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

    /// Podman's command line, at the end of another that says where it runs.
    fn command(mut place: Command, folder: &Path) -> Command {
        place
            .env("CONTAINERS_CONF", folder.join("containers.conf"))
            .arg("podman")
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--runroot")
            .arg(folder.join("run"))
            .stdin(Stdio::null());
        place
    }

    /// A command that sees what the service sees.
    fn beside(&self) -> Command {
        let mut beside = Command::new("nsenter");
        let service = self.service.id().to_string();
        beside.args(["--mount", "--target", &service]);
        Self::command(beside, &self.folder)
    }

    /// Takes the image of the tests over from the engine of the tests.
    fn copy_image(&self, from: &Engine) {
        let tar = self.folder.join("image.tar");
        let saved = Command::new("curl")
            .args(["--silent", "--fail", "--unix-socket"])
            .arg(from.socket())
            .arg("--output")
            .arg(&tar)
            .arg(format!("http://engine/images/{IMAGE}/get"))
            .status();
        assert!(saved.unwrap().success());
        let mut load = self.beside();
        let loaded = load.arg("load").arg("--input").arg(&tar).output().unwrap();
        assert!(loaded.status.success(), "{}", text(&loaded.stderr));
    }

    /// Which containers have names on the common network, by those who look them up.
    fn names(&self) -> String {
        let service = self.service.id();
        let names = "root/run/containers/networks/aardvark-dns/flowctl-bridge";
        fs::read_to_string(format!("/proc/{service}/{names}")).unwrap_or_default()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut remove = self.beside();
        remove.args(["system", "reset", "--force"]).output().ok();
        kill(self.service.id(), "TERM");
        self.service.wait().ok();
    }
}

/// On a network that the host has no address on before.
fn the_first_container_reaches_the_control_plane(world: &World) {
    let calls = unique("calls");
    let call = "until nc -w 1 ${FLOWCTL_ENDPOINT%:*} ${FLOWCTL_ENDPOINT##*:} </dev/null >/dev/null; do sleep 0.1; done; echo answered; sleep 1000";
    world.apply(&container(&calls, call, ""));
    eventually("it is answered", || {
        world.ok(&["logs", &calls]).contains("answered")
    });
}

/// Podman tells of the second in which a line was written, which begins before the run.
fn what_a_run_writes_at_once_is_shown(world: &World) {
    let says = container(&unique("says"), "echo hello", ", restart_policy: never");
    world.save("q.yaml", &pipeline(&says));
    let said = world.ok(&["run", "q.yaml"]);
    assert!(said.contains("hello"), "{said}");
}

/// To Podman that is no network.
fn on_the_hosts_network_it_is_probed(world: &mut World) {
    let port = free_ports(1)[0];
    let script = format!(
        "mkdir /tmp/w; echo ok >/tmp/w/health; exec httpd -f -p 127.0.0.1:{port} -h /tmp/w"
    );
    let probe = format!(", probes: {{ readiness: {{ http: {{ path: /health, port: {port} }} }} }}");
    let component = container(&unique("host"), &script, &probe);
    world.save("h.yaml", &on_network("host", &component));
    world.set("FLOWCTL_ALLOW_PRIVILEGED", "true");
    world.ok(&["apply", "-f", "h.yaml", "--wait"]);
    world.ok(&["down"]);
}

/// Those that rule the host, and the folder of the manifest.
fn its_containers_are_given_nothing_that_rules_the_host(world: &World, podman: &Podman) {
    let socket = podman.engine.socket().display().to_string();
    std::os::unix::fs::symlink("/etc", world.path("settings")).unwrap();
    for (place, more) in [
        ("/proc", ", readonly: true"),
        ("/sys", ", readonly: true"),
        ("/etc", ""),
        ("/root", ", readonly: true"),
        ("/dev", ""),
        ("settings", ", readonly: true"),
        (&socket, ", readonly: true"),
        ("/var/lib/containers", ", readonly: true"),
    ] {
        let volume = format!("{{ host_path: {place}, container_path: /there{more} }}");
        let more = format!(", user: \"65534\", volumes: [{volume}]");
        world.write(
            "m.yaml",
            &pipeline(&container(&unique("rules"), "true", &more)),
        );
        let said = world.fails(7, &["apply", "-f", "m.yaml"]);
        assert!(said.contains("gives power over"), "{place}: {said}");
    }
    fs::create_dir(world.path("mine")).unwrap();
    let writes = unique("writes");
    world.apply(&container(
        &writes,
        "cat /proc/mounts >/mine/mounts; cat /proc/1/status >/mine/status; sleep 1000",
        ", volumes: [{ host_path: mine, container_path: /mine }]",
    ));
    eventually("it wrote", || {
        world.read("mine/status").contains("NoNewPrivs:\t1")
    });
    assert!(!world.read("mine/mounts").contains("flowctl-test /run"));
    // The seven capabilities of a container.
    let status = world.read("mine/status");
    let bounded = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounded = u64::from_str_radix(bounded.unwrap().trim(), 16).unwrap();
    assert_eq!(bounded.count_ones(), 7, "{status}");
    world.ok(&["down"]);
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
    // Before the world, which is then taken down while it still answers.
    let folder = tempfile::tempdir().unwrap();
    let podman = Podman::start(folder.path());
    podman.copy_image(&docker);
    let mut world = World::new();
    world.use_engine(&podman.engine.host());
    the_first_container_reaches_the_control_plane(&world);
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

    // A person's kill is a crash; the daemon's is nothing.
    let victim = id_of(&before, &serves);
    podman
        .engine
        .act("POST", &format!("/containers/{victim}/kill"));
    let after = world.until("another runs", |status| {
        status.settled() && status.restarts(&serves) == 1
    });
    assert_eq!(id_of(&after, &asks), id_of(&before, &asks));
    world.kill_daemon();
    world.start_daemon();
    let adopted = world.until("all is adopted", |status| status.settled());
    assert_eq!(id_of(&adopted, &serves), id_of(&after, &serves));
    assert_eq!(id_of(&adopted, &asks), id_of(&after, &asks));
    assert!(podman.names().contains(&serves));

    let job = container(&ends, "exit 42", ", restart_policy: never");
    let lost =
        container(&absent, "true", ", restart_policy: never").replace("[sh, -c,", "[absent,");
    world.save("p.yaml", &pipeline(&(job + &lost)));
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
    // Or they would be given for those of the next network of this name.
    assert_eq!(podman.names(), "");
    what_a_run_writes_at_once_is_shown(&world);
    its_containers_are_given_nothing_that_rules_the_host(&world, &podman);
    on_the_hosts_network_it_is_probed(&mut world);
    let (_, networks) = podman.engine.ask("GET", "/networks");
    assert!(
        !networks.to_string().contains("flowctl-bridge"),
        "{networks}"
    );
}
