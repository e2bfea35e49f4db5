//! What kube-proxy counts and measures, under its names, so that existing dashboards and alerts go on
//! working. Both families are programmed in one go, so both have the same figures.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use dataplane::{Mode, Observer, Transaction};
use http::StatusCode;
use model::{Event, Family, Object};
use plan::{Action, Group, GroupId, Origin, Refusal, Rule};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

use super::dataplane::InForce;
use crate::probes::Answer;

/// The media type of what [`Metrics::text`] writes.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, &'static str)>;
type Counters = family::Family<Labels, Counter>;
type Gauges<N = i64, A = AtomicI64> = family::Family<Labels, Gauge<N, A>>;
type Times = Gauges<f64, AtomicU64>;
type PerService = family::Family<Vec<(&'static str, String)>, Gauge>;
type Histograms = family::Family<Labels, Histogram, fn() -> Histogram>;

/// All metrics of a proxy. Clones count on together.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    /// Service ports that a policy leaves without endpoints, by group.
    without_local: Arc<Mutex<HashMap<GroupId, Vec<Labels>>>>,
    durations: Histograms,
    whole_durations: Histograms,
    partial_durations: Histograms,
    programmed: Times,
    queued: Times,
    /// Transactions that failed, by the data plane: each has a name of its own for them.
    failures: [(Mode, Counters); Mode::ALL.len()],
    in_force: InForce,
    no_local_endpoints: Gauges,
    service_changes: Changes,
    endpoint_changes: Changes,
    forgotten: Counters,
    forgetting: Histograms,
    healthz: Counters,
    livez: Counters,
    programming: Histograms,
    waiting: Arc<Mutex<Vec<Waiting>>>,
    since: SystemTime,
    connections: PerService,
    /// Somebody has read the metrics: what takes long to count is counted again for the next time.
    read: Arc<Notify>,
}

/// A change of endpoints that is not programmed yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// When it was taken in.
    noted: Instant,
    /// When what caused it happened, as the controller says.
    triggered: SystemTime,
}

/// Services whose connections are told at most: those with the most.
const MAX_SERVICES: usize = 100;

/// Changes that came from the API, and those of them that are not programmed yet.
#[derive(Clone, Default)]
struct Changes {
    total: Counters,
    pending: Gauges,
}

impl Metrics {
    /// All at zero.
    pub(super) fn new(in_force: InForce) -> Self {
        // A millisecond, doubled 14 times.
        let buckets = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let histograms = || Histograms::new_with_constructor(buckets as fn() -> Histogram);
        let mut metrics = Self {
            registry: Arc::default(),
            without_local: Arc::default(),
            durations: histograms(),
            whole_durations: histograms(),
            partial_durations: histograms(),
            programmed: Times::default(),
            queued: Times::default(),
            failures: Mode::ALL.map(|mode| (mode, Counters::default())),
            in_force,
            no_local_endpoints: Gauges::default(),
            service_changes: Changes::default(),
            endpoint_changes: Changes::default(),
            forgotten: Counters::default(),
            forgetting: histograms(),
            healthz: Counters::default(),
            livez: Counters::default(),
            programming: Histograms::new_with_constructor(programming_buckets),
            waiting: Arc::default(),
            since: SystemTime::now(),
            connections: PerService::default(),
            read: Arc::default(),
        };
        for labels in FAMILIES.map(by_family) {
            // What has not happened yet is told as zero, so that rates begin where they should.
            drop(metrics.failures().get_or_create(&labels));
            drop(metrics.forgotten.get_or_create(&labels));
            for changes in [&metrics.service_changes, &metrics.endpoint_changes] {
                drop(changes.total.get_or_create(&labels));
                drop(changes.pending.get_or_create(&labels));
            }
            for policy in ["internal", "external"] {
                let labels = by_policy(policy, labels[0].1);
                drop(metrics.no_local_endpoints.get_or_create(&labels));
            }
        }
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("portolan").register(
            "service_connections",
            "Connections translated on the node, of the Services that have the most of them, as of the last reading",
            self.connections.clone(),
        );
        let all = registry.sub_registry_with_prefix("kubeproxy");
        let mut add = |name: &str, help: &str, metric: Metric| match metric {
            Metric::Counters(metric) => all.register(name, help, metric),
            Metric::Gauges(metric) => all.register(name, help, metric),
            Metric::Times(metric) => all.register(name, help, metric),
            Metric::Histograms(metric) => all.register(name, help, metric),
        };
        use Metric as M;
        add(
            "sync_proxy_rules_duration_seconds",
            "Time that programming takes",
            M::Histograms(self.durations.clone()),
        );
        add(
            "sync_full_proxy_rules_duration_seconds",
            "Time that programming everything takes",
            M::Histograms(self.whole_durations.clone()),
        );
        add(
            "sync_partial_proxy_rules_duration_seconds",
            "Time that programming a change takes",
            M::Histograms(self.partial_durations.clone()),
        );
        add(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the last change was programmed",
            M::Times(self.programmed.clone()),
        );
        add(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When the last change was handed to the data plane",
            M::Times(self.queued.clone()),
        );
        for (mode, failures) in &self.failures {
            let (name, help) = match mode {
                Mode::Nftables => (
                    "sync_proxy_rules_nftables_sync_failures",
                    "Transactions that the kernel refused",
                ),
                Mode::Iptables => (
                    "sync_proxy_rules_iptables_restore_failures",
                    "Runs of iptables-restore that failed",
                ),
                Mode::Ebpf => (
                    "sync_proxy_rules_ebpf_sync_failures",
                    "Changes that maps or the table behind them refused",
                ),
                Mode::Ipvs => (
                    "sync_proxy_rules_ipvs_sync_failures",
                    "Changes that IPVS or its companion's table refused",
                ),
            };
            add(name, help, M::Counters(failures.clone()));
        }
        add(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with endpoints, but none that a Local policy allows",
            M::Gauges(self.no_local_endpoints.clone()),
        );
        for (changes, what) in
            [(&self.service_changes, "service"), (&self.endpoint_changes, "endpoint")]
        {
            add(
                &format!("sync_proxy_rules_{what}_changes"),
                "Changes that came from the API",
                M::Counters(changes.total.clone()),
            );
            add(
                &format!("sync_proxy_rules_{what}_changes_pending"),
                "Changes that are not programmed yet",
                M::Gauges(changes.pending.clone()),
            );
        }
        add(
            "conntrack_reconciler_deleted_entries",
            "Stale UDP entries of connection tracking that were forgotten",
            M::Counters(self.forgotten.clone()),
        );
        add(
            "conntrack_reconciler_sync_duration_seconds",
            "Time that looking for stale entries takes",
            M::Histograms(self.forgetting.clone()),
        );
        add(
            "network_programming_duration_seconds",
            "Time from what changed endpoints to their being programmed",
            M::Histograms(self.programming.clone()),
        );
        add("proxy_healthz", "Answers of /healthz", M::Counters(self.healthz.clone()));
        add("proxy_livez", "Answers of /livez", M::Counters(self.livez.clone()));
        registry
    }

    /// Notes a change that a watch has told of.
    pub(super) fn note(&self, event: &Event) {
        if let Event::Put(Object::EndpointSlice(slice)) = event
            && let Some(triggered) = &slice.triggered
            && let Ok(triggered) = triggered.parse::<jiff::Timestamp>()
        {
            let triggered = SystemTime::from(triggered);
            // What happened before this process began says nothing about it.
            if triggered > self.since {
                self.waiting().push(Waiting { noted: Instant::now(), triggered });
            }
        }
        let changes = match event {
            Event::Put(Object::Service(_)) | Event::Removed(model::Kind::Service, _) => {
                &self.service_changes
            }
            Event::Put(Object::EndpointSlice(_))
            | Event::Removed(model::Kind::EndpointSlice, _) => &self.endpoint_changes,
            _ => return,
        };
        for labels in FAMILIES.map(by_family) {
            changes.total.get_or_create(&labels).inc();
            changes.pending.get_or_create(&labels).inc();
        }
    }

    /// Notes that something was handed to the data plane.
    pub(super) fn queued(&self) {
        set_now(&self.queued);
    }

    /// Notes what a group was planned as; `None` removes it.
    pub(super) fn planned(&self, id: &GroupId, group: Option<&Group>) {
        let now = group.map(without_local).unwrap_or_default();
        let mut all = self.without_local.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match now.is_empty() {
            true => all.remove(id),
            false => all.insert(id.clone(), now.clone()),
        };
        for labels in before.iter().flatten() {
            self.no_local_endpoints.get_or_create(labels).dec();
        }
        for labels in &now {
            self.no_local_endpoints.get_or_create(labels).inc();
        }
    }

    /// Told of each reading.
    pub(super) fn read(&self) -> Arc<Notify> {
        self.read.clone()
    }

    /// Notes how many connections each Service has.
    pub(super) fn connected(&self, counts: BTreeMap<String, u64>) {
        let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        self.connections.clear();
        for (id, count) in counts.into_iter().take(MAX_SERVICES) {
            let (namespace, service) = id.split_once('/').unwrap_or(("", &id));
            let labels = vec![("namespace", namespace.to_owned()), ("service", service.to_owned())];
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.connections.get_or_create(&labels).set(count);
        }
    }

    /// The failures of the data plane that is in force.
    fn failures(&self) -> &Counters {
        let mode = self.in_force.get();
        let of_mode = self.failures.iter().find(|(of, _)| *of == mode);
        of_mode.map_or(&self.failures[0].1, |(_, failures)| failures)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an answer of the health server.
    pub(super) fn probed(&self, path: &str, code: StatusCode) {
        let counters = match path {
            "/healthz" => &self.healthz,
            "/livez" => &self.livez,
            _ => return,
        };
        let code = if code == StatusCode::OK { "200" } else { "503" };
        counters.get_or_create(&vec![("code", code)]).inc();
    }

    /// All of it, as Prometheus reads it (OpenMetrics 1.0).
    pub(super) fn answer(&self) -> Answer {
        self.read.notify_one();
        for labels in FAMILIES.map(by_family) {
            // Another data plane may have taken over since: it begins at zero.
            drop(self.failures().get_or_create(&labels));
        }
        let mut text = String::new();
        // Writing into a String can't fail.
        let _ = encode(&mut text, &self.registry);
        Answer::text(text).with_media_type(MEDIA_TYPE)
    }
}

impl Observer for Metrics {
    fn transaction(&mut self, done: Transaction) {
        for labels in FAMILIES.map(by_family) {
            if !done.succeeded {
                self.failures().get_or_create(&labels).inc();
                continue;
            }
            let took = done.took.as_secs_f64();
            self.durations.get_or_create(&labels).observe(took);
            let part = if done.whole { &self.whole_durations } else { &self.partial_durations };
            part.get_or_create(&labels).observe(took);
            for changes in [&self.service_changes, &self.endpoint_changes] {
                changes.pending.get_or_create(&labels).set(0);
            }
        }
        if done.succeeded {
            set_now(&self.programmed);
            // What came in later is part of the next one.
            let began = Instant::now().checked_sub(done.took);
            self.waiting().retain(|change| {
                let is_done = began.is_some_and(|began| change.noted <= began);
                if is_done && let Ok(took) = change.triggered.elapsed() {
                    for labels in FAMILIES.map(by_family) {
                        self.programming.get_or_create(&labels).observe(took.as_secs_f64());
                    }
                }
                !is_done
            });
        }
    }

    fn forgotten(&mut self, entries: usize, took: Duration) {
        for labels in FAMILIES.map(by_family) {
            self.forgetting.get_or_create(&labels).observe(took.as_secs_f64());
        }
        // Which family they were of is not told apart; each is counted once.
        let labels = by_family(Family::V4);
        self.forgotten.get_or_create(&labels).inc_by(entries as u64);
    }
}

enum Metric {
    Counters(Counters),
    Gauges(Gauges),
    Times(Times),
    Histograms(Histograms),
}

/// Buckets of kube-proxy: fine below two seconds, up to five minutes.
fn programming_buckets() -> Histogram {
    let steps =
        |first: f64, width: f64, count: u32| (0..count).map(move |i| first + width * f64::from(i));
    Histogram::new(
        steps(0.25, 0.25, 2)
            .chain(steps(1.0, 1.0, 59))
            .chain(steps(60.0, 5.0, 12))
            .chain(steps(120.0, 30.0, 7)),
    )
}

const FAMILIES: [Family; 2] = Family::ALL;

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn by_family(family: Family) -> Labels {
    vec![("ip_family", name(family))]
}

fn by_policy(policy: &'static str, family: &'static str) -> Labels {
    vec![("traffic_policy", policy), ("ip_family", family)]
}

fn set_now(times: &Times) {
    // A clock before 1970 has no time to tell.
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
    for family in FAMILIES {
        times.get_or_create(&by_family(family)).set(now);
    }
}

/// One entry for each port and policy that leaves the port without endpoints here.
fn without_local(group: &Group) -> Vec<Labels> {
    let mut found = std::collections::BTreeSet::new();
    for frontend in &group.frontends {
        let policy = match frontend.rule {
            Rule::ClusterIp => "internal",
            Rule::NodePort | Rule::LoadBalancer | Rule::ExternalIp => "external",
        };
        if matches!(frontend.action(Origin::Outside), Action::Drop(Refusal::NoLocalEndpoints)) {
            found.insert((frontend.port.clone(), policy));
        }
    }
    found.into_iter().map(|(port, policy)| by_policy(policy, name(port.family))).collect()
}

#[cfg(test)]
mod tests {
    use model::{ObjectName, World};
    use plan::{LocalDetector, NodeFacts, NodePortAddresses, NodeSettings, plan_service};
    use serde_json::{Value, json};

    use super::*;

    fn planned(spec: Value, nodes: &[&str]) -> Group {
        let mut service = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        service["spec"]["clusterIP"] = "10.96.0.1".into();
        let endpoint = |node: &&str| json!({"addresses": ["10.244.0.9"], "nodeName": node});
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "shop",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": nodes.iter().map(endpoint).collect::<Vec<_>>(),
        });
        let mut world = World::new();
        world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
        world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
        let settings = NodeSettings {
            node_name: "here".into(),
            local_detector: LocalDetector::None,
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            allowed_external_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            primary_address: None,
        };
        let node = NodeFacts::from_world(settings, &world);
        plan_service(&world, &node, &ObjectName::new("shop", "web")).unwrap()
    }

    #[test]
    fn names_and_labels_are_kube_proxys() {
        let mut metrics = Metrics::new(InForce::new(Mode::Nftables));
        metrics.queued();
        let took = Duration::from_millis(3);
        metrics.transaction(Transaction { whole: true, took, succeeded: true });
        metrics.transaction(Transaction { whole: false, took, succeeded: false });
        metrics.forgotten(2, took);
        metrics.probed("/healthz", StatusCode::SERVICE_UNAVAILABLE);
        metrics.probed("/", StatusCode::NOT_FOUND);
        let text = metrics.answer().body;
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_service_changes_pending{ip_family=\"IPv4\"} 0",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 2",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn failures_have_the_name_of_the_data_plane_in_force() {
        let failed = Transaction { whole: false, took: Duration::ZERO, succeeded: false };
        for (mode, name, other) in [
            (Mode::Nftables, "nftables_sync", "iptables_restore"),
            (Mode::Iptables, "iptables_restore", "nftables_sync"),
        ] {
            let mut metrics = Metrics::new(InForce::new(mode));
            let line = |count| format!("_{name}_failures_total{{ip_family=\"IPv6\"}} {count}");
            assert!(metrics.answer().body.contains(&line(0)), "{mode}");
            metrics.transaction(failed);
            let text = metrics.answer().body;
            assert!(text.contains(&line(1)), "{text}");
            assert!(!text.contains(&format!("_{other}_failures_total{{")), "{text}");
        }
    }

    #[test]
    fn time_counts_from_what_caused_a_change() {
        let mut metrics = Metrics::new(InForce::new(Mode::Nftables));
        metrics.since -= Duration::from_secs(60);
        let slice = |seconds_ago: u64| {
            let then = SystemTime::now() - Duration::from_secs(seconds_ago);
            let then = jiff::Timestamp::try_from(then).unwrap();
            let slice = json!({
                "metadata": {"name": "web-1", "namespace": "shop",
                             "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": then.to_string()}},
                "addressType": "IPv4", "ports": [], "endpoints": [],
            });
            Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap()))
        };
        let count = |metrics: &Metrics, bucket: &str| {
            let text = metrics.answer().body;
            let start = format!(
                "kubeproxy_network_programming_duration_seconds_bucket{{le=\"{bucket}\",ip_family=\"IPv4\"}} "
            );
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.map_or(0, |count| count.parse::<u64>().unwrap())
        };
        metrics.note(&slice(3));
        metrics.note(&slice(120));
        let done = Transaction { whole: false, took: Duration::ZERO, succeeded: true };
        metrics.transaction(Transaction { succeeded: false, ..done });
        assert_eq!(count(&metrics, "4.0"), 0, "it has failed");
        metrics.transaction(Transaction { took: Duration::from_secs(9), ..done });
        assert_eq!(count(&metrics, "4.0"), 0, "it had begun before");
        metrics.transaction(done);
        assert_eq!((count(&metrics, "2.0"), count(&metrics, "4.0")), (0, 1));
        assert_eq!(count(&metrics, "300.0"), 1, "what happened before the start is left out");
    }

    #[test]
    fn services_with_the_most_connections_are_told() {
        let metrics = Metrics::new(InForce::new(Mode::Nftables));
        let many = (0..500).map(|i| (format!("shop/web-{i:03}"), i)).collect();
        metrics.connected(many);
        let text = metrics.answer().body;
        let lines: Vec<&str> =
            text.lines().filter(|l| l.starts_with("portolan_service_connections{")).collect();
        assert_eq!(lines.len(), MAX_SERVICES);
        let most = "portolan_service_connections{namespace=\"shop\",service=\"web-499\"} 499";
        assert!(lines.contains(&most), "{lines:?}");
        metrics.connected(BTreeMap::new());
        assert!(!metrics.answer().body.contains("web-499"));
    }

    /// A port with endpoints elsewhere counts; one without any does not.
    #[test]
    fn ports_without_local_endpoints_are_counted() {
        let metrics = Metrics::new(InForce::new(Mode::Nftables));
        let id: GroupId = "shop/web".into();
        let count = |policy| {
            let labels = by_policy(policy, "IPv4");
            metrics.no_local_endpoints.get_or_create(&labels).get()
        };
        let spec = json!({"type": "NodePort", "internalTrafficPolicy": "Local",
                          "externalTrafficPolicy": "Local",
                          "ports": [{"port": 80, "nodePort": 30080}]});
        for (nodes, expected) in [(&["there"][..], 1), (&["here"], 0), (&["there"], 1), (&[], 0)] {
            metrics.planned(&id, Some(&planned(spec.clone(), nodes)));
            assert_eq!((count("internal"), count("external")), (expected, expected), "{nodes:?}");
        }
        metrics.planned(&id, Some(&planned(spec, &["there"])));
        metrics.planned(&id, None);
        assert_eq!(count("internal"), 0);
    }
}
