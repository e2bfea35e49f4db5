//! A plan as text, for people.

use std::fmt::{self, Write};

use plan::{Action, Frontend, Group, NodePlan, Origin};

/// Describes the groups named in `only`, or all of them if it is empty.
pub(crate) fn describe(plan: &NodePlan, only: &[String]) -> String {
    let mut text = String::new();
    // Writing into a String can't fail.
    let _ = write_plan(&mut text, plan, only);
    text
}

fn write_plan(text: &mut String, plan: &NodePlan, only: &[String]) -> fmt::Result {
    let node = &plan.node;
    write!(text, "node {}", node.settings.node_name)?;
    list(text, ", addresses ", &node.addresses)?;
    list(text, ", services ", &plan.service_ranges)?;
    writeln!(text)?;
    let is_wanted = |group: &Group| only.is_empty() || only.iter().any(|id| **id == *group.id);
    for group in plan.groups().filter(|group| is_wanted(group)) {
        writeln!(text, "\n{}", group.id)?;
        for frontend in &group.frontends {
            write_frontend(text, group, frontend)?;
        }
        for left_out in &group.left_out {
            writeln!(text, "  without {}: {}", left_out.address, left_out.reason)?;
        }
    }
    for (key, claimants) in plan.contested() {
        let names: Vec<&str> = claimants.iter().map(|id| &**id).collect();
        writeln!(text, "\n{key} is claimed by {}; the first has it", names.join(", "))?;
    }
    Ok(())
}

fn write_frontend(text: &mut String, group: &Group, frontend: &Frontend) -> fmt::Result {
    write!(text, "  {} ({})", frontend.key, frontend.rule)?;
    if let Some(sources) = &frontend.allowed_sources {
        list(text, ", only for ", sources)?;
    }
    if let Some(affinity) = frontend.affinity {
        write!(text, ", a client keeps its endpoint for {:?}", affinity.timeout)?;
    }
    writeln!(text)?;
    for origin in [Origin::Pod, Origin::Node, Origin::Outside] {
        write!(text, "    from {:<10} ", origin.to_string())?;
        match frontend.action(origin) {
            Action::Forward { set, masquerade } => {
                let backends = &group.sets[*set].backends;
                let one = |backend: &plan::Backend| match backend.local {
                    true => format!("{} (here)", backend.address),
                    false => backend.address.to_string(),
                };
                let all: Vec<String> = backends.iter().map(one).collect();
                write!(text, "to {}", all.join(", "))?;
                writeln!(text, "{}", if *masquerade { ", masqueraded" } else { "" })?;
            }
            Action::Reject(reason) => writeln!(text, "refused: {reason}")?,
            Action::Drop(reason) => writeln!(text, "dropped: {reason}")?,
        }
    }
    Ok(())
}

fn list(text: &mut String, label: &str, items: &[impl ToString]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    write!(text, "{label}{}", items.join(" "))
}

#[cfg(test)]
mod tests {
    use model::{Event, Object, World};
    use plan::{LocalDetector, NodePortAddresses, NodeSettings};
    use serde_json::json;

    use super::*;
    use crate::proxy::Planner;

    #[test]
    fn a_plan_reads_well() {
        let mut world = World::new();
        let service = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "externalTrafficPolicy": "Local",
                "ports": [{"port": 80, "nodePort": 30001}],
            },
        });
        let slice = json!({
            "metadata": {
                "name": "web-1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "nodeName": "node-1"},
                {"addresses": ["10.244.1.2"], "nodeName": "node-2"},
                {"addresses": ["10.244.1.3"], "conditions": {"ready": false, "serving": false}},
            ],
        });
        world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
        world.apply(Event::Put(Object::EndpointSlice(serde_json::from_value(slice).unwrap())));
        let settings = NodeSettings {
            node_name: "node-1".into(),
            local_detector: LocalDetector::Sources(vec!["10.244.0.0/16".parse().unwrap()]),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            allowed_external_ips: Vec::new(),
            primary_address: None,
        };
        let plan = Planner::new(settings, &world).whole(&world);
        insta::assert_snapshot!(describe(&plan, &[]), @r"
        node node-1

        default/web
          10.96.0.7:80/TCP (ClusterIP)
            from pod        to 10.244.0.2:8080 (here), 10.244.1.2:8080
            from this node  to 10.244.0.2:8080 (here), 10.244.1.2:8080, masqueraded
            from outside    to 10.244.0.2:8080 (here), 10.244.1.2:8080, masqueraded
          IPv4 node:30001/TCP (NodePort)
            from pod        to 10.244.0.2:8080 (here), 10.244.1.2:8080
            from this node  to 10.244.0.2:8080 (here), 10.244.1.2:8080, masqueraded
            from outside    to 10.244.0.2:8080 (here)
          without 10.244.1.3:8080: not ready
        ");
        assert!(!describe(&plan, &["default/other".to_owned()]).contains("10.96.0.7"));
    }
}
