//! A byte-level proxy before an engine's socket, which makes the engine slow, deaf or a liar.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A world that speaks to the shared engine through a proxy, that engine and the proxy; without an
/// engine the test ends here.
macro_rules! world_with_proxy {
    ($test:literal) => {{
        let Some(engine) = $crate::engine::Engine::shared($test) else {
            return;
        };
        let mut world = $crate::support::World::new();
        let proxy = $crate::proxy::Proxy::before(engine.socket(), world.path("proxy.sock"));
        world.use_engine(&proxy.host());
        (world, engine, proxy)
    }};
}
pub(crate) use world_with_proxy;

/// What becomes of what the engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It arrives as it was said.
    Honest,
    /// Each event arrives twice.
    Stutters,
    /// Each event arrives this much later.
    Dawdles(Duration),
    /// No event arrives.
    Conceals,
    /// Each answer ends after so many bytes, in the midst of a line or of a document.
    Breaks(u64),
    /// Each answer is of the right length, and no JSON.
    Babbles,
    /// Each answer drips, this long for every byte.
    Drips(Duration),
    /// Each question is answered with 500, and the engine never hears it.
    Fails,
    /// The same, but only when it is asked to make a container.
    MakesNothing,
    /// The same, but only when it is asked for a network.
    HidesNetworks,
    /// The same, but only when it is asked to wait for something.
    WaitsForNothing,
    /// The same, but only when it is asked to remove something.
    RemovesNothing,
}

/// The proxy. It ends with the test's process.
pub struct Proxy {
    socket: PathBuf,
    manner: Arc<Mutex<Manner>>,
}

impl Proxy {
    /// Listens on `socket` for the engine that listens on `engine`.
    pub fn before(engine: &Path, socket: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let manner = Arc::new(Mutex::new(Manner::Honest));
        let (engine, now) = (engine.to_owned(), manner.clone());
        std::thread::spawn(move || {
            for ours in listener.incoming().map_while(Result::ok) {
                let Ok(theirs) = UnixStream::connect(&engine) else {
                    continue;
                };
                connect(ours, theirs, &now);
            }
        });
        Self { socket, manner }
    }

    /// `--docker-host` for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Changes the engine's manner, also on connections that are open.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }
}

/// What the two ways of one connection know of each other.
struct Line {
    manner: Arc<Mutex<Manner>>,
    /// Questions that were asked on it.
    asked: AtomicU64,
    /// Whether the latest question was for events, which have the connection for themselves.
    events: AtomicBool,
}

impl Line {
    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }
}

fn connect(ours: UnixStream, theirs: UnixStream, manner: &Arc<Mutex<Manner>>) {
    let line = Arc::new(Line {
        manner: manner.clone(),
        asked: AtomicU64::new(0),
        events: false.into(),
    });
    let (asks, engine) = (ours.try_clone().unwrap(), theirs.try_clone().unwrap());
    let asked = line.clone();
    // An end of either way is the end of both; whoever is left has nothing to be told.
    std::thread::spawn(move || {
        carry_questions(&asked, asks, engine);
    });
    std::thread::spawn(move || {
        carry_answers(&line, &theirs, &ours);
        theirs.shutdown(Shutdown::Both).ok();
        ours.shutdown(Shutdown::Both).ok();
    });
}

fn carry_questions(line: &Line, mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let said = &bytes[..count];
        let begins = ["GET ", "POST ", "DELETE ", "HEAD "];
        if begins.iter().any(|verb| said.starts_with(verb.as_bytes())) {
            line.events
                .store(asks_for(said, b"/events?"), Ordering::Relaxed);
            line.asked.fetch_add(1, Ordering::Relaxed);
        }
        let refused = match line.manner() {
            Manner::Fails => true,
            Manner::MakesNothing => said.starts_with(b"POST ") && asks_for(said, b"/create?"),
            Manner::HidesNetworks => said.starts_with(b"GET ") && asks_for(said, b"/networks/"),
            Manner::WaitsForNothing => said.starts_with(b"POST ") && asks_for(said, b"/wait"),
            Manner::RemovesNothing => said.starts_with(b"DELETE "),
            Manner::Honest
            | Manner::Stutters
            | Manner::Dawdles(_)
            | Manner::Conceals
            | Manner::Breaks(_)
            | Manner::Babbles
            | Manner::Drips(_) => false,
        };
        if refused {
            let body = r#"{"message":"the proxy says no"}"#;
            let answer = format!(
                "HTTP/1.1 500 No\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            from.write_all(answer.as_bytes()).ok();
            break;
        }
        if to.write_all(said).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}

/// Whether the first line of a question has this in it.
fn asks_for(said: &[u8], what: &[u8]) -> bool {
    let first = said.split(|byte| *byte == b'\r').next().unwrap();
    first.windows(what.len()).any(|word| word == what)
}

fn carry_answers(line: &Line, mut from: &UnixStream, mut to: &UnixStream) {
    let mut bytes = [0; 16_384];
    let (mut of, mut told) = (0, 0);
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let said = &mut bytes[..count];
        let asked = line.asked.load(Ordering::Relaxed);
        if asked != of {
            (of, told) = (asked, 0);
        }
        let events = line.events.load(Ordering::Relaxed);
        // The engine sends each event as whole chunks, after the head.
        let is_event = events && !said.starts_with(b"HTTP/");
        let carried = match line.manner() {
            Manner::Honest => to.write_all(said),
            Manner::Stutters if is_event => to.write_all(said).and_then(|()| to.write_all(said)),
            Manner::Dawdles(late) if is_event => {
                std::thread::sleep(late);
                to.write_all(said)
            }
            Manner::Conceals if is_event => Ok(()),
            Manner::Stutters | Manner::Dawdles(_) | Manner::Conceals => to.write_all(said),
            Manner::Breaks(after) => {
                let left = usize::try_from(after.saturating_sub(told)).unwrap();
                let left = left.min(count);
                match to.write_all(&said[..left]) {
                    Ok(()) if left == count => Ok(()),
                    Ok(()) | Err(_) => return,
                }
            }
            Manner::Babbles => {
                babble(said);
                to.write_all(said)
            }
            Manner::Drips(pause) => said.iter().try_for_each(|byte| {
                // Whoever waits for the end of the drip would wait for minutes.
                if matches!(line.manner(), Manner::Drips(_)) {
                    std::thread::sleep(pause);
                }
                to.write_all(&[*byte])
            }),
            // The question was asked before the engine began to fail.
            Manner::Fails
            | Manner::MakesNothing
            | Manner::HidesNetworks
            | Manner::WaitsForNothing
            | Manner::RemovesNothing => to.write_all(said),
        };
        if carried.is_err() {
            return;
        }
        told += count as u64;
    }
}

/// Makes nonsense of the documents in `said` and leaves heads and lengths as they are.
fn babble(said: &mut [u8]) {
    let begins = said.windows(4).position(|end| end == b"\r\n\r\n");
    let body = begins.map_or(0, |at| at + 4);
    for byte in &mut said[body..] {
        if matches!(byte, b'{' | b'[' | b'"') {
            *byte = b'?';
        }
    }
}
