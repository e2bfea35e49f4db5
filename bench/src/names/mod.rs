//! What an answer of cluster DNS costs, beside unbound with the same names, and beside an echo, which is what the kernel
//! lets through at most.
//!
//! The server has one processor and the client another. Each is asked in its turn, round after round.

mod echo;
mod load;
mod servers;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use kernel::netns::Netns;
use kernel::route::Rtnetlink;
use serde::Serialize;
use tempfile::TempDir;

use crate::cluster::{self, Size};
use crate::interrupt::{self, Left};
use crate::source::Source;
use crate::statistics::{Spread, quantile};
use load::Load;
use servers::{PORT, Running, Server};

pub(crate) use echo::{Echo, echo};

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Names {
    /// Numbers of Services.
    #[arg(long, value_name = "N", default_value = "10000")]
    services: u32,
    /// Endpoints of each Service.
    #[arg(long, value_name = "N", default_value_t = cluster::ENDPOINTS)]
    endpoints: u32,
    /// Pods that are watched for autopath; none: it is off.
    #[arg(long, value_name = "N", default_value = "0")]
    pods: u32,
    /// How often each server is asked.
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: usize,
    /// How long each time, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    seconds: u64,
    /// How many pairs of A and AAAA questions are asked to see whether one is lost.
    #[arg(long, value_name = "N", default_value = "1000000")]
    pairs: u64,
    /// The binary that is measured.
    #[arg(long, value_name = "FILE", default_value = "target/release/portolan")]
    portolan: PathBuf,
    /// A CoreDNS to be measured in the same run on the same objects.
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// Where the results go, as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench/dns.json")]
    out: PathBuf,
}

/// What was measured of a server.
#[derive(Debug, Default, Serialize)]
struct Measured {
    server: String,
    /// Answers a second.
    rate: Spread,
    /// Processor time for an answer, in microseconds.
    cpu_us: Spread,
    /// How long 99 of 100 answers took at most, in microseconds, at half of its rate.
    p99_us: Spread,
    /// Resident memory in bytes.
    memory: u64,
    /// Questions that were not answered.
    lost: u64,
}

/// Where servers and clients are: a network namespace of their own.
struct Place {
    netns: Netns,
    name: PathBuf,
    directory: TempDir,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary directory")?;
        interrupt::add(Left::Directory(directory.path().to_owned()));
        let name = directory.path().join("dns");
        let netns = Netns::create(&name).context("make a network namespace: it needs root")?;
        interrupt::add(Left::Namespace(name.clone()));
        netns.run(|| Rtnetlink::open()?.set_up("lo"))??;
        Ok(Self { netns, name, directory })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = Netns::delete(&self.name) {
            eprintln!("bench: {error}");
        }
        interrupt::forget(&Left::Namespace(self.name.clone()));
        interrupt::forget(&Left::Directory(self.directory.path().to_owned()));
    }
}

/// Measures all servers, prints what was found and writes it.
pub(crate) fn measure(names: &Names) -> anyhow::Result<()> {
    let portolan = &names.portolan;
    ensure!(portolan.exists(), "{} is not there: `make build` makes it", portolan.display());
    ensure!((1..=50_000).contains(&names.services), "--services takes 1 to 50000");
    ensure!((1..=100).contains(&names.endpoints), "--endpoints takes 1 to 100");
    ensure!(names.pods <= 1_000_000, "--pods takes 0 to 1000000");
    interrupt::watch()?;
    let place = Place::new()?;
    let size = Size { services: names.services, endpoints: names.endpoints, pods: names.pods };
    let source = Source::start(&place.netns, size)?;
    let kubeconfig = place.directory.path().join("kubeconfig");
    fs::write(&kubeconfig, source.kubeconfig())?;
    let questions = place.directory.path().join("questions");
    fs::write(&questions, questions_of(names.services))?;
    let mut servers = vec![
        Server::Echo,
        Server::Portolan {
            program: portolan.clone(),
            kubeconfig: kubeconfig.clone(),
            has_autopath: names.pods > 0,
        },
        Server::Unbound(names.services),
    ];
    servers.extend(names.peer.clone().map(|peer| Server::CoreDns(peer, kubeconfig)));
    let load = Load { questions, seconds: names.seconds };
    let mut measured = Vec::new();
    let mut values: Vec<[Vec<f64>; 3]> = servers.iter().map(|_| Default::default()).collect();
    for server in &servers {
        measured.push(Measured { server: server.name().to_owned(), ..Measured::default() });
    }
    for round in 0..names.rounds {
        for at in order(servers.len(), round) {
            eprintln!("bench: round {} of {}: {}", round + 1, names.rounds, servers[at].name());
            let running = servers[at].start(&place)?;
            let once = once(&place, &running, &load, at > 0)?;
            let [rates, cpus, p99s] = &mut values[at];
            rates.push(once.rate);
            cpus.push(once.cpu_us);
            p99s.push(once.p99_us);
            measured[at].memory = once.memory;
            measured[at].lost += once.lost;
        }
    }
    for (measured, [rates, cpus, p99s]) in measured.iter_mut().zip(&values) {
        measured.rate = Spread::of(rates);
        measured.cpu_us = Spread::of(cpus);
        measured.p99_us = Spread::of(p99s);
    }
    print!("{}", table(names, &measured));
    if names.pairs > 0 {
        let running = servers[1].start(&place)?;
        let outcome = load.pairs(&place, &running, names.pairs, names.services)?;
        println!("\n{} pairs of A and AAAA: {} questions lost", names.pairs, outcome.lost);
    }
    if let Some(directory) = names.out.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&names.out, serde_json::to_string_pretty(&measured)?)?;
    println!("\nwritten to {}", names.out.display());
    Ok(())
}

/// Whose turn it is: each round begins with another one.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round) % count)
}

/// What one run has shown.
struct Once {
    rate: f64,
    cpu_us: f64,
    p99_us: f64,
    memory: u64,
    lost: u64,
}

fn once(place: &Place, running: &Running, load: &Load, answers: bool) -> anyhow::Result<Once> {
    // What comes first is not measured.
    load.run(place, Duration::from_secs(1))?;
    let before = running.on_cpu()?;
    let outcome = load.run(place, Duration::from_secs(load.seconds))?;
    let cpu = running.on_cpu()? - before;
    ensure!(
        !answers || outcome.denied == 0,
        "{} denies {} names that it should know",
        running.name,
        outcome.denied
    );
    let latencies = load.latencies(place, outcome.rate / 2.0)?;
    Ok(Once {
        rate: outcome.rate,
        cpu_us: cpu.as_secs_f64() * 1e6 / outcome.answers.max(1) as f64,
        p99_us: quantile(&latencies, 0.99) * 1e6,
        memory: running.memory()?,
        lost: outcome.lost,
    })
}

/// A and AAAA of each Service, in an order in which neighbours are not asked together.
fn questions_of(services: u32) -> String {
    let mut text = String::new();
    // Prime to any number of Services that is asked for: all come, once each.
    const STEP: u32 = 7919;
    for at in 0..services {
        let service = (u64::from(at) * u64::from(STEP) % u64::from(services)) as u32;
        let name = cluster::dns_name(service);
        text.push_str(&format!("{name} A\n{name} AAAA\n"));
    }
    text
}

fn table(names: &Names, measured: &[Measured]) -> String {
    let mut text = format!(
        "\n{} Services of {} endpoints, {} pods watched, {} rounds of {} s, one processor for the server and one for the client\n\n\
         | server | answers/s | of the echo | CPU an answer | p99 at half load | memory | lost |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
        names.services, names.endpoints, names.pods, names.rounds, names.seconds
    );
    let echo = measured.first().map_or(1.0, |echo| echo.rate.median);
    for measured in measured {
        text.push_str(&format!(
            "| {} | {:.0} ({:.0}-{:.0}) | {:.2} | {:.2} µs | {:.0} µs ({:.0}-{:.0}) | {:.0} MB | {} |\n",
            measured.server,
            measured.rate.median,
            measured.rate.min,
            measured.rate.max,
            measured.rate.median / echo,
            measured.cpu_us.median,
            measured.p99_us.median,
            measured.p99_us.min,
            measured.p99_us.max,
            measured.memory as f64 / 1e6,
            measured.lost,
        ));
    }
    text.push_str(&format!("\nport {PORT} of a network namespace of its own\n"));
    text
}
