//! `v1` Pod: defaults and validation of what a pod is (shared with the templates of workloads), and
//! columns, each in its own file.

mod columns;
mod defaults;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Strategy, Write, strict};
use crate::field::FieldError;
use crate::status::Status;
pub(super) use defaults::set as default_spec;
pub(super) use validate::spec as validate_spec;

/// The rules of pods.
pub(super) struct Pods;

pub(super) static POD: Pods = Pods;

impl Strategy for Pods {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        strict::decode::<k8s_openapi::api::core::v1::Pod>(object)
    }

    fn default(&self, object: &mut Value) {
        defaults::set(&mut object["spec"]);
    }

    fn prepare_create(&self, object: &mut Value, _: &mut Write<'_>) -> Result<(), Status> {
        object["status"] = json!({"phase": "Pending", "qosClass": quality(&object["spec"])});
        Ok(())
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        _: &mut Write<'_>,
    ) -> Result<(), Status> {
        // What the server set stays where a client sends the object as it was written.
        if object["spec"]["nodeName"].is_null() && old["spec"]["nodeName"].is_string() {
            object["spec"]["nodeName"] = old["spec"]["nodeName"].clone();
        }
        Ok(())
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        match old {
            Some(old) => validate::change(object, old),
            None => validate::spec(&object["spec"], "spec"),
        }
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let value = match path {
            "spec.nodeName" => &spec["nodeName"],
            "spec.restartPolicy" => &spec["restartPolicy"],
            "spec.schedulerName" => &spec["schedulerName"],
            "spec.serviceAccountName" => &spec["serviceAccountName"],
            "spec.hostNetwork" => {
                return Some(spec["hostNetwork"].as_bool().unwrap_or(false).to_string());
            }
            "status.phase" => &status["phase"],
            "status.podIP" => &status["podIP"],
            "status.podIPs" => &status["podIPs"][0]["ip"],
            "status.nominatedNodeName" => &status["nominatedNodeName"],
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

    /// A pod that runs is stopped by its node, which then removes it with a grace period of zero;
    /// one that has no node, or has ended, just goes.
    fn grace_period(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        let is_bound = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        if !is_bound || is_terminal(object) {
            return None;
        }
        let own = object["spec"]["terminationGracePeriodSeconds"].as_i64();
        let seconds = asked.or(own).unwrap_or(defaults::GRACE_SECONDS);
        (seconds > 0).then_some(seconds)
    }
}

fn is_terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// `status.qosClass`: whether requests and limits are set everywhere, somewhere or nowhere.
fn quality(spec: &Value) -> &'static str {
    let containers = || {
        let of = |field: &str| spec[field].as_array().into_iter().flatten();
        of("containers").chain(of("initContainers"))
    };
    let amount = |container: &Value, kind: &str, what: &str| {
        container["resources"][kind][what].as_str().map(str::to_owned)
    };
    let guaranteed = |container: &Value| {
        ["cpu", "memory"].into_iter().all(|what| {
            let limit = amount(container, "limits", what);
            let request = amount(container, "requests", what);
            limit.is_some() && (request.is_none() || request == limit)
        })
    };
    let asks = |container: &Value| {
        ["requests", "limits"].into_iter().any(|kind| {
            container["resources"][kind].as_object().is_some_and(|amounts| !amounts.is_empty())
        })
    };
    if containers().all(guaranteed) {
        "Guaranteed"
    } else if containers().any(asks) {
        "Burstable"
    } else {
        "BestEffort"
    }
}
