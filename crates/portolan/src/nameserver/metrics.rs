//! What CoreDNS counts and measures, under its names, so that existing dashboards and alerts go on working.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dns::Resolver;
use dns::tally::{Area, CODES, Counted, DURATIONS, Histogram, KINDS, SIZES, Tallies, Tally};
use dns::wire::Transport;

use crate::probes::Answer;

/// The media type of Prometheus' text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What CoreDNS calls a server, of which there is one here.
const SERVER: &str = "dns://:53";

/// What is answered at the moment.
#[derive(Clone, Default)]
pub(super) struct Current(Arc<Mutex<Option<Answered>>>);

/// The cluster's domain, and who knows the rest.
type Answered = (String, Arc<Resolver>);

impl Current {
    pub(super) fn set(&self, domain: String, resolver: Arc<Resolver>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((domain, resolver));
    }

    fn get(&self) -> Option<Answered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All metrics of a name server.
pub(super) struct Metrics {
    tallies: Tallies,
    current: Current,
}

/// What is told at one moment.
struct Told {
    /// Name of the cluster's zone.
    domain: String,
    resolver: Arc<Resolver>,
    tallies: Vec<Arc<Tally>>,
}

/// A counter or a histogram is told of each of these.
struct Group<'t> {
    zone: &'t str,
    tally: &'t Tally,
    counted: &'t Counted,
}

impl Metrics {
    pub(super) fn new(tallies: Tallies, current: Current) -> Self {
        Self { tallies, current }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut text = String::new();
        // Before anything is answered there is nothing to tell.
        if let Some((domain, resolver)) = self.current.get() {
            let told = Told { domain, resolver, tallies: self.tallies.all() };
            // Writing to a string does not fail.
            let _ = told.write(&mut text);
        }
        Answer::text(text).with_media_type(MEDIA_TYPE)
    }
}

impl Told {
    fn write(&self, to: &mut String) -> fmt::Result {
        let groups: Vec<Group<'_>> =
            self.tallies.iter().flat_map(|tally| self.groups(tally)).collect();
        let version = env!("CARGO_PKG_VERSION");
        head(to, "coredns_build_info", "gauge", "Version of this server.")?;
        writeln!(to, "coredns_build_info{{version=\"{version}\",server=\"portolan\"}} 1")?;
        self.requests(to, &groups)?;
        head(
            to,
            "coredns_dns_do_requests_total",
            "counter",
            "Questions of clients that take signatures.",
        )?;
        for (zone, count) in self.per_zone(&groups, |counted| load(&counted.dnssec_ok)) {
            writeln!(to, "coredns_dns_do_requests_total{{{}}} {count}", zone_labels(zone))?;
        }
        head(to, "coredns_dns_responses_total", "counter", "Answers, by what they say.")?;
        for (at, (_, name)) in CODES.iter().enumerate() {
            for (zone, count) in self.per_zone(&groups, |counted| load(&counted.responses[at])) {
                if count > 0 {
                    let labels = zone_labels(zone);
                    writeln!(
                        to,
                        "coredns_dns_responses_total{{{labels},rcode=\"{name}\",plugin=\"\"}} {count}"
                    )?;
                }
            }
        }
        self.histograms(to, &groups)?;
        self.searches(to)?;
        self.cache(to)?;
        self.forwarding(to)
    }

    fn searches(&self, to: &mut String) -> fmt::Result {
        let name = "coredns_autopath_success_total";
        head(
            to,
            name,
            "counter",
            "First questions of pods' searches that were answered with what is found at the end.",
        )?;
        let count: u64 = self.tallies.iter().map(|tally| load(&tally.found_for_pods)).sum();
        writeln!(to, "{name}{{server=\"{SERVER}\"}} {count}")
    }

    fn groups<'t>(&'t self, tally: &'t Arc<Tally>) -> impl Iterator<Item = Group<'t>> {
        [(Area::Cluster, &*self.domain), (Area::Foreign, ".")]
            .into_iter()
            .map(move |(area, zone)| Group { zone, tally, counted: &tally.areas[area as usize] })
    }

    /// Sums over all readers.
    fn per_zone<'z>(
        &'z self,
        groups: &[Group<'_>],
        value: impl Fn(&Counted) -> u64,
    ) -> [(&'z str, u64); 2] {
        [&*self.domain, "."].map(|zone| {
            let of_zone = groups.iter().filter(|group| group.zone == zone);
            (zone, of_zone.map(|group| value(group.counted)).sum())
        })
    }

    fn requests(&self, to: &mut String, groups: &[Group<'_>]) -> fmt::Result {
        head(
            to,
            "coredns_dns_requests_total",
            "counter",
            "Questions, by how they came and what is asked for.",
        )?;
        for zone in [&*self.domain, "."] {
            for (transport, is_v4) in WAYS {
                let of_way = || {
                    groups.iter().filter(move |group| {
                        group.zone == zone
                            && group.tally.transport == transport
                            && group.tally.is_v4 == is_v4
                    })
                };
                for (at, (_, name)) in KINDS.iter().enumerate() {
                    let count: u64 = of_way().map(|group| load(&group.counted.requests[at])).sum();
                    if count > 0 {
                        let (labels, proto) = (zone_labels(zone), proto(transport));
                        let family = if is_v4 { 1 } else { 2 };
                        writeln!(
                            to,
                            "coredns_dns_requests_total{{{labels},proto=\"{proto}\",family=\"{family}\",type=\"{name}\"}} {count}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    fn histograms(&self, to: &mut String, groups: &[Group<'_>]) -> fmt::Result {
        let name = "coredns_dns_request_duration_seconds";
        head(to, name, "histogram", "How long answers took.")?;
        for zone in [&*self.domain, "."] {
            let all = groups.iter().filter(|group| group.zone == zone);
            let all: Vec<_> = all.map(|group| &group.counted.durations).collect();
            histogram(to, name, &zone_labels(zone), &DURATIONS, &all, 1e-6)?;
        }
        type Sizes<'c> = fn(&'c Counted) -> &'c Histogram<{ SIZES.len() }>;
        let sizes: [(&str, &str, Sizes<'_>); 2] = [
            ("coredns_dns_request_size_bytes", "How long questions are.", |c| &c.request_sizes),
            ("coredns_dns_response_size_bytes", "How long answers are.", |c| &c.response_sizes),
        ];
        for (name, help, sizes) in sizes {
            head(to, name, "histogram", help)?;
            for zone in [&*self.domain, "."] {
                for transport in [Transport::Udp, Transport::Tcp] {
                    let all = groups
                        .iter()
                        .filter(|group| group.zone == zone && group.tally.transport == transport);
                    let all: Vec<_> = all.map(|group| sizes(group.counted)).collect();
                    let labels = format!("{},proto=\"{}\"", zone_labels(zone), proto(transport));
                    histogram(to, name, &labels, &SIZES, &all, 1.0)?;
                }
            }
        }
        Ok(())
    }

    fn cache(&self, to: &mut String) -> fmt::Result {
        let Some(counts) = self.resolver.cache_counts() else { return Ok(()) };
        let labels = format!("server=\"{SERVER}\",zones=\".\",view=\"\"");
        let requests = counts.hits.iter().chain([&counts.misses]).map(load).sum::<u64>();
        let name = "coredns_cache_requests_total";
        head(to, name, "counter", "Questions that an answer of others was looked for.")?;
        writeln!(to, "{name}{{{labels}}} {requests}")?;
        head(to, "coredns_cache_hits_total", "counter", "Answers of others that were known.")?;
        for (kind, count) in ["success", "denial"].iter().zip(&counts.hits) {
            writeln!(to, "coredns_cache_hits_total{{{labels},type=\"{kind}\"}} {}", load(count))?;
        }
        for (name, kind, help, count) in [
            (
                "coredns_cache_misses_total",
                "counter",
                "Answers of others that were not known.",
                &counts.misses,
            ),
            (
                "coredns_cache_prefetch_total",
                "counter",
                "Answers that were asked for again before they were over.",
                &counts.prefetches,
            ),
            (
                "coredns_cache_served_stale_total",
                "counter",
                "Answers that were given after their time.",
                &counts.stale,
            ),
            (
                "coredns_cache_evictions_total",
                "counter",
                "Answers that made room for others.",
                &counts.evictions,
            ),
            ("coredns_cache_entries", "gauge", "Answers that are kept.", &counts.entries),
        ] {
            head(to, name, kind, help)?;
            writeln!(to, "{name}{{{labels}}} {}", load(count))?;
        }
        Ok(())
    }

    fn forwarding(&self, to: &mut String) -> fmt::Result {
        let upstreams = self.resolver.upstreams();
        let asked = upstreams.asked();
        head(to, "coredns_forward_requests_total", "counter", "Questions to other servers.")?;
        for asked in &asked {
            writeln!(
                to,
                "coredns_forward_requests_total{{to=\"{}\"}} {}",
                asked.server, asked.questions
            )?;
        }
        head(
            to,
            "coredns_forward_failures_total",
            "counter",
            "Questions that another server did not answer.",
        )?;
        for asked in &asked {
            writeln!(
                to,
                "coredns_forward_failures_total{{to=\"{}\"}} {}",
                asked.server, asked.failures
            )?;
        }
        head(
            to,
            "coredns_forward_max_concurrent_rejects_total",
            "counter",
            "Questions refused since too many waited.",
        )?;
        writeln!(to, "coredns_forward_max_concurrent_rejects_total {}", upstreams.rejected())
    }
}

/// How questions come.
const WAYS: [(Transport, bool); 4] = [
    (Transport::Udp, true),
    (Transport::Udp, false),
    (Transport::Tcp, true),
    (Transport::Tcp, false),
];

fn proto(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

fn zone_labels(zone: &str) -> String {
    format!("server=\"{SERVER}\",zone=\"{zone}\",view=\"\"")
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn head(to: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(to, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// A histogram that several have counted. `unit` is what a value of 1 stands for.
fn histogram<const N: usize>(
    to: &mut String,
    name: &str,
    labels: &str,
    bounds: &[u64; N],
    parts: &[&Histogram<N>],
    unit: f64,
) -> fmt::Result {
    let mut count = 0;
    for (at, bound) in bounds.iter().enumerate() {
        count += parts.iter().map(|part| load(&part.buckets[at])).sum::<u64>();
        let bound = *bound as f64 * unit;
        writeln!(to, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
    }
    count += parts.iter().map(|part| load(&part.beyond)).sum::<u64>();
    let sum = parts.iter().map(|part| load(&part.sum)).sum::<u64>() as f64 * unit;
    writeln!(to, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(to, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}")
}
