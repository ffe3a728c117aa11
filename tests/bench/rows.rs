//! The rows of the table: what is measured, and how.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::runner::{Kind, Runner};
use crate::table::Cell;
use crate::world::{Beat, Component, PATIENCE, Task, World, millis, now, sleepers};
use crate::{Effort, Result, containers, control, proc};

/// One row, or a few that are measured together.
pub struct Row {
    /// Its name on the command line.
    pub key: &'static str,
    /// What it measures.
    pub title: &'static str,
    /// Who takes part beside flowctl.
    others: &'static [Kind],
    /// Measures it.
    pub measure: fn(&mut dyn Runner, &mut World, Effort) -> Result<Vec<Cell>>,
}

impl Row {
    /// Whether `kind` takes part.
    pub fn applies_to(&self, kind: Kind) -> bool {
        kind == Kind::Flowctl || self.others.contains(&kind)
    }
}

const ALL: &[Kind] = &[Kind::Limit, Kind::Rival];
const RIVALS: &[Kind] = &[Kind::Rival];

/// Every row, in the order of the table.
pub const ROWS: [Row; 24] = [
    Row {
        key: "crash",
        title: "a component is killed, until it runs again",
        others: ALL,
        measure: crash,
    },
    Row {
        key: "start-100",
        title: "100 components, from nothing to all running",
        others: ALL,
        measure: |runner, world, effort| start(runner, world, effort, 100, "60"),
    },
    Row {
        key: "start-500",
        title: "500 components, from nothing to all running",
        others: ALL,
        measure: |runner, world, effort| start(runner, world, effort, 500, "200"),
    },
    Row {
        key: "edit",
        title: "one of 500 is edited, until the new one runs",
        others: RIVALS,
        measure: edit,
    },
    Row {
        key: "status-500",
        title: "`status` of 500, the whole command",
        others: RIVALS,
        measure: |runner, world, effort| status(runner, world, effort, 500, "10"),
    },
    Row {
        key: "status-1000",
        title: "`status` of 1,000, the whole command",
        others: RIVALS,
        measure: |runner, world, effort| status(runner, world, effort, 1000, "15"),
    },
    Row {
        key: "no-op",
        title: "`apply` of 1,000 that changes nothing, the whole command",
        others: &[],
        measure: no_op,
    },
    Row {
        key: "idle",
        title: "500 idle components: the supervisor's memory and processor",
        others: RIVALS,
        measure: idle,
    },
    Row {
        key: "idle-told",
        title: "500 idle components, with metrics and notifications: memory and processor",
        others: &[],
        measure: idle_told,
    },
    Row {
        key: "scrape",
        title: "a scrape of 1,000 components: how long, and how much",
        others: &[],
        measure: scrape,
    },
    Row {
        key: "usage",
        title: "what 500 components use is sampled each 10 s: processor of one sample",
        others: &[],
        measure: usage,
    },
    Row {
        key: "probed",
        title: "500 components with an HTTP probe each 10 s: processor",
        others: &[],
        measure: probed,
    },
    Row {
        key: "ready",
        title: "a component that answers 50 ms after its start, until it is known to be ready",
        others: &[],
        measure: ready,
    },
    Row {
        key: "looping",
        title: "100 components that crash at once, again and again: processor",
        others: &[],
        measure: looping,
    },
    Row {
        key: "guardian",
        title: "each further component: memory and wake-ups of what guards it",
        others: &[],
        measure: guardian,
    },
    Row {
        key: "killed",
        title: "kill -9 of the supervisor of 500, started again",
        others: RIVALS,
        measure: killed,
    },
    Row {
        key: "logs",
        title: "one component writes as fast as it can",
        others: RIVALS,
        measure: logs,
    },
    Row {
        key: "heartbeats",
        title: "10,000 heartbeats a second to the control plane, on one core",
        others: &[],
        measure: control::heartbeats,
    },
    Row {
        key: "register",
        title: "components register with the control plane, one after the other",
        others: &[],
        measure: control::registrations,
    },
    Row {
        key: "flood",
        title: "a million heartbeats at once, while a component is killed",
        others: &[],
        measure: control::flood,
    },
    Row {
        key: "tail",
        title: "the last 100 lines of 1 GB of output, the whole command",
        others: &[],
        measure: tail,
    },
    Row {
        key: "start-containers",
        title: "30 containers, from nothing to all running",
        others: &[],
        measure: containers::start,
    },
    Row {
        key: "edit-container",
        title: "one of 30 containers is edited, until the new one runs",
        others: &[],
        measure: containers::edit,
    },
    Row {
        key: "resync",
        title: "a full look at 300 running containers",
        others: &[],
        measure: containers::resync,
    },
];

fn crash(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let rounds = effort.rounds(300, 30);
    // A supervisor that looks once a second gets fewer rounds; its spread shows all the same.
    let enough = Instant::now() + PATIENCE / 3;
    let components = sleepers(1);
    runner.fresh(world)?;
    runner.apply(world, &components)?;
    let mut pid = only(world.wait_for(1)?)?.pid;
    let mut cell = Cell::new("killed until it runs again", "ms", Some("2 / 6"));
    for round in 0..rounds {
        if Instant::now() > enough {
            break;
        }
        // Not in step with anything that ticks.
        std::thread::sleep(Duration::from_millis(20 + (round as u64 * 37) % 50));
        let killed_at = now();
        proc::kill(pid);
        if runner.kind() == Kind::Limit {
            runner.edit(world, &components, 0)?;
        }
        let beat = only(world.wait_for(1)?)?;
        cell.add(millis(killed_at, beat.at));
        pid = beat.pid;
    }
    Ok(vec![cell])
}

fn only(beats: Vec<Beat>) -> Result<Beat> {
    match <[Beat; 1]>::try_from(beats) {
        Ok([beat]) => Ok(beat),
        Err(beats) => Err(format!("{} components started instead of 1", beats.len()).into()),
    }
}

fn start(
    runner: &mut dyn Runner,
    world: &mut World,
    effort: Effort,
    count: usize,
    goal: &'static str,
) -> Result<Vec<Cell>> {
    let mut cell = Cell::new(format!("{count} from nothing to running"), "ms", Some(goal));
    for _ in 0..effort.rounds(10, 2) {
        runner.fresh(world)?;
        let handed_over = runner.apply(world, &sleepers(count))?;
        let beats = world.wait_for(count)?;
        let last = beats.iter().map(|beat| beat.at).max().unwrap_or_default();
        cell.add(millis(handed_over, last));
        runner.down()?;
        world.sweep();
    }
    Ok(vec![cell])
}

/// Runs `components` and waits until the supervisor has seen them all.
fn settle(
    runner: &mut dyn Runner,
    world: &mut World,
    components: &[Component],
) -> Result<Vec<Beat>> {
    runner.fresh(world)?;
    runner.apply(world, components)?;
    let beats = world.wait_for(components.len())?;
    let deadline = Instant::now() + PATIENCE;
    while runner.running()?.len() < components.len() {
        if Instant::now() > deadline {
            return Err("they started, but its status does not say that they run".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(beats)
}

fn edit(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let mut components = sleepers(500);
    settle(runner, world, &components)?;
    let mut cell = Cell::new("one of 500 edited until it runs", "ms", Some("20"));
    let mut others = Cell::new("  others restarted by that", "", Some("0"));
    let enough = Instant::now() + PATIENCE;
    for round in 0..effort.rounds(40, 5) {
        if Instant::now() > enough {
            break;
        }
        let changed = (round * 137 + 11) % components.len();
        components[changed].tag += 1;
        let wanted = components[changed].name();
        let handed_over = runner.edit(world, &components, changed)?;
        let mut beats = Vec::new();
        let new = loop {
            beats.extend(world.wait_for(1)?);
            if let Some(new) = beats.iter().find(|beat| beat.name == wanted) {
                break new.at;
            }
        };
        cell.add(millis(handed_over, new));
        // Time for what should not happen.
        std::thread::sleep(Duration::from_millis(150));
        beats.extend(world.beats()?);
        others.add(beats.len() as f64 - 1.0);
    }
    Ok(vec![cell, others])
}

fn status(
    runner: &mut dyn Runner,
    world: &mut World,
    effort: Effort,
    count: usize,
    goal: &'static str,
) -> Result<Vec<Cell>> {
    settle(runner, world, &sleepers(count))?;
    let mut cell = Cell::new(format!("status of {count}"), "ms", Some(goal));
    for _ in 0..effort.rounds(30, 5) {
        let before = now();
        runner.status()?;
        cell.add(millis(before, now()));
    }
    Ok(vec![cell])
}

fn no_op(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let components = sleepers(1000);
    settle(runner, world, &components)?;
    let mut cell = Cell::new("apply of 1000 that changes nothing", "ms", Some("50"));
    for _ in 0..effort.rounds(30, 5) {
        // The file is written again, so this is also what a rewrite of the same content costs.
        let before = runner.apply(world, &components)?;
        cell.add(millis(before, now()));
    }
    let started = world.beats()?.len();
    if started > 0 {
        cell.remark(format!("{started} components restarted"));
    }
    Ok(vec![cell])
}

/// The supervisor's share of one core over a while, in percent, once per sample.
fn processor(runner: &dyn Runner, effort: Effort, cell: &mut Cell) -> Result<()> {
    // What follows a start (ready after 1 s, early probes) has to be over.
    std::thread::sleep(Duration::from_secs(effort.rounds(15, 5) as u64));
    let pid = runner.supervisor()?;
    for _ in 0..effort.rounds(3, 1) {
        let (since, spent) = (now(), proc::processor_time(pid)?);
        std::thread::sleep(Duration::from_secs(effort.rounds(20, 10) as u64));
        let spent = proc::processor_time(pid)? - spent;
        cell.add(spent as f64 / 1e6 / millis(since, now()) * 100.0);
    }
    Ok(())
}

fn idle(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    settle(runner, world, &sleepers(500))?;
    let mut memory = Cell::new("500 idle: resident memory", "MB", Some("25"));
    let mut share = Cell::new("500 idle: processor", "%", Some("0.05"));
    processor(runner, effort, &mut share)?;
    memory.add(f64::from(proc::resident(runner.supervisor()?)?) * 1024.0 / 1e6);
    Ok(vec![memory, share])
}

fn idle_told(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let receiver = receiver()?;
    let file = world.dir().join("notify.yaml");
    let url = format!("http://127.0.0.1:{receiver}/");
    let targets = format!(
        "- {{ name: all, to: {{ webhook: {{ url: \"{url}\" }} }} }}\n\
         - {{ name: dead-man, heartbeat: {{ url: \"{url}\", every: 1m }} }}\n"
    );
    std::fs::write(&file, targets)?;
    runner.set(vec![
        (
            "FLOWCTL_METRICS_ADDRESS",
            format!("127.0.0.1:{}", only_port()?),
        ),
        ("FLOWCTL_NOTIFY", file.display().to_string()),
    ])?;
    let settled = settle(runner, world, &sleepers(500));
    runner.set(Vec::new())?;
    settled?;
    let mut share = Cell::new("500 idle, told of: processor", "%", Some("0.05"));
    processor(runner, effort, &mut share)?;
    let mut scraped = Cell::new("  and scraped each 15 s: processor", "%", None);
    let pid = runner.supervisor()?;
    for _ in 0..effort.rounds(3, 1) {
        let (since, spent) = (now(), proc::processor_time(pid)?);
        for _ in 0..2 {
            runner.scrape()?;
            std::thread::sleep(Duration::from_secs(15));
        }
        let spent = proc::processor_time(pid)? - spent;
        scraped.add(spent as f64 / 1e6 / millis(since, now()) * 100.0);
    }
    let mut memory = Cell::new("  and then: resident memory", "MB", Some("25"));
    memory.add(f64::from(proc::resident(pid)?) * 1024.0 / 1e6);
    Ok(vec![share, scraped, memory])
}

/// The port of a receiver of messages that takes whatever comes.
fn receiver() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let read = stream.read(&mut request);
            let taken = read.and_then(|_| stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
            if let Err(error) = taken {
                eprintln!("a message could not be taken: {error}");
            }
        }
    });
    Ok(port)
}

fn scrape(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    settle(runner, world, &sleepers(1000))?;
    let mut took = Cell::new("scrape of 1000", "ms", Some("30"));
    let mut size = Cell::new("  its text", "MB", Some("5"));
    // The first one waits for a sample of what they use, which later ones find.
    runner.scrape()?;
    for _ in 0..effort.rounds(8, 2) {
        // By then, what they have written is looked at anew.
        std::thread::sleep(Duration::from_secs(11));
        let before = now();
        let text = runner.scrape()?;
        took.add(millis(before, now()));
        size.add(text.len() as f64 / 1e6);
    }
    Ok(vec![took, size])
}

fn usage(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    settle(runner, world, &sleepers(500))?;
    let mut cell = Cell::new("500 sampled: processor", "ms", Some("15"));
    let pid = runner.supervisor()?;
    let spend = || -> Result<i64> {
        let before = proc::processor_time(pid)?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(proc::processor_time(pid)? - before)
    };
    std::thread::sleep(Duration::from_secs(effort.rounds(15, 5) as u64));
    let idle = spend()?;
    for _ in 0..effort.rounds(3, 1) {
        runner.scrape()?;
        std::thread::sleep(Duration::from_secs(1));
        // In 20 s there are two of them.
        cell.add((spend()? - idle) as f64 / 1e6 / 2.0);
    }
    Ok(vec![cell])
}

fn probed(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let mut components = sleepers(500);
    for (component, port) in components.iter_mut().zip(free_ports(500)?) {
        component.task = Task::Serve(port);
    }
    settle(runner, world, &components)?;
    let mut share = Cell::new("500 probed each 10 s: processor", "%", Some("2"));
    processor(runner, effort, &mut share)?;
    Ok(vec![share])
}

fn ready(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let mut cell = Cell::new("started until known to be ready", "ms", Some("120"));
    let mut components = sleepers(1);
    components[0].task = Task::ServeLate(only_port()?);
    runner.fresh(world)?;
    runner.apply(world, &components)?;
    for _ in 0..effort.rounds(30, 5) {
        let beat = only(world.wait_for(1)?)?;
        cell.add(millis(beat.at, runner.ready_at()?));
        components[0].tag += 1;
        components[0].task = Task::ServeLate(only_port()?);
        runner.edit(world, &components, 0)?;
    }
    Ok(vec![cell])
}

fn only_port() -> Result<u16> {
    Ok(free_ports(1)?[0])
}

fn looping(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let mut components = sleepers(100);
    for component in &mut components {
        component.task = Task::Crash;
    }
    let mut share = Cell::new("100 that crash at once: processor", "%", Some("20"));
    runner.fresh(world)?;
    // From the first start on, when the delays are shortest.
    let pid = runner.supervisor()?;
    let spent = proc::processor_time(pid)?;
    let since = runner.apply(world, &components)?;
    std::thread::sleep(Duration::from_secs(effort.rounds(60, 15) as u64));
    let spent = proc::processor_time(pid)? - spent;
    share.add(spent as f64 / 1e6 / millis(since, now()) * 100.0);
    Ok(vec![share])
}

fn tail(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let mut components = sleepers(1);
    components[0].task = Task::SpewToKeep(1_000_000_000);
    runner.fresh(world)?;
    runner.apply(world, &components)?;
    world.wait_for(2)?;
    // What it wrote last may still be on its way.
    std::thread::sleep(Duration::from_secs(1));
    let mut cell = Cell::new("last 100 lines of 1 GB", "ms", Some("50"));
    for _ in 0..effort.rounds(30, 5) {
        let before = now();
        runner.tail("c0", 100)?;
        cell.add(millis(before, now()));
    }
    Ok(vec![cell])
}

/// Ports that nobody uses now, all held until all are known.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| std::net::TcpListener::bind(("127.0.0.1", 0)))
        .collect::<std::io::Result<Vec<_>>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

fn guardian(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let beats = settle(runner, world, &sleepers(500))?;
    std::thread::sleep(Duration::from_secs(effort.rounds(10, 3) as u64));
    let pids: Vec<u32> = beats.iter().map(|beat| beat.pid).collect();
    let mut guardians = proc::parents(&pids)?;
    guardians.remove(&runner.supervisor()?);
    let mut private = Cell::new("guardian of one: private memory", "KiB", Some("64"));
    let mut share = Cell::new("guardian of one: proportional memory", "KiB", Some("80"));
    let mut wakes = Cell::new("guardian of one: wake-ups in 10 s", "", Some("0"));
    let before = switches(&guardians)?;
    std::thread::sleep(Duration::from_secs(10));
    for (before, after) in before.iter().zip(switches(&guardians)?) {
        wakes.add(f64::from(after - before));
    }
    for pid in &guardians {
        let (own, proportional) = proc::memory(*pid)?;
        private.add(f64::from(own));
        share.add(f64::from(proportional));
    }
    if guardians.len() != pids.len() {
        private.remark(format!("{} guardians of {}", guardians.len(), pids.len()));
    }
    Ok(vec![private, share, wakes])
}

fn switches(pids: &BTreeSet<u32>) -> Result<Vec<u32>> {
    pids.iter().map(|pid| proc::switches(*pid)).collect()
}

fn killed(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let count = 500;
    let mut back = Cell::new(
        "killed with 500: until status has them all",
        "ms",
        Some("200"),
    );
    let mut twins = Cell::new("  components started again", "", Some("0"));
    let mut orphans = Cell::new("  components that nobody keeps", "", Some("0"));
    for _ in 0..effort.rounds(5, 1) {
        let beats = settle(runner, world, &sleepers(count))?;
        let mut before: BTreeSet<u32> = beats.iter().map(|beat| beat.pid).collect();
        runner.before_the_kill()?;
        let supervisor = runner.supervisor()?;
        proc::kill(supervisor);
        let begun = now();
        runner.revive()?;
        let deadline = Instant::now() + PATIENCE / 4;
        let kept = loop {
            match runner.running() {
                Ok(pids) if pids.len() == count => {
                    back.add(millis(begun, now()));
                    break pids;
                }
                Ok(_) | Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(pids) => {
                    back.remark(format!("has {} after 30 s", pids.len()));
                    break pids;
                }
                Err(error) => return Err(error),
            }
        };
        // Time for a supervisor that changes its mind.
        std::thread::sleep(Duration::from_secs(2));
        twins.add(world.beats()?.len() as f64);
        for pid in &kept {
            before.remove(pid);
        }
        let left = before.iter().filter(|pid| proc::lives(**pid)).count();
        orphans.add(left as f64);
        runner.down()?;
        world.sweep();
    }
    Ok(vec![back, twins, orphans])
}

fn logs(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    let bytes = effort.rounds(1_000_000_000, 200_000_000) as u64;
    let mut rate = Cell::new("one component's output", "MB/s", Some("300"));
    let mut longest = Cell::new("  its longest wait for one write", "ms", None);
    let mut lost = Cell::new("  lines lost", "", Some("0"));
    for _ in 0..effort.rounds(3, 1) {
        let mut components = sleepers(1);
        components[0].task = Task::Spew(bytes);
        runner.fresh(world)?;
        runner.apply(world, &components)?;
        let beats = world.wait_for(2)?;
        let [begun, done] = beats.as_slice() else {
            return Err("it was restarted while it wrote".into());
        };
        rate.add(bytes as f64 / 1e6 / (millis(begun.at, done.at) / 1e3));
        longest.add(done.longest_write.unwrap_or_default() as f64 / 1e6);
        lost.add(lines_lost(runner, bytes / 100)? as f64);
        runner.down()?;
    }
    Ok(vec![rate, longest, lost])
}

/// How many of `lines` numbered lines are missing between the first that is kept and the last that
/// was written. What rotation has removed on purpose comes before the first.
fn lines_lost(runner: &dyn Runner, lines: u64) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE / 4;
    loop {
        let kept = runner.output("c0")?;
        let mut numbers = kept.split(|byte| *byte == b'\n').filter_map(|line| {
            std::str::from_utf8(line.get(..12)?)
                .ok()?
                .parse::<u64>()
                .ok()
        });
        let first = numbers.next().unwrap_or(lines);
        let (count, last) = numbers.fold((1, first), |(count, _), number| (count + 1, number));
        // The last lines may still be on their way.
        if last + 1 == lines || Instant::now() > deadline {
            return Ok((lines - first).saturating_sub(count));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
