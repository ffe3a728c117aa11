//! On real files, processes and sockets.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::model::{
    ContainerSpec, Port, ProcessSpec, Protocol, SecretSource, SecretSpec, Workload, fixtures,
};

/// A process component `c` that runs `program` in `folder`.
fn component(program: &str, folder: &Path) -> ComponentSpec {
    let mut spec = fixtures::component("c", 1, &[]);
    spec.workload = Workload::Process(ProcessSpec {
        program: program.to_owned(),
        args: vec![],
        working_dir: folder.to_owned(),
    });
    spec
}

fn problems_beside(spec: ComponentSpec, running: &[Running]) -> Vec<String> {
    let pipeline = fixtures::pipeline(vec![spec]);
    let found = preflight(&[&pipeline], running, &inheritance());
    found.iter().map(ToString::to_string).collect()
}

fn inheritance() -> Inheritance {
    Inheritance::new([("PATH".into(), "/usr/bin:/bin".into())])
}

fn problems(spec: ComponentSpec) -> Vec<String> {
    problems_beside(spec, &[])
}

fn script(folder: &Path, name: &str, text: &str, mode: u32) {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn port(number: u16, protocol: Protocol) -> Port {
    Port {
        name: None,
        container_port: number,
        host_port: None,
        host_ip: None,
        protocol,
    }
}

fn serving(number: u16, protocol: Protocol) -> ComponentSpec {
    let mut spec = component("sh", Path::new("/"));
    spec.ports = vec![port(number, protocol)];
    spec
}

fn instance(component: &str) -> InstanceId {
    format!("default.p.{component}.0.1").parse().unwrap()
}

fn running(component: &str, pid: Option<u32>, ports: &[u16]) -> Running {
    Running {
        instance: instance(component),
        spec: None,
        pid,
        ports: ports.iter().copied().collect(),
    }
}

/// Waits until a closed port is free: a test beside this one may fork while it is open, and the
/// copy lives until that child executes its program.
fn until_free(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Sockets::read()
        .taking(Protocol::Tcp, port, None)
        .next()
        .is_some()
    {
        assert!(Instant::now() < deadline, "port {port} stays taken");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_there_is_no_problem() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "run", "#!/bin/sh\n", 0o755);
    for program in [
        "sh",
        "./run",
        "/bin/sh",
        folder.path().join("run").to_str().unwrap(),
    ] {
        assert_eq!(
            problems(component(program, folder.path())),
            [""; 0],
            "{program}"
        );
    }
}

#[test]
fn a_program_that_cannot_run_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "plain", "#!/bin/sh\n", 0o644);
    script(folder.path(), "windows", "#!/bin/sh\r\nexit\r\n", 0o755);
    script(folder.path(), "odd", "#!/no/such/python -u\n", 0o755);
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    for (program, wanted) in [
        (
            "no-such-program",
            "c: program `no-such-program` was not found in PATH (/usr/bin:/bin): install it",
        ),
        ("./missing", "c: program `./missing` does not exist in /"),
        ("./plain", "c: program `./plain` is not executable ("),
        ("./folder", "c: program `./folder` is a directory ("),
        ("./windows", "c: program `./windows` has Windows line ends"),
        (
            "./odd",
            "c: program `./odd` is a script whose interpreter `/no/such/python` does not exist",
        ),
    ] {
        let found = problems(component(program, folder.path()));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(wanted), "{}", found[0]);
    }
}

#[test]
fn a_program_is_looked_up_in_the_components_own_path() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "only-here", "#!/bin/sh\n", 0o755);
    let here = folder.path().to_str().unwrap();
    let mut spec = component("only-here", Path::new("/"));
    assert_eq!(problems(spec.clone()).len(), 1);
    spec.env
        .insert("PATH".to_owned(), format!("/nowhere:{here}"));
    assert_eq!(problems(spec.clone()), [""; 0]);
    let file = folder.path().join("env");
    std::fs::write(&file, format!("# where\nexport PATH=\"{here}\"\n")).unwrap();
    spec.env.clear();
    spec.env_file = vec![file];
    assert_eq!(problems(spec.clone()), [""; 0]);
    // An empty entry is the working directory.
    spec.env_file.clear();
    spec.env.insert("PATH".to_owned(), ":/bin".to_owned());
    spec.workload = component("only-here", folder.path()).workload;
    assert_eq!(problems(spec), [""; 0]);
}

#[test]
fn every_replica_that_differs_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "run-0", "#!/bin/sh\n", 0o755);
    let mut spec = component("./run-${{ component.replica }}", folder.path());
    spec.replicas = 2;
    let found = problems(spec);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("c: program `./run-1` does not exist"),
        "{}",
        found[0]
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let mut spec = component("sh", Path::new("/no/such/folder"));
    spec.env_file = vec!["/no/such/env".into()];
    spec.secrets = vec![SecretSpec {
        name: "key".to_owned(),
        source: SecretSource::File("/no/such/key".into()),
        container_path: None,
        mode: 0o400,
    }];
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    spec.ports = vec![port(taken.local_addr().unwrap().port(), Protocol::Tcp)];
    let found = problems(spec);
    let starts = [
        "c: env_file /no/such/env does not exist",
        "c: port ",
        "c: secret `key`: /no/such/key does not exist",
        "c: working directory /no/such/folder does not exist",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn a_user_that_does_not_exist_is_told() {
    let mut spec = component("sh", Path::new("/"));
    spec.user = Some("no-such-user-here".to_owned());
    let found = problems(spec);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("c: there is no user `no-such-user-here`"),
        "{}",
        found[0]
    );
}

#[test]
fn another_users_rights_decide_over_its_program() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root runs components as another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "private", "#!/bin/sh\n", 0o700);
    script(folder.path(), "shared", "#!/bin/sh\n", 0o755);
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let with_user = |program: &str, folder: &Path| {
        let mut spec = component(program, folder);
        spec.user = Some("65534:65534".to_owned());
        problems(spec)
    };
    assert_eq!(with_user("./shared", folder.path()), [""; 0]);
    let found = with_user("./private", folder.path());
    assert!(found[0].contains("may not be executed"), "{found:?}");
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(folder.path(), closed).unwrap();
    let found = with_user("./shared", folder.path());
    assert!(
        found[0].contains("cannot enter working directory"),
        "{found:?}"
    );
}

#[test]
fn a_port_that_a_stranger_holds_is_told_with_the_holder() {
    let pid = std::process::id();
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let Ok(taken) = TcpListener::bind(address) else {
            eprintln!("skipped {address}: no IPv6 here");
            continue;
        };
        let number = taken.local_addr().unwrap().port();
        let found = problems(serving(number, Protocol::Tcp));
        assert_eq!(found.len(), 1, "{address}: {found:?}");
        let wanted = format!("c: port {number}/tcp is held by pid {pid} (");
        assert!(found[0].starts_with(&wanted), "{}", found[0]);
        // The other protocol has ports of its own.
        assert_eq!(problems(serving(number, Protocol::Udp)), [""; 0]);
        drop(taken);
        until_free(number);
        assert_eq!(problems(serving(number, Protocol::Tcp)), [""; 0]);
    }
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let found = problems(serving(number, Protocol::Udp));
    assert!(found[0].contains("/udp is held by pid"), "{found:?}");
}

#[test]
fn a_containers_port_is_the_published_one_on_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let published = |host_port, host_ip: &str| {
        let mut spec = serving(number, Protocol::Tcp);
        spec.workload = Workload::Docker(ContainerSpec {
            image: "x".to_owned(),
            command: None,
            args: vec![],
            working_dir: None,
            pull: None,
            network: None,
            verify: None,
        });
        spec.ports[0].host_port = host_port;
        spec.ports[0].host_ip = Some(host_ip.parse().unwrap());
        spec
    };
    assert_eq!(problems(published(None, "127.0.0.1")), [""; 0]);
    assert_eq!(problems(published(Some(number), "127.0.0.2")), [""; 0]);
    assert_eq!(problems(published(Some(number), "127.0.0.1")).len(), 1);
    assert_eq!(problems(published(Some(number), "0.0.0.0")).len(), 1);
    // The container that runs holds it through its engine.
    let own = running("c", None, &[number]);
    assert_eq!(
        problems_beside(published(Some(number), "0.0.0.0"), &[own]),
        [""; 0]
    );
}

/// A program with a child that listens on a port, and ends with this value.
struct Server {
    parent: Child,
    port: u16,
}

impl Server {
    /// With `detach`, the listener leaves its parent and its session.
    fn start(detach: &str, mark: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // The child inherits the socket as its standard input.
        let socket: std::os::fd::OwnedFd = listener.into();
        let parent = Command::new("sh")
            .args([
                "-c",
                &format!("exec 3<&0; {detach} sleep 1000 <&3 & exec sleep 1000 </dev/null 3<&-"),
            ])
            .env("FLOWCTL_INSTANCE", mark)
            .stdin(socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { parent, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        // Until the shells between have gone, and what a test beside this one may have forked.
        while !server.is_up() {
            assert!(Instant::now() < deadline, "{:?}", server.holders());
            std::thread::yield_now();
        }
        server
    }

    /// Whether the listener holds the port, and nobody else.
    fn is_up(&self) -> bool {
        let [holder] = self.holders()[..] else {
            return false;
        };
        let name = std::fs::read_to_string(format!("/proc/{holder}/comm"));
        holder != self.parent.id() && name.is_ok_and(|name| name == "sleep\n")
    }

    /// The processes that hold the port.
    fn holders(&self) -> Vec<u32> {
        let sockets = Sockets::read();
        let taking = sockets.taking(Protocol::Tcp, self.port, None);
        taking
            .flat_map(|socket| sockets.holders_of(socket))
            .map(|holder| holder.pid)
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let parent = self.parent.id();
        for pid in self.holders().into_iter().filter(|pid| *pid != parent) {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        self.parent.kill().ok();
        self.parent.wait().ok();
    }
}

#[test]
fn a_port_that_the_very_instance_holds_is_free_for_it_and_for_nobody_else() {
    let server = Server::start("", "default.p.c.0.1");
    let spec = serving(server.port, Protocol::Tcp);
    let pid = Some(server.parent.id());
    assert_eq!(
        problems_beside(spec.clone(), &[running("c", pid, &[server.port])]),
        [""; 0]
    );
    // A port of its own is not what it says, but what it holds.
    assert_eq!(
        problems_beside(spec.clone(), &[running("c", pid, &[])]),
        [""; 0]
    );
    let stranger = running("c", Some(1), &[server.port]);
    assert_eq!(problems_beside(spec.clone(), &[stranger]).len(), 1);
    // Another component of ours that this apply takes away gives its port up.
    assert_eq!(
        problems_beside(spec, &[running("gone", pid, &[server.port])]),
        [""; 0]
    );
}

#[test]
fn a_detached_holder_is_known_by_the_marks_of_its_instance() {
    let mark = format!("default.p.c.0.{}", std::process::id());
    let server = Server::start("setsid -f", &mark);
    let spec = serving(server.port, Protocol::Tcp);
    let mut own = running("c", Some(server.parent.id()), &[]);
    own.instance = mark.parse().unwrap();
    assert_eq!(problems_beside(spec.clone(), &[own.clone()]), [""; 0]);
    // Another daemon's instance of the same name has other marks.
    own.pid = Some(std::process::id());
    assert_eq!(problems_beside(spec, &[own]).len(), 1);
}

#[test]
fn a_port_of_another_pipeline_is_told_by_its_name() {
    let server = Server::start("", "default.q.other.0.1");
    let mut other = running("other", Some(server.parent.id()), &[server.port]);
    other.instance = "default.q.other.0.1".parse().unwrap();
    let found = problems_beside(serving(server.port, Protocol::Tcp), &[other]);
    assert_eq!(found.len(), 1, "{found:?}");
    let wanted = "is held by other of pipeline q; stop that, or give";
    assert!(found[0].contains(wanted), "{}", found[0]);
}

#[test]
fn two_pipelines_that_want_one_port_are_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = free.local_addr().unwrap().port();
    drop(free);
    until_free(number);
    let first = fixtures::pipeline(vec![serving(number, Protocol::Tcp)]);
    let mut second = first.clone();
    second.key.name = "second".parse().unwrap();
    let found = preflight(&[&first, &second], &[], &inheritance());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].pipeline, second.key);
    assert!(
        found[0].what.contains("is wanted by c of pipeline p, too;"),
        "{}",
        found[0]
    );
}

#[test]
fn what_runs_as_wanted_is_not_looked_at() {
    let mut spec = component("no-such-program", Path::new("/"));
    let mut own = running("c", Some(std::process::id()), &[]);
    own.spec = Some(spec.hash.clone());
    assert_eq!(problems_beside(spec.clone(), &[own.clone()]), [""; 0]);
    // A second replica would be started.
    spec.replicas = 2;
    assert_eq!(problems_beside(spec.clone(), &[own.clone()]).len(), 1);
    // So would another revision.
    spec.replicas = 1;
    own.spec = Some(SpecHash::new("v1:other"));
    assert_eq!(problems_beside(spec, &[own]).len(), 1);
}
