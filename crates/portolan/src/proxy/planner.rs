//! From what a watch event touched to what has to be programmed. Pure.

use std::collections::BTreeSet;

use dataplane::Update;
use model::{Touched, World};
use plan::service::group_id;
use plan::{NodeFacts, NodePlan, NodeSettings, plan_service};

/// Plans for one node, and remembers what the data plane was last told about the node itself.
#[derive(Debug)]
pub(super) struct Planner {
    settings: NodeSettings,
    node: NodeFacts,
    service_ranges: Vec<ipnet::IpNet>,
}

impl Planner {
    /// A planner that starts from `world`.
    pub(super) fn new(settings: NodeSettings, world: &World) -> Self {
        let node = NodeFacts::from_world(settings.clone(), world);
        Self { settings, node, service_ranges: world.service_ranges() }
    }

    /// The plan of everything.
    pub(super) fn whole(&self, world: &World) -> NodePlan {
        let mut plan = NodePlan::new(self.node.clone(), self.service_ranges.clone());
        for (name, _) in world.services() {
            if let Some(group) = plan_service(world, &self.node, name) {
                plan.replace(&group_id(name), Some(group));
            }
        }
        plan
    }

    /// What the data plane has to be told after an event touched these.
    pub(super) fn updates(&mut self, world: &World, touched: &BTreeSet<Touched>) -> Vec<Update> {
        let mut updates = Vec::new();
        let is_about_node = |touched: &Touched| match touched {
            Touched::Node(name) => *name == self.settings.node_name,
            Touched::ServiceRanges => true,
            _ => false,
        };
        let mut everything = false;
        if touched.iter().any(is_about_node) {
            let node = NodeFacts::from_world(self.settings.clone(), world);
            let service_ranges = world.service_ranges();
            everything = node != self.node;
            if everything || service_ranges != self.service_ranges {
                updates.push(Update::Node(node.clone(), service_ranges.clone()));
                self.node = node;
                self.service_ranges = service_ranges;
            }
        }
        let touched_services = touched.iter().filter_map(|touched| match touched {
            Touched::Service(name) => Some(name),
            _ => None,
        });
        let services: BTreeSet<_> = if everything {
            world.services().map(|(name, _)| name).chain(touched_services).collect()
        } else {
            touched_services.collect()
        };
        updates.extend(
            services
                .into_iter()
                .map(|name| Update::Group(group_id(name), plan_service(world, &self.node, name))),
        );
        updates
    }
}

#[cfg(test)]
mod tests {
    use model::{Event, Object};
    use plan::{LocalDetector, NodePortAddresses};
    use serde_json::json;

    use super::*;

    fn settings() -> NodeSettings {
        NodeSettings {
            node_name: "here".into(),
            local_detector: LocalDetector::None,
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            allowed_external_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            primary_address: None,
        }
    }

    fn service(name: &str, ip: &str) -> Event {
        let service = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
        });
        Event::Put(Object::Service(serde_json::from_value(service).unwrap()))
    }

    fn node(name: &str, zone: &str) -> Event {
        let node = json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        });
        Event::Put(Object::Node(serde_json::from_value(node).unwrap()))
    }

    fn groups(updates: &[Update]) -> Vec<&str> {
        updates
            .iter()
            .filter_map(|update| match update {
                Update::Group(id, _) => Some(&**id),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn only_the_touched_service_is_planned() {
        let mut world = World::new();
        world.apply(service("a", "10.96.0.1"));
        let mut planner = Planner::new(settings(), &world);
        assert_eq!(planner.whole(&world).len(), 1);
        let touched = world.apply(service("b", "10.96.0.2"));
        assert_eq!(groups(&planner.updates(&world, &touched)), ["default/b"]);
    }

    #[test]
    fn a_change_of_this_node_plans_all_and_of_another_nothing() {
        let mut world = World::new();
        world.apply(service("a", "10.96.0.1"));
        let mut planner = Planner::new(settings(), &world);
        let touched = world.apply(node("there", "west"));
        assert!(planner.updates(&world, &touched).is_empty());
        let touched = world.apply(node("here", "west"));
        let updates = planner.updates(&world, &touched);
        assert!(matches!(&updates[0], Update::Node(facts, _) if facts.zone.is_some()));
        assert_eq!(groups(&updates), ["default/a"]);
    }
}
