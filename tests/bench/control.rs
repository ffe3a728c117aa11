//! What the control plane costs those who call it, and the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::{Channel, Endpoint};

use crate::runner::{Runner, run};
use crate::table::Cell;
use crate::world::{World, millis, now, sleepers};
use crate::{Effort, Result, proc};

/// The messages, as the build makes them from the protos.
mod wire {
    tonic::include_proto!("flowctl");
}

use wire::control_plane_client::ControlPlaneClient;
use wire::{ServiceHeartbeat, ServiceInfo};

type Client = ControlPlaneClient<Channel>;

/// Where components find the control plane, and what is kept of them.
pub struct Place {
    /// `host:port`.
    pub address: String,
    /// The store.
    pub store: PathBuf,
}

/// Components that send heartbeats, each over a connection of its own.
const SENDERS: u32 = 50;
/// Heartbeats of each in a second: together 10,000.
const RATE: u32 = 200;

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

async fn connect(address: &str) -> Result<Client> {
    let endpoint = Endpoint::try_from(format!("http://{address}"))?.tcp_nodelay(true);
    Ok(ControlPlaneClient::new(endpoint.connect().await?))
}

fn info(number: u32) -> ServiceInfo {
    ServiceInfo {
        service_type: 2,
        input_event_types: vec!["raw_ledger_service.RawLedgerChunk".to_owned()],
        output_event_types: vec!["event_service.TokenTransferEvent".to_owned()],
        health_endpoint: format!("http://localhost:{}/health", 20_000 + number),
        max_inflight: 100,
        component_id: format!("bench-{number}"),
        ..ServiceInfo::default()
    }
}

/// What the clients of the field send.
fn heartbeat(id: &str, count: u32) -> ServiceHeartbeat {
    let figures = [
        "success_count",
        "error_count",
        "total_processed",
        "total_bytes_processed",
        "last_successful_sequence",
    ];
    ServiceHeartbeat {
        service_id: id.to_owned(),
        timestamp: None,
        metrics: figures
            .iter()
            .map(|name| ((*name).to_owned(), f64::from(count)))
            .collect(),
    }
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let about = entry?;
        bytes += match about.metadata()? {
            meta if meta.is_dir() => bytes_in(&about.path())?,
            meta => meta.len(),
        };
    }
    Ok(bytes)
}

/// 10,000 heartbeats a second, the daemon on one core. The time of each counts from the moment at
/// which it was due, so that one that is late delays no other's clock.
pub fn heartbeats(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    runner.fresh(world)?;
    let (place, daemon) = (runner.control_plane()?, runner.supervisor()?);
    run(Command::new("taskset").args(["-a", "-p", "-c", "0", &daemon.to_string()]))?;
    let seconds = match effort {
        Effort::Full => 20,
        Effort::Quick => 3,
    };
    let runtime = runtime()?;
    let clients: Vec<(Client, String)> = runtime.block_on(async {
        let mut clients = Vec::new();
        for number in 0..SENDERS {
            let mut client = connect(&place.address).await?;
            let id = client.register(info(number)).await?.into_inner().service_id;
            clients.push((client, id));
        }
        Ok::<_, Box<dyn std::error::Error>>(clients)
    })?;
    let (stored, held, spent) = (
        bytes_in(&place.store)?,
        proc::resident(daemon)?,
        proc::processor_time(daemon)?,
    );
    let begun = now();
    let mut latencies = Vec::new();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for (number, (mut client, id)) in clients.into_iter().enumerate() {
            tasks.push(tokio::spawn(async move {
                let period = Duration::from_secs(1) / RATE;
                let first = Instant::now() + period * number as u32 / SENDERS;
                let mut due = tokio::time::interval_at(first, period);
                due.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut latencies = Vec::new();
                for count in 0..seconds * RATE {
                    let was_due = due.tick().await;
                    client.heartbeat(heartbeat(&id, count)).await?;
                    latencies.push(was_due.elapsed().as_secs_f64() * 1e3);
                }
                Ok::<_, tonic::Status>(latencies)
            }));
        }
        for task in tasks {
            latencies.extend(task.await??);
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    let took = millis(begun, now());
    let mut latency = Cell::new(
        "10,000 heartbeats/s on one core: answered",
        "ms",
        Some("p99 5"),
    );
    let rate = latencies.len() as f64 / took * 1e3;
    latency.remark(format!("{rate:.0} a second"));
    latencies.into_iter().for_each(|sample| latency.add(sample));
    let mut share = Cell::new("  processor", "%", Some("100"));
    share.add((proc::processor_time(daemon)? - spent) as f64 / 1e6 / took * 100.0);
    // What is put off is written by then.
    std::thread::sleep(Duration::from_secs(2));
    let mut growth = Cell::new("  growth of the store", "bytes", Some("0"));
    growth.add(bytes_in(&place.store)? as f64 - stored as f64);
    let mut memory = Cell::new("  growth of memory", "MB", None);
    memory.add((f64::from(proc::resident(daemon)?) - f64::from(held)) * 1024.0 / 1e6);
    Ok(vec![latency, share, growth, memory])
}

/// Components that register one after the other and send no name that is known here, so that each
/// is traced to its process; each is answered once it is recorded.
pub fn registrations(
    runner: &mut dyn Runner,
    world: &mut World,
    effort: Effort,
) -> Result<Vec<Cell>> {
    runner.fresh(world)?;
    let place = runner.control_plane()?;
    let count = match effort {
        Effort::Full => 1000,
        Effort::Quick => 200,
    };
    let mut cell = Cell::new("a component registers, recorded", "ms", Some("p99 10"));
    runtime()?.block_on(async {
        let mut client = connect(&place.address).await?;
        for number in 0..count {
            let begun = now();
            client.register(info(number)).await?;
            cell.add(millis(begun, now()));
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    Ok(vec![cell])
}

/// A million heartbeats as fast as they are taken, while the owner does its work.
pub fn flood(runner: &mut dyn Runner, world: &mut World, effort: Effort) -> Result<Vec<Cell>> {
    const SENDERS: u32 = 100;
    runner.fresh(world)?;
    runner.apply(world, &sleepers(1))?;
    let mut pid = world
        .wait_for(1)?
        .pop()
        .ok_or("the component did not start")?
        .pid;
    let (place, daemon) = (runner.control_plane()?, runner.supervisor()?);
    let each = match effort {
        Effort::Full => 10_000,
        Effort::Quick => 500,
    };
    let (stored, held) = (bytes_in(&place.store)?, proc::resident(daemon)?);
    let begun = now();
    let address = place.address.clone();
    let flood = std::thread::spawn(move || {
        let flood = || -> Result<u32> {
            runtime()?.block_on(async {
                let mut tasks = Vec::new();
                let mut clients = Vec::new();
                for _ in 0..5 {
                    clients.push(connect(&address).await?);
                }
                for number in 0..SENDERS {
                    let mut client = clients[number as usize % clients.len()].clone();
                    tasks.push(tokio::spawn(async move {
                        let id = format!("flood-{number}");
                        let mut taken = 0;
                        for count in 0..each {
                            taken +=
                                u32::from(client.heartbeat(heartbeat(&id, count)).await.is_ok());
                        }
                        taken
                    }));
                }
                let mut taken = 0;
                for task in tasks {
                    taken += task.await?;
                }
                Ok(taken)
            })
        };
        flood().map_err(|error| error.to_string())
    });
    let mut cell = Cell::new(
        "killed under a flood of heartbeats until it runs again",
        "ms",
        Some("p99 1000"),
    );
    while !flood.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
        let killed_at = now();
        proc::kill(pid);
        let beat = world.wait_for(1)?.pop().ok_or("it was not replaced")?;
        cell.add(millis(killed_at, beat.at));
        pid = beat.pid;
    }
    let taken = flood.join().map_err(|_| "the flood ended with a panic")??;
    let seconds = millis(begun, now()) / 1e3;
    cell.remark(format!(
        "{} heartbeats in {seconds:.0} s, {taken} of them taken",
        each * SENDERS
    ));
    let mut memory = Cell::new("  growth of memory", "MB", None);
    memory.add((f64::from(proc::resident(daemon)?) - f64::from(held)) * 1024.0 / 1e6);
    let mut growth = Cell::new("  growth of the store", "bytes", None);
    growth.add(bytes_in(&place.store)? as f64 - stored as f64);
    Ok(vec![cell, memory, growth])
}
