//! `discovery.k8s.io/v1` EndpointSlice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{AGE, NAME, age, column, name};
use super::{Column, Strategy, strict};
use crate::field::{FieldError, entries_mut};
use crate::names;

/// The rules of EndpointSlices.
pub(super) struct EndpointSlices;

pub(super) static ENDPOINT_SLICE: EndpointSlices = EndpointSlices;

const TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;

impl Strategy for EndpointSlices {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        strict::decode::<k8s_openapi::api::discovery::v1::EndpointSlice>(object)
    }

    fn default(&self, object: &mut Value) {
        for port in entries_mut(object, "/ports") {
            if port["name"].is_null() {
                port["name"] = "".into();
            }
            if port["protocol"].is_null() {
                port["protocol"] = "TCP".into();
            }
        }
        if object["endpoints"].is_null() {
            object["endpoints"] = Value::Array(Vec::new());
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let address_type = object["addressType"].as_str().unwrap_or_default();
        match address_type {
            "" => errors.push(FieldError::required("addressType", "")),
            given if !TYPES.contains(&given) => {
                errors.push(FieldError::not_supported("addressType", given, &TYPES));
            }
            given => {
                if old.is_some_and(|old| old["addressType"] != given) {
                    errors.push(FieldError::invalid("addressType", given, "field is immutable"));
                }
            }
        }
        let endpoints = object["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        if endpoints.len() > MAX_ENDPOINTS {
            errors.push(FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            validate_addresses(&mut errors, i, endpoint, address_type);
            if let Some(hostname) = endpoint["hostname"].as_str()
                && let Err(detail) = names::dns_label(hostname)
            {
                errors.push(FieldError::invalid(
                    format!("endpoints[{i}].hostname"),
                    hostname,
                    detail,
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for (i, port) in object["ports"].as_array().into_iter().flatten().enumerate() {
            let port_name = port["name"].as_str().unwrap_or_default();
            if !seen.insert(port_name) {
                errors.push(FieldError::duplicate(format!("ports[{i}].name"), port_name));
            }
            if !port_name.is_empty()
                && let Err(detail) = names::dns_label(port_name)
            {
                errors.push(FieldError::invalid(format!("ports[{i}].name"), port_name, detail));
            }
            let protocol = port["protocol"].as_str().unwrap_or_default();
            if !PROTOCOLS.contains(&protocol) {
                let path = format!("ports[{i}].protocol");
                errors.push(FieldError::not_supported(path, protocol, &PROTOCOLS));
            }
            if let Some(number) = port["port"].as_i64()
                && !(0..=65535).contains(&number)
            {
                let detail = "must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid(format!("ports[{i}].port"), number, detail));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, column("AddressType"), column("Ports"), column("Endpoints"), AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ports = object["ports"].as_array().into_iter().flatten().map(|port| match port["port"]
            .as_u64()
        {
            Some(number) => number.to_string(),
            None => match port["name"].as_str() {
                None | Some("") => "*".to_owned(),
                Some(name) => name.to_owned(),
            },
        });
        let endpoints = object["endpoints"].as_array().into_iter().flatten();
        let addresses = endpoints.filter_map(|e| e["addresses"][0].as_str()).map(str::to_owned);
        vec![
            name(object),
            object["addressType"].clone(),
            shortened(ports.collect()),
            shortened(addresses.collect()),
            age(object, now),
        ]
    }
}

/// At most three of a list.
fn shortened(list: Vec<String>) -> Value {
    const SHOWN: usize = 3;
    match list.len() {
        0 => "<unset>".into(),
        1..=SHOWN => list.join(",").into(),
        more => format!("{} + {} more...", list[..SHOWN].join(","), more - SHOWN).into(),
    }
}

fn validate_addresses(
    errors: &mut Vec<FieldError>,
    i: usize,
    endpoint: &Value,
    address_type: &str,
) {
    let addresses = endpoint["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let path = format!("endpoints[{i}].addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&*path, "must contain at least 1 address"));
    }
    if addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(&*path, addresses.len(), MAX_ADDRESSES));
    }
    for (j, address) in addresses.iter().enumerate() {
        let path = format!("{path}[{j}]");
        let text = address.as_str().unwrap_or_default();
        if address_type == "FQDN" {
            if let Err(detail) = names::dns_subdomain(text) {
                errors.push(FieldError::invalid(path, text, detail));
            }
            continue;
        }
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() == (address_type == "IPv4") => {
                if let Some(detail) = special(ip) {
                    errors.push(FieldError::invalid(path, text, detail));
                }
            }
            _ => {
                let detail = format!("must be a valid {address_type} address");
                errors.push(FieldError::invalid(path, text, detail));
            }
        }
    }
}

/// Why an address can't be an endpoint or an external address: what it reaches depends on who asks
/// (CVE-2021-25737).
pub(super) fn special(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xff02,
    };
    if ip.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}
