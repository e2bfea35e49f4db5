//! Kinds that the server stores and shows, with no rules beyond their types.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::Value;

use super::cells::{AGE, NAME, age, column, joined, name, number, since, texts};
use super::{Column, Strategy, strict};
use crate::names::{self, NameRule};

/// What differs between plain kinds.
pub(super) struct Plain {
    decode: fn(&Value) -> Result<Vec<String>, String>,
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
    field: fn(&Value, &str) -> Option<String>,
    name_rule: NameRule,
}

impl Strategy for Plain {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        (self.decode)(object)
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        (self.field)(object, path)
    }

    fn name_rule(&self) -> NameRule {
        self.name_rule
    }
}

const fn no_field(_: &Value, _: &str) -> Option<String> {
    None
}

fn count(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

pub(super) static CONFIG_MAP: Plain = Plain {
    decode: strict::decode::<ConfigMap>,
    columns: &[NAME, number("Data"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            (count(&object["data"]) + count(&object["binaryData"])).into(),
            age(object, now),
        ]
    },
    field: no_field,
    name_rule: names::dns_subdomain,
};

pub(super) static SECRET: Plain = Plain {
    decode: strict::decode::<Secret>,
    columns: &[NAME, column("Type"), number("Data"), AGE],
    cells: |object, now| {
        let kind = object["type"].as_str().unwrap_or("Opaque").into();
        vec![name(object), kind, count(&object["data"]).into(), age(object, now)]
    },
    field: |object, path| {
        (path == "type").then(|| object["type"].as_str().unwrap_or("Opaque").into())
    },
    name_rule: names::dns_subdomain,
};

pub(super) static SERVICE_ACCOUNT: Plain = Plain {
    decode: strict::decode::<ServiceAccount>,
    columns: &[NAME, number("Secrets"), AGE],
    cells: |object, now| {
        let secrets = object["secrets"].as_array().map_or(0, Vec::len);
        vec![name(object), secrets.into(), age(object, now)]
    },
    field: no_field,
    name_rule: names::dns_subdomain,
};

pub(super) static LEASE: Plain = Plain {
    decode: strict::decode::<Lease>,
    columns: &[NAME, column("Holder"), AGE],
    cells: |object, now| {
        vec![name(object), object["spec"]["holderIdentity"].clone(), age(object, now)]
    },
    field: no_field,
    name_rule: names::dns_subdomain,
};

pub(super) static SERVICE_CIDR: Plain = Plain {
    decode: strict::decode::<ServiceCIDR>,
    columns: &[NAME, column("CIDRs"), AGE],
    cells: |object, now| {
        vec![name(object), joined(texts(&object["spec"]["cidrs"])), age(object, now)]
    },
    field: no_field,
    name_rule: names::dns_subdomain,
};

pub(super) static EVENT: Plain = Plain {
    decode: strict::decode::<Event>,
    columns: &[
        column("Last Seen"),
        column("Type"),
        column("Reason"),
        column("Object"),
        column("Message"),
        Column { name: "Name", kind: "string", format: "name", priority: 1 },
    ],
    cells: |object, now| {
        let times = [&object["lastTimestamp"], &object["eventTime"], &object["firstTimestamp"]];
        let last = times.into_iter().find(|time| time.is_string()).unwrap_or(&Value::Null);
        let involved = &object["involvedObject"];
        let kind = involved["kind"].as_str().unwrap_or_default().to_lowercase();
        let about = format!("{kind}/{}", involved["name"].as_str().unwrap_or_default());
        vec![
            since(last, now),
            object["type"].clone(),
            object["reason"].clone(),
            about.into(),
            object["message"].clone(),
            name(object),
        ]
    },
    field: |object, path| {
        let value = match path.strip_prefix("involvedObject.") {
            Some(
                "kind" | "name" | "namespace" | "uid" | "apiVersion" | "resourceVersion"
                | "fieldPath",
            ) => &object["involvedObject"][&path["involvedObject.".len()..]],
            Some(_) => return None,
            None => match path {
                "reason" | "type" | "reportingComponent" => &object[path],
                "source" => &object["source"]["component"],
                _ => return None,
            },
        };
        Some(value.as_str().unwrap_or_default().to_owned())
    },
    name_rule: names::path_segment,
};
