//! What programming costs: start to complete state, one change and many, processor time and memory.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::{self, ENDPOINTS, SERVICE_PORT, Size};
use crate::effect::{self, Expected, Observer, wait_for_answers};
use crate::process::{Measured, kernel_memory};
use crate::progress::Progress;
use crate::proxies::Proxy;
use crate::site::Site;
use crate::source::{Change, Kind, Source, write_kubeconfig};
use crate::statistics::quantile;

/// How much is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    /// Single changes of an endpoint; as many Services are added.
    pub(crate) changes: u32,
    /// Changes told at once.
    pub(crate) burst: u32,
    /// Changes of the churn; `None` for as many as show whether memory grows without end.
    pub(crate) churn: Option<u32>,
    /// How long changes of one sort go on at most: slow ones are then fewer.
    pub(crate) patience: Duration,
    /// How long an idle process is watched.
    pub(crate) idle: Duration,
    /// How long anything may take.
    pub(crate) limit: Duration,
    /// How long the answer to a packet may take.
    pub(crate) answer: Duration,
}

/// What was measured of one proxy with one number of Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// The proxy.
    pub(crate) proxy: String,
    /// Number of Services.
    pub(crate) services: u32,
    /// From the start of the process to complete state in the kernel.
    pub(crate) start_seconds: f64,
    /// Of that, processor time in its own code.
    pub(crate) start_user_seconds: f64,
    /// Of that, processor time in the kernel.
    pub(crate) start_system_seconds: f64,
    /// After it was killed and started again: until a change that was told meanwhile has taken effect.
    pub(crate) restart_seconds: f64,
    /// Most resident memory of the start, in bytes.
    pub(crate) peak_bytes: u64,
    /// Resident memory once it is idle, in bytes.
    pub(crate) settled_bytes: u64,
    /// Memory of the kernel for what was programmed, in bytes.
    pub(crate) kernel_bytes: u64,
    /// What stands in the packet filter and in IPVS.
    pub(crate) objects: Objects,
    /// One endpoint is replaced by another: from the API's event to the kernel.
    pub(crate) endpoint: Latency,
    /// A Service with its endpoints is added.
    pub(crate) service: Latency,
    /// Endpoints of many Services are replaced at once: to the last of them.
    pub(crate) burst: Latency,
    /// Resident memory in the course of the churn, in bytes.
    pub(crate) churn_bytes: Vec<u64>,
    /// Changes of the churn.
    pub(crate) churn_changes: u32,
    /// Processor time of an idle process, as a share of one processor.
    pub(crate) idle_share: f64,
}

/// Numbers of what stands in the packet filter and in IPVS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Objects {
    /// Chains.
    pub(crate) chains: u64,
    /// Rules.
    pub(crate) rules: u64,
    /// Elements of sets and maps.
    pub(crate) elements: u64,
    /// Virtual servers.
    #[serde(default)]
    pub(crate) servers: u64,
    /// Their destinations.
    #[serde(default)]
    pub(crate) destinations: u64,
}

/// How long changes take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// How many were measured.
    pub(crate) changes: u32,
    /// Half of them took no longer.
    pub(crate) p50_ms: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_ms: f64,
    /// Processor time of each, in milliseconds.
    pub(crate) cpu_ms: f64,
}

/// A second of a busy cluster: changes that come together in the churn.
const CHURN_BURST: u32 = 100;
/// Of these, Services that are added; as many older ones go.
const CHURN_SERVICES: u32 = 10;
/// Changes of the churn for each Service, in the course of which each is met several times ...
const CHURN_PER_SERVICE: u32 = 20;
/// ... and at least an hour's, of ten a second.
const CHURN_HOUR: u32 = 36_000;
/// How often memory is looked at in the course of the churn.
const CHURN_SAMPLES: u32 = 20;

/// Starts a proxy on one Service, for what only the first start of all takes: the kernel loads modules.
pub(crate) fn warm_up(proxy: &Proxy, amount: &Amount) -> anyhow::Result<()> {
    let site = Site::new()?;
    for netns in [&site.pods, &site.far] {
        effect::serve(netns)?;
    }
    let source = Source::start(&site.node, Size::of(1))?;
    let kubeconfig = site.directory().join("kubeconfig");
    write_kubeconfig(&source, &kubeconfig)?;
    let log = site.directory().join("log");
    let mut command = proxy.command(&kubeconfig, &site)?;
    let mut process = Measured::start(&site.node, &mut command, &log)?;
    wait_for_start(&mut process, &site, 1, amount).with_context(|| process.last_words(&log))?;
    Ok(())
}

/// Waits until some of the Services answer.
fn wait_for_start(
    process: &mut Measured,
    site: &Site,
    services: u32,
    amount: &Amount,
) -> anyhow::Result<Instant> {
    let (some, start) = (samples(services), process.started);
    wait_for_answers(&site.client, &some, start, amount.limit, amount.answer, || process.check())
}

/// Measures a proxy.
pub(crate) fn measure(
    proxy: &Proxy,
    services: u32,
    amount: &Amount,
    progress: &Progress,
) -> anyhow::Result<Control> {
    let mut result = Control { proxy: proxy.name().to_owned(), services, ..Control::default() };
    let step =
        |what: &str| progress.step(&format!("{} with {services} Services: {what}", proxy.name()));
    let site = Site::new()?;
    for netns in [&site.pods, &site.far] {
        effect::serve(netns)?;
    }
    step("making objects");
    let source = Source::start(&site.node, Size::of(services))?;
    let kubeconfig = site.directory().join("kubeconfig");
    write_kubeconfig(&source, &kubeconfig)?;
    let memory_before = kernel_memory()?;

    step("start");
    let log = site.directory().join("log");
    let start = || {
        let mut command = proxy.command(&kubeconfig, &site)?;
        Measured::start(&site.node, &mut command, &log)
    };
    let mut process = start()?;
    let complete = wait_for_start(&mut process, &site, services, amount)
        .with_context(|| process.last_words(&log))?;
    result.start_seconds = (complete - process.started).as_secs_f64();
    let cpu = process.cpu()?;
    (result.start_user_seconds, result.start_system_seconds) = (cpu.user, cpu.system);
    result.peak_bytes = process.memory()?.1;
    settle(&process, amount.limit)?;
    result.settled_bytes = process.memory()?.0;
    result.kernel_bytes = kernel_memory()?.saturating_sub(memory_before);
    result.objects = effect::objects(&site.node)?;

    step("idle");
    let before = process.on_cpu()?;
    thread::sleep(amount.idle);
    let used = process.on_cpu()?.saturating_sub(before);
    result.idle_share = used.as_secs_f64() / amount.idle.as_secs_f64();

    let observer = proxy.observer(&site, amount.answer)?;
    let mut run = Run { source: &source, observer, first: 0, services, made: 0, amount };
    step("one endpoint after the other");
    result.endpoint = run.latency(&process, amount.changes, 1, Run::replace_endpoints)?;
    step("one Service after the other");
    result.service = run.latency(&process, amount.changes / 5, 1, Run::add_services)?;
    step("endpoints in bursts");
    result.burst = run.latency(&process, amount.changes, amount.burst, Run::replace_endpoints)?;
    let churn = amount.churn.unwrap_or((services * CHURN_PER_SERVICE).max(CHURN_HOUR));
    let bursts = churn / CHURN_BURST;
    let start_of_churn = Instant::now();
    for burst in 0..bursts {
        if start_of_churn.elapsed() > amount.patience {
            break;
        }
        run.observer.clear();
        let (_, expected) = run.churn();
        run.observer.wait_for(&expected, amount.limit)?;
        if (burst + 1) % (bursts / CHURN_SAMPLES).max(1) == 0 {
            step(&format!("churn, {} of {churn}", (burst + 1) * CHURN_BURST));
            result.churn_bytes.push(process.memory()?.0);
        }
        result.churn_changes += CHURN_BURST;
    }
    ensure!(process.is_running(), process.last_words(&log));

    step("restart");
    process.kill();
    run.observer.clear();
    let (_, expected) = run.replace_endpoints(1);
    let mut process = start()?;
    let seen =
        run.observer.wait_for(&expected, amount.limit).with_context(|| process.last_words(&log))?;
    result.restart_seconds = (seen[0] - process.started).as_secs_f64();
    ensure!(process.is_running(), process.last_words(&log));
    Ok(result)
}

/// Some of the Services, the first and the last among them.
fn samples(services: u32) -> Vec<SocketAddr> {
    let places = 20.min(services);
    let numbers = (0..places).map(|place| {
        let last = u64::from(services - 1);
        (last * u64::from(place) / u64::from(places.max(2) - 1)) as u32
    });
    numbers.map(|number| address(number).into()).collect()
}

fn address(service: u32) -> SocketAddrV4 {
    SocketAddrV4::new(cluster::cluster_ip(service), SERVICE_PORT)
}

/// Waits until a process does nothing any more.
fn settle(process: &Measured, limit: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut quiet = 0;
    let mut before = process.on_cpu()?;
    while quiet < 4 {
        ensure!(start.elapsed() < limit, "the process is still busy after {limit:?}");
        thread::sleep(Duration::from_millis(250));
        let now = process.on_cpu()?;
        let is_quiet = now.saturating_sub(before) < Duration::from_millis(5);
        // A program that it has started works for it.
        quiet = if is_quiet && !process.has_children() { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// What changes at once: when it was told, and what is to be seen of it.
type Told = (Instant, Vec<Expected>);

/// Changes of a cluster.
struct Run<'a> {
    source: &'a Source,
    observer: Observer<'a>,
    /// Number of the first Service that there is.
    first: u32,
    /// One more than the number of the last.
    services: u32,
    /// Endpoints replaced so far, each by one with an address of its own.
    made: u32,
    amount: &'a Amount,
}

impl Run<'_> {
    /// Makes `changes` in bursts of `size` and waits for each burst.
    fn latency(
        &mut self,
        process: &Measured,
        changes: u32,
        size: u32,
        make: impl Fn(&mut Self, u32) -> Told,
    ) -> anyhow::Result<Latency> {
        let bursts = changes.div_ceil(size);
        let mut times = Vec::new();
        let cpu = process.on_cpu()?;
        let start = Instant::now();
        while (times.len() as u32) < bursts && start.elapsed() < self.amount.patience {
            self.observer.clear();
            let (told, expected) = make(self, size);
            let seen = self.observer.wait_for(&expected, self.amount.limit)?;
            let last = seen.into_iter().max().context("a burst of nothing")?;
            times.push((last - told).as_secs_f64() * 1000.0);
            // Whoever is measured may go to sleep, as between the changes of a cluster.
            thread::sleep(Duration::from_micros(300));
        }
        let used = process.on_cpu()?.saturating_sub(cpu);
        let changes = times.len() as u32 * size;
        Ok(Latency {
            changes,
            p50_ms: quantile(&times, 0.5),
            p99_ms: quantile(&times, 0.99),
            cpu_ms: used.as_secs_f64() * 1000.0 / f64::from(changes),
        })
    }

    /// Replaces one endpoint of so many Services.
    fn replace_endpoints(&mut self, count: u32) -> Told {
        let (changes, expected) =
            (0..count).map(|_| self.replaced_endpoint()).unzip::<_, _, Vec<_>, _>();
        (self.source.change(changes), expected)
    }

    fn replaced_endpoint(&mut self) -> (Change, Expected) {
        let change = self.made;
        self.made += 1;
        let service = self.first + change.wrapping_mul(7919) % (self.services - self.first);
        let mut endpoints = cluster::endpoints(service);
        let new = cluster::new_endpoint(change);
        endpoints[(change % ENDPOINTS) as usize] = new;
        let slice = slice(service, endpoints, false);
        (slice, Expected { service: address(service), endpoint: Some(new) })
    }

    /// Adds so many Services, each with its endpoints.
    fn add_services(&mut self, count: u32) -> Told {
        let added = self.services..self.services + count;
        self.services = added.end;
        let changes = added.clone().flat_map(|number| {
            [service(number, false), slice(number, cluster::endpoints(number), false)]
        });
        let told = self.source.change(changes);
        (told, added.map(|n| Expected { service: address(n), endpoint: None }).collect())
    }

    /// A second of a busy cluster: Services come and go, and endpoints of others are replaced.
    fn churn(&mut self) -> Told {
        let gone = self.first..self.first + CHURN_SERVICES;
        self.first = gone.end;
        self.source.change(gone.flat_map(|number| {
            [service(number, true), slice(number, cluster::endpoints(number), true)]
        }));
        let (_, mut expected) = self.add_services(CHURN_SERVICES);
        let (told, replaced) = self.replace_endpoints(CHURN_BURST - 2 * CHURN_SERVICES);
        expected.extend(replaced);
        (told, expected)
    }
}

fn service(number: u32, deleted: bool) -> Change {
    let object = Box::new(move |version| cluster::service(number, version));
    Change { kind: Kind::Service, number, object, deleted }
}

fn slice(number: u32, endpoints: Vec<Ipv4Addr>, deleted: bool) -> Change {
    let object = Box::new(move |version| cluster::slice(number, version, &endpoints));
    Change { kind: Kind::EndpointSlice, number, object, deleted }
}
