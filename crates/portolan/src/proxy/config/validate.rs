//! The rules of kube-proxy's configuration. Each mistake is a sentence: field, value, what is
//! accepted.

use dataplane::ipvs::Scheduler;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::PRIMARY;
use super::duration::GoDuration;
use super::file::KubeProxyConfiguration;

const MODES: [&str; 6] = ["", "auto", "ebpf", "iptables", "ipvs", "nftables"];
const LOCAL_MODES: [&str; 5] =
    ["", "BridgeInterface", "ClusterCIDR", "InterfaceNamePrefix", "NodeCIDR"];

/// All rules that are broken.
pub(super) fn mistakes(config: &KubeProxyConfiguration) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut refuse = |field: &str, value: &dyn std::fmt::Display, accepted: &str| {
        mistakes.push(format!("{field}: {value} is not accepted: {accepted}"));
    };
    if config.bind_address.parse::<IpAddr>().is_err() {
        refuse("bindAddress", &config.bind_address, "an IP address such as 0.0.0.0");
    }
    for (field, address, may_be_empty) in [
        ("healthzBindAddress", &config.healthz_bind_address, true),
        ("metricsBindAddress", &config.metrics_bind_address, true),
    ] {
        let is_good = (address.is_empty() && may_be_empty)
            || address.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0);
        if !is_good {
            refuse(field, address, "IP:port with a port from 1 to 65535");
        }
    }
    if !MODES.contains(&config.mode.as_str()) {
        refuse("mode", &config.mode, "auto, ebpf, iptables, ipvs, nftables, or nothing");
    }
    let scheduler = &config.ipvs.scheduler;
    if !scheduler.is_empty() && scheduler.parse::<Scheduler>().is_err() {
        let accepted: Vec<&str> = Scheduler::ALL.iter().map(|known| known.as_str()).collect();
        refuse("ipvs.scheduler", scheduler, &format!("{}, or nothing for rr", accepted.join(", ")));
    }
    if !LOCAL_MODES.contains(&config.detect_local_mode.as_str()) {
        let accepted = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
        refuse("detectLocalMode", &config.detect_local_mode, accepted);
    }
    let local = &config.detect_local;
    if config.detect_local_mode == "BridgeInterface" && local.bridge_interface.is_empty() {
        refuse("detectLocal.bridgeInterface", &"nothing", "the name of the pods' bridge");
    }
    if config.detect_local_mode == "InterfaceNamePrefix" && local.interface_name_prefix.is_empty() {
        refuse("detectLocal.interfaceNamePrefix", &"nothing", "what pods' interfaces begin with");
    }
    cluster_cidr(config, &mut refuse);
    node_port_addresses(config, &mut refuse);
    if !(-1000..=1000).contains(&config.oom_score_adj) {
        refuse("oomScoreAdj", &config.oom_score_adj, "from -1000 to 1000");
    }
    for (field, bit) in [
        ("iptables.masqueradeBit", config.iptables.masquerade_bit),
        ("nftables.masqueradeBit", config.nftables.masquerade_bit),
    ] {
        if let Some(bit) = bit.filter(|bit| !(0..=31).contains(bit)) {
            refuse(field, &bit, "from 0 to 31");
        }
    }
    for (section, period, minimum) in [
        ("iptables", &config.iptables.sync_period, &config.iptables.min_sync_period),
        ("ipvs", &config.ipvs.sync_period, &config.ipvs.min_sync_period),
        ("nftables", &config.nftables.sync_period, &config.nftables.min_sync_period),
    ] {
        periods(section, period, minimum, &mut refuse);
    }
    if config.config_sync_period.get().is_none_or(|period| period.is_zero()) {
        refuse("configSyncPeriod", &config.config_sync_period, "more than 0s");
    }
    mistakes
}

fn cluster_cidr(
    config: &KubeProxyConfiguration,
    refuse: &mut impl FnMut(&str, &dyn std::fmt::Display, &str),
) {
    if config.cluster_cidr.is_empty() {
        return;
    }
    let parts: Vec<&str> = config.cluster_cidr.split(',').map(str::trim).collect();
    let ranges: Vec<IpNet> = parts.iter().filter_map(|part| part.parse().ok()).collect();
    let is_good = ranges.len() == parts.len()
        && match ranges[..] {
            [_] => true,
            [first, second] => first.addr().is_ipv4() != second.addr().is_ipv4(),
            _ => false,
        };
    if !is_good {
        let accepted = "one range, or two of different families, such as 10.244.0.0/16,fd00::/56";
        refuse("clusterCIDR", &config.cluster_cidr, accepted);
    }
}

fn node_port_addresses(
    config: &KubeProxyConfiguration,
    refuse: &mut impl FnMut(&str, &dyn std::fmt::Display, &str),
) {
    let addresses = config.node_port_addresses.as_deref().unwrap_or_default();
    for address in addresses {
        let is_good = match address.as_str() {
            PRIMARY => addresses.len() == 1,
            range => range.parse::<IpNet>().is_ok(),
        };
        if !is_good {
            refuse("nodePortAddresses", address, "ranges such as 192.168.0.0/16, or primary alone");
        }
    }
}

fn periods(
    section: &str,
    period: &GoDuration,
    minimum: &GoDuration,
    refuse: &mut impl FnMut(&str, &dyn std::fmt::Display, &str),
) {
    if period.get().is_none_or(|period| period.is_zero()) {
        refuse(&format!("{section}.syncPeriod"), period, "more than 0s");
    }
    match (minimum.get(), period.get()) {
        (None, _) => refuse(&format!("{section}.minSyncPeriod"), minimum, "0s or more"),
        (Some(least), Some(most)) if least > most => {
            refuse(&format!("{section}.minSyncPeriod"), minimum, "not more than syncPeriod");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> Vec<String> {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let config = super::super::file::parse(&format!("{head}{text}")).unwrap().0;
        mistakes(&config).iter().map(|m| m.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(mistakes(&KubeProxyConfiguration::default()), [""; 0]);
    }

    #[test]
    fn every_broken_rule_is_named() {
        for (text, field) in [
            ("bindAddress: here", "bindAddress"),
            ("healthzBindAddress: '0.0.0.0'", "healthzBindAddress"),
            ("metricsBindAddress: '127.0.0.1:0'", "metricsBindAddress"),
            ("mode: userspace", "mode"),
            ("detectLocalMode: Guess", "detectLocalMode"),
            ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
            ("detectLocalMode: InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
            ("clusterCIDR: 10.0.0.0/8,10.1.0.0/16", "clusterCIDR"),
            ("clusterCIDR: 10.0.0.0", "clusterCIDR"),
            ("nodePortAddresses: [primary, 10.0.0.0/8]", "nodePortAddresses"),
            ("nodePortAddresses: [10.0.0.1]", "nodePortAddresses"),
            ("oomScoreAdj: 1001", "oomScoreAdj"),
            ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit"),
            ("nftables: {syncPeriod: 0s, minSyncPeriod: 0s}", "nftables.syncPeriod"),
            ("nftables: {syncPeriod: 1s, minSyncPeriod: 2s}", "nftables.minSyncPeriod"),
            ("ipvs: {minSyncPeriod: -1s}", "ipvs.minSyncPeriod"),
            ("configSyncPeriod: 0s", "configSyncPeriod"),
        ] {
            assert_eq!(broken(text), [field], "{text}");
        }
    }
}
