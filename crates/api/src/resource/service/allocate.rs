//! What the server gives a Service: families, cluster addresses, node ports.
//!
//! An allocation that fails is reported before other mistakes, because it is tried before the
//! object is validated.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::Family;
use model::address::parse_ip;
use model::alloc::{cluster_ip, node_port};
use serde_json::{Value, json};

use super::{
    clear, has_node_ports, is_external, is_headless, needs_health_check, ports, service_type,
};
use crate::field::{FieldError, entries_mut};
use crate::resource::{Write, find};
use crate::status::{Result, Status};

/// Everything for a new Service.
pub(super) fn create(service: &mut Value, write: &mut Write<'_>) -> Result<()> {
    normalise_cluster_ips(service);
    allocate_ips(service, &[], write)?;
    allocate_node_ports(service, None, write)?;
    allocate_health_check_port(service, None, write)
}

/// What changes with an update. What the old Service has and the new one does not mention is kept.
pub(super) fn update(service: &mut Value, old: &Value, write: &mut Write<'_>) -> Result<()> {
    keep_allocated(service, old);
    normalise_cluster_ips(service);
    drop_what_the_type_lacks(service, old);
    let held = ips(old);
    allocate_ips(service, &held, write)?;
    let kept = ips(service);
    for ip in held.into_iter().filter(|ip| !kept.contains(ip)) {
        write.allocations.release_ip(ip);
    }
    allocate_node_ports(service, Some(old), write)?;
    allocate_health_check_port(service, Some(old), write)?;
    let kept: BTreeSet<u16> = crate::allocation::node_ports(service).into_iter().collect();
    for port in crate::allocation::node_ports(old) {
        if !kept.contains(&port) {
            write.allocations.release_port(port);
        }
    }
    Ok(())
}

fn ips(service: &Value) -> Vec<IpAddr> {
    crate::allocation::cluster_ips(service)
}

/// `clusterIP` is the first of `clusterIPs`; on create either may be left out.
fn normalise_cluster_ips(service: &mut Value) {
    let spec = &mut service["spec"];
    let single = spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned);
    let has_list = spec["clusterIPs"].as_array().is_some_and(|list| !list.is_empty());
    if let (Some(ip), false) = (single, has_list) {
        spec["clusterIPs"] = json!([ip]);
    }
}

fn keep_allocated(service: &mut Value, old: &Value) {
    if service_type(service) == "ExternalName" {
        return;
    }
    let is_unset = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    };
    if service_type(old) != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let held = &old["spec"][field];
            if is_unset(&service["spec"][field]) && !held.is_null() {
                service["spec"][field] = held.clone();
            }
        }
        // With the policy SingleStack, a second address is given up.
        if service["spec"]["ipFamilyPolicy"] == "SingleStack" {
            for field in ["clusterIPs", "ipFamilies"] {
                if service["spec"][field] == old["spec"][field]
                    && let Some(list) = service["spec"][field].as_array_mut()
                {
                    list.truncate(1);
                }
            }
        }
    }
    if has_node_ports(service) {
        let old_ports = ports(old).to_vec();
        for port in entries_mut(service, "/spec/ports") {
            let same = old_ports.iter().find(|held| held["name"] == port["name"]);
            let held = same.map(|held| held["nodePort"].clone()).unwrap_or_default();
            if is_unset(&port["nodePort"]) && !is_unset(&held) {
                port["nodePort"] = held;
            }
        }
    }
    if needs_health_check(service) && is_unset(&service["spec"]["healthCheckNodePort"]) {
        let held = old["spec"]["healthCheckNodePort"].clone();
        if !is_unset(&held) {
            service["spec"]["healthCheckNodePort"] = held;
        }
    }
}

/// Fields that belonged to the old type and that the user has left as they were.
fn drop_what_the_type_lacks(service: &mut Value, old: &Value) {
    let unchanged = |service: &Value, field: &str| service["spec"][field] == old["spec"][field];
    if service_type(service) == "ExternalName" && service_type(old) != "ExternalName" {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            if unchanged(service, field) {
                clear(service, field);
            }
        }
    }
    if !matches!(service_type(service), "NodePort" | "LoadBalancer") {
        let old_ports: Vec<Value> =
            ports(old).iter().map(|port| port["nodePort"].clone()).collect();
        for port in entries_mut(service, "/spec/ports") {
            if old_ports.contains(&port["nodePort"])
                && let Some(fields) = port.as_object_mut()
            {
                fields.remove("nodePort");
            }
        }
    }
    if service_type(service) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(service, field) {
                clear(service, field);
            }
        }
        service["status"] = json!({"loadBalancer": {}});
    }
    if !is_external(service) && unchanged(service, "externalTrafficPolicy") {
        clear(service, "externalTrafficPolicy");
    }
    if !needs_health_check(service) && unchanged(service, "healthCheckNodePort") {
        clear(service, "healthCheckNodePort");
    }
}

/// Decides the families and sees that there is an address of each. `held` are those that the
/// Service has already.
fn allocate_ips(service: &mut Value, held: &[IpAddr], write: &mut Write<'_>) -> Result<()> {
    if service_type(service) == "ExternalName" {
        return Ok(());
    }
    let families = families(service, &write.allocations.families())?;
    let names: Vec<String> = families.iter().map(Family::to_string).collect();
    service["spec"]["ipFamilies"] = names.into();
    if is_headless(service) {
        service["spec"]["clusterIP"] = "None".into();
        service["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut list: Vec<Value> =
        service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
    for (i, given) in list.iter().enumerate() {
        let Some(ip) = given.as_str().and_then(parse_ip) else {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            return Err(invalid(
                service,
                FieldError::invalid(format!("spec.clusterIPs[{i}]"), given.clone(), detail),
            ));
        };
        if !held.contains(&ip) {
            reserve(service, &list, ip, write)?;
        }
    }
    for family in families.iter().skip(list.len()) {
        let ip = write.allocations.allocate_ip(*family).map_err(|error| {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            Status::internal(format!(
                "failed to allocate a serviceIP for Service \"{name}\": {error}"
            ))
        })?;
        list.push(ip.to_string().into());
    }
    service["spec"]["clusterIP"] = list.first().cloned().unwrap_or_default();
    service["spec"]["clusterIPs"] = list.into();
    Ok(())
}

fn reserve(service: &Value, list: &[Value], ip: IpAddr, write: &mut Write<'_>) -> Result<()> {
    write.allocations.reserve_ip(ip).map_err(|error| {
        let detail = match error {
            cluster_ip::Error::OutOfRange { range, .. } => format!(
                "failed to allocate IP {ip}: the provided network does not match the current range {range}"
            ),
            error => format!("failed to allocate IP {ip}: {error}"),
        };
        invalid(service, FieldError::invalid("spec.clusterIPs", list.to_vec(), detail))
    })
}

/// The families that a Service is to have, in order; sets the policy.
fn families(service: &mut Value, configured: &[Family]) -> Result<Vec<Family>> {
    let family_of = |text: &str| match text {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    };
    let asked: Vec<String> = super::super::cells::texts(&service["spec"]["ipFamilies"]).collect();
    let mut families = Vec::new();
    for (i, text) in asked.iter().enumerate() {
        match family_of(text).filter(|family| configured.contains(family)) {
            Some(family) => families.push(family),
            None => {
                let detail = "not configured on this cluster";
                let error =
                    FieldError::invalid(format!("spec.ipFamilies[{i}]"), text.as_str(), detail);
                return Err(invalid(service, error));
            }
        }
    }
    for (i, ip) in ips(service).into_iter().enumerate() {
        let family = Family::of(ip);
        if !configured.contains(&family) {
            let detail = format!("{family} is not configured on this cluster");
            let path = format!("spec.clusterIPs[{i}]");
            return Err(invalid(service, FieldError::invalid(path, ip.to_string(), detail)));
        }
        if families.len() <= i {
            families.push(family);
        }
    }
    let no_selector =
        service["spec"]["selector"].as_object().is_none_or(|labels| labels.is_empty());
    let policy = match service["spec"]["ipFamilyPolicy"].as_str() {
        Some(policy) => policy.to_owned(),
        None if is_headless(service) && no_selector => "RequireDualStack".to_owned(),
        None => "SingleStack".to_owned(),
    };
    let was_asked = service["spec"]["ipFamilyPolicy"].is_string();
    service["spec"]["ipFamilyPolicy"] = policy.as_str().into();
    let primary = configured.first().copied().unwrap_or(Family::V4);
    if families.is_empty() {
        families.push(primary);
    }
    let other = Family::ALL.into_iter().find(|family| *family != families[0]);
    match policy.as_str() {
        "RequireDualStack" if was_asked && configured.len() < 2 && !is_headless(service) => {
            let detail = "this cluster is not configured for dual-stack services";
            return Err(invalid(
                service,
                FieldError::invalid("spec.ipFamilyPolicy", policy, detail),
            ));
        }
        "PreferDualStack" | "RequireDualStack" if families.len() == 1 => {
            // A headless Service without selector may have endpoints of both families anywhere.
            let unlimited = is_headless(service) && no_selector;
            families.extend(other.filter(|family| unlimited || configured.contains(family)));
        }
        _ => {}
    }
    Ok(families)
}

fn allocate_node_ports(
    service: &mut Value,
    old: Option<&Value>,
    write: &mut Write<'_>,
) -> Result<()> {
    let held: BTreeSet<u64> =
        old.into_iter().flat_map(ports).filter_map(|port| port["nodePort"].as_u64()).collect();
    let wanted = has_node_ports(service);
    let offers = matches!(service_type(service), "NodePort" | "LoadBalancer");
    let mut entries = ports(service).to_vec();
    // (port, node port, protocol) of the entries done so far.
    let mut done: Vec<(Value, u64, Value)> = Vec::new();
    for (i, entry) in entries.iter_mut().enumerate() {
        let number = entry["nodePort"].as_u64().unwrap_or(0);
        let (port, protocol) = (entry["port"].clone(), entry["protocol"].clone());
        let number = if number != 0 && offers {
            // Within a Service, one number may serve several protocols.
            let shared = done.iter().any(|(p, n, other)| {
                *n == number && *other != protocol && (*p == port || old.is_some())
            });
            if !shared && !held.contains(&number) {
                take_port(service, i, number, write)?;
            }
            number
        } else if number == 0 && wanted {
            let twin = done
                .iter()
                .find(|(p, n, other)| old.is_none() && *p == port && *other != protocol && *n != 0);
            match twin {
                Some((_, number, _)) => *number,
                None => write
                    .allocations
                    .allocate_port()
                    .map_err(|error| {
                        Status::internal(format!("failed to allocate a nodePort: {error}"))
                    })?
                    .into(),
            }
        } else {
            number
        };
        if number != 0 {
            entry["nodePort"] = number.into();
        }
        done.push((port, number, protocol));
    }
    if !entries.is_empty() {
        service["spec"]["ports"] = entries.into();
    }
    Ok(())
}

fn take_port(service: &Value, i: usize, number: u64, write: &mut Write<'_>) -> Result<()> {
    let outcome = match u16::try_from(number) {
        Ok(port) => write.allocations.reserve_port(port),
        // Let the allocator say what is accepted.
        Err(_) => write.allocations.reserve_port(0),
    };
    outcome.map_err(|error: node_port::Error| {
        let path = format!("spec.ports[{i}].nodePort");
        invalid(service, FieldError::invalid(path, number, error.to_string()))
    })
}

fn allocate_health_check_port(
    service: &mut Value,
    old: Option<&Value>,
    write: &mut Write<'_>,
) -> Result<()> {
    if !needs_health_check(service) {
        return Ok(());
    }
    let number = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
    let held = old.and_then(|old| old["spec"]["healthCheckNodePort"].as_u64()).unwrap_or(0);
    if number == 0 {
        let port = write.allocations.allocate_port().map_err(|error| {
            Status::internal(format!("failed to allocate a HealthCheck NodePort: {error}"))
        })?;
        service["spec"]["healthCheckNodePort"] = port.into();
    } else if number != held {
        let port = u16::try_from(number).unwrap_or(0);
        write.allocations.reserve_port(port).map_err(|error| {
            Status::internal(format!(
                "failed to allocate requested HealthCheck NodePort {number}: {error}"
            ))
        })?;
    }
    Ok(())
}

fn invalid(service: &Value, error: FieldError) -> Status {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    match find("", "services") {
        Some(kind) => Status::invalid(kind, name, &[error]),
        None => Status::internal(error),
    }
}
