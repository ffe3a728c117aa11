//! The room against real servers and programs, good and hostile, and its schedule on paused time.

mod answers;
mod pace;
mod programs;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use async_trait::async_trait;

use super::{Host, Located, PortSite, Ports, Target, Whose, ask};
use crate::model::{HttpTarget, InstanceId, ProbeCheck, ProbeOutcome};

/// Long enough for any honest answer on a busy machine.
const AMPLE: Duration = Duration::from_secs(20);
/// Short, for those who never answer.
const SHORT: Duration = Duration::from_millis(300);

/// What is known of an instance whose ports are where a test says, and whose they are.
struct Known {
    located: fn(u16) -> Located,
    whose: Whose,
}

#[async_trait]
impl Ports for Known {
    fn locate(&self, _: &InstanceId, port: u16) -> Located {
        (self.located)(port)
    }

    async fn whose(&self, _: &InstanceId, _: SocketAddr) -> Whose {
        self.whose.clone()
    }

    async fn taker(&self, _: &InstanceId, _: SocketAddr, _: SocketAddr) -> Option<Whose> {
        Some(self.whose.clone())
    }
}

fn an_instance() -> InstanceId {
    "default.p.a.0.1".parse().unwrap()
}

fn target(located: fn(u16) -> Located, whose: Whose) -> Target {
    Target {
        ports: PortSite::new(an_instance(), Arc::new(Known { located, whose })),
        exec: None,
    }
}

fn on_loopback() -> Target {
    target(|port| Located::At(Host::Loopback, port), Whose::Own)
}

fn http(port: u16, path: &str) -> ProbeCheck {
    ProbeCheck::Http(HttpTarget {
        host: None,
        port: port.into(),
        path: path.to_owned(),
    })
}

fn failed(why: &str) -> ProbeOutcome {
    ProbeOutcome::Fail(why.to_owned())
}

/// Asks with a guard against a hang of our own, and answers how long it took, too.
async fn asked(check: ProbeCheck, target: Target, timeout: Duration) -> (ProbeOutcome, Duration) {
    let began = tokio::time::Instant::now();
    let answer = tokio::time::timeout(AMPLE + timeout, ask(&check, &target, timeout))
        .await
        .expect("an ask ends by itself")
        .expect("the prober has no trouble of its own");
    (answer, began.elapsed())
}

async fn outcome(check: ProbeCheck) -> ProbeOutcome {
    asked(check, on_loopback(), AMPLE).await.0
}

/// A server on a free port of 127.0.0.1 that treats each connection with `each`.
async fn serve<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    port
}

/// A server that reads a request and answers with these bytes.
async fn answering(bytes: impl Into<Vec<u8>>) -> u16 {
    let bytes = bytes.into();
    serve(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(&bytes).await.ok();
        }
    })
    .await
}

/// Reads up to the empty line, and answers what was read.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
