//! Clients that are broken, or mean harm.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::fuzzing::messages;
use super::*;

/// What an HTTP/2 client says first: the preface and an empty settings frame.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    let closed = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .is_ok()
}

/// A well-behaved client is answered.
async fn serves(plane: &Plane) {
    let answer = plane
        .legacy()
        .await
        .register(by_name("honest"))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().service_id, "honest");
}

fn with_limits(limits: Limits) -> ControlPlaneOptions {
    ControlPlaneOptions {
        limits,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_connection_that_does_not_greet_is_closed_and_harms_nobody() {
    let limits = Limits {
        greeting: Duration::from_millis(300),
        ..Limits::default()
    };
    let plane = Plane::with(with_limits(limits), Disk::new()).await;
    let mut silent = TcpStream::connect(plane.address).await.unwrap();
    let mut slow = TcpStream::connect(plane.address).await.unwrap();
    slow.write_all(&GREETING[..20]).await.unwrap();
    serves(&plane).await;
    assert!(is_closed(&mut silent).await && is_closed(&mut slow).await);
    plane.end().await;
}

#[tokio::test]
async fn a_client_that_is_slow_between_calls_stays_connected() {
    let limits = Limits {
        greeting: Duration::from_millis(300),
        ..Limits::default()
    };
    let plane = Plane::with(with_limits(limits), Disk::new()).await;
    let mut client = plane.legacy().await;
    client.register(by_name("a")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    // A broken connection would fail this call, since it was sent before anything was noticed.
    client.register(by_name("a")).await.unwrap();
    plane.end().await;
}

/// A connection that has greeted, which the answer shows.
async fn idle(plane: &Plane) -> TcpStream {
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    stream.write_all(GREETING).await.unwrap();
    stream.read_exact(&mut [0; 9]).await.unwrap();
    stream
}

#[tokio::test]
async fn idle_connections_give_their_places_to_newcomers_and_one_that_calls_keeps_its_own() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let plane = Plane::with(with_limits(limits), Disk::new()).await;
    let mut older = idle(&plane).await;
    let mut caller = plane.legacy().await;
    caller.register(by_name("caller")).await.unwrap();
    let mut newer = idle(&plane).await;
    let _newcomers = (idle(&plane).await, idle(&plane).await);
    assert!(is_closed(&mut older).await && is_closed(&mut newer).await);
    // A broken connection would fail this call, since it was sent before anything was noticed.
    caller.register(by_name("caller")).await.unwrap();
    plane.end().await;
}

#[tokio::test]
async fn a_connection_that_takes_none_of_its_answers_gives_up_its_place_too() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let plane = Plane::with(with_limits(limits), Disk::new()).await;
    let mut deaf = idle(&plane).await;
    let pings = frame(6, 0, 0, b"12345678").repeat(1024);
    let fills = async { while deaf.write_all(&pings).await.is_ok() {} };
    // The server stops to read once its own answers cannot go anywhere.
    let filled = tokio::time::timeout(Duration::from_secs(2), fills).await;
    serves(&plane).await;
    if filled.is_err() {
        assert!(is_closed(&mut deaf).await);
    }
    plane.end().await;
}

#[tokio::test]
async fn a_client_over_its_budget_is_told_to_slow_down_and_others_are_served() {
    let limits = Limits {
        calls_per_second: 20,
        ..Limits::default()
    };
    let plane = Plane::with(with_limits(limits), Disk::new()).await;
    let mut client = plane.legacy().await;
    let mut refused = 0;
    for _ in 0..60 {
        let beat = legacy::ServiceHeartbeat {
            service_id: "a".to_owned(),
            ..Default::default()
        };
        match client.heartbeat(beat).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    serves(&plane).await;
    plane.end().await;
}

#[tokio::test]
async fn a_message_over_64_kib_is_refused_and_the_connection_lives() {
    let plane = Plane::start().await;
    let mut client = plane.sdk().await;
    let mut request = component("big");
    request.component.as_mut().unwrap().description = "x".repeat(100 * 1024);
    assert_eq!(
        code(client.register_component(request).await),
        Code::OutOfRange
    );
    client.register_component(component("small")).await.unwrap();
    plane.end().await;
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// The headers of a call of the legacy service, as they are packed, with no more to come of them.
fn call(method: &str, stream: u32) -> Vec<u8> {
    let path = format!("/flowctl.ControlPlane/{method}");
    let mut packed = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    packed.extend(path.as_bytes());
    packed.extend(b"\x01\x01a\x00\x0ccontent-type\x10application/grpc\x00\x02te\x08trailers");
    frame(1, 4, stream, &packed)
}

/// What breaks the rules of HTTP/2, or uses them up: each on a connection of its own, that has
/// greeted.
fn broken_http2() -> Vec<(&'static str, Vec<u8>)> {
    let opened = call("Register", 1);
    let reset = |stream: u32| frame(3, 0, stream, &[0, 0, 0, 8]);
    let rapid_reset = (0..4000u32).flat_map(|number| {
        let stream = 2 * number + 1;
        [call("Register", stream), reset(stream)].concat()
    });
    let unended = frame(1, 0, 1, &opened[9..]);
    let continued = frame(9, 0, 1, &[0x40; 16_000]).repeat(400);
    let fields = b"\x00\x01x\x7f\x81\x07".iter().copied();
    let large_field = fields.chain([b'v'; 15_000]).collect::<Vec<_>>();
    let empty_data = frame(0, 0, 1, &[]).repeat(20_000);
    let setting = |id: u8, value: u32| {
        let content = [&[0, id][..], &value.to_be_bytes()].concat();
        frame(4, 0, 0, &content)
    };
    let window = |stream, by: u32| frame(8, 0, stream, &by.to_be_bytes());
    vec![
        ("rapid resets", rapid_reset.collect()),
        (
            "headers without an end",
            [unended.clone(), continued].concat(),
        ),
        (
            "a second call within headers",
            [unended, opened.clone()].concat(),
        ),
        ("a field over all limits", frame(1, 5, 1, &large_field)),
        (
            "a table larger than any",
            frame(1, 5, 1, &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ),
        ("an index of nothing", frame(1, 5, 1, &[0xff, 0xff, 0x7f])),
        (
            "empty frames of a body",
            [opened.clone(), empty_data].concat(),
        ),
        ("settings upon settings", frame(4, 0, 0, &[]).repeat(20_000)),
        (
            "pings upon pings",
            frame(6, 0, 0, b"12345678").repeat(20_000),
        ),
        ("a ping of no size", frame(6, 0, 0, b"1")),
        ("a window of 2^31", setting(4, 0x8000_0000)),
        ("a frame size of 0", setting(5, 0)),
        ("no window", [setting(4, 0), opened.clone()].concat()),
        ("settings of a stream", frame(4, 0, 3, &[])),
        ("half a setting", frame(4, 0, 0, &[0, 4, 0])),
        ("a window that grows by nothing", window(0, 0)),
        (
            "a window that overflows",
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
        ),
        ("data of no stream", frame(0, 0, 0, b"x")),
        ("data of a stream that is not open", frame(0, 0, 7, b"x")),
        ("a stream of the server's", call("Register", 2)),
        (
            "a stream that depends on itself",
            frame(2, 0, 5, &[0, 0, 0, 5, 1]),
        ),
        (
            "streams backwards",
            [call("Register", 9), call("Register", 3)].concat(),
        ),
        ("a promise", frame(5, 4, 1, &[0, 0, 0, 2, 0x82])),
        ("a reset of nothing", reset(11)),
        (
            "padding longer than its frame",
            [opened.clone(), frame(0, 8, 1, &[200, 1])].concat(),
        ),
        (
            "kinds that nobody knows",
            frame(77, 0xff, 1, &[1; 100]).repeat(2000),
        ),
        (
            "a farewell, and on",
            [frame(7, 0, 0, &[0; 8]), opened].concat(),
        ),
        (
            "a frame of 16 MB",
            [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 70_000]].concat(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_http2_of_every_kind_costs_nobody_else_anything() {
    let plane = Plane::start().await;
    let mut honest = plane.legacy().await;
    let mut open = Vec::new();
    for (what, bytes) in broken_http2() {
        let mut stream = TcpStream::connect(plane.address).await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        // The server may hang up in the middle of it, or read no more of it.
        let written = stream.write_all(&bytes);
        tokio::time::timeout(Duration::from_secs(2), written)
            .await
            .ok();
        let answered =
            tokio::time::timeout(Duration::from_secs(20), honest.register(by_name("honest")));
        let answered = answered.await;
        assert!(answered.is_ok_and(|answer| answer.is_ok()), "after {what}");
        // They stay open together.
        open.push(stream);
    }
    serves(&plane).await;
    plane.end().await;
}

#[tokio::test]
async fn a_flood_of_unfinished_requests_fills_their_room_and_neither_heartbeats_nor_registrations()
{
    let plane = Plane::start().await;
    let message = [&[0, 0, 0, 0xf0, 0][..], &[b'x'; 60_000]].concat();
    let mut open = Vec::new();
    // More than the room holds: 12 connections with 32 calls of 60 KB each.
    for _ in 0..12 {
        let mut stream = TcpStream::connect(plane.address).await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        let fills = async {
            for number in 0..32 {
                let begun = call("Register", 2 * number + 1);
                stream.write_all(&begun).await?;
                for part in message.chunks(16_384) {
                    stream.write_all(&frame(0, 0, 2 * number + 1, part)).await?;
                }
            }
            std::io::Result::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(2), fills)
            .await
            .ok();
        open.push(stream);
    }
    let mut client = plane.legacy().await;
    for number in 0..20 {
        let name = format!("honest-{number}");
        client.register(by_name(&name)).await.unwrap();
        let beat = legacy::ServiceHeartbeat {
            service_id: name,
            ..Default::default()
        };
        client.heartbeat(beat).await.unwrap();
    }
    plane.end().await;
}

#[tokio::test]
async fn a_request_that_does_not_arrive_whole_is_refused_and_its_connection_lives() {
    let plane = Plane::start().await;
    let mut slow = TcpStream::connect(plane.address).await.unwrap();
    slow.write_all(GREETING).await.unwrap();
    slow.write_all(&call("Register", 1)).await.unwrap();
    let begun = [&[0, 0, 0, 0xff, 0][..], &[b'x'; 100]].concat();
    slow.write_all(&frame(0, 0, 1, &begun)).await.unwrap();
    until_answered(&mut slow).await;
    serves(&plane).await;
    plane.end().await;
}

/// Waits for the answer on stream 1, which is nothing but a status.
async fn until_answered(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream
                .read_exact(&mut head)
                .await
                .expect("it is not closed");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut content = vec![0; length as usize];
            stream.read_exact(&mut content).await.unwrap();
            // Headers that end stream 1.
            if (head[3], head[4] & 1, head[8]) == (1, 1, 1) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered)
        .await
        .unwrap();
}

#[tokio::test]
async fn garbage_of_every_kind_harms_nobody() {
    let plane = Plane::start().await;
    let mut random = proptest::test_runner::TestRng::deterministic_rng(Default::default());
    for length in [1, 8, 9, 100, 5000, 70_000] {
        for greeting in [&b""[..], GREETING, b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = TcpStream::connect(plane.address).await.unwrap();
            let mut garbage = vec![0; length];
            random.fill_bytes(&mut garbage);
            // The server may hang up in the middle of it.
            if stream.write_all(greeting).await.is_ok() {
                stream.write_all(&garbage).await.ok();
            }
        }
    }
    serves(&plane).await;
    plane.end().await;
}

#[tokio::test]
async fn ten_thousand_heartbeats_cost_no_commit_and_no_memory_of_their_own() {
    let plane = Plane::start().await;
    let mut client = plane.legacy().await;
    client.register(by_name("a")).await.unwrap();
    let before = *plane.disk.commits.borrow();
    let mut senders = Vec::new();
    for sender in 0..50 {
        let mut client = plane.legacy().await;
        senders.push(tokio::spawn(async move {
            for number in 0..200 {
                let beat = legacy::ServiceHeartbeat {
                    service_id: "a".to_owned(),
                    timestamp: None,
                    metrics: [(format!("m{}", number % 7), f64::from(sender))].into(),
                };
                client.heartbeat(beat).await.unwrap();
            }
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(*plane.disk.commits.borrow(), before);
    let status = client
        .get_service_status(by_name("a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.metrics.len(), 7);
    plane.end().await;
}

/// Bytes as they are, instead of a message.
#[derive(Clone, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        bytes: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(
        &mut self,
        buffer: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<Vec<u8>>, tonic::Status> {
        use prost::bytes::Buf as _;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Every method that is served, as a path, by the descriptors that reflection hands out.
fn methods() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(wire::DESCRIPTORS)
        .unwrap()
        .file;
    let mut paths = Vec::new();
    for file in &files {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(
                methods.map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                }),
            );
        }
    }
    paths
}

/// One field of a message: any number, any wire type, and a content that may be a message again.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        any::<Vec<u8>>(),
        "[a-z0-9:/.-]{0,30}".prop_map(String::into_bytes),
        Just(b"honest".to_vec()),
    ];
    let leaf = (1u64..20, 0u64..6, any::<u64>(), text).prop_map(|(number, kind, value, text)| {
        let mut bytes = Vec::new();
        let mut varint = |value| prost::encoding::encode_varint(value, &mut bytes);
        varint(number << 3 | kind);
        match kind {
            0 => varint(value),
            2 => varint(text.len() as u64),
            _ => {}
        }
        match kind {
            1 => bytes.extend(value.to_le_bytes()),
            2 => bytes.extend(text),
            5 => bytes.extend(&value.to_le_bytes()[..4]),
            _ => {}
        }
        bytes
    });
    leaf.prop_recursive(3, 24, 6, |inner| {
        (1u64..10, proptest::collection::vec(inner, 0..6)).prop_map(|(number, fields)| {
            let content = fields.concat();
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(number << 3 | 2, &mut bytes);
            prost::encoding::encode_varint(content.len() as u64, &mut bytes);
            bytes.extend(content);
            bytes
        })
    })
}

/// Any message, any bytes, or nothing.
fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(field(), 0..8).prop_map(|fields| fields.concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..300),
        1 => Just(Vec::new()),
    ]
}

/// How many requests each method gets.
fn rounds() -> usize {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

/// Every answer to any request is a good one or a refusal by a code that says whose fault it is.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers_any_message_and_any_bytes_with_a_proper_code() {
    let plane = Plane::start().await;
    let channel = plane.channel().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let methods = methods();
    assert_eq!(methods.len(), 12 + 6 + 1, "{methods:?}");
    let mut answered = 0;
    for path in &methods {
        for _ in 0..rounds() {
            let bytes = request().new_tree(&mut runner).unwrap().current();
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let mut asked = tonic::Request::new(bytes.clone());
            // The gate waits for a component that never comes.
            asked.set_timeout(Duration::from_millis(if path.contains("Wait") {
                5
            } else {
                20_000
            }));
            let answer = client.unary(asked, path.parse().unwrap(), Raw).await;
            match answer.map_err(|status| status.code()) {
                Ok(_) => answered += 1,
                Err(
                    Code::InvalidArgument
                    | Code::NotFound
                    | Code::FailedPrecondition
                    | Code::ResourceExhausted,
                ) => {}
                // Bytes that are no message of this method; tonic's own word for it.
                Err(Code::Internal) => {}
                Err(Code::DeadlineExceeded | Code::Cancelled) if path.contains("Wait") => {}
                Err(code) => panic!("{path} answers {code:?} to {bytes:?}"),
            }
        }
    }
    assert!(answered > methods.len(), "some of it is taken");
    serves(&plane).await;
    plane.end().await;
}

/// Also of the services that are not ours, the first answer of a stream being its answer.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_any_message_and_any_bytes_with_a_proper_code() {
    let plane = Plane::start().await;
    let channel = plane.channel().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let reflection = "ServerReflection/ServerReflectionInfo";
    for path in [
        "/grpc.health.v1.Health/Check".to_owned(),
        "/grpc.health.v1.Health/Watch".to_owned(),
        format!("/grpc.reflection.v1.{reflection}"),
        format!("/grpc.reflection.v1alpha.{reflection}"),
    ] {
        for _ in 0..rounds() {
            let bytes = request().new_tree(&mut runner).unwrap().current();
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let asked = tonic::Request::new(bytes.clone());
            let method = path.parse().unwrap();
            let answer = async {
                let answers = client.server_streaming(asked, method, Raw).await;
                let mut answers = answers?.into_inner();
                answers.message().await
            };
            let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
            match answer.unwrap().map_err(|status| status.code()) {
                Ok(_) => {}
                Err(Code::InvalidArgument | Code::NotFound | Code::Unimplemented) => {}
                // Bytes that are no message of this method; tonic's own word for it.
                Err(Code::Internal) => {}
                Err(code) => panic!("{path} answers {code:?} to {bytes:?}"),
            }
        }
    }
    serves(&plane).await;
    plane.end().await;
}

proptest! {
    #[test]
    fn no_bytes_crash_the_way_from_the_wire_to_the_owner(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        messages(&bytes);
    }

    #[test]
    fn no_changed_byte_of_a_good_request_does_either(
        position in 0usize..1000,
        byte in any::<u8>(),
        cut in 0usize..1000,
    ) {
        let info = legacy::ServiceInfo {
            service_type: 4,
            input_event_types: vec!["i".to_owned()],
            health_endpoint: "http://localhost:8088/health".to_owned(),
            metadata: [("component_id".to_owned(), "c".to_owned())].into(),
            ..by_name("s")
        };
        for good in [component("ttp").encode_to_vec(), info.encode_to_vec()] {
            let mut bytes = good;
            let position = position % bytes.len();
            bytes[position] = byte;
            messages(&bytes);
            bytes.truncate(cut % (bytes.len() + 1));
            messages(&bytes);
        }
    }
}
