//! Ledgers a second: the three programs over gRPC, beside the same stages called in one process.
//!
//! ```text
//! cargo bench -p token-transfer [-- LEDGERS]
//! ```

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use token_transfer::consumer::file::Output;
use token_transfer::consumer::record::Record;
use token_transfer::events::{self, Network};
use token_transfer::generator::{LakePlan, world};
use token_transfer::lake::{LakeSettings, Reader};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 3;

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
        "{ledgers} ledgers, {} events, {ROUNDS} rounds each",
        made.events
    );

    let mut alone = Vec::new();
    let mut apart = Vec::new();
    for round in 0..ROUNDS {
        alone.push(in_one_process(
            &lake,
            ledgers,
            &home.path().join(format!("one-{round}")),
        )?);
        apart.push(as_three_programs(
            &lake,
            ledgers,
            &home.path().join(format!("three-{round}")),
        )?);
    }
    let one = show("one process", &mut alone, ledgers);
    let three = show("three programs", &mut apart, ledgers);
    println!("three programs / one process: {:.2}", three / one);
    Ok(())
}

/// Prints the rates and answers with the median.
fn show(what: &str, times: &mut [Duration], ledgers: u32) -> f64 {
    times.sort();
    let rate = |time: Duration| f64::from(ledgers) / time.as_secs_f64();
    let (worst, best) = (rate(times[times.len() - 1]), rate(times[0]));
    let median = rate(times[times.len() / 2]);
    println!("{what:<16}{median:>10.0} ledgers/s   ({worst:.0} to {best:.0})");
    median
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
            if output.waiting() > 256 << 10 {
                output.commit()?;
            }
        }
        output.commit()?;
        Ok(begin.elapsed())
    })
}

/// The three programs, from the consumer's start to its end.
fn as_three_programs(lake: &Path, ledgers: u32, output: &Path) -> Fallible<Duration> {
    let free = || -> Fallible<String> {
        Ok(std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port()
            .to_string())
    };
    let (ledger_port, event_port) = (free()?, free()?);
    let program = |path: &str, settings: &[(&str, &str)]| -> Fallible<Command> {
        let mut command = Command::new(path);
        command
            .env_clear()
            .env("HEALTH_PORT", free()?)
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
