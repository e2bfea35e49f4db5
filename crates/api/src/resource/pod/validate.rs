//! What a pod may not be, and what of it may not change.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::FieldError;
use crate::names;

type Errors = Vec<FieldError>;

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// The rules a pod's spec breaks; `path` is where it stands, in a pod or in a template.
pub(in crate::resource) fn spec(spec: &Value, path: &str) -> Errors {
    let mut errors = Vec::new();
    let list = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    if list("containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let (mut seen_names, mut seen_host_ports) = (BTreeSet::new(), BTreeSet::new());
    for field in ["initContainers", "containers"] {
        for (i, container) in list(field).iter().enumerate() {
            let path = format!("{path}.{field}[{i}]");
            let name = container["name"].as_str().unwrap_or_default();
            label(&mut errors, &format!("{path}.name"), name);
            if !name.is_empty() && !seen_names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            if container["image"].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(format!("{path}.image"), ""));
            }
            ports(&mut errors, &path, container, spec["hostNetwork"] == true, &mut seen_host_ports);
            for (j, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
                if variable["name"].as_str().unwrap_or_default().is_empty() {
                    errors.push(FieldError::required(format!("{path}.env[{j}].name"), ""));
                }
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                self::probe(&mut errors, &format!("{path}.{probe}"), &container[probe]);
            }
        }
    }
    supported(
        &mut errors,
        &format!("{path}.restartPolicy"),
        &spec["restartPolicy"],
        &RESTART_POLICIES,
    );
    supported(&mut errors, &format!("{path}.dnsPolicy"), &spec["dnsPolicy"], &DNS_POLICIES);
    if spec["dnsPolicy"] == "None" && !spec["dnsConfig"]["nameservers"][0].is_string() {
        let path = format!("{path}.dnsConfig.nameservers");
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(path, detail));
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = spec[field].as_str().filter(|name| !name.is_empty())
            && let Err(detail) = names::dns_label(name)
        {
            errors.push(FieldError::invalid(format!("{path}.{field}"), name, detail));
        }
    }
    if let Some(seconds) = spec["terminationGracePeriodSeconds"].as_i64().filter(|s| *s < 0) {
        let path = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(path, seconds, "must be greater than or equal to 0"));
    }
    errors
}

/// The rules that a change of a pod breaks: all but a few fields are as they were created.
pub(super) fn change(pod: &Value, old: &Value) -> Errors {
    let mut kept = pod["spec"].clone();
    let before = &old["spec"];
    // A node and tolerations may be added; how long it may take to end may be cut.
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        set(&mut kept, field, before);
    }
    if before["nodeName"].as_str().unwrap_or_default().is_empty() {
        set(&mut kept, "nodeName", before);
    }
    for list in ["containers", "initContainers"] {
        let images = before[list].as_array().into_iter().flatten();
        let containers = kept.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, old) in containers.zip(images) {
            set(container, "image", old);
        }
    }
    match kept == *before {
        true => Vec::new(),
        false => vec![FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` and `spec.terminationGracePeriodSeconds`: delete the pod and create it anew",
        )],
    }
}

fn set(object: &mut Value, field: &str, from: &Value) {
    crate::metadata::copy_field(from, object, field);
}

fn label(errors: &mut Errors, path: &str, name: &str) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if let Err(detail) = names::dns_label(name) {
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn supported(errors: &mut Errors, path: &str, value: &Value, accepted: &[&str]) {
    if let Some(given) = value.as_str().filter(|given| !accepted.contains(given)) {
        errors.push(FieldError::not_supported(path, given, accepted));
    }
}

fn is_port(number: i64) -> bool {
    (1..=65535).contains(&number)
}

fn ports<'v>(
    errors: &mut Errors,
    path: &str,
    container: &'v Value,
    on_host: bool,
    seen_host_ports: &mut BTreeSet<(&'v str, &'v str, i64)>,
) {
    let mut seen = BTreeSet::new();
    for (i, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let text = |field: &str| port[field].as_str().unwrap_or_default();
        let name = text("name");
        if !name.is_empty() {
            if let Err(detail) = names::port_name(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        let number = port["containerPort"].as_i64().unwrap_or(0);
        if number == 0 {
            errors.push(FieldError::required(format!("{path}.containerPort"), ""));
        } else if !is_port(number) {
            errors.push(FieldError::invalid(format!("{path}.containerPort"), number, PORT_RANGE));
        }
        supported(errors, &format!("{path}.protocol"), &port["protocol"], &PROTOCOLS);
        let Some(host_port) = port["hostPort"].as_i64().filter(|port| *port != 0) else { continue };
        let path = format!("{path}.hostPort");
        if !is_port(host_port) {
            errors.push(FieldError::invalid(path, host_port, PORT_RANGE));
        } else if on_host && host_port != number {
            let detail = "must match `containerPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(path, host_port, detail));
        } else if !seen_host_ports.insert((
            port["hostIP"].as_str().unwrap_or_default(),
            port["protocol"].as_str().unwrap_or_default(),
            host_port,
        )) {
            errors.push(FieldError::duplicate(path, host_port));
        }
    }
}

fn probe(errors: &mut Errors, path: &str, probe: &Value) {
    if !probe.is_object() {
        return;
    }
    const HANDLERS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];
    let given: Vec<&str> =
        HANDLERS.into_iter().filter(|handler| probe[handler].is_object()).collect();
    match given.as_slice() {
        [] => errors.push(FieldError::required(path, "must specify a handler type")),
        [handler @ ("httpGet" | "tcpSocket" | "grpc")] => {
            let path = format!("{path}.{handler}.port");
            match &probe[handler]["port"] {
                Value::Number(number) if !number.as_i64().is_some_and(is_port) => {
                    errors.push(FieldError::invalid(
                        path,
                        Value::Number(number.clone()),
                        PORT_RANGE,
                    ));
                }
                Value::String(name) => {
                    if let Err(detail) = names::port_name(name) {
                        errors.push(FieldError::invalid(path, name.as_str(), detail));
                    }
                }
                _ => {}
            }
        }
        [_] => {}
        [_, more @ ..] => {
            for handler in more {
                let detail = "may not specify more than 1 handler type";
                errors.push(FieldError::forbidden(format!("{path}.{handler}"), detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(errors: &[FieldError]) -> Vec<&str> {
        errors.iter().map(|error| error.path.as_str()).collect()
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        let wrong = json!({
            "restartPolicy": "Sometimes",
            "containers": [
                {"name": "a", "image": "x", "ports": [{"containerPort": 0}, {"containerPort": 80, "name": "80"}]},
                {"name": "a", "readinessProbe": {"tcpSocket": {"port": 70000}}},
                {"name": "b", "image": "x", "livenessProbe": {"exec": {}, "tcpSocket": {"port": 1}}},
            ],
        });
        assert_eq!(
            paths(&spec(&wrong, "spec.template.spec")),
            [
                "spec.template.spec.containers[0].ports[0].containerPort",
                "spec.template.spec.containers[0].ports[1].name",
                "spec.template.spec.containers[1].name",
                "spec.template.spec.containers[1].image",
                "spec.template.spec.containers[1].readinessProbe.tcpSocket.port",
                "spec.template.spec.containers[2].livenessProbe.tcpSocket",
                "spec.template.spec.restartPolicy",
            ]
        );
        assert_eq!(paths(&spec(&json!({}), "spec")), ["spec.containers"]);
    }

    #[test]
    fn only_a_few_fields_change() {
        let pod = |image: &str, node: Option<&str>, host: &str| {
            json!({"spec": {"nodeName": node, "hostname": host,
                            "containers": [{"name": "a", "image": image}]}})
        };
        let old = pod("a:1", None, "h");
        assert!(change(&pod("a:2", Some("node-1"), "h"), &old).is_empty());
        assert_eq!(change(&pod("a:1", None, "i"), &old).len(), 1);
        let bound = pod("a:1", Some("node-1"), "h");
        assert_eq!(change(&pod("a:1", Some("node-2"), "h"), &bound).len(), 1);
    }
}
