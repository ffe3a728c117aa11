//! `flowctl ui` on a real terminal: a pseudo-terminal of `script`, read by an emulator of one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{World, eventually, kill, shell, sleeper, text};

fn size(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

/// A terminal in which a shell script runs.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    emulator: Arc<Mutex<vt100::Parser>>,
    written: Arc<AtomicUsize>,
    raw: Arc<Mutex<Vec<u8>>>,
    tty: String,
}

impl Terminal {
    /// Runs `script` in the world's folder on a terminal of 80 columns and 24 rows.
    fn open(world: &World, script: &str) -> Self {
        let path = world.write(
            "terminal.sh",
            &format!("tty > tty.new; mv tty.new tty; stty rows 24 cols 80; {script}\n"),
        );
        let run = format!("bash {}", path.display());
        fs::remove_file(world.path("tty")).ok();
        // What `World::command` sets is what the program is to be run with.
        let mut flowctl = world.command(&[]);
        let mut command = Command::new("script");
        command.args(["-qfec", &run, "/dev/null"]);
        for (name, value) in flowctl.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let mut running = command
            .env("FLOWCTL", env!("CARGO_BIN_EXE_flowctl"))
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            // A long one would move what is waited for off the screen.
            .env("RUST_BACKTRACE", "0")
            .current_dir(flowctl.get_current_dir().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        flowctl.stdin(Stdio::null());
        let emulator = Arc::new(Mutex::new(vt100::Parser::new(size(24), size(80), 0)));
        let written = Arc::new(AtomicUsize::new(0));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let mut output = running.stdout.take().unwrap();
        let (screen, count, all) = (emulator.clone(), written.clone(), raw.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                screen.lock().unwrap().process(&buffer[..read]);
                all.lock().unwrap().extend_from_slice(&buffer[..read]);
                count.fetch_add(read, Ordering::SeqCst);
            }
        });
        eventually("the terminal is there", || world.path("tty").exists());
        Self {
            keys: running.stdin.take().unwrap(),
            script: running,
            emulator,
            written,
            raw,
            tty: world.read("tty").trim().to_owned(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn shown(&self) -> String {
        self.emulator.lock().unwrap().screen().contents()
    }

    fn is_on_alternate_screen(&self) -> bool {
        self.emulator.lock().unwrap().screen().alternate_screen()
    }

    /// Waits until the terminal shows all of `words`.
    #[track_caller]
    fn until(&self, words: &[&str]) {
        let deadline = Instant::now() + crate::support::PATIENCE;
        loop {
            let shown = self.shown();
            if words.iter().all(|word| shown.contains(word)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "never shown: {words:?}\n{shown}\n---"
            );
            crate::support::pause();
        }
    }

    /// Waits until the terminal shows `word` no more.
    #[track_caller]
    fn until_gone(&self, word: &str) {
        eventually(word, || !self.shown().contains(word));
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.emulator
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(size(rows), size(columns));
        let size = ["rows", &rows.to_string(), "cols", &columns.to_string()];
        let mut stty = Command::new("stty");
        let status = stty.args(["-F", &self.tty]).args(size).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal goes, and whoever is on it is hung up.
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

/// Runs the dashboard, and writes down what it leaves of the terminal.
const RUN: &str = "stty -g > before; bash -c 'echo $$ > pid; exec \"$FLOWCTL\" ui'; \
                   echo $? > code; stty -g > after; echo GIVEN BACK; read line";

fn pid(world: &World) -> u32 {
    world.read("pid").trim().parse().unwrap()
}

/// Asserts that the terminal is as it was before, and answers the exit code.
#[track_caller]
fn given_back(world: &World, terminal: &Terminal) -> String {
    terminal.until(&["GIVEN BACK"]);
    assert!(!terminal.is_on_alternate_screen());
    assert_eq!(world.read("before"), world.read("after"));
    let emulator = terminal.emulator.lock().unwrap();
    assert!(!emulator.screen().hide_cursor());
    drop(emulator);
    world.read("code").trim().to_owned()
}

#[test]
fn all_of_it_is_seen_and_steered_and_the_terminal_is_given_back() {
    let world = World::new();
    let talks = "n=0; while :; do n=$((n+1)); echo word $n; sleep 0.2; done";
    world.apply(&(shell("talks", talks, "") + &sleeper("rests", "")));
    let mut terminal = Terminal::open(&world, RUN);
    terminal.until(&["1 pipeline", "2 of 2 ready", "talks", "rests", "running"]);
    assert!(terminal.is_on_alternate_screen());

    // Both are listed in the order of the data, below their pipeline.
    let row = |id: &str| {
        let shown = terminal.shown();
        shown
            .lines()
            .position(|line| line.trim_start().starts_with(id))
    };
    let below = if row("talks") < row("rests") {
        "j"
    } else {
        "jj"
    };
    terminal.press(&format!("{below}l"));
    terminal.until(&["logs of p/talks", "following", "word 3"]);
    terminal.press("w");
    terminal.until(&["why p/talks", "talks: running", "last lines"]);
    terminal.press("e");
    terminal.until(&["events of p/talks", "started"]);
    terminal.press("g");
    terminal.until(&["graph of p", "rests", "running"]);
    terminal.press("t");
    terminal.until(&["cores", "p/talks", "PROCS"]);
    terminal.press("q");
    terminal.until(&["2 of 2 ready", "COMPONENT"]);

    terminal.press("s");
    terminal.until(&["y/n  stop p/talks (1 replica)?"]);
    terminal.press("n");
    terminal.until(&["nothing was done"]);
    assert_eq!(world.status().phase("talks"), "running");
    terminal.press("sy");
    terminal.until(&["1 of 1 ready", "stopped"]);
    assert_eq!(world.status().phase("talks"), "stopped");
    terminal.press("Sy");
    terminal.until(&["2 of 2 ready"]);

    terminal.press("/rests\r");
    terminal.until(&["filter: rests"]);
    terminal.until_gone("  talks");
    terminal.press("\u{1b}");
    terminal.until(&["  talks"]);
    terminal.resize(10, 40);
    terminal.until(&["rests", "COMPONENT"]);
    terminal.until_gone("RESTARTS");
    terminal.resize(24, 80);
    terminal.until(&["RESTARTS"]);

    // A daemon that ends is told of, and the next one is found.
    world.kill_daemon();
    terminal.until(&["no daemon answers since", "talks"]);
    world.start_daemon();
    terminal.until(&["the daemon answers again"]);
    terminal.until_gone("no daemon answers");
    terminal.press("q");
    assert_eq!(given_back(&world, &terminal), "0");
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let world = World::new();
    world.apply(&(sleeper("a", "") + &sleeper("b", "")));
    let mut terminal = Terminal::open(&world, RUN);
    terminal.until(&["2 of 2 ready"]);
    // Ages of what is well change once a minute: of three looks one sees nothing.
    let quiet = (0..3).any(|_| {
        let before = terminal.written.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(3));
        terminal.written.load(Ordering::SeqCst) == before
    });
    assert!(quiet, "something is written in every 3 seconds");
    terminal.press("q");
    given_back(&world, &terminal);
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    let mut world = World::new();
    let failpoints = world.path("failpoints");
    fs::create_dir(&failpoints).unwrap();
    world.set("FLOWCTL_FAILPOINTS", failpoints.to_str().unwrap());
    world.apply(&sleeper("a", ""));
    for (how, code) in [
        ("TERM", "130"),
        ("HUP", "130"),
        ("INT", "130"),
        ("QUIT", "130"),
        ("a defect", "70"),
    ] {
        let terminal = Terminal::open(&world, RUN);
        terminal.until(&["1 of 1 ready"]);
        if how == "a defect" {
            fs::write(failpoints.join("dashboard-drawn"), "").unwrap();
            // Something to draw.
            terminal.resize(30, 90);
        } else {
            kill(pid(&world), how);
        }
        assert_eq!(given_back(&world, &terminal), code, "{how}");
        if how == "a defect" {
            terminal.until(&["a test wants dashboard-drawn to fail", "this is a bug"]);
        }
    }
}

#[test]
fn a_suspended_dashboard_gives_the_shell_its_terminal_and_comes_back() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let mut terminal = Terminal::open(&world, "exec bash --norc --noprofile -i");
    terminal.press("PS1='prompt> '; stty -g > before; \"$FLOWCTL\" ui\r");
    terminal.until(&["1 of 1 ready"]);
    terminal.press("\u{1a}");
    terminal.until(&["Stopped", "prompt>"]);
    assert!(!terminal.is_on_alternate_screen());
    terminal.press("stty -g > after; echo written\r");
    terminal.until(&["\nwritten"]);
    assert_eq!(world.read("before"), world.read("after"));
    terminal.press("fg; echo back\r");
    terminal.until(&["1 of 1 ready", "COMPONENT"]);
    assert!(terminal.is_on_alternate_screen());
    terminal.press("?");
    terminal.until(&["suspend"]);
    terminal.press("qq");
    // An older prompt is there as soon as the screen is: keys that are pressed then may be lost.
    terminal.until(&["\nback"]);
    terminal.press("stty -g > end; echo done\r");
    terminal.until(&["\ndone"]);
    assert_eq!(world.read("before"), world.read("end"));
}

#[test]
fn what_components_write_does_not_reach_the_terminal_and_a_flood_does_not_drown_keys() {
    let world = World::new();
    let hostile = r"printf '\033]0;owned\007\033[2J\033[31mred\377\n'; sleep 100000";
    let flood =
        "head -c 1000000 /dev/zero | tr '\\0' x; echo; while :; do seq 20000; sleep 0.05; done";
    world.apply(&(shell("hostile", hostile, "") + &shell("flood", flood, "")));
    let mut terminal = Terminal::open(&world, RUN);
    terminal.until(&["2 of 2 ready"]);
    terminal.press(":logs hostile\r");
    terminal.until(&[
        "logs of p/hostile",
        r"\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31mred",
    ]);
    terminal.press(":logs flood\r");
    terminal.until(&["logs of p/flood", "1999"]);
    for _ in 0..3 {
        terminal.press("q");
        terminal.until(&["2 of 2 ready"]);
        terminal.press(":logs p\r");
        terminal.until(&["logs of p", "flood", "following"]);
    }
    terminal.press("qq");
    given_back(&world, &terminal);
    let raw = terminal.raw.lock().unwrap();
    assert!(
        !text(&raw).contains("\u{1b}]0;"),
        "a component set the title"
    );
}

#[test]
fn without_a_daemon_it_says_so_and_finds_the_next_one() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    world.kill_daemon();
    let mut terminal = Terminal::open(&world, RUN);
    terminal.until(&["no daemon runs: nothing is restarted or applied", "  a"]);
    terminal.press("js");
    terminal.until(&["no daemon answers, so nothing can be asked of it"]);
    world.start_daemon();
    terminal.until(&["1 of 1 ready", "daemon 0."]);
    terminal.until_gone("no daemon runs");
    terminal.press("q");
    assert_eq!(given_back(&world, &terminal), "0");
}

#[test]
fn where_there_is_no_terminal_it_says_what_to_do_instead() {
    let world = World::new();
    let said = world.fails(2, &["ui"]);
    assert!(said.contains("`flowctl status` prints the same"), "{said}");
}
