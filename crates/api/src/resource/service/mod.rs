//! `v1` Service: defaults, allocation, validation and columns, each in its own file.

mod allocate;
mod columns;
mod defaults;
mod validate;

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, Strategy, Write, strict};
use crate::allocation;
use crate::field::FieldError;
use crate::names::{self, NameRule};
use crate::status::Status;

/// The rules of Services.
pub(super) struct Services;

pub(super) static SERVICE: Services = Services;

/// `spec.type`, with the default read in.
fn service_type(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

/// `clusterIP: None`.
fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None" || service["spec"]["clusterIPs"][0] == "None"
}

/// Whether node ports are part of what the type offers.
fn has_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// Whether the load balancer needs a port to ask the node's health at.
fn needs_health_check(service: &Value) -> bool {
    service_type(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Whether `externalTrafficPolicy` means anything.
fn is_external(service: &Value) -> bool {
    let external_ips = service["spec"]["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    match service_type(service) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => external_ips,
        _ => false,
    }
}

/// The entries of `spec.ports`.
fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Takes a field of the spec away.
fn clear(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}

impl Strategy for Services {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        strict::decode::<k8s_openapi::api::core::v1::Service>(object)
    }

    fn default(&self, object: &mut Value) {
        defaults::set(object);
    }

    fn prepare_create(&self, object: &mut Value, write: &mut Write<'_>) -> Result<(), Status> {
        object["status"] = serde_json::json!({"loadBalancer": {}});
        allocate::create(object, write)
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        write: &mut Write<'_>,
    ) -> Result<(), Status> {
        allocate::update(object, old, write)
    }

    fn release(&self, object: &Value, write: &mut Write<'_>) {
        for ip in allocation::cluster_ips(object) {
            write.allocations.release_ip(ip);
        }
        for port in allocation::node_ports(object) {
            write.allocations.release_port(port);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::validate(object, old)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        validate::warnings(object)
    }

    fn name_rule(&self) -> NameRule {
        names::dns_label
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        let value = match path {
            "spec.clusterIP" => &object["spec"]["clusterIP"],
            "spec.type" => &object["spec"]["type"],
            _ => return None,
        };
        Some(value.as_str().unwrap_or_default().to_owned())
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::cells(object, now)
    }
}
