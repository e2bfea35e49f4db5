//! What the API server says to Services: ports and addresses that are handed out and given back.

use e2e::Server;

/// A manifest of a Service with more in its spec.
fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: web}}, {spec}}}\n"
    )
}

fn field(server: &Server, name: &str, path: &str) -> String {
    let path = format!("jsonpath={path}");
    server.kubectl(&["get", "service", name, "-o", &path]).expect_success()
}

fn started() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&directory.path().join("data"), &[]);
    (directory, server)
}

#[test]
fn node_ports_are_given_once_and_given_back() {
    let (_directory, server) = started();
    let with_port = |name: &str, port: u32| {
        service(name, &format!("type: NodePort, ports: [{{port: 80, nodePort: {port}}}]"))
    };
    server.apply(&with_port("first", 30123)).expect_success();
    let refused = server.apply(&with_port("second", 30123)).expect_failure();
    assert!(refused.contains("provided port is already allocated"), "{refused}");
    let refused = server.apply(&with_port("second", 40000)).expect_failure();
    assert!(refused.contains("provided port is not in the valid range"), "{refused}");
    let refused = server.apply(&with_port("first", 29999)).expect_failure();
    assert!(refused.contains("provided port is not in the valid range"), "{refused}");
    assert_eq!(field(&server, "first", "{.spec.ports[0].nodePort}"), "30123");
    server.kubectl(&["delete", "service", "first"]).expect_success();
    server.apply(&with_port("first", 30123)).expect_success();
}

#[test]
fn a_load_balancer_can_do_without_node_ports() {
    let (_directory, server) = started();
    let spec = |allocate: bool| {
        let spec = "type: LoadBalancer, ports: [{port: 80}], allocateLoadBalancerNodePorts";
        service("web", &format!("{spec}: {allocate}"))
    };
    server.apply(&spec(false)).expect_success();
    assert_eq!(field(&server, "web", "{.spec.ports[0].nodePort}"), "");
    server.apply(&spec(true)).expect_success();
    assert!(field(&server, "web", "{.spec.ports[0].nodePort}").starts_with("3"));
}

#[test]
fn a_health_check_node_port_follows_the_policy() {
    let (_directory, server) = started();
    let with_policy = |policy: &str, more: &str| {
        let ports = "type: LoadBalancer, ports: [{port: 80}]";
        service("web", &format!("{ports}, externalTrafficPolicy: {policy}{more}"))
    };
    let held = |server: &Server| field(server, "web", "{.spec.healthCheckNodePort}");
    server.apply(&with_policy("Local", "")).expect_success();
    let port = held(&server);
    assert!(port.starts_with('3'), "{port:?}");
    server.apply(&with_policy("Cluster", "")).expect_success();
    assert_eq!(held(&server), "");
    // The port is free again, and may be asked for.
    let again = format!(", healthCheckNodePort: {port}");
    server.apply(&with_policy("Local", &again)).expect_success();
    assert_eq!(held(&server), port);
}
