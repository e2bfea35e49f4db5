//! What the service network promises, with packets: pod addresses, ClusterIP, names, NodePort.
//!
//! One lab on `examples/` serves one test for each promise; each test starts its own, so that a
//! failure says which promise broke.

use std::time::Duration;

use e2e::{Lab, eventually};

const READY: Duration = Duration::from_secs(20);

/// The pods of the nginx Deployment once both are ready.
fn nginx_pods(lab: &Lab) -> Vec<String> {
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    lab.pods("name=nginx-pod")
}

fn pod_ip(lab: &Lab, pod: &str) -> String {
    lab.field("pod", pod, "{.status.podIP}")
}

fn node_of(lab: &Lab, pod: &str) -> String {
    lab.field("pod", pod, "{.spec.nodeName}")
}

#[test]
fn pods_reach_each_other_across_nodes_without_nat() {
    let lab = Lab::up_with_examples();
    let pods = nginx_pods(&lab);
    assert_ne!(node_of(&lab, &pods[0]), node_of(&lab, &pods[1]), "the pods are on two nodes");
    let (from, to) = (pod_ip(&lab, &pods[0]), pod_ip(&lab, &pods[1]));
    assert!(from.starts_with("10.244.") && to.starts_with("10.244."), "{from} {to}");
    let seen = lab.curl(&format!("pod/{}", pods[0]), &format!("http://{to}/")).expect_success();
    assert!(seen.contains(&format!("client {from}")), "the server sees the pod's address: {seen}");
}

#[test]
fn a_recreated_pod_has_another_address_and_its_service_works() {
    let lab = Lab::up_with_examples();
    let before: Vec<String> = nginx_pods(&lab).iter().map(|pod| pod_ip(&lab, pod)).collect();
    lab.kubectl(&["delete", "pod", "-l", "name=nginx-pod"]).expect_success();
    let after: Vec<String> = nginx_pods(&lab).iter().map(|pod| pod_ip(&lab, pod)).collect();
    assert!(after.iter().all(|ip| !before.contains(ip)), "{before:?} then {after:?}");
    let node_port = "http://172.31.0.11:30001/";
    eventually("the Service answers", READY, || lab.curl("outside", node_port).ok());
}

#[test]
fn containers_of_a_pod_share_localhost() {
    let lab = Lab::up();
    lab.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  containers:
  - name: server
    image: nginx
    command: [sh, -c]
    args:
    - |
      printf 'daemon off; pid /tmp/p; error_log stderr; events {}\nhttp { access_log off; client_body_temp_path /tmp; proxy_temp_path /tmp; fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; scgi_temp_path /tmp; server { listen 127.0.0.1:8080; return 200 "from localhost\\n"; } }' > /tmp/c
      exec nginx -e stderr -c /tmp/c
  - name: client
    image: sleep
    command: [sleep, "1000"]
"#,
    )
    .expect_success();
    eventually("two containers on localhost", READY, || {
        lab.exec("pod/default/two/client", &["curl", "-sS", "http://127.0.0.1:8080/"])
            .ok()
            .and_then(|body| if body == "from localhost" { Ok(()) } else { Err(body) })
    });
    let other = lab.exec("pod/two", &["hostname"]).expect_success();
    assert_eq!(other, "two");
}

#[test]
fn a_cluster_ip_leads_to_pods_and_means_nothing_else() {
    let lab = Lab::up_with_examples();
    let pods = nginx_pods(&lab);
    let vip = lab.field("service", "nginx-service", "{.spec.clusterIP}");
    assert!(vip.starts_with("10.96."), "{vip}");
    for host in ["node-1", "node-2", &format!("pod/{}", pods[0]), &format!("pod/{}", pods[1])] {
        let url = format!("http://{vip}:30080/");
        eventually("the ClusterIP answers", READY, || lab.curl(host, &url).ok());
        // The same address on another port is refused, and at once.
        let refused = lab.curl(host, &format!("http://{vip}:81/"));
        assert!(refused.took < Duration::from_secs(1), "{host}: {:?}", refused.took);
        let message = refused.expect_failure();
        assert!(message.contains("refused") || message.contains("onnect to"), "{host}: {message}");
        // It is nobody's address: ping has no answer.
        let ping = lab.exec(host, &["ping", "-c", "1", "-W", "1", &vip]).expect_failure();
        assert!(!ping.contains("bytes from 10.96."), "{host}: {ping}");
    }
    // It exists only inside the cluster.
    lab.curl("outside", &format!("http://{vip}:30080/")).expect_failure();
}

#[test]
fn a_service_is_found_by_its_names() {
    let lab = Lab::up_with_examples();
    let pods = nginx_pods(&lab);
    let vip = lab.field("service", "nginx-service", "{.spec.clusterIP}");
    let host = format!("pod/{}", pods[0]);
    for name in
        ["nginx-service", "nginx-service.default", "nginx-service.default.svc.cluster.local"]
    {
        eventually("the name resolves", READY, || {
            let seen = lab.exec(&host, &["getent", "ahostsv4", name]).ok()?;
            if seen.starts_with(&vip) { Ok(()) } else { Err(seen) }
        });
        lab.curl(&host, &format!("http://{name}:30080/")).expect_success();
    }
    let dns = "10.96.0.10";
    for transport in ["+notcp", "+tcp"] {
        let name = "nginx-service.default.svc.cluster.local";
        let answer = lab
            .exec(&host, &["dig", "+short", "+time=1", transport, &format!("@{dns}"), name])
            .expect_success();
        assert_eq!(answer, vip, "{transport}");
    }
    // Sooner or later it is the node's own server that answers, which says how it is.
    let node = node_of(&lab, &pods[0]);
    let probe = |path: &str| lab.curl(&node, &format!("http://127.0.0.1:9153{path}"));
    assert_eq!(probe("/ready").expect_success(), "OK");
    eventually("answers are counted", READY, || {
        lab.exec(&host, &["getent", "ahostsv4", "nginx-service.default"]).ok()?;
        let metrics = probe("/metrics").ok()?;
        let count = |start: &str| metrics.lines().find_map(|line| line.strip_prefix(start));
        let answers = count(
            "coredns_dns_request_duration_seconds_count{server=\"dns://:53\",zone=\"cluster.local.\",view=\"\"} ",
        );
        let searches = count("coredns_autopath_success_total{server=\"dns://:53\"} ");
        match (answers, searches) {
            (Some(answers), Some(searches)) if answers != "0" && searches != "0" => Ok(()),
            _ => Err(metrics),
        }
    });
    let resolv = lab.exec(&host, &["cat", "/etc/resolv.conf"]).expect_success();
    let search = "search default.svc.cluster.local svc.cluster.local cluster.local";
    assert!(resolv.contains(search), "{resolv}");
    assert!(resolv.contains("nameserver 10.96.0.10"), "{resolv}");
    assert!(resolv.contains("options ndots:5"), "{resolv}");
}

#[test]
fn every_node_answers_on_the_node_port() {
    let lab = Lab::up_with_examples_and(&["--nodes", "3"]);
    let pods = nginx_pods(&lab);
    let with_pods: Vec<String> = pods.iter().map(|pod| node_of(&lab, pod)).collect();
    assert!(with_pods.len() < 3, "some node has no nginx pod");
    for address in ["172.31.0.11", "172.31.0.12", "172.31.0.13"] {
        let url = format!("http://{address}:30001/");
        eventually("the node port answers", READY, || lab.curl("outside", &url).ok());
    }
}

#[test]
fn policy_local_keeps_the_clients_address() {
    let lab = Lab::up_with_examples_and(&["--nodes", "3"]);
    let pods = nginx_pods(&lab);
    let with_pods: Vec<String> = pods.iter().map(|pod| node_of(&lab, pod)).collect();
    lab.kubectl(&[
        "patch",
        "service",
        "nginx-service",
        "-p",
        r#"{"spec":{"externalTrafficPolicy":"Local"}}"#,
    ])
    .expect_success();
    for node in 1..=3 {
        let url = format!("http://172.31.0.1{node}:30001/");
        if with_pods.contains(&format!("node-{node}")) {
            eventually("the client's own address is seen", READY, || {
                let seen = lab.curl("outside", &url).ok()?;
                if seen.contains("client 172.31.0.200") { Ok(()) } else { Err(seen) }
            });
        } else {
            eventually("a node without a pod is silent", READY, || {
                let output = lab.curl("outside", &url);
                if output.success { Err(output.stdout) } else { Ok(()) }
            });
        }
    }
}

#[test]
fn mariadb_is_reached_through_another_port() {
    let lab = Lab::up_with_examples();
    let pods = nginx_pods(&lab);
    let host = format!("pod/{}", pods[0]);
    let query = [
        "mariadb",
        "--skip-ssl",
        "-h",
        "mysql-service",
        "-P",
        "33306",
        "-u",
        "portolan",
        "-pportolan",
        "-N",
        "-e",
        "select 6 * 7",
    ];
    let answer =
        eventually("MariaDB answers", Duration::from_secs(40), || lab.exec(&host, &query).ok());
    assert_eq!(answer, "42");
}

#[test]
fn a_named_target_port_follows_each_pod() {
    let lab = Lab::up();
    let pod = |name: &str, port: u16| {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: named}}}}
spec:
  containers:
  - name: server
    image: nginx
    ports: [{{name: web, containerPort: {port}}}]
    command: [sh, -c]
    args:
    - |
      printf 'daemon off; pid /tmp/p; error_log stderr; events {{}}\nhttp {{ access_log off; client_body_temp_path /tmp; proxy_temp_path /tmp; fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; scgi_temp_path /tmp; server {{ listen {port}; return 200 "{name} {port}\\n"; }} }}' > /tmp/c
      exec nginx -e stderr -c /tmp/c
    readinessProbe: {{tcpSocket: {{port: web}}, periodSeconds: 1}}
"#
        )
    };
    let service = r#"
apiVersion: v1
kind: Service
metadata: {name: named}
spec: {selector: {app: named}, ports: [{port: 80, targetPort: web}]}
"#;
    lab.apply(&format!("{service}{}{}", pod("one", 8081), pod("two", 8082))).expect_success();
    let vip = lab.field("service", "named", "{.spec.clusterIP}");
    let mut missing = vec!["one 8081".to_owned(), "two 8082".to_owned()];
    eventually("both pods on their own ports", READY, || {
        let seen = lab.curl("node-1", &format!("http://{vip}/")).ok()?;
        missing.retain(|pod| *pod != seen);
        if missing.is_empty() { Ok(()) } else { Err(format!("not yet seen: {missing:?}")) }
    });
}

#[test]
fn traffic_follows_a_deployment_within_a_second() {
    let lab = Lab::up_with_examples();
    nginx_pods(&lab);
    let served_by = || {
        let mut names: Vec<String> = (0..40)
            .map(|_| lab.curl("outside", "http://172.31.0.12:30001/").expect_success())
            .filter_map(|body| body.split_whitespace().next().map(str::to_owned))
            .collect();
        names.sort();
        names.dedup();
        names
    };
    lab.kubectl(&["scale", "deployment/nginx", "--replicas=4"]).expect_success();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(served_by(), lab.pods("name=nginx-pod"), "four pods serve");

    lab.kubectl(&["scale", "deployment/nginx", "--replicas=1"]).expect_success();
    let gone = eventually("one replica", READY, || {
        let ready = lab.field("deployment", "nginx", "{.status.readyReplicas}");
        let pods = lab.pods("name=nginx-pod");
        if ready == "1" && pods.len() == 1 { Ok(pods) } else { Err(format!("{ready} {pods:?}")) }
    });
    assert_eq!(served_by(), gone, "the pod that is left serves alone");
}

#[test]
fn a_connection_is_explained_from_the_cluster_and_from_a_file() {
    let lab = Lab::up_with_examples();
    lab.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=20s"]).expect_success();
    let text = lab.portolan(&["explain", "outside", "node/node-1:30001"]).expect_success();
    for part in ["reaches an endpoint", "Service default/nginx-service", "pod default/nginx-"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("cluster.json");
    let file = file.to_str().expect("the path is UTF-8");
    lab.portolan(&["dump", file]).expect_success();
    let json = lab
        .portolan(&["explain", "--dump", file, "outside", "node/node-1:30002", "-o", "json"])
        .expect_failure();
    assert!(json.contains("\"code\": \"NoSuchNodePort\""), "{json}");
}
