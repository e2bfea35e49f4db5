//! From a row to a cluster and its plan: names become addresses, short forms become objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use model::{Event, Family, Kind, Object, ObjectName, Protocol, Touched, World};
use plan::service::group_id;
use plan::{
    GroupId, LocalDetector, NodeFacts, NodePlan, NodePortAddresses, NodeSettings, plan_service,
};
use serde_json::{Value, json};

use super::row::{DetectorRow, EndpointRow, NodeRow, ServiceRow, Step, TARGET_PORT};
use crate::hosts::{Addresses, V4, V6};

/// What names mean in one family, with one protocol for what rows leave open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
}

/// A cluster as it follows the steps of a row, and the plan that follows the cluster.
#[derive(Debug)]
pub(crate) struct Scene {
    variant: Variant,
    world: World,
    objects: BTreeSet<(Kind, ObjectName)>,
    local: Vec<IpAddr>,
    pub(crate) plan: NodePlan,
}

impl Variant {
    pub(crate) fn net(self) -> &'static Addresses {
        match self.family {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }

    /// The address or range that a name stands for; other text stands for itself.
    fn text(self, name: &str) -> String {
        let net = self.net();
        let by_family = |v4: &str, v6: &str| match self.family {
            Family::V4 => v4.to_owned(),
            Family::V6 => v6.to_owned(),
        };
        match name {
            "VIP" => net.vip.to_owned(),
            "VIP2" => by_family("10.96.0.51", "fd00:96::51"),
            "FREE" => by_family("10.96.7.7", "fd00:96::7777"),
            "LB" => by_family("203.0.113.5", "2001:db8:5::5"),
            "LB2" => by_family("203.0.113.6", "2001:db8:5::6"),
            "EXT" => by_family("203.0.113.77", "2001:db8:5::77"),
            "LOOPBACK" => by_family("127.0.0.1", "::1"),
            "NODE" | "node" => net.node.to_owned(),
            "NODE2" => net.node_secondary.to_owned(),
            "OUTSIDE" | "outside" => net.outside.to_owned(),
            "L" => net.pod_a.to_owned(),
            "R" => net.pod_b.to_owned(),
            "S" => net.pod_d.to_owned(),
            "pod" => net.pod_c.to_owned(),
            "ANY" => by_family("0.0.0.0/0", "::/0"),
            "PODS" => by_family("10.244.0.0/16", "fd00:244::/32"),
            "PODS-OF-OTHER-FAMILY" => by_family("fd00:244::/32", "10.244.0.0/16"),
            other => match other.strip_suffix("/32") {
                Some(name) if self.text(name) != name => {
                    format!("{}/{}", self.text(name), by_family("32", "128"))
                }
                _ => other.to_owned(),
            },
        }
    }

    /// The address that a name stands for.
    pub(crate) fn address(self, name: &str) -> IpAddr {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| panic!("{name} is no address"))
    }

    /// The place that has an address; the address itself if nobody has it.
    pub(crate) fn place(self, address: IpAddr) -> String {
        let places = ["L", "R", "S", "pod", "NODE", "OUTSIDE"];
        let found = places.into_iter().find(|place| self.address(place) == address);
        found.map_or_else(|| address.to_string(), str::to_owned)
    }

    /// The node that an endpoint runs on unless a row says another.
    fn node_of(self, endpoint: IpAddr) -> &'static str {
        match self.place(endpoint).as_str() {
            "R" => "n2",
            "S" => "n3",
            "OUTSIDE" => "n4",
            _ => "n1",
        }
    }

    /// Puts addresses in the place of names, everywhere.
    fn resolved(self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.iter().map(|item| self.resolved(item)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| match name.as_str() {
                    // Its values look like ours.
                    "ipMode" => (name.clone(), value.clone()),
                    _ => (name.clone(), self.resolved(value)),
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    fn family_name(self) -> &'static str {
        match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn service(self, row: &ServiceRow) -> Value {
        let mut service = json!({
            "metadata": {"name": row.name, "namespace": "default"},
            "spec": {"type": "ClusterIP", "clusterIP": self.text("VIP"),
                     "ports": [{"name": "p", "port": 80}]},
        });
        merge(&mut service["metadata"], &row.metadata);
        merge(&mut service["spec"], &self.resolved(&row.spec));
        if !row.status.is_null() {
            service["status"] = self.resolved(&row.status);
        }
        let spec = &mut service["spec"];
        if spec["clusterIPs"].is_null() {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
        for port in spec["ports"].as_array_mut().expect("ports are a list") {
            if port["protocol"].is_null() {
                port["protocol"] = self.protocol.to_string().into();
            }
        }
        service
    }

    fn slices(self, row: &ServiceRow, service: &Value) -> Vec<Value> {
        let of_service = |port: &Value| {
            let number = port["targetPort"].as_u64().unwrap_or(TARGET_PORT.into());
            json!({"name": port["name"], "port": number, "protocol": port["protocol"]})
        };
        let ports: Vec<Value> =
            service["spec"]["ports"].as_array().unwrap().iter().map(of_service).collect();
        let mut slices = Vec::new();
        if let Some(endpoints) = &row.endpoints {
            slices.push(self.slice(row, 0, &BTreeMap::new(), &ports, endpoints));
        }
        for (i, slice) in row.slices.iter().enumerate() {
            let mut own = slice.ports.clone().unwrap_or_else(|| ports.clone());
            for port in &mut own {
                if port["protocol"].is_null() {
                    port["protocol"] = self.protocol.to_string().into();
                }
            }
            let mut value = self.slice(row, i, &slice.labels, &own, &slice.endpoints);
            if let Some(name) = &slice.name {
                value["metadata"]["name"] = name.clone().into();
            }
            slices.push(value);
        }
        slices
    }

    fn slice(
        self,
        row: &ServiceRow,
        index: usize,
        labels: &BTreeMap<String, String>,
        ports: &[Value],
        endpoints: &[EndpointRow],
    ) -> Value {
        let endpoints: Vec<Value> = endpoints.iter().map(|row| self.endpoint(row)).collect();
        let mut labels = json!(labels);
        labels["kubernetes.io/service-name"] = row.name.clone().into();
        json!({
            "metadata": {"name": format!("{}-{index}", row.name), "namespace": "default",
                         "labels": labels},
            "addressType": self.family_name(),
            "endpoints": endpoints,
            "ports": ports,
        })
    }

    fn endpoint(self, row: &EndpointRow) -> Value {
        let row = row.full();
        let address = self.text(&row.at);
        let node = row.node.unwrap_or_else(|| self.node_of(self.address(&row.at)).to_owned());
        let mut conditions = json!({});
        for (name, value) in
            [("ready", row.ready), ("serving", row.serving), ("terminating", row.terminating)]
        {
            if let Some(value) = value {
                conditions[name] = value.into();
            }
        }
        let named =
            |names: &[String]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
        json!({
            "addresses": [address], "nodeName": node, "conditions": conditions,
            "hints": {"forZones": named(&row.zones), "forNodes": named(&row.nodes)},
        })
    }

    fn facts(self, row: &NodeRow) -> NodeFacts {
        let range = |name: &String| self.text(name).parse::<IpNet>().expect("a range");
        let local_detector = match &row.detector {
            DetectorRow::None => LocalDetector::None,
            DetectorRow::Range => LocalDetector::Sources(vec![range(&"PODS".to_owned())]),
            DetectorRow::Interface(name) => LocalDetector::Interface(name.clone()),
            DetectorRow::Prefix(prefix) => LocalDetector::InterfacePrefix(prefix.clone()),
        };
        let node_port_addresses = match row.node_port_addresses.as_slice() {
            [] => NodePortAddresses::Primary,
            [one] if one == "primary" => NodePortAddresses::Primary,
            ranges => NodePortAddresses::Ranges(ranges.iter().map(range).collect()),
        };
        NodeFacts {
            settings: NodeSettings {
                node_name: "n1".into(),
                local_detector,
                masquerade_all: row.masquerade_all,
                node_port_addresses,
                allowed_external_ips: match &row.allow_external_ips {
                    Some(ranges) => ranges.iter().map(range).collect(),
                    None => ["0.0.0.0/0", "::/0"].map(|all| all.parse().unwrap()).into(),
                },
                primary_address: None,
            },
            zone: row.zone.as_deref().map(Into::into),
            addresses: vec![self.address("NODE")],
        }
    }
}

impl Scene {
    /// An empty cluster.
    pub(crate) fn new(variant: Variant) -> Self {
        let ranges = ["10.96.0.0/16", "fd00:96::/112"].map(|range| range.parse().unwrap());
        let facts = variant.facts(&NodeRow::default());
        Self {
            variant,
            world: World::new(),
            objects: BTreeSet::new(),
            local: Vec::new(),
            plan: NodePlan::new(facts, ranges.into()),
        }
    }

    /// Makes the cluster what `step` says. Answers the groups that changed, and whether the node did.
    pub(crate) fn follow(&mut self, step: &Step) -> (BTreeSet<GroupId>, bool) {
        let mut events = Vec::new();
        let mut present = BTreeSet::new();
        let mut put = |object: Object| {
            present.insert((object.kind(), object.name()));
            events.push(Event::Put(object));
        };
        for row in &step.services {
            let service = self.variant.service(row);
            for slice in self.variant.slices(row, &service) {
                put(Object::EndpointSlice(serde_json::from_value(slice).expect("a slice")));
            }
            put(Object::Service(serde_json::from_value(service).expect("a Service")));
        }
        let gone = self.objects.difference(&present);
        events.extend(gone.map(|(kind, name)| Event::Removed(*kind, name.clone())));
        self.objects = present;

        let mut touched: BTreeSet<ObjectName> = BTreeSet::new();
        for event in events {
            touched.extend(self.world.apply(event).into_iter().filter_map(
                |touched| match touched {
                    Touched::Service(name) => Some(name),
                    _ => None,
                },
            ));
        }
        let facts = self.variant.facts(&step.node);
        self.local = step.node.local.iter().map(|name| self.variant.address(name)).collect();
        let node_changed = self.plan.node != facts;
        if node_changed {
            self.plan.node = facts;
            touched.extend(self.world.services().map(|(name, _)| name.clone()));
        }
        let mut changed = BTreeSet::new();
        for name in touched {
            let group = plan_service(&self.world, &self.plan.node, &name);
            changed.extend(self.plan.replace(&group_id(&name), group));
        }
        (changed, node_changed)
    }

    /// Whether an address is one of the node's.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.local.contains(&address)
            || address == self.variant.address("NODE")
            || address == self.variant.address("NODE2")
    }

    /// The addresses that the node has for this step only.
    pub(crate) fn local(&self) -> &[IpAddr] {
        &self.local
    }

    /// Who is reached at an address, as rows name him.
    pub(crate) fn target(&self, address: SocketAddr) -> (String, u16) {
        (self.variant.place(address.ip()), address.port())
    }

    /// The health-check ports with the number of endpoints that they report.
    pub(crate) fn health_checks(&self) -> BTreeMap<u16, usize> {
        let checks = self.plan.groups().filter_map(|group| group.health_check.as_ref());
        checks.map(|check| (check.port.get(), check.local_endpoints)).collect()
    }
}

/// The protocol and port of a packet.
pub(crate) fn ports(protocol: Protocol, port: Option<u16>) -> Option<(Protocol, NonZeroU16)> {
    port.map(|port| (protocol, NonZeroU16::new(port).expect("ports begin at 1")))
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}
