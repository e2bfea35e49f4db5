//! `kubectl get services`.

use jiff::Timestamp;
use serde_json::Value;

use super::{ports, service_type};
use crate::resource::Column;
use crate::resource::cells::{AGE, NAME, age, column, joined, labels, name, texts, wide};

pub(super) static COLUMNS: &[Column] = &[
    NAME,
    column("Type"),
    column("Cluster-IP"),
    column("External-IP"),
    column("Port(s)"),
    AGE,
    wide("Selector"),
];

pub(super) fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let first = spec["clusterIPs"][0].as_str().or(spec["clusterIP"].as_str());
    let cluster_ip = first.filter(|ip| !ip.is_empty()).unwrap_or("<none>");
    let ports = ports(service).iter().map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match port["nodePort"].as_u64().unwrap_or(0) {
            0 => format!("{}/{protocol}", port["port"]),
            node_port => format!("{}:{node_port}/{protocol}", port["port"]),
        }
    });
    vec![
        name(service),
        service_type(service).into(),
        cluster_ip.into(),
        external(service),
        joined(ports),
        age(service, now),
        labels(&spec["selector"]),
    ]
}

fn external(service: &Value) -> Value {
    let mut addresses: Vec<String> = texts(&service["spec"]["externalIPs"]).collect();
    match service_type(service) {
        "ExternalName" => return service["spec"]["externalName"].clone(),
        "LoadBalancer" => {
            let ingress =
                service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
            let of = |entry: &Value| {
                entry["ip"].as_str().or(entry["hostname"].as_str()).map(str::to_owned)
            };
            let mut balancers: Vec<String> = ingress.filter_map(of).collect();
            balancers.sort();
            if balancers.is_empty() && addresses.is_empty() {
                return "<pending>".into();
            }
            balancers.append(&mut addresses);
            return joined(balancers);
        }
        _ => {}
    }
    joined(addresses)
}
