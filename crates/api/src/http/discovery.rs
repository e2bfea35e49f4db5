//! Which groups, versions and resources there are: what clients ask first.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::resource::{Kind, kinds};

/// Groups other than the core one, in the order in which clients should prefer them.
fn groups() -> Vec<&'static str> {
    let groups: BTreeSet<&str> =
        kinds().iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
    groups.into_iter().collect()
}

fn versions(group: &str) -> Vec<&'static str> {
    let versions: BTreeSet<&str> =
        kinds().iter().filter(|kind| kind.group == group).map(|kind| kind.version).collect();
    versions.into_iter().collect()
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    kinds().iter().filter(move |kind| kind.group == group && kind.version == version)
}

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": versions(""), "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub(super) fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().filter_map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(name: &str) -> Option<Value> {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions,
                "preferredVersion": preferred}))
}

/// `/api/v1` and `/apis/GROUP/VERSION`; `None` if there are no such resources.
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for kind in of(group, version) {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": VERBS, "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
        for (name, scale_or_binding, verbs) in subresources(kind) {
            resources.push(json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": scale_or_binding, "verbs": verbs,
            }));
        }
    }
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    (!resources.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
               "resources": resources})
    })
}

/// The aggregated documents, `apidiscovery.k8s.io/v2`: of the core group at `/api`, of all others at
/// `/apis`.
pub(super) fn aggregated(core: bool) -> Value {
    let names = if core { vec![""] } else { groups() };
    let items: Vec<Value> = names
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = of(group, version).map(aggregated_kind).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
           "items": items})
}

fn aggregated_kind(kind: &'static Kind) -> Value {
    let response_kind =
        |name: &str| json!({"group": kind.group, "version": kind.version, "kind": name});
    let subresources: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|(name, of, verbs)| {
            json!({"subresource": name, "responseKind": response_kind(of), "verbs": verbs})
        })
        .collect();
    json!({
        "resource": kind.plural, "responseKind": response_kind(kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": VERBS, "shortNames": kind.short_names,
        "categories": kind.categories, "subresources": subresources,
    })
}

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Subresources with the kind they are exchanged as and their verbs.
fn subresources(kind: &'static Kind) -> Vec<(&'static str, &'static str, &'static [&'static str])> {
    let mut list: Vec<(&str, &str, &[&str])> = Vec::new();
    if kind.status_subresource {
        list.push(("status", kind.kind, &["get", "patch", "update"]));
    }
    match kind.plural {
        "deployments" | "replicasets" => list.push(("scale", "Scale", &["get", "patch", "update"])),
        "pods" => {
            list.push(("binding", "Binding", &["create"]));
            list.push(("log", "Pod", &["get"]));
        }
        "namespaces" => list.push(("finalize", "Namespace", &["update"])),
        _ => {}
    }
    list
}
