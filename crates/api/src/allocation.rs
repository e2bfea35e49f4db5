//! ClusterIPs and node ports that are given out, kept in step with the stored Services.
//!
//! Nothing is stored apart: what is in use follows from the Services, which are read when the store
//! opens. A write takes and gives back as it goes; its journal undoes that if the write fails.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use model::Family;
use model::alloc::cluster_ip::{self, ClusterIps};
use model::alloc::node_port::{self, NodePorts};
use serde_json::Value;

/// What is given out.
#[derive(Debug, Clone)]
pub(crate) struct Allocations {
    ranges: Vec<ClusterIps>,
    node_ports: NodePorts,
    journal: Vec<Step>,
}

/// A step of the current write.
#[derive(Debug, Clone)]
enum Step {
    TookIp(IpAddr),
    TookPort(u16),
    GaveIp(IpAddr),
    GavePort(u16),
}

impl Allocations {
    /// Nothing given out yet; the first range is the primary one.
    pub(crate) fn new(service_cidrs: &[IpNet], node_ports: RangeInclusive<u16>) -> Self {
        Self {
            ranges: service_cidrs.iter().copied().map(ClusterIps::new).collect(),
            node_ports: NodePorts::new(node_ports),
            journal: Vec::new(),
        }
    }

    /// Takes what a stored Service has. What it has outside today's ranges is nobody's concern.
    pub(crate) fn adopt(&mut self, service: &Value) {
        for ip in cluster_ips(service) {
            if let Some(range) = self.range_mut(ip) {
                // Two Services with one address are both kept as they are.
                let _ = range.reserve(ip);
            }
        }
        for port in node_ports(service) {
            let _ = self.node_ports.reserve(port);
        }
    }

    /// Families that have a range, the primary one first.
    pub(crate) fn families(&self) -> Vec<Family> {
        let mut families = Vec::new();
        for range in &self.ranges {
            let family = Family::of(range.range().addr());
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    /// Takes any address of a family.
    pub(crate) fn allocate_ip(&mut self, family: Family) -> Result<IpAddr, cluster_ip::Error> {
        let of_family = |range: &&mut ClusterIps| Family::of(range.range().addr()) == family;
        for range in self.ranges.iter_mut().filter(of_family) {
            if let Ok(ip) = range.allocate(crate::names::random()) {
                self.journal.push(Step::TookIp(ip));
                return Ok(ip);
            }
        }
        Err(cluster_ip::Error::Full)
    }

    /// Takes an address that was asked for.
    pub(crate) fn reserve_ip(&mut self, ip: IpAddr) -> Result<(), cluster_ip::Error> {
        let range = match self.range_mut(ip) {
            Some(range) => range,
            None => {
                let family = Family::of(ip);
                let of_family =
                    |range: &&mut ClusterIps| Family::of(range.range().addr()) == family;
                let range = self.ranges.iter_mut().find(of_family).map(|range| range.range());
                let range = range.unwrap_or_else(|| IpNet::from(ip));
                return Err(cluster_ip::Error::OutOfRange { ip, range });
            }
        };
        range.reserve(ip)?;
        self.journal.push(Step::TookIp(ip));
        Ok(())
    }

    /// Gives an address back.
    pub(crate) fn release_ip(&mut self, ip: IpAddr) {
        if let Some(range) = self.range_mut(ip) {
            range.release(ip);
            self.journal.push(Step::GaveIp(ip));
        }
    }

    /// Takes any node port.
    pub(crate) fn allocate_port(&mut self) -> Result<u16, node_port::Error> {
        let port = self.node_ports.allocate(crate::names::random())?;
        self.journal.push(Step::TookPort(port));
        Ok(port)
    }

    /// Takes a node port that was asked for.
    pub(crate) fn reserve_port(&mut self, port: u16) -> Result<(), node_port::Error> {
        self.node_ports.reserve(port)?;
        self.journal.push(Step::TookPort(port));
        Ok(())
    }

    /// Gives a node port back.
    pub(crate) fn release_port(&mut self, port: u16) {
        self.node_ports.release(port);
        self.journal.push(Step::GavePort(port));
    }

    /// Keeps what the current write has taken and given back.
    pub(crate) fn commit(&mut self) {
        self.journal.clear();
    }

    /// Undoes what the current write has taken and given back.
    pub(crate) fn roll_back(&mut self) {
        while let Some(step) = self.journal.pop() {
            match step {
                Step::TookIp(ip) => {
                    if let Some(range) = self.range_mut(ip) {
                        range.release(ip);
                    }
                }
                Step::GaveIp(ip) => {
                    if let Some(range) = self.range_mut(ip) {
                        // It was in use a moment ago, and writes come one at a time.
                        let _ = range.reserve(ip);
                    }
                }
                Step::TookPort(port) => self.node_ports.release(port),
                Step::GavePort(port) => {
                    let _ = self.node_ports.reserve(port);
                }
            }
        }
    }

    fn range_mut(&mut self, ip: IpAddr) -> Option<&mut ClusterIps> {
        self.ranges.iter_mut().find(|range| range.range().contains(&ip))
    }
}

/// The addresses that a Service has.
pub(crate) fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    let list = spec["clusterIPs"].as_array();
    let mut ips: Vec<IpAddr> = list
        .into_iter()
        .flatten()
        .filter_map(|ip| model::address::parse_ip(ip.as_str()?))
        .collect();
    if ips.is_empty() {
        ips.extend(spec["clusterIP"].as_str().and_then(model::address::parse_ip));
    }
    ips
}

/// The node ports that a Service has, each once, that of its health check included.
pub(crate) fn node_ports(service: &Value) -> Vec<u16> {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
    let mut numbers: Vec<u16> = ports
        .chain([&spec["healthCheckNodePort"]])
        .filter_map(|port| u16::try_from(port.as_u64()?).ok())
        .filter(|port| *port != 0)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allocations() -> Allocations {
        Allocations::new(&["10.96.0.0/24".parse().unwrap()], 30000..=30010)
    }

    #[test]
    fn a_failed_write_leaves_no_trace() {
        let mut allocations = allocations();
        let ip = allocations.allocate_ip(Family::V4).unwrap();
        allocations.commit();
        allocations.release_ip(ip);
        let other = "10.96.0.7".parse().unwrap();
        allocations.reserve_ip(other).unwrap();
        allocations.reserve_port(30005).unwrap();
        allocations.roll_back();
        assert_eq!(allocations.reserve_ip(ip), Err(cluster_ip::Error::Taken));
        assert_eq!(allocations.reserve_ip(other), Ok(()));
        assert_eq!(allocations.reserve_port(30005), Ok(()));
    }

    #[test]
    fn stored_services_keep_what_they_have() {
        let mut allocations = allocations();
        allocations.adopt(&json!({"spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"nodePort": 30001}, {"nodePort": 30001}], "healthCheckNodePort": 30002}}));
        assert_eq!(
            allocations.reserve_ip("10.96.0.9".parse().unwrap()),
            Err(cluster_ip::Error::Taken)
        );
        assert_eq!(allocations.reserve_port(30002), Err(node_port::Error::Taken));
    }
}
