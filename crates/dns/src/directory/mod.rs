//! The names of a cluster, ready to be answered from.
//!
//! One writer tells it what has changed in the World; any number of readers look things up meanwhile, and neither
//! waits for the other.

mod dashed;
mod pods;
mod service;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrayvec::ArrayVec;
use model::{Kind, ObjectName, Touched, World};

use crate::exposure::Exposure;
use crate::table::Table;
pub(crate) use dashed::{dashed, undashed};
pub(crate) use pods::PodAt;
pub use pods::{Pod, PodWriter};
pub(crate) use service::{Face, Group, Port, ServiceNames};

/// How many lists names are in: some ten in each in a large cluster.
const LISTS: usize = 4096;
/// A label with its length, and that of a namespace behind it.
const LONGEST_KEY: usize = 128;

/// The names of a cluster.
#[derive(Debug)]
pub struct Directory {
    /// By the label of the Service and that of its namespace, as in a name.
    services: Table<Arc<[u8]>, Arc<ServiceNames>>,
    /// By the label, as in a name.
    namespaces: Table<Arc<[u8]>, ()>,
    addresses: Table<Address, Holder>,
    pods: Table<Address, PodAt>,
    /// A Service has names only in a namespace that is known: not all are.
    needs_namespaces: bool,
    /// A Service has an address of its own only with endpoints.
    needs_endpoints: bool,
    is_synced: AtomicBool,
    /// Names of pods are not known yet.
    waits_for_pods: AtomicBool,
    changes: AtomicU32,
}

/// An address in its IPv6 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Address([u8; 16]);

impl Address {
    const FIRST: Self = Self([0; 16]);
    const LAST: Self = Self([0xff; 16]);
}

impl AsRef<[u8]> for Address {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

/// Who has an address: Services, by their keys. There are as many as endpoints, and nearly all are of the first kind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    /// As that of an endpoint.
    Endpoint(Arc<[u8]>),
    /// Something else.
    Others(Box<Known>),
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            services: Table::with_lists(LISTS),
            namespaces: Table::with_lists(LISTS),
            addresses: Table::with_lists(LISTS),
            pods: Table::with_lists(LISTS),
            needs_namespaces: false,
            needs_endpoints: false,
            is_synced: AtomicBool::new(false),
            waits_for_pods: AtomicBool::new(false),
            changes: AtomicU32::new(0),
        }
    }
}

impl Directory {
    /// A directory in which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, of what is exposed of a World that is [narrowed](crate::exposure) so.
    pub fn exposing(exposure: &Exposure) -> Self {
        Self {
            needs_namespaces: exposure.namespace_labels.is_some(),
            needs_endpoints: exposure.ignores_empty_services,
            ..Self::default()
        }
    }

    /// Takes in what has changed. There is one who calls this.
    pub fn update<'t>(&self, world: &World, touched: impl IntoIterator<Item = &'t Touched>) {
        let mut has_changed = false;
        for touched in touched {
            has_changed |= match touched {
                Touched::Service(name) => self.update_service(world, name),
                Touched::Namespace(name) => self.update_namespace(world, name),
                Touched::Node(_) | Touched::Pod(_) | Touched::ServiceRanges => false,
            };
        }
        if has_changed {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        // Not before what was listed last is there.
        let needed = [Kind::Service, Kind::EndpointSlice, Kind::Namespace];
        let is_synced = needed.into_iter().all(|kind| world.is_listed(kind));
        if is_synced != self.is_synced.load(Ordering::Relaxed) {
            self.is_synced.store(is_synced, Ordering::Release);
        }
    }

    /// Whether the cluster is known well enough to say that something does not exist.
    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Acquire) && !self.waits_for_pods.load(Ordering::Acquire)
    }

    /// How often names have changed.
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Reads the names of a Service, by its label and that of its namespace, as in a name.
    pub(crate) fn service<R>(
        &self,
        key: &[u8],
        read: impl FnOnce(&Arc<ServiceNames>) -> R,
    ) -> Option<R> {
        self.services.with(key, read)
    }

    /// Whether a namespace exists, by its label as in a name.
    pub(crate) fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.with(label, |()| ()).is_some()
    }

    /// The pod at an address, if pods are known.
    pub(crate) fn pod(&self, address: IpAddr) -> Option<PodAt> {
        self.pods.get(&Address::from(address).0[..])
    }

    /// The label of a namespace, as it is kept if there is one: equal ones are one.
    fn namespace(&self, label: Arc<[u8]>) -> Arc<[u8]> {
        self.namespaces.key(&label).unwrap_or(label)
    }

    /// The Service that has an address as its own, or those that have endpoints there.
    pub(crate) fn holders(&self, address: IpAddr) -> Holders {
        let address = Address::from(address);
        match self.addresses.get(&address.0[..]) {
            None => Holders::Nobody,
            Some(Holder::Endpoint(key)) => Holders::Endpoints([key].into()),
            Some(Holder::Others(known)) => match known.own {
                Some(key) => Holders::Service(key),
                None => Holders::Endpoints(known.endpoints.into_iter().collect()),
            },
        }
    }

    fn update_namespace(&self, world: &World, name: &str) -> bool {
        let Some(label) = label_of(name) else { return false };
        self.namespaces.set(label, world.has_namespace(name).then_some(()));
        if self.needs_namespaces {
            for service in world.services_in(name) {
                self.update_service(world, service);
            }
        }
        true
    }

    /// The names that a Service has.
    fn names(&self, world: &World, name: &ObjectName) -> Option<ServiceNames> {
        if self.needs_namespaces && !world.has_namespace(&name.namespace) {
            return None;
        }
        let names = ServiceNames::of(world, name)?;
        let is_empty = names.endpoints.is_empty() && names.own_addresses().next().is_some();
        (!is_empty || !self.needs_endpoints).then_some(names)
    }

    fn update_service(&self, world: &World, name: &ObjectName) -> bool {
        let Some(key) = labels_of(&name.name, &name.namespace) else { return false };
        let old = self.services.get(&key[..]);
        let new = self.names(world, name).map(Arc::new);
        if old == new {
            return false;
        }
        // Equal keys are one, however often it changes.
        let key = old.as_ref().map_or(key, |old| old.key.clone());
        let (had, has) = (endpoints_of(old.as_deref()), endpoints_of(new.as_deref()));
        let (owned, owns) = (own_of(old.as_deref()), own_of(new.as_deref()));
        // Names come before addresses that lead to them, and go after these.
        if new.is_some() {
            self.services.set(key.clone(), new.clone());
        }
        for (gone, come, is_own) in [(&had, &has, false), (&owned, &owns, true)] {
            for address in gone.difference(come) {
                self.change_holder(*address, |holders| holders.remove(&key, is_own));
            }
            for address in come.difference(gone) {
                self.change_holder(*address, |holders| holders.add(&key, is_own));
            }
        }
        if new.is_none() {
            self.services.set(key, None);
        }
        true
    }

    fn change_holder(&self, address: IpAddr, change: impl FnOnce(&mut Known)) {
        let address = Address::from(address);
        let mut known = Known::from(self.addresses.get(&address.0[..]));
        change(&mut known);
        self.addresses.set(address, known.holder());
    }
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holders {
    /// Nobody that is known.
    Nobody,
    /// This Service.
    Service(Arc<[u8]>),
    /// Endpoints of these Services.
    Endpoints(Box<[Arc<[u8]>]>),
}

/// All that is known of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// The Service that has it as its own; whoever else has it is not told.
    own: Option<Arc<[u8]>>,
    endpoints: BTreeSet<Arc<[u8]>>,
}

impl From<Option<Holder>> for Known {
    fn from(holder: Option<Holder>) -> Self {
        match holder {
            None => Self::default(),
            Some(Holder::Endpoint(key)) => Self { own: None, endpoints: [key].into() },
            Some(Holder::Others(known)) => *known,
        }
    }
}

impl Known {
    fn add(&mut self, key: &Arc<[u8]>, is_own: bool) {
        match is_own {
            true => self.own = Some(key.clone()),
            false => _ = self.endpoints.insert(key.clone()),
        }
    }

    fn remove(&mut self, key: &Arc<[u8]>, is_own: bool) {
        match is_own {
            // It may have passed to another one already.
            true => _ = self.own.take_if(|own| own == key),
            false => _ = self.endpoints.remove(key),
        }
    }

    fn holder(mut self) -> Option<Holder> {
        match (&self.own, self.endpoints.len()) {
            (None, 0) => None,
            (None, 1) => self.endpoints.pop_first().map(Holder::Endpoint),
            _ => Some(Holder::Others(Box::new(self))),
        }
    }
}

fn endpoints_of(names: Option<&ServiceNames>) -> BTreeSet<IpAddr> {
    names.map(ServiceNames::endpoint_addresses).unwrap_or_default()
}

fn own_of(names: Option<&ServiceNames>) -> BTreeSet<IpAddr> {
    names.into_iter().flat_map(ServiceNames::own_addresses).collect()
}

/// A label as in a name; `None` if it can't be one.
pub(crate) fn label_of(text: &str) -> Option<Arc<[u8]>> {
    let length = u8::try_from(text.len()).ok().filter(|length| (1..64).contains(length))?;
    let mut bytes = ArrayVec::<u8, LONGEST_KEY>::new();
    bytes.push(length);
    bytes.extend(text.bytes().map(|byte| byte.to_ascii_lowercase()));
    Some(Arc::from(&bytes[..]))
}

/// The labels of a Service and of its namespace as in a name; `None` if they can't be that.
pub(crate) fn labels_of(service: &str, namespace: &str) -> Option<Arc<[u8]>> {
    Some([&*label_of(service)?, &*label_of(namespace)?].concat().into())
}
