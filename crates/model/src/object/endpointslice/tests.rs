//! What is read of slices.

use serde_json::json;

use super::*;

#[test]
fn endpoints_are_called_like_their_pods_if_so_read() {
    let long = "a".repeat(64);
    let target = |kind: &str, name: &str| json!({"kind": kind, "name": name, "uid": "1"});
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "default"},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "hostname": "web-0", "targetRef": target("Pod", "web-x")},
            {"addresses": ["10.0.0.2"], "hostname": "", "targetRef": target("Pod", "web-y")},
            {"addresses": ["10.0.0.3"], "targetRef": target("Node", "web-z")},
            {"addresses": ["10.0.0.4"], "targetRef": target("Pod", "web.0")},
            {"addresses": ["10.0.0.5"], "targetRef": target("Pod", &long)},
            {"addresses": ["10.0.0.6"], "targetRef": null},
            {"addresses": ["10.0.0.7"], "targetRef": target("Pod", &long[1..])},
        ],
    })
    .to_string();
    let names = |slice: &EndpointSlice| -> Vec<String> {
        let name = |endpoint: &Endpoint| endpoint.hostname().map_or("", |name| name).to_owned();
        slice.endpoints.iter().map(name).collect()
    };
    let usual: EndpointSlice = serde_json::from_str(&slice).unwrap();
    assert_eq!(names(&usual), ["web-0", "", "", "", "", "", ""]);
    let SliceWithPodNames(named) = serde_json::from_str(&slice).unwrap();
    assert_eq!(names(&named), ["web-0", "web-y", "", "", "", "", &long[1..]]);
}
