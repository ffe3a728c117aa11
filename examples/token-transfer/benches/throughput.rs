//! Ledgers a second: the three programs over gRPC, beside the same stages called in one process; and
//! what flowctl itself uses of a core while it runs the three.
//!
//! ```text
//! cargo bench -p token-transfer [-- LEDGERS]
//! ```

#[path = "../tests/journeys/built.rs"]
mod built;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use token_transfer::consumer::file::{COMMIT_BYTES, Output};
use token_transfer::consumer::record::Record;
use token_transfer::events::{self, Network};
use token_transfer::generator::{LakePlan, world};
use token_transfer::lake::{LakeSettings, Reader};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 5;

/// What flowctl may take of a core while the pipeline streams as fast as it can, in percent.
const SHARE: f64 = 0.5;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() -> Fallible<()> {
    let wanted = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let ledgers: u32 = wanted.unwrap_or(20_000);
    let home = tempfile::tempdir()?;
    let lake = home.path().join("lake");
    let made = LakePlan::of(ledgers).make(&lake)?;
    println!(
        "{ledgers} ledgers, {} events; {ROUNDS} rounds; load of the machine before: {}",
        made.events,
        fs::read_to_string("/proc/loadavg")?.trim()
    );

    let programs = Path::new(env!("CARGO_BIN_EXE_ttp-processor")).parent();
    let flowctl = built::flowctl(programs.ok_or("a program lies in a folder")?).canonicalize()?;
    let rate = |took: Duration| f64::from(ledgers) / took.as_secs_f64();
    let (mut alone, mut apart) = (Row::default(), Row::default());
    let (mut ratio, mut kept, mut share) = (Row::default(), Row::default(), Row::default());
    for round in 0..ROUNDS {
        let one = rate(in_one_process(
            &lake,
            ledgers,
            &home.path().join(format!("one-{round}")),
        )?);
        let output = home.path().join(format!("three-{round}"));
        let three = rate(as_three_programs(&lake, ledgers, &output)?);
        let folder = home.path().join(format!("flowctl-{round}"));
        let size = fs::metadata(&output)?.len();
        let Kept { took, cpu } = under_flowctl(&flowctl, &lake, &folder, size)?;
        alone.add(one);
        apart.add(three);
        ratio.add(three / one);
        kept.add(rate(took));
        share.add(100.0 * cpu.as_secs_f64() / took.as_secs_f64());
    }
    println!(
        "{:<46}{:>10}{:>10}{:>10}",
        "", "median", "lowest", "highest"
    );
    alone.print("one process without gRPC, ledgers/s", 0);
    apart.print("three programs, ledgers/s", 0);
    ratio.print("three programs / one process", 2);
    kept.print("three programs under flowctl, ledgers/s", 0);
    let worst = share.print("flowctl itself meanwhile, % of a core", 3);
    if worst > SHARE {
        return Err(format!("flowctl took more than {SHARE} % of a core").into());
    }
    Ok(())
}

/// The same figure of each round.
#[derive(Default)]
struct Row(Vec<f64>);

impl Row {
    fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Prints the figures, and answers with the highest.
    fn print(mut self, what: &str, decimals: usize) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let figures = &self.0;
        let (lowest, highest) = (figures[0], figures[figures.len() - 1]);
        let median = figures[figures.len() / 2];
        println!("{what:<46}{median:>10.decimals$}{lowest:>10.decimals$}{highest:>10.decimals$}");
        highest
    }
}

fn free_port() -> Fallible<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port().to_string())
}

/// Reading, decoding, telling and writing, with nothing between.
fn in_one_process(lake: &Path, ledgers: u32, output: &Path) -> Fallible<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let begin = Instant::now();
        let settings = LakeSettings::directory(lake);
        let reader = Reader::new(Arc::new(settings.open()?), settings.poll);
        let (out, mut raw) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move { reader.run(2, Some(1 + ledgers), out, |_| {}).await });
        let network = Network::new(world::PASSPHRASE);
        let mut output = Output::open(output)?;
        while let Some(ledger) = raw.recv().await {
            let events = events::of_ledger(network, &events::decode(&ledger?.xdr)?)?;
            for (event, index) in events.into_iter().zip(0..) {
                output.add(&Record::of(event, index)?);
            }
            if output.waiting() > COMMIT_BYTES {
                output.commit()?;
            }
        }
        output.commit()?;
        Ok(begin.elapsed())
    })
}

/// The three programs, from the consumer's start to its end.
fn as_three_programs(lake: &Path, ledgers: u32, output: &Path) -> Fallible<Duration> {
    let (ledger_port, event_port) = (free_port()?, free_port()?);
    let program = |path: &str, settings: &[(&str, &str)]| -> Fallible<Command> {
        let mut command = Command::new(path);
        command
            .env_clear()
            .env("HEALTH_PORT", free_port()?)
            .env("LOG_LEVEL", "error");
        command
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    };
    let lake = lake.display().to_string();
    let source = [("BUCKET_NAME", lake.as_str()), ("PORT", &ledger_port)];
    let source = program(env!("CARGO_BIN_EXE_stellar-live-source-datalake"), &source)?.spawn()?;
    let _source = Ended(source);
    let address = format!("localhost:{ledger_port}");
    let processor = [
        ("STELLAR_NETWORK", "testnet"),
        ("SOURCE_SERVICE_ADDRESS", &address),
        ("PORT", &event_port),
    ];
    let processor = program(env!("CARGO_BIN_EXE_ttp-processor"), &processor)?.spawn()?;
    let _processor = Ended(processor);
    while std::net::TcpStream::connect(format!("localhost:{event_port}")).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let address = format!("localhost:{event_port}");
    let output = output.display().to_string();
    let consumer = [
        ("TTP_SERVICE_ADDRESS", address.as_str()),
        ("OUTPUT_FILE", &output),
    ];
    let mut consumer = program(env!("CARGO_BIN_EXE_consumer-app"), &consumer)?;
    consumer.args(["2", &(1 + ledgers).to_string(), "--exit-at-end"]);
    let begin = Instant::now();
    let status = consumer.status()?;
    let took = begin.elapsed();
    if status.success() {
        Ok(took)
    } else {
        Err(format!("the consumer ended with {status}").into())
    }
}

/// A run that flowctl kept going.
struct Kept {
    /// From the first event written to the last.
    took: Duration,
    /// CPU time of all of flowctl meanwhile: the daemon, and the guardians of the three.
    cpu: Duration,
}

/// The shipped pipeline under flowctl, until the output has `size` bytes.
fn under_flowctl(flowctl: &Path, lake: &Path, folder: &Path, size: u64) -> Fallible<Kept> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = fs::read_to_string(shipped.join("pipeline.yaml"))?;
    let programs = shipped.join("../../target/release");
    for (old, new) in [
        ("../../target/release", programs.display().to_string()),
        ("data/lake", lake.display().to_string()),
        ("50051", free_port()?),
        ("50052", free_port()?),
        ("18088", free_port()?),
        ("18089", free_port()?),
        ("18093", free_port()?),
    ] {
        text = text.replace(old, &new);
    }
    let output = folder.join("data/out/events.ndjson");
    fs::create_dir_all(folder.join("data/out"))?;
    fs::write(folder.join("pipeline.yaml"), text)?;
    let command = |arguments: &[&str]| {
        let mut command = Command::new(flowctl);
        command
            .args(arguments)
            .current_dir(folder)
            .env("FLOWCTL_STATE_DIR", folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let apply = command(&["apply", "-f", "pipeline.yaml", "--no-wait"]).status()?;
    let written = || fs::metadata(&output).map_or(0, |file| file.len());
    let patience = Instant::now() + Duration::from_secs(300);
    let until = |bytes: u64| -> Fallible<(Instant, Duration)> {
        while written() < bytes {
            if Instant::now() > patience {
                return Err(format!("{} bytes of {bytes} under flowctl", written()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((Instant::now(), cpu_of(flowctl)?))
    };
    let measured = until(1).and_then(|begin| Ok((begin, until(size)?)));
    let down = command(&["down"]).status()?;
    let ((begin, before), (end, after)) = measured?;
    if !apply.success() || !down.success() {
        return Err(format!("flowctl apply: {apply}, down: {down}").into());
    }
    Ok(Kept {
        took: end - begin,
        cpu: after.saturating_sub(before),
    })
}

/// CPU time that all processes of a program have used.
fn cpu_of(program: &Path) -> Fallible<Duration> {
    let mut nanos = 0;
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        // A process that ends meanwhile has no more to say.
        if fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program)
            && let Ok(threads) = fs::read_dir(process.join("task"))
        {
            for thread in threads.flatten() {
                let times = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                let ran = times.split(' ').next().and_then(|text| text.parse().ok());
                nanos += ran.unwrap_or(0);
            }
        }
    }
    Ok(Duration::from_nanos(nanos))
}
