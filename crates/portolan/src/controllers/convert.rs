//! Whole API objects to what [`model::slices`] decides about, and its slices back. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, ObjectReference};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use model::address::parse_ip;
use model::object::TargetPort;
use model::slices::{
    ContainerPort, Distribution, Endpoint, Map, Pod, PodRef, Port, Service, ServicePort, Slice,
};
use model::{Family, ObjectName, Protocol};

use super::labels::Labels;
use super::owner;
use crate::client::ApiObject;

/// What is decided about a Service; `None` if its endpoints are somebody else's business: it has no
/// selector, or is only a DNS alias.
pub(super) fn service(service: &core::Service) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    if spec.selector.as_ref().is_none_or(|selector| selector.is_empty())
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return None;
    }
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let headless = matches!(cluster_ip, "" | "None");
    let mut families: Vec<Family> =
        spec.ip_families.iter().flatten().filter_map(|name| family(name)).collect();
    if families.is_empty() {
        families = match parse_ip(cluster_ip) {
            Some(ip) => vec![Family::of(ip)],
            None => Family::ALL.to_vec(),
        };
    }
    Some(Service {
        name: service.object_name(),
        uid: service.uid().into(),
        labels: map(service.metadata.labels.as_ref()),
        deleting: service.metadata.deletion_timestamp.is_some(),
        headless,
        families,
        ports: spec.ports.iter().flatten().map(service_port).collect(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        distribution: match spec.traffic_distribution.as_deref() {
            Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
            Some("PreferSameNode") => Distribution::SameNode,
            _ => Distribution::Anywhere,
        },
    })
}

fn service_port(port: &core::ServicePort) -> ServicePort {
    let target = match &port.target_port {
        Some(IntOrString::String(name)) => TargetPort::Name(name.as_str().into()),
        // Zero and absent both mean the Service's own port.
        Some(IntOrString::Int(number)) if *number != 0 => TargetPort::Number(port_number(*number)),
        _ => TargetPort::Number(port_number(port.port)),
    };
    ServicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref()),
        target,
        app_protocol: shared(&port.app_protocol),
    }
}

/// What is decided about a pod.
pub(super) fn pod(pod: &core::Pod) -> Pod {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let mut ips: Vec<IpAddr> = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default()
        .iter()
        .filter_map(|ip| parse_ip(&ip.ip))
        .collect();
    if ips.is_empty() {
        ips.extend(status.and_then(|status| parse_ip(status.pod_ip.as_deref()?)));
    }
    Pod {
        name: pod.object_name(),
        uid: pod.uid().into(),
        ips,
        terminal: is_terminal(pod),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ready: is_ready(pod),
        node: node_name(pod).map(Into::into),
        hostname: spec.and_then(|spec| shared(&spec.hostname)),
        subdomain: spec.and_then(|spec| shared(&spec.subdomain)),
        ports: spec.map(container_ports).unwrap_or_default(),
    }
}

/// Named ports, of containers first, then of init containers that keep running beside them.
fn container_ports(spec: &core::PodSpec) -> Vec<ContainerPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(ContainerPort {
                name: port.name.as_deref()?.into(),
                protocol: protocol(port.protocol.as_deref()),
                number: port_number(port.container_port),
            })
        })
        .collect()
}

/// Phase Succeeded or Failed.
pub(super) fn is_terminal(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Condition Ready is True.
pub(super) fn is_ready(pod: &core::Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// The Ready condition.
pub(super) fn ready_condition(pod: &core::Pod) -> Option<&core::PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == "Ready")
}

/// The node a pod is bound to.
pub(super) fn node_name(pod: &core::Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// An existing slice; `None` if it is not of an IP family.
pub(super) fn slice(slice: &discovery::EndpointSlice) -> Option<Slice> {
    let meta = &slice.metadata;
    let listed = slice.endpoints.as_deref().unwrap_or_default();
    let endpoints: Vec<Endpoint> = listed.iter().filter_map(endpoint).collect();
    let listed_ports = slice.ports.as_deref().unwrap_or_default();
    let ports: Vec<Port> = listed_ports.iter().filter_map(port).collect();
    Some(Slice {
        name: shared(&meta.name),
        version: meta.resource_version.as_deref().unwrap_or_default().into(),
        owners: meta.owner_references.iter().flatten().map(|o| o.uid.as_str().into()).collect(),
        labels: map(meta.labels.as_ref()),
        annotations: map(meta.annotations.as_ref()),
        family: family(&slice.address_type)?,
        damaged: endpoints.len() != listed.len() || ports.len() != listed_ports.len(),
        ports,
        endpoints,
    })
}

fn endpoint(endpoint: &discovery::Endpoint) -> Option<Endpoint> {
    let [address] = &endpoint.addresses[..] else { return None };
    let conditions = endpoint.conditions.as_ref()?;
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        address: parse_ip(address)?,
        ready: conditions.ready?,
        serving: conditions.serving?,
        terminating: conditions.terminating?,
        hostname: shared(&endpoint.hostname),
        node: shared(&endpoint.node_name),
        zone: shared(&endpoint.zone),
        pod: endpoint.target_ref.as_ref().map(|target| PodRef {
            name: ObjectName::new(
                target.namespace.as_deref().unwrap_or_default(),
                target.name.as_deref().unwrap_or_default(),
            ),
            uid: target.uid.as_deref().unwrap_or_default().into(),
        }),
        for_zones: hints
            .and_then(|hints| hints.for_zones.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|zone| zone.name.as_str().into())
            .collect(),
        for_nodes: hints
            .and_then(|hints| hints.for_nodes.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|node| node.name.as_str().into())
            .collect(),
    })
}

fn port(port: &discovery::EndpointPort) -> Option<Port> {
    Some(Port {
        name: port.name.as_deref()?.into(),
        protocol: protocol(port.protocol.as_deref()),
        number: u16::try_from(port.port?).ok()?,
        app_protocol: shared(&port.app_protocol),
    })
}

/// The object to write for a decided slice of `service`.
pub(super) fn endpoint_slice(slice: &Slice, service: &core::Service) -> discovery::EndpointSlice {
    let name = service.object_name();
    let owner: OwnerReference = owner::controller(service);
    discovery::EndpointSlice {
        metadata: ObjectMeta {
            name: owned(&slice.name),
            generate_name: slice.name.is_none().then(|| format!("{}-", name.name)),
            namespace: Some(name.namespace.to_string()),
            resource_version: slice.name.is_some().then(|| slice.version.to_string()),
            labels: Some(pairs(&slice.labels)),
            annotations: (!slice.annotations.is_empty()).then(|| pairs(&slice.annotations)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: slice.family.to_string(),
        endpoints: Some(slice.endpoints.iter().map(written_endpoint).collect()),
        ports: Some(slice.ports.iter().map(written_port).collect()),
    }
}

fn written_endpoint(endpoint: &Endpoint) -> discovery::Endpoint {
    let zones: Vec<_> = endpoint
        .for_zones
        .iter()
        .map(|name| discovery::ForZone { name: name.to_string() })
        .collect();
    let nodes: Vec<_> = endpoint
        .for_nodes
        .iter()
        .map(|name| discovery::ForNode { name: name.to_string() })
        .collect();
    let hints = (!zones.is_empty() || !nodes.is_empty()).then(|| discovery::EndpointHints {
        for_zones: (!zones.is_empty()).then_some(zones),
        for_nodes: (!nodes.is_empty()).then_some(nodes),
    });
    discovery::Endpoint {
        addresses: vec![endpoint.address.to_string()],
        conditions: Some(discovery::EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(endpoint.serving),
            terminating: Some(endpoint.terminating),
        }),
        hostname: owned(&endpoint.hostname),
        node_name: owned(&endpoint.node),
        zone: owned(&endpoint.zone),
        target_ref: endpoint.pod.as_ref().map(|pod| pod_reference(&pod.name, &pod.uid)),
        hints,
        ..discovery::Endpoint::default()
    }
}

/// `targetRef` of an endpoint: neither version, so that it changes only with the pod's identity.
pub(super) fn pod_reference(name: &ObjectName, uid: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some(name.namespace.to_string()),
        name: Some(name.name.to_string()),
        uid: Some(uid.into()),
        ..ObjectReference::default()
    }
}

fn written_port(port: &Port) -> discovery::EndpointPort {
    discovery::EndpointPort {
        name: Some(port.name.to_string()),
        protocol: Some(port.protocol.to_string()),
        port: Some(port.number.into()),
        app_protocol: owned(&port.app_protocol),
    }
}

fn family(name: &str) -> Option<Family> {
    match name {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// The API server has validated the range; a number outside it leads nowhere.
fn port_number(number: i32) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

fn map(labels: Option<&Labels>) -> Map {
    labels.into_iter().flatten().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect()
}

fn pairs(map: &Map) -> Labels {
    map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn shared(text: &Option<String>) -> Option<Arc<str>> {
    text.as_deref().filter(|text| !text.is_empty()).map(Into::into)
}

fn owned(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(Into::into)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_written_slice_reads_back_as_decided() {
        let service: core::Service = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "s" },
            "spec": { "selector": { "app": "web" }, "clusterIP": "10.96.0.7",
                      "ports": [{ "port": 80, "targetPort": "http" }],
                      "trafficDistribution": "PreferSameNode" },
        }))
        .expect("a service");
        let backend: core::Pod = serde_json::from_value(json!({
            "metadata": { "name": "web-1", "namespace": "default", "uid": "p" },
            "spec": { "nodeName": "a", "containers": [
                { "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": { "phase": "Running", "podIP": "10.244.0.9",
                        "conditions": [{ "type": "Ready", "status": "True" }] },
        }))
        .expect("a pod");
        let zones = [("a".into(), Some("north".into()))].into();
        let decided = model::slices::decide(
            &super::service(&service).expect("has a selector"),
            &[pod(&backend)],
            &zones,
            &[],
            None,
            100,
        );
        let [model::slices::Write::Create(slice)] = &decided.writes[..] else {
            panic!("{decided:?}")
        };
        assert_eq!(slice.ports[0].number, 8080);
        let written = endpoint_slice(slice, &service);
        assert_eq!(written.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(super::slice(&written).as_ref(), Some(slice));
    }

    #[test]
    fn ports_of_restartable_init_containers_are_found_and_of_others_not() {
        let spec: core::PodSpec = serde_json::from_value(serde_json::json!({
            "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 80}]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "gone", "containerPort": 81}]},
                {"name": "beside", "restartPolicy": "Always",
                 "ports": [{"name": "metrics", "containerPort": 82}]},
            ],
        }))
        .unwrap();
        let names: Vec<String> =
            container_ports(&spec).iter().map(|port| port.name.to_string()).collect();
        assert_eq!(names, ["http", "metrics"]);
    }

    #[test]
    fn services_whose_endpoints_are_not_ours() {
        for spec in [
            json!({}),
            json!({ "selector": {} }),
            json!({ "selector": { "a": "b" }, "type": "ExternalName" }),
        ] {
            let object = json!({ "metadata": {}, "spec": spec });
            let object: core::Service = serde_json::from_value(object).expect("a service");
            assert_eq!(service(&object), None);
        }
    }
}
