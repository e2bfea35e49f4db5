//! What Portolan is to reach, and whether it does.

use crate::path::Way;
use crate::planes::{EBPF, IPVS, NFTABLES};
use crate::results::Results;

/// A target and what was measured.
pub(crate) struct Target {
    /// What is asked for.
    pub(crate) asked: String,
    /// What was measured, in the target's words.
    pub(crate) measured: String,
    /// Whether that is enough.
    pub(crate) is_met: bool,
}

const MEGABYTE: f64 = 1e6;

/// What eBPF is to reach at every number of Services: what no Service at all costs.
fn targets_of_ebpf(results: &Results, add: &mut impl FnMut(&str, String, bool)) {
    let of_ebpf =
        |way: Way| results.paths.iter().filter(move |path| path.rules == EBPF && path.way == way);
    for (way, what, least) in [
        (Way::ClusterIp, "through a ClusterIP", 0.97),
        (Way::NodePort, "from outside through a node port to a pod of the node", 1.0),
        (Way::NodePortToOtherNode, "and to a pod of another node", 0.9),
    ] {
        for path in of_ebpf(way) {
            add(
                &format!(
                    "{EBPF}: new connections {what} with {} Services: at least {least} of the direct way without any rules",
                    path.services
                ),
                format!("{:.3}", path.of_no_rules.median),
                path.of_no_rules.median >= least,
            );
        }
    }
    let bare = results.paths.iter().find(|path| path.services == 0 && path.way == Way::Direct);
    for path in of_ebpf(Way::ClusterIp) {
        let Some(bare) = bare else { continue };
        let ratio = path.answer_p50_us.median / bare.answer_p50_us.median;
        add(
            &format!(
                "{EBPF}: an answer through a ClusterIP with {} Services: p50 within 3 % of the direct way without any rules",
                path.services
            ),
            format!("{:+.1} %", (ratio - 1.0) * 100.0),
            ratio <= 1.03,
        );
    }
    if let Some(control) = results.control(EBPF, 50_000) {
        add(
            &format!(
                "{EBPF}: one endpoint's change with 50,000 Services: p99 under 5 ms from event to kernel"
            ),
            format!("{:.2} ms", control.endpoint.p99_ms),
            control.endpoint.p99_ms < 5.0,
        );
    }
}

/// The targets that these results say something of.
pub(crate) fn targets(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |asked: &str, measured: String, is_met| {
        targets.push(Target { asked: asked.to_owned(), measured, is_met });
    };
    if let (Some(base), Some(ipvs)) =
        (results.control(NFTABLES, 10_000), results.control(IPVS, 10_000))
    {
        let ratio = ipvs.endpoint.p50_ms / base.endpoint.p50_ms;
        add(
            "one endpoint's change on IPVS with 10,000 Services: p50 at most 2 x that of nftables",
            format!("{ratio:.2} x"),
            ratio <= 2.0,
        );
    }
    // All others are figures and not ratios.
    if results.machine.is_imitated {
        return targets;
    }
    let at = |services| results.control(NFTABLES, services);
    if let (Some(few), Some(many)) = (at(1_000), at(50_000)) {
        let ratio = many.endpoint.p99_ms / few.endpoint.p99_ms;
        add(
            "one endpoint's change is flat: p99 with 50,000 Services at most 1.5 x p99 with 1,000",
            format!("{ratio:.2} x"),
            ratio <= 1.5,
        );
    }
    for control in results.control.iter().filter(|c| c.proxy == NFTABLES) {
        let services = control.services;
        let within = |what: &str, p99: f64, limit: f64| {
            (
                format!(
                    "{what} with {services} Services: p99 under {limit} ms from event to kernel"
                ),
                format!("{p99:.2} ms"),
                p99 < limit,
            )
        };
        let endpoint = within("one endpoint's change", control.endpoint.p99_ms, 5.0);
        let service = within("a new Service", control.service.p99_ms, 20.0);
        for (asked, measured, is_met) in [endpoint, service] {
            add(&asked, measured, is_met);
        }
    }
    for (name, limit) in [("portolan-iptables-nft", 100.0), ("portolan-iptables-legacy", 1000.0)] {
        let Some(control) = results.control(name, 10_000) else { continue };
        add(
            &format!("{name}: one endpoint's change with 10,000 Services: p50 under {limit} ms"),
            format!("{:.0} ms, p99 {:.0} ms", control.endpoint.p50_ms, control.endpoint.p99_ms),
            control.endpoint.p50_ms < limit,
        );
    }
    for name in ["portolan-iptables-nft", "portolan-iptables-legacy"] {
        let Some(path) = results.path(name, 10_000, Way::ClusterIp) else { continue };
        add(
            &format!(
                "{name}: new connections through the last of 10,000 ClusterIPs: at least 0.7 of the direct way without any rules"
            ),
            format!("{:.3}", path.of_no_rules.median),
            path.of_no_rules.median >= 0.7,
        );
    }
    for (services, seconds) in [(10_000, 1.0), (50_000, 5.0)] {
        let Some(control) = at(services) else { continue };
        add(
            &format!("start to complete state with {services} Services under {seconds} s"),
            format!("{:.2} s", control.start_seconds),
            control.start_seconds < seconds,
        );
        add(
            &format!("the process's own processor time for it under a third of these {seconds} s"),
            format!(
                "{:.2} s, {:.2} of the time it took",
                control.start_user_seconds,
                control.start_user_seconds / control.start_seconds
            ),
            control.start_user_seconds < seconds / 3.0,
        );
    }
    for (services, limit) in [(10_000, 60.0), (50_000, 250.0)] {
        let Some(control) = at(services) else { continue };
        let megabytes = control.settled_bytes as f64 / MEGABYTE;
        add(
            &format!("resident memory once idle with {services} Services under {limit} MB"),
            format!("{megabytes:.0} MB"),
            megabytes < limit,
        );
    }
    if let Some(path) = results.path(NFTABLES, 50_000, Way::ClusterIp) {
        add(
            "new connections through a ClusterIP with 50,000 Services: at least 0.95 of the direct way under the same rules",
            format!("{:.3}", path.of_direct.median),
            path.of_direct.median >= 0.95,
        );
        add(
            "and at least 0.75 of the direct way without any rules",
            format!("{:.3}", path.of_no_rules.median),
            path.of_no_rules.median >= 0.75,
        );
    }
    targets_of_ebpf(results, &mut add);
    if let Some(control) = at(50_000) {
        add(
            "an idle process with 50,000 Services uses under 0.1 % of a processor",
            format!("{:.4} %", control.idle_share * 100.0),
            control.idle_share < 0.001,
        );
    }
    for control in results.control.iter().filter(|c| c.proxy == NFTABLES) {
        // What is new lies elsewhere than what was there first, so memory grows until every object
        // has been replaced a few times: in the end it must not.
        let samples = &control.churn_bytes;
        let end = &samples[samples.len() - samples.len() / 4..];
        let (Some(begin), Some(last)) = (end.first(), end.last()) else { continue };
        let grown = *last as f64 / *begin as f64 - 1.0;
        add(
            &format!(
                "memory does not go on growing with {} Services: under 2 % in the last quarter of {} changes",
                control.services, control.churn_changes
            ),
            format!("{:+.1} %", grown * 100.0),
            grown < 0.02,
        );
    }
    targets
}
