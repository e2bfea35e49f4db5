//! What stands in the way, from the first thing that is wrong: name, port, selector, pods, policy.

use std::net::IpAddr;
use std::num::NonZeroU16;

use model::object::{Pod, Service, ServiceType, TargetPort};
use model::{Family, ObjectName, Protocol, World};
use plan::trace::{Cause, Fate};
use plan::{NodePlan, PortId, Refusal};

use super::Reason;
use super::place::Target;

/// The address, port and protocol of a Service that a client means.
pub(super) fn resolve_service(
    world: &World,
    name: &ObjectName,
    target: &Target,
    family: Option<Family>,
) -> Result<(IpAddr, NonZeroU16, Protocol), Reason> {
    let service = world.service(name).ok_or_else(|| {
        let elsewhere: Vec<String> = world
            .services()
            .filter(|(other, _)| other.name == name.name || other.namespace == name.namespace)
            .map(|(other, _)| other.to_string())
            .take(8)
            .collect();
        let near = match elsewhere.is_empty() {
            true => "no other of that name or namespace is there".to_owned(),
            false => format!("there are {}", elsewhere.join(", ")),
        };
        Reason {
            code: "NoSuchService",
            text: format!("there is no Service {name}: the name does not resolve"),
            advice: near,
        }
    })?;
    if service.service_type == ServiceType::ExternalName {
        return Err(Reason {
            code: "ExternalName",
            text: format!(
                "Service {name} is an alias of {}: its name leads there, and no proxy is involved",
                service.external_name.as_deref().unwrap_or("nothing")
            ),
            advice: "explain that name instead".into(),
        });
    }
    if service.cluster_ips.is_empty() {
        return Err(Reason {
            code: "Headless",
            text: format!(
                "Service {name} is headless: its name resolves to its pods' addresses, and connections go straight to them"
            ),
            advice: "explain a connection to one of the pods, on the port of the pod".into(),
        });
    }
    if service.meta.labels.contains_key(model::object::PROXY_NAME_LABEL) {
        return Err(Reason {
            code: "OtherProxy",
            text: format!(
                "Service {name} has the label {}: it is left to another proxy",
                model::object::PROXY_NAME_LABEL
            ),
            advice: "remove the label if there is no such proxy".into(),
        });
    }
    let address = family
        .and_then(|family| service.cluster_ip(family))
        .or_else(|| service.cluster_ips.first().copied())
        .expect("it has addresses");
    let ports: Vec<_> = service
        .ports
        .iter()
        .filter(|port| target.protocol.is_none_or(|protocol| port.protocol == protocol))
        .collect();
    let found = match (&target.port, target.number()) {
        (None, _) if ports.len() == 1 => ports.first().copied(),
        (None, _) => None,
        (Some(_), Some(number)) => {
            return Ok((
                address,
                number,
                target.protocol.unwrap_or_else(|| {
                    let own = service.ports.iter().find(|port| port.port == number);
                    own.map(|port| port.protocol).unwrap_or_default()
                }),
            ));
        }
        (Some(name), None) => ports.iter().copied().find(|port| *port.name == **name),
    };
    let port = found.ok_or_else(|| Reason {
        code: "NoSuchPort",
        text: format!("Service {name} has no such port"),
        advice: format!("it has {}", ports_of(service)),
    })?;
    Ok((address, port.port, port.protocol))
}

/// Why nothing is at an address and port.
pub(super) fn without_frontend(
    world: &World,
    plan: &NodePlan,
    address: IpAddr,
    port: NonZeroU16,
    protocol: Protocol,
    fate: &Fate,
    is_node: bool,
) -> Option<Reason> {
    match fate {
        Fate::Reject(Cause::NoSuchPort(group)) => {
            let (namespace, name) = group.split_once('/')?;
            let service = world.service(&ObjectName::new(namespace, name))?;
            let other = service.ports.iter().find(|own| own.port == port);
            let text = match other {
                Some(own) => {
                    format!("port {port} of Service {group} is {}, not {protocol}", own.protocol)
                }
                None => format!("Service {group} has no port {port}"),
            };
            let code = if other.is_some() { "WrongProtocol" } else { "NoSuchPort" };
            Some(Reason { code, text, advice: format!("it has {}", ports_of(service)) })
        }
        Fate::Drop(Cause::Unallocated) => Some(Reason {
            code: "UnallocatedAddress",
            text: format!("{address} is in the range of Services, but no Service has it"),
            advice: "look the Service's address up again: it changes when the Service is made anew"
                .into(),
        }),
        _ if refused_external_ip(world, plan, address).is_some() => {
            let name = refused_external_ip(world, plan, address)?;
            Some(Reason {
                code: "ExternalIPRefused",
                text: format!(
                    "{address} is an external address of Service {name}, but proxies here do not serve it"
                ),
                advice: "name its range in the proxies' --allow-external-ips".into(),
            })
        }
        _ if is_node => Some(at_node(world, plan, address, port, protocol)),
        _ => {
            let slices = world.services_by_endpoint_ip(address).into_iter();
            let services: Vec<String> = slices.map(ToString::to_string).collect();
            (!services.is_empty()).then(|| Reason {
                code: "PodAddress",
                text: format!("{address} is an endpoint of {}: connections to it go straight there, and no proxy is involved", services.join(", ")),
                advice: "routes between nodes and the pod's own state decide".into(),
            })
        }
    }
}

/// The Service that asks for an external address which this node does not serve.
fn refused_external_ip<'w>(
    world: &'w World,
    plan: &NodePlan,
    address: IpAddr,
) -> Option<&'w ObjectName> {
    let mut services = world.services();
    let asks = |service: &Service| service.external_ips.contains(&address);
    let found = services.find(|(_, service)| asks(service) && service.is_proxied());
    found.map(|(name, _)| name).filter(|_| !plan.node.serves_external_ip(address))
}

/// Why a node does not take a connection to one of its own ports as a node port.
fn at_node(
    world: &World,
    plan: &NodePlan,
    address: IpAddr,
    port: NonZeroU16,
    protocol: Protocol,
) -> Reason {
    let owner = world.services().find(|(_, service)| {
        service.ports.iter().any(|own| own.node_port == Some(port) && own.protocol == protocol)
    });
    match owner {
        Some((name, _)) if address.is_loopback() => Reason {
            code: "AddressTakesNoNodePorts",
            text: format!("{port} is a node port of Service {name}, but {address} takes no node ports"),
            advice: "use the node's primary address; loopback takes node ports of the node's own programs with --dataplane ebpf, unless nodePortAddresses names addresses".into(),
        },
        Some((name, _)) if !plan.node.accepts_node_ports(address) => Reason {
            code: "AddressTakesNoNodePorts",
            text: format!("{port} is a node port of Service {name}, but {address} takes no node ports (nodePortAddresses)"),
            advice: "use the node's primary address, or name this one in nodePortAddresses".into(),
        },
        Some((name, service)) if service.cluster_ip(Family::of(address)).is_none() => Reason {
            code: "WrongFamily",
            text: format!("Service {name} has no {} address, so {port} is no node port in that family", Family::of(address)),
            advice: "use the node's other address, or make the Service dual-stack (ipFamilyPolicy: PreferDualStack)".into(),
        },
        Some((name, _)) => Reason {
            code: "NotProxied",
            text: format!("{port} is a node port of Service {name}, which is left to another proxy"),
            advice: "remove its label service.kubernetes.io/service-proxy-name".into(),
        },
        None => {
            let ports: Vec<String> = world
                .services()
                .flat_map(|(name, service)| {
                    let numbers = service.ports.iter().filter_map(|own| own.node_port);
                    numbers.map(move |number| format!("{number} ({name})"))
                })
                .take(8)
                .collect();
            Reason {
                code: "NoSuchNodePort",
                text: format!("{protocol} port {port} is no node port of any Service: a program on the node answers, or nobody"),
                advice: match ports.is_empty() {
                    true => "there are no node ports".into(),
                    false => format!("node ports are {}", ports.join(", ")),
                },
            }
        }
    }
}

/// Why a port of a Service has no endpoint for a connection.
pub(super) fn without_endpoints(
    world: &World,
    plan: &NodePlan,
    service: &Service,
    id: &PortId,
    refusal: Refusal,
) -> Reason {
    let name = service.name();
    let own: Vec<&Pod> = world
        .pods()
        .filter(|(pod, _)| pod.namespace == name.namespace)
        .map(|(_, pod)| pod)
        .collect();
    let is_selected = |pod: &&&Pod| {
        service.selector.iter().all(|(key, value)| pod.meta.labels.get(key) == Some(value))
    };
    if refusal == Refusal::NoLocalEndpoints {
        return no_local(world, plan, service, id);
    }
    let slices: Vec<_> = world.slices(&name).filter(|slice| !slice.is_headless).collect();
    let of_family = |slice: &&&model::object::EndpointSlice| slice.is_of(id.family);
    let endpoints = slices.iter().filter(of_family).flat_map(|slice| &slice.endpoints).count();
    let with_port = slices.iter().filter(of_family).any(|slice| {
        slice.ports.iter().any(|port| port.name == id.name && port.protocol == id.protocol)
            && !slice.endpoints.is_empty()
    });
    let other_family =
        slices.iter().any(|slice| !slice.is_of(id.family) && !slice.endpoints.is_empty());

    if service.selector.is_empty() && endpoints == 0 {
        return match other_family {
            true => wrong_family(service, id),
            false => Reason {
                code: "NoEndpointSlices",
                text: format!("Service {name} selects no pods, and nobody has made EndpointSlices with endpoints for it"),
                advice: "give it a selector, or make an EndpointSlice with the label kubernetes.io/service-name".into(),
            },
        };
    }
    let selected: Vec<&Pod> = match service.selector.is_empty() {
        true => Vec::new(),
        false => own.iter().filter(is_selected).copied().collect(),
    };
    if selected.is_empty() && endpoints == 0 && !service.selector.is_empty() {
        return selects_nothing(service, &own);
    }
    let port =
        service.ports.iter().find(|port| port.name == id.name && port.protocol == id.protocol);
    if let Some(TargetPort::Name(target)) = port.map(|port| &port.target_port)
        && !selected.is_empty()
        && !selected.iter().any(|pod| pod.port_names.contains(target))
    {
        let mut names: Vec<&str> =
            selected.iter().flat_map(|pod| pod.port_names.iter().map(|name| &**name)).collect();
        names.sort_unstable();
        names.dedup();
        return Reason {
            code: "NoSuchTargetPort",
            text: format!(
                "targetPort {target:?} of Service {name} is the name of no container port of its pods"
            ),
            advice: match names.is_empty() {
                true => {
                    "its pods name no ports: name the containerPort, or give targetPort as a number"
                        .into()
                }
                false => format!("its pods name {}", names.join(", ")),
            },
        };
    }
    if endpoints == 0 && other_family {
        return wrong_family(service, id);
    }
    if endpoints == 0 && !selected.is_empty() && selected.iter().all(|pod| pod.ips.is_empty()) {
        let phases: Vec<String> = selected
            .iter()
            .map(|pod| format!("{} is {:?}", pod.meta.name, pod.phase))
            .take(4)
            .collect();
        return Reason {
            code: "PodsNotStarted",
            text: format!("no pod of Service {name} has an address yet: {}", phases.join(", ")),
            advice: "see kubectl describe pod".into(),
        };
    }
    if endpoints == 0 && !selected.is_empty() && selected.iter().all(|pod| pod.is_terminal()) {
        return Reason {
            code: "PodsEnded",
            text: format!("all pods of Service {name} have ended (evicted, failed or completed)"),
            advice: "see kubectl describe pod; a Deployment would make new ones".into(),
        };
    }
    if endpoints > 0 && !with_port {
        return Reason {
            code: "NoSuchTargetPort",
            text: format!(
                "no EndpointSlice of Service {name} has a port named {:?} with {}",
                &*id.name, id.protocol
            ),
            advice: "ports of slices are found by name and protocol, never by number".into(),
        };
    }
    let is_ready = |endpoint: &&model::object::Endpoint| endpoint.conditions.ready;
    let all = slices.iter().filter(of_family).flat_map(|slice| &slice.endpoints);
    let forbidden: Vec<String> =
        all.clone().filter(is_ready).map(|endpoint| endpoint.address.to_string()).collect();
    if !forbidden.is_empty() {
        // What is ready and yet in no set has an address that no endpoint may have.
        return Reason {
            code: "ForbiddenEndpoints",
            text: format!(
                "the endpoints of Service {name} have addresses that no endpoint may have: {}",
                forbidden.join(", ")
            ),
            advice: "loopback, link-local and multicast addresses are refused (CVE-2021-25737); use the address of a pod or host".into(),
        };
    }
    let states: Vec<String> = all
        .map(|endpoint| {
            let who = match own.iter().find(|pod| pod.ips.contains(&endpoint.address)) {
                Some(pod) => format!("Pod {}", pod.meta.name),
                None => endpoint.address.to_string(),
            };
            let state = match (endpoint.conditions.terminating, endpoint.conditions.serving) {
                (true, false) => "terminating and not serving",
                (true, true) => "terminating",
                (false, _) => "not ready",
            };
            format!("{who} is {state}")
        })
        .take(8)
        .collect();
    if !states.is_empty() {
        let code = match states.iter().all(|state| state.contains("terminating")) {
            true => "EndpointsTerminating",
            false => "EndpointsNotReady",
        };
        return Reason {
            code,
            text: format!(
                "no endpoint of Service {name} can take connections: {}",
                states.join(", ")
            ),
            advice: "see the readiness probes in kubectl describe pod".into(),
        };
    }
    Reason {
        code: "EndpointsNotPublished",
        text: format!("{} pods match Service {name}, but no EndpointSlice lists them", selected.len()),
        advice: "see whether the endpointslice controller (kube-controller-manager, or portolan server) runs".into(),
    }
}

fn no_local(world: &World, plan: &NodePlan, service: &Service, id: &PortId) -> Reason {
    let name = service.name();
    let slices = world.slices(&name).filter(|slice| slice.is_of(id.family));
    let mut nodes: Vec<&str> = slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.conditions.ready)
        .filter_map(|endpoint| endpoint.node_name.as_deref())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    let field = match service.internal_traffic_policy {
        model::object::TrafficPolicy::Local
            if service.external_traffic_policy != model::object::TrafficPolicy::Local =>
        {
            "internalTrafficPolicy"
        }
        model::object::TrafficPolicy::Local => "internalTrafficPolicy or externalTrafficPolicy",
        model::object::TrafficPolicy::Cluster => "externalTrafficPolicy",
    };
    Reason {
        code: "NoLocalEndpoints",
        text: format!(
            "{field} of Service {} is Local, and none of its ready endpoints is on {}: they are on {}",
            service.name(),
            plan.node.settings.node_name,
            if nodes.is_empty() { "no node".to_owned() } else { nodes.join(", ") }
        ),
        advice: "go to one of these nodes, run a pod on this one, or set the policy to Cluster"
            .into(),
    }
}

fn wrong_family(service: &Service, id: &PortId) -> Reason {
    Reason {
        code: "WrongFamily",
        text: format!(
            "Service {} has an {} address, and all its endpoints are of the other family",
            service.name(),
            id.family
        ),
        advice: "addresses are not translated between families: give pods and Service the same (spec.ipFamilies)".into(),
    }
}

/// The selector matches nothing; the pods that it misses by least are named.
fn selects_nothing(service: &Service, pods: &[&Pod]) -> Reason {
    let wanted: Vec<String> =
        service.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let near = |pod: &&&Pod| service.selector.keys().any(|key| pod.meta.labels.contains_key(key));
    let mut others: Vec<String> =
        pods.iter()
            .filter(near)
            .map(|pod| {
                let labels = service.selector.keys().filter_map(|key| {
                    pod.meta.labels.get(key).map(|value| format!("{key}={value}"))
                });
                labels.collect::<Vec<_>>().join(",")
            })
            .collect();
    others.sort();
    others.dedup();
    others.truncate(4);
    Reason {
        code: "SelectorMatchesNothing",
        text: format!(
            "no pod in namespace {} has the labels that Service {} selects: {}",
            service.meta.namespace,
            service.name(),
            wanted.join(",")
        ),
        advice: match others.is_empty() {
            true => "correct spec.selector, or the labels of the pods".into(),
            false => format!("pods there have {}", others.join("; ")),
        },
    }
}

fn ports_of(service: &Service) -> String {
    let port = |port: &model::object::ServicePort| match port.name.is_empty() {
        true => format!("{}/{}", port.port, port.protocol),
        false => format!("{} ({}/{})", port.name, port.port, port.protocol),
    };
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}
