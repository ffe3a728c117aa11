//! Servers that none of us wrote: redis as the source, nginx as the processor, a shell loop between
//! them as the sink.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::support::{Status, World, eventually, free_ports, is_alive, kill};

const ALL: [&str; 3] = ["store", "web", "reader"];

#[test]
fn redis_and_nginx_are_applied_edited_crashed_adopted_and_ended() {
    let Some(servers) = Servers::found() else {
        return;
    };
    let world = World::new();
    servers.configure(&world);
    world.save("p.yaml", &servers.manifest("one.conf"));
    world.ok(&["apply", "-f", "p.yaml", "--wait", "--timeout", "60s"]);
    let applied = world.status();
    for id in ALL {
        assert_eq!(applied.phase(id), "running", "{id}: {}", applied.why(id));
        assert_eq!(applied.replica(id)["ready"], true, "{id}");
    }
    let address = &applied.replica("web")["addresses"]["http"];
    assert_eq!(*address, format!("localhost:{}", servers.web_port));
    sees(&world, "one");

    world.save("p.yaml", &servers.manifest("two.conf"));
    let edited = world.until("nginx is replaced", |status| {
        status.settled() && status.pid("web") != applied.pid("web")
    });
    assert_eq!(edited.pid("store"), applied.pid("store"));
    assert_eq!(edited.pid("reader"), applied.pid("reader"));
    assert_eq!(edited.restarts("web"), 0, "an edit is no counted restart");
    sees(&world, "two");

    kill(edited.pid("store").unwrap(), "KILL");
    let crashed = world.until("redis runs again", |status| {
        status.settled() && status.restarts("store") == 1 && status.phase("store") == "running"
    });
    assert_ne!(crashed.pid("store"), edited.pid("store"));
    assert_eq!(crashed.replica("store")["exit"]["signal"], 9);
    for dependent in ["web", "reader"] {
        assert_eq!(crashed.pid(dependent), edited.pid(dependent), "{dependent}");
        assert_eq!(crashed.restarts(dependent), 0, "{dependent}");
    }

    world.kill_daemon();
    world.start_daemon();
    let adopted = world.until("all is adopted", Status::settled);
    for id in ALL {
        assert_eq!(adopted.pid(id), crashed.pid(id), "{id}");
        assert_eq!(adopted.restarts(id), crashed.restarts(id), "{id}");
        assert_eq!(adopted.replica(id)["ready"], true, "{id}");
    }

    world.ok(&["down"]);
    for id in ALL {
        assert!(!is_alive(adopted.pid(id).unwrap()), "{id} is left");
    }
    assert_eq!(world.marked(), Vec::<u32>::new());
    // Whatever nginx or redis had forked would hold its port.
    for port in [servers.store_port, servers.web_port] {
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}

/// Waits until the reader got this answer from nginx with a number from redis.
fn sees(world: &World, answer: &str) {
    let wanted = format!(" from nginx {answer}");
    eventually("data passes", || {
        let logs = world.ok(&["logs", "reader", "--tail", "1"]);
        let number = logs.trim_end().strip_suffix(&wanted);
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    });
}

/// The programs and the ports they get.
struct Servers {
    redis: PathBuf,
    redis_cli: PathBuf,
    nginx: PathBuf,
    store_port: u16,
    web_port: u16,
}

impl Servers {
    /// Says loudly what is missing; in CI nothing may be.
    fn found() -> Option<Self> {
        let program = |name| {
            let found = find(name);
            if found.is_none() {
                eprintln!("NOT RUN: the journey on real servers needs {name}; see tests/run");
                assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped");
            }
            found
        };
        let ports = free_ports(2);
        Some(Self {
            redis: program("redis-server")?,
            redis_cli: program("redis-cli")?,
            nginx: program("nginx")?,
            store_port: ports[0],
            web_port: ports[1],
        })
    }

    /// Writes two configurations of nginx that differ in what it answers.
    fn configure(&self, world: &World) {
        std::fs::create_dir_all(world.path("web")).unwrap();
        std::fs::create_dir_all(world.path("store")).unwrap();
        for answer in ["one", "two"] {
            let port = self.web_port;
            world.write(
                &format!("web/{answer}.conf"),
                &format!(
                    "daemon off;\nerror_log stderr;\npid nginx.pid;\nevents {{}}\nhttp {{\n  access_log off;\n  \
                     client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n  \
                     uwsgi_temp_path t4; scgi_temp_path t5;\n  \
                     server {{ listen 127.0.0.1:{port}; location / {{ return 200 'nginx {answer}'; }} }}\n}}\n"
                ),
            );
        }
    }

    fn manifest(&self, conf: &str) -> String {
        let [redis, redis_cli, nginx] =
            [&self.redis, &self.redis_cli, &self.nginx].map(|path| path.display());
        let (store_port, web_port) = (self.store_port, self.web_port);
        format!(
            r#"apiVersion: flowctl/v1
kind: Pipeline
metadata: {{ name: p }}
spec:
  driver: process
  defaults: {{ restart: {{ initial_delay: 100ms, jitter: 0 }} }}
  sources:
    - id: store
      command: [{redis}, --bind, 127.0.0.1, --port, "{store_port}", --save, "", --appendonly, "no"]
      working_dir: store
      ports: [{{ name: redis, containerPort: {store_port} }}]
      probes:
        readiness: {{ tcp: redis, period: 200ms }}
        liveness: {{ exec: [{redis_cli}, -p, "{store_port}", ping], failures: 20 }}
  processors:
    - id: web
      command: [{nginx}, -p, ., -c, {conf}, -e, stderr]
      working_dir: web
      inputs: [store]
      ports: [{{ name: http, containerPort: {web_port} }}]
      probes: {{ readiness: {{ http: {{ path: /, port: http }}, period: 200ms }} }}
  sinks:
    - id: reader
      inputs: [web]
      env:
        STORE: ${{{{ components.store.port }}}}
        WEB_HOST: ${{{{ components.web.host }}}}
        WEB: ${{{{ components.web.ports.http }}}}
      command:
        - bash
        - -c
        - |
          while sleep 0.05; do
            number=$({redis_cli} -p "$STORE" incr read 2>&1) || continue
            exec 3<>"/dev/tcp/$WEB_HOST/$WEB" || continue
            printf 'GET / HTTP/1.0\r\n\r\n' >&3
            answer=$(tail -n 1 <&3)
            echo "$number from $answer" | tee seen
          done
      probes: {{ readiness: {{ exec: [test, -s, seen], period: 200ms }} }}
"#
        )
    }
}

/// A program on PATH, or where Debian keeps servers.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| Path::is_file(path)))
}
