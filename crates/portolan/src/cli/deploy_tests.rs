//! The files of `deploy/` are true: their fields exist, their command lines are understood, and
//! their permissions are those that a proxy needs.

use clap::Parser;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use model::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Cli, Command};

const PROXY: &str = include_str!("../../../../deploy/proxy.yaml");
const DNS: &str = include_str!("../../../../deploy/dns.yaml");
const UNIT: &str = include_str!("../../../../deploy/portolan-proxy.service");

fn documents(manifest: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(manifest).unwrap()
}

fn document<T: DeserializeOwned>(manifest: &str, kind: &str) -> T {
    let all = documents(manifest);
    let found = all.iter().find(|document| document["kind"] == kind).unwrap();
    serde_json::from_value(found.clone()).unwrap()
}

/// What is written and not in the type.
fn unknown(written: &Value, typed: &Value, path: &str, found: &mut Vec<String>) {
    match (written, typed) {
        (Value::Object(written), Value::Object(typed)) => {
            for (key, value) in written {
                let path = format!("{path}.{key}");
                match typed.get(key) {
                    Some(typed) => unknown(value, typed, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(typed)) => {
            for (i, (written, typed)) in written.iter().zip(typed).enumerate() {
                unknown(written, typed, &format!("{path}[{i}]"), found);
            }
        }
        (written, typed) if written == typed => {}
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_field_exists() {
    fn typed<T: DeserializeOwned + Serialize>(written: &Value) -> Value {
        let object: T = serde_json::from_value(written.clone()).unwrap();
        serde_json::to_value(object).unwrap()
    }
    let all = [PROXY, DNS].map(documents);
    assert_eq!(all.each_ref().map(Vec::len), [4, 4]);
    for written in all.into_iter().flatten() {
        let kind = written["kind"].as_str().unwrap();
        let typed = match kind {
            "DaemonSet" => typed::<DaemonSet>(&written),
            "Deployment" => typed::<Deployment>(&written),
            "ClusterRole" => typed::<ClusterRole>(&written),
            "ClusterRoleBinding" => typed::<ClusterRoleBinding>(&written),
            "ServiceAccount" => typed::<ServiceAccount>(&written),
            other => panic!("{other}: is it meant to be there?"),
        };
        let mut found = Vec::new();
        unknown(&written, &typed, kind, &mut found);
        assert_eq!(found, [""; 0]);
    }
}

#[test]
fn command_lines_are_understood() {
    let daemon_set: DaemonSet = document(PROXY, "DaemonSet");
    let pod = daemon_set.spec.unwrap().template.spec.unwrap();
    let containers = pod.containers.into_iter().chain(pod.init_containers.unwrap());
    let mut lines: Vec<Vec<String>> = containers.map(|c| c.args.unwrap()).collect();
    let program = "/usr/local/bin/portolan";
    lines.extend(UNIT.lines().filter_map(|line| {
        let (_, arguments) = line.split_once(program).filter(|_| line.starts_with("Exec"))?;
        Some(arguments.split_whitespace().map(str::to_owned).collect())
    }));
    assert_eq!(lines.len(), 4);
    for line in lines {
        let cli = Cli::try_parse_from([program.to_owned()].into_iter().chain(line)).unwrap();
        assert!(matches!(cli.command, Command::Proxy(_)));
    }
    let deployment: Deployment = document(DNS, "Deployment");
    for container in deployment.spec.unwrap().template.spec.unwrap().containers {
        let line = [program.to_owned()].into_iter().chain(container.args.unwrap());
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(matches!(cli.command, Command::Dns(_)));
    }
}

/// Who answers whether a role of a manifest allows something.
fn allowed(manifest: &str) -> impl Fn(&str, &str, &str) -> bool {
    let role: ClusterRole = document(manifest, "ClusterRole");
    let rules = role.rules.unwrap();
    move |group: &str, resource: &str, verb: &str| {
        rules.iter().any(|rule| {
            let has = |list: &[String], item: &str| list.iter().any(|known| known == item);
            has(rule.api_groups.as_deref().unwrap_or_default(), group)
                && has(rule.resources.as_deref().unwrap_or_default(), resource)
                && has(&rule.verbs, verb)
        })
    }
}

#[test]
fn what_is_watched_may_be_read() {
    let of_proxy = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
    let of_dns: Vec<Kind> = dns::Exposure::default().kinds().collect();
    for (manifest, kinds) in [(PROXY, &of_proxy[..]), (DNS, &of_dns)] {
        let may = allowed(manifest);
        for kind in kinds {
            let (group, resource) = match kind {
                Kind::Service => ("", "services"),
                Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
                Kind::Node => ("", "nodes"),
                Kind::Namespace => ("", "namespaces"),
                Kind::ServiceCidr => ("networking.k8s.io", "servicecidrs"),
                other => panic!("{other:?}: give it a rule"),
            };
            for verb in ["list", "watch"] {
                assert!(may(group, resource, verb), "{verb} {resource}");
            }
        }
    }
    for verb in ["create", "patch"] {
        assert!(allowed(PROXY)("", "events", verb), "{verb} events");
    }
}
