//! Seeded faults: the true cause is named, first.

use plan::{LocalDetector, NodePortAddresses, NodeSettings};
use serde_json::{Value, json};

use super::*;

/// A cluster where everything works: Service `shop/web` with one pod on each of two nodes, and a client.
fn cluster() -> Value {
    let pod = |name: &str, ip: &str, node: &str, app: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [
                {"ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        })
    };
    let node = |name: &str, ip: &str| {
        json!({"metadata": {"name": name},
               "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
    };
    json!({
        "apiVersion": "portolan/v1", "kind": "Dump",
        "services": [{
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                     "selector": {"app": "web"},
                     "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}},
        }],
        "endpointSlices": [{
            "metadata": {"name": "web-1", "namespace": "shop",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "nodeName": "n1"},
                {"addresses": ["10.244.2.2"], "nodeName": "n2"},
            ],
        }],
        "nodes": [node("n1", "192.0.2.1"), node("n2", "192.0.2.2"), node("n3", "192.0.2.3")],
        "pods": [
            pod("web-a", "10.244.1.2", "n1", "web"), pod("web-b", "10.244.2.2", "n2", "web"),
            pod("client", "10.244.1.9", "n1", "client"), pod("lonely", "10.244.3.9", "n3", "client"),
        ],
        "serviceCidrs": [{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}],
        "programmed": [],
    })
}

fn proxy(name: &str) -> Proxy {
    Proxy { settings: settings(name), asks_sockets: false }
}

fn settings(name: &str) -> NodeSettings {
    NodeSettings {
        node_name: name.into(),
        local_detector: LocalDetector::Sources(vec!["10.244.0.0/16".parse().unwrap()]),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::Primary,
        allowed_external_ips: vec!["203.0.113.0/24".parse().unwrap()],
        primary_address: None,
    }
}

fn explained(cluster: Value, from: &str, to: &str) -> Explanation {
    let dump: Dump = serde_json::from_value(cluster).unwrap();
    explain(&dump, &proxy, from, to, None).unwrap()
}

/// Changes the cluster at JSON pointers.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut cluster = cluster();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        cluster.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"))[key] = value.clone();
    }
    cluster
}

/// Verdict, code of the cause, and its text.
fn outcome(explanation: &Explanation) -> (Verdict, &'static str, &str) {
    match &explanation.cause {
        Some(cause) => (explanation.verdict, cause.code, &cause.text),
        None => (explanation.verdict, "", ""),
    }
}

#[test]
fn what_works_is_explained_step_by_step() {
    let explanation = explained(cluster(), "shop/client", "web:80");
    assert_eq!(outcome(&explanation), (Verdict::Reaches, "", ""));
    insta::assert_snapshot!(explanation.to_string(), @r"
    from pod shop/client to web:80: reaches an endpoint
      name       shop/web is 10.96.0.7, its ClusterIP
      origin     pod shop/client (10.244.1.9) is a pod to the proxy of n1
      frontend   10.96.0.7:80/TCP is the ClusterIP of Service shop/web, port http (TCP)
      policy     any endpoint of the cluster may serve it
      endpoints  one of 2 endpoints is chosen, each as likely as the others
                   10.244.1.2:8080 (pod shop/web-a on n1) may be chosen
                   10.244.2.2:8080 (pod shop/web-b on n2) may be chosen
      source     the server sees the client's own address
      way back   answers go to the client by the way of this node, which puts the Service's address back in
    ");
    for (from, to) in [
        ("shop/client", "web.shop.svc.cluster.local:http"),
        ("node/n3", "shop/web"),
        ("outside", "node/n3:30080"),
        ("198.51.100.9", "203.0.113.5:80"),
    ] {
        assert_eq!(explained(cluster(), from, to).verdict, Verdict::Reaches, "{from} {to}");
    }
}

/// What is wrong, by which changes of the cluster; from, to; verdict, code, part of the text.
type Fault = (
    &'static str,
    Vec<(String, Value)>,
    &'static str,
    &'static str,
    Verdict,
    &'static str,
    &'static str,
);

#[test]
fn the_true_cause_of_every_fault_is_named_first() {
    let spec = |field: &str| format!("/services/0/spec/{field}");
    let slice = |field: &str| format!("/endpointSlices/0/{field}");
    let at = |pointer: String, value: Value| vec![(pointer, value)];
    let (client, web) = ("shop/client", "shop/web:80");
    use Verdict::{Lost, NoSuchName, NotTouched, Refused};
    let second = json!([cluster()["services"][0], {
        "metadata": {"name": "api", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.8", "selector": {"app": "api"},
                 "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
    }]);
    let faults: Vec<Fault> = vec![
        ("a wrong name", vec![], client, "shop/wbe:80", NoSuchName, "NoSuchService", "shop/wbe"),
        (
            "an alias",
            at(spec("type"), json!("ExternalName")),
            client,
            web,
            NoSuchName,
            "ExternalName",
            "alias",
        ),
        (
            "headless",
            vec![(spec("clusterIP"), json!("None")), (spec("clusterIPs"), json!(["None"]))],
            client,
            web,
            NoSuchName,
            "Headless",
            "headless",
        ),
        (
            "another proxy's",
            at(
                "/services/0/metadata/labels".into(),
                json!({"service.kubernetes.io/service-proxy-name": "x"}),
            ),
            client,
            web,
            NoSuchName,
            "OtherProxy",
            "another proxy",
        ),
        ("a wrong port", vec![], client, "shop/web:81", Refused, "NoSuchPort", "no port 81"),
        (
            "a wrong port's name",
            vec![],
            client,
            "shop/web:https",
            NoSuchName,
            "NoSuchPort",
            "no such port",
        ),
        (
            "a wrong protocol",
            vec![],
            client,
            "shop/web:80/udp",
            Refused,
            "WrongProtocol",
            "is TCP, not UDP",
        ),
        (
            "an old address",
            vec![],
            client,
            "10.96.0.99:80",
            Lost,
            "UnallocatedAddress",
            "no Service has it",
        ),
        (
            "a wrong selector",
            vec![(spec("selector"), json!({"app": "wbe"})), (slice("endpoints"), json!([]))],
            client,
            web,
            Refused,
            "SelectorMatchesNothing",
            "app=wbe",
        ),
        (
            "no selector, no slices",
            vec![(spec("selector"), json!({})), (slice("endpoints"), json!([]))],
            client,
            web,
            Refused,
            "NoEndpointSlices",
            "selects no pods",
        ),
        (
            "a wrong target port",
            vec![(spec("ports/0/targetPort"), json!("htpp")), (slice("ports"), json!([]))],
            client,
            web,
            Refused,
            "NoSuchTargetPort",
            "htpp",
        ),
        (
            "not ready",
            at(
                slice("endpoints"),
                json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": false}}]),
            ),
            client,
            web,
            Refused,
            "EndpointsNotReady",
            "not ready",
        ),
        (
            "ended and not serving",
            at(
                slice("endpoints"),
                json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": false, "serving": false, "terminating": true}}]),
            ),
            client,
            web,
            Refused,
            "EndpointsTerminating",
            "terminating",
        ),
        (
            "the other family",
            at(slice("addressType"), json!("IPv6")),
            client,
            web,
            Refused,
            "WrongFamily",
            "other family",
        ),
        (
            "pods without address",
            vec![
                (slice("endpoints"), json!([])),
                ("/pods/0/status".into(), json!({"phase": "Pending"})),
                ("/pods/1/status".into(), json!({"phase": "Pending"})),
            ],
            client,
            web,
            Refused,
            "PodsNotStarted",
            "Pending",
        ),
        (
            "evicted pods",
            vec![
                (slice("endpoints"), json!([])),
                ("/pods/0/status/phase".into(), json!("Failed")),
                ("/pods/1/status/phase".into(), json!("Failed")),
            ],
            client,
            web,
            Refused,
            "PodsEnded",
            "have ended",
        ),
        (
            "slices nobody writes",
            at(slice("endpoints"), json!([])),
            client,
            web,
            Refused,
            "EndpointsNotPublished",
            "2 pods match",
        ),
        (
            "internal policy Local",
            at(spec("internalTrafficPolicy"), json!("Local")),
            "shop/lonely",
            web,
            Lost,
            "NoLocalEndpoints",
            "they are on n1, n2",
        ),
        (
            "external policy Local",
            at(spec("externalTrafficPolicy"), json!("Local")),
            "outside",
            "node/n3:30080",
            Lost,
            "NoLocalEndpoints",
            "externalTrafficPolicy of Service shop/web",
        ),
        (
            "a source range",
            at(spec("loadBalancerSourceRanges"), json!(["10.0.0.0/8"])),
            "outside",
            "203.0.113.5:80",
            Lost,
            "SourceNotAllowed",
            "loadBalancerSourceRanges",
        ),
        (
            "an external address nobody allowed",
            at(spec("externalIPs"), json!(["198.51.100.7"])),
            client,
            "198.51.100.7:80",
            NotTouched,
            "ExternalIPRefused",
            "external address of Service shop/web",
        ),
        (
            "a wrong node port",
            vec![],
            "outside",
            "node/n1:30081",
            NotTouched,
            "NoSuchNodePort",
            "30081",
        ),
        (
            "loopback",
            vec![],
            "node/n1",
            "127.0.0.1:30080",
            NotTouched,
            "AddressTakesNoNodePorts",
            "takes no node ports",
        ),
        (
            "a taken node port",
            at("/services".into(), second),
            "outside",
            "node/n1:30080",
            Refused,
            "SelectorMatchesNothing",
            "shop/api",
        ),
        (
            "a quarantined Service",
            at(
                "/programmed".into(),
                json!([{"reason": "NotProgrammed", "message": "add element: Invalid argument", "lastTimestamp": "2026-01-01T00:00:00Z", "involvedObject": {"namespace": "shop", "name": "web"}}]),
            ),
            client,
            web,
            Refused,
            "Quarantined",
            "Invalid argument",
        ),
    ];
    for (fault, changes, from, to, verdict, code, says) in &faults {
        let changes: Vec<(&str, Value)> =
            changes.iter().map(|(pointer, value)| (&**pointer, value.clone())).collect();
        let explanation = explained(with(&changes), from, to);
        let (found, cause, text) = outcome(&explanation);
        assert_eq!((found, cause), (*verdict, *code), "{fault}: {explanation}");
        assert!(text.contains(says), "{fault}: {text}");
        // The cause stands before the steps.
        let all = explanation.to_string();
        assert!(all.lines().nth(1).is_some_and(|line| line.contains(code)), "{fault}: {all}");
    }
    println!("{} faults explained", faults.len());
}

/// Two Services want one node port: the first by name has it, and the other one is told of.
#[test]
fn loopback_has_node_ports_where_sockets_are_asked() {
    let dump: Dump = serde_json::from_value(cluster()).unwrap();
    let on_all = NodePortAddresses::Ranges(Vec::new());
    let verdict = |from: &str, node_port_addresses: &NodePortAddresses, asks_sockets| {
        let node_port_addresses = node_port_addresses.clone();
        let proxy = |name: &str| Proxy {
            settings: NodeSettings {
                node_port_addresses: node_port_addresses.clone(),
                ..settings(name)
            },
            asks_sockets,
        };
        explain(&dump, &proxy, from, "127.0.0.1:30080", None).unwrap().verdict
    };
    assert_eq!(verdict("node/n1", &on_all, true), Verdict::Reaches);
    assert_eq!(verdict("node/n1", &on_all, false), Verdict::NotTouched);
    assert_eq!(verdict("node/n1", &NodePortAddresses::Primary, true), Verdict::NotTouched);
    assert_eq!(verdict("shop/client", &on_all, true), Verdict::NotTouched, "it has its own");
}

#[test]
fn a_contested_node_port_names_both() {
    let other = json!({
        "metadata": {"name": "zoo", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 80, "nodePort": 30080}]},
    });
    let services = json!([cluster()["services"][0], other]);
    let explanation = explained(with(&[("/services", services)]), "outside", "node/n1:30080");
    assert_eq!(explanation.verdict, Verdict::Reaches);
    assert!(explanation.to_string().contains("shop/zoo asks for it too"), "{explanation}");
}

#[test]
fn a_service_that_is_programmed_again_is_not_quarantined() {
    let event = |reason: &str, time: &str| {
        json!({"reason": reason, "message": "m", "lastTimestamp": time,
               "involvedObject": {"namespace": "shop", "name": "web"}})
    };
    let events = json!([
        event("Programmed", "2026-01-01T00:00:02Z"),
        event("NotProgrammed", "2026-01-01T00:00:01Z")
    ]);
    let explanation = explained(with(&[("/programmed", events)]), "shop/client", "shop/web:80");
    assert_eq!(explanation.verdict, Verdict::Reaches);
}

#[test]
fn what_can_not_be_understood_says_what_is_accepted() {
    let dump: Dump = serde_json::from_value(cluster()).unwrap();
    let error = |from: &str, to: &str| explain(&dump, &proxy, from, to, None).unwrap_err();
    assert!(error("shop/nobody", "shop/web").contains("there are client, lonely"));
    assert!(error("node/n9", "shop/web").contains("n1, n2, n3"));
    assert!(error("outside", ":80").contains("NAMESPACE/NAME"));
    assert!(error("outside", "shop/web:0").contains("1 to 65535"));
}

#[test]
fn what_the_proxy_and_the_kernel_say_comes_first() {
    let mut explanation = explained(cluster(), "shop/client", "shop/web:80");
    let (_, expected) = explanation.expected.clone().unwrap();
    let answer = |fate: FateAnswer| TraceAnswer {
        generation: 7,
        fate,
        quarantined: None,
        pending_seconds: None,
        failure: None,
    };
    explanation.hear(&answer(expected.clone()));
    assert_eq!(outcome(&explanation), (Verdict::Reaches, "", ""));
    assert!(explanation.is_good());

    let mut behind = explanation.clone();
    let failure = Some("no memory".to_owned());
    behind.hear(&TraceAnswer { failure, ..answer(FateAnswer::Reject) });
    let (_, code, text) = outcome(&behind);
    assert_eq!(code, "NotCaughtUp");
    assert!(text.contains("refuses it") && text.contains("no memory"), "{text}");
    assert!(!behind.is_good());

    let mut refused = explanation.clone();
    refused.hear(&TraceAnswer { quarantined: Some("no space".into()), ..answer(expected) });
    let (verdict, code, text) = outcome(&refused);
    assert_eq!((verdict, code), (Verdict::Refused, "Quarantined"));
    assert!(text.contains("no space"), "{text}");

    explanation.compare(vec![]);
    assert!(explanation.is_good());
    explanation.compare(vec!["table ip portolan is missing".into()]);
    let (_, code, text) = outcome(&explanation);
    assert_eq!(code, "Drifted");
    assert!(text.contains("table ip portolan is missing"), "{text}");
}
