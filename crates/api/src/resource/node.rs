//! `v1` Node.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{AGE, NAME, age, column, joined, name, wide};
use super::{Column, Strategy, Write, strict};
use crate::field::FieldError;
use crate::status::Status;

/// The rules of nodes.
pub(super) struct Nodes;

pub(super) static NODE: Nodes = Nodes;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

impl Strategy for Nodes {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        strict::decode::<k8s_openapi::api::core::v1::Node>(object)
    }

    fn default(&self, object: &mut Value) {
        if !object["spec"].is_object() {
            object["spec"] = Value::Object(serde_json::Map::new());
        }
        let spec = &mut object["spec"];
        match (spec["podCIDR"].is_string(), spec["podCIDRs"][0].is_string()) {
            (true, false) => spec["podCIDRs"] = vec![spec["podCIDR"].clone()].into(),
            (false, true) => spec["podCIDR"] = spec["podCIDRs"][0].clone(),
            _ => {}
        }
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        _: &mut Write<'_>,
    ) -> Result<(), Status> {
        // A client that does not know the range does not take it away.
        for field in ["podCIDR", "podCIDRs"] {
            if object["spec"][field].is_null() && !old["spec"][field].is_null() {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
        Ok(())
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let cidrs =
            |object: &Value| object["spec"]["podCIDRs"].as_array().cloned().unwrap_or_default();
        for (i, cidr) in cidrs(object).iter().enumerate() {
            if cidr.as_str().and_then(model::address::parse_net).is_none() {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(FieldError::invalid(
                    format!("spec.podCIDRs[{i}]"),
                    cidr.clone(),
                    detail,
                ));
            }
        }
        if let Some(old) = old
            && !cidrs(old).is_empty()
            && cidrs(old) != cidrs(object)
        {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.podCIDRs", detail));
        }
        errors
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        (path == "spec.unschedulable")
            .then(|| object["spec"]["unschedulable"].as_bool().unwrap_or(false).to_string())
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                column("Status"),
                column("Roles"),
                AGE,
                column("Version"),
                wide("Internal-IP"),
                wide("External-IP"),
                wide("OS-Image"),
                wide("Kernel-Version"),
                wide("Container-Runtime"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let status = &object["status"];
        let conditions = status["conditions"].as_array();
        let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
        let mut shown = match ready.and_then(|c| c["status"].as_str()) {
            Some("True") => "Ready",
            Some("False") => "NotReady",
            _ => "Unknown",
        }
        .to_owned();
        if object["spec"]["unschedulable"] == true {
            shown.push_str(",SchedulingDisabled");
        }
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        let roles = labels.filter_map(|(key, _)| key.strip_prefix(ROLE_PREFIX)).map(str::to_owned);
        let address = |kind: &str| {
            let addresses = status["addresses"].as_array().into_iter().flatten();
            let found = addresses.filter(|a| a["type"] == kind).find_map(|a| a["address"].as_str());
            Value::from(found.unwrap_or("<none>"))
        };
        let info =
            |field: &str| Value::from(status["nodeInfo"][field].as_str().unwrap_or("<unknown>"));
        vec![
            name(object),
            shown.into(),
            joined(roles),
            age(object, now),
            info("kubeletVersion"),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }
}
