//! What a Service is where its author says nothing.

use serde_json::{Value, json};

use super::{clear, is_external, service_type};
use crate::field::entries_mut;

/// `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

pub(super) fn set(service: &mut Value) {
    if !service["spec"].is_object() {
        service["spec"] = json!({});
    }
    let default = |service: &mut Value, field: &str, value: Value| {
        let held = &mut service["spec"][field];
        if held.is_null() || *held == "" {
            *held = value;
        }
    };
    default(service, "type", "ClusterIP".into());
    default(service, "sessionAffinity", "None".into());
    match service["spec"]["sessionAffinity"].as_str() {
        Some("ClientIP") => {
            let config = &mut service["spec"]["sessionAffinityConfig"];
            if config["clientIP"]["timeoutSeconds"].is_null() {
                *config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
            }
        }
        _ => clear(service, "sessionAffinityConfig"),
    }
    for port in entries_mut(service, "/spec/ports") {
        if port["protocol"].is_null() || port["protocol"] == "" {
            port["protocol"] = "TCP".into();
        }
        let target = &port["targetPort"];
        if target.is_null() || *target == 0 || *target == "" {
            port["targetPort"] = port["port"].clone();
        }
    }
    if is_external(service) {
        default(service, "externalTrafficPolicy", "Cluster".into());
    }
    if service_type(service) != "ExternalName" {
        default(service, "internalTrafficPolicy", "Cluster".into());
    }
    if service_type(service) == "LoadBalancer" {
        default(service, "allocateLoadBalancerNodePorts", true.into());
        for entry in entries_mut(service, "/status/loadBalancer/ingress") {
            if entry["ip"].is_string() && entry["ipMode"].is_null() {
                entry["ipMode"] = "VIP".into();
            }
        }
    }
}
