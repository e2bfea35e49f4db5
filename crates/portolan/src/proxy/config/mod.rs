//! How kube-proxy is configured, and so is this proxy: the KubeProxyConfiguration file
//! (`kubeproxy.config.k8s.io/v1alpha1`), with the same names, defaults and rules.

mod duration;
mod file;
mod validate;

use std::path::{Path, PathBuf};

use std::net::IpAddr;

use dataplane::Mode;
use dataplane::iptables::Flavour;
use dataplane::mode::{Options, UnknownMode, Wish};
use ipnet::IpNet;
use plan::{LocalDetector, NodePortAddresses, NodeSettings};

pub(crate) use duration::GoDuration;
pub(crate) use file::{Conntrack, KubeProxyConfiguration};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file can't be read.
    #[error("read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// It is no KubeProxyConfiguration.
    #[error("{}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    /// Values that break rules, each named with what is accepted.
    #[error("the configuration is refused: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// Reads a configuration file. Answers warnings too: fields that it has and kube-proxy has not.
pub(crate) fn read(path: &Path) -> Result<(KubeProxyConfiguration, Vec<String>), Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    file::parse(&text).map_err(|reason| Error::Malformed { path: path.to_owned(), reason })
}

impl KubeProxyConfiguration {
    /// Checks all rules at once.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        match validate::mistakes(self) {
            mistakes if mistakes.is_empty() => Ok(()),
            mistakes => Err(Error::Invalid(mistakes)),
        }
    }

    /// What of it has no meaning here, one sentence each.
    pub(crate) fn without_meaning(&self) -> Vec<String> {
        let default = Self::default();
        let mut without = Vec::new();
        let mut note = |is_set: bool, what: &str, why: &str| {
            if is_set {
                without.push(format!("{what} has no effect: {why}"));
            }
        };
        let mode = self.data_plane().unwrap_or(Mode::Nftables);
        let other = format!("the data plane is {mode}");
        for (section, is_set) in [
            (Mode::Nftables, self.nftables != default.nftables),
            (Mode::Iptables, self.iptables != default.iptables),
            (Mode::Ipvs, self.ipvs != default.ipvs),
        ] {
            // IPVS mode masquerades as the section of iptables says, and eBPF as that of nftables.
            let of_other = [(Mode::Ipvs, Mode::Iptables), (Mode::Ebpf, Mode::Nftables)];
            let is_read = mode == section || of_other.contains(&(mode, section));
            note(is_set && !is_read, section.as_str(), &other);
        }
        let mut understood = default.ipvs.clone();
        understood.scheduler.clone_from(&self.ipvs.scheduler);
        understood.sync_period.clone_from(&self.ipvs.sync_period);
        understood.min_sync_period.clone_from(&self.ipvs.min_sync_period);
        note(
            mode == Mode::Ipvs && self.ipvs != understood,
            "ipvs, but for its scheduler,",
            "servers of others are left alone, and timeouts and ARP stay as they are",
        );
        let periods = |config: &Self| match mode {
            Mode::Nftables | Mode::Ebpf => {
                (config.nftables.min_sync_period.clone(), config.nftables.sync_period.clone())
            }
            Mode::Iptables => {
                (config.iptables.min_sync_period.clone(), config.iptables.sync_period.clone())
            }
            Mode::Ipvs => (config.ipvs.min_sync_period.clone(), config.ipvs.sync_period.clone()),
        };
        note(
            periods(self) != periods(&default),
            &format!("{mode}.minSyncPeriod and syncPeriod"),
            "every change is programmed at once, and only the change",
        );
        note(
            mode == Mode::Iptables
                && self.iptables.localhost_node_ports != default.iptables.localhost_node_ports,
            "iptables.localhostNodePorts",
            "node ports are not served at loopback addresses",
        );
        note(
            self.nftables.masquerade_bit != default.nftables.masquerade_bit,
            "nftables.masqueradeBit",
            "packets are not marked",
        );
        note(!self.feature_gates.is_empty(), "featureGates", "there are none");
        note(!self.port_range.is_empty(), "portRange", "kube-proxy ignores it too");
        note(self.enable_profiling, "enableProfiling", "there is no profiler to serve");
        without
    }

    /// The data plane that is asked for; nftables if none is.
    pub(crate) fn wish(&self) -> Result<Wish, Error> {
        match self.mode.as_str() {
            "" => Ok(Wish::Only(Mode::Nftables)),
            name => name
                .parse()
                .map_err(|error: UnknownMode| Error::Invalid(vec![format!("mode: {error}")])),
        }
    }

    /// The data plane, where it is not left to this machine which.
    pub(crate) fn data_plane(&self) -> Option<Mode> {
        match self.wish() {
            Ok(Wish::Only(mode)) => Some(mode),
            Ok(Wish::Auto) | Err(_) => None,
        }
    }

    /// What the data plane is told besides plans.
    pub(crate) fn options(&self, iptables: Option<Flavour>) -> Options {
        let default = Options::default();
        let bit = self.iptables.masquerade_bit.and_then(|bit| u8::try_from(bit).ok());
        Options {
            iptables,
            masquerade_bit: bit.unwrap_or(default.masquerade_bit),
            scheduler: self.ipvs.scheduler.parse().unwrap_or(default.scheduler),
            ..default
        }
    }

    /// What plans depend on, for the node of a name.
    pub(crate) fn node_settings(&self, node_name: &str) -> NodeSettings {
        let cidrs = self.cluster_cidrs();
        let mode = self.data_plane().unwrap_or(Mode::Nftables);
        let local_detector = match self.detect_local_mode.as_str() {
            "BridgeInterface" => {
                LocalDetector::Interface(self.detect_local.bridge_interface.clone())
            }
            "InterfaceNamePrefix" => {
                LocalDetector::InterfacePrefix(self.detect_local.interface_name_prefix.clone())
            }
            _ if cidrs.is_empty() => LocalDetector::None,
            _ => LocalDetector::Sources(cidrs),
        };
        let addresses = self.node_port_addresses.as_deref().unwrap_or_default();
        let ranges: Vec<IpNet> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let node_port_addresses = match addresses {
            // nftables mode listens on the primary address unless told otherwise (KEP-3866), and the
            // other modes on all.
            [] if mode != Mode::Nftables => NodePortAddresses::Ranges(Vec::new()),
            [] => NodePortAddresses::Primary,
            [one] if one == PRIMARY => NodePortAddresses::Primary,
            _ => NodePortAddresses::Ranges(ranges),
        };
        NodeSettings {
            node_name: node_name.into(),
            local_detector,
            masquerade_all: match mode {
                Mode::Nftables | Mode::Ebpf => self.nftables.masquerade_all,
                Mode::Iptables | Mode::Ipvs => self.iptables.masquerade_all,
            },
            node_port_addresses,
            allowed_external_ips: Vec::new(),
            primary_address: self
                .bind_address
                .parse()
                .ok()
                .filter(|ip: &IpAddr| !ip.is_unspecified()),
        }
    }

    /// `clusterCIDR`, at most one range a family once it is valid.
    pub(crate) fn cluster_cidrs(&self) -> Vec<IpNet> {
        let parts = self.cluster_cidr.split(',').map(str::trim);
        parts.filter_map(|part| part.parse().ok()).collect()
    }
}

/// In `nodePortAddresses`: the node's own address.
const PRIMARY: &str = "primary";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> KubeProxyConfiguration {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        file::parse(&format!("{head}{text}")).unwrap().0
    }

    #[test]
    fn settings_follow_the_file() {
        let config = parsed(
            "clusterCIDR: 10.244.0.0/16,fd00::/56\nnftables: {masqueradeAll: true}\nnodePortAddresses: [192.168.0.0/16]\n",
        );
        config.validate().unwrap();
        let settings = config.node_settings("node-1");
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        assert_eq!(
            settings.local_detector,
            LocalDetector::Sources(nets(&["10.244.0.0/16", "fd00::/56"]))
        );
        assert!(settings.masquerade_all);
        assert_eq!(
            settings.node_port_addresses,
            NodePortAddresses::Ranges(nets(&["192.168.0.0/16"]))
        );
        let plain = KubeProxyConfiguration::default().node_settings("node-1");
        assert_eq!(plain.local_detector, LocalDetector::None);
        assert_eq!(plain.node_port_addresses, NodePortAddresses::Primary);
        let bridge =
            parsed("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n");
        assert_eq!(
            bridge.node_settings("n").local_detector,
            LocalDetector::Interface("cni0".to_owned())
        );
    }

    #[test]
    fn what_has_no_meaning_is_said_once() {
        assert!(KubeProxyConfiguration::default().without_meaning().is_empty());
        let config = parsed("iptables: {syncPeriod: 10s}\nnftables: {syncPeriod: 60s}\n");
        let said = config.without_meaning();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("iptables has no effect"), "{said:?}");
    }
}
