//! Everything at once that a control plane must shrug off, at the real daemon.
//!
//! `FLOWCTL_HEARTBEATS` says how many heartbeats are sent, 50,000 without it.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clients::{Swarm, beat_since, client, component, registration};
use crate::support::{World, eventually, free_ports, is_alive, kill, pause, pipeline, text};

/// What an HTTP/2 client says first.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// A registration of 60 KB whose last bytes never come, on `stream`.
fn unfinished(stream: u32) -> Vec<u8> {
    let path = b"/flowctl.ControlPlane/Register";
    let mut packed = vec![0x83, 0x86, 0x04, path.len() as u8];
    packed.extend(path);
    packed.extend(b"\x01\x01a\x00\x0ccontent-type\x10application/grpc\x00\x02te\x08trailers");
    let mut bytes = frame(1, 4, stream, &packed);
    let message = [&[0, 0, 0, 0xf0, 0][..], &[b'x'; 60_000]].concat();
    for part in message.chunks(16_384) {
        bytes.extend(frame(0, 0, stream, part));
    }
    bytes
}

/// One connection of each kind of attack. The server may hang up on any of them.
fn attack(address: &str, number: u32) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    let written = match number % 5 {
        // Slow to greet, and slow to say what it calls.
        0 => stream.write_all(&GREETING[..15]),
        1 => stream
            .write_all(GREETING)
            .and_then(|()| stream.write_all(&[0, 0x10, 0, 1, 0])),
        // A frame of 16 MB is announced.
        2 => stream
            .write_all(GREETING)
            .and_then(|()| stream.write_all(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]))
            .and_then(|()| stream.write_all(&[b'x'; 60_000])),
        3 => (0..8).try_for_each(|call| {
            let greeting = if call == 0 { GREETING } else { &[] };
            stream.write_all(greeting)?;
            stream.write_all(&unfinished(2 * call + 1))
        }),
        _ => {
            let noise: Vec<u8> = (0..20_000u32)
                .map(|at| (at.wrapping_mul(2_654_435_761) >> (number % 24)) as u8)
                .collect();
            stream.write_all(&noise)
        }
    };
    written.ok().map(|()| stream)
}

/// Half of the heartbeats and 300 broken connections; answers when the last heartbeat was answered.
fn wave(address: &str, heartbeats: u32) -> String {
    let flood = Command::new(client())
        .args(["flood", &(heartbeats / 2).to_string()])
        .env("FLOWCTL_ENDPOINT", address)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let open: Vec<_> = (0..300)
        .filter_map(|number| attack(address, number))
        .collect();
    let output = flood.wait_with_output().unwrap();
    assert!(output.status.success());
    drop(open);
    text(&output.stderr)
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_in(&entry.path()),
        Ok(about) => about.len(),
        // It was replaced meanwhile.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn floods_slow_clients_giant_frames_and_garbage_cost_no_memory_no_store_and_no_restart() {
    let heartbeats = std::env::var("FLOWCTL_HEARTBEATS").map_or(50_000, |text| {
        text.parse().expect("FLOWCTL_HEARTBEATS is a number")
    });
    let world = World::new();
    let ports = free_ports(1);
    let victim = "    - { id: victim, command: [sleep, '1000'], ready_after: 10ms,\n\
                  \x20       restart: { initial_delay: 0s, backoff: fixed, reset_after: 10ms } }\n";
    world.write(
        "p.yaml",
        &pipeline(&(component("honest", &[&client(), "legacy"], ports[0], "") + victim)),
    );
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let status = world.until("it beats", |status| beat_since(status, &["honest"], ""));
    let address = status.0["daemon"]["control_plane"].as_str().unwrap();
    let daemon = status.daemon_pid();
    let honest = status.pid("honest");
    let before = resident(daemon);
    // The second one fills what the first has only begun to: what threads and the allocator keep.
    let said = wave(address, heartbeats) + &wave(address, heartbeats);
    let after_two = resident(daemon);
    let stored = bytes_in(&world.state().join("store"));

    // Meanwhile the owner goes on with its work.
    let over = AtomicBool::new(false);
    let mut waits = Vec::new();
    std::thread::scope(|scope| {
        let third = scope.spawn(|| {
            let said = wave(address, heartbeats);
            over.store(true, Ordering::Relaxed);
            said
        });
        while !over.load(Ordering::Relaxed) || waits.len() < 10 {
            let pid = world.status().pid("victim").unwrap();
            let killed = Instant::now();
            kill(pid, "KILL");
            world.until("it was replaced", |status| {
                status.pid("victim").is_some_and(|next| next != pid)
            });
            waits.push(killed.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        third.join().unwrap()
    });
    let after_three = resident(daemon);
    waits.sort_unstable();
    eprintln!(
        "{said}RSS {before} kB, {after_two} kB after two waves, {after_three} kB after three; store \
         {stored} bytes; {} restarts under attack, each with a whole `status`: p50 {:?}, p99 {:?}, \
         the longest {:?}",
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits.last().unwrap(),
    );
    assert!(is_alive(daemon));
    assert!(after_three < before + 96 * 1024, "what is held is bounded");
    assert!(
        after_three < after_two + 24 * 1024,
        "and nothing of it is kept"
    );
    // Heartbeats are not recorded; each restart is, with its events.
    let restarts = u64::try_from(waits.len()).unwrap();
    let now = bytes_in(&world.state().join("store"));
    let may_grow = (2 << 20) + restarts * 8192;
    assert!(now < stored + may_grow, "{stored} bytes grew to {now}");
    let since = world.status().0["daemon"]["started_at"].clone();
    let after = world.until("the honest one beats on", |status| {
        beat_since(status, &["honest"], since.as_str().unwrap())
    });
    assert_eq!(after.pid("honest"), honest);
    eventually("new clients are served", || {
        pause();
        let listed = world.run(&["status", "--control-plane-address", address]);
        text(&listed.stdout).contains("honest")
    });
}

#[test]
fn more_idle_connections_than_there_are_places_keep_no_component_out() {
    let world = World::new();
    let (go, ports) = (client(), free_ports(2));
    let first = component("first", &[&go, "named"], ports[0], "");
    world.apply(&first);
    let before = world.until("it beats", |status| beat_since(status, &["first"], ""));
    let address = before.0["daemon"]["control_plane"].as_str().unwrap();
    let said = world.path("idle.log");
    let idle = Command::new(&go)
        .args(["idle", "1200"])
        .env("FLOWCTL_ENDPOINT", address)
        .stderr(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let idle = Swarm(idle);
    eventually("all are open", || {
        world.read("idle.log").contains("all open")
    });
    world.apply(&(first + &component("second", &[&go, "legacy"], ports[1], "")));
    let opened = world.status();
    let since = registration(&opened, "first")["last_heartbeat"].clone();
    let after = world.until(
        "the newcomer is heard of, and the other one still",
        |status| {
            beat_since(status, &["second"], "")
                && beat_since(status, &["first"], since.as_str().unwrap())
        },
    );
    assert_eq!(after.pid("first"), before.pid("first"));
    assert!(is_alive(idle.0.id()), "they are held still");
    let log = world.ok(&["logs", "first"]);
    assert!(!log.contains("failed"), "it kept its connection: {log}");
    let remote = world.ok(&["status", "--control-plane-address", address]);
    assert!(
        remote.contains("first") && remote.contains("second"),
        "{remote}"
    );
}
