//! What has to be known of kinds to merge their lists: which are maps by some key, and which are
//! sets. Lists that are not here are replaced as a whole.

/// How the items of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    /// Objects with these key fields. Strategic merge looks at the first alone.
    Map(&'static [&'static str]),
    /// Plain values, each at most once.
    Set,
    /// Replaced as a whole.
    Atomic,
}

/// The kind of the list at a path of field names; list items do not show in the path.
pub(super) fn list_kind(path: &[&str]) -> ListKind {
    use ListKind::{Atomic, Map, Set};
    match path {
        ["metadata", "finalizers"] => Set,
        ["metadata", "ownerReferences"] => Map(&["uid"]),
        ["spec", "podCIDRs"] => Set,
        ["status", "addresses"] | ["status", "conditions"] => Map(&["type"]),
        ["status", "podIPs"] | ["status", "hostIPs"] => Map(&["ip"]),
        ["status", "containerStatuses" | "initContainerStatuses"] => Atomic,
        ["spec", "ports"] => Map(&["port", "protocol"]),
        ["secrets"] => Map(&["name"]),
        ["imagePullSecrets"] => Map(&["name"]),
        // A pod's spec stands by itself and in templates.
        ["spec", "template", "spec", rest @ ..] | ["spec", rest @ ..] => pod_list(rest),
        _ => Atomic,
    }
}

fn pod_list(path: &[&str]) -> ListKind {
    use ListKind::{Atomic, Map, Set};
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    match path {
        ["volumes" | "imagePullSecrets" | "schedulingGates"] => Map(&["name"]),
        ["hostAliases"] => Map(&["ip"]),
        ["topologySpreadConstraints"] => Map(&["topologyKey", "whenUnsatisfiable"]),
        [list] if containers.contains(list) => Map(&["name"]),
        [list, "ports"] if containers.contains(list) => Map(&["containerPort", "protocol"]),
        [list, "env"] if containers.contains(list) => Map(&["name"]),
        [list, "volumeMounts"] if containers.contains(list) => Map(&["mountPath"]),
        [list, "volumeDevices"] if containers.contains(list) => Map(&["devicePath"]),
        ["finalizers"] => Set,
        _ => Atomic,
    }
}

/// Whether the object at a path is applied as a whole.
pub(super) fn is_atomic_object(path: &[&str]) -> bool {
    // Of a Service, a map of labels; the selectors of workloads are objects with fields.
    matches!(path, ["spec", "selector"] | ["spec", "nodeSelector"])
}
