//! Which part of a cluster has names: the options of CoreDNS's `kubernetes` that narrow it, as data.
//!
//! Whoever fills the World asks for no more than [`Exposure::kinds`] with their [`Exposure::labels_of`], and lets through
//! what [`Exposure::narrow`] does: what has no name is in nobody's memory. What can't be decided object by object is the
//! [`Directory`](crate::Directory)'s, when it compiles names.

use std::collections::BTreeSet;

use model::{Event, Kind, LabelSelector, Object};

/// What a directory is compiled from.
const KINDS: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Namespace];

/// Which part of a cluster has names. By default all of it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exposure {
    /// The only namespaces that have names, if any are told.
    pub namespaces: BTreeSet<String>,
    /// What the labels of a namespace have to be, or neither it nor what is in it has a name.
    pub namespace_labels: Option<LabelSelector>,
    /// What the labels of Services, EndpointSlices and pods have to be.
    pub labels: Option<LabelSelector>,
    /// Endpoints without a hostname are called like their pods.
    pub has_pod_names: bool,
    /// Endpoints have no names, and so headless Services have none.
    pub is_without_endpoints: bool,
    /// Services with addresses of their own have names only with endpoints that are ready.
    pub ignores_empty_services: bool,
}

impl Exposure {
    /// The kinds that are to be known.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        KINDS.into_iter().filter(|kind| *kind != Kind::EndpointSlice || !self.is_without_endpoints)
    }

    /// What has to be selected of a kind.
    pub fn labels_of(&self, kind: Kind) -> Option<&LabelSelector> {
        match kind {
            Kind::Namespace => self.namespace_labels.as_ref(),
            Kind::Service | Kind::EndpointSlice | Kind::Pod => self.labels.as_ref(),
            Kind::Node | Kind::ServiceCidr => None,
        }
    }

    /// What is known before anything has happened: of a kind that nobody asks for that there is nothing.
    pub fn first(&self) -> Option<Event> {
        self.is_without_endpoints.then(|| Event::listed(Kind::EndpointSlice, Vec::new()))
    }

    /// What has happened, as far as it is about namespaces that have names.
    pub fn narrow(&self, mut event: Event) -> Option<Event> {
        if self.namespaces.is_empty() {
            return Some(event);
        }
        let is_exposed = |object: &Object| {
            let name = object.name();
            let namespace = match object.kind() {
                Kind::Namespace => &name.name,
                _ => &name.namespace,
            };
            self.namespaces.contains(&**namespace)
        };
        match &mut event {
            Event::Listed { objects, .. } => objects.retain(is_exposed),
            Event::Put(object) if !is_exposed(object) => return None,
            Event::Put(_) | Event::Removed(..) => {}
        }
        Some(event)
    }
}
