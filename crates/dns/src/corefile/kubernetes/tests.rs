//! What is said of a cluster, and what is wrong with it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ApiServer, ClientFiles, Kubernetes};
use crate::corefile::{Corefile, Refusal};
use crate::exposure::Exposure;

/// Reads a block of `kubernetes`; its first line is the third one.
fn parse(block: &str) -> Result<Kubernetes, Vec<Refusal>> {
    let text = format!(". {{\n kubernetes cluster.local in-addr.arpa {{\n{block}\n }}\n}}\n");
    Ok(Corefile::parse(&text, |_| None)?.kubernetes.unwrap())
}

fn exposure(block: &str) -> Exposure {
    parse(block).unwrap().exposure
}

/// The only refusal, and that it is of a line.
fn refused(block: &str, line: usize) -> String {
    let refused = parse(block).unwrap_err();
    let [refusal] = &refused[..] else { panic!("{block}: {refused:#?}") };
    assert_eq!(refusal.line, line, "{refusal}");
    refusal.to_string()
}

#[test]
fn addresses_of_others_stay_with_the_cluster_where_that_is_said() {
    assert!(!parse("").unwrap().reverse_falls_through);
    assert!(parse("fallthrough in-addr.arpa").unwrap().reverse_falls_through);
}

#[test]
fn what_has_names_is_read() {
    assert_eq!(exposure(""), Exposure::default());
    let names =
        |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let namespaces = exposure("namespaces shop kube-system\nnamespaces 1st").namespaces;
    assert_eq!(namespaces, names(&["1st", "kube-system", "shop"]));
    let labels = |text: &str| exposure(text).labels.unwrap().to_string();
    assert_eq!(
        labels("labels environment in (staging, qa),application=nginx"),
        "environment in (qa,staging),application=nginx"
    );
    assert_eq!(labels("labels \"app = web\" , !canary"), "app=web,!canary");
    let of_namespaces = exposure("namespace_labels team!=ops").namespace_labels.unwrap();
    assert_eq!(of_namespaces.to_string(), "team!=ops");
    assert!(exposure("endpoint_pod_names").has_pod_names);
    assert!(exposure("noendpoints\nendpoint_pod_names").is_without_endpoints);
    assert!(exposure("ignore empty_service").ignores_empty_services);
    let timeout = parse("startup_timeout 1m30s").unwrap().startup_timeout;
    assert_eq!(timeout, Some(Duration::from_secs(90)));
}

#[test]
fn the_api_server_is_reached_as_is_said() {
    let of = |block: &str| parse(block).unwrap().api_server;
    let by_file = |context: Option<&str>| {
        let context = context.map(str::to_owned);
        Some(ApiServer::Kubeconfig { file: "/etc/dns.conf".into(), context })
    };
    assert_eq!(of(""), None);
    assert_eq!(of("kubeconfig /etc/dns.conf"), by_file(None));
    assert_eq!(of("kubeconfig /etc/dns.conf west"), by_file(Some("west")));
    let by_url = |tls| Some(ApiServer::Endpoint { url: "https://192.0.2.1:6443".to_owned(), tls });
    assert_eq!(of("endpoint https://192.0.2.1:6443"), by_url(None));
    let [certificate, key, authorities] = ["/c", "/k", "/a"].map(Into::into);
    let tls = Some(ClientFiles { certificate, key, authorities });
    assert_eq!(of("tls /c /k /a\nendpoint https://192.0.2.1:6443"), by_url(tls));
    for (block, line, accepted) in [
        ("kubeconfig", 3, "accepted is kubeconfig FILE [CONTEXT]"),
        ("kubeconfig a\nkubeconfig b", 4, "comes once"),
        ("endpoint 192.0.2.1", 3, "accepted are such as https://"),
        ("endpoint http://a http://b", 3, "accepted is one URL"),
        ("kubeconfig a\nendpoint http://b", 4, "accepted is one of kubeconfig and endpoint"),
        ("tls a b c", 3, "accepted is tls beside endpoint"),
        ("endpoint http://a\ntls a", 4, "accepted is tls CERT KEY CACERT"),
    ] {
        let said = refused(block, line);
        assert!(said.contains(accepted), "{block}: {said}");
    }
}

#[test]
fn what_is_no_selector_is_refused_where_it_is() {
    for name in ["labels", "namespace_labels"] {
        let said = refused(&format!("ttl 5\n{name} app in web"), 4);
        assert!(said.starts_with(&format!("line 4: {name} app in web: ")), "{said}");
        assert!(said.contains("accepted are key, !key, key=value"), "{said}");
        let said = refused(&format!("{name} app=a b"), 3);
        assert!(said.contains("value 'a b': a valid label must"), "{said}");
        let said = refused(name, 3);
        assert!(said.contains(&format!("accepted is {name} EXPRESSION")), "{said}");
        let said = refused(&format!("{name} app=web\n{name} tier"), 4);
        assert!(said.contains("comes once, and app=web was said before"), "{said}");
    }
}

#[test]
fn what_is_refused_says_what_would_be_accepted() {
    for (block, line, accepted) in [
        ("namespaces", 3, "accepted is namespaces NAME..."),
        ("namespaces shop Default", 3, "Default is no name of a namespace"),
        (
            "namespaces shop\nnamespace_labels team",
            4,
            "accepted is one of namespaces and namespace_labels",
        ),
        (
            "namespace_labels team\nnamespaces shop",
            4,
            "accepted is one of namespaces and namespace_labels",
        ),
        ("noendpoints\nignore empty_service", 4, "accepted is one of noendpoints and ignore"),
        ("ignore empty_service\nnoendpoints", 4, "accepted is one of noendpoints and ignore"),
        ("ignore", 3, "accepted is ignore empty_service"),
        ("ignore emptyservice", 3, "accepted is ignore empty_service"),
        ("noendpoints all", 3, "accepted is noendpoints alone"),
        ("endpoint_pod_names yes", 3, "accepted is endpoint_pod_names alone"),
        ("startup_timeout 5", 3, "accepted are such as 500ms"),
        ("startup_timeout", 3, "accepted is one value"),
        ("ttl 3601", 3, "accepted are 0 to 3600"),
        ("multicluster clusterset.local", 3, "ServiceImport"),
        ("transfer to *", 3, "accepted are endpoint, endpoint_pod_names"),
    ] {
        let said = refused(block, line);
        assert!(said.contains(accepted), "{block}: {said}");
    }
}
