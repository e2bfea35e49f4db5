//! What a connection costs on its way: by the pod's address, through a ClusterIP, through a node port,
//! under the rules of several proxies.
//!
//! Each rule set has a site of its own, so that all are there at the same time and are measured in
//! turn, a moment each and again, in alternating order: what the machine does meanwhile hits them alike. A machine that
//! others share is some percent faster or slower for seconds; a rate that is compared with another one half a
//! minute later says more of that than of the rules.

mod shapes;
mod traffic;

use std::fs;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, ENDPOINT_PORT, NODE_ADDRESS, SERVICE_PORT, Size};
use crate::effect::wait_for_answers;
use crate::process::Measured;
use crate::progress::Progress;
use crate::proxies::Proxy;
use crate::site::{Client, Site};
use crate::source::{Source, write_kubeconfig};
use crate::statistics::{Spread, quantile};
use traffic::Endpoints;

/// How much is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    /// Runs of each.
    pub(crate) runs: usize,
    /// Length of a run.
    pub(crate) run: Duration,
    /// How long loading a rule set may take.
    pub(crate) limit: Duration,
    /// How long the answer to a packet may take.
    pub(crate) answer: Duration,
}

impl Amount {
    /// Parts that [`measure`] has, for who shows its progress.
    pub(crate) fn parts(&self, rules: &[Rules]) -> u64 {
        (rules.len() + self.runs) as u64
    }
}

/// Whose rules.
#[derive(Debug, Clone)]
pub(crate) enum Rules {
    /// Nobody's: not even connections are tracked.
    None,
    /// A proxy's, with so many Services.
    Of(Proxy, u32),
    /// In the shape of kube-proxy's nftables mode.
    NftablesShape(u32),
    /// In the shape of kube-proxy's iptables mode, loaded into legacy iptables.
    IptablesShape(u32),
}

/// How connections reach the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// By its address, from a pod.
    Direct,
    /// Through the last Service's ClusterIP, from a pod.
    ClusterIp,
    /// By its address, from outside.
    DirectFromOutside,
    /// Through a node port, from outside.
    NodePort,
    /// By the address of a pod on another node, from outside by this node.
    DirectToOtherNode,
    /// Through a node port of this node to a pod on another.
    NodePortToOtherNode,
}

/// What was measured of one way under one rule set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Path {
    /// Whose rules: `none`, `portolan` or another.
    pub(crate) rules: String,
    /// Number of Services.
    pub(crate) services: u32,
    /// How connections reach the pod.
    pub(crate) way: Way,
    /// New connections a second.
    pub(crate) connections: Spread,
    /// The same as a share of the connections without rules, run by run.
    pub(crate) of_no_rules: Spread,
    /// The same as a share of the direct way under the same rules, run by run.
    pub(crate) of_direct: Spread,
    /// Processor time of a connection at both ends and between, in microseconds.
    pub(crate) cpu_us: Spread,
    /// Time of an answer on an open connection, in microseconds: half take no longer.
    pub(crate) answer_p50_us: Spread,
    /// 99 of 100 take no longer.
    pub(crate) answer_p99_us: Spread,
    /// Bytes a second on an open connection.
    pub(crate) throughput: Spread,
}

/// A rule set that is loaded.
struct Loaded {
    name: String,
    services: u32,
    site: Site,
    endpoints: Endpoints,
    /// Those of another node.
    far: Endpoints,
    /// The proxy that keeps it; it goes with this.
    _process: Option<Measured>,
}

/// How long a moment is.
const MOMENT: Duration = Duration::from_millis(100);

/// One way under one rule set, and what its runs have shown.
struct Case<'l> {
    rules: &'l Loaded,
    way: Way,
    current: Run,
    connections: Vec<f64>,
    cpu_us: Vec<f64>,
    answer_p50_us: Vec<f64>,
    answer_p99_us: Vec<f64>,
    throughput: Vec<f64>,
}

/// What the moments of a run have shown so far.
#[derive(Default)]
struct Run {
    connections: f64,
    /// How long they took, in seconds.
    took: f64,
    /// How long processors were busy with them, in seconds.
    busy: f64,
    /// Of each answer, in microseconds.
    answers: Vec<f64>,
    /// Bytes a second of each moment.
    throughput: Vec<f64>,
}

/// Measures all ways under all of these rules.
pub(crate) fn measure(
    rules: &[Rules],
    amount: &Amount,
    progress: &Progress,
) -> anyhow::Result<Vec<Path>> {
    let mut loaded = Vec::new();
    for rules in rules {
        let services = rules.services();
        progress.step(&format!("loading the rules of {}, {services} Services", rules.name()));
        loaded.push(Loaded::new(rules, amount).with_context(|| rules.name())?);
        progress.part();
    }
    let mut cases: Vec<Case<'_>> =
        loaded.iter().flat_map(|rules| rules.ways().map(|way| Case::new(rules, way))).collect();
    let moments = amount.run.div_duration_f64(MOMENT).ceil().max(1.0) as u32;
    for run in 0..amount.runs {
        progress.step(&format!("traffic, run {} of {}", run + 1, amount.runs));
        for moment in 0..moments {
            let mut order: Vec<&mut Case<'_>> = cases.iter_mut().collect();
            if moment % 2 == 1 {
                order.reverse();
            }
            for case in order {
                let context = format!("{} under the rules of {}", case.way.name(), case.rules.name);
                case.measure(amount.run / moments).context(context)?;
            }
        }
        cases.iter_mut().for_each(Case::finish_run);
        progress.part();
    }
    Ok(cases.iter().map(|case| case.result(&cases)).collect())
}

impl Rules {
    fn name(&self) -> String {
        match self {
            Rules::None => "none".to_owned(),
            Rules::Of(proxy, _) => proxy.name().to_owned(),
            Rules::NftablesShape(_) => "kube-proxy-nftables-shape".to_owned(),
            Rules::IptablesShape(_) => "kube-proxy-iptables-shape".to_owned(),
        }
    }

    fn services(&self) -> u32 {
        match self {
            Rules::None => 0,
            Rules::Of(_, n) | Rules::NftablesShape(n) | Rules::IptablesShape(n) => *n,
        }
    }
}

impl Way {
    /// Its name in text.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Direct => "pod address",
            Way::ClusterIp => "ClusterIP",
            Way::DirectFromOutside => "pod address, from outside",
            Way::NodePort => "NodePort, from outside",
            Way::DirectToOtherNode => "pod address on another node, from outside",
            Way::NodePortToOtherNode => "NodePort to another node, from outside",
        }
    }

    /// The way without translation from the same place.
    fn direct(self) -> Way {
        match self {
            Way::Direct | Way::ClusterIp => Way::Direct,
            Way::DirectFromOutside | Way::NodePort => Way::DirectFromOutside,
            Way::DirectToOtherNode | Way::NodePortToOtherNode => Way::DirectToOtherNode,
        }
    }
}

impl Loaded {
    fn new(rules: &Rules, amount: &Amount) -> anyhow::Result<Self> {
        let (name, services) = (rules.name(), rules.services());
        let site = Site::new()?;
        let endpoints = Endpoints::serve(&site.pods)?;
        let far = Endpoints::serve(&site.far)?;
        let write = |text: String| -> anyhow::Result<String> {
            let path = site.directory().join("rules");
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path.to_string_lossy().into_owned())
        };
        let mut process = None;
        match rules {
            Rules::None => {}
            Rules::NftablesShape(services) => {
                let path = write(shapes::nftables(*services))?;
                site.run(&site.node, &["nft", "-f", &path])?;
            }
            Rules::IptablesShape(services) => {
                let path = write(shapes::iptables(*services))?;
                site.run(&site.node, &["iptables-legacy-restore", &path])?;
            }
            Rules::Of(proxy, services) => {
                let source = Source::start(&site.node, Size::of(*services))?;
                let kubeconfig = site.directory().join("kubeconfig");
                write_kubeconfig(&source, &kubeconfig)?;
                let mut command = proxy.command(&kubeconfig, &site)?;
                let log = site.directory().join("log");
                process = Some(Measured::start(&site.node, &mut command, &log)?);
            }
        }
        let mut loaded = Self { name, services, site, endpoints, far, _process: None };
        let targets = loaded.ways().map(|way| (way, loaded.address(way).into()));
        for (way, address) in targets {
            let (client, begun) = (loaded.client(way), Instant::now());
            wait_for_answers(client, &[address], begun, amount.limit, amount.answer, || {
                process.as_mut().map_or(Ok(()), Measured::check)
            })?;
        }
        loaded._process = process;
        Ok(loaded)
    }

    fn ways(&self) -> impl Iterator<Item = Way> + use<> {
        let all = [
            Way::Direct,
            Way::ClusterIp,
            Way::DirectFromOutside,
            Way::NodePort,
            Way::DirectToOtherNode,
            Way::NodePortToOtherNode,
        ];
        let has_services = self.services > 0;
        all.into_iter().filter(move |way| has_services || *way == way.direct())
    }

    fn client(&self, way: Way) -> &Client {
        match way {
            Way::Direct | Way::ClusterIp => &self.site.client,
            _ => &self.site.outside,
        }
    }

    /// Whom it reaches.
    fn endpoints(&self, way: Way) -> &Endpoints {
        match way.direct() {
            Way::DirectToOtherNode => &self.far,
            _ => &self.endpoints,
        }
    }

    /// Where a client of that way connects to.
    fn address(&self, way: Way) -> SocketAddrV4 {
        // The first ones have their pods on another node, also where there are no Services.
        let last = self.services.max(3) - 1;
        // The last of those that have one.
        let node_port = (0..self.services).rev().find_map(cluster::node_port).unwrap_or(0);
        match way {
            Way::Direct | Way::DirectFromOutside => {
                SocketAddrV4::new(cluster::endpoint(last, 0), ENDPOINT_PORT)
            }
            Way::ClusterIp => SocketAddrV4::new(cluster::cluster_ip(last), SERVICE_PORT),
            Way::NodePort => SocketAddrV4::new(NODE_ADDRESS, node_port),
            Way::DirectToOtherNode => SocketAddrV4::new(cluster::endpoint(0, 0), ENDPOINT_PORT),
            Way::NodePortToOtherNode => {
                SocketAddrV4::new(NODE_ADDRESS, cluster::node_port(0).unwrap_or(0))
            }
        }
    }
}

impl<'l> Case<'l> {
    fn new(rules: &'l Loaded, way: Way) -> Self {
        Self {
            rules,
            way,
            current: Run::default(),
            connections: Vec::new(),
            cpu_us: Vec::new(),
            answer_p50_us: Vec::new(),
            answer_p99_us: Vec::new(),
            throughput: Vec::new(),
        }
    }

    /// Measures for a moment: new connections for so long, answers and throughput for half as long each.
    fn measure(&mut self, duration: Duration) -> anyhow::Result<()> {
        let (site, endpoints) = (&self.rules.site, self.rules.endpoints(self.way));
        let (client, to) = (self.rules.client(self.way), self.rules.address(self.way));
        if self.rules.services > 0 {
            // What is tracked of earlier ones would have to be replaced.
            site.run(&site.node, &["conntrack", "-F"])?;
        }
        // What the last one has left to do.
        thread::sleep(Duration::from_millis(50));
        let run = &mut self.current;
        let before = busy()?;
        let start = Instant::now();
        run.connections += client.run(|| traffic::connections(endpoints, to, duration))?? as f64;
        run.took += start.elapsed().as_secs_f64();
        run.busy += busy()? - before;
        run.answers.extend(client.run(|| traffic::answers(endpoints, to, duration / 2))??);
        let throughput = client.run(|| traffic::throughput(endpoints, to, duration / 2))??;
        run.throughput.push(throughput);
        Ok(())
    }

    fn finish_run(&mut self) {
        let run = std::mem::take(&mut self.current);
        self.connections.push(run.connections / run.took);
        self.cpu_us.push(run.busy * 1e6 / run.connections);
        self.answer_p50_us.push(quantile(&run.answers, 0.5));
        self.answer_p99_us.push(quantile(&run.answers, 0.99));
        self.throughput.push(quantile(&run.throughput, 0.5));
    }

    fn result(&self, all: &[Case<'_>]) -> Path {
        let of = |other: Option<&Case<'_>>| {
            let other = other.map_or(&[][..], |other| &other.connections);
            let ratios: Vec<f64> =
                self.connections.iter().zip(other).map(|(own, other)| own / other).collect();
            Spread::of(&ratios)
        };
        let direct = |case: &&Case<'_>| case.way == self.way.direct();
        let without = all.iter().filter(direct).find(|case| case.rules.services == 0);
        let same = all.iter().filter(direct).find(|case| std::ptr::eq(case.rules, self.rules));
        Path {
            rules: self.rules.name.clone(),
            services: self.rules.services,
            way: self.way,
            connections: Spread::of(&self.connections),
            of_no_rules: of(without),
            of_direct: of(same),
            cpu_us: Spread::of(&self.cpu_us),
            answer_p50_us: Spread::of(&self.answer_p50_us),
            answer_p99_us: Spread::of(&self.answer_p99_us),
            throughput: Spread::of(&self.throughput),
        }
    }
}

/// Time that all processors were busy since the machine began, in seconds (proc_stat(5)).
fn busy() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).map(str::parse::<f64>);
    let fields: Vec<f64> = fields.collect::<Result<_, _>>().context("read /proc/stat")?;
    let sum = |places: &[usize]| places.iter().filter_map(|place| fields.get(*place)).sum::<f64>();
    // User, nice, system, interrupts of both kinds; not idle, waiting or stolen.
    Ok(sum(&[0, 1, 2, 5, 6]) / crate::process::TICKS)
}
