//! Flags of `portolan dns` that say which part of the cluster has names.

use dns::Exposure;
use model::LabelSelector;
use model::spelling::dns_label;

/// What a Corefile has in `kubernetes`, by nearly the same words.
#[derive(Debug, clap::Args)]
pub(super) struct Exposed {
    /// The only namespaces that have names, with all that is in them; none of the others exists for who asks
    /// [default: all].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = namespace)]
    namespaces: Vec<String>,
    /// The same by labels of namespaces, which may change at any time, such as "team=shop,tier in (front,back),!canary".
    #[arg(long, value_name = "SELECTOR", conflicts_with = "namespaces")]
    namespace_labels: Option<LabelSelector>,
    /// What the labels of Services and of their EndpointSlices have to be for names, and those of pods where pods are
    /// watched.
    #[arg(long, value_name = "SELECTOR")]
    labels: Option<LabelSelector>,
    /// Call endpoints that have no hostname like their pods, not by their addresses. It takes memory for each endpoint.
    #[arg(long)]
    endpoint_pod_names: bool,
    /// Endpoints have no names, and so headless Services have none. EndpointSlices are not watched.
    #[arg(long, conflicts_with = "ignore_empty_services")]
    no_endpoints: bool,
    /// A Service that has an address of its own has names only while endpoints of it are ready, so that who searches goes
    /// on with the next domain.
    #[arg(long)]
    ignore_empty_services: bool,
}

impl Exposed {
    pub(super) fn exposure(self) -> Exposure {
        Exposure {
            namespaces: self.namespaces.into_iter().collect(),
            namespace_labels: self.namespace_labels,
            labels: self.labels,
            has_pod_names: self.endpoint_pod_names,
            is_without_endpoints: self.no_endpoints,
            ignores_empty_services: self.ignore_empty_services,
        }
    }
}

fn namespace(text: &str) -> Result<String, String> {
    dns_label(text).map(|()| text.to_owned())
}
