//! What a Service may not be.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::{is_external, is_headless, needs_health_check, ports, service_type};
use crate::field::FieldError;
use crate::names;
use crate::resource::cells::texts;
use crate::resource::endpointslice::special;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const MAX_AFFINITY_SECONDS: i64 = 86_400;

type Errors = Vec<FieldError>;

pub(super) fn validate(service: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let spec = &service["spec"];
    let kind = service_type(service);
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported("spec.type", kind, &TYPES));
    }
    validate_ports(&mut errors, service);
    if is_headless(service) && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
    }
    validate_external_name(&mut errors, service);
    for (key, value) in spec["selector"].as_object().into_iter().flatten() {
        if let Err(detail) = names::qualified_name(key) {
            errors.push(FieldError::invalid("spec.selector", key.as_str(), detail));
        }
        if let Err(detail) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid("spec.selector", value.clone(), detail));
        }
    }
    validate_affinity(&mut errors, spec);
    for (i, text) in texts(&spec["externalIPs"]).enumerate() {
        let path = format!("spec.externalIPs[{i}]");
        match text.parse::<IpAddr>() {
            Ok(ip) => {
                if let Some(detail) = special(ip) {
                    errors.push(FieldError::invalid(path, text, detail));
                }
            }
            Err(_) => {
                let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                errors.push(FieldError::invalid(path, text, detail));
            }
        }
    }
    validate_policies(&mut errors, service);
    validate_load_balancer(&mut errors, service, old);
    validate_families(&mut errors, service);
    if let Some(old) = old {
        validate_change(&mut errors, service, old);
    }
    errors
}

fn validate_ports(errors: &mut Errors, service: &Value) {
    let list = ports(service);
    let kind = service_type(service);
    if list.is_empty() && !is_headless(service) && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let (mut seen_names, mut seen_ports, mut seen_node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in list.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            if list.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else if let Err(detail) = names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
        } else if !seen_names.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        let number = port["port"].as_i64().unwrap_or(0);
        if !is_port(number) {
            errors.push(FieldError::invalid(format!("{path}.port"), number, PORT_RANGE));
        }
        let protocol = port["protocol"].as_str().unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::not_supported(
                format!("{path}.protocol"),
                protocol,
                &PROTOCOLS,
            ));
        }
        match &port["targetPort"] {
            Value::Number(target) if !target.as_i64().is_some_and(is_port) => {
                let value = Value::Number(target.clone());
                errors.push(FieldError::invalid(format!("{path}.targetPort"), value, PORT_RANGE));
            }
            Value::String(target) => {
                if let Err(detail) = names::port_name(target) {
                    let path = format!("{path}.targetPort");
                    errors.push(FieldError::invalid(path, target.as_str(), detail));
                }
            }
            _ => {}
        }
        if let Some(protocol) = port["appProtocol"].as_str()
            && let Err(detail) = names::qualified_name(protocol)
        {
            errors.push(FieldError::invalid(format!("{path}.appProtocol"), protocol, detail));
        }
        if number != 0 && !seen_ports.insert((protocol, number)) {
            errors.push(FieldError::duplicate(path.clone(), port.clone()));
        }
        let node_port = port["nodePort"].as_u64().unwrap_or(0);
        if node_port != 0 {
            if kind == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(format!("{path}.nodePort"), detail));
            }
            if !seen_node_ports.insert((protocol, node_port)) {
                errors.push(FieldError::duplicate(format!("{path}.nodePort"), node_port));
            }
        }
    }
}

const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

fn is_port(number: i64) -> bool {
    (1..=65535).contains(&number)
}

fn validate_external_name(errors: &mut Errors, service: &Value) {
    let spec = &service["spec"];
    if service_type(service) != "ExternalName" {
        return;
    }
    let name = spec["externalName"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else if let Err(detail) = names::dns_subdomain(name.strip_suffix('.').unwrap_or(name)) {
        errors.push(FieldError::invalid("spec.externalName", name, detail));
    }
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let value = &spec[field];
        if !value.is_null() && *value != Value::Array(Vec::new()) && *value != "" {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
        }
    }
}

fn validate_affinity(errors: &mut Errors, spec: &Value) {
    let affinity = spec["sessionAffinity"].as_str().unwrap_or_default();
    if !["ClientIP", "None"].contains(&affinity) {
        errors.push(FieldError::not_supported(
            "spec.sessionAffinity",
            affinity,
            &["ClientIP", "None"],
        ));
    }
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if affinity == "ClientIP"
        && !timeout.as_i64().is_some_and(|seconds| (1..=MAX_AFFINITY_SECONDS).contains(&seconds))
    {
        errors.push(FieldError::invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            timeout.clone(),
            format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
        ));
    }
}

fn validate_policies(errors: &mut Errors, service: &Value) {
    let spec = &service["spec"];
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        if let Some(policy) = spec[field].as_str()
            && !POLICIES.contains(&policy)
        {
            errors.push(FieldError::not_supported(format!("spec.{field}"), policy, &POLICIES));
        }
    }
    if spec["externalTrafficPolicy"].is_string() && !is_external(service) {
        errors.push(FieldError::invalid(
            "spec.externalTrafficPolicy",
            spec["externalTrafficPolicy"].clone(),
            "may only be set for externally-accessible services",
        ));
    }
    if let Some(distribution) = spec["trafficDistribution"].as_str() {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        if !supported.contains(&distribution) {
            errors.push(FieldError::not_supported(
                "spec.trafficDistribution",
                distribution,
                &supported,
            ));
        }
    }
}

fn validate_load_balancer(errors: &mut Errors, service: &Value, old: Option<&Value>) {
    let spec = &service["spec"];
    let is_balancer = service_type(service) == "LoadBalancer";
    if spec["healthCheckNodePort"].as_u64().unwrap_or(0) != 0 && !needs_health_check(service) {
        errors.push(FieldError::invalid(
            "spec.healthCheckNodePort",
            spec["healthCheckNodePort"].clone(),
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
    // The API spells this path with a capital letter.
    const RANGES: &str = "spec.LoadBalancerSourceRanges";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges: Vec<String> = texts(&spec["loadBalancerSourceRanges"]).collect();
    if !ranges.is_empty() && !is_balancer {
        errors.push(FieldError::forbidden(RANGES, only));
    }
    for (i, range) in ranges.iter().enumerate() {
        if model::address::parse_net(range).is_none() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("{RANGES}[{i}]"), range.as_str(), detail));
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !spec[field].is_null() && !is_balancer {
            errors.push(FieldError::forbidden(format!("spec.{field}"), only));
        }
    }
    if let Some(old) = old
        && is_balancer
        && service_type(old) == "LoadBalancer"
        && old["spec"]["loadBalancerClass"] != spec["loadBalancerClass"]
    {
        let value = spec["loadBalancerClass"].clone();
        errors.push(FieldError::invalid(
            "spec.loadBalancerClass",
            value,
            "may not change once set",
        ));
    }
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    let ingress = ingress.map(Vec::as_slice).unwrap_or_default();
    if !ingress.is_empty() && !is_balancer {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden("status.loadBalancer.ingress", detail));
    }
    for (i, entry) in ingress.iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        if let Some(ip) = entry["ip"].as_str()
            && ip.parse::<IpAddr>().is_err()
        {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{path}.ip"), ip, detail));
        }
        let path = format!("{path}.ipMode");
        match (entry["ip"].is_string(), entry["ipMode"].as_str()) {
            (true, None) => {
                errors.push(FieldError::required(path, "must be specified when `ip` is set"))
            }
            (false, Some(_)) => {
                errors
                    .push(FieldError::forbidden(path, "may not be specified when `ip` is not set"));
            }
            (true, Some(mode)) if !["Proxy", "VIP"].contains(&mode) => {
                errors.push(FieldError::not_supported(path, mode, &["Proxy", "VIP"]));
            }
            _ => {}
        }
    }
}

fn validate_families(errors: &mut Errors, service: &Value) {
    let spec = &service["spec"];
    if service_type(service) == "ExternalName" {
        return;
    }
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("SingleStack");
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if !policies.contains(&policy) {
        errors.push(FieldError::not_supported("spec.ipFamilyPolicy", policy, &policies));
    }
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        let count = spec[field].as_array().map_or(0, Vec::len);
        if count > 1 && policy == "SingleStack" {
            let detail = format!(
                "must be RequireDualStack or PreferDualStack when multiple {what} are specified"
            );
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
        }
        if count > 2 {
            errors.push(FieldError::too_many(format!("spec.{field}"), count, 2));
        }
    }
    let first = &spec["clusterIPs"][0];
    if !first.is_null() && spec["clusterIP"] != *first {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid("spec.clusterIPs", spec["clusterIPs"].clone(), detail));
    }
}

fn validate_change(errors: &mut Errors, service: &Value, old: &Value) {
    if [service, old].iter().any(|s| service_type(s) == "ExternalName") {
        return;
    }
    let list = |service: &Value, field: &str| -> Vec<Value> {
        service["spec"][field].as_array().cloned().unwrap_or_default()
    };
    let pairs = list(old, "clusterIPs").into_iter().zip(list(service, "clusterIPs"));
    for (i, (held, given)) in pairs.enumerate() {
        if held != given {
            let path = format!("spec.clusterIPs[{i}]");
            errors.push(FieldError::invalid(path, given, "may not change once set"));
        }
    }
    let headless = is_headless(service) && is_headless(old);
    if let (Some(held), Some(given)) =
        (list(old, "ipFamilies").first(), list(service, "ipFamilies").first())
        && held != given
        && !headless
    {
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.ipFamilies[0]", given.clone(), detail));
    }
    if needs_health_check(service) && needs_health_check(old) {
        let port = |service: &Value| service["spec"]["healthCheckNodePort"].clone();
        if port(service) != port(old) {
            errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
        }
    }
}

/// What is accepted and should not be done.
pub(super) fn warnings(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let mut warnings = Vec::new();
    let some = |field: &str| spec[field].as_array().is_some_and(|list| !list.is_empty());
    if some("externalIPs") {
        warnings.push("spec.externalIPs is deprecated: anybody who may write Services can take over traffic with it".into());
    }
    if spec["externalName"].is_string() && service_type(service) != "ExternalName" {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if is_headless(service) && spec["sessionAffinity"] == "ClientIP" {
        warnings.push("spec.sessionAffinity is ignored for headless services".into());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        warnings
            .push("spec.trafficDistribution: PreferClose is deprecated, use PreferSameZone".into());
    }
    warnings
}
