//! `flowctl web`, and whoever attacks it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::support::{PATIENCE, World, end_of, eventually, kill, openssl, shell, sleeper, text};

/// A server of pages, and the browser that came in by its link.
struct Server {
    process: Child,
    address: SocketAddr,
    /// `/login?token=..`, or `/`.
    way_in: String,
}

/// What a server answers.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Server {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let mut all = vec!["web"];
        all.extend(arguments);
        let mut process = world
            .command(&all)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let url = line.trim().split_once("://").unwrap().1.to_owned();
        let (address, path) = url.split_once('/').unwrap();
        Self {
            process,
            address: address.parse().unwrap(),
            way_in: format!("/{path}"),
        }
    }

    fn host(&self) -> String {
        format!("Host: {}\r\n", self.address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request with exactly these lines, and reads the whole answer.
    fn send(&self, request: &str, headers: &str) -> Answer {
        let mut stream = self.connect();
        let text = format!("{request} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        self.send(&format!("GET {path}"), &(self.host() + headers))
    }

    /// Comes in by the link; answers the cookie's header.
    fn enter(&self) -> String {
        let answer = self.get(&self.way_in, "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("set-cookie").unwrap();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    }

    /// The stream of a page, of which events are read one by one.
    fn stream(&self, path: &str, cookie: &str) -> Events {
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\n{}{cookie}\r\n", self.host());
        stream.write_all(request.as_bytes()).unwrap();
        Events {
            lines: BufReader::new(stream),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    /// The data of the next event of `kind` that has `word` in it.
    #[track_caller]
    fn until(&mut self, kind: &str, word: &str) -> String {
        let begun = Instant::now();
        let mut named = String::new();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no {kind} with {word}");
            let mut line = Vec::new();
            let read = self.lines.read_until(b'\n', &mut line).unwrap();
            assert!(read > 0, "the stream ended before {kind} with {word}");
            let line = text(&line);
            let line = line.trim_end();
            if let Some(name) = line.strip_prefix("event: ") {
                named = name.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ")
                && named == kind
                && data.contains(word)
            {
                return data.to_owned();
            }
        }
    }
}

#[test]
fn a_browser_comes_in_by_the_link_and_sees_all_of_it() {
    let world = World::new();
    let talks = "while :; do echo a word; sleep 0.2; done";
    world.apply(&(shell("talks", talks, "") + &sleeper("rests", ", inputs: [talks]")));
    let server = Server::start(&world, &[]);
    assert!(server.address.ip().is_loopback());
    let outside = server.get("/", "");
    assert_eq!(outside.status, 401);
    assert!(outside.body.contains("It works once"), "{}", outside.body);
    let head = server.send(&format!("HEAD {}", server.way_in), &server.host());
    assert_eq!(
        head.header("set-cookie"),
        None,
        "a look at the head uses nothing up"
    );

    let cookie = server.enter();
    let page = server.get("/", &cookie);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("/app.js"), "{}", page.body);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'; script-src 'self'"),
        "{policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("access-control-allow-origin"), None);
    for (path, kind) in [("/app.js", "text/javascript"), ("/style.css", "text/css")] {
        let answer = server.get(path, "");
        assert!(answer.header("content-type").unwrap().starts_with(kind));
    }
    let session = server.get("/api/session", &cookie);
    assert!(
        session.body.contains(r#""control":false,"token":null"#),
        "{}",
        session.body
    );

    let mut stream = server.stream("/api/stream?open=logs&pipeline=p&component=talks", &cookie);
    stream.until("link", "answers");
    stream.until("status", r#""id":"talks""#);
    stream.until("lines", "a word");
    stream.until("lines", "a word");
    let mut stream = server.stream("/api/stream?open=events&pipeline=p", &cookie);
    stream.until("events", "started");
    let why = server.get("/api/why/default/p/talks", &cookie);
    assert!(
        why.body.contains("a word") && why.body.contains("\"events\":[{"),
        "{}",
        why.body
    );
    let graph = server.get("/api/graph/default/p", &cookie);
    assert!(
        graph.body.contains(r#""from":"talks","to":"rests""#),
        "{}",
        graph.body
    );
    assert!(
        !graph.body.contains("a word"),
        "a definition may hold secrets"
    );
    assert_eq!(
        server.get("/api/graph/default/nothing", &cookie).status,
        404
    );

    // The daemon ends under the open page, and comes back.
    let mut stream = server.stream("/api/stream", &cookie);
    stream.until("link", "answers");
    world.kill_daemon();
    stream.until("link", "lost");
    world.start_daemon();
    stream.until("link", "answers");
    stream.until("status", r#""id":"talks""#);
}

#[test]
fn nobody_else_comes_in() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let server = Server::start(&world, &["--allow-control"]);
    let cookie = server.enter();
    let link = server.get(&server.way_in, "");
    assert_eq!(
        (link.status, link.header("set-cookie")),
        (401, None),
        "a link works once"
    );

    // A name that somebody pointed here, as in GHSA-5gm3-9crp-6g3v.
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "",
    ] {
        let answer = server.send("GET /api/session", &format!("Host: {host}\r\n{cookie}"));
        assert!(
            matches!(answer.status, 400 | 421),
            "{host}: {}",
            answer.status
        );
        assert!(!answer.body.contains("token\":"), "{}", answer.body);
    }
    let twice = format!("{}Host: evil.example\r\n{cookie}", server.host());
    assert!(matches!(
        server.send("GET /api/session", &twice).status,
        400 | 421
    ));
    let absolute = server.send(
        "GET http://evil.example/api/session",
        &format!("Host: evil.example\r\n{cookie}"),
    );
    assert_eq!(absolute.status, 421);

    let paths = [
        "/api/session",
        "/api/stream",
        "/api/why/default/p/a",
        "/api/graph/default/p",
    ];
    for path in paths {
        for (what, headers) in [
            ("no cookie", String::new()),
            ("a wrong one", "Cookie: flowctl-1=0000\r\n".to_owned()),
            ("a wrong token", "Authorization: Bearer 0000\r\n".to_owned()),
        ] {
            assert_eq!(server.get(path, &headers).status, 401, "{path}: {what}");
        }
        let foreign = format!("{cookie}Origin: http://evil.example\r\n");
        assert_eq!(server.get(path, &foreign).status, 403, "{path}");
        let foreign = format!("{cookie}Sec-Fetch-Site: cross-site\r\n");
        assert_eq!(server.get(path, &foreign).status, 403, "{path}");
    }

    // Nothing lies below the page.
    for path in [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/app.js/../../../etc/passwd",
        "/page/app.js",
        "//etc/passwd",
        "/api/why/..%2f..%2fetc/passwd/x",
        "/api/graph/default/..%2f..",
        "/api/why/default/p/%00",
    ] {
        let answer = server.get(path, &cookie);
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.status
        );
        assert!(!answer.body.contains("root:"), "{path}");
    }
    for method in ["PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"] {
        let answer = server.send(
            &format!("{method} /api/session"),
            &(server.host() + &cookie),
        );
        assert_eq!(answer.status, 405, "{method}");
    }
    let huge = format!("{cookie}Content-Length: 100000\r\n");
    let body = "token=".to_owned() + &"x".repeat(100_000 - 6);
    let mut stream = server.connect();
    let request = format!(
        "POST /login HTTP/1.1\r\n{}{huge}Connection: close\r\n\r\n",
        server.host()
    );
    stream.write_all(request.as_bytes()).unwrap();
    // The answer may come, and the connection close, before all of it was sent.
    stream.write_all(body.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert!(!text(&answer).contains("set-cookie"), "{}", text(&answer));
    assert_eq!(world.status().phase("a"), "running", "and nothing was done");
}

#[test]
fn a_page_steers_when_that_is_allowed_and_no_other_page_does() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let shows = Server::start(&world, &[]);
    let steers = Server::start(&world, &["--allow-control"]);
    let stop = "POST /api/steer/default/p/a/stop";
    let token_of = |server: &Server, cookie: &str| {
        let session = server.get("/api/session", cookie);
        let session: serde_json::Value = serde_json::from_str(&session.body).unwrap();
        session["token"].as_str().unwrap_or("none").to_owned()
    };
    let cookie = shows.enter();
    let token = token_of(&shows, &cookie);
    assert_eq!(token, "none");
    let origin = |server: &Server| format!("Origin: http://{}\r\n", server.address);
    let headers = format!(
        "{}{cookie}{}X-Flowctl-Token: {token}\r\n",
        shows.host(),
        origin(&shows)
    );
    assert_eq!(shows.send(stop, &headers).status, 403, "it only shows");

    let cookie = steers.enter();
    let token = token_of(&steers, &cookie);
    let (host, own) = (steers.host(), origin(&steers));
    let said = format!("X-Flowctl-Token: {token}\r\n");
    for (what, headers, status) in [
        ("no cookie", format!("{host}{own}{said}"), 401),
        ("no token", format!("{host}{cookie}{own}"), 403),
        (
            "a wrong token",
            format!("{host}{cookie}{own}X-Flowctl-Token: 00\r\n"),
            403,
        ),
        ("no origin", format!("{host}{cookie}{said}"), 403),
        (
            "another origin",
            format!("{host}{cookie}Origin: http://evil.example\r\n{said}"),
            403,
        ),
        (
            "origin null",
            format!("{host}{cookie}Origin: null\r\n{said}"),
            403,
        ),
        (
            "another port of this host",
            format!("{host}{cookie}Origin: http://127.0.0.1:1\r\n{said}"),
            403,
        ),
        (
            "another host",
            format!("Host: evil.example\r\n{cookie}Origin: http://evil.example\r\n{said}"),
            421,
        ),
    ] {
        let answer = steers.send(stop, &headers);
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
    }
    let whole = format!("{host}{cookie}{own}{said}");
    assert_eq!(
        steers
            .send("GET /api/steer/default/p/a/stop", &whole)
            .status,
        405
    );
    for (path, status) in [("default/p/a/pull", 404), ("default/p/nothing/stop", 404)] {
        let answer = steers.send(&format!("POST /api/steer/{path}"), &whole);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    assert_eq!(world.status().phase("a"), "running");
    let answer = steers.send(stop, &whole);
    assert_eq!(answer.status, 200, "{}", answer.body);
    world.until("it stops", |status| status.phase("a") == "stopped");
    let answer = steers.send("POST /api/steer/default/p/a/start", &whole);
    assert_eq!(answer.status, 200, "{}", answer.body);
    world.until("it runs", |status| status.phase("a") == "running");
}

#[test]
fn browsers_that_do_not_read_or_do_not_ask_keep_nobody_out() {
    let world = World::new();
    let flood = "while :; do seq 20000; done";
    world.apply(&shell("flood", flood, ""));
    let server = Server::start(&world, &[]);
    let cookie = server.enter();
    // Connections that say nothing, or begin a request and never end it.
    let silent: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for mut stream in &silent {
        stream.write_all(b"GET / HT").ok();
    }
    // Pages that never read what they are sent.
    let path = "/api/stream?open=logs&pipeline=p&component=flood";
    let stalled: Vec<Events> = (0..8).map(|_| server.stream(path, &cookie)).collect();
    let mut reader = server.stream(path, &cookie);
    reader.until("status", "flood");
    let told = reader.until("lines", r#""left_out":true"#);
    assert!(told.len() < 1 << 20);
    assert_eq!(server.get("/api/session", &cookie).status, 200);
    drop(reader);
    // Too many pages are refused in words, and make room when they go.
    let more: Vec<Events> = (0..40)
        .map(|_| server.stream("/api/stream", &cookie))
        .collect();
    eventually("a page is refused", || {
        server.get("/api/stream?open=nonsense", &cookie).status == 400
            && server
                .get("/api/stream", &format!("{cookie}Sec-Fetch-Site: none\r\n"))
                .status
                == 503
    });
    drop((more, stalled, silent));
    let mut again = None;
    eventually("there is room again", || {
        let mut stream = server.stream("/api/stream", &cookie);
        let mut line = String::new();
        stream.lines.read_line(&mut line).unwrap();
        let is_open = line.contains(" 200 ");
        again = is_open.then_some(stream);
        is_open
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id()));
    let status = status.unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 300 << 10, "{line}");
}

#[test]
fn what_components_write_and_are_called_is_data_and_never_markup() {
    let world = World::new();
    let says =
        r#"printf '<img src=x onerror=alert(1)>\nevent: status\ndata: {}\n\n'; sleep 100000"#;
    world.apply(&shell("says", says, ""));
    let server = Server::start(&world, &[]);
    let cookie = server.enter();
    let mut stream = server.stream("/api/stream?open=logs&pipeline=p&component=says", &cookie);
    let told = stream.until("lines", "onerror");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["lines"][0]["text"], "<img src=x onerror=alert(1)>");
    // A line that looks like an event of the stream stays a line.
    let all = told["lines"].as_array().unwrap();
    assert!(all.iter().any(|line| line["text"] == "event: status") || all.len() == 1);
    let names = server.get("/api/why/default/p/%3Cimg%20src=x%3E", &cookie);
    assert_eq!(names.status, 404);
    assert!(!names.body.contains("<img"), "{}", names.body);
    assert_eq!(names.header("content-type"), Some("application/json"));
    assert_eq!(names.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn other_hosts_need_a_token_of_a_file_and_tls() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let said = world.fails(2, &["web", "--listen", "0.0.0.0:0"]);
    assert!(
        said.contains("can be reached from other hosts, and that needs --token-file"),
        "{said}"
    );
    world.write("short", "hunter2\n");
    let said = world.fails(2, &["web", "--token-file", "short"]);
    assert!(
        said.contains("the token has 7 characters, and needs 20"),
        "{said}"
    );
    world.write("token", "0123456789abcdef+0123456789\n");
    let said = world.fails(2, &["web", "--listen", "[::]:0", "--token-file", "token"]);
    assert!(said.contains("needs --tls-cert and --tls-key"), "{said}");

    let server = Server::start(&world, &["--token-file", "token", "--host", "flow.example"]);
    assert_eq!(server.way_in, "/");
    let named = "Host: flow.example\r\n";
    assert_eq!(server.send("GET /", named).status, 401);
    let login = |token: &str| {
        let body = format!("token={token}");
        let headers = format!("{named}Content-Length: {}\r\n", body.len());
        let mut stream = server.connect();
        let request = format!("POST /login HTTP/1.1\r\n{headers}Connection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        text(&answer)
    };
    assert!(login("0123456789abcdef+0123456788").starts_with("HTTP/1.1 401"));
    for _ in 0..2 {
        let answer = login("0123456789abcdef%2B0123456789");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("set-cookie: flowctl-"),
            "{answer}"
        );
    }
    let bearer = format!("{named}Authorization: Bearer 0123456789abcdef+0123456789\r\n");
    assert_eq!(server.send("GET /api/session", &bearer).status, 200);
    drop(server);

    openssl(
        &world.path(""),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem \
         -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1",
    );
    let tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let mut all = vec!["--listen", "0.0.0.0:0", "--token-file", "token"];
    all.extend(tls);
    let server = Server::start(&world, &all);
    let url = format!("https://localhost:{}/", server.address.port());
    let asked = std::process::Command::new("curl")
        .args([
            "-s",
            "--cacert",
            "cert.pem",
            "-o",
            "page",
            "-w",
            "%{http_code}",
            &url,
        ])
        .current_dir(world.path(""))
        .output()
        .unwrap();
    assert_eq!(text(&asked.stdout), "401", "{}", text(&asked.stderr));
    assert!(world.read("page").contains("Or type its token"));
}

#[test]
fn ctrl_c_ends_it() {
    let world = World::new();
    let mut server = Server::start(&world, &[]);
    // Without a daemon there is a page that waits for one.
    let cookie = server.enter();
    server
        .stream("/api/stream", &cookie)
        .until("link", "waiting");
    kill(server.process.id(), "INT");
    assert_eq!(end_of(&mut server.process), Some(130));
}
