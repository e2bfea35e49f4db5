//! What Portolan costs, measured against what users have today: in one run, on one machine, as ratios.
//!
//! `make bench` runs all of it and writes `docs/performance.md` with its data and pictures;
//! `make bench-quick` takes a few minutes. The page describes the method.
//!
//! Start reading at [`control`] for what programming costs and at [`path`] for what a connection costs.

mod cluster;
mod compare;
mod control;
mod effect;
mod interrupt;
mod names;
mod page;
mod path;
mod planes;
mod plots;
mod process;
mod progress;
mod proxies;
mod results;
mod site;
mod source;
mod statistics;
mod targets;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};

use progress::Progress;
use proxies::{DataPlane, Mode, Proxy};
use results::{About, Results};

/// Measures what Portolan costs. Needs root: everything happens in network namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, print the tables, and write results, page and pictures.
    Run(Run),
    /// Show what differs between two runs.
    Compare {
        /// Results of the earlier run.
        old: PathBuf,
        /// Results of the later run.
        new: PathBuf,
    },
    /// Measure what an answer of DNS costs, beside unbound and an echo.
    Dns(names::Names),
    /// Send datagrams back, to be measured beside servers that answer.
    #[command(hide = true)]
    Echo(names::Echo),
    /// Write page and pictures of results again.
    Page {
        /// Directory of `performance.md`, its results and pictures.
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Short runs, few of them, and no page: some minutes in all.
    #[arg(long)]
    quick: bool,
    /// Only what programming costs.
    #[arg(long, conflicts_with = "only_path")]
    only_control: bool,
    /// Only what a connection costs.
    #[arg(long)]
    only_path: bool,
    /// The binary that is measured.
    #[arg(long, value_name = "FILE", default_value = "target/release/portolan")]
    portolan: PathBuf,
    /// The data planes of Portolan that are measured [default: all that this kernel has]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    dataplanes: Vec<DataPlane>,
    /// A kube-proxy to be measured in the same run on the same objects.
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// The data plane that the peer is to use.
    #[arg(long, value_name = "MODE", default_value = "nftables")]
    peer_mode: Mode,
    /// Numbers of Services that programming is measured with.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1000,10000,50000")]
    services: Vec<u32>,
    /// Changes of the churn [default: 20 for each Service, at least 36000; quickly 4000]
    #[arg(long, value_name = "N")]
    churn: Option<u32>,
    /// Runs of each way of a connection [default: 7, quickly 5]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// No connections under rules of kube-proxy's shape.
    #[arg(long)]
    no_shapes: bool,
    /// The machine is an imitated one and slow: waits are longer, and the results say that only ratios
    /// mean something.
    #[arg(long)]
    imitated: bool,
    /// The commit that is measured [default: what git says]
    #[arg(long, value_name = "NAME")]
    commit: Option<String>,
    /// Where the results go; page and pictures only if this is `docs`.
    #[arg(long, value_name = "DIRECTORY", default_value = "docs")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(run) => measure(&run),
        Command::Dns(names) => names::measure(&names),
        Command::Echo(echo) => names::echo(&echo),
        Command::Compare { old, new } => compare_files(&old, &new),
        Command::Page { docs } => write_page(&docs),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(run: &Run) -> anyhow::Result<()> {
    let portolan = &run.portolan;
    ensure!(portolan.exists(), "{} is not there: `make build` makes it", portolan.display());
    if let Some(peer) = &run.peer {
        ensure!(peer.exists(), "--peer: {} is not there", peer.display());
    }
    ensure!(run.services.iter().all(|n| (3..=50_000).contains(n)), "--services takes 3 to 50000");
    let planes = match run.dataplanes.is_empty() {
        true => DataPlane::of_this_kernel()?,
        false => run.dataplanes.clone(),
    };
    planes.iter().try_for_each(|plane| plane.check())?;
    let own = planes.iter().map(|plane| Proxy::Portolan(portolan.clone(), *plane));
    let own: Vec<Proxy> = own.collect();
    let peer = run.peer.clone().map(|program| Proxy::KubeProxy(program, run.peer_mode));
    interrupt::watch()?;
    let proxies: Vec<&Proxy> = own.iter().chain(&peer).collect();
    // What stands still for long is looked at: a kube-proxy takes minutes with many Services.
    let limit = Duration::from_secs(if peer.is_some() || run.imitated { 1800 } else { 120 });
    let answer = Duration::from_millis(if run.imitated { 100 } else { 2 });
    let amount = control::Amount {
        changes: 1000,
        burst: 100,
        churn: run.churn.or(run.quick.then_some(4_000)),
        patience: Duration::from_secs(60),
        idle: Duration::from_secs(if run.quick { 3 } else { 20 }),
        limit,
        answer,
    };
    let rules = rules(run, &proxies);
    let seconds = if run.quick { 0.3 } else { 2.0 };
    let path_amount = path::Amount {
        runs: run.runs.unwrap_or(if run.quick { 5 } else { 7 }),
        run: Duration::from_secs_f64(seconds),
        limit,
        answer,
    };
    let pairs = run.services.iter().flat_map(|n| proxies.iter().filter(|p| p.can_have(*n)));
    let parts = pairs.count() as u64 + path_amount.parts(&rules);
    let progress = Progress::new(parts);
    let mut control = Vec::new();
    if !run.only_path {
        for proxy in &proxies {
            progress.step(&format!("{}: first start", proxy.name()));
            let what = || format!("{}: first start", proxy.name());
            control::warm_up(proxy, &amount).with_context(what)?;
        }
        for services in &run.services {
            for proxy in proxies.iter().filter(|proxy| proxy.can_have(*services)) {
                let measured = control::measure(proxy, *services, &amount, &progress)
                    .with_context(|| format!("{} with {services} Services", proxy.name()))?;
                control.push(measured);
                progress.part();
            }
        }
    }
    let paths = match run.only_control {
        true => Vec::new(),
        false => path::measure(&rules, &path_amount, &progress)?,
    };
    drop(progress);
    let about =
        About { commit: run.commit.clone(), is_quick: run.quick, is_imitated: run.imitated };
    let results = Results::new(about, control, paths);
    print!("{}", page::tables(&results, None));
    let directory = run.out.join("performance");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    results.write(&directory.join("results.json"))?;
    println!("\nwritten to {}", directory.join("results.json").display());
    match run.out.join("performance.md").exists() {
        true => write_page(&run.out),
        false => Ok(()),
    }
}

/// The rules that connections are made under.
fn rules(run: &Run, proxies: &[&Proxy]) -> Vec<path::Rules> {
    use path::Rules;
    let mut rules = vec![Rules::None];
    for services in &run.services {
        let measured = proxies.iter().filter(|proxy| proxy.can_have(*services));
        rules.extend(measured.map(|proxy| Rules::Of((*proxy).clone(), *services)));
    }
    // Loading more of these takes minutes.
    let shaped: &[u32] = match (run.no_shapes, run.quick) {
        (true, _) => &[],
        (false, true) => &[1_000],
        (false, false) => &[1_000, 10_000],
    };
    for services in shaped.iter().copied() {
        rules.extend([Rules::NftablesShape(services), Rules::IptablesShape(services)]);
    }
    rules
}

fn compare_files(old: &std::path::Path, new: &std::path::Path) -> anyhow::Result<()> {
    print!("{}", compare::table(&Results::read(old)?, &Results::read(new)?));
    Ok(())
}

fn write_page(docs: &std::path::Path) -> anyhow::Result<()> {
    let directory = docs.join("performance");
    let results = Results::read(&directory.join("results.json"))?;
    // What `make bench-vm` has left.
    let ipvs = directory.join("ipvs.json");
    let ipvs = ipvs.exists().then(|| Results::read(&ipvs)).transpose()?;
    plots::draw(&directory, &results, ipvs.as_ref())?;
    page::update(&docs.join("performance.md"), &results, ipvs.as_ref())
}
