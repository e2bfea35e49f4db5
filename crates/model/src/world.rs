//! The cluster as this process knows it: one writer applies watch events, anybody reads.
//!
//! [`World::apply`] answers what an event touched, so that only that is planned again. The indices
//! kept here are those that a per-change cost proportional to the change needs; whatever else can be
//! derived is derived by the reader.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ObjectName;
use crate::object::{EndpointSlice, Namespace, Node, Pod, Service, ServiceCidr};

/// The kinds a [`World`] is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Namespace.
    Namespace,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
}

/// An object of one of the kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
    /// A Pod.
    Pod(Pod),
    /// A Namespace.
    Namespace(Namespace),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

/// What a watch says.
#[expect(
    clippy::large_enum_variant,
    reason = "an event is moved once; a box would be allocated each time"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Objects of a list of all of a kind. Lists come page by page; what was in no page is gone.
    Listed {
        /// The kind.
        kind: Kind,
        /// Objects of the page.
        objects: Vec<Object>,
        /// The list begins; one that had begun before is given up.
        is_first: bool,
        /// The list ends.
        is_last: bool,
    },
    /// An object is new or has changed.
    Put(Object),
    /// An object is gone.
    Removed(Kind, ObjectName),
}

/// What an event changed, named by what has to be planned again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Touched {
    /// A Service or its endpoints.
    Service(ObjectName),
    /// A node.
    Node(Arc<str>),
    /// A pod.
    Pod(ObjectName),
    /// A namespace.
    Namespace(Arc<str>),
    /// The ranges of Service addresses.
    ServiceRanges,
}

/// All that is known of the cluster.
#[derive(Debug, Default)]
pub struct World {
    services: BTreeMap<ObjectName, Box<Service>>,
    /// Slices by the Service they name, in the order of their own names.
    slices: BTreeMap<ObjectName, Vec<EndpointSlice>>,
    /// Which Service each slice was last seen to name: slices can be relabelled.
    slice_services: HashMap<ObjectName, ObjectName>,
    nodes: BTreeMap<Arc<str>, Node>,
    pods: BTreeMap<ObjectName, Pod>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    service_cidrs: BTreeMap<Arc<str>, ServiceCidr>,
    by_cluster_ip: HashMap<IpAddr, ObjectName>,
    listed: BTreeSet<Kind>,
    /// Of each kind that is being listed, the objects that were there and have not been seen yet.
    unseen: BTreeMap<Kind, HashSet<ObjectName>>,
    changes: u64,
}

impl Event {
    /// All objects of a kind, in one page.
    pub fn listed(kind: Kind, objects: Vec<Object>) -> Self {
        Event::Listed { kind, objects, is_first: true, is_last: true }
    }
}

impl World {
    /// An empty cluster of which nothing has been listed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event in and says what it touched; an event that changes nothing touches nothing.
    pub fn apply(&mut self, event: Event) -> BTreeSet<Touched> {
        let mut touched = BTreeSet::new();
        match event {
            Event::Put(object) => self.put(object, &mut touched),
            Event::Removed(kind, name) => self.remove(kind, &name, &mut touched),
            Event::Listed { kind, objects, is_first, is_last } => {
                if is_first {
                    self.unseen.insert(kind, self.names(kind));
                }
                self.put_listed(kind, objects, &mut touched);
                if is_last {
                    for name in self.unseen.remove(&kind).into_iter().flatten() {
                        self.remove(kind, &name, &mut touched);
                    }
                    self.listed.insert(kind);
                }
            }
        }
        self.changes += u64::from(!touched.is_empty());
        touched
    }

    /// How many events have changed anything.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether a kind has been listed completely at least once.
    pub fn is_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// A Service by name.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(|service| &**service)
    }

    /// All Services in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = (&ObjectName, &Service)> {
        self.services.iter().map(|(name, service)| (name, &**service))
    }

    /// The names of the Services of a namespace, in order.
    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &ObjectName> {
        let first = ObjectName::new(namespace, "");
        let namespace = first.namespace.clone();
        let names = self.services.range(first..).map(|(name, _)| name);
        names.take_while(move |name| name.namespace == namespace)
    }

    /// The slices that name a Service, whether or not that Service exists.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(service).into_iter().flatten()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All nodes in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A pod by name.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All pods in the order of their names.
    pub fn pods(&self) -> impl Iterator<Item = (&ObjectName, &Pod)> {
        self.pods.iter()
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The ranges Service addresses come from, without repetition, in order.
    pub fn service_ranges(&self) -> Vec<IpNet> {
        let ranges: BTreeSet<IpNet> =
            self.service_cidrs.values().flat_map(|cidr| cidr.cidrs.iter().copied()).collect();
        ranges.into_iter().collect()
    }

    /// The Service that owns a cluster address.
    pub fn service_by_cluster_ip(&self, ip: IpAddr) -> Option<&Service> {
        self.service(self.by_cluster_ip.get(&ip)?)
    }

    /// The Services that have an endpoint, in whatever condition, at an address; in order. Looks at
    /// every endpoint.
    pub fn services_by_endpoint_ip(&self, ip: IpAddr) -> BTreeSet<&ObjectName> {
        let has_it = |slice: &EndpointSlice| slice.endpoints.iter().any(|e| e.address == ip);
        let services = self.slices.iter().filter(|(_, slices)| slices.iter().any(has_it));
        services.map(|(service, _)| service).collect()
    }

    fn put_listed(&mut self, kind: Kind, objects: Vec<Object>, touched: &mut BTreeSet<Touched>) {
        for object in objects {
            debug_assert_eq!(object.kind(), kind, "a list holds one kind");
            if let Some(unseen) = self.unseen.get_mut(&kind).filter(|unseen| !unseen.is_empty()) {
                unseen.remove(&object.name());
            }
            self.put(object, touched);
        }
    }

    fn names(&self, kind: Kind) -> HashSet<ObjectName> {
        let cluster_scoped = |name: &Arc<str>| ObjectName::new("", name.clone());
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slice_services.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().map(cluster_scoped).collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Namespace => self.namespaces.keys().map(cluster_scoped).collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().map(cluster_scoped).collect(),
        }
    }

    fn put(&mut self, object: Object, touched: &mut BTreeSet<Touched>) {
        match object {
            Object::Service(service) => self.put_service(service, touched),
            Object::EndpointSlice(slice) => self.put_slice(slice, touched),
            Object::Node(node) => {
                let name = node.meta.name.clone();
                let same = |old: &Node| {
                    differs_only_in_version(&old.meta, &node.meta, || {
                        (&old.pod_cidrs, old.unschedulable, &old.taints, &old.addresses, old.ready)
                            == (
                                &node.pod_cidrs,
                                node.unschedulable,
                                &node.taints,
                                &node.addresses,
                                node.ready,
                            )
                    })
                };
                if !self.nodes.get(&name).is_some_and(same) {
                    touched.insert(Touched::Node(name.clone()));
                }
                self.nodes.insert(name, node);
            }
            Object::Pod(pod) => {
                let name = pod.meta.object_name();
                touched.insert(Touched::Pod(name.clone()));
                self.pods.insert(name, pod);
            }
            Object::Namespace(namespace) => {
                let name = namespace.meta.name.clone();
                if self.namespaces.insert(name.clone(), namespace).is_none() {
                    touched.insert(Touched::Namespace(name));
                }
            }
            Object::ServiceCidr(cidr) => {
                let before = self.service_ranges();
                self.service_cidrs.insert(cidr.meta.name.clone(), cidr);
                if self.service_ranges() != before {
                    touched.insert(Touched::ServiceRanges);
                }
            }
        }
    }

    fn put_service(&mut self, service: Service, touched: &mut BTreeSet<Touched>) {
        let name = service.name();
        if let Some(old) = self.services.get(&name) {
            if **old == service {
                return;
            }
            for ip in &old.cluster_ips {
                self.by_cluster_ip.remove(ip);
            }
        }
        for ip in &service.cluster_ips {
            self.by_cluster_ip.insert(*ip, name.clone());
        }
        touched.insert(Touched::Service(name.clone()));
        self.services.insert(name, Box::new(service));
    }

    fn put_slice(&mut self, slice: EndpointSlice, touched: &mut BTreeSet<Touched>) {
        let service = slice.service();
        if let Some(known) = self.slice_services.get(&slice.name) {
            let slices = self.slices.get(known).filter(|_| service.as_ref() == Some(known));
            if slices.is_some_and(|slices| slices.contains(&slice)) {
                return;
            }
            self.remove_slice(&slice.name.clone(), touched);
        }
        let Some(service) = service else { return };
        touched.insert(Touched::Service(service.clone()));
        self.slice_services.insert(slice.name.clone(), service.clone());
        let slices = self.slices.entry(service).or_default();
        let place = slices.partition_point(|held| held.name < slice.name);
        // Most Services have one.
        slices.reserve_exact(1);
        slices.insert(place, slice);
    }

    fn remove(&mut self, kind: Kind, name: &ObjectName, touched: &mut BTreeSet<Touched>) {
        match kind {
            Kind::Service => {
                if let Some(old) = self.services.remove(name) {
                    for ip in &old.cluster_ips {
                        self.by_cluster_ip.remove(ip);
                    }
                    touched.insert(Touched::Service(name.clone()));
                }
            }
            Kind::EndpointSlice => self.remove_slice(name, touched),
            Kind::Node => {
                if self.nodes.remove(&name.name).is_some() {
                    touched.insert(Touched::Node(name.name.clone()));
                }
            }
            Kind::Pod => {
                if self.pods.remove(name).is_some() {
                    touched.insert(Touched::Pod(name.clone()));
                }
            }
            Kind::Namespace => {
                if self.namespaces.remove(&name.name).is_some() {
                    touched.insert(Touched::Namespace(name.name.clone()));
                }
            }
            Kind::ServiceCidr => {
                let before = self.service_ranges();
                self.service_cidrs.remove(&name.name);
                if self.service_ranges() != before {
                    touched.insert(Touched::ServiceRanges);
                }
            }
        }
    }

    fn remove_slice(&mut self, name: &ObjectName, touched: &mut BTreeSet<Touched>) {
        let Some(service) = self.slice_services.remove(name) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            if let Some(place) = slices.iter().position(|slice| slice.name == *name) {
                slices.remove(place);
            }
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        touched.insert(Touched::Service(service));
    }
}

/// Nodes write a heartbeat every few seconds: metadata but for the version and the rest must differ
/// for a node to count as changed.
fn differs_only_in_version(
    old: &crate::object::Meta,
    new: &crate::object::Meta,
    rest_is_equal: impl FnOnce() -> bool,
) -> bool {
    old.uid == new.uid
        && old.labels == new.labels
        && old.deletion_timestamp == new.deletion_timestamp
        && rest_is_equal()
}

impl Object {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Node(_) => Kind::Node,
            Object::Pod(_) => Kind::Pod,
            Object::Namespace(_) => Kind::Namespace,
            Object::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// Namespace and name.
    pub fn name(&self) -> ObjectName {
        match self {
            Object::Service(o) => &o.meta,
            Object::EndpointSlice(slice) => return slice.name.clone(),
            Object::Node(o) => &o.meta,
            Object::Pod(o) => &o.meta,
            Object::Namespace(o) => &o.meta,
            Object::ServiceCidr(o) => &o.meta,
        }
        .object_name()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str, ips: &[&str]) -> Object {
        let endpoints: Vec<_> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
        Object::EndpointSlice(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns",
                             "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "", "port": 80}],
            }))
            .unwrap(),
        )
    }

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_relabelled_slice_touches_both_services() {
        let mut world = World::new();
        world.apply(Event::Put(slice("s", "a", &["10.0.0.1"])));
        let touched = world.apply(Event::Put(slice("s", "b", &["10.0.0.1"])));
        assert_eq!(touched, [Touched::Service(name("a")), Touched::Service(name("b"))].into());
        assert_eq!(world.slices(&name("a")).count(), 0);
        assert_eq!(world.slices(&name("b")).count(), 1);
        assert_eq!(world.services_by_endpoint_ip(ip("10.0.0.1")), [&name("b")].into());
    }

    #[test]
    fn services_are_found_by_their_namespace() {
        let mut world = World::new();
        for (namespace, name) in [("a", "z"), ("b", "web"), ("b", "db"), ("b-c", "a"), ("c", "a")] {
            let service = json!({"metadata": {"namespace": namespace, "name": name},
                                 "spec": {"clusterIP": "None"}});
            world.apply(Event::Put(Object::Service(serde_json::from_value(service).unwrap())));
        }
        let of =
            |namespace| world.services_in(namespace).map(|name| &*name.name).collect::<Vec<_>>();
        assert_eq!(of("b"), ["db", "web"]);
        assert_eq!(of("d"), [""; 0]);
    }

    #[test]
    fn an_equal_slice_touches_nothing() {
        let mut world = World::new();
        world.apply(Event::Put(slice("s", "a", &["10.0.0.1"])));
        assert!(world.apply(Event::Put(slice("s", "a", &["10.0.0.1"]))).is_empty());
    }

    #[test]
    fn a_new_list_removes_what_is_not_in_it() {
        let mut world = World::new();
        world.apply(Event::listed(
            Kind::EndpointSlice,
            vec![slice("s", "a", &["10.0.0.1"]), slice("t", "b", &["10.0.0.2"])],
        ));
        let touched =
            world.apply(Event::listed(Kind::EndpointSlice, vec![slice("s", "a", &["10.0.0.1"])]));
        assert_eq!(touched, [Touched::Service(name("b"))].into());
        assert_eq!(world.services_by_endpoint_ip(ip("10.0.0.2")).len(), 0);
        assert!(world.is_listed(Kind::EndpointSlice));
        assert!(!world.is_listed(Kind::Service));
    }

    #[test]
    fn an_address_in_two_slices_is_forgotten_with_the_last() {
        let mut world = World::new();
        world.apply(Event::Put(slice("s", "a", &["10.0.0.1"])));
        world.apply(Event::Put(slice("t", "a", &["10.0.0.1"])));
        world.apply(Event::Removed(Kind::EndpointSlice, name("s")));
        assert_eq!(world.services_by_endpoint_ip(ip("10.0.0.1")).len(), 1);
        world.apply(Event::Removed(Kind::EndpointSlice, name("t")));
        assert_eq!(world.services_by_endpoint_ip(ip("10.0.0.1")).len(), 0);
    }

    #[test]
    fn a_list_in_parts_removes_what_is_in_none() {
        let kind = Kind::EndpointSlice;
        let part = |is_first, objects| Event::Listed { kind, objects, is_first, is_last: false };
        let mut world = World::new();
        for service in ["a", "b", "c", "d"] {
            world.apply(Event::Put(slice(service, service, &["10.0.0.1"])));
        }
        // A list that is given up says nothing, not even of what it had.
        world.apply(part(true, vec![slice("b", "b", &["10.0.0.1"])]));
        world.apply(part(true, vec![slice("a", "a", &["10.0.0.1"])]));
        assert!(!world.is_listed(Kind::EndpointSlice));
        world.apply(part(false, vec![slice("c", "c", &["10.0.0.1"])]));
        let objects = vec![slice("e", "e", &["10.0.0.1"])];
        let touched = world.apply(Event::Listed { kind, objects, is_first: false, is_last: true });
        let expected = ["b", "d", "e"].map(|service| Touched::Service(name(service)));
        assert_eq!(touched, expected.into());
        assert!(world.is_listed(Kind::EndpointSlice));
    }
}
