//! `flowctl run`: in the foreground, leaving nothing behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::engine::{container, resting, unique, world_with_engine};
use crate::proxy::{Manner, world_with_proxy};
use crate::support::{
    Status, World, end_of, eventually, is_alive, kill, pipeline, reap_later, shell, sleeper,
};

/// Begins a run with its output in `out`.
fn begin(world: &World, file: &str) -> Child {
    begin_as(world, world.command(&["run", file]))
}

/// The same, of a command that is a run.
fn begin_as(world: &World, mut run: Command) -> Child {
    let out = File::create(world.path("out")).unwrap();
    let errors = out.try_clone().unwrap();
    run.stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .unwrap()
}

/// `run p.yaml` by way of another program, which runs what it is given.
fn by_way_of(world: &World, words: &[&str]) -> Command {
    let run = world.command(&["run", "p.yaml"]);
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg(run.get_program())
        .args(run.get_args())
        .envs(variables_of(&run))
        .current_dir(world.path(""));
    command
}

/// The variables that a command sets.
fn variables_of(command: &Command) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    let set = command.get_envs();
    set.filter_map(|(name, value)| Some((name, value?)))
}

/// Begins a program as a terminal does, also where the tests themselves run under `nohup`.
const WITH_HANGUP: [&str; 2] = ["env", "--default-signal=HUP"];

/// Waits until the run that writes to `out` has started everything.
fn until_up(world: &World) {
    eventually("it is up", || {
        world.read("out").contains("Pipeline started successfully")
    });
}

/// Kills a run, which leaves what it ran.
fn kill_at_once(run: Child) {
    let pid = run.id();
    kill(pid, "KILL");
    reap_later(run);
    eventually("it is gone", || !is_alive(pid));
}

fn two() -> String {
    pipeline(&(sleeper("a", "") + &sleeper("b", ", depends_on: [a]")))
}

/// One that is asked to stop makes `asked`, and ends once there is `go`.
fn stubborn() -> String {
    let stubborn = "trap ': > asked' TERM; while [ ! -e go ]; do sleep 0.1; done";
    pipeline(&shell("a", stubborn, ", stop: { grace_period: 10m }"))
}

/// The lines of `out` that begin with one of the words of the run itself.
fn told(world: &World) -> Vec<String> {
    let words = ["Starting", "Component", "Pipeline", "Received", "Stopping"];
    let out = world.read("out");
    let lines = out
        .lines()
        .filter(|line| words.iter().any(|word| line.starts_with(word)));
    lines.map(str::to_owned).collect()
}

#[test]
fn run_starts_in_order_and_ctrl_c_stops_in_reverse_and_leaves_nothing() {
    let world = World::new();
    world.save("p.yaml", &two());
    let mut run = begin(&world, "p.yaml");
    until_up(&world);
    let status = world.status();
    assert_eq!(status.phase("b"), "running", "status answers while it runs");
    kill(run.id(), "INT");
    assert_eq!(end_of(&mut run), Some(0));
    assert_eq!(
        told(&world),
        [
            "Starting pipeline: p",
            "Starting component: a",
            "Component a health check passed",
            "Starting component: b",
            "Component b health check passed",
            "Pipeline started successfully",
            "Received shutdown signal",
            "Stopping component: b",
            "Stopping component: a",
            "Pipeline stopped successfully",
        ]
    );
    assert_eq!(world.marked(), [] as [u32; 0]);
}

#[test]
fn what_components_write_is_shown_with_their_names() {
    let world = World::new();
    world.save(
        "p.yaml",
        &pipeline(&shell("a", "echo hello there; exec sleep 1000", "")),
    );
    let mut run = begin(&world, "p.yaml");
    eventually("its line shows", || {
        world.read("out").contains("a | hello there")
    });
    kill(run.id(), "TERM");
    assert_eq!(end_of(&mut run), Some(0));
}

/// Begins a run whose output goes into a pipe that nobody reads.
fn begin_before_a_paused_reader(world: &World) -> (Child, ChildStdout) {
    let mut command = world.command(&["run", "p.yaml"]);
    let errors = File::create(world.path("out")).unwrap();
    let mut run = command
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .unwrap();
    let output = run.stdout.take().unwrap();
    eventually("its pipe is full", || {
        // All but the rest of each page, in which no line fitted.
        rustix::io::ioctl_fionread(&output).unwrap() > 60_000
    });
    (run, output)
}

#[test]
fn a_paused_reader_keeps_no_run_from_ending() {
    let world = World::new();
    let noise = "seq -f %0100.0f 20000; : > written; exec sleep 100000";
    world.save("p.yaml", &pipeline(&shell("a", noise, "")));
    let (mut run, output) = begin_before_a_paused_reader(&world);
    eventually("more is written than is shown", || {
        world.path("written").exists()
    });
    kill(run.id(), "TERM");
    assert_eq!(end_of(&mut run), Some(0), "{}", world.read("out"));
    assert_eq!(world.marked(), [] as [u32; 0]);
    drop(output);
}

#[test]
fn a_slow_reader_gets_all_that_a_run_told_which_ends_by_itself() {
    let world = World::new();
    let noise = "seq -f %0200.0f 800; : > written";
    world.save(
        "p.yaml",
        &pipeline(&shell("a", noise, ", restart_policy: never")),
    );
    let (mut run, mut output) = begin_before_a_paused_reader(&world);
    eventually("the pipeline is over", || {
        let said = world.run(&["status", "-o", "json"]).stdout;
        let status = serde_json::from_slice(&said).map(Status);
        world.path("written").exists() && status.is_ok_and(|status| !status.has_daemon())
    });
    let mut shown = String::new();
    output.read_to_string(&mut shown).unwrap();
    assert_eq!(end_of(&mut run), Some(0), "{}", world.read("out"));
    let lines = shown.lines().filter(|line| line.starts_with("a | 0"));
    assert_eq!(lines.count(), 800);
    assert!(
        shown.ends_with("Pipeline stopped successfully\n"),
        "{shown}"
    );
}

#[test]
fn closing_the_terminal_stops_everything() {
    let world = World::new();
    let bye = "trap ': > bye; exit 0' TERM; while :; do sleep 0.1; done";
    world.save("p.yaml", &pipeline(&shell("a", bye, "")));
    // A terminal of the run's own, of which it is the only process.
    let run = by_way_of(&world, &WITH_HANGUP);
    let words = [run.get_program()].into_iter().chain(run.get_args());
    let words: Vec<_> = words.filter_map(OsStr::to_str).collect();
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &format!("exec {}", words.join(" ")), "typescript"])
        .envs(variables_of(&run))
        .current_dir(world.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut terminal = terminal.spawn().unwrap();
    eventually("it is up", || {
        let said = world.run(&["status", "-o", "json"]).stdout;
        let status = serde_json::from_slice(&said).map(Status);
        status.is_ok_and(|status| status.has_daemon() && status.settled())
    });
    let pid = world.status().daemon_pid();
    kill(terminal.id(), "KILL");
    terminal.wait().unwrap();
    eventually("the run ends", || !is_alive(pid));
    assert!(world.path("bye").exists(), "it had its grace");
    assert_eq!(world.marked(), [] as [u32; 0]);
}

#[test]
fn a_hangup_that_is_told_twice_kills_nothing() {
    let world = World::new();
    world.save("p.yaml", &stubborn());
    let mut run = begin_as(&world, by_way_of(&world, &WITH_HANGUP));
    until_up(&world);
    kill(run.id(), "HUP");
    eventually("it is stopping", || world.path("asked").exists());
    kill(run.id(), "HUP");
    assert_eq!(world.status().phase("a"), "stopping");
    world.write("go", "");
    assert_eq!(end_of(&mut run), Some(0), "{}", world.read("out"));
}

#[test]
fn a_run_under_nohup_survives_its_terminal() {
    let world = World::new();
    world.save("p.yaml", &two());
    let mut run = begin_as(&world, by_way_of(&world, &["env", "--ignore-signal=HUP"]));
    until_up(&world);
    kill(run.id(), "HUP");
    assert_eq!(world.status().phase("b"), "running");
    assert!(!world.read("out").contains("Received shutdown signal"));
    kill(run.id(), "INT");
    assert_eq!(end_of(&mut run), Some(0), "{}", world.read("out"));
}

#[test]
fn when_one_fails_to_start_all_that_was_started_is_stopped() {
    let world = World::new();
    // Ready only long after it has ended.
    let b = shell("b", "echo no luck; exit 9", ", depends_on: [a]").replace("50ms", "30s");
    let components = sleeper("a", "") + &b;
    world.save("p.yaml", &pipeline(&components));
    let mut run = begin(&world, "p.yaml");
    assert_eq!(end_of(&mut run), Some(8));
    let out = world.read("out");
    assert!(out.contains("b failed to start: exit 9"), "{out}");
    assert!(
        out.contains("no luck") && out.contains("Stopping component: a"),
        "{out}"
    );
    assert_eq!(world.marked(), [] as [u32; 0]);
}

#[test]
fn a_run_of_components_that_complete_ends_by_itself() {
    let world = World::new();
    let once = ", restart_policy: never";
    world.save("p.yaml", &pipeline(&shell("a", "echo done", once)));
    let mut run = begin(&world, "p.yaml");
    assert_eq!(end_of(&mut run), Some(0));
    assert!(
        world.read("out").contains("Component a completed"),
        "{}",
        world.read("out")
    );
}

#[test]
fn a_second_ctrl_c_kills_at_once() {
    let world = World::new();
    let stubborn = "trap '' TERM INT; while :; do sleep 0.1; done";
    let components = shell("a", stubborn, ", stop: { grace_period: 60s }");
    world.save("p.yaml", &pipeline(&components));
    let mut run = begin(&world, "p.yaml");
    until_up(&world);
    kill(run.id(), "INT");
    eventually("it is stopping", || {
        world.read("out").contains("Stopping component: a")
    });
    kill(run.id(), "INT");
    assert_eq!(end_of(&mut run), Some(130));
    assert_eq!(world.marked(), [] as [u32; 0]);
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_grace_of_a_container() {
    let (world, engine) = world_with_engine!("a_second_ctrl_c_does_not_wait_…");
    let id = unique("stubborn");
    let stubborn = "trap '' TERM INT; while :; do sleep 0.1; done";
    let components = container(&id, stubborn, ", stop: { grace_period: 10m }");
    world.save("p.yaml", &pipeline(&components));
    let mut run = begin(&world, "p.yaml");
    until_up(&world);
    kill(run.id(), "INT");
    eventually("it is stopping", || {
        world.read("out").contains("Stopping component")
    });
    kill(run.id(), "INT");
    assert_eq!(end_of(&mut run), Some(130), "{}", world.read("out"));
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}

#[test]
fn a_third_ctrl_c_ends_a_run_whose_engine_is_away_and_the_next_run_ends_what_is_left() {
    let (world, engine, proxy) = world_with_proxy!("a_third_ctrl_c_ends_a_run_…");
    let id = unique("boxed");
    world.save("p.yaml", &pipeline(&resting(&id, "")));
    let mut run = begin(&world, "p.yaml");
    until_up(&world);
    proxy.behave(Manner::Fails);
    world.until("its engine is away", |status| {
        status.phase(&id) == "unknown"
    });
    let after = ["Received shutdown signal", "Killing everything"];
    for said in after {
        kill(run.id(), "INT");
        eventually("it tells what it does", || world.read("out").contains(said));
    }
    kill(run.id(), "INT");
    assert_eq!(end_of(&mut run), Some(130), "{}", world.read("out"));
    let out = world.read("out");
    let left = format!("interrupted; this is left behind:\n  {id}: ");
    assert!(out.contains(&left) && out.contains("flowctl down"), "{out}");
    let left = engine.containers(&world);
    assert_eq!(left.len(), 1);
    proxy.behave(Manner::Honest);
    let mut next = begin(&world, "p.yaml");
    until_up(&world);
    let out = world.read("out");
    assert!(
        out.contains("Ending what an earlier run left behind"),
        "{out}"
    );
    assert_ne!(engine.containers(&world), left);
    kill(next.id(), "INT");
    assert_eq!(end_of(&mut next), Some(0), "{}", world.read("out"));
    assert_eq!(engine.containers(&world), Vec::<String>::new());
}

#[test]
fn what_a_killed_run_left_behind_is_ended_by_the_next() {
    let world = World::new();
    world.save("p.yaml", &two());
    let run = begin(&world, "p.yaml");
    until_up(&world);
    let left = world.marked();
    kill_at_once(run);
    assert_eq!(world.marked(), left, "its components run on");
    let mut next = begin(&world, "p.yaml");
    until_up(&world);
    assert!(
        world
            .read("out")
            .contains("Ending what an earlier run left behind")
    );
    assert!(left.iter().all(|pid| !is_alive(*pid)));
    kill(next.id(), "INT");
    assert_eq!(end_of(&mut next), Some(0));
    assert_eq!(world.marked(), [] as [u32; 0]);
}

#[test]
fn ctrl_c_ends_a_run_whose_leftovers_do_not_end() {
    let world = World::new();
    world.save("p.yaml", &stubborn());
    let run = begin(&world, "p.yaml");
    until_up(&world);
    kill_at_once(run);
    for signal in ["INT", "TERM"] {
        let mut next = begin(&world, "p.yaml");
        eventually("it waits for the leftovers", || {
            world.path("asked").exists() && world.read("out").contains("an earlier run left behind")
        });
        kill(next.id(), signal);
        assert_eq!(end_of(&mut next), Some(130), "{}", world.read("out"));
        let out = world.read("out");
        // It is stopping, or not looked at yet.
        let left = ["stopping", "unknown"]
            .map(|phase| format!("interrupted; this is left behind:\n  a: {phase}"));
        assert!(left.iter().any(|left| out.contains(left)), "{out}");
    }
    world.write("go", "");
    eventually("what was left ends", || world.marked().is_empty());
    world.save("p.yaml", &two());
    let mut last = begin(&world, "p.yaml");
    until_up(&world);
    kill(last.id(), "INT");
    assert_eq!(end_of(&mut last), Some(0), "{}", world.read("out"));
}

#[test]
fn a_run_does_not_touch_the_pipelines_of_a_daemon() {
    let world = World::new();
    world.apply(&sleeper("a", ""));
    let before = world.status();
    world.fails(7, &["run", "p.yaml"]);
    kill(before.daemon_pid(), "TERM");
    eventually("the daemon ended", || !is_alive(before.daemon_pid()));
    world.fails(7, &["run", "p.yaml"]);
    assert!(is_alive(before.pid("a").unwrap()));
}

#[test]
fn a_down_from_elsewhere_ends_a_run() {
    let world = World::new();
    world.save("p.yaml", &two());
    let mut run = begin(&world, "p.yaml");
    until_up(&world);
    world.ok(&["down"]);
    assert_eq!(end_of(&mut run), Some(0), "{}", world.read("out"));
    assert!(world.marked().is_empty());
}

#[test]
fn what_a_daemon_took_over_from_a_killed_run_is_the_daemons() {
    let world = World::new();
    world.save("p.yaml", &two());
    let run = begin(&world, "p.yaml");
    until_up(&world);
    let left = world.marked();
    kill_at_once(run);
    world.ok(&["apply", "-f", "p.yaml", "--wait"]);
    let daemon = world.status().daemon_pid();
    kill(daemon, "TERM");
    eventually("the daemon ended", || !is_alive(daemon));
    let mut next = begin(&world, "p.yaml");
    assert_eq!(end_of(&mut next), Some(7), "{}", world.read("out"));
    assert_eq!(world.marked(), left);
}

#[test]
fn run_shows_and_removes_only_its_own_lines() {
    let world = World::new();
    world.write("word", "old");
    let script = "cat word; echo; exec sleep 1000";
    world.apply(&shell("a", script, ""));
    world.ok(&["down"]);
    let kept = || fs::read_dir(world.state().join("logs")).is_ok();
    assert!(kept());
    world.write("word", "new");
    let mut run = begin(&world, "p.yaml");
    eventually("its line shows", || world.read("out").contains("a | new"));
    kill(run.id(), "INT");
    assert_eq!(end_of(&mut run), Some(0));
    assert!(!world.read("out").contains("old"), "{}", world.read("out"));
    assert!(kept(), "what the daemon had kept stays");
}
