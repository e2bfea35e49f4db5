//! `v1` Endpoints, the predecessor of EndpointSlices.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{AGE, NAME, age, column, name};
use super::{Column, Strategy, strict};
use crate::field::entries_mut;

/// The rules of Endpoints.
pub(super) struct EndpointsRules;

pub(super) static ENDPOINTS: EndpointsRules = EndpointsRules;

impl Strategy for EndpointsRules {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        strict::decode::<k8s_openapi::api::core::v1::Endpoints>(object)
    }

    fn default(&self, object: &mut Value) {
        for subset in entries_mut(object, "/subsets") {
            for port in entries_mut(subset, "/ports") {
                if port["protocol"].is_null() {
                    port["protocol"] = "TCP".into();
                }
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, column("Endpoints"), AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut shown = Vec::new();
        for subset in list(&object["subsets"]) {
            let addresses = list(&subset["addresses"]);
            let ports = list(&subset["ports"]);
            for address in &addresses {
                let ip = address["ip"].as_str().unwrap_or_default();
                match ports.is_empty() {
                    true => shown.push(ip.to_owned()),
                    false => {
                        shown.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])))
                    }
                }
            }
        }
        const SHOWN: usize = 3;
        let text = match shown.len() {
            0 => "<none>".to_owned(),
            1..=SHOWN => shown.join(","),
            more => format!("{} + {} more...", shown[..SHOWN].join(","), more - SHOWN),
        };
        vec![name(object), text.into(), age(object, now)]
    }
}
