//! HTTP, gRPC and TCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use hyper::body::Bytes;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::probe::AskError;

/// What the ports of a component may answer, one path each.
async fn component() -> u16 {
    let router = Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/gone", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route(
            "/good",
            get(|| async { Json(json!({"status": "healthy"})) }),
        )
        .route(
            "/bad",
            get(|| async { Json(json!({"status": "UNHEALTHY"})) }),
        )
        .route("/text", get(|| async { "{\"status\":\"unhealthy\"}" }))
        .route(
            "/deep",
            get(|| async { Json(json!({"a": {"status": "unhealthy"}})) }),
        )
        .route("/number", get(|| async { Json(json!({"status": 3})) }))
        .route(
            "/broken-json",
            get(|| async { "{\"status\": \"unhealthy\"" }),
        )
        .route("/none", get(|| async { StatusCode::NO_CONTENT }))
        .route("/health", get(|| async { Redirect::permanent("/health/") }))
        .route("/health/", get(|| async { Redirect::to("ready?full=1") }))
        .route(
            "/health/ready",
            get(|| async { Json(json!({"status": "unhealthy"})) }),
        )
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route(
            "/away",
            get(|| async { Redirect::temporary("http://192.0.2.1/x") }),
        )
        .route(
            "/agent",
            get(|headers: axum::http::HeaderMap| async move {
                let agent = headers.get("user-agent").unwrap().to_str().unwrap();
                let host = headers.get("host").unwrap().to_str().unwrap();
                if agent.starts_with("flowctl-probe/") && host.starts_with("localhost:") {
                    StatusCode::OK.into_response()
                } else {
                    StatusCode::BAD_REQUEST.into_response()
                }
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

#[tokio::test]
async fn an_http_answer_passes_by_its_status_and_by_the_status_in_its_json() {
    let port = component().await;
    let unhealthy = failed("status is \"unhealthy\"");
    for (path, wanted) in [
        ("/ok", ProbeOutcome::Pass),
        ("/gone", failed("HTTP 503")),
        ("/nowhere", failed("HTTP 404")),
        ("/good", ProbeOutcome::Pass),
        ("/bad", unhealthy.clone()),
        // Go programs send JSON as text/plain.
        ("/text", unhealthy.clone()),
        ("/deep", ProbeOutcome::Pass),
        ("/number", ProbeOutcome::Pass),
        ("/broken-json", ProbeOutcome::Pass),
        ("/none", ProbeOutcome::Pass),
        ("/agent", ProbeOutcome::Pass),
        ("/health", unhealthy),
        ("/loop", failed("more than 5 redirects")),
        ("/away", ProbeOutcome::Pass),
        ("/a path", failed("its path or host is not valid in a URL")),
    ] {
        assert_eq!(outcome(http(port, path)).await, wanted, "{path}");
    }
}

#[tokio::test]
async fn a_component_that_listens_on_either_loopback_address_is_found() {
    let v6 = TcpListener::bind("[::1]:0").await;
    let Ok(listener) = v6 else {
        eprintln!("skipped: this host has no IPv6 loopback");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    assert_eq!(
        outcome(ProbeCheck::Tcp { port: port.into() }).await,
        ProbeOutcome::Pass
    );
    for host in ["::1", "[::1]", "localhost", "LOCALHOST"] {
        let door = on_loopback();
        let door = door.ports.door(Some(Host::from(host)), port).unwrap();
        assert!(door.connect().await.is_ok(), "{host}");
    }
}

#[tokio::test]
async fn nothing_is_asked_of_where_a_cloud_hands_out_credentials() {
    for host in ["169.254.169.254", "[fd00:ec2::254]", "::ffff:a9fe:a9fe"] {
        let check = ProbeCheck::Http(HttpTarget {
            host: Some(host.to_owned()),
            port: 80.into(),
            path: "/latest/meta-data/".to_owned(),
        });
        let ProbeOutcome::Fail(why) = outcome(check).await else {
            panic!("{host} was asked");
        };
        assert!(why.contains("tells a machine its credentials"), "{why}");
    }
}

#[tokio::test]
async fn a_closed_port_is_connection_refused_for_every_kind() {
    let port = closed_port().await;
    let service = String::new();
    for check in [
        ProbeCheck::Tcp { port: port.into() },
        ProbeCheck::Grpc {
            port: port.into(),
            service,
        },
        http(port, "/health"),
    ] {
        assert_eq!(
            outcome(check.clone()).await,
            failed("connection refused"),
            "{check:?}"
        );
    }
}

#[tokio::test]
async fn who_accepts_and_never_answers_fails_at_the_timeout() {
    let port = serve(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let service = String::new();
    for check in [
        http(port, "/"),
        ProbeCheck::Grpc {
            port: port.into(),
            service,
        },
    ] {
        let (answer, took) = asked(check, on_loopback(), SHORT).await;
        assert_eq!(answer, failed("no answer within 300ms"));
        assert!(took >= SHORT, "{took:?}");
    }
}

#[tokio::test]
async fn who_drips_fails_at_the_timeout_wherever_it_drips() {
    for start in [
        "",
        "HTTP/1.1 200 OK\r\nX-Slow: ",
        "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n{",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;",
    ] {
        let port = serve(move |mut stream| async move {
            read_head(&mut stream).await;
            if stream.write_all(start.as_bytes()).await.is_err() {
                return;
            }
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let (answer, took) = asked(http(port, "/"), on_loopback(), SHORT).await;
        // Blanks before a status line are an error sooner than the timeout, which is as good.
        if start.is_empty() {
            assert_ne!(answer, ProbeOutcome::Pass);
        } else {
            assert_eq!(answer, failed("no answer within 300ms"), "{start}");
            assert!(took >= SHORT, "{start}: {took:?}");
        }
    }
}

#[tokio::test]
async fn of_a_gigabyte_no_more_than_the_start_is_read() {
    for first in ["{", "<html>"] {
        let sent = Arc::new(AtomicU64::new(0));
        let (ended, mut over) = tokio::sync::mpsc::channel::<()>(1);
        let counter = Arc::clone(&sent);
        let port = serve(move |mut stream| {
            let (counter, ended) = (Arc::clone(&counter), ended.clone());
            async move {
                read_head(&mut stream).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(first.as_bytes()).await.unwrap();
                let block = vec![b' '; 1 << 20];
                while stream.write_all(&block).await.is_ok() {
                    counter.fetch_add(1 << 20, Ordering::Relaxed);
                }
                ended.send(()).await.ok();
            }
        })
        .await;
        assert_eq!(outcome(http(port, "/")).await, ProbeOutcome::Pass);
        // What got into the kernel's buffers, and no more: the connection was closed.
        let closed = tokio::time::timeout(AMPLE, over.recv()).await;
        closed.expect("the connection is closed after the ask");
        assert!(sent.load(Ordering::Relaxed) < 64 << 20);
    }
}

#[tokio::test]
async fn who_does_not_speak_the_protocol_fails_at_once_and_in_words() {
    let tls_alert = b"\x15\x03\x01\x00\x02\x02\x46".to_vec();
    let endless_header = {
        let mut bytes = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        bytes.resize(1 << 20, b'x');
        bytes
    };
    for (bytes, wanted) in [
        (tls_alert.clone(), "the answer is not HTTP"),
        (
            b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
            "the answer is not HTTP",
        ),
        (endless_header, "the answer is not HTTP"),
        (Vec::new(), "closed the connection without an answer"),
        (
            b"HTTP/1.1 20".to_vec(),
            "closed the connection without an answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(),
            "the answer broke off",
        ),
    ] {
        let port = answering(bytes.clone()).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert_eq!(outcome(http(port, "/")).await, failed(wanted), "{shown}");
    }
    for bytes in [
        tls_alert,
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        Vec::new(),
    ] {
        let port = answering(bytes).await;
        let service = String::new();
        let answer = outcome(ProbeCheck::Grpc {
            port: port.into(),
            service,
        })
        .await;
        let ProbeOutcome::Fail(why) = answer else {
            panic!("passed");
        };
        assert!(
            ["the answer is not gRPC", "connection reset", "broken pipe"].contains(&why.as_str()),
            "{why}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_port_only() {
    let away = component().await;
    let port = serve(move |mut stream| async move {
        let head = read_head(&mut stream).await;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let location = match path.as_str() {
            "/here" => format!(
                "http://127.0.0.1:{}/end",
                stream.local_addr().unwrap().port()
            ),
            "/there" => format!("http://localhost:{away}/gone"),
            "/secure" => format!(
                "https://localhost:{}/end",
                stream.local_addr().unwrap().port()
            ),
            "/slashes" => format!("//localhost:{away}/gone"),
            _ => {
                stream.write_all(b"HTTP/1.1 500 No\r\n\r\n").await.ok();
                return;
            }
        };
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok();
    })
    .await;
    assert_eq!(outcome(http(port, "/here")).await, failed("HTTP 500"));
    for path in ["/there", "/secure", "/slashes"] {
        assert_eq!(
            outcome(http(port, path)).await,
            ProbeOutcome::Pass,
            "{path}"
        );
    }
}

/// A gRPC server whose answer to `Check` is `code` and, where that is 0, `status`.
async fn grpc_server(code: &'static str, status: u8) -> u16 {
    serve(move |stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let head = hyper::Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            if code == "0" {
                let frame = match status {
                    0 => vec![0, 0, 0, 0, 0],
                    status => vec![0, 0, 0, 0, 2, 8, status],
                };
                body.send_data(Bytes::from(frame), false).unwrap();
            }
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_grpc_server_passes_when_it_says_serving() {
    for (code, status, wanted) in [
        ("0", 1, ProbeOutcome::Pass),
        ("0", 0, failed("status is UNKNOWN")),
        ("0", 2, failed("status is NOT_SERVING")),
        ("0", 3, failed("status is SERVICE_UNKNOWN")),
        ("5", 1, failed("it knows no service `ttp.Source`")),
        ("12", 1, failed("it serves no grpc.health.v1.Health")),
        ("14", 1, failed("gRPC status UNAVAILABLE")),
    ] {
        let port = grpc_server(code, status).await;
        let service = "ttp.Source".to_owned();
        assert_eq!(
            outcome(ProbeCheck::Grpc {
                port: port.into(),
                service
            })
            .await,
            wanted
        );
    }
}

#[tokio::test]
async fn a_heartbeat_is_nothing_to_ask() {
    let ttl = crate::model::HumanDuration::from_secs(1);
    let answer = ask(&ProbeCheck::Heartbeat { ttl }, &on_loopback(), AMPLE).await;
    assert!(answer.is_err());
}

/// Each way to ask a port.
fn each_check(port: u16) -> [ProbeCheck; 3] {
    let service = String::new();
    [
        ProbeCheck::Tcp { port: port.into() },
        ProbeCheck::Grpc {
            port: port.into(),
            service,
        },
        http(port, "/"),
    ]
}

#[tokio::test]
async fn what_has_not_been_seen_yet_says_nothing_and_what_cannot_be_reached_is_a_failure() {
    let port = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for check in each_check(port) {
        let unseen = target(|_| Located::NotSeen, Whose::Own);
        let answer = ask(&check, &unseen, AMPLE).await;
        let instance = an_instance();
        assert_eq!(
            answer,
            Err(AskError::NotSeen { instance, port }),
            "{check:?}"
        );
        let apart = target(|_| Located::OutOfReach, Whose::Own);
        let why = failed(&format!("its port {port} cannot be reached from this host"));
        assert_eq!(asked(check, apart, AMPLE).await.0, why);
    }
}

#[tokio::test]
async fn an_address_is_looked_up_at_each_ask() {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let port = serve(|_| async {}).await;
    let moves = target(
        |port| match SEEN.load(Ordering::Relaxed) {
            0 => Located::NotSeen,
            _ => Located::At(Host::Loopback, port),
        },
        Whose::Own,
    );
    let check = ProbeCheck::Tcp { port: port.into() };
    assert!(ask(&check, &moves, AMPLE).await.is_err());
    SEEN.store(1, Ordering::Relaxed);
    assert_eq!(ask(&check, &moves, AMPLE).await, Ok(ProbeOutcome::Pass));
}

#[tokio::test]
async fn the_answer_of_a_stranger_is_not_the_components_and_is_not_even_asked_for() {
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    let port = serve(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            if !read_head(&mut stream).await.is_empty() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.ok();
        }
    })
    .await;
    let on = |whose| target(|port| Located::At(Host::Loopback, port), whose);
    for check in each_check(port) {
        let strange = on(Whose::Other("pid 7 (nginx)".to_owned()));
        let answer = asked(check, strange, AMPLE).await.0;
        let why = format!("port {port} is answered by pid 7 (nginx), not by this component");
        assert_eq!(answer, failed(&why));
    }
    assert_eq!(
        asked(http(port, "/"), on(Whose::Unknown), AMPLE).await.0,
        ProbeOutcome::Pass
    );
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

/// Where the kernel has no other port to give than the one that is asked.
const ONLY_PORT: u16 = 40_000;

/// In a network of its own, where every ask of that port would find itself.
#[test]
fn an_ask_does_not_take_itself_for_its_answer() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root may make a network of its own");
        return;
    }
    let range = format!("{ONLY_PORT} {}", ONLY_PORT + 1);
    let script = format!(
        "ip link set lo up && echo '{range}' >/proc/sys/net/ipv4/ip_local_port_range && \
         exec \"$0\" --ignored --exact probe::tests::answers::in_a_network_with_one_port"
    );
    let ran = std::process::Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "it needs a network of its own, which the test above makes for it"]
async fn in_a_network_with_one_port() {
    // Otherwise nothing is proven.
    let itself = TcpStream::connect(("127.0.0.1", ONLY_PORT)).await.unwrap();
    assert_eq!(itself.local_addr().unwrap(), itself.peer_addr().unwrap());
    itself.set_zero_linger().unwrap();
    drop(itself);
    for check in each_check(ONLY_PORT) {
        assert_eq!(
            outcome(check.clone()).await,
            failed("connection refused"),
            "{check:?}"
        );
        // Nor does it keep the component from its port.
        let free = TcpSocket::new_v4().unwrap();
        let bound = free.bind(([127, 0, 0, 1], ONLY_PORT).into());
        assert!(bound.is_ok(), "{check:?}: {bound:?}");
    }
}
