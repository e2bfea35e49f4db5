//! The backend: what is done in which order, in IPVS, on the link and in the companion's table.
//!
//! A connection is led to a virtual server only once that has its destinations, and nothing is taken from a
//! server before no connection is led to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::ipvs::{self, Operation, Scheduler, VirtualServerKey, VirtualServerState};
use kernel::netns::Netns;
use plan::{Group, GroupId};

use super::content::{Content, Held, Transition};
use super::link::{LINK, Link};
use super::servers::{Surroundings, render_group};
use super::settings;
use super::watch::{Own, ServerWatcher};
use crate::backend::{Backend, Delta, Watcher};
use crate::nftables::role::is_mark;
use crate::nftables::{Nftables, Role};
use crate::ports::NODE_PORTS;
use crate::{Error, Result};

/// The IPVS data plane of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Ipvs {
    netns: Netns,
    ipvs: ipvs::Ipvs,
    link: Link,
    companion: Nftables,
    scheduler: Scheduler,
    own: Own,
    /// `None` until something was programmed.
    content: Option<Content>,
    /// Virtual addresses that nobody has any more and that connections may need.
    leaving: BTreeSet<IpAddr>,
}

impl Ipvs {
    /// Opens IPVS of the calling thread's network namespace; `None` if the kernel has none. Changes
    /// nothing but that the kernel may load its module.
    pub fn open(scheduler: Scheduler) -> Result<Option<Self>> {
        let Some(ipvs) = ipvs::Ipvs::open()? else { return Ok(None) };
        Ok(Some(Self {
            netns: Netns::current()?,
            ipvs,
            link: Link::open()?,
            companion: Nftables::for_role(Role::Accompany(Arc::default()))?,
            scheduler,
            own: Own::default(),
            content: None,
            leaving: BTreeSet::new(),
        }))
    }

    /// The virtual servers that are ours: at our virtual addresses, by our marks, and at node ports of
    /// the host's own addresses. Others' stand beside them.
    /// So are those that are `wanted`, whoever made them.
    fn held(
        &mut self,
        own: &BTreeSet<IpAddr>,
        wanted: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<VirtualServerKey, Held>> {
        let virtual_addresses = self.link.addresses()?;
        let is_ours = |key: &VirtualServerKey| match key {
            VirtualServerKey::Mark { mark, .. } => is_mark(*mark),
            VirtualServerKey::Address { address, .. } => {
                virtual_addresses.contains(&address.ip())
                    || own.contains(&address.ip()) && NODE_PORTS.contains(&address.port())
            }
        };
        let mut held = BTreeMap::new();
        for state in self.ipvs.servers()? {
            let key = state.key();
            if !is_ours(&key) && !wanted.contains(&key) {
                continue;
            }
            let destinations = self.ipvs.destinations(&key)?.into_iter().map(|state| {
                // One that is none of ours is made so by being changed.
                let weight = if state.is_plain { state.destination.weight } else { u32::MAX };
                (state.destination.address, weight)
            });
            let server = match state {
                VirtualServerState::Plain(server) => Some(server),
                VirtualServerState::Foreign(_) => None,
            };
            let is_udp =
                matches!(key, VirtualServerKey::Address { transport: ipvs::Transport::Udp, .. });
            let destinations = destinations.collect();
            held.insert(key, Held { server, destinations, is_udp, is_wanted: false });
        }
        Ok(held)
    }

    /// Programs a transition, with the companion's part between what comes and what goes.
    fn carry_out(
        &mut self,
        transition: &Transition,
        sources: &[IpAddr],
        companion: impl FnOnce(&mut Nftables) -> Result<usize>,
    ) -> Result<usize> {
        self.apply(&transition.gains, &transition.owners)?;
        let refused = self.link.add(&transition.came, sources)?;
        if !transition.came.is_empty() {
            self.own.note_link(true);
        }
        let blame = |(address, reason): (IpAddr, String)| {
            let reason = format!("virtual address {address}: {reason}");
            transition.address_owners.get(&address).cloned().zip(Some(reason)).ok_or(address)
        };
        let refused: Vec<_> = refused.into_iter().map(blame).collect();
        if !refused.is_empty() {
            let groups: Result<BTreeMap<GroupId, String>, IpAddr> = refused.into_iter().collect();
            return Err(match groups {
                Ok(groups) => Error::Refused(groups.into_iter().collect()),
                Err(address) => failure(format!("virtual address {address} is refused")),
            });
        }
        let of_companion = companion(&mut self.companion)?;
        self.apply(&transition.losses, &BTreeMap::new())?;
        self.leaving.extend(&transition.left);
        // A server that nobody asks for any more refuses what comes: it goes at once if it may.
        self.let_go(Content::unwanted)?;
        Ok(transition.operations() + of_companion)
    }

    /// Has operations carried out. What is refused of a group's is told by it.
    fn apply(
        &mut self,
        operations: &[Operation],
        owners: &BTreeMap<VirtualServerKey, GroupId>,
    ) -> Result<()> {
        if operations.is_empty() {
            return Ok(());
        }
        let refusals = self.ipvs.apply(operations)?;
        let mut groups: BTreeMap<GroupId, String> = BTreeMap::new();
        for refusal in refusals {
            let operation = &operations[refusal.operation];
            match owners.get(&server_of(operation)) {
                Some(group) => {
                    let reason = || refusal.error.to_string();
                    groups.entry(group.clone()).or_insert_with(reason);
                }
                None => return Err(refusal.error.into()),
            }
        }
        self.own.note(operations);
        match groups.is_empty() {
            true => Ok(()),
            false => Err(Error::Refused(groups.into_iter().collect())),
        }
    }

    /// Takes virtual addresses away that no server stands at any more.
    fn release_addresses(&mut self) -> Result<()> {
        let Some(content) = &self.content else { return Ok(()) };
        let free: BTreeSet<IpAddr> =
            self.leaving.iter().copied().filter(|ip| content.is_free(*ip)).collect();
        self.link.remove(&free)?;
        self.leaving.retain(|ip| !free.contains(ip) && !content.has_address(*ip));
        Ok(())
    }

    fn restore_all(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let Some(plan) = whole.node else { return self.update(whole) };
        self.netns.within(settings::set)??;
        let own = self.link.own_addresses()?;
        let around = Surroundings::of(plan, self.scheduler, own.clone());
        let held = self.held(&own, &wanted_keys(whole, &around))?;
        self.own.begin(held.iter().map(|(key, held)| (*key, held.server)));
        let (sources, host) = (around.sources.clone(), around.host.clone());
        let mut content = Content::new(around, held);
        let groups = whole.groups.iter().map(|(id, group)| (id, group.as_ref()));
        let mut transition = content.set_groups(groups);
        content.drain_rest(&mut transition);
        let there = self.link.addresses()?;
        let wanted: BTreeSet<IpAddr> = content.addresses().collect();
        transition.came = wanted.difference(&there).copied().collect();
        transition.left = there.difference(&wanted).copied().collect();
        self.own.note_link(self.link.exists()?);
        self.content = Some(content);
        self.companion.set_role(Role::Accompany(host));
        self.carry_out(&transition, &sources, |companion| companion.restore(whole))
    }

    fn update_some(&mut self, change: &Delta<'_>) -> Result<usize> {
        let Some(content) = &mut self.content else {
            return Err(failure("nothing was programmed yet".to_owned()));
        };
        if let Some(plan) = change.node {
            let own = self.link.own_addresses()?;
            let around = Surroundings::of(plan, self.scheduler, own);
            if around != *content.surroundings() {
                // Every group's servers may be others now.
                let mut groups: BTreeMap<GroupId, Option<Arc<Group>>> =
                    content.groups().map(|(id, group)| (id.clone(), Some(group.clone()))).collect();
                groups.extend(change.groups.iter().cloned());
                let groups = groups.into_iter().collect();
                return self.restore_all(&Delta { node: change.node, groups });
            }
        }
        let groups = change.groups.iter().map(|(id, group)| (id, group.as_ref()));
        let transition = content.set_groups(groups);
        let sources = content.surroundings().sources.clone();
        self.carry_out(&transition, &sources, |companion| companion.update(change))
    }

    /// Takes away what goes and has no connection any more. Answers whether nothing goes any more.
    fn drain(&mut self) -> Result<bool> {
        let own = self.own.clone();
        own.writing(|| self.let_go(Content::draining))?;
        Ok(self.content.as_ref().is_none_or(|content| content.draining().is_empty()))
    }

    /// Takes those destinations of some servers away that go and that no connection needs, and the
    /// servers after their last.
    fn let_go(&mut self, which: impl FnOnce(&Content) -> Vec<VirtualServerKey>) -> Result<()> {
        let Some(content) = &mut self.content else { return Ok(()) };
        let mut losses = Vec::new();
        for key in which(content) {
            let states = self.ipvs.destinations(&key)?;
            let keeps_all = content.keeps_all(&key);
            let connections = |state: &ipvs::DestinationState| match keeps_all {
                true => state.active + state.inactive,
                false => state.active,
            };
            let is_used = |address| {
                let mut of_address = states.iter().filter(|s| s.destination.address == address);
                of_address.any(|state| connections(state) > 0)
            };
            content.finish(key, is_used, &mut losses);
        }
        self.apply(&losses, &BTreeMap::new())?;
        self.release_addresses()
    }

    /// Removes servers, link and settings.
    fn remove(&mut self) -> Result<()> {
        let own = self.link.own_addresses()?;
        let servers: Vec<Operation> =
            self.held(&own, &BTreeSet::new())?.into_keys().map(Operation::DeleteServer).collect();
        self.apply(&servers, &BTreeMap::new())?;
        self.link.delete()?;
        self.own.note_link(false);
        self.content = None;
        self.leaving.clear();
        if self.ipvs.servers()?.is_empty() {
            // Nobody else balances here.
            self.netns.within(settings::unset)??;
        }
        Ok(())
    }
}

impl Backend for Ipvs {
    fn name(&self) -> &'static str {
        "ipvs"
    }

    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize> {
        let own = self.own.clone();
        own.writing(|| self.restore_all(whole))
    }

    fn update(&mut self, change: &Delta<'_>) -> Result<usize> {
        let own = self.own.clone();
        own.writing(|| match self.update_some(change) {
            // Perhaps others have changed something: what is there is read before anybody is blamed.
            Err(refused @ Error::Refused(_)) => Err(failure(refused.to_string())),
            other => other,
        })
    }

    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>> {
        let Some(plan) = whole.node else { return Ok(Vec::new()) };
        let own = self.link.own_addresses()?;
        let mut differences = Vec::new();
        let around = Surroundings::of(plan, self.scheduler, own.clone());
        let held = self.held(&own, &wanted_keys(whole, &around))?;
        let mut content = Content::new(around, held);
        let groups = whole.groups.iter().map(|(id, group)| (id, group.as_ref()));
        let transition = content.set_groups(groups);
        differences.extend(transition.gains.iter().map(|gain| format!("ipvs: missing: {gain}")));
        let there = self.link.addresses()?;
        let missing = content.addresses().filter(|ip| !there.contains(ip));
        differences.extend(missing.map(|ip| format!("link {LINK}: missing: {ip}")));
        let surplus = transition.losses.iter().map(|loss| format!("ipvs: too much: {loss}"));
        differences.extend(surplus);
        differences.extend(self.companion.verify(whole)?);
        Ok(differences)
    }

    fn forget_stale(&mut self, groups: &[Arc<Group>]) -> Result<usize> {
        // IPVS' own entries went with the destinations.
        self.companion.forget_stale(groups)
    }

    fn watcher(&mut self) -> Result<Box<dyn Watcher>> {
        let companion = self.companion.watcher()?;
        let Some(ipvs) = ipvs::Ipvs::open()? else {
            return Err(failure("the kernel has no IPVS".to_owned()));
        };
        Ok(Box::new(ServerWatcher::new(ipvs, self.own.clone(), companion)?))
    }

    fn forget_connections(&mut self) -> Result<usize> {
        self.companion.forget_connections()
    }

    fn cleanup(&mut self) -> Result<()> {
        self.companion.cleanup()?;
        self.remove()
    }

    fn settle(&mut self) -> Result<bool> {
        self.drain()
    }

    fn retire(&mut self) -> Result<bool> {
        self.companion.cleanup()?;
        let own = self.link.own_addresses()?;
        let mut content = match self.content.take() {
            Some(content) => content,
            None => Content::new(
                Surroundings {
                    scheduler: self.scheduler,
                    host: Arc::default(),
                    node_addresses: BTreeSet::new(),
                    sources: Vec::new(),
                },
                self.held(&own, &BTreeSet::new())?,
            ),
        };
        let transition = content.retire();
        self.content = Some(content);
        self.leaving = self.link.addresses()?;
        self.apply(&transition.losses, &BTreeMap::new())?;
        match self.drain()? {
            true => self.remove().map(|()| true),
            false => Ok(false),
        }
    }
}

/// The virtual addresses that this data plane has in the calling thread's network namespace.
pub fn virtual_addresses() -> Result<BTreeSet<IpAddr>> {
    Ok(Link::open()?.addresses()?)
}

/// Whether something of this data plane is in the calling thread's network namespace. Does not ask IPVS,
/// which would load it.
pub fn is_left() -> Result<bool> {
    Ok(Link::open()?.exists()? || Nftables::for_role(Role::Accompany(Arc::default()))?.is_left()?)
}

/// The virtual servers that groups ask for.
fn wanted_keys(whole: &Delta<'_>, around: &Surroundings) -> BTreeSet<VirtualServerKey> {
    let groups = whole.groups.iter().filter_map(|(_, group)| group.as_ref());
    groups.flat_map(|group| render_group(group, around).servers.into_keys()).collect()
}

fn server_of(operation: &Operation) -> VirtualServerKey {
    match operation {
        Operation::AddServer(server) | Operation::ChangeServer(server) => server.key,
        Operation::DeleteServer(key)
        | Operation::AddDestination(key, _)
        | Operation::ChangeDestination(key, _)
        | Operation::DeleteDestination(key, _) => *key,
    }
}

fn failure(what: String) -> Error {
    let busy = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
    Error::Kernel(kernel::Error::os(what, busy))
}
