//! Every kind that the server serves.

use super::{Kind, endpoints, endpointslice, namespace, node, plain, pod, service, workload};

/// A namespaced kind without peculiarities; the table says what differs.
const fn kind(
    (group, version): (&'static str, &'static str),
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    strategy: &'static dyn super::Strategy,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        singular,
        namespaced: true,
        short_names: &[],
        categories: &[],
        status_subresource: false,
        create_on_update: false,
        generation: false,
        delete_returns_object: false,
        strategy,
    }
}

const CORE: (&str, &str) = ("", "v1");
const APPS: (&str, &str) = ("apps", "v1");

static KINDS: [Kind; 14] = [
    Kind {
        namespaced: false,
        short_names: &["ns"],
        status_subresource: true,
        delete_returns_object: true,
        ..kind(CORE, "Namespace", "namespaces", "namespace", &namespace::NAMESPACE)
    },
    Kind {
        namespaced: false,
        short_names: &["no"],
        status_subresource: true,
        ..kind(CORE, "Node", "nodes", "node", &node::NODE)
    },
    Kind {
        short_names: &["po"],
        categories: &["all"],
        status_subresource: true,
        generation: true,
        delete_returns_object: true,
        ..kind(CORE, "Pod", "pods", "pod", &pod::POD)
    },
    Kind {
        short_names: &["svc"],
        categories: &["all"],
        status_subresource: true,
        create_on_update: true,
        delete_returns_object: true,
        ..kind(CORE, "Service", "services", "service", &service::SERVICE)
    },
    Kind {
        short_names: &["ep"],
        create_on_update: true,
        ..kind(CORE, "Endpoints", "endpoints", "endpoints", &endpoints::ENDPOINTS)
    },
    Kind { short_names: &["ev"], ..kind(CORE, "Event", "events", "event", &plain::EVENT) },
    Kind {
        short_names: &["cm"],
        ..kind(CORE, "ConfigMap", "configmaps", "configmap", &plain::CONFIG_MAP)
    },
    kind(CORE, "Secret", "secrets", "secret", &plain::SECRET),
    Kind {
        short_names: &["sa"],
        delete_returns_object: true,
        ..kind(CORE, "ServiceAccount", "serviceaccounts", "serviceaccount", &plain::SERVICE_ACCOUNT)
    },
    Kind {
        generation: true,
        ..kind(
            ("discovery.k8s.io", "v1"),
            "EndpointSlice",
            "endpointslices",
            "endpointslice",
            &endpointslice::ENDPOINT_SLICE,
        )
    },
    Kind {
        short_names: &["deploy"],
        categories: &["all"],
        status_subresource: true,
        generation: true,
        ..kind(APPS, "Deployment", "deployments", "deployment", &workload::DEPLOYMENT)
    },
    Kind {
        short_names: &["rs"],
        categories: &["all"],
        status_subresource: true,
        generation: true,
        ..kind(APPS, "ReplicaSet", "replicasets", "replicaset", &workload::REPLICA_SET)
    },
    kind(("coordination.k8s.io", "v1"), "Lease", "leases", "lease", &plain::LEASE),
    Kind {
        namespaced: false,
        status_subresource: true,
        ..kind(
            ("networking.k8s.io", "v1"),
            "ServiceCIDR",
            "servicecidrs",
            "servicecidr",
            &plain::SERVICE_CIDR,
        )
    },
];

/// The kinds, core ones first.
pub(crate) fn kinds() -> &'static [Kind] {
    &KINDS
}

/// The kind with a plural name in a group.
pub(crate) fn find(group: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.plural == plural)
}
