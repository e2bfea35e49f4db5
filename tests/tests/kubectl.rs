//! The real kubectl against the embedded API server.

use std::time::Duration;

use e2e::{Lab, eventually};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn the_kinds_of_the_service_network() {
    let lab = Lab::up();
    let nodes = lab.kubectl(&["get", "nodes"]).expect_success();
    assert!(nodes.contains("node-1") && nodes.contains("Ready"), "{nodes}");
    lab.kubectl(&["create", "namespace", "team"]).expect_success();
    lab.kubectl(&[
        "-n",
        "team",
        "create",
        "deployment",
        "web",
        "--image=sleep",
        "--",
        // As the first process, sleep itself would not hear SIGTERM.
        "timeout",
        "99",
        "sleep",
        "99",
    ])
    .expect_success();
    lab.kubectl(&["-n", "team", "expose", "deployment", "web", "--port=80"]).expect_success();
    lab.kubectl(&["-n", "team", "rollout", "status", "deployment/web", "--timeout=20s"])
        .expect_success();
    let all = lab.kubectl(&["-n", "team", "get", "all"]).expect_success();
    for part in ["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    let slices = lab.kubectl(&["-n", "team", "get", "endpointslices"]).expect_success();
    assert!(slices.contains("10.244."), "{slices}");
    for kind in ["service", "deployment", "pod", "replicaset", "endpointslice"] {
        lab.kubectl(&["-n", "team", "describe", kind]).expect_success();
    }
    lab.kubectl(&["describe", "node", "node-1"]).expect_success();
    lab.kubectl(&["explain", "service.spec"]).ok().unwrap_or_default();

    lab.kubectl(&["delete", "namespace", "team", "--timeout=20s"]).expect_success();
    let left =
        lab.kubectl(&["get", "pods,services,deployments", "-A", "-o", "name"]).expect_success();
    assert!(!left.contains("web"), "{left}");
}

#[test]
fn apply_is_idempotent_and_keeps_what_was_allocated() {
    let lab = Lab::up();
    let manifest = |port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{type: NodePort, selector: {{app: web}}, ports: [{{name: http, port: {port}}}]}}\n"
        )
    };
    assert!(lab.apply(&manifest(80)).expect_success().contains("created"));
    let vip = lab.field("service", "web", "{.spec.clusterIP}");
    let node_port = lab.field("service", "web", "{.spec.ports[0].nodePort}");
    assert!(lab.apply(&manifest(80)).expect_success().contains("unchanged"));
    assert!(lab.apply(&manifest(81)).expect_success().contains("configured"));
    assert_eq!(lab.field("service", "web", "{.spec.clusterIP}"), vip);
    assert_eq!(lab.field("service", "web", "{.spec.ports[0].port}"), "81");
    let number: u16 = node_port.parse().expect("a node port is a number");
    assert!((30000..=32767).contains(&number), "{number}");
    lab.kubectl(&["label", "service", "web", "tier=front"]).expect_success();
    lab.kubectl(&["annotate", "service", "web", "note=yes"]).expect_success();
    let server_side = lab.kubectl(&["get", "service", "web", "--show-labels"]).expect_success();
    assert!(server_side.contains("tier=front"), "{server_side}");
    lab.kubectl(&["delete", "service", "web"]).expect_success();
    lab.kubectl(&["get", "service", "web"]).expect_failure();
}

#[test]
fn refusals_name_the_field_and_what_is_accepted() {
    let lab = Lab::up();
    let service = |name: &str, spec: &str| {
        lab.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        ))
    };
    service("taken", "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}").expect_success();
    for (spec, expected) in [
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 80}]}",
            "provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            "{type: NodePrt, ports: [{port: 80}]}",
            r#"spec.type: Unsupported value: "NodePrt": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
        (
            "{ports: [{port: 0}]}",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535",
        ),
        ("{ports: [{prot: 80}]}", r#"unknown field "spec.ports[0].prot""#),
        ("{}", "spec.ports: Required value"),
    ] {
        let message = service("wrong", spec).expect_failure();
        assert!(message.contains(expected), "{spec}\n{message}");
    }
    lab.kubectl(&["get", "service", "wrong"]).expect_failure();
}

#[test]
fn watch_shows_changes_as_they_happen() {
    let lab = Lab::up();
    let mut watch = std::process::Command::new("timeout");
    let kubeconfig = lab.portolan(&["lab", "kubeconfig"]).expect_success();
    watch
        .env("KUBECONFIG", kubeconfig)
        .arg("5")
        .arg(e2e::kubectl_path())
        .args(["get", "services", "-w"]);
    let watching = std::thread::spawn(move || e2e::run(watch, LIMIT));
    std::thread::sleep(Duration::from_secs(1));
    lab.kubectl(&["create", "service", "clusterip", "seen", "--tcp=80"]).expect_success();
    let output = watching.join().expect("the watch ends");
    assert!(output.stdout.contains("kubernetes") && output.stdout.contains("seen"), "{output:?}");
}

#[test]
fn a_pod_without_a_program_says_so() {
    let lab = Lab::up();
    lab.kubectl(&["run", "nope", "--image=registry.example/no-such:1"]).expect_success();
    eventually("ErrImagePull", LIMIT, || {
        let path = "{.status.containerStatuses[0].state.waiting.reason}";
        let reason = lab.field("pod", "nope", path);
        if reason == "ErrImagePull" || reason == "ImagePullBackOff" { Ok(()) } else { Err(reason) }
    });
    let described = lab.kubectl(&["describe", "pod", "nope"]).expect_success();
    assert!(described.contains("command"), "the reason says what to do:\n{described}");
}
