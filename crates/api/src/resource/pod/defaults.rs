//! What a pod is where its author says nothing.

use serde_json::{Value, json};

use crate::field::entries_mut;

/// `terminationGracePeriodSeconds`.
pub(super) const GRACE_SECONDS: i64 = 30;

/// Sets the defaults of a pod's spec, that of a template too.
pub(in crate::resource) fn set(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for (field, value) in [
        ("restartPolicy", "Always".into()),
        ("dnsPolicy", "ClusterFirst".into()),
        ("schedulerName", "default-scheduler".into()),
        ("terminationGracePeriodSeconds", GRACE_SECONDS.into()),
        ("securityContext", json!({})),
        ("enableServiceLinks", true.into()),
    ] {
        or(spec, field, value);
    }
    let on_host = spec["hostNetwork"] == true;
    for list in ["/containers", "/initContainers"] {
        for container in entries_mut(spec, list) {
            set_container(container, on_host);
        }
    }
    for volume in entries_mut(spec, "/volumes") {
        // Without a source a volume is an empty directory.
        if volume.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key("name"))
        {
            volume["emptyDir"] = json!({});
        }
    }
}

fn set_container(container: &mut Value, on_host: bool) {
    if !container.is_object() {
        return;
    }
    let image = container["image"].as_str().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let floats = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    let pull = if floats { "Always" } else { "IfNotPresent" };
    for (field, value) in [
        ("imagePullPolicy", pull.into()),
        ("terminationMessagePath", "/dev/termination-log".into()),
        ("terminationMessagePolicy", "File".into()),
        ("resources", json!({})),
    ] {
        or(container, field, value);
    }
    for port in entries_mut(container, "/ports") {
        or(port, "protocol", "TCP".into());
        if on_host && port["hostPort"].is_null() {
            port["hostPort"] = port["containerPort"].clone();
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[probe].is_object() {
            set_probe(&mut container[probe]);
        }
    }
    for variable in entries_mut(container, "/env") {
        let reference = &mut variable["valueFrom"]["fieldRef"];
        if reference.is_object() {
            or(reference, "apiVersion", "v1".into());
        } else if variable["valueFrom"] == json!({"fieldRef": null})
            || variable["valueFrom"].is_null()
        {
            variable.as_object_mut().map(|fields| fields.remove("valueFrom"));
        }
    }
}

fn set_probe(probe: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            probe[field] = value.into();
        }
    }
    let http = &mut probe["httpGet"];
    if http.is_object() {
        or(http, "path", "/".into());
        or(http, "scheme", "HTTP".into());
    } else {
        probe.as_object_mut().map(|fields| fields.remove("httpGet"));
    }
}

fn or(object: &mut Value, field: &str, value: Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let held = fields.entry(field).or_insert(Value::Null);
    if held.is_null() || *held == "" {
        *held = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_gaps_and_change_nothing_else() {
        let mut spec = json!({
            "restartPolicy": "Never",
            "containers": [{"name": "web", "image": "registry/nginx:1.29",
                            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
                            "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                            "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}}],
        });
        set(&mut spec);
        let container = &spec["containers"][0];
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["ports"][1]["protocol"], "UDP");
        assert_eq!(container["env"][0], json!({"name": "A", "value": "b"}));
        assert_eq!(container["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 1,
                           "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(container["readinessProbe"], probe);
        let once = spec.clone();
        set(&mut spec);
        assert_eq!(spec, once, "defaults are the same the second time");
    }

    #[test]
    fn an_image_without_a_fixed_tag_is_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            let mut container = json!({"name": "a", "image": image});
            set_container(&mut container, false);
            assert_eq!(container["imagePullPolicy"], policy, "{image}");
        }
    }
}
